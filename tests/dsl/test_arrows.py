"""Arrows: what they connect, what they bind, and what they refuse."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, Branch, NodeCtx, NodeOutput, action
from dagger_dsl.dsl import Expression, Nodes, nodes
from dagger_dsl.errors import (
    AmbiguousConnection,
    ConfigurationError,
    OperandError,
    ValidationError,
)
from dagger_dsl.model.graph import Edge
from dagger_dsl.registry import Registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def dag() -> DAG:
    return DAG("flow")


def make(name: str, parameters: str = "", returns: str = "Any", **options: Any) -> Any:
    """Return an action of this signature that does nothing."""
    space = {"Any": Any, "Branch": Branch, "__name__": __name__}
    exec(f"def {name}({parameters}) -> {returns}: ...", space)
    function: Any = space[name]
    return action(function, **options)


def edges(dag: DAG) -> set[tuple[str, str]]:
    return {(each.source, each.target) for each in dag.compile().edges}


def bound(dag: DAG, node_id: str) -> dict[str, str | None]:
    return {each.name: each.reference for each in dag.compile().nodes[node_id].inputs}


@pytest.mark.row("K6")
def test_a_sequence_returns_the_right_side_and_lets_the_value_flow(dag: DAG) -> None:
    with dag:
        a, b, c = make("a")(), make("b", "x")(), make("c", "y")()
        assert (a >> b) is b
        assert (b >> c) is c
    assert edges(dag) == {("a", "b"), ("b", "c")}
    assert bound(dag, "b") == {"x": "a.result"}
    assert bound(dag, "c") == {"y": "b.result"}


@pytest.mark.row("K6")
def test_one_line_is_the_same_as_several(dag: DAG) -> None:
    a, b, c = make("a"), make("b", "x"), make("c", "y")
    with dag:
        a >> b >> c
    with DAG("other") as other:
        x, y, z = a(), b(), c()
        x >> y
        y >> z
    assert dag.compile().replace(name="x", version="") == other.compile().replace(
        name="x", version=""
    )


@pytest.mark.row("K7")
@pytest.mark.parametrize("how", ["list", "tuple", "and", "nodes", "lines"])
def test_a_fork_gives_both_targets_the_value(dag: DAG, how: str) -> None:
    with dag:
        a, b, c = make("a")(), make("b", "x")(), make("c", "x")()
        if how == "lines":
            a >> b
            a >> c
        else:
            side = {"list": [b, c], "tuple": (b, c), "and": b & c, "nodes": nodes(b, c)}[how]
            assert (a >> side) == [b, c]
    assert bound(dag, "b") == bound(dag, "c") == {"x": "a.result"}


@pytest.mark.row("K7")
def test_a_join_binds_by_name_and_goes_on(dag: DAG) -> None:
    with dag:
        b, c, d, e = make("b"), make("c"), make("d", "c, b"), make("e", "x")
        [b, c] >> d >> e
    assert bound(dag, "d") == {"c": "c.result", "b": "b.result"}
    assert bound(dag, "e") == {"x": "d.result"}


def test_lists_on_both_sides_go_through_nodes(dag: DAG) -> None:
    with dag:
        a, b, c, d = make("a"), make("b"), make("c", "a, b"), make("d", "b, a")
        nodes(a, b) >> [c, d]
        with pytest.raises(TypeError):
            [a, b] >> [c, d]  # type: ignore[operator]
    assert bound(dag, "c") == bound(dag, "d") == {"a": "a.result", "b": "b.result"}


def test_a_fork_goes_on_to_a_join(dag: DAG) -> None:
    with dag:
        a, b, c, d = make("a"), make("b", "x"), make("c", "x"), make("d", "b, c")
        (a >> [b, c]) >> d
    assert edges(dag) == {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    with DAG("again") as again:
        a >> [b, c] >> d
    assert edges(again) == edges(dag)


def test_backwards_arrows(dag: DAG) -> None:
    with dag:
        a, b, c, d, e = (make(name, "" if name == "a" else "x")() for name in "abcde")
        assert (b << a) is a
        assert (d << c << b) is b
        [c, e] << a
    assert edges(dag) == {("a", "b"), ("b", "c"), ("c", "d"), ("a", "e"), ("a", "c")}
    assert bound(dag, "c") == {"x": "b.result"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: a >> 3,
        lambda a: 3 >> a,
        lambda a: [a, 3] >> a,
        lambda a: a & 3,
    ],
)
def test_unknown_operands_are_pythons_own_error(dag: DAG, wrong: Callable[[Any], Any]) -> None:
    with dag, pytest.raises(TypeError, match="unsupported operand"):
        wrong(make("a")())


class Foreign:
    """A callable of another library that answers the operators itself."""

    def __call__(self) -> None: ...

    def __rrshift__(self, other: Any) -> str:
        return "theirs"


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (lambda a: a >> "b", r"dag.nodes\['b'\]"),
        (lambda a: "b" >> a, "dag.connect"),
        (lambda a: a << "b", "dag.connect"),
        (lambda a: a >> [a, "b"], "dag.connect"),
        (lambda a: a & "b", "dag.connect"),
        (lambda a: a >> print, r"@action above its definition, or action\(print\)"),
        (lambda a: len >> a, r"dag.add\(len\)"),
    ],
)
def test_an_id_or_a_function_beside_an_arrow_says_what_to_write(
    dag: DAG, wrong: Callable[[Any], Any], advice: str
) -> None:
    with dag, pytest.raises(OperandError, match=advice) as caught:
        wrong(make("a")())
    assert isinstance(caught.value, (TypeError, ConfigurationError))


def test_a_stranger_may_answer_an_arrow_itself(dag: DAG) -> None:
    with dag:
        assert make("a")() >> Foreign() == "theirs"


def test_connections_and_waits_take_ids_handles_and_actions_only(dag: DAG) -> None:
    with dag:
        a = make("a")()
        b = make("b")()
    for wrong in (5, None, print):
        with pytest.raises(OperandError, match="ids, handles and actions"):
            dag.connect("a", wrong)  # type: ignore[arg-type]
        with pytest.raises(OperandError, match="waits for handles"):
            dag.nodes["a"].after(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="one arrow"):
        dag.connect(nodes(a, b), "b")


# What an arrow binds.


@pytest.mark.row("K9")
def test_the_value_goes_to_the_one_free_parameter(dag: DAG) -> None:
    with dag:
        make("a")() >> make("b", "x, y=1")()
    assert bound(dag, "b") == {"x": "a.result"}


@pytest.mark.row("K9")
def test_several_free_parameters_are_ambiguous_and_the_message_lists_how_to_choose(
    dag: DAG,
) -> None:
    with dag:
        a, b = make("a")(), make("b", "x, y")()
        with pytest.raises(AmbiguousConnection) as caught:
            a >> b
    text = str(caught.value)
    assert "'x' or 'y'" in text
    assert "dag.connect('a', 'b', input='x')" in text
    assert "dag.connect('a', 'b', input='y')" in text
    assert "b(x=...)" in text
    assert "dag.nodes['b'].after(...)" in text


def test_every_choice_that_the_message_lists_works(dag: DAG) -> None:
    b = make("b", "x, y")
    with dag:
        a = make("a")()
        target = b()
        dag.connect("a", "b", input="y")
        a >> target  # one is left
        dag.add(b, id="second", x=a, y=1)
        dag.add(b, id="third", x=1, y=2).after(a)
    assert bound(dag, "b") == {"x": "a.result", "y": "a.result"}
    assert bound(dag, "second") == {"x": "a.result", "y": None}
    assert ("a", "third") in edges(dag)


@pytest.mark.row("K9")
def test_a_parameter_of_the_sources_name_comes_first(dag: DAG) -> None:
    load = make("load")
    with dag:
        load() >> make("by_id", "other, load")()
        load.with_options(id="raw")() >> make("by_own_id", "other, load, raw")()
        load.with_options(id="more")() >> make("by_action", "other, load")()
        load.with_options(id="last")() >> make("by_result", "other, result, x=1")()
        load.with_options(id="opt")() >> make("optional", "other=1, opt=2")()
    assert bound(dag, "by_id")["load"] == "load.result"
    assert bound(dag, "by_own_id")["raw"] == "raw.result"
    assert bound(dag, "by_action")["load"] == "more.result"
    assert bound(dag, "by_result")["result"] == "last.result"
    assert bound(dag, "optional") == {"opt": "opt.result"}


@pytest.mark.row("K9")
def test_annotations_narrow_the_choice(dag: DAG) -> None:
    with dag:
        rows = make("rows", returns="list[int]")()
        rows >> make("train", "config: dict[str, int], data: list[int]")()
        rows >> make("report", "config: dict[str, int], name: str")()
        make("nothing", returns="None")() >> make("start", "path: str")()
    assert bound(dag, "train") == {"config": "inputs.config", "data": "rows.result"}
    assert ("rows", "report") in edges(dag)
    assert bound(dag, "start") == {"path": "inputs.path"}
    assert ("nothing", "start") in edges(dag)


def test_declared_outputs_go_to_the_parameters_of_their_names(dag: DAG) -> None:
    split = make("split", outputs=["left", "right"])
    with dag:
        source = split()
        source >> make("both", "right, left, more=1")()
        source >> make("one", "left, other")()
        source >> make("whole", "anything")()
    assert bound(dag, "both") == {"right": "split.right", "left": "split.left"}
    assert bound(dag, "one") == {"left": "split.left", "other": "inputs.other"}
    assert bound(dag, "whole") == {"anything": "split.result"}


def test_an_only_output_goes_to_the_one_free_parameter(dag: DAG) -> None:
    with dag:
        make("load", outputs=["rows"])() >> make("clean", "values")()
    assert bound(dag, "clean") == {"values": "load.rows"}


@pytest.mark.row("A25")
def test_one_output_can_be_the_start_of_an_arrow(dag: DAG) -> None:
    split = make("split", returns="dict[str, int]", outputs=["left", "right"])
    with dag:
        source: Any = split()
        source.out.left >> make("a", "x")()
        source["right"] >> make("b", "x, right")()
        split.out.left >> make("c", "x: int")
        with pytest.raises(AmbiguousConnection, match=r"input='x', output='left'"):
            source.out.left >> make("d", "x, y")()
        with pytest.raises(ConfigurationError, match="is where an arrow starts"):
            make("e")() >> source.out.left
    assert bound(dag, "a") == {"x": "split.left"}
    assert bound(dag, "b") == {"x": "inputs.x", "right": "split.right"}
    assert bound(dag, "c") == {"x": "split.left"}


def test_inputs_of_the_dag_flow_along_arrows(dag: DAG) -> None:
    with dag:
        dag.input("path", str) >> make("load", "name: str")()
        dag.input("n") >> make("take", "other, n")()
        dag.input("count", int) >> make("nothing", "x: str")()
        with pytest.raises(ConfigurationError, match="is where an arrow starts"):
            make("a")() >> dag.input("n")
    assert bound(dag, "load") == {"name": "inputs.path"}
    assert bound(dag, "take") == {"other": "inputs.other", "n": "inputs.n"}
    assert bound(dag, "nothing") == {"x": "inputs.x"}
    assert edges(dag) == set()


def test_of_a_list_all_sources_are_tried_by_name_before_any_otherwise(dag: DAG) -> None:
    with dag:
        [make("load"), make("config")] >> make("train", "config, data")
    assert bound(dag, "train") == {"config": "config.result", "data": "load.result"}


def test_when_all_is_bound_an_arrow_is_order_only(dag: DAG) -> None:
    with dag:
        a, b, c = make("a")(), make("b")(), make("c", "x")()
        a >> c
        b >> c
        a >> c
    assert bound(dag, "c") == {"x": "a.result"}
    assert edges(dag) == {("a", "c"), ("b", "c")}
    assert dag.compile().nodes["c"].dependencies == ("b", "a")


def test_after_is_order_only(dag: DAG) -> None:
    with dag:
        a, b, c = make("a")(), make("b")(), make("c", "x")()
        assert c.after(a, b) is c
        with pytest.raises(ConfigurationError, match="can wait for nodes only"):
            c.after(dag.input("n"))
    assert bound(dag, "c") == {"x": "inputs.x"}
    assert dag.compile().nodes["c"].dependencies == ("a", "b")


def test_actions_that_take_any_input_get_it_under_the_sources_name(dag: DAG) -> None:
    class Process:
        name = "process"

        def execute(self, ctx: NodeCtx) -> NodeOutput:
            return NodeOutput.success(ctx.inputs)

    with dag:
        process = dag.add(Process())
        make("load")() >> process
        make("split", outputs=["left", "right"])() >> process
        make("b")() >> make("gather", "first, **rest")()
        [make("c"), make("d")] >> make("collect", "**rest")
        make("e")() >> make("transform", "input: dict[str, Any]")()
    assert bound(dag, "process") == {
        "load": "load.result",
        "left": "split.left",
        "right": "split.right",
    }
    assert bound(dag, "gather") == {"first": "inputs.first", "b": "b.result"}
    assert bound(dag, "collect") == {"c": "c.result", "d": "d.result"}
    assert bound(dag, "transform") == {"input": "e.result"}


def test_an_action_that_takes_the_whole_mapping_gets_it_or_the_parts_its_schema_names(
    dag: DAG,
) -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    with dag:
        upper = make("upper", "input: dict[str, Any]", input_schema=schema)
        make("load")() >> upper.with_options(id="whole")()
        make("read", outputs=["text"])() >> upper.with_options(id="part")()
        [make("text"), make("more")] >> upper.with_options(id="parts")()
        upper.with_options(id="given")(text=make("last"))
    assert bound(dag, "whole") == {"input": "load.result"}
    assert bound(dag, "part") == {"text": "read.text"}
    assert bound(dag, "parts") == {"text": "text.result", "more": "more.result"}
    assert bound(dag, "given") == {"text": "last.result"}


# Labels.


def test_branches_set_the_label_of_an_edge_and_carry_no_value(dag: DAG) -> None:
    with dag:
        check = make("check", returns="bool")()
        assert (check.on_true >> make("accept", "x")()) is dag.nodes["accept"]
        check.on_false >> [make("reject"), make("log")]
        route = make("route", returns="str")
        route.branches["eu"] >> make("ship")
        route.branches[True] >> make("yes")
        for bad in ("", 3):
            with pytest.raises(ConfigurationError, match="branch is named by a text"):
                route.branches[bad]
    assert dag.compile().labelled == (
        Edge("check", "accept", "true"),
        Edge("check", "reject", "false"),
        Edge("check", "log", "false"),
        Edge("route", "ship", "eu"),
        Edge("route", "yes", "true"),
    )
    assert bound(dag, "accept") == {"x": "inputs.x"}
    assert dag.compile().nodes["accept"].dependencies == ()


def test_a_branch_whose_source_returns_branch_carries_the_value(dag: DAG) -> None:
    with dag:
        route = make("route", returns="Branch | None")()
        route.branches["eu"] >> make("ship", "order")()
    assert bound(dag, "ship") == {"order": "route.result"}
    assert dag.compile().labelled == (Edge("route", "ship", "eu"),)


def test_one_branch_drawn_twice_is_one_edge(dag: DAG) -> None:
    with dag:
        check, x = make("check", returns="bool")(), make("x")()
        check.on_true >> x
        check.on_true >> x
    assert dag.compile().labelled == (Edge("check", "x", "true"),)


def test_a_branch_is_no_value(dag: DAG) -> None:
    with dag:
        check = make("check", returns="bool")()
        with pytest.raises(ConfigurationError, match="a way to go on, no value"):
            make("x", "a")(check.on_true)


# dag.connect


@pytest.mark.row("K8")
def test_connect_takes_ids_and_names(dag: DAG) -> None:
    split, merge = make("split", outputs=["left", "right"]), make("merge", "evens, odds")
    with dag:
        split()
        merge()
    assert dag.connect("split", "merge", output="left", input="evens") is dag.nodes["merge"]
    dag.connect(split, merge, output="right")
    assert bound(dag, "merge") == {"evens": "split.left", "odds": "split.right"}
    dag.connect("split", "merge", output="left", input="evens")  # the same again is no change


@pytest.mark.row("K8")
def test_connect_refuses_unknown_names_at_once(dag: DAG) -> None:
    with dag:
        make("a", outputs=["x"])()
        make("b", "left")()
    with pytest.raises(ValidationError, match="no parameter 'lft'; did you mean 'left'"):
        dag.connect("a", "b", input="lft")
    with pytest.raises(ValidationError, match="no output 'y'"):
        dag.connect("a", "b", output="y", input="left")
    with pytest.raises(LookupError, match="node not found: 'c'"):
        dag.connect("c", "b")
    dag.connect(dag.input("n"), "b", input="left")
    with pytest.raises(ValidationError, match=r"'left' of node 'b' is bound to inputs.n already"):
        dag.connect("a", "b", input="left")
    with pytest.raises(ConfigurationError, match="no outputs to choose from"):
        dag.connect(dag.input("n"), "b", output="x")
    with DAG("other") as other:
        make("far")()
    with pytest.raises(ConfigurationError, match="belongs to another DAG"):
        dag.connect(other.nodes["far"], "b")


# Actions in arrows.


def test_an_action_means_its_one_node(dag: DAG) -> None:
    a, b = make("a"), make("b", "x")
    with dag:
        handle = a()
        a >> b
        a >> b
    assert list(dag.nodes) == ["a", "b"]
    assert (handle >> b) is dag.nodes["b"]  # a handle knows its DAG outside of the block too


def test_an_action_with_several_nodes_is_ambiguous(dag: DAG) -> None:
    a, b = make("a"), make("b", "x")
    with dag:
        a()
        a()
        with pytest.raises(AmbiguousConnection, match=r"several nodes .*'a', 'a_2'.*handle"):
            a >> b


def test_actions_with_options_stand_for_nodes_of_their_own(dag: DAG) -> None:
    step, end = make("step", "x=0"), make("end", "x")
    first, second = step.with_options(id="first"), step.with_options(timeout=3)
    with dag:
        first >> second >> end
        first >> end
    assert edges(dag) == {("first", "step"), ("step", "end"), ("first", "end")}
    assert dag.compile().nodes["step"].timeout == 3.0
    with dag, pytest.raises(AmbiguousConnection):
        step >> end


# Expressions.


def test_outside_a_dag_arrows_build_an_expression_that_a_dag_places() -> None:
    a, b, c = make("a"), make("b", "x"), make("c", "y")
    flow = a >> b >> c
    assert isinstance(flow, Expression)
    dag = DAG(flow, name="chain")
    assert dag.name == "chain"
    assert list(dag.nodes) == ["a", "b", "c"]
    assert edges(dag) == {("a", "b"), ("b", "c")}
    assert bound(dag, "c") == {"y": "b.result"}
    assert DAG(flow).name == "dag"
    assert repr(flow) == "<Expression a >> b; b >> c>"


def test_expressions_are_values_that_do_not_change() -> None:
    a, b, c = make("a"), make("b", "x"), make("c", "x")
    stem = a >> b
    longer = stem >> c
    assert len(stem.arrows) == 1
    assert len(longer.arrows) == 2
    with pytest.raises(AttributeError, match="does not change"):
        stem.tails = ()
    assert list(DAG(stem).nodes) == ["a", "b"]
    first, second = DAG(longer), DAG(longer)
    assert list(first.nodes) == list(second.nodes) == ["a", "b", "c"]
    assert first.nodes["a"] is not second.nodes["a"]


def test_expressions_fork_join_and_take_labels() -> None:
    a, b, c, d = make("a", returns="bool"), make("b"), make("c"), make("d", "b, c")
    dag = DAG(a >> [b, c] >> d, name="diamond")
    assert dag.compile().levels() == [["a"], ["b", "c"], ["d"]]
    assert bound(dag, "d") == {"b": "b.result", "c": "c.result"}
    branched = DAG(nodes(a.on_true >> b, a.on_false >> c))
    assert {(e.target, e.when) for e in branched.compile().labelled} == {
        ("b", "true"),
        ("c", "false"),
    }
    backwards = DAG(d << [b, c])
    assert edges(backwards) == {("b", "d"), ("c", "d")}


def test_an_expression_can_be_part_of_another_or_of_a_block(dag: DAG) -> None:
    a, b, c, d = make("a"), make("b", "x"), make("c", "x"), make("d", "x")
    inner = b >> c
    with dag:
        start = a()
        assert (start >> inner) is dag.nodes["c"]
        assert (inner >> d) is dag.nodes["d"]
    assert edges(dag) == {("a", "b"), ("b", "c"), ("c", "d")}
    whole = DAG(a >> inner >> d)
    assert edges(whole) == edges(dag)
    other = DAG("other")
    assert other.add(inner) is other.nodes["c"]
    assert other.add(nodes(c, d)) == [other.nodes["c"], other.nodes["d"]]
    with pytest.raises(ConfigurationError, match="without inputs or id"):
        other.add(inner, id="x")


def test_an_arrow_of_an_expression_is_drawn_once_however_often_it_is_used(dag: DAG) -> None:
    a, b, c = make("a"), make("b", "a, y"), make("c", "x, y=0")
    stem = a >> b
    with dag:
        stem >> c
        stem >> c
        DAG(stem)
    assert bound(dag, "b") == {"a": "a.result", "y": "inputs.y"}


def test_a_single_action_is_an_expression_too() -> None:
    dag = DAG(make("only"))
    assert list(dag.nodes) == ["only"]


def test_nodes_is_a_list_of_operands(dag: DAG) -> None:
    with dag:
        a, b, c = make("a")(), make("b")(), make("c")()
        assert (a & b & c) == [a, b, c]
        assert isinstance(a & [b, c], Nodes)


def test_a_long_chain_and_a_wide_fan_need_no_recursion(dag: DAG) -> None:
    step = make("step", "x=0")
    with dag:
        handles = [step() for _ in range(2_000)]
        for before, after in itertools.pairwise(handles):
            before >> after
    assert len(dag.compile().topological_order()) == 2_000
    expression: Any = step.with_options(id="s0")
    for i in range(1, 2_000):
        expression = expression >> step.with_options(id=f"s{i}")
    assert len(DAG(expression).compile().levels()) == 2_000
