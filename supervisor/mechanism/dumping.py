"""What all takers of stacks share: the values they give, and dumpers as child processes that can do no harm.

Starts processes, signals what a dumper of ours left stopped, reads /proc. Blocks, for a lane, never longer than its limits: a dumper is
ended by `timeout` even when we die ourselves, and a tracer's end sets free whatever it traced (ptrace(2)); what a killed dumper leaves
stopped all the same is continued.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.policy.cause import Frames

OUTPUT_LIMIT_BYTES = 8 << 20  # of one dump: a thousand threads of a hundred frames
FREE_S = 0.2  # within which the kernel sets free what a dead dumper traced: it takes microseconds
STEP_S = 0.005


class DumpError(Exception):
    """No stack could be taken. The text says why, for people."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One thread's stack at one moment.

    request  what it serves, where that shows, with all values redacted
    objects  for each frame the addresses of its variables' objects; () where they are not known
    """

    tid: int
    frames: Frames
    name: str = ""
    request: str = ""
    objects: tuple[tuple[int, ...], ...] = ()


Snapshot = tuple[Stack, ...]
Snapshots = Generator[Snapshot, None, None]


class Taker(Protocol):
    """Takes the stacks of processes of one runtime.

    runtime  its name, as it stands in causes
    """

    @property
    def runtime(self) -> str: ...

    def recognises(self, pid: int) -> bool:
        """Whether this process is of that runtime."""

    def snapshots(self, pid: int, until: float) -> Snapshots:
        """The stacks of all threads, each time it is asked. Nothing is left behind when it is closed.

        until   the instant (monotonic) after which it may not go on
        raises  DumpError when nothing more can be had
        """


def run(command: Sequence[str], pid: int, limit_s: float, owner: tuple[int, int] | None = None) -> bytes:
    """The output of a dumper that looks at process `pid`; it is ended after `limit_s`. Raises DumpError.

    owner  (uid, gid) to run it as
    """
    stopped = stopped_tids(pid)
    try:
        status, output, said = _run(command, limit_s, owner)
    except OSError as problem:
        raise DumpError(f"{command[0]} cannot be started: {problem.strerror}") from None
    if status != 0:
        set_free(pid, stopped)
        last = said.decode(errors="replace").strip().splitlines()
        raise DumpError(last[-1] if last else f"{os.path.basename(command[0])} was ended after {limit_s:g} s")
    return output


def states(pid: int) -> dict[int, str]:
    """The state letter of each thread; {} when the process is gone."""
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
                found[int(tid)] = file.read(512).rpartition(b")")[2].split()[0].decode()
    return found


def stopped_tids(pid: int) -> set[int]:
    return {tid for tid, state in states(pid).items() if state in "Tt"}


def set_free(pid: int, stopped: set[int]) -> None:
    """Continue a process that a dumper of ours has stopped. What was stopped before (`stopped`) is somebody else's doing."""
    if stopped:
        return
    deadline = time.monotonic() + FREE_S
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:  # a stop may still be on its way when the dumper dies
        held = stopped_tids(pid)
        quiet = 0 if held else quiet + 1
        if held:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(STEP_S)


def _run(command: Sequence[str], limit_s: float, owner: tuple[int, int] | None) -> tuple[int, bytes, bytes]:
    """(exit status, output, error output): never longer than a moment over `limit_s`, never more than the limit of bytes."""
    ender = shutil.which("timeout")
    with subprocess.Popen(
        [*((ender, "-s", "KILL", f"{limit_s:.3f}") if ender else ()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        user=owner[0] if owner else None,
        group=owner[1] if owner else None,
        extra_groups=[] if owner else None,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "GIT_OPTIONAL_LOCKS": "0"},
    ) as child:
        try:
            output, said = _gather(child, time.monotonic() + limit_s)
        finally:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, output, said


def _gather(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """All that it writes until both its pipes end, the deadline, or the limit of bytes."""
    assert child.stdout is not None
    assert child.stderr is not None
    written = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    poll = select.poll()
    for fd in written:
        poll.register(fd, select.POLLIN)
    open_fds = set(written)
    while open_fds and (left_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            part = os.read(fd, 65536)
            written[fd] += part
            if not part:
                poll.unregister(fd)
                open_fds.discard(fd)
        if sum(map(len, written.values())) > OUTPUT_LIMIT_BYTES:
            break
    if not open_fds:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(deadline - time.monotonic(), STEP_S))
    output, said = written.values()
    return bytes(output), bytes(said)
