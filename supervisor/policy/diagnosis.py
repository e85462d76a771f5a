"""A window of samples -> verdict. Pure: what it does not find in the window it does not know.

Two questions, never mixed. *Are customers served?* Silence is an open question (an unanswered probe, a request that nobody
took, a heartbeat that is overdue) with nothing moving since: after `suspect` it is suspicion. *Is it hung?* Only silence for
`certain` with a thread that always wants the processor or with every thread parked on a lock, or silence for `blocked` with
anything else; and it must have been seen to do so for nearly all of that time. Excuses come first: our own blindness, a
stopped process, an uninterruptible wait, a host that is starved or short of memory.

What moves: an answer of this instance, bytes that it sends and a client confirms, a request that is done. What does not: a
connection that is accepted (a live acceptor takes what its stuck threads will never serve), a client that gives up, an idle
connection that closes. An instance that nobody asks is never silent, so time without customers counts for nothing.

Figures: measured on recorded faults and benign loads; the sentences beside them say which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from supervisor.model import Kind, Nature, Scope, Verdict
from supervisor.policy.excuses import excuse
from supervisor.policy.samples import Client, Finding, ProcessSample, TreeSample, Window, WorkerFinding
from supervisor.policy.scope import stuck_workers
from supervisor.policy.threads import HOT_RATIO, SPAN_LEAST_S, WINDOW_S, Usage, accepts, lasting, nature, rates
from supervisor.policy.threads import span as _span

SILENT_SAMPLER_S = 3.0  # older samples say nothing of now
STOPPED_S = 1.0  # job control and debuggers stop a process for less
PASSED_OVER = 5  # probes in a row that others accepted: an instance that still takes connections would have had one
LEAK_BYTES_PER_S = 5_000_000
LEAK_S = 6.0  # loading a big file or a cache is over sooner
LEAK_PARTS = 3  # the memory must have grown in each part of that time


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
    kind, doing = nature(window.trees, window.now, serving, span_s)
    stuck = kind in (Nature.SPINNING, Nature.LOCKED) or any(usage[pid].wanting for pid in serving & usage.keys())
    quiet_since = maybe_since if stuck else _quiet_since(window, sure)
    if maybe_since is not None and quiet_since is None and not serving & usage.keys():
        return Finding(Verdict(Kind.UNKNOWN, "too few samples of late tell what its threads do", window.now), None)
    stopped = _stopped_since(window)
    if stopped is not None and window.now - stopped >= STOPPED_S and window.moved <= stopped:
        return _stopped(window, stopped if quiet_since is None else min(stopped, quiet_since), stopped)
    if not window.watched:
        return _unwatched(window, newest)
    if quiet_since is None or window.now - quiet_since < window.hang.suspect_s:
        return _moving(window, mine, usage, quiet_since)
    silence = _silence(window, mine, quiet_since)
    quiet_s = window.now - quiet_since
    if (excused := excuse(window, serving, usage, quiet_s)) is not None:
        return Finding(Verdict(excused.kind, f"{silence}, {excused.because}", quiet_since, Scope.HOST), quiet_since)
    conviction = _conviction(window, serving, kind, quiet_s)
    return Finding(Verdict(conviction, f"{silence}, {doing}", quiet_since, nature=kind), quiet_since)


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
    apart = {worker.pid for worker in window.workers if worker.siblings}  # what a stuck worker took is judged with that worker
    sure = [client.since for client in mine if client.untaken and client.owner not in apart]
    if window.asked is not None:
        sure.append(window.asked)
    accepted = [client.since for client in mine if client.inode]
    if_stuck: list[float] = []
    if accepted and window.passed >= PASSED_OVER and not accepts(window.trees, serving, max(min(accepted), window.moved)):
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


def _conviction(window: Window, serving: frozenset[int], doing: Nature, quiet_s: float) -> Kind:
    """SUSPECT, or the hung kind once silence and what it does have lasted for the limit that holds for its nature."""
    hang = window.hang
    if doing in (Nature.SPINNING, Nature.LOCKED):
        if quiet_s >= hang.certain_s and lasting(window, serving, doing, hang.certain_s, quiet_s):
            return Kind.SPINNING if doing is Nature.SPINNING else Kind.LOCKED
        return Kind.SUSPECT
    return Kind.BLOCKED if hang.blocked_s is not None and quiet_s >= hang.blocked_s else Kind.SUSPECT


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
    excused = excuse(window, frozenset({newest.processes[0].pid}), {}, 0.0)
    if excused is not None and excused.kind is Kind.UNINTERRUPTIBLE:
        return Finding(Verdict(excused.kind, excused.because, window.now - WINDOW_S, Scope.HOST), None)
    return Finding(Verdict(Kind.HEALTHY, "it runs; there is no probe and no port by which to ask it", window.moved), None)


def _moving(window: Window, mine: tuple[Client, ...], usage: Mapping[int, Usage], quiet_since: float | None) -> Finding:
    since = window.now if quiet_since is None else quiet_since
    workers = stuck_workers(window)
    kind, scope, because = _pace(window, mine, usage, workers)
    return Finding(Verdict(kind, because, since, scope), since, workers)


def _pace(
    window: Window, mine: tuple[Client, ...], usage: Mapping[int, Usage], workers: tuple[WorkerFinding, ...]
) -> tuple[Kind, Scope, str]:
    """How an instance that moves is doing, and which part of it that is about."""
    if (grown := _leak(window)) is not None:
        return Kind.LEAKING, Scope.INSTANCE, grown
    late = [c for c in mine if window.now - c.since >= window.hang.suspect_s and c.since < window.moved]
    waits = [client for client in late if client.untaken and client.owner not in {worker.pid for worker in workers}]
    if waits:
        because = (
            f"requests not taken yet: {len(waits)}, the oldest for {_span(window.now - waits[0].since)}; others are being answered"
        )
        return Kind.OVERLOADED, Scope.INSTANCE, because
    if workers:
        return Kind.BUSY, Scope.WORKER, "; ".join(worker.verdict.because for worker in workers)
    if window.ill:
        return Kind.BUSY, Scope.INSTANCE, window.answer or "it answers, and says that it is not well"
    if late:
        return Kind.BUSY, Scope.REQUEST, _long(window, late, usage)
    hottest = max(usage.values(), key=lambda used: used.run, default=None)
    if hottest is not None and hottest.run >= HOT_RATIO:
        return Kind.BUSY, Scope.INSTANCE, f"it answers, {hottest.words}"
    return Kind.HEALTHY, Scope.INSTANCE, window.answer or "nobody waits"


def _long(window: Window, late: list[Client], usage: Mapping[int, Usage]) -> str:
    """Requests that take long, where others are answered, in words."""
    because = f"requests that take long: {len(late)}, the oldest {_span(window.now - late[0].since)}"
    used = usage.get(late[0].owner)
    if used is not None and used.run >= HOT_RATIO:
        because = f"{because}, {used.words}"
    return f"{because}; others are being answered"


# --- states, memory, words ---------------------------------------------------------------------------------------------------------


def _stopped_since(window: Window) -> float | None:
    """From which sample on the leader, or every process that serves, has been in state T; None: it is not stopped.

    When all that serves is stopped nothing can have moved: if that is said, we were blind, and it counts from then.
    """
    since = None
    for tree in reversed(window.trees):
        if not tree.processes or not _is_stopped(tree):
            break
        since = tree.at
    if since is not None and all(process.state == "T" for process in _leaves(window.trees[-1])):
        return max(since, window.moved)
    return since


def _is_stopped(tree: TreeSample) -> bool:
    return tree.processes[0].state == "T" or all(process.state == "T" for process in _leaves(tree))


def _leaves(tree: TreeSample) -> list[ProcessSample]:
    """Those without children; a tree whose sample was taken while it changed may have none."""
    parents = {process.parent for process in tree.processes}
    return [process for process in tree.processes if process.pid not in parents] or [tree.processes[0]]


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
