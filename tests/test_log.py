"""The log: readable lines on a terminal, JSON in a pipe, and a reader that never holds anybody up."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import pytest

from supervisor.lanes import Lane
from supervisor.model import Note
from supervisor.records.log import Log, escaped

DEADLINE_S = 15.0
WALL = 1_767_225_600.678


class Reader:
    """The other end of a stream."""

    def __init__(self, reader: int, writer: int) -> None:
        self.fd = reader
        self.stream: TextIO = os.fdopen(writer, "w")
        self.lane = Lane("log")
        self.log = Log(self.stream, self.lane)

    def read(self) -> str:
        """All that was logged."""
        done: list[bytes] = []

        def take() -> None:
            try:
                while piece := os.read(self.fd, 65536):
                    done.append(piece)
            except OSError:  # a terminal says so at its end
                return

        thread = threading.Thread(target=take)
        thread.start()
        assert self.lane.drain(DEADLINE_S)
        self.stream.close()
        thread.join(DEADLINE_S)
        return b"".join(done).decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]


@pytest.fixture
def opened() -> Iterator[list[Reader]]:
    made: list[Reader] = []
    yield made
    for reader in made:
        os.close(reader.fd)


@pytest.fixture
def piped(opened: list[Reader]) -> Reader:
    opened.append(Reader(*os.pipe()))
    return opened[-1]


@pytest.fixture
def terminal(opened: list[Reader], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Reader]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()

    def make() -> Reader:
        opened.append(Reader(*pty.openpty()))
        return opened[-1]

    return make


@pytest.fixture(autouse=True)
def _zone() -> Iterator[None]:
    yield
    time.tzset()


def test_a_pipe_gets_one_json_object_a_line(piped: Reader) -> None:
    piped.log.banner("reviver 0.1.0 · config.toml")
    piped.log.note(WALL, Note("store:1", "instance.ready", "ready after 0.6 s"))
    piped.log.note(WALL, Note("store", "program.down", "stopped"))
    piped.log.warn("the disk is full")
    banner, ready, down, warned = piped.lines()
    assert (banner["event"], banner["text"]) == ("daemon.started", "reviver 0.1.0 · config.toml")
    assert ready == {
        "time": "2026-01-01T00:00:00.678Z",
        "event": "instance.ready",
        "subject": "store:1",
        "program": "store",
        "text": "ready after 0.6 s",
    }
    assert (down["subject"], down["program"]) == ("store", "store")
    assert (warned["event"], warned["text"]) == ("daemon.warned", "the disk is full")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", warned["time"])


def test_a_terminal_gets_aligned_lines_in_local_time_with_colour_for_the_state(terminal: Callable[[], Reader]) -> None:
    shown = terminal()
    shown.log.banner("reviver 0.1.0 · config.toml")
    shown.log.note(WALL, Note("store", "instance.started", "store:1 started, pid 4242"))
    shown.log.note(WALL, Note("store:1", "instance.suspected", "suspect: no answer for 1.0 s"))
    shown.log.note(WALL, Note("a-long-name:1", "instance.ready", "ready after 0.6 s"))
    shown.log.note(WALL, Note("store", "program.down", "stopped"))
    assert shown.read().splitlines() == [
        "reviver 0.1.0 · config.toml",
        "01:00:00.67  store    store:1 started, pid 4242",
        "01:00:00.67  store:1  \x1b[33msuspect:\x1b[0m no answer for 1.0 s",
        "01:00:00.67  a-long-name:1  \x1b[32mready\x1b[0m after 0.6 s",
        "01:00:00.67  store          stopped",
    ]


def test_a_terminal_has_no_colour_where_nobody_wants_it(terminal: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = terminal()
    shown.log.note(WALL, Note("store:1", "instance.ready", "ready after 0.6 s"))
    assert "\x1b" not in shown.read()


HOSTILE = "\x1b[2J\r\n10:00:00  store  all is well\x00\x9b\u2028\u202e\udc80 é"
HARMLESS = "\\x1b[2J\\x0d\\x0a10:00:00  store  all is well\\x00\\x9b\\u2028\\u202e\\udc80 é"


def test_text_of_a_program_cannot_pose_as_another_line_or_move_the_cursor(terminal: Callable[[], Reader], piped: Reader) -> None:
    assert escaped(HOSTILE) == HARMLESS
    shown = terminal()
    for reader in (shown, piped):
        reader.log.note(WALL, Note("store:1", "instance.ended", HOSTILE))
    assert shown.read().splitlines() == [f"01:00:00.67  store:1  {HARMLESS}"]
    assert piped.lines()[0]["text"] == HARMLESS


def test_a_reader_who_does_not_read_loses_lines_and_is_told_how_many(piped: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piped.log._backlog, "_limit", 100)
    for _ in range(40):
        piped.log.note(WALL, Note("store", "a.b", "x" * 4000))
    deadline = time.monotonic() + DEADLINE_S
    while select.select([], [piped.stream], [], 0)[1]:  # until the pipe is full, and the lane stands
        assert time.monotonic() < deadline
        time.sleep(0.002)
    sent = 40
    while len(piped.log._backlog._waiting) < 100:
        piped.log.note(WALL, Note("store", "a.b", str(sent)))
        sent += 1
    for _ in range(50):
        piped.log.note(WALL, Note("store", "a.b", "lost"))
    lines = piped.lines()
    assert "50 lines of this log were lost" in lines[sent]["text"]
    assert len(lines) == sent + 1
    assert "lost" not in [line["text"] for line in lines]


def test_a_reader_who_is_gone_costs_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    lane = Lane("log")
    with open(writer, "w") as stream:
        log = Log(stream, lane)
        for _ in range(1000):
            log.note(WALL, Note("store", "a.b", "x" * 100))
        assert lane.drain(DEADLINE_S)


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(piped: Reader) -> None:
    os.set_blocking(piped.stream.fileno(), False)
    for number in range(500):
        piped.log.note(WALL, Note("store", "a.b", f"{number} {'x' * 1000}"))
    assert len(piped.lines()) == 500
