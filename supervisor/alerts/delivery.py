"""From a `Tell` to its channels: written down before it is sent, tried until it is taken, one message for one fact and channel.

Each channel has its own lane, so that one that hangs delays no other; within a channel messages keep their order. A channel that is down
is tried for a day; what waited meanwhile comes as one message when it is back. The first message of a calm channel goes at once; when
others of other incidents follow within moments, as under a dead database, those are gathered and go as one. What a life of the supervisor
wrote down and did not see delivered is sent by the next one. The only doubling that remains is a death between a channel's yes and the
note of it: the message carries an id, by which a receiver can tell. A disk that takes nothing does not hold up a message. A channel that
fails for long is told through the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import tenacity

from supervisor.alerts.channels import channel, named
from supervisor.alerts.message import WELL, ChannelError, Message, late, storm
from supervisor.lanes import Lane
from supervisor.model import Tell, Voice
from supervisor.policy.customers import PUBLIC_STEP
from supervisor.records.journal import Journal, Letter
from supervisor.records.log import escaped, utc

LANES_LIMIT = 64  # channels beyond it share: none is left out, some may wait for another
LETTERS_LIMIT = 1000  # messages that wait for one channel; the rest stay in the outbox for the next start
KNOWN_LIMIT = 10_000  # messages remembered as told, for the case that the journal cannot say
WRITTEN_S = 2.0  # that a message waits for the disk before it is sent all the same
TEXT_LIMIT = 4000  # characters of a text; it is one screen, a hostile program's name in it is not
STALE_S = 24 * 3600.0  # a message that old is no news any more
GROUP_AGE_S = 60.0  # what has waited longer than this comes as one message
GROUP_LIMIT = 50  # messages in one
GROUP_CHARACTERS = 12_000  # of their texts together: what mail, chats and pagers take
TICK_S = 1e-6  # between two messages of one instant, so that their order stands in the outbox: a float of today tells 2.4e-7 apart


@dataclass(frozen=True, slots=True)
class Pace:
    """How delivery is tried: each try has `deadline_s`; between tries `first_s`, doubled with jitter up to `limit_s`, for STALE_S.

    refused_s  the same for a message that the other side does not want; then the next one's turn comes
    failing_s  so long a channel may fail before it is told through the others
    gather_s   after a message, in which those of other incidents are gathered. A suspicion takes 1 s and its cause up to 5 s more: so a
               page that has to wait here is handed over within 10 s all the same
    """

    deadline_s: float = 15.0
    first_s: float = 1.0
    limit_s: float = 60.0
    refused_s: float = 600.0
    failing_s: float = 120.0
    gather_s: float = 3.0


class Clock:
    """The time, as delivery sees it."""

    def mono(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Until the event is set, at most so long."""
        event.wait(seconds)


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel is: its name for people, messages that wait, and since when (wall) and why it fails."""

    name: str
    waiting: int
    failing_wall: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Waiting:
    letter: Letter
    written: Future[frozenset[str]] | None  # None: an earlier life saw to that
    since: float  # monotonic, in this life
    tried: bool = False  # perhaps, by an earlier life: somebody may have seen it under its own id


@dataclass(slots=True)
class _Box:
    """One channel's letters, in order. The lock is held for moments alone; only the box's lane sends."""

    target: str
    lane: Lane
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: deque[_Waiting] = field(default_factory=deque)
    busy: bool = False
    sending: int = 0  # letters in the one that is being sent
    began: float = -math.inf  # when the last one was begun to be sent, and when that ended, monotonic; what it was about
    ended: float = -math.inf
    about: frozenset[int] = frozenset()
    well: bool = False  # it told only that it is well again
    failed: float | None = None  # since when it fails, monotonic
    failed_wall: float = 0.0
    problem: str = ""
    told: bool = False  # others were told that it fails


class Delivery:
    """Sends messages. `tell`, `resume`, `rehearse`, `use` and `close` are for one thread; `report` is called from the lanes' threads."""

    def __init__(self, journal: Journal, report: Callable[[str], None], pace: Pace = Pace(), clock: Clock | None = None) -> None:
        """report gets a sentence when a channel fails for long, and when it works again; also what goes to `journal:`."""
        self._journal = journal
        self._report = report
        self._pace = pace
        self._clock = clock or Clock()
        self._secret_file = ""
        self._option = ""
        self._host = socket.gethostname()
        self._lock = threading.Lock()  # of the boxes' dict, which a lane grows too when it tells others
        self._boxes: dict[str, _Box] = {}
        self._on_call: tuple[str, ...] = ()
        self._used: tuple[str, ...] = ()
        self._known: dict[tuple[int, str, int, str], None] = {}
        self._newest_wall = 0.0
        self._closing = threading.Event()

    def use(self, on_call: Sequence[str], public: Sequence[str] = (), secret_file: str = "", option: str = "") -> None:
        """The channels as they are configured now.

        on_call      of those who look after it: they are told when a channel fails
        public       of the others
        secret_file  with whose content webhooks are signed from now on, "" for none
        option       what the commands in messages carry, so that they find the configuration: `config.option`
        """
        self._option = option
        self._on_call = tuple(dict.fromkeys(on_call))
        self._used = tuple(dict.fromkeys((*on_call, *public)))
        self._secret_file = secret_file

    def tell(self, tell: Tell, wall: float, runbook: str = "") -> None:
        """Write the message down and send it to its channels, each at most once for (incident, key, step)."""
        since = self._journal.began(tell.incident, wall)
        letters = []
        for target in dict.fromkeys(tell.channels):
            key = (tell.incident, tell.key, tell.step, target)
            if key not in self._known:
                self._known[key] = None
                letters.append(Letter(*key, self._stamp(wall), msgspec.json.encode(self._message(tell, target, since, runbook))))
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
        written = self._journal.told(tell, wall, tuple(letters))
        for letter in letters:
            self._post(letter, written)

    def rehearse(self, wall: float) -> None:
        """Send a rehearsal through every channel of those on call: others would take it for news."""
        text = f"a rehearsal: so an alert of Reviver on {self._host} reaches you. Nothing is wrong"
        self._announce(self._on_call, f"rehearsal-{wall:.0f}", "info", text, wall)

    def resume(self) -> None:
        """Send what an earlier life wrote down and did not see delivered."""
        tried: set[str] = set()  # channels: each may have been given its oldest one
        for letter in self._journal.undelivered():
            self._known[letter.incident, letter.key, letter.step, letter.channel] = None
            self._newest_wall = max(self._newest_wall, letter.told_wall)
            if self._clock.wall() - letter.told_wall > STALE_S:
                self._journal.settled(letter, self._clock.wall(), "failed")
                self._report(
                    f"the message of {utc(letter.told_wall)} for {named(letter.channel)} is too old to be news: it is not sent"
                )
            else:
                self._post(letter, None, tried=letter.channel not in tried)
                tried.add(letter.channel)

    def states(self) -> tuple[ChannelState, ...]:
        """How each channel is that is used or has something to send. From any thread."""
        with self._lock:
            boxes = dict(self._boxes)
        states = []
        for target in dict.fromkeys((*self._used, *boxes)):
            box = boxes.get(target)
            if box is None:
                states.append(ChannelState(named(target), 0))
                continue
            with box.lock:
                waiting = len(box.waiting) + box.sending
                if waiting or target in self._used:
                    wall = None if box.failed is None else box.failed_wall
                    states.append(ChannelState(named(target), waiting, wall, box.problem if box.failed is not None else ""))
        return tuple(states)

    def close(self, deadline_s: float) -> bool:
        """Finish the tries under way, begin none; what waits is sent by the next life. False when one takes longer. Blocks."""
        self._closing.set()
        deadline = time.monotonic() + deadline_s
        ended = [box.lane.drain(max(deadline - time.monotonic(), 0.0)) for box in list(self._boxes.values())]
        return all(ended)

    def _stamp(self, wall: float) -> float:
        self._newest_wall = max(wall, self._newest_wall + TICK_S)
        return self._newest_wall

    def _message(self, tell: Tell, target: str, since: float, runbook: str) -> Message:
        public = tell.voice is Voice.PUBLIC
        return Message(
            id=f"{self._host}-{tell.incident}-{since:.0f}-{tell.key}-{tell.step}-{_where(target)}",
            incident=tell.incident,
            program=tell.program,
            key=tell.key,
            step=tell.step,
            severity=tell.severity.name.lower(),
            text=escaped(tell.text)[:TEXT_LIMIT],
            host=self._host,
            since=utc(since),
            commands=() if public else _commands(tell, self._option),
            runbook="" if public else escaped(runbook),
            voice=tell.voice.value,
            affected=escaped(tell.affected)[:TEXT_LIMIT],
            done=escaped(tell.done)[:TEXT_LIMIT],
            comes=escaped(tell.comes)[:TEXT_LIMIT],
        )

    def _announce(self, targets: Sequence[str], key: str, severity: str, text: str, wall: float) -> None:
        """A message about Reviver itself. From any thread."""
        letters = []
        for target in targets:
            id, since = f"{self._host}-{key}-{_where(target)}", utc(wall)
            message = Message(id, 0, "reviver", key, 0, severity, text, self._host, since, (f"reviver status{self._option}",), "")
            letters.append(Letter(0, key, 0, target, wall, msgspec.json.encode(message)))
        written = self._journal.posted(tuple(letters))
        for letter in letters:
            self._post(letter, written)

    def _post(self, letter: Letter, written: Future[frozenset[str]] | None, *, tried: bool = False) -> None:
        box = self._box(letter.channel)
        with box.lock:
            full = len(box.waiting) >= LETTERS_LIMIT
            if not full:
                box.waiting.append(_Waiting(letter, written, self._clock.mono(), tried))
            idle, box.busy = not box.busy, True
        if full:
            self._report(f"{named(letter.channel)} has {LETTERS_LIMIT} messages waiting: more are kept for the next start")
        if idle:
            box.lane.put(self._empty, box)

    def _box(self, target: str) -> _Box:
        with self._lock:
            box = self._boxes.get(target)
            if box is None:
                count = len(self._boxes)
                shared = list(self._boxes.values())[count % LANES_LIMIT].lane if count >= LANES_LIMIT else None
                box = self._boxes[target] = _Box(target, shared or Lane(f"alert-{count}"))
            return box

    # In the channel's lane.

    def _empty(self, box: _Box) -> None:
        """Send all that waits, in order."""
        while (next_one := self._next(box)) is not None and not self._closing.is_set():
            self._deliver(box, *next_one)

    def _next(self, box: _Box) -> tuple[Letter, float] | None:
        """The next letter to send, and since when (monotonic) it waits. What waited for long, or is of a storm, is made one. None: none."""
        with box.lock:
            box.sending = 0
        stormy = self._gather(box)
        while not self._closing.is_set():
            with box.lock:
                if not box.waiting:
                    box.busy = False
                    return None
                first = box.waiting.popleft()
                box.sending = 1
            if self._is_new(first):
                group = [first.letter, *self._companions(box, first, stormy=stormy)]
                messages = [msgspec.json.decode(letter.body, type=Message) for letter in group]
                box.about = frozenset(message.incident for message in messages)
                box.well = all(message.voice in WELL for message in messages)
                return (first.letter if len(group) == 1 else self._grouped(box, group, messages, stormy=stormy)), first.since
        return None

    def _gather(self, box: _Box) -> bool:
        """Whether what waits is of a storm: it came while a message of another incident was sent, or soon after. Then waits for more of it.

        What is told of one incident alone waits for nothing, and no trouble waits because another is over.
        """
        with box.lock:
            first = box.waiting[0] if box.waiting else None
        until = box.began + self._pace.gather_s
        if first is None or first.since > max(until, box.ended) or first.tried or box.target.startswith("journal:"):
            return False
        message = msgspec.json.decode(first.letter.body, type=Message)
        if box.about == {message.incident} or (box.well and message.voice not in WELL):
            return False
        if (left_s := until - self._clock.mono()) > 0:
            self._clock.wait(self._closing, left_s)
        return True

    def _is_new(self, waiting: _Waiting) -> bool:
        """Whether it is written down now for the first time; a dead disk, which cannot say, must not silence us."""
        if waiting.written is None:
            return True
        with contextlib.suppress(TimeoutError):
            return waiting.letter.channel in waiting.written.result(WRITTEN_S)
        return True

    def _companions(self, box: _Box, first: _Waiting, *, stormy: bool) -> list[Letter]:
        """Those behind it that are sent with it, of one audience: none was tried yet, so nobody has seen one of them."""
        old = first.letter.told_wall < self._clock.wall() - GROUP_AGE_S
        if first.tried or not (stormy or old) or _is_group(first.letter):
            return []
        found: list[Letter] = []
        characters = len(first.letter.body)
        while len(found) + 1 < GROUP_LIMIT:
            with box.lock:
                if not box.waiting or not _together(first.letter, box.waiting[0].letter):
                    break
                characters += len(box.waiting[0].letter.body)
                if characters > GROUP_CHARACTERS:
                    break
                second = box.waiting.popleft()
                box.sending += 1
            if self._is_new(second):
                found.append(second.letter)
        return found

    def _grouped(self, box: _Box, letters: list[Letter], messages: list[Message], *, stormy: bool) -> Letter:
        """One letter instead of several, in the outbox too: the next life sends it under the same id."""
        times = [utc(letter.told_wall) for letter in letters]
        first, mark = letters[0], hashlib.sha256("".join(message.id for message in messages).encode()).hexdigest()[:12]
        message = (storm if stormy else late)(messages, times, f"{self._host}-group-{mark}-{_where(box.target)}", self._option)
        one = Letter(first.incident, f"group-{mark}", first.step, box.target, first.told_wall, msgspec.json.encode(message))
        with contextlib.suppress(TimeoutError):
            self._journal.posted((one,), tuple(letters)).result(WRITTEN_S)
        return one

    def _deliver(self, box: _Box, letter: Letter, since: float) -> None:
        box.began = self._clock.mono()
        try:
            self._try(box, letter, since)
        except ChannelError as problem:
            if not self._closing.is_set():
                self._journal.settled(letter, self._clock.wall(), "failed")
                self._fail(box, problem, for_good=True)
        else:
            self._journal.settled(letter, self._clock.wall(), "delivered")
            with contextlib.suppress(TimeoutError):  # noted before the next one is sent: a death doubles one message, not several
                self._journal.posted(()).result(WRITTEN_S)
            self._work_again(box)
        finally:
            box.ended = self._clock.mono()

    def _try(self, box: _Box, letter: Letter, since: float) -> None:
        """Raises the ChannelError of the last try."""
        message = msgspec.json.decode(letter.body, type=Message)
        target = channel(letter.channel, self._report, self._secret_file)
        pace, began = self._pace, self._clock.mono()

        def enough(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome is not None else None
            refused = isinstance(error, ChannelError) and error.refused
            now = self._clock.mono()
            return self._closing.is_set() or now - since > STALE_S or (refused and now - began > pace.refused_s)

        for attempt in tenacity.Retrying(
            stop=enough,
            wait=tenacity.wait_exponential(multiplier=pace.first_s, max=pace.limit_s) + tenacity.wait_random(0, pace.first_s),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, ChannelError) and not error.lasting),
            sleep=lambda seconds: self._clock.wait(self._closing, seconds),
            reraise=True,
        ):
            if self._closing.is_set():
                raise ChannelError("the supervisor ends")
            with attempt:
                try:
                    target.send(message, pace.deadline_s)
                except ChannelError as problem:
                    self._journal.tried(letter, self._clock.wall(), escaped(str(problem)))
                    self._fail(box, problem, for_good=False)
                    raise

    # How channels are.

    def _fail(self, box: _Box, problem: ChannelError, *, for_good: bool) -> None:
        """It failed: for long, or for good, is told."""
        now, wall = self._clock.mono(), self._clock.wall()
        with box.lock:
            if box.failed is None:
                box.failed, box.failed_wall = now, wall
            box.problem = escaped(str(problem))
            tell = not box.told and (for_good or now - box.failed >= self._pace.failing_s)
            box.told = box.told or tell
        if tell:
            text = f"alerts through {named(box.target)} do not arrive: {box.problem}"
            self._report(text)
            self._tell_others(box, f"channel-{_where(box.target)}-{wall:.0f}", "critical", text, wall)

    def _work_again(self, box: _Box) -> None:
        with box.lock:
            told, since_wall = box.told, box.failed_wall
            box.failed, box.told = None, False
        if told:
            text = f"alerts through {named(box.target)} arrive again, for the first time since {utc(since_wall)}"
            self._report(f"alerts through {named(box.target)} arrive again")
            self._tell_others(box, f"channel-{_where(box.target)}-{since_wall:.0f}-again", "info", text, self._clock.wall())

    def _tell_others(self, box: _Box, key: str, severity: str, text: str, wall: float) -> None:
        others = [target for target in self._on_call if target != box.target and not target.startswith("journal:")]
        if others:
            self._announce(others, key, severity, text, wall)


def _commands(tell: Tell, option: str) -> tuple[str, ...]:
    """What to type next; the acknowledgement, where one is wanted, first."""
    look = (f"reviver incident {tell.incident}{option}", f"reviver explain {tell.program}{option}")
    return look if tell.voice in WELL else (f"reviver ack {tell.incident}{option}", *look)


def _is_group(letter: Letter) -> bool:
    return letter.key.startswith("group-")


def _together(one: Letter, other: Letter) -> bool:
    """Whether one message may say both: a group that was made before stays as it is, and stakeholders get what is for them alone."""
    return not _is_group(other) and (one.step == PUBLIC_STEP) == (other.step == PUBLIC_STEP)


def _where(target: str) -> str:
    return hashlib.sha256(target.encode()).hexdigest()[:8]
