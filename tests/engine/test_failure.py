"""What a failed run says, and how its node is called again."""

from __future__ import annotations

import asyncio
import io
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dagger_dsl import DAG, DagExecutor, Registry, action
from dagger_dsl.errors import (
    ActionNotFound,
    InvalidState,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
)
from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.values import Secret
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report
from tests.engine import elsewhere
from tests.engine.helpers import IMMEDIATE, RUNNERS, Workflow, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


def failed(dag: Any, **options: Any) -> NodeExecutionError:
    """Run what fails and return what is raised."""
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(**options)
    return caught.value


def printed(error: BaseException) -> str:
    """Return what Python prints of an error."""
    return "".join(traceback.format_exception(error))


def lookup(rows: list[int], at: int) -> int:
    """Fail as a helper of the user's does."""
    return rows[at]


def chain(registry: Registry, **options: Any) -> DAG:
    """Return ``load >> parse``, where the latter fails."""
    with DAG("chain", registry=registry) as dag:

        def load() -> list[int]:
            return [1, 2, 3]

        def parse(rows: list[int], at: int) -> int:
            return lookup(rows, at)

        rows = action(load, registry=registry)()
        action(parse, registry=registry, **options)(rows, at=10)
    return dag


# --- what is printed ------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_the_story_of_a_failure_is_printed_with_it(
    recorded: bool, runner: str, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"database_url": url_of(tmp_path), "run_id": "r1"} if recorded else {}
    error = failed(chain(Registry(), try_count=3, retry=IMMEDIATE), runner=runner, **where)
    notes = error.__notes__
    assert notes[:4] == [
        "  attempt 3 of 3",
        "  inputs:",
        "    rows = [1, 2, 3]",
        "    at = 10",
    ]
    way = f"  resume it: dagger-dsl resume r1 --actions {__name__} --db {where.get('database_url')}"
    assert (way in notes) is recorded
    text = printed(error)
    assert text.rstrip().endswith("\n".join(notes))
    assert "node 'parse' failed after 3 attempts: IndexError: list index out of range" in text


@every_runner
@pytest.mark.parametrize("is_async", [False, True])
def test_the_users_own_traceback_has_no_frames_of_ours(is_async: bool, runner: str) -> None:
    registry = Registry()

    def body(ctx: NodeCtx) -> int:
        return lookup([], 1)

    async def body_async(ctx: NodeCtx) -> int:
        await asyncio.sleep(0)
        return lookup([], 1)

    with DAG("d", registry=registry) as dag:
        fn: Any = body_async if is_async else body
        action(fn, registry=registry, name="body")()
    error = failed(dag, runner=runner)
    cause = error.__cause__
    assert isinstance(cause, IndexError)
    frames = traceback.extract_tb(cause.__traceback__)
    assert [each.name for each in frames] == ["body_async" if is_async else "body", "lookup"]
    assert {each.filename for each in frames} == {__file__}


def test_what_led_to_an_error_has_no_frames_of_ours_either() -> None:
    def body(ctx: NodeCtx) -> None:
        try:
            ctx.progress(-1, 2)
        except ValueError as error:
            raise KeyError("progress") from error

    error = failed(Workflow2().add("n", body))
    assert isinstance(error.__cause__, KeyError)
    inner = error.__cause__.__cause__
    assert inner is not None
    assert [each.name for each in traceback.extract_tb(inner.__traceback__)] == ["body"]


class Workflow2(Workflow):
    """A workflow whose `run` raises, as that of a DAG does."""

    def run(self, *args: Any, **options: Any) -> Any:
        return super().run(*args, **options).raise_for_failure()


def test_rich_and_notebooks_print_the_same_story() -> None:
    error = failed(chain(Registry()))
    written = io.StringIO()
    console = Console(file=written, width=100)
    try:
        raise error
    except NodeExecutionError:
        console.print_exception()
    assert "rows = [1, 2, 3]" in written.getvalue()
    text = "\n".join(error._render_traceback_())
    assert "rows = [1, 2, 3]" in text
    assert "return rows[at]" in text
    assert "dagger_dsl/engine" not in text


def test_secrets_and_hostile_values_are_hidden_cut_and_escaped() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise OSError("no repr")

    registry = Registry()

    def use(token: Secret, text: str, many: Any, broken: Any, **more: Any) -> None:
        raise ValueError("x")

    with DAG("d", registry=registry) as dag:
        action(use, registry=registry)(
            dag.input("token"),
            "\x1b[31m" + "y" * 10_000,
            list(range(100_000)),
            dag.input("broken"),
            **{f"p{k}": k for k in range(20)},
        )
    error = failed(dag, inputs={"token": "hunter2", "broken": Broken()})
    text = "\n".join(error.__notes__)
    assert "hunter2" not in text
    assert "    token = ***" in text
    assert "\x1b" not in text
    assert "many = [0, 1, 2, 3, 4, 5, 6, 7, " in text
    assert "Broken" in text
    assert "and 14 more" in text
    assert max(map(len, text.split("\n"))) < 300


def test_of_many_failures_a_few_are_named() -> None:
    flow = Workflow2()
    for number in range(6):
        flow.note(f"n{number}", ValueError("x"), on_failure="continue")
    with pytest.raises(NodeExecutionError) as caught:
        flow.run()
    assert "  and 5 more nodes failed: 'n1', 'n2', 'n3', ..." in caught.value.__notes__


def test_raising_a_report_again_tells_nothing_twice() -> None:
    dag = chain(Registry())
    error = failed(dag)
    notes = list(error.__notes__)
    with pytest.raises(NodeExecutionError) as caught:
        dag.report.raise_for_failure()
    assert caught.value is error
    assert error.__notes__ == notes


def test_an_error_goes_through_pickle_with_its_story_and_without_the_run() -> None:
    error = failed(chain(Registry()))
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.node_id, str(copy), copy.__notes__) == ("parse", str(error), error.__notes__)
    with pytest.raises(InvalidState, match=r"report\.failure\('parse'\)"):
        copy.reproduce()
    assert "NodeExecutionError" in "\n".join(copy._render_traceback_())


def test_a_password_in_a_url_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagger_dsl.engine.failure import resume_call

    dag = chain(Registry())
    failed(dag)
    from attrs import evolve

    report = evolve(dag.report, database_url="postgresql://me:s3cret@host/db")
    assert "s3cret" not in str(resume_call(report))
    assert "me:***@host/db" in str(resume_call(report))
    assert resume_call(evolve(report, database_url="sqlite::memory:")) is None


# --- calling it again -----------------------------------------------------------------------------


@every_runner
def test_a_failed_node_is_called_again_here_with_the_inputs_it_had(runner: str) -> None:
    threads: list[int] = []
    registry = Registry()

    def load() -> dict[str, int]:
        return {"a": 1}

    def parse(rows: dict[str, int], at: str) -> int:
        threads.append(threading.get_ident())
        return rows[at]

    with DAG("d", registry=registry) as dag:
        rows = action(load, registry=registry)()
        action(parse, registry=registry, try_count=2, retry=IMMEDIATE)(rows, at="b")
    error = failed(dag, runner=runner)
    assert error.inputs == {"rows": {"a": 1}, "at": "b"}
    with pytest.raises(KeyError):
        error.reproduce()
    assert len(threads) == 3
    assert threads[-1] == threading.get_ident()
    dag.report.failure().inputs["rows"]["b"] = 5
    assert error.reproduce() == 5, "nothing else is kept of a call"
    assert dag.report.states()["parse"] == "failed"


@every_runner
def test_an_async_function_is_awaited_or_left_to_the_running_loop(runner: str) -> None:
    registry = Registry()

    async def fetch(url: str) -> int:
        await asyncio.sleep(0)
        raise OSError(url)

    with DAG("d", registry=registry) as dag:
        there: Any = action(fetch, registry=registry)
        there("there")
    error = failed(dag, runner=runner)
    with pytest.raises(OSError, match="there"):
        error.reproduce()

    async def main() -> None:
        with pytest.raises(OSError, match="there"):
            await error.reproduce()

    asyncio.run(main())


@every_runner
def test_contexts_have_the_same_ids_and_keep_nothing(runner: str) -> None:
    seen: list[NodeCtx] = []
    contexts: list[Context] = []

    def body(ctx: NodeCtx, context: Context, n: int) -> int:
        seen.append(ctx)
        contexts.append(context)
        ctx.checkpoint(len(seen))
        ctx.progress(1, 2)
        raise ValueError(ctx.checkpointed(0))

    registry, data = Registry(), object()
    with DAG("d", registry=registry) as dag:
        fn: Any = action(body, registry=registry, try_count=2, retry=IMMEDIATE)
        fn(n=3)
    error = failed(dag, runner=runner, app_data=data)
    with pytest.raises(ValueError, match="0"):
        error.reproduce()
    _, last, ours = seen
    for name in ("run_id", "dag_name", "node_id", "attempt", "invocation_key", "inputs"):
        assert getattr(ours, name) == getattr(last, name), name
    assert ours.app_data is data
    assert contexts[-1] is contexts[0]


@every_runner
def test_an_invocation_of_a_map_is_called_again(runner: str) -> None:
    registry, calls = Registry(), []

    def work(item: int, by: int) -> float:
        calls.append(item)
        return item / (item - by)

    with DAG("d", registry=registry) as dag:
        action(work, registry=registry).map([1, 2, 3, 4], by=3)
    error = failed(dag, runner=runner)
    assert error.inputs == {"item": 3, "by": 3}
    assert "  attempt 1 of 1, item 2" in error.__notes__
    with pytest.raises(ZeroDivisionError):
        error.reproduce()
    assert calls[-1] == 3
    found = dag.report.failure("work", "2")
    assert (found.node_id, found.key) == ("work", "2")
    with pytest.raises(NotExecuted, match="has not failed"):
        dag.report.failure("work", "0")
    with pytest.raises(NotExecuted, match="no invocation '9'"):
        dag.report.failure("work", "9")


@every_runner
def test_a_batch_is_called_again_item_by_item(runner: str) -> None:
    registry, calls = Registry(), []

    def work(item: int) -> float:
        calls.append(item)
        return 1 / item

    with DAG("d", registry=registry) as dag:
        action(work, registry=registry).map([2, 1, 0, 3], batch_size=4)
    error = failed(dag, runner=runner)
    calls.clear()
    with pytest.raises(ZeroDivisionError):
        error.reproduce()
    assert calls == [2, 1, 0]


@every_runner
def test_the_last_cycle_of_a_machine_is_called_again(runner: str) -> None:
    machine = FSM("m", registry=Registry())

    @machine.state(initial=True)
    def step(n: int) -> FSMReturn:
        if n == 3:
            raise ValueError(n)
        return FSMReturn(next_state="step", value=n + 1)

    error = failed(machine, n=0, runner=runner)
    assert error.inputs == {"n": 3}
    with pytest.raises(ValueError, match="3"):
        error.reproduce()


@every_runner
def test_the_failure_in_a_nested_run_is_that_of_its_node(runner: str) -> None:
    registry = Registry()

    def divide(x: int, by: int) -> float:
        return x / by

    with DAG("inner", registry=registry) as inner:
        action(divide, registry=registry)(inner.input("x"), by=0)
    with DAG("outer", registry=registry) as outer:
        inner(x=7)
    error = failed(outer, runner=runner)
    assert error.node_id == "inner.divide"
    assert error.inputs == {"x": 7, "by": 0}
    with pytest.raises(ZeroDivisionError):
        error.reproduce()
    for name in (None, "inner", "inner.divide"):
        assert outer.report.failure(name).node_id == "inner.divide"
    with pytest.raises(NodeNotFound):
        outer.report.failure("inner.nothing")


@every_runner
def test_a_function_of_the_old_form_is_called_again_with_its_cache(runner: str) -> None:
    registry, seen = Registry(), []

    def old(_executor: Any, node: Any, cache: Any) -> None:
        seen.append(cache.get(node.id, "n"))
        cache.insert(node.id, "half", 1)
        raise ValueError("x")

    def load() -> int:
        return 4

    with DAG("d", registry=registry) as dag:
        n = action(load, registry=registry)()
        fn: Any = action(old, registry=registry, inputs=["n"])
        fn(n=n)
    error = failed(dag, runner=runner)
    with pytest.raises(ValueError, match="x"):
        error.reproduce()
    assert seen == [4, 4]


def test_worker_processes_have_no_part_in_it() -> None:
    registry = Registry()
    with DAG("d", registry=registry) as dag:
        action(elsewhere.divide, registry=registry)(7, by=0)
    error = failed(dag, runner="processes", max_workers=1)
    assert error.inputs == {"x": 7, "by": 0}
    with pytest.raises(ZeroDivisionError) as caught:
        error.reproduce()
    assert "divide" in [each.name for each in caught.traceback]
    assert "divide" in printed(error)


def test_what_has_not_failed_cannot_be_called_again() -> None:
    dag = chain(Registry())
    failed(dag)
    with pytest.raises(NotExecuted, match=r"'load' has not failed .* it is completed"):
        dag.report.failure("load")
    with pytest.raises(NodeNotFound):
        dag.report.failure("lod")
    assert [each.node_id for each in dag.report.failures] == ["parse"]
    fine = Workflow().note("a").run()
    assert fine.failures == []
    with pytest.raises(NotExecuted, match=r"no node of run .* has failed"):
        fine.failure()


def test_inputs_that_are_gone_are_said_to_be() -> None:
    registry = Registry()

    def rows() -> Iterator[int]:
        yield from (1, 2)

    def total(rows: Iterator[int]) -> int:
        return 1 // (sum(rows) - 3)

    with DAG("d", registry=registry) as dag:
        action(total, registry=registry)(action(rows, registry=registry)())
    error = failed(dag)
    with pytest.raises(NotExecuted, match="a stream that is read once"):
        error.reproduce()
    assert any("not known any more" in note for note in error.__notes__)


def test_a_freed_input_is_said_to_be_freed_and_stays_so() -> None:
    dag = DAG("freed", registry=Registry())

    @dag.node(keep=False)
    def make() -> int:
        return 1

    @dag.node
    def fail(make: int) -> None:
        raise ValueError("no")

    dag.connect("make", "fail")
    error = failed(dag)
    for _ in range(2):
        with pytest.raises(NotExecuted, match="'make' has no result any more"):
            error.reproduce()
    with pytest.raises(NotExecuted):
        dag.report.value("make")


# --- stored runs ----------------------------------------------------------------------------------


def make_stored(tmp_path: Path, body: Callable[..., Any]) -> tuple[Registry, str, Any]:
    """Return a registry, a URL and the report of a recorded run in which *body* failed."""
    registry, url = Registry(), url_of(tmp_path)
    with DAG("stored", registry=registry) as dag:

        def load() -> dict[str, int]:
            return {"a": 1}

        rows = action(load, registry=registry)()
        action(body, registry=registry, name="parse")(rows, dag.input("at"))
    with DagExecutor(registry=registry, database_url=url) as executor:
        report = executor.run(dag, {"at": "b"}, run_id="r1")
    return registry, url, report


def parse(rows: dict[str, int], at: str) -> int:
    """Fail where *rows* lack something."""
    return rows[at]


def test_the_report_of_an_executor_calls_again_also_when_its_store_is_closed(
    tmp_path: Path,
) -> None:
    _, _, report = make_stored(tmp_path, parse)
    with pytest.raises(NodeExecutionError) as caught:
        report.raise_for_failure()
    with pytest.raises(KeyError):
        caught.value.reproduce()
    assert report.failure("parse").inputs == {"rows": {"a": 1}, "at": "b"}


def test_a_resumed_run_has_the_inputs_from_the_store(tmp_path: Path) -> None:
    registry, url, _ = make_stored(tmp_path, parse)
    with DagExecutor(registry=registry, database_url=url) as executor:
        report = executor.resume("r1")
        found = report.failure()
        assert found.inputs == {"rows": {"a": 1}, "at": "b"}
        assert found.attempts == 2
        with pytest.raises(KeyError):
            found.reproduce()


def test_a_run_that_is_only_read_takes_a_registry(tmp_path: Path) -> None:
    registry, url, _ = make_stored(tmp_path, parse)
    with Store(url) as store:
        report = stored_report(store.load_run("r1"), url, store)
        found = report.failure()
        assert found.inputs == {"rows": {"a": 1}, "at": "b"}
        assert found.exception is None
        with pytest.raises(KeyError):
            found.reproduce(registry)
        with pytest.raises(ActionNotFound, match="give reproduce"):
            found.reproduce()
        with pytest.raises(NodeExecutionError) as caught:
            report.raise_for_failure()
    text = "\n".join(caught.value.__notes__)
    assert "return rows[at]" in text, "the traceback that was recorded"
    assert "DagExecutor(database_url=" in text


def test_what_was_not_stored_is_said_to_be_so(tmp_path: Path) -> None:
    registry, url = Registry(), url_of(tmp_path)
    with DAG("unstored", registry=registry) as dag:

        def load() -> object:
            return object()

        def use(thing: object, token: Secret) -> None:
            raise ValueError("x")

        thing = action(load, registry=registry, store=False)()
        action(use, registry=registry)(thing, dag.input("token"))
    with DagExecutor(registry=registry, database_url=url) as executor:
        executor.run(dag, {"token": "s"}, run_id="r1")
    with Store(url) as store:
        found = stored_report(store.load_run("r1"), url, store).failure()
        with pytest.raises(NotExecuted, match="not stored"):
            found.reproduce(registry)


def test_a_map_that_is_only_read_gives_its_item(tmp_path: Path) -> None:
    registry, url = Registry(), url_of(tmp_path)

    def work(item: int) -> float:
        return 1 / item

    with DAG("mapped", registry=registry) as dag:
        action(work, registry=registry).map([1, 0, 2])
    with DagExecutor(registry=registry, database_url=url) as executor:
        executor.run(dag, run_id="r1")
    with Store(url) as store:
        found = stored_report(store.load_run("r1"), url, store).failure("work")
        assert (found.key, dict(found.inputs)) == ("1", {"item": 0})
        with pytest.raises(ZeroDivisionError):
            found.reproduce(registry)


def test_a_retry_policy_that_counts_by_itself_has_no_number() -> None:
    import tenacity

    policy = RetryPolicy(stop=tenacity.stop_after_attempt(2), base_delay=0.0)
    error = failed(chain(Registry(), retry=policy))
    assert error.failure.allowed is None
    assert error.__notes__[0] == "  attempt 2"


def test_a_body_that_yields_is_read_to_its_error() -> None:
    def source(n: int) -> Iterator[int]:
        yield n
        raise ValueError("in the middle")

    def total(numbers: Iterator[int]) -> int:
        return sum(numbers)

    flow = Workflow().add("source", source, give={"n": 4})
    flow.add("total", total, take={"numbers": "source"})
    failure = flow.run("sequential").failure("source")
    with pytest.raises(ValueError, match="in the middle"):
        failure.reproduce()


def test_what_is_no_node_has_no_failure() -> None:
    dag = DAG("one", registry=Registry())

    @dag.node
    def only() -> None:
        raise OSError

    failed(dag)
    for wrong in (5, [], object(), "onli"):
        with pytest.raises(NodeNotFound, match="only"):
            dag.report.failure(wrong)


def test_the_failures_of_a_run_are_those_of_items_and_of_runs_inside_of_it() -> None:
    registry = Registry()

    @action(registry=registry)
    def odd(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    with DAG("inner", registry=registry) as inner:
        odd.map(inner.input("numbers", list[int]))
    with DAG("outer", registry=registry) as outer:
        inner(numbers=[1, 2, 3])
        odd.with_options(id="alone")(number=5)
    failed(outer, error_strategy="fail_fast", runner="sequential")
    found = [(each.path, each.node_id, str(each.error)) for each in outer.report.failures]
    assert found[0] == (("inner", "odd", "[0]"), "inner.odd", "ValueError: 1")
    assert all(path[0] in ("inner", "alone") for path, _, _ in found)
