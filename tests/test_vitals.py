"""Samples of real process trees: what runs, what waits and where."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisor.mechanism import vitals
from supervisor.mechanism.tree import start_ticks
from supervisor.mechanism.vitals import Sampler
from supervisor.policy.samples import TreeSample
from supervisor.policy.threads import rates

DEADLINE_S = 10.0

SPIN_AND_WAIT = """
import threading, time
lock = threading.Lock(); lock.acquire()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
threading.Thread(target=lock.acquire, daemon=True).start()
while True: pass
"""


def test_full_sample_tells_running_from_sleeping_and_locked() -> None:
    with _running(SPIN_AND_WAIT) as child:
        sampler = _sampler(child.pid)
        sample = _until(sampler, lambda s: {"lock", "sleep"} <= {thread.place for thread in s.processes[0].threads})
        first = sample.at
        while time.monotonic() < first + 0.4:
            time.sleep(0.02)
            sample = _take(sampler)
        (usage,) = rates(sampler.since(first), sample.at, 2.0).values()
        assert usage.tid == child.pid
        assert usage.wants >= 0.5  # however busy the host: a loop runs, or is ready to
        sleeping = [t for t in sample.processes[0].threads if t.place in ("lock", "sleep")]
        assert len(sleeping) == 2
        assert all(thread.state == "S" for thread in sleeping)
        ratio = sampler.cpu_ratio(0.4)
        assert ratio is not None
        assert ratio > 0


def test_tree_includes_grandchildren_and_forgets_them_when_they_end() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; sys.stdin.read()']); input()"
    with _running(script) as child:
        sampler = _sampler(child.pid)
        sample = _until(sampler, lambda s: len(s.processes) == 2)
        leader, worker = sample.processes
        assert (leader.pid, worker.parent) == (child.pid, child.pid)
        told = sampler.vitals()
        assert told is not None
        assert told.workers == 1
        assert told.rss_bytes == leader.rss_bytes + worker.rss_bytes > 1_000_000
        os.kill(worker.pid, signal.SIGKILL)
        assert _until(sampler, lambda s: len(s.processes) == 1).processes[0].pid == child.pid


def test_stopped_process_is_in_state_t() -> None:
    with _running("input()") as child:
        sampler = _sampler(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        assert _until(sampler, lambda s: s.processes[0].state == "T").processes[0].pid == child.pid


def test_pid_that_is_anothers_now_is_not_sampled() -> None:
    with _running("input()") as child:
        ticks = start_ticks(child.pid)
        assert ticks is not None
        assert Sampler(child.pid, ticks + 1).sample(time.monotonic(), full=True) is None
        assert Sampler(child.pid, ticks).sample(time.monotonic(), full=True) is not None


def test_samples_are_kept_for_a_minute_and_never_more_than_the_limit() -> None:
    sampler = _sampler(os.getpid())
    now = time.monotonic()
    for n in range(vitals.KEPT_LIMIT + 50):
        sampler.sample(now + n * 0.05, full=False)
    kept = sampler.since(float("-inf"))
    assert len(kept) == vitals.KEPT_LIMIT
    sampler.sample(now + 1000, full=False)
    assert len(sampler.since(float("-inf"))) == 1


def test_growth_is_measured_over_a_span_not_between_neighbours() -> None:
    """A page that is touched between two dense samples is no leak."""
    sampler = _sampler(os.getpid())
    now = time.monotonic()
    sampler.sample(now, full=False)
    with mmap.mmap(-1, 30_000_000) as ballast:
        ballast.write(b"x" * 30_000_000)
        sampler.sample(now + 0.5, full=False)
        assert sampler.growth(1.0) == 0.0
        sampler.sample(now + 1.0, full=False)
    assert 15e6 < sampler.growth(1.0) < 100e6


@contextmanager
def _running(script: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _sampler(pid: int) -> Sampler:
    ticks = start_ticks(pid)
    assert ticks is not None
    return Sampler(pid, ticks)


def _take(sampler: Sampler) -> TreeSample:
    now = time.monotonic()
    sampler.refresh(now)
    sample = sampler.sample(now, full=True)
    assert sample is not None
    return sample


def _until(sampler: Sampler, true: Callable[[TreeSample], bool]) -> TreeSample:
    deadline = time.monotonic() + DEADLINE_S
    while not true(sample := _take(sampler)):
        assert time.monotonic() < deadline, sample
        time.sleep(0.005)
    return sample
