"""Hooks around calls, and what follows a failure, where they meet streams, nested runs and maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, action
from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.registry import Registry
from tests.engine.lives import every_runner

Told = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def watch(dag: DAG) -> Counter[tuple[str, str]]:
    """Count how often the hooks of each node are called from now on."""
    counts: Counter[tuple[str, str]] = Counter()

    def note(what: str) -> Callable[..., None]:
        def hook(node: Any, *_: Any) -> None:
            counts[what, node.id] += 1

        return hook

    dag.set_default_hooks(
        pre_execute=note("pre"), post_execute=note("post"), cleanup=note("cleanup")
    )
    return counts


def counted(pre: int, post: int, cleanup: int, *names: str) -> dict[tuple[str, str], int]:
    """Return what is counted where each of these nodes has its hooks called so often."""
    times = {"pre": pre, "post": post, "cleanup": cleanup}
    return {(what, name): times[what] for name in names for what in times if times[what]}


def piped(source_fails: int = 0, total_fails: int = 0) -> DAG:
    """Return ``source ~> total`` beside ``other``; both ends are called three times at most."""
    dag = DAG("piped")

    @dag.node(attempts=3, retry_delay=0)
    def source(ctx: NodeCtx) -> Iterator[int]:
        yield 1
        if ctx.attempt <= source_fails:
            raise ValueError("source")
        yield 2

    @dag.node(attempts=3, retry_delay=0)
    def total(ctx: NodeCtx, source: Iterable[int]) -> int:
        found = sum(source)
        if ctx.attempt <= total_fails:
            raise ValueError("total")
        return found

    @dag.node
    def other() -> int:
        return 7

    dag.connect("source", "total")
    return dag


@every_runner
def test_hooks_of_a_stream_are_called_in_each_attempt_of_the_unit(runner: str) -> None:
    dag = piped(total_fails=1)
    counts = watch(dag)
    assert dag.run(runner=runner) == {"total": 3, "other": 7}
    assert counts == {
        **counted(2, 2, 1, "source"),  # its generator is its result
        **counted(2, 1, 1, "total"),
        **counted(1, 1, 1, "other"),
    }


@every_runner
@pytest.mark.parametrize(("culprit", "victim"), [("source", "total"), ("total", "source")])
def test_a_unit_that_fails_is_cleaned_up_after_once_and_asked_about_once(
    runner: str, culprit: str, victim: str
) -> None:
    dag = piped(**{f"{culprit}_fails": 9})
    counts = watch(dag)
    asked: Told = []

    def handler(name: str, error: BaseException, context: Any) -> str:
        asked.append((name, str(error)))
        return "continue"

    assert dag.run(runner=runner, error_handler=handler) == {"other": 7}
    assert asked == [(culprit, culprit)]
    assert set(dag.report.errors) == {culprit}
    assert dag.report.states()[victim] in ("skipped", "cancelled")
    assert (counts["cleanup", "source"], counts["cleanup", "total"]) == (1, 1)


@every_runner
def test_hooks_of_a_nested_node_and_of_the_nodes_inside_are_apart(runner: str) -> None:
    tries: list[int] = []

    @action
    def once_more() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once more")
        return 5

    with DAG("inner") as inner:
        once_more()
    with DAG("outer") as dag:
        inner.with_options(attempts=2, retry_delay=0)()
    inside, outside = watch(inner), watch(dag)
    assert dag.run(runner=runner) == 5
    assert outside == counted(2, 1, 1, "inner")
    assert inside == counted(2, 1, 2, "once_more")  # two runs, each with an end of the node


@every_runner
def test_hooks_of_a_batch_surround_its_items_and_clean_up_after_the_batch(runner: str) -> None:
    @action
    def square(x: int) -> int:
        return x * x

    with DAG("batches") as dag:
        square.map([0, 1, 2, 3, 4], batch_size=2)
    counts = watch(dag)
    assert dag.run(runner=runner) == [0, 1, 4, 9, 16]
    assert counts == counted(5, 5, 3, "square")


@every_runner
def test_failures_inside_a_nested_run_are_its_own_and_its_nodes(runner: str) -> None:
    @action
    def bad() -> int:
        raise ValueError("no")

    @action
    def good() -> int:
        return 1

    with DAG("inner") as inner:
        bad()
        good()
    with DAG("outer") as dag:
        inner()
        action(lambda: 7, name="other")()
    asked: Told = []

    def handler(name: str, error: BaseException, context: Any) -> str:
        asked.append((name, type(error).__name__))
        return "continue"

    assert dag.run(runner=runner, error_handler=handler) == {"other": 7}
    assert asked == [("bad", "ValueError"), ("inner", "NodeExecutionError")]
    assert set(dag.report.errors) == {"inner"}
    child = dag.report.nested["inner"]
    assert set(child.errors) == {"bad"}
    assert child.value("good") == 1
    assert dag.run(runner=runner, error_strategy="continue") == {"other": 7}
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner)


@every_runner
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}])
def test_a_mapped_node_is_asked_about_once_as_a_whole(runner: str, options: dict[str, Any]) -> None:
    @action
    def picky(x: int) -> int:
        if x:
            raise ValueError(f"no {x}")
        return x

    with DAG("mapped") as dag:
        picky.map([0, 1, 2], **options)
        action(lambda: 7, name="other")()
    asked: Told = []

    def handler(name: str, error: BaseException, context: Any) -> str:
        asked.append((name, type(error).__name__))
        return "continue"

    assert dag.run(runner=runner, error_handler=handler) == {"other": 7}
    assert asked == [("picky", "MapError")]
    assert set(dag.report.errors) == {"picky"}
