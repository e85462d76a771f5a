"""Starting a program: what it is given, and its preflight. Blocks: for a lane.

How the child waits until it may run is gate.py's. Here: the environment, the command's file, and the output, a pipe that the program
holds for reading too: when we die it is not ended by SIGPIPE, and a later supervisor reads on from /proc/PID/fd/1.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from supervisor.host import NotExecutable, executable, search_path
from supervisor.mechanism import exits, tree
from supervisor.mechanism.cgroups import UNDIVIDES, Groups
from supervisor.mechanism.gate import TRANSIENT, Owner, Started, failed, owner_of, reason, start
from supervisor.mechanism.gate import LaunchError as LaunchError
from supervisor.mechanism.gate import open_gate as open_gate
from supervisor.mechanism.gate import seal as seal
from supervisor.mechanism.gate import widen as widen
from supervisor.mechanism.sockets import listen_again
from supervisor.model import InstanceId, LaunchSettings, OutputTo, RunPreflight, Spawn
from supervisor.notify import OURS
from supervisor.servers import with_fds

PIPE_BYTES = 1024 * 1024  # output that may wait while we are busy or dead; the most an unprivileged process may ask for
USER_PIPE_BYTES = 256 * 1024  # the kernel gives one user 64 MiB of pipes at full size, and cripples those beyond (pipe(7))
TAIL_BYTES = 8192  # of a preflight's output that are kept to find its last words
WORDS_LIMIT = 300  # characters of them that are told
END_S = 2.0  # to end the tree of a preflight command

# True of us, false of what we start: what a service manager told us, and what an outer supervisor calls us.
_OURS = OURS | {"REVIVER_INSTANCE", "REVIVER_PID", "REVIVER_PREFLIGHT", UNDIVIDES}


@dataclass(frozen=True, slots=True)
class Child:
    """A process at its gate. The descriptors belong to whoever holds this value.

    gate    what opens the gate (`open_gate`); closing it unopened ends the child
    output  where its output is read, non-blocking; -1 when it is not ours to read
    """

    id: InstanceId
    pid: int
    start_ticks: int
    pidfd: int
    gate: int
    output: int


def launch(
    spawn: Spawn,
    sockets: Sequence[int],
    environ: Mapping[str, str],
    notify_socket: str,
    to: OutputTo,
    groups: Groups | None = None,
) -> Child:
    """Start an instance and leave it at its gate, in a control group of its own.

    sockets        held sockets, in the order of the settings: they become descriptors 3, 4, ...
    environ        Reviver's own environment
    notify_socket  the path programs are to notify, "" for none
    groups         where there is one to be had
    raises         LaunchError
    """
    settings = spawn.build.launch
    owner = owner_of(settings)
    env = _environment(settings, environ, owner)
    if notify_socket:
        env["NOTIFY_SOCKET"] = notify_socket
    if spawn.heartbeat_s is not None:
        env["WATCHDOG_USEC"] = str(int(spawn.heartbeat_s * 1e6))  # sd_watchdog_enabled(3)
    if sockets:
        env |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join([spawn.id.program] * len(sockets))}
    command = _command(with_fds(settings.command), spawn.build.directory, env["PATH"])
    with ExitStack() as ours, ExitStack() as kept:
        output, stdout = _output(to, owner, ours, kept)
        listen_again(sockets)
        started = start(command, spawn.build.directory, settings, env, owner, sockets, stdout)
        kept.pop_all()
    if groups is not None:
        groups.enter(spawn.id.program, started.pid, started.start_ticks, settings.limits)
    return Child(spawn.id, started.pid, started.start_ticks, started.pidfd, started.gate, output)


class Preflight:
    """A build's preflight commands. `run` blocks, in a lane; the other methods may be called from any thread, before it and after."""

    def __init__(self, effect: RunPreflight, environ: Mapping[str, str]) -> None:
        self._effect = effect
        self._environ = environ
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._waker = -1  # an eventfd that ends the wait, while `run` runs

    def run(self) -> str:
        """Run them in order, as the program's user, in the build's directory.

        returns  "" when all succeeded, else one sentence: which, how it ended, and its last words
        """
        deadline = time.monotonic() + self._effect.timeout_s
        with self._lock:
            self._waker = os.eventfd(int(self._ended.is_set()), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            for command in self._effect.build.launch.preflight:
                problem = self._one(command, deadline)
                if problem:
                    return f"preflight `{shlex.join(command)}` {problem}"
            return ""
        finally:
            with self._lock:
                os.close(self._waker)
                self._waker = -1

    def end(self) -> None:
        """Kill what runs, and run no more. Does not wait."""
        with self._lock:
            self._ended.set()
            if self._waker >= 0:
                os.eventfd_write(self._waker, 1)

    close = end  # whoever lets go of it ends it

    def _one(self, command: tuple[str, ...], deadline: float) -> str:
        build = self._effect.build
        try:
            owner = owner_of(build.launch)
            env = {**_environment(build.launch, self._environ, owner), "REVIVER_PREFLIGHT": self._effect.program}
            resolved = _command(command, build.directory, env["PATH"])
            with ExitStack() as ours, ExitStack() as kept:
                output, stdout = _output(OutputTo.FILE, owner, ours, kept)
                started = start(resolved, build.directory, build.launch, env, owner, (), stdout)
                kept.callback(os.close, started.pidfd)
                ours.close()
                open_gate(started.gate)
                return self._attend(started, output, deadline)
        except LaunchError as problem:
            return f"could not start: {problem.text}"

    def _attend(self, started: Started, output: int, deadline: float) -> str:
        tail = bytearray()
        ended = self._follow(started.pidfd, output, tail, deadline)
        marks = (f"REVIVER_PREFLIGHT={self._effect.program}".encode(), f"REVIVER_PID={started.pid}".encode())
        tree.end(tree.Tree(started.pid, started.start_ticks, marks), tree.orphans, END_S)
        _drain(output, tail)
        status = os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED | os.WNOHANG)
        if ended:
            if status is not None and status.si_code == os.CLD_EXITED and status.si_status == 0:
                return ""
            return f"failed: {exits.waited(status)[1]}{_last_words(tail)}"
        if time.monotonic() >= deadline:
            return f"was not done within {self._effect.timeout_s:g} s and was killed{_last_words(tail)}"
        return "was ended because Reviver stops"

    def _follow(self, pidfd: int, output: int, tail: bytearray, deadline: float) -> bool:
        """Keep the end of its output until it ends. False: the time is over, or `end` was called."""
        poll = select.poll()
        for file in (pidfd, output, self._waker):
            poll.register(file, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            ready = [file for file, _ in poll.poll(left_s * 1000)]
            if self._waker in ready:
                return False
            if output in ready and not _drain(output, tail):
                poll.unregister(output)
            if pidfd in ready:
                return True
        return False


def run_preflight(effect: RunPreflight, environ: Mapping[str, str]) -> str:
    """`Preflight.run` for whoever need not end it early."""
    return Preflight(effect, environ).run()


# --- what it is given -----------------------------------------------------------------------------------------------------------


def _environment(settings: LaunchSettings, environ: Mapping[str, str], owner: Owner) -> dict[str, str]:
    """What the settings say, over what the user is, over our own environment."""
    env = {name: value for name, value in environ.items() if name not in _OURS}
    return {**env, **owner.env, **dict(settings.env), "PATH": search_path(settings, environ)}


def _command(command: tuple[str, ...], directory: str, path: str) -> tuple[str, ...]:
    """The command with its file found, after the directory was seen."""
    try:
        os.stat(os.path.join(directory, "."))
    except OSError as problem:
        raise _directory_error(directory, problem) from None
    try:
        file = executable(command[0], directory, path)
    except NotExecutable as problem:
        raise LaunchError(str(problem), permanent=True) from None
    return (file, *command[1:])


def _directory_error(directory: str, problem: OSError) -> LaunchError:
    match problem.errno:
        case errno.ENOENT:
            text = f"directory {directory} does not exist (create it, or correct directory)"
        case errno.ENOTDIR:
            text = f"{directory} is no directory (correct directory)"
        case _:
            text = f"cannot enter directory {directory}: {reason(problem)}"
    return LaunchError(text, permanent=problem.errno not in TRANSIENT)


def _output(to: OutputTo, owner: Owner, ours: ExitStack, kept: ExitStack) -> tuple[int, int]:
    """(our end or -1, the child's end or -1 for our own output).

    ours  closes what only the child needs
    kept  closes what stays when all goes well
    """
    try:
        match to:
            case OutputTo.INHERIT:
                return -1, -1
            case OutputTo.NULL:
                return -1, _opened("/dev/null", os.O_WRONLY, ours)
            case OutputTo.FILE:
                return _pipe(owner, ours, kept)
    except OSError as problem:
        raise failed("a pipe for its output", problem) from None


def _pipe(owner: Owner, ours: ExitStack, kept: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    kept.callback(os.close, reader)
    ours.callback(os.close, writer)
    os.set_blocking(reader, False)
    both = _opened(f"/proc/self/fd/{writer}", os.O_RDWR, ours)
    with contextlib.suppress(PermissionError):  # the user has all the pipes that the kernel grants: a small one serves as well
        fcntl.fcntl(both, fcntl.F_SETPIPE_SZ, PIPE_BYTES if os.geteuid() == 0 else USER_PIPE_BYTES)
    if not owner.is_us:
        os.fchown(both, owner.uid, owner.gid)  # so that it may open /dev/stdout
    return reader, both


def _opened(path: str, flags: int, stack: ExitStack) -> int:
    file = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, file)
    return file


# --- a preflight's words --------------------------------------------------------------------------------------------------------


def _drain(output: int, tail: bytearray) -> bool:
    """Read what waits, keep the end of it. False: nothing will come any more."""
    try:
        while part := os.read(output, TAIL_BYTES):
            tail += part
            del tail[:-TAIL_BYTES]
    except BlockingIOError:
        return True
    return False


def _last_words(tail: bytearray) -> str:
    """The last lines, harmless for a terminal: ": first | second"; "" when it said nothing."""
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip()]
    words = " | ".join(lines[-2:])
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return f": {words[-WORDS_LIMIT:]}" if words else ""
