"""Evidence is taken from real processes, kept for its owner alone, bounded, and harms nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from supervisor.mechanism import deaths, dump_jvm, dump_kernel, dump_native, dump_python, dumping, evidence, origin
from supervisor.mechanism.dump_python import Python
from supervisor.mechanism.evidence import LAST_TAKERS, Subject, Taken
from supervisor.mechanism.redaction import hide, request_line
from supervisor.model import InstanceId, Nature
from supervisor.policy.cause import Frame

STORE = InstanceId("store", 7)
LOOP = "def total():\n    cents = 0\n    while True:\n        cents = cents\n\nprint(flush=True)\ntotal()\n"
LIMIT_S = 20.0  # for a loaded machine; nothing waits for it in peace


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments close to each other: what is looked at here never changes. And all the time that a loaded machine needs."""
    monkeypatch.setattr(evidence, "MOMENT_S", 0.01)
    monkeypatch.setattr(evidence, "LIMIT_S", LIMIT_S)
    monkeypatch.setattr(dump_python, "LIMIT_S", LIMIT_S)


@contextmanager
def running(folder: Path, code: str, *command: str, name: str = "shop.py") -> Iterator[int]:
    """A program in a folder of its own, whose first line of output says that it does what it does; ended afterwards."""
    file = folder / name
    file.write_text(code)
    os.utime(file, (0, 0))  # long before the process starts: it runs what stands there
    with subprocess.Popen([*(command or (sys.executable,)), str(file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


def subject(pid: int, directory: Path, output: bytes = b"") -> Subject:
    return Subject(STORE, pid, ("python", "shop.py"), (str(directory),), "", lambda: output)


def take(pid: int, folder: Path) -> Taken:
    return evidence.take(subject(pid, folder), str(folder))


def kept(folder: Path) -> dict[str, object]:
    (file,) = (folder / "evidence").iterdir()
    body = json.loads(file.read_text())
    assert isinstance(body, dict)
    return body


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- what a process does ----------------------------------------------------------------------------------------------------------


def test_take_of_an_endless_loop_names_its_function_and_keeps_a_private_file(tmp_path: Path) -> None:
    with running(tmp_path, LOOP) as pid:
        taken = evidence.take(subject(pid, tmp_path, b"token=abc\n"), str(tmp_path))
    assert taken.cause is not None
    assert taken.cause.key == "python:spinning:shop.py:total"
    assert set(taken.cause.lines) <= {3, 4}
    assert taken.summary.startswith("loops in shop.py:")
    (file,) = (tmp_path / "evidence").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    body = json.loads(file.read_text())
    assert body["instance"] == "store:7"
    assert body["last_output"] == ["token=<redacted>"]
    assert {line["text"].strip() for line in body["lines"]} <= {"while True:", "cents = cents"}


def test_take_of_a_loop_names_it_and_not_the_function_that_it_calls_all_the_time(tmp_path: Path) -> None:
    code = (
        "from decimal import Decimal\n"
        "def share(amount):\n    return (amount * Decimal('0.9')).quantize(Decimal('0.01'))\n"
        "def total():\n    amount = Decimal(100)\n    while amount >= 0:\n        amount = share(amount)\n"
        "print(flush=True)\ntotal()\n"
    )
    with running(tmp_path, code) as pid:
        keys = {taken.cause.key for _ in range(3) if (taken := take(pid, tmp_path)).cause is not None}
    assert keys == {"python:spinning:shop.py:total"}


def test_take_of_threads_that_wait_for_a_peer_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        peer = f"127.0.0.1:{database.getsockname()[1]}"
        code = (
            "import socket, sys, threading\n"
            "def query(limit_s):\n"
            f"    connection = socket.create_connection({database.getsockname()!r})\n"
            "    connection.settimeout(limit_s)\n"
            "    connection.recv(1)\n"
            "for limit_s in (None, 60):\n"
            "    threading.Thread(target=query, args=(limit_s,)).start()\n"
            "print(flush=True)\n"
        )
        with running(tmp_path, code) as pid:
            await_true(lambda: len(settled_on_sockets(pid)) == 2)
            taken = take(pid, tmp_path)
    assert taken.cause is not None
    assert taken.cause.outside == peer
    assert taken.summary == f"2 threads wait in shop.py:5 query() for {peer}"


def settled_on_sockets(pid: int) -> list[str]:
    """The peers for which threads of the process sleep."""
    known = dump_kernel.sockets(pid)
    return [peer for thread in dump_kernel.threads([pid]) if thread.state == "S" for peer in dump_kernel.awaited(thread, known)]


def test_an_event_loop_waits_only_for_whom_it_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as idle, socket.create_server(("127.0.0.1", 0)) as asked:
        code = (
            "import asyncio\n"
            "async def main():\n"
            f"    await asyncio.open_connection(*{idle.getsockname()!r})\n"
            f"    reader, writer = await asyncio.open_connection(*{asked.getsockname()!r})\n"
            "    writer.write(b'?')\n"
            "    print(flush=True)\n"
            "    await reader.read(1)\n"
            "asyncio.run(main())\n"
        )
        with running(tmp_path, code) as pid:
            connection, _ = idle.accept()
            connection.sendall(b"!")  # it said something last: nobody waits for it
            with connection:
                await_true(lambda: len(settled_on_sockets(pid)) == 1)
                assert settled_on_sockets(pid) == [f"127.0.0.1:{asked.getsockname()[1]}"]


def test_take_of_a_deadlock_says_that_threads_wait_for_a_lock(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "locks = threading.Lock(), threading.Lock()\n"
        "both = threading.Barrier(2, action=lambda: print(flush=True))\n"
        "def transfer(first, second):\n"
        "    with first:\n"
        "        both.wait()\n"
        "        with second:\n"
        "            pass\n"
        "for pair in (locks, locks[::-1]):\n"
        "    threading.Thread(target=transfer, args=pair).start()\n"
    )
    with running(tmp_path, code) as pid:
        await_true(lambda: [thread.locked for thread in dump_kernel.threads([pid])] == [True] * 3)
        taken = take(pid, tmp_path)
    assert taken.cause is not None
    assert taken.cause.nature is Nature.LOCKED
    assert taken.summary == "2 threads wait for a lock in shop.py:7 transfer()"


def test_take_of_a_tree_looks_at_the_process_that_runs(tmp_path: Path) -> None:
    code = (
        "import os, time\ndef total():\n    while True: pass\n"
        "if os.fork():\n    print(flush=True)\n    time.sleep(60)\nelse:\n    total()\n"
    )
    with running(tmp_path, code) as pid:
        (worker,) = children_of(pid)
        try:
            taken = take(pid, tmp_path)
        finally:
            os.kill(worker, signal.SIGKILL)
    assert taken.cause is not None
    assert taken.cause.key == "python:spinning:shop.py:total"


def test_take_of_two_that_run_looks_at_the_one_that_owes_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LATE_S", 0.0)
    code = (
        "import os, socket, sys, time\n"
        "def report():\n    while True: pass\n"
        "def total():\n    while True: pass\n"
        "door = socket.create_server(('127.0.0.1', 0))\n"
        "if not os.fork():\n    report()\n"
        "if not os.fork():\n    customer, _ = door.accept()\n    customer.recv(9)\n    os.write(1, b'now\\n')\n    total()\n"
        "os.write(1, b'%d\\n' % door.getsockname()[1])\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "shop.py").write_text(code)
    with subprocess.Popen([sys.executable, str(tmp_path / "shop.py")], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with socket.create_connection(("127.0.0.1", int(child.stdout.readline()))) as customer:
            customer.sendall(b"hello")
            child.stdout.readline()
            workers = children_of(child.pid)
            try:
                taken = take(child.pid, tmp_path)
            finally:
                for pid in (*workers, child.pid):
                    os.kill(pid, signal.SIGKILL)
    assert taken.cause is not None
    assert taken.cause.function == "total"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    "local",
    [
        "environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/checkout', 'QUERY_STRING': 'coupon=LOOP&card=4111'}",
        "scope = {'type': 'http', 'method': 'GET', 'path': '/checkout', 'query_string': b'coupon=LOOP&card=4111', 'headers': []}",
    ],
)
def test_take_names_the_request_and_hides_its_values(tmp_path: Path, local: str) -> None:
    code = f"def serve():\n    {local}\n    print(flush=True)\n    while True: pass\nserve()\n"
    with running(tmp_path, code) as pid:
        taken = take(pid, tmp_path)
    assert taken.summary.endswith(", GET /checkout?coupon=<redacted>&card=<redacted>")
    assert "4111" not in json.dumps(kept(tmp_path))


def test_take_of_a_process_that_is_gone_says_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert take(child.pid, tmp_path).summary == ""
    assert list(tmp_path.iterdir()) == []


def test_take_keeps_no_more_files_than_its_limit(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    for number in range(evidence.FILES_LIMIT + 5):
        (folder / f"old-{number}-1.json").write_text("{}")
    evidence.take(subject(os.getpid(), tmp_path), str(tmp_path), takers=())
    names = [path.name for path in folder.iterdir()]
    assert len(names) == evidence.FILES_LIMIT
    assert any(name.startswith("store-7-") for name in names)


def test_take_of_very_many_threads_keeps_a_small_file(tmp_path: Path) -> None:
    code = "import threading\nfor _ in range(150): threading.Thread(target=threading.Event().wait).start()\nprint(flush=True)\n"
    with running(tmp_path, code) as pid:
        take(pid, tmp_path)
    (file,) = (tmp_path / "evidence").iterdir()
    assert file.stat().st_size < evidence.FILE_BYTES
    json.loads(file.read_text())


def test_take_without_a_stack_says_what_the_kernel_knows_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, LOOP) as pid:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        taken = take(pid, tmp_path)
    assert taken.cause is None
    assert f"{pid} (" in taken.summary
    problems = str(kept(tmp_path)["problems"])
    assert "pip install py-spy" in problems


# --- harm -------------------------------------------------------------------------------------------------------------------------


def test_a_stopped_process_is_looked_at_and_stays_stopped(tmp_path: Path) -> None:
    """Who stopped it may have a reason: only what we stopped is continued."""
    with running(tmp_path, LOOP) as pid:
        os.kill(pid, signal.SIGSTOP)
        await_true(lambda: dumping.states(pid) == {pid: "T"})
        until = time.monotonic() + LIMIT_S
        (stack,) = next(Python().snapshots(pid, until))
        assert stack.frames[-1].function == "<module>"
        assert dumping.states(pid) == {pid: "T"}


def test_a_killed_dumper_never_leaves_its_target_stopped(tmp_path: Path) -> None:
    """SIGKILL to py-spy at ever other moments, while it may hold the target."""
    killed: list[int] = []
    with running(tmp_path, LOOP) as pid:
        for step in range(12):
            killing = threading.Thread(target=kill_dumper, args=(step / 1000, killed))
            killing.start()
            with suppress(dumping.DumpError):
                next(Python().snapshots(pid, time.monotonic() + 2))
            killing.join()
            await_true(lambda: dumping.states(pid)[pid] in "RS")
    assert killed


def kill_dumper(after_s: float, killed: list[int]) -> None:
    """Wait for a py-spy beneath this process, and some time more, and kill it."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for pid in beneath(os.getpid()):
            if dump_kernel.exe_name(pid) == "py-spy":
                time.sleep(after_s)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                return


def beneath(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [int(child) for task in tasks for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *beneath(child))]


def test_a_process_that_a_dumper_left_stopped_is_continued(tmp_path: Path) -> None:
    with running(tmp_path, LOOP) as pid:
        with pytest.raises(dumping.DumpError):
            dumping.run(("sh", "-c", f"kill -STOP {pid}; exit 1"), pid, LIMIT_S)
        assert dumping.states(pid)[pid] in "RS"


def test_a_dumper_that_hangs_is_ended_with_all_it_started() -> None:
    began = time.monotonic()
    with pytest.raises(dumping.DumpError, match=r"was ended after 0\.2 s"):
        dumping.run(("sh", "-c", "sleep 60 & sleep 60"), os.getpid(), 0.2)
    assert time.monotonic() - began < 10
    await_true(lambda: not any(dump_kernel.exe_name(pid) == "sleep" for pid in beneath(os.getpid())))


def test_a_dumper_that_never_stops_writing_is_ended() -> None:
    with pytest.raises(dumping.DumpError):
        dumping.run(("yes",), os.getpid(), LIMIT_S)


# --- other runtimes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_names_its_loop_and_request_and_its_inspector_is_closed_again(tmp_path: Path) -> None:
    code = (
        "const http = require('http');\n"
        "function apply(total) { while (total >= 0) { total = total < 1 ? total : total; } }\n"
        "const server = http.createServer((q, r) => {\n  if (q.url.startsWith('/loop')) { console.log('now'); apply(3); }\n});\n"
        "server.listen(0, '127.0.0.1', () => http.get({port: server.address().port, path: '/loop?coupon=LOOP'}));\n"
    )
    with running(tmp_path, code, "node", name="shop.js") as pid:
        taken = evidence.take(subject(pid, tmp_path), str(tmp_path), LAST_TAKERS)
        await_true(lambda: len([each for each in dump_kernel.sockets(pid).values() if each.listens]) == 1)  # its own port alone
        state = dumping.states(pid)[pid]
    problems = kept(tmp_path)["problems"]
    assert taken.summary == "loops in shop.js:2 apply(), GET /loop?coupon=<redacted>", problems
    assert state == "R"


def test_node_is_left_alone_until_it_is_about_to_be_killed() -> None:
    assert "node" not in {taker.runtime for taker in evidence.TAKERS}


@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_a_jvm_names_its_loop(tmp_path: Path) -> None:
    code = (
        "class Shop {\n  static void apply() { while (true) { } }\n"
        '  public static void main(String[] a) { System.out.println("up"); apply(); }\n}\n'
    )
    with running(tmp_path, code, "java", name="Shop.java") as pid:
        taken = take(pid, tmp_path)
    assert taken.cause is not None, kept(tmp_path)["problems"]
    assert taken.cause.key == "java:spinning:Shop.java:Shop.apply"


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("gdb") is None, reason="gcc or gdb is not installed")
def test_a_compiled_program_that_is_about_to_be_killed_is_looked_at_with_what_there_is(tmp_path: Path) -> None:
    source = tmp_path / "shop.c"
    source.write_text(
        "#include <stdio.h>\nvolatile long x;\nvoid total(void) { for (;;) x++; }\n"
        'int main(void) { puts(""); fflush(stdout); total(); }\n'
    )
    subprocess.run(["gcc", "-g", "-O0", "-o", str(tmp_path / "shop"), str(source)], check=True)
    with subprocess.Popen([str(tmp_path / "shop")], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            taken = evidence.take(subject(child.pid, tmp_path), str(tmp_path), LAST_TAKERS)
        finally:
            child.kill()
    assert taken.cause is not None, kept(tmp_path)["problems"]
    assert (taken.cause.function, taken.cause.lines) == ("total", (3,))


def test_a_jvm_without_a_handler_for_sigquit_is_not_sent_one() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            with pytest.raises(dumping.DumpError, match="-Xrs"):
                next(dump_jvm.Jvm().snapshots(child.pid, time.monotonic() + LIMIT_S))
            assert child.poll() is None
        finally:
            child.kill()


def test_a_thread_dump_of_a_jvm_is_read() -> None:
    dump = (
        '"main" #1 prio=5 os_prio=0 cpu=3ms tid=0x00007f1eb4018020 nid=0x162f runnable  [0x00007f1ebabfd000]\n'
        "   java.lang.Thread.State: RUNNABLE\n"
        "\tat java.util.HashMap.get(java.base@17.0.15/HashMap.java:5)\n"
        "\tat app//com.shop.Cart$$Lambda$14/0x0000000800c03000.apply(Unknown Source)\n"
        "\t- locked <0x000000069dc082e8> (a java.lang.Object)\n"
        "\tat com.shop.Cart.total(Cart.java:12)\n"
        "\n"
        '"GC Thread#0" os_prio=0 cpu=3ms tid=0x00007f1eb4018020 nid=5679 runnable\n'
    )
    (main,) = dump_jvm.parsed(dump)
    assert (main.tid, main.name) == (0x162F, "main")
    assert [frame.function for frame in main.frames] == [
        "java.util.HashMap.get",
        "com.shop.Cart$$Lambda.apply",
        "com.shop.Cart.total",
    ]
    assert main.frames[-1] == Frame("com.shop.Cart.total", "com/shop/Cart.java", 12)


def test_the_stacks_that_eu_stack_prints_are_read() -> None:
    text = (
        "PID 7 - process\nTID 7:\n"
        "#0  0x0000564924579165 apply(long, int) - /srv/shop/bin/shop\n    /srv/shop/src/cart.c:12:60\n"
        "#1  0x0000558cb1b474af - /srv/shop/bin/shop\n"
        "#2  0x00005649245791a8 main - /srv/shop/bin/shop\n"
        "#3  0x00007f9d6ec9124a __libc_start_main@@GLIBC_2.34 - /usr/lib/libc.so.6\n    ../csu/libc-start.c:58:16\n"
    )
    (stack,) = dump_native.parsed_eu_stack(text)
    assert stack.tid == 7
    assert stack.frames == (
        Frame("apply(long, int)", "/srv/shop/src/cart.c", 12),
        Frame("main", "/srv/shop/bin/shop", 0),
        Frame("__libc_start_main", "/usr/lib/libc.so.6", 0),
    )


def test_the_stacks_that_gdb_prints_are_read_without_arguments() -> None:
    text = (
        'Thread 1 (Thread 0x7faff37ed740 (LWP 7) "shop"):\n'
        '#0  0x000055660f378165 in apply (card=0x12 "4111") at cart.c:3\n'
        "#1  0x0000558cb1b474af in ?? ()\n"
        "#2  main () at cart.c:4\n"
        "#3  0x00007 in read () from /lib/libc.so.6\n"
    )
    (stack,) = dump_native.parsed_gdb(text)
    assert stack.frames == (Frame("apply", "cart.c", 3), Frame("main", "cart.c", 4), Frame("read", "/lib/libc.so.6", 0))


# --- around it --------------------------------------------------------------------------------------------------------------------


def test_lines_come_with_the_commit_that_last_touched_them(tmp_path: Path) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    with running(tmp_path, LOOP) as pid:
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "shop.py"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "sell in bulk"], check=True)
        taken = take(pid, tmp_path)
        assert taken.cause is not None
        lines = origin.lines(taken.cause, pid, time.monotonic() + LIMIT_S)
    assert lines
    assert all(line.commit.endswith(": sell in bulk") for line in lines)


def test_a_file_that_was_changed_after_the_start_gives_no_text(tmp_path: Path) -> None:
    with running(tmp_path, LOOP) as pid:
        os.utime(tmp_path / "shop.py", (time.time() + 60, time.time() + 60))
        taken = take(pid, tmp_path)
        assert taken.cause is not None
        assert {line.text for line in origin.lines(taken.cause, pid, time.monotonic() + LIMIT_S)} == {""}


def test_a_crash_is_written_down_with_its_cause(tmp_path: Path) -> None:
    output = f'Traceback (most recent call last):\n  File "{tmp_path}/cart.py", line 12, in total\n    x\nKeyError: 1\n'.encode()
    taken = evidence.crash(subject(1, tmp_path, output), "exit code 1", None, str(tmp_path))
    assert taken.summary == "KeyError: 1 in cart.py:12 total()"
    assert kept(tmp_path)["ended"] == "exit code 1"


def test_an_oom_kill_shows_in_the_counter_of_its_group(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom 1\noom_kill 1\noom_group_kill 0\n")
    before = deaths.OomCount(str(tmp_path), 1, 0)
    assert not deaths.oom_killed(before)
    events.write_text("oom 1\noom_kill 2\noom_group_kill 0\n")
    assert deaths.oom_killed(before)


def test_a_kill_for_want_of_memory_names_the_limit_where_that_was_the_reason(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("268435456\n")
    before = deaths.OomCount(str(tmp_path), 1, 0, 1)
    said = []
    for met in (1, 2):
        (tmp_path / "memory.events").write_text(f"oom {met}\noom_kill 2\n")
        said.append(evidence.crash(subject(1, tmp_path), "killed by SIGKILL", before, str(tmp_path)).summary)
    assert said == ["killed by the kernel: out of memory", "killed by the kernel: out of memory (limits.memory is 256 MiB)"]


def test_the_kernels_lines_about_a_process_are_told_from_others() -> None:
    segfault = "6,1131,4215,-;shop[4242]: segfault at 0 ip 00005 sp 00007 error 4 in shop[5000+1000]\n SUBSYSTEM=x"
    assert deaths.about(segfault, {4242}).startswith("shop[4242]: segfault at 0")
    assert deaths.about(segfault, {5000}) == ""
    assert deaths.about("3,1,1,-;Out of memory: Killed process 77 (shop) total-vm:1kB", {77}) != ""


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('"GET /checkout?coupon=LOOP&card=4111 HTTP/1.1" 200', '"GET /checkout?coupon=<redacted>&card=<redacted> HTTP/1.1" 200'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: <redacted>"),
        ("postgres://shop:hunter2@db/shop", "postgres://shop:<redacted>@db/shop"),
        ("{'password': 'hunter2', 'n': 1}", "{'password': <redacted>, 'n': 1}"),
        ("worker 7 of 8 is ready", "worker 7 of 8 is ready"),
    ],
)
def test_secrets_in_output_are_hidden(line: str, shown: str) -> None:
    assert hide(line) == shown


def test_a_request_is_shown_without_values_and_without_what_a_terminal_would_obey() -> None:
    assert request_line("GET", "/a\x1b[2J\u202e", "") == "GET /a?[2J?"
    assert request_line("GET", "/a", "q=1&b&hunter2 secret=x") == "GET /a?q=<redacted>&b=<redacted>&<redacted>"
    assert len(request_line("GET", "/" * 5000, "&".join(f"k{n}=v" for n in range(5000)))) < 400
