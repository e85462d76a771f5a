"""The journal: what was added is read back, and no disk, file or reader can harm the daemon."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.lanes import Lane
from supervisor.model import (
    Build,
    Exited,
    InstanceId,
    Kind,
    LaunchSettings,
    Looked,
    Note,
    RecordRelease,
    Release,
    Severity,
    Spawn,
    Spawned,
    Standing,
    Tell,
    Verdict,
    Woke,
)
from supervisor.records import journal as journal_module
from supervisor.records.journal import Journal, JournalError, Letter, read_events, read_story
from tests.disk import alone_on_small_disk, fill, free

ID = InstanceId("store", 7)
BUILD = Build(1, "4f2a91c", LaunchSettings(command=("sleep", "9")), "/")
TELL = Tell(3, "store", "hang", Severity.WARNING, "store:7 hangs", ("command:/bin/page",))
DEADLINE_S = 10.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)


class Room:
    """Journals of one state directory, closed at the end."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = str(state_dir)
        self.remarks: list[str] = []
        self._open: list[Journal] = []

    def journal(self, **options: float) -> Journal:
        made = Journal(self.state_dir, Lane("journal"), self.remarks.append, **options)
        self._open.append(made)
        return made

    def close(self) -> None:
        while self._open:
            assert self._open.pop().close(DEADLINE_S)

    def texts(self, **options: int) -> list[str]:
        return [line.text for line in read_story(self.state_dir, **options)]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "state")
    yield made
    made.close()


def note(journal: Journal, text: str, subject: str = "store:7") -> None:
    journal.note(1000.0, 10.0, Note(subject, "instance.ready", text))


def test_story_is_read_back_in_order_while_the_journal_is_open(room: Room) -> None:
    journal = room.journal()
    for number in range(250):
        note(journal, f"line {number}", "api" if number % 2 else "store:7")
    until(lambda: len(read_story(room.state_dir, limit=1000)) == 250)
    assert room.texts(limit=2) == ["line 248", "line 249"]
    first = read_story(room.state_dir, limit=250)[0]
    assert (first.subject, first.program, first.name, first.wall, first.mono) == (
        "store:7",
        "store",
        "instance.ready",
        1000.0,
        10.0,
    )
    assert room.texts(after=first.seq, limit=2) == ["line 1", "line 2"]
    assert [line.text for line in read_story(room.state_dir, limit=2, program="api")] == ["line 247", "line 249"]


def test_close_writes_all_that_waits(room: Room) -> None:
    journal = room.journal()
    for number in range(2000):
        note(journal, str(number))
    room.close()
    assert room.texts(limit=5000) == [str(number) for number in range(2000)]


def test_events_are_read_back_as_the_values_they_were(room: Room) -> None:
    journal = room.journal()
    looked = Looked(ID, 5.0, None, Verdict(Kind.SUSPECT, "no answer for 1.0 s", 4.0))
    journal.happened(1.0, Spawned(ID, 4242, 99), ())
    journal.happened(2.0, looked, (Note("store:7", "instance.suspected", "suspect"), TELL))
    journal.happened(3.0, Woke(), ())
    room.close()
    events = read_events(room.state_dir)
    assert [(happening.mono, happening.event) for happening in events] == [
        (1.0, Spawned(ID, 4242, 99)),
        (2.0, looked),
        (3.0, Woke()),
    ]
    assert events[1].effects == (Note("store:7", "instance.suspected", "suspect"), TELL)


def test_an_event_that_is_no_text_is_counted_and_the_others_are_kept(room: Room) -> None:
    journal = room.journal()
    journal.happened(1.0, Exited(ID, 1, words="\udc80"), ())
    journal.happened(2.0, Woke(), ())
    room.close()
    assert [happening.event for happening in read_events(room.state_dir)] == [Woke()]
    assert journal.lost == 1


def test_numbers_survive_and_never_fall(room: Room) -> None:
    journal = room.journal()
    for number in (1, 8, 2):
        journal.happened(1.0, Woke(), (Spawn(InstanceId("store", number), BUILD), Spawn(InstanceId("api", 1), BUILD)))
    room.close()
    assert room.journal().highest() == {"store": 8, "api": 1}


def test_releases_survive_on_the_next_boots_clock_and_the_newest_word_counts(room: Room) -> None:
    journal = room.journal()
    now = time.monotonic()
    tried = Release(1, "r1", "/srv/r1", now - 60.0, "uid 1000")
    for release in (tried, replace(tried, standing=Standing.FAILED, why="exit code 1"), replace(tried, number=2, name="r2")):
        journal.happened(now, Woke(), (RecordRelease("store", release),))
    room.close()
    (first, second) = room.journal().releases()["store"]
    assert (first.name, first.standing, first.why, second.name) == ("r1", Standing.FAILED, "exit code 1", "r2")
    assert 59.0 < time.monotonic() - first.at < 59.0 + DEADLINE_S


def test_a_journal_of_an_older_version_is_given_the_tables_that_it_lacks(room: Room) -> None:
    journal = room.journal()
    note(journal, "before")
    room.close()
    with contextlib.closing(sqlite3.connect(Path(room.state_dir) / "journal.db")) as base:
        base.execute("DROP TABLE releases")
        base.execute("PRAGMA user_version = 2")
    assert room.journal().releases() == {}
    assert room.texts() == ["before"]
    assert room.remarks == []


def test_incident_keeps_its_beginning_and_its_worst_headline(room: Room) -> None:
    journal = room.journal()
    journal.told(TELL, 100.0)
    journal.told(Tell(3, "store", "crash-loop", Severity.CRITICAL, "store crashes again and again", ()), 110.0)
    journal.told(Tell(3, "store", "x", Severity.WARNING, "later and milder", ()), 120.0)
    assert journal.began(3, 130.0) == 100.0
    room.close()
    again = room.journal()
    assert again.last_incident() == 3
    assert again.began(3, 140.0) == 100.0
    again.told(Tell(3, "store", "over", Severity.CRITICAL, "incident 3 over", ()), 150.0)
    room.close()
    with contextlib.closing(sqlite3.connect(Path(room.state_dir) / "journal.db")) as base:
        rows = base.execute("SELECT * FROM incidents").fetchall()
    assert rows == [(3, "store", 100.0, 2, "store crashes again and again", 150.0)]
    assert room.journal().last_incident() == 3


def letter(channel: str, key: str = "hang") -> Letter:
    return Letter(3, key, 0, channel, 100.0, b"{}")


def test_a_letter_is_new_once_and_waits_until_it_is_settled(room: Room) -> None:
    journal = room.journal()
    assert journal.told(TELL, 100.0, (letter("a"), letter("b"))).result(DEADLINE_S) == {"a", "b"}
    assert journal.told(TELL, 101.0, (letter("a"), letter("c"))).result(DEADLINE_S) == {"c"}
    journal.settled(letter("a"), 102.0, "delivered")
    journal.settled(letter("b"), 102.0, "failed")
    room.close()
    assert room.journal().undelivered() == (letter("c"),)


def test_what_is_older_than_keep_goes_but_no_number_is_given_again(room: Room) -> None:
    journal = room.journal()
    note(journal, "old")  # its wall is 1000: long ago
    journal.told(TELL, 100.0, (letter("a"),))
    journal.told(Tell(3, "store", "over", Severity.WARNING, "over", ()), 110.0)
    room.close()
    later = room.journal(keep_s=3600.0)
    later.note(time.time(), 11.0, Note("store", "program.down", "new"))
    room.close()
    last = room.journal(keep_s=3600.0)
    assert room.texts() == ["new"]
    assert last.undelivered() == ()
    assert last.last_incident() == 3


def test_a_full_disk_loses_no_more_than_does_not_fit_and_resumes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = alone_on_small_disk("tests/test_journal.py::test_a_full_disk_loses_no_more_than_does_not_fit_and_resumes_by_itself")
    if disk is None:
        return
    monkeypatch.setattr(journal_module, "ROWS_LIMIT", 50)
    monkeypatch.setattr(journal_module, "RETRY_S", 0.02)
    room = Room(disk / "state")
    journal = room.journal()
    note(journal, "before")
    until(lambda: room.texts() == ["before"])
    fill(disk)
    note(journal, "x" * 5000)
    until(lambda: bool(room.remarks))
    for number in range(80):
        note(journal, str(number))
    fresh = journal.told(TELL, 100.0, (letter("a"),))
    assert not fresh.done()
    free(disk)
    assert fresh.result(DEADLINE_S) == {"a"}
    room.close()
    texts = room.texts(limit=200)
    assert texts[:2] == ["before", "x" * 5000]
    assert texts[2:52] == [str(number) for number in range(50)]
    assert texts[52:] == ["30 entries of the journal were lost"]
    assert journal.lost == 30
    assert "full" in room.remarks[0]
    assert "30 entries were lost" in room.remarks[-1]
    assert len(room.remarks) <= 3


def test_close_on_a_full_disk_gives_up_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = alone_on_small_disk("tests/test_journal.py::test_close_on_a_full_disk_gives_up_and_counts")
    if disk is None:
        return
    monkeypatch.setattr(journal_module, "RETRY_S", DEADLINE_S)
    room = Room(disk / "state")
    journal = room.journal()
    fill(disk)
    note(journal, "x" * 5000)
    until(lambda: bool(room.remarks))
    room.close()
    assert journal.lost == 1


@pytest.mark.parametrize("known", ["nothing", "something"])
def test_a_disk_that_is_full_at_the_start_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    test = "tests/test_journal.py::test_a_disk_that_is_full_at_the_start_is_said_and_tried_again"
    disk = alone_on_small_disk(f"{test}[{known}]")
    if disk is None:
        return
    monkeypatch.setattr(journal_module, "RETRY_S", 0.02)
    room = Room(disk / "state")
    if known == "something":
        room.journal().told(TELL, 100.0, (letter("a"),)).result(DEADLINE_S)
        room.close()
    fill(disk)
    journal = room.journal()
    assert journal.last_incident() == (TELL.incident if known == "something" else 0)
    assert len(journal.undelivered()) == (1 if known == "something" else 0)
    note(journal, "meanwhile")
    until(lambda: bool(room.remarks))
    free(disk)
    until(lambda: len(room.remarks) > 1)
    assert room.texts() == ["meanwhile"]
    assert "cannot write the journal" in room.remarks[0]
    assert "written again; nothing was lost" in room.remarks[-1]
    room.close()


def test_a_file_that_is_no_database_is_moved_aside_and_said(room: Room) -> None:
    Path(room.state_dir).mkdir()
    (Path(room.state_dir) / "journal.db").write_bytes(b"not a database at all" * 500)
    journal = room.journal()
    note(journal, "new life")
    until(lambda: room.texts() == ["new life"])
    (aside,) = Path(room.state_dir).glob("*.aside")
    assert aside.read_bytes().startswith(b"not a database")
    assert "kept as" in room.remarks[0]


@pytest.mark.parametrize("running", [False, True])
def test_a_damaged_file_is_moved_aside_and_the_row_is_kept(room: Room, monkeypatch: pytest.MonkeyPatch, running: bool) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.02)
    journal = room.journal()
    path = Path(room.state_dir) / "journal.db"
    if not running:
        room.close()
    with contextlib.closing(sqlite3.connect(path)) as base, base:  # so that the writer has to read the file again
        base.execute("INSERT INTO numbers VALUES ('x', 1)")
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (len(whole) - 4096))
    if not running:
        journal = room.journal()
    note(journal, "kept")
    until(lambda: any("kept as" in remark for remark in room.remarks))
    room.close()
    assert room.texts() == ["kept"]


def test_a_newer_file_is_kept_and_a_new_one_begins(room: Room) -> None:
    room.journal()
    room.close()
    path = Path(room.state_dir) / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA user_version = 99")
    room.journal()
    assert "newer Reviver" in room.remarks[0]
    assert len(list(Path(room.state_dir).glob("*.aside"))) == 1


def test_a_removed_file_is_begun_anew(room: Room) -> None:
    journal = room.journal()
    note(journal, "before")
    until(lambda: room.texts() == ["before"])
    for path in Path(room.state_dir).iterdir():
        path.unlink()
    note(journal, "after")
    until(lambda: (Path(room.state_dir) / "journal.db").exists())
    room.close()
    assert room.texts() == ["after"]


def test_an_unusable_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"cannot write the journal .*file/state/journal\.db: .*Not a directory.*state_dir"):
        Journal(str(tmp_path / "file" / "state"), Lane("journal"), lambda text: None)


def test_reading_no_journal_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal in"):
        read_story(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_a_reader_who_may_not_write_reads_a_closed_journal() -> None:
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder))
        note(room.journal(), "seen")
        room.close()
        Path(folder).chmod(0o755)
        (Path(folder) / "journal.db").chmod(0o644)
        os.seteuid(65534)
        try:
            assert room.texts() == ["seen"]
        finally:
            os.seteuid(0)


SIGKILL_WRITER = """
import sqlite3, sys
from supervisor.lanes import Lane
from supervisor.model import Note
from supervisor.records.journal import Journal

journal, number = Journal(sys.argv[1], Lane("journal"), print), 0
base = sqlite3.connect(sys.argv[1] + "/journal.db")
print("ready", flush=True)
while True:
    journal.note(1000.0, 10.0, Note("store", "a.b", str(number)))
    number += 1
    while number % 100 == 0 and base.execute("SELECT count(*) FROM story").fetchone()[0] < number:
        pass
"""


def test_sigkill_at_any_moment_leaves_a_file_that_opens_with_all_that_was_written(room: Room) -> None:
    command = [sys.executable, "-c", SIGKILL_WRITER, room.state_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        until(lambda: len(room.texts(limit=500)) > 300)
        writer.kill()
    room.journal()
    assert room.remarks == []
    texts = room.texts(limit=1_000_000)
    assert len(texts) > 300
    assert texts == [str(number) for number in range(len(texts))]
