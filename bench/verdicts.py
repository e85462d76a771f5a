"""The diagnosis on the corpus: how many recorded troubles it judges rightly, and what it would miss without each of its senses.

Every recording under bench/corpus/ is replayed through today's diagnosis, offline. Two things are wrong above all: a proof against a
server that would have answered (a false kill), and a fault that must be found and is not, by its limit (a missed hang). A third of the
recordings, chosen by their names, was kept out when the diagnosis was tuned. `python -m bench find` does the same live.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.faults import Expected, Label, Limit
from bench.report import Report
from supervisor.model import Kind
from supervisor.policy.facts import Asked, Fact, Heard, Ruled, SocketsSeen, Unasked, WorkersSeen
from supervisor.policy.replay import Judged, Recording, replay
from supervisor.policy.samples import ProcessSample, TreeSample
from supervisor.policy.sight import SUSPICIOUS
from supervisor.records import recording

CORPUS = Path(__file__).parent / "corpus"
HUNG = frozenset({Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED})
SLACK_S = 3.0  # a proof may come this much after its limit: silence begins with the customer's request, not with the fault
WRONG_PERCENT = 5.0  # the budget, of the part that was kept out
Ablation = Callable[[Iterable[Fact]], Iterator[Fact]]


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a replay came to. `at`: how long after the fault the proof came, None without one."""

    what: Expected
    at: float | None
    because: str


@dataclass(frozen=True, slots=True)
class Case:
    label: Label
    recording: Recording

    def judge(self, ablation: Ablation | None = None) -> Concluded:
        facts = self.recording.facts if ablation is None else ablation(self.recording.facts)
        return conclude(replay(self.recording.spawned, facts), self.label.began)

    def right(self, concluded: Concluded) -> bool:
        """Proven where it must be and by its limit, not proven where it must not; one that is calm is not even suspected."""
        wanted = self.label.expected
        if wanted is Expected.BUSY:
            return concluded.what in (Expected.BUSY, Expected.CALM)
        if concluded.at is not None and not 0.0 <= concluded.at <= self.latest_s:
            return False
        return concluded.what is wanted

    @property
    def latest_s(self) -> float:
        """How long after the fault its proof may come: its limit, or, of what others keep from the processor, when it has had that for as
        long."""
        had = spun_s(self.recording.facts, self.label.began, self.limit_s)
        return max(self.limit_s, had if had is not None else 0.0) + SLACK_S

    @property
    def limit_s(self) -> float:
        hang = next(fact.hang for fact in self.recording.facts if isinstance(fact, Ruled))
        limits = {Limit.CERTAIN: hang.certain_s, Limit.BLOCKED: hang.blocked_s or 0.0, Limit.WORKER: hang.worker_s, Limit.NONE: 0.0}
        return limits[self.label.limit]


def measure() -> Report:
    report = Report("verdicts")
    began = time.monotonic()
    cases = corpus()
    for part, of_it in (("tuning", False), ("kept out", True)):
        chosen = [case for case in cases if case.label.kept_out is of_it]
        _add(report, part, chosen, None, budget=of_it)
    for name, ablation in ABLATIONS.items():
        _add(report, f"without {name}", cases, ablation, budget=False)
    report.add("all", "time it took", time.monotonic() - began, "s")
    return report


def corpus(folder: Path = CORPUS) -> list[Case]:
    """All recordings, in the order of their names."""
    return [read(path) for path in sorted(folder.glob("*.recording"))]


def read(path: Path) -> Case:
    head, _, data = path.read_bytes().partition(b"\n")
    fields = json.loads(head)
    label = Label(**{**fields, "expected": Expected(fields["expected"]), "limit": Limit(fields["limit"])})
    return Case(label, recording.decode(data))


def spun_s(facts: Iterable[Fact], began: float, need_s: float) -> float | None:
    """How long after `began` a process of the tree had had the processor for `need_s`; None: it never had."""
    first: dict[int, float] = {}
    for tree in facts:
        if not isinstance(tree, TreeSample) or tree.at < began:
            continue
        for process in tree.processes:
            if process.cpu_s - first.setdefault(process.pid, process.cpu_s) >= need_s:
                return tree.at - began
    return None


def conclude(judged: Iterable[Judged], began: float) -> Concluded:
    """The worst that was said: an instance proven hung, else a worker, else a suspicion."""
    found = Concluded(Expected.CALM, None, "")
    for each in judged:
        verdict = each.finding.verdict
        if verdict.kind in HUNG:
            return Concluded(Expected.HUNG, each.at - began, verdict.because)
        worker = next((one for one in each.finding.workers if one.verdict.kind in HUNG), None)
        if worker is not None and found.what is not Expected.WORKER:
            found = Concluded(Expected.WORKER, each.at - began, worker.verdict.because)
        elif found.what is Expected.CALM and verdict.kind in SUSPICIOUS:
            found = Concluded(Expected.BUSY, None, f"{each.at - began:.1f} s after it began: {verdict.because}")
    return found


def _add(report: Report, who: str, cases: Sequence[Case], ablation: Ablation | None, *, budget: bool) -> None:
    results = [(case, case.judge(ablation)) for case in cases]
    wrong = [f"{case.label.name} {done.what.value}" for case, done in results if not case.right(done)]
    killed = [case.label.name for case, done in results if false_kill(case, done)]
    missed = [case.label.name for case, done in results if missed_hang(case, done)]
    report.add(who, "wrong", 100 * len(wrong) / max(1, len(cases)), "%", WRONG_PERCENT if budget else None, _few(wrong, len(cases)))
    report.add(who, "false kills", len(killed), "", 0 if budget else None, _few(killed))
    report.add(who, "missed hangs", len(missed), "", None, _few(missed))
    for row, counts in matrix(results).items():
        told = ", ".join(f"{counts[column]} {_CONCLUDED[column]}" for column in Expected if counts[column])
        report.add(who, f"must be {_EXPECTED[row]}", sum(counts.values()), "", None, told)


def matrix(results: Iterable[tuple[Case, Concluded]]) -> dict[Expected, Counter[Expected]]:
    """Confusion: what was expected, and how often each was concluded."""
    table: dict[Expected, Counter[Expected]] = {each: Counter() for each in Expected}
    for case, concluded in results:
        table[case.label.expected][concluded.what] += 1
    return table


def false_kill(case: Case, concluded: Concluded) -> bool:
    """A proof against what would have answered, or before the fault began; a whole instance for one worker."""
    proven = concluded.what in (Expected.HUNG, Expected.WORKER)
    harmless = case.label.expected in (Expected.BUSY, Expected.CALM)
    too_much = case.label.expected is Expected.WORKER and concluded.what is Expected.HUNG
    return proven and (harmless or too_much or (concluded.at is not None and concluded.at < 0))


def missed_hang(case: Case, concluded: Concluded) -> bool:
    must = case.label.expected in (Expected.HUNG, Expected.WORKER)
    return must and not false_kill(case, concluded) and not case.right(concluded)


def _few(names: Sequence[str], of: int | None = None) -> str:
    told = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return told if of is None else f"{len(names)} of {of}" + (f": {told}" if names else "")


_CONCLUDED = {Expected.HUNG: "proven hung", Expected.WORKER: "a worker proven", Expected.BUSY: "suspected", Expected.CALM: "let be"}
_EXPECTED = {Expected.HUNG: "proven hung", Expected.WORKER: "a worker", Expected.BUSY: "spared", Expected.CALM: "let be"}


# --- what it would miss ---------------------------------------------------------------------------------------------------------


def without_ages(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Nobody looks at connections: only the queue is known, and what the probe says."""
    return (fact for fact in facts if not isinstance(fact, SocketsSeen | WorkersSeen))


def without_probes(facts: Iterable[Fact]) -> Iterator[Fact]:
    return (fact for fact in facts if not isinstance(fact, Asked | Heard | Unasked))


def without_cpu(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Nobody knows how long a thread ran or waited for a processor, nor whether it would run."""
    return (replace(f, processes=tuple(map(_idle, f.processes))) if isinstance(f, TreeSample) else f for f in facts)


def _idle(process: ProcessSample) -> ProcessSample:
    threads = tuple(replace(each, run_ns=0, wait_ns=0, state="S" if each.state == "R" else each.state) for each in process.threads)
    return replace(process, cpu_s=0.0, state="S" if process.state == "R" else process.state, threads=threads)


def without_either(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Neither connections nor probes: nobody is known to wait."""
    return without_ages(without_probes(facts))


ABLATIONS: dict[str, Ablation] = {
    "ages": without_ages,
    "probes": without_probes,
    "ages and probes": without_either,
    "processor time": without_cpu,
}
