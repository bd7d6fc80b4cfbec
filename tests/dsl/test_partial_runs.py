"""Running a part of a DAG: what runs, what is taken over, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import DAG, DagExecutor, RunOptions, Secret, action, engine
from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
    RunNotFound,
    UnknownInputError,
)
from dagger_dsl.model.context import Branch, HookContext, NodeCtx, NodeOutput
from dagger_dsl.model.events import Event
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store

RUNNERS = ["sequential", "threads", "asyncio"]
LEFT_OUT = "not part of this partial run"

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class Line:
    """``load -> clean -> train -> check``, with ``report`` beside: ``clean -> report``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        #: What else the bodies do, by node.
        self.trouble: dict[str, Callable[[], None]] = {}
        self.dag = dag = DAG("line")

        @dag.node
        def load(start: int) -> int:
            self.calls.append("load")
            return start

        @dag.node
        def clean(load: int) -> int:
            self.calls.append("clean")
            return load + 1

        @dag.node
        def train(clean: int, load: int, rate: int = 10) -> int:
            self._called("train")
            return clean * rate + load

        @dag.node
        def check(train: int) -> int:
            self._called("check")
            return -train

        @dag.node
        def report(clean: int) -> str:
            self.calls.append("report")
            return f"clean={clean}"

        load >> [clean, train]
        clean >> [train, report]
        train >> check

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.trouble.get(name, lambda: None)()

    def again(self) -> list[str]:
        """Return what was called since the last time."""
        calls, self.calls[:] = list(self.calls), []
        return calls


@pytest.fixture
def line() -> Line:
    return Line()


# --- what runs ------------------------------------------------------------------------------------


@pytest.mark.row("E22")
@every_runner
def test_run_from_calls_the_node_and_its_descendants_only(line: Line, runner: str) -> None:
    whole = line.dag.run({"start": 3}, runner=runner)
    first = line.dag.report.run_id
    assert sorted(line.again()) == ["check", "clean", "load", "report", "train"]
    assert line.dag.run_from("train", runner=runner) == whole
    assert line.again() == ["train", "check"]
    report = line.dag.report
    assert report.success
    for name in ("load", "clean", "report"):
        node = report.node_reports[name]
        assert (node.restored, node.attempts, node.reused) == (True, 0, first)
        assert node.duration is not None
    assert not report.node_reports["train"].restored
    assert line.dag["clean"] == 4


@pytest.mark.row("E23")
@every_runner
def test_run_until_calls_the_node_and_its_ancestors_only(line: Line, runner: str) -> None:
    assert line.dag.run_until("train", {"start": 3}, runner=runner) == 43
    assert sorted(line.again()) == ["clean", "load", "train"]
    report = line.dag.report
    assert report.success
    assert report.nodes_in("skipped") == ["check", "report"]
    assert {report.node_reports[name].reason for name in ("check", "report")} == {LEFT_OUT}
    with pytest.raises(NotExecuted):
        line.dag["check"]


@pytest.mark.row("E24")
@every_runner
def test_run_between_calls_what_lies_on_the_paths_only(line: Line, runner: str) -> None:
    line.dag.run({"start": 3})
    line.again()
    assert line.dag.run_between("clean", "train", runner=runner) == 43
    assert line.again() == ["clean", "train"]
    report = line.dag.report
    assert report.node_reports["load"].restored
    # What depends on something that ran again is neither run nor taken over.
    assert report.nodes_in("skipped") == ["check", "report"]
    assert line.dag.run_between("train", "train") == 43
    assert line.again() == ["train"]


@pytest.mark.row("E22", "E24")
def test_partial_runs_build_on_each_other(line: Line) -> None:
    line.dag.run({"start": 3})
    first = line.dag.report.run_id
    for _ in range(3):
        line.dag.run_from("train")
        line.dag.run_from("report")
    line.again()
    assert line.dag.run_from("check") == {"check": -43, "report": "clean=4"}
    assert line.again() == ["check"]
    assert line.dag.report.node_reports["load"].reused == first


@pytest.mark.row("E22", "E23", "E24")
def test_partial_runs_are_options_of_every_way_to_run(line: Line) -> None:
    async def main() -> None:
        assert await line.dag.run_async({"start": 3}, stop_at="clean") == 4
        assert line.again() == ["load", "clean"]
        assert await line.dag.run_async(start_at="train", stop_at="check") == -43
        assert line.again() == ["train", "check"]

    asyncio.run(main())
    handle = line.dag.start(start_at="train")
    assert handle.result(timeout=10).outputs["check"] == -43
    assert sorted(line.again()) == ["check", "train"]


@pytest.mark.row("E22")
def test_a_run_from_inside_a_running_loop_is_made(line: Line) -> None:
    async def main() -> Any:
        line.dag.run({"start": 3}, runner="threads")
        return line.dag.run_from("check", runner="asyncio")

    assert asyncio.run(main())["check"] == -43


# --- what it builds on ----------------------------------------------------------------------------


@pytest.mark.row("E24")
def test_a_missing_value_names_the_node_who_needs_it_and_the_way_out(line: Line) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: line.dag.run_from("train"),
        lambda: line.dag.run_between("train", "check"),
    ]
    for call in ways:
        with pytest.raises(MissingInputError) as caught:
            call()
        assert "node 'train' needs 'clean' (and 1 more) for its input 'clean'" in str(caught.value)
        assert "it has not been run. Start at 'clean'" in str(caught.value)
    assert line.again() == []
    assert line.dag.report is None
    line.dag.run_until("clean", {"start": 1})
    with pytest.raises(MissingInputError, match=f"it was skipped: {LEFT_OUT}. Start at 'train'"):
        line.dag.run_from("check")


@pytest.mark.row("E22")
def test_a_part_that_needs_nothing_needs_no_earlier_run(line: Line) -> None:
    assert line.dag.run_from("load", {"start": 3})["check"] == -43
    assert len(line.again()) == 5


@pytest.mark.row("E22", "E23", "E24")
def test_names_that_are_not_there_are_refused_with_a_suggestion(line: Line) -> None:
    line.dag.run({"start": 3})
    ways: list[Callable[[], Any]] = [
        lambda: line.dag.run_from("trian"),
        lambda: line.dag.run_until("trian"),
        lambda: line.dag.run_between("load", "trian"),
        lambda: line.dag.run_between("trian", "load"),
    ]
    for call in ways:
        with pytest.raises(NodeNotFound, match="did you mean 'train'"):
            call()
    with pytest.raises(ConfigurationError, match=r"no path from 'report' to 'train'$"):
        line.dag.run_between("report", "train")
    with pytest.raises(ConfigurationError, match="there is one from 'load' to 'check'"):
        line.dag.run_between("check", "load")
    with pytest.raises(ConfigurationError, match="start_at must be a text"):
        line.dag.run(start_at=3)
    with pytest.raises(ConfigurationError, match="give start_at="):
        line.dag.run(reuse="x")
    with pytest.raises(ConfigurationError, match="reuse is a run's report or its id"):
        line.dag.run(start_at="train", reuse=3)
    with pytest.raises(ConfigurationError, match=r"give run_id= instead"):
        line.dag.run_until("train", idempotency_key="k", database_url="sqlite::memory:")
    with pytest.raises(ConfigurationError, match="looked up in a database: give database_url="):
        line.dag.run_from("train", run_id="elsewhere")


@pytest.mark.row("E22")
def test_the_last_run_may_be_named_by_its_id(line: Line) -> None:
    line.dag.run({"start": 3})
    line.again()
    assert line.dag.run_from("check", run_id=line.dag.report.run_id)["check"] == -43


@pytest.mark.row("E22")
def test_any_report_may_be_reused(line: Line) -> None:
    line.dag.run({"start": 3})
    old = line.dag.report
    line.dag.run({"start": 5})
    assert line.dag.run(start_at="check", reuse=old)["check"] == -43


@pytest.mark.row("E22", "E23")
def test_inputs_are_needed_only_where_something_runs() -> None:
    dag = DAG("inputs")

    @dag.node
    def left(a: int) -> int:
        return a

    @dag.node
    def right(b: int) -> int:
        return b

    @dag.node
    def both(left: int, right: int) -> int:
        return left + right

    left >> both
    right >> both
    assert dag.run_until("left", {"a": 1}) == 1
    with pytest.raises(MissingInputError, match="'b'"):
        dag.run_until("both", {"a": 1})
    with pytest.raises(UnknownInputError):
        dag.run_until("left", {"a": 1, "c": 2})
    dag.run({"a": 1, "b": 2})
    assert dag.run_from("right") == 3
    assert dag.run_from("right", {"b": 5}) == 6


@pytest.mark.row("E22")
def test_other_inputs_above_the_part_are_told(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.dag.run({"start": 3})
    with caplog.at_level(logging.WARNING):
        line.dag.run_from("train", {"start": 3})
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert line.dag.run_from("train", {"start": 4})["check"] == -43
    assert "there is a change in input 'start'" in caplog.text
    line.dag.run({"start": 3})
    line.again()
    with pytest.raises(ConfigurationError, match=r"input 'start'.*on_change='warn'"):
        line.dag.run_from("train", {"start": 4}, on_change="fail")
    assert line.again() == []


@pytest.mark.row("E22")
def test_a_graph_that_has_changed_is_told_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    def graph(first: int, action: str = "two", *, with_one: bool = True) -> DAG:
        dag = DAG("changing")
        dag.registry.register(lambda x: x, "one")
        dag.registry.register(lambda x: 2 * x, "two")
        dag.registry.register(lambda x: x + x, "twice")
        dag.registry.register(lambda x: 3 * x, "three")
        start: Any = dag.add(dag.registry["one"], id="one", x=first) if with_one else first
        middle = dag.add(dag.registry[action], id="two", x=start)
        dag.add(dag.registry["three"], id="three", x=middle)
        return dag

    before = graph(1)
    assert before.run() == 6
    for after, told in (
        (graph(5), "node 'one'"),
        (graph(1, with_one=False), "node 'two'"),
    ):
        with caplog.at_level(logging.WARNING):
            assert after.run(start_at="three", reuse=before.report) == 6
        assert told in caplog.text
        caplog.clear()
        with pytest.raises(ConfigurationError, match=told):
            after.run(start_at="three", reuse=before.report, on_change="fail")
    other = graph(1, "twice")
    with pytest.raises(MissingInputError, match=r"'two'.*it was a node of another action, 'two'"):
        other.run(start_at="three", reuse=before.report)
    short = graph(1, with_one=False)
    short.run()
    with pytest.raises(MissingInputError, match="had no such node"):
        before.run(start_at="two", reuse=short.report)


# --- everything a node can come to ----------------------------------------------------------------


def shop(calls: list[str]) -> DAG:
    """Return a branch with two kinds of joins behind it, split outputs and a mapped node."""

    @action
    def route(country: str) -> Branch:
        calls.append("route")
        return Branch("eu", {"country": country})

    @action
    def eu(order: dict[str, str]) -> str:
        calls.append("eu")
        return f"eu {order['country']}"

    @action
    def us() -> str:
        calls.append("us")
        return "us"

    @action(trigger="none_failed")
    def join(eu: str | None = None, us: str | None = None) -> list[str | None]:
        calls.append("join")
        return [eu, us]

    @action(trigger="any")
    def first(eu: str | None = None, us: str | None = None) -> str | None:
        calls.append("first")
        return eu or us

    @action(outputs=["low", "high"])
    def split(join: list[str | None]) -> NodeOutput:
        calls.append("split")
        return NodeOutput.success({"low": 1, "high": [1, 2, 3]}, metadata={"why": "so"})

    @action
    def square(n: int) -> int:
        calls.append("square")
        return n * n

    @action
    def end(squares: list[int], first: str, low: int, join: list[str | None]) -> list[Any]:
        calls.append("end")
        return [squares, first, low, join]

    with DAG("shop") as dag:
        route(dag.input("country", str))
        dag.nodes["route"].branches["eu"] >> eu
        dag.nodes["route"].branches["us"] >> us
        here: Any = dag.nodes["eu"]
        there: Any = dag.nodes["us"]
        joined: Any = join(here, there)
        won: Any = first(here, there)
        parts: Any = split(joined)
        squares = square.map(parts.out.high)
        end(squares, won, parts.out.low, joined)
    return dag


WHOLE = [[1, 4, 9], "eu at", 1, ["eu at", None]]


@every_runner
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.row("E22")
def test_everything_comes_out_as_it_was(stored: bool, runner: str, url: str) -> None:
    calls: list[str] = []
    dag = shop(calls)
    options: dict[str, Any] = {"runner": runner} | ({"database_url": url} if stored else {})
    assert dag.run({"country": "at"}, **options) == WHOLE
    before = dag.report
    assert before.nodes_in("skipped") == ["us"]
    for node, expected in {
        "end": ["end"],
        "square": ["end", "square", "square", "square"],
        "split": ["end", "split", "square", "square", "square"],
        "first": ["end", "first"],
        "join": ["end", "join", "split", "square", "square", "square"],
    }.items():
        calls.clear()
        assert dag.run_from(node, **options) == WHOLE
        assert sorted(calls) == expected
        report = dag.report
        assert report.states() == before.states()
        assert report.node_reports["us"].reason == before.node_reports["us"].reason
        if node != "split" and node != "join":
            assert report.node_reports["split"].metadata == {"why": "so"}
        assert dict(report.values) == dict(before.values)


@every_runner
@pytest.mark.row("E22")
def test_the_label_of_a_branch_that_is_taken_over_counts(runner: str) -> None:
    calls: list[str] = []
    dag = shop(calls)
    dag.run({"country": "at"})
    calls.clear()
    assert dag.run_from("eu", runner=runner) == WHOLE
    assert calls[0] == "eu"
    assert "route" not in calls
    calls.clear()
    # The branch that was not taken is not taken now.
    assert dag.run_between("us", "join", runner=runner) == ["eu at", None]
    assert calls == ["join"]
    assert dag.report.node_reports["us"].reason == "branch not taken at 'route'"


@pytest.mark.row("E24")
def test_a_target_that_is_skipped_gives_none() -> None:
    calls: list[str] = []
    dag = shop(calls)
    assert dag.run_until("us", {"country": "at"}) is None
    assert calls == ["route"]
    assert dag.report.node_reports["us"].reason == "branch not taken at 'route'"


@every_runner
@pytest.mark.row("E22")
def test_an_any_node_takes_the_source_that_it_took(runner: str, url: str) -> None:
    slow = {"left": 0.05, "right": 0.0}

    @action
    def left() -> str:
        time.sleep(slow["left"])
        return "left"

    @action
    def right() -> str:
        time.sleep(slow["right"])
        return "right"

    @action(trigger="any")
    def first(a: str | None = None, b: str | None = None) -> str | None:
        return a or b

    with DAG("race") as dag:
        first(left(), right())
    assert dag.run(runner="threads") == "right"
    assert dag.run_from("first", runner=runner) == "right"
    assert dag.run(runner="threads", database_url=url) == "right"
    assert dag.run_from("first", runner=runner, database_url=url) == "right"
    assert dag.run_from("first", runner=runner, database_url=url) == "right"


@every_runner
@pytest.mark.row("E22")
def test_a_failure_is_no_result_but_its_joins_know_of_it(runner: str) -> None:
    fail = [True]

    @action
    def work() -> int:
        if fail[0]:
            raise ValueError("on purpose")
        return 1

    @action
    def use(work: int) -> int:
        return work

    @action(trigger="failed")
    def mend(work: int | None = None) -> str:
        return "mended"

    @action(trigger="done")
    def close(use: int | None = None) -> str:
        return f"closed {use}"

    with DAG("risky") as dag:
        done: Any = work()
        close(use(done))
        dag.add(mend).after(done)
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner)
    failed = dag.report
    with pytest.raises(MissingInputError, match=r"needs 'work'.*failed in|it is failed"):
        dag.run_from("use", runner=runner)
    assert dag.run_from("mend", runner=runner)["mend"] == "mended"
    assert "it was failed in run" in dag.report.node_reports["work"].reason
    fail[0] = False
    dag.run(start_at="work", reuse=failed)
    assert dag.report.values["close"] == "closed 1"


@pytest.mark.row("E22")
def test_what_was_skipped_because_of_a_failure_is_missing() -> None:
    @action
    def work() -> int:
        raise ValueError("on purpose")

    @action
    def middle(work: int) -> int:
        return work

    @action
    def last(middle: int) -> int:
        return middle

    @action(trigger="none_failed")
    def join(middle: int | None = None) -> int | None:
        return middle

    with DAG("chain", config={"on_failure": "continue"}) as dag:
        begun: Any = work()
        passed: Any = middle(begun)
        last(passed)
        join(passed)
    with pytest.raises(NodeExecutionError):
        dag.run()
    before = dag.report
    with pytest.raises(MissingInputError, match="was skipped: upstream_failed: 'work' failed"):
        dag.run_from("last")
    # A join is skipped as it was.
    dag.run(start_at="join", reuse=before)
    assert dag.report.node_reports["join"].reason == before.node_reports["join"].reason


def test_a_node_may_have_any_name(url: str) -> None:
    """Names of nodes never meet the words of the record."""
    names = ["command", "open", "yield", "asks", "again", "hooks", "tokens", "recalled", "refused"]
    broken = [True]

    def fail() -> int:
        if broken[0]:
            raise ValueError("on purpose")
        return 1

    dag = DAG("names")
    dag.registry.register(fail, "fail")
    for name in [*names, "part", "without"]:
        dag.add(dag.registry["fail"], id=name)
    with pytest.raises(NodeExecutionError):
        dag.run_until("part", database_url=url)
    broken[0] = False
    report = engine.resume(dag.report.run_id, dag.registry, RunOptions(database_url=url))
    assert report.values == {"part": 1}


def test_what_commands_have_added_is_no_part_of_the_graph() -> None:
    from dagger_dsl import AddNodes, NodeSpec

    @action
    def grow() -> NodeOutput:
        return NodeOutput.success(1, commands=[AddNodes([NodeSpec("leaf")])])

    @action
    def leaf() -> int:
        return 2

    @action
    def after(grow: Any) -> Any:
        return grow

    with DAG("growing") as dag:
        after(grow())
    dag.registry.register(leaf)
    dag.run()
    assert "leaf" in dag.report.states()
    assert dag.run_from("after") == 1
    assert "leaf" not in dag.report.states()


def test_hooks_and_progress_see_what_runs() -> None:
    seen: list[str] = []
    calls: list[str] = []
    dag = shop(calls)
    dag.run({"country": "at"})

    def watch(ctx: HookContext, event: Event) -> None:
        node = getattr(event, "node", None)
        if node is not None:
            seen.append(f"{type(event).__name__} {node.node_id}")

    told: list[tuple[str, str]] = []
    dag.run_from("end", hooks=[watch], progress=lambda node, status, _: told.append((node, status)))
    assert "NodeCompleted end" in seen
    assert not [each for each in seen if each.startswith("NodeCompleted") and "end" not in each]
    assert ("end", "completed") in told


# --- with a database ------------------------------------------------------------------------------


@pytest.mark.row("E22")
def test_a_recorded_run_is_the_newest_of_its_name_or_named(line: Line, url: str) -> None:
    line.dag.run({"start": 3}, database_url=url)
    old = line.dag.report.run_id
    line.dag.run({"start": 5}, database_url=url)
    fresh = Line()
    fresh.dag.name = "line"
    assert fresh.dag.run_from("check", database_url=url)["check"] == -65
    assert fresh.dag.run_from("check", run_id=old, database_url=url)["check"] == -43
    assert fresh.again() == ["check", "check"]
    with pytest.raises(RunNotFound):
        fresh.dag.run_from("check", run_id="none", database_url=url)
    other = f"{url}-other.db"
    with pytest.raises(MissingInputError, match="has no run of it"):
        fresh.dag.run_from("check", database_url=other)
    # What is in memory may begin a database.
    line.dag.run({"start": 7})
    line.dag.run(start_at="check", reuse=line.dag.report, database_url=other)
    assert fresh.dag.run_from("check", database_url=other)["check"] == -87


@pytest.mark.row("E22")
def test_what_is_taken_over_is_recorded_with_where_it_came_from(line: Line, url: str) -> None:
    line.dag.run({"start": 3}, database_url=url)
    first = line.dag.report.run_id
    line.dag.run_between("train", "check", database_url=url)
    with Store(url) as store:
        stored = store.load_run(line.dag.report.run_id)
    rows = {node.node_id: node for node in stored.attempts}
    assert rows["clean"].value() == 4
    assert rows["clean"].meta == {"reused": first}
    assert rows["train"].meta is None
    assert {name: row.state for name, row in rows.items()} == dict.fromkeys(rows, "completed")
    assert stored.inputs == {"start": 3}


@pytest.mark.row("E22")
def test_an_executor_makes_partial_runs_of_what_it_has_recorded(line: Line, url: str) -> None:
    with DagExecutor(database_url=url) as executor:
        executor.load(line.dag)
        executor.run("line", {"start": 3})
        line.again()
        report = executor.run("line", start_at="train")
        assert report.outputs == {"check": -43, "report": "clean=4"}
        assert line.again() == ["train", "check"]
        with pytest.raises(ConfigurationError, match="plans the whole graph"):
            executor.dry_run("line", {"start": 3}, start_at="train")


@every_runner
@pytest.mark.row("E22")
def test_a_partial_run_that_was_killed_goes_on_as_one(
    line: Line, url: str, tmp_path: Path, runner: str
) -> None:
    line.dag.run({"start": 3}, database_url=url)
    line.again()
    copy = tmp_path / "copy"

    def die() -> None:
        if not copy.exists():
            copy.mkdir()
            for each in tmp_path.glob("runs.db*"):
                if each.is_file():
                    shutil.copy(each, copy)

    line.trouble["check"] = die
    line.dag.run_between("clean", "check", database_url=url, runner=runner)
    run_id = line.dag.report.run_id
    assert line.again() == ["clean", "train", "check"]
    options = RunOptions(database_url=f"sqlite:///{copy / 'runs.db'}", runner=runner)
    graph = line.dag.registry
    report = engine.resume(run_id, graph, options)
    assert report.success
    assert line.again() == ["check"]
    assert report.nodes_in("skipped") == ["report"]
    assert report.node_reports["report"].reason == LEFT_OUT
    assert report.values["check"] == -43
    assert report.node_reports["load"].reused is not None
    with pytest.raises(ConfigurationError, match="belong to a new run"):
        engine.resume(run_id, graph, RunOptions(database_url=url, stop_at="check"))


@pytest.mark.row("E22")
def test_a_failed_partial_run_is_resumed_without_what_is_outside(line: Line, url: str) -> None:
    line.dag.run({"start": 3}, database_url=url)
    line.again()

    def fail() -> None:
        raise ValueError("on purpose")

    line.trouble["train"] = fail
    with pytest.raises(NodeExecutionError):
        line.dag.run_from("train", database_url=url)
    line.trouble.clear()
    report = engine.resume(line.dag.report.run_id, line.dag.registry, RunOptions(database_url=url))
    assert report.values["check"] == -43
    assert line.again() == ["train", "train", "check"]


def test_a_partial_run_that_died_before_it_began_is_not_resumed(line: Line, url: str) -> None:
    line.dag.run({"start": 3}, database_url=url)
    graph = line.dag.compile()
    with Store(url) as store:
        notes = [("part", '{"start_at":"train","stop_at":null}')]
        store.create_run(run_id="dead", graph=graph, inputs={"start": 3}, notes=notes).close()
    line.again()
    with pytest.raises(InvalidState, match="start that part again"):
        engine.resume("dead", line.dag.registry, RunOptions(database_url=url))
    assert line.again() == []


def test_a_run_until_does_not_ask_for_what_it_leaves_out_when_it_is_resumed(url: str) -> None:
    broken = [True]

    @action
    def left(a: int) -> int:
        if broken[0]:
            raise ValueError("on purpose")
        return a

    @action
    def right(b: int) -> int:
        return b

    with DAG("two") as dag:
        left(dag.input("a", int))
        right(dag.input("b", int))
    with pytest.raises(NodeExecutionError):
        dag.run_until("left", {"a": 1}, database_url=url)
    broken[0] = False
    report = engine.resume(dag.report.run_id, dag.registry, RunOptions(database_url=url))
    assert report.values == {"left": 1}


def test_a_result_that_was_not_stored_is_missing_and_a_secret_is_asked_for(url: str) -> None:
    @action(store=False)
    def make() -> int:
        return 1

    @action
    def use(make: int, key: Secret) -> int:
        return make + len(key.reveal())

    with DAG("kept") as dag:
        use(make(), dag.input("key", Secret))
    assert dag.run({"key": "abc"}, database_url=url) == 4
    with pytest.raises(MissingInputError, match="did not store its result"):
        dag.run_from("use", {"key": "abc"}, database_url=url)
    assert dag.run({"key": "abc"}) == 4
    assert dag.run_from("use") == 4
    memory = dag.report
    # The live value serves; a resume would call its producer again, as for any run.
    assert dag.run({"key": "ab"}, start_at="use", reuse=memory, database_url=url) == 3
    # The run took the secret, and nothing of it is stored.
    with pytest.raises(MissingInputError, match="'key'"):
        dag.run(start_at="make", database_url=url)


# --- any graph ------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """Draw, for each node, the earlier nodes that it takes values from."""
    size = draw(st.integers(1, 12))
    return [
        draw(st.lists(st.integers(0, k - 1), unique=True, max_size=3)) if k else []
        for k in range(size)
    ]


def reached(start: int, edges: dict[int, list[int]]) -> set[int]:
    found, work = {start}, deque([start])
    while work:
        for each in edges[work.popleft()]:
            if each not in found:
                found.add(each)
                work.append(each)
    return found


@pytest.mark.row("E22", "E23", "E24")
@given(
    sources=graphs(),
    pick=st.integers(0, 100),
    other=st.integers(0, 100),
    runner=st.sampled_from(RUNNERS),
)
def test_partial_runs_of_any_graph_call_what_they_say(
    sources: list[list[int]], pick: int, other: int, runner: Literal["sequential", "threads"]
) -> None:
    calls: list[str] = []

    def body(ctx: NodeCtx, **values: int) -> int:
        calls.append(ctx.node_id)
        return 1 + sum(values.values())

    with Registry() as fresh:
        fresh.register(body)
        dag = DAG("any")
        for k, each in enumerate(sources):
            dag.add(fresh["body"], id=f"n{k}", **{f"v{s}": dag.nodes[f"n{s}"] for s in each})
        up = dict(enumerate(sources))
        down = {k: [n for n, each in up.items() if k in each] for k in up}
        x, y = pick % len(sources), other % len(sources)
        whole = dag.run(runner=runner)
        before = dag.report

        calls.clear()
        assert dag.run_from(f"n{x}", runner=runner) == whole
        assert sorted(calls) == sorted(f"n{k}" for k in reached(x, down))
        assert dict(dag.report.values) == dict(before.values)

        calls.clear()
        assert dag.run_until(f"n{x}", runner=runner) == before.values[f"n{x}"]
        assert sorted(calls) == sorted(f"n{k}" for k in reached(x, up))
        assert set(dag.report.nodes_in("completed")) == set(calls)

        between = reached(x, down) & reached(y, up)
        calls.clear()
        if not between:
            with pytest.raises(ConfigurationError, match="no path"):
                dag.run(start_at=f"n{x}", stop_at=f"n{y}", reuse=before, runner=runner)
        else:
            found = dag.run(start_at=f"n{x}", stop_at=f"n{y}", reuse=before, runner=runner)
            assert found == before.values[f"n{y}"]
        assert sorted(calls) == sorted(f"n{k}" for k in between)


def test_a_part_is_named_by_ids_or_handles() -> None:
    dag = DAG("flow", registry=Registry())

    @dag.node
    def one() -> int:
        return 1

    @dag.node
    def two(one: int) -> int:
        return one + 1

    one >> two
    assert dag.run() == 2
    assert dag.run_from(two) == 2
    assert dag.run_until(dag.nodes["one"]) == 1
    assert dag.run_between(one, "two") == 2
    for wrong in (None, 3, action(lambda: 1, name="other", registry=Registry())):
        with pytest.raises(ConfigurationError, match=r"run_from takes the id of a node or its"):
            dag.run_from(wrong)


def test_what_a_short_word_says_is_no_option_of_it() -> None:
    dag = DAG("short", registry=Registry())

    @dag.node
    def load() -> int:
        return 1

    dag.run()
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("start_at", lambda: dag.run_from("load", start_at="load")),
        ("reuse", lambda: dag.run_from("load", reuse="r1")),
        ("stop_at", lambda: dag.run_until("load", stop_at="load")),
        ("start_at", lambda: dag.run_between("load", "load", start_at="load")),
    ]
    for name, call in calls:
        with pytest.raises(ConfigurationError, match=f"has no option '{name}'"):
            call()
    assert dag.run_until("load", start_at="load") == 1  # which it does not say itself
