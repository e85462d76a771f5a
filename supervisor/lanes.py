"""The only maker of threads: whatever may block runs in a lane, in order, with a deadline, and never on the loop.

A lane is one daemon thread behind a bounded queue. A call that outlives its deadline is given up: its thread is left to itself (a
thread cannot be ended) and a fresh one takes its place, at most `STUCK_LIMIT` times; when one of those comes back it ends. Daemon
threads, so that a dead disk never holds the exit of the process (`asyncio.to_thread` would: its executor is joined at exit).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

STUCK_LIMIT = 4  # threads given up per lane: beyond it the thing behind the lane is dead, and more threads would not help


class LaneError(Exception):
    """The call was not done in time, or was not taken at all. Its text says which, for people."""


class _Call(Generic[T]):
    __slots__ = ("args", "call", "given_up", "late", "loop", "result", "timer")

    def __init__(self, call: Callable[..., T], args: tuple[Any, ...], late: Callable[[T], object] | None) -> None:
        self.call = call
        self.args = args
        self.late = late
        self.given_up = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.result: asyncio.Future[T] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """One daemon thread that runs calls in order."""

    def __init__(self, name: str, *, limit: int = 1000) -> None:
        """limit: calls that may wait; one more is refused, so that a dead disk cannot fill the memory."""
        self.name = name
        self._limit = limit
        self._calls: deque[_Call[Any]] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._current: _Call[Any] | None = None
        self._stuck = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def run(
        self, call: Callable[..., T], *args: Any, deadline_s: float, late: Callable[[T], object] | None = None
    ) -> asyncio.Future[T]:
        """Run `call(*args)` in the lane and give its result, or its exception, to the loop that asks.

        deadline_s  from now; then the future raises LaneError
        late        gets the result that nobody waits for any more (the deadline passed, or who asked was cancelled): to undo what was done
        raises      LaneError (in the future) when the queue is full or the deadline passes
        """
        loop = asyncio.get_running_loop()
        job: _Call[T] = _Call(call, args, late)
        job.loop, job.result = loop, loop.create_future()
        if not self._put(job):
            job.result.set_exception(LaneError(f"{self.name}: {self._limit} calls wait already"))
            return job.result
        job.timer = loop.call_later(deadline_s, self._give_up, job, deadline_s)
        return job.result

    def put(self, call: Callable[..., object], *args: Any) -> bool:
        """Run `call(*args)` some time; nobody waits for it, and it must not raise. False: the queue is full and it is not taken."""
        return self._put(_Call(call, args, None))

    def close(self) -> None:
        """Take no more calls; those that wait are still run, as long as the process lives."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def drain(self, deadline_s: float) -> bool:
        """Close, and wait until all that was put is done. Blocks: for the end of the process, when there is no loop any more."""
        self.close()
        thread = self._thread
        if thread is not None:
            thread.join(deadline_s)
        return thread is None or not thread.is_alive()

    def _put(self, job: _Call[Any]) -> bool:
        with self._ready:
            if self._closed or len(self._calls) >= self._limit:
                return False
            self._calls.append(job)
            if self._thread is None:
                self._start()
            self._ready.notify()
            return True

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name=f"lane-{self.name}", daemon=True)
        self._thread.start()

    def _give_up(self, job: _Call[Any], deadline_s: float) -> None:
        """On the loop, when a deadline has passed."""
        assert job.result is not None
        with self._ready:
            job.given_up = True
            running = self._current is job
            if running and self._stuck < STUCK_LIMIT:
                self._stuck += 1
                self._current = None
                self._start()
            elif not running and job in self._calls:
                self._calls.remove(job)
        if not job.result.done():
            job.result.set_exception(LaneError(f"{self.name}: not done within {deadline_s:g} s"))

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._ready:
                while not self._calls and not self._closed and self._thread is me:
                    self._ready.wait()
                if self._thread is not me or not self._calls:
                    return
                job = self._calls.popleft()
                self._current = job
            result, error = None, None
            try:
                result = job.call(*job.args)
            except Exception as problem:  # noqa: BLE001  whatever the call raises belongs to who asked for it
                error = problem
            with self._ready:
                mine = self._current is job
                if mine:
                    self._current = None
                else:
                    self._stuck -= 1
                given_up = job.given_up
            if job.loop is None and error is not None:  # nobody waits who could be told: it is ours
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, me)))
            elif given_up:
                if job.late is not None and error is None:
                    job.late(result)
            elif job.loop is not None:
                try:
                    job.loop.call_soon_threadsafe(_answer, job, result, error)
                except RuntimeError:  # the loop is closed: the process ends, nobody waits for this any more
                    return


def _answer(job: _Call[Any], result: Any, error: Exception | None) -> None:
    assert job.result is not None
    if job.timer is not None:
        job.timer.cancel()
    if job.result.done():  # the deadline passed meanwhile, or who asked was cancelled
        if job.late is not None and error is None:
            job.late(result)
    elif error is not None:
        job.result.set_exception(error)
    else:
        job.result.set_result(result)
