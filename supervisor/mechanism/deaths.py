"""What the kernel says of a death: whether it killed for memory, and its own lines about the process.

Reads counters of control groups and /proc, and the kernel's log; starts nothing. An OOM kill looks like any SIGKILL, so a counter is
read before and after. Blocks for a moment, for a lane.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.mechanism import cgroups

LOG_RECORDS_LIMIT = 20_000  # of the kernel's log that are looked at: its buffer holds some thousands
RECORD_BYTES = 8192  # the kernel refuses to give a record to a smaller buffer
LINES_LIMIT = 10


@dataclass(frozen=True, slots=True)
class OomCount:
    """How often the kernel has killed for memory, at one moment: in the process's group, and on the host. None: not to be known.

    group  the folder of its control group (version 2), which outlives the process for a while; "" for none
    met    how often the group's own limit was the reason
    """

    group: str
    in_group: int | None
    on_host: int | None
    met: int | None = None


def oom_counts(pids: Iterable[int]) -> list[OomCount]:
    """Read while these processes live, to be compared after their death."""
    on_host = _counters("/proc/vmstat").get("oom_kill")
    groups = [str(cgroups.where(pid) or "") for pid in pids]
    counts = [_in_group(group) for group in groups]
    return [OomCount(group, count.get("oom_kill"), on_host, count.get("oom")) for group, count in zip(groups, counts, strict=True)]


def oom_killed(before: OomCount) -> bool:
    """Whether the kernel killed for memory since then: in its group where that is known, else on the host."""
    if before.in_group is not None and (now := _in_group(before.group).get("oom_kill")) is not None:
        return now > before.in_group
    now = _counters("/proc/vmstat").get("oom_kill")
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


def met_limit_bytes(before: OomCount) -> int | None:
    """The limit of the process's group, if that was met since then; None if it was not, or there is none."""
    now = _in_group(before.group).get("oom")
    if before.met is None or now is None or now <= before.met:
        return None
    return cgroups.memory_limit_bytes(before.group)


def _in_group(group: str) -> dict[str, int]:
    return _counters(cgroups.counters(group)) if group else {}


def _counters(path: str) -> dict[str, int]:
    """A file of counters, one a line; {} when there is none."""
    try:
        words = Path(path).read_text().split()
    except OSError:
        return {}
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
