"""How one message reaches one channel: `command:`, `webhook:`, `journal:`. Blocking, for a lane; each try has one deadline for all of it.

A channel is written as its kind, a colon, and where to. What a channel is given is what people may read: the words are escaped already,
and where a message goes (which may hold a token) is never repeated whole. Whatever goes wrong is a `ChannelError` with one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import h11
import msgspec

from supervisor.notify import OURS

ERROR_BYTES = 4096  # of what a failing command or server said, for the sentence
BLOCK_BYTES = 16 * 1024
PIPE_BYTES = 64 * 1024  # all that a pipe holds: what a command said before its end is there in one read


class ChannelError(Exception):
    """The message did not get through. `lasting`: no further try can help."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Message:
    """What people read. `id` is the same for each try of the same message on the same channel, and for no other."""

    id: str
    incident: int
    program: str
    key: str
    step: int
    severity: str
    text: str
    host: str
    since: str  # RFC 3339
    commands: tuple[str, ...]
    runbook: str


class Channel(Protocol):
    def send(self, message: Message, deadline_s: float) -> None:
        """Hand it over within `deadline_s` seconds. Returns once the other side has taken it; raises ChannelError."""
        ...


def channel(target: str, log: Callable[[str], None]) -> Channel:
    """The channel that is written so. Raises ChannelError, lasting."""
    kind, _, rest = target.partition(":")
    match kind:
        case "command":
            return Command(rest)
        case "webhook":
            return Webhook(rest)
        case "journal":
            return Journal(log)
        case _:
            raise ChannelError(f"{named(target)} cannot be told yet: write command:, webhook: or journal:", lasting=True)


def named(target: str) -> str:
    """The channel for people: where it goes, without what may be a secret."""
    kind, _, rest = target.partition(":")
    match kind:
        case "command":
            return f"command:{rest.split(' ')[0]}"
        case "webhook":
            return f"webhook:{urlsplit(rest).hostname}"
        case _:
            return f"{kind}:"


class Journal:
    """A line of the daemon's log."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def send(self, message: Message, deadline_s: float) -> None:
        self._log(f"incident {message.incident}, {message.severity}: {message.text}")


class Command:
    """A program of the operator's: the message as JSON on stdin, its fields as REVIVER_TEXT, REVIVER_SEVERITY ...; exit 0 is delivered."""

    def __init__(self, line: str) -> None:
        """line: split as a shell splits words; no shell runs. Raises ChannelError, lasting."""
        try:
            self._words = shlex.split(line)
        except ValueError as problem:
            raise ChannelError(f"command:{line} is no command: {problem}", lasting=True) from problem
        if not self._words:
            raise ChannelError("command: names no command", lasting=True)

    def send(self, message: Message, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        environ = {name: value for name, value in os.environ.items() if name not in OURS}
        environ |= {f"REVIVER_{name.upper()}": str(value) for name, value in asdict(message).items() if name != "commands"}
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open(os.memfd_create("message"), "w+b"))  # a file: no reader can hold us up
            source.write(msgspec.json.encode(message))
            source.seek(0)
            try:
                child = subprocess.Popen(
                    self._words,
                    stdin=source,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environ,
                    start_new_session=True,
                )
            except OSError as problem:
                raise ChannelError(f"cannot run {self._words[0]}: {problem.strerror}") from problem
            with child:
                said = _watch(child, deadline)
        if said is None:
            raise ChannelError(f"{self._words[0]} did not end within {deadline_s:g} s and was killed")
        if child.returncode != 0:
            raise ChannelError(f"{self._words[0]} {_ending(child.returncode)}{_saying(said)}")


def _watch(child: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Wait for its end, reading the last it says on stderr so that it never blocks on us. None: its group was killed at the deadline."""
    assert child.stderr is not None
    said = b""
    os.set_blocking(child.stderr.fileno(), False)
    pidfd = os.pidfd_open(child.pid)
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        ended = False
        while not ended:
            ready = {key.fileobj for key, _ in selector.select(max(deadline - time.monotonic(), 0.0))}
            if not ready:
                os.killpg(child.pid, signal.SIGKILL)
                break
            ended = pidfd in ready
            with contextlib.suppress(BlockingIOError):
                piece = os.read(child.stderr.fileno(), PIPE_BYTES)
                said = (said + piece)[-ERROR_BYTES:]
                if not piece and child.stderr in ready:
                    selector.unregister(child.stderr)
    os.close(pidfd)
    child.wait()
    return said if ended else None


def _ending(code: int) -> str:
    return f"failed with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


def _saying(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


class Webhook:
    """POST of the message as JSON; 200-299 is delivered. https is verified; redirects are not followed; `Idempotency-Key` is the id."""

    def __init__(self, url: str) -> None:
        """Raises ChannelError, lasting."""
        if not url.isascii():
            raise ChannelError("a webhook's address is written in ASCII: percent-encode its path", lasting=True)
        try:
            self._url = urlsplit(url)
            self._port = self._url.port or (443 if self._url.scheme == "https" else 80)
        except ValueError as problem:
            raise ChannelError(f"the webhook's address cannot be read: {problem}", lasting=True) from problem
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ChannelError("a webhook is written webhook:https://host/path", lasting=True)
        self._host = self._url.hostname

    def send(self, message: Message, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        body = msgspec.json.encode(message)
        try:
            with self._connected(deadline) as connection:
                status = _post(connection, self._request(message, len(body)), body, deadline)
        except TimeoutError as problem:
            raise ChannelError(f"{self._host} did not answer within {deadline_s:g} s") from problem
        except OSError as problem:  # also TLS: ssl.SSLError is one
            raise ChannelError(f"cannot reach {self._host} port {self._port}: {problem.strerror or problem}") from problem
        except h11.ProtocolError as problem:
            raise ChannelError(f"{self._host} does not speak HTTP: {problem}") from problem
        if not 200 <= status <= 299:
            moved = ", and redirects are not followed" if 300 <= status <= 399 else ""
            raise ChannelError(f"{self._host} answered {status}{moved}")

    def _request(self, message: Message, length: int) -> h11.Request:
        return h11.Request(
            method="POST",
            target=_target(self._url),
            headers=[
                ("Host", self._url.netloc.rpartition("@")[2]),
                ("User-Agent", "reviver"),
                ("Content-Type", "application/json"),
                ("Content-Length", str(length)),
                ("Idempotency-Key", message.id),
                ("Connection", "close"),
            ],
        )

    def _connected(self, deadline: float) -> socket.socket:
        """Name resolution has no deadline of its own: it blocks this channel's lane, and no other."""
        plain = socket.create_connection((self._host, self._port), timeout=_left(deadline))
        if self._url.scheme == "http":
            return plain
        import ssl  # for start-up time and 3 MiB: only where https is used

        plain.settimeout(_left(deadline))
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=self._host)
        except OSError:
            plain.close()
            raise


def _post(connection: socket.socket, request: h11.Request, body: bytes, deadline: float) -> int:
    """The status of the answer. One deadline for all of it, however slowly the bytes drip."""
    http = h11.Connection(h11.CLIENT)
    connection.settimeout(_left(deadline))
    connection.sendall(b"".join(http.send(part) or b"" for part in (request, h11.Data(data=body), h11.EndOfMessage())))
    while True:
        event = http.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            connection.settimeout(_left(deadline))
            piece = connection.recv(BLOCK_BYTES)
            if not piece:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection without an answer")
            http.receive_data(piece)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
