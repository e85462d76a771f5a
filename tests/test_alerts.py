"""Alerts: real commands, a real HTTP server, a real journal; one message for one fact, whatever fails in between."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from supervisor.alerts import delivery as delivery_module
from supervisor.alerts.channels import channel, named
from supervisor.alerts.delivery import Clock, Delivery, Pace
from supervisor.alerts.message import ChannelError, Message, page, storm, title
from supervisor.alerts.reasons import Reasons
from supervisor.config import option
from supervisor.lanes import Lane
from supervisor.model import InstanceId, Severity, Tell, Voice
from supervisor.policy.customers import PUBLIC_STEP
from supervisor.records import journal as journal_module
from supervisor.records.journal import Journal
from supervisor.records.log import utc
from tests.disk import alone_on_small_disk, fill
from tests.receivers import DEADLINE_S, Receiver, until
from tests.supervised import Supervised

BEGAN = time.time()
ROOT = Path(__file__).parent.parent
PACE = Pace(deadline_s=5.0, first_s=0.01, limit_s=0.02)
MESSAGE = Message(
    id="host-3-100-hang-0-ab",
    incident=3,
    program="store",
    key="hang",
    step=0,
    severity="critical",
    text="store:7 loops in store.py:41 \\x1b[2J",
    host="host",
    since="2026-01-01T00:00:00.000Z",
    commands=("reviver explain store", "reviver status", "reviver logs store"),
    runbook="https://wiki/store",
)


def send(target: str, deadline_s: float = DEADLINE_S) -> list[str]:
    """What the channel logged."""
    logged: list[str] = []
    channel(target, logged.append).send(MESSAGE, deadline_s)
    return logged


# channels


def test_webhook_posts_the_message_once_with_its_id(receive: Callable[..., Receiver]) -> None:
    receiver = receive()
    send(receiver.target)
    ((path, headers, body),) = receiver.got
    assert path == "/hook?token=secret"
    assert headers["Idempotency-Key"] == MESSAGE.id
    assert headers["Content-Type"] == "application/json"
    assert body["text"] == MESSAGE.text
    assert body["commands"] == list(MESSAGE.commands)


@pytest.mark.parametrize(("answer", "said"), [(500, "answered 500"), (302, "redirects are not followed"), (404, "answered 404")])
def test_webhook_takes_only_2xx_for_delivered(receive: Callable[..., Receiver], answer: int, said: str) -> None:
    receiver = receive(answer)
    with pytest.raises(ChannelError, match=said) as raised:
        send(receiver.target)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_webhook_that_does_not_answer_is_left_at_the_deadline(receive: Callable[..., Receiver], answer: str) -> None:
    with pytest.raises(ChannelError, match=r"did not answer within 0\.2 s"):
        send(receive(answer).target, 0.2)


def test_webhook_that_refuses_or_closes_or_speaks_something_else_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for answer, said in ((b"", "without an answer"), (b"220 mail.example ESMTP\r\n\r\n", "does not speak HTTP")):

            def serve(answer: bytes = answer) -> None:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(ChannelError, match=said):
                send(f"webhook:http://127.0.0.1:{port}/")
            thread.join()
    with pytest.raises(ChannelError, match="Connection refused"):
        send(f"webhook:http://127.0.0.1:{port}/")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_webhook_over_https_refuses_a_certificate_that_nobody_vouches_for(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    names = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-subj", "/CN=127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    receiver = receive()
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    with pytest.raises(ChannelError, match="certificate"):
        send(receiver.target.replace("http:", "https:"))
    assert receiver.got == []


def test_command_gets_the_message_on_stdin_and_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/ours")
    script = "import sys, os; open(sys.argv[1], 'w').write(sys.stdin.read() + '\\n' + repr(dict(os.environ)))"
    send(f'command:{sys.executable} -c "{script}" "{tmp_path}/a file"')
    text, environ = (tmp_path / "a file").read_text().split("\n")
    assert json.loads(text)["text"] == MESSAGE.text
    for piece in ("'REVIVER_SEVERITY': 'critical'", "'REVIVER_PROGRAM': 'store'", "'REVIVER_INCIDENT': '3'", "'REVIVER_RUNBOOK'"):
        assert piece in environ
    assert "NOTIFY_SOCKET" not in environ


def test_command_that_reads_nothing_and_says_much_is_delivered() -> None:
    send(f"command:{sys.executable} -c \"import sys; sys.stderr.write('x' * 1000000); sys.stdout.write('x' * 1000000)\"")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/bin/sh -c 'echo first >&2; echo no credit >&2; exit 3'", "/bin/sh failed with exit code 3: no credit"),
        ("/bin/sh -c 'kill -9 $$'", "was killed by SIGKILL"),
        ("/no/such/command", "cannot run /no/such/command: No such file"),
    ],
)
def test_command_that_fails_is_a_sentence(line: str, said: str) -> None:
    with pytest.raises(ChannelError, match=said):
        send(f"command:{line}")


def test_command_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(ChannelError, match="did not end within 1 s and was killed"):
        send(f"command:/bin/sh -c 'sleep 60 & echo $! $$ > {pids}; exec 2>&-; wait'", 1.0)
    child, leader = map(int, pids.read_text().split())
    assert not Path(f"/proc/{leader}").exists()
    until(lambda: not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")


def test_journal_is_a_line_of_the_log() -> None:
    assert send("journal:") == [f"incident 3, critical: {MESSAGE.text}"]


@pytest.mark.parametrize(
    "target",
    [
        "mailtoo://a@b",
        "command:",
        "command:'x",
        "webhook:ftp://host/",
        "webhook:https://",
        "webhook:http://h:x/",
        "webhook:http://h/ü",
        "",
    ],
)
def test_a_channel_that_can_never_work_says_so_at_once(target: str) -> None:
    with pytest.raises(ChannelError) as raised:
        channel(target, print)
    assert raised.value.lasting


def test_named_never_repeats_a_secret() -> None:
    assert named("webhook:https://user:pass@host.example/hook/T0KEN?key=T0KEN") == "webhook:host.example"
    assert named("webhook:http://user:pass@127.0.0.1:8081/hook") == "webhook:127.0.0.1:8081"
    assert named("command:/bin/page --key T0KEN") == "command:/bin/page"
    assert named("slack://T0KEN") == "slack:"


# delivery


class VirtualClock(Clock):
    """Its hours pass at once: waiting is all that takes time."""

    def __init__(self) -> None:
        self.passed = 0.0

    def mono(self) -> float:
        return self.passed

    def wall(self) -> float:
        return BEGAN + self.passed

    def wait(self, event: threading.Event, seconds: float) -> None:
        self.passed += seconds


class DownUntil:
    """A channel in virtual time: nothing gets through before `up_s`."""

    def __init__(self, clock: VirtualClock, up_s: float) -> None:
        self.clock = clock
        self.up_s = up_s
        self.tries = 0
        self.got: list[Message] = []

    def send(self, message: Message, deadline_s: float) -> None:
        self.tries += 1
        if self.clock.passed < self.up_s:
            raise ChannelError("cannot reach it")
        self.got.append(message)


class Room:
    """A state directory with a life of the supervisor: its journal and its delivery."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = str(state_dir)
        self.remarks: list[str] = []
        self.life: tuple[Journal, Delivery] | None = None

    def live(self, pace: Pace = PACE, clock: Clock | None = None) -> Delivery:
        journal = Journal(self.state_dir, Lane("journal"), self.remarks.append)
        self.life = (journal, Delivery(journal, self.remarks.append, pace, clock))
        return self.life[1]

    def close(self) -> None:
        if self.life is not None:
            journal, delivery = self.life
            assert delivery.close(DEADLINE_S)
            assert journal.close(DEADLINE_S)
            self.life = None

    def waiting(self) -> list[str]:
        """Channels of what an outbox keeps for the next life."""
        journal = Journal(self.state_dir, Lane("journal"), self.remarks.append)
        assert journal.close(DEADLINE_S)
        return [letter.channel for letter in journal.undelivered()]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    threads = set(threading.enumerate())
    made = Room(tmp_path)
    yield made
    made.close()
    until(lambda: set(threading.enumerate()) <= threads)


def tell(*channels: str, key: str = "hang", text: str = "store:7 hangs", step: int = 0) -> Tell:
    return Tell(3, "store", key, Severity.WARNING, text, channels, step)


def test_a_message_says_all_that_people_need(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive()
    delivery = room.live()
    began = time.time()
    hangs = replace(tell(receiver.target, text="store:7 hangs \x1b[2J"), affected="those in store:7")
    delivery.tell(hangs, began, "https://wiki/store")
    delivery.tell(tell(receiver.target, key="crash-loop"), began + 60.0)
    until(lambda: len(receiver.got) == 2)
    first, second = (body for _, _, body in receiver.got)
    assert first == {
        "id": first["id"],
        "incident": 3,
        "program": "store",
        "key": "hang",
        "step": 0,
        "severity": "warning",
        "text": "store:7 hangs \\x1b[2J",
        "host": socket.gethostname(),
        "since": utc(began),
        "commands": ["reviver ack 3", "reviver incident 3", "reviver explain store"],
        "runbook": "https://wiki/store",
        "voice": "Reviver is healing it",
        "affected": "those in store:7",
        "done": "",
        "comes": "",
        "parts": [],
    }
    assert second["since"] == first["since"]
    assert second["id"] != first["id"]


def test_the_public_reads_plain_words_alone(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive()
    public = replace(tell(receiver.target, text="store is not available."), voice=Voice.PUBLIC)
    room.live().tell(public, time.time(), "https://wiki/store")
    receiver.wait_for(1)
    message = msgspec.json.decode(receiver.raw[0], type=Message)
    assert (title(message), page(message)) == ("store", "store is not available.")
    assert (message.commands, message.runbook) == ((), "")


def test_a_page_fits_a_screen_and_ends_with_what_to_paste() -> None:
    whole = replace(MESSAGE, voice="needs you", affected="all customers", done="store:8 was started", comes="store:7 is killed")
    lines = page(whole).splitlines()
    assert title(whole) == "needs you: store on host, incident 3"
    assert len(lines) <= 24
    assert lines[-3:] == [f"  {command}" for command in MESSAGE.commands]
    assert {"affected: all customers", "done:     store:8 was started", "next:     store:7 is killed"} <= set(lines)
    assert "runbook:  https://wiki/store" in lines


def test_one_fact_is_one_message_for_a_channel_also_in_a_later_life(room: Room, receive: Callable[..., Receiver]) -> None:
    one, two = receive(), receive()
    delivery = room.live()
    for _ in range(3):
        delivery.tell(tell(one.target, one.target), time.time())
    until(lambda: bool(one.got))
    room.close()
    delivery = room.live()
    delivery.resume()
    delivery.tell(tell(one.target, two.target), time.time())
    delivery.tell(tell(one.target, step=1), time.time())
    until(lambda: len(one.got) == 2)
    room.close()
    assert [body["step"] for _, _, body in one.got] == [0, 1]
    assert room.waiting() == []


def test_a_channel_that_fails_is_tried_again_until_it_takes_the_message_and_keeps_the_order(
    room: Room, receive: Callable[..., Receiver]
) -> None:
    receiver = receive(500, "hang", 503)
    delivery = room.live(Pace(deadline_s=0.2, first_s=0.01, limit_s=0.02))
    for number in range(5):
        delivery.tell(tell(receiver.target, key=str(number), text=str(number)), time.time())
    until(lambda: len(receiver.got) == 8)
    room.close()
    assert receiver.texts() == ["0", "0", "0", "0", "1", "2", "3", "4"]
    assert len({headers["Idempotency-Key"] for _, headers, _ in receiver.got}) == 5
    assert room.waiting() == []
    assert room.remarks == []


def test_a_channel_that_fails_for_good_is_said_once_and_when_it_works_again(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(*[400] * 6)
    delivery = room.live(Pace(deadline_s=5.0, first_s=0.01, limit_s=0.02, refused_s=0.0, failing_s=0.0))
    for number in range(8):
        delivery.tell(tell(receiver.target, key=str(number), text=str(number)), time.time())
    until(lambda: len(receiver.got) == 8)
    room.close()
    assert room.remarks == [
        f"alerts through webhook:127.0.0.1:{receiver.port} do not arrive: 127.0.0.1 answered 400",
        f"alerts through webhook:127.0.0.1:{receiver.port} arrive again",
    ]
    assert room.waiting() == []


def test_a_channel_that_is_down_for_an_hour_gets_all_in_order_and_grouped(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried all of a virtual hour, while thirty messages come."""
    clock = VirtualClock()
    down = DownUntil(clock, 3600.0)
    monkeypatch.setattr(delivery_module, "channel", lambda *_: down)
    delivery, begins = room.live(Pace(), clock), threading.Event()
    delivery._box("command:/a").lane.put(begins.wait)  # nothing is tried before all have come
    for number in range(30):
        delivery.tell(tell("command:/a", key=str(number), text=f"fact {number}"), BEGAN + number)
    begins.set()
    until(lambda: len(down.got) > 1)
    room.close()
    first, rest = down.got
    assert 3600.0 <= clock.passed < 3600.0 + 62.0
    assert 60 <= down.tries < 120
    assert first.text == "fact 0"
    assert rest.text.startswith("29 messages that could not be sent before:\n\n")
    assert rest.commands == first.commands  # of the one incident that all of them are about
    places = [rest.text.index(f" fact {number}\n") for number in range(1, 29)] + [rest.text.index(" fact 29")]
    assert places == sorted(places)
    assert len({message.id for message in rest.parts}) == 29
    assert room.waiting() == []
    assert [remark.partition(" command")[0] for remark in room.remarks] == ["alerts through", "alerts through"]


def test_a_group_keeps_its_id_when_we_die_before_it_is_noted(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(*[500] * 3)
    slow = Pace(deadline_s=5.0, first_s=60.0, limit_s=60.0)
    told_wall = time.time() - 120.0
    for life in range(3):  # each dies with the first try, and leaves more behind
        delivery = room.live(slow)
        delivery.resume()
        for number in range(3):
            key = f"fact {life}.{number}"  # no time reads like this
            delivery.tell(tell(receiver.target, key=key, text=key), told_wall)
        receiver.wait_for(life + 1)
        room.close()
    room.live().resume()
    until(lambda: room_is_empty(room))
    room.close()
    said = [body for _, _, body in receiver.got if "messages that" in str(body["text"])]
    assert len({str(body["id"]) for body in said}) < len(said)  # one that was tried before came again under the same id
    taken = "".join(map(str, receiver.taken))
    for life in range(3):
        for number in range(3):
            assert taken.count(f"fact {life}.{number}") == 1
    assert room.waiting() == []


def room_is_empty(room: Room) -> bool:
    assert room.life is not None
    return not any(state.waiting for state in room.life[1].states())


def test_a_channel_that_fails_for_long_is_told_through_the_others_and_when_it_is_back(
    room: Room, receive: Callable[..., Receiver]
) -> None:
    dead, well, public = receive(*[500] * 3), receive(), receive()
    delivery = room.live(Pace(deadline_s=5.0, first_s=0.01, limit_s=0.02, failing_s=0.0))
    delivery.use([dead.target, well.target, "journal:"], [public.target])
    delivery.tell(tell(dead.target), time.time())
    well.wait_for(2)
    until(lambda: room_is_empty(room))
    states = {state.name: state for state in delivery.states()}
    room.close()
    first, second = (body for _, _, body in well.got)
    assert first["text"] == f"alerts through webhook:127.0.0.1:{dead.port} do not arrive: 127.0.0.1 answered 500"
    assert first["severity"] == "critical"
    assert str(second["text"]).startswith(f"alerts through webhook:127.0.0.1:{dead.port} arrive again")
    assert public.got == []
    assert [text for text in dead.texts() if "do not arrive" in str(text)] == []
    assert all(state.failing_wall is None for state in states.values())
    assert "journal:" in states


def test_states_say_what_waits_and_why(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(500)
    delivery = room.live(Pace(deadline_s=5.0, first_s=60.0, limit_s=60.0))
    for number in range(3):
        delivery.tell(tell(receiver.target, key=str(number)), time.time())
    until(lambda: delivery.states()[0].failing_wall is not None)
    (state,) = delivery.states()
    assert (state.name, state.waiting, state.problem) == (f"webhook:127.0.0.1:{receiver.port}", 3, "127.0.0.1 answered 500")


def test_a_message_that_the_other_side_does_not_want_holds_up_no_other(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(413)
    delivery = room.live(Pace(deadline_s=5.0, first_s=0.01, limit_s=0.02, refused_s=0.0))
    for number in range(2):
        delivery.tell(tell(receiver.target, key=str(number), text=str(number)), time.time())
    until(lambda: receiver.taken == ["1"])
    room.close()
    assert room.waiting() == []


def test_a_rehearsal_goes_to_those_on_call_and_is_remembered(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver, public = receive(), receive()
    delivery = room.live()
    delivery.use([receiver.target], [public.target])
    wall = time.time()
    delivery.rehearse(wall)
    receiver.wait_for(1)
    room.close()
    assert "rehearsal" in str(receiver.texts()[0])
    assert public.got == []
    room.live()
    assert room.life is not None
    assert room.life[0].rehearsed_wall() == wall


def test_a_slow_channel_delays_no_other(room: Room, receive: Callable[..., Receiver]) -> None:
    slow, quick = receive("hang"), receive()
    delivery = room.live()
    for number in range(5):
        delivery.tell(tell(slow.target, quick.target, "journal:", key=str(number), text=str(number)), time.time())
    until(lambda: len(quick.got) == 5)
    until(lambda: len(room.remarks) == 5)
    assert len(slow.got) <= 1
    slow.ending.set()


def test_more_channels_than_lanes_are_all_told(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "LANES_LIMIT", 2)
    delivery = room.live()
    delivery.tell(tell(*(f"command:/usr/bin/touch {tmp_path}/told{number}" for number in range(5))), time.time())
    until(lambda: len(list(tmp_path.glob("told*"))) == 5)


def test_what_waited_at_the_end_is_sent_by_the_next_life_in_order(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(500)
    delivery = room.live(Pace(deadline_s=5.0, first_s=60.0, limit_s=60.0))
    for number in range(3):
        delivery.tell(tell(receiver.target, key=str(number), text=str(number)), time.time())
    until(lambda: len(receiver.got) == 1)
    room.close()
    assert room.waiting() == [receiver.target] * 3
    room.live().resume()
    until(lambda: len(receiver.got) == 4)
    room.close()
    assert receiver.texts() == ["0", "0", "1", "2"]
    assert room.waiting() == []
    assert room.remarks == []


def test_what_is_too_old_is_no_news(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(*[500] * 1000)
    delivery = room.live()
    delivery.tell(tell(receiver.target), time.time() - 2 * delivery_module.STALE_S)
    until(lambda: bool(receiver.got))
    room.close()
    receiver.got.clear()
    room.live().resume()
    room.close()
    assert "too old to be news" in room.remarks[0]
    assert receiver.got == []
    assert room.waiting() == []


# why one ended


def test_a_message_about_an_end_waits_for_its_reason_and_the_order_stays() -> None:
    sent: list[str] = []
    reasons = Reasons(lambda tell, wall: sent.append(f"{tell.text} at {wall:g}"))
    one, two = InstanceId("store", 1), InstanceId("store", 2)
    ends = tell(text="store:1 ended by itself: exit code 3; it had been ready")
    reasons.tell(tell(text="before"), 1.0, None)
    reasons.sought(one)
    reasons.tell(ends, 2.0, one)
    reasons.tell(tell(text="of another end: exit code 3"), 3.0, two)
    reasons.tell(replace(tell(text="of another program"), program="web"), 4.0, None)
    assert sent == ["before at 1", "of another program at 4"]
    reasons.sought(two)
    reasons.found(one, "exit code 3", "KeyError: 'price' in app.py:3 main()")
    reasons.found(one, "exit code 3", "")  # too late, and it says no more
    assert len(sent) == 2
    reasons.found(two, "exit code 3", "")
    assert sent[2:] == [
        "store:1 ended by itself: exit code 3 (KeyError: 'price' in app.py:3 main()); it had been ready at 2",
        "of another end: exit code 3 at 3",
    ]
    reasons.tell(tell(text="after"), 5.0, None)
    reasons.found(two, "exit code 3", "")
    assert sent[4:] == ["after at 5"]


# storms: messages of several incidents within moments


PROGRAMS = ("cart", "mail", "pay", "search", "shop")


def trouble(*channels: str, incident: int, key: str = "hang", voice: Voice = Voice.NEEDS_YOU) -> Tell:
    """Of the program whose number the incident has; each waits for the same peer."""
    program = PROGRAMS[incident]
    text = f"{program}:1 waits for 10.0.0.5:5432"
    return Tell(
        incident, program, key, Severity.CRITICAL, text, channels, 0, voice, f"all customers: none is ready, for {incident} s now"
    )


class Weather:
    """Delivery in virtual time to one channel that always takes what it is given: when, and what."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VirtualClock()
        self.room = room
        self.got: list[tuple[float, Message]] = []
        monkeypatch.setattr(delivery_module, "channel", lambda *_: self)
        self.delivery = room.live(Pace(), self.clock)
        self.delivery.use((), option=option("/srv/a b.toml"))

    def send(self, message: Message, deadline_s: float) -> None:
        self.got.append((self.clock.passed, message))

    def at_once(self, *tells: Tell) -> list[tuple[float, Message]]:
        """What came, and when, of these, told in one moment; then all is sent."""
        begins, before = threading.Event(), len(self.got)
        self.delivery._box("command:/a").lane.put(begins.wait)
        for each in tells:
            self.delivery.tell(each, self.clock.wall())
        begins.set()
        until(lambda: room_is_empty(self.room))
        return self.got[before:]


def test_a_storm_of_incidents_is_one_message_that_names_them_all_behind_the_first(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = Weather(room, monkeypatch)
    told = [trouble("command:/a", incident=number) for number in range(1, 5)]
    (at, first), (later, rest) = weather.at_once(*told, trouble("command:/a", incident=1, key="crash-loop"))
    room.close()
    assert (at, later) == (0.0, Pace().gather_s)
    assert (first.incident, first.parts) == (1, ())
    assert rest.text.splitlines()[0] == (
        "4 messages at once, about pay, search, shop and mail; look for what they share: the host, a database, a deploy:"
    )
    assert [f"{program}:1 waits for" in rest.text for program in PROGRAMS] == [False, True, True, True, True]
    assert rest.incidents == [2, 3, 4, 1]
    assert {message.id for message in rest.parts}.isdisjoint({first.id, rest.id})
    assert [message.text for message in rest.parts] == [each.text for each in (*told[1:], told[0])]
    assert rest.commands == tuple(f"reviver {verb} --config '/srv/a b.toml'" for verb in ("ack 2 3 4 1", "incidents", "status"))
    assert first.commands[0] == "reviver ack 1 --config '/srv/a b.toml'"
    assert rest.affected == "pay, search, shop and mail: all customers: none is ready"
    assert title(rest) == f"needs you: pay, search, shop and mail on {rest.host}, incidents 2, 3, 4 and 1"
    assert len(page(rest).splitlines()) <= 24
    assert room.waiting() == []


def test_what_is_told_of_one_incident_alone_waits_for_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather(room, monkeypatch)
    came = weather.at_once(*(trouble("command:/a", incident=1, key=str(number)) for number in range(5)))
    assert [(at, message.key) for at, message in came] == [(0.0, str(number)) for number in range(5)]
    assert [at for at, _ in weather.at_once(trouble("command:/a", incident=1, key="more"))] == [0.0]


def test_a_storm_that_goes_on_is_a_message_each_few_seconds_and_a_later_one_goes_at_once(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = Weather(room, monkeypatch)
    for round in range(3):
        weather.at_once(*(trouble("command:/a", incident=number, key=str(round)) for number in range(1, 5)))
    assert [at for at, _ in weather.got] == [0.0, 3.0, 6.0, 9.0]
    weather.clock.passed += 3.1
    ((at, message),) = weather.at_once(trouble("command:/a", incident=4, key="last"))
    assert (at, message.key) == (12.1, "last")


def test_no_trouble_waits_because_another_is_over(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather(room, monkeypatch)
    ends = [trouble("command:/a", incident=number, key="over", voice=Voice.OVER) for number in range(1, 5)]
    (at, _), (later, rest) = weather.at_once(*ends)
    ((now, hang),) = weather.at_once(trouble("command:/a", incident=1))
    assert (at, later, now, hang.key) == (0.0, 3.0, 3.0, "hang")
    assert [command.split()[1] for command in rest.commands] == ["incidents", "status"]
    assert rest.text.splitlines()[0] == "3 messages at once, about pay, search and shop:"
    assert rest.voice == Voice.OVER


def test_what_is_for_stakeholders_is_no_part_of_what_is_for_those_on_call(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather(room, monkeypatch)
    tells = []
    for number in range(1, 5):
        public = replace(trouble("command:/a", incident=number, key="public"), voice=Voice.PUBLIC, step=PUBLIC_STEP)
        tells.append(replace(public, text=f"{PROGRAMS[number]} is not available."))
    came = [message for _, message in weather.at_once(trouble("command:/a", incident=1), *tells, trouble("command:/a", incident=2))]
    assert [len(message.parts) for message in came] == [0, 0, 3, 0]  # the first two are of one incident
    assert page(came[2]) == "\n\n".join(f"{program} is not available." for program in PROGRAMS[2:])
    assert title(came[2]) == "pay, search and shop"


def test_programs_that_fail_together_are_two_messages_of_a_real_daemon(tmp_path: Path, receive: Callable[..., Receiver]) -> None:
    """Each with the last line of its traceback, and with a command that acknowledges them as it stands there."""
    receiver = receive()
    (tmp_path / "app.py").write_text("raise KeyError('price')\n")
    programs = f'[[escalation]]\nnotify = ["{receiver.target}"]\n'
    for name in ("cart", "mail", "pay"):
        command = f'command = ["{sys.executable}", "app.py"]\ndirectory = "{tmp_path}"'
        programs += f'[program.{name}]\n{command}\nrestart.limit = "60s"\nrestart.budget = 1\n'
    with Supervised(tmp_path, programs):
        receiver.wait_for(2)
        (_, _, first), (_, _, rest) = receiver.got
        said = [first, *rest["parts"]]
        assert not first["parts"]
        assert {each["program"] for each in said} == {"cart", "mail", "pay"}
        assert all("exit code 1 (KeyError: 'price' in app.py:1)" in each["text"] for each in said if each["key"] == "crash")
        _, *ack = shlex.split(rest["commands"][0])
        answer = subprocess.run([sys.executable, "-m", "cli", *ack], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (answer.returncode, answer.stdout.count("acknowledged")) == (0, len(ack) - len(("ack", "--config", "file")))


def test_a_storm_of_fifty_programs_fits_the_screen_and_names_each(room: Room) -> None:
    messages = [replace(MESSAGE, id=str(n), program=f"p{n}", incident=n, text=f"p{n}:1 loops in {'x' * 300}") for n in range(1, 51)]
    whole = storm(messages, [MESSAGE.since] * 50, "id", "")
    assert all(f" p{n}:1 loops" in whole.text for n in range(1, 51))
    assert len(whole.text) < 50 * 130
    assert title(whole) == "critical: p1, p2, p3, p4 and 46 more on host, incidents 1, 2, 3, 4 and 46 more"


def test_what_a_dead_life_may_have_sent_is_sent_under_its_own_id(room: Room, receive: Callable[..., Receiver]) -> None:
    """However long ago that was: a group would have another id, and be read twice."""
    receiver = receive(500)
    told_wall = time.time() - 2 * delivery_module.GROUP_AGE_S
    room.live(Pace(deadline_s=5.0, first_s=60.0, limit_s=60.0)).tell(tell(receiver.target, key="first"), told_wall)
    receiver.wait_for(1)
    room.close()
    delivery = room.live()
    delivery._box(receiver.target).lane.put(delivery.resume)
    for number in range(3):
        delivery.tell(tell(receiver.target, key=str(number)), told_wall)
    until(lambda: room_is_empty(room) and len(receiver.got) > 1)
    room.close()
    ids = [headers["Idempotency-Key"] for _, headers, _ in receiver.got]
    assert ids[0] == ids[1]


KILLED = """
import sys, time
from supervisor.alerts.delivery import Clock, Delivery, Pace
from supervisor.alerts.message import ChannelError, Message, page, title
from supervisor.lanes import Lane
from supervisor.model import Severity, Tell
from supervisor.records.journal import Journal
from supervisor.records.log import utc
journal = Journal(sys.argv[1], Lane("journal"), print)
delivery = Delivery(journal, print, Pace(deadline_s=5.0, first_s=0.01, limit_s=0.02))
delivery.resume()
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    delivery.tell(Tell(3, "store", str(number), Severity.WARNING, str(number), (sys.argv[2],)), time.time())
journal.posted(()).result()  # what was told before is written down too
print("told", flush=True)
time.sleep(60)
"""


def test_sigkill_loses_no_message_and_doubles_none_but_the_one_under_way(room: Room, receive: Callable[..., Receiver]) -> None:
    receiver = receive(*[500, 200] * 20)
    for life in range(4):
        command = [sys.executable, "-c", KILLED, room.state_dir, receiver.target, str(life * 10), str(life * 10 + 10)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == b"told\n"
            receiver.wait_for(len(receiver.got) + life + 1)
            daemon.kill()
    room.live().resume()

    until(lambda: len(set(receiver.taken)) == 40)
    room.close()
    assert room.waiting() == []
    assert len(receiver.taken) <= 40 + 4  # one for each death, at most: killed between the answer and the note of it
    assert len({headers["Idempotency-Key"] for _, headers, _ in receiver.got}) == 40


def test_a_full_disk_does_not_silence_us(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = alone_on_small_disk("tests/test_alerts.py::test_a_full_disk_does_not_silence_us")
    if disk is None:
        return
    monkeypatch.setattr(delivery_module, "WRITTEN_S", 0.05)
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    room = Room(disk / "state")
    delivery = room.live()
    fill(disk)
    told = Path(tempfile.gettempdir()) / f"told-{os.getpid()}"
    for _ in range(3):
        delivery.tell(tell(f"command:/bin/sh -c 'echo told >> {told}'", text="x" * 5000), time.time())
    until(told.exists)
    room.close()
    assert told.read_text() == "told\n"
    told.unlink()
