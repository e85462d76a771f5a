"""Starting a process: everything here blocks, and runs in a lane.

A child is spawned by posix_spawn (a vfork: cheap from a big process) as `/bin/sh`, which enters the directory, sets the umask and then
waits at its gate, a pipe on its standard input, until one line is read: by then its pid stands in the handover. End of file instead
means that we died, and it ends without having run anything. Behind the gate it becomes the program, with the same pid. Another user's
program is spawned through setpriv(1), so that already the shell is that user's.

The program gets: its own session, no blocked and no ignored signal, /dev/null as standard input, held sockets from descriptor 3 on, and
no other descriptor of ours (`seal` sees to those that we were given ourselves). Its output is a pipe that it holds for reading too:
when we die it is not ended by SIGPIPE, and a later supervisor reads on from /proc/PID/fd/1.

Nothing is left behind by a failure: no descriptor, no child.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import grp
import os
import pwd
import re
import resource
import select
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from supervisor.config import NotExecutable, executable, search_path
from supervisor.mechanism import tree
from supervisor.model import InstanceId, LaunchSettings, OutputTo, RunPreflight, Spawn
from supervisor.servers import FIRST_FD, with_fds

GATE = "/bin/sh"
ENV = "/usr/bin/env"
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
NOT_OPENED = 125  # the exit code of a child whose gate never opened
NOT_ENTERED = 126  # ... that could not enter its directory

PIPE_BYTES = 1024 * 1024  # output that may wait while we are busy or dead; the most an unprivileged process may ask for
USER_PIPE_BYTES = 256 * 1024  # the kernel gives one user 64 MiB of pipes at full size, and cripples those beyond (pipe(7))
TAIL_BYTES = 8192  # of a preflight's output that are kept to find its last words
WORDS_LIMIT = 300  # characters of them that are told
END_S = 2.0  # to end the tree of a preflight command

_CATCHABLE = [int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}]
_TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EIO, errno.ESTALE})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What makes the dynamic loader, the C library or its translations load files that a variable names. While a program's environment
# passes through setpriv, which still is root, these stay out (the C library does the same for set-user-ID programs).
_LOADING = re.compile(
    r"(?:LD_|GLIBC_|MALLOC_|LC_)[A-Z0-9_]*|(?:MUSL_)?LOCPATH|NLSPATH|GCONV_PATH|GETCONF_DIR|LANG|LANGUAGE|TMPDIR|TZDIR"
)
# What a service manager told us about ourselves: true for us, false for what we start.
_OURS = re.compile(r"NOTIFY_SOCKET|WATCHDOG_(?:USEC|PID)|LISTEN_(?:FDS|FDNAMES|PID)|REVIVER_(?:INSTANCE|PID|PREFLIGHT)")
_DROP = """\
import os, sys
uid, gid, groups = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if groups != "keep":
    os.setgroups([int(group) for group in groups.split(",") if group])
os.setgid(gid)
os.setuid(uid)
os.execv(sys.argv[4], sys.argv[4:])
"""


class LaunchError(Exception):
    """No process came to be. The text is one sentence for people.

    permanent  the same attempt will fail again until somebody mends something; else the world was in the way
    """

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.text = text
        self.permanent = permanent


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


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose process it becomes. `groups` None keeps ours."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None
    env: Mapping[str, str]

    @property
    def is_us(self) -> bool:
        """Without rights our own groups are all there is; and the main one may stand among the others or not."""
        same = self.uid == os.geteuid() and self.gid == os.getegid()
        return same and (self.groups is None or os.geteuid() != 0 or {self.gid, *self.groups} == {self.gid, *os.getgroups()})


@dataclass(frozen=True, slots=True)
class _Started:
    pid: int
    start_ticks: int
    pidfd: int
    gate: int


def launch(spawn: Spawn, sockets: Sequence[int], environ: Mapping[str, str], notify_socket: str, to: OutputTo) -> Child:
    """Start an instance and leave it at its gate.

    sockets        held sockets, in the order of the settings: they become descriptors 3, 4, ...
    environ        Reviver's own environment
    notify_socket  the path programs are to notify, "" for none
    raises         LaunchError
    """
    settings = spawn.build.launch
    owner = _owner(settings)
    env = {**_environment(settings, environ, owner), "REVIVER_INSTANCE": str(spawn.id)}
    if notify_socket:
        env["NOTIFY_SOCKET"] = notify_socket
    if sockets:
        env |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join([spawn.id.program] * len(sockets))}
    command = _command(with_fds(settings.command), spawn.build.directory, env["PATH"])
    with ExitStack() as ours, ExitStack() as kept:
        output, stdout = _output(to, owner, ours, kept)
        started = _start(command, spawn.build.directory, settings, env, owner, sockets, stdout)
        kept.pop_all()
    return Child(spawn.id, started.pid, started.start_ticks, started.pidfd, started.gate, output)


def open_gate(gate: int) -> None:
    """Let a child run. One that is dead already is no error: its exit tells. Closes `gate`."""
    with contextlib.suppress(BrokenPipeError):
        os.write(gate, b"\n")
    os.close(gate)


def seal() -> None:
    """Keep the descriptors that we were given ourselves (a shell's, a service manager's) from the programs. Once, at the start."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is closed already
            if int(name) > 2:
                os.set_inheritable(int(name), False)


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
            owner = _owner(build.launch)
            env = {**_environment(build.launch, self._environ, owner), "REVIVER_PREFLIGHT": self._effect.program}
            resolved = _command(command, build.directory, env["PATH"])
            with ExitStack() as ours, ExitStack() as kept:
                output, stdout = _output(OutputTo.FILE, owner, ours, kept)
                started = _start(resolved, build.directory, build.launch, env, owner, (), stdout)
                kept.callback(os.close, started.pidfd)
                ours.close()
                open_gate(started.gate)
                return self._attend(started, output, deadline)
        except LaunchError as problem:
            return f"could not start: {problem.text}"

    def _attend(self, started: _Started, output: int, deadline: float) -> str:
        tail = bytearray()
        ended = self._follow(started.pidfd, output, tail, deadline)
        marks = (f"REVIVER_PREFLIGHT={self._effect.program}".encode(), f"REVIVER_PID={started.pid}".encode())
        tree.end(tree.Tree(started.pid, started.start_ticks, marks), tree.orphans, END_S)
        _drain(output, tail)
        status = os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED | os.WNOHANG)
        if ended:
            if status is not None and status.si_code == os.CLD_EXITED and status.si_status == 0:
                return ""
            return f"failed: {tree.ending(status)[1]}{_last_words(tail)}"
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


def _owner(settings: LaunchSettings) -> _Owner:
    if not settings.user and not settings.group:
        return _Owner(os.geteuid(), os.getegid(), None, {})
    group = _group(settings.group) if settings.group else None
    if settings.user:
        user = _user(settings.user)
        gid = user.pw_gid if group is None else group
        env = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        owner = _Owner(user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)), env)
    else:
        assert group is not None
        owner = _Owner(os.geteuid(), group, None, {})
    if not owner.is_us and os.geteuid() != 0:
        whom = f"user {settings.user}" if settings.user else f"group {settings.group}"
        raise LaunchError(
            f"cannot run as {whom}: Reviver itself is not root (run it as root, or leave user and group out)", permanent=True
        )
    return owner


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise LaunchError(f"user {name} does not exist on this host (create it, or correct user)", permanent=True) from None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise LaunchError(f"group {name} does not exist on this host (create it, or correct group)", permanent=True) from None


def _environment(settings: LaunchSettings, environ: Mapping[str, str], owner: _Owner) -> dict[str, str]:
    """What the settings say, over what the user is, over our own environment."""
    env = {name: value for name, value in environ.items() if not _OURS.fullmatch(name)}
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
            text = f"cannot enter directory {directory}: {_reason(problem)}"
    return LaunchError(text, permanent=problem.errno not in _TRANSIENT)


def _output(to: OutputTo, owner: _Owner, ours: ExitStack, kept: ExitStack) -> tuple[int, int]:
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
        raise _failed("a pipe for its output", problem) from None


def _pipe(owner: _Owner, ours: ExitStack, kept: ExitStack) -> tuple[int, int]:
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


# --- the spawn ------------------------------------------------------------------------------------------------------------------


def _start(
    command: tuple[str, ...],
    directory: str,
    settings: LaunchSettings,
    env: Mapping[str, str],
    owner: _Owner,
    sockets: Sequence[int],
    stdout: int,
) -> _Started:
    """Spawn the gate and limit it. Returns once it is a process of its own, waiting."""
    words, clean = _gated(command, directory, settings, env, owner, bool(sockets))
    with ExitStack() as ours, ExitStack() as kept:
        try:
            waits, gate = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, waits)
            kept.callback(os.close, gate)
            targets = {0: waits}
            if stdout >= 0:
                targets |= {1: stdout, 2: stdout}
            targets |= {FIRST_FD + place: socket for place, socket in enumerate(sockets)}
            pid = os.posix_spawn(
                words[0],
                words,
                clean,
                file_actions=list(_moves(targets, ours)),
                setsid=True,
                setsigmask=(),
                setsigdef=_CATCHABLE,
            )
        except (OSError, ValueError) as problem:
            raise _failed(command[0], problem) from None
        kept.callback(_abandon, pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as problem:
            raise _failed(command[0], problem) from None
        kept.callback(os.close, pidfd)
        _limit(pid, settings)
        ticks = tree.start_ticks(pid)
        assert ticks is not None  # it is our child and not reaped
        kept.pop_all()
    return _Started(pid, ticks, pidfd, gate)


def _gated(
    command: tuple[str, ...],
    directory: str,
    settings: LaunchSettings,
    env: Mapping[str, str],
    owner: _Owner,
    listens: bool,
) -> tuple[list[str], dict[str, str]]:
    """The words that start the gate, and the environment that goes with them.

    setpriv, which is root, is not given variables that load code: the shell behind it exports them. A shell drops those whose names
    it cannot have itself (`a.b`): the program gets them through env(1).
    """
    strange = [f"{name}={value}" for name, value in env.items() if not _NAME.fullmatch(name)]
    loading = {} if owner.is_us else {name: env[name] for name in env if _LOADING.fullmatch(name)}
    script = [
        f"umask {settings.umask:04o}",
        f'cd -P -- "$1" || exit {NOT_ENTERED}',
        "unset OLDPWD",
        "shift",
        "export REVIVER_PID=$$",
        *(["export LISTEN_PID=$$"] if listens else []),
        *(f"export {name}={shlex.quote(value)}" for name, value in loading.items()),
        f"read -r _ || exit {NOT_OPENED}",
        'exec "$@" </dev/null',
    ]
    through = [ENV, *strange] if strange else []
    words = [*_dropping(owner), GATE, "-c", "; ".join(script), GATE, directory, *through, *command]
    return words, {name: value for name, value in env.items() if name not in loading and _NAME.fullmatch(name)}


def _dropping(owner: _Owner) -> list[str]:
    """What becomes another user and then runs the words that follow."""
    if owner.is_us:
        return []
    groups = None if owner.groups is None else ",".join(map(str, owner.groups))
    setpriv = _setpriv()
    if not setpriv:
        return [sys.executable, "-I", "-S", "-c", _DROP, str(owner.uid), str(owner.gid), "keep" if groups is None else groups]
    supplementary = ["--keep-groups"] if groups is None else ["--groups", groups] if groups else ["--clear-groups"]
    return [setpriv, "--reuid", str(owner.uid), "--regid", str(owner.gid), *supplementary, "--"]


@functools.cache
def _setpriv() -> str:
    """util-linux's setpriv, "" when the host has none: BusyBox's cannot change the user, and our own Python takes 8 ms more."""
    found = shutil.which("setpriv", path=SYSTEM_PATH)
    return "" if found is None or os.path.basename(os.path.realpath(found)) == "busybox" else found


def _moves(targets: Mapping[int, int], stack: ExitStack) -> Iterator[tuple[int, int, int]]:
    """dup2 actions that put each source at its target. Sources are copied above all targets first: so no one overwrites another."""
    above = max(targets) + 1
    for target, source in targets.items():
        copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, above)
        stack.callback(os.close, copy)
        yield (os.POSIX_SPAWN_DUP2, copy, target)


def _limit(pid: int, settings: LaunchSettings) -> None:
    """rlimits and nice of the process at its gate: the program inherits them."""
    wishes = (("nofile", resource.RLIMIT_NOFILE, settings.limits.nofile), ("core", resource.RLIMIT_CORE, settings.limits.core))
    for name, which, value in wishes:
        if value is None:
            continue
        try:
            resource.prlimit(pid, which, (value, value))
        except (ValueError, PermissionError):
            mend = "run it as root, or give the unit a higher limit"
            raise LaunchError(
                f"cannot set limits.{name} to {value}: above what Reviver itself may have ({mend})", permanent=True
            ) from None
    if settings.nice:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, settings.nice)
        except PermissionError:
            mend = "run Reviver as root, or write 0 or more"
            raise LaunchError(f"cannot set nice to {settings.nice}: permission denied ({mend})", permanent=True) from None


def _abandon(pid: int) -> None:
    """End a child that is at its gate, and reap it."""
    os.kill(pid, signal.SIGKILL)  # our own child, not reaped: the pid cannot be another's
    os.waitpid(pid, 0)


def _failed(what: str, problem: OSError | ValueError) -> LaunchError:
    if isinstance(problem, ValueError):
        return LaunchError(f"cannot start {what}: its command or environment holds a NUL character", permanent=True)
    mend = ""
    if problem.errno == errno.E2BIG:
        mend = " (shorten command or env)"
    elif problem.errno in (errno.EMFILE, errno.ENFILE):
        mend = " (raise the limit of open files of Reviver itself)"
    elif problem.errno == errno.EAGAIN:
        mend = " (the limit of processes is reached)"
    return LaunchError(f"cannot start {what}: {_reason(problem)}{mend}", permanent=problem.errno not in _TRANSIENT)


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()


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
