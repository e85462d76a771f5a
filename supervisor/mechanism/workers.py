"""The workers of one instance that owe an answer for long, as /proc shows them: whether one is free, and who its siblings are.

It looks only at workers that owe; what follows from it is `policy.owing`'s. It remembers who a worker is, so that a verdict on it can be
told with its start time, and when it was last told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from supervisor.mechanism.listening import Listening
from supervisor.mechanism.tree import start_ticks
from supervisor.policy.facts import WorkerLook, WorkersSeen
from supervisor.policy.samples import Client, ProcessSample, SocketSample, TreeSample

_NOBODY: frozenset[int] = frozenset()


class Workers:
    """To be shown each full sample of the tree while a worker owes."""

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}
        self._told: dict[int, float] = {}
        self._serving: dict[int, bool] = {}  # siblings: whether they hold a listening socket

    def forget(self) -> None:
        self._ticks.clear()
        self._told.clear()
        self._serving.clear()

    def look(
        self, sample: TreeSample, owed: Mapping[int, Collection[Client]], seen: SocketSample, listening: Listening
    ) -> WorkersSeen:
        """Look at those that owe.

        sample  full, not older than the look `seen`
        owed    what each of them owes
        """
        processes = {process.pid: process for process in sample.processes[1:]}
        ticks = {pid: self._ticks.get(pid) or start_ticks(pid) for pid in owed if pid in processes}
        self._ticks = {pid: known for pid, known in ticks.items() if known is not None}
        self._told = {pid: at for pid, at in self._told.items() if pid in self._ticks}
        owners = {client.owner for client in seen.clients}
        return WorkersSeen(sample.at, tuple(self._one(processes, pid, owed[pid], owners, listening) for pid in self._ticks))

    def start_ticks(self, pid: int) -> int | None:
        """Of a worker that is still the process that was seen, else None."""
        ticks = self._ticks.get(pid)
        return ticks if ticks is not None and start_ticks(pid) == ticks else None

    def told_at(self, pid: int) -> float:
        return self._told.get(pid, -math.inf)

    def tell(self, pid: int, now: float) -> None:
        self._told[pid] = now

    def _one(
        self,
        processes: Mapping[int, ProcessSample],
        pid: int,
        owes: Collection[Client],
        owners: Collection[int],
        listening: Listening,
    ) -> WorkerLook:
        free = listening.free(processes[pid], frozenset(client.inode for client in owes))
        siblings = [each for each in self._siblings(processes, pid, owners, listening) if each.pid not in self._ticks]
        return WorkerLook(pid, free, len(siblings), any(listening.free(sibling, _NOBODY) for sibling in siblings))

    def _siblings(
        self, processes: Mapping[int, ProcessSample], pid: int, owners: Collection[int], listening: Listening
    ) -> list[ProcessSample]:
        """Those of the same parent that take connections too."""
        found = []
        for process in processes.values():
            if process.parent != processes[pid].parent or process.pid == pid or process.state == "Z":
                continue
            if process.pid not in self._serving:
                self._serving[process.pid] = listening.holds(process.pid)
            if self._serving[process.pid] or process.pid in owners:
                found.append(process)
        return found
