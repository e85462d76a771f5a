"""The page that customers read while nothing of a program can serve: a process of its own, standard library only.

`apologist.py` starts it with the program's listening sockets from descriptor 3 on, and with a pipe as standard input: a byte on it asks
to stand aside for a moment, so that what waits in the queue is left to an instance that has just booted; its end is the end. Then
nothing more is taken, what was taken is answered, and the process is gone. So it also ends when the daemon dies.

It answers 503 and never anything else, a page to people and JSON to others. A health probe gets no answer: it is closed. Connections,
their time and their memory are limited.

The flags of a listening socket are shared with all who have it, so they are left as they are: accepting may block, or not. It is
interrupted by a signal, and never cancelled: a connection that the kernel has handed over is never lost. Hence accept(2) itself, through
ctypes: socket.accept would begin again after the signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_FD = 3
CONTROL_FD = 0
ASIDE_S = 0.3  # who has booted takes what waits within milliseconds, but on a busy host; and a customer hardly notices
OPEN_S = 0.2  # at least between two such moments, or nobody would be told anything while an instance boots
CONNECTIONS_LIMIT = 128  # at once: each is a thread that mostly waits; the others wait in the queue as before
HEAD_LIMIT_BYTES = 16 * 1024  # of a request: what servers commonly take
HEAD_S = 5.0  # until it is there; browsers open connections in advance and say nothing
SEND_S = 5.0
LINGER_S = 1.0  # for the rest of what the client sends: closed before, its answer could be lost by a reset
LINGER_LIMIT_BYTES = 1024 * 1024
END_S = SEND_S + LINGER_S  # what was taken is answered within this
PAGE_LIMIT_BYTES = 256 * 1024  # a bigger one is not shown
AGAIN_S = 0.002  # between two signals to a thread that may have been about to accept
FAULT_S = 0.1  # after accept failed: the socket was shut down by a program, or descriptors are used up
NOBODY = 65534

_REQUEST = re.compile(rb"([A-Z]{3,20}) (\S+) HTTP/1\.[01]\r?\n")
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{retry}">
<title>Back in a moment</title>
<style>body {{ font: 1.2em/1.5 system-ui, sans-serif; max-width: 30em; margin: 20vh auto; padding: 0 1em }}</style>
<h1>Back in a moment</h1>
<p>Sorry, we cannot answer right now. This page tries again by itself every {retry} seconds.</p>
</html>
"""
_JSON = '{{"status": 503, "title": "Service Unavailable", "detail": "nothing can answer right now", "retry_after_s": {retry}}}\n'

_libc = ctypes.CDLL(None, use_errno=True)


# --- what is said ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """retry_s: when to come again. probe: the path that health probes ask for, "" for none. page: HTML, b"" for the built-in one."""

    retry_s: int
    probe: str = ""
    page: bytes = b""


def reply(head: bytes, words: Words) -> bytes:
    """The answer to a request, whose head this is; b"": close without one. Anything but HTTP gets none, and neither does a probe.

    A person with a browser may well ask for the path that is probed, which often is "/".
    """
    request = _REQUEST.match(head)
    if request is None:
        return b""
    headers = _headers(head)
    accept = headers.get("accept", "")
    path = re.sub(rb"https?://[^/?]*", b"", request[2], count=1) if request[2].startswith(b"http") else request[2]
    probed = bool(words.probe) and path.partition(b"?")[0] == words.probe.encode()
    if headers.get("user-agent", "").startswith("reviver/") or (probed and "text/html" not in accept.lower()):
        return b""
    if wants_page(accept):
        kind, body = "text/html; charset=utf-8", words.page or _PAGE.format(retry=words.retry_s).encode()
    else:
        kind, body = "application/json", _JSON.format(retry=words.retry_s).encode()
    lines = (
        "HTTP/1.1 503 Service Unavailable",
        f"Retry-After: {words.retry_s}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + (b"" if request[1] == b"HEAD" else body)


def wants_page(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) prefers HTML to JSON; where both are as good, whether it names HTML."""
    ranges: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = next((word.removeprefix("q=") for word in parameters if word.startswith("q=")), "1")
        ranges[name] = float(weight) if re.fullmatch(r"[01](\.[0-9]{0,3})?", weight) else 1.0
    page, data = _weight(ranges, ("text/html", "text/*", "*/*")), _weight(ranges, ("application/json", "application/*", "*/*"))
    return page > data or (page == data > 0 and "text/html" in ranges)


def _weight(ranges: dict[str, float], names: Iterable[str]) -> float:
    return next((ranges[name] for name in names if name in ranges), 0.0)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").splitlines()[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


# --- who is let in --------------------------------------------------------------------------------------------------------------


class Door:
    """Whether connections may be taken. When `shut` has returned nobody is in accept."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._open = True
        self._accepting: set[int] = set()  # threads
        self._connections = 0

    def enter(self) -> None:
        """Wait until one more connection may be taken. The thread calls `leave` as soon as it has one, or none."""
        with self._turn:
            self._turn.wait_for(lambda: self._open and self._connections + len(self._accepting) < CONNECTIONS_LIMIT)
            self._accepting.add(threading.get_ident())

    def leave(self, *, taken: bool) -> None:
        with self._turn:
            self._accepting.discard(threading.get_ident())
            self._connections += taken
            self._turn.notify_all()

    def done(self) -> None:
        """A connection that was taken is over."""
        with self._turn:
            self._connections -= 1
            self._turn.notify_all()

    def open(self) -> None:
        with self._turn:
            self._open = True
            self._turn.notify_all()

    def shut(self) -> None:
        """Send everybody out of accept: a signal may come before a thread is in it, so it is sent until all are out."""
        with self._turn:
            self._open = False
            while self._accepting:
                for thread in self._accepting:
                    signal.pthread_kill(thread, signal.SIGUSR1)
                self._turn.wait(AGAIN_S)

    def finish(self, limit_s: float) -> None:
        """Wait until what was taken is over."""
        with self._turn:
            self._turn.wait_for(lambda: not self._connections, limit_s)


def take(listener: int) -> int:
    """One connection, blocking until there is one or a signal came: its descriptor, or minus the errno."""
    taken: int = _libc.accept4(listener, None, None, socket.SOCK_CLOEXEC)
    if taken >= 0:
        return taken
    if ctypes.get_errno() == errno.EAGAIN:  # a program made the socket a non-blocking one
        waiting = ctypes.create_string_buffer(struct.pack("ihh", listener, select.POLLIN, 0))
        _libc.poll(waiting, 1, -1)
        return -errno.EAGAIN
    return -ctypes.get_errno()


def attend(door: Door, listener: int, words: Words) -> None:
    """Take connections of one socket for ever, each into a thread of its own."""
    while True:
        door.enter()
        taken = take(listener)
        door.leave(taken=taken >= 0)
        if taken >= 0:
            try:
                threading.Thread(target=serve, args=(door, taken, words), daemon=True).start()
            except RuntimeError:  # no more threads: one after the other then
                serve(door, taken, words)
        elif -taken not in (errno.EINTR, errno.EAGAIN, errno.ECONNABORTED):
            time.sleep(FAULT_S)


def serve(door: Door, taken: int, words: Words) -> None:
    """Answer one connection, and close it."""
    try:
        with socket.socket(fileno=taken) as client, contextlib.suppress(OSError):  # who has gone needs no answer
            answer = reply(_read_head(client), words)
            if answer:
                client.settimeout(SEND_S)
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                _linger(client)
    finally:
        door.done()


def _read_head(client: socket.socket) -> bytes:
    """What came of the request's head until it was whole; b"" when it is not in time, or too long. Raises OSError."""
    head, deadline = b"", time.monotonic() + HEAD_S
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or len(head) > HEAD_LIMIT_BYTES:
            return b""
        client.settimeout(left_s)
        part = client.recv(4096)
        if not part:
            return b""
        head += part
    return head


def _linger(client: socket.socket) -> None:
    """Read on until the client has closed, too, for a moment. Raises OSError."""
    left_bytes, deadline = LINGER_LIMIT_BYTES, time.monotonic() + LINGER_S
    while left_bytes > 0 and (left_s := deadline - time.monotonic()) > 0:
        client.settimeout(left_s)
        part = client.recv(65536)
        if not part:
            return
        left_bytes -= len(part)


# --- the process ----------------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """PROGRAM COUNT RETRY_S PROBE PAGE: COUNT is of sockets, PAGE a file; where it cannot be read the built-in page is shown."""
    _, count, retry_s, probe, file = arguments
    page = b""
    with contextlib.suppress(OSError, ValueError):
        page = _page(file)
    if os.geteuid() == 0:
        _become_nobody()
    words, door = Words(int(retry_s), probe, page), Door()
    listeners = range(FIRST_FD, FIRST_FD + int(count))
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for listener in listeners:
        threading.Thread(target=attend, args=(door, listener, words), daemon=True).start()
    _obey(door)
    door.shut()
    for listener in listeners:
        os.close(listener)
    door.finish(END_S)
    os._exit(0)


def _page(file: str) -> bytes:
    if not file:
        return b""
    with open(file, "rb") as page:
        content = page.read(PAGE_LIMIT_BYTES + 1)
    return content if len(content) <= PAGE_LIMIT_BYTES else b""


def _become_nobody() -> None:
    """Strangers' bytes need no rights to be read. Where nobody cannot be had (some containers), it goes on with what it has."""
    with contextlib.suppress(OSError):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _obey(door: Door) -> None:
    """Stand aside whenever that is asked, until the daemon closes the pipe or dies."""
    ended = select.poll()
    ended.register(CONTROL_FD, 0)  # tells of the other end's closing alone
    while os.read(CONTROL_FD, 4096):
        door.shut()
        if ended.poll(ASIDE_S * 1000):
            return
        door.open()
        if ended.poll(OPEN_S * 1000):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
