"""What being watched costs a busy server: requests a second, and processor time for each, beside the same server alone.

Some clients, each a process of its own, ask again as soon as they are answered, with a new connection each time: first the server that
Reviver watches at its defaults, then the same server alone on the same kind of socket, and so on in turns, so that the machine's noise
falls on both alike. The request is the cheapest there is: the most connections a second, and so the most to look at.

Where the median fall is not known to one percent, the requests a second prove nothing. Then what counts is the processor time that the
supervisor used meanwhile, as a part of all there was: on a machine whose every processor is busy, that much is taken from the server.
"""

from __future__ import annotations

import math
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
TURNS = 60
TURN_S = 1.0
SETTLE_S = 30.0  # a program that just started is watched closely for some 20 s
FALL_MOST_PERCENT = 1.0
PATH = "/product/mug"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn gave.

    rate        requests a second
    server_us   processor time of the server for each of them
    supervisor  processor time of the supervisor, as a share of one processor
    """

    rate: float
    server_us: float
    supervisor: float


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
        watched: list[Turn] = []
        alone: list[Turn] = []
        pair = [(watched, port, instance, {daemon, reviver.pid}), (alone, other_port, other.pid, set())]
        for _ in range(TURNS):
            for taken, at, server_pid, supervisor in pair:
                taken.append(_turn(at, server_pid, supervisor))
            pair.reverse()  # each is first in every second pair
    falls = [100 * (1 - ours.rate / theirs.rate) for ours, theirs in zip(watched, alone, strict=True)]
    shares = [100 * ours.supervisor / (os.cpu_count() or 1) for ours in watched]
    low, high = _sure(falls)
    noisy = high - low > FALL_MOST_PERCENT
    for who, turns in (("alone", alone), ("watched by reviver", watched)):
        rates = [turn.rate for turn in turns]
        report.add(who, "requests", statistics.median(rates), "/s", remark=spread(rates, "/s"))
        report.add(who, "processor time a request, server", statistics.median(turn.server_us for turn in turns), "µs")
    measured = None if noisy else FALL_MOST_PERCENT
    between = f"the median is between {low:.2f} and {high:.2f}, 95 % sure, of {TURNS} pairs"
    report.add("reviver", "requests a second fall by", statistics.median(falls), "%", measured, between)
    told = "what counts, as the median is not known to a percent" if noisy else "for comparison"
    counts = FALL_MOST_PERCENT if noisy else None
    report.add("reviver", "share of all processors", statistics.median(shares), "%", counts, f"{told}; {spread(shares, '%')}")
    return report


def _turn(port: int, server: int, supervisor: set[int]) -> Turn:
    serving = {server, *descendants(server)}
    began, server_s, supervisor_s = time.monotonic(), _sum(serving), _sum(supervisor)
    count = closed_loop(port, PATH, CLIENTS, TURN_S)
    took_s = time.monotonic() - began
    return Turn(count / TURN_S, (_sum(serving) - server_s) * 1e6 / count, (_sum(supervisor) - supervisor_s) / took_s)


def _sure(values: list[float]) -> tuple[float, float]:
    """Between what the median of all there could be lies, with 95 % confidence: order statistics of the sample, from the binomial."""
    ordered, away = sorted(values), 0.98 * math.sqrt(len(values))  # 1.96 standard deviations of how many lie below it
    return ordered[math.floor(len(values) / 2 - away)], ordered[math.ceil(len(values) / 2 + away) - 1]


def _sum(pids: set[int]) -> float:
    return sum(map(cpu_s, pids))
