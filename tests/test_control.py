"""The control socket, on a real server over a real unix socket: who may, what is answered, and that nobody can choke it."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import config
from supervisor.control import client, messages, server
from supervisor.control.client import Client, Refusal, Unanswered
from supervisor.control.goals import DRAINING
from supervisor.control.server import Server, ServerError
from supervisor.model import Exited, InstanceId, ReliefSettings, RestartSettings, RestartWhen, ShutdownAsked
from tests.control import Running, World, running, settings

NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
RELIEF = ReliefSettings(extra=1)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, which other users may pass."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture
def daemon(place: Path) -> Iterator[Running]:
    with running(place, settings("store", relief=RELIEF), settings("worker", manual=True)) as serving:
        yield serving


def ask(serving: Running, method: str, **params: object) -> Any:
    with Client(str(serving.world.directory)) as connection:
        return connection.call(method, params)


def connect(serving: Running) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(serving.path)
    return connection


def lines(connection: socket.socket, count: int) -> list[dict[str, Any]]:
    with connection.makefile("rb") as file:
        return [json.loads(file.readline()) for _ in range(count)]


def request(method: str, id: object = 1, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode() + b"\n"


# --- the protocol


def test_status_of_a_ready_program_names_its_instance(daemon: Running) -> None:
    answer = ask(daemon, "status")
    store, worker = answer["programs"]
    assert (store["name"], store["state"], store["instances"][0]["id"]) == ("store", "ready", "store:1")
    assert (worker["state"], worker["wanted"], worker["instances"]) == ("stopped", "down", [])
    assert answer["daemon"]["pid"] == os.getpid()


def test_answers_carry_the_id_of_their_request_in_order(daemon: Running) -> None:
    with connect(daemon) as connection:
        connection.sendall(request("about", id="a") + request("status", id=2, names=["store"]) + request("about", id=None))
        assert [answer["id"] for answer in lines(connection, 3)] == ["a", 2, None]


def test_notification_gets_no_answer(daemon: Running) -> None:
    with connect(daemon) as connection:
        connection.sendall(b'{"jsonrpc": "2.0", "method": "about"}\n' + request("about", id=7))
        assert lines(connection, 1)[0]["id"] == 7


def test_client_that_closes_its_half_gets_its_answers_and_the_end(daemon: Running) -> None:
    with connect(daemon) as connection:
        connection.sendall(request("about") + request("status", id=2))
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
        assert len(received.splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello", messages.PARSE_ERROR),
        (b"\xff\xfe\x00", messages.PARSE_ERROR),
        (b'{"params": {"a": ' + b"[" * 200_000, messages.PARSE_ERROR),
        (b'{"a":' * 100_000, messages.PARSE_ERROR),
        (b'{"params": {"a": ' + b"9" * 200_000 + b"}}", messages.INVALID_REQUEST),
        (b"", messages.PARSE_ERROR),
        (b"[]", messages.INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "about"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "about"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "about", "params": [1]}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "rm -rf"}', messages.NO_SUCH_METHOD),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "status", "params": {"names": "store"}}', messages.INVALID_PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "status", "params": {"nmaes": []}}', messages.INVALID_PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "stop", "params": {}}', messages.INVALID_PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "stop", "params": {"names": ["\\ud800"]}}', messages.PARSE_ERROR),
    ],
)
def test_garbage_gets_one_error_and_others_their_answers(daemon: Running, line: bytes, code: int) -> None:
    with connect(daemon) as connection:
        connection.sendall(line + b"\n")
        assert lines(connection, 1)[0]["error"]["code"] == code
    assert ask(daemon, "about")["pid"] == os.getpid()


def test_flood_of_garbage_is_one_error(daemon: Running) -> None:
    with connect(daemon) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"x\n" * 500_000)
        assert lines(connection, 1)[0]["error"]["code"] == messages.PARSE_ERROR
        assert _ended(connection)


def test_message_of_100_mb_gets_one_error_and_is_not_buffered(daemon: Running) -> None:
    before = _peak_kib()
    with connect(daemon) as connection:
        sent = 0
        block = b"x" * 1024 * 1024
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                sent += connection.send(block)
        assert lines(connection, 1)[0]["error"]["code"] == messages.INVALID_REQUEST
        assert _ended(connection)
    assert sent < 100 * len(block)
    assert _peak_kib() - before < 20 * 1024
    assert ask(daemon, "about")["pid"] == os.getpid()


def _ended(connection: socket.socket) -> bool:
    """Whether nothing more comes; what was sent and not read makes the end a reset."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def _peak_kib() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


def test_client_that_takes_nothing_is_dropped_and_others_are_served(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SLOW_S", 0.05)
    daemon.world.stories += [{"time": "", "subject": "store", "event": "x", "text": "y" * 10_000} for _ in range(200)]
    with connect(daemon) as slow:
        slow.sendall(request("events", limit=1000))
        assert ask(daemon, "about")["pid"] == os.getpid()
        _until(daemon, lambda: not _clients(daemon))
        with pytest.raises((ConnectionResetError, EOFError, json.JSONDecodeError)):
            lines(slow, 1)


def test_follower_that_takes_nothing_is_dropped_at_the_limit(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNTAKEN_LIMIT_BYTES", 100_000)
    with connect(daemon) as slow:
        slow.sendall(request("events", limit=0, follow=True))
        assert lines(slow, 1)[0]["result"] == []
        _until(daemon, lambda: bool(daemon.world.listeners))
        story = {"subject": "store", "text": "y" * 10_000}
        for _ in range(100):
            daemon.on_loop(lambda: [listener(story) for listener in list(daemon.world.listeners)])
        assert daemon.world.listeners == []


def test_idle_client_is_dropped_though_it_dribbles(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.05)
    with connect(daemon) as idle:
        idle.sendall(b'{"json')
        assert idle.recv(10) == b""


def test_client_beyond_the_limit_is_told_so(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENT_LIMIT", 2)
    with connect(daemon) as one, connect(daemon) as two:
        for each in (one, two):
            each.sendall(request("about"))
            lines(each, 1)
        with pytest.raises(Refusal, match="2 clients are connected already"):
            ask(daemon, "about")
    _until(daemon, lambda: not _clients(daemon))
    assert ask(daemon, "about")["pid"] == os.getpid()


def test_members_of_the_group_cannot_lock_the_owner_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MEMBERS_LIMIT", 1)
    monkeypatch.setattr(server, "_owner", lambda _: False)
    with running(place, group=grp.getgrgid(os.getgid()).gr_name) as serving, connect(serving) as member:
        member.sendall(request("about"))
        lines(member, 1)
        with pytest.raises(Refusal, match="1 clients are connected already"):
            ask(serving, "about")
        monkeypatch.setattr(server, "_owner", lambda _: True)
        assert ask(serving, "about")["pid"] == os.getpid()


def _clients(daemon: Running) -> int:
    """Connections that the daemon holds at its socket."""
    return len(Path("/proc/net/unix").read_text().split(daemon.path)) - 2


def _until(daemon: Running, condition: Any) -> None:
    """Turn the loop until it is so: the condition depends on what the loop does next, not on time."""
    done = threading.Event()

    def look() -> None:
        if condition():
            done.set()
        else:
            daemon.loop.call_later(0.005, look)

    daemon.loop.call_soon_threadsafe(look)
    assert done.wait(10)


def test_defect_of_ours_answers_the_client_and_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(_: World) -> None:
        raise ValueError("planted")

    def play() -> None:
        with running(place, settings("store")) as serving:
            monkeypatch.setattr(World, "about", planted)
            with pytest.raises(Refusal, match="the daemon failed at this request"):
                ask(serving, "status")

    with pytest.raises(AssertionError, match="planted"):
        play()


# --- who may


def test_socket_is_its_owners_alone(daemon: Running) -> None:
    assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o600


def _as_user(path: str, uid: int, groups: list[int]) -> str:
    """What another user gets when it asks: "refused: ...", "answered", or "no way"."""
    script = """
import json, os, socket, sys
path, uid, groups = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX); s.settimeout(10)
try: s.connect(path)
except PermissionError: print("no way"); sys.exit()
try: s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "plan", "params": {"path": "/etc/shadow"}}\\n')
except OSError: pass
print(json.loads(s.makefile().readline())["error"]["message"])
"""
    command = [sys.executable, "-c", script, path, str(uid), json.dumps(groups)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


@ROOT_ONLY
def test_other_user_cannot_connect(daemon: Running) -> None:
    assert _as_user(daemon.path, NOBODY, []) == "no way"


@ROOT_ONLY
def test_other_user_who_got_past_the_mode_is_refused_by_credentials(daemon: Running) -> None:
    os.chmod(daemon.path, 0o666)
    assert "owner's, root's" in _as_user(daemon.path, NOBODY, [])


@ROOT_ONLY
def test_member_of_the_group_may_use_the_socket_but_name_no_other_configuration(place: Path) -> None:
    group = grp.getgrall()[-1]
    with running(place, settings("store"), group=group.gr_name) as serving:
        found = os.stat(serving.path)
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group.gr_gid)
        assert "only the daemon's own user and root" in _as_user(serving.path, NOBODY, [1, 2, group.gr_gid])
        os.chmod(serving.path, 0o666)
        assert "owner's, root's" in _as_user(serving.path, NOBODY, [1, 2])


def test_unknown_group_is_one_sentence(place: Path) -> None:
    with pytest.raises(ServerError, match="there is no group 'no-such-group'"):
        Server(f"{place}/control.sock", "no-such-group", World(place)).open()


# --- one daemon in a directory


def test_second_daemon_is_refused_by_the_pid_of_the_first(daemon: Running, place: Path) -> None:
    with pytest.raises(ServerError, match=f"another reviver runs here: pid {os.getpid()} holds"):
        Server(daemon.path, "", World(place)).open()
    assert ask(daemon, "about")["pid"] == os.getpid()


def test_socket_of_a_killed_daemon_is_taken_over(place: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.control import World; from supervisor.control.server import Server\n"
        "Server(sys.argv[1] + '/control.sock', '', World(Path(sys.argv[1]))).open(); os.kill(os.getpid(), 9)"
    )
    dead = subprocess.run([sys.executable, "-c", script, str(place)], timeout=20, cwd=Path(__file__).parent.parent, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert (place / "control.sock").is_socket()
    with pytest.raises(Unanswered, match="no daemon answers"):
        Client(str(place))
    with running(place, settings("store")) as serving:
        assert ask(serving, "status")["programs"][0]["state"] == "ready"


def test_closed_daemon_leaves_no_socket(place: Path) -> None:
    with running(place):
        pass
    assert sorted(path.name for path in place.iterdir()) == ["lock"]
    with running(place):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_directory_that_others_may_write_is_refused(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.raises(ServerError, match="can be written by others"):
        Server(f"{place}/control.sock", "", World(place)).open()


def test_directory_that_is_a_symlink_is_refused(place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    with pytest.raises(ServerError, match="is not a directory"):
        Server(f"{place}/link/control.sock", "", World(place)).open()


def test_client_cannot_send_descriptors_along(daemon: Running) -> None:
    """The kernel would close them on the daemon's loop, for as long as the client likes."""
    with connect(daemon) as client:
        try:
            client.getsockopt(socket.SOL_SOCKET, 83)
        except OSError:
            pytest.skip("this kernel cannot refuse descriptors (it takes 6.16)")
        with pytest.raises(PermissionError):
            socket.send_fds(client, [b"{}"], [client.fileno()])


def test_lock_can_be_opened_by_its_owner_alone(place: Path) -> None:
    """Who can open it, if only for reading, can lock it: no supervisor could ever start again."""
    with running(place):
        assert stat.S_IMODE((place / messages.LOCK).stat().st_mode) == 0o600


def test_directory_is_made(place: Path) -> None:
    with running(place / "new") as serving:
        assert stat.S_IMODE((place / "new").stat().st_mode) == 0o711
        assert ask(serving, "status")["programs"] == []


def test_path_too_long_for_a_socket_is_one_sentence(place: Path) -> None:
    with pytest.raises(ServerError, match="107 bytes"):
        Server(f"{place}/{'x' * 107}/control.sock", "", World(place)).open()


# --- commands wait until it is so


def test_start_waits_until_it_is_ready(daemon: Running) -> None:
    answer = ask(daemon, "start", names=["worker"])
    assert answer["programs"] == [{"name": "worker", "done": True, "text": "ready: worker:1"}]


def test_start_of_what_runs_is_done(daemon: Running) -> None:
    assert ask(daemon, "start", names=["store"])["programs"][0]["done"]


def test_stop_waits_until_nothing_lives(daemon: Running) -> None:
    assert ask(daemon, "stop", names=["all"])["programs"] == [
        {"name": "store", "done": True, "text": "stopped"},
        {"name": "worker", "done": True, "text": "not running"},
    ]
    assert ask(daemon, "status", names=["store"])["programs"][0]["state"] == "stopped"


@pytest.mark.parametrize("now", [False, True])
def test_restart_is_done_when_the_new_one_is_ready_and_the_old_one_gone(daemon: Running, now: bool) -> None:
    assert ask(daemon, "restart", names=["store"], now=now)["programs"][0]["text"] == "ready: store:2"
    (instance,) = ask(daemon, "status", names=["store"])["programs"][0]["instances"]
    assert instance["id"] == "store:2"


def test_restart_whose_new_one_crashes_fails_with_the_reason(place: Path) -> None:
    with running(place, settings("store", relief=RELIEF)) as serving:
        program = serving.world.fleet_now.programs["store"]
        serving.on_loop(lambda: serving.world.commands.update({InstanceId("store", 2): "crash"}))
        real = serving.world.perform

        def perform(effect: Any) -> None:
            real(effect)
            serving.world.commands.update({InstanceId("store", n): "crash" for n in range(2, 9)})

        serving.world.perform = perform  # type: ignore[method-assign]
        (outcome,) = ask(serving, "restart", names=["store"])["programs"]
        assert not outcome["done"]
        assert "exit code 3" in outcome["text"]
        assert ask(serving, "status")["programs"][0]["instances"][0]["id"] == str(program.instances[0].id)


def test_start_of_a_command_that_cannot_be_executed_fails_with_the_reason(place: Path) -> None:
    with running(place, settings("store", "absent", manual=True)) as serving:
        for _ in range(2):
            (outcome,) = ask(serving, "start", names=["store"])["programs"]
            assert not outcome["done"]
            assert "absent: command not found" in outcome["text"]


def test_start_of_a_program_whose_preflight_fails_fails_with_the_reason(place: Path) -> None:
    program = settings("store", manual=True)
    from dataclasses import replace

    program = replace(program, launch=replace(program.launch, preflight=(("false",),)))
    with running(place, program) as serving:
        (outcome,) = ask(serving, "start", names=["store"])["programs"]
        assert not outcome["done"]
        assert "it said no" in outcome["text"]


def test_start_that_becomes_not_ready_says_what_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.control.goals.start_s", lambda *_: -4.95)
    with running(place, settings("store", "mute", manual=True)) as serving:
        (outcome,) = ask(serving, "start", names=["store"])["programs"]
        assert not outcome["done"]
        assert "store:1 is starting; it goes on (see: reviver explain store)" in outcome["text"]


@pytest.mark.parametrize(
    ("when", "status", "done", "text"),
    [
        (RestartWhen.FAILURE, 0, True, "ended by itself, as it may, and rests"),
        (RestartWhen.NEVER, 3, False, "exit code 3"),
    ],
)
def test_start_of_a_program_that_ends_by_itself_is_judged_by_how(
    place: Path, when: RestartWhen, status: int, done: bool, text: str
) -> None:
    program = settings("job", "mute", manual=True, restart=RestartSettings(when=when))
    with running(place, program) as serving, Client(str(place)) as connection:

        def hear(_: str, story: dict[str, Any]) -> None:
            if story["event"] == "instance.started":
                serving.post(Exited(InstanceId("job", 1), status, words=f"exit code {status}"))

        (outcome,) = connection.call("start", {"names": ["job"]}, hear)["programs"]
        assert outcome["done"] == done
        assert text in outcome["text"]


def test_stop_of_a_program_that_another_one_needs_is_done(place: Path) -> None:
    with running(place, settings("db"), settings("web", after=("db",))) as serving:
        assert ask(serving, "start", names=["web"])["programs"][0]["done"]
        assert ask(serving, "stop", names=["db"])["programs"] == [{"name": "db", "done": True, "text": "stopped"}]
        assert ask(serving, "status", names=["web"])["programs"][0]["state"] == "ready"


def test_stop_of_a_program_in_its_backoff_says_that_it_is_not_started_again(place: Path) -> None:
    with running(place, settings("store", "crash")) as serving:
        (outcome,) = ask(serving, "stop", names=["store"])["programs"]
        assert outcome["text"] == "stopped: nothing of it ran, and it is not started again"


def test_supervisor_that_is_being_stopped_starts_nothing_and_lets_nobody_wait(place: Path) -> None:
    with running(place, settings("store", "mute", manual=True), settings("deaf", "deaf")) as serving:
        with connect(serving) as connection:
            connection.sendall(request("start", names=["store"]))
            assert lines(connection, 1)[0]["method"] == "waiting"
            _until(serving, lambda: bool(serving.world.waiters))
            serving.post(ShutdownAsked())
            with connection.makefile("rb") as heard:
                (outcome,) = next(json.loads(line)["result"]["programs"] for line in heard if b'"result"' in line)
        assert (outcome["done"], outcome["text"]) == (False, DRAINING)
        with pytest.raises(Refusal, match="is being stopped") as refused:
            ask(serving, "restart", names=["store"], wait=False)
        assert refused.value.code == messages.REFUSED


def test_command_without_waiting_is_answered_at_once(place: Path) -> None:
    with running(place, settings("store", "mute", manual=True)) as serving:
        (outcome,) = ask(serving, "start", names=["store"], wait=False)["programs"]
        assert outcome["text"] == "asked; nobody waits for it"


def test_client_that_leaves_while_it_waits_is_forgotten(place: Path) -> None:
    with running(place, settings("store", "mute", manual=True)) as serving:
        with connect(serving) as connection:
            connection.sendall(request("start", names=["store"]))
            assert lines(connection, 1)[0]["method"] == "waiting"
            _until(serving, lambda: bool(serving.world.waiters))
        _until(serving, lambda: not serving.world.waiters)
        assert serving.world.listeners == []


def test_unknown_program_is_refused_with_a_suggestion_and_nothing_is_done(daemon: Running) -> None:
    with pytest.raises(Refusal, match="no program 'stor': did you mean 'store'") as refused:
        ask(daemon, "stop", names=["store", "stor"])
    assert refused.value.code == messages.NO_SUCH_PROGRAM
    assert ask(daemon, "status", names=["store"])["programs"][0]["state"] == "ready"


@pytest.mark.parametrize("name", ["HUP", "sighup", "1"])
def test_signal_is_sent_to_every_instance(daemon: Running, name: str) -> None:
    assert ask(daemon, "signal", names=["store"], signal=name)["programs"][0]["text"] == "sent SIGHUP"
    _until(daemon, lambda: daemon.world.signals == [("store:1", "HUP")])


def test_signal_that_does_not_exist_is_a_usage_error(daemon: Running) -> None:
    with pytest.raises(Refusal, match="there is no signal 'HOPP'") as refused:
        ask(daemon, "signal", names=["store"], signal="HOPP")
    assert refused.value.code == messages.USAGE


def test_huge_words_are_refused_like_any_other(daemon: Running) -> None:
    """Neither a defect of ours (int() takes 4300 digits) nor the work of comparing a megabyte with every name."""
    with pytest.raises(Refusal, match="there is no signal '9999"):
        ask(daemon, "signal", names=["store"], signal="9" * 5000)
    with pytest.raises(Refusal, match="there is no program 'ssss") as refused:
        ask(daemon, "explain", name="s" * 1_000_000)
    assert len(str(refused.value)) < 200


def test_signal_to_what_does_not_run_is_refused(daemon: Running) -> None:
    with pytest.raises(Refusal, match="worker is not running"):
        ask(daemon, "signal", names=["all"], signal="HUP")
    assert daemon.world.signals == []


def test_reload_is_the_programs_own(place: Path) -> None:
    with running(place, settings("nginx", reload="HUP"), settings("store", relief=RELIEF)) as serving:
        answer = ask(serving, "reload", names=["all"])["programs"]
        assert {each["name"]: each["text"] for each in answer} == {"nginx": "sent SIGHUP", "store": "ready: store:2"}
        _until(serving, lambda: ("nginx:1", "HUP") in serving.world.signals)


def test_follower_hears_what_comes_after_the_past(daemon: Running) -> None:
    with connect(daemon) as connection:
        connection.sendall(request("events", name="store", follow=True))
        past = lines(connection, 1)[0]["result"]
        assert all(story["subject"].startswith("store") for story in past)
        ask(daemon, "start", names=["worker"])
        ask(daemon, "stop", names=["store"])
        with connection.makefile("rb") as file:
            first = json.loads(file.readline())
        assert (first["method"], first["params"]["subject"]) == ("event", "store")
        connection.shutdown(socket.SHUT_WR)
        _until(daemon, lambda: not daemon.world.listeners)


# --- plan and apply

SIMPLE = """
[program.store]
command = "serve"
[program.new]
command = "serve"
directory = "/"
"""


def test_apply_moves_only_what_changed(place: Path) -> None:
    file = place / "config.toml"
    file.write_text(SIMPLE)
    with running(place, settings("old"), config=str(file)) as serving:
        plan = {step["name"]: step["action"] for step in ask(serving, "plan")["programs"]}
        assert plan == {"store": "start", "new": "start", "old": "stop"}
        outcome = ask(serving, "apply")["outcome"]
        assert [each["text"] for each in outcome if not each["done"]] == []
        assert {step["action"] for step in ask(serving, "plan")["programs"]} == {"none"}
        file.write_text(SIMPLE.replace('[program.new]\ncommand = "serve"', '[program.new]\ncommand = "absent"'))
        by_name = {step["name"]: step for step in ask(serving, "plan")["programs"]}
        assert (by_name["new"]["action"], by_name["new"]["keys"], by_name["store"]["action"]) == ("restart", ["command"], "none")
        (outcome,) = ask(serving, "apply")["outcome"]
        assert not outcome["done"]
        assert "absent: command not found" in outcome["text"]


def test_faulty_configuration_is_refused_with_every_fault(place: Path) -> None:
    file = place / "config.toml"
    file.write_text('[program.store]\ncommand = "serve"\nintances = 2\ngrace = "-1s"\n')
    with running(place, config=str(file)) as serving, pytest.raises(Refusal) as refused:
        ask(serving, "apply")
    assert refused.value.code == messages.BAD_CONFIG
    assert len(refused.value.details) == 2


# --- the client finds what the daemon finds


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_RUNTIME_DIR": "/run/user/7"},
        {"XDG_RUNTIME_DIR": "relative"},
        {"TMPDIR": "/var/tmp"},
        {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "relative"},
    ],
)
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("reviver", ["", 'runtime_dir = "run"\n', 'runtime_dir = "/run/other"\n'])
def test_client_finds_the_daemons_places(
    place: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], uid: int, reviver: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    file = place / "config.toml"
    file.write_text(f'[reviver]\n{reviver}[program.store]\ncommand = "serve"\n')
    monkeypatch.chdir(place)
    assert client.find_config(None, environ) == str(config.find(None, environ))
    assert client.find_runtime_dir(str(file), environ) == config.load(file, environ).daemon.runtime_dir


@ROOT_ONLY
def test_client_asks_nobody_in_a_directory_that_another_user_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /tmp anybody can be the first to make it, and answer there as if they were the daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    directory = place / "reviver-1000"
    directory.mkdir()
    environ = {"TMPDIR": str(place)}
    with pytest.raises(Refusal, match="another user"):
        client.find_runtime_dir(None, environ)
    os.chown(directory, 1000, -1)
    assert client.find_runtime_dir(None, environ) == str(directory)


def test_client_looks_for_a_configuration_in_the_daemons_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    home = place / "home/.config/reviver"
    home.mkdir(parents=True)
    (home / "config.toml").write_text("")
    for environ in ({"HOME": f"{place}/home"}, {"XDG_CONFIG_HOME": f"{place}/home/.config"}, {"REVIVER_CONFIG": "other.toml"}):
        assert client.find_config(None, environ) == str(config.find(None, environ))
    assert client.find_config("named.toml", {}) == "named.toml"


def test_client_waits_for_a_daemon_that_is_starting(place: Path) -> None:
    (place / "lock").write_text(f"{os.getpid()}\n")
    started = threading.Event()
    answers: list[Any] = []

    def later() -> None:
        started.set()
        with Client(str(place)) as connection:
            answers.append(connection.call("about", {}))

    asking = threading.Thread(target=later)
    asking.start()
    assert started.wait(5)
    with running(place):
        asking.join(10)
        assert answers[0]["pid"] == os.getpid()


# --- giving way to new code


def test_upgrade_tries_the_new_code_and_gives_way_to_it(daemon: Running) -> None:
    heard: list[str] = []
    with Client(str(daemon.world.directory)) as connection:
        connection.call("upgrade", {}, lambda name, params: heard.append(f"{name} {params['version']}"))
    assert heard == ["upgrading 9.9"]
    assert daemon.world.gave_way_to == ["9.9"]


def test_upgrade_is_refused_where_nobody_would_start_the_next_or_it_is_unfit(daemon: Running) -> None:
    daemon.world.upgrade_problem = "ModuleNotFoundError: No module named 'h11'"
    with pytest.raises(Refusal, match=r"not fit to take over, and this daemon goes on: ModuleNotFoundError.*h11"):
        ask(daemon, "upgrade")
    daemon.world.guarded = False
    with pytest.raises(Refusal, match="nobody would start the new daemon"):
        ask(daemon, "upgrade")
    daemon.world.guarded, daemon.world.upgrade_problem = True, ""
    daemon.post(ShutdownAsked())
    with pytest.raises(Refusal, match="is being stopped"):
        ask(daemon, "upgrade")
    assert daemon.world.gave_way_to == []
