"""The benches' own tools: what they would measure wrongly, nobody else would notice."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench import idle
from bench.__main__ import main
from bench.ground import GroundError, free_port, get
from bench.load import Outcome, Request, ask, closed_loop, failed_count, load, longest_gap_s
from bench.report import Report
from bench.stamp import Stamped

LIMIT_S = 20.0  # for a loaded machine; nothing waits for it in peace


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server on loopback that answers every request with `answer`, or, for None, keeps silent."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await ended.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ended.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhello", Outcome.OK),
        (b"HTTP/1.0 303 See Other\r\n\r\n", Outcome.OK),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Outcome.ERROR),
        (b"", Outcome.RESET),
        (b"garbage that is no HTTP", Outcome.RESET),
        (None, Outcome.TIMEOUT),
    ],
)
def test_ask_names_the_outcome(answer: bytes | None, outcome: Outcome) -> None:
    async def story() -> Request:
        async with answering(answer) as port:
            return await ask(port, "/", patience_s=LIMIT_S if answer is not None else 0.05)

    assert asyncio.run(story()).outcome is outcome


def test_ask_of_a_port_without_listener_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port meanwhile
        assert asyncio.run(ask(bound.getsockname()[1], "/")).outcome is Outcome.REFUSED


def test_load_is_open_loop_and_goes_on_while_nobody_answers() -> None:
    """The server answers nobody before the last customer has come: a load that waited for an answer would never get one."""
    count = 40

    async def story() -> list[Request]:
        waiting: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            waiting.append(writer)
            if len(waiting) == count:
                for customer in waiting:
                    customer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    customer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await load(server.sockets[0].getsockname()[1], "/", rate=400, seconds=count / 400, patience_s=LIMIT_S)

    requests = asyncio.run(story())
    assert len(requests) == count
    assert failed_count(requests) == 0


def test_load_refuses_to_be_a_flood() -> None:
    with pytest.raises(ValueError, match="more than"):
        asyncio.run(load(1, "/", rate=1e6, seconds=60))


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n\r\nok", b"HTTP/1.0 503 Service Unavailable\r\n\r\n"])
def test_closed_loop_counts_what_the_server_answered_and_accepts_no_error(answer: bytes) -> None:
    served = 0

    async def story() -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            await reader.readuntil(b"\r\n\r\n")
            served += 1
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(closed_loop, port, "/", clients=2, seconds=0.1)

    if b"200" in answer:
        assert asyncio.run(story()) == served > 2
    else:
        with pytest.raises(GroundError, match="503"):
            asyncio.run(story())


def test_longest_gap_counts_the_edges_and_successes_alone() -> None:
    requests = [Request(0, end, Outcome.OK) for end in (1.0, 2.0, 5.0)] + [Request(0, 3.0, Outcome.RESET)]
    assert longest_gap_s(requests, 0.0, 6.0) == 3.0
    assert longest_gap_s(requests, 0.0, 10.0) == 5.0
    assert longest_gap_s([], 0.0, 10.0) == 10.0


def test_report_with_a_missed_budget_says_so_in_both_forms() -> None:
    report = Report("sample")
    report.add("reviver", "pause", 1.4, "ms", most=1.5)
    report.add("reviver", "kills", 1, "", most=0)
    report.skip("node", "it is not on this machine")
    assert not report.kept
    assert "it is not on this machine" in report.as_table()
    assert "MISSED" in report.as_table()
    answer = json.loads(report.as_json())
    assert answer["kept"] is False
    assert [figure["kept"] for figure in answer["figures"]] == [True, False, True]


def test_bench_without_a_name_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in ("restart", "hang", "false-kills", "idle", "status"):
        assert name in listed


def test_bench_with_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])
    assert ended.value.code == 2


def test_stamp_notes_its_first_and_last_instant(tmp_path: Path) -> None:
    stamped = Stamped(tmp_path, "x")
    before_ns = time.monotonic_ns()
    child = subprocess.Popen(stamped.command)
    stamped.await_notes(1, LIMIT_S)
    released_ns = time.monotonic_ns()
    stamped.end()
    assert child.wait(LIMIT_S) == 1
    stamped.close()
    first_ns, last_ns = stamped.instants_ns()
    assert before_ns < first_ns < released_ns < last_ns < time.monotonic_ns()


def test_ground_ends_even_what_double_forked_away() -> None:
    daemon = "import os, time\nif os.fork() == 0:\n os.setsid()\n print(os.getpid(), flush=True)\n time.sleep(1000)"
    code = (
        "import subprocess, sys\nfrom bench.ground import ground\n"
        f"with ground():\n parent = subprocess.Popen([sys.executable, '-c', {daemon!r}], stdout=subprocess.PIPE)\n"
        " print(int(parent.stdout.readline()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_get_of_nobody_is_0() -> None:
    assert get(free_port(), "/") == 0


def test_cpu_s_counts_work_and_not_sleep() -> None:
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ntime.sleep(1000)"
    worker = subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert idle.cpu_s(worker.pid) >= 0.2
        assert idle.rss_mib(worker.pid) > 1
    finally:
        worker.kill()
        worker.communicate()
