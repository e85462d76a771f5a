"""What must hold between Reviver and people: holds are kept, acknowledgements silence, and nobody waits longer than is configured.

A ledger of its own, written from events and messages alone; rules over it as those of `invariants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.model import (
    AckAsked,
    Applied,
    DeployAsked,
    Event,
    Fleet,
    HoldAsked,
    HoldEndAsked,
    Kill,
    KillWorker,
    MaintenanceChanged,
    Program,
    RestartAsked,
    Severity,
    ShutdownAsked,
    Signal,
    SignalAsked,
    Spawn,
    StartAsked,
    State,
    StopAsked,
    Tell,
    Wanted,
)
from tests.sim.servers import Site

if TYPE_CHECKING:
    from tests.sim.invariants import Ledger, Turn

EPSILON_S = 1e-6
LATE_S = 1.0  # that a message may come after its time: somebody has to look at the clock
PROOFS = ("recurrence", "needs-you")  # are news each time
COMMANDS = StartAsked | StopAsked | RestartAsked | SignalAsked | DeployAsked | Applied | ShutdownAsked


@dataclass(slots=True)
class Held:
    """A hold that an operator asked for. `free`: something may have been under way, or was asked for since."""

    until: float
    free: bool


@dataclass(slots=True)
class Open:
    """What was told of an incident since nobody had acknowledged it."""

    program: str
    keys: set[str] = field(default_factory=set)  # of all facts that were ever told
    first: dict[Severity, float] = field(default_factory=dict)  # when the first fact of this severity came
    steps: dict[int, float] = field(default_factory=dict)  # when each step was told last
    acknowledged: bool = False


@dataclass(slots=True)
class People:
    """The ledger."""

    holds: dict[str, Held] = field(default_factory=dict)
    open: dict[int, Open] = field(default_factory=dict)
    muted: dict[str, bool] = field(default_factory=dict)
    unmuted: dict[str, float] = field(default_factory=dict)

    def new_life(self, fleet: Fleet) -> None:
        """Another supervisor: a hold of a program of which nothing ran ended with the one before."""
        self.holds = {name: held for name, held in self.holds.items() if name in fleet.programs}


def hear(turn: Turn, people: People) -> None:
    """Write down what the event says, and what is told, before the rules judge it."""
    now, event = turn.now, turn.event
    for name in [name for name, held in people.holds.items() if held.until <= now or name not in turn.before.programs]:
        del people.holds[name]
    match event:
        case HoldAsked():
            program = turn.before.programs.get(event.program)
            if program is not None:
                before = people.holds.get(event.program)
                free = before.free if before is not None else not _steady(program, turn.before)
                people.holds[event.program] = Held(now + event.for_s, free)
        case HoldEndAsked():
            people.holds.pop(event.program, None)
        case MaintenanceChanged():
            for name in turn.after.programs:
                if people.muted.get(name) and name not in event.programs:
                    people.unmuted[name] = now
                people.muted[name] = name in event.programs
        case AckAsked():
            for name, program in turn.before.programs.items():
                if program.incident is not None and program.incident.number == event.incident:
                    people.open.setdefault(event.incident, Open(name)).acknowledged = True  # also where nobody was told of it yet
        case _:
            _hear_command(event, people)


def _hear_command(event: Event, people: People) -> None:
    if isinstance(event, Applied | ShutdownAsked):
        for held in people.holds.values():
            held.free = True
    elif isinstance(event, COMMANDS) and event.program in people.holds:
        people.holds[event.program].free = True


def _steady(program: Program, fleet: Fleet) -> bool:
    """Whether nothing that anybody asked for was going on: what is missing has failed."""
    quiet = all(i.state in (State.READY, State.SUSPECT) and not i.replace for i in program.instances)
    same = all(i.build == program.build.number for i in program.instances)
    whole = len(program.instances) == program.settings.instances - program.resting or program.failed is not None
    return quiet and same and whole and program.proposed is None and program.ordered and program.wanted is Wanted.UP


def write(turn: Turn, people: People) -> None:
    """Write down what was told, after it was judged."""
    for effect in turn.effects:
        if isinstance(effect, Tell) and effect.step >= -1:
            if effect.key == "over":
                people.open.pop(effect.incident, None)
            else:
                _told(effect, turn, people)


def _told(tell: Tell, turn: Turn, people: People) -> None:
    known = people.open.setdefault(tell.incident, Open(tell.program))
    if known.acknowledged and _breaks(tell, turn, known):
        known.acknowledged = False
        known.first, known.steps = {}, {}
    known.keys.add(_plain(tell))
    for severity in Severity:
        if severity <= tell.severity:
            known.first.setdefault(severity, turn.now)
    if tell.step >= 0:
        known.steps[tell.step] = turn.now


def _plain(tell: Tell) -> str:
    return tell.key.partition(".")[0]


def _breaks(tell: Tell, turn: Turn, known: Open) -> bool:
    """Whether this message is about what breaks an acknowledgement: critical news, or something bad after all had been calm."""
    news = tell.severity is Severity.CRITICAL and (_plain(tell) not in known.keys or _plain(tell) in PROOFS)
    before = turn.before.programs.get(tell.program)
    calm = before is not None and before.incident is not None and before.incident.calm is not None
    return news or calm


# --- rules ----------------------------------------------------------------------------------------------------------------------


def hold_is_kept(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A hold lasts exactly as long as it was asked for, and is over by itself."""
    for name, held in ledger.people.holds.items():
        program = turn.after.programs.get(name)
        if program is None:
            continue
        if program.hold is None or abs(program.hold.until - held.until) > EPSILON_S:
            return f"{name} was to be held until {held.until:.1f}, and its hold is {program.hold}"
        if turn.wake is None or turn.wake > held.until + EPSILON_S:
            return f"nothing is armed for the end of the hold of {name}"
    for name, program in turn.after.programs.items():
        if program.hold is not None and name not in ledger.people.holds:
            return f"{name} is held, and nobody wants that: {program.hold}"
    return ""


def nothing_is_healed_under_a_hold(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """While a program is held and no command came, nothing of it is started, asked to go, continued or killed."""
    for effect in turn.effects:
        if not isinstance(effect, Spawn | Kill | KillWorker | Signal):
            continue
        held = ledger.people.holds.get(effect.id.program)
        if held is None or held.free or turn.after.draining:
            continue
        if isinstance(effect, Kill) and effect.id in ledger.killed:
            continue  # it was being killed before
        return f"{effect}, although {effect.id.program} is held"
    return ""


def acknowledged_is_silent(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Of an acknowledged incident nobody is told more, until something critical and new comes, or it comes back."""
    for effect in turn.effects:
        if isinstance(effect, Tell) and effect.step >= 0 and effect.channels:
            known = ledger.people.open.get(effect.incident)
            if known is None or not known.acknowledged or effect.program in ledger.people.unmuted:
                continue  # what was missed in a maintenance window comes later
            if not _breaks(effect, turn, known):
                return f"step {effect.step} is told {effect.key} of incident {effect.incident}, which is acknowledged"
            known.acknowledged = False
            known.first, known.steps = {}, {}
    return ""


def nobody_waits_for_a_page(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Each step hears of an incident when its time has come, and again as often as it wants, unless somebody is at it."""
    people = ledger.people
    for name, program in turn.after.programs.items():
        if program.incident is None or people.muted.get(name):
            continue
        known = people.open.get(program.incident.number)
        if known is None or known.acknowledged:
            continue
        told = {e.step for e in turn.effects if isinstance(e, Tell) and e.incident == program.incident.number}
        for index, step in enumerate(turn.after.escalation):
            if step.programs and name not in step.programs:
                continue
            first = known.first.get(step.when)
            if first is None or index in told:
                continue
            last = known.steps.get(index)
            due = max(first, people.unmuted.get(name, first)) + step.after_s
            if last is not None:
                if step.repeat_s is None:
                    continue
                due = max(last + step.repeat_s, people.unmuted.get(name, last))
            if turn.now > due + LATE_S:
                return f"step {index} waits for incident {program.incident.number} of {name} since {due:.1f}"
    return ""


RULES = (hold_is_kept, nothing_is_healed_under_a_hold, acknowledged_is_silent, nobody_waits_for_a_page)
