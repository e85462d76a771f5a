"""A disk that is really full: a tmpfs in a mount namespace of a helper process, reached through /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSIDE = "REVIVER_TEST_ON_SMALL_DISK"
SCRIPT = 'mount -t tmpfs -o "size=$1" none /mnt && echo mounted && read -r _'


@contextmanager
def small_disk(size: str = "512k") -> Iterator[Path]:
    """A folder on a disk of its own that holds `size`. Skips the test where this user may not have a namespace."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", size]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        mounted = holder.stdout.readline()
        if not mounted:
            pytest.skip("no small disk: this user may not make a mount namespace")
        try:
            yield Path(f"/proc/{holder.pid}/root/mnt")
        finally:
            holder.stdin.close()


def alone_on_small_disk(test: str) -> Path | None:
    """The same for what looks at the path itself, as SQLite does: runs `test` (file::name) once more, in the namespace.

    returns  the folder when called in there; None when the test has passed in there, and nothing is left to do
    """
    if os.environ.get(INSIDE) == test:
        return Path("/mnt")
    shell = 'mount -t tmpfs -o size=512k none /mnt || exit 77; exec "$@"'
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", test]
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, "sh", *pytest_command]
    environ = os.environ | {INSIDE: test, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # a third of the start
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("no small disk: this user may not make a mount namespace")
    assert done.returncode == 0, done.stdout + done.stderr
    return None


def fill(disk: Path) -> None:
    """Leave no free block."""
    with (disk / "filler").open("ab", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return


def free(disk: Path) -> None:
    """Give the room back."""
    (disk / "filler").unlink()


@contextmanager
def kept_full(disk: Path) -> Iterator[None]:
    """Somebody takes each block that becomes free, until the end; then there is room again."""
    over = threading.Event()

    def take() -> None:
        while not over.wait(0.005):
            fill(disk)

    taker = threading.Thread(target=take)
    fill(disk)
    taker.start()
    try:
        yield
    finally:
        over.set()
        taker.join()
        free(disk)
