"""`reviver explain NAME`: why a program is in its state, what was tried, what comes next and when."""

from __future__ import annotations

from supervisor.commands.daemon import connect
from supervisor.commands.screen import clock_time, safe, say, say_json


def explain(config: str | None, name: str, as_json: bool) -> int:
    """Print it."""
    with connect(config) as daemon:
        answer = daemon.call("explain", {"name": name})
    if as_json:
        say_json(answer)
        return 0
    say(f"{safe(answer['program'])} is {answer['state']}")
    story = [_with_clock(line) for line in answer["tried"]]
    for title, sentences in (("why", answer["why"]), ("what happened, newest last", story), ("what comes next", answer["next"])):
        say(f"\n{title}:")
        for sentence in sentences or ["nothing is known"]:
            say(f"  {safe(sentence)}")
    return 0


def _with_clock(line: str) -> str:
    """A line of the story with the time as it is here."""
    at, gap, text = line.partition("  ")
    return f"{clock_time(at)}{gap}{text}"
