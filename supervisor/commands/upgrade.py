"""`reviver upgrade`: the daemon gives way to the code that is installed now; the programs go on, and notice nothing."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from supervisor.commands.daemon import connect
from supervisor.commands.screen import safe, say
from supervisor.control.client import Refusal, Unanswered
from supervisor.control.messages import REFUSED

TAKEN_OVER_S = 60.0  # from the old daemon's last word to the new one's first: usually under a second
AGAIN_S = 0.05


def upgrade(config: str | None) -> int:
    """Have it done, and wait for the next daemon. Raises Refusal."""
    gives_way = []

    def heard(name: str, _: dict[str, Any]) -> None:
        gives_way.append(name == "upgrading")

    with connect(config) as daemon:
        before = daemon.call("about", {})
        try:
            daemon.call("upgrade", {}, heard)
        except Unanswered:
            if not any(gives_way):
                raise
    after = _next(config, before["pid"])
    old, new = (f"{about['version']} (pid {about['pid']})" for about in (before, after))
    say(safe(f"reviver {old} gave way to {new}; all programs go on"))
    return 0


def _next(config: str | None, before: int) -> dict[str, Any]:
    """What the next daemon says of itself."""
    deadline = time.monotonic() + TAKEN_OVER_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Unanswered), connect(config) as daemon:
            about: dict[str, Any] = daemon.call("about", {})
            if about["pid"] != before:
                return about
        time.sleep(AGAIN_S)
    text = f"the old daemon gave way, and no other answered within {TAKEN_OVER_S:.0f} s: its log says why; all programs go on"
    raise Refusal(REFUSED, text)
