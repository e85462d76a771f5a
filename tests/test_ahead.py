"""A process that waits at its gate is used once, for what it was made for, and never outlives its use."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from supervisor.mechanism.ahead import Ahead, Made
from supervisor.mechanism.launch import Child, launch, open_gate
from supervisor.model import Build, InstanceId, LaunchSettings, OutputTo, Spawn

BUILD = Build(1, "", LaunchSettings(command=("sh", "-c", "echo $REVIVER_INSTANCE")), "/")
MADE = Made(1, None, (), OutputTo.FILE)


def waiting() -> Child:
    return launch(Spawn(InstanceId("store", 0), BUILD), (), os.environ, "", OutputTo.FILE)


def ended(pid: int) -> int:
    """Wait for the child's end; its exit code."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    made = Ahead()
    yield made
    made.close()


def test_it_becomes_the_instance_that_is_to_be_spawned_and_is_used_once(ahead: Ahead) -> None:
    child = waiting()
    ahead.keep("store", MADE, child)
    assert not ahead.wanted("store", MADE)
    taken = ahead.take(Spawn(InstanceId("store", 8), BUILD), MADE)
    assert taken is not None
    assert (taken.id, taken.pid) == (InstanceId("store", 8), child.pid)
    assert ahead.take(Spawn(InstanceId("store", 9), BUILD), MADE) is None
    open_gate(taken.gate, str(taken.id))
    assert ended(taken.pid) == 0
    assert os.read(taken.output, 100) == b"store:8\n"
    os.close(taken.output)
    os.close(taken.pidfd)


def test_it_is_of_no_use_for_another_build_and_ends_without_having_run(ahead: Ahead) -> None:
    child = waiting()
    ahead.keep("store", MADE, child)
    other = Made(2, None, (), OutputTo.FILE)
    assert ahead.wanted("store", other)
    assert ahead.take(Spawn(InstanceId("store", 8), BUILD), other) is None
    assert ended(child.pid) == 125


def test_one_that_died_is_not_taken(ahead: Ahead) -> None:
    child = waiting()
    ahead.keep("store", MADE, child)
    os.kill(child.pid, signal.SIGKILL)
    assert select.select([child.pidfd], [], [], 10)[0]
    assert ahead.take(Spawn(InstanceId("store", 8), BUILD), MADE) is None
    ended(child.pid)


def test_dropped_and_closed_ones_end() -> None:
    ahead, children = Ahead(), [waiting(), waiting()]
    ahead.keep("store", MADE, children[0])
    ahead.keep("store", MADE, children[1])
    assert ended(children[0].pid) == 125
    ahead.close()
    assert ended(children[1].pid) == 125
