"""Compiling a DAG: one frozen graph, kept until something changes, equal for equal drafts."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import DAG, Graph, Node, action
from dagger_dsl.dsl import NodeBuilder
from dagger_dsl.errors import CycleError, ValidationError
from dagger_dsl.model.document import graph_from_plain, graph_to_plain
from dagger_dsl.model.graph import Edge, GraphInput, Input
from dagger_dsl.registry import Registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def load(path: str) -> list[int]:
    return []


def clean(rows: list[int], limit: int = 10) -> list[int]:
    return rows


@pytest.mark.row("O6")
def test_a_dag_compiles_to_the_graph_that_the_ir_spells_out() -> None:
    load_, clean_ = action(load), action(clean, outputs=["good"], timeout=3)
    with DAG("flow", version="1") as dag:
        rows = load_(dag.input("path", str))
        kept: Any = clean_(rows, limit=2)
        kept.out.good >> clean_.with_options(id="again")
    assert dag.compile() == Graph(
        "flow",
        [
            Node("load", "load", inputs=[Input("path", "inputs.path")]),
            Node(
                "clean",
                "clean",
                inputs=[Input("rows", "load.result"), Input("limit", value=2)],
                outputs=["good"],
                timeout=3,
            ),
            Node(
                "again",
                "clean",
                inputs=[Input("rows", "clean.good")],
                outputs=["good"],
                timeout=3,
            ),
        ],
        version="1",
        inputs=[GraphInput("path", {"type": "string"})],
    )
    assert hash(dag.compile()) == hash(graph_from_plain(graph_to_plain(dag.compile())))


def test_the_graph_is_kept_until_something_changes() -> None:
    load_, clean_ = action(load), action(clean)
    with DAG("flow") as dag:
        handle: Any = load_("a")
    first = dag.compile()
    assert dag.compile() is first
    assert dag.graph is first
    changes = (
        lambda: dag.add(clean_, rows=handle),
        lambda: dag.input("n"),
        lambda: dag.nodes["clean"].after(handle),
        lambda: handle.on_true >> dag.nodes["clean"],
        lambda: dag.connect(dag.input("n"), "clean", input="limit"),
    )
    for change in changes:
        before = dag.compile()
        change()
        assert dag.compile() is not before
    assert dag.validate() is dag.validate()


def test_the_version_is_a_hash_of_the_content_by_default() -> None:
    def build(limit: int = 1, timeout: int = 3, path: str = "a") -> Graph:
        with Registry():
            load_, clean_ = action(load), action(clean, timeout=timeout)
        with DAG("flow") as dag:
            clean_(load_(path), limit)
        return dag.compile()

    same = build()
    assert len(same.version) == 16
    assert build() == same
    for other in (build(limit=2), build(timeout=4), build(path="b")):
        assert other.version != same.version


def test_which_parameter_takes_a_value_counts_in_the_version() -> None:
    def both(x: Any = 1, y: Any = 2) -> None: ...

    load_, both_ = action(load), action(both)
    versions = set()
    for name in ("x", "y"):
        with DAG("flow") as dag:
            both_(**{name: load_("a")})
        versions.add(dag.compile().version)
    with DAG("flow") as dag:
        dag.add(both_).after(dag.add(load_, "a"))
    versions.add(dag.compile().version)
    assert len(versions) == 3


def test_the_version_is_the_same_in_every_process() -> None:
    script = (
        "from dagger_dsl import DAG, action\n"
        "@action(outputs=['a', 'b'], retry=2, cache=True, tags=['x'])\n"
        "def step(x, y=1): ...\n"
        "with DAG('flow', tags=['t']) as dag:\n"
        "    step(step({'k': {1, 2, 'z'}}), dag.input('n', int, default=3))\n"
        "print(dag.compile().version)\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_compiling_leaves_the_garbage_collector_as_it_was() -> None:
    load_ = action(load)
    with DAG("flow") as dag:
        load_("a")
    assert gc.isenabled()
    dag.compile()
    assert gc.isenabled()
    gc.disable()
    try:
        dag.input("n")
        dag.compile()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_cycle_is_found_when_the_dag_is_validated() -> None:
    def step(x: Any = 0) -> Any: ...

    step_ = action(step)
    a, b, c = (step_.with_options(id=name) for name in "abc")
    with DAG("flow") as dag:
        a >> b >> c >> a
    assert len(dag.compile().nodes) == 3
    with pytest.raises(CycleError, match="a -> b -> c -> a"):
        dag.validate()
    with pytest.raises(CycleError):
        dag.run()


# Random programs.


def _parameters(count: int) -> str:
    return ", ".join(f"p{i}{'=None' if i > 1 else ''}" for i in range(count))


def _actions() -> list[Any]:
    made = []
    for number in range(5):
        space: dict[str, Any] = {"__name__": __name__}
        exec(f"def f{number}({_parameters(number)}): ...", space)
        outputs = ["left", "right"] if number == 3 else None
        made.append(action(space[f"f{number}"], outputs=outputs))
    return made


steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 4), st.lists(st.integers(0, 40), max_size=4)),
        st.tuples(st.just("arrow"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("after"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("branch"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("connect"), st.integers(0, 40), st.integers(0, 40)),
    ),
    max_size=25,
)


@given(steps)
def test_random_programs_compile_to_valid_graphs(program: list[Any]) -> None:
    with Registry():
        actions = _actions()
        dag = DAG("random")
        handles: list[Any] = []
        edges: set[tuple[str, str]] = set()
        with dag:
            for kind, one, other in program:
                if kind == "call":
                    names = list(actions[one]._recipe().order)
                    sources = [handles[i % len(handles)] for i in other] if handles else []
                    given_ = dict(zip(names, sources, strict=False))
                    handles.append(dag.add(actions[one], **given_))
                    edges |= {(each.id, handles[-1].id) for each in given_.values()}
                    continue
                if len(handles) < 2:
                    continue
                low, high = sorted((one % len(handles), other % len(handles)))
                before, after = handles[low], handles[high]
                if low == high:
                    continue
                edges.add((before.id, after.id))
                if kind == "after":
                    after.after(before)
                elif kind == "branch":
                    before.on_true >> after
                elif kind == "connect":
                    free = set(actions[int(after.action[1])]._recipe().order) - set(after.inputs)
                    if free:
                        dag.connect(before, after, input=min(free))
                    else:
                        after.after(before)
                else:
                    try:
                        before >> after
                    except ValidationError:  # ambiguous: two parameters are free
                        assert len([n for n in ("p0", "p1") if n not in after.inputs]) == 2
                        after.after(before)
        graph = dag.compile()
        dag.validate()
        check_graph(dag, graph, edges)


def check_graph(dag: DAG, graph: Graph, edges: set[tuple[str, str]]) -> None:
    """Compare a compiled graph with the draft, and with what its checked constructors make."""
    assert {(each.source, each.target) for each in graph.edges} == edges
    order = {name: i for i, name in enumerate(graph.topological_order())}
    assert all(order[before] < order[after] for before, after in edges)
    for node in graph.nodes.values():
        rebuilt = Node(
            node.id,
            node.action,
            inputs=[
                Input(each.name, each.reference)
                if each.reference is not None
                else Input(each.name, value=each.value)
                for each in node.inputs
            ],
            outputs=node.outputs,
            dependencies=node.dependencies,
        )
        assert rebuilt == node
        assert hash(rebuilt) == hash(node)
        assert rebuilt.dependencies == node.dependencies
        taken = {each.name for each in node.inputs}
        assert {name for name in ("p0", "p1") if name in dag.nodes[node.id]._recipe.names} <= taken
    assert graph_from_plain(graph_to_plain(graph)) == graph
    assert isinstance(graph.labelled, tuple)
    assert all(isinstance(each, Edge) for each in graph.labelled)
    assert all(isinstance(each, NodeBuilder) for each in dag.nodes.values())
