"""`reviver explain NAME`: why a program is in its state, what was tried, what comes next and when."""

from __future__ import annotations

from supervisor.commands.daemon import connect
from supervisor.commands.screen import safe, say, say_json


def explain(config: str | None, name: str, as_json: bool) -> int:
    """Print it."""
    with connect(config) as daemon:
        answer = daemon.call("explain", {"name": name})
    if as_json:
        say_json(answer)
        return 0
    say(f"{safe(answer['program'])} is {answer['state']}")
    for title, key in (("why", "why"), ("what happened, newest last", "tried"), ("what comes next", "next")):
        say(f"\n{title}:")
        for sentence in answer[key] or ["nothing is known"]:
            say(f"  {safe(sentence)}")
    return 0
