"""Values as text: enough of each to know it, however large or hostile it is."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import Secret
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.values import register_type
from tests.benchmarks.measure import timed, within


@attrs.frozen
class Point:
    x: int
    note: str


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Stranger:
    key: Any


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (-0.5, "-0.5"),
        (float("nan"), "nan"),
        ("a", "'a'"),
        ('say "hi"\n', "'say \"hi\"\\n'"),
        (b"\x00a", "b'\\x00a'"),
        ([], "[]"),
        ([1, "a", None], "[1, 'a', None]"),
        ((1,), "(1,)"),
        (set(), "set()"),
        ({1}, "{1}"),
        (frozenset({1}), "frozenset({1})"),
        ({"a": [1], 2: ()}, "{'a': [1], 2: ()}"),
        (dt.date(2026, 1, 2), "date 2026-01-02"),
        (Decimal("1.50"), "decimal 1.50"),
        (Path("/tmp/x"), "path /tmp/x"),
        (Secret("hunter2"), "***"),
        ({"key": [Secret("hunter2")]}, "{'key': [***]}"),
    ],
)
def test_values_read_as_people_write_them(value: Any, text: str) -> None:
    assert excerpt(value) == (text, True)


def test_classes_that_are_known_show_their_fields() -> None:
    register_type(Point)
    register_type(Colour)
    assert excerpt(Point(1, "here")) == ("Point(x=1, note='here')", True)
    assert excerpt([Colour.RED]) == ("[Colour.RED]", True)


def test_large_values_cost_no_more_than_what_is_shown_of_them() -> None:
    @attrs.define
    class Holder:
        inside: object

    tracemalloc.start()
    try:
        for value in (bytes(10_000_000), bytearray(10_000_000), Holder(list(range(1_000_000)))):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert len(excerpt(value, 300)[0]) <= 300
            assert tracemalloc.get_traced_memory()[1] - before < 100_000
    finally:
        tracemalloc.stop()


def test_a_repr_that_leaves_the_program_does_no_harm() -> None:
    class Leaving:
        def __repr__(self) -> str:
            raise SystemExit(3)

    assert "raised SystemExit" in excerpt(Leaving())[0]


def test_secrets_in_classes_that_nobody_knows_stay_hidden() -> None:
    text, _ = excerpt({"a": Stranger(Secret("hunter2"))})
    assert "hunter2" not in text
    assert "Stranger" in text


def test_what_is_long_is_cut_and_says_so() -> None:
    text, whole = excerpt(list(range(1000)), 60)
    assert not whole
    assert len(text) <= 60
    assert text.startswith("[0, 1, 2,")
    assert "…" in text
    text, whole = excerpt("x" * 1000, 60)
    assert (len(text), whole) == (60, False)
    assert excerpt(10**5000, 60)[1] is False


def test_much_of_a_value_costs_no_more_than_the_beginning_of_it() -> None:
    huge = {"rows": [{"n": number} for number in range(300_000)], "text": "x" * 50_000_000}

    def often() -> None:
        for _ in range(20):
            excerpt(huge, 500, lines=True)
            excerpt(huge, 70)

    taken, allowed = within(timed(often), 1)
    assert taken < allowed


def test_what_contains_itself_comes_to_an_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    text, whole = excerpt(loop)
    assert not whole
    assert text.startswith("[[[")


def test_what_is_long_goes_over_several_lines() -> None:
    value = {"name": "n" * 50, "inner": {"a": "x" * 50, "b": [1, 2]}, "numbers": list(range(40))}
    text, whole = excerpt(value, lines=True)
    assert whole
    lines = text.splitlines()
    assert lines[0] == "{"
    assert lines[1] == f"  'name': '{'n' * 50}',"
    assert lines[-1] == "}"
    assert "  'inner': {'a': " in text or "  'inner': {\n" in text
    assert excerpt("a\nb", lines=True) == ("a\nb", True)
    assert excerpt("a\nb") == ("'a\\nb'", True)


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_rude_values_do_no_harm() -> None:
    assert "Rude" in excerpt([Rude()])[0]
    assert excerpt("\x1b[31mred\x00\u202e")[0] == "'red'"
    assert excerpt("\ud800")[0] == "'?'"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner) | st.sets(st.text())
    ),
    max_leaves=30,
)


@given(values, st.integers(10, 300), st.booleans())
def test_no_text_is_longer_than_it_may_be(value: Any, limit: int, lines: bool) -> None:
    text, whole = excerpt(value, limit, lines=lines)
    assert len(text) <= limit
    assert isinstance(whole, bool)
    text.encode()  # nothing is in it that cannot be written
    assert not any(ord(sign) < 32 and sign not in "\n\t" for sign in text)
