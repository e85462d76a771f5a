"""What `reviver diagnose` concludes from one short look, how sure that is, and what a person can do about it. Pure.

The verdict is the diagnosis' own, of the whole tree and of each worker that owes an answer. A look of two seconds proves no hang by itself;
but a request that has waited for longer than the limits, while nothing moved and its process did one and the same, nearly does. What nobody
waits for cannot be told from outside: then it says what it does, and that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from supervisor.model import HangSettings, Kind, Nature, Scope, Verdict
from supervisor.policy.diagnosis import (
    WINDOW_S,
    Client,
    Finding,
    Host,
    SocketSample,
    TreeSample,
    Window,
    diagnose,
    moved_between,
    rates,
)

HANG = HangSettings()  # the limits that programs have by default
OLD_S = 60.0  # reports inside a request that take longer than this are rare
SILENT_PEER_S = 1.0  # an answer that takes longer than this is waited for

SURE, VERY_LIKELY, LIKELY, OPEN = "sure", "very likely", "likely", "not sure"

_BAD = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED, Kind.STARVED, Kind.UNINTERRUPTIBLE})
_CONVICTED = {Nature.SPINNING: Kind.SPINNING, Nature.LOCKED: Kind.LOCKED, Nature.BLOCKED: Kind.BLOCKED}


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of asking it. `asked` is since when an answer is missing, `moved` when it last answered, however badly."""

    text: str
    asked: float | None
    moved: float | None
    ill: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody for whom `threads` of its threads wait; `silent_s` since anything came from there, None where that is not known."""

    name: str
    threads: int
    silent_s: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. `free` are the processes that wait for new connections; `sockets` is empty where no port is known."""

    began: float
    now: float
    trees: tuple[TreeSample, ...]
    sockets: tuple[SocketSample, ...]
    free: frozenset[int]
    probe: Probe | None
    host: Host
    peers: tuple[Peer, ...] = ()

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.trees[-1].processes) if self.trees else frozenset()

    @property
    def waiting(self) -> tuple[Client, ...]:
        """Who wants something of it, or of whoever shares its sockets and has not taken it; the oldest first."""
        clients = self.sockets[-1].clients if self.sockets else ()
        mine = (client for client in clients if client.waiting and (client.inode == 0 or client.owner in self.pids))
        return tuple(sorted(mine, key=lambda client: client.since))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict; `sure` is one of four words and `why` the sentence for it; `pid` the worker that it is about, 0 for the whole tree."""

    headline: str
    verdict: Verdict
    sure: str
    why: str
    pid: int = 0


def judge(seen: Seen) -> Judgement:
    """The verdict on what was seen. Total: it has an answer for any look."""
    whole = _finding(seen, None)
    if not seen.trees:
        return Judgement("unknown", whole.verdict, SURE, "its processes ended or could not be read")
    if whole.verdict.kind in (Kind.STOPPED, Kind.BLOCKED) and "state T" in whole.verdict.because:
        return _stopped(seen, whole)
    worker = _worker(seen, whole)
    if worker is not None:
        return worker
    if whole.verdict.kind in _BAD:
        return _silent(seen, whole, 0)
    if seen.waiting and seen.now - seen.waiting[0].since >= HANG.suspect_s:
        return Judgement(f"{whole.verdict.kind}", whole.verdict, SURE, "it was seen to answer others meanwhile")
    return _unasked(seen, whole)


def _finding(seen: Seen, pid: int | None) -> Finding:
    """The diagnosis of the whole tree, or of one worker by itself."""
    return diagnose(_window(seen, pid))


def _window(seen: Seen, pid: int | None) -> Window:
    trees, sockets, probe = seen.trees, seen.sockets, seen.probe
    if pid is not None:
        trees = tuple(replace(tree, processes=tuple(p for p in tree.processes if p.pid == pid)) for tree in trees)
        sockets = tuple(replace(each, clients=tuple(c for c in each.clients if c.owner == pid)) for each in sockets)
        probe = None
    pids = seen.pids if pid is None else frozenset({pid})
    moved = [seen.began, *(after.at for before, after in pairwise(sockets) if moved_between(before, after, pids))]
    if probe is not None and probe.moved is not None:
        moved.append(probe.moved)
    newest = sockets[-1].clients if sockets else ()
    owed = any(c.waiting and c.owner in pids and seen.now - c.since >= HANG.suspect_s for c in newest)
    return Window(
        now=seen.now,
        hang=HANG,
        spawned=seen.began,
        moved=max(moved),
        ready=seen.began,
        watched=bool(sockets) or probe is not None,
        asked=probe.asked if probe is not None else None,
        doubted=max(moved) if owed else None,  # what it owes for so long is a question
        shared=True,  # its parent or another instance may have the same sockets
        answer=probe.text if probe is not None and probe.moved is not None else "",
        ill=probe is not None and probe.ill,
        trees=trees,
        sockets=sockets[-1] if sockets else None,
        host=seen.host,
    )


def _worker(seen: Seen, whole: Finding) -> Judgement | None:
    """One worker that hangs while others of the tree serve; None when there is none, or it is all of them."""
    owners = {client.owner for client in seen.waiting if client.owner and seen.now - client.since >= HANG.suspect_s}
    found = {pid: finding for pid in owners if (finding := _finding(seen, pid)).verdict.kind in _BAD}
    others = seen.free - found.keys()
    if not found or len(seen.pids) == 1 or (whole.verdict.kind in _BAD and not others):
        return None
    pid = min(found, key=lambda pid: (found[pid].verdict.nature is not Nature.SPINNING, pid))
    told = _silent(seen, found[pid], pid)
    serve = f"{len(others)} others wait for requests" if len(others) > 1 else "another one waits for requests"
    because = f"worker {pid}: {told.verdict.because}; " + (serve if others else "others answer")
    return replace(told, verdict=replace(told.verdict, scope=Scope.WORKER, because=because))


def _silent(seen: Seen, finding: Finding, pid: int) -> Judgement:
    """Somebody waits, and nothing moved."""
    verdict, mine = finding.verdict, [c for c in seen.waiting if not pid or c.owner == pid]
    oldest_s = seen.now - mine[0].since if mine else 0.0
    if verdict.kind in (Kind.STARVED, Kind.UNINTERRUPTIBLE):
        return Judgement(verdict.kind, verdict, SURE, "the kernel says so of its threads", pid)
    if _open_ended(seen, verdict, mine, pid):
        return Judgement(
            "busy with a long request",
            replace(
                verdict,
                kind=Kind.BUSY,
                scope=Scope.REQUEST,
                because=f"it can take new requests; one has waited for {_span(oldest_s)}",
            ),
            OPEN,
            "a long poll, a stream or a websocket looks the same; reviver diagnose --http URL asks it",
            pid,
        )
    limit_s = HANG.blocked_s if verdict.nature is Nature.BLOCKED else HANG.certain_s
    if limit_s is not None and oldest_s >= limit_s:
        kind = _CONVICTED.get(verdict.nature, verdict.kind)
        sure = VERY_LIKELY if oldest_s >= OLD_S else LIKELY
        why = f"nobody saw it for longer than {_span(seen.now - seen.began)}; {_rival(verdict.nature, oldest_s)}"
        return Judgement(kind, replace(verdict, kind=kind), sure, why, pid)
    return Judgement(
        f"suspect ({verdict.nature})" if verdict.nature is not Nature.NONE else "suspect",
        verdict,
        OPEN,
        f"it was silent for {_span(seen.now - seen.began)} only; {_rival(verdict.nature, oldest_s)}",
        pid,
    )


def _open_ended(seen: Seen, verdict: Verdict, mine: list[Client], pid: int) -> bool:
    """Whether it waits for new connections while a request that it has read goes on: an event loop with a long poll does."""
    serves = pid in seen.free if pid else bool(seen.free)
    return serves and verdict.nature is Nature.BLOCKED and bool(mine) and not any(client.untaken for client in mine)


def _rival(nature: Nature, oldest_s: float) -> str:
    """What else it may be."""
    match nature:
        case Nature.SPINNING:
            return f"a report that needs more than {_span(max(oldest_s, WINDOW_S))} looks the same"
        case Nature.LOCKED:
            return "somebody outside may still release the lock"
        case _:
            return "what it waits for may still come"


def _stopped(seen: Seen, finding: Finding) -> Judgement:
    because = f"it is stopped (state T), as by SIGSTOP or Ctrl-Z: it does nothing at all until somebody continues it{_queue(seen)}"
    return Judgement("stopped", replace(finding.verdict, kind=Kind.STOPPED, because=because), SURE, "the kernel says so")


def _queue(seen: Seen) -> str:
    count = len(seen.waiting)
    if not count:
        return ""
    return f"; {count} request{'s wait' if count > 1 else ' waits'}, the oldest for {_span(seen.now - seen.waiting[0].since)}"


def _unasked(seen: Seen, whole: Finding) -> Judgement:
    """Nobody is seen waiting for it: what it does, and what that may mean."""
    nobody = "nobody waits for it" if seen.sockets else "it listens on no port, so who waits for it cannot be seen"
    if seen.probe is not None and seen.probe.moved is not None:
        nobody = f"{seen.probe.text}, and nobody waits"
    supposed = diagnose(replace(_window(seen, None), watched=True, asked=seen.began, moved=seen.began)).verdict
    usage = rates(seen.trees, seen.now, WINDOW_S)
    since = seen.began
    if supposed.kind in (Kind.STARVED, Kind.UNINTERRUPTIBLE):
        because = supposed.because.partition(", ")[2]
        return Judgement(supposed.kind, Verdict(supposed.kind, because, since), SURE, "the kernel says so of its threads")
    if supposed.nature is Nature.SPINNING:
        hottest = max(usage.values(), key=lambda used: used.run)
        verdict = Verdict(
            Kind.BUSY, f"{hottest.words} for all of {_span(seen.now - since)}; {nobody}", since, nature=Nature.SPINNING
        )
        return Judgement(
            "runs all the time",
            verdict,
            OPEN,
            "work and an endless loop look the same from outside; look at where it runs, and again later",
        )
    if supposed.nature is Nature.LOCKED:
        verdict = Verdict(Kind.SUSPECT, f"{_locked(seen)}; {nobody}", since, nature=Nature.LOCKED)
        return Judgement("locked", verdict, *_lock_certainty(seen))
    if waited := [peer for peer in seen.peers if peer.silent_s is None or peer.silent_s >= SILENT_PEER_S]:
        peer = waited[0]
        silent = f", from where nothing came for {_span(peer.silent_s)}" if peer.silent_s is not None else ""
        verdict = Verdict(Kind.UNKNOWN, f"{_threads(peer.threads)} for {peer.name}{silent}; {nobody}", since, nature=Nature.BLOCKED)
        return Judgement(
            "waits for somebody else",
            verdict,
            SURE,
            "the kernel says so; whether an answer is due is not known: a worker that waits for its next job looks the same",
        )
    if whole.verdict.kind is Kind.BUSY:
        return Judgement("busy", whole.verdict, SURE, "it was seen to answer")
    used = sum(each.run for each in usage.values())
    doing = f"it uses {used:.2f} of a core" if used >= 0.01 else "it is idle"
    return Judgement(
        "nothing wrong is seen",
        Verdict(Kind.HEALTHY, f"{doing}; {nobody}", since),
        LIKELY if seen.sockets or seen.probe else OPEN,
        _calm_why(seen),
    )


def _calm_why(seen: Seen) -> str:
    if seen.probe is not None and seen.probe.moved is not None:
        return "it answers"
    if seen.sockets:
        return "nobody asked it anything meanwhile; reviver diagnose --http URL does"
    return "a program that should be doing something and waits for ever looks the same"


def _locked(seen: Seen) -> str:
    count = sum(len(process.threads) for process in seen.trees[-1].processes)
    return f"all {count} threads wait for locks" if count > 1 else "its only thread waits for a lock"


def _lock_certainty(seen: Seen) -> tuple[str, str]:
    count = sum(len(process.threads) for process in seen.trees[-1].processes)
    if count > 1:
        return LIKELY, "a deadlock: no thread of it is left to release them, but a time limit or a signal may"
    return OPEN, "a main thread that waits for a signal looks the same"


def _threads(count: int) -> str:
    return f"{count} threads wait" if count > 1 else "a thread waits"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < OLD_S else f"{seconds / 60:.0f} min"


# --- what a person can do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advice:
    command: str
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """By what it can be acted upon.

    program      its name under Reviver, "" for none; `unit` in systemd, `under` in supervisord
    is_worker    the pid named is a child of a pre-fork server, `ask` the signal by which that server ends one worker
    """

    pid: int
    program: str
    unit: str
    under: str
    ask: str
    tracer: int = 0


def advice(found: Judgement, ways: Ways, sight: str) -> tuple[Advice, ...]:
    """Two to four commands that fit the verdict. Nothing of it has been done.

    sight  how to look again
    """
    return tuple(_advice(found, ways, sight))[:4]


def _advice(found: Judgement, ways: Ways, sight: str) -> Iterator[Advice]:
    kind, pid = found.verdict.kind, found.pid or ways.pid
    if ways.tracer:
        yield Advice(f"ps -o pid,user,args -p {ways.tracer}", "who traces it: a debugger holds it as long as it likes")
    if kind is Kind.STOPPED:
        yield Advice(f"kill -CONT {pid}", "lets it go on where it was stopped")
    if found.verdict.scope is Scope.WORKER and kind in _BAD:
        signal = ways.ask or "KILL"
        reads = "its client reads an error" if ways.ask else "its client's connection is reset"
        yield Advice(f"kill -{signal} {pid}", f"ends this worker alone: {reads}, and its parent starts another one")
    if kind in (Kind.STARVED,):
        yield Advice("ps -eo pid,user,pcpu,args --sort=-pcpu | head", "who takes the processors; killing this one cures nothing")
    if kind is Kind.UNINTERRUPTIBLE:
        yield Advice(
            "dmesg -T | tail",
            "what the kernel says of the disk or the network file system; no signal reaches it before that answers",
        )
    if found.headline == "waits for somebody else":
        yield Advice(
            "ss -tnpo state established",
            "its connections and who holds them; ask the other side, a restart here cures nothing there",
        )
    if kind in _BAD - {Kind.STARVED, Kind.UNINTERRUPTIBLE, Kind.STOPPED}:
        yield from _restart(ways)
    if ways.program:
        yield Advice(f"reviver explain {ways.program}", "what Reviver saw, did, and will do next")
        yield Advice(f"reviver logs -n 50 {ways.program}", "what it wrote last")
    yield Advice(sight, "look again: a request that is over by then was only long")
    if not ways.program:
        yield Advice(
            "reviver check", "once it stands in config.toml: whether Reviver can keep it alive, and relieve it when it hangs"
        )


def _restart(ways: Ways) -> Iterator[Advice]:
    if ways.program:
        yield Advice(f"reviver restart {ways.program}", "where two can live, the new one is ready before this one goes")
    elif ways.unit:
        yield Advice(f"systemctl restart {ways.unit}", "stops it, and starts it again; who waits is lost")
    elif ways.under:
        yield Advice(f"supervisorctl restart {ways.under}", "stops it, and starts it again; who waits is lost")
    else:
        yield Advice(
            f"kill -KILL {ways.pid}", "ends it at once (a hung one does not hear SIGTERM); whoever started it has to start it again"
        )
