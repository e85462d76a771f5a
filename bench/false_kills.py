"""Healthy servers in trouble, which nobody may kill: long reports, a slow boot, a starved host, too many customers.

Each case runs under Reviver at its defaults. A kill is a SIGKILL or SIGABRT that Reviver sent by its own decision, as its story
tells it; a report that was not answered counts as one as well.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.ground import Reviver, await_answer, folder, free_port, held_store
from bench.load import Request, ask, failed_count, failures, load
from bench.report import Report
from bench.workload import CAPACITY

REPORT = "/checkout?coupon=SLOW"
REPORT_LIMIT_S = 60.0
BOOT_S = 20.0
BUSY_LOOPS = 6
BUSY_S = 20.0
OVERLOAD = 1.1  # of the capacity
OVERLOAD_S = 25.0
RATE = 10.0  # customers a second beside the trouble


def measure() -> Report:
    report = Report("false-kills")
    for what, case in _CASES.items():
        began = time.monotonic()
        kills, remark = case()
        report.add("reviver", what, kills, "kills", most=0, remark=f"{remark}; {time.monotonic() - began:.0f} s")
    return report


@contextmanager
def _store(*options: str, app: str = "supervisor.demo.store:app", boot_s: float = 0.0) -> Iterator[tuple[Reviver, int]]:
    with folder() as where:
        port = free_port()
        environ = {"DEMO_DATA": str(where), "DEMO_BOOT_S": str(boot_s), "PYTHONPATH": str(Path(__file__).parents[1])}
        with Reviver(where, held_store(port, *options, app=app), environ) as reviver:
            reviver.await_ready()
            await_answer(port, "/health")
            yield reviver, port


def _kills(reviver: Reviver) -> int:
    """Decisions to kill in the story so far; the end of the bench comes later and is none."""
    return sum(entry.get("event") == "instance.condemned" for entry in reviver.story())


def _instances(reviver: Reviver) -> str:
    """How far the numbers went, for a remark: relief is allowed, and costs nobody anything."""
    return "instances now: " + ", ".join(str(instance["id"]) for instance in reviver.instances())


def _one_report() -> tuple[int, str]:
    return _reports(1)


def _two_reports() -> tuple[int, str]:
    return _reports(2, "--threads", "4")


def _reports(count: int, *options: str) -> tuple[int, str]:
    async def all_of(port: int) -> list[Request]:
        return list(await asyncio.gather(*(ask(port, REPORT, REPORT_LIMIT_S) for _ in range(count))))

    with _store(*options) as (reviver, port):
        answers = asyncio.run(all_of(port))
        time.sleep(2.0)  # so that a late decision is still seen
        lost = failed_count(answers)
        slowest_s = max(answer.ended - answer.began for answer in answers)
        return _kills(
            reviver
        ) + lost, f"{count - lost} of {count} answered, the last after {slowest_s:.1f} s; {_instances(reviver)}"


def _slow_boot() -> tuple[int, str]:
    with _store(boot_s=BOOT_S) as (reviver, _):
        return _kills(reviver) + reviver.status()["programs"][0]["restarts"], _instances(reviver)


def _starved_host() -> tuple[int, str]:
    with _store() as (reviver, port), ExitStack() as stack:
        for _ in range(BUSY_LOOPS):
            loop = subprocess.Popen([sys.executable, "-S", "-E", "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        requests = asyncio.run(load(port, "/", RATE, BUSY_S))
        return _kills(reviver), f"failed {failed_count(requests)} {failures(requests)}; {_instances(reviver)}"


def _overload() -> tuple[int, str]:
    with _store(app="bench.workload:app") as (reviver, port):
        requests = asyncio.run(load(port, "/", OVERLOAD * CAPACITY, OVERLOAD_S))
        late = sum(r.ended - r.began > 1.0 for r in requests)
        return _kills(
            reviver
        ), f"failed {failed_count(requests)} {failures(requests)}; {late} waited over 1 s; {_instances(reviver)}"


_CASES: dict[str, Callable[[], tuple[int, str]]] = {
    "an 8 s report on one sync worker": _one_report,
    "two 8 s reports on a threaded server": _two_reports,
    f"a boot of {BOOT_S:.0f} s": _slow_boot,
    f"{BUSY_LOOPS} busy loops on {os.cpu_count()} processors": _starved_host,
    f"{OVERLOAD * 100:.0f} % load": _overload,
}
