"""The watcher on real servers: what it says when they boot, serve, hang, are stopped, and stand beside each other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from supervisor.lanes import Lane
from supervisor.mechanism import pressure, watch
from supervisor.mechanism.tree import start_ticks
from supervisor.mechanism.watch import Watcher
from supervisor.model import (
    Answered,
    Event,
    Extended,
    HangSettings,
    HealthSettings,
    InstanceId,
    Kind,
    LaunchSettings,
    Looked,
    Nature,
    ProgramSettings,
    Scope,
    WorkerLooked,
)
from supervisor.policy.facts import Fact
from supervisor.policy.replay import replay

E = TypeVar("E", Answered, Extended, Looked, WorkerLooked)

DEADLINE_S = (
    60.0  # for one event: a machine that others keep busy is starved, and nothing is proven on one, for as long as that lasts
)
FIRST, SECOND = InstanceId("shop", 1), InstanceId("shop", 2)
HELD = HealthSettings(http="/health", every_s=0.2, timeout_s=0.5)
QUICK = HangSettings(suspect_s=0.3, certain_s=1.2, blocked_s=1.4)  # far enough apart for a busy machine to see both

# One request after the other, or each in a thread of its own, or accepted and never served. A path says what is wrong with it.
SERVER = """
import socket, sys, threading, time
listener = socket.socket(fileno=int(sys.argv[1]))
lock = threading.Lock()
def serve(taken):
    request = taken.recv(4096)
    path = request.split()[1].decode() if request else ""
    if path == "/spin":
        while True: pass
    if path == "/sleep": time.sleep(1000)
    if path == "/lock": lock.acquire(); lock.acquire()
    if path == "/report":
        until = time.monotonic() + 1.0
        while time.monotonic() < until: pass
    status = "503 Sorry" if path == "/ill" else "200 OK"
    try:
        taken.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: 2\\r\\n\\r\\nok".encode())
    except OSError:
        pass
    taken.close()
async def loop():
    async def answer(reader, writer):
        path = (await reader.readline()).split()[1]
        if path == b"/poll": await asyncio.sleep(1000)
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
        await writer.drain()
        writer.close()
    await (await asyncio.start_server(answer, sock=listener)).serve_forever()
kept = []
if sys.argv[2] in ("workers", "loops"):
    import asyncio, ctypes, os
    for n in range(3):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
            if sys.argv[2] == "loops": asyncio.run(loop())
            break
    else:
        while True: os.wait()
while True:
    taken, _ = listener.accept()
    if sys.argv[2] == "deaf": kept.append(taken)
    elif sys.argv[2] == "threads": threading.Thread(target=serve, args=(taken,), daemon=True).start()
    else: serve(taken)
"""


@dataclass
class Shop:
    """A held socket, the watcher, and all that it posted."""

    listener: socket.socket
    watcher: Watcher
    posted: list[Event] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    customers: list[socket.socket] = field(default_factory=list)

    def open(self, id: InstanceId, way: str = "serial", health: HealthSettings = HELD, hang: HangSettings = QUICK) -> None:
        fd = self.listener.fileno()
        self.run(id, [sys.executable, "-c", SERVER, str(fd), way], health, hang, (fd,))

    def run(self, id: InstanceId, command: list[str], health: HealthSettings, hang: HangSettings, fds: tuple[int, ...]) -> None:
        child = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.PIPE)
        self.children.append(child)
        ticks = start_ticks(child.pid)
        assert ticks is not None
        launch = LaunchSettings(command=tuple(command))
        self.watcher.watch(id, child.pid, ticks, ProgramSettings(name="shop", launch=launch, health=health, hang=hang), fds)

    def request(self, path: str) -> None:
        """A customer who waits for ever."""
        customer = socket.socket(self.listener.family, socket.SOCK_STREAM)
        customer.connect(self.listener.getsockname())
        customer.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        self.customers.append(customer)

    def post(self, event: Event) -> None:
        self.posted.append(event)
        self.news.set()

    async def until(self, kind: type[E], true: Callable[[E], bool] = lambda event: True, *, of: InstanceId = FIRST) -> E:
        """The first event of this kind that is so, from now on or before."""
        async with asyncio.timeout(DEADLINE_S):
            at = 0
            while True:
                while at < len(self.posted):
                    event = self.posted[at]
                    at += 1
                    if isinstance(event, kind) and event.id == of and true(event):
                        return event
                self.news.clear()
                await self.news.wait()

    async def verdict(self, *kinds: Kind, of: InstanceId = FIRST, after: float = 0.0) -> Looked:
        return await self.until(Looked, lambda looked: looked.verdict.kind in kinds and looked.at > after, of=of)

    def starved(self, after: float) -> bool:
        """Whether the first one was starved then: on a busy machine that is no silence of its own, and starts the clock again."""
        return any(isinstance(e, Looked) and e.at > after and e.verdict.kind is Kind.STARVED for e in self.posted)


@asynccontextmanager
async def shop(family: socket.AddressFamily = socket.AF_INET, folder: Path = Path()) -> AsyncIterator[Shop]:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "shop.sock") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listener.listen(64)
        lane = Lane("watch")
        watcher = Watcher(lambda event: opened.post(event), lane)
        opened = Shop(listener, watcher)
        try:
            yield opened
        finally:
            watcher.close()
            lane.close()
            for customer in opened.customers:
                customer.close()
            for child in opened.children:
                child.kill()
                child.communicate()


@pytest.fixture(autouse=True)
def _judged_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while all is calm: a verdict of calm is waited for here as often as one of trouble."""
    monkeypatch.setattr(watch, "CALM_JUDGE_S", 0.3)


def test_server_is_ready_when_it_answers_and_told_once() -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST)
            answered = await it.until(Answered)
            assert answered.how.startswith("GET /health answered 200")
            looked = await it.verdict(Kind.HEALTHY)
            assert looked.since is not None
            it.watcher.look(FIRST)
            await it.verdict(Kind.HEALTHY, after=looked.at)
            assert sum(isinstance(event, Answered) for event in it.posted) == 1
            vitals = it.watcher.vitals(FIRST)
            assert vitals is not None
            assert vitals.rss_bytes > 1_000_000
            it.watcher.forget(FIRST)
            assert it.watcher.vitals(FIRST) is None
            assert it.watcher.verdict(FIRST) is None

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "health", "nature", "hung"),
    [
        ("/spin", HELD, Nature.SPINNING, Kind.SPINNING),
        ("/lock", HELD, Nature.LOCKED, Kind.LOCKED),
        ("/sleep", HELD, Nature.BLOCKED, Kind.BLOCKED),
        ("/spin", HealthSettings(), Nature.SPINNING, Kind.SPINNING),  # by the kernel's signals alone
    ],
)
def test_hang_is_suspected_and_proven(path: str, health: HealthSettings, nature: Nature, hung: Kind) -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, health=health)
            seen: list[Fact] = []
            it.watcher.record(FIRST, seen.append)
            await it.until(Answered)
            it.request(path)
            hung_at = time.monotonic()
            it.request("/next")
            suspect = await it.verdict(Kind.SUSPECT)
            assert suspect.since is not None
            assert suspect.at - suspect.since >= QUICK.suspect_s
            assert it.watcher.unmoved(FIRST, suspect.since) is None  # whether that is a proof, policy has decided
            assert it.watcher.unmoved(FIRST, suspect.since - 1.0) is not None  # something moved since
            proven = await it.verdict(hung)
            assert proven.verdict.nature is nature
            assert proven.since is not None
            assert proven.since >= hung_at - HELD.every_s  # nothing from before the request counts as silence
            assert it.watcher.unmoved(FIRST, proven.since) is None
            contradiction = it.watcher.unmoved(FIRST, proven.since - 1.0)
            assert contradiction is not None
            assert contradiction.since == pytest.approx(proven.since, abs=0.05)
            replayed = [judged.finding.verdict.kind for judged in replay(seen[0].at, seen)]
            assert {Kind.SUSPECT, hung} <= set(replayed)  # the same facts, the same verdicts

    asyncio.run(story())


def test_long_report_is_suspect_until_it_is_done_and_then_well() -> None:
    """One worker computes for a second: nobody is answered meanwhile, and nothing is proven."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.3))
            await it.until(Answered)
            it.request("/report")
            suspect = await it.verdict(Kind.SUSPECT)
            well = await it.verdict(Kind.HEALTHY, after=suspect.at)
            assert well.since is not None
            assert well.since > suspect.at
            assert suspect.since is not None
            assert it.watcher.unmoved(FIRST, suspect.since) is not None
            assert not any(isinstance(e, Looked) and e.verdict.kind is Kind.SPINNING for e in it.posted)

    asyncio.run(story())


def test_busy_thread_beside_answers_is_busy() -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, "threads")
            await it.until(Answered)
            it.request("/spin")
            busy = await it.verdict(Kind.BUSY)
            await asyncio.sleep(2 * QUICK.suspect_s)
            it.watcher.look(FIRST)
            await it.until(Looked, lambda looked: looked.at > busy.at + QUICK.suspect_s)
            assert not any(isinstance(e, Looked) and e.verdict.kind in (Kind.SUSPECT, Kind.SPINNING) for e in it.posted)

    asyncio.run(story())


def test_stopped_server_is_told_as_stopped_and_recovers() -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered)
            it.children[0].send_signal(signal.SIGSTOP)
            stopped = await it.verdict(Kind.STOPPED)
            assert stopped.since is not None
            it.children[0].send_signal(signal.SIGCONT)
            await it.verdict(Kind.HEALTHY, after=stopped.at)

    asyncio.run(story())


def test_relief_is_ready_by_its_own_answer_and_the_suspect_stays_one() -> None:
    """Both stand on one socket: what the relief answers is no news of the suspect, and what the suspect holds none of the relief."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered)
            it.request("/spin")
            suspect = await it.verdict(Kind.SUSPECT)
            it.open(SECOND, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered, of=SECOND)
            served = await it.verdict(Kind.HEALTHY, of=SECOND)
            later = await it.until(Looked, lambda looked: looked.at > served.at + 0.5)
            assert later.verdict.kind in (Kind.SUSPECT, Kind.STARVED)  # of a busy host, where two of them compete
            assert later.since is not None
            assert suspect.since is not None
            assert later.since <= suspect.since + 0.05 or it.starved(suspect.at)  # nothing moved since

    asyncio.run(story())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def test_question_that_waited_in_the_queue_is_credited_to_nobody_but_who_took_it(
    family: socket.AddressFamily, tmp_path: Path
) -> None:
    """It was put while the suspect was alone; the relief answers it, and those that are put later, and the suspect stays one."""

    async def story() -> None:
        async with shop(family, tmp_path) as it:
            patient = HealthSettings(http="/health", every_s=0.2, timeout_s=DEADLINE_S)
            it.open(FIRST, health=patient, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered)
            it.request("/spin")
            suspect = await it.verdict(Kind.SUSPECT)
            it.open(SECOND, health=patient, hang=HangSettings(suspect_s=0.4))
            ready = await it.until(Answered, of=SECOND)
            assert ready.how.startswith("GET /health answered 200")
            served = await it.verdict(Kind.HEALTHY, of=SECOND)
            await it.until(Looked, lambda looked: looked.at > served.at + 1.0)
            since = [e for e in it.posted if isinstance(e, Looked) and e.id == FIRST and e.at >= suspect.at]
            assert {looked.verdict.kind for looked in since} <= {Kind.SUSPECT, Kind.STARVED}

    asyncio.run(story())


def test_live_acceptor_that_never_serves_does_not_make_the_relief_wait() -> None:
    """It goes on accepting what it will not serve: the other is asked again until it is the one that accepted."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, "deaf")
            it.request("/health")
            it.open(SECOND)
            assert (await it.until(Answered, of=SECOND)).how.startswith("GET /health answered 200")
            assert not any(isinstance(event, Answered) and event.id == FIRST for event in it.posted)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "hung", "nature"), [("/spin", Kind.SPINNING, Nature.SPINNING), ("/lock", Kind.LOCKED, Nature.LOCKED)]
)
def test_one_hung_worker_of_many_is_told_alone_and_proven(
    path: str, hung: Kind, nature: Nature, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its siblings answer: the instance is not suspect, and once the worker is killed nothing is said of it any more."""
    monkeypatch.setattr(watch, "WORKER_TELL_S", 0.3)

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, "workers", hang=HangSettings(suspect_s=0.3, worker_s=1.8))
            await it.until(Answered)
            asked = time.monotonic()
            it.request(path)
            doubted = await it.until(WorkerLooked)
            assert doubted.verdict.kind in (Kind.SUSPECT, Kind.STARVED, hung)  # a busy machine keeps it from the processor, or us
            proven = await it.until(WorkerLooked, lambda event: event.verdict.kind is hung)
            assert (proven.verdict.scope, proven.verdict.nature) == (Scope.WORKER, nature)
            assert proven.at - proven.since >= 1.8
            assert proven.since >= asked - 0.05  # nothing from before its request counts
            assert f"worker {proven.pid} has not answered one request for" in proven.verdict.because
            assert proven.verdict.because.endswith("2 siblings answer")
            assert proven.start_ticks == start_ticks(proven.pid)
            assert proven.pid != it.children[0].pid
            assert (await it.verdict(Kind.BUSY)).verdict.scope in (Scope.WORKER, Scope.REQUEST)
            os.kill(proven.pid, signal.SIGKILL)
            it.watcher.look(FIRST)
            await it.verdict(Kind.HEALTHY, after=proven.at)
            told = sum(isinstance(event, WorkerLooked) for event in it.posted)
            await asyncio.sleep(3 * watch.WORKER_TELL_S)
            assert sum(isinstance(event, WorkerLooked) for event in it.posted) == told
            assert not any(isinstance(e, Looked) and e.verdict.kind in (Kind.SUSPECT, hung) for e in it.posted)

    asyncio.run(story())


def test_long_poll_of_a_worker_that_lives_is_a_matter_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TELL_AGAIN_S", 1.0)

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, "loops", hang=HangSettings(suspect_s=0.3, certain_s=0.6, blocked_s=0.8, worker_s=0.7))
            await it.until(Answered)
            it.request("/poll")
            busy = await it.verdict(Kind.BUSY)
            assert busy.verdict.scope is Scope.REQUEST
            await it.until(Looked, lambda looked: looked.at > busy.at + 1.5)  # a lasting one is told again
            assert not any(isinstance(event, WorkerLooked) for event in it.posted)

    asyncio.run(story())


def test_host_without_memory_for_another_one_is_said_with_the_suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "available_bytes", lambda: 1)

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST)
            await it.until(Answered)
            assert (await it.verdict(Kind.HEALTHY)).room
            it.request("/spin")
            it.request("/next")
            assert not (await it.verdict(Kind.SUSPECT)).room

    asyncio.run(story())


def test_machine_that_slept_is_no_silence_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s = 0.0

    async def story() -> None:
        nonlocal slept_s
        monkeypatch.setattr(pressure, "suspended_s", lambda: slept_s)
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.3))
            await it.until(Answered)
            it.request("/spin")
            it.request("/next")
            suspect = await it.verdict(Kind.SUSPECT)
            assert suspect.since is not None
            slept_s = 33.0
            woke = await it.verdict(Kind.UNKNOWN, after=suspect.at)
            assert (woke.verdict.because, woke.verdict.scope) == ("the machine was asleep for 33 s", Scope.HOST)
            again = await it.verdict(Kind.SUSPECT, Kind.STARVED, after=woke.at)
            assert again.since is not None
            assert again.since >= woke.at - 0.05  # the clock of its silence starts again

    asyncio.run(story())


def test_customer_of_a_sibling_that_was_killed_says_nothing_of_those_who_stay() -> None:
    """The suspect has gone, and with it the request that took long: what is told of the other is not from before."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered)
            it.request("/spin")
            await it.verdict(Kind.SUSPECT)
            it.open(SECOND, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered, of=SECOND)
            it.children[0].kill()
            it.children[0].wait()
            it.watcher.forget(FIRST)
            gone = time.monotonic()
            it.watcher.look(SECOND)
            looked = await it.until(Looked, lambda event: event.at > gone, of=SECOND)
            assert looked.verdict.kind is Kind.HEALTHY

    asyncio.run(story())


def test_bad_answers_keep_it_starting_and_a_look_says_so() -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, health=HealthSettings(http="/ill", every_s=0.2, timeout_s=0.5))
            it.watcher.look(FIRST)
            looked = await it.verdict(Kind.STARTING)
            async with asyncio.timeout(DEADLINE_S):
                while "503" not in looked.verdict.because:  # a look waits for an answer no longer than a second
                    it.watcher.look(FIRST)
                    looked = await it.verdict(Kind.STARTING, after=looked.at)
            assert not any(isinstance(event, Answered) for event in it.posted)

    asyncio.run(story())


def test_without_a_probe_serving_the_held_socket_is_ready() -> None:
    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, health=HealthSettings())
            how = (await it.until(Answered)).how
            assert how == f"process {it.children[0].pid} waits for connections on its socket"

    asyncio.run(story())


def test_without_a_probe_and_a_socket_having_lived_is_ready_and_never_suspect() -> None:
    async def story() -> None:
        async with shop() as it:
            started = time.monotonic()
            it.run(FIRST, [sys.executable, "-c", "while True: pass"], HealthSettings(), QUICK, ())
            answered = await it.until(Answered)
            assert time.monotonic() - started >= 1.0
            assert answered.how.startswith("lived for 1.")
            it.watcher.look(FIRST)
            looked = await it.until(Looked)
            assert (looked.verdict.kind, looked.since) == (Kind.HEALTHY, None)

    asyncio.run(story())


def test_what_the_program_says_counts() -> None:
    """READY=1 makes it ready, EXTEND_TIMEOUT_USEC asks for time, a heartbeat that stays away is silence, STOPPING=1 excuses it."""

    async def story() -> None:
        async with shop() as it:
            health = HealthSettings(heartbeat=True, every_s=0.1)
            it.run(FIRST, [sys.executable, "-c", "input()"], health, QUICK, ())
            it.watcher.heard(FIRST, {"EXTEND_TIMEOUT_USEC": "5000000", "STATUS": "loading"})
            assert 5.0 <= (await it.until(Extended)).start_s <= 5.0 + DEADLINE_S
            assert it.watcher.said(FIRST) == "loading"
            it.watcher.heard(FIRST, {"READY": "1"})
            assert (await it.until(Answered)).how == "READY=1"
            suspect = await it.verdict(Kind.SUSPECT)
            it.watcher.heard(FIRST, {"WATCHDOG": "1"})
            await it.verdict(Kind.HEALTHY, after=suspect.at)
            it.watcher.heard(FIRST, {"STOPPING": "1"})
            assert (await it.verdict(Kind.UNKNOWN)).since is None

    asyncio.run(story())


def test_own_lateness_is_no_silence_of_the_server() -> None:
    """Our loop stands still for longer than `suspect`, with a question open: nothing is concluded from that time."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST)
            await it.until(Answered)
            await it.verdict(Kind.HEALTHY)
            it.children[0].send_signal(signal.SIGSTOP)
            _hold_up_our_own_loop(1.0)
            it.children[0].send_signal(signal.SIGCONT)
            late = time.monotonic()
            it.watcher.look(FIRST)
            await it.verdict(Kind.HEALTHY, Kind.UNKNOWN, after=late)
            await asyncio.sleep(QUICK.suspect_s)
            it.watcher.look(FIRST)
            await it.until(Looked, lambda looked: looked.at > late + QUICK.suspect_s)
            assert not any(isinstance(e, Looked) and e.verdict.kind is Kind.SUSPECT for e in it.posted)

    asyncio.run(story())


def test_nothing_is_left_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST)
            await it.until(Answered)

    asyncio.run(story())
    assert set(os.listdir("/proc/self/fd")) == before


def _hold_up_our_own_loop(seconds: float) -> None:
    time.sleep(seconds)
