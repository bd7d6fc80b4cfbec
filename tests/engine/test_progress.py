"""Progress: what the callback of a run is told, by the engine and by nodes themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagger_dsl import DAG, Registry, action
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Node
from dagger_dsl.model.sharing import Context
from tests.engine.helpers import IMMEDIATE, RUNNERS, Workflow, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Told(list[tuple[str, str, float]]):
    """A callback that keeps what it is told."""

    def __call__(self, node_id: str, status: str, fraction: float) -> None:
        self.append((node_id, status, fraction))

    @property
    def fractions(self) -> list[float]:
        """What was told of the whole run."""
        return [fraction for _, _, fraction in self]

    def check(self) -> None:
        """Refuse fractions that fall, or that do not end with the whole."""
        assert self.fractions == sorted(self.fractions)
        assert all(0.0 <= each <= 1.0 for each in self.fractions)
        assert self.fractions[-1] == 1.0


def loading(total: int) -> Callable[[NodeCtx], int]:
    """Return a node that reports each of its items."""

    def load(ctx: NodeCtx) -> int:
        for done in range(total):
            ctx.progress(done, total, f"item {done + 1}")
        return total

    return load


@pytest.mark.row("M10", "M11")
@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_a_node_tells_how_far_it_has_come(recorded: bool, runner: str, tmp_path: Path) -> None:
    told, context = Told(), Context()
    seen: list[Any] = []

    def watch(node_id: str, status: str, fraction: float) -> None:
        told(node_id, status, fraction)
        seen.append(dict(context.metadata.get("progress", {})))

    flow = Workflow().add("load", loading(4)).note("next", after=["load"])
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    flow.run(runner, max_workers=1, progress=watch, context=context, **options)
    assert told == [
        ("load", "item 1", 0.0),
        ("load", "item 2", 0.125),
        ("load", "item 3", 0.25),
        ("load", "item 4", 0.375),
        ("load", "completed", 0.5),
        ("next", "completed", 1.0),
    ]
    assert seen[1] == {
        "node": "load",
        "percent": 0.25,
        "items_processed": 1,
        "total_items": 4,
    }
    told.check()


@pytest.mark.row("M11")
@every_runner
def test_progress_is_reported_by_the_context_too(runner: str) -> None:
    told = Told()
    dag = DAG("long", registry=Registry())

    @dag.node
    def long_process(context: Context) -> None:
        context.progress("long_process", 1, 2)
        context.progress("long_process", 1, 2, "half")

    dag.run(progress=told, runner=runner)
    assert told == [
        ("long_process", "1/2", 0.5),
        ("long_process", "half", 0.5),
        ("long_process", "completed", 1.0),
    ]
    assert dag.context.metadata["progress"]["percent"] == 0.5


@pytest.mark.row("M10", "M11")
@every_runner
def test_the_sample_of_the_document(runner: str) -> None:
    dag = DAG("sample", registry=Registry())

    @dag.node
    def long_process(items: list[int], context: Context) -> list[int]:
        results = []
        total = len(items)
        for i, item in enumerate(items):
            progress = i / total
            context.metadata["progress"] = {
                "node": "long_process",
                "percent": progress,
                "items_processed": i,
                "total_items": total,
            }
            results.append(item * 2)
            if hasattr(dag, "progress_callback"):
                dag.progress_callback("long_process", f"Processing {i + 1}/{total}", progress)
        return results

    assert not hasattr(dag, "progress_callback")
    assert dag.run(inputs={"items": [1, 2]}, runner=runner) == [2, 4]
    told = Told()
    dag.progress_callback = told
    assert dag.run(inputs={"items": [1, 2]}, runner=runner) == [2, 4]
    assert told == [
        ("long_process", "Processing 1/2", 0.0),
        ("long_process", "Processing 2/2", 0.5),
        ("long_process", "completed", 1.0),
    ]
    assert dag.context.metadata["progress"]["percent"] == 0.5


@pytest.mark.row("M10")
@pytest.mark.parametrize("way", ["run", "async", "start"])
def test_the_callback_of_a_dag_serves_its_later_runs(way: str) -> None:
    dag, ours, theirs = DAG("later", registry=Registry()), Told(), Told()

    @dag.node
    def only() -> int:
        return 1

    def run(**options: Any) -> None:
        if way == "run":
            dag.run(**options)
        elif way == "async":
            asyncio.run(dag.run_async(**options))
        else:
            dag.start(**options).result(30)

    dag.progress_callback = ours
    run()
    run(progress=theirs)
    run(progress=None)
    run(progress=False)
    assert (len(ours), len(theirs)) == (1, 1)
    del dag.progress_callback
    run()
    assert len(ours) == 1
    dag.progress_callback = "no function"
    with pytest.raises(ConfigurationError, match="progress is a function of"):
        run()


@every_runner
def test_a_run_that_grows_never_goes_back(runner: str) -> None:
    told = Told()
    flow = Workflow()

    def grow() -> NodeOutput:
        specs = [NodeSpec("leaf", id=f"leaf{k}") for k in range(5)]
        return NodeOutput.success({}, commands=[AddNode(each) for each in specs])

    flow.registry.register(lambda: 1, "leaf")
    flow.note("a").add("grow", grow, after=["a"]).note("z", after=["grow"])
    flow.run(runner, progress=told)
    told.check()
    assert len(told) == 8


@every_runner
def test_invocations_of_mapped_nodes_count(runner: str) -> None:
    told = Told()

    def load(item: int, ctx: NodeCtx) -> int:
        ctx.progress(1, 2)
        return item

    registry = Registry()
    with DAG("mapped", registry=registry) as dag:
        action(load, registry=registry).map([[1, 2], [3]], depth=2)
    dag.run(progress=told, runner=runner)
    told.check()
    assert told[-1] == ("load", "completed", 1.0)
    assert len(told) == 2 * 3 + 1


@every_runner
@pytest.mark.parametrize(
    ("fields", "status", "last"),
    [
        ({"on_failure": "stop"}, "failed", 1.0),
        ({"on_failure": "continue"}, "failed", 1.0),
        ({"on_failure": "pause"}, "paused", 1 / 3),
    ],
)
def test_only_a_run_that_stands_still_does_not_end_with_the_whole(
    fields: dict[str, Any], status: str, last: float, runner: str
) -> None:
    told = Told()
    flow = Workflow().note("a", OSError(), **fields).note("b", after=["a"]).note("c", after=["b"])
    assert flow.run(runner, progress=told).status == status
    assert told.fractions[-1] == last
    assert told.fractions == sorted(told.fractions)


@every_runner
def test_a_run_that_passes_its_time_ends_with_the_whole(runner: str) -> None:
    async def wait(ctx: NodeCtx) -> None:
        ctx.progress(1, 2)
        await asyncio.sleep(30)

    told = Told()
    flow = Workflow().add("wait", wait).note("next", after=["wait"])
    assert flow.run(runner, progress=told, timeout=0.05).status == "timed_out"
    told.check()


@every_runner
def test_what_a_callback_raises_loses_nothing(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(node_id: str, status: str, fraction: float) -> None:
        raise OSError("the terminal is gone")

    report = Workflow().add("load", loading(2)).run(runner, progress=broken)
    assert report.success
    assert [str(each) for each in report.hook_errors] == ["the terminal is gone"] * 3


@every_runner
def test_a_retried_node_begins_anew_and_the_run_does_not(runner: str) -> None:
    told = Told()

    def work(ctx: NodeCtx) -> None:
        ctx.progress(0, 2)
        ctx.progress(1, 2)
        if ctx.attempt < 3:
            raise OSError

    flow = Workflow().add("work", work, try_count=3)
    flow.run(runner, progress=told, config={"retry_strategy": IMMEDIATE})
    told.check()
    assert told.fractions == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0]


def test_a_callback_may_report_progress_itself() -> None:
    context = Context()
    seen: list[str] = []

    def watch(node_id: str, status: str, fraction: float) -> None:
        seen.append(status)
        if status == "completed":
            context.progress("b", 1, 2, "from the callback")

    Workflow().note("a").note("b", after=["a"]).run(progress=watch, context=context)
    assert seen.count("from the callback") >= 1
    assert seen[0] == "completed"


@pytest.mark.row("M10")
@given(plan=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=6))
@settings(max_examples=25)
def test_fractions_of_threads_never_fall(plan: list[list[int]]) -> None:
    told, inside = Told(), threading.Lock()

    def watch(node_id: str, status: str, fraction: float) -> None:
        assert inside.acquire(blocking=False)  # one call at a time
        told(node_id, status, fraction)
        inside.release()

    flow = Workflow()
    for k, steps in enumerate(plan):

        def work(ctx: NodeCtx, steps: list[int] = steps) -> None:
            for step in steps:
                ctx.progress(step, 5)

        flow.registry.register(work, f"work{k}")
        flow.nodes.append(Node(f"n{k}", f"work{k}"))
    report = flow.run("threads", max_workers=4, progress=watch)
    assert report.hook_errors == ()
    told.check()


@every_runner
def test_progress_true_draws_on_standard_error(
    runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Workflow("my [flow]").add("load", loading(3)).note("next", after=["load"])
    assert flow.run(runner, progress=True).success
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.partition(" in ")[0] for line in err.splitlines()]
    assert lines == [
        "my [flow] [1/2] load: completed",
        "my [flow] [2/2] next: completed",
        "my [flow]: 2/2 nodes, completed",
    ]


def test_progress_is_nothing_else() -> None:
    for given_ in (1, "yes", [print]):
        with pytest.raises(ConfigurationError, match="True for the display that fits, or"):
            RunOptions(progress=given_)
    with pytest.raises(ConfigurationError, match="did you mean 'picture'"):
        RunOptions(progress="pictures")
    assert RunOptions(progress=False).progress is None


def test_ctx_progress_outside_of_a_run_checks_its_numbers() -> None:
    ctx = NodeCtx("dag", "node")
    ctx.progress(1, 2)
    with pytest.raises(ConfigurationError, match="done is a number of at least 0, not -1"):
        ctx.progress(-1, 2)
