"""Evidence is taken from real processes, kept for its owner alone, bounded, and harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.mechanism import evidence
from supervisor.mechanism.evidence import Subject
from supervisor.model import InstanceId

STORE = InstanceId("store", 7)


@contextmanager
def running(folder: Path, code: str) -> Iterator[int]:
    """A Python program in a folder of its own that says when it is about to do what it does; ended afterwards."""
    file = folder / "shop.py"
    file.write_text(code)
    os.utime(file, (0, 0))  # long before the process starts: it runs what stands there
    with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


def subject(pid: int, directory: Path, output: bytes = b"") -> Subject:
    return Subject(STORE, pid, ("python", "shop.py"), (str(directory),), "4f2a", lambda: output)


def test_take_of_an_endless_loop_names_its_function_and_keeps_a_private_file(tmp_path: Path) -> None:
    code = "def total():\n    cents = 0\n    while True:\n        cents = cents\n\nprint(flush=True)\ntotal()\n"
    with running(tmp_path, code) as pid:
        taken = evidence.take(subject(pid, tmp_path, b"token=abc\n"), str(tmp_path))
    assert taken.cause is not None
    assert taken.cause.key == "python:spinning:shop.py:total"
    assert taken.cause.lines[0] in (3, 4)
    assert taken.summary.startswith("loops in shop.py:")
    (kept,) = (tmp_path / "evidence").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    body = json.loads(kept.read_text())
    assert body["instance"] == "store:7"
    assert body["last_output"] == ["token=<redacted>"]
    assert {line["text"] for line in body["lines"]} <= {"while True:", "cents = cents"}


def test_take_of_a_process_that_is_gone_says_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert evidence.take(subject(child.pid, tmp_path), str(tmp_path)).summary == ""
    assert list(tmp_path.iterdir()) == []


def test_take_keeps_no_more_files_than_its_limit(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    for number in range(evidence.FILES_LIMIT + 5):
        (folder / f"old-{number}-1.json").write_text("{}")
    evidence.take(subject(os.getpid(), tmp_path), str(tmp_path), takers=())
    kept = list(folder.iterdir())
    assert len(kept) == evidence.FILES_LIMIT
    assert any(path.name.startswith("store-7-") for path in kept)
