"""What an agent raises to say that its task waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagger_dsl.errors import DaggerError

if TYPE_CHECKING:
    from dagger_dsl.store.task_questions import Question

__all__ = ["Blocked", "NeedsMoreInfo"]


class Blocked(BaseException):
    """The task waits and is called again; `TaskContext.block` raises it.

    No `Exception`, so that an agent's ``except Exception`` lets it through.

    Attributes:
        on: Ids of the tasks that it waits for, beside those that it needs already.
        reason: Why, for people.
        question: What it asks a person; None where *reason* says that, or where it asks nobody.
    """

    def __init__(
        self, on: tuple[str, ...] = (), reason: str = "", question: Question | None = None
    ) -> None:
        self.on = on
        self.reason = reason
        self.question = question
        super().__init__(on, reason, question)


class NeedsMoreInfo(DaggerError):
    """The task waits, and is called again; its text says what it still has to know.

    It waits for the tasks that were added to what it needs; where none were, for a person, who
    reads its text and answers by `TaskManager.answer`. `TaskContext.answer` has what was answered.
    """
