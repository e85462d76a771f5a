"""How a story reads: events and effects in few words."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from supervisor.model import (
    Applied,
    Build,
    Candidate,
    InstanceId,
    Looked,
    Note,
    ProgramSettings,
    RecordIncident,
    Spared,
    Tell,
)
from tests.sim.agenda import START


def spell(thing: object) -> str:
    """One line."""
    match thing:
        case Looked():
            since = "unknown" if thing.since is None else f"{thing.at - thing.since:.2f} s"
            return f"looked {thing.id} {thing.verdict.kind.value}, still for {since}, at {thing.at - START:.2f}"
        case Spared():
            return f"spared {spell(thing.look)}"
        case Note():
            return f"[{thing.subject} {thing.name}] {thing.text}"
        case Tell():
            return f"TELL {thing.incident}/{thing.key}/{thing.step} {thing.severity.name}: {thing.text}"
        case RecordIncident():
            keys = " ".join(thing.incident.told)
            return f"RecordIncident({thing.program} {thing.incident.number}: {keys}; calm={thing.incident.calm}, over={thing.over})"
        case Applied():
            return "applied " + ", ".join(spell(candidate) for candidate in thing.programs)
        case Candidate():
            return f"{thing.settings.name} {thing.release} {_settings(thing.settings)}"
        case Build():
            return f"build {thing.number} ({thing.release})"
        case InstanceId() | str() | int() | float():
            return str(thing)
        case tuple():
            return " ".join(spell(part) for part in thing)
        case _ if is_dataclass(thing):
            values = ", ".join(spell(getattr(thing, part.name)) for part in fields(thing))
            return f"{type(thing).__name__}({values})"
        case _:
            return str(thing)


def _settings(settings: ProgramSettings) -> str:
    hang, restart, relief = settings.hang, settings.restart, settings.relief
    words = (
        f"x{settings.instances}+{relief.extra}",
        f"after={','.join(settings.after)}",
        f"start={settings.health.start_s:g}",
        f"grace={settings.grace_s:g}",
        f"certain={hang.certain_s:g}",
        f"blocked={hang.blocked_s}",
        f"act={hang.act}",
        f"retire={relief.retire}",
        f"relief={relief.budget}",
        f"when={restart.when}",
        f"limit={restart.limit_s:g}",
        f"budget={restart.budget}/{restart.window_s:g}",
        f"healthy={restart.healthy_s:g}",
        f"rollback={settings.release.rollback}",
    )
    return f"({' '.join(words)})"
