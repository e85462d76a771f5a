"""Faults that must be found, let happen under `reviver run`: how soon each is proven, on gunicorn (sync, gthread), uvicorn and node.

Each program stands alone (`relief.extra = 0`), so that its limits count as they are written and nobody waits for a relief. `certain` is
3 s and `blocked` 6 s, so that many fit into some minutes; one fault of each kind is shown at the defaults as well. As many run side
by side as there are processors for what they take, with a greater share of those than others of this machine, as in the recordings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench import spins
from bench.faults import FAULTS, PAIRS, SERVERS, TROUBLE, Expected, Fault, Limit, Server, limit_of
from bench.ground import BOOT_LIMIT_S, STEP_S, GroundError, Reviver, descendants, folder, free_port
from bench.load import ask, load
from bench.peers import servers as environment
from bench.recorder import NICE
from bench.report import Report
from supervisor.mechanism.priority import set_share
from supervisor.model import HangSettings

LIVE = ("sync", "gthread", "uvicorn", "node")
SHORT = HangSettings(certain_s=3.0, blocked_s=6.0)
DEFAULTS = HangSettings()
AT_DEFAULTS = ("spin-arithmetic", "deadlock")
LATE_S = 3.0  # the budget over the limit: the look that proves it, and a customer who comes a little later
PATIENT = 3  # limits until it is given up: on a busy machine a loop is proven when it has had the processor for long enough
CALM_S = 2.0
RATE = 2.0
PATIENCE_S = 3.0
LOOK_S = 0.2  # between two looks at the story


@dataclass(frozen=True, slots=True)
class Job:
    server: Server
    fault: Fault
    hang: HangSettings

    @property
    def name(self) -> str:
        return f"{self.server.name}-{self.fault.name}" + ("" if self.hang == SHORT else "-at-defaults")

    @property
    def limit_s(self) -> float:
        blocked = limit_of(self.server, self.fault) is Limit.BLOCKED
        return (self.hang.blocked_s or 0.0) if blocked else self.hang.certain_s


def measure(only: str = "") -> Report:
    report = Report("find")
    for batch in _batches([job for job in _jobs() if only in job.name]):
        for job, (took_s, said) in zip(batch, _run(batch), strict=True):
            remark = said if took_s < job.limit_s + BOOT_LIMIT_S else f"never: {said}"
            report.add(job.name, "fault to proof", took_s, "s", job.limit_s + LATE_S, remark)
    return report


def _jobs() -> list[Job]:
    must = [(name, FAULTS[fault]) for name in LIVE for fault in PAIRS[name] if FAULTS[fault].expected is Expected.HUNG]
    short = [Job(SERVERS[name], fault, SHORT) for name, fault in must]
    default = [Job(SERVERS[name], fault, DEFAULTS) for name, fault in must if fault.name in AT_DEFAULTS]
    return short + [job for job in default if job.limit_s <= DEFAULTS.certain_s]


def _batches(jobs: Sequence[Job]) -> list[list[Job]]:
    """Those that leave the processors alone together, the others as many at once as there are processors."""
    quiet = [job for job in jobs if job.fault.cores < 1]
    loud = [job for job in jobs if job.fault.cores >= 1]
    step = os.cpu_count() or 1
    return [quiet[at : at + 4 * step] for at in range(0, len(quiet), 4 * step)] + [
        loud[at : at + step] for at in range(0, len(loud), step)
    ]


def _run(jobs: Sequence[Job]) -> list[tuple[float, str]]:
    """For each, how long after the fault it was proven, and what was said of it."""
    with _site() as where, socket.create_server(("127.0.0.1", 0)) as upstream:  # who is let in there waits for ever
        ports = [free_port() for _ in jobs]
        environ = {"PATH": f"{environment()}:{os.environ['PATH']}"}
        environ |= {"UPSTREAM": str(upstream.getsockname()[1]), "REFUSED": str(free_port())}
        with Reviver(where, "\n".join(map(_program, jobs, ports)), environ) as reviver:
            _await_ready(reviver, len(jobs))
            return asyncio.run(_live(reviver, jobs, ports))


async def _live(reviver: Reviver, jobs: Sequence[Job], ports: Sequence[int]) -> list[tuple[float, str]]:
    """The faults, all at once; returns when all are proven, or it is too late."""
    last_s = PATIENT * max(job.limit_s for job in jobs) + LATE_S
    tasks = [asyncio.create_task(load(port, "/", RATE, CALM_S + last_s, PATIENCE_S)) for port in ports]
    await asyncio.sleep(CALM_S)
    leaders = {str(each["id"]).partition(":")[0]: int(each["pid"]) for each in await asyncio.to_thread(reviver.instances)}
    for pid in (reviver.pid, *leaders.values()):
        set_share(pid, NICE)
    began = time.time()
    poison = []
    for job, port in zip(jobs, ports, strict=True):
        count = 1 if job.fault.lone else job.server.slots
        poison += [asyncio.create_task(ask(port, job.fault.path, last_s)) for _ in range(count if job.fault.path else 0)]
        if job.fault.name == "stopped":
            for pid in (leaders[job.name], *descendants(leaders[job.name])):
                os.kill(pid, signal.SIGSTOP)
    for _ in range(math.ceil(last_s / LOOK_S)):
        await asyncio.sleep(LOOK_S)
        if all(_found(reviver, job, began) for job in jobs):
            break
    for task in (*tasks, *poison):
        task.cancel()
    await asyncio.gather(*tasks, *poison, return_exceptions=True)
    return [_found(reviver, job, began) or (last_s + BOOT_LIMIT_S, _last(reviver, job)) for job in jobs]


def _found(reviver: Reviver, job: Job, began: float) -> tuple[float, str] | None:
    """When it was proven: the decision to kill, or, of one that was stopped, that it was let go on."""
    proof = "instance.continued" if job.fault.name == "stopped" else "instance.condemned"
    for entry in reviver.story():
        at = datetime.fromisoformat(str(entry["time"])).timestamp() if "time" in entry else 0.0
        if entry.get("event") == proof and entry.get("program") == job.name and at >= began:
            return at - began, str(entry.get("text", ""))
    return None


def _last(reviver: Reviver, job: Job) -> str:
    told = [entry for entry in reviver.story() if entry.get("program") == job.name]
    return json.dumps(told[-1])[:200] if told else "nothing was said"


def _program(job: Job, port: int) -> str:
    command = [word for word in job.server.command if word not in ("-b", "fd://{fd}")]
    hang = job.hang
    return (
        f'[program.{job.name}]\ncommand = {json.dumps(command)}\nsockets = ["127.0.0.1:{port}"]\n'
        f'[program.{job.name}.health]\nhttp = "/health"\n[program.{job.name}.relief]\nextra = 0\n'
        f'[program.{job.name}.hang]\ncertain = "{hang.certain_s:g}s"\nblocked = "{hang.blocked_s:g}s"\n'
    )


@contextmanager
def _site() -> Iterator[Path]:
    with folder() as where:
        for name in ("app.py", "app.js"):
            shutil.copy(TROUBLE / name, where)
        (where / "spins.py").write_text(spins.PYTHON)
        yield where


def _await_ready(reviver: Reviver, count: int) -> None:
    reviver.await_ready()
    deadline = time.monotonic() + BOOT_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(GroundError):
            if sum(program["state"] == "ready" for program in reviver.status()["programs"]) == count:
                return
        time.sleep(STEP_S * 10)
    raise GroundError(f"not all of {count} programs became ready: {reviver.log.read_text()[-500:]}")
