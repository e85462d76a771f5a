"""The dead-man ping: an address that is asked each minute while the loop turns, so that somebody outside notices our silence.

The loop's own timer asks for it: a loop that hangs sends none. The request is made in a lane with a deadline; a ping that fails is said
once, and again when one comes through. The address may hold a token: sentences name the host alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.alerts.http import Endpoint
from supervisor.alerts.message import ChannelError
from supervisor.lanes import Lane, LaneError

PING_S = 60.0  # between two: services that wait for one count in minutes
DEADLINE_S = 20.0  # of one, name resolution with it: less than the time to the next one
SAID_AFTER = 3  # failed pings in a row: one lost packet is no news


class Ping:
    """To be made and ended on the loop's thread."""

    def __init__(self, url: str, report: Callable[[str], None], every_s: float = PING_S) -> None:
        """Begin, at once. `report` gets a sentence when it fails for long, and when it comes through again.

        raises  ChannelError for an address that is none
        """
        self._endpoint = Endpoint(url, "ping")
        self._report = report
        self._every_s = every_s
        self._lane = Lane("ping", limit=1)
        self._failed = 0
        self._task = asyncio.get_running_loop().create_task(self._go_on())

    def end(self) -> None:
        self._task.cancel()
        self._lane.close()

    async def _go_on(self) -> None:
        while True:
            problem = await self._once()
            if problem:
                self._failed += 1
                if self._failed == SAID_AFTER:
                    self._report(
                        f"the ping to {self._endpoint.host} does not arrive: {problem}; whoever waits for it will think us dead"
                    )
            else:
                if self._failed >= SAID_AFTER:
                    self._report(f"the ping to {self._endpoint.host} arrives again")
                self._failed = 0
            await asyncio.sleep(self._every_s)

    async def _once(self) -> str:
        """What went wrong, "" for nothing."""
        try:
            status = await self._lane.run(self._endpoint.ask, "GET", {}, b"", DEADLINE_S / 2, deadline_s=DEADLINE_S)
        except (ChannelError, LaneError) as problem:
            return str(problem)
        return "" if 200 <= status <= 299 else f"it answered {status}"
