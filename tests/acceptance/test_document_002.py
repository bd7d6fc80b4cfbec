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


#: In the document's order, so that a test can be named by its number.
IN_ORDER = (
    ("Sequential Mode (Default)", 1),
    ("Parallel Mode", 1),
    ("Parallel Mode", 2),
    ("Async Mode", 1),
    ("Mixed Mode Execution", 1),
    ("Basic Execution", 1),
    ("Partial Execution", 1),
    ("Execution Control", 1),
    ("Execution Results", 1),
    ("Basic FSM Execution", 1),
    ("FSM-Specific Features", 1),
    ("State Transition Control", 1),
    ("Understanding Context", 1),
    ("Forward Data Flow", 1),
    ("Branching Data Flow", 1),
    ("Merging Data Flow", 1),
    ("Context Best Practices", 1),
    ("Node-Level Error Handling", 1),
    ("DAG-Level Error Strategies", 1),
    ("Error Recovery Patterns", 1),
    ("Caching", 1),
    ("Lazy Evaluation", 1),
    ("Memory Management", 1),
    ("Parallel Optimization", 1),
    ("Built-in Metrics", 1),
    ("Custom Metrics", 1),
    ("Progress Tracking", 1),
    ("Lifecycle Hooks", 1),
    ("Resource Management", 1),
    ("1. Choose the Right Execution Mode", 1),
    ("2. Handle Errors Gracefully", 1),
    ("3. Optimize Resource Usage", 1),
    ("4. Use Context Appropriately", 1),
    ("5. Monitor and Profile", 1),
)


def _name(number: int) -> str:
    section, place = IN_ORDER[number - 1]
    words = re.sub(r"[^a-z]+", "-", section.lower()).strip("-")
    return f"{number:02}-{words}-{place}"


def test_every_block_of_the_document_has_a_scenario(printed: tuple[Block, ...]) -> None:
    assert len(printed) == COUNT
    assert tuple((each.section, each.place) for each in printed) == IN_ORDER


def test_every_scenario_belongs_to_a_block() -> None:
    assert len(IN_ORDER) == COUNT
    assert set(SCENARIOS) == set(IN_ORDER)


@pytest.mark.parametrize("in_loop", [False, True], ids=["plain", "in-a-loop"])
@pytest.mark.parametrize("number", range(1, COUNT + 1), ids=_name)
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
