"""The end of a whole tree: who survives, and how long it takes, by control group and by walking.

Three kinds that are built to get away: ten daemons that fork twice, open sessions of their own and wipe their environment; one that is
another process each millisecond; a bomb of 150. Each is ended by what the daemon uses, once with its group and once as on a host without;
the kernel's own count of the group's members says who is left. Walking has no budget: it cannot know whose those are that kept nothing of
what they were given, and leaves them alone. Where the controllers are ours too, a bomb without end is held by its limit of processes, and
ended.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from bench.escapers import WIPED, bomb, hopper
from bench.ground import GroundError
from bench.report import Report, spread
from supervisor.mechanism import cgroups, tree
from supervisor.mechanism.cgroups import Groups
from supervisor.mechanism.launch import Child, launch, open_gate
from supervisor.model import Build, InstanceId, LaunchSettings, Limits, OutputTo, Spawn

ROUNDS = 10
END_S = 2.0  # as the daemon has for it
READY_S = 20.0
BOMB_SIZE = 150
LASTS_S = 30  # of what nobody ends
ID = InstanceId("tree", 1)

# A bomb without an end; each of it lives for 30 s at most.
ENDLESS = """
import os, signal
print("ready", flush=True)
signal.alarm(30)
while True:
    try:
        if os.fork() == 0:
            signal.alarm(30)
    except OSError:
        pass
"""
TREES = {"10 daemons": WIPED, "re-forker": hopper(LASTS_S), f"fork bomb of {BOMB_SIZE}": bomb(BOMB_SIZE, LASTS_S)}


def measure() -> Report:
    report = Report("tree")
    with tempfile.TemporaryDirectory() as where:
        groups = Groups(where, os.environ, lambda sentence: None)
        if not groups.path(ID.program, 1, 1):
            raise GroundError(f"it cannot be counted who survives: {groups.lacking}")
        try:
            for name, code in TREES.items():
                _compare(report, groups, name, functools.partial(_started, groups, code, Limits()))
            if "pids" in groups.controllers:
                endless = functools.partial(_started, groups, ENDLESS, Limits(processes=BOMB_SIZE), full=True)
                _compare(report, groups, "bomb without end", endless)
            else:
                report.skip("bomb without end", groups.lacking)
        finally:
            groups.close()
    return report


def _compare(report: Report, groups: Groups, name: str, start: Callable[[], Child]) -> None:
    """End it both ways in turns, so that the machine's noise falls on them alike."""
    for way, grouped in (("cgroup.kill", True), ("walk", False)):
        took_ms, left = [], []
        for _ in range(ROUNDS):
            child = start()
            group = groups.path(ID.program, child.pid, child.start_ticks)
            whole = tree.Tree(child.pid, child.start_ticks, tree.marks(ID, child.pid), group if grouped else "")
            began = time.perf_counter()
            tree.end(whole, tree.orphans, END_S)
            took_ms.append((time.perf_counter() - began) * 1000)
            left.append(len(cgroups.members(group)))
            _bury(child, group)
        report.add(name, f"survivors, {way}", max(left), "", most=0 if grouped else None)
        report.add(name, f"time, {way}", statistics.median(took_ms), "ms", remark=spread(took_ms, "ms"))


def _started(groups: Groups, code: str, limits: Limits, *, full: bool = False) -> Child:
    """One that is ready. full: and has as many processes as it may."""
    settings = LaunchSettings(command=(sys.executable, "-I", "-S", "-c", code), limits=limits)
    child = launch(Spawn(ID, Build(1, "", settings, "/")), (), os.environ, "", OutputTo.FILE, groups)
    open_gate(child.gate, str(ID))
    os.set_blocking(child.output, True)
    os.read(child.output, 100)
    group = groups.path(ID.program, child.pid, child.start_ticks)
    deadline = time.monotonic() + READY_S
    while full and len(cgroups.members(group)) < BOMB_SIZE:
        if time.monotonic() > deadline:
            raise GroundError(f"the bomb did not reach {BOMB_SIZE} processes in {READY_S:g} s")
    return child


def _bury(child: Child, group: str) -> None:
    """Nothing of it is left for the next round, whoever survived."""
    cgroups.end(group)
    os.close(child.pidfd)
    os.close(child.output)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
