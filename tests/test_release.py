"""Naming the release of a directory, on real files."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from supervisor.lanes import STUCK_LIMIT
from supervisor.mechanism import release
from supervisor.mechanism.release import resolve
from supervisor.model import LaunchSettings

DEADLINE_S = 15.0
ONE = "4f2a91c" + "0" * 33
TWO = "9b7e6d5" + "1" * 33


def found(directory: Path) -> tuple[str, str]:
    return resolve(LaunchSettings(command=("true",), directory=str(directory)))


def checkout(folder: Path, head: str) -> Path:
    (folder / ".git" / "refs" / "heads").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text(head + "\n")
    return folder


def test_release_of_a_symlink_is_its_targets_name(tmp_path: Path) -> None:
    (tmp_path / "releases" / "42").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/42")
    assert found(tmp_path / "current") == ("42", str(tmp_path / "releases" / "42"))
    assert resolve(LaunchSettings(command=("true",), directory=f"{tmp_path}/current/"))[0] == "42"


def test_release_of_a_plain_directory_has_no_name(tmp_path: Path) -> None:
    assert found(tmp_path) == ("", str(tmp_path))


def test_release_of_a_missing_directory_is_returned_as_written(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("gone")
    assert found(tmp_path / "current") == ("", str(tmp_path / "current"))
    assert found(tmp_path / "nothing") == ("", str(tmp_path / "nothing"))


def test_release_of_a_branch_is_its_commit(tmp_path: Path) -> None:
    checkout(tmp_path, "ref: refs/heads/main")
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text(ONE + "\n")
    (tmp_path / "app").mkdir()
    assert found(tmp_path)[0] == "4f2a91c"
    assert found(tmp_path / "app")[0] == "4f2a91c"


def test_release_of_a_packed_branch_is_its_commit(tmp_path: Path) -> None:
    """A loose reference wins over a packed one; a longer name with the same ending is another branch."""
    checkout(tmp_path, "ref: refs/heads/main")
    (tmp_path / ".git" / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{TWO} refs/heads/not/refs/heads/main\n{ONE} refs/heads/main\n"
    )
    assert found(tmp_path)[0] == "4f2a91c"
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text(TWO + "\n")
    assert found(tmp_path)[0] == "9b7e6d5"


def test_release_of_a_detached_head_is_its_commit(tmp_path: Path) -> None:
    assert found(checkout(tmp_path, ONE))[0] == "4f2a91c"


@pytest.mark.parametrize("head", ["", "ref: refs/heads/unborn", "rubbish", "ref: "])
def test_release_of_a_strange_head_has_no_name(tmp_path: Path, head: str) -> None:
    assert found(checkout(tmp_path, head))[0] == ""


def test_release_of_a_worktree_is_its_own_commit(tmp_path: Path) -> None:
    main = checkout(tmp_path / "main", ONE)
    data = main / ".git" / "worktrees" / "other"
    data.mkdir(parents=True)
    (data / "HEAD").write_text("ref: refs/heads/other\n")
    (data / "commondir").write_text("../..\n")
    (main / ".git" / "refs" / "heads" / "other").write_text(TWO + "\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").write_text(f"gitdir: {data}\n")
    assert found(tmp_path / "other")[0] == "9b7e6d5"


def test_release_of_a_checkout_that_holds_fifos_and_devices_has_no_name(tmp_path: Path) -> None:
    """The program's user may own it: root's supervisor must neither wait there for ever nor read without end."""
    git = checkout(tmp_path, "ref: refs/heads/main") / ".git"
    (git / "packed-refs").symlink_to("/dev/zero")
    os.mkfifo(git / "refs" / "heads" / "main")
    os.mkfifo(git / "commondir")
    assert found(tmp_path) == ("", str(tmp_path))


def test_release_of_a_checkout_whose_names_hold_a_nul_has_no_name(tmp_path: Path) -> None:
    assert found(checkout(tmp_path, "ref: refs/heads/\0main")) == ("", str(tmp_path))


def test_dead_mounts_keep_no_other_program_from_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than a lane gives threads up."""
    (tmp_path / "42").mkdir()
    (tmp_path / "current").symlink_to("42")
    mended, warnings = threading.Event(), list[str]()

    def on_a_mount(launch: LaunchSettings) -> tuple[str, str]:
        if launch.directory == "/dead":
            mended.wait(DEADLINE_S)
        return resolve(launch)

    monkeypatch.setattr(release, "resolve", on_a_mount)
    monkeypatch.setattr(release, "RESOLVE_S", 0.05)
    before = set(threading.enumerate())
    wanted = ["/dead"] * (STUCK_LIMIT + 2) + [str(tmp_path / "current")]
    launches = [LaunchSettings(command=("true",), directory=directory) for directory in wanted]
    try:
        places = asyncio.run(release.resolve_each(launches, warnings.append))
    finally:
        mended.set()
    assert places == [("", "/dead")] * (STUCK_LIMIT + 2) + [("42", str(tmp_path / "42"))]
    assert warnings[0].startswith("/dead does not answer")
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
