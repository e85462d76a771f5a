"""The diagnosis on the corpus of recorded troubles, and recordings as bytes."""

from __future__ import annotations

import math
from functools import cache
from typing import get_args

import pytest

from bench.faults import Expected
from bench.verdicts import (
    WRONG_PERCENT,
    Ablation,
    Case,
    Concluded,
    corpus,
    false_kill,
    missed_hang,
    without_ages,
    without_cpu,
    without_either,
)
from supervisor.model import HangSettings
from supervisor.policy import diagnosis, threads
from supervisor.policy.facts import (
    Answering,
    Asked,
    Beaten,
    Blinded,
    Fact,
    Heard,
    HostSeen,
    Opened,
    Queued,
    Readied,
    Ruled,
    SocketsSeen,
    Stopping,
    Unasked,
    Unseen,
    WorkerLook,
    WorkersSeen,
)
from supervisor.policy.replay import Recording
from supervisor.policy.samples import Client, Host, ProcessSample, SocketSample, ThreadSample, TreeSample
from supervisor.records.recording import RecordingError, decode, encode

RECORDINGS_LEAST = 100


@cache
def cases() -> tuple[Case, ...]:
    return tuple(corpus())


def kept_out() -> list[Case]:
    return [case for case in cases() if case.label.kept_out]


def wrong(judged: list[tuple[Case, Concluded]]) -> list[str]:
    return [case.label.name for case, concluded in judged if not case.right(concluded)]


def test_diagnosis_keeps_its_budgets_on_the_corpus() -> None:
    judged = [(case, case.judge()) for case in cases()]
    assert len(judged) >= RECORDINGS_LEAST
    assert [case.label.name for case, concluded in judged if false_kill(case, concluded)] == []
    for part in (True, False):
        of_it = [pair for pair in judged if pair[0].label.kept_out is part]
        assert len(of_it) >= RECORDINGS_LEAST / 5
        assert 100 * len(wrong(of_it)) <= WRONG_PERCENT * len(of_it), wrong(of_it)


@pytest.mark.parametrize("ablation", [without_ages, without_cpu])
def test_diagnosis_without_a_sense_is_seen_to_be_worse(ablation: Ablation) -> None:
    """Without ages a busy server is killed and a stuck worker missed; without processor time loops are found too late."""
    assert [case.label.name for case in kept_out() if not case.right(case.judge(ablation))]


def test_diagnosis_without_ages_and_probes_is_seen_to_be_blind() -> None:
    """Nobody is known to wait, so that no hang can be found but a stopped process."""
    must = [case for case in kept_out() if case.label.expected is Expected.HUNG and case.label.fault != "stopped"]
    assert all(missed_hang(case, case.judge(without_either)) for case in must)


def test_a_diagnosis_that_excuses_nobody_is_seen_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the excuses, and without asking for how long a loop has had the processor, healthy servers are proven hung."""
    monkeypatch.setattr(diagnosis, "excuse", lambda window, serving, usage, quiet_s: None)
    monkeypatch.setattr(threads, "_ran_enough", lambda window, serving, limit_s, quiet_s: True)
    kept_away = [case for case in cases() if case.label.fault in ("starved", "throttled")]
    assert [case.label.name for case in kept_away if false_kill(case, case.judge())]


def test_recording_comes_back_from_its_bytes_as_it_was() -> None:
    process = ProcessSample(7, 1, "S", 0.25, 4096, (ThreadSample(7, "S", 10, 20, "epoll"),), 3)
    sockets = SocketSample(2.5, 1, 64, (Client(("127.0.0.1", 5, 80), 9, 7, True, False, 1.5, 0),), frozenset({9}))
    facts: tuple[Fact, ...] = (
        Ruled(1.0, HangSettings(), 1.0, beats=True, asked=True, watched=True),
        TreeSample(1.25, (process,)),
        Asked(1.5, patient=False),
        Readied(1.75),
        Heard(1.75, 1.5, True, "GET / answered 200 in 250 ms"),
        Unasked(2.0),
        Beaten(2.0),
        Stopping(2.0),
        Queued(2.25, waits=True),
        SocketsSeen(2.5, sockets, frozenset({7})),
        Unseen(2.75, "no right to look"),
        WorkersSeen(3.0, (WorkerLook(7, free=False, siblings=3, sibling_free=True),)),
        HostSeen(3.0, Host(2, 0.5)),
        Blinded(3.25, 4.25, "our own loop was late by 0.6 s"),
        TreeSample(3.5, (process,)),
        Opened(
            at=3.5,
            rules=Ruled(1.0, HangSettings(), 1.0, beats=True, asked=True, watched=True),
            moved=3.25,
            sockets=sockets,
            answering=Answering(failed=3.0, asked=Asked(3.0, patient=False), usual_s=(0.25,)),
        ),
    )
    assert {type(fact) for fact in facts} == set(get_args(Fact))
    recording = Recording(1.0, facts)
    assert decode(encode(recording)) == recording


def test_instants_are_kept_to_a_tenth_of_a_millisecond() -> None:
    (readied,) = decode(encode(Recording(0.0, (Readied(math.pi),)))).facts
    assert readied.at == pytest.approx(math.pi, abs=1e-4)


@pytest.mark.parametrize("data", [b"", b"no recording", encode(Recording(0.0, (Readied(1.0),)))[:-20]])
def test_what_is_no_recording_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(RecordingError, match="this is no recording that can be read"):
        decode(data)
