"""What is kept of an exception: its class, its text and the user's own frames."""

from __future__ import annotations

import traceback

import attrs

__all__ = ["ErrorInfo", "error_info", "is_ours", "user_traceback"]


@attrs.frozen
class ErrorInfo:
    """An error as it is kept in the store and shown to people.

    Attributes:
        type: Qualified name of its class.
        message: Its text.
        traceback: The user's own frames, as text.
    """

    type: str
    message: str
    traceback: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return what the store keeps."""
        return {"type": self.type, "message": self.message, "traceback": self.traceback}

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def error_info(error: BaseException) -> ErrorInfo:
    """Return what is kept of an exception: class, text and the user's own frames."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    try:
        message = str(error)
    except Exception as broken:  # the user's own __str__ may fail
        message = f"<its text cannot be made: {type(broken).__name__}>"
    return ErrorInfo(name, message, user_traceback(error))


def user_traceback(error: BaseException) -> str:
    """Return the traceback of *error* without this package's own frames, as text."""
    shown = traceback.TracebackException.from_exception(error, limit=None, compact=True)
    todo: list[traceback.TracebackException | None] = [shown]
    while todo:
        here = todo.pop()
        if here is None:
            continue
        here.stack = traceback.StackSummary.from_list(
            [frame for frame in here.stack if not is_ours(frame.filename)]
        )
        todo += [here.__cause__, here.__context__]
    return "".join(shown.format())


_ROOT = __file__.rpartition("engine")[0]


def is_ours(filename: str) -> bool:
    """Return whether a file is one of this package's."""
    return filename.startswith(_ROOT)
