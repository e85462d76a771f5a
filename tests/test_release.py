"""Naming the release of a directory, on real files."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from supervisor.lanes import STUCK_LIMIT
from supervisor.mechanism import release
from supervisor.mechanism.release import Place, resolve, switch
from supervisor.model import LaunchSettings

DEADLINE_S = 15.0
ONE = "4f2a91c" + "0" * 33
TWO = "9b7e6d5" + "1" * 33


def found(directory: Path) -> tuple[str, str]:
    release, place, _ = resolve(LaunchSettings(command=("true",), directory=str(directory)))
    return release, place


def checkout(folder: Path, head: str) -> Path:
    (folder / ".git" / "refs" / "heads").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text(head + "\n")
    return folder


def test_release_of_a_symlink_is_its_targets_name(tmp_path: Path) -> None:
    (tmp_path / "releases" / "42").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/42")
    assert found(tmp_path / "current") == ("42", str(tmp_path / "releases" / "42"))
    assert resolve(LaunchSettings(command=("true",), directory=f"{tmp_path}/current/")) == (
        "42",
        str(tmp_path / "releases" / "42"),
        True,
    )


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

    def on_a_mount(launch: LaunchSettings) -> Place:
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
    assert places == [("", "/dead", False)] * (STUCK_LIMIT + 2) + [("42", str(tmp_path / "42"), True)]
    assert warnings[0].startswith("/dead does not answer")
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


# --- switching the link ---------------------------------------------------------------------------------------------------------


def shop(folder: Path, target: str = "releases/1") -> Path:
    """A link `current` that names the first of two releases."""
    for name in ("1", "2"):
        (folder / "releases" / name).mkdir(parents=True)
    link = folder / "current"
    link.symlink_to(target)
    return link


def test_switch_keeps_a_relative_link_relative(tmp_path: Path) -> None:
    link = shop(tmp_path)
    assert switch(f"{link}/", str(tmp_path / "releases" / "2")) == ""
    assert os.readlink(link) == "releases/2"
    assert sorted(os.listdir(tmp_path)) == ["current", "releases"]


def test_switch_keeps_an_absolute_link_absolute(tmp_path: Path) -> None:
    link = shop(tmp_path, f"{tmp_path}/releases/1")
    assert switch(str(link), str(tmp_path / "releases" / "2")) == ""
    assert os.readlink(link) == f"{tmp_path}/releases/2"


def test_switch_goes_on_where_one_died_in_between(tmp_path: Path) -> None:
    link = shop(tmp_path)
    (tmp_path / ".current.reviver").symlink_to("releases/0")
    assert switch(str(link), str(tmp_path / "releases" / "2")) == ""
    assert os.readlink(link) == "releases/2"
    assert sorted(os.listdir(tmp_path)) == ["current", "releases"]


def test_link_names_a_release_at_each_instant_while_it_is_switched(tmp_path: Path) -> None:
    """Somebody who follows it all the time never meets nothing."""
    link, over, missing, followed = shop(tmp_path), threading.Event(), list[str](), 0

    def follow() -> None:
        nonlocal followed
        while not over.is_set():
            followed += 1
            try:
                os.stat(f"{link}/.")
            except OSError as problem:
                missing.append(str(problem))

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(100):
        assert switch(str(link), str(tmp_path / "releases" / str(number % 2 + 1))) == ""
    over.set()
    thread.join(DEADLINE_S)
    assert followed > 0
    assert missing == []


@pytest.mark.parametrize("change", ["gone", "a directory", "no link", "no target"])
def test_switch_that_cannot_be_is_one_sentence_and_changes_nothing(tmp_path: Path, change: str) -> None:
    link, target = shop(tmp_path), tmp_path / "releases" / "2"
    match change:
        case "gone" | "a directory":
            link.unlink()
            if change == "a directory":
                link.mkdir()
        case "no link":
            link = tmp_path / "nowhere" / "current"
        case _:
            target = tmp_path / "releases" / "3"
    before = sorted(os.listdir(tmp_path))
    problem = switch(str(link), str(target))
    assert problem
    assert "\n" not in problem
    assert "Errno" not in problem
    assert sorted(os.listdir(tmp_path)) == before


def test_switch_on_a_disk_that_takes_nothing_changes_nothing(tmp_path: Path) -> None:
    """A file system that is mounted read-only answers so; one that is full answers in the same place."""
    link = Path("/proc/self/cwd")  # a symlink in a folder where nobody may make another
    problem = switch(str(link), str(tmp_path))
    assert problem.startswith("cannot write in /proc/self: ")
    assert os.path.realpath(link) == os.getcwd()
