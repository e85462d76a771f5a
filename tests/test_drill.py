"""The drill: one real crash in a shadow, and what becomes a score card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from supervisor import config
from supervisor.alerts.message import Message
from supervisor.commands import drill_kept, drill_program, drill_store
from supervisor.commands.drill_card import Expected, Row, Seen, noticed, recovered, rows
from supervisor.commands.drill_customers import Outcome, Request, judged, longest_gap_s
from supervisor.commands.drill_shadow import Page, Shadow, marked, toml
from supervisor.commands.drill_voices import Voices, voices
from supervisor.commands.incidents import find
from supervisor.commands.postmortem import postmortem
from supervisor.commands.which import Which
from supervisor.control.client import Refusal
from supervisor.model import DaemonSettings, EscalationStep, Settings, Severity

EXPECTED = Expected(("instance.failed",), ("SIGABRT",), failing=1)


def line(wall: float, event: str, text: str = "") -> dict[str, Any]:
    return {"wall": wall, "event": event, "text": text, "subject": "DRILL-store:2"}


SEEN = Seen(
    100.0,
    [
        line(100.2, "instance.failed", "killed by SIGABRT"),
        line(100.2, "incident.opened"),
        line(101.0, "instance.ready"),
        line(103.0, "incident.closed", "incident 1 over"),
    ],
    [Page(100.3, {"text": "DRILL-store:1 ended by itself: killed by SIGABRT"})],
    [Request(99.0, 0.1, Outcome.OK), Request(100.1, 0.1, Outcome.BROKEN), Request(100.5, 0.6, Outcome.OK)],
)


def bad(expected: Expected, seen: Seen) -> list[str]:
    return [row.what for row in rows(expected, seen) if not row.well]


def test_card_of_a_fault_that_was_healed_has_nothing_bad() -> None:
    assert bad(EXPECTED, SEEN) == []
    assert [row.measured[:5] for row in rows(EXPECTED, SEEN)][:5] == ["0.2 s", "1.0 s", "0.3 s", "0.3 s", "3.0 s"]


@pytest.mark.parametrize(
    ("event", "missed"),
    [("instance.failed", "found"), ("instance.ready", "another serves"), ("incident.closed", "recovery proven")],
)
def test_card_says_what_was_not_seen(event: str, missed: str) -> None:
    seen = replace(SEEN, story=[each for each in SEEN.story if each["event"] != event])
    assert bad(EXPECTED, seen) == [missed]


def test_card_says_which_piece_of_the_cause_nobody_was_told() -> None:
    expected = replace(EXPECTED, named=("SIGABRT", "store.py:"))
    (row,) = [row for row in rows(expected, SEEN) if not row.well]
    assert (row.what, row.measured) == ("cause named in a message", "not told: store.py:")


def test_card_holds_a_message_to_its_time_and_stakeholders_are_not_those_on_call() -> None:
    late = replace(SEEN, pages=[replace(SEEN.pages[0], wall=111.0)])
    assert bad(EXPECTED, late) == ["first message handed over", "cause named in a message"]
    assert bad(EXPECTED, replace(SEEN, pages=[replace(SEEN.pages[0], public=True)])) == bad(EXPECTED, late)


def test_card_counts_customers_and_the_time_without_an_answer() -> None:
    assert bad(replace(EXPECTED, failing=0), SEEN) == ["customers"]
    assert bad(replace(EXPECTED, gap_s=1.5), SEEN) == ["longest time without an answer"]
    assert bad(EXPECTED, replace(SEEN, requests=[])) == ["customers"]
    assert noticed(SEEN.requests) == "3 asked, 1 broken; the slowest after 0.6 s"
    assert longest_gap_s(SEEN.requests) == pytest.approx(2.0)
    given_up = Request(101.0, 10.0, Outcome.GAVE_UP)
    assert longest_gap_s([*SEEN.requests, given_up]) == pytest.approx(9.9), "also when none is answered any more"


def test_an_incident_that_is_opened_again_is_no_recovery() -> None:
    assert recovered(replace(SEEN, story=[*SEEN.story, line(104.0, "incident.reopened")])) is None


def test_an_answer_is_judged_by_its_first_line() -> None:
    assert judged(b"HTTP/1.1 200 OK\r\n") is Outcome.OK
    assert judged(b"HTTP/1.1 503 Service Unavailable\r\n") is Outcome.SORRY
    assert judged(b"HTTP/1.1 500 Oh\r\n") is Outcome.ERROR
    assert judged(b"") is Outcome.BROKEN


def test_marked_names_are_names_of_programs_still() -> None:
    assert re.fullmatch(r"DRILL-[a-z]{58}", marked("s" * 64))


@pytest.mark.parametrize(
    "release",
    [drill_store.BEFORE, drill_store.LOOPING, drill_store.FIXED, drill_store.BAD, drill_store.SLOW, drill_store.DEPENDENT],
)
def test_each_release_is_python_and_only_one_coupon_loops(release: drill_store.Release, tmp_path: Path) -> None:
    text = (drill_store.make(tmp_path, release) / "shop/store.py").read_text()
    compile(text, "store.py", "exec")
    assert ("while total_cents > coupon.floor_cents:\n            total_cents -=" in text) == (release is drill_store.LOOPING)
    assert "supervisor.demo" not in text.split('"""', 2)[2]


@pytest.mark.parametrize("value", [True, 3, 0.5, 'a\tb"\\', "\x7fé😀", ["a", ["b"]], {"a b": {"c": "d"}}])
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"key = {toml(value)}") == {"key": value}


STAGING = """
[program.shop]
command = ["gunicorn", "shop:app"]
directory = "current"
sockets = ["0.0.0.0:8000", "unix:/run/shop.sock"]
env_file = [".env"]
after = ["db"]
health = { http = "/up" }
drill = true
"""
OTHERS = '[program.db]\ncommand = "db"\n'


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    (tmp_path / ".env").write_text("A=1\n")
    (tmp_path / "config.toml").write_text(f'[reviver]\ninclude = ["more.toml"]\n{OTHERS}')
    (tmp_path / "more.toml").write_text(STAGING)
    return tmp_path


def shadowed(settings: Settings) -> str:
    program = drill_program.chosen(settings, "shop")
    return drill_program.written(program, drill_program.table(settings, program, 4711))


def test_marked_program_gets_ports_of_its_own_and_never_the_link(staging: Path) -> None:
    settings = config.load(staging / "config.toml")
    written = tomllib.loads(shadowed(settings))["program"]["DRILL-shop"]
    first, second = written.pop("sockets")
    assert first == "127.0.0.1:4711"
    assert second.startswith("127.0.0.1:")
    assert written == {
        "command": ["gunicorn", "shop:app"],
        "directory": str(staging / "releases"),
        "env_file": [str(staging / ".env")],
        "health": {"http": "/up"},
    }


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("nix", "", "", "there is no program nix"),
        ("db", "", "", "db is not marked for drills"),
        ("shop", "drill = true", "drill = false", "shop is not marked for drills"),
        ("shop", '{ http = "/up" }', '{ http = "http://127.0.0.1:8000/up" }', "a path in health.http"),
        ("shop", '{ http = "/up" }', '{ http = "/up", command = "curl 127.0.0.1:8000" }', "would ask the one that you run"),
    ],
)
def test_program_is_not_drilled_unless_marked_and_able_to(staging: Path, name: str, before: str, after: str, said: str) -> None:
    (staging / "more.toml").write_text(STAGING.replace(before, after))
    with pytest.raises(Refusal, match=re.escape(said)):
        drill_program.chosen(config.load(staging / "config.toml"), name)


def test_told_are_the_steps_that_take_the_program_and_each_has_a_file(tmp_path: Path) -> None:
    daemon = DaemonSettings(runtime_dir="", state_dir="", log_dir="")
    steps = (
        EscalationStep(notify=("webhook:https://a", "journal:"), after_s=90.0, repeat_s=600.0, when=Severity.CRITICAL),
        EscalationStep(notify=("webhook:https://b",), programs=("shop",)),
    )
    heard, written = voices(Settings(path="", daemon=daemon, escalation=steps), "", tmp_path)
    assert heard.targets == ["webhook:https://a", "journal:"]
    (step,) = tomllib.loads(written)["escalation"]
    assert step["notify"] == [f"command:/bin/sh {tmp_path}/pager {tmp_path}/voice{number}" for number in (0, 1)]
    assert (step["after"], step["repeat"], step["when"]) == ("90000ms", "600000ms", "critical")


def test_told_messages_say_drill_have_no_commands_and_come_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = Message("id", 1, "DRILL-store", "hang", 0, "warning", "it hangs", "host", "", ("reviver ack 1",), "")
    (tmp_path / "voice0.1.page").write_text(f"100.0\n{json.dumps(asdict(message))}\n")
    with subprocess.Popen(["true"]) as process:
        shadow = Shadow(tmp_path, "DRILL-store", 1, process)
    heard = Voices([f"command:/bin/sh -c 'cat >> {tmp_path}/got'"])
    heard.forward(shadow)
    heard.forward(shadow)
    (got,) = (tmp_path / "got").read_text().splitlines()
    assert json.loads(got)["text"] == "DRILL: it hangs"
    assert json.loads(got)["commands"] == []


def test_drill_of_a_crash_is_found_told_healed_kept_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    (tmp_path / "state").mkdir()
    file.write_text(f'[reviver]\nstate_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\nlog_dir = "{tmp_path}/log"\n')
    short = tempfile.mkdtemp(prefix="rvt-")  # a unix socket's path is short
    done = subprocess.run(
        [sys.executable, "-c", "import cli; cli.main()", "drill", "crash", "--json", "--config", str(file)],
        env=os.environ | {"TMPDIR": short},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert os.listdir(short) == []
    os.rmdir(short)
    answer = json.loads(done.stdout)
    assert len(answer["rows"]) == 7
    unseen = [row for row in answer["rows"] if row["measured"].startswith(("not ", "nobody"))]
    assert unseen == [], done.stderr
    assert done.returncode == (0 if all(row["well"] for row in answer["rows"]) else 1), "how long each took is the machine's"
    assert answer["kept"] == "D1"
    (kept,) = find(str(file), "D1")
    assert (kept["incident"], kept["state"], kept["drill"]) == ("D1.1", "over", True)
    assert "SIGABRT" in kept["what"]
    assert {letter["channel"] for letter in kept["told"]} == {"the drill's channel"}
    assert postmortem(str(file), ["D1"], None) == 0
    written = capsys.readouterr().out
    assert written.startswith("# DRILL: Postmortem of incident D1.1: DRILL-store")
    assert "| ok | customers |" in written
    assert short not in written, "a folder that is gone"
    with pytest.raises(Refusal, match="one drill"):
        postmortem(str(file), ["D1", "1"], None)
    assert not _processes_with(short)


KEPT = {"fault": "hang", "what": "a hang", "program": "shop"}


def left(where: Path) -> Path:
    """What an ended shadow leaves."""
    (where / "state").mkdir(parents=True)
    (where / "state/journal.db").touch()
    return where


def test_kept_drills_are_numbered_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_kept, "LIMIT", 2)
    shadow = left(tmp_path / "shadow")
    kept = [drill_kept.keep(str(tmp_path), shadow, KEPT, [Row("found", "1 s", "2 s", True)]) for _ in range(3)]
    assert [each and each.id for each in kept] == ["D1", "D2", "D3"]
    assert list(drill_kept.all_of(str(tmp_path))) == kept[:0:-1]
    with pytest.raises(Refusal, match="there is no drill D1"):
        drill_kept.find(str(tmp_path), 1)


def test_drill_is_not_kept_where_nothing_can_be_written_and_a_torn_card_is_said(tmp_path: Path) -> None:
    shadow = left(tmp_path / "shadow")
    assert drill_kept.keep(str(tmp_path / "none"), shadow, KEPT, []) is None
    assert drill_kept.keep(str(tmp_path), shadow, KEPT, []) is not None
    (tmp_path / "drills/1/drill.json").write_text('{"card": [')
    with pytest.raises(Refusal, match="cut off"):
        drill_kept.find(str(tmp_path), 1)


@pytest.mark.parametrize(("typed", "which"), [("3", Which(3)), ("D3", Which(0, 3)), ("D3.12", Which(12, 3))])
def test_id_is_of_an_incident_a_drill_or_an_incident_of_a_drill(typed: str, which: Which) -> None:
    assert Which.read(typed) == which


@pytest.mark.parametrize("typed", ["0", "D", "D0", "3.1", "D3.", "D3.0", "-1", "x", "3 ", "9" * 10])
def test_what_is_no_id_is_refused(typed: str) -> None:
    with pytest.raises(Refusal, match="is no incident"):
        Which.read(typed)


def _processes_with(text: str) -> list[str]:
    """Those whose command line names it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [str(path)] if text.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found
