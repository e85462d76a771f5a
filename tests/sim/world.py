"""One world: the supervisor's turn, its effects on servers, deaths, and the way from faults to calm.

A turn is what the daemon does: event, step, record, effects. Everything the mechanisms answer comes as an event of its own, later.
The supervisor is told nothing that a real one could not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from random import Random

import msgspec

from supervisor.model import (
    Answered,
    Apologize,
    Applied,
    Candidate,
    Demote,
    Effect,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    Forget,
    Incident,
    Instance,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Known,
    Look,
    Looked,
    MaintenanceChanged,
    Note,
    Open,
    Preflighted,
    ProgramSettings,
    Promote,
    RecordIncident,
    RecordRelease,
    Release,
    Remember,
    RunPreflight,
    ShutdownAsked,
    Signal,
    Spared,
    Spawn,
    Spawned,
    SpawnFailed,
    StepAside,
    StopAsked,
    Switch,
    Switched,
    TakeEvidence,
    Tell,
    Verdict,
    Woke,
    WorkerLooked,
)
from supervisor.policy import fleet as policy
from supervisor.policy.adoption import adopt
from supervisor.policy.releases import KEPT
from tests.sim.agenda import Agenda, Processors
from tests.sim.invariants import EPSILON_S, SUSPICIOUS, Ledger, Turn, broken_rule, touched
from tests.sim.plan import LINKS, Behaviour, Plan, ProgramPlan
from tests.sim.servers import Phase, Request, Server, Site, Sort
from tests.sim.watcher import RESTLESS, TICK_S, look, look_at_workers

Step = Callable[[Fleet, Event, float], tuple[Fleet, tuple[Effect, ...], float | None]]

STOP_SLACK_S = 5.0  # beyond the grace
CRASHES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)  # what a defect of policy raises
TURNS_AT_ONCE = 400  # turns at one instant: more is a supervisor that spins
STORY_LINES = 400
EFFECT = "  ->"  # how an effect begins in the story
QUIET_S = 30.0  # of nothing to do, after calm
QUIET_TURNS = 6  # a supervisor that wakes more often then, polls
WORKERS_S = 1.0  # between two looks at workers
WRITTEN_S = 0.02  # until what is remembered is on disk

Memory = dict[str, dict[str, Known]]


Written = Mapping[str, float]


def reborn(record: Fleet, written: Written, unborn: Collection[InstanceId], memory: Memory) -> Fleet:
    """What a new supervisor starts from: what the record says, and what it remembers of programs that are not in it."""
    started = {name: program.started for name, program in record.programs.items()}
    causes = {name: tuple(known.values()) for name, known in memory.items()}
    known = Fleet(incidents=record.incidents, numbers={**record.numbers, **started}, causes=causes, open=record.open)
    return adopt(known, [(program, written[name]) for name, program in record.programs.items()], unborn)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is simulated: the real one, or one with a planted defect."""

    step: Step = policy.step
    drained: Callable[[Fleet], bool] = policy.drained
    reborn: Callable[[Fleet, Written, Collection[InstanceId], Memory], Fleet] = reborn


@dataclass(slots=True)
class Config:
    """What the operator's file says of one program now."""

    settings: ProgramSettings
    directory: str  # where it is a symlink: what that names
    linked: bool = False


class World:
    """Everything of one seed."""

    def __init__(self, plan: Plan, policy: Policy) -> None:
        self.plan = plan
        self.random = Random(plan.seed * 7919 + 1)
        self.agenda = Agenda()
        self.processors = Processors(self.agenda, plan.cores)
        self.ledger = Ledger()
        self.sites: dict[str, Site] = {}
        self.programs: dict[str, ProgramPlan] = {p.settings.name: p for p in (*plan.programs, *plan.spares)}
        self.behaviours: dict[str, Behaviour] = {p.directory: p.behaviour for p in self.programs.values()}
        self.config: dict[str, Config] = {p.settings.name: Config(p.settings, p.directory, p.linked) for p in plan.programs}
        self.fleet = Fleet()
        self.record = Fleet()
        self.wake: float | None = None
        self.calm = False
        self.sick = False
        self.room = True  # in the host's memory
        self._unwritten: deque[Remember | RecordIncident] = deque()
        self._recorded: dict[str, float] = {}  # when each program was recorded last
        self._unborn: set[InstanceId] = set()  # whose gate never opened: the supervisor died
        self.memory: Memory = {}  # what the journal holds of causes
        self.history: dict[str, dict[int, Release]] = {}  # and of releases
        self.incidents: dict[str, Incident] = {}  # and of incidents that are not over
        self.muted: tuple[str, ...] = ()
        self.blind_until = 0.0
        self.turns = 0
        self.problem = ""  # which rule does not hold, and how
        self.story: deque[tuple[float, str, object]] = deque(maxlen=STORY_LINES)
        self._policy = policy
        self._life = 0  # of the supervisor: what was on its way to an earlier one is lost
        self._up = False
        self._pid = 100
        self._at_once = 0
        self._last_turn = 0.0
        self._news: dict[InstanceId, object] = {}  # the kind of the last look that was sent
        self._shutdown: float | None = None
        for name, program in self.programs.items():
            self.sites[name] = self._site(name, program)
        self._begin()
        self.agenda.after(TICK_S, self._watch)
        if any(b.workers for b in self.behaviours.values()):
            self.agenda.after(WORKERS_S, self._watch_workers)

    # --- the supervisor

    @property
    def up(self) -> bool:
        """Whether a supervisor lives."""
        return self._up

    def has(self, kind: str) -> bool:
        """Whether this world knows that kind of mischief, and it is not calm yet."""
        return not self.calm and kind in self.plan.mischief

    def chance(self, kind: str, probability: float) -> bool:
        return self.has(kind) and self.random.random() < probability

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(Candidate(c.settings, release_of(c.directory), c.directory, c.linked) for c in self.config.values())

    def apply(self, *, begins: bool = False) -> None:
        self.post(Applied(self.candidates(), self.plan.escalation, begins))

    def post(self, event: Event) -> None:
        """One turn of the supervisor: step, record, effects."""
        if not self._up or self.problem:
            return
        now = self.agenda.now
        if now != self._last_turn:
            self._last_turn, self._at_once = now, 0
        self._at_once += 1
        self.turns += 1
        before = self.fleet
        self.tell("", event)
        try:
            after, effects, wake = self._policy.step(before, event, now)
        except CRASHES as error:
            self.fail(f"step raised {error!r}")
            return
        self.fleet = after
        for effect in effects:
            self.tell(EFFECT, effect)
        if self._at_once > TURNS_AT_ONCE:
            self.fail(f"it spins: {self._at_once} turns at one instant")
        changed = touched(before.programs, after.programs)
        turn = Turn(before, event, after, effects, wake, now, self._policy.step, changed)
        if problem := broken_rule(turn, self.ledger, self.sites):
            self.fail(problem)
        self.record = after
        self._recorded |= dict.fromkeys(changed, now)
        life = self._life
        for effect in effects:
            if self.chance("death", 0.002):
                self.die()
            if self._life != life:
                return
            self._perform(effect)
        self._arm(wake)
        if self._policy.drained(after):
            self._ended()
        elif after.draining and not any(p.instances for p in after.programs.values()):
            self.fail("nothing lives, and the shutdown is not over")

    def maintain(self, programs: tuple[str, ...]) -> None:
        """The clock says that maintenance windows of these programs are open, and no other."""
        self.muted = programs
        if any(program.muted != (name in programs) for name, program in self.fleet.programs.items()):
            self.post(MaintenanceChanged(programs))

    def send(self, event: Event, delay_s: float) -> None:
        """An event on its way; it is lost when the supervisor dies before it arrives."""
        self.agenda.after(delay_s, self._arrive, self._life, event)

    def die(self) -> None:
        """SIGKILL: what waits at its gate ends, and a new supervisor comes soon."""
        if not self._up:
            return
        self.tell("supervisor died", "")
        self._down()
        self.agenda.after(self.random.uniform(0.1, 2.0), self._begin)

    def _down(self) -> None:
        self._up = False
        self._life += 1
        self._unwritten.clear()
        self._news.clear()
        for site in self.sites.values():
            for server in list(site.servers.values()):
                if server.phase is Phase.GATE:
                    self._unborn.add(server.id)
                    site.end(server, 125, 0)

    def _begin(self) -> None:
        """A new supervisor: it goes on with what the record names, and hears of those that ended meanwhile."""
        named = {i.id: i for p in self.record.programs.values() for i in p.instances}
        for site in self.sites.values():
            for server in site.servers.values():
                if server.alive and (server.id not in named or named[server.id].pid != server.pid):
                    self.fail(f"{server.id} lives, and the record of the dead supervisor does not name it")
        self._up = True
        self._shutdown = None
        read = round_trip(self.record)
        if read != self.record:
            self.fail("the record does not give back the fleet")
        read = replace(read, open=dict(self.incidents))
        self.fleet = self._policy.reborn(read, self._recorded, self._unborn, self.memory)
        releases = {name: tuple(lines.values())[-KEPT:] for name, lines in self.history.items()}
        self.fleet = replace(self.fleet, releases=releases)
        self._unborn.clear()
        adopted = [i for p in self.fleet.programs.values() for i in p.instances]
        self.ledger.new_life(self.fleet, self.memory)
        self.apply(begins=True)
        self.maintain(self.muted)
        for instance in adopted:
            self._adopt(instance)

    def _adopt(self, instance: Instance) -> None:
        """The world says who lives. A probe asks again, so that an answer that was lost is heard."""
        server = self._server(instance.id)
        if server is None or server.phase is Phase.DEAD:
            left = 0 if server is None else server.left
            self.send(Exited(instance.id, None, left, "ended while no supervisor ran"), 0.01)
        elif server.phase is Phase.UP and server.capable and instance.ready is None:
            self.send(Answered(server.id, "GET /health answered 200"), 0.1)

    def _arm(self, wake: float | None) -> None:
        self.wake = wake
        if wake is not None:
            self.agenda.at(wake, self._woke, self._life, wake)

    def _woke(self, life: int, wake: float) -> None:
        if life == self._life and wake == self.wake:
            self.post(Woke())

    def _arrive(self, life: int, event: Event) -> None:
        if life == self._life:
            self.post(event)

    # --- stop and shutdown

    def stop(self, name: str) -> None:
        """An operator's stop, which has to end with nobody alive."""
        self.post(StopAsked(name))
        if (known := self.fleet.programs.get(name)) is not None and self._up:
            within_s = known.settings.grace_s + STOP_SLACK_S
            self.agenda.after(within_s, self._late_stop, self._life, name, self.ledger.past(name).commanded)

    def _late_stop(self, life: int, name: str, commanded: float) -> None:
        if life != self._life or self.ledger.past(name).commanded != commanded or self.fleet.draining:
            return
        living = [str(s.id) for s in self.sites[name].servers.values() if s.alive and not s.doomed]
        if living and "tree" not in self.plan.mischief:  # else some of it may have survived its kills, also before the calm
            self.fail(f"{name} was stopped, and {living} still live")

    def shut_down(self) -> None:
        self.post(ShutdownAsked())
        if self._shutdown is None and self._up and self.fleet.draining:
            self._shutdown = self.agenda.now
            self.agenda.after(self._longest_drain_s(), self._late_shutdown, self._life)

    def _longest_drain_s(self) -> float:
        """Every program's grace one after the other, and the kills."""
        return sum(p.settings.grace_s + 16.0 for p in self.fleet.programs.values()) + 5.0

    def _late_shutdown(self, life: int) -> None:
        if life == self._life:
            living = [str(s.id) for site in self.sites.values() for s in site.servers.values() if s.alive]
            self.fail(f"the shutdown does not end; alive: {living}")

    def _ended(self) -> None:
        """The daemon's own stop is complete; systemd starts it again."""
        living = [s for site in self.sites.values() for s in site.servers.values() if s.alive]
        if stray := [str(s.id) for s in living if not s.doomed and s.id not in self.ledger.killed]:
            self.fail(f"the shutdown is over and {stray} live")
        self.tell("supervisor ended", "")
        while self._unwritten:  # a clean end writes what waits
            self._write(self._life)
        programs, numbers = self.record.programs, {n: p.started for n, p in self.record.programs.items()}
        left = {name: program for name, program in programs.items() if program.instances}
        self.record = replace(self.record, programs=left, numbers={**self.record.numbers, **numbers})
        self._down()
        self.agenda.after(0.5, self._begin)

    # --- effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Spawn():
                slow = self.chance("exec", 0.1)
                self.agenda.after(self.random.uniform(0.5, 3.0) if slow else 0.002, self._spawn, self._life, effect)
            case Open():
                if server := self._server(effect.id):
                    self._site_of(effect.id).boot(server)
            case Signal():
                self._signal(effect)
            case Kill():
                self.agenda.after(0.005, self._kill, self._life, effect)
            case Look():
                if (server := self._server(effect.id)) is not None:
                    self._send_look(server)
            case TakeEvidence():
                if not self.chance("looks", 0.2):
                    slow_s = self.random.uniform(0.1, 1.0) if not self.chance("looks", 0.2) else 6.0
                    server = self._server(effect.id)
                    cause, peer = server.cause() if server is not None else ("", "")
                    self.send(EvidenceTaken(effect.id, f"it is in {cause}", cause, cause, peer), slow_s)
            case RunPreflight():
                fails = self.behaviours[effect.build.directory].preflight_fails
                slow_s = self.random.uniform(1.0, 20.0) if self.chance("release", 0.2) else 0.3
                self.send(Preflighted(effect.program, effect.build.number, "it does not compile" if fails else ""), slow_s)
            case Forget():
                if any(server.alive for server in self.sites[effect.program].servers.values()):
                    self.fail(f"{effect.program} is forgotten while it lives")
            case Switch():
                slow_s = self.random.uniform(0.1, 5.0) if self.chance(LINKS, 0.1) else 0.003
                self.agenda.after(slow_s, self._switch, self._life, effect)
            case RecordRelease():
                self.history.setdefault(effect.program, {})[effect.release.number] = effect.release
            case KillWorker():
                self.agenda.after(0.005, self._kill_worker, effect)
            case Remember() | RecordIncident():
                self._unwritten.append(effect)
                self.agenda.after(WRITTEN_S, self._write, self._life)
            case Demote() | Promote() | Apologize() | StepAside() | Note() | Tell():
                pass

    def _spawn(self, life: int, effect: Spawn) -> None:
        if life != self._life:
            return
        behaviour = self.behaviours[effect.build.directory]
        if behaviour.exec_fails:
            self.post(SpawnFailed(effect.id, "No such file or directory", True))
            return
        if self.chance("exec", 0.15):
            self.post(SpawnFailed(effect.id, "Address already in use", False))
            return
        self._pid += 1
        site = self._site_of(effect.id)
        server = Server(effect.id, behaviour, self._pid, self.agenda.now)
        server.deaf = self.random.random() < behaviour.deaf or self.chance("deaf", 0.3)
        site.servers[effect.id] = server
        if self.random.random() < behaviour.boot_crash or self.chance("boot-crash", 0.3):
            self.agenda.after(behaviour.boot_s * self.random.random() + 0.01, site.end, server, 1, 0)
        self.send(
            Spawned(effect.id, self._pid, self._pid * 10), self.random.uniform(0.5, 2.0) if self.chance("exec", 0.05) else 0.0
        )

    def _signal(self, effect: Signal) -> None:
        server = self._server(effect.id)
        if server is not None and server.phase is Phase.DEAD and server.left:
            return  # its end was heard already, or is on its way: what it left lives on
        if server is None or server.phase is Phase.DEAD:
            self.send(Exited(effect.id, None, 0, "ended, and how is not known"), 0.01)
        elif effect.signal == "CONT":
            self.agenda.after(0.05, self._site_of(effect.id).thaw, server, "T")
        elif effect.signal in ("TERM", "QUIT"):
            self.agenda.after(0.05, self._site_of(effect.id).ask, server)

    def _kill(self, life: int, effect: Kill) -> None:
        if life != self._life:
            return
        server = self._server(effect.id)
        if server is None or not server.alive:
            self.send(Exited(effect.id, None, 0, "ended, and how is not known"), 0.01)
            return
        if effect.unmoved_since is not None and server.phase is not Phase.DEAD:
            last = self.look(server) if self.agenda.now >= self.blind_until else _unknown(self.look(server))
            if last.since is None or last.since > effect.unmoved_since + EPSILON_S or last.verdict.kind not in SUSPICIOUS:
                self.post(Spared(last))
                return
        if self.chance("tree", 0.25):
            return
        self._site_of(effect.id).kill(server, 2 if self.chance("tree", 0.2) else 0)

    def _kill_worker(self, effect: KillWorker) -> None:
        server = self._server(effect.id)
        if server is not None and effect.start_ticks == effect.pid * 10 and not self.chance("tree", 0.2):
            self._site_of(effect.id).kill_worker(server, effect.pid)

    def _switch(self, life: int, effect: Switch) -> None:
        """It is done also when nobody lives any more to hear of it."""
        problem = "no space left on device" if self.chance(LINKS, 0.1) else ""
        config = self.config.get(effect.program)
        if config is not None and not problem:
            config.directory = effect.directory
        self.tell("# link", (effect.program, effect.directory, problem))
        if life == self._life:
            self.post(Switched(effect.program, effect.directory, problem))

    def _write(self, life: int) -> None:
        """The journal is written, in order."""
        if life != self._life or not self._unwritten:
            return
        effect = self._unwritten.popleft()
        if isinstance(effect, Remember):
            known = self.memory.setdefault(effect.program, {})
            known.pop(effect.known.key, None)
            known[effect.known.key] = effect.known
        elif effect.over is None:
            self.incidents[effect.program] = effect.incident
        elif (before := self.incidents.get(effect.program)) is not None and before.number == effect.incident.number:
            del self.incidents[effect.program]

    def _server(self, wanted: InstanceId) -> Server | None:
        return self._site_of(wanted).servers.get(wanted)

    def _site_of(self, wanted: InstanceId) -> Site:
        return self.sites[wanted.program]

    def _site(self, name: str, program: ProgramPlan) -> Site:
        site = Site(name, self.agenda, self.processors, self.random)
        site.ended = self._server_ended
        site.answers = self._server_answers
        self.agenda.after(self.random.expovariate(1 / program.arrivals_s), self._customer, name)
        return site

    def _server_ended(self, server: Server, status: int) -> None:
        site = self._site_of(server.id)
        if not server.left:
            site.servers.pop(server.id, None)
        words = "" if server.left else f"status {status}"
        event = Exited(server.id, status, server.left, words)
        self.send(event, 0.0003)
        if self.chance("looks", 0.1):
            self.send(event, self.random.uniform(0.0, 3.0))

    def _server_answers(self, server: Server) -> None:
        """Answered its first probe; the probe asks again until it is heard."""
        late_s = self.random.uniform(0.5, 4.0) if self.chance("looks", 0.1) else self.random.uniform(0.0, 0.2)
        self.send(Answered(server.id, "GET /health answered 200"), late_s)
        if self.chance("looks", 0.1):
            self.send(Answered(server.id, "GET /health answered 200"), self.random.uniform(0.0, 5.0))
        life_s = server.behaviour.life_s
        site = self._site_of(server.id)
        if life_s is not None:
            self.agenda.after(life_s, site.end, server, 1, 0)

    # --- the watcher and the customers

    def look(self, server: Server) -> Looked:
        name = server.id.program
        known = self.fleet.programs.get(name)
        hang = (known.settings if known is not None else self.programs[name].settings).hang
        return look(server, self.sites[name], hang, self.agenda.now, sick=self.sick, room=self.room)

    def _watch(self) -> None:
        self.agenda.after(TICK_S, self._watch)
        if not self._up or self.agenda.now < self.blind_until:
            return
        for site in self.sites.values():
            for server in list(site.servers.values()):
                if server.phase is not Phase.UP:
                    continue
                seen = self.look(server)
                kind = seen.verdict.kind
                if kind in RESTLESS or self._news.get(server.id) != kind:
                    self._news[server.id] = kind
                    self._send(seen)

    def _watch_workers(self) -> None:
        self.agenda.after(WORKERS_S, self._watch_workers)
        if not self._up or self.agenda.now < self.blind_until or self.sick:
            return
        for name, site in self.sites.items():
            for server in list(site.servers.values()):
                if server.phase is Phase.UP and server.behaviour.workers and server.serving:
                    known = self.fleet.programs.get(name)
                    hang = (known.settings if known is not None else self.programs[name].settings).hang
                    for seen in look_at_workers(server, hang, self.agenda.now):
                        self._send_of_worker(seen)

    def _send_of_worker(self, seen: WorkerLooked) -> None:
        if not self.chance("looks", 0.1):
            self.send(seen, self.random.uniform(0.1, 6.0) if self.chance("looks", 0.2) else 0.0)
            if self.chance("looks", 0.2):
                self.send(seen, self.random.uniform(0.0, 6.0))

    def _send_look(self, server: Server) -> None:
        if server.alive and self.agenda.now >= self.blind_until:
            self.agenda.after(0.02, self._look_now, self._life, server)

    def _look_now(self, life: int, server: Server) -> None:
        if life == self._life and server.phase is not Phase.DEAD:
            self._send(self.look(server))

    def _send(self, seen: Looked) -> None:
        if self.chance("looks", 0.08):
            return
        if self.chance("looks", 0.03):
            seen = replace(seen, since=None) if self.random.random() < 0.5 else _unknown(seen)
        self.send(seen, self.random.uniform(0.1, 6.0) if self.chance("looks", 0.08) else 0.0)
        if self.chance("looks", 0.05):
            self.send(seen, self.random.uniform(0.0, 4.0))

    def _customer(self, name: str) -> None:
        program, site = self.programs[name], self.sites[name]
        self.agenda.after(self.random.expovariate(1 / program.arrivals_s), self._customer, name)
        if not site.customers or name not in self.fleet.programs:
            return
        living = next(iter(site.servers.values()), None)
        loops = living is not None and not self.calm and self.random.random() < living.behaviour.loops
        work_s = self.random.expovariate(1 / program.work_s)
        if living is not None and loops:
            site.arrive(Request(Sort.POISON, work_s, False, self.agenda.now, cause=living.behaviour.cause))
        else:
            site.arrive(Request(Sort.NORMAL, work_s, program.database, self.agenda.now))

    # --- what a failure says

    def tell(self, kind: str, thing: object) -> None:
        """One more line of the story."""
        self.story.append((self.agenda.now, kind, thing))

    def fail(self, problem: str) -> None:
        """A rule does not hold; the first problem counts."""
        self.problem = self.problem or problem


def release_of(directory: str) -> str:
    """The name of the release in a directory."""
    return directory.rsplit("/", 1)[-1]


def _unknown(seen: Looked) -> Looked:
    return replace(seen, since=None, verdict=Verdict(Kind.UNKNOWN, "the look failed", seen.at))


def round_trip(fleet: Fleet) -> Fleet:
    """The fleet as a later supervisor would read it."""
    return msgspec.json.decode(msgspec.json.encode(fleet), type=Fleet)
