"""What is told of a program waits while it is found out why one of its instances ended, so that the message can say it.

The event of an end knows its exit code alone; the last lines of a traceback are read from the program's output some milliseconds later.
For the loop's thread; nothing here blocks or has a clock: whoever announced an end says in any case, and soon, what was found. Messages
of a program keep their order. What is held is in the handover already: a supervisor that dies meanwhile loses none, only the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from supervisor.model import InstanceId, Tell

HELD_S = 1.0  # at most: what is not found by then is not in the message


@dataclass(slots=True)
class _Held:
    ends: set[InstanceId] = field(default_factory=set)  # whose reason is being looked for
    tells: list[tuple[Tell, float, InstanceId | None]] = field(default_factory=list)


class Reasons:
    """Between the loop and the delivery of messages."""

    def __init__(self, send: Callable[[Tell, float], None]) -> None:
        """send: a message, and when (wall) it was told."""
        self._send = send
        self._held: dict[str, _Held] = {}

    def sought(self, id: InstanceId) -> None:
        """It is being looked for why this one ended: `found` follows."""
        self._held.setdefault(id.program, _Held()).ends.add(id)

    def tell(self, tell: Tell, wall: float, ended: InstanceId | None) -> None:
        """Send it, now or as soon as no reason is awaited. ended: whose end it follows from."""
        held = self._held.get(tell.program)
        if held is None:
            self._send(tell, wall)
        else:
            held.tells.append((tell, wall, ended))

    def found(self, id: InstanceId, words: str, reason: str) -> None:
        """Why it ended, "" for not known; words: how it ended, as the messages of it say."""
        held = self._held.get(id.program)
        if held is None:
            return
        if reason:
            said = f"{words} ({reason})"
            held.tells = [
                (replace(tell, text=tell.text.replace(words, said, 1)) if ended == id else tell, wall, ended)
                for tell, wall, ended in held.tells
            ]
        held.ends.discard(id)
        if not held.ends:
            del self._held[id.program]
            for tell, wall, _ in held.tells:
                self._send(tell, wall)
