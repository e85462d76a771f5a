"""`reviver systemd show` and `install`: the unit that keeps the supervisor alive, printed or put in its place.

Root gets a unit of the system, anybody else one of their own service manager. The file carries a checksum: what somebody has edited,
or has written themselves, is never overwritten unasked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from supervisor.commands.configuration import load
from supervisor.commands.screen import remark, safe, say
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.mechanism import systemd

NAME = "reviver.service"
SYSTEM = "/etc/systemd/system"
RELOAD_S = 30.0
_HEADER = "# Written by `reviver systemd install`: your changes belong in `systemctl {user}edit reviver`. {checksum}\n"
_CHECKSUM = re.compile(r"# Written by `reviver systemd install`: .* ([0-9a-f]{64})\n")


def show(config: str | None) -> int:
    """Print the unit."""
    sys.stdout.write(_unit(config))
    return 0


def install(config: str | None, force: bool = False) -> int:
    """Write the unit, tell systemd, and say what to type next.

    force   also over a unit that somebody has edited or written themselves
    raises  Refusal
    """
    path = Path(_folder(), NAME)
    write(path, _unit(config), force=force)
    _reload()
    say(f"{safe(path)} is written. To start Reviver now and at each boot:")
    say(f"  systemctl {_user()}enable --now reviver")
    if _user():
        say("To let it run while you are not logged in:")
        say("  loginctl enable-linger")
    return 0


def write(path: Path, text: str, *, force: bool) -> None:
    """Put the unit in its place, whole or not at all. Raises Refusal."""
    if not force and not _is_ours(path):
        raise Refusal(
            REFUSED,
            f"{path} was written or edited by somebody: it is left as it is "
            f"(keep your changes in `systemctl {_user()}edit reviver`, and overwrite it with --force)",
        )
    header = _HEADER.format(user=_user(), checksum=_checksum(text))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{NAME}.", delete=False) as file:
            try:
                file.write(header + text)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
    except OSError as problem:
        raise Refusal(REFUSED, f"cannot write {path}: {(problem.strerror or str(problem)).lower()}") from problem


def _is_ours(path: Path) -> bool:
    """Whether nothing stands there, or what we wrote and nobody has changed."""
    try:
        header, _, text = path.read_text().partition("\n")
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    found = _CHECKSUM.fullmatch(header + "\n")
    return found is not None and found[1] == _checksum(text)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unit(config: str | None) -> str:
    settings = load(config)
    settings = dataclasses.replace(settings, path=os.path.abspath(settings.path))
    return systemd.unit(settings, _executable(), user=bool(_user()))


def _executable() -> list[str]:
    """The words that start `reviver`: as it was called just now, else the script beside our Python."""
    called = sys.argv[0]
    if os.path.basename(called) == "reviver":
        found = shutil.which(called)
        if found is not None:
            return [os.path.abspath(found)]
    beside = os.path.join(os.path.dirname(sys.executable), "reviver")
    if os.access(beside, os.X_OK):
        return [beside]
    raise Refusal(
        REFUSED, "cannot find the `reviver` command for the unit to start: call it by its path, as /path/to/reviver systemd ..."
    )


def _user() -> str:
    """What is said to systemctl for a user's own service manager."""
    return "" if os.geteuid() == 0 else "--user "


def _folder() -> str:
    if not _user():
        return SYSTEM
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(home if home.startswith("/") else os.path.expanduser("~/.config"), "systemd/user")


def _reload() -> None:
    """Have systemd read the unit. Where none runs it will, at the next boot."""
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        remark("systemd does not run here: the unit is read when it does")
        return
    words = ["systemctl", *_user().split(), "daemon-reload"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=RELOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Refusal(REFUSED, f"the unit is written, but `{' '.join(words)}` failed: {problem}") from problem
    if done.returncode != 0:
        raise Refusal(REFUSED, f"the unit is written, but `{' '.join(words)}` failed: {' '.join(done.stderr.split())}")
