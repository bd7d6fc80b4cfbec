"""What is told of a node when it is pointed at, and in the little room of its box."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest

from dagger_dsl import DAG, Registry, RetryPolicy, Secret, Store, action
from dagger_dsl.errors import DaggerError, NodeExecutionError
from dagger_dsl.views.picture import Picture, Shape
from dagger_dsl.views.stored import stored_report
from dagger_dsl.views.svg import picture_to_svg

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def boxes(svg: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return for each box the lines of its tooltip and the texts that it shows."""
    return {
        each.attrib["data-id"]: (
            (each.findtext(f"{_SVG}title") or "").splitlines(),
            [text.text or "" for text in each.iter(f"{_SVG}text")],
        )
        for each in ElementTree.fromstring(svg).iter(f"{_SVG}g")
        if "data-id" in each.attrib
    }


def order(url: str | None = None) -> Any:
    def load(path: str) -> list[int]:
        return [1, 2, 3]

    def total(rows: list[int], factor: int = 10) -> int:
        return sum(rows) * factor

    def refuse(value: int) -> None:
        raise ValueError(f"{value} is <too much>")

    def after(value: None) -> None: ...

    with DAG("order") as dag:
        rows = action(load)(path=dag.input("path", str))
        action(after)(action(refuse)(action(total)(rows, factor=7)))
    with pytest.raises(NodeExecutionError):
        dag.run({"path": "x.csv"}, database_url=url)
    return dag.report


def test_tooltips_of_a_run_tell_inputs_results_and_errors(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    report = order(url)
    with Store(url) as store:
        recorded = stored_report(store.load_run(report.run_id), url, store).to_svg()
    for svg in (report.to_svg(), recorded):
        told = {node_id: lines for node_id, (lines, _) in boxes(svg).items()}
        assert told == {
            "load": [
                *("load", "calls load", "completed"),
                *("path = 'x.csv'  (inputs.path)", "result: [1, 2, 3]"),
            ],
            "total": [
                *("total", "calls total", "completed"),
                *("rows = [1, 2, 3]  (load.result)", "factor = 7", "result: 42"),
            ],
            "refuse": [
                *("refuse", "calls refuse", "failed", "ValueError: 42 is <too much>"),
                "value = 42  (total.result)",
            ],
            "after": [
                *("after", "calls after", "skipped", "upstream_failed: 'refuse' failed"),
                "value = refuse.result",
            ],
        }


def test_tooltips_of_a_plan_tell_where_inputs_come_from() -> None:
    def total(rows: list[int], factor: int) -> int:
        return sum(rows) * factor

    with DAG("plan") as dag:
        action(total)(dag.input("rows", list[int]), factor=7)
    lines, _ = boxes(dag.to_svg())["total"]
    assert lines == ["total", "calls total", "rows = inputs.rows", "factor = 7"]


def test_large_hidden_and_broken_values_do_no_harm() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def make(key: Secret) -> dict[str, Any]:
        return {"key": key, "broken": Broken(), "many": list(range(1_000_000)), "x": "<" * 10**7}

    with DAG("values") as dag:
        action(make)(key=dag.input("key", Secret))
    dag.run({"key": Secret("hunter2")})
    svg = dag.report.to_svg()
    assert "hunter2" not in svg
    assert len(svg) < 10_000
    assert boxes(svg)["make"][0][-1].startswith("result: {")


def test_values_that_cannot_be_read_are_left_out() -> None:
    def unreadable() -> list[str]:
        raise DaggerError("of a type that is not known here")

    report = attrs.evolve(order(), value=lambda node_id: unreadable())
    lines, _ = boxes(report.to_svg())["total"]
    assert lines == ["total", "calls total", "completed", "rows = load.result", "factor = 7"]


def test_values_of_a_run_that_goes_on_are_not_read() -> None:
    go, begun = threading.Event(), threading.Event()

    def first() -> int:
        return 1

    def second(x: int) -> int:
        begun.set()
        go.wait(20)
        return x

    with DAG("long") as dag:
        action(second)(action(first)())
    handle = dag.start()
    try:
        assert begun.wait(20)
        lines, _ = boxes(handle.report.to_svg())["second"]
        assert lines == ["second", "calls second", "running", "x = first.result"]
    finally:
        go.set()
    handle.wait(20)
    lines, _ = boxes(handle.report.to_svg())["second"]
    assert lines[-2:] == ["x = 1  (first.result)", "result: 1"]


def test_only_what_is_drawn_is_read() -> None:
    read: list[str] = []

    def reading(name: str) -> list[str]:
        read.append(name)
        return [name]

    shapes = [
        Shape(f"n{k}", f"n{k}", body="same", values=lambda k=k: reading(f"n{k}"))  # type: ignore[misc]
        for k in range(400)
    ]
    picture_to_svg(Picture("many", tuple(shapes)))
    assert read == []
    picture_to_svg(Picture("few", tuple(shapes[:3])))
    assert read == ["n0", "n1", "n2"]


def test_a_box_names_an_error_without_its_module_and_keeps_how_often_it_was_tried() -> None:
    def refuse() -> None:
        raise DaggerError("the answer of the other side was far too long to be shown here")

    def half(x: int) -> float:
        return 1 / x

    once = RetryPolicy(max_attempts=3, base_delay=0)
    with DAG("errors", config={"on_failure": "continue"}) as dag:
        action(refuse, retry=once)()
        action(half).map([1, 0, 2])
    with pytest.raises(DaggerError):
        dag.run()
    shown = boxes(dag.report.to_svg())
    _, (name, detail) = shown["refuse"]
    assert name == "refuse"
    assert detail.startswith("DaggerError: the ")
    assert detail.endswith("… · 3 attempts")
    lines, (_, detail) = shown["half"]
    assert detail.startswith("[1] ZeroDivisionErr")
    assert detail.endswith(" · 1/3")
    assert any("ZeroDivisionError: division by zero" in line for line in lines)
