"""What is kept of an exception: its class, its text and the user's own frames."""

from __future__ import annotations

import traceback
from types import TracebackType

import attrs

from dagger_dsl.errors import DaggerError

__all__ = ["ErrorInfo", "error_info", "error_text", "hide_frames", "is_ours"]


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
    traceback: str = attrs.field(default="", repr=False)

    def to_dict(self) -> dict[str, str]:
        """Return what the store keeps."""
        return {"type": self.type, "message": self.message, "traceback": self.traceback}

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def error_info(error: BaseException) -> ErrorInfo:
    """Return what is kept of an exception: class, text and the user's own frames."""
    return attrs.evolve(error_text(error), traceback=_user_traceback(error))


def error_text(error: BaseException) -> ErrorInfo:
    """Return class and text of an exception alone; to write down its frames takes a while."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    try:
        message = str(error)
    except Exception as broken:  # the user's own __str__ may fail
        message = f"<its text cannot be made: {type(broken).__name__}>"
    return ErrorInfo(name, message)


def _user_traceback(error: BaseException) -> str:
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


def hide_frames(error: BaseException) -> None:
    """Take this package's frames out of the traceback of an error, and of what led to it.

    What is left is what the user wrote. A fault of ours, which has no other frames, keeps them.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        here = todo.pop()
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        todo += [here.__cause__, here.__context__]
        if isinstance(here, BaseExceptionGroup):
            todo += here.exceptions
        kept = []
        step = here.__traceback__
        while step is not None:
            if not is_ours(step.tb_frame.f_code.co_filename):
                kept.append(step)
            step = step.tb_next
        if kept or isinstance(here, DaggerError):
            below: TracebackType | None = None
            for each in reversed(kept):
                below = TracebackType(below, each.tb_frame, each.tb_lasti, each.tb_lineno)
            here.__traceback__ = below
