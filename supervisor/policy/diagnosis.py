"""A window of samples -> verdict. Pure: what it does not find in the window it does not know.

Two questions, never mixed. *Are customers served?* Silence is an open question (an unanswered probe, a request that nobody
took, a heartbeat that is overdue) with nothing moving since: after `suspect` it is suspicion. *Is it hung?* Only silence for
`certain` with a thread that always wants the processor or with every thread parked on a lock, or silence for `blocked` with
anything else; and it must have been seen to do so for nearly all of that time. Excuses come first: our own blindness, a
stopped process, an uninterruptible wait, a starved host.

What moves: an answer of this instance, bytes that it sends and a client confirms, a request that is done. What does not: a
connection that is accepted (a live acceptor takes what its stuck threads will never serve), a client that gives up, an idle
connection that closes. An instance that nobody asks is never silent, so time without customers counts for nothing.

Figures: measured on recorded faults and benign loads; the sentences beside them say which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from supervisor.model import HangSettings, Kind, Nature, Verdict

WINDOW_S = 2.0  # what a thread does is judged over this: shorter is noise, longer is late
SPAN_LEAST_S = 0.3  # two samples nearer than this say nothing of a rate
SILENT_SAMPLER_S = 3.0  # older samples say nothing of now
HOT_RATIO = 0.70  # of wall time: endless loops in 8 runtimes ran above it, servers under load below it
READY_RATIO = 0.9  # of at least READY_SAMPLES samples: a loop is always seen running or ready, other work is seen waiting at times
READY_SAMPLES = 5
WANTS_LEAST_RATIO = 0.30  # a thread that wants the processor and gets less than this is starved, not spinning
STARVED_SHARE = 0.5  # run-queue delay of run + delay
STARVED_DELAY_RATIO = 0.35  # run-queue delay of wall time
STOPPED_S = 1.0  # job control and debuggers stop a process for less
LASTING_S = 30.0  # no more than this is asked of the samples: they are kept for a minute
COVERED = 0.8  # of `certain` must have been sampled before it convicts
PASSED_OVER = 5  # probes in a row that others accepted: an instance that still takes connections would have had one
LEAK_BYTES_PER_S = 5_000_000
LEAK_S = 6.0  # loading a big file or a cache is over sooner
LEAK_PARTS = 3  # the memory must have grown in each part of that time


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
    """

    key: tuple[str, int, int]
    inode: int
    owner: int
    waiting: bool
    unread: bool
    since: float
    acked: int

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
    sockets  the newest look; None: no port is known
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


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and since when nothing had moved (None: that is not known)."""

    verdict: Verdict
    since: float | None


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


def moved_between(before: SocketSample, after: SocketSample, pids: frozenset[int] | None) -> bool:
    """Whether something was sent or finished by these processes between two looks; None is by anybody.

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


# --- the verdict ----------------------------------------------------------------------------------------------------------------


def diagnose(window: Window) -> Finding:
    """The verdict on one instance. Total: it has an answer for any window."""
    if window.blind:
        return Finding(Verdict(Kind.UNKNOWN, window.blind, window.now), None)
    newest = window.trees[-1] if window.trees else None
    if newest is None or not newest.processes or window.now - newest.at > SILENT_SAMPLER_S:
        return Finding(Verdict(Kind.UNKNOWN, "its processes could not be looked at", window.now), None)
    if window.ready is None:
        because = f"no answer yet, {_span(window.now - window.spawned)} after its start"
        return Finding(Verdict(Kind.STARTING, f"{because}; {window.answer}" if window.answer else because, window.spawned), None)
    if window.stopping:
        return Finding(Verdict(Kind.UNKNOWN, "it said that it is stopping", window.now), None)
    return _judge(window, newest)


def _judge(window: Window, newest: TreeSample) -> Finding:
    mine = _mine(window, newest)
    serving = _serving(newest, mine)
    sure, if_stuck = _questions(window, mine, serving)
    maybe_since = _quiet_since(window, sure + if_stuck)
    span_s = WINDOW_S if maybe_since is None else max(SPAN_LEAST_S, min(WINDOW_S, window.now - maybe_since))
    usage = rates(window.trees, window.now, span_s)  # what it did before it fell silent is no news
    nature, doing = _nature(window, serving, usage, span_s)
    stuck = nature in (Nature.SPINNING, Nature.LOCKED)
    quiet_since = maybe_since if stuck else _quiet_since(window, sure)
    stopped = _stopped_since(window)
    if stopped is not None and window.now - stopped >= STOPPED_S and window.moved <= stopped:
        return _stopped(window, stopped if quiet_since is None else min(stopped, quiet_since), stopped)
    if not window.watched:
        return _unwatched(window, newest)
    if quiet_since is None or window.now - quiet_since < window.hang.suspect_s:
        return _moving(window, mine, usage, quiet_since)
    silence = _silence(window, mine, quiet_since)
    if (where := _uninterruptible(window, serving)) is not None:
        because = f"{silence}, thread {where} in an uninterruptible wait (state D): a disk or a network file system"
        return Finding(Verdict(Kind.UNINTERRUPTIBLE, because, quiet_since), quiet_since)
    if (hunger := _starved(serving, usage, window.host)) is not None:
        return Finding(Verdict(Kind.STARVED, f"{silence}, {hunger}", quiet_since), quiet_since)
    kind = _conviction(window, serving, nature, window.now - quiet_since)
    return Finding(Verdict(kind, f"{silence}, {doing}", quiet_since, nature=nature), quiet_since)


def _mine(window: Window, newest: TreeSample) -> tuple[Client, ...]:
    """The waiting clients of this instance, and those that nobody has accepted; the oldest first."""
    if window.sockets is None:
        return ()
    pids = {process.pid for process in newest.processes}
    waiting = (c for c in window.sockets.clients if c.waiting and (c.inode == 0 or not window.shared or c.owner in pids))
    return tuple(sorted(waiting, key=lambda client: client.since))


def _serving(newest: TreeSample, mine: tuple[Client, ...]) -> frozenset[int]:
    """The processes whose doing counts: those that owe an answer, else all without children (a pre-fork server's workers)."""
    pids = {process.pid for process in newest.processes}
    owners = frozenset(client.owner for client in mine if client.owner in pids)
    return owners or frozenset(pids - {process.parent for process in newest.processes})


def _questions(window: Window, mine: tuple[Client, ...], serving: frozenset[int]) -> tuple[list[float], list[float]]:
    """From when somebody has been waiting for an answer: surely, and if the instance is seen to be stuck.

    A suspect whose queue is taken by others stays one while a customer of its own still waits, or while it is seen to be stuck. Without
    either it may be idle.
    """
    sure = [client.since for client in mine if client.untaken]
    if window.asked is not None:
        sure.append(window.asked)
    accepted = [client.since for client in mine if client.inode]
    if_stuck: list[float] = []
    if accepted and window.passed >= PASSED_OVER and not _accepts(window.trees, serving, max(min(accepted), window.moved)):
        if_stuck += accepted
    if window.doubted is not None:
        (sure if accepted else if_stuck).append(window.doubted)
    return sure, if_stuck


def _quiet_since(window: Window, questions: list[float]) -> float | None:
    """Since when there is a question and nothing moved; None: nobody waits for an answer."""
    return min(max(min(questions), window.moved), window.now) if questions else None


def _silence(window: Window, mine: tuple[Client, ...], quiet_since: float) -> str:
    what = "no answer" if window.asked is not None else "nothing finished"
    words = f"{what} for {_span(window.now - quiet_since)}"
    return f"{words}, oldest request {_span(window.now - mine[0].since)}" if mine else words


def _nature(window: Window, serving: frozenset[int], usage: Mapping[int, Usage], span_s: float) -> tuple[Nature, str]:
    """What the serving processes do, and that in words."""
    hottest = max((usage[pid] for pid in serving if pid in usage), key=lambda used: used.wants, default=None)
    if hottest is not None and hottest.spins:
        return Nature.SPINNING, hottest.words
    parked = _all_locked(window.trees, window.now - span_s, serving)
    if parked:
        return Nature.LOCKED, f"all {parked} threads wait for locks" if parked > 1 else "its only thread waits for a lock"
    return Nature.BLOCKED, _places(window.trees, serving)


def _conviction(window: Window, serving: frozenset[int], nature: Nature, quiet_s: float) -> Kind:
    """SUSPECT, or the hung kind once silence and what it does have lasted for the limit that holds for its nature."""
    hang = window.hang
    if nature in (Nature.SPINNING, Nature.LOCKED):
        if quiet_s >= hang.certain_s and _lasting(window, serving, nature):
            return Kind.SPINNING if nature is Nature.SPINNING else Kind.LOCKED
        return Kind.SUSPECT
    return Kind.BLOCKED if hang.blocked_s is not None and quiet_s >= hang.blocked_s else Kind.SUSPECT


def _lasting(window: Window, serving: frozenset[int], nature: Nature) -> bool:
    """Whether nearly all of `certain` was sampled, and it did the same all along: waiting for nine seconds and then working for one
    is no endless loop."""
    span_s = min(window.hang.certain_s, LASTING_S)
    full = [tree for tree in window.trees if tree.full and tree.at >= window.now - span_s]
    if not full or window.now - full[0].at < COVERED * span_s:
        return False
    return _nature(window, serving, rates(window.trees, window.now, span_s), span_s)[0] is nature


def _stopped(window: Window, quiet_since: float, stopped: float) -> Finding:
    stopped_s = window.now - stopped
    limit_s = window.hang.blocked_s
    kind = Kind.BLOCKED if limit_s is not None and stopped_s >= limit_s else Kind.STOPPED
    because = f"stopped (state T) for {_span(stopped_s)}"
    return Finding(Verdict(kind, because, stopped, nature=Nature.BLOCKED), quiet_since)


def _unwatched(window: Window, newest: TreeSample) -> Finding:
    """Nothing tells of its movement: it has no probe, no heartbeat and no port that is known."""
    if (grown := _leak(window)) is not None:
        return Finding(Verdict(Kind.LEAKING, grown, window.now - LEAK_S), None)
    leader = newest.processes[0].pid
    if (where := _uninterruptible(window, frozenset({leader}))) is not None:
        because = f"thread {where} in an uninterruptible wait (state D) for {_span(WINDOW_S)}"
        return Finding(Verdict(Kind.UNINTERRUPTIBLE, because, window.now - WINDOW_S), None)
    return Finding(Verdict(Kind.HEALTHY, "it runs; there is no probe and no port by which to ask it", window.moved), None)


def _moving(window: Window, mine: tuple[Client, ...], usage: Mapping[int, Usage], quiet_since: float | None) -> Finding:
    since = window.now if quiet_since is None else quiet_since
    kind, because = _pace(window, mine, usage)
    return Finding(Verdict(kind, because, since), since)


def _pace(window: Window, mine: tuple[Client, ...], usage: Mapping[int, Usage]) -> tuple[Kind, str]:
    """How an instance that moves is doing."""
    if (grown := _leak(window)) is not None:
        return Kind.LEAKING, grown
    late = [c for c in mine if window.now - c.since >= window.hang.suspect_s and c.since < window.moved]
    untaken = [client for client in late if client.untaken]
    if untaken:
        oldest = _span(window.now - untaken[0].since)
        return Kind.OVERLOADED, f"requests not taken yet: {len(untaken)}, the oldest for {oldest}; others are being answered"
    if window.ill:
        return Kind.BUSY, window.answer or "it answers, and says that it is not well"
    if late:
        oldest = _span(window.now - late[0].since)
        return Kind.BUSY, f"requests that take long: {len(late)}, the oldest {oldest}; others are being answered"
    hottest = max(usage.values(), key=lambda used: used.run, default=None)
    if hottest is not None and hottest.run >= HOT_RATIO:
        return Kind.BUSY, f"it answers, {hottest.words}"
    return Kind.HEALTHY, window.answer or "nobody waits"


# --- what threads did -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of wall time of one process.

    run      of all its threads together; threads under one interpreter lock share one processor, so a process counts as a whole
    delay    ready to run but kept waiting, all threads together
    kept     the same of the thread that wants the processor most
    tid      the thread that ran most, and its share
    ready    in how many of the samples one of its threads was running or ready to run; processor time that a hypervisor takes away
             is neither run nor delay
    """

    pid: int
    run: float
    delay: float
    kept: float
    tid: int
    hottest: float
    ready: float = 0.0

    @property
    def wants(self) -> float:
        return self.run + self.delay

    @property
    def spins(self) -> bool:
        """It always wants the processor, and gets enough of it to get somewhere."""
        return (self.wants >= HOT_RATIO or self.ready >= READY_RATIO) and self.run >= WANTS_LEAST_RATIO

    @property
    def words(self) -> str:
        who = f"thread {self.tid}" if self.hottest >= self.run / 2 else f"process {self.pid}"
        ran = self.hottest if self.hottest >= self.run / 2 else self.run
        if self.run >= HOT_RATIO:
            return f"{who} at {_percent(ran)} of a core"
        return f"{who} at {_percent(ran)} of a core, and kept from it for {_percent(min(self.delay, 1.0))} of the time"


def rates(trees: tuple[TreeSample, ...], now: float, span_s: float) -> dict[int, Usage]:
    """What each process used between the oldest and the newest full sample of the span; empty when they are too near."""
    full = [tree for tree in trees if tree.full and tree.at >= now - span_s]
    if len(full) < 2 or full[-1].at - full[0].at < SPAN_LEAST_S:
        return {}
    wall_ns = (full[-1].at - full[0].at) * 1e9
    before = {thread.tid: thread for process in full[0].processes for thread in process.threads}
    found = {}
    for process in full[-1].processes:
        deltas = [
            (max(0, thread.run_ns - old.run_ns) / wall_ns, max(0, thread.wait_ns - old.wait_ns) / wall_ns, thread.tid)
            for thread in process.threads
            if (old := before.get(thread.tid)) is not None
        ]
        if deltas:
            hottest_run, _, tid = max(deltas)
            kept = max(deltas, key=lambda delta: delta[0] + delta[1])[1]
            run, delay = sum(delta[0] for delta in deltas), sum(delta[1] for delta in deltas)
            found[process.pid] = Usage(process.pid, run, delay, kept, tid, hottest_run, _ready(full, process.pid))
    return found


def _ready(full: list[TreeSample], pid: int) -> float:
    threads = [process.threads for tree in full for process in tree.processes if process.pid == pid]
    if len(threads) < READY_SAMPLES:
        return 0.0
    return sum(any(thread.state == "R" for thread in each) for each in threads) / len(threads)


def _starved(serving: frozenset[int], usage: Mapping[int, Usage], host: Host | None) -> str | None:
    """In words, when a process that wants to run is kept from it by others; else None."""
    for pid in serving & usage.keys():
        used = usage[pid]
        waits = used.kept >= STARVED_DELAY_RATIO and used.kept >= STARVED_SHARE * (used.run + used.kept)
        if waits and used.run < WANTS_LEAST_RATIO:
            words = (
                f"process {pid} kept from the processor for {_percent(used.kept)} of the time, at {_percent(used.run)} of a core"
            )
            return f"{words} (load {host.load:.1f} on {host.processors} processors)" if host is not None else words
    return None


def _all_locked(trees: tuple[TreeSample, ...], since: float, serving: frozenset[int]) -> int:
    """How many threads the serving processes have, when every one was parked on a lock in every full sample since then; else 0."""
    full = [tree for tree in trees if tree.full and tree.at > since]
    parked = 0
    for tree in full:
        threads = [thread for process in tree.processes if process.pid in serving for thread in process.threads]
        if any(thread.place != "lock" for thread in threads):
            return 0
        parked = len(threads)
    return parked if len(full) >= 2 else 0


def _places(trees: tuple[TreeSample, ...], serving: frozenset[int]) -> str:
    """Where the serving threads stand in the newest full sample, in words."""
    full = next((tree for tree in reversed(trees) if tree.full), None)
    if full is None:
        return "what its threads do is not known yet"
    threads = [thread for process in full.processes if process.pid in serving for thread in process.threads]
    counted = Counter("running" if thread.state == "R" else _WORDS.get(thread.place, thread.place) for thread in threads)
    if not counted:
        return "what its threads do is not known yet"
    return "threads: " + ", ".join(f"{count} {place or 'in an unknown wait'}" for place, count in counted.most_common(4))


_WORDS = {
    "lock": "wait for a lock",
    "sleep": "sleep",
    "socket": "wait for a socket",
    "poll": "in poll or select",
    "epoll": "in epoll",
    "accept": "in accept",
    "pipe": "wait for a pipe",
    "child": "wait for a child process",
    "disk": "wait for a disk",
}


def _accepts(trees: tuple[TreeSample, ...], serving: frozenset[int], since: float) -> bool:
    """Whether a serving thread was seen since then where threads wait for connections: it takes some, and others are woken first."""
    threads = (
        t for tree in trees if tree.at > since for process in tree.processes if process.pid in serving for t in process.threads
    )
    return any(thread.place in ("accept", "poll", "epoll") for thread in threads)


def _uninterruptible(window: Window, serving: frozenset[int]) -> int | None:
    """A thread of these processes that stood in state D in every sample of the window, at least three over a second; else None."""
    recent = [tree for tree in window.trees if tree.at >= window.now - WINDOW_S]
    if len(recent) < 3 or recent[-1].at - recent[0].at < WINDOW_S / 2:
        return None
    stuck = set.intersection(*(_in_state_d(tree, serving) for tree in recent))
    return min(stuck) if stuck else None


def _in_state_d(tree: TreeSample, serving: frozenset[int]) -> set[int]:
    found = {process.pid for process in tree.processes if process.pid in serving and process.state == "D"}
    return found | {t.tid for process in tree.processes if process.pid in serving for t in process.threads if t.state == "D"}


def _stopped_since(window: Window) -> float | None:
    """From which sample on the leader, or every process that serves, has been in state T; None: it is not stopped."""
    since = None
    for tree in reversed(window.trees):
        if not tree.processes or not _is_stopped(tree):
            break
        since = tree.at
    return since


def _is_stopped(tree: TreeSample) -> bool:
    parents = {process.parent for process in tree.processes}
    leaves = [process for process in tree.processes if process.pid not in parents]
    return tree.processes[0].state == "T" or (bool(leaves) and all(process.state == "T" for process in leaves))


def _leak(window: Window) -> str | None:
    """In words, when the tree's memory has grown by LEAK_BYTES_PER_S in each part of LEAK_S; else None."""
    part_s = LEAK_S / LEAK_PARTS
    edges = [_rss_at(window.trees, window.now - part_s * (LEAK_PARTS - n)) for n in range(LEAK_PARTS + 1)]
    known = [edge for edge in edges if edge is not None]
    if len(known) < len(edges):
        return None
    pairs = list(pairwise(known))
    if any(after[1] - before[1] <= LEAK_BYTES_PER_S * (after[0] - before[0]) or after[0] <= before[0] for before, after in pairs):
        return None
    rate = (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0]) / 1e6
    return f"its memory grows by {rate:.0f} MB/s, {known[-1][1] / 1e6:.0f} MB now"


def _rss_at(trees: Iterable[TreeSample], at: float) -> tuple[float, int] | None:
    """The newest sample not later than `at`, unless it is so old that it says nothing of then: its instant and its memory."""
    found = None
    for tree in trees:
        if tree.at > at:
            break
        found = tree
    if found is None or at - found.at > LEAK_S / LEAK_PARTS:
        return None
    return found.at, sum(process.rss_bytes for process in found.processes)


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.0f} %"
