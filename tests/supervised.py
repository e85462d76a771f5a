"""A real supervisor for tests: `reviver`'s daemon in a process of its own, whose story is read line by line.

Nothing sleeps: `until` reads the daemon's JSON lines until one fits, and fails with all it read when none comes in time.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from supervisor.control.client import Client

# What a program says when it is ready. One that says nothing, and cannot be asked, has to live for a second first.
READY = """
import os, signal, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""
SLEEPER = f"{READY}signal.pause()"
WAIT_S = (
    90.0  # for one event: on a machine that others keep busy a server is starved, and not proven hung, for as long as that lasts
)
Line = dict[str, Any]


def free_port() -> int:
    """A port of the loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Supervised:
    """`with Supervised(folder, programs) as daemon:` runs a daemon there, and ends it and all it started."""

    def __init__(self, folder: Path, programs: str, *, reviver: str = "", guarded: bool = False) -> None:
        """programs: the configuration's TOML beneath [reviver]; reviver: more keys of that table; guarded: as `reviver run` starts it."""
        self.folder = folder
        self.config = folder / "config.toml"
        self._reviver = reviver
        self._module = "supervisor.guard" if guarded else "supervisor"
        self.write(programs)
        self.seen: list[Line] = []
        self._lines: queue.Queue[Line | None] = queue.Queue()

    def write(self, programs: str) -> None:
        """Change the configuration file."""
        where = "\n".join(f'{name}_dir = "{self.folder / name}"' for name in ("runtime", "state", "log"))
        self.config.write_text(f"[reviver]\n{where}\n{self._reviver}\n{programs}")

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(self.config)],
            env=os.environ | {"XDG_RUNTIME_DIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    continue
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            try:
                self._lines.put(json.loads(text))
            except ValueError:
                self._lines.put({"event": "raw", "text": text.strip(), "subject": ""})
        self._lines.put(None)

    def until(self, event: str, fits: Callable[[Line], bool] = lambda line: True, *, subject: str = "") -> Line:
        """The next line of this event (and subject) that fits."""
        while True:
            try:
                line = self._lines.get(timeout=WAIT_S)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no {event} {subject} came; the story so far:\n{self.story()}")
            self.seen.append(line)
            if line["event"] == event and (not subject or line["subject"] == subject) and fits(line):
                return line

    def story(self) -> str:
        return "\n".join(f"{line.get('time', '')} {line['subject']} {line['event']}: {line['text']}" for line in self.seen)

    def rest(self) -> list[Line]:
        """Wait until the daemon has ended by itself; all lines that were left."""
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        left = []
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            left.append(line)
        self.seen += left
        return left

    def daemon(self) -> int:
        """The pid of the guard's daemon, once there is one. Its other children were left by earlier ones."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def find() -> list[int]:
            return [int(pid) for pid in children.read_text().split() if b"-m\0supervisor\0" in _words(int(pid))]

        self.wait_for(lambda: len(find()) == 1)
        return find()[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line against this daemon."""
        command = [sys.executable, "-c", "import cli; cli.main()", *words, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    def call(self, method: str, **params: object) -> Line:
        """What a verb of the command line asks of the daemon, without the start of a command."""
        with Client(str(self.folder / "runtime")) as client:
            return dict(client.call(method, params))

    def status(self, program: str) -> Line:
        (found,) = self.call("status", names=(program,))["programs"]
        return dict(found)

    def wait_for(self, so: Callable[[], bool]) -> None:
        """Until something is so that no line tells: what only /proc knows."""
        deadline = time.monotonic() + WAIT_S
        while not so():
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.01)

    def pids(self) -> list[int]:
        """The processes of this host that carry our notify socket: what the daemon started and what those started."""
        mark = f"NOTIFY_SOCKET={self.folder / 'runtime'}".encode()
        return [pid for pid in _everyone() if mark in _environment(pid)]

    def pids_of(self, id: str) -> list[int]:
        """Those of one instance."""
        return [pid for pid in self.pids() if f"REVIVER_INSTANCE={id}".encode() in _environment(pid).split(b"\0")]


def _everyone() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def python(code: str) -> str:
    """A program's command in TOML: this Python with this code."""
    return json.dumps([sys.executable, "-u", "-c", code])


@contextmanager
def answering_page(port: int) -> Iterator[None]:
    """Somebody else's listener on a port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield
