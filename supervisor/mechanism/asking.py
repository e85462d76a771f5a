"""The questions to one instance: each target is asked one at a time, and what comes of it is told as facts.

It drives `probes`; what follows from the answers is `policy.answers`'. Of several targets the first (http before tcp before a command)
says whether the instance moves and answers; the others must have answered once before it is ready, and are told when they fail.
Runs on the loop; every question ends at its timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from supervisor.mechanism.probes import CommandTarget, Outcome, Target, Whose, ask
from supervisor.policy.facts import Asked, Heard, Unasked


class Asker:
    """Puts the questions to one instance."""

    def __init__(
        self, targets: tuple[Target, ...], tell: Callable[[Asked | Heard | Unasked], None], heard: Callable[[], None]
    ) -> None:
        """tell: called on the loop with each question and each outcome. heard: called after each outcome."""
        self.targets = targets
        self._tell = tell
        self._heard = heard
        self._answered: set[Target] = set()
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._doubted: set[Target] = set()

    @property
    def asking(self) -> bool:
        return bool(self._tasks)

    @property
    def all_answered(self) -> bool:
        return bool(self.targets) and self._answered >= set(self.targets)

    def ask(self, now: float, timeout_s: float, whose: Callable[[Target], Whose | None]) -> None:
        """Put the question to each target that is not being asked already."""
        for target in self.targets:
            if target not in self._tasks:
                if target == self.targets[0]:
                    self._tell(Asked(now, patient=isinstance(target, CommandTarget)))
                self._tasks[target] = asyncio.get_running_loop().create_task(self._put(target, timeout_s, whose(target)))

    def doubt(self) -> None:
        """From now on another instance may answer what is being asked without attribution: then the answer says nothing of this one."""
        self._doubted.update(self._tasks)

    def retarget(self, targets: tuple[Target, ...]) -> None:
        if targets != self.targets:
            self.close()
            self.targets = targets
            self._tell(Unasked(time.monotonic()))

    def close(self) -> None:
        """Give up what is being asked."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._doubted.clear()

    async def _put(self, target: Target, timeout_s: float, whose: Whose | None) -> None:
        outcome = await ask(target, timeout_s=timeout_s, whose=whose)
        if self._tasks.get(target) is not asyncio.current_task():
            return  # it was given up, and another may be under way
        del self._tasks[target]
        doubted = target in self._doubted and whose is None and (outcome.answered or outcome.spoke)
        self._doubted.discard(target)
        if outcome.answered and not doubted:
            self._answered.add(target)
        self._tell(self._fact(target, outcome, doubted=doubted))
        self._heard()

    def _fact(self, target: Target, outcome: Outcome, *, doubted: bool) -> Heard:
        return Heard(
            at=outcome.at + outcome.took_s,
            asked=outcome.at,
            answered=outcome.answered,
            text=outcome.text,
            spoke=outcome.spoke,
            other=outcome.other,
            doubted=doubted,
            first=target == self.targets[0],
            patient=isinstance(target, CommandTarget),
        )
