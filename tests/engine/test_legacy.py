"""Functions of the documents' old form: ``fn(executor, node, cache)``."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.report import RunReport
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Graph, Input, Node, Output
from dagger_dsl.registry import Registry
from dagger_dsl.store.cache import (
    get_input,
    get_value_from_cache,
    has_value,
    insert_value,
    parse_input_from_name,
)
from dagger_dsl.store.storage import Store
from tests.engine.helpers import RUNNERS, url_of


def run(registry: Registry, *nodes: Node, **options: Any) -> RunReport:
    """Run nodes as one graph."""
    inputs = options.pop("inputs", None)
    return engine.run(Graph("flow", nodes), registry, inputs, RunOptions(**options))


def simple_action(executor: Any, node: Any, cache: Any) -> None:
    """Document 000's sample."""
    text = get_input(cache, node.id, "input", str)
    insert_value(cache, node.id, "output", text.upper())


@pytest.mark.row("A54")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_documents_sample_runs_as_it_is_printed(runner: str) -> None:
    registry = Registry()
    registry.register_fn("simple_action", simple_action)
    registry.register(str.title, "title")
    up = Node("up", "simple_action", [Input("input", "inputs.text")], outputs=["output"])
    last = Node("last", "title", [Input("self", "up.output")])
    report = run(registry, up, last, inputs={"text": "hello"}, runner=runner)
    assert report.outputs == {"last": "Hello"}
    assert report.value("up") == {"output": "HELLO"}


@pytest.mark.row("A54")
def test_async_functions_of_the_old_form_are_awaited() -> None:
    async def fetch(executor: Any, node: Any, cache: Any) -> None:
        insert_value(cache, node.id, "result", parse_input_from_name(cache, "n", node.inputs) + 1)

    registry = Registry()
    registry.register_fn("fetch", fetch)
    assert run(registry, Node("f", "fetch", [Input("n", value=1)])).value("f") == 2


def test_returned_outputs_are_stored_and_inserted_ones_win() -> None:
    def both(executor: Any, node: Any, cache: Any) -> Any:
        insert_value(cache, node.id, "b", "inserted")
        return {"a": 1, "b": "returned"}

    def beside(executor: Any, node: Any, cache: Any) -> Any:
        insert_value(cache, node.id, "b", 2)
        return 7

    def answered(executor: Any, node: Any, cache: Any) -> Any:
        insert_value(cache, node.id, "b", 2)
        return NodeOutput.success({"a": 1}, metadata={"m": 3})

    registry = Registry()
    for each in (both, beside, answered):
        registry.register_fn(each.__name__, each)
    report = run(registry, *(Node(each, each) for each in ("both", "beside", "answered")))
    assert report.value("both") == {"a": 1, "b": "inserted"}
    assert report.value("beside") == {"result": 7, "b": 2}
    assert report.value("answered") == {"a": 1, "b": 2}
    assert report.node_reports["answered"].metadata == {"m": 3}


def test_inputs_are_not_outputs() -> None:
    """A node's inputs and outputs are kept apart, whatever they are called."""

    def same(executor: Any, node: Any, cache: Any) -> None:
        insert_value(cache, node.id, "x", get_input(cache, node.id, "x") + 1)

    def reads(executor: Any, node: Any, cache: Any) -> Any:
        return get_input(cache, "first", "x")

    registry = Registry()
    registry.register_fn("same", same)
    registry.register_fn("reads", reads)
    report = run(
        registry,
        Node("first", "same", [Input("x", value=1), Input("y", value=0)]),
        Node("second", "reads", dependencies=["first"]),
    )
    assert report.value("first") == {"x": 2}
    assert report.value("second") == 2


def test_a_call_sees_the_run_and_its_executor_shows_but_changes_nothing() -> None:
    seen: dict[str, Any] = {}

    def look(executor: Any, node: Any, cache: Any) -> None:
        seen["run"] = (executor.run_id, executor.dag_name, executor.app_data)
        seen["graph"] = list(executor.graph.nodes)
        seen["namespaces"] = sorted(cache)
        seen["values"] = (cache["a"]["result"], cache["inputs"]["x"], "nowhere" in cache)
        seen["has"] = (has_value(cache, "a", "result"), has_value(cache, "a", "other"))
        with pytest.raises(AttributeError, match="read-only view"):
            executor.add_node("flow", "extra", "act", [])

    registry = Registry()
    registry.register(lambda x: x + 1, "plus")
    registry.register_fn("look", look)
    marker = object()
    run(
        registry,
        Node("a", "plus", [Input("x", "inputs.x")]),
        Node("b", "look", dependencies=["a"]),
        inputs={"x": 1},
        app_data=marker,
        run_id="r1",
    ).raise_for_failure()
    assert seen == {
        "run": ("r1", "flow", marker),
        "graph": ["a", "b"],
        "namespaces": ["a", "inputs"],
        "values": (2, 1, False),
        "has": (True, False),
    }


def test_what_is_inserted_elsewhere_is_seen_later_and_after_a_resume(tmp_path: Path) -> None:
    def writes(executor: Any, node: Any, cache: Any) -> None:
        insert_value(cache, "global", "both", {1, 2})
        cache.discard("global", "nothing")
        insert_value(cache, "global", "gone", 1)
        cache.discard("global", "gone")

    broken = [True]

    def reads(executor: Any, node: Any, cache: Any) -> Any:
        if broken:
            raise ConnectionError
        return get_input(cache, "global", "both"), has_value(cache, "global", "gone")

    def plain(ctx: NodeCtx) -> Any:
        return ctx.cache.get("global", "both")

    registry = Registry()
    registry.register_fn("writes", writes)
    registry.register_fn("reads", reads)
    registry.register(plain)
    nodes = (
        Node("w", "writes"),
        Node("r", "reads", dependencies=["w"], on_failure="continue"),
        Node("p", "plain", dependencies=["w"]),
    )
    report = run(registry, *nodes, database_url=url_of(tmp_path), run_id="one")
    assert report.status == "failed"
    assert report.value("p") == {1, 2}
    broken.clear()
    options = RunOptions(database_url=url_of(tmp_path))
    assert engine.resume("one", registry, options).value("r") == ({1, 2}, False)


@pytest.mark.parametrize("recorded", [False, True])
def test_what_a_call_that_overran_had_inserted_is_forgotten(tmp_path: Path, recorded: bool) -> None:
    """The call goes on in its thread, but its answer, with what it wrote, is nobody's."""
    wrote = threading.Event()
    go_on = threading.Event()

    def late(executor: Any, node: Any, cache: Any) -> None:
        go_on.wait(10)
        insert_value(cache, "global", "late", True)
        wrote.set()

    def look(ctx: NodeCtx) -> Any:
        go_on.set()
        wrote.wait(10)
        time.sleep(0.05)  # the late answer arrives, or not, while this body runs
        return ctx.cache.get("global", "late")

    registry = Registry()
    registry.register_fn("late", late)
    registry.register(look)
    url = url_of(tmp_path) if recorded else None
    report = run(
        registry,
        Node("slow", "late", timeout=0.05, on_failure="continue"),
        Node("look", "look", dependencies=["slow"], trigger="done"),
        database_url=url,
        run_id="r",
    )
    assert report.node_reports["slow"].state == "failed"
    assert report.value("look") is None
    if url is not None:
        with Store(url) as store:
            assert store.load_run("r").cache == {}


def test_large_values_that_are_inserted_go_to_a_file(tmp_path: Path) -> None:
    def writes(executor: Any, node: Any, cache: Any) -> str:
        insert_value(cache, "global", "long", "x" * 100_000)
        return "done"

    registry = Registry()
    registry.register_fn("writes", writes)
    run(registry, Node("w", "writes"), database_url=url_of(tmp_path), run_id="r")
    with Store(url_of(tmp_path)) as store:
        assert store.stats().artifact_files == 1
        assert store.load_run("r").cache == {("global", "long"): "x" * 100_000}


@pytest.mark.parametrize("fault", ["write", "answer", "output", "soft"])
def test_what_a_call_without_a_result_had_inserted_is_forgotten(tmp_path: Path, fault: str) -> None:
    def writes(executor: Any, node: Any, cache: Any) -> Any:
        insert_value(cache, "global", "good", 1)
        if fault == "write":
            insert_value(cache, "global", "bad", object())
        if fault == "soft":
            return NodeOutput.failure("no")
        return object() if fault == "answer" else {"one": 1}

    registry = Registry()
    registry.register_fn("writes", writes)
    registry.register(lambda ctx: ctx.cache.get("global", "good"), "look")
    outputs = [Output("one"), Output("two")] if fault == "output" else []
    report = run(
        registry,
        Node("w", "writes", outputs=outputs, on_failure="continue"),
        Node("look", "look", dependencies=["w"], trigger="done"),
        database_url=url_of(tmp_path),
        run_id="r",
    )
    assert report.node_reports["w"].state == "failed"
    assert report.value("look") is None
    with Store(url_of(tmp_path)) as store:
        assert store.load_run("r").cache == {}


def test_what_a_call_that_raised_had_inserted_is_forgotten() -> None:
    attempts: list[bool] = []

    def flaky(executor: Any, node: Any, cache: Any) -> None:
        attempts.append(has_value(cache, "global", "started"))
        insert_value(cache, "global", "started", True)
        insert_value(cache, node.id, "n", len(attempts))
        if len(attempts) == 1:
            raise ConnectionError

    registry = Registry()
    registry.register_fn("flaky", flaky)
    report = run(registry, Node("n", "flaky", try_count=2, retry=_at_once()))
    assert report.value("n") == {"n": 2}
    assert attempts == [False, False]


def _at_once() -> Any:
    from dagger_dsl.model.policies import RetryStrategy

    return RetryStrategy.IMMEDIATE


@pytest.mark.row("A21")
def test_a_handler_of_the_old_form_reads_the_error_from_the_cache() -> None:
    seen: list[Any] = []

    def fails() -> None:
        raise ValueError("no such customer")

    def handle_error(_executor: Any, node: Any, cache: Any) -> None:
        seen.append(get_value_from_cache(cache, node.id, "error"))
        seen.append(get_input(cache, node.id, "x"))
        insert_value(cache, node.id, "recovery_attempted", True)

    def look(ctx: NodeCtx) -> Any:
        return ctx.cache.get("bad", "recovery_attempted"), ctx.cache.get("bad", "error")["message"]

    registry = Registry()
    registry.register(lambda x: fails(), "bad")
    registry.register_fn("handle_error", handle_error)
    registry.register(look)
    report = run(
        registry,
        Node("bad", "bad", [Input("x", value=5)], failure="handle_error", on_failure="continue"),
        Node("after", "look", dependencies=["bad"], trigger="done"),
    )
    assert seen[0]["type"] == "ValueError"
    assert seen[0]["message"] == "no such customer"
    assert "fails()" in seen[0]["traceback"]
    assert seen[1] == 5
    assert report.node_reports["bad"].state == "failed"  # it returned nothing
    assert report.value("after") == (True, "no such customer")


def test_a_handler_of_the_old_form_recovers_by_returning() -> None:
    def handler(executor: Any, node: Any, cache: Any) -> Any:
        insert_value(cache, node.id, "tried", True)
        return {"value": 1}

    def bad() -> None:
        raise ValueError

    registry = Registry()
    registry.register(bad)
    registry.register_fn("handler", handler)
    report = run(registry, Node("n", "bad", failure="handler"))
    assert report.value("n") == {"value": 1, "tried": True}
    assert report.node_reports["n"].recovered


def test_an_inserted_value_that_cannot_be_stored_fails_its_node(tmp_path: Path) -> None:
    def writes(executor: Any, node: Any, cache: Any) -> None:
        insert_value(cache, "global", "handle", object())

    registry = Registry()
    registry.register_fn("writes", writes)
    report = run(registry, Node("w", "writes"), database_url=url_of(tmp_path))
    assert report.status == "failed"
    assert "global.handle" in str(report.error)
