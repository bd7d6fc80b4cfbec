"""What a run records beside values: errors, reasons, labels and notes for a resume, as JSON.

Values go through the store's codec; these are texts, numbers and lists of our own making. Nothing
here loads a library before a run that is recorded needs it.
"""

from __future__ import annotations

from typing import Any

from dagger_dsl.errors import EncodingError

__all__ = ["of_json", "to_json"]


def to_json(content: Any) -> str:
    """Return plain content as JSON that every reader accepts, whatever texts users put into it.

    Raises:
        EncodingError: It is not plain, holds a number of more than 64 bits, or is too deep.
    """
    import orjson  # runs in memory never come here

    try:
        return orjson.dumps(_clean(content)).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodingError(f"this cannot be recorded as JSON: {error}") from error


def of_json(text: str) -> Any:
    """Return the content of `to_json`."""
    import orjson  # runs in memory never come here

    return orjson.loads(text)


def _clean(content: Any) -> Any:
    """Make every text valid Unicode: lone surrogates, as in odd file names, are written out."""
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, dict):
        return {_clean(key): _clean(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_clean(each) for each in content]
    return content
