"""The state diagram of an instance, drawn by asking policy: `python -m tests.states > docs/states.md`.

For each state an instance is brought into it by real steps; then each thing that can happen to it happens, alone, and the state after it
is written down. Nothing here knows the answer: what policy does is what is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from supervisor.model import (
    Answered,
    Applied,
    Candidate,
    Event,
    Exited,
    Fleet,
    Instance,
    InstanceId,
    Kind,
    LaunchSettings,
    Looked,
    Nature,
    ProgramSettings,
    ReliefSettings,
    ShutdownAsked,
    Spared,
    Spawned,
    SpawnFailed,
    State,
    StopAsked,
    Verdict,
    Woke,
)
from supervisor.policy.fleet import step

ONE = InstanceId("store", 1)
GONE = "gone"


class Stage:
    """One program under policy, in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.fleet = Fleet()
        settings = ProgramSettings(name="store", launch=LaunchSettings(command=("store",)), relief=ReliefSettings(extra=0))
        self.take(Applied((Candidate(settings, "", "/"),)))

    def take(self, *events: Event) -> None:
        for event in events:
            self.fleet, _, _ = step(self.fleet, event, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(Woke())

    def look(self, kind: Kind, still_s: float) -> None:
        since = self.now - still_s
        nature = Nature.SPINNING if kind in (Kind.SUSPECT, Kind.SPINNING) else Nature.NONE
        self.take(Looked(ONE, self.now, since, Verdict(kind, "what was seen", since, nature=nature)))

    @property
    def instance(self) -> Instance | None:
        return next((i for i in self.fleet.programs["store"].instances if i.id == ONE), None)

    @property
    def state(self) -> str:
        return GONE if self.instance is None else str(self.instance.state)


def starting() -> Stage:
    stage = Stage()
    stage.take(Spawned(ONE, 100, 1))
    return stage


def ready() -> Stage:
    stage = starting()
    stage.now = 1.0
    stage.take(Answered(ONE, "it answered"))
    stage.now = 100.0
    return stage


def suspect() -> Stage:
    stage = ready()
    stage.look(Kind.SUSPECT, 1.2)
    return stage


def retiring() -> Stage:
    stage = ready()
    stage.take(StopAsked("store"))
    return stage


def killing() -> Stage:
    stage = suspect()
    stage.now += 20.0
    stage.look(Kind.SPINNING, 21.2)
    return stage


def _pass_time(stage: Stage, seconds: float) -> None:
    end = stage.now + seconds
    while stage.now < end:
        stage.wait(1.0)


STATES: dict[State, Callable[[], Stage]] = {
    State.STARTING: starting,
    State.READY: ready,
    State.SUSPECT: suspect,
    State.RETIRING: retiring,
    State.KILLING: killing,
}

HAPPENINGS: dict[str, Callable[[Stage], None]] = {
    "it answers for the first time": lambda s: s.take(Answered(ONE, "it answered")),
    "no process came to be": lambda s: s.take(SpawnFailed(ONE, "no such command", True)),
    "it ends": lambda s: s.take(Exited(ONE, 1, 0, "exit code 1")),
    "it ends and leaves processes": lambda s: s.take(Exited(ONE, 1, 2, "exit code 1")),
    "a look: it moves": lambda s: s.look(Kind.HEALTHY, 0.0),
    "a look: nothing moved for 1.2 s, somebody waits": lambda s: s.look(Kind.SUSPECT, 1.2),
    "a look: nothing moved for its patience": lambda s: (_pass_time(s, 20.0), s.look(Kind.SPINNING, 30.0))[0],
    "the last look before the signal: it moved": lambda s: s.take(
        Spared(Looked(ONE, s.now, s.now, Verdict(Kind.HEALTHY, "", s.now)))
    ),
    "the host is starved": lambda s: s.look(Kind.STARVED, 30.0),
    "no news for as long as a start may take, twice": lambda s: _pass_time(s, 125.0),
    "no news for ten minutes": lambda s: _pass_time(s, 605.0),
    "a stop is asked for": lambda s: s.take(StopAsked("store")),
    "a stop is asked for, and the grace ends": lambda s: (s.take(StopAsked("store")), _pass_time(s, 11.0))[0],
    "the supervisor is told twice to stop": lambda s: s.take(ShutdownAsked(), ShutdownAsked()),
}


def transitions() -> dict[tuple[str, str], list[str]]:
    """What leads from one state to another: (from, to) -> happenings, in the order of the tables above."""
    found: dict[tuple[str, str], list[str]] = {}
    for state, bring in STATES.items():
        for name, happen in HAPPENINGS.items():
            stage = bring()
            assert stage.state == state, f"the way into {state} leads to {stage.state}"
            happen(stage)
            if stage.state != state:
                found.setdefault((str(state), stage.state), []).append(name)
    return found


def document() -> str:
    """docs/states.md."""
    lines = [
        "# The states of an instance",
        "",
        "Drawn by `python -m tests.states` from what `supervisor/policy` does, for a program with `extra = 0` and default settings; a test",
        "keeps it current. What stands at an arrow happened alone, to an instance in the state where the arrow begins.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> starting",
    ]
    moves = transitions()
    for start, end in moves:
        lines.append(f"    {start} --> {'[*]' if end == GONE else end}")
    lines += ["```", "", "| from | to | what happened |", "| --- | --- | --- |"]
    lines += [f"| {start} | {end} | {'; '.join(names)} |" for (start, end), names in moves.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
