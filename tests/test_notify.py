"""The sd_notify datagram on real sockets."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import notify
from supervisor.notify import Listener, Message

ME = (os.getpid(), os.getuid())


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify"))
    yield listener
    listener.close()


def received(listener: Listener, seconds: float = 5.0) -> list[Message]:
    """What has come, once something has."""
    assert select.select([listener.fileno()], [], [], seconds)[0], "nothing came"
    return list(listener.receive())


def raw(listener: Listener, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, listener.path)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_send_as_text_and_as_mapping_arrives_with_the_kernels_credentials(listener: Listener) -> None:
    assert notify.send("READY=1\nSTATUS=up", listener.path)
    assert notify.send({"WATCHDOG": "1", "STATUS": "two\nlines=1"}, listener.path)
    assert received(listener) == [
        Message(*ME, {"READY": "1", "STATUS": "up"}),
        Message(*ME, {"WATCHDOG": "1", "STATUS": "two lines=1"}),
    ]


def test_send_without_a_path_takes_the_environments(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.send("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", listener.path)
    assert notify.send("READY=1")
    assert [message.state for message in received(listener)] == [{"READY": "1"}]


def test_send_to_an_abstract_socket_arrives() -> None:
    name = f"reviver-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        assert notify.send("READY=1", "@" + name)
        assert sock.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


@pytest.mark.parametrize("path", ["", "relative", "vsock:2:1234", "/no/such/directory/notify", "/" + "x" * 200])
def test_send_to_nobody_is_false(path: str) -> None:
    assert not notify.send("READY=1", path)


def test_send_of_too_much_is_false_and_nothing_arrives(listener: Listener) -> None:
    assert not notify.send({"STATUS": "x" * notify.STATE_LIMIT_BYTES}, listener.path)
    assert list(listener.receive()) == []


def test_send_to_a_full_queue_is_false_and_does_not_wait(listener: Listener) -> None:
    """Would hang here if it waited: nobody reads. Afterwards all that was taken is there, in portions."""
    sent = 0
    while notify.send(f"N={sent}", listener.path):
        sent += 1
        assert sent < 100_000
    portions = []
    while portion := list(listener.receive()):
        portions.append(portion)
    assert all(len(portion) <= notify.RECEIVE_LIMIT for portion in portions)
    assert [message.state["N"] for portion in portions for message in portion] == [str(n) for n in range(sent)]


def test_receive_ignores_what_is_no_state(listener: Listener) -> None:
    for data in (b"", b"READY", b"=1", b"READY=1\0WATCHDOG=1", b"STATUS=" + b"x" * notify.STATE_LIMIT_BYTES):
        raw(listener, data)
    raw(listener, b"STATUS=\xff\nwithout\n\nREADY=1\0")
    assert received(listener) == [Message(*ME, {"STATUS": "\ufffd", "READY": "1"})]


def test_receive_of_a_key_given_twice_takes_the_first(listener: Listener) -> None:
    raw(listener, b"STATUS=one\nSTATUS=two\nA=b=c")
    assert received(listener)[0].state == {"STATUS": "one", "A": "b=c"}


def test_receive_closes_descriptors_after_the_message_was_dealt_with(listener: Listener) -> None:
    """The sender of BARRIER=1 waits for the hang-up of its pipe: not before we are done with what it said."""
    reader, writer = os.pipe()
    try:
        assert notify.send("BARRIER=1", listener.path, [writer])
        os.close(writer)
        waiting = select.poll()
        waiting.register(reader, select.POLLHUP)
        for message in listener.receive():
            assert message.state == {"BARRIER": "1"}
            assert waiting.poll(0) == []
        assert waiting.poll(0) == [(reader, select.POLLHUP)]
    finally:
        os.close(reader)


def test_receive_of_many_descriptors_leaves_none_open(listener: Listener) -> None:
    before = descriptors()
    with open(os.devnull) as file:
        for _ in range(3):
            assert notify.send("FDSTORE=1", listener.path, [file.fileno()] * notify.FDS_LIMIT)
    raw(listener, b"X=" + b"x" * notify.STATE_LIMIT_BYTES)
    assert [message.state for _ in range(4) for message in listener.receive()] == [{"FDSTORE": "1"}] * 3
    assert descriptors() == before


def test_receive_leaves_to_another_what_may_take_for_ever_to_close(tmp_path: Path) -> None:
    """A socket that lingers holds up whoever closes it last; it may also come inside of another one that is sent along."""
    discarded: list[int] = []
    listener = Listener(str(tmp_path / "notify"), discarded.append)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as lingering:
        assert notify.send("FDSTORE=1", listener.path, [lingering.fileno()] * notify.FDS_LIMIT)
        assert notify.send("READY=1", listener.path)
        assert [message.state for message in listener.receive()] == [{"FDSTORE": "1"}]
        assert len(discarded) == notify.FDS_LIMIT, "none may be closed here, nor by the kernel in our place"
        assert os.path.sameopenfile(discarded[0], lingering.fileno())
    assert [message.state for message in listener.receive()] == [{"READY": "1"}]
    for fd in discarded:
        os.close(fd)
    listener.close()


def test_deafened_listener_refuses_at_once(listener: Listener) -> None:
    listener.deafen()
    assert not notify.send("READY=1", listener.path)


def test_receive_tells_a_child_from_ourselves(listener: Listener) -> None:
    code = "import sys; sys.path[:0] = [sys.argv[1]]; from supervisor import notify; sys.exit(not notify.send('READY=1'))"
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen([sys.executable, "-c", code, root], env={"NOTIFY_SOCKET": listener.path}) as child:
        assert received(listener) == [Message(child.pid, ME[1], {"READY": "1"})]
    assert child.returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="another user's process needs root")
def test_listener_in_a_0711_directory_is_reached_by_another_user(tmp_path: Path) -> None:
    """The way in that a program with `user =` has; pytest's own directories are 0700, so one of ours stands in the open."""
    directory = Path(f"/tmp/reviver-test-{uuid.uuid4().hex}")
    directory.mkdir(mode=0o711)
    listener = Listener(str(directory / "notify"))
    code = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', {listener.path!r})"
    try:
        with subprocess.Popen(["/usr/bin/env", "python3", "-c", code], user=65534, group=65534, extra_groups=[], cwd="/") as child:
            assert received(listener) == [Message(child.pid, 65534, {"READY": "1"})]
    finally:
        listener.close()
        directory.rmdir()


def test_listener_takes_over_a_dead_ones_socket_and_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    dead = Listener(str(path))
    living = Listener(str(path))
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        dead.close()
        assert path.exists(), "the living one's socket is not the dead one's to remove"
        assert notify.send("READY=1", str(path))
        assert len(received(living)) == 1
    finally:
        living.close()
    assert not path.exists()
    path.write_text("mine")
    before = descriptors()
    with pytest.raises(OSError, match="in use"):
        Listener(str(path))
    assert path.read_text() == "mine"
    assert descriptors() == before
