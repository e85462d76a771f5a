"""A WSGI application whose every request costs the same processor time, so that a load can be given in parts of its capacity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

COST_CPU_S = 0.02
CAPACITY = 1 / COST_CPU_S  # requests a second of one sync worker with a processor of its own


def app(environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """/health answers at once; anything else works first."""
    if environ.get("PATH_INFO") != "/health":
        until = time.thread_time() + COST_CPU_S
        while time.thread_time() < until:
            pass
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
