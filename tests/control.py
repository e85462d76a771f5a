"""A small daemon for the tests of control and command line: the real policy over programs that are only played, behind the real server.

It runs in a thread with a loop of its own, so that blocking clients and real `reviver` processes can be tried on it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.config import load
from supervisor.control.backend import Reading, Story
from supervisor.control.server import Server
from supervisor.control.views import About, Vitals
from supervisor.mechanism.release import find
from supervisor.mechanism.upgrade import Unusable
from supervisor.model import (
    Answered,
    Applied,
    Candidate,
    DaemonSettings,
    Effect,
    Event,
    Exited,
    Fleet,
    InstanceId,
    Kill,
    LaunchSettings,
    Note,
    Open,
    Preflighted,
    ProgramSettings,
    RunPreflight,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Switch,
    Switched,
)
from supervisor.policy.fleet import step
from supervisor.records.incidents import read_incident, read_incidents
from supervisor.records.journal import JournalError


def settings(name: str, command: str = "serve", **more: object) -> ProgramSettings:
    """A program's settings; its command says how it is played: serve, crash (exit 3), absent (cannot be executed), mute (never ready)."""
    return ProgramSettings(name=name, launch=LaunchSettings(command=(command,)), **more)  # type: ignore[arg-type]


def candidate(program: ProgramSettings) -> Candidate:
    return Candidate(program, "4f2a91c", "/srv")


@dataclass
class World:
    """A `Backend`: policy's effects are answered at once, as the program's command says."""

    directory: Path
    config: str = ""
    fleet_now: Fleet = field(default_factory=Fleet)
    stories: list[Story] = field(default_factory=list)
    signals: list[tuple[str, str]] = field(default_factory=list)
    commands: dict[InstanceId, str] = field(default_factory=dict)
    waiters: list[tuple[Callable[[Fleet], bool], asyncio.Future[bool]]] = field(default_factory=list)
    listeners: list[Callable[[Story], None]] = field(default_factory=list)
    queue: deque[Event] = field(default_factory=deque)
    started: float = field(default_factory=time.monotonic)
    journal_problem: str = ""
    switch_problem: str = ""
    upgrade_problem: str = ""
    guarded: bool = True
    gave_way_to: list[str] = field(default_factory=list)

    def about(self) -> About:
        path = str(self.directory)
        return About(
            os.getpid(),
            "0.1.0",
            self.started,
            self.config,
            self.guarded,
            DaemonSettings(runtime_dir=path, state_dir=path, log_dir=path),
        )

    def fleet(self) -> Fleet:
        return self.fleet_now

    def vitals(self, id: InstanceId) -> Vitals | None:
        return Vitals(0.02, 41943040, 2)

    def post(self, event: Event) -> None:
        self.queue.append(event)
        asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        while self.queue:
            self.fleet_now, effects, _ = step(self.fleet_now, self.queue.popleft(), time.monotonic())
            for effect in effects:
                self.perform(effect)
            for predicate, future in self.waiters:
                if not future.done() and predicate(self.fleet_now):
                    future.set_result(True)

    def perform(self, effect: Effect) -> None:
        match effect:
            case Note(subject, name, text):
                story = {"time": "2026-01-01T00:00:00.100Z", "subject": subject, "event": name, "text": text}
                self.stories.append(story)
                for listener in self.listeners:
                    listener(story)
            case RunPreflight(program, build):
                self.queue.append(
                    Preflighted(program, build.number, "" if build.launch.preflight[0][0] == "true" else "it said no")
                )
            case Switch(program, _, directory):
                self.queue.append(Switched(program, directory, self.switch_problem))
            case Spawn(id, build) if build.launch.command[0] == "absent":
                self.queue.append(SpawnFailed(id, "absent: command not found", True))
            case Spawn(id, build):
                self.commands[id] = build.launch.command[0]
                self.queue.append(Spawned(id, 4000 + id.number, 1))
            case Open(id) if self.commands[id] == "crash":
                self.queue.append(Exited(id, 3, words="exit code 3"))
            case Open(id) if self.commands[id] == "serve":
                self.queue.append(Answered(id, "GET /health answered 200"))
            case Signal(id, signal):
                self.signals.append((str(id), signal))
                if signal == "TERM":
                    self.queue.append(Exited(id, 0, words="exit code 0"))
            case Kill(id):
                self.queue.append(Exited(id, -9, words="killed by SIGKILL"))

    async def until(self, predicate: Callable[[Fleet], bool], deadline_s: float) -> bool:
        if predicate(self.fleet_now):
            return True
        waiter = (predicate, asyncio.get_running_loop().create_future())
        self.waiters.append(waiter)
        try:
            return await asyncio.wait_for(waiter[1], deadline_s)
        except TimeoutError:
            return False
        finally:
            self.waiters.remove(waiter)

    async def read(self, path: str | None) -> Reading:
        settings = load(Path(path or self.config))
        candidates = tuple(candidate(program) for program in settings.programs)
        return Reading(settings, Applied(candidates, settings.escalation))

    async def find(self, path: str) -> str:
        return find(path)

    async def try_new(self) -> str:
        if self.upgrade_problem:
            raise Unusable(self.upgrade_problem)
        return "9.9"

    async def try_channels(self) -> list[dict[str, Any]]:
        return [{"channel": "journal:", "problem": "", "took_s": 0.001}]

    def give_way(self, version: str) -> None:
        self.gave_way_to.append(version)

    def take_up(self, reading: Reading) -> None:
        self.post(reading.applied)

    async def events(self, limit: int, program: str) -> list[Story]:
        if self.journal_problem:
            raise JournalError(self.journal_problem)
        mine = [s for s in self.stories if not program or s["subject"].partition(":")[0] == program]
        return mine[-limit:] if limit else []

    async def incidents(self, limit: int, program: str) -> list[dict[str, object]]:
        return read_incidents(str(self.directory), limit, program)

    async def incident(self, number: int) -> dict[str, object] | None:
        return read_incident(str(self.directory), number, str.upper)

    def subscribe(self, callback: Callable[[Story], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)


@dataclass
class Running:
    """A world behind a server that listens."""

    world: World
    loop: asyncio.AbstractEventLoop
    problems: list[str]

    @property
    def path(self) -> str:
        return f"{self.world.directory}/control.sock"

    def post(self, event: Event) -> None:
        """An event of the world, taken up before this returns."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(self.world.post, event)
        self.loop.call_soon_threadsafe(lambda: self.loop.call_soon(done.set))
        assert done.wait(5)

    def on_loop(self, call: Callable[[], object]) -> object:
        """The result of `call()`, made on the loop's thread."""

        async def made() -> object:
            return call()

        return asyncio.run_coroutine_threadsafe(made(), self.loop).result(5)


@contextmanager
def running(directory: Path, *programs: ProgramSettings, group: str = "", config: str = "") -> Iterator[Running]:
    """Serve a world with these programs, all of them started; everything is gone afterwards."""
    world = World(directory, config)
    server = Server(f"{directory}/control.sock", group, world)
    server.open()
    loop = asyncio.new_event_loop()
    problems: list[str] = []
    loop.set_exception_handler(lambda _, context: problems.append(repr(context.get("exception") or context["message"])))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = Running(world, loop, problems)
    try:
        asyncio.run_coroutine_threadsafe(server.serve(), loop).result(5)
        serving.post(Applied(tuple(candidate(program) for program in programs)))
        yield serving
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
        assert not thread.is_alive()
    assert problems == [], f"the loop met {problems}"
