"""Incidents as they are read: from the journal's file, without a daemon. Blocking: for a command, or a lane.

What happened is told from three tables: the incident's own record (facts, acknowledgements, cause, impact), the story of its program
around it, and the messages to people with their fate. All of it is JSON-able, its instants RFC 3339 in UTC. Where a channel leads is a
secret: the caller says how it is named.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec

from supervisor.model import Incident, Severity
from supervisor.policy import toll
from supervisor.records.journal import reading
from supervisor.records.log import utc

BEFORE_S = 60.0  # of the story before it was opened: what led to it
AFTER_S = 1.0  # and after it was over: the line that says so
STORY_LIMIT = 400  # lines of one incident: the newest; what is left out is counted
MESSAGES_LIMIT = 400

LIST = """SELECT r.number, r.program, r.over_wall, r.record FROM incident_records AS r
  WHERE :program IN ('', r.program) ORDER BY r.number DESC LIMIT :limit"""
ONE = "SELECT number, program, over_wall, record FROM incident_records WHERE number = :number"
STORY = "FROM story WHERE program IN (:program, 'reviver') AND wall >= :since AND wall <= :until"
TOLD = "SELECT * FROM outbox WHERE incident = ? AND key NOT LIKE 'group-%' ORDER BY told_wall LIMIT ?"
GROUPS = "SELECT * FROM outbox WHERE key IN ({})"


def read_incidents(state_dir: str, limit: int = 50, program: str = "") -> list[dict[str, Any]]:
    """The newest `limit` incidents, the newest first, of one program ("": of all).

    raises  JournalError
    """
    with reading(state_dir) as base:
        return [_summary(*row) for row in base.execute(LIST, {"program": program, "limit": limit}).fetchall()]


def read_incident(state_dir: str, number: int, named: Callable[[str], str]) -> dict[str, Any] | None:
    """All that is kept of one incident; None where there is none of this number.

    named   a channel for people, without what may be a secret
    raises  JournalError
    """
    with reading(state_dir) as base:
        row = base.execute(ONE, {"number": number}).fetchone()
        return None if row is None else _whole(base, row, named)


def _whole(base: sqlite3.Connection, row: tuple[int, str, float | None, bytes], named: Callable[[str], str]) -> dict[str, Any]:
    number, program, over, record = row
    incident = _decoded(record)
    until = over + AFTER_S if over is not None else float("inf")
    span = {"program": program, "since": incident.opened - BEFORE_S, "until": until, "limit": STORY_LIMIT}
    (count,) = base.execute(f"SELECT count(*) {STORY}", span).fetchone()
    lines = base.execute(f"SELECT wall, subject, name, text {STORY} ORDER BY seq DESC LIMIT :limit", span).fetchall()
    return {
        **_summary(*row),
        "facts": [
            {"key": each.key, "severity": each.severity.name.lower(), "time": utc(each.at), "text": each.text}
            for each in incident.facts
        ],
        "acknowledgements": [
            {"by": each.by, "time": utc(each.at), "broken": each.broken or None} for each in incident.acknowledgements
        ],
        "evidence": list(incident.evidence),
        "story_left_out": max(count - STORY_LIMIT, 0),
        "story": [
            {"time": utc(wall), "subject": subject, "event": name, "text": text} for wall, subject, name, text in reversed(lines)
        ],
        "told": [_letter(letter, group, incident, named) for letter, group in _letters(base, number)],
    }


def _letters(base: sqlite3.Connection, number: int) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """The messages of an incident, oldest first, each with the one that it was sent in, if that was another."""
    letters = _rows(base, TOLD, (number, MESSAGES_LIMIT))
    keys = tuple({letter["within"] for letter in letters if letter.get("within")})  # a file of an older Reviver has no such column
    groups = _rows(base, GROUPS.format(", ".join("?" * len(keys))), keys)
    known = {(group["key"], group["channel"]): group for group in groups}
    return [(letter, known.get((letter.get("within"), letter["channel"]))) for letter in letters]


def _rows(base: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
    found = base.execute(query, values)
    names = [column for column, *_ in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def _letter(
    letter: dict[str, Any], group: dict[str, Any] | None, incident: Incident, named: Callable[[str], str]
) -> dict[str, Any]:
    """What it says, and its fate: when it was handed over, how long after its fact, how often it was tried, since when that failed."""
    sent, told_wall = group or letter, letter["told_wall"]
    fact_wall = next((fact.at for fact in incident.facts if fact.key == letter["key"].partition(".")[0]), told_wall)
    ended, failed = sent.get("ended_wall"), sent.get("failed_wall")
    handed = ended if sent["state"] == "delivered" else None
    return {
        "time": utc(told_wall),
        "channel": named(letter["channel"]),
        "key": letter["key"],
        "step": letter["step"],
        "state": sent["state"],
        "text": _said(letter).get("text", ""),
        "handed": None if handed is None else utc(handed),
        "after_s": None if handed is None else round(max(handed - min(fact_wall, told_wall), 0.0), 3),
        "tries": sent.get("tries", 0),
        "failed": None if failed is None else utc(failed),
        "problem": sent.get("problem") or None,
        "with": 0 if group is None else len(_said(group).get("parts", ())) - 1,
    }


def _said(letter: dict[str, Any]) -> dict[str, Any]:
    said = msgspec.json.decode(letter["body"])
    return said if isinstance(said, dict) else {}


def _summary(number: int, program: str, over: float | None, record: bytes) -> dict[str, Any]:
    incident = _decoded(record)
    headline, acknowledged, impact = incident.headline, incident.acknowledged, incident.impact
    return {
        "incident": number,
        "program": program,
        "state": _state(incident, over),
        "severity": incident.severity.name.lower(),
        "opened": utc(incident.opened),
        "over": None if over is None else utc(over),
        "what": "" if headline is None else headline.text,
        "cause": incident.cause or None,
        "release": incident.release or None,
        "acknowledged_by": None if acknowledged is None else acknowledged.by,
        "unserved_s": round(impact.total_s, 1),
        "unserved_since": None if impact.since is None else utc(impact.since),
        "noticed": {**asdict(incident.toll), "text": toll.words(incident.toll)},
    }


def _state(incident: Incident, over: float | None) -> str:
    if over is not None:
        return "over"
    if incident.calm is not None:
        return "recovering"
    return "open" if incident.acknowledged is None else "acknowledged"


def _decoded(record: bytes) -> Incident:
    try:
        return msgspec.json.decode(record, type=Incident)
    except msgspec.ValidationError:  # of another version of Reviver: what it was stays unsaid, and the others are read
        return Incident(0, 0.0, Severity.WARNING)
