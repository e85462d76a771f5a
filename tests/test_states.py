"""docs/states.md says what policy does today."""

from __future__ import annotations

from pathlib import Path

from tests import states


def test_the_state_diagram_in_docs_is_current() -> None:
    """When it fails: python -m tests.states > docs/states.md"""
    assert (Path(__file__).parent.parent / "docs" / "states.md").read_text() == states.document()


def test_each_state_has_a_way_out_and_leads_to_the_end() -> None:
    moves = states.transitions()
    for state in states.STATES:
        assert (str(state), states.GONE) in moves, f"{state} never ends"
