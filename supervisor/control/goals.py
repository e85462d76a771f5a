"""When a command is done: what a verb waits for, one goal for each program. Pure over the fleets that follow each other.

A goal is asked after each step. It is reached, or lost with the reason, or its bound passes: then it says what is missing, and the
daemon goes on by itself. `bound_s` is the longest that the policy lets it take, not a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from supervisor.model import Blame, Build, Candidate, Fleet, Instance, InstanceId, Program, ProgramSettings, Standing, State, Wanted
from supervisor.policy import history, releases
from supervisor.policy.fill import PREFLIGHT_S
from supervisor.policy.instance import KILL_AGAIN_S, RETIRING_LIMIT_S
from supervisor.policy.wanted import cleared, stale
from supervisor.policy.words import spell

KILL_S = 2 * KILL_AGAIN_S  # after two kills in vain people are told that it cannot be killed
DRAINING = "the supervisor is being stopped: nothing is started any more"
SLACK_S = 5.0  # the daemon's own work, on a busy host
FAILURES = frozenset(  # notes
    {
        "instance.failed",
        "instance.killed",
        "program.crash_looped",
        "preflight.failed",
        "build.refused",
        "build.lost",
        "build.failed",
    }
)


@dataclass(frozen=True, slots=True)
class Wish:
    """The release that somebody wants: a new one, or one to go `back` to."""

    release: str
    directory: str
    back: bool


class Goal:
    """What is waited for of one program."""

    def __init__(self, settings: ProgramSettings, bound_s: float) -> None:
        self.name = settings.name
        self.bound_s = bound_s
        self._done = False
        self._text = ""
        self._reason = ""
        self._missing = "nothing has happened yet"

    def hear(self, story: Mapping[str, Any]) -> None:
        """A note of the program: it may be the reason of a failure."""
        if story.get("event") in FAILURES:
            subject, text = story.get("subject", self.name), str(story.get("text", ""))
            self._reason = text if subject == self.name else f"{subject} {text}"

    def reached(self, fleet: Fleet) -> bool:
        """Whether it is decided, for good or ill."""
        if not self._text:
            self._decide(fleet.programs.get(self.name))
        if not self._text and fleet.draining:
            self._drain()
        return bool(self._text)

    def outcome(self) -> dict[str, Any]:
        """For people and scripts; to be asked once it is decided or its bound has passed."""
        waiting = f"not done after {spell(self.bound_s)}: {self._missing}; it goes on (see: reviver explain {self.name})"
        return {"name": self.name, "done": self._done, "text": self._text or waiting}

    def _decide(self, program: Program | None) -> None:
        raise NotImplementedError

    def _drain(self) -> None:
        """The supervisor itself is being stopped, and this is not reached yet."""

    def _won(self, text: str) -> None:
        self._done, self._text = True, text

    def _lost(self, text: str) -> None:
        self._text = text


class Down(Goal):
    """Nothing of it lives, and nobody wants it."""

    def __init__(self, program: Program, fleet: Fleet) -> None:
        needing = [p for p in fleet.programs.values() if self._waits_for(program, p)]
        leave_s = max(p.settings.grace_s for p in (program, *needing)) * (len(needing) + 1)
        super().__init__(program.settings, leave_s + KILL_S + SLACK_S)
        self._before = "stopped" if program.instances else "not running"
        if not program.instances and program.wanted is Wanted.UP:
            self._before = "stopped: nothing of it ran, and it is not started again"

    @staticmethod
    def _waits_for(program: Program, other: Program) -> bool:
        """Whether `other` leaves first."""
        return program.settings.name in other.settings.after and bool(other.instances)

    def _decide(self, program: Program | None) -> None:
        if program is None:
            self._won("stopped, and gone from the configuration")
        elif not program.instances and program.wanted is Wanted.DOWN:
            self._won(self._before)
        else:
            self._missing = _list(program.instances)


class Up(Goal):
    """As many ready as are wanted."""

    def __init__(self, program: Program, fleet: Fleet, asked: float) -> None:
        """asked: the monotonic instant before the command was posted; older failures are not its."""
        super().__init__(program.settings, self._bound_s(program, fleet))
        self._asked = asked
        self._started = program.started
        self._old: frozenset[InstanceId] = frozenset()
        self._seen: dict[InstanceId, Instance] = {}
        self._known = program.settings.name in fleet.programs
        self._was_up = False
        self._rests = program.resting

    def _bound_s(self, program: Program, fleet: Fleet) -> float:
        return start_s(program, fleet) + SLACK_S

    def _decide(self, program: Program | None) -> None:
        if program is None:
            if self._known:
                self._lost("it is not in the configuration any more")
            return
        self._known = True
        if program.wanted is Wanted.UP:
            self._was_up = True
        elif self._was_up:
            self._lost("it was stopped meanwhile")
            return
        if self._failed(program):
            self._lost(self._reason or program.broken or "the new instance failed")
        elif self._complete(program):
            self._finish(program)
        else:
            self._missing = _list(program.instances) or program.broken or "nothing of it runs"

    def _drain(self) -> None:
        self._lost(DRAINING)

    def _failed(self, program: Program) -> bool:
        """Whether a new instance failed, or none can be started."""
        fresh = {instance.id: instance for instance in program.instances if instance.id not in self._old}
        rested, self._rests = program.resting > self._rests, program.resting
        died = any(_blamed(last) or (_served(last) and not rested) for id, last in self._seen.items() if id not in fresh)
        self._seen = fresh
        broken = bool(program.broken) and program.failed is not None and program.failed >= self._asked
        return died or broken or any(_blamed(instance) for instance in fresh.values())

    def _complete(self, program: Program) -> bool:
        rested = program.resting if program.started > self._started else 0
        ready = sum(1 for instance in self._seen.values() if instance.state is State.READY)
        return program.wanted is Wanted.UP and ready >= program.settings.instances - rested

    def _finish(self, program: Program) -> None:
        ready = [str(instance.id) for instance in program.instances if instance.state is State.READY]
        if ready:
            self._won(f"ready: {', '.join(ready)}")
        elif self._reason:
            self._lost(self._reason)
        else:
            self._won("ended by itself, as it may, and rests")


class Replaced(Up):
    """New ones are ready, and those that lived before are gone."""

    def __init__(self, program: Program, fleet: Fleet, asked: float) -> None:
        super().__init__(program, fleet, asked)
        self._old = frozenset(instance.id for instance in program.instances)

    def _bound_s(self, program: Program, fleet: Fleet) -> float:
        settings = program.settings
        if settings.relief.extra == 0:
            return settings.instances * (start_s(program, fleet) + settings.grace_s + KILL_S) + SLACK_S
        rounds = math.ceil(settings.instances / settings.relief.extra)
        return rounds * (start_s(program, fleet) + RETIRING_LIMIT_S + KILL_S) + SLACK_S

    def _complete(self, program: Program) -> bool:
        return super()._complete(program) and not any(instance.id in self._old for instance in program.instances)


class ReplacedAtOnce(Replaced):
    """The same, where the old ones are asked to go before the new ones are ready."""

    def _bound_s(self, program: Program, fleet: Fleet) -> float:
        return program.settings.grace_s + KILL_S + start_s(program, fleet) + SLACK_S


class Taken(Replaced):
    """It runs as a new configuration says; it may be a program that was not known before."""

    def __init__(self, program: Program, candidate: Candidate, fleet: Fleet, asked: float) -> None:
        super().__init__(program, fleet, asked)
        self.bound_s = self._bound_s(replace(program, settings=candidate.settings), fleet)
        self._candidate = candidate
        self._chosen = False

    def _failed(self, program: Program) -> bool:
        proposed = program.proposed is not None and self._is_it(program, program.proposed.build)
        chosen = proposed or self._is_it(program, program.build)
        given_up = self._chosen and not chosen
        self._chosen = self._chosen or chosen
        return super()._failed(program) or given_up

    def _is_it(self, program: Program, build: Build) -> bool:
        """Which release it is says the link alone, where there is one: it may be on its way to another."""
        same = program.link is not None or build.release == self._candidate.release
        return same and build.launch == self._candidate.settings.launch

    def _complete(self, program: Program) -> bool:
        fresh = not any(stale(program, instance) for instance in program.instances)
        return self._is_it(program, program.build) and fresh and super()._complete(program)


class Released(Replaced):
    """A release serves alone and its link names it; of a stopped program, the link alone."""

    def __init__(self, program: Program, wanted: Wish, fleet: Fleet, asked: float) -> None:
        super().__init__(program, fleet, asked)
        self._wish = wanted
        self._before = program.build.release
        self._taken = False
        self._past = program.releases[-1].number if program.releases else 0

    def _is_it(self, build: Build) -> bool:
        return (build.directory, build.release) == (self._wish.directory, self._wish.release)

    def _decide(self, program: Program | None) -> None:
        if program is None:
            self._lost("it is not in the configuration any more")
            return
        ours = self._is_it(program.build)
        proposed = program.proposed is not None and self._is_it(program.proposed.build)
        self._taken = self._taken or ours or proposed
        line = releases.find(program, self._wish.directory, self._wish.release)
        failed = line is not None and line.number > self._past and line.standing is Standing.FAILED
        if failed or (self._taken and not ours and not proposed):
            self._lost(self._reason or "another release took its place")
        elif program.broken and program.failed is not None and program.failed >= self._asked:
            self._lost(self._reason or program.broken)
        elif ours and self._alone(program):
            self._end(program)
        else:
            self._missing = "its preflight has not ended" if proposed else _list(program.instances)

    @staticmethod
    def _alone(program: Program) -> bool:
        if not cleared(program):
            return False
        if program.wanted is Wanted.DOWN:
            return not program.instances
        serving = [i for i in program.instances if i.state is State.READY and not stale(program, i)]
        return len(serving) == len(program.instances) >= program.settings.instances - program.resting

    def _end(self, program: Program) -> None:
        link, release = program.link, self._wish.release
        serves = f"release {release} serves: {', '.join(str(i.id) for i in program.instances)}"
        if program.wanted is Wanted.DOWN:
            serves = f"release {release} is deployed, and stopped: reviver start {self.name} starts it"
        if link is not None and link.problem:
            self._lost(f"{serves}; but {link.path} could not be switched: {link.problem}")
        elif link is None or link.names == self._wish.directory:
            self._won(serves + self._mind(program))
        else:
            self._missing = f"{link.path} is being switched"

    def _mind(self, program: Program) -> str:
        if self._wish.back:
            return f"; what {self._before} changed elsewhere (a database) stays changed"
        probation_s = program.settings.release.probation_s
        return f"; on probation for {spell(probation_s)}" if program.trial is not None else ""


def start_s(program: Program, fleet: Fleet) -> float:
    """The longest that one start may take, in seconds: those in `after`, the preflight, and twice the time to become ready."""
    settings = program.settings
    known = [fleet.programs[name].settings.health.start_s for name in settings.after if name in fleet.programs]
    preflight_s = PREFLIGHT_S if settings.launch.preflight else 0.0
    return max(known, default=0.0) + preflight_s + 2 * history.start_s(program)


def _blamed(instance: Instance) -> bool:
    return instance.state is State.KILLING and instance.blame is not Blame.NOBODY


def _served(instance: Instance) -> bool:
    """Whether it was meant to live on: its end is a failure, unless it may end by itself."""
    return instance.state in (State.STARTING, State.READY, State.SUSPECT)


def _list(instances: tuple[Instance, ...]) -> str:
    return ", ".join(f"{instance.id} is {instance.state.value}" for instance in instances)
