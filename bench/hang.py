"""A hang under load: how soon it is found, how soon customers are served again, and who failed meanwhile.

The demo store under gunicorn, sync and with threads, meets a coupon that never ends, once for each thread that serves, while new
customers come at a steady rate. Beside Reviver at its defaults, in the same run: gunicorn's own `--timeout 2`, and supervisord with
superlance's httpok (its shortest tick, 5 s; KILL to the whole group as its stop, which is its quickest).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.ground import Reviver, Service, await_answer, folder, free_port, held_store, store_command
from bench.load import Outcome, Request, ask, failed_count, failures, load, longest_gap_s
from bench.peers import Supervisord, environment
from bench.report import Report

RATE = 50.0  # new connections a second
CALM_S = 3.0  # of load before the hang
HURT_S = 20.0  # of load after it
PATH = "/product/mug"
POISON = "/checkout?coupon=LOOP"
GAP_OVER_BOOT_S = 1.5  # the budget: this and the program's own boot
SERVERS = {"sync": 1, "gthread": 4}  # the kind, and how many requests serve at once


@dataclass(frozen=True, slots=True)
class Run:
    requests: list[Request]
    poisoned: float  # monotonic
    poisoned_wall: float
    story: list[dict[str, Any]]


def measure() -> Report:
    report = Report("hang")
    for kind, serving in SERVERS.items():
        options = ["--threads", str(serving)] if serving > 1 else []
        boot_s = _boot_s(options)
        report.add(f"gunicorn {kind}", "boot, alone", boot_s, "s")
        for who, run in _RUNS.items():
            done = run(options, serving)
            _judge(report, f"{who}, {kind}", done, GAP_OVER_BOOT_S + boot_s if who == "reviver" else None)
    return report


def _judge(report: Report, who: str, run: Run, most_s: float | None) -> None:
    found_s = _found_s(run)
    if found_s is not None:
        report.add(who, "hang to suspicion", found_s, "s")
    until = run.poisoned + HURT_S
    gap_s = longest_gap_s(run.requests, run.poisoned, until)
    report.add(who, "longest gap between answers", gap_s, "s", most_s, "never served again" if gap_s >= HURT_S - 1 else "")
    report.add(who, "refused", failed_count(run.requests, Outcome.REFUSED), "", None if most_s is None else 0)
    report.add(who, "failed", failed_count(run.requests), "", remark=failures(run.requests))


def _found_s(run: Run) -> float | None:
    """From the first poisoned request to the line that says suspect, by the wall clock that both carry."""
    for entry in run.story:
        if entry.get("event") == "instance.suspected":
            return datetime.fromisoformat(str(entry["time"])).timestamp() - run.poisoned_wall
    return None


def _boot_s(options: list[str]) -> float:
    """How long the server needs until it answers, started alone."""
    with folder() as where:
        port = free_port()
        with Service(store_command(port, *options), where / "log", {"DEMO_DATA": str(where)}, where):
            return await_answer(port, "/health")


def _drive(port: int, serving: int, story: Callable[[], list[dict[str, Any]]]) -> Run:
    """The load, and the poison in its midst."""

    async def both() -> tuple[list[Request], float, float]:
        customers = asyncio.create_task(load(port, PATH, RATE, CALM_S + HURT_S))
        await asyncio.sleep(CALM_S)
        poisoned, poisoned_wall = time.monotonic(), time.time()
        poison = [asyncio.create_task(ask(port, POISON, HURT_S)) for _ in range(serving)]
        requests = await customers
        for task in poison:
            task.cancel()
        return requests, poisoned, poisoned_wall

    requests, poisoned, poisoned_wall = asyncio.run(both())
    return Run(requests, poisoned, poisoned_wall, story())


def _reviver(options: list[str], serving: int) -> Run:
    with folder() as where:
        port = free_port()
        with Reviver(where, held_store(port, *options), {"DEMO_DATA": str(where)}) as reviver:
            reviver.await_ready()
            await_answer(port, "/health")
            return _drive(port, serving, reviver.story)


def _gunicorn(options: list[str], serving: int) -> Run:
    with folder() as where:
        port = free_port()
        with Service(store_command(port, "--timeout", "2", *options), where / "log", {"DEMO_DATA": str(where)}, where):
            await_answer(port, "/health")
            return _drive(port, serving, list)


def _supervisord(options: list[str], serving: int) -> Run:
    with folder() as where:
        port = free_port()
        programs = (
            f"[program:store]\ncommand={' '.join(store_command(port, '--timeout', '0', *options))}\n"
            f"autorestart=true\nstopsignal=KILL\nstopasgroup=true\nkillasgroup=true\n"
            f"[eventlistener:httpok]\ncommand={environment() / 'httpok'} -p store -t 1 http://127.0.0.1:{port}/health\nevents=TICK_5\n"
        )
        with Supervisord(where, programs, {"DEMO_DATA": str(where)}) as supervisord:
            supervisord.await_running()
            await_answer(port, "/health")
            return _drive(port, serving, list)


_RUNS: dict[str, Callable[[list[str], int], Run]] = {
    "reviver": _reviver,
    "gunicorn --timeout 2": _gunicorn,
    "supervisord + httpok": _supervisord,
}
