"""What waits for a lane comes to it in few goes, in order, and at once when the end is near."""

from __future__ import annotations

import queue

import pytest

from supervisor.lanes import Lane
from supervisor.records import backlog
from supervisor.records.backlog import Backlog

DEADLINE_S = 15.0


def test_one_value_is_flushed_at_once_and_those_that_follow_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "GATHER_S", DEADLINE_S)
    flushed: queue.Queue[list[int]] = queue.Queue()
    lane = Lane("backlog")
    waiting = Backlog(lane, lambda values, lost: flushed.put(values), limit=100)
    waiting.add(0)
    assert flushed.get(timeout=DEADLINE_S / 2) == [0]
    for number in range(1, 51):
        waiting.add(number)
    waiting.hurry()
    assert flushed.get(timeout=DEADLINE_S / 2) == list(range(1, 51))
    assert lane.drain(DEADLINE_S)
