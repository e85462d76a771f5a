"""Causes, workers and peers: what policy remembers, how far it goes, and what it does not blame on an instance."""

from __future__ import annotations

import pytest

from supervisor.model import (
    Demote,
    Effect,
    EvidenceTaken,
    Exited,
    InstanceId,
    Kill,
    KillWorker,
    Kind,
    Looked,
    Nature,
    Promote,
    Remember,
    Spawn,
    State,
    Tell,
    Verdict,
    Woke,
    WorkerLooked,
)
from supervisor.policy.words import ordinal
from tests.test_policy import Host, candidates, only, program

LOOP = ("python:spinning:coupons.py:apply", "coupons.py:41 apply()")
DATABASE = "10.0.0.5:5432"


def keys(effects: object) -> list[str]:
    return [tell.key for tell in only(effects, Tell) if isinstance(tell, Tell)]


def hang(host: Host, number: int, at: float, *, peer: str = "", loop: tuple[str, str] = LOOP) -> list[Effect]:
    """One instance is suspected at `at`, and the evidence names its cause."""
    host.now = at
    nature = Nature.BLOCKED if peer else Nature.SPINNING
    seen = list(host.look(number, Kind.SUSPECT, 1.1, nature))
    seen += host.take(EvidenceTaken(InstanceId("store", number), f"loops in {loop[1]}", loop[0], loop[1], peer))
    return seen


def prove(host: Host, number: int, after_s: float = 40.0) -> list[Effect]:
    """It is proven hung by a look, and dies."""
    began = host.now - 1.1
    host.wait_until(host.now + after_s)
    host.take(Looked(InstanceId("store", number), host.now, began, Verdict(Kind.SPINNING, "seen", began, nature=Nature.SPINNING)))
    assert Kill(InstanceId("store", number), began) in host.done, host.states()
    return list(host.take(Exited(InstanceId("store", number), -9)))


def looped(host: Host, number: int, at: float) -> list[Effect]:
    """A whole hang of a program that may not run beside itself, and its successor."""
    seen = hang(host, number, at) + prove(host, number)
    host.start(number + 1)
    return seen


def test_a_loop_proven_before_is_told_as_a_recurrence_as_soon_as_it_is_seen_again() -> None:
    host = Host(program(extra=0))
    host.start(1)
    looped(host, 1, 100.0)
    host.wait_until(1900.0)
    seen = hang(host, 2, 1900.0)
    assert "recurrence" in keys(seen)
    (text,) = [tell.text for tell in only(seen, Tell) if isinstance(tell, Tell) and tell.key == "recurrence"]
    assert "the 2nd time in 29 min" in text
    assert "coupons.py:41 apply()" in text


def test_it_is_forgotten_after_seven_days_and_remembered_before() -> None:
    for days, recurs in ((6.9, True), (7.1, False)):
        host = Host(program(extra=0))
        host.start(1)
        looped(host, 1, 100.0)
        later = 100.0 + days * 86400
        host.wait_until(later)
        seen = hang(host, 2, later)
        assert ("recurrence" in keys(seen)) is recurs


def test_a_third_proof_within_a_day_needs_people() -> None:
    host = Host(program(extra=0))
    host.start(1)
    seen: list[Effect] = []
    for number, at in ((1, 100.0), (2, 2000.0), (3, 4000.0)):
        seen = looped(host, number, at)
    assert "needs-you" in keys(seen)


def test_a_suspect_that_answers_again_makes_its_cause_long_work_and_no_loop() -> None:
    host = Host(program(extra=0))
    host.start(1)
    hang(host, 1, 100.0)
    host.now = 108.0
    host.look(1, Kind.HEALTHY, 0.0)
    looped(host, 1, 200.0)
    assert host.of().causes[0].passed == 1
    host.wait_until(2000.0)
    assert "recurrence" not in keys(hang(host, 2, 2000.0))


def test_what_is_remembered_is_handed_over_to_be_kept() -> None:
    host = Host(program(extra=0))
    host.start(1)
    kept = [effect.known for effect in only(looped(host, 1, 100.0), Remember) if isinstance(effect, Remember)]
    assert [len(known.proven) for known in kept] == [0, 1]
    assert kept[-1].release == "r1"


def test_twice_within_a_day_and_come_with_this_release_goes_back_to_the_previous_one() -> None:
    host = Host(program())
    host.start(1)
    newer = candidates(program(command="newer"))
    host.take(type(newer)(tuple(type(c)(c.settings, "r2", "/srv/r2") for c in newer.programs), ()), at=100.0)
    host.start(2)
    host.take(Exited(InstanceId("store", 1), 0))
    host.wait_until(900.0)
    assert host.of().good == host.of().build
    assert host.of().build.release == "r2"
    for number, at in ((2, 1000.0), (3, 3000.0)):
        hang(host, number, at)
        host.start(number + 1)
        seen = prove(host, number)
    assert "rollback" in keys(seen)
    assert host.of().build.release == "r1"
    assert only(seen, Spawn)


def test_a_known_loop_that_holds_all_that_could_serve_is_killed_after_three_seconds() -> None:
    host = Host(program())
    host.start(1)
    hang(host, 1, 100.0)
    host.start(2)
    prove(host, 1)
    host.wait_until(1000.0)
    hang(host, 2, 1000.0)
    host.now = 1000.6
    host.start(3)
    hang(host, 3, 1001.7)
    assert host.states() == {2: State.RETIRING, 3: State.SUSPECT}
    host.wait_until(1003.9)
    began = 1000.6
    host.take(Looked(InstanceId("store", 3), 1003.9, began, Verdict(Kind.SUSPECT, "seen", began, nature=Nature.SPINNING)))
    assert host.states()[3] is State.KILLING


def test_a_loop_that_is_new_is_given_its_patience_also_when_it_holds_all() -> None:
    host = Host(program())
    host.start(1)
    hang(host, 1, 100.0)
    host.now = 100.6
    host.start(2)
    hang(host, 2, 102.0)
    host.wait_until(106.0)
    host.take(Looked(InstanceId("store", 2), 106.0, 100.9, Verdict(Kind.SUSPECT, "seen", 100.9, nature=Nature.SPINNING)))
    assert host.states()[2] is State.SUSPECT


# --- waiting for somebody else --------------------------------------------------------------------------------------------------


def two_wait_for_the_database() -> tuple[Host, list[Effect]]:
    host = Host(program(instances=2))
    host.start(1)
    host.start(2)
    seen = hang(host, 1, 100.0, peer=DATABASE)
    host.take(Exited(InstanceId("store", 3), 1))
    seen += hang(host, 2, 100.2, peer=DATABASE)
    return host, seen


def test_a_dead_database_under_all_is_told_and_nobody_is_killed_for_it() -> None:
    host, seen = two_wait_for_the_database()
    assert "waiting" in keys(seen)
    host.now = 200.0
    for number in (1, 2):
        host.look(number, Kind.BLOCKED, 101.0, Nature.BLOCKED)
    assert not only(host.done, Kill)
    assert {host.states()[1], host.states()[2]} == {State.SUSPECT}


def test_one_is_tried_again_after_five_minutes_and_no_second_one() -> None:
    host, _ = two_wait_for_the_database()
    killed: list[tuple[int, int]] = []
    for at in range(101, 680):
        for number in (1, 2):
            if host.states().get(number) is State.SUSPECT:
                host.now = float(at)
                seen = host.look(number, Kind.BLOCKED, at - 99.0, Nature.BLOCKED)
                if any(isinstance(effect, Kill) and effect.id.number == number for effect in seen):
                    killed.append((at, number))
                    host.take(Exited(InstanceId("store", number), -9))
    assert len(killed) == 1
    assert killed[0][0] >= 400


def test_when_the_database_is_back_it_is_said_and_all_is_as_before() -> None:
    host, _ = two_wait_for_the_database()
    host.now = 130.0
    for number in (1, 2):
        host.look(number, Kind.HEALTHY, 0.0)
    assert host.of().outside is None


def test_a_host_without_memory_gets_no_relief_and_it_is_told() -> None:
    host = Host(program())
    host.start(1)
    verdict = Verdict(Kind.SUSPECT, "seen", 98.9, nature=Nature.SPINNING)
    seen = host.take(Looked(InstanceId("store", 1), 100.0, 98.9, verdict, room=False), at=100.0)
    assert not only(seen, Spawn)
    assert "relief-budget" in keys(seen)


def test_a_suspect_is_demoted_while_its_relief_boots_and_promoted_when_it_is_decided() -> None:
    host = Host(program())
    host.start(1)
    assert Demote(InstanceId("store", 1)) in hang(host, 1, 100.0)
    host.now = 100.6
    host.start(2)
    assert Promote(InstanceId("store", 1)) in host.done


# --- workers --------------------------------------------------------------------------------------------------------------------


def stuck(pid: int, at: float, since: float, nature: Nature = Nature.SPINNING) -> WorkerLooked:
    kind = Kind.SPINNING if nature is Nature.SPINNING else Kind.BLOCKED
    return WorkerLooked(InstanceId("store", 1), pid, 5, at, since, Verdict(kind, "seen", since, nature=nature))


def test_a_hung_worker_is_asked_by_its_servers_signal_then_killed_and_the_instance_stays() -> None:
    host = Host(program(server="gunicorn"))
    host.start(1)
    assert host.take(stuck(500, 120.0, 100.0), at=120.0) == ()
    asked = only(host.take(stuck(500, 130.1, 100.0), at=130.1), KillWorker)
    assert asked == [KillWorker(InstanceId("store", 1), 500, 5, "ABRT")]
    assert not only(host.take(stuck(500, 131.0, 100.0), at=131.0), KillWorker)
    killed = only(host.take(stuck(500, 132.2, 100.0), at=132.2), KillWorker)
    assert killed == [KillWorker(InstanceId("store", 1), 500, 5, "KILL")]
    assert host.states() == {1: State.READY}


def test_three_hung_workers_within_ten_minutes_make_the_instance_worn() -> None:
    host = Host(program(server="gunicorn"))
    host.start(1)
    for pid, at in ((500, 130.0), (501, 200.0), (502, 300.0)):
        host.take(stuck(pid, at, at - 31.0), at=at)
    assert host.states() == {1: State.READY, 2: State.STARTING}


def test_a_worker_of_whom_nothing_more_is_heard_is_forgotten() -> None:
    host = Host(program())
    host.start(1)
    host.take(stuck(500, 120.0, 100.0), at=120.0)
    host.take(Woke(), at=126.0)
    assert host.of().instances[0].workers == ()


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (23, "23rd")]
)
def test_ordinals_are_spelled(number: int, text: str) -> None:
    assert ordinal(number) == text
