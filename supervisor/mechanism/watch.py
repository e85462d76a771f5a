"""Watching instances: when to look and to ask, and telling what the diagnosis concludes.

One timer serves all programs. In peace a program with sockets or probes is sampled once a second, one with neither twice a
minute. When somebody comes to a held socket the loop tells, and a quarter of a second later the queue is looked at; sockets
that a program opened itself are looked at that often. Anything odd (a queue that stays, an answer that is late, a thread that
runs all the time, a stopped process) is looked at ten times a second for a while. While an instance starts it is asked
without pause, so that its readiness is seen at once.

It judges nothing itself: facts go into a window, `policy.diagnosis` answers. It promises: no call here blocks; every
question and every suspicion has an end; when our own loop was late, nothing is concluded from what happened meanwhile.

On sockets that several instances share, a question is put only after it is known who accepted the connection, and a
connection counts for the instance whose process holds it. While an instance is alone on its sockets neither is needed.
The answerer of the page that says sorry (apologist.py) is one who shares them.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import math
import time
from collections.abc import Callable

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import pressure
from supervisor.mechanism.apologist import Answerer
from supervisor.mechanism.listening import Found, Listening, find
from supervisor.mechanism.probes import CommandTarget, Target, TcpTarget, Whose, address_of, ours, targets
from supervisor.mechanism.readiness import LIVED_S, readiness
from supervisor.mechanism.sockdiag import SockDiag
from supervisor.mechanism.tape import Ended, Shelf, Taken, Tape
from supervisor.mechanism.vitals import Sampler, Vitals
from supervisor.mechanism.watched import DENSE_FOR_S, WatchedInstance, WatchedProgram
from supervisor.model import (
    Answered,
    Event,
    Extended,
    Fleet,
    InstanceId,
    Kind,
    Looked,
    Noticed,
    ProgramSettings,
    Verdict,
    WorkerLooked,
)
from supervisor.policy.answers import LATE_S
from supervisor.policy.diagnosis import LEAK_BYTES_PER_S
from supervisor.policy.facts import (
    Beaten,
    Blinded,
    Fact,
    HostSeen,
    Queued,
    Readied,
    SocketsSeen,
    Stopping,
)
from supervisor.policy.owing import owed
from supervisor.policy.samples import Client, Finding, TreeSample, WorkerFinding, follow
from supervisor.policy.sight import SEEN_FOR_S, SUSPICIOUS
from supervisor.policy.threads import HOT_RATIO
from supervisor.policy.toll import Tally

QUEUE_S = 0.25  # between two looks at the accept queue: 1 µs for a held socket, and it is where a hang is seen first
LIGHT_S = 1.0  # between two light samples
CALM_JUDGE_S = 5.0  # between two verdicts while nothing is odd
SLOW_S = 30.0  # the same for what can neither be asked nor seen serving: 1000 of those must cost next to nothing
AGES_S = 2.0  # between two looks at connections where there is no probe: an event loop stuck with its old customers has no queue
CALM_AGES_S = 5.0  # the same where a probe tells of silence: 0.1 CPU s an hour to see the worker that is stuck beside others
OWED_PARTS = 10  # of `worker`, in each of which a worker that owes an answer is looked at: a verdict needs most of that time seen
OWED_SHARE = 200  # while an answer is owed for long, looks at connections take at most this part of the time
DENSE_S = 0.1  # between two looks when something is odd
LASTING_LOOK_S = 0.25  # between two looks at a suspect after that, and between two posts about it
LOOK_SHARE = 20  # a look at connections takes at most this part of the time (1/20), however many they are
LAG_S = 0.5  # our own loop late by this: nothing is concluded
BLIND_S = 1.0  # for so long after it
BEHIND_S = 0.1  # late by this: answers that came meanwhile are read before anything is concluded
START_ASK_S = ((3.0, 0.05), (20.0, 0.1), (math.inf, 0.25))  # until an age, between two questions to one that starts
START_TIMEOUT_S = 10.0  # of a question that waits in a held socket's queue until the program has booted
AGAIN_S = 0.1  # between two questions when another instance took the last one and this one is in doubt
LOOK_WAIT_S = 1.0  # a look at one that starts waits so long for its answer
EXTEND_LIMIT_US = 86_400_000_000  # a day: whoever asks for more time to start asks for ever
FIND_AT_S = (1.0, 5.0, 30.0)  # ages at which a program's own sockets are looked for, then each FIND_S
FIND_S = 300.0
FIND_DEADLINE_S = 10.0
HOST_S = 1.0  # between two looks at the host's load and stalls, while something is odd
STRANGE_LIMIT = 5  # looks at a connection that was accepted by nobody whom we know, until it is given up
SLACK_S = 0.02  # what is due within this is done in the same wake-up
WORKER_TELL_S = 1.0  # between two posts about a worker that does nothing
WORKER_TOLD_SHARE = 1 / 3  # of `worker`: from when on it is told; a report of some seconds is nothing to tell
NEAR_PROOF_S = 1.0  # so long before and after a worker's limit it is looked at densely
TOLL_S = 1.0  # between two posts of what customers notice: it only adds up
TELL_AGAIN_S = 5.0  # a verdict that lasts and is not calm is told again, with its new numbers
ROOM_S = 3.0  # how long what is known of the host's memory holds
ROOM_TIMES = 2  # an instance more needs room for its own tree, and once more for what grows meanwhile (2 x PSS)
PSS_DEADLINE_S = 1.0
SUSPENDED_S = 0.5  # the machine slept: longer than what reading two clocks one after the other can take
MOVED_LATER_S = 0.05  # ages have a resolution of some milliseconds: less than this is no movement

_CALM = frozenset({Kind.HEALTHY, Kind.BUSY, Kind.OVERLOADED})
_PROOF = frozenset({Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED})
_STILL = _PROOF | {Kind.SUSPECT}  # what policy may kill for: a suspect too, when its loop was proven before


class Watcher:
    """Watches all instances. To be made and called on the loop's thread."""

    def __init__(
        self,
        post: Callable[[Event], None],
        lane: Lane,
        fleet: Callable[[], Fleet] = Fleet,
        keep: Callable[[Taken], None] = lambda taken: None,
    ) -> None:
        """lane: where processes' descriptors are searched for listening sockets; of a big tree that takes milliseconds.

        fleet  as it is now, for recordings
        keep   gets what was seen around a bad verdict, when that is over
        """
        self._post = post
        self._fleet = fleet
        self._keep = keep
        self._shelf = Shelf()
        self._lane = lane
        self._diag = SockDiag()
        self._programs: dict[str, WatchedProgram] = {}
        self._answerers: dict[str, Answerer] = {}
        self._due: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._planned = math.inf
        self._behind = False
        self._host: HostSeen | None = None
        self._tallies: dict[str, Tally] = {}
        self._suspended_s = pressure.suspended_s()
        self._searches: set[asyncio.Task[None]] = set()
        self._looks: dict[InstanceId, asyncio.Handle] = {}

    # --- what the daemon says ---------------------------------------------------------------------------------------------------

    def watch(self, child_id: InstanceId, pid: int, start_ticks: int, settings: ProgramSettings, sockets: tuple[int, ...]) -> None:
        """Begin to watch an instance that starts now.

        sockets  the program's held, listening descriptors, shared by its instances
        """
        now = time.monotonic()
        program = self._programs.get(settings.name)
        if program is None or program.sockets != sockets:
            old = program
            program = self._programs[settings.name] = self._begin(settings, sockets)
            if old is not None:
                self._disarm(old)
                old.listening.close()
                program.instances = old.instances
            program.answerer = self._answerers.get(settings.name)
        program.settings = settings
        for other in program.instances.values():
            other.asker.doubt()
        sampler = Sampler(pid, start_ticks)
        instance = WatchedInstance(
            child_id, sampler, self._targets(program), lambda: self._hear(child_id), now, Tape(child_id, self._fleet, self._shelf)
        )
        program.instances[child_id] = instance
        program.take(program.rules(now))
        program.unsee("", now)  # who owns a connection was not looked for while one was alone
        instance.next_find = now + FIND_AT_S[0]
        self._plan(program, now + LIVED_S if program.lives_to_be_ready else now)

    def _begin(self, settings: ProgramSettings, sockets: tuple[int, ...]) -> WatchedProgram:
        """What was counted of its customers outlives the instances: the kernel goes on counting at a held socket."""
        tally = self._tallies.setdefault(settings.name, Tally())
        return WatchedProgram(settings, Listening(self._diag, sockets), sockets, tally)

    def resume(self, id: InstanceId) -> None:
        """It was ready under an earlier supervisor: nothing is known of the time since, so nothing is concluded from it."""
        program, instance = self._named(id)
        if program is None or instance is None:
            return
        now = time.monotonic()
        instance.take(Readied(now))
        blind_s = program.settings.hang.suspect_s + BLIND_S
        instance.take(Blinded(now, now + blind_s, "an earlier supervisor watched it until now"))
        instance.densely(now, blind_s)
        self._soon(id.program)

    def update(self, settings: ProgramSettings) -> None:
        """Take up changed settings of a program."""
        program = self._programs.get(settings.name)
        if program is None:
            return
        program.settings = settings
        for instance in program.instances.values():
            instance.asker.retarget(self._targets(program))
        program.take(program.rules(time.monotonic()))
        self._soon(settings.name)

    def answers_in_place(self, name: str, answerer: Answerer | None) -> None:
        """Another process takes the program's connections from now on, or does so no longer. It stands aside for each question, so that
        one that has booted gets it; what it takes all the same is no news of any instance."""
        if answerer is None:
            self._answerers.pop(name, None)
        else:
            self._answerers[name] = answerer
        if (program := self._programs.get(name)) is not None:
            program.answerer = answerer
            for instance in program.instances.values():
                instance.asker.doubt()
            program.unsee("", time.monotonic())  # who owns a connection was not looked for while one was alone

    def condemned(self, id: InstanceId) -> None:
        """It is about to be killed: see whose requests it has."""
        program, instance = self._named(id)
        if program is not None and instance is not None and program.listening.known:
            self._look_at_connections(program, time.monotonic())

    def died(self, id: InstanceId) -> None:
        """It was killed, or ended by itself, and did not finish what it had begun. Before `forget`."""
        program, instance = self._named(id)
        if program is not None and instance is not None:
            now = time.monotonic()
            instance.died = True
            program.tally.died(frozenset(instance.sampler.pids) if program.shared else None, now)
            self._tell_toll(id.program, now)

    def forget(self, id: InstanceId) -> None:
        """It is gone."""
        program = self._programs.get(id.program)
        instance = program.instances.pop(id, None) if program is not None else None
        if instance is not None:
            instance.asker.close()
            ended = Ended.GONE if instance.died else Ended.LEFT
            if (taken := instance.last.end(instance.spawned, ended)) is not None:
                self._keep(taken)
        if (look := self._looks.pop(id, None)) is not None:
            look.cancel()
        if program is not None and not program.instances:
            self._disarm(program)
            program.listening.close()
            del self._programs[id.program]
        elif program is not None and instance is not None:
            program.unsee("", time.monotonic())  # what it leaves unfinished is no movement of those who stay

    def close(self) -> None:
        """Stop watching everything."""
        for program in tuple(self._programs.values()):
            for id in tuple(program.instances):
                self.forget(id)
        for search in self._searches:
            search.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._diag.close()

    def look(self, id: InstanceId) -> None:
        """Look at it now; answered by Looked, or by Answered when it was starting and answers."""
        program, instance = self._named(id)
        if instance is None or program is None:
            return
        now = time.monotonic()
        wait_s = 0.0
        if instance.ready is None:
            instance.next_ask = now
            self._soon(id.program)
            wait_s = min(LOOK_WAIT_S, program.settings.health.timeout_s)
        if (old := self._looks.pop(id, None)) is not None:
            old.cancel()
        self._looks[id] = asyncio.get_running_loop().call_later(wait_s, self._tell_look, id)

    def unmoved(self, id: InstanceId, since: float) -> Looked | None:
        """The last look before a kill: what it saw, when something moved later than `since` or no proof is left; None: kill it."""
        program, instance = self._named(id)
        if program is None or instance is None or instance.ready is None:
            return None
        now = time.monotonic()
        finding = self._fresh(program, instance, now)
        proven = finding.verdict.kind in _STILL and finding.since is not None and finding.since <= since + MOVED_LATER_S
        if proven:
            return None
        instance.note(finding.verdict, now)
        return Looked(id, now, finding.since, finding.verdict, self._has_room(instance, now))

    def heard(self, id: InstanceId, state: dict[str, str]) -> None:
        """What the instance said by sd_notify(3); it was attributed already."""
        _, instance = self._named(id)
        if instance is None:
            return
        now = time.monotonic()
        instance.speaks = True
        instance.said = state.get("STATUS", instance.said)
        if state.get("STOPPING") == "1":
            instance.take(Stopping(now))
        if state.get("WATCHDOG") == "1":
            instance.take(Beaten(now))
        if instance.ready is None and (extra := state.get("EXTEND_TIMEOUT_USEC", "")).isdecimal():
            self._post(Extended(id, now - instance.spawned + min(int(extra), EXTEND_LIMIT_US) / 1e6))
        if state.get("READY") == "1":
            instance.says_ready = now
        self._soon(id.program)

    def vitals(self, id: InstanceId) -> Vitals | None:
        """Processor, memory and workers of its tree, not older than two seconds."""
        _, instance = self._named(id)
        if instance is None:
            return None
        now = time.monotonic()
        newest = instance.sampler.newest
        if newest is None or now - newest.at > 2 * LIGHT_S:
            instance.sampler.sample(now, full=False)
        return instance.sampler.vitals()

    def verdict(self, id: InstanceId) -> Verdict | None:
        """The newest verdict, None before the first."""
        _, instance = self._named(id)
        return instance.sight.finding.verdict if instance is not None and instance.sight.finding is not None else None

    def said(self, id: InstanceId) -> str:
        """The instance's own STATUS=, "" for none."""
        _, instance = self._named(id)
        return instance.said if instance is not None else ""

    def samples(self, id: InstanceId) -> tuple[TreeSample, ...]:
        """The samples of the last minute: what an incident keeps of the time before it."""
        _, instance = self._named(id)
        return instance.sampler.since(-math.inf) if instance is not None else ()

    def record(self, id: InstanceId, tape: Callable[[Fact], None] | None) -> None:
        """Give each fact about the instance to `tape` from now on, its rules first; None ends that. Of an unknown one: nothing."""
        _, instance = self._named(id)
        if instance is not None:
            instance.tape = tape
            if tape is not None:
                tape(instance.sight.rules)

    # --- the one timer ----------------------------------------------------------------------------------------------------------

    def _soon(self, name: str) -> None:
        if (program := self._programs.get(name)) is not None:
            self._plan(program, time.monotonic())

    def _hear(self, id: InstanceId) -> None:
        """A question to the instance has come to its end. What only confirms that all is well changes when to look next, no more."""
        program, instance = self._named(id)
        if program is None or instance is None:
            return
        now = time.monotonic()
        if instance.ready is None or instance.sight.answers.failed is not None or instance.told not in _CALM:
            self._plan(program, now)
        elif not program.queued:
            self._arm(program)
            program.due = math.inf
            self._plan(program, self._next(program, now))

    def _plan(self, program: WatchedProgram, due: float) -> None:
        """Visit the program at `due`; an earlier visit that is planned stays."""
        if due < program.due:
            program.due = due
            heapq.heappush(self._due, (due, program.settings.name))
        self._set_timer()

    def _set_timer(self) -> None:
        """Wake up at the earliest visit that still stands."""
        while self._due and not self._stands(*self._due[0]):
            heapq.heappop(self._due)
        due = self._due[0][0] if self._due else math.inf
        if due == self._planned:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._planned = due
        if due < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._tick)

    def _stands(self, due: float, name: str) -> bool:
        program = self._programs.get(name)
        return program is not None and program.due == due

    def _tick(self) -> None:
        now = time.monotonic()
        self._behind = now - self._planned > BEHIND_S
        slept_s = pressure.suspended_s() - self._suspended_s
        if slept_s > SUSPENDED_S:
            self._suspended_s += slept_s
            self._go_blind(now, f"the machine was asleep for {slept_s:.0f} s")
        elif now - self._planned > LAG_S:
            self._go_blind(now, f"our own loop was late by {now - self._planned:.1f} s")
        self._timer, self._planned = None, math.inf
        while self._due and self._due[0][0] <= now + SLACK_S:
            due, name = heapq.heappop(self._due)
            if not self._stands(due, name):
                continue
            program = self._programs[name]
            program.due = math.inf
            self._visit(program, now)
            if program.instances:
                self._plan(program, self._next(program, now))
        self._set_timer()

    def _go_blind(self, now: float, because: str) -> None:
        """What happened meanwhile is not known, so nobody's silence may count from before now."""
        for program in self._programs.values():
            program.take(Blinded(now, now + BLIND_S, because))

    def _next(self, program: WatchedProgram, now: float) -> float:
        """When the program is to be visited again."""
        wants = [now + self._pace_s(program)]
        if program.settings.health.heartbeat:
            wants.append(now + min(LIGHT_S, max(QUEUE_S, program.settings.health.every_s)))
        for instance in program.instances.values():
            if instance.ready is None:
                age_s = now - instance.spawned
                unasked_s = max(LIVED_S - age_s, QUEUE_S) if program.lives_to_be_ready else 0.0
                wants.append(now + max(_start_ask_s(age_s), unasked_s))
            elif instance.dense_until > now:
                wants.append(now + max(self._dense_s(instance, now), LOOK_SHARE * program.look_s))
            elif instance.sight.owing:
                wants.append(now + _owed_s(program))
            if instance.asker.targets and not instance.asker.asking:
                wants.append(instance.next_ask)
        return max(min(wants), now + DENSE_S / 4)

    def _pace_s(self, program: WatchedProgram) -> float:
        """Between two visits in peace."""
        if program.listening.known and not program.armed:
            return QUEUE_S
        return LIGHT_S if program.watched else SLOW_S

    def _arm(self, program: WatchedProgram) -> None:
        """Let the loop tell when somebody comes to a held socket; while our own question is under way it would tell of that."""
        asking = any(instance.asker.asking or instance.ready is None for instance in program.instances.values())
        if program.armed or asking or not program.listening.held:
            return
        program.armed = True
        for fd in program.listening.held:
            asyncio.get_running_loop().add_reader(fd, self._somebody_came, program)

    def _disarm(self, program: WatchedProgram) -> None:
        if program.armed:
            program.armed = False
            for fd in program.listening.held:
                asyncio.get_running_loop().remove_reader(fd)

    def _somebody_came(self, program: WatchedProgram) -> None:
        """Somebody waits to be accepted. Whether that lasts is looked at a little later, at most every QUEUE_S."""
        self._disarm(program)
        self._plan(program, time.monotonic() + QUEUE_S)

    def _dense_s(self, instance: WatchedInstance, now: float) -> float:
        lasting = instance.dense_since is not None and now - instance.dense_since > DENSE_FOR_S
        return LASTING_LOOK_S if lasting else DENSE_S

    # --- one visit --------------------------------------------------------------------------------------------------------------

    def _visit(self, program: WatchedProgram, now: float) -> None:
        self._look_at_queue(program, now)
        if self._wants_ages(program, now):
            self._look_at_connections(program, now)
        for instance in tuple(program.instances.values()):
            fresh = self._sample(program, instance, now)
            self._question(program, instance, now)
            if instance.ready is None:
                if how := readiness(program, instance, now):
                    self._answered(instance, now, how)
            elif fresh and not self._behind and self._wants_verdict(program, instance, now):
                self._judge(program, instance, now)

    def _look_at_queue(self, program: WatchedProgram, now: float) -> None:
        if not program.listening.known:
            return
        try:
            queue, _ = program.listening.queue()
        except OSError as problem:
            program.unsee(f"its accept queue cannot be looked at: {problem}", now)
            return
        program.queued = program.queued + 1 if queue else 0
        if not program.queued:
            self._arm(program)
        for instance in program.instances.values():
            if instance.queued is not bool(queue):
                instance.queued = bool(queue)
                instance.take(Queued(now, instance.queued))
            if queue:
                instance.next_ask = min(instance.next_ask, now)
        if program.queued >= 2:
            self._be_wary(program, now)

    def _wants_ages(self, program: WatchedProgram, now: float) -> bool:
        if not program.listening.known:
            return False
        age_s = math.inf if program.seen is None else now - program.seen.at
        if any(instance.dense_until > now for instance in program.instances.values()):
            return age_s >= DENSE_S / 2
        if any(instance.sight.owing or instance.told is Kind.BUSY for instance in program.instances.values()):
            return age_s >= max(_owed_s(program), OWED_SHARE * program.look_s) - SLACK_S
        asked = any(instance.asker.targets for instance in program.instances.values())
        calm_s = min(CALM_AGES_S, program.settings.hang.worker_s / 4) if asked else AGES_S
        return age_s >= calm_s - SLACK_S

    def _look_at_connections(self, program: WatchedProgram, now: float) -> None:
        instances = program.instances.values()
        pids = tuple(pid for instance in instances for pid in instance.sampler.pids)
        attribute = program.shared or any(instance.sight.owing for instance in instances)
        began = time.perf_counter()
        try:
            seen = follow(program.seen, program.listening.look(now, program.seen, pids, attribute=attribute))
            dropped = program.listening.dropped()
        except OSError as problem:
            program.unsee(f"its connections cannot be looked at: {problem}", now)
            return
        program.look_s = time.perf_counter() - began
        program.seen = seen
        odd = program.queued > 0 or any(instance.dense_until > now or instance.told not in _CALM for instance in instances)
        program.tally.look(seen, ours(), dropped, odd=odd)
        if any(client.untaken and now - client.since >= program.settings.hang.suspect_s for client in seen.clients):
            self._be_wary(program, now)
        for instance in instances:
            instance.take(SocketsSeen(now, seen, frozenset(instance.sampler.pids) if program.shared else None))

    def _be_wary(self, program: WatchedProgram, now: float) -> None:
        for instance in program.instances.values():
            instance.densely(now)

    def _sample(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> bool:
        """Sample its tree when that is due; whether it was."""
        dense = instance.dense_until > now or program.queued > 0
        unasked_start = instance.ready is None and not instance.asker.targets
        calm_s = LIGHT_S if program.watched else SLOW_S
        if instance.sight.owing:
            calm_s = _owed_s(program)
        every_s = DENSE_S / 2 if dense else QUEUE_S if unasked_start else calm_s
        if now - instance.sampled < every_s - SLACK_S:
            return False
        instance.sampled = now
        if now >= instance.next_find and not program.sockets:
            self._search(program, instance, now)
        if instance.ready is None:
            instance.sampler.refresh(now)
        owes = self._owed(program, instance, now)
        full = dense or instance.hot or bool(owes) or (unasked_start and bool(program.sockets))
        sample = instance.sampler.sample(now, full=full)
        if sample is None:
            return False
        instance.take(sample)
        self._see_workers(program, instance, sample, owes)
        if self._is_odd(instance, sample):
            instance.densely(now)
        return True

    def _owed(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> dict[int, list[Client]]:
        """What the processes beneath its leader have owed for long."""
        if program.seen is None or now - program.seen.at > SEEN_FOR_S:
            return {}
        return owed(program.seen, instance.sampler.pids[1:])

    def _see_workers(
        self, program: WatchedProgram, instance: WatchedInstance, sample: TreeSample, owes: dict[int, list[Client]]
    ) -> None:
        """Take up which workers owe an answer; near the instant at which one is proven hung, look densely."""
        if not owes or program.seen is None:
            instance.workers.forget()
        elif sample.full:
            instance.take(instance.workers.look(sample, owes, program.seen, program.listening))
        hang = program.settings.hang
        limits = [hang.worker_s] if hang.blocked_s is None else [hang.worker_s, max(hang.worker_s, hang.blocked_s)]
        quiet_s = [sample.at - worker.alive for worker in instance.sight.owing.seen]
        if any(abs(each - limit_s) <= NEAR_PROOF_S for each in quiet_s for limit_s in limits):
            instance.densely(sample.at, LIGHT_S)

    def _is_odd(self, instance: WatchedInstance, sample: TreeSample) -> bool:
        """A process that is stopped, or stays in an uninterruptible wait; one that has begun to run all the time; memory that jumps."""
        waits = frozenset(process.pid for process in sample.processes if process.state == "D")
        stays, instance.waits = bool(waits & instance.waits), waits
        hot = (instance.sampler.cpu_ratio(LIGHT_S) or 0.0) >= HOT_RATIO
        begins, instance.hot = hot and not instance.hot, hot
        stopped = any(process.state == "T" for process in sample.processes)
        return stopped or stays or begins or (instance.ready is not None and instance.sampler.growth(LIGHT_S) > LEAK_BYTES_PER_S)

    def _search(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> None:
        age_s = now - instance.spawned
        instance.next_find = instance.spawned + next((at for at in FIND_AT_S if at > age_s), age_s + FIND_S)
        search = asyncio.get_running_loop().create_task(self._find(program))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)

    async def _find(self, program: WatchedProgram) -> None:
        """Look for the sockets that the program opened by itself."""
        pids = tuple(pid for instance in program.instances.values() for pid in instance.sampler.pids)
        try:
            found = await self._lane.run(find, pids, deadline_s=FIND_DEADLINE_S)
        except (OSError, LaneError):
            found = Found()
        program.listening.add(found)
        program.take(program.rules(time.monotonic()))

    # --- questions --------------------------------------------------------------------------------------------------------------

    def _targets(self, program: WatchedProgram) -> tuple[Target, ...]:
        """What is asked of each instance. An address that is none was refused by the configuration's check: it is not asked."""
        try:
            held = [address_of(fd) for fd in program.sockets]
            return targets(program.settings, held, program.settings.launch.directory)
        except (ValueError, OSError):
            return ()

    def _question(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> None:
        asker, health = instance.asker, program.settings.health
        late = instance.sight.missing(now)
        if instance.ready is not None and late is not None and now - late >= LATE_S:
            instance.densely(now)
            self._has_room(instance, now)  # known by the time it is suspect
        if not asker.targets or asker.asking or now < instance.next_ask - SLACK_S:
            return
        starting = instance.ready is None
        if starting:
            instance.next_ask = now + _start_ask_s(now - instance.spawned)
        else:
            in_doubt = instance.sight.answers.passed > 0 and (instance.dense_until > now or bool(instance.sight.owing.stuck))
            instance.next_ask = now + (AGAIN_S if in_doubt else health.every_s)
        timeout_s = max(health.timeout_s, START_TIMEOUT_S) if starting and program.sockets else health.timeout_s
        self._disarm(program)
        if program.answerer is not None and any(_at_its_sockets(program, target) for target in asker.targets):
            program.answerer.stand_aside()
        asker.ask(now, timeout_s, lambda target: self._whose(program, instance, target))

    def _whose(self, program: WatchedProgram, instance: WatchedInstance, target: Target) -> Whose | None:
        """How to tell who accepted; None: it need not be told, or cannot be (a command, somebody else's port).

        A tcp question to one that is alone is answered by being accepted, which a held socket alone does not tell.
        """
        if not _at_its_sockets(program, target) or not (
            program.shared or instance.sight.owing.stuck or isinstance(target, TcpTarget)
        ):
            return None
        strange = 0

        def whose(local: tuple[str, int], peer: tuple[str, int]) -> bool | None:
            nonlocal strange
            owner = program.listening.accepted_by(local, peer, instance.sampler.pids)
            if owner == 0:
                return None
            if owner is not None:
                return owner not in instance.sight.owing.stuck  # a stuck worker's silence is its own: a sibling is asked instead
            others = tuple(pid for other in program.instances.values() for pid in other.sampler.refresh(time.monotonic()))
            others += () if program.answerer is None else (program.answerer.pid,)
            owner = program.listening.accepted_by(local, peer, others)
            if owner:
                return owner in instance.sampler.pids
            strange += 1
            if strange >= STRANGE_LIMIT:  # no news of anybody: a fault of our sight, and no silence of the server
                raise PermissionError(errno.EACCES, "who accepted cannot be seen")
            return None

        return whose

    def _answered(self, instance: WatchedInstance, now: float, how: str) -> None:
        if instance.ready is not None:
            return
        instance.take(Readied(now))
        instance.next_find = now
        instance.sampled = -math.inf
        if (look := self._looks.pop(instance.id, None)) is not None:
            look.cancel()
        self._tell_toll(instance.id.program, now)
        self._post(Answered(instance.id, how))

    # --- judging and telling ----------------------------------------------------------------------------------------------------

    def _wants_verdict(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> bool:
        """Whether a verdict could be another than the last one; what could make it so is odd, and looked at densely."""
        calm = instance.told is Kind.HEALTHY and instance.dense_until <= now and not instance.hot and not instance.sight.owing
        return not calm or program.settings.health.heartbeat or now - instance.judged >= CALM_JUDGE_S

    def _judge(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> None:
        finding = self._diagnose(program, instance, now)
        kind = finding.verdict.kind
        if kind in SUSPICIOUS:
            instance.densely(now)
            again_s = LASTING_LOOK_S
        else:
            again_s = math.inf if kind is Kind.HEALTHY else TELL_AGAIN_S
        news = kind is not instance.told or finding.verdict.scope is not instance.told_scope
        if news or now - instance.told_at >= again_s - SLACK_S:
            self._tell(instance, finding, now)
        for worker in finding.workers:
            self._tell_worker(program, instance, worker, now)

    def _tell_worker(self, program: WatchedProgram, instance: WatchedInstance, worker: WorkerFinding, now: float) -> None:
        """Post a worker that does nothing: each WORKER_TELL_S, and at once when it is proven hung."""
        worker_s, told_at = program.settings.hang.worker_s, instance.workers.told_at(worker.pid)
        proven = worker.verdict.kind in _PROOF and told_at < worker.verdict.since + worker_s
        if now - worker.since < worker_s * WORKER_TOLD_SHARE or (now - told_at < WORKER_TELL_S - SLACK_S and not proven):
            return
        ticks = instance.workers.start_ticks(worker.pid)
        if ticks is not None:
            instance.workers.tell(worker.pid, now)
            self._post(WorkerLooked(instance.id, worker.pid, ticks, now, worker.since, worker.verdict))

    def _diagnose(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> Finding:
        instance.judged = now
        self._look_at_host(now, instance)
        finding = instance.sight.judge(now)
        if (taken := instance.last.judged(finding, now, instance.spawned)) is not None:
            self._keep(taken)
        return finding

    def _fresh(self, program: WatchedProgram, instance: WatchedInstance, now: float) -> Finding:
        """Look at everything now, and judge."""
        instance.densely(now)
        if program.listening.known:
            self._look_at_connections(program, now)
        instance.sampled = now
        if (sample := instance.sampler.sample(now, full=True)) is not None:
            instance.take(sample)
        return self._diagnose(program, instance, now)

    def _tell_look(self, id: InstanceId) -> None:
        self._looks.pop(id, None)
        program, instance = self._named(id)
        if program is not None and instance is not None:
            now = time.monotonic()
            self._tell(instance, self._fresh(program, instance, now), now)

    def _tell(self, instance: WatchedInstance, finding: Finding, now: float) -> None:
        instance.note(finding.verdict, now)
        if finding.verdict.kind not in _CALM:
            self._tell_toll(instance.id.program, now, TOLL_S)
        room = finding.verdict.kind not in SUSPICIOUS or self._has_room(instance, now)
        self._post(Looked(instance.id, now, finding.since, finding.verdict, room))

    def _tell_toll(self, name: str, now: float, again_s: float = 0.0) -> None:
        """Post what customers have noticed, if that was not done within `again_s`."""
        program = self._programs[name]
        if now - program.tolled >= again_s and (toll := program.tally.take(program.listening.unseen)) is not None:
            program.tolled = now
            self._post(Noticed(name, toll))

    def _look_at_host(self, now: float, instance: WatchedInstance) -> None:
        """Only when something is odd: whoever answers needs no excuse."""
        if instance.dense_until > now or instance.sight.owing or instance.told not in _CALM:
            if self._host is None or now - self._host.at >= HOST_S:
                self._host = HostSeen(now, pressure.host())
            if instance.sight.host is not self._host:
                instance.take(self._host)

    # --- room for one more ------------------------------------------------------------------------------------------------------

    def _has_room(self, instance: WatchedInstance, now: float) -> bool:
        """Whether the host has the memory for another instance like this one. Pages that its processes share count for each of them
        until their parts are known: that takes a look in the lane."""
        if now - instance.room_at < ROOM_S:
            return instance.room
        newest = instance.sampler.newest
        rss_bytes = sum(process.rss_bytes for process in newest.processes) if newest is not None else 0
        instance.room, instance.room_at = pressure.available_bytes() >= ROOM_TIMES * rss_bytes, now
        if not instance.room:
            search = asyncio.get_running_loop().create_task(self._measure(instance))
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
        return instance.room

    async def _measure(self, instance: WatchedInstance) -> None:
        try:
            pss_bytes = await self._lane.run(pressure.pss_bytes, instance.sampler.pids, deadline_s=PSS_DEADLINE_S)
        except LaneError:
            return
        if pss_bytes is not None:
            instance.room = pressure.available_bytes() >= ROOM_TIMES * pss_bytes

    def _named(self, id: InstanceId) -> tuple[WatchedProgram | None, WatchedInstance | None]:
        program = self._programs.get(id.program)
        return program, program.instances.get(id) if program is not None else None


def _owed_s(program: WatchedProgram) -> float:
    """Between two looks while a worker owes an answer for long."""
    return min(LIGHT_S, program.settings.hang.worker_s / OWED_PARTS)


def _start_ask_s(age_s: float) -> float:
    return next(step_s for until_s, step_s in START_ASK_S if age_s < until_s)


def _at_its_sockets(program: WatchedProgram, target: Target) -> bool:
    """Whether the question is put where the program listens."""
    return _port_of(target) in program.listening.ports or _path_of(target) in program.listening.paths


def _path_of(target: Target) -> str:
    """The unix socket that is asked; "" for a command or a port."""
    return target.address if not isinstance(target, CommandTarget) and isinstance(target.address, str) else ""


def _port_of(target: Target) -> int:
    """The port that is asked; 0 for a command or a unix socket."""
    if isinstance(target, CommandTarget) or isinstance(target.address, str):
        return 0
    return target.address[1]
