"""`reviver replay`: recorded incidents through today's diagnosis and other settings. Offline: it reads state_dir, and changes nothing."""

from __future__ import annotations

import time
from typing import Any

from supervisor.commands.configuration import load
from supervisor.commands.screen import safe, say, say_json, spell
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.model import HangSettings, Settings
from supervisor.policy.replay import Outcome, outcome, rules
from supervisor.records import recordings
from supervisor.records.log import utc
from supervisor.records.recordings import Kept

DAY_S = 86400.0


def replay(config: str | None, number: int | None, days: float | None, as_json: bool) -> int:
    """Print what would have differed with the settings of `config`, whose state_dir holds the recordings."""
    tried = load(config)
    since_wall = 0.0 if days is None else time.time() - days * DAY_S
    found = [_one(kept, tried) for kept in recordings.read(tried.daemon.state_dir, incident=number, since_wall=since_wall)]
    if not found:
        what = f"of incident {number}" if number is not None else "of that time"
        raise Refusal(REFUSED, f"there is no recording {what} in {tried.daemon.state_dir}/{recordings.FOLDER}")
    if as_json:
        say_json({"config": tried.path, "recordings": found})
    else:
        for each in found:
            say(f"{safe(each['instance'])}, incident {each['incident']}, bad since {each['began']}: {each['ended']}")
            for line in each["differs"]:
                say(f"  {safe(line)}")
    return 0


def _one(kept: Kept, tried: Settings) -> dict[str, Any]:
    head = kept.head
    hang = next((program.hang for program in tried.programs if program.name == head.program), rules(kept.recording))
    before, after = outcome(kept.recording), outcome(kept.recording, hang)
    return {
        "incident": head.incident,
        "instance": str(head.id),
        "began": utc(head.began + head.wall_s),
        "ended": head.ended,
        "as_recorded": _shown(before, head.wall_s),
        "tried": _shown(after, head.wall_s),
        "differs": _differs(before, after, rules(kept.recording), hang),
    }


def _shown(found: Outcome, wall_s: float) -> dict[str, Any]:
    instants = {"suspected": found.suspected, "proven": found.proven, "worker_proven": found.workers, "alive": found.alive}
    return {**{name: None if at is None else utc(at + wall_s) for name, at in instants.items()}, "because": found.because}


def _differs(before: Outcome, after: Outcome, was: HangSettings, now: HangSettings) -> list[str]:
    lines = ["the same settings, through today's diagnosis" if was == now else "other settings"]
    for word, old, new in (("suspected", before.suspected, after.suspected), ("proven hung", before.proven, after.proven)):
        lines.append(_compared(word, old, new))
    if after.alive is not None and after.proven is not None:
        lines.append(
            f"it moved by itself {spell(after.alive - after.proven)} after that proof: a healthy server would have been killed"
        )
    return lines


def _compared(word: str, old: float | None, new: float | None) -> str:
    if old is None and new is None:
        return f"never {word}, as before"
    if new is None:
        return f"never {word}; with the recorded settings it was"
    if old is None:
        return f"{word}; with the recorded settings it never was"
    if abs(new - old) < 0.05:
        return f"{word} at the same instant"
    return f"{word} {spell(abs(new - old))} {'earlier' if new < old else 'later'}"
