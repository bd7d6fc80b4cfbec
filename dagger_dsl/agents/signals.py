"""What an agent raises to say that its task waits."""

from __future__ import annotations

from dagger_dsl.errors import DaggerError

__all__ = ["Blocked", "NeedsMoreInfo"]


class Blocked(BaseException):
    """The task waits and is called again; `TaskContext.block` raises it.

    No `Exception`, so that an agent's ``except Exception`` lets it through.

    Attributes:
        on: Ids of the tasks that it waits for, beside those that it needs already.
        reason: Why, for people.
    """

    def __init__(self, on: tuple[str, ...] = (), reason: str = "") -> None:
        self.on = on
        self.reason = reason
        super().__init__(on, reason)


class NeedsMoreInfo(DaggerError):
    """The task waits for the tasks that were added to what it needs, and is called again."""
