"""The history of releases, and what a trial makes of odd ends. Whole deploys stand in test_stories.py and test_deploy.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.model import (
    Applied,
    Build,
    Candidate,
    DeployAsked,
    Exited,
    InstanceId,
    Program,
    Release,
    Standing,
    Switched,
    Tell,
)
from supervisor.policy import builds, releases
from tests.test_memory import hang
from tests.test_policy import Host, only, program

CURRENT = "/srv/store/current"
R1, R2 = "/srv/store/r1", "/srv/store/r2"


def linked(release: str = "r1") -> Applied:
    settings = program()
    launch = replace(settings.launch, directory=CURRENT)
    return Applied((Candidate(replace(settings, launch=launch), release, f"/srv/store/{release}", linked=True),))


def shop() -> Host:
    """A program behind a symlink, whose first release serves."""
    host = Host()
    host.take(linked())
    host.start(1)
    return host


def deployed(host: Host) -> Host:
    """The second release serves alone, on probation."""
    host.take(DeployAsked("store", "r2", R2, "uid 1000"), at=100.0)
    host.take(Switched("store", R2))
    host.start(2)
    host.take(Exited(InstanceId("store", 1), 0))
    return host


def standings(host: Host) -> list[tuple[str, Standing]]:
    return [(each.name, each.standing) for each in host.of().releases]


@pytest.mark.parametrize(("gone_after_s", "lost"), [(31.0, True), (20.0, False)])
def test_a_suspect_on_trial_that_ends_unproven_loses_the_trial_once_its_patience_is_over(gone_after_s: float, lost: bool) -> None:
    """A busy host may keep proof away, and a server may give its worker up by itself: the loop is not deployed a second time for that."""
    host = deployed(shop())
    hang(host, 2, 200.0)
    host.start(3)  # a relief of the last good release
    host.wait_until(200.0 + gone_after_s)
    seen = host.take(Exited(InstanceId("store", 2), 0))
    assert ("rollback" in [tell.key for tell in only(seen, Tell) if isinstance(tell, Tell)]) is lost
    assert host.of().build.release == ("r1" if lost else "r2")
    assert standings(host)[-1] == ("r2", Standing.FAILED if lost else Standing.TRIED)


def test_what_was_proposed_of_a_release_that_fails_meanwhile_is_not_taken_up() -> None:
    """Its settings were changed, and the preflight was under way: it would be tried again, and nobody asks for that now."""
    host = deployed(shop())
    changed = linked("r2").programs[0]
    launch = replace(changed.settings.launch, umask=0o077, preflight=(("true",),))
    host.take(Applied((replace(changed, settings=replace(changed.settings, launch=launch)),)), at=150.0)
    assert host.of().proposed is not None
    hang(host, 2, 200.0)
    host.start(3)
    host.wait_until(231.0)
    host.take(Exited(InstanceId("store", 2), 0))
    assert standings(host)[-1] == ("r2", Standing.FAILED)
    assert host.of().proposed is None
    assert host.of().build.release == "r1"


def test_only_the_newest_releases_are_kept_and_their_numbers_go_on() -> None:
    host = shop()
    for number in range(2, releases.KEPT + 5):
        host.take(DeployAsked("store", f"r{number}", f"/srv/store/r{number}", "uid 0"))
        host.take(Switched("store", f"/srv/store/r{number}"))
    known = host.of().releases
    assert len(known) == releases.KEPT
    assert [each.number for each in known] == list(range(5, releases.KEPT + 5))
    assert {each.standing for each in known[:-1]} == {Standing.REPLACED}


def test_last_good_is_the_newest_trusted_one_that_was_not_given_up_since() -> None:
    def line(number: int, name: str, standing: Standing) -> Release:
        return Release(number, name, f"/srv/store/{name}", 0.0, "uid 0", standing)

    past = (
        line(1, "r1", Standing.GOOD),
        line(2, "r2", Standing.GOOD),
        line(3, "r3", Standing.FAILED),
        line(4, "r2", Standing.ROLLED_BACK),
        line(5, "r4", Standing.GOOD),
    )
    settings = program()
    now = Program(settings=settings, build=Build(1, "r4", settings.launch, "/srv/store/r4"), releases=past)
    assert releases.last_good(now) == past[0]


@pytest.mark.parametrize(("rollback", "runs"), [(True, "r1"), (False, "r2")])
def test_a_supervisor_that_begins_does_not_run_what_a_link_still_names_although_it_failed(rollback: bool, runs: str) -> None:
    past = (
        Release(1, "r1", R1, 0.0, "start", Standing.GOOD),
        Release(2, "r2", R2, 0.0, "uid 0", Standing.FAILED, "exit code 1"),
    )
    candidate = linked("r2").programs[0]
    settings = replace(candidate.settings, release=replace(candidate.settings.release, rollback=rollback))
    host = Host()
    host.fleet = replace(host.fleet, releases={"store": past})
    host.take(Applied((replace(candidate, settings=settings),)))
    assert host.of().build.release == runs


def test_a_release_without_a_name_has_no_history() -> None:
    host = Host()
    host.take(Applied((Candidate(program(), "", "/srv/store"),)))
    host.start(1)
    assert host.of().releases == ()
    assert builds.checkout("/srv/store", "") == "git -C /srv/store checkout REVISION && reviver apply"
