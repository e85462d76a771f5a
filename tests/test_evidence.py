"""Evidence is taken from a real process, kept for its owner alone, and bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from supervisor.mechanism import evidence
from supervisor.model import InstanceId

STORE = InstanceId("store", 7)


def test_take_of_a_spinning_process_names_its_thread_and_keeps_a_private_file(tmp_path: Path) -> None:
    code = "import sys; print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            line = evidence.take(STORE, child.pid, str(tmp_path))
        finally:
            child.kill()
    assert f"{child.pid} (" in line
    assert "runs" in line
    (kept,) = (tmp_path / "evidence").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    body = json.loads(kept.read_text())
    assert body["instance"] == "store:7"
    assert [thread["tid"] for thread in body["threads"]] == [child.pid]


def test_take_of_a_process_that_is_gone_says_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert evidence.take(STORE, child.pid, str(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []


def test_take_keeps_no_more_files_than_its_limit(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    for number in range(evidence.FILES_LIMIT + 5):
        (folder / f"old-{number}-1.json").write_text("{}")
    evidence.take(STORE, os.getpid(), str(tmp_path))
    kept = list(folder.iterdir())
    assert len(kept) == evidence.FILES_LIMIT
    assert any(path.name.startswith("store-7-") for path in kept)
