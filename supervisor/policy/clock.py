"""The one place where an instant is compared with the time: asking whether it has come arms the wake-up for when it has not.

So nothing can wait without being woken: a state without a way out cannot be written by forgetting a timer.
"""

from __future__ import annotations


class Clock:
    """The time of one settling. `wake` is the earliest instant that was asked for and has not come."""

    __slots__ = ("now", "wake")

    def __init__(self, now: float) -> None:
        self.now = now
        self.wake: float | None = None

    def due(self, instant: float) -> bool:
        """Whether `instant` (monotonic seconds) has come; when not, it is armed."""
        if instant <= self.now:
            return True
        if self.wake is None or instant < self.wake:
            self.wake = instant
        return False
