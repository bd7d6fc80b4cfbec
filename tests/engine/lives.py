"""What tests of the lives of nodes share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dagger_dsl import DAG, Node
from dagger_dsl.model.sharing import Context
from tests.engine.helpers import RUNNERS

__all__ = ["Log", "both", "chain", "enter", "entries", "every_runner", "later"]

every_runner = pytest.mark.parametrize("runner", RUNNERS)
entries = pytest.mark.parametrize("entry", ["run", "run_async", "in a loop"])
both = pytest.mark.parametrize("is_async", [False, True])


def enter(dag: DAG, entry: str, **options: Any) -> Any:
    """Run a DAG by one of its entries and return what it gives."""
    if entry == "run":
        return dag.run(**options)

    async def wait() -> Any:
        return dag.run(**options) if entry == "in a loop" else await dag.run_async(**options)

    return asyncio.run(wait())


def later(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return an async function that does what *fn* does, a little later."""

    async def call(*args: Any) -> Any:
        await asyncio.sleep(0.001)
        return fn(*args)

    return call


class Log:
    """Keeps what hooks were called with.

    Attributes:
        calls: ``(hook, node)`` in order.
        inputs, results: What they were given last.
    """

    def __init__(self, is_async: bool = False, name: str = "") -> None:
        self.calls: list[tuple[str, str]] = []
        self.inputs: Any = None
        self.results: list[Any] = []
        self.contexts: set[int] = set()
        self._is_async = is_async
        self._name = name

    def pre(self, node: Node, inputs: dict[str, Any], context: Context) -> None:
        self.calls.append((f"{self._name}pre", node.name))
        self.inputs = inputs
        self.contexts.add(id(context))

    def post(self, node: Node, inputs: dict[str, Any], result: Any, context: Context) -> None:
        self.calls.append((f"{self._name}post", node.name))
        self.results.append(result)
        self.contexts.add(id(context))

    def cleanup(self, node: Node, context: Context) -> None:
        self.calls.append((f"{self._name}cleanup", node.name))
        self.contexts.add(id(context))

    def hooks(self) -> dict[str, Any]:
        """Return the arguments of `DAG.set_node_hooks`."""
        found: dict[str, Callable[..., Any]] = {
            "pre_execute": self.pre,
            "post_execute": self.post,
            "cleanup": self.cleanup,
        }
        return {name: later(fn) if self._is_async else fn for name, fn in found.items()}


def chain(body: Callable[..., Any] | None = None, **options: Any) -> DAG:
    """Return ``first >> second``; *body* is that of the second."""

    def second(first: int) -> Any:
        return first + 1

    dag = DAG("flow")

    @dag.node
    def first() -> int:
        return 1

    dag.node(id="second", name="second", **options)(body or second)
    first >> dag.nodes["second"]
    return dag
