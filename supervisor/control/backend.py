"""What the control socket needs of the daemon, and nothing more: the daemon implements it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from supervisor.control.views import About, Vitals
from supervisor.model import Applied, Event, Fleet, InstanceId, Settings

CHANNELS_S = 30.0  # that a test of all channels may take

# A note as people get it: {"time": "2026-01-01T00:00:00.100Z", "subject": "store:7", "event": "instance.started", "text": "..."}
Story = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration file as it was read just now, with what the disk says of each program."""

    settings: Settings
    applied: Applied


class Backend(Protocol):
    """What the control socket needs of the daemon. All of it is called on the loop and returns at once, but for what is awaited."""

    def about(self) -> About: ...

    def fleet(self) -> Fleet:
        """The state as the last step left it."""
        ...

    def vitals(self, id: InstanceId) -> Vitals | None:
        """The newest sample of an instance's tree; None before the first."""
        ...

    def post(self, event: Event) -> None: ...

    def until(self, predicate: Callable[[Fleet], bool], deadline_s: float) -> Awaitable[bool]:
        """Ask the predicate now and after each step; True once it holds, False after `deadline_s` seconds.

        It is asked after the step's notes were handed to the subscribers, so that the reason of a failure is known before its end.
        """
        ...

    def read(self, path: str | None) -> Awaitable[Reading]:
        """Load a configuration in a lane; None is the running one's file, read again.

        raises  config.ConfigErrors, LaneError
        """
        ...

    def find(self, path: str) -> Awaitable[str]:
        """The directory at an absolute path, free of symlinks, looked up in a lane.

        raises  OSError where there is none, LaneError
        """
        ...

    def try_new(self) -> Awaitable[str]:
        """Try the code that is installed now, with the running configuration's file, in a lane: its version.

        raises  mechanism.upgrade.Unusable, LaneError
        """
        ...

    def try_channels(self) -> Awaitable[list[dict[str, Any]]]:
        """Send a test message through every channel; of each its name, the problem ("" for none) and what it took, within CHANNELS_S."""
        ...

    def give_way(self, version: str) -> None:
        """End at once, for the next daemon to take over all that runs. Does not return."""
        ...

    def take_up(self, reading: Reading) -> None:
        """Make it the running configuration: post its Applied, keep the rest. What SIGHUP does after `read`."""
        ...

    def events(self, limit: int, program: str) -> Awaitable[list[Story]]:
        """The newest `limit` notes, oldest first, of one program ("" is all), from the journal in a lane.

        raises  LaneError, JournalError
        """
        ...

    def incidents(self, limit: int, program: str) -> Awaitable[list[dict[str, Any]]]:
        """The newest incidents, the newest first, of one program ("" is all), from the journal in a lane.

        raises  LaneError, JournalError
        """
        ...

    def incident(self, number: int) -> Awaitable[dict[str, Any] | None]:
        """All that is kept of one; None where there is none. Raises as `incidents` does."""
        ...

    def subscribe(self, callback: Callable[[Story], None]) -> Callable[[], None]:
        """Call back with each note as it is made, on the loop. The answer is a function that ends it."""
        ...
