"""Who is told what, until when: acknowledgements, repeats, maintenance, stakeholders; and holds. In virtual time."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.model import (
    AckAsked,
    Answered,
    Applied,
    Candidate,
    Effect,
    EscalationStep,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    HoldAsked,
    HoldEndAsked,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Looked,
    MaintenanceChanged,
    Nature,
    ProgramSettings,
    RecordIncident,
    RestartAsked,
    RestartSettings,
    Severity,
    Signal,
    Spawn,
    Spawned,
    StakeholderSettings,
    StartAsked,
    State,
    StopAsked,
    TakeEvidence,
    Tell,
    Verdict,
    Voice,
    Woke,
    WorkerLooked,
)
from supervisor.policy.adoption import adopt
from supervisor.policy.escalation import OVER
from supervisor.policy.fleet import step
from supervisor.policy.words import plainly
from tests.sim import people
from tests.sim.invariants import Ledger, Turn, told_once, touched
from tests.test_policy import Host, only, program

ONE = InstanceId("store", 1)
STEPS = (
    EscalationStep(notify=("command:ops",), repeat_s=300.0),
    EscalationStep(after_s=60.0, notify=("command:boss",), when=Severity.CRITICAL),
)
PUBLIC = StakeholderSettings(notify=("command:public",), after_s=120.0)
QUICK = RestartSettings(healthy_s=30.0)
SLOW = RestartSettings(healthy_s=30.0, first_s=9000.0, limit_s=9000.0)  # what failed stays away


def host(*, escalation: tuple[EscalationStep, ...] = STEPS, public: StakeholderSettings = PUBLIC, **more: object) -> Host:
    """A store with one instance that is ready."""
    there = Host()
    store = program(**{"restart": QUICK, **more})
    there.take(Applied((Candidate(store, "r1", "/"),), escalation, stakeholders=public))
    there.start(1)
    there.take(Woke(), at=100.0)
    return there


def tells(effects: object) -> list[Tell]:
    return [tell for tell in only(effects, Tell) if isinstance(tell, Tell) and tell.channels]


def told(effects: object) -> list[tuple[str, str]]:
    """Each message to somebody: its key, without the number that makes it one of its own, and to whom."""
    return [(tell.key.partition(".")[0], ", ".join(tell.channels)) for tell in tells(effects)]


def crash(there: Host, number: int, at: float) -> list[Effect]:
    return list(there.take(Exited(InstanceId("store", number), 1, words="exit code 1"), at=at))


# --- acknowledgements and repeats -----------------------------------------------------------------------------------------------


def test_a_step_is_told_again_until_somebody_acknowledges() -> None:
    there = host(restart=SLOW)
    assert told(crash(there, 1, 100.0)) == [("crash", "command:ops")]
    assert told(there.wait_until(159.0)) == []
    assert told(there.wait_until(400.0)) == [("down", "command:ops"), ("down", "command:boss"), ("public-begin", "command:public")]
    assert told(there.wait_until(700.0)) == [("down", "command:ops")]
    assert "nobody has acknowledged this for" in tells(there.wait_until(1000.0))[0].text
    there.take(AckAsked(1, "uid 1000"))
    assert told(there.wait_until(5000.0)) == []
    assert there.of().incident is not None


def test_everybody_who_was_told_hears_that_it_is_over_also_after_an_acknowledgement() -> None:
    there = host()
    crash(there, 1, 100.0)
    there.take(AckAsked(1, "uid 1000"), at=101.0)
    there.start(2)
    over = tells(there.wait_until(140.0))
    assert [(tell.key, tell.channels, tell.voice) for tell in over] == [(OVER, ("command:ops",), Voice.OVER)]
    assert "healed by itself" not in over[0].text


def test_what_was_only_healed_speaks_in_another_voice_than_what_needs_somebody() -> None:
    there = host()
    assert [tell.voice for tell in tells(crash(there, 1, 100.0))] == [Voice.HEALING]
    there.start(2)
    assert [tell.voice for tell in tells(there.wait_until(140.0))] == [Voice.HEALED]
    crash(there, 2, 200.0)
    assert {tell.voice for tell in tells(there.wait_until(300.0))} == {Voice.NEEDS_YOU}


def test_a_crash_beside_one_that_serves_is_recorded_and_told_to_nobody() -> None:
    there = host(instances=2)
    there.start(2)
    assert only(crash(there, 1, 100.0), Tell) == []
    incident = there.of().incident
    assert incident is not None
    assert (incident.severity, incident.told) == (Severity.INFO, ("crash",))
    there.start(3)
    assert told(there.wait_until(140.0)) == []
    assert there.of().incident is None


def test_why_one_that_is_gone_crashed_stands_in_the_incident_and_of_another_does_not() -> None:
    there = host()
    crash(there, 1, 100.0)
    there.take(EvidenceTaken(InstanceId("store", 9), "of nobody", where="elsewhere"))
    there.take(EvidenceTaken(ONE, "KeyError: 'id' in shop.py:3 cart()", where="KeyError: 'id' in shop.py:3 cart()"))
    incident = there.of().incident
    assert incident is not None
    assert (incident.evidence, incident.cause) == (("store:1",), "KeyError: 'id' in shop.py:3 cart()")


def test_a_crash_of_the_last_one_that_serves_is_told_although_one_before_was_not() -> None:
    there = host(instances=2)
    there.start(2)
    crash(there, 1, 100.0)
    assert told(crash(there, 2, 100.5)) == [("crash", "command:ops")]
    there.take(AckAsked(1, "uid 1000"))
    there.start(3)
    there.start(4)
    there.wait_until(110.0)
    assert told(crash(there, 3, 110.0)) == [], "what nobody is told breaks no acknowledgement"


def test_critical_news_break_an_acknowledgement_and_the_steps_begin_anew() -> None:
    there = host(restart=SLOW, public=StakeholderSettings())
    crash(there, 1, 100.0)
    there.take(AckAsked(1, "uid 1000"), at=110.0)
    assert told(there.wait_until(230.0)) == [("down", "command:ops"), ("down", "command:boss")]
    incident = there.of().incident
    assert incident is not None
    assert incident.acknowledged is None
    assert incident.acknowledgements[0].broken


def test_what_comes_back_after_calm_breaks_an_acknowledgement_once() -> None:
    there = host()
    crash(there, 1, 100.0)
    there.take(AckAsked(1, "uid 1000"))
    there.start(2)
    there.wait_until(110.0)
    again = crash(there, 2, 110.0)
    assert told(again) == [("crash", "command:ops")]
    assert [tell.incident for tell in tells(again)] == [1], "a recurrence before it was over is the same incident"
    there.take(AckAsked(1, "uid 1000"))
    there.wait_until(111.0)
    there.take(Spawned(InstanceId("store", 3), 103, 1))
    assert told(there.take(Exited(InstanceId("store", 3), 1), at=112.0)) == [], "it had not been calm"


def test_an_acknowledgement_of_what_is_over_or_acknowledged_changes_nothing() -> None:
    there = host()
    assert there.take(AckAsked(7, "uid 1000")) == ()
    crash(there, 1, 100.0)
    there.take(AckAsked(1, "uid 1000"), at=101.0)
    there.take(AckAsked(1, "uid 1001"), at=102.0)
    incident = there.of().incident
    assert incident is not None
    assert [ack.by for ack in incident.acknowledgements] == ["uid 1000"]


def test_a_step_that_is_reached_late_is_told_all_that_happened_in_one_message() -> None:
    there = host(escalation=(EscalationStep(after_s=100.0, notify=("command:late",)),))
    crash(there, 1, 100.0)
    late = tells(there.wait_until(200.0))
    assert [tell.key for tell in late] == ["down"]
    assert "exit code 1" in late[0].text
    assert "nobody has acknowledged it for" in late[0].text


def test_a_page_says_who_is_affected_what_was_done_and_what_comes() -> None:
    there = host()
    page = tells(crash(there, 1, 100.0))[0]
    assert (page.affected, page.done) == ("all customers: no instance is ready", "store:2 was started")
    assert page.comes == "store:2 has 60 s to become ready"


# --- maintenance ----------------------------------------------------------------------------------------------------------------


def test_maintenance_mutes_alerts_and_not_healing_and_what_lasts_is_told_afterwards() -> None:
    there = host()
    there.take(MaintenanceChanged(("store",)))
    effects = crash(there, 1, 100.0)
    assert told(effects) == []
    assert only(effects, Spawn), "healing goes on"
    assert told(there.wait_until(900.0)) == []
    assert told(there.take(MaintenanceChanged(()), at=900.0)) == [("down", "command:ops")]
    assert told(there.wait_until(960.0)) == [("down", "command:boss")]
    assert ("public-begin", "command:public") in told(there.wait_until(1020.0))


def test_what_began_and_ended_within_maintenance_is_told_to_nobody() -> None:
    there = host()
    there.take(MaintenanceChanged(("store",)))
    crash(there, 1, 100.0)
    there.start(2)
    assert told(there.wait_until(200.0)) == []
    assert told(there.take(MaintenanceChanged(()), at=300.0)) == []


# --- stakeholders ---------------------------------------------------------------------------------------------------------------


def public(effects: object) -> list[tuple[str, str]]:
    return [(tell.key.partition(".")[0], tell.text) for tell in tells(effects) if tell.voice is Voice.PUBLIC]


def test_stakeholders_hear_after_a_while_then_on_change_then_that_it_is_over_with_its_cost() -> None:
    words = replace(PUBLIC, begin="$program: $lasted", back="back after $affected", again="again", over="over: $affected, $lasted")
    there = host(public=words, restart=SLOW)
    assert public(crash(there, 1, 100.0)) == []
    assert public(there.wait_until(219.0)) == []
    assert public(there.wait_until(220.0)) == [("public-begin", "store: 2 minutes")]
    there.take(StartAsked("store"), at=400.0)
    there.take(Spawned(InstanceId("store", 2), 102, 1))
    assert public(there.take(Answered(InstanceId("store", 2), "it answered"))) == [("public-back", "back after 5 minutes")]
    assert public(there.wait_until(430.0)) == [("public-over", "over: 5 minutes, 5 minutes")]


def test_stakeholders_never_hear_of_what_was_healed_at_once() -> None:
    there = host()
    effects = crash(there, 1, 100.0)
    there.start(2)
    assert public([*effects, *there.wait_until(1000.0)]) == []


def test_one_that_comes_and_goes_is_no_news_each_second() -> None:
    there = host(public=replace(PUBLIC, after_s=0.0))
    effects = crash(there, 1, 100.0)
    for number in range(2, 12):
        effects += there.wait_until(100.0 + 4 * number)
        there.take(Spawned(InstanceId("store", number), 100 + number, 1))
        effects += there.take(Answered(InstanceId("store", number), "it answered"))
        effects += crash(there, number, 102.0 + 4 * number)
    assert len([key for key, _ in public(effects) if key == "public-again"]) <= 1


def test_a_program_that_is_switched_off_is_no_trouble() -> None:
    there = host(restart=SLOW)
    crash(there, 1, 100.0)
    assert [key for key, _ in public(there.wait_until(300.0))] == ["public-begin"]
    assert [text for _, text in public(there.take(StopAsked("store")))] == [
        "store has been switched off on purpose. It had not been available for 3 minutes before."
    ]
    assert there.of().incident is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20, "less than a minute"), (60, "1 minute"), (3600, "1 hour"), (7500, "2 hours and 5 minutes")],
)
def test_plain_words_for_durations(seconds: float, words: str) -> None:
    assert plainly(seconds) == words


# --- holds ----------------------------------------------------------------------------------------------------------------------

HEALING = (Spawn, Kill, KillWorker, Signal)


def hold(there: Host, for_s: float = 600.0) -> None:
    there.take(HoldAsked("store", for_s, "gdb", "uid 1000"))


def healing(effects: object) -> list[object]:
    assert isinstance(effects, (tuple, list))
    return [effect for effect in effects if isinstance(effect, HEALING)]


def test_a_held_suspect_is_watched_and_told_and_not_touched() -> None:
    there = host()
    hold(there)
    effects = list(there.look(1, Kind.SUSPECT, 1.5))
    assert [type(effect) for effect in effects if not hasattr(effect, "text")] == [TakeEvidence], "evidence is taken"
    effects += there.wait_until(150.0)
    effects += there.look(1, Kind.SPINNING, 51.0)
    assert healing(effects) == []
    assert ("hung-held", "command:ops") in told(effects)
    assert any("it would start another one beside store:1" in getattr(effect, "text", "") for effect in effects)


def test_a_held_one_that_fails_is_started_when_the_hold_is_over_and_that_is_said() -> None:
    there = host()
    hold(there)
    assert healing(crash(there, 1, 110.0)) == []
    assert healing(there.wait_until(699.9)) == []
    effects = there.wait_until(700.0)
    assert len(only(effects, Spawn)) == 1
    assert any("no longer held after 10 min" in getattr(effect, "text", "") for effect in effects)


def test_a_hold_can_be_ended_and_prolonged() -> None:
    there = host()
    hold(there)
    crash(there, 1, 110.0)
    assert only(there.take(HoldEndAsked("store", "uid 1000"), at=120.0), Spawn)
    hold(there, 10.0)
    hold(there, 100.0)
    there.wait_until(131.0)
    assert there.of().hold is not None
    there.wait_until(221.0)
    assert there.of().hold is None


def test_operators_commands_work_under_a_hold_until_something_fails() -> None:
    there = host()
    hold(there)
    assert len(only(there.take(RestartAsked("store"), at=110.0), Spawn)) == 1
    there.start(2)
    assert there.states() == {1: State.RETIRING, 2: State.READY}
    there.take(Exited(ONE, 0), at=111.0)
    assert healing(crash(there, 2, 120.0)) == [], "a failure is not made good, whatever was asked before"
    assert len(only(there.take(StartAsked("store"), at=130.0), Spawn)) == 1
    assert healing(there.take(Exited(InstanceId("store", 3), 1), at=131.0)) == []
    there.take(StopAsked("store"), at=140.0)
    assert there.states() == {}


def test_a_restart_under_a_hold_replaces_a_suspect_too() -> None:
    there = host()
    hold(there)
    there.look(1, Kind.SUSPECT, 1.5)
    assert only(there.take(RestartAsked("store"), at=110.0), Spawn)
    there.start(2)
    assert there.states()[1] is State.RETIRING


def test_a_hold_begun_in_a_backoff_leaves_the_failed_one_alone() -> None:
    there = host(restart=replace(QUICK, first_s=5.0))
    crash(there, 1, 200.0)
    hold(there, 100.0)
    assert healing(there.wait_until(299.0)) == []
    assert only(there.wait_until(300.0), Spawn)


def test_a_stopped_process_is_not_continued_under_a_hold_and_no_worker_is_killed() -> None:
    there = host(server="gunicorn")
    hold(there)
    verdict = Verdict(Kind.SPINNING, "seen", 100.0, nature=Nature.SPINNING)
    effects = list(there.take(WorkerLooked(ONE, 7, 70, 140.0, 100.0, verdict), at=140.0))
    effects += there.take(WorkerLooked(ONE, 7, 70, 141.0, 100.0, verdict), at=141.0)
    assert len([effect for effect in effects if getattr(effect, "name", "") == "program.refrained"]) == 1
    effects += there.look(1, Kind.STOPPED, 20.0)
    assert healing(effects) == []


# --- whatever happens, in whatever order ----------------------------------------------------------------------------------------


class Life:
    """Two programs in a world that answers at once; the rules of the simulation judge each step."""

    def __init__(self, repeat_s: float | None) -> None:
        self.now = 100.0
        self.fleet = Fleet()
        self.wake: float | None = None
        self.ledger = Ledger()
        self.queue: list[Event] = []
        self.written: dict[str, RecordIncident] = {}
        self.channels: dict[int, set[str]] = {}
        steps = (
            EscalationStep(notify=("command:first",), repeat_s=repeat_s),
            EscalationStep(after_s=20.0, notify=("command:second",), when=Severity.CRITICAL, repeat_s=50.0),
            EscalationStep(after_s=5.0, notify=("command:web",), programs=("web",)),
        )
        self.applied = Applied(tuple(Candidate(self.settings(name), "r1", "/") for name in ("store", "web")), steps)
        self.take(self.applied)

    @staticmethod
    def settings(name: str) -> ProgramSettings:
        return program(name, restart=RestartSettings(healthy_s=10.0, limit_s=5.0, budget=2, window_s=60.0))

    def take(self, *events: Event) -> None:
        self.queue += events
        while self.queue:
            self._turn(self.queue.pop(0))

    def _turn(self, event: Event) -> None:
        before = self.fleet
        self.fleet, effects, self.wake = step(before, event, self.now)
        changed = touched(before.programs, self.fleet.programs)
        turn = Turn(before, event, self.fleet, effects, self.wake, self.now, step, changed)
        people.hear(turn, self.ledger.people)
        assert told_once(turn, self.ledger, {}) == ""
        for rule in people.RULES:
            assert rule(turn, self.ledger, {}) == ""
        people.write(turn, self.ledger.people)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Tell():
                assert effect.channels == () or effect.key == OVER or effect.step >= 0
                if effect.key == OVER:
                    assert set(effect.channels) == self.channels.pop(effect.incident, set()), "all who were told, and no other"
                else:
                    self.channels.setdefault(effect.incident, set()).update(effect.channels)
                self.ledger.told.add((effect.incident, effect.key, effect.step))
            case RecordIncident():
                self.written[effect.program] = effect
            case Spawn():
                self.queue.append(Spawned(effect.id, 100 + effect.id.number, 1))
            case Kill():
                self.ledger.killed[effect.id] = self.now
                self.queue.append(Exited(effect.id, -9))
            case Signal() if effect.signal == "TERM":
                self.queue.append(Exited(effect.id, 0))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.wake is not None and self.wake <= until:
            self.now = max(self.now, self.wake)
            self.take(Woke())
        self.now = until

    def jump(self, seconds: float) -> None:
        """The machine slept, or we were starved: nobody was woken in between."""
        self.now += seconds
        self.take(Woke())

    def die(self) -> None:
        """A new supervisor goes on with what the handover says."""
        programs = [(p, self.now) for p in self.fleet.programs.values()]
        read = msgspec.json.decode(msgspec.json.encode(programs), type=list[tuple[type(programs[0][0]), float]])
        unended = {name: record.incident for name, record in self.written.items() if record.over is None}
        self.fleet = adopt(Fleet(incidents=self.fleet.incidents, open=unended), read, ())
        self.take(replace(self.applied, begins=True))

    def act(self, name: str, act: str) -> None:
        known = self.fleet.programs[name]
        newest = max((i.id for i in known.instances), default=InstanceId(name, 0))
        match act:
            case "answer":
                self.take(*(Answered(i.id, "it answered") for i in known.instances))
            case "crash":
                self.take(Exited(newest, 1))
            case "hang":
                verdict = Verdict(Kind.SPINNING, "seen", self.now - 40, nature=Nature.SPINNING)
                self.take(Looked(newest, self.now, self.now - 40, verdict))
            case "move":
                self.take(Looked(newest, self.now, self.now, Verdict(Kind.HEALTHY, "seen", self.now)))
            case "ack":
                numbers = [known.incident.number] if known.incident is not None else [99]
                self.take(*(AckAsked(number, "uid 1000") for number in numbers))
            case "hold":
                self.take(HoldAsked(name, 30.0, "gdb", "uid 1000"))
            case "release":
                self.take(HoldEndAsked(name, "uid 1000"))
            case "mute":
                self.take(MaintenanceChanged((name,)))
            case "unmute":
                self.take(MaintenanceChanged(()))
            case "restart":
                self.take(RestartAsked(name))
            case "stop":
                self.take(StopAsked(name))
            case "start":
                self.take(StartAsked(name))
            case "die":
                self.die()


ACTS = ("answer", "crash", "hang", "move", "ack", "hold", "release", "mute", "unmute", "restart", "stop", "start", "die")
MOMENTS = st.tuples(st.sampled_from(("store", "web")), st.sampled_from(ACTS), st.sampled_from((0.0, 0.5, 3.0, 15.0, 70.0, -200.0)))


@settings(max_examples=80, deadline=None)
@given(st.lists(MOMENTS, max_size=30), st.sampled_from((None, 7.0, 40.0)))
def test_no_page_is_lost_none_doubled_and_nobody_is_told_after_an_acknowledgement(
    moments: list[tuple[str, str, float]], repeat_s: float | None
) -> None:
    """A negative wait is a jump: the clock goes on and nobody was woken."""
    life = Life(repeat_s)
    for name, act, seconds in moments:
        life.act(name, act)
        life.jump(-seconds) if seconds < 0 else life.wait(seconds)
    life.take(MaintenanceChanged(()))
    for name in ("store", "web"):
        life.take(HoldEndAsked(name, "uid 1000"), StartAsked(name))
    for _ in range(40):
        for name in ("store", "web"):
            life.act(name, "move")
            life.act(name, "answer")
        life.wait(5.0)
    assert [p.incident for p in life.fleet.programs.values()] == [None, None], "after calm it is over"
    assert all(record.over is not None for record in life.written.values()), "and written down so"
    assert life.channels == {} or all(not channels for channels in life.channels.values())
