"""What a run does after a failure: ``error_strategy=`` and ``error_handler=``."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CancelToken, DagExecutor, RunOptions, action, engine
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionError,
    ExecutionTimeout,
    MapError,
    NodeExecutionError,
    NodeFailure,
    NodeTimeout,
    RunCancelled,
    TokenBudgetExceeded,
)
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.sharing import Context
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock, play
from tests.engine.helpers import RUNNERS, states, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def enter(dag: DAG, entry: str, **options: Any) -> Any:
    """Run a DAG by one of its entries and return what it gives."""
    if entry == "run":
        return dag.run(**options)

    async def wait() -> Any:
        return dag.run(**options) if entry == "in a loop" else await dag.run_async(**options)

    return asyncio.run(wait())


entries = pytest.mark.parametrize("entry", ["run", "run_async", "in a loop"])


def two_branches(**options: Any) -> DAG:
    """Return a DAG of a failing branch, ``bad >> after``, and one that is well, ``good >> end``."""
    dag = DAG("flow")

    @dag.node(**options)
    def bad() -> int:
        raise ZeroDivisionError("no")

    @dag.node
    def after(bad: int) -> int:
        return bad

    @dag.node
    def good() -> int:
        return 1

    @dag.node
    def end(good: int) -> int:
        return good + 1

    bad >> after
    good >> end
    return dag


def answering(answer: Any) -> Callable[..., Any]:
    def handler(node_name: str, error: BaseException, context: Context) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return handler


# --- strategies -----------------------------------------------------------------------------------


@pytest.mark.row("H19")
@every_runner
@entries
def test_continue_finishes_the_other_branches_and_raises_nothing(runner: str, entry: str) -> None:
    dag, context = two_branches(), Context()
    before = time.time()
    value = enter(dag, entry, runner=runner, context=context, error_strategy="continue")
    assert value == {"end": 2}
    assert states(dag.report) == {
        "bad": "failed",
        "after": "skipped",
        "good": "completed",
        "end": "completed",
    }
    assert dag.report.status == "failed"
    assert dag.report.continued
    (noted,) = context.metadata["errors"]
    assert noted.pop("timestamp") >= before
    assert noted == {"node": "bad", "error": "no", "type": "ZeroDivisionError", "attempts": 1}
    assert list(dag.report.errors) == ["bad"]
    assert dag.report.errors["bad"].message == "no"
    with pytest.raises(NodeExecutionError):
        dag.report.raise_for_failure()


@pytest.mark.row("H20")
@every_runner
@entries
@pytest.mark.parametrize("strategy", [None, "fail_fast", "stop"])
def test_fail_fast_is_the_default_and_raises_the_first_error(
    runner: str, entry: str, strategy: str | None
) -> None:
    dag = two_branches()
    dag.nodes["good"].after(dag.nodes["bad"])
    with pytest.raises(NodeExecutionError, match="bad") as raised:
        enter(dag, entry, runner=runner, error_strategy=strategy)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert dag.report.states()["good"] in ("cancelled", "skipped")


@pytest.mark.row("H20")
def test_an_unknown_strategy_is_refused_before_anything_runs() -> None:
    dag = DAG("flow")
    called: list[int] = []
    dag.node(id="only", name="only")(lambda: called.append(1))
    with pytest.raises(ConfigurationError, match="did you mean 'continue'"):
        dag.run(error_strategy="contineu")
    wrong: Any
    for wrong in (1, True, "", [], b"stop", "x" * 10_000):
        with pytest.raises(ConfigurationError, match="'fail_fast' or 'continue'"):
            dag.run(error_strategy=wrong)
    with pytest.raises(ConfigurationError, match="did you mean 'error_strategy'"):
        dag.run(error_strategie="continue")
    assert not called


@every_runner
def test_a_single_sink_that_did_not_complete_gives_none(runner: str) -> None:
    dag = two_branches()
    dag.nodes["end"] >> dag.nodes["after"]
    assert dag.run(runner=runner, error_strategy="continue") is None


@every_runner
def test_a_strategy_stands_in_for_the_configuration(runner: str) -> None:
    goes_on = {"on_failure": "continue"}
    dag = two_branches()
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, config=goes_on)
    assert not dag.report.continued, "the configuration alone does not keep `run` from raising"
    assert dag.run(runner=runner, config={"on_failure": "stop"}, error_strategy="continue")
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, config=goes_on, error_strategy="fail_fast", max_workers=1)


@every_runner
def test_a_node_that_says_on_failure_itself_keeps_to_it(runner: str) -> None:
    dag = two_branches(on_failure="stop")
    with pytest.raises(NodeExecutionError, match="bad"):
        dag.run(runner=runner, error_strategy="continue")
    dag = two_branches(on_failure="continue")
    with pytest.raises(NodeExecutionError, match="bad"):
        dag.run(runner=runner, error_strategy="fail_fast")
    assert dag.report.states()["end"] == "completed"


@every_runner
def test_what_was_not_continued_is_raised_although_it_came_second(runner: str) -> None:
    dag = two_branches()

    @dag.node(on_failure="stop")
    def worse() -> None:
        raise KeyError("worse")

    worse.node.after(dag.nodes["end"])
    context = Context()
    with pytest.raises(NodeExecutionError, match="worse"):
        dag.run(runner=runner, error_strategy="continue", context=context)
    assert [each["node"] for each in context.metadata["errors"]] == ["bad"]
    assert list(dag.report.errors) == ["bad", "worse"]


def test_a_recovered_node_is_no_failure() -> None:
    context = Context()
    dag = two_branches(fallback=action(lambda: 5, name="five"))
    assert dag.run(error_strategy="continue", context=context) == {"after": 5, "end": 2}
    assert "errors" not in context.metadata


def test_metadata_that_somebody_else_keeps_there_is_left_alone() -> None:
    context = Context(metadata={"errors": "mine"})
    assert two_branches().run(error_strategy="continue", context=context) == {"end": 2}
    assert context.metadata["errors"] == "mine"


def test_an_executor_and_a_handle_take_them_too(tmp_path: Path) -> None:
    dag = two_branches()
    with DagExecutor(registry={}) as executor:
        executor.add(dag)
        report = executor.run("flow", error_strategy="continue")
        assert report.continued
        assert report.outputs == {"end": 2}
        report = executor.run("flow", error_handler=answering("stop"))
        assert not report.continued
    report = dag.start(error_strategy="continue").result()
    assert report.outputs == {"end": 2}


def test_a_recorded_run_says_what_it_was_let_go_on_after(tmp_path: Path) -> None:
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "once"}
    dag = two_branches()
    for _ in range(2):  # the second one is shown the first
        assert dag.run(error_strategy="continue", **options) == {"end": 2}
        assert dag.report.continued


# --- handlers -------------------------------------------------------------------------------------


@pytest.mark.row("H21")
@pytest.mark.parametrize("is_async", [False, True])
@every_runner
@entries
def test_a_handler_decides_each_time_and_is_called_once_for_each_final_failure(
    runner: str, entry: str, is_async: bool
) -> None:
    dag, context = DAG("flow"), Context()
    asked: list[Any] = []

    @dag.node(retry=2, retry_delay=0)
    def first() -> None:
        raise ValueError("first")

    @dag.node(trigger="done")
    def second() -> None:
        raise KeyError("second")

    second.node.after(first)

    def handler(node_name: str, error: BaseException, context: Context) -> str:
        asked.append((node_name, type(error), context))
        return "stop" if isinstance(error, KeyError) else "continue"

    async def handler_async(node_name: str, error: BaseException, context: Context) -> str:
        await asyncio.sleep(0.001)
        return handler(node_name, error, context)

    chosen = handler_async if is_async else handler
    with pytest.raises(NodeExecutionError, match="second"):
        enter(dag, entry, runner=runner, error_handler=chosen, context=context)
    assert sorted(asked, key=lambda each: each[0]) == [
        ("first", ValueError, context),
        ("second", KeyError, context),
    ]
    assert [each["node"] for each in context.metadata["errors"]] == ["first"]
    assert context.metadata["errors"][0]["attempts"] == 3


@pytest.mark.row("H21")
@every_runner
def test_a_handler_decides_over_every_on_failure(runner: str) -> None:
    for own in ("stop", "pause", "continue"):
        dag = two_branches(on_failure=own)
        assert dag.run(runner=runner, error_handler=answering("continue")) == {"end": 2}
        with pytest.raises(NodeExecutionError):
            dag.run(runner=runner, error_handler=answering("stop"))


@pytest.mark.row("H21")
@every_runner
@entries
@pytest.mark.parametrize("answer", [None, True, "", "go on", "CONTINUE", 3, ["stop"], object()])
def test_any_other_answer_ends_the_run_with_an_error_that_says_so(
    runner: str, entry: str, answer: Any
) -> None:
    dag = two_branches()
    with pytest.raises(ConfigurationError, match=r"'stop' or 'continue', and for node 'bad'"):
        enter(dag, entry, runner=runner, error_handler=answering(answer))
    assert dag.report.states()["bad"] == "failed"
    assert dag.report.status == "failed"


@every_runner
def test_what_a_handler_raises_ends_the_run(runner: str) -> None:
    dag = two_branches()
    with pytest.raises(ExecutionError, match=r"error_handler failed .* 'bad': KeyError") as raised:
        dag.run(runner=runner, error_handler=answering(KeyError("mine")))
    assert isinstance(raised.value.__cause__, KeyError)
    assert dag.report.states()["after"] in ("cancelled", "skipped")


def test_a_bad_answer_is_raised_although_an_earlier_failure_was_continued() -> None:
    dag = DAG("flow")
    for name in ("a", "b"):
        dag.node(id=name, name=name)(lambda: 1 / 0)
    answers = iter(("continue", "perhaps"))
    with pytest.raises(ConfigurationError, match="perhaps"):
        dag.run(error_handler=lambda node, error, context: next(answers))


def test_a_handler_that_cannot_be_called_is_refused_before_anything_runs() -> None:
    dag = two_branches()
    wrong: Any
    for wrong in (1, "handler", lambda: "stop", lambda node: "stop", {}):
        with pytest.raises(ConfigurationError, match="node_name, error, context"):
            dag.run(error_handler=wrong)
    with pytest.raises(ConfigurationError, match="give one of them"):
        dag.run(error_handler=answering("stop"), error_strategy="continue")
    assert dag.report is None


def test_callable_objects_and_partials_are_handlers() -> None:
    class Handler:
        async def __call__(self, node: str, error: BaseException, context: Context) -> str:
            return "continue"

    def handle(answer: str, node: str, error: BaseException, context: Context) -> str:
        return answer

    for handler in (Handler(), functools.partial(handle, "continue"), Handler().__call__):
        assert two_branches().run(error_handler=handler) == {"end": 2}


def test_a_handler_that_notes_the_failure_itself_is_not_repeated() -> None:
    def handler(node_name: str, error: BaseException, context: Context) -> str:
        context.metadata.setdefault("errors", []).append({"node": node_name, "mine": True})
        return "continue"

    context = Context(metadata={"errors": [{"node": "bad", "of": "another run"}]})
    two_branches().run(error_handler=handler, context=context)
    assert context.metadata["errors"][1:] == [{"node": "bad", "mine": True}]


@every_runner
def test_nothing_starts_before_a_handler_has_answered(runner: str) -> None:
    dag = DAG("flow")
    started: list[int] = []
    dag.node(id="bad", name="bad")(lambda: 1 / 0)
    for k in range(20):
        dag.node(id=f"n{k}", name=f"n{k}")(lambda: started.append(1))

    async def handler(node_name: str, error: BaseException, context: Context) -> str:
        before = len(started)
        await asyncio.sleep(0.02)
        assert len(started) <= before + 1, "one may have been taken meanwhile"
        return "stop"

    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, max_workers=1, error_handler=handler)
    assert len(started) <= 1


@every_runner
def test_soft_failures_timeouts_and_mapped_nodes_are_asked_about_once(runner: str) -> None:
    dag = DAG("flow")
    asked: dict[str, type] = {}

    @dag.node
    def soft() -> NodeOutput:
        return NodeOutput.failure("not today")

    @dag.node(timeout=0.02)
    async def slow() -> None:
        await asyncio.sleep(30)

    @action
    def invert(x: int) -> float:
        return 1 / x

    with dag:
        invert.map([1, 0, 0, 2], max_parallel=4)

    def handler(node_name: str, error: BaseException, context: Context) -> str:
        assert node_name not in asked
        asked[node_name] = type(error)
        return "continue"

    assert dag.run(runner=runner, error_handler=handler) == {}
    assert asked == {"soft": NodeFailure, "slow": NodeTimeout, "invert": MapError}


@every_runner
def test_a_run_that_passes_its_limits_asks_nobody(runner: str) -> None:
    def never(node_name: str, error: BaseException, context: Context) -> str:
        raise AssertionError("asked")

    dag = DAG("flow")

    @dag.node
    def greedy(ctx: NodeCtx) -> None:
        ctx.add_tokens(5)

    with pytest.raises(TokenBudgetExceeded):
        dag.run(runner=runner, config={"max_tokens": 1}, error_handler=never)


@every_runner
def test_a_handler_that_never_answers_does_not_outlive_the_run(runner: str) -> None:
    async def forever(node_name: str, error: BaseException, context: Context) -> str:
        await asyncio.sleep(60)
        return "continue"

    dag = two_branches()
    with pytest.raises(ExecutionTimeout):
        dag.run(
            runner=runner,
            timeout=0.1,
            error_handler=forever,
            config={"shutdown_grace": 0.05},
        )
    handle = dag.start(runner=runner, error_handler=forever, config={"shutdown_grace": 0.05})
    time.sleep(0.05)
    handle.cancel()
    assert handle.result().status == "cancelled"


@every_runner
def test_a_resumed_run_asks_again(runner: str, tmp_path: Path) -> None:
    url, broken = url_of(tmp_path), [True]
    dag = DAG("flow")

    @dag.node
    def bad() -> int:
        if broken[0]:
            raise ValueError("no")
        return 1

    goes_on = answering("continue")
    report = dag.start(runner=runner, database_url=url, error_handler=goes_on).result()
    assert report.continued
    options = RunOptions(runner=runner, database_url=url, error_strategy="continue")
    again = engine.resume(report.run_id, dag.registry, options)
    assert again.continued
    broken[0] = False
    assert engine.resume(report.run_id, dag.registry, options).success


def test_a_cancelled_run_says_so_and_not_that_it_went_on() -> None:
    dag = two_branches()

    def handler(node_name: str, error: BaseException, context: Context) -> str:
        token.cancel("enough")
        return "continue"

    token = CancelToken()
    with pytest.raises(RunCancelled, match="enough"):
        dag.run(error_handler=handler, cancel=token)


def test_play_asks_too() -> None:
    clock = FakeClock()

    async def handler(node_name: str, error: BaseException, context: Context) -> str:
        return "continue"

    report = play(two_branches(), clock=clock, error_handler=handler)
    assert report.continued
    assert report.outputs == {"end": 2}
