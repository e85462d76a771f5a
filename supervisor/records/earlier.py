"""What would have found an incident earlier: its recordings, through today's diagnosis and other limits, as sentences. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from supervisor.policy import replay
from supervisor.policy.replay import SEEN_S, Outcome
from supervisor.policy.words import spell
from supervisor.records.recordings import Kept


def earlier(kept: Kept, here: Callable[[float], datetime]) -> Iterator[str]:
    """When it was found, and a sentence for each limit that would have been faster. here: the instant of a wall time."""
    known = replay.outcome(kept.recording)
    instants = (("suspected", known.suspected), ("proven hung", known.proven), ("a worker proven hung", known.workers))
    said = [f"{word} at {here(at + kept.head.wall_s):%H:%M:%S}" for word, at in instants if at is not None]
    yield f"{kept.head.id}, as it was set: {', '.join(said) or 'never suspected'}"
    better = replay.earlier(kept.recording)
    for each in better:
        yield f"with {each.words}: {', '.join(_gains(known, each.outcome))}{_wrong(each.outcome)}"
    if not better:
        yield "none of its limits (suspect, certain, blocked), at half or at twice what it was, would have been faster"


def _gains(known: Outcome, other: Outcome) -> Iterator[str]:
    for word, before, after in (("suspected", known.suspected, other.suspected), ("proven", known.proven, other.proven)):
        if before is None and after is not None:
            yield f"{word}, which it never was"
        elif before is not None and after is not None and before - after >= SEEN_S:
            yield f"{word} {spell(before - after)} earlier"


def _wrong(other: Outcome) -> str:
    if other.alive is None or other.proven is None:
        return ""
    return f"; wrongly, for it moved by itself {spell(other.alive - other.proven)} after that proof"
