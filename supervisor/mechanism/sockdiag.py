"""What the kernel knows of listening sockets and their connections: queues, ages, owners.

Asks over NETLINK_SOCK_DIAG (unprivileged), TCP_INFO and /proc/PID/fd. A netlink dump is made by the kernel while we send and
receive, so nothing here waits for anybody; every answer is bounded. What cannot be asked raises OSError: no answer is never
taken for "nothing".

Sources: the kernel's headers linux/inet_diag.h, linux/sock_diag.h, linux/unix_diag.h, linux/tcp.h. struct tcp_info only ever
grows at its end, so it is read by the length that the kernel gives.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Address = tuple[str, int]

FAMILIES = (socket.AF_INET, socket.AF_INET6)
CONNECTIONS_LIMIT = 4096  # per look: 1000 cost 3 ms, and more than this would make us the load
READLINKS_LIMIT = 10_000  # descriptors looked at per search for owners: about 15 ms
OWNERS_LIMIT = 4096  # remembered owners; beyond it the cache starts afresh

_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NETLINK_SOCK_DIAG = 4
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INET_REQUEST = struct.Struct("=BBBBI")
_INET_PORTS = struct.Struct("!HH")
_INET_TAIL = struct.Struct("=IIIII")  # expires, rqueue, wqueue, uid, inode
_INET_MESSAGE_BYTES = 72
_INET_INFO = 2
_NO_COOKIE = b"\xff" * 8
_UNIX_REQUEST = struct.Struct("=BBHIII")
_UNIX_MESSAGE = struct.Struct("=BBBBI")
_UNIX_MESSAGE_BYTES = 16
_UNIX_NAME, _UNIX_PEER, _UNIX_ICONS, _UNIX_RQLEN = 0, 2, 3, 4
_UNIX_SHOW_NAME, _UNIX_SHOW_PEER, _UNIX_SHOW_ICONS, _UNIX_SHOW_RQLEN = 0x1, 0x4, 0x8, 0x10

_ESTABLISHED, _CLOSE_WAIT, _LISTEN = 1, 8, 10
_AGES = struct.Struct("=IIII")  # tcpi_last_data_sent, last_ack_sent (always 0), last_data_recv, last_ack_recv: ms ago
_AGES_AT = 44
_BYTES = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_BYTES_AT = 120
_QUEUE = struct.Struct("=II")  # of a listening socket: tcpi_unacked is the accept queue, tcpi_sacked its limit
_QUEUE_AT = 24
_SO_MEMINFO = 55  # asm-generic/socket.h; nine numbers of 32 bits, the last one is SK_MEMINFO_DROPS (linux/sock_diag.h)
_MEMINFO_BYTES, _DROPS_AT = 36, 32
_RECEIVE_BYTES = 65536


class SockDiagError(OSError):
    """The kernel refused the question, or answered what is not understood."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. `port` is 0 for a unix socket, whose path (or @abstract name) is `host`."""

    host: str
    port: int
    inode: int
    queue: int  # connections that wait to be accepted
    backlog: int


@dataclass(frozen=True, slots=True)
class Connection:
    """The server's side of one connection. Ages are milliseconds before the look.

    inode       0: nobody has accepted it yet
    unread      bytes that the server has not read
    sent_ms     since it last sent data; since the connection was made, when it never did
    received_ms since data last came; since the connection was made, when none ever did
    acked       bytes that the client has confirmed: what the server has said so far
    received    bytes that the client has sent
    left        the client has closed its side
    """

    local: Address
    peer: Address
    inode: int
    uid: int
    unread: int
    sent_ms: int
    received_ms: int
    acked: int
    received: int
    left: bool


@dataclass(frozen=True, slots=True)
class UnixQueue:
    """The accept queue of a unix listener; `clients` are the inodes of the waiting clients' sockets."""

    queue: int
    backlog: int
    clients: tuple[int, ...]


class SockDiag:
    """One kept netlink socket, opened when first needed; after any trouble it is opened afresh."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def listeners(self, port: int = 0) -> tuple[Listener, ...]:
        """TCP listeners on `port`, on all ports for 0. Raises OSError."""
        found = []
        for family in FAMILIES:
            for body in self._ask(_inet_request(family, 1 << _LISTEN, port, 0), dump=True):
                _, queue, backlog, _, inode = _INET_TAIL.unpack_from(body, 52)
                host, number = _local(body)
                found.append(Listener(host, number, inode, queue, backlog))
        return tuple(found)

    def unix_listeners(self) -> tuple[Listener, ...]:
        """Unix stream listeners of this network namespace. Raises OSError."""
        request = _unix_request(0, _UNIX_SHOW_NAME | _UNIX_SHOW_RQLEN, b"\0" * 8)
        found = []
        for body in self._ask(request, dump=True):
            inode, given = _unix_answer(body)
            name = given.get(_UNIX_NAME, b"")
            path = "@" + os.fsdecode(name[1:]) if name[:1] == b"\0" else os.fsdecode(name.rstrip(b"\0"))
            queue, backlog = _QUEUE.unpack_from(given.get(_UNIX_RQLEN, b"\0" * 8))
            found.append(Listener(path, 0, inode, queue, backlog))
        return tuple(found)

    def unix_queue(self, inode: int) -> UnixQueue:
        """The accept queue of one unix listener. Raises OSError, FileNotFoundError when there is none."""
        request = _unix_request(inode, _UNIX_SHOW_ICONS | _UNIX_SHOW_RQLEN, _NO_COOKIE)
        for body in self._ask(request, dump=False):
            _, given = _unix_answer(body)
            queue, backlog = _QUEUE.unpack_from(given.get(_UNIX_RQLEN, b"\0" * 8))
            clients = given.get(_UNIX_ICONS, b"")
            return UnixQueue(queue, backlog, struct.unpack(f"={len(clients) // 4}I", clients))
        raise SockDiagError("the kernel gave no answer about a unix socket")

    def unix_peer(self, inode: int) -> int:
        """The inode at the other end of a connected unix socket; 0 while nobody has accepted it. Raises OSError, FileNotFoundError
        when there is no such socket."""
        for body in self._ask(_unix_request(inode, _UNIX_SHOW_PEER, _NO_COOKIE), dump=False):
            _, given = _unix_answer(body)
            return int.from_bytes(given.get(_UNIX_PEER, b""), sys.byteorder)
        raise SockDiagError("the kernel gave no answer about a unix socket")

    def connections(self, ports: Iterable[int], families: Iterable[int] = FAMILIES) -> tuple[Connection, ...]:
        """Open connections to these local ports, at most CONNECTIONS_LIMIT of them; 0.16 ms a port and family without any.

        families  of the listening sockets: what they accept is of the same one
        raises    OSError
        """
        found: list[Connection] = []
        states = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT
        among = tuple(families)
        for port in ports:
            for family in among:
                for body in self._ask(_inet_request(family, states, port, 1 << (_INET_INFO - 1)), dump=True):
                    found.append(_connection(body))
                    if len(found) >= CONNECTIONS_LIMIT:
                        self.close()  # the rest of the dump stands in the socket
                        return tuple(found)
        return tuple(found)

    def connection(self, local: Address, peer: Address) -> Connection | None:
        """The one connection between the server's `local` and the client's `peer` address, None when it is gone. Raises OSError."""
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        request = _inet_request(family, 0xFFF, local[1], 1 << (_INET_INFO - 1), _packed(local[0]), peer[1], _packed(peer[0]))
        try:
            for body in self._ask(request, dump=False):
                return _connection(body)
        except FileNotFoundError:
            return None
        return None

    def _ask(self, request: bytes, *, dump: bool) -> Iterator[bytes]:
        """The bodies of all messages of one answer. The answer must be read to its end, or the socket closed."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            self._socket.setblocking(False)
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
        header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, self._sequence, 0)
        finished = False
        try:
            self._socket.send(header + request)
            while not finished:
                data = self._socket.recv(_RECEIVE_BYTES)
                at = 0
                while at + _HEADER.size <= len(data):
                    length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                    body = data[at + _HEADER.size : at + length]
                    at += max(_HEADER.size, (length + 3) & ~3)
                    if sequence != self._sequence:
                        continue
                    if kind == _NLMSG_DONE:
                        finished = True
                    elif kind == _NLMSG_ERROR:
                        finished = True
                        number = -struct.unpack_from("=i", body)[0]
                        raise OSError(number, f"sock_diag: {os.strerror(number)}")
                    else:
                        yield body
                        finished = finished or not dump
        finally:
            if not finished:
                self.close()


def queue_of(listener: socket.socket) -> tuple[int, int]:
    """Length and limit of the accept queue of a listening TCP socket that we hold: 1 µs, no netlink. Raises OSError."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_AT + _QUEUE.size)
    queue, backlog = _QUEUE.unpack_from(info, _QUEUE_AT)
    return queue, backlog


def dropped(listener: socket.socket) -> int:
    """Attempts to connect that this TCP listener has ever turned away, as its queue was full (a customer who tries again counts again;
    tcp_listendrop in the kernel's net/tcp.h). Raises OSError."""
    return int.from_bytes(listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_BYTES)[_DROPS_AT:], sys.byteorder)


class Owners:
    """Which process holds a socket, by its inode; found in /proc/PID/fd, which same user or root may read."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, str]] = {}  # inode: pid and the link where it was seen

    def find(self, inodes: Iterable[int], pids: Iterable[int]) -> dict[int, int]:
        """inode -> pid for those of `inodes` that one of `pids` holds (the first that does, in their order).

        A process that ended or may not be looked into holds nothing.
        """
        among = tuple(pids)
        found: dict[int, int] = {}
        missing = set()
        for inode in inodes:
            pid, link = self._known.get(inode, (0, ""))
            if pid in among and _socket_at(link) == inode:
                found[inode] = pid
            else:
                self._known.pop(inode, None)
                missing.add(inode)
        if missing:
            found.update(self._search(missing, among))
        return found

    def _search(self, missing: set[int], among: tuple[int, ...]) -> dict[int, int]:
        found: dict[int, int] = {}
        looked = 0
        for pid in among:
            for link, inode in sockets_of(pid):
                looked += 1
                if inode in missing:
                    missing.discard(inode)
                    found[inode] = pid
                    if len(self._known) >= OWNERS_LIMIT:
                        self._known.clear()
                    self._known[inode] = (pid, link)
                if not missing or looked >= READLINKS_LIMIT:
                    return found
        return found


def sockets_of(pid: int) -> Iterator[tuple[str, int]]:
    """(link, inode) of each descriptor of the process; the inode is 0 for what is no socket. Nothing when it may not be read."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        link = f"{folder}/{name}"
        yield link, _socket_at(link)


def _socket_at(link: str) -> int:
    try:
        target = os.readlink(link)
    except OSError:
        return 0
    return int(target[8:-1]) if target.startswith("socket:[") else 0


def _inet_request(
    family: int, states: int, port: int, extensions: int, local: bytes = b"\0" * 16, peer_port: int = 0, peer: bytes = b"\0" * 16
) -> bytes:
    return (
        _INET_REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, states)
        + _INET_PORTS.pack(port, peer_port)
        + local
        + peer
        + b"\0" * 4
        + _NO_COOKIE
    )


def _unix_request(inode: int, show: int, cookie: bytes) -> bytes:
    return _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _LISTEN, inode, show) + cookie


def _packed(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")


def _unpacked(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    host = socket.inet_ntop(socket.AF_INET6, raw)
    return host.removeprefix("::ffff:") if "." in host else host


def _local(body: bytes) -> Address:
    return _unpacked(body[0], body[8:24]), _INET_PORTS.unpack_from(body, 4)[0]


def _connection(body: bytes) -> Connection:
    if len(body) < _INET_MESSAGE_BYTES:
        raise SockDiagError("the kernel's answer about a connection is too short")
    _, unread, _, uid, inode = _INET_TAIL.unpack_from(body, 52)
    info = _attributes(body, _INET_MESSAGE_BYTES).get(_INET_INFO, b"")
    sent_ms, _, received_ms, _ = _AGES.unpack_from(info, _AGES_AT) if len(info) >= _AGES_AT + _AGES.size else (0, 0, 0, 0)
    acked, received = _BYTES.unpack_from(info, _BYTES_AT) if len(info) >= _BYTES_AT + _BYTES.size else (0, 0)
    peer = _unpacked(body[0], body[24:40]), _INET_PORTS.unpack_from(body, 4)[1]
    return Connection(_local(body), peer, inode, uid, unread, sent_ms, received_ms, acked, received, body[1] == _CLOSE_WAIT)


def _unix_answer(body: bytes) -> tuple[int, dict[int, bytes]]:
    if len(body) < _UNIX_MESSAGE_BYTES:
        raise SockDiagError("the kernel's answer about a unix socket is too short")
    return _UNIX_MESSAGE.unpack_from(body)[4], _attributes(body, _UNIX_MESSAGE_BYTES)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
