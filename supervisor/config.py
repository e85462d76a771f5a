"""From TOML to the model's typed settings: validated, with errors that name the file, the key, the value and the mend.

May read files: the configuration, its includes, its env files; so it may block, and callers are a command line or a lane. Promises:
`load` gives whole settings or raises ConfigErrors with every fault found, each one sentence; nothing is half-applied, no other
exception comes out of it, and what may be a secret (variables, env files, channels) never stands in its texts.

One table says what an operator may write: each key has a reader, which turns a TOML value into a typed one or says what is wrong
with it. Parsing, unknown keys, type errors and ranges all follow from the table; defaults are the model's. Rules over several keys
are a second table, skipped where one of their keys is faulty already. What relief can do is decided by `servers`; what only this
host tells (`examine`, `executable`) stands in `host`.

A path in a file is relative to that file's folder, also in an included one. Symlinks are not resolved here: they name releases.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from supervisor import readers, servers
from supervisor.host import NotExecutable, examine, executable, installed, search_path
from supervisor.model import (
    Act,
    AlertSettings,
    DaemonSettings,
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
from supervisor.readers import ConfigError, dotted, quoted, shown, spell_duration, suggestion

__all__ = ["ConfigError", "ConfigErrors", "NotExecutable", "examine", "executable", "find", "load", "search_path"]

CONTROL_SOCKET = "control.sock"  # in runtime_dir
SYSTEM_FILE = "/etc/reviver/config.toml"  # the one that everybody finds, from anywhere
FILE_LIMIT_BYTES = 4 * 1024 * 1024  # a thousand programs take less than one; anything above is not a configuration
INCLUDE_LIMIT = 1000  # files: a pattern that meets more has gone astray
SORRY_S = 3.0  # a page is better than a browser that hangs, and most starts take less
WINDOW_LIMIT_S = 7 * 86400.0
INSTANCES_LIMIT = 1000  # beyond it a typing error is likelier than a host that can


class ConfigErrors(Exception):
    """All faults of a configuration at once."""

    def __init__(self, faults: Iterable[ConfigError]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


# --- the table: what an operator may write --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    field   the model's name for it, "" the same
    secret  its value is never shown
    """

    read: readers.Reader
    field: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table of keys, made into one value."""

    keys: Mapping[str, Key | Section]
    make: Callable[..., Any]


REVIVER: Mapping[str, Key | Section] = {
    "runtime_dir": Key(readers.path),
    "state_dir": Key(readers.path),
    "log_dir": Key(readers.path),
    "include": Key(readers.several(readers.line)),
    "group": Key(readers.line),
    "keep": Key(readers.duration("1h", off=True), "keep_s"),
    "ping": Key(readers.empty_or(readers.web), secret=True),
}

LIMITS: Mapping[str, Key | Section] = {
    "nofile": Key(readers.number(1, 1 << 30)),
    "core": Key(readers.size()),
    "memory": Key(readers.size(1 << 20), "memory_bytes"),
    "cpu": Key(readers.number(0.01, 4096, whole=False)),
    "processes": Key(readers.number(1, 1 << 22)),
}

LAUNCH: Mapping[str, Key | Section] = {
    "command": Key(readers.needed_command),
    "directory": Key(readers.path),
    "env": Key(readers.environment, secret=True),
    "env_file": Key(readers.several(readers.line)),
    "user": Key(readers.line),
    "group": Key(readers.line),
    "umask": Key(readers.umask),
    "nice": Key(readers.number(-20, 19)),
    "limits": Section(LIMITS, Limits),
    "sockets": Key(readers.addresses),
    "preflight": Key(readers.several(readers.needed_command)),
}

HEALTH: Mapping[str, Key | Section] = {
    "http": Key(readers.empty_or(readers.http)),
    "tcp": Key(readers.empty_or(readers.host_port)),
    "command": Key(readers.command),
    "heartbeat": Key(readers.boolean),
    "every": Key(readers.duration("100ms"), "every_s"),
    "timeout": Key(readers.duration("100ms"), "timeout_s"),
    "start": Key(readers.duration("100ms"), "start_s"),
}

HANG: Mapping[str, Key | Section] = {
    "suspect": Key(readers.duration("100ms"), "suspect_s"),
    "certain": Key(readers.duration("100ms"), "certain_s"),
    "blocked": Key(readers.duration("100ms", off=True), "blocked_s"),
    "worker": Key(readers.duration("100ms"), "worker_s"),
    "act": Key(readers.choice({act.value: act for act in Act})),
}

RELIEF: Mapping[str, Key | Section] = {
    "extra": Key(readers.auto(readers.number(0, INSTANCES_LIMIT))),
    "budget": Key(readers.number(0, 1000)),
    "retire": Key(readers.auto(readers.choice({way.value: way for way in Retirement}))),
    "spare": Key(readers.choice({"none": False, "live": True})),
}

RESTART: Mapping[str, Key | Section] = {
    "when": Key(readers.choice({when.value: when for when in RestartWhen})),
    "first": Key(readers.duration(), "first_s"),
    "limit": Key(readers.duration("100ms"), "limit_s"),
    "budget": Key(readers.number(1, 1000)),
    "window": Key(readers.duration("1s"), "window_s"),
    "healthy": Key(readers.duration("1s"), "healthy_s"),
}

OUTPUT: Mapping[str, Key | Section] = {
    "to": Key(readers.choice({to.value: to for to in OutputTo})),
    "rotate": Key(readers.size(4096, off=True), "rotate_bytes"),
    "age": Key(readers.duration("1m", off=True), "age_s"),
    "keep": Key(readers.number(0, 10_000)),
    "compress": Key(readers.boolean),
    "timestamps": Key(readers.boolean),
}

RELEASE: Mapping[str, Key | Section] = {
    "probation": Key(readers.duration(), "probation_s"),
    "rollback": Key(readers.boolean),
}

_AUTO = object()  # in the place of a duration that is decided here

SORRY: Mapping[str, Key | Section] = {
    "after": Key(readers.auto(readers.duration("100ms", off=True), _AUTO), "after_s"),
    "page": Key(readers.empty_or(readers.path)),
    "retry": Key(readers.duration("1s"), "retry_s"),
}

PROGRAM: Mapping[str, Key | Section] = {
    **LAUNCH,
    "runbook": Key(readers.line),
    "drill": Key(readers.boolean),
    "instances": Key(readers.number(1, INSTANCES_LIMIT)),
    "start": Key(readers.choice({"auto": False, "manual": True}), "manual"),
    "after": Key(readers.several(readers.program_name)),
    "reload": Key(readers.reload_way),
    "stop": Key(readers.signal_name),
    "grace": Key(readers.duration(), "grace_s"),
    "health": Section(HEALTH, HealthSettings),
    "hang": Section(HANG, HangSettings),
    "relief": Section(RELIEF, dict),
    "restart": Section(RESTART, RestartSettings),
    "output": Section(OUTPUT, OutputSettings),
    "release": Section(RELEASE, ReleaseSettings),
    "sorry": Section(SORRY, dict),
}

ESCALATION: Mapping[str, Key | Section] = {
    "after": Key(readers.duration(), "after_s"),
    "notify": Key(readers.several(readers.channel), secret=True),
    "repeat": Key(readers.duration("1s", off=True), "repeat_s"),
    "when": Key(readers.choice({"warning": Severity.WARNING, "critical": Severity.CRITICAL})),
    "programs": Key(readers.several(readers.program_name)),
}

STAKEHOLDERS: Mapping[str, Key | Section] = {
    "notify": Key(readers.several(readers.channel), secret=True),
    "after": Key(readers.duration(), "after_s"),
    **{name: Key(readers.template("program", "lasted", "affected")) for name in ("begin", "back", "again", "over", "stopped")},
}

ALERTS: Mapping[str, Key | Section] = {
    "secret_file": Key(readers.empty_or(readers.path)),
    "rehearse": Key(readers.duration("1h", off=True), "rehearse_s"),
}

MAINTENANCE: Mapping[str, Key | Section] = {
    "days": Key(readers.several(readers.choice({day.name.lower(): day for day in Weekday}))),
    "at": Key(readers.time_of_day, "minute"),
    "lasts": Key(readers.duration("1m"), "lasts_s"),
    "programs": Key(readers.several(readers.program_name)),
}

TABLES = ("reviver", "program", "escalation", "stakeholders", "maintenance", "alerts")
INCLUDED_TABLES = ("program", "escalation")


@dataclass(frozen=True, slots=True)
class Rule:
    """What several keys of a program must not say together: the first of them that was written is blamed.

    problem  "" where all is well
    """

    keys: tuple[str, ...]
    problem: Callable[[ProgramSettings], str]
    mend: str


Seconds = Callable[[ProgramSettings], float | None]


def _not_above(keys: tuple[str, ...], least: Seconds, most: Seconds, mend: str) -> Rule:
    """The first key's duration must not be above the second's; None is no duration, or no limit."""

    def problem(program: ProgramSettings) -> str:
        one, other = least(program), most(program)
        if one is None or other is None or one <= other:
            return ""
        return f"{keys[0]} ({spell_duration(one)}) is above {keys[1]} ({spell_duration(other)})"

    return Rule(keys, problem, mend)


def _path_without_socket(program: ProgramSettings) -> str:
    return (
        "is a path, and there is no held socket to ask"
        if program.health.http.startswith("/") and not program.launch.sockets
        else ""
    )


def _socket_not_there(program: ProgramSettings) -> str:
    held = len(program.launch.sockets)
    beyond = [number for number in servers.placeholders(program.launch.command) if not 1 <= number <= held]
    return f"names held socket {beyond[0]}, and there are {held}" if beyond else ""


def _spare_without_room(program: ProgramSettings) -> str:
    return f"has no room, it is {program.relief.extra_because}" if program.relief.spare and program.relief.extra == 0 else ""


def _page_without_socket(program: ProgramSettings) -> str:
    return "" if program.sorry.after_s is None or program.launch.sockets else "needs a held socket, and there is none"


RULES: tuple[Rule, ...] = (
    _not_above(
        ("hang.suspect", "hang.certain"),
        lambda p: p.hang.suspect_s,
        lambda p: p.hang.certain_s,
        "let suspicion come before certainty",
    ),
    _not_above(
        ("hang.certain", "hang.blocked"),
        lambda p: p.hang.certain_s,
        lambda p: p.hang.blocked_s,
        "a blocked one deserves more patience",
    ),
    _not_above(
        ("restart.first", "restart.limit"), lambda p: p.restart.first_s, lambda p: p.restart.limit_s, "limit is the slowest pace"
    ),
    _not_above(
        ("health.timeout", "health.start"), lambda p: p.health.timeout_s, lambda p: p.health.start_s, "give it time for one probe"
    ),
    _not_above(
        ("health.every", "health.start"),
        lambda p: p.health.every_s,
        lambda p: p.health.start_s,
        "it would not be asked once in time",
    ),
    _not_above(
        ("health.every", "hang.certain", "health.heartbeat"),
        lambda p: p.health.every_s if p.health.heartbeat else None,
        lambda p: p.hang.certain_s,
        "a healthy one would look hung between two heartbeats",
    ),
    Rule(("health.http", "sockets"), _path_without_socket, 'name it in sockets, or write a whole "http://127.0.0.1:8000/health"'),
    Rule(("sorry.after", "sockets"), _page_without_socket, 'name it in sockets, or write "off"'),
    Rule(("command", "sockets"), _socket_not_there, "add its address to sockets; {fd} is the first, {fd:2} the second"),
    Rule(
        ("relief.spare", "relief.extra", "sockets", "command"),
        _spare_without_room,
        'write relief.extra = 1 if two can live side by side, else "none"',
    ),
)


# --- reading a document ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Document:
    """One TOML file while it is read. Faults and idle keys are shared with the other files of the configuration."""

    file: str
    folder: str
    faults: list[ConfigError]
    unused: list[str]
    written: dict[str, Any] = field(default_factory=dict)  # by key path, as TOML has them
    faulty: set[str] = field(default_factory=set)

    def fault(self, key: str, problem: str, mend: str, value: str = "") -> None:
        self.faulty.add(key)
        self.faults.append(ConfigError(self.file, key, problem, mend, value))

    def section(self, raw: Any, keys: Mapping[str, Key | Section], path: str) -> dict[str, Any]:
        """The model's fields that a table sets; what is faulty is left out and noted."""
        if not isinstance(raw, dict):
            self.fault(path, f"is {readers.kind(raw)}, not a table", f"write [{path}] above its keys", shown(raw))
            return {}
        values: dict[str, Any] = {}
        for name, value in raw.items():
            at = dotted(path, name)
            self.written[at] = value
            match keys.get(name):
                case None:
                    self.fault(at, "is no key that Reviver knows", _known(name, keys))
                case Section() as section:
                    values[name] = section.make(**self.section(value, section.keys, at))
                case Key() as key:
                    self._key(key, name, value, at, values)
        return values

    def _key(self, key: Key, name: str, value: Any, at: str, values: dict[str, Any]) -> None:
        try:
            values[key.field or name] = key.read(value)
        except readers.Refused as bad:
            self.fault(at, bad.problem, bad.mend, "" if key.secret else shown(value))
            return

    def any_faulty(self, at: str, keys: tuple[str, ...]) -> bool:
        return not self.faulty.isdisjoint(f"{at}.{key}" for key in keys)

    def path(self, text: str) -> str:
        """A path of this file, made absolute, its symlinks left alone."""
        return str(Path(self.folder, text))


def _known(name: str, keys: Mapping[str, Key | Section]) -> str:
    """The mend for an unknown key: one spelled alike, or the same one where it belongs."""
    inner = [f"{outer}.{name}" for outer, section in keys.items() if isinstance(section, Section) and name in section.keys]
    if inner:
        return f"did you mean `{inner[0]}`?"
    return suggestion(name, keys) or f"it may be one of {', '.join(sorted(keys))}"


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: the one named, else the first that exists on the search path.

    Raises ConfigErrors when there is none.
    """
    named = explicit or environ.get("REVIVER_CONFIG")
    if named:
        return Path(named)
    candidates = [
        Path("config.toml"),
        Path(_xdg(environ, "XDG_CONFIG_HOME", ".config"), "reviver/config.toml"),
        Path(SYSTEM_FILE),
    ]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    looked = ", ".join(readers.printable(str(candidate)) for candidate in candidates)
    raise ConfigErrors([ConfigError("", "", f"no configuration found: looked for {looked}", "write one, or name it with --config")])


def option(path: str) -> str:
    """What a command carries for people to paste it, wherever and as whomever: " --config PATH", or "" where everybody finds the file."""
    whole = os.path.abspath(path) if path else SYSTEM_FILE
    return "" if whole == SYSTEM_FILE else f" --config {shlex.quote(whole)}"


def load(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """The whole configuration in `path`. Raises ConfigErrors, with all faults at once, and nothing else."""
    environ = os.environ if environ is None else environ
    faults: list[ConfigError] = []
    unused: list[str] = []
    main = _document(path, faults, unused)
    if main is None:
        raise ConfigErrors(faults)
    raw, document = main
    for name in raw:
        if name not in TABLES:
            document.fault(
                dotted("", name), "is no table that Reviver knows", suggestion(name, TABLES) or f"use {', '.join(TABLES)}"
            )
    reviver = document.section(raw.get("reviver", {}), REVIVER, "reviver")
    documents = [(raw, document), *_included(document, reviver.pop("include", ()), path)]
    programs = _programs(documents)
    escalation = _escalation(documents, programs)
    stakeholders = document.section(raw.get("stakeholders", {}), STAKEHOLDERS, "stakeholders")
    maintenance = _maintenance(document, raw, programs)
    alerts = document.section(raw.get("alerts", {}), ALERTS, "alerts")
    if alerts.get("secret_file"):
        alerts["secret_file"] = document.path(alerts["secret_file"])
    daemon = _daemon(document, reviver, environ)
    _neighbours(programs)
    if faults:
        raise ConfigErrors(faults)
    return Settings(
        path=str(path),
        daemon=daemon,
        programs=tuple(settings for settings, _ in programs.values()),
        escalation=escalation,
        stakeholders=StakeholderSettings(**stakeholders),
        maintenance=maintenance,
        alerts=AlertSettings(**alerts),
        unused=tuple(unused),
    )


def written(path: Path, name: str) -> tuple[dict[str, Any], str]:
    """A program's table as the operator wrote it, and the folder of the file that it stands in; of a configuration that was loaded."""
    main = _document(path, [], [])
    if main is not None:
        raw, document = main
        reviver = document.section(raw.get("reviver", {}), REVIVER, "reviver")
        for found, where in [(raw, document), *_included(document, reviver.pop("include", ()), path)]:
            table = found.get("program", {}).get(name)
            if table is not None:
                return dict(table), where.folder
    raise KeyError(name)


# --- files ----------------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """A text file. Raises readers.Refused."""
    try:
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):
            raise readers.Refused("is a directory", "name the file in it")
        if not stat.S_ISREG(about.st_mode):
            raise readers.Refused("is no regular file", "name a file")
        if about.st_size > FILE_LIMIT_BYTES:
            raise readers.Refused(
                f"has {about.st_size} bytes, more than {readers.spell_size(FILE_LIMIT_BYTES)}", "name a configuration file"
            )
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise readers.Refused("does not exist", "check the path") from None
    except PermissionError:
        raise readers.Refused("cannot be read: permission denied", "let the user that runs Reviver read it") from None
    except (OSError, ValueError) as problem:
        raise readers.Refused(f"cannot be read: {getattr(problem, 'strerror', None) or problem}", "check the path") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise readers.Refused(f"is not UTF-8 in line {line}", "save it as UTF-8") from None


def _document(path: Path, faults: list[ConfigError], unused: list[str]) -> tuple[dict[str, Any], _Document] | None:
    """A file's TOML and where to note its faults; None when it cannot be read at all."""
    document = _Document(readers.printable(str(path)), "", faults, unused)
    try:
        text = _read(path)
        document.folder = os.path.dirname(os.path.abspath(path))
        return tomllib.loads(text), document
    except readers.Refused as bad:
        document.fault("", bad.problem, bad.mend)
    except tomllib.TOMLDecodeError as problem:
        what, _, where = str(problem).rpartition(" (at ")
        document.fault("", f"is no valid TOML at {where.rstrip(')')}: {readers.printable(what)}", "mend it there")
    except RecursionError:
        document.fault("", "is nested too deeply", "no key needs more than three levels")
    except ValueError:  # int() refuses more than 4300 digits, and tomllib passes that on
        document.fault("", "is no valid TOML: it holds a number of thousands of digits", "write a shorter one")
    return None


def _included(main: _Document, patterns: tuple[str, ...], path: Path) -> Iterator[tuple[dict[str, Any], _Document]]:
    """The documents that the patterns name, sorted, each once. A pattern may match nothing; a plain name must exist."""
    seen = {os.path.realpath(path)}
    for pattern in patterns:
        whole = main.path(pattern)
        names = sorted(itertools.islice(glob.iglob(whole), INCLUDE_LIMIT + 1)) if glob.has_magic(whole) else [whole]
        if len(names) > INCLUDE_LIMIT:
            main.fault("reviver.include", f"{quoted(pattern)} matches more than {INCLUDE_LIMIT} files", "name fewer")
            continue
        for name in names:
            if os.path.realpath(name) in seen:
                continue
            seen.add(os.path.realpath(name))
            found = _document(Path(name), main.faults, main.unused)
            if found is None:
                continue
            for table in found[0]:
                if table not in INCLUDED_TABLES:
                    found[1].fault(
                        dotted("", table),
                        "cannot stand in an included file",
                        f"move it to {main.file}; only program and escalation may be here",
                    )
            yield found


_ENV_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_ENV_ESCAPE = re.compile(r"\\(.)")


def env_lines(text: str) -> dict[str, str]:
    """The variables of an env file: `NAME=value` lines, `#` comments, an `export` in front is ignored.

    A value in single quotes is literal; in double quotes \\n and \\t are a line's end and a tab, and a backslash keeps any other
    character; without quotes it ends at the line's end or before ` #`. Nothing is expanded.
    raises  ValueError that names the first bad line by its number, never its content
    """
    variables = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _ENV_LINE.fullmatch(line)
        value = _env_value(found[2]) if found else None
        if found is None or value is None:
            raise ValueError(f"line {number} is not NAME=value")
        variables[found[1]] = value
    return variables


def _env_value(text: str) -> str | None:
    """A value without its quotes and comment; None when a quote is not closed, or something follows it."""
    if "\0" in text:
        return None
    if not text.startswith(("'", '"')):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
    quoted = re.fullmatch(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""", text)
    if quoted is None:
        return None
    if quoted[1] is not None:
        return quoted[1]
    return _ENV_ESCAPE.sub(lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), quoted[2])


# --- programs -------------------------------------------------------------------------------------------------------------------

Programs = dict[str, tuple[ProgramSettings, _Document]]


def _programs(documents: list[tuple[dict[str, Any], _Document]]) -> Programs:
    programs: Programs = {}
    for raw, document in documents:
        tables = raw.get("program", {})
        if not isinstance(tables, dict):
            document.fault("program", f"is {readers.kind(tables)}, not a table of programs", "write [program.NAME]")
            continue
        for name, table in tables.items():
            at = dotted("program", name)
            try:
                readers.program_name(name)
            except readers.Refused as bad:
                document.fault(at, bad.problem, bad.mend)
                continue
            if name in programs:
                document.fault(at, f"stands in {programs[name][1].file} already", "give one of them another name")
                continue
            programs[name] = (_program(document, name, table, at), document)
    return programs


def _program(document: _Document, name: str, raw: Any, at: str) -> ProgramSettings:
    """One program's settings; where something is faulty, with the default in its place: `load` then refuses the whole."""
    values = document.section(raw, PROGRAM, at)
    if isinstance(raw, dict) and "command" not in raw:
        document.fault(f"{at}.command", "is missing", 'write what to run, e.g. command = ["gunicorn", "store.wsgi"]')
    env = {**_env_files(document, values.pop("env_file", ()), f"{at}.env_file"), **values.pop("env", {})}
    directory = document.path(values.pop("directory", "."))
    command = values.pop("command", ("",))  # a stand-in for a faulty one
    names = {known.name for known in fields(LaunchSettings)}
    rest = {key: values.pop(key) for key in list(values) if key in names}
    launch = LaunchSettings(command=command, directory=directory, env=tuple(sorted(env.items())), **rest)
    wish = values.pop("relief", {})
    relief = servers.relief(
        launch,
        stop=values.get("stop", "TERM"),
        hang=values.get("hang"),
        extra=wish.pop("extra", None),
        retire=wish.get("retire"),
    )
    wished = wish.pop("retire", None) is not None
    if wished and relief.extra == 0 and not document.any_faulty(at, ("relief.extra", "sockets", "command")):
        document.fault(f"{at}.relief.retire", f"has no meaning, it is {relief.because}", 'write "auto"', shown(relief.retire.value))
    found = servers.recognise(launch.command)
    sorry = _sorry(document, values.pop("sorry", {}), launch, values.get("health", HealthSettings()))
    settings = ProgramSettings(
        name=name,
        launch=launch,
        server=found.server.name if found else "",
        relief=ReliefSettings(extra=relief.extra, extra_because=relief.because, retire=relief.retire, **wish),
        sorry=sorry,
        **values,
    )
    _obey_rules(document, settings, at)
    return settings


def _sorry(document: _Document, wish: dict[str, Any], launch: LaunchSettings, health: HealthSettings) -> SorrySettings:
    """By itself only where it is known that customers speak plain HTTP: on a held socket that is asked so."""
    if wish.get("after_s", _AUTO) is _AUTO:
        wish["after_s"] = SORRY_S if launch.sockets and health.http.startswith("/") else None
    if page := wish.get("page"):
        wish["page"] = document.path(page)
    return SorrySettings(**wish)


def _env_files(document: _Document, names: tuple[str, ...], at: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name in names:
        try:
            variables.update(env_lines(_read(Path(document.path(name)))))
        except readers.Refused as bad:
            document.fault(at, f"{quoted(name)} {bad.problem}", bad.mend)
        except ValueError as problem:
            document.fault(at, f"{quoted(name)}: {problem}", "write NAME=value, close the quotes, or put # in front")
    return variables


def _obey_rules(document: _Document, settings: ProgramSettings, at: str) -> None:
    for rule in RULES:
        if document.any_faulty(at, rule.keys):
            continue
        if problem := rule.problem(settings):
            keys = [f"{at}.{key}" for key in rule.keys]
            blamed = next((key for key in keys if key in document.written), keys[0])
            document.fault(blamed, problem, rule.mend, shown(document.written[blamed]) if blamed in document.written else "")


def _neighbours(programs: Programs) -> None:
    """What programs must not say together: an unknown one in `after`, a circle, one socket held twice."""
    holders: dict[str, str] = {}
    for name, (settings, document) in programs.items():
        at = f"program.{name}"
        for address in settings.launch.sockets:
            holder = holders.setdefault(readers.canonical(address), name)
            if holder != name:
                document.fault(f"{at}.sockets", f"{address} is held for {holder} already", "give one of them another address")
        for other in settings.after:
            if other == name:
                document.fault(f"{at}.after", "names the program itself", "leave it out")
            elif other not in programs:
                document.fault(
                    f"{at}.after",
                    f"{quoted(other)} is no program",
                    suggestion(other, programs) or "name a program of this configuration",
                )
    for circle in _circles({name: settings.after for name, (settings, _) in programs.items()}):
        document = programs[circle[0]][1]
        document.fault(
            f"program.{circle[0]}.after", f"goes in a circle: {' -> '.join(circle)}", "each would wait for the other: cut it"
        )


def _circles(after: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Each circle once, as the names along it, the first repeated at its end; one that waits for itself is told elsewhere."""
    done: set[str] = set()
    for first in after:
        trail: list[str] = []
        branches = [iter((first,))]
        while branches:
            name = next(branches[-1], None)
            if name is None:
                branches.pop()
                if trail:
                    done.add(trail.pop())
            elif name in trail:
                circle = trail[trail.index(name) :]
                if len(circle) > 1:
                    yield (*circle, name)
            elif name in after and name not in done:
                trail.append(name)
                branches.append(iter(after[name]))


# --- the rest of the file -------------------------------------------------------------------------------------------------------


def _escalation(documents: list[tuple[dict[str, Any], _Document]], programs: Programs) -> tuple[EscalationStep, ...]:
    steps = []
    for raw, document in documents:
        for at, table in _tables(document, raw, "escalation", "steps"):
            step = EscalationStep(**document.section(table, ESCALATION, at))
            _known_programs(document, at, step.programs, programs)
            _need_apprise(document, f"{at}.notify", step.notify)
            steps.append(step)
    return tuple(steps)


def _maintenance(document: _Document, raw: dict[str, Any], programs: Programs) -> tuple[MaintenanceSettings, ...]:
    windows = []
    for at, table in _tables(document, raw, "maintenance", "windows"):
        window = MaintenanceSettings(**document.section(table, MAINTENANCE, at))
        _known_programs(document, at, window.programs, programs)
        if isinstance(table, dict) and "at" not in table:
            document.fault(f"{at}.at", "is missing", 'write when it begins, e.g. at = "02:00"')
        if window.lasts_s > WINDOW_LIMIT_S:
            document.fault(f"{at}.lasts", "is above 7d", "nobody would be told of anything: name the days instead")
        windows.append(window)
    return tuple(windows)


def _tables(document: _Document, raw: dict[str, Any], name: str, what: str) -> Iterator[tuple[str, Any]]:
    """The tables of a list of them, each with its key path."""
    tables = raw.get(name, [])
    if not isinstance(tables, list):
        document.fault(name, f"is {readers.kind(tables)}, not a list of {what}", f"write [[{name}]], with two brackets")
        return
    for number, table in enumerate(tables, 1):
        yield f"{name}[{number}]", table


def _known_programs(document: _Document, at: str, names: tuple[str, ...], programs: Programs) -> None:
    for name in names:
        if name not in programs:
            mend = suggestion(name, programs) or "name one of this configuration"
            document.fault(f"{at}.programs", f"{quoted(name)} is no program", mend)


def _need_apprise(document: _Document, at: str, channels: tuple[str, ...]) -> None:
    """Say of channels that are not built in that they do nothing here, where the library is missing."""
    schemes = sorted({channel.partition(":")[0] for channel in channels} - set(readers.BUILT_IN_CHANNELS))
    if schemes and not installed("apprise"):
        document.unused.append(
            f"{at} has no effect for {', '.join(schemes)}: apprise is not installed, install it with pip install 'reviver[notify]'"
        )


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> str:
    """A folder of the XDG base directory specification: a relative value is to be ignored."""
    value = environ.get(name, "")
    return value if value.startswith("/") else str(Path(environ.get("HOME") or os.path.expanduser("~"), below_home))


def _own_runtime(environ: Mapping[str, str]) -> str:
    value = environ.get("XDG_RUNTIME_DIR", "")
    return (
        str(Path(value, "reviver"))
        if value.startswith("/")
        else str(Path(environ.get("TMPDIR") or "/tmp", f"reviver-{os.geteuid()}"))
    )


def _daemon(document: _Document, values: dict[str, Any], environ: Mapping[str, str]) -> DaemonSettings:
    if os.geteuid() == 0:
        defaults = {"runtime_dir": "/run/reviver", "state_dir": "/var/lib/reviver", "log_dir": "/var/log/reviver"}
    else:
        state = str(Path(_xdg(environ, "XDG_STATE_HOME", ".local/state"), "reviver"))
        defaults = {"runtime_dir": _own_runtime(environ), "state_dir": state, "log_dir": str(Path(state, "log"))}
    written = {name: document.path(values[name]) for name in defaults if name in values}
    daemon = DaemonSettings(**{**values, **defaults, **written})
    length = len(os.fsencode(Path(daemon.runtime_dir, CONTROL_SOCKET)))
    if length > readers.SOCKET_PATH_LIMIT_BYTES:
        problem = f"the control socket's path in it has {length} bytes, and the kernel takes {readers.SOCKET_PATH_LIMIT_BYTES}"
        document.fault("reviver.runtime_dir", problem, "choose a shorter path", shown(daemon.runtime_dir))
    return daemon
