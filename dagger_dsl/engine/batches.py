"""Batches: several items of a mapped node in one invocation.

The invocation is given the list of its items and calls the function for each, one after the other;
its value is the list of the results. What is retried, timed and recorded is the batch. What a body
can answer beside a value belongs to an invocation, so a batch takes the value of it only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from dagger_dsl.errors import NodeFailure, OutputError, shown
from dagger_dsl.model.context import Branch, NodeOutput
from dagger_dsl.model.jobs import WAITS
from dagger_dsl.runners.base import ANSWERS, Writing

__all__ = ["AsyncBatch", "Batch", "ItemsFailed", "batched", "failed_items"]


class ItemsFailed(Exception):  # an outcome between rooms, never shown to users
    """Items of a batch failed whose failures are collected.

    Args:
        first: What the first of them raised.
        results: By place in the batch, a result, or the exception of an item that failed.
        final: They only answered failure, which is not tried again.
    """

    def __init__(self, first: Exception, results: list[Any], final: bool = False) -> None:
        self.first = first
        self.results = results
        self.final = final
        super().__init__(first, results, final)


class _Results:
    """What the items of one batch came to."""

    def __init__(self, collect: bool) -> None:
        self._collect = collect
        self._values: list[Any] = []
        self._first: Exception | None = None
        self._soft: NodeFailure | None = None  # which is never tried again
        self._written: dict[tuple[str, str], Any] = {}
        self.over: Any = None  # the answer of the whole batch, where one item decides it

    def take(self, answer: Any) -> None:
        """Take what one call returned; it may decide what becomes of the batch."""
        if answer.__class__ is Writing:
            self._written.update(answer.written)
            answer = answer.answer
        if answer.__class__ in ANSWERS:
            if isinstance(answer, NodeOutput) and not answer.succeeded:
                if not self._collect:
                    self.over = answer
                    return
                answer = NodeFailure(answer.message or "the node answered failure")
                self._soft = self._soft or answer
            else:
                answer = _value_of(answer)
        self._values.append(answer)

    def failed(self, error: Exception) -> None:
        """Take what one call raised; it goes on when failures are collected."""
        if not self._collect:
            raise error
        self._first = self._first or error
        self._values.append(error)

    def answer(self) -> Any:
        """Return the value of the batch."""
        if self.over is not None:
            return self.over
        first = self._first or self._soft
        if first is not None:
            raise ItemsFailed(first, self._values, self._first is None)
        return Writing(self._values, self._written) if self._written else self._values


class Batch:
    """The call of a batch.

    Args:
        call: The call for one item.
        place: Where among its values the item stands.
        collect: Whether a failed item lets the others go on.
    """

    def __init__(self, call: Callable[..., Any], place: int, collect: bool) -> None:
        self.call, self.place, self.collect = call, place, collect

    def __call__(self, *values: Any) -> Any:
        """Call it for each item."""
        before, after = values[: self.place], values[self.place + 1 :]
        results = _Results(self.collect)
        for item in values[self.place]:
            try:
                results.take(self.call(*before, item, *after))
            except Exception as error:
                results.failed(error)
            if results.over is not None:
                break
        return results.answer()


class AsyncBatch(Batch):
    """The same for an async function."""

    async def __call__(self, *values: Any) -> Any:
        """Call it for each item, one after the other."""
        before, after = values[: self.place], values[self.place + 1 :]
        results = _Results(self.collect)
        for item in values[self.place]:
            try:
                results.take(await self.call(*before, item, *after))
            except Exception as error:
                results.failed(error)
            if results.over is not None:
                break
        return results.answer()


def batched(call: Callable[..., Any], place: int, collect: bool, is_async: bool) -> Batch:
    """Return the call of a batch, for the call of one item."""
    return (AsyncBatch if is_async else Batch)(call, place, collect)


def failed_items(
    key: str, size: int, results: Sequence[Any], failed: Callable[..., Any]
) -> list[Any]:
    """Return the results of a batch with a `Failed` value for each item that failed.

    Args:
        key: That of the batch: its number, behind the place of its list where there are several.
        size: Items in a full batch.
        results: Results, and the exceptions of items that failed.
        failed: Makes a `Failed` of an item's key and its exception.
    """
    prefix, dot, number = key.rpartition(".")
    first = int(number) * size
    return [
        failed(f"{prefix}{dot}{first + k}", each) if isinstance(each, Exception) else each
        for k, each in enumerate(results)
    ]


def _value_of(answer: Any) -> Any:
    """Return the value of what a body answered for one item.

    Raises:
        OutputError: It says more than a value, or is something that can be read only once.
    """
    if isinstance(answer, NodeOutput) and not (answer.commands or answer.metadata):
        answer = answer.outputs
    if isinstance(answer, Branch):
        answer = answer.value
    if isinstance(answer, (NodeOutput, Branch, *WAITS)):
        what = "commands, metadata or something to wait for"
    elif isinstance(answer, (CoroutineType, AsyncGeneratorType, Iterator)):
        if isinstance(answer, CoroutineType):
            answer.close()
        what = f"{shown(answer, 60)}, which can be read only once,"
    else:
        return answer
    raise OutputError(f"an item of a batch answered {what}; map it without a batch size")
