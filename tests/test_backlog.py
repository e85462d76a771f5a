"""What waits for a lane comes to it in few goes, in order, and at once when the end is near."""

from __future__ import annotations

import queue

import pytest

from supervisor.lanes import Lane
from supervisor.records import backlog
from supervisor.records.backlog import Backlog

DEADLINE_S = 15.0


def test_values_are_flushed_at_once_and_in_a_long_burst_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits dies with us: what one exit makes is written as it comes."""
    monkeypatch.setattr(backlog, "GATHER_S", DEADLINE_S)
    monkeypatch.setattr(backlog, "PAUSE_S", DEADLINE_S)
    flushed: queue.Queue[list[int]] = queue.Queue()
    lane = Lane("backlog")
    waiting = Backlog(lane, lambda values, lost: flushed.put(values), limit=100)
    for number in range(backlog.BURST + 1):
        waiting.add(number)
        assert flushed.get(timeout=DEADLINE_S / 2) == [number]
    for number in range(51):
        waiting.add(number)
    waiting.hurry()
    assert flushed.get(timeout=DEADLINE_S / 2) == list(range(51))
    assert lane.drain(DEADLINE_S)
