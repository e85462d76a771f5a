"""A child process that takes something on its standard input and ends: exit code 0 is well. Blocking, for a lane, with a deadline."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from supervisor.alerts.message import ChannelError
from supervisor.notify import OURS

ERROR_BYTES = 4096  # of what a failing child said, for the sentence
PIPE_BYTES = 64 * 1024  # all that a pipe holds: what a child said before its end is there in one read


def hand_over(words: Sequence[str], given: bytes, added: Mapping[str, str], deadline_s: float) -> tuple[int, str]:
    """Run the command with `given` on its standard input: its exit code (minus a signal's number) and the last line of its stderr.

    added   to our own environment, without what a service manager told us
    raises  ChannelError when it cannot be run, or does not end in time: then it is killed with all it started
    """
    deadline = time.monotonic() + deadline_s
    environ = {name: value for name, value in os.environ.items() if name not in OURS} | dict(added)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(os.memfd_create("message"), "w+b"))  # a file: no reader can hold us up
        source.write(given)
        source.seek(0)
        try:
            child = subprocess.Popen(
                words,
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environ,
                start_new_session=True,
            )
        except OSError as problem:
            raise ChannelError(f"cannot run {words[0]}: {problem.strerror}") from problem
        with child:
            said = _watch(child, deadline)
    if said is None:
        raise ChannelError(f"{words[0]} did not end within {deadline_s:g} s and was killed")
    lines = said.decode(errors="replace").strip().splitlines()
    return child.returncode, lines[-1] if lines else ""


def ending(code: int) -> str:
    return f"failed with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


def _watch(child: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Wait for its end, reading the last it says on stderr so that it never blocks on us. None: its group was killed at the deadline."""
    assert child.stderr is not None
    said = b""
    os.set_blocking(child.stderr.fileno(), False)
    pidfd = os.pidfd_open(child.pid)
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        ended = False
        while not ended:
            ready = {key.fileobj for key, _ in selector.select(max(deadline - time.monotonic(), 0.0))}
            if not ready:
                os.killpg(child.pid, signal.SIGKILL)
                break
            ended = pidfd in ready
            with contextlib.suppress(BlockingIOError):
                piece = os.read(child.stderr.fileno(), PIPE_BYTES)
                said = (said + piece)[-ERROR_BYTES:]
                if not piece and child.stderr in ready:
                    selector.unregister(child.stderr)
    os.close(pidfd)
    child.wait()
    return said if ended else None
