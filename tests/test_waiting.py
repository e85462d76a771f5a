"""What threads wait for, and what the host has left, read of real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from supervisor.mechanism import pressure, waiting

DEADLINE_S = 10.0
WAITS = {
    "select": "import select, sys; select.select([int(sys.argv[1])], [], [])",
    "poll": "import select, sys; p = select.poll(); p.register(int(sys.argv[1])); p.poll(1000000)",
}


@pytest.mark.parametrize("script", WAITS.values(), ids=WAITS)
def test_polled_descriptors_are_those_of_the_call(script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        child = subprocess.Popen([sys.executable, "-c", script, str(fd)], pass_fds=[fd])
        try:
            assert _until(lambda: waiting.polled(child.pid, child.pid)) == frozenset({fd})
            assert waiting.sockets(child.pid) == {fd: os.fstat(fd).st_ino}
            assert waiting.epolled(child.pid) == frozenset()
        finally:
            child.kill()
            child.wait()


def test_epolled_descriptors_are_those_that_are_watched() -> None:
    script = "import select, sys; e = select.epoll(); e.register(int(sys.argv[1])); e.poll()"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        child = subprocess.Popen([sys.executable, "-c", script, str(fd)], pass_fds=[fd])
        try:
            assert _until(lambda: waiting.epolled(child.pid)) == frozenset({fd})
            assert waiting.polled(child.pid, child.pid) is None
        finally:
            child.kill()
            child.wait()


def test_nothing_is_known_of_a_process_that_is_gone() -> None:
    gone = 2**22 + 1  # beyond pid_max
    assert waiting.sockets(gone) == {}
    assert waiting.epolled(gone) == frozenset()
    assert waiting.polled(gone, gone) is None
    assert pressure.pss_bytes([gone]) is None


def test_host_tells_of_itself() -> None:
    host = pressure.host()
    assert host.processors == os.cpu_count()
    assert 0.0 <= host.memory_stall <= 1.0
    assert 0.0 <= host.disk_stall <= 1.0
    assert pressure.suspended_s() >= 0
    pss_bytes = pressure.pss_bytes([os.getpid()])
    assert pss_bytes is not None
    assert pss_bytes > 1_000_000
    assert pressure.available_bytes() > 0


def _until(look: Callable[[], frozenset[int] | None]) -> frozenset[int]:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found
