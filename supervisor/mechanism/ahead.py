"""One process a program that waits at its gate for the next start: a crash costs customers a millisecond less.

Starting is nearly all of what lies between the exit of one instance and the first instruction of the next. So while all is calm the next
one is spawned ahead; it has run nothing, holds no port, and becomes an instance only when its gate is opened with the instance's name.
It is used once and only for exactly what it was made for; when we die it reads the end of its gate and ends.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass, replace

from supervisor.mechanism.launch import Child
from supervisor.model import OutputTo, Spawn

LIMIT = 64  # programs: each costs a shell's memory and three descriptors, and with more of them one crash is a small part


@dataclass(frozen=True, slots=True)
class Made:
    """For what a waiting process was made: another build, socket or output, and it is of no use."""

    build: int
    heartbeat_s: float | None
    fds: tuple[int, ...]
    to: OutputTo


class Ahead:
    """The waiting processes, by program. For the loop's thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Made, Child]] = {}

    def wanted(self, program: str, made: Made) -> bool:
        """Whether one should be made."""
        known = self._waiting.get(program)
        return (known is None and len(self._waiting) < LIMIT) or (known is not None and known[0] != made)

    def keep(self, program: str, made: Made, child: Child) -> None:
        """Let it wait, in the place of one that waited before."""
        self.drop(program)
        self._waiting[program] = (made, child)

    def take(self, spawn: Spawn, made: Made) -> Child | None:
        """The one that waits, as the instance that is to be spawned now. None: there is none for this, or it is dead."""
        known, child = self._waiting.pop(spawn.id.program, (None, None))
        if child is None:
            return None
        if known == made and not select.select([child.pidfd], [], [], 0)[0]:
            return replace(child, id=spawn.id)
        discard(child)
        return None

    def drop(self, program: str) -> None:
        """Let the program's end at its gate."""
        _, child = self._waiting.pop(program, (None, None))
        if child is not None:
            discard(child)

    def close(self) -> None:
        for program in tuple(self._waiting):
            self.drop(program)


def discard(child: Child) -> None:
    """End a child that nobody wants any more, at its gate. The reaper reaps it."""
    for fd in (child.gate, child.pidfd, child.output):
        if fd >= 0:
            os.close(fd)
