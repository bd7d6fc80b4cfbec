"""Hooks around the calls of nodes: what they change, and that cleanups always come."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CancelToken, DagExecutor, RunOptions, action, engine
from dagger_dsl.engine import launch
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NodeTimeout,
    OutputError,
    UnknownInputError,
)
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.events import (
    NodeCompleted,
)
from dagger_dsl.model.lifecycle import KEEP
from dagger_dsl.model.sharing import Context
from dagger_dsl.registry import Registry, as_registry
from tests.engine.helpers import url_of
from tests.engine.lives import Log, both, chain, enter, entries, every_runner, later


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.row("M13")
@pytest.mark.parametrize("body_is_async", [False, True])
@both
@every_runner
@entries
def test_hooks_are_called_once_per_attempt_and_cleanup_once(
    runner: str, entry: str, is_async: bool, body_is_async: bool
) -> None:
    attempts: list[int] = []

    def body(first: int) -> int:
        attempts.append(first)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return first * 10

    log, context = Log(is_async), Context()
    chosen: Any = body
    if body_is_async:

        async def chosen(first: int) -> int:
            return body(first)

    dag = chain(chosen, retry=2, retry_delay=0)
    dag.set_node_hooks("second", **log.hooks())
    assert enter(dag, entry, runner=runner, context=context) == 10
    assert log.calls == [
        ("pre", "second"),
        ("pre", "second"),
        ("pre", "second"),
        ("post", "second"),
        ("cleanup", "second"),
    ]
    assert log.inputs == {"first": 1}
    assert log.results == [10]
    assert log.contexts == {id(context)}
    assert not dag.report.hook_errors


@pytest.mark.row("M14")
@both
@every_runner
def test_what_pre_execute_returns_takes_the_place_of_the_inputs(
    runner: str, is_async: bool
) -> None:
    def document(node: Any, inputs: dict[str, Any], context: Context) -> dict[str, Any]:
        inputs["first"] = inputs["first"] * 100
        return inputs

    dag = chain()
    dag.set_node_hooks("second", pre_execute=later(document) if is_async else document)
    assert dag.run(runner=runner) == 101
    assert dag.get_result("first") == 1

    def change_and_say_nothing(node: Any, inputs: dict[str, Any], context: Context) -> Any:
        inputs["first"] = 7

    for keeps in (lambda n, i, c: None, lambda n, i, c: KEEP, change_and_say_nothing):
        dag.set_node_hooks("second", pre_execute=keeps)
        assert dag.run(runner=runner) == 2


@pytest.mark.row("M14")
@every_runner
@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"frist": 1}, UnknownInputError, "did you mean 'first'"),
        ({"first": 1, "more": 2}, UnknownInputError, "'more'"),
        ({}, MissingInputError, r"no 'first'.*\*\*inputs"),
        ([1], InputValidationError, "by name, or None"),
        ({1: 2}, InputValidationError, "by name, or None"),
        ("first", InputValidationError, "by name"),
        (False, InputValidationError, "by name"),
    ],
)
def test_inputs_that_the_action_does_not_take_fail_the_node_at_once(
    runner: str, given: Any, error: type[Exception], says: str
) -> None:
    dag = chain(retry=3)
    dag.set_node_hooks("second", pre_execute=lambda n, i, c: given)
    with pytest.raises(NodeExecutionError, match=says) as raised:
        dag.run(runner=runner)
    assert type(raised.value.__cause__) is error
    assert raised.value.attempts == 1


def test_changed_inputs_are_checked_against_the_schema_again() -> None:
    dag = chain(input_schema={"properties": {"first": {"maximum": 5}}})
    dag.set_node_hooks("second", pre_execute=lambda n, i, c: {"first": 6})
    with pytest.raises(NodeExecutionError, match="maximum of 5"):
        dag.run()


@pytest.mark.row("M15")
@both
@every_runner
def test_what_post_execute_returns_flows_downstream(runner: str, is_async: bool) -> None:
    def hook(node: Any, inputs: Any, result: int, context: Context) -> Any:
        return result + 40 if answer[0] is ... else answer[0]

    answer: list[Any] = [...]
    dag = chain()
    dag.set_node_hooks("first", post_execute=later(hook) if is_async else hook)
    assert dag.run(runner=runner) == 42
    assert dag.get_result("first") == 41
    for answer[0] in (None, KEEP):
        assert dag.run(runner=runner) == 2


@pytest.mark.row("M15")
@every_runner
def test_a_result_can_be_made_none(runner: str) -> None:
    dag = chain(lambda first: first is None)
    dag.set_node_hooks("first", post_execute=lambda n, i, r, c: NodeOutput(None))
    assert dag.run(runner=runner) is True


def test_a_changed_result_is_checked_and_recorded_as_it_is_then(tmp_path: Path) -> None:
    dag = chain(output_schema={"type": "integer"})
    dag.set_node_hooks("second", post_execute=lambda n, i, r, c: "text")
    with pytest.raises(NodeExecutionError) as raised:
        dag.run()
    assert isinstance(raised.value.__cause__, OutputError)
    dag.set_node_hooks("second", post_execute=lambda n, i, r, c: 99)
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "k"}
    assert [dag.run(**options) for _ in range(2)] == [99, 99]


def test_labels_commands_and_metadata_outlive_a_change_of_the_result() -> None:
    def body(first: int) -> NodeOutput:
        spec = NodeSpec("double", inputs={"x": 21}, id="more")
        return NodeOutput(first, metadata={"why": "so"}, commands=[AddNode(spec)])

    dag = chain(body)
    dag.registry.register(lambda x: 2 * x, "double")
    seen: list[Any] = []

    def note(node: Any, inputs: Any, result: Any, context: Context) -> int:
        seen.append(result)
        return 5

    dag.set_node_hooks("second", post_execute=note)
    dag.run()
    assert seen == [1]
    assert dag.report.outputs == {"second": 5, "more": 42}
    assert dag.report.node_reports["second"].metadata == {"why": "so"}

    dag = DAG("choice")

    @dag.condition
    def check() -> Branch:
        return Branch(True, 1)

    @dag.node
    def yes(value: int) -> int:
        return value

    check.on_true >> yes
    dag.set_node_hooks("check", post_execute=lambda n, i, r, c: r + 1)
    assert dag.run() == 2


@every_runner
def test_a_chosen_failure_and_a_question_have_no_result_to_change(runner: str) -> None:
    called: list[Any] = []
    dag = DAG("flow")

    @dag.node
    def soft() -> NodeOutput:
        return NodeOutput.failure("no")

    @dag.node
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("well?")

    dag.set_default_hooks(post_execute=lambda n, i, r, c: called.append(n.name))
    report = dag.start(runner=runner, error_strategy="continue").result()
    assert report.states() == {"soft": "failed", "ask": "waiting"}
    assert called == []


@pytest.mark.row("M13")
@every_runner
@pytest.mark.parametrize("role", ["pre_execute", "post_execute"])
@both
def test_what_a_hook_raises_fails_the_attempt_and_is_retried(
    runner: str, role: str, is_async: bool
) -> None:
    left = [2]

    def hook(*_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("hook")

    dag = chain(retry=2, retry_delay=0)
    dag.set_node_hooks("second", **{role: later(hook) if is_async else hook})
    assert dag.run(runner=runner) == 2
    assert dag.report.node_reports["second"].attempts == 3
    left[0] = 9
    with pytest.raises(NodeExecutionError, match="hook") as raised:
        dag.run(runner=runner)
    assert isinstance(raised.value.__cause__, ConnectionError)


@pytest.mark.row("M17")
@both
@every_runner
def test_defaults_come_first_before_and_last_after_the_call(runner: str, is_async: bool) -> None:
    own, default = Log(is_async, "own "), Log(is_async, "default ")
    own.calls = default.calls
    dag = chain()
    dag.set_node_hooks("second", **own.hooks())
    dag.set_default_hooks(**default.hooks())
    assert dag.run(runner=runner) == 2
    assert own.calls == [
        ("default pre", "first"),
        ("default post", "first"),
        ("default cleanup", "first"),
        ("default pre", "second"),
        ("own pre", "second"),
        ("own post", "second"),
        ("default post", "second"),
        ("own cleanup", "second"),
        ("default cleanup", "second"),
    ]


@pytest.mark.row("M17")
def test_each_hook_is_given_what_the_one_before_it_made() -> None:
    dag = chain()
    dag.set_default_hooks(post_execute=lambda n, i, r, c: r * 2)
    dag.set_node_hooks(
        "second",
        pre_execute=lambda n, i, c: {"first": i["first"] + 10},
        post_execute=lambda n, i, r, c: r + 1,
    )
    assert dag.run() == ((1 * 2 + 10) + 1 + 1) * 2


def test_the_samples_of_the_document_return_nothing_and_change_nothing() -> None:
    printed: list[str] = []
    dag = chain()
    dag.set_default_hooks(
        pre_execute=lambda n, i, c: printed.append(f"Executing {n.name}"),
        post_execute=lambda n, i, r, c: r,
        cleanup=lambda n, c: None,
    )
    assert dag.run() == 2
    assert printed == ["Executing first", "Executing second"]


def test_hooks_are_replaced_and_taken_away() -> None:
    dag, log = chain(), Log()
    dag.set_node_hooks(dag.nodes["second"], **log.hooks())
    dag.set_node_hooks("second", cleanup=log.cleanup)
    dag.run()
    assert log.calls == [("cleanup", "second")]
    dag.set_node_hooks("second")
    dag.run()
    assert len(log.calls) == 1


def test_wrong_hooks_are_refused_where_they_are_set() -> None:
    dag = chain()
    with pytest.raises(NodeNotFound, match="did you mean 'second'"):
        dag.set_node_hooks("secnd", cleanup=print)
    wrong: Any
    for wrong in (1, "print", lambda: None, lambda node: None, {}):
        with pytest.raises(ConfigurationError, match=r"pre_execute is .*\(node, inputs, context\)"):
            dag.set_node_hooks("second", pre_execute=wrong)
        with pytest.raises(ConfigurationError, match=r"\(node, inputs, result, context\)"):
            dag.set_default_hooks(post_execute=wrong)
    with pytest.raises(ConfigurationError, match=r"cleanup is .*\(node, context\)"):
        dag.set_default_hooks(cleanup=lambda node, context, more: None)
    assert dag.run() == 2


@every_runner
def test_invocations_of_a_mapped_node_have_hooks_of_their_own(runner: str) -> None:
    cleaned: list[str] = []

    @action
    def square(x: int) -> int:
        return x * x

    with DAG("flow") as dag:
        square.map([1, 2, 3])
    dag.set_default_hooks(pre_execute=lambda n, i, c: {"x": i["x"] + 1})
    dag.set_node_hooks(
        "square",
        post_execute=lambda n, i, r, c: -r,
        cleanup=lambda n, c: cleaned.append(n.name),
    )
    assert dag.run(runner=runner) == [-4, -9, -16]
    assert cleaned == ["square"] * 3


@every_runner
def test_nodes_that_come_later_have_the_default_hooks(runner: str) -> None:
    dag, log = chain(), Log()
    dag.registry.register(lambda x: 2 * x, "double")
    dag.set_default_hooks(**log.hooks())

    def grow(ctx: Any, event: Any) -> Any:
        if isinstance(event, NodeCompleted) and event.node.node_id == "second":
            return AddNode(NodeSpec("double", inputs={"x": 4}, id="more"))
        return None

    dag.run(runner=runner, hooks=[grow])
    assert ("pre", "more") in log.calls
    assert ("cleanup", "more") in log.calls


def test_actions_of_every_style_have_hooks() -> None:
    class Object:
        name = "object"

        def execute(self, ctx: NodeCtx) -> Any:
            return ctx.inputs["x"]

    def whole(inputs: dict[str, Any]) -> Any:
        return inputs["x"]

    def legacy(executor: Any, node: Any, cache: Any) -> Any:
        return {"x": cache.get(node.id, "x")}

    def by_place(x: int, /) -> int:
        return x

    def named(*, x: int, ctx: NodeCtx) -> int:
        return x

    dag = DAG("flow")
    for k, body in enumerate((Object(), whole, by_place, named)):
        dag.add(body, id=f"n{k}", x=1)
    dag.set_default_hooks(pre_execute=lambda n, i, c: {"x": i["x"] + 1})
    assert dag.run() == {"n0": 2, "n1": 2, "n2": 2, "n3": 2}


def test_results_that_hooks_change_are_not_shared_with_other_runs() -> None:
    calls: list[int] = []
    dag = DAG("flow")

    @dag.cached_node()
    def costly() -> int:
        calls.append(1)
        return 1

    assert [dag.run(), dag.run()] == [1, 1]
    assert len(calls) == 1
    dag = DAG("flow2")

    @dag.cached_node()
    def changed() -> int:
        calls.append(1)
        return 1

    dag.set_node_hooks("changed", post_execute=lambda n, i, r, c: r + len(calls))
    assert [dag.run(), dag.run()] == [3, 4]


def test_runs_without_hooks_call_functions_as_they_are() -> None:
    dag = chain()
    session = launch._prepare(dag.compile(), dag.registry, None, RunOptions(), None, None)
    assert session.run.lifecycle is None
    assert session.run.board.calls == session.run.plan.calls
    dag.set_node_hooks("second", pre_execute=lambda n, i, c: None)
    session = launch._prepare(dag.compile(), dag.registry, None, RunOptions(), None, None)
    assert session.run.board.calls[0] is session.run.plan.calls[0]
    assert session.run.board.calls[1] is not session.run.plan.calls[1]


# --- cleanup --------------------------------------------------------------------------------------


@pytest.mark.row("M16")
@both
@every_runner
@entries
def test_cleanup_comes_after_success_error_timeout_and_cancel(
    runner: str, entry: str, is_async: bool
) -> None:
    dag, cleaned = DAG("flow"), []

    @dag.node
    def fine() -> int:
        return 1

    @dag.node(retry=1, retry_delay=0)
    def wrong() -> None:
        raise ValueError("no")

    @dag.node(timeout=0.02)
    async def slow() -> None:
        await asyncio.sleep(30)

    @dag.node(timeout=0.02)
    def slow_thread() -> None:
        time.sleep(0.2)

    @dag.node
    def after(wrong: None) -> None: ...

    wrong >> after

    def clean(node: Any, context: Context) -> None:
        cleaned.append(node.name)

    dag.set_default_hooks(cleanup=later(clean) if is_async else clean)
    enter(dag, entry, runner=runner, error_strategy="continue")
    assert sorted(cleaned) == ["fine", "slow", "slow_thread", "wrong"], "each once"
    assert dag.report.states()["after"] == "skipped"
    assert type(dag.report.node_reports["slow"].exception) is NodeTimeout


@pytest.mark.row("M16")
@both
@every_runner
def test_cleanup_comes_after_a_cancelled_run(runner: str, is_async: bool) -> None:
    dag, token = DAG("flow"), CancelToken()
    cleaned: list[str] = []

    @dag.node
    async def forever() -> None:
        token.cancel("enough")
        await asyncio.sleep(60)

    @dag.node
    def never(forever: None) -> None: ...

    forever >> never

    def clean(node: Any, context: Context) -> None:
        cleaned.append(node.name)

    dag.set_default_hooks(cleanup=later(clean) if is_async else clean)
    report = dag.start(runner=runner, cancel=token).result()
    assert report.status == "cancelled"
    assert cleaned == ["forever"]


def test_cleanup_comes_before_what_depends_on_the_node_starts() -> None:
    dag, order = chain(lambda first: order.append("second")), []
    dag.set_node_hooks("first", cleanup=lambda n, c: order.append("cleanup"))
    dag.run()
    assert order == ["cleanup", "second"]


@every_runner
def test_plain_functions_may_return_what_has_to_be_awaited(runner: str) -> None:
    dag, log = chain(), Log(is_async=True)
    hooks = log.hooks()
    dag.set_default_hooks(
        pre_execute=lambda n, i, c: hooks["pre_execute"](n, i, c),
        post_execute=lambda n, i, r, c: hooks["post_execute"](n, i, r, c),
        cleanup=lambda n, c: hooks["cleanup"](n, c),
    )
    assert dag.run(runner=runner) == 2
    assert asyncio.run(dag.run_async(runner=runner)) == 2
    assert len(log.calls) == 12


@every_runner
@both
def test_what_cleanups_raise_is_kept_and_changes_nothing(runner: str, is_async: bool) -> None:
    def fail(node: Any, context: Context) -> None:
        raise KeyError(node.name)

    dag, log = chain(), Log()
    dag.set_node_hooks("first", cleanup=later(fail) if is_async else fail)
    dag.set_default_hooks(cleanup=log.cleanup)
    assert dag.run(runner=runner) == 2
    assert log.calls == [("cleanup", "first"), ("cleanup", "second")]
    (error,) = dag.report.hook_errors
    assert error.args == ("first",)
    dag.set_default_hooks(cleanup=fail)
    dag.run(runner=runner)
    group, alone = dag.report.hook_errors
    assert isinstance(group, ExceptionGroup)
    assert len(group.exceptions) == 2
    assert alone.args == ("second",)


def test_a_node_that_took_a_result_of_another_run_has_nothing_to_clean_up() -> None:
    dag, log = DAG("flow"), Log()

    @dag.cached_node()
    def costly() -> int:
        return 1

    dag.set_default_hooks(**log.hooks())
    dag.run()
    before = list(log.calls)
    assert before == [("pre", "costly"), ("post", "costly"), ("cleanup", "costly")]
    assert dag.run() == 1
    assert log.calls == before


# --- resume ---------------------------------------------------------------------------------------


def test_a_run_that_goes_on_elsewhere_has_the_hooks_and_handlers_of_its_file(
    tmp_path: Path,
) -> None:
    broken = [True]

    def file() -> types.ModuleType:
        """Return what importing the file with the DAG gives."""
        module = types.ModuleType("flows")
        dag = chain(lambda first: 1 / 0 if broken[0] else first)
        dag.set_node_hooks("second", post_execute=lambda n, i, r, c: r + 6)
        dag.set_default_hooks(cleanup=lambda n, c: cleaned.append(n.name))
        dag.set_node_error_handler("second", lambda n, i, e: None if broken[0] else 0)
        module.dag = dag  # type: ignore[attr-defined]
        return module

    cleaned: list[str] = []
    url = url_of(tmp_path)
    report = file().dag.start(database_url=url).result()
    assert report.states()["second"] == "failed"
    assert cleaned == ["first", "second"]
    broken[0] = False
    with Registry():
        elsewhere = as_registry(file())
        again = engine.resume(report.run_id, elsewhere, RunOptions(database_url=url))
    assert again.outputs == {"second": 7}
    assert cleaned == ["first", "second", "second"]


def test_an_executor_has_the_hooks_of_the_dags_it_was_given() -> None:
    dag, log = chain(), Log()
    dag.set_node_hooks("second", **log.hooks())
    with DagExecutor(registry={}) as executor:
        executor.add(dag)
        assert executor.run("flow").outputs == {"second": 2}
    assert log.calls == [("pre", "second"), ("post", "second"), ("cleanup", "second")]
