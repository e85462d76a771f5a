"""Samples of one process tree, from /proc: what each process and each thread did, and where it waits.

It only reads files of /proc that never wait for the process they tell of (stat, schedstat, wchan, syscall; not cmdline or
smaps, which do). A light sample costs some 10 µs a process, a full one some 30 µs a thread; both are bounded. A process that
ends meanwhile is left out; a pid that has become somebody else's ends the tree.

Sources: proc_pid_stat(5), Documentation/scheduler/sched-stats.rst for schedstat.
"""

from __future__ import annotations

import os
import platform
from collections import deque
from dataclasses import dataclass

from supervisor.mechanism.tree import tree
from supervisor.policy.samples import ProcessSample, ThreadSample, TreeSample

KEPT_S = 60.0  # what an incident wants to know of the time before it
KEPT_LIMIT = 700  # samples: the above at 10 Hz
PROCESSES_LIMIT = 64  # sampled of one tree; a tree with more is told by its eldest
THREADS_LIMIT = 200  # in a full sample: about 6 ms
TREE_S = 2.0  # workers come and go; who belongs to the tree is asked again after this
CALM_TREE_S = 5.0  # the same while samples are light

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_READ_BYTES = 4096
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)

# Where a thread waits, by the beginning of the kernel function's name (wchan).
_PLACES = (
    ("futex", "lock"),
    ("hrtimer_nanosleep", "sleep"),
    ("do_nanosleep", "sleep"),
    ("ep_poll", "epoll"),
    ("do_epoll_wait", "epoll"),
    ("poll_schedule", "poll"),
    ("do_select", "poll"),
    ("do_sys_poll", "poll"),
    ("inet_csk_accept", "accept"),
    ("inet_csk_wait_for_connect", "accept"),
    ("wait_woken", "socket"),
    ("sk_wait_data", "socket"),
    ("sk_stream_wait", "socket"),
    ("unix_stream", "socket"),
    ("unix_wait", "socket"),
    ("__skb_wait", "socket"),
    ("inet_wait_for_connect", "socket"),
    ("pipe_", "pipe"),
    ("anon_pipe_", "pipe"),
    ("do_wait", "child"),
    ("kernel_wait", "child"),
    ("io_schedule", "disk"),
    ("folio_wait", "disk"),
)
# The same by number of the system call, for kernels that hide wchan.
_CALLS = {
    "x86_64": {202: "lock", 35: "sleep", 230: "sleep", 232: "epoll", 281: "epoll", 7: "poll", 23: "poll", 270: "poll", 271: "poll"}
    | {43: "accept", 288: "accept", 45: "socket", 47: "socket", 61: "child", 247: "child"},
    "aarch64": {98: "lock", 101: "sleep", 115: "sleep", 22: "epoll", 72: "poll", 73: "poll"}
    | {202: "accept", 242: "accept", 207: "socket", 212: "socket", 260: "child", 95: "child"},
}.get(platform.machine(), {})


@dataclass(frozen=True, slots=True)
class Vitals:
    """What `status` shows of a tree. `cpu_ratio` is in cores, None until two samples are there; `workers` do not count the leader."""

    cpu_ratio: float | None
    rss_bytes: int
    workers: int


class Sampler:
    """The samples of one tree, kept for KEPT_S."""

    def __init__(self, pid: int, start_ticks: int) -> None:
        self.pid = pid
        self._start_ticks = start_ticks
        self._pids: tuple[int, ...] = (pid,)
        self._pids_at = float("-inf")
        self._kept: deque[TreeSample] = deque(maxlen=KEPT_LIMIT)

    @property
    def pids(self) -> tuple[int, ...]:
        """The tree's processes, its leader first, as they were when last asked for."""
        return self._pids

    @property
    def newest(self) -> TreeSample | None:
        return self._kept[-1] if self._kept else None

    def growth(self, span_s: float) -> float:
        """Bytes per second by which the tree's memory grew, from the last sample that is at least `span_s` older than the newest."""
        newest, older = self.newest, self._older(span_s)
        if newest is None or older is None:
            return 0.0
        grown = sum(process.rss_bytes for process in newest.processes) - sum(process.rss_bytes for process in older.processes)
        return grown / (newest.at - older.at)

    def since(self, instant: float) -> tuple[TreeSample, ...]:
        """The samples from this instant on, the oldest first."""
        found = []
        for sample in reversed(self._kept):
            if sample.at < instant:
                break
            found.append(sample)
        return tuple(reversed(found))

    def refresh(self, now: float) -> tuple[int, ...]:
        """Ask who belongs to the tree; 12 µs a process."""
        self._pids = tuple(tree(self.pid)[:PROCESSES_LIMIT]) or (self.pid,)
        self._pids_at = now
        return self._pids

    def sample(self, now: float, *, full: bool) -> TreeSample | None:
        """Take and keep a sample; None when the leader is gone, may not be read, or its pid is another's now."""
        if now - self._pids_at >= (TREE_S if full else CALM_TREE_S):
            self.refresh(now)
        processes = []
        budget = THREADS_LIMIT if full else 0
        for pid in self._pids:
            fields = _stat(f"/proc/{pid}/stat")
            if pid == self.pid and (not fields or int(fields[19]) != self._start_ticks):
                return None
            if fields:
                threads = _threads(pid, budget) if budget else ()
                budget -= len(threads)
                processes.append(_process(pid, fields, threads))
        taken = TreeSample(now, tuple(processes))
        self._kept.append(taken)
        while self._kept[0].at < now - KEPT_S:
            self._kept.popleft()
        return taken

    def vitals(self) -> Vitals | None:
        newest = self.newest
        if newest is None:
            return None
        rss_bytes = sum(process.rss_bytes for process in newest.processes)
        return Vitals(self.cpu_ratio(1.0), rss_bytes, len(newest.processes) - 1)

    def cpu_ratio(self, span_s: float) -> float | None:
        """Cores used by the whole tree since the last sample that is at least `span_s` older than the newest; None without one. The
        clock of process times ticks each 10 ms."""
        newest, older = self.newest, self._older(span_s)
        if newest is None or older is None:
            return None
        before = {process.pid: process.cpu_s for process in older.processes}
        used_s = sum(max(0.0, process.cpu_s - before.get(process.pid, process.cpu_s)) for process in newest.processes)
        return used_s / (newest.at - older.at)

    def _older(self, span_s: float) -> TreeSample | None:
        newest = self.newest
        return next((s for s in reversed(self._kept) if newest is not None and newest.at - s.at >= 0.9 * span_s), None)


def _process(pid: int, fields: list[bytes], threads: tuple[ThreadSample, ...]) -> ProcessSample:
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    return ProcessSample(pid, int(fields[1]), fields[0].decode(), cpu_s, int(fields[21]) * _PAGE_BYTES, threads, int(fields[9]))


def _threads(pid: int, limit: int) -> tuple[ThreadSample, ...]:
    folder = f"/proc/{pid}/task"
    try:
        tids = os.listdir(folder)[:limit]
    except OSError:
        return ()
    return tuple(sample for tid in tids if (sample := _thread(f"{folder}/{tid}", int(tid))) is not None)


def _thread(folder: str, tid: int) -> ThreadSample | None:
    fields = _stat(f"{folder}/stat")
    schedule = _read(f"{folder}/schedstat").split()
    if not fields or len(schedule) < 2:
        return None
    state = fields[0].decode()
    place = "" if state == "R" else _place(folder)
    return ThreadSample(tid, state, int(schedule[0]), int(schedule[1]), place)


def _place(folder: str) -> str:
    wchan = _read(f"{folder}/wchan").decode("ascii", "replace")
    if wchan in ("", "0"):
        number = _read(f"{folder}/syscall").partition(b" ")[0]
        return _CALLS.get(int(number), "") if number.isdigit() else ""
    return next((place for prefix, place in _PLACES if wchan.startswith(prefix)), wchan)


def _stat(path: str) -> list[bytes]:
    """The fields of a stat file from the state on (proc's numbers less three); [] when its process is gone."""
    fields = _read(path).rpartition(b")")[2].split()
    return fields if len(fields) > 21 else []


def _read(path: str) -> bytes:
    """The beginning of a file of /proc; b"" when its process is gone, or not ours to read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _GONE:
        return b""
    try:
        return os.read(file, _READ_BYTES)
    except _GONE:
        return b""
    finally:
        os.close(file)
