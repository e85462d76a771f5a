"""Customers for a drill: an open-loop load on loopback, in a thread of its own, each request noted with its outcome.

A request starts when it is due, however many are still unanswered, as real customers do: a server that hangs meets a growing queue.
Bounded in rate, in patience, and in how many are open at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import TracebackType
from typing import Self

RATE = 10.0  # new customers a second: enough to see a gap of 0.2 s, and next to nothing for the host
PATIENCE_S = 10.0  # then a customer gives up
OPEN_LIMIT = 500  # connections at once: all that can come within PATIENCE_S, five times
ANSWER_LIMIT_BYTES = 1 << 20
HOST = "127.0.0.1"


class Outcome(StrEnum):
    OK = "answered"
    REFUSED = "refused"
    BROKEN = "broken"  # the connection ended before the answer did
    GAVE_UP = "gave up"
    SORRY = "answered 503"
    ERROR = "answered another 5xx"


@dataclass(frozen=True, slots=True)
class Request:
    """`began_wall` is seconds since the epoch; it took `took_s`."""

    began_wall: float
    took_s: float
    outcome: Outcome


class Customers:
    """`with Customers(port, path) as customers:` they come until the block ends; those that wait then are waited for."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._single: list[str] = []  # paths that somebody asks for once
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._come()), name="customers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(2 * PATIENCE_S)

    def requests(self) -> tuple[Request, ...]:
        """Those that have ended, so far."""
        with self._lock:
            return tuple(self._requests)

    def one_asks(self, path: str) -> None:
        """One customer more, who asks for `path`, waits for as long as it takes, and is not counted: who brings the trouble."""
        with self._lock:
            self._single.append(path)

    async def _come(self) -> None:
        began, number = time.monotonic(), 0
        counted: set[asyncio.Task[None]] = set()
        single: set[asyncio.Task[Outcome]] = set()
        while not self._ended.is_set():
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            number += 1
            if len(counted) < OPEN_LIMIT:
                task = asyncio.create_task(self._counted())
                counted.add(task)
                task.add_done_callback(counted.discard)
            with self._lock:
                paths, self._single = self._single, []
            single.update(asyncio.create_task(ask(self._port, path)) for path in paths)
        if counted:
            await asyncio.wait(tuple(counted))
        for task_left in single:
            task_left.cancel()
        await asyncio.gather(*single, return_exceptions=True)

    async def _counted(self) -> None:
        began, began_wall = time.monotonic(), time.time()
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome = await ask(self._port, self._path)
        except TimeoutError:
            outcome = Outcome.GAVE_UP
        with self._lock:
            self._requests.append(Request(began_wall, time.monotonic() - began, outcome))


async def ask(port: int, path: str) -> Outcome:
    """One GET on a connection of its own, and the whole answer."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        return Outcome.REFUSED
    except OSError:
        return Outcome.BROKEN
    answer = b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        while (part := await reader.read(65536)) and len(answer) < ANSWER_LIMIT_BYTES:
            answer += part
    except OSError:
        return Outcome.BROKEN
    finally:
        writer.transport.abort()
    return judged(answer)


def judged(answer: bytes) -> Outcome:
    """What an answer is, by its first line."""
    status = answer[9:12]
    if not answer.startswith(b"HTTP/1.") or not status.isdigit():
        return Outcome.BROKEN
    if status == b"503":
        return Outcome.SORRY
    return Outcome.ERROR if status >= b"500" else Outcome.OK


def answers(port: int, path: str, limit_s: float) -> bool:
    """Whether a GET is answered well within `limit_s` seconds."""

    async def within() -> Outcome:
        async with asyncio.timeout(limit_s):
            return await ask(port, path)

    with contextlib.suppress(TimeoutError):
        return asyncio.run(within()) is Outcome.OK
    return False


def longest_gap_s(requests: Iterable[Request]) -> float:
    """The longest time in which no customer got an answer, between the first that ended and the last."""
    ends = sorted(each.began_wall + each.took_s for each in requests if each.outcome is Outcome.OK)
    return max((after - before for before, after in pairwise(ends)), default=0.0)
