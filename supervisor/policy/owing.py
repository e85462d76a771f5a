"""The workers of one instance that have owed an answer for long: since when nothing of each has moved. Pure.

A pre-fork server's worker holds the connections that it accepted, so that the kernel tells who owes an answer. It moves by saying
something, by finishing or reading a request, and by waiting for connections with a thread that is free: an event loop with a long
poll among its connections is alive. Nothing is kept of workers that owe nothing for long.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from supervisor.policy.facts import WorkerLook, WorkersSeen
from supervisor.policy.samples import Client, SocketSample, WorkerSeen, moved_between

OLD_S = 2.0  # most requests are done sooner: whoever owes an answer for longer is looked at
UNHEARD_S = 1.0  # a request that was accepted and not read for so long: no thread is free, whoever waits for connections


def owed(seen: SocketSample, pids: Collection[int]) -> dict[int, list[Client]]:
    """Which of these processes have owed an answer for long, and all that each of them owes."""
    found: dict[int, list[Client]] = {}
    for client in seen.clients:
        if client.waiting and client.inode and client.owner in pids:
            found.setdefault(client.owner, []).append(client)
    return {pid: clients for pid, clients in found.items() if any(seen.at - client.since >= OLD_S for client in clients)}


@dataclass(slots=True)
class _Worker:
    alive: float
    owed: int = 0
    siblings: int = 0
    others: float = -math.inf


class Owing:
    """To be told of each look at the connections (`follow`), and of each look at the workers after one (`see`)."""

    def __init__(self) -> None:
        self._known: dict[int, _Worker] = {}

    def __bool__(self) -> bool:
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

    def move(self, at: float) -> None:
        """Nothing is known of what happened before this instant."""
        for worker in self._known.values():
            worker.alive = max(worker.alive, at)

    def follow(self, before: SocketSample, seen: SocketSample) -> None:
        """Take up what moved between two looks in which connections were attributed."""
        for pid, worker in self._known.items():
            if moved_between(before, seen, frozenset({pid})) or _read_more(before, seen, pid):
                worker.alive = max(worker.alive, seen.at)

    def see(self, fact: WorkersSeen, seen: SocketSample, emptied: float | None, moved: float) -> None:
        """Take up who owes an answer for long.

        seen     the newest look at the connections
        emptied  since when each look found the accept queue empty; None: the last one did not
        moved    the last instant at which something of the whole instance moved
        """
        clients = owed(seen, {look.pid for look in fact.workers})
        # It took the request at the latest when the queue was empty again; before that it may have worked on another.
        began = seen.at if emptied is None else min(emptied, seen.at)
        self._known = {look.pid: self._known.get(look.pid) or _Worker(began) for look in fact.workers if look.pid in clients}
        for look in fact.workers:
            if (worker := self._known.get(look.pid)) is not None:
                _take(worker, look, clients[look.pid], seen.at)
                if moved <= worker.alive and look.sibling_free:
                    worker.others = fact.at


def _take(worker: _Worker, look: WorkerLook, clients: list[Client], seen_at: float) -> None:
    worker.owed, worker.siblings = len(clients), look.siblings
    worker.alive = max([worker.alive, *(client.since for client in clients if not client.unread)])
    full = any(client.read_bytes <= 0 and seen_at - client.since >= UNHEARD_S for client in clients)
    if look.free and not full:
        worker.alive = max(worker.alive, seen_at)


def _read_more(before: SocketSample, seen: SocketSample, pid: int) -> bool:
    """Whether it read more of a request that it had already: a slow upload moves."""
    old = {client.key: client.read_bytes for client in before.clients if client.owner == pid}
    return any(client.key in old and client.read_bytes > old[client.key] for client in seen.clients if client.owner == pid)
