"""What goes wrong behind three of the coupons, on purpose: a crash, a long report, a leak. (The endless loop is store.py's own.)

Each is what real shops have: a partner's native library that aborts, a report computed inside a request, a cache that nothing
ever empties. All are bounded: the machine survives every one of them.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

REPORT_CPU_S = 8.0  # what the report costs: processor time, so that it takes longer where it has to share a core
LEAK_STEP_BYTES = 2_000_000
LEAK_PAUSE_S = 0.1  # with the step above: 20 MB/s
LEAK_CEILING_BYTES = 400_000_000  # per process; then the cache is emptied and it is over

_neighbours: list[bytearray] = []
_leaking = threading.Lock()


def abort_server(server_software: str) -> None:
    """End the whole server as a failing native library would: SIGABRT.

    A worker's death alone is healed by gunicorn's master within milliseconds, and nobody outside sees it. So under gunicorn the
    master gets the signal too: the instance dies ("killed by SIGABRT"), and who supervises it has to start another one.
    """
    if server_software.startswith("gunicorn"):
        os.kill(os.getppid(), signal.SIGABRT)
    os.abort()


def loyalty_report() -> int:
    """Go through a made-up purchase history on the processor for `REPORT_CPU_S` seconds; it always ends."""
    until = time.thread_time() + REPORT_CPU_S
    history = random.Random(2023)
    purchases = points = 0
    while time.thread_time() < until:
        for _ in range(10_000):
            points += history.randrange(100) > 96
        purchases += 10_000
    return points * 100 // max(purchases, 1)


def remember_neighbours() -> None:
    """Start to fill a cache in the background that nothing empties before the ceiling; once per process at a time."""
    if _leaking.acquire(blocking=False):
        threading.Thread(target=_leak, name="neighbours", daemon=True).start()


def _leak() -> None:
    try:
        while len(_neighbours) * LEAK_STEP_BYTES < LEAK_CEILING_BYTES:
            _neighbours.append(bytearray(os.urandom(64)) * (LEAK_STEP_BYTES // 64))
            time.sleep(LEAK_PAUSE_S)
    finally:
        _neighbours.clear()
        _leaking.release()
