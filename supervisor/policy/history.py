"""What a failure costs: backoff, budgets, trust in a build, and what rests.

Pure functions over a program's past. A failure is an exit nobody asked for, a start that never became ready, or a proven hang.
"""

from __future__ import annotations

import math
import zlib

from supervisor.model import (
    Blame,
    Build,
    Exited,
    Instance,
    Program,
    RestartSettings,
    RestartWhen,
    Severity,
    SpawnFailed,
    State,
    Trial,
)
from supervisor.policy import memory
from supervisor.policy.values import replace
from supervisor.policy.wanted import SERVED, ready, release
from supervisor.policy.words import fact, note, spell

STEP_S = 0.5  # the first restart after an unhealthy run waits this long, each further one twice the last
JITTER = 0.2  # so that many hosts that failed together do not start together
SLOWEST = 64  # an attempt so late that only `limit` counts
LATE_BOOTS = 4.0  # times the last boot: a relief boots beside a loop, maybe on a busy host; what takes longer will not come
SLOW_STARTS = 3  # the time to become ready is doubled for each such start in a row, up to 2**3 times


def backoff_s(settings: RestartSettings, attempt: int, seed: str) -> float:
    """Seconds to wait before restart number `attempt`.

    attempt  0-based; 0 is the first restart after a healthy run
    seed     what the jitter is drawn from: the same seed gives the same answer, so that a recorded incident can be replayed
    returns  in [settings.first_s, settings.limit_s * (1 + JITTER)]
    source   exponential backoff with jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015)
    """
    if attempt <= 0:
        return settings.first_s
    base_s = min(settings.limit_s, max(settings.first_s, math.ldexp(STEP_S, min(attempt - 1, SLOWEST))))
    return base_s * (1.0 + JITTER * zlib.crc32(seed.encode()) / 2**32)


def next_start(program: Program) -> float | None:
    """The instant before which nothing is started because of past failures; None: nothing is in the way."""
    if program.failed is None:
        return None
    attempt = SLOWEST if program.crash_loop or program.broken else program.attempt
    return program.failed + backoff_s(program.settings.restart, attempt, f"{program.settings.name}:{program.started}")


def start_s(program: Program, relief: Build | None = None) -> float:
    """Seconds that an instance spawned now has to become ready.

    relief  the build of a relief. It may take a request that hangs it before it ever answered: while nobody serves, one of a build that
            was trusted has only some times as long as the last boot took
    """
    limit_s = program.settings.health.start_s
    if relief is not None and relief == program.good and program.boot_s and not ready(program):
        limit_s = min(limit_s, max(program.settings.hang.certain_s, LATE_BOOTS * program.boot_s))
    return limit_s * (1 << min(program.slow_starts, SLOW_STARTS))


def healthy_run(program: Program, instance: Instance, now: float) -> bool:
    """Whether the instance had been ready for so long that the past is forgotten."""
    return instance.ready is not None and now - instance.ready >= program.settings.restart.healthy_s


def ended(program: Program, instance: Instance, event: Exited, now: float) -> Program:
    """The instance's own process is gone; what that costs. Its tree may still live (`event.left`): it is not removed here."""
    words = event.words or "ended, and its exit status is unknown"
    match instance.state, instance.blame:
        case State.KILLING, Blame.EXIT:
            return program
        case State.KILLING, Blame.HANG:
            program = note(program, "instance.killed", f"killed: {instance.why}", instance)
            program = fail(program, instance, now, instance.why, delayed=False)
            return memory.proven(program, instance, release(program, instance), now)
        case State.KILLING, Blame.START:
            return note(program, "instance.killed", f"killed: {instance.why}", instance)
        case ((State.RETIRING | State.KILLING), _):
            program = replace(program, trial=_unproven(program, instance, now))
            if instance.state is State.RETIRING and event.status == 0 and moved_again(instance):  # no signal ended it
                program = memory.passed(program, instance)
            return note(
                program,
                "instance.stopped",
                f"stopped ({words}) {spell(now - instance.since)} after it was {_asked(instance)}",
                instance,
            )
        case _:
            return _unasked(program, instance, event, words, now)


def moved_again(instance: Instance) -> bool:
    """Whether it was seen to move since it was suspected. A server that ends without that may have ended its own looping worker."""
    return instance.suspected is not None and instance.moved is not None and instance.moved > instance.suspected


def never_ready(program: Program, instance: Instance, now: float, why: str) -> Program:
    """Its time to become ready is over: that counts now, for its successor may start before its end is heard."""
    program = replace(program, slow_starts=program.slow_starts + 1)
    return fact(
        fail(program, instance, now, why, delayed=True), "start", Severity.WARNING, f"{instance.id} {why}; killed", instance
    )


def _asked(instance: Instance) -> str:
    return "killed" if instance.state is State.KILLING else "asked to"


def _unasked(program: Program, instance: Instance, event: Exited, words: str, now: float) -> Program:
    """It ended and nobody had asked for it."""
    when = program.settings.restart.when
    age = (
        f"ready for {spell(now - instance.ready)}"
        if instance.ready is not None
        else f"started {spell(now - instance.spawned)} before, never ready"
    )
    if when is RestartWhen.FAILURE and event.status == 0:
        program = note(program, "instance.ended", f'ended by itself ({words}); it rests (when = "failure")', instance)
        return replace(program, resting=program.resting + 1)
    text = f"ended by itself: {words}; it had been {age}" + ('; it rests (when = "never")' if when is RestartWhen.NEVER else "")
    program = note(program, "instance.failed", text, instance)
    program = fact(program, "crash", _severity(program, instance), f"{instance.id} {text}", instance)
    if when is RestartWhen.NEVER:
        return replace(program, resting=program.resting + 1)
    return fail(program, instance, now, words, delayed=True)


def _severity(program: Program, instance: Instance) -> Severity:
    """Of a crash: where another serves, nobody noticed anything beyond the requests that died with it, and it heals by itself."""
    served = any(other.state is State.READY for other in program.instances if other.id != instance.id)
    return Severity.INFO if served and program.trial is None else Severity.WARNING


def spawn_failed(program: Program, instance: Instance, event: SpawnFailed, now: float) -> Program:
    """No process came to be: the slowest pace when the command cannot be executed, else backoff. Never a crash loop."""
    name = program.settings.name
    program = note(program, "instance.failed", f"cannot be started: {event.reason}", instance)
    text = f"{name} cannot be started: {event.reason}"
    trial = _tried(program, instance, text) if event.permanent else program.trial
    program = _halted(program)
    broken = event.reason if event.permanent else ""
    program = replace(program, failed=now, attempt=program.attempt + 1, broken=broken, trial=trial)
    return fact(program, "cannot-start", Severity.CRITICAL, text, instance)


def fail(program: Program, instance: Instance, now: float, text: str, *, delayed: bool) -> Program:
    """Write down one failure of `instance`. `delayed`: the next start waits for the backoff; a proven hang costs no delay."""
    settings = program.settings.restart
    failures = (*(f for f in program.failures if now - f < settings.window_s), now)
    looping = len(failures) > settings.budget * program.settings.instances
    attempt = program.attempt
    if delayed:
        attempt = 0 if healthy_run(program, instance, now) else attempt + 1
    failed = replace(
        program,
        failures=failures,
        attempt=attempt,
        failed=now if delayed or looping else program.failed,
        crash_loop=program.crash_loop or looping,
        restarts=program.restarts + 1,
        trial=_tried(program, instance, text),
    )
    failed = _halted(failed)
    if looping and not program.crash_loop:
        because = f"{len(failures)} failures within {spell(now - failures[0])}, the last: {text}"
        story = f"crash loop: {because}; it goes on, one start each {spell(settings.limit_s)}"
        failed = note(failed, "program.crash_looped", story)
        failed = fact(failed, "crash-loop", Severity.CRITICAL, f"{program.settings.name} is in a {story}", instance)
    return failed


def _halted(program: Program) -> Program:
    """Under a hold a failure ends what an operator asked for: what would follow is healing."""
    held = program.hold
    return program if held is None or not held.commanded else replace(program, hold=replace(held, commanded=False))


def _tried(program: Program, instance: Instance, text: str) -> Trial | None:
    """What a failure of `instance` does to the build on trial: lost when it never served, for a hang, and by the second failure.

    Waiting for somebody else came with no build.
    """
    trial, outside = program.trial, instance.blame is Blame.HANG and instance.peer
    if trial is None or instance.build != trial.build or trial.lost or outside:
        return trial
    failures = trial.failures + 1
    new = instance.blame is Blame.HANG and not _known_before(program, instance)
    lost = not trial.served or failures >= 2 or new
    return replace(trial, failures=failures, lost=text if lost else "")


def _unproven(program: Program, instance: Instance, now: float) -> Trial | None:
    """What the end of a suspect does to the build on trial: lost when it was in a new loop and suspect for as long as proves one.

    Something may have been in the way of proof (a busy host excuses, the one who waited gave up, its server ended it), but a release that
    may have done this is not tried a second time while a good one serves.
    """
    trial = program.trial
    if trial is None or instance.build != trial.build or instance.suspected is None:
        return trial
    suspect_s = now - instance.suspected
    named = bool(instance.cause) and not instance.peer and not _known_before(program, instance)
    if trial.lost or not named or suspect_s < program.settings.hang.certain_s * SERVED:
        return trial
    return replace(trial, lost=f"{instance.id} was suspect for {spell(suspect_s)} before it was gone: {instance.evidence}")


def _known_before(program: Program, instance: Instance) -> bool:
    """Whether its cause was proven under another release already: then it did not come with this one."""
    before = memory.known(program, instance)
    return before is not None and bool(before.proven) and before.release != release(program, instance)
