"""A look at any process tree for `reviver diagnose`: who it is, what it does for two seconds, its stacks, whom it waits for.

Reads /proc, asks the kernel for sockets, lets dumpers take stacks; asks the process something itself only when a URL is given. Changes
nothing, and never takes longer than its limits, whatever state the process is in: what may block runs in a lane. What cannot be seen
becomes a sentence that says how to see it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from supervisor.commands import Refusal
from supervisor.commands.diagnose_verdict import Peer, Probe, Seen
from supervisor.control.messages import REFUSED
from supervisor.host import beginning
from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import dump_kernel, origin, pressure, tree
from supervisor.mechanism.dumping import Taker
from supervisor.mechanism.evidence import LAST_TAKERS, TAKERS, Collected, collect
from supervisor.mechanism.listening import Listening, find
from supervisor.mechanism.probes import Address, CommandTarget, Target, Whose, ask, targets
from supervisor.mechanism.redaction import HIDDEN, hide
from supervisor.mechanism.release import Place, resolve
from supervisor.mechanism.sockdiag import Listener, Owners, SockDiag
from supervisor.mechanism.vitals import Sampler
from supervisor.model import HealthSettings, LaunchSettings, ProgramSettings
from supervisor.policy.cause import Cause, Code, cause, packages
from supervisor.policy.samples import SocketSample, TreeSample, follow

T = TypeVar("T")

LOOK_S = 2.1  # a thread is judged over two seconds: shorter is noise
STEP_S = 0.1
ANSWER_S = 4.0  # after which everything that is not there yet is left out: with start-up and printing an answer takes less than 5 s
LEAST_S = 0.05  # that is given to each of what is read at the end, however late it is
EVIDENCE_S = 1.4  # five stacks take 0.6 s in peace
SLACK_S = 0.3  # a dumper is ended a moment after its limit
READ_S = (
    0.7  # what takes milliseconds, and git for the line's commit; of a process in state D, or on a dead disk, it may never come
)
PROBE_STEP_S = 0.25
SOURCE_BYTES = 2 << 20
AROUND = 1  # lines of source before and after those that matter
SPREAD = 3  # that are shown after the first of those
OUTPUT_BYTES = 16 * 1024
OUTPUT_LINES = 8
TEXT_LIMIT = 160  # characters of a line of source or output

NODE = ("node", "nodejs")
_TICKS = os.sysconf("SC_CLK_TCK")
_CLOCK_SLACK_S = 0.05  # a start is told in ticks of 10 ms
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, linux/sched.h
_SECRET_OPTION = re.compile(r"(?i)--?[\w-]*(?:passw(?:or)?d|secret|token|api-?key|credential)[\w-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who a process is. What may not be read is "" or ().

    command       as it was started, secrets redacted; `words` as they are, and `parent_words` its parent's
    instance      "store:7" where Reviver started it, `leader` that instance's own process
    unit          its systemd unit; `under` the program's name in supervisord
    tracer        who traces it, 0 for nobody
    open          its descriptors, environment and folder may be read
    """

    pid: int
    name: str
    command: str
    words: tuple[str, ...]
    parent_words: tuple[str, ...]
    user: str
    directory: str
    start_ticks: int
    started_wall: float
    state: str
    instance: str = ""
    leader: int = 0
    unit: str = ""
    under: str = ""
    tracer: int = 0
    open: bool = True

    @property
    def sudo(self) -> str:
        """The command with more rights; by its whole path, as sudo looks for commands in places of its own."""
        ours = os.path.abspath(sys.argv[0])
        return f"sudo {ours if os.path.basename(ours) == 'reviver' else 'reviver'} diagnose {self.pid}"


@dataclass(frozen=True, slots=True)
class SourceLine:
    number: int
    text: str
    seen: bool  # a stack stood on it
    commit: str = ""


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """One thread. `place` is where it waits in the kernel's terms, `where` the program's own function on its stack."""

    pid: int
    tid: int
    name: str
    state: str
    busy: float
    place: str
    where: str
    peers: tuple[str, ...]
    request: str


@dataclass(frozen=True, slots=True)
class Output:
    """Where its output goes, in words, and the last lines where that is a file."""

    to: str
    file: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that was found."""

    person: Person
    release: str
    seen: Seen
    cpu_ratio: float
    rss_bytes: int
    growth: float  # bytes per second
    cause: Cause | None
    source: tuple[SourceLine, ...]
    threads: tuple[ThreadRow, ...]
    listeners: tuple[Listener, ...]
    output: Output
    node: bool  # node runs there, and its stack was not taken
    unseen: tuple[str, ...] = field(default=())


# --- who it is ------------------------------------------------------------------------------------------------------------------


def person(pid: int) -> Person:
    """Who that is. Raises Refusal for what cannot be diagnosed: one sentence that says why, and what to name instead."""
    about = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":" in line)
    if not about:
        _refuse(f"no process has the pid {pid}")
    name, group = about["Name"].strip(), int(about["Tgid"])
    if group != pid:
        _refuse(f"{pid} is a thread of process {group} ({name}): reviver diagnose {group}")
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 50:
        _refuse(f"process {pid} ({name}) ended just now")
    if int(fields[6]) & _KERNEL_THREAD:
        _refuse(
            f"{pid} ({name}) is a thread of the kernel: it has no program that could hang; dmesg tells of the kernel's troubles"
        )
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        parent = int(fields[1])
        _refuse(
            f"process {pid} ({name}) has ended already ({_ending(int(fields[49]))}) and waits for its parent {parent} "
            f"({_name(parent)}) to take note: no signal reaches it, and it costs nothing but its pid"
        )
    if pid == os.getpid():
        _refuse(f"{pid} is this very command: name another process")
    if os.getpid() in tree.tree(pid):
        ancestor = f"process {pid} ({name}) is an ancestor of this very command, which would look at itself"
        _refuse(f"{ancestor}: name a server's own pid (ps -eo pid,user,pcpu,args --sort=-pcpu | head)")
    words = _words(pid)
    known = dict(
        entry.split("=", 1) for entry in _bytes(f"/proc/{pid}/environ").decode(errors="replace").split("\0") if "=" in entry
    )
    leader = int(known["REVIVER_PID"]) if known.get("REVIVER_PID", "").isdecimal() else 0
    ours = bool(leader) and pid in tree.tree(leader)
    return Person(
        pid=pid,
        name=name,
        command=_shown(words) or f"[{name}]",
        words=words,
        parent_words=_words(int(fields[1])),
        user=_user(int(about["Uid"].split()[1])),
        directory=_link(f"/proc/{pid}/cwd"),
        start_ticks=int(fields[19]),
        started_wall=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / _TICKS,
        state=fields[0],
        instance=known.get("REVIVER_INSTANCE", "") if ours else "",
        leader=leader if ours else 0,
        unit=_unit(pid),
        under=_supervisord_name(known) if known.get("SUPERVISOR_PROCESS_NAME") else "",
        tracer=int(about.get("TracerPid", "0")),
        open=os.access(f"/proc/{pid}/fd", os.R_OK) and bool(_link(f"/proc/{pid}/cwd")),
    )


def _refuse(text: str) -> NoReturn:
    raise Refusal(REFUSED, text)


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _shown(words: tuple[str, ...]) -> str:
    """A command line for people, without what looks like a secret."""
    told = [HIDDEN if _SECRET_OPTION.fullmatch(before) else hide(word) for before, word in zip(("", *words), words, strict=False)]
    return " ".join(word if word == HIDDEN or HIDDEN in word else shlex.quote(word) for word in told)


def _supervisord_name(known: dict[str, str]) -> str:
    group, name = known.get("SUPERVISOR_GROUP_NAME", ""), known["SUPERVISOR_PROCESS_NAME"]
    return name if group in ("", name) else f"{group}:{name}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unit(pid: int) -> str:
    """The systemd service whose cgroup it is in; "" for none, or a login's."""
    parts = _read(f"/proc/{pid}/cgroup").strip().split("/")
    last = next((part for part in reversed(parts) if part.endswith(".service")), "")  # it may have groups of its own beneath
    return "" if last.startswith("user@") else last


# --- two seconds of it ----------------------------------------------------------------------------------------------------------


async def look(pid: int, http: str, inspect: bool) -> Look:
    """Look at a process tree, within 5 s. Raises Refusal.

    http     a URL, or a path on its first listening port, that is asked meanwhile; "" asks nothing
    inspect  take node's stacks too, by its inspector
    """
    lane, until = Lane("diagnose"), time.monotonic() + ANSWER_S
    try:
        who = await lane.run(person, pid, deadline_s=READ_S)
    except LaneError:
        raise Refusal(REFUSED, f"process {pid} cannot be looked at: the kernel does not answer for it (a dead disk?)") from None
    unseen = list(_limits(who))
    sampler, diag = Sampler(pid, who.start_ticks), SockDiag()
    listening = Listening(diag, ())
    try:
        seen, listeners = await _watch(who, sampler, diag, listening, lane, http, unseen)
        found = await _stacks(who, lane, LAST_TAKERS if inspect else TAKERS, unseen)
        seen = replace(seen, peers=await _or((), lane, until, _peers, found))
    finally:
        listening.close()
        diag.close()
    if tree.start_ticks(pid) != who.start_ticks:
        _refuse(f"process {pid} ({who.name}) ended while it was looked at")
    code = Code((who.directory,) if who.directory else (), packages(who.words))
    there = LaunchSettings(command=who.words, directory=who.directory)
    release = (await _or(Place("", ""), lane, until, resolve, there)).release if who.directory else ""
    named = cause(found.threads, code, release)
    newest = sampler.newest
    return Look(
        person=who,
        release=release,
        seen=seen,
        cpu_ratio=sampler.cpu_ratio(LOOK_S * 0.8) or 0.0,
        rss_bytes=sum(process.rss_bytes for process in newest.processes) if newest is not None else 0,
        growth=sampler.growth(LOOK_S * 0.8),
        cause=named,
        source=await _or((), lane, until, _source, named, who, until),
        threads=_rows(found, seen.trees, code),
        listeners=listeners,
        output=await _or(Output("not to be read"), lane, until, _output, who),
        node=not inspect and any(dump_kernel.exe_name(each) in NODE for each in sampler.pids),
        unseen=tuple(unseen),
    )


async def _or(otherwise: T, lane: Lane, until: float, call: Callable[..., T], *args: Any) -> T:
    """What a call in the lane gives, or else this: a dead disk is in the way of nothing but what stands on it."""
    try:
        return await lane.run(call, *args, deadline_s=max(LEAST_S, min(READ_S, until - time.monotonic())))
    except (OSError, LaneError):
        return otherwise


async def _watch(
    who: Person, sampler: Sampler, diag: SockDiag, listening: Listening, lane: Lane, http: str, unseen: list[str]
) -> tuple[Seen, tuple[Listener, ...]]:
    """Samples of its threads and of its clients, ten a second, while it may be asked."""
    began = time.monotonic()
    sampler.sample(began, full=True)
    listeners = await _listeners(who, sampler.pids, diag, listening, lane, unseen)
    began = time.monotonic()
    until = began + LOOK_S
    asked = _targets(http, listeners)
    asking = asyncio.create_task(_ask(asked[0], until, _whose(asked[0], sampler, listening))) if asked else None
    looks: list[SocketSample] = []
    told = listening.known
    while (now := time.monotonic()) < until:
        sampler.sample(now, full=True)
        if told:
            try:
                before = looks[-1] if looks else None
                looks.append(_without_us(follow(before, listening.look(now, before, sampler.pids, attribute=True)), bool(asked)))
            except OSError as problem:
                unseen.append(f"who waits for it: the kernel does not tell of its sockets ({problem})")
                told = False
        await asyncio.sleep(STEP_S)
    probe = await asking if asking is not None else None
    now = time.monotonic()
    sampler.sample(now, full=True)
    newest = sampler.newest
    processes = newest.processes if newest is not None and told else ()
    free = frozenset(process.pid for process in processes if listening.served_by(process))
    return Seen(began, now, sampler.since(began), tuple(looks), free, probe, pressure.host()), listeners


async def _listeners(
    who: Person, pids: tuple[int, ...], diag: SockDiag, listening: Listening, lane: Lane, unseen: list[str]
) -> tuple[Listener, ...]:
    """What the tree listens on; `listening` is told."""
    if not who.open:
        return ()
    if _link(f"/proc/{who.pid}/ns/net") != _link("/proc/self/ns/net"):
        unseen.append(
            f"who waits for it: it lives in another network (a container); nsenter -t {who.pid} -n reviver diagnose {who.pid}"
        )
        return ()
    try:
        found = await lane.run(find, pids, deadline_s=READ_S)
        known = (*diag.listeners(), *diag.unix_listeners())
    except (OSError, LaneError) as problem:
        unseen.append(f"who waits for it: the kernel does not tell of its sockets ({problem})")
        return ()
    listening.add(found)
    inodes = {inode for inode, _ in found.ports}
    return tuple(each for each in known if each.inode in inodes)


def _targets(http: str, listeners: tuple[Listener, ...]) -> tuple[Target, ...]:
    """What is asked. Raises Refusal for what is no address."""
    if not http:
        return ()
    held: list[Address] = [
        ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(each.host, each.host), each.port) for each in listeners if each.port
    ]
    wish = ProgramSettings(name="diagnose", launch=LaunchSettings(command=("",)), health=HealthSettings(http=http))
    try:
        return targets(wish, held, "/")
    except ValueError:
        where = "it listens on no port of its own" if http.startswith("/") else "write http://host:port/path, or /path"
        raise Refusal(REFUSED, f"{http} cannot be asked: {where}") from None


def _whose(target: Target, sampler: Sampler, listening: Listening) -> Whose | None:
    """How to tell whether it was this tree that accepted a question on its own port: another instance may have the same socket."""
    if isinstance(target, CommandTarget) or isinstance(target.address, str) or target.address[1] not in listening.ports:
        return None

    def whose(local: tuple[str, int], peer: tuple[str, int]) -> bool | None:
        owner = listening.accepted_by(local, peer, sampler.pids)
        return None if owner == 0 else owner is not None

    return whose


async def _ask(target: Target, until: float, whose: Whose | None) -> Probe:
    """Ask again and again until the look is over. What another instance answers is no news of this one."""
    text, moved, asked, ill = "", None, None, False
    while (left_s := until - time.monotonic()) > PROBE_STEP_S:
        outcome = await ask(target, timeout_s=left_s, whose=whose)
        text = outcome.text
        if outcome.answered or outcome.spoke:
            moved, asked, ill = outcome.at + outcome.took_s, None, not outcome.answered
        elif outcome.answered is False and asked is None:
            asked = outcome.at
        await asyncio.sleep(PROBE_STEP_S)
    return Probe(text, asked, moved, ill)


def _without_us(seen: SocketSample, asking: bool) -> SocketSample:
    """Our own questions are nobody's waiting request."""
    if not asking:
        return seen
    ours = {each.local for each in dump_kernel.sockets(os.getpid()).values()}
    kept = tuple(c for c in seen.clients if f"{c.key[0]}:{c.key[1]}" not in ours and f"[{c.key[0]}]:{c.key[1]}" not in ours)
    return replace(seen, clients=kept)


# --- what it does ---------------------------------------------------------------------------------------------------------------


async def _stacks(who: Person, lane: Lane, takers: tuple[Taker, ...], unseen: list[str]) -> Collected:
    try:
        found = await lane.run(collect, who.pid, time.monotonic() + EVIDENCE_S, takers, deadline_s=EVIDENCE_S + SLACK_S)
    except LaneError:
        unseen.append("its stacks: the kernel did not answer in time for one of its processes (a dead disk?)")
        return Collected()
    if found.problems and who.open:
        unseen += [*(f"stacks of {problem}" for problem in dict.fromkeys(found.problems)), *_yama(who)]
    return found


def _peers(found: Collected) -> tuple[Peer, ...]:
    """Whom its threads wait for, those with most threads first; and who that is, where it is on this host. Raises OSError."""
    count: dict[str, int] = {}
    silent_s: dict[str, float] = {}
    diag = SockDiag()
    try:
        for thread in found.threads:
            for name in thread.peers:
                count[name] = count.get(name, 0) + 1
                for each in found.sockets.get(thread.pid, {}).values():
                    known = diag.connection(_split(each.local), _split(name)) if (each.kind, each.peer) == ("tcp", name) else None
                    if known is not None:
                        silent_s[name] = max(silent_s.get(name, 0.0), known.received_ms / 1000)
        order = sorted(count, key=lambda name: -count[name])
        return tuple(Peer(name, count[name], silent_s.get(name), *_neighbour(name, diag)) for name in order)
    finally:
        diag.close()


def _neighbour(address: str, diag: SockDiag) -> tuple[int, str]:
    """Pid and name of the process of this host that listens at an address; (0, "") for none that can be seen. Raises OSError."""
    host, port = _split(address)
    inodes = [each.inode for each in diag.listeners(port) if each.host in (host, "0.0.0.0", "::")]
    pid = next(iter(Owners().find(inodes, sorted(tree.everyone())).values()), 0) if inodes else 0
    return pid, _name(pid) if pid else ""


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _rows(found: Collected, trees: tuple[TreeSample, ...], code: Code) -> tuple[ThreadRow, ...]:
    """The threads, the busiest first; then those that serve a request or wait for somebody."""
    places = {t.tid: t.place for process in trees[-1].processes for t in process.threads} if trees else {}
    kernel = {each.key: each for each in found.kernel}
    rows = []
    for thread in found.threads:
        own = cause((thread,), code) if thread.moments else None
        where = replace(own, file=own.file.rpartition("/")[2] if own.file.startswith("/") else own.file).where if own else ""
        seen = kernel[thread.pid, thread.tid]
        place = "" if seen.state == "R" else places.get(thread.tid) or seen.waits_in
        rows.append(
            ThreadRow(
                thread.pid,
                thread.tid,
                seen.name,
                seen.state,
                min(thread.busy, 1.0),
                place,
                where,
                thread.peers,
                thread.request,
            )
        )
    return tuple(sorted(rows, key=lambda row: (-round(row.busy, 2), not row.request, not row.peers, not row.where, row.tid)))


def _source(named: Cause | None, who: Person, until: float) -> tuple[SourceLine, ...]:
    """The lines around those seen first. A file that was changed after the process started is not what it runs."""
    if named is None or not named.lines or not os.path.isabs(named.path):
        return ()
    path = f"/proc/{who.pid}/root{named.path}"
    try:
        about = os.stat(path)
    except OSError:
        return ()
    if about.st_mtime > who.started_wall + _CLOCK_SLACK_S or about.st_size > SOURCE_BYTES:
        return ()
    texts = beginning(path, SOURCE_BYTES).decode(errors="replace").splitlines()
    commits = {line.number: line.commit for line in origin.lines(named, who.pid, until)}
    first, last = named.lines[0] - AROUND, min(named.lines[-1], named.lines[0] + SPREAD) + AROUND
    return tuple(
        SourceLine(number, texts[number - 1][:TEXT_LIMIT].expandtabs(4), number in named.lines, commits.get(number, ""))
        for number in range(max(1, first), min(last, len(texts)) + 1)
    )


def _output(who: Person) -> Output:
    """Where its stdout and stderr go, and what stands there last."""
    if who.instance:
        return Output(f"reviver logs {who.instance.rpartition(':')[0]}")
    for fd in (2, 1):
        path = f"/proc/{who.pid}/fd/{fd}"
        target = _link(path)
        if target.startswith("/dev/") or not target:
            continue
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                continue
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - OUTPUT_BYTES))
                lines = file.read(OUTPUT_BYTES).decode(errors="replace").splitlines()
        except OSError:
            continue
        return Output(target, True, tuple(hide(line)[:TEXT_LIMIT] for line in lines[-OUTPUT_LINES:]))
    where = _link(f"/proc/{who.pid}/fd/1")
    if where.startswith("socket:") and who.unit:
        return Output(f"journalctl -u {who.unit} -n 20")
    kinds = {"pipe:": "a pipe: whoever reads it has it", "socket:": "a socket: whoever reads it has it"}
    return Output(next((text for kind, text in kinds.items() if where.startswith(kind)), where))


# --- what cannot be seen --------------------------------------------------------------------------------------------------------


def _limits(who: Person) -> Iterator[str]:
    if not who.open:
        yield f"where its threads wait, its sockets, stacks, folder and environment: it belongs to {who.user}; to see them: {who.sudo}"


def _yama(who: Person) -> Iterator[str]:
    """Why stacks could not be had, where the kernel is told to keep them from us."""
    scope = _read("/proc/sys/kernel/yama/ptrace_scope").strip()
    if scope in ("1", "2") and os.geteuid() != 0:
        yield f"kernel.yama.ptrace_scope = {scope} keeps this user from reading stacks; to see them: {who.sudo}"
    elif scope == "3":
        yield "kernel.yama.ptrace_scope = 3 keeps everybody from reading stacks until the next boot"


def _words(pid: int) -> tuple[str, ...]:
    """Its command line; () where it has none."""
    raw = _bytes(f"/proc/{pid}/cmdline").rstrip(b"\0")
    return tuple(word.decode(errors="replace") for word in raw.split(b"\0")) if raw else ()


def _name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").strip() or "gone"


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def _read(path: str) -> str:
    return _bytes(path).decode(errors="replace")
