"""Reading output back: which lines, by count, time and pattern, in what is there and in what comes."""

from __future__ import annotations

import gzip
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor.commands.logs import logs
from supervisor.control.client import Refusal
from supervisor.mechanism import logreading
from supervisor.mechanism.logreading import Wanted, follow, tail
from supervisor.mechanism.logtimes import written_wall

TEN = datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()


def put(path: Path, data: bytes, mtime: float) -> None:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    os.utime(path, (mtime, mtime))


def read(folder: Path, lines: int | None = None, since: float | None = None, grep: bytes | None = None) -> bytes:
    return b"".join(tail(str(folder), "store", Wanted(lines, since, re.compile(grep) if grep is not None else None)))


@pytest.mark.parametrize(
    "line",
    [
        b"2026-01-01T10:00:00Z started",
        b"2026-01-01T11:00:00.000+01:00 started",
        b"[2026-01-01 10:00:00 +0000] [12] [INFO] started",
        b'{"ts": "2026-01-01T10:00:00.000000001Z", "level": "info"}',
        b'time="2026-01-01T02:00:00-08:00" level=info',
        b'127.0.0.1 - - [01/Jan/2026:02:00:00 -0800] "GET / HTTP/1.1" 200',
    ],
)
def test_a_line_that_says_when_it_was_written_is_understood(line: bytes) -> None:
    assert written_wall(line) == TEN


def test_a_time_without_a_zone_is_this_hosts() -> None:
    assert written_wall(b"2026-01-01 10:00:00,250 INFO") == datetime(2026, 1, 1, 10, 0, 0, 250_000).timestamp()


@pytest.mark.parametrize(
    "line",
    [b"", b"\xff\x00", b"GET /?from=2026-01-01T10:00:00Z", b"2026-13-41T99:00:00Z", b"[99/Foo/2026:10:00:00 +0000]", b"12:00 x"],
)
def test_what_is_no_time_of_a_line_is_none(line: bytes) -> None:
    assert written_wall(line) is None


def test_since_takes_lines_by_their_own_time_and_what_belongs_to_them(tmp_path: Path) -> None:
    put(tmp_path / "store.log.2.gz", b"2026-01-01T08:00:00Z oldest\n", TEN - 7200)
    put(tmp_path / "store.log.1", b"  end of a traceback\n2026-01-01T09:00:00Z old\n  more\n2026-01-01T10:00:00Z new\n", TEN)
    put(tmp_path / "store.log", b"  more\n2026-01-01T10:00:01Z newer\n", TEN + 1)
    assert read(tmp_path, since=TEN) == b"2026-01-01T10:00:00Z new\n  more\n2026-01-01T10:00:01Z newer\n"
    assert read(tmp_path, since=TEN, lines=1) == b"2026-01-01T10:00:01Z newer\n"
    assert read(tmp_path, since=TEN + 2) == b""


def test_since_takes_files_whole_whose_lines_say_no_time(tmp_path: Path) -> None:
    put(tmp_path / "store.log.2.gz", b"1\n", TEN - 7200)
    put(tmp_path / "store.log.1.gz", b"2\n", TEN)
    put(tmp_path / "store.log", b"3\n", TEN + 1)
    assert read(tmp_path, since=TEN) == b"2\n3\n"


def test_grep_looks_at_whole_lines_in_all_files_and_counts_what_it_finds(tmp_path: Path) -> None:
    put(tmp_path / "store.log.1.gz", b"one GET /a\none POST\n", TEN)
    put(tmp_path / "store.log", b"two GET /b\r\ntwo\nthree GET /a\n", TEN)
    assert read(tmp_path, grep=rb"GET /[ab]$") == b"one GET /a\ntwo GET /b\r\nthree GET /a\n"
    assert read(tmp_path, lines=2, grep=rb"^\w+ GET") == b"two GET /b\r\nthree GET /a\n"
    assert read(tmp_path, grep=b"absent") == b""


def test_grep_shows_all_pieces_of_a_long_line_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "LINE_BYTES", 10)
    put(tmp_path / "store.log", b"x GET " + b"y" * 30 + b" POST\nz POST\n", TEN)
    assert read(tmp_path, grep=b"GET") == b"x GET " + b"y" * 30 + b" POST\n"
    assert read(tmp_path, grep=b"POST") == b"z POST\n"


def test_follow_gives_the_past_then_what_comes_and_only_what_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreading, "POLL_S", 0.002)
    log = tmp_path / "store.log"
    put(log, b"".join(b"%d %s\n" % (number, b"odd" if number % 2 else b"even") for number in range(9)), TEN)
    followed = follow(str(tmp_path), "store", Wanted(2, None, re.compile(b"odd")))
    assert [next(followed), next(followed)] == [b"5 odd\n", b"7 odd\n"]
    log.rename(tmp_path / "store.log.1")
    put(log, b"10 even\n11 odd\n", TEN)
    assert next(followed) == b"11 odd\n"
    followed.close()


def test_a_file_that_stands_there_plain_and_compressed_is_read_once(tmp_path: Path) -> None:
    put(tmp_path / "store.log.1.gz", b"old\n", TEN)
    put(tmp_path / "store.log.1", b"old\n", TEN)
    put(tmp_path / "store.log", b"new\n", TEN)
    assert read(tmp_path) == read(tmp_path, lines=9) == b"old\nnew\n"


@pytest.mark.parametrize(("since", "grep"), [("yesterday", None), ("-5m", None), (None, "("), (None, "a{99999999999}")])
def test_what_is_no_time_or_no_pattern_is_refused_in_one_sentence(since: str | None, grep: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        logs(None, "store", None, since, grep, follow=False)
    assert refused.value.code == 2
    assert len(str(refused.value).splitlines()) == 1
