"""Lanes run what may block, in order, with deadlines, and never hold the loop or the exit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from supervisor.lanes import STUCK_LIMIT, Lane, LaneError


def run(work: Callable[[Lane], object], lane: Lane) -> None:
    async def main() -> None:
        result = work(lane)
        assert asyncio.iscoroutine(result)
        await result

    asyncio.run(main())
    lane.close()


def test_calls_run_in_order_in_one_thread_of_their_own() -> None:
    async def work(lane: Lane) -> None:
        names = await asyncio.gather(*(lane.run(lambda n=n: (n, threading.current_thread().name), deadline_s=5) for n in range(20)))
        assert names == [(n, "lane-x") for n in range(20)]

    run(work, Lane("x"))


def test_an_exception_of_the_call_reaches_who_asked() -> None:
    async def work(lane: Lane) -> None:
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0, deadline_s=5)
        assert await lane.run(int, "7", deadline_s=5) == 7

    run(work, Lane("x"))


def test_a_call_that_outlives_its_deadline_is_given_up_and_the_lane_goes_on() -> None:
    gate, undone = threading.Event(), []

    def late(result: str) -> None:
        undone.append(result)
        done.set()

    done = threading.Event()

    async def work(lane: Lane) -> None:
        with pytest.raises(LaneError, match=r"not done within 0\.05 s"):
            await lane.run(lambda: gate.wait() and "made", deadline_s=0.05, late=late)
        assert await lane.run(int, "7", deadline_s=5) == 7
        gate.set()
        assert await lane.run(done.wait, 5, deadline_s=6)
        assert undone == ["made"]

    run(work, Lane("x"))


def test_what_is_made_for_somebody_who_was_cancelled_is_undone() -> None:
    gate, done = threading.Event(), threading.Event()

    async def work(lane: Lane) -> None:
        waiting = lane.run(gate.wait, 5, deadline_s=6, late=lambda _: done.set())
        waiting.cancel()
        gate.set()
        assert await lane.run(int, "7", deadline_s=5) == 7
        await asyncio.sleep(0)
        assert done.is_set()

    run(work, Lane("x"))


def test_a_full_lane_refuses_and_a_dead_one_keeps_no_more_threads_than_its_limit() -> None:
    gate = threading.Event()
    before = threading.active_count()

    async def work(lane: Lane) -> None:
        for _ in range(STUCK_LIMIT + 3):
            with pytest.raises(LaneError):
                await lane.run(gate.wait, deadline_s=0.01)
        assert threading.active_count() <= before + STUCK_LIMIT + 1
        assert lane.put(gate.wait)
        assert not all(lane.put(gate.wait) for _ in range(5))
        gate.set()

    lane = Lane("x", limit=3)
    run(work, lane)
    assert lane.drain(5.0)


def test_drain_waits_for_what_was_put_and_takes_no_more() -> None:
    seen: list[int] = []
    lane = Lane("x")
    for n in range(5):
        assert lane.put(seen.append, n)
    assert lane.drain(5.0)
    assert seen == [0, 1, 2, 3, 4]
    assert not lane.put(seen.append, 5)


def test_an_exception_that_nobody_waits_for_reaches_the_threads_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda thread: seen.append(thread.exc_type))
    lane = Lane("x")
    lane.put(lambda: 1 // 0)
    after: list[int] = []
    lane.put(after.append, 1)
    assert lane.drain(5.0)
    assert (seen, after) == ([ZeroDivisionError], [1])
