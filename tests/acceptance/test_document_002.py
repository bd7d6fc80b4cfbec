"""Document 002 runs as printed: each of its code blocks, and what its text promises about it.

The blocks are read from the document when the tests run. It is no part of the repository: where it
is absent the tests are skipped. What a block leaves undefined (clients, data, a `dag` that its
calls make sense for) comes from its scenario, in the folder beside this file; nothing in the block
is changed but the name of the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry
from tests.acceptance.document_002 import (  # noqa: F401 - they register their scenarios
    failures,
    machines,
    performance,
    running,
    sharing,
    watching,
)
from tests.acceptance.document_002.reading import PLACE, Block, blocks, document
from tests.acceptance.document_002.stage import SCENARIOS, Stage, perform

COUNT = 34


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with Registry():
        yield


@pytest.fixture
def printed() -> tuple[Block, ...]:
    """The document's blocks."""
    file = document()
    if file is None:
        pytest.skip(
            "document 002 is not here: it is looked for as ../shared/seeds/002_*.txt beside the "
            f"repository, or in the folder that {PLACE} names"
        )
    return blocks(file)


#: In the document's order, so that a test can be named by its number; with the rows of each.
IN_ORDER = {
    ("Sequential Mode (Default)", 1): "K10 K11",
    ("Parallel Mode", 1): "K12 K13",
    ("Parallel Mode", 2): "K1 K4 K12",
    ("Async Mode", 1): "K2 K14",
    ("Mixed Mode Execution", 1): "K15",
    ("Basic Execution", 1): "K16 K17 K18 M1",
    ("Partial Execution", 1): "E22 E23 E24",
    ("Execution Control", 1): "E25 E26",
    ("Execution Results", 1): "K20 K21 K22 K23",
    ("Basic FSM Execution", 1): "L1 L2 L3",
    ("FSM-Specific Features", 1): "L4 L5 L6 L7 L8 L9",
    ("State Transition Control", 1): "L10 L11",
    ("Understanding Context", 1): "M1 M2 M3 M4",
    ("Forward Data Flow", 1): "K5 K6 K9",
    ("Branching Data Flow", 1): "K7",
    ("Merging Data Flow", 1): "K4 K8",
    ("Context Best Practices", 1): "K34 M3",
    ("Node-Level Error Handling", 1): "K3 H16 H17 H18",
    ("DAG-Level Error Strategies", 1): "H19 H20 H21",
    ("Error Recovery Patterns", 1): "H22 H23 M5",
    ("Caching", 1): "K24 K25 K26",
    ("Lazy Evaluation", 1): "K27",
    ("Memory Management", 1): "K28 K29",
    ("Parallel Optimization", 1): "K30 K31",
    ("Built-in Metrics", 1): "M6 M7 M8",
    ("Custom Metrics", 1): "M9",
    ("Progress Tracking", 1): "M10 M11",
    ("Lifecycle Hooks", 1): "M13 M14 M15 M16 M17",
    ("Resource Management", 1): "M18",
    ("1. Choose the Right Execution Mode", 1): "K14 K32",
    ("2. Handle Errors Gracefully", 1): "H16 H25",
    ("3. Optimize Resource Usage", 1): "",
    ("4. Use Context Appropriately", 1): "K34 M20",
    ("5. Monitor and Profile", 1): "M19",
}


def _cases() -> Iterator[Any]:
    for number, ((section, place), rows) in enumerate(IN_ORDER.items(), 1):
        words = re.sub(r"[^a-z]+", "-", section.lower()).strip("-")
        marks = [pytest.mark.row(*rows.split())] if rows else []
        yield pytest.param(number, marks=marks, id=f"{number:02}-{words}-{place}")


def test_every_block_of_the_document_has_a_scenario(printed: tuple[Block, ...]) -> None:
    assert len(printed) == COUNT
    assert tuple((each.section, each.place) for each in printed) == tuple(IN_ORDER)


def test_every_scenario_belongs_to_a_block() -> None:
    assert len(IN_ORDER) == COUNT
    assert set(SCENARIOS) == set(IN_ORDER)


@pytest.mark.parametrize("in_loop", [False, True], ids=["plain", "in-a-loop"])
@pytest.mark.parametrize("number", list(_cases()))
def test_a_block_runs_as_printed_and_does_what_the_text_promises(
    number: int,
    in_loop: bool,
    printed: tuple[Block, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = printed[number - 1]
    scene = SCENARIOS[block.section, block.place]
    perform(scene, Stage(block, in_loop, tmp_path, monkeypatch, capsys))
