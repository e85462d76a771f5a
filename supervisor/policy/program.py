"""One program: `hear` turns an event into facts and never acts; `settle` turns facts into effects and never sees an event.

`settle` is a tuple of small stages, run in turn until none of them changes anything any more; a second call does nothing. No plan is
remembered: rolling restart, relief, rollback, scaling and stop are two rules, *fill* and *leave*, on different facts. A new rule is one
more stage.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.model import (
    AckAsked,
    Answered,
    Blame,
    Build,
    Candidate,
    DeployAsked,
    Effect,
    EvidenceTaken,
    Exited,
    Extended,
    HoldAsked,
    HoldEndAsked,
    Incident,
    Instance,
    Known,
    Link,
    Looked,
    Noticed,
    Preflight,
    Preflighted,
    Program,
    Release,
    RestartAsked,
    Severity,
    Signal,
    SignalAsked,
    Spared,
    Spawned,
    SpawnFailed,
    StartAsked,
    State,
    StopAsked,
    Switched,
    Wanted,
    WorkerLooked,
)
from supervisor.policy import (
    apology,
    builds,
    customers,
    escalation,
    fill,
    history,
    hold,
    leave,
    memory,
    outside,
    releases,
    toll,
    worker,
)
from supervisor.policy import instance as one
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import (
    MOVING,
    World,
    leaving,
    ready,
    release,
    stale,
    wanted,
)
from supervisor.policy.words import fact, note, spell

ROUNDS = 50  # far more than any settling takes: beyond it two stages undo each other, which is our defect

Stage = Callable[[Program, World, Clock], tuple[Program, tuple[Effect, ...]]]
InstanceEvent = Spawned | SpawnFailed | Exited | Answered | Extended | Looked | WorkerLooked | Spared | EvidenceTaken
OfPeople = Noticed | AckAsked | HoldAsked | HoldEndAsked
ProgramEvent = InstanceEvent | Preflighted | DeployAsked | Switched | StartAsked | StopAsked | RestartAsked | SignalAsked | OfPeople


# --- hear: events become facts --------------------------------------------------------------------------------------------------


def create(
    candidate: Candidate,
    now: float,
    started: int = 0,
    causes: tuple[Known, ...] = (),
    past: tuple[Release, ...] = (),
    incident: Incident | None = None,
) -> Program:
    """A program that is not here yet.

    started  the highest instance number that was ever given for its name
    causes   what is remembered of it
    past     its releases so far
    incident the one that was not over when the supervisor before ended
    """
    settings = candidate.settings
    build = Build(1, candidate.release, settings.launch, candidate.directory)
    program = Program(
        settings=settings,
        build=build,
        given=replace(build, number=0),
        preflight=_preflight(settings.launch.preflight),
        wanted=Wanted.DOWN if settings.manual else Wanted.UP,
        started=started,
        causes=causes,
        link=Link(settings.launch.directory, candidate.directory) if candidate.linked else None,
        releases=past,
        incident=incident,
    )
    return builds.begin(program, now)


def apply(program: Program, candidate: Candidate, now: float, *, begins: bool = False) -> Program:
    """Take up changed settings: what decides a start makes a new build, on trial where there is one to go back to."""
    settings = candidate.settings
    if program.removed:
        program = replace(program, removed=False, wanted=Wanted.DOWN if settings.manual else Wanted.UP)
    after = builds.candidate(replace(program, settings=settings), candidate, now, begins=begins)
    return after if begins or after == program else hold.command(after)


def hear(program: Program, event: ProgramEvent, now: float) -> Program:
    """Write down what an event says. Of an instance that is gone it changes nothing, but for why it is."""
    match event:
        case Preflighted():
            return builds.preflighted(program, event, now)
        case DeployAsked():
            return hold.command(builds.deploy(program, event, now))
        case Switched():
            return builds.switched(program, event)
        case StartAsked():
            return hold.command(_at_once(replace(program, wanted=Wanted.UP, resting=0)))
        case StopAsked():
            return note(replace(program, wanted=Wanted.DOWN), "program.stop_asked", "stop asked by an operator")
        case RestartAsked():
            return hold.command(_restart_asked(program, event, now))
        case Noticed():
            return toll.hear(program, event, now)
        case AckAsked():
            return replace(program, acked=event.by)
        case HoldAsked():
            return hold.ask(program, event, now)
        case HoldEndAsked():
            return hold.end(program, event, now)
        case SignalAsked():
            return replace(program, signals=(*program.signals, event.signal))
        case _:
            known = next((i for i in program.instances if i.id == event.id), None)
            if known is not None:
                return _hear_instance(program, known, event, now)
            return escalation.testify(program, event) if isinstance(event, EvidenceTaken) else program


def mute(program: Program, now: float, *, muted: bool) -> Program:
    """A maintenance window of it begins or is over."""
    text = "a maintenance window begins: alerts are muted, healing goes on" if muted else "the maintenance window is over"
    program = note(program, "program.muted" if muted else "program.unmuted", text)
    return replace(program, muted=muted, unmuted=program.unmuted if muted else now)


def _hear_instance(program: Program, instance: Instance, event: InstanceEvent, now: float) -> Program:
    match event:
        case Spawned():
            return (
                one.put(program, replace(instance, pid=event.pid, start_ticks=event.start_ticks))
                if instance.pid is None
                else program
            )
        case SpawnFailed():
            if instance.pid is not None:
                return program
            program = replace(program, instances=_without(program, instance))
            return program if leaving(instance) else history.spawn_failed(program, instance, event, now)
        case Exited():
            return _exited(program, instance, event, now)
        case Answered():
            return _answered(program, instance, event, now)
        case Extended():
            return one.put(program, replace(instance, start_s=max(instance.start_s, event.start_s)))
        case Looked() if instance.state is State.STARTING and event.verdict.kind in MOVING:
            return _answered(program, instance, Answered(event.id, event.verdict.because), now)  # the answer itself was lost
        case Looked():
            seen = one.look(instance, event, now)
            if one.leaks(seen) and not one.leaks(instance):
                program = note(program, "instance.leaking", f"leaking: {event.verdict.because}", instance)
            return one.put(program, seen)
        case Spared():
            return one.put(outside.spared(program, instance), one.spare(instance, event, now))
        case WorkerLooked():
            return one.put(program, worker.look(instance, event)) if instance.state is State.READY else program
        case EvidenceTaken() if event.suspected is not None and instance.suspected not in (None, event.suspected):
            return program  # of a suspicion that is over: what it does now is another thing
        case EvidenceTaken():
            found = replace(instance, evidence=event.summary, cause=event.cause, where=event.where, peer=event.peer)
            return memory.met(one.put(program, found), found, release(program, found), now)


def _exited(program: Program, instance: Instance, event: Exited, now: float) -> Program:
    program = history.ended(program, instance, event, now)
    if not event.left:
        return replace(program, instances=_without(program, instance))
    program = note(program, "instance.left", f"{event.left} processes of its tree live on; killed", instance)
    why = f"it ended and left {event.left} processes of its tree"
    dying = replace(instance, state=State.KILLING, blame=Blame.EXIT, why=why, tries=max(instance.tries, 1), tried=now)
    return one.put(program, dying if instance.state is State.KILLING else replace(dying, since=now))


def _answered(program: Program, instance: Instance, event: Answered, now: float) -> Program:
    if instance.state is not State.STARTING:
        return program
    trial = program.trial
    if trial is not None and trial.build == instance.build:
        trial = replace(trial, served=True)
    program = note(program, "instance.ready", f"ready after {spell(now - instance.spawned)}: {event.how}", instance)
    answering = replace(instance, state=State.READY, since=now, ready=now, seen=None, moved=now, verdict=None, look_asked=None)
    return replace(one.put(program, answering), trial=trial, slow_starts=0, broken="", boot_s=now - instance.spawned)


def _restart_asked(program: Program, event: RestartAsked, now: float) -> Program:
    program = note(program, "program.restart_asked", "restart asked by an operator" + (", at once" if event.at_once else ""))
    instances = tuple(replace(i, replace=True) for i in program.instances)
    program = _at_once(replace(program, wanted=Wanted.UP, resting=0, instances=instances))
    if event.at_once:
        for instance in program.instances:
            if not leaving(instance):
                program = one.retire(program, instance, now, "an operator wants another in its place at once")
        program = one.press(program, now)
    return program


def _at_once(program: Program) -> Program:
    """An operator's command waits for no backoff, and a build that could not be executed is tried again."""
    return replace(program, failed=None, broken="", ordered=True)


def _preflight(commands: tuple[tuple[str, ...], ...]) -> Preflight:
    return Preflight.NEEDED if commands else Preflight.PASSED


def _without(program: Program, instance: Instance) -> tuple[Instance, ...]:
    return tuple(i for i in program.instances if i.id != instance.id)


# --- settle: facts become effects -----------------------------------------------------------------------------------------------


def settle(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...], int]:
    """Run the stages in turn until none of them changes anything; `clock.wake` then says when one could.

    returns  the program, what is to be done, and the highest incident number given
    """
    effects: list[Effect] = []
    wakes: list[float | None] = [None] * len(STAGES)  # as each stage said the last time, and that was of the program as it is now
    still = 0  # stages in a row that changed nothing
    for turn in range(ROUNDS * len(STAGES)):
        place = turn % len(STAGES)
        clock.wake = None
        after, more = STAGES[place](program, world, clock)
        wakes[place] = clock.wake
        effects += more
        still += 1
        if after is not program and after != program:
            program, still = after, 0
            if program.incident is not None and program.incident.number > world.incidents:
                world = replace(world, incidents=program.incident.number)
        if still < len(STAGES):
            continue
        if not any(i.fresh for i in program.instances):
            clock.wake = min((wake for wake in wakes if wake is not None), default=None)
            for write in RECORDS:
                program, more = write(program, world, clock)
                effects += more
            return program, tuple(effects), world.incidents
        program = replace(program, instances=tuple(replace(i, fresh=False) if i.fresh else i for i in program.instances))
        still = 0
    raise AssertionError(f"{program.settings.name} does not settle: {program}")


def record(program: Program, _: World, __: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Hand over the lines of the story."""
    return (replace(program, notes=()), program.notes) if program.notes else (program, ())


def expire(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Forget what is over: failures outside the window, and a crash loop after a healthy run."""
    restart = program.settings.restart
    failures = tuple(at for at in program.failures if not clock.due(at + restart.window_s))
    reliefs = tuple(at for at in program.reliefs if not clock.due(at + fill.RELIEF_WINDOW_S))
    if (failures, reliefs) != (program.failures, program.reliefs):
        program = replace(program, failures=failures, reliefs=reliefs)
    fresh = [i.since for i in program.instances if i.state is State.READY and not stale(program, i)]
    if program.crash_loop and len(fresh) >= max(1, program.settings.instances - program.resting):
        since = max(fresh)
        if clock.due(since + restart.healthy_s):
            program = note(program, "program.recovered", f"no crash loop any more: ready for {spell(clock.now - since)}")
            program = replace(program, crash_loop=False, failures=(), attempt=0, failed=None)
    return program, ()


def instances(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Each instance by itself."""
    effects: list[Effect] = []
    for instance in program.instances:
        program, instance, more = one.settle(program, instance, world, clock)
        program = one.put(program, instance)
        effects += more
    return program, tuple(effects)


def signals(program: Program, _: World, __: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Send what an operator asked to be sent, to all that run."""
    if not program.signals:
        return program, ()
    effects = [Signal(i.id, name) for name in program.signals for i in program.instances if i.opened and not leaving(i)]
    for name in program.signals:
        program = note(program, "program.signalled", f"SIG{name} sent, asked by an operator")
    return replace(program, signals=()), tuple(effects)


def serve(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Say it when nothing has served for longer than a start may take."""
    if ready(program) or not wanted(program, world):
        return (program if program.unserved is None else replace(program, unserved=None)), ()
    if program.unserved is None:
        program = replace(program, unserved=clock.now)
    since = program.unserved if program.unserved is not None else clock.now
    if not clock.due(since + program.settings.health.start_s) or (program.incident is not None and "down" in program.incident.told):
        return program, ()
    text = f"no instance of {program.settings.name} was ready for {spell(clock.now - since)}"
    return fact(note(program, "program.down", text), "down", Severity.CRITICAL, text), ()


STAGES: tuple[Stage, ...] = (
    expire,
    hold.expire,
    instances,
    signals,
    leave.press,
    builds.accept,
    builds.trial,
    builds.switch,
    leave.leave,
    outside.outside,
    fill.order,
    fill.prepare,
    fill.fill,
    hold.refrain,
    serve,
    apology.apologize,
    escalation.acknowledge,
    escalation.tell,
    escalation.witness,
    escalation.climb,
    customers.notice,
    toll.count,
    escalation.close,
)

RECORDS: tuple[Stage, ...] = (
    escalation.record,
    memory.remember,
    releases.record,
    record,
)  # once, at the end: no stage asks what was written
