"""Drills of a program of one's own: what it is given in its shadow, what is refused, and one that is played."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor import config
from supervisor.commands import drill_faults, drill_own, drill_program, drill_shadow
from supervisor.commands.drill import Own, drill
from supervisor.commands.drill_faults import Fault
from supervisor.commands.drill_peer import Peer, value_of
from supervisor.control.client import Refusal
from supervisor.servers import recognise
from tests.receivers import until

SERVER = """
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
listener = socket.socket(fileno=3)
while True:
    taken, _ = listener.accept()
    try:
        taken.recv(4096)
        taken.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    except OSError:
        pass
    taken.close()
"""
CONFIG = """
[reviver]
state_dir = "{where}/state"
runtime_dir = "{where}/run"
log_dir = "{where}/log"
[program.shop]
command = {command}
sockets = ["127.0.0.1:8000"]
env = {{ BANK = "http://me:1@bank:8080/x", NONE = "bank" }}
health = {{ http = "/up", start = "3s" }}
relief = {{ extra = {extra} }}
hang = {{ blocked = "{blocked}" }}
restart = {{ healthy = "1s", limit = "1s" }}
release = {{ rollback = {rollback} }}
drill = true
"""


def written(where: Path, command: list[str] | None = None, **more: str) -> str:
    file = where / "config.toml"
    values = {"extra": "1", "blocked": "60s", "rollback": "true", **more}
    file.write_text(CONFIG.format(where=where, command=drill_shadow.toml(command or ["gunicorn", "shop:app"]), **values))
    (where / "state").mkdir(exist_ok=True)
    return str(file)


def prepared(fault: str, file: str, held: ExitStack, peer: str = "") -> tuple[Fault, dict[str, Any]]:
    settings = config.load(Path(file))
    where = Path(file).parent / "shadow"
    where.mkdir()
    program = drill_program.chosen(settings, "shop")
    chosen, tables = drill_own.prepared(fault, settings, program, 4711, where, peer, held)
    return chosen, tomllib.loads(tables)["program"]["DRILL-shop"]


def test_command_behind_a_script_is_still_the_server_that_it_is(tmp_path: Path) -> None:
    with ExitStack() as held:
        _, table = prepared("leak", written(tmp_path), held)
    assert table["command"][1:] == ["gunicorn", "shop:app"]
    found = recognise(tuple(table["command"]))
    assert found is not None
    assert found.server.name == "gunicorn"
    assert not found.parent, "its pid is the server's: LISTEN_PID is true"


@pytest.mark.parametrize(
    ("fault", "peer", "more", "said"),
    [
        ("dead-dependency", "", {}, "--peer VARIABLE names the variable"),
        ("dead-dependency", "NONE", {}, "needs HOST:PORT in it"),
        ("dead-dependency", "NOBODY_SETS_THIS", {}, "is in no env or env_file"),
        ("crash", "BANK", {}, "--peer is for dead-dependency"),
        ("bad-release", "", {"rollback": "false"}, "crash-loop shows"),
        ("slow-boot", "", {"rollback": "false"}, "release.rollback = false"),
        ("hang", "", {"blocked": "off"}, "hang.blocked = off"),
    ],
)
def test_what_cannot_be_done_truly_is_refused(fault: str, peer: str, more: dict[str, str], said: str, tmp_path: Path) -> None:
    with ExitStack() as held, pytest.raises(Refusal, match=re.escape(said)):
        prepared(fault, written(tmp_path, **more), held, peer)


def test_host_without_memory_has_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_own, "GROWTH_MB", 10**9)
    with ExitStack() as held, pytest.raises(Refusal, match="drill it where there is more"):
        prepared("leak", written(tmp_path), held)


def test_what_may_not_live_beside_itself_is_not_held_to_an_unbroken_service(tmp_path: Path) -> None:
    with ExitStack() as held:
        chosen, _ = prepared("bad-release", written(tmp_path, extra="0"), held)
    assert chosen.expected.failing is None
    assert chosen.expected.served


def test_ballast_grows_when_told_and_ends_with_its_program(tmp_path: Path) -> None:
    begin, code = tmp_path / "begin", tmp_path / "ballast"
    code.write_text(drill_own.BALLAST)
    ballast = shlex.join([sys.executable, "-I", "-S", str(code), str(begin)])
    with subprocess.Popen(["/bin/sh", "-c", f"{ballast} & exec sleep 60"]) as program:
        until(lambda: drill_own._carries(program.pid, code))
        (child,) = psutil.Process(program.pid).children()
        before = child.memory_info().rss
        begin.touch()
        until(lambda: child.memory_info().rss > before + 4_000_000)
        program.send_signal(signal.SIGKILL)
        program.wait()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def bank() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


def test_peer_passes_on_falls_silent_and_speaks_again(bank: socket.socket) -> None:
    """It keeps what stands around the address, and ends what was silent."""
    with Peer("BANK", f"http://me:1@127.0.0.1:{bank.getsockname()[1]}/x") as peer:
        assert peer.value == f"http://me:1@127.0.0.1:{peer.port}/x"

        def asked() -> socket.socket:
            made = socket.create_connection(("127.0.0.1", peer.port), 5)
            made.sendall(b"rates?")
            return made

        with asked() as first:
            theirs, _ = bank.accept()
            with theirs:
                assert theirs.recv(10) == b"rates?"
                theirs.sendall(b"1.25")
            assert first.recv(10) == b"1.25"
        peer.say("silent")
        with asked() as second:
            second.settimeout(0.2)
            with pytest.raises(TimeoutError):
                second.recv(10)
            peer.say("speak")
            second.settimeout(5)
            assert second.recv(10) == b""
        with asked(), bank.accept()[0] as theirs:
            assert theirs.recv(10) == b"rates?"


def test_value_of_a_variable_is_the_programs_own_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANK", "ours:1")
    assert value_of("BANK", {"BANK": "its:2"}) == "its:2"
    assert value_of("BANK", {}) == "ours:1"


def test_drill_of_a_bad_build_of_ones_own_program_is_given_up_unnoticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drill_faults, "CALM_S", 0.1)
    (tmp_path / "server.py").write_text(SERVER)
    file = written(tmp_path, [sys.executable, str(tmp_path / "server.py")])
    drill(file, "bad-release", Own("shop"), tell=False, as_json=False)
    card = capsys.readouterr().out
    assert "build 2 is given up, back to build 1: exit code 1" in card
    assert "all answered" in card
    assert os.listdir(tmp_path / "state/drills") == ["1"]
