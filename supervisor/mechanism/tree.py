"""A process tree: who belongs to it, and how all of it is ended. Everything here is read from /proc and signalled by pidfd.

It touches nothing but /proc, signals and the tree's control group, where it has one (cgroups.py): that knows and ends whoever is in it,
and the rest is for hosts without, and for those who left it. Nothing is ever sent to a bare pid: a process is seized by its pidfd, then
its start time is compared, then the pidfd is signalled. Who belongs to a tree is found in four more ways, because every single one can
be shaken off: descent from its leader (a double fork leaves it), the leader's session (setsid leaves it), the marks in the environment
(a program may wipe them), and having been seen in the tree before.

A process that loses its parent becomes the child of the nearest subreaper, and there of the first thread that lives: our main thread
(exit.c, find_new_reaper). What we start ourselves in lanes stands in their threads' lists. So the main thread's list of children is
short, and nearly all that stands in it came from trees.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from supervisor.mechanism import cgroups
from supervisor.model import InstanceId

HELD_LIMIT = 256  # processes seized at once: each costs a descriptor, and a fork bomb must not take the daemon's last one
ROUND_S = 0.1  # how long one round waits for what it killed: SIGKILL takes effect within milliseconds, or not at all
_READ_BYTES = 65536
_ONE_READ = 1  # byte: a short file comes whole with the first
_ENVIRON_LIMIT_BYTES = (
    2 * 1024 * 1024
)  # what execve takes at the usual stack limit; a process may show any part of its memory there
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class Stat(NamedTuple):
    """What /proc/PID/stat says (proc_pid_stat(5)). `threads` counts those that are not reaped yet."""

    state: str
    ppid: int
    session: int
    threads: int
    start_ticks: int

    @property
    def lives(self) -> bool:
        """A leader in state Z whose threads go on is alive."""
        return self.state not in "ZX" or self.threads > 1


@dataclass(frozen=True, slots=True)
class Tree:
    """What a tree is known by.

    marks   NAME=value entries that stand, all of them, in the environment of each process that kept what it was given
    group   its control group's folder; "" or a folder that is not there: it has none
    """

    leader: int
    start_ticks: int
    marks: tuple[bytes, ...]
    group: str = ""


def marks(id: InstanceId, leader: int) -> tuple[bytes, ...]:
    """The marks of an instance's processes. The pid tells it from the same id under another supervisor of this host."""
    return (f"REVIVER_INSTANCE={id}".encode(), f"REVIVER_PID={leader}".encode())


def stat(pid: int) -> Stat | None:
    """One process, None when it is gone. Its name may hold spaces and parentheses: the fields begin after the last one."""
    fields = _read(f"/proc/{pid}/stat", _ONE_READ).rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[17]), int(fields[19]))


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot (field 22 of /proc/PID/stat); None when it is gone."""
    found = stat(pid)
    return None if found is None else found.start_ticks


def tree(pid: int) -> list[int]:
    """A process and all its descendants, parents first, dead ones that are not reaped too; [] when it is gone."""
    return _descent([pid]) if stat(pid) is not None else []


def children(pid: int) -> list[int]:
    """The children of all threads of a process, dead ones that are not reaped too."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except _GONE:
        return []
    return [int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split()]


def environ(pid: int) -> frozenset[bytes]:
    """The NAME=value entries that a process shows; none when it is gone or not ours to read. Its own word: it may be forged."""
    return frozenset(_read(f"/proc/{pid}/environ", _ENVIRON_LIMIT_BYTES).split(b"\0"))


def orphans() -> list[int]:
    """Our children that came to us because their parent ended, and those that our own main thread started."""
    me = os.getpid()
    return [int(pid) for pid in _read(f"/proc/{me}/task/{me}/children").split()]


def everyone() -> list[int]:
    """All processes of the host but ourselves."""
    me = os.getpid()
    return [pid for name in os.listdir("/proc") if name.isdecimal() and (pid := int(name)) != me]


def living(of: Tree, strangers: Iterable[int], seen: dict[int, int] | None = None) -> dict[int, int]:
    """The processes of a tree that live, each with its start time.

    strangers  where to look for those that are no longer descended from the leader
    seen       pid -> start time of processes known to belong to it
    """
    leader = stat(of.leader)
    is_ours = leader is not None and leader.start_ticks == of.start_ticks
    roots = [of.leader] if is_ours else []
    roots += cgroups.members(of.group)
    roots += [pid for pid in strangers if pid != of.leader and _belongs(of, pid, is_ours, seen or {})]
    found = {}
    for pid in _descent(roots):
        state = stat(pid)
        if state is not None and state.lives:
            found[pid] = state.start_ticks
    return found


def end(of: Tree, strangers: Callable[[], Iterable[int]], deadline_s: float) -> int:
    """SIGKILL for a whole tree: for its group at once; then whoever else is found is stopped, so that none gets away by forking, and
    killed, until two rounds find nobody.

    Blocks, for at most `cgroups.KILL_S`, `deadline_s` and one round more. What is left of those that became our children is reaped,
    except the leader: whoever watches it wants its status.

    returns  how many live on: in uninterruptible sleep, not ours to signal, or still forking at the deadline
    raises   OSError when our own descriptors are used up
    """
    if of.group:
        cgroups.end(of.group)
        _reap_members(of)
    deadline = time.monotonic() + deadline_s
    seen: dict[int, int] = {}
    quiet = 0
    while quiet < 2:
        held: dict[int, int] = {}
        try:
            _stop_all(of, strangers, seen, held, deadline)
        finally:  # those that were stopped are killed even when there was no descriptor left for one more
            _kill_all(of, held)
        quiet = 0 if held else quiet + 1
        if time.monotonic() >= deadline:
            return len(living(of, strangers(), seen))
    return 0


def _stop_all(
    of: Tree, strangers: Callable[[], Iterable[int]], seen: dict[int, int], held: dict[int, int], deadline: float
) -> None:
    """Seize and stop processes of the tree until no new one is found. `held` gets pid -> pidfd."""
    while len(held) < HELD_LIMIT:
        fresh = [(pid, ticks) for pid, ticks in living(of, strangers(), seen).items() if pid not in held]
        for pid, ticks in fresh[: HELD_LIMIT - len(held)]:
            seen[pid] = ticks
            pidfd = seize(pid, ticks)
            if pidfd is not None:
                held[pid] = pidfd
                send(pidfd, signal.SIGSTOP)
        if not fresh or time.monotonic() >= deadline:
            break


def _kill_all(of: Tree, held: dict[int, int]) -> None:
    for pidfd in held.values():
        send(pidfd, signal.SIGKILL)
    _wait(held.values(), ROUND_S)
    for pid, pidfd in held.items():
        if pid != of.leader:
            _reap(pidfd)
        os.close(pidfd)


def _reap_members(of: Tree) -> None:
    """Reap the dead of its group that became our children."""
    for pid in orphans():
        state = stat(pid)
        if pid == of.leader or state is None or state.lives or str(cgroups.where(pid)) != of.group:
            continue
        pidfd = seize(pid, state.start_ticks)
        if pidfd is not None:
            _reap(pidfd)
            os.close(pidfd)


def _belongs(of: Tree, pid: int, by_session: bool, seen: dict[int, int]) -> bool:
    """by_session: the leader's pid is still the leader's, so that the number of its session cannot be another's."""
    state = stat(pid)
    if state is None or not state.lives or state.start_ticks < of.start_ticks:
        return False
    if (by_session and state.session == of.leader) or seen.get(pid) == state.start_ticks:
        return True
    return environ(pid).issuperset(of.marks)


def _descent(roots: list[int]) -> list[int]:
    found = list(dict.fromkeys(roots))
    known = set(found)
    for parent in found:  # grows while it is walked
        for child in children(parent):
            if child not in known:
                known.add(child)
                found.append(child)
    return found


def seize(pid: int, ticks: int) -> int | None:
    """The pidfd of exactly that process, None when it is gone. Raises OSError when our own descriptors are used up."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_ticks(pid) == ticks:
        return pidfd
    os.close(pidfd)
    return None


def send(pidfd: int, number: int) -> None:
    """Signal it, unless it is gone, or became another user's: a tree counts it then, and for an instance policy's patience decides."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, number)


def _wait(pidfds: Iterable[int], timeout_s: float) -> None:
    """Until all of these processes have ended (a pidfd is readable then), or the time is over."""
    poll = select.poll()
    waiting = set(pidfds)
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            waiting.discard(pidfd)


def _reap(pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):  # another's child, or reaped already
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _read(path: str, limit_bytes: float = math.inf) -> bytes:
    """A file of /proc, whole or up to a limit; b"" when its process is gone or not ours to read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _GONE:
        return b""
    try:
        data = bytearray()
        while len(data) < limit_bytes and (part := os.read(file, _READ_BYTES)):
            data += part
        return bytes(data)
    except _GONE:
        return b""
    finally:
        os.close(file)
