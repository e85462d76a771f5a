"""Bad releases under load: how soon the good one serves again, by itself, and who failed meanwhile.

gunicorn in a folder for each release, a symlink that names one, the preflight `python -m compileall`, all else at Reviver's defaults but
the time to become ready. At 50 new customers a second a release is deployed that loops on a request, does not compile, boots too slowly,
or crashes on its second request; and first a good one, which is rolled back by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.ground import BIN, STEP_S, GroundError, Reviver, folder, free_port, get
from bench.load import Outcome, Request, ask, failed_count, failures, load, longest_gap_s
from bench.report import Report

RATE = 50.0  # new customers a second
CALM_S = 2.0  # of load before the deploy
START_S = 5  # `health.start`: what boots more slowly than that never serves
SLOW_BOOT_S = 30
PATIENCE_S = 60.0  # of a customer: none gives up here, so that what fails is what was broken
PROOF_LIMIT_S = 150.0  # a hang is proven beside its relief after 30 s, later where the processors are busy with others' work
GOOD = "releases/old"
ENDS = frozenset({"build.lost", "build.refused", "release.switched"})

APP = """
import os, signal, time

served = 0

def app(environ, start_response):
    global served
    path = environ["PATH_INFO"]
    served += path != "/health"
    trouble(path)
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\\n"]
"""
CALM = "\ndef trouble(path): pass\n"
LOOPS = "\ndef trouble(path):\n    while path == '/checkout': pass\n"
CRASHES = "\ndef trouble(path):\n    if served == 2: [os.kill(pid, signal.SIGKILL) for pid in (os.getppid(), os.getpid())]\n"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    code: str  # of the release that is deployed
    lasts_s: float  # how long customers are watched after the deploy
    poison: str = ""  # what one customer asks for once it serves
    broken_most: int = 0  # requests that the release itself breaks


@dataclass(frozen=True, slots=True)
class Run:
    requests: list[Request]
    began: float  # of the trouble: the deploy, or the poisoned request
    began_wall: float
    ended: float  # of the load
    story: list[dict[str, Any]]  # since then
    deploy_s: float
    named: str  # by the link, in the end


CASES = (
    Case("boots, and loops on a request", APP + LOOPS, 20.0, poison="/checkout", broken_most=1),
    Case("does not compile", APP + "\ndef trouble(path:\n", 5.0),
    Case("boots too slowly", f"import time\ntime.sleep({SLOW_BOOT_S})\n" + APP + CALM, 12.0),
    Case("crashes on its second request", APP + CRASHES, 15.0, broken_most=8),
)


def measure() -> Report:
    report = Report("release")
    _good(report)
    for case in CASES:
        _judge(report, case)
    return report


def _good(report: Report) -> None:
    """A release that is as good: deployed, and rolled back by hand."""
    with _shop(APP + CALM) as (reviver, port, link):
        run = _run(reviver, port, link, Case("", "", 8.0), ("deploy", "new"), ("rollback",))
        report.add("a good one", "deployed and rolled back", run.deploy_s, "s", remark=f"failed {failures(run.requests)}")
        report.add("a good one", "failed", failed_count(run.requests), "", 0)
        _came_back("a good one", run)


def _judge(report: Report, case: Case) -> None:
    with _shop(case.code) as (reviver, port, link):
        run = _run(reviver, port, link, case, ("deploy", "new"))
        if get(port, "/health") != 200:
            raise GroundError(f"{case.name}: nothing answers in the end: {run.story[-5:]}")
    _came_back(case.name, run)
    ends = [entry for entry in run.story if entry.get("event") in ENDS]
    if not ends:
        raise GroundError(f"{case.name}: it was not given up: {run.story[-5:]}")
    report.add(case.name, "until it is given up, and its link back", _wall(ends[-1]) - run.began_wall, "s")
    gap_s = longest_gap_s(run.requests, run.began, run.ended)
    boots = [entry for entry in run.story if entry.get("event") == "instance.ready"]
    report.add(case.name, "longest gap between answers", gap_s, "s", remark=f"{len(boots)} boots")
    report.add(case.name, "refused", failed_count(run.requests, Outcome.REFUSED), "", 0)
    failed = failed_count(run.requests)
    report.add(case.name, "failed", failed, "", case.broken_most, f"failed {failures(run.requests)}")


def _came_back(name: str, run: Run) -> None:
    if run.named != GOOD:
        raise GroundError(f"{name}: the link names {run.named} in the end")


def _wall(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(entry["time"])).timestamp()


@contextmanager
def _shop(code: str) -> Iterator[tuple[Reviver, int, Path]]:
    """A good release that serves, and another one beside it."""
    with folder() as where:
        for name, text in (("old", APP + CALM), ("new", code)):
            (where / "releases" / name).mkdir(parents=True)
            (where / "releases" / name / "shop.py").write_text(text)
        link, port = where / "current", free_port()
        link.symlink_to(GOOD)
        command = [str(BIN / "gunicorn"), "shop:app", "--timeout", "0", "--graceful-timeout", "120"]
        preflight = [[sys.executable, "-m", "compileall", "-q", "."]]
        program = (
            f'[program.shop]\ncommand = {json.dumps(command)}\ndirectory = "{link}"\nsockets = ["127.0.0.1:{port}"]\n'
            f"preflight = {json.dumps(preflight)}\n"
            f'[program.shop.health]\nhttp = "/health"\nstart = "{START_S}s"\n'
        )
        with Reviver(where, program) as reviver:
            reviver.await_ready()
            yield reviver, port, link


def _run(reviver: Reviver, port: int, link: Path, case: Case, *verbs: tuple[str, ...]) -> Run:
    """The load with the trouble in its midst, and what the story says from there on until the good one is named again."""
    requests, began, ended, deploy_s = asyncio.run(_drive(reviver, port, case, verbs))
    while os.readlink(link) != GOOD and time.monotonic() < ended + PROOF_LIMIT_S:
        time.sleep(STEP_S)
    began_wall = time.time() - time.monotonic() + began
    story = [entry for entry in reviver.story() if _wall(entry) >= began_wall]
    return Run(requests, began, began_wall, ended, story, deploy_s, os.readlink(link))


async def _drive(
    reviver: Reviver, port: int, case: Case, verbs: tuple[tuple[str, ...], ...]
) -> tuple[list[Request], float, float, float]:
    """The requests, when the trouble began, when the load ended, and how long the verbs took."""
    customers = asyncio.create_task(load(port, "/", RATE, CALM_S + case.lasts_s, PATIENCE_S))
    await asyncio.sleep(CALM_S)
    began = time.monotonic()
    for verb in verbs:
        await _ask(reviver, *verb)
    deploy_s = time.monotonic() - began
    if not case.poison:
        return await customers, began, time.monotonic(), deploy_s
    began = time.monotonic()
    poison = asyncio.create_task(ask(port, case.poison, PATIENCE_S))
    requests, ended = await customers, time.monotonic()
    return [*requests, await poison], began, ended, deploy_s


async def _ask(reviver: Reviver, *words: str) -> None:
    """One verb of the command line, to its end. What it answers is judged by what customers notice."""
    verb = await asyncio.create_subprocess_exec(
        reviver.command, *words, env=reviver.environ, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await verb.wait()
