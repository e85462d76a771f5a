"""What the daemon costs while nothing happens: memory, and processor time an hour.

One program, the demo store, probed each second at the defaults. Processor time is the scheduler's own sum in nanoseconds over all
threads (schedstat), with that of helpers it started and reaped; extrapolated to an hour. Beside supervisord in the same minute,
which watches nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.ground import Reviver, await_answer, folder, free_port, held_store, store_command
from bench.peers import Supervisord, version
from bench.report import Report

SETTLE_S = 30.0  # a program that just started is watched closely for some 20 s: that is not idle
WINDOW_S = 90.0
RSS_MOST_MIB = 32.0
CPU_MOST_S = 6.0


def measure() -> Report:
    report = Report("idle")
    with folder() as where:
        port, peer_port = free_port(), free_port()
        environ = {"DEMO_DATA": str(where)}
        peer = f"[program:store]\ncommand={' '.join(store_command(peer_port, '--timeout', '0'))}\n"
        (where / "peer").mkdir()
        with (
            Reviver(where, held_store(port), environ) as reviver,
            Supervisord(where / "peer", peer, environ) as supervisord,
        ):
            reviver.await_ready()
            supervisord.await_running()
            await_answer(peer_port, "/health")
            daemon = int(reviver.status()["daemon"]["pid"])
            time.sleep(SETTLE_S)
            before = cpu_s(daemon), cpu_s(supervisord.pid), time.monotonic()
            time.sleep(WINDOW_S)
            window_s = time.monotonic() - before[2]
            ours, theirs = cpu_s(daemon) - before[0], cpu_s(supervisord.pid) - before[1]
            report.add("reviver", "resident memory", rss_mib(daemon), "MiB", most=RSS_MOST_MIB)
            report.add(
                "reviver",
                "processor time an hour",
                ours * 3600 / window_s,
                "s",
                CPU_MOST_S,
                f"{ours * 1000:.0f} ms in {window_s:.0f} s",
            )
            report.add(f"supervisord {version()}", "resident memory", rss_mib(supervisord.pid), "MiB")
            report.add(f"supervisord {version()}", "processor time an hour", theirs * 3600 / window_s, "s")
    return report


def cpu_s(pid: int) -> float:
    """Processor seconds that a process and its reaped children used: schedstat's first field in ns, cutime and cstime in ticks."""
    threads = [int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(threads) / 1e9 + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory, from the exact sums of smaps_rollup (VmRSS lags behind by some pages per thread)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Rss")
