"""What goes wrong in a server, on request: served by WSGI, by ASGI, or, run as a program, by threads of plain Python on the descriptor
that its command line names.

Copied into a run's folder, with the loops of bench/spins.py beside it as spins.py, and imported there by the server; it imports nothing
of this project. `/spin/NAME` never ends; the others say in their own words what they do.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SPINS: dict[str, Callable[[], object]] = importlib.import_module("spins").SPINS
BODY = b"ok\n"
REPORT_CPU_S = 6.0  # less than `certain`, and long enough to be suspected
COST_CPU_S = 0.02
GRAPH = 300_000  # objects that refer to each other: a collection takes some tenths of a second
DOCUMENT = 2_000_000  # numbers; some tenths of a second to write in one call that never lets go of the interpreter
BLOCK_BYTES = 4 << 20
UPSTREAM = int(os.environ.get("UPSTREAM", "0"))  # a port that accepts and never answers
REFUSED = int(os.environ.get("REFUSED", "0"))  # a port that nobody listens on
Message = dict[str, Any]

lock = threading.Lock()
pool = threading.Semaphore(0)  # whoever had its connections never gave one back

time.sleep(float(os.environ.get("BOOT_IDLE_S", "0")))
_booted = time.thread_time() + float(os.environ.get("BOOT_BUSY_S", "0"))
while time.thread_time() < _booted:
    pass


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def repeat(step: Callable[[], object], seconds: float = REPORT_CPU_S) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        step()


def storm() -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", REFUSED), 1.0).close()
        except ConnectionRefusedError:
            continue


def deadlock() -> None:
    with lock, lock:
        pass


def upstream() -> None:
    with socket.create_connection(("127.0.0.1", UPSTREAM)) as peer:
        peer.recv(1)


def collect() -> None:
    graph: list[Any] = []
    for _ in range(GRAPH):
        graph.append([graph])
    repeat(gc.collect)


def document() -> None:
    numbers = list(range(DOCUMENT))
    repeat(lambda: json.dumps(numbers))


def disk() -> None:
    with open("block", "wb", buffering=0) as file:

        def write() -> None:
            file.seek(0)
            file.write(os.urandom(BLOCK_BYTES))
            os.fsync(file.fileno())

        repeat(write)


ACTS: dict[str, Callable[[], object]] = {
    "/storm": storm,
    "/deadlock": deadlock,
    "/upstream": upstream,
    "/pool": pool.acquire,
    "/report": lambda: burn(REPORT_CPU_S),
    "/background": lambda: threading.Thread(target=burn, args=(REPORT_CPU_S,), daemon=True).start(),
    "/collect": collect,
    "/document": document,
    "/disk": disk,
    "/work": lambda: burn(COST_CPU_S),
    **{f"/spin/{name}": spin for name, spin in SPINS.items()},
}


def act(path: str) -> None:
    if path in ACTS:
        ACTS[path]()


def wsgi(environ: Message, start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    act(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


async def asgi(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    if scope["type"] != "http":
        return
    act(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(BODY)).encode())]})
    await send({"type": "http.response.body", "body": BODY})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        act(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(sys.argv[1]))
    server.serve_forever()
