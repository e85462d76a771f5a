"""What we tell systemd, the unit, and the whole under a real systemd.

The last part boots one with the script that $SYSTEMD_BOX names (start DIR, run DIR COMMAND, stop DIR); without it, it is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from supervisor import notify
from supervisor.commands import systemd as command
from supervisor.control.client import Refusal
from supervisor.mechanism import systemd
from supervisor.mechanism.systemd import Systemd, stop_s, unit
from supervisor.model import DaemonSettings, LaunchSettings, ProgramSettings, Settings
from supervisor.notify import Listener, under_systemd

ME = str(os.getpid())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Listener]:
    """Stands in for the service manager."""
    listener = Listener(str(tmp_path / "notify"))
    yield listener
    listener.close()


def told(manager: Listener) -> list[dict[str, str]]:
    return [message.state for message in manager.receive()]


# --- what we say ----------------------------------------------------------------------------------------------------------------


def test_under_systemd_only_as_the_process_that_the_unit_started() -> None:
    ours = {"NOTIFY_SOCKET": "/run/systemd/notify", "INVOCATION_ID": "x"}
    assert under_systemd(ours)
    assert under_systemd(ours | {"SYSTEMD_EXEC_PID": ME})
    assert not under_systemd(ours | {"SYSTEMD_EXEC_PID": "1"}), "inherited from a unit that started our parent"
    assert not under_systemd({"INVOCATION_ID": "x", "SYSTEMD_EXEC_PID": ME}), "no Type=notify: nobody keeps our descriptors"
    assert not under_systemd({"NOTIFY_SOCKET": "/run/guard"})


def test_each_word_reaches_the_manager(manager: Listener) -> None:
    us = Systemd({"NOTIFY_SOCKET": manager.path})
    us.ready("2 programs")
    us.status("x" * 1000)
    us.reloading()
    us.ready()
    us.stopping(12.5, "draining")
    us.alive()
    ready, status, reloading, again, stopping = told(manager)
    assert ready == {"READY": "1", "STATUS": "2 programs"}
    assert status == {"STATUS": "x" * systemd.STATUS_LIMIT}
    assert reloading["RELOADING"] == "1"
    assert 0 < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert again == {"READY": "1"}
    assert stopping == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "12500000", "STATUS": "draining"}


def test_nothing_is_said_without_a_manager() -> None:
    us = Systemd({"WATCHDOG_USEC": "1000000"})
    us.ready("up")
    us.alive()
    assert us.interval_s is None


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ME}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_interval_is_half_of_what_the_manager_waits(environ: dict[str, str], interval_s: float | None) -> None:
    assert Systemd({"NOTIFY_SOCKET": "/nowhere"} | environ).interval_s == interval_s


def test_alive_is_told_at_once_and_then_no_more_often_than_needed(manager: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    us = Systemd({"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "8000000"})
    heard = []
    for turn_s in (0.0, 0.5, 1.0, 1.9, 2.0, 6.0, 6.1):
        now[0] = 1000.0 + turn_s
        us.alive()
        heard.append(told(manager))
    word = [{"WATCHDOG": "1"}]
    assert heard == [word, [], [], [], word, word, []]


def test_a_word_that_could_not_be_sent_goes_along_with_the_next(manager: Listener, tmp_path: Path) -> None:
    """READY=1 that is lost would have systemd kill us at the end of the start's time."""
    us = Systemd({"NOTIFY_SOCKET": str(tmp_path / "later")})
    us.ready("one")
    us.status("two")
    later = Listener(str(tmp_path / "later"))
    try:
        us.alive()
        us.alive()
        assert told(later) == [{"READY": "1", "STATUS": "two"}]
    finally:
        later.close()


# --- the descriptor store -------------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[socket.socket]:
    """A manager of whom every descriptor is seen that it is given."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "queue"))
        manager.setblocking(False)
        yield manager


def taken(queue: socket.socket) -> tuple[str, list[int]]:
    """The next word, and the inodes of what came along."""
    data, fds, _, _ = socket.recv_fds(queue, notify.STATE_LIMIT_BYTES, notify.FDS_LIMIT)
    inodes = [os.fstat(fd).st_ino for fd in fds]
    for fd in fds:
        os.close(fd)
    return data.decode(), inodes


def test_stored_descriptors_go_to_the_manager_by_name_and_stay_ours(queue: socket.socket) -> None:
    us = Systemd({"NOTIFY_SOCKET": queue.getsockname()})
    reader, writer = os.pipe()
    try:
        us.store("output.store.7", (reader, writer))
        us.unstore("output.store.7")
        inode = os.fstat(reader).st_ino
        assert taken(queue) == ("FDSTORE=1\nFDNAME=output.store.7\nFDPOLL=0", [inode, inode])
        assert taken(queue) == ("FDSTOREREMOVE=1\nFDNAME=output.store.7", [])
    finally:
        os.close(reader)
        os.close(writer)


def test_more_descriptors_than_fit_one_datagram_are_all_stored(queue: socket.socket) -> None:
    with open(os.devnull) as null:
        Systemd({"NOTIFY_SOCKET": queue.getsockname()}).store("socket.x", [null.fileno()] * (notify.FDS_LIMIT + 2))
    assert [len(taken(queue)[1]) for _ in range(2)] == [notify.FDS_LIMIT, 2]


def test_what_a_full_queue_refused_comes_in_order_even_when_its_descriptor_was_closed_since(queue: socket.socket) -> None:
    asked: list[Callable[[], None]] = []
    us = Systemd({"NOTIFY_SOCKET": queue.getsockname()}, lambda _, again: asked.append(again))
    before, names = len(os.listdir("/proc/self/fd")), [f"output.x.{number}" for number in range(1000)]
    for name in names:
        reader, writer = os.pipe()
        us.store(name, (reader,))
        us.unstore(name)
        os.close(reader)
        os.close(writer)
    assert len(asked) == 1, "one appointment, however much waits"
    heard = []
    while asked:
        try:
            heard.append(taken(queue))
        except BlockingIOError:
            asked.pop()()
    while True:
        try:
            heard.append(taken(queue))
        except BlockingIOError:
            break
    assert [state.splitlines()[1].removeprefix("FDNAME=") for state, _ in heard] == [name for name in names for _ in range(2)]
    assert [len(inodes) for _, inodes in heard] == [1, 0] * len(names)
    assert len(os.listdir("/proc/self/fd")) == before


def test_store_without_a_living_manager_keeps_nothing_open(tmp_path: Path, queue: socket.socket) -> None:
    sockets = (queue.getsockname(), str(tmp_path / "never"), "")
    all_of_us = [Systemd({"NOTIFY_SOCKET": path}) for path in sockets]
    before = len(os.listdir("/proc/self/fd"))
    queue.close()
    for us in all_of_us:
        with open(os.devnull) as null:
            us.store("socket.x", (null.fileno(),))
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the queue's own


def test_store_waits_with_no_more_than_its_limit(queue: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "STORE_OWED_LIMIT", 5)
    us = Systemd({"NOTIFY_SOCKET": queue.getsockname()})
    for _ in range(2000):  # far more than any queue of the kernel's takes
        us.unstore("x")
    before = len(os.listdir("/proc/self/fd"))
    with open(os.devnull) as null:
        us.store("x", (null.fileno(),))
    assert len(os.listdir("/proc/self/fd")) == before


def test_inherited_descriptors_are_found_by_name_and_not_passed_on() -> None:
    code = (
        "import os, sys\n"
        "from supervisor.mechanism.systemd import inherited\n"
        "found = inherited(os.environ | {'LISTEN_PID': str(os.getpid())})\n"
        "print(sorted(found.items()), [os.get_inheritable(fd) for fds in found.values() for fd in fds],"
        " inherited(os.environ | {'LISTEN_PID': '1'}), inherited({}))\n"
    )
    script = 'exec 3</dev/null 4</dev/null 5</dev/null 6<&-; exec "$0" -c "$1"'
    environ = os.environ | {"LISTEN_FDS": "4", "LISTEN_FDNAMES": "socket.a:output.a.1:socket.a:gone", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(["sh", "-c", script, sys.executable, code], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "[('output.a.1', (4,)), ('socket.a', (3, 5))] [False, False, False] {} {}\n", done.stderr


# --- the unit -------------------------------------------------------------------------------------------------------------------


def program(name: str, grace_s: float, *after: str) -> ProgramSettings:
    return ProgramSettings(name=name, launch=LaunchSettings(command=("x",)), grace_s=grace_s, after=after)


def settings(*programs: ProgramSettings, path: str = "/etc/reviver/config.toml", runtime_dir: str = "/run/reviver") -> Settings:
    directories = DaemonSettings(runtime_dir=runtime_dir, state_dir="/var/lib/reviver", log_dir="/var/log/reviver")
    return Settings(path=path, daemon=directories, programs=programs)


@pytest.mark.parametrize(
    ("programs", "least_s"),
    [
        ((), 0.0),
        ((program("a", 100), program("b", 20)), 100.0),
        ((program("c", 30, "b"), program("a", 100), program("b", 20, "a", "d"), program("d", 5)), 150.0),
        ((program("a", 100, "not-here"),), 100.0),
    ],
)
def test_stop_takes_the_graces_of_the_longest_chain(programs: tuple[ProgramSettings, ...], least_s: float) -> None:
    assert least_s < stop_s(programs) <= max(systemd.STOP_LEAST_S, least_s + 4 * systemd.KILL_S + systemd.STOP_MARGIN_S)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("path", ["/etc/reviver/config.toml", '/srv/a b/100% "q" $HOME; it\'s \\.toml'])
def test_unit_passes_systemds_own_check(tmp_path: Path, user: bool, path: str) -> None:
    text = unit(settings(program("store", 30), path=path), [sys.executable], user=user)
    file = tmp_path / "reviver.service"
    file.write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", *(["--user"] if user else []), str(file)]
    done = subprocess.run(verify, capture_output=True, text=True, env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_unit_says_what_the_programs_need() -> None:
    lines = unit(settings(program("store", 300)), ["/opt/a b/reviver"]).splitlines()
    assert 'ExecStart="/opt/a b/reviver" run --config /etc/reviver/config.toml' in lines
    assert f"TimeoutStopSec={300 + systemd.KILL_S + systemd.STOP_MARGIN_S:.0f}" in lines
    for line in ("Type=notify", "NotifyAccess=main", "Restart=always", "OOMPolicy=continue", "Delegate=yes", "KillMode=process"):
        assert line in lines
    keys = {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}
    felt = {"NoNewPrivileges", "User", "PrivateTmp", "ProtectSystem", "ProtectHome", "SystemCallFilter", "OOMScoreAdjust", "UMask"}
    assert not keys & felt
    assert all(len(line) <= 140 for line in lines)


def test_unit_has_systemd_make_only_directories_in_its_own_places() -> None:
    usual = unit(settings(), ["/bin/reviver"])
    assert "RuntimeDirectory=reviver\nRuntimeDirectoryMode=0711\nStateDirectory=reviver\n" in usual
    for elsewhere in ("/srv/run", "/run", "/run/../srv", "/runner"):
        moved = unit(settings(runtime_dir=elsewhere), ["/bin/reviver"])
        assert "RuntimeDirectory=" not in moved
        assert "StateDirectory=reviver" in moved
    user = unit(settings(), ["/bin/reviver"], user=True)
    assert "Directory" not in user
    assert "CapabilityBoundingSet" not in user
    assert user.endswith("WantedBy=default.target\n")


# --- its installation -----------------------------------------------------------------------------------------------------------


def test_write_replaces_its_own_unit_and_leaves_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "new" / "reviver.service"
    command.write(path, "[Unit]\n", force=False)
    command.write(path, "[Unit]\nDescription=two\n", force=False)
    written = path.read_text()
    assert written.endswith("\n[Unit]\nDescription=two\n")
    assert path.stat().st_mode & 0o777 == 0o644
    for foreign in (written + "Nice=1\n", "[Unit]\n", written.replace("two", "2"), "\n"):
        path.write_text(foreign)
        with pytest.raises(Refusal, match=r"edited by somebody.*--force"):
            command.write(path, "[Unit]\n", force=False)
        assert path.read_text() == foreign
    command.write(path, "[Unit]\n", force=True)
    command.write(path, "[Unit]\n", force=False)
    assert os.listdir(path.parent) == ["reviver.service"]


def test_write_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match=r"cannot write .*: file exists"):
        command.write(tmp_path / "file" / "reviver.service", "[Unit]\n", force=True)
    taken = tmp_path / "reviver.service"
    taken.mkdir()
    with pytest.raises(Refusal, match=r"cannot write .*: is a directory"):
        command.write(taken, "[Unit]\n", force=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "reviver.service"]


# --- a real systemd -------------------------------------------------------------------------------------------------------------

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPT = os.environ.get("SYSTEMD_BOX", "")
GROUP = "/sys/fs/cgroup/system.slice/reviver.service"
WATCHDOG_S = 2  # a drop-in's: the unit's own is longer than a test may wait
SOON_S = 20.0
STALE = "/var/lib/stale"  # a handover that outlived its boot, as in a runtime directory on disk

CONFIG = """
[program.store]
command = ["gunicorn", "supervisor.demo.store:app", "--timeout", "0", "--graceful-timeout", "120"]
sockets = ["127.0.0.1:80"]
env = {{ PYTHONPATH = "{checkout}" }}
health.http = "/health"

[program.humble]
command = ["sh", "-c", "setsid sleep 1000 & systemd-notify --ready && exec sleep 1000"]
user = "nobody"
health.heartbeat = true
health.every = "60s"
hang.certain = "60s"
"""
ADDED = """
[program.added]
command = ["sleep", "1000"]
"""


class Box:
    """A booted systemd in a container, with this checkout and its Python in it, and a directory that both sides see."""

    def __init__(self, script: str, directory: Path) -> None:
        self.script = script
        self.directory = directory
        self.shared = directory / "shared"
        self.shared.mkdir()
        shown = [str(self.shared), *(str(path) for path in {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)})]
        self._script("start", *(f"--bind={path}" for path in shown))

    def _script(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        # files, not pipes: what the box starts for good would hold a pipe open for ever
        with open(self.directory / "out", "w+") as out, open(self.directory / "err", "w+") as err:
            done = subprocess.run([self.script, verb, str(self.directory), *words], stdout=out, stderr=err, timeout=60, check=False)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, out.read().strip(), err.read().strip())

    def run(self, *words: str) -> str:
        """The output of a command in the box, which must succeed."""
        done = self._script("run", *words)
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr} {self.journal()}"
        return done.stdout

    def said(self, *words: str) -> str:
        """The output of a command in the box, whatever came of it."""
        return self._script("run", *words).stdout

    def try_(self, *words: str) -> int:
        return self._script("run", *words).returncode

    def until(self, *words: str) -> None:
        """Until a shell's command succeeds in the box."""
        deadline = time.monotonic() + SOON_S
        while self.try_("sh", "-c", *words) != 0:
            assert time.monotonic() < deadline, f"{words} failed for {SOON_S} s: {self.journal()}"
            time.sleep(0.1)

    def leader(self) -> psutil.Process:
        """Its PID 1, as this host sees it: beneath systemd-nspawn, which a keeper starts."""
        (nspawn,) = psutil.Process(int((self.directory / "keeper").read_text())).children()
        (first,) = nspawn.children()
        return first

    def shown(self, key: str) -> str:
        return self.run("systemctl", "show", "reviver", "--property", key, "--value")

    def journal(self) -> str:
        return self.said("journalctl", "--no-pager", "-q", "-n", "60", "-u", "reviver")

    def stop(self) -> None:
        """Shut it down, and see that nothing of it is left on this host."""
        done = self._script("stop")
        assert done.returncode == 0, done.stderr
        assert str(self.directory) not in Path("/proc/self/mounts").read_text()
        inside = [entry for entry in Path("/proc").glob("[0-9]*/root") if str(self.directory) in _target(entry)]
        assert not inside


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # its process ended meanwhile
        return ""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    if not SCRIPT:
        pytest.skip("$SYSTEMD_BOX does not name the script that boots a systemd")
    if os.geteuid() != 0:
        pytest.skip("booting a systemd needs root")
    box = Box(SCRIPT, tmp_path)
    try:
        yield box
    finally:
        box.stop()


def test_under_a_real_systemd(box: Box) -> None:
    """Installed, started, reloaded, stuck, killed, misconfigured, rebooted, stopped: one box for all of it."""
    reviver = install(box)
    box.run("systemctl", "start", "reviver")
    assert box.shown("StatusText"), "READY=1 comes with a status"
    main = box.shown("MainPID")
    box.until("curl -sf http://127.0.0.1/health")
    until_ready(box, reviver, {"store", "humble"})
    humble = box.run("pgrep", "-u", "nobody", "-x", "sleep").split()[0]
    assert "NoNewPrivs:\t0" in box.run("cat", f"/proc/{humble}/status")

    with open(box.shared / "config.toml", "a") as config:
        config.write(ADDED)
    box.run("systemctl", "reload", "reviver")
    until_ready(box, reviver, {"store", "humble", "added"})
    assert box.shown("MainPID") == main, "a reload is no restart"

    before = instances(box, reviver)
    for restarts, (end, why) in enumerate((("STOP", "watchdog"), ("KILL", "killed")), start=1):
        main = box.shown("MainPID")
        assert int(box.shown("NFileDescriptorStore")) > len(before), "a socket, and something of each instance"
        box.run("kill", f"-{end}", main)
        box.run("curl", "-sf", "http://127.0.0.1/health")
        box.until(f"test $(systemctl show reviver -P NRestarts) = {restarts} && systemctl is-active reviver")
        until_ready(box, reviver, {"store", "humble", "added"})
        assert why in box.journal().lower()
        assert box.shown("MainPID") != main
        assert instances(box, reviver) == before, "a program was restarted because of us"

    main = box.shown("MainPID")
    assert "gave way" in box.run(reviver, "upgrade")
    assert box.shown("MainPID") != main
    until_ready(box, reviver, {"store", "humble", "added"})
    assert instances(box, reviver) == before

    config = box.shared / "config.toml"
    good = config.read_text()
    config.write_text("[program.store]\n")
    box.run("kill", "-KILL", box.shown("MainPID"))
    box.until("journalctl -q -n 20 -u reviver | grep 'configuration has'")
    config.write_text(good)
    box.until("systemctl is-active reviver")
    until_ready(box, reviver, {"store", "humble", "added"})
    assert instances(box, reviver) == before, "a bad configuration is no reason to leave programs alone"

    reboots(box, reviver)

    box.run("systemctl", "stop", "reviver")
    assert box.shown("Result") == "success"
    assert box.try_("sh", "-c", f"grep -q . {GROUP}/cgroup.procs {GROUP}/*/cgroup.procs") != 0, "a stop left processes behind"
    assert box.try_("pgrep", "-x", "sleep") != 0
    assert box.try_("test", "-e", "/run/reviver") != 0

    config.write_text("[program.store]\n")
    assert box.try_("systemctl", "start", "reviver") != 0
    assert (box.shown("ActiveState"), box.shown("ExecMainStatus")) == ("failed", "78"), "it is not started again and again"
    assert "command" in box.journal()


def reboots(box: Box, reviver: str) -> None:
    """In order, and as by a loss of power with an incident open: what ran is begun anew, by itself, and what is known goes on."""
    box.run("systemctl", "enable", "reviver")
    reboot(box, reviver)
    store = next(pid for id, pid in instances(box, reviver).items() if id.startswith("store:"))
    box.run("kill", "-KILL", str(store))
    until_ready(box, reviver, {"store", "humble", "added"})
    box.run("cp", "-r", "/run/reviver/handover", STALE)
    box.run("sh", "-c", f"echo 'C /run/reviver/handover - - - - {STALE}' >/etc/tmpfiles.d/stale.conf")
    reboot(box, reviver, "--force", "--force")
    incidents = json.loads(box.run(reviver, "incidents", "--json"))["incidents"]
    assert [each["over"] for each in incidents if each["program"] == "store"] == [None], "it goes on, and no other begins"
    assert "adopted" not in box.run("journalctl", "-q", "-b", "-u", "reviver"), "a handover of another boot names nobody who lives"


def reboot(box: Box, reviver: str, *how: str) -> None:
    """Reboot the box, and wait until all is ready again, each under a number that nobody had before."""
    before, leader = instances(box, reviver), box.leader()
    box.said("systemctl", "reboot", *how)
    leader.wait(SOON_S)  # whoever enters the box while it goes down may never come back
    box.until("curl -sf http://127.0.0.1/health")
    until_ready(box, reviver, {"store", "humble", "added"})
    assert not before.keys() & instances(box, reviver).keys()


def instances(box: Box, reviver: str) -> dict[str, int]:
    """The pid of each instance."""
    status = json.loads(box.run(reviver, "status", "--json"))
    return {instance["id"]: instance["pid"] for program in status["programs"] for instance in program["instances"]}


def until_ready(box: Box, reviver: str, names: set[str]) -> None:
    """Until exactly these programs are ready."""
    deadline = time.monotonic() + SOON_S
    states: dict[str, str] = {}
    while states.keys() != names or set(states.values()) != {"ready"}:
        assert time.monotonic() < deadline, f"{states} {box.journal()}"
        time.sleep(0.1)
        answer = box.said(reviver, "status", "--json")
        states = {program["name"]: program["state"] for program in json.loads(answer)["programs"]} if answer else {}


def install(box: Box) -> str:
    """Install the unit by the command itself, and return that."""
    reviver = box.shared / "reviver"
    reviver.write_text(
        f"#!{sys.executable}\n"
        f"import os, sys\n"
        f"sys.path.insert(0, {str(CHECKOUT)!r})\n"
        f"os.environ['PYTHONPATH'] = {str(CHECKOUT)!r}\n"
        f"from cli import main\n"
        f"main()\n"
    )
    reviver.chmod(0o755)
    config = box.shared / "config.toml"
    config.write_text(CONFIG.format(checkout=CHECKOUT))
    said = box.run(str(reviver), "systemd", "install", "--config", str(config))
    assert "systemctl enable --now reviver" in said
    box.run("mkdir", "/etc/systemd/system/reviver.service.d")
    box.run("sh", "-c", f"printf '[Service]\\nWatchdogSec={WATCHDOG_S}\\n' >/etc/systemd/system/reviver.service.d/test.conf")
    box.run("systemctl", "daemon-reload")
    return str(reviver)
