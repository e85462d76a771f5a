"""What would have found an incident earlier: its recordings, through today's diagnosis and stricter settings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from supervisor.model import HangSettings
from supervisor.policy.replay import Outcome, outcome, rules
from supervisor.policy.values import replace
from supervisor.policy.words import spell
from supervisor.records.recordings import Kept

SAME_S = 0.05
SHARES = (0.5, 0.25)  # of `suspect` and of `certain`, that are tried
SHORTEST_S = 0.5  # shorter ones nobody should set: a busy server would be suspect all the time


def earlier(kept: Kept, here: Callable[[float], datetime]) -> Iterator[str]:
    """A sentence for each setting that was tried on one recording. here: the instant of a wall time."""
    known, was = outcome(kept.recording), rules(kept.recording)
    instants = [
        f"{word} at {here(at + kept.head.wall_s):%H:%M:%S}"
        for word, at in (("suspected", known.suspected), ("proven hung", known.proven), ("a worker proven hung", known.workers))
        if at is not None
    ]
    yield f"{kept.head.id}, as it was set: {', '.join(instants) or 'never suspected'}"
    for share in SHARES:
        suspect_s, certain_s = was.suspect_s * share, was.certain_s * share
        if suspect_s >= SHORTEST_S:
            yield _tried(
                f"suspect = {suspect_s:g}s", known, outcome(kept.recording, replace(was, suspect_s=suspect_s)), "suspected"
            )
        yield _tried(f"certain = {certain_s:g}s", known, outcome(kept.recording, _certain(was, certain_s)), "proven")


def _certain(was: HangSettings, certain_s: float) -> HangSettings:
    return replace(was, certain_s=certain_s, suspect_s=min(was.suspect_s, certain_s))


def _tried(setting: str, known: Outcome, other: Outcome, what: str) -> str:
    before, after = (known.suspected, other.suspected) if what == "suspected" else (known.proven, other.proven)
    if after is None:
        said = f"not {what} either" if before is None else f"never {what}"
    elif before is None:
        said = f"{what}, which it never was"
    elif before - after < SAME_S:
        said = f"{what} no earlier"
    else:
        said = f"{what} {spell(before - after)} earlier"
    if other.alive is not None and other.proven is not None:
        said += f", but wrongly: it moved by itself {spell(other.alive - other.proven)} after the proof"
    return f"with {setting}: {said}"
