"""What the benches need and the project does not: the peers, and more servers, each in an environment of its own.

PyPI's `supervisor` has our package's name, so the two cannot live in one. An environment is made once, beneath the temporary
directory, by the interpreter that runs the bench, and kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.ground import BOOT_LIMIT_S, STEP_S, GroundError, Service, surroundings

PACKAGES = ("supervisor", "superlance", "setuptools<81")  # superlance and older supervisors import pkg_resources
SERVERS = ("uvicorn", "hypercorn", "waitress")
INSTALL_LIMIT_S = 300.0


def environment() -> Path:
    """The folder with supervisord's and superlance's commands, made if need be. Raises GroundError when they cannot be installed."""
    return made("peers", PACKAGES)


def servers() -> Path:
    """The folder with the commands of the servers that are no dependency of the project. Raises GroundError as `environment` does."""
    return made("servers", SERVERS)


def made(name: str, packages: Sequence[str]) -> Path:
    """The commands of an environment with these packages, made once and kept. Raises GroundError when they cannot be installed."""
    home = Path(tempfile.gettempdir()) / f"reviver-bench-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise GroundError(f"{home} belongs to somebody else: remove it")
    folder = home / f"{name}-python{sys.version_info.major}.{sys.version_info.minor}"
    complete, listed = folder / "complete", " ".join(packages)
    if not complete.exists() or complete.read_text() != listed:
        _run(name, [sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(name, [str(folder / "bin/pip"), "install", "-q", "--disable-pip-version-check", *packages])
        complete.write_text(listed)
    return folder / "bin"


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise GroundError(f"the environment of the {name}: {' '.join(command)} took over {INSTALL_LIMIT_S:g} s") from None
    if done.returncode:
        raise GroundError(f"the environment of the {name}: {' '.join(command)} failed: {done.stderr.strip()[-500:]}")


class Supervisord(Service):
    """supervisord in the foreground, with folders of its own."""

    def __init__(self, where: Path, programs: str, environ: Mapping[str, str] | None = None) -> None:
        """programs: the ini sections of what it shall run."""
        self.bin = environment()
        self.config = where / "supervisord.conf"
        (where / "childlog").mkdir(exist_ok=True)
        self.config.write_text(
            f"[supervisord]\nnodaemon=true\nlogfile={where}/supervisord.log\npidfile={where}/supervisord.pid\n"
            f"childlogdir={where}/childlog\n[unix_http_server]\nfile={where}/peer.sock\n[supervisorctl]\nserverurl=unix://{where}/peer.sock\n"
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n{programs}"
        )
        super().__init__([str(self.bin / "supervisord"), "-c", str(self.config)], where / "peer.log", environ or {}, where)

    @property
    def status_command(self) -> list[str]:
        return [str(self.bin / "supervisorctl"), "-c", str(self.config), "status"]

    def await_running(self) -> None:
        """Wait until all its programs are running."""
        deadline = time.monotonic() + BOOT_LIMIT_S
        said = ""
        while time.monotonic() < deadline:
            done = _ask(self.status_command)
            said = done.stdout + done.stderr
            lines = done.stdout.splitlines()
            if lines and all("RUNNING" in line for line in lines):
                return
            time.sleep(STEP_S)
        raise GroundError(f"supervisord is not up after {BOOT_LIMIT_S:g} s: {said.strip()}")


def version() -> str:
    """supervisord's version, for the table."""
    return _ask([str(environment() / "supervisord"), "--version"]).stdout.strip()


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=surroundings({}), capture_output=True, text=True, timeout=BOOT_LIMIT_S, check=False)
