"""`Action.map`: which input is mapped over, and the plain loop that it is outside of a DAG."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown
from dagger_dsl.model.context import Failed
from dagger_dsl.model.graph import RESULT
from dagger_dsl.model.mapped import batch_of, batched, depth_of, has_items, parallel_of

if TYPE_CHECKING:
    from dagger_dsl.registry import ActionDef

__all__ = ["MapCall", "mapped_input", "one_limit"]


def one_limit(what: str, max_parallel: Any, max_workers: Any) -> Any:
    """Return how many calls are made at the same time, whichever word was used.

    Raises:
        ConfigurationError: Both were.
    """
    if max_workers is None:
        return max_parallel
    if max_parallel is not None:
        raise ConfigurationError(
            f"{what}: max_workers and max_parallel are one option; give one of them"
        )
    return max_workers


def mapped_input(
    definition: ActionDef, items: Any, over: str | None, inputs: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the name of the input that is mapped over, and all inputs by name.

    Args:
        definition: The action.
        items: What was given by position, None for nothing.
        over: The input that was named, or None.
        inputs: What was given by name.

    Raises:
        ConfigurationError: Nothing is given to be mapped over, or it is not clear into what.
    """
    what = f"{definition.name}.map"
    if over is not None and not definition.takes_any_input:
        known = [param.name for param in definition.params]
        if over not in known:
            raise ConfigurationError(
                f"{what}: over= names a parameter, not {shown(over)}{did_you_mean(over, known)}"
            )
    if items is None:
        return _named(what, over, inputs), dict(inputs)
    if over is None:
        over = _first_free(what, definition, inputs)
    elif over in inputs:
        raise ConfigurationError(f"{what}: {over!r} is given by position and by name; drop one")
    return over, {**inputs, over: items}


def _named(what: str, over: str | None, inputs: Mapping[str, Any]) -> str:
    if over is not None:
        if over in inputs:
            return over
        raise ConfigurationError(
            f"{what}: over={over!r} names an input that is not given; write {what}({over}=...), or "
            "give what is mapped over by position"
        )
    if len(inputs) == 1:
        return next(iter(inputs))
    if not inputs:
        raise ConfigurationError(
            f"{what} takes what is mapped over: {what}(items); an arrow can bind it where the node "
            "is placed by with_options(map_over='...')"
        )
    choices = " or ".join(f"over={name!r}" for name in inputs)
    raise ConfigurationError(
        f"{what} is given {', '.join(map(repr, inputs))} and maps over one of them; say which: "
        f"{choices}"
    )


def _first_free(what: str, definition: ActionDef, inputs: Mapping[str, Any]) -> str:
    names = [param.name for param in definition.params]
    free = next((name for name in names if name not in inputs), None)
    if free is not None:
        return free
    if definition.takes_any_input:
        raise ConfigurationError(
            f"{what}: action {definition.name!r} takes inputs of any name, so say into which one "
            "the items go: over='...'"
        )
    raise ConfigurationError(
        f"{what}: every parameter of {definition.name!r} is given by name "
        f"({', '.join(map(repr, names)) or 'it has none'}); leave out the one that is mapped, or "
        "name it with over= and give no items by position"
    )


@attrs.frozen
class MapCall:
    """How an action is mapped.

    Attributes:
        over: The input whose items each get an invocation.
        depth: Levels of lists.
        collects: Whether a failed invocation gives a `Failed` value and fails nothing.
        most: Invocations at the same time, None for any number.
        batch: Items that one invocation is given.
    """

    over: str
    depth: int
    collects: bool
    most: int | None
    batch: int = 1

    @classmethod
    def of(
        cls, what: str, over: str, depth: Any, on_error: Any, most: Any, batch: Any = None
    ) -> MapCall:
        """Return what was asked for.

        Raises:
            ConfigurationError: One of these has an impossible value.
        """
        depth = depth_of(depth, f"{what}: depth")
        if most is not None:
            most = parallel_of(most, f"{what}: max_parallel")
        if on_error not in ("fail", "collect"):
            raise ConfigurationError(
                f"{what}: on_error is 'fail' or 'collect', not {shown(on_error)}"
            )
        batch = 1 if batch is None else batch_of(batch, f"{what}: batch_size")
        return cls(over, depth, on_error == "collect", most, batch)

    def options(self, known: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        """Return the options of the mapped node.

        Args:
            known: What was said about the action's nodes already.
            outputs: What the action declares: parts of each result, and not of the list of them.
        """
        found = {
            **known,
            "map_over": self.over,
            "map_depth": self.depth if self.depth > 1 else None,
            "map_errors": "collect" if self.collects else None,
            "map_batch": self.batch if self.batch > 1 else None,
        }
        if self.most is not None:
            found["max_parallel"] = self.most
        if outputs and "outputs" not in known:
            found["outputs"] = (RESULT,)
        return found

    def run(self, definition: ActionDef, inputs: Mapping[str, Any]) -> Any:
        """Call the function for each item, without a graph.

        Returns:
            The list of results; for an async function, what gives the list when it is awaited.

        Raises:
            ConfigurationError: What is mapped over has no items.
        """
        constants = {name: value for name, value in inputs.items() if name != self.over}
        what = f"{definition.name}.map: {self.over!r}"

        def call(item: Any) -> Any:
            return definition.fn(**constants, **{self.over: item})

        if definition.is_async:
            return self._run_async(call, inputs[self.over], what)

        def leaf(key: str, item: Any) -> Any:
            try:
                return call(item)
            except Exception as error:
                if not self.collects:
                    raise
                return _failed(key, error)

        if self.most is None or self.most == 1:
            return _walk(inputs[self.over], self.depth, what, "", leaf)
        return self._run_threads(leaf, inputs[self.over], what)

    def _listed(self, items: Any, what: str) -> tuple[list[tuple[str, Any]], Any]:
        """Return the items with their keys, and lists that hold the place of each."""
        calls: list[tuple[str, Any]] = []

        def note(key: str, item: Any) -> int:
            calls.append((key, item))
            return len(calls) - 1

        return calls, _walk(items, self.depth, what, "", note)

    def _run_threads(self, leaf: Callable[[str, Any], Any], items: Any, what: str) -> Any:
        """Call the function in threads; of what fails, the first in order is raised."""
        import contextvars
        from concurrent.futures import ThreadPoolExecutor

        calls, tree = self._listed(items, what)

        def batch(part: list[tuple[str, Any]]) -> list[Any]:
            return [leaf(*each) for each in part]

        results: list[Any] = []
        workers = min(self.most or 1, max(1, len(calls)))
        with ThreadPoolExecutor(workers, thread_name_prefix="dagger-dsl-map") as pool:
            parts = [
                pool.submit(contextvars.copy_context().run, batch, part)
                for part in batched(calls, self.batch)
            ]
            try:
                for part in parts:
                    results += part.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return _walk(tree, self.depth, what, "", lambda _, place: results[place])

    async def _run_async(
        self, call: Callable[[Any], Coroutine[Any, Any, Any]], items: Any, what: str
    ) -> Any:
        calls, tree = self._listed(items, what)
        gate = asyncio.Semaphore(self.most if self.most is not None else max(1, len(calls)))

        async def leaf(key: str, item: Any) -> Any:
            try:
                return await call(item)
            except Exception as error:
                if not self.collects:
                    raise
                return _failed(key, error)

        async def batch(part: list[tuple[str, Any]]) -> list[Any]:
            async with gate:
                return [await leaf(*each) for each in part]

        parts = await _all(batch(part) for part in batched(calls, self.batch))
        results = [each for part in parts for each in part]
        return _walk(tree, self.depth, what, "", lambda _, place: results[place])


def _walk(value: Any, depth: int, what: str, key: str, leaf: Callable[[str, Any], Any]) -> Any:
    """Return what *leaf* makes of each item, in lists as they were; keys are those of a run."""
    if depth == 0:
        return leaf(key, value)
    if not has_items(value):
        raise ConfigurationError(
            f"{what} is mapped over, so it must be a list, not {shown(value, 60)}"
        )
    prefix = f"{key}." if key else ""
    return [
        _walk(each, depth - 1, f"{what}[{place}]", f"{prefix}{place}", leaf)
        for place, each in enumerate(value)
    ]


def _failed(key: str, error: Exception) -> Failed:
    from dagger_dsl.engine.error_info import error_info  # calls that succeed need no engine

    info = error_info(error)
    return Failed(key, info.type, info.message)


async def _all(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return the results in order; the first failure ends the other calls."""
    tasks = [asyncio.ensure_future(each) for each in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
