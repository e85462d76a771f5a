"""`reviver deploy`, `rollback` and `releases`: another release, the last good one again, and which there were."""

from __future__ import annotations

import os
import pwd
from typing import Any

from supervisor.commands.act import act
from supervisor.commands.daemon import connect
from supervisor.commands.screen import clock_time, say, say_json, table

HEAD = ("PROGRAM", "RELEASE", "STATE", "DEPLOYED", "BY", "WHY")
UID = "uid "  # how the daemon names a user: a name server that does not answer must not hold it up


def deploy(config: str | None, words: tuple[str, ...], again: bool, wait: bool) -> int:
    """Run the release of a directory; 0 when it serves alone."""
    return act(config, "deploy", {"words": words, "folder": os.getcwd(), "again": again, "wait": wait})


def rollback(config: str | None, name: str, wait: bool) -> int:
    """Run the last good release again; 0 when it serves alone."""
    return act(config, "rollback", {"name": name, "wait": wait})


def releases(config: str | None, names: tuple[str, ...], as_json: bool) -> int:
    """Print them, the newest first."""
    with connect(config) as daemon:
        answer = daemon.call("releases", {"names": names})
    rows = [row for program in answer["programs"] for row in _rows(program)]
    if as_json:
        say_json(answer)
    elif rows:
        table(HEAD, rows, state=2, spared=("BY",))
    else:
        say("no releases are known: a program has them where its directory is a symlink, or a git checkout")
    return 0


def _rows(program: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (program["name"], line["release"], line["state"], clock_time(line["deployed"]), who(line["by"]), line["why"])
        for line in program["releases"]
    ]


def who(by: str) -> str:
    """The name of who did it: "uid 1000" is a user of this host."""
    try:
        return pwd.getpwuid(int(by.removeprefix(UID))).pw_name if by.startswith(UID) else by
    except (KeyError, ValueError):
        return by
