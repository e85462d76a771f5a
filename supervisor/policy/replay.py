"""A recording of what was seen of one instance, through today's diagnosis: the same facts give the same verdicts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from supervisor.policy.facts import Fact
from supervisor.policy.samples import Finding, TreeSample
from supervisor.policy.sight import Sight

JUDGE_S = 0.25  # between two verdicts: how often the watcher tells of a suspect
SLACK_S = 0.02


@dataclass(frozen=True, slots=True)
class Recording:
    """What was seen of one instance from its start on, in the order in which it became known.

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
