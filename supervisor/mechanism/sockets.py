"""Listening sockets that outlive the server: opened before a program starts, kept over its restarts, closed when it is forgotten.

Binding may block (a busy port is tried again) and finding out who holds a port reads all of /proc: for one lane, always the same.
What comes out is a tuple of descriptors, blocking ones (their flags are shared with the programs, and some accept blocking), closed
on exec (the launch hands copies over).

Each address means exactly what is written: `[::]:80` takes IPv6 alone, as the systems differ in what else it would take; write
`0.0.0.0:80` beside it. A unix socket is 0666 and missing folders above it are created 0755, as systemd's SocketMode and DirectoryMode
are by default: who may reach it is decided by the folder. A unix socket left by a dead owner is taken over; anything else at its path
is never deleted.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import tenacity

from supervisor.mechanism.gate import LaunchError

BACKLOG = 4096  # customers that may queue while nobody accepts; the kernel cuts it to net.core.somaxconn
BUSY_S = 2.0  # a busy port is tried again for so long: its owner may be on its way out
BUSY_PAUSE_S = 0.1
_SO_PASSRIGHTS = 83  # asm-generic/socket.h, Linux >= 6.16
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[^:]+)):(?P<port>[0-9]{1,5})")
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


class _Busy(Exception):
    """Somebody else has the address."""


@dataclass(frozen=True, slots=True)
class Held:
    """One open address. `file` is the device and inode of a unix socket's file, None for none."""

    address: str
    fd: int
    file: tuple[int, int] | None = None


class Holder:
    """The held sockets of all programs. `hold` and `release` belong into one lane; `addresses` may be asked from anywhere."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Held, ...]] = {}

    def hold(self, program: str, addresses: Sequence[str]) -> tuple[int, ...]:
        """The sockets of a program, in the order asked for: those it has already, and new ones for the rest.

        What is no longer asked for is closed once all new ones are open. Blocks, up to BUSY_S for each busy address.
        raises  LaunchError; then the program has what it had before
        """
        before = {held.address: held for held in self._held.get(program, ())}
        opened: dict[str, Held] = {}
        try:
            for address in addresses:
                if address not in before and address not in opened:
                    opened[address] = self._open(address)
        except LaunchError:
            for held in opened.values():
                _close(held)
            raise
        self._held[program] = tuple((before | opened)[address] for address in addresses)
        for address, held in before.items():
            if address not in addresses:
                _close(held)
        return tuple(held.fd for held in self._held[program])

    def adopt(self, program: str, addresses: Sequence[str], fds: Iterable[int]) -> tuple[int, ...]:
        """Take over listening sockets of an earlier supervisor; those that belong to no address, or to one twice, are closed.

        returns  the program's sockets in the order of the addresses; () when one is missing: then `hold` opens it
        """
        found = {held.address: held for held in self._held.get(program, ())}
        for fd in fds:
            address = _bound(fd, [address for address in addresses if address not in found])
            if address is None:
                os.close(fd)
            else:
                found[address] = Held(address, fd, _file(address.removeprefix("unix:")) if address.startswith("unix:") else None)
        self._held[program] = tuple(found[address] for address in addresses if address in found)
        return tuple(found[address].fd for address in addresses) if len(found) == len(set(addresses)) else ()

    def release(self, program: str) -> None:
        """Close what a program has, and remove the files of its unix sockets."""
        for held in set(self._held.pop(program, ())):
            _close(held)

    def addresses(self, program: str) -> tuple[str, ...]:
        """What is held for a program now."""
        return tuple(held.address for held in self._held.get(program, ()))

    def _open(self, address: str) -> Held:
        again = tenacity.Retrying(
            stop=tenacity.stop_after_delay(BUSY_S),
            wait=tenacity.wait_fixed(BUSY_PAUSE_S),
            retry=tenacity.retry_if_exception_type(_Busy),
            reraise=True,
        )
        try:
            return again(_open_unix if address.startswith("unix:") else _open_inet, address)
        except _Busy:
            raise LaunchError(f"cannot bind {address}: address already in use{self._by(address)}", permanent=False) from None
        except OSError as problem:
            raise _refused(address, problem) from None

    def _by(self, address: str) -> str:
        """Who has it, and how to mend that."""
        pid = _owner(address)
        if pid is None:
            return " (stop what has it, or choose another address)"
        if pid != os.getpid():
            return f" by pid {pid} ({_name(pid)})"
        mine = sorted(program for program, held in self._held.items() if any(_same_port(address, one.address) for one in held))
        return f" by Reviver itself{' for ' + ', '.join(mine) if mine else ''} (stop that program first)"


def refuse_descriptors(sock: socket.socket) -> None:
    """Let nobody send descriptors along to a unix socket; before it accepts or is connected.

    Those that are not taken are closed by the kernel in our name, which may take as long as the sender likes (a TCP socket that
    lingers): on the loop that would be its end. Kernels before 6.16 cannot refuse them.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def listen_again(fds: Sequence[int]) -> None:
    """Undo what a program did to the sockets that it shares with us: it may have shut them down, or cut their queue.

    raises  LaunchError: meanwhile another one listens there
    """
    for fd in fds:
        with socket.socket(fileno=os.dup(fd)) as listener:
            try:
                listener.listen(BACKLOG)
            except OSError as problem:
                raise _refused(str(listener.getsockname()), problem) from None


# --- opening --------------------------------------------------------------------------------------------------------------------


def _open_inet(address: str) -> Held:
    family, where = _parsed(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _listen(listener, where)
    except BaseException:
        listener.close()
        raise
    return Held(address, listener.detach())


def _open_unix(address: str) -> Held:
    path = address.removeprefix("unix:")
    os.makedirs(os.path.dirname(path) or "/", mode=0o755, exist_ok=True)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _listen(listener, path)
        _let_everybody_connect(path)
        return Held(address, listener.detach(), _file(path))
    except BaseException:
        listener.close()
        raise


def _let_everybody_connect(path: str) -> None:
    """0666 for the socket that we bound, and for nothing else: who may write into its folder can put another file into its place."""
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            raise PermissionError(errno.EPERM, "somebody put another file into its place")
        os.chmod(f"/proc/self/fd/{file}", 0o666)
    finally:
        os.close(file)


def _listen(listener: socket.socket, where: tuple[str, int] | str) -> None:
    """Two listeners may both bind with SO_REUSEADDR as long as none listens: then it is listen that says so."""
    try:
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise _Busy from None
        raise


def _clear(path: str) -> None:
    """Remove the socket of a dead owner. Raises _Busy when somebody answers there, FileExistsError when it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is no socket stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full: it lives
        raise _Busy


def _bound(fd: int, addresses: Sequence[str]) -> str | None:
    """The address among these that a descriptor listens on; None when it is no such socket."""
    try:
        with socket.socket(fileno=os.dup(fd)) as listener:
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            name = listener.getsockname()
    except OSError:
        return None
    for address in addresses:
        if isinstance(name, str):
            same = address == f"unix:{name}"
        elif address.startswith("unix:"):
            same = False
        else:
            family, (host, port) = _parsed(address)
            same = family == listener.family and port == name[1] and ipaddress.ip_address(host) == ipaddress.ip_address(name[0])
        if same:
            return address
    return None


def _close(held: Held) -> None:
    os.close(held.fd)
    path = held.address.removeprefix("unix:")
    if held.file is not None and _file(path) == held.file:  # never another's file that came to stand there
        with contextlib.suppress(OSError):  # a folder that became read-only: the next one takes the dead socket over
            os.unlink(path)


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _parsed(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Numbers only: asking a name server could take for ever. `localhost` is 127.0.0.1 (RFC 6761 reserves it)."""
    found = _ADDRESS.fullmatch(address)
    host = "" if found is None else found["six"] or found["four"]
    host = "127.0.0.1" if host == "localhost" else host
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        mend = 'write numbers, like "127.0.0.1:8000" or "[::1]:8000"'
        raise LaunchError(f"cannot bind {address}: a name is no address ({mend})", permanent=True) from None
    assert found is not None
    return socket.AF_INET6 if version == 6 else socket.AF_INET, (host, int(found["port"]))


def _refused(address: str, problem: OSError) -> LaunchError:
    reason, mend, permanent = (problem.strerror or str(problem)).lower(), "", True
    is_unix = address.startswith("unix:")
    match problem.errno:
        case errno.EACCES if is_unix:
            mend = "let Reviver's user write into that folder, or choose another"
        case errno.EACCES:
            mend = "run as root, or give the unit CAP_NET_BIND_SERVICE"
        case errno.EEXIST:
            mend = "move it away, or choose another path"
        case errno.EADDRNOTAVAIL:
            reason, mend, permanent = "this host does not have that address", "bring its interface up, or choose another", False
        case errno.EAFNOSUPPORT:
            mend = "IPv6 is switched off on this host: choose an IPv4 address"
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM | errno.ENOBUFS:
            mend, permanent = "raise the limit of open files of Reviver itself", False
        case errno.ENOSPC | errno.EROFS:
            permanent = False
    return LaunchError(f"cannot bind {address}: {reason}{f' ({mend})' if mend else ''}", permanent=permanent)


# --- who has it -----------------------------------------------------------------------------------------------------------------


def _same_port(one: str, other: str) -> bool:
    return not one.startswith("unix:") and one.rpartition(":")[2] == other.rpartition(":")[2]


def _owner(address: str) -> int | None:
    """A process that listens there, None when it is not to be seen. Reads all of /proc: some milliseconds."""
    inodes = set(_unix_inodes(address.removeprefix("unix:")) if address.startswith("unix:") else _inet_inodes(address))
    links = {f"socket:[{inode}]" for inode in inodes}
    for name in os.listdir("/proc"):
        if name.isdecimal() and links:
            with contextlib.suppress(OSError):  # it ended, or is another user's
                for fd in os.listdir(f"/proc/{name}/fd"):
                    if os.readlink(f"/proc/{name}/fd/{fd}") in links:
                        return int(name)
    return None


def _inet_inodes(address: str) -> Iterator[str]:
    """Listeners on that port whose address is the same, or one of them is the wildcard (proc_net_tcp: local address, state, inode)."""
    family, (host, port) = _parsed(address)
    wanted = {_hexadecimal(family, host), _hexadecimal(family, "::" if family == socket.AF_INET6 else "0.0.0.0")}
    is_any = len(wanted) == 1
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in _rows(table):
            local, _, local_port = fields[1].partition(":")
            fits = is_any or local in wanted or set(local) == {"0"}
            if fields[3] == _LISTEN and int(local_port, 16) == port and fits:
                yield fields[9]


def _hexadecimal(family: socket.AddressFamily, host: str) -> str:
    """As /proc/net/tcp writes it: 32-bit words in the host's own byte order."""
    packed = socket.inet_pton(family, host)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _unix_inodes(path: str) -> Iterator[str]:
    return (fields[6] for fields in _rows("/proc/net/unix") if fields[7:] == [path])


def _rows(table: str) -> list[list[str]]:
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            return [line.split() for line in lines][1:]
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return "".join(letter if letter.isprintable() else "?" for letter in file.read().rstrip("\n"))
    except OSError:
        return "its name is not readable"
