"""Who is told what, and when: facts open incidents, incidents are told step by step, and end when all has been calm.

Pure. One incident, one thread; a fact is told once per incident and step.
"""

from __future__ import annotations

from supervisor.model import EscalationStep, Fact, Incident, Program, Severity, State, Tell
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, ready, wanted
from supervisor.policy.words import note, spell

OVER = "over"
LOG_STEP = -1  # the step of messages that no escalation step takes: for the log alone


def tell(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Tell, ...]]:
    """Turn facts into messages, for the steps whose time has come. The first bad one opens an incident."""
    if not program.facts:
        return program, ()
    told: list[Tell] = []
    for fact in program.facts:
        incident = program.incident
        if incident is None:
            if fact.severity is Severity.INFO:
                continue
            incident = Incident(world.incidents + 1, clock.now, fact.severity, headline=fact, escalated=clock.now)
            program = note(program, "incident.opened", f"incident {incident.number} opened, {fact.severity.name.lower()}")
        if fact.key in incident.told:
            continue
        if incident.headline is None or fact.severity > incident.severity:
            incident = replace(incident, severity=fact.severity, headline=fact, escalated=clock.now)
        incident = replace(incident, told=(*incident.told, fact.key), calm=None)
        steps = [
            index
            for index, step in enumerate(world.escalation)
            if _takes(step, program, fact.severity) and (index in incident.steps or clock.due(incident.escalated + step.after_s))
        ]
        incident, messages = _send(program, incident, fact, steps, world)
        program = replace(program, incident=incident)
        told += messages or [Tell(incident.number, program.settings.name, fact.key, fact.severity, fact.text, (), LOG_STEP)]
    return replace(program, facts=()), tuple(told)


def climb(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Tell, ...]]:
    """Tell the worst fact to later steps when their time comes."""
    incident = program.incident
    if incident is None or incident.headline is None:
        return program, ()
    due = [
        index
        for index, step in enumerate(world.escalation)
        if index not in incident.steps and _takes(step, program, incident.severity) and clock.due(incident.escalated + step.after_s)
    ]
    incident, told = _send(program, incident, incident.headline, due, world)
    return (replace(program, incident=incident), tuple(told)) if told else (program, ())


def close(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Tell, ...]]:
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
    lasted = spell(calm - incident.opened)
    how = f"calm for {spell(clock.now - calm)}" if up else "nothing of it is wanted any more"
    text = f"incident {incident.number} over: it lasted {lasted}; {how}"
    message = Tell(incident.number, name, OVER, incident.severity, f"{name}: {text}", incident.channels, LOG_STEP)
    return replace(note(program, "incident.closed", text), incident=None), (message,)


def _calm(program: Program, up: int) -> bool:
    """Whether all is as it should be: as many ready as wanted, nobody suspect or failing."""
    if program.facts or (up and (program.crash_loop or program.broken)):
        return False
    if any(i.state in (State.SUSPECT, State.KILLING) for i in program.instances):
        return False
    return ready(program) >= up if up else not program.instances


def _takes(step: EscalationStep, program: Program, severity: Severity) -> bool:
    return bool(step.notify) and severity >= step.when and (not step.programs or program.settings.name in step.programs)


def _send(program: Program, incident: Incident, fact: Fact, steps: list[int], world: World) -> tuple[Incident, list[Tell]]:
    messages = []
    for index in steps:
        channels = world.escalation[index].notify
        messages.append(Tell(incident.number, program.settings.name, fact.key, fact.severity, fact.text, channels, index))
        known = tuple(dict.fromkeys((*incident.channels, *channels)))
        incident = replace(incident, steps=tuple(dict.fromkeys((*incident.steps, index))), channels=known)
    return incident, messages
