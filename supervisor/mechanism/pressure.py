"""How the host is doing: load, stalls (PSI), memory that is left, and whether the machine was asleep.

Reads /proc and /sys; nothing here waits for a process but `pss_bytes`, which is for a lane (smaps_rollup takes the lock of the
process's memory). What a kernel does not tell counts as untroubled.

Sources: Documentation/accounting/psi.rst, proc_meminfo(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from supervisor.policy.samples import Host

CGROUPS_LIMIT = 32  # a group and its parents
_CGROUPS = "/sys/fs/cgroup"


def host() -> Host:
    return Host(psutil.cpu_count() or 1, os.getloadavg()[0], _stall("memory"), _stall("io"))


def suspended_s() -> float:
    """For how long the machine has been asleep since its boot: CLOCK_MONOTONIC stands still then, CLOCK_BOOTTIME does not."""
    return -time.clock_gettime(time.CLOCK_MONOTONIC) + time.clock_gettime(time.CLOCK_BOOTTIME)


def available_bytes() -> int:
    """Memory that a new process can have without swapping: MemAvailable, or what our own groups leave of it."""
    return min([psutil.virtual_memory().available, *_group_rooms()])


def pss_bytes(pids: Iterable[int]) -> int | None:
    """What these processes use, shared pages counted in parts (Pss of smaps_rollup); None when that may not be read. Blocks."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it ended
            continue
        except OSError:
            return None
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    return total or None


def _stall(what: str) -> float:
    """The part of the last ten seconds in which all work of the host waited for `what`; 0 where the kernel does not tell."""
    try:
        lines = Path(f"/proc/pressure/{what}").read_text().splitlines()
    except OSError:
        return 0.0
    full = next((line for line in lines if line.startswith("full")), "")
    share = dict(word.split("=", 1) for word in full.split()[1:]).get("avg10", "0")
    return float(share) / 100


def _group_rooms() -> list[int]:
    """What each cgroup (version 2) above us may still take: its limit less what it uses and could not give back at once."""
    rooms = []
    with contextlib.suppress(OSError, StopIteration):
        path = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:].strip("/")
        parts = path.split("/") if path else []
        for depth in range(len(parts), 0, -1)[:CGROUPS_LIMIT]:
            room = _group_room(Path(_CGROUPS, *parts[:depth]))
            if room is not None:
                rooms.append(room)
    return rooms


def _group_room(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - int((folder / "memory.current").read_text()) + int(stat.get("inactive_file", "0"))
    except OSError:
        return None
