"""The faults that a drill knows: how each is brought about in a shadow, what it is held to, and playing one.

Each acts on the shadow's own processes, releases and port alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from supervisor.commands import drill_store
from supervisor.commands.drill_card import Expected, Seen, names_all, recovered
from supervisor.commands.drill_customers import Customers
from supervisor.commands.drill_shadow import Shadow

COME_S = 10.0  # for the first of them to be answered
CALM_S = 1.0  # of customers before the fault: they come and are answered
AFTER_S = 0.5  # and after it is over
STOP_LIMIT_S = 20.0  # for a stopped program to be suspected
LOOP_LIMIT_S = 60.0  # a crash loop is told after six crashes, whose waits add up to some 10 s


SILENT_S = 30.0  # for a peer that does not answer to be told to people; then it is silent no more
LATE_S = 120.0  # what comes too late is waited for, and measured all the same: a starved host takes so long to prove a hang
WAITS = Expected(("instance.suspected",), ("exchange_rates()", "for 127.0.0.1:"), told_s=SILENT_S)

Inject = Callable[[Shadow, Customers, ExitStack], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    what      for people
    inject    brings it about, and returns when that is done; what has to last is held until the drill is over
    expected  of Reviver
    first     the release of the bundled store that serves when it comes
    """

    what: str
    inject: Inject
    expected: Expected
    first: drill_store.Release = drill_store.BEFORE


def play(fault: Fault, shadow: Shadow, path: str, heed: Callable[[Shadow], None]) -> Seen:
    """Have customers ask for `path`, bring the fault about, and wait until all that is expected was seen, or its time is over.

    heed  is called again and again meanwhile
    """
    expected = fault.expected
    with ExitStack() as held, Customers(shadow.port, path, shadow.folder / "customers") as customers:
        shadow.until(lambda: bool(customers.requests()), COME_S)
        time.sleep(CALM_S)
        began_wall = time.time()
        fault.inject(shadow, customers, held)

        def seen() -> Seen:
            return Seen(began_wall, shadow.story(began_wall), shadow.pages(began_wall), customers.requests())

        def done() -> bool:
            heed(shadow)
            now = seen()
            if now.first(*expected.found) is None:
                return False
            return not expected.told or (recovered(now) is not None and any(names_all(expected, page) for page in now.pages))

        shadow.until(done, expected.over_s + LATE_S)
        time.sleep(AFTER_S)
        heed(shadow)
    return seen()


def _loop(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    customers.one_asks("/checkout?coupon=LOOP")


def _dead_dependency(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    """A peer that takes the connection and never says a word; it is gone when people have been told and another serves."""
    began_wall = time.time()

    def known() -> bool:
        served = shadow.told("instance.ready", began_wall) is not None
        return served and any(names_all(WAITS, page) for page in shadow.pages(began_wall))

    with socket.create_server(("127.0.0.1", 0)) as peer:
        (shadow.folder / drill_store.PEER).write_text(str(peer.getsockname()[1]))
        customers.one_asks(drill_store.RATES)
        shadow.until(known, SILENT_S)


def _stop(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    """SIGSTOP for a whole tree, again after each SIGCONT, until it is suspected: the hang that any program can have."""
    began_wall, pids = time.time(), [pid for instance in shadow.instances() for pid in _tree(instance["pid"])]

    def suspected() -> bool:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        return shadow.told("instance.suspected", began_wall) is not None

    shadow.until(suspected, STOP_LIMIT_S)


def _tree(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def _leak(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    customers.one_asks("/checkout?coupon=LEAK")


def _crash(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    for instance in shadow.instances():
        _signal(instance["pid"], signal.SIGABRT)


def _crash_loop(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
    """Each one that starts crashes, until people are told that it is a crash loop."""
    began_wall, killed = time.time(), set[int]()

    def looped() -> bool:
        for instance in shadow.instances():
            pid = instance["pid"]
            if instance["state"] in ("starting", "ready") and pid and pid not in killed:
                killed.add(pid)
                _signal(pid, signal.SIGABRT)
        return shadow.told("program.crash_looped", began_wall) is not None

    shadow.until(looped, LOOP_LIMIT_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _deployed(release: drill_store.Release) -> Inject:
    def inject(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
        shadow.deploy(drill_store.make(shadow.folder, release))

    return inject


LINE = "store.py:"  # a number follows


def _given_up(release: drill_store.Release) -> Expected:
    """The one that serves never goes, so nobody may notice."""
    return Expected(("build.lost",), (release.name,), found_s=30.0, served=False, told_s=30.0, gap_s=2.0)


FAULTS: dict[str, Fault] = {
    "hang": Fault(
        "a request that loops for ever",
        _loop,
        Expected(("instance.suspected",), ("apply_coupon", LINE, "/checkout", drill_store.LOOPING.name)),
        drill_store.LOOPING,
    ),
    "crash": Fault("a crash", _crash, Expected(("instance.failed",), ("SIGABRT",), failing=2)),
    "crash-loop": Fault(
        "a program that crashes again and again",
        _crash_loop,
        Expected(
            ("program.crash_looped",),
            ("crash loop", "SIGABRT"),
            40.0,
            served_s=60.0,
            told_s=40.0,
            over_s=120.0,
            failing=None,
            gap_s=60.0,
        ),
    ),
    "bad-release": Fault(
        "a release that cannot start",
        _deployed(drill_store.BAD),
        _given_up(drill_store.BAD),
    ),
    "slow-boot": Fault(
        "a release that does not become ready",
        _deployed(drill_store.SLOW),
        _given_up(drill_store.SLOW),
    ),
    "dead-dependency": Fault(
        "a peer that does not answer, until people are told",
        _dead_dependency,
        WAITS,
        drill_store.DEPENDENT,
    ),
    "leak": Fault(
        "a process that grows by 20 MB a second",
        _leak,
        Expected(("instance.leaking",), found_s=20.0, served=False, told=False, over_s=30.0),
    ),
}

# What can be done to any program.
ANY: dict[str, Fault] = {
    "hang": Fault(
        "a program that is stopped in its tracks", _stop, Expected(("instance.suspected",), ("stopped",), 10.0, failing=None)
    ),
    "crash": FAULTS["crash"],
    "crash-loop": FAULTS["crash-loop"],
}
