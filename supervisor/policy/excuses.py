"""What excuses silence: the host, not the server. Pure.

Asked before anything is concluded of an instance or a worker: a host that keeps it from the processor, that waits for memory or for a
disk. Whoever is excused is not killed, and the time of its silence starts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.model import Kind
from supervisor.policy.samples import TreeSample, Window
from supervisor.policy.threads import SPAN_LEAST_S, WINDOW_S, Usage, burnt, percent, starved, uninterruptible

STALL = 0.20  # of ten seconds in which all work of the host stood still: below it servers are slow, and answer
FAULTS_PER_S = 50  # major faults: each is a wait for a disk of some 0.1 to 10 ms, so it does little else
PART_D = 0.5  # of the samples in state D, while all of the host waits for disks


@dataclass(frozen=True, slots=True)
class Excuse:
    kind: Kind
    because: str


def excuse(window: Window, serving: frozenset[int], usage: Mapping[int, Usage], quiet_s: float) -> Excuse | None:
    """Why these processes cannot be blamed for doing nothing; None: nothing excuses them.

    usage    what they used lately, at the most since they fell silent
    quiet_s  for how long they have been silent
    """
    host = window.host
    tid, part = uninterruptible(window.trees, window.now, serving)
    if part == 1.0:
        return Excuse(Kind.UNINTERRUPTIBLE, f"thread {tid} in an uninterruptible wait (state D): a disk or a network file system")
    if host is not None and host.disk_stall >= STALL and part >= PART_D:
        words = f"thread {tid} waits for a disk (state D) for {percent(part)} of the time"
        return Excuse(Kind.UNINTERRUPTIBLE, f"{words}, and all work of this host for {percent(host.disk_stall)}")
    if (hunger := starved(serving, usage, host)) and not burnt(window, serving, quiet_s):
        return Excuse(Kind.STARVED, hunger)
    if host is not None and host.memory_stall >= STALL:
        because = f"all work of this host stood still for {percent(host.memory_stall)} of the last 10 s, waiting for memory"
        return Excuse(Kind.STARVED, because)
    faults = _faults_per_s(window.trees, window.now, serving)
    if faults >= FAULTS_PER_S:
        return Excuse(Kind.STARVED, f"its memory comes back from disk: {faults:.0f} major faults per second")
    return None


def _faults_per_s(trees: tuple[TreeSample, ...], now: float, serving: frozenset[int]) -> float:
    recent = [tree for tree in trees if tree.at >= now - WINDOW_S]
    if len(recent) < 2 or recent[-1].at - recent[0].at < SPAN_LEAST_S:
        return 0.0
    before = {process.pid: process.major_faults for process in recent[0].processes if process.pid in serving}
    after = {process.pid: process.major_faults for process in recent[-1].processes if process.pid in before}
    return sum(faults - before[pid] for pid, faults in after.items()) / (recent[-1].at - recent[0].at)
