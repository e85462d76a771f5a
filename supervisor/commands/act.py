"""`reviver start`, `stop`, `restart`, `reload`, `signal`: ask the daemon, and wait until it is so."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.commands.daemon import connect
from supervisor.commands.screen import clock_time, remark, safe, say
from supervisor.control.messages import REFUSED


def act(config: str | None, verb: str, params: Mapping[str, object]) -> int:
    """Do one verb for the programs in `params`; 0 when all of them are as asked, 1 with the reasons."""
    with connect(config) as daemon:
        answer = daemon.call(verb, params, progress)
    return tell(answer["programs"])


def tell(outcomes: Iterable[dict[str, Any]]) -> int:
    """One line for each program: what is so on stdout, what failed on stderr."""
    code = 0
    for outcome in outcomes:
        line = f"{outcome['name']}: {outcome['text']}"
        if outcome["done"]:
            say(safe(line))
        else:
            remark(line)
            code = REFUSED
    return code


def progress(name: str, story: Mapping[str, Any]) -> None:
    """What happens meanwhile, for somebody who watches."""
    if name == "progress" and sys.stderr.isatty():
        remark(f"{clock_time(str(story.get('time', '')))}  {story.get('subject', '')}  {story.get('text', '')}")
