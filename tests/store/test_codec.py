"""Values as bytes: exact, bounded, and nothing but JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError, DecodingError, EncodingError
from dagger_dsl.model.values import MAX_DEPTH, Literal, Secret, register_type, to_plain
from dagger_dsl.store import codec
from dagger_dsl.store.codec import Codec, decode, encode

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63 - 2, 2**64 + 2),
    st.floats(),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.datetimes(timezones=st.none() | st.timezones()),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(SCALARS),
        st.dictionaries(st.text() | st.just("$type") | st.integers(), inner),
    ),
)


@register_type
@attrs.frozen
class Order:
    id: UUID
    lines: tuple[tuple[str, Decimal], ...]


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    data = encode(value)
    assert Literal(decode(data)) == Literal(value)


@given(VALUES)
def test_the_bytes_are_json_of_the_plain_form(value: Any) -> None:
    assert json.loads(encode(value)) == to_plain(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        (True, b"true"),
        (-5, b"-5"),
        (-0.0, b"-0.0"),
        ("é\n", '"é\\n"'.encode()),
        ({"b": [1, 2.5], "a": {}}, b'{"b":[1,2.5],"a":{}}'),
        (math.nan, b'{"$type":"float","$value":"nan"}'),
        (2**70, b'{"$type":"int","$value":"0x400000000000000000"}'),
        ({1: (2,)}, b'{"$type":"map","$value":[[1,{"$type":"tuple","$value":[2]}]]}'),
    ],
    ids=repr,
)
def test_the_stored_form_is_a_promise_to_later_versions(value: Any, data: bytes) -> None:
    assert encode(value) == data
    assert Literal(decode(data)) == Literal(value)


def test_classes_travel_with_their_types() -> None:
    order = Order(UUID(int=7), (("tea", Decimal("2.50")),))
    assert decode(encode([order])) == [order]


def test_decoding_takes_any_buffer() -> None:
    assert decode(bytearray(b"[1]")) == decode(memoryview(b"[1]")) == [1]


def test_equal_sets_give_equal_bytes_in_every_process() -> None:
    code = "from dagger_dsl.store.codec import encode; print(encode({'a', 'b', 'c', 1, (2,)}))"
    root = Path(codec.__file__).parents[2]
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(shown) == 1


def test_the_deepest_value_can_be_written_and_read() -> None:
    value: Any = dt.timedelta(1)
    for level in range(MAX_DEPTH):
        value = [value] if level % 2 else {"k": value}
    assert decode(encode(value)) == value


def test_an_error_names_the_value_and_never_a_secret() -> None:
    with pytest.raises(EncodingError, match=r"^fetch\.result\[0\] is of type object"):
        encode([object()], "fetch.result")
    with pytest.raises(EncodingError) as caught:
        encode({"key": Secret("hush")}, "fetch.result")
    assert "hush" not in str(caught.value)
    assert "fetch.result['key'] is a Secret" in str(caught.value)


def test_a_value_longer_than_the_limit_is_refused_both_ways() -> None:
    small = Codec(max_bytes=10)
    assert small.decode(small.encode("12345678")) == "12345678"
    with pytest.raises(EncodingError, match="value takes 11 bytes, more than max_bytes=10"):
        small.encode("123456789")
    with pytest.raises(DecodingError, match="value takes 11 bytes, more than max_bytes=10"):
        small.decode(b'"123456789"')
    with pytest.raises(ConfigurationError, match="max_bytes"):
        Codec(max_bytes=0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"1e999",
        b"\xff",
        b'"\\ud800"',
        b"[1] [2]",
        b"[" * 1_000_000,
        b"[" * 300 + b"]" * 300,
        b'{"a":' * 250 + b"1" + b"}" * 250,
        b'{"$type":"tuple","$value":[' * 150 + b"]}" * 150,
        b'{"$type":"os:system","$value":"true"}',
        b'{"$type":"tuple"}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_hostile_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(DecodingError):
        decode(data)


@given(st.binary())
def test_any_bytes_give_a_value_or_a_decoding_error(data: bytes) -> None:
    try:
        decode(data)
    except DecodingError:
        pass


def test_reading_never_imports_a_library_that_data_names() -> None:
    code = (
        "import sys\n"
        "from dagger_dsl.errors import DecodingError\n"
        "from dagger_dsl.store.codec import decode\n"
        "for name in ('numpy.ndarray', 'pandas.DataFrame', 'pyarrow.Table'):\n"
        "    try:\n"
        '        decode(b\'{"$type":"%s","$value":[]}\' % name.encode())\n'
        "    except DecodingError:\n"
        "        pass\n"
        "print(*{'numpy', 'pandas', 'pyarrow'} & set(sys.modules))\n"
    )
    root = Path(codec.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.split() == []


class TestNumpy:
    def test_arrays_come_back_equal_and_writable(self) -> None:
        numpy = pytest.importorskip("numpy")
        for array in (
            numpy.arange(6).reshape(2, 3),
            numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
            numpy.arange(10)[::2],
            numpy.zeros((0, 3), "f4"),
            numpy.array(5),
            numpy.array([True]),
            numpy.array([1, 2], ">i4"),
            numpy.array(["a", "bcd", ""]),
            numpy.array([b"x"]),
            numpy.array([1 + 2j]),
            numpy.array(["2020-01-01"], "M8[D]"),
        ):
            back = decode(encode({"a": array}))["a"]
            assert type(back) is numpy.ndarray
            assert (back.dtype, back.shape) == (array.dtype, array.shape)
            assert (back == array).all()
            assert back.flags.writeable
            assert back.flags.fnc == array.flags.fnc

    def test_scalars_keep_their_type(self) -> None:
        numpy = pytest.importorskip("numpy")
        for scalar in (
            numpy.float64(1.5),
            numpy.float32(0.1),
            numpy.int8(-3),
            numpy.longlong(4),
            numpy.uint64(2**64 - 1),
            numpy.bool_(True),
            numpy.complex64(1j),
            numpy.str_(""),
            numpy.bytes_(b"x"),
            numpy.datetime64("2020-01-01T00:00"),
            numpy.timedelta64(3, "s"),
        ):
            back = decode(encode(scalar))
            assert type(back) is type(scalar)
            assert back == scalar
            assert back.dtype == scalar.dtype

    def test_arrays_that_would_not_come_back_are_refused(self) -> None:
        numpy = pytest.importorskip("numpy")
        for array in (
            numpy.array([object()]),
            numpy.zeros(2, [("a", "i4")]),
            numpy.zeros(1, "V8"),
            numpy.ma.array([1]),
        ):
            with pytest.raises(EncodingError):
                encode(array)

    def test_hostile_arrays_are_refused(self) -> None:
        numpy = pytest.importorskip("numpy")
        data = {"$type": "bytes", "$value": "AAAAAAAAAAA="}
        assert numpy is sys.modules["numpy"]
        for content in (
            ["|O", [1], "C", data],
            ["<i8,<i8", [1], "C", data],
            ["<i8", [2], "C", data],
            ["<i8", [-1], "C", data],
            ["<i8", [2**40, 2**40], "C", data],
            ["<i8", "1", "C", data],
            ["<i8", [1], "X", data],
            ["<i8", [1], "C", "text"],
            [None, [1], "C", data],
            [],
        ):
            with pytest.raises(DecodingError):
                decode(json.dumps({"$type": "numpy.ndarray", "$value": content}).encode())


class TestPandas:
    def test_frames_and_series_come_back_equal(self) -> None:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        times = pandas.date_range("2020", periods=2, tz="Europe/Berlin")
        for frame in (
            pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, math.nan]}),
            pandas.DataFrame({1: [1]}, index=["k"]),
            pandas.DataFrame(),
            pandas.DataFrame({"t": times}, index=times),
            pandas.DataFrame({"c": pandas.Categorical(["a", "b"])}),
        ):
            pandas.testing.assert_frame_equal(decode(encode(frame)), frame)
        series = pandas.Series([1, 2], index=times, name="n")
        pandas.testing.assert_series_equal(decode(encode(series)), series)

    def test_a_frame_that_would_not_come_back_is_refused(self) -> None:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        with pytest.raises(EncodingError, match="would not come back as it is"):
            encode(pandas.DataFrame({"o": [1, "x"]}))


def test_arrow_tables_and_batches_come_back_equal() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"a": [1, 2], "b": [[1], None]})
    assert decode(encode(table)).equals(table)
    batch = table.to_batches()[0]
    for each in (batch, batch.slice(0, 0)):
        assert decode(encode(each)).equals(each)
    with pytest.raises(DecodingError, match="malformed"):
        decode(b'{"$type":"pyarrow.Table","$value":{"$type":"bytes","$value":"AAAA"}}')
