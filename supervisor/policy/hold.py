"""Hold: an operator wants Reviver to keep its hands off a program for a while.

Pure. While it lasts Reviver watches, records and tells, and heals nothing: no relief, no retired suspect, no kill, and one that failed
is started again only when it is over. It says once what it would have done. Operator's commands work as ever: one that comes is under
way (`commanded`) until all is as it asked for, or something fails; only so long may instances be started and asked to go. A hold ends
by itself, and says so. It lives with the program's value: it survives a supervisor, not a boot.
"""

from __future__ import annotations

from supervisor.model import Act, Effect, Hold, HoldAsked, HoldEndAsked, Instance, Preflight, Program, State, Wanted
from supervisor.policy import history, worker
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, alone, counts, stale, suspects, wanted
from supervisor.policy.words import note, refrained, spell


def ask(program: Program, event: HoldAsked, now: float) -> Program:
    """Begin a hold, or give the one that there is another end."""
    before = program.hold
    commanded = before.commanded if before is not None else _under_way(program)
    held = Hold(now if before is None else before.since, now + event.for_s, event.reason, event.by, commanded)
    text = f"held for {spell(event.for_s)} by {event.by} ({event.reason}): watched and recorded, not healed"
    return note(replace(program, hold=held), "program.held", text)


def end(program: Program, event: HoldEndAsked, now: float) -> Program:
    """Somebody ends it before its time."""
    return program if program.hold is None else _over(program, now, f"ended by {event.by}")


def command(program: Program) -> Program:
    """An operator's command came: what it asks for may be done."""
    hold = program.hold
    return program if hold is None or hold.commanded else replace(program, hold=replace(hold, commanded=True))


def expire(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """It ends by itself."""
    hold = program.hold
    return (_over(program, clock.now, "its time is over"), ()) if hold is not None and clock.due(hold.until) else (program, ())


def refrain(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """See whether the command under way is done, and say once what is not done because of the hold."""
    hold = program.hold
    if hold is None:
        return program, ()
    if hold.commanded:
        return (replace(program, hold=replace(hold, commanded=False)), ()) if _done(program, world) else (program, ())
    for key, text in _would(program, world, clock):
        program = refrained(program, key, text)
    return program, ()


def _over(program: Program, now: float, why: str) -> Program:
    assert program.hold is not None
    text = f"no longer held after {spell(now - program.hold.since)}: {why}; it is healed again"
    return note(replace(program, hold=None), "program.released", text)


def _under_way(program: Program) -> bool:
    """Whether what is going on was asked for: a start, a rolling restart, a deploy; not the cure of a failure."""
    if program.failed is not None or program.retreat or (program.trial is not None and program.trial.lost):
        return False
    refused = program.refused.number if program.refused is not None else None
    return not any(i.state is State.KILLING or worker.worn(i) or i.build == refused for i in program.instances)


def _done(program: Program, world: World) -> bool:
    up = wanted(program, world)
    counted = sum(1 for i in program.instances if counts(program, i))
    busy = any(stale(program, i) or (not up and i.state is not State.KILLING) for i in program.instances)
    return program.proposed is None and not busy and up <= counted and len(_serving(program)) <= up


def _serving(program: Program) -> list[Instance]:
    return [i for i in program.instances if i.state in (State.STARTING, State.READY)]


def _would(program: Program, world: World, clock: Clock) -> list[tuple[str, str]]:
    """What Reviver would do now by itself, each with a key under which it is said once."""
    said = []
    up, counted = wanted(program, world), sum(1 for i in program.instances if counts(program, i))
    start = history.next_start(program)
    ready_to = program.ordered and program.preflight is Preflight.PASSED and program.wanted is Wanted.UP
    if counted < up and ready_to and (start is None or clock.due(start)):
        said.append((f"start:{program.started}", f"it would start {program.settings.name}:{program.started + 1} now"))
    for suspect in () if program.settings.hang.act is Act.TELL else suspects(program):
        relief = f"it would start another one beside {suspect.id}, and ask that to stop"
        text = f"{suspect.id} would be killed once it is proven hung" if alone(program) else relief
        said.append((f"relieve:{suspect.id}", text))
    if program.trial is not None and program.trial.lost:
        said.append((f"back:{program.trial.build}", "it would go back to the last good build"))
    return said
