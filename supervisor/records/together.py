"""Several incidents of one program as one: what came back in half an hour is one morning, and one postmortem. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from functools import reduce
from typing import Any

from supervisor.model import Severity, Toll
from supervisor.policy import toll
from supervisor.records.postmortem import Found

LINE = re.compile(r":\d+ ")
Record = dict[str, Any]


def together(found: Sequence[Found]) -> Found:
    """Of incidents of one program; of a single one that one."""
    if len(found) == 1:
        return found[0]
    found = sorted(found, key=lambda each: each.opened)
    return replace(
        found[0],
        record=_record([each.record for each in found]),
        evidence=tuple(sorted((one for each in found for one in each.evidence), key=lambda one: one.taken_wall)),
        problems=tuple(dict.fromkeys(problem for each in found for problem in each.problems)),
        recorded=tuple(sorted((one for each in found for one in each.recorded), key=lambda one: one.head.began + one.head.wall_s)),
    )


def _record(records: Sequence[Record]) -> Record:
    """The oldest first. What each has once is said of all: the worst, the sum, or one after the other."""
    first, last = records[0], records[-1]
    noticed = reduce(toll.add, (_toll(each["noticed"]) for each in records))
    still = [each for each in records if each["over"] is None]
    return {
        **first,
        "incident": " and ".join(str(each["incident"]) for each in records),
        "state": (still or [last])[-1]["state"],
        "severity": max((each["severity"] for each in records), key=lambda name: Severity[name.upper()]),
        "over": None if still else max(each["over"] for each in records),
        "what": _distinct(each["what"] for each in records),
        "cause": _causes(each["cause"] for each in records) or None,
        "release": _distinct(each["release"] for each in records) or None,
        "acknowledged_by": _distinct(each["acknowledged_by"] for each in records) or None,
        "unserved_s": sum(each["unserved_s"] for each in records),
        "unserved_since": last["unserved_since"],
        "noticed": {**asdict(noticed), "text": toll.words(noticed)},
        "facts": [fact for each in records for fact in each["facts"]],
        "acknowledgements": [one for each in records for one in each["acknowledgements"]],
        "evidence": list(dict.fromkeys(name for each in records for name in each["evidence"])),
        "story_left_out": sum(each["story_left_out"] for each in records),
        "story": _story(records),
        "told": [letter for each in records for letter in each["told"]],
    }


def _toll(noticed: Record) -> Toll:
    return Toll(**{field.name: noticed[field.name] for field in fields(Toll)})


def _distinct(texts: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _causes(texts: Iterable[str | None]) -> str:
    """Each function once: in which line of a loop it was met is chance."""
    return "; ".join({LINE.sub(" ", text): text for text in reversed([text for text in texts if text])}.values())


def _story(records: Sequence[Record]) -> list[Record]:
    """Each line once: what led to the second stands in the story of the first too."""
    lines = {(line["time"], line["subject"], line["text"]): line for each in records for line in each["story"]}
    return sorted(lines.values(), key=lambda line: str(line["time"]))
