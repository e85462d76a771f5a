"""What systemd and we have to say to each other: ready, alive, stopping; and the unit that it keeps us by.

It touches the notification socket and nothing else; the unit is a text. Without a service manager every call does nothing. The guard,
where there is no systemd, speaks the same protocol.

source  sd_notify(3), sd_watchdog_enabled(3), systemd.service(5), systemd.exec(5), systemd.kill(5)
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import PurePosixPath

from supervisor import notify
from supervisor.model import ProgramSettings, Settings

STATUS_LIMIT = 500  # characters: one line of `systemctl status`
WATCHDOG_S = (
    30  # without a decision for so long the loop is dead: long, for it costs every program a restart until trees are adopted
)
KILL_S = 5.0  # what is added to a program's grace for SIGKILL to its tree
STOP_MARGIN_S = 15.0  # for our own end: journal, last messages
STOP_LEAST_S = 30.0
DIRECTORIES = (("/run", "RuntimeDirectory", "0711"), ("/var/lib", "StateDirectory", "0750"), ("/var/log", "LogsDirectory", "0750"))


def under_systemd(environ: Mapping[str, str]) -> bool:
    """Whether a systemd unit of Type=notify keeps this very process, so that no guard is needed."""
    if not environ.get("NOTIFY_SOCKET"):
        return False
    pid = environ.get("SYSTEMD_EXEC_PID")  # since systemd 248; inherited, and then another process's
    return "INVOCATION_ID" in environ if pid is None else pid == str(os.getpid())


class Systemd:
    """Tells the service manager how we are. Never waits: what cannot be sent now goes along with the next word."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("NOTIFY_SOCKET", "")
        self._owed: dict[str, str] = {}
        self._told_alive: float | None = None
        self.interval_s = _interval_s(environ) if self._path else None

    def ready(self, status: str = "") -> None:
        """We supervise; after a reload, we do again."""
        self._tell({"READY": "1"} | _status(status))

    def alive(self) -> None:
        """Call it after each turn of the loop that decided, and at least once per `interval_s` (None: nobody waits for it)."""
        if self._owed:
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

    def stopping(self, stop_s: float, status: str = "") -> None:
        """We drain, and ask for `stop_s` seconds from now: the configuration may have changed since the unit was written."""
        self._tell({"STOPPING": "1", "EXTEND_TIMEOUT_USEC": str(int(stop_s * 1e6))} | _status(status))

    def _tell(self, state: dict[str, str]) -> None:
        if self._path:
            self._owed |= state
            if notify.send(self._owed, self._path):
                self._owed = {}


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
        stop_s=round(stop_s(settings.programs)),
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
RestartPreventExitStatus=78

# Reviver says that it lives after each turn of its loop that decided. Silence means that nobody watches the programs.
WatchdogSec={watchdog_s}

# A stop asks Reviver alone, which stops the programs in order; what is left when it has ended is killed. The time is the sum of the
# programs' graces along the longest chain of `after`; Reviver asks for more when its configuration has grown since.
KillMode=mixed
TimeoutStopSec={stop_s}

{directories}# A program that is killed for want of memory is restarted by Reviver, and does not stop its siblings.
# OOMScoreAdjust is left alone: the programs would inherit the protection, and a leaking one would outlive all others.
OOMPolicy=continue
# Reviver keeps some descriptors open for each program; the programs' processes are counted together here.
LimitNOFILE=65536:524288
TasksMax=infinity
# Its control groups are its own to divide.
Delegate=yes

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
