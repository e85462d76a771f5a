"""A tiny language for stories in virtual time: what happens goes in as lines, what the supervisor does comes out as lines.

    play("store x1+1", '''
        100  1 hangs
        110  1 moves
    ''')

Setup, programs divided by ";": `NAME xINSTANCES+EXTRA rN key=value ...`, with the keys of `_with`; a release is r1 unless it is said.
How a release behaves is a part of its own: `r2: crashes`, `r2: silent`, `r2: boot=30`, `r2: preflight fails`.

Script, one happening per line: an instant, and one of

    apply SETUP             the whole configuration, changed       start | stop | restart | restart-now NAME
    signal NAME HUP                                                shutdown
    deploy | rollback NAME rN                                      by-hand NAME rN  the link is switched, and all applied
    disk full | free        links cannot be switched
    ID hangs                it loops from now on                   ID moves       something did, and does
    ID works                it works for long, elsewhere           ID waits       for the database
    ID worker               one of its workers loops, alone        ID old-worker  a look at it of 3 s ago arrives
    ID blind-look           one that does not know since when      memory full | free
    supervisor dies         and the next one starts all again, 1 s later
    ID crashes | ends       with code 1 | 0                        ID immortal    SIGKILL does nothing to it | mortal
    ID old-look             a hung look of 5 s ago arrives

The rest goes by itself: a process comes 10 ms after `start`, answers after its boot (0.5 s), ends 0.1 s after it was asked to (unless it
hangs) and 10 ms after SIGKILL; a hanging one is looked at each 0.25 s, a hanging worker each second. Output: the instant, and what was
done; `knows apply x2` is a cause that was proven twice. Openings of gates, evidence and lines of the log are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supervisor.model import (
    Act,
    Answered,
    Applied,
    Candidate,
    DeployAsked,
    Effect,
    EscalationStep,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    Forget,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Known,
    LaunchSettings,
    Look,
    Looked,
    Nature,
    Open,
    Preflighted,
    ProgramSettings,
    ReliefSettings,
    Remember,
    RestartAsked,
    Retirement,
    RunPreflight,
    Scope,
    ShutdownAsked,
    Signal,
    SignalAsked,
    Spared,
    Spawn,
    Spawned,
    StartAsked,
    StopAsked,
    Switch,
    Switched,
    TakeEvidence,
    Tell,
    Verdict,
    Woke,
    WorkerLooked,
)
from supervisor.policy.fleet import drained, step
from tests.sim.agenda import START, Agenda

SPAWN_S = 0.01
SWITCH_S = 0.01
BOOT_S = 0.5
STOP_S = 0.1
KILL_S = 0.01
LOOK_S = 0.25
WORKER_S = 1.0
REBIRTH_S = 1.0
WORKER_PID = 500
TURNS = 20_000  # no story takes more
DATABASE = "10.0.0.5:5432"
DOES = {
    "hangs": (Nature.SPINNING, Kind.SPINNING, "apply"),
    "works": (Nature.SPINNING, Kind.SPINNING, "report"),
    "waits": (Nature.BLOCKED, Kind.BLOCKED, "query"),
}


@dataclass(slots=True)
class Release:
    boot_s: float = BOOT_S
    crashes: bool = False
    silent: bool = False
    preflight: str = ""


@dataclass(slots=True)
class Actor:
    """One instance on the stage."""

    release: Release
    alive: bool = True
    hung: float | None = None  # since when
    does: str = "hangs"
    worker: float | None = None  # since when one of its workers loops
    asked: bool = False  # to stop
    immortal: bool = False


def play(setup: str, script: str, until: float) -> str:
    """The story told by `script`, up to the instant `until`: what the supervisor did, one line for each instant."""
    return Stage(setup, script).run(until)


class Stage:
    def __init__(self, setup: str, script: str) -> None:
        self._agenda = Agenda()
        self._fleet = Fleet()
        self._wake: float | None = None
        self._applied: Applied | None = None
        self._memory: dict[str, dict[str, Known]] = {}
        self._room = True
        self._disk_full = False
        self._links: dict[str, str] = {}  # the release that each program's link names
        self._releases: dict[str, Release] = {}
        self._actors: dict[InstanceId, Actor] = {}
        self._lines: dict[float, list[str]] = {}
        self._turns = 0
        self._over = False
        self._agenda.at(START, self._happen, f"apply {setup}")
        for line in script.strip().splitlines():
            at, words = line.strip().split(maxsplit=1)
            self._agenda.at(START + float(at), self._happen, words)

    def run(self, until: float) -> str:
        self._agenda.run_until(START + until, lambda: self._over)
        return "\n".join(f"{at - START:.1f} {', '.join(done)}" for at, done in self._lines.items())

    # --- what happens

    def _happen(self, words: str) -> None:
        match words.split():
            case ["apply", *_]:
                self._applied = self._configuration(words.removeprefix("apply "))
                self._post(self._linked(self._applied))
            case ["deploy", name, release, *more]:
                self._behave(" ".join(more))
                self._post(DeployAsked(name, release.strip(";"), f"/srv/{name}/{release.strip(';')}", "uid 0"))
            case ["rollback", name, release]:
                self._post(DeployAsked(name, release, f"/srv/{name}/{release}", "uid 0", back=True))
            case ["by-hand", name, release, *more] if self._applied is not None:
                self._behave(" ".join(more))
                self._links[name] = release.strip(";")
                self._post(self._linked(self._applied))
            case ["disk", state]:
                self._disk_full = state == "full"
            case ["memory", state]:
                self._room = state == "free"
            case ["supervisor", "dies"]:
                self._die()
            case ["start", name]:
                self._post(StartAsked(name))
            case ["stop", name]:
                self._post(StopAsked(name))
            case ["restart", name]:
                self._post(RestartAsked(name))
            case ["restart-now", name]:
                self._post(RestartAsked(name, at_once=True))
            case ["signal", name, signal]:
                self._post(SignalAsked(name, signal))
            case ["shutdown"]:
                self._post(ShutdownAsked())
            case [who, verb]:
                self._act(self._id(who), verb)
            case _:
                raise ValueError(f"not a happening: {words!r}")

    def _act(self, who: InstanceId, verb: str) -> None:
        actor, now = self._actors[who], self._agenda.now
        match verb:
            case "hangs" | "works" | "waits":
                actor.hung, actor.does = now, verb
                self._agenda.after(LOOK_S, self._look_again, who, now)
            case "moves":
                actor.hung = None
                self._post(self._look(who))
                if actor.asked:
                    self._agenda.after(STOP_S, self._end, who, 0)
            case "worker":
                actor.worker = now
                self._agenda.after(WORKER_S, self._look_at_worker, who, now)
            case "old-worker":
                self._post(self._worker(who, now - 3.0, now - 93.0))
            case "blind-look":
                self._post(Looked(who, now, None, Verdict(Kind.SPINNING, "it spins", now - 30.0, nature=Nature.SPINNING)))
            case "crashes":
                self._end(who, 1)
            case "ends":
                self._end(who, 0)
            case "immortal" | "mortal":
                actor.immortal = verb == "immortal"
            case "old-look":
                verdict = Verdict(Kind.SPINNING, "it spins", now - 30.0, nature=Nature.SPINNING)
                self._post(Looked(who, now - 5.0, now - 35.0, verdict))
            case _:
                raise ValueError(f"nobody can do this: {verb!r}")

    def _look(self, who: InstanceId) -> Looked:
        actor, now = self._actors[who], self._agenda.now
        if actor.hung is None:
            answers = any(i.id == who and i.ready is not None for p in self._fleet.programs.values() for i in p.instances)
            kind = Kind.HEALTHY if answers else Kind.STARTING
            return Looked(who, now, now if answers else None, Verdict(kind, kind.value, now), self._room)
        hang = self._fleet.programs[who.program].settings.hang
        nature, proof, _ = DOES[actor.does]
        still_s, limit_s = now - actor.hung, hang.blocked_s if nature is Nature.BLOCKED else hang.certain_s
        proven = limit_s is not None and still_s >= limit_s
        kind = proof if proven else Kind.SUSPECT if still_s >= hang.suspect_s else Kind.BUSY
        return Looked(who, now, actor.hung, Verdict(kind, f"still for {still_s:.1f} s", actor.hung, nature=nature), self._room)

    def _look_at_worker(self, who: InstanceId, began: float) -> None:
        actor = self._actors[who]
        if actor.alive and actor.worker == began:
            self._agenda.after(WORKER_S, self._look_at_worker, who, began)
            self._post(self._worker(who, self._agenda.now, began))

    @staticmethod
    def _worker(who: InstanceId, at: float, since: float) -> WorkerLooked:
        verdict = Verdict(Kind.SPINNING, "it spins", since, Scope.WORKER, Nature.SPINNING)
        return WorkerLooked(who, WORKER_PID, 1, at, since, verdict)

    def _evidence(self, who: InstanceId) -> EvidenceTaken:
        actor = self._actors[who]
        place = DOES[actor.does][2]
        waits = actor.does == "waits"
        return EvidenceTaken(who, f"it is in {place}", place, f"shop.py:41 {place}()", DATABASE if waits else "")

    def _die(self) -> None:
        """What lives is ended by the next one; that remembers numbers, incidents and causes."""
        numbers = {name: program.started for name, program in self._fleet.programs.items()}
        causes = {name: tuple(known.values()) for name, known in self._memory.items()}
        self._fleet = Fleet(incidents=self._fleet.incidents, numbers=numbers, causes=causes)
        for actor in self._actors.values():
            actor.alive = False
        if self._applied is not None:
            self._agenda.after(REBIRTH_S, self._post, self._linked(self._applied))

    def _look_again(self, who: InstanceId, hung: float) -> None:
        actor = self._actors[who]
        if actor.alive and actor.hung == hung:
            self._agenda.after(LOOK_S, self._look_again, who, hung)
            self._post(self._look(who))

    def _end(self, who: InstanceId, status: int) -> None:
        actor = self._actors[who]
        if actor.alive:
            actor.alive = False
            self._post(Exited(who, status, 0, f"status {status}"))

    # --- the supervisor

    def _post(self, event: Event) -> None:
        if self._over:
            return
        self._turns += 1
        assert self._turns < TURNS, "the story does not end"
        now = self._agenda.now
        self._fleet, effects, self._wake = step(self._fleet, event, now)
        if self._wake is not None:
            self._agenda.at(self._wake, self._woke, self._wake)
        for effect in effects:
            self._perform(effect)
        if drained(self._fleet):
            self._say("over")
            self._over = True

    def _woke(self, wake: float) -> None:
        if wake == self._wake:
            self._post(Woke())

    def _say(self, words: str) -> None:
        self._lines.setdefault(self._agenda.now, []).append(words)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Spawn():
                release = self._releases.get(effect.build.release, Release())
                self._actors[effect.id] = Actor(release)
                self._say(f"start {self._name(effect.id)}" + (f" {effect.build.release}" if effect.build.release != "r1" else ""))
                self._agenda.after(SPAWN_S, self._post, Spawned(effect.id, 100 + effect.id.number, 1))
            case Open():
                self._boot(effect.id)
            case Signal():
                self._signal(effect)
            case Kill():
                self._say(f"kill {self._name(effect.id)}")
                self._agenda.after(KILL_S, self._kill, effect)
            case Look():
                self._agenda.after(0.0, self._answer_look, effect.id)
            case TakeEvidence():
                self._agenda.after(0.2, self._post, self._evidence(effect.id))
            case Remember():
                known = self._memory.setdefault(effect.program, {})
                before, known[effect.known.key] = known.get(effect.known.key), effect.known
                if len(effect.known.proven) > (len(before.proven) if before is not None else 0):
                    self._say(f"knows {effect.known.key} x{len(effect.known.proven)}")
            case KillWorker():
                self._say(f"{effect.signal} to worker of {self._name(effect.id)}")
                if effect.signal == "KILL":
                    self._actors[effect.id].worker = None
            case Switch():
                self._switch(effect)
            case RunPreflight():
                self._say(f"preflight {effect.build.release}")
                problem = self._releases.get(effect.build.release, Release()).preflight
                self._agenda.after(0.3, self._post, Preflighted(effect.program, effect.build.number, problem))
            case Tell():
                self._say(f"tell {effect.key}" + (f" step {effect.step}" if effect.step > 0 else ""))
            case Forget():
                self._say(f"forget {effect.program}")
            case _:
                pass

    def _switch(self, effect: Switch) -> None:
        release = effect.directory.rsplit("/", 1)[-1]
        self._say(f"link {release}" + (" fails" if self._disk_full else ""))
        if not self._disk_full:
            self._links[effect.program] = release
        problem = "no space left on device" if self._disk_full else ""
        self._agenda.after(SWITCH_S, self._post, Switched(effect.program, effect.directory, problem))

    def _boot(self, who: InstanceId) -> None:
        release = self._actors[who].release
        if release.crashes:
            self._agenda.after(0.1, self._end, who, 1)
        elif not release.silent:
            self._agenda.after(release.boot_s, self._answer, who)

    def _answer(self, who: InstanceId) -> None:
        if self._actors[who].alive:
            self._post(Answered(who, "GET /health answered 200"))

    def _answer_look(self, who: InstanceId) -> None:
        if self._actors[who].alive:
            self._post(self._look(who))

    def _signal(self, effect: Signal) -> None:
        known = self._fleet.programs[effect.id.program].settings
        actor = self._actors[effect.id]
        if effect.signal != known.stop:
            self._say(f"{effect.signal} {self._name(effect.id)}")
            return
        self._say(f"stop {self._name(effect.id)}")
        actor.asked = True
        if actor.hung is None and not actor.release.silent:
            self._agenda.after(STOP_S, self._end, effect.id, 0)

    def _kill(self, effect: Kill) -> None:
        actor = self._actors[effect.id]
        if actor.immortal:
            return
        if effect.unmoved_since is not None and actor.hung is None:
            self._post(Spared(self._look(effect.id)))
            return
        self._end(effect.id, -9)

    # --- words

    def _id(self, text: str) -> InstanceId:
        if ":" in text:
            return InstanceId.parse(text)
        return InstanceId(next(iter(self._fleet.programs)), int(text))

    def _name(self, who: InstanceId) -> str:
        return str(who.number) if who.program == next(iter(self._fleet.programs)) else str(who)

    def _configuration(self, setup: str) -> Applied:
        programs: list[Candidate] = []
        steps: tuple[EscalationStep, ...] = (EscalationStep(notify=("log://people",)),)
        for part in filter(None, (part.strip() for part in setup.split(";"))):
            name, _, words = part.partition(" ")
            if name.endswith(":"):
                self._behave(part)
            else:
                programs.append(_candidate(name, words.split()))
        return Applied(tuple(programs), steps)

    def _behave(self, part: str) -> None:
        """How a release behaves: "r2: crashes"."""
        if part:
            name, _, words = part.partition(": ")
            self._releases[name] = _release(words)

    def _linked(self, applied: Applied) -> Applied:
        """The same, with what each program's link names now."""
        return replace(applied, programs=tuple(self._through_the_link(candidate) for candidate in applied.programs))

    def _through_the_link(self, candidate: Candidate) -> Candidate:
        if not candidate.linked:
            return candidate
        name = candidate.settings.name
        release = self._links.setdefault(name, candidate.release)
        return replace(candidate, release=release, directory=f"/srv/{name}/{release}")


def _release(words: str) -> Release:
    match words.strip():
        case "crashes":
            return Release(crashes=True)
        case "silent":
            return Release(silent=True)
        case "preflight fails":
            return Release(preflight="it does not compile")
        case other:
            return Release(boot_s=float(other.removeprefix("boot=")))


def _candidate(name: str, words: list[str]) -> Candidate:
    settings = ProgramSettings(name=name, launch=LaunchSettings(command=("serve", name)), relief=ReliefSettings(extra=1))
    release = "r1"
    if "linked" in words:
        settings = replace(settings, launch=replace(settings.launch, directory=f"/srv/{name}/current"))
    for word in words:
        if word in ("linked", "in-place"):
            continue
        if word[0] == "r" and word[1:].isdecimal():
            release = word
        elif word[0] == "x":
            instances, _, extra = word[1:].partition("+")
            settings = replace(settings, instances=int(instances), relief=replace(settings.relief, extra=int(extra or 0)))
        else:
            settings = _with(settings, *word.split("=", 1))
    directory = f"/srv/{name}" if "in-place" in words else f"/srv/{name}/{release}"
    return Candidate(settings, release, directory, linked="linked" in words)


def _with(settings: ProgramSettings, key: str, value: str) -> ProgramSettings:
    match key:
        case "after":
            return replace(settings, after=tuple(value.split(",")))
        case "probation":
            return replace(settings, release=replace(settings.release, probation_s=float(value)))
        case "rollback":
            return replace(settings, release=replace(settings.release, rollback=value == "yes"))
        case "grace":
            return replace(settings, grace_s=float(value))
        case "boot-limit":
            return replace(settings, health=replace(settings.health, start_s=float(value)))
        case "act":
            return replace(settings, hang=replace(settings.hang, act=Act(value)))
        case "retire":
            return replace(settings, relief=replace(settings.relief, retire=Retirement(value)))
        case "server":
            return replace(settings, server=value)
        case "budget":
            return replace(settings, restart=replace(settings.restart, budget=int(value)))
        case "preflight":
            return replace(settings, launch=replace(settings.launch, preflight=((value,),)))
        case _:
            raise ValueError(f"no such setting: {key!r}")
