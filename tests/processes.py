"""What tests of real processes share: being their subreaper, and waiting for their end by events."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_CHILD_SUBREAPER = 36


def set_subreaper(on: bool) -> None:
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0


@contextmanager
def as_subreaper() -> Iterator[None]:
    """Orphans of what we start become ours, as they do in the daemon."""
    set_subreaper(True)
    try:
        yield
    finally:
        set_subreaper(False)


def gone_within(pidfd: int, seconds: float) -> bool:
    """Whether a process ends in time. Waits for the event."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def reap_all() -> None:
    """Reap whatever child of ours is dead."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        pass
