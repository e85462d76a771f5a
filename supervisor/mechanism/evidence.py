"""What a suspect is doing, read from /proc: needs no right but that to read, never stops anything, always works.

For a lane: each read takes microseconds, but one of a process in trouble may not come back. One file an instance, mode 0600, and one
line for people. (What only a runtime can tell, the function and the line, is for takers of their own beside this one.)
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor.mechanism import tree
from supervisor.model import InstanceId

THREADS_LIMIT = 500  # of a tree that are looked at: more tell nothing new, and each costs a read
FILES_LIMIT = 200  # evidence files kept of all programs
FOLDER = "evidence"


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread as /proc/PID/task/TID shows it. `ran_s` is the CPU time it has used; "" where the kernel does not tell."""

    pid: int
    tid: int
    name: str
    state: str
    ran_s: float
    waits_in: str  # the kernel function it sleeps in
    system_call: str  # number and arguments, "running", or "" without the right to see it


def take(id: InstanceId, pid: int, state_dir: str) -> str:
    """Write down what each thread of the instance's tree does now, and say the most telling part in one line.

    returns  the line, "" when the tree is gone
    """
    threads = _threads(tree.tree(pid))
    if not threads:
        return ""
    try:
        _write(Path(state_dir) / FOLDER, id, threads)
    except OSError as problem:
        return f"{_line(threads)} (the evidence could not be kept: {problem.strerror})"
    return _line(threads)


def _threads(pids: list[int]) -> list[Thread]:
    found: list[Thread] = []
    for pid in pids:
        try:
            tids = sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [thread for tid in tids[: THREADS_LIMIT - len(found)] if (thread := _thread(pid, tid)) is not None]
    return found


def _thread(pid: int, tid: int) -> Thread | None:
    base = f"/proc/{pid}/task/{tid}"
    stat = _read(f"{base}/stat").rpartition(")")
    fields = stat[2].split()
    if not fields:
        return None
    ran_ns = _read(f"{base}/schedstat").split()
    name = stat[0].partition("(")[2]
    wchan = _read(f"{base}/wchan").strip("0\n")
    return Thread(pid, tid, name, fields[0], int(ran_ns[0]) / 1e9 if ran_ns else 0.0, wchan, _read(f"{base}/syscall").strip())


def _read(path: str) -> str:
    """A small file of /proc, "" when it is gone or not ours to read."""
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode(errors="replace")
    except OSError:
        return ""


def _line(threads: list[Thread]) -> str:
    """The thread that used most of the processor, and what it does now."""
    hot = max(threads, key=lambda thread: thread.ran_s)
    doing = "runs" if hot.state == "R" else f"is in state {hot.state}" + (f", waits in {hot.waits_in}" if hot.waits_in else "")
    return f"of {len(threads)} threads, {hot.tid} ({hot.name}) ran most, {hot.ran_s:.1f} s in all, and {doing}"


def _write(folder: Path, id: InstanceId, threads: list[Thread]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    taken = time.time()
    body = json.dumps({"instance": str(id), "taken_wall": taken, "threads": [asdict(thread) for thread in threads]}, indent=1)
    target = folder / f"{id.program}-{id.number}-{int(taken)}.json"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(body)
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-FILES_LIMIT]:
        old.unlink(missing_ok=True)
