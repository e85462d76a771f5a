"""Which part of an instance is stuck, and what excuses it: verdicts on windows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.model import HangSettings, Kind, Nature, Scope
from supervisor.policy.diagnosis import diagnose
from supervisor.policy.samples import Client, Host, ProcessSample, SocketSample, ThreadSample, TreeSample, Window, WorkerSeen

NOW = 1000.0
LEADER, STUCK, OTHER = 10, 11, 12
SICK = Host(2, 1.0, memory_stall=0.34)


def trees(
    seconds: float, *, run: float = 0.0, delay: float = 0.0, state: str = "S", place: str = "epoll", faults: float = 0.0
) -> Any:
    """Once a second a leader and two workers; one does this, the other waits for connections."""
    return tuple(_tree(NOW - seconds + n, run, delay, state, place, faults) for n in range(int(seconds) + 1))


def _tree(at: float, run: float, delay: float, state: str, place: str, faults: float) -> TreeSample:
    stuck = ThreadSample(STUCK, state, int(at * run * 1e9), int(at * delay * 1e9), place)
    idle = (ThreadSample(OTHER, "S", 0, 0, "accept"),)
    return TreeSample(
        at,
        (
            ProcessSample(LEADER, 1, "S", 0.0, 10**7, (ThreadSample(LEADER, "S", 0, 0, "poll"),)),
            ProcessSample(STUCK, LEADER, state, at * run, 10**7, (stuck,), int(at * faults)),
            ProcessSample(OTHER, LEADER, "S", 0.0, 10**7, idle),
        ),
    )


SPINS: dict[str, Any] = {"run": 0.99, "state": "R", "place": ""}


def window(quiet_s: float, **changes: Any) -> Window:
    """An instance that answered just now, one of whose workers spins and has owed an answer for so long."""
    owed = Client(("127.0.0.1", 40000, 80), 501, STUCK, True, False, NOW - quiet_s, 0)
    serving = Window(
        now=NOW,
        hang=HangSettings(),
        spawned=NOW - 500,
        ready=NOW - 499,
        moved=NOW - 0.2,
        trees=trees(50.0, **SPINS),
        sockets=SocketSample(NOW, 0, 128, (owed,)),
        workers=(WorkerSeen(STUCK, NOW - quiet_s, 1, 1),),
    )
    return replace(serving, **changes)


@pytest.mark.parametrize(
    ("quiet_s", "changes", "kind"),
    [
        (2.0, {}, Kind.SUSPECT),
        (29.9, {}, Kind.SUSPECT),
        (30.1, {}, Kind.SPINNING),
        (30.1, {"trees": trees(50.0, place="lock")}, Kind.LOCKED),
        (59.9, {"trees": trees(50.0, place="sleep")}, Kind.SUSPECT),
        (60.1, {"trees": trees(50.0, place="sleep")}, Kind.BLOCKED),
        (600.0, {"trees": trees(50.0, place="sleep"), "hang": HangSettings(blocked_s=None)}, Kind.SUSPECT),
        (5.1, {"hang": HangSettings(worker_s=5.0)}, Kind.SPINNING),
        (31.0, {"trees": trees(20.0, **SPINS)}, Kind.SUSPECT),  # too little of that time was seen
        (31.0, {"trees": trees(50.0, place="disk", state="D")}, Kind.UNINTERRUPTIBLE),
        (31.0, {"trees": trees(50.0, run=0.2, delay=0.75, state="R", place="")}, Kind.STARVED),
        (31.0, {"host": SICK}, Kind.STARVED),
        (61.0, {"trees": trees(50.0, place="socket", faults=80.0)}, Kind.STARVED),
    ],
)
def test_worker_is_suspect_and_then_hung_while_its_instance_is_busy(quiet_s: float, changes: dict[str, Any], kind: Kind) -> None:
    found = diagnose(window(quiet_s, **changes))
    assert (found.verdict.kind, found.verdict.scope) == (Kind.BUSY, Scope.WORKER)
    (worker,) = found.workers
    assert (worker.pid, worker.verdict.kind, worker.since) == (STUCK, kind, NOW - quiet_s)
    assert found.verdict.because == worker.verdict.because


def test_verdict_on_a_worker_says_in_numbers_why() -> None:
    (worker,) = diagnose(window(12.0)).workers
    assert (
        worker.verdict.because
        == "worker 11 has not answered one request for 12.0 s, thread 11 at 99 % of a core; 1 sibling answers"
    )
    assert worker.verdict.nature is Nature.SPINNING


@pytest.mark.parametrize(
    "seen",
    [
        WorkerSeen(STUCK, NOW - 0.5, 1, 1),  # it moved
        WorkerSeen(STUCK, NOW - 40.0, 1, 0),  # there is nobody beside it
    ],
)
def test_worker_that_moves_or_is_the_only_one_is_not_judged_alone(seen: WorkerSeen) -> None:
    found = diagnose(window(40.0, workers=(seen,)))
    assert found.workers == ()
    assert (found.verdict.kind, found.verdict.scope) == (Kind.BUSY, Scope.REQUEST)


def test_worker_is_not_judged_alone_while_nobody_else_moves() -> None:
    """Nobody is served: that is the instance's silence, and its own patience counts."""
    found = diagnose(window(40.0, moved=NOW - 40.0, asked=NOW - 39.0))
    assert found.workers == ()
    assert found.verdict.scope is Scope.INSTANCE
    idle = diagnose(window(40.0, moved=NOW - 40.0, workers=(WorkerSeen(STUCK, NOW - 40.0, 1, 1, others=NOW - 0.1),)))
    assert [worker.pid for worker in idle.workers] == [STUCK]  # nobody else comes, and a sibling is free


def test_what_a_stuck_worker_took_and_never_read_is_no_silence_of_the_instance() -> None:
    """Its acceptor lives and its pool is full: it goes on taking customers, and a sibling answered 1.5 s ago, when last asked."""
    taken = Client(("127.0.0.1", 40001, 80), 502, STUCK, True, True, NOW - 20.0, 0, 0)
    unread = SocketSample(NOW, 0, 128, (taken,))
    found = diagnose(window(20.0, moved=NOW - 1.5, sockets=unread))
    assert (found.verdict.kind, found.verdict.scope) == (Kind.BUSY, Scope.WORKER)
    assert diagnose(window(20.0, moved=NOW - 1.5, sockets=unread, workers=())).verdict.kind is Kind.SUSPECT


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"host": SICK}, Kind.STARVED, "all work of this host stood still for 34 % of the last 10 s, waiting for memory"),
        ({"trees": trees(50.0, place="socket", faults=80.0)}, Kind.STARVED, "80 major faults per second"),
        ({"trees": trees(50.0, run=0.2, delay=0.75, state="R", place="")}, Kind.STARVED, "kept from the processor for 75 %"),
    ],
)
def test_sick_host_excuses_a_silent_instance(changes: dict[str, Any], kind: Kind, words: str) -> None:
    found = diagnose(window(40.0, moved=NOW - 40.0, asked=NOW - 39.0, workers=(), **changes))
    assert (found.verdict.kind, found.verdict.scope) == (kind, Scope.HOST)
    assert words in found.verdict.because


def test_throttled_group_is_starved_not_hung() -> None:
    """It is always ready to run and gets a fifth of a core: a limit on its group counts as no run-queue delay."""
    often = tuple(_tree(NOW - 15 + n / 10, 0.2, 0.0, "R", "", 0.0) for n in range(151))
    found = diagnose(window(14.0, moved=NOW - 14.0, asked=NOW - 13.0, workers=(), trees=often))
    assert found.verdict.kind is Kind.STARVED
    assert "always ready to run, at 20 % of a core" in found.verdict.because


def test_disk_that_holds_everybody_up_excuses_who_waits_for_it_half_of_the_time() -> None:
    waits = tuple(_tree(NOW - 5 + n / 10, 0.0, 0.0, "D" if n % 3 else "S", "disk", 0.0) for n in range(51))
    silent = window(4.0, moved=NOW - 4.0, asked=NOW - 3.0, workers=(), trees=waits)
    assert diagnose(silent).verdict.kind is Kind.SUSPECT
    found = diagnose(replace(silent, host=Host(2, 1.0, disk_stall=0.6)))
    assert (found.verdict.kind, found.verdict.scope) == (Kind.UNINTERRUPTIBLE, Scope.HOST)
