"""Customers: an open-loop load of new connections, each request noted with its beginning, end and outcome; a closed-loop one, counted.

Open loop: a request starts when it is due, however many are still unanswered, as real customers do; a server that hangs therefore
meets a growing queue instead of a polite pause. Bounded in number, in time and in what is open at once; loopback only.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from bench.ground import GroundError

PATIENCE_S = 10.0  # then a customer gives up; people wait about this long for a page
OPEN_LIMIT = 2000  # connections at once: far below any descriptor limit but the smallest, and ten times what the benches need
REQUEST_LIMIT = 100_000
ANSWER_LIMIT_BYTES = 1 << 20


class Outcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    RESET = "reset"  # the connection ended before the answer did
    TIMEOUT = "timeout"
    ERROR = "5xx"


@dataclass(frozen=True, slots=True)
class Request:
    """Instants are CLOCK_MONOTONIC seconds."""

    began: float
    ended: float
    outcome: Outcome


async def ask(port: int, path: str, patience_s: float = PATIENCE_S) -> Request:
    """One customer: a new connection, one GET, the whole answer."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(patience_s):
            outcome = await _exchange(port, path)
    except TimeoutError:
        outcome = Outcome.TIMEOUT
    return Request(began, time.monotonic(), outcome)


async def _exchange(port: int, path: str) -> Outcome:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return Outcome.REFUSED
    except ConnectionResetError:
        return Outcome.RESET
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while (part := await reader.read(65536)) and len(answer) < ANSWER_LIMIT_BYTES:
            answer += part
    except (ConnectionResetError, BrokenPipeError):
        return Outcome.RESET
    finally:
        writer.transport.abort()
    status = answer[9:12]
    if not answer.startswith(b"HTTP/1.") or not status.isdigit():
        return Outcome.RESET
    return Outcome.ERROR if status >= b"500" else Outcome.OK


async def load(port: int, path: str, rate: float, seconds: float, patience_s: float = PATIENCE_S) -> list[Request]:
    """`rate` new customers a second for `seconds`; returns when the last one is answered or has given up."""
    count = int(rate * seconds)
    if count > REQUEST_LIMIT:
        raise ValueError(f"{count} requests are more than {REQUEST_LIMIT}")
    began = time.monotonic()
    open_now: set[asyncio.Task[Request]] = set()
    done: list[Request] = []

    def note(task: asyncio.Task[Request]) -> None:
        open_now.discard(task)
        if not task.cancelled():
            done.append(task.result())

    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        if len(open_now) >= OPEN_LIMIT:
            raise ValueError(f"{OPEN_LIMIT} connections are open at once")
        task = asyncio.create_task(ask(port, path, patience_s))
        open_now.add(task)
        task.add_done_callback(note)
    if open_now:
        await asyncio.wait(tuple(open_now))
    return done


_CLIENT = """
import socket, sys, time
port, request, seconds = int(sys.argv[1]), sys.argv[2].encode(), float(sys.argv[3])
print(flush=True)
sys.stdin.readline()
until, count = time.monotonic() + seconds, 0
while time.monotonic() < until:
    with socket.create_connection(("127.0.0.1", port), seconds + 10) as customer:
        customer.sendall(request)
        answer = customer.recv(65536)
        while customer.recv(65536):
            pass
    if answer[9:12] != b"200":
        sys.exit(f"answered {answer[:100]!r}")
    count += 1
print(count)
"""


def closed_loop(port: int, path: str, clients: int, seconds: float) -> int:
    """How many requests are answered in `seconds` to some clients that ask again as soon as they are answered.

    Each client is a process of its own, so that they never wait for each other. Raises GroundError when one is not answered with 200.
    """
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
    command = [sys.executable, "-S", "-E", "-c", _CLIENT, str(port), request, str(seconds)]
    with ExitStack() as stack:
        asking = []
        for _ in range(clients):
            client = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
            stack.callback(client.kill)
            asking.append(client)
        for client in asking:
            assert client.stdout is not None
            client.stdout.readline()  # it is there, and waits for the word
        for client in asking:
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
        told = [client.communicate(timeout=seconds + 2 * PATIENCE_S) for client in asking]
    if wrong := [problem for _, problem in told if problem]:
        raise GroundError(f"a client of 127.0.0.1:{port}: {wrong[0].decode().strip()[-300:]}")
    return sum(int(count) for count, _ in told)


def longest_gap_s(requests: Iterable[Request], since: float, until: float) -> float:
    """The longest time within [since, until] in which no customer got an answer."""
    ends = sorted(r.ended for r in requests if r.outcome is Outcome.OK and since <= r.ended <= until)
    marks = [since, *ends, until]
    return max(after - before for before, after in pairwise(marks))


def failures(requests: Sequence[Request]) -> str:
    """How many failed, by kind, in words: "3 of 900: 2 refused, 1 timeout"."""
    kinds = Counter(r.outcome.value for r in requests if r.outcome is not Outcome.OK)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"of {len(requests)}" + (f": {listed}" if listed else "")


def failed_count(requests: Iterable[Request], *kinds: Outcome) -> int:
    """Requests with one of these outcomes; without any given, all that are not ok."""
    return sum(r.outcome in kinds if kinds else r.outcome is not Outcome.OK for r in requests)
