"""The page while nothing can serve: whether it costs the program that comes back any time, and whether a customer is lost between them.

gunicorn behind a start that fails each 0.3 s until it may succeed, with the page shown and without one in the same run. Customers come 25
times a second from a second before that until a second after the first instance is ready.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.ground import BIN, STEP_S, GroundError, Reviver, folder, free_port
from bench.load import Outcome, Request, ask, failed_count
from bench.report import Report

RUNS = 4
RATE = 25.0  # new customers a second
LEAD_S = 1.0
TAIL_S = 1.0
PATIENCE_S = 30.0
LIMIT_S = 20.0  # for one line of the story
WAIT_MOST_S = 1.0  # of one who is told: it stands aside for 0.3 s
LOST = (Outcome.REFUSED, Outcome.RESET, Outcome.TIMEOUT)

APP = """
import time
time.sleep(0.3)
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\\n"]
"""


@dataclass(frozen=True, slots=True)
class Run:
    boot_s: float  # from the start that succeeds to ready
    served_s: float  # to the first customer's 200
    lost: int
    told: tuple[float, ...]  # how long those waited who were told
    told_late: int  # after it was ready


def measure() -> Report:
    report = Report("sorry")
    for workers in (1, 4):
        for name, after in (("customers wait", "off"), ("the page is shown", "500ms")):
            runs = [_run(after, workers) for _ in range(RUNS)]
            who = f"{workers} worker{'s' if workers > 1 else ''}, {name}"
            report.add(who, "start to ready, median", statistics.median(run.boot_s for run in runs), "s")
            report.add(who, "start to first 200, median", statistics.median(run.served_s for run in runs), "s")
            report.add(who, "lost customers", sum(run.lost for run in runs), "", 0)
            told = [waited_s for run in runs for waited_s in run.told]
            if after != "off":
                report.add(who, "longest wait for a 503", max(told, default=0.0), "s", WAIT_MOST_S, f"{len(told)} were told")
                report.add(who, "told although it was ready", sum(run.told_late for run in runs), "", 0)
    return report


def _run(after: str, workers: int) -> Run:
    with folder() as where:
        (where / "shop.py").write_text(APP)
        port = free_port()
        serve = f"test -f well || exit 1; exec {BIN / 'gunicorn'} shop:app --workers {workers} --timeout 0"
        program = (
            f'[program.shop]\ncommand = {json.dumps(["/bin/sh", "-c", serve])}\ndirectory = "{where}"\n'
            f'sockets = ["127.0.0.1:{port}"]\nhealth.http = "/health"\nsorry.after = "{after}"\n'
            'restart = { limit = "300ms", budget = 1000 }\n'
        )
        with Reviver(where, program) as reviver:
            _told(reviver, "instance.failed" if after == "off" else "page.shown")
            requests, ready = asyncio.run(_drive(reviver, port))
            begun = [line for line in reviver.story() if line.get("event") == "instance.started" and _at(line) <= _at(ready)]
    skew_s = time.time() - time.monotonic()
    started, served = _at(begun[-1]), [request.ended + skew_s for request in requests if request.outcome is Outcome.OK]
    told = [request for request in requests if request.outcome is Outcome.ERROR]
    return Run(
        boot_s=_at(ready) - started,
        served_s=min(served) - started,
        lost=failed_count(requests, *LOST),
        told=tuple(request.ended - request.began for request in told),
        told_late=sum(request.began + skew_s > _at(ready) + STEP_S for request in told),
    )


async def _drive(reviver: Reviver, port: int) -> tuple[list[Request], dict[str, Any]]:
    """The requests, and the line that says that an instance is ready."""
    over = asyncio.Event()
    customers = asyncio.create_task(_customers(port, over))
    await asyncio.sleep(LEAD_S)
    (reviver.log.parent / "well").touch()
    ready = await asyncio.to_thread(_told, reviver, "instance.ready")
    await asyncio.sleep(TAIL_S)
    over.set()
    return await customers, ready


async def _customers(port: int, over: asyncio.Event) -> list[Request]:
    coming = []
    while not over.is_set():
        coming.append(asyncio.create_task(ask(port, "/", PATIENCE_S)))
        await asyncio.sleep(1 / RATE)
    return await asyncio.gather(*coming)


def _told(reviver: Reviver, event: str) -> dict[str, Any]:
    """Wait for a line of the story."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for line in reviver.story():
            if line.get("event") == event:
                return line
        time.sleep(STEP_S)
    raise GroundError(f"no {event} within {LIMIT_S:g} s: {reviver.story()[-5:]}")


def _at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(line["time"])).timestamp()
