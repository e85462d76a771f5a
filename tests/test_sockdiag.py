"""What the kernel says of real sockets: queues, ages, owners."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.mechanism import sockdiag
from supervisor.mechanism.listening import Listening
from supervisor.mechanism.sockdiag import Connection, Owners, SockDiag, queue_of


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    diag = SockDiag()
    yield diag
    diag.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener


def test_queue_holds_what_nobody_accepted_yet(diag: SockDiag, listener: socket.socket) -> None:
    """Three customers wait, one is taken: the held descriptor and netlink agree."""
    port = listener.getsockname()[1]
    customers = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    assert queue_of(listener) == (3, 16)
    taken, _ = listener.accept()
    (seen,) = diag.listeners(port)
    assert (seen.host, seen.port, seen.queue, seen.backlog) == ("127.0.0.1", port, 2, 16)
    assert seen.inode == os.fstat(listener.fileno()).st_ino
    for each in (*customers, taken):
        each.close()


def test_connection_tells_who_spoke_last(diag: SockDiag, listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.create_connection(address) as customer:
        queued = _only(diag, address[1])
        assert queued.inode == 0
        customer.sendall(b"hello")
        server, _ = listener.accept()
        with server:
            asked = _only(diag, address[1])
            assert (asked.inode, asked.unread, asked.received, asked.acked) == (os.fstat(server.fileno()).st_ino, 5, 5, 0)
            assert asked.peer == customer.getsockname()
            assert asked.local == address
            server.recv(5)
            server.sendall(b"good day")
            customer.recv(8)
            while (answered := _only(diag, address[1])).acked < 8:
                pass  # the customer's side may confirm up to 40 ms later
            assert (answered.unread, answered.acked) == (0, 8)
            assert answered.sent_ms <= answered.received_ms
            customer.shutdown(socket.SHUT_WR)
            server.recv(1)
            assert _only(diag, address[1]).left


def test_who_came_and_left_without_a_word_waits_for_nothing(diag: SockDiag, listener: socket.socket) -> None:
    """Its end counts as a byte in the kernel's sums. A server that closes it then has served nobody."""
    port = listener.getsockname()[1]
    with socket.create_connection(listener.getsockname()) as customer:
        server, _ = listener.accept()
        with server:
            customer.close()
            while not _only(diag, port).left:
                pass
            listening = Listening(diag, (listener.fileno(),))
            (seen,) = listening.look(time.monotonic(), None, (), attribute=False).clients
            listening.close()
            assert (seen.waiting, seen.unread, seen.read_bytes) == (False, False, 0)


def test_one_connection_is_found_by_its_two_addresses(diag: SockDiag, listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as customer:
        found = diag.connection(customer.getpeername(), customer.getsockname())
        assert found is not None
        assert found.inode == 0
    assert diag.connection(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_ipv4_customer_of_a_dual_stack_socket_is_seen(diag: SockDiag) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as customer:
            seen = _only(diag, port)
            assert seen.peer == customer.getsockname()
            again = diag.connection(("127.0.0.1", port), customer.getsockname())
            assert again is not None
            assert again.peer == seen.peer


def test_owner_is_the_process_that_holds_the_descriptor(diag: SockDiag, listener: socket.socket) -> None:
    """The child accepts; neither we nor a process that is gone own what it took, and nobody owns it once it has ended."""
    script = "import socket, sys; taken, _ = socket.socket(fileno=int(sys.argv[1])).accept(); print(flush=True); sys.stdin.read()"
    fd = listener.fileno()
    child = subprocess.Popen([sys.executable, "-c", script, str(fd)], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    owners = Owners()
    with child, socket.create_connection(listener.getsockname()):
        assert child.stdout is not None
        child.stdout.readline()
        inode = _only(diag, listener.getsockname()[1]).inode
        gone = 2**22 + 1  # beyond pid_max
        assert owners.find([inode], [os.getpid(), gone, child.pid]) == {inode: child.pid}
        assert owners.find([inode], [os.getpid()]) == {}
        assert owners.find([inode], [child.pid]) == {inode: child.pid}
        child.communicate()
        assert owners.find([inode], [child.pid]) == {}


def test_unix_queue_names_those_who_wait(diag: SockDiag, tmp_path: Path) -> None:
    path = str(tmp_path / "store.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as customer:
        listener.bind(path)
        listener.listen(7)
        customer.connect(path)
        inode = os.fstat(listener.fileno()).st_ino
        queue = diag.unix_queue(inode)
        assert (queue.queue, queue.backlog, queue.clients) == (1, 7, (os.fstat(customer.fileno()).st_ino,))
        assert [(each.host, each.queue) for each in diag.unix_listeners() if each.inode == inode] == [(path, 1)]
    with pytest.raises(FileNotFoundError):
        diag.unix_queue(inode)


def test_unix_peer_is_known_once_it_is_accepted(diag: SockDiag, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as customer:
        listener.bind(str(tmp_path / "store.sock"))
        listener.listen(7)
        customer.connect(listener.getsockname())
        inode = os.fstat(customer.fileno()).st_ino
        assert diag.unix_peer(inode) == 0
        taken, _ = listener.accept()
        with taken:
            assert diag.unix_peer(inode) == os.fstat(taken.fileno()).st_ino
    with pytest.raises(FileNotFoundError):
        diag.unix_peer(inode)


def test_look_that_is_cut_short_does_not_spoil_the_next(
    diag: SockDiag, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a dump that was given up must not be taken for the answer to the next question."""
    port = listener.getsockname()[1]
    customers = [socket.create_connection(listener.getsockname()) for _ in range(4)]
    monkeypatch.setattr(sockdiag, "CONNECTIONS_LIMIT", 2)
    assert len(diag.connections([port])) == 2
    monkeypatch.setattr(sockdiag, "CONNECTIONS_LIMIT", 100)
    assert len(diag.connections([port])) == 4
    assert [each.port for each in diag.listeners(port)] == [port]
    for each in customers:
        each.close()


def test_queue_of_what_is_no_tcp_socket_raises() -> None:
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        queue_of(other)


def _only(diag: SockDiag, port: int) -> Connection:
    (found,) = diag.connections([port])
    return found
