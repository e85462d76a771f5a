"""One program's listening sockets, looked at from outside: how many wait, who waits for how long, and who serves.

Held sockets are known by their descriptors; what a program opened by itself is found by descriptor and inode. It reads the
kernel's answers (sockdiag) and /proc, and turns them into the diagnosis' samples. Raises OSError where the kernel refuses to
tell.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from supervisor.mechanism import waiting
from supervisor.mechanism.probes import UNIX
from supervisor.mechanism.sockdiag import FAMILIES, Connection, Owners, SockDiag, UnixQueue, dropped, queue_of, sockets_of
from supervisor.policy.samples import Client, ProcessSample, SocketSample

NAMED_LIMIT = 16  # waiting requests whose process is looked for when all belong to one instance anyway: it is only for the words


@dataclass(frozen=True, slots=True)
class Found:
    """What a tree listens on by itself: inode -> port; port 0 is a unix socket."""

    ports: tuple[tuple[int, int], ...] = ()


def find(pids: Iterable[int]) -> Found:
    """The listening sockets that one of these processes has open; unix ones only where there is no other: beside a port they are
    mostly for a server's own control. For a lane: it looks at every descriptor. Raises OSError."""
    diag = SockDiag()
    try:
        listeners = {each.inode: each.port for each in (*diag.listeners(), *diag.unix_listeners())}
    finally:
        diag.close()
    open_there = {inode for pid in pids for _, inode in sockets_of(pid)}
    theirs = {inode: port for inode, port in sorted(listeners.items()) if inode in open_there}
    return Found(tuple({inode: port for inode, port in theirs.items() if port}.items() or theirs.items()))


class Listening:
    """The listening sockets of one program."""

    def __init__(self, diag: SockDiag, held: tuple[int, ...]) -> None:
        """held: descriptors of bound, listening sockets; they stay their owner's, who may close them: copies are kept until `close`."""
        self._diag = diag
        self._owners = Owners()
        self._copies = [socket.socket(fileno=os.dup(fd)) for fd in held]
        self._tcp: list[socket.socket] = []  # their queue costs 1 µs to ask
        self._unix: set[int] = set()  # inodes
        self._ports: dict[int, int] = {}  # inode: port
        self._found = Found()
        for copy in self._copies:
            inode = os.fstat(copy.fileno()).st_ino
            if copy.family == socket.AF_UNIX:
                self._unix.add(inode)
            else:
                self._tcp.append(copy)
                self._ports[inode] = copy.getsockname()[1]

    def close(self) -> None:
        for copy in self._copies:
            copy.close()

    @property
    def held(self) -> tuple[int, ...]:
        """Descriptors that become readable when somebody waits to be accepted."""
        return tuple(copy.fileno() for copy in self._copies)

    @property
    def known(self) -> bool:
        return bool(self._ports or self._unix or self._found.ports)

    @property
    def ports(self) -> frozenset[int]:
        """TCP ports."""
        return frozenset(self._ports.values()) | {port for _, port in self._found.ports if port}

    @property
    def paths(self) -> frozenset[str]:
        """Of held unix sockets, "@..." for an abstract one."""
        names = (copy.getsockname() for copy in self._copies if copy.family == socket.AF_UNIX)
        return frozenset("@" + os.fsdecode(name[1:]) if isinstance(name, bytes) else name for name in names)

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset(self._ports) | self._unix | {inode for inode, _ in self._found.ports}

    @property
    def _families(self) -> tuple[int, ...]:
        return FAMILIES if self._found.ports else tuple({copy.family for copy in self._tcp})

    def add(self, found: Found) -> None:
        """What the program was found to listen on by itself."""
        self._found = found

    def queue(self) -> tuple[int, int]:
        """How many connections wait to be accepted on all sockets together, and how many may."""
        lengths = [queue_of(copy) for copy in self._tcp]
        for port in {port for _, port in self._found.ports if port}:
            inodes = {inode for inode, _ in self._found.ports}
            lengths += [(each.queue, each.backlog) for each in self._diag.listeners(port) if each.inode in inodes]
        lengths += [(each.queue, each.backlog) for inode in self._unix_inodes() if (each := self._unix_queue(inode)) is not None]
        return sum(length for length, _ in lengths), sum(limit for _, limit in lengths)

    def dropped(self) -> int | None:
        """Attempts to connect that the kernel has ever dropped at the held TCP sockets; None: there is none. Raises OSError."""
        return sum(dropped(copy) for copy in self._tcp) if self._tcp else None

    @property
    def unseen(self) -> str:
        """What looks at these sockets cannot tell of customers, in words; "" for nothing."""
        said = ["how long those at a unix socket waited"] if self._unix or 0 in dict(self._found.ports).values() else []
        if not self._copies:
            said.append("who was refused: Reviver does not hold its port")
        return "; ".join(said)

    def look(self, now: float, before: SocketSample | None, pids: Collection[int], *, attribute: bool) -> SocketSample:
        """All connections, each with its age.

        before     the look before this one: for what has gone since
        pids       the processes of all instances
        attribute  tell of each connection who accepted it; else only of the oldest that wait
        """
        length, backlog = self.queue()
        clients = [_client(connection, now) for connection in self._diag.connections(sorted(self.ports), self._families)]
        for inode in self._unix_inodes():
            if (queued := self._unix_queue(inode)) is not None:
                clients += [Client(("unix", each, inode), 0, 0, True, True, now, 0) for each in queued.clients]
        clients = self._owned(clients, pids, attribute=attribute)
        return SocketSample(now, length, backlog, tuple(clients), self._still_open(before, clients, pids))

    def accepted_by(self, local: tuple[str, int], peer: tuple[str, int], pids: Collection[int]) -> int | None:
        """Which of these processes accepted the connection between our `local` address and the server's `peer` address; of a unix
        socket, which has no addresses, `local` is UNIX and our socket's inode.

        returns  its pid; 0: nobody accepted it yet, or it is gone; None: accepted, by none of them
        """
        if local[0] == UNIX:
            try:
                inode = self._diag.unix_peer(local[1])
            except FileNotFoundError:
                return 0
        else:
            connection = self._diag.connection(peer, local)
            inode = 0 if connection is None else connection.inode
        return self._owners.find((inode,), pids).get(inode) if inode else 0

    def served_by(self, process: ProcessSample) -> bool:
        """Whether the process waits for connections: in accept, or in an epoll, poll or select with one of the sockets; where it may
        not be seen what it polls for, having one open is enough. Only of a full sample."""
        return self._waits(process, frozenset()) is not False and self.holds(process.pid)

    def free(self, process: ProcessSample, own: frozenset[int]) -> bool:
        """Whether one of its threads waits for connections, or for what comes next on one of its `own` (inodes): an event loop that
        is alive. Where that may not be seen, a thread that polls counts if it is not the only one. Only of a full sample."""
        waits = self._waits(process, own)
        return len(process.threads) > 1 if waits is None else waits

    def holds(self, pid: int) -> bool:
        """Whether the process has one of the sockets open."""
        inodes = self.inodes
        return any(inode in inodes for _, inode in sockets_of(pid))

    def _waits(self, process: ProcessSample, own: frozenset[int]) -> bool | None:
        """Whether a thread waits for one of the sockets, or one of `own`; None: one polls, and for what may not be seen."""
        places = {thread.place for thread in process.threads}
        if "accept" in places:
            return True
        if not places & {"poll", "epoll"}:
            return False
        inodes = self.inodes | own
        fds = {fd for fd, inode in waiting.sockets(process.pid).items() if inode in inodes}
        if "epoll" in places and fds & waiting.epolled(process.pid):
            return True
        polled = [waiting.polled(process.pid, thread.tid) for thread in process.threads if thread.place == "poll"]
        if any(each & fds for each in polled if each is not None):
            return True
        return None if None in polled else False

    def _owned(self, clients: list[Client], pids: Collection[int], *, attribute: bool) -> list[Client]:
        accepted = [client for client in clients if client.inode]
        if not attribute:
            accepted = sorted((c for c in accepted if c.waiting), key=lambda client: client.since)[:NAMED_LIMIT]
        owners = self._owners.find([client.inode for client in accepted], pids) if accepted else {}
        return [replace(client, owner=owners[client.inode]) if client.inode in owners else client for client in clients]

    def _still_open(self, before: SocketSample | None, clients: list[Client], pids: Collection[int]) -> frozenset[int]:
        """Of the accepted connections that were waiting and are gone: whose socket the server still has open."""
        if before is None:
            return frozenset()
        here = {client.inode for client in clients}
        gone = [client.inode for client in before.clients if client.waiting and client.inode and client.inode not in here]
        return frozenset(self._owners.find(gone, pids)) if gone else frozenset()

    def _unix_inodes(self) -> list[int]:
        return [*self._unix, *(inode for inode, port in self._found.ports if port == 0)]

    def _unix_queue(self, inode: int) -> UnixQueue | None:
        try:
            return self._diag.unix_queue(inode)
        except FileNotFoundError:  # the program closed it
            return None


def _client(connection: Connection, now: float) -> Client:
    """A connection in the diagnosis' terms.

    Somebody waits when the client spoke last, or the server has not read what it said. The kernel's ages have a resolution of 1 to
    10 ms: when both are equal, the server has answered if anything of it was confirmed.
    """
    spoke_last = connection.sent_ms > connection.received_ms or (
        connection.sent_ms == connection.received_ms and not connection.acked
    )
    queued = connection.inode == 0
    unread, received = (
        connection.unread - connection.left,
        connection.received - connection.left,
    )  # the client's end counts as a byte
    waits = queued or (received > 0 and (spoke_last or unread > 0))
    age_ms = connection.sent_ms if queued else connection.received_ms
    key = (connection.peer[0], connection.peer[1], connection.local[1])
    read_bytes = received - unread
    return Client(key, connection.inode, 0, waits, unread > 0, now - age_ms / 1000, connection.acked, read_bytes)
