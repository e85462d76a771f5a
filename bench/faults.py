"""What can go wrong with a server, and what must be said of it: the servers and faults of the corpus and of the live proof."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.ground import BIN

TROUBLE = Path(__file__).parent / "trouble"


class Expected(StrEnum):
    """HUNG: the whole instance is proven hung. WORKER: one worker of it. BUSY: suspicion is no mistake, a proof is. CALM: neither."""

    HUNG = "hung"
    WORKER = "worker"
    BUSY = "busy"
    CALM = "calm"


class Limit(StrEnum):
    """Which limit of the configuration says when it is proven; NONE: never."""

    CERTAIN = "certain"
    BLOCKED = "blocked"
    WORKER = "worker"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Server:
    """One application server.

    command  with {fd} where it takes the held socket
    slots    requests that it serves at once: so many poisons hang all of it
    threaded  a thread of its own never waits for locks (an acceptor, a helper), so being locked is no more certain than another wait
    """

    name: str
    command: tuple[str, ...]
    slots: int = 1
    threaded: bool = False
    socket_as_stdin: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens.

    path     what is asked for, once for each slot; `lone`: only once
    cores    processors that it takes while it lasts: how many may be recorded side by side
    """

    name: str
    expected: Expected
    limit: Limit = Limit.NONE
    path: str = ""
    lone: bool = False
    cores: float = 1.0
    environ: tuple[tuple[str, str], ...] = ()


GUNICORN = (str(BIN / "gunicorn"), "app:wsgi", "--timeout", "0", "-b", "fd://{fd}")
SERVERS = {
    each.name: each
    for each in (
        Server("sync", GUNICORN),
        Server("sync4", (*GUNICORN, "--workers", "4"), slots=4),
        Server("gthread", (*GUNICORN, "--threads", "4"), slots=4, threaded=True),
        Server("uvicorn", ("uvicorn", "app:asgi", "--lifespan", "off", "--log-level", "warning", "--fd", "{fd}")),
        Server("threads", ("python", "app.py", "{fd}"), slots=4, threaded=True),
        Server("node", ("node", "app.js", "{fd}"), threaded=True),
        Server("jvm", ("java", "App.java"), slots=4, threaded=True, socket_as_stdin=True),
    )
}

_SPINS = ("arithmetic", "constant", "pattern", "deadline", "files", "logs", "allocate", "native", "retry", "documents")
_HOLDING = ("pattern", "native")  # of those, the ones that never let go of the interpreter's lock
FAULTS = {
    each.name: each
    for each in (
        *(Fault(f"spin-{name}", Expected.HUNG, Limit.CERTAIN, f"/spin/{name}", lone=name in _HOLDING) for name in _SPINS),
        Fault("storm", Expected.HUNG, Limit.CERTAIN, "/storm"),
        Fault("deadlock", Expected.HUNG, Limit.CERTAIN, "/deadlock", cores=0.1),
        Fault("pool", Expected.HUNG, Limit.CERTAIN, "/pool", cores=0.1),
        Fault("upstream", Expected.HUNG, Limit.BLOCKED, "/upstream", cores=0.1),
        Fault("stopped", Expected.HUNG, Limit.BLOCKED, cores=0.1),
        Fault("one-spins", Expected.WORKER, Limit.WORKER, "/spin/arithmetic", lone=True),
        Fault("one-locked", Expected.WORKER, Limit.WORKER, "/deadlock", lone=True, cores=0.1),
        Fault("one-thread-sleeps", Expected.BUSY, Limit.NONE, "/upstream", lone=True, cores=0.1),
        Fault("report", Expected.BUSY, Limit.NONE, "/report", lone=True),
        Fault("background", Expected.BUSY, Limit.NONE, "/background", lone=True),
        Fault("collect", Expected.BUSY, Limit.NONE, "/collect", lone=True),
        Fault("document", Expected.BUSY, Limit.NONE, "/document", lone=True),
        Fault("disk", Expected.BUSY, Limit.NONE, "/disk", lone=True),
        Fault("overload", Expected.BUSY, Limit.NONE, "/work", cores=1.5),
        Fault("starved", Expected.BUSY, Limit.NONE, "/report", lone=True, cores=2.0),
        Fault("throttled", Expected.BUSY, Limit.NONE, "/report", lone=True, cores=0.1),
        Fault("boot-idle", Expected.CALM, Limit.NONE, environ=(("BOOT_IDLE_S", "12"),), cores=0.1),
        Fault("boot-busy", Expected.CALM, Limit.NONE, environ=(("BOOT_BUSY_S", "8"),)),
        Fault("health", Expected.CALM, cores=0.1),
        Fault("idle", Expected.CALM, cores=0.1),
    )
}

_COMMON = ("stopped", "report", "health", "idle")
_WAITS = ("deadlock", "pool", "upstream")
_WSGI = (*_WAITS, "storm", "collect", "document", "disk", "boot-idle", "boot-busy", "background", *_COMMON)
PAIRS: dict[str, tuple[str, ...]] = {
    "sync": (*(f"spin-{name}" for name in _SPINS), *_WSGI, "overload", "starved", "throttled"),
    "sync4": (
        "spin-arithmetic",
        "spin-allocate",
        "one-spins",
        "one-locked",
        *_WAITS,
        "boot-idle",
        *_COMMON,
        "starved",
    ),
    "gthread": (
        *(f"spin-{name}" for name in ("arithmetic", "pattern", "native", "files", "logs", "retry")),
        *_WSGI,
        "one-thread-sleeps",
        "overload",
        "starved",
    ),
    "uvicorn": (*(f"spin-{name}" for name in _SPINS), *_WSGI, "overload", "starved", "throttled"),
    "threads": ("spin-pattern", "spin-native", "one-thread-sleeps", "background", "overload", *_COMMON),
    "node": (
        *(f"spin-{name}" for name in ("arithmetic", "constant", "pattern", "deadline", "files", "logs", "allocate")),
        *("deadlock", "collect", "document", "boot-idle", "boot-busy", "overload", "starved", *_COMMON),
    ),
    "jvm": ("spin-constant", "spin-allocate", "pool", "upstream", "collect", *_COMMON),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a recording is of. Instants are the recording's own; `fault` is the instant at which the fault began."""

    server: str
    fault: str
    began: float
    expected: Expected
    limit: Limit

    @property
    def name(self) -> str:
        return f"{self.server}-{self.fault}"

    @property
    def kept_out(self) -> bool:
        """Whether it belongs to the third that the diagnosis was not tuned with: its name decides."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 3 == 0


def limit_of(server: Server, fault: Fault) -> Limit:
    waits = fault.name in ("deadlock", "pool")
    return Limit.BLOCKED if waits and server.threaded else fault.limit
