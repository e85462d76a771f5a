"""What being watched costs a busy server: requests a second, and processor time for each, beside the same server alone.

Some clients, each a process of its own, ask again as soon as they are answered, with a new connection each time: first the server that
Reviver watches at its defaults, then the same server alone on the same kind of socket, and so on in turns, so that the machine's noise
falls on both alike. The request is the cheapest there is: the most connections a second, and so the most to look at.

Where turns differ by more than the budget, the requests a second prove nothing; then what counts is the processor time that a request
costs: the server's own, and for the watched one the supervisor's as well, although that is spent on another processor if one is idle.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench import apps
from bench.ground import Reviver, await_answer, descendants, free_port
from bench.idle import cpu_s
from bench.load import closed_loop
from bench.report import Report, spread

WORKERS = 2
CLIENTS = 4  # so that one is always waiting: every processor is busy
TURNS = 16
TURN_S = 3.0
SETTLE_S = 30.0  # a program that just started is watched closely for some 20 s
FALL_MOST_PERCENT = 1.0
PATH = "/product/mug"


@dataclass(frozen=True, slots=True)
class Turn:
    rate: float  # requests a second
    server_us: float  # of processor time for each request
    supervisor_us: float


def measure() -> Report:
    report = Report("watched")
    server = apps.gunicorn(workers=WORKERS)
    with ExitStack() as stack:
        where, elsewhere = stack.enter_context(apps.site()), stack.enter_context(apps.site())
        port = free_port()
        reviver = stack.enter_context(Reviver(where, apps.program(server, port, 0.0)))
        other, other_port = stack.enter_context(apps.alone(server, elsewhere))
        reviver.await_ready()
        await_answer(other_port, "/health")
        instance, daemon = int(reviver.instances()[0]["pid"]), int(reviver.status()["daemon"]["pid"])
        time.sleep(SETTLE_S)
        watched, alone = [], []
        for _ in range(TURNS):
            watched.append(_turn(port, instance, {daemon, reviver.pid}))
            alone.append(_turn(other_port, other.pid, set()))
    falls = [100 * (1 - ours.rate / theirs.rate) for ours, theirs in zip(watched, alone, strict=True)]
    costs = [
        100 * ((ours.server_us + ours.supervisor_us) / theirs.server_us - 1) for ours, theirs in zip(watched, alone, strict=True)
    ]
    low, _, high = statistics.quantiles(falls, n=4)
    noisy = high - low > FALL_MOST_PERCENT
    for who, turns in (("alone", alone), ("watched by reviver", watched)):
        rates = [turn.rate for turn in turns]
        report.add(who, "requests", statistics.median(rates), "/s", remark=spread(rates, "/s"))
        report.add(who, "processor time a request, server", statistics.median(turn.server_us for turn in turns), "µs")
    report.add("reviver", "processor time a request", statistics.median(turn.supervisor_us for turn in watched), "µs")
    share = statistics.median(turn.supervisor_us * turn.rate / 1e6 for turn in watched)
    report.add("reviver", "share of one processor", 100 * share, "%", remark=f"of {os.cpu_count()}")
    report.add(
        "reviver",
        "requests a second fall by",
        statistics.median(falls),
        "%",
        None if noisy else FALL_MOST_PERCENT,
        spread(falls, "%"),
    )
    told = "what counts: turns differ by more than the budget" if noisy else "for comparison"
    most = FALL_MOST_PERCENT if noisy else None
    report.add("reviver", "processor time a request rises by", statistics.median(costs), "%", most, f"{told}; {spread(costs, '%')}")
    return report


def _turn(port: int, server: int, supervisor: set[int]) -> Turn:
    serving = [server, *descendants(server)]
    before_s = _sum(serving), _sum(supervisor)
    count = closed_loop(port, PATH, CLIENTS, TURN_S)
    server_s, supervisor_s = _sum(serving) - before_s[0], _sum(supervisor) - before_s[1]
    return Turn(count / TURN_S, server_s * 1e6 / count, supervisor_s * 1e6 / count)


def _sum(pids: list[int] | set[int]) -> float:
    return sum(map(cpu_s, pids))
