"""Instances as the world really has them, and the customers who wait for them.

A server has slots; a request takes one, works on the shared processors, and leaves. Customers of one program share one queue (the
held socket). What truly moves and when is kept here, beside all that the supervisor may believe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from supervisor.model import InstanceId, Nature
from tests.sim.agenda import Agenda, Processors, Task
from tests.sim.plan import Behaviour

BACKLOG = 64  # customers who may wait in the socket's queue; one more is refused
PATIENCE_S = 20.0  # a customer who waited so long in the queue goes away
RETRY_S = 5.0  # a customer whose request does not come back tries it again after this
RETRIES = 2
TERM_S = 0.05  # from a signal to its effect
RESPAWN_S = 0.3  # a master starts another worker in the place of one that died
PEER = "10.0.0.5:5432"
WORK, LOOP, LOCK, QUERY = "spinning:shop.py:index", "spinning:shop.py:wait", "locked:stock.py:reserve", "blocked:db.py:query"


class Phase(StrEnum):
    GATE = "at its gate"
    BOOT = "booting"
    UP = "up"
    DEAD = "dead"  # its leader; `left` of its tree may live


class Sort(StrEnum):
    NORMAL = "normal"
    REPORT = "report"
    POISON = "poison"  # spins for ever
    LOCK = "lock"  # never comes back, and takes no processor


@dataclass(slots=True, eq=False)
class Request:
    sort: Sort
    work_s: float
    database: bool
    arrived: float
    tries: int = 0
    cause: str = WORK  # where it is, in a look at its stack
    began: float = 0.0
    pid: int = 0  # of the worker that serves it
    task: Task | None = None
    blocked: bool = False
    ended: bool = False


@dataclass(slots=True, eq=False)
class Server:
    """One instance."""

    id: InstanceId
    behaviour: Behaviour
    pid: int
    spawned: float
    phase: Phase = Phase.GATE
    opened: bool = False
    stopping: bool = False
    frozen: str = ""  # "D" or "T"
    wedged: Nature = Nature.NONE  # the whole instance serves nobody any more
    deaf: bool = False  # it boots for ever
    doomed: bool = False  # SIGKILL waits for the end of state D
    asked: bool = False  # a stop signal waits until it can be heard
    left: int = 0
    half_open: bool = False  # its connections to the database died without a word: whoever asks it waits until it is killed
    respawning: int = 0  # workers that died and are not there again
    moved: float | None = None
    answering: float | None = None  # since when it can answer for the first time
    serving: list[Request] = field(default_factory=list)
    own: Task | None = None  # its boot, or the loop of a wedged one

    @property
    def alive(self) -> bool:
        return self.phase is not Phase.DEAD or self.left > 0

    @property
    def capable(self) -> bool:
        """Whether a request that came now would be served."""
        return (
            self.phase is Phase.UP
            and not self.frozen
            and self.wedged is Nature.NONE
            and not self.stopping
            and len(self.serving) + self.respawning < self.behaviour.slots
        )

    def still_since(self, now: float) -> float:
        """The last instant at which something moved, as nobody but the world can know it."""
        if self.capable:
            return now
        return self.moved if self.moved is not None else self.spawned

    def nature(self) -> Nature:
        """What a look would call it, were it hung: a long report looks like a loop."""
        if self.wedged is not Nature.NONE:
            return self.wedged
        if any(r.task is not None for r in self.serving):
            return Nature.SPINNING
        if any(r.blocked for r in self.serving):
            return Nature.BLOCKED
        return Nature.LOCKED if self.serving else Nature.NONE

    def cause(self) -> tuple[str, str]:
        """What evidence would say of it now: where it is, and the peer for whom all of it waits."""
        if self.frozen or self.phase is not Phase.UP:
            return "", ""
        if self.wedged is not Nature.NONE:
            return (LOOP if self.wedged is Nature.SPINNING else LOCK), ""
        spinning = [r for r in self.serving if r.task is not None]
        blocked = [r for r in self.serving if r.blocked]
        seen = spinning or blocked or self.serving
        if not seen:
            return "", ""
        return (QUERY if seen is blocked else seen[0].cause), (PEER if len(blocked) == len(self.serving) else "")


class Site:
    """The servers of one program, and its customers' queue."""

    def __init__(self, name: str, agenda: Agenda, processors: Processors, random: Random) -> None:
        self.name = name
        self.servers: dict[InstanceId, Server] = {}
        self.queue: deque[Request] = deque()
        self.database_up = True
        self.customers = True
        self.stubborn = True  # customers of requests that do not come back try again
        self.served = self.refused = self.broken = 0
        self.ended: Callable[[Server, int], None] = lambda server, status: None
        self.answers: Callable[[Server], None] = lambda server: None
        self._pids = 10_000
        self._agenda = agenda
        self._processors = processors
        self._random = random

    # --- customers

    def arrive(self, request: Request) -> None:
        if len(self.queue) >= BACKLOG:
            self.refused += 1
            return
        self.queue.append(request)
        self.serve()

    def oldest(self) -> float | None:
        """The arrival of the customer who has waited longest in the queue."""
        limit = self._agenda.now - PATIENCE_S
        while self.queue and self.queue[0].arrived < limit:
            self.queue.popleft()
        return self.queue[0].arrived if self.queue else None

    def serve(self) -> None:
        """Give waiting customers to whoever is free."""
        while self.queue:
            free = [server for server in self.servers.values() if server.capable]
            if not free:
                return
            self._begin(self._random.choice(free), self.queue.popleft())

    def _begin(self, server: Server, request: Request) -> None:
        server.moved = request.began = self._agenda.now
        self._pids += 1
        request.pid = self._pids
        server.serving.append(request)
        if request.database and (server.half_open or not self.database_up):
            request.blocked = True
        elif request.sort is not Sort.LOCK:
            self._work(server, request)
        if request.sort in (Sort.POISON, Sort.LOCK) and request.tries < RETRIES:
            self._agenda.after(RETRY_S, self._retry, request)

    def _work(self, server: Server, request: Request) -> None:
        work_s = float("inf") if request.sort is Sort.POISON else request.work_s
        request.task = self._processors.start(work_s, lambda: self._finish(server, request))

    def _finish(self, server: Server, request: Request) -> None:
        request.task = None
        request.ended = True
        server.serving.remove(request)
        server.moved = self._agenda.now
        self.served += 1
        self._leave(server)
        self.serve()

    def _come_back(self, request: Request) -> None:
        if self.stubborn:
            self.arrive(request)

    def _retry(self, request: Request) -> None:
        if not request.ended and self.stubborn:
            self.arrive(Request(request.sort, request.work_s, False, self._agenda.now, request.tries + 1, request.cause))

    def set_database(self, up: bool, half_open: float = 0.0) -> None:
        """half_open: the chance of each server that waits to be left with connections that nobody answers."""
        self.database_up = up
        if up:
            for server in self.servers.values():
                waits = any(request.blocked for request in server.serving)
                server.half_open = server.half_open or (waits and self._random.random() < half_open)
                for request in server.serving if not server.half_open else ():
                    if request.blocked:
                        request.blocked = False
                        self._work(server, request)
                        self._pause(server)

    def forgive(self) -> None:
        """Nobody sends what never comes back any more."""
        self.stubborn = False
        self.queue = deque(r for r in self.queue if r.sort is Sort.NORMAL)

    def mend_loops(self) -> None:
        """In calm weather loops of servers that still serve end: one slot of four would spin for ever, and nobody would mind."""
        for server in list(self.servers.values()):
            if server.capable:
                for request in [r for r in server.serving if r.sort in (Sort.POISON, Sort.LOCK)]:
                    self._drop_task(request)
                    self._finish(server, request)

    def kill_worker(self, server: Server, pid: int) -> None:
        """One worker dies with what it serves, if it is still there; its master starts another."""
        request = next((r for r in server.serving if r.pid == pid), None)
        if request is None or server.phase is not Phase.UP or server.frozen:
            return
        self._drop_task(request)
        server.serving.remove(request)
        server.moved = self._agenda.now
        self._break(request)
        server.respawning += 1
        self._agenda.after(RESPAWN_S, self._respawn, server)
        self._leave(server)

    def _respawn(self, server: Server) -> None:
        server.respawning -= 1
        self.serve()

    # --- the life of a server

    def boot(self, server: Server) -> None:
        if server.phase is not Phase.GATE:
            return
        server.opened = True
        server.phase = Phase.BOOT
        if server.deaf:
            return
        if server.behaviour.boot_cpu:
            server.own = self._processors.start(server.behaviour.boot_s, lambda: self._up(server))
        else:
            self._agenda.after(server.behaviour.boot_s, self._up, server)

    def _up(self, server: Server) -> None:
        server.own = None
        if server.phase is not Phase.BOOT:
            return
        if server.frozen:
            self._agenda.after(0.5, self._up, server)
            return
        server.phase = Phase.UP
        server.moved = server.answering = self._agenda.now
        self.answers(server)
        self.serve()

    def wedge(self, server: Server, nature: Nature) -> None:
        server.wedged = nature
        if nature is Nature.SPINNING:
            server.own = self._processors.start(float("inf"), None)

    def unwedge(self, server: Server) -> None:
        server.wedged = Nature.NONE
        if server.own is not None:
            self._processors.stop(server.own)
            server.own = None
        server.moved = self._agenda.now
        if server.asked:
            self.ask(server)
        self.serve()

    def freeze(self, server: Server, state: str) -> None:
        server.frozen = server.frozen or state
        self._pause(server)

    def _pause(self, server: Server) -> None:
        if server.frozen:
            for task in self._tasks(server):
                self._processors.stop(task)

    def thaw(self, server: Server, state: str) -> None:
        if server.frozen != state:
            return
        server.frozen = ""
        if server.doomed:
            self.end(server, -9, 0)
            return
        if server.phase is Phase.DEAD:
            return
        for task in self._tasks(server):
            self._processors.resume(task)
        if server.asked:
            self.ask(server)
        self.serve()

    def ask(self, server: Server) -> None:
        """Its stop signal arrived."""
        if server.phase is Phase.DEAD:
            return
        if server.frozen or server.wedged is not Nature.NONE:
            server.asked = True
        elif server.phase in (Phase.GATE, Phase.BOOT):
            if not server.deaf:
                self.end(server, -15, 0)
        elif server.behaviour.graceful:
            server.stopping = True
            self._leave(server)
        else:
            self.end(server, -15, 0)

    def _leave(self, server: Server) -> None:
        if server.stopping and not server.serving:
            self.end(server, 0, 0)

    def kill(self, server: Server, left: int) -> None:
        """SIGKILL to its tree, of which `left` survive this time."""
        if server.phase is Phase.DEAD:
            had, server.left = server.left, left if server.left else 0
            if had and not server.left:
                self.ended(server, -9)
        elif server.frozen == "D":
            server.doomed = True
        else:
            self.end(server, -9, left)

    def end(self, server: Server, status: int, left: int) -> None:
        """Its leader ends."""
        if server.phase is Phase.DEAD:
            return
        server.phase = Phase.DEAD
        server.left = left
        for task in self._tasks(server):
            self._processors.stop(task)
        server.own = None
        for request in server.serving:
            request.task = None
            self._break(request)
        server.serving.clear()
        self.ended(server, status)

    def _break(self, request: Request) -> None:
        self.broken += 1
        if request.sort in (Sort.POISON, Sort.LOCK) and request.tries < RETRIES and self.stubborn:
            arrives = self._agenda.now + 1.0
            again = Request(request.sort, request.work_s, False, arrives, request.tries + 1, request.cause)
            self._agenda.after(1.0, self._come_back, again)

    def _tasks(self, server: Server) -> list[Task]:
        tasks = [request.task for request in server.serving if request.task is not None]
        return [*tasks, server.own] if server.own is not None else tasks

    def _drop_task(self, request: Request) -> None:
        if request.task is not None:
            self._processors.stop(request.task)
            request.task = None
