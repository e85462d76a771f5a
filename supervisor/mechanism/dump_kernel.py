"""What the kernel alone tells of a process: its threads, what each waits for, and who is at the other end of its sockets.

Reads /proc; starts nothing, stops nothing, needs no right but that to read. For a lane: a read takes microseconds, but one of a process
in trouble may not come back.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.mechanism.sockdiag import Connection, SockDiag, sockets_of

THREADS_LIMIT = 500  # of a tree that are looked at: more tell nothing new, and each costs a read
FDS_LIMIT = 2000  # descriptors of a process that are looked at
POLLED_LIMIT = 64  # descriptors that one poll() waits for
_READ_BYTES = 4096
_TABLE_BYTES = 4 << 20  # of /proc/net/tcp: some 25 000 sockets
_SYN_BYTES = 1  # what the kernel counts as acknowledged once a connection stands
_POLLFD = struct.Struct("=ihh")

# System calls that sleep on the descriptor in their first argument, and those that sleep on an array of pollfd there.
_ON_FD = {
    "x86_64": {0, 1, 20, 42, 43, 44, 45, 46, 47, 288},  # read write writev connect accept sendto recvfrom sendmsg recvmsg accept4
    "aarch64": {63, 64, 66, 202, 203, 206, 207, 211, 212, 242},
}.get(platform.machine(), set())
_ON_POLL = {"x86_64": {7, 271}, "aarch64": {73}}.get(platform.machine(), set())  # poll, ppoll
_ON_EPOLL = {"x86_64": {232, 281, 441}, "aarch64": {22, 441}}.get(platform.machine(), set())  # epoll_wait, _pwait, _pwait2


@dataclass(frozen=True, slots=True)
class KernelThread:
    """One thread as /proc/PID/task/TID shows it.

    ran_s        CPU time it has used; `queued_s` the time it waited for a processor
    waits_in     the kernel function it sleeps in, "" while it runs
    system_call  number and arguments, "running", or "" without the right to see it
    """

    pid: int
    tid: int
    name: str
    state: str
    ran_s: float
    queued_s: float
    waits_in: str
    system_call: str

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.tid

    @property
    def locked(self) -> bool:
        return self.waits_in.startswith("futex")


@dataclass(frozen=True, slots=True)
class Socket:
    """One open socket of a process. `peer` is "" for a listening or an unconnected one."""

    fd: int
    kind: str  # "tcp", "udp", "unix"
    local: str
    peer: str
    listens: bool = False


def threads(pids: Iterable[int]) -> list[KernelThread]:
    """The threads of these processes, parents first; those that are gone are left out."""
    found: list[KernelThread] = []
    for pid in pids:
        try:
            tids = sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [thread for tid in tids[: THREADS_LIMIT - len(found)] if (thread := _thread(pid, tid)) is not None]
    return found


def exe_name(pid: int) -> str:
    """The name of the file that a process executes: "python3.11"; "" when it is gone or not ours to see."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return ""


def maps(pid: int) -> str:
    """What is mapped into a process."""
    return _read(f"/proc/{pid}/maps", 1 << 20)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal: else the signal may end it."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def sockets(pid: int) -> dict[int, Socket]:
    """The sockets of a process by descriptor, with the addresses that /proc/PID/net tells of its own network."""
    inodes = {}
    for name in _listed(f"/proc/{pid}/fd")[:FDS_LIMIT]:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                inodes[target[8:-1]] = int(name)
    if not inodes:
        return {}
    found: dict[int, Socket] = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in _read(f"/proc/{pid}/net/{table}", _TABLE_BYTES).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[9] in inodes:
                fd = inodes[fields[9]]
                listens = table.startswith("tcp") and fields[3] == "0A"
                found[fd] = Socket(fd, table[:3], _address(fields[1]), _address(fields[2], far=True), listens)
    for line in _read(f"/proc/{pid}/net/unix", _TABLE_BYTES).splitlines()[1:]:
        fields = line.split()
        if len(fields) > 6 and fields[6] in inodes:
            fd = inodes[fields[6]]
            found[fd] = Socket(fd, "unix", fields[7] if len(fields) > 7 else "", "", fields[3] == "00010000")
    return found


def awaited(thread: KernelThread, known: dict[int, Socket]) -> tuple[str, ...]:
    """Whom a thread waits for, as "10.0.0.5:5432": the peers of the sockets it sleeps on that were connected by it, not to it.

    known  the sockets of its process
    """
    number, *arguments = thread.system_call.split()[:4] or [""]
    if not number.isdigit() or not arguments:
        return ()
    call, first = int(number), int(arguments[0], 16)
    if call in _ON_FD:
        fds = [first]
    elif call in _ON_POLL:
        fds = _polled(thread.pid, first, int(arguments[1], 16))
    elif call in _ON_EPOLL:
        fds = _watched(thread.pid, first)
    else:
        return ()
    ours = {each.local.rpartition(":")[2] for each in known.values() if each.listens}
    outward = [known[fd] for fd in fds if fd in known and known[fd].peer and known[fd].local.rpartition(":")[2] not in ours]
    if call in _ON_EPOLL:  # an event loop watches idle connections too
        outward = [each for each in outward if _expects(each)]
    return tuple(sorted({each.peer for each in outward}))


def oldest_waits_s(pids: Iterable[int]) -> dict[int, float]:
    """For each of these processes that owes somebody an answer, for how long it has. {} when the kernel cannot be asked."""
    owners: dict[int, int] = {}
    for pid in pids:
        owners.update({inode: pid for _, inode in sockets_of(pid) if inode})
    asked = SockDiag()
    try:
        ports = {each.port for each in asked.listeners() if each.inode in owners}
        waiting = [each for each in asked.connections(ports) if _owes(each)]
    except OSError:
        return {}
    finally:
        asked.close()
    found: dict[int, float] = {}
    for each in waiting:
        if each.inode in owners:
            pid = owners[each.inode]
            found[pid] = max(found.get(pid, 0.0), each.received_ms / 1000)
    return found


def _owes(connection: Connection) -> bool:
    """Whether the client spoke last. Both ages are the same where it asked as soon as it was connected, and nothing was answered."""
    never = connection.received_ms == connection.sent_ms and connection.acked <= _SYN_BYTES
    return connection.received > 0 and (connection.received_ms < connection.sent_ms or never)


def _expects(connection: Socket) -> bool:
    """Whether something was sent on a connection of ours later than anything came: an answer is awaited."""
    asked = SockDiag()
    try:
        found = asked.connection(_split(connection.local), _split(connection.peer)) if connection.kind == "tcp" else None
    except OSError:
        return False
    finally:
        asked.close()
    if found is None:
        return False
    return found.sent_ms < found.received_ms or (found.received == 0 and found.acked > _SYN_BYTES)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _thread(pid: int, tid: int) -> KernelThread | None:
    base = f"/proc/{pid}/task/{tid}"
    stat = _read(f"{base}/stat").rpartition(")")
    fields = stat[2].split()
    if not fields:
        return None
    schedule = [int(field) / 1e9 for field in _read(f"{base}/schedstat").split()[:2]]
    ran_s, queued_s = schedule if len(schedule) == 2 else (0.0, 0.0)
    wchan = _read(f"{base}/wchan").strip("0\n")
    name = stat[0].partition("(")[2]
    return KernelThread(pid, tid, name, fields[0], ran_s, queued_s, wchan, _read(f"{base}/syscall").strip())


def _polled(pid: int, address: int, count: int) -> list[int]:
    """The descriptors in the target's array of pollfd."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            raw = memory.read(min(count, POLLED_LIMIT) * _POLLFD.size)
    except (OSError, OverflowError):
        return []
    return [fd for fd, _, _ in _POLLFD.iter_unpack(raw[: len(raw) // _POLLFD.size * _POLLFD.size])]


def _watched(pid: int, epoll: int) -> list[int]:
    """The descriptors that an epoll descriptor of the target watches."""
    lines = _read(f"/proc/{pid}/fdinfo/{epoll}", 65536).splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]


def _address(field: str, *, far: bool = False) -> str:
    """An address as /proc/net/tcp writes it (hexadecimal, 32-bit words in the host's order); "" for a far end that is not there."""
    host, _, port = field.partition(":")
    number = int(port, 16)
    if far and number == 0:
        return ""
    raw = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, raw)}:{number}"
    text = socket.inet_ntop(socket.AF_INET6, raw)
    mapped = text.removeprefix("::ffff:")
    return f"{mapped}:{number}" if "." in mapped else f"[{text}]:{number}"


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str, limit_bytes: int = _READ_BYTES) -> str:
    """A file of /proc up to a limit, "" when it is gone or not ours to read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit_bytes).decode(errors="replace")
    except OSError:
        return ""
