"""What the threads of a tree did: how much they ran, how much they were kept from it, where they stand.

Figures: measured on recorded faults and benign loads; the sentences beside them say which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.model import Nature
from supervisor.policy.samples import Host, TreeSample, Window

WINDOW_S = 2.0  # what a thread does is judged over this: shorter is noise, longer is late
SPAN_LEAST_S = 0.3  # two samples nearer than this say nothing of a rate
HOT_RATIO = 0.70  # of wall time: endless loops in 8 runtimes ran above it, servers under load below it
READY_RATIO = 0.9  # of at least READY_SAMPLES samples: a loop is always seen running or ready, other work is seen waiting at times
READY_SAMPLES = 5
WANTS_LEAST_RATIO = 0.30  # a thread that wants the processor and gets less than this is starved, not spinning
STARVED_SHARE = 0.5  # run-queue delay of run + delay
STARVED_DELAY_RATIO = 0.35  # run-queue delay of wall time
COVERED = 0.8  # of a limit must have been sampled before it convicts
LASTING_S = 30.0  # no more than this is asked of the samples
RAN_MOST_S = (
    12.0  # of processor time without an end proves a loop, however long the limit: a busy host gives it no more in LASTING_S
)


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
        return self.wanting and self.run >= WANTS_LEAST_RATIO

    @property
    def wanting(self) -> bool:
        """It always wants the processor, whether or not it gets it."""
        return self.wants >= HOT_RATIO or self.ready >= READY_RATIO

    @property
    def words(self) -> str:
        who = f"thread {self.tid}" if self.hottest >= self.run / 2 else f"process {self.pid}"
        ran = self.hottest if self.hottest >= self.run / 2 else self.run
        if self.run >= HOT_RATIO:
            return f"{who} at {percent(ran)} of a core"
        return f"{who} at {percent(ran)} of a core, and kept from it for {percent(min(self.delay, 1.0))} of the time"


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


def nature(trees: tuple[TreeSample, ...], now: float, serving: frozenset[int], span_s: float) -> tuple[Nature, str]:
    """What these processes have been doing over the span, and that in words."""
    usage = rates(trees, now, span_s)
    hottest = max((usage[pid] for pid in serving if pid in usage), key=lambda used: used.wants, default=None)
    if hottest is not None and hottest.spins:
        return Nature.SPINNING, hottest.words
    parked = _all_locked(trees, now - span_s, serving)
    if parked:
        return Nature.LOCKED, f"all {parked} threads wait for locks" if parked > 1 else "its only thread waits for a lock"
    return Nature.BLOCKED, _places(trees, serving)


def lasting(window: Window, serving: frozenset[int], kind: Nature, limit_s: float, quiet_s: float) -> bool:
    """Whether nearly all of the limit was sampled, and they did the same all along: waiting for nine seconds and then working for one
    is no endless loop. Nor is work that others keep from the processor: what spins must have had it for nearly that long.

    quiet_s  for how long they have been silent
    """
    span_s = min(limit_s, LASTING_S)
    full = [tree for tree in window.trees if tree.full and tree.at >= window.now - span_s]
    if not full or window.now - full[0].at < COVERED * span_s:
        return False
    if nature(window.trees, window.now, serving, span_s)[0] is not kind:
        return False
    return kind is not Nature.SPINNING or _ran_enough(window, serving, limit_s, quiet_s)


def _ran_enough(window: Window, serving: frozenset[int], limit_s: float, quiet_s: float) -> bool:
    """Whether one of them has had the processor, since they are silent, for nearly as long as the limit allows; less where they take it
    from each other."""
    used = [each for pid, each in rates(window.trees, window.now, quiet_s).items() if pid in serving]
    hungry = sum(each.wanting for each in used)
    processors = window.host.processors if window.host is not None else 1
    share = min(1.0, processors / hungry) if hungry else 1.0
    seen_s = min((tree.at for tree in window.trees if tree.full and tree.at >= window.now - quiet_s), default=window.now)
    ran_s = max((each.run for each in used), default=0.0) * (window.now - seen_s)
    return ran_s >= COVERED * share * min(limit_s, RAN_MOST_S / COVERED)


def burnt(window: Window, serving: frozenset[int], quiet_s: float) -> bool:
    """Whether one of them, silent for so long, always wanted the processor and has had so much of it that no work takes longer. Then it
    loops, whoever keeps it from having more: a host is often starved by the loops themselves."""
    seen = [tree.at for tree in window.trees if tree.full and tree.at >= window.now - quiet_s]
    if not seen:
        return False
    ran_s = (
        used.run * (seen[-1] - seen[0])
        for pid, used in rates(window.trees, window.now, quiet_s).items()
        if pid in serving and used.wanting
    )
    return max(ran_s, default=0.0) >= RAN_MOST_S


def starved(serving: frozenset[int], usage: Mapping[int, Usage], host: Host | None) -> str:
    """In words, when a process that wants to run is kept from it, by others or by a limit on its group; else "".

    What these processes take from each other is no such thing: it is asked whether together they get enough of what they could have.
    """
    used = [usage[pid] for pid in sorted(serving & usage.keys())]
    hungry = [each for each in used if each.wanting or _lacks(each)]
    could = min(len(hungry), host.processors) if host is not None else 1
    lacking = next((each for each in hungry if _lacks(each)), None)
    if lacking is None or sum(each.run for each in hungry) >= WANTS_LEAST_RATIO * could:
        return ""
    kept = f"kept from the processor for {percent(lacking.kept)} of the time" if _waits(lacking) else "always ready to run"
    words = f"process {lacking.pid} {kept}, at {percent(lacking.run)} of a core"
    return f"{words} (load {host.load:.1f} on {host.processors} processors)" if host is not None else words


def _lacks(used: Usage) -> bool:
    return used.run < WANTS_LEAST_RATIO and (_waits(used) or used.ready >= READY_RATIO)


def _waits(used: Usage) -> bool:
    return used.kept >= STARVED_DELAY_RATIO and used.kept >= STARVED_SHARE * (used.run + used.kept)


def uninterruptible(trees: tuple[TreeSample, ...], now: float, serving: frozenset[int]) -> tuple[int, float]:
    """The thread of these processes that stood in state D most often in the window, and in which part of at least three samples over
    a second; (0, 0.0) for none."""
    recent = [tree for tree in trees if tree.at >= now - WINDOW_S]
    if len(recent) < 3 or recent[-1].at - recent[0].at < WINDOW_S / 2:
        return 0, 0.0
    counted = Counter(tid for tree in recent for tid in _in_state_d(tree, serving))
    if not counted:
        return 0, 0.0
    tid = max(counted, key=lambda each: (counted[each], -each))
    return tid, counted[tid] / len(recent)


def accepts(trees: tuple[TreeSample, ...], serving: frozenset[int], since: float) -> bool:
    """Whether a serving thread was seen since then where threads wait for connections: it takes some, and others are woken first."""
    threads = (
        t for tree in trees if tree.at > since for process in tree.processes if process.pid in serving for t in process.threads
    )
    return any(thread.place in ("accept", "poll", "epoll") for thread in threads)


def _in_state_d(tree: TreeSample, serving: frozenset[int]) -> set[int]:
    found = {process.pid for process in tree.processes if process.pid in serving and process.state == "D"}
    return found | {t.tid for process in tree.processes if process.pid in serving for t in process.threads if t.state == "D"}


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
    counted = Counter(_STATES.get(thread.state, _WORDS.get(thread.place, thread.place)) for thread in threads)
    if not counted:
        return "what its threads do is not known yet"
    return "threads: " + ", ".join(f"{count} {place or 'in an unknown wait'}" for place, count in counted.most_common(4))


_STATES = {"R": "running", "T": "stopped"}
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


def percent(ratio: float) -> str:
    return f"{ratio * 100:.0f} %"


def span(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
