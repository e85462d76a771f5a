"""The cause of a hang: whether function, line and request are named rightly, how soon, and whether the looking ever does harm.

Endless loops of many kinds in flask, django (gunicorn), starlette, fastapi (uvicorn) and node are looked at as the daemon does, and what
is named is compared with the source. The same hang is then given to `reviver run`, from the suspicion to the line that names the cause.
Last, py-spy is killed 200 times while it looks at a process, which must never be left stopped. node is looked at as it is right before a
kill, because only then it is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench import spins
from bench.ground import BOOT_LIMIT_S, STEP_S, GroundError, Reviver, Service, await_answer, descendants, folder, free_port
from bench.peers import made
from bench.report import Report, spread
from supervisor.mechanism import dumping, evidence
from supervisor.mechanism.dump_kernel import exe_name
from supervisor.mechanism.dump_python import Python
from supervisor.model import InstanceId

PACKAGES = ("flask", "django", "starlette", "fastapi", "gunicorn", "uvicorn")
QUERY = "coupon=LOOP&card=4111"
SHOWN_QUERY = "coupon=<redacted>&card=<redacted>"
WRONG_PERCENT, WRONG_REQUEST_PERCENT, NAMED_S = 5.0, 10.0, 3.0  # the budgets
KILLS = 200
KILL_WITHIN_S = 0.03  # of py-spy's start: a dump takes 10 to 30 ms
SEED = 2023


@dataclass(frozen=True, slots=True)
class Kind:
    """One framework: its program's source and name, and the server's command with PORT in it."""

    name: str
    file: str
    source: str
    command: tuple[str, ...]
    held: tuple[str, ...] = ()  # the same on a socket that Reviver holds; () where its cause is named only before a kill


GUNICORN = ("gunicorn", "web:app", "--timeout", "0", "--graceful-timeout", "120")
UVICORN = ("uvicorn", "web:app", "--log-level", "warning")
BOUND = ("-b", "127.0.0.1:PORT")
KINDS = (
    Kind("flask", "web.py", spins.FLASK, (*GUNICORN, *BOUND), GUNICORN),
    Kind("django", "web.py", spins.DJANGO, (*GUNICORN, *BOUND), GUNICORN),
    Kind("starlette", "web.py", spins.STARLETTE, (*UVICORN, "--port", "PORT"), (*UVICORN, "--fd", "{fd}")),
    Kind("fastapi", "web.py", spins.FASTAPI, (*UVICORN, "--port", "PORT"), (*UVICORN, "--fd", "{fd}")),
    Kind("node", "server.js", spins.NODE, ("node", "server.js")),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One spin: what was named rightly, in how long, and what was said."""

    place: bool
    request: bool
    took_s: float
    said: str


def measure() -> Report:
    report = Report("cause")
    home = made("frameworks", PACKAGES)
    everything: list[Judged] = []
    for kind in KINDS:
        truths = spins.node_truths() if kind.name == "node" else spins.python_truths()
        judged = [_judge(home, kind, name, truth, ["GET", "POST"][at % 2]) for at, (name, truth) in enumerate(truths.items())]
        _add(report, kind.name, judged, budget=False)
        everything += judged
    _add(report, "all", everything, budget=True)
    named = [_named_s(home, kind) for kind in KINDS if kind.held]
    report.add("reviver", "suspicion to named cause, longest", max(named), "s", NAMED_S, f"of {len(named)}")
    left, killed = _kill_dumpers()
    report.add("py-spy killed", "target left stopped", left, "", 0, f"of {killed} kills")
    return report


def _add(report: Report, who: str, judged: list[Judged], *, budget: bool) -> None:
    wrong = [each.said for each in judged if not each.place]
    blind = [each.said for each in judged if not each.request]
    told = "; ".join(wrong[:3])
    report.add(who, "function or line wrong", _percent(wrong, judged), "%", WRONG_PERCENT if budget else None, told)
    told = "; ".join(blind[:3]) if not budget else f"of {len(judged)}"
    report.add(who, "method or path wrong", _percent(blind, judged), "%", WRONG_REQUEST_PERCENT if budget else None, told)
    times = [each.took_s for each in judged]
    report.add(who, "look to cause, longest", max(times), "s", NAMED_S if budget else None, spread(times, "s"))


def _percent(some: list[str], judged: list[Judged]) -> float:
    return 100 * len(some) / len(judged)


def _judge(home: Path, kind: Kind, name: str, truth: spins.Truth, method: str) -> Judged:
    """Let one server meet one spin, look at it, and compare."""
    with _site(kind) as where:
        port = free_port()
        command = [str(port) if word == "PORT" else word.replace("PORT", str(port)) for word in kind.command]
        log = where / "server.log"
        with Service([_found(home, command[0]), *command[1:]], log, {"PORT": str(port)}, where) as server:
            await_answer(port, "/health")
            with _asked(port, f"/spin/{name}?{QUERY}", method):
                _await_line(log, f"spins {name}")
                began = time.monotonic()
                subject = evidence.Subject(InstanceId("bench", 1), server.pid, tuple(command), (str(where),), "", lambda: b"")
                takers = evidence.LAST_TAKERS if kind.name == "node" else evidence.TAKERS
                taken = evidence.take(subject, str(where / "state"), takers)
                took_s = time.monotonic() - began
            for pid in descendants(server.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.process.kill()
    found = taken.cause
    place = found is not None and found.function in truth.functions and bool(found.lines) and set(found.lines) <= set(truth.lines)
    request = found is not None and found.request == f"{method} /spin/{name}?{SHOWN_QUERY}"
    return Judged(place, request, took_s, f"{name}: {taken.summary}")


def _named_s(home: Path, kind: Kind) -> float:
    """From the line that suspects to the line that names the cause, under `reviver run`."""
    with _site(kind) as where:
        port = free_port()
        command = json.dumps([_found(home, kind.held[0]), *kind.held[1:]])
        config = (
            f'[program.web]\ncommand = {command}\nsockets = ["127.0.0.1:{port}"]\n'
            f'[program.web.health]\nhttp = "/health"\n'
        )  # its directory is the configuration's own
        with Reviver(where, config) as reviver:
            reviver.await_ready()
            with _asked(port, f"/spin/arithmetic?{QUERY}", "GET"):
                deadline = time.monotonic() + BOOT_LIMIT_S
                while time.monotonic() < deadline:
                    at = {str(entry.get("event")): entry for entry in reviver.story()}
                    named = at.get("evidence.taken")
                    if named is not None:
                        if "arithmetic()" not in str(named["text"]):
                            raise GroundError(f"{kind.name}: reviver named {named['text']}")
                        return _instant(named["time"]) - _instant(at["instance.suspected"]["time"])
                    time.sleep(STEP_S)
    raise GroundError(f"{kind.name}: reviver named no cause within {BOOT_LIMIT_S:g} s")


def _instant(wall: object) -> float:
    return datetime.fromisoformat(str(wall)).timestamp()


def _kill_dumpers() -> tuple[int, int]:
    """How often a process was left stopped, of how many kills of py-spy at random moments of its look."""
    chance = random.Random(SEED)
    left = killed = 0
    code = "def total():\n    while True: pass\ntotal()\n"
    with folder() as where:
        (where / "spin.py").write_text(code)
        with Service([sys.executable, "spin.py"], where / "log", {}, where) as target:
            while killed < KILLS:
                done = threading.Event()
                killer = _Killer(chance.uniform(0, KILL_WITHIN_S), done)
                killer.start()
                with contextlib.suppress(dumping.DumpError):
                    next(Python().snapshots(target.pid, time.monotonic() + 2))
                done.set()
                killer.join()
                killed += killer.killed
                left += dumping.states(target.pid).get(target.pid, "gone") not in "RS"
            target.process.kill()
    return left, killed


class _Killer(threading.Thread):
    """Kills the first py-spy beneath this process, some time after it is seen."""

    def __init__(self, after_s: float, done: threading.Event) -> None:
        super().__init__(daemon=True)
        self._after_s, self._done = after_s, done
        self.killed = 0

    def run(self) -> None:
        while not self._done.is_set():
            for pid in descendants(os.getpid()):
                if exe_name(pid) == "py-spy":
                    time.sleep(self._after_s)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.killed = 1
                    return


@contextlib.contextmanager
def _site(kind: Kind) -> Iterator[Path]:
    """A folder with the program in it."""
    with folder() as where:
        (where / "shop").mkdir()
        (where / "shop/__init__.py").touch()
        (where / "shop/spins.py").write_text(spins.PYTHON)
        (where / kind.file).write_text(kind.source)
        yield where


@contextlib.contextmanager
def _asked(port: int, path: str, method: str) -> Iterator[None]:
    """A customer who asks, and waits."""
    with socket.create_connection(("127.0.0.1", port), BOOT_LIMIT_S) as customer:
        customer.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())
        yield


def _await_line(log: Path, line: str) -> None:
    deadline = time.monotonic() + BOOT_LIMIT_S
    while line not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise GroundError(f"{line!r} did not come within {BOOT_LIMIT_S:g} s: {log.read_text(errors='replace')[-500:]}")
        time.sleep(STEP_S)


def _found(home: Path, command: str) -> str:
    return str(home / command) if (home / command).exists() else command
