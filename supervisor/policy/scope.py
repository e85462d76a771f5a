"""Which part of an instance does nothing: one worker, while its siblings answer. Pure.

A worker alone is stuck when it owes an answer and nothing of it moves, neither on another connection nor by waiting for new ones,
while somebody else of the instance moves. One long request beside others that the same worker answers is a matter of that request:
the worker moves, and nothing is said of it here.
"""

from __future__ import annotations

from supervisor.model import HangSettings, Kind, Nature, Scope, Verdict
from supervisor.policy.excuses import excuse
from supervisor.policy.samples import Window, WorkerFinding, WorkerSeen
from supervisor.policy.threads import SPAN_LEAST_S, WINDOW_S, lasting, nature, rates, span

_HUNG = {Nature.SPINNING: Kind.SPINNING, Nature.LOCKED: Kind.LOCKED, Nature.BLOCKED: Kind.BLOCKED}


def stuck_workers(window: Window) -> tuple[WorkerFinding, ...]:
    """The workers of an instance that moves which have done nothing for `suspect`, each with its verdict: SUSPECT, or a hung kind once
    that has lasted for `worker`."""
    return tuple(_judge(window, worker) for worker in window.workers if _is_stuck(window, worker))


def limit_s(hang: HangSettings, doing: Nature) -> float | None:
    """After how long without movement a worker is proven hung; None: never."""
    if doing is not Nature.BLOCKED:
        return hang.worker_s
    return None if hang.blocked_s is None else max(hang.worker_s, hang.blocked_s)


def _is_stuck(window: Window, worker: WorkerSeen) -> bool:
    others_move = worker.alive < max(window.moved, worker.others)
    return worker.siblings > 0 and others_move and window.now - worker.alive >= window.hang.suspect_s


def _judge(window: Window, worker: WorkerSeen) -> WorkerFinding:
    it, quiet_s = frozenset({worker.pid}), window.now - worker.alive
    span_s = max(SPAN_LEAST_S, min(WINDOW_S, quiet_s))
    doing, words = nature(window.trees, window.now, it, span_s)
    kind = Kind.SUSPECT
    if (excused := excuse(window, it, rates(window.trees, window.now, span_s), quiet_s)) is not None:
        kind, words = excused.kind, excused.because
    elif (limit := limit_s(window.hang, doing)) is not None and quiet_s >= limit and lasting(window, it, doing, limit, quiet_s):
        kind = _HUNG[doing]
    requests = "one request" if worker.owed == 1 else f"{worker.owed} requests"
    siblings = "1 sibling answers" if worker.siblings == 1 else f"{worker.siblings} siblings answer"
    because = f"worker {worker.pid} has not answered {requests} for {span(quiet_s)}, {words}; {siblings}"
    return WorkerFinding(worker.pid, Verdict(kind, because, worker.alive, Scope.WORKER, doing), worker.alive)
