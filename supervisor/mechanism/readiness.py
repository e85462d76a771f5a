"""Whether an instance that starts is ready: by its answers where there is a probe, else by what it says, else by serving its
socket, else by having lived.

It reads what was sampled and, for a socket that is served without having been asked, /proc (listening.served_by).
"""

from __future__ import annotations

from supervisor.mechanism.watched import WatchedInstance, WatchedProgram

LIVED_S = 1.0  # without a probe and a port, having lived so long is being ready
READY_UNSEEN_S = 10.0  # some masters say READY=1 before their workers have booted: so long it must be seen to serve its sockets too
SERVING_HIDDEN = 0.9  # of `health.start`: nobody waits, and whether it serves cannot be seen; then it counts as ready


def readiness(program: WatchedProgram, instance: WatchedInstance, now: float) -> str:
    """How it is seen that the instance is ready, in words; "" when it is not."""
    if instance.asker.targets:
        return instance.sight.answers.text if instance.asker.all_answered else ""
    if instance.says_ready is not None:
        unseen = program.sockets and not _serves(program, instance, now) and now - instance.says_ready < READY_UNSEEN_S
        return "" if unseen else "READY=1"
    if program.settings.health.heartbeat:
        return "" if instance.sight.beat is None else "WATCHDOG=1"
    return "" if instance.speaks else _serves(program, instance, now)


def _serves(program: WatchedProgram, instance: WatchedInstance, now: float) -> str:
    """How it is seen that one without a probe serves, "" when it is not."""
    age_s = now - instance.spawned
    sample = instance.sampler.newest
    if sample is None:
        return ""
    if not program.sockets:
        return f"lived for {age_s:.1f} s" if age_s >= LIVED_S else ""
    parents = {process.parent for process in sample.processes}
    workers = [process for process in sample.processes if process.pid not in parents]
    pid = next((process.pid for process in workers if program.listening.served_by(process)), None)
    if pid is not None:
        return f"process {pid} waits for connections on its socket"
    pids = {process.pid for process in sample.processes}
    owners = {client.owner for client in program.seen.clients} if program.seen is not None else set()
    if owners & pids:
        return f"process {min(owners & pids)} accepted a connection"
    if age_s >= SERVING_HIDDEN * program.settings.health.start_s and not program.queued:
        return f"lived for {age_s:.0f} s; whether it serves its socket cannot be seen"
    return ""
