"""Asking a server whether it answers: http, tcp, a command; and finding out which instance a process belongs to.

It touches sockets of its own, child processes that it starts and ends itself, and /proc. It promises: nothing here blocks the loop
(names are resolved and commands started in lanes), every question ends at its timeout, and an outcome is one of three things that
are never mixed up: answered, not answered, or unknown because something of ours was in the way.

On a socket that several instances share, any of them may accept. `whose` tells who did, before the request is sent: an answer of
another instance is no news of this one. On a held socket the kernel completes the handshake whether or not anybody serves, so there
a tcp question means something only together with `whose`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import h11

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import exits, tree
from supervisor.mechanism.sockets import refuse_descriptors
from supervisor.model import InstanceId, ProgramSettings
from supervisor.notify import OURS

LATE_S = 0.5  # a timeout that comes this much too late says that our own loop was stuck, and nothing of the server
FIRST_STEP_S = 0.005  # who accepted is asked after this long, then each time after twice as long
LAST_STEP_S = 0.1
HEADERS_LIMIT_BYTES = 16 * 1024
BODY_LIMIT_BYTES = 64 * 1024  # read and thrown away, so that a server that is still writing sees no reset
BODY_LIMIT_S = 0.25
RECEIVE_BYTES = 16 * 1024
ADDRESSES_LIMIT = 4  # of one name, tried in turn
LOOKUP_S = 1.0
NAMES_KEPT_S = 30.0  # a name is looked up no more often than this, and an old answer serves while the lookup fails
NAMES_LIMIT = 1000
OUTPUT_LIMIT_BYTES = 4096  # of a command: its last words
LAST_WORDS_LIMIT = 200  # characters of it in an outcome's text
PIPE_BYTES = 64 * 1024  # what a pipe holds: one read empties it
CLIMB_LIMIT = 64  # generations from a worker up to its leader

# What says something of us or of the host, and nothing of the server that was asked.
OUR_FAULTS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EACCES,
        errno.EPERM,
    }
)

Address = tuple[str, int] | str  # host and port, or the path of a unix socket, "@..." for an abstract one
OURS_LIMIT = 256  # newest connections that are known for our own: one a second waits for a hung server at most
_ours: deque[tuple[str, int]] = deque(maxlen=OURS_LIMIT)  # of the loop's thread, like all of this

Whose = Callable[[tuple[str, int], tuple[str, int]], bool | None]
UNIX = "unix"  # a unix socket has no addresses that tell its connections apart: our end is this and our socket's inode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one question.

    at        when it was asked
    took_s    until this was known
    answered  None is unknown: something of ours failed, or another instance accepted (`other`)
    text      for people: "GET /health answered 200 in 3 ms", "GET /health: no answer for 2.0 s"
    spoke     bytes came back: whatever they say, the server moves
    """

    at: float
    took_s: float
    answered: bool | None
    text: str
    other: bool = False
    spoke: bool = False


@dataclass(frozen=True, slots=True)
class HttpTarget:
    address: Address
    host: str  # of the Host header
    path: str  # with its query

    @property
    def name(self) -> str:
        return f"GET {self.path.partition('?')[0]}"  # a query may carry a secret


@dataclass(frozen=True, slots=True)
class TcpTarget:
    address: Address

    @property
    def name(self) -> str:
        return f"tcp {_spell(self.address)}"


@dataclass(frozen=True, slots=True)
class CommandTarget:
    command: tuple[str, ...]
    directory: str
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    group: str = ""
    umask: int = 0o022

    @property
    def name(self) -> str:
        return f"command {os.path.basename(self.command[0])}"  # arguments may carry a secret


Target = HttpTarget | TcpTarget | CommandTarget


# --- what is asked --------------------------------------------------------------------------------------------------------------


def targets(settings: ProgramSettings, held: Sequence[Address], directory: str) -> tuple[Target, ...]:
    """What the program's settings want to be asked; empty without any probe but the heartbeat.

    held       addresses of its held sockets, in order (`address_of`)
    directory  its build's, where a command runs
    raises     ValueError: an http path without a held socket, or an address that is none (config refuses both)
    """
    health, launch = settings.health, settings.launch
    found: list[Target] = []
    if health.http:
        found.append(_http_target(health.http, held))
    if health.tcp:
        found.append(TcpTarget(_parse(health.tcp)))
    if health.command:
        found.append(CommandTarget(health.command, directory, launch.env, launch.user, launch.group, launch.umask))
    return tuple(found)


def address_of(fd: int) -> Address:
    """Where a listening socket can be reached from this host: a wildcard at loopback."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        name = sock.getsockname()
    if isinstance(name, bytes):
        return "@" + os.fsdecode(name[1:])
    if isinstance(name, str):
        return name
    return _reachable(name[0]), name[1]


def asked_path(http: str) -> str:
    """The path that an http probe asks for, without its query; "" for no probe."""
    if not http or http.startswith("/"):
        return _ascii(http.partition("?")[0])
    return _ascii(urlsplit(http).path) or "/"


def _http_target(url: str, held: Sequence[Address]) -> HttpTarget:
    if url.startswith("/"):
        if not held:
            raise ValueError(f"http = {url!r} is asked on the program's first held socket, and it has none")
        address = held[0]
        return HttpTarget(address, "localhost" if isinstance(address, str) else _host_header(*address), _ascii(url))
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is no http address: write /path, or http://host:port/path")
    address = (_reachable(parts.hostname), parts.port or 80)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    return HttpTarget(address, host if parts.port is None else f"{host}:{parts.port}", _ascii(path))


def _ascii(path: str) -> str:
    """A path and query as they may be sent: what is no character of an address is spelled %C3%A4."""
    return quote(path, safe="/?&=%:@!$'()*+,;~[]")


def _host_header(host: str, port: int) -> str:
    """Loopback is called by its name, which frameworks that check the Host header mostly allow."""
    return f"localhost:{port}" if host in ("127.0.0.1", "::1") else _spell((host, port))


def _parse(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is no address: write host:port or [address]:port")
    return _reachable(host.removeprefix("[").removesuffix("]")), int(port)


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _spell(address: Address) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- http and tcp ---------------------------------------------------------------------------------------------------------------


class _ElsewhereError(Exception):
    """Another instance accepted the connection."""


class _UnknownError(Exception):
    """Something of ours was in the way; the text says what."""


async def ask(target: Target, *, timeout_s: float, whose: Whose | None = None) -> Outcome:
    """Put one question of any kind."""
    match target:
        case HttpTarget():
            return await ask_http(target, timeout_s=timeout_s, whose=whose)
        case TcpTarget():
            return await ask_tcp(target, timeout_s=timeout_s, whose=whose)
        case CommandTarget():
            return await ask_command(target, timeout_s=timeout_s)


async def ask_http(target: HttpTarget, *, timeout_s: float, whose: Whose | None = None) -> Outcome:
    """Ask by http; a status from 200 to 399 is an answer.

    whose  is called with our and their address until it knows who accepted the connection: True, the instance that is meant;
           False, another one; None, nobody yet. Nothing is sent before. Of a unix socket ours is (UNIX, its inode).
    """
    question = _Question(target.name, timeout_s)
    wire: _Wire | None = None
    try:
        async with asyncio.timeout(timeout_s):
            wire = _Wire(await _connect(target.address), target)
            await _accepted(wire.sock, whose)
            status = await wire.status()
    except (OSError, LaneError, h11.ProtocolError, _UnknownError, _ElsewhereError) as problem:
        question.spoke = wire is not None and wire.spoke
        return question.unanswered(problem)
    else:
        question.spoke = True
        return question.outcome(200 <= status <= 399, f"answered {status} in")
    finally:
        if wire is not None:
            wire.leave()


async def ask_tcp(target: TcpTarget, *, timeout_s: float, whose: Whose | None = None) -> Outcome:
    """Connect, and wait until `whose` says that it was accepted; nothing is sent. Arguments as for `ask_http`."""
    question = _Question(target.name, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            with await _connect(target.address) as sock:
                await _accepted(sock, whose)
    except (OSError, LaneError, _UnknownError, _ElsewhereError) as problem:
        return question.unanswered(problem)
    return question.outcome(True, "accepted in" if whose else "connected in")


class _Question:
    """What is known of a question while it is being asked."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.at = time.monotonic()
        self.spoke = False

    def outcome(self, answered: bool, how: str) -> Outcome:
        took_s = time.monotonic() - self.at
        return Outcome(self.at, took_s, answered, f"{self.name} {how} {_span(took_s)}", spoke=self.spoke)

    def unknown(self, why: str, other: bool = False) -> Outcome:
        return Outcome(self.at, time.monotonic() - self.at, None, f"{self.name}: {why}", other, self.spoke)

    def unanswered(self, problem: Exception) -> Outcome:
        """The outcome that a problem means."""
        took_s = time.monotonic() - self.at
        match problem:
            case _ElsewhereError():
                return self.unknown("another instance accepted", other=True)
            case _UnknownError() | LaneError():
                return self.unknown(str(problem))
            case TimeoutError() if took_s > self.timeout_s + LATE_S:
                return self.unknown(
                    f"asked for {_span(self.timeout_s)}, but we were late ourselves by {_span(took_s - self.timeout_s)}"
                )
            case TimeoutError():
                text = f"no answer for {_span(took_s)}" if not self.spoke else f"no whole answer for {_span(took_s)}"
            case OSError(errno=number) if number in OUR_FAULTS:
                return self.unknown(f"cannot be asked: {_words(problem)}")
            case OSError():
                text = _words(problem)
            case h11.LocalProtocolError():
                return self.unknown(f"cannot be asked: {problem}")
            case _:
                text = "no http answer" if self.spoke else "closed without an answer"
        return Outcome(self.at, took_s, False, f"{self.name}: {text}", spoke=self.spoke)


def _words(problem: OSError) -> str:
    return (os.strerror(problem.errno) if problem.errno else str(problem)).lower()


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds * 1000:.0f} ms"


async def _accepted(sock: socket.socket, whose: Whose | None) -> None:
    """Wait until the instance that is meant has accepted the connection. Raises _ElsewhereError when another one did."""
    if whose is None:
        return
    if sock.family == socket.AF_UNIX:
        local, peer = (UNIX, os.fstat(sock.fileno()).st_ino), (UNIX, 0)
    else:
        local, peer = sock.getsockname()[:2], sock.getpeername()[:2]
    step_s = FIRST_STEP_S
    while True:
        await asyncio.sleep(step_s)
        step_s = min(2 * step_s, LAST_STEP_S)
        ours = whose(local, peer)
        if ours is False:
            raise _ElsewhereError
        if ours:
            return


async def _connect(address: Address) -> socket.socket:
    """A connected socket, to the first of the address's addresses that takes it. Raises OSError or _UnknownError."""
    if isinstance(address, str):
        return await _connect_unix("\0" + address[1:] if address.startswith("@") else address)
    host, port = address
    problem: OSError | None = None
    for family, numeric in await _addresses(host):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if not _connected(sock, (numeric, port)):
                await asyncio.get_running_loop().sock_connect(sock, (numeric, port))
        except OSError as refused:
            problem = refused
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            _ours.append(sock.getsockname()[:2])
            return sock
    raise problem or _UnknownError(f"{host} has no address")


def ours() -> frozenset[tuple[str, int]]:
    """The addresses from which the newest questions came: who looks at connections can tell them from customers."""
    return frozenset(_ours)


def _connected(sock: socket.socket, address: tuple[str, int]) -> bool:
    """Begin to connect, and whether that is done: to this host it is, although connect(2) says that it is under way."""
    if sock.connect_ex(address) not in (0, errno.EINPROGRESS):
        return False
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


async def _connect_unix(path: str) -> socket.socket:
    """A full queue refuses a unix connection at once (EAGAIN) where TCP would wait: so wait here."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    refuse_descriptors(sock)
    step_s = FIRST_STEP_S
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(step_s)
                step_s = min(2 * step_s, LAST_STEP_S)
            else:
                return sock
    except (OSError, asyncio.CancelledError):
        sock.close()
        raise


class _Wire:
    """One request on a connected socket, and what comes back. It is put each second, so it is read by the loop's callbacks, and an answer
    that comes as answers mostly do is understood at a glance: that costs half of what h11 and a task's awaiting cost."""

    def __init__(self, sock: socket.socket, target: HttpTarget) -> None:
        self.sock = sock
        self.spoke = False
        self._target = target
        self._http: h11.Connection | None = None  # of an answer that is not as usual
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[int] = self._loop.create_future()
        self._head = b""
        self._left_bytes = BODY_LIMIT_BYTES  # of the body that are still read
        self._reads = False
        self._timer: asyncio.TimerHandle | None = None

    async def status(self) -> int:
        """Send the request, and return the answer's status. Raises h11.ProtocolError for what is no http, and OSError."""
        request = _request(self._target)
        sent_bytes = self.sock.send(request)  # a fresh socket's buffer takes any request that a configuration can hold
        if sent_bytes < len(request):
            await self._loop.sock_sendall(self.sock, request[sent_bytes:])
        self._reads = True
        self._loop.add_reader(self.sock.fileno(), self._read)
        return await self._answer

    def leave(self) -> None:
        """Nobody waits any more: the body of an answer is read on for a moment, for the server's sake alone."""
        if self._answer.done() and not self._answer.cancelled() and self._reads:
            self._timer = self._loop.call_later(BODY_LIMIT_S, self._close)
        else:
            self._close()

    def _read(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
            self.spoke = self.spoke or bool(data)
            if self._answer.done():
                self._left_bytes -= len(data)
            else:
                self._take_head(data)
        except BlockingIOError:
            return
        except (OSError, h11.ProtocolError) as problem:
            data = b""
            if not self._answer.done():
                self._answer.set_exception(problem)
        if not data or self._left_bytes <= 0:
            self._close()

    def _take_head(self, data: bytes) -> None:
        """Take up what came of the answer's head; b"" is the end. Raises h11.ProtocolError for what is no http."""
        self._head += data
        if self._http is None:
            if usual := _USUAL_HEAD.match(self._head):
                length = _LENGTH.search(usual[0])
                rest_bytes = int(length[1]) if length else BODY_LIMIT_BYTES
                self._left_bytes = min(rest_bytes, BODY_LIMIT_BYTES) - (len(self._head) - usual.end())
                self._answer.set_result(int(usual[1]))
                return
            self._http, data = _asked(self._target), self._head
        self._http.receive_data(data)
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._answer.set_result(event.status_code)
                return
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("closed without an answer")
        if len(self._head) > HEADERS_LIMIT_BYTES:
            raise h11.RemoteProtocolError("no answer within the limit")

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self.sock.fileno())
        self.sock.close()


# A whole head, each line of it a header (RFC 9112); interim answers, folded lines and whatever else there is are h11's to judge.
_USUAL_HEAD = re.compile(rb"HTTP/1\.[01] ([2-5][0-9][0-9])(?: [^\r\n\0]*)?\r\n(?:[A-Za-z0-9-]+:[^\r\n\0]*\r\n)*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


def _asked(target: HttpTarget) -> h11.Connection:
    """A connection on which the request has been sent."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_LIMIT_BYTES)
    http.send(_question_to(target))
    http.send(h11.EndOfMessage())
    return http


@functools.lru_cache(NAMES_LIMIT)
def _request(target: HttpTarget) -> bytes:
    """The same each second."""
    return h11.Connection(h11.CLIENT).send(_question_to(target)) or b""


def _question_to(target: HttpTarget) -> h11.Request:
    headers = [("Host", target.host), ("User-Agent", "reviver/0.1"), ("Accept", "*/*"), ("Connection", "close")]
    return h11.Request(method="GET", target=target.path, headers=headers)


# --- names ----------------------------------------------------------------------------------------------------------------------

_names_lane = Lane("names", limit=100)  # one for all: a lookup that hangs is given up, and the others go on with what they knew
_names: dict[str, tuple[float, list[tuple[int, str]]]] = {}  # host -> when it was looked up, family and address


async def _addresses(host: str) -> list[tuple[int, str]]:
    """Families and numeric addresses of a host. Raises _UnknownError when its name cannot be looked up."""
    if host == "localhost":  # loopback by definition (RFC 6761): no lookup that could hang
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    if ":" in host:
        return [(socket.AF_INET6, host)]
    if host.replace(".", "").isdecimal():
        return [(socket.AF_INET, host)]
    at, found = _names.get(host, (0.0, []))
    if found and time.monotonic() - at < NAMES_KEPT_S:
        return found
    try:
        fresh = await _names_lane.run(_look_up, host, deadline_s=LOOKUP_S)
    except (LaneError, OSError) as problem:
        if not found:
            raise _UnknownError(f"the name {host} cannot be looked up: {problem}") from problem
        return found
    if len(_names) >= NAMES_LIMIT:
        _names.clear()
    _names[host] = (time.monotonic(), fresh)
    return fresh


def _look_up(host: str) -> list[tuple[int, str]]:
    """Blocks, for as long as the resolver likes."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found[:ADDRESSES_LIMIT]]


# --- which instance a process belongs to ----------------------------------------------------------------------------------------


def attribute(pid: int, leaders: Mapping[int, InstanceId]) -> InstanceId | None:
    """The instance that a process belongs to, by the pids of the instances' own processes; None when it belongs to none.

    By descent, else by session (a process can leave a session, never enter one), else, for a daemon that left both, by the marks in
    its environment, which count only if it runs as the same user as the instance that they name. Some 20 µs for each generation.
    """
    for ancestor, session in _ancestry(pid):
        if found := leaders.get(ancestor) or leaders.get(session):
            return found
    user = _user(pid)
    own = {leader: instance for leader, instance in leaders.items() if _user(leader) == user}
    if user is None or not own:
        return None  # a stranger's environment is not even read: it may be anything
    environ = tree.environ(pid)
    return next((instance for leader, instance in own.items() if environ.issuperset(tree.marks(instance, leader))), None)


def _ancestry(pid: int) -> Iterator[tuple[int, int]]:
    """A process and its ancestors, each with its session; ends where one has gone."""
    for _ in range(CLIMB_LIMIT):
        found = tree.stat(pid)
        if found is None:
            return
        yield pid, found.session
        pid = found.ppid


def _user(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


# --- commands -------------------------------------------------------------------------------------------------------------------

_spawn_lane = Lane("probe commands", limit=1000)
_dying: dict[_Command, CommandTarget] = {}  # killed and not reaped yet


class _Started(NamedTuple):
    process: subprocess.Popen[bytes]
    pidfd: int
    output: int


async def ask_command(target: CommandTarget, *, timeout_s: float) -> Outcome:
    """Run the command as the program runs: its user, directory and environment. Exit 0 is an answer.

    At the timeout its whole process group is killed. One that cannot even be killed is not joined by another.
    """
    question = _Question(target.name, timeout_s)
    if target in _dying.values():
        return question.unknown("the one before cannot be killed")
    starting = _spawn_lane.run(_start, target, deadline_s=timeout_s, late=_discard)
    try:
        command = _Command(target, await asyncio.shield(starting))
    except (OSError, LookupError, ValueError, subprocess.SubprocessError, LaneError) as problem:
        return question.unknown(f"cannot be run: {problem}")
    except asyncio.CancelledError:
        starting.add_done_callback(functools.partial(_end_unwanted, target))
        raise
    try:
        await asyncio.wait((command.ended,), timeout=question.at + timeout_s - time.monotonic())
        if not command.ended.done():
            return question.unanswered(TimeoutError())
        status, words = command.ended.result()
        if status is None:
            return question.unknown(words)
        return question.outcome(status == 0, f"ended ({words}{command.last_words()}) in")
    finally:
        command.kill()


class _Command:
    """A command that runs, until it is reaped. Lives on the loop's thread."""

    def __init__(self, target: CommandTarget, started: _Started) -> None:
        self._target = target
        self._started = started
        self._tail = b""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[tuple[int | None, str]] = self._loop.create_future()
        self._loop.add_reader(started.pidfd, self._reap)
        self._loop.add_reader(started.output, self._read)

    def kill(self) -> None:
        """SIGKILL to its group, unless it has ended; it is reaped when that has come to pass."""
        if not self.ended.done():
            _dying[self] = self._target
            _kill_group(self._started.process.pid)

    def last_words(self) -> str:
        """Its last line, fit for a terminal, as `, "..."`."""
        lines = self._tail.decode("utf-8", "replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")[:LAST_WORDS_LIMIT]
        return f', "{"".join(c if c.isprintable() else "?" for c in words)}"' if words else ""

    def _read(self) -> None:
        try:
            data = os.read(self._started.output, PIPE_BYTES)
        except BlockingIOError:
            return
        self._tail = (self._tail + data)[-OUTPUT_LIMIT_BYTES:]
        if not data:
            self._loop.remove_reader(self._started.output)

    def _reap(self) -> None:
        """It ended. What it left in its group goes with it, before its pid is free for others."""
        self._loop.remove_reader(self._started.pidfd)
        self._read()
        self._loop.remove_reader(self._started.output)
        _dying.pop(self, None)
        self.ended.set_result(_reap(self._started))


def _start(target: CommandTarget) -> _Started:
    """Blocks until the command is executed, which a dead mount may delay for ever."""
    identity = _identity(target)
    output, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(output, False)
        process = subprocess.Popen(
            target.command,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            cwd=target.directory,
            env=_environment(target, identity),
            start_new_session=True,
            umask=target.umask,
            user=identity.uid,
            group=identity.gid,
            extra_groups=identity.groups,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        os.close(output)
        raise
    finally:
        os.close(writer)
    try:
        return _Started(process, os.pidfd_open(process.pid), output)
    except OSError:
        _kill_group(process.pid)
        process.wait()
        os.close(output)
        raise


def _reap(started: _Started) -> tuple[int | None, str]:
    """How a command ended (`tree.ending`). What is left of its group is killed, and what was open for it is closed."""
    try:
        os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED | os.WNOWAIT)
        _kill_group(started.process.pid)
        status, words = exits.waited(os.waitid(os.P_PIDFD, started.pidfd, os.WEXITED))
    except ChildProcessError:
        status, words = exits.waited(None)
    finally:
        os.close(started.pidfd)
        os.close(started.output)
    started.process.returncode = status or 0  # else Popen would wait for it once more
    return status, words


def _discard(started: _Started) -> None:
    """End a command that was started too late for anybody to wait for it. Blocks for a moment."""
    _kill_group(started.process.pid)
    _reap(started)


def _end_unwanted(target: CommandTarget, starting: asyncio.Future[_Started]) -> None:
    """End a command whose asker was cancelled while it was being started."""
    if not starting.cancelled() and starting.exception() is None:
        _Command(target, starting.result()).kill()


def _kill_group(pid: int) -> None:
    """SIGKILL to the group of a leader that is not reaped yet, so that the number is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone, or become another user's
        os.killpg(pid, signal.SIGKILL)


class _Identity(NamedTuple):
    """Whom a command runs as; None leaves ours."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()


def _identity(target: CommandTarget) -> _Identity:
    """The program's user, group and further groups. Raises LookupError for an unknown one. May block on NSS."""
    gid = None
    if target.group:
        gid = int(target.group) if target.group.isdecimal() else grp.getgrnam(target.group).gr_gid
    if not target.user:
        return _Identity(gid=gid)
    user = pwd.getpwuid(int(target.user)) if target.user.isdecimal() else pwd.getpwnam(target.user)
    gid = user.pw_gid if gid is None else gid
    env = (("HOME", user.pw_dir), ("USER", user.pw_name), ("LOGNAME", user.pw_name))
    return _Identity(user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)), env)


def _environment(target: CommandTarget, identity: _Identity) -> dict[str, str]:
    """What the program is given (`launch`), but for NOTIFY_SOCKET: a probe must not speak for the program."""
    ours = {name: value for name, value in os.environ.items() if name not in OURS}
    ours["PATH"] = f"{ours.get('PATH', os.defpath)}:{os.path.dirname(sys.executable)}"
    return ours | dict(identity.env) | dict(target.env)
