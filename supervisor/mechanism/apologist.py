"""The answerers of the page: one small process for each program of which nothing serves (sorry.py), started, watched and ended.

For the loop's thread; a process is started in a lane. One that dies although it is wanted is started anew. It has copies of the
program's listening sockets, and a pipe that ends it when we close it or die; it answers what it has taken, and is gone. One that does
not go is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism.probes import asked_path
from supervisor.mechanism.sorry import END_S, FIRST_FD
from supervisor.mechanism.spawn import spawn
from supervisor.model import ProgramSettings

START_S = 15.0  # a vfork and an exec: longer is a dead mount
AGAIN_S = 1.0  # until a new one is started in the place of one that died or could not be started
KILL_S = END_S + 2.0  # after its end was asked
_CHILD = str(Path(__file__).with_name("sorry.py"))


@dataclass(frozen=True, slots=True)
class Answerer:
    """A process that answers in a program's place. `control` is our end of its pipe."""

    pid: int
    pidfd: int
    control: int

    def stand_aside(self) -> None:
        """Let it leave the queue alone for a moment, so that a question in it reaches the program."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it was asked often enough, or is gone
            os.write(self.control, b".")


@dataclass(slots=True, eq=False)
class _Turn:
    """One time that a program's page is shown."""

    settings: ProgramSettings
    answerer: Answerer | None = None


class Apologists:
    """All answerers."""

    def __init__(
        self,
        sockets: Callable[[str], tuple[int, ...]],
        seen: Callable[[str, Answerer | None], None],
        warn: Callable[[str], None],
    ) -> None:
        """
        sockets  a program's held sockets
        seen     told of each answerer that begins, and with None when it takes nothing any more, or soon
        """
        self._sockets, self._seen, self._warn = sockets, seen, warn
        self._lane = Lane("sorry")
        self._turns: dict[str, _Turn] = {}
        self._leaving: dict[Answerer, asyncio.TimerHandle] = {}

    def begin(self, settings: ProgramSettings) -> None:
        """Answer in the program's place, as soon and as long as its sockets are held."""
        self.end(settings.name)
        turn = self._turns[settings.name] = _Turn(settings)
        self._start(turn)

    def end(self, program: str) -> None:
        """Nothing is answered any more, but what was taken already."""
        turn = self._turns.pop(program, None)
        if turn is not None and turn.answerer is not None:
            self._dismiss(turn.answerer)
            self._seen(program, None)

    def held(self, program: str) -> None:
        """Its sockets are others now."""
        turn = self._turns.get(program)
        if turn is not None:
            self.begin(turn.settings)

    def update(self, settings: ProgramSettings) -> None:
        """Take up a changed page."""
        turn = self._turns.get(settings.name)
        if turn is not None and (turn.settings.sorry, turn.settings.health) != (settings.sorry, settings.health):
            self.begin(settings)

    def close(self) -> None:
        """End all; what they have taken they answer by themselves."""
        for program in tuple(self._turns):
            self.end(program)
        for answerer, timer in self._leaving.items():
            timer.cancel()
            asyncio.get_running_loop().remove_reader(answerer.pidfd)
            os.close(answerer.pidfd)
        self._leaving.clear()

    def _start(self, turn: _Turn) -> None:
        fds = self._sockets(turn.settings.name)
        if self._turns.get(turn.settings.name) is not turn or turn.answerer is not None or not fds:
            return
        try:
            copies = _copies(fds)
        except OSError as problem:  # they are being changed at this moment, and `held` comes; or our descriptors are used up
            self._again(turn, str(problem))
            return
        words = _words(turn.settings, len(copies))
        started = self._lane.run(_spawn, words, copies, deadline_s=START_S, late=_discard)
        started.add_done_callback(partial(self._started, turn, copies))

    def _started(self, turn: _Turn, copies: Sequence[int], started: asyncio.Future[Answerer]) -> None:
        for fd in copies:
            os.close(fd)
        problem = started.exception()
        if isinstance(problem, (OSError, LaneError)):
            self._again(turn, str(problem))
            return
        answerer = started.result()
        asyncio.get_running_loop().add_reader(answerer.pidfd, self._ended, turn, answerer)
        if self._turns.get(turn.settings.name) is turn:
            turn.answerer = answerer
            self._seen(turn.settings.name, answerer)
        else:
            self._dismiss(answerer)

    def _again(self, turn: _Turn, why: str) -> None:
        if self._turns.get(turn.settings.name) is turn:
            self._warn(f"{turn.settings.name}: nobody shows the page that says sorry: {why}; tried again")
            asyncio.get_running_loop().call_later(AGAIN_S, self._start, turn)

    def _dismiss(self, answerer: Answerer) -> None:
        os.close(answerer.control)
        kill = asyncio.get_running_loop().call_later(KILL_S, signal.pidfd_send_signal, answerer.pidfd, signal.SIGKILL)
        self._leaving[answerer] = kill

    def _ended(self, turn: _Turn, answerer: Answerer) -> None:
        """Reap it."""
        asyncio.get_running_loop().remove_reader(answerer.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, answerer.pidfd, os.WEXITED)
        os.close(answerer.pidfd)
        if (kill := self._leaving.pop(answerer, None)) is not None:
            kill.cancel()
            return
        os.close(answerer.control)
        turn.answerer = None
        self._seen(turn.settings.name, None)
        self._again(turn, f"pid {answerer.pid} that did it has ended")


def _words(settings: ProgramSettings, count: int) -> list[str]:
    sorry = settings.sorry
    words = (settings.name, count, math.ceil(sorry.retry_s), asked_path(settings.health.http), sorry.page)
    return [sys.executable, "-I", "-S", _CHILD, *map(str, words)]


def _copies(fds: Sequence[int]) -> list[int]:
    """Copies of the sockets that speak HTTP: the first one, which http probes are asked on, and those of the same port (IPv4 beside IPv6).
    Another may speak anything. Raises OSError."""
    first = _port(fds[0])
    same = [fd for fd in fds if fd == fds[0] or (first and _port(fd) == first)]
    copies: list[int] = []
    try:
        for fd in same:
            copies.append(os.dup(fd))
    except OSError:
        for copy in copies:
            os.close(copy)
        raise
    return copies


def _port(fd: int) -> int:
    """The port of a socket; 0 for a unix one."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])


def _spawn(words: list[str], sockets: Sequence[int]) -> Answerer:
    """Start it. Blocks. Raises OSError."""
    theirs, control = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.set_blocking(control, False)
        targets = {0: theirs, 1: null, 2: null} | {FIRST_FD + place: fd for place, fd in enumerate(sockets)}
        environ = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # some Pythons need it to start
        pid = spawn(words, environ, targets)
        return Answerer(pid, os.pidfd_open(pid), control)
    except OSError:
        os.close(control)
        raise
    finally:
        os.close(theirs)
        os.close(null)


def _discard(answerer: Answerer) -> None:
    """One that came too late. The reaper reaps it."""
    os.close(answerer.control)
    os.close(answerer.pidfd)
