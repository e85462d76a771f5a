"""Looks at instances and says what is true of them; mischief may make the news late, double or lost, never false."""

from __future__ import annotations

from supervisor.model import HangSettings, Kind, Looked, Nature, Scope, Verdict, WorkerLooked
from tests.sim.servers import Phase, Server, Site

TICK_S = 0.25
RESTLESS = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED, Kind.UNINTERRUPTIBLE, Kind.STARVED})
HUNG = {Nature.SPINNING: Kind.SPINNING, Nature.LOCKED: Kind.LOCKED, Nature.BLOCKED: Kind.BLOCKED, Nature.NONE: Kind.LOCKED}


def look(server: Server, site: Site, hang: HangSettings, now: float, *, sick: bool, room: bool) -> Looked:
    """The truth about one server at `now`."""
    if server.phase in (Phase.GATE, Phase.BOOT):
        return Looked(server.id, now, None, Verdict(Kind.STARTING, "it does not answer yet", now), room)
    kind, nature = _kind(server, site, hang, now, sick=sick)
    since = server.still_since(now) if server.behaviour.probed or server.moved is None else server.moved
    if not server.behaviour.probed and server.capable:
        since = now
    return Looked(server.id, now, since, Verdict(kind, f"{kind}, {now - since:.1f} s still", since, nature=nature), room)


def look_at_workers(server: Server, hang: HangSettings, now: float) -> list[WorkerLooked]:
    """The workers that have done nothing for a while, while others of theirs serve."""
    if server.frozen or server.wedged is not Nature.NONE or now - server.still_since(now) >= hang.suspect_s:
        return []
    seen = []
    for request in server.serving:
        if now - request.began >= hang.suspect_s:
            nature = Nature.BLOCKED if request.blocked else Nature.SPINNING if request.task is not None else Nature.LOCKED
            limit_s = hang.blocked_s if nature is Nature.BLOCKED else hang.certain_s
            kind = HUNG[nature] if limit_s is not None and now - request.began >= limit_s else Kind.SUSPECT
            verdict = Verdict(kind, f"{kind}, {now - request.began:.1f} s still", request.began, Scope.WORKER, nature)
            seen.append(WorkerLooked(server.id, request.pid, request.pid * 10, now, request.began, verdict))
    return seen


def _kind(server: Server, site: Site, hang: HangSettings, now: float, *, sick: bool) -> tuple[Kind, Nature]:
    still_s = now - server.still_since(now)
    nature = server.nature()
    if server.frozen == "D":
        return Kind.UNINTERRUPTIBLE, nature
    if still_s < hang.suspect_s or not _somebody_waits(server, site, hang, now):
        return (Kind.BUSY if server.serving else Kind.HEALTHY), Nature.NONE
    if server.frozen == "T":
        proven = hang.blocked_s is not None and still_s >= hang.blocked_s
        return (Kind.BLOCKED if proven else Kind.STOPPED), Nature.BLOCKED
    if sick:
        return Kind.STARVED, nature
    limit_s = hang.blocked_s if nature is Nature.BLOCKED else hang.certain_s
    if limit_s is not None and still_s >= limit_s:
        return HUNG[nature], nature if nature is not Nature.NONE else Nature.LOCKED
    return Kind.SUSPECT, nature if nature is not Nature.NONE else Nature.LOCKED


def _somebody_waits(server: Server, site: Site, hang: HangSettings, now: float) -> bool:
    if server.behaviour.probed or any(now - r.arrived >= hang.suspect_s for r in server.serving):
        return True
    oldest = site.oldest()
    return oldest is not None and now - oldest >= hang.suspect_s and not server.stopping
