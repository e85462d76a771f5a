"""A supervisor that dies: its programs live on, and the next one goes on with them. Real daemons, killed by SIGKILL."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from tests.supervised import Supervised, free_port, python

SLEEPER = "import signal; signal.pause()"
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
    programs = (
        f"[program.app]\ncommand = {python('import signal; signal.signal(signal.SIGUSR1, lambda *_: exit(7)); signal.pause()')}\n"
    )
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
    code = "import os, signal\nif os.fork() == 0: os.setsid()\nsignal.pause()"
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
        first.until("instance.ready", subject="app:1")
        first.until("instance.ready", subject="other:1")
        assert first.ask("stop", "app").returncode == 0
        killed(first)
        with Supervised(tmp_path, programs) as second:
            second.until("instance.adopted", subject="other:1")
            assert second.status("app")["state"] == "stopped"
