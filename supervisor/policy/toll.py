"""What customers noticed, counted from looks at the kernel: refused, broken, waiting. Pure.

The watcher shows each look to a `Tally`, and what it has counted since goes to the program as `Noticed`; there it is added to the incident.
What a look cannot see is not made up: customers who come and go between two looks, waits on unix sockets (they have no age), and who
was refused by a port that Reviver does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from supervisor.model import Effect, Noticed, Program, Toll
from supervisor.policy.clock import Clock
from supervisor.policy.samples import Client, SocketSample
from supervisor.policy.values import replace
from supervisor.policy.wanted import World
from supervisor.policy.words import spell

WAIT_S = 1.0  # whoever waits longer has noticed something
GAP_S = 2.0  # between two looks at most so much counts as trouble: nobody saw what was between
FRESH_S = 6.0  # an older look says nothing of what a death has broken: in peace there is one each 5 s
BEFORE_S = 30.0  # what was noticed so long before an incident opens belongs to it: the cause is waited for

Address = tuple[str, int]


class Tally:
    """What the customers of one program noticed since it was taken last."""

    def __init__(self) -> None:
        self._toll = Toll()
        self._at = -math.inf
        self._open: tuple[Client, ...] = ()  # customers, at the newest look
        self._dropped: int | None = None

    def look(self, sample: SocketSample, ours: Collection[Address], dropped: int | None, *, odd: bool) -> None:
        """One more look.

        ours     addresses from which our own probes came: they are no customers
        dropped  attempts to connect that the kernel has ever dropped at the held sockets; None: there is none
        odd      something is; what was noticed in peace (a long report is no trouble) is forgotten
        """
        before, self._at = self._at, sample.at
        self._open = tuple(client for client in sample.clients if client.waiting and client.key[:2] not in ours)
        refused = (
            max(0, dropped - self._dropped) if dropped is not None and self._dropped is not None else 0
        )  # less: another socket
        self._dropped = dropped
        if not odd:
            self._toll = Toll()
            return
        long = [client.since for client in self._open if sample.at - client.since > WAIT_S]
        longest_s = max((sample.at - since for since in long), default=0.0)
        seen = Toll(
            looks=1,
            refused=refused,
            waited=sum(1 for since in long if since + WAIT_S >= before),
            longest_s=longest_s,
            trouble_s=min(sample.at - before, GAP_S, longest_s - WAIT_S) if long else 0.0,
        )
        self._toll = add(self._toll, seen)

    def died(self, pids: frozenset[int] | None, now: float) -> None:
        """A process tree was killed or crashed: the requests that it had taken and not answered are broken. None: all were its."""
        if now - self._at > FRESH_S:
            return
        broken = tuple(client for client in self._open if client.inode and (pids is None or client.owner in pids))
        self._open = tuple(client for client in self._open if client not in broken)
        self._toll = add(self._toll, Toll(looks=1, broken=len(broken)))

    def take(self, unseen: str) -> Toll | None:
        """What was counted, once; None: there was no look. unseen: what these looks cannot see."""
        toll, self._toll = self._toll, Toll()
        return replace(toll, unseen=unseen) if toll.looks else None


def add(one: Toll, more: Toll) -> Toll:
    return Toll(
        looks=one.looks + more.looks,
        refused=one.refused + more.refused,
        broken=one.broken + more.broken,
        waited=one.waited + more.waited,
        longest_s=max(one.longest_s, more.longest_s),
        trouble_s=one.trouble_s + more.trouble_s,
        unseen=more.unseen or one.unseen,
    )


def hear(program: Program, event: Noticed, now: float) -> Program:
    """Keep it until an incident takes it up; what is too old belongs to none."""
    kept = program.toll if program.tolled is not None and now - program.tolled <= BEFORE_S else Toll()
    return replace(program, toll=add(kept, event.toll), tolled=now)


def count(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Have the incident take up what was noticed."""
    incident = program.incident
    if incident is None or program.tolled is None:
        return program, ()
    kept = program.toll if clock.now - program.tolled <= BEFORE_S else Toll()
    return replace(program, incident=replace(incident, toll=add(incident.toll, kept)), toll=Toll(), tolled=None), ()


def so_far(program: Program) -> str:
    """What is known while it goes on, for people; "" for nothing."""
    seen = program.toll if program.incident is None else add(program.incident.toll, program.toll)
    return _numbers(seen) if seen.looks else ""


def words(toll: Toll) -> str:
    """For people, in one line."""
    if not toll.looks:
        return "what customers noticed was not seen: no connection of it could be looked at"
    said = f"customers noticed: {_numbers(toll)}"
    if toll.waited:
        said += f" ({toll.waited} waited over {spell(WAIT_S)}; trouble for {spell(toll.trouble_s)})"
    return said + (f"; not seen: {toll.unseen}" if toll.unseen else "")


def _numbers(toll: Toll) -> str:
    return f"{toll.refused} refused, {toll.broken} broken, longest wait {spell(toll.longest_s)}"
