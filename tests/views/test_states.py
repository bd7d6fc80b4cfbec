"""Every state there is has a look, and there is one table of looks."""

from __future__ import annotations

from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.views import dot, page, plain
from dagger_dsl.views.states import COLOURS, GLYPHS, LOOKS, STATES, STYLES, WORST


def test_every_state_of_nodes_and_runs_has_a_look() -> None:
    assert {*map(str, NodeState), *map(str, RunStatus)} == set(LOOKS)
    assert set(NodeState) <= set(COLOURS)
    assert all(look.glyph for look in LOOKS.values())


def test_a_group_with_a_failure_has_failed_and_one_that_is_done_has_completed() -> None:
    assert set(WORST) == set(STATES)
    assert WORST[0] == "failed"
    assert WORST.index("pending") < WORST.index("completed") < WORST.index("skipped")


def test_there_is_one_table() -> None:
    assert (dot.COLOURS, page.GLYPHS, plain.STYLES) == (COLOURS, GLYPHS, STYLES)
