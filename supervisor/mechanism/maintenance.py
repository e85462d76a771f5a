"""Maintenance windows: which are open at a wall time, and when that changes next, by the host's clock and time zone.

No state, nothing that blocks. A window is given in local time, so an hour that a clock change leaves out or repeats moves it by that hour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

from supervisor.model import MaintenanceSettings

DAY_S = 86400.0
LOOK_S = 60.0  # at least so often the clock is looked at: it may be set


def muted(windows: Iterable[MaintenanceSettings], programs: Sequence[str], wall: float) -> tuple[tuple[str, ...], float]:
    """The programs with an open window at `wall` (seconds since the epoch), and after how many seconds to ask again."""
    found: set[str] = set()
    again_s = LOOK_S
    for window in windows:
        for start in _starts(window, wall):
            for change in (start, start + window.lasts_s):
                if change > wall:
                    again_s = min(again_s, change - wall)
            if start <= wall < start + window.lasts_s:
                found.update(window.programs or programs)
    return tuple(name for name in programs if name in found), again_s


def _starts(window: MaintenanceSettings, wall: float) -> Iterable[float]:
    """The instants at which it began or begins, from the oldest that may still last to tomorrow's."""
    today = time.localtime(wall)
    for offset in range(-math.ceil(window.lasts_s / DAY_S), 2):
        day = (today.tm_year, today.tm_mon, today.tm_mday + offset, 0, window.minute, 0, 0, 0, -1)
        start = time.mktime(day)
        if not window.days or time.localtime(start).tm_wday in window.days:
            yield start
