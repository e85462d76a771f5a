"""What must hold after every step, as small named rules. Each gives "" or one sentence that says what is wrong.

A rule compares what the supervisor decided with the truth of the world, and with a ledger of its own; it never asks policy whether
policy was right. A later feature adds a rule: one more function in RULES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from supervisor.model import (
    Act,
    Answered,
    Apologize,
    Applied,
    Blame,
    Build,
    Demote,
    DeployAsked,
    Effect,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    Forget,
    Instance,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Known,
    Look,
    Looked,
    Nature,
    Open,
    Preflight,
    Preflighted,
    Program,
    Promote,
    Remember,
    RestartAsked,
    RestartWhen,
    ShutdownAsked,
    Signal,
    SignalAsked,
    Spared,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    State,
    StepAside,
    StopAsked,
    Switch,
    Switched,
    TakeEvidence,
    Tell,
    Wanted,
    Woke,
    WorkerLooked,
)
from tests.sim import people
from tests.sim.people import People
from tests.sim.servers import Phase, Server, Site

EPSILON_S = 1e-6
FRESH_S = 2.0  # an older look proves nothing
KILL_AGAIN_S = 5.0
RETIRING_LIMIT_S = 600.0
RELIEF_WINDOW_S = 60.0
QUIET_LOOKS = 8  # of looks that change nothing one in so many is settled a second time: they are most of all turns
SLOW_START_LIMIT = 8
ANSWERING = frozenset({Kind.HEALTHY, Kind.BUSY, Kind.OVERLOADED})
HUNG = frozenset({Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED})
SUSPICIOUS = HUNG | {Kind.SUSPECT, Kind.STOPPED}
POISON_S = 3.0
STEP_S = 0.5  # the backoff's first
OUTSIDE_S = 300.0  # between two kills for one outside cause
TWICE = 2
PAGE_WITHIN_S = 15.0  # of nobody ready, with wake-ups that come in time
PROOFS_LIMIT = 100  # of one cause, kept

Step = Callable[[Fleet, Event, float], tuple[Fleet, tuple[Effect, ...], float | None]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One step with what it was given and what it gave."""

    before: Fleet
    event: Event
    after: Fleet
    effects: tuple[Effect, ...]
    wake: float | None
    now: float
    step: Step
    touched: tuple[str, ...]  # the programs that this step changed

    def program(self, name: str) -> Program | None:
        """As it is after the step, or before it when the step took it away."""
        return self.after.programs.get(name) or self.before.programs.get(name)

    def instance(self, wanted: InstanceId) -> Instance | None:
        """As it was before the step: what the decision was taken on."""
        for fleet in (self.before, self.after):
            program = fleet.programs.get(wanted.program)
            for instance in program.instances if program is not None else ():
                if instance.id == wanted:
                    return instance
        return None


@dataclass(slots=True)
class Past:
    """What the ledger knows of one program."""

    spawns: list[float] = field(default_factory=list)  # since an operator's command last had a say
    reliefs: list[float] = field(default_factory=list)
    commanded: float = 0.0
    wanted: float = 0.0  # since when somebody is to be served
    slow_starts: int = 0  # in a row, killed because they were not ready in time
    failed: set[str] = field(
        default_factory=set
    )  # directories of releases that failed behind the link, and were not asked for since
    link: str = ""  # the directory that the link was known to name
    lost: set[int] = field(default_factory=set)  # builds that were given up, and not asked for since
    began: dict[int, float] = field(default_factory=dict)  # when each build was under way first
    passed: set[int] = field(default_factory=set)  # builds whose preflight passed
    trusted: set[int] = field(default_factory=set)  # builds that were good once
    retreated: set[str] = field(default_factory=set)  # causes for which it went back to the previous release
    outside: dict[str, tuple[InstanceId, float]] = field(default_factory=dict)  # who was last killed for a peer, and when
    served: float | None = None  # when one was ready last, or when it came to be
    page: bool = False  # customers are answered in its place


@dataclass(slots=True)
class Met:
    """What truly came of a cause, as far as the supervisor was told."""

    release: str = ""
    proven: list[float] = field(default_factory=list)
    passed: bool = False


@dataclass(slots=True)
class Ledger:
    """What the rules remember from one step to the next."""

    numbers: dict[str, int] = field(default_factory=dict)  # the highest ever given, also by an earlier supervisor
    killing_again: set[InstanceId] = field(default_factory=set)  # that were being killed when the supervisor died
    told: set[tuple[int, str, int]] = field(default_factory=set)
    living: set[InstanceId] = field(default_factory=set)  # as far as the supervisor was told
    spawned: set[InstanceId] = field(default_factory=set)
    opened: set[InstanceId] = field(default_factory=set)
    asked: dict[InstanceId, float] = field(default_factory=dict)  # its stop signal
    pressed: set[InstanceId] = field(default_factory=set)  # somebody waits for its end: stop, `restart --now`, or its successor
    slow: dict[InstanceId, int] = field(default_factory=dict)  # slow starts in a row when it was started
    killed: dict[InstanceId, float] = field(default_factory=dict)
    looked: dict[InstanceId, Looked] = field(default_factory=dict)  # the newest that was delivered
    excused: dict[InstanceId, float] = field(default_factory=dict)
    evidence: dict[InstanceId, EvidenceTaken] = field(default_factory=dict)  # of its present suspicion
    demoted: set[InstanceId] = field(default_factory=set)
    causes: dict[str, dict[str, Met]] = field(default_factory=dict)
    programs: dict[str, Past] = field(default_factory=dict)
    people: People = field(default_factory=People)
    quiet_looks: int = 0
    kills: int = 0
    spawns: int = 0

    def past(self, name: str) -> Past:
        return self.programs.setdefault(name, Past())

    def of(self, id: InstanceId) -> Met | None:
        """What came of this instance's cause."""
        taken = self.evidence.get(id)
        return self.causes.get(id.program, {}).get(taken.cause) if taken is not None else None

    def new_life(self, fleet: Fleet, remembered: Mapping[str, Mapping[str, Known]]) -> None:
        """Another supervisor goes on with this fleet; of a program that is not in it only the causes that were written down are known."""
        adopted = {i.id for program in fleet.programs.values() for i in program.instances}
        self.living &= adopted
        self.demoted &= adopted
        self.people.new_life(fleet)
        self.killing_again = self.killed.keys() & adopted
        self.programs = {name: past for name, past in self.programs.items() if name in fleet.programs}
        for past in self.programs.values():
            past.page = False  # it ended with the supervisor
        for name in remembered.keys() - fleet.programs.keys():
            self.causes[name] = {
                key: Met(each.release, list(each.proven), bool(each.passed)) for key, each in remembered[name].items()
            }


# --- the ledger hears -----------------------------------------------------------------------------------------------------------


def hear(turn: Turn, ledger: Ledger) -> None:
    """Write down what the event says, before the rules judge what was done on it."""
    event, now = turn.event, turn.now
    for name in turn.touched:
        before = turn.before.programs.get(name)
        if before is None or _ready(before):
            ledger.past(name).served = now
    match event:
        case Spawned():
            if event.id in ledger.living:
                ledger.spawned.add(event.id)
        case SpawnFailed():
            ledger.living.discard(event.id)
        case Exited():
            if event.left:
                ledger.killed[event.id] = now  # the mechanism sent SIGKILL to what is left
            else:
                ledger.living.discard(event.id)
        case Looked():
            _hear_look(event, ledger, now)
        case Spared():
            _hear_look(event.look, ledger, now)
            ledger.killed.pop(event.id, None)
            outside = ledger.past(event.id.program).outside
            if (peer := _peer(event.id, ledger)) in outside and outside[peer][0] == event.id:
                del outside[peer]
        case Preflighted() if not event.problem:
            ledger.past(event.program).passed.add(event.build)
        case DeployAsked():
            past = ledger.past(event.program)
            past.commanded = now
            past.lost.clear()
            past.failed.discard(event.directory)
        case Switched() if not event.problem:
            ledger.past(event.program).link = event.directory
        case StartAsked() | StopAsked() | RestartAsked() | SignalAsked():
            ledger.past(event.program).commanded = now
            if isinstance(event, RestartAsked) and event.at_once:
                known = turn.before.programs.get(event.program)
                ledger.pressed.update(i.id for i in (known.instances if known is not None else ()))
        case Applied():
            for name in turn.after.programs:
                past = ledger.past(name)
                past.commanded = now
                if not event.begins:
                    past.lost.clear()
            for candidate in event.programs:
                past = ledger.past(candidate.settings.name)
                if candidate.directory != past.link:  # switched by hand, also while no supervisor lived: asked for
                    past.failed.discard(candidate.directory)
                past.link = candidate.directory
        case _:
            pass
    _hear_causes(turn, ledger)
    for name in turn.touched:
        program = turn.after.programs.get(name)
        if program is not None and (not target(program, turn.after) or not program.settings.relief.extra):
            ledger.pressed.update(i.id for i in program.instances if i.state is State.RETIRING)
        before = turn.before.programs.get(name)
        if program is not None and before is not None and target(program, turn.after) and not target(before, turn.before):
            ledger.past(name).wanted = now
        if program is not None and any(i.state is State.READY and i.ready == now for i in program.instances):
            ledger.past(name).slow_starts = 0
        if program is not None and program.good is not None:
            ledger.past(name).trusted.add(program.good.number)


def _hear_causes(turn: Turn, ledger: Ledger) -> None:
    """What the event says of causes: met, ended by itself, or proven."""
    event = turn.event
    if isinstance(event, EvidenceTaken | Exited | Looked | Spared) and (before := turn.instance(event.id)) is not None:
        after = next((i for i in _instances(turn.after, event.id.program) if i.id == event.id), None)
        known = ledger.of(event.id)
        match event:
            case EvidenceTaken() if event.cause and event.id in ledger.living:
                ledger.evidence[event.id] = event
                release = next((b.release for b in _builds(turn.before, event.id.program) if b.number == before.build), "")
                met = ledger.causes.setdefault(event.id.program, {}).setdefault(event.cause, Met(release))
                met.passed = met.passed or before.suspected is None
            case Exited() if known is not None and before.state is State.KILLING and before.blame is Blame.HANG:
                known.proven.append(turn.now)
                del known.proven[:-PROOFS_LIMIT]
            case Exited() if known is not None and before.state is State.RETIRING and before.suspected is not None:
                moved = before.moved is not None and before.moved > before.suspected
                known.passed = known.passed or (event.status == 0 and moved)
            case Looked() | Spared() if known is not None and before.suspected and after is not None and not after.suspected:
                known.passed = True
            case _:
                pass
        if (
            after is not None
            and before.state is not State.SUSPECT
            and after.state is State.SUSPECT
            and not isinstance(event, Spared)
        ):
            ledger.evidence.pop(event.id, None)


def _instances(fleet: Fleet, name: str) -> tuple[Instance, ...]:
    program = fleet.programs.get(name)
    return program.instances if program is not None else ()


def _builds(fleet: Fleet, name: str) -> tuple[Build, ...]:
    program = fleet.programs.get(name)
    known = (program.build, program.good, program.previous) if program is not None else ()
    return tuple(build for build in known if build is not None)


def _peer(id: InstanceId, ledger: Ledger) -> str:
    taken = ledger.evidence.get(id)
    return taken.peer if taken is not None else ""


def _hear_look(event: Looked, ledger: Ledger, now: float) -> None:
    newest = ledger.looked.get(event.id)
    if now - event.at > FRESH_S or (newest is not None and newest.at > event.at):
        return
    ledger.looked[event.id] = event
    if event.verdict.kind in (Kind.UNINTERRUPTIBLE, Kind.STARVED):
        ledger.excused[event.id] = event.at


def _write(turn: Turn, ledger: Ledger) -> None:
    """Write down what was done, after it was judged."""
    now = turn.now
    for effect in turn.effects:
        match effect:
            case Spawn():
                name = effect.id.program
                ledger.numbers[name] = effect.id.number
                ledger.living.add(effect.id)
                ledger.slow[effect.id] = ledger.past(name).slow_starts
                ledger.spawns += 1
            case Open():
                ledger.opened.add(effect.id)
            case Signal():
                program = turn.program(effect.id.program)
                if program is not None and effect.signal == program.settings.stop:
                    ledger.asked.setdefault(effect.id, now)
            case Kill():
                ledger.kills += 1
                if effect.id not in ledger.killed and (before := turn.instance(effect.id)) and before.state is State.STARTING:
                    ledger.past(effect.id.program).slow_starts += 1
                ledger.killed[effect.id] = now
                if _by_a_verdict(effect, turn) and (peer := _peer(effect.id, ledger)):
                    ledger.past(effect.id.program).outside[peer] = effect.id, now
            case Demote():
                ledger.demoted.add(effect.id)
            case Promote():
                ledger.demoted.discard(effect.id)
            case Forget():
                ledger.programs.pop(effect.program, None)
            case Tell():
                ledger.told.add((effect.incident, effect.key, effect.step))
            case Apologize():
                ledger.past(effect.program).page = True
            case StepAside():
                ledger.past(effect.program).page = False
            case _:
                pass


_COMMANDS = DeployAsked | StartAsked | StopAsked | RestartAsked | SignalAsked | Applied | ShutdownAsked


# --- the rules ------------------------------------------------------------------------------------------------------------------

Rule = Callable[[Turn, Ledger, Mapping[str, Site]], str]


def target(program: Program, fleet: Fleet) -> int:
    """How many of it should be ready (docs/policy.md, "How many run")."""
    if program.wanted is Wanted.DOWN or program.removed or fleet.draining:
        return 0
    return max(0, program.settings.instances - program.resting)


def never_more_than_allowed(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """At most wanted + extra live, whatever their state; nothing is started while less is wanted."""
    for effect in turn.effects:
        if isinstance(effect, Spawn):
            program = turn.after.programs[effect.id.program]
            allowed = target(program, turn.after) + program.settings.relief.extra
            if not target(program, turn.after):
                return f"{effect.id} is started, and none of it is wanted"
            if len(program.instances) > allowed:
                return f"{len(program.instances)} of {effect.id.program} live with {effect.id}, {allowed} are allowed"
            truly = sum(1 for server in sites[effect.id.program].servers.values() if server.alive)
            if truly >= allowed:
                return f"{effect.id} is started beside {truly} that live in truth, {allowed} are allowed"
    return ""


def no_number_twice(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    numbers = dict(ledger.numbers)
    for effect in turn.effects:
        if isinstance(effect, Spawn):
            if effect.id.number <= numbers.get(effect.id.program, 0):
                return f"{effect.id} was given before"
            numbers[effect.id.program] = effect.id.number
    return ""


def nobody_is_forgotten(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """The fleet drops an instance only when the supervisor was told that it is gone."""
    for name in turn.touched:
        known = {i.id for p in (turn.after.programs.get(name),) if p is not None for i in p.instances}
        before = {i.id for p in (turn.before.programs.get(name),) if p is not None for i in p.instances}
        if lost := [str(gone) for gone in before - known if gone in ledger.living]:
            return f"{lost} live, and the fleet does not know them any more"
        if ghosts := [str(i) for i in known & before if i not in ledger.living]:
            return f"{ghosts} are gone, and the fleet still has them"
    return ""


def effects_name_the_living(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    started: set[InstanceId] = set()
    for effect in turn.effects:
        match effect:
            case Spawn():
                started.add(effect.id)
            case Open() | Signal() | Kill() | KillWorker() | Demote() | Promote() | Look() | TakeEvidence():
                if effect.id not in ledger.living and effect.id not in started:
                    return f"{type(effect).__name__} names {effect.id}, which is gone"
            case _:
                pass
    return ""


def gate_opens_once_recorded(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A gate is opened once, after its process is known, and when its pid stands in what is recorded."""
    for effect in turn.effects:
        if isinstance(effect, Open):
            recorded = [i for i in turn.after.programs[effect.id.program].instances if i.id == effect.id and i.pid is not None]
            if effect.id not in ledger.spawned or not recorded:
                return f"the gate of {effect.id} is opened before its process is recorded"
            if effect.id in ledger.opened:
                return f"the gate of {effect.id} is opened twice"
    return ""


def kills_are_just(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Nothing that is busy, boots within its time or answers is killed by a decision of the supervisor's own."""
    for effect in turn.effects:
        if isinstance(effect, Kill) and (problem := _unjust(effect, turn, ledger, sites[effect.id.program])):
            return f"{effect.id} is killed: {problem}"
    return ""


def _unjust(kill: Kill, turn: Turn, ledger: Ledger, site: Site) -> str:
    now = turn.now
    server, instance, program = site.servers.get(kill.id), turn.instance(kill.id), turn.program(kill.id.program)
    if instance is None or program is None:
        return "nobody knows it"
    if server is None or server.phase is Phase.DEAD or turn.after.hurried:
        return ""
    if kill.id in ledger.killing_again:
        ledger.killing_again.discard(kill.id)
        return ""
    if (last := ledger.killed.get(kill.id)) is not None and instance.state is State.KILLING:
        return "" if now - last >= KILL_AGAIN_S - EPSILON_S else f"again after {now - last:.1f} s"
    asked, grace_s = ledger.asked.get(kill.id), program.settings.grace_s
    if asked is not None and now - asked >= RETIRING_LIMIT_S - EPSILON_S:
        return ""
    if kill.id in ledger.pressed or not target(program, turn.after):
        if not server.opened:
            return ""
        if asked is not None and now - asked >= grace_s - EPSILON_S:
            return ""
    if instance.state is State.STARTING or instance.ready is None:
        return _unjust_start(server, instance, program, turn, ledger)
    return _unjust_hang(kill, server, instance, program, turn, ledger, site)


def _unjust_start(server: Server, instance: Instance, program: Program, turn: Turn, ledger: Ledger) -> str:
    if instance.state is State.RETIRING:  # it serves nobody, and was asked to go
        asked = ledger.asked.get(instance.id)
        waited_s = turn.now - asked if asked is not None else 0.0
        polite = not instance.opened or waited_s >= min(program.settings.grace_s, program.settings.hang.certain_s) - EPSILON_S
        return "" if polite else f"it was asked to stop {waited_s:.1f} s ago"
    look = ledger.looked.get(instance.id)
    if server.capable and look is not None and look.at >= turn.now - EPSILON_S and look.verdict.kind in ANSWERING:
        return f"it answers, and this very look says so: {look.verdict.because}"
    slow = ledger.slow[instance.id]
    limit_s = max(program.settings.health.start_s * min(2**slow, SLOW_START_LIMIT), instance.start_s or 0.0)
    if instance.relief:  # of a build that boots faster it is given up sooner, when it was started while nobody served
        limit_s = min(limit_s, max(instance.start_s, program.settings.hang.certain_s * min(2**slow, SLOW_START_LIMIT)))
    if turn.now - instance.spawned < limit_s - EPSILON_S:
        return f"it boots for {turn.now - instance.spawned:.1f} s, and has {limit_s:.1f} s"
    return ""


def _unjust_hang(kill: Kill, server: Server, instance: Instance, program: Program, turn: Turn, ledger: Ledger, site: Site) -> str:
    now, hang = turn.now, program.settings.hang
    if hang.act is Act.TELL:
        return 'hang.act = "tell"'
    look = ledger.looked.get(kill.id)
    if not isinstance(turn.event, Looked | Spared) or turn.event.id != kill.id:
        return f"{type(turn.event).__name__} is no look at it"
    poison = _poison(kill.id, program, turn, ledger)
    if look is None or now - look.at > FRESH_S + EPSILON_S or look.since is None:
        return f"no fresh look: {look}"
    if look.verdict.kind not in (SUSPICIOUS if poison else HUNG):
        return f"the look proves nothing: {look}"
    base_s = hang.blocked_s if look.verdict.nature is Nature.BLOCKED else hang.certain_s
    if base_s is None:
        return 'it is blocked, and hang.blocked = "off"'
    others = [i for i in turn.before.programs[program.settings.name].instances if i.id != kill.id]
    patience_s = base_s * (3.0 if any(_serves_soon(i, program, now) for i in others) else 1.0)
    if poison and look.verdict.nature is Nature.SPINNING:
        patience_s = min(POISON_S, patience_s)
    moved = max(server.still_since(look.at), ledger.excused.get(kill.id, 0.0))
    if look.at - moved < patience_s - EPSILON_S:
        return f"something moved {look.at - moved:.1f} s before the look, and the patience is {patience_s:.1f} s"
    if kill.unmoved_since is None:
        return "without a last look"
    return ""


def _serves_soon(instance: Instance, program: Program, now: float) -> bool:
    """Whether it serves, or starts and is not much later than the last one was."""
    usual_s = max(program.settings.hang.suspect_s, 2.0 * program.boot_s) if program.boot_s else math.inf
    return instance.state is State.READY or (instance.state is State.STARTING and now < instance.spawned + usual_s)


def _poison(id: InstanceId, program: Program, turn: Turn, ledger: Ledger) -> bool:
    """Whether it loops where a loop was proven before that never ended by itself, and holds all that could serve."""
    met = ledger.of(id)
    if met is None or not met.proven or met.passed:
        return False
    others = [i for i in turn.before.programs[id.program].instances if i.id != id]
    if any(_serves_soon(i, program, turn.now) for i in others):
        return False
    full = len(others) + 1 >= target(program, turn.after) + program.settings.relief.extra
    reliefs = [at for at in turn.before.programs[id.program].reliefs if turn.now - at < RELIEF_WINDOW_S + EPSILON_S]
    look = ledger.looked.get(id)
    return full or len(reliefs) >= program.settings.relief.budget or (look is not None and not look.room)


def _by_a_verdict(kill: Kill, turn: Turn) -> bool:
    """Whether this is the first signal of a kill for a hang."""
    before = turn.instance(kill.id)
    after = next((i for i in _instances(turn.after, kill.id.program) if i.id == kill.id), None)
    return after is not None and after.blame is Blame.HANG and (before is None or before.state is not State.KILLING)


def one_kill_for_a_peer(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Of all that wait for one outside peer, one is killed each five minutes."""
    for effect in turn.effects:
        if isinstance(effect, Kill) and _by_a_verdict(effect, turn) and (peer := _peer(effect.id, ledger)):
            last = ledger.past(effect.id.program).outside.get(peer)
            if last is not None and turn.now - last[1] < OUTSIDE_S - EPSILON_S:
                return f"{effect.id} is killed for {peer}, {turn.now - last[1]:.1f} s after {last[0]}"
    return ""


def workers_are_proven(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A worker is killed by a fresh proof alone, and never while its instance is suspect."""
    for effect in turn.effects:
        if isinstance(effect, KillWorker) and (problem := _worker_unjust(effect, turn, sites[effect.id.program])):
            return f"worker {effect.pid} of {effect.id} is killed: {problem}"
    return ""


def _worker_unjust(kill: KillWorker, turn: Turn, site: Site) -> str:
    look, instance, program = turn.event, turn.instance(kill.id), turn.program(kill.id.program)
    if not isinstance(look, WorkerLooked) or (look.id, look.pid, look.start_ticks) != (kill.id, kill.pid, kill.start_ticks):
        return f"{type(look).__name__} is no look at it"
    if instance is None or program is None or instance.state is not State.READY:
        return "its instance is not ready"
    if program.settings.hang.act is Act.TELL:
        return 'hang.act = "tell"'
    if turn.now - look.at > FRESH_S + EPSILON_S:
        return f"by a look of {turn.now - look.at:.1f} s ago"
    hang = program.settings.hang
    patience_s = max(hang.worker_s, hang.blocked_s or math.inf) if look.verdict.nature is Nature.BLOCKED else hang.worker_s
    if look.verdict.kind not in HUNG or look.at - look.since < patience_s - EPSILON_S:
        return f"it was still for {look.at - look.since:.1f} s, and the patience is {patience_s:.1f} s"
    return ""


def demoted_are_promoted(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A suspect gets its share of the processors back as soon as it is none any more."""
    demoted = set(ledger.demoted)
    for effect in turn.effects:
        if isinstance(effect, Demote):
            if effect.id in demoted:
                return f"{effect.id} is demoted twice"
            demoted.add(effect.id)
        elif isinstance(effect, Promote):
            demoted.discard(effect.id)
    for id in demoted:
        for instance in _instances(turn.after, id.program):
            if instance.id == id and (instance.state is State.READY or (instance.state is State.RETIRING and instance.asked)):
                return f"{id} is {instance.state.value}, and still demoted"
    return ""


def recurrence_is_true(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A recurrence is told of a suspect, for a cause that was proven before and never ended by itself."""
    for effect in turn.effects:
        if isinstance(effect, Tell) and effect.key == "recurrence" and isinstance(turn.event, EvidenceTaken):
            met, instance = ledger.of(turn.event.id), turn.instance(turn.event.id)
            if met is None or not met.proven or met.passed:
                return f"a recurrence is told, and the ledger has {met}"
            if instance is None or instance.state in (State.STARTING, State.READY):
                return f"a recurrence is told of {turn.event.id}, which is no suspect"
    return ""


def memory_is_true(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """What is remembered of causes is what happened, and each change of it is handed over to be kept."""
    for name in turn.touched:
        after = turn.after.programs.get(name)
        causes = after.causes if after is not None else turn.after.causes.get(name, ())
        before = turn.before.programs.get(name)
        old = before.causes if before is not None else turn.before.causes.get(name, ())
        if causes is old and not isinstance(turn.event, EvidenceTaken | Exited):
            continue
        changed = {known for known in causes if known not in old}
        kept = {effect.known for effect in turn.effects if isinstance(effect, Remember) and effect.program == name}
        again = kept - changed if isinstance(turn.event, Applied) else set()  # after an adoption all are handed over anew
        if changed != kept - again or not again <= set(causes):
            return f"{name}: {changed} changed, and {kept} is kept"
        truth = {key: (met.proven, met.passed) for key, met in ledger.causes.get(name, {}).items()}
        if (told := {known.key: (list(known.proven), bool(known.passed)) for known in causes}) != truth:
            return f"{name}: {told} is remembered, and {truth} is true"
    return ""


def retreats_are_just(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Back to the previous release: once for a cause, after the second proof within a day, when it came with this one."""
    event = turn.event
    if not isinstance(event, Exited):
        return ""
    name = event.id.program
    before, after, dead = turn.before.programs.get(name), turn.after.programs.get(name), turn.instance(event.id)
    if before is None or after is None or dead is None or before.trial is not None or after.build == before.build:
        return ""
    past, met, taken = ledger.past(name), ledger.of(event.id), ledger.evidence.get(event.id)
    if met is None or taken is None or len(met.proven) < TWICE or met.release != before.build.release or met.release == "":
        return f"{name} goes back from release {before.build.release}, and the ledger has {met}"
    if dead.build != before.build.number:
        return f"{name} gives up build {before.build.number} for a hang of build {dead.build}"
    if taken.cause in past.retreated:
        return f"{name} goes back twice for {taken.cause}"
    if after.build.number not in past.trusted:
        return f"{name} goes back to build {after.build.number}, which was never trusted"
    past.retreated.add(taken.cause)
    return ""


def room_is_needed(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """No relief is started while the newest looks at all suspects say that the host has no memory for it."""
    for effect in turn.effects:
        if isinstance(effect, Spawn) and _relieves(effect.id, after := turn.after.programs[effect.id.program], turn, stale=False):
            suspects = [ledger.looked.get(i.id) for i in after.instances if i.state is State.SUSPECT]
            if suspects and all(look is not None and not look.room for look in suspects):
                return f"{effect.id} is started as a relief, and the host has no memory for it"
    return ""


def old_looks_change_nothing(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A look that was long on its way, or that knows nothing, moves no instance that serves or is suspect."""
    event = turn.event
    if not isinstance(event, Looked) or (turn.now - event.at <= FRESH_S + EPSILON_S and event.since is not None):
        return ""
    before, after = turn.before.programs.get(event.id.program), turn.after.programs.get(event.id.program)
    was = next((i.state for i in before.instances if i.id == event.id), None) if before is not None else None
    now = next((i.state for i in after.instances if i.id == event.id), None) if after is not None else None
    if was in (State.READY, State.SUSPECT) and now is not was:
        return f"{event.id} was {was} and is {now} by a look of {turn.now - event.at:.1f} s ago"
    return ""


def tell_does_not_heal(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """With hang.act = "tell" no suspect is retired or relieved (kills are judged by `kills_are_just`)."""
    if isinstance(turn.event, _COMMANDS):
        return ""
    for effect in turn.effects:
        if isinstance(effect, Signal | Spawn):
            before, after = turn.before.programs.get(effect.id.program), turn.after.programs[effect.id.program]
            if before is None or after.settings.hang.act is not Act.TELL or not target(after, turn.after):
                continue
            if isinstance(effect, Signal):
                suspects = [i for i in before.instances if i.state is State.SUSPECT and not _replaced(i, after)]
                healed = effect.signal == after.settings.stop and any(i.id == effect.id for i in suspects)
            else:
                healed = _relieves(effect.id, after, turn, stale=False)
            if healed:
                return f'{effect} heals a suspect, and hang.act = "tell"'
    return ""


def _replaced(instance: Instance, program: Program) -> bool:
    return instance.replace or instance.build != program.build.number


def what_waits_is_armed(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    for name in turn.touched:
        program = turn.after.programs.get(name)
        if program is None:
            continue
        armed = turn.after.wakes.get(name)
        if armed is not None and turn.wake is not None and turn.wake <= armed:
            continue
        if moving := [f"{i.id} {i.state.value}" for i in program.instances if i.state is not State.READY]:
            if turn.after.draining and all(i.state is State.SUSPECT for i in program.instances if i.state is not State.READY):
                continue
            return f"nothing is armed for {moving}"
        short = len(program.instances) < target(program, turn.after)
        if short and program.preflight is not Preflight.ASKED:
            return f"{name} is short of {target(program, turn.after) - len(program.instances)}, and nothing is armed"
    return ""


def settled_is_settled(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A second call does nothing: neither for what is due, nor for a program that nobody thought of."""
    if isinstance(turn.event, Looked) and not turn.effects:
        ledger.quiet_looks += 1
        if ledger.quiet_looks % QUIET_LOOKS:
            return ""
    everything = replace(turn.after, wakes=dict.fromkeys(turn.after.programs, turn.now))
    again, effects, _ = turn.step(everything, Woke(), turn.now)
    if effects:
        return f"settled again, it does {effects}"
    if again.programs != turn.after.programs:
        changed = [name for name, program in again.programs.items() if program != turn.after.programs.get(name)]
        return f"settled again, {changed} change"
    return ""


def ready_falls_for_a_reason(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """The number of ready instances falls only by an exit, a look, a command, or where one must leave before the next may start."""
    if isinstance(turn.event, _COMMANDS | Exited | SpawnFailed | Looked | WorkerLooked):
        return ""
    for name in turn.touched:
        before, after = turn.before.programs.get(name), turn.after.programs.get(name)
        if before is None or after is None or turn.after.draining:
            continue
        fell = _ready(before) - _ready(after)
        turns_taken = after.settings.relief.extra == 0 and any(_replaced(i, after) for i in before.instances)
        if fell > 0 and not turns_taken and _ready(after) < target(after, turn.after):
            return f"{name}: {fell} fewer ready by {turn.event}"
        if fell > 0 and turns_taken and isinstance(turn.event, Woke | Answered | Preflighted) and fell > 1:
            return f"{name}: {fell} leave at once by {turn.event}"
    return ""


def one_leaves_at_a_time(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Whatever leaves by a decision of the supervisor's own leaves enough that serve."""
    if isinstance(turn.event, _COMMANDS):
        return ""
    for name in turn.touched:
        before, after = turn.before.programs.get(name), turn.after.programs.get(name)
        if before is None or after is None or not target(after, turn.after):
            continue
        states = {i.id: i.state for i in after.instances}
        gone = [i.id for i in before.instances if i.state is State.READY and states.get(i.id) is State.RETIRING]
        turn_taken = 0 if after.settings.relief.extra else 1  # where none may live beside its successor, one goes first
        if gone and _ready(after) < target(after, turn.after) - turn_taken:
            return f"{[str(i) for i in gone]} leave, and {_ready(after)} of {target(after, turn.after)} are ready"
    return ""


def _ready(program: Program) -> int:
    return sum(1 for i in program.instances if i.state is State.READY)


def starts_are_bounded(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """No storm: neither of reliefs within a minute, nor of starts after failures."""
    for effect in turn.effects:
        if not isinstance(effect, Spawn):
            continue
        name = effect.id.program
        before, after, past = turn.before.programs.get(name), turn.after.programs[name], ledger.past(name)
        relief, restart = after.settings.relief, after.settings.restart
        if before is not None and _relieves(effect.id, after, turn, stale=False):
            past.reliefs = [at for at in past.reliefs if turn.now - at < RELIEF_WINDOW_S - EPSILON_S] + [turn.now]
            if len(past.reliefs) > relief.budget:
                return f"{effect.id} is relief number {len(past.reliefs)} within {RELIEF_WINDOW_S} s, and the budget is {relief.budget}"
        past.spawns = [at for at in past.spawns if turn.now - at < RELIEF_WINDOW_S and at >= past.commanded] + [turn.now]
        # Failures up to the budget of the window and the one beyond it, each instance's replacement, reliefs, and then the slow pace.
        count = after.settings.instances
        bound = (restart.budget + 2) * count * max(1.0, RELIEF_WINDOW_S / restart.window_s) + relief.budget + 2 * count
        bound += RELIEF_WINDOW_S / max(restart.limit_s, 0.1) * count
        bound += (
            math.log2(max(1.0, restart.limit_s / STEP_S)) + 1
        )  # starts that the world refuses: they double their delay, and no more
        bound *= max(1.0, RELIEF_WINDOW_S / (restart.healthy_s + 1.0)) if restart.healthy_s < RELIEF_WINDOW_S else 1.0
        if len(past.spawns) > bound:
            return f"{effect.id} is start number {len(past.spawns)} within {RELIEF_WINDOW_S} s; {bound:.0f} are explicable"
    return ""


def _relieves(started: InstanceId, after: Program, turn: Turn, *, stale: bool) -> bool:
    """Whether a start is made because of suspects alone. `stale`: those that another is to replace count too."""
    suspects = sum(1 for i in after.instances if i.state is State.SUSPECT)
    fit = sum(
        1
        for i in after.instances
        if i.state in (State.READY, State.STARTING) and (stale or not _replaced(i, after)) and i.id.number < started.number
    )
    return suspects > 0 and fit + suspects >= target(after, turn.after)


def relief_is_relief(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Only a start because of suspects is called a relief: the replacement of a failed one does not cost the relief budget."""
    for effect in turn.effects:
        if isinstance(effect, Spawn):
            after = turn.after.programs[effect.id.program]
            started = next(i for i in after.instances if i.id == effect.id)
            if started.relief and not _relieves(effect.id, after, turn, stale=True):
                return f"{effect.id} is called a relief, and replaces one that failed"
    return ""


def crash_loops_are_slow(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """In a crash loop a start in the place of a failed one comes at the slowest pace."""
    for effect in turn.effects:
        if isinstance(effect, Spawn):
            before = turn.before.programs.get(effect.id.program)
            if before is None or not before.crash_loop or before.failed is None or isinstance(turn.event, _COMMANDS):
                continue
            if (
                turn.after.programs[effect.id.program].crash_loop
                and turn.now - before.failed < before.settings.restart.limit_s - EPSILON_S
            ):
                return f"{effect.id} is started {turn.now - before.failed:.1f} s after a failure, in a crash loop"
    return ""


def told_once(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    seen: set[tuple[int, str, int]] = set()
    for effect in turn.effects:
        if isinstance(effect, Tell):
            message = (effect.incident, effect.key, effect.step)
            if message in ledger.told or message in seen:
                return f"told twice: incident {effect.incident}, {effect.key}, step {effect.step}"
            seen.add(message)
    return ""


def killing_goes_on(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    for program in turn.after.programs.values():
        for instance in program.instances:
            if instance.state is State.KILLING:
                last = max(ledger.killed.get(instance.id, instance.since), instance.since)
                if turn.now - last > KILL_AGAIN_S + 1.0 and not _kills(turn, instance.id):
                    return f"{instance.id} is dying, and was not killed for {turn.now - last:.1f} s"
    return ""


def _kills(turn: Turn, wanted: InstanceId) -> bool:
    return any(isinstance(effect, Kill) and effect.id == wanted for effect in turn.effects)


def lost_stays_lost(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A build that was given up is never chosen again unasked."""
    for name in turn.touched:
        before, after = turn.before.programs.get(name), turn.after.programs.get(name)
        if before is None or after is None:
            continue
        past = ledger.past(name)
        if _went_back(before, after) and not isinstance(turn.event, _COMMANDS):
            past.lost.add(before.build.number)
        if after.build.number in past.lost:
            return f"{name}: build {after.build.number} was given up, and is chosen again"
    for effect in turn.effects:
        if isinstance(effect, Spawn) and effect.build.number in ledger.past(effect.id.program).lost:
            return f"{effect.id} is of build {effect.build.number}, which was given up"
    return ""


def failed_stays_failed(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """A release that was given up behind a symlink does not run again unasked: no apply, no restart and no death brings it back."""
    for name in turn.touched:
        before, after = turn.before.programs.get(name), turn.after.programs.get(name)
        if before is None or after is None or after.link is None:
            continue
        past = ledger.past(name)
        if after.build.directory != before.build.directory and not isinstance(turn.event, _COMMANDS) and _went_back(before, after):
            past.failed.add(before.build.directory)
        if after.build.directory in past.failed:
            return f"{name}: release {after.build.release} failed, and is chosen again"
        if after.proposed is not None and after.proposed.build.directory in past.failed:
            return f"{name}: release {after.proposed.build.release} failed, and is proposed again"
    return ""


def _went_back(before: Program, after: Program) -> bool:
    """Whether an older build was taken up again: only a new one has a higher number."""
    return after.build.number < before.build.number


def link_waits_for_the_preflight(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """The link is switched to what runs, or to what has passed its preflight."""
    for effect in turn.effects:
        if isinstance(effect, Switch):
            program = turn.after.programs[effect.program]
            if effect.directory == program.build.directory and program.proposed is None:
                continue
            proposed = program.proposed
            if proposed is None or proposed.build.directory != effect.directory:
                return f"{effect.program}: the link is to name {effect.directory}, which nobody wants"
            checked = not proposed.build.launch.preflight or proposed.build.number in ledger.past(effect.program).passed
            if not checked:
                return f"{effect.program}: the link is to name {effect.directory}, whose preflight has not passed"
    return ""


def trust_is_earned(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Another release is trusted only after it has run for as long as its probation, at the least."""
    for name in turn.touched:
        before, after = turn.before.programs.get(name), turn.after.programs.get(name)
        if after is None:
            continue
        past = ledger.past(name)
        began = past.began.setdefault(after.build.number, turn.now)
        if before is None or before.good is None or after.good is None or after.good == before.good:
            continue
        if after.good.number < before.good.number or after.good.directory == before.good.directory:
            continue
        if turn.now - began < after.settings.release.probation_s - EPSILON_S:
            return f"{name}: release {after.good.release} is trusted after {turn.now - began:.1f} s"
    return ""


def drains_in_order(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """In a shutdown nobody is asked to stop before those that need it are gone, or cannot be killed."""
    if not turn.after.draining or turn.after.hurried or isinstance(turn.event, RestartAsked):
        return ""  # an operator's restart waits for no order
    for effect in turn.effects:
        if isinstance(effect, Signal):
            program = turn.after.programs.get(effect.id.program)
            if program is None or effect.signal != program.settings.stop or ledger.asked.get(effect.id):
                continue
            for other in turn.after.programs.values():
                if effect.id.program in other.settings.after and any(i.tries < 3 for i in other.instances):
                    leaving = turn.instance(effect.id)
                    if leaving is None or leaving.state is not State.RETIRING:
                        return f"{effect.id} is asked to stop while {other.settings.name} needs it"
    return ""


def resting_rests(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """With when = "never" nothing that ended by itself is started again by itself."""
    if not isinstance(turn.event, Exited):
        return ""
    before, after = turn.before.programs.get(turn.event.id.program), turn.after.programs.get(turn.event.id.program)
    if before is None or after is None or not target(after, turn.after):
        return ""
    ended = next((i for i in before.instances if i.id == turn.event.id), None)
    rests = after.settings.restart.when is RestartWhen.NEVER or (
        after.settings.restart.when is RestartWhen.FAILURE and turn.event.status == 0
    )
    unasked = ended is not None and ended.state in (State.READY, State.STARTING, State.SUSPECT)
    if rests and unasked and after.resting <= before.resting:
        return f"{turn.event.id} ended by itself and does not rest"
    return ""


def page_is_true(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """Customers are answered in its place only while nothing is ready, not before they had to wait, and not one step longer."""
    for effect in turn.effects:
        if isinstance(effect, Apologize):
            program, past = turn.after.programs[effect.program], ledger.past(effect.program)
            after_s = program.settings.sorry.after_s
            waited_s = turn.now - (turn.now if past.served is None else past.served)
            if after_s is None or past.page:
                return f"{effect.program}: a page that is {'shown already' if past.page else 'off'}"
            if waited_s < after_s - EPSILON_S and not program.crash_loop:
                return f"{effect.program}: a page after {waited_s:.2f} s"
        elif isinstance(effect, StepAside) and not ledger.past(effect.program).page:
            return f"{effect.program}: nobody was there who could step aside"
    for name in turn.touched:
        program = turn.after.programs.get(name)
        shown = ledger.past(name).page
        for effect in turn.effects:
            if isinstance(effect, Apologize | StepAside) and effect.program == name:
                shown = isinstance(effect, Apologize)
        if program is not None and shown and _ready(program):
            return f"{name}: one is ready, and customers are still answered in its place"
        if program is not None and not shown and _nobody_for_long(program, ledger, turn):
            return f"{name}: nobody is ready, and customers are not told"
    return ""


def _nobody_for_long(program: Program, ledger: Ledger, turn: Turn) -> bool:
    after_s, served = program.settings.sorry.after_s, ledger.past(program.settings.name).served
    up = target(program, turn.after) > 0 and not _ready(program)
    since = max(served or 0.0, ledger.past(program.settings.name).wanted)
    return up and after_s is not None and served is not None and turn.now - since > max(after_s, PAGE_WITHIN_S)


def touched(before: Mapping[str, Program], after: Mapping[str, Program]) -> tuple[str, ...]:
    """The programs that a step changed."""
    return tuple(name for name in {**before, **after} if before.get(name) is not after.get(name))


RULES: tuple[Rule, ...] = (
    never_more_than_allowed,
    no_number_twice,
    nobody_is_forgotten,
    effects_name_the_living,
    gate_opens_once_recorded,
    kills_are_just,
    old_looks_change_nothing,
    tell_does_not_heal,
    what_waits_is_armed,
    ready_falls_for_a_reason,
    one_leaves_at_a_time,
    starts_are_bounded,
    relief_is_relief,
    crash_loops_are_slow,
    told_once,
    killing_goes_on,
    lost_stays_lost,
    failed_stays_failed,
    link_waits_for_the_preflight,
    trust_is_earned,
    drains_in_order,
    resting_rests,
    one_kill_for_a_peer,
    workers_are_proven,
    demoted_are_promoted,
    recurrence_is_true,
    memory_is_true,
    retreats_are_just,
    room_is_needed,
    page_is_true,
    settled_is_settled,
)


def broken_rule(turn: Turn, ledger: Ledger, sites: Mapping[str, Site]) -> str:
    """The first rule that does not hold after this step, with its name; "" when all hold."""
    hear(turn, ledger)
    people.hear(turn, ledger.people)
    for rule in (*RULES, *people.RULES):
        if problem := rule(turn, ledger, sites):
            return f"{rule.__name__}: {problem}"
    _write(turn, ledger)
    people.write(turn, ledger.people)
    return ""
