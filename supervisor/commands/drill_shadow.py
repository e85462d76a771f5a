"""The shadow of a drill: a Reviver of its own (guard and daemon), with folders, a port and a channel of its own.

It touches one temporary directory, which is gone afterwards, processes that it started, and a port of loopback. The Reviver that the
operator runs, and its programs, are never spoken to. What ends the drill (an error, Ctrl-C, SIGTERM) ends the shadow and all it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from supervisor.control.client import Client, Refusal
from supervisor.control.messages import REFUSED
from supervisor.notify import OURS

MARK = "DRILL-"  # before the program's name: it stands in each message, log line and process of a drill
HOST = "127.0.0.1"
CLOCK_STEP_S = 0.001  # of the times in the story, which are cut to it
STEP_S = 0.05  # between two looks at what the shadow wrote: each reads all of it
BOOT_S = 60.0  # for the daemon and the program to be there
CALM_STOP_S = 2.0  # for a stop in peace, which what hangs does not heed
STOP_S = 15.0  # and for the quick one
NAME_LIMIT = 64  # characters of a program's name

# The channel: notes when it was called, and what it was given. A message is there, whole, or not at all.
PAGER = '#!/bin/sh\n{ date +%s.%N; cat; echo; } > "$1.$$"\nmv "$1.$$" "$1.$$.page"\n'

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A message, and when it was handed to its channel (wall seconds). `public`: for stakeholders."""

    wall: float
    message: Line
    public: bool = False


@dataclass(frozen=True, slots=True)
class Shadow:
    """One that runs."""

    folder: Path
    program: str  # its name, marked
    port: int
    process: subprocess.Popen[bytes]

    def ask(self, method: str, params: Mapping[str, object]) -> Any:
        """A request to its daemon. Raises Refusal."""
        with Client(str(self.folder / "run")) as client:
            return client.call(method, params)

    def deploy(self, release: Path) -> None:
        """Ask for another release, and do not wait for it."""
        words = [self.program, str(release)]
        self.ask("deploy", {"words": words, "folder": str(self.folder), "again": False, "wait": False})

    def change(self, old: str, new: str) -> None:
        """Write other text in the place of some of its configuration, and apply that without waiting for it."""
        file = self.folder / "config.toml"
        text = file.read_text()
        assert old in text, "the configuration has been written otherwise"
        file.write_text(text.replace(old, new))
        self.ask("apply", {"path": None, "wait": False})

    def instances(self) -> list[Line]:
        found: list[Line] = self.ask("status", {"names": [self.program]})["programs"][0]["instances"]
        return found

    def story(self, since_wall: float = 0.0) -> list[Line]:
        """What it saw and did since then, with `wall` in each line."""
        told = []
        for text in (self.folder / "story").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                line["wall"] = datetime.fromisoformat(line["time"]).timestamp()
                if line["wall"] >= since_wall - CLOCK_STEP_S:
                    told.append(line)
        return told

    def pages(self, since_wall: float = 0.0) -> list[Page]:
        """The messages that were handed over since then, in order."""
        found = [*self.handed("message"), *(replace(page, public=True) for page in self.handed("public"))]
        return sorted((page for page in found if page.wall >= since_wall), key=lambda page: page.wall)

    def handed(self, channel: str) -> list[Page]:
        """What one channel was given."""
        found = []
        for path in self.folder.glob(f"{channel}.*.page"):
            wall, _, body = path.read_text().partition("\n")
            found.append(Page(float(wall), json.loads(body)))
        return found

    def until(self, so: Callable[[], bool], limit_s: float) -> bool:
        """Wait until something is so; False when it is not within `limit_s`. Raises Refusal when the shadow has ended."""
        deadline = time.monotonic() + limit_s
        while not so():
            if self.process.poll() is not None:
                raise Refusal(REFUSED, f"the shadow ended with {self.process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                return False
            time.sleep(STEP_S)
        return True

    def told(self, event: str, since_wall: float) -> Line | None:
        """The first line of an event since then."""
        return next((line for line in self.story(since_wall) if line["event"] == event), None)

    def await_event(self, event: str, since_wall: float, limit_s: float) -> Line | None:
        """The first line of an event since then, waited for; None when it does not come in time."""
        self.until(lambda: self.told(event, since_wall) is not None, limit_s)
        return self.told(event, since_wall)

    def _last_words(self) -> str:
        told = self.story()
        return str(told[-1]["text"]) if told else (self.folder / "story").read_text(errors="replace")[-300:].strip()


@contextmanager
def folder() -> Iterator[Path]:
    """A directory for one drill, for its user alone, with a short path (a unix socket's has at most 107 bytes), and gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="reviver-drill-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def running(where: Path, program: str, port: int, tables: str) -> Iterator[Shadow]:
    """A Reviver with these tables of a configuration, its program ready.

    where    a directory for it alone
    program  the marked name of the program in `tables`
    raises   Refusal when it cannot be started
    """
    where.chmod(0o711)  # a program that runs as another user must reach the notification socket, and nothing else
    for name in ("run", "state", "log"):
        (where / name).mkdir(mode=0o711 if name == "run" else 0o700)
    (where / "pager").write_text(PAGER)
    folders = "".join(f"{key} = {toml(str(where / name))}\n" for key, name in _FOLDERS)
    (where / "config.toml").touch(mode=0o600)  # with the variables of a program
    (where / "config.toml").write_text(f"[reviver]\n{folders}\n{tables}")
    with (where / "story").open("wb") as story, _signals_end_it():
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.guard", str(where / "config.toml")],
            stdin=subprocess.DEVNULL,
            stdout=story,
            stderr=story,
            cwd=where,
            env={name: value for name, value in os.environ.items() if name not in OURS},
            start_new_session=True,  # Ctrl-C reaches the drill alone, which ends the shadow
        )
        shadow = Shadow(where, program, port, process)
        try:
            if not shadow.until(lambda: shadow.told("instance.ready", 0.0) is not None, BOOT_S):
                raise Refusal(REFUSED, f"the shadow of {program} was not ready within {BOOT_S:g} s: {shadow._last_words()}")
            yield shadow
        finally:
            _end(process)


_FOLDERS = (("runtime_dir", "run"), ("state_dir", "state"), ("log_dir", "log"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask once for a stop, then for a quick one: what hangs is killed by its own supervisor."""
    for patience_s in (CALM_STOP_S, STOP_S):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return
    raise Refusal(REFUSED, f"the drill's own supervisor, pid {process.pid}, does not end: look at it, then end it with SIGKILL")


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end a drill as Ctrl-C does, so that nothing is left behind."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port of loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def marked(name: str) -> str:
    """The name of a program in its drill."""
    return (MARK + name)[:NAME_LIMIT]


def toml(value: object) -> str:
    """A TOML value: text, number, truth, list, or a table on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
