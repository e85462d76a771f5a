"""Verdicts on windows made by hand: each kind, each excuse, and what must never be concluded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.model import HangSettings, Kind, Nature
from supervisor.policy.diagnosis import PASSED_OVER, diagnose
from supervisor.policy.samples import (
    Client,
    Host,
    ProcessSample,
    SocketSample,
    ThreadSample,
    TreeSample,
    Window,
    follow,
    moved_between,
)

NOW = 1000.0
LEADER, WORKER = 10, 11
HUNG = (Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED)
SILENT = (Kind.SUSPECT, *HUNG)


def tree(
    at: float, *, run: float = 0.0, delay: float = 0.0, state: str = "S", place: str = "epoll", rss: int = 10**7
) -> TreeSample:
    """A leader that sleeps and a worker whose one thread has run and waited for these shares of the time since 0."""
    worker = ThreadSample(WORKER, state, int(at * run * 1e9), int(at * delay * 1e9), place)
    idle = ThreadSample(LEADER, "S", 0, 0, "poll")
    return TreeSample(
        at,
        (ProcessSample(LEADER, 1, "S", 0.0, 10**7, (idle,)), ProcessSample(WORKER, LEADER, state, at * run, rss, (worker,))),
    )


def trees(seconds: float = 3.0, step_s: float = 0.1, **doing: Any) -> tuple[TreeSample, ...]:
    count = int(seconds / step_s)
    return tuple(tree(NOW - (count - n) * step_s, **doing) for n in range(count + 1))


def client(
    number: int = 1, *, age_s: float = 1.0, owner: int = 0, unread: bool = False, waiting: bool = True, acked: int = 0
) -> Client:
    inode = 500 + number if owner else 0
    return Client(("127.0.0.1", 40000 + number, 80), inode, owner, waiting, unread, NOW - age_s, acked)


def looked(*clients: Client, queue: int | None = None, held: frozenset[int] = frozenset()) -> SocketSample:
    queued = sum(1 for each in clients if each.inode == 0)
    return SocketSample(NOW, queued if queue is None else queue, 128, clients, held)


def window(silent_s: float, **changes: Any) -> Window:
    """An instance whose probe has been unanswered for so long, since it last moved; it spins."""
    spinning = Window(
        now=NOW,
        hang=HangSettings(),
        spawned=NOW - 500,
        ready=NOW - 499,
        moved=NOW - silent_s,
        asked=NOW - silent_s,
        trees=trees(max(3.0, silent_s + 1), run=0.99, state="R", place=""),
        sockets=looked(client(age_s=silent_s, owner=WORKER)),
    )
    return replace(spinning, **changes)


SLEEPS = trees(70, place="sleep")
LOCKED = trees(20, place="lock")


# --- silence and proof ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent_s", "changes", "kind", "nature"),
    [
        (0.9, {}, Kind.BUSY, Nature.NONE),
        (1.1, {}, Kind.SUSPECT, Nature.SPINNING),
        (9.9, {}, Kind.SUSPECT, Nature.SPINNING),
        (10.1, {}, Kind.SPINNING, Nature.SPINNING),
        (9.9, {"trees": LOCKED}, Kind.SUSPECT, Nature.LOCKED),
        (10.1, {"trees": LOCKED}, Kind.LOCKED, Nature.LOCKED),
        (10.1, {"trees": SLEEPS}, Kind.SUSPECT, Nature.BLOCKED),
        (60.1, {"trees": SLEEPS}, Kind.BLOCKED, Nature.BLOCKED),
        (60.1, {"trees": SLEEPS, "hang": HangSettings(blocked_s=None)}, Kind.SUSPECT, Nature.BLOCKED),
        (4.1, {"hang": HangSettings(certain_s=4.0)}, Kind.SPINNING, Nature.SPINNING),
    ],
)
def test_silence_becomes_suspicion_and_then_proof_by_what_it_does(
    silent_s: float, changes: dict[str, Any], kind: Kind, nature: Nature
) -> None:
    found = diagnose(window(silent_s, **changes))
    assert (found.verdict.kind, found.verdict.nature) == (kind, nature)
    if kind in SILENT:
        assert found.since == NOW - silent_s


def test_suspicion_says_in_numbers_why() -> None:
    because = diagnose(window(1.2)).verdict.because
    assert because == f"no answer for 1.2 s, oldest request 1.2 s, thread {WORKER} at 99 % of a core"


def test_waiting_for_nine_seconds_and_then_working_for_one_is_no_endless_loop() -> None:
    """A request that waits for its database and then computes: silent for `certain`, but it did not spin for all of it."""
    waited = tuple(tree(NOW - 11 + n / 10, place="socket") for n in range(91))
    works = tuple(
        replace(sample, processes=(sample.processes[0], replace(sample.processes[1], threads=(_ran(n / 10),))))
        for n, sample in enumerate((tree(NOW - 2 + n / 10, state="R", place="") for n in range(21)), start=0)
    )
    found = diagnose(window(10.5, trees=(*waited, *works)))
    assert (found.verdict.kind, found.verdict.nature) == (Kind.SUSPECT, Nature.SPINNING)


def test_proof_needs_samples_of_nearly_all_the_time() -> None:
    found = diagnose(window(10.5, trees=trees(4.0, run=0.99, state="R", place="")))
    assert found.verdict.kind is Kind.SUSPECT


def test_threads_under_one_interpreter_lock_spin_together() -> None:
    """Four threads at a quarter each are one core: none of them alone is hot."""
    found = diagnose(window(1.5, trees=tuple(_of_threads(at, run=0.24) for at in _instants())))
    assert found.verdict.nature is Nature.SPINNING
    assert f"process {WORKER} at 96 %" in found.verdict.because


def test_time_without_customers_counts_for_nothing() -> None:
    """Idle for an hour, and a request that is 1.2 s old: silent since the request, not since the hour."""
    found = diagnose(window(3600.0, asked=NOW - 1.2, sockets=looked(client(age_s=1.2, owner=WORKER))))
    assert found.verdict.kind is Kind.SUSPECT
    assert found.since == NOW - 1.2


def test_without_a_probe_only_what_nobody_took_is_silence() -> None:
    """A long poll and a websocket wait on an accepted, read connection for ever: that alone is no sign."""
    idle = {"asked": None, "moved": NOW - 400, "trees": trees(place="epoll")}
    long_poll = looked(client(age_s=300, owner=WORKER))
    assert diagnose(window(1.0, **idle, sockets=long_poll)).verdict.kind is Kind.HEALTHY
    unread = looked(client(age_s=300, owner=WORKER), client(2, age_s=1.5, owner=WORKER, unread=True))
    assert diagnose(window(1.0, **idle, sockets=unread)).verdict.kind is Kind.SUSPECT
    queued = looked(client(age_s=300, owner=WORKER), client(2, age_s=1.5))
    assert diagnose(window(1.0, **idle, sockets=queued)).verdict.kind is Kind.SUSPECT


def test_suspect_whose_queue_others_took_stays_one_while_it_is_stuck() -> None:
    gone = {"asked": None, "doubted": NOW - 5, "shared": True, "sockets": looked()}
    assert diagnose(window(5.0, **gone)).verdict.kind is Kind.SUSPECT
    idle = diagnose(window(5.0, **gone | {"trees": trees(place="epoll")}))
    assert idle.verdict.kind is Kind.HEALTHY
    own = gone | {"trees": trees(place="sleep"), "sockets": looked(client(age_s=5, owner=WORKER))}
    assert diagnose(window(5.0, **own)).verdict.kind is Kind.SUSPECT
    others = gone | {"trees": trees(place="sleep"), "sockets": looked(client(age_s=5, owner=99))}
    assert diagnose(window(5.0, **others)).verdict.kind is Kind.HEALTHY


def test_instance_that_others_pass_over_is_suspect_only_if_it_is_stuck() -> None:
    """Whoever sleeps in accept may be woken first always: not being asked is no silence. Spinning with a customer inside is."""
    passed = {"asked": None, "shared": True, "passed": PASSED_OVER}
    assert diagnose(window(1.5, **passed)).verdict.kind is Kind.SUSPECT
    assert diagnose(window(1.5, **passed | {"passed": PASSED_OVER - 1})).verdict.kind is Kind.BUSY
    assert diagnose(window(1.5, **passed | {"trees": trees(place="epoll")})).verdict.kind is Kind.HEALTHY
    beside = tuple(_beside_an_acceptor(sample) for sample in trees(run=0.99, state="R", place=""))
    assert diagnose(window(1.5, **passed | {"trees": beside})).verdict.kind is Kind.BUSY


# --- excuses --------------------------------------------------------------------------------------------------------------------


def test_starved_host_is_no_hang() -> None:
    """Six busy loops on two processors: the worker gets a quarter of one, however much it wants."""
    starved = trees(20, run=0.24, delay=0.70, state="R", place="")
    found = diagnose(window(15.0, trees=starved, host=Host(2, 8.1)))
    assert found.verdict.kind is Kind.STARVED
    assert "load 8.1 on 2 processors" in found.verdict.because


def test_a_suspect_that_nobody_asks_any_more_is_not_healthy_for_want_of_samples() -> None:
    """Its customers gave up, and of late there was no look at its threads: it may loop still."""
    left = {"asked": None, "doubted": NOW - 8.0, "sockets": looked()}
    assert diagnose(window(8.0, **left)).verdict.kind is Kind.SUSPECT
    old = tuple(each for each in trees(9.0, run=0.99, state="R", place="") if each.at <= NOW - 2.1)
    light = tree(NOW)
    recent = (replace(light, processes=tuple(replace(each, threads=()) for each in light.processes)),)
    assert diagnose(window(8.0, trees=(*old, *recent), **left)).verdict.kind is Kind.UNKNOWN


def test_a_starved_host_excuses_no_loop_that_has_had_more_of_the_processor_than_any_work_needs() -> None:
    """12 s of it: at a quarter of a core in 48 s. A host is often starved by the loops themselves."""
    starved = trees(60, run=0.24, delay=0.70, state="R", place="")
    kinds = [diagnose(window(silent_s, trees=starved, host=Host(2, 8.1))).verdict.kind for silent_s in (45.0, 55.0)]
    assert kinds[0] is Kind.STARVED
    assert kinds[1] in SILENT


def test_loop_that_shares_its_processor_is_proven_when_it_has_had_it_for_long_enough() -> None:
    """A report of some seconds on a host that others keep busy is silent for longer than `certain`, and is no loop."""
    shares = trees(20, run=0.5, delay=0.5, state="R", place="")
    assert diagnose(window(10.5, trees=shares)).verdict.kind is Kind.SUSPECT
    assert diagnose(window(16.5, trees=shares)).verdict.kind is Kind.SPINNING


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (0.5, Kind.SPINNING),  # four workers that spin on two processors have half of one each: nobody else is to blame for that
        (0.2, Kind.SUSPECT),  # they have all but one of what there is: no proof yet, and no excuse
        (0.1, Kind.STARVED),
    ],
)
def test_loops_that_take_the_processors_from_each_other_are_not_starved_by_the_host(run: float, kind: Kind) -> None:
    pids = range(20, 24)
    spinning = tuple(
        TreeSample(
            sample.at,
            (
                sample.processes[0],
                *(ProcessSample(pid, LEADER, "R", 0.0, 10**7, (replace(_ran(sample.at * run), tid=pid),)) for pid in pids),
            ),
        )
        for sample in trees(12)
    )
    clients = (replace(client(pid, age_s=10.5), owner=pid, inode=pid) for pid in pids)
    silent = window(10.5, trees=spinning, sockets=looked(*clients), host=Host(2, 4.0))
    assert diagnose(silent).verdict.kind is kind


def test_stopped_process_is_stopped_first_and_hung_at_last() -> None:
    stopped = {"trees": trees(70, state="T", place="")}
    first = diagnose(window(80.0, **stopped | {"trees": stopped["trees"][-20:]}))
    assert first.verdict.kind is Kind.STOPPED
    assert diagnose(window(80.0, **stopped)).verdict.kind is Kind.BLOCKED
    blind_meanwhile = diagnose(window(5.0, **stopped))
    assert (blind_meanwhile.verdict.kind, blind_meanwhile.verdict.since) == (Kind.STOPPED, NOW - 5.0)
    brief = trees(3)[:-5] + trees(3, state="T", place="")[-5:]
    assert diagnose(window(0.5, trees=brief)).verdict.kind is not Kind.STOPPED


def test_disk_wait_all_the_time_is_uninterruptible_and_no_hang() -> None:
    waits = trees(20, state="D", place="disk")
    assert diagnose(window(15.0, trees=waits)).verdict.kind is Kind.UNINTERRUPTIBLE
    at_times = tuple(tree(NOW - 2 + n / 10, state="D" if n % 2 else "S", place="disk") for n in range(21))
    assert diagnose(window(1.5, trees=at_times)).verdict.kind is Kind.SUSPECT


@pytest.mark.parametrize(
    "changes",
    [
        {"blind": "our own loop was late"},
        {"trees": ()},
        {"trees": trees()[:5], "now": NOW + 10},
        {"stopping": True},
    ],
)
def test_what_cannot_be_seen_is_unknown(changes: dict[str, Any]) -> None:
    found = diagnose(window(100.0, **changes))
    assert found.verdict.kind is Kind.UNKNOWN
    assert found.since is None


def test_booting_is_starting_however_long_it_spins() -> None:
    assert diagnose(window(100.0, ready=None)).verdict.kind is Kind.STARTING


# --- what moves -----------------------------------------------------------------------------------------------------------------


def test_overload_is_not_silence() -> None:
    """At 110 % load nearly every request waits for over a second, and others finish all the time."""
    queue = looked(*(client(n, age_s=1.0 + n / 10) for n in range(1, 9)))
    found = diagnose(window(1.5, moved=NOW - 0.2, sockets=queue))
    assert found.verdict.kind is Kind.OVERLOADED
    assert found.verdict.because == "requests not taken yet: 8, the oldest for 1.8 s; others are being answered"


def test_long_request_beside_others_that_finish_is_busy() -> None:
    found = diagnose(window(8.0, asked=None, moved=NOW - 0.1))
    assert found.verdict.kind is Kind.BUSY


def test_bad_answer_is_an_answer() -> None:
    found = diagnose(window(0.0, asked=None, sockets=None, ill=True, answer="GET /health answered 503 in 2 ms"))
    assert (found.verdict.kind, found.verdict.because) == (Kind.BUSY, "GET /health answered 503 in 2 ms")


def test_leak_is_told_while_it_answers() -> None:
    grows = tuple(tree(NOW - 8 + n, rss=10**7 + n * 10**7) for n in range(9))
    assert diagnose(window(0.0, asked=None, sockets=None, trees=grows)).verdict.kind is Kind.LEAKING
    loaded = tuple(tree(NOW - 8 + n, rss=10**7 + min(n, 4) * 10**7) for n in range(9))
    assert diagnose(window(0.0, asked=None, sockets=None, trees=loaded)).verdict.kind is Kind.HEALTHY


def test_what_can_neither_be_asked_nor_seen_is_never_suspected() -> None:
    found = diagnose(window(3600.0, watched=False, asked=None, sockets=None))
    assert found.verdict.kind is Kind.HEALTHY
    assert found.since is None


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (looked(client(owner=WORKER)), looked(client(owner=WORKER)), False),
        (looked(client(owner=WORKER)), looked(client(owner=WORKER, acked=100)), True),  # it spoke
        (looked(client(owner=WORKER)), looked(), True),  # done
        (looked(client(owner=WORKER)), looked(held=frozenset({501})), False),  # reset by its client: the socket is open still
        (looked(client(owner=WORKER, waiting=False)), looked(), False),  # an idle connection closed
        (looked(client()), looked(client(owner=WORKER)), False),  # accepted, not served
        (looked(client()), looked(client(owner=WORKER, acked=100)), True),
        (looked(client()), looked(), True),  # accepted and done between the looks
        (looked(client(1, age_s=2), client(2)), looked(client(1, age_s=2)), False),  # not its turn: reset
        (looked(client()), looked(queue=1), False),  # reset: it stands in the queue, dead
        (looked(), looked(client(owner=WORKER, acked=100, waiting=False)), True),
        (looked(), looked(client(owner=WORKER)), False),
    ],
)
def test_movement_is_what_is_said_or_done(before: SocketSample, after: SocketSample, moved: bool) -> None:
    assert moved_between(before, after, None) is moved


def test_another_instance_moves_only_itself() -> None:
    """On a shared socket: what the relief answers is no movement of the suspect, and what nobody is seen to have done is nobody's."""
    mine = frozenset({WORKER})
    assert not moved_between(looked(client(owner=99)), looked(client(owner=99, acked=100)), mine)
    assert not moved_between(looked(client()), looked(client(owner=99, acked=100)), mine)
    assert not moved_between(looked(client()), looked(), mine)
    assert moved_between(looked(client()), looked(client(owner=WORKER, acked=100)), mine)


def test_a_question_of_ours_that_was_given_up_moves_nothing_by_its_end() -> None:
    """A server whose acceptor lives closes what its client has left, also when nobody there answers."""
    before = looked(client(age_s=2, owner=WORKER))
    assert moved_between(before, looked(), None)
    assert not moved_between(before, looked(), None, (NOW - 2.02,))
    assert moved_between(before, looked(), None, (NOW - 3,))


def test_request_keeps_its_age_when_it_is_accepted_or_its_client_sends_more() -> None:
    accepted = follow(looked(client(age_s=3)), looked(client(age_s=0.1, owner=WORKER)))
    assert accepted.clients[0].since == NOW - 3
    next_request = follow(looked(client(age_s=3, owner=WORKER)), looked(client(age_s=0.1, owner=WORKER, acked=100)))
    assert next_request.clients[0].since == NOW - 0.1


# --- for any window -------------------------------------------------------------------------------------------------------------

instants = st.floats(min_value=NOW - 120, max_value=NOW + 1)
threads = st.builds(
    ThreadSample,
    tid=st.integers(10, 14),
    state=st.sampled_from("RSDTtZI"),
    run_ns=st.integers(0, 10**12),
    wait_ns=st.integers(0, 10**12),
    place=st.sampled_from(["", "lock", "sleep", "socket", "poll", "kernel_word"]),
)
processes = st.builds(
    ProcessSample,
    pid=st.integers(10, 14),
    parent=st.integers(1, 14),
    state=st.sampled_from("RSDTtZI"),
    cpu_s=st.floats(0, 1e6),
    rss_bytes=st.integers(0, 10**12),
    threads=st.lists(threads, max_size=3).map(tuple),
)
samples = st.lists(st.builds(TreeSample, at=instants, processes=st.lists(processes, max_size=3).map(tuple)), max_size=12)
clients = st.builds(
    Client,
    key=st.tuples(st.just("127.0.0.1"), st.integers(1, 5), st.just(80)),
    inode=st.integers(0, 5),
    owner=st.integers(0, 14),
    waiting=st.booleans(),
    unread=st.booleans(),
    since=instants,
    acked=st.integers(0, 1000),
)
sockets = st.builds(SocketSample, at=instants, queue=st.integers(0, 9), backlog=st.just(9), clients=st.lists(clients).map(tuple))
windows = st.builds(
    Window,
    now=st.just(NOW),
    hang=st.builds(HangSettings, suspect_s=st.floats(0.1, 5), certain_s=st.floats(5, 60), blocked_s=st.none() | st.floats(5, 90)),
    spawned=st.just(NOW - 200),
    moved=instants,
    ready=st.none() | st.just(NOW - 150),
    watched=st.booleans(),
    asked=st.none() | instants,
    passed=st.integers(0, 9),
    doubted=st.none() | instants,
    shared=st.booleans(),
    ill=st.booleans(),
    stopping=st.booleans(),
    trees=samples.map(lambda each: tuple(sorted(each, key=lambda sample: sample.at))),
    sockets=st.none() | sockets,
    blind=st.sampled_from(["", "late"]),
    host=st.none() | st.just(Host(2, 1.0)),
)


@given(windows)
@settings(max_examples=150, deadline=None)
def test_any_window_has_a_verdict_and_silence_needs_its_time(seen: Window) -> None:
    """Total; never suspect while something moved within `suspect`; never hung before its limit; never hung by a blind observer."""
    found = diagnose(seen)
    verdict = found.verdict
    assert verdict.because
    still_s = seen.now - seen.moved
    if verdict.kind in SILENT and "state T" not in verdict.because:
        assert found.since is not None
        assert still_s >= seen.hang.suspect_s
        assert found.since >= seen.moved
    if verdict.kind in (Kind.SPINNING, Kind.LOCKED):
        assert still_s >= seen.hang.certain_s
    if verdict.kind is Kind.BLOCKED:
        assert still_s >= (seen.hang.blocked_s if seen.hang.blocked_s is not None else math.inf)
    if seen.blind or seen.ready is None or seen.stopping or not seen.trees:
        assert verdict.kind in (Kind.UNKNOWN, Kind.STARTING)


@given(sockets, sockets, st.none() | st.frozensets(st.integers(10, 14)))
@settings(max_examples=100, deadline=None)
def test_any_two_looks_can_be_compared(before: SocketSample, after: SocketSample, pids: frozenset[int] | None) -> None:
    followed = follow(before, after)
    assert {each.key for each in followed.clients} == {each.key for each in after.clients}
    moved_between(before, followed, pids)
    assert not moved_between(before, before, pids)


def _ran(seconds: float) -> ThreadSample:
    return ThreadSample(WORKER, "R", int(seconds * 1e9), 0, "")


def _beside_an_acceptor(sample: TreeSample) -> TreeSample:
    leader, worker = sample.processes
    return replace(sample, processes=(leader, replace(worker, threads=(*worker.threads, ThreadSample(12, "S", 0, 0, "epoll")))))


def _instants() -> list[float]:
    return [NOW - 3 + n / 10 for n in range(31)]


def _of_threads(at: float, *, run: float) -> TreeSample:
    four = tuple(ThreadSample(WORKER + n, "S", int(at * run * 1e9), 0, "lock") for n in range(4))
    return TreeSample(at, (ProcessSample(WORKER, 1, "S", 0.0, 10**7, four),))
