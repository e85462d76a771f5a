"""What people and scripts are told of a fleet: pure, over fleets built by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.control import views
from supervisor.control.views import About, Channel, Moment, Vitals
from supervisor.model import (
    Act,
    Applied,
    Blame,
    Build,
    Candidate,
    DaemonSettings,
    EscalationStep,
    Fact,
    Fleet,
    HangSettings,
    HealthSettings,
    Incident,
    Instance,
    InstanceId,
    Kind,
    LaunchSettings,
    Nature,
    Program,
    ProgramSettings,
    ReliefSettings,
    RestartSettings,
    Severity,
    State,
    Trial,
    Verdict,
    Wanted,
)

NOW = 1000.0
MOMENT = Moment(NOW, 1_767_225_600.0 - NOW)  # wall time is 2026-01-01T00:00:00Z
DAEMON = DaemonSettings(runtime_dir="/run/reviver", state_dir="/var/lib/reviver", log_dir="/var/log/reviver")
ABOUT = About(1, "0.1.0", NOW - 12.5, "config.toml", False, DAEMON)
STUCK = Verdict(Kind.SPINNING, "no answer for 1.2 s", NOW - 5, nature=Nature.SPINNING)


def settings(**more: Any) -> ProgramSettings:
    return ProgramSettings(name="store", launch=LaunchSettings(command=("serve",)), **more)


def instance(number: int, state: State = State.READY, **more: Any) -> Instance:
    return Instance(
        id=InstanceId("store", number),
        build=1,
        state=state,
        since=NOW - 3,
        spawned=NOW - 4,
        pid=4000 + number,
        **{"start_s": 60.0, **more},
    )


def program(*instances: Instance, of: ProgramSettings | None = None, **more: Any) -> Program:
    own = of or settings()
    build = Build(1, "4f2a91c", own.launch, "/srv")
    return Program(settings=own, build=build, instances=instances, started=len(instances), ordered=True, **more)


def fleet(*programs: Program) -> Fleet:
    return Fleet({each.settings.name: each for each in programs})


def state(one: Program) -> str:
    return views.state(one, fleet(one))


def explain(one: Program, *others: Program) -> dict[str, Any]:
    return views.explain(one, fleet(one, *others), [], MOMENT)


# --- status


def test_status_tells_of_channels_and_since_when_one_fails() -> None:
    about = replace(
        ABOUT, channels=(Channel("journal:", 0, None, ""), Channel("webhook:host", 3, 1_767_225_540.0, "it answered 500"))
    )
    assert views.status(fleet(), about, {}, MOMENT)["channels"] == [
        {"channel": "journal:", "waiting": 0, "failing_since": None, "problem": ""},
        {"channel": "webhook:host", "waiting": 3, "failing_since": "2025-12-31T23:59:00Z", "problem": "it answered 500"},
    ]


def test_status_has_exactly_the_promised_names() -> None:
    verdict = Verdict(Kind.HEALTHY, "answers in 3 ms", NOW - 1)
    fleet_now = fleet(program(instance(8, verdict=verdict), restarts=1))
    vitals = {InstanceId("store", 8): Vitals(0.0204, 41943040, 2)}
    assert views.status(fleet_now, ABOUT, vitals, MOMENT) == {
        "daemon": {"pid": 1, "version": "0.1.0", "uptime_s": 12.5, "config": "config.toml"},
        "programs": [
            {
                "name": "store",
                "wanted": "up",
                "state": "ready",
                "release": "4f2a91c",
                "restarts": 1,
                "incident": None,
                "hold": None,
                "instances": [
                    {
                        "id": "store:8",
                        "state": "ready",
                        "role": "main",
                        "pid": 4008,
                        "since": "2025-12-31T23:59:57Z",
                        "uptime_s": 4.0,
                        "cpu_ratio": 0.02,
                        "rss_bytes": 41943040,
                        "workers": 2,
                        "verdict": {"kind": "healthy", "scope": "instance", "because": "answers in 3 ms"},
                    }
                ],
            }
        ],
        "channels": [],
    }


def test_status_of_an_instance_never_looked_at_says_so() -> None:
    starting, ready = instance(1, State.STARTING), instance(2)
    shown = views.status(fleet(program(starting, ready)), ABOUT, {}, MOMENT)["programs"][0]["instances"]
    assert [each["verdict"]["kind"] for each in shown] == ["starting", "unknown"]
    assert shown[0]["cpu_ratio"] is None


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (program(), "starting"),
        (program(instance(1)), "ready"),
        (program(instance(1, State.STARTING)), "starting"),
        (program(instance(1, State.SUSPECT)), "suspect"),
        (program(instance(1, State.SUSPECT), instance(2, State.STARTING)), "suspect"),
        (program(instance(1, State.SUSPECT), instance(2)), "ready"),
        (program(instance(1, State.KILLING)), "failed"),
        (program(instance(1), instance(2, State.STARTING), of=settings(instances=2)), "starting"),
        (program(wanted=Wanted.DOWN), "stopped"),
        (program(instance(1, State.RETIRING), wanted=Wanted.DOWN), "ready"),
        (program(failed=NOW, attempt=2), "failed"),
        (program(failed=NOW, broken="not found", attempt=1), "failed"),
        (program(failed=NOW, attempt=6, crash_loop=True), "crash-loop"),
        (program(instance(1), crash_loop=True), "crash-loop"),
        (program(instance(1, State.STARTING), failed=NOW, attempt=2), "starting"),
        (replace(program(waiting=NOW), ordered=False), "waiting"),
        (program(resting=1), "resting"),
        (program(removed=True, wanted=Wanted.DOWN), "stopped"),
    ],
)
def test_state_of_a_program_follows_from_its_facts(one: Program, expected: str) -> None:
    assert state(one) == expected


def test_relief_is_a_relief_while_its_suspect_lives() -> None:
    suspect, relief = instance(1, State.SUSPECT), instance(2, relief=True)
    assert views.role(program(suspect, relief), relief) == "relief"
    assert views.role(program(suspect, relief), suspect) == "main"
    assert views.role(program(relief), relief) == "main"


def test_spare_is_ready_beyond_the_wanted_number() -> None:
    one = program(instance(1), instance(2), of=settings(relief=ReliefSettings(extra=1, spare=True)))
    assert [views.role(one, each) for each in one.instances] == ["main", "spare"]


# --- explain


def test_explain_of_a_backoff_says_what_failed_and_when_it_goes_on() -> None:
    one = program(failed=NOW - 0.1, attempt=4, of=settings(restart=RestartSettings(limit_s=4.0)))
    answer = explain(one)
    assert answer["state"] == "failed"
    assert answer["why"] == ["store failed 4 times in a row, the last time 0.1 s ago."]
    (sentence,) = answer["next"]
    assert sentence.startswith("The next start is in ")
    assert "`reviver start store`" in sentence
    assert answer["next_start"] in {f"2026-01-01T00:00:0{n}Z" for n in (3, 4)}


def test_explain_of_a_command_that_cannot_be_executed_says_why() -> None:
    answer = explain(program(failed=NOW, attempt=1, broken="serve: command not found"))
    assert answer["why"][0] == "store cannot be started: serve: command not found."


def test_explain_says_that_customers_get_the_page_while_they_do() -> None:
    assert "with status 503" in explain(program(failed=NOW, attempt=1, apologizing=True))["why"][-1]
    assert "with status 503" not in str(explain(program(failed=NOW, attempt=1))["why"])


def test_explain_of_a_starting_one_says_how_long_it_has() -> None:
    answer = explain(program(instance(1, State.STARTING, start_s=10.0)))
    assert answer["why"] == ["store:1 (pid 4001) has been starting for 4.0 s and has not answered yet."]
    assert answer["next"] == ["Unless store:1 answers, it is killed in 6.0 s and another one is started."]


def test_explain_of_a_suspect_says_the_proof_that_is_missing() -> None:
    one = program(instance(1, State.SUSPECT, verdict=STUCK, moved=NOW - 5, suspected=NOW - 3))
    answer = explain(one)
    assert answer["why"] == ["store:1 (pid 4001) has been suspect for 3.0 s: no answer for 1.2 s."]
    assert answer["next"] == [
        "No relief can run beside it.",
        "store:1 is ready again as soon as something moves, and killed when a look proves that nothing moved for 10 s: "
        "in 5.0 s at the earliest.",
    ]


def test_explain_of_a_suspect_beside_its_relief_says_that_it_is_asked_to_stop() -> None:
    suspect = instance(1, State.SUSPECT, verdict=STUCK, moved=NOW - 5, suspected=NOW - 3)
    one = program(suspect, instance(2, State.STARTING, relief=True), of=settings(relief=ReliefSettings(extra=1)))
    relief, patience, _ = explain(one)["next"]
    assert relief == "As soon as store:2 answers, store:1 is asked to stop; it may finish its work."
    assert "nothing moved for 30 s: in 25 s at the earliest" in patience


@pytest.mark.parametrize(
    ("hang", "expected"),
    [
        (HangSettings(act=Act.TELL), 'store:1 is left alone: hang.act is "tell".'),
        (HangSettings(blocked_s=None), 'store:1 is not killed for this: hang.blocked is "off".'),
    ],
)
def test_explain_of_a_suspect_that_is_never_killed_says_so(hang: HangSettings, expected: str) -> None:
    verdict = Verdict(Kind.BLOCKED, "waits for 10.0.0.5:5432", NOW - 60, nature=Nature.BLOCKED)
    suspect = instance(1, State.SUSPECT, verdict=verdict, moved=NOW - 60)
    assert explain(program(suspect, of=settings(hang=hang)))["next"][-1] == expected


def test_explain_of_one_that_is_killed_says_why_and_what_follows() -> None:
    dying = instance(1, State.KILLING, blame=Blame.HANG, why="hung: no progress for 10 s", tries=2)
    answer = explain(program(dying))
    assert answer["why"] == ["store:1 (pid 4001) has been dying for 3.0 s: hung: no progress for 10 s."]
    assert answer["next"][0] == "store:1 was sent SIGKILL 2 times; it is sent again each 5 s."


def test_explain_of_a_pressed_stop_says_when_it_is_killed() -> None:
    one = program(instance(1, State.RETIRING, pressed=NOW - 3, asked=NOW - 3), wanted=Wanted.DOWN)
    answer = explain(one)
    assert answer["next"] == ["If store:1 still lives, it is killed in 7.0 s."]
    assert "store is being stopped." in answer["why"]


def test_explain_of_a_suspect_that_may_finish_says_when_it_is_killed_for_not_moving() -> None:
    hung = instance(1, State.RETIRING, verdict=STUCK, moved=NOW - 5, suspected=NOW - 4, asked=NOW - 3, ready=NOW - 9)
    (sentence, *_) = explain(program(hung, instance(2)))["next"]
    assert sentence == (
        "store:1 may finish its work; it is killed when a look proves that nothing moved for 30 s: in 25 s at the earliest, "
        "at the latest in 10 min."
    )
    (sentence, *_) = explain(program(replace(hung, verdict=None), instance(2)))["next"]
    assert sentence == "store:1 may finish its work; it is killed at the latest in 10 min."


def test_explain_of_a_crash_says_where_its_last_words_are() -> None:
    (sentence,) = explain(program(failed=NOW - 0.1, attempt=2))["next"]
    assert sentence.endswith("`reviver logs store` shows what it wrote.")


def test_explain_of_one_that_waits_names_what_is_missing() -> None:
    other = replace(program(of=replace(settings(), name="db")), failed=NOW, attempt=1)
    one = replace(program(waiting=NOW - 2, of=settings(after=("db",))), ordered=False)
    answer = explain(one, other)
    assert answer["why"] == ["store has waited for 2.0 s for db to be ready first."]
    assert answer["next"] == ["It starts as soon as they are ready, and in 58 s in any case."]


@pytest.mark.parametrize(
    ("one", "why", "comes"),
    [
        (
            program(wanted=Wanted.DOWN),
            "store was stopped, and nobody has started it since.",
            "Nothing, until `reviver start store`.",
        ),
        (
            program(wanted=Wanted.DOWN, of=settings(manual=True)),
            'store is started by hand only (start = "manual").',
            "Nothing, until `reviver start store`.",
        ),
        (
            program(resting=1),
            'store ended by itself and rests (restart.when = "always").',
            "Nothing, until `reviver start store` or `reviver restart store`.",
        ),
        (program(instance(1)), "store:1 (pid 4001) has been ready for 3.0 s.", "Nothing: it is watched."),
    ],
)
def test_explain_of_calm_says_what_it_would_take(one: Program, why: str, comes: str) -> None:
    answer = explain(one)
    assert (answer["why"], answer["next"]) == ([why], [comes])


def test_explain_tells_the_incident_the_trial_and_the_story() -> None:
    incident = Incident(3, NOW - 30, Severity.WARNING, headline=Fact("hang", Severity.WARNING, "store:1 hung"), calm=NOW - 10)
    good = Build(0, "b00", LaunchSettings(command=("serve",)), "/srv")
    one = program(instance(2), incident=incident, good=good, trial=Trial(1, NOW))
    story = {"time": "2026-01-01T00:00:00.100Z", "subject": "store:1", "event": "instance.killed", "text": "killed"}
    answer = views.explain(one, fleet(one), [story], MOMENT)
    assert "Incident 3 was opened 30 s ago: store:1 hung." in answer["why"]
    assert "Release 4f2a91c is on trial; the last good one is b00." in answer["why"]
    assert answer["tried"] == ["2026-01-01T00:00:00.100Z  store:1: killed"]
    assert answer["next"] == ["Incident 3 is over in 50 s, if all stays calm."]


# --- plan


def plan(one: Program | None, *candidates: Candidate) -> dict[str, Any]:
    return views.plan(fleet(one) if one else Fleet(), Applied(candidates), DAEMON, DAEMON)


def step(one: Program | None, own: ProgramSettings, release: str = "4f2a91c") -> tuple[str, list[str]]:
    (planned,) = plan(one, Candidate(own, release, "/srv"))["programs"]
    return planned["action"], planned["keys"]


def test_plan_of_what_is_new_starts_it() -> None:
    assert step(None, settings()) == ("start", [])
    assert step(None, settings(manual=True)) == ("add", [])
    assert step(program(removed=True), settings()) == ("start", [])


def test_plan_of_what_is_unchanged_does_nothing() -> None:
    assert step(program(instance(1)), settings()) == ("none", [])


def test_plan_of_what_is_gone_stops_it() -> None:
    (planned,) = plan(program(instance(1)))["programs"]
    assert (planned["name"], planned["action"]) == ("store", "stop")


def test_plan_names_changed_keys_as_an_operator_writes_them() -> None:
    changed = settings(grace_s=20.0, manual=True, health=HealthSettings(every_s=5.0), hang=HangSettings(blocked_s=None))
    assert step(program(instance(1)), changed) == ("update", ["start", "grace", "health.every", "hang.blocked"])


def test_plan_of_what_decides_a_start_restarts_it_without_telling_secrets() -> None:
    changed = replace(settings(), launch=LaunchSettings(command=("serve", "--fast"), env=(("TOKEN", "hunter2"),)))
    assert step(program(instance(1)), changed) == ("restart", ["command", "env"])
    assert "hunter2" not in str(plan(program(instance(1)), Candidate(changed, "4f2a91c", "/srv")))
    assert step(program(wanted=Wanted.DOWN), changed) == ("update", ["command", "env"])


@pytest.mark.parametrize(
    ("one", "own", "text"),
    [
        (program(instance(1)), {"instances": 3}, "in place, nothing is restarted, 2 instances more: instances changed"),
        (program(instance(1)), {"grace_s": 3.0}, "in place, nothing is restarted: grace changed"),
        (program(wanted=Wanted.DOWN), {"grace_s": 3.0}, "it is stopped, and stays so; for its next start: grace changed"),
        (
            program(instance(1)),
            {"launch": LaunchSettings(command=("other",))},
            "the old one stops, then the new one starts: command changed",
        ),
    ],
)
def test_plan_says_what_customers_will_notice(one: Program, own: dict[str, Any], text: str) -> None:
    (planned,) = plan(one, Candidate(replace(settings(), **own), "4f2a91c", "/srv"))["programs"]
    assert planned["text"] == text


def test_plan_of_a_moved_release_restarts_it() -> None:
    assert step(program(instance(1)), settings(), release="new") == ("restart", ["release"])


def test_plan_says_what_takes_effect_later() -> None:
    steps = (EscalationStep(notify=("command:/bin/page",)),)
    answer = views.plan(Fleet(), Applied((), steps), DAEMON, replace(DAEMON, log_dir="/logs", keep_s=None))
    assert (answer["later"], answer["escalation"]) == (["reviver.log_dir", "reviver.keep"], "update")
