"""Strangers: instances that live and that no handover names, because it could not be written when they were started.

There are never two copies: such a one becomes an instance again, rather than be left beside another. It serves, as far as anybody knows,
so it is not ended for what is not its fault. It counts as of the build that was written down, or is configured now.
"""

from __future__ import annotations

from supervisor.model import Instance, InstanceId, Program, State, Wanted
from supervisor.policy.history import start_s
from supervisor.policy.values import replace


def join(program: Program, id: InstanceId, pid: int, start_ticks: int, now: float) -> Program:
    """The program with a stranger among its instances, starting: it has its time to answer. Somebody wanted it, or it would not live."""
    stranger = Instance(
        id=id,
        build=program.build.number,
        state=State.STARTING,
        since=now,
        spawned=now,
        pid=pid,
        start_ticks=start_ticks,
        opened=True,
        start_s=start_s(program),
    )
    instances = (*program.instances, stranger)
    return replace(program, wanted=Wanted.UP, started=max(program.started, id.number), instances=instances)
