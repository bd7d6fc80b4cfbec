"""What nodes write into the metadata of their context is recorded, and a resume has it again."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl import DAG, Registry, action, engine
from dagger_dsl.errors import DecodingError
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Node
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.values import Secret
from tests.engine.helpers import RUNNERS, Workflow, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


def notes(folder: Path) -> list[dict[str, Any]]:
    """Return what was recorded of the context, in order."""
    with sqlite3.connect(folder / "runs.db") as connection:
        rows = connection.execute("select body from run_log where kind = 'command' order by seq")
        bodies = [json.loads(text) for (text,) in rows]
    connection.close()
    return [body["context"] for body in bodies if isinstance(body, dict) and "context" in body]


class Steps:
    """A chain whose nodes write into the metadata; the last one fails as long as it is told to.

    Attributes:
        flow: The graph.
        seen: The metadata that each call of the last node found.
    """

    def __init__(self) -> None:
        self.broken = True
        self.seen: list[dict[str, Any]] = []

        def first(context: Context) -> int:
            context.metadata["trail"] = [{"node": "first", "when": dt.date(2026, 1, 2)}]
            context.metadata["nested"] = {"deep": {"list": [1]}}
            return 1

        def second(number: int, context: Context) -> int:
            context.metadata["trail"].append({"node": "second", "pair": (1, 2)})
            context.metadata["nested"]["deep"]["list"].append(2)
            context.metadata.pop("dropped", None)
            return number + 1

        def third(number: int, context: Context) -> int:
            self.seen.append(dict(context.metadata))
            if self.broken:
                raise OSError
            return number + 1

        self.flow = Workflow().add("first", first).add("second", second, take={"number": "first"})
        self.flow.add("third", third, take={"number": "second"})


WANTED: dict[str, Any] = {
    "user": "u",
    "trail": [{"node": "first", "when": dt.date(2026, 1, 2)}, {"node": "second", "pair": (1, 2)}],
    "nested": {"deep": {"list": [1, 2]}},
}


@pytest.mark.row("M3", "M20")
@every_runner
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("given", [False, True])
def test_a_resume_has_the_metadata_again_before_its_nodes_run(
    given: bool, durability: str, runner: str, tmp_path: Path
) -> None:
    steps, url = Steps(), url_of(tmp_path)
    context = Context(metadata={"user": "u", "dropped": 1})
    options: dict[str, Any] = {"database_url": url, "durability": durability}
    assert steps.flow.run(runner, context=context, run_id="r", **options).status == "failed"
    steps.broken = False
    again = Context(metadata={"mine": 1, "user": "another"}) if given else None
    report = steps.flow.resume("r", url, runner=runner, context=again)
    assert report.success
    extra = {"mine": 1} if given else {}
    assert steps.seen[-1] == {**WANTED, **extra, "run_id": "r"}
    assert steps.seen[0] == {**WANTED, "run_id": "r"}
    if again is not None:
        assert report.context is again
    assert report.context.metadata["execution_status"] == "completed"


def test_only_what_changed_is_recorded(tmp_path: Path) -> None:
    def grow(context: Context) -> None:
        context.metadata.setdefault("trail", []).append({"k": len(context.metadata["trail"])})

    flow = Workflow().add("n0", grow)
    for k in range(1, 50):
        flow.add(f"n{k}", grow if k % 2 else (lambda: 1), after=[f"n{k - 1}"])
    config = {"flush_interval": 0.0}
    flow.run(context=Context(metadata={"big": "x" * 10_000}), config=config, **kept(tmp_path))
    found = notes(tmp_path)
    assert found[0] == {"set": {"big": "x" * 10_000}}
    assert found[1] == {"set": {"trail": [{"k": 0}]}}
    assert found[2:] == [{"more": {"trail": [{"k": k}]}} for k in range(1, 26)]


def kept(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the options of a recorded run."""
    return {"database_url": url_of(folder), "run_id": "r", **more}


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([1], [1, 2], {"more": {"x": [2]}}),
        ([1], [True], {"set": {"x": [True]}}),
        ([1], [1.0], {"set": {"x": [1.0]}}),
        ([], [1], {"set": {"x": [1]}}),
        ([1, 2], [1], {"set": {"x": [1]}}),
        ([1], [12], {"set": {"x": [12]}}),
        ("a", ["a"], {"set": {"x": ["a"]}}),
        ({"a": 1}, {"a": 2}, {"set": {"x": {"a": 2}}}),
        ((1,), (1, 2), {"set": {"x": {"$type": "tuple", "$value": [1, 2]}}}),
        ([1, 2, 3], [1, 5, 3, 4], {"at": {"x": [[1, 5]]}, "more": {"x": [4]}}),
        ({"a": 1}, {"a": 1, "b": 2}, {"keys": {"x": {"b": 2}}}),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, {"lost": {"x": ["a"]}, "keys": {"x": {"c": 3}}}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"set": {"x": {"b": 2, "a": 1}}}),
        ({"a": 1}, {"a": 1, "$type": 2}, ...),
        (1, ..., {"gone": ["x"]}),
        (None, None, None),
    ],
)
def test_each_kind_of_change_comes_back(
    before: Any, after: Any, change: Any, tmp_path: Path
) -> None:
    def write(value: Any) -> Any:
        def body(context: Context) -> None:
            if value is ...:
                del context.metadata["x"]
            else:
                context.metadata["x"] = value

        return body

    seen: list[Any] = []
    broken = [True]

    def look(context: Context) -> None:
        seen.append(context.metadata.get("x", ...))
        if broken:
            raise OSError

    flow = Workflow().add("a", write(before)).add("b", write(after), after=["a"])
    flow.add("c", look, after=["b"])
    flow.run(config={"flush_interval": 0.0}, **kept(tmp_path))
    found = notes(tmp_path)
    assert change is ... or found == [
        {"set": {"x": before if before != (1,) else {"$type": "tuple", "$value": [1]}}},
        *([change] if change else []),
    ]
    broken.clear()
    flow.resume("r", url_of(tmp_path))
    assert seen == [after, after]
    assert [type(each) for each in seen] == [type(after)] * 2


class Large:
    """Three large values in the metadata of a chain, each node of which adds to all of them.

    Args:
        nodes: How many there are.
        monkeypatch: Makes every value large, and no time long enough for a whole comparison.
    """

    def __init__(self, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dagger_dsl.engine.noted._SMALL", -1)
        monkeypatch.setattr("dagger_dsl.engine.noted._SHARE", 0.0)
        self.flow = flow = Workflow()
        self.broken = True
        self.seen: list[dict[str, Any]] = []
        for k in range(nodes):

            def body(context: Context, k: int = k) -> None:
                data = context.metadata
                data.setdefault("log", [{"first": 0}]).append({"k": k})
                data.setdefault("done", {"deep": []})[str(k)] = k
                data["done"]["last"] = k
                data["number"] = k
                data["log"][0]["first"] = k
                data["done"]["deep"].append(k)

            flow.add(f"n{k}", body, after=[f"n{k - 1}"] if k else [])

        def end(context: Context) -> None:
            self.seen.append(dict(context.metadata))
            if self.broken:
                raise OSError

        flow.add("end", end, after=[f"n{nodes - 1}"])


@every_runner
def test_of_large_values_what_was_added_is_recorded_at_once_and_the_rest_at_the_end(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(20, monkeypatch)
    large.flow.run(runner, config={"flush_interval": 0.0}, **kept(tmp_path))
    found = notes(tmp_path)
    assert set(found[0]) == {"set"}
    for k in range(1, 20):
        assert found[k]["set"] == {"number": k}
        assert found[k]["more"] == {"log": [{"k": k}]}
        assert found[k]["keys"]["done"].items() >= {str(k): k, "last": k}.items()
    assert len(found) == 21
    assert found[20] == {
        "at": {"log": [[0, {"first": 19}]]},
        "keys": {"done": {"deep": list(range(20))}},
    }
    large.broken = False
    large.flow.resume("r", url_of(tmp_path), runner=runner)
    before, after = large.seen
    assert after == before
    assert after["log"] == [{"first": 19}, *({"k": k} for k in range(20))]


def test_a_list_that_changes_before_its_end_is_compared_wholly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(1, monkeypatch)
    large.broken = False
    changes: list[Any] = [
        lambda data: data["log"].insert(0, "x"),
        lambda data: data["log"].pop(),
        lambda data: data["done"].pop("deep"),
        lambda data: data.pop("number"),
        lambda data: data.update(log=[*data["log"]]),
    ]
    flow, last = large.flow, "n0"
    for k, change in enumerate(changes):

        def body(context: Context, change: Any = change) -> None:
            change(context.metadata)

        flow.add(f"c{k}", body, after=[last])
        last = f"c{k}"
    flow.add("fail", lambda: 1 // 0, after=[last])
    flow.run(config={"flush_interval": 0.0}, **kept(tmp_path))
    assert notes(tmp_path)[1:] == [
        {"set": {"log": ["x", {"first": 0}, {"k": 0}]}},
        {"set": {"log": ["x", {"first": 0}]}},
        {"lost": {"done": ["deep"]}},
        {"gone": ["number"]},
    ]


def test_what_a_growing_list_and_dict_cost_is_what_is_added(tmp_path: Path) -> None:
    def grow(x: int, context: Context) -> int:
        context.metadata.setdefault("log", []).append({"i": x, "text": "t" * 20})
        context.metadata.setdefault("done", {})[str(x)] = x
        return x

    with DAG("grow", registry=Registry()) as dag:
        action(grow, registry=Registry()).map(dag.input("xs"))
    many = 600
    dag.run({"xs": list(range(many))}, config={"flush_interval": 0.0}, **kept(tmp_path))
    found = notes(tmp_path)
    assert sum(len(json.dumps(each)) for each in found) < 200 * many
    context = dag.report.context
    assert len(context.metadata["log"]) == len(context.metadata["done"]) == many


@every_runner
def test_a_run_without_a_context_records_nothing_of_one(runner: str, tmp_path: Path) -> None:
    flow = Workflow().note("a", 1)
    report = flow.run(runner, **kept(tmp_path))
    assert report.context.get("a") == 1  # made afterwards
    assert notes(tmp_path) == []


def test_what_has_no_stored_form_is_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lone = "lone \ud800"

    def write(context: Context, ctx: NodeCtx) -> None:
        context.metadata["handle"] = object()
        context.metadata["secret"] = Secret("hidden")
        context.metadata[3] = "three"  # type: ignore[index]
        context.metadata[lone] = 1
        context.metadata["kept"] = [ctx.node_id, lone]

    broken = [True]

    def fail() -> None:
        if broken:
            raise OSError

    flow = Workflow().add("a", write).add("b", write, after=["a"])
    flow.add("c", fail, after=["b"])
    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        flow.run(config={"flush_interval": 0.0}, **kept(tmp_path))
    told = [each.getMessage() for each in caplog.records if "context.metadata" in each.message]
    assert len(told) == 4
    assert sum("'handle'" in each and "left out" in each for each in told) == 1
    assert sum("'secret'" in each for each in told) == 1
    assert "hidden" not in "".join(told)
    broken.clear()
    report = flow.resume("r", url_of(tmp_path))
    assert report.context.metadata == {
        "kept": ["b", lone],
        "run_id": "r",
        "execution_status": "completed",
    }


@attrs.frozen
class Reading:
    """A class that the codec knows by an annotation."""

    value: int


def test_values_of_known_classes_come_back_and_others_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def write(context: Context) -> Reading:
        context.metadata["reading"] = Reading(3)
        return Reading(3)

    def look(context: Context) -> Any:
        if broken:
            raise OSError
        return context.metadata["reading"]

    flow = Workflow().add("a", write).add("b", look, after=["a"])
    flow.run(**kept(tmp_path))
    broken.clear()
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("update run_log set body = replace(body, ':Reading', ':Unknown')")
    connection.close()
    flow.calls.clear()
    with pytest.raises(DecodingError, match=r"context\.metadata\['reading'\].*does not know"):
        flow.resume("r", url_of(tmp_path))
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("update run_log set body = replace(body, ':Unknown', ':Reading')")
    connection.close()
    assert flow.resume("r", url_of(tmp_path)).value("b") == Reading(3)


def test_a_completed_run_is_shown_with_its_context(tmp_path: Path) -> None:
    steps = Steps()
    steps.broken = False
    steps.flow.run(context=Context(metadata={"user": "u"}), **kept(tmp_path))
    url = url_of(tmp_path)
    report = steps.flow.resume("r", url)
    wanted = {**WANTED, "run_id": "r", "execution_status": "completed"}
    assert report.context.metadata == wanted
    assert dict(report.context.results) == {"first": 1, "second": 2, "third": 3}
    assert set(report.context.metrics["node_times"]) == {"first", "second", "third"}
    given = Context()
    assert steps.flow.resume("r", url, context=given).context is given
    assert given.metadata == wanted


def test_the_same_start_again_finds_the_context_of_the_first(tmp_path: Path) -> None:
    flow = Steps()
    flow.broken = False
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "k"}
    flow.flow.run(context=Context(metadata={"user": "u"}), **options)
    again = flow.flow.run(**options)
    assert len(flow.seen) == 1
    assert again.context.metadata["trail"] == WANTED["trail"]


@every_runner
def test_deleted_results_stay_deleted(runner: str, tmp_path: Path) -> None:
    broken = [True]
    seen: list[list[str]] = []

    def drop(context: Context) -> None:
        context.results.pop("a", None)

    def look(context: Context) -> None:
        seen.append(list(context.results))
        if broken:
            raise OSError

    flow = Workflow().note("a", 1).add("b", drop, after=["a"]).add("c", look, after=["b"])
    flow.run(runner, **kept(tmp_path))
    broken.clear()
    report = flow.resume("r", url_of(tmp_path), runner=runner)
    assert seen == [["b"], ["b"]]
    assert report.value("a") == 1  # the store has it


def test_what_a_node_wrote_stays_when_it_is_tried_again(tmp_path: Path) -> None:
    def work(context: Context, ctx: NodeCtx) -> int:
        context.metadata.setdefault("attempts", []).append(ctx.attempt)
        if ctx.attempt < 4:
            raise OSError
        return 1

    flow = Workflow().add("a", work)
    flow.run(**kept(tmp_path))
    flow.run(**{**kept(tmp_path), "run_id": "other"})
    for _ in range(3):
        report = flow.resume("r", url_of(tmp_path))
    assert report.context.metadata["attempts"] == [1, 2, 3, 4]


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_metadata_that_other_threads_change_all_the_time_is_recorded(
    runner: str, tmp_path: Path
) -> None:
    over = threading.Event()

    def stir(context: Context) -> None:
        table = context.metadata["table"]
        for k in range(200_000):
            if over.is_set():
                break
            table[k % 7] = table.pop(k % 5, k)
        table.clear()
        table["last"] = "entry"

    def quick(context: Context) -> None:
        context.metadata["quick"] = context.metadata.get("quick", 0) + 1

    flow = Workflow().add("stir", stir).add("n0", quick)
    for k in range(1, 60):
        flow.add(f"n{k}", quick, after=[f"n{k - 1}"])
    flow.add("end", lambda: over.set(), after=["n59"])
    context = Context(metadata={"table": {k: k for k in range(300)}})
    config = {"flush_interval": 0.0}
    report = flow.run(runner, max_workers=2, context=context, config=config, **kept(tmp_path))
    assert report.success, report.error
    shown = flow.resume("r", url_of(tmp_path)).context.metadata
    assert shown["quick"] == 60
    assert shown["table"] == {"last": "entry"}


# --- death ----------------------------------------------------------------------------------------

VICTIM = """
import os, sys
from dagger_dsl import engine
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.sharing import Context
from tests.engine.test_context_recorded import trail

url, runner, last = sys.argv[1], sys.argv[2], int(sys.argv[3])

def die(k):
    if k == last:
        os.kill(os.getpid(), 9)

flow = trail(die)
options = RunOptions(runner=runner, database_url=url, run_id="r", config={"flush_interval": 0.0},
                     context=Context(metadata={"user": "u"}))
if len(sys.argv) > 4:
    engine.resume("r", flow.registry, RunOptions(runner=runner, database_url=url))
else:
    engine.run(flow.graph(), flow.registry, None, options)
"""


def trail(at: Any) -> Workflow:
    """Return a chain of ten nodes that leave a trail, in lists inside of the metadata.

    Args:
        at: Called with the number of each node, after it has written.
    """
    flow = Workflow()
    for k in range(10):

        def body(context: Context, k: int = k) -> int:
            context.metadata.setdefault("audit", {"trail": []})["trail"].append(k)
            context.metadata.setdefault("flat", []).append((k, context.metadata["user"]))
            at(k)
            return k

        flow.registry.register(body, f"body{k}")
        after = [f"n{k - 1}"] if k else []
        flow.nodes.append(Node(f"n{k}", f"body{k}", dependencies=after))
    return flow


def _deaths() -> Iterator[tuple[int, int]]:
    yield from ((3, 7), (1, 1), (9, 9))


@pytest.mark.slow
@pytest.mark.row("M3")
@every_runner
@pytest.mark.parametrize(("first", "second"), list(_deaths()))
def test_what_is_recorded_of_the_metadata_survives_kills(
    first: int, second: int, runner: str, tmp_path: Path
) -> None:
    url = url_of(tmp_path)
    for number, last in enumerate((first, second)):
        more = ["again"] if number else []
        died = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(VICTIM), url, runner, str(last), *more],
            cwd=Path(__file__).parents[2],
            check=False,
            timeout=60,
        )
        assert died.returncode == -9
    flow = trail(lambda _k: None)
    options = RunOptions(runner=runner, database_url=url)
    report = engine.resume("r", flow.registry, options)
    assert report.success
    metadata = report.context.metadata
    assert metadata["user"] == "u"
    # What a node wrote that died was not recorded with an outcome, and it wrote it again.
    assert metadata["audit"]["trail"] == list(range(10))
    assert metadata["flat"] == [(k, "u") for k in range(10)]
