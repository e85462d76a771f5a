"""What a suspect or a dying instance is doing: the kernel's view of its tree, stacks from its runtime, its cause, kept on disk.

Reads /proc, starts dumpers (their files are dump_*.py), writes beneath the state directory: one file an instance, mode 0600, bounded in
number and size, without secrets. Blocks, for a lane of its own, no longer than `LIMIT_S` and a moment. It never leaves anything stopped
and never raises: what cannot be had is a sentence in the file.

Another runtime is one more class with the shape of `dumping.Taker` in a file of its own, and its name in `TAKERS`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from supervisor.mechanism import dump_kernel, origin, tree
from supervisor.mechanism.deaths import OomCount, kernel_lines, met_limit_bytes, oom_killed
from supervisor.mechanism.dump_jvm import Jvm
from supervisor.mechanism.dump_kernel import KernelThread, Socket
from supervisor.mechanism.dump_native import Native
from supervisor.mechanism.dump_node import Node
from supervisor.mechanism.dump_python import Python
from supervisor.mechanism.dumping import DumpError, Snapshot, Snapshots, Stack, Taker
from supervisor.mechanism.redaction import hide
from supervisor.model import InstanceId
from supervisor.policy.cause import BUSY_RATIO, MEMORY, Cause, Code, Frame, Thread, cause, packages, summary
from supervisor.policy.cause import crash as named_crash

LIMIT_S = 2.4  # in all: policy does not wait for evidence longer than 3 s
MOMENTS = 5  # at which stacks are taken, and
MOMENT_S = 0.1  # from one to the next
GLANCE_S = 0.15  # within which it shows who runs
LATE_S = 0.9  # a request that waits for so long is what made it suspect
PROCESSES_LIMIT = 8  # of a tree whose stacks are taken, where none runs: the busiest first, then the youngest
FILES_LIMIT = 200  # evidence files kept of all programs
FILE_BYTES = 256 * 1024
LINES_LIMIT = 40  # of its last output
SOCKETS_LIMIT = 200
FOLDER = "evidence"

Busy = dict[tuple[int, int], float]  # (pid, tid) -> the share of the time in which it ran or wanted to

TAKERS: tuple[Taker, ...] = (Python(), Jvm(), Native())  # the first that recognises a process takes its stacks
LAST_TAKERS: tuple[Taker, ...] = (
    Node(),
    Python(),
    Jvm(),
    Native(patient=("gdb",)),
)  # of a process that is about to be killed: see theirs


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose evidence is taken.

    command, directories  how and where the program runs: they tell its own code from its libraries. The directory as written, and resolved
    last_output           gives the last bytes that it wrote; may block for a moment
    """

    id: InstanceId
    pid: int
    command: tuple[str, ...]
    directories: tuple[str, ...]
    release: str
    last_output: Callable[[], bytes]


@dataclass(slots=True)
class Collected:
    """What was found of one tree. `problems` are sentences about what could not be had."""

    threads: list[Thread] = field(default_factory=list)
    kernel: list[KernelThread] = field(default_factory=list)
    sockets: dict[int, dict[int, Socket]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Taken:
    """The evidence in one line, "" when the tree is gone, and the cause where one was found."""

    summary: str
    cause: Cause | None = None


def take(subject: Subject, state_dir: str, takers: Sequence[Taker] = TAKERS) -> Taken:
    """Find out what the instance's tree is doing, write it down, and say it in one line."""
    until = time.monotonic() + LIMIT_S
    found = collect(subject.pid, until, takers)
    if not found.kernel:
        return Taken("")
    straight = origin.straight(_renewed_places(found.threads), found.kernel[0].pid)
    named = cause(found.threads, Code(subject.directories, packages(subject.command), straight), subject.release)
    line = summary(named) if named is not None else _line(found.kernel)
    lines = origin.lines(named, found.kernel[0].pid, until) if named is not None else []
    body = {
        "instance": str(subject.id),
        "taken_wall": time.time(),
        "summary": line,
        "cause": None if named is None else asdict(named),
        "lines": [asdict(each) for each in lines],
        "problems": found.problems,
        "last_output": _last_lines(subject.last_output()),
        "sockets": _told(found.sockets),
        "kernel": [asdict(thread) for thread in found.kernel],
        "threads": [asdict(thread) for thread in found.threads if thread.moments],
    }
    return Taken(_keep(state_dir, subject.id, body), named)


def crash(subject: Subject, words: str, before: OomCount | None, state_dir: str) -> Taken:
    """Say why an instance ended and write it down. Blocks for a moment.

    words   how it ended, for people: "exit code 3", "killed by SIGSEGV, core dumped"
    before  `deaths.oom_count` of its process while it lived
    """
    output = _last_lines(subject.last_output())
    code = Code(subject.directories, packages(subject.command))
    found = named_crash(words, output, code, subject.release, before is not None and oom_killed(before))
    if found.error == MEMORY and before is not None and (limit := met_limit_bytes(before)) is not None:
        found = replace(found, error=f"{MEMORY} (limits.memory is {_size(limit)})")
    body = {
        "instance": str(subject.id),
        "taken_wall": time.time(),
        "summary": summary(found),
        "ended": words,
        "cause": asdict(found),
        "kernel_lines": kernel_lines({subject.pid}),
        "last_output": output,
    }
    return Taken(_keep(state_dir, subject.id, body), found)


def _size(count: int) -> str:
    unit, name = next((each for each in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")) if count % each[0] == 0), (1, "B"))
    return f"{count // unit} {name}"


def collect(pid: int, until: float, takers: Sequence[Taker] = TAKERS) -> Collected:
    """Look at a tree: who runs, then the stacks of whom it may be, then who ran meanwhile. Any process's, supervised or not."""
    pids = tree.tree(pid)
    began, before = time.monotonic(), dump_kernel.threads(pids)
    if not before:
        return Collected()
    time.sleep(max(0.0, min(GLANCE_S, until - time.monotonic())))
    seen = dump_kernel.threads(pids)  # a tracer interrupts what a thread waits in: it is asked of the kernel before
    glance = _busy(before, seen, time.monotonic() - began)
    if not glance:
        return Collected()
    chosen = _chosen(glance, dump_kernel.oldest_waits_s(pids))
    known = {pid: dump_kernel.sockets(pid) for pid in chosen}
    peers = {each.key: dump_kernel.awaited(each, known[each.pid]) for each in seen if each.pid in known}
    moments, problems = _moments(chosen, takers, until)
    whole = _busy(before, dump_kernel.threads(pids), time.monotonic() - began)
    busy = {key: max(whole.get(key, 0.0), glance[key]) for key in glance}  # while stacks are taken it stands still at times
    found = [_thread(each, busy[each.key], peers.get(each.key, ()), moments.get(each.pid)) for each in seen]
    return Collected(found, seen, known, problems)


def _busy(before: list[KernelThread], after: list[KernelThread], span_s: float) -> Busy:
    """The share of the time between two looks in which each thread ran, or waited for a processor."""
    used = {each.key: each.ran_s + each.queued_s for each in before}
    return {each.key: (each.ran_s + each.queued_s - used.get(each.key, 0.0)) / span_s for each in after}


def _chosen(busy: Busy, waits_s: dict[int, float]) -> list[int]:
    """The processes whose stacks tell most: of those that owe an answer the one that runs; where none does, all, within a limit.

    waits_s  who owes an answer, and for how long: a worker that is busy with a young request is none of the trouble
    """
    late = {pid for pid, wait_s in waits_s.items() if wait_s >= LATE_S}
    busy = {key: ratio for key, ratio in busy.items() if key[0] in late} or busy
    total: dict[int, float] = {}
    for (pid, _), ratio in busy.items():
        total[pid] = total.get(pid, 0.0) + ratio
    order = sorted(total, key=lambda pid: (total[pid], pid), reverse=True)
    return order[:1] if total[order[0]] >= BUSY_RATIO else order[:PROCESSES_LIMIT]


@dataclass(slots=True)
class _Seen:
    """What a taker saw of one process: each thread's stacks, oldest first, names and requests."""

    runtime: str
    snapshots: list[Snapshot] = field(default_factory=list)


def _moments(pids: list[int], takers: Sequence[Taker], until: float) -> tuple[dict[int, _Seen], list[str]]:
    """The stacks of these processes at several moments, taken in turn so that many take no longer than one."""
    seen: dict[int, _Seen] = {}
    problems: list[str] = []
    running: dict[int, Snapshots] = {}
    for pid in pids:
        taker = next((taker for taker in takers if taker.recognises(pid)), None)
        if taker is not None:
            seen[pid], running[pid] = _Seen(taker.runtime), taker.snapshots(pid, until)
    for moment in range(MOMENTS):
        due = time.monotonic() + MOMENT_S
        for pid, snapshots in tuple(running.items()):
            try:
                seen[pid].snapshots.append(next(snapshots))
            except StopIteration:
                del running[pid]
            except DumpError as problem:
                del running[pid]
                problems.append(f"process {pid}: {problem}")
        if not running or due >= until:
            break
        if moment < MOMENTS - 1:
            time.sleep(max(0.0, due - time.monotonic()))
    for snapshots in running.values():
        snapshots.close()
    return seen, problems


def _thread(seen: KernelThread, busy: float, peers: tuple[str, ...], stacks: _Seen | None) -> Thread:
    thread = Thread(seen.pid, seen.tid, seen.name, "native", busy, seen.locked, peers)
    if stacks is None:
        return thread
    own = [stack for snapshot in stacks.snapshots for stack in snapshot if stack.tid == seen.tid]
    request = next((stack.request for stack in own if stack.request), "")
    name = next((stack.name for stack in own if stack.name), seen.name)
    moments = tuple(stack.frames for stack in own)
    return replace(thread, name=name, runtime=stacks.runtime, moments=moments, request=request, renewed=_renewed(own))


def _renewed_places(threads: list[Thread]) -> set[tuple[str, int]]:
    """Lines of functions that were entered anew: what has to be known of them is whether they stand in a loop."""
    calls = {(thread.tid, call) for thread in threads for call in thread.renewed}
    frames = ((thread.tid, frame) for thread in threads for frames in thread.moments for frame in frames)
    return {(frame.file, frame.line) for tid, frame in frames if (tid, (frame.file, frame.function)) in calls}


def _renewed(stacks: list[Stack]) -> tuple[tuple[str, str], ...]:
    """Functions that were entered anew between two moments: at the same line, with other objects in their variables."""
    before: dict[Frame, list[tuple[int, ...]]] = {}
    found = set()
    for stack in stacks:
        now: dict[Frame, list[tuple[int, ...]]] = {}  # a list: a recursion stands on the stack more than once
        for frame, objects in zip(stack.frames, stack.objects, strict=False):
            if objects:
                now.setdefault(frame, []).append(objects)
        found |= {(frame.file, frame.function) for frame, objects in now.items() if before.setdefault(frame, objects) != objects}
    return tuple(sorted(found))


def _line(threads: list[KernelThread]) -> str:
    """Without stacks: the thread that used most of the processor, and what it does now."""
    hot = max(threads, key=lambda thread: thread.ran_s)
    doing = "runs" if hot.state == "R" else f"is in state {hot.state}" + (f", waits in {hot.waits_in}" if hot.waits_in else "")
    return f"of {len(threads)} threads, {hot.tid} ({hot.name}) ran most, {hot.ran_s:.1f} s in all, and {doing}"


def _told(sockets: dict[int, dict[int, Socket]]) -> list[dict[str, Any]]:
    return [{"pid": pid, **asdict(each)} for pid, known in sockets.items() for each in known.values()][:SOCKETS_LIMIT]


def _last_lines(output: bytes) -> list[str]:
    return [hide(line) for line in output.decode(errors="replace").splitlines()[-LINES_LIMIT:]]


def _shortened(body: dict[str, Any]) -> dict[str, Any]:
    """What a file keeps of many threads: one stack of the busiest, the kernel's view of fifty. The cause has been found already."""
    told = sorted(body.get("threads", ()), key=lambda each: bool(each["request"]) + each["busy"], reverse=True)[:1]
    return {"threads": [{**each, "moments": each["moments"][:1]} for each in told], "kernel": body.get("kernel", [])[:50]}


def _keep(state_dir: str, id: InstanceId, body: dict[str, Any]) -> str:
    """Write evidence down; its summary, with a word where that failed."""
    line = str(body["summary"])
    try:
        _write(Path(state_dir) / FOLDER, id, body)
    except OSError as problem:
        return f"{line} (the evidence could not be kept: {problem.strerror})"
    return line


def _write(folder: Path, id: InstanceId, body: dict[str, Any]) -> None:
    """Keep one file, whole or not at all, and only the newest of all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"{id.program}-{id.number}-{int(body['taken_wall'] * 1000)}.json"
    text = json.dumps(body, indent=1)
    if len(text) > FILE_BYTES:
        text = json.dumps({**body, **_shortened(body)}, indent=1)
    draft = target.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    draft.replace(target)
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-FILES_LIMIT]:
        old.unlink(missing_ok=True)
