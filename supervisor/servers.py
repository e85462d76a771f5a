"""What is known of each application server, as data: how it takes a held socket, how it stops, what it heals by itself.

Pure: a table of frozen values, and functions over a program's settings. Nothing is started or read to find out; what a command
does not show (a server's own configuration file) is not guessed, and the sentences say "as far as its command shows". A server that
is not in the table is unknown, and an unknown server is never run beside itself unless the operator says so.

Sources: trials with each server (two instances on one held socket, SIGTERM to the first under load), and its manual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from supervisor.model import HangSettings, LaunchSettings, ProgramSettings, Retirement

FIRST_FD = 3  # sd_listen_fds(3): handed-over sockets begin at descriptor 3
PATIENCE_BESIDE = 3.0  # a suspect beside a relief has three times `certain`: both compete for the processors
_PLACEHOLDER = re.compile(r"\{fd(?::(\d{1,6}))?\}")


class Takes(Enum):
    """How a server takes a listening socket that it did not open itself."""

    LISTEN_FDS = "LISTEN_FDS"  # by the environment, and only where LISTEN_PID is its own pid
    OPTION = "an option"  # its command names the descriptor
    CODE = "listen({fd})"  # its own code decides; the command shows it only when it carries the descriptor
    NGINX = "the environment NGINX"
    STDIN = "standard input"  # the socket as descriptor 0
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Healer:
    """A server's own watchdog, which kills what it believes to be hung: it must not be quicker than Reviver.

    options    set its seconds
    default_s  without the option; None: it does not run without
    needs      it runs only where one of these options is given; () is always
    zero_off   0 switches it off
    """

    options: tuple[str, ...]
    default_s: float | None
    needs: tuple[str, ...] = ()
    zero_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How long a server lets requests finish once it was asked to stop. `default_s` None: as long as they take."""

    options: tuple[str, ...]
    default_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One row. Options are those of its command line; patterns are searched in it with `{fd}` replaced by its number.

    only_with        a word without which the command is no server
    takes            how a held socket comes to it, and `shown_by`, the pattern that its command must show for that
    mend             what to write where the command does not take the held socket
    refuses          a pattern: a word of the command that spoils the taking
    binds_in_vain    beside a held socket it ignores the addresses it was told to bind
    many             several held sockets, or only the first
    graceful         signals after which it finishes what it serves
    ends_on_term     without this option SIGTERM does not even stop it
    drain            for how long
    healer           its own watchdog
    forks            the options that make it a pre-fork parent of workers; `forks_always` without any
    ask_worker       the signal a hung worker is sent before SIGKILL, "" for none: its client then reads an error instead of a reset
    """

    name: str
    commands: tuple[str, ...]
    modules: tuple[str, ...] = ()
    only_with: str = ""
    takes: Takes
    shown_by: str = ""
    mend: str = ""
    refuses: str = ""
    binds_in_vain: bool = False
    many: bool = True
    graceful: tuple[str, ...] = ()
    ends_on_term: str = ""
    drain: Drain | None = None
    healer: Healer | None = None
    forks: tuple[str, ...] = ()
    forks_always: bool = False
    ask_worker: str = ""


SERVERS: tuple[Server, ...] = (
    Server(
        name="gunicorn",
        commands=("gunicorn",),
        modules=("gunicorn",),
        takes=Takes.LISTEN_FDS,
        refuses=r"fd://\d+",  # the descriptor would be taken twice
        mend="leave -b out: gunicorn takes held sockets by itself",
        binds_in_vain=True,
        graceful=("TERM",),
        drain=Drain(options=("--graceful-timeout",), default_s=30.0),
        healer=Healer(options=("--timeout", "-t"), default_s=30.0, zero_off=True),
        forks_always=True,
        ask_worker="ABRT",
    ),
    Server(
        name="uvicorn",
        commands=("uvicorn",),
        modules=("uvicorn",),
        takes=Takes.OPTION,
        shown_by=r"--fd[ =]\d+",
        mend="add --fd {fd} to its command",
        many=False,
        graceful=("TERM", "INT"),
        drain=Drain(options=("--timeout-graceful-shutdown",), default_s=None),
        healer=Healer(options=("--timeout-worker-healthcheck",), default_s=5.0, needs=("--workers",)),
        forks=("--workers",),
    ),
    Server(
        name="daphne",
        commands=("daphne",),
        modules=("daphne",),
        takes=Takes.OPTION,
        shown_by=r"--fd[ =]\d+",
        mend="add --fd {fd} to its command",
        many=False,
        # on SIGTERM it cancels the requests under way (daphne's kill_all_applications): quick ones are not lost, a long report is
    ),
    Server(
        name="hypercorn",
        commands=("hypercorn",),
        modules=("hypercorn",),
        takes=Takes.OPTION,
        shown_by=r"(?:-b|--bind)[ =]fd://\d+",
        mend="add -b fd://{fd} to its command",
        graceful=("TERM", "INT"),
        drain=Drain(options=("--graceful-timeout",), default_s=3.0),
        forks=("-w", "--workers"),
    ),
    Server(
        name="uWSGI",
        commands=("uwsgi", "uwsgi-core"),
        takes=Takes.OPTION,
        shown_by=r"--(?:http-|uwsgi-|fastcgi-|scgi-)?socket[ =]fd://\d+",
        mend="add --http-socket fd://{fd} to its command",
        # no signal lets it finish and go: TERM and INT end requests under way (uWSGI's manual, "Signals for controlling uWSGI")
        ends_on_term="--die-on-term",
        healer=Healer(options=("--harakiri",), default_s=None, zero_off=True),
        forks=("-p", "--processes", "--workers"),
    ),
    Server(
        name="node",
        commands=("node", "nodejs"),
        takes=Takes.CODE,
        mend="let it call server.listen({fd: 3}), then write relief.extra = 1",
    ),
    Server(
        name="puma",
        commands=("puma",),
        takes=Takes.LISTEN_FDS,
        shown_by=r"--bind-to-activated-sockets(?:[ =].*)?",
        mend="add --bind-to-activated-sockets=only to its command",
        graceful=("TERM",),
        drain=Drain(options=(), default_s=None),
        forks=("-w", "--workers"),
    ),
    Server(
        name="nginx",
        commands=("nginx",),
        takes=Takes.NGINX,
        mend='write env = { NGINX = "3;" }, one number and semicolon for each socket',
        graceful=("QUIT",),
        drain=Drain(options=(), default_s=None),
        forks_always=True,
    ),
    Server(
        name="java",
        commands=("java", "catalina.sh", "jsvc"),
        takes=Takes.STDIN,
        mend="Reviver hands sockets over from descriptor 3 on: take it from there, then write relief.extra = 1",
    ),
    Server(name="waitress", commands=("waitress-serve",), modules=("waitress",), takes=Takes.NEVER),
    Server(name="granian", commands=("granian",), modules=("granian",), takes=Takes.NEVER, forks=("--workers",)),
    Server(name="php -S", commands=("php",), only_with="-S", takes=Takes.NEVER),
)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A command that runs another.

    same_pid  it becomes the other one, so that LISTEN_PID stays true
    valued    its options that are followed by a value
    """

    words: tuple[str, ...]
    same_pid: bool = True
    valued: frozenset[str] = frozenset()


WRAPPERS: tuple[Wrapper, ...] = (
    Wrapper(("env",), valued=frozenset({"-u", "--unset", "-C", "--chdir"})),
    Wrapper(("nice",), valued=frozenset({"-n", "--adjustment"})),
    Wrapper(("nohup",)),
    Wrapper(("poetry", "run")),
    Wrapper(("pipenv", "run")),
    Wrapper(("bundle", "exec")),
    # these stay as the parent of what they run
    Wrapper(
        ("uv", "run"),
        same_pid=False,
        valued=frozenset({"--with", "--extra", "--group", "--python", "-p", "--project", "--directory", "--env-file", "--package"}),
    ),
    Wrapper(("pdm", "run"), same_pid=False, valued=frozenset({"-p", "--project"})),
    Wrapper(("npx",), same_pid=False),
)

_PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
_PYTHON_VALUED = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


class Recognised(NamedTuple):
    """A server found in a command: its own arguments, and the wrapper that keeps LISTEN_PID from being true ("" for none)."""

    server: Server
    arguments: tuple[str, ...]
    parent: str


class Obstacle(NamedTuple):
    """Why a program must not run beside itself, with the mend. `sure`: known, not only not seen."""

    text: str
    sure: bool = False


class Relief(NamedTuple):
    """Whether two can live side by side, in words, and how a suspect goes."""

    extra: int
    because: str
    retire: Retirement


def recognise(command: tuple[str, ...]) -> Recognised | None:
    """The server that a command starts: by its file's name, as a Python module, or behind a wrapper such as `env` or `uv run`."""
    words, parent = command, ""
    while wrapper := _wrapper(words):
        parent = parent or ("" if wrapper.same_pid else wrapper.words[0])
        words = _after_options(words[len(wrapper.words) :], wrapper.valued)
    if words and _PYTHON.fullmatch(_base(words[0])):
        words, module = _python(words[1:])
    else:
        module = False
    if not words:
        return None
    name = words[0].partition(".")[0] if module else _base(words[0])
    for server in SERVERS:
        if name in (server.modules if module else server.commands):
            return Recognised(server, words[1:], parent) if not server.only_with or server.only_with in words else None
    return None


def with_fds(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command as it is executed: `{fd}` and `{fd:1}` become the first held socket's descriptor, `{fd:2}` the second's.

    All other braces stay as they are.
    """
    return tuple(_PLACEHOLDER.sub(lambda found: str(FIRST_FD - 1 + int(found[1] or 1)), word) for word in command)


def placeholders(command: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers, from 1, of the held sockets that a command names."""
    return tuple(int(found[1] or 1) for word in command for found in _PLACEHOLDER.finditer(word))


def relief(
    launch: LaunchSettings,
    *,
    stop: str = "TERM",
    hang: HangSettings | None = None,
    extra: int | None = None,
    retire: Retirement | None = None,
) -> Relief:
    """Decide what `auto` means for one program.

    stop    the signal that asks it to stop, without SIG
    extra   the operator's number, None for "auto"; a number wins
    retire  the operator's word, None for "auto"
    """
    found = recognise(launch.command)
    obstacle = _obstacle(launch, found)
    known = retire or _retirement(found, stop, hang or HangSettings())
    if extra is None:
        if obstacle:
            return Relief(0, f"never beside itself: {obstacle.text}", known)
        return Relief(1, f"two can live side by side: {_taking(launch, found)}", known)
    if extra == 0:
        return Relief(0, "never beside itself: the configuration says relief.extra = 0", known)
    return Relief(extra, f"{extra + 1} can live side by side: the configuration says relief.extra = {extra}", known)


def remarks(program: ProgramSettings) -> tuple[str, ...]:
    """What an operator should know of this server under Reviver; each one sentence with its mend. None is an error."""
    found = recognise(program.launch.command)
    obstacle = _obstacle(program.launch, found)
    said: list[str] = []
    if program.relief.extra and obstacle and obstacle.sure:
        said.append(f"relief.extra = {program.relief.extra} cannot work: {obstacle.text}")
    if found is None:
        return tuple(said)
    arguments, sockets = found.arguments, program.launch.sockets
    if len(sockets) > 1 and not found.server.many:
        said.append(
            f"{found.server.name} takes one socket only: nobody serves {', '.join(sockets[1:])}; put another program behind it"
        )
    if sockets and found.server.binds_in_vain:
        binds = (bind for bind in _options(arguments, ("-b", "--bind")) if not bind.startswith("fd://"))
        said += [f"{found.server.name} ignores -b {bind} beside a held socket: leave it out" for bind in binds]
    said += _healer_remarks(found, program.hang)
    if program.relief.extra and program.stop in found.server.graceful:
        said += _drain_remarks(found, program.hang)
    ends_on_term = found.server.ends_on_term
    if program.stop == "TERM" and ends_on_term and ends_on_term not in arguments:
        said.append(f"{found.server.name} reloads itself on SIGTERM instead of stopping: add {ends_on_term}")
    if program.relief.extra and found.server.graceful and program.stop not in found.server.graceful:
        said.append(
            f'{found.server.name} stops gracefully on SIG{found.server.graceful[0]}: write stop = "{found.server.graceful[0]}"'
        )
    return tuple(said)


def has_workers(command: tuple[str, ...]) -> bool:
    """Whether the command, as far as it shows, starts a parent whose workers serve."""
    found = recognise(command)
    return found is not None and (found.server.forks_always or _given(found.arguments, found.server.forks))


def named(name: str) -> Server | None:
    """The table's row of that name."""
    return next((server for server in SERVERS if server.name == name), None)


# --- taking a held socket -------------------------------------------------------------------------------------------------------


def _obstacle(launch: LaunchSettings, found: Recognised | None) -> Obstacle | None:
    """Why this very command does not take the held sockets; None when it does."""
    if not launch.sockets:
        return Obstacle("no socket is held by Reviver; name its address in sockets and let the server take it", found is not None)
    if found is None:
        return Obstacle(
            f"{_base(launch.command[0])} is no server that Reviver knows; write relief.extra = 1 if it takes held sockets"
        )
    server = found.server
    if server.takes is Takes.NEVER:
        return Obstacle(f"{server.name} cannot take a held socket from its command line", True)
    if server.takes is Takes.STDIN:
        return Obstacle(f"{server.name} takes a held socket as {server.takes.value} only; {server.mend}")
    command = " ".join(with_fds(found.arguments))
    if server.refuses and re.search(server.refuses, command):
        return Obstacle(f"{server.name} gets the socket twice, by its command and by {server.takes.value}; {server.mend}", True)
    if not _is_told(launch, found, command):
        return Obstacle(f"{server.name} is not told to take the held socket; {server.mend}", server.takes is Takes.OPTION)
    if server.takes is Takes.LISTEN_FDS and found.parent:
        between = f"{server.name} takes held sockets only as Reviver's own child, and {found.parent} stands between"
        return Obstacle(f"{between}; start {server.name} by its own path", True)
    return None


def _is_told(launch: LaunchSettings, found: Recognised, command: str) -> bool:
    match found.server.takes:
        case Takes.NGINX:
            return f"{FIRST_FD};" in dict(launch.env).get("NGINX", "")
        case Takes.CODE:
            return bool(placeholders(found.arguments))
        case _:
            shown = found.server.shown_by
            return not shown or re.search(rf"(?:^| )(?:{shown})(?: |$)", command) is not None


def _taking(launch: LaunchSettings, found: Recognised | None) -> str:
    assert found is not None
    server, first = found.server, launch.sockets[0]
    several = server.many and len(launch.sockets) > 1
    what = f"the held sockets {', '.join(launch.sockets)}" if several else f"the held socket {first}"
    way = "its command" if server.takes in (Takes.OPTION, Takes.CODE) else server.takes.value
    return f"{server.name} takes {what} by {way}"


# --- stopping and healing by itself ---------------------------------------------------------------------------------------------


def _retirement(found: Recognised | None, stop: str, hang: HangSettings) -> Retirement:
    """STOP only where the stop lets a busy server finish for as long as we would have waited ourselves."""
    if found is None or stop not in found.server.graceful:
        return Retirement.WATCH
    drain_s = _drain_s(found)
    return Retirement.STOP if drain_s is None or drain_s >= PATIENCE_BESIDE * hang.certain_s else Retirement.WATCH


def _drain_s(found: Recognised) -> float | None:
    drain = found.server.drain
    if drain is None:
        return 0.0
    return _seconds(found.arguments, drain.options, drain.default_s)


def _drain_remarks(found: Recognised, hang: HangSettings) -> list[str]:
    drain, drain_s, patience_s = found.server.drain, _drain_s(found), PATIENCE_BESIDE * hang.certain_s
    if drain is None or drain_s is None or drain_s >= patience_s:
        return []
    breaks = f"{found.server.name} breaks off what it still serves {drain_s:g} s after its stop signal, as far as its command shows"
    return [f"{breaks}: add {drain.options[0]} {patience_s:g}, so that a busy one may finish beside its relief"]


def _healer_remarks(found: Recognised, hang: HangSettings) -> list[str]:
    healer = found.server.healer
    if healer is None or (healer.needs and not _given(found.arguments, healer.needs)):
        return []
    healer_s = _seconds(found.arguments, healer.options, healer.default_s)
    patience_s = max(PATIENCE_BESIDE * hang.certain_s, hang.blocked_s or 0.0)
    if healer_s is None or healer_s > patience_s or (healer.zero_off and healer_s == 0):
        return []
    mend = f"{healer.options[0]} 0" if healer.zero_off else f"{healer.options[0]} {2 * patience_s:g}"
    races = (
        f"{found.server.name} kills a worker by itself after {healer_s:g} s, as far as its command shows, and would race Reviver"
    )
    return [f"{races}: add {mend}"]


# --- reading a command line -----------------------------------------------------------------------------------------------------


def _base(word: str) -> str:
    return word.rpartition("/")[2]


def _wrapper(words: tuple[str, ...]) -> Wrapper | None:
    if not words:
        return None
    head = (_base(words[0]), *words[1:])
    return next((wrapper for wrapper in WRAPPERS if head[: len(wrapper.words)] == wrapper.words), None)


def _after_options(words: tuple[str, ...], valued: frozenset[str]) -> tuple[str, ...]:
    """What follows a wrapper's own options and assignments."""
    at = 0
    while at < len(words) and (words[at].startswith("-") or _ASSIGNMENT.fullmatch(words[at])):
        at += 2 if words[at] in valued else 1
    return words[at:]


def _python(words: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """What an interpreter runs, and whether that is a module (`-m`) rather than a file."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        if words[at] == "-m":
            return words[at + 1 :], True
        if words[at] == "-c":
            return (), False
        at += 2 if words[at] in _PYTHON_VALUED else 1
    return words[at:], False


def _options(arguments: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """The values of an option, in order: `--name value`, `--name=value`, `-n value`, `-nvalue`."""
    values: list[str] = []
    for at, word in enumerate(arguments):
        for name in names:
            if word == name:
                values += arguments[at + 1 : at + 2]
            elif word.startswith(name + "="):
                values.append(word[len(name) + 1 :])
            elif len(name) == 2 and word.startswith(name) and not word.startswith("--"):
                values.append(word[2:])
    return values


def _given(arguments: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether the option is there with something else than one: `--workers 1` makes no pre-fork parent."""
    values = _options(arguments, names)
    return bool(values) and values[-1] not in ("0", "1")


def _seconds(arguments: tuple[str, ...], names: tuple[str, ...], default_s: float | None) -> float | None:
    for value in reversed(_options(arguments, names)):
        try:
            return float(value)
        except ValueError:
            continue
    return default_s
