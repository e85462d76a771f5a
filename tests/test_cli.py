"""The command line as an operator has it: real processes, a real socket, exit codes, and never a traceback."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.lanes import Lane
from supervisor.model import Note
from supervisor.records.journal import Journal
from tests.control import Running, running, settings

CLI = Path(__file__).parent.parent / "cli.py"
HOSTILE = "\x1b[2J\x1b]0;owned\x07 bad\rstory \u202e"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@dataclass
class Place:
    """A directory with a configuration, in which `reviver` is called."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of whoever runs the tests: a REVIVER_CONFIG of theirs would name another daemon."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.path), "TZ": "UTC"}

    def write(self, text: str) -> None:
        places = "".join(f'{name} = "{self.path}"\n' for name in ("runtime_dir", "state_dir", "log_dir"))
        self.config.write_text(f"[reviver]\n{places}{text}")

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, CLI, *arguments],
            cwd=self.path,
            env={**self.environ, **(env or {})},
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def reviver(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        with self.start(*arguments, env=env) as process:
            out, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        return Result(process.returncode, out, err)

    def on_terminal(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """What stands on a terminal."""
        ours, theirs = pty.openpty()
        with self.start(
            *arguments, env={"TERM": "xterm", "COLUMNS": "140", **(env or {})}, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            while select.select([ours], [], [], 20)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # EIO: the last one who had the terminal open is gone
                    break
            os.close(ours)
            process.communicate(timeout=10)
        return shown.decode()


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as name:
        made = Place(Path(name))
        made.write('[program.store]\ncommand = "/bin/true"\n')
        yield made


@pytest.fixture
def daemon(place: Place) -> Iterator[Running]:
    programs = (settings("store"), settings("worker", manual=True), settings("bad", "absent", manual=True))
    with running(place.path, *programs, config=str(place.config)) as serving:
        yield serving


# --- status


def test_status_in_a_pipe_is_aligned_columns_and_3_when_something_does_not_run(place: Place, daemon: Running) -> None:
    result = place.reviver("status")
    head, store, worker, bad = result.out.splitlines()
    assert head.split()[:4] == ["PROGRAM", "STATE", "INSTANCE", "PID"]
    assert store.split()[:4] == ["store", "ready", "store:1", "4001"]
    assert store.index("ready") == worker.index("stopped") == bad.index("stopped") == head.index("STATE")
    assert (result.code, result.err) == (3, "")


def test_status_of_what_runs_is_0(place: Place, daemon: Running) -> None:
    assert place.reviver("status", "store").code == 0


def test_status_json_is_one_object(place: Place, daemon: Running) -> None:
    result = place.reviver("status", "--json", "store")
    assert json.loads(result.out)["programs"][0]["instances"][0]["id"] == "store:1"


def test_status_without_a_daemon_is_3_and_says_how_to_start_one(place: Place) -> None:
    result = place.reviver("status")
    assert (result.code, result.out) == (3, "")
    assert "no daemon answers" in result.err
    assert "reviver run" in result.err


def test_status_of_no_such_program_is_4_with_a_suggestion(place: Place, daemon: Running) -> None:
    result = place.reviver("status", "stroe")
    assert result.code == 4
    assert "did you mean 'store'?" in result.err


def test_status_on_a_terminal_colours_the_state_unless_told_not_to(place: Place, daemon: Running) -> None:
    assert "\x1b[32mready" in place.on_terminal("status")
    plain = place.on_terminal("status", env={"NO_COLOR": "1"})
    assert "ready" in plain
    assert "\x1b[32m" not in plain


def test_status_on_a_narrow_terminal_leaves_columns_out_and_cuts_no_cell(place: Place, daemon: Running) -> None:
    def shown(columns: int) -> list[list[str]]:
        text = place.on_terminal("status", "store", env={"COLUMNS": str(columns)})
        return [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]

    assert shown(140)[0] == ["PROGRAM", "STATE", "INSTANCE", "PID", "UPTIME", "CPU", "MEMORY", "RESTARTS", "VERDICT"]
    assert shown(50)[0] == ["PROGRAM", "STATE", "INSTANCE", "PID", "UPTIME", "VERDICT"]
    assert shown(20)[1] == ["store", "ready", "store:1", "4001"]


def test_status_in_a_pipe_imports_next_to_nothing(place: Place, daemon: Running) -> None:
    command = [sys.executable, "-X", "importtime", str(CLI), "status"]
    traced = subprocess.run(command, cwd=place.path, env=place.environ, capture_output=True, text=True, timeout=30, check=False)
    assert "store:1" in traced.stdout
    imported = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"asyncio", "msgspec", "rich", "tenacity", "structlog", "psutil", "subprocess", "logging", "dataclasses", "ssl"}
    assert imported & heavy == set()
    ours = {name for name in imported if name.startswith("supervisor")}
    assert ours <= {
        "supervisor",
        "supervisor.commands",
        "supervisor.commands.daemon",
        "supervisor.commands.screen",
        "supervisor.commands.status",
        "supervisor.control",
        "supervisor.control.client",
        "supervisor.control.messages",
    }


# --- commands


def test_start_stop_restart_say_what_is_so(place: Place, daemon: Running) -> None:
    assert place.reviver("start", "worker") == Result(0, "worker: ready: worker:1\n", "")
    assert place.reviver("restart", "store") == Result(0, "store: ready: store:2\n", "")
    assert place.reviver("restart", "--now", "store") == Result(0, "store: ready: store:3\n", "")
    assert place.reviver("reload", "store") == Result(0, "store: ready: store:4\n", "")
    assert place.reviver("signal", "HUP", "store") == Result(0, "store: sent SIGHUP\n", "")
    assert place.reviver("stop", "all") == Result(0, "store: stopped\nworker: stopped\nbad: not running\n", "")


def test_restart_on_a_terminal_tells_the_story_meanwhile(place: Place, daemon: Running) -> None:
    story = place.on_terminal("restart", "store").splitlines()
    assert any("restart asked by an operator" in line for line in story)
    assert any("store:2  ready after" in line for line in story)
    assert story[-1] == "store: ready: store:2"


def test_start_that_fails_is_1_with_the_reason(place: Place, daemon: Running) -> None:
    result = place.reviver("start", "worker", "bad")
    assert (result.code, result.out) == (1, "worker: ready: worker:1\n")
    assert "bad: bad:1 cannot be started: absent: command not found" in result.err


def test_no_wait_asks_and_returns(place: Place, daemon: Running) -> None:
    assert place.reviver("stop", "--no-wait", "store") == Result(0, "store: asked; nobody waits for it\n", "")


@pytest.mark.parametrize(
    "arguments", [("stop",), ("nonsense",), ("status", "--nonsense"), ("signal", "store"), ("logs", "-n", "-1", "x")]
)
def test_wrong_usage_is_2(place: Place, arguments: tuple[str, ...]) -> None:
    result = place.reviver(*arguments)
    assert result.code == 2
    assert "Usage:" in result.err


def test_signal_that_does_not_exist_is_2(place: Place, daemon: Running) -> None:
    result = place.reviver("signal", "HOPP", "store")
    assert (result.code, result.err) == (2, "reviver: there is no signal 'HOPP': write it like HUP, USR1 or TERM\n")


def test_config_may_stand_before_the_verb_or_after_it(place: Place, daemon: Running) -> None:
    elsewhere = place.path / "elsewhere"
    elsewhere.mkdir()
    other = Place(elsewhere)
    for arguments in (("--config", "../config.toml", "status", "store"), ("status", "--config", "../config.toml", "store")):
        assert other.reviver(*arguments).code == 0


def test_config_that_does_not_exist_is_78_and_no_other_daemon_is_asked(place: Place, daemon: Running) -> None:
    result = place.reviver("stop", "--config", "typo.toml", "store")
    assert (result.code, result.err) == (78, "reviver: cannot read typo.toml: no such file or directory\n")


def test_half_edited_configuration_does_not_cut_off_from_the_daemon(place: Place, daemon: Running) -> None:
    place.config.write_text(place.config.read_text() + "\n[program.new\n")
    assert place.reviver("status", "store").code == 0
    result = place.reviver("apply")
    assert result.code == 78
    assert "no valid TOML" in result.err


# --- configuration


def test_plan_and_apply_tell_what_moves(place: Place, daemon: Running) -> None:
    place.write('[program.store]\ncommand = "serve"\ngrace = "3s"\n')
    result = place.reviver("plan")
    assert [line.split()[:2] for line in result.out.splitlines()[1:]] == [["store", "restart"], ["worker", "stop"], ["bad", "stop"]]
    applied = place.reviver("apply", "--json")
    assert applied.code == 0
    assert {each["name"]: each["done"] for each in json.loads(applied.out)["outcome"]} == {
        "store": True,
        "worker": True,
        "bad": True,
    }
    assert "nothing to change" in place.reviver("plan").out


def test_apply_of_a_faulty_configuration_is_78_with_every_fault(place: Place, daemon: Running) -> None:
    place.write('[program.store]\ncommand = "serve"\nintances = 2\ngrace = "-1s"\n')
    result = place.reviver("apply")
    assert (result.code, result.out) == (78, "")
    assert len([line for line in result.err.splitlines() if line.startswith("  ")]) == 2
    assert "did you mean" in result.err


def test_check_of_a_good_configuration_says_what_relief_each_program_has(place: Place) -> None:
    result = place.reviver("check")
    assert result.code == 0
    assert "store: a server that Reviver does not know; never beside itself: no socket is held" in result.out


def test_check_of_a_faulty_configuration_is_78_with_every_fault(place: Place) -> None:
    place.write('[program.store]\ncommand = "/no/such/file"\n[program.other]\ncommand = "/bin/true"\nuser = "no-such-user"\n')
    result = place.reviver("check")
    assert (result.code, result.out) == (78, "")
    assert "program.store.command" in result.err
    assert "program.other.user" in result.err
    answer = json.loads(place.reviver("check", "--json").out)
    assert (answer["ok"], len(answer["faults"])) == (False, 2)


def test_check_runs_the_preflights_and_is_1_when_one_fails(place: Place) -> None:
    place.write('[program.store]\ncommand = "/bin/true"\npreflight = [["/bin/true"], ["/bin/sh", "-c", "echo why; exit 3"]]\n')
    result = place.reviver("check")
    assert result.code == 1
    assert "why" in result.err
    assert json.loads(place.reviver("check", "--json").out)["programs"][0]["preflight_problem"]


def test_missing_configuration_is_78(place: Place) -> None:
    for name in ("missing.toml", "."):
        result = place.reviver("check", "--config", name)
        assert (result.code, result.out) == (78, "")
        assert name in result.err


def test_run_becomes_the_daemon_which_reads_the_configuration(place: Place) -> None:
    result = place.reviver("run", "--config", "missing.toml", env={"PYTHONPATH": str(CLI.parent)})
    assert (result.code, result.out) == (78, "")
    assert "missing.toml" in result.err


# --- what happened


def test_events_and_explain_spell_out_what_a_program_tries_on_the_terminal(place: Place, daemon: Running) -> None:
    daemon.world.stories.append({"time": "2026-01-01T00:00:01.250Z", "subject": "store:1", "event": "x", "text": HOSTILE})
    for result in (
        place.reviver("events", "-n", "1"),
        place.reviver("explain", "store"),
        place.reviver("events", "-n", "1", "store"),
    ):
        assert result.code == 0
        assert r"\x1b[2J\x1b]0;owned\x07 bad\rstory \u202e" in result.out
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(result.out)
    assert "00:00:01.25" in place.reviver("events", "-n", "1").out


def test_events_json_is_one_object_a_line(place: Place, daemon: Running) -> None:
    lines = place.reviver("events", "--json", "-n", "2").out.splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"time", "subject", "event", "text"}] * 2


def test_events_that_follow_end_quietly_with_ctrl_c(place: Place, daemon: Running) -> None:
    with place.start("events", "-f", "-n", "0") as process:
        while not daemon.on_loop(lambda: daemon.world.listeners):
            assert process.poll() is None
        assert place.reviver("start", "worker").code == 0
        assert process.stdout is not None
        assert "worker" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err.strip()) == (130, "")


def test_reader_that_goes_away_ends_it_quietly(place: Place, daemon: Running) -> None:
    daemon.world.stories += [{"time": "", "subject": "store", "event": "x", "text": "y" * 1000}] * 1000
    with place.start("events", "-n", "1000") as process:
        assert process.stdout is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_answer_that_cannot_be_written_is_one_sentence(place: Place, daemon: Running) -> None:
    with open("/dev/full", "w") as full, place.start("status", stdout=full.fileno()) as process:
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (1, "reviver: no space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_nobodys_traceback(place: Place, daemon: Running, closed: str) -> None:
    command = f"{sys.executable} {CLI} restart store {closed}; echo $?"
    shell = ["/bin/sh", "-c", command]
    result = subprocess.run(shell, cwd=place.path, env=place.environ, capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout.splitlines()[-1] == "0"
    assert result.stderr == ""


def test_events_without_a_daemon_or_a_journal_say_so(place: Place) -> None:
    result = place.reviver("events")
    assert (result.code, result.out) == (1, "")
    assert "no journal" in result.err


def test_events_without_a_daemon_come_from_the_journal_and_following_them_is_3(place: Place) -> None:
    lane = Lane("journal")
    journal = Journal(str(place.path), lane, lambda text: None)
    journal.note(1_767_225_600.25, 1.0, Note("gone:1", "instance.ready", "ready"))
    journal.close(5.0)
    past = place.reviver("events", "--json")
    assert (past.code, json.loads(past.out)["time"]) == (0, "2026-01-01T00:00:00.250Z")
    assert "from the journal" in past.err
    assert place.reviver("events", "gone").code == 0
    assert place.reviver("events", "-f").code == 3
    unknown = place.reviver("events", "stroe")
    assert (unknown.code, unknown.err) == (4, "reviver: there is no program 'stroe': there is only 'store'\n")


def test_explain_needs_no_journal(place: Place, daemon: Running) -> None:
    daemon.world.journal_problem = "cannot read the journal: disk is gone"
    assert "store:1 (pid 4001) has been ready" in place.reviver("explain", "store").out
    result = place.reviver("events")
    assert (result.code, result.err) == (1, "reviver: cannot read the journal: disk is gone\n")


def test_explain_answers_why_and_what_comes_next(place: Place, daemon: Running) -> None:
    result = place.reviver("explain", "worker")
    assert 'worker is started by hand only (start = "manual").' in result.out
    assert "Nothing, until `reviver start worker`." in result.out
    assert json.loads(place.reviver("explain", "--json", "worker").out)["state"] == "stopped"


# --- output


def test_logs_read_across_rotated_files_with_and_without_a_daemon(place: Place) -> None:
    with gzip.open(place.path / "store.log.1.gz", "wb") as old:
        old.write(b"one\ntwo\n")
    (place.path / "store.log").write_bytes(b"three\n\x1b[31mfour\n")
    assert place.reviver("logs", "-n", "3", "store") == Result(0, "two\nthree\n\x1b[31mfour\n", "")
    with running(place.path, settings("store")):
        assert place.reviver("logs", "-n", "1", "store").out == "\x1b[31mfour\n"
        assert r"\x1b[31mfour" in place.on_terminal("logs", "-n", "1", "store")
        assert place.reviver("logs", "nobody").code == 4
    assert place.reviver("logs", "nobody").code == 4


def test_logs_that_follow_hear_what_is_written(place: Place, daemon: Running) -> None:
    log = place.path / "store.log"
    log.write_bytes(b"old\n")
    with place.start("logs", "-f", "store") as process, log.open("ab", buffering=0) as writer:
        assert process.stdout is not None
        assert process.stdout.readline() == "old\n"
        writer.write(b"new\n")
        assert process.stdout.readline() == "new\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err.strip()) == (130, "")


def test_logs_of_a_silent_program_say_so(place: Place, daemon: Running) -> None:
    result = place.reviver("logs", "worker")
    assert (result.code, result.out) == (0, "")
    assert "nothing in" in result.err


# --- the host, the shell


def test_doctor_says_what_this_host_allows(place: Place) -> None:
    result = place.reviver("doctor", "--json")
    findings = {finding["name"]: finding["state"] for finding in json.loads(result.out)["findings"]}
    assert {"kernel", "pidfd", "cgroup v2", "subreaper", "sock_diag", "ptrace", "runtime_dir", "log_dir"} <= set(findings)
    assert set(findings.values()) <= {"ok", "limited", "missing"}
    assert result.code == (1 if "missing" in findings.values() else 0)


def test_doctor_finds_a_directory_that_cannot_be_written(place: Place) -> None:
    (place.path / "file").write_text("")
    place.config.write_text('[reviver]\nlog_dir = "file/logs"\n')
    result = place.reviver("doctor")
    assert result.code == 1
    assert "Reviver does not work fully here: " in result.out
    assert "log_dir" in result.out.splitlines()[-1]


def test_completion_knows_verbs_and_the_names_of_running_programs(place: Place, daemon: Running) -> None:
    def complete(*words: str) -> list[str]:
        env = {"_REVIVER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return [line.partition(",")[2] for line in place.reviver(env=env).out.splitlines()]

    assert complete("reviver", "rest") == ["restart"]
    assert complete("reviver", "restart", "st") == ["store"]
    assert complete("reviver", "logs", "w") == ["worker"]


def test_version_and_help_are_quick_answers(place: Place) -> None:
    assert place.reviver("--version").out == "reviver 0.1.0\n"
    help_text = place.reviver("--help").out
    verbs = "run check plan apply status start stop restart reload signal logs events explain doctor systemd"
    for verb in verbs.split():
        assert f"  {verb} " in help_text
