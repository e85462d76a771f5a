"""The story as it happens: aligned lines on a terminal, JSON lines in a pipe or a file.

Writes to one stream, in a lane of its own, so that a pipe nobody reads never holds up the loop: lines wait, up to a limit; what is
lost is counted and said once the stream flows again. Text that came from a program is escaped: no line can move the cursor or pose
as another line. `Log` may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import structlog

from supervisor.lanes import Lane
from supervisor.model import Note
from supervisor.records.backlog import Backlog

LINES_LIMIT = 10_000  # lines that wait for the reader: about 1 MB, and minutes of the busiest story
SUBJECT_WIDTH = 7  # "store:1"; wider subjects widen the column for the lines that follow
SUBJECT_WIDTH_LIMIT = 24  # beyond it the column would leave no room for the text

RESET = "\x1b[0m"
GREEN, YELLOW, RED = "\x1b[32m", "\x1b[33m", "\x1b[1;31m"
COLOURS = {  # by the note's past verb: what a glance down the screen has to find
    "ready": GREEN,
    "recovered": GREEN,
    "passed": GREEN,
    "trusted": GREEN,
    "closed": GREEN,
    "suspected": YELLOW,
    "leaking": YELLOW,
    "waiting": YELLOW,
    "refused": YELLOW,
    "warned": YELLOW,
    "opened": RED,
    "condemned": RED,
    "killed": RED,
    "failed": RED,
    "lost": RED,
    "undead": RED,
}

_HIDDEN = (
    *range(0x20),  # C0: moves the cursor, ends the line
    *range(0x7F, 0xA0),  # DEL and C1: the same, in one byte
    0x2028,  # line and paragraph separator
    0x2029,
    *range(0x202A, 0x202F),  # bidirectional overrides: text that reads otherwise than it is
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # bytes that were no UTF-8 (surrogateescape); they cannot be encoded
)
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _HIDDEN}


def escaped(text: str) -> str:
    """The text with every control character, line separator and bidirectional override written out, as `\\x1b`."""
    return text.translate(_ESCAPES)


def utc(wall: float) -> str:
    """Wall seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Log:
    """The daemon's own voice on `stream` (a real file: its descriptor is written to directly)."""

    def __init__(self, stream: TextIO, lane: Lane) -> None:
        """lane: for this log alone, as a pipe that nobody reads holds it for as long as it likes."""
        self._fd = stream.fileno()
        self._terminal = stream.isatty()
        self._lane = lane
        self._backlog: Backlog[tuple[float, Note]] = Backlog(lane, self._write, limit=LINES_LIMIT)
        render = _Terminal(coloured=not os.environ.get("NO_COLOR")) if self._terminal else _json
        self._render = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[_escape, render], wrapper_class=structlog.BoundLogger
        ).bind()

    def note(self, wall: float, note: Note) -> None:
        """One line of the story; wall: when it happened."""
        self._backlog.add((wall, note))

    def banner(self, text: str) -> None:
        """The first line: who is speaking. On a terminal without time and subject."""
        self._say("daemon.started", text)

    def warn(self, text: str) -> None:
        """A sentence about Reviver itself: an alert that cannot be delivered, a disk that is full."""
        self._say("daemon.warned", text)

    def _say(self, name: str, text: str) -> None:
        self.note(datetime.now(UTC).timestamp(), Note("reviver", name, text))

    def close(self, deadline_s: float) -> None:
        """Write what waits. Blocks, no longer than that."""
        self._backlog.hurry()
        self._lane.drain(deadline_s)

    def _write(self, lines: list[tuple[float, Note]], lost: int) -> None:
        """In the lane: all that waits, in one write; then what did not fit."""
        _write_all(self._fd, "".join(f"{self._line(wall, note)}\n" for wall, note in lines).encode())
        if lost:
            self.warn(f"{lost} lines of this log were lost: nobody read it")

    def _line(self, wall: float, note: Note) -> str:
        program = note.subject.partition(":")[0]
        line: str = self._render.info(note.name, wall=wall, subject=note.subject, program=program, text=note.text)
        return line


def _escape(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: escaped(value) if isinstance(value, str) else value for key, value in event.items()}


def _json(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode({"time": utc(event.pop("wall")), **event}).decode()


class _Terminal:
    """Renders `10:00:00.67  store:1  ready after 0.6 s`, in local time, with colour for the state alone."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured
        self._width = SUBJECT_WIDTH

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        name, text, subject = event["event"], event["text"], event["subject"]
        if name == "daemon.started":
            return str(text)
        self._width = min(max(self._width, len(subject)), SUBJECT_WIDTH_LIMIT)
        moment = datetime.fromtimestamp(event["wall"]).astimezone()
        return f"{moment:%H:%M:%S}.{moment.microsecond // 10_000:02d}  {subject:<{self._width}}  {self._paint(name, text)}"

    def _paint(self, name: str, text: str) -> str:
        colour = COLOURS.get(name.rpartition(".")[2]) if self._coloured else None
        if colour is None:
            return text
        word, space, rest = text.partition(" ")
        return f"{colour}{word}{RESET}{space}{rest}"


def _write_all(fd: int, data: bytes) -> None:
    """Write it all, waiting as long as it takes; a reader that is gone for good costs nothing."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody who shares the pipe made it non-blocking
            select.select([], [fd], [])
        except OSError as problem:
            if problem.errno != errno.EINTR:
                return
