"""A disk that is really full: a tmpfs in a mount namespace of a helper process, reached through /proc."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
