"""A recording of what was seen of one instance, through today's diagnosis: the same facts give the same verdicts. Pure.

Other settings can be tried on it: when would it have been suspected, and proven hung? How often it was asked is part of what was recorded
and stays as it was. Whether a proof would have been right is known only where the recording goes on: whoever moves after it was no hang.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from supervisor.model import HangSettings, Kind
from supervisor.policy.facts import Fact, Opened, Ruled
from supervisor.policy.samples import Finding, TreeSample
from supervisor.policy.sight import SUSPICIOUS, Sight
from supervisor.policy.values import replace

JUDGE_S = 0.25  # between two verdicts: how often the watcher tells of a suspect
SLACK_S = 0.02
SEEN_S = 0.1  # a difference less than this is none: looks come ten times a second
PROOF = frozenset({Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED})
ALIVE_S = 0.2  # moved so long after a proof: it lives. Ages have a resolution of some milliseconds


@dataclass(frozen=True, slots=True)
class Recording:
    """What was seen of one instance, in the order in which it became known: from its start on, or from an Opened on.

    spawned  the instant of its start
    """

    spawned: float
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    at: float
    finding: Finding


def replay(spawned: float, facts: Iterable[Fact]) -> Iterator[Judged]:
    """The verdict after each sample of the tree, at most one each JUDGE_S, and after the last one, from the start on."""
    sight = Sight(spawned)
    sampled = judged = -math.inf
    for fact in facts:
        sight.take(fact)
        if isinstance(fact, TreeSample):
            sampled = fact.at
            if sampled - judged >= JUDGE_S - SLACK_S:
                judged = sampled
                yield Judged(sampled, sight.judge(sampled))
    if sampled > judged:
        yield Judged(sampled, sight.judge(sampled))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What today's diagnosis makes of a recording. Instants on its clock; None: it never came to that.

    suspected  when nothing had moved for `suspect` while somebody waited, for the first time
    proven     when it was proven hung: it may be killed from then on, if policy has no more patience
    workers    when the first of its workers alone was proven hung
    alive      when it moved by itself after it was proven: that was no hang, and killing it would have been wrong
    because    the words of the proof, or of the first suspicion
    """

    suspected: float | None = None
    proven: float | None = None
    workers: float | None = None
    alive: float | None = None
    because: str = ""


def outcome(recording: Recording, hang: HangSettings | None = None) -> Outcome:
    """Of a recording under these settings; None: under those that it was recorded with."""
    sight = Sight(recording.spawned)
    found = Outcome()
    for fact in recording.facts if hang is None else ruled(recording.facts, hang):
        sight.take(fact)
        if found.proven is not None and sight.moved > found.proven + ALIVE_S:
            return replace(found, alive=sight.moved)
        if found.proven is None and isinstance(fact, TreeSample):
            found = _add(found, sight.judge(fact.at), fact.at)
    return found


@dataclass(frozen=True, slots=True)
class Tried:
    """Other settings on a recording. `words`: what is other, as one writes it in a configuration."""

    words: str
    hang: HangSettings
    outcome: Outcome


def tried(recording: Recording) -> tuple[Tried, ...]:
    """One setting at a time at half and at twice what it was: what would have caught it earlier, and what would have been wrong."""
    hang = rules(recording)
    return tuple(Tried(words, other, outcome(recording, other)) for words, other in variants(hang))


def earlier(recording: Recording) -> tuple[Tried, ...]:
    """What would have found it earlier: those of `tried` with an earlier suspicion or proof; a proof that is `alive` was none."""
    before = outcome(recording)
    return tuple(each for each in tried(recording) if gained_s(before, each.outcome) >= SEEN_S)


def gained_s(before: Outcome, after: Outcome) -> float:
    """By how much its first suspicion or its proof came earlier, the greater of both; inf where there was none before."""
    pairs = ((before.suspected, after.suspected), (before.proven, after.proven))
    return max((math.inf if old is None else old - new for old, new in pairs if new is not None), default=-math.inf)


def variants(hang: HangSettings) -> tuple[tuple[str, HangSettings], ...]:
    """Each limit by itself at half and at twice, as far as they go together (`certain` is never above `blocked`)."""
    found = []
    for times in (0.5, 2.0):
        found.append((f"suspect = {hang.suspect_s * times:g} s", replace(hang, suspect_s=hang.suspect_s * times)))
        certain_s = hang.certain_s * times
        if certain_s > hang.suspect_s and (hang.blocked_s is None or certain_s <= hang.blocked_s):
            found.append((f"certain = {certain_s:g} s", replace(hang, certain_s=certain_s)))
        if hang.blocked_s is not None and hang.blocked_s * times >= hang.certain_s:
            found.append((f"blocked = {hang.blocked_s * times:g} s", replace(hang, blocked_s=hang.blocked_s * times)))
    return tuple(found)


def ruled(facts: Iterable[Fact], hang: HangSettings) -> Iterator[Fact]:
    """The same facts, judged by other settings from the start on."""
    for fact in facts:
        match fact:
            case Ruled():
                yield replace(fact, hang=hang)
            case Opened():
                yield replace(fact, rules=replace(fact.rules, hang=hang))
            case _:
                yield fact


def rules(recording: Recording) -> HangSettings:
    """Those that it was recorded with; of several the last ones."""
    found = HangSettings()
    for fact in recording.facts:
        if isinstance(fact, Ruled):
            found = fact.hang
        elif isinstance(fact, Opened):
            found = fact.rules.hang
    return found


def _add(found: Outcome, finding: Finding, at: float) -> Outcome:
    verdict = finding.verdict
    if verdict.kind in SUSPICIOUS and found.suspected is None:
        found = replace(found, suspected=at, because=verdict.because)
    if verdict.kind in PROOF:
        return replace(found, proven=at, because=verdict.because)
    if found.workers is None and any(worker.verdict.kind in PROOF for worker in finding.workers):
        return replace(found, workers=at)
    return found
