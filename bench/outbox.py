"""The supervisor is killed at random instants between an incident and its messages' delivery: what a webhook receives of them.

Six programs take turns. One is told to crash, which opens an incident and makes a message; when all has been calm it is over, which makes
another. In between the daemon is killed by SIGKILL under its guard, for half of the kills soon after the crash, for the other half about
when the end is told. A webhook counts: each message has an id, which stands in its `Idempotency-Key`. One case no sender can avoid: the
receiver has answered, and we die before that is written down. Such a message comes again, under the same key, and is counted apart.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.chaos import daemon_of
from bench.ground import BOOT_LIMIT_S, GroundError, Reviver, folder
from bench.report import Report

KILLS = 100
PROGRAMS = 6  # so that each has been calm for long when its turn comes again
HEALTHY_S = 1.0  # of calm, until an incident is over: the least that may be written
ANSWER_S = 0.01  # that the receiver takes to answer: a quick one on another host
SOON_S = 0.25  # after the crash: a message is decided, written and sent within that
LATE_S = (1.0, 1.6)  # after the crash: the end is told then, some boots of the supervisor later too
SEED = 3_05_2023
SETTLE_S = 30.0
STEP_S = 0.005

CRASHER = """
import os, sys, time
while True:
    try:
        os.unlink(sys.argv[1])
        sys.exit(3)
    except FileNotFoundError:
        time.sleep(0.002)
"""


class Counting(http.server.ThreadingHTTPServer):
    """Takes every message: when it was answered, its key, and of what it says (one or several) id, program and subject."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.got: list[tuple[float, str, list[tuple[str, str, str]]]] = []

    def count(self, program: str, key: str) -> int:
        """Different messages of this program about this, alone or among others."""
        with self.lock:
            return len({id for _, _, said in self.got for id, of, about in said if (of, about) == (program, key)})


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Counting

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(ANSWER_S)
        with self.server.lock:
            said = [(each["id"], each["program"], each["key"]) for each in body["parts"] or [body]]
            self.server.got.append((time.monotonic(), self.headers["Idempotency-Key"], said))
        with contextlib.suppress(OSError):  # the sender was killed meanwhile
            self.send_response(200)
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def counting() -> Iterator[Counting]:
    receiver = Counting()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


def measure(kills: int = KILLS) -> Report:
    report = Report("outbox")
    with folder() as where, counting() as receiver:
        names = [f"p{number}" for number in range(PROGRAMS)]
        programs = f'[[escalation]]\nnotify = ["webhook:http://127.0.0.1:{receiver.server_address[1]}/"]\n'
        programs += "".join(_program(name, where) for name in names)
        with Reviver(where, programs) as reviver:
            reviver.await_ready()
            crashes: Counter[str] = Counter()
            killed = [_round(reviver, receiver, where, names[turn % PROGRAMS], crashes) for turn in range(kills)]
            for name in names:
                _await(receiver, name, "over", crashes[name])
            time.sleep(1.0)  # for the last notes of deliveries
        _judge(report, receiver, where, crashes, killed)
    return report


def _program(name: str, where: Path) -> str:
    command = json.dumps([sys.executable, "-c", CRASHER, str(where / name)])
    restart = f'[program.{name}.restart]\nbudget = 1000\nwindow = "10s"\nlimit = "100ms"\nhealthy = "{HEALTHY_S:g}s"\n'
    return f"[program.{name}]\ncommand = {command}\n{restart}"


_DICE = random.Random(SEED)


def _round(reviver: Reviver, receiver: Counting, where: Path, name: str, crashes: Counter[str]) -> float:
    """One crash and one kill; when that was."""
    _await(receiver, name, "over", crashes[name])
    late = sum(crashes.values()) % 2
    (where / name).touch()
    crashes[name] += 1
    while (where / name).exists():
        time.sleep(STEP_S / 5)
    time.sleep(_DICE.uniform(*LATE_S) if late else _DICE.uniform(0.0, SOON_S))
    os.kill(daemon_of(reviver), signal.SIGKILL)
    return time.monotonic()


def _await(receiver: Counting, name: str, key: str, count: int) -> None:
    deadline = time.monotonic() + SETTLE_S + BOOT_LIMIT_S
    while receiver.count(name, key) < count:
        if time.monotonic() > deadline:
            raise GroundError(f"{name}: {receiver.count(name, key)} of {count} messages {key!r} came")
        time.sleep(STEP_S)


def _judge(report: Report, receiver: Counting, where: Path, crashes: Counter[str], killed: list[float]) -> None:
    report.add("supervisor", "killed", len(killed), "times")
    wanted = sum(crashes.values())
    for key, what in (("crash", "crashes"), ("over", "ends")):
        came = sum(receiver.count(name, key) for name in crashes)
        report.add("receiver", f"messages about {what}", came, "")
        report.add("receiver", f"of those missing or too many, of {wanted}", abs(wanted - came), "", 0)
    seen: dict[str, list[float]] = {}
    for at, key, _ in receiver.got:
        seen.setdefault(key, []).append(at)
    again = [times for times in seen.values() if len(times) > 1]
    died = [
        times for times in again if all(any(a <= kill + 0.1 <= b + 0.1 for kill in killed) for a, b in itertools.pairwise(times))
    ]
    report.add("receiver", "came again though nobody was killed between", len(again) - len(died), "", 0)
    remark = "the receiver had answered, and we died before that was written down: the same Idempotency-Key"
    report.add("receiver", "came again, killed between answer and note", len(died), "", None, remark)
    twice = Counter(id for _, said in {key: said for _, key, said in receiver.got}.items() for id, _, _ in said)
    report.add("receiver", "said in two messages of different keys", sum(count > 1 for count in twice.values()), "", 0)
    with contextlib.closing(sqlite3.connect(f"file:{where}/state/journal.db?mode=ro", uri=True)) as base:
        left = base.execute("SELECT count(*) FROM outbox WHERE state NOT IN ('delivered', 'grouped')").fetchone()[0]
    report.add("outbox", "not noted as delivered at the end", left, "", 0)
