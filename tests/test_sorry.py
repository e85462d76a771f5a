"""The page while nothing can serve: what it says, when it is shown, and that the program is never kept from serving by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor import host
from supervisor.mechanism import apologist, sorry
from supervisor.mechanism.apologist import Answerer, Apologists
from supervisor.mechanism.sorry import Words, reply, wants_page
from supervisor.model import (
    Answered,
    Apologize,
    Exited,
    Fleet,
    HangSettings,
    HealthSettings,
    InstanceId,
    Kind,
    LaunchSettings,
    Looked,
    Nature,
    ProgramSettings,
    RestartSettings,
    SorrySettings,
    StartAsked,
    StepAside,
    StopAsked,
    Woke,
)
from supervisor.policy.adoption import adopt
from supervisor.policy.apology import WORTH_WAITING_S
from supervisor.policy.facts import Heard
from tests.supervised import Supervised, free_port, python
from tests.test_policy import Host, candidates, only, program
from tests.test_watch import FIRST, shop

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

# --- what it says ---------------------------------------------------------------------------------------------------------------


def request(path: str = "/cart", accept: str = BROWSER, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: shop.example\r\nAccept: {accept}\r\n{more}\r\n".encode()


def test_people_get_a_page_and_programs_json_and_both_when_to_come_again() -> None:
    page, data = reply(request(), Words(5)), reply(request(accept="application/json"), Words(5))
    for answer in (page, data):
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert b"text/html" in page
    assert b"Back in a moment" in page
    assert json.loads(data.partition(b"\r\n\r\n")[2])["status"] == 503
    assert reply(request(), Words(5, page=b"<p>closed</p>")).endswith(b"\r\n\r\n<p>closed</p>")
    assert reply(request(method="HEAD"), Words(5)).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;Q=0.5", True),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("application/json, text/html;q=0.5", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("image/avif,image/webp,*/*;q=0.8", False),
        ("text/html;q=nonsense", True),
        ("text/html;q=0", False),
    ],
)
def test_who_prefers_html_gets_the_page(accept: str, page: bool) -> None:
    assert wants_page(accept) is page


@pytest.mark.parametrize(
    "head",
    [
        request("/health", accept="*/*"),
        request("/health?full=1", accept=""),
        request("http://shop.example/health", accept="application/json"),
        request("/cart", accept="*/*", more="User-Agent: reviver/0.1\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO example.org\r\n\r\n",
        b"",
    ],
)
def test_a_probe_and_what_is_no_http_get_no_answer(head: bytes) -> None:
    assert reply(head, Words(5, probe="/health")) == b""


def test_a_person_who_asks_for_the_probed_path_gets_the_page() -> None:
    """Often it is the home page that is probed."""
    assert b" 503 " in reply(request("/"), Words(5, probe="/"))
    assert b" 503 " in reply(request("/", accept="*/*"), Words(5))


def test_check_and_the_page_agree_on_how_big_one_may_be() -> None:
    assert host.PAGE_LIMIT_BYTES == sorry.PAGE_LIMIT_BYTES


# --- when it is shown -----------------------------------------------------------------------------------------------------------

PAGE = SorrySettings(after_s=3.0)
STORE = "store"


def ready_store(boot_s: float = 0.5, **more: object) -> Host:
    """A store that boots in `boot_s` and is ready."""
    host = Host(program(**({"sorry": PAGE} | more)))  # type: ignore[arg-type]
    host.now = boot_s
    host.start(1)
    host.now = 100.0
    return host


def crash(host: Host, number: int) -> None:
    host.take(Exited(InstanceId(STORE, number), 1, 0, "exit code 1"))


def shown_at(host: Host, until: float) -> float | None:
    """When the page is shown, if it is until then."""
    while host.wake is not None and host.wake <= until:
        if only(host.take(Woke(), host.wake), Apologize):
            return host.now
    return None


def test_customers_are_left_waiting_for_a_quick_restart_and_told_after_a_while_and_served_at_once() -> None:
    host = ready_store()
    crash(host, 1)
    host.wait_until(101.0)
    host.start(2)
    assert shown_at(host, 150.0) is None
    host.now = 200.0
    crash(host, 2)
    assert shown_at(host, 250.0) == 203.0
    host.start(3)
    assert only(host.done, StepAside) == [StepAside(STORE)]
    assert shown_at(host, 300.0) is None


@pytest.mark.parametrize(("boot_s", "after_s"), [(1.0, 3.0), (4.0, 8.0), (50.0, WORTH_WAITING_S)])
def test_a_program_that_boots_slowly_is_waited_for_longer_but_not_for_ever(boot_s: float, after_s: float) -> None:
    host = ready_store(boot_s)
    crash(host, 1)
    assert shown_at(host, 150.0) == 100.0 + after_s


def test_nobody_waits_for_a_crash_loop() -> None:
    host = ready_store(restart=RestartSettings(budget=1))
    crash(host, 1)
    crash(host, 2)
    assert host.of().crash_loop
    assert only(host.done, Apologize) == [Apologize(STORE)]


def test_a_suspect_is_nobody_who_serves_and_one_that_moves_again_is() -> None:
    host = ready_store(extra=0)
    host.look(1, Kind.SUSPECT, 1.1, Nature.BLOCKED)
    assert shown_at(host, 104.0) == 103.0
    host.look(1, Kind.HEALTHY, 0.0)
    assert only(host.done, StepAside) == [StepAside(STORE)]


def test_an_operators_stop_shows_it_until_the_start_and_one_that_never_ran_has_no_customers() -> None:
    host = ready_store()
    host.take(StopAsked(STORE))
    crash(host, 1)
    assert shown_at(host, 200.0) == 103.0
    host.take(StartAsked(STORE))
    host.start(2)
    assert only(host.done, StepAside) == [StepAside(STORE)]
    assert shown_at(Host(program(sorry=PAGE, manual=True)), 100.0) is None


def test_where_it_is_off_nobody_is_told_and_switching_it_off_ends_it() -> None:
    host = ready_store(sorry=SorrySettings())
    crash(host, 1)
    assert shown_at(host, 200.0) is None
    host = ready_store()
    crash(host, 1)
    assert shown_at(host, 150.0) == 103.0
    assert only(host.take(candidates(program(sorry=SorrySettings()))), StepAside) == [StepAside(STORE)]


def test_a_new_supervisor_shows_it_again_as_the_old_ones_answerer_ended_with_it() -> None:
    host = ready_store()
    crash(host, 1)
    assert shown_at(host, 150.0) == 103.0
    host.fleet = adopt(Fleet(), [(host.of(), host.now)], frozenset())
    host.take(candidates(program(sorry=PAGE)), at=110.0)
    assert only(host.done, Apologize) == [Apologize(STORE)]


def test_a_program_that_a_new_supervisors_configuration_does_not_name_shows_none() -> None:
    host = ready_store()
    crash(host, 1)
    host.fleet = adopt(Fleet(), [(host.of(), host.now)], frozenset())
    host.take(candidates(program("other")), at=110.0)
    assert only(host.done, Apologize) == []
    assert STORE not in host.fleet.programs


# --- beside a server ------------------------------------------------------------------------------------------------------------


def settings(**more: object) -> ProgramSettings:
    health = HealthSettings(http="/health")
    return replace(ProgramSettings(name=STORE, launch=LaunchSettings(command=("x",))), health=health, **more)  # type: ignore[arg-type]


def ask(port: int, head: bytes) -> bytes:
    """All that comes back; raises OSError for a refused or reset connection."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(head)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


class Answering:
    """An answerer at a socket of ours; `begun` waits for it."""

    def __init__(self, listener: socket.socket) -> None:
        self.seen: asyncio.Queue[Answerer | None] = asyncio.Queue()
        self.warned: list[str] = []
        sockets = (listener.fileno(),)
        self.all = Apologists(lambda _: sockets, lambda _, each: self.seen.put_nowait(each), self.warned.append)

    async def begun(self) -> Answerer:
        found = await asyncio.wait_for(self.seen.get(), 20)
        assert found is not None
        return found


async def gone(answerer: Answerer) -> None:
    """Until it is reaped: its pidfd is closed then, so another one is looked at."""
    try:
        pidfd = os.pidfd_open(answerer.pid)
    except ProcessLookupError:
        return  # reaped already
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 20)
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
    await asyncio.sleep(0)


@pytest.mark.parametrize("blocking", [True, False])
def test_no_connection_is_lost_between_the_answerer_and_a_server_whatever_the_sockets_flags(blocking: bool) -> None:
    """The answerer comes and goes while a server takes connections from the same socket: each customer is answered by one of them."""
    answers: list[bytes] = []

    def customers(port: int, over: threading.Event) -> None:
        while not over.is_set():
            try:
                answers.append(ask(port, request(accept="*/*"))[9:12])
            except OSError as problem:
                answers.append(repr(problem).encode())

    async def play(listener: socket.socket) -> None:
        answering = Answering(listener)
        for _ in range(6):
            answering.all.begin(settings())
            answerer = await answering.begun()
            count = len(answers)
            while len(answers) < count + 25:
                answerer.stand_aside()
                await asyncio.sleep(0.001)
            answering.all.end(STORE)
            assert await asyncio.wait_for(answering.seen.get(), 20) is None
            await gone(answerer)
        answering.all.close()
        assert answering.warned == []

    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener):
        listener.setblocking(blocking)
        over = threading.Event()
        threads = [threading.Thread(target=customers, args=(listener.getsockname()[1], over)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(play(listener))
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
        assert os.get_blocking(listener.fileno()) is blocking
    assert set(answers) == {b"200", b"503"}


@contextmanager
def serving(listener: socket.socket) -> Iterator[None]:
    """A server at the socket, in a thread, that looks twice a second whether it is over."""
    over = threading.Event()

    def serve() -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        own = listener.dup()  # the flags are shared, the time-out of Python's own is not
        while not over.is_set():
            if not poll.poll(20):
                continue
            own.settimeout(0.0) if not os.get_blocking(own.fileno()) else None
            try:
                client, _ = own.accept()
            except BlockingIOError:
                continue
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")
        own.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()
        thread.join(20)


def test_it_answers_at_the_first_socket_and_those_of_its_port_alone(tmp_path: Path) -> None:
    """The others may speak anything."""

    async def play(listeners: list[socket.socket]) -> None:
        seen: asyncio.Queue[Answerer | None] = asyncio.Queue()
        fds = tuple(listener.fileno() for listener in listeners)
        answerers = Apologists(lambda _: fds, lambda _, each: seen.put_nowait(each), print)
        answerers.begin(settings())
        answerer = await asyncio.wait_for(seen.get(), 20)
        assert answerer is not None
        for listener, answers in zip(listeners, (True, False, False), strict=True):
            with socket.socket(listener.family) as client:
                client.connect(listener.getsockname())
                client.sendall(request())
                client.settimeout(20)
                if answers:
                    assert await asyncio.to_thread(client.recv, 100)
        assert [bool(select.select([each], [], [], 0)[0]) for each in listeners] == [False, True, True]
        answerers.end(STORE)
        await gone(answerer)
        answerers.close()

    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "x.sock"))
        unix.listen()
        asyncio.run(play([first, other, unix]))


def test_one_that_dies_is_replaced_and_one_that_is_no_longer_wanted_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apologist, "AGAIN_S", 0.01)

    async def play(listener: socket.socket) -> list[int]:
        answering = Answering(listener)
        answering.all.begin(settings())
        first = await answering.begun()
        os.kill(first.pid, signal.SIGKILL)
        assert await asyncio.wait_for(answering.seen.get(), 20) is None
        second = await answering.begun()
        assert "has ended" in answering.warned[0]
        answering.all.end(STORE)
        await gone(second)
        answering.all.close()
        return [first.pid, second.pid]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        pids = asyncio.run(play(listener))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_the_answerer_takes_is_no_news_of_the_suspect() -> None:
    """Neither a question that it closes nor a customer whom it answers: nothing moves, and nothing new is missing."""

    async def story() -> None:
        async with shop() as it:
            it.open(FIRST, hang=HangSettings(suspect_s=0.4))
            await it.until(Answered)
            it.request("/spin")
            suspect = await it.verdict(Kind.SUSPECT)
            heard: list[Heard] = []
            it.watcher.record(FIRST, lambda fact: heard.append(fact) if isinstance(fact, Heard) else None)
            fds = (it.listener.fileno(),)
            answerers = Apologists(lambda _: fds, it.watcher.answers_in_place, print)
            answerers.begin(replace(settings(), name="shop"))
            async with asyncio.timeout(60):
                while len([fact for fact in heard if fact.other]) < 3:
                    it.request("/")
                    await asyncio.sleep(0.05)
            later = await it.until(Looked, lambda looked: looked.at > heard[-1].at)
            assert later.verdict.kind in (Kind.SUSPECT, Kind.STARVED)
            assert later.since is not None
            assert suspect.since is not None
            assert later.since <= suspect.since + 0.05 or it.starved(suspect.at)
            begun = next(n for n, fact in enumerate(heard) if fact.other)
            assert all(fact.other for fact in heard[begun:])
            answerers.close()

    asyncio.run(story())


# --- a whole supervisor ---------------------------------------------------------------------------------------------------------

SERVER = """
import os, pathlib, socket, sys, time
if not pathlib.Path('well').exists():
    sys.exit(1)
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    head = client.recv(1000)
    while b' /stuck ' in head and not pathlib.Path('freed').exists():
        time.sleep(0.01)
    client.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\nthestore')
    client.close()
"""


class Shop:
    """A store that is kept by a supervisor, and its customers."""

    def __init__(self, folder: Path, *, more: str = "", guarded: bool = False) -> None:
        self.folder, self.port = folder, free_port()
        self.programs = (
            f'[program.store]\ncommand = {python(SERVER)}\nsockets = ["127.0.0.1:{self.port}"]\ndirectory = "{folder}"\n'
            f'health.http = "/health"\nhealth.every = "200ms"\nsorry = {{ after = "300ms", retry = "7s" }}\n'
            f'restart.limit = "200ms"\nrelief.extra = 0\n{more}\n'
        )
        self.daemon = Supervised(folder, self.programs, guarded=guarded)
        self.answers: list[bytes] = []

    def heal(self) -> None:
        (self.folder / "well").touch()

    @contextmanager
    def customers(self) -> Iterator[None]:
        """Come one after the other; what each gets stands in `answers`."""
        over = threading.Event()

        def come() -> None:
            while not over.is_set():
                try:
                    answer = ask(self.port, request())
                except OSError as problem:
                    answer = repr(problem).encode()
                self.answers.append(answer)

        thread = threading.Thread(target=come)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)

    def wait_for_answer(self, kind: bytes) -> None:
        count = len(self.answers)
        self.daemon.wait_for(lambda: any(kind in answer for answer in self.answers[count:]))

    def all_were_answered(self) -> bool:
        """By the program with 200, or by the page with 503 and when to come again."""
        served = [answer for answer in self.answers if answer.startswith(b"HTTP/1.0 200 ") and answer.endswith(b"thestore")]
        told = [answer for answer in self.answers if answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 7\r\n" in answer]
        return len(served) + len(told) == len(self.answers)


def test_customers_of_a_crash_loop_read_the_page_until_the_first_instance_that_answers(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with shop.daemon as daemon:
        daemon.until("page.shown", subject="store")
        with shop.customers():
            shop.wait_for_answer(b" 503 ")
            assert ask(shop.port, request("/health", accept="*/*")) == b""
            shop.heal()
            daemon.until("instance.ready", subject="")
            daemon.until("page.hidden", subject="store")
            shop.wait_for_answer(b" 200 ")
            count = len(shop.answers)
            daemon.wait_for(lambda: len(shop.answers) > count + 20)
            assert all(b" 200 " in answer for answer in shop.answers[count + 1 :])
        assert shop.all_were_answered()
        assert shop.daemon.ask("stop", "store").returncode == 0
        daemon.until("page.shown", subject="store")
        assert b"Back in a moment" in ask(shop.port, request())
        (tmp_path / "closed.html").write_text("<p>Closed today.</p>")
        daemon.write(shop.programs.replace('"7s"', '"7s", page = "closed.html"'))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda: b"Closed today." in ask(shop.port, request()))


def test_the_page_goes_on_over_the_death_of_the_supervisor_and_nobody_is_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, guarded=True)
    with shop.daemon as daemon:
        daemon.until("page.shown", subject="store")
        with shop.customers():
            shop.wait_for_answer(b" 503 ")
            os.kill(daemon.daemon(), signal.SIGKILL)
            daemon.until("page.shown", subject="store")
            shop.wait_for_answer(b" 503 ")
            shop.heal()
            daemon.until("page.hidden", subject="store")
            shop.wait_for_answer(b" 200 ")
        assert shop.all_were_answered()


def test_a_suspect_whose_customers_are_told_is_not_blamed_for_it_and_serves_again_when_it_can(tmp_path: Path) -> None:
    """The answerer takes the questions that the suspect does not; what it finishes is no work of the suspect's."""
    shop = Shop(tmp_path)
    shop.heal()
    with shop.daemon as daemon:
        daemon.until("instance.ready", subject="store:1")
        with socket.create_connection(("127.0.0.1", shop.port), 20) as stuck:
            stuck.sendall(request("/stuck"))
            daemon.until("instance.suspected", subject="store:1")
            daemon.until("page.shown", subject="store")
            with shop.customers():
                shop.wait_for_answer(b" 503 ")
                daemon.wait_for(lambda: len(shop.answers) > 30)
                freed = datetime.now(UTC)
                (tmp_path / "freed").touch()
                assert datetime.fromisoformat(daemon.until("page.hidden", subject="store")["time"]) > freed, daemon.story()
                shop.wait_for_answer(b" 200 ")
            assert shop.all_were_answered()
            assert stuck.recv(100).endswith(b"thestore")
        assert not [line for line in daemon.seen if line["subject"] == "store:2" or line["event"] == "instance.killed"]


def test_a_hung_one_is_proven_hung_although_its_customers_are_taken(tmp_path: Path) -> None:
    shop = Shop(tmp_path, more='hang = { suspect = "300ms", certain = "600ms", blocked = "1s" }')
    shop.heal()
    with shop.daemon as daemon:
        daemon.until("instance.ready", subject="store:1")
        with socket.create_connection(("127.0.0.1", shop.port), 20) as stuck:
            stuck.sendall(request("/stuck"))
            daemon.until("page.shown", subject="store")
            with shop.customers():
                shop.wait_for_answer(b" 503 ")
                daemon.until("instance.killed", subject="store:1")
                daemon.until("page.hidden", subject="store")
                shop.wait_for_answer(b" 200 ")
            assert shop.all_were_answered()
