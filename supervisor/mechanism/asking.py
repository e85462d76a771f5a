"""The questions to one instance: each target asked one at a time, and what is known from their answers.

It drives `probes` and keeps facts; it judges nothing. Of several targets the first (http before tcp before a command) says
whether the instance moves and answers; the others must have answered once before it is ready, and are told when they fail.
Runs on the loop; every question ends at its timeout.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from statistics import median

from supervisor.mechanism.probes import CommandTarget, Outcome, Target, Whose, ask

USUAL_COUNT = 8  # answers from which the usual time is taken, their median: one slow answer makes no habit

LATE_S = 0.25  # an answer that takes this much longer than usual is odd


class Asker:
    """What is known of one instance's answers.

    moved    the last instant at which it answered something, however badly
    failed   when the first question was asked that is unanswered since; None: the last one was answered
    answer   what the last question came to, for people
    ill      the last answer said that it is not well
    passed   questions in a row that other instances took, since it last moved
    """

    def __init__(self, targets: tuple[Target, ...], heard: Callable[[], None]) -> None:
        """heard: called on the loop after each outcome."""
        self.targets = targets
        self.moved: float | None = None
        self.failed: float | None = None
        self.answer = ""
        self.ill = False
        self.passed = 0
        self._heard = heard
        self._usual_s: deque[float] = deque(maxlen=USUAL_COUNT)
        self._answered: set[Target] = set()
        self._asked: dict[Target, float] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._doubted: set[Target] = set()

    @property
    def asking(self) -> bool:
        return bool(self._tasks)

    @property
    def all_answered(self) -> bool:
        return bool(self.targets) and self._answered >= set(self.targets)

    def missing(self) -> float | None:
        """Since when an answer to the first target is overdue or missing; it is due after the time that it usually takes."""
        first = self.targets[0] if self.targets else None
        candidates = [] if self.failed is None else [self.failed]
        if first in self._asked and not isinstance(first, CommandTarget):  # a command takes the time that it takes
            candidates.append(self._asked[first] + (median(self._usual_s) if self._usual_s else 0.0))
        return min(candidates, default=None)

    def ask(self, now: float, timeout_s: float, whose: Callable[[Target], Whose | None]) -> None:
        """Put the question to each target that is not being asked already."""
        for target in self.targets:
            if target not in self._tasks:
                self._asked[target] = now
                self._tasks[target] = asyncio.get_running_loop().create_task(self._put(target, timeout_s, whose(target)))

    def doubt(self) -> None:
        """From now on another instance may answer what is being asked without attribution: then the answer says nothing of this one."""
        self._doubted.update(self._tasks)

    def absolve(self, at: float) -> None:
        """It moved at this instant: what was asked before and failed says nothing any more."""
        self.passed = 0
        if self.failed is not None and self.failed <= at:
            self.failed = None

    def settle(self) -> None:
        """It has become ready: what answers took while it started is no habit."""
        self._usual_s.clear()

    def retarget(self, targets: tuple[Target, ...]) -> None:
        if targets != self.targets:
            self.close()
            self.targets = targets
            self.failed = None

    def close(self) -> None:
        """Give up what is being asked."""
        for task in self._tasks.values():
            task.cancel()
        self._forget()

    def _forget(self) -> None:
        self._tasks.clear()
        self._asked.clear()
        self._doubted.clear()

    async def _put(self, target: Target, timeout_s: float, whose: Whose | None) -> None:
        outcome = await ask(target, timeout_s=timeout_s, whose=whose)
        if self._tasks.get(target) is not asyncio.current_task():
            return  # it was given up, and another may be under way
        del self._tasks[target], self._asked[target]
        doubted = target in self._doubted and whose is None and (outcome.answered or outcome.spoke)
        self._doubted.discard(target)
        if not doubted:
            self._take(target, outcome)
        elif outcome.took_s >= LATE_S and self.failed is None:  # it did not answer while it was alone: that stands
            self.failed = outcome.at
        self._heard()

    def _take(self, target: Target, outcome: Outcome) -> None:
        first = target == self.targets[0]
        if outcome.answered:
            self._answered.add(target)
        if outcome.other:
            self.passed += 1
            return
        if not first:
            if outcome.answered is False:
                self.ill, self.answer = True, outcome.text
            return
        self.answer = outcome.text
        if outcome.answered or outcome.spoke:
            self.moved = outcome.at + outcome.took_s
            self.failed = None
            self.passed = 0
            self.ill = not outcome.answered
            self._usual_s.append(outcome.took_s)
        elif outcome.answered is False and self.failed is None:
            self.failed = outcome.at + (outcome.took_s if isinstance(target, CommandTarget) else 0.0)
