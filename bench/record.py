"""Records what is seen of servers in trouble: the corpus by which the diagnosis is judged (`python -m bench verdicts`).

`python -m bench record [--only WORD]` runs servers and faults on the real thing and writes bench/corpus/: those with the word in their
names ("sync-", "spin"), or all, which takes some 20 minutes. As many run side by side as there are processors for what they take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.faults import FAULTS, PAIRS, Fault
from bench.ground import STEP_S
from bench.report import Report

CORPUS = Path(__file__).parent / "corpus"
SIDE_BY_SIDE = 8
QUIET_CORES = 0.5  # beside those that take all processors: what mostly waits
LIMIT_S = 120.0  # of one recording


def measure(only: str = "") -> Report:
    chosen = [(server, FAULTS[fault]) for server, faults in PAIRS.items() for fault in faults if only in f"{server}-{fault}"]
    report = Report("record")
    CORPUS.mkdir(exist_ok=True)
    done, failed = _all(chosen)
    sizes = [path.stat().st_size for path in CORPUS.glob("*.recording")]
    report.add("corpus", "recorded now", done, "")
    report.add("corpus", "failed", len(failed), "", 0, "; ".join(failed)[:500])
    report.add("corpus", "recordings", len(sizes), "")
    report.add("corpus", "size", sum(sizes) / 1e6, "MB", 3.0)
    return report


def _all(waiting: list[tuple[str, Fault]]) -> tuple[int, list[str]]:
    """Run them, the greedy ones first; returns how many were made, and what failed, in words."""
    waiting = sorted(waiting, key=lambda job: job[1].cores)
    processors = (os.cpu_count() or 1) + QUIET_CORES
    running: dict[subprocess.Popen[str], tuple[str, Fault, float]] = {}
    made, failed = 0, []
    while waiting or running:
        for child, (server, fault, began) in tuple(running.items()):
            if child.poll() is None and time.monotonic() - began > LIMIT_S:
                child.kill()
            if child.poll() is None:
                continue
            del running[child]
            _, said = child.communicate()
            made += child.returncode == 0
            if child.returncode:
                failed.append(f"{server}-{fault.name}: {(said.strip().splitlines() or ['killed'])[-1]}")
        room = processors - sum(fault.cores for _, fault, _ in running.values())
        fits = next((n for n in reversed(range(len(waiting))) if waiting[n][1].cores <= room or not running), None)
        if fits is not None and len(running) < SIDE_BY_SIDE:
            server, fault = waiting.pop(fits)
            command = [sys.executable, "-m", "bench.recorder", server, fault.name, str(CORPUS)]
            child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            running[child] = (server, fault, time.monotonic())
        else:
            time.sleep(STEP_S)
    return made, failed
