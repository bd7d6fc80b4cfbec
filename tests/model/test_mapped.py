"""Mapping over annotations and values: what has items, and what a mapped node gives back."""

from __future__ import annotations

import enum
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Literal, NoReturn, Protocol, TypedDict, Union

import pytest

from dagger_dsl.model.context import Branch, Failed, NodeOutput
from dagger_dsl.model.mapped import (
    MAX_MAP_DEPTH,
    collected_type,
    has_items,
    mapped_fault,
    mapped_misfit,
    nested,
)
from dagger_dsl.model.types import show_type


class Rows(list[int]):
    pass


class Plain:
    pass


class Base:
    pass


class Listing(Base, list[str]):
    pass


class HasNumber(Protocol):
    number: int


class Colour(enum.Enum):
    RED = 1


class Row(TypedDict):
    x: int


@pytest.mark.row("G14")
@pytest.mark.parametrize(
    "offered",
    [
        Any,
        object,
        list,
        list[int],
        list[bool],
        list[Any],
        typing.List[int],  # noqa: UP006 - old code has it
        tuple,
        tuple[int, ...],
        tuple[str, int],
        set[int],
        frozenset[float],
        Sequence[int],
        Collection[int | str],
        Iterable[int],
        Iterator[int],
        Generator[int, None, None],
        AsyncIterator[int],
        AsyncGenerator[int, None],
        list[int] | None,
        str | list[int],
        range,
        Rows,
        Base,
        HasNumber,
        Branch,
        NodeOutput,
        NoReturn,
        typing.Annotated[list[int], "rows"],
    ],
    ids=show_type,
)
def test_what_may_have_numbers_as_items_can_be_mapped_over(offered: Any) -> None:
    assert mapped_fault(offered, int, 1) is None


@pytest.mark.row("G14")
@pytest.mark.parametrize(
    ("offered", "says"),
    [
        (int, "int has no items to map over"),
        (str, "str has no items"),
        (bytes, "bytes has no items"),
        (bool, "bool has no items"),
        (float | None, "no items"),
        (None, "None has no items"),
        (dict[str, int], "no items"),
        (Mapping[int, int], "no items"),
        (Row, "Row has no items"),
        (Colour, "Colour has no items"),
        (Literal["a", "b"], "no items"),
        (Plain, "Plain has no items"),
        (list[str], "its items are str, and int is wanted"),
        (list[None], "its items are None, and int is wanted"),
        (tuple[str, bytes], "and int is wanted"),
        (tuple[str, ...], "its items are str"),
        (Iterator[str] | list[bytes], "and int is wanted"),
        (Generator[str, int, int], "its items are str"),
        (AsyncIterator[list[int]], "and int is wanted"),
        (list[list[int]], r"its items are list[int], and int is wanted"),
    ],
    ids=lambda each: show_type(each) if not isinstance(each, str) else "",
)
def test_what_never_has_numbers_as_items_cannot(offered: Any, says: str) -> None:
    fault = mapped_fault(offered, int, 1)
    assert fault is not None
    assert says in fault


def test_levels_are_gone_into_one_by_one() -> None:
    assert mapped_fault(list[list[int]], int, 2) is None
    assert mapped_fault(list[Iterator[int] | None], int, 2) is None
    assert mapped_fault(list[Any], int, 3) is None
    assert mapped_fault(list, int, 3) is None
    assert mapped_fault(list[int], int, 2) == "int has no items to map over"
    assert mapped_fault(int, int, 0) is None
    assert mapped_fault(int, str, 0) is not None


def test_a_depth_that_no_node_may_have_is_gone_into_at_once() -> None:
    assert mapped_fault(Any, int, 10**18) is None
    assert mapped_fault(list[Any], int, 10**18) is None
    assert collected_type(int, 10**18, False) == collected_type(int, MAX_MAP_DEPTH, False)


def test_a_mapped_node_gives_lists_of_what_its_action_returns() -> None:
    assert collected_type(int, 1, False) == list[int]
    assert collected_type(str, 2, False) == list[list[str]]
    assert collected_type(int, 1, True) == list[Union[int, Failed]]  # noqa: UP007
    assert collected_type(Any, 1, True) is list
    assert show_type(collected_type(Any, 2, False)) == "list[list]"
    assert collected_type(int, 0, False) is int
    assert mapped_fault(collected_type(int, 1, True), int, 1) is None
    for odd in (3, "no type"):
        assert mapped_fault(collected_type(odd, 1, True), int, 1) is None


@pytest.mark.parametrize("value", [[], (), range(3), {1}, iter([1]), Rows([1])])
def test_values_with_items(value: Any) -> None:
    assert has_items(value)


@pytest.mark.parametrize("value", [None, 3, "text", b"bytes", {"a": 1}, Plain()])
def test_values_that_are_one_thing(value: Any) -> None:
    assert not has_items(value)
    assert nested(value, 2) is value


def test_values_become_lists_down_to_the_depth_that_is_mapped_over() -> None:
    assert nested(range(3), 1) == [0, 1, 2]
    assert nested([(1, 2), (3,)], 1) == [(1, 2), (3,)]
    assert nested(((1, 2), (3,)), 2) == [[1, 2], [3]]
    assert nested([1, "ab"], 2) == [1, "ab"]


def test_a_value_is_told_by_the_path_of_what_is_wrong_in_it() -> None:
    assert mapped_misfit([1, 2], int, 1, "xs") is None
    assert mapped_misfit([], int, 1, "xs") is None
    assert mapped_misfit([[1], []], int, 2, "xs") is None
    assert mapped_misfit([object()], Any, 1, "xs") is None
    assert mapped_misfit([1, "a"], int, 1, "xs") == "xs[1] must be int, not str 'a'"
    assert mapped_misfit([[1], ["a"]], int, 2, "xs") == "xs[1][0] must be int, not str 'a'"
    for value in (3, "text", {"a": 1}, None):
        fault = mapped_misfit(value, Any, 1, "xs")
        assert fault == f"xs is mapped over, so it must be a list, not {value!r}"
    assert mapped_misfit([1], int, 2, "xs") == ("xs[0] is mapped over, so it must be a list, not 1")
    assert mapped_misfit("a", int, 0, "x") == "x must be int, not str 'a'"


def test_items_that_can_be_had_only_once_are_not_looked_at() -> None:
    once = iter(["a"])
    assert mapped_misfit(once, int, 1, "xs") is None
    assert list(once) == ["a"]
