"""Which release stands in a directory: read from the file system alone, with nothing run.

A symlink names the release by what it points to (`current -> releases/4f2a91c`); else a git checkout by its revision. Blocks: for a
lane.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from supervisor.model import LaunchSettings

SHORT = 7  # digits of a revision, as git itself shortens it
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1 or SHA-256
_FILE_LIMIT_BYTES = 4096  # HEAD, a ref, a .git file: one line


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
    try:
        with open(shared / "packed-refs", encoding="utf-8", errors="replace") as lines:
            return next((line[: -len(name) - 2] for line in lines if line.endswith(f" {name}\n")), "")
    except OSError:
        return ""


def _line(path: Path) -> str:
    """The first line of a small file, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(_FILE_LIMIT_BYTES).rstrip("\n")
    except OSError:
        return ""
