"""What each method of the protocol does: questions are answered by views, commands become events and wait until it is so.

Runs on the loop, and never blocks it. `METHODS` is the whole protocol; parameters are checked by their types.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec

from supervisor.config import ConfigErrors
from supervisor.control import messages, views
from supervisor.control.backend import CHANNELS_S, Backend, Reading, Story
from supervisor.control.goals import DRAINING, Down, Goal, Released, Replaced, ReplacedAtOnce, Taken, Up, Wish
from supervisor.lanes import LaneError
from supervisor.mechanism.upgrade import TRIAL_S, Unusable
from supervisor.model import (
    AckAsked,
    DeployAsked,
    Event,
    Fleet,
    HoldAsked,
    HoldEndAsked,
    Program,
    RestartAsked,
    SignalAsked,
    Standing,
    StartAsked,
    StopAsked,
)
from supervisor.policy import builds, releases
from supervisor.policy.program import create
from supervisor.readers import duration_s
from supervisor.records.journal import JournalError

HOLD_LIMIT_S = 7 * 86400.0
REASON_LIMIT = 200  # characters: it stands in messages
TRIED = 10  # notes that `explain` tells
NAME_SHOWN = 65  # characters of a name that nobody knows: one more than any has


class Refused(Exception):
    """The answer is no: an error's code, one sentence, and more of them."""

    def __init__(self, code: int, text: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class Caller(Protocol):
    """The client's end, as a method sees it."""

    @property
    def owner(self) -> bool:
        """Whether it is the daemon's own user or root; else it is a member of [reviver] group."""
        ...

    @property
    def uid(self) -> int:
        """The user at the other end."""
        ...

    def say(self, name: str, params: dict[str, Any]) -> None:
        """Tell the client something before or after the answer."""
        ...

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call back when the client is gone, and do not expect further requests of it."""
        ...


class Params(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Nothing(Params):
    pass


class Named(Params):
    name: str


class Names(Params):
    """`names` empty or ["all"]: every program, where the method allows it."""

    names: list[str] = []


class Waiting(Params):
    wait: bool = True


class Commanded(Waiting):
    names: list[str] = []


class Restarted(Commanded):
    now: bool = False


class Signalled(Names):
    signal: str = "TERM"


class Deployed(Waiting):
    """`words` are [NAME] PATH; `folder` is where the client stands."""

    words: list[str] = []
    folder: str = "/"
    again: bool = False


class RolledBack(Waiting):
    name: str = ""


class File(Waiting):
    path: str | None = None


class Events(Params):
    limit: int = 100
    name: str = ""
    follow: bool = False


class Incidents(Params):
    limit: int = 50
    name: str = ""


class Numbered(Params):
    incident: int


class Acked(Params):
    """Without `incident`: the only one that is open."""

    incident: int | None = None


class Held(Params):
    """`lasts` is written as in the configuration: "20m". `end`: the hold is to end now."""

    name: str
    lasts: str = ""
    reason: str = ""
    end: bool = False


class Verbs:
    """The methods over one daemon."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def call(self, method: str, params: dict[str, Any], caller: Caller) -> Any:
        """Do one method and give its result.

        raises  Refused
        """
        if method not in METHODS:
            raise Refused(messages.NO_SUCH_METHOD, f"there is no method {method[:60]!r}: {', '.join(METHODS)}")
        shape, do = METHODS[method]
        try:
            checked = msgspec.convert(params, shape)
        except msgspec.ValidationError as problem:
            raise Refused(messages.INVALID_PARAMS, f"{method}: {problem}") from None
        return await do(self, checked, caller)

    # --- questions

    async def about(self, _: Nothing, __: Caller) -> dict[str, Any]:
        about = self._backend.about()
        daemon = about.daemon
        return {
            "pid": about.pid,
            "version": about.version,
            "config": about.config,
            "guarded": about.guarded,
            "runtime_dir": daemon.runtime_dir,
            "state_dir": daemon.state_dir,
            "log_dir": daemon.log_dir,
        }

    async def status(self, asked: Names, _: Caller) -> dict[str, Any]:
        fleet = self._backend.fleet()
        names = self._known(asked.names) if asked.names else tuple(fleet.programs)
        ids = [instance.id for name in names for instance in fleet.programs[name].instances]
        sampled = {id: vitals for id in ids if (vitals := self._backend.vitals(id)) is not None}
        return views.status(fleet, self._backend.about(), sampled, _moment(), names)

    async def explain(self, asked: Named, _: Caller) -> dict[str, Any]:
        self._known([asked.name])
        try:
            stories = await self._stories(TRIED, asked.name)
        except Refused:
            stories = []  # why it is so is known without the journal
        (name,) = self._known([asked.name])  # it may have gone meanwhile
        fleet = self._backend.fleet()
        return views.explain(fleet.programs[name], fleet, stories, _moment())

    async def events(self, asked: Events, caller: Caller) -> list[Story]:
        limit = max(0, min(asked.limit, messages.EVENTS_LIMIT))
        if asked.name:
            self._known([asked.name])
        if not asked.follow:
            return await self._stories(limit, asked.name)
        heard: list[Story] = []
        tell = heard.append

        def hear(story: Story) -> None:
            if asked.name in ("", _program_of(story)):
                tell(story)

        caller.at_end(self._backend.subscribe(hear))
        past = await self._stories(limit, asked.name)
        tell = _teller(caller, "event")
        return past + [story for story in heard if story not in past]

    async def plan(self, asked: File, caller: Caller) -> dict[str, Any]:
        return self._plan(await self._read(asked.path, caller))

    async def releases(self, asked: Names, _: Caller) -> dict[str, Any]:
        fleet = self._backend.fleet()
        names = self._known(asked.names) if asked.names else tuple(fleet.programs)
        return {"programs": [views.releases(fleet.programs[name], _moment()) for name in names]}

    async def incidents(self, asked: Incidents, _: Caller) -> dict[str, Any]:
        limit = max(0, min(asked.limit, messages.EVENTS_LIMIT))
        return {"incidents": await self._recorded(self._backend.incidents(limit, asked.name))}

    async def incident(self, asked: Numbered, _: Caller) -> dict[str, Any]:
        found = await self._recorded(self._backend.incident(asked.incident))
        if found is None:
            raise Refused(messages.REFUSED, f"there is no incident {asked.incident} (see: reviver incidents)")
        open_now = self._open().get(asked.incident)
        state = views.incident(open_now, self._backend.fleet(), _moment()) if open_now is not None else {}
        return {**found, **state}

    # --- commands

    async def ack(self, asked: Acked, caller: Caller) -> dict[str, Any]:
        """Somebody is at it."""
        known, number = self._open(), asked.incident
        if number is None:
            if len(known) != 1:
                which = f"open are {', '.join(map(str, known))}" if known else "none is open"
                raise Refused(messages.REFUSED, f"which incident? {which}")
            (number,) = known
        if number not in known:
            raise Refused(messages.REFUSED, f"incident {number} is not open (see: reviver incidents)")
        incident = known[number].incident
        before = incident.acknowledged if incident is not None else None
        if before is not None:
            text = f"incident {number} was acknowledged {_moment().ago(before.at)} ago by {before.by}"
        else:
            self._backend.post(AckAsked(number, f"uid {caller.uid}"))
            text = f"incident {number} acknowledged: nobody else is told until it is over, or something new and critical comes"
        return {"incident": number, "program": known[number].settings.name, "text": text}

    async def hold(self, asked: Held, caller: Caller) -> dict[str, Any]:
        """Keep Reviver's hands off a program for a while, or end that."""
        (name,) = self._known([asked.name])
        held = self._backend.fleet().programs[name].hold
        if asked.end:
            if held is not None:
                self._backend.post(HoldEndAsked(name, f"uid {caller.uid}"))
            return {"name": name, "until": None, "text": "no longer held: it is healed again" if held else "is not held"}
        reason = asked.reason.strip()
        if not reason or len(reason) > REASON_LIMIT or not reason.isprintable():
            raise Refused(messages.USAGE, f"say why, on one line of at most {REASON_LIMIT} characters: --reason TEXT")
        lasts_s, moment = _hold_s(asked.lasts), _moment()
        self._backend.post(HoldAsked(name, lasts_s, reason, f"uid {caller.uid}"))
        return {
            "name": name,
            "until": moment.wall(moment.now + lasts_s),
            "text": "watched and recorded, not healed; your own commands work as ever",
        }

    async def try_channels(self, _: Nothing, caller: Caller) -> dict[str, Any]:
        """Send a test message through every channel, and say what came back."""
        caller.say("waiting", {"deadline_s": CHANNELS_S})
        return {"channels": await self._backend.try_channels()}

    async def start(self, asked: Commanded, caller: Caller) -> dict[str, Any]:
        return await self._command(asked, caller, StartAsked, _since(Up))

    async def stop(self, asked: Commanded, caller: Caller) -> dict[str, Any]:
        return await self._command(asked, caller, StopAsked, Down)

    async def restart(self, asked: Restarted, caller: Caller) -> dict[str, Any]:
        goal = ReplacedAtOnce if asked.now else Replaced
        return await self._command(asked, caller, lambda name: RestartAsked(name, asked.now), _since(goal))

    async def reload(self, asked: Commanded, caller: Caller) -> dict[str, Any]:
        """The program's own way: a rolling restart, or its signal."""
        fleet = self._backend.fleet()
        names = self._known(asked.names)
        ways = {name: fleet.programs[name].settings.reload for name in names}
        for name in names:
            if ways[name] != "restart":
                self._running(fleet.programs[name])
        asked_at = time.monotonic()
        goals: list[Goal] = [Replaced(fleet.programs[name], fleet, asked_at) for name in names if ways[name] == "restart"]
        events = [RestartAsked(name) if ways[name] == "restart" else SignalAsked(name, ways[name]) for name in names]
        result = await self._pursue(goals, lambda: self._post(events), asked, caller)
        sent = [_done(name, f"sent SIG{ways[name]}") for name in names if ways[name] != "restart"]
        return {"programs": [*result["programs"], *sent]}

    async def signal(self, asked: Signalled, _: Caller) -> dict[str, Any]:
        name = _signal_name(asked.signal)
        fleet = self._backend.fleet()
        programs = [fleet.programs[each] for each in self._known(asked.names)]
        for program in programs:
            self._running(program)
        self._post([SignalAsked(program.settings.name, name) for program in programs])
        return {"programs": [_done(program.settings.name, f"sent SIG{name}") for program in programs]}

    async def apply(self, asked: File, caller: Caller) -> dict[str, Any]:
        reading = await self._read(asked.path, caller)
        plan = self._plan(reading)
        goals = self._apply_goals(reading, {step["name"]: step["action"] for step in plan["programs"]})
        outcome = await self._pursue(goals, lambda: self._backend.take_up(reading), asked, caller)
        return {**plan, "outcome": outcome["programs"]}

    async def deploy(self, asked: Deployed, caller: Caller) -> dict[str, Any]:
        """Preflight in the new release, the switch, one instance after the other, probation."""
        name, path = self._name_and_path(asked.words)
        program = self._linked(name)
        directory = await self._place(program, path, asked.folder)
        wish = Wish(os.path.basename(directory), directory, back=False)
        build, known = program.build, releases.find(program, directory, wish.release)
        if not caller.owner and os.path.dirname(directory) != os.path.dirname(build.directory):
            text = "only the daemon's own user and root may deploy from another folder than that of the release that runs"
            raise Refused(messages.REFUSED, f"{text}, {os.path.dirname(build.directory)}")
        if directory == build.directory:
            state = "is on trial" if program.trial is not None else "runs"
            raise Refused(
                messages.REFUSED, f"release {wish.release} {state} already: reviver restart {name} replaces its instances"
            )
        if known is not None and known.standing is Standing.FAILED and not asked.again:
            text = f"release {wish.release} failed {_moment().ago(known.at)} ago: {known.why}; --again tries it once more"
            raise Refused(messages.REFUSED, text)
        return await self._release(program, wish, asked, caller)

    async def rollback(self, asked: RolledBack, caller: Caller) -> dict[str, Any]:
        """Back to the last good release."""
        name = asked.name or self._only_linked("reviver rollback NAME")
        program = self._backend.fleet().programs[self._known([name])[0]]
        last = releases.last_good(program)
        if program.link is None:
            directory, revision = program.build.directory, "" if last is None else last.name
            text = f"{name} runs in {directory}, which is no symlink: only you can change it back"
            raise Refused(messages.REFUSED, f"{text}: {builds.checkout(directory, revision)}")
        if last is None:
            text = f"{name} has no earlier release that was good (see: reviver releases {name})"
            raise Refused(messages.REFUSED, f"{text}; reviver deploy {name} PATH runs any")
        await self._place(program, last.directory, "/")
        return await self._release(program, Wish(last.name, last.directory, back=True), asked, caller)

    async def upgrade(self, _: Nothing, caller: Caller) -> dict[str, Any]:
        """Give way to the code that is installed now, once it was tried. Where that is done nobody is left to answer."""
        if not caller.owner:
            raise Refused(messages.REFUSED, "only the daemon's own user and root may have it replaced")
        if not self._backend.about().guarded:
            text = "nobody would start the new daemon: this one has neither a guard nor systemd"
            raise Refused(messages.REFUSED, f"{text} (reviver run starts one with a guard)")
        caller.say("waiting", {"deadline_s": TRIAL_S})
        try:
            version = await self._backend.try_new()
        except (Unusable, LaneError) as problem:
            text = f"the code that is installed now is not fit to take over, and this daemon goes on: {problem}"
            raise Refused(messages.REFUSED, text) from None
        if self._backend.fleet().draining:  # only now: it may have begun meanwhile, and what is being stopped must be stopped
            raise Refused(messages.REFUSED, DRAINING)
        caller.say("upgrading", {"version": version})
        self._backend.give_way(version)
        return {}

    # --- shared

    async def _release(self, program: Program, wish: Wish, asked: Waiting, caller: Caller) -> dict[str, Any]:
        name, fleet = program.settings.name, self._backend.fleet()
        event = DeployAsked(name, wish.release, wish.directory, f"uid {caller.uid}", wish.back)
        goal = Released(program, wish, fleet, time.monotonic())
        return await self._pursue([goal], lambda: self._backend.post(event), asked, caller)

    def _name_and_path(self, words: list[str]) -> tuple[str, str]:
        """Either order; without a name, the only program whose directory is a symlink."""
        programs = self._backend.fleet().programs
        usage = "reviver deploy [NAME] PATH"
        match words:
            case [path] if path not in programs:
                return self._only_linked(usage), path
            case [name, path] if name in programs or path not in programs:
                return self._known([name])[0], path
            case [path, name]:
                return name, path
            case _:
                raise Refused(messages.USAGE, f"which release? {usage} names its directory")

    def _only_linked(self, usage: str) -> str:
        names = [name for name, program in self._backend.fleet().programs.items() if program.link is not None]
        if len(names) != 1:
            which = messages.programs(names) if names else "there is none whose directory is a symlink"
            raise Refused(messages.USAGE, f"which program? {which}; {usage}")
        return names[0]

    def _linked(self, name: str) -> Program:
        program = self._backend.fleet().programs[name]
        if program.link is None:
            place = program.settings.launch.directory
            text = f"{name} runs in {place}, which is no symlink that could be switched: change it in place"
            text += f" ({builds.checkout(place, '')}), or make directory a symlink, such as {place}/current -> releases/1"
            raise Refused(messages.REFUSED, text)
        return program

    async def _place(self, program: Program, path: str, folder: str) -> str:
        """The directory that `path` names: from where the client stands, or, for a name alone, beside the release that runs."""
        beside = () if "/" in path else (os.path.join(os.path.dirname(program.build.directory), path),)
        problem = ""
        for known in (os.path.join(folder, path), *beside):
            try:
                return await self._backend.find(os.path.join("/", known))
            except OSError as error:
                problem = problem or f"{known}: {(error.strerror or str(error)).lower()}"
            except (LaneError, ValueError) as error:
                problem = problem or f"{known}: {error}"
        raise Refused(messages.REFUSED, f"no release there, nothing was changed: {problem}")

    def _apply_goals(self, reading: Reading, actions: dict[str, str]) -> list[Goal]:
        fleet, asked = self._backend.fleet(), time.monotonic()
        taken: list[Goal] = [
            Taken(fleet.programs.get(candidate.settings.name) or create(candidate, asked), candidate, fleet, asked)
            for candidate in reading.applied.programs
            if actions[candidate.settings.name] in ("start", "restart")
        ]
        return taken + [Down(fleet.programs[name], fleet) for name, action in actions.items() if action == "stop"]

    def _known(self, names: list[str]) -> tuple[str, ...]:
        """The names, each once, "all" spelled out. Raises Refused when one is no program."""
        programs = self._backend.fleet().programs
        if not names:
            raise Refused(messages.INVALID_PARAMS, "which program? name one, or all")
        if len(names) > messages.NAMES_LIMIT:
            raise Refused(messages.INVALID_PARAMS, f"{len(names)} names in one request; at most {messages.NAMES_LIMIT}")
        if messages.ALL in names and messages.ALL not in programs:
            return tuple(programs)
        for name in names:
            if name not in programs:
                raise Refused(messages.NO_SUCH_PROGRAM, _unknown(name, list(programs)))
        return tuple(dict.fromkeys(names))

    def _running(self, program: Program) -> None:
        if not program.instances:
            raise Refused(messages.REFUSED, f"{program.settings.name} is not running: there is nothing to send a signal to")

    def _open(self) -> dict[int, Program]:
        """The programs with an open incident, by its number."""
        programs = self._backend.fleet().programs.values()
        return {program.incident.number: program for program in programs if program.incident is not None}

    async def _recorded(self, reading: Awaitable[Any]) -> Any:
        try:
            return await reading
        except (LaneError, JournalError) as problem:
            raise Refused(messages.REFUSED, str(problem)) from None

    async def _stories(self, limit: int, name: str) -> list[Story]:
        try:
            return await self._backend.events(limit, name)
        except (LaneError, JournalError) as problem:
            raise Refused(messages.REFUSED, str(problem)) from None

    async def _read(self, path: str | None, caller: Caller) -> Reading:
        """A configuration says which commands run as which user: only the owner may name another file than the running one."""
        if path is not None and path != self._backend.about().config and not caller.owner:
            text = "only the daemon's own user and root may name another configuration file; name none to read that one again"
            raise Refused(messages.REFUSED, text)
        try:
            return await self._backend.read(path)
        except ConfigErrors as problem:
            faults = tuple(str(fault) for fault in problem.faults)
            raise Refused(
                messages.BAD_CONFIG, f"the configuration has {_faults(len(faults))}; nothing was changed", faults
            ) from None
        except LaneError as problem:
            raise Refused(messages.REFUSED, f"the configuration cannot be read: {problem}") from None

    def _plan(self, reading: Reading) -> dict[str, Any]:
        settings = reading.settings
        plan = views.plan(self._backend.fleet(), reading.applied, self._backend.about().daemon, settings.daemon)
        return {"config": settings.path, **plan, "unused": list(settings.unused)}

    async def _command(
        self, asked: Commanded, caller: Caller, event: Callable[[str], Event], goal: Callable[[Program, Fleet], Goal]
    ) -> dict[str, Any]:
        fleet = self._backend.fleet()
        names = self._known(asked.names)
        goals = [goal(fleet.programs[name], fleet) for name in names]
        return await self._pursue(goals, lambda: self._post([event(name) for name in names]), asked, caller)

    def _post(self, events: Iterable[Event]) -> None:
        for event in events:
            self._backend.post(event)

    async def _pursue(self, goals: list[Goal], do: Callable[[], None], asked: Waiting, caller: Caller) -> dict[str, Any]:
        """Do it, and wait until each goal is reached or lost, or its bound has passed; meanwhile tell the caller the story."""
        if self._backend.fleet().draining and not all(isinstance(goal, Down) for goal in goals):
            raise Refused(messages.REFUSED, DRAINING)
        if not asked.wait:
            do()
            return {"programs": [_done(goal.name, "asked; nobody waits for it") for goal in goals]}
        names = {goal.name for goal in goals}
        say = _teller(caller, "progress")

        def hear(story: Story) -> None:
            name = _program_of(story)
            if name in names:
                say(story)
                for goal in goals:
                    if goal.name == name:
                        goal.hear(story)

        def decided(fleet: Fleet) -> bool:
            undecided = [goal for goal in goals if not goal.reached(fleet)]  # each has to see each step
            return not undecided

        deadline_s = max((goal.bound_s for goal in goals), default=0.0)
        unsubscribe = self._backend.subscribe(hear)
        try:
            do()
            caller.say("waiting", {"deadline_s": deadline_s})
            await self._backend.until(decided, deadline_s)
        finally:
            unsubscribe()
        return {"programs": [goal.outcome() for goal in goals]}


def _since(goal: type[Up]) -> Callable[[Program, Fleet], Goal]:
    return lambda program, fleet: goal(program, fleet, time.monotonic())


def _moment() -> views.Moment:
    now = time.monotonic()
    return views.Moment(now, time.time() - now)


def _teller(caller: Caller, name: str) -> Callable[[Story], None]:
    return lambda story: caller.say(name, story)


def _program_of(story: Story) -> str:
    """The program that a story is about: its subject is "store" or "store:7"."""
    name, _, number = str(story.get("subject", "")).rpartition(":")
    return name if name and number.isdecimal() else str(story.get("subject", ""))


def _done(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "done": True, "text": text}


def _faults(count: int) -> str:
    return "1 fault" if count == 1 else f"{count} faults"


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # only a slip of the fingers needs it: the daemon starts without

    name = name[:NAME_SHOWN]  # what is longer is none, and takes long to compare
    if not known:
        return f"there is no program {name!r}: the configuration has none"
    near = difflib.get_close_matches(name, known, 1)
    return f"there is no program {name!r}: " + (f"did you mean {near[0]!r}?" if near else messages.programs(known))


def _hold_s(text: str) -> float:
    """Seconds of a hold. Raises Refused."""
    try:
        lasts_s = duration_s(text)
    except ValueError:
        raise Refused(messages.USAGE, f"for how long? {text[:40]!r} is no duration: write it like 20m or 1h30m") from None
    if not 1.0 <= lasts_s <= HOLD_LIMIT_S:
        raise Refused(messages.USAGE, "a hold lasts from 1s to 7d: a program that nobody may heal must not be forgotten")
    return lasts_s


def _signal_name(text: str) -> str:
    """A signal's name without SIG, from "HUP", "sighup" or "1". Raises Refused."""
    name = text.upper().removeprefix("SIG")
    if text in {str(int(known)) for known in signal.Signals}:
        return signal.Signals(int(text)).name.removeprefix("SIG")
    if f"SIG{name}" not in signal.Signals.__members__:
        raise Refused(messages.INVALID_PARAMS, f"there is no signal {text[:40]!r}: write it like HUP, USR1 or TERM")
    return name


METHODS: dict[str, tuple[type[Params], Callable[..., Awaitable[Any]]]] = {
    "about": (Nothing, Verbs.about),
    "status": (Names, Verbs.status),
    "explain": (Named, Verbs.explain),
    "events": (Events, Verbs.events),
    "plan": (File, Verbs.plan),
    "apply": (File, Verbs.apply),
    "start": (Commanded, Verbs.start),
    "stop": (Commanded, Verbs.stop),
    "restart": (Restarted, Verbs.restart),
    "reload": (Commanded, Verbs.reload),
    "signal": (Signalled, Verbs.signal),
    "deploy": (Deployed, Verbs.deploy),
    "rollback": (RolledBack, Verbs.rollback),
    "releases": (Names, Verbs.releases),
    "incidents": (Incidents, Verbs.incidents),
    "incident": (Numbered, Verbs.incident),
    "ack": (Acked, Verbs.ack),
    "hold": (Held, Verbs.hold),
    "upgrade": (Nothing, Verbs.upgrade),
    "try_channels": (Nothing, Verbs.try_channels),
}
