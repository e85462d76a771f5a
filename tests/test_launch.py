"""Starting real processes: what they are given, how they wait, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.mechanism import exits, gate, tree
from supervisor.mechanism.launch import Child, LaunchError, Preflight, launch, open_gate, run_preflight
from supervisor.mechanism.spawn import spawn
from supervisor.model import Build, InstanceId, LaunchSettings, Limits, OutputTo, RunPreflight, Spawn
from tests.processes import as_subreaper, gone_within

ID = InstanceId("store", 8)
ENVIRON = {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": "/run/systemd/notify", "LISTEN_FDS": "2", "WATCHDOG_USEC": "1", "KEPT": "yes"}
ROOT = os.geteuid() == 0
SHOW = """
import json, os, resource, sys
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
print(json.dumps({
    "pid": os.getpid(), "sid": os.getsid(0), "pgid": os.getpgid(0), "cwd": os.getcwd(), "argv": sys.argv[1:], "env": dict(os.environ),
    "fds": [fd for fd in range(64) if is_open(fd)],
    "stdin": os.readlink("/proc/self/fd/0"), "umask": os.umask(0), "nice": os.nice(0),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE),
}))
"""


@pytest.fixture(scope="module", autouse=True)
def sealed() -> None:
    """Whatever runs the tests may have left descriptors open for us."""
    gate.seal()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before
    assert not tree.tree(os.getpid())[1:]


def start(
    *command: str,
    sockets: Sequence[int] = (),
    environ: Mapping[str, str] = ENVIRON,
    notify: str = "",
    to: OutputTo = OutputTo.FILE,
    **settings: Any,
) -> Child:
    directory = settings.setdefault("directory", "/")
    build = Build(1, "", LaunchSettings(command=command, **settings), directory)
    return launch(Spawn(ID, build), sockets, environ, notify, to)


def finish(child: Child) -> tuple[str, int | None]:
    """Open its gate, and give what it wrote and how it ended."""
    open_gate(child.gate, str(child.id))
    output = b""
    if child.output >= 0:
        os.set_blocking(child.output, True)
        with open(child.output, "rb") as reader:
            output = reader.read()
    return output.decode(), ended(child)


def ended(child: Child) -> int | None:
    status, _ = exits.waited(os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED))
    os.close(child.pidfd)
    return status


def discard(child: Child) -> int | None:
    os.close(child.gate)
    if child.output >= 0:
        os.close(child.output)
    return ended(child)


def shown(**settings: Any) -> dict[str, Any]:
    output, status = finish(start(sys.executable, "-c", SHOW, "{fd}", "{fd:2}", "{x}", **settings))
    assert status == 0, output
    result: dict[str, Any] = json.loads(output)
    return result


def refused(*command: str, **settings: Any) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        start(*command, **settings)
    return caught.value


# --- what it is given -----------------------------------------------------------------------------------------------------------


def test_launch_gives_a_process_of_its_own(tmp_path: Path) -> None:
    child = start(sys.executable, "-c", SHOW, directory=str(tmp_path), umask=0o027)
    assert child.start_ticks == tree.start_ticks(child.pid)
    found = json.loads(finish(child)[0])
    assert found["pid"] == found["sid"] == found["pgid"] == child.pid
    assert found["cwd"] == str(tmp_path)
    assert found["umask"] == 0o027
    assert found["stdin"] == "/dev/null"
    assert found["fds"] == [0, 1, 2]


def test_spawn_hands_over_exactly_what_it_is_given() -> None:
    reader, writer = os.pipe()
    pid = spawn(["/usr/bin/env"], {}, {1: writer, 2: writer})
    os.close(writer)
    with open(reader, "rb") as said:
        assert said.read() == b"", "no variable of ours"
    assert os.waitpid(pid, 0) == (pid, 0)
    for words, environ in ((["/bin/echo", "a\0b"], {}), (["/bin/echo"], {"A": "b\0"})):
        with pytest.raises(ValueError, match="null"):
            spawn(words, environ, {})
    with pytest.raises(FileNotFoundError):
        spawn(["/bin/never"], {}, {})


def test_launch_gives_no_blocked_and_no_ignored_signal() -> None:
    """SIGPIPE among them, which Python ignores. Beyond the standard 31 the C library's posix_spawn keeps two for itself."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        output, _ = finish(start("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGHUP, hang_up)
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in output.splitlines()] == [0, 0]


def test_launch_environment_is_ours_under_the_settings() -> None:
    found = shown(env=(("KEPT", "changed"), ("ADDED", "a 'quoted' $value\nof two lines")), notify="/run/reviver/notify")["env"]
    assert found["KEPT"] == "changed"
    assert found["ADDED"] == "a 'quoted' $value\nof two lines"
    assert found["REVIVER_INSTANCE"] == "store:8"
    assert found["NOTIFY_SOCKET"] == "/run/reviver/notify"
    assert found["PATH"] == f"/usr/bin:/bin:{os.path.dirname(sys.executable)}"
    assert not found.keys() & {"LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "OLDPWD"}


def test_launch_environment_never_carries_what_is_ours_alone() -> None:
    found = shown()
    assert "NOTIFY_SOCKET" not in found["env"]
    assert found["env"]["REVIVER_PID"] == str(found["pid"])


def test_launch_environment_keeps_names_that_a_shell_cannot_have() -> None:
    assert shown(env=(("spring.port", "80 81"), ("A-B", "")))["env"].items() >= {"spring.port": "80 81", "A-B": ""}.items()


def test_launch_takes_the_programs_own_path(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert finish(start("tool", env=(("PATH", str(tmp_path)),)))[0] == "found\n"


def test_launch_sets_limits_and_nice() -> None:
    found = shown(limits=Limits(nofile=77, core=0), nice=3)
    assert found["nofile"] == [77, 77]
    assert found["core"] == [0, 0]
    assert found["nice"] == os.nice(0) + 3 == 3


def test_widen_is_for_ourselves_alone() -> None:
    given = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given[0] - 1, given[1]))
    try:
        gate.widen()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (given[1], given[1])
        assert tuple(shown()["nofile"]) == given
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, given)


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash", "/bin/busybox"])
def test_launch_hands_many_sockets_over_in_order(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    """Twelve, backwards: their own numbers overlap with those they become, and have more digits than a shell can redirect."""
    if not os.path.exists(shell):
        pytest.skip(f"this host has no {shell}")
    monkeypatch.setattr(gate, "GATE", shell)
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(12)]
    try:
        code = """
import json, os, socket, sys
sockets = [socket.socket(fileno=fd) for fd in range(3, 15)]
ports = [one.getsockname()[1] for one in sockets]
print(json.dumps([ports, os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"], os.environ["LISTEN_FDNAMES"], os.getpid(),
    [os.get_blocking(fd) for fd in range(3, 15)], sorted(map(int, os.listdir("/proc/self/fd")))[:-1], sys.argv[1:]]))
"""
        child = start(
            sys.executable, "-c", code, "{fd}", "--bind=fd://{fd:12}", "{x}", sockets=[one.fileno() for one in reversed(held)]
        )
        output, status = finish(child)
        assert status == 0, output
        ports, count, pid, names, own_pid, blocking, fds, argv = json.loads(output)
        assert ports == [one.getsockname()[1] for one in reversed(held)]
        assert (count, int(pid), names) == ("12", own_pid, ":".join(["store"] * 12))
        assert all(blocking)
        assert fds == list(range(15))
        assert argv == ["3", "--bind=fd://14", "{x}"]
        assert not any(one.get_inheritable() for one in held)
    finally:
        for one in held:
            one.close()


def test_seal_keeps_given_descriptors_from_programs(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        assert lock.fileno() in shown()["fds"]
        gate.seal()
        assert lock.fileno() not in shown()["fds"]


@pytest.mark.parametrize("to", [OutputTo.NULL, OutputTo.INHERIT])
def test_launch_output_elsewhere_is_not_ours_to_read(tmp_path: Path, to: OutputTo) -> None:
    """The shell's own standard output is the file while readlink runs: its standard error tells."""
    seen = tmp_path / "seen"
    child = start("/bin/sh", "-c", f"readlink /proc/$$/fd/2 > {seen}", to=to)
    assert child.output == -1
    assert finish(child)[1] == 0
    assert seen.read_text().strip() == ("/dev/null" if to is OutputTo.NULL else os.readlink("/proc/self/fd/2"))


def test_launch_output_outlives_its_reader(tmp_path: Path) -> None:
    """The reader is gone when it writes: no SIGPIPE, and the next reader finds it all."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = start("/bin/sh", "-c", f"echo early; read -r _ < {fifo}; echo late; read -r _ < {fifo}")
    open_gate(child.gate, str(child.id))
    os.close(child.output)
    fifo.write_text("go\n")
    with open(f"/proc/{child.pid}/fd/1", "rb", buffering=0) as successor:
        seen = b""
        while b"late" not in seen:
            seen += successor.read(100)
    assert seen == b"early\nlate\n"
    fifo.write_text("go\n")
    assert ended(child) == 0


def test_launch_output_does_not_block_us() -> None:
    child = start("/bin/true")
    with pytest.raises(BlockingIOError):
        os.read(child.output, 1)
    discard(child)


# --- the gate -------------------------------------------------------------------------------------------------------------------


def test_gate_that_is_never_opened_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    assert discard(start("touch", str(ran))) == gate.NOT_OPENED
    assert not ran.exists()


def test_gate_of_a_dead_supervisor_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"""
import os, signal
from tests.test_launch import start
print(start("touch", {str(ran)!r}, environ=dict(os.environ)).pid, flush=True)
signal.pause()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    with supervisor.stdout, as_subreaper():
        pidfd = os.pidfd_open(int(supervisor.stdout.readline()))
        supervisor.kill()
        supervisor.wait()
        assert gone_within(pidfd, 10)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    assert not ran.exists()


def test_gate_of_a_dead_child_opens_without_an_error() -> None:
    child = start("/bin/true")
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    assert gone_within(child.pidfd, 10)
    open_gate(child.gate, str(child.id))
    os.close(child.output)
    assert ended(child) == -signal.SIGKILL


# --- users ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ROOT, reason="only root may become another user")
@pytest.mark.parametrize("has_setpriv", [True, False])
def test_launch_as_another_user(monkeypatch: pytest.MonkeyPatch, has_setpriv: bool) -> None:
    if not has_setpriv:
        monkeypatch.setattr(gate, "_setpriv", lambda: "")
    user = pwd.getpwnam("nobody")
    script = (
        "id -u; id -ru; id -g; id -G; echo $HOME $USER $LOGNAME $LD_X; "
        "grep -E 'Cap(Eff|Prm)' /proc/self/status; echo opened > /dev/stdout"
    )
    output, status = finish(start("/bin/sh", "-c", script, user="nobody", env=(("LD_X", "kept"),)))
    assert status == 0, output
    lines = output.splitlines()
    assert lines[:3] == [str(user.pw_uid), str(user.pw_uid), str(user.pw_gid)]
    assert set(map(int, lines[3].split())) == set(os.getgrouplist("nobody", user.pw_gid))
    assert lines[4] == f"{user.pw_dir} nobody nobody kept"
    assert all(int(line.split()[1], 16) == 0 for line in lines[5:7])
    assert lines[7] == "opened"


@pytest.mark.skipif(not ROOT, reason="only root may become another user")
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/dash", "/bin/busybox"])
def test_launch_limits_another_user(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    if not os.path.exists(shell):
        pytest.skip(f"this host has no {shell}")
    monkeypatch.setattr(gate, "GATE", shell)
    given = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = "grep -E 'open files|core' /proc/self/limits; nice"
    plain = finish(start("/bin/sh", "-c", script, user="nobody"))[0].split()
    limited = finish(start("/bin/sh", "-c", script, user="nobody", limits=Limits(nofile=77, core=0), nice=4))[0].split()
    assert plain[-1] == str(os.nice(0))
    assert list(map(int, plain[plain.index("open") + 2 :][:2])) == list(given)
    assert limited[limited.index("open") + 2 :][:2] == ["77", "77"]
    assert limited[limited.index("core") + 3 :][:2] == ["0", "0"]
    assert limited[-1] == "4"


@pytest.mark.skipif(not ROOT, reason="only root may become another user")
@pytest.mark.parametrize("has_setpriv", [True, False])
def test_launch_with_another_group_keeps_the_user(monkeypatch: pytest.MonkeyPatch, has_setpriv: bool) -> None:
    if not has_setpriv:
        monkeypatch.setattr(gate, "_setpriv", lambda: "")
    output, _ = finish(start("/bin/sh", "-c", "id -u; id -g; id -G", group="daemon"))
    gid = gate._group("daemon")
    assert output.splitlines() == ["0", str(gid), " ".join(map(str, [gid, *sorted(set(os.getgroups()) - {gid})]))]


@pytest.mark.skipif(not ROOT, reason="only root may become another user")
def test_launch_gives_root_no_variable_that_loads_code() -> None:
    """What runs as root before the user's shell must not read what the user may have put into an env file."""
    settings = LaunchSettings(command=("true",), user="nobody")
    env = {"LD_PRELOAD": "evil.so", "GLIBC_TUNABLES": "x", "LC_ALL": "x", "LDAP_PASSWORD": "secret", "PATH": "/bin"}
    words, clean = gate._gated(("/bin/true",), "/", settings, env, gate.owner_of(settings), False)
    assert clean == {"LDAP_PASSWORD": "secret", "PATH": "/bin"}
    assert "export LD_PRELOAD=evil.so; " in words[words.index("-c") + 1]
    assert "secret" not in " ".join(words)


def test_launch_as_ourselves_needs_no_right() -> None:
    assert gate._dropping(gate.owner_of(LaunchSettings(command=("true",), user=pwd.getpwuid(os.geteuid()).pw_name)), 0) == []


# --- failures -------------------------------------------------------------------------------------------------------------------


def test_launch_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    absent, script = tmp_path / "absent", tmp_path / "script"
    cases = {
        "command not found": refused("no-such-command"),
        "not executable": refused(str(script)),
        f"directory {absent} does not exist (create it, or correct directory)": refused("/bin/true", directory=str(absent)),
        f"{script} is no directory (correct directory)": refused("/bin/true", directory=str(script)),
        "user nosuchuser does not exist on this host (create it, or correct user)": refused("/bin/true", user="nosuchuser"),
        "group nosuchgroup does not exist on this host (create it, or correct group)": refused("/bin/true", group="nosuchgroup"),
        "its command or environment holds a NUL character": refused("/bin/true", "a\0b"),
        "argument list too long (shorten command or env)": refused("/bin/true", env=(("LONG", "x" * 200_000),)),
    }
    for words, error in cases.items():
        assert words in error.text
        assert error.permanent


def test_launch_without_descriptors_is_no_fault_of_the_program() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = [fd for fd in range(1024) if fd not in used]
    try:
        for spare in range(1, 5):  # so many are left: it fails at another place each time
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], hard))
            error = refused("/bin/true")
            assert not error.permanent
            assert "too many open files (raise the limit of open files of Reviver itself)" in error.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_launch_that_fails_halfway_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", deny)
    error = refused("/bin/true")
    assert not error.permanent
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.skipif(ROOT, reason="root may do all of this")
def test_launch_beyond_our_own_rights_says_so() -> None:
    assert "Reviver itself is not root" in refused("/bin/true", user="root").text
    assert "cannot set nice to -5" in refused("/bin/true", nice=-5).text
    assert "cannot set limits.nofile" in refused("/bin/true", limits=Limits(nofile=1 << 19)).text


# --- preflight ------------------------------------------------------------------------------------------------------------------


def effect(*commands: tuple[str, ...], timeout_s: float = 20.0, directory: str = "/", **settings: Any) -> RunPreflight:
    launch_settings = LaunchSettings(command=("true",), preflight=commands, directory=directory, **settings)
    return RunPreflight("store", Build(1, "", launch_settings, directory), timeout_s)


def test_preflight_runs_in_order_in_the_directory_until_one_fails(tmp_path: Path) -> None:
    said = run_preflight(
        effect(
            ("sh", "-c", "echo $WHO > one"), ("sh", "-c", "cat one; echo; echo broken >&2; exit 3"), ("touch", "two"),
            directory=str(tmp_path), env=(("WHO", "me"),),
        ),
        ENVIRON,
    )  # fmt: skip
    assert said == "preflight `sh -c 'cat one; echo; echo broken >&2; exit 3'` failed: exit code 3: me | broken"
    assert not (tmp_path / "two").exists()


def test_preflight_that_succeeds_says_nothing() -> None:
    assert run_preflight(effect(("true",), ("sh", "-c", "echo fine")), ENVIRON) == ""


def test_preflight_without_its_command_says_so() -> None:
    said = run_preflight(effect(("no-such-command",)), ENVIRON)
    assert said.startswith("preflight `no-such-command` could not start: no-such-command: command not found")


def test_preflight_killed_by_a_signal_says_so() -> None:
    assert run_preflight(effect(("sh", "-c", "kill -SEGV $$")), ENVIRON).startswith(
        "preflight `sh -c 'kill -SEGV $$'` failed: killed by SIGSEGV"
    )


def test_preflight_keeps_only_the_end_of_a_flood() -> None:
    said = run_preflight(
        effect(("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\n\\033[31mlast words\\n'; exit 1")), ENVIRON
    )
    assert said.endswith("?[31mlast words")
    assert len(said) < 500


def test_preflight_too_slow_is_killed_with_all_it_started(tmp_path: Path) -> None:
    with as_subreaper():
        pids = tmp_path / "pids"
        script = f"echo waiting; setsid -f sh -c 'echo $$ >> {pids}; exec sleep 60'; echo $$ >> {pids}; exec sleep 60"
        said = run_preflight(effect(("sh", "-c", script), timeout_s=0.5), ENVIRON)
        assert said.endswith("was not done within 0.5 s and was killed: waiting")
        assert len(pids.read_text().split()) == 2
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split())


def test_preflight_leaves_nothing_running_when_it_succeeds(tmp_path: Path) -> None:
    with as_subreaper():
        pid = tmp_path / "pid"
        assert run_preflight(effect(("sh", "-c", f"sleep 60 & echo $! > {pid}")), ENVIRON) == ""
        assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_preflight_is_ended_from_another_thread(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    preflight = Preflight(effect(("sh", "-c", f"echo > {fifo}; exec sleep 60"), ("touch", str(tmp_path / "next"))), ENVIRON)

    def end() -> None:
        fifo.read_text()
        preflight.end()

    ender = threading.Thread(target=end)
    ender.start()
    assert preflight.run().endswith("was ended because Reviver stops")
    ender.join()
    preflight.end()  # too late, and no error
    assert not (tmp_path / "next").exists()


def test_preflight_that_was_ended_before_it_began_runs_nothing(tmp_path: Path) -> None:
    preflight = Preflight(effect(("sleep", "60")), ENVIRON)
    preflight.end()
    assert preflight.run() == "preflight `sleep 60` was ended because Reviver stops"
