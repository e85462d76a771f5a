"""Starting instances: held sockets, a process at its gate, the one that waits for the next start, and the opening of the gate.

What blocks runs in two lanes of its own; nothing here is a coroutine, for a customer may wait for what is started. An instance that is
not wanted any more when its process comes to be is ended at its gate. For the loop's thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism.ahead import Ahead, Made, discard
from supervisor.mechanism.cgroups import Groups
from supervisor.mechanism.launch import Child, LaunchError, launch, open_gate
from supervisor.mechanism.sockets import Holder
from supervisor.model import InstanceId, OutputTo, Spawn

SPAWN_S = 15.0  # a fork, an exec of the gate and a chdir: longer is a dead mount
SPAWNS_LIMIT = 4096  # that wait: some thousand programs are started at once
HOLD_S = 10.0  # binding a busy port is tried again for some seconds


class Starter:
    def __init__(
        self,
        environ: Mapping[str, str],
        notify: str,
        *,
        lives: Callable[[InstanceId], bool],
        born: Callable[[Child], None],
        failed: Callable[[InstanceId, str, bool], None],
        held: Callable[[str, tuple[int, ...]], None],
        groups: Groups | None = None,
    ) -> None:
        """
        notify  the path that programs are to notify
        lives   whether an instance is still one of policy's
        born    gets each process that waits at its gate for `open`
        failed  gets (id, why, whether the same attempt will fail again) of an instance for which no process came to be
        held    gets each program's sockets when they were opened; () when they are closed
        """
        self._environ = environ
        self._notify = notify
        self._lives, self._born, self._failed, self._tell_held = lives, born, failed, held
        self._groups = groups
        self._holder = Holder()
        self._ahead = Ahead()
        self._held: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}  # each program's addresses and their descriptors
        self._gated: dict[InstanceId, Child] = {}  # those that wait until their pid stands in the handover
        self._spawning, self._holding = Lane("spawn", limit=SPAWNS_LIMIT), Lane("sockets")
        self._wanted: set[str] = set()  # programs for whose next start one may wait

    def spawn(self, effect: Spawn, to: OutputTo) -> None:
        """Hold the sockets, where they are not held yet, and start a process at its gate; `born` or `failed` answers."""
        program, wanted = effect.id.program, effect.build.launch.sockets
        self._wanted.add(program)
        addresses, fds = self._held.get(program, ((), ()))
        if addresses == wanted:
            self._launch(effect, fds, to)
        else:
            held = self._holding.run(self._holder.hold, program, wanted, deadline_s=HOLD_S)
            held.add_done_callback(partial(self._hold, effect, to))

    def open(self, id: InstanceId) -> Child:
        """Open the gate: it runs."""
        child = self._gated.pop(id)
        open_gate(child.gate, str(id))
        return child

    def unborn(self, id: InstanceId) -> None:
        """It is gone; if its gate was never opened, what belonged to it is given back."""
        child = self._gated.pop(id, None)
        if child is not None:
            for fd in (child.gate, child.output):
                if fd >= 0:
                    os.close(fd)

    async def adopt(self, program: str, addresses: tuple[str, ...], fds: tuple[int, ...]) -> None:
        """Hold the listening sockets of an earlier supervisor; what is missing is opened at the next start."""
        call = (self._holder.adopt, program, addresses, fds)
        if found := await self._holding.run(*call, deadline_s=HOLD_S):
            self._held[program] = (addresses, found)
            self._tell_held(program, found)

    def sockets(self, program: str) -> tuple[int, ...]:
        """The program's held sockets."""
        return self._held.get(program, ((), ()))[1]

    def prepare(self, nobody: Spawn, to: OutputTo) -> None:
        """Have a process wait for the program's next start. `nobody`: a spawn of no instance's, whose number counts for nothing."""
        program = nobody.id.program
        addresses, fds = self._held.get(program, ((), ()))
        made = Made(nobody.build.number, nobody.heartbeat_s, fds, to)
        if addresses == nobody.build.launch.sockets and self._ahead.wanted(program, made):
            self._start(nobody, made).add_done_callback(partial(self._waits, program, made))

    def drop(self, program: str) -> None:
        """Nothing of the program is wanted: none waits for its next start."""
        self._wanted.discard(program)
        self._ahead.drop(program)

    def release(self, program: str) -> None:
        """The program is gone: close its sockets."""
        self.drop(program)
        if self._held.pop(program, None) is not None:
            self._tell_held(program, ())
            self._holding.put(self._holder.release, program)

    def drain(self) -> None:
        """Nothing is prepared any more."""
        self._wanted.clear()
        self._ahead.close()

    def close(self, deadline_s: float) -> None:
        """Close all sockets. Blocks, no longer than `deadline_s`."""
        self.drain()
        for program in tuple(self._held):
            self.release(program)
        self._holding.drain(deadline_s)

    def _hold(self, effect: Spawn, to: OutputTo, held: asyncio.Future[tuple[int, ...]]) -> None:
        problem = held.exception()
        if isinstance(problem, (LaunchError, LaneError)):
            self._fail(effect.id, problem)
            return
        fds = held.result()
        self._held[effect.id.program] = (effect.build.launch.sockets, fds)
        self._tell_held(effect.id.program, fds)
        if self._lives(effect.id):
            self._launch(effect, fds, to)

    def _launch(self, effect: Spawn, fds: tuple[int, ...], to: OutputTo) -> None:
        made = Made(effect.build.number, effect.heartbeat_s, fds, to)
        waiting = self._ahead.take(effect, made)
        if waiting is not None:
            self._bear(waiting)
        else:
            self._start(effect, made).add_done_callback(partial(self._launched, effect.id))

    def _start(self, effect: Spawn, made: Made) -> asyncio.Future[Child]:
        call = (launch, effect, made.fds, self._environ, self._notify, made.to, self._groups)
        return self._spawning.run(*call, deadline_s=SPAWN_S, late=discard)

    def _launched(self, id: InstanceId, started: asyncio.Future[Child]) -> None:
        problem = started.exception()
        if isinstance(problem, (LaunchError, LaneError)):
            self._fail(id, problem)
        elif self._lives(id):
            self._bear(started.result())
        else:
            discard(started.result())

    def _bear(self, child: Child) -> None:
        self._gated[child.id] = child
        self._born(child)

    def _waits(self, program: str, made: Made, started: asyncio.Future[Child]) -> None:
        if started.exception() is not None:
            return  # the next start says why
        if program in self._wanted:
            self._ahead.keep(program, made, started.result())
        else:
            discard(started.result())

    def _fail(self, id: InstanceId, problem: LaunchError | LaneError) -> None:
        if isinstance(problem, LaunchError):
            self._failed(id, problem.text, problem.permanent)
        else:
            self._failed(id, f"the host does not start processes: {problem}", False)
