"""Rules of policy one by one, in virtual time. Whole stories stand in test_stories.py, whole worlds in tests/sim."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.model import (
    Act,
    Answered,
    Applied,
    Candidate,
    Effect,
    EscalationStep,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    HangSettings,
    InstanceId,
    Kill,
    Kind,
    LaunchSettings,
    Looked,
    Nature,
    Note,
    Preflighted,
    Program,
    ProgramSettings,
    ReliefSettings,
    RestartAsked,
    RestartSettings,
    RestartWhen,
    RunPreflight,
    Severity,
    ShutdownAsked,
    Signal,
    Spared,
    Spawn,
    Spawned,
    SpawnFailed,
    StartAsked,
    State,
    StopAsked,
    Tell,
    Verdict,
    Woke,
)
from supervisor.policy.fleet import drained, step
from supervisor.policy.history import JITTER, SLOWEST, backoff_s
from supervisor.policy.words import spell


def program(name: str = "store", *, extra: int = 1, command: str = "store", **more: object) -> ProgramSettings:
    launch = LaunchSettings(command=(command,), preflight=more.pop("preflight", ()))  # type: ignore[arg-type]
    return replace(ProgramSettings(name=name, launch=launch, relief=ReliefSettings(extra=extra)), **more)  # type: ignore[arg-type]


def candidates(*programs: ProgramSettings, escalation: tuple[EscalationStep, ...] = ()) -> Applied:
    return Applied(tuple(Candidate(settings, "r1", "/") for settings in programs), escalation)


class Host:
    """A fleet in virtual time; what was done since the last `take` stands in `done`."""

    def __init__(self, *programs: ProgramSettings, escalation: tuple[EscalationStep, ...] = ()) -> None:
        self.now = 0.0
        self.fleet = Fleet()
        self.wake: float | None = None
        self.done: tuple[Effect, ...] = ()
        self.take(candidates(*programs, escalation=escalation))

    def take(self, event: Event, at: float | None = None) -> tuple[Effect, ...]:
        self.now = self.now if at is None else at
        self.fleet, self.done, self.wake = step(self.fleet, event, self.now)
        again, more, _ = step(self.fleet, Woke(), self.now)
        assert (again, more) == (self.fleet, ()), "settled is settled"
        return self.done

    def wait_until(self, at: float) -> list[Effect]:
        """Let time pass, waking policy whenever it asked to be."""
        seen: list[Effect] = []
        while self.wake is not None and self.wake <= at:
            seen += self.take(Woke(), self.wake)
        self.now = at
        return seen

    def start(self, number: int, name: str = "store") -> None:
        self.take(Spawned(InstanceId(name, number), 100 + number, 1))
        self.take(Answered(InstanceId(name, number), "it answered"))

    def look(self, number: int, kind: Kind, still_s: float, nature: Nature = Nature.SPINNING) -> tuple[Effect, ...]:
        since = self.now - still_s
        return self.take(Looked(InstanceId("store", number), self.now, since, Verdict(kind, "seen", since, nature=nature)))

    def of(self, name: str = "store") -> Program:
        return self.fleet.programs[name]

    def states(self, name: str = "store") -> dict[int, State]:
        return {instance.id.number: instance.state for instance in self.of(name).instances}


def only(effects: object, kind: type) -> list[object]:
    assert isinstance(effects, (tuple, list))
    return [effect for effect in effects if isinstance(effect, kind)]


# --- backoff and budgets --------------------------------------------------------------------------------------------------------


@given(
    attempt=st.integers(0, 10_000),
    first_s=st.floats(0, 30),
    limit_s=st.floats(30, 3600),
    seed=st.text(max_size=20),
)
def test_backoff_stays_within_its_bounds_and_repeats_itself(attempt: int, first_s: float, limit_s: float, seed: str) -> None:
    settings = RestartSettings(first_s=first_s, limit_s=limit_s)
    delay_s = backoff_s(settings, attempt, seed)
    assert first_s <= delay_s <= limit_s * (1 + JITTER)
    assert delay_s == backoff_s(settings, attempt, seed)


@given(attempt=st.integers(1, 40), seed=st.text(max_size=20))
def test_backoff_never_falls_from_one_attempt_to_the_one_after_the_next(attempt: int, seed: str) -> None:
    settings = RestartSettings()
    assert backoff_s(settings, attempt, seed) <= backoff_s(settings, attempt + 2, seed)


def test_exit_after_a_healthy_run_is_restarted_in_the_same_step() -> None:
    host = Host(program())
    host.start(1)
    assert only(host.take(Exited(InstanceId("store", 1), 1), at=61.0), Spawn) == [Spawn(InstanceId("store", 2), host.of().build)]
    assert host.of().restarts == 1


def test_exits_in_a_row_wait_longer_each_time_and_become_a_crash_loop_that_goes_on() -> None:
    host = Host(program(), escalation=(EscalationStep(notify=("command:page",)),))
    waits, told = [], []
    for number in range(1, 9):
        host.start(number)
        effects = list(host.take(Exited(InstanceId("store", number), 1)))
        began = host.now
        effects += host.wait_until(host.now + 40)
        told += only(effects, Tell)
        assert only(effects, Spawn), "it is never given up"
        waits.append(host.of().instances[0].spawned - began)
    assert waits[:5] == sorted(waits[:5])
    assert waits[0] == pytest.approx(0.5, rel=JITTER)
    assert waits[-1] >= 30.0
    keys = [tell.key for tell in told if isinstance(tell, Tell)]
    assert keys.count("crash") == 1
    assert keys.count("crash-loop") == 1


@pytest.mark.parametrize(("when", "status", "rests"), [("failure", 0, 1), ("failure", 1, 0), ("never", 1, 1), ("always", 0, 0)])
def test_an_exit_rests_only_where_the_configuration_says_so(when: str, status: int, rests: int) -> None:
    host = Host(program(restart=RestartSettings(when=RestartWhen(when))))
    host.start(1)
    ended = host.take(Exited(InstanceId("store", 1), status), at=61.0)
    host.wait_until(100.0)
    assert host.of().resting == rests
    assert len(host.of().instances) == 1 - rests
    said = [each.text for each in ended if isinstance(each, Note) and each.subject == "store:1"]
    assert len([text for text in said if "rests" in text]) == rests
    if rests:
        assert only(host.take(StartAsked("store")), Spawn), "an operator's start ends the rest"


def test_a_command_that_cannot_be_executed_is_told_once_and_is_no_crash_loop() -> None:
    host = Host(program(), escalation=(EscalationStep(notify=("command:page",)),))
    effects: list[Effect] = []
    for number in range(1, 10):
        effects += host.take(SpawnFailed(InstanceId("store", number), "store: command not found", True))
        began = host.now
        effects += host.wait_until(host.now + 40)
        assert host.of().instances[0].spawned - began >= 30.0
    assert [tell.key for tell in only(effects, Tell) if isinstance(tell, Tell)] == ["cannot-start", "down"]
    assert not host.of().crash_loop


def test_an_operators_start_waits_for_no_backoff() -> None:
    host = Host(program())
    host.take(SpawnFailed(InstanceId("store", 1), "no", True))
    assert only(host.take(StartAsked("store")), Spawn)


# --- hangs ----------------------------------------------------------------------------------------------------------------------


def hung(**more: object) -> Host:
    host = Host(program(**more))  # type: ignore[arg-type]
    host.start(1)
    host.now = 100.0
    host.look(1, Kind.SUSPECT, 1.1)
    host.take(EvidenceTaken(InstanceId("store", 1), "spins"))
    return host


def test_a_suspect_gets_a_relief_and_is_asked_to_go_once_that_answers() -> None:
    host = hung()
    assert host.states() == {1: State.SUSPECT, 2: State.STARTING}
    host.now = 100.6
    host.start(2)
    assert host.states() == {1: State.RETIRING, 2: State.READY}
    assert Signal(InstanceId("store", 1), "TERM") in host.done


def test_a_suspect_that_moves_again_stays_and_its_relief_is_sent_away() -> None:
    host = hung()
    host.now = 100.3
    host.look(1, Kind.HEALTHY, 0.0)
    assert host.states()[1] is State.READY
    assert host.states()[2] in (State.RETIRING, State.KILLING)


def test_one_that_is_silent_on_a_starved_host_is_relieved_later_and_is_never_killed() -> None:
    host = Host(program())
    host.start(1)
    for silent_s, states in ((2.9, {1: State.READY}), (3.1, {1: State.SUSPECT, 2: State.STARTING})):
        host.now = 100.0 + silent_s
        host.look(1, Kind.STARVED, silent_s)
        assert host.states() == states
    for silent_s in (60.0, 200.0):
        host.now = 100.0 + silent_s
        host.look(1, Kind.STARVED, silent_s)
        assert host.states()[1] is State.SUSPECT


def test_beside_another_the_patience_is_three_times_as_long() -> None:
    host = hung()
    host.now = 100.6
    host.start(2)
    host.now = 128.0
    host.look(1, Kind.SPINNING, 29.1)
    assert host.states()[1] is State.RETIRING
    host.now = 129.2
    host.look(1, Kind.SPINNING, 30.3)
    assert host.states()[1] is State.KILLING


def test_a_relief_that_takes_far_longer_than_its_kind_to_boot_serves_nobody() -> None:
    """A request may hang it before it answered anything: it shortens the patience like any other, and is given up while nobody serves."""
    host = Host(program())
    host.start(1)
    host.take(Exited(InstanceId("store", 1), 1, 0), at=100.0)
    host.now = 100.5
    host.start(2)  # it boots in half a second
    host.now = 200.0
    host.look(2, Kind.SUSPECT, 1.1)
    host.take(Spawned(InstanceId("store", 3), 103, 1))
    host.take(EvidenceTaken(InstanceId("store", 2), "spins"))
    host.now = 210.0
    host.look(3, Kind.STARTING, 0.0)
    host.now = 210.1
    host.look(3, Kind.STARTING, 0.0)
    assert host.states() == {2: State.SUSPECT, 3: State.KILLING}, "10 s are twenty times its boot"
    host.take(Exited(InstanceId("store", 3), -9, 0), at=210.2)
    host.wait_until(212.0)
    host.take(Spawned(InstanceId("store", 4), 104, 1))
    host.now = 215.0
    host.look(2, Kind.SPINNING, 16.1)
    assert host.states()[2] is State.KILLING, "one that is late shortens the patience"


def test_a_relief_that_boots_slowly_beside_one_that_serves_has_all_its_time() -> None:
    host = Host(program(instances=2))
    host.start(1)
    host.start(2)
    host.take(Exited(InstanceId("store", 1), 1, 0), at=100.0)
    host.now = 100.5
    host.start(3)
    host.now = 200.0
    host.look(2, Kind.SUSPECT, 1.1)
    host.take(Spawned(InstanceId("store", 4), 104, 1))
    for at in (210.5, 240.0, 259.0):
        host.now = at
        host.look(4, Kind.STARTING, 0.0)
    assert host.states()[4] is State.STARTING


def test_alone_the_patience_is_certain_and_an_old_look_is_no_proof() -> None:
    host = hung(extra=0)
    old = Looked(InstanceId("store", 1), 109.0, 98.9, Verdict(Kind.SPINNING, "seen", 98.9, nature=Nature.SPINNING))
    host.take(old, at=112.0)
    assert host.states() == {1: State.SUSPECT}
    host.look(1, Kind.SPINNING, 13.1)
    assert host.states() == {1: State.KILLING}
    assert Kill(InstanceId("store", 1), 98.9) in host.done


def test_a_verdict_without_since_is_no_proof() -> None:
    host = hung(extra=0)
    verdict = Verdict(Kind.SPINNING, "seen", 90.0, nature=Nature.SPINNING)
    host.take(Looked(InstanceId("store", 1), 150.0, None, verdict), at=150.0)
    assert host.states() == {1: State.SUSPECT}


def test_no_look_no_kill_however_long() -> None:
    host = hung(extra=0)
    effects = host.wait_until(5000.0)
    assert not only(effects, Kill)
    assert host.states() == {1: State.SUSPECT}


def test_a_blocked_one_is_killed_only_after_blocked_and_never_when_that_is_off() -> None:
    for blocked_s, killed in ((60.0, True), (None, False)):
        host = hung(extra=0, hang=HangSettings(blocked_s=blocked_s))
        host.now = 140.0
        host.look(1, Kind.BLOCKED, 41.0, Nature.BLOCKED)
        assert host.states() == {1: State.SUSPECT}
        host.now = 165.0
        host.look(1, Kind.BLOCKED, 66.0, Nature.BLOCKED)
        assert (host.states() == {1: State.KILLING}) is killed


def test_a_starved_host_starts_the_patience_again() -> None:
    host = hung(extra=0)
    host.now = 108.0
    host.look(1, Kind.STARVED, 9.1)
    host.now = 112.0
    host.look(1, Kind.SPINNING, 13.1)
    assert host.states() == {1: State.SUSPECT}
    host.now = 118.5
    host.look(1, Kind.SPINNING, 19.6)
    assert host.states() == {1: State.KILLING}


def test_a_leak_is_said_when_it_begins_and_harms_nobody() -> None:
    host = Host(program())
    host.start(1)
    told = [each for _ in range(3) for each in only(host.look(1, Kind.LEAKING, 0.0), Note)]
    assert told == [Note("store:1", "instance.leaking", "leaking: seen")]
    assert host.states() == {1: State.READY}
    host.look(1, Kind.HEALTHY, 0.0)
    assert len(only(host.look(1, Kind.LEAKING, 0.0), Note)) == 1


def test_a_kill_is_taken_back_when_the_last_look_sees_it_move() -> None:
    host = hung(extra=0)
    host.now = 115.0
    host.look(1, Kind.SPINNING, 16.1)
    assert host.states() == {1: State.KILLING}
    moved = Looked(InstanceId("store", 1), 115.0, 114.9, Verdict(Kind.HEALTHY, "it answered", 114.9))
    host.take(Spared(moved))
    assert host.states() == {1: State.READY}


def test_act_tell_kills_nothing_starts_nothing_and_says_so() -> None:
    host = hung(hang=HangSettings(act=Act.TELL))
    assert host.states() == {1: State.SUSPECT}
    host.now = 140.0
    effects = host.look(1, Kind.SPINNING, 41.1)
    assert host.states() == {1: State.SUSPECT}
    assert "hung-held" in [tell.key for tell in only(effects, Tell) if isinstance(tell, Tell)]


def test_what_cannot_be_killed_is_tried_again_and_told_and_nobody_waits_for_it() -> None:
    host = hung(extra=0)
    host.now = 115.0
    effects = list(host.look(1, Kind.SPINNING, 16.1))
    effects += host.wait_until(131.0)
    assert len(only(effects, Kill)) == 4
    assert [t.key for t in only(effects, Tell) if isinstance(t, Tell)].count("cannot-be-killed") == 1
    host.take(ShutdownAsked())
    assert drained(host.fleet)


# --- builds ---------------------------------------------------------------------------------------------------------------------


def test_a_new_build_that_dies_before_it_was_ready_is_given_up_for_the_last_good_one() -> None:
    host = Host(program(), escalation=(EscalationStep(notify=("command:page",), when=Severity.CRITICAL),))
    host.start(1)
    host.take(candidates(program(command="bad"), escalation=host.fleet.escalation), at=100.0)
    assert host.states() == {1: State.READY, 2: State.STARTING}
    effects = host.take(Exited(InstanceId("store", 2), 1))
    assert host.of().build.launch.command == ("store",)
    assert host.states() == {1: State.READY}
    assert [tell.key for tell in only(effects, Tell) if isinstance(tell, Tell)].count("rollback") == 1


def test_a_build_whose_preflight_fails_never_starts_and_what_runs_stays() -> None:
    host = Host(program())
    host.start(1)
    effects = host.take(candidates(program(command="bad", preflight=(("false",),))), at=100.0)
    assert len(only(effects, RunPreflight)) == 1
    assert not only(effects, Spawn)
    host.take(Preflighted("store", 2, "preflight `false` ended with exit code 1"))
    host.wait_until(1000.0)
    assert host.states() == {1: State.READY}
    assert host.of().build.number == 1


def test_a_first_build_whose_preflight_fails_is_tried_again_at_the_slowest_pace() -> None:
    """There is nothing to go back to, and a store is never given up: a database that is not up yet must not keep it down."""
    host = Host(program(preflight=(("false",),)))
    host.take(Preflighted("store", 1, "no database yet"))
    effects = host.wait_until(40.0)
    assert len(only(effects, RunPreflight)) == 1
    assert only(host.take(Preflighted("store", 1, "")), Spawn)


def test_restart_is_rolling_where_two_can_live_and_takes_turns_where_not() -> None:
    host = Host(program())
    host.start(1)
    host.take(RestartAsked("store"), at=100.0)
    assert host.states() == {1: State.READY, 2: State.STARTING}
    host = Host(program(extra=0))
    host.start(1)
    host.take(RestartAsked("store"), at=100.0)
    assert host.states() == {1: State.RETIRING}
    assert only(host.take(Exited(InstanceId("store", 1), 0)), Spawn)


def test_settings_that_decide_no_start_are_taken_up_without_touching_what_runs() -> None:
    host = Host(program())
    host.start(1)
    effects = host.take(candidates(program(grace_s=99.0)), at=100.0)
    assert effects == ()
    assert host.of().settings.grace_s == 99.0


# --- order and the end ----------------------------------------------------------------------------------------------------------


def test_a_program_waits_for_those_in_after_and_is_stopped_before_them() -> None:
    host = Host(program("db"), program("store", after=("db",)))
    assert host.states("store") == {}
    host.start(1, "db")
    assert host.states("store") == {1: State.STARTING}
    host.start(1, "store")
    host.take(ShutdownAsked(), at=100.0)
    assert host.states("db") == {1: State.READY}
    host.take(Exited(InstanceId("store", 1), 0))
    assert host.states("db") == {1: State.RETIRING}
    host.take(Exited(InstanceId("db", 1), 0))
    assert drained(host.fleet)
    assert host.wake is None or not host.of().instances


def test_a_program_starts_without_those_in_after_when_they_take_too_long() -> None:
    host = Host(program("db"), program("store", after=("db",)))
    host.wait_until(61.0)
    assert host.states("store") == {1: State.STARTING}


def test_a_stop_kills_after_the_grace_and_a_second_shutdown_at_once() -> None:
    host = Host(program())
    host.start(1)
    host.take(StopAsked("store"), at=100.0)
    host.wait_until(109.9)
    assert host.states() == {1: State.RETIRING}
    host.wait_until(110.0)
    assert host.states() == {1: State.KILLING}
    host = Host(program())
    host.start(1)
    host.take(ShutdownAsked(), at=100.0)
    host.take(ShutdownAsked())
    assert host.states() == {1: State.KILLING}


# --- people ---------------------------------------------------------------------------------------------------------------------


def test_later_steps_are_told_when_their_time_comes_and_everybody_hears_that_it_is_over() -> None:
    steps = (EscalationStep(notify=("command:a",)), EscalationStep(after_s=20.0, notify=("command:b",)))
    host = Host(program(), escalation=steps)
    host.start(1)
    effects = list(host.take(Exited(InstanceId("store", 1), 1), at=100.0))
    effects += host.wait_until(110.0)
    host.start(2)
    effects += host.wait_until(200.0)
    told = [(t.key, t.channels) for t in only(effects, Tell) if isinstance(t, Tell)]
    assert told == [("crash", ("command:a",)), ("crash", ("command:b",)), ("over", ("command:a", "command:b"))]


def test_a_step_for_other_programs_or_a_higher_severity_hears_nothing() -> None:
    steps = (EscalationStep(notify=("command:a",), programs=("db",)), EscalationStep(notify=("command:b",), when=Severity.CRITICAL))
    host = Host(program(), escalation=steps)
    host.start(1)
    told = only(host.take(Exited(InstanceId("store", 1), 1), at=100.0), Tell)
    assert [tell.channels for tell in told if isinstance(tell, Tell)] == [()]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (61.7, "62 s"), (720.0, "12 min"), (12600.0, "3.5 h")]
)
def test_durations_are_spelled_for_people(seconds: float, text: str) -> None:
    assert spell(seconds) == text


def test_the_slowest_pace_is_the_limit() -> None:
    assert backoff_s(RestartSettings(limit_s=30.0), SLOWEST, "x") >= 30.0
