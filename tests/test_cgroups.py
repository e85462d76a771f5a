"""Control groups on the real kernel, where this host lets us divide one. What needs controllers runs where they are delegated."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.escapers import WIPED
from supervisor.lanes import Lane
from supervisor.mechanism import cgroups, deaths, tree
from supervisor.mechanism.cgroups import Groups, NoGroupsError, idle_limits, survey
from supervisor.mechanism.launch import Child, launch, open_gate
from supervisor.mechanism.priority import DEMOTED, NORMAL, set_share
from supervisor.mechanism.reap import Reaper
from supervisor.model import Build, Event, Exited, InstanceId, LaunchSettings, Limits, OutputTo, Spawn
from tests.processes import gone_within, reap_all, set_subreaper
from tests.supervised import Supervised, python
from tests.test_reap import BOMB, HOPPER

ID = InstanceId("store", 8)
DEADLINE_S = 20.0
ALL = Limits(memory_bytes=64 << 20, cpu=0.5, processes=40)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def groups(tmp_path: Path, said: list[str]) -> Iterator[Groups]:
    made = Groups(str(tmp_path), os.environ, said.append)
    if not made.path("x", 1, 1):
        pytest.skip(f"no groups here: {made.lacking}")
    set_subreaper(True)
    yield made
    set_subreaper(False)
    reap_all()
    made.close()
    assert not named(made)


@pytest.fixture
def controlled(groups: Groups) -> Groups:
    if groups.controllers != cgroups.CONTROLLERS:
        pytest.skip(groups.lacking)
    return groups


def named(groups: Groups) -> list[str]:
    """The groups that stand."""
    folder = Path(groups.path("x", 1, 1)).parent
    return [each.name for each in folder.glob("store.*") if each.is_dir()]


def start(groups: Groups, *command: str, limits: Limits | None = None) -> Child:
    """Start it, and leave it at its gate."""
    settings = LaunchSettings(command=command, limits=limits or Limits())
    return launch(Spawn(ID, Build(1, "", settings, "/")), (), os.environ, "", OutputTo.FILE, groups)


def run(groups: Groups, code: str, limits: Limits | None = None) -> Child:
    """Start a Python program and wait until it says something."""
    child = start(groups, sys.executable, "-I", "-S", "-c", code, limits=limits)
    open_gate(child.gate, str(child.id))
    os.set_blocking(child.output, True)
    assert os.read(child.output, 100).startswith(b"ready")
    return child


def whole(groups: Groups, child: Child) -> tree.Tree:
    group = groups.path(ID.program, child.pid, child.start_ticks)
    return tree.Tree(child.pid, child.start_ticks, tree.marks(child.id, child.pid), group)


def end(groups: Groups, child: Child) -> int:
    """End its tree; how many live on."""
    left = tree.end(whole(groups, child), tree.orphans, 2.0)
    for fd in (child.pidfd, child.output):
        os.close(fd)
    return left


# --- a group for each instance --------------------------------------------------------------------------------------------------


def test_a_child_stands_in_its_group_before_its_gate_opens(groups: Groups) -> None:
    child = start(groups, "/bin/cat", "/proc/self/cgroup")
    group = groups.path(ID.program, child.pid, child.start_ticks)
    assert cgroups.members(group) == [child.pid]
    open_gate(child.gate, str(ID))
    os.waitpid(child.pid, 0)
    assert Path(group).name in os.read(child.output, 4096).decode()
    os.close(child.output)
    os.close(child.pidfd)


@pytest.mark.parametrize("code", [WIPED, HOPPER, BOMB], ids=["daemons", "hopper", "bomb"])
def test_nobody_outlives_the_end_of_the_group(groups: Groups, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "KILL_S", DEADLINE_S)  # it waits for the event: a slow machine is no fault
    child = run(groups, code)
    group = groups.path(ID.program, child.pid, child.start_ticks)
    assert cgroups.members(group)
    cgroups.end(group)
    assert cgroups.members(group) == []
    assert end(groups, child) == 0
    assert [pid for pid in tree.orphans() if pid != child.pid and str(cgroups.where(pid)) == group] == [], "dead ones are reaped"


def test_the_reaper_ends_an_instance_by_its_group_and_removes_it(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.mechanism.reap.GONE_S", 0.01)
    monkeypatch.setattr(cgroups, "GONE_S", 0.0)

    async def test() -> None:
        events: asyncio.Queue[Event] = asyncio.Queue()
        lane = Lane("kill")
        reaper = Reaper(asyncio.get_running_loop(), events.put_nowait, lane, groups)
        child = run(groups, WIPED)
        reaper.watch(child)
        group = reaper.group(child.id)
        assert len(cgroups.members(group)) == 11
        reaper.kill(child.id)
        exited = await asyncio.wait_for(events.get(), DEADLINE_S)
        assert exited == Exited(child.id, -9, 0, "killed by SIGKILL")
        async with asyncio.timeout(DEADLINE_S):
            while named(groups):
                await asyncio.sleep(0.01)
        reaper.close()
        assert lane.drain(DEADLINE_S)
        os.close(child.output)

    asyncio.run(test())


def test_a_group_is_found_again_by_the_next_supervisor(groups: Groups, tmp_path: Path) -> None:
    child = run(groups, WIPED)
    after = Groups(str(tmp_path), os.environ, print)
    group = after.path(ID.program, child.pid, child.start_ticks)
    assert len(cgroups.members(group)) == 11
    assert after.leftovers({group}) == []
    (sentence,) = after.leftovers(())
    assert sentence.startswith("11 processes of an instance that no supervisor knows any more")
    assert f"echo 1 > {group}/cgroup.kill" in sentence
    assert end(after, child) == 0


def test_a_group_is_removed_once_it_has_been_empty_for_a_while(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(groups, "/bin/true")
    assert not groups.tidy(), "somebody is at its gate"
    end(groups, child)
    os.close(child.gate)
    assert groups.tidy(), "its counters may be read yet"
    assert len(named(groups)) == 1
    monkeypatch.setattr(cgroups, "GONE_S", 0.0)
    assert not groups.tidy()
    assert named(groups) == []


def test_a_daemon_leaves_no_group_behind(tmp_path: Path, groups: Groups) -> None:
    with Supervised(tmp_path, f"[program.store]\ncommand = {python(WIPED)}\n") as daemon:
        daemon.until("instance.ready", subject="store:1")
        group = cgroups.where(daemon.status("store")["instances"][0]["pid"])
        assert group is not None
        assert group.name.startswith("store.")
        assert len(cgroups.members(str(group))) == 11
        daemon.signal(signal.SIGINT)
        daemon.rest()
    assert not group.exists()
    assert not group.parent.exists() or not group.parent.name.startswith("reviver-"), "what it made to hold its groups is left"


def test_a_group_that_nobody_can_be_put_into_is_said_and_removed(groups: Groups, said: list[str]) -> None:
    groups.enter(ID.program, 999_999_999, 1, Limits())
    groups.enter(ID.program, 999_999_999, 1, Limits())
    folder = Path(groups.path("x", 1, 1)).parent
    assert said == [f"{ID.program}: cannot be given a control group of its own in {folder}: No such process"]
    assert named(groups) == []


# --- limits ---------------------------------------------------------------------------------------------------------------------


def test_limits_that_cannot_be_set_are_said_once(groups: Groups, said: list[str]) -> None:
    if groups.controllers:
        pytest.skip("they can be set here")
    for _ in range(2):
        child = start(groups, "/bin/true", limits=ALL)
        os.close(child.gate)
        end(groups, child)
    assert said == [f"store: limits.{key} has no effect: {groups.lacking}" for key in ("memory", "cpu", "processes")]


def test_idle_limits_are_those_without_their_controller() -> None:
    assert idle_limits(ALL, ("memory",)) == ("cpu", "processes")
    assert idle_limits(Limits(nofile=5, cpu=1.0), cgroups.CONTROLLERS) == ()


def test_limits_stand_in_the_group_and_can_be_set_again(controlled: Groups, said: list[str]) -> None:
    child = run(controlled, "print('ready', flush=True); input()", ALL)
    group = Path(controlled.path(ID.program, child.pid, child.start_ticks))

    def read() -> list[str]:
        return [(group / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")]

    assert read() == [str(64 << 20), "50000 100000", "40"]
    controlled.limit(ID.program, child.pid, child.start_ticks, Limits(memory_bytes=32 << 20, cpu=2.0, processes=50))
    assert read() == [str(32 << 20), "200000 100000", "50"]
    assert said == []
    end(controlled, child)


def test_a_fork_bomb_stays_within_its_limit_and_is_ended(controlled: Groups) -> None:
    bomb = "import os\nprint('ready', flush=True)\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    child = run(controlled, bomb, ALL)
    group = controlled.path(ID.program, child.pid, child.start_ticks)
    until(lambda: len(cgroups.members(group)) == ALL.processes)
    assert end(controlled, child) == 0


def test_a_kill_for_want_of_memory_is_known_with_its_limit(controlled: Groups) -> None:
    greedy = (
        "import time\nprint('ready', flush=True)\ninput()\nall = []\nwhile True:\n    all.append(bytearray(b'x' * (1 << 20)))\n"
    )
    child = run(controlled, greedy.replace("input()", "time.sleep(0.3)"), Limits(memory_bytes=64 << 20))
    (before,) = deaths.oom_counts([child.pid])
    assert gone_within(child.pidfd, DEADLINE_S)
    assert deaths.oom_killed(before)
    assert deaths.met_limit_bytes(before) == 64 << 20
    end(controlled, child)


def test_a_suspect_is_demoted_by_the_weight_of_its_group(controlled: Groups) -> None:
    child = run(controlled, "print('ready', flush=True); input()")
    group = controlled.path(ID.program, child.pid, child.start_ticks)
    set_share(child.pid, DEMOTED, group)
    assert int(Path(group, "cpu.weight").read_text()) < 20, "some tenth of the others' 100"
    set_share(child.pid, NORMAL, group)
    assert Path(group, "cpu.weight").read_text().strip() == "100"
    end(controlled, child)


def until(so: Callable[[], bool]) -> None:
    """Until something is so that no event tells: the kernel's counters."""
    deadline = os.times().elapsed + DEADLINE_S
    while not so():
        assert os.times().elapsed < deadline


# --- what is ours to divide -----------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A group of a systemd unit, as files: we stand in it."""
    base = tmp_path / "reviver.service"
    base.mkdir()
    for name, text in (("procs", f"{os.getpid()}\n"), ("subtree_control", ""), ("controllers", "cpu memory pids"), ("type", "")):
        (base / f"cgroup.{name}").write_text(text)
    monkeypatch.setattr(cgroups, "where", lambda pid: base)
    monkeypatch.setattr(cgroups, "_SYSTEMD", str(tmp_path))
    monkeypatch.setattr(cgroups, "_delegated", lambda base: True)
    return base


def test_a_delegated_unit_that_undoes_the_division_is_divided(unit: Path) -> None:
    ground = survey({cgroups.UNDIVIDES: "1"})
    assert (ground.base, ground.shared, ground.controllers, ground.lacking) == (unit, False, cgroups.CONTROLLERS, "")


def test_a_unit_that_does_not_undo_it_gets_groups_without_limits(unit: Path) -> None:
    """systemd could not start the next Reviver in it: the kernel refuses a process in a group that hands controllers on."""
    ground = survey({})
    assert ground.controllers == ()
    assert "reviver systemd install" in ground.lacking


def test_the_group_above_is_divided_where_we_stand_in_our_leaf(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "where", lambda pid: unit / cgroups.SUPERVISOR)
    assert survey({}).base == unit
    assert survey({}).controllers == cgroups.CONTROLLERS


def test_a_group_with_processes_of_others_is_not_divided(unit: Path) -> None:
    (unit / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n999999999\n")
    ground = survey({cgroups.UNDIVIDES: "1"})
    assert ground.controllers == ()
    assert ground.lacking == f"{unit} holds processes that are not Reviver's"


def test_a_controller_that_is_not_there_is_named(unit: Path) -> None:
    (unit / "cgroup.controllers").write_text("cpu pids")
    ground = survey({cgroups.UNDIVIDES: "1"})
    assert ground.controllers == ("cpu", "pids")
    assert ground.lacking == f"{unit} has no controller for memory"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda patch: patch.setattr(cgroups, "where", lambda pid: None), "cgroup v2 is not mounted"),
        (lambda patch: patch.setattr(cgroups, "_delegated", lambda base: False), "is systemd's own to divide"),
        (lambda patch: patch.setattr(os, "access", lambda path, mode: False), "is not ours to divide"),
    ],
)
def test_without_a_group_of_our_own_there_are_none_and_it_is_said(
    unit: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], why: str, tmp_path: Path
) -> None:
    change(monkeypatch)
    with pytest.raises(NoGroupsError, match=why):
        survey({cgroups.UNDIVIDES: "1"})
    said: list[str] = []
    none = Groups(str(tmp_path), {}, said.append)
    none.enter("store", os.getpid(), 1, ALL)
    assert none.path("store", 1, 1) == ""
    assert [sentence.partition(":")[2].split()[0] for sentence in said] == ["limits.memory", "limits.cpu", "limits.processes"]
    assert all(why in sentence for sentence in said)
    assert (none.tidy(), none.leftovers(())) == (False, [])
    none.close()
