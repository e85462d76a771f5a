"""One HTTP request and the status of its answer. Blocking, for a lane; one deadline for all of it, however slowly the bytes drip.

https is verified; redirects are not followed. Whatever goes wrong is a `ChannelError` that names the host alone: the rest of an address
may hold a token.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import h11

from supervisor.alerts.message import ChannelError

BLOCK_BYTES = 16 * 1024


class Endpoint:
    """An http or https address."""

    def __init__(self, url: str, what: str) -> None:
        """what: "webhook", for the sentences. Raises ChannelError, lasting."""
        if not url.isascii():
            raise ChannelError(f"a {what}'s address is written in ASCII: percent-encode its path", lasting=True)
        try:
            self._url = urlsplit(url)
            self._port = self._url.port or (443 if self._url.scheme == "https" else 80)
        except ValueError as problem:
            raise ChannelError(f"the {what}'s address cannot be read: {problem}", lasting=True) from problem
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ChannelError(f"a {what} is written {what}:https://host/path", lasting=True)
        self.host = self._url.hostname

    def ask(self, method: str, headers: Mapping[str, str], body: bytes, deadline_s: float) -> int:
        """Send it and give the status of the answer. Raises ChannelError."""
        deadline = time.monotonic() + deadline_s
        request = h11.Request(method=method, target=_target(self._url), headers=[*self._headers(body), *headers.items()])
        try:
            with self._connected(deadline) as connection:
                return _exchange(connection, request, body, deadline)
        except TimeoutError as problem:
            raise ChannelError(f"{self.host} did not answer within {deadline_s:g} s") from problem
        except OSError as problem:  # also TLS: ssl.SSLError is one
            raise ChannelError(f"cannot reach {self.host} port {self._port}: {problem.strerror or problem}") from problem
        except h11.ProtocolError as problem:
            raise ChannelError(f"{self.host} does not speak HTTP: {problem}") from problem

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        return [
            ("Host", self._url.netloc.rpartition("@")[2]),
            ("User-Agent", "reviver"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]

    def _connected(self, deadline: float) -> socket.socket:
        """Name resolution has no deadline of its own: it blocks this lane, and no other."""
        plain = socket.create_connection((self.host, self._port), timeout=_left(deadline))
        if self._url.scheme == "http":
            return plain
        import ssl  # for start-up time and 3 MiB: only where https is used

        plain.settimeout(_left(deadline))
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise


def _exchange(connection: socket.socket, request: h11.Request, body: bytes, deadline: float) -> int:
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
