"""Values on their way to a lane: bounded, taken in batches, and what does not fit is counted.

Any thread may add; the lane's thread takes all that waits at once, and in a long burst it lets more come together, so that this is written
in few goes: each costs a system call or a transaction, and the loop its turn. What comes alone is written at once. Promises that adding
never blocks, that the order is kept, and that every value was either given to `flush` or counted as lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from supervisor.lanes import Lane

T = TypeVar("T")

GATHER_S = 0.02  # from one batch to the next in a burst, once that has had BURST batches within PAUSE_S of each other
BURST = 16  # far more than what one exit makes: a death of ours loses only what nobody has written yet
PAUSE_S = 0.1


class Backlog(Generic[T]):
    """The queue in front of one writer. `flush(values, lost_count)` runs in the lane; the lost ones belong after the values."""

    def __init__(self, lane: Lane, flush: Callable[[list[T], int], None], *, limit: int) -> None:
        """limit: values that may wait while a batch is being written."""
        self._lane = lane
        self._flush = flush
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: list[T] = []
        self._lost = 0
        self._asked = False
        self._hurried = threading.Event()
        self._batches, self._flushed = 0, 0.0  # of the burst, and when the last one was written

    def add(self, value: T, *, reserve: int = 0) -> bool:
        """Hand one value over; False: it did not fit, and is counted. `reserve`: how far beyond the limit this one may go."""
        with self._lock:
            if len(self._waiting) >= self._limit + reserve:
                self._lost += 1
                return False
            self._waiting.append(value)
            if self._asked:
                return True
            self._asked = True
        if not self._lane.put(self._work):
            with self._lock:
                self._asked = False
        return True

    def hurry(self) -> None:
        """The end is near: nothing more is waited for."""
        self._hurried.set()

    def _work(self) -> None:
        while True:
            with self._lock:
                values, lost = self._waiting, self._lost
                self._waiting, self._lost = [], 0
                self._asked = bool(values or lost)
                if not self._asked:
                    return
            self._flush(values, lost)
            now = time.monotonic()
            self._batches = self._batches + 1 if now - self._flushed < PAUSE_S else 1
            self._flushed = now
            if self._batches > BURST:
                self._hurried.wait(GATHER_S)
