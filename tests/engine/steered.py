"""What tests of steered runs share: hooks that follow a script, and the places a run is kept in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.engine.report import RunReport
from dagger_dsl.model.commands import Command, command_to_plain
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.events import CustomEvent, Event, RunFinished, RunStarted
from dagger_dsl.store.storage import Store
from tests.engine.helpers import RUNNERS, Workflow, url_of

__all__ = [
    "PLACES",
    "AsyncScript",
    "Script",
    "Steered",
    "every_runner",
    "everywhere",
    "kept",
    "name_of",
    "reasons",
    "send",
]

#: Where a run is kept: nowhere, or in a SQLite file.
PLACES = ("memory", "file")

every_runner = pytest.mark.parametrize("runner", RUNNERS)


def everywhere(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test under every runner, in memory and on a file."""
    marked: Callable[..., Any] = every_runner(pytest.mark.parametrize("place", PLACES)(test))
    return marked


def kept(place: str, folder: Path) -> dict[str, Any]:
    """Return the options of a run that is kept in a place."""
    return {"database_url": url_of(folder), "run_id": "r"} if place == "file" else {}


def name_of(event: Event) -> str:
    """Return an event's kind, and its node or its name."""
    kind = event.__class__.__name__
    if isinstance(event, CustomEvent):
        return f"{kind} {event.name}"
    if isinstance(event, RunStarted):
        return kind
    if isinstance(event, RunFinished):
        return f"{kind} {event.status}"
    node = event.node
    key = "" if node.invocation_key == "default" else f"[{node.invocation_key}]"
    return f"{kind} {node.node_id}{key}"


class Script:
    """A hook that answers events by their `name_of`, and keeps what it was told.

    Args:
        answers: What it answers: commands, or a function of ``(ctx, event)`` that returns them.
            ``start`` and ``end`` are the run's.
        log: Where it notes what it was told; a list of its own by default.
        starts: Whether it is told of `NodeStarted`.

    Attributes:
        told: The names of the events, in order.
        events: The events of nodes, in order.
    """

    def __init__(
        self,
        answers: Mapping[str, Any] | None = None,
        log: list[str] | None = None,
        *,
        starts: bool = True,
    ) -> None:
        self.answers = dict(answers or {})
        self.told: list[str] = [] if log is None else log
        self.events: list[Event] = []
        self.wants_starts = starts

    def on_start(self, ctx: Any) -> Any:
        """The run begins."""
        self.told.append("start")
        return self._answer("start", ctx, None)

    def handle(self, ctx: Any, event: Event) -> Any:
        """Something happened."""
        self.events.append(event)
        self.told.append(name_of(event))
        return self._answer(name_of(event), ctx, event)

    def on_complete(self, ctx: Any, success: bool) -> Any:
        """The run has ended."""
        self.told.append(f"end {success}")
        return self._answer("end", ctx, None)

    def _answer(self, name: str, ctx: Any, event: Event | None) -> Any:
        answer = self.answers.get(name)
        return answer(ctx, event) if callable(answer) else answer

    def of(self, *kinds: type) -> list[Any]:
        """Return the events of some kinds."""
        return [each for each in self.events if isinstance(each, kinds)]


class AsyncScript(Script):
    """The same, and each answer takes a moment.

    Args:
        answers, log: As for `Script`.
        pause: Seconds before each answer.
    """

    def __init__(
        self,
        answers: Mapping[str, Any] | None = None,
        log: list[str] | None = None,
        *,
        pause: float = 0.001,
    ) -> None:
        super().__init__(answers, log)
        self.pause = pause

    async def on_start(self, ctx: Any) -> Any:
        """The run begins."""
        await asyncio.sleep(self.pause)
        return super().on_start(ctx)

    async def handle(self, ctx: Any, event: Event) -> Any:
        """Something happened."""
        await asyncio.sleep(self.pause)
        return super().handle(ctx, event)

    async def on_complete(self, ctx: Any, success: bool) -> Any:
        """The run has ended."""
        await asyncio.sleep(self.pause)
        return super().on_complete(ctx, success)


class Steered(Workflow):
    """A workflow with actions that later nodes can be of.

    Attributes:
        calls: Ids of nodes in the order of their calls.
        contexts: What the last call of each node was given, by id.
    """

    def __init__(self, name: str = "flow") -> None:
        super().__init__(name)
        self.contexts: dict[str, NodeCtx] = {}
        self.offer("note")

    def offer(self, name: str, answer: Any = None) -> Steered:
        """Register an action that notes its call and then returns, or raises, *answer*.

        It takes any inputs. A function as *answer* is called with the context.
        """

        def body(ctx: NodeCtx, **_inputs: Any) -> Any:
            self.calls.append(ctx.node_id)
            self.contexts[ctx.node_id] = ctx
            found = answer(ctx) if callable(answer) else answer
            if isinstance(found, BaseException):
                raise found
            return found

        self.registry.register(body, name)
        return self

    def add(self, node_id: str, body: Callable[..., Any], **more: Any) -> Steered:
        """Add a node; see `Flow.add`."""
        super().add(node_id, body, **more)
        return self

    def note(self, node_id: str, answer: Any = None, **fields: Any) -> Steered:
        """Add a node that notes its call; see `Workflow.note`."""
        super().note(node_id, answer, **fields)
        return self

    def act(self, name: str, body: Callable[..., Any]) -> Steered:
        """Register a function as an action."""
        self.registry.register(body, name)
        return self


def send(url: str, run_id: str, commands: Iterable[Command]) -> None:
    """Ask a run for commands as another process does."""
    from dagger_dsl.engine.notes import to_json

    with Store(url) as store:
        for command in commands:
            store.send(run_id, to_json(command_to_plain(command)), sender="test")


def reasons(report: RunReport) -> dict[str, str]:
    """Return why each node did not run, where it says so."""
    return {node_id: each.reason for node_id, each in report.node_reports.items() if each.reason}
