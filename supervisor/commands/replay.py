"""`reviver replay`: recorded incidents through the diagnosis and the rules of today. Offline: reads state_dir, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import msgspec

from supervisor.commands import drill_kept
from supervisor.commands.configuration import load
from supervisor.commands.screen import safe, say, say_json, spell, table
from supervisor.commands.which import Which
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.mechanism.tape import Ended
from supervisor.model import HangSettings, ProgramSettings, Settings
from supervisor.policy.replay import SEEN_S, Outcome, outcome, variants
from supervisor.policy.rerun import Deed, Difference, Happened, What, differences, done, rerun
from supervisor.records import recordings
from supervisor.records.journal import JournalError, read_events_between
from supervisor.records.log import utc
from supervisor.records.recordings import Kept

DAY_S = 86400.0
AFTER_S = 60.0  # of the events behind a recording: what was done when it was over
HEAD = ("SETTING", "SUSPECTED", "PROVEN HUNG", "AFTER", "LEFT", "HEALTHY, AND MIGHT HAVE BEEN KILLED")
UNPROVEN = "Whoever was killed or asked to go cannot show any more that it would have answered: such a proof counts as a hang."


def replay(config: str | None, which: str | None, days: float | None, as_json: bool) -> int:
    """Print what would have differed with the settings of `config`, whose state_dir holds the recordings.

    which  an incident, or one of a drill; None: all recordings of `days`
    """
    tried = load(config)
    if (which is None) == (days is None):
        raise Refusal(REFUSED, "name an incident (see: reviver incidents), or --days for all recordings of so many days")
    found, state_dir, name = _one(tried, which) if which is not None else (_newest(tried, days or 0.0), "", "")
    answer = _days(found, tried) if which is None else {**_incident(found, tried, state_dir, name), "incident": which}
    if as_json:
        say_json({"config": tried.path, **answer})
    elif which is None:
        _show_days(answer)
    else:
        for line in _incident_page(answer):
            say(safe(line))
    return 0


def _newest(tried: Settings, days: float) -> list[Kept]:
    found = list(recordings.read(tried.daemon.state_dir, since_wall=time.time() - days * DAY_S))
    if not found:
        raise Refusal(REFUSED, f"there is no recording of the last {days:g} days in {tried.daemon.state_dir}/{recordings.FOLDER}")
    return found


def _one(tried: Settings, which: str) -> tuple[list[Kept], str, str]:
    """The recordings of one incident, the state_dir that they are from, and the program whose settings are tried."""
    wanted, state_dir, number, name = Which.read(which), tried.daemon.state_dir, None, ""
    if wanted.drill:
        drill = drill_kept.find(state_dir, wanted.drill)
        state_dir, name = drill.state_dir, drill.program
        number = wanted.number or drill.only()
    else:
        number = wanted.number
    found = list(recordings.read(state_dir, incident=number))
    if not found:
        raise Refusal(REFUSED, f"there is no recording of incident {which} in {state_dir}/{recordings.FOLDER}")
    return found, state_dir, name or found[0].head.program


# --- one incident ---------------------------------------------------------------------------------------------------------------


def _incident(found: Sequence[Kept], tried: Settings, state_dir: str, name: str) -> dict[str, Any]:
    """name: the program whose settings are tried; a drill's own is another."""
    head = found[0].head
    settings = _settings(tried, found[0], name)
    answer: dict[str, Any] = {
        "program": head.program,
        "settings": name if any(program.name == name for program in tried.programs) else None,
        "seen": [_seen(kept, settings.hang) for kept in found],
        "rules": None,
        "differences": [],
        "inexact": [],
        "in_all": [],
        "unknown": [],
    }
    found = _of_one_boot(found)
    was = _happened(found, state_dir)
    if not was:
        answer["rules"] = "the events of then are not in the journal any more: what the rules would have done cannot be said"
        return answer
    did = done(was, head.program)
    taken = [(kept.head.id, kept.recording) for kept in found]
    would = rerun(found[0].head.fleet, was, taken, settings)
    differing = differences(did, would)
    then = rerun(found[0].head.fleet, was, taken, found[0].head.fleet.programs[head.program].settings)
    answer["inexact"] = [_shown_difference(each, head.wall_s) for each in differences(did, then)]
    answer["differences"] = [_shown_difference(each, head.wall_s) for each in differing]
    answer["in_all"] = list(_counted(did, would))
    answer["unknown"] = list(_unknown(found, did, would))
    return answer


def _settings(tried: Settings, kept: Kept, name: str) -> ProgramSettings:
    """Those to be tried; those of then, where the configuration has no such program."""
    recorded = kept.head.fleet.programs[kept.head.program].settings
    chosen = next((program for program in tried.programs if program.name == name), recorded)
    return replace(chosen, name=recorded.name)


def _of_one_boot(found: Sequence[Kept]) -> list[Kept]:
    """Those whose instants can be compared, the one that goes back farthest first."""
    mine = [kept for kept in found if kept.head.boot == found[0].head.boot]
    return sorted(mine, key=lambda kept: kept.recording.facts[0].at)


def _happened(found: Sequence[Kept], state_dir: str) -> list[Happened]:
    """From the instant at which the first recording begins; without it there is no fleet to begin with."""
    head, facts = found[0].head, found[0].recording.facts
    last = max(kept.recording.facts[-1].at for kept in found)
    try:
        events = read_events_between(state_dir, head.boot, facts[0].at, last + AFTER_S)
    except (JournalError, msgspec.DecodeError):
        return []
    return [Happened(each.mono, each.event, each.effects) for each in events]


def _seen(kept: Kept, hang: HangSettings) -> dict[str, Any]:
    """What today's diagnosis makes of one recording, with its own and with these settings."""
    head, facts = kept.head, kept.recording.facts
    before, after = outcome(kept.recording), outcome(kept.recording, hang)
    lines = [_compared("suspected", before.suspected, after.suspected), _compared("proven hung", before.proven, after.proven)]
    if after.alive is not None and after.proven is not None:
        lines.append(f"it moved {spell(after.alive - after.proven)} after that proof: it was healthy, and might have been killed")
    return {
        "instance": str(head.id),
        "began": utc(head.began + head.wall_s),
        "recorded_s": round(facts[-1].at - facts[0].at, 1),
        "ended": head.ended,
        "as_recorded": _shown(before, head.wall_s),
        "tried": _shown(after, head.wall_s),
        "differs": lines,
    }


def _shown(found: Outcome, wall_s: float) -> dict[str, Any]:
    instants = {"suspected": found.suspected, "proven": found.proven, "worker_proven": found.workers, "alive": found.alive}
    return {**{name: None if at is None else utc(at + wall_s) for name, at in instants.items()}, "because": found.because}


def _compared(word: str, old: float | None, new: float | None) -> str:
    if old is None and new is None:
        return f"not {word}, neither with the settings of then"
    if new is None:
        return f"not {word} while it was recorded; with the settings of then it is"
    if old is None:
        return f"{word}; with the settings of then it is not"
    if abs(new - old) < SEEN_S:
        return f"{word} at the same instant"
    return f"{word} {spell(abs(new - old))} {'earlier' if new < old else 'later'}"


def _shown_difference(each: Difference, wall_s: float) -> dict[str, Any]:
    return {
        "what": each.what.name.lower(),
        "who": each.who,
        "was": None if each.was is None else utc(each.was + wall_s),
        "would": None if each.would is None else utc(each.would + wall_s),
        "guess": each.guess,
        "text": _sentence(each),
    }


def _sentence(each: Difference) -> str:
    who = f"the message {each.who!r}" if each.what is What.TOLD else each.who
    if each.would is None:
        return f"{who} would not have been {each.what}"
    if each.was is None:
        return f"{who} would have been {each.what}"
    by = spell(abs(each.would - each.was))
    return f"{who} would have been {each.what} {by} {'earlier' if each.would < each.was else 'later'}"


def _counted(did: Iterable[Deed], would: Iterable[Deed]) -> Iterator[str]:
    """Kills, starts and so on, fewer or more."""
    names = {What.KILLED: "kill", What.STARTED: "start", What.WORKER_KILLED: "hung worker killed", What.TOLD: "message"}
    for what, name in names.items():
        more = sum(deed.what is what for deed in would) - sum(deed.what is what for deed in did)
        if more:
            yield f"{abs(more)} {name}{'s' if abs(more) > 1 else ''} {'more' if more > 0 else 'less'}"


def _unknown(found: Iterable[Kept], did: Iterable[Deed], would: Sequence[Deed]) -> Iterator[str]:
    """Whose recording ends with a kill that would not have been."""
    killed = {deed.who for deed in did if deed.what is What.KILLED} - {deed.who for deed in would if deed.what is What.KILLED}
    for kept in found:
        if str(kept.head.id) in killed:
            end = utc(kept.recording.facts[-1].at + kept.head.wall_s)
            yield f"what {kept.head.id} would have done after {end}, when it was killed, nobody knows"


def _incident_page(answer: dict[str, Any]) -> Iterator[str]:
    whose = f"the settings of {answer['settings']} in this configuration" if answer["settings"] else "its own settings of then"
    yield f"incident {answer['incident']} of {answer['program']}, with {whose} and the rules of today"
    for seen in answer["seen"]:
        yield f"{seen['instance']}, bad since {seen['began']}, {seen['recorded_s']:.0f} s were recorded, until {seen['ended']}"
        yield from (f"  {line}" for line in seen["differs"])
    if answer["rules"]:
        yield answer["rules"]
        return
    if answer["inexact"]:
        first = answer["inexact"][0]["text"]
        yield f"this replay is not exact: with the settings of then, too, {first}"
        yield "  (the rules have changed since, or not every look was recorded)"
    yield "what would have been done:" if answer["differences"] else "the same would have been done, at the same instants"
    for number, each in enumerate(answer["differences"]):
        if number == 1:
            yield "  from here on it is a guess, for the world might have answered otherwise:"
        yield f"  {each['text']}"
    if answer["in_all"]:
        yield f"in all: {', '.join(answer['in_all'])}"
    yield from answer["unknown"]


# --- many recordings --------------------------------------------------------------------------------------------------------------


def _days(found: Sequence[Kept], tried: Settings) -> dict[str, Any]:
    """For each setting: how many hangs are found, when, and which healthy servers would have been."""
    programs = sorted({kept.head.program for kept in found})
    return {
        "recordings": len(found),
        "programs": [_program([k for k in found if k.head.program == name], tried) for name in programs],
    }


def _program(found: Sequence[Kept], tried: Settings) -> dict[str, Any]:
    hang = _settings(tried, found[-1], found[-1].head.program).hang
    rows: list[tuple[str, HangSettings | None]] = [("as recorded", None), ("as configured", hang), *variants(hang)]
    return {
        "program": found[0].head.program,
        "recordings": len(found),
        "settings": [_row(words, [(kept, outcome(kept.recording, each)) for kept in found]) for words, each in rows],
    }


def _row(words: str, outcomes: Sequence[tuple[Kept, Outcome]]) -> dict[str, Any]:
    proven = [(kept, found, found.proven) for kept, found in outcomes if found.proven is not None]
    hangs = [at - kept.head.began for kept, found, at in proven if found.alive is None]
    left = [str(kept.head.id) for kept, found, _ in proven if found.alive is None and kept.head.ended == Ended.LEFT]
    wrong = [str(kept.head.id) for kept, found, _ in proven if found.alive is not None]
    return {
        "setting": words,
        "suspected": sum(found.suspected is not None for _, found in outcomes),
        "hangs_found": len(hangs),
        "found_after_s": round(median(hangs), 1) if hangs else None,
        "left_when_asked": left,
        "healthy_proven_hung": wrong,
    }


def _show_days(answer: dict[str, Any]) -> None:
    for program in answer["programs"]:
        count = program["recordings"]
        say(safe(f"{program['program']}: {count} recording{'' if count == 1 else 's'}"))
        table(HEAD, [_cells(row) for row in program["settings"]], state=0)
    say("AFTER is the median, from the first bad verdict of then. LEFT went when asked to, and may have finished.")
    say(UNPROVEN)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    after = "" if row["found_after_s"] is None else spell(row["found_after_s"])
    wrong = ", ".join(row["healthy_proven_hung"]) or "none"
    return (row["setting"], str(row["suspected"]), str(row["hangs_found"]), after, str(len(row["left_when_asked"])), wrong)
