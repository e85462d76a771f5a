"""`reviver doctor`: what this host allows, and what follows from it. Looks, and changes nothing."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor import config
from supervisor.commands.screen import say, say_json, table
from supervisor.mechanism import cgroups
from supervisor.mechanism.sockdiag import SockDiag
from supervisor.model import DaemonSettings

OK, LIMITED, MISSING = "ok", "limited", "missing"

KERNEL_NEEDED = (5, 10)  # pidfd_getfd, P_PIDFD, close_range
PIDFD_GET_INFO = 0xC048FF0B  # linux/pidfd.h, Linux >= 6.15: the exit status of a process that is not our child
PR_GET_CHILD_SUBREAPER = 37  # linux/prctl.h
SOMAXCONN_WISHED = 1024  # customers who wait in a held socket while a relief starts
NOFILE_WISHED = 4096  # some five descriptors for each instance, and those of the programs, which inherit the limit
FREE_WISHED_BYTES = 256 * 1024 * 1024  # five rotated logs at the default size


@dataclass(frozen=True, slots=True)
class Finding:
    """`state` is ok, limited or missing; `text` what is so, and the consequence where it is not ok."""

    name: str
    state: str
    text: str


def doctor(explicit: str | None, as_json: bool) -> int:
    """Print every finding; 1 when something is missing without which Reviver does not work."""
    findings = [finding for look in LOOKS for finding in look()]
    findings += _places(explicit)
    if as_json:
        say_json({"findings": [asdict(finding) for finding in findings]})
    else:
        table(("WHAT", "STATE", "MEANS"), [(f.name, f.state, f.text) for f in findings], state=1)
        say()
        say(_summary(findings))
    return 1 if any(finding.state == MISSING for finding in findings) else 0


def _summary(findings: list[Finding]) -> str:
    missing = [finding.name for finding in findings if finding.state == MISSING]
    limited = [finding.name for finding in findings if finding.state == LIMITED]
    if missing:
        return f"Reviver does not work fully here: {', '.join(missing)}"
    return f"Reviver works here, with less of: {', '.join(limited)}" if limited else "Reviver works fully here"


# --- the kernel -----------------------------------------------------------------------------------------------------------------


def kernel() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < KERNEL_NEEDED:
        yield Finding("kernel", MISSING, f"Linux {release}: Reviver needs 5.10 or newer")
    else:
        yield Finding("kernel", OK, f"Linux {release}")


def pidfd() -> Iterator[Finding]:
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as problem:
        yield Finding("pidfd", MISSING, f"pidfd_open: {problem.strerror}; without it no process can be watched safely")
        return
    try:
        fcntl.ioctl(fd, PIDFD_GET_INFO, bytearray((0x1F).to_bytes(8, sys.byteorder) + bytes(64)))
    except OSError:
        text = "older than Linux 6.15: the exit status of an adopted process stays unknown"
        yield Finding("pidfd", LIMITED, text)
    else:
        yield Finding("pidfd", OK, "exits are noticed at once, also those of adopted processes")
    finally:
        os.close(fd)


def cgroup() -> Iterator[Finding]:
    try:
        ground = cgroups.survey(os.environ)
    except cgroups.NoGroupsError as problem:
        without = "trees are ended by walking them, and limits.memory, cpu and processes have no effect"
        yield Finding("cgroup v2", LIMITED, f"{problem}: {without}")
        return
    if ground.lacking:
        text = f"{ground.lacking}: whole trees are killed at once, but not limited by these"
        yield Finding("cgroup v2", LIMITED, text)
    else:
        yield Finding("cgroup v2", OK, f"whole trees are killed at once, and limited: {', '.join(ground.controllers)}")


def subreaper() -> Iterator[Finding]:
    value = ctypes.c_int()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0) == 0:
        yield Finding("subreaper", OK, "double-forked descendants come back to Reviver and are ended with their tree")
    else:
        yield Finding("subreaper", MISSING, "double-forked descendants are lost and may survive their program")


def sock_diag() -> Iterator[Finding]:
    try:
        asked = SockDiag()
        try:
            asked.listeners()
        finally:
            asked.close()
    except OSError as problem:
        text = f"{problem.strerror or problem}: hangs are told by probes alone, later and less surely (modprobe tcp_diag inet_diag)"
        yield Finding("sock_diag", LIMITED, text)
    else:
        yield Finding("sock_diag", OK, "accept queues and the ages of requests are known")


def somaxconn() -> Iterator[Finding]:
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if limit < SOMAXCONN_WISHED:
        text = f"{limit}: more customers than that cannot wait for a relief (sysctl net.core.somaxconn={SOMAXCONN_WISHED})"
        yield Finding("somaxconn", LIMITED, text)
    else:
        yield Finding("somaxconn", OK, f"{limit} connections may wait in a held socket")


def clock() -> Iterator[Finding]:
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    source = path.read_text().strip() if path.exists() else "unknown"
    if source in ("hpet", "acpi_pm", "jiffies"):
        yield Finding("clock", LIMITED, f"{source}: each look at the time is a slow system call, and idle cost is higher")
    else:
        yield Finding("clock", OK, source)


# --- rights and tools -----------------------------------------------------------------------------------------------------------


def ptrace() -> Iterator[Finding]:
    path = Path("/proc/sys/kernel/yama/ptrace_scope")
    scope = int(path.read_text()) if path.exists() else 0
    if scope == 0 or (scope < 3 and os.geteuid() == 0):
        yield Finding("ptrace", OK, f"ptrace_scope {scope}: the stacks of a hung server can be read")
    else:
        text = (
            f"ptrace_scope {scope}: the stacks of a hung server cannot be read (run as root, or sysctl kernel.yama.ptrace_scope=0)"
        )
        yield Finding("ptrace", LIMITED, text)


def py_spy() -> Iterator[Finding]:
    where = shutil.which("py-spy", path=f"{os.environ.get('PATH', os.defpath)}:{os.path.dirname(sys.executable)}")
    if where:
        yield Finding("py-spy", OK, where)
    else:
        yield Finding("py-spy", LIMITED, "not found: the function and line of a Python loop are not named (pip install py-spy)")


def descriptors() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if soft < NOFILE_WISHED and soft != resource.RLIM_INFINITY:
        text = f"{soft} (at most {'unlimited' if unlimited else hard}): enough for some {soft // 10} instances (ulimit -n {NOFILE_WISHED})"
        yield Finding("descriptors", LIMITED, text)
    else:
        yield Finding("descriptors", OK, str(soft))


def systemd() -> Iterator[Finding]:
    if os.environ.get("NOTIFY_SOCKET"):
        yield Finding("systemd", OK, "this runs under a service manager that is notified")
    elif Path("/run/systemd/system").is_dir():
        yield Finding("systemd", OK, "there: reviver systemd install lets it keep Reviver alive")
    else:
        yield Finding("systemd", LIMITED, "not running here: nothing starts Reviver again after a boot, or if it dies")


# --- places ---------------------------------------------------------------------------------------------------------------------


def _places(explicit: str | None) -> Iterator[Finding]:
    try:
        settings = config.load(config.find(explicit, os.environ))
    except config.ConfigErrors as problem:
        count = len(problem.faults)
        yield Finding(
            "configuration", LIMITED, f"{problem.faults[0]}" + (f" (and {count - 1} more: reviver check)" if count > 1 else "")
        )
        return
    yield Finding("configuration", OK, settings.path)
    yield from _directories(settings.daemon)


def _directories(daemon: DaemonSettings) -> Iterator[Finding]:
    for name in ("runtime_dir", "state_dir", "log_dir"):
        path = Path(getattr(daemon, name))
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            text = f"{path} cannot be {'written' if existing == path else f'made: {existing} is not writable'} by this user"
            yield Finding(name, MISSING, f"{text} (run as its owner, or name another in [reviver])")
            continue
        space = os.statvfs(existing)
        free = space.f_bavail * space.f_frsize
        if free < FREE_WISHED_BYTES and name != "runtime_dir":
            yield Finding(name, LIMITED, f"{path}: {free // 2**20} MiB are free; output and incidents are lost when it is full")
        else:
            yield Finding(name, OK, str(path))


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    kernel,
    pidfd,
    cgroup,
    subreaper,
    sock_diag,
    somaxconn,
    clock,
    ptrace,
    py_spy,
    descriptors,
    systemd,
)
