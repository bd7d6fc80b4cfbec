"""Partial runs where they meet what else a run can do: streams, freed values, nested runs..."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, action
from dagger_dsl.errors import ConfigurationError, MissingInputError
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.streaming import Stream
from dagger_dsl.registry import Registry

RUNNERS = ["sequential", "threads", "asyncio"]
every_runner = pytest.mark.parametrize("runner", RUNNERS)
with_and_without_database = pytest.mark.parametrize("recorded", [False, True])


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def options(recorded: bool, tmp_path: Path) -> dict[str, Any]:
    return {"database_url": f"sqlite:///{tmp_path / 'runs.db'}"} if recorded else {}


class Piped:
    """``head -> source ~> total -> end``: *source* yields, or returns what only an iterator is."""

    def __init__(self, plain: bool = True) -> None:
        self.calls: list[str] = []
        self.dag = dag = DAG("piped")

        @dag.node
        def head(n: int = 3) -> int:
            self.calls.append("head")
            return n

        if plain:

            @dag.node
            def source(head: int) -> Iterator[int]:
                self.calls.append("source")
                yield from range(head)
        else:

            @dag.node
            def source(head: int) -> Any:
                self.calls.append("source")
                return iter(range(head))

        @dag.node
        def total(source: Iterable[int]) -> int:
            self.calls.append("total")
            return sum(source)

        @dag.node
        def end(total: int) -> int:
            self.calls.append("end")
            return total + 1

        head >> source >> total >> end

    def again(self) -> list[str]:
        """Return what was called since the last time."""
        calls, self.calls[:] = sorted(self.calls), []
        return calls


# --- streams --------------------------------------------------------------------------------------


@with_and_without_database
@every_runner
@pytest.mark.parametrize("plain", [True, False])
def test_a_node_that_yields_is_called_again_with_its_consumer(
    plain: bool, runner: str, options: dict[str, Any]
) -> None:
    flow = Piped(plain)
    options["runner"] = runner
    assert flow.dag.run(**options) == 4
    flow.again()
    assert flow.dag.run_from("total", **options) == 4
    assert flow.again() == ["end", "source", "total"]
    assert flow.dag.report.node_reports["head"].restored
    assert isinstance(flow.dag["source"], Stream)
    assert flow.dag.run_between("total", "total", **options) == 3
    assert flow.again() == ["source", "total"]
    assert flow.dag.run_from("end", **options) == 4
    assert flow.again() == ["end"]
    assert flow.dag.run_until("total", **options) == 3
    assert flow.again() == ["head", "source", "total"]


def test_a_part_with_a_stream_is_resumed_from_its_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    flow = Piped()
    flow.dag.run(database_url=url)
    flow.dag.run_from("total", run_id=flow.dag.report.run_id, database_url=url)
    flow.again()
    # A run of another process knows it from the record.
    later = Piped()
    assert later.dag.run_from("total", database_url=url) == 4
    assert later.again() == ["end", "source", "total"]


def test_a_stream_of_memory_is_no_value_that_could_be_recorded(tmp_path: Path) -> None:
    flow = Piped()
    flow.dag.run()
    first = flow.dag.report.run_id
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    assert flow.dag.run_from("end", run_id=first, database_url=url) == 4


def test_what_a_stream_begins_with_must_be_there() -> None:
    flow = Piped()
    with pytest.raises(MissingInputError, match="node 'source' needs 'head'"):
        flow.dag.run_from("total")
    assert flow.again() == []


def test_streams_that_read_streams_are_one_unit() -> None:
    calls: list[str] = []

    @action
    def numbers(n: int = 3) -> Iterator[int]:
        calls.append("numbers")
        yield from range(n)

    @action
    def doubled(xs: Iterable[int]) -> Iterator[int]:
        calls.append("doubled")
        for x in xs:
            yield 2 * x

    @action
    def total(xs: Iterable[int]) -> int:
        return sum(xs)

    with DAG("chain") as dag:
        total(doubled(numbers()))
    dag.run()
    calls.clear()
    assert dag.run_from("total") == 6
    assert sorted(calls) == ["doubled", "numbers"]


def test_what_waits_for_a_stream_only_in_order_keeps_its_result() -> None:
    calls: list[str] = []
    flow = Piped()

    @flow.dag.node
    def beside() -> str:
        calls.append("beside")
        return "done"

    flow.dag.connect("source", "beside")
    flow.dag.run()
    calls.clear()
    assert flow.dag.run_between("total", "end") == 4
    assert calls == []
    assert flow.dag["beside"] == "done"


@pytest.mark.parametrize("part", [{"stop_at": "source"}, {"start_at": "head", "stop_at": "source"}])
def test_a_part_that_ends_at_a_stream_is_refused(part: dict[str, str]) -> None:
    flow = Piped()
    with pytest.raises(ConfigurationError, match=r"yields its items to 'total'.*until 'total'"):
        flow.dag.run(**part)  # type: ignore[arg-type]
    assert flow.again() == []


@with_and_without_database
def test_a_generator_that_is_mapped_over_is_no_stream(options: dict[str, Any]) -> None:
    calls: list[str] = []

    @action
    def numbers(n: int = 3) -> Iterator[int]:
        calls.append("numbers")
        yield from range(n)

    @action
    def square(x: int) -> int:
        calls.append("square")
        return x * x

    with DAG("mapped") as dag:
        square.map(numbers())
    assert dag.run(**options) == [0, 1, 4]
    calls.clear()
    assert dag.run_from("square", **options) == [0, 1, 4]
    assert calls == ["square"] * 3
    calls.clear()
    dag.run_until("numbers", **options)
    assert calls == ["numbers"]
    assert dag.report.states()["numbers"] == "completed"


# --- freed values ---------------------------------------------------------------------------------


@every_runner
def test_a_freed_value_is_missed_in_words(runner: str) -> None:
    dag = freeing()
    dag.run(runner=runner)
    with pytest.raises(MissingInputError, match=r"needs 'a'.*freed.*keep=False.*Start at 'a'"):
        dag.run_from("b", runner=runner)
    assert dag.run_from("a", runner=runner) == 4


@every_runner
@with_and_without_database
def test_what_a_run_ends_with_is_kept_whoever_would_take_it_in_a_whole_run(
    options: dict[str, Any], runner: str
) -> None:
    dag = DAG("kept")

    @dag.node(keep=False)
    def a() -> list[int]:
        return [1]

    @dag.node(keep=False)
    def b(a: list[int]) -> list[int]:
        return [*a, 2]

    @dag.node
    def c(b: list[int]) -> int:
        return len(b)

    @dag.node
    def d(a: list[int]) -> int:
        return len(a)

    a >> b >> c
    a >> d
    assert dag.run_until("a", runner=runner, **options) == [1]
    assert dag.run_until("b", runner=runner, **options) == [1, 2]
    run = dag.report._run
    assert {run.plan.ids[slot] for slot in run.freed} == {"a"}


@every_runner
def test_a_freed_value_is_read_from_the_database(runner: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    dag = freeing()
    dag.run(runner=runner, database_url=url)
    for _ in range(3):  # also from the record of a partial run
        assert dag.run_from("b", runner=runner, database_url=url) == 4
    assert dag.run_from("b", run_id=dag.report.run_id) == 4  # and from memory, which has the way


def freeing() -> DAG:
    @action
    def a(n: int = 3) -> int:
        return n

    @action
    def b(x: int) -> int:
        return x + 1

    with DAG("freeing") as dag:
        b(a.with_options(keep=False)())
    return dag


# --- nested and mapped nodes ----------------------------------------------------------------------


@with_and_without_database
@every_runner
def test_nested_nodes_are_reused_and_run_again_whole(runner: str, options: dict[str, Any]) -> None:
    calls: list[str] = []

    @action
    def double(x: int) -> int:
        calls.append("double")
        return 2 * x

    @action
    def start(n: int = 3) -> int:
        calls.append("start")
        return n

    @action
    def end(x: int) -> int:
        calls.append("end")
        return x + 100

    with DAG("inner") as inner:
        double()  # type: ignore[call-arg]  # an input of the DAG
    with DAG("outer") as dag:
        end(inner(x=start()))
    options["runner"] = runner
    assert dag.run(**options) == 106

    def called(run: Callable[[], Any]) -> tuple[Any, list[str]]:
        calls.clear()
        return run(), list(calls)

    assert called(lambda: dag.run_from("end", **options)) == (106, ["end"])
    assert called(lambda: dag.run_from("inner", **options)) == (106, ["double", "end"])
    assert set(dag.report.nested) == {"inner"}
    assert called(lambda: dag.run_until("inner", **options)) == (6, ["start", "double"])
    assert called(lambda: dag.run_between("inner", "inner", **options)) == (6, ["double"])


@with_and_without_database
@every_runner
def test_mapped_batches_are_reused_and_run_again(runner: str, options: dict[str, Any]) -> None:
    calls: list[str] = []

    @action
    def numbers(n: int = 5) -> list[int]:
        calls.append("numbers")
        return list(range(n))

    @action
    def square(x: int) -> int:
        calls.append("square")
        return x * x

    @action
    def total(xs: list[int]) -> int:
        calls.append("total")
        return sum(xs)

    with DAG("batches") as dag:
        total(square.map(numbers(), batch_size=2))
    options["runner"] = runner
    assert dag.run(**options) == 30
    calls.clear()
    assert dag.run_from("total", **options) == 30
    assert calls == ["total"]
    calls.clear()
    assert dag.run_from("square", **options) == 30
    assert sorted(calls) == [*["square"] * 5, "total"]


# --- callables, the context, failures -------------------------------------------------------------


@pytest.mark.parametrize("by_wish", [True, False])
def test_a_function_as_a_value_is_had_from_memory_only(by_wish: bool, tmp_path: Path) -> None:
    @action(store=not by_wish)
    def make(n: int = 2) -> Any:
        return lambda x: x * n

    @action
    def use(f: Any) -> int:
        return int(f(3))

    with DAG("code") as dag:
        use(make())
    dag.run()
    assert dag.run_from("use") == 6
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    dag.run(database_url=url)
    first = dag.report.run_id
    with pytest.raises(MissingInputError, match="did not store its result"):
        dag.run_from("use", database_url=url)
    assert dag.run_from("use", run_id=first, database_url=url) == 6


@with_and_without_database
def test_the_metadata_of_the_earlier_run_is_not_taken_over(options: dict[str, Any]) -> None:
    @action
    def first(context: Context, n: int = 2) -> int:
        context.metadata["mark"] = 1
        return n

    @action
    def second(context: Context, x: int) -> Any:
        return x, context.metadata.get("mark"), context.get("first")

    with DAG("shared") as dag:
        second(x=first())  # type: ignore[call-arg]  # the run gives the context
    kept = Context()
    assert dag.run(context=kept, **options) == (2, 1, 2)
    assert dag.run_from("second", **options) == (2, None, 2)
    assert dag.run_from("second", context=kept, **options) == (2, 1, 2)


@with_and_without_database
@every_runner
def test_a_part_goes_on_after_failures_where_it_is_asked_to(
    runner: str, options: dict[str, Any]
) -> None:
    @action
    def first(n: int = 2) -> int:
        return n

    @action
    def bad(x: int) -> int:
        raise ValueError("no")

    @action
    def good(x: int) -> int:
        return x + 1

    @action
    def end(x: int) -> int:
        return x

    with DAG("flow") as dag:
        given = first()
        end(bad(given))
        good(given)
    options |= {"runner": runner, "error_strategy": "continue"}
    dag.run(**options)
    dag.run_from("bad", **options)
    assert set(dag.report.errors) == {"bad"}
    assert dag["good"] == 3
    assert dag.report.node_reports["good"].restored
    # What failed before is no error of this run.
    assert dag.run_from("good", **options)["good"] == 3
    assert dag.report.errors == {}
