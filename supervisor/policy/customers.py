"""What customers notice of an incident, and what stakeholders are told of it: plain words, first after a while, then on change.

Pure. Customers are affected while instances are wanted and none is ready: nobody serves them. Stakeholders hear of it when that has
lasted for `after`, when it is served again, when it is not once more, and when it is over, with what it cost.
"""

from __future__ import annotations

from string import Template

from supervisor.model import Effect, Impact, Incident, Notice, Program, Tell, Voice
from supervisor.policy import toll
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, ready, wanted
from supervisor.policy.words import plainly, spell

PUBLIC_STEP = -2  # the step of messages to stakeholders
APART_S = 60.0  # between "again" and what was told before, at the least: one that comes and goes is no news each second


def notice(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Follow how long nobody is served, and tell stakeholders what is new."""
    incident = program.incident
    if incident is None:
        return program, ()
    up = bool(wanted(program, world))
    impact = _follow(incident.impact, program, clock.now, affected=up and not ready(program))
    if impact != incident.impact:
        incident = replace(incident, impact=impact)
        program = replace(program, incident=incident)
    what = _news(impact, program, world, clock) if up and world.stakeholders.notify and not program.muted else None
    if what is None:
        return program, ()
    incident = replace(
        incident, sent=incident.sent + 1, impact=replace(impact, notice=what, noticed=clock.now if what else impact.noticed)
    )
    text = {
        Notice.BEGIN: world.stakeholders.begin,
        Notice.BACK: world.stakeholders.back,
        Notice.AGAIN: world.stakeholders.again,
    }[what]
    message = _message(program, incident, world, f"public-{what.value}.{incident.sent}", text, clock.now)
    return replace(program, incident=incident), (message,)


def all_clear(program: Program, incident: Incident, world: World, calm: float, up: int) -> tuple[Tell, ...]:
    """The end, for those who were told that it began. `calm`: since when all has been well."""
    if incident.impact.notice is None or not world.stakeholders.notify:
        return ()
    text = world.stakeholders.over if up else world.stakeholders.stopped
    return (_message(program, incident, world, "public-over", text, calm),)


def cost(incident: Incident) -> str:
    """What it cost customers, as far as is known, for operators."""
    total_s = incident.impact.total_s
    served = (
        f"nobody was served for {spell(total_s)} of it" if total_s else "an instance was ready all the time since it was opened"
    )
    return f"{served}; {toll.words(incident.toll)}"


def _follow(impact: Impact, program: Program, now: float, *, affected: bool) -> Impact:
    if affected and impact.since is None:
        return replace(impact, since=now if program.unserved is None else program.unserved)
    if not affected and impact.since is not None:
        return replace(impact, since=None, total_s=impact.total_s + now - impact.since)
    return impact


def _news(impact: Impact, program: Program, world: World, clock: Clock) -> Notice | None:
    if impact.since is None:
        return Notice.BACK if impact.notice in (Notice.BEGIN, Notice.AGAIN) else None
    if impact.notice in (Notice.BEGIN, Notice.AGAIN):
        return None
    since = max(impact.since, program.unmuted if program.unmuted is not None else impact.since)
    due = since + world.stakeholders.after_s
    if impact.notice is Notice.BACK:
        due = max(due, impact.noticed + APART_S)
    if not clock.due(due):
        return None
    return Notice.BEGIN if impact.notice is None else Notice.AGAIN


def _message(program: Program, incident: Incident, world: World, key: str, text: str, until: float) -> Tell:
    name, impact = program.settings.name, incident.impact
    affected_s = impact.total_s + (until - impact.since if impact.since is not None else 0.0)
    began = incident.opened if impact.since is None else min(impact.since, incident.opened)
    words = {"program": name, "lasted": plainly(until - began), "affected": plainly(affected_s)}
    said = Template(text).safe_substitute(words)
    return Tell(incident.number, name, key, incident.severity, said, world.stakeholders.notify, PUBLIC_STEP, Voice.PUBLIC)
