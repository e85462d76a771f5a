"""What a dead supervisor left: processes that live on, the pipes of their output, their listening sockets. Blocks: for a lane.

What the service manager kept for us (the descriptor store) is taken first: only a pidfd from before an exit tells how it ended. What it
did not keep is taken from the living: a pipe is opened again through /proc, a listening socket is copied out of the process that has it.
Nothing is believed of a bare pid: its start time says whether it is still the same process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.mechanism import exits, tree
from supervisor.mechanism.gate import NOT_OPENED, at_gate
from supervisor.model import Instance, OutputTo

GATE_S = 2.0  # a child whose supervisor died reads the end of its gate within a millisecond; a busy host takes longer
GATE_STEP_S = 0.005
SOCKETS_LIMIT = 256  # descriptors of one process that are looked at for its listening sockets: servers have theirs among the first
_PIDFD_GETFD = 438  # pidfd_getfd(2), the same number on all architectures


@dataclass(frozen=True, slots=True)
class Survivor:
    """What there is of one instance. The descriptors belong to whoever holds this value.

    pidfd    of its leader, which may have ended by now; -1 when it ended and nobody had one
    output   where its output is read; -1 when it is not ours to read
    unborn   its gate never opened, and it has run nothing
    """

    pidfd: int
    output: int
    unborn: bool = False


def survivor(instance: Instance, kept: Sequence[int], to: OutputTo) -> Survivor:
    """Find out what there is of an instance; `kept` are the descriptors that were stored for it, and become the answer's, or are closed."""
    assert instance.pid is not None
    assert instance.start_ticks is not None
    pidfds = [fd for fd in kept if _is_pidfd(fd)]
    pipes = [fd for fd in kept if stat.S_ISFIFO(os.fstat(fd).st_mode)]
    pidfd = pidfds[0] if pidfds else _seize(instance.pid, instance.start_ticks)
    output = pipes[0] if pipes else _pipe(instance.pid) if pidfd >= 0 and to is OutputTo.FILE else -1
    for fd in kept:
        if fd not in (pidfd, output):
            os.close(fd)
    unborn = instance.ready is None and pidfd >= 0 and _unborn(instance.pid, pidfd)
    if unborn:
        for fd in (pidfd, output):
            if fd >= 0:
                os.close(fd)
        return Survivor(-1, -1, unborn=True)
    return Survivor(pidfd, output)


def identify(kept: Sequence[int]) -> tuple[int, int] | None:
    """The pid and the start time of the living process whose pidfd is among these; None: there is none."""
    for fd in kept:
        if _is_pidfd(fd):
            about = Path(f"/proc/self/fdinfo/{fd}").read_text()
            pid = int(about.partition("\nPid:")[2].split()[0])
            ticks = tree.start_ticks(pid) if pid > 0 else None
            if ticks is not None and not _ended(fd, 0.0):  # only now: who lives afterwards had that number all the time
                return pid, ticks
    return None


def listeners(instances: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Copies of the listening sockets that living instances have, each (pid, pidfd); for whoever asks to close."""
    found = []
    for pid, pidfd in instances:
        for fd in _descriptors(pid):
            if _target(pid, fd).startswith("socket:") and (copy := _copied(pidfd, fd)) >= 0:
                if _listens(copy):
                    found.append(copy)
                else:
                    os.close(copy)
    return tuple(found)


def _seize(pid: int, start_ticks: int) -> int:
    """A pidfd of exactly that process, -1 when it is gone, or no descriptor is left."""
    try:
        pidfd = tree.seize(pid, start_ticks)
    except OSError:
        return -1
    return -1 if pidfd is None else pidfd


def _unborn(pid: int, pidfd: int) -> bool:
    """Whether its gate stayed shut. Who stands at a gate whose other end died ends at once: that is waited for."""
    deadline = time.monotonic() + GATE_S
    while not (ended := _ended(pidfd, GATE_STEP_S if at_gate(pid) else 0.0)):
        if not at_gate(pid) or time.monotonic() > deadline:
            return False
    return ended and exits.ending(pidfd, pid, reap=False)[0] == NOT_OPENED


def _ended(pidfd: int, wait_s: float) -> bool:
    return bool(select.select([pidfd], [], [], wait_s)[0])


def _pipe(pid: int) -> int:
    """The read end of the pipe that is its standard output, or its error output; -1 when neither is one, or is not ours to open."""
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            found = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISFIFO(os.fstat(found).st_mode):
                return found
            os.close(found)
    return -1


def _is_pidfd(fd: int) -> bool:
    return _target(os.getpid(), fd) == "anon_inode:[pidfd]"


def _descriptors(pid: int) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))[:SOCKETS_LIMIT]
    except OSError:
        return []


def _target(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def _copied(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor; the same rights as to trace it. -1 when it is refused."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fd, 0))


def _listens(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
