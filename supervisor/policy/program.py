"""One program: `hear` turns an event into facts and never acts; `settle` turns facts into effects and never sees an event.

`settle` is a tuple of small stages, run until nothing changes any more; a second call does nothing. No plan is remembered: rolling
restart, relief, rollback, scaling and stop are two rules, *fill* and *leave*, on different facts. A new rule is one more stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from supervisor.model import (
    Act,
    Answered,
    Blame,
    Build,
    Candidate,
    Effect,
    EvidenceTaken,
    Exited,
    Extended,
    Fact,
    Instance,
    InstanceId,
    Looked,
    Preflight,
    Preflighted,
    Program,
    RestartAsked,
    Retirement,
    RunPreflight,
    Severity,
    Signal,
    SignalAsked,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    State,
    StopAsked,
    Trial,
    Wanted,
)
from supervisor.policy import escalation, history
from supervisor.policy import instance as one
from supervisor.policy.clock import Clock
from supervisor.policy.wanted import (
    World,
    alone,
    ceiling,
    counts,
    leaving,
    may_leave,
    ready,
    stale,
    suspects,
    wanted,
)
from supervisor.policy.words import note, spell

RELIEF_WINDOW_S = 60.0
PREFLIGHT_S = 600.0  # a build's preflight commands together
ROUNDS = 50  # far more than any settling takes: beyond it two stages undo each other, which is our defect

Stage = Callable[[Program, World, Clock], tuple[Program, tuple[Effect, ...]]]
InstanceEvent = Spawned | SpawnFailed | Exited | Answered | Extended | Looked | EvidenceTaken
ProgramEvent = InstanceEvent | Preflighted | StartAsked | StopAsked | RestartAsked | SignalAsked


# --- hear: events become facts --------------------------------------------------------------------------------------------------


def create(candidate: Candidate) -> Program:
    """A program that was not known before."""
    settings = candidate.settings
    build = Build(1, candidate.release, settings.launch, candidate.directory)
    return Program(
        settings=settings,
        build=build,
        preflight=_preflight(settings.launch.preflight),
        wanted=Wanted.DOWN if settings.manual else Wanted.UP,
        started=candidate.started,
    )


def apply(program: Program, candidate: Candidate, now: float) -> Program:
    """Take up changed settings: what decides a start makes a new build, on trial where there is one to go back to."""
    settings = candidate.settings
    if program.removed:
        program = replace(program, removed=False, wanted=Wanted.DOWN if settings.manual else Wanted.UP)
    program = replace(program, settings=settings)
    for known in (program.build, program.good):
        if known is not None and (known.release, known.launch, known.directory) == (
            candidate.release,
            settings.launch,
            candidate.directory,
        ):
            return _choose(program, known)
    build = Build(program.builds + 1, candidate.release, settings.launch, candidate.directory)
    program = note(program, "build.made", f"build {build.number}{_release(build)} takes the place of build {program.build.number}")
    program = replace(_choose(program, build), builds=build.number, preflight=_preflight(settings.launch.preflight))
    if program.good is not None and settings.release.rollback:
        program = replace(program, trial=Trial(build.number, now))
    return program


def hear(program: Program, event: ProgramEvent, now: float) -> Program:
    """Write down what an event says. Of an instance that is gone it changes nothing."""
    match event:
        case Preflighted():
            return _preflighted(program, event, now)
        case StartAsked():
            return _at_once(replace(program, wanted=Wanted.UP, resting=0))
        case StopAsked():
            return note(replace(program, wanted=Wanted.DOWN), "program.stop_asked", "stop asked by an operator")
        case RestartAsked():
            return _restart_asked(program, event, now)
        case SignalAsked():
            return replace(program, signals=(*program.signals, event.signal))
        case _:
            known = next((i for i in program.instances if i.id == event.id), None)
            return program if known is None else _hear_instance(program, known, event, now)


def _hear_instance(program: Program, instance: Instance, event: InstanceEvent, now: float) -> Program:
    match event:
        case Spawned():
            return (
                one.put(program, replace(instance, pid=event.pid, start_ticks=event.start_ticks))
                if instance.pid is None
                else program
            )
        case SpawnFailed():
            program = replace(program, instances=_without(program, instance))
            return program if leaving(instance) else history.spawn_failed(program, instance, event, now)
        case Exited():
            return _exited(program, instance, event, now)
        case Answered():
            return _answered(program, instance, event, now)
        case Extended():
            return one.put(program, replace(instance, start_s=event.start_s)) if instance.state is State.STARTING else program
        case Looked():
            return one.put(program, one.look(instance, event, now))
        case EvidenceTaken():
            return one.put(program, replace(instance, evidence=event.summary))


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
    return replace(one.put(program, answering), trial=trial, slow_starts=0, broken="")


def _preflighted(program: Program, event: Preflighted, now: float) -> Program:
    if event.build != program.build.number or program.preflight is not Preflight.ASKED:
        return program
    if not event.problem:
        return note(
            replace(program, preflight=Preflight.PASSED, broken=""), "preflight.passed", f"build {event.build} passed its preflight"
        )
    text = f"{program.settings.name} build {event.build}{_release(program.build)} failed its preflight: {event.problem}"
    program = note(program, "preflight.failed", f"build {event.build} failed its preflight: {event.problem}")
    if program.good is not None and program.good != program.build:
        return replace(program, trial=Trial(event.build, now, lost=f"its preflight failed: {event.problem}"))
    fact = Fact("preflight", Severity.CRITICAL, text)
    return replace(program, preflight=Preflight.NEEDED, failed=now, broken=event.problem, facts=(*program.facts, fact))


def _restart_asked(program: Program, event: RestartAsked, now: float) -> Program:
    program = note(program, "program.restart_asked", "restart asked by an operator" + (", at once" if event.at_once else ""))
    instances = tuple(replace(i, replace=True) for i in program.instances)
    program = _at_once(replace(program, wanted=Wanted.UP, resting=0, instances=instances))
    if event.at_once:
        for instance in program.instances:
            if not leaving(instance):
                program = one.retire(program, instance, now, "an operator wants another in its place at once")
        program = replace(program, instances=tuple(replace(i, pressed=now) if leaving(i) else i for i in program.instances))
    return program


def _at_once(program: Program) -> Program:
    """An operator's command waits for no backoff, and a build that could not be executed is tried again."""
    return replace(program, failed=None, broken="", ordered=True)


def _choose(program: Program, build: Build) -> Program:
    """Make `build` the one under way: what failed before says nothing of it."""
    if program.build == build:
        return replace(program, trial=program.trial if program.trial and program.trial.build == build.number else None)
    return replace(
        program,
        build=build,
        trial=None,
        preflight=Preflight.PASSED,
        failed=None,
        attempt=0,
        broken="",
        failures=(),
        crash_loop=False,
    )


def _preflight(commands: tuple[tuple[str, ...], ...]) -> Preflight:
    return Preflight.NEEDED if commands else Preflight.PASSED


def _without(program: Program, instance: Instance) -> tuple[Instance, ...]:
    return tuple(i for i in program.instances if i.id != instance.id)


def _release(build: Build) -> str:
    return f" (release {build.release})" if build.release else ""


# --- settle: facts become effects -----------------------------------------------------------------------------------------------


def settle(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Run the stages until nothing changes; `clock.wake` then says when something could."""
    effects: list[Effect] = []
    for _ in range(ROUNDS):
        before = program
        clock.wake = None
        for stage in STAGES:
            program, more = stage(program, world, clock)
            effects += more
        if program.incident is not None and program.incident.number > world.incidents:
            world = replace(world, incidents=program.incident.number)
        if program == before:
            if any(i.fresh for i in program.instances):
                program = replace(program, instances=tuple(replace(i, fresh=False) for i in program.instances))
                continue
            return program, tuple(effects)
    raise AssertionError(f"{program.settings.name} does not settle: {program}")


def expire(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Forget what is over: failures outside the window, and a crash loop after a healthy run."""
    restart = program.settings.restart
    program = replace(
        program,
        failures=tuple(at for at in program.failures if not clock.due(at + restart.window_s)),
        reliefs=tuple(at for at in program.reliefs if not clock.due(at + RELIEF_WINDOW_S)),
    )
    if program.crash_loop and ready(program) >= program.settings.instances:
        since = max(i.since for i in program.instances if i.state is State.READY)
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


def press(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """A stop counts the grace, also of those that were asked to go before it."""
    if wanted(program, world) or not may_leave(program, world):
        return program, ()
    pressed = tuple(
        replace(i, pressed=clock.now) if i.state is State.RETIRING and i.pressed is None else i for i in program.instances
    )
    return replace(program, instances=pressed), ()


def trial(program: Program, world: World, _: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Trust the build under way once the old ones are gone, or give it up and go back to the last good one."""
    trying = program.trial
    if trying is not None and trying.lost and program.good is not None:
        lost, good = program.build, program.good
        text = f"build {lost.number}{_release(lost)} is given up, back to build {good.number}{_release(good)}: {trying.lost}"
        program = note(_choose(program, good), "build.lost", text)
        return replace(program, facts=(*program.facts, Fact("rollback", Severity.CRITICAL, f"{program.settings.name}: {text}"))), ()
    up = wanted(program, world)
    fresh = sum(1 for i in program.instances if i.state is State.READY and not stale(program, i))
    if up and program.good != program.build and fresh >= up and len(program.instances) == fresh:
        if program.good is not None:
            program = note(program, "build.trusted", f"build {program.build.number}{_release(program.build)} serves: it is trusted")
        program = replace(program, good=program.build, trial=None)
    return program, ()


def leave(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Ask one more to go when enough others are ready: suspects first, then stale ones, then surplus."""
    up = wanted(program, world)
    if not up:
        return _leave_all(program, world, clock), ()
    going = _suspect_to_go(program, up) or _stale_to_go(program, up) or _surplus_to_go(program, up)
    if going is None:
        return program, ()
    instance, why = going
    program = one.retire(program, instance, clock.now, why)
    if alone(program):
        program = one.put(program, replace(_find(program, instance.id), pressed=clock.now))
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
    if program.settings.hang.act is Act.TELL or program.settings.relief.retire is Retirement.WATCH or alone(program):
        return None
    for suspect in suspects(program):
        if _others_ready(program, suspect) >= up:
            return suspect, "others serve in its place"
    return None


def _stale_to_go(program: Program, up: int) -> tuple[Instance, str] | None:
    old = [i for i in program.instances if stale(program, i) and i.state in (State.STARTING, State.READY)]
    if any(not stale(program, suspect) for suspect in suspects(program)):
        return None
    for instance in old:
        why = (
            "a restart was asked for"
            if instance.replace
            else f"build {program.build.number} takes the place of build {instance.build}"
        )
        if instance.state is State.STARTING and not (instance.relief and counts(program, instance)):
            return instance, why
        if alone(program):
            if program.preflight is Preflight.PASSED and all(
                i.state is State.READY for i in program.instances if i.id != instance.id
            ):
                return instance, why
        elif _others_ready(program, instance) >= up and not (instance.relief and suspects(program)):
            return instance, why
    return None


def _surplus_to_go(program: Program, up: int) -> tuple[Instance, str] | None:
    serving = [i for i in program.instances if i.state in (State.STARTING, State.READY)]
    if len(serving) <= up:
        return None
    starting = [i for i in serving if i.state is State.STARTING and not stale(program, i)]
    if starting and ready(program) >= up and not any(stale(program, i) for i in serving):
        return max(starting, key=lambda i: i.id.number), "enough others are ready"
    fresh = [i for i in serving if i.state is State.READY and not stale(program, i)]
    if len(fresh) > up:
        return min(fresh, key=lambda i: i.id.number), "a newer one serves in its place"
    return None


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
        program = note(program, "program.waiting", f"waits until {_and(missing)} {_is(missing)} ready")
        program = replace(program, waiting=clock.now)
    longest_s = max(world.programs[name].settings.health.start_s for name in missing)
    if program.waiting is None or not clock.due(program.waiting + longest_s):
        return program, ()
    program = note(program, "program.waited", f"starts although {_and(missing)} {_is(missing)} not ready after {spell(longest_s)}")
    return replace(program, ordered=True, waiting=None), ()


def fill(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Start one more instance of the build under way when fewer than wanted count, and the backoff allows."""
    up = wanted(program, world)
    counted = sum(1 for i in program.instances if counts(program, i))
    if counted >= up or len(program.instances) >= ceiling(program, world) or not program.ordered:
        return program, ()
    earliest = history.next_start(program)
    if earliest is not None and not clock.due(earliest):
        return program, ()
    waiting = suspects(program)
    relief = bool(waiting) and counted + len(waiting) >= up
    if relief and len(program.reliefs) >= program.settings.relief.budget:
        return _relief_refused(program, clock), ()
    build = program.good if relief and program.trial is not None and program.good is not None else program.build
    if build == program.build and program.preflight is not Preflight.PASSED:
        return _run_preflight(program, clock)
    return _start(program, build, clock.now, relief=relief)


def _start(program: Program, build: Build, now: float, *, relief: bool) -> tuple[Program, tuple[Effect, ...]]:
    number = program.started + 1
    born = Instance(
        id=InstanceId(program.settings.name, number),
        build=build.number,
        state=State.STARTING,
        since=now,
        spawned=now,
        relief=relief,
    )
    what = f"relief {born.id} started beside {_and([str(i.id) for i in suspects(program)])}" if relief else f"{born.id} started"
    program = note(program, "instance.started", what + _release(build))
    restart = 1 if program.owed else 0
    program = replace(
        program,
        started=number,
        restarts=program.restarts + restart,
        owed=max(0, program.owed - 1),
        reliefs=(*program.reliefs, now) if relief else program.reliefs,
        instances=(*program.instances, born),
    )
    return program, (Spawn(born.id, build),)


def _relief_refused(program: Program, clock: Clock) -> Program:
    """The budget is used up: the careful path until it is not, and people are told."""
    clock.due(program.reliefs[0] + RELIEF_WINDOW_S)
    if program.incident is not None and "relief-budget" in program.incident.told:
        return program
    count = len(program.reliefs)
    text = f"{program.settings.name}: {count} relief instances within {spell(RELIEF_WINDOW_S)}; the careful path is left"
    return replace(note(program, "relief.refused", text), facts=(*program.facts, Fact("relief-budget", Severity.CRITICAL, text)))


def _run_preflight(program: Program, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    asked = program.preflight_asked
    if program.preflight is Preflight.ASKED and asked is not None and not clock.due(asked + 2 * PREFLIGHT_S):
        return program, ()
    program = note(program, "preflight.started", f"preflight of build {program.build.number}{_release(program.build)}")
    program = replace(program, preflight=Preflight.ASKED, preflight_asked=clock.now)
    return program, (RunPreflight(program.settings.name, program.build, PREFLIGHT_S),)


def serve(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Say it when nothing has served for longer than a start may take."""
    if ready(program) or not wanted(program, world):
        return (program if program.unserved is None else replace(program, unserved=None)), ()
    if program.unserved is None:
        program = replace(program, unserved=clock.now)
    since = program.unserved if program.unserved is not None else clock.now
    if not clock.due(since + program.settings.health.start_s) or (program.incident is not None and "down" in program.incident.told):
        return program, ()
    text = f"no instance of {program.settings.name} is ready, for {spell(clock.now - since)} now"
    return replace(note(program, "program.down", text), facts=(*program.facts, Fact("down", Severity.CRITICAL, text))), ()


STAGES: tuple[Stage, ...] = (expire, instances, signals, press, trial, leave, order, fill, serve, escalation.tell)


def _find(program: Program, wanted_id: InstanceId) -> Instance:
    return next(i for i in program.instances if i.id == wanted_id)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
