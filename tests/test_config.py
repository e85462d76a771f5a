"""The configuration: every key parses to what it says, every fault is one sentence that names file, key, value and mend."""

from __future__ import annotations

import copy
import os
import socket
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import config, host, readers
from supervisor.control import client, messages
from supervisor.model import (
    Act,
    EscalationStep,
    HangSettings,
    HealthSettings,
    LaunchSettings,
    Limits,
    MaintenanceSettings,
    OutputSettings,
    OutputTo,
    ProgramSettings,
    ReleaseSettings,
    ReliefSettings,
    RestartSettings,
    RestartWhen,
    Retirement,
    Settings,
    Severity,
    SorrySettings,
    StakeholderSettings,
    Weekday,
)

ENVIRON = {"HOME": "/home/somebody", "PATH": "/usr/bin:/bin"}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str | bytes, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


def faults(path: Path) -> list[str]:
    """The sentences that `load` refuses a file with, without the file's folder."""
    with pytest.raises(config.ConfigErrors) as caught:
        config.load(path, ENVIRON)
    return [str(fault).replace(f"{path.parent}/", "") for fault in caught.value.faults]


def program(write: Write, lines: str, command: str = '["gunicorn", "store.wsgi"]') -> ProgramSettings:
    """The one program of a configuration with these lines under [program.store]."""
    return config.load(write(f"[program.store]\ncommand = {command}\n{lines}"), ENVIRON).programs[0]


# --- what is right --------------------------------------------------------------------------------------------------------------

# every key with its default, as an operator would write it out
DEFAULTS = """
[reviver]
include = []
group = ""
keep = "90d"
ping = ""

[program.store]
command = ["gunicorn", "store.wsgi", "--workers", "4"]
runbook = ""
drill = false
directory = "."
env = {}
env_file = []
user = ""
group = ""
umask = "022"
nice = 0
limits = {}
sockets = []
instances = 1
start = "auto"
after = []
preflight = []
reload = "restart"
stop = "TERM"
grace = "10s"

[program.store.health]
http = ""
tcp = ""
command = []
heartbeat = false
every = "1s"
timeout = "2s"
start = "60s"

[program.store.hang]
suspect = "1s"
certain = "10s"
blocked = "60s"
worker = "30s"
act = "heal"

[program.store.relief]
extra = "auto"
budget = 5
retire = "auto"
spare = "none"

[program.store.restart]
when = "always"
first = "0s"
limit = "30s"
budget = 5
window = "10m"
healthy = "60s"

[program.store.output]
to = "file"
rotate = "50MiB"
age = "off"
keep = 10
compress = true
timestamps = false

[program.store.release]
probation = "10m"
rollback = true

[program.store.sorry]
after = "auto"
page = ""
retry = "5s"

[[escalation]]
after = "0s"
notify = []
repeat = "off"
when = "warning"
programs = []

[stakeholders]
notify = []
after = "2m"
begin = "$program is not available ($lasted so far). We are working on it, and will tell you when that changes."
back = "$program is available again, after $affected without. We keep an eye on it until we are sure."
again = "$program is not available again. We are working on it, and will tell you when that changes."
over = "$program works normally again. It was not available for $affected in all, within $lasted."
stopped = "$program has been switched off on purpose. It had not been available for $affected before."

[[maintenance]]
days = []
at = "00:00"
lasts = "1h"
programs = []

[alerts]
secret_file = ""
rehearse = "off"
"""


def test_every_key_written_with_its_default_is_the_same_as_left_out(write: Write) -> None:
    bare = config.load(write('[program.store]\ncommand = ["gunicorn", "store.wsgi", "--workers", "4"]\n[[escalation]]\n'), ENVIRON)
    full = config.load(write(DEFAULTS), ENVIRON)
    assert (full.programs, full.escalation, full.stakeholders, full.alerts, full.daemon) == (
        bare.programs,
        bare.escalation,
        bare.stakeholders,
        bare.alerts,
        bare.daemon,
    )
    assert full.maintenance == (MaintenanceSettings(),)
    assert full.programs[0].hang == HangSettings()
    assert full.programs[0].restart == RestartSettings()
    assert bare.unused == ()


def test_the_table_holds_every_key_of_the_defaults_and_no_other(write: Write) -> None:
    """A key that is added to the table must be added to the test, with its default."""
    written = tomllib.loads(DEFAULTS)
    store = written["program"]["store"]
    assert set(written["reviver"]) | {"runtime_dir", "state_dir", "log_dir"} == set(config.REVIVER)
    assert set(store) == set(config.PROGRAM)
    for name, section in config.PROGRAM.items():
        if isinstance(section, config.Section) and name != "limits":
            assert set(store[name]) == set(section.keys)
    assert set(written["escalation"][0]) == set(config.ESCALATION)
    assert set(written["stakeholders"]) == set(config.STAKEHOLDERS)
    assert set(written["maintenance"][0]) == set(config.MAINTENANCE)
    assert set(written["alerts"]) == set(config.ALERTS)


FULL = """
[reviver]
runtime_dir = "/run/x"
state_dir = "state"
log_dir = "/log"
group = "adm"
keep = "off"

[program.db]
command = "db --port 5432"

[program.store]
command = "uvicorn store:app --fd {fd} --x '{other} {fd:2}'"
runbook = "https://wiki/store"
drill = true
directory = "current"
env = { B = "2", A = "1" }
user = "www-data"
group = "www-data"
umask = "0027"
nice = -5
limits = { nofile = 65536, core = "0", memory = "1GiB", cpu = 1.5, processes = 200 }
sockets = ["127.0.0.1:8000", "[::1]:8000", "unix:/run/store.sock"]
instances = 3
start = "manual"
after = ["db"]
preflight = [["python", "-m", "compileall"], "make check"]
reload = "SIGHUP"
stop = "INT"
grace = "1h30m"
health = { http = "/health", tcp = "localhost:8000", command = ["true"], heartbeat = true, every = "500ms", timeout = "1.5s", start = "5m" }
hang = { suspect = "2s", certain = "20s", blocked = "off", worker = "40s", act = "tell" }
relief = { extra = 2, budget = 3, retire = "watch", spare = "live" }
restart = { when = "failure", first = "1s", limit = "1m", budget = 9, window = "1h", healthy = "2m" }
output = { to = "inherit", rotate = "off", keep = 0, compress = false, timestamps = true }
release = { probation = "1d", rollback = false }
sorry = { after = "9s", page = "sorry.html", retry = "1m" }

[[escalation]]
after = "5m"
notify = ["command:/usr/local/bin/page -v", "webhook:https://example.org/x", "journal:", "mailto://a@example.org"]
repeat = "15m"
when = "critical"
programs = ["store"]

[stakeholders]
notify = ["slack://a/b/c"]
after = "3m"
over = "$program is back"

[[maintenance]]
days = ["sat", "sun"]
at = "23:30"
lasts = "2h"
programs = ["db"]
"""


def test_every_key_is_read_into_its_place(write: Write) -> None:
    path = write(FULL)
    read = config.load(path, ENVIRON)
    folder = str(path.parent)
    assert (read.daemon.runtime_dir, read.daemon.state_dir, read.daemon.log_dir) == ("/run/x", f"{folder}/state", "/log")
    assert (read.daemon.group, read.daemon.keep_s) == ("adm", None)
    assert read.programs[1] == ProgramSettings(
        name="store",
        launch=LaunchSettings(
            command=("uvicorn", "store:app", "--fd", "{fd}", "--x", "{other} {fd:2}"),
            directory=f"{folder}/current",
            env=(("A", "1"), ("B", "2")),
            user="www-data",
            group="www-data",
            umask=0o027,
            nice=-5,
            limits=Limits(nofile=65536, core=0, memory_bytes=1 << 30, cpu=1.5, processes=200),
            sockets=("127.0.0.1:8000", "[::1]:8000", "unix:/run/store.sock"),
            preflight=(("python", "-m", "compileall"), ("make", "check")),
        ),
        runbook="https://wiki/store",
        drill=True,
        instances=3,
        manual=True,
        after=("db",),
        reload="HUP",
        stop="INT",
        grace_s=5400.0,
        server="uvicorn",
        health=HealthSettings(
            http="/health", tcp="localhost:8000", command=("true",), heartbeat=True, every_s=0.5, timeout_s=1.5, start_s=300.0
        ),
        hang=HangSettings(suspect_s=2.0, certain_s=20.0, blocked_s=None, worker_s=40.0, act=Act.TELL),
        relief=ReliefSettings(
            extra=2,
            extra_because="3 can live side by side: the configuration says relief.extra = 2",
            budget=3,
            retire=Retirement.WATCH,
            spare=True,
        ),
        restart=RestartSettings(when=RestartWhen.FAILURE, first_s=1.0, limit_s=60.0, budget=9, window_s=3600.0, healthy_s=120.0),
        output=OutputSettings(to=OutputTo.INHERIT, rotate_bytes=None, keep=0, compress=False, timestamps=True),
        release=ReleaseSettings(probation_s=86400.0, rollback=False),
        sorry=SorrySettings(after_s=9.0, page=f"{folder}/sorry.html", retry_s=60.0),
    )
    assert read.escalation == (
        EscalationStep(
            after_s=300.0,
            notify=(
                "command:/usr/local/bin/page -v",
                "webhook:https://example.org/x",
                "journal:",
                "mailto://a@example.org",
            ),
            repeat_s=900.0,
            when=Severity.CRITICAL,
            programs=("store",),
        ),
    )
    assert read.stakeholders == StakeholderSettings(notify=("slack://a/b/c",), after_s=180.0, over="$program is back")
    window = MaintenanceSettings(days=(Weekday.SAT, Weekday.SUN), minute=1410, lasts_s=7200.0, programs=("db",))
    assert read.maintenance == (window,)


@pytest.mark.parametrize(
    ("lines", "after_s"),
    [
        ("", None),
        ('sockets = ["127.0.0.1:8000"]', None),
        ('sockets = ["127.0.0.1:8000"]\nhealth.http = "http://127.0.0.1:1/x"', None),
        ('sockets = ["127.0.0.1:8000"]\nhealth.http = "/health"', 3.0),
        ('sockets = ["127.0.0.1:8000"]\nhealth.http = "/health"\nsorry.after = "off"', None),
        ('sockets = ["127.0.0.1:8000"]\nsorry.after = "2s"', 2.0),
    ],
)
def test_the_page_is_shown_by_itself_where_customers_surely_speak_http(write: Write, lines: str, after_s: float | None) -> None:
    assert program(write, lines).sorry.after_s == after_s


def test_a_channel_that_needs_apprise_is_said_where_that_is_missing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[[escalation]]\nnotify = ["mailto://u:p@example.org", "journal:"]')
    monkeypatch.setattr(config, "installed", lambda module: module != "apprise")
    assert config.load(path, ENVIRON).unused == (
        "escalation[1].notify has no effect for mailto: apprise is not installed, install it with pip install 'reviver[notify]'",
    )
    monkeypatch.setattr(config, "installed", lambda module: True)
    assert config.load(path, ENVIRON).unused == ()


def test_spare_and_rollback_are_used_and_not_said(write: Write) -> None:
    lines = 'sockets = ["127.0.0.1:8000"]\nrelief.spare = "live"\nrelease.rollback = false\nhang.blocked = "5m"'
    assert config.load(write(f'[program.store]\ncommand = "gunicorn x"\n{lines}'), ENVIRON).unused == ()


def test_relief_auto_is_decided_by_the_server(write: Write) -> None:
    beside = program(write, 'sockets = ["127.0.0.1:8000"]').relief
    assert (beside.extra, beside.retire) == (1, Retirement.STOP)
    assert beside.extra_because == "two can live side by side: gunicorn takes the held socket 127.0.0.1:8000 by LISTEN_FDS"
    assert program(write, "").relief.extra == 0


def test_directory_keeps_its_symlink_and_becomes_absolute(write: Write, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    assert program(write, 'directory = "current"').launch.directory == f"{tmp_path}/current"
    assert program(write, "").launch.directory == str(tmp_path)


# --- durations and sizes --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 400 * 86400 * 1000))
def test_durations_round_trip(milliseconds: int) -> None:
    assert readers.duration_s(readers.spell_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 1 << 50))
def test_sizes_round_trip(count: int) -> None:
    assert readers.size_bytes(readers.spell_size(count)) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("2s", 2.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("90d", 7776000.0),
        ("1.5s", 1.5),
        ("1m1ms", 60.001),
        ("0s", 0.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert readers.duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "1s1m", "1s2s", "+1s", "1e3s", "½s", "٣s", "1.s", ".5s", "1S", "1m 30s", "5sec", "9" * 400 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        readers.duration_s(text)


@pytest.mark.parametrize(
    ("text", "count"), [("64KiB", 65536), ("50MB", 50_000_000), ("1GiB", 1 << 30), ("0", 0), ("1.5KiB", 1536), ("7B", 7)]
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert readers.size_bytes(text) == count


# --- what is wrong: each a sentence ---------------------------------------------------------------------------------------------

STORE = '[program.store]\ncommand = "gunicorn x"\n'

WRONG = {
    # unknown keys and wrong types
    STORE + "instnaces = 2": "config.toml: program.store.instnaces: is no key that Reviver knows; did you mean `instances`?",
    STORE + 'suspect = "1s"': "config.toml: program.store.suspect: is no key that Reviver knows; did you mean `hang.suspect`?",
    STORE + "xyzzy = 1": "config.toml: program.store.xyzzy: is no key that Reviver knows; it may be one of after, command,",
    "[programs.store]": "config.toml: programs: is no table that Reviver knows; did you mean `program`?",
    "program = 3": "config.toml: program: is a number, not a table of programs; write [program.NAME]",
    "[program]\nstore = 3": "config.toml: program.store = 3: is a number, not a table; write [program.store] above its keys",
    "escalation = {}": "config.toml: escalation: is a table, not a list of steps; write [[escalation]], with two brackets",
    "reviver = []": "config.toml: reviver = []: is a list, not a table; write [reviver] above its keys",
    STORE + 'instances = "2"': 'config.toml: program.store.instances = "2": is a string; write a whole number without quotes',
    STORE
    + "instances = true": "config.toml: program.store.instances = true: is true or false; write a whole number without quotes",
    STORE + "instances = 1.5": "config.toml: program.store.instances = 1.5: is a number; write a whole number without quotes",
    STORE + "instances = 0": "config.toml: program.store.instances = 0: is out of range; write a number from 1 to 1000",
    STORE + "user = 1000": 'config.toml: program.store.user = 1000: is a number, not a string; write "1000"',
    STORE
    + "user = 2026-01-01": "config.toml: program.store.user = 2026-01-01: is a date or time, not a string; write a string in quotes",
    STORE
    + 'user = "a\\u001b[2J"': 'config.toml: program.store.user = "a\\x1b[2J": holds a control character; write it on one line',
    STORE + 'after = "db"': 'config.toml: program.store.after = "db": is a string, not a list; write it in brackets: [...]',
    STORE
    + 'output.compress = "yes"': 'config.toml: program.store.output.compress = "yes": is a string; write true or false, without',
    STORE + 'start = "later"': 'config.toml: program.store.start = "later": is not one of its values; write "auto" or "manual"',
    # durations and sizes
    STORE + "grace = 5": 'config.toml: program.store.grace = 5: is a bare number, without a unit; write "5s"',
    STORE + 'grace = "-5s"': 'config.toml: program.store.grace = "-5s": is negative; write 0s or more',
    STORE + 'grace = "off"': 'config.toml: program.store.grace = "off": cannot be switched off; write a unit, e.g.',
    STORE
    + 'grace = "soon"': 'config.toml: program.store.grace = "soon": is no duration; write a unit, e.g. "500ms" "2s" "5m" "1h30m"',
    STORE + 'grace = "99999d"': 'config.toml: program.store.grace = "99999d": is too long; write "3650d" or less',
    STORE + 'health.every = "1ms"': 'config.toml: program.store.health.every = "1ms": is too short; write "100ms" or more',
    STORE
    + "output.rotate = 50": 'config.toml: program.store.output.rotate = 50: is a bare number, without a unit; write a unit, e.g. "64KiB"',
    STORE + 'output.rotate = "1B"': 'config.toml: program.store.output.rotate = "1B": is out of range; write a size from 4KiB to',
    # the command and how it starts
    "[program.store]": 'config.toml: program.store.command: is missing; write what to run, e.g. command = ["gunicorn", "store.wsgi"]',
    "[program.store]\ncommand = []": "config.toml: program.store.command = []: is empty; write the program and its arguments",
    '[program.store]\ncommand = ""': 'config.toml: program.store.command = "": is empty; write the program and its arguments',
    '[program.store]\ncommand = [""]': 'config.toml: program.store.command = [""]: names no program to run; let its first word be',
    '[program.store]\ncommand = "a \'b"': 'config.toml: program.store.command = "a \'b": cannot be split into words',
    '[program.store]\ncommand = "a\\u0000b"': 'config.toml: program.store.command = "a\\x00b": holds a NUL character; leave it out',
    '[program.store]\ncommand = ["a", 1]': 'config.toml: program.store.command = [...]: item 2 is a number, not a string; write "1"',
    '[program."a b"]\ncommand = "x"': 'config.toml: program."a b": is no program\'s name; use at most 64 letters, digits, - and _',
    STORE + "env = { A = 1 }": 'config.toml: program.store.env: "A" is a number; write its value as a string in quotes',
    STORE + 'env = { "A=B" = "1" }': 'config.toml: program.store.env: "A=B" cannot name a variable; use letters, digits and _',
    STORE + "umask = 22": 'config.toml: program.store.umask = 22: is no umask; write three octal digits in quotes, e.g. "022"',
    STORE
    + 'umask = "888"': 'config.toml: program.store.umask = "888": is no umask; write three octal digits in quotes, e.g. "022"',
    STORE + "nice = 20": "config.toml: program.store.nice = 20: is out of range; write a number from -20 to 19",
    STORE + 'stop = "TREM"': 'config.toml: program.store.stop = "TREM": is no signal; did you mean `TERM`?',
    STORE
    + 'stop = "SIGKILL"': 'config.toml: program.store.stop = "SIGKILL": asks for nothing: no program can hear it; write a signal',
    STORE + 'reload = "RESTARTX"': 'config.toml: program.store.reload = "RESTARTX": is no signal;',
    STORE
    + 'preflight = ["make check"]\npreflight2 = []': "config.toml: program.store.preflight2: is no key that Reviver knows; did you",
    STORE
    + "preflight = [[]]": "config.toml: program.store.preflight = [...]: item 1 is empty; write the program and its arguments",
    # addresses
    STORE + 'sockets = ["8000"]': 'config.toml: program.store.sockets = ["8000"]: item 1 is no address; write host:port, e.g.',
    STORE + 'sockets = [":8000"]': 'config.toml: program.store.sockets = [":8000"]: item 1 is no address; write host:port, e.g.',
    STORE
    + 'sockets = ["1.2.3.4:70000"]': 'config.toml: program.store.sockets = ["1.2.3.4:70000"]: item 1 names port 70000, which does not',
    STORE
    + 'sockets = ["1.2.3.999:80"]': 'config.toml: program.store.sockets = ["1.2.3.999:80"]: item 1 holds no valid IP address; write',
    STORE
    + 'sockets = ["unix:x.sock"]': 'config.toml: program.store.sockets = ["unix:x.sock"]: item 1 is no absolute path; write it like',
    STORE + f'sockets = ["unix:/{"x" * 107}"]': "item 1 has 108 bytes, and the kernel takes 107; choose a shorter path",
    STORE + 'sockets = ["[::1]:80", "[0:0::1]:80"]': "names [0:0::1]:80 twice; leave one out",
    STORE + 'health.tcp = "unix:/x"': 'config.toml: program.store.health.tcp = "unix:/x": is no address; write host:port, e.g.',
    STORE
    + 'health.http = "https://x/"': 'config.toml: program.store.health.http = "https://x/": is neither a path nor an http:// address;',
    STORE
    + 'health.http = "http://[/"': 'config.toml: program.store.health.http = "http://[/": is neither a path nor an http:// address;',
    # impossible together
    STORE
    + 'hang.suspect = "20s"': 'program.store.hang.suspect = "20s": hang.suspect (20s) is above hang.certain (10s); let suspicion',
    STORE
    + 'hang.certain = "500ms"': 'program.store.hang.certain = "500ms": hang.suspect (1s) is above hang.certain (500ms); let suspicion',
    STORE
    + 'hang.certain = "2m"': 'program.store.hang.certain = "2m": hang.certain (2m) is above hang.blocked (1m); a blocked one deserves',
    STORE
    + 'restart.first = "1m"': 'program.store.restart.first = "1m": restart.first (1m) is above restart.limit (30s); limit is the',
    STORE
    + 'health.timeout = "2m"': 'program.store.health.timeout = "2m": health.timeout (2m) is above health.start (1m); give it time',
    STORE
    + 'health.every = "2m"': 'program.store.health.every = "2m": health.every (2m) is above health.start (1m); it would not be asked',
    STORE
    + 'health = { heartbeat = true, every = "20s" }': 'program.store.health.every = "20s": health.every (20s) is above hang.certain',
    STORE
    + 'health.http = "/"': 'program.store.health.http = "/": is a path, and there is no held socket to ask; name it in sockets',
    '[program.a]\ncommand = "x {fd:2}"\nsockets = ["[::]:80"]': 'program.a.command = "x {fd:2}": names held socket 2, and there are 1; add',
    '[program.a]\ncommand = "x {fd:0}"\nsockets = ["[::]:80"]': 'program.a.command = "x {fd:0}": names held socket 0, and there are 1; add',
    '[program.a]\ncommand = "x {fd}"': 'program.a.command = "x {fd}": names held socket 1, and there are 0; add its address to sockets',
    STORE
    + 'relief.spare = "live"': 'program.store.relief.spare = "live": has no room, it is never beside itself: no socket is held by',
    STORE
    + 'relief.retire = "stop"': 'program.store.relief.retire = "stop": has no meaning, it is never beside itself: no socket is held',
    STORE
    + 'sorry.after = "2s"': 'program.store.sorry.after = "2s": needs a held socket, and there is none; name it in sockets, or write',
    STORE + 'after = ["store"]': "config.toml: program.store.after: names the program itself; leave it out",
    STORE + 'after = ["stor"]': 'config.toml: program.store.after: "stor" is no program; did you mean `store`?',
    # people
    '[[escalation]]\nnotify = ["slak://x"]': "config.toml: escalation[1].notify: item 1 names no known way to tell people; did you mean",
    '[[escalation]]\nnotify = ["page me"]': "config.toml: escalation[1].notify: item 1 names no known way to tell people; write e.g.",
    '[[escalation]]\nnotify = ["command:page"]': "config.toml: escalation[1].notify: item 1 names no command by an absolute path; write",
    '[[escalation]]\nnotify = ["command:"]': "config.toml: escalation[1].notify: item 1 names no command by an absolute path; write",
    '[[escalation]]\nnotify = ["command:/a \'"]': "config.toml: escalation[1].notify: item 1 has quotes that are not closed; write",
    '[[escalation]]\nnotify = ["webhook:example.org"]': "config.toml: escalation[1].notify: item 1 names no http:// or https:// address;",
    '[[escalation]]\nnotify = ["journal:x"]': "config.toml: escalation[1].notify: item 1 has something after journal:; write",
    '[[escalation]]\nnotify = ["mailto:a@example.org"]': 'config.toml: escalation[1].notify: item 1 has no // after mailto:; write "mailto://',
    '[[escalation]]\nprograms = ["x"]': 'config.toml: escalation[1].programs: "x" is no program; name one of this configuration',
    '[[escalation]]\nwhen = "info"': 'config.toml: escalation[1].when = "info": is not one of its values; write "warning" or "critical"',
    "[stakeholders]\nwho = 1": "config.toml: stakeholders.who: is no key that Reviver knows; it may be one of after, again, back",
    "[[maintenance]]\nat = '25:00'": 'config.toml: maintenance[1].at = "25:00": is no time of day; write hours and minutes, e.g. "02:00"',
    "[[maintenance]]\nlasts = '2h'": 'config.toml: maintenance[1].at: is missing; write when it begins, e.g. at = "02:00"',
    "[[maintenance]]\nat = '2:00'\nlasts = '8d'": "config.toml: maintenance[1].lasts: is above 7d; nobody would be told of anything: name",
    "[[maintenance]]\nat = '2:00'\ndays = ['so']": 'config.toml: maintenance[1].days = ["so"]: item 1 is not one of its values; write',
    "[stakeholders]\nbegin = '$who'": 'config.toml: stakeholders.begin = "$who": names $who; there are $program, $lasted, $affected',
    "[stakeholders]\nover = '5 $'": 'config.toml: stakeholders.over = "5 $": has a $ that names nothing; write $$ for the sign itself',
    # Reviver itself
    '[reviver]\nruntime_dir = ""': 'config.toml: reviver.runtime_dir = "": is empty; write a path, or leave the key out',
    f'[reviver]\nruntime_dir = "/{"x" * 100}"': "the control socket's path in it has 114 bytes, and the kernel takes 107; choose a shorter",
    '[reviver]\ninclude = ["gone.toml"]': "gone.toml: does not exist; check the path",
    # TOML itself
    "[program.store": "config.toml: is no valid TOML at end of document: Expected ']' at the end of a table declaration; mend it there",
    "x = \n": "config.toml: is no valid TOML at line 1, column 5: Invalid value; mend it there",
    "x = " + "[" * 5000: "config.toml: is nested too deeply; no key needs more than three levels",
    "x = " + "9" * 5000: "config.toml: is no valid TOML: it holds a number of thousands of digits; write a shorter one",
    STORE + f"instances = 0x{'f' * 9000}": "config.toml: program.store.instances = a huge number: is out of range; write a number",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text.replace(STORE, "")[:40])
def test_one_fault_gives_one_sentence(write: Write, text: str) -> None:
    told = faults(write(text))
    assert len(told) == 1, told
    assert WRONG[text] in told[0]
    assert told[0].isprintable()
    assert "; " in told[0]


def test_all_faults_come_at_once_and_a_faulty_key_breaks_no_rule(write: Write) -> None:
    told = faults(
        write(
            """
            colour = "red"
            [program.store]
            command = "gunicorn 'x"
            sockets = ["80"]
            relief = { retire = "stop", spare = "live" }
            hang = { suspect = "20s", certain = "soon" }
            [program.b]
            command = "x"
            instances = -1
            [[escalation]]
            repeat = 3
            """
        )
    )
    assert [line.split(": ")[1].split(" = ")[0] for line in told] == [
        "colour",
        "program.store.command",
        "program.store.sockets",
        "program.store.hang.certain",
        "program.b.instances",
        "escalation[1].repeat",
    ]


def test_secrets_are_never_told(write: Write) -> None:
    write("TOKEN='s3cret\n", ".env")
    told = faults(
        write(
            """
            [program.store]
            command = "x"
            env = { A = "s3cret", B = 5 }
            env_file = [".env"]
            [[escalation]]
            notify = ["slakc://s3cret/x", "webhook:s3cret"]
            [stakeholders]
            notify = ["webhook:s3cret"]
            """
        )
    )
    assert len(told) == 4
    assert "s3cret" not in "".join(told)


def test_sockets_held_twice_name_the_other_program(write: Write) -> None:
    text = '[program.a]\ncommand = "x"\nsockets = ["localhost:80"]\n[program.b]\ncommand = "x"\nsockets = ["LOCALHOST:080"]'
    assert faults(write(text)) == [
        "config.toml: program.b.sockets: LOCALHOST:080 is held for a already; give one of them another address"
    ]


def test_after_in_a_circle_names_the_circle_once(write: Write) -> None:
    text = "".join(f'[program.{name}]\ncommand = "x"\nafter = ["{other}", "z"]\n' for name, other in ("ab", "bc", "ca"))
    assert faults(write(text + '[program.z]\ncommand = "x"')) == [
        "config.toml: program.a.after: goes in a circle: a -> b -> c -> a; each would wait for the other: cut it"
    ]


def test_after_that_joins_again_is_no_circle(write: Write) -> None:
    text = '[program.a]\ncommand = "x"\nafter = ["b", "c"]\n[program.b]\ncommand = "x"\nafter = ["c"]\n[program.c]\ncommand = "x"'
    assert [settings.name for settings in config.load(write(text), ENVIRON).programs] == ["a", "b", "c"]


# --- files ----------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_a_directory_and_one_that_is_no_text_are_told(write: Write, tmp_path: Path) -> None:
    assert faults(tmp_path / "gone.toml") == ["gone.toml: does not exist; check the path"]
    (tmp_path / "folder").mkdir()
    assert faults(tmp_path / "folder") == ["folder: is a directory; name the file in it"]
    assert faults(write(b"# fine\nx = '\xff'\n")) == ["config.toml: is not UTF-8 in line 2; save it as UTF-8"]
    os.mkfifo(tmp_path / "fifo")
    assert faults(tmp_path / "fifo") == ["fifo: is no regular file; name a file"]
    assert faults(Path("/dev/zero")) == ["/dev/zero: is no regular file; name a file".replace("/dev/", "")]


def test_an_absurdly_big_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "big.toml", "wb") as big:
        big.truncate(1 << 40)
    assert faults(tmp_path / "big.toml") == [f"big.toml: has {1 << 40} bytes, more than 4MiB; name a configuration file"]


def test_a_file_that_may_not_be_read_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(STORE)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads it all the same: ask the kernel's answer of somebody else

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    told = faults(path)
    monkeypatch.undo()
    assert told == ["config.toml: cannot be read: permission denied; let the user that runs Reviver read it"]


def test_a_byte_order_mark_is_no_fault(write: Write) -> None:
    assert config.load(write(b"\xef\xbb\xbf" + STORE.encode()), ENVIRON).programs[0].name == "store"


def test_find_takes_the_named_file_before_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    xdg = tmp_path / "xdg/reviver/config.toml"
    if not os.path.exists("/etc/reviver/config.toml"):
        with pytest.raises(config.ConfigErrors) as caught:
            config.find(None, environ)
        assert str(caught.value) == (
            f"no configuration found: looked for config.toml, {xdg}, /etc/reviver/config.toml; write one, or name it with --config"
        )
    xdg.parent.mkdir(parents=True)
    xdg.touch()
    assert config.find(None, environ) == xdg
    Path("config.toml").touch()
    assert config.find(None, environ) == Path("config.toml")
    assert config.find(None, {**environ, "REVIVER_CONFIG": "other.toml"}) == Path("other.toml")
    assert config.find("mine.toml", {**environ, "REVIVER_CONFIG": "other.toml"}) == Path("mine.toml")


def test_directories_default_to_roots_or_to_xdg(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(STORE)

    def directories(environ: dict[str, str]) -> tuple[str, str, str]:
        daemon = config.load(path, environ).daemon
        return daemon.runtime_dir, daemon.state_dir, daemon.log_dir

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories(ENVIRON) == ("/run/reviver", "/var/lib/reviver", "/var/log/reviver")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert directories({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1000"}) == (
        "/run/user/1000/reviver",
        "/h/.local/state/reviver",
        "/h/.local/state/reviver/log",
    )
    assert directories({"HOME": "/h", "TMPDIR": "/t", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "relative"}) == (
        "/t/reviver-1000",
        "/s/reviver",
        "/s/reviver/log",
    )


@pytest.mark.parametrize("named", ["", '[reviver]\nruntime_dir = "run"', '[reviver]\nruntime_dir = "/run/x"'])
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("xdg", ["", "relative", "/run/user/1000/"])
def test_the_client_that_reads_no_configuration_finds_the_same_file_and_socket(
    write: Write, monkeypatch: pytest.MonkeyPatch, named: str, uid: int, xdg: str
) -> None:
    """`status` and the like look for themselves, for start-up time: they must look where the daemon does."""
    path = write(named)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    environ = {"HOME": "/h", "XDG_RUNTIME_DIR": xdg, "REVIVER_CONFIG": str(path)}
    assert client.find_config(None, environ) == str(config.find(None, environ))
    assert client.find_runtime_dir(str(path), environ) == config.load(path, environ).daemon.runtime_dir
    assert config.CONTROL_SOCKET == messages.SOCKET


def test_includes_are_read_sorted_relative_to_the_file_each_once(write: Write, tmp_path: Path) -> None:
    write('[program.b]\ncommand = "b"\n[[escalation]]\nafter = "2s"', "conf.d/2.toml")
    write('[program.a]\ncommand = "a"\ndirectory = "here"\n[[escalation]]\nafter = "1s"', "conf.d/1.toml")
    main = write('[reviver]\ninclude = ["*/*.toml", "conf.d/1.toml", "*.toml", "nothing/*.toml"]\n[program.z]\ncommand = "z"')
    read = config.load(main, ENVIRON)
    assert [settings.name for settings in read.programs] == ["z", "a", "b"]
    assert read.programs[1].launch.directory == f"{tmp_path}/conf.d/here"
    assert [step.after_s for step in read.escalation] == [1.0, 2.0]


def test_an_included_file_holds_programs_and_steps_alone(write: Write) -> None:
    write('[reviver]\ngroup = "x"\n[program.store]\ncommand = "x"\nbogus = 1', "more.toml")
    assert faults(write(STORE + '[reviver]\ninclude = ["more.toml"]')) == [
        "more.toml: reviver: cannot stand in an included file; move it to config.toml; only program and escalation may be here",
        "more.toml: program.store: stands in config.toml already; give one of them another name",
    ]


def test_env_files_come_first_and_are_relative_to_the_file(write: Write) -> None:
    write(
        "# who\n\nexport NAME=store # a comment\n  SPACED =  a b  \nSINGLE='a # $b \\n'\n"
        'DOUBLE="a\\n\\"b\\"" # c\nEMPTY=\nHASH=a#b\nURL=x=y\n',
        "env/one",
    )
    write("NAME=other\nWIN=1\r\n", "env/two")
    read = program(write, 'env_file = ["env/one", "env/two"]\nenv = { EMPTY = "no" }')
    assert dict(read.launch.env) == {
        "NAME": "other",
        "SPACED": "a b",
        "SINGLE": "a # $b \\n",
        "DOUBLE": 'a\n"b"',
        "EMPTY": "no",
        "HASH": "a#b",
        "URL": "x=y",
        "WIN": "1",
    }


@pytest.mark.parametrize("line", ["no equals", "1A=b", "A='b", 'A="b', "A='b' c", "=x", "A B=c", "A=\0"])
def test_a_bad_line_of_an_env_file_is_named_by_its_number(write: Write, line: str) -> None:
    write(f"OK=1\n\n{line}\n", ".env")
    assert faults(write(STORE + 'env_file = [".env"]')) == [
        'config.toml: program.store.env_file: ".env": line 3 is not NAME=value; write NAME=value, close the quotes, or put # in front'
    ]


def test_a_missing_env_file_is_an_error(write: Write) -> None:
    assert faults(write(STORE + 'env_file = ["gone"]')) == [
        'config.toml: program.store.env_file: "gone" does not exist; check the path'
    ]


# --- what only this host tells --------------------------------------------------------------------------------------------------


def examined(write: Write, text: str, environ: dict[str, str] | None = None) -> list[str]:
    path = write(text)
    return [str(fault).replace(f"{path.parent}/", "") for fault in config.examine(config.load(path, ENVIRON), environ or ENVIRON)]


def test_examine_tells_what_is_not_on_this_host(write: Write) -> None:
    write("plain text", "plain").chmod(0o644)
    moved = write("#!/gone/bin/python\n", "moved")
    moved.chmod(0o755)
    text = """
    [reviver]
    group = "no-such-group"
    [program.a]
    command = "no-such-command"
    user = "no-such-user"
    group = "no-such-group"
    preflight = ["./plain", "true"]
    health.command = ["./moved"]
    sorry.page = "no-page"
    [program.b]
    command = "true"
    directory = "gone"
    [program.c]
    command = "./gone"
    [[escalation]]
    notify = ["command:/gone/page --now"]
    """
    path = os.pathsep.join((ENVIRON["PATH"], os.path.dirname(sys.executable)))
    assert examined(write, text) == [
        'config.toml: reviver.group: there is no group "no-such-group" on this host; create it, or name another',
        'config.toml: program.a.user: there is no user "no-such-user" on this host; create it, or name another',
        'config.toml: program.a.group: there is no group "no-such-group" on this host; create it, or name another',
        "config.toml: program.a.sorry.page: no-page is no file with something in it that Reviver can read; mend it, or leave page out",
        f"config.toml: program.a.command: no-such-command: command not found (looked in {path}); install it, or write its whole path",
        "config.toml: program.a.preflight: ./plain is not executable (chmod +x)",
        "config.toml: program.a.health.command: ./moved cannot be executed: its interpreter /gone/bin/python does not exist; "
        "correct its first line",
        "config.toml: program.b.directory: there is no directory gone; create it, or name another",
        "config.toml: program.c.command: ./gone does not exist; name the file to execute",
        "config.toml: escalation[1].notify: /gone/page does not exist; name the file to execute",
    ]


def test_examine_finds_nothing_wrong_with_what_runs(write: Write) -> None:
    assert (
        examined(write, '[program.a]\ncommand = "true"\npreflight = [["/bin/sh", "-c", "x"]]\nsockets = ["127.0.0.1:8080"]') == []
    )


def test_a_user_needs_root(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert examined(write, '[program.a]\ncommand = "true"\nuser = "root"') == [
        'config.toml: program.a.user: only root may run a program as "root"; run Reviver as root, or leave user out'
    ]
    assert examined(write, '[program.a]\ncommand = "true"\ngroup = "root"') == [
        "config.toml: program.a.group: only root may choose a program's group; run Reviver as root, or leave group out"
    ]


def test_a_low_port_needs_the_right(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "may_bind", lambda port: port >= 1024)
    told = examined(write, '[program.a]\ncommand = "true"\nsockets = ["127.0.0.1:80", "127.0.0.1:8080", "unix:/x"]')
    assert len(told) == 1
    assert told[0].startswith("config.toml: program.a.sockets: cannot bind 127.0.0.1:80: ports below ")


def test_the_right_to_bind_agrees_with_the_kernel() -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 1))
            allowed = True
        except PermissionError:
            allowed = False
    assert host.may_bind(1) == allowed
    assert host.may_bind(65535)


def test_the_program_is_looked_for_on_its_own_path_first(write: Write, tmp_path: Path) -> None:
    tool = write("#!/bin/sh\n", "bin/tool")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert config.executable("tool", "/", f"/usr/bin:{tmp_path}/bin") == str(tool)
    assert config.executable("tool", str(tmp_path), "bin") == str(tool)
    assert config.executable("bin/tool", str(tmp_path), "") == f"{tmp_path}/bin/tool"
    launch = LaunchSettings(command=("tool",), env=(("PATH", "/mine"),))
    assert config.search_path(launch, ENVIRON) == "/mine"
    with pytest.raises(config.NotExecutable, match=r"tool: command not found \(looked in /mine\)"):
        config.executable("tool", "/", "/mine")
    with pytest.raises(config.NotExecutable, match="is a directory"):
        config.executable("./bin", str(tmp_path), "")


def test_a_command_that_cannot_be_executed_yields_to_a_later_one_that_can(write: Write, tmp_path: Path) -> None:
    write("x", "one/tool").chmod(0o644)
    write("#!/bin/sh\n", "two/tool").chmod(0o755)
    assert config.executable("tool", "/", f"{tmp_path}/one:{tmp_path}/two") == f"{tmp_path}/two/tool"


# --- however odd ----------------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(
        ["auto", "off", "5s", "-1s", "1GiB", "127.0.0.1:80", "unix:/x", "{fd:9}", "command:", "/x", "a 'b", "http://[", "*"]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)
KEYS = sorted(
    {
        *config.REVIVER,
        *config.PROGRAM,
        *config.LIMITS,
        *config.HEALTH,
        *config.HANG,
        *config.RELIEF,
        *config.RESTART,
        *config.OUTPUT,
    }
    | {*config.ESCALATION, *config.TABLES, "store", "a b", ""}
)


def toml(value: Any) -> str:
    """A value as TOML; tables are written inline."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return f"{{{', '.join(f'{toml(name)} = {toml(item)}' for name, item in value.items())}}}"


def document(tables: dict[str, Any]) -> str:
    return "".join(f"{toml(name)} = {toml(value)}\n" for name, value in tables.items())


def settings_or_faults(path: Path, text: str) -> Settings | None:
    """Load must give settings or ConfigErrors with sentences; whatever else comes out fails the test."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return config.load(path, ENVIRON)
    except config.ConfigErrors as errors:
        told = [str(fault) for fault in errors.faults]
    assert told
    assert all(map(str.isprintable, told))
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables=st.dictionaries(
        st.sampled_from(KEYS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), VALUES, max_size=5
    )
)
def test_no_document_however_odd_raises_anything_else(tmp_path: Path, tables: dict[str, Any]) -> None:
    settings_or_faults(tmp_path / "config.toml", document(tables))


VALID: dict[str, Any] = {
    "reviver": {"runtime_dir": "/run/x", "group": "", "keep": "90d"},
    "program": {
        "db": {"command": ["db"]},
        "store": {
            "command": ["gunicorn", "x", "{fd}"],
            "sockets": ["127.0.0.1:80"],
            "after": ["db"],
            "env": {"A": "b"},
            "limits": {"nofile": 10},
            "health": {"http": "/", "every": "1s"},
            "hang": {"suspect": "1s", "certain": "10s"},
            "relief": {"extra": 1, "retire": "stop"},
            "restart": {"first": "1s"},
        },
    },
    "escalation": [{"notify": ["journal:"], "programs": ["store"]}],
    "stakeholders": {"after": "1m"},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inner for place in places(item, (*path, key))]


def change(tables: Any, place: tuple[Any, ...], value: Any, added: str) -> None:
    """Put the value there; in a list, instead of all items; where an earlier change took the place away, nowhere."""
    for step in place[:-1]:
        if not isinstance(tables, dict) or not isinstance(tables.get(step), (dict, list)):
            return
        tables = tables[step]
    if isinstance(tables, dict):
        tables[place[-1]] = tables[added] = value
    else:
        tables[:] = [value]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(places(VALID)), VALUES), min_size=1, max_size=3), added=st.sampled_from(KEYS))
def test_no_mutation_of_a_valid_document_raises_anything_else(
    tmp_path: Path, changes: list[tuple[tuple[Any, ...], Any]], added: str
) -> None:
    tables = copy.deepcopy(VALID)
    for place, value in changes:
        change(tables, place, value, added)
    settings_or_faults(tmp_path / "config.toml", document(tables))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(FULL)), noise=st.text(max_size=5))
def test_no_cut_or_noise_in_the_text_raises_anything_else(tmp_path: Path, cut: int, noise: str) -> None:
    settings_or_faults(tmp_path / "config.toml", FULL[:cut] + noise + FULL[cut + len(noise) :])


def test_the_valid_document_of_the_mutations_is_valid(tmp_path: Path) -> None:
    assert settings_or_faults(tmp_path / "config.toml", document(VALID)) is not None
