"""The whole supervisor on real processes: what an operator would see, and what is left when it is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervised import READY, SLEEPER, Supervised, answering_page, free_port, python


def test_a_program_that_dies_is_started_again_and_people_are_told_once(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text(f'#!/bin/sh\necho "$REVIVER_KEY" >> {tmp_path}/told\n')
    page.chmod(0o755)
    programs = f"""
[program.app]
command = {python(SLEEPER)}
[program.app.restart]
healthy = "1s"
[[escalation]]
notify = ["command:{page}"]
"""
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("instance.ready", subject="app:1")
        (pid,) = daemon.pids()
        os.kill(pid, signal.SIGSEGV)
        assert "SIGSEGV" in daemon.until("instance.failed", subject="app:1")["text"]
        daemon.until("instance.ready", subject="app:2")
        daemon.until("incident.closed")
        assert daemon.status("app")["restarts"] == 1
        daemon.wait_for(lambda: "over" in (tmp_path / "told").read_text())
        daemon.signal(signal.SIGTERM)
        daemon.rest()
        assert daemon.process.returncode == 0
        assert daemon.pids() == []
    assert (tmp_path / "told").read_text().split() == ["crash", "over"]


def test_a_stop_ends_the_whole_tree_with_daemons_that_left_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        while True: signal.pause()\n"
        "    os._exit(0)\n"
        f"os.wait()\n{SLEEPER}"
    )
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(code)}\n") as daemon:
        daemon.until("instance.ready")
        assert len(daemon.pids()) == 2
        answer = daemon.ask("stop", "app")
        assert answer.returncode == 0, answer.stderr
        assert daemon.pids() == []
        assert daemon.status("app")["state"] == "stopped"


def test_one_that_ignores_its_stop_signal_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN){READY}while True: signal.pause()"
    with Supervised(tmp_path, f'[program.app]\ncommand = {python(code)}\ngrace = "300ms"\n') as daemon:
        daemon.until("instance.ready")
        daemon.signal(signal.SIGTERM)
        assert "grace" in daemon.until("instance.condemned")["text"]
        daemon.rest()
        assert daemon.process.returncode == 0
        assert daemon.pids() == []


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN){READY}while True: signal.pause()"
    with Supervised(tmp_path, f'[program.app]\ncommand = {python(code)}\ngrace = "1h"\n') as daemon:
        daemon.until("instance.ready")
        daemon.signal(signal.SIGTERM)
        daemon.until("instance.retired")
        daemon.signal(signal.SIGTERM)
        daemon.rest()
        assert daemon.process.returncode == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('["no-such-command-anywhere"]', "command not found"),
        ('["./plain"]', "not executable"),
    ],
)
def test_a_command_that_cannot_be_executed_is_said_with_the_reason_and_is_no_crash_loop(
    tmp_path: Path, command: str, words: str
) -> None:
    (tmp_path / "plain").write_text("echo")
    with Supervised(tmp_path, f'[program.app]\ncommand = {command}\ndirectory = "{tmp_path}"\n') as daemon:
        assert words in daemon.until("instance.failed")["text"]
        assert daemon.status("app")["state"] == "failed"
        explained = daemon.ask("explain", "app")
        assert words in explained.stdout


def test_a_busy_port_is_said_with_its_owner_and_others_are_not_held_up(tmp_path: Path) -> None:
    port = free_port()
    programs = f"""
[program.app]
command = {python(SLEEPER)}
sockets = ["127.0.0.1:{port}"]
[program.other]
command = {python(SLEEPER)}
"""
    with answering_page(port), Supervised(tmp_path, programs) as daemon:
        daemon.until("instance.ready", subject="other:1")
        text = daemon.until("instance.failed", subject="app:1")["text"]
        assert f"127.0.0.1:{port}" in text
        assert str(os.getpid()) in text


def test_a_preflight_that_fails_keeps_the_old_build_and_one_that_passes_rolls(tmp_path: Path) -> None:
    def program(preflight: str, mark: str) -> str:
        return f'[program.app]\ncommand = {python(SLEEPER)}\npreflight = [{preflight}]\nenv = {{ MARK = "{mark}" }}\n'

    with Supervised(tmp_path, program("", "1")) as daemon:
        daemon.until("instance.ready", subject="app:1")
        daemon.write(program(f'["{sys.executable}", "-c", "import sys; sys.exit(\'does not compile\')"]', "2"))
        daemon.signal(signal.SIGHUP)
        assert "does not compile" in daemon.until("preflight.failed")["text"]
        daemon.until("build.refused")
        assert [i["id"] for i in daemon.status("app")["instances"]] == ["app:1"]
        daemon.write(program('["true"]', "3"))
        answer = daemon.ask("apply")
        assert answer.returncode == 0, answer.stderr
        assert [i["id"] for i in daemon.status("app")["instances"]] == ["app:2"]


def test_hang_up_says_what_it_did_and_why_it_refused(tmp_path: Path) -> None:
    program = f"[program.app]\ncommand = {python(SLEEPER)}\n"
    with Supervised(tmp_path, program) as daemon:
        daemon.until("instance.ready", subject="app:1")
        daemon.write(program + 'grace = "-1s"\nintances = 3\n')
        daemon.signal(signal.SIGHUP)
        assert "changed nothing" in daemon.until("config.refused")["text"]
        faults = {daemon.until("config.refused")["text"].split(": ")[1] for _ in range(2)}
        assert faults == {'program.app.grace = "-1s"', "program.app.intances"}
        daemon.write(program + 'grace = "3s"\n')
        daemon.signal(signal.SIGHUP)
        assert "app (update)" in daemon.until("config.applied")["text"]
        assert "app (update)" in daemon.ask("events").stdout
        daemon.signal(signal.SIGTERM)
        assert daemon.rest()[-1]["text"] == "ended: all programs are stopped"


def test_a_hang_without_a_way_to_live_side_by_side_is_killed_once_proven(tmp_path: Path) -> None:
    port = free_port()
    code = (
        "import os, socket\n"
        f"s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', {port})); s.listen()\n"
        "while True:\n"
        "    c, _ = s.accept()\n"
        "    data = c.recv(1000)\n"
        "    while b'hang' in data: pass\n"
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok'); c.close()\n"
    )
    programs = f"""
[program.app]
command = {python(code)}
[program.app.health]
http = "http://127.0.0.1:{port}/health"
every = "200ms"
[program.app.hang]
suspect = "300ms"
certain = "1s"
"""
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("instance.ready", subject="app:1")
        with socket.create_connection(("127.0.0.1", port)) as customer:
            customer.sendall(b"GET /hang HTTP/1.1\r\n\r\n")
            daemon.until("instance.suspected", subject="app:1")
            assert "hung" in daemon.until("instance.condemned", subject="app:1")["text"]
        daemon.until("instance.ready", subject="app:2")


@pytest.mark.parametrize(("invocation", "words"), [("0123", "kept by systemd"), (None, "unguarded")])
def test_the_banner_says_whether_somebody_restarts_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invocation: str | None, words: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    if invocation is not None:
        monkeypatch.setenv("INVOCATION_ID", invocation)
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as daemon:
        assert words in daemon.until("daemon.started")["text"]


def test_a_second_supervisor_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as first:
        first.until("instance.ready")
        with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as second:
            second.process.wait(30)
            (line,) = second.rest()
            assert str(first.process.pid) in line["text"]
            assert second.process.returncode == 1


def test_an_unwritable_state_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file stands here")
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as daemon:
        daemon.process.wait(30)
        (line,) = daemon.rest()
        assert str(tmp_path / "state") in line["text"]
        assert daemon.process.returncode == 1


def test_a_bad_configuration_is_said_fault_by_fault_with_exit_code_78(tmp_path: Path) -> None:
    with Supervised(tmp_path, '[program.app]\ncommand = "x"\ninstnaces = 2\ngrace = 10\n') as daemon:
        daemon.process.wait(30)
        texts = " ".join(line["text"] for line in daemon.rest())
        assert "did you mean `instances`?" in texts
        assert "grace" in texts
        assert daemon.process.returncode == 78


def test_output_is_kept_and_a_program_that_says_it_is_ready_is(tmp_path: Path) -> None:
    code = (
        "import os, signal, socket\n"
        "print('hello from the program')\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "s.send(b'READY=1\\nSTATUS=serving')\n"
        "signal.pause()"
    )
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(code)}\n") as daemon:
        assert "READY=1" in daemon.until("instance.ready")["text"]
        assert "hello from the program" in daemon.ask("logs", "app").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of one's own is mounted by root alone")
def test_a_full_disk_under_the_logs_never_stops_the_program_and_the_loss_is_said(tmp_path: Path) -> None:
    code = f"{READY}for n in range(40): os.write(1, b'x' * 99999 + b'\\n')\nsignal.pause()"
    (tmp_path / "log").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "log")], check=True)
    try:
        programs = f'[program.app]\ncommand = {python(code)}\ndirectory = "{tmp_path}"\n'
        with Supervised(tmp_path, programs) as daemon:
            daemon.until("daemon.warned", lambda line: "app" in line["text"] and "full" in line["text"].lower())
            daemon.wait_for(lambda: daemon.status("app")["state"] == "ready")
    finally:
        subprocess.run(["umount", str(tmp_path / "log")], check=True)


def test_status_json_has_the_names_that_scripts_rely_on(tmp_path: Path) -> None:
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as daemon:
        daemon.until("instance.ready")
        found = json.loads(daemon.ask("status", "--json").stdout)
    assert set(found) == {"daemon", "programs", "channels"}
    assert set(found["daemon"]) >= {"pid", "version", "uptime_s", "config"}
    (program,) = found["programs"]
    assert {"name", "wanted", "state", "release", "restarts", "incident", "instances"} <= set(program)
    names = {"id", "state", "role", "pid", "since", "uptime_s", "cpu_ratio", "rss_bytes", "workers", "verdict"}
    assert names <= set(program["instances"][0])


def test_a_program_stopped_by_an_operator_stays_so_after_the_supervisor_died(tmp_path: Path) -> None:
    with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as first:
        first.until("instance.ready", subject="app:1")
        assert first.ask("stop", "app").returncode == 0
        first.process.kill()
        first.process.wait()
        with Supervised(tmp_path, f"[program.app]\ncommand = {python(SLEEPER)}\n") as second:
            second.until("daemon.started")
            assert (second.status("app")["wanted"], second.status("app")["instances"]) == ("down", [])


def test_a_crash_is_named_from_the_traceback_that_the_program_wrote(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def total(cart):\n    return sum(cart) / len(cart)\n\ntotal([])\n")
    programs = f'[program.app]\ncommand = ["{sys.executable}", "shop.py"]\ndirectory = "{tmp_path}"\n'
    with Supervised(tmp_path, programs) as daemon:
        text = daemon.until("evidence.taken")["text"]
        assert "ZeroDivisionError" in text
        assert "shop.py:2 total()" in text


def test_the_next_start_waits_at_its_gate_becomes_the_instance_and_is_gone_after_a_stop(tmp_path: Path) -> None:
    programs = f'[program.app]\ncommand = {python(SLEEPER)}\n[program.app.restart]\nhealthy = "1s"\n'
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("instance.ready", subject="app:1")
        daemon.wait_for(lambda: len(daemon.pids()) == 2)
        found = json.loads(daemon.ask("status", "app", "--json").stdout)  # a command's start later the other is kept
        (first,) = [instance["pid"] for instance in found["programs"][0]["instances"]]
        (waiting,) = set(daemon.pids()) - {first}
        os.kill(first, signal.SIGKILL)
        daemon.until("instance.started", lambda line: f"pid {waiting}" in line["text"])
        daemon.until("instance.ready", subject="app:2")
        assert daemon.ask("stop", "app").returncode == 0
        daemon.wait_for(lambda: daemon.pids() == [])
