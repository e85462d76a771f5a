"""Which release stands in a directory: read from the file system alone, with nothing run; and the symlink that names one, switched.

A symlink names the release by what it points to (`current -> releases/4f2a91c`); else a git checkout by its revision. Blocks: for a
lane. The directory may belong to the program's user: nothing in it is waited for (a fifo) or read without a limit (a device).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from supervisor import host
from supervisor.lanes import Lane, LaneError
from supervisor.model import LaunchSettings

SWITCH_S = 5.0  # a symlink, a rename and an fsync: longer is a dead mount, or a disk that does not come back
RESOLVE_S = 1.0  # for one directory: tens of microseconds where its disk answers
SHORT = 7  # digits of a revision, as git itself shortens it
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1 or SHA-256
_LINE_LIMIT_BYTES = 4096  # HEAD, a ref, a .git file: one line
_REFS_LIMIT_BYTES = 16 * 1024 * 1024  # packed-refs of some 200,000 branches and tags


class Place(NamedTuple):
    """What the disk says of a directory: its release ("" where nothing names one), itself free of symlinks, and whether it is one."""

    release: str
    directory: str
    linked: bool = False


def resolve(launch: LaunchSettings) -> Place:
    """A directory that does not exist is returned as it was written: the launch says so."""
    try:
        directory = os.path.realpath(launch.directory, strict=True)
    except OSError:
        return Place("", launch.directory)
    if os.path.islink(launch.directory.rstrip("/")):
        return Place(os.path.basename(directory), directory, linked=True)
    return Place(_revision(Path(directory))[:SHORT], directory)


def find(path: str) -> str:
    """The directory at `path`, free of symlinks. Raises OSError where there is none."""
    directory = os.path.realpath(path, strict=True)
    os.close(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return directory


def switch(link: str, directory: str) -> str:
    """Let the symlink name this directory: another one is made beside it and renamed over it, so that it names one at each instant.

    A relative link stays relative, and its owner's. Returns "", or the sentence that says why nothing was changed.
    """
    folder, name = os.path.split(link.rstrip("/"))
    try:
        find(directory)
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        return f"{problem.filename}: {(problem.strerror or '').lower()}"
    try:
        return _switch(where, name, os.path.realpath(folder), directory)
    except OSError as problem:
        return f"cannot write in {folder}: {(problem.strerror or '').lower()}"
    finally:
        os.close(where)


def _switch(where: int, name: str, folder: str, directory: str) -> str:
    known = os.stat(name, dir_fd=where, follow_symlinks=False)
    if not stat.S_ISLNK(known.st_mode):
        return f"{folder}/{name} is no symlink any more"
    before = os.readlink(name, dir_fd=where)
    target = directory if os.path.isabs(before) else os.path.relpath(directory, folder)
    if before == target:
        return ""
    new = f".{name}.reviver"  # one that was left by a death in between is replaced
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=where)
    os.symlink(target, new, dir_fd=where)
    try:
        with contextlib.suppress(PermissionError):  # only root gives away what is its own
            os.chown(new, known.st_uid, known.st_gid, dir_fd=where, follow_symlinks=False)
        os.rename(new, name, src_dir_fd=where, dst_dir_fd=where)
    except OSError:
        os.unlink(new, dir_fd=where)
        raise
    os.fsync(where)  # a reboot finds it so
    return ""


async def resolve_each(launches: Sequence[LaunchSettings], report: Callable[[str], None]) -> list[Place]:
    """`resolve` for all of them; one whose directory does not answer (a dead mount) stays as written, and holds no other up for long."""
    found, lane = {}, Lane("release")
    for launch in {launch.directory: launch for launch in launches}.values():
        try:
            found[launch.directory] = await lane.run(resolve, launch, deadline_s=RESOLVE_S)
        except LaneError:
            report(f"{launch.directory} does not answer (a dead mount?): what starts there has no release's name")
            found[launch.directory] = Place("", launch.directory)
            lane.close()
            lane = Lane("release")  # a lane gives up only so many threads
    lane.close()
    return [found[launch.directory] for launch in launches]


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
