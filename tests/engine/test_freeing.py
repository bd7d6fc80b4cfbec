"""`keep=False`: a value goes after the last node that takes it, and no sooner."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagger_dsl import DAG, Registry, action
from dagger_dsl.engine.freeing import Freeing
from dagger_dsl.errors import InvalidState, NodeExecutionError, NotExecuted
from dagger_dsl.executor import DagExecutor
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.graph import Input, Node
from dagger_dsl.model.policies import Trigger
from tests.engine.helpers import IMMEDIATE, RUNNERS, Answers, Workflow, url_of
from tests.runners.helpers import eventually

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@attrs.define(eq=False)
class Big:
    """A value that can be watched, and stored."""

    number: int = 0


class Made:
    """Makes values and knows which of them live."""

    def __init__(self) -> None:
        self._refs: list[weakref.ref[Big]] = []

    def __call__(self) -> Big:
        big = Big(len(self._refs))
        self._refs.append(weakref.ref(big))
        return big

    def alive(self) -> list[int]:
        """Return the numbers of those that live.

        A worker that has delivered a value may not have come to lay it down yet.
        """
        until = time.monotonic() + 0.2
        while found := self.here():
            if time.monotonic() > until:
                break
            time.sleep(0.001)
        return found

    def here(self) -> list[int]:
        """Return the numbers of those that live at this moment."""
        if not (found := self.held()):
            return found
        gc.collect()  # exceptions and frames are held by each other
        return self.held()

    def held(self) -> list[int]:
        """Return the numbers of those to which anything refers."""
        return [k for k, ref in enumerate(self._refs) if ref() is not None]


def source(made: Made) -> Callable[[], Big]:
    """Return a node that makes a value."""

    def make() -> Big:
        return made()

    return make


def takes(big: Big) -> str:
    """Take a value."""
    assert isinstance(big, Big)
    return "taken"


# --- when it goes ---------------------------------------------------------------------------------


@pytest.mark.row("K29")
@every_runner
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("on_action", [False, True])
def test_a_value_goes_after_its_last_consumer(
    on_action: bool, recorded: bool, runner: str, tmp_path: Path
) -> None:
    made = Made()
    registry = Registry()
    options: dict[str, Any] = {"keep": False}
    make = action(source(made), name="make", registry=registry, **(options if on_action else {}))

    def look(*_: Any, **__: Any) -> list[int]:
        return made.alive()

    with DAG("flow", registry=registry) as dag:
        big = make() if on_action else make.with_options(**options)()
        one = action(takes, name="one", registry=registry)(big)
        between = action(lambda a: made.alive(), name="between", registry=registry)(one)
        two = action(lambda big, b: takes(big), name="two", registry=registry)(big, between)
        action(lambda c: made.alive(), name="after", registry=registry)(two)
    more: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    assert dag.run(runner=runner, **more) == []
    assert dag["between"] == [0]
    if recorded:
        assert dag["make"].number == 0
        assert dag.report.values["make"].number == 0
        assert made.alive() == []
    else:
        with pytest.raises(NotExecuted, match=r"'make' has no result any more.*keep=False"):
            dag["make"]
        with pytest.raises(NotExecuted, match="keep=False"):
            dag.report.value("make")
        assert dag.report.value("make", None) is None
        assert "make" not in dag.report.values
    assert dag.report.states()["make"] == "completed"


@every_runner
def test_a_sink_is_kept(runner: str) -> None:
    made = Made()
    flow = Workflow().add("make", source(made), keep=False)
    report = flow.run(runner)
    assert report.outputs["make"].number == 0


@every_runner
def test_nodes_that_wait_without_taking_the_value_count(runner: str) -> None:
    made = Made()

    def look(ctx: NodeCtx) -> int:
        return int(ctx.cache.get("make", "result").number)

    flow = Workflow().add("make", source(made), keep=False)
    flow.add("look", look, after=["make"]).add("end", made.alive, after=["look"])
    report = flow.run(runner)
    assert report.value("look") == 0
    assert report.value("end") == []


@every_runner
def test_all_of_a_long_chain_goes_one_after_the_other(runner: str) -> None:
    made = Made()
    most: list[int] = []

    def step(big: Any = None) -> Big:
        most.append(len(made.held()))
        return made()

    flow = Workflow().add("n0", step, keep=False)
    for k in range(1, 60):
        flow.add(f"n{k}", step, take={"big": f"n{k - 1}"}, keep=False)
    report = flow.run(runner, max_workers=2)
    assert max(most) <= 3
    assert report.outputs["n59"].number == 59


@every_runner
def test_what_stands_in_line_is_freed_on_the_way(runner: str) -> None:
    made = Made()
    least: list[int] = []

    def slow(big: Big) -> None:
        time.sleep(0.003)
        least.append(len(made.held()))

    flow = Workflow()
    for k in range(12):
        flow.registry.register(lambda: made(), f"make{k}")
        flow.nodes.append(Node(f"make{k}", f"make{k}", keep=False))
    for k in range(12):
        flow.add(f"slow{k}", slow, take={"big": f"make{k}"})
    flow.run(runner, max_workers=1)
    assert least[0] == 12
    assert least[-1] < 6
    assert made.alive() == []


# --- who counts as a consumer ---------------------------------------------------------------------


@every_runner
def test_a_consumer_that_is_tried_again_still_sees_it(runner: str) -> None:
    made = Made()

    def unsteady(big: Big, ctx: NodeCtx) -> str:
        if ctx.attempt < 3:
            raise OSError("not yet")
        return takes(big)

    flow = Workflow().add("make", source(made), keep=False)
    flow.add("use", unsteady, take={"big": "make"}, try_count=3)
    flow.add("end", made.alive, after=["use"])
    report = flow.run(runner, config={"retry_strategy": IMMEDIATE})
    assert report.value("use") == "taken"
    assert report.value("end") == []  # what the attempts raised holds it no more


@every_runner
@pytest.mark.parametrize("stand_in", ["fallback", "failure"])
def test_what_stands_in_for_a_consumer_still_sees_it(stand_in: str, runner: str) -> None:
    made = Made()

    def fail(big: Big) -> str:
        raise OSError("no")

    flow = Workflow().add("make", source(made), keep=False)
    flow.registry.register(lambda big: takes(big), "rescue")
    fields = {stand_in: "rescue"}
    flow.add("use", fail, take={"big": "make"}, **fields)
    flow.add("end", made.alive, after=["use"])
    report = flow.run(runner)
    assert report.value("use") == "taken"
    assert report.value("end") == []


@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_consumers_that_fail_or_are_skipped_or_cancelled_need_it_no_more(
    recorded: bool, runner: str, tmp_path: Path
) -> None:
    made = Made()

    def fail(big: Big) -> None:
        raise OSError("no")

    flow = Workflow().add("make", source(made), keep=False).note("choose", "left")
    flow.add("left", takes, take={"big": "make"}).add("right", takes, take={"big": "make"})
    flow.when("choose", "left", "left").when("choose", "right", "right")
    flow.add("fails", fail, take={"big": "make"}, on_failure="continue")
    flow.add("behind", takes, take={"big": "make"}, after=["fails"])
    flow.add(
        "end",
        made.alive,
        after=["left", "right", "behind", "fails"],
        trigger=Trigger.DONE,
    )
    more: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    report = flow.run(runner, **more)
    states = {name: str(state) for name, state in report.states().items()}
    assert states["right"] == states["behind"] == "skipped"
    assert states["fails"] == "failed"
    assert report.value("end") == []
    assert isinstance(report.node_reports["fails"].exception, OSError)
    assert "no" in str(report.node_reports["fails"].error)


@every_runner
def test_a_run_that_stops_frees_what_it_no_longer_needs(runner: str) -> None:
    made = Made()
    flow = Workflow().add("make", source(made), keep=False).note("bad", OSError(), after=["make"])
    flow.add("use", takes, take={"big": "make"}, after=["bad"])
    report = flow.run(runner)
    assert str(report.states()["use"]) == "skipped"
    assert made.alive() == []


@every_runner
def test_a_join_that_takes_the_first_value_does_not_hold_the_second(runner: str) -> None:
    made = Made()

    def first(quick: Any = None, late: Any = None) -> int:
        assert late is None
        return int(quick.number)

    flow = Workflow().add("quick", source(made), keep=False)
    flow.registry.register(first, "first")
    flow.add("slow", source(made), keep=False, after=["quick"])
    inputs = [Input("quick", "quick.result"), Input("late", "slow.result")]
    flow.nodes.append(Node("first", "first", inputs, trigger=Trigger.ANY))
    flow.add("end", made.alive, after=["first", "slow"])
    report = flow.run(runner, max_workers=1)
    assert report.value("first") == 0
    assert 0 not in report.value("end")
    assert made.alive() == []


# --- parts, mapped nodes --------------------------------------------------------------------------


@every_runner
def test_parts_of_a_value_go_with_it(runner: str) -> None:
    made = Made()
    flow = Workflow()
    flow.registry.register(lambda: {"a": made(), "b": made()}, "make", outputs=["a", "b"])
    flow.nodes.append(Node("make", "make", keep=False))
    flow.registry.register(takes, "takes")
    for name in "ab":
        flow.nodes.append(Node(f"take_{name}", "takes", [Input("big", f"make.{name}")]))
    flow.add("end", made.alive, after=["take_a", "take_b"])
    assert flow.run(runner).value("end") == []


@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_the_items_of_a_list_that_is_mapped_over_go_with_it(
    recorded: bool, runner: str, tmp_path: Path
) -> None:
    made = Made()
    registry = Registry()
    tried: list[int] = []

    def use(big: Big) -> int:
        tried.append(big.number)
        if tried.count(big.number) < 2:
            raise OSError
        return big.number

    with DAG("mapped", registry=registry, config={"retry_strategy": IMMEDIATE}) as dag:

        def make() -> list[Big]:
            return [made() for _ in range(5)]

        bigs = action(make, registry=registry, keep=False)()
        numbers = action(use, registry=registry, attempts=2).map(bigs)
        action(lambda numbers: (numbers, made.alive()), name="end", registry=registry)(numbers)
    more: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    assert dag.run(runner=runner, **more) == ([0, 1, 2, 3, 4], [])


@every_runner
@pytest.mark.parametrize("depth", [1, 2])
def test_the_results_of_a_mapped_node_go_with_their_list(depth: int, runner: str) -> None:
    made = Made()
    registry = Registry()
    items: Any = [1, 2, 3] if depth == 1 else [[1], [2, 3], []]
    with DAG("mapped", registry=registry) as dag:
        bigs = action(lambda item: made(), name="make", registry=registry, keep=False).map(
            items, depth=depth
        )
        count = action(lambda bigs: len(bigs), name="count", registry=registry)(bigs)
        action(lambda n: (n, made.alive()), name="end", registry=registry)(count)
    assert dag.run(runner=runner) == (3, [])


@every_runner
def test_items_that_are_followed_one_by_one_go_with_their_list(runner: str) -> None:
    made = Made()
    registry = Registry()
    with DAG("pairs", registry=registry) as dag:
        bigs = action(lambda item: made(), name="make", registry=registry, keep=False).map(
            [1, 2, 3]
        )
        numbers = action(lambda big: big.number, name="use", registry=registry).map(bigs)
        action(lambda n: (len(n), made.alive()), name="end", registry=registry)(numbers)
    assert dag.run(runner=runner) == (3, [])


@every_runner
def test_what_a_generator_yields_for_others_goes_with_its_list(runner: str) -> None:
    made = Made()
    registry = Registry()

    def make() -> Any:
        for _ in range(4):
            yield made()

    with DAG("fed", registry=registry) as dag:
        bigs = action(make, registry=registry, keep=False)()
        numbers = action(lambda big: big.number, name="use", registry=registry).map(bigs)
        action(lambda n: (n, made.alive()), name="end", registry=registry)(numbers)
    assert dag.run(runner=runner) == ([0, 1, 2, 3], [])


# --- growth ---------------------------------------------------------------------------------------


def growing(made: Made, late: bool) -> Workflow:
    """Return a graph that grows by a node which takes what is, or was, freed.

    Args:
        made: Makes the value.
        late: Whether it grows when the value is gone.
    """
    flow = Workflow().add("make", source(made), keep=False)
    flow.registry.register(takes, "takes")

    def grow(big: Any = None) -> NodeOutput:
        spec = NodeSpec("takes", id="more", inputs={"big": {"$ref": "make.result"}})
        return NodeOutput.success({}, commands=[AddNode(spec)])

    if late:
        flow.add("use", takes, take={"big": "make"}).add("grow", grow, after=["use"])
    else:
        flow.add("grow", grow, take={"big": "make"})
    flow.add("pause", lambda: 1, after=["grow"])
    return flow


@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_a_node_that_is_added_in_time_finds_the_value(
    recorded: bool, runner: str, tmp_path: Path
) -> None:
    made = Made()
    more: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    report = growing(made, late=False).run(runner, **more)
    assert report.success, report.error
    assert report.value("more") == "taken"
    assert made.alive() == []


@every_runner
def test_a_node_that_is_added_too_late_is_refused_in_memory(runner: str) -> None:
    report = growing(Made(), late=True).run(runner)
    assert report.status == "failed"
    error = report.node_reports["grow"].exception
    assert isinstance(error, InvalidState)
    text = str(error)
    assert "'more' takes 'make.result', which is gone" in text
    assert "database_url" in text


@every_runner
def test_a_node_that_is_added_too_late_gets_the_recorded_value(runner: str, tmp_path: Path) -> None:
    made = Made()
    report = growing(made, late=True).run(runner, database_url=url_of(tmp_path))
    assert report.success, report.error
    assert report.value("more") == "taken"
    assert report.value("make").number == 0
    ties: Any = report.context.results.source
    assert ties._run.plan.index["make"] in ties._run.freed  # once more
    assert made.alive() == []


# --- resume ---------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("size", [1, 50_000])
def test_a_resume_has_the_value_again_for_who_needs_it(
    size: int, runner: str, tmp_path: Path
) -> None:
    broken = [True]
    seen: list[int] = []

    def use(text: str) -> int:
        seen.append(len(text))
        if broken:
            raise OSError
        return len(text)

    flow = Workflow().note("make", "x" * size, keep=False).add("early", len_, take={"text": "make"})
    flow.add("use", use, take={"text": "make"}, after=["early"])
    flow.add("end", lambda n: n, take={"n": "use"})
    url = url_of(tmp_path)
    first = flow.run(runner, database_url=url, run_id="r")
    assert first.status == "failed"
    assert first.value("make") == "x" * size
    flow.calls.clear()
    broken.clear()
    report = flow.resume("r", url, runner=runner)
    assert report.success
    assert flow.calls == []
    assert seen == [size, size]
    assert report.value("make") == "x" * size
    assert "make" in report.values
    with DagExecutor(registry=flow.registry, database_url=url) as executor:
        assert executor.resume("r").value("make") == "x" * size


def len_(text: str) -> int:
    """Return a length."""
    return len(text)


@every_runner
def test_a_value_that_is_not_stored_either_is_gone(runner: str, tmp_path: Path) -> None:
    flow = Workflow()
    flow.registry.register(lambda: object(), "make", store=False)
    flow.nodes.append(Node("make", "make", keep=False))
    flow.add("use", lambda thing: 1, take={"thing": "make"})
    report = flow.run(runner, database_url=url_of(tmp_path))
    with pytest.raises(NotExecuted, match="keep=False"):
        report.value("make")
    assert dict(report.values) == {"use": 1}


@every_runner
def test_a_paused_run_goes_on_without_the_producer(runner: str, tmp_path: Path) -> None:
    answers = Answers([OSError("once"), "fine"])
    flow = (
        Workflow()
        .note("make", [1], keep=False)
        .note("use", answers, take={"x": "make"}, on_failure="pause")
    )
    flow.add("end", lambda: 1, after=["use"])
    url = url_of(tmp_path)
    assert flow.run(runner, database_url=url, run_id="r").status == "paused"
    report = flow.resume("r", url, runner=runner)
    assert report.success
    assert flow.calls == ["make", "use", "use"]


# --- the same mechanism, everywhere ---------------------------------------------------------------


def test_a_run_without_such_nodes_frees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(Freeing, "__init__", refuse)
    assert Workflow().note("a").note("b", after=["a"], keep=True).run().success


def test_the_cache_says_why_a_value_is_gone() -> None:
    def look(ctx: NodeCtx) -> Any:
        assert "make" not in ctx.cache.to_dict()  # type: ignore[attr-defined]
        return ctx.cache.get("make", "result")

    flow = Workflow().note("make", 1, keep=False).note("use", take={"x": "make"})
    flow.add("look", look, after=["use"])
    report = flow.run()
    assert isinstance(report.node_reports["look"].exception, NotExecuted)


def test_hooks_and_progress_see_a_completion_before_its_value_goes() -> None:
    seen: dict[str, Any] = {}

    def see(ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            seen[event.node.node_id] = event.outcome.outputs

    flow = Workflow().note("make", 1, keep=False).note("use", 2, take={"x": "make"})
    flow.note("end", 3, after=["use"])
    told: list[str] = []
    report = flow.run(hooks=[see], progress=lambda node, status, done: told.append(node))
    assert report.success
    assert not report.hook_errors
    assert seen == {"make": {"result": 1}, "use": {"result": 2}, "end": {"result": 3}}
    assert told.count("make") >= 1


def test_a_run_under_a_running_loop_frees_as_well() -> None:
    made = Made()

    async def use(big: Big) -> str:
        await asyncio.sleep(0)
        return takes(big)

    flow = Workflow().add("make", source(made), keep=False).add("use", use, take={"big": "make"})
    flow.add("end", made.alive, after=["use"])

    async def cell() -> Any:
        return flow.run("sequential"), flow.run("threads"), flow.run("asyncio")

    for report in asyncio.run(cell()):
        assert report.value("end") == []


_GRAPHS = st.lists(
    st.tuples(st.sets(st.integers(0, 20), max_size=3), st.booleans(), st.integers(0, 9)),
    min_size=1,
    max_size=14,
)


@pytest.mark.slow
@given(shape=_GRAPHS, runner=st.sampled_from(RUNNERS), recorded=st.booleans())
@settings(max_examples=25)
def test_no_graph_loses_a_value_that_a_node_takes(
    shape: list[tuple[set[int], bool, int]],
    runner: str,
    recorded: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever is freed, every call finds what its sources gave; what ends lives no longer."""
    made = Made()
    flow = Workflow()
    wanted: dict[str, list[str]] = {}
    for k, (sources, keep, luck) in enumerate(shape):
        names = sorted({f"n{each % k}" for each in sources}) if k else []
        wanted[f"n{k}"] = names

        def body(ctx: NodeCtx, fails: bool = luck == 0, **bigs: Big) -> Big:
            assert sorted(bigs) == wanted[ctx.node_id]
            assert all(isinstance(each, Big) for each in bigs.values())
            if ctx.attempt == 1 or fails:
                raise OSError
            return made()

        flow.registry.register(body, f"body{k}", attempts=2)
        inputs = [Input(name, f"{name}.result") for name in names]
        inputs.append(Input("fails", value=luck == 0))
        flow.nodes.append(Node(f"n{k}", f"body{k}", inputs, keep=keep, on_failure="continue"))
    more: dict[str, Any] = {}
    if recorded:
        more["database_url"] = url_of(tmp_path_factory.mktemp("run"))
    report = flow.run(runner, config={"retry_strategy": IMMEDIATE}, **more)
    for each in report.node_reports.values():
        assert each.exception is None or isinstance(each.exception, OSError), each.exception
    taken = {name for names in wanted.values() for name in names}
    held = [
        node_id
        for node_id, state in report.states().items()
        if state == "completed" and (flow.graph().nodes[node_id].keep or node_id not in taken)
    ]
    eventually(lambda: len(made.here()) == len(held), f"only {held} are held", 2.0)


def test_an_error_names_the_node_whose_value_is_asked_for() -> None:
    dag = DAG("named", registry=Registry())

    @dag.node(keep=False)
    def make() -> int:
        return 1

    @dag.node
    def fail(make: int) -> None:
        raise ValueError("no")

    dag.nodes["make"] >> dag.nodes["fail"]
    with pytest.raises(NodeExecutionError, match="ValueError"):
        dag.run()
    with pytest.raises(NotExecuted, match="'make'"):
        dag.get_result("make")
    assert dag.get_result("make", 5) == 5
