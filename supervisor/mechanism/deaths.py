"""What the kernel says of a death: whether it killed for memory, and its own lines about the process.

Reads cgroup and /proc counters and the kernel's log; starts nothing. An OOM kill looks like any SIGKILL, so a counter is read before and
after. Blocks for a moment, for a lane.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOG_RECORDS_LIMIT = 20_000  # of the kernel's log that are looked at: its buffer holds some thousands
RECORD_BYTES = 8192  # the kernel refuses to give a record to a smaller buffer
LINES_LIMIT = 10


@dataclass(frozen=True, slots=True)
class OomCount:
    """How often the kernel has killed for memory, at one moment: in the process's cgroup, and on the host. None: not to be known.

    events  the cgroup's memory.events, which outlives the process
    """

    events: str
    in_cgroup: int | None
    on_host: int | None


def oom_count(pid: int) -> OomCount:
    """Read while the process lives, to be compared after its death."""
    events = _events(pid)
    return OomCount(events, _counter(events), _counter("/proc/vmstat"))


def oom_killed(before: OomCount) -> bool:
    """Whether the kernel killed for memory since then: in its cgroup where that is known, else on the host."""
    if before.in_cgroup is not None and (now := _counter(before.events)) is not None:
        return now > before.in_cgroup
    now = _counter("/proc/vmstat")
    return now is not None and before.on_host is not None and now > before.on_host


def kernel_lines(pids: set[int]) -> list[str]:
    """The kernel's own lines about these processes (segfaults, OOM kills), the newest last; [] without the right to read its log."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    found = []
    try:
        for _ in range(LOG_RECORDS_LIMIT):
            try:
                record = os.read(log, RECORD_BYTES).decode(errors="replace")
            except BrokenPipeError:  # overwritten before it was read: the next one is given then
                continue
            if line := about(record, pids):
                found.append(line)
    except OSError:  # BlockingIOError: its end
        pass
    finally:
        os.close(log)
    return found[-LINES_LIMIT:]


def about(record: str, pids: set[int]) -> str:
    """The text of a record of /dev/kmsg ("6,1,2,-;text") if it is about one of these processes, else ""."""
    text = record.partition(";")[2].partition("\n")[0]
    named = re.search(r"^[^\[\]]{1,40}\[(\d+)\]|\b[Kk]illed process (\d+)\b", text)
    return text if named is not None and int(named[1] or named[2]) in pids else ""


def _events(pid: int) -> str:
    """The memory.events of a process's cgroup (version 2); "" where there is none."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    return f"/sys/fs/cgroup{path.rstrip('/')}/memory.events" if path else ""


def _counter(path: str) -> int | None:
    """The `oom_kill` line of a file of counters."""
    try:
        lines = Path(path).read_text().splitlines() if path else []
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
