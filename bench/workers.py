"""One hung worker of four: it alone is replaced, and no other customer notices.

A request that never ends takes one worker of gunicorn's four, while new customers come at a steady rate until long after the worker's
limit (`hang.worker`, at its default). Beside it, in the same run: gunicorn's own `--timeout 2`, and the whole tree killed and started
again by supervisord, which is what a supervisor does that knows no workers.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable

from bench import apps
from bench.ground import (
    BOOT_LIMIT_S,
    STEP_S,
    STOP_LIMIT_S,
    GroundError,
    Reviver,
    Service,
    await_answer,
    descendants,
    free_port,
    surroundings,
)
from bench.idle import cpu_s
from bench.load import Outcome, ask, failed_count, failures, load
from bench.peers import Supervisord
from bench.report import Report

WORKERS = 4
RATE = 50.0  # new connections a second
CALM_S = 2.0  # of load before the hang, and then until it is known which worker spins
LIMIT_S = 30.0  # `hang.worker`
PEER_LIMIT_S = 2.0
AFTER_S = 18.0  # of load beyond the limit: 900 requests
PATH, POISON, HEALTH = "/product/mug", "/spin", "/health"


def measure() -> Report:
    report = Report("workers")
    server = apps.gunicorn(workers=WORKERS)
    with apps.site() as where:
        port = free_port()
        with Reviver(where, apps.program(server, port, 0.0)) as reviver:
            reviver.await_ready()
            _drive(report, "reviver", port, int(reviver.instances()[0]["pid"]), LIMIT_S, budget=True)
    port = free_port()
    command = [word.replace("PORT", str(port)) for word in server.bound]
    with apps.site() as where, Service([*command, "--timeout", f"{PEER_LIMIT_S:g}"], where / "log", {}, where) as gunicorn:
        await_answer(port, HEALTH)
        _drive(report, f"gunicorn --timeout {PEER_LIMIT_S:g}", port, gunicorn.pid, PEER_LIMIT_S)
    with apps.site() as where:
        program = f"[program:store]\ncommand={' '.join(command)}\ndirectory={where}\nstopsignal=KILL\nstopasgroup=true\nkillasgroup=true\n"
        with Supervisord(where, program) as supervisord:
            supervisord.await_running()
            await_answer(port, HEALTH)
            (master,) = set(descendants(supervisord.pid)) - {
                worker for pid in descendants(supervisord.pid) for worker in descendants(pid)
            }
            restart = [*supervisord.status_command[:-1], "restart", "store"]
            _drive(report, "whole tree killed", port, master, PEER_LIMIT_S, lambda: _run(restart))
    return report


def _drive(
    report: Report,
    who: str,
    port: int,
    master: int,
    limit_s: float,
    heal: Callable[[], None] | None = None,
    *,
    budget: bool = False,
) -> None:
    """One hang under load; `heal` is called after `limit_s`, where nobody heals by himself."""
    before = _workers(master)

    async def story() -> None:
        customers = asyncio.create_task(load(port, PATH, RATE, 2 * CALM_S + limit_s + AFTER_S))
        await asyncio.sleep(CALM_S)
        poisoned = asyncio.create_task(ask(port, POISON, CALM_S + limit_s + AFTER_S))
        used = {pid: cpu_s(pid) for pid in before}
        await asyncio.sleep(CALM_S)
        hung = max(before, key=lambda pid: cpu_s(pid) - used[pid])
        if heal is not None:
            await asyncio.to_thread(heal)
        requests = await customers
        (the_hung_ones,) = await asyncio.gather(poisoned)
        lost = before - set(descendants(master))
        report.add(who, "failed", failed_count(requests), "", 0 if budget else None, failures(requests))
        report.add(who, "of them refused", failed_count(requests, Outcome.REFUSED), "", 0 if budget else None)
        report.add(who, "siblings replaced", len(lost - {hung}), "", 0 if budget else None, f"of {WORKERS - 1}")
        healed = f"its customer waited {the_hung_ones.ended - the_hung_ones.began:.0f} s, and got: {the_hung_ones.outcome}"
        report.add(who, "hung workers left", len({hung} - lost), "", 0 if budget else None, healed)

    asyncio.run(story())


def _workers(master: int) -> set[int]:
    """The pids of all its workers, once all are there. Raises GroundError after a while."""
    deadline = time.monotonic() + BOOT_LIMIT_S
    while len(pids := descendants(master)) != WORKERS:
        if time.monotonic() > deadline:
            raise GroundError(f"gunicorn has {len(pids)} workers, not {WORKERS}")
        time.sleep(STEP_S)
    return set(pids)


def _run(command: list[str]) -> None:
    subprocess.run(command, env=surroundings({}), capture_output=True, timeout=STOP_LIMIT_S, check=False)
