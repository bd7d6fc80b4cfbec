"""`graph.simulate`: a run played through by the real `RunState`, with nothing called."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dagger_dsl.engine.simulate import Simulation
from dagger_dsl.errors import ConfigurationError, CycleError, DependencyNotFound, NodeNotFound
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import Branch
from dagger_dsl.model.graph import Edge, Graph, Input, Node
from dagger_dsl.model.policies import CacheStrategy, Trigger
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import Registry
from tests.engine.helpers import Workflow, boom
from tests.scale import count


def node(node_id: str, *after: str, **fields: Any) -> Node:
    return Node(node_id, fields.pop("action", "unknown"), dependencies=after, **fields)


def play(graph: Graph, outcomes: Any = None, **options: Any) -> Simulation:
    played = graph.simulate(outcomes, **options)
    assert isinstance(played, Simulation)
    return played


def branching() -> Graph:
    """Return a graph with a condition, a join behind it and a rescue."""
    nodes = [
        node("extract"),
        node("check", "extract"),
        node("load"),
        node("drop"),
        node("join", "load", "drop", trigger="any"),
        node("rescue", "load", trigger="failed"),
    ]
    return Graph("etl", nodes, [Edge("check", "load", "true"), Edge("check", "drop", "false")])


# What happens.


def test_everything_completes_where_nothing_is_said() -> None:
    graph = Graph("g", [node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c")])
    played = play(graph)
    assert played.status is RunStatus.COMPLETED
    assert played.order == ("a", "b", "c", "d") == tuple(graph.topological_order())
    assert played.waves == (("a",), ("b",), ("c",), ("d",))
    assert set(played.states.values()) == {NodeState.COMPLETED}
    assert played.skipped == {}
    assert play(graph, slots=None).waves == (("a",), ("b", "c"), ("d",))


def test_a_branch_takes_the_label_it_is_given() -> None:
    yes = play(branching(), {"check": True})
    assert yes.order == ("extract", "check", "load", "join")
    assert yes.skipped == {
        "drop": "branch not taken at 'check'",
        "rescue": "trigger 'failed': no dependency failed",
    }
    assert play(branching(), {"check": False}).order == ("extract", "check", "drop", "join")
    assert play(branching(), {"check": "false"}).order == ("extract", "check", "drop", "join")
    assert play(branching(), {"check": Branch(True, 5)}).states["load"] == "completed"
    both = play(branching(), {"check": ["true", "false"]})
    assert both.order == ("extract", "check", "load", "drop", "join")
    none = play(branching(), {"check": []})
    assert none.states["join"] is NodeState.SKIPPED
    assert none.status is RunStatus.COMPLETED


def test_a_failure_is_decided_by_triggers_and_on_failure() -> None:
    graph = branching()
    played = play(graph, {"check": True, "load": "fail"})
    assert played.status is RunStatus.FAILED
    assert played.states["load"] is NodeState.FAILED
    assert played.states["rescue"] is NodeState.COMPLETED
    chain = [node("a"), node("b", "a"), node("c"), node("d", "c")]
    states = play(Graph("g", chain), {"a": "fail"}).states
    assert states == {"a": "failed", "b": "skipped", "c": "cancelled", "d": "cancelled"}
    going_on = [chain[0].replace(on_failure="continue"), *chain[1:]]
    states = play(Graph("g", going_on), {"a": ValueError("x")}).states
    assert states == {"a": "failed", "b": "skipped", "c": "completed", "d": "completed"}
    standing = [chain[0].replace(on_failure="pause"), *chain[1:]]
    played = play(Graph("g", standing), {"a": "fail"})
    assert played.status is RunStatus.PAUSED
    assert played.states == {"a": "failed", "b": "pending", "c": "pending", "d": "pending"}


def test_what_runs_when_a_node_stops_the_run_comes_to_its_end() -> None:
    graph = Graph("g", [node("a"), node("b"), node("c", "b"), node("d")])
    played = play(graph, {"a": "fail"}, slots=2)
    assert played.states == {"a": "failed", "b": "completed", "c": "cancelled", "d": "cancelled"}
    assert played.reasons["d"] == "a node failed and the run stops"


def test_the_configuration_and_the_action_decide_where_the_node_says_nothing() -> None:
    graph = Graph("g", [node("a", action="f"), node("b")])
    stops, goes_on = {"a": "failed", "b": "cancelled"}, {"a": "failed", "b": "completed"}
    assert play(graph, {"a": "fail"}).states == stops
    configured = graph.replace(config=DagConfig(on_failure="continue"))
    assert play(configured, {"a": "fail"}).states == goes_on
    known = Registry()
    known.register(boom, "f", on_failure="continue")
    assert play(graph, {"a": "fail"}, registry=known).states == goes_on


def test_a_recovered_node_is_one_that_completed() -> None:
    played = play(Graph("g", [node("a"), node("b", "a")]), {"a": "recovered"})
    assert played.order == ("a", "b")
    assert played.status is RunStatus.COMPLETED
    assert played.report().node_reports["a"].recovered


def test_disabled_nodes_are_skipped() -> None:
    graph = Graph("g", [node("a"), node("b", "a", enabled=False), node("c", "b")])
    assert play(graph).skipped == {"b": "disabled", "c": "upstream_skipped: 'b' was skipped"}


def test_actions_need_not_be_there_whatever_a_node_asks_for() -> None:
    nodes = [
        node("a", outputs=["rows", "size"], try_count=3, failure="handler"),
        Node("b", "nothing", [Input("x", "a.rows"), Input("y", "inputs.limit")], map_over="x"),
        node("c", "b", fallback="other", cache_strategy=CacheStrategy.ALWAYS, max_parallel=2),
        node("d", "c", subgraph="more", effects="at_most_once", keep=False),
    ]
    assert play(Graph("g", nodes)).order == ("a", "b", "c", "d")


# Time and slots.


def test_slots_and_durations_say_when_nodes_start() -> None:
    graph = Graph("g", [node("long"), node("b"), node("c", "b"), node("d", "long", "c")])
    took = {"long": 5.0, "b": 1.0, "c": 1.0}
    one = play(graph, durations=took)
    assert one.starts == {"long": 0.0, "b": 5.0, "c": 6.0, "d": 7.0}
    assert one.duration == 7.0
    two = play(graph, durations=took, slots=2)
    assert two.starts == {"long": 0.0, "b": 0.0, "c": 1.0, "d": 5.0}
    assert two.duration == 5.0
    assert two.waves == (("long", "b"), ("c",), ("d",))
    assert play(graph, slots=None).duration == 3.0


def test_a_simulation_takes_as_long_as_the_critical_path_when_nothing_has_to_wait() -> None:
    took = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 1.5}
    graph = Graph("g", [node("a"), node("b", "a"), node("c", "a"), node("d", "c", "b")])
    expected = sum(took[each] for each in graph.critical_path(took))
    assert play(graph, slots=None, durations=took).duration == expected


# Mistakes.


def test_an_unknown_id_is_refused_with_a_suggestion() -> None:
    with pytest.raises(NodeNotFound, match="did you mean 'check'"):
        branching().simulate({"chek": True})
    with pytest.raises(NodeNotFound, match="did you mean 'load'"):
        branching().simulate({"check": True}, durations={"laod": 1.0})


def test_a_branch_that_is_reached_needs_a_label() -> None:
    for outcomes in ({}, {"check": "ok"}, {"check": "recovered"}, {"check": None}, {"check": 3}):
        with pytest.raises(ConfigurationError) as caught:
            branching().simulate(outcomes)
        assert str(caught.value) == (
            "node 'check' is a branch, so its outcome is a label of its edges ('false', 'true') or "
            "a list of them: simulate({'check': True})"
        )
    assert play(branching(), {"extract": "fail"}).states["check"] is NodeState.SKIPPED


def test_a_label_that_no_edge_has_is_refused() -> None:
    edges = [Edge("route", "eu", "eu"), Edge("route", "us", "us")]
    graph = Graph("g", [node("route"), node("eu"), node("us")], edges)
    with pytest.raises(ConfigurationError, match=r"known: 'eu', 'us'; .* write \[\]"):
        graph.simulate({"route": "asia"})
    with pytest.raises(ConfigurationError, match="no edge for the label 'true'"):
        graph.simulate({"route": True})
    assert play(graph, {"route": ["eu", "us"]}).order == ("route", "eu", "us")
    only = Graph("g", [node("check"), node("then")], [Edge("check", "then", "true")])
    assert play(only, {"check": False}).skipped == {"then": "branch not taken at 'check'"}


def test_an_outcome_that_is_none_is_refused() -> None:
    for outcome in (True, "maybe", 3, None):
        with pytest.raises(ConfigurationError, match="'load' has no labelled edges"):
            branching().simulate({"load": outcome})
    with pytest.raises(ConfigurationError, match="mapping of node ids"):
        branching().simulate(["load"])  # type: ignore[arg-type]
    for slots in (0, -1, 1.5, True):
        with pytest.raises(ConfigurationError, match="slots is how many nodes"):
            branching().simulate(slots=slots)  # type: ignore[arg-type]
    for took in (-1.0, math.inf, "long"):
        with pytest.raises(ConfigurationError, match="durations"):
            branching().simulate(durations={"load": took})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="durations are a mapping"):
        branching().simulate(durations=[1.0])  # type: ignore[arg-type]


def test_a_label_may_be_called_like_an_outcome() -> None:
    edges = [Edge("a", "good", "ok"), Edge("a", "bad", "fail")]
    graph = Graph("g", [node("a"), node("good"), node("bad")], edges)
    assert play(graph, {"a": "fail"}).order == ("a", "bad")
    assert play(graph, {"a": "ok"}).order == ("a", "good")
    assert play(graph, {"a": RuntimeError()}).states["a"] is NodeState.FAILED
    with pytest.raises(ConfigurationError, match="'a' is a branch"):
        graph.simulate()


def test_a_graph_that_cannot_run_is_refused() -> None:
    with pytest.raises(CycleError):
        Graph("g", [node("a", "b"), node("b", "a")]).simulate()
    with pytest.raises(DependencyNotFound):
        Graph("g", [node("a", "b")]).simulate()
    assert play(Graph("g")).status is RunStatus.COMPLETED


# For people.


def test_a_simulation_can_be_read() -> None:
    played = play(branching(), {"check": True, "load": "fail"}, slots=None)
    assert str(played).splitlines() == [
        "simulation of 'etl': failed, 3 of 6 nodes complete",
        "  1. extract",
        "  2. check (true)",
        "  3. load (failed)",
        "  4. rescue",
        "skipped:",
        "  drop: branch not taken at 'check'",
        "  join: trigger 'any': no dependency was satisfied",
    ]
    console = Console(width=100, file=io.StringIO())
    with console.capture() as shown:
        console.print(played)
    assert "branch not taken at 'check'" in shown.get()


def test_what_a_terminal_would_obey_is_written_out() -> None:
    played = play(Graph("g", [node("\x1b[31mred"), node("b", "\x1b[31mred")]), slots=None)
    assert "\x1b" not in str(played)
    assert "\\x1b[31mred" in str(played)


def test_a_large_simulation_is_cut() -> None:
    wide = Graph("g", [node(f"n{i}", enabled=i < 100) for i in range(300)])
    text = str(play(wide, slots=None))
    assert len(text.splitlines()) < 70
    assert "... and 50 more" in text
    assert "... and 150 more" in text


def test_a_simulation_explains_itself_and_colours_a_picture() -> None:
    graph = branching()
    played = play(graph, {"check": False, "extract": "ok"})
    assert "'check', which chose 'false', not 'true'" in played.explain("load")
    failed = play(graph, {"extract": ValueError("no file")})
    assert "ValueError: no file" in failed.explain("join")
    assert played.report().nodes_in("skipped") == ["load", "rescue"]
    assert graph.to_dot(played.states) == graph.to_dot(played.report())


# Laws.


@st.composite
def plays(draw: st.DrawFn) -> tuple[Workflow, Graph, dict[str, Any]]:
    """Return a workflow, and outcomes that its bodies have as well."""
    flow = Workflow()
    size = draw(st.integers(1, 9))
    kinds = [draw(st.sampled_from(["plain", "plain", "branch"])) for _ in range(size)]
    outcomes: dict[str, Any] = {}
    branches = set()
    for i in range(size):
        before = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        labelled = {each for each in before if kinds[each] == "branch" and draw(st.booleans())}
        branches |= labelled
        answer = draw(st.booleans()) if kinds[i] == "branch" else i
        fails = draw(st.integers(0, 3)) == 0
        outcomes[f"n{i}"] = ValueError("x") if fails else answer
        flow.note(
            f"n{i}",
            outcomes[f"n{i}"],
            after=[f"n{each}" for each in sorted(before - labelled)],
            trigger=draw(st.sampled_from([Trigger.SUCCESS, Trigger.SUCCESS, *Trigger])),
            on_failure=draw(st.sampled_from(["stop", "continue", "continue", "pause"])),
            enabled=draw(st.integers(0, 5)) > 0,
        )
        for each in sorted(labelled):
            flow.when(f"n{each}", draw(st.sampled_from(["true", "false"])), f"n{i}")
    for i in range(size):
        if i not in branches and not isinstance(outcomes[f"n{i}"], ValueError):
            outcomes[f"n{i}"] = "ok"
    return flow, flow.graph(), outcomes


@given(plays())
def test_a_sequential_run_does_what_the_simulation_says(
    made: tuple[Workflow, Graph, dict[str, Any]],
) -> None:
    flow, graph, outcomes = made
    played = play(graph, outcomes)
    flow.calls.clear()
    report = flow.run()
    assert list(played.order) == flow.calls
    assert played.states == report.states()
    assert played.status is report.status
    assert played.reasons == {
        each.node_id: each.reason for each in report.node_reports.values() if each.reason
    }


@given(plays(), st.integers(1, 4))
def test_no_more_nodes_run_together_than_there_are_slots(
    made: tuple[Workflow, Graph, dict[str, Any]], slots: int
) -> None:
    _, graph, outcomes = made
    played = play(graph, outcomes, slots=slots)
    assert all(len(wave) <= slots for wave in played.waves)
    assert [each for wave in played.waves for each in wave] == list(played.order)
    assert set(played.starts) == {
        each for each, state in played.states.items() if state in ("completed", "failed")
    }
    assert set(played.reasons) == {
        each for each, state in played.states.items() if state in ("skipped", "cancelled")
    }


def test_a_long_chain_is_played_through() -> None:
    n = count(50_000, least=5_000)
    graph = Graph("g", [node(f"n{i}", *([f"n{i - 1}"] if i else [])) for i in range(n)])
    assert len(play(graph).order) == n
    assert len(play(graph, {"n0": "fail"}).skipped) == n - 1
