"""The control socket, the client's side: where it is, one request and its answer. Blocking, for short-lived commands.

Imports only what costs next to nothing (json, os, socket): `reviver status` is run in loops and prompts. For the same reason the
places are found here a second time, without the configuration's types; a test holds that both find the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.control.messages import BAD_CONFIG, INTERNAL_ERROR, LOCK, NOT_RUNNING, REFUSED, SOCKET, USAGE

CONNECT_S = 5.0  # a daemon whose backlog is full this long is stuck
ANSWER_S = 30.0  # a daemon answers within milliseconds; its disk may make a journal's reading slow
STARTING_S = 5.0  # a daemon that holds its lock listens within this time
MARGIN_S = 5.0  # beyond the bound that the daemon gave for a wait: it is the one to say that the time is over
READ_BYTES = 256 * 1024

Heard = Callable[[str, dict[str, Any]], None]


class Refusal(Exception):
    """The daemon said no. `code` is the exit code for it, the text one sentence; `details` more of them."""

    def __init__(self, code: int, text: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class Unanswered(Refusal):
    """No daemon answers."""

    def __init__(self, text: str) -> None:
        super().__init__(NOT_RUNNING, text)


def find_config(explicit: str | None, environ: Mapping[str, str]) -> str | None:
    """The configuration file that `config.find` would choose; None when there is none."""
    if explicit or environ.get("REVIVER_CONFIG"):
        return explicit or environ["REVIVER_CONFIG"]
    home = environ.get("XDG_CONFIG_HOME", "")
    if not home.startswith("/"):
        home = f"{environ.get('HOME') or os.path.expanduser('~')}/.config"
    for path in ("config.toml", f"{home}/reviver/config.toml", "/etc/reviver/config.toml"):
        if os.path.exists(path):
            return path
    return None


def find_runtime_dir(config: str | None, environ: Mapping[str, str]) -> str:
    """The directory of the control socket: the one that the configuration file `config` names, else the default of this user.

    raises  Refusal when the file does not exist, or the default is another user's: another daemon than the one that is meant could
            answer
    """
    return (_named_dir(config) if config else None) or _default_dir(environ)


def _named_dir(config: str) -> str | None:
    try:
        with open(config, "rb") as file:
            text = file.read()
    except PermissionError:
        return None  # root's, perhaps with secrets in it: its daemon may still be ours to use
    except OSError as problem:
        raise Refusal(BAD_CONFIG, f"cannot read {config}: {_words(problem)}") from None
    if b"runtime_dir" not in text:
        return None
    import tomllib  # 3 ms, and hardly any configuration names the directory

    try:
        named = tomllib.loads(text.decode()).get("reviver", {}).get("runtime_dir")
    except (ValueError, AttributeError):
        named = _named_in_ruins(text)
    return os.path.join(os.path.dirname(os.path.abspath(config)), named) if isinstance(named, str) and named else None


def _named_in_ruins(text: bytes) -> str:
    """The directory in a file that is being edited and no TOML just now: nobody is to be cut off from the running daemon by that."""
    found = re.search(rb"""^\s*runtime_dir\s*=\s*["']([^"'\n]+)["']""", text, re.MULTILINE)
    return os.fsdecode(found[1]) if found else ""


def _default_dir(environ: Mapping[str, str]) -> str:
    if os.geteuid() == 0:
        return "/run/reviver"
    own = environ.get("XDG_RUNTIME_DIR", "")
    if own.startswith("/"):
        return f"{own.rstrip('/')}/reviver"
    shared = f"{environ.get('TMPDIR') or '/tmp'}/reviver-{os.geteuid()}"
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(shared).st_uid != os.geteuid():
            raise Refusal(REFUSED, f"{shared} is another user's, who could answer in the daemon's place: set XDG_RUNTIME_DIR")
    return shared


class Client:
    """One connection. Use it as a context manager."""

    def __init__(self, runtime_dir: str) -> None:
        """Connect.

        raises  Unanswered
        """
        self._path = f"{runtime_dir}/{SOCKET}"
        self._socket = _connect(runtime_dir, self._path)
        self._unread = b""
        self._asked = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, params: Mapping[str, object], heard: Heard | None = None) -> Any:
        """Ask, and give the answer's result. `heard` gets what the daemon says before it (the name, and its parameters).

        raises  Refusal, Unanswered
        """
        self._asked += 1
        request = {"jsonrpc": "2.0", "id": self._asked, "method": method, "params": params}
        self._socket.settimeout(ANSWER_S)
        with contextlib.suppress(OSError):  # a daemon that refuses us has said why before it closed: read it
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._message()
            if "method" not in message:
                return _result(message)
            params_heard = message.get("params", {})
            if message["method"] == "waiting":
                self._socket.settimeout(params_heard["deadline_s"] + MARGIN_S)
            elif heard is not None:
                heard(message["method"], params_heard)

    def follow(self, heard: Heard) -> None:
        """Hear what the daemon says until it ends or closes. Waits for ever: for a person, who ends it with Ctrl-C.

        raises  Unanswered when the daemon goes away
        """
        self._socket.settimeout(None)
        while True:
            message = self._message()
            heard(message.get("method", ""), message.get("params", {}))

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            try:
                read = self._socket.recv(READ_BYTES)
            except TimeoutError:
                raise Unanswered(f"the daemon at {self._path} took the question and does not answer") from None
            except OSError as problem:
                raise Unanswered(f"the daemon at {self._path} went away: {_words(problem)}") from None
            if not read:
                raise Unanswered(f"the daemon at {self._path} closed the connection")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise Unanswered(f"what listens at {self._path} is not a reviver: it answered {line[:60]!r}")
        return message


def _result(message: dict[str, Any]) -> Any:
    error = message.get("error")
    if error is None:
        return message.get("result")
    code = error.get("code", REFUSED)
    if INTERNAL_ERROR - 1000 < code < 0:
        code = USAGE
    raise Refusal(code, error.get("message", "refused"), tuple(error.get("data") or ()))


def _connect(runtime_dir: str, path: str) -> socket.socket:
    try:
        return _try_connect(path)
    except PermissionError:
        raise Refusal(
            REFUSED,
            f"cannot connect to {path}: permission denied (it is its owner's, root's, and that of the members of [reviver] group)",
        ) from None
    except OSError as problem:
        if not _starting(runtime_dir):
            raise _nobody(path, problem) from None
    return _connect_patiently(path)


def _try_connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_S)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _starting(runtime_dir: str) -> bool:
    """Whether a daemon holds the directory and does not listen yet."""
    try:
        with open(f"{runtime_dir}/{LOCK}", "rb") as file:
            pid = int(file.readline(32) or 0)
    except (OSError, ValueError):
        return False
    return pid > 0 and os.path.exists(f"/proc/{pid}")


def _connect_patiently(path: str) -> socket.socket:
    import tenacity  # 25 ms: only while a daemon is starting

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_exponential(multiplier=0.02, max=0.25),
        stop=tenacity.stop_after_delay(STARTING_S),
        reraise=True,
    )
    try:
        return retrying(_try_connect, path)
    except OSError as problem:
        raise _nobody(path, problem) from None


def _nobody(path: str, problem: OSError) -> Unanswered:
    return Unanswered(f"no daemon answers at {path}: {_words(problem)} (start it with: reviver run)")


def _words(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()
