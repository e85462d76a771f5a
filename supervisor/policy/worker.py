"""Workers: one that hangs while its siblings serve is killed alone, and the instance goes on.

A worker is told by its pid and start time; what the newest look says of it stands in the instance. Three such kills within ten minutes
make the instance worn: another takes its place, rolling.
"""

from __future__ import annotations

from supervisor.model import Act, Effect, Instance, KillWorker, Nature, Program, Worker, WorkerLooked
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import HUNG, hands_off
from supervisor.policy.words import note, refrained, spell
from supervisor.servers import named

LOOK_FRESH_S = 2.0  # an older look kills nobody: the worker may have moved on
FORGET_S = 5.0  # without a new look, the worker has moved on
KILL_AGAIN_S = 2.0  # what was asked by the server's own signal and goes on, is killed
WORN_S = 600.0
WORN_KILLS = 3


def look(instance: Instance, event: WorkerLooked) -> Instance:
    """What a look adds: the newest word on this worker."""
    before = next((w for w in instance.workers if (w.pid, w.start_ticks) == (event.pid, event.start_ticks)), None)
    if before is not None and event.at < before.seen:
        return instance
    tries, tried = (before.tries, before.tried) if before is not None else (0, None)
    now = Worker(
        pid=event.pid,
        start_ticks=event.start_ticks,
        seen=event.at,
        moved=event.since,
        verdict=event.verdict,
        tries=tries,
        tried=tried,
    )
    return replace(instance, workers=(*(w for w in instance.workers if w is not before), now))


def settle(program: Program, instance: Instance, clock: Clock) -> tuple[Program, Instance, tuple[Effect, ...]]:
    """Kill the workers that are proven hung by this step's look, and forget those of whom nothing more is heard."""
    if not instance.workers:
        return program, instance, ()
    effects: list[Effect] = []
    left = []
    for worker in instance.workers:
        if clock.due(worker.seen + FORGET_S):
            continue
        if not _proven(program, worker, clock.now):
            left.append(replace(worker, fresh=False))
            continue
        if hands_off(program):
            text = f"worker {worker.pid} hangs for {spell(worker.seen - worker.moved)}: it would be killed alone"
            program = refrained(program, f"worker:{worker.pid}:{worker.start_ticks}", text, instance)
            left.append(replace(worker, fresh=False))
            continue
        signal = _signal(program, worker)
        effects.append(KillWorker(instance.id, worker.pid, worker.start_ticks, signal))
        left.append(replace(worker, fresh=False, tries=worker.tries + 1, tried=clock.now))
        program = note(program, "worker.killed", _story(worker, signal), instance)
        if not worker.tries:
            instance = _counted(instance, clock.now)
    return program, replace(instance, workers=tuple(left)), tuple(effects)


def _proven(program: Program, worker: Worker, now: float) -> bool:
    if program.settings.hang.act is Act.TELL or worker.verdict.kind not in HUNG:
        return False
    if not worker.fresh or now - worker.seen > LOOK_FRESH_S:
        return False
    if worker.tried is not None and worker.seen - worker.tried < KILL_AGAIN_S:
        return False
    patience_s = program.settings.hang.worker_s
    if worker.verdict.nature is Nature.BLOCKED:
        if program.settings.hang.blocked_s is None:
            return False
        patience_s = max(patience_s, program.settings.hang.blocked_s)
    return worker.seen - worker.moved >= patience_s


def _signal(program: Program, worker: Worker) -> str:
    """The server's own way first: its client reads an error instead of a reset. Then SIGKILL."""
    server = named(program.settings.server)
    return server.ask_worker if server is not None and server.ask_worker and not worker.tries else "KILL"


def _story(worker: Worker, signal: str) -> str:
    return f"worker {worker.pid} hangs for {spell(worker.seen - worker.moved)}: {worker.verdict.because}; SIG{signal} to it alone"


def worn(instance: Instance) -> bool:
    """Whether so many of its workers hung within a while that another should stand in its place."""
    return len(instance.workers_killed) >= WORN_KILLS


def _counted(instance: Instance, now: float) -> Instance:
    """One more worker of it was killed."""
    counted = replace(instance, workers_killed=(*(at for at in instance.workers_killed if now - at < WORN_S), now))
    return replace(counted, replace=instance.replace or worn(counted))
