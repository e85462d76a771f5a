"""Who is told what, and when: facts join an incident, steps are told of it until somebody acknowledges, and it ends after calm.

Pure. One incident, one thread. What a step is told follows from three facts alone: what the incident knows, what this step was told
since nobody had acknowledged (its page), and the time. So nothing is lost to a moment in which nobody may be told (maintenance), and
nothing is told twice. An acknowledgement silences all steps. It is broken by a critical fact that is news, and by any bad one that
comes after all had been calm; then the steps begin anew.
"""

from __future__ import annotations

from supervisor.model import (
    Acknowledgement,
    Effect,
    EscalationStep,
    EvidenceTaken,
    Fact,
    Incident,
    Page,
    Program,
    RecordIncident,
    Severity,
    State,
    Tell,
    Voice,
)
from supervisor.policy import customers, telling
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, ready, release, wanted
from supervisor.policy.words import note, spell

OVER = "over"
LOG_STEP = -1  # the step of messages that no escalation step takes: for the log alone
PROOFS = frozenset({"recurrence", "needs-you"})  # a hang that was proven again is news each time
ACKNOWLEDGEMENTS_KEPT = 20  # of one incident: somebody types each of them
TEXT_LIMIT = 1000  # characters of a fact: it is a sentence; what a hostile program put into it is not
EVIDENCE_KEPT = 50  # instances of one incident
MOMENT_S = 0.05  # what is shorter would be spelled "0.0 s"

Stepped = tuple[Program, tuple[Effect, ...]]


def acknowledge(program: Program, _: World, clock: Clock) -> Stepped:
    """Take up that somebody is at it."""
    if not program.acked:
        return program, ()
    by, incident = program.acked, program.incident
    program = replace(program, acked="")
    if incident is None or incident.acknowledged is not None:
        return program, ()
    said = (*incident.acknowledgements, Acknowledgement(by, clock.now))[-ACKNOWLEDGEMENTS_KEPT:]
    text = f"incident {incident.number} acknowledged by {by}: nobody else is told until it is over, or something new and critical comes"
    return replace(note(program, "incident.acknowledged", text), incident=replace(incident, acknowledgements=said)), ()


def tell(program: Program, world: World, clock: Clock) -> Stepped:
    """Have facts join the incident, and tell the steps whose time has come. The first bad one opens it."""
    if not program.facts:
        return program, ()
    before = () if program.incident is None else program.incident.facts
    for fact in program.facts:
        program = _join(program, replace(fact, at=clock.now, text=fact.text[:TEXT_LIMIT]), world)
    program, told = climb(replace(program, facts=()), world, clock)
    incident = program.incident
    if incident is None:
        return program, told
    heard = {_of(tell) for tell in told}
    news = [fact for fact in incident.facts if fact not in before and fact.severity > Severity.INFO]
    unheard = [fact for fact in news if fact.key not in heard]
    order, said = incident.told, list(told)
    for fact in unheard:
        incident = replace(incident, sent=incident.sent + 1)
        said.append(_message(program, incident, fact, fact.text, (), LOG_STEP, world, clock))
    said.sort(key=lambda tell: order.index(_of(tell)))
    return replace(program, incident=incident), tuple(said)


def climb(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Tell, ...]]:
    """Tell each step what it was not told yet, as soon as its time has come, and what it shall be told again."""
    incident = program.incident
    if incident is None or incident.acknowledged is not None or program.muted:
        return program, ()
    told: list[Tell] = []
    for index, step in enumerate(world.escalation):
        if _takes(step, program) and step not in world.escalation[:index]:
            incident, more = _step(program, incident, index, step, world, clock)
            told += more
    return (replace(program, incident=incident), tuple(told)) if told else (program, ())


def close(program: Program, world: World, clock: Clock) -> Stepped:
    """End the incident after calm, and tell everybody who was told that it began."""
    incident = program.incident
    if incident is None:
        return program, ()
    name, up = program.settings.name, wanted(program, world)
    if world.draining or not _calm(program, up):
        return (program if incident.calm is None else replace(program, incident=replace(incident, calm=None))), ()
    if incident.calm is None:
        incident = replace(incident, calm=clock.now)
        program = replace(program, incident=incident)
    calm = incident.calm if incident.calm is not None else clock.now
    if up and not clock.due(calm + program.settings.restart.healthy_s):
        return program, ()
    needed = incident.severity is Severity.CRITICAL or incident.acknowledgements
    voice = Voice.OVER if needed or not up else Voice.HEALED
    how = f"calm for {spell(clock.now - calm)}" if up else "nothing of it is wanted any more"
    healed = ", healed by itself" if voice is Voice.HEALED else ""
    lasted_s = calm - incident.opened
    lasted = f"it lasted {spell(lasted_s)}" if lasted_s >= MOMENT_S else "all was well again when it was opened"
    text = f"incident {incident.number} over{healed}: {lasted}; {how}; {customers.cost(incident)}"
    message = Tell(incident.number, name, OVER, incident.severity, f"{name}: {text}", incident.channels, LOG_STEP, voice)
    public = customers.all_clear(program, incident, world, calm, up)
    program = replace(note(program, "incident.closed", text), incident=None, recorded=None)
    return program, (*public, message, RecordIncident(name, incident, clock.now))


def witness(program: Program, _: World, __: Clock) -> Stepped:
    """Have the incident name its cause, and the instances of which there is evidence."""
    incident = program.incident
    if incident is None:
        return program, ()
    evidence, cause = incident.evidence, incident.cause
    for instance in program.instances:
        if instance.evidence and instance.suspected is not None:
            evidence = (*evidence, str(instance.id)) if str(instance.id) not in evidence else evidence
            cause = instance.where or cause
    if (evidence, cause) == (incident.evidence, incident.cause):
        return program, ()
    return replace(program, incident=replace(incident, evidence=evidence[-EVIDENCE_KEPT:], cause=cause)), ()


def testify(program: Program, event: EvidenceTaken) -> Program:
    """Why an instance that is gone ended: for the incident that its end belongs to."""
    incident, who = program.incident, str(event.id)
    if incident is None or not event.summary or all(fact.instance != who for fact in incident.facts):
        return program
    evidence = incident.evidence if who in incident.evidence else (*incident.evidence, who)[-EVIDENCE_KEPT:]
    return replace(program, incident=replace(incident, evidence=evidence, cause=incident.cause or event.where))


def record(program: Program, _: World, clock: Clock) -> Stepped:
    """Have what changed of the incident written down."""
    incident, recorded, name = program.incident, program.recorded, program.settings.name
    if incident == recorded:
        return program, ()
    effects = []
    if recorded is not None and (incident is None or incident.number != recorded.number):
        effects.append(RecordIncident(name, recorded, clock.now))  # a supervisor died before its end was written down
    if incident is not None:
        effects.append(RecordIncident(name, incident))
    return replace(program, recorded=incident), tuple(effects)


# --- facts ----------------------------------------------------------------------------------------------------------------------


def _join(program: Program, fact: Fact, world: World) -> Program:
    incident = program.incident
    if incident is None:
        ran = next((i for i in program.instances if str(i.id) == fact.instance), None)
        by = program.build.release if ran is None else release(program, ran)
        incident = Incident(world.incidents + 1, fact.at, fact.severity, round=fact.at, release=by)
        program = note(program, "incident.opened", f"incident {incident.number} opened, {fact.severity.name.lower()}")
    acknowledged = incident.acknowledged
    known = any(each.key == fact.key and each.severity >= fact.severity for each in incident.facts)  # what has become worse is news
    news = fact.severity is Severity.CRITICAL and (not known or fact.key in PROOFS)
    again = incident.calm is not None and fact.severity > Severity.INFO
    broken = acknowledged is not None and (news or again)
    if known and not broken:
        return program
    if acknowledged is not None and broken:
        old = replace(acknowledged, broken=fact.text)
        incident = replace(
            incident, acknowledgements=(*incident.acknowledgements[:-1], old), round=fact.at, pages=(), headline=None
        )
        text = f"incident {incident.number}: people are told again, although {old.by} acknowledged it: {fact.text}"
        program = note(program, "incident.reopened", text)
    if incident.headline is None or fact.severity > incident.headline.severity:
        incident = replace(incident, headline=fact)
    facts = (*(each for each in incident.facts if each.key != fact.key), fact)
    return replace(program, incident=replace(incident, facts=facts, severity=max(incident.severity, fact.severity), calm=None))


def _calm(program: Program, up: int) -> bool:
    """Whether all is as it should be: as many ready as wanted, nobody suspect or failing, and no suspect's end still to come."""
    if program.facts or (up and (program.crash_loop or program.broken)):
        return False
    if any(i.state in (State.SUSPECT, State.KILLING) or i.suspected is not None for i in program.instances):
        return False
    return ready(program) >= up if up else not program.instances


# --- steps ----------------------------------------------------------------------------------------------------------------------


def _takes(step: EscalationStep, program: Program) -> bool:
    return bool(step.notify) and (not step.programs or program.settings.name in step.programs)


def _step(
    program: Program, incident: Incident, index: int, step: EscalationStep, world: World, clock: Clock
) -> tuple[Incident, list[Tell]]:
    """The incident after this step was told what it has to know now."""
    facts = [fact for fact in incident.facts if fact.at >= incident.round and fact.severity >= step.when]
    page = next((page for page in incident.pages if page.step == step), None)
    if not facts:
        return incident, []
    worst = incident.headline if incident.headline in facts else facts[0]
    assert worst is not None
    said: list[tuple[Fact, str, bool]] = []
    if page is None:
        since = min(fact.at for fact in facts)
        if not clock.due(max(since, program.unmuted if program.unmuted is not None else since) + step.after_s):
            return incident, []
        said.append((worst, _first(incident, worst, facts, step, clock.now - since), False))
    else:
        said += [(fact, fact.text, False) for fact in facts if fact.key not in page.told]
        if not said and step.repeat_s is not None and clock.due(page.at + step.repeat_s):
            said.append((worst, f"nobody has acknowledged this for {spell(clock.now - worst.at)}: {worst.text}", True))
    told = []
    for fact, text, again in said:
        incident = replace(incident, sent=incident.sent + 1)
        told.append(_message(program, incident, fact, text, step.notify, index, world, clock, again=again))
    if told:
        page = Page(step, clock.now, tuple(fact.key for fact in facts))
        pages = (*(each for each in incident.pages if each.step in world.escalation and each.step != step), page)
        known = tuple(dict.fromkeys((*incident.channels, *step.notify)))
        incident = replace(incident, pages=pages, channels=known)
    return incident, told


def _first(incident: Incident, worst: Fact, facts: list[Fact], step: EscalationStep, waited_s: float) -> str:
    """What a step is told first: the worst, what else there is, and why it is told."""
    others = "".join(f"; also: {fact.text}" for fact in facts if fact != worst)
    broken = incident.acknowledgements[-1:] if incident.round > incident.opened else ()
    why = "".join(f"; {ack.by} had acknowledged what was before" for ack in broken)
    why += f"; nobody has acknowledged it for {spell(waited_s)}" if step.after_s else ""
    return worst.text + others + why


def _of(tell: Tell) -> str:
    """The key of the fact that it is about."""
    return tell.key.partition(".")[0]


def _message(
    program: Program,
    incident: Incident,
    fact: Fact,
    text: str,
    channels: tuple[str, ...],
    index: int,
    world: World,
    clock: Clock,
    *,
    again: bool = False,
) -> Tell:
    """A message about one fact. What is told again has a key of its own, by which it is no double."""
    key = f"{fact.key}.{incident.sent}" if again or incident.round > incident.opened else fact.key
    affected, done, comes = telling.state(program, world, clock.now)
    critical = fact.severity is Severity.CRITICAL or program.hold is not None
    voice = Voice.NEEDS_YOU if critical else Voice.HEALING
    name = program.settings.name
    return Tell(incident.number, name, key, fact.severity, text, channels, index, voice, affected, done, comes)
