"""Probes against real servers on loopback, and attribution of real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor.mechanism import probes, tree
from supervisor.mechanism.probes import (
    Address,
    CommandTarget,
    HttpTarget,
    Outcome,
    TcpTarget,
    address_of,
    ask,
    ask_command,
    ask_http,
    ask_tcp,
    attribute,
    targets,
)
from supervisor.model import HealthSettings, InstanceId, LaunchSettings, ProgramSettings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
SOON_S = 0.15  # a timeout that a test has to sit through
LONG_S = 20.0  # a timeout that no test may reach

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def serving(serve: Serve, path: str = "", **options: Any) -> AsyncIterator[Any]:
    """A server on a port of its own, or at a path; in the end what it serves is brought to its end."""
    tasks: list[asyncio.Task[None]] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(serve(reader, writer)))

    start = asyncio.start_unix_server(connected, path) if path else asyncio.start_server(connected, "127.0.0.1", 0, **options)
    async with await start as server:
        yield server.sockets[0].getsockname()
    async with asyncio.timeout(LONG_S):
        await asyncio.gather(*tasks)


async def answer(target: HttpTarget | TcpTarget, serve: Serve, **options: Any) -> Outcome:
    """Ask a server, once."""
    async with serving(serve) as address:
        return await ask(dataclasses.replace(target, address=address), **({"timeout_s": LONG_S} | options))


def replies(data: bytes, requests: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(data)
        await writer.drain()
        writer.close()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads until the end, which a reset would make a ConnectionError, and never says a word."""
    await reader.read()
    writer.close()


HEALTH = HttpTarget(("", 0), "shop", "/health?key=secret")


def test_http_200_is_an_answer_to_a_plain_request() -> None:
    requests: list[bytes] = []
    outcome = asyncio.run(answer(HEALTH, replies(OK, requests)))
    assert (outcome.answered, outcome.spoke, outcome.other) == (True, True, False)
    assert outcome.text.startswith("GET /health answered 200 in ")
    assert 0 < outcome.took_s < LONG_S
    assert outcome.at <= time.monotonic()
    line, *headers = requests[0].decode().split("\r\n")
    assert line == "GET /health?key=secret HTTP/1.1"
    assert {"host: shop", "connection: close", "user-agent: reviver/0.1"} <= {header.lower() for header in headers}


@pytest.mark.parametrize(("status", "answered"), [(204, True), (302, True), (399, True), (400, False), (404, False), (503, False)])
def test_http_statuses_from_200_to_399_are_answers_and_all_show_that_it_moves(status: int, answered: bool) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 %d Any\r\nContent-Length: 0\r\n\r\n" % status
    outcome = asyncio.run(answer(HEALTH, replies(data)))
    assert (outcome.answered, outcome.spoke) == (answered, True)
    assert f"answered {status} in" in outcome.text


@pytest.mark.parametrize(
    ("data", "spoke", "text"),
    [
        (b"", False, "GET /health: closed without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", True, "GET /health: no http answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * probes.HEADERS_LIMIT_BYTES, True, "GET /health: no http answer"),
    ],
)
def test_http_what_is_no_answer_is_said(data: bytes, spoke: bool, text: str) -> None:
    outcome = asyncio.run(answer(HEALTH, replies(data)))
    assert (outcome.answered, outcome.spoke, outcome.text) == (False, spoke, text)


def test_http_interim_answers_without_end_do_not_hold_the_loop() -> None:
    """A hostile server that always has more to say: the question must end by what was read, as the loop's timer may never come."""
    endless = b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000

    def flood(listener: socket.socket) -> None:
        with listener.accept()[0] as client, suppress(OSError):
            client.sendall(endless)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        flooding = threading.Thread(target=flood, args=(listener,), daemon=True)
        flooding.start()
        outcome = asyncio.run(ask_http(dataclasses.replace(HEALTH, address=listener.getsockname()), timeout_s=LONG_S))
        flooding.join(LONG_S)
    assert (outcome.answered, outcome.text) == (False, "GET /health: no http answer")


def test_http_what_we_cannot_even_send_is_unknown() -> None:
    outcome = asyncio.run(answer(HttpTarget(("", 0), "shop\nX: y", "/"), silent))
    assert (outcome.answered, outcome.text.startswith("GET /: cannot be asked: ")) == (None, True)


def test_http_silence_ends_at_the_timeout() -> None:
    outcome = asyncio.run(answer(HEALTH, silent, timeout_s=SOON_S))
    assert (outcome.answered, outcome.spoke) == (False, False)
    assert outcome.text.startswith("GET /health: no answer for ")
    assert outcome.took_s >= SOON_S


def test_http_a_dripping_answer_is_none_but_shows_that_it_moves() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200")
        await silent(reader, writer)

    outcome = asyncio.run(answer(HEALTH, drip, timeout_s=SOON_S))
    assert (outcome.answered, outcome.spoke) == (False, True)
    assert "no whole answer for" in outcome.text


def test_http_the_body_is_read_so_that_the_server_sees_no_reset() -> None:
    """The server learns by end of file that we are done; a reset would be a ConnectionError."""
    ends: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 5000)
            await writer.drain()
            await asyncio.sleep(0)
        ends.append(await reader.read())
        writer.close()

    assert asyncio.run(answer(HEALTH, serve)).answered
    assert ends == [b""]


def test_http_an_endless_body_is_left() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 5000)
                await writer.drain()
        except ConnectionError:
            writer.close()

    assert asyncio.run(answer(HEALTH, endless)).answered


def test_http_a_refused_connection_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    outcome = asyncio.run(ask_http(HttpTarget(address, "x", "/"), timeout_s=LONG_S))
    assert (outcome.answered, outcome.text) == (False, "GET /: connection refused")


def test_http_on_unix_sockets_by_path_and_abstract(tmp_path: Path) -> None:
    async def both() -> list[Outcome]:
        found = []
        for address in (str(tmp_path / "s"), f"@reviver-test-{uuid.uuid4().hex}"):
            async with serving(replies(OK), address.replace("@", "\0")):
                found.append(await ask_http(HttpTarget(address, "localhost", "/health"), timeout_s=LONG_S))
        return found

    assert [outcome.answered for outcome in asyncio.run(both())] == [True, True]


def test_a_server_on_a_unix_socket_cannot_send_descriptors_along(tmp_path: Path) -> None:
    """The kernel would close them on our loop, for as long as the server likes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "http"))
        listener.listen()

        async def probe_and_send() -> None:
            asking = asyncio.create_task(ask_http(dataclasses.replace(HEALTH, address=str(tmp_path / "http")), timeout_s=LONG_S))
            client, _ = await asyncio.to_thread(listener.accept)
            with client:
                if _refuses_descriptors():
                    with pytest.raises(PermissionError):
                        socket.send_fds(client, [OK], [client.fileno()])
                client.sendall(OK)
                assert (await asking).answered

        asyncio.run(probe_and_send())


def _refuses_descriptors() -> bool:
    """Whether this kernel can (>= 6.16)."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            return sock.getsockopt(socket.SOL_SOCKET, 83) == 1
        except OSError:
            return False


def test_unix_socket_that_is_missing_or_full_is_no_answer(tmp_path: Path) -> None:
    """A full queue refuses at once with EAGAIN: that is the server's silence, and not a fault of ours."""
    path = str(tmp_path / "s")
    missing = asyncio.run(ask_tcp(TcpTarget(path), timeout_s=SOON_S))
    assert (missing.answered, missing.text) == (False, f"tcp unix:{path}: no such file or directory")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            full = asyncio.run(ask_tcp(TcpTarget(path), timeout_s=SOON_S))
    assert (full.answered, full.took_s >= SOON_S) == (False, True)


# --- who accepted ---------------------------------------------------------------------------------------------------------------


def test_whose_is_asked_until_our_instance_accepted_and_only_then_the_request_goes() -> None:
    requests: list[bytes] = []
    asked: list[tuple[Address, Address, int]] = []

    def whose(local: tuple[str, int], peer: tuple[str, int]) -> bool | None:
        asked.append((local, peer, len(requests)))
        return True if len(asked) == 3 else None

    outcome = asyncio.run(answer(HEALTH, replies(OK, requests), whose=whose))
    assert outcome.answered
    assert [sent for _, _, sent in asked] == [0, 0, 0]
    local, peer, _ = asked[0]
    assert (local[0], peer[0]) == ("127.0.0.1", "127.0.0.1")
    assert local != peer


def test_whose_another_instance_accepted_is_unknown_and_nothing_was_sent() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    outcome = asyncio.run(answer(HEALTH, serve, whose=lambda local, peer: False))
    assert (outcome.answered, outcome.other) == (None, True)
    assert outcome.text == "GET /health: another instance accepted"
    assert heard in ([], [b""])


def test_whose_nobody_accepted_is_no_answer() -> None:
    outcome = asyncio.run(answer(TcpTarget(("", 0)), silent, whose=lambda local, peer: None, timeout_s=SOON_S))
    assert (outcome.answered, outcome.other) == (False, False)


def test_tcp_connects_or_says_why_not() -> None:
    outcome = asyncio.run(answer(TcpTarget(("", 0)), silent))
    assert outcome.answered
    assert outcome.text.startswith("tcp 127.0.0.1:")
    accepted = asyncio.run(answer(TcpTarget(("", 0)), silent, whose=lambda local, peer: True))
    assert " accepted in " in accepted.text


# --- our own faults -------------------------------------------------------------------------------------------------------------


def test_our_own_lack_of_descriptors_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def question() -> Outcome:
        monkeypatch.setattr(socket, "socket", refuse)
        return await ask_tcp(TcpTarget(("127.0.0.1", 1)), timeout_s=LONG_S)

    outcome = asyncio.run(question())
    assert (outcome.answered, outcome.text) == (None, "tcp 127.0.0.1:1: cannot be asked: too many open files")


def test_a_timeout_while_our_own_loop_was_stuck_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LATE_S", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hold_up()
        await silent(reader, writer)

    def hold_up() -> None:
        time.sleep(SOON_S + 0.1)

    outcome = asyncio.run(answer(HEALTH, serve, timeout_s=SOON_S))
    assert outcome.answered is None
    assert "late ourselves" in outcome.text


def test_a_name_is_looked_up_off_the_loop_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def look_up(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        asked.append((host, threading.current_thread() is threading.main_thread()))
        if len(asked) > 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(probes, "_names", {})

    async def question(host: str) -> Outcome:
        async with serving(replies(OK)) as (_, port):
            return await ask_http(HttpTarget((host, port), host, "/"), timeout_s=LONG_S)

    assert asyncio.run(question("localhost")).answered
    assert asked == []
    assert asyncio.run(question("shop.test")).answered
    assert asyncio.run(question("shop.test")).answered
    assert asked == [("shop.test", False)]
    monkeypatch.setattr(probes, "NAMES_KEPT_S", 0.0)
    assert asyncio.run(question("shop.test")).answered, "an old answer serves while the lookup fails"
    unknown = asyncio.run(question("other.test"))
    assert (unknown.answered, "the name other.test cannot be looked up" in unknown.text) == (None, True)


def test_a_cancelled_question_leaves_nothing_open() -> None:
    async def question() -> None:
        async with serving(silent) as address:
            asking = [
                asyncio.create_task(ask_http(HttpTarget(address, "x", "/"), timeout_s=LONG_S)),
                asyncio.create_task(ask_tcp(TcpTarget(address), timeout_s=LONG_S, whose=lambda local, peer: None)),
            ]
            await asyncio.sleep(0.02)
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)

    before = descriptors()
    asyncio.run(question())
    assert descriptors() == before


# --- targets --------------------------------------------------------------------------------------------------------------------


def program(**health: Any) -> ProgramSettings:
    launch = LaunchSettings(command=("x",), env=(("A", "b"),), user="nobody")
    return ProgramSettings(name="store", launch=launch, health=HealthSettings(**health))


@pytest.mark.parametrize(
    ("health", "held", "expected"),
    [
        ({}, [], ()),
        ({"http": "/h?x=1"}, [("127.0.0.1", 8000)], (HttpTarget(("127.0.0.1", 8000), "localhost:8000", "/h?x=1"),)),
        ({"http": "/h"}, [("::1", 80)], (HttpTarget(("::1", 80), "localhost:80", "/h"),)),
        ({"http": "/h"}, [("fd00::1", 80)], (HttpTarget(("fd00::1", 80), "[fd00::1]:80", "/h"),)),
        ({"http": "/h"}, ["/run/s"], (HttpTarget("/run/s", "localhost", "/h"),)),
        ({"http": "http://shop.test"}, [], (HttpTarget(("shop.test", 80), "shop.test", "/"),)),
        ({"http": "http://[::]:81/a?b#c"}, [], (HttpTarget(("::1", 81), "[::]:81", "/a?b"),)),
        ({"http": "/käse?q=ä%20b"}, ["/s"], (HttpTarget("/s", "localhost", "/k%C3%A4se?q=%C3%A4%20b"),)),
        ({"http": "http://käse.test:81/ä"}, [], (HttpTarget(("käse.test", 81), "xn--kse-qla.test:81", "/%C3%A4"),)),
        ({"tcp": "0.0.0.0:8000"}, [], (TcpTarget(("127.0.0.1", 8000)),)),
        ({"tcp": "[::1]:1"}, [], (TcpTarget(("::1", 1)),)),
        ({"command": ("check",)}, [], (CommandTarget(("check",), "/srv", (("A", "b"),), "nobody"),)),
    ],
)
def test_targets_of_settings(health: dict[str, Any], held: list[Address], expected: tuple[Any, ...]) -> None:
    assert targets(program(**health), held, "/srv") == expected


@pytest.mark.parametrize("health", [{"http": "/h"}, {"http": "ftp://x/"}, {"http": "shop"}, {"tcp": "8000"}, {"tcp": "host:http"}])
def test_targets_of_what_cannot_be_asked_raises(health: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"http|address"):
        targets(program(**health), [], "/")


@pytest.mark.parametrize(
    ("family", "bound", "host"),
    [(socket.AF_INET, "0.0.0.0", "127.0.0.1"), (socket.AF_INET6, "::", "::1"), (socket.AF_INET6, "::1", "::1")],
)
def test_address_of_a_held_socket_can_be_reached(family: int, bound: str, host: str) -> None:
    with socket.socket(family) as sock:
        sock.bind((bound, 0))
        assert address_of(sock.fileno()) == (host, sock.getsockname()[1])


def test_address_of_unix_sockets(tmp_path: Path) -> None:
    for address in (str(tmp_path / "s"), f"@reviver-test-{uuid.uuid4().hex}"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(address.replace("@", "\0"))
            assert address_of(sock.fileno()) == address


# --- commands -------------------------------------------------------------------------------------------------------------------


def shell(script: str, *arguments: str, **options: Any) -> CommandTarget:
    return CommandTarget(("/bin/sh", "-c", script, "sh", *arguments), "/", **options)


@pytest.fixture
def no_children() -> Iterator[None]:
    """Fails when a test leaves a child of ours behind, or a descriptor."""
    before = descriptors()
    yield
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert descriptors() == before


async def settled() -> None:
    """Until every command that was asked for is started, and every one that was killed is reaped."""
    await probes._spawn_lane.run(bool, deadline_s=LONG_S)
    for _ in range(10_000):
        if not probes._dying:
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"still dying: {probes._dying}")


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(
    ("script", "answered", "text"),
    [
        ("exit 0", True, "command sh ended (exit code 0) in "),
        ("echo one; printf 'bad\\033[31m \\n\\n'; exit 3", False, 'command sh ended (exit code 3, "bad?[31m") in '),
        ("kill -40 $$", False, "command sh ended (killed by signal 40) in "),
        ("kill -SEGV $$", False, "command sh ended (killed by SIGSEGV"),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end >&2", True, 'command sh ended (exit code 0, "end") in '),
    ],
)
def test_command_exit_0_is_an_answer(script: str, answered: bool, text: str) -> None:
    outcome = asyncio.run(ask_command(shell(script), timeout_s=LONG_S))
    assert (outcome.answered, outcome.spoke) == (answered, False)
    assert outcome.text.startswith(text)


@pytest.mark.usefixtures("no_children")
def test_command_runs_as_the_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/not/for/probes")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("OURS", "1")
    target = CommandTarget(
        ("/bin/sh", "-c", 'echo "$PWD $(umask) $OURS$THEIRS<$NOTIFY_SOCKET$WATCHDOG_USEC> $(id -u):$(id -g) $USER"'),
        "/usr",
        env=(("THEIRS", "2"),),
        user="65534" if os.getuid() == 0 else "",
        umask=0o027,
    )
    outcome = asyncio.run(ask_command(target, timeout_s=LONG_S))
    identity = "65534:65534 nobody" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()} {os.environ.get('USER', '')}"
    assert f'"/usr 0027 12<> {identity}") in' in outcome.text


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(
    "change",
    [{"command": ("/no/such",)}, {"directory": "/no/such"}, {"user": "no-such"}, {"group": "no-such"}, {"command": ("sh", "\0")}],
)
def test_command_that_cannot_be_run_is_unknown(change: dict[str, Any]) -> None:
    target = CommandTarget(**({"command": ("/bin/true",), "directory": "/"} | change))
    outcome = asyncio.run(ask_command(target, timeout_s=LONG_S))
    assert outcome.answered is None
    assert ": cannot be run: " in outcome.text


def gone(reader: int) -> bool:
    """Whether all who held the pipe's other end have ended, soon."""
    return bool(select.select([reader], [], [], LONG_S)[0]) and os.read(reader, 1) == b""


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(("last", "answered"), [("wait", False), ("exit 0", True)])
def test_command_takes_its_children_with_it_at_the_timeout_and_at_its_end(tmp_path: Path, last: str, answered: bool) -> None:
    """A child that ignores TERM holds a fifo open until it is killed."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    target = shell(f'(trap "" TERM HUP; exec sleep 600) 3>"$1" & exec 4>"$1"; {last}', fifo)

    async def question() -> Outcome:
        outcome = await ask_command(target, timeout_s=SOON_S if last == "wait" else LONG_S)
        await settled()
        return outcome

    try:
        outcome = asyncio.run(question())
        assert outcome.answered is answered
        assert gone(reader)
    finally:
        os.close(reader)


@pytest.mark.usefixtures("no_children")
def test_command_of_a_question_that_is_cancelled_is_killed(tmp_path: Path) -> None:
    """While it is being started, and while it runs: the second is started after the first, and says so."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    target = shell('echo >"$1"; exec sleep 600', fifo)

    async def question() -> None:
        starting = asyncio.create_task(ask_command(shell("sleep 600"), timeout_s=LONG_S))
        running = asyncio.create_task(ask_command(target, timeout_s=LONG_S))
        await asyncio.sleep(0)
        starting.cancel()
        said = asyncio.Event()
        asyncio.get_running_loop().add_reader(reader, said.set)
        await said.wait()
        running.cancel()
        await asyncio.wait([starting, running])
        await settled()

    try:
        asyncio.run(question())
    finally:
        os.close(reader)


@pytest.mark.usefixtures("no_children")
def test_command_is_not_run_again_while_one_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in uninterruptible sleep: here the kill is held back. Two at a time are no trouble: two instances are asked the same."""
    target = shell("sleep 600")
    kill = probes._kill_group

    async def question() -> list[Outcome]:
        monkeypatch.setattr(probes, "_kill_group", lambda pid: None)
        both = await asyncio.gather(ask_command(target, timeout_s=SOON_S), ask_command(target, timeout_s=SOON_S))
        again = await ask_command(target, timeout_s=SOON_S)
        monkeypatch.setattr(probes, "_kill_group", kill)
        for command in list(probes._dying):
            command.kill()
        await settled()
        last = await ask_command(target, timeout_s=SOON_S)
        await settled()
        return [*both, again, last]

    first, second, third, last = asyncio.run(question())
    assert [outcome.answered for outcome in (first, second, last)] == [False, False, False]
    assert (third.answered, third.text) == (None, "command sh: the one before cannot be killed")


@pytest.mark.usefixtures("no_children")
def test_command_whose_start_hangs_is_unknown_and_ended_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    release, ended = threading.Event(), threading.Event()
    start, discard = probes._start, probes._discard

    def slow(target: CommandTarget) -> Any:
        release.wait()
        return start(target)

    def discarded(started: Any) -> None:
        discard(started)
        ended.set()

    monkeypatch.setattr(probes, "_start", slow)
    monkeypatch.setattr(probes, "_discard", discarded)
    outcome = asyncio.run(ask_command(shell("sleep 600"), timeout_s=SOON_S))
    assert outcome.answered is None
    assert "not done within" in outcome.text
    release.set()
    assert ended.wait(LONG_S)


# --- attribution ----------------------------------------------------------------------------------------------------------------

STORE, CART = InstanceId("store", 7), InstanceId("cart", 2)


@contextmanager
def process(script: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A shell in a session of its own that prints pids on its first line; its whole session is ended afterwards."""
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, **options) as child:
        assert child.stdout is not None
        try:
            yield child, [int(word) for word in child.stdout.readline().split()]
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_attribute_by_descent_and_session() -> None:
    """The leader, its child, and an orphan whose parent has gone but which stayed in the session."""
    script = "sleep 600 & one=$!; orphan=$(sh -c 'sleep 600 >/dev/null & echo $!'); echo $one $orphan; wait"
    with process(script) as (leader, (child, orphan)), process("echo $$; exec sleep 600") as (stranger, _):
        leaders = {leader.pid: STORE, stranger.pid: CART}
        assert [attribute(pid, leaders) for pid in (leader.pid, child, orphan, stranger.pid)] == [STORE, STORE, STORE, CART]
        assert attribute(os.getpid(), leaders) is None
        assert attribute(child, {}) is None


def test_attribute_of_a_daemon_by_its_environment_counts_only_for_the_same_user() -> None:
    with process("echo $$; exec sleep 600") as (leader, _):
        claim = os.environ | {"REVIVER_INSTANCE": "store:7", "REVIVER_PID": str(leader.pid)}
        with process("echo $$; exec sleep 600", env=claim) as (daemon, _):
            assert attribute(daemon.pid, {leader.pid: STORE}) == STORE
            assert attribute(daemon.pid, {leader.pid: InstanceId("store", 8)}) is None
            assert attribute(daemon.pid, {leader.pid: STORE, daemon.pid: CART}) == CART, "descent is stronger than a claim"
        with process("echo $$; exec sleep 600", env=claim | {"REVIVER_PID": "1"}) as (other, _):
            assert attribute(other.pid, {leader.pid: STORE}) is None, "the same id of another supervisor"
        if os.getuid() == 0:
            with process("echo $$; exec sleep 600", env=claim, user=65534, group=65534) as (liar, _):
                assert attribute(liar.pid, {leader.pid: STORE}) is None


@pytest.mark.skipif(os.getuid() != 0, reason="another user's process needs root")
def test_attribute_does_not_read_a_strangers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be gigabytes, or wait for its owner's own file system: any user of the host may send us a message."""
    monkeypatch.setattr(tree, "environ", lambda pid: pytest.fail(f"read the environment of {pid}"))
    with process("echo $$; exec sleep 600") as (leader, _), process("echo $$; exec sleep 600", user=65534) as (stranger, _):
        assert attribute(stranger.pid, {leader.pid: STORE}) is None


def test_attribute_of_a_process_that_is_gone_is_nobodys() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert attribute(child.pid, {os.getpid(): STORE}) is None
