"""`reviver diagnose PID` on real processes, and what it concludes from looks that are made up.

One look takes some seconds, so all the real ones are taken side by side, once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pytest

from supervisor.commands import Refusal
from supervisor.commands.diagnose_look import person
from supervisor.commands.diagnose_verdict import Peer, Probe, Seen, Ways, advice, judge
from supervisor.model import Kind, Nature, Scope
from supervisor.policy.samples import Client, Host, ProcessSample, SocketSample, ThreadSample, TreeSample
from tests.test_cli import HOSTILE, Place, Result

# Where Yama lets only parents trace, these let themselves be traced, as a supervised program's parent could.
OPEN = "import ctypes; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n"
SHOP = """
import http.server, sys
class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/loop"):
            total()
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        sys.stderr.write("token=abc \\x1b[2J served\\n")
def total():
    cents = 1
    while cents:
        cents += 1
server = http.server.HTTPServer(("127.0.0.1", 0), Shop)
print(server.server_port, flush=True)
server.serve_forever()
"""
DEADLOCK = """
import threading
a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def one():
    with a:
        both.wait()
        b.acquire()
def two():
    with b:
        both.wait()
        a.acquire()
threads = [threading.Thread(target=each) for each in (one, two)]
for each in threads: each.start()
print(threads[0].native_id, flush=True)
threads[0].join()
"""
WAITING = """
import socket, sys
def query():
    there.recv(1)
there = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
there.sendall(b"SELECT 1")
print(flush=True)
query()
"""


@dataclass
class Ward:
    """Processes in trouble, and what was said of them."""

    place: Place
    stack: ExitStack
    pids: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)  # the first line that each wrote
    looks: dict[str, tuple[tuple[str, ...], subprocess.Popen[str]]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    database: socket.socket | None = None
    page: str = ""

    def python(self, name: str, code: str, *words: str, **env: str) -> None:
        file = self.place.path / f"{name}.py"
        file.write_text(OPEN + code)
        os.utime(file, (0, 0))  # long before the process starts: it runs what stands there
        with (self.place.path / f"{name}.log").open("wb") as log:
            self.start(name, [sys.executable, str(file), *words], log, **env)

    def start(self, name: str, command: list[str], stderr: IO[bytes] | int, **env: str) -> None:
        child = self.stack.enter_context(
            subprocess.Popen(
                command, cwd=self.place.path, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **env}
            )
        )
        self.stack.callback(child.kill)
        assert child.stdout is not None
        self.pids[name], self.said[name] = child.pid, child.stdout.readline().strip()

    def look(self, name: str, *options: str, pid: int | None = None) -> None:
        words = ("diagnose", *options, str(pid or self.pids[name]))
        self.looks[name] = (words, self.place.start(*words))

    def gather(self) -> None:
        """Wait for those that look: few at once, since each leaves out what is not there after some seconds."""
        for name, (words, process) in self.looks.items():
            self.results[name] = self.answer(process)
            for _ in range(5):
                if re.search("stacks of|late ourselves", self.results[name].out):  # the machine was too busy to see them
                    self.results[name] = self.answer(self.place.start(*words))
        self.looks.clear()

    def answer(self, process: subprocess.Popen[str]) -> Result:
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return Result(process.returncode, out, err)

    def seen(self, name: str) -> dict[str, Any]:
        assert self.results[name].code == 0, self.results[name].err
        found: dict[str, Any] = json.loads(self.results[name].out)
        return found


@pytest.fixture(scope="module")
def ward() -> Iterator[Ward]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        made = Ward(Place(Path(name)), stack)
        made.python("hung", SHOP, "--password", "hunter2", "s3cret=1", "token=abc", HOSTILE)
        client = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{made.said['hung']}/loop?card=4711')"],
            stderr=subprocess.DEVNULL,
        )
        stack.enter_context(client)
        stack.callback(client.kill)
        made.python("well", SHOP)
        made.python("locked", DEADLOCK, REVIVER_INSTANCE="store:7", REVIVER_PID=str(made.pids["well"]))
        made.database = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        made.python("waiting", WAITING, str(made.database.getsockname()[1]))
        code = "print(flush=True)\nimport time; time.sleep(600)"
        marked = f"export REVIVER_INSTANCE=store:7 REVIVER_PID=$$; exec {sys.executable} -c '{code}'"
        made.start("stopped", ["/bin/sh", "-c", marked], subprocess.DEVNULL)
        os.kill(made.pids["stopped"], signal.SIGSTOP)
        gone = subprocess.Popen(["true"])
        gone.wait()
        made.look("hung", "--json")
        made.look("well", "--json", "--http", "/health")
        made.gather()
        made.look("locked", "--json")
        made.look("waiting", "--json")
        made.look("stopped")
        made.look("gone", pid=gone.pid)
        made.look("unasked", "--http", "gopher://x", pid=made.pids["well"])
        made.page = made.place.on_terminal("diagnose", str(made.pids["hung"]))
        made.gather()
        yield made


def test_diagnose_names_the_line_and_the_request_of_a_hung_server_and_who_waits(ward: Ward) -> None:
    seen = ward.seen("hung")
    verdict = seen["verdict"]
    assert verdict["kind"] in ("suspect", "hung (spinning)", "starved")  # by how busy this host is
    assert "oldest request" in verdict["because"]
    assert seen["cause"]["function"] == "total"
    assert seen["cause"]["file"] == "hung.py"
    assert {line["text"].strip() for line in seen["source"] if line["seen"]} <= {"while cents:", "cents += 1"}
    assert len(seen["source"]) >= 3
    assert seen["threads"][0]["where"].endswith("total()")
    assert seen["listening"][0]["address"] == f"127.0.0.1:{ward.said['hung']}"
    assert (seen["waiting"][0]["owner"], seen["waiting"][0]["accepted"]) == (ward.pids["hung"], True)
    assert f"reviver diagnose {ward.pids['hung']}" in [each["command"] for each in seen["advice"]]


def test_diagnose_tells_no_secret(ward: Ward) -> None:
    out = ward.results["hung"].out
    assert "--password <redacted>" in out
    for secret in ("hunter2", "abc", "4711"):
        assert secret not in out


def test_diagnose_of_a_server_that_answers_is_healthy(ward: Ward) -> None:
    seen = ward.seen("well")
    assert (seen["verdict"]["kind"], seen["verdict"]["sure"]) == ("healthy", "sure")
    assert re.search("GET /health answered 200|we were late ourselves", seen["verdict"]["because"])  # by how busy this host is
    assert seen["waiting"] == []  # our own question is nobody's request
    assert seen["output"]["to"].endswith("well.log")
    assert "token=<redacted> \x1b[2J served" in seen["output"]["lines"]  # data: the page spells it out


def test_diagnose_of_a_deadlock_shows_where_each_thread_waits(ward: Ward) -> None:
    seen = ward.seen("locked")
    assert (seen["verdict"]["headline"], seen["verdict"]["nature"]) == ("locked", "locked")
    assert {"one()", "two()"} <= {row["where"].split(" ")[-1] for row in seen["threads"]}
    assert seen["process"]["instance"] is None  # its environment says so, but it does not descend from that instance


def test_diagnose_names_for_whom_a_process_waits(ward: Ward) -> None:
    seen = ward.seen("waiting")
    (peer,) = seen["waits_for"]
    assert ward.database is not None
    assert (peer["name"], peer["pid"]) == (f"127.0.0.1:{ward.database.getsockname()[1]}", os.getpid())
    assert peer["name"] in seen["verdict"]["because"]
    assert f"reviver diagnose {os.getpid()}" in [each["command"] for each in seen["advice"]]


def test_page_of_a_stopped_process_says_how_to_continue_it(ward: Ward) -> None:
    out = ward.results["stopped"].out
    assert "STOPPED" in out
    assert f"kill -CONT {ward.pids['stopped']}\n" in out
    assert "by Reviver, as store:7\n" in out
    assert "reviver logs store\n" in out


@pytest.mark.parametrize(("name", "says"), [("gone", "no process has the pid"), ("unasked", "gopher://x cannot be asked")])
def test_what_cannot_be_diagnosed_is_one_sentence_and_1(ward: Ward, name: str, says: str) -> None:
    result = ward.results[name]
    assert (result.code, result.out) == (1, "")
    assert says in result.err
    assert result.err.count("\n") == 1


def test_a_thread_is_refused_with_its_process(ward: Ward) -> None:
    thread, process = ward.said["locked"], ward.pids["locked"]
    with pytest.raises(Refusal, match=rf"{thread} is a thread of process {process} .*: reviver diagnose {process}$"):
        person(int(thread))


def test_what_has_ended_is_refused_with_how_and_whose_it_is() -> None:
    with subprocess.Popen(["false"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Refusal, match=rf"has ended already \(exit code 1\) and waits for its parent {os.getpid()} "):
            person(child.pid)


def test_ourselves_and_our_ancestors_are_refused() -> None:
    with pytest.raises(Refusal, match="is this very command"):
        person(os.getpid())
    with pytest.raises(Refusal, match="is an ancestor of this very command"):
        person(os.getppid())


def test_what_is_no_pid_is_a_usage_error(ward: Ward) -> None:
    assert ward.place.reviver("diagnose", "0").code == 2


def test_page_on_a_terminal_is_coloured_and_obeys_nobody(ward: Ward) -> None:
    assert "\x1b[1m" in ward.page
    assert "\x1b[2J" not in ward.page
    assert r"\x1b[2J" in ward.page


def test_page_in_a_pipe_is_plain(ward: Ward) -> None:
    assert "\x1b" not in ward.results["stopped"].out


# --- what is concluded


def seen(*processes: tuple[int, int, str], clients: tuple[Client, ...] = (), **more: Any) -> Seen:
    """A look of two seconds at processes (pid, parent, what their only thread does: "spins", or the place where it waits)."""
    trees = []
    for step in range(21):
        at = 100.0 + step / 10
        trees.append(TreeSample(at, tuple(_process(pid, parent, does, step) for pid, parent, does in processes)))
    sockets = (SocketSample(100.0, 0, 128, clients), SocketSample(102.0, 0, 128, clients))
    known: dict[str, Any] = {"sockets": sockets, "free": frozenset(), "probe": None, **more}
    return Seen(began=100.0, now=102.05, trees=tuple(trees), host=Host(2, 0.1), **known)


def _process(pid: int, parent: int, does: str, step: int) -> ProcessSample:
    runs = does == "spins"
    thread = ThreadSample(
        pid, "R" if runs else "T" if does == "stopped" else "S", step * 100_000_000 * runs, 0, "" if runs else does
    )
    return ProcessSample(pid, parent, thread.state, 0.0, 1, (thread,))


def owed(owner: int, since: float) -> Client:
    return Client(("10.0.0.9", 50000 + owner, 80), 700 + owner, owner, True, False, since, 0)


@pytest.mark.parametrize(
    ("does", "since", "kind", "sure"),
    [
        ("spins", 97.0, Kind.SUSPECT, "not sure"),
        ("spins", 87.0, Kind.SPINNING, "likely"),
        ("spins", 20.0, Kind.SPINNING, "very likely"),
        ("lock", 87.0, Kind.LOCKED, "likely"),
        ("socket", 87.0, Kind.SUSPECT, "not sure"),
        ("socket", 20.0, Kind.BLOCKED, "very likely"),
    ],
)
def test_verdict_on_a_silent_server_hangs_on_how_long_somebody_has_waited(does: str, since: float, kind: Kind, sure: str) -> None:
    found = judge(seen((7, 1, does), clients=(owed(7, since),)))
    assert (found.verdict.kind, found.verdict.scope, found.sure) == (kind, Scope.INSTANCE, sure)


def test_verdict_on_an_event_loop_with_a_long_poll_is_no_hang() -> None:
    found = judge(seen((7, 1, "epoll"), clients=(owed(7, 20.0),), free=frozenset({7})))
    assert (found.verdict.kind, found.verdict.scope) == (Kind.BUSY, Scope.REQUEST)


def test_verdict_on_one_hung_worker_is_about_it_alone() -> None:
    found = judge(seen((7, 1, "lock"), (8, 7, "spins"), (9, 7, "accept"), clients=(owed(8, 20.0),), free=frozenset({9})))
    assert (found.verdict.kind, found.verdict.scope, found.workers) == (Kind.SPINNING, Scope.WORKER, (8,))
    commands = [each.command for each in advice(found, Ways(pid=7, forks=True, ask="ABRT", again="again"))]
    assert commands[:3] == ["kill -ABRT 8", "again", "reviver check"]


def test_verdict_on_all_workers_hung_is_about_the_whole() -> None:
    found = judge(seen((7, 1, "lock"), (8, 7, "spins"), (9, 7, "spins"), clients=(owed(8, 20.0), owed(9, 21.0))))
    assert (found.verdict.scope, found.workers) == (Scope.INSTANCE, (8, 9))
    assert advice(found, Ways(pid=7, program="store", forks=True, ask="ABRT"))[1].command == "reviver restart store"


@pytest.mark.parametrize(("does", "kind"), [("spins", Kind.BUSY), ("lock", Kind.UNKNOWN), ("sleep", Kind.HEALTHY)])
def test_what_nobody_waits_for_is_never_called_hung(does: str, kind: Kind) -> None:
    assert judge(seen((7, 1, does))).verdict.kind is kind
    assert judge(seen((7, 1, does), sockets=())).verdict.kind is kind


def test_verdict_on_a_server_that_waits_for_its_database_advises_no_restart() -> None:
    database = Peer("10.0.0.5:5432", 1, 30.0)
    found = judge(seen((7, 1, "socket"), clients=(owed(7, 20.0),), peers=(database,)))
    assert (found.headline, found.peer) == ("waits for somebody else", database)
    assert not [each for each in advice(found, Ways(pid=7, again="again")) if "kill" in each.command]


def test_unanswered_question_makes_a_suspect_and_is_told() -> None:
    probe = Probe("GET /health: connection refused", 100.0, None)
    found = judge(seen((7, 1, "sleep"), probe=probe))
    assert found.verdict.kind is Kind.SUSPECT
    assert probe.text in found.verdict.because


def test_stopped_process_is_told_with_who_waits() -> None:
    found = judge(seen((7, 1, "stopped"), clients=(owed(7, 90.0),)))
    assert (found.verdict.kind, found.verdict.nature, found.sure) == (Kind.STOPPED, Nature.BLOCKED, "sure")
    assert "1 request waits, the oldest for 12." in found.verdict.because


def test_advice_is_two_to_four_commands_and_begins_with_more_rights_where_they_lack() -> None:
    for kind in Kind:
        found = judge(seen((7, 1, "sleep")))
        found = replace(found, verdict=replace(found.verdict, kind=kind))
        for ways in (
            Ways(pid=7, again="again"),
            Ways(pid=7, again="again", program="store"),
            Ways(pid=7, again="again", unit="x.service"),
        ):
            assert 2 <= len(advice(found, ways)) <= 4
        assert advice(found, Ways(pid=7, again="again", sudo="sudo it"))[0].command == "sudo it"
