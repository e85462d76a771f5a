"""`python -m bench.recorder SERVER FAULT FOLDER`: one recording, made by a process of its own, so that nobody else's work makes it blind.

It starts the server on a held socket, watches it as the daemon does, lets customers come, lets the fault happen, and writes what was
seen: a line of JSON that says what it is of, then the recording. Nothing heals the server meanwhile; at the end it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import spins
from bench.faults import FAULTS, SERVERS, TROUBLE, Expected, Fault, Label, Limit, Server, limit_of
from bench.ground import BOOT_LIMIT_S, GroundError, descendants, folder, free_port, ground, surroundings
from bench.load import ask, load
from bench.peers import servers as environment
from bench.verdicts import spun_s
from supervisor.lanes import Lane
from supervisor.mechanism.priority import set_share
from supervisor.mechanism.tree import start_ticks
from supervisor.mechanism.watch import Watcher
from supervisor.model import Answered, Event, HangSettings, HealthSettings, InstanceId, LaunchSettings, ProgramSettings
from supervisor.policy.facts import Fact
from supervisor.policy.replay import Recording
from supervisor.records import recording

HANG = HangSettings(blocked_s=15.0, worker_s=15.0)  # defaults, but for those that would make a recording last a minute and more
HEALTH = HealthSettings(http="/health")
CALM_S = 4.0
AFTER_S = {Limit.CERTAIN: 14.0, Limit.BLOCKED: 19.0, Limit.WORKER: 19.0, Limit.NONE: 14.0}
SPUN_LIMIT_S = 44.0  # what spins is recorded until it has had the processor for its limit: on a busy machine that takes longer
OWED_SHARE = 0.5  # of a processor that it must have had: with less it is starved, and says nothing of loops
BOOT_S = 4.0  # recorded after a slow boot
RATE = 5.0
OVER_RATE = 60.0  # of requests that take 20 ms each: more than one processor can do
PATIENCE_S = 5.0
BACKLOG = 1024
BUSY_LOOPS = 6
NICE = -8  # of the recorded server and of ours: what others of this machine do is not what is recorded
THROTTLE_US, PERIOD_US = 15_000, 100_000
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")  # version 1; where it is not, nothing is throttled
ID = InstanceId("store", 1)


async def record(server: Server, fault: Fault, where: Path) -> tuple[Label, Recording]:
    """Raises GroundError when the server does not come up."""
    ready = asyncio.Event()
    facts: list[Fact] = []

    def post(event: Event) -> None:
        if isinstance(event, Answered):
            ready.set()

    lane = Lane("watch")
    watcher = Watcher(post, lane)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener, ExitStack() as stack:
        stack.callback(lane.close)
        stack.callback(watcher.close)
        async with _upstream() as upstream:
            environ = {"UPSTREAM": str(upstream), "REFUSED": str(free_port()), **dict(fault.environ)}
            child = stack.enter_context(_started(server, listener, where, environ))
            spawned = time.monotonic()
            set_share(child.pid, NICE)
            launch = LaunchSettings(command=server.command)
            settings = ProgramSettings(name="store", launch=launch, health=HEALTH, hang=HANG)
            ticks = start_ticks(child.pid)
            if ticks is None:
                raise GroundError(f"{server.name}: it ended at once")
            watcher.watch(ID, child.pid, ticks, settings, (listener.fileno(),))
            watcher.record(ID, facts.append)
            try:
                async with asyncio.timeout(BOOT_LIMIT_S):
                    await ready.wait()
            except TimeoutError:
                raise GroundError(f"{server.name}: no answer; {(where / 'log').read_text()[-500:]}") from None
            began = await _live(server, fault, child.pid, listener.getsockname()[1], facts)
    had_s = spun_s(facts, began, HANG.certain_s)
    rivals = 1 if fault.lone else server.slots / (os.cpu_count() or 1)  # its own workers take the processors from each other
    if _spins(fault) and (had_s is None or had_s > HANG.certain_s / OWED_SHARE * max(1.0, rivals)):
        raise GroundError("others kept it from the processor for most of the time: record it when the machine is less busy")
    label = Label(server=server.name, fault=fault.name, began=began, expected=fault.expected, limit=limit_of(server, fault))
    return label, Recording(spawned, tuple(facts))


def _spins(fault: Fault) -> bool:
    return fault.expected in (Expected.HUNG, Expected.WORKER) and fault.cores >= 1


async def _spun(facts: list[Fact], began: float, after_s: float) -> None:
    """Wait until what spins has had the processor for as long as the limit, and its proof must have come."""
    for _ in range(int(SPUN_LIMIT_S - after_s)):
        had_s = spun_s(facts, began, HANG.certain_s)
        if had_s is not None and facts[-1].at - began >= had_s + AFTER_S[Limit.CERTAIN] - HANG.certain_s:
            return
        await asyncio.sleep(1.0)


async def _live(server: Server, fault: Fault, pid: int, port: int, facts: list[Fact]) -> float:
    """Customers, and in their midst the fault; returns the instant at which that began."""
    if fault.environ:
        await asyncio.sleep(BOOT_S)
        return facts[0].at
    spins = _spins(fault)
    last_s = SPUN_LIMIT_S if spins else AFTER_S[limit_of(server, fault)]
    after_s = AFTER_S[limit_of(server, fault)]
    tasks: list[asyncio.Task[Any]] = (
        [] if fault.name == "idle" else [asyncio.create_task(load(port, "/", RATE, CALM_S + last_s, PATIENCE_S))]
    )
    await asyncio.sleep(CALM_S)
    with _trouble(fault, pid):
        began = time.monotonic()
        if fault.name == "overload":
            tasks.append(asyncio.create_task(load(port, fault.path, OVER_RATE, after_s, PATIENCE_S)))
        elif fault.path:
            count = 1 if fault.lone else server.slots
            tasks += [asyncio.create_task(ask(port, fault.path, last_s)) for _ in range(count)]
        await asyncio.sleep(after_s)
        if spins:
            await _spun(facts, began, after_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return began


@contextmanager
def _started(server: Server, listener: socket.socket, where: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    fd = listener.fileno()
    command = [word.format(fd=fd) for word in server.command]
    found = environment() / command[0]
    if found.exists():
        command[0] = str(found)
    with (where / "log").open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=fd if server.socket_as_stdin else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=where,
            env=surroundings(environ),
            pass_fds=(fd,),
            start_new_session=True,
        )
    try:
        yield child
    finally:
        for pid in (*descendants(child.pid), child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()


@asynccontextmanager
async def _upstream() -> AsyncIterator[int]:
    """A port of somebody who accepts and never answers."""
    over = asyncio.Event()

    async def keep_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    peer = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    try:
        yield peer.sockets[0].getsockname()[1]
    finally:
        over.set()
        peer.close()


@contextmanager
def _trouble(fault: Fault, pid: int) -> Iterator[None]:
    """What happens from outside the server."""
    with ExitStack() as stack:
        pids = (pid, *descendants(pid))
        match fault.name:
            case "stopped":
                for each in pids:
                    os.kill(each, signal.SIGSTOP)
            case "starved":
                for _ in range(BUSY_LOOPS):
                    stack.enter_context(_busy_loop())
            case "throttled":
                stack.enter_context(_throttled(pids))
            case _:
                pass
        yield


@contextmanager
def _busy_loop() -> Iterator[None]:
    loop = subprocess.Popen([sys.executable, "-S", "-E", "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


@contextmanager
def _throttled(pids: tuple[int, ...]) -> Iterator[None]:
    """A group of its own that may use a part of one processor."""
    group = CPU_GROUPS / f"reviver-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as problem:
        raise GroundError(f"no processor time can be withheld here: {problem} (it needs root and cgroups of version 1)") from None
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(THROTTLE_US))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for pid in pids:
            (CPU_GROUPS / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def main(words: list[str]) -> int:
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    set_share(os.getpid(), NICE)
    server, fault, target = SERVERS[words[0]], FAULTS[words[1]], Path(words[2])
    try:
        with ground(), folder() as where:
            for name in ("app.py", "app.js", "App.java"):
                shutil.copy(TROUBLE / name, where)
            (where / "spins.py").write_text(spins.PYTHON)
            label, taken = asyncio.run(record(server, fault, where))
    except GroundError as problem:
        print(problem, file=sys.stderr)
        return 1
    head = json.dumps(asdict(label)).encode()
    (target / f"{label.name}.recording").write_bytes(head + b"\n" + recording.encode(taken))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
