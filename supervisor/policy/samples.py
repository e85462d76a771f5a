"""What a verdict is made of: samples of a process tree, its sockets and the host, and what moved between two looks. Pure values.

What moves: bytes that a server sends and a client confirms, a request that is done. What does not: a connection that is accepted (a
live acceptor takes what its stuck threads will never serve), a client that gives up, an idle connection that closes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.model import HangSettings, Verdict
from supervisor.policy.values import replace

OURS_S = (
    0.1  # a connection whose request is as old as our question is taken for ours: the kernel's ages are true to some milliseconds
)


@dataclass(frozen=True, slots=True)
class ThreadSample:
    """One thread. `run_ns` and `wait_ns` (ready to run, but not running) only grow; `place` is where it waits, "" is unknown."""

    tid: int
    state: str  # as the kernel writes it: R S D T t Z I
    run_ns: int
    wait_ns: int
    place: str = ""  # lock, sleep, socket, poll, epoll, accept, pipe, child, disk; else the kernel's own word


@dataclass(frozen=True, slots=True)
class ProcessSample:
    pid: int
    parent: int
    state: str
    cpu_s: float  # user and system time of all its threads so far
    rss_bytes: int
    threads: tuple[ThreadSample, ...] = ()  # only in a full sample
    major_faults: int = 0  # pages that it had to wait for a disk for, so far


@dataclass(frozen=True, slots=True)
class TreeSample:
    """One look at a process tree, its leader first. Full when it tells of threads."""

    at: float
    processes: tuple[ProcessSample, ...]

    @property
    def full(self) -> bool:
        return bool(self.processes) and bool(self.processes[0].threads)


@dataclass(frozen=True, slots=True)
class Client:
    """One open connection to the program.

    key       of the connection while it lives: the client's address and port, and ours
    inode     of the server's socket; 0 while nobody has accepted it
    owner     the process that accepted it; 0 is nobody, or not looked for
    waiting   it wants something that the server has not said
    unread    the server has not even read it
    since     from when it waits, or the connection was made
    acked     bytes of the server that it has confirmed
    read_bytes  what the server has read of all that it sent
    """

    key: tuple[str, int, int]
    inode: int
    owner: int
    waiting: bool
    unread: bool
    since: float
    acked: int
    read_bytes: int = 1

    @property
    def untaken(self) -> bool:
        return self.waiting and (self.inode == 0 or self.unread)


@dataclass(frozen=True, slots=True)
class SocketSample:
    """One look at the listening sockets. `held` are inodes that a process still has open although the connection is gone."""

    at: float
    queue: int
    backlog: int
    clients: tuple[Client, ...] = ()
    held: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Host:
    processors: int
    load: float  # the mean number of runnable or uninterruptible threads over the last minute
    memory_stall: float = 0.0  # the part of the last ten seconds in which all work of the host waited for memory (PSI, full)
    disk_stall: float = 0.0  # the same for disks


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker that has owed an answer for long: a process with siblings under one parent that take the same connections.

    alive     the last instant at which it said or finished something, took a request, or waited for connections with a thread free
    owed      requests that it took and has not answered
    siblings  that owe no such answer
    others    the last instant at which a sibling was seen to wait for connections
    """

    pid: int
    alive: float
    owed: int
    siblings: int
    others: float = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Everything that a verdict on one instance is made of.

    ready    when it first answered; None: it is starting
    moved    the last instant at which something of it moved, at least `ready`
    watched  there is something that could tell of movement: a probe, a heartbeat or a known port
    asked    since when a probe or a heartbeat of this instance has been missing; None: none is
    passed   probes in a row that other instances accepted, since it last moved
    doubted  since when the last verdict found it silent, if nothing moved since then; None: it did not
    shared   other instances live on the same sockets
    answer   what its last probe said, for people
    ill      the last probe was answered, and not well (an http status of 500)
    sockets  the newest look; None: no port is known, or it is too long ago
    workers  those of its workers that have owed an answer for long
    blind    why our own samples are not to be trusted; "": they are
    """

    now: float
    hang: HangSettings
    spawned: float
    moved: float
    ready: float | None = None
    watched: bool = True
    asked: float | None = None
    passed: int = 0
    doubted: float | None = None
    shared: bool = False
    answer: str = ""
    ill: bool = False
    stopping: bool = False
    trees: tuple[TreeSample, ...] = ()
    sockets: SocketSample | None = None
    blind: str = ""
    host: Host | None = None
    workers: tuple[WorkerSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerFinding:
    """A verdict on one worker of an instance that serves, and since when nothing of that worker moved."""

    pid: int
    verdict: Verdict
    since: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, since when nothing had moved (None: that is not known), and which workers alone do nothing while others serve."""

    verdict: Verdict
    since: float | None
    workers: tuple[WorkerFinding, ...] = ()


# --- what moved between two looks ------------------------------------------------------------------------------------------------


def follow(before: SocketSample | None, after: SocketSample) -> SocketSample:
    """The newer look, in which a request that goes on waiting keeps the instant from which it waits (a client that sends more, or a
    connection that is accepted, would make it look younger)."""
    if before is None:
        return after
    known = {client.key: client for client in before.clients if client.waiting}
    clients = []
    for client in after.clients:
        old = known.get(client.key)
        goes_on = old is not None and client.waiting and client.acked == old.acked and old.inode in (0, client.inode)
        clients.append(replace(client, since=min(client.since, old.since)) if old is not None and goes_on else client)
    return replace(after, clients=tuple(clients))


def moved_between(before: SocketSample, after: SocketSample, pids: frozenset[int] | None, given_up: Iterable[float] = ()) -> bool:
    """Whether something was sent or finished by these processes between two looks; None is by anybody.

    given_up  when our own questions were put that had no answer: a server whose acceptor lives closes what its client left, and that
              is no movement

    A connection that was made and finished between the looks leaves no trace; the probe tells of those.
    """
    now = {client.key: client for client in after.clients}
    old = {client.key: client for client in before.clients}
    visible = sum(1 for client in after.clients if client.inode == 0)
    resets = max(0, after.queue - visible)  # dead connections that stand in the queue until they are accepted
    for key, client in old.items():
        then = now.get(key)
        if client.inode == 0 and (then is None or then.inode == 0):
            if then is None and pids is None and not _left_queue_by_itself(client, after, resets):
                return True
            continue
        if pids is not None and (client.owner or (then.owner if then is not None else 0)) not in pids:
            continue
        if then is None and any(abs(client.since - asked) < OURS_S for asked in given_up):
            continue
        if _progressed(client, then, after.held):
            return True
    fresh = (client for client in after.clients if client.key not in old and (pids is None or client.owner in pids))
    return any(client.inode and client.acked > 1 for client in fresh)


def _progressed(client: Client, then: Client | None, held: frozenset[int]) -> bool:
    """Of an accepted connection: more was said, or it is done. When the client resets it, the server's socket is still open."""
    if then is None or (client.inode and then.inode != client.inode):
        return client.waiting and client.inode not in held
    return then.acked > client.acked and then.acked > 1


def _left_queue_by_itself(client: Client, after: SocketSample, resets: int) -> bool:
    """Whether a connection that was queued and is gone was reset by its client: the queue is first in, first out, so an older one
    that still stands in it, or a dead one that does, says so."""
    return resets > 0 or any(other.inode == 0 and other.since < client.since for other in after.clients)
