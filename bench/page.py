"""From a request that loops for ever to the page that names it, handed to its channel; and from proven recovery to the all-clear.

The demo store behind gunicorn on a held socket, deployed as a release behind a symlink, all at its default but for `healthy`, which is
short so that a run ends soon. One customer asks for the coupon that loops. The channel is a command that notes when it was started and what
it was given: the page counts from the moment in which function, file, line, request and release are all in what it got.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.ground import GroundError, Reviver, await_answer, folder, free_port, held_store
from bench.load import ask
from bench.report import Report, spread

RUNS = 10
HEALTHY_S = 2.0
LIMIT_S = 90.0  # for the page, and then for the all-clear
STEP_S = 0.02
RELEASE = "4f2a91c"
NAMED = {"function": "apply_coupon", "file": "store.py", "line": "", "request": "/checkout", "release": RELEASE}
PAGER = """#!/bin/sh
{ date +%s.%N; cat; echo; } > "$1.$$"
mv "$1.$$" "$1.$$.page"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds from the request: the first message, the one that names all; then the all-clear after proven recovery."""

    first_s: float
    named_s: float
    clear_s: float
    text: str


def measure() -> Report:
    report = Report("page")
    runs = [_run() for _ in range(RUNS)]
    first, named, clear = ([getattr(run, name) for run in runs] for name in ("first_s", "named_s", "clear_s"))
    report.add("people", "loop to the first message, median", statistics.median(first), "s", None, spread(first, "s"))
    what = "loop to function, file, line, request and release, median"
    report.add("people", what, statistics.median(named), "s", 10.0, spread(named, "s"))
    report.add("people", "the same, slowest", max(named), "s")
    report.add("people", "proven recovery to the all-clear, median", statistics.median(clear), "s", 5.0, spread(clear, "s"))
    report.add("people", "messages that name all", len(runs), "", None, runs[0].text)
    return report


def _run() -> Run:
    port = free_port()
    with folder() as where:
        (where / "releases" / RELEASE).mkdir(parents=True)
        (where / "current").symlink_to(where / "releases" / RELEASE)
        (where / "pager").write_text(PAGER)
        store = held_store(port).replace("sockets =", f'directory = "{where}/current"\nsockets =')
        store += f'[program.store.restart]\nhealthy = "{HEALTHY_S:g}s"\n'
        escalation = f'[[escalation]]\nnotify = ["command:/bin/sh {where}/pager {where}/message"]\n'
        with Reviver(where, escalation + store, {"DEMO_DATA": str(where)}) as reviver:
            reviver.await_ready()
            await_answer(port, "/health")
            asked_wall = time.time()
            customer = threading.Thread(target=asyncio.run, args=(ask(port, "/checkout?coupon=LOOP"),), daemon=True)
            customer.start()
            named_wall, named = _await(where, lambda message: not missing(message["text"]))
            over_wall, _ = _await(where, lambda message: message["key"] == "over")
            closed = next(line for line in reviver.story() if line["event"] == "incident.closed")
            closed_wall = _wall(str(closed["time"]))
            first_wall = min(wall for wall, _ in _pages(where))
        customer.join(LIMIT_S)
    return Run(first_wall - asked_wall, named_wall - asked_wall, over_wall - closed_wall, named["text"])


def missing(text: str) -> list[str]:
    """Which of function, file, line, request and release the text does not hold."""
    lined = "store.py:" in text and text.partition("store.py:")[2][:1].isdigit()
    return [what for what, piece in NAMED.items() if piece not in text or (what == "line" and not lined)]


def _pages(where: Path) -> list[tuple[float, dict[str, Any]]]:
    """When each message was handed over (wall), and the message."""
    found = []
    for path in where.glob("message.*.page"):
        wall, body = path.read_text().split("\n", 1)
        found.append((float(wall), json.loads(body)))
    return sorted(found, key=lambda page: page[0])


def _await(where: Path, fits: Callable[[dict[str, Any]], bool]) -> tuple[float, dict[str, Any]]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for wall, message in _pages(where):
            if fits(message):
                return wall, message
        time.sleep(STEP_S)
    raise GroundError(f"after {LIMIT_S:g} s the messages were: {[message['text'] for _, message in _pages(where)]}")


def _wall(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
