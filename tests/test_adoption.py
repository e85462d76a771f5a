"""A supervisor that dies: its programs live on, and the next one goes on with them. Real daemons, killed by SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

from tests.supervised import SLEEPER, Supervised, free_port, python

SERVER = """
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
listener = socket.socket(fileno=3)
number = 0
while True:
    client, _ = listener.accept()
    number += 1
    client.recv(1000)
    print('request', number)
    client.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')
    client.close()
"""


def killed(daemon: Supervised) -> None:
    """SIGKILL to the daemon alone, and wait until it is gone."""
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()


def get(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(10)
        return client.recv(100)


def test_a_server_lives_on_with_its_socket_and_its_output_and_is_ours_again(tmp_path: Path) -> None:
    port = free_port()
    programs = f'[program.app]\ncommand = {python(SERVER)}\nsockets = ["127.0.0.1:{port}"]\n'
    first = Supervised(tmp_path, programs)
    with first:
        first.until("instance.ready", subject="app:1")
        (pid,) = first.pids_of("app:1")
        killed(first)
        assert b"200 OK" in get(port)
        with Supervised(tmp_path, programs) as second:
            assert f"pid {pid}" in second.until("instance.adopted", subject="app:1")["text"]
            second.wait_for(lambda: second.status("app")["state"] == "ready")
            assert b"200 OK" in get(port)
            (instance,) = second.status("app")["instances"]
            assert (instance["id"], instance["pid"]) == ("app:1", pid)
            second.wait_for(lambda: "request 2" in (tmp_path / "log/app.log").read_text())
            assert second.ask("restart", "app").returncode == 0
            assert second.status("app")["instances"][0]["id"] == "app:2"
            assert b"200 OK" in get(port)
            second.signal(signal.SIGTERM)
            second.rest()
            assert second.pids() == []
        lines = (tmp_path / "log/app.log").read_text().split("\n")
        assert lines[:2] == ["request 1", "request 2"]


def test_an_exit_is_heard_by_the_next_one_with_its_status(tmp_path: Path) -> None:
    programs = f"[program.app]\ncommand = {python(f'import signal; signal.signal(signal.SIGUSR1, lambda *_: exit(7)){SLEEPER}')}\n"
    first = Supervised(tmp_path, programs)
    with first:
        first.until("instance.ready", subject="app:1")
        (pid,) = first.pids_of("app:1")
        killed(first)
        with Supervised(tmp_path, programs) as second:
            second.until("instance.adopted", subject="app:1")
            os.kill(pid, signal.SIGUSR1)
            assert "exit code 7" in second.until("instance.failed", subject="app:1")["text"]
            second.until("instance.ready", subject="app:2")


def test_what_ended_while_nobody_watched_is_started_again_and_its_daemons_are_ended(tmp_path: Path) -> None:
    code = f"import os, signal\nif os.fork() == 0:\n    os.setsid()\n    signal.pause()\n{SLEEPER}"
    programs = f"[program.app]\ncommand = {python(code)}\n"
    first = Supervised(tmp_path, programs)
    with first:
        first.until("instance.ready", subject="app:1")
        first.wait_for(lambda: len(first.pids_of("app:1")) == 2)
        leader = int(first.status("app")["instances"][0]["pid"])
        killed(first)
        os.kill(leader, signal.SIGKILL)
        with Supervised(tmp_path, programs) as second:
            second.until("instance.failed", subject="app:1")
            second.until("instance.ready", subject="app:2")
            assert second.pids_of("app:1") == []


def test_an_operators_stop_is_remembered(tmp_path: Path) -> None:
    programs = f"[program.app]\ncommand = {python(SLEEPER)}\n[program.other]\ncommand = {python(SLEEPER)}\n"
    first = Supervised(tmp_path, programs)
    with first:
        for _ in range(2):
            first.until("instance.ready")
        assert first.ask("stop", "app").returncode == 0
        killed(first)
        with Supervised(tmp_path, programs) as second:
            second.until("instance.adopted", subject="other:1")
            assert second.status("app")["state"] == "stopped"


def test_who_stands_in_no_handover_is_taken_over_and_no_second_copy_is_started(tmp_path: Path) -> None:
    """The handover cannot be written: of two programs from the start on, of two others since their second instance."""
    port = free_port()
    late, dead, left = (f'[program.{name}]\ncommand = ["sleep", "1000"]\n' for name in ("late", "dead", "left"))
    never = f'[program.never]\ncommand = {python(SERVER)}\nsockets = ["127.0.0.1:{port}"]\n'
    (tmp_path / "runtime").mkdir(0o700)
    unwritable(tmp_path, "never", "left")
    with Supervised(tmp_path, late + dead + never + left, guarded=True) as supervised:
        first = pids(supervised, "instance.started", "late:1", "dead:1", "never:1", "left:1")
        unwritable(tmp_path, "late", "dead")
        for id in ("late:1", "dead:1"):
            os.kill(first[id], signal.SIGKILL)
        second = pids(supervised, "instance.started", "late:2", "dead:2")
        supervised.wait_for(lambda: "dead:2 started" in supervised.ask("events").stdout)
        supervised.write(late + dead + never)
        for pid in (supervised.daemon(), second["dead:2"]):
            os.kill(pid, signal.SIGKILL)
        lives = {"late:2": second["late:2"], "never:1": first["never:1"], "left:1": first["left:1"]}
        assert pids(supervised, "instance.adopted", *lives) == lives
        pids(supervised, "instance.started", "dead:3")
        for name, id in (("late", "late:2"), ("never", "never:1")):
            supervised.wait_for(lambda name=name: supervised.status(name)["state"] == "ready")
            assert [(i["id"], i["pid"]) for i in supervised.status(name)["instances"]] == [(id, lives[id])]
        supervised.wait_for(lambda: not supervised.pids_of("left:1"))
        assert supervised.ask("restart", "never").returncode == 0
        assert b"200 OK" in get(port)


def unwritable(folder: Path, *programs: str) -> None:
    """From now on the programs' handovers cannot be written: a folder is where the next file would be."""
    for program in programs:
        (folder / f"runtime/handover/{program}.json.new").mkdir(parents=True)


def pids(supervised: Supervised, event: str, *ids: str) -> dict[str, int]:
    """Those that lines of this event name for these instances, in whatever order they come."""
    found: dict[str, int] = {}
    while not found.keys() >= set(ids):
        line = supervised.until(event)
        said = re.search(r"(?:(\S+) started|goes on), pid (\d+)", line["text"])
        if said:
            found[said[1] or line["subject"]] = int(said[2])
    return {id: found[id] for id in ids}


def test_a_signal_that_comes_before_all_is_adopted_is_about_all_of_it(tmp_path: Path) -> None:
    """The guard and systemd send one as soon as they may, and the stop of a supervisor that died is gone on with by the next one."""
    programs = "".join(f'[program.p{number}]\ncommand = ["sleep", "1000"]\n' for number in range(3))
    with Supervised(tmp_path, programs) as first:
        lives = pids(first, "instance.started", "p0:1", "p1:1", "p2:1")
        killed(first)
        with Supervised(tmp_path, programs) as second:
            at_once(second, signal.SIGHUP)
            assert pids(second, "instance.adopted", *lives) == lives
            second.until("config.applied")
            assert sorted(second.pids()) == sorted(lives.values())
            killed(second)
            with Supervised(tmp_path, programs) as third:
                at_once(third, signal.SIGTERM)
                assert pids(third, "instance.adopted", *lives) == lives
                assert third.rest()[-1]["text"] == "ended: all programs are stopped"
                assert third.pids() == []


def at_once(daemon: Supervised, number: signal.Signals) -> None:
    """Signal a daemon as soon as that does not end it."""
    caught = 0
    while not caught >> number - 1 & 1:
        assert daemon.process.poll() is None
        caught = int(Path(f"/proc/{daemon.process.pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
    daemon.signal(number)
