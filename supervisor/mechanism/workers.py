"""The workers of one instance that have owed an answer for long: since when nothing of each has moved.

A pre-fork server's worker holds the connections that it accepted, so that the kernel tells who owes an answer (listening). It moves by
saying something, by finishing or reading a request, and by waiting for connections with a thread that is free: an event loop with a
long poll among its connections is alive. Nothing is kept of workers that owe nothing for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from supervisor.mechanism.listening import Listening
from supervisor.mechanism.tree import start_ticks
from supervisor.policy.samples import Client, ProcessSample, SocketSample, TreeSample, WorkerSeen, moved_between

OLD_S = 2.0  # most requests are done sooner: whoever owes an answer for longer is looked at
UNHEARD_S = 1.0  # a request that was accepted and not read for so long: no thread is free, whoever waits for connections


@dataclass(slots=True)
class _Worker:
    start_ticks: int
    alive: float
    owed: int = 0
    siblings: int = 0
    others: float = -math.inf
    told_at: float = -math.inf


class Workers:
    """To be shown each look at the connections (`follow`), and each full sample of the tree after one (`see`)."""

    def __init__(self) -> None:
        self._known: dict[int, _Worker] = {}
        self._serving: dict[int, bool] = {}  # siblings: whether they hold a listening socket

    @property
    def owing(self) -> bool:
        return bool(self._known)

    @property
    def seen(self) -> tuple[WorkerSeen, ...]:
        return tuple(WorkerSeen(pid, w.alive, w.owed, w.siblings, w.others) for pid, w in self._known.items())

    @property
    def stuck(self) -> frozenset[int]:
        """Those that owe an answer for long, and have siblings that do not."""
        return frozenset(pid for pid, worker in self._known.items() if worker.siblings)

    def forget(self) -> None:
        self._known.clear()
        self._serving.clear()

    def move(self, at: float) -> None:
        """Nothing is known of what happened before this instant."""
        for worker in self._known.values():
            worker.alive = max(worker.alive, at)

    def follow(self, before: SocketSample, seen: SocketSample) -> None:
        """Take up what moved between two looks in which connections were attributed."""
        for pid, worker in self._known.items():
            if moved_between(before, seen, frozenset({pid})) or _read_more(before, seen, pid):
                worker.alive = max(worker.alive, seen.at)

    def see(self, sample: TreeSample, seen: SocketSample, listening: Listening, emptied: float | None, moved: float) -> None:
        """Take up who owes an answer for long.

        sample   full, not older than the look `seen`
        emptied  since when each look found the accept queue empty; None: the last one did not
        moved    the last instant at which something of the whole instance moved
        """
        processes = {process.pid: process for process in sample.processes[1:]}
        owed: dict[int, list[Client]] = {}
        for client in seen.clients:
            if client.waiting and client.inode and client.owner in processes:
                owed.setdefault(client.owner, []).append(client)
        old = {pid for pid, clients in owed.items() if any(seen.at - client.since >= OLD_S for client in clients)}
        self._known = {pid: worker for pid, worker in self._known.items() if pid in old}
        for pid in old:
            self._see(processes, pid, owed[pid], seen, listening, emptied)
        for pid, worker in self._known.items():
            siblings = [p for p in self._siblings(processes, pid, seen, listening) if p.pid not in self._known]
            worker.siblings = len(siblings)
            if moved <= worker.alive and any(listening.free(sibling, frozenset()) for sibling in siblings):
                worker.others = sample.at

    def start_ticks(self, pid: int) -> int | None:
        """Of a worker that is still the process that was seen, else None."""
        worker = self._known.get(pid)
        return worker.start_ticks if worker is not None and start_ticks(pid) == worker.start_ticks else None

    def told_at(self, pid: int) -> float:
        return self._known[pid].told_at

    def tell(self, pid: int, now: float) -> None:
        self._known[pid].told_at = now

    def _see(
        self,
        processes: dict[int, ProcessSample],
        pid: int,
        clients: list[Client],
        seen: SocketSample,
        listening: Listening,
        emptied: float | None,
    ) -> None:
        taken = [client.since for client in clients if not client.unread]
        worker = self._known.get(pid)
        if worker is None:
            ticks = start_ticks(pid)
            if ticks is None:
                return
            # It took the request at the latest when the queue was empty again; before that it may have worked on another.
            worker = self._known[pid] = _Worker(ticks, seen.at if emptied is None else min(emptied, seen.at))
        worker.owed = len(clients)
        worker.alive = max([worker.alive, *taken])
        full = any(client.read_bytes <= 0 and seen.at - client.since >= UNHEARD_S for client in clients)
        if not full and listening.free(processes[pid], frozenset(client.inode for client in clients)):
            worker.alive = max(worker.alive, seen.at)

    def _siblings(
        self, processes: dict[int, ProcessSample], pid: int, seen: SocketSample, listening: Listening
    ) -> list[ProcessSample]:
        """Those of the same parent that take connections too."""
        owners = {client.owner for client in seen.clients}
        parent = processes[pid].parent if pid in processes else 0
        found = []
        for process in processes.values():
            if process.parent != parent or process.pid == pid or process.state == "Z":
                continue
            if process.pid not in self._serving:
                self._serving[process.pid] = listening.holds(process.pid)
            if self._serving[process.pid] or process.pid in owners:
                found.append(process)
        return found


def _read_more(before: SocketSample, seen: SocketSample, pid: int) -> bool:
    """Whether it read more of a request that it had already: a slow upload moves."""
    old = {client.key: client.read_bytes for client in before.clients if client.owner == pid}
    return any(client.key in old and client.read_bytes > old[client.key] for client in seen.clients if client.owner == pid)
