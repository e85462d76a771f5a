"""`reviver alerts test`: a message through every channel, and what came back.

The daemon sends it, as its user and from its place, where one runs with this configuration; else this command does, and says so.
"""

from __future__ import annotations

import asyncio
from typing import Any

from supervisor.alerts.trial import try_channels
from supervisor.commands.configuration import load
from supervisor.commands.daemon import connect
from supervisor.commands.screen import remark, say, say_json, table
from supervisor.control.client import Unanswered
from supervisor.control.messages import REFUSED

HEAD = ("CHANNEL", "RESULT", "TOOK", "WHY")


def test(config: str | None, as_json: bool) -> int:
    """Send and print; 1 when a channel did not take it."""
    try:
        with connect(config) as daemon:
            outcomes: list[dict[str, Any]] = daemon.call("try_channels", {})["channels"]
        by = "daemon"
    except Unanswered:
        outcomes, by = _directly(config), "command"
    if as_json:
        say_json({"by": by, "channels": outcomes})
    elif not outcomes:
        say("no channels: [[escalation]] and [stakeholders] name none, and alerts stand in the log alone")
    else:
        table(HEAD, [_row(outcome) for outcome in outcomes], state=1)
    if by == "command" and not as_json:
        remark("no daemon runs: this command sent them itself, as its user; the daemon may meet other rights and another network")
    return REFUSED if any(outcome["problem"] for outcome in outcomes) else 0


def _row(outcome: dict[str, Any]) -> tuple[str, ...]:
    return (outcome["channel"], "failed" if outcome["problem"] else "ok", f"{outcome['took_s']:.1f} s", outcome["problem"])


def _directly(config: str | None) -> list[dict[str, Any]]:
    settings = load(config)
    outcomes = asyncio.run(try_channels(settings, lambda text: remark(f"the daemon's log would hold: {text}")))
    return [{"channel": each.channel, "problem": each.problem, "took_s": round(each.took_s, 3)} for each in outcomes]
