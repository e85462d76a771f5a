"""`reviver incidents`, `incident`, `ack` and `hold`: what was wrong, for somebody who was asleep a minute ago; and saying who is at it.

What is past is read from the journal's file where no daemon answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from supervisor.commands.daemon import connect
from supervisor.commands.releases import who
from supervisor.commands.screen import clock_time, remark, safe, say, say_json, spell, table, typed
from supervisor.commands.which import Which
from supervisor.control.client import Client, Refusal, Unanswered
from supervisor.control.messages import REFUSED
from supervisor.records import fates

HEAD = ("INCIDENT", "STATE", "SEVERITY", "PROGRAM", "OPENED", "LASTED", "WHAT")
LABEL_WIDTH = 11
TEXT_SHOWN = 500  # characters of one line of the story: --json has it whole
SORTED_TO = len("2026-01-01T00:00:00.00")  # what was told at the instant of a fact stands below it
Answer = TypeVar("Answer")


def incidents(config: str | None, name: str, lines: int, as_json: bool) -> int:
    """Print the newest ones, the newest first."""

    def recorded(state_dir: str) -> dict[str, Any]:
        from supervisor.records.incidents import read_incidents  # 60 ms that the usual way does not pay

        return {"incidents": read_incidents(state_dir, lines, name)}

    answer = _ask(config, lambda daemon: daemon.call("incidents", {"limit": lines, "name": name}), recorded)
    if as_json:
        say_json(answer)
    elif answer["incidents"]:
        table(HEAD, [_row(each) for each in answer["incidents"]], state=1, spared=("SEVERITY", "LASTED"))
    else:
        say("no incidents are known")
    return 0


def drills(config: str | None, name: str, lines: int, as_json: bool) -> int:
    """Print those of drills, of one program or of all ("": the bundled store's too), the newest first."""
    from itertools import islice

    from supervisor.commands import drill_kept
    from supervisor.commands.configuration import load

    kept = (drill for drill in drill_kept.all_of(load(config).daemon.state_dir) if name in ("", drill.program))
    found = list(islice(({**each, "fault": drill.fault} for drill in kept for each in reversed(drill.incidents())), lines))
    if as_json:
        say_json({"incidents": found})
    elif found:
        table(HEAD, [_row(each) for each in found], state=1, spared=("SEVERITY", "LASTED"))
    else:
        say("no drills are kept (reviver drill hang plays one)")
    return 0


def incident(config: str | None, which: str, lines: int, as_json: bool) -> int:
    """Print one as a page."""
    found, *more = find(config, which)
    if more:
        raise Refusal(REFUSED, f"{which} has more than one incident: name {', '.join(each['incident'] for each in (found, *more))}")
    if as_json:
        say_json(found)
    else:
        for line in _page(found, lines, typed(config)):
            say(line)
    return 0


def find(config: str | None, which: str) -> list[dict[str, Any]]:
    """All that is kept of one incident, and where a daemon answers also what comes next; of a drill as a whole, each of its incidents.

    raises  Refusal
    """
    wanted = Which.read(which)
    if not wanted.drill:
        return [_own(config, wanted.number)]
    from supervisor.commands import drill_kept
    from supervisor.commands.configuration import load

    drill = drill_kept.find(load(config).daemon.state_dir, wanted.drill)
    found = [drill.incident(wanted.number)] if wanted.number else drill.incidents()
    if not found:
        raise Refusal(REFUSED, f"no incident was opened in drill {drill.id}")
    return found


def _own(config: str | None, number: int) -> dict[str, Any]:
    def recorded(state_dir: str) -> dict[str, Any]:
        from supervisor.alerts.channels import named
        from supervisor.records.incidents import read_incident

        found = read_incident(state_dir, number, named)
        if found is None:
            raise Refusal(REFUSED, f"there is no incident {number} (see: reviver incidents)")
        return found

    return _ask(config, lambda daemon: daemon.call("incident", {"incident": number}), recorded)


def ack(config: str | None, numbers: Sequence[int]) -> int:
    """Acknowledge them: the only open one where none is named. One that is refused, being over by now, keeps no other from it."""
    refused: list[Refusal] = []
    with connect(config) as daemon:
        for number in numbers or (None,):
            try:
                say(safe(daemon.call("ack", {"incident": number})["text"]))
            except Refusal as refusal:
                refused.append(refusal)
    for problem in refused[:-1]:
        remark(f"reviver: {problem}")
    if refused:
        raise refused[-1]
    return 0


def hold(config: str | None, name: str, lasts: str, reason: str, end: bool) -> int:
    """Keep Reviver's hands off a program for a while, or end that."""
    with connect(config) as daemon:
        answer = daemon.call("hold", {"name": name, "lasts": lasts, "reason": reason, "end": end})
    until = f"held until {clock_time(answer['until'])[:-3]}: " if answer["until"] else ""
    say(safe(f"{answer['name']}: {until}{answer['text']}"))
    return 0


def _ask(config: str | None, live: Callable[[Client], Answer], recorded: Callable[[str], Answer]) -> Answer:
    """From the daemon, else from what it left."""
    try:
        daemon = connect(config)
    except Unanswered as nobody:
        from supervisor.commands.configuration import load
        from supervisor.records.journal import JournalError

        try:
            answer = recorded(load(config).daemon.state_dir)
        except JournalError as problem:
            raise Refusal(REFUSED, str(problem)) from None
        remark(f"{nobody}; this is from the journal")
        return answer
    with daemon:
        return live(daemon)


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    opened = clock_time(each["opened"])[:-3]
    return (str(each["incident"]), each["state"], each["severity"], each["program"], opened, _lasted(each), each["what"])


def _lasted(each: dict[str, Any]) -> str:
    if each.get("drill") and not each["over"]:
        return "not over"  # when the drill ended
    end = datetime.fromisoformat(each["over"]) if each["over"] else datetime.now(UTC)
    return spell((end - datetime.fromisoformat(each["opened"])).total_seconds())


def _page(found: dict[str, Any], lines: int, option: str) -> Iterator[str]:
    """What, since when, who is affected, why, what was done, what comes, what to type; then what happened in order."""
    lasted = f"lasted {_lasted(found)}" if found["over"] else f"for {_lasted(found)} now"
    drill = "DRILL: " if found.get("drill") else ""
    if drill and not found["over"]:
        lasted = "not over when the drill ended"
    yield f"{drill}incident {found['incident']} of {safe(found['program'])} is {found['state']}, {found['severity']}, {lasted}"
    yield f"  {safe(found['what'])}"
    yield ""
    for label, text in _facts(found):
        yield f"{label:<{LABEL_WIDTH}}{safe(text)}"
    yield ""
    yield "what happened:"
    yield from _story(found, lines)
    yield ""
    yield "you can type:"
    if found.get("drill"):  # its Reviver is gone, and so is its program
        yield f"  reviver postmortem {found['incident']}{option}"
        yield f"  reviver replay {found['incident']}{option}"
        return
    if not found["over"] and not found["acknowledged_by"]:
        yield f"  reviver ack {found['incident']}{option}"
    yield f"  reviver explain {safe(found['program'])}{option}"
    yield f"  reviver logs {safe(found['program'])}{option}"
    if found.get("runbook"):
        yield f"runbook: {safe(found['runbook'])}"


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    release = f", release {found['release']}" if found["release"] else ""
    yield "since", clock_time(found["opened"]) + (f", over at {clock_time(found['over'])}" if found["over"] else "")
    yield "cause", (found["cause"] or "not known") + release
    if "affected" in found:
        yield "affected", found["affected"]
    unserved = (
        f"nobody was served for {spell(found['unserved_s'])}"
        if found["unserved_s"]
        else "an instance was ready all the time since it was opened"
    )
    if found["unserved_since"]:
        unserved = f"nobody has been served since {clock_time(found['unserved_since'])}"
    yield "customers", unserved
    yield "", found["noticed"]["text"]
    if "affected" in found:
        yield "done", found["done"]
        yield "next", found["next"]
    told = fates.channels(found, spell, lambda at: clock_time(at)[:-3]) or ["nobody: no escalation step takes it"]
    yield from zip(("told", *[""] * len(told)), told, strict=False)
    yield "at it", _acknowledged(found["acknowledgements"])
    for fact in found["facts"]:
        if fact["text"] != found["what"]:
            yield "also", fact["text"]
    if found["evidence"]:
        yield "evidence", f"of {', '.join(found['evidence'])}: evidence/ in state_dir"


def _acknowledged(acknowledgements: list[dict[str, Any]]) -> str:
    if not acknowledgements:
        return "nobody has acknowledged it"
    newest = acknowledgements[-1]
    said = f"{who(newest['by'])}, since {clock_time(newest['time'])[:-3]}"
    return f"{said}; told again since: {newest['broken']}" if newest["broken"] else said


def _story(found: dict[str, Any], lines: int) -> Iterator[str]:
    story = [(line["time"], line["subject"], line["text"]) for line in found["story"]]
    story += [(at, "told", text) for at, text in fates.lines(found, spell)]
    story.sort(key=lambda line: line[0][:SORTED_TO])
    left_out = found["story_left_out"] + max(len(story) - lines, 0)
    if left_out:
        yield f"  ({left_out} earlier lines are left out: -n shows more, --json what is kept)"
    shown = story[len(story) - lines :] if lines < len(story) else story
    width = max((len(subject) for _, subject, _ in shown), default=0)
    for time, subject, text in shown:
        short = text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]} ..."
        yield f"  {clock_time(time)}  {safe(subject):<{width}}  {safe(short)}"
