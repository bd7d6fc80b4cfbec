"""`ctx.checkpoint`: how far a call has come, kept for the attempt after it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, FSM, DagExecutor, FSMReturn, Graph, Node, Registry, action, engine
from dagger_dsl.errors import DaggerError, EncodingError, InvalidState, StoreFull
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.registry import define
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import make_ctx
from tests.engine.helpers import url_of
from tests.runners.helpers import CROSSING, Flow

NO_WAIT = RetryPolicy(base_delay=0.0, max_delay=0.0)
VALUE: dict[str, Any] = {
    "page": 2,
    "pair": (1, 2),
    "seen": {"a", "b"},
    "raw": b"\x00",
    "none": None,
}


def pages(ctx: NodeCtx, pages: int) -> list[Any]:
    """Fail once in the middle; return where each attempt began, as far as is known."""
    start = ctx.checkpointed({"next": 0, "began": []})
    start["began"].append(start["next"])
    for page in range(start["next"], pages):
        if page == 3 and ctx.attempt == 1:
            raise OSError(page)
        ctx.checkpoint({"next": page + 1, "began": start["began"]})
    return [*start["began"], ctx.checkpointed()["next"]]


@pytest.mark.row("H22")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("runner", CROSSING)
def test_an_attempt_begins_where_the_one_before_it_was(
    runner: str, recorded: bool, tmp_path: Path
) -> None:
    flow = Flow().add("n", pages, give={"pages": 5}, try_count=2, retry=NO_WAIT)
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    assert flow.run(runner, **options).value("n") == [0, 3, 5]


@pytest.mark.row("H22")
def test_an_async_body_has_checkpoints_too(tmp_path: Path) -> None:
    async def body(ctx: NodeCtx) -> list[Any]:
        found = ctx.checkpointed("nothing")
        ctx.checkpoint(VALUE)
        await asyncio.sleep(0)
        if ctx.attempt == 1:
            raise OSError
        return [found]

    flow = Flow().add("n", body, try_count=2, retry=NO_WAIT)
    assert flow.run("asyncio").value("n") == [VALUE]
    recorded = flow.run("asyncio", database_url=url_of(tmp_path))
    assert recorded.value("n") == [VALUE]


def test_a_copy_is_kept_and_a_copy_is_given() -> None:
    def body(ctx: NodeCtx) -> list[Any]:
        mine = {"items": [1]}
        ctx.checkpoint(mine)
        mine["items"].append(2)
        ctx.checkpointed()["items"].append(3)
        return [ctx.checkpointed(), ctx.checkpointed("other")]

    assert Flow().add("n", body).run().value("n") == [{"items": [1]}] * 2


def test_none_can_be_kept_and_is_not_the_default() -> None:
    def body(ctx: NodeCtx) -> list[Any]:
        before = ctx.checkpointed("default")
        ctx.checkpoint(None)
        return [before, ctx.checkpointed("default")]

    assert Flow().add("n", body).run().value("n") == ["default", None]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("runner", CROSSING)
def test_each_invocation_of_a_mapped_node_has_its_own(
    runner: str, recorded: bool, tmp_path: Path
) -> None:
    def body(ctx: NodeCtx, item: int) -> list[Any]:
        found = ctx.checkpointed()
        ctx.checkpoint(item * 10)
        if ctx.attempt == 1:
            raise OSError
        return [found, ctx.checkpointed()]

    flow = Flow().add(
        "n", body, take={"item": "inputs.items"}, map_over="item", try_count=2, retry=NO_WAIT
    )
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if recorded else {}
    report = flow.run(runner, inputs={"items": [1, 2, 3]}, **options)
    assert report.value("n") == [[10, 10], [20, 20], [30, 30]]


DYING = """
    import os, sys
    from dagger_dsl import DAG, Registry, action
    from dagger_dsl.model.context import NodeCtx

    registry = Registry()

    @action(registry=registry)
    def work(ctx: NodeCtx, die_at: int) -> list:
        start = ctx.checkpointed({"next": 0, "pair": ()})
        for number in range(start["next"], 6):
            if number == die_at and not start["next"]:
                os._exit(9)
            ctx.checkpoint({"next": number + 1, "pair": (number, "x" * 100_000)})
        return [ctx.attempt, start["next"], len(str(start["pair"])), type(start["pair"]).__name__]

    with DAG("dying", registry=registry) as dag:
        work(die_at=4)
    if __name__ == "__main__":
        if sys.argv[3] == "first":
            dag.run(database_url=sys.argv[1], run_id="r", runner=sys.argv[2])
        else:
            from dagger_dsl import DagExecutor
            with DagExecutor(registry=registry, database_url=sys.argv[1]) as executor:
                print(executor.resume("r", runner=sys.argv[2]).value("work"))
"""


@pytest.mark.row("H22")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_run_whose_process_dies_goes_on_from_its_checkpoint(runner: str, tmp_path: Path) -> None:
    script, database = tmp_path / "dying.py", str(tmp_path / "runs.db")
    script.write_text(textwrap.dedent(DYING), encoding="utf-8")

    def live(which: str) -> subprocess.CompletedProcess[str]:
        arguments = [database, runner, which]
        return subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
        )

    died = live("first")
    assert (died.returncode, died.stderr) == (9, "")
    with sqlite3.connect(database) as connection:
        (entry,) = connection.execute("select namespace, entry_key from cache_entries").fetchall()
    connection.close()
    assert entry == ("work", "$checkpoint")
    resumed = live("resume")
    assert resumed.returncode == 0, resumed.stderr
    attempt, start, size, kind = json.loads(resumed.stdout.replace("'", '"'))
    assert (start, kind) == (4, "tuple")
    assert size > 100_000
    assert attempt >= 1


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_levels_that_write_late_keep_checkpoints_for_the_run(
    durability: str, tmp_path: Path
) -> None:
    database = str(tmp_path / "runs.db")
    flow = Flow().add("n", pages, give={"pages": 5}, try_count=2, retry=NO_WAIT)
    report = flow.run(database_url=database, durability=durability)
    assert report.value("n") == [0, 3, 5]
    with sqlite3.connect(database) as connection:
        (text,) = connection.execute("select value from cache_entries").fetchone()
    connection.close()
    assert json.loads(text)["next"] == 5


@pytest.mark.parametrize("runner", CROSSING)
def test_trouble_of_the_database_is_no_failure_of_the_node(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow().add("n", pages, give={"pages": 2}, try_count=3, retry=NO_WAIT)

    def full(*_: Any) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunJournal, "keep", full)
        with pytest.raises(StoreFull, match="the disk is full"):
            flow.run(runner, database_url=url_of(tmp_path), run_id="r")
    options = RunOptions(runner=runner, database_url=url_of(tmp_path))
    report = engine.resume("r", flow.registry, options)
    assert report.value("n") == [0, 2]


def test_trouble_with_a_large_checkpoint_is_no_failure_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(ctx: NodeCtx) -> int:
        try:
            ctx.checkpoint("large")
        except StoreFull as error:
            raise ValueError("no good") from error
        return 1

    def full(*_: Any) -> None:
        raise StoreFull("the disk is full")

    flow = Flow()
    flow.handler("instead", lambda: -1)
    flow.add("n", body, fallback="instead")
    with monkeypatch.context() as patch:
        patch.setattr(RunJournal, "encode", full)
        with pytest.raises(StoreFull, match="the disk is full"):
            flow.run(database_url=url_of(tmp_path), run_id="r")


def test_a_batch_has_no_checkpoints() -> None:
    def body(ctx: NodeCtx, item: int) -> int:
        ctx.checkpoint(item)
        return item

    flow = Flow().add("n", body, take={"item": "inputs.items"}, map_over="item", map_batch=2)
    report = flow.run(inputs={"items": [1, 2, 3]})
    assert "batch" in str(report.error)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("runner", CROSSING)
def test_a_call_that_is_made_again_after_it_completed_begins_anew(
    runner: str, recorded: bool, tmp_path: Path
) -> None:
    def load(ctx: NodeCtx) -> list[int]:
        rows = []
        for number in range(ctx.checkpointed(0), 4):
            rows.append(number)
            ctx.checkpoint(number + 1)
        return rows

    def take(rows: list[int], ctx: NodeCtx) -> int:
        if ctx.attempt == 1:
            raise OSError
        return len(rows)

    flow = Flow().add("load", load).add("take", take, take={"rows": "load"})
    flow.registry.register(define(load, store=False), "unstored")
    flow.nodes[0] = flow.nodes[0].replace(action="unstored")
    if not recorded:
        flow.nodes[1] = flow.nodes[1].replace(try_count=2)
        report = flow.run(runner)
        assert not any(key == "$checkpoint" for _, key in report._run.inserted)
    else:
        assert not flow.run(runner, database_url=url_of(tmp_path), run_id="r").success
        options = RunOptions(runner=runner, database_url=url_of(tmp_path))
        report = engine.resume("r", flow.registry, options)
    assert report.value("take") == 4


def test_results_that_wait_for_a_commit_are_not_written_by_a_checkpoint(tmp_path: Path) -> None:
    with Store(url_of(tmp_path)) as store:
        journal = store.create_run(run_id="r", graph=Graph("g", [Node("n", "n")]), inputs={})
        journal.write_cache({("n", "later"): journal.encode(1)})
        journal.keep({("n", "$checkpoint"): journal.encode([1, "x" * 100_000])})
        assert store.load_run("r").cache == {("n", "$checkpoint"): [1, "x" * 100_000]}
        journal.close()
        assert store.load_run("r").cache["n", "later"] == 1


@pytest.mark.parametrize("runner", CROSSING)
def test_what_yields_its_items_has_no_checkpoints(runner: str) -> None:
    def source(ctx: NodeCtx) -> Iterator[int]:
        for number in range(ctx.checkpointed(0), 3):
            yield number
            ctx.checkpoint(number + 1)

    def total(numbers: Iterator[int], ctx: NodeCtx) -> int:
        ctx.checkpoint("begun")
        return sum(numbers)

    flow = Flow().add("source", source).add("total", total, take={"numbers": "source"})
    report = flow.run(runner)
    assert "has no checkpoints" in str(report.error)


@pytest.mark.parametrize("runner", CROSSING)
def test_who_takes_a_stream_has_checkpoints(runner: str) -> None:
    def source() -> Iterator[int]:
        yield from range(4)

    def total(numbers: Iterator[int], ctx: NodeCtx) -> list[Any]:
        ctx.checkpoint("begun")
        return [ctx.checkpointed(), sum(numbers)]

    flow = Flow().add("source", source).add("total", total, take={"numbers": "source"})
    assert flow.run(runner).value("total") == ["begun", 6]


@pytest.mark.parametrize("runner", CROSSING)
@pytest.mark.parametrize("way", ["fallback", "failure"])
def test_what_stands_in_goes_on_from_the_checkpoint(way: str, runner: str) -> None:
    def body(ctx: NodeCtx) -> Any:
        ctx.checkpoint(3)
        raise OSError

    def instead(ctx: NodeCtx) -> Any:
        found = ctx.checkpointed()
        ctx.checkpoint(found + 1)
        return [found, ctx.checkpointed()]

    flow = Flow()
    flow.handler("instead", instead)
    more: dict[str, Any] = {way: "instead"}
    flow.add("n", body, **more)
    assert flow.run(runner).value("n") == [3, 4]


def test_what_has_no_stored_form_is_refused_and_named(tmp_path: Path) -> None:
    errors: list[DaggerError] = []

    def body(ctx: NodeCtx) -> int:
        try:
            ctx.checkpoint({"lock": threading.Lock()})
        except EncodingError as error:
            errors.append(error)
        return 1

    flow = Flow().add("n", body)
    flow.run()
    flow.run(database_url=url_of(tmp_path))
    assert len(errors) == 2
    for error in errors:
        assert "the checkpoint of node 'n'" in str(error)


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_an_attempt_that_ran_out_of_time_keeps_nothing_more(runner: str, tmp_path: Path) -> None:
    go, over = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def body(ctx: NodeCtx) -> Any:
        if ctx.attempt == 2:
            ctx.checkpoint("second")
            go.set()
            over.wait(20)
            return ctx.checkpointed()
        go.wait(20)
        try:
            ctx.checkpoint("first, too late")
        except InvalidState as error:
            errors.append(error)
        finally:
            over.set()
        return None

    flow = Flow().add("n", body, try_count=2, timeout=0.2, retry=NO_WAIT)
    flow.nodes[0] = flow.nodes[0].replace(timeout=0.5)
    report = flow.run(runner, database_url=url_of(tmp_path), max_workers=2)
    assert report.value("n") == "second"
    (error,) = errors
    assert "attempt 1 is over" in str(error)


def test_a_new_run_of_a_part_begins_without_the_checkpoints_of_the_former_one() -> None:
    dag = DAG("parts", registry=Registry())
    seen: list[Any] = []

    @dag.node
    def load() -> int:
        return 1

    @dag.node
    def work(load: int, ctx: NodeCtx) -> int:
        seen.append(ctx.checkpointed())
        ctx.checkpoint("far")
        return load

    dag.nodes["load"] >> dag.nodes["work"]
    dag.run()
    dag.run_from("work")
    assert seen == [None, None]


def test_each_cycle_of_a_state_has_its_own() -> None:
    machine = FSM("machine", registry=Registry(), max_cycles=10)
    seen: list[Any] = []

    @machine.state(initial=True)
    def turn(ctx: NodeCtx) -> FSMReturn:
        seen.append(ctx.checkpointed())
        ctx.checkpoint(len(seen))
        return FSMReturn(next_state="turn" if len(seen) < 4 else "end")

    @machine.state(terminal=True)
    def end() -> str:
        return "done"

    machine.run()
    assert seen == [None] * 4


def test_outside_of_a_run_a_body_can_be_called_with_what_was_kept() -> None:
    registry = Registry()

    @action(registry=registry)
    def work(ctx: NodeCtx) -> Any:
        found = ctx.checkpointed(0)
        ctx.checkpoint(found + 1)
        return ctx.checkpointed()

    assert work(make_ctx(checkpointed=4)) == 5
    assert work(make_ctx()) == 1
    assert work(NodeCtx("dag", "node")) is None


def test_hooks_and_people_can_read_how_far_it_is(tmp_path: Path) -> None:
    database = str(tmp_path / "runs.db")
    flow = Flow().add("n", pages, give={"pages": 2})
    flow.run(database_url=database, run_id="r")
    with DagExecutor(registry=flow.registry, database_url=database) as executor:
        assert executor.storage.load_run("r").cache["n", "$checkpoint"]["next"] == 2
