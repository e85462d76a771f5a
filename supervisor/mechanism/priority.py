"""Less of the processors for a suspect while its relief boots: the weight of its control group, or the nice value of its autogroup.

Where the groups are ours (cgroups.py) and have the cpu controller, the weight of the suspect's is lowered, by one write. Elsewhere each
session is an autogroup of the scheduler, and nice values count only within one (sched(7)); so a suspect that spins is held back as
a whole, also by one write. Where the kernel has neither, or the session is not ours to change, nothing happens.
"""

from __future__ import annotations

import contextlib

from supervisor.mechanism.cgroups import set_nice

DEMOTED = 10  # a relief of 2 s boot on one busy core: ready at 4.0 s instead of 6.3 s, measured
NORMAL = 0


def set_share(pid: int, nice: int, group: str = "") -> None:
    """Give the group or the session of `pid` the nice value `nice` (-20 to 19, sched(7)) among the others."""
    if set_nice(group, nice):
        return
    with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
        file.write(str(nice))
