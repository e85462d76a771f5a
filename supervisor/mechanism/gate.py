"""A child behind its gate: how a process is spawned so that it runs nothing before we say so. Blocks: for a lane.

A child is spawned (spawn.py: a vfork, cheap from a big process) as `/bin/sh`, which waits at its gate, a pipe on its standard input,
until one line is read, the instance's name: by then its pid stands in the handover. End of file instead means that we died, and it
ends without having run anything. Behind the gate it enters the directory and becomes the program, with the same pid. Another user's
program is spawned through setpriv(1), so that already the shell is that user's.

It gets its own session, no blocked and no ignored signal, /dev/null as standard input, held sockets from descriptor 3 on, and no other
descriptor of ours (`seal` sees to those that we were given ourselves).

Nothing is left behind by a failure: no descriptor, no child.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from supervisor.mechanism import tree
from supervisor.mechanism.spawn import spawn
from supervisor.model import LaunchSettings
from supervisor.servers import FIRST_FD

GATE = "/bin/sh"
ENV = "/usr/bin/env"
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
NOT_OPENED = 125  # the exit code of a child whose gate never opened
NOT_ENTERED = 126  # ... that could not enter its directory
_WAITS = "read -r REVIVER_INSTANCE"  # what the shell at the gate does
NAMES_KNOWN = 1024  # of variables, of which it is remembered whether a shell can have them: the same ones come with every start
_WORDS_BYTES = 65536  # of a command line: the gate's own words stand in its beginning

_GIVEN_NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)  # programs inherit it, not what `widen` makes of it
TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EIO, errno.ESTALE})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What makes the dynamic loader, the C library or its translations load files that a variable names. While a program's environment
# passes through setpriv, which still is root, these stay out (the C library does the same for set-user-ID programs).
_LOADING = re.compile(
    r"(?:LD_|GLIBC_|MALLOC_|LC_)[A-Z0-9_]*|(?:MUSL_)?LOCPATH|NLSPATH|GCONV_PATH|GETCONF_DIR|LANG|LANGUAGE|TMPDIR|TZDIR"
)
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
class Owner:
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
class Started:
    pid: int
    start_ticks: int
    pidfd: int
    gate: int


def open_gate(gate: int, name: str = "") -> None:
    """Let a child run, as the instance of this name. One that is dead already is no error: its exit tells. Closes `gate`."""
    with contextlib.suppress(BrokenPipeError):
        os.write(gate, f"{name}\n".encode())
    os.close(gate)


def at_gate(pid: int) -> bool:
    """Whether this process, one that `start` spawned, is still the shell at its gate, or behind it and no program yet."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as words:
            return _WAITS.encode() in words.read(_WORDS_BYTES)
    except OSError:
        return False


def seal() -> None:
    """Keep the descriptors that we were given ourselves (a shell's, a service manager's) from the programs. Once, at the start."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is closed already
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def widen() -> None:
    """Let ourselves open as many files as we may: each instance takes two or three. Once, at the start."""
    _, hard = _GIVEN_NOFILE
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start(
    command: tuple[str, ...],
    directory: str,
    settings: LaunchSettings,
    env: Mapping[str, str],
    owner: Owner,
    sockets: Sequence[int],
    stdout: int,
) -> Started:
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
            pid = spawn(words, clean, targets)
        except (OSError, ValueError) as problem:
            raise failed(command[0], problem) from None
        kept.callback(_abandon, pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as problem:
            raise failed(command[0], problem) from None
        kept.callback(os.close, pidfd)
        _limit(pid, settings, owner)
        ticks = tree.start_ticks(pid)
        assert ticks is not None  # it is our child and not reaped
        kept.pop_all()
    return Started(pid, ticks, pidfd, gate)


# --- whose it becomes ------------------------------------------------------------------------------------------------------------


def owner_of(settings: LaunchSettings) -> Owner:
    """Whose process a program becomes. Asks the user database, which may block. Raises LaunchError."""
    if not settings.user and not settings.group:
        return Owner(os.geteuid(), os.getegid(), None, {})
    group = _group(settings.group) if settings.group else None
    if settings.user:
        user = _user(settings.user)
        gid = user.pw_gid if group is None else group
        env = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        owner = Owner(user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)), env)
    else:
        assert group is not None
        owner = Owner(os.geteuid(), group, None, {})
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


# --- the spawn --------------------------------------------------------------------------------------------------------------------


def _gated(
    command: tuple[str, ...],
    directory: str,
    settings: LaunchSettings,
    env: Mapping[str, str],
    owner: Owner,
    listens: bool,
) -> tuple[list[str], dict[str, str]]:
    """The words that start the gate, and the environment that goes with them.

    setpriv, which is root, is not given variables that load code: the shell behind it exports them. A shell drops those whose names
    it cannot have itself (`a.b`): the program gets them through env(1).
    """
    strange = [f"{name}={value}" for name, value in env.items() if not _is_exportable(name)]
    loading = {} if owner.is_us else {name: env[name] for name in env if _LOADING.fullmatch(name)}
    script = [
        f"umask {settings.umask:04o}",
        *([] if owner.is_us else _limiting(settings)),
        "export REVIVER_PID=$$",
        *(["export LISTEN_PID=$$"] if listens else []),
        *(f"export {name}={shlex.quote(value)}" for name, value in loading.items()),
        f"{_WAITS} || exit {NOT_OPENED}",
        '[ -z "$REVIVER_INSTANCE" ] || export REVIVER_INSTANCE',
        f'cd -P -- "$1" || exit {NOT_ENTERED}',
        "unset OLDPWD",
        "shift",
        'exec "$@" </dev/null',
    ]
    through = [ENV, *strange] if strange else []
    words = [*_dropping(owner, settings.nice), GATE, "-c", "; ".join(script), GATE, directory, *through, *command]
    return words, {name: value for name, value in env.items() if name not in loading and _is_exportable(name)}


@functools.lru_cache(NAMES_KNOWN)
def _is_exportable(name: str) -> bool:
    """Whether a shell can have a variable of this name."""
    return _NAME.fullmatch(name) is not None


def _dropping(owner: Owner, nice: int) -> list[str]:
    """What becomes another user and then runs the words that follow. Without CAP_SYS_NICE it must have its nice before."""
    if owner.is_us:
        return []
    if nice > 0:
        return [_system("nice"), "-n", str(nice - os.getpriority(os.PRIO_PROCESS, 0)), *_dropping(owner, 0)]
    groups = None if owner.groups is None else ",".join(map(str, owner.groups))
    setpriv = _setpriv()
    if not setpriv:
        return [sys.executable, "-I", "-S", "-c", _DROP, str(owner.uid), str(owner.gid), "keep" if groups is None else groups]
    supplementary = ["--keep-groups"] if groups is None else ["--groups", groups] if groups else ["--clear-groups"]
    return [setpriv, "--reuid", str(owner.uid), "--regid", str(owner.gid), *supplementary, "--"]


def _setpriv() -> str:
    """util-linux's setpriv, "" when the host has none: BusyBox's cannot change the user, and our own Python takes 8 ms more."""
    found = _system("setpriv")
    return "" if os.path.basename(os.path.realpath(found)) == "busybox" else found


@functools.cache
def _system(tool: str) -> str:
    """The host's own tool, never one on the program's PATH: it runs as root. "" when there is none."""
    return shutil.which(tool, path=SYSTEM_PATH) or ""


def _within_ours(which: int, value: int) -> bool:
    _, hard = resource.getrlimit(which)
    return hard == resource.RLIM_INFINITY or value <= hard


def _limiting(settings: LaunchSettings) -> list[str]:
    """What another user's shell does for its own limits: without CAP_SYS_RESOURCE (as in most containers) we may not touch them.

    Units are those of a shell that is called as sh: a core is counted in blocks of 512 bytes.
    """
    soft, _ = _GIVEN_NOFILE
    lines = [] if soft == resource.RLIM_INFINITY else [f"ulimit -S -n {soft}"]
    for _, which, value, letter, unit in _wishes(settings):
        if _within_ours(which, value):
            lines.append(f"ulimit -{letter} {value // unit}")
    return [f"{line} || exit {NOT_ENTERED}" for line in lines]


def _limit(pid: int, settings: LaunchSettings, owner: Owner) -> None:
    """rlimits and nice of our process at its gate: the program inherits them. What only we may raise, also of another user's."""
    if owner.is_us:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _GIVEN_NOFILE)
    for name, which, value, _, _ in _wishes(settings):
        if not owner.is_us and _within_ours(which, value):
            continue
        try:
            resource.prlimit(pid, which, (value, value))
        except (ValueError, PermissionError):
            mend = "run it as root, or give the unit a higher limit"
            raise LaunchError(
                f"cannot set limits.{name} to {value}: above what Reviver itself may have ({mend})", permanent=True
            ) from None
    if settings.nice < 0 or (settings.nice and owner.is_us):
        try:
            os.setpriority(os.PRIO_PROCESS, pid, settings.nice)
        except PermissionError:
            mend = "run Reviver as root, or write 0 or more"
            raise LaunchError(f"cannot set nice to {settings.nice}: permission denied ({mend})", permanent=True) from None


def _wishes(settings: LaunchSettings) -> list[tuple[str, int, int, str, int]]:
    """(name, rlimit, value, the letter and the unit of ulimit) of each limit that was written."""
    limits = settings.limits
    all_limits = (("nofile", resource.RLIMIT_NOFILE, limits.nofile, "n", 1), ("core", resource.RLIMIT_CORE, limits.core, "c", 512))
    return [(name, which, value, letter, unit) for name, which, value, letter, unit in all_limits if value is not None]


def _abandon(pid: int) -> None:
    """End a child that is at its gate, and reap it."""
    os.kill(pid, signal.SIGKILL)  # our own child, not reaped: the pid cannot be another's
    os.waitpid(pid, 0)


def failed(what: str, problem: OSError | ValueError) -> LaunchError:
    """The sentence for what the kernel, or Python before it, refused."""
    if isinstance(problem, ValueError):
        return LaunchError(f"cannot start {what}: its command or environment holds a NUL character", permanent=True)
    mend = ""
    if problem.errno == errno.E2BIG:
        mend = " (shorten command or env)"
    elif problem.errno in (errno.EMFILE, errno.ENFILE):
        mend = " (raise the limit of open files of Reviver itself)"
    elif problem.errno == errno.EAGAIN:
        mend = " (the limit of processes is reached)"
    return LaunchError(f"cannot start {what}: {reason(problem)}{mend}", permanent=problem.errno not in TRANSIENT)


def reason(problem: OSError) -> str:
    """The kernel's words for an error, to stand within a sentence."""
    return (problem.strerror or str(problem)).lower()
