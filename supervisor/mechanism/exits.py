"""How a process ended, also one that is not our child: where the exit status of an adopted instance comes from.

Only a parent may wait for a process. An adopted instance's parent is the guard, systemd or init, which reaps it; the kernel keeps the
status for whoever held a pidfd from before that. Older kernels do not: there it can be read only while the process is a zombie.

source  linux/pidfd.h (PIDFD_GET_INFO, its exit code since Linux 6.15), proc_pid_stat(5) field 52, wait(2)
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from pathlib import Path

_PIDFD_GET_INFO = 0xC048FF0B  # an ioctl that reads and writes struct pidfd_info, in its form of 72 bytes
_INFO_BYTES = 72
_MASK = struct.Struct("=Q")
_ALL = 0x1F
_EXIT = 0x08  # PIDFD_INFO_EXIT: set once it is reaped
_STATUS = struct.Struct("=i")
_STATUS_AT = 60
_CORE = 0x80  # in a wait status: it left a core
_UNSUPPORTED = (errno.ENOTTY, errno.EINVAL, errno.ESRCH)


def ending(pidfd: int, pid: int, *, reap: bool) -> tuple[int | None, str]:
    """How the process behind this pidfd ended: (exit code, or minus the signal's number, or None; the same in words for people).

    reap  where it is our child, so that its pid is free again; else it stays a zombie
    """
    try:
        return waited(os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT)))
    except ChildProcessError:
        return _words(_stranger(pidfd, pid))


def waited(result: os.waitid_result | None) -> tuple[int | None, str]:
    """The same of what waitid(2) said of a child; None is what it says of one that lives."""
    if result is None:
        return _words(None)
    if result.si_code == os.CLD_EXITED:
        return _words(result.si_status << 8)
    return _words(result.si_status | (_CORE if result.si_code == os.CLD_DUMPED else 0))


def _words(status: int | None) -> tuple[int | None, str]:
    """A wait status in the parent's terms."""
    if status is None:
        return None, "exit status unknown"
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        return code, f"exit code {code}"
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        name = f"signal {number}"
    return -number, f"killed by {name}{', core dumped' if os.WCOREDUMP(status) else ''}"


def _stranger(pidfd: int, pid: int) -> int | None:
    """The wait status of a process that is not our child; None when it cannot be known."""
    info = bytearray(_MASK.pack(_ALL).ljust(_INFO_BYTES, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    else:
        if _MASK.unpack_from(info)[0] & _EXIT:
            return int(_STATUS.unpack_from(info, _STATUS_AT)[0])
    return _zombie(pid)


def _zombie(pid: int) -> int | None:
    """The status that a zombie's stat shows to those who may trace it; to others the kernel shows 0, so 0 says nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[-1]) if fields and fields[0] in (b"Z", b"X") and fields[-1] != b"0" else None
