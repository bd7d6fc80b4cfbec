"""The stage on which a block runs: its names, and what is seen of it.

A scenario is a coroutine function that prepares names, plays its block and asserts what the text
promises. It runs twice: without an event loop, where nothing it awaits ever suspends, and inside
of one, as in a notebook.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from dagger_dsl.model.sharing import Context
from dagger_dsl.retry import decide
from tests.acceptance.document_002.reading import Block

__all__ = ["SCENARIOS", "Names", "Scenario", "Stage", "error_class", "perform", "scenario"]

Scenario: TypeAlias = Callable[["Stage"], Coroutine[Any, Any, None]]

#: By section and place in it.
SCENARIOS: dict[tuple[str, int], Scenario] = {}

#: What the document imports, or plainly takes from the package.
_FRONT = ("DAG", "FSM", "Context", "FSMContext", "FSMReturn")


def scenario(section: str, place: int = 1) -> Callable[[Scenario], Scenario]:
    """Make a coroutine function the scenario of one block."""

    def register(function: Scenario) -> Scenario:
        assert (section, place) not in SCENARIOS
        SCENARIOS[section, place] = function
        return function

    return register


def error_class(name: str) -> Any:
    """Return an error of the package by name."""
    return getattr(importlib.import_module("dagger_dsl.errors"), name)


class Names(dict[str, Any]):
    """The names of a block, and all that was ever assigned to each.

    Attributes:
        given: By name, in order of time.
    """

    def __init__(self, **names: Any) -> None:
        super().__init__(names)
        self.given: defaultdict[str, list[Any]] = defaultdict(list)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.given[name].append(value)


class Stage:
    """What a scenario works with.

    Attributes:
        block: What is played.
        names: Its names; the package's front and a `DAG` called ``dag`` are there.
        dag: That DAG, under a name of its own: results are shared by name within a process.
        in_loop: Whether an event loop runs around the scenario.
        loop: The loop that a block with ``await`` ran on.
        folder: Of the test's own, and the current one.
    """

    def __init__(
        self,
        block: Block,
        in_loop: bool,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        front = importlib.import_module("dagger_dsl")
        self.block = block
        self.in_loop = in_loop
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.names = Names(__name__="document_002", Context=Context)
        self.names.update({name: getattr(front, name) for name in _FRONT if hasattr(front, name)})
        self.dag: Any = self.names["DAG"](f"doc_{uuid4().hex}")
        self.names["dag"] = self.dag
        self.loop: asyncio.AbstractEventLoop | None = None
        self._capsys = capsys
        monkeypatch.chdir(folder)

    async def play(self, **names: Any) -> Names:
        """Run the block with more names, and return all of them."""
        self.names.update(names)
        await self._run(self.block.code)
        return self.names

    async def define(self, **names: Any) -> None:
        """Run the block's definitions and imports alone, as the first cells of a notebook."""
        self.names.update(names)
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        tree = ast.parse(self.block.code)
        tree.body = [each for each in tree.body if isinstance(each, kinds)]
        await self._run(tree)

    async def _run(self, source: str | ast.Module) -> None:
        where = f"<block {self.block.number} of document 002>"
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, where, "exec", flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            await self.settle(self._noting_the_loop(eval(code, self.names)))
        else:
            exec(code, self.names)

    async def _noting_the_loop(self, awaitable: Awaitable[Any]) -> Any:
        self.loop = asyncio.get_running_loop()
        return await awaitable

    async def settle(self, awaitable: Coroutine[Any, Any, Any]) -> Any:
        """Await something on the loop there is, or on one of its own."""
        return await awaitable if self.in_loop else asyncio.run(awaitable)

    def printed(self) -> list[str]:
        """Return the lines that were printed since this was last asked."""
        return self._capsys.readouterr().out.splitlines()

    @contextmanager
    def without_waits(self) -> Iterator[list[float]]:
        """Let further attempts begin at once; the list gets the seconds until each would have."""
        delays: list[float] = []

        def at_once(*args: Any, **kwargs: Any) -> float | None:
            delay = decide(*args, **kwargs)
            if delay is None:
                return None
            delays.append(delay)
            return 0.0

        with self.monkeypatch.context() as patch:
            patch.setattr("dagger_dsl.engine.outcomes.decide", at_once)
            yield delays


def perform(scene: Scenario, stage: Stage) -> None:
    """Run a scenario, inside of an event loop where the stage says so."""
    if stage.in_loop:
        asyncio.run(scene(stage))
        return
    coroutine = scene(stage)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("without a loop there is nothing to wait for")
