"""What the tests of the engine share: workflows with labels, and runs under a clock of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import attrs

from dagger_dsl import engine
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.hooks import bind_hooks
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.watch import Observers
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Edge, Graph
from dagger_dsl.model.policies import RetryPolicy, RetryStrategy
from dagger_dsl.runners.base import labour
from dagger_dsl.testing import FakeClock
from tests.runners.helpers import RUNNERS, Flow

__all__ = [
    "IMMEDIATE",
    "RUNNERS",
    "Answers",
    "Clocked",
    "Workflow",
    "boom",
    "returns",
    "states",
    "url_of",
]

IMMEDIATE: RetryPolicy = RetryStrategy.IMMEDIATE


def boom() -> None:
    """Fail."""
    raise ValueError("boom")


def returns(value: Any) -> Callable[[], Any]:
    """Return a function that returns *value*."""

    def body() -> Any:
        return value

    return body


def states(report: RunReport) -> dict[str, str]:
    """Return the state of each node as text."""
    return {node_id: str(state) for node_id, state in report.states().items()}


class Workflow(Flow):
    """A graph made node by node, with labelled edges, and the ways to run it.

    Attributes:
        calls: Names of nodes in the order of their calls, for bodies made by `note`.
    """

    def __init__(self, name: str = "flow") -> None:
        super().__init__(name)
        self.edges: list[Edge] = []
        self.calls: list[str] = []

    def add(self, node_id: str, body: Callable[..., Any], **more: Any) -> Workflow:
        """Add a node; see `Flow.add`."""
        super().add(node_id, body, **more)
        return self

    def note(self, node_id: str, answer: Any = None, **fields: Any) -> Workflow:
        """Add a node that notes its call and then returns, or raises, *answer*.

        Args:
            node_id: Its id.
            answer: A value, an exception, or a list of these for one attempt after the other.
            **fields: As `add` takes them.
        """
        answers = list(answer) if isinstance(answer, Answers) else None

        def body(**_inputs: Any) -> Any:
            self.calls.append(node_id)
            found = answers.pop(0) if answers is not None else answer
            if isinstance(found, BaseException):
                raise found
            return found

        self.add(node_id, body, **fields)
        return self

    def when(self, source: str, label: str, target: str) -> Workflow:
        """Let *target* run only for one label of *source*."""
        self.edges.append(Edge(source, target, label))
        return self

    def graph(self, **fields: Any) -> Graph:
        """Return the graph as it is now."""
        return Graph(self.name, self.nodes, self.edges, **fields)

    def resume(
        self,
        run_id: str,
        url: str,
        *,
        runner: str = "sequential",
        inputs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> RunReport:
        """Go on with a recorded run."""
        settings = DagConfig(**config) if config else None
        chosen = RunOptions(runner=runner, database_url=url, config=settings, **options)
        return engine.resume(run_id, self.registry, chosen, inputs)


class Answers(list[Any]):
    """What a body answers to one call after the other."""


def url_of(folder: Path) -> str:
    """Return the URL of a database in *folder*."""
    return f"sqlite:{folder / 'runs.db'}"


@attrs.define
class Clocked:
    """One run in this thread under a clock of ours; waiting moves the clock.

    Attributes:
        workflow: What is run.
        clock: Bodies may move it.
        journal: Where it is recorded.
        hooks: What sees its events.
        waits: How long the worker waited, each time.
    """

    workflow: Workflow
    config: DagConfig = attrs.field(factory=DagConfig)
    clock: FakeClock = attrs.field(factory=FakeClock)
    journal: Any = None
    hooks: Sequence[Any] = ()
    token: CancelToken = attrs.field(factory=CancelToken)
    waits: list[float] = attrs.field(factory=list)

    def run(self) -> RunReport:
        """Run to the end and return the report."""
        graph = self.workflow.graph()
        plan = compile_plan(graph, self.workflow.registry.get)
        run = Run(
            plan=plan,
            run_id="clocked",
            options=RunOptions(),
            config=self.config,
            inputs={},
            token=self.token,
            registry=self.workflow.registry,
            slots=1,
            clock=self.clock,
            journal=self.journal,
        )
        run.began = self.clock()
        if self.config.timeout_seconds is not None:
            run.deadline = run.began + self.config.timeout_seconds
        hooks = bind_hooks(self.hooks, self.workflow.registry, graph.name)
        observers = Observers(run, hooks, None) if hooks else None
        coordinator = Coordinator(run, observers)
        self.token.subscribe(coordinator.stop)
        board = run.board

        def idle() -> bool:
            assert board.wake_at < inf, "nothing will ever happen"
            self.waits.append(round(board.wake_at - self.clock(), 6))
            self.clock.advance(max(0.0, board.wake_at - self.clock()))
            return True

        def special(slot: int) -> bool:
            raise AssertionError(f"slot {slot} has a limit or is async")

        labour(board, coordinator.step, idle, special)
        if coordinator.error is not None:
            raise coordinator.error
        return run.report()
