"""The ground that the benches stand on: processes that are surely ended, folders, ports, and the supervisors to be measured.

May start processes and write beneath the temporary directory. Promises that nothing it started outlives `ground()`: the bench is
the subreaper of all that it starts, so even what double-forks away, or loses its supervisor, is found beneath it and ended by pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
BOOT_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
STEP_S = 0.02  # between two looks at something that is awaited

BIN = Path(sys.executable).parent


class GroundError(Exception):
    """The bench could not be made; the text says why and how to mend it."""


@contextmanager
def ground() -> Iterator[None]:
    """Whatever is started inside is over when this ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        end_descendants()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def end_descendants() -> None:
    """SIGKILL to all that lives beneath this process, until nothing does."""
    deadline = time.monotonic() + STOP_LIMIT_S
    while (living := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(STEP_S)


def descendants(pid: int) -> list[int]:
    """The pids beneath a process, children first; zombies are among them until they are reaped."""
    return [pid for child in children(pid) for pid in (child, *descendants(child))]


def children(pid: int) -> list[int]:
    """The pids of a process's own children, zombies among them."""
    found: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own, with a short path (a unix socket's may have 107 bytes), gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="rvb-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str, timeout_s: float = 1.0) -> int:
    """The status that a GET is answered with, 0 for no answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as client:
            client.settimeout(timeout_s)
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = client.recv(32)
    except OSError:
        return 0
    return int(head[9:12]) if head[9:12].isdigit() else 0


def await_answer(port: int, path: str, limit_s: float = BOOT_LIMIT_S) -> float:
    """Wait until a GET is answered with 200; returns the seconds that took. Raises GroundError after `limit_s`."""
    began = time.monotonic()
    while get(port, path) != 200:
        if time.monotonic() - began > limit_s:
            raise GroundError(f"nothing answers GET {path} on 127.0.0.1:{port} after {limit_s:g} s")
        time.sleep(STEP_S)
    return time.monotonic() - began


def surroundings(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and more, without PYTHONPATH: the peers' package has our name, and must not find ours.

    And without PYTHONDONTWRITEBYTECODE: pip compiles what it installs, and so it has the peers; an editable Reviver is by its first start.
    """
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, **added}


class Service:
    """One supervisor, or one server alone, as a child process; its output is in `log`."""

    def __init__(
        self, command: list[str], log: Path, environ: Mapping[str, str], directory: Path, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=surroundings(environ),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM to it alone, as an operator would; what is left after the limit, and all beneath it, is killed."""
        below = descendants(self.pid)
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_LIMIT_S)
        for pid in below:
            if pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Reviver(Service):
    """`reviver run` with a configuration and folders of its own."""

    def __init__(self, where: Path, programs: str, environ: Mapping[str, str] | None = None) -> None:
        """programs: the configuration's TOML without its [reviver] table."""
        self.command = str(BIN / "reviver")
        if not Path(self.command).exists():
            raise GroundError(f"{self.command} is missing: install the project first, with pip install -e '.[dev]'")
        for name in ("state", "log"):
            (where / name).mkdir(exist_ok=True)
        memory = Path("/dev/shm")  # as /run is on a host: the handover is written there at each decision
        self._runtime = Path(tempfile.mkdtemp(prefix="rvb-", dir=memory if memory.is_dir() else None))
        config = where / "config.toml"
        config.write_text(
            f'[reviver]\nruntime_dir = "{self._runtime}"\nstate_dir = "{where}/state"\nlog_dir = "{where}/log"\n\n{programs}'
        )
        self.environ = surroundings({**(environ or {}), "REVIVER_CONFIG": str(config)})
        super().__init__([self.command, "run"], where / "story.jsonl", self.environ, where)

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)
        shutil.rmtree(self._runtime, ignore_errors=True)

    def story(self) -> list[dict[str, Any]]:
        """The lines that `run` wrote so far."""
        told = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    told.append(entry)
        return told

    def status(self) -> dict[str, Any]:
        """`reviver status --json`; raises GroundError when it gives none."""
        done = subprocess.run(
            [self.command, "status", "--json"], env=self.environ, capture_output=True, text=True, timeout=STOP_LIMIT_S, check=False
        )
        try:
            answer = json.loads(done.stdout)
        except json.JSONDecodeError:
            raise GroundError(f"reviver status --json gave no JSON: {done.stderr.strip() or self.log.read_text()[-500:]}") from None
        assert isinstance(answer, dict)
        return answer

    def instances(self) -> list[dict[str, Any]]:
        return [instance for program in self.status()["programs"] for instance in program["instances"]]

    def await_ready(self, limit_s: float = BOOT_LIMIT_S) -> None:
        """Wait until its first program is ready."""
        deadline = time.monotonic() + limit_s
        problem = "it is not ready"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise GroundError(f"reviver run ended with {self.process.returncode}: {self.log.read_text()[-1000:]}")
            try:
                if self.status()["programs"][0]["state"] == "ready":
                    return
            except GroundError as trouble:
                problem = str(trouble)
            time.sleep(STEP_S)
        raise GroundError(f"after {limit_s:g} s: {problem}")


def store_command(port: int, *options: str) -> list[str]:
    """gunicorn with the demo store on a port of its own, for the peers."""
    return [str(BIN / "gunicorn"), "supervisor.demo.store:app", "-b", f"127.0.0.1:{port}", "--graceful-timeout", "120", *options]


def held_store(port: int, *options: str, app: str = "supervisor.demo.store:app") -> str:
    """The configuration of a store on a held socket with the HTTP probe, all else at its default."""
    command = [str(BIN / "gunicorn"), app, "--timeout", "0", "--graceful-timeout", "120", *options]
    return (
        f'[program.store]\ncommand = {json.dumps(command)}\nsockets = ["127.0.0.1:{port}"]\n'
        f'[program.store.health]\nhttp = "/health"\n'
    )
