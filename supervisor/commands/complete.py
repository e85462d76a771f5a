"""Names of programs for the shell's completion. Says nothing when it knows nothing: it runs while somebody types."""

from __future__ import annotations

from supervisor.commands.daemon import connect
from supervisor.control.client import Refusal


def names(config: str | None, incomplete: str) -> list[str]:
    """The programs of the running daemon that begin like this."""
    try:
        with connect(config) as daemon:
            programs = daemon.call("status", {})["programs"]
    except Refusal:
        return []
    return [program["name"] for program in programs if program["name"].startswith(incomplete)]
