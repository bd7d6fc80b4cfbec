"""Profiles of nodes: what is counted, where, and how it is shown."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from dagger_dsl import DAG, engine
from dagger_dsl.engine.profiling import Profile
from dagger_dsl.errors import ConfigurationError, NodeNotFound, NotExecuted
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.registry import Registry
from tests.runners import process_bodies as there
from tests.runners.helpers import RUNNERS, Flow

EVERYWHERE = (*RUNNERS, "processes")

runners = pytest.mark.parametrize("runner", EVERYWHERE)


def calls_of(profile: Profile, name: str) -> int:
    """Return how often a function of this name was called."""
    stats: dict[Any, Any] = profile.stats.stats  # type: ignore[attr-defined]
    return sum(row[1] for (_, _, each), row in stats.items() if each == name)


@pytest.mark.row("M19")
@pytest.mark.parametrize("entry", ["run", "run_async", "start", "inside a loop"])
@runners
def test_a_profile_shows_the_slowest_functions_first(
    runner: str, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Flow().add("burns", there.burns_in_parts, give={"parts": 30}).add("other", there.pid)
    report = flow.run(runner, entry, profile=["burns"])
    profile = report.profile("burns")
    assert isinstance(profile.stats, pstats.Stats)
    assert (profile.node_id, profile.calls, profile.missed) == ("burns", 1, 0)
    assert calls_of(profile, "burns") == 30
    profile.print()
    shown = capsys.readouterr().out
    assert "node 'burns': 1 call profiled" in shown
    assert "Ordered by: cumulative time" in shown
    assert shown.index("(burns_in_parts)") < shown.index("(burns)")
    assert str(profile) == shown.removesuffix("\n")
    with pytest.raises(NotExecuted, match=r"profile=\['other'\]"):
        report.profile("other")
    with pytest.raises(NodeNotFound, match="burns"):
        report.profile("burn")


@pytest.mark.row("M19")
def test_ten_functions_are_shown_unless_more_are_asked_for() -> None:
    flow = Flow().add("n", there.calls_many)
    profile = flow.run(profile=True).profile("n")
    assert "List reduced from" in profile.text()
    assert profile.text().count("(many_") < 11
    assert profile.text(top=40).count("(many_") == 20
    assert "Ordered by: internal time" in profile.text(sort="tottime")


@runners
def test_all_attempts_and_items_count_together(runner: str) -> None:
    again = RetryPolicy(base_delay=0.0, max_delay=0.0)
    flow = Flow().add("flaky", there.fails_at_first, try_count=3, retry=again)
    flow.add("each", there.first, take={"pair": "inputs.pairs"}, map_over="pair")
    report = flow.run(runner, inputs={"pairs": [[1], [2], [3]]}, profile=True)
    assert report.value("each") == [1, 2, 3]
    assert report.profile("flaky").calls == 3
    assert calls_of(report.profile("flaky"), "fails_at_first") == 3
    assert calls_of(report.profile("each"), "first") == 3


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_async_body_is_profiled_while_it_runs_and_not_while_it_waits(runner: str) -> None:
    def work() -> None:
        pass

    def others() -> None:
        pass

    async def body() -> str:
        for _ in range(5):
            work()
            await asyncio.sleep(0.005)
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except TimeoutError:
            work()
        return "done"

    async def other() -> None:
        for _ in range(20):
            others()
            await asyncio.sleep(0.001)

    flow = Flow().add("n", body, timeout=30.0).add("other", other)
    report = flow.run(runner, profile=["n"], max_workers=2)
    assert report.value("n") == "done"
    assert calls_of(report.profile("n"), "work") == 6
    assert calls_of(report.profile("n"), "others") == 0


@pytest.fixture
def bystander() -> Iterator[None]:
    """Keep another thread alive, of which a profile must not tell."""
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.001):
            waits()

    def waits() -> None:
        pass

    thread = threading.Thread(target=count)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_beside_other_threads_the_same_is_counted(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared and sys.version_info >= (3, 12):
        pytest.skip("cProfile counts all threads there")
    monkeypatch.setattr("dagger_dsl.engine.profiling._SHARED", shared)
    if shared and sys.version_info < (3, 12):
        nobody = SimpleNamespace(PROFILER_ID=2, get_tool=lambda _: None)
        monkeypatch.setattr(sys, "monitoring", nobody, raising=False)

    def falls(depth: int) -> int:
        return falls(depth - 1) + 1 if depth else 0

    def yields() -> Iterator[int]:
        for number in range(3):
            with suppress(ValueError):
                yield number

    def delegates() -> Iterator[int]:
        yield from yields()

    def body() -> int:
        generator: Any = delegates()
        next(generator)
        generator.throw(ValueError())
        generator.close()
        with suppress(ZeroDivisionError):
            1 / falls(0)
        return falls(4) + len(sorted([3, 1, 2], key=abs))

    profile = Flow().add("n", body).run(profile=True).profile("n")
    assert profile.calls == 1
    assert [calls_of(profile, name) for name in ("body", "falls", "waits")] == [1, 6, 0]
    stats: dict[Any, Any] = profile.stats.stats  # type: ignore[attr-defined]
    by_name = {name: row for (_, _, name), row in stats.items()}
    primitive, calls, own, total, callers = by_name["falls"]
    assert (primitive, calls) == (2, 6)
    assert 0 < own <= total <= by_name["body"][3]
    by_caller = {name: numbers[0] for (_, _, name), numbers in callers.items()}
    assert by_caller == {"body": 2, "falls": 4}
    assert calls_of(profile, "yields") == calls_of(profile, "__exit__") == 3
    assert "(falls)" in profile.text()


def test_an_async_body_that_overruns_is_cancelled_as_ever() -> None:
    seen: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    report = Flow().add("n", body, timeout=0.05).run("asyncio", profile=True)
    assert seen == ["cancelled"]
    assert report.profile("n").calls == 1


def test_a_call_under_another_profiler_is_made_and_counted_as_missed() -> None:
    flow = Flow().add("n", lambda: 1)
    outer = cProfile.Profile()
    report = outer.runcall(flow.run, profile=["n"])
    assert report.value("n") == 1
    with pytest.raises(NotExecuted, match="another profiler"):
        report.profile("n")


def test_a_run_inside_of_a_profiled_node_leaves_its_profiler_alone() -> None:
    inner = Flow("inner").add("deep", lambda: 1)

    def body() -> Any:
        return inner.run("sequential", profile=True)

    report = Flow().add("outer", body).run("sequential", profile=True)
    assert calls_of(report.profile("outer"), "body") == 1
    with pytest.raises(NotExecuted, match="another profiler"):
        report.value("outer").profile("deep")


def test_nodes_that_come_later_are_profiled_when_all_are() -> None:
    from dagger_dsl.model.commands import AddNodes, NodeSpec
    from dagger_dsl.model.context import NodeOutput

    registry = Registry()
    registry.register(lambda: 2, "late")
    registry.register(
        lambda: NodeOutput.success(1, commands=[AddNodes([NodeSpec("late", "later")])]), "grows"
    )
    report = engine.run(
        Graph("g", [Node("first", "grows")]), registry, options=RunOptions(profile=True)
    )
    assert report.value("later") == 2
    assert report.profile("later").calls == 1


def test_what_is_not_profiled_is_called_as_the_plan_has_it() -> None:
    def body() -> int:
        return 1

    seen: list[Any] = []

    def watch(_ctx: Any, _event: Any) -> None:
        import sys

        seen.append(sys.getprofile())

    with DAG("d") as dag:
        a = dag.node(body)
        assert a is not None
    dag.run(profile=["body"])
    assert dag.report.profile("body").calls == 1
    dag.run()
    with pytest.raises(NotExecuted, match=r"profile=\['body'\]"):
        dag.report.profile("body")


@pytest.mark.parametrize("wrong", ["n", b"n", {"n": 1}, 5, [1], [None], ["m"], ["n", "\0" * 50]])
def test_wrong_profiles_are_refused_before_anything_runs(wrong: Any) -> None:
    calls: list[int] = []
    flow = Flow().add("n", lambda: calls.append(1))
    with pytest.raises(ConfigurationError, match="profile"):
        flow.run(profile=wrong)
    assert calls == []


def test_a_misspelt_node_is_suggested() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'transform'"):
        Flow().add("transform", there.pid).run(profile=["transfrom"])
