"""What the servers under test serve, by WSGI and by ASGI; run as a program, it is served by waitress on descriptor 3.

Copied into a run's folder and imported there by the server; it imports nothing of this project. Its import takes `BOOT_S` seconds.
`/spin` loops for ever, `/sleep` waits for an hour, `/report` needs 8 s of processor time and ends; all else is answered at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

REPORT_CPU_S = 8.0
BODY = b"ok\n"
Message = dict[str, Any]

time.sleep(float(os.environ.get("BOOT_S", "0")))


def spin() -> None:
    while True:
        pass


def report() -> None:
    until = time.thread_time() + REPORT_CPU_S
    while time.thread_time() < until:
        pass


def sleep() -> None:
    time.sleep(3600)


COSTS = {"/spin": spin, "/sleep": sleep, "/report": report}


def wsgi(environ: Message, start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    COSTS.get(environ["PATH_INFO"], time.time)()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


async def asgi(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    if scope["type"] == "lifespan":
        while (event := str((await receive())["type"])) != "lifespan.shutdown":
            await send({"type": f"{event}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    COSTS.get(scope["path"], time.time)()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(BODY)).encode())]})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    waitress = importlib.import_module("waitress")  # in the bench's own environment
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # waitress then stops accepting, and gives its threads 5 s to finish
    waitress.serve(wsgi, sockets=[socket.socket(fileno=3)])
