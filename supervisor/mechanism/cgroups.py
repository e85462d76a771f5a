"""Control groups, version 2: one for each instance's tree, where this host lets us divide the group that we are in.

A group holds whatever its members start, however they detach themselves: it is killed with one write, and the kernel says when nobody is
left in it. Where the controllers are ours too, it limits memory, processors and processes. Without groups all goes on as before: trees
are walked, and the limits have no effect, which is said.

It touches the cgroup file system alone, and reads /proc. Everything here may take milliseconds, as the kernel has one lock for all
groups (moving a process has it wait for all processors: up to 20 ms, measured): for a lane, but for `path` and `set_nice`.

A group is named by its leader's pid and start time, so the name is known before the instance has one, is never used twice in a boot,
and is found again by a later supervisor, whatever the first one wrote down before it died.

source  Documentation/admin-guide/cgroup-v2.rst; systemd's CGROUP_DELEGATION.md
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import time
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.model import Limits

CONTROLLERS = ("cpu", "memory", "pids")
SUPERVISOR = "supervisor"  # the group that we ourselves stand in: one that hands controllers on may hold no process
UNDIVIDES = "REVIVER_UNDIVIDES"  # our unit sets it, for it undoes the division when we die (mechanism/systemd.py)
KILL_S = 1.0  # for SIGKILL to a group to take effect: a fork bomb of 150 takes some 20 ms
CLOSE_S = 0.5
POLL_MS = 2  # the kernel reports changes at most each 10 ms: looked at more often than that
PERIOD_US = 100_000  # of cpu.max, the kernel's default
GONE_S = 10.0  # an empty group is kept for so long: why its instance ended is read in its counters; or it was made just now
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d+)\.(\d+)")


class NoGroupsError(Exception):
    """There are no groups for us. The text says why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What this host grants.

    base         the group that is ours to divide
    shared       others may divide it too: our groups stand in one of ours
    controllers  what the groups can be limited by
    lacking      why that is not all of CONTROLLERS
    """

    base: Path
    shared: bool
    controllers: tuple[str, ...]
    lacking: str = ""


def survey(environ: Mapping[str, str]) -> Ground:
    """What may be divided here. Changes nothing. Raises NoGroupsError."""
    own = where(os.getpid())
    if own is None:
        raise NoGroupsError("cgroup v2 is not mounted")
    base = own.parent if own.name == SUPERVISOR else own
    if not all(os.access(base / name, os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control")):
        raise NoGroupsError(f"{base} is not ours to divide (systemd gives it: Delegate=yes in the unit)")
    managed = os.path.isdir(_SYSTEMD)
    if managed and not _delegated(base):
        raise NoGroupsError(f"{base} is systemd's own to divide (run Reviver from its unit, which has Delegate=yes)")
    controllers, lacking = _offered(base)
    if managed and own == base and UNDIVIDES not in environ:
        # systemd puts the one that it starts after our death into this very group, and the kernel refuses that while it is divided
        return Ground(base, False, (), "this unit does not undo the division when Reviver dies (reviver systemd install)")
    if not _is_root(base) and not set(controllers) <= set(_words(base / "cgroup.subtree_control")) and _others(base):
        return Ground(base, not managed, (), f"{base} holds processes that are not Reviver's")
    return Ground(base, not managed, controllers, lacking)


def prospect(environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The controllers that a Reviver on this host will have, and why not all: from here, else from its unit, where systemd runs."""
    try:
        ground = survey(environ)
    except NoGroupsError as problem:
        _, mounted = _mount()
        if not mounted or not os.path.isdir(_SYSTEMD):
            return (), str(problem)
        return _offered(Path(mounted))
    return ground.controllers, ground.lacking


def where(pid: int) -> Path | None:
    """The folder of a process's group; None when it is gone, or version 2 is not mounted where we can see its group."""
    mine = next((line[3:] for line in _text(Path(f"/proc/{pid}/cgroup")).splitlines() if line.startswith("0::")), "")
    root, mounted = _mount()
    if not mounted or not f"{mine}/".startswith(f"{root}/") or mine.startswith("/.."):
        return None
    return Path(mounted, mine.removesuffix(" (deleted)").removeprefix(root).lstrip("/"))


class Groups:
    """The groups of this Reviver's instances. Any thread may call it."""

    def __init__(self, runtime_dir: str, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Divide what this host lets us divide; where it lets us nothing, every call does nothing.

        runtime_dir  tells this Reviver from another in the same group
        warn         gets a sentence, once, for each thing that an operator wished and cannot have
        """
        self._warn = warn
        self._said: set[str] = set()
        self._empty: dict[str, float] = {}  # groups in which nobody lives, and since when
        self._folder = ""
        self._base = ""
        self.controllers: tuple[str, ...] = ()
        self.lacking = ""
        try:
            ground = survey(environ)
            own = f"reviver-{zlib.crc32(os.path.abspath(runtime_dir).encode()):08x}"
            self._divide(ground, str(ground.base / own) if ground.shared else str(ground.base))
        except NoGroupsError as problem:
            self.lacking = str(problem)
        except OSError as problem:
            self.lacking = f"{problem.filename}: {(problem.strerror or str(problem)).lower()}"

    def path(self, program: str, leader: int, start_ticks: int) -> str:
        """Where the group of an instance stands, or would; "" without groups. Does not block."""
        return f"{self._folder}/{program}.{leader}.{start_ticks}" if self._folder else ""

    def enter(self, program: str, leader: int, start_ticks: int, limits: Limits) -> None:
        """Make an instance's group and put its leader, who waits at its gate, into it. What cannot be is said, and not in the way."""
        group = self.path(program, leader, start_ticks)
        if group:
            try:
                os.mkdir(group)
                _write(f"{group}/cgroup.procs", str(leader))
            except OSError as problem:
                _remove(group)
                self._say(f"{program}: cannot be given a control group of its own in {self._folder}: {problem.strerror}")
        self.limit(program, leader, start_ticks, limits)

    def limit(self, program: str, leader: int, start_ticks: int, limits: Limits) -> None:
        """Set the limits of an instance's group, also of one that a former supervisor made: they are lost while nobody divides."""
        group = self.path(program, leader, start_ticks)
        for key, controller, file, value in _wishes(limits):
            if controller not in self.controllers:
                self._say(f"{program}: limits.{key} has no effect: {self.lacking}")
                continue
            try:
                _write(f"{group}/{file}", value)
            except OSError as problem:
                self._say(f"{program}: limits.{key} has no effect: {file} of its group: {problem.strerror}")

    def leftovers(self, known: Container[str]) -> list[str]:
        """A sentence for each group in which somebody lives and which is none of these: of instances that nobody knows any more."""
        groups = [f"{self._folder}/{name}" for name in self._names()]
        counts = {group: len(members(group)) for group in groups if group not in known}
        return [
            f"{count} process{'' if count == 1 else 'es'} of an instance that no supervisor knows any more: left alone"
            f" (echo 1 > {group}/cgroup.kill ends {'it' if count == 1 else 'them'})"
            for group, count in counts.items()
            if count
        ]

    def tidy(self) -> bool:
        """Remove groups that have been empty for GONE_S. Answers whether some have to wait for that."""
        now = time.monotonic()
        empty = {name: self._empty.get(name, now) for name in self._names() if not _is_populated(f"{self._folder}/{name}")}
        self._empty = {
            name: since for name, since in empty.items() if now - since < GONE_S or not _remove(f"{self._folder}/{name}")
        }
        return bool(self._empty)

    def close(self) -> None:
        """Remove all groups in which nobody lives, and what we made to hold them. Those at their gates have CLOSE_S to end."""
        deadline = time.monotonic() + CLOSE_S
        for name in self._names():
            group = f"{self._folder}/{name}"
            if not _remove(group):
                _wait_empty(group, deadline - time.monotonic())
                _remove(group)
        if self._folder != self._base:
            _remove(self._folder)

    def _divide(self, ground: Ground, folder: str) -> None:
        base = str(ground.base)
        if ground.controllers and not _is_root(ground.base):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{base}/{SUPERVISOR}")
            for pid in members(base):  # ourselves, and a guard or a shell above us: `survey` has seen to it
                _write(f"{base}/{SUPERVISOR}/cgroup.procs", str(pid))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        self._base, self._folder, self.lacking = base, folder, ground.lacking
        for name in ground.controllers:
            try:
                for parent in dict.fromkeys((base, folder)):
                    _write(f"{parent}/cgroup.subtree_control", f"+{name}")
                self.controllers += (name,)
            except OSError as problem:
                self.lacking = f"{base} cannot hand {name} on: {problem.strerror}"

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if _NAME.fullmatch(name)] if self._folder else []
        except OSError:
            return []

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._warn(sentence)


def end(group: str) -> None:
    """SIGKILL for everybody in a group, also for those that are just being forked; waits until nobody lives in it, at most KILL_S.

    Nothing happens where there is no such group, or the kernel is older than 5.14: then the tree is to be walked.
    """
    try:
        _write(f"{group}/cgroup.kill", "1")
    except OSError:
        return
    _wait_empty(group, KILL_S)


def members(group: str) -> list[int]:
    """The processes of this very group, not of those in it; [] where there is no such group."""
    return [int(pid) for pid in _words(Path(group, "cgroup.procs"))] if group else []


def set_nice(group: str, nice: int) -> bool:
    """Weigh a group among the others as this nice value would a process; False without the cpu controller. Microseconds."""
    try:
        _write(f"{group}/cpu.weight.nice", str(nice))
    except OSError:
        return False
    return True


def counters(group: str) -> str:
    """The file of a group's counters of memory: how often its limit was met, and somebody killed for it."""
    return f"{group}/memory.events"


def memory_limit_bytes(group: str) -> int | None:
    """What a group may have at most; None for no limit, or no such group."""
    value = _text(Path(group, "memory.max")).strip()
    return int(value) if value.isdecimal() else None


def _wishes(limits: Limits) -> Iterator[tuple[str, str, str, str]]:
    """(key, controller, file, what is written there) of each limit that was written."""
    if limits.memory_bytes is not None:
        yield "memory", "memory", "memory.max", str(limits.memory_bytes)
    if limits.cpu is not None:
        yield "cpu", "cpu", "cpu.max", f"{round(limits.cpu * PERIOD_US)} {PERIOD_US}"
    if limits.processes is not None:
        yield "processes", "pids", "pids.max", str(limits.processes)


def idle_limits(limits: Limits, controllers: Container[str]) -> tuple[str, ...]:
    """The keys of those limits that have no effect with these controllers."""
    return tuple(key for key, controller, _, _ in _wishes(limits) if controller not in controllers)


# --- what is ours ---------------------------------------------------------------------------------------------------------------


def _offered(group: Path) -> tuple[tuple[str, ...], str]:
    """The controllers that a group may hand on, and a sentence about those that it may not."""
    there = _words(group / "cgroup.controllers")
    missing = [name for name in CONTROLLERS if name not in there]
    return tuple(
        name for name in CONTROLLERS if name in there
    ), f"{group} has no controller for {', '.join(missing)}" if missing else ""


def _delegated(base: Path) -> bool:
    """Whether systemd says that this group is ours: it marks such groups (user.* since 251), and gives a user's to the user."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(base, name) == b"1"
    return os.geteuid() != 0 and base.name.endswith(".service")


def _is_root(group: Path) -> bool:
    """The root of all groups, which may hold processes beside divided ones."""
    return not (group / "cgroup.type").exists()


def _others(base: Path) -> set[int]:
    """Processes in this very group that are neither we nor above us."""
    ours = set()
    pid = os.getpid()
    while pid > 0:
        ours.add(pid)
        status = _words(Path(f"/proc/{pid}/status"))
        pid = int(status[status.index("PPid:") + 1]) if "PPid:" in status else 0
    return set(members(str(base))) - ours


@functools.cache
def _mount() -> tuple[str, str]:
    """(the group that is its root, without a last slash; where version 2 is mounted), ("", "") where it is not."""
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            root, mounted = fields.split()[3:5]
            return root.rstrip("/"), mounted
    return "", ""


# --- the files ------------------------------------------------------------------------------------------------------------------


def _wait_empty(group: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    try:
        events = os.open(f"{group}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0) and time.monotonic() < deadline:
            poll.poll(POLL_MS)
    finally:
        os.close(events)


def _is_populated(group: str) -> bool:
    return "populated 1" in _text(Path(group, "cgroup.events"))


def _remove(group: str) -> bool:
    """Remove a group with those that its members made in it. False: somebody lives in it."""
    with contextlib.suppress(OSError):
        os.rmdir(group)  # hardly any has others in it
        return True
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _words(file: Path) -> list[str]:
    return _text(file).split()


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """One write, as these files want it."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
