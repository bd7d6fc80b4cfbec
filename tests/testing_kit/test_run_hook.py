"""`run_hook`: a hook is called as a run would call it, and gives back its commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dagger_dsl import Graph, NodeSpec, Registry
from dagger_dsl.dsl.hooks import hook
from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.commands import AddNode, CancelBranch, Command, EmitEvent
from dagger_dsl.model.context import HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCompleted,
    NodeFailed,
    RunFinished,
    RunStarted,
)
from dagger_dsl.testing import make_hook_ctx, run_hook

NODE = NodeRef("r1", "sales", "analyze_eu")
COMPLETED = NodeCompleted(NODE, NodeOutcome(True, {"score": 0.9}))
FAILED = NodeFailed(NODE, ValueError("no"))


def plan(ctx: HookContext, event: Event) -> Command | None:
    """What the documents write for growth."""
    if not isinstance(event, NodeCompleted) or event.outcome.outputs["score"] <= 0.8:
        return None
    node_id = event.node.node_id
    spec = NodeSpec("deep_analysis", f"dynamic_{node_id}", deps=[node_id])
    return AddNode(spec, dag_name=ctx.dag_name)


@pytest.mark.row("B48", "B15")
def test_a_function_is_called_and_its_commands_come_back() -> None:
    (command,) = run_hook(plan, COMPLETED)
    assert isinstance(command, AddNode)
    assert (command.spec.id, command.dag_name) == ("dynamic_analyze_eu", "sales")
    assert run_hook(plan, FAILED) == ()


@pytest.mark.row("B48")
def test_filters_are_respected() -> None:
    chosen = hook(on=NodeCompleted, nodes="analyze_*", dag="sales", register=False)(plan)
    assert len(run_hook(chosen, COMPLETED)) == 1
    other = NodeCompleted(NodeRef("r1", "sales", "load"), COMPLETED.outcome)
    assert run_hook(chosen, other) == ()
    assert run_hook(chosen, COMPLETED, dag_name="other") == ()


@pytest.mark.row("B48", "B18")
def test_the_context_is_that_of_the_event_and_what_is_given() -> None:
    seen: list[HookContext] = []

    def look(ctx: HookContext, event: Event) -> None:
        seen.append(ctx)

    graph = Graph("sales")
    run_hook(look, COMPLETED, app_data=3, cache={"a": {"result": 5}}, graph=graph)
    run_hook(look, CustomEvent("r2", "hello"))
    own = make_hook_ctx(run_id="mine", dag_name="d")
    run_hook(look, COMPLETED, ctx=own)
    first, second, third = seen
    assert (first.run_id, first.dag_name, first.app_data) == ("r1", "sales", 3)
    assert first.graph is graph
    assert first.cache.get("a", "result") == 5
    assert first.cache.get("a", "other", 1) == 1
    assert (second.run_id, second.dag_name, second.graph) == ("r2", "dag", None)
    assert third is own
    with pytest.raises(ConfigurationError, match=r"ctx= or what one is made of \(run_id\)"):
        run_hook(look, COMPLETED, ctx=own, run_id="r")


class Steering(EventHook):
    """Answers everything."""

    def on_start(self, ctx: HookContext) -> Command:
        return EmitEvent("start", ctx.run_id)

    def handle(self, ctx: HookContext, event: Event) -> Iterator[Command]:
        yield EmitEvent("event")
        yield CancelBranch("x")

    async def on_complete(self, ctx: HookContext, success: bool) -> list[Command]:
        return [EmitEvent("end", success)]


@pytest.mark.row("B15", "B16", "B17")
def test_the_start_and_the_end_go_to_the_methods_of_an_object() -> None:
    assert run_hook(Steering()) == (EmitEvent("start", "run_test"),)
    assert run_hook(Steering(), RunStarted("r5", "d")) == (EmitEvent("start", "r5"),)
    assert run_hook(Steering(), COMPLETED) == (EmitEvent("event"), CancelBranch("x"))
    ended = RunFinished("r", "d", "failed", False)
    assert run_hook(Steering(), ended) == (EmitEvent("end", False),)


@pytest.mark.row("B16", "B17")
def test_the_start_and_the_end_go_to_functions_that_ask_for_them() -> None:
    def note(ctx: HookContext, event: Any) -> Command:
        return EmitEvent(type(event).__name__)

    asking = hook(on=(RunStarted, RunFinished), register=False)(note)
    ended = RunFinished("r", "d", "completed", True)
    assert run_hook(asking) == (EmitEvent("RunStarted"),)
    assert run_hook(asking, ended) == (EmitEvent("RunFinished"),)
    assert run_hook(asking, COMPLETED) == ()
    assert run_hook(note) == run_hook(note, ended) == ()
    assert run_hook(note, COMPLETED) == (EmitEvent("NodeCompleted"),)


async def slowly(ctx: HookContext, event: Event) -> Command:
    await asyncio.sleep(0)
    return EmitEvent("slow")


async def one_by_one(ctx: HookContext, event: Event) -> AsyncIterator[Command]:
    for name in "ab":
        await asyncio.sleep(0)
        yield EmitEvent(name)


@pytest.mark.row("B48")
def test_async_hooks_are_awaited_inside_a_running_loop_too() -> None:
    async def inside() -> Any:
        return run_hook(slowly, COMPLETED), run_hook(one_by_one, COMPLETED)

    expected = ((EmitEvent("slow"),), (EmitEvent("a"), EmitEvent("b")))
    assert asyncio.run(inside()) == expected
    assert (run_hook(slowly, COMPLETED), run_hook(one_by_one, COMPLETED)) == expected


def test_a_sync_hook_is_not_called_inside_a_loop() -> None:
    def uses_its_own(ctx: HookContext, event: Event) -> Command:
        return asyncio.run(slowly(ctx, event))

    assert run_hook(uses_its_own, COMPLETED) == (EmitEvent("slow"),)


def test_registered_hooks_can_be_named_and_no_other_is_called() -> None:
    with Registry():
        hook(plan)
        hook(slowly)
        assert run_hook("slowly", COMPLETED) == (EmitEvent("slow"),)
        with pytest.raises(ConfigurationError, match=r"no hook 'pla' .*did you mean 'plan'"):
            run_hook("pla", COMPLETED)


def test_what_a_hook_raises_is_raised() -> None:
    def broken(ctx: HookContext, event: Event) -> Iterator[Command]:
        yield CancelBranch("x")
        raise ZeroDivisionError

    async def broken_too(ctx: HookContext, event: Event) -> None:
        raise ZeroDivisionError

    for each in (broken, broken_too):
        with pytest.raises(ZeroDivisionError):
            run_hook(each, COMPLETED)


def test_answers_that_are_no_commands_are_refused() -> None:
    wrong = hook(lambda ctx, event: 3, name="watch", register=False)
    with pytest.raises(ConfigurationError, match="hook 'watch' returned 3; expected are None"):
        run_hook(wrong, COMPLETED)


@pytest.mark.parametrize("wrong", [{"event": 5}, {"event": RunStarted}, {"ctx": 5}])
def test_what_is_no_event_or_no_context_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"run_hook: (event|ctx) is "):
        run_hook(lambda ctx, event: None, **wrong)
