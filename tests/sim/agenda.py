"""Virtual time: an agenda of calls, and processors that all running work shares equally.

Pure: no clock but its own. Two calls at the same instant run in the order in which they were put.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

START = 1000.0  # a monotonic clock never starts at zero


class Agenda:
    """What happens next."""

    def __init__(self) -> None:
        self.now = START
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, call, args))

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay_s, call, *args)

    def run_until(self, end: float, done: Callable[[], bool]) -> bool:
        """Run until `end`, or until `done()` is true after a call; says whether it was."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            when, _, call, args = heapq.heappop(heap)
            self.now = when
            call(*args)
            if done():
                return True
        self.now = max(self.now, end)
        return False


class Task:
    """Work on the processors. `finish` is in units of the shared work clock; infinite for a loop that never ends."""

    __slots__ = ("done", "finish", "running")

    def __init__(self, finish: float, done: Callable[[], None] | None) -> None:
        self.finish = finish
        self.done = done
        self.running = True


class Processors:
    """Equal shares: with more running tasks than cores each gets `cores / running` of one (generalised processor sharing).

    The work clock advances at that rate, so that a task's end is one number that a change of the load does not touch.
    """

    def __init__(self, agenda: Agenda, cores: int) -> None:
        self._agenda = agenda
        self._cores = cores
        self._health = 1.0
        self._work = 0.0
        self._seen = agenda.now
        self._running = 0
        self._ends: list[tuple[float, int, Task]] = []
        self._count = 0
        self._plan = 0

    def start(self, work_s: float, done: Callable[[], None] | None) -> Task:
        """Work that ends after `work_s` of a whole core; `done` is called then. Infinite work spins for ever."""
        self._advance()
        task = Task(self._work + work_s, done)
        self._push(task)
        return task

    def stop(self, task: Task) -> None:
        """It ends, or pauses, without being done; `resume` continues it."""
        if task.running:
            self._advance()
            task.running = False
            task.finish -= self._work
            self._running -= 1
            self._arm()

    def resume(self, task: Task) -> None:
        if not task.running:
            self._advance()
            task.running = True
            task.finish += self._work
            self._push(task)

    def set_health(self, share: float) -> None:
        """A sick host gives this share of its speed; 1.0 is all of it."""
        self._advance()
        self._health = share
        self._arm()

    def _push(self, task: Task) -> None:
        self._running += 1
        if task.finish != float("inf"):
            self._count += 1
            heapq.heappush(self._ends, (task.finish, self._count, task))
        self._arm()

    def _rate(self) -> float:
        return self._health * min(1.0, self._cores / self._running) if self._running else 0.0

    def _advance(self) -> None:
        self._work += (self._agenda.now - self._seen) * self._rate()
        self._seen = self._agenda.now

    def _arm(self) -> None:
        ends = self._ends
        while ends and (not ends[0][2].running or ends[0][2].finish != ends[0][0]):
            heapq.heappop(ends)
        self._plan += 1
        if ends:
            left = max(0.0, ends[0][0] - self._work)
            self._agenda.after(left / self._rate(), self._end, self._plan)

    def _end(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._advance()
        _, _, task = heapq.heappop(self._ends)
        task.running = False
        self._running -= 1
        self._arm()
        if task.done is not None:
            task.done()
