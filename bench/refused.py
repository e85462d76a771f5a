"""Who is refused while instances come and go: a crash with a boot of 1 s, a rolling restart, a deploy and a rollback, under load.

gunicorn on a held socket, all at the defaults; 50 new customers a second for 10 s around each. A crash is SIGKILL to the server's whole
tree. Beside supervisord, whose server binds its own port, in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.ground import BIN, GroundError, Reviver, await_answer, descendants, folder, free_port
from bench.load import Outcome, Request, failed_count, failures, load
from bench.peers import Supervisord, version
from bench.report import Report

RATE = 50.0  # new customers a second
LOAD_S = 10.0
CALM_S = 2.0  # of load before the trouble
BOOT_S = 1.0
INSTANCES = (1, 2)
VERB_LIMIT_S = 60.0
INSIDE = (Outcome.RESET,)  # what a crash may cost: connections that the dying process had accepted

SHOP = f"""
import time
time.sleep({BOOT_S})

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\\n"]
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A store under one supervisor. `crash` ends its whole tree."""

    port: int
    crash: Callable[[], None]
    reviver: Reviver | None = None


def measure() -> Report:
    report = Report("refused")
    for count in INSTANCES:
        with _ours(count) as shop:
            who = "reviver" if count == 1 else f"reviver, {count} instances"
            _crash(report, who, shop, most=0)
            for verb in (("restart", "store"), ("deploy", "new"), ("rollback", "store")):
                requests = _amid_load(shop, partial(_ask, shop, *verb))
                report.add(who, f"{verb[0]}: failed", failed_count(requests), "", 0, failures(requests))
    with _theirs() as shop:
        _crash(report, f"supervisord {version()}", shop, most=None)
    return report


def _crash(report: Report, who: str, shop: Shop, most: int | None) -> None:
    requests = _amid_load(shop, shop.crash)
    inside = failed_count(requests, *INSIDE)
    report.add(who, "crash: failed, but inside the dying process", failed_count(requests) - inside, "", most, failures(requests))
    report.add(who, "crash: inside the dying process", inside, "")


def _amid_load(shop: Shop, trouble: Callable[[], None]) -> list[Request]:
    """The load's requests, with the trouble in its midst."""

    async def both() -> list[Request]:
        customers = asyncio.create_task(load(shop.port, "/", RATE, LOAD_S))
        await asyncio.sleep(CALM_S)
        await asyncio.to_thread(trouble)
        return await customers

    return asyncio.run(both())


def _ask(shop: Shop, *words: str) -> None:
    """One verb of the command line, to its end."""
    assert shop.reviver is not None
    command = [shop.reviver.command, *words]
    done = subprocess.run(command, env=shop.reviver.environ, capture_output=True, text=True, timeout=VERB_LIMIT_S, check=False)
    if done.returncode:
        raise GroundError(f"{' '.join(words)} gave {done.returncode}: {done.stderr.strip()}")


@contextmanager
def _ours(instances: int) -> Iterator[Shop]:
    with _releases() as where:
        port = free_port()
        command = [*_server(), "--timeout", "0"]
        program = (
            f'[program.store]\ncommand = {json.dumps(command)}\ndirectory = "{where}/current"\nsockets = ["127.0.0.1:{port}"]\n'
            f"instances = {instances}\n"
            f'[program.store.health]\nhttp = "/"\n'
        )
        with Reviver(where, program) as reviver:
            reviver.await_ready()
            yield Shop(port, partial(_end_tree, lambda: int(reviver.instances()[0]["pid"])), reviver)


@contextmanager
def _theirs() -> Iterator[Shop]:
    with _releases() as where:
        port = free_port()
        command = " ".join([*_server(), "-b", f"127.0.0.1:{port}"])
        with Supervisord(
            where, f"[program:store]\ncommand={command}\ndirectory={where}/current\nautorestart=true\n"
        ) as supervisord:
            supervisord.await_running()
            await_answer(port, "/")
            yield Shop(port, partial(_end_tree, lambda: _child(supervisord.pid)))


@contextmanager
def _releases() -> Iterator[Path]:
    """A folder with two releases that are as good, and a symlink that names one."""
    with folder() as where:
        for name in ("old", "new"):
            (where / "releases" / name).mkdir(parents=True)
            (where / "releases" / name / "shop.py").write_text(SHOP)
        (where / "current").symlink_to("releases/old")
        yield where


def _server() -> list[str]:
    return [str(BIN / "gunicorn"), "shop:app", "--graceful-timeout", "120"]


def _child(pid: int) -> int:
    """The server that supervisord started: its first child."""
    return descendants(pid)[0]


def _end_tree(leader: Callable[[], int]) -> None:
    pid = leader()
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
