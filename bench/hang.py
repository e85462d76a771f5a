"""A hang under load, server by server: how soon customers are served again, who was refused, and that no report dies of it.

Each server meets as many endless requests as it serves at once, while new customers come at a steady rate; with a boot of 0.3 s and
of 2 s. Beside Reviver at its defaults, in the same run: Reviver without relief, which kills when certain, after 10 s; gunicorn's own
`--timeout 2`; and supervisord with superlance's httpok (its shortest tick, 5 s; KILL to the whole group as its stop, its quickest).
Then two reports of 8 s on two workers, which nobody may kill. `--only WORD` takes the rows alone that have this word in their name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench import apps
from bench.apps import THREADS, Server
from bench.ground import Reviver, Service, await_answer, free_port
from bench.load import Outcome, Request, ask, failed_count, failures, load, longest_gap_s
from bench.peers import Supervisord, environment
from bench.report import Report

RATE = 50.0  # new connections a second
CALM_S = 2.0  # of load before the hang
HURT_S = 8.0  # of load after it, where it is healed within some seconds
CERTAIN_S = 10.0  # `hang.certain`: without relief nothing happens before
BOOTS_S = (0.3, 2.0)
PATH, HEALTH = "/product/mug", "/health"
GAP_OVER_BOOT_S = 1.5  # the budget: this and the server's own boot
REPORT_LIMIT_S = 60.0
REPORTS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One server, and what makes it hang.

    server  None: it is not on this machine
    peers   the peers that run it as well, beside Reviver, by their names in `_PEERS`
    some    so many endless requests, not as many as it serves at once
    """

    name: str
    server: Callable[[], Server | None]
    poison: str = "/spin"
    peers: tuple[str, ...] = ()
    some: int | None = None


CERTAIN, TIMEOUT, HTTPOK = f"killed when certain, {CERTAIN_S:.0f} s", "gunicorn --timeout 2", "supervisord + httpok"
CASES = (
    Case("gunicorn sync", lambda: apps.gunicorn(), peers=(CERTAIN, TIMEOUT, HTTPOK)),
    Case("gunicorn sync, all of 4 workers", lambda: apps.gunicorn(workers=4), peers=(TIMEOUT,)),
    Case("gunicorn sync, 1 of 4 workers", lambda: apps.gunicorn(workers=4), peers=(TIMEOUT,), some=1),
    Case(f"gunicorn gthread, {THREADS} threads spin", lambda: apps.gunicorn(threads=THREADS), peers=(TIMEOUT,)),
    Case(f"gunicorn gthread, {THREADS} threads asleep", lambda: apps.gunicorn(threads=THREADS), "/sleep", (TIMEOUT,)),
    Case("uvicorn", apps.uvicorn),
    Case("hypercorn", apps.hypercorn),
    Case("node", apps.node),
    Case(f"waitress, {THREADS} threads spin", apps.waitress),
)


@dataclass(frozen=True, slots=True)
class Run:
    requests: list[Request]
    poisoned: float  # monotonic
    poisoned_wall: float
    hurt_s: float
    story: list[dict[str, Any]]


def measure(only: str = "") -> Report:
    report = Report("hang")
    for case in CASES:
        if only not in case.name:
            continue
        server = case.server()
        if server is None:
            report.skip(case.name, "it is not on this machine")
            continue
        for boot_s in BOOTS_S:
            alone_s = _alone_s(server, boot_s)
            name = f"{case.name}, boot {alone_s:.1f} s"
            _judge(report, f"{name}: reviver", _reviver(case, server, boot_s), GAP_OVER_BOOT_S + alone_s)
            for peer in case.peers:
                _judge(report, f"{name}: {peer}", _PEERS[peer](case, server, boot_s), None)
    if only in "reports":
        for who, reports in (("reviver", _reports), (TIMEOUT, _reports_of_gunicorn)):
            killed, remark = reports()
            report.add(
                f"{REPORTS} reports of 8 s on {REPORTS} workers: {who}",
                "killed",
                killed,
                "",
                0 if who == "reviver" else None,
                remark,
            )
    return report


def _judge(report: Report, who: str, run: Run, most_s: float | None) -> None:
    """most_s  the longest gap that Reviver may leave; None for a peer, of whom nothing is demanded."""
    gap_s = longest_gap_s(run.requests, run.poisoned, run.poisoned + run.hurt_s)
    words = ["never served again"] if gap_s >= run.hurt_s - 1 else []
    if (found_s := _found_s(run)) is not None:
        words.append(f"found after {found_s:.2f} s")
    words.append(f"failed {failed_count(run.requests)} {failures(run.requests)}")
    report.add(who, "longest gap between answers", gap_s, "s", most_s, "; ".join(words))
    if most_s is not None:
        report.add(who, "refused", failed_count(run.requests, Outcome.REFUSED), "", 0)


def _found_s(run: Run) -> float | None:
    """From the first poisoned request to the line that says suspect, by the wall clock that both carry."""
    for entry in run.story:
        if entry.get("event") == "instance.suspected":
            return datetime.fromisoformat(str(entry["time"])).timestamp() - run.poisoned_wall
    return None


def _alone_s(server: Server, boot_s: float) -> float:
    """How long the server needs until it answers, started alone."""
    with apps.site() as where, apps.alone(server, where, boot_s) as (_, port):
        return await_answer(port, HEALTH)


def _drive(case: Case, server: Server, port: int, hurt_s: float, story: Callable[[], list[dict[str, Any]]] = list) -> Run:
    """The load, and the poison in its midst."""

    async def both() -> tuple[list[Request], float, float]:
        customers = asyncio.create_task(load(port, PATH, RATE, CALM_S + hurt_s))
        await asyncio.sleep(CALM_S)
        poisoned, poisoned_wall = time.monotonic(), time.time()
        count = server.serving if case.some is None else case.some
        poison = [asyncio.create_task(ask(port, case.poison, hurt_s)) for _ in range(count)]
        requests = await customers
        for task in poison:
            task.cancel()
        return requests, poisoned, poisoned_wall

    requests, poisoned, poisoned_wall = asyncio.run(both())
    return Run(requests, poisoned, poisoned_wall, hurt_s, story())


@contextmanager
def _kept(server: Server, boot_s: float, more: str = "") -> Iterator[tuple[Reviver, int]]:
    """The server under Reviver, ready."""
    with apps.site() as where:
        port = free_port()
        with Reviver(where, apps.program(server, port, boot_s, more)) as reviver:
            reviver.await_ready()
            await_answer(port, HEALTH)
            yield reviver, port


def _reviver(case: Case, server: Server, boot_s: float) -> Run:
    with _kept(server, boot_s) as (reviver, port):
        return _drive(case, server, port, HURT_S, reviver.story)


def _certain(case: Case, server: Server, boot_s: float) -> Run:
    with _kept(server, boot_s, "[program.store.relief]\nextra = 0\n") as (reviver, port):
        return _drive(case, server, port, CERTAIN_S + boot_s + HURT_S / 2, reviver.story)


@contextmanager
def _healed_by_itself(server: Server, boot_s: float) -> Iterator[int]:
    """gunicorn with its own healer, at the seconds that people choose who want it quick."""
    with apps.site() as where:
        port = free_port()
        with Service([*_bound(server, port), "--timeout", "2"], where / "log", {"BOOT_S": str(boot_s)}, where):
            await_answer(port, HEALTH)
            yield port


def _gunicorn(case: Case, server: Server, boot_s: float) -> Run:
    with _healed_by_itself(server, boot_s) as port:
        return _drive(case, server, port, HURT_S)


def _supervisord(case: Case, server: Server, boot_s: float) -> Run:
    with apps.site() as where:
        port = free_port()
        programs = (
            f"[program:store]\ncommand={' '.join(_bound(server, port))} --timeout 0\ndirectory={where}\n"
            f"autorestart=true\nstopsignal=KILL\nstopasgroup=true\nkillasgroup=true\n"
            f"[eventlistener:httpok]\ncommand={environment() / 'httpok'} -p store -t 1 http://127.0.0.1:{port}{HEALTH}\nevents=TICK_5\n"
        )
        with Supervisord(where, programs, {"BOOT_S": str(boot_s)}) as supervisord:
            supervisord.await_running()
            await_answer(port, HEALTH)
            return _drive(case, server, port, CERTAIN_S + boot_s)


def _bound(server: Server, port: int) -> list[str]:
    return [word.replace("PORT", str(port)) for word in server.bound]


_PEERS: dict[str, Callable[[Case, Server, float], Run]] = {CERTAIN: _certain, TIMEOUT: _gunicorn, HTTPOK: _supervisord}


# --- reports that end -----------------------------------------------------------------------------------------------------------


def _reports() -> tuple[int, str]:
    with _kept(apps.gunicorn(workers=REPORTS), BOOTS_S[0]) as (reviver, port):
        lost, remark = _ask_reports(port)
        condemned = sum(entry.get("event") in ("instance.condemned", "worker.killed") for entry in reviver.story())
        return condemned + lost, remark


def _reports_of_gunicorn() -> tuple[int, str]:
    with _healed_by_itself(apps.gunicorn(workers=REPORTS), BOOTS_S[0]) as port:
        return _ask_reports(port)


def _ask_reports(port: int) -> tuple[int, str]:
    """How many reports were lost, with customers beside them until the last one is answered."""

    async def both() -> tuple[list[Request], list[Request]]:
        customers = asyncio.create_task(load(port, PATH, RATE, REPORT_LIMIT_S / 3))
        reports = await asyncio.gather(*(ask(port, "/report", REPORT_LIMIT_S) for _ in range(REPORTS)))
        return list(reports), await customers

    reports, customers = asyncio.run(both())
    lost, slowest_s = failed_count(reports), max(report.ended - report.began for report in reports)
    return (
        lost,
        f"{REPORTS - lost} of {REPORTS} answered, the last after {slowest_s:.1f} s; customers failed {failed_count(customers)}",
    )
