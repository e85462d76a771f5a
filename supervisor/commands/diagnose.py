"""`reviver diagnose PID`: verdict and evidence for any process tree, supervised or not.

Needs no configuration and no daemon, and changes nothing: what a person can do is printed, never done.
"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from supervisor.commands import diagnose_page
from supervisor.commands.diagnose_look import Look, look
from supervisor.commands.diagnose_verdict import Advice, Judgement, Ways, advice, judge
from supervisor.commands.screen import say_json
from supervisor.policy.cause import summary
from supervisor.servers import has_workers, recognise


def diagnose(pid: int, http: str, inspect: bool, as_json: bool) -> int:
    """Print what was found; 0 whatever the verdict is. Raises Refusal for what cannot be diagnosed."""
    found = asyncio.run(look(pid, http, inspect))
    judgement = judge(found.seen)
    again = f"reviver diagnose {pid}" + (f" --http {shlex.quote(http)}" if http else "")
    todo = advice(judgement, _ways(found, again))
    if as_json:
        say_json(_as_object(found, judgement, todo))
    else:
        diagnose_page.show(found, judgement, todo)
    return 0


def _ways(found: Look, again: str) -> Ways:
    who = found.person
    server = recognise(who.words)
    forks = has_workers(who.words)
    return Ways(
        pid=who.pid,
        program=who.instance.rpartition(":")[0],
        unit=who.unit,
        under=who.under,
        forks=forks,
        ask=server.server.ask_worker if server is not None and forks else "",
        is_worker=forks and who.parent_words == who.words,
        tracer=who.tracer,
        node=found.node,
        again=again,
        sudo="" if who.open else who.sudo,
    )


def _as_object(found: Look, judgement: Judgement, todo: tuple[Advice, ...]) -> dict[str, Any]:
    who, seen = found.person, found.seen
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "process": {
            "pid": who.pid,
            "name": who.name,
            "command": who.command,
            "user": who.user,
            "directory": who.directory or None,
            "since": datetime.fromtimestamp(who.started_wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "state": who.state,
            "instance": who.instance or None,
            "leader": who.leader or None,
            "unit": who.unit or None,
            "release": found.release or None,
            "processes": len(seen.pids),
            "threads": sum(len(process.threads) for process in seen.trees[-1].processes) if seen.trees else 0,
            "cpu_ratio": round(found.cpu_ratio, 3),
            "rss_bytes": found.rss_bytes,
        },
        "verdict": {
            "headline": judgement.headline,
            "kind": judgement.verdict.kind,
            "scope": judgement.verdict.scope,
            "nature": judgement.verdict.nature,
            "because": judgement.verdict.because,
            "sure": judgement.sure,
            "why": judgement.why,
            "workers": list(judgement.workers),
        },
        "cause": None
        if found.cause is None
        else {**asdict(found.cause), "summary": summary(found.cause), "where": found.cause.where},
        "source": [asdict(line) for line in found.source],
        "threads": [asdict(row) for row in found.threads],
        "listening": [
            {"address": f"{each.host}:{each.port}" if each.port else each.host, "queue": each.queue, "backlog": each.backlog}
            for each in found.listeners
        ],
        "waiting": [
            {"client": str(c.key[0]), "owner": c.owner or None, "accepted": bool(c.inode), "waits_s": round(seen.now - c.since, 3)}
            for c in seen.waiting
        ],
        "waits_for": [asdict(peer) for peer in seen.peers],
        "output": asdict(found.output),
        "unseen": list(found.unseen),
        "advice": [asdict(each) for each in todo],
    }
