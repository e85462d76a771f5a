"""On which descriptors the threads of a process wait, as far as /proc tells.

What an epoll descriptor watches stands in its fdinfo; what a thread polls or selects stands in its memory, which may be read by those
who may trace it (proc_pid_mem(5): same user without Yama's restriction, or root). Reading stops nobody.
"""

from __future__ import annotations

import os
import platform
import struct

_READ_BYTES = 4096
_FDINFO_BYTES = 65536
POLLED_LIMIT = 1024  # descriptors of one poll or select that are looked at
_POLLFD = struct.Struct("=ihh")
_POLLS = {"x86_64": {7, 271}, "aarch64": {73}}.get(platform.machine(), set())  # poll, ppoll
_SELECTS = {"x86_64": {23, 270}, "aarch64": {72}}.get(platform.machine(), set())  # select, pselect6


def sockets(pid: int) -> dict[int, int]:
    """Descriptor -> inode of each socket that the process has open; {} when it may not be read."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in _listed(folder):
        target = _link(f"{folder}/{name}")
        if target.startswith("socket:["):
            found[int(name)] = int(target[8:-1])
    return found


def epolled(pid: int) -> frozenset[int]:
    """The descriptors that the process's epoll descriptors watch."""
    folder = f"/proc/{pid}/fd"
    watched: set[int] = set()
    for name in _listed(folder):
        if _link(f"{folder}/{name}") == "anon_inode:[eventpoll]":
            lines = _read(f"/proc/{pid}/fdinfo/{name}", _FDINFO_BYTES).splitlines()
            watched.update(int(line.split()[1]) for line in lines if line.startswith(b"tfd:"))
    return frozenset(watched)


def polled(pid: int, tid: int) -> frozenset[int] | None:
    """The descriptors that a thread waits for in poll or select; None when that may not be seen, or it is not there any more."""
    words = _read(f"/proc/{pid}/task/{tid}/syscall").split()
    if len(words) < 3 or not words[0].isdigit():
        return None
    number, first, second = int(words[0]), int(words[1], 16), int(words[2], 16)
    if number in _POLLS:
        raw = _memory(pid, first, min(second, POLLED_LIMIT) * _POLLFD.size)
        return None if raw is None else frozenset(fd for fd, _, _ in _POLLFD.iter_unpack(raw))
    if number in _SELECTS:
        raw = _memory(pid, second, (min(first, POLLED_LIMIT) + 63) // 64 * 8)
        return None if raw is None else frozenset(bit for bit in range(len(raw) * 8) if raw[bit // 8] >> bit % 8 & 1)
    return None


def _memory(pid: int, address: int, count: int) -> bytes | None:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            raw = memory.read(count)
    except (OSError, OverflowError):
        return None
    return raw if len(raw) == count else None


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: str, limit_bytes: int = _READ_BYTES) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, limit_bytes)
    except OSError:
        return b""
    finally:
        os.close(file)
