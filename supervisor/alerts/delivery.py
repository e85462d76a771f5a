"""Getting messages out: written down before they are sent, sent in order for each channel, tried again, never twice by our fault.

`tell` is called on the loop and returns at once. The letters go to the journal's outbox first; once they are on disk, or after
`RECORD_S` when the disk takes nothing, each goes into the lane of its channel, so that a slow channel delays no other. What a death
leaves in the outbox is sent by the next life. The one case that cannot be avoided, a death between sending and noting it, carries
the same id twice.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec
from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_delay, stop_when_event_set, wait_random_exponential

from supervisor.alerts.channels import SENDERS, Message, UndeliveredError, kind_of, label, send
from supervisor.lanes import Lane
from supervisor.model import Severity, Tell
from supervisor.records.journal import Journal, Letter
from supervisor.records.log import utc

CHANNELS_LIMIT = 32  # lanes, so threads: more channels than that share the last one
LETTERS_LIMIT = 1000  # that wait for one channel; what does not fit stays in the outbox for the next life
RECORD_S = 2.0  # that a message waits to be on disk: a full disk must not silence an alert
TRY_FOR_S = 600.0  # then the channel is given up for this message, and that is said
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
JOURNAL = "journal"  # the channel that is the log itself


class Delivery:
    """Sends what policy tells. For the loop's thread."""

    def __init__(self, journal: Journal, report: Callable[[str], None]) -> None:
        """report: gets sentences for the log, from any thread."""
        self._journal = journal
        self._report = report
        self._lanes: dict[str, Lane] = {}
        self._closing = threading.Event()
        self._host = socket.gethostname()

    def tell(self, tell: Tell, wall: float, runbook: str) -> None:
        """Send one message through all its channels. wall: now, in seconds since the epoch."""
        began = self._journal.began(tell.incident, wall)
        letters = []
        for channel in dict.fromkeys(tell.channels):
            if kind_of(channel) == JOURNAL:
                self._report(f"incident {tell.incident}, {tell.severity.name.lower()}: {tell.text}")
            elif kind_of(channel) in SENDERS:
                body = msgspec.json.encode(_message(tell, self._host, began, wall, runbook))
                letters.append(Letter(tell.incident, tell.key, tell.step, channel, wall, body))
        written = self._journal.told(tell, wall, tuple(letters))
        loop, posting = asyncio.get_running_loop(), _Posting(tuple(letters), self._post)
        written.add_done_callback(partial(_on_disk, loop, posting))
        loop.call_later(RECORD_S, posting.go, None)

    def resume(self) -> None:
        """Send what an earlier life wrote down and did not see delivered."""
        for letter in self._journal.undelivered():
            self._post(letter)

    def close(self, deadline_s: float) -> None:
        """Give what is being sent so long to arrive; the rest stays in the outbox. Blocks."""
        self._closing.set()
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            lane.drain(deadline_s)

    def _post(self, letter: Letter) -> None:
        name = letter.channel if len(self._lanes) < CHANNELS_LIMIT or letter.channel in self._lanes else "others"
        lane = self._lanes.setdefault(name, Lane("alerts", limit=LETTERS_LIMIT))
        if not lane.put(self._send, letter) and not self._closing.is_set():
            self._report(
                f"{LETTERS_LIMIT} messages wait for {label(letter.channel)}: further ones stay in the outbox until a restart"
            )

    def _send(self, letter: Letter) -> None:
        """In the channel's lane: try until it is delivered, given up, or we end."""
        message = msgspec.json.decode(letter.body, type=Message)
        tries = Retrying(
            stop=stop_after_delay(TRY_FOR_S) | stop_when_event_set(self._closing),
            wait=wait_random_exponential(FIRST_WAIT_S, LONGEST_WAIT_S),
            retry=retry_if_exception(_again),
            sleep=sleep_using_event(self._closing),
            reraise=True,
        )
        try:
            tries(send, letter.channel, message)
        except UndeliveredError as problem:
            if problem.again and self._closing.is_set():
                return
            self._journal.settled(letter, "failed")
            self._report(
                f"the alert of incident {letter.incident} ({letter.key}) did not go out through {label(letter.channel)}: {problem}"
            )
        else:
            self._journal.settled(letter, "delivered")


class _Posting:
    """The letters of one message on their way into the lanes: once, by whichever comes first, the disk or the deadline."""

    def __init__(self, letters: tuple[Letter, ...], post: Callable[[Letter], None]) -> None:
        self._letters = letters
        self._post = post

    def go(self, fresh: frozenset[str] | None) -> None:
        """fresh: the channels whose letter was not known before; None takes all."""
        letters, self._letters = self._letters, ()
        for letter in letters:
            if fresh is None or letter.channel in fresh:
                self._post(letter)


def _on_disk(loop: asyncio.AbstractEventLoop, posting: _Posting, written: Future[frozenset[str]]) -> None:
    if not written.cancelled() and not loop.is_closed():
        loop.call_soon_threadsafe(posting.go, written.result())


def _again(problem: BaseException) -> bool:
    return isinstance(problem, UndeliveredError) and problem.again


def _message(tell: Tell, host: str, began: float, wall: float, runbook: str) -> Message:
    name = tell.program
    return Message(
        id=f"{host}/{tell.incident}/{tell.key}/{tell.step}/{int(began)}",
        incident=tell.incident,
        key=tell.key,
        severity=Severity(tell.severity).name.lower(),
        program=name,
        text=tell.text,
        host=host,
        began=utc(began),
        told=utc(wall),
        commands=(f"reviver explain {name}", f"reviver status {name}", f"reviver logs {name}"),
        runbook=runbook,
    )
