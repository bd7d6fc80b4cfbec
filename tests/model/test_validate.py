"""Static analysis: every kind of problem, all of them at once, in order and in linear time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import (
    ActionNotFound,
    CycleError,
    DependencyNotFound,
    Problem,
    ValidationError,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node
from dagger_dsl.model.validate import MAX_PROBLEMS, lint, validate
from dagger_dsl.registry import Registry
from tests.scale import count


class Anything:
    name = "anything"

    def execute(self, ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success({})


def registry(*functions: Callable[..., Any], **options: Any) -> Registry:
    made = Registry()
    made.register(Anything())
    for fn in functions:
        made.register(fn, **options)
    return made


def source() -> int:
    return 1


def text() -> str:
    return ""


def step(x: int) -> int:
    return x


def maybe(x: int | None, y: int = 0) -> int:
    return y


def node(node_id: str, action: str = "anything", *after: str, **inputs: Any) -> Node:
    """Return a node; text values starting with ``$`` are references."""
    return Node(
        node_id,
        action,
        dependencies=after,
        inputs=[
            Input(name, value[1:])
            if isinstance(value, str) and value.startswith("$")
            else Input(name, value=value)
            for name, value in inputs.items()
        ],
    )


def problems(
    nodes: Iterable[Node], actions: Any = None, *, types: bool = True, **graph: Any
) -> list[tuple[str, str]]:
    """Return what validation refuses: codes and messages with their places."""
    try:
        report = validate(Graph("g", nodes, **graph), actions, types=types)
    except ValidationError as error:
        return [(each.code, str(each)) for each in error.problems]
    assert report.errors == ()
    return []


def codes(*args: Any, **kwargs: Any) -> list[str]:
    return [code for code, _ in problems(*args, **kwargs)]


def test_a_graph_in_order_has_an_empty_report() -> None:
    graph = Graph("g", [node("a", "source"), node("b", "step", x="$a.result")])
    assert validate(graph, registry(source, step)).problems == ()
    assert graph.validate(registry(source, step)) == validate(graph)


@pytest.mark.row("A36")
def test_unknown_dependencies_are_named_with_a_suggestion() -> None:
    graph = Graph("g", [node("load"), node("b", "anything", "laod"), node("c", x="$lod.result")])
    with pytest.raises(DependencyNotFound) as caught:
        validate(graph)
    assert [each.place.node for each in caught.value.problems] == ["b", "c"]
    assert "depends on 'laod'" in str(caught.value)
    assert str(caught.value).count("did you mean 'load'") == 2


@pytest.mark.row("A35")
def test_a_cycle_is_printed_with_its_path() -> None:
    nodes = [
        node("z"),
        node("c", "anything", "b"),
        node("a", "anything", "z", "c"),
        node("b", "anything", "a"),
        node("after", "anything", "c"),
    ]
    with pytest.raises(CycleError, match="c -> a -> b -> c") as caught:
        validate(Graph("g", nodes))
    assert caught.value.path == ("c", "a", "b", "c")
    with pytest.raises(CycleError, match="a -> a"):
        validate(Graph("g", [node("a", "anything", "a")]))


@pytest.mark.row("A35", "A38")
def test_every_cycle_is_found_once() -> None:
    nodes = [
        node("a", "anything", "b"),
        node("b", "anything", "a"),
        node("c", "anything", "b", "d"),
        node("d", "anything", "c"),
    ]
    with pytest.raises(CycleError) as caught:
        validate(Graph("g", nodes))
    shown = [each.message.split(": ")[1].split(";")[0] for each in caught.value.problems]
    assert shown == ["a -> b -> a", "c -> d -> c"]


def test_a_labelled_edge_can_close_a_cycle() -> None:
    graph = Graph("g", [node("a"), node("b", "anything", "a")], [Edge("b", "a", "again")])
    with pytest.raises(CycleError, match="a -> b -> a"):
        validate(graph)


@pytest.mark.row("A2", "A37")
def test_unknown_actions_are_reported_with_their_node() -> None:
    nodes = [
        node("a", "sorce"),
        Node("b", "anything", failure="explode", fallback="nothing"),
        Node("c", "unknown", subgraph="other"),
    ]
    with pytest.raises(ActionNotFound) as caught:
        validate(Graph("g", nodes), registry(source))
    assert [str(each) for each in caught.value.problems] == [
        "node 'a': action 'sorce' is not registered; did you mean 'source'?",
        "node 'b': the failure action 'explode' is not registered; known: 'anything', 'source'",
        "node 'b': the fallback action 'nothing' is not registered; did you mean 'anything'?",
    ]
    assert codes(nodes) == []  # without a registry only the structure is looked at


@pytest.mark.row("A25")
def test_references_to_outputs_that_nobody_declares() -> None:
    actions = registry(source, outputs=["left", "right"])
    actions.register(text)
    nodes = [
        node("a", "source"),
        node("b", x="$a.lefft"),
        node("c", x="$a.left", y="$a.result"),
        node("d", "text"),
        node("e", x="$d.left"),
        Node("f", "anything", outputs=["own"]),
        node("g", x="$f.own", y="$f.other"),
        node("h", x="$g.whatever"),
    ]
    found = problems(nodes, actions)
    assert [code for code, _ in found] == ["unknown-output"] * 4
    assert found[0][1] == "node 'b': 'a' has no output 'lefft'; did you mean 'left'?"
    assert "'d' has no output 'left'; it declares none" in found[1][1]
    assert found[2][1] == "node 'g': 'f' has no output 'other'; known: 'own'"
    assert codes(nodes) == ["unknown-output"]  # only what the graph itself declares


def test_references_to_unknown_inputs_of_the_graph() -> None:
    nodes = [node("a", x="$inputs.pth")]
    assert codes(nodes) == []  # a file without declarations implies its inputs
    found = problems(nodes, inputs=[GraphInput("path")])
    ((code, message),) = found
    assert code == "unknown-graph-input"
    assert message.startswith("node 'a': 'x' refers to inputs.pth, which the graph does not decl")
    assert message.endswith("; did you mean 'path'?")


def test_inputs_that_the_action_does_not_take_and_parameters_without_input() -> None:
    found = problems([node("a", "step", y=1), node("b", "anything", y=1)], registry(step))
    assert [code for code, _ in found] == ["unknown-input", "missing-input"]
    assert "action 'step' takes no input 'y'" in found[0][1]
    assert "needs a value for 'x'" in found[1][1]
    assert codes([node("a", "maybe")], registry(maybe)) == []
    forgiving = DagConfig(on_missing="null")
    assert codes([node("a", "step")], registry(step), config=forgiving) == []


def test_a_mapping_action_needs_no_single_input() -> None:
    def transform(input: dict[str, Any]) -> Any: ...

    actions = registry(transform)
    assert codes([node("a", "transform", text="x")], actions) == []
    assert codes([node("a", "transform", input={})], actions) == []
    assert codes([node("a", "transform", input=[])], actions) == ["type-mismatch"]


def test_an_input_given_twice_is_refused() -> None:
    twice = Node("a", "anything", inputs=[Input("x", value=1), Input("x", value=2)])
    assert codes([twice], registry()) == ["duplicate-input"]


@pytest.mark.row("A51")
def test_annotations_at_both_ends_of_an_edge_are_compared() -> None:
    nodes = [node("a", "text"), node("b", "step", x="$a.result"), node("c", "step", x="$b.result")]
    actions = registry(text, step)
    assert problems(nodes, actions) == [
        ("type-mismatch", "node 'b': 'x' is int, but a.result is str; no value is both")
    ]
    assert codes(nodes, actions, types=False) == []


def test_types_of_declared_outputs_are_compared() -> None:
    def split() -> dict[str, str]:
        return {}

    actions = registry(step)
    actions.register(split, outputs=["a", "b"])
    assert codes([node("s", "split"), node("t", "step", x="$s.a")], actions) == ["type-mismatch"]
    own = Node("s", "split", outputs=["only"])
    assert codes([own, node("t", "step", x="$s.only")], actions) == []


@pytest.mark.row("A51")
def test_literals_and_defaults_are_compared_with_annotations() -> None:
    actions = registry(step)
    assert problems([node("a", "step", x="1")], actions) == [
        ("type-mismatch", "node 'a': 'x' must be int, not str '1'")
    ]
    inputs = [GraphInput("n", default="one")]
    found = problems([node("a", "step", x="$inputs.n")], actions, inputs=inputs)
    assert found == [
        ("type-mismatch", "node 'a': the default of inputs.n must be int, not str 'one'")
    ]


def test_users_of_one_graph_input_must_be_able_to_agree() -> None:
    def name(x: str) -> None: ...

    actions = registry(step, name, maybe)
    nodes = [
        node("a", "step", x="$inputs.n"),
        node("b", "maybe", x="$inputs.n"),
        node("c", "name", x="$inputs.n"),
    ]
    found = problems(nodes, actions)
    assert found == [
        (
            "type-mismatch",
            "node 'c': inputs.n is str here and int for 'a'; no value is both",
        )
    ]


def test_mapped_nodes_take_items_and_give_lists() -> None:
    def listing() -> list[int]:
        return []

    def total(x: list[int]) -> int:
        return 0

    actions = registry(listing, step, total)
    mapped = Node("m", "step", inputs=[Input("x", "l.result")], map_over="x")
    nodes = [node("l", "listing"), mapped, node("t", "total", x="$m.result")]
    assert codes(nodes, actions) == []
    wrong = mapped.replace(map_over="y")
    assert problems([nodes[0], wrong], actions)[0][0] == "unknown-input"
    assert codes([nodes[0], wrong]) == ["unknown-input"]


@pytest.mark.parametrize(
    ("trigger", "sources", "expected"),
    [
        ("success", 2, 0),
        ("any", 1, 0),
        ("none_failed", 1, 0),
        ("any", 2, 2),
        ("none_failed", 2, 2),
        ("failed", 1, 1),
        ("done", 1, 1),
        ("done", 2, 2),
    ],
)
def test_a_parameter_whose_edge_may_stay_unsatisfied_needs_a_way_out(
    trigger: str, sources: int, expected: int
) -> None:
    def both(s0: int, s1: int = 1) -> None: ...

    def needy(s0: int, s1: int) -> None: ...

    def lax(s0: int | None, s1: int = 1) -> None: ...

    def single(s0: int) -> None: ...

    actions = registry(source, needy, lax, single, both)
    names = [f"s{i}" for i in range(sources)]
    refs: Mapping[str, str] = {name: f"${name}.result" for name in names}
    given = [node(name, "source") for name in names]
    taker = node("t", "needy" if sources == 2 else "single", **refs).replace(trigger=trigger)
    found = problems([*given, taker], actions)
    assert [code for code, _ in found] == ["may-be-missing"] * expected
    for _, message in found:
        assert f"trigger '{trigger}'" in message
    assert codes([*given, taker.replace(action="lax")], actions) == []
    forgiving = DagConfig(on_missing="null")
    assert codes([*given, taker], actions, config=forgiving) == []


def test_labels_are_compared_with_what_the_source_may_answer() -> None:
    def check() -> bool:
        return True

    def route() -> Literal["eu", "us"]:
        return "eu"

    actions = registry(check, route, text)
    nodes = [node("c", "check"), node("r", "route"), node("f", "text"), node("x")]

    def found(*edges: Edge) -> list[tuple[str, str]]:
        return problems(nodes, actions, edges=edges)

    assert found(Edge("c", "x", "true"), Edge("r", "x", "us"), Edge("f", "x", "any")) == []
    assert [code for code, _ in found(Edge("c", "x", "yes"))] == ["unknown-label"]
    (told,) = found(Edge("r", "x", "uss"))
    assert told[1] == "node 'x': 'r' never answers 'uss'; did you mean 'us'?"


def test_schemas_that_are_none_are_reported() -> None:
    actions = registry(source, output_schema={"type": "nonsense"})
    assert codes([node("a", "source")], actions) == ["bad-schema"]


@pytest.mark.row("A38")
def test_all_problems_come_at_once_in_declaration_order() -> None:
    nodes = [
        node("a", "anything", "c"),
        node("b", "unknown", "nowhere"),
        node("c", "anything", "a"),
        node("d", "step", y=1),
    ]
    found = problems(nodes, registry(step))
    assert [code for code, _ in found] == [
        "cycle",
        "unknown-dependency",
        "unknown-action",
        "unknown-input",
        "missing-input",
    ]
    with pytest.raises(ValidationError, match="5 problems") as caught:
        validate(Graph("g", nodes), registry(step))
    assert type(caught.value) is ValidationError


def test_warnings_are_reported_and_refuse_nothing() -> None:
    graph = Graph("g", [node("a")], inputs=[GraphInput("unused")])
    report = validate(graph)
    assert [str(each) for each in report.warnings] == ["graph: no node uses inputs.unused"]
    assert report.errors == ()


def test_a_flood_of_problems_is_counted_and_not_listed() -> None:
    nodes = [node(f"n{i}", "missing") for i in range(1_000)]
    with pytest.raises(ActionNotFound) as caught:
        validate(Graph("g", nodes), registry())
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert str(caught.value.problems[-1]).endswith(f"{1_000 - MAX_PROBLEMS} more problems")


# Large graphs.


def ladder(layers: int, width: int) -> list[Node]:
    """Return layers that are fully connected to the next."""
    return [
        node(f"n{i}_{j}", "anything", *(f"n{i - 1}_{k}" for k in range(width) if i))
        for i in range(layers)
        for j in range(width)
    ]


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_chain_is_validated_without_recursion(backwards: bool) -> None:
    n = 20_000
    nodes = [node(f"n{i}", "anything", *([f"n{i - 1}"] if i else [])) for i in range(n)]
    graph = Graph("g", reversed(nodes) if backwards else nodes)
    assert timed(lambda: validate(graph, registry())) < 1
    closed = graph.replace(nodes=[each for each in graph.nodes.values() if each.id != "n0"])
    ring = closed.replace(nodes=[*closed.nodes.values(), node("n0", "anything", f"n{n - 1}")])
    with pytest.raises(CycleError) as caught:
        validate(ring)
    assert len(caught.value.path) == n + 1


def test_a_dense_ladder_is_validated_and_linted_in_time() -> None:
    graph = Graph("g", ladder(40, 40))
    assert timed(lambda: validate(graph, registry())) < 1
    assert timed(lambda: lint(graph)) < 2


def test_a_graph_full_of_mistakes_is_refused_in_time() -> None:
    nodes = [node(f"n{i}", "anything", f"m{i}") for i in range(5_000)]
    graph = Graph("g", nodes)

    def refuse() -> None:
        with pytest.raises(DependencyNotFound):
            validate(graph)

    assert timed(refuse) < 2


# Laws.


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Node], bool]:
    """Return nodes with random dependencies, and whether these go forward only."""
    size = draw(st.integers(1, 12))
    forward = draw(st.booleans())
    pairs = draw(
        st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=20)
    )
    after: dict[int, set[int]] = {i: set() for i in range(size)}
    for one, other in pairs:
        if forward and one == other:
            continue
        before, target = sorted((one, other)) if forward else (one, other)
        after[target].add(before)
    order = draw(st.permutations(range(size)))
    return [
        node(f"n{i}", "anything", *(f"n{each}" for each in sorted(after[i]))) for i in order
    ], forward


@given(graphs())
def test_cycles_are_found_exactly_where_there_is_no_order(made: tuple[list[Node], bool]) -> None:
    nodes, forward = made
    graph = Graph("g", nodes)
    try:
        graph.topological_order()
        ordered = True
    except CycleError:
        ordered = False
    assert not forward or ordered
    try:
        validate(graph, registry())
    except CycleError as error:
        assert not ordered
        for problem in error.problems:
            assert isinstance(problem, Problem)
        path = error.path
        assert path[0] == path[-1]
        for before, after in itertools.pairwise(path):
            assert before in graph.nodes[after].dependencies
    else:
        assert ordered


# Lint.


def remarks(*nodes: Node) -> list[tuple[str, str]]:
    return [(each.code, str(each)) for each in lint(Graph("g", nodes))]


@pytest.mark.row("B49")
def test_lint_reports_edges_that_others_imply() -> None:
    found = remarks(node("a"), node("b", x="$a.result"), node("c", "anything", "a", x="$b.result"))
    assert found == [
        (
            "redundant-edge",
            "node 'c': waits for 'a' anyway, through 'b'; drop the dependency",
        )
    ]


@pytest.mark.row("B49")
def test_lint_reports_edges_that_carry_nothing() -> None:
    assert remarks(node("a"), node("b", "anything", "a")) == [
        ("order-only", "node 'b': waits for 'a' and takes nothing from it; is the order needed?")
    ]
    assert remarks(node("a"), node("b", x="$a.result")) == []


@given(graphs())
def test_lint_finds_every_redundant_edge_of_small_graphs(made: tuple[list[Node], bool]) -> None:
    nodes, forward = made
    if not forward:
        return
    before = {each.id: set(each.dependencies) for each in nodes}

    def ancestors(name: str) -> set[str]:
        found, todo = set(), list(before[name])
        while todo:
            each = todo.pop()
            if each not in found:
                found.add(each)
                todo += before[each]
        return found

    expected = {
        (name, source)
        for name, sources in before.items()
        for source in sources
        if any(source in ancestors(other) for other in sources - {source})
    }
    found = {
        (each.place.node, each.message.split("'")[1])
        for each in lint(Graph("g", nodes))
        if each.code == "redundant-edge"
    }
    assert found == expected


def test_lint_gives_up_on_what_would_take_for_ever_and_says_so() -> None:
    n = count(3_000, least=600)
    nodes = [node("root")]
    for i in range(n):
        nodes.append(node(f"c{i}", "anything", *([f"c{i - 1}"] if i else []), "root"))
    spent = timed(lambda: lint(Graph("g", nodes)))
    assert spent < 2
