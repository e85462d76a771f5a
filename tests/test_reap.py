"""Exits and the end of whole trees, on real processes. Whatever multiplies here is bounded in number and in time by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bench.escapers import DAEMONS, bomb, hopper
from supervisor.lanes import Lane
from supervisor.mechanism import exits, reap, tree
from supervisor.mechanism.launch import Child, launch, open_gate
from supervisor.mechanism.reap import Reaper
from supervisor.model import Build, Event, Exited, InstanceId, LaunchSettings, OutputTo, Spawn
from tests.processes import gone_within, reap_all, set_subreaper

ID = InstanceId("store", 8)
DEADLINE_S = 20.0

HOPPER, BOMB = hopper(15), bomb(150, 15)


class World:
    """A reaper with its loop and lane, and what it posted."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.lane = Lane("kill")
        self.reaper = Reaper(asyncio.get_running_loop(), self.events.put_nowait, self.lane)
        self.outputs: list[int] = []

    def start(self, *command: str, id: InstanceId = ID) -> Child:
        settings = LaunchSettings(command=command)
        child = launch(Spawn(id, Build(1, "", settings, "/")), (), os.environ, "", OutputTo.FILE)
        self.outputs.append(child.output)
        self.reaper.watch(child)
        open_gate(child.gate, str(child.id))
        return child

    async def start_python(self, code: str) -> Child:
        """Start it, and wait until it says that it is ready."""
        child = self.start(sys.executable, "-I", "-S", "-c", code)
        await self.said(child, b"ready")
        return child

    async def said(self, child: Child, words: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        seen = b""
        while words not in seen:
            readable = asyncio.Event()
            loop.add_reader(child.output, readable.set)
            await asyncio.wait_for(readable.wait(), DEADLINE_S)
            loop.remove_reader(child.output)
            part = os.read(child.output, 65536)
            assert part, seen
            seen += part
        return seen

    async def next(self) -> Exited:
        event = await asyncio.wait_for(self.events.get(), DEADLINE_S)
        assert isinstance(event, Exited)
        return event

    def close(self) -> None:
        self.reaper.close()
        assert self.lane.drain(DEADLINE_S)
        for output in self.outputs:
            os.close(output)


def in_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        try:
            await test(world)
            assert world.events.empty()
        finally:
            world.close()

    asyncio.run(run())


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def steal(child: Child) -> None:
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)


def alive(child: Child) -> dict[int, int]:
    return tree.living(tree.Tree(child.pid, child.start_ticks, tree.marks(child.id, child.pid)), tree.everyone())


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    deadline = time.monotonic() + DEADLINE_S
    reap_all()
    while tree.tree(os.getpid())[1:]:  # killed, and on a busy machine not dead yet
        assert time.monotonic() < deadline
        time.sleep(0.005)
        reap_all()
    set_subreaper(False)
    assert set(os.listdir("/proc/self/fd")) == before


# --- exits ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "exited"),
    [
        ("exit 0", Exited(ID, 0, 0, "exit code 0")),
        ("exit 3", Exited(ID, 3, 0, "exit code 3")),
        ("kill -TERM $$", Exited(ID, -15, 0, "killed by SIGTERM")),
        ("kill -40 $$", Exited(ID, -40, 0, "killed by signal 40")),
    ],
)
def test_exit_is_posted_with_its_words(script: str, exited: Exited) -> None:
    async def test(world: World) -> None:
        world.start("/bin/sh", "-c", script)
        assert await world.next() == exited

    in_world(test)


def test_exit_with_a_core_says_so() -> None:
    """Whether one is written is the host's to say: so the words are tested on the kernel's word for it."""
    dumped = os.waitid_result((1, 0, signal.SIGCHLD, signal.SIGSEGV, os.CLD_DUMPED))
    assert exits.waited(dumped) == (-11, "killed by SIGSEGV, core dumped")


def test_exit_of_many_at_once_are_all_posted() -> None:
    async def test(world: World) -> None:
        ids = {InstanceId("store", number) for number in range(30)}
        for id in ids:
            world.start("/bin/sh", "-c", f"exit {id.number}", id=id)
        assert {(await world.next()) for _ in ids} == {Exited(id, id.number, 0, f"exit code {id.number}") for id in ids}

    in_world(test)


def test_exit_of_a_leader_ends_what_it_left_in_its_session() -> None:
    async def test(world: World) -> None:
        child = world.start("/bin/sh", "-c", "sleep 30 & sleep 30 & exit 4")
        assert await world.next() == Exited(ID, 4, 0, "exit code 4")
        assert not alive(child)

    in_world(test)


def test_exit_of_a_leader_ends_what_wiped_its_environment() -> None:
    """The session still shows whose it is."""

    async def test(world: World) -> None:
        child = world.start("/bin/sh", "-c", "env -i sh -c 'echo $$; exec sleep 30' & wait")
        pid = int(await world.said(child, b"\n"))
        pidfd = os.pidfd_open(pid)
        world.reaper.signal(ID, "TERM")
        assert (await world.next()).left == 0
        assert gone_within(pidfd, 0)
        os.close(pidfd)

    in_world(test)


def test_exit_of_a_leader_ends_its_daemons() -> None:
    async def test(world: World) -> None:
        child = await world.start_python(DAEMONS)
        assert len(alive(child)) == 11
        world.reaper.signal(ID, "TERM")
        assert await world.next() == Exited(ID, -15, 0, "killed by SIGTERM")
        assert not alive(child)

    in_world(test)


def test_exit_of_one_leaves_the_daemons_of_another_alone() -> None:
    async def test(world: World) -> None:
        other = await world.start_python(DAEMONS)
        world.start("/bin/sh", "-c", "sleep 30 & exit 0", id=InstanceId("store", 9))
        assert (await world.next()).id == InstanceId("store", 9)
        assert len(alive(other)) == 11
        world.reaper.kill(ID)
        assert (await world.next()).id == ID

    in_world(test)


def test_exit_status_that_another_took_is_known_where_the_kernel_keeps_it() -> None:
    async def test(world: World) -> None:
        child = world.start("/bin/sh", "-c", "exit 1")
        steal(child)
        keeps = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)
        told = (1, 0, "exit code 1") if keeps else (None, 0, "exit status unknown")
        assert await world.next() == Exited(ID, *told)

    in_world(test)


# --- signals --------------------------------------------------------------------------------------------------------------------


def test_signal_reaches_the_leader_alone(tmp_path: Path) -> None:
    script = "sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.02; done' & trap 'echo leader; exit 0' USR1; wait"

    async def test(world: World) -> None:
        child = world.start("/bin/sh", "-c", script)
        await world.said(child, b"ready")
        world.reaper.signal(ID, "USR1")
        assert await world.next() == Exited(ID, 0, 0, "exit code 0")
        assert os.read(child.output, 100) == b"leader\n"

    in_world(test)


def test_signal_and_kill_of_what_does_not_live_are_answered() -> None:
    async def test(world: World) -> None:
        world.reaper.signal(ID, "TERM")
        world.reaper.kill(InstanceId("other", 1))
        assert world.events.empty()  # never within the call that asks
        assert await world.next() == Exited(ID, None, 0, "unknown")
        assert await world.next() == Exited(InstanceId("other", 1), None, 0, "unknown")

    in_world(test)


# --- killing trees --------------------------------------------------------------------------------------------------------------


def test_kill_of_a_lone_process() -> None:
    async def test(world: World) -> None:
        world.start("/bin/sleep", "30")
        world.reaper.kill(ID)
        world.reaper.kill(ID)
        assert await world.next() == Exited(ID, -9, 0, "killed by SIGKILL")

    in_world(test)


def test_kill_of_a_stopped_process() -> None:
    async def test(world: World) -> None:
        world.start("/bin/sleep", "30")
        world.reaper.signal(ID, "STOP")
        world.reaper.kill(ID)
        assert (await world.next()).status == -9

    in_world(test)


@pytest.mark.parametrize("code", [DAEMONS, HOPPER, BOMB], ids=["daemons", "hopper", "bomb"])
def test_kill_leaves_nobody(code: str) -> None:
    async def test(world: World) -> None:
        child = await world.start_python(code)
        world.reaper.kill(ID)
        world.reaper.kill(ID)  # asked again while it is being done
        assert await world.next() == Exited(ID, -9, 0, "killed by SIGKILL")
        assert not alive(child)

    in_world(test)


def test_kill_that_does_not_end_all_is_answered_once_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with one in uninterruptible sleep, which no test can make: a survivor is told once, each further attempt may be the last."""
    real, lefts = tree.end, [2, 1, 0]

    async def test(world: World) -> None:
        def end(of: tree.Tree, *_: object) -> int:
            return lefts.pop(0)

        monkeypatch.setattr(tree, "end", end)
        child = world.start("/bin/sh", "-c", "sleep 30 & exit 7")
        assert await world.next() == Exited(ID, 7, 2, "exit code 7")
        world.reaper.kill(ID)
        world.reaper.kill(ID)  # while that is being done: nothing more is asked
        await world.lane.run(int, deadline_s=DEADLINE_S)  # behind it in the same lane
        assert lefts == [0]
        assert world.events.empty()
        assert tree.stat(child.pid) is not None  # not reaped: its session's number stays its own
        monkeypatch.setattr(tree, "end", real)
        world.reaper.kill(ID)
        assert await world.next() == Exited(ID, 7, 0, "exit code 7")
        assert tree.stat(child.pid) is None

    in_world(test)


def test_kill_does_not_hold_up_the_loop() -> None:
    """While a bomb is killed, the loop turns: a callback that calls itself is run many times."""

    async def test(world: World) -> None:
        await world.start_python(BOMB)
        turns = 0
        done = asyncio.Event()

        async def turn() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0.001)

        turning = asyncio.ensure_future(turn())
        world.reaper.kill(ID)
        before = turns
        await world.next()
        done.set()
        await turning
        assert turns - before > 5

    in_world(test)


# --- the dead -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "stranger_s"), [("(true &)", 1e9), ("setsid -f true", 0.05)], ids=["session", "stranger"])
def test_dead_orphans_are_reaped(monkeypatch: pytest.MonkeyPatch, script: str, stranger_s: float) -> None:
    """Of a watched session at once, of another after a while."""
    monkeypatch.setattr(reap, "SWEEP_S", 0.01)
    monkeypatch.setattr(reap, "STRANGER_S", stranger_s)
    sweep = Reaper._sweep

    async def test(world: World) -> None:
        swept = asyncio.Event()

        def watched(reaper: Reaper) -> None:
            sweep(reaper)
            swept.set()

        monkeypatch.setattr(Reaper, "_sweep", watched)
        child = world.start("/bin/sh", "-c", f"{script}; echo ready; exec sleep 30")
        await world.said(child, b"ready")
        while set(tree.orphans()) - {child.pid}:
            swept.clear()
            await asyncio.wait_for(swept.wait(), DEADLINE_S)
        world.reaper.kill(ID)
        await world.next()

    in_world(test)


STORM = """
import os, signal
def storm():
    for _ in range(8):
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
            os._exit(0)
        os.wait()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
storm()
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
storm()
print("again", flush=True)
signal.sigwait({signal.SIGUSR1})
"""


def test_dead_strangers_of_a_storm_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that forks daemons without end must not fill the host with zombies of ours: not in its second wave either."""
    monkeypatch.setattr(reap, "SWEEP_S", 0.01)
    monkeypatch.setattr(reap, "STRANGER_S", 1e9)
    monkeypatch.setattr(reap, "DEAD_LIMIT", 3)
    sweep = Reaper._sweep

    async def test(world: World) -> None:
        swept = asyncio.Event()

        def watched(reaper: Reaper) -> None:
            sweep(reaper)
            swept.set()

        async def few_are_left() -> None:
            while len(set(tree.orphans()) - {child.pid}) > 3:
                swept.clear()
                await asyncio.wait_for(swept.wait(), DEADLINE_S)

        monkeypatch.setattr(Reaper, "_sweep", watched)
        child = await world.start_python(STORM)
        await few_are_left()
        world.reaper.signal(ID, "USR1")
        await world.said(child, b"again")
        await few_are_left()
        world.reaper.kill(ID)
        await world.next()

    in_world(test)
    reap_all()


def test_dead_child_given_up_at_its_gate_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by a lane, so that it stands in another thread's list of children."""
    monkeypatch.setattr(reap, "SWEEP_S", 0.01)
    monkeypatch.setattr(reap, "STRANGER_S", 0.05)

    async def test(world: World) -> None:
        spawn = Spawn(ID, Build(1, "", LaunchSettings(command=("/bin/true",)), "/"))
        child = await world.lane.run(launch, spawn, (), os.environ, "", OutputTo.NULL, deadline_s=DEADLINE_S)
        os.close(child.gate)
        reaped = asyncio.Event()

        def watched(pid: int) -> None:
            real(pid)
            reaped.set()

        real = reap._reap
        monkeypatch.setattr(reap, "_reap", watched)
        await asyncio.wait_for(reaped.wait(), DEADLINE_S)
        assert tree.stat(child.pid) is None
        os.close(child.pidfd)

    in_world(test)


def test_dead_children_of_others_are_left_to_them() -> None:
    def start() -> int:
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], os.environ)
        pidfd = os.pidfd_open(pid)
        assert gone_within(pidfd, DEADLINE_S)
        os.close(pidfd)
        return pid

    async def test(world: World) -> None:
        pid = start()
        assert pid in tree.orphans()
        world.reaper._sweep()
        assert status(pid) == 9

    in_world(test)


# --- what a dead supervisor left ------------------------------------------------------------------------------------------------


def test_environment_of_a_process_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may declare gigabytes of its memory to be its environment (PR_SET_MM_MAP needs no right)."""
    monkeypatch.setattr(tree, "_ENVIRON_LIMIT_BYTES", 100_000)
    env = {"MARK": "1"} | {f"N{number}": "x" * 100_000 for number in range(5)}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"ready")
        assert child.stdout.read(5) == b"ready"
        found = tree.environ(child.pid)
        child.stdin.close()
    assert b"MARK=1" in found
    assert sum(map(len, found)) < 200_000


def test_adopted_one_is_killed_with_its_daemons() -> None:
    async def test(world: World) -> None:
        child = await world.start_python(DAEMONS)
        world.reaper.close()
        second = Reaper(asyncio.get_running_loop(), world.events.put_nowait, world.lane)
        second.adopt(ID, child.pid, child.start_ticks, os.pidfd_open(child.pid))
        second.kill(ID)
        assert await world.next() == Exited(ID, -9, 0, "killed by SIGKILL")
        assert not alive(child)
        second.close()

    in_world(test)


def test_adopted_leader_of_another_identity_is_left_alone() -> None:
    """The pid is another instance's by now: nothing of it is killed."""

    async def test(world: World) -> None:
        child = await world.start_python(DAEMONS)
        id = InstanceId("store", 9)
        world.reaper.adopt(id, child.pid, child.start_ticks + 1, -1)
        assert await world.next() == Exited(id, None, 0, "ended while no supervisor ran, and how is not known")
        assert len(alive(child)) == 11
        world.reaper.watch(child)
        world.reaper.kill(ID)
        await world.next()

    in_world(test)


# --- reading /proc --------------------------------------------------------------------------------------------------------------


def test_stat_of_a_name_with_spaces_and_parentheses(tmp_path: Path) -> None:
    name = tmp_path / ") R 1 (a b"
    name.symlink_to("/bin/sleep")
    pid = os.posix_spawn(str(name), [str(name), "30"], os.environ)
    found = tree.stat(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert found is not None
    assert (found.ppid, found.session, found.threads) == (os.getpid(), os.getsid(0), 1)
    assert tree.start_ticks(pid) is None


def test_tree_has_parents_first_and_is_empty_for_the_dead() -> None:
    async def test(world: World) -> None:
        child = world.start("/bin/sh", "-c", "sh -c 'sleep 30 & echo ready; wait' & wait")
        await world.said(child, b"ready")
        found = tree.tree(child.pid)
        assert found[0] == child.pid
        parents = [tree.stat(pid) for pid in found]
        assert [state.ppid for state in parents if state is not None] == [os.getpid(), *found[:2]]
        world.reaper.kill(ID)
        await world.next()
        assert tree.tree(child.pid) == []

    in_world(test)
