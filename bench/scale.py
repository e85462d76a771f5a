"""A thousand programs: started, kept and stopped, and what the daemon costs meanwhile.

Each program is a process that waits for a signal and is watched by nothing but its exit. Started is from the first instruction of
`reviver run` until the last of them runs, stopped from SIGTERM until the daemon has ended; the configuration is read, and every
program has a log, a record in the handover and a line in the story. Bare is the floor, in the same run: a loop that spawns shells which
wait for one line and become the same process, and knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

from bench.ground import STEP_S, GroundError, Reviver, children, folder
from bench.idle import cpu_s
from bench.report import Report, spread

COUNT = 1000
ROUNDS = 3
START_LIMIT_S = 120.0
SETTLE_S = 5.0
WINDOW_S = 10.0
START_MOST_S = 1.6
STOP_MOST_S = 0.35
PSS_MOST_MIB = 60.0
CPU_MOST_S = 24.0
PROGRAM = '[program.p{number}]\ncommand = ["/bin/sleep", "1000000"]\n[program.p{number}.output]\nto = "null"\n'


def measure() -> Report:
    report = Report("scale")
    starts, stops, bare_starts, bare_stops = [], [], [], []
    for number in range(ROUNDS):
        started_s, stopped_s = _bare()
        bare_starts.append(started_s)
        bare_stops.append(stopped_s)
        with folder() as where:
            (where / "kept").mkdir()
            began = time.monotonic()
            with Reviver(where, "".join(PROGRAM.format(number=number) for number in range(COUNT))) as reviver:
                daemon = _await_all(reviver)
                starts.append(time.monotonic() - began)
                if number == 0:
                    _cost(report, daemon)
                began = time.monotonic()
                reviver.process.send_signal(signal.SIGTERM)
                reviver.process.wait(START_LIMIT_S)
                stops.append(time.monotonic() - began)
    report.add("bare", f"{COUNT} shells become programs", statistics.median(bare_starts), "s", remark=spread(bare_starts, "s"))
    report.add("bare", f"{COUNT} programs ended and reaped", statistics.median(bare_stops), "s", remark=spread(bare_stops, "s"))
    report.add("reviver", f"{COUNT} programs started", statistics.median(starts), "s", START_MOST_S, spread(starts, "s"))
    report.add("reviver", f"{COUNT} programs stopped", statistics.median(stops), "s", STOP_MOST_S, spread(stops, "s"))
    return report


def _await_all(reviver: Reviver) -> int:
    """Wait until every program's process runs what it was told to; the daemon's pid."""
    deadline = time.monotonic() + START_LIMIT_S
    running: set[int] = set()
    while time.monotonic() < deadline:
        for daemon in children(reviver.pid):
            running |= {pid for pid in children(daemon) if pid not in running and _comm(pid) == "sleep"}
            if len(running) >= COUNT:
                return daemon
        time.sleep(STEP_S)
    raise GroundError(f"{len(running)} of {COUNT} run after {START_LIMIT_S:g} s: {reviver.log.read_text()[-500:]}")


def _bare() -> tuple[float, float]:
    """Seconds to start as many without a supervisor, and to end them."""
    began = time.monotonic()
    pids = [_spawn() for _ in range(COUNT)]
    waiting = set(pids)
    while waiting:
        waiting = {pid for pid in waiting if _comm(pid) != "sleep"}
    started = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        os.waitpid(pid, 0)
    return started - began, time.monotonic() - started


def _spawn() -> int:
    waits, gate = os.pipe2(os.O_CLOEXEC)
    words = ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh", "/bin/sleep", "1000000"]
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, waits, 0)], setsid=True)
    os.write(gate, b"\n")
    os.close(waits)
    os.close(gate)
    return pid


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _cost(report: Report, daemon: int) -> None:
    time.sleep(SETTLE_S)
    before, began = cpu_s(daemon), time.monotonic()
    time.sleep(WINDOW_S)
    hour_s = (cpu_s(daemon) - before) * 3600 / (time.monotonic() - began)
    report.add("reviver", "proportional memory of the daemon", _pss_mib(daemon), "MiB", PSS_MOST_MIB)
    report.add("reviver", "processor time an hour", hour_s, "s", CPU_MOST_S)


def _pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise GroundError(f"/proc/{pid}/smaps_rollup has no Pss")
