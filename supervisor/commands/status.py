"""`reviver status`: how the programs are. The command that is run in loops and prompts: it imports next to nothing."""

from __future__ import annotations

from typing import Any

from supervisor.commands.daemon import connect
from supervisor.commands.screen import clock_time, remark, say, say_json, spell, spell_bytes, table
from supervisor.control.messages import NOT_RUNNING

HEAD = ("PROGRAM", "STATE", "INSTANCE", "PID", "UPTIME", "CPU", "MEMORY", "RESTARTS", "VERDICT")
SPARED = ("MEMORY", "CPU", "RESTARTS", "UPTIME")  # on a narrow terminal
CALM = ("healthy", "starting", "unknown")  # verdicts that say nothing beyond the state


def status(config: str | None, names: tuple[str, ...], as_json: bool) -> int:
    """Print it; 3 when one of the programs does not run at all."""
    with connect(config) as daemon:
        answer = daemon.call("status", {"names": names})
    programs = answer["programs"]
    if as_json:
        say_json(answer)
    elif programs:
        table(HEAD, [row for program in programs for row in _rows(program)], state=1, spared=SPARED)
    else:
        say("no programs: the configuration has none")
    if not as_json:
        for channel in answer.get("channels", ()):  # a daemon that is older tells none
            if channel["failing_since"]:
                count = channel["waiting"]
                waiting = f"; {count} message{'s wait' if count > 1 else ' waits'}" if count else ""
                since = clock_time(channel["failing_since"])[:-3]
                remark(f"alerts through {channel['channel']} fail since {since}: {channel['problem']}{waiting}")
    return 0 if all(program["instances"] for program in programs) else NOT_RUNNING


def _rows(program: dict[str, Any]) -> list[tuple[str, ...]]:
    name, state, restarts = program["name"], program["state"], str(program["restarts"])
    if not program["instances"]:
        return [(name, state, "-", "-", "-", "-", "-", restarts, _held(program))]
    rows = [(name, *_cells(state, instance, restarts)) for instance in program["instances"]]
    if program["hold"]:
        rows[0] = (*rows[0][:-1], "; ".join(text for text in (_held(program), rows[0][-1]) if text))
    return rows


def _held(program: dict[str, Any]) -> str:
    """Who holds it, until when, and why."""
    hold = program["hold"]
    return f"held until {clock_time(hold['until'])[:-3]} by {hold['by']}: {hold['reason']}" if hold else ""


def _cells(state: str, instance: dict[str, Any], restarts: str) -> tuple[str, ...]:
    verdict = instance["verdict"]
    role = "" if instance["role"] == "main" else f" ({instance['role']})"
    cpu, rss = instance["cpu_ratio"], instance["rss_bytes"]
    return (
        state if state in ("crash-loop", "failed") else instance["state"],
        f"{instance['id']}{role}",
        str(instance["pid"] or "-"),
        spell(instance["uptime_s"]),
        "-" if cpu is None else f"{100 * cpu:.0f} %",
        "-" if rss is None else spell_bytes(rss),
        restarts,
        "" if verdict["kind"] in CALM else f"{verdict['kind']}: {verdict['because']}",
    )
