"""Results shared between runs: what `explain_cache` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, NodeOutput, Registry, action
from dagger_dsl.engine.lookups import MEMORY
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import ConfigurationError, NodeNotFound
from dagger_dsl.model.commands import EmitEvent
from dagger_dsl.testing import play


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    MEMORY.forget()
    with Registry():
        yield


def in_memory(_: Path) -> dict[str, Any]:
    return {}


def in_a_database(folder: Path) -> dict[str, Any]:
    return {"database_url": f"sqlite:{folder / 'runs.db'}"}


PLACES = pytest.mark.parametrize("place", [in_memory, in_a_database])


@PLACES
def test_a_mapped_node_counts_what_its_invocations_took(place: Any, tmp_path: Path) -> None:
    @action(cache=True)
    def double(x: int) -> int:
        return 2 * x

    def run(*items: int) -> RunReport:
        with DAG("d") as dag:
            double.map(list(items))
        return play(dag, **place(tmp_path)).raise_for_failure()

    first = run(1, 2).explain_cache("double")
    assert not first.hit
    assert first.reason.startswith("0 of 2 invocations took the results of other runs; invocation ")
    assert "no result of action 'double' was recorded yet" in first.reason
    assert str(run(1, 2).explain_cache("double")) == (
        "hit: 2 of 2 invocations took the results of other runs"
    )
    mixed = run(1, 2, 3)
    assert mixed.explain_cache("double").reason.startswith(
        "2 of 3 invocations took the results of other runs; invocation 2 did not: the inputs "
    )
    assert mixed.explain_cache("double", "0").hit
    assert not mixed.explain_cache("double", key="2").hit
    wrong_keys: list[Any] = ["3", 0, []]
    for wrong in wrong_keys:
        with pytest.raises(ConfigurationError, match=r"has no invocation .*; known: '0', '1', '2'"):
            mixed.explain_cache("double", wrong)


def test_a_node_without_a_strategy_is_told_how_to_get_one() -> None:
    @action
    def double(x: int) -> int:
        return 2 * x

    with DAG("d") as dag:
        double(1)
        double.map([1])
    report = play(dag)
    for found in (report.explain_cache("double"), report.explain_cache("double_2")):
        assert not found.hit
        assert "its cache strategy is 'never' (@action(cache=...) lets it share" in found.reason
    with pytest.raises(NodeNotFound):
        report.explain_cache("doubel")


def asks(ctx: NodeCtx) -> Any:
    return ctx.wait_for_human("which?", int)


def commands() -> NodeOutput:
    return NodeOutput.success(1, commands=[EmitEvent("seen", {})])


def plain() -> int:
    return 1


def fails() -> int:
    raise ValueError("no")


@PLACES
@pytest.mark.parametrize(
    ("body", "options", "says"),
    [
        (asks, {}, "a person was asked"),
        (commands, {}, "commands came with it, and a result alone would not repeat them"),
        (plain, {"store": False}, "its action says store=False"),
        (fails, {"attempts": 1, "fallback": plain}, "a fallback or a failure handler gave it"),
    ],
)
def test_a_result_that_is_not_shared_is_told_why(
    body: Any, options: dict[str, Any], says: str, place: Any, tmp_path: Path
) -> None:
    node = action(name="n", cache=True, **options)(body)
    with DAG("d") as dag:
        node()
    for _ in range(2):
        report = play(dag, answers={"n": 3}, **place(tmp_path)).raise_for_failure()
        assert report.explain_cache("n").reason == (
            f"no result of action 'n' was recorded yet; other runs will not find its result: {says}"
        )


def test_a_value_without_a_stored_form_is_told_to_be_shared_by_nobody(tmp_path: Path) -> None:
    @action(cache=True)
    def opens() -> Any:
        return object()

    with DAG("d") as dag:
        opens()
    found = play(dag, **in_memory(tmp_path)).explain_cache("opens")
    assert "other runs will not find its result: " in found.reason


def test_the_reason_is_read_back_with_the_run(tmp_path: Path) -> None:
    node = action(name="n", cache=True)(commands)
    with DAG("d") as dag:
        node()
    place = in_a_database(tmp_path)
    report = play(dag, **place)
    again = play(report.run_id, **place)
    assert again.explain_cache("n") == report.explain_cache("n")
