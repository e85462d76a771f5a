"""`reviver plan` and `reviver apply`: what a changed configuration would do to the running programs, and doing it."""

from __future__ import annotations

import os
from typing import Any

from supervisor.commands.act import progress, tell
from supervisor.commands.daemon import connect
from supervisor.commands.screen import remark, safe, say, say_json, table


def plan(config: str | None, as_json: bool) -> int:
    """Print what would be done; nothing is."""
    with connect(config) as daemon:
        answer = daemon.call("plan", {"path": _absolute(config)})
    if as_json:
        say_json(answer)
    else:
        _show(answer)
    return 0


def apply(config: str | None, wait: bool, as_json: bool) -> int:
    """Do it, and wait until it is so; 1 with the reasons where it is not."""
    with connect(config) as daemon:
        answer = daemon.call("apply", {"path": _absolute(config), "wait": wait}, progress)
    if as_json:
        say_json(answer)
        return 0 if all(outcome["done"] for outcome in answer["outcome"]) else 1
    _show(answer)
    return tell(answer["outcome"])


def _absolute(config: str | None) -> str | None:
    """The daemon has another working directory. None: it reads its own file again."""
    return os.path.abspath(config) if config else None


def _show(answer: dict[str, Any]) -> None:
    moving = [step for step in answer["programs"] if step["action"] != "none"]
    if moving:
        table(("PROGRAM", "ACTION", "WHY"), [(step["name"], step["action"], step["text"]) for step in moving], state=1)
    if answer["escalation"] != "none":
        say("escalation: the new steps hold from now on")
    if not moving and answer["escalation"] == "none":
        say(f"{safe(answer['config'])}: nothing to change")
    for key in answer["later"]:
        remark(f"{key} changed: it takes effect when reviver is started again")
    for sentence in answer["unused"]:
        remark(sentence)
