"""Alerts through real commands and a real web server, with the outbox on a real disk."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from supervisor.alerts import channels, delivery
from supervisor.alerts.channels import Message, UndeliveredError, label, send
from supervisor.alerts.delivery import Delivery
from supervisor.lanes import Lane
from supervisor.model import Severity, Tell
from supervisor.records.journal import Journal

MESSAGE = Message(
    id="host/1/hang/0/100",
    incident=1,
    key="hang",
    severity="warning",
    program="store",
    text="store:1 does not answer",
    host="host",
    began="2026-01-01T00:00:00Z",
    told="2026-01-01T00:00:01Z",
    commands=("reviver explain store",),
)


class Receiver:
    """A web server that answers what it is told to, and remembers what it got."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, Message]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.headers["Idempotency-Key"], Message(**{**json.loads(body), "commands": ()})))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.channel = f"webhook:http://127.0.0.1:{self.server.server_port}/hook?token=secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other without the waits that are meant for a world in trouble."""
    monkeypatch.setattr(delivery, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(delivery, "LONGEST_WAIT_S", 0.001)


class Post:
    """A Delivery with a journal on disk."""

    def __init__(self, folder: Path) -> None:
        self.reports: list[str] = []
        self.journal = Journal(str(folder), Lane("journal"), self.reports.append)
        self.delivery = Delivery(self.journal, self.reports.append)

    def close(self) -> None:
        self.delivery.close(10.0)
        assert self.journal.close(10.0)


def play(folder: Path, work: Callable[[Post], None], until: Callable[[Post], bool]) -> list[str]:
    """Do `work` on the loop of a Delivery, until it is so, and end that life in order."""

    async def main() -> Post:
        post = Post(folder)
        work(post)
        async with asyncio.timeout(20):
            while not until(post):
                await asyncio.sleep(0.005)
        post.close()
        return post

    return asyncio.run(main()).reports


def tell(*to: str, key: str = "hang", step: int = 0) -> Tell:
    return Tell(1, "store", key, Severity.WARNING, "store:1 does not answer", to, step)


def test_a_command_gets_the_message_on_its_input_and_in_its_environment(tmp_path: Path) -> None:
    script = tmp_path / "page"
    script.write_text(f'#!/bin/sh\ncat > {tmp_path}/body\necho "$1 $REVIVER_KEY $REVIVER_SEVERITY" > {tmp_path}/fields\n')
    script.chmod(0o755)
    send(f"command:{script} 'an argument'", MESSAGE)
    assert json.loads((tmp_path / "body").read_text())["text"] == MESSAGE.text
    assert (tmp_path / "fields").read_text().strip() == "an argument hang warning"


def test_a_command_that_fails_says_why_and_one_that_is_missing_too() -> None:
    with pytest.raises(UndeliveredError, match="status 3: no modem") as failed:
        send("command:sh -c 'echo no modem; exit 3'", MESSAGE)
    assert failed.value.again
    with pytest.raises(UndeliveredError, match="cannot be started"):
        send("command:/no/such/pager", MESSAGE)


def test_a_command_that_hangs_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "COMMAND_S", 0.1)
    with pytest.raises(UndeliveredError, match="was killed"):
        send("command:sh -c 'sleep 1000 & sleep 1000'", MESSAGE)


def test_a_webhook_is_delivered_with_a_key_and_a_failing_one_is_tried_again_with_the_same(
    tmp_path: Path, receiver: Receiver, at_once: None
) -> None:
    receiver.answers = [500, 503, 200]
    play(
        tmp_path,
        lambda post: post.delivery.tell(tell(receiver.channel), 100.0, "https://wiki/run"),
        lambda _: len(receiver.got) == 3,
    )
    assert len({key for key, _ in receiver.got}) == 1
    assert receiver.got[0][1].runbook == "https://wiki/run"
    assert Post(tmp_path).journal.undelivered() == ()


def test_a_refusal_for_good_is_not_tried_again_and_is_said_without_the_secret(
    tmp_path: Path, receiver: Receiver, at_once: None
) -> None:
    receiver.answers = [403]
    reports = play(tmp_path, lambda post: post.delivery.tell(tell(receiver.channel), 100.0, ""), lambda post: bool(post.reports))
    assert len(receiver.got) == 1
    assert "answered 403" in reports[0]
    assert "secret" not in reports[0]


def test_one_fact_is_one_message_for_a_channel_also_in_the_next_life(tmp_path: Path, receiver: Receiver) -> None:
    def twice(post: Post) -> None:
        post.delivery.tell(tell(receiver.channel, receiver.channel), 100.0, "")
        post.delivery.tell(tell(receiver.channel), 101.0, "")
        post.delivery.tell(tell(receiver.channel, key="crash"), 101.0, "")

    play(tmp_path, twice, lambda _: len(receiver.got) >= 2)

    def again(post: Post) -> None:
        post.delivery.resume()
        twice(post)
        post.delivery.tell(tell(receiver.channel, key="over"), 102.0, "")

    play(tmp_path, again, lambda _: len(receiver.got) >= 3)
    assert [message.key for _, message in receiver.got] == ["hang", "crash", "over"]


def test_what_was_not_delivered_in_one_life_is_in_the_next(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.answers = [500] * 3
    monkeypatch.setattr(delivery, "FIRST_WAIT_S", 60.0)
    play(tmp_path, lambda post: post.delivery.tell(tell(receiver.channel), 100.0, ""), lambda _: len(receiver.got) == 1)
    receiver.answers = []
    play(tmp_path, lambda post: post.delivery.resume(), lambda _: len(receiver.got) == 2)
    assert Post(tmp_path).journal.undelivered() == ()


def test_a_slow_channel_delays_no_other(tmp_path: Path, receiver: Receiver) -> None:
    gate = tmp_path / "gate"
    slow = f"command:sh -c 'while ! [ -e {gate} ]; do sleep 0.01; done'"

    def work(post: Post) -> None:
        post.delivery.tell(tell(slow, receiver.channel), 100.0, "")

    def done(_: Post) -> bool:
        if receiver.got:
            gate.touch()
        return bool(receiver.got)

    assert play(tmp_path, work, done) == []


def test_a_label_names_the_channel_without_its_secrets() -> None:
    assert label("webhook:https://user:pw@hooks.example/T0/SECRET?x=1") == "webhook:https://hooks.example/..."
    assert label("command:/usr/local/bin/page") == "command:/usr/local/bin/page"
