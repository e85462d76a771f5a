"""The last minute of what was seen of one instance, kept while a verdict on it is bad. Plain state of the loop's thread; touches no file.

In peace facts go into parts of PART_S and the oldest part falls out, so that there is always at least BEFORE_S of the past. Each part
knows what was known when it began, and the fleet as it was, which costs two references: a recording can begin with any of them. When a
verdict is bad nothing falls out any more, until all is calm again for CALM_S, the instance is gone, or the tape is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from supervisor.model import Fleet, InstanceId
from supervisor.policy.facts import Fact, Opened, SocketsSeen
from supervisor.policy.replay import Recording
from supervisor.policy.samples import Finding, TreeSample
from supervisor.policy.sight import SUSPICIOUS, Sight
from supervisor.policy.values import replace

BEFORE_S = 60.0  # before a bad verdict: what led to it
PART_S = 15.0  # what falls out at once; half a minute of samples lies in the sight anyway
LASTS_S = (
    300.0  # of a trouble: longer than any patience but that with one that retires; what comes then looks like what came before
)
CALM_S = 10.0  # after it: that it moves, and how, is what tells a hang from long work
WEIGHT_LIMIT = 40_000  # threads and connections on one tape: some 150 bytes each, so 6 MB, minutes of a big tree looked at densely
SHELF_LIMIT = 200_000  # on all tapes: 30 MB, while all is looked at densely
WORKER_BAD_S = 10.0  # a worker that does nothing for so long: long requests are no trouble


class Ended(StrEnum):
    CALM = "it was calm again"
    GONE = "the instance was gone"
    LEFT = "the instance had left, as it was asked to"  # it may have finished, or its own master may have given up on a worker
    FULL = "the tape was full"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a tape held.

    began  when the verdict became bad
    incident  that was open then or later; 0: none was
    fleet  the part of it that matters, as it was when the tape begins, before the event that comes next
    """

    id: InstanceId
    recording: Recording
    began: float
    ended: Ended
    incident: int
    fleet: Fleet


@dataclass(slots=True)
class Shelf:
    """What all tapes hold together: threads and connections."""

    weight: int = 0

    @property
    def full(self) -> bool:
        return self.weight > SHELF_LIMIT


@dataclass(slots=True)
class _Part:
    opened: Opened | None  # None: the instance began with it
    fleet: Fleet
    at: float
    facts: list[Fact]
    weight: int = 0


class Tape:
    """Of one instance; to be told of each fact before its sight is."""

    def __init__(self, id: InstanceId, fleet: Callable[[], Fleet], shelf: Shelf) -> None:
        self._id = id
        self._fleet = fleet
        self._shelf = shelf
        self._parts: deque[_Part] = deque()
        self._weight = 0
        self._newborn = True
        self._began: float | None = None
        self._bad = 0.0
        self._incident = 0
        self._sated = False  # it was full: nothing more of this trouble is kept

    def take(self, fact: Fact, sight: Sight) -> None:
        if self._sated:
            return
        part = self._parts[-1] if self._parts else None
        if part is None or (self._began is None and fact.at - part.at >= PART_S):
            part = self._begin(fact.at, sight)
        part.facts.append(fact)
        weight = _weight(fact)
        part.weight += weight
        self._put(weight)
        while self._began is None and len(self._parts) > 1 and self._spares_oldest(fact.at):
            self._put(-self._parts.popleft().weight)

    def judged(self, finding: Finding, now: float, spawned: float) -> Taken | None:
        """Take up a verdict; what the tape holds, when that is to be kept now."""
        if _is_bad(finding, now):
            self._bad = now
            if self._began is None and not self._sated:
                self._began = now
            self._incident = self._open_incident() or self._incident
            if self._began is not None and (now - self._began > LASTS_S or self._weight > WEIGHT_LIMIT or self._shelf.full):
                self._sated = True
                return self._take(Ended.FULL, spawned)
            return None
        if now - self._bad < CALM_S:
            return None
        self._sated = False
        return self._take(Ended.CALM, spawned) if self._began is not None else None

    def end(self, spawned: float, ended: Ended = Ended.GONE) -> Taken | None:
        """The instance is gone."""
        return self._take(ended, spawned)

    def _begin(self, at: float, sight: Sight) -> _Part:
        part = _Part(None if self._newborn else sight.opening(at), excerpt(self._fleet(), self._id.program), at, [])
        self._newborn = False
        self._parts.append(part)
        return part

    def _open_incident(self) -> int:
        program = self._fleet().programs.get(self._id.program)
        return 0 if program is None or program.incident is None else program.incident.number

    def _spares_oldest(self, now: float) -> bool:
        """Whether the next part goes back far enough, or there is no room for more."""
        return now - self._parts[1].at >= BEFORE_S or self._weight > WEIGHT_LIMIT // 2 or self._shelf.full

    def _put(self, weight: int) -> None:
        self._weight += weight
        self._shelf.weight += weight

    def _take(self, ended: Ended, spawned: float) -> Taken | None:
        """What it holds, if that was bad; it is empty afterwards."""
        parts, began, incident = tuple(self._parts), self._began, self._incident or self._open_incident()
        self._parts.clear()
        self._put(-self._weight)
        self._began, self._incident = None, 0
        if began is None or not parts:
            return None
        opened: tuple[Fact, ...] = () if parts[0].opened is None else (parts[0].opened,)
        facts = opened + tuple(fact for part in parts for fact in part.facts)
        return Taken(self._id, Recording(spawned, facts), began, ended, incident, parts[0].fleet)


def excerpt(fleet: Fleet, name: str) -> Fleet:
    """The part of a fleet that a replay of one program needs: itself, and those that it waits for. A whole one would be dear: each step
    makes another."""
    known = fleet.programs
    names = (name, *known[name].settings.after) if name in known else ()
    programs = {each: known[each] for each in names if each in known}
    wakes = {each: fleet.wakes[each] for each in programs if each in fleet.wakes}
    return replace(fleet, programs=programs, wakes=wakes, needed_by={}, numbers={}, causes={}, releases={}, open={})


def _is_bad(finding: Finding, now: float) -> bool:
    return finding.verdict.kind in SUSPICIOUS or any(now - worker.since >= WORKER_BAD_S for worker in finding.workers)


def _weight(fact: Fact) -> int:
    if isinstance(fact, TreeSample):
        return 1 + sum(1 + len(process.threads) for process in fact.processes)
    return 1 + len(fact.sample.clients) if isinstance(fact, SocketsSeen) else 1
