"""Adoption: what a dead supervisor wrote down becomes the state that the next one goes on from.

Everything that counts is a fact with an instant, so backoff, deadlines, incidents and budgets stand where they stood. What was to be done
in the very turn that was written down last has an unknown fate: it is asked again. Who lives is the world's to say: those that do not are
told by an exit, as any other. A process whose gate never opened has run nothing: it never was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from supervisor.model import Fleet, Incident, Instance, InstanceId, Preflight, Program, State
from supervisor.policy.values import replace


def adopt(fleet: Fleet, written: Iterable[tuple[Program, float]], unborn: Collection[InstanceId]) -> Fleet:
    """The fleet with what a dead supervisor left.

    fleet    what is known without it: incidents (also those that the journal holds for open), numbers, causes
    written  each program with the instant of the turn in which it was written down
    unborn   instances whose process ended at its gate
    """
    programs = {p.settings.name: _program(p, at, unborn, fleet.open.get(p.settings.name)) for p, at in written}
    highest = (program.incident.number for program in programs.values() if program.incident is not None)
    left = {name: incident for name, incident in fleet.open.items() if name not in programs}
    return replace(fleet, programs=programs, incidents=max((fleet.incidents, *highest)), open=left)


def _program(program: Program, at: float, unborn: Collection[InstanceId], recorded: Incident | None) -> Program:
    return replace(
        program,
        instances=tuple(_instance(i, at) for i in program.instances if i.pid is not None and i.id not in unborn),
        apologizing=False,  # who answered in its place ended with the dead supervisor
        preflight=Preflight.NEEDED if program.preflight is Preflight.ASKED else program.preflight,
        link=None if program.link is None else replace(program.link, asked=None),
        unsaved=tuple(each.key for each in program.causes),  # what the journal did not come to
        unrecorded=tuple(each.number for each in program.releases),
        recorded=recorded,
    )


def _instance(instance: Instance, at: float) -> Instance:
    instance = replace(instance, fresh=False, look_asked=None, evidence_asked=instance.evidence is not None)
    match instance.state:
        case State.KILLING:
            return replace(instance, tries=0, tried=None)
        case State.RETIRING if instance.asked is not None and instance.asked >= at:
            return replace(instance, asked=None)
        case _:
            return instance
