"""Values to stored bytes and back: the tagged plain form of `dagger_dsl.model.values` as JSON.

Arrays and frames of numpy, pandas and pyarrow are values too. Their functions are registered when a
value or a stored tag of theirs turns up in a process that has imported the library by itself:
neither writing nor reading imports one for the sake of data, with one exception: pandas objects
travel as Arrow, so writing or reading one imports pyarrow.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import orjson

from dagger_dsl.errors import ConfigurationError, DecodingError, EncodingError
from dagger_dsl.model.values import (
    from_plain,
    register_type,
    to_plain,
    when_imported,
)

__all__ = ["MAX_BYTES", "Codec", "advice_outside_runs", "decode", "encode", "register_type"]

#: Longest encoding of one value.
MAX_BYTES: Final = 256 * 1024 * 1024

# We give orjson JSON types only. Should anything else slip through, it shall refuse, not convert.
_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
)


@contextlib.contextmanager
def advice_outside_runs() -> Iterator[None]:
    """Let what an `EncodingError` advises be a way out that there is outside of runs."""
    try:
        yield
    except EncodingError as error:
        if not error.outside_runs:
            raise
        raise EncodingError(error.outside_runs) from error.__cause__


class Codec:
    """Turns values into bytes and back, within a size limit. Has no other state.

    Args:
        max_bytes: Longest encoding that is written or read.
    """

    __slots__ = ("max_bytes",)

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigurationError(f"max_bytes is a number of bytes above 0, not {max_bytes!r}")
        self.max_bytes = max_bytes

    def encode(self, value: Any, path: str = "value") -> bytes:
        """Return *value* as UTF-8 JSON; equal values of equal types give equal bytes.

        The order of a dict's keys is kept, and counts.

        Args:
            value: Any value of the codec.
            path: What to call it in an error.

        Raises:
            EncodingError: A part of it has no stored form, or it is longer than `max_bytes`.
        """
        plain = to_plain(value, path)
        try:
            data = orjson.dumps(plain, option=_OPTIONS)
        except orjson.JSONEncodeError as error:
            raise EncodingError(f"{path} cannot be written as JSON: {error}") from error
        if len(data) > self.max_bytes:
            raise EncodingError(
                f"{path} takes {len(data):,} bytes, more than max_bytes={self.max_bytes:,}; "
                "write it to a file of your own and return its path"
            )
        return data

    def decode(self, data: bytes | bytearray | memoryview, path: str = "value") -> Any:
        """Return the value that *data* encodes, always a fresh one.

        Raises:
            DecodingError: It is no such encoding, its types are not known in this process, or it is
                longer than `max_bytes`.
        """
        if len(data) > self.max_bytes:
            raise DecodingError(
                f"{path} takes {len(data):,} bytes, more than max_bytes={self.max_bytes:,}; "
                "raise the limit if you trust its origin"
            )
        try:
            plain = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise DecodingError(f"{path} is not what the codec writes: {error}") from error
        return from_plain(plain, path)


_default = Codec()
encode = _default.encode
decode = _default.decode


# --- numpy ----------------------------------------------------------------------------------------

# Kinds whose bytes say everything; object arrays and structured ones are not among them.
_DTYPE: Final = re.compile(r"[<>|][biufcmMSU]\d{1,10}(?:\[\d{0,9}[a-zA-Z]{1,2}\])?")


def _load_numpy() -> None:
    numpy: Any = sys.modules["numpy"]

    def of_array(array: Any) -> list[Any]:
        kind = array.dtype
        if kind.fields is not None or not _DTYPE.fullmatch(kind.str):
            raise EncodingError(
                f"arrays of dtype {kind} have no stored form; use numbers, booleans, texts or "
                "times, or a list (array.tolist())"
            )
        order = "F" if array.flags.fnc else "C"
        return [kind.str, list(array.shape), order, array.tobytes(order)]

    def to_array(content: Any) -> Any:
        kind, shape, order, data = content
        if type(kind) is not str or not _DTYPE.fullmatch(kind) or type(data) is not bytes:
            raise ValueError("expected a dtype and bytes")
        if order not in ("C", "F") or type(shape) is not list:
            raise ValueError("expected a shape and an order")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("a shape has whole numbers of at least 0")
        dtype = numpy.dtype(kind)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("the shape does not fit the data")
        return numpy.ndarray(tuple(shape), dtype, buffer=data, order=order).copy(order="K")

    register_type(numpy.ndarray, name="numpy.ndarray", encode=of_array, decode=to_array)

    def register_scalar(cls: Any) -> None:
        # A dtype's text names sizes; types of one size, such as longlong, are told by the tag.
        sized = not issubclass(cls, numpy.datetime64 | numpy.timedelta64)

        def from_array(content: Any) -> Any:
            array = to_array(content)
            return (array.astype(cls) if sized else array)[()]

        register_type(
            cls,
            name=f"numpy.{cls.__name__}",
            encode=lambda value: of_array(numpy.asarray(value)),
            decode=from_array,
        )

    for cls in set(numpy.sctypeDict.values()):
        if issubclass(cls, numpy.number | numpy.bool_ | numpy.datetime64):
            register_scalar(cls)
    register_type(numpy.str_, name="numpy.str_", encode=str, decode=numpy.str_)
    register_type(numpy.bytes_, name="numpy.bytes_", encode=bytes, decode=numpy.bytes_)


# --- pyarrow and pandas ---------------------------------------------------------------------------


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise EncodingError(
            "pandas objects are stored as Arrow; install pyarrow, or return frame.to_dict('list')"
        ) from error
    if tuple(map(int, pyarrow.__version__.split(".")[:2])) < (14, 1):
        # Up to 14.0.0 reading could unpickle what the data said (CVE-2023-47248).
        raise EncodingError(f"pyarrow {pyarrow.__version__} reads unsafely; install 14.1 or newer")
    return pyarrow


def _arrow_bytes(table: Any) -> bytes:
    pyarrow = _arrow()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def _arrow_stream(data: Any) -> Any:
    if type(data) is not bytes:
        raise ValueError("expected bytes")
    return _arrow().ipc.open_stream(data)


def _arrow_table(data: Any) -> Any:
    table = _arrow_stream(data).read_all()
    table.validate(full=True)
    return table


def _arrow_batch(data: Any) -> Any:
    batch = _arrow_stream(data).read_next_batch()
    batch.validate(full=True)
    return batch


def _load_pyarrow() -> None:
    pyarrow: Any = sys.modules["pyarrow"]
    for cls, read in ((pyarrow.Table, _arrow_table), (pyarrow.RecordBatch, _arrow_batch)):
        register_type(cls, name=f"pyarrow.{cls.__name__}", encode=_arrow_bytes, decode=read)


def _load_pandas() -> None:
    pandas: Any = sys.modules["pandas"]

    def of_frame(frame: Any) -> list[Any]:
        # Arrow keeps the index, but not the frequency of its times.
        freq = getattr(frame.index, "freqstr", None)
        pyarrow = _arrow()
        try:
            content = [_arrow_bytes(pyarrow.Table.from_pandas(frame)), freq]
            pandas.testing.assert_frame_equal(to_frame(content), frame, check_exact=True)
        except (AssertionError, pyarrow.ArrowException) as error:
            raise EncodingError(
                "this DataFrame would not come back as it is: "
                f"{str(error).splitlines()[0]}; use plainer column and index types"
            ) from error
        return content

    def to_frame(content: Any) -> Any:
        data, freq = content
        frame = _arrow_table(data).to_pandas()
        if freq is not None:
            frame.index.freq = freq
        return frame

    register_type(pandas.DataFrame, name="pandas.DataFrame", encode=of_frame, decode=to_frame)

    def to_series(content: Any) -> Any:
        name, frame = content
        return to_frame(frame)["value"].rename(name)

    register_type(
        pandas.Series,
        name="pandas.Series",
        encode=lambda series: [series.name, of_frame(series.to_frame(name="value"))],
        decode=to_series,
    )


when_imported("numpy", _load_numpy)
when_imported("pyarrow", _load_pyarrow)
when_imported("pandas", _load_pandas)
