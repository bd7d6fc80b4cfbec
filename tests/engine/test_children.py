"""Invocations of mapped nodes are found by slot, by number and by key."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.engine.children import Children
from dagger_dsl.model.context import DEFAULT_KEY

# Which of the invocations that are there gets more of its own, and how many.
growths = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 5)), max_size=30)


def grown(steps: list[tuple[int, int]]) -> tuple[Children, dict[str, int]]:
    """Return what has grown, and the same as a plain dict of slots by key; the node is slot 0."""
    children, slots = Children(), {"": 0}
    size = 1
    for which, count in steps:
        above = list(slots)[which % len(slots)]
        start = children.count(slots[above])
        children.add(slots[above], size, count)
        for k in range(count):
            slots[f"{above}.{start + k}" if above else str(start + k)] = size + k
        size += count + which % 3  # other things have slots too
    return children, slots


@given(growths)
def test_every_invocation_is_found_by_its_key_and_has_it(steps: list[tuple[int, int]]) -> None:
    children, slots = grown(steps)
    for key, slot in slots.items():
        if key:
            assert children.find(0, key) == slot
            assert children.key(slot) == key
            assert children.prefix(slot) == f"{key}."
        own = [each for each in slots if each.rpartition(".")[0] == key and each]
        assert children.count(slot) == len(own)
        assert children.slots(slot, 0, len(own) + 1) == [slots[each] for each in own]
        assert children.slots(slot, 1, 3) == [slots[each] for each in own[1:3]]


@given(growths)
def test_what_has_none_of_its_own_is_below_the_node(steps: list[tuple[int, int]]) -> None:
    children, slots = grown(steps)
    opened = {slot for slot in slots.values() if children.count(slot)}
    leaves = {key: slot for key, slot in slots.items() if key and slot not in opened}
    found = list(children.below(0))
    below = dict(found)
    assert found == sorted(found, key=lambda each: [int(part) for part in each[0].split(".")])
    assert below == {key: slot for key, slot in leaves.items() if key in below}
    # Who was opened without items has no place in a list of results either.
    assert all(children.slots(slot, 0, 1) == [] for key, slot in leaves.items() if key not in below)


@given(growths)
def test_others_have_the_key_of_a_node_that_has_one_invocation(
    steps: list[tuple[int, int]],
) -> None:
    children, slots = grown(steps)
    taken = set(slots.values()) - {0}
    for slot in range(max(slots.values()) + 3):
        assert (children.key(slot) == DEFAULT_KEY) is (slot not in taken)
    assert children.prefix(0) == ""


def test_what_came_one_by_one_is_found_without_a_walk() -> None:
    class Watched(list[Any]):
        looks = 0

        def __getitem__(self, place: Any) -> Any:
            Watched.looks += 1
            return super().__getitem__(place)

        def __iter__(self) -> Any:
            raise AssertionError("a walk over all of them")

    children, n = Children(), 10_000
    for k in range(n):
        children.add(0, 1 + 2 * k, 1)
    children._of[0] = Watched(children._of[0])
    children._spans = Watched(children._spans)
    assert children.slots(0, n - 1, n) == [2 * n - 1]
    assert children.slots(0, 0, 2) == [1, 3]
    assert children.find(0, "5000") == 10_001
    assert children.key(10_001) == "5000"
    assert children.count(0) == n
    assert 0 < Watched.looks < 100


@pytest.mark.parametrize(
    "key", ["3", "0.0", "1.2", "-1", "01", "1.", ".1", "", "+1", "1_0", "٢", "x", "9" * 5_000]
)
def test_a_key_that_nobody_has_finds_nothing(key: str) -> None:
    children, _ = grown([(0, 3), (2, 2)])  # 0, 1, 2 and 1.0, 1.1
    assert children.find(0, "1.1") is not None
    assert children.find(0, key) is None


def test_a_copy_grows_apart() -> None:
    children, slots = grown([(0, 3), (2, 2)])
    twin = copy(children)
    twin.add(slots["1"], 50, 4)
    twin.add(slots["2"], 60, 1)
    assert (children.count(slots["1"]), twin.count(slots["1"])) == (2, 6)
    assert (children.find(0, "2.0"), twin.find(0, "2.0")) == (None, 60)
    assert children.key(50) == DEFAULT_KEY
