"""One instance: starting, ready, suspect, retiring, killing. Facts in, the next state and effects out.

`look` is the only place where a look becomes facts; `settle` the only one where facts become a state or a signal. What leaves a
state is written once, beside the state it leaves:

    starting  answered -> ready | not ready in time, seen by a look -> killing
    ready     nothing moved for `suspect` and somebody waits -> suspect
    suspect   something moved -> ready | a fresh look proves it -> killing
    retiring  the grace, a proof, or ten minutes -> killing
    killing   (an exit takes it away) | the last look before the signal is no proof -> suspect or retiring
"""

from __future__ import annotations

from supervisor.model import (
    Act,
    Blame,
    Demote,
    Effect,
    Instance,
    Kill,
    Kind,
    Look,
    Looked,
    Nature,
    Open,
    Program,
    Promote,
    Severity,
    Signal,
    Spared,
    State,
    TakeEvidence,
    Verdict,
)
from supervisor.policy import history, memory, outside, worker
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import (
    EXCUSED,
    HUNG,
    MOVING,
    SUSPICIOUS,
    World,
    alone,
    hands_off,
    left_alone,
    patience_s,
    stuck,
    suspects,
)
from supervisor.policy.words import fact, note, release_of, spell, told

STARVED_TIMES = 3.0  # `suspect`, on a host that is starved
LOOK_FRESH_S = 2.0  # an older look changes nothing
LOOK_AGAIN_S = 2.0  # a look that was asked for and did not come is asked for again
SILENCE_S = 10.0  # no news of a suspect for so long: look
POISON_S = 3.0  # for a loop that was proven before, when it holds all that could serve
EVIDENCE_S = 3.0  # a kill waits for evidence until so long after the suspicion
REPORT_S = 5.0  # people are told of a suspect when it is known what it does, at the latest now
RETIRING_LIMIT_S = 600.0  # a connection that never ends does not keep an instance for ever
KILL_AGAIN_S = 5.0
KILLS_SILENT = 2  # after so many in vain people are told

Settled = tuple[Program, Instance, tuple[Effect, ...]]


def look(instance: Instance, event: Looked, now: float) -> Instance:
    """What a look adds to the facts. An old one, or one from before the newest, changes nothing."""
    if now - event.at > LOOK_FRESH_S or (instance.seen is not None and event.at < instance.seen):
        return instance
    moved, excused = instance.moved, instance.excused
    if event.since is not None:
        moved = event.since if moved is None else max(moved, event.since)
    if event.verdict.kind in EXCUSED:
        excused = event.at
    return replace(
        instance, seen=event.at, moved=moved, excused=excused, verdict=event.verdict, fresh=event.since is not None, room=event.room
    )


def leaks(instance: Instance) -> bool:
    return instance.verdict is not None and instance.verdict.kind is Kind.LEAKING


def spare(instance: Instance, event: Spared, now: float) -> Instance:
    """Take a kill back: the last look before the signal was no proof any more. Only a kill by a verdict can be taken back."""
    if instance.state is not State.KILLING or instance.blame is not Blame.HANG:
        return instance
    back = State.RETIRING if instance.asked is not None else State.SUSPECT
    return look(replace(instance, state=back, blame=Blame.NOBODY, tries=0, tried=None, why=""), event.look, now)


def settle(program: Program, instance: Instance, world: World, clock: Clock) -> Settled:
    """The next state of one instance and the signals that belong to it."""
    if world.hurried and instance.state is not State.KILLING:
        return _kill(program, instance, clock.now, Blame.NOBODY, "the supervisor was told twice to stop")
    match instance.state:
        case State.STARTING:
            return _starting(program, instance, clock)
        case State.READY:
            program, instance, killed = worker.settle(program, instance, clock)
            program, instance, effects = _ready(program, instance, clock)
            return program, instance, (*killed, *effects)
        case State.SUSPECT:
            return _suspect(program, instance, world, clock)
        case State.RETIRING:
            return _retiring(program, instance, world, clock)
        case State.KILLING:
            return _killing(program, instance, clock)


def retire(program: Program, instance: Instance, now: float, why: str) -> Program:
    """The program with this instance asked to go; its stop signal is sent when it is settled."""
    gone = replace(instance, state=State.RETIRING, since=now, why=why, blame=Blame.NOBODY)
    return put(program, gone)


def press(program: Program, now: float) -> Program:
    """The program with the grace counting from now for all that were asked to go and had all the time so far."""
    pressed = (replace(i, pressed=now) if i.state is State.RETIRING and i.pressed is None else i for i in program.instances)
    return replace(program, instances=tuple(pressed))


def put(program: Program, instance: Instance) -> Program:
    """The program with this instance in the place of the one of the same id."""
    if any(i is instance for i in program.instances):
        return program
    return replace(program, instances=tuple(instance if i.id == instance.id else i for i in program.instances))


def _starting(program: Program, instance: Instance, clock: Clock) -> Settled:
    if instance.pid is not None and not instance.opened:
        program = note(program, "instance.started", _birth(program, instance))
        return program, replace(instance, opened=True), (Open(instance.id),)
    limit_s = instance.start_s
    deadline = instance.spawned + limit_s
    if hands_off(program) or not clock.due(deadline):
        return program, instance, ()
    seen = instance.seen is not None and instance.seen >= deadline
    if seen or clock.due(instance.spawned + 2 * limit_s):
        why = f"not ready {spell(clock.now - instance.spawned)} after its start"
        return _kill(history.never_ready(program, instance, clock.now, why), instance, clock.now, Blame.START, why)
    return _look(program, instance, clock)


def _birth(program: Program, instance: Instance) -> str:
    build = program.good if program.good is not None and instance.build == program.good.number else program.build
    beside = ", ".join(str(suspect.id) for suspect in suspects(program))
    sockets = build.launch.sockets
    relief = f"relief {instance.id} started beside {beside}" if instance.relief and beside else f"{instance.id} started"
    return f"{relief}, pid {instance.pid}{release_of(build)}" + (f", on {', '.join(sockets)}" if sockets else "")


def _ready(program: Program, instance: Instance, clock: Clock) -> Settled:
    verdict = instance.verdict
    if verdict is None or not instance.fresh or not _silent(instance, verdict, program.settings.hang.suspect_s):
        return program, instance, ()
    if verdict.kind is Kind.STOPPED and not instance.continued and program.hold is None:  # under a hold somebody stopped it
        program = note(program, "instance.continued", f"{verdict.because}; SIGCONT sent", instance)
        return program, replace(instance, continued=True, excused=clock.now), (Signal(instance.id, "CONT"),)
    program = note(program, "instance.suspected", f"suspect: {verdict.because}", instance)
    suspect = replace(
        instance,
        state=State.SUSPECT,
        since=clock.now,
        suspected=clock.now,
        evidence=None,
        evidence_asked=True,
        reported=False,
        cause="",
        where="",
        peer="",
        workers=(),
    )
    if alone(program) or suspect.demoted or left_alone(program, suspect):
        return program, suspect, (TakeEvidence(instance.id),)
    return program, replace(suspect, demoted=True), (TakeEvidence(instance.id), Demote(instance.id))


def _suspect(program: Program, instance: Instance, world: World, clock: Clock) -> Settled:
    verdict = instance.verdict
    if instance.fresh and verdict is not None and verdict.kind in MOVING:
        program = note(
            program, "instance.recovered", f"answers again after {spell(clock.now - instance.since)}: {verdict.because}", instance
        )
        program = memory.passed(program, instance)
        effects = (Promote(instance.id),) if instance.demoted else ()
        recovered = replace(instance, state=State.READY, since=clock.now, suspected=None, continued=False, demoted=False)
        return program, recovered, effects
    program, instance = _report(program, instance, clock)
    if not instance.evidence_asked:
        return program, replace(instance, evidence_asked=True), (TakeEvidence(instance.id),)
    return _judge(program, instance, world, clock)


def _judge(program: Program, instance: Instance, world: World, clock: Clock) -> Settled:
    """Kill by a fresh look that proves it hung; else see that a look comes when it could be one."""
    verdict = instance.verdict
    newest = max((at for at in (instance.seen, instance.since) if at is not None), default=clock.now)
    if verdict is None or instance.moved is None or verdict.kind not in SUSPICIOUS:
        return _look(program, instance, clock) if clock.due(newest + SILENCE_S) else (program, instance, ())
    patience = patience_s(program, instance, program.settings.hang, verdict, clock)
    suspected = instance.suspected if instance.suspected is not None else instance.since
    if patience is None:
        return _look(program, instance, clock) if clock.due(newest + SILENCE_S) else (program, instance, ())
    known = verdict.nature is Nature.SPINNING and memory.endless(program, instance, clock.now)
    poison = known and stuck(program, instance, world, clock)
    proof = max(instance.moved, instance.excused or 0.0) + (min(POISON_S, patience) if poison else patience)
    if not clock.due(proof) or (instance.evidence is None and not clock.due(suspected + EVIDENCE_S)):
        return _look(program, instance, clock) if clock.due(newest + SILENCE_S) else (program, instance, ())
    if not instance.fresh:
        return _look(program, instance, clock)
    if (verdict.kind not in HUNG and not poison) or instance.seen is None or instance.seen < proof:
        return program, instance, ()
    if not outside.may_kill(program, instance, clock):
        return program, instance, ()
    why = f"hung: no progress for {spell(instance.seen - instance.moved)}; {verdict.because}"
    if hands_off(program, instance) or program.settings.hang.act is Act.TELL:
        because = 'hang.act = "tell"' if program.hold is None else f"it is held by {program.hold.by} ({program.hold.reason})"
        text = f"{instance.id} is {why}; it is not killed, because {because}"
        return _fact(program, instance, "hung-held", Severity.CRITICAL, text), instance, ()
    return _kill(outside.killed(program, instance, clock.now), instance, clock.now, Blame.HANG, why)


def _retiring(program: Program, instance: Instance, world: World, clock: Clock) -> Settled:
    if instance.suspected is not None:
        program, instance = _report(program, instance, clock)
    if not instance.opened:
        return _retiring_unborn(program, instance, clock)
    if instance.asked is None:
        stop = program.settings.stop
        program = note(program, "instance.retired", f"asked to stop (SIG{stop}): {instance.why}", instance)
        asked = replace(instance, asked=clock.now, demoted=False)
        return program, asked, (*((Promote(instance.id),) if instance.demoted else ()), Signal(instance.id, stop))
    pressed = instance.pressed if instance.ready is not None else instance.asked  # one that never served has nothing to finish
    if pressed is not None and clock.due(max(instance.asked, pressed) + program.settings.grace_s):
        return _kill(
            program, instance, clock.now, Blame.NOBODY, f"it did not stop within its grace of {spell(program.settings.grace_s)}"
        )
    if not hands_off(program, instance) and clock.due(instance.asked + RETIRING_LIMIT_S):
        return _kill(
            program,
            instance,
            clock.now,
            Blame.NOBODY,
            f"it had not stopped {spell(clock.now - instance.asked)} after it was asked to",
        )
    return _judge(program, instance, world, clock) if instance.ready is not None else (program, instance, ())


def _retiring_unborn(program: Program, instance: Instance, clock: Clock) -> Settled:
    """It is to go before its gate was opened: it is ended at the gate, as soon as its process is known."""
    if instance.pid is None and not clock.due(instance.spawned + 2 * instance.start_s):
        return program, instance, ()
    return _kill(program, instance, clock.now, Blame.NOBODY, instance.why)


def _killing(program: Program, instance: Instance, clock: Clock) -> Settled:
    if instance.tried is not None and not clock.due(instance.tried + KILL_AGAIN_S):
        return program, instance, ()
    if instance.tries == KILLS_SILENT:
        lives = f"it lives {spell(clock.now - instance.since)} after SIGKILL"
        who = f"{instance.id} (pid {instance.pid})" if instance.pid is not None else str(instance.id)
        text = f"{who} cannot be killed: {lives}; {instance.why}"
        program = note(program, "instance.undead", text, instance)
        program = _fact(program, instance, "cannot-be-killed", Severity.CRITICAL, text)
    unmoved = instance.moved if instance.blame is Blame.HANG else None
    return program, replace(instance, tries=instance.tries + 1, tried=clock.now), (Kill(instance.id, unmoved),)


def _kill(program: Program, instance: Instance, now: float, blame: Blame, why: str) -> Settled:
    program = note(program, "instance.condemned", why, instance)
    return program, replace(instance, state=State.KILLING, since=now, blame=blame, why=why, tries=0, tried=None), ()


def _look(program: Program, instance: Instance, clock: Clock) -> Settled:
    if instance.pid is None or (instance.look_asked is not None and not clock.due(instance.look_asked + LOOK_AGAIN_S)):
        return program, instance, ()
    return program, replace(instance, look_asked=clock.now), (Look(instance.id),)


def _report(program: Program, instance: Instance, clock: Clock) -> tuple[Program, Instance]:
    """Tell people of the suspicion, once, as soon as it is known what the suspect does."""
    if instance.reported or instance.suspected is None:
        return program, instance
    if instance.evidence is None and not clock.due(instance.suspected + REPORT_S):
        return program, instance
    verdict = instance.verdict
    because = verdict.because if verdict is not None and verdict.kind in SUSPICIOUS | EXCUSED else "it does not answer"
    text = f"{instance.id} is suspect: {because}" + (f"; {instance.evidence}" if instance.evidence else "")
    return _fact(program, instance, "hang", Severity.WARNING, text), replace(instance, reported=True)


def _fact(program: Program, instance: Instance, key: str, severity: Severity, text: str) -> Program:
    return program if told(program, key) else fact(program, key, severity, text, instance)


def _silent(instance: Instance, verdict: Verdict, suspect_s: float) -> bool:
    """Whether it is silent for long enough to be suspect. On a starved host everything takes longer, and a relief would take its part;
    but customers wait there too: it is given more time, and relieved, never killed."""
    if verdict.kind is Kind.STARVED and instance.seen is not None and instance.moved is not None:
        return instance.seen - instance.moved >= STARVED_TIMES * suspect_s
    return verdict.kind in SUSPICIOUS and _still_s(instance) >= suspect_s


def _still_s(instance: Instance) -> float:
    """For how long nothing had moved when it was last looked at; what excuses it starts the clock again."""
    if instance.seen is None or instance.moved is None:
        return 0.0
    return instance.seen - max(instance.moved, instance.excused or 0.0)
