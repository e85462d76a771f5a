"""From a `Tell` to its channels: written down before it is sent, tried again for some minutes, one message for one fact and channel.

Each channel has its own lane, so that one that hangs delays no other; within a channel messages keep their order. What a life of the
supervisor wrote down and did not see delivered is sent by the next one. The only doubling that remains is a death between a channel's
yes and the note of it: the message carries an id, by which a receiver can tell. A disk that takes nothing does not hold up a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec
import tenacity

from supervisor.alerts.channels import Channel, ChannelError, Message, channel, named
from supervisor.lanes import Lane
from supervisor.model import Tell
from supervisor.records.journal import Journal, Letter
from supervisor.records.log import escaped, utc

LANES_LIMIT = 16  # channels beyond it share: none is left out, some may wait for another
LETTERS_LIMIT = 200  # messages that wait in one lane; the rest stay in the outbox for the next start
KNOWN_LIMIT = 10_000  # messages remembered as told, for the case that the journal cannot say
WRITTEN_S = 2.0  # that a message waits for the disk before it is sent all the same
TEXT_LIMIT = 4000  # characters of a text; it is one sentence, a hostile program's name in it is not
STALE_S = 24 * 3600.0  # a message that old is no news any more


@dataclass(frozen=True, slots=True)
class Pace:
    """How delivery is tried: each try has `deadline_s`; between tries `first_s`, doubled with jitter up to `limit_s`; `total_s` in all,
    counted from when it was told, and at least one try."""

    deadline_s: float = 15.0
    first_s: float = 1.0
    limit_s: float = 60.0
    total_s: float = 600.0


class Delivery:
    """Sends messages. `tell`, `resume` and `close` are for one thread; `report` is called from the lanes' threads."""

    def __init__(self, journal: Journal, report: Callable[[str], None], pace: Pace = Pace()) -> None:
        """report gets a sentence when a channel fails for good, and when it works again; also what goes to `journal:`."""
        self._journal = journal
        self._report = report
        self._pace = pace
        self._host = socket.gethostname()
        self._lanes: dict[str, Lane] = {}
        self._known: dict[tuple[int, str, int, str], None] = {}
        self._failing: set[str] = set()  # a channel is here or not; only its own lane changes that
        self._closing = threading.Event()

    def tell(self, tell: Tell, wall: float, runbook: str = "") -> None:
        """Write the message down and send it to its channels, each at most once for (incident, key, step)."""
        since = self._journal.began(tell.incident, wall)
        letters = []
        for target in dict.fromkeys(tell.channels):
            key = (tell.incident, tell.key, tell.step, target)
            if key not in self._known:
                self._known[key] = None
                letters.append(Letter(*key, wall, msgspec.json.encode(self._message(tell, target, since, runbook))))
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        fresh = self._journal.told(tell, wall, tuple(letters))
        for letter in letters:
            self._post(letter, fresh)

    def resume(self) -> None:
        """Send what an earlier life wrote down and did not see delivered."""
        for letter in self._journal.undelivered():
            self._known[letter.incident, letter.key, letter.step, letter.channel] = None
            written: Future[frozenset[str]] = Future()
            written.set_result(frozenset({letter.channel}))
            self._post(letter, written)

    def close(self, deadline_s: float) -> bool:
        """Finish the tries under way, begin none; what waits is sent by the next life. False when one takes longer. Blocks."""
        self._closing.set()
        deadline = time.monotonic() + deadline_s
        ended = [lane.drain(max(deadline - time.monotonic(), 0.0)) for lane in self._lanes.values()]
        return all(ended)

    def _message(self, tell: Tell, target: str, since: float, runbook: str) -> Message:
        where = hashlib.sha256(target.encode()).hexdigest()[:8]
        return Message(
            id=f"{self._host}-{tell.incident}-{since:.0f}-{tell.key}-{tell.step}-{where}",
            incident=tell.incident,
            program=tell.program,
            key=tell.key,
            step=tell.step,
            severity=tell.severity.name.lower(),
            text=escaped(tell.text)[:TEXT_LIMIT],
            host=self._host,
            since=utc(since),
            commands=(f"reviver explain {tell.program}", "reviver status", f"reviver logs {tell.program}"),
            runbook=escaped(runbook),
        )

    def _post(self, letter: Letter, fresh: Future[frozenset[str]]) -> None:
        lane = self._lanes.get(letter.channel)
        if lane is None:
            if len(self._lanes) < LANES_LIMIT:
                lane = Lane(f"alert-{len(self._lanes)}", limit=LETTERS_LIMIT)
            else:
                lane = list(self._lanes.values())[len(self._lanes) % LANES_LIMIT]
            self._lanes[letter.channel] = lane
        if not lane.put(self._deliver, letter, fresh):
            self._report(f"{named(letter.channel)} has {LETTERS_LIMIT} messages waiting: more are kept for the next start")

    # In the channel's lane.

    def _deliver(self, letter: Letter, fresh: Future[frozenset[str]]) -> None:
        with contextlib.suppress(TimeoutError):  # a dead disk must not silence us
            if letter.channel not in fresh.result(WRITTEN_S):
                return
        try:
            self._try(letter)
        except ChannelError as problem:
            if self._closing.is_set():
                return
            self._journal.settled(letter, "failed")
            if letter.channel not in self._failing:
                self._failing.add(letter.channel)
                self._report(f"alerts through {named(letter.channel)} do not arrive: {escaped(str(problem))}")
        else:
            self._journal.settled(letter, "delivered")
            if letter.channel in self._failing:
                self._failing.discard(letter.channel)
                self._report(f"alerts through {named(letter.channel)} arrive again")

    def _try(self, letter: Letter) -> None:
        """Raises the ChannelError of the last try."""
        age_s = time.time() - letter.told_wall
        if age_s > STALE_S:
            raise ChannelError(f"the message of {utc(letter.told_wall)} is too old to be news", lasting=True)
        message = msgspec.json.decode(letter.body, type=Message)
        target: Channel = channel(letter.channel, self._report)
        pace = self._pace
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_delay(pace.total_s - age_s) | tenacity.stop_when_event_set(self._closing),
            wait=tenacity.wait_exponential(multiplier=pace.first_s, max=pace.limit_s) + tenacity.wait_random(0, pace.first_s),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, ChannelError) and not error.lasting),
            sleep=tenacity.sleep_using_event(self._closing),
            reraise=True,
        ):
            if self._closing.is_set():
                raise ChannelError("the supervisor ends")
            with attempt:
                target.send(message, pace.deadline_s)
