"""What only this host tells: which boot this is, and of a configuration its users, folders, commands and rights.

Asks the system's databases and reads the files' metadata; changes nothing. All but `boot_id` may block: callers are a command line or
a lane.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import re
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from supervisor import readers
from supervisor.model import LaunchSettings, ProgramSettings, Settings
from supervisor.readers import ConfigError

FILES_KNOWN = 256  # executables whose first line is remembered: most are started again and again
PAGE_LIMIT_BYTES = 256 * 1024  # what the answerer of the page takes (mechanism/sorry.py)


class NotExecutable(ValueError):
    """A command cannot be started: the text says why, `mend` what to do where the text does not."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(readers.printable(text))
        self.mend = mend


@functools.cache
def boot_id() -> str:
    """What tells one boot from another: pids, start times and instants mean something only within it. Raises OSError without /proc.

    A container that is started again keeps its kernel, and often its files: its own first process tells that none of the others lives.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    try:
        first = Path("/proc/1/stat").read_bytes()
    except OSError:  # hidden from this user (hidepid)
        return boot
    return f"{boot}.{first.rpartition(b')')[2].split()[19].decode()}"  # starttime: proc_pid_stat(5)


def examine(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[ConfigError, ...]:
    """The faults that show only on this host: users, folders, commands, rights. Changes nothing, and may block."""
    environ = os.environ if environ is None else environ
    faults = [("reviver.group", *problem) for problem in _group_problems(settings.daemon.group)]
    for program in settings.programs:
        faults += [(f"program.{program.name}.{key}", problem, mend) for key, problem, mend in _program_problems(program, environ)]
    faults += [("alerts.secret_file", *problem) for problem in _secret_problems(settings.alerts.secret_file)]
    for number, step in enumerate(settings.escalation, 1):
        for channel in step.notify:
            if channel.startswith("command:"):
                command = tuple(shlex.split(channel.removeprefix("command:")))
                faults += [(f"escalation[{number}].notify", *problem) for problem in _command_problems(command, "/", "")]
    return tuple(ConfigError(readers.printable(settings.path), *fault) for fault in faults)


def installed(module: str) -> bool:
    """Whether this Python could import it; it is not imported."""
    from importlib.util import find_spec  # for start-up time: only where a channel needs it

    return find_spec(module) is not None


def search_path(launch: LaunchSettings, environ: Mapping[str, str]) -> str:
    """The PATH on which a program's commands are looked for: its own, else Reviver's followed by the folder of its interpreter."""
    own = dict(launch.env).get("PATH")
    return own if own is not None else os.pathsep.join((environ.get("PATH", os.defpath), os.path.dirname(sys.executable)))


def executable(command: str, directory: str, path: str) -> str:
    """The file that a command's first word names.

    directory  absolute, where the program runs: relative words and relative parts of the path start there
    path       as in PATH
    raises     NotExecutable, which says why
    """
    if "/" in command:
        candidates = [os.path.join(directory, command)]
    else:
        candidates = [os.path.join(directory, folder, command) for folder in path.split(os.pathsep)]
    files = [candidate for candidate in candidates if os.path.isfile(candidate)]
    for file in files:
        if os.access(file, os.X_OK):
            _check_interpreter(file)
            return file
    if files:
        raise NotExecutable(f"{files[0]} is not executable (chmod +x)")
    if "/" not in command:
        raise NotExecutable(f"{command}: command not found (looked in {path})", "install it, or write its whole path")
    what = "is a directory" if os.path.isdir(candidates[0]) else "does not exist"
    raise NotExecutable(f"{candidates[0]} {what}", "name the file to execute")


def beginning(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """The first bytes of a regular file, b"" when it is none or cannot be read: for files that others may have put there.

    Looked at before it is opened, as that would wait at a fifo for ever, and some devices act on it (/dev/watchdog).
    """
    try:
        seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):  # a path that another file named may hold a NUL character
        return b""
    try:
        if stat.S_ISREG(os.fstat(seen).st_mode):
            with open(f"/proc/self/fd/{seen}", "rb", buffering=0) as file:
                return file.read(limit_bytes)
    except OSError:
        pass
    finally:
        os.close(seen)
    return b""


def _check_interpreter(file: str) -> None:
    """Raise NotExecutable where a script's first line names an interpreter that is not there (a moved virtual environment)."""
    found = os.stat(file)
    interpreter = _interpreter(file, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if interpreter and not os.path.isfile(interpreter):
        raise NotExecutable(f"{file} cannot be executed: its interpreter {interpreter} does not exist", "correct its first line")


@functools.lru_cache(FILES_KNOWN)
def _interpreter(file: str, *_: int) -> str:
    """What the first line of this very version of a file names; "" for a file that is no script, or cannot be read."""
    first = beginning(file, 256).split(b"\n", 1)[0]  # execve(2) reads no more of it; it may be executed without being readable
    words = first.removeprefix(b"#!").split(maxsplit=1) if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def _command_problems(command: tuple[str, ...], directory: str, path: str) -> Iterator[tuple[str, str]]:
    if command:
        try:
            executable(command[0], directory, path)
        except NotExecutable as problem:
            yield str(problem), problem.mend


def _group_problems(group: str) -> Iterator[tuple[str, str]]:
    if group:
        try:
            grp.getgrnam(group)
        except KeyError:
            yield f"there is no group {readers.quoted(group)} on this host", "create it, or name another"


def _secret_problems(path: str) -> Iterator[tuple[str, str]]:
    if path:
        try:
            mode = os.stat(path).st_mode
        except OSError as problem:
            yield f"{readers.printable(path)} cannot be read: {problem.strerror}", "create it, and let Reviver's user read it"
            return
        if not stat.S_ISREG(mode) or not os.access(path, os.R_OK):
            yield f"{readers.printable(path)} is no file that this user may read", "let Reviver's user read it"
        elif mode & (stat.S_IRWXO | stat.S_IWGRP):
            yield (
                f"{readers.printable(path)} is open to others (mode {stat.S_IMODE(mode):o})",
                f"chmod 600 {readers.printable(path)}",
            )


def _user_problems(user: str) -> Iterator[tuple[str, str]]:
    if user:
        try:
            if pwd.getpwnam(user).pw_uid != os.geteuid() and os.geteuid() != 0:
                yield f"only root may run a program as {readers.quoted(user)}", "run Reviver as root, or leave user out"
        except KeyError:
            yield f"there is no user {readers.quoted(user)} on this host", "create it, or name another"


def _page_problems(page: str) -> Iterator[tuple[str, str]]:
    if page and not beginning(page, 1):
        yield f"{readers.printable(page)} is no file with something in it that Reviver can read", "mend it, or leave page out"
    elif page and os.path.getsize(page) > PAGE_LIMIT_BYTES:
        yield (
            f"it is above {readers.spell_size(PAGE_LIMIT_BYTES)}",
            "make it smaller: let it name its pictures by another host's address",
        )


def _program_problems(program: ProgramSettings, environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    launch, path = program.launch, search_path(program.launch, environ)
    yield from (("user", *problem) for problem in _user_problems(launch.user))
    yield from (("group", *problem) for problem in _group_problems(launch.group))
    yield from (("sorry.page", *problem) for problem in _page_problems(program.sorry.page))
    if launch.group and not launch.user and os.geteuid() != 0:
        yield "group", "only root may choose a program's group", "run Reviver as root, or leave group out"
    if not os.path.isdir(launch.directory):
        yield "directory", f"there is no directory {readers.printable(launch.directory)}", "create it, or name another"
        return  # whatever is looked for in it is not there either
    commands = [
        ("command", launch.command),
        *(("preflight", command) for command in launch.preflight),
        ("health.command", program.health.command),
    ]
    for key, command in commands:
        yield from ((key, *problem) for problem in _command_problems(command, launch.directory, path))
    for address in launch.sockets:
        found = readers.HOST_PORT.fullmatch(address)
        if found and not may_bind(int(found[3])):
            yield (
                "sockets",
                f"cannot bind {address}: ports below {_first_free_port()} need a right",
                "run as root, or with CAP_NET_BIND_SERVICE",
            )


_CAP_NET_BIND_SERVICE = 10  # linux/capability.h


def may_bind(port: int) -> bool:
    """Whether this process has the right to bind the port (capabilities(7), ip(7))."""
    if port >= _first_free_port():
        return True
    rights = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return rights is not None and bool(int(rights[1], 16) >> _CAP_NET_BIND_SERVICE & 1)


def _first_free_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024  # kernels without the setting
