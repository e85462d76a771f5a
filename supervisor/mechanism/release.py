"""Which release stands in a directory: read from the file system alone, with nothing run.

A symlink names the release by what it points to (`current -> releases/4f2a91c`); else a git checkout by its revision. Blocks: for a
lane. The directory may belong to the program's user: nothing in it is waited for (a fifo) or read without a limit (a device).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from supervisor import host
from supervisor.lanes import Lane, LaneError
from supervisor.model import LaunchSettings

RESOLVE_S = 1.0  # for one directory: tens of microseconds where its disk answers
SHORT = 7  # digits of a revision, as git itself shortens it
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1 or SHA-256
_LINE_LIMIT_BYTES = 4096  # HEAD, a ref, a .git file: one line
_REFS_LIMIT_BYTES = 16 * 1024 * 1024  # packed-refs of some 200,000 branches and tags


def resolve(launch: LaunchSettings) -> tuple[str, str]:
    """(release, directory): "" where nothing names a release; the directory free of symlinks.

    A directory that does not exist is returned as it was written: the launch says so.
    """
    try:
        directory = os.path.realpath(launch.directory, strict=True)
    except OSError:
        return "", launch.directory
    if os.path.islink(launch.directory.rstrip("/")):
        return os.path.basename(directory), directory
    return _revision(Path(directory))[:SHORT], directory


async def resolve_each(launches: Iterable[LaunchSettings], report: Callable[[str], None]) -> list[tuple[str, str]]:
    """`resolve` for all of them; one whose directory does not answer (a dead mount) stays as written, and holds no other up for long."""
    found, lane = [], Lane("release")
    for launch in launches:
        try:
            found.append(await lane.run(resolve, launch, deadline_s=RESOLVE_S))
        except LaneError:
            report(f"{launch.directory} does not answer (a dead mount?): what starts there has no release's name")
            found.append(("", launch.directory))
            lane.close()
            lane = Lane("release")  # a lane gives up only so many threads
    lane.close()
    return found


def _revision(directory: Path) -> str:
    """The commit that is checked out, "" for none."""
    git = _git_dir(directory)
    head = _line(git / "HEAD") if git is not None else ""
    if git is None or not head.startswith("ref: "):
        return head if _REVISION.fullmatch(head) else ""
    name = head.removeprefix("ref: ")
    shared = git / _line(git / "commondir")  # a worktree keeps branches in the repository it belongs to
    for found in (_line(git / name), _line(shared / name), _packed(shared, name)):
        if _REVISION.fullmatch(found):
            return found
    return ""


def _git_dir(directory: Path) -> Path | None:
    """Where the checkout around a directory keeps its data: `.git`, or what the file `.git` of a worktree or submodule names."""
    for folder in (directory, *directory.parents):
        git = folder / ".git"
        if git.is_dir():
            return git
        named = _line(git)
        if named.startswith("gitdir: "):
            return folder / named.removeprefix("gitdir: ")
    return None


def _packed(shared: Path, name: str) -> str:
    lines = _text(shared / "packed-refs", _REFS_LIMIT_BYTES).split("\n")
    return next((line[: -len(name) - 1] for line in lines if line.endswith(f" {name}")), "")


def _line(path: Path) -> str:
    """The first line of a small file, "" when it cannot be read."""
    return _text(path, _LINE_LIMIT_BYTES).partition("\n")[0]


def _text(path: Path, limit_bytes: int) -> str:
    return host.beginning(path, limit_bytes).decode(errors="replace")
