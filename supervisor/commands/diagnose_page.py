"""The page that `reviver diagnose` prints: who it is, the verdict, what it does, its threads and sockets, and what can be done now."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time

from supervisor.commands.diagnose_look import Look, ThreadRow
from supervisor.commands.diagnose_verdict import Advice, Judgement
from supervisor.commands.screen import colourful, safe, say, spell, spell_bytes, table
from supervisor.model import Kind, Scope
from supervisor.policy.cause import summary

ROWS_LIMIT = 10
CLIENTS_LIMIT = 5
WIDTH_LEAST = 40
BOLD, RED, GREEN, YELLOW = "1", "1;31", "1;32", "1;33"

_COLOURS = {Kind.HEALTHY: GREEN, Kind.BUSY: YELLOW, Kind.OVERLOADED: YELLOW, Kind.UNKNOWN: YELLOW, Kind.SUSPECT: YELLOW}
_PLACES = {
    "lock": "waits for a lock",
    "sleep": "sleeps",
    "socket": "waits for a socket",
    "poll": "in poll or select",
    "epoll": "in epoll",
    "accept": "waits for connections",
    "pipe": "waits for a pipe",
    "child": "waits for a child process",
    "disk": "waits for a disk",
}
_STATES = {"R": "running", "S": "sleeping", "D": "disk", "T": "stopped", "t": "traced", "Z": "ended", "I": "idle"}


def show(found: Look, judgement: Judgement, todo: tuple[Advice, ...]) -> None:
    """Print it. All that comes from others is made safe here."""
    _show_person(found)
    _show_verdict(judgement)
    _show_cause(found, judgement)
    _show_threads(found)
    _show_sockets(found)
    _show_output(found)
    _show_unseen(found)
    _show_advice(todo)


def _show_person(found: Look) -> None:
    who, seen = found.person, found.seen
    age = spell(time.time() - who.started_wall)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who.started_wall))
    threads = sum(len(process.threads) for process in seen.trees[-1].processes) if seen.trees else 0
    grows = f", growing by {found.growth / 1e6:.0f} MB/s" if found.growth >= 1e6 else ""
    say(_painted(f"process {who.pid} ({safe(who.name)})", BOLD) + f" of {safe(who.user)}, since {since} ({age})")
    _pair("command", who.command)
    _pair("directory", (who.directory or "not ours to see") + (f", release {found.release}" if found.release else ""))
    size = f"{_count(len(seen.pids), 'process', 'processes')}, {_count(threads, 'thread', 'threads')}"
    _pair("tree", f"{size}; {found.cpu_ratio:.2f} of a core, {spell_bytes(found.rss_bytes)}{grows}")
    if who.instance:
        part = "" if who.leader == who.pid else f", whose first process is {who.leader}"
        _pair("supervised", f"by Reviver, as {who.instance}{part}")
    elif who.unit or who.under:
        _pair("supervised", f"by systemd, as {who.unit}" if who.unit else f"by supervisord, as {who.under}")
    else:
        _pair("supervised", "by nobody that is known here")


def _show_verdict(judgement: Judgement) -> None:
    verdict = judgement.verdict
    alone = " alone" if verdict.scope is Scope.WORKER else ""
    pids = ", ".join(map(str, judgement.workers))
    whose = f", worker{'s' if len(judgement.workers) > 1 else ''} {pids}{alone}" if pids else ""
    colour = _COLOURS.get(verdict.kind, RED)
    _head("verdict")
    say(f"  {_painted(safe(judgement.headline).upper() + whose, colour)}")
    _text(f"{verdict.because[:1].upper()}{verdict.because[1:]}.")
    _text(f"{judgement.sure.capitalize()}: {judgement.why}.")


def _show_cause(found: Look, judgement: Judgement) -> None:
    if found.cause is None or judgement.verdict.kind is Kind.HEALTHY:  # where an idle one waits tells nobody anything
        return
    _head("what it does")
    _text(summary(found.cause))
    if found.cause.path and found.cause.path != found.cause.file:
        _text(f"in {found.cause.path}")
    for line in found.source:
        mark = ">" if line.seen else " "
        text = f"  {mark} {line.number:5} | {safe(line.text)}"
        say(_painted(text, BOLD) if line.seen else text)
    for line in found.source:
        if line.commit:
            _text(f"line {line.number}: {line.commit}")


def _show_threads(found: Look) -> None:
    rows = found.threads[:ROWS_LIMIT]
    if not rows:
        return
    left = len(found.threads) - len(rows)
    _head("threads" + (f", the busiest {len(rows)} of {len(found.threads)}" if left else ""))
    several = len({row.pid for row in found.threads}) > 1
    head = (*(("PID",) if several else ()), "TID", "NAME", "STATE", "CPU", "WHERE")
    cells = [
        (
            *((str(row.pid),) if several else ()),
            str(row.tid),
            row.name,
            _STATES.get(row.state, row.state),
            f"{row.busy * 100:.0f} %",
            _where(row),
        )
        for row in rows
    ]
    table(head, cells, state=head.index("STATE"), spared=("NAME", "STATE"))


def _where(row: ThreadRow) -> str:
    waits = _PLACES.get(row.place, f"in {row.place}" if row.place else "")
    if row.peers:
        waits = f"waits for {' or '.join(row.peers[:2])}"
    return ", ".join(part for part in (row.where, waits, row.request) if part)


def _show_sockets(found: Look) -> None:
    seen = found.seen
    if not found.listeners and not seen.peers:
        return
    _head("sockets")
    for each in found.listeners:
        name = f"{each.host}:{each.port}" if each.port else f"unix {each.host}"
        _text(f"listens on {name}, {each.queue} of at most {each.backlog} wait to be accepted")
    for client in seen.waiting[:CLIENTS_LIMIT]:
        state = f"accepted by {client.owner}" if client.owner else "accepted" if client.inode else "not accepted yet"
        _text(f"{client.key[0]} has waited for {spell(seen.now - client.since)}, {state}")
    if len(seen.waiting) > CLIENTS_LIMIT:
        _text(f"and {len(seen.waiting) - CLIENTS_LIMIT} more")
    for peer in seen.peers:
        _text(peer.words)


def _show_output(found: Look) -> None:
    if not found.output.to:
        return
    _head("last output")
    empty = found.output.file and not found.output.lines
    _text(found.output.to + (" (empty)" if empty else ""))
    for line in found.output.lines:
        say(f"  | {safe(line)}")


def _show_unseen(found: Look) -> None:
    if found.unseen:
        _head("not seen")
        for sentence in found.unseen:
            _text(sentence)


def _show_advice(todo: tuple[Advice, ...]) -> None:
    _head("what you can do now (nothing of it has been done)")
    for each in todo:
        say(f"  {_painted(safe(each.command), BOLD)}")
        _text(each.means, 6)


def _head(text: str) -> None:
    say()
    say(_painted(text, BOLD))


def _pair(name: str, text: str) -> None:
    _fold(f"  {name:<11}", safe(text), 13)


def _text(text: str, indent: int = 2) -> None:
    _fold(" " * indent, safe(text), indent)


def _fold(first: str, text: str, indent: int) -> None:
    """A paragraph: on a terminal in its width, in a pipe on one line. Words are never cut."""
    if not sys.stdout.isatty():
        say(first + text)
        return
    width = max(shutil.get_terminal_size().columns, WIDTH_LEAST)
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        say((first if number == 0 else " " * indent) + line)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colourful() else text
