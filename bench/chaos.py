"""The supervisor is killed again and again under load, at any instant: what its programs and their customers notice of that.

SIGKILL to the daemon under its guard at random instants, so also while it starts, adopts, rotates, restarts and relieves, while 100 new
customers come each second. Beside the store run a talker, whose numbered lines fill and rotate a log; a mortal, which ends again and
again with an exit code of its own; and a looper on a held socket, which hangs whenever somebody asks it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import BOOT_LIMIT_S, GroundError, Reviver, await_answer, children, descendants, folder, free_port, held_store
from bench.load import Outcome, Request, ask, failed_count, failures, load
from bench.report import Report

KILLS = 200
RATE = 100.0  # new connections a second
CALM_S = 2.0  # before the first kill and after the last one
PAUSE_S = (0.05, 1.2)  # from one kill to the next: a start takes some 0.4 s, so a third of the kills meets one
POISON_EVERY = 20  # kills between two hangs of the looper
SEED = 3_05_2023
STEP_S = 0.002  # between two looks for the next daemon
SETTLE_S = 40.0  # for the pipes to be empty and the last exit to be told

TALKER = """
import os, time
number = 0
while True:
    os.write(1, b"".join(b"line %010d %s\\n" % (number + n, b"x" * 84) for n in range(20)))
    number += 20
    with open("talked", "w") as said:
        said.write(str(number))
    time.sleep(0.01)
"""
MORTAL = """
import os, random, time
time.sleep(random.uniform(0.3, 1.0))
code = random.randrange(1, 120)
with open("codes", "a") as codes:
    codes.write(f"{code}\\n")
os._exit(code)
"""


@dataclass(slots=True)
class Torment:
    """What was done to it."""

    kills: int = 0
    silent_s: list[float] = field(default_factory=list)  # from a kill until another daemon lives


def measure(kills: int = KILLS) -> Report:
    report = Report("chaos")
    with folder() as where:
        port, other = free_port(), free_port()
        programs = (
            held_store(port, "--workers", "2")
            + held_store(other).replace("[program.store", "[program.looper")
            + _program("talker", TALKER, where)
            + '[program.talker.output]\nrotate = "1MiB"\nkeep = 1000\n'
            + _program("mortal", MORTAL, where)
            + '[program.mortal.restart]\nbudget = 1000\nwindow = "10s"\nlimit = "100ms"\n'
        )
        with Reviver(where, programs, {"DEMO_DATA": str(where)}) as reviver:
            reviver.await_ready()
            for each in (port, other):
                await_answer(each, "/health")
            store = _store(reviver)
            torment, requests, polite = _torment(reviver, kills, port, other)
            _judge(report, reviver, where, store, torment, requests, polite)
    return report


def _program(name: str, code: str, where: Path) -> str:
    return f"[program.{name}]\ncommand = {json.dumps([sys.executable, '-u', '-c', code])}\ndirectory = {json.dumps(str(where))}\n"


def _store(reviver: Reviver) -> tuple[str, int]:
    (instance,) = next(program for program in reviver.status()["programs"] if program["name"] == "store")["instances"]
    return str(instance["id"]), int(instance["pid"])


def _torment(reviver: Reviver, kills: int, port: int, other: int) -> tuple[Torment, list[Request], list[Request]]:
    """The kills amid the load; the requests of the store, and those of the looper that did not ask for its loop."""
    torment, dice, over = Torment(), random.Random(SEED), threading.Event()
    with ThreadPoolExecutor() as threads:
        customers = threads.submit(_customers, over, port, RATE)
        others = threads.submit(_customers, over, other, RATE / 10)
        try:
            time.sleep(CALM_S)
            while torment.kills < kills:
                if torment.kills % POISON_EVERY == POISON_EVERY - 1:
                    threads.submit(asyncio.run, ask(other, "/checkout?coupon=LOOP"))
                pid = daemon_of(reviver)
                os.kill(pid, signal.SIGKILL)
                torment.kills += 1
                died = time.monotonic()
                while daemon_of(reviver) == pid:
                    time.sleep(STEP_S)
                torment.silent_s.append(time.monotonic() - died)
                time.sleep(dice.uniform(*PAUSE_S))
            time.sleep(CALM_S)
        finally:
            over.set()
        return torment, customers.result(), others.result()


def _customers(over: threading.Event, port: int, rate: float) -> list[Request]:
    """Customers at a steady rate until it is over."""
    requests: list[Request] = []
    while not over.is_set():
        requests += asyncio.run(load(port, "/product/mug", rate, 5.0))
    return requests


def daemon_of(reviver: Reviver) -> int:
    """The daemon's pid: of the guard's children the one that runs the supervisor. While there is none, it is waited for."""
    deadline = time.monotonic() + BOOT_LIMIT_S
    while time.monotonic() < deadline:
        for pid in children(reviver.pid):
            with contextlib.suppress(OSError):
                if b"supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        time.sleep(STEP_S)
    raise GroundError(f"the guard has no daemon any more: {reviver.log.read_text()[-1500:]}")


def _judge(
    report: Report,
    reviver: Reviver,
    where: Path,
    store: tuple[str, int],
    torment: Torment,
    requests: list[Request],
    polite: list[Request],
) -> None:
    report.add("supervisor", "killed", torment.kills, "times")
    silent = sorted(torment.silent_s)
    report.add("supervisor", "from a kill to the next one's first instruction, median", silent[len(silent) // 2], "s")
    report.add("store", "requests", len(requests), "")
    report.add("store", "failed", failed_count(requests), "", 0, failures(requests))
    reviver.await_ready()
    report.add(
        "store", "another process", int(_store(reviver) != store), "", 0, f"{store[0]}, pid {store[1]}, is now {_store(reviver)}"
    )
    report.add("store", "second copies", _copies(reviver, "store", store), "", 0)
    report.add("looper", "refused, while it hung and was relieved", failed_count(polite, Outcome.REFUSED), "", 0)
    report.add("looper", "failed", failed_count(polite), "", None, failures(polite))
    lost, written = _lost_lines(where)
    report.add("talker", "lines written", written, "")
    report.add("talker", "lines lost, doubled or cut", lost, "", 0)
    unknown, exits = _unknown_exits(reviver, where)
    report.add("mortal", "exits", exits, "")
    report.add("mortal", "exits of unknown or wrong status, or not told", unknown, "", 0)


def _copies(reviver: Reviver, program: str, kept: tuple[str, int]) -> int:
    """Processes beneath the guard that call themselves leaders of this program's instances, but the one that should."""
    found = 0
    for pid in descendants(reviver.pid):
        if pid != kept[1]:
            with contextlib.suppress(OSError):
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                id = next((entry for entry in environ if entry.startswith(b"REVIVER_INSTANCE=")), b"").partition(b"=")[2].decode()
                found += id.startswith(f"{program}:") and f"REVIVER_PID={pid}".encode() in environ
    return found


def _lost_lines(where: Path) -> tuple[int, int]:
    """What is wrong with the talker's lines, from the oldest file to the newest, and how many there are."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        said = int((where / "talked").read_text() or 0)
        numbers, strange = _lines(where / "log")
        if len(numbers) >= said:
            break
        time.sleep(0.2)
    wrong = strange + sum(1 for place, number in enumerate(numbers) if number != place) + max(0, said - len(numbers))
    return wrong, len(numbers)


def _lines(logs: Path) -> tuple[list[int], int]:
    files = sorted(logs.glob("talker.log.*"), key=lambda path: -int(path.name.split(".")[2]))
    text = b"".join(_content(path) for path in (*files, logs / "talker.log"))
    lines = text.split(b"\n")[:-1]
    fit = [line for line in lines if len(line) == 100 and line.startswith(b"line ")]
    return [int(line[5:15]) for line in fit], len(lines) - len(fit)


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _unknown_exits(reviver: Reviver, where: Path) -> tuple[int, int]:
    """How many of the mortal's exits were not told with the code that it chose, in order, and how many there were."""
    deadline = time.monotonic() + SETTLE_S
    codes: list[str] = []
    told: list[str] = []
    while time.monotonic() < deadline:
        codes = (where / "codes").read_text().split()
        told = [
            str(entry["text"]).partition("exit code ")[2].partition(";")[0]
            for entry in reviver.story()
            if entry.get("event") == "instance.failed" and str(entry.get("subject", "")).startswith("mortal:")
        ]
        if told[: len(codes)] == codes:
            return 0, len(codes)
        time.sleep(0.2)
    return sum(1 for one, other in zip(told, codes, strict=False) if one != other) + abs(len(told) - len(codes)), len(codes)
