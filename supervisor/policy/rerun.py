"""What policy would have done in a recorded incident: the events of then through the rules of today, with these or other settings. Pure.

The fleet is the recorded one. What nobody caused comes as it was recorded: customers, operators, a crash. What an instance looked like
comes from its recording, judged anew. What answers an effect (a process that starts, answers, ends; evidence) comes as long after the
effect as it did then; where the effect was not made then, after a time that is usual. So all that follows the first difference is a
guess: the world might have answered otherwise. Beyond the end of a recording nothing is known of an instance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from supervisor.model import (
    Answered,
    Apologize,
    Applied,
    Effect,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    HangSettings,
    Instance,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Looked,
    Note,
    Open,
    ProgramSettings,
    Signal,
    Spared,
    Spawn,
    Spawned,
    SpawnFailed,
    Switch,
    TakeEvidence,
    Tell,
    Woke,
    WorkerLooked,
)
from supervisor.policy.fleet import step
from supervisor.policy.replay import PROOF, Recording, ruled
from supervisor.policy.samples import Finding, TreeSample
from supervisor.policy.sight import SUSPICIOUS, Sight
from supervisor.policy.values import replace

SAME_S = 0.3  # two instants nearer than this are one: looks come each quarter of a second
STEPS_LIMIT = 200_000  # of one replay: an hour of a suspect that is looked at ten times a second, several times over
AGAIN_S = 5.0  # how often the watcher tells of what is neither suspect nor calm
ASKED_S = 0.5  # so long after the last sample of a recording a look that was recorded may be made of it
SPAWN_S = 0.01  # usual times, where the recorded incident has none
BOOT_S = 1.0
END_S = 0.1
EVIDENCE_S = 0.5
_CALM = frozenset({Kind.HEALTHY, Kind.BUSY, Kind.OVERLOADED})


@dataclass(frozen=True, slots=True)
class Happened:
    """An event as the journal has it, with what was done then."""

    at: float
    event: Event
    effects: tuple[Effect, ...]


class What(StrEnum):
    """What can differ. Values are past participles, for sentences."""

    SUSPECTED = "suspected"
    STARTED = "started"
    SIGNALLED = "signalled"
    KILLED = "killed"
    WORKER_KILLED = "relieved of a hung worker"
    APOLOGIZED = "answered for by the page that says sorry"
    SWITCHED = "switched to another release"
    TOLD = "told to people"


@dataclass(frozen=True, slots=True)
class Deed:
    """The first time that this was done to this one (an instance, a program; of TOLD the message's key)."""

    at: float
    what: What
    who: str


@dataclass(frozen=True, slots=True)
class Difference:
    """was, would: when it was done, and would be; None: never. guess: an earlier difference may have changed the world."""

    what: What
    who: str
    was: float | None
    would: float | None
    guess: bool

    @property
    def at(self) -> float:
        return min(at for at in (self.was, self.would) if at is not None)


def done(happened: Iterable[Happened], program: str) -> tuple[Deed, ...]:
    """What was done to a program and its instances."""
    return _deeds(((each.at, effect) for each in happened for effect in each.effects), program)


def differences(was: Sequence[Deed], would: Sequence[Deed]) -> tuple[Difference, ...]:
    """In the order of time."""
    old, new = ({(deed.what, deed.who): deed.at for deed in deeds} for deeds in (was, would))
    found = []
    for what, who in dict.fromkeys((*old, *new)):
        then, now = old.get((what, who)), new.get((what, who))
        if then is None or now is None or abs(then - now) >= SAME_S:
            found.append(Difference(what, who, then, now, guess=False))
    found.sort(key=lambda each: each.at)
    return tuple(replace(each, guess=number > 0) for number, each in enumerate(found))


def rerun(
    fleet: Fleet,
    happened: Sequence[Happened],
    recordings: Sequence[tuple[InstanceId, Recording]],
    settings: ProgramSettings,
) -> tuple[Deed, ...]:
    """What would be done to the program of these settings.

    fleet       as it was before the first of `happened`
    recordings  of its instances
    """
    return _Rerun(fleet, happened, recordings, settings).run()


def with_settings(fleet: Fleet, settings: ProgramSettings) -> Fleet:
    """The fleet in which the program has other settings; how it is launched stays, for that was recorded."""
    program = fleet.programs.get(settings.name)
    if program is None:
        return fleet
    kept = replace(settings, launch=program.settings.launch)
    return replace(fleet, programs={**fleet.programs, settings.name: replace(program, settings=kept)})


def looks(id: InstanceId, recording: Recording, hang: HangSettings) -> Iterator[tuple[float, Looked | WorkerLooked]]:
    """What the watcher would have told of an instance: each verdict that is news, and again what lasts. Of a suspect each look is told,
    as those are among them which policy asked for."""
    sight = Sight(recording.spawned)
    told, told_at = None, -math.inf
    for fact in ruled(recording.facts, hang):
        sight.take(fact)
        if not isinstance(fact, TreeSample) or sight.ready is None:
            continue
        at, finding = fact.at, sight.judge(fact.at)
        verdict = finding.verdict
        again_s = 0.0 if verdict.kind in SUSPICIOUS else math.inf if verdict.kind in _CALM else AGAIN_S
        if (verdict.kind, verdict.scope) != told or at - told_at >= again_s:
            told, told_at = (verdict.kind, verdict.scope), at
            yield at, Looked(id, at, finding.since, verdict)
            yield from _worker_looks(id, finding, hang, at)


def _worker_looks(id: InstanceId, finding: Finding, hang: HangSettings, at: float) -> Iterator[tuple[float, WorkerLooked]]:
    for worker in finding.workers:
        if at - worker.since >= hang.worker_s / 3:
            yield at, WorkerLooked(id, worker.pid, 0, at, worker.since, worker.verdict)


def _deeds(effects: Iterable[tuple[float, Effect]], program: str) -> tuple[Deed, ...]:
    first: dict[tuple[What, str], float] = {}
    for at, effect in effects:
        if (deed := _deed(effect, program)) is not None:
            first.setdefault(deed, at)
    return tuple(Deed(at, what, who) for (what, who), at in first.items())


def _deed(effect: Effect, program: str) -> tuple[What, str] | None:
    match effect:
        case Note(subject, "instance.suspected") if subject.rpartition(":")[0] == program:
            return What.SUSPECTED, subject
        case Spawn(id) if id.program == program:
            return What.STARTED, str(id)
        case Signal(id) if id.program == program:
            return What.SIGNALLED, str(id)
        case Kill(id) if id.program == program:
            return What.KILLED, str(id)
        case KillWorker(id) if id.program == program:
            return What.WORKER_KILLED, str(id)
        case Apologize(name) if name == program:
            return What.APOLOGIZED, name
        case Switch(name) if name == program:
            return What.SWITCHED, name
        case Tell() if effect.program == program and effect.channels:
            return What.TOLD, effect.key
        case _:
            return None


# --- the world ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an effect was answered with, so long after it."""

    after_s: float
    event: Event


def _cause(event: Event) -> tuple[tuple[str, InstanceId], ...]:
    """The effects that an event may answer."""
    match event:
        case Spawned(id) | SpawnFailed(id):
            return (("spawn", id),)
        case Answered(id):
            return (("open", id),)
        case EvidenceTaken(id):
            return (("evidence", id),)
        case Exited(id):
            return (("kill", id), ("signal", id))
        case Spared():
            return (("kill", event.id),)
        case _:
            return ()


def _caused(effect: Effect) -> tuple[str, InstanceId] | None:
    match effect:
        case Spawn(id):
            return "spawn", id
        case Open(id):
            return "open", id
        case TakeEvidence(id):
            return "evidence", id
        case Kill(id):
            return "kill", id
        case Signal(id, name) if name != "CONT":
            return "signal", id
        case _:
            return None


class _Rerun:
    """One world on its way: plain state of one replay."""

    def __init__(
        self,
        fleet: Fleet,
        happened: Sequence[Happened],
        recordings: Sequence[tuple[InstanceId, Recording]],
        settings: ProgramSettings,
    ) -> None:
        self._program = settings.name
        self._fleet = with_settings(fleet, settings)
        self._answers: dict[tuple[str, InstanceId], deque[_Answer]] = {}
        self._effects: list[tuple[float, Effect]] = []
        self._newest: dict[InstanceId, Looked] = {}
        spans = {id: (taken.facts[0].at, taken.facts[-1].at) for id, taken in recordings if taken.facts}
        seen = [look for id, taken in recordings for look in looks(id, taken, settings.hang)]
        self._rooms = [(each.at, each.event.room) for each in happened if isinstance(each.event, Looked)]
        given = [(each.at, each.event) for each in self._uncaused(happened) if not _seen_anew(each, spans)]
        self._agenda: list[tuple[float, Event]] = sorted([*given, *seen], key=lambda each: each[0])
        self._late: list[tuple[float, Event]] = []
        self._until = max((each.at for each in happened), default=-math.inf)
        self._now = -math.inf

    def run(self) -> tuple[Deed, ...]:
        wake: float | None = min(self._fleet.wakes.values(), default=None)
        pending = deque(self._agenda)
        for _ in range(STEPS_LIMIT):
            late = min(self._late, key=lambda each: each[0], default=None)
            if late is not None and (not pending or late[0] <= pending[0][0]):
                upcoming, source = late, self._late
            elif pending:
                upcoming, source = pending[0], None
            else:
                upcoming, source = (math.inf, Woke()), None
            at, event = upcoming
            if wake is not None and wake < at:
                at, event = wake, Woke()
            elif source is not None:
                source.remove(upcoming)
            elif pending:
                pending.popleft()
            if at > self._until:
                break
            wake = self._step(at, event)
        return _deeds(self._effects, self._program)

    def _step(self, at: float, event: Event) -> float | None:
        self._now = max(self._now, at)
        if isinstance(event, Looked):
            event = replace(event, room=self._room(at))
            self._newest[event.id] = event
        elif isinstance(event, EvidenceTaken) and (instance := self._instance(event.id)) is not None:
            event = replace(event, suspected=instance.suspected)
        self._fleet, effects, wake = step(self._fleet, event, self._now)
        for effect in effects:
            self._effects.append((self._now, effect))
            if (answer := self._answer(effect)) is not None:
                self._late.append((self._now + answer.after_s, answer.event))
        return wake

    def _uncaused(self, happened: Sequence[Happened]) -> Iterator[Happened]:
        """What comes by itself; what answers an effect is kept as its answer."""
        asked: dict[tuple[str, InstanceId], float] = {}
        for each in happened:
            cause = max((key for key in _cause(each.event) if key in asked), key=lambda key: asked[key], default=None)
            if cause is not None:
                self._answers.setdefault(cause, deque()).append(_Answer(each.at - asked[cause], each.event))
            elif not isinstance(each.event, Woke | Applied):
                yield each
            for effect in each.effects:
                if (key := _caused(effect)) is not None:
                    asked[key] = each.at

    def _answer(self, effect: Effect) -> _Answer | None:
        key = _caused(effect)
        if key is None:
            return None
        if isinstance(effect, Kill):
            return self._killed(effect, key)
        recorded = self._answers.get(key)
        if recorded:
            return recorded.popleft() if len(recorded) > 1 else recorded[0]
        match effect:
            case Spawn(id):
                return _Answer(self._usual_s("spawn", SPAWN_S), Spawned(id, 1, 0))
            case Open(id):
                return _Answer(self._usual_s("open", self._boot_s()), Answered(id, "as the others did"))
            case TakeEvidence(id):
                return _Answer(self._usual_s("evidence", EVIDENCE_S), EvidenceTaken(id, ""))
            case _:
                return None  # whether it would have stopped when it was asked to is not known: the grace says

    def _killed(self, effect: Kill, key: tuple[str, InstanceId]) -> _Answer:
        """The last look decides, where the kill is by a verdict."""
        after_s, look = self._usual_s("kill", END_S), self._newest.get(effect.id)
        if effect.unmoved_since is not None and look is not None and look.verdict.kind not in PROOF | {Kind.SUSPECT}:
            return _Answer(after_s, Spared(replace(look, at=self._now)))
        ends = [each for each in self._answers.get(key, ()) if isinstance(each.event, Exited)]
        return ends[-1] if ends else _Answer(after_s, Exited(effect.id, -9, words="killed by SIGKILL"))

    def _usual_s(self, what: str, else_s: float) -> float:
        """The median of what it took in this incident."""
        took_s = [each.after_s for (kind, _), answers in self._answers.items() if kind == what for each in answers]
        return median(took_s) if took_s else else_s

    def _boot_s(self) -> float:
        program = self._fleet.programs.get(self._program)
        return program.boot_s if program is not None and program.boot_s else BOOT_S

    def _room(self, at: float) -> bool:
        """Whether the host had room for another instance, as it was seen last."""
        return next((room for seen, room in reversed(self._rooms) if seen <= at), True)

    def _instance(self, id: InstanceId) -> Instance | None:
        program = self._fleet.programs.get(id.program)
        return None if program is None else next((each for each in program.instances if each.id == id), None)


def _seen_anew(each: Happened, spans: dict[InstanceId, tuple[float, float]]) -> bool:
    """Whether it is a look that its recording tells anew."""
    if not isinstance(each.event, Looked | WorkerLooked) or each.event.id not in spans:
        return False
    first, last = spans[each.event.id]
    return first <= each.at <= last + ASKED_S
