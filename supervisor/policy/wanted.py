"""Pure questions about a program: how many are wanted, which count, which are stale, whose patience is how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.model import (
    NO_STAKEHOLDERS,
    Act,
    Build,
    EscalationStep,
    HangSettings,
    Instance,
    Kind,
    Nature,
    Preflight,
    Program,
    StakeholderSettings,
    State,
    Verdict,
    Wanted,
)
from supervisor.policy.clock import Clock

SUSPICIOUS = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED})
HUNG = frozenset({Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED})
MOVING = frozenset({Kind.HEALTHY, Kind.BUSY, Kind.OVERLOADED, Kind.LEAKING})
EXCUSED = frozenset({Kind.STARVED, Kind.UNINTERRUPTIBLE})

COMPANY = 1.5  # patience, once others lived beside it: they compete for the processors
SERVED = 3.0  # patience while another serves or is about to: nobody waits for this one
BOOTS = 2.0  # times the last boot: beside a suspect that spins, and on a host that is busy, it takes longer than alone


@dataclass(frozen=True, slots=True)
class World:
    """What a program may know of the rest of the fleet."""

    programs: Mapping[str, Program]
    escalation: tuple[EscalationStep, ...] = ()
    draining: bool = False
    hurried: bool = False
    incidents: int = 0  # the highest number given
    stakeholders: StakeholderSettings = NO_STAKEHOLDERS
    needed_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # who has whom in `after`


def wanted(program: Program, world: World) -> int:
    """How many instances should be ready now."""
    if program.wanted is Wanted.DOWN or program.removed or world.draining:
        return 0
    up = max(0, program.settings.instances - program.resting)
    return up + 1 if program.settings.relief.spare and up else up


def ceiling(program: Program, world: World) -> int:
    """How many instances may live at once, whatever their state."""
    return wanted(program, world) + program.settings.relief.extra


def alone(program: Program) -> bool:
    """Whether no instance may run beside another's successor (`extra = 0`)."""
    return program.settings.relief.extra == 0


def stale(program: Program, instance: Instance) -> bool:
    """Whether another should stand in its place: it is of another build, or an operator asked for it."""
    return instance.replace or instance.build != program.build.number


def returnable(good: Build, build: Build) -> bool:
    """Whether going back from `build` to `good` is possible: a directory that was changed in place holds the new release alone."""
    return good.directory != build.directory or good.release == build.release


def way_back(program: Program) -> bool:
    """Whether a build is on trial, and Reviver may go back to the last good one by itself."""
    good = program.good
    allowed = program.trial is not None and program.settings.release.rollback
    return allowed and good is not None and returnable(good, program.build)


def cleared(program: Program) -> bool:
    """Whether instances of the build under way may start: its preflight has passed; that of a proposed one is not its."""
    return program.proposed is not None or program.preflight is Preflight.PASSED


def release(program: Program, instance: Instance) -> str:
    """The release that an instance runs, "" where it is not known any more."""
    known = (program.build, program.good, program.previous)
    return next((build.release for build in known if build is not None and build.number == instance.build), "")


def leaving(instance: Instance) -> bool:
    return instance.state in (State.RETIRING, State.KILLING)


def hands_off(program: Program, instance: Instance | None = None) -> bool:
    """Whether Reviver may not heal now, because an operator holds the program.

    instance  one that an operator's command is to replace may go all the same
    """
    hold = program.hold
    if hold is None or program.wanted is Wanted.DOWN or program.removed:
        return False
    return not hold.commanded or (instance is not None and not stale(program, instance))


def left_alone(program: Program, instance: Instance) -> bool:
    """Whether a suspect is neither relieved nor retired: Reviver may only tell, or is held, and nobody asked for another."""
    return program.settings.hang.act is Act.TELL or hands_off(program, instance)


def excused(program: Program, instance: Instance) -> bool:
    """Whether it is suspect only because it waits for the peer that all wait for."""
    return program.outside is not None and instance.state is State.SUSPECT and instance.peer == program.outside.peer


def serves_soon(program: Program, instance: Instance, clock: Clock) -> bool:
    """Whether it serves, or starts and has not taken much longer for it than the last one did: a request may hang it before it answers."""
    if instance.state is not State.STARTING:
        return instance.state is State.READY
    usual_s = max(program.settings.hang.suspect_s, BOOTS * program.boot_s)
    return not program.boot_s or not clock.due(instance.spawned + usual_s)


def stuck(program: Program, instance: Instance, world: World, clock: Clock) -> bool:
    """Whether nobody serves, nobody is about to, and nobody can be started: then this suspect holds all that customers could have."""
    if any(serves_soon(program, i, clock) for i in program.instances):
        return False
    full = len(program.instances) >= ceiling(program, world) or len(program.reliefs) >= program.settings.relief.budget
    return full or not instance.room


def counts(program: Program, instance: Instance) -> bool:
    """Whether it is one of the wanted: it serves or will, and is not to be replaced.

    A relief of the last good build counts while a build is on trial and a suspect is not gone; a suspect counts where Reviver may only
    tell, under a hold, and while all wait for somebody else.
    """
    if alone(program):
        return True
    if instance.state is State.SUSPECT:
        return left_alone(program, instance) or excused(program, instance)
    fits = not stale(program, instance) or (instance.relief and not instance.replace and _undecided(program))
    return fits and instance.state in (State.STARTING, State.READY)


def _undecided(program: Program) -> bool:
    """Whether a build is on trial that can be taken back, and somebody was suspected and is not gone: nothing is tried beside it."""
    return way_back(program) and any(i.suspected is not None for i in program.instances)


def ready(program: Program) -> int:
    return sum(1 for instance in program.instances if instance.state is State.READY)


def suspects(program: Program) -> tuple[Instance, ...]:
    return tuple(i for i in program.instances if i.state is State.SUSPECT)


def unkillable(instance: Instance) -> bool:
    """Whether SIGKILL was sent twice and it still lives: nobody waits for it any more."""
    return instance.state is State.KILLING and instance.tries > 2


def gone(program: Program) -> bool:
    """Whether nothing of it lives that could still end."""
    return all(unkillable(instance) for instance in program.instances)


def dependents(program: Program, world: World) -> tuple[Program, ...]:
    """The programs that name this one in `after`."""
    return tuple(world.programs[name] for name in world.needed_by.get(program.settings.name, ()) if name in world.programs)


def may_leave(program: Program, world: World) -> bool:
    """Whether a stop may take it: those that need it and go as well are gone. One that stays is left alone."""
    return world.hurried or all(gone(other) for other in dependents(program, world) if not wanted(other, world))


def patience_s(program: Program, instance: Instance, hang: HangSettings, verdict: Verdict, clock: Clock) -> float | None:
    """Seconds without any movement after which this verdict is a proof; None: never (`blocked = "off"`)."""
    base_s = hang.certain_s if verdict.nature in (Nature.SPINNING, Nature.LOCKED) else hang.blocked_s
    if base_s is None:
        return None
    others = [other for other in program.instances if other.id != instance.id]
    if any(serves_soon(program, other, clock) for other in others):
        return base_s * SERVED
    since = instance.suspected if instance.suspected is not None else instance.since
    companions = bool(others) or any(at >= since for at in program.reliefs)
    return base_s * COMPANY if companions else base_s
