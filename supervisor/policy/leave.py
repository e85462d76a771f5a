"""Leave: who is asked to go, one at a time, as soon as enough others are ready.

Suspects first, then those that another should replace, then surplus: newest wins, rolling restart, rollback, scaling down and stop are
this one rule on other facts.
"""

from __future__ import annotations

from supervisor.model import Effect, Instance, Program, Retirement, State
from supervisor.policy import instance as one
from supervisor.policy import worker
from supervisor.policy.clock import Clock
from supervisor.policy.wanted import (
    World,
    alone,
    cleared,
    counts,
    excused,
    hands_off,
    leaving,
    left_alone,
    may_leave,
    ready,
    stale,
    suspects,
    wanted,
)


def press(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """A stop counts the grace, also of those that were asked to go before it."""
    if wanted(program, world) or not may_leave(program, world):
        return program, ()
    return one.press(program, clock.now), ()


def leave(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Ask one more to go when enough others are ready: suspects first, then stale ones, then surplus."""
    up = wanted(program, world)
    if not up:
        return _leave_all(program, world, clock), ()
    if hands_off(program):
        return program, ()
    going = _suspect_to_go(program, up) or _stale_to_go(program, up) or _surplus_to_go(program, up)
    if going is None:
        return program, ()
    instance, why = going
    program = one.retire(program, instance, clock.now, why)
    if alone(program):
        program = one.press(program, clock.now)
    return program, ()


def _leave_all(program: Program, world: World, clock: Clock) -> Program:
    if not may_leave(program, world):
        return program
    why = "the supervisor stops" if world.draining else "the program is not wanted any more"
    if not world.draining and not program.removed and program.resting:
        why = "its siblings rest"
    for instance in program.instances:
        if not leaving(instance):
            program = one.retire(program, instance, clock.now, why)
    return program


def _others_ready(program: Program, instance: Instance) -> int:
    return sum(1 for i in program.instances if i.state is State.READY and i.id != instance.id)


def _suspect_to_go(program: Program, up: int) -> tuple[Instance, str] | None:
    if program.settings.relief.retire is Retirement.WATCH or alone(program):
        return None
    for suspect in suspects(program):
        spared = left_alone(program, suspect) or excused(program, suspect)
        if _others_ready(program, suspect) >= up and not spared:
            return suspect, "others serve in its place"
    return None


def _stale_to_go(program: Program, up: int) -> tuple[Instance, str] | None:
    old = [i for i in program.instances if stale(program, i) and i.state in (State.STARTING, State.READY)]
    if any(not stale(program, suspect) for suspect in suspects(program)):
        return None
    for instance in old:
        why = _why_stale(program, instance)
        if instance.state is State.STARTING and not (instance.relief and counts(program, instance)):
            return instance, why
        if alone(program):
            if cleared(program) and _others_ready(program, instance) >= up - 1:
                return instance, why
        elif _others_ready(program, instance) >= up and not (instance.relief and suspects(program)):
            return instance, why
    return None


def _why_stale(program: Program, instance: Instance) -> str:
    if not instance.replace:
        return f"build {program.build.number} takes the place of build {instance.build}"
    return "its workers hung again and again" if worker.worn(instance) else "a restart was asked for"


def _surplus_to_go(program: Program, up: int) -> tuple[Instance, str] | None:
    serving = [i for i in program.instances if i.state in (State.STARTING, State.READY)]
    if len(serving) <= up:
        return None
    starting = [i for i in serving if i.state is State.STARTING and not stale(program, i)]
    if starting and ready(program) >= up and not any(stale(program, i) for i in serving):
        return max(starting, key=lambda i: i.id.number), "enough others are ready"
    fresh = [i for i in serving if i.state is State.READY and not stale(program, i)]
    if len(fresh) > up:
        return min(fresh, key=lambda i: i.id.number), "enough others are ready"
    return None
