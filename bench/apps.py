"""The servers under test, as command lines: how each takes a held socket, and how many requests it serves at once.

All serve the same (bench/served.py, bench/served.js), from a folder of the run's own. What is missing on this machine is said in words.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.ground import BIN, Service, folder
from bench.peers import servers

HERE = Path(__file__).parent
THREADS = 4
BACKLOG = 1024  # of a held socket, as Reviver's


@dataclass(frozen=True, slots=True)
class Server:
    """One row.

    held     its command on a socket that stands at descriptor 3; "{fd}" is where its command names it
    bound    the same on an address of its own, PORT in it; () where no peer runs it
    serving  the requests that it serves at once: so many endless ones make it hang
    relief   what an operator writes beneath [program.store.relief]
    """

    held: tuple[str, ...]
    serving: int = 1
    bound: tuple[str, ...] = ()
    relief: str = ""


def _gunicorn(*options: str, serving: int = 1) -> Server:
    command = (str(BIN / "gunicorn"), "served:wsgi", "--graceful-timeout", "120", *options)
    return Server((*command, "--timeout", "0"), serving, (*command, "-b", "127.0.0.1:PORT"))


def gunicorn(workers: int = 1, threads: int = 1) -> Server:
    """gunicorn: sync workers with one thread each, gthread with more."""
    options = ("--threads", str(threads)) if threads > 1 else ()
    return _gunicorn("--workers", str(workers), *options, serving=workers * threads)


def uvicorn() -> Server:
    return Server((str(servers() / "uvicorn"), "served:asgi", "--fd", "{fd}", "--log-level", "warning"))


def hypercorn() -> Server:
    return Server((str(servers() / "hypercorn"), "served:asgi", "-b", "fd://{fd}", "--graceful-timeout", "120"))


def node() -> Server | None:
    """None: there is no node here."""
    found = shutil.which("node")
    return Server((found, "served.js", "{fd}")) if found else None


def waitress() -> Server:
    """By a few lines of Python, which Reviver does not know: so what it can do is written down, as `check` says."""
    return Server((str(servers() / "python"), "served.py"), THREADS, relief='extra = 1\nretire = "stop"')


@contextmanager
def site() -> Iterator[Path]:
    """A folder with what is served in it, for one run."""
    with folder() as where:
        for name in ("served.py", "served.js"):
            shutil.copy(HERE / name, where)
        yield where


def program(server: Server, port: int, boot_s: float, more: str = "") -> str:
    """The server as a program of Reviver's, on a held socket with the HTTP probe; all else is at its default.

    more  further lines of TOML
    """
    relief = f"[program.store.relief]\n{server.relief}\n" if server.relief else ""
    return (
        f'[program.store]\ncommand = {json.dumps(server.held)}\nsockets = ["127.0.0.1:{port}"]\nenv = {{ BOOT_S = "{boot_s}" }}\n'
        f'[program.store.health]\nhttp = "/health"\n{relief}{more}'
    )


@contextmanager
def alone(server: Server, where: Path, boot_s: float = 0.0) -> Iterator[tuple[Service, int]]:
    """The server by itself, on a socket held as Reviver holds it; gives its port."""
    take = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 0</dev/null'
    command = ["sh", "-c", take, "sh", *(word.replace("{fd}", "3") for word in server.held)]
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as held:
        port = int(held.getsockname()[1])
        with Service(command, where / "alone.log", {"BOOT_S": str(boot_s)}, where, held.fileno()) as service:
            yield service, port
