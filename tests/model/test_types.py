"""Annotations as checks: values that enter, ends of edges, schemas for show."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, Protocol, TypedDict, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.model.context import Branch, NodeOutput
from dagger_dsl.model.types import (
    accepts_none,
    compatible,
    misfit,
    output_type,
    schema_of,
    show_type,
)


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


@attrs.frozen
class Order:
    number: int


@dataclass
class Customer:
    name: str


class VipOrder(Order):
    pass


class Colour(enum.Enum):
    RED = "red"


class Text(enum.StrEnum):
    A = "a"


class HasLength(Protocol):
    def __len__(self) -> int: ...


UserId = NewType("UserId", int)
T = TypeVar("T")
Bounded = TypeVar("Bounded", bound=int)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (1, float),
        (1, complex),
        (True, bool),
        (None, None),
        (None, int | None),
        ("a", Literal["a", "b"]),
        ([1, 2], list[int]),
        ([], list[int]),
        ((1, 2), Sequence[int]),
        ("text", Sequence[str]),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ((), tuple[()]),
        ({"a": [1]}, dict[str, list[int]]),
        ({"a": 1}, Mapping[str, int]),
        ({1, 2}, set[int]),
        ({"title": "x"}, Movie),
        ({"title": "x", "year": 1, "more": object()}, Movie),
        (Order(1), Order),
        (VipOrder(1), Order),
        (Customer("a"), Customer),
        (Colour.RED, Colour),
        (Text.A, str),
        (Path("x"), Path),
        (len, Callable[[Any], int]),
        (3, UserId),
        (3, Annotated[int, "positive"]),
        (3, Bounded),
        ("anything", T),
        ("anything", Any),
        ("anything", object),
        ("anything", HasLength),
        (iter([1]), Iterator[str]),  # looking inside would consume it
        (int, type[int]),
        (3, "an unevaluated name"),
    ],
)
def test_values_that_fit(value: Any, annotation: Any) -> None:
    assert misfit(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("1", int, "value must be int, not str '1'"),
        (True, int, "value must be int, not bool True"),
        (True, float, "value must be float, not bool"),
        (1.5, int, "value must be int, not float 1.5"),
        (None, int, "value must be int, not NoneType"),
        ("c", Literal["a", "b"], "value must be Literal['a', 'b']"),
        (True, Literal[1], "value must be Literal[1]"),
        (["1"], list[int], "value[0] must be int"),
        ([1], list[int] | str, None),
        (["x"], list[int] | int, "value must be list[int] | int"),
        ({"a": ["x"]}, dict[str, list[int]], "value['a'][0] must be int"),
        ({1: 2}, dict[str, int], "value key must be str"),
        ((1,), tuple[int, str], "value must have 2 items, not 1"),
        ((1, 2), tuple[int, str], "value[1] must be str"),
        ((1,), tuple[()], "value must have 0 items"),
        ([1], tuple[int], "value must be tuple[int], not list"),
        ({}, Movie, "value lacks the key 'title' of Movie"),
        ({"title": 1}, Movie, "value['title'] must be str"),
        ({"title": "x", "year": "y"}, Movie, "value['year'] must be int"),
        ([], Movie, "value must be Movie"),
        (Customer("a"), Order, "value must be Order"),
        ("red", Colour, "value must be Colour"),
        ("x" * 500, int, "..."),
        (3, Callable[[], int], "value must be"),
    ],
)
def test_values_that_do_not_fit(value: Any, annotation: Any, message: str | None) -> None:
    fault = misfit(value, annotation)
    if message is None:
        assert fault is None
    else:
        assert fault is not None
        assert message in fault
        assert len(fault) < 200


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (int, int),
        (int, float),
        (float, int),  # an annotation of float includes int
        (bool, int),
        (int | str, int),
        (int | None, int),
        (list[str], list[int]),  # an empty list is both
        (list[int], Sequence[int]),
        (dict[str, int], Mapping[str, str]),
        (Any, int),
        (object, int),
        (int, T),
        (Order, VipOrder),
        (VipOrder, Order),
        (str, Text),
        (Text, str),
        (str, Literal["a"]),
        (Literal["a", "b"], Literal["b", "c"]),
        (Movie, dict[str, Any]),
        (dict[str, Any], Movie),
        (Order, HasLength),
        (list[int], Iterator[int]),
        (Callable[[], int], Order),
        (NodeOutput, int),
        (Branch, int),
        (tuple[int, ...], tuple[str, str]),
        (tuple[int, str], tuple[Any, Any]),
        (None, None),
        (None, int | None),
        (UserId, int),
        (Iterable[int], list[int]),
        (int, "a name"),
    ],
)
def test_annotations_that_a_value_could_satisfy_both(source: Any, target: Any) -> None:
    assert compatible(source, target)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (str, int),
        (None, int),
        (int, None),
        (list[int], dict[str, int]),
        (Order, Customer),
        (int | None, str),
        (Literal["a"], int),
        (Literal["a"], Literal["b"]),
        (tuple[int, str], tuple[str, int]),
        (tuple[int], tuple[int, int]),
        (Movie, list[int]),
        (bytes, str),
        (UserId, str),
        (Annotated[int, "x"], str),
        (Bounded, str),
    ],
)
def test_annotations_that_no_value_could_satisfy_both(source: Any, target: Any) -> None:
    assert not compatible(source, target)
    assert not compatible(target, source)


def test_unrelated_classes_meet_where_a_class_that_exists_is_both() -> None:
    class Left:
        pass

    class Right:
        pass

    assert not compatible(Left, Right)

    class Both(Left, Right):
        pass

    assert compatible(Left, Right)
    assert Both is not None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
evaluated: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([int, str, bool, float, None, Any]),
    lambda inner: st.one_of(
        inner.map(lambda each: types.GenericAlias(list, (each,))),
        inner.map(lambda each: types.GenericAlias(dict, (str, each))),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1] if None not in pair else Any),
    ),
    max_leaves=4,
)


@given(values, evaluated, evaluated)
def test_whatever_fits_two_annotations_shows_that_they_are_compatible(
    value: Any, one: Any, other: Any
) -> None:
    if misfit(value, one) is None and misfit(value, other) is None:
        assert compatible(one, other)


@given(evaluated)
def test_every_annotation_is_compatible_with_itself_and_has_a_schema(annotation: Any) -> None:
    assert compatible(annotation, annotation)
    assert isinstance(schema_of(annotation), dict)
    assert show_type(annotation)


def test_none_is_accepted_where_the_annotation_says_so() -> None:
    assert [accepts_none(each) for each in (int | None, None, Annotated[int | None, "x"])] == [
        True,
        True,
        True,
    ]
    assert [accepts_none(each) for each in (int, Any, object, list[None])] == [False] * 4


@pytest.mark.parametrize(
    ("returns", "declared", "name", "expected"),
    [
        (int, (), "result", int),
        (dict[str, int], ("a", "b"), "a", int),
        (dict[str, int], ("a",), "a", Any),  # the mapping itself may be the output
        (list[int], ("a",), "a", list[int]),
        (list[int], ("a", "b"), "a", Any),
        (Movie, ("title", "year"), "title", str),
        (Movie, ("title", "other"), "other", Any),
        (NodeOutput, ("a",), "a", Any),
        (int | str, ("a",), "a", Any),
        (Any, ("a",), "a", Any),
    ],
)
def test_the_type_of_an_output_is_read_where_the_annotation_tells(
    returns: Any, declared: tuple[str, ...], name: str, expected: Any
) -> None:
    assert output_type(returns, declared, name) == expected


def test_schemas_describe_classes_with_fields() -> None:
    assert schema_of(Order) == {"type": "object", "properties": {"number": {"type": "integer"}}}
    assert schema_of(Movie) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
        "required": ["title"],
    }
    assert schema_of(Colour) == {"enum": ["red"]}
    assert schema_of(tuple[int, str]) == {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "minItems": 2,
        "maxItems": 2,
    }
    assert schema_of(tuple[int, ...]) == {"type": "array", "items": {"type": "integer"}}
    assert schema_of(Path) == {}


class Tree(TypedDict):
    children: list[Tree]


def test_recursive_types_end() -> None:
    assert schema_of(Tree)["type"] == "object"
    deep: Any = {"children": []}
    for _ in range(500):
        deep = {"children": [deep]}
    assert misfit(deep, Tree) is None
    assert compatible(Tree, Tree)
