"""The one event loop: event -> policy -> handover -> effects -> mechanisms. Wiring, no decisions.

The order within a turn is the promise behind a supervisor that may die at any instruction: the fleet that `step` returned stands in the
handover before any effect is done that a later supervisor would have to know of. Nothing that can block runs here: it goes into a lane,
and comes back as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, assert_never

from supervisor import __version__, config, host
from supervisor.alerts.channels import named
from supervisor.alerts.delivery import Delivery
from supervisor.alerts.message import ChannelError
from supervisor.alerts.reasons import HELD_S, Reasons
from supervisor.control.backend import Reading, Story
from supervisor.control.server import Server, ServerError
from supervisor.control.views import About, Channel, Vitals, plan
from supervisor.inheritance import Heir, instance_name, sockets_name
from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import launch, priority, reap, release
from supervisor.mechanism.adoption import Survivor
from supervisor.mechanism.apologist import Apologists
from supervisor.mechanism.cgroups import Groups
from supervisor.mechanism.maintenance import muted
from supervisor.mechanism.output import Outputs
from supervisor.mechanism.probes import attribute
from supervisor.mechanism.starter import Starter
from supervisor.mechanism.systemd import Systemd, inherited, open_guard, stop_s
from supervisor.mechanism.tape import Taken
from supervisor.mechanism.upgrade import TRIAL, TRIAL_S, try_new
from supervisor.mechanism.watch import Watcher
from supervisor.mechanism.witness import Witness
from supervisor.model import (
    Answered,
    Apologize,
    Applied,
    Candidate,
    Demote,
    Effect,
    Event,
    Exited,
    Fleet,
    Forget,
    Instance,
    InstanceId,
    Kill,
    KillWorker,
    Look,
    MaintenanceChanged,
    Note,
    Open,
    Preflighted,
    Program,
    Promote,
    RecordIncident,
    RecordRelease,
    Remember,
    RunPreflight,
    Settings,
    ShutdownAsked,
    Signal,
    Spared,
    Spawn,
    Spawned,
    SpawnFailed,
    State,
    StepAside,
    Switch,
    Switched,
    TakeEvidence,
    Tell,
    Wanted,
    Woke,
)
from supervisor.notify import EXIT_WITH, Listener, under_systemd
from supervisor.policy.adoption import adopt
from supervisor.policy.fleet import drained, step
from supervisor.records.handover import Handover, Record
from supervisor.records.incidents import read_incident, read_incidents
from supervisor.records.journal import Journal, JournalError, read_story
from supervisor.records.log import Log, utc

if TYPE_CHECKING:
    from supervisor.alerts.ping import Ping

PREFLIGHT_SLACK_S = 15.0  # behind the commands' own time: what it takes to start and end them
READ_S = 10.0  # a configuration with its includes, and the release of each directory
TOLD_KEPT = (
    20  # newest messages of a program that stand in the handover: far more than one turn has, and the journal is seconds behind
)
AHEAD_S = 1.0  # after an instance became ready: while many start at once, nothing more is started
FLUSH_S = 3.0  # at the end: what is written of the last lines, rows and messages
DEFECTS_KEPT = 20  # files about our own mistakes
EXIT_FAILED = 1
EXIT_CONFIG = 78
REHEARSE_LOOK_S = 3600.0  # between two looks whether a rehearsal of the channels is due; it is counted in days
MEND_S = 5.0  # until a configuration is read again that is bad while programs run
EXIT_AGAIN = 75  # guard and systemd start the next one at once
# What may be done before it stands in the handover: words are told later, and a process at its gate runs nothing, and ends with us.
HARMLESS = (Note, Tell, Remember, RecordRelease, RecordIncident, Spawn)
# On these other servers stop, reopen their logs or upgrade. Not handled, each would end us.
SLIPS = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LANES = ("preflight", "reap", "watch", "evidence", "record", "read", "discard", "switch")


class StartError(Exception):
    """The supervisor cannot run. The text is one sentence for people."""


class Daemon:
    """The running supervisor. Implements `control.backend.Backend`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Take the directories and the control socket. Blocks, before the loop does anything else. Raises StartError."""
        where = settings.daemon
        self._settings = settings
        self._environ = dict(environ)
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._fleet = Fleet()
        self._events: deque[Event] = deque()
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        self._maintenance: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[Callable[[Fleet], bool], asyncio.Future[bool]]] = []
        self._subscribers: list[Callable[[Story], None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._leaders: dict[int, InstanceId] = {}
        self._preflights: dict[str, launch.Preflight] = {}
        self._unwritten: dict[str, None] = {}  # programs that changed since their handover was written
        self._unwritable: set[str] = set()  # ... of which that did not succeed, and it was said
        self._told: dict[str, tuple[Tell, ...]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._defects = 0
        self._loop.set_exception_handler(self._defect)
        threading.excepthook = self._defect_in_a_lane
        self.ended = asyncio.Event()
        self._lanes = {name: Lane(name) for name in LANES}
        self._log = Log(sys.stderr, Lane("log"))
        self._systemd = Systemd(environ, self._loop.call_later)
        self._exit_with = environ.get(EXIT_WITH, "")
        if self._exit_with and self._exit_with not in {program.name for program in settings.programs}:
            raise StartError(f"--exit-with: {settings.path} has no program {self._exit_with!r}")
        self._guard = open_guard(environ)
        self._guarded = self._guard is not None or under_systemd(environ)
        self._server = Server(f"{where.runtime_dir}/control.sock", where.group, self)
        try:
            self._server.open()
            _make("state_dir", where.state_dir)
            _make("log_dir", where.log_dir)
            self._journal = Journal(where.state_dir, Lane("journal"), self._warn, keep_s=where.keep_s)
            self._boot = host.boot_id()
            self._handover = Handover(where.runtime_dir, self._boot, self._warn)
            self._notify = Listener(f"{where.runtime_dir}/notify.sock", self._discard_sent)
        except (ServerError, JournalError) as problem:
            raise StartError(str(problem)) from None
        except OSError as problem:
            name = problem.filename or where.runtime_dir
            raise StartError(f"cannot use {name}: {problem.strerror}; make it writable, or name another in [reviver]") from None
        self._groups = Groups(where.runtime_dir, environ, self._warn)
        self._reaper = reap.Reaper(self._loop, self.post, self._lanes["reap"], self._groups)
        self._starter = Starter(
            self._environ,
            self._notify.path,
            lives=self._lives,
            born=self._born,
            failed=lambda id, why, permanent: self.post(SpawnFailed(id, why, permanent)),
            held=self._held,
            groups=self._groups,
        )
        self._outputs = Outputs(where.log_dir, lambda program, text: self._warn(f"{program}: {text}"))
        self._witness = Witness(self._lanes["evidence"], self._outputs, where.state_dir, self.post, self._tell_story)
        self._watcher = Watcher(self.post, self._lanes["watch"], self.fleet, self._keep_recording)
        self._apologists = Apologists(self._starter.sockets, self._watcher.answers_in_place, self._warn)
        self._delivery = Delivery(self._journal, self._warn)
        self._reasons = Reasons(lambda tell, wall: self._delivery.tell(tell, wall, self._runbook(tell.program)))
        self._ping: Ping | None = None
        self._rehearsed_wall = self._journal.rehearsed_wall()
        self._loop.add_reader(self._notify.fileno(), self._hear_notify)

    # --- a life ---------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Supervise until a shutdown has come to its end."""
        launch.seal()
        launch.widen()
        for name, number in (("SIGTERM", signal.SIGTERM), ("SIGINT", signal.SIGINT)):
            self._loop.add_signal_handler(number, self._shut_down, name)
        for slip in SLIPS:
            self._loop.add_signal_handler(slip, self._slipped, slip.name)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self._guard is not None:
            self._loop.add_reader(self._guard, self._guard_died)
        self._use_channels()
        self._log.banner(self._banner())
        self._fleet = Fleet(
            incidents=self._journal.last_incident(),
            numbers=self._journal.highest(),
            causes=self._journal.causes(),
            releases=self._journal.releases(),
            open=self._journal.open_incidents(),
        )
        self._reading = self._loop.create_task(self._begin())  # a SIGHUP that comes meanwhile waits for it
        await self._reading
        await self.ended.wait()
        await self._close()

    async def _begin(self) -> None:
        """Adopt what lives, and take up the configuration. A stop that is asked for meanwhile is about all of it."""
        await self._adopt(await self._lanes["read"].run(self._handover.read_all, deadline_s=READ_S))
        places = await release.resolve_each([program.launch for program in self._settings.programs], self._warn)
        applied = replace(_candidates(self._settings, places), begins=True)
        await self._server.serve()
        for sentence in self._settings.unused:
            self._warn(sentence)
        for name, left in self._fleet.open.items():
            if name not in {program.name for program in self._settings.programs}:
                self._journal.abandoned(left.number, time.time())
        gc.collect()
        gc.freeze()  # what is there for good: a full collection in the middle of a restart takes 7 ms with it, none without it
        self.ended.clear()  # until now there was nothing that could be left to end
        self.post(applied)
        self._maintain()
        self._delivery.resume()
        self._rehearse()
        self._start_ping()
        self._systemd.ready(_programs(len(applied.programs)))
        self._beat()

    async def _adopt(self, records: tuple[Record, ...]) -> None:
        """Go on where a dead supervisor stopped: its instances live on, and become ours."""
        heir = Heir(self._fleet, self._settings.programs, self._boot, self._lanes["read"], self._warn)
        left = await heir.inherit(records, inherited(self._environ))
        for name, fds in left.unclaimed.items():
            self._systemd.unstore(name)
            for fd in fds:
                self._lanes["discard"].put(os.close, fd)
        self._fleet = adopt(self._fleet, [(record.program, record.at) for record in left.records], left.unborn)
        for name, fds in left.sockets.items():
            if fds:
                await self._starter.adopt(name, self._fleet.programs[name].build.launch.sockets, fds)
        for program in self._fleet.programs.values():
            for instance in program.instances:
                self._take_over(program, instance, left.living[instance.id])
        known = {self._reaper.group(instance.id) for program in self._fleet.programs.values() for instance in program.instances}
        for sentence in await self._lanes["reap"].run(self._groups.leftovers, known, deadline_s=READ_S):
            self._warn(sentence)
        for record in left.records:
            self._told[record.program.settings.name] = record.told
            for tell in record.told:
                self._delivery.tell(tell, self._wall(record.at), record.program.settings.runbook)

    def _take_over(self, program: Program, instance: Instance, found: Survivor) -> None:
        assert instance.pid is not None
        assert instance.start_ticks is not None
        if found.output >= 0:
            self._outputs.attach(instance.id, found.output, program.settings.output)
        self._leaders[instance.pid] = instance.id
        self._reaper.adopt(instance.id, instance.pid, instance.start_ticks, found.pidfd)
        limits = program.build.launch.limits
        self._lanes["reap"].put(self._groups.limit, instance.id.program, instance.pid, instance.start_ticks, limits)
        if found.pidfd >= 0:
            self._watch(instance.id, instance.pid, instance.start_ticks, program)
            if instance.ready is not None:
                self._watcher.resume(instance.id)
        how = f"goes on, pid {instance.pid}" if found.pidfd >= 0 else f"pid {instance.pid} ended meanwhile"
        self._tell_story(Note(str(instance.id), "instance.adopted", f"adopted from a supervisor that died: {how}"))

    async def _close(self) -> None:
        """All that is wanted has happened: write what waits, and give everything back."""
        left = [str(instance.id) for program in self._fleet.programs.values() for instance in program.instances]
        text = f"ended, although {', '.join(left)} could not be killed" if left else "ended: all programs are stopped"
        self._tell_story(Note("reviver", "daemon.stopped", text))
        self._systemd.status("writes its last records")
        self._loop.remove_reader(self._notify.fileno())
        self._let_go_of_guard()
        for timer in (self._timer, self._maintenance):
            if timer is not None:
                timer.cancel()
        for preflight in self._preflights.values():
            preflight.end()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=FLUSH_S)
        await self._server.close()
        self._apologists.close()
        self._watcher.close()
        if self._ping is not None:
            self._ping.end()
        self._lanes["record"].drain(FLUSH_S)
        self._outputs.close(FLUSH_S)
        self._delivery.close(FLUSH_S)
        self._reaper.close()
        self._starter.close(FLUSH_S)
        self._lanes["reap"].put(self._groups.close)
        self._lanes["discard"].put(self._notify.close)  # with it go the descriptors of messages that nobody read
        self._lanes["discard"].drain(FLUSH_S)
        for name, program in self._fleet.programs.items():
            if not program.instances:
                self._handover.drop(name)
        self._handover.close()
        self._journal.close(FLUSH_S)
        self._log.close(FLUSH_S)
        self._lanes["reap"].drain(FLUSH_S)

    def _start_ping(self) -> None:
        if url := self._settings.daemon.ping:
            from supervisor.alerts.ping import Ping  # for its memory: few use it

            try:
                self._ping = Ping(url, self._warn)
            except ChannelError as problem:
                self._warn(str(problem))

    def _rehearse(self) -> None:
        """Each hour: send the rehearsal of the channels that is due."""
        self._loop.call_later(REHEARSE_LOOK_S, self._rehearse)
        every_s, wall = self._settings.alerts.rehearse_s, time.time()
        if every_s is not None and (self._rehearsed_wall is None or wall - self._rehearsed_wall >= every_s):
            self._rehearsed_wall = wall
            self._delivery.rehearse(wall)

    def _use_channels(self) -> None:
        on_call = [channel for step in self._settings.escalation for channel in step.notify]
        settings = self._settings
        option = config.option(settings.path)
        self._delivery.use(on_call, settings.stakeholders.notify, settings.alerts.secret_file, option)

    def _banner(self) -> str:
        programs = _programs(len(self._settings.programs))
        where = self._settings.daemon
        guard = "unguarded" if not self._guarded else "kept by systemd" if self._guard is None else "kept by its guard"
        return f"reviver {__version__} · {self._settings.path} · {programs} · {guard} · control socket {where.runtime_dir}/control.sock"

    def _guard_died(self) -> None:
        """We go on without it; one of us is enough."""
        self._let_go_of_guard()
        self._guarded = False
        self._warn(
            "the guard was killed: Reviver goes on, but nobody would start it anew if it died; run `reviver run` again when it suits"
        )

    def _let_go_of_guard(self) -> None:
        if self._guard is not None:
            self._loop.remove_reader(self._guard)
            os.close(self._guard)
            self._guard = None

    def _shut_down(self, name: str) -> None:
        text = "kills what is left" if self._fleet.draining else "stops all programs; a second one kills what is left"
        self._tell_story(Note("reviver", "daemon.stop_asked", f"{name}: {text}"))
        programs = [program.settings for program in self._fleet.programs.values()] or self._settings.programs  # not adopted yet
        self._systemd.stopping(stop_s(programs), "stops all programs")
        self.post(ShutdownAsked())

    def _slipped(self, name: str) -> None:
        text = f"{name} changed nothing: SIGTERM stops all programs, SIGHUP applies the configuration, logs are rotated without a signal"
        self._tell_story(Note("reviver", "signal.ignored", text))

    def _hang_up(self) -> None:
        """Apply the configuration as it is now; asked while it is being read, once more afterwards."""
        before = self._reading
        self._reading = self._loop.create_task(self._apply_own(before))

    async def _apply_own(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._systemd.reloading()
        try:
            self.take_up(await self.read(None))
        except config.ConfigErrors as problem:
            self._refuse(*map(str, problem.faults))
        except LaneError as stuck:
            self._refuse(f"it cannot be read: {stuck}")
        finally:
            self._systemd.ready(_programs(len(self._fleet.programs)))

    def _refuse(self, *reasons: str) -> None:
        self._tell_story(
            Note("reviver", "config.refused", "refused: SIGHUP changed nothing, what runs goes on; the configuration says:")
        )
        for reason in reasons:
            self._tell_story(Note("reviver", "config.refused", reason))

    def _beat(self) -> None:
        """The watchdog hears of us only after a turn that decided; where nothing happens, one is taken for it."""
        if self._systemd.interval_s is not None:
            self.post(Woke())
            self._loop.call_later(self._systemd.interval_s, self._beat)

    def _defect(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody expected is ours: keep it for whoever mends it, say so in one sentence, go on keeping stores alive."""
        problem = context.get("exception")
        lines = traceback.format_exception(problem) if isinstance(problem, BaseException) else [str(context.get("message"))]
        path = Path(self._settings.daemon.state_dir) / f"defect-{self._defects % DEFECTS_KEPT}.txt"
        self._defects += 1
        self._lanes["read"].put(_keep, path, f"reviver {__version__}\n{''.join(lines)}")
        self._warn(f"a defect of Reviver's own: {lines[-1].strip()}; it goes on; please report {path}")

    def _defect_in_a_lane(self, thread: threading.ExceptHookArgs) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._defect, self._loop, {"exception": thread.exc_value})

    # --- a turn ---------------------------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Take an event up, now; one that comes while another is taken up waits for its turn.

        Words come after deeds: a customer may wait for what is done, and nobody for what is told of it.
        """
        self._events.append(event)
        if self._turning:
            return
        self._turning = True
        try:
            told = []
            while self._events:
                told.append(self._turn(self._events.popleft()))
            self._hand_over(told[-1][0])
            for now, event, effects, before in told:
                self._aftermath(event, before)
                self._tell(now, event, effects)
        finally:
            self._turning = False
        for predicate, answer in self._waiters:
            if not answer.done() and predicate(self._fleet):
                answer.set_result(True)
        self._systemd.alive()
        if drained(self._fleet):
            self.ended.set()

    def _turn(self, event: Event) -> tuple[float, Event, tuple[Effect, ...], Mapping[str, Program]]:
        """Decide and do; what is to be told of it comes back, with the programs as they were."""
        before, now = self._fleet.programs, time.monotonic()
        self._fleet, effects, wake = step(self._fleet, event, now)
        for effect in effects:
            if isinstance(effect, Tell):
                self._told[effect.program] = (*self._told.get(effect.program, ()), effect)[-TOLD_KEPT:]
        self._unwritten |= dict.fromkeys(self._fleet.changed)
        if not all(isinstance(effect, HARMLESS) for effect in effects):
            self._hand_over(now)
        if isinstance(event, Exited) and not self._lives(event.id):
            if not _left(before.get(event.id.program), event.id):
                self._watcher.died(event.id)
            self._watcher.forget(event.id)  # before its successor is watched: who is alone is asked in another way
        for effect in effects:
            self._perform(effect)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wake is None else self._loop.call_at(wake, self.post, Woke())
        return now, event, effects, before

    def _tell(self, now: float, event: Event, effects: tuple[Effect, ...]) -> None:
        """Write down what happened and what was done, and say it."""
        if not isinstance(event, Woke) or effects:
            self._journal.happened(now, event, effects)
        for effect in effects:
            if isinstance(effect, Note):
                self._tell_story(effect, now)
            elif isinstance(effect, Tell):
                self._reasons.tell(effect, self._wall(now), event.id if isinstance(event, Exited) else None)

    def _hand_over(self, now: float) -> None:
        """Write down what changed, so that a later supervisor can go on from here."""
        names, self._unwritten = self._unwritten, {}
        for name in names:
            if (program := self._fleet.programs.get(name)) is None:
                continue
            if self._fleet.draining and not program.instances and name not in self._told:
                self._handover.drop(name)  # nobody goes on with it
                continue
            problem = self._handover.write(program, now, self._told.get(name, ()))
            if problem and name not in self._unwritable:
                self._unwritable.add(name)
                self._warn(problem)
            elif not problem:
                self._unwritable.discard(name)

    def _aftermath(self, event: Event, before: Mapping[str, Program]) -> None:
        """What an event means for the mechanisms themselves; after the deeds, for a customer may wait for those."""
        match event:
            case Exited() if not self._lives(event.id):
                program = self._fleet.programs.get(event.id.program)
                if program is not None and program.wanted is Wanted.DOWN and not program.instances:
                    self._starter.drop(event.id.program)
                if not self._fleet.draining:  # whoever keeps them closes all when we have ended
                    self._systemd.unstore(instance_name(event.id))
                self._bury(event, before.get(event.id.program))
                self._starter.unborn(event.id)
                if event.id.program == self._exit_with:
                    self._end_with(event, program)
            case Answered():
                self._loop.call_later(AHEAD_S, self._look_ahead, event.id.program)
            case ShutdownAsked():
                self._starter.drain()
            case Applied():
                for candidate in event.programs:
                    self._watcher.update(candidate.settings)
                    self._apologists.update(candidate.settings)
                    self._outputs.update(candidate.settings.name, candidate.settings.output)
            case _:
                pass

    def _end_with(self, event: Exited, program: Program | None) -> None:
        """`run --exit-with`: its last exit code is the guard's, and when it has ended for good all else is stopped."""
        status = 1 if event.status is None else event.status
        self._systemd.exits(status if status >= 0 else 128 - status)
        if program is not None and program.resting and not program.instances and not self._fleet.draining:
            self._shut_down(f"{self._exit_with} ended ({event.words})")

    def _bury(self, event: Exited, program: Program | None) -> None:
        """Of one that ended by itself it is found out why; the others were asked to."""
        dead = None if program is None else next((i for i in program.instances if i.id == event.id), None)
        if dead is not None and dead.pid is not None:
            self._leaders.pop(dead.pid, None)
        if program is not None and dead is not None and dead.state in (State.STARTING, State.READY, State.SUSPECT):
            self._reasons.sought(event.id)
            self._job(self._find_reason(program, dead, event))
        else:
            self._witness.forget(event.id)

    async def _find_reason(self, program: Program, dead: Instance, event: Exited) -> None:
        """Why it ended; messages wait for it, but not for long."""
        late = self._loop.call_later(HELD_S, self._reasons.found, event.id, event.words, "")
        reason = await self._witness.ended(program, dead, event.words)
        late.cancel()
        self._reasons.found(event.id, event.words, reason)

    def _find(self, id: InstanceId) -> tuple[Program, Instance]:
        program = self._fleet.programs[id.program]
        return program, next(i for i in program.instances if i.id == id)

    def _keep_recording(self, taken: Taken) -> None:
        """Write down what was seen around a bad verdict, beside the loop."""
        self._lanes["record"].put(self._write_recording, taken, self._wall(0.0))

    def _write_recording(self, taken: Taken, wall_s: float) -> None:
        """In the lane."""
        from supervisor.records import recordings  # for its memory: in peace nothing is written

        where, name = self._settings.daemon, taken.id.program
        if name not in taken.fleet.programs:
            return
        head = recordings.Head(
            incident=taken.incident,
            program=name,
            number=taken.id.number,
            began=taken.began,
            ended=str(taken.ended),
            fleet=taken.fleet,
            wall_s=wall_s,
            boot=self._boot,
            version=__version__,
        )
        try:
            recordings.write(where.state_dir, recordings.Kept(head, taken.recording), where.keep_s)
        except OSError as problem:
            self._warn(
                f"the recording of {taken.id} could not be kept in {where.state_dir}: {problem.strerror}; nothing else is lost"
            )

    def _lives(self, id: InstanceId) -> bool:
        program = self._fleet.programs.get(id.program)
        return program is not None and any(instance.id == id for instance in program.instances)

    def _perform(self, effect: Effect) -> None:
        """Do one effect, or have it done: each answers with at most one event."""
        match effect:
            case Note() | Tell() | Remember() | RecordRelease() | RecordIncident():
                pass  # words: told, and taken by the journal, when all is done
            case Spawn():
                self._starter.spawn(effect, self._fleet.programs[effect.id.program].settings.output.to)
            case Open():
                self._open(effect.id)
            case Signal():
                self._reaper.signal(effect.id, effect.signal)
            case Kill():
                self._kill(effect)
            case KillWorker():
                self._reaper.signal_worker(effect.id, effect.pid, effect.start_ticks, effect.signal)
            case Demote():
                self._share(effect.id, priority.DEMOTED)
            case Promote():
                self._share(effect.id, priority.NORMAL)
            case Look():
                self._watcher.look(effect.id)
            case TakeEvidence():
                self._job(self._witness.suspect(*self._find(effect.id)))
            case Apologize():
                self._apologists.begin(self._fleet.programs[effect.program].settings)
            case StepAside():
                self._apologists.end(effect.program)
            case RunPreflight():
                self._job(self._preflight(effect))
            case Switch():
                self._job(self._switch(effect))
            case Forget():
                self._apologists.end(effect.program)
                self._starter.release(effect.program)
                self._handover.drop(effect.program)
                self._told.pop(effect.program, None)
            case _:
                assert_never(effect)

    def _job(self, work: Coroutine[None, None, None]) -> None:
        """Let an effect that takes time take it beside the loop's other work."""
        task = self._loop.create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # --- effects --------------------------------------------------------------------------------------------------------------

    def _born(self, child: launch.Child) -> None:
        self._leaders[child.pid] = child.id
        self._reaper.watch(child)
        self.post(Spawned(child.id, child.pid, child.start_ticks))

    def _look_ahead(self, name: str) -> None:
        """A while after an instance became ready: have the next one wait at its gate."""
        program = self._fleet.programs.get(name)
        if program is not None and program.instances and not self._fleet.draining:
            health = program.settings.health
            nobody = Spawn(InstanceId(name, 0), program.build, health.every_s if health.heartbeat else None)
            self._starter.prepare(nobody, program.settings.output.to)

    def _open(self, id: InstanceId) -> None:
        program, instance = self._find(id)
        child = self._starter.open(id)
        if child.output >= 0:
            self._outputs.attach(id, child.output, program.settings.output)
        assert instance.pid is not None
        assert instance.start_ticks is not None
        self._systemd.store(instance_name(id), (child.pidfd, *([child.output] if child.output >= 0 else [])))
        self._watch(id, instance.pid, instance.start_ticks, program)

    def _watch(self, id: InstanceId, pid: int, start_ticks: int, program: Program) -> None:
        self._watcher.watch(id, pid, start_ticks, program.settings, self._starter.sockets(id.program))
        self._witness.born(id, pid)

    def _held(self, program: str, fds: tuple[int, ...]) -> None:
        """Its sockets outlive us with the service manager, and whoever answers at them answers at these."""
        self._apologists.held(program)
        self._systemd.unstore(sockets_name(program))
        if fds:
            self._systemd.store(sockets_name(program), fds)

    def _share(self, id: InstanceId, nice: int) -> None:
        for pid, leader in self._leaders.items():
            if leader == id:
                priority.set_share(pid, nice, self._reaper.group(id))

    def _kill(self, effect: Kill) -> None:
        if effect.unmoved_since is None:
            self._watcher.condemned(effect.id)
            self._reaper.kill(effect.id)
        else:
            self._job(self._kill_if_unmoved(effect, effect.unmoved_since))

    async def _kill_if_unmoved(self, effect: Kill, since: float) -> None:
        """A kill by a verdict: the last evidence, then one more look: what moved meanwhile is not killed."""
        await self._witness.condemned(*self._find(effect.id))
        if self._lives(effect.id):
            contradiction = self._watcher.unmoved(effect.id, since)
            if contradiction is not None:
                self.post(Spared(contradiction))
                return
        self._reaper.kill(effect.id)

    async def _preflight(self, effect: RunPreflight) -> None:
        preflight = launch.Preflight(effect, self._environ)
        self._preflights[effect.program] = preflight
        try:
            problem = await self._lanes["preflight"].run(preflight.run, deadline_s=effect.timeout_s + PREFLIGHT_SLACK_S)
        except LaneError as stuck:
            problem = str(stuck)
        finally:
            self._preflights.pop(effect.program, None)
            preflight.close()
        self.post(Preflighted(effect.program, effect.build.number, problem))

    async def _switch(self, effect: Switch) -> None:
        call = (release.switch, effect.link, effect.directory)
        try:
            problem = await self._lanes["switch"].run(*call, deadline_s=release.SWITCH_S)
        except LaneError as stuck:
            problem = f"{effect.link} does not answer (a dead mount?): {stuck}"
        self.post(Switched(effect.program, effect.directory, problem))

    # --- what mechanisms say --------------------------------------------------------------------------------------------------

    def _hear_notify(self) -> None:
        for message in self._notify.receive():
            id = attribute(message.pid, self._leaders)
            if id is not None:
                self._watcher.heard(id, message.state)

    def _discard_sent(self, fd: int) -> None:
        """Close what somebody sent along with a message: never on the loop, as that may take for ever."""
        if not self._lanes["discard"].put(os.close, fd) and self._loop.remove_reader(self._notify.fileno()):
            self._notify.deafen()
            self._warn(
                f"somebody floods {self._notify.path} with descriptors: programs cannot say how they are until the next start"
            )

    def _tell_story(self, note: Note, at: float | None = None) -> None:
        mono = time.monotonic() if at is None else at
        wall = self._wall(mono)
        self._log.note(wall, note)
        self._journal.note(wall, mono, note)
        if not self._subscribers:
            return
        story = {"time": utc(wall), "subject": note.subject, "event": note.name, "text": note.text}
        for callback in self._subscribers:
            callback(story)

    def _warn(self, text: str) -> None:
        """A sentence about Reviver itself. From any thread."""
        self._log.warn(text)

    def _runbook(self, name: str) -> str:
        program = self._fleet.programs.get(name)
        return "" if program is None else program.settings.runbook

    def _wall(self, instant: float) -> float:
        return time.time() - time.monotonic() + instant

    # --- control.backend.Backend ----------------------------------------------------------------------------------------------

    def about(self) -> About:
        channels = tuple(Channel(each.name, each.waiting, each.failing_wall, each.problem) for each in self._delivery.states())
        return About(os.getpid(), __version__, self._started, self._settings.path, self._guarded, self._settings.daemon, channels)

    def fleet(self) -> Fleet:
        return self._fleet

    def vitals(self, id: InstanceId) -> Vitals | None:
        found = self._watcher.vitals(id)
        return None if found is None else Vitals(found.cpu_ratio, found.rss_bytes, found.workers)

    async def until(self, predicate: Callable[[Fleet], bool], deadline_s: float) -> bool:
        if predicate(self._fleet):
            return True
        answer: asyncio.Future[bool] = self._loop.create_future()
        waiter = (predicate, answer)
        self._waiters.append(waiter)
        try:
            return await asyncio.wait_for(answer, deadline_s)
        except TimeoutError:
            return False
        finally:
            self._waiters.remove(waiter)

    async def read(self, path: str | None) -> Reading:
        return await self._lanes["read"].run(_read, path or self._settings.path, self._environ, deadline_s=READ_S)

    def find(self, path: str) -> Awaitable[str]:
        return self._lanes["switch"].run(release.find, path, deadline_s=release.SWITCH_S)

    def try_new(self) -> Awaitable[str]:
        return self._lanes["read"].run(try_new, self._settings.path, self._environ, deadline_s=TRIAL_S)

    async def try_channels(self) -> list[dict[str, Any]]:
        from supervisor.alerts.trial import try_channels  # for its memory: it is for one moment

        outcomes = await try_channels(self._settings, self._warn)
        return [{"channel": each.channel, "problem": each.problem, "took_s": round(each.took_s, 3)} for each in outcomes]

    def give_way(self, version: str) -> NoReturn:
        """What SIGKILL does to us, but that what waits to be written is: the handover is as of the last turn, and no other comes."""
        self._tell_story(Note("reviver", "daemon.upgraded", f"gives way to reviver {version}; all programs go on"))
        self._outputs.close(FLUSH_S)
        self._delivery.close(FLUSH_S)
        self._journal.close(FLUSH_S)
        self._log.close(FLUSH_S)
        os._exit(EXIT_AGAIN)

    def take_up(self, reading: Reading) -> None:
        fixed = self._settings.daemon
        if reading.settings.daemon != fixed:
            self._warn("a change of [reviver] takes effect when the supervisor is started anew")
        steps = plan(self._fleet, reading.applied, fixed, reading.settings.daemon)["programs"]
        moving = ", ".join(f"{step['name']} ({step['action']})" for step in steps if step["action"] != "none")
        self._tell_story(Note("reviver", "config.applied", f"{reading.settings.path} taken up: {moving or 'no program changes'}"))
        self._settings = replace(reading.settings, daemon=fixed)
        self._use_channels()
        self.post(reading.applied)
        self._maintain()

    def _maintain(self) -> None:
        """Say which programs have a maintenance window open, now and whenever that changes."""
        if self._maintenance is not None:
            self._maintenance.cancel()
            self._maintenance = None
        windows = self._settings.maintenance
        programs, again_s = muted(windows, tuple(self._fleet.programs), time.time())
        if programs != tuple(name for name, program in self._fleet.programs.items() if program.muted):
            self.post(MaintenanceChanged(programs))
        if windows:
            self._maintenance = self._loop.call_later(again_s, self._maintain)

    async def events(self, limit: int, program: str) -> list[Story]:
        call = (read_story, self._settings.daemon.state_dir, 0, limit, program or None)
        lines = await self._lanes["read"].run(*call, deadline_s=READ_S)
        return [{"time": utc(line.wall), "subject": line.subject, "event": line.name, "text": line.text} for line in lines]

    async def incidents(self, limit: int, program: str) -> list[dict[str, Any]]:
        call = (read_incidents, self._settings.daemon.state_dir, limit, program)
        return await self._lanes["read"].run(*call, deadline_s=READ_S)

    async def incident(self, number: int) -> dict[str, Any] | None:
        call = (read_incident, self._settings.daemon.state_dir, number, named)
        return await self._lanes["read"].run(*call, deadline_s=READ_S)

    def subscribe(self, callback: Callable[[Story], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)


def _left(program: Program | None, id: InstanceId) -> bool:
    """Whether it ended as it was asked to: then it finished what it had begun."""
    return program is not None and any(i.id == id and i.state is State.RETIRING for i in program.instances)


def _candidates(settings: Settings, places: list[release.Place]) -> Applied:
    """The programs of a configuration, each with the release and the directory that the disk names now."""
    programs = zip(settings.programs, places, strict=True)
    candidates = tuple(Candidate(program, *place) for program, place in programs)
    return Applied(candidates, settings.escalation, stakeholders=settings.stakeholders)


def _read(path: str, environ: Mapping[str, str]) -> Reading:
    settings = config.load(Path(path), environ)
    return Reading(settings, _candidates(settings, [release.resolve(program.launch) for program in settings.programs]))


def _make(key: str, path: str) -> None:
    """Make one of our folders. Raises StartError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as problem:
        reason = (
            "a file is in its place"
            if isinstance(problem, FileExistsError | NotADirectoryError)
            else (problem.strerror or "").lower()
        )
        raise StartError(f"cannot make {path}: {reason}; mend that, or name another {key} in [reviver]") from None


def _keep(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # the sentence in the log says what is known then
        path.write_text(text)


def _programs(count: int) -> str:
    return "1 program" if count == 1 else f"{count} programs"


def main(arguments: Sequence[str]) -> int:
    """Run the supervisor with this configuration, or the first one on the search path; the answer is the exit code (0, 1, 78).

    arguments  [CONFIG]; TRIAL behind it only says our version, once all is imported and the configuration was read
    """
    try:
        settings = config.load(config.find(arguments[0] if arguments else None, os.environ), os.environ)
    except config.ConfigErrors as faults:
        count = f"{len(faults.faults)} faults" if len(faults.faults) > 1 else "1 fault"
        lines = "".join(f"  {fault}\n" for fault in faults.faults)
        sys.stderr.write(f"reviver: the configuration has {count}\n{lines}")
        if not inherited(os.environ):
            return EXIT_CONFIG
        time.sleep(MEND_S)  # a daemon before us left programs that run: systemd must not give up on them
        return EXIT_FAILED
    if TRIAL in arguments[1:]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    try:
        asyncio.run(_live(settings))
    except StartError as problem:
        sys.stderr.write(f"reviver: {problem}\n")
        return EXIT_FAILED
    return 0


async def _live(settings: Settings) -> None:
    await Daemon(settings, os.environ).run()
