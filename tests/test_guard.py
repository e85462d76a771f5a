"""The guard over real processes: a small daemon in its care that does what the test wants, is killed, falls silent, or is told to stop.

The daemon is a line of Python for each of its lives; what it says is read line by line. Short times are given to the guard where a test
would have to wait for long ones; none is measured.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import guard, notify
from supervisor.guard import Guard, Life, Store, backoff_s
from tests.supervised import SLEEPER, Supervised, python

WAIT_S = 30.0  # for one line: far more than any takes, on the busiest machine
ROOT = Path(__file__).resolve().parent.parent

PRELUDE = """
import os, signal, sys, time
from supervisor import notify
from supervisor.mechanism.systemd import inherited
def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
def tell(state, *fds):
    while not notify.send(state, fds=fds):  # a queue may hold ten
        assert not time.sleep(0.001)
def on(number, act):
    signal.signal(number, lambda *_: act())
def listen(stop=lambda: os._exit(0)):  # what the daemon handles, the last one last
    on(signal.SIGTERM, stop)
    on(signal.SIGHUP, lambda: say("HUP"))
def stay():
    while True:
        signal.pause()
kept = inherited(os.environ)
life = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(life, b".")
life = os.fstat(life).st_size
say("life", life, os.getpid())
"""


class Guarded:
    """`with Guarded(folder, code) as guarded:` runs a guard over a daemon with this code, and ends both."""

    def __init__(self, folder: Path, code: str, wrap: Sequence[str] = (), *, first: str = "", **limits: float) -> None:
        """wrap: what the guard's command line is put behind; first: code for its process; limits: constants of the guard's module."""
        self._daemon = [sys.executable, "-c", PRELUDE + code, str(folder / "lives")]
        given = "".join(f"guard.{name} = {value}\n" for name, value in limits.items()) + first
        driver = f"import sys\nfrom supervisor import guard\n{given}\nsys.exit(guard.Guard(sys.argv[1:]).run())"
        self._environ = os.environ | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder)}
        self._command = [*wrap, sys.executable, "-c", driver, *self._daemon]
        self.told: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environ, bufsize=0
        )
        self._rest = b""
        self.pids: list[int] = []
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # first: else it would start another
        self.process.wait()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def line(self) -> str:
        """The next line that a daemon said."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + WAIT_S
        while b"\n" not in self._rest:
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no daemon says anything: {self.words()}")
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"all have ended: {self.words()}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def life(self, number: int) -> int:
        """Waits for this life to begin; its pid."""
        word, which, pid = self.line().split()
        assert (word, which) == ("life", str(number)), self.words()
        self.pids.append(int(pid))
        return int(pid)

    def words(self) -> list[str]:
        """What the guard has said up to now."""
        assert self.process.stderr is not None
        while select.select([self.process.stderr], [], [], 0)[0]:
            data = os.read(self.process.stderr.fileno(), 65536)
            if not data:
                break
            self.told += data.decode().splitlines()
        return [json.loads(line)["text"] if line.startswith("{") else line for line in self.told]

    def code(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(WAIT_S)


# --- accidents ------------------------------------------------------------------------------------------------------------------


def test_killed_daemon_is_started_anew_with_what_it_stored(tmp_path: Path) -> None:
    """A customer in the queue, output that nobody has read, and the end of a child: all of it outlives the daemon."""
    code = """
if life == 1:
    import socket
    server = socket.create_server(("127.0.0.1", 0))
    reader, writer = os.pipe()
    os.write(writer, b"unread")
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(7)"], {})
    tell("FDSTORE=1\\nFDNAME=socket.a\\nFDPOLL=0", server.fileno())
    tell("FDSTORE=1\\nFDNAME=output.a.1", reader)
    tell("FDSTORE=1\\nFDNAME=output.a.0", writer)
    tell("FDSTORE=1\\nFDNAME=pidfd.a.1", os.pidfd_open(child))
    tell("FDSTOREREMOVE=1\\nFDNAME=output.a.0")
    listen(); tell("READY=1"); say(server.getsockname()[1], child)
else:
    import select, socket
    from supervisor.mechanism.exits import ending
    (server,), (reader,), (pidfd,) = kept["socket.a"], kept["output.a.1"], kept["pidfd.a.1"]
    customer, _ = socket.socket(fileno=server).accept()
    say(sorted(kept), os.read(reader, 100), os.read(reader, 1), customer.recv(100))
    say(*sorted(set(map(int, os.listdir("/proc/self/fd"))) & set(range(3, 20)) - {customer.fileno()}))
    select.select([pidfd], [], [], 30)
    say("orphan")
    listen(); tell("READY=1")
    os.read(0, 1)
    say(ending(pidfd, 0, reap=False)[0])
stay()
"""
    with Guarded(tmp_path, code) as guarded:
        first = guarded.life(1)
        port, child = map(int, guarded.line().split())
        with socket.create_connection(("127.0.0.1", port)) as customer:
            customer.sendall(b"waited")
            os.kill(first, signal.SIGKILL)
            second = guarded.life(2)
            assert guarded.line() == "['output.a.1', 'pidfd.a.1', 'socket.a'] b'unread' b'' b'waited'"
        assert os.getsid(second) == second
        guarded.line()
        os.kill(child, signal.SIGKILL)
        assert guarded.line() == "orphan"
        until(lambda: not Path(f"/proc/{child}").exists(), "an orphan is not reaped")
        assert guarded.process.stdin is not None
        guarded.process.stdin.write(b"x")
        assert guarded.line() in (str(-signal.SIGKILL), "None"), "None: a kernel that keeps no exit status"
        assert f"the supervisor (pid {first}) was ended by SIGKILL: the next one starts now" in guarded.words()
        guarded.process.terminate()
        assert guarded.code() == 0


def until(so: object, why: str) -> None:
    assert callable(so)
    deadline = time.monotonic() + WAIT_S
    while not so():
        assert time.monotonic() < deadline, why
        time.sleep(0.005)


def test_silent_daemon_is_ended_and_started_anew(tmp_path: Path) -> None:
    """Stopped by SIGSTOP it does not hear SIGABRT either."""
    code = """
listen(); tell("READY=1")
if life == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
stay()
"""
    with Guarded(tmp_path, code, WATCHDOG_S=0.3, ABORT_S=0.05) as guarded:
        guarded.life(1)
        guarded.life(2)
        assert "has been silent for 0.3 s: it is ended" in guarded.words()[0]
        assert "was ended by SIGKILL: the next one starts now" in guarded.words()[1]


def test_daemon_that_does_not_become_ready_is_ended_and_started_anew(tmp_path: Path) -> None:
    with Guarded(tmp_path, "stay()", START_S=0.5) as guarded:
        until(lambda: len(guarded.words()) >= 2, "nothing is said")
        assert "did not become ready within 0." in guarded.words()[0]
        assert "was ended by SIGABRT: the next one starts now" in guarded.words()[1]


def test_backoff_starts_at_once_and_never_grows_beyond_its_limit() -> None:
    assert [backoff_s(deaths) for deaths in (0, 1, 2, 3, 4, 7, 8, 10**9)] == [0.0, 0.0, 0.1, 0.2, 0.4, 3.2, 5.0, 5.0]
    assert [backoff_s(deaths, 1.0) for deaths in (1, 2, 5, 6)] == [0.0, 0.1, 0.8, 1.0]


def test_crash_loop_is_slowed_down_and_said(tmp_path: Path) -> None:
    code = "tell('READY=1'); os._exit(0 if life == 4 else 3)"
    with Guarded(tmp_path, code, FIRST_S=0.02) as guarded:
        assert guarded.code() == 0
        assert [text.partition("ended with 3: ")[2] for text in guarded.words()] == [
            "the next one starts now",
            "the next one starts in 0.02 s",
            "the next one starts in 0.04 s",
        ]


@pytest.mark.parametrize(
    ("code", "ended", "lives"),
    [
        ("os._exit(78)", 78, 1),
        ("os._exit(1)", 1, 1),
        ("tell('READY=1') if life == 1 else 0; os._exit((78, 1, 75, 0)[life - 1])", 0, 4),
        ("tell('READY=1') if life == 1 else 0; os._exit((75, 1, 78, 0)[life - 1])", 0, 4),
    ],
)
def test_exit_codes_end_the_guard_only_before_a_daemon_was_ready(tmp_path: Path, code: str, ended: int, lives: int) -> None:
    with Guarded(tmp_path, code, FIRST_S=0.01, SLOWEST_S=0.05) as guarded:
        assert guarded.code() == ended
        assert (tmp_path / "lives").stat().st_size == lives


def test_daemon_that_cannot_be_executed_is_said(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, "")
    guarded._command[-4] = "/no/such/python"
    with guarded:
        until(lambda: len(guarded.words()) >= 2, "nothing is said")
        assert guarded.words()[0] == "cannot start /no/such/python: no such file or directory"


# --- stopping -------------------------------------------------------------------------------------------------------------------


def test_signals_that_come_before_the_daemon_listens_are_held(tmp_path: Path) -> None:
    code = """
os.read(0, 1)
listen(lambda: (say("TERM"), os._exit(0)))
stay()
"""
    with Guarded(tmp_path, code) as guarded:
        guarded.life(1)
        guarded.process.terminate()
        until(lambda: b"\nShdPnd:\t0000000000000000" in Path(f"/proc/{guarded.process.pid}/status").read_bytes(), "not taken")
        assert guarded.process.stdin is not None
        guarded.process.stdin.write(b"x")
        assert guarded.line() == "TERM"
        assert guarded.code() == 0
        assert guarded.words() == []


def test_each_signal_is_passed_on_and_a_second_stop_too(tmp_path: Path) -> None:
    code = """
told = []
def stop():
    told.append(1)
    say("TERM")
    if len(told) == 2:
        os._exit(0)
on(signal.SIGUSR1, lambda: say("USR1"))
listen(stop)
tell("READY=1"); say("ready")
stay()
"""
    with Guarded(tmp_path, code) as guarded:
        guarded.life(1)
        assert guarded.line() == "ready"
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            guarded.process.send_signal(number)
            assert guarded.line() == number.name.removeprefix("SIG")
        assert guarded.code() == 0


@pytest.mark.parametrize("first", ["", "import time; guard.os.setsid = lambda: time.sleep(0.2)"], ids=["", "slow"])
def test_daemon_that_dies_while_it_stops_is_followed_by_one_that_goes_on_stopping(tmp_path: Path, first: str) -> None:
    """Also one that is slow to be executed: as long as it is a copy of the guard it has the guard's handlers, and is told nothing."""
    code = """
listen(lambda: (say("TERM"), os._exit(0 if life == 2 else 9)))
if life == 1:
    tell("READY=1"); say("ready")
stay()
"""
    with Guarded(tmp_path, code, first=first) as guarded:
        guarded.life(1)
        guarded.line()
        guarded.process.terminate()
        assert guarded.line() == "TERM"
        guarded.life(2)
        assert guarded.line() == "TERM"
        assert guarded.code() == 0


def test_stop_that_no_daemon_can_do_ends_with_1_and_says_what_may_be_left(tmp_path: Path) -> None:
    code = """
listen(lambda: os._exit(9))
tell("READY=1"); say("ready")
stay()
"""
    with Guarded(tmp_path, code) as guarded:
        guarded.life(1)
        guarded.process.terminate()
        assert guarded.code() == 1
        assert (tmp_path / "lives").stat().st_size == guard.STOP_DEATHS
        assert guarded.words()[-1].endswith("could not stop the programs: some may still run")


def test_stop_asked_twice_of_a_daemon_that_never_listens_ends_it(tmp_path: Path) -> None:
    with Guarded(tmp_path, "say('deaf'); stay()", ABORT_S=0.05) as guarded:
        guarded.life(1)
        guarded.line()
        for _ in range(2):
            guarded.process.terminate()
            until(lambda: b"\nShdPnd:\t0000000000000000" in Path(f"/proc/{guarded.process.pid}/status").read_bytes(), "not taken")
        assert guarded.code() == 1
        assert "told to twice: it is ended" in guarded.words()[0]


def test_ctrl_c_on_a_terminal_reaches_the_daemon_once(tmp_path: Path) -> None:
    """It goes to everybody in the terminal's foreground: the daemon's own session keeps it from being told twice."""
    code = """
told = []
on(signal.SIGINT, lambda: (told.append(1), say("INT")))
listen(lambda: (say(len(told)), os._exit(0)))
tell("READY=1"); say("ready")
stay()
"""
    guarded = Guarded(tmp_path, code)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(guarded._command[0], guarded._command, guarded._environ)
    with open(terminal, "rb", buffering=0) as screen:
        try:
            assert b"life 1" in read_until(screen.fileno(), b"ready\r\n")
            os.write(terminal, b"\x03")
            assert b"INT" not in read_until(screen.fileno(), b"INT\r\n")
            os.kill(pid, signal.SIGTERM)
            assert b"INT" not in read_until(screen.fileno(), b"1\r\n")
        finally:
            _, status = os.waitpid(pid, 0)
    assert status == 0


def read_until(fd: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        assert select.select([fd], [], [], WAIT_S)[0], seen
        seen += os.read(fd, 1024)
    return seen.partition(words)[0]


# --- the real daemon ------------------------------------------------------------------------------------------------------------


def test_reviver_run_keeps_its_programs_over_the_death_of_the_supervisor_and_of_the_guard(tmp_path: Path) -> None:
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n", guarded=True) as reviver:
        assert "kept by its guard" in reviver.until("daemon.started")["text"]
        app = reviver.until("instance.started")["text"].rpartition(" ")[2]
        reviver.until("instance.ready", subject="app:1")
        os.kill(reviver.daemon(), signal.SIGKILL)
        assert "SIGKILL: the next one starts now" in reviver.until("guard.told")["text"]
        assert f"pid {app}" in reviver.until("instance.adopted", subject="app:1")["text"]
        daemon = reviver.daemon()
        reviver.process.kill()
        assert "nobody would start it anew" in reviver.until("daemon.warned")["text"]
        assert reviver.status("app")["instances"][0]["pid"] == int(app)
        os.kill(daemon, signal.SIGTERM)
        reviver.until("daemon.stopped")


def test_signals_that_mean_something_to_other_servers_change_nothing_and_are_answered(tmp_path: Path) -> None:
    with Supervised(tmp_path, '[program.app]\ncommand = ["sleep", "1000"]\n', guarded=True) as reviver:
        reviver.until("instance.started")
        daemon = reviver.daemon()
        for pid in (reviver.process.pid, daemon):
            for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, number)
                assert f"{number.name} changed nothing: SIGTERM stops" in reviver.until("signal.ignored")["text"]
        assert reviver.daemon() == daemon
        reviver.signal(signal.SIGTERM)
        assert "guard.told" not in {line["event"] for line in reviver.rest()}
        assert reviver.process.returncode == 0


def test_upgrade_starts_the_daemon_anew_and_refuses_code_that_is_not_fit(tmp_path: Path) -> None:
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n", guarded=True) as reviver:
        app = reviver.until("instance.started")["text"].rpartition(" ")[2]
        reviver.until("instance.ready", subject="app:1")
        before = reviver.config.read_text()
        reviver.config.write_text(before + "grace = 10\n")
        refused = reviver.ask("upgrade")
        assert refused.returncode == 1
        assert "not fit to take over" in refused.stderr
        assert "grace" in refused.stderr
        reviver.config.write_text(before)
        done = reviver.ask("upgrade")
        assert done.returncode == 0, done.stderr
        assert "gave way to" in done.stdout
        assert f"pid {app}" in reviver.until("instance.adopted", subject="app:1")["text"]
        reviver.signal(signal.SIGTERM)
        reviver.until("daemon.stopped")
        reviver.rest()
        assert reviver.process.returncode == 0


@pytest.mark.parametrize(("ends", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_reviver_run_ends_with_a_programs_exit_code_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, code: int
) -> None:
    monkeypatch.setenv(notify.EXIT_WITH, "job")
    job = f"import os, sys; assert {notify.EXIT_WITH!r} not in os.environ; {ends}"
    programs = f'[program.job]\ncommand = {python(job)}\nrestart.when = "never"\n[program.web]\ncommand = ["sleep", "1000"]\n'
    with Supervised(tmp_path, programs, guarded=True) as reviver:
        assert "job ended" in reviver.until("daemon.stop_asked")["text"]
        reviver.until("instance.stopped", subject="web:1")
        reviver.rest()
        assert reviver.process.returncode == code


def test_guard_started_with_all_closed_does_not_speak_into_its_own_socket(tmp_path: Path) -> None:
    """A descriptor that is opened takes the lowest free number: 2 would be where all sentences go."""
    code = "import sys; from supervisor import guard; guard.Guard.run = lambda self: sys.stdin.read(); guard.main([])"
    closed = ["sh", "-c", 'exec "$@" 1>&- 2>&-', "sh", sys.executable, "-c", code]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(closed, stdin=subprocess.PIPE, env=environ) as process:
        until(lambda: targets(process.pid, 1, 2) == ["/dev/null"] * 2, "they stay closed, or are something else")


def targets(pid: int, *fds: int) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in fds]
    except OSError:
        return []


def test_reviver_run_ends_as_its_daemon_does(tmp_path: Path) -> None:
    with Supervised(tmp_path, '[program.app]\ncommand = "x"\ninstnaces = 2\n', guarded=True) as reviver:
        assert any("instances" in line["text"] for line in reviver.rest())
        assert reviver.process.returncode == 78


# --- being small, being PID 1 ---------------------------------------------------------------------------------------------------


def test_guard_takes_little_memory(tmp_path: Path) -> None:
    """As `reviver run` starts it, beside the same Python with nothing to do; 12 MiB where that takes 8.5."""
    code = "import os, signal; os.write(1, b'x'); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.read(1)
        with Guarded(tmp_path, "listen(); tell('READY=1'); say('ready'); stay()") as guarded:
            guarded.life(1)
            assert guarded.line() == "ready"
            assert resident_kib(guarded.process.pid) - resident_kib(bare.pid) < 3.5 * 1024
        bare.kill()


def resident_kib(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def test_guard_imports_neither_subprocess_nor_asyncio() -> None:
    heavy = ("subprocess", "asyncio", "json", "typing", "dataclasses", "logging", "argparse", "tempfile", "threading", "selectors")
    script = f"import sys; old = set(sys.modules); import supervisor.guard; print(sorted((set(sys.modules) - old) & set({heavy})))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found in ("[]\n", "['selectors']\n"), "socket itself imports selectors"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a pid namespace needs root and unshare")
def test_as_pid_1_it_reaps_restarts_and_stops(tmp_path: Path) -> None:
    code = """
import subprocess
if life == 1:
    subprocess.run(["sh", "-c", "setsid sh -c 'read line; exit 3' & exit 0"], stdin=0)
    listen(); tell("READY=1"); say(os.getppid(), os.environ["REVIVER_GUARD"])
    os.kill(os.getpid(), signal.SIGKILL)
listen(lambda: (say("TERM"), os._exit(0)))
tell("READY=1")
def others():
    return [pid for pid in os.listdir("/proc") if pid.isdecimal() and int(pid) not in (1, os.getpid())]
while others():
    time.sleep(0.005)
say("nobody left")
stay()
"""
    with Guarded(tmp_path, code, wrap=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")) as guarded:
        guarded.life(1)
        assert guarded.line() == "1 1"
        guarded.life(2)
        guarded.pids.clear()  # numbers of that namespace
        assert guarded.process.stdin is not None
        guarded.process.stdin.close()
        assert guarded.line() == "nobody left"
        (first,) = Path(f"/proc/{guarded.process.pid}/task/{guarded.process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert guarded.line() == "TERM"
        assert guarded.code() == 0


# --- what it hears --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard in this process that takes us for its daemon."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path has to be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        guard = Guard(["/bin/false"])
        guard._life = Life(os.getpid(), 0.0)
        yield guard
        for name in {name for name, _ in guard._store.all()}:
            guard._store.drop(name)
        guard._socket.close()


def hear(guard: Guard, data: bytes, *fds: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([data], sent, 0, guard._socket.getsockname())
    guard._hear()


KEYS = [
    "READY",
    "WATCHDOG",
    "STOPPING",
    "STATUS",
    "EXTEND_TIMEOUT_USEC",
    "FDSTORE",
    "FDSTOREREMOVE",
    "FDNAME",
    "FDPOLL",
    "BARRIER",
    "X_EXIT",
    "X",
]
VALUES = st.sampled_from(["1", "0", "", "-1", "a", "socket.a", "9" * 19, "9" * 4000, "\u0663", "\u00b2", "1e9", "nan"]) | st.text(
    max_size=300
)
LINES = st.builds("{}={}".format, st.sampled_from(KEYS), VALUES).map(lambda line: line.encode("utf-8", "surrogatepass"))
DATAGRAMS = st.lists(LINES, min_size=1, max_size=8).map(b"\n".join) | st.binary(min_size=1, max_size=5000)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=DATAGRAMS, count=st.integers(0, 3), foreign=st.booleans())
def test_no_datagram_ends_it_and_no_descriptor_is_lost(ours: Guard, data: bytes, count: int, foreign: bool) -> None:
    assert ours._life is not None
    ours._life.pid = 1 if foreign else os.getpid()
    ours._stops = 0
    before, kept = len(os.listdir("/proc/self/fd")), len(ours._store.all())
    with open(os.devnull) as null:
        hear(ours, data, *[null.fileno()] * count)
    after = len(ours._store.all())
    assert len(os.listdir("/proc/self/fd")) - before == after - kept
    assert all(guard.storable(name) for name, _ in ours._store.all())
    assert not foreign or (after, ours._life.ready, ours._stops) == (kept, ours._life.ready, 0)
    assert ours._wait_ms() < guard.EXTEND_LIMIT_S * 1001


def test_what_the_daemon_says_moves_the_instants_at_which_it_is_judged(ours: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    life, now = ours._life, [1000.0]
    assert life is not None
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def judged(data: bytes, at: float) -> tuple[float | None, float | None]:
        now[0] = at
        hear(ours, data)
        return life.due, life.silent_at

    life.due = 1090.0
    assert judged(b"WATCHDOG=1", 1010.0) == (1090.0, None), "before it is ready nobody expects it"
    assert judged(b"EXTEND_TIMEOUT_USEC=30000000", 1010.0) == (1090.0, None), "never less than it has"
    assert judged(b"EXTEND_TIMEOUT_USEC=100000000", 1010.0) == (1110.0, None)
    assert judged(b"READY=1", 1050.0) == (None, 1050.0 + guard.WATCHDOG_S)
    assert judged(b"STATUS=fine", 1060.0) == (None, 1050.0 + guard.WATCHDOG_S)
    assert judged(b"WATCHDOG=1", 1070.0) == (None, 1070.0 + guard.WATCHDOG_S)
    assert judged(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=200000000", 1080.0) == (1280.0, 1070.0 + guard.WATCHDOG_S)


def test_guard_that_was_held_up_itself_judges_nobody(ours: Guard) -> None:
    """After a suspended machine the daemon has not had its turn yet either."""
    life = ours._life
    assert life is not None
    life.due, life.silent_at = None, 1000.0
    ours._act(1000.0 + guard.LATE_S + 0.1)
    assert (life.condemned, life.silent_at) == (0, 1000.0 + guard.LATE_S + 0.1 + guard.WATCHDOG_S)


def test_only_the_daemon_is_heard(ours: Guard) -> None:
    code = f"from supervisor import notify; assert notify.send('READY=1', {ours._socket.getsockname()!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    ours._hear()
    assert not ours._ever_ready
    hear(ours, b"READY=1")
    assert ours._ever_ready


def test_sockets_of_killed_guards_are_removed_and_no_others(ours: Guard) -> None:
    folder = Path(ours._path).parent
    dead = f"{guard.SOCKET}.{2**22 + 1}"  # more than pid_max may be
    for name in (dead, f"{guard.SOCKET}.{os.getpid()}", "else"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(folder / name))
    (folder / f"{guard.SOCKET}.file").touch()
    Guard(["/bin/false"])._socket.close()
    names = os.listdir(folder)
    assert dead not in names
    assert {os.path.basename(ours._path), f"{guard.SOCKET}.{os.getpid()}", f"{guard.SOCKET}.file", "else"} < set(names)


def test_socket_is_closed_to_other_users(ours: Guard) -> None:
    assert os.stat(ours._socket.getsockname()).st_mode & 0o777 == 0o600


def test_what_was_stored_is_kept_once_in_order_and_dropped_by_name(tmp_path: Path) -> None:
    store = Store()
    reader, writer = os.pipe()
    files = [os.open(tmp_path / name, os.O_CREAT | os.O_RDONLY) for name in "ab"]
    assert store.keep("a", [reader, files[0], os.dup(reader)])
    assert store.keep("b", [writer])
    assert store.keep("a", [os.dup(reader), files[1]]), "what it has already takes no room"
    assert store.all() == [("a", reader), ("a", files[0]), ("a", files[1]), ("b", writer)]
    store.drop("a")
    store.drop("never")
    assert store.all() == [("b", writer)]
    for fd in (reader, *files):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    store.drop("b")


def test_store_has_a_limit_of_descriptors_and_one_of_what_their_names_take() -> None:
    store = Store(fds_limit=3)
    assert not store.keep("a", [os.memfd_create("x") for _ in range(4)])
    assert len(store.all()) == 3
    store.drop("a")
    store = Store()
    names = [f"{'n' * 250}{number:05d}" for number in range(notify.STORE_NAMES_BYTES // 256 + 1)]
    assert [store.keep(name, [os.memfd_create("x")]) for name in names] == [True] * (len(names) - 1) + [False]
    environ = ":".join(name for name, _ in store.all())
    subprocess.run(["/bin/true"], env={"LISTEN_FDNAMES": environ}, check=True)
    for name in names:
        store.drop(name)


def test_store_survives_a_start_whatever_numbers_its_descriptors_have(tmp_path: Path) -> None:
    """They are moved to 3, 4 ...: over one another, and past the limit of open files, which the daemon has to be started with."""
    code = """
import resource
if life == 1:
    for number in range(12):
        fd = os.memfd_create("x"); os.write(fd, str(number).encode())
        tell(f"FDSTORE=1\\nFDNAME=n{number}", fd)
        os.close(fd)
    listen(); tell("READY=1")
    os.kill(os.getpid(), signal.SIGKILL)
say(*(f"{name}={os.pread(fds[0], 9, 0).decode()}" for name, fds in kept.items()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
os._exit(0)
"""
    wrap = ("sh", "-c", 'ulimit -S -n 12; exec "$@"', "sh")
    with Guarded(tmp_path, code, wrap=wrap) as guarded:
        guarded.life(1)
        guarded.life(2)
        assert guarded.line() == " ".join(f"n{number}={number}" for number in range(12)) + f" {3 + 12 + guard.ROOM_FDS}"
        assert guarded.code() == 0
