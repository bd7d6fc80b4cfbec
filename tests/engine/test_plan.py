"""`compile_plan`: graphs as integers."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from dagger_dsl.engine.plan import UNSET, Plan, compile_plan
from dagger_dsl.errors import ActionNotFound, CycleError, OutputError
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Edge, Graph, Input, Node
from dagger_dsl.registry import Registry
from dagger_dsl.runners.base import ASYNC, TIMED


def sync(a: Any = None, b: Any = None, *, c: Any = None) -> None: ...


async def coro(a: Any = None) -> None: ...


@pytest.fixture
def registry() -> Registry:
    """A registry with a few actions."""
    made = Registry()
    made.register(sync)
    made.register(coro)
    made.register(sync, "parts", outputs=["left", "right"])
    return made


def plan_of(registry: Registry, *nodes: Node, edges: Any = ()) -> Plan:
    """Compile nodes as one graph."""
    return compile_plan(Graph("g", nodes, edges), registry.get)


def test_nodes_have_the_first_slots_in_declaration_order(registry: Registry) -> None:
    plan = plan_of(
        registry,
        Node("z", "sync", [Input("a", "inputs.x"), Input("b", value=[1])]),
        Node("a", "parts", dependencies=["z"]),
    )
    assert plan.count == 2
    assert plan.index == {"z": 0, "a": 1}
    assert plan.ids[:2] == ["z", "a"]
    beside = [*plan.inputs.values(), *(w for _, w in plan.parts[1]), plan.constants[0][0]]
    assert sorted(beside) == [2, 3, 4, 5]
    assert plan.ids[2:] == [None] * 4
    assert plan.size == 6
    assert plan.constants[0][1].value == [1]


def test_bound_values_stand_in_the_order_of_the_parameters(registry: Registry) -> None:
    plan = plan_of(
        registry,
        Node("s", "sync"),
        Node("one", "sync", [Input("a", "s.result")]),
        Node("two", "sync", [Input("b", "s.result"), Input("a", "inputs.x")]),
        Node("gap", "sync", [Input("b", "s.result")]),
        Node("key", "sync", [Input("c", "s.result"), Input("a", "inputs.x")]),
    )
    x = plan.inputs["x"]
    assert plan.bindings == [None, 0, (x, 0), 0, (0, x)]
    assert plan.names[2] == ("a", "b")
    assert plan.calls[1] is sync
    assert plan.calls[2] is sync
    assert plan.calls[3] is not sync  # by name: a parameter before it is left out
    assert plan.wrapped == []


def test_references_to_outputs_point_at_their_parts(registry: Registry) -> None:
    plan = plan_of(
        registry,
        Node("n", "parts"),
        Node("whole", "sync", [Input("a", "n.left")]),
        Node("own", "sync", outputs=["x"]),
        Node("uses", "sync", [Input("a", "own.x")]),
    )
    left, right = (where for _, where in plan.parts[0])
    assert plan.bindings[1] == left
    assert plan.bindings[3] == plan.parts[2][0][1]
    assert (plan.source_of(left), plan.source_of(right), plan.source_of(1)) == (0, 0, 1)
    assert [plan.source_of(slot) for slot in range(4, plan.size)] == [0, 0, 2]
    assert plan.split(0, {"left": 1, "right": 2}) == [(left, 1), (right, 2)]
    assert plan.split(1, {"left": 1}) == []
    with pytest.raises(OutputError, match="'n' declares"):
        plan.split(0, {"left": 1})


def test_plain_edges_stand_apart_from_labels_and_joins(registry: Registry) -> None:
    plan = plan_of(
        registry,
        Node("s", "sync"),
        Node("plain", "sync", dependencies=["s"]),
        Node("labelled", "sync"),
        Node("join", "sync", dependencies=["s", "plain"], trigger="any"),
        Node("twice", "sync", dependencies=["s"]),
        edges=[Edge("s", "labelled", "x"), Edge("s", "twice", "y")],
    )
    assert plan.successors == [(1,), (), (), (), ()]
    assert plan.special == {0: ((2, "x"), (3, None), (4, "y")), 1: ((3, None),)}
    assert plan.unmet[:3] == [0, 1, 1]
    assert plan.joins[3].open == 2
    assert plan.unmet[4] == 1  # a label takes the place of the plain edge
    assert plan.labelled == {0}
    assert plan.roots == [0]


def test_kinds_say_what_a_call_needs(registry: Registry) -> None:
    plan = plan_of(
        registry,
        Node("a", "sync"),
        Node("b", "coro"),
        Node("c", "sync", timeout=3),
        Node("d", "coro", timeout=4, failure="sync"),
        Node("e", "sync", failure="coro", enabled=False),
    )
    assert list(plan.kinds) == [0, ASYNC, TIMED, ASYNC | TIMED, 0]
    assert plan.limits == {2: 3.0, 3: 4.0}
    assert plan.needs_loop
    assert (plan.handler_kind(3), plan.handler_kind(4)) == (0, ASYNC)
    assert plan.disabled == [4]
    assert plan_of(registry, Node("a", "sync")).needs_loop is False
    assert plan_of(registry, Node("a", "sync", failure="coro")).needs_loop


def test_every_unknown_action_is_named_at_once(registry: Registry) -> None:
    with pytest.raises(ActionNotFound) as caught:
        plan_of(registry, Node("a", "no1"), Node("b", "sync"), Node("c", "no2"))
    assert len(caught.value.problems) == 2
    with pytest.raises(ActionNotFound, match="handle"):
        plan_of(registry, Node("a", "sync", failure="nobody"))


def test_a_cycle_is_refused_by_name(registry: Registry) -> None:
    with pytest.raises(CycleError) as caught:
        plan_of(
            registry,
            Node("free", "sync"),
            Node("a", "sync", dependencies=["c", "free"]),
            Node("b", "sync", dependencies=["a"], trigger="any"),
            Node("c", "sync", [Input("a", "b.result")]),
        )
    assert set(caught.value.path) == {"a", "b", "c"}
    with pytest.raises(CycleError):
        plan_of(registry, Node("a", "sync"), Node("b", "sync", dependencies=["a"]),
                edges=[Edge("b", "a", "x")])  # fmt: skip


def test_outputs_are_named_as_they_were_split(registry: Registry) -> None:
    plan = plan_of(registry, Node("n", "sync"), Node("one", "sync", outputs=["x"]))
    assert plan.outputs_of(0, 5) == {"result": 5}
    assert plan.outputs_of(0, {"a": 1}) == {"a": 1}
    assert plan.outputs_of(0, {}) == {"result": {}}
    assert plan.outputs_of(1, 5) == {"x": 5}
    assert plan.outputs_of(1, {"x": 5, "more": 6}) == {"x": 5, "more": 6}
    assert plan.outputs_of(1, {"y": 5}) == {"x": {"y": 5}}


def test_a_plan_is_shared_and_never_changed_by_its_runs(registry: Registry) -> None:
    from dagger_dsl import engine

    made: list[int] = []

    def body(ctx: NodeCtx) -> None:
        made.append(1)

    registry.register(body, failure="sync")
    graph = Graph("g", [Node("a", "body"), Node("b", "sync", dependencies=["a"], trigger="done")])
    from dagger_dsl.engine.launch import plan_for

    plan = plan_for(graph, registry)
    before = (list(plan.calls), list(plan.unmet), bytes(plan.kinds), plan.joins[1].open)
    engine.run(graph, registry)
    engine.run(graph, registry)
    assert plan_for(graph, registry) is plan
    assert (list(plan.calls), list(plan.unmet), bytes(plan.kinds), plan.joins[1].open) == before
    assert len(made) == 2


def test_a_plan_goes_when_its_graph_goes(registry: Registry) -> None:
    import weakref

    from dagger_dsl.engine.launch import plan_for

    graph = Graph("g", [Node("a", "sync")])
    plan_for(graph, registry)
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None


def test_unset_is_shown_by_name() -> None:
    assert repr(UNSET) == "UNSET"
