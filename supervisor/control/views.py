"""What people and scripts are told of the fleet, as JSON-able dicts: status, explain, plan. Pure: instants come as arguments."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.model import DaemonSettings


@dataclass(frozen=True, slots=True)
class About:
    """The daemon itself. `started` is a monotonic instant; `config` the path of its configuration, "" for none."""

    pid: int
    version: str
    started: float
    config: str
    guarded: bool
    daemon: DaemonSettings


@dataclass(frozen=True, slots=True)
class Vitals:
    """The newest sample of an instance's process tree. `cpu_ratio` is in cores (1.0 is one core busy); None is not known."""

    cpu_ratio: float | None
    rss_bytes: int | None
    workers: int | None
