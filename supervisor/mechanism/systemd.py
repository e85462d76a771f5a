"""What systemd and we have to say to each other: ready, alive, stopping; the descriptors that it keeps for us; and the unit.

It touches the notification socket and nothing else; the unit is a text. Without a service manager every call does nothing. The guard,
where there is no systemd, speaks the same protocol: neither is told apart from the other here.

The descriptor store: what we `store` outlives us, and the next of us finds it by its name with `inherited`. Listening sockets, our ends of
the programs' output and pidfds are kept so: queued customers, unread lines and exit statuses outlive us with them.

source  sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), systemd.service(5), systemd.exec(5), systemd.kill(5)
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import PurePosixPath

from supervisor import notify
from supervisor.mechanism.cgroups import CONTROLLERS, UNDIVIDES
from supervisor.model import ProgramSettings, Settings

STATUS_LIMIT = 500  # characters: one line of `systemctl status`
WATCHDOG_S = 30  # without a decision for so long the loop is dead
STORE_OWED_LIMIT = 4096  # words about descriptors that wait for the manager to read: each holds copies of its descriptors open
STORE_AGAIN_S = 0.01  # a manager's queue holds 10 datagrams where nobody raised that, and is read within a moment
FIRST_FD = 3  # SD_LISTEN_FDS_START
# The manager's queue is full, or the kernel has no room for descriptors on their way: later there is. Everything else stays as it is.
_LATER = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
KILL_S = 5.0  # what is added to a program's grace for SIGKILL to its tree
STOP_MARGIN_S = 15.0  # for our own end: journal, last messages
STOP_LEAST_S = 30.0
DIRECTORIES = (("/run", "RuntimeDirectory", "0711"), ("/var/lib", "StateDirectory", "0750"), ("/var/log", "LogsDirectory", "0750"))


def inherited(environ: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The descriptors that the manager kept for us, by the name that they were stored under. Call it once, at the start.

    returns  each is open, ours to close, and closed in whatever we start; of one name in the order in which they were stored
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    kept: dict[str, tuple[int, ...]] = {}
    for place in range(min(int(count), notify.STORE_FDS_LIMIT)):
        fd = FIRST_FD + place
        try:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError:  # a count that is not true: what is not open is not ours
            continue
        name = names[place] if place < len(names) else ""
        kept[name] = (*kept.get(name, ()), fd)
    return kept


def open_guard(environ: Mapping[str, str]) -> int | None:
    """A pidfd of the guard that keeps this very process, our parent; None without one."""
    guard = os.getppid()
    if environ.get(notify.GUARD) != str(guard):
        return None
    try:
        pidfd = os.pidfd_open(guard)
    except ProcessLookupError:
        return None
    if os.getppid() == guard:
        return pidfd
    os.close(pidfd)  # it died, and its number may be another's by now
    return None


class Systemd:
    """Tells the service manager how we are. Never waits: what cannot be sent now goes along with the next word."""

    def __init__(self, environ: Mapping[str, str], later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        """later: calls something after so many seconds, as a loop's `call_later`; without it the next word takes along what waits."""
        self._path = environ.get("NOTIFY_SOCKET", "")
        self._later = later
        self._asked_again = False
        self._owed: dict[str, str] = {}
        self._store_owed: deque[tuple[dict[str, str], list[int]]] = deque()
        kept = environ.get("LISTEN_FDNAMES", "") if environ.get("LISTEN_PID") == str(os.getpid()) else ""
        self._kept = Counter(kept.split(":") if kept else ())  # descriptors by name, as the manager has them
        self._kept_bytes = len(kept)
        self._told_alive: float | None = None
        self._sender = notify.sender() if self._path else None
        self.interval_s = _interval_s(environ) if self._path else None

    def ready(self, status: str = "") -> None:
        """We supervise; after a reload, we do again."""
        self._tell({"READY": "1"} | _status(status))

    def alive(self) -> None:
        """Call it after each turn of the loop that decided, and at least once per `interval_s` (None: nobody waits for it)."""
        if self._owed or self._store_owed:
            self._tell({})
        if self.interval_s is None:
            return
        now = time.monotonic()
        if self._told_alive is None or now - self._told_alive >= self.interval_s / 2:
            self._told_alive = now
            self._tell({"WATCHDOG": "1"})

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._tell(_status(text))

    def reloading(self) -> None:
        """A new configuration is being taken up; `ready` ends it."""
        self._tell({"RELOADING": "1", "MONOTONIC_USEC": str(time.monotonic_ns() // 1000)})

    def exits(self, code: int) -> None:
        """What the guard is to end with when all is done; systemd does not know this word."""
        self._tell({"X_EXIT": str(code)})

    def stopping(self, stop_s: float, status: str = "") -> None:
        """We drain, and ask for `stop_s` seconds from now: the configuration may have changed since the unit was written."""
        self._tell({"STOPPING": "1", "EXTEND_TIMEOUT_USEC": str(int(stop_s * 1e6))} | _status(status))

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Have the manager keep these open, also when we are dead, until `unstore`.

        name  not longer than 255 characters, no colon; what is stored under it already stays
        fds   they stay ours. What goes beyond notify.STORE_FDS_LIMIT or STORE_NAMES_BYTES is not kept, nor what finds more than
              STORE_OWED_LIMIT words waiting for the manager
        """
        size = len(fds) * (len(name) + 1)
        if self._kept.total() + len(fds) > notify.STORE_FDS_LIMIT or self._kept_bytes + size > notify.STORE_NAMES_BYTES:
            return
        self._kept[name] += len(fds)
        self._kept_bytes += size
        for first in range(0, len(fds), notify.FDS_LIMIT):
            # FDPOLL=0: else systemd drops a pipe whose writer has ended, and a pidfd, with what we still want to learn from it.
            state = {"FDSTORE": "1", "FDNAME": name, "FDPOLL": "0"}
            self._keep(state, fds[first : first + notify.FDS_LIMIT])

    def unstore(self, name: str) -> None:
        """Have the manager close all that it keeps under this name."""
        self._kept_bytes -= self._kept.pop(name, 0) * (len(name) + 1)
        self._keep({"FDSTOREREMOVE": "1", "FDNAME": name}, ())

    def _keep(self, state: dict[str, str], fds: Sequence[int]) -> None:
        if not self._path or (not self._store_owed and self._deliver(state, fds)):
            return
        if len(self._store_owed) < STORE_OWED_LIMIT:
            self._store_owed.append((state, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD) for fd in fds]))
        self._tell({})

    def _deliver(self, state: dict[str, str], fds: Sequence[int]) -> bool:
        """Whether no more can be done for this word: it was sent, or nobody will ever take it."""
        try:
            notify.deliver(state, self._path, fds, self._sender)
        except OSError as problem:
            return problem.errno not in _LATER
        return True

    def _tell(self, state: dict[str, str]) -> None:
        if not self._path:
            return
        self._owed |= state
        while self._store_owed and self._deliver(*self._store_owed[0]):
            for fd in self._store_owed.popleft()[1]:
                os.close(fd)
        if self._owed and notify.send(self._owed, self._path):
            self._owed = {}
        if self._store_owed and self._later is not None and not self._asked_again:
            self._asked_again = True
            self._later(STORE_AGAIN_S, self._again)

    def _again(self) -> None:
        self._asked_again = False
        self._tell({})


def _status(text: str) -> dict[str, str]:
    return {"STATUS": text[:STATUS_LIMIT]} if text else {}


def _interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of the time within which WATCHDOG=1 is expected; None when it is not, or of another process."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6 / 2


def stop_s(programs: Sequence[ProgramSettings]) -> float:
    """The longest that a stop of these programs and of ourselves may take: along each chain of `after` one waits for the other."""
    by_name = {program.name: program for program in programs}
    took_s: dict[str, float] = {}
    for name in TopologicalSorter({program.name: program.after for program in programs}).static_order():
        if program := by_name.get(name):
            took_s[name] = program.grace_s + KILL_S + max((took_s.get(other, 0.0) for other in program.after), default=0.0)
    return max(STOP_LEAST_S, max(took_s.values(), default=0.0) + STOP_MARGIN_S)


# --- the unit -------------------------------------------------------------------------------------------------------------------


def unit(settings: Settings, executable: Sequence[str], *, user: bool = False) -> str:
    """The text of `reviver.service`.

    settings    its `path` must be absolute
    executable  the words that start `reviver`, the first an absolute path
    user        for a user's own service manager, which has no rights to give away
    """
    command = " ".join(_word(word) for word in (*executable, "run", "--config", settings.path))
    return _UNIT.format(
        network="" if user else _NETWORK,
        command=command,
        watchdog_s=WATCHDOG_S,
        undivides=UNDIVIDES,
        controllers=" ".join(CONTROLLERS),
        stop_s=round(stop_s(settings.programs)),
        store_fds=notify.STORE_FDS_LIMIT,
        directories="" if user else _directories(settings),
        capabilities="" if user else _CAPABILITIES,
        target="default.target" if user else "multi-user.target",
    )


def _word(word: str) -> str:
    """One word of a command line, as systemd reads them: specifiers, variables and quotes are taken literally."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _directories(settings: Settings) -> str:
    """Those of ours that stand where systemd can make them; the daemon makes the others itself."""
    lines = []
    ours = (settings.daemon.runtime_dir, settings.daemon.state_dir, settings.daemon.log_dir)
    for directory, (above, key, mode) in zip(ours, DIRECTORIES, strict=True):
        path = PurePosixPath(directory)
        if path.is_relative_to(above) and path != PurePosixPath(above) and ".." not in path.parts:
            lines += [f"{key}={_word(str(path.relative_to(above)))}", f"{key}Mode={mode}"]
    return _DIRECTORIES + "\n".join(lines) + "\n" if lines else ""


_UNIT = """\
[Unit]
Description=Reviver, which keeps programs alive and finds hung ones
{network}# It is never given up.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=kill -HUP $MAINPID
Restart=always
RestartSec=100ms
# 78: the configuration is bad; a restart mends nothing, `systemctl status` says what to mend.
# 75: `reviver upgrade` asks to be started anew.
RestartPreventExitStatus=78
SuccessExitStatus=75

# Reviver says that it lives after each turn of its loop that decided. Silence means that nobody watches the programs.
WatchdogSec={watchdog_s}

# A stop asks Reviver alone, which stops the programs in order. The time is the sum of the programs' graces along the longest chain of
# `after`; Reviver asks for more when its configuration has grown since. Where Reviver itself dies the programs live on: the next one
# finds their sockets, output and exits in the descriptor store, and takes them over.
KillMode=process
TimeoutStopSec={stop_s}
FileDescriptorStoreMax={store_fds}

{directories}# A program that is killed for want of memory is restarted by Reviver, and does not stop its siblings.
# OOMScoreAdjust is left alone: the programs would inherit the protection, and a leaking one would outlive all others.
OOMPolicy=continue
# Reviver keeps some descriptors open for each program; the programs' processes are counted together here.
LimitNOFILE=65536:524288
TasksMax=infinity
# Its control groups are its own to divide, one for each instance. systemd puts the Reviver that it starts after one that died into the
# group above them, and the kernel refuses that while it hands controllers on: so they are taken back first (what a delegated unit runs
# after its end stands in a group .control), and Reviver, which divides only where it reads here that this is done, hands them on again.
Delegate=yes
Environment={undivides}=1
ExecStopPost=-/bin/sh -c 'read -r own </proc/self/cgroup; case $$own in 0::*/.control) \\
  for name in {controllers}; do echo -$$name >"/sys/fs/cgroup$${{own#0::}}/../cgroup.subtree_control"; done;; esac'

# Hardening: the programs inherit it, so here stands only what no server in a container has either. Left out on purpose:
# NoNewPrivileges (sudo and set-user-ID helpers), User and PrivateUsers (programs with a user of their own, evidence of them),
# CAP_SYS_PTRACE, CAP_SYSLOG (stacks; the kernel's word on who was killed), ProtectSystem, ProtectHome, PrivateTmp (programs write there),
# PrivateDevices (graphics cards), MemoryDenyWriteExecute (node, Java), system call filters (programs would pay for each call).
# Where no program needs what one of them takes away, `systemctl edit reviver` adds it.
{capabilities}
[Install]
WantedBy={target}
"""
_NETWORK = """\
# Programs may bind to addresses that are not there any earlier.
Wants=network-online.target
After=network-online.target
"""
_DIRECTORIES = """\
# 0711: programs of other users reach the notification socket, and nothing else. The runtime directory outlives a restart: how far each
# program was stands in it.
RuntimeDirectoryPreserve=restart
"""
_CAPABILITIES = """\
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_RAWIO CAP_SYS_TIME CAP_MAC_ADMIN CAP_MAC_OVERRIDE
CapabilityBoundingSet=~CAP_AUDIT_CONTROL CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_LINUX_IMMUTABLE
"""
