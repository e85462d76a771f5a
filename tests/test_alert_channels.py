"""Alert channels against real receivers: mail and ntfy through apprise, signed webhooks, the ping, `reviver alerts test`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from supervisor.alerts import apprise_child, channels
from supervisor.alerts.channels import channel
from supervisor.alerts.message import ChannelError, Message
from supervisor.alerts.ping import Ping
from tests.receivers import Receiver, until
from tests.supervised import READY, Supervised, free_port, python

MESSAGE = Message(
    id="host-3-100-hang-0-ab",
    incident=3,
    program="store",
    key="hang",
    step=0,
    severity="critical",
    text="store:7 loops in store.py:41 apply()",
    host="host",
    since="2026-01-01T00:00:00.000Z",
    commands=("reviver explain store",),
    runbook="https://wiki/store",
)
DEADLINE_S = 15.0


class Mailbox:
    """What an SMTP server took."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.got.append(parsed)
        return "250 taken"


def test_mail_arrives_through_apprise_with_the_whole_page() -> None:
    mailbox, port = Mailbox(), free_port()
    server = Controller(mailbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        target = f"mailto://127.0.0.1:{port}?from=reviver@shop.example&to=ops@shop.example&mode=insecure"
        channel(target, print).send(replace(MESSAGE, text=f"{MESSAGE.text} <script>"), DEADLINE_S)
    finally:
        server.stop()
    (mail,) = mailbox.got
    assert mail["Subject"] == "critical: store on host, incident 3"
    assert "ops@shop.example" in mail["To"]
    assert mail["Idempotency-Key"] == MESSAGE.id
    text = mail.get_body(("plain",))
    assert text is not None
    lines = [" ".join(line.split()) for line in text.get_content().splitlines()]
    assert f"{MESSAGE.text} <script>" in lines
    assert {"since: 2026-01-01T00:00:00.000Z", "reviver explain store", "runbook: https://wiki/store"} <= set(lines)
    assert mail.get_body(("html",)) is None


def test_ntfy_takes_it_through_apprise_and_a_refusal_is_a_sentence_without_the_topic(receive: Callable[..., Receiver]) -> None:
    receiver = receive(200, 403)
    target = f"ntfy://127.0.0.1:{receiver.port}/verysecrettopic"
    channel(target, print).send(MESSAGE, DEADLINE_S)
    ((_, _, body),) = receiver.got
    assert MESSAGE.text in str(body["message"])
    with pytest.raises(ChannelError, match="did not take it") as raised:
        channel(target, print).send(MESSAGE, DEADLINE_S)
    assert not raised.value.lasting
    assert "verysecret" not in str(raised.value)


def test_what_apprise_does_not_understand_can_never_work() -> None:
    with pytest.raises(ChannelError, match="is not understood by apprise") as raised:
        channel("pagerduty://T0KENT0KEN", print).send(MESSAGE, DEADLINE_S)
    assert raised.value.lasting
    assert "T0KEN" not in str(raised.value)


def test_a_missing_apprise_is_said_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apprise.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ChannelError, match=r"pip install 'reviver\[notify\]'") as raised:
        channel("slack://a/b/c", print).send(MESSAGE, DEADLINE_S)
    assert raised.value.lasting


def test_pieces_of_the_address_are_taken_out_of_what_apprise_complains() -> None:
    text = "Failed to reach https://hooks.slack.com/T0KEN123/B0T45678:\n no such user hooks"
    assert apprise_child._harmless(text, "slack://T0KEN123/B0T45678/x") == (
        "Failed to reach https://hooks.slack.com/.../...: no such user hooks"
    )


def test_a_webhook_is_signed_over_id_time_and_body(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    receiver, secret = receive(), tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(b"0123456789").decode() + "\n")
    channel(receiver.target, print, str(secret)).send(MESSAGE, DEADLINE_S)
    ((_, headers, _),) = receiver.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + receiver.raw[0]
    digest = base64.b64encode(hmac.new(b"0123456789", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-id"] == headers["Idempotency-Key"] == MESSAGE.id
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("", "is empty"), ("whsec_%%", "no base64")])
def test_without_its_secret_a_webhook_sends_nothing(
    receive: Callable[..., Receiver], tmp_path: Path, content: str | None, why: str
) -> None:
    receiver, secret = receive(), tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    with pytest.raises(ChannelError, match=why):
        channel(receiver.target, print, str(secret)).send(MESSAGE, DEADLINE_S)
    assert receiver.got == []


def test_a_plain_text_secret_is_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("plain\n")
    assert channels._secret(str(tmp_path / "secret")) == b"plain"


def test_the_ping_goes_on_and_says_once_that_it_fails_and_that_it_works_again(receive: Callable[..., Receiver]) -> None:
    receiver, said = receive(200, *[500] * 5), list[str]()

    async def live() -> None:
        ping = Ping(f"http://127.0.0.1:{receiver.port}/token", said.append, every_s=0.01)
        async with asyncio.timeout(DEADLINE_S):
            while len(said) < 2:
                await asyncio.sleep(0.005)
        ping.end()

    asyncio.run(live())
    assert said == [
        "the ping to 127.0.0.1 does not arrive: it answered 500; whoever waits for it will think us dead",
        "the ping to 127.0.0.1 arrives again",
    ]
    assert set(receiver.asked) == {"/token"}


def test_alerts_test_says_of_each_channel_what_came_back_with_a_daemon_and_without(
    receive: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receive()
    config = (
        f'[[escalation]]\nnotify = ["{receiver.target}", "command:/bin/false", "journal:"]\n'
        f'[stakeholders]\nnotify = ["webhook:http://127.0.0.1:1/"]\n[program.idle]\ncommand = {python("import time; time.sleep(60)")}\n'
    )
    supervised = Supervised(tmp_path, config, reviver=f'ping = "http://127.0.0.1:{receiver.port}/alive"')
    alone = supervised.ask("alerts", "test")
    assert alone.returncode == 1
    assert "no daemon runs" in alone.stderr
    with supervised as daemon:
        daemon.until("daemon.started")
        daemon.wait_for(lambda: bool(receiver.asked))  # its ping: it serves
        asked = daemon.ask("alerts", "test", "--json")
    assert asked.returncode == 1
    answer: dict[str, Any] = json.loads(asked.stdout)
    assert answer["by"] == "daemon"
    assert [(each["channel"], each["problem"]) for each in answer["channels"]] == [
        (f"webhook:127.0.0.1:{receiver.port}", ""),
        ("command:/bin/false", "/bin/false failed with exit code 1"),
        ("journal:", ""),
        ("webhook:127.0.0.1:1", "cannot reach 127.0.0.1 port 1: Connection refused"),
    ]
    assert len(receiver.got) == 2
    assert all("Nothing is wrong" in str(text) for text in receiver.texts())
    assert "token=secret" not in alone.stdout + alone.stderr + asked.stdout + asked.stderr + daemon.story()
    until(lambda: receiver.asked == ["/alive"])


CRASHER = f"""{READY}
import sys, time
while True:
    try:
        os.unlink("go")
        sys.exit(3)
    except FileNotFoundError:
        time.sleep(0.002)
"""


def test_a_message_of_a_killed_supervisor_is_sent_once_by_the_next_one(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    """Killed before the receiver answered: the same message comes again, under the same key, and never another time."""
    receiver = receive("hang")
    config = (
        f'[[escalation]]\nnotify = ["{receiver.target}"]\n[program.app]\ncommand = {python(CRASHER)}\ndirectory = "{tmp_path}"\n'
    )
    with Supervised(tmp_path, config, guarded=True) as daemon:
        daemon.until("instance.ready")
        (tmp_path / "go").touch()
        receiver.wait_for(1)
        os.kill(daemon.daemon(), signal.SIGKILL)
        receiver.wait_for(2)
        daemon.wait_for(lambda: _waiting(daemon) == [0])  # noted as delivered
        receiver.ending.set()
    keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.got]
    assert [body["key"] for _, _, body in receiver.got] == ["crash", "crash"]
    assert keys[0] == keys[1]


def _waiting(daemon: Supervised) -> list[int]:
    """Messages that wait for each channel."""
    return [channel["waiting"] for channel in daemon.call("status", names=())["channels"]]
