"""Which values can be stored, what they look like, and that they come back as they were."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import pathlib
import pickle
import subprocess
import sys
import threading
import typing
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError, DecodingError, EncodingError, RegistryError
from dagger_dsl.model import values
from dagger_dsl.model.values import (
    MAX_DEPTH,
    MISSING,
    Literal,
    Secret,
    _core,
    allow_hints,
    from_plain,
    register_type,
    to_plain,
    to_shown,
    when_imported,
)

T = TypeVar("T")
NAIVE = dt.datetime.fromisoformat("2024-01-01")


@register_type
class Color(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    BLUE = "b"


@register_type
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@register_type
class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@register_type
class Word(enum.StrEnum):
    A = "a"


@register_type
@attrs.frozen
class Point:
    x: Any
    y: Any = 0


def _split(text: Any) -> Any:
    return text.split()


@register_type
@attrs.define
class Derived:
    _text: Any = attrs.field(converter=_split)
    length: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = len(self._text)


@register_type
@dataclasses.dataclass(frozen=True)
class Leaf:
    name: str
    tags: tuple[Any, ...] = ()
    made: int = dataclasses.field(init=False, default=7)


@register_type
@dataclasses.dataclass(slots=True, order=True)
class Slotted:
    value: Any


@register_type
class Pair(NamedTuple):
    left: Any
    right: Any = None


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of equal types throughout; NaN is the same as NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or str(one) == str(other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, dt.datetime | dt.time):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            any(same(key, key2) and same(each, each2) for key2, each2 in other.items())
            for key, each in one.items()
        )
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if attrs.has(type(one)):
        return all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in attrs.fields(type(one))
        )
    if dataclasses.is_dataclass(one):
        return all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    return bool(one == other)


ZONES = st.one_of(
    st.none(),
    st.timezones(),
    st.builds(
        dt.timezone,
        st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)),
    ),
    st.builds(dt.timezone, st.just(dt.timedelta(hours=1)), st.text(max_size=3)),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63 - 2, 2**63 + 2),
    st.integers(-(2**63) - 2, -(2**63) + 2),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.text(st.characters(codec=None), max_size=5),  # lone surrogates among them
    st.binary(),
    st.dates(),
    st.datetimes(timezones=ZONES, allow_imaginary=True),
    st.times(),
    st.builds(dt.datetime.replace, st.datetimes(timezones=ZONES), fold=st.integers(0, 1)),
    st.timedeltas(),
    st.decimals().filter(lambda number: not number.is_snan()),  # they cannot be hashed
    st.uuids(),
    # Not of `Level` and `Word`: where hypothesis turns a value back into choices it takes these for
    # the integers and texts that they also are, and breaks.
    st.sampled_from([*Color, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]),
    st.builds(pathlib.Path, st.text(st.characters(exclude_characters="\0"), max_size=5)),
    st.builds(pathlib.PurePosixPath, st.text(max_size=5)),
    st.builds(pathlib.PureWindowsPath, st.text(max_size=5)),
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Leaf, st.text(max_size=3), st.lists(inner, max_size=2).map(tuple)),
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    SCALARS | HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(st.text(max_size=5) | st.just("$type"), inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Slotted, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=15,
)


@given(VALUES)
def test_a_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    assert same(from_plain(to_plain(value)), value)


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: (v, 1)])
@pytest.mark.parametrize("value", [*Level, *Word])
def test_texts_and_numbers_that_are_enums_come_back_as_they_are(value: Any, wrap: Any) -> None:
    for each in (wrap(value), frozenset({value}), Pair(value, {"k": value})):
        assert same(from_plain(to_plain(each)), each)


@given(VALUES)
def test_the_plain_form_is_made_of_json_types_and_is_fresh(value: Any) -> None:
    plain = to_plain(value)
    _check_json(plain, 0)
    again = to_plain(value)
    assert again == plain
    if type(plain) in (list, dict):
        assert again is not plain


def _check_json(plain: Any, depth: int) -> None:
    assert depth < 254  # what orjson writes
    if type(plain) is list:
        for each in plain:
            _check_json(each, depth + 1)
    elif type(plain) is dict:
        for key, each in plain.items():
            assert type(key) is str
            _check_json(key, depth)
            _check_json(each, depth + 1)
    elif type(plain) is str:
        plain.encode()
    elif type(plain) is int:
        assert -(2**63) <= plain < 2**63
    elif type(plain) is float:
        assert math.isfinite(plain)
    else:
        assert plain is None or type(plain) is bool


@given(VALUES, VALUES)
def test_literals_are_equal_exactly_when_types_and_values_are(one: Any, other: Any) -> None:
    first, second, again = Literal(one), Literal(other), Literal(copy.deepcopy(one))
    assert (first == second) is same(one, other)
    assert first == again
    assert hash(first) == hash(again)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ({1: "a"}, {"1": "a"}),
        ({1: "a"}, {True: "a"}),
        (b"a", "a"),
        (Level.LOW, 1),
        (Word.A, "a"),
        (Pair(1, 2), (1, 2)),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        (NAIVE, dt.date(2024, 1, 1)),
        ({"$type": "tuple", "$value": [1]}, (1,)),
        (pathlib.Path("a"), pathlib.PurePosixPath("a")),
    ],
)
def test_literals_tell_apart_what_python_may_call_equal(one: Any, other: Any) -> None:
    assert Literal(one) != Literal(other)
    assert same(from_plain(to_plain(one)), one)
    assert same(from_plain(to_plain(other)), other)


def test_the_order_of_keys_does_not_count_but_is_kept() -> None:
    assert Literal({"a": 1, "b": 2}) == Literal({"b": 2, "a": 1})
    assert Literal({1: 1, 2: 2}) == Literal({2: 2, 1: 1})
    assert hash(Literal({1: 1, 2: 2})) == hash(Literal({2: 2, 1: 1}))
    assert list(from_plain(to_plain({"b": 1, "a": 2}))) == ["b", "a"]
    assert list(from_plain(to_plain({2: 1, 1: 2}))) == [2, 1]


def test_a_literal_does_not_see_later_changes() -> None:
    given_value = {"items": [1]}
    literal = Literal(given_value)
    given_value["items"].append(2)
    literal.value["items"].append(3)
    assert literal.value == {"items": [1]}
    assert literal == Literal.of_plain({"items": [1]})
    assert literal.plain == {"items": [1]}
    assert literal != {"items": [1]}


def test_literals_can_be_pickled_and_shown() -> None:
    literal = Literal({"a": (1, Point(1, 2))})
    assert pickle.loads(pickle.dumps(literal)) == literal
    assert repr(Literal((1, "a"))) == "Literal((1, 'a'))"
    unknown = values._literal_of_plain({"$type": "nobody:Knows", "$value": 1})
    assert repr(unknown) == "Literal.of_plain({'$type': 'nobody:Knows', '$value': 1})"


def test_equal_sets_have_one_plain_form_whatever_their_history() -> None:
    numbers = {8, 0}
    assert to_plain({0, 8}) == to_plain(numbers) == {"$type": "set", "$value": [0, 8]}
    assert to_plain({"b", "a", 1}) == to_plain({1, "a", "b"})


class TestPlainForms:
    """What is written is a promise to later versions and to people who write it by hand."""

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            ((1, "a"), {"$type": "tuple", "$value": [1, "a"]}),
            (frozenset({2, 1}), {"$type": "frozenset", "$value": [1, 2]}),
            ({1: "a"}, {"$type": "map", "$value": [[1, "a"]]}),
            ({"$type": 1}, {"$type": "map", "$value": [["$type", 1]]}),
            (2**70, {"$type": "int", "$value": "0x400000000000000000"}),
            (-(2**63), -(2**63)),
            (2**63, {"$type": "int", "$value": "0x8000000000000000"}),
            (float("-inf"), {"$type": "float", "$value": "-inf"}),
            (1 + 2j, {"$type": "complex", "$value": [1.0, 2.0]}),
            ("\ud800", {"$type": "str", "$value": "7aCA"}),
            ({"\ud800": 1}, {"$type": "map", "$value": [[{"$type": "str", "$value": "7aCA"}, 1]]}),
            (b"\x00\xff", {"$type": "bytes", "$value": "AP8="}),
            (NAIVE, {"$type": "datetime", "$value": "2024-01-01T00:00:00"}),
            (
                dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1))),
                {"$type": "datetime", "$value": "2024-01-02T00:00:00+01:00"},
            ),
            (
                dt.datetime(2024, 10, 27, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
                {"$type": "datetime", "$value": ["2024-10-27T02:00:00", 1, "Europe/Berlin"]},
            ),
            (
                dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
                {"$type": "time", "$value": ["01:02:00", 0, [3600000000, "CET"]]},
            ),
            (dt.date(2024, 1, 2), {"$type": "date", "$value": "2024-01-02"}),
            (dt.timedelta(1, 2, 3), {"$type": "timedelta", "$value": [1, 2, 3]}),
            (decimal.Decimal("sNaN"), {"$type": "decimal", "$value": "sNaN"}),
            (decimal.Decimal("1.50"), {"$type": "decimal", "$value": "1.50"}),
            (
                uuid.UUID(int=1),
                {"$type": "uuid", "$value": "00000000-0000-0000-0000-000000000001"},
            ),
            (pathlib.Path("a/b"), {"$type": "path", "$value": "a/b"}),
            (
                pathlib.PureWindowsPath("C:\\a"),
                {"$type": "pure_windows_path", "$value": "C:/a"},
            ),
            (Color.CRIMSON, {"$type": f"{__name__}:Color", "$value": "RED"}),
            (Rights.READ | Rights.WRITE, {"$type": f"{__name__}:Rights", "$value": 3}),
            (Point(1), {"$type": f"{__name__}:Point", "$value": {"x": 1, "y": 0}}),
            (Pair(1), {"$type": f"{__name__}:Pair", "$value": {"left": 1, "right": None}}),
        ],
        ids=repr,
    )
    def test_is(self, value: Any, plain: Any) -> None:
        assert to_plain(value) == plain
        assert same(from_plain(plain), value)

    @pytest.mark.parametrize("size", [3, 17, 1000])
    @pytest.mark.parametrize(
        "item", [1, 1.5, "a", "é", True, None, 2**70, math.inf, "\ud800", (1,), [1]], ids=repr
    )
    def test_of_a_list_does_not_depend_on_its_length(self, item: Any, size: int) -> None:
        items = [item] * size
        assert to_plain(items) == [to_plain(item)] * size
        assert same(from_plain(to_plain(items)), items)
        mixed = [*items, "x", 1, None, 2.5]
        assert to_plain(mixed) == [*to_plain(items), "x", 1, None, 2.5]

    def test_of_floats_whose_sum_overflows_stands_for_itself(self) -> None:
        assert to_plain([1.7e308] * 20) == [1.7e308] * 20


class TestClasses:
    def test_come_back_with_their_fields_as_they_were(self) -> None:
        derived = Derived("a b")  # its converter would fail on a list
        back = from_plain(to_plain(derived))
        assert back == derived
        assert (back._text, back.length) == (["a", "b"], 2)
        assert from_plain(to_plain(Leaf("n"))).made == 7

    def test_may_nest(self) -> None:
        value = Point([Slotted({"k": Pair(Point(1), {Leaf("a")})})], Color.BLUE)
        assert from_plain(to_plain(value)) == value

    def test_of_attrs_that_cache_their_hash_can_be_hashed_again(self) -> None:
        @register_type
        @attrs.frozen(cache_hash=True)
        class Slots:
            x: int

        @register_type
        @attrs.frozen(cache_hash=True, slots=False)
        class Dict:
            x: int

        for value in (Slots(1), Dict(1)):
            assert hash(from_plain(to_plain(value))) == hash(value)

    def test_gain_a_field_with_a_default_and_old_values_still_load(self) -> None:
        @register_type
        @dataclasses.dataclass
        class Grown:
            old: int
            new: int = 5
            items: list[int] = dataclasses.field(default_factory=list)

        @register_type
        @attrs.define
        class GrownToo:
            old: int
            new: int = 5
            items: list[int] = attrs.field(factory=list)

        for cls in (Grown, GrownToo):
            name = to_plain(cls(1))["$type"]
            assert from_plain({"$type": name, "$value": {"old": 1}}) == cls(1)
            with pytest.raises(DecodingError, match=r"the field 'old' of .* is missing"):
                from_plain({"$type": name, "$value": {}})
            with pytest.raises(DecodingError, match="has no field 'gone'"):
                from_plain({"$type": name, "$value": {"old": 1, "gone": 2}})

    def test_with_generic_parameters_are_known_by_their_origin(self) -> None:
        @attrs.frozen(slots=False)
        class Box(Generic[T]):
            item: T

        allow_hints({"return": Box[Leaf]})
        box = Box[int](3)
        assert from_plain(to_plain(box)) == box

    def test_with_state_outside_of_their_fields_are_refused(self) -> None:
        @register_type
        @dataclasses.dataclass
        class Extra:
            x: int

            @functools.cached_property
            def double(self) -> int:
                return 2 * self.x

        value = Extra(2)
        assert value.double == 4
        assert from_plain(to_plain(value)) == value  # what can be worked out again is left out
        value.other = 1  # type: ignore[attr-defined]
        with pytest.raises(EncodingError, match=r"no fields of it \(other\), which would be lost"):
            to_plain(value)

        class Base:
            __slots__ = ("hidden",)
            hidden: int

        @register_type
        @attrs.define
        class Child(Base):
            x: int

        child = Child(1)
        assert from_plain(to_plain(child)) == child
        object.__setattr__(child, "hidden", 1)
        with pytest.raises(EncodingError, match="hidden"):
            to_plain(child)

    def test_with_a_field_that_was_never_set_are_refused(self) -> None:
        value = Derived.__new__(Derived)
        with pytest.raises(EncodingError, match=r"value\._text was never set"):
            to_plain(value)

    def test_defined_again_replace_their_older_version(self) -> None:
        def define() -> Any:
            @attrs.frozen
            class Cell:
                x: int

            return Cell

        first, second = define(), define()
        register_type(first)
        plain = to_plain(first(1))
        register_type(second)
        assert type(from_plain(plain)) is second
        with pytest.raises(EncodingError, match="was defined again since"):
            to_plain(first(1))

    def test_keep_reading_their_earlier_name(self) -> None:
        @register_type
        @attrs.frozen
        class Moved:
            x: int

        plain = to_plain(Moved(1))
        register_type(Moved, name="test-values-moved")
        assert to_plain(Moved(1))["$type"] == "test-values-moved"
        assert from_plain(plain) == from_plain(to_plain(Moved(1))) == Moved(1)

    def test_enum_members_that_are_not_in_the_class_are_refused(self) -> None:
        odd = object.__new__(Color)
        odd._name_ = "ODD"
        odd._value_ = 9
        with pytest.raises(EncodingError, match="is no member of"):
            to_plain(odd)


class TestKnownClasses:
    def test_come_from_annotations_and_lazily_from_their_fields(self) -> None:
        Id = typing.NewType("Id", _InUnion)
        allow_hints(
            {
                "a": list[dict[str, _Typed]],
                "b": typing.Annotated[Id, "note"] | None,
                "c": "NotEvaluated",
                "d": typing.Callable[[int], str],
                "e": typing.Literal["x"],
                "f": Any,
                "g": T,
                "return": None,
            }
        )
        other = _Other(_Inner(1))
        for value in (_Other(None), other, _Inner(2), _InUnion(3), {"a": other}):
            assert from_plain(to_plain(value)) == value

    def test_of_field_types_are_found_past_names_that_cannot_be_evaluated(self) -> None:
        allow_hints({"x": _Outer})
        value = _Outer(_Late(1))
        assert from_plain(to_plain(value)) == value

    def test_are_not_the_others(self) -> None:
        @attrs.frozen
        class Unknown:
            x: int

        with pytest.raises(EncodingError) as caught:
            to_plain({"items": [1, Unknown(1)]})
        assert str(caught.value) == (
            f"value['items'][1] is of type {__name__}.{Unknown.__qualname__}, which is not known "
            f"yet; register it with register_type({Unknown.__qualname__}), or name it in the "
            "annotations of the action or the agent, or mark an action that returns it "
            "@action(store=False)"
        )
        with pytest.raises(DecodingError, match="does not know the stored type 'nobody:Knows'"):
            from_plain([{"$type": "nobody:Knows", "$value": {}}])

    def test_may_have_functions_of_their_own(self) -> None:
        class Celsius:
            def __init__(self, degrees: float) -> None:
                self.degrees = degrees

        register_type(
            Celsius,
            name="celsius",
            encode=lambda value: (value.degrees, "C"),
            decode=lambda data: Celsius(data[0]),
        )
        plain = to_plain({"t": Celsius(1.5)})
        assert plain == {
            "t": {"$type": "celsius", "$value": {"$type": "tuple", "$value": [1.5, "C"]}}
        }
        assert from_plain(plain)["t"].degrees == 1.5
        with pytest.raises(DecodingError, match=r"value\['t'\].*the stored celsius is malformed"):
            from_plain({"t": {"$type": "celsius", "$value": None}})

    def test_whose_functions_fail_say_so(self) -> None:
        class Bad:
            pass

        register_type(Bad, name="bad", encode=lambda value: 1 / 0, decode=lambda data: 5)
        with pytest.raises(EncodingError, match=r"value\[0\].*encode= raised ZeroDivisionError"):
            to_plain([Bad()])
        with pytest.raises(DecodingError, match="its decode= returned int"):
            from_plain({"$type": "bad", "$value": 1})
        register_type(Bad, name="bad", encode=lambda value: object(), decode=lambda data: Bad())
        with pytest.raises(EncodingError, match="object"):
            to_plain(Bad())

    def test_are_pickled_only_on_request(self) -> None:
        with pytest.raises(EncodingError, match="has no stored form"):
            to_plain(_Opaque())
        register_type(_Opaque, pickle=True)
        value = _Opaque()
        value.part = {1: [2]}
        assert from_plain(to_plain(value)).part == {1: [2]}
        value.part = [Secret("hush")]
        with pytest.raises(EncodingError, match="contains a Secret") as caught:
            to_plain(value)
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((int,), "has its own rule"),
            ((dict,), "has its own rule"),
            ((decimal.Decimal,), "has its own rule"),
            ((Secret,), "has its own rule"),
            ((object,), "is no attrs class"),
            ((OrderedDict,), "is no attrs class"),
            (("Point",), "takes a class"),
        ],
    )
    def test_cannot_be(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(RegistryError, match=message):
            register_type(*arguments)

    def test_do_not_share_names(self) -> None:
        for name in ("tuple", "", 5):
            with pytest.raises(RegistryError, match="cannot name the stored form"):
                register_type(Point, name=name)  # type: ignore[arg-type]
        with pytest.raises(RegistryError, match=r"belongs to .*Point already"):
            register_type(Leaf, name=f"{__name__}:Point")
        with pytest.raises(RegistryError, match="encode= and decode= together"):
            register_type(Point, encode=str)
        assert type(from_plain(to_plain(Point(1)))) is Point

    def test_of_libraries_are_registered_when_one_turns_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Foreign:
            pass

        Foreign.__module__ = "foreign_library.core"
        calls = []

        def load() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise AttributeError("half imported")
            register_type(
                Foreign, name="foreign_library.Foreign", encode=vars, decode=_make(Foreign)
            )

        when_imported("foreign_library", load)
        stored = {"$type": "foreign_library.Foreign", "$value": {}}
        with pytest.raises(DecodingError, match="does not know"):
            from_plain(stored)
        assert not calls
        monkeypatch.setitem(sys.modules, "foreign_library", sys)
        with pytest.raises(DecodingError, match=r"cannot be loaded.*half imported"):
            from_plain(stored)
        assert type(from_plain(stored)) is Foreign
        assert to_plain(Foreign()) == stored
        assert len(calls) == 2

    def test_may_be_added_by_many_threads(self) -> None:
        classes: list[Any] = [
            attrs.make_class(f"Made{i}", {"x": attrs.field(type=int)}, frozen=True)
            for i in range(400)
        ]
        faults: list[BaseException] = []
        start = threading.Barrier(8)

        def work(part: int) -> None:
            try:
                start.wait()
                for cls in classes[part::8]:
                    allow_hints({"return": list.__class_getitem__(cls)})
                    assert from_plain(to_plain([cls(1)])) == [cls(1)]
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults


def _make(cls: Any) -> Any:
    return lambda data: cls()


class _Opaque:
    part: Any = None


if typing.TYPE_CHECKING:
    from nowhere import Hidden  # type: ignore[import-not-found]


@dataclasses.dataclass(frozen=True)
class _Inner:
    x: int


@attrs.frozen
class _InUnion:
    x: int


@attrs.frozen
class _Other:
    inner: _Inner | None


class _Typed(typing.TypedDict):
    a: _Other


@attrs.frozen
class _Outer:
    late: _Late
    hidden: Hidden = None


@attrs.frozen
class _Late:
    x: int


class _Text(str):
    __slots__ = ()


class _Broken:
    def __repr__(self) -> str:
        raise ValueError("no")


REFUSED = [
    _Text("a"),
    OrderedDict(a=1),
    defaultdict(int),
    Counter("a"),
    deque([1]),
    bytearray(b"a"),
    range(3),
    object(),
    object,
    len,
    MISSING,
    ...,
    ValueError("x"),
    iter([1]),
    dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()),
    dt.UTC,
    {_Text("key"): 1},
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    for wrapped in (value, [value], {"a": value}, (value,), {1: value}, Point(value)):
        with pytest.raises(EncodingError):
            to_plain(wrapped)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([0, [object()]], "answer[1][0]"),
        ({"a": {"b": object()}}, "answer['a']['b']"),
        ({1: {2: object()}}, "answer[1][2]"),
        ({(1, 2): object()}, "answer[<tuple>]"),
        ({object(): 1}, "answer key [<object>]"),
        ((0, object()), "answer[1]"),
        ({"a": {object()}}, "answer['a'] member"),
        (Point(1, Slotted([object()])), "answer.y.value[0]"),
        (Pair(1, object()), "answer.right"),
        ([*range(40), object()], "answer[40]"),
    ],
)
def test_an_error_names_the_place_the_type_and_the_way_out(value: Any, path: str) -> None:
    with pytest.raises(EncodingError) as caught:
        to_plain(value, "answer")
    assert str(caught.value) == (
        f"{path} is of type object, which has no stored form; return plain data, or use "
        "register_type(object, encode=..., decode=...), or mark an action that returns it "
        "@action(store=False)"
    )


def test_a_subclass_of_a_stored_type_is_told_what_it_would_become() -> None:
    with pytest.raises(EncodingError, match="it would come back as dict; convert it to dict"):
        to_plain(OrderedDict())
    with pytest.raises(EncodingError, match=r"has a key that is of type .*_Text"):
        to_plain({_Text("a"): 1})


class TestSecrets:
    def test_are_never_stored(self) -> None:
        for value in (Secret("hush"), {"token": Secret("hush")}, Point(Secret("hush"))):
            with pytest.raises(EncodingError, match="is a Secret, which is never stored") as caught:
                to_plain(value)
            assert "hush" not in str(caught.value)

    def test_are_never_shown(self) -> None:
        secret = Secret("hush")
        shown = [repr(secret), str(secret), f"{secret:>5}", repr([secret]), str(to_shown([secret]))]
        assert not any("hush" in each for each in shown)
        assert f"{secret:>5}" == "  ***"

    def test_give_their_value_only_on_request(self) -> None:
        assert Secret("hush").reveal() == "hush"
        assert Secret("hush") == Secret("hush") != Secret("other")
        assert Secret("hush") != "hush"
        assert len({Secret("a"), Secret("a")}) == 1
        assert pickle.loads(pickle.dumps(Secret("a"))) == Secret("a")  # for worker processes


class TestShownForms:
    @given(VALUES)
    def test_of_stored_values_are_their_plain_forms(self, value: Any) -> None:
        assert to_shown(value) == to_plain(value)

    def test_replace_only_the_part_that_has_none(self) -> None:
        shown = to_shown({"a": [1, Secret("x")], "b": Point(_Broken(), {object: 1})})
        assert shown["a"] == [1, "***"]
        point = shown["b"]["$value"]
        assert point["x"] == {"$repr": "<_Broken, whose repr() raised ValueError>"}
        assert point["y"] == {"$type": "map", "$value": [[{"$repr": "<class 'object'>"}, 1]]}

    def test_exist_for_everything(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        for value in (*REFUSED, loop, "x" * 100_000, Derived.__new__(Derived)):
            _check_json(to_shown(value), 0)


class TestLimits:
    def test_nesting_is_allowed_to_a_depth_and_refused_beyond(self) -> None:
        for wrap, levels in WRAPS:
            value: Any = 1
            for _ in range(MAX_DEPTH // levels):
                value = wrap(value)
            assert from_plain(to_plain(value)) == value
            with pytest.raises(EncodingError, match=f"deeper than {MAX_DEPTH} levels"):
                to_plain(wrap(value))

    def test_special_scalars_fit_at_the_deepest_level(self) -> None:
        for scalar in (math.inf, 2**70, NAIVE.replace(fold=1), b"x", 1j):
            value: Any = scalar
            for _ in range(MAX_DEPTH):
                value = [value]
            assert from_plain(to_plain(value)) == value
            _check_json(to_plain(value), 0)

    def test_values_that_contain_themselves_are_refused(self) -> None:
        items: list[Any] = []
        items.append(items)
        table: dict[Any, Any] = {}
        table["me"] = table
        keyed: dict[Any, Any] = {}
        keyed[1] = (keyed,)
        point = Point([])
        point.x.append(point)
        for value in (items, table, keyed, point):
            with pytest.raises(EncodingError, match="or containing itself") as caught:
                to_plain(value)
            assert len(str(caught.value)) < 300

    def test_deep_values_are_refused_wherever_the_caller_stands(self) -> None:
        items: list[Any] = []
        for _ in range(100_000):
            items = [items]

        def deeper(levels: int) -> None:
            if levels:
                deeper(levels - 1)
            else:
                with pytest.raises(EncodingError):
                    to_plain(items)
                with pytest.raises(DecodingError):
                    from_plain(items)

        deeper(0)
        deeper(sys.getrecursionlimit() - 250)
        while items:  # dropping it at once would recurse as deep
            items = items.pop()

    def test_shared_parts_count_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_core.Pass, "left", 10_000)
        for wrap in (
            lambda part: [part, part],
            lambda part: {"a": part, "b": part},
            _PairOf,
            _set2,
        ):
            value: Any = ()
            for _ in range(60):
                value = wrap(value)
            with pytest.raises(EncodingError, match="made of more than"):
                to_plain(value)
        pair = f"{__name__}:Pair"
        for again in (
            lambda part: [part, part],
            lambda part: {"a": part, "b": part},
            lambda part: {"$type": pair, "$value": {"left": part, "right": part}},
        ):
            plain: Any = [0]
            for _ in range(60):
                plain = again(plain)
            with pytest.raises(DecodingError, match="made of more than"):
                from_plain(plain)


def _PairOf(part: Any) -> Pair:  # noqa: N802 - stands for a class
    return Pair(part, part)


def _set2(part: Any) -> Any:
    return {1: part, 2: part}


WRAPS: list[tuple[Any, int]] = [
    (lambda part: [part], 1),
    (lambda part: {"k": part}, 1),
    (lambda part: (part,), 2),
    (lambda part: frozenset({part}), 2),
    (Point, 2),
    (Pair, 2),
    (Slotted, 2),
    (lambda part: {1: part}, 3),
]


HOSTILE = [
    {"$type": "tuple"},
    {"$type": "tuple", "$value": "abc"},
    {"$type": "tuple", "$value": [1], "extra": 1},
    {"$type": ["tuple"], "$value": [1]},
    {"$type": None, "$value": [1]},
    {"$type": "set", "$value": [[1]]},
    {"$type": "set", "$value": [1, 1]},
    {"$type": "map", "$value": [[[], 1]]},
    {"$type": "map", "$value": [[1, 1], [1, 2]]},
    {"$type": "map", "$value": {"a": 1}},
    {"$type": "map", "$value": [1]},
    {"$type": "int", "$value": "twelve"},
    {"$type": "int", "$value": 5},
    {"$type": "float", "$value": "1.5"},
    {"$type": "float", "$value": None},
    {"$type": "complex", "$value": [1.0]},
    {"$type": "complex", "$value": ["1", 2.0]},
    {"$type": "str", "$value": "!"},
    {"$type": "bytes", "$value": "not base64"},
    {"$type": "bytes", "$value": 5},
    {"$type": "datetime", "$value": "2023-13-45"},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00", 7, None]},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00+01:00", 0, "Europe/Berlin"]},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00", 0, "../../etc/passwd"]},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00", 0, "os.path"]},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00", 0, "Nowhere/Land"]},
    {"$type": "datetime", "$value": ["2023-01-01T00:00:00", 0, [10**30, None]]},
    {"$type": "timedelta", "$value": [10**18, 0, 0]},
    {"$type": "timedelta", "$value": [1.5, 0, 0]},
    {"$type": "decimal", "$value": "ten"},
    {"$type": "decimal", "$value": 1.1},
    {"$type": "uuid", "$value": "x"},
    {"$type": "path", "$value": None},
    {"$type": "os.system", "$value": "true"},
    {"$type": "builtins:eval", "$value": "1"},
    {"$type": "Secret", "$value": "x"},
    {"$type": f"{__name__}:Color", "$value": "GREEN"},
    {"$type": f"{__name__}:Color", "$value": "__class__"},
    {"$type": f"{__name__}:Rights", "$value": "READ"},
    {"$type": f"{__name__}:Rights", "$value": 64},
    {"$type": f"{__name__}:Point", "$value": [1, 2]},
    {"$type": f"{__name__}:Point", "$value": {"x": 1, "__class__": 2}},
    {"$type": f"{__name__}:Pair", "$value": {}},
    (1, 2),
    {"a": object()},
]


class TestHostileData:
    @pytest.mark.parametrize("plain", HOSTILE)
    def test_is_refused_by_name(self, plain: Any) -> None:
        for wrapped in (plain, [plain], {"k": plain}, {"$type": "tuple", "$value": [plain]}):
            with pytest.raises(DecodingError):
                from_plain(wrapped)

    def test_gets_a_path_in_the_error(self) -> None:
        bad = {"$type": f"{__name__}:Point", "$value": {"x": [1, {"$type": "int", "$value": "z"}]}}
        with pytest.raises(DecodingError, match=r"^inputs\['a'\]\.x\[1\]: the stored int is malf"):
            from_plain({"a": bad}, "inputs")

    @given(
        st.recursive(
            SCALARS.filter(lambda value: type(value) in (str, int, float, bool, type(None))),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.text(max_size=3), inner, max_size=3),
                st.fixed_dictionaries(
                    {"$type": st.sampled_from([*_core.DECODERS]) | inner, "$value": inner}
                ),
            ),
            max_leaves=10,
        )
    )
    def test_gives_a_value_or_a_decoding_error(self, plain: Any) -> None:
        try:
            value = from_plain(plain)
        except DecodingError:
            return
        assert same(from_plain(to_plain(value)), value)

    def test_imports_nothing(self) -> None:
        before = set(sys.modules)
        for name in ("this", "antigravity:fly", "xmlrpc.client"):
            with pytest.raises(DecodingError, match="does not know the stored type"):
                from_plain({"$type": name, "$value": {}})
        assert set(sys.modules) == before


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys; import dagger_dsl.model.values; "
        "print(*{'json', 'orjson', 'cattrs', 'attr', 'decimal', 'uuid', 'zoneinfo', 'pathlib', "
        "'dataclasses', 'inspect', 'pickle', 'sqlalchemy'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(values.__file__).parents[3],
    )
    assert shown.stdout.split() == []


def test_a_form_is_made_and_read_by_functions() -> None:
    class Odd:
        pass

    not_one: Any = 5
    with pytest.raises(ConfigurationError, match=r"encode= of .*Odd is a function, not 5"):
        register_type(Odd, encode=not_one, decode=lambda _: Odd())
    with pytest.raises(ConfigurationError, match=r"decode= of .*Odd is a function, not 5"):
        register_type(Odd, encode=repr, decode=not_one)
