"""Fill: one more instance of the build under way is started when fewer than wanted count, and nothing is in the way.

First start, restart, relief, rolling and scaling up are this one rule on other facts. What can be in the way: the programs in `after`,
the backoff, the ceiling of instances that may live at once, the relief budget, and a preflight that has not passed.
"""

from __future__ import annotations

from supervisor.model import Build, Effect, Instance, InstanceId, Preflight, Program, RunPreflight, Severity, Spawn, State
from supervisor.policy import history
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, ceiling, cleared, counts, hands_off, ready, stale, suspects, wanted, way_back
from supervisor.policy.words import enumerated, fact, note, release_of, spell, told

RELIEF_WINDOW_S = 60.0
PREFLIGHT_S = 600.0  # a build's preflight commands together


def order(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Wait for the programs in `after`, at most as long as they may take to become ready."""
    if not wanted(program, world):
        return replace(program, ordered=program.ordered and bool(program.instances), waiting=None), ()
    if program.ordered:
        return program, ()
    missing = [name for name in program.settings.after if name in world.programs and not ready(world.programs[name])]
    if not missing:
        return replace(program, ordered=True, waiting=None), ()
    if program.waiting is None:
        program = note(program, "program.waiting", f"waits until {enumerated(missing)} {_is(missing)} ready")
        program = replace(program, waiting=clock.now)
    longest_s = max(world.programs[name].settings.health.start_s for name in missing)
    if program.waiting is None or not clock.due(program.waiting + longest_s):
        return program, ()
    program = note(
        program, "program.waited", f"starts although {enumerated(missing)} {_is(missing)} not ready after {spell(longest_s)}"
    )
    return replace(program, ordered=True, waiting=None), ()


def fill(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Start one more instance of the build under way when fewer than wanted count, and the backoff allows."""
    up = wanted(program, world)
    counted = sum(1 for i in program.instances if counts(program, i))
    if hands_off(program) or counted >= up or len(program.instances) >= ceiling(program, world) or not program.ordered:
        return program, ()
    earliest = history.next_start(program)
    if earliest is not None and not clock.due(earliest):
        return program, ()
    waiting = [suspect for suspect in suspects(program) if not counts(program, suspect)]
    relief = bool(waiting) and counted + len(waiting) >= up
    if relief and (refused := _no_relief(program, waiting)):
        return _relief_refused(program, refused), ()
    build = program.good if relief and program.good is not None and way_back(program) else program.build
    if build == program.build and not cleared(program):
        return program, ()
    return _start(program, build, clock.now, relief=relief)


def _start(program: Program, build: Build, now: float, *, relief: bool) -> tuple[Program, tuple[Effect, ...]]:
    number = program.started + 1
    born = Instance(
        id=InstanceId(program.settings.name, number),
        build=build.number,
        state=State.STARTING,
        since=now,
        spawned=now,
        start_s=history.start_s(program, build if relief else None),
        relief=relief,
    )
    program = replace(
        program,
        started=number,
        reliefs=(*program.reliefs, now) if relief else program.reliefs,
        instances=(*program.instances, born),
    )
    health = program.settings.health
    return program, (Spawn(born.id, build, health.every_s if health.heartbeat else None),)


def _no_relief(program: Program, suspected: list[Instance]) -> str:
    """What stands in the way of a relief; "" for nothing."""
    if len(program.reliefs) >= program.settings.relief.budget:
        return f"{len(program.reliefs)} relief instances within {spell(RELIEF_WINDOW_S)}"
    if not all(suspect.room for suspect in suspected):
        return "the host has not the memory for another instance"
    return ""


def _relief_refused(program: Program, why: str) -> Program:
    """The careful path until nothing is in the way, and people are told."""
    if told(program, "relief-budget"):
        return program
    text = f"{program.settings.name}: {why}; no relief for now, the careful path is left"
    return fact(note(program, "relief.refused", text), "relief-budget", Severity.CRITICAL, text)


def prepare(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Run the preflight of what is proposed now, that of the build under way as soon as an instance of it is needed."""
    up, asked, proposed = wanted(program, world), program.preflight_asked, program.proposed
    if proposed is None and hands_off(program):
        return program, ()
    build = program.build if proposed is None else proposed.build
    if program.preflight is Preflight.PASSED or world.draining or program.removed:
        return program, ()
    if proposed is None:
        short = len(program.instances) < up or any(stale(program, i) for i in program.instances)
        earliest = history.next_start(program)
        if not (up and short and program.ordered) or (earliest is not None and not clock.due(earliest)):
            return program, ()
    if program.preflight is Preflight.ASKED and asked is not None and not clock.due(asked + 2 * PREFLIGHT_S):
        return program, ()
    program = note(program, "preflight.started", f"preflight of build {build.number}{release_of(build)}")
    program = replace(program, preflight=Preflight.ASKED, preflight_asked=clock.now)
    return program, (RunPreflight(program.settings.name, build, PREFLIGHT_S),)


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
