"""Static analysis: every kind of problem, all of them at once, in order and in linear time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from dagger_dsl.model.context import Failed, NodeCtx, NodeOutput
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node
from dagger_dsl.model.validate import MAX_PROBLEMS, validate, validate_growth
from dagger_dsl.registry import Registry, define


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
        "node 'c': workflow 'other' is not loaded here; load it first, or import it",
    ]
    assert codes(nodes) == []  # without a registry only the structure is looked at


@pytest.mark.row("H8")
def test_a_fallback_is_one_that_the_inputs_of_the_node_can_call() -> None:
    def same(x: Any) -> None: ...

    def fewer(*, other: int = 1) -> None: ...

    def more(x: Any, name: str, where: str | None) -> None: ...

    def context(ctx: NodeCtx) -> None: ...

    def any_of_them(**given: Any) -> None: ...

    actions = registry(same)
    for each in (fewer, more, context, any_of_them):
        actions.register(each)
    for name in ("same", "fewer", "context", "any_of_them"):
        assert problems([node("n", x=1).replace(fallback=name)], actions) == []
    nodes = [node("n", x=1).replace(fallback="more"), node("m").replace(fallback="same")]
    found = problems(nodes, actions)
    assert {code for code, _ in found} == {"missing-input"}
    says = (
        "node {!r}: the fallback action {!r} needs a value for {!r}, and it gets the inputs of the"
    )
    says += " node ({}); give the parameter a default"
    assert [told for _, told in found] == [
        says.format("n", "more", "name", "'x'"),
        says.format("n", "more", "where", "'x'"),
        says.format("m", "same", "x", "none"),
    ]


@pytest.mark.row("H8")
def test_the_fallback_of_an_action_is_looked_at_where_the_node_names_no_other() -> None:
    def more(x: Any, name: str) -> None: ...

    actions = registry(more)
    actions.register(define(text, fallback=more))
    actions.register(define(lambda: 1, name="lost", fallback="nobody"))
    assert [code for code, _ in problems([node("n", "text")], actions)] == ["missing-input"] * 2
    assert problems([node("n", "text").replace(fallback="anything")], actions) == []
    ((code, told),) = problems([node("n", "lost")], actions)
    assert code == "unknown-action"
    assert told.startswith("node 'n': the fallback action 'nobody' is not registered")


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


def mapped(node_id: str, action: str = "step", over: str = "x", **fields: Any) -> Node:
    """Return a node that maps over one of its inputs; text values with ``$`` are references."""
    options = {name: fields.pop(name) for name in ("map_depth", "map_errors") if name in fields}
    return node(node_id, action, **fields).replace(map_over=over, **options)


def listing() -> list[int]:
    return []


def total(x: list[int]) -> int:
    return 0


def test_mapped_nodes_take_items_and_give_lists() -> None:
    actions = registry(listing, step, total)
    over = mapped("m", x="$l.result")
    nodes = [node("l", "listing"), over, node("t", "total", x="$m.result")]
    assert codes(nodes, actions) == []
    wrong = over.replace(map_over="y")
    assert problems([nodes[0], wrong], actions)[0][0] == "unknown-input"
    assert codes([nodes[0], wrong]) == ["unknown-input"]


@pytest.mark.row("G14")
def test_what_is_mapped_over_has_to_have_items_of_the_parameters_type() -> None:
    def words() -> list[str]:
        return []

    def numbers() -> Iterator[int]:
        yield 1

    actions = registry(source, text, words, numbers, step)
    givers = [node(name, name) for name in ("source", "text", "words", "numbers")]
    takers = [mapped(f"m{i}", x=f"${each.id}.result") for i, each in enumerate(givers)]
    assert [told for _, told in problems([*givers, *takers], actions)] == [
        "node 'm0': 'x' cannot be mapped over source.result: int has no items to map over",
        "node 'm1': 'x' cannot be mapped over text.result: str has no items to map over",
        "node 'm2': 'x' cannot be mapped over words.result: its items are str, and int is wanted",
    ]
    assert codes([*givers, *takers]) == []


@pytest.mark.row("G14")
def test_the_depth_of_a_map_counts_on_both_of_its_sides() -> None:
    def table() -> list[list[int]]:
        return []

    def lines(x: list[list[int]]) -> None: ...

    def number(x: int) -> None: ...

    def labels(x: str) -> None: ...

    actions = registry(listing, table, step, lines, number, labels)
    nodes = [node("t", "table"), node("l", "listing")]
    deep = mapped("m", x="$t.result", map_depth=2)
    assert codes([*nodes, deep, node("u", "lines", x="$m.result")], actions) == []
    assert codes([*nodes, deep, node("n", "number", x="$m.result")], actions) == ["type-mismatch"]
    found = problems([*nodes, mapped("m", x="$t.result")], actions)
    assert "its items are list[int], and int is wanted" in found[0][1]
    found = problems([*nodes, mapped("m", x="$l.result", map_depth=2)], actions)
    assert "int has no items to map over" in found[0][1]
    again = mapped("a", x="$m.result", map_depth=2)
    assert codes([*nodes, deep, again], actions) == []
    found = problems([*nodes, deep, mapped("a", "labels", x="$m.result", map_depth=2)], actions)
    assert "its items are int, and str is wanted" in found[0][1]


@pytest.mark.row("G14")
def test_failures_that_are_collected_may_stand_in_the_list() -> None:
    def judge(x: list[Failed]) -> None: ...

    def one(x: Failed) -> None: ...

    actions = registry(listing, step, judge, one)
    nodes = [node("l", "listing"), mapped("m", x="$l.result", map_errors="collect")]
    assert codes([*nodes, mapped("o", "one", x="$m.result")], actions) == []
    plain = [nodes[0], mapped("m", x="$l.result")]
    assert codes([*plain, mapped("o", "one", x="$m.result")], actions) == ["type-mismatch"]


@pytest.mark.row("G14")
def test_literals_and_defaults_that_are_mapped_over_are_lists_of_items() -> None:
    actions = registry(step)
    assert codes([mapped("m", x=[1, 2]), mapped("n", x=[])], actions) == []
    assert codes([mapped("m", x=[[1], [2, 3]], map_depth=2)], actions) == []
    assert problems([mapped("m", x="12")], actions) == [
        ("type-mismatch", "node 'm': 'x' is mapped over, so it must be a list, not '12'")
    ]
    assert problems([mapped("m", x=[1, "2"])], actions) == [
        ("type-mismatch", "node 'm': 'x'[1] must be int, not str '2'")
    ]
    over = mapped("m", x="$inputs.xs")
    assert codes([over], actions, inputs=[GraphInput("xs", default=[1])]) == []
    found = problems([over], actions, inputs=[GraphInput("xs", default=1)])
    assert found == [
        (
            "type-mismatch",
            "node 'm': the default of inputs.xs is mapped over, so it must be a list, not 1",
        )
    ]


@pytest.mark.row("G14")
def test_who_maps_over_a_graph_input_and_who_takes_it_whole_agree() -> None:
    actions = registry(step, total, maybe)
    over = mapped("m", x="$inputs.n")
    deep = mapped("d", x="$inputs.n", map_depth=2)
    assert codes([over, node("t", "total", x="$inputs.n")], actions) == []
    assert codes([over, deep], actions) == []
    for nodes in (
        [over, node("s", "maybe", x="$inputs.n")],
        [node("s", "maybe", x="$inputs.n"), over],
    ):
        ((code, told),) = problems(nodes, actions)
        assert code == "type-mismatch"
        assert "list[int]" in told
        assert "no value is both" in told


def test_a_mapped_node_has_one_output() -> None:
    actions = registry(listing, step)
    actions.register(lambda x: {}, "split", outputs=["a", "b"])
    nodes = [node("l", "listing"), mapped("m", "split", x="$l.result")]
    ((code, told),) = problems(nodes, actions)
    assert code == "mapped-outputs"
    assert told.endswith("its value is a list, which has no a and b; say so with outputs: [result]")
    assert codes([nodes[0], nodes[1].replace(outputs=["result"])], actions) == []


def test_constants_of_a_mapped_node_are_compared_as_ever() -> None:
    def scale(x: int, factor: int) -> int:
        return x * factor

    actions = registry(listing, scale, text)
    nodes = [node("l", "listing"), node("t", "text")]
    assert codes([*nodes, mapped("m", "scale", x="$l.result", factor=2)], actions) == []
    wrong = mapped("m", "scale", x="$l.result", factor="$t.result")
    assert codes([*nodes, wrong], actions) == ["type-mismatch"]


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


# Growth.


def growth(
    *nodes: Node, known: Iterable[Node] = (), actions: Any = None, **graph: Any
) -> list[str]:
    """Return what is wrong with nodes that a graph is to get: codes with their nodes."""
    table = {each.id: each for each in known}
    try:
        validate_growth(Graph("g", **graph), nodes, table.get, actions)
    except ValidationError as error:
        return [f"{each.code} {each.place.node}" for each in error.problems]
    return []


def nobody(_: str) -> None:
    """Return no node: the graph has none yet."""


@pytest.mark.row("G9")
def test_one_bad_node_of_three_is_the_one_that_is_named() -> None:
    actions = registry(source, step)
    nodes = [node("a", "source"), node("b", "stp", x="$a.result"), node("c", "step", x="$a.result")]
    assert growth(*nodes, actions=actions) == ["unknown-action b"]
    with pytest.raises(ActionNotFound, match="node 'b': action 'stp' is not registered"):
        validate_growth(Graph("g"), nodes, nobody, actions)
    assert growth(nodes[0], nodes[2], actions=actions) == []


@pytest.mark.row("G11")
def test_what_new_nodes_wait_for_is_there_or_comes_with_them() -> None:
    known = [node("old")]
    assert growth(node("a", "anything", "old"), node("b", "anything", "a"), known=known) == []
    assert growth(node("a", "anything", "odl"), known=known) == ["unknown-dependency a"]
    with pytest.raises(DependencyNotFound, match="'odl', which is not in the graph"):
        validate_growth(Graph("g"), [node("a", "anything", "odl")], nobody, None)


def test_values_of_nodes_that_are_there_have_to_fit() -> None:
    actions = registry(source, text, step, listing)
    known = [node("t", "text"), node("s", "source"), node("l", "listing")]
    assert growth(node("a", "step", x="$s.result"), known=known, actions=actions) == []
    bad = node("a", "step", x="$t.result")
    assert growth(bad, known=known, actions=actions) == ["type-mismatch a"]
    assert growth(mapped("m", x="$l.result"), known=known, actions=actions) == []
    assert growth(mapped("m", x="$t.result"), known=known, actions=actions) == ["type-mismatch m"]
    assert growth(node("a", "step", x="$s.left"), known=known, actions=actions) == [
        "unknown-output a"
    ]


@pytest.mark.row("G12")
def test_a_missing_input_of_a_new_node_is_found_and_that_of_an_old_one_is_its_own_affair() -> None:
    actions = registry(step)
    known = [node("old", "step")]
    assert growth(node("a", "step"), actions=actions) == ["missing-input a"]
    assert growth(node("b", "anything", "old"), known=known, actions=actions) == []
    forgiving = DagConfig(on_missing="null")
    assert growth(node("a", "step"), actions=actions, config=forgiving) == []


def test_new_nodes_that_wait_for_each_other_are_a_cycle() -> None:
    nodes = [node("a", "anything", "b"), node("b", "anything", "a"), node("c")]
    assert growth(*nodes) == ["cycle a"]
    with pytest.raises(CycleError, match="a -> b -> a"):
        validate_growth(Graph("g"), nodes, nobody, None)


def test_references_to_inputs_of_the_graph_are_those_it_declares() -> None:
    inputs = [GraphInput("path"), GraphInput("unused")]
    assert growth(node("a", x="$inputs.path"), inputs=inputs) == []
    assert growth(node("a", x="$inputs.pth"), inputs=inputs) == ["unknown-graph-input a"]


def test_an_id_that_is_taken_is_looked_at_as_a_change_of_that_node() -> None:
    actions = registry(source, text, step)
    known = [node("s", "source"), node("t", "text"), node("a", "step", x="$s.result")]
    changed = node("a", "step", x="$t.result")
    assert growth(changed, known=known, actions=actions) == ["type-mismatch a"]


# Large graphs.


def ladder(layers: int, width: int) -> list[Node]:
    """Return layers that are fully connected to the next."""
    return [
        node(f"n{i}_{j}", "anything", *(f"n{i - 1}_{k}" for k in range(width) if i))
        for i in range(layers)
        for j in range(width)
    ]


def timed(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_chain_is_validated_without_recursion(backwards: bool) -> None:
    n = 20_000
    nodes = [node(f"n{i}", "anything", *([f"n{i - 1}"] if i else [])) for i in range(n)]
    graph = Graph("g", reversed(nodes) if backwards else nodes)
    assert timed(lambda: validate(graph, registry())) < 3
    closed = graph.replace(nodes=[each for each in graph.nodes.values() if each.id != "n0"])
    ring = closed.replace(nodes=[*closed.nodes.values(), node("n0", "anything", f"n{n - 1}")])
    with pytest.raises(CycleError) as caught:
        validate(ring)
    assert len(caught.value.path) == n + 1


def test_a_dense_ladder_is_validated_in_time() -> None:
    graph = Graph("g", ladder(40, 40))
    assert timed(lambda: validate(graph, registry())) < 3


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
