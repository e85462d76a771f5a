"""The control socket, the daemon's side: who may connect, JSON-RPC over lines, and a limit on everything.

It decides nothing: methods are in verbs.py. A client sends one request a line and has at most one under way; further ones wait in
its bounded buffer. A client that closes its half still gets its answers; one that follows (`events -f`) has to keep it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from supervisor.control import messages
from supervisor.control.backend import Backend, Reading, Story
from supervisor.control.verbs import Refused, Verbs
from supervisor.mechanism.sockets import refuse_descriptors

__all__ = ["Backend", "Reading", "Server", "ServerError", "Story"]

CLIENT_LIMIT = 64  # commands live for milliseconds; 64 who follow are a mistake
MEMBERS_LIMIT = 48  # after so many only the owner and root get in: members of the group must not lock them out
BACKLOG = 64
IDLE_S = 60.0  # a client asks as soon as it has connected
SLOW_S = 10.0  # a client that takes nothing of its answer for this long is dropped
UNTAKEN_LIMIT_BYTES = 8 * 1024 * 1024  # the largest answer: status of some thousand programs, or 10,000 events
PATH_LIMIT_BYTES = 107  # sockaddr_un.sun_path, less the final zero (unix(7))
SO_PEERGROUPS = 59  # asm-generic/socket.h, Linux >= 4.13: the supplementary groups of the peer when it connected
GROUPS_BYTES = 1024  # the most that Python's getsockopt takes: 256 groups


class ServerError(Exception):
    """The control socket cannot be opened. The text is one sentence for people."""


class Server:
    """The control socket of one daemon: `open`, then `serve`, then `close`."""

    def __init__(self, path: str, group: str, backend: Backend) -> None:
        """path: of the socket; its directory belongs to this daemon. group: whose members may use it, "" for none."""
        self._path = path
        self._group = group
        self._verbs = Verbs(backend)
        self._lock = -1
        self._listener: socket.socket | None = None
        self._gid: int | None = None
        self._serving: asyncio.Server | None = None
        self._clients: set[_Connection] = set()

    def open(self) -> None:
        """Make the directory this daemon's own and listen on the socket, also where a dead daemon left one.

        Blocks (file system, the group's name): for the time before the loop runs. The first thing a daemon does: from here on no
        second one works in this directory.

        raises  ServerError
        """
        directory = os.path.dirname(self._path)
        if len(os.fsencode(self._path)) > PATH_LIMIT_BYTES:
            raise ServerError(
                f"{self._path} is longer than the {PATH_LIMIT_BYTES} bytes that a socket's path may have: shorten runtime_dir"
            )
        self._gid = _gid(self._group)
        try:
            _own(directory)
            self._lock = _claim(f"{directory}/{messages.LOCK}")
            self._listener = _listen(self._path, self._gid)
        except OSError as problem:
            self._release()
            raise ServerError(
                f"cannot open the control socket {self._path}: {_words(problem)} (give [reviver] another runtime_dir)"
            ) from None

    async def serve(self) -> None:
        """Take clients from now on."""
        assert self._listener is not None, "open() comes first"
        loop = asyncio.get_running_loop()
        self._serving = await loop.create_unix_server(self._connect, sock=self._listener, backlog=BACKLOG)

    async def close(self) -> None:
        """Send every client away and give the directory back. Answers under way are lost; what was asked is done."""
        if self._serving is not None:
            self._serving.close()
        tasks = [task for client in self._clients if (task := client.drop()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._release()

    def _release(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._listener.close()
            self._listener = None
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1

    def _connect(self) -> _Connection:
        return _Connection(self._verbs, self._clients, self._gid)


# --- the directory and the socket -----------------------------------------------------------------------------------------------


def _gid(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ServerError(f"[reviver] group: there is no group {group!r} on this host") from None


def _own(directory: str) -> None:
    """Make the directory where it is missing; refuse one in which others could put things in our way.

    0711: programs of other users reach their sockets in it by name and cannot list it; the sockets have modes of their own.
    """
    with contextlib.suppress(FileExistsError):
        os.makedirs(directory, 0o711)
    found = os.stat(directory, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        raise ServerError(f"{directory} is not a directory: remove it, or give [reviver] another runtime_dir")
    if found.st_uid not in (0, os.geteuid()):
        raise ServerError(f"{directory} belongs to user {found.st_uid}: remove it, or give [reviver] another runtime_dir")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ServerError(f"{directory} can be written by others: chmod go-w {directory}, or give [reviver] another runtime_dir")


def _claim(path: str) -> int:
    """Take the lock of the directory and write our pid into it. The descriptor holds it, and the kernel frees it when we die.

    0600: whoever may open a file, if only for reading, may lock it, and so keep the next supervisor from starting.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise ServerError(
            f"another reviver runs here: pid {owner or 'unknown'} holds {path} (stop it, or give this one a runtime_dir of its own)"
        ) from None
    ours = f"{os.getpid()}\n".encode()
    os.write(lock, ours)
    os.ftruncate(lock, len(ours))  # only now: a client that looks meanwhile finds a pid at all times
    return lock


def _listen(path: str, gid: int | None) -> socket.socket:
    """A listening socket at `path`, in the place of one that a dead daemon left: we hold the lock, so nobody listens there.

    Nobody can connect before listen(), and by then its mode is right.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    refuse_descriptors(listener)  # those who connect to it get the same
    try:
        listener.bind(path)
        os.chmod(path, 0o600 if gid is None else 0o660)
        if gid is not None:
            os.chown(path, -1, gid)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _words(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()


# --- one client -----------------------------------------------------------------------------------------------------------------


def _uid(peer: socket.socket) -> int:
    """The user of the process at the other end, when it connected (SO_PEERCRED, unix(7))."""
    _, uid, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return int(uid)


def _owner(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _member(peer: socket.socket, gid: int) -> bool:
    """Whether the process at the other end was in the group when it connected, as its primary or a supplementary one."""
    _, _, primary = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    try:
        groups = peer.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        return bool(primary == gid)  # more groups than can be asked for: the primary one decides
    return gid in (primary, *struct.unpack(f"{len(groups) // 4}I", groups))


class _Request(msgspec.Struct):
    method: str
    jsonrpc: Literal["2.0"]
    params: dict[str, Any] = {}
    id: str | int | float | msgspec.UnsetType | None = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Request)


class _Connection(asyncio.Protocol):
    """One client, and a `verbs.Caller`."""

    def __init__(self, verbs: Verbs, clients: set[_Connection], gid: int | None) -> None:
        self._verbs = verbs
        self._clients = clients
        self._gid = gid
        self._loop = asyncio.get_running_loop()
        self.owner = False
        self.uid = -1
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._task: asyncio.Task[Any] | None = None
        self._half = False  # the client has closed its half
        self._idle: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._ends: list[Callable[[], None]] = []

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.add(self)
        peer = transport.get_extra_info("socket")
        self.uid = _uid(peer)
        self.owner = _owner(self.uid)
        if not self.owner and not (self._gid is not None and _member(peer, self._gid)):
            self._refuse(messages.REFUSED, "this control socket is its owner's, root's, and that of the members of [reviver] group")
        elif len(self._clients) > (limit := CLIENT_LIMIT if self.owner else MEMBERS_LIMIT):
            self._refuse(messages.REFUSED, f"{limit} clients are connected already: try again later")
        else:
            self._rest()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._next()

    def eof_received(self) -> bool:
        self._half = True
        if self._ends or self._gone():
            return False
        self._next()
        return True

    def _gone(self) -> bool:
        """Whether the client has closed both halves: nobody waits for an answer any more (POLLHUP, poll(2))."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        return bool(poll.poll(0))

    def pause_writing(self) -> None:
        self._slow = self._loop.call_later(SLOW_S, self.drop)

    def resume_writing(self) -> None:
        if self._slow is not None:
            self._slow.cancel()

    def connection_lost(self, _: Exception | None) -> None:
        self._clients.discard(self)
        for timer in (self._idle, self._slow):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
        for end in self._ends:
            end()
        self._ends.clear()
        self._transport = None

    def drop(self) -> asyncio.Task[Any] | None:
        """End the connection now, whatever was not sent yet. Gives the request under way, which is cancelled."""
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    # --- verbs.Caller

    def say(self, name: str, params: dict[str, Any]) -> None:
        self._send({"jsonrpc": "2.0", "method": name, "params": params})

    def at_end(self, callback: Callable[[], None]) -> None:
        self._ends.append(callback)
        if self._idle is not None:
            self._idle.cancel()

    # --- requests, one after the other

    def _next(self) -> None:
        """Take up the next whole line, unless a request is under way. One that is no request ends the connection."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._task is None:
            end = self._unread.find(b"\n")
            if (end if end >= 0 else len(self._unread)) > messages.MESSAGE_LIMIT_BYTES:
                self._refuse(messages.INVALID_REQUEST, f"a request has at most {messages.MESSAGE_LIMIT_BYTES} bytes")
                return
            if end >= 0:
                line = bytes(self._unread[:end])
                del self._unread[: end + 1]
                self._take(line)
        if self._task is not None:
            if len(self._unread) > messages.MESSAGE_LIMIT_BYTES:
                self._transport.pause_reading()
        elif self._half:
            self._transport.close()

    def _take(self, line: bytes) -> None:
        try:
            request = _decoder.decode(line)
        except msgspec.ValidationError as problem:
            self._refuse(messages.INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {problem}")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
            self._refuse(messages.PARSE_ERROR, f"not JSON: {problem}")
        else:
            if self._idle is not None:
                self._idle.cancel()
            self._task = self._loop.create_task(self._answer(request))
            self._task.add_done_callback(self._answered)

    async def _answer(self, request: _Request) -> None:
        try:
            result = await self._verbs.call(request.method, request.params, self)
        except Refused as no:
            if request.id is not msgspec.UNSET:
                self._error(request.id, no.code, str(no), no.details)
            return
        if request.id is not msgspec.UNSET:
            self._send({"jsonrpc": "2.0", "id": request.id, "result": result})

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled():
            return
        problem = task.exception()
        if problem is not None:  # a defect of ours: the client hears of it, the daemon's own handler decides what follows
            self._error(None, messages.INTERNAL_ERROR, "the daemon failed at this request; its log says more")
            self._loop.call_exception_handler({"message": "a control request failed", "exception": problem, "task": task})
        if self._transport is None or self._transport.is_closing():
            return
        if not self._half:
            self._transport.resume_reading()
        self._rest()
        self._next()

    def _rest(self) -> None:
        """Wait for the next request, and not for ever."""
        if not self._ends:
            self._idle = self._loop.call_later(IDLE_S, self.drop)

    # --- answers

    def _refuse(self, code: int, text: str) -> None:
        """One error, and the end of the connection; what the client still sends is not read."""
        self._unread.clear()
        self._error(None, code, text)
        if self._transport is not None:
            self._transport.close()

    def _error(self, id: object, code: int, text: str, details: tuple[str, ...] = ()) -> None:
        error: dict[str, object] = {"code": code, "message": text}
        if details:
            error["data"] = details
        self._send({"jsonrpc": "2.0", "id": id, "error": error})

    def _send(self, message: dict[str, Any]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(msgspec.json.encode(message) + b"\n")
        if self._transport.get_write_buffer_size() > UNTAKEN_LIMIT_BYTES:
            self.drop()
