"""Attacks on a whole supervisor: what another user of the host, or a program that was taken over, must not be able to do."""

from __future__ import annotations

import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from supervisor import notify
from supervisor.commands import screen
from tests.supervised import SLEEPER, Supervised, free_port, python

LINGER_S = 3600


def test_a_descriptor_that_takes_for_ever_to_close_does_not_hold_up_the_supervisor(tmp_path: Path) -> None:
    """Whoever closes a lingering TCP connection last waits for its peer: the sender sees to it that this is the supervisor."""
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as daemon, socket.socket() as server:
        daemon.until("instance.ready")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        daemon.signal(signal.SIGSTOP)
        with socket.create_connection(server.getsockname()) as client:
            _fill(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
            assert notify.send("FDSTORE=1", str(tmp_path / "runtime" / "notify.sock"), [client.fileno()])
        daemon.signal(signal.SIGCONT)
        assert daemon.status("app")["state"] == "ready"


def test_a_program_that_shuts_its_held_socket_down_does_not_take_it_from_the_next_instance(tmp_path: Path) -> None:
    """The socket is shared: what was done to it would outlive whoever did it, and nobody could ever be served again."""
    port = free_port()
    code = """
import os, socket, sys
held = socket.socket(fileno=3)
if os.environ["REVIVER_INSTANCE"] == "app:1":
    held.shutdown(socket.SHUT_RD)
    sys.exit(1)
while True:
    held.accept()[0].close()
"""
    programs = (
        f'[program.app]\ncommand = {python(code)}\nsockets = ["127.0.0.1:{port}"]\n[program.app.health]\ntcp = "127.0.0.1:{port}"\n'
    )
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("instance.failed", subject="app:1")
        daemon.until("instance.started", lambda line: line["text"].startswith("app:2"))
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass


def test_json_on_a_terminal_holds_no_control_character(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread may be named so that its name moves the cursor: terminals obey U+009B, which JSON leaves as it is."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    screen.say_json({"text": "\x9b2J \u202e \x1b[2J"})
    assert capsys.readouterr().out.rstrip("\n").isprintable()


def _fill(connection: socket.socket) -> None:
    """Send until the peer, which reads nothing, takes no more."""
    connection.setblocking(False)
    try:
        while True:
            connection.send(bytes(65536))
    except BlockingIOError:
        connection.setblocking(True)
