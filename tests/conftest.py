"""What tests of several subjects are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.receivers import Receiver


@pytest.fixture(autouse=True)
def _as_quick_as_before() -> Iterator[None]:
    """A test that lowers our priority has all that follow starve wherever somebody else computes."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    yield
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Makes receivers of webhooks that answer as they are told; they end with the test."""
    receivers: list[Receiver] = []

    def make(*answers: int | str) -> Receiver:
        receivers.append(Receiver(answers))
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.end()
