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
from supervisor.policy.diagnosis import diagnose
from supervisor.policy.excuses import excuse
from supervisor.policy.samples import Client, Host, SocketSample, TreeSample, Window, moved_between
from supervisor.policy.threads import WINDOW_S, nature, rates

HANG = HangSettings()  # the limits that programs have by default
OLD_S = 60.0  # reports inside a request that take longer than this are rare
ADVICE_LIMIT = 4
SILENT_PEER_S = 1.0  # an answer that takes longer than this is waited for

IDLE_RATIO = 0.01  # of a core: less is timers
KERNEL = "the kernel says so of its threads"

SURE, VERY_LIKELY, LIKELY, OPEN = "sure", "very likely", "likely", "not sure"

_BAD = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED, Kind.STARVED, Kind.UNINTERRUPTIBLE})
_HUNG = _BAD - {Kind.STOPPED, Kind.STARVED, Kind.UNINTERRUPTIBLE}
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
    """Somebody for whom `threads` of its threads wait; `silent_s` since anything came from there, None where that is not known.

    pid, process  who that is, where it is on this host and can be seen
    """

    name: str
    threads: int
    silent_s: float | None
    pid: int = 0
    process: str = ""

    @property
    def late(self) -> bool:
        return self.silent_s is None or self.silent_s >= SILENT_PEER_S

    @property
    def words(self) -> str:
        silent = f", from where nothing came for {_span(self.silent_s)}" if self.silent_s is not None else ""
        who = f" (process {self.pid}, {self.process})" if self.pid else ""
        return f"{_count(self.threads, 'thread waits', 'threads wait')} for {self.name}{who}{silent}"


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
    def leader(self) -> int:
        return self.trees[-1].processes[0].pid

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.trees[-1].processes) if self.trees else frozenset()

    @property
    def waiting(self) -> tuple[Client, ...]:
        """Who wants something of it, or of whoever shares its sockets and has not taken it; the oldest first."""
        clients = self.sockets[-1].clients if self.sockets else ()
        mine = (client for client in clients if client.waiting and (client.inode == 0 or client.owner in self.pids))
        return tuple(sorted(mine, key=lambda client: client.since))

    @property
    def late(self) -> tuple[Client, ...]:
        return tuple(client for client in self.waiting if self.now - client.since >= HANG.suspect_s)

    @property
    def answered(self) -> bool:
        """It answered what it was asked last."""
        return self.probe is not None and self.probe.moved is not None and self.probe.asked is None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict.

    headline  it in a few words; `sure` one of four words, and `why` the sentence for it
    workers   the processes that it is about; () for the whole tree
    peer      for whom it waits, where that is all that it does
    """

    headline: str
    verdict: Verdict
    sure: str
    why: str
    workers: tuple[int, ...] = ()
    peer: Peer | None = None


def judge(seen: Seen) -> Judgement:
    """The verdict on what was seen. Total: it has an answer for any look."""
    whole = diagnose(_window(seen, None))
    if not seen.trees:
        return Judgement("unknown", whole.verdict, SURE, "its processes ended, or could not be read")
    stuck = _stuck_workers(seen)
    others = seen.free - stuck.keys()
    if whole.verdict.kind is Kind.STOPPED:
        return _silent(seen, whole.verdict, ())
    if stuck and (others or whole.verdict.kind not in _BAD):
        return _beside_others(seen, stuck, len(others))
    if whole.verdict.kind in _BAD:
        return _silent(seen, whole.verdict, tuple(sorted(stuck)))
    if seen.late:
        return _beside_answers(seen, whole.verdict)
    return _unasked(seen, whole.verdict)


def _window(seen: Seen, worker: int | None) -> Window:
    """What the diagnosis is asked: of the whole tree, or of one worker by itself."""
    trees, sockets, probe = seen.trees, seen.sockets, seen.probe
    if worker is not None:
        trees = tuple(replace(tree, processes=tuple(p for p in tree.processes if p.pid == worker)) for tree in trees)
        sockets = tuple(replace(each, clients=tuple(c for c in each.clients if c.owner == worker)) for each in sockets)
        probe = None
    pids = seen.pids if worker is None else frozenset({worker})
    moved = [seen.began, *(after.at for before, after in pairwise(sockets) if moved_between(before, after, pids))]
    if probe is not None and probe.moved is not None:
        moved.append(probe.moved)
    return Window(
        now=seen.now,
        hang=HANG,
        spawned=seen.began,
        moved=max(moved),
        ready=seen.began,
        watched=bool(sockets) or probe is not None,
        asked=probe.asked if probe is not None else None,
        doubted=max(moved) if any(client.owner in pids for client in seen.late) else None,  # what it owes for so long is a question
        shared=True,  # its parent or another instance may have the same sockets
        answer=probe.text if probe is not None and probe.moved is not None else "",
        ill=probe is not None and probe.ill,
        trees=trees,
        sockets=sockets[-1] if sockets else None,
        host=seen.host,
    )


def _stuck_workers(seen: Seen) -> dict[int, Verdict]:
    """The processes that owe an answer for long, and do not move; the tree's first process is no worker."""
    owners = {client.owner for client in seen.late if client.owner} - {seen.leader}
    verdicts = {pid: diagnose(_window(seen, pid)).verdict for pid in owners}
    return {pid: verdict for pid, verdict in verdicts.items() if verdict.kind in _BAD}


def _beside_others(seen: Seen, stuck: dict[int, Verdict], others: int) -> Judgement:
    """Some workers hang while others of the tree serve."""
    pid = min(stuck, key=lambda pid: (stuck[pid].nature is not Nature.SPINNING, pid))
    told = _silent(seen, stuck[pid], tuple(sorted(stuck)))
    serve = f"{_count(others, 'other waits', 'others wait')} for requests" if others else "others answer meanwhile"
    return replace(told, verdict=replace(told.verdict, scope=Scope.WORKER, because=f"{told.verdict.because}; {serve}"))


def _beside_answers(seen: Seen, verdict: Verdict) -> Judgement:
    """Some requests take long while it answers others."""
    hottest = max(rates(seen.trees, seen.now, WINDOW_S).values(), key=lambda used: used.run, default=None)
    if hottest is None or not hottest.spins or verdict.kind is not Kind.BUSY:
        return Judgement(verdict.kind, verdict, SURE, "it was seen to answer others meanwhile")
    verdict = replace(verdict, scope=Scope.REQUEST, nature=Nature.SPINNING, because=f"{verdict.because}; {hottest.words}")
    why = f"it was seen to answer others; {_rival(Nature.SPINNING, seen.now - seen.late[0].since)}"
    return Judgement("busy, and one request may loop", verdict, OPEN, why)


def _silent(seen: Seen, verdict: Verdict, workers: tuple[int, ...]) -> Judgement:
    """Somebody waits and nothing moved, or it is stopped."""
    mine = [client for client in seen.waiting if not workers or client.owner in workers]
    oldest_s = seen.now - mine[0].since if mine else 0.0
    looked_s = seen.now - seen.began
    if seen.probe is not None and seen.probe.asked is not None:
        verdict = replace(verdict, because=f"{verdict.because}; {seen.probe.text}")
    match verdict.kind:
        case Kind.STOPPED:
            waits = f"; {_count(len(mine), 'request waits', 'requests wait')}, the oldest for {_span(oldest_s)}" if mine else ""
            because = f"it is stopped (state T), as by SIGSTOP or Ctrl-Z, and does nothing until somebody continues it{waits}"
            return Judgement("stopped", replace(verdict, because=because), SURE, KERNEL, workers)
        case Kind.STARVED | Kind.UNINTERRUPTIBLE:
            return Judgement(verdict.kind, verdict, SURE, KERNEL, workers)
    peer = next((peer for peer in seen.peers if peer.late), None) if verdict.nature is Nature.BLOCKED else None
    if peer is not None:
        verdict = replace(verdict, because=f"{verdict.because}; {peer.words}")
        return Judgement("waits for somebody else", verdict, VERY_LIKELY, "the kernel says so", workers, peer)
    if _goes_on(seen, verdict, mine, workers):
        because = f"{verdict.because}; it waits for new requests too"
        told = replace(verdict, kind=Kind.BUSY, scope=Scope.REQUEST, because=because)
        why = "a long poll, a stream or a websocket looks the same; --http URL asks it"
        return Judgement("busy with a long request", told, OPEN, why, workers)
    limit_s = HANG.blocked_s if verdict.nature is Nature.BLOCKED else HANG.certain_s
    rival = _rival(verdict.nature, oldest_s)
    if limit_s is not None and oldest_s >= limit_s and verdict.nature in _CONVICTED:
        kind = _CONVICTED[verdict.nature]
        why = f"it was looked at for {_span(looked_s)}, and {rival}"
        return Judgement(kind, replace(verdict, kind=kind), VERY_LIKELY if oldest_s >= OLD_S else LIKELY, why, workers)
    return Judgement(
        f"suspect ({verdict.nature})", verdict, OPEN, f"it was looked at for {_span(looked_s)} only, and {rival}", workers
    )


def _goes_on(seen: Seen, verdict: Verdict, mine: list[Client], workers: tuple[int, ...]) -> bool:
    """Whether it waits for new connections while a request that it has read goes on: an event loop with a long poll does."""
    serves = seen.free >= set(workers) if workers else bool(seen.free)
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


def _unasked(seen: Seen, whole: Verdict) -> Judgement:
    """Nobody is seen waiting for it: what it does, and what that may mean."""
    nobody = "nobody waits for it" if seen.sockets else "it listens on no port that can be seen, so who waits for it is not known"
    if seen.answered:
        nobody = f"{whole.because}, and nobody waits for it"
    serving = seen.pids - {process.parent for process in seen.trees[-1].processes}
    usage = rates(seen.trees, seen.now, WINDOW_S)
    doing, words = nature(seen.trees, seen.now, serving, WINDOW_S)
    excused = excuse(_window(seen, None), serving, usage, 0.0)
    late = next((peer for peer in seen.peers if peer.late), None)

    def judgement(headline: str, kind: Kind, what: str, sure: str, why: str, peer: Peer | None = None) -> Judgement:
        told = Verdict(kind, f"{what}; {nobody}", seen.began, nature=Nature.NONE if kind is Kind.HEALTHY else doing)
        return Judgement(headline, told, sure, why, peer=peer)

    if excused is not None:
        return judgement(excused.kind, excused.kind, excused.because, SURE, KERNEL)
    if doing is Nature.SPINNING:
        what, why = f"{words} for all of {_span(seen.now - seen.began)}", "work and an endless loop look the same from outside"
        return judgement("runs all the time", Kind.BUSY, what, OPEN, f"{why}; see where it runs, and look again")
    if doing is Nature.LOCKED and sum(len(p.threads) for p in seen.trees[-1].processes if p.pid in serving) > 1:
        why = "no thread of it is left to release them, as in a deadlock; but a time limit or a signal may"
        return judgement("locked", Kind.SUSPECT, words, LIKELY, why)
    if doing is Nature.LOCKED:
        return judgement("locked", Kind.UNKNOWN, words, OPEN, "a main thread that waits for a signal looks the same")
    if late is not None:
        why = "the kernel says so; whether an answer is due is not known: a worker that waits for its next job looks the same"
        return judgement("waits for somebody else", Kind.UNKNOWN, late.words, SURE, why, late)
    used = sum(each.run for each in usage.values())
    idle = f"it uses {used:.2f} of a core" if used >= IDLE_RATIO else "it is idle"
    if seen.answered or any(moved_between(before, after, seen.pids) for before, after in pairwise(seen.sockets)):
        return judgement("healthy", Kind.HEALTHY, idle, SURE, "it was seen to answer")
    if seen.sockets:
        return judgement("nothing wrong is seen", Kind.HEALTHY, idle, LIKELY, "nobody asked it meanwhile; --http URL does")
    why = "a program that waits for ever for what will not come looks the same"
    return judgement("nothing wrong is seen", Kind.HEALTHY, idle, OPEN, why)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 2 * OLD_S else f"{seconds / 60:.0f} min"


# --- what a person can do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advice:
    command: str
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """By what it can be acted upon.

    program    its name under Reviver, "" for none; `unit` in systemd, `under` in supervisord
    forks      its server starts another worker for each that ends, and `ask` is the signal that ends one with a word to its client
    is_worker  it is itself such a worker
    node       its stack was not taken for being node's
    again      the command that looks again; `sudo` the one that sees more, "" where all is seen
    """

    pid: int
    program: str = ""
    unit: str = ""
    under: str = ""
    forks: bool = False
    ask: str = ""
    is_worker: bool = False
    tracer: int = 0
    node: bool = False
    again: str = ""
    sudo: str = ""


def advice(found: Judgement, ways: Ways) -> tuple[Advice, ...]:
    """Two to four commands that fit the verdict, the best first. Nothing of it has been done."""
    return tuple(_advice(found, ways))[:ADVICE_LIMIT]


def _advice(found: Judgement, ways: Ways) -> Iterator[Advice]:
    kind, hung = found.verdict.kind, found.verdict.kind in _HUNG
    if ways.sudo:
        yield Advice(ways.sudo, "sees its sockets and stacks too: who waits for it, and in which line it is")
    if ways.tracer:
        yield Advice(f"ps -o pid,user,args -p {ways.tracer}", "who traces it: a debugger may hold it for as long as it likes")
    if kind is Kind.STOPPED:
        yield Advice(f"kill -CONT {_pids(found.workers or (ways.pid,))}", "lets it go on where it was stopped")
    if kind is Kind.STARVED:
        yield Advice(
            "ps -eo pid,user,pcpu,args --sort=-pcpu | head",
            "who takes the processors: as long as it starves, nobody can tell whether it hangs",
        )
    if kind is Kind.UNINTERRUPTIBLE:
        yield Advice(
            "dmesg -T | tail", "what the kernel says of the disk or the network file system: no signal is heard before that answers"
        )
    if found.peer is not None:
        yield Advice(
            f"ss -tnp dst {found.peer.name}", "its connections there; a restart of this one cures nothing on the other side"
        )
        if found.peer.pid:
            yield Advice(f"reviver diagnose {found.peer.pid}", f"what the other side does: {found.peer.process}, on this host")
    if ways.node and found.verdict.nature is Nature.SPINNING:
        yield Advice(
            f"{ways.again} --inspect", "names the function too; any user of this host could run code in it for those 0.2 s"
        )
    if hung and found.peer is None:
        yield from _ending(found, ways)
    yield Advice(ways.again, "looks again: a request that is over by then was only long" if hung else "looks again")
    if ways.program:
        yield Advice(f"reviver explain {ways.program}", "what Reviver saw of it, what it did, and what comes next")
        yield Advice(f"reviver logs -n 50 {ways.program}", "what it wrote last")
    elif hung:
        means = "once it stands in config.toml: whether Reviver can relieve it the next time, before customers notice"
        yield Advice("reviver check", means)
    yield Advice(f"{ways.again} --json > {ways.pid}.json", "keeps all that was seen, for whoever mends it")


def _ending(found: Judgement, ways: Ways) -> Iterator[Advice]:
    workers = found.workers or ((ways.pid,) if ways.is_worker else ())
    if workers and ways.forks:
        reads = "the client reads an error" if ways.ask else "the client's connection is reset"
        yield Advice(
            f"kill -{ways.ask or 'KILL'} {_pids(workers)}", f"ends the hung worker alone: {reads}, and its parent starts another"
        )
    if workers and found.verdict.scope is Scope.WORKER:
        return  # the others serve
    lost = "stops it and starts it again; whoever waits is lost"
    if ways.program:
        yield Advice(
            f"reviver restart {ways.program}", "replaces it: where two can live, the new one is ready before this one goes"
        )
    elif ways.unit:
        yield Advice(f"systemctl restart {ways.unit}", lost)
    elif ways.under:
        yield Advice(f"supervisorctl restart {ways.under}", lost)
    elif not (workers and ways.forks):
        who = "whoever started it has to start it again"
        yield Advice(f"kill -KILL {ways.pid}", f"ends it at once (a hung one may not hear SIGTERM); {who}")


def _pids(pids: tuple[int, ...]) -> str:
    return " ".join(map(str, pids))
