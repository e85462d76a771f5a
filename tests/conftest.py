"""What tests of several subjects are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.receivers import Receiver


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
