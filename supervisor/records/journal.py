"""The memory on disk: the story, events and effects for replay, incidents, releases, the alerts' outbox, and the highest numbers.

`<state_dir>/journal.db` is SQLite in WAL mode, written in a lane of its own: adding returns at once, and all that waits is one
transaction. A disk that is full or gone costs no more than rows: what waits is tried again each second, what does not fit any more
is counted, and the loss is said and written down once there is room. A file that is damaged, or from a newer Reviver, is moved
aside and said. Only at the start may it fail, and not for a full disk: `JournalError`. Readers (the command line) open the file for
themselves, read-only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import msgspec

from supervisor import host
from supervisor.lanes import Lane
from supervisor.model import Effect, Event, Incident, Known, Note, RecordIncident, RecordRelease, Release, Remember, Spawn, Tell
from supervisor.policy.escalation import OVER
from supervisor.policy.releases import KEPT as RELEASES_KEPT
from supervisor.records.backlog import Backlog
from supervisor.records.log import escaped

VERSION = 5  # of the tables below, in user_version; an older file is given the tables and columns that it lacks
ROWS_LIMIT = 10_000  # rows that wait: some 300 bytes each, a minute of the busiest fleet
LETTERS_RESERVE = 1_000  # room beyond it for incidents and alerts: an alert must not be lost to a flood of samples
RETRY_S = 1.0  # between tries while the disk takes nothing
BUSY_S = 5.0  # that somebody's reading transaction, or a backup, may hold the file
SEQ_LIMIT = 1_000_000  # newest lines and events kept: some 300 MB at most, also where `keep` is off
WAL_BYTES = 4 * 1024 * 1024  # that the write-ahead log is cut back to after a burst
EVENTS_LIMIT = 100_000  # that one replay reads: hours of a busy fleet
TRIM_EVERY_S = 3600.0
NOWHERE = -1  # the inode of a file that could not be opened: no file has it, so the next write opens it

SCHEMA = """
CREATE TABLE IF NOT EXISTS story (
  seq INTEGER PRIMARY KEY, wall REAL, mono REAL, boot TEXT, subject TEXT, program TEXT, name TEXT, text TEXT);
CREATE INDEX IF NOT EXISTS story_program ON story (program, seq);
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, wall REAL, mono REAL, boot TEXT, type TEXT, event BLOB, effects BLOB);
CREATE TABLE IF NOT EXISTS incidents (
  number INTEGER PRIMARY KEY, program TEXT, opened_wall REAL, severity INTEGER, headline TEXT, over_wall REAL);
CREATE TABLE IF NOT EXISTS incident_records (number INTEGER PRIMARY KEY, program TEXT, over_wall REAL, record BLOB);
CREATE TABLE IF NOT EXISTS numbers (program TEXT PRIMARY KEY, highest INTEGER);
CREATE TABLE IF NOT EXISTS causes (program TEXT, key TEXT, known BLOB, PRIMARY KEY (program, key));
CREATE TABLE IF NOT EXISTS releases (program TEXT, number INTEGER, release BLOB, PRIMARY KEY (program, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (incident INTEGER, key TEXT, step INTEGER, channel TEXT, told_wall REAL, body BLOB, state TEXT,
  PRIMARY KEY (incident, key, step, channel)) WITHOUT ROWID;
"""
FATE = {  # columns of the outbox that came later: the tries and when the first one failed, why the last did, when it ended, in which group
    "tries": "INTEGER NOT NULL DEFAULT 0",
    "failed_wall": "REAL",
    "problem": "TEXT NOT NULL DEFAULT ''",
    "ended_wall": "REAL",
    "within": "TEXT NOT NULL DEFAULT ''",
}
ADD_STORY = "INSERT INTO story (wall, mono, boot, subject, program, name, text) VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_EVENT = "INSERT INTO events (wall, mono, boot, type, event, effects) VALUES (?, ?, ?, ?, ?, ?)"
ADD_NUMBER = "INSERT INTO numbers VALUES (?, ?) ON CONFLICT DO UPDATE SET highest = max(highest, excluded.highest)"
ADD_CAUSE = "INSERT OR REPLACE INTO causes VALUES (?, ?, ?)"
ADD_RELEASE = "INSERT OR REPLACE INTO releases VALUES (?, ?, ?)"
END_RELEASES = "DELETE FROM releases WHERE program = ? AND number <= ?"
ADD_INCIDENT = """INSERT INTO incidents VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT DO UPDATE SET
  headline = CASE WHEN excluded.severity > severity THEN excluded.headline ELSE headline END,
  severity = max(severity, excluded.severity)"""
ADD_RECORD = "INSERT OR REPLACE INTO incident_records VALUES (?, ?, ?, ?)"
END_RECORD = "UPDATE incident_records SET over_wall = ? WHERE number = ? AND over_wall IS NULL"
END_INCIDENT = "UPDATE incidents SET over_wall = ? WHERE number = ?"
ADD_LETTER = """INSERT OR IGNORE INTO outbox (incident, key, step, channel, told_wall, body, state)
  VALUES (?, ?, ?, ?, ?, ?, 'waiting')"""
REHEARSED = "SELECT max(told_wall) FROM outbox WHERE incident = 0 AND key LIKE 'rehearsal%'"
THE_LETTER = "WHERE incident = ? AND key = ? AND step = ? AND channel = ?"
SETTLE_LETTER = f"UPDATE outbox SET state = ?, ended_wall = ?, tries = tries + ? {THE_LETTER}"
GROUP_LETTER = f"UPDATE outbox SET state = 'grouped', within = ? {THE_LETTER}"
TRY_LETTER = f"UPDATE outbox SET tries = tries + 1, failed_wall = coalesce(failed_wall, ?), problem = ? {THE_LETTER}"

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MAY_NOT_WRITE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (*get_args(Event), *get_args(Effect))}


class JournalError(Exception):
    """The journal cannot be used; its text says what, where, why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for one channel. (incident, key, step, channel) is what makes it one: it is never written twice."""

    incident: int
    key: str
    step: int
    channel: str
    told_wall: float
    body: bytes


@dataclass(frozen=True, slots=True)
class StoryLine:
    seq: int
    wall: float
    mono: float
    boot: str
    subject: str
    program: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An event as the loop took it, with the effects that policy answered it with."""

    seq: int
    wall: float
    mono: float
    boot: str
    event: Event
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a file said when it was opened."""

    causes: dict[str, tuple[Known, ...]]
    releases: dict[str, tuple[Release, ...]]
    open: dict[str, Incident]
    highest: dict[str, int]
    began: dict[int, float]
    last_incident: int
    undelivered: tuple[Letter, ...]
    rehearsed_wall: float | None


class _UnusableError(Exception):
    """The file is damaged, or not ours to understand."""


@dataclass(frozen=True, slots=True)
class _Row:
    sql: str
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Happened:
    wall: float
    mono: float
    event: Event
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    tell: Tell
    wall: float
    letters: tuple[Letter, ...]
    fresh: Future[frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Posted:
    """Letters of no incident; `instead`: those that the first one takes the place of."""

    letters: tuple[Letter, ...]
    instead: tuple[Letter, ...]
    fresh: Future[frozenset[str]]


_Item = _Row | _Happened | _Told | _Posted


class Journal:
    """The writer: one per state directory. Adding is for the loop's thread; any thread may call `posted`, `tried` and `settled`."""

    def __init__(self, state_dir: str, lane: Lane, report: Callable[[str], None], *, keep_s: float | None = None) -> None:
        """Open the file, making it and its directory when missing. Blocks, for some milliseconds.

        lane    for the journal alone: it waits there for the disk
        report  gets sentences for people; called from the lane's thread
        keep_s  seconds after which rows are deleted; None keeps them
        raises  JournalError
        """
        self.lost = 0  # rows that were not written, ever
        self._path = Path(state_dir) / "journal.db"
        self._report = report
        self._keep_s = keep_s
        self._lane = lane
        self._backlog: Backlog[_Item] = Backlog(lane, self._write, limit=ROWS_LIMIT)
        self._closing = threading.Event()
        self._trimmed = 0.0
        self._inode = 0
        try:
            self._boot = host.boot_id()
            self._base, self._known = self._open()
        except (OSError, sqlite3.Error) as problem:
            if not _full(problem):
                raise JournalError(
                    f"cannot write the journal {self._path}: {problem}; make {state_dir} writable, or name another state_dir"
                ) from problem
            # no store is left alone for that: the first write says it, and tries until there is room
            self._base, self._known, self._inode = _in_memory(), _known_as_it_lies(self._path), NOWHERE
        self._began = dict(self._known.began)

    # What it knew when it was opened.

    def highest(self) -> dict[str, int]:
        """The highest instance number of each program, ever: numbers are not reused, also not after a reboot."""
        return dict(self._known.highest)

    def last_incident(self) -> int:
        """The highest incident number, 0 for none."""
        return self._known.last_incident

    def undelivered(self) -> tuple[Letter, ...]:
        """Messages that an earlier life wrote down and did not see delivered, oldest first."""
        return self._known.undelivered

    def rehearsed_wall(self) -> float | None:
        """When the last rehearsal of the channels was written down; None: never, or longer ago than is kept."""
        return self._known.rehearsed_wall

    def causes(self) -> dict[str, tuple[Known, ...]]:
        """What is remembered of each program's causes, its instants on this boot's monotonic clock (before it: negative)."""
        offset_s = time.monotonic() - time.time()
        return {name: tuple(_shifted(each, offset_s) for each in known) for name, known in self._known.causes.items()}

    def releases(self) -> dict[str, tuple[Release, ...]]:
        """Each program's newest releases, oldest first, their instants as those of causes."""
        offset_s = time.monotonic() - time.time()
        return {name: tuple(_moved(each, offset_s) for each in known) for name, known in self._known.releases.items()}

    def open_incidents(self) -> dict[str, Incident]:
        """Each program's incident that was not over, its instants as those of causes."""
        offset_s = time.monotonic() - time.time()
        return {name: dated(incident, offset_s) for name, incident in self._known.open.items()}

    # What is added.

    def note(self, wall: float, mono: float, note: Note) -> None:
        """One line of the story."""
        program = note.subject.partition(":")[0]
        self._add(_Row(ADD_STORY, (wall, mono, self._boot, note.subject, program, note.name, escaped(note.text))))

    def happened(self, mono: float, event: Event, effects: tuple[Effect, ...]) -> None:
        """An event and what policy answered; also the instance numbers that were given."""
        self._add(_Happened(time.time(), mono, event, effects))

    def began(self, incident: int, wall: float) -> float:
        """When (wall) the incident was opened; `wall` for one that is new."""
        return self._began.setdefault(incident, wall)

    def told(self, tell: Tell, wall: float, letters: tuple[Letter, ...] = ()) -> Future[frozenset[str]]:
        """Write the incident and its messages, together. The answer, once on disk: the channels whose letter was not known yet."""
        item = _Told(tell, wall, letters, Future())
        self.began(tell.incident, wall)
        if tell.key == OVER:
            self._began.pop(tell.incident, None)
        self._add(item, reserve=LETTERS_RESERVE)
        return item.fresh

    def posted(self, letters: tuple[Letter, ...], instead: tuple[Letter, ...] = ()) -> Future[frozenset[str]]:
        """Write letters of no incident; the first `instead` of others, in one transaction. The answer as that of `told`."""
        item = _Posted(letters, instead, Future())
        self._add(item, reserve=LETTERS_RESERVE)
        return item.fresh

    def abandoned(self, incident: int, wall: float) -> None:
        """An incident ends because nobody goes on with it: its program is not in the configuration any more."""
        self._add(_Row(END_RECORD, (wall, incident)), reserve=LETTERS_RESERVE)
        self._add(_Row(END_INCIDENT, (wall, incident)), reserve=LETTERS_RESERVE)

    def tried(self, letter: Letter, wall: float, problem: str) -> None:
        """A channel did not take the letter, for this reason (without a secret); it waits for another try, or is settled."""
        self._add(_Row(TRY_LETTER, (wall, problem, *_which(letter))), reserve=LETTERS_RESERVE)

    def settled(self, letter: Letter, wall: float, state: str) -> None:
        """A letter's fate: "delivered", or "failed" when it is given up."""
        tries = int(state == "delivered")  # those that failed are noted already
        self._add(_Row(SETTLE_LETTER, (state, wall, tries, *_which(letter))), reserve=LETTERS_RESERVE)

    def close(self, deadline_s: float) -> bool:
        """Write what waits and close the file; False when the disk did not take it in time. Blocks."""
        self._closing.set()
        self._backlog.hurry()
        self._lane.put(self._shut)
        return self._lane.drain(deadline_s)

    def _add(self, item: _Item, *, reserve: int = 0) -> None:
        self._backlog.add(item, reserve=reserve)

    # In the lane.

    def _write(self, items: list[_Item], lost: int) -> None:
        """Write a batch, trying until the disk takes it. Only the end of the process gives up."""
        self.lost += lost
        problem = ""
        while True:
            try:
                self._commit(items, lost, problem)
            except (OSError, sqlite3.Error) as error:
                if not problem:
                    self._report(f"cannot write the journal {self._path}: {error}; what happens now is remembered only for a while")
                problem = str(error)
                if _damaged(error) and self._set_aside(problem):
                    continue
                if self._closing.wait(RETRY_S):
                    self.lost += len(items)
                    return
            else:
                break
        if problem or lost:
            cost = f"{lost} entries were lost" if lost else "nothing was lost"
            self._report(f"the journal {self._path} is written again; {cost}")
        with contextlib.suppress(sqlite3.Error):  # what cannot be deleted now is deleted an hour later
            self._trim()

    def _commit(self, items: list[_Item], lost: int, problem: str) -> None:
        if _inode(self._path) != self._inode:  # somebody removed or replaced the file: SQLite would go on writing into the dead one
            self._reopen()
        fresh = []
        with _transaction(self._base) as base:
            for item in items:
                match item:
                    case _Row(sql, values):
                        base.execute(sql, values)
                    case _Happened():
                        self._put_happened(base, item)
                    case _Told():
                        fresh.append((item.fresh, _put_told(base, item)))
                    case _Posted(letters, instead):
                        fresh.append((item.fresh, _put_letters(base, letters)))
                        base.executemany(GROUP_LETTER, [(letters[0].key, *_which(letter)) for letter in instead])
            if lost:
                text = f"{lost} entries of the journal were lost" + (f": {problem}" if problem else "")
                base.execute(ADD_STORY, (time.time(), time.monotonic(), self._boot, "reviver", "reviver", "journal.lost", text))
        for future, channels in fresh:
            future.set_result(channels)

    def _put_happened(self, base: sqlite3.Connection, item: _Happened) -> None:
        for effect in item.effects:
            if isinstance(effect, Spawn):
                base.execute(ADD_NUMBER, (effect.id.program, effect.id.number))
            elif isinstance(effect, Remember):
                known = msgspec.json.encode(_shifted(effect.known, item.wall - item.mono))
                base.execute(ADD_CAUSE, (effect.program, effect.known.key, known))
            elif isinstance(effect, RecordIncident):
                self._put_incident(base, effect, item.wall - item.mono)
        try:
            event = msgspec.json.encode(item.event)
            effects = msgspec.json.encode([(type(effect).__name__, effect) for effect in item.effects])
        except UnicodeEncodeError:  # text of a program's that is no UTF-8: a row that cannot be written must not stop the others
            self.lost += 1
            return
        base.execute(ADD_EVENT, (item.wall, item.mono, self._boot, type(item.event).__name__, event, effects))
        for effect in item.effects:
            if isinstance(effect, RecordRelease):
                line = msgspec.json.encode(_moved(effect.release, item.wall - item.mono))
                base.execute(ADD_RELEASE, (effect.program, effect.release.number, line))
                base.execute(END_RELEASES, (effect.program, effect.release.number - RELEASES_KEPT))

    def _put_incident(self, base: sqlite3.Connection, effect: RecordIncident, by_s: float) -> None:
        over = None if effect.over is None else effect.over + by_s
        try:
            record = msgspec.json.encode(dated(effect.incident, by_s))
        except UnicodeEncodeError:  # as in an event: without it the incident is known by its headline alone
            self.lost += 1
            return
        base.execute(ADD_RECORD, (effect.incident.number, effect.program, over, record))

    def _trim(self) -> None:
        """Each hour: delete what is older than `keep_s`, and the oldest of too many events."""
        now = time.monotonic()
        if self._trimmed and now < self._trimmed + TRIM_EVERY_S:
            return
        self._trimmed = now
        with _transaction(self._base) as base:
            for table in ("story", "events"):
                base.execute(f"DELETE FROM {table} WHERE seq <= (SELECT max(seq) FROM {table}) - ?", (SEQ_LIMIT,))
            if self._keep_s is not None:
                oldest = time.time() - self._keep_s
                for table in ("story", "events"):  # in the order of seq: looks only at what it deletes
                    first = f"SELECT seq FROM {table} WHERE wall >= ? ORDER BY seq LIMIT 1"
                    base.execute(f"DELETE FROM {table} WHERE seq < coalesce(({first}), 0)", (oldest,))
                base.execute("DELETE FROM outbox WHERE told_wall < ?", (oldest,))
                newest = "SELECT max(number) FROM incidents"  # stays, so that its number is not given again
                base.execute(f"DELETE FROM incidents WHERE over_wall < ? AND number < ({newest})", (oldest,))
                base.execute("DELETE FROM incident_records WHERE over_wall < ?", (oldest,))

    def _open(self) -> tuple[sqlite3.Connection, _Known]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # it holds messages, and where they go
        try:
            base, known = _connect(self._path)
        except _UnusableError as problem:
            self._move_aside(str(problem))
            return self._open()
        self._inode = _inode(self._path)
        return base, known

    def _reopen(self) -> None:
        self._base.close()
        self._base, _ = self._open()

    def _set_aside(self, why: str) -> bool:
        """At run time; False: the disk does not let us begin anew, which is tried again with the next write."""
        self._base.close()
        try:
            self._move_aside(why)
            self._base, _ = self._open()
        except (OSError, sqlite3.Error):
            return False
        return True

    def _move_aside(self, why: str) -> None:
        aside = self._path.with_name(f"journal.db.{time.time_ns() // 1_000_000}.aside")
        os.replace(self._path, aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}{suffix}", f"{aside}{suffix}")
        self._report(f"the journal {self._path} cannot be used: {why}; it is kept as {aside.name}, and a new one begins")

    def _shut(self) -> None:
        self._base.close()


# For the command line: blocking, read-only, with no writer needed.


def read_story(state_dir: str, after: int = 0, limit: int = 100, program: str | None = None) -> list[StoryLine]:
    """Lines of the story, oldest first: those that follow the seq `after`, or the newest ones when it is 0.

    raises  JournalError
    """
    columns = "seq, wall, mono, boot, subject, program, name, text"
    return [StoryLine(*row) for row in _read(state_dir, "story", columns, after, limit, program)]


def read_events(state_dir: str, after: int = 0, limit: int = 100) -> list[Happening]:
    """Events with their effects, as policy met them; `after` and `limit` as in `read_story`.

    raises  JournalError, msgspec.DecodeError for a row of another version of Reviver
    """
    rows = _read(state_dir, "events", "seq, wall, mono, boot, type, event, effects", after, limit, None)
    return [
        Happening(seq, wall, mono, boot, _decoded(kind, event), _decoded_effects(effects))
        for seq, wall, mono, boot, kind, event, effects in rows
    ]


def read_events_between(state_dir: str, boot: str, since: float, until: float) -> list[Happening]:
    """The events of a boot after `since` and not after `until`, monotonic; at most EVENTS_LIMIT, the oldest. Raises as `read_events`."""
    query = """SELECT seq, wall, mono, boot, type, event, effects FROM events
      WHERE boot = ? AND mono > ? AND mono <= ? ORDER BY seq LIMIT ?"""
    with reading(state_dir) as base:
        rows = base.execute(query, (boot, since, until, EVENTS_LIMIT)).fetchall()
    return [
        Happening(seq, wall, mono, boot, _decoded(kind, event), _decoded_effects(effects))
        for seq, wall, mono, boot, kind, event, effects in rows
    ]


def _read(state_dir: str, table: str, columns: str, after: int, limit: int, program: str | None) -> list[tuple[Any, ...]]:
    mine = "AND program = :program" if program is not None else ""
    order = "ASC" if after else "DESC"
    query = f"SELECT {columns} FROM {table} WHERE seq > :after {mine} ORDER BY seq {order} LIMIT :limit"
    with reading(state_dir) as base:
        rows = base.execute(query, {"after": after, "limit": limit, "program": program}).fetchall()
    return rows if after else rows[::-1]


@contextlib.contextmanager
def reading(state_dir: str) -> Iterator[sqlite3.Connection]:
    """The journal, read-only. Raises JournalError, also for what goes wrong within."""
    path = Path(state_dir) / "journal.db"
    if not path.exists() or not path.stat().st_size:  # empty: a full disk gave it no room yet
        raise JournalError(f"there is no journal in {state_dir}: either nothing was recorded yet, or state_dir is another")
    try:
        with contextlib.closing(_readable(path)) as base:
            yield base
    except sqlite3.Error as problem:
        raise JournalError(f"cannot read the journal {path}: {problem}") from problem


def _readable(path: Path) -> sqlite3.Connection:
    """A reader's connection. One who may not make the -shm file reads the file as it lies there, if all of it is in it."""
    quoted = path.resolve().as_uri()
    base = sqlite3.connect(f"{quoted}?mode=ro", uri=True, timeout=BUSY_S)
    try:
        base.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError as problem:
        base.close()
        log = Path(f"{path}-wal")
        if problem.sqlite_errorcode & 0xFF not in _MAY_NOT_WRITE or (log.exists() and log.stat().st_size):
            raise
        base = sqlite3.connect(f"{quoted}?mode=ro&immutable=1", uri=True)
    return base


def _decoded(kind: str, data: bytes) -> Any:
    return msgspec.json.decode(data, type=_TYPES[kind])


def _decoded_effects(data: bytes) -> tuple[Effect, ...]:
    pairs = msgspec.json.decode(data, type=list[tuple[str, msgspec.Raw]])
    return tuple(_decoded(kind, bytes(raw)) for kind, raw in pairs)


# SQLite.


def _connect(path: Path) -> tuple[sqlite3.Connection, _Known]:
    """The writer's connection, with the tables there. Transactions are begun and ended by `_transaction` alone."""
    base = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise _UnusableError(f"it was written by a newer Reviver (its version is {version}, this one knows {VERSION})")
        if version < VERSION:
            _make_tables(base)
        return base, _read_known(base)
    except sqlite3.Error as problem:
        base.close()
        if _damaged(problem):
            raise _UnusableError(str(problem)) from problem
        raise
    except _UnusableError:
        base.close()
        raise


def _shifted(known: Known, by_s: float) -> Known:
    """The same on another clock: in the file instants are wall time, for they outlive the boot."""
    return replace(known, first=known.first + by_s, proven=tuple(at + by_s for at in known.proven))


def _moved(release: Release, by_s: float) -> Release:
    return replace(release, at=release.at + by_s)


def dated(incident: Incident, by_s: float) -> Incident:
    """The same on another clock."""
    impact, headline = incident.impact, incident.headline
    return replace(
        incident,
        opened=incident.opened + by_s,
        round=incident.round + by_s,
        headline=None if headline is None else replace(headline, at=headline.at + by_s),
        facts=tuple(replace(fact, at=fact.at + by_s) for fact in incident.facts),
        pages=tuple(replace(page, at=page.at + by_s) for page in incident.pages),
        acknowledgements=tuple(replace(each, at=each.at + by_s) for each in incident.acknowledgements),
        calm=None if incident.calm is None else incident.calm + by_s,
        impact=replace(impact, since=None if impact.since is None else impact.since + by_s, noticed=impact.noticed + by_s),
    )


def _make_tables(base: sqlite3.Connection) -> None:
    with _transaction(base):
        for statement in SCHEMA.split(";"):
            base.execute(statement)
        known = {name for _, name, *_ in base.execute("PRAGMA table_info(outbox)")}
        for name, kind in FATE.items():
            if name not in known:
                base.execute(f"ALTER TABLE outbox ADD COLUMN {name} {kind}")
        base.execute(f"PRAGMA user_version = {VERSION}")


def _read_known(base: sqlite3.Connection) -> _Known:
    waiting = "SELECT incident, key, step, channel, told_wall, body FROM outbox WHERE state = 'waiting' ORDER BY told_wall"
    causes: dict[str, list[Known]] = {}
    for program, known in base.execute("SELECT program, known FROM causes ORDER BY rowid"):
        causes.setdefault(program, []).append(msgspec.json.decode(known, type=Known))
    releases: dict[str, list[Release]] = {}
    for program, release in base.execute("SELECT program, release FROM releases ORDER BY program, number"):
        releases.setdefault(program, []).append(msgspec.json.decode(release, type=Release))
    unended = "SELECT program, record FROM incident_records WHERE over_wall IS NULL ORDER BY number"
    return _Known(
        open={program: msgspec.json.decode(record, type=Incident) for program, record in base.execute(unended)},
        causes={program: tuple(each) for program, each in causes.items()},
        releases={program: tuple(each) for program, each in releases.items()},
        highest=dict(base.execute("SELECT program, highest FROM numbers")),
        began=dict(base.execute("SELECT number, opened_wall FROM incidents WHERE over_wall IS NULL")),
        last_incident=base.execute("SELECT coalesce(max(number), 0) FROM incidents").fetchone()[0],
        undelivered=tuple(Letter(*row) for row in base.execute(waiting)),
        rehearsed_wall=base.execute(REHEARSED).fetchone()[0],
    )


@contextlib.contextmanager
def _transaction(base: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, on disk when it ends (WAL with synchronous = FULL, SQLite's default: one fsync)."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield base
        base.execute("COMMIT")
    finally:
        if base.in_transaction:
            base.execute("ROLLBACK")


def _put_told(base: sqlite3.Connection, item: _Told) -> frozenset[str]:
    tell = item.tell
    base.execute(ADD_INCIDENT, (tell.incident, tell.program, item.wall, int(tell.severity), escaped(tell.text)))
    if tell.key == OVER:
        base.execute(END_INCIDENT, (item.wall, tell.incident))
    return _put_letters(base, item.letters)


def _put_letters(base: sqlite3.Connection, letters: tuple[Letter, ...]) -> frozenset[str]:
    """The channels of those that were not known yet."""
    fresh = []
    for letter in letters:
        values = (letter.incident, letter.key, letter.step, letter.channel, letter.told_wall, letter.body)
        if base.execute(ADD_LETTER, values).rowcount:
            fresh.append(letter.channel)
    return frozenset(fresh)


def _which(letter: Letter) -> tuple[object, ...]:
    return (letter.incident, letter.key, letter.step, letter.channel)


def _damaged(problem: OSError | sqlite3.Error) -> bool:
    return isinstance(problem, sqlite3.Error) and getattr(problem, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _full(problem: OSError | sqlite3.Error) -> bool:
    """Whether there is no room. SQLite calls it an I/O error when it is its shared memory that does not fit."""
    if isinstance(problem, sqlite3.Error):
        return getattr(problem, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
    return problem.errno in (errno.ENOSPC, errno.EDQUOT)


def _known_as_it_lies(path: Path) -> _Known:
    """What a file knows that cannot be opened for lack of room, without what still lies in its write-ahead log."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as base:
            return _read_known(base)
    except sqlite3.Error:  # it is empty, or not there
        with contextlib.closing(_in_memory()) as base:
            return _read_known(base)


def _in_memory() -> sqlite3.Connection:
    base = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _make_tables(base)
    return base


def _inode(path: Path) -> int:
    """0 for a file that is not there."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
