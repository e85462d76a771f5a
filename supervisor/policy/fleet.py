"""All programs: routing, order, shutdown. `step` is the only door to policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from supervisor.model import (
    AckAsked,
    Applied,
    DeployAsked,
    Effect,
    Event,
    Fleet,
    Forget,
    HoldAsked,
    HoldEndAsked,
    MaintenanceChanged,
    Noticed,
    Preflighted,
    Program,
    RestartAsked,
    ShutdownAsked,
    SignalAsked,
    StartAsked,
    State,
    StopAsked,
    Switched,
    Wanted,
    Woke,
)
from supervisor.policy import program as one
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, gone

Matter = tuple[bool, bool]


def step(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, tuple[Effect, ...], float | None]:
    """Take one event up.

    now      monotonic seconds, never less than in the last step
    returns  the next fleet; what is to be done, in this order; and when to step again with `Woke` at the latest (None: no need)

    Only the programs that the event names are settled, those whose own wake is due, and the neighbours in `after` of what changed.
    """
    before = fleet.programs
    heard, names = _hear(fleet, event, now)
    due = [name for name, wake in fleet.wakes.items() if wake <= now]
    known = {name: _matters(program) for name in (*names, *due) if (program := fleet.programs.get(name)) is not None}
    fleet, effects, settled = _settle(heard, dict.fromkeys((*names, *due)), known, now)
    changed = tuple(name for name in settled if fleet.programs.get(name) is not before.get(name))
    return replace(fleet, changed=changed), effects, min(fleet.wakes.values(), default=None)


def drained(fleet: Fleet) -> bool:
    """Whether a shutdown has come to its end: nothing lives but what cannot be killed. The last one usually ends last."""
    return fleet.draining and all(gone(program) for program in reversed(fleet.programs.values()))


def _hear(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, Iterable[str]]:
    match event:
        case Woke():
            return fleet, ()
        case ShutdownAsked():
            return replace(fleet, draining=True, hurried=fleet.draining), tuple(fleet.programs)
        case Applied():
            return _applied(fleet, event, now), tuple(fleet.programs) + tuple(c.settings.name for c in event.programs)
        case MaintenanceChanged():
            return _muted(fleet, event, now)
        case AckAsked():
            name = next((n for n, p in fleet.programs.items() if p.incident and p.incident.number == event.incident), "")
        case Preflighted() | DeployAsked() | Switched() | StartAsked() | StopAsked() | RestartAsked() | SignalAsked():
            name = event.program
        case HoldAsked() | HoldEndAsked() | Noticed():
            name = event.program
        case _:
            name = event.id.program
    known = fleet.programs.get(name)
    if known is None:
        return fleet, ()
    return replace(fleet, programs={**fleet.programs, name: one.hear(known, event, now)}), (name,)


def _applied(fleet: Fleet, event: Applied, now: float) -> Fleet:
    """The programs of a new configuration, in its order, then those that are not in it any more and have to go."""
    programs: dict[str, Program] = {}
    for candidate in event.programs:
        name = candidate.settings.name
        known = fleet.programs.get(name)
        programs[name] = (
            one.create(
                candidate,
                now,
                fleet.numbers.get(name, 0),
                fleet.causes.get(name, ()),
                fleet.releases.get(name, ()),
                fleet.open.get(name),
            )
            if known is None
            else one.apply(known, candidate, now, begins=event.begins)
        )
    for name, known in fleet.programs.items():
        if name not in programs:
            programs[name] = replace(known, removed=True, wanted=Wanted.DOWN)
    fleet = replace(fleet, programs=programs, escalation=event.escalation, stakeholders=event.stakeholders, open={})
    return replace(fleet, needed_by=_needed_by(programs))


def _muted(fleet: Fleet, event: MaintenanceChanged, now: float) -> tuple[Fleet, Iterable[str]]:
    """Alerts of these programs go to nobody; of others whose window is over, what was missed is told."""
    programs = dict(fleet.programs)
    changed = [name for name, program in programs.items() if program.muted != (name in event.programs)]
    for name in changed:
        programs[name] = one.mute(programs[name], now, muted=name in event.programs)
    return replace(fleet, programs=programs), changed


def _needed_by(programs: Mapping[str, Program]) -> dict[str, tuple[str, ...]]:
    """For each program that others have in `after`: which ones."""
    found: dict[str, tuple[str, ...]] = {}
    for needing, program in programs.items():
        for name in program.settings.after:
            found[name] = (*found.get(name, ()), needing)
    return found


def _settle(
    fleet: Fleet, names: dict[str, None], known: dict[str, Matter], now: float
) -> tuple[Fleet, tuple[Effect, ...], Iterable[str]]:
    """known: what neighbours knew of each program before the event. The names of all that were settled come back too."""
    effects: list[Effect] = []
    programs, wakes, incidents = dict(fleet.programs), dict(fleet.wakes), fleet.incidents
    numbers, causes, releases = fleet.numbers, fleet.causes, fleet.releases
    left = 10 * len(programs) + 10  # each change of a program settles its neighbours again: far more than any order needs
    needed_by, settled = fleet.needed_by, dict(names)
    queue, queued = deque(names), set(names)
    while queue:
        left -= 1
        assert left >= 0, "the programs do not settle"
        name = queue.popleft()
        queued.discard(name)
        if name not in programs:
            continue
        clock = Clock(now)
        world = World(programs, fleet.escalation, fleet.draining, fleet.hurried, incidents, fleet.stakeholders, needed_by)
        program, more, incidents = one.settle(programs[name], world, clock)
        effects += more
        programs[name] = program
        wakes.pop(name, None)
        if clock.wake is not None:
            wakes[name] = clock.wake
        if program.removed and not program.instances:
            del programs[name]
            numbers, causes = {**numbers, name: program.started}, {**causes, name: program.causes}
            releases = {**releases, name: program.releases}
            wakes.pop(name, None)
            effects.append(Forget(name))
        matter = _matters(program)
        if known.get(name) != matter or name not in programs:
            known[name] = matter
            neighbours = dict.fromkeys((*needed_by.get(name, ()), *program.settings.after))
            settled |= neighbours
            queue += [other for other in neighbours if other not in queued]
            queued.update(neighbours)
    fleet = replace(fleet, programs=programs, wakes=wakes, incidents=incidents, numbers=numbers, causes=causes, releases=releases)
    return fleet, tuple(effects), settled


def _matters(program: Program) -> Matter:
    """What neighbours in `after` wait for: that it is ready, that it is gone."""
    return any(i.state is State.READY for i in program.instances), gone(program)
