"""Less of the processors for a suspect while its relief boots: the nice value of its autogroup.

Each session is an autogroup of the scheduler, and nice values count only within one (sched(7)); so a suspect that spins is held back as
a whole, by one write. Where the kernel has no autogroups, or the session is not ours to change, nothing happens.
"""

from __future__ import annotations

import contextlib

DEMOTED = 10  # a relief of 2 s boot on one busy core: ready at 4.0 s instead of 6.3 s, measured
NORMAL = 0


def set_share(pid: int, nice: int) -> None:
    """Give the session of `pid` the nice value `nice` (-20 to 19, sched(7)) among the other sessions."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
        file.write(str(nice))
