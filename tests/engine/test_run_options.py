"""Every option of a run, by every way to run a DAG and a state machine: it acts, or is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl import DAG, CancelToken, DagExecutor
from dagger_dsl.errors import ConfigurationError, DaggerError
from dagger_dsl.fsm import FSM, FSMContext, Next
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.resources import ResourceTracker, Ticket
from dagger_dsl.model.sharing import Context
from dagger_dsl.registry import Registry

FIELDS = [each.name for each in attrs.fields(RunOptions) if not each.name.startswith("_")]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


class Seen:
    """What the bodies of a flow of two nodes, ``a`` and ``b``, have seen.

    Attributes:
        kind: ``dag`` or ``fsm``.
        flow: It.
        stored: The options that have a run of the flow recorded, by the way it is run.
    """

    def __init__(self, kind: str, url: str | None) -> None:
        self.kind = kind
        self.stored: dict[str, Any] = {} if url is None else {"database_url": url}
        self.calls: list[str] = []
        self.ctx: Any = None
        self.context: Any = None
        self.threads: set[int] = set()
        self.told: list[Any] = []
        self.fails = self.waits = False
        self.flow: Any = self._dag() if kind == "dag" else self._machine()

    def first(self, ctx: NodeCtx, context: Context) -> None:
        """Be the body of ``a``."""
        self.calls.append("a")
        self.ctx, self.context = ctx, context
        self.threads.add(threading.get_ident())
        if self.fails:
            raise ZeroDivisionError("no")
        until = time.monotonic() + 10
        while self.waits and not ctx.cancelled and time.monotonic() < until:
            time.sleep(0.005)

    def _dag(self) -> DAG:
        dag = DAG("flow")

        @dag.node
        def a(ctx: NodeCtx, context: Context) -> int:
            self.first(ctx, context)
            return 1

        @dag.node
        def b(a: int) -> int:
            self.calls.append("b")
            return a + 1

        dag.connect("a", "b")
        return dag

    def _machine(self) -> FSM:
        fsm = FSM("flow")

        @fsm.state(initial=True)
        def a(ctx: NodeCtx, context: FSMContext) -> Any:
            self.first(ctx, context)
            return Next("b", {"value": 1})

        @fsm.state(terminal=True)
        def b(value: int) -> int:
            self.calls.append("b")
            return value + 1

        return fsm


# --- the ways to run ------------------------------------------------------------------------------


def _report(seen: Seen, run: Callable[[], Any]) -> Any:
    """Return the report of a run, also of one that raised; what began no run is raised."""
    before = seen.flow.report
    try:
        run()
    except DaggerError:
        if seen.flow.report is before:
            raise
    return seen.flow.report


def _executor(seen: Seen, run: Callable[[DagExecutor], Any]) -> Any:
    with DagExecutor(registry=seen.flow.registry) as executor:
        return run(executor)


ENTRIES: dict[str, Callable[[Seen, dict[str, Any]], Any]] = {
    "run": lambda seen, options: _report(seen, lambda: seen.flow.run(**options)),
    "run_async": lambda seen, options: _report(
        seen, lambda: asyncio.run(seen.flow.run_async(**options))
    ),
    "start": lambda seen, options: seen.flow.start(**options).result(30),
    "executor": lambda seen, options: _executor(seen, lambda by: by.run(seen.flow, **options)),
    "executor async": lambda seen, options: _executor(
        seen, lambda by: asyncio.run(by.run_async(seen.flow, **options))
    ),
    "executor start": lambda seen, options: _executor(
        seen, lambda by: by.start(seen.flow, **options).result(30)
    ),
}


class _Noting(ResourceTracker):
    """Notes who asks for room."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__(task_limit=1)
        self._told = told

    def ask(self, what: str, *rest: Any) -> Ticket:
        self._told.append(what.partition("[")[0])
        return super().ask(what, *rest)


# --- the options ----------------------------------------------------------------------------------


@attrs.frozen
class Case:
    """One option.

    Attributes:
        options: Returns it with a value, and what it needs beside.
        acts: Whether it has done what it says, asked of the report and of what was seen.
        prepare: Readies the flow.
    """

    options: Callable[[Seen], dict[str, Any]]
    acts: Callable[[Any, Seen], Any] = lambda report, seen: report.success
    prepare: Callable[[Seen], Any] = lambda seen: None


def _fails(seen: Seen) -> None:
    seen.fails = True


def _waits(seen: Seen) -> None:
    seen.waits = True


def _cancelled(_: Seen) -> dict[str, Any]:
    token = CancelToken()
    token.cancel("enough")
    return {"cancel": token}


def _watched(seen: Seen) -> dict[str, Any]:
    return {"hooks": [lambda ctx, event: seen.told.append(event)]}


def _context(seen: Seen) -> dict[str, Any]:
    kind = Context if seen.kind == "dag" else FSMContext
    return {"context": kind(metadata={"mark": 7})}


def _handled(seen: Seen) -> dict[str, Any]:
    def handler(*given: Any) -> str:
        seen.told.append(given)
        return "continue"

    return {"error_handler": handler}


def _ran_before(seen: Seen) -> None:
    if seen.kind == "dag":
        seen.flow.run()
        seen.calls.clear()


CASES: dict[str, Case] = {
    "runner": Case(
        lambda seen: {"runner": "threads"},
        lambda report, seen: threading.get_ident() not in seen.threads,
    ),
    "max_workers": Case(
        lambda seen: {"runner": "threads", "max_workers": 3},
        lambda report, seen: report.workers == 3,
    ),
    "timeout": Case(
        lambda seen: {"runner": "threads", "timeout": 0.1},
        lambda report, seen: report.status == "timed_out",
        _waits,
    ),
    "database_url": Case(
        lambda seen: dict(seen.stored) or {"database_url": "sqlite::memory:"},
        lambda report, seen: report.database_url == seen.stored["database_url"],
    ),
    "durability": Case(lambda seen: {"durability": "exit", **seen.stored}),
    "run_id": Case(
        lambda seen: {"run_id": "mine"},
        lambda report, seen: report.run_id == seen.ctx.run_id == "mine",
    ),
    "idempotency_key": Case(lambda seen: {"idempotency_key": "key", **seen.stored}),
    "hooks": Case(_watched, lambda report, seen: seen.told),
    "app_data": Case(
        lambda seen: {"app_data": "mine"}, lambda report, seen: seen.ctx.app_data == "mine"
    ),
    "context": Case(_context, lambda report, seen: seen.context.metadata["mark"] == 7),
    "cancel": Case(_cancelled, lambda report, seen: report.status == "cancelled"),
    "progress": Case(
        lambda seen: {"progress": lambda *given: seen.told.append(given)},
        lambda report, seen: ("b", "completed", 1.0) in seen.told,
    ),
    "event_capacity": Case(lambda seen: {"event_capacity": 7}),
    "command_capacity": Case(lambda seen: {"command_capacity": 7}),
    "config": Case(
        lambda seen: {"config": {"max_attempts": 3, "retry_strategy": "immediate"}},
        lambda report, seen: seen.calls == ["a"] * 3,
        _fails,
    ),
    "on_change": Case(lambda seen: {"on_change": "fail"}),
    "start_at": Case(
        lambda seen: {"start_at": "b", "reuse": seen.flow.report},
        lambda report, seen: seen.calls == ["b"],
        _ran_before,
    ),
    "stop_at": Case(lambda seen: {"stop_at": "a"}, lambda report, seen: seen.calls == ["a"]),
    "reuse": Case(
        lambda seen: {"start_at": "b", "reuse": seen.flow.report},
        lambda report, seen: report.node_reports["a"].restored,
        _ran_before,
    ),
    "track_memory": Case(
        lambda seen: {"track_memory": True},
        lambda report, seen: "memory_usage" in seen.context.metrics,
    ),
    "error_strategy": Case(
        lambda seen: {"error_strategy": "continue"},
        lambda report, seen: seen.context.metadata["errors"][0]["node"] == "a",
        _fails,
    ),
    "error_handler": Case(
        _handled,
        lambda report, seen: len(seen.told) == 1 and seen.told[0][0] == "a",
        _fails,
    ),
    "max_cycles": Case(lambda seen: {"max_cycles": 1}, lambda report, seen: seen.calls == ["a"]),
    "profile": Case(
        lambda seen: {"profile": ["a"]}, lambda report, seen: report.profile("a").calls == 1
    ),
    "trace": Case(lambda seen: {"trace": True}),
    "resources": Case(
        lambda seen: {"resources": _Noting(seen.told)},
        lambda report, seen: seen.told == ["node 'a'", "node 'b'"],
    ),
}

#: What some of them are refused with: by option, by kind of flow (or ``executor``).
REFUSED = {
    ("start_at", "fsm"): "is a state machine, which has no parts",
    ("stop_at", "fsm"): "is a state machine, which has no parts",
    ("reuse", "fsm"): "is a state machine, which has no parts",
    ("max_cycles", "dag"): "limits the cycles of a state machine",
    ("database_url", "executor"): "an executor records all of its runs in one database",
}


def test_there_is_a_case_for_every_option() -> None:
    assert sorted(CASES) == sorted(FIELDS)


@pytest.mark.parametrize("kind", ["dag", "fsm"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", FIELDS)
def test_every_option_acts_or_is_refused(name: str, entry: str, kind: str, tmp_path: Path) -> None:
    if name == "trace":
        pytest.importorskip("opentelemetry.trace")
    by_executor = entry.startswith("executor")
    seen = Seen(kind, None if by_executor else f"sqlite:///{tmp_path / 'runs.db'}")
    case = CASES[name]
    case.prepare(seen)
    options = case.options(seen)
    if kind == "fsm" and name == "reuse":
        options["reuse"] = "an earlier run"
        options |= seen.stored
    why = REFUSED.get((name, kind)) or (by_executor and REFUSED.get((name, "executor")))
    if why:
        with pytest.raises(ConfigurationError, match=why):
            ENTRIES[entry](seen, options)
        assert seen.calls == []
        return
    report = ENTRIES[entry](seen, options)
    assert case.acts(report, seen)
    given = getattr(RunOptions.of(options), name)
    if not callable(given):
        assert getattr(report._run.options, name) == given


@pytest.mark.parametrize("kind", ["dag", "fsm"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", FIELDS)
def test_a_misspelt_option_is_suggested(name: str, entry: str, kind: str) -> None:
    seen = Seen(kind, None)
    misspelt = name[:-2] + name[-1] + name[-2] if name[-1] != name[-2] else name[:-1]
    with pytest.raises(DaggerError, match=f"did you mean '{name}'"):
        ENTRIES[entry](seen, {misspelt: None})
    assert seen.calls == []
