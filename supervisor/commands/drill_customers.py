"""Customers for a drill: an open-loop load on loopback, in a process of its own, each request noted with its outcome.

A request starts when it is due, however many are still unanswered, as real customers do: a server that hangs meets a growing queue.
Bounded in rate, in patience, and in how many are open at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Self

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

    @property
    def ended_wall(self) -> float:
        return self.began_wall + self.took_s


class Customers:
    """`with Customers(port, path, file) as customers:` they come until the block ends; those that wait then are waited for."""

    def __init__(self, port: int, path: str, file: Path) -> None:
        """file: where they note what came of each request."""
        self._file = file
        self._command = [sys.executable, "-P", "-m", "supervisor.commands.drill_customers", str(port), path]

    def __enter__(self) -> Self:
        with self._file.open("wb") as notes:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=notes, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """They hear that it is over by the end of their input, also when the drill was killed."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(2 * PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def requests(self) -> tuple[Request, ...]:
        """Those that have ended, so far."""
        whole = self._file.read_bytes().rpartition(b"\n")[0].decode()
        notes = (line.split(" ", 2) for line in whole.splitlines())
        return tuple(Request(float(began), float(took), Outcome(outcome)) for began, took, outcome in notes)

    def one_asks(self, path: str) -> None:
        """One customer more, who asks for `path`, waits for as long as it takes, and is not counted: who brings the trouble."""
        self._input.write(f"{path}\n".encode())
        self._input.flush()


async def _come(port: int, path: str) -> None:
    """What the process does: customers at RATE until the input ends, and one for each path that comes in."""
    loop = asyncio.get_running_loop()
    told = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    single: set[asyncio.Task[Outcome]] = set()
    coming = asyncio.create_task(_load(port, path))
    while line := await told.readline():
        single.add(asyncio.create_task(ask(port, line.decode().strip())))
    coming.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await coming
    for task in single:
        task.cancel()
    await asyncio.gather(*single, return_exceptions=True)


async def _load(port: int, path: str) -> None:
    """Cancelled, it waits for those that are still unanswered."""
    began, number = time.monotonic(), 0
    counted: set[asyncio.Task[None]] = set()
    try:
        while True:
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            number += 1
            if len(counted) < OPEN_LIMIT:
                task = asyncio.create_task(_noted(port, path))
                counted.add(task)
                task.add_done_callback(counted.discard)
    finally:
        if counted:
            await asyncio.wait(tuple(counted))


async def _noted(port: int, path: str) -> None:
    began, began_wall = time.monotonic(), time.time()
    try:
        async with asyncio.timeout(PATIENCE_S):
            outcome = await ask(port, path)
    except TimeoutError:
        outcome = Outcome.GAVE_UP
    sys.stdout.write(f"{began_wall:.6f} {time.monotonic() - began:.6f} {outcome}\n")
    sys.stdout.flush()


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


def answered(port: int, path: str, limit_s: float) -> bool:
    """Whether a GET is answered well within `limit_s` seconds."""

    async def within() -> Outcome:
        async with asyncio.timeout(limit_s):
            return await ask(port, path)

    with contextlib.suppress(TimeoutError):
        return asyncio.run(within()) is Outcome.OK
    return False


def longest_gap_s(requests: Sequence[Request]) -> float:
    """The longest time in which no customer got an answer, from when the first one asked until the last one had an answer or none."""
    if not requests:
        return 0.0
    ends = sorted(each.ended_wall for each in requests if each.outcome is Outcome.OK)
    marks = (min(each.began_wall for each in requests), *ends, max(each.ended_wall for each in requests))
    return max(after - before for before, after in pairwise(marks))


if __name__ == "__main__":
    asyncio.run(_come(int(sys.argv[1]), sys.argv[2]))
