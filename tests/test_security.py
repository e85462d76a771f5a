"""Attacks on a whole supervisor: what another user of the host, or a program that was taken over, must not be able to do."""

from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path

from supervisor import notify
from tests.supervised import Supervised, python

SLEEPER = "import signal; signal.pause()"
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


def _fill(connection: socket.socket) -> None:
    """Send until the peer, which reads nothing, takes no more."""
    connection.setblocking(False)
    try:
        while True:
            connection.send(bytes(65536))
    except BlockingIOError:
        connection.setblocking(True)
