"""How things show themselves in notebooks."""

from __future__ import annotations

from typing import Any

import pytest

from dagger_dsl import DAG, FSM, FSMReturn, Registry, action
from dagger_dsl.engine.control import RunHandle
from dagger_dsl.errors import NodeExecutionError

KINDS = {"text/plain", "text/html", "image/svg+xml", "text/vnd.mermaid"}


def shown(thing: Any, **asked: Any) -> dict[str, str]:
    bundle: dict[str, str] = thing._repr_mimebundle_(**asked)
    return bundle


@pytest.fixture
def dag() -> DAG:
    registry = Registry()

    @action(registry=registry)
    def load() -> int:
        return 1

    @action(registry=registry)
    def check(number: int) -> int:
        raise ValueError("<no> & none")

    with DAG("flow", registry=registry) as dag:
        check(load())
    return dag


@pytest.mark.row("N8")
def test_graphs_dags_reports_handles_and_machines_show_themselves(dag: DAG) -> None:
    with pytest.raises(NodeExecutionError):
        dag.run()
    machine = FSM("machine", registry=Registry())

    @machine.state(initial=True, terminal=True)
    def only() -> FSMReturn:
        return FSMReturn(value=1)

    machine.run()
    handle = dag.start()
    handle.wait(20)
    for thing in (dag, dag.compile(), dag.report, handle, machine, machine.report):
        bundle = shown(thing)
        assert bundle.keys() == KINDS
        assert bundle["text/html"].startswith('<div class="dagger-scroll"')
        assert "<svg" in bundle["text/html"]
        assert bundle["image/svg+xml"].startswith("<svg")
        assert bundle["text/plain"]
    assert "stateDiagram" in shown(machine)["text/vnd.mermaid"]
    assert "ValueError: &lt;no&gt; &amp; none" in shown(dag.report)["text/html"]


def test_only_what_is_asked_for_is_made(dag: DAG) -> None:
    assert shown(dag, include={"text/plain"}).keys() == {"text/plain"}
    assert shown(dag, exclude={"text/html"}).keys() == KINDS - {"text/html"}


def test_what_cannot_be_a_graph_yet_says_why() -> None:
    bundle = shown(FSM("empty", registry=Registry()))
    assert bundle.keys() == {"text/plain"}
    name, why = bundle["text/plain"].split("\n", 1)
    assert name == "<FSM 'empty': 0 states>"
    assert "has no states" in why


def test_a_cycle_can_be_looked_at() -> None:
    dag = DAG("flow", registry=Registry())

    @dag.node
    def one(b: int) -> int:
        return b

    @dag.node
    def two(a: int) -> int:
        return a

    dag.connect("one", "two", input="a")
    dag.connect("two", "one", input="b")
    bundle = shown(dag)
    assert bundle.keys() == KINDS
    assert bundle["image/svg+xml"].count('<g class="arrow">') == 2


def test_a_handle_without_a_run_shows_its_name() -> None:
    assert shown(RunHandle("r", "flow")) == {"text/plain": "<RunHandle r of 'flow': running>"}


def test_a_run_that_goes_on_shows_how_it_stands(dag: DAG) -> None:
    import threading

    registry, go, begun = Registry(), threading.Event(), threading.Event()

    @action(registry=registry)
    def waits() -> int:
        begun.set()
        go.wait(20)
        return 1

    with DAG("waiting", registry=registry) as waiting:
        waits()
    handle = waiting.start()
    try:
        assert begun.wait(20)
        assert str(handle.report.states()["waits"]) == "running"
        assert "s-running" in shown(handle)["image/svg+xml"]
    finally:
        go.set()
    handle.wait(20)
    assert "s-completed" in shown(handle)["image/svg+xml"]


@pytest.mark.row("N8")
def test_ipython_displays_them(dag: DAG) -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    with pytest.raises(NodeExecutionError):
        dag.run()
    for thing in (dag, dag.compile(), dag.report):
        data, _ = formatters.DisplayFormatter().format(thing)
        assert data.keys() >= KINDS
        assert data["image/svg+xml"] == thing.to_svg()
        assert 'data-id="check"' in data["text/html"]
