"""A machine as data: stored, written, checked and drawn like any graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import engine
from dagger_dsl.errors import ActionNotFound, ConfigurationError, ValidationError, YamlError
from dagger_dsl.fsm import FSM, FSMReturn, Machine, Next, Transition
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.document import graph_from_plain, graph_to_plain
from dagger_dsl.model.graph import Edge, Graph, Input, Node
from dagger_dsl.registry import Registry, as_registry
from dagger_dsl.views.mermaid import escape
from dagger_dsl.yamlio import load_yaml
from dagger_dsl.yamlio.document import load_document

TEXT = """\
name: door
machine:
  initial: shut
  terminal: [gone]
  max_cycles: 20
  history_limit: 5
  hook: watch
  transitions:
    - source: shut
      target: open
    - source: open
      target: shut
      condition: is_cold
    - source: open
      target: gone
nodes:
  - id: shut
    action: shut
  - id: open
    action: open_it
  - id: gone
    action: gone
"""


def door() -> Graph:
    return Graph(
        "door",
        [Node("shut", "shut"), Node("open", "open_it"), Node("gone", "gone")],
        machine=Machine(
            "shut",
            ["gone"],
            [
                Transition("shut", "open"),
                Transition("open", "shut", "is_cold"),
                Transition("open", "gone"),
            ],
            20,
            5,
            "watch",
        ),
    )


def actions() -> Registry:
    seen: list[Any] = []

    def shut(n: int) -> int:
        return n

    def open_it(n: int) -> int:
        return n + 1

    def gone(n: int, limit: int = 0) -> tuple[int, int]:
        return n, limit

    def is_cold(value: int) -> bool:
        return value < 3

    def watch(fsm: Any, left: str, entered: str, result: Any) -> None:
        seen.append((left, entered))

    return as_registry(
        {"shut": shut, "open_it": open_it, "gone": gone, "is_cold": is_cold, "watch": watch}
    )


def test_a_machine_is_written_as_yaml_and_read_back() -> None:
    assert door().to_yaml() == TEXT
    assert load_yaml(TEXT) == door()
    assert hash(load_yaml(TEXT)) == hash(door())
    assert graph_from_plain(graph_to_plain(door())) == door()
    document = load_document("# a door\n" + TEXT)
    assert document.dump(document.graph) == "# a door\n" + TEXT


def test_a_file_without_a_machine_means_what_it_meant() -> None:
    plain = door().replace(machine=None)
    assert "machine" not in plain.to_yaml()
    assert plain != door()
    assert load_yaml(plain.to_yaml()).machine is None


names = st.text(st.characters(codec="utf-8", exclude_characters=".\0"), min_size=1, max_size=8)


@given(
    states=st.lists(
        names.filter(lambda n: n not in ("inputs", "global", "human_input")),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    data=st.data(),
)
def test_any_machine_survives_yaml(states: list[str], data: st.DataObject) -> None:
    state = st.sampled_from(states)
    ways = data.draw(st.lists(st.builds(Transition, state, state, st.none() | names), max_size=6))
    machine = Machine(
        data.draw(state),
        data.draw(st.lists(state, max_size=3)),
        ways,
        data.draw(st.integers(1, 10**6)),
        data.draw(st.none() | st.integers(0, 9)),
        data.draw(st.none() | names),
    )
    graph = Graph("g", [Node(name, "x") for name in states], machine=machine)
    assert Graph.from_yaml(graph.to_yaml()) == graph
    assert graph_from_plain(json.loads(json.dumps(graph_to_plain(graph)))) == graph
    for text in (graph.to_dot(), graph.to_mermaid()):
        assert text.endswith("\n")
    # One line for each thing: no name can begin another.
    head = 1 + len(states) + len(machine.terminal) + len(machine.transitions) + 1
    assert len(graph.to_mermaid().splitlines()) == head


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_machine_of_a_file_runs_with_registered_actions(runner: str) -> None:
    graph = load_yaml(
        TEXT.replace(
            "    action: gone\n", "    action: gone\n    inputs: [{name: limit, value: 7}]\n"
        )
    )
    report = engine.run(graph, actions(), {"n": 0}, RunOptions(runner=runner))
    report.raise_for_failure()
    assert report.outputs == {"gone": (3, 7)}
    assert report.history is not None
    assert report.history.counts == {"shut": 3, "open": 3, "gone": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("initial: shut", "initial: shutt"),
        ("max_cycles: 20", "max_cycles: 0"),
        ("history_limit: 5", "history_limit: -1"),
        ("hook: watch", "hoook: watch"),
        ("terminal: [gone]", "terminal: gone"),
        ("  initial: shut\n", ""),
        ("      target: gone\n", ""),
        ("      condition: is_cold", "      condition: [1]"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(text: str, message: str) -> None:
    wrong = TEXT.replace(text, message)
    assert wrong != TEXT
    with pytest.raises((YamlError, ValidationError)):
        load_yaml(wrong, strict=True).validate()


@pytest.mark.row("L12")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": "shutt"}, "initial state 'shutt'.*did you mean 'shut'"),
        ({"terminal": ["gonne"]}, "terminal state 'gonne'"),
        ({"transitions": [Transition("shut", "opened")]}, "'opened'.*did you mean 'open'"),
        ({"transitions": [Transition("gone", "open")]}, "terminal state, so there is no way on"),
    ],
)
def test_a_machine_is_checked_before_it_runs(change: dict[str, Any], message: str) -> None:
    import attrs

    machine = door().machine
    assert machine is not None
    wrong = door().replace(machine=attrs.evolve(machine, **change))
    with pytest.raises(ValidationError, match=message):
        wrong.validate()
    with pytest.raises(ValidationError, match=message):
        engine.run(wrong, actions(), {"n": 0})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("open", "open_it", dependencies=["shut"]), "waits for no other"),
        (Node("open", "open_it", inputs=[Input("n", "shut.result")]), "by the names of its"),
        (Node("open", "open_it", enabled=False), "enabled"),
        (Node("open", "open_it", trigger="any"), "trigger"),
        (Node("open", "open_it", inputs=[Input("n", value=[1])], map_over="n"), "map_over"),
    ],
)
def test_what_only_other_graphs_have_is_refused(node: Node, message: str) -> None:
    nodes = {**door().nodes, "open": node}
    with pytest.raises(ValidationError, match=message):
        door().replace(nodes=nodes).validate()


def test_names_that_are_no_actions_are_told() -> None:
    registry = actions()
    with pytest.raises(ActionNotFound):
        door().validate(Registry())
    door().validate(registry)

    async def is_cold(value: int) -> bool:
        return True

    registry.register(is_cold, replace=True)
    with pytest.raises(ValidationError, match="is async"):
        door().validate(registry)


def test_a_machine_has_no_order_before_it_runs() -> None:
    graph = door()
    assert graph.edges == (
        Edge("shut", "open"),
        Edge("open", "shut", "is_cold"),
        Edge("open", "gone"),
    )
    assert graph.sinks() == ("gone",)
    for look in (graph.topological_order, graph.levels, graph.critical_path, graph.simulate):
        with pytest.raises(ConfigurationError, match="state machine"):
            look()
    with pytest.raises(ConfigurationError, match="max_cycles"):
        engine.run(
            Graph("g", [Node("shut", "shut")]), actions(), {"n": 1}, RunOptions(max_cycles=3)
        )


def test_states_that_no_way_leads_to_are_remarked() -> None:
    graph = Graph(
        "m",
        [Node("a", "f"), Node("b", "f"), Node("c", "f")],
        machine=Machine("a", ["c"], [Transition("a", "a"), Transition("b", "c")]),
    )
    assert [(each.place.node, each.code) for each in graph.lint()] == [
        ("b", "never-entered"),
        ("c", "never-entered"),
        (None, "no-end"),
    ]
    assert door().lint() == []


def test_a_machine_is_drawn_with_its_beginning_and_ends() -> None:
    dot = door().to_dot()
    assert '"start" [shape=point' in dot
    assert '"start" -> "shut";' in dot
    assert 'label="gone", peripheries=2' in dot
    assert '"open" -> "shut" [label="is_cold"];' in dot
    assert door().to_mermaid() == (
        "stateDiagram-v2\n"
        '    state "shut" as n0\n'
        '    state "open" as n1\n'
        '    state "gone" as n2\n'
        "    [*] --> n0\n"
        "    n0 --> n1\n"
        "    n1 --> n0 : is_cold\n"
        "    n1 --> n2\n"
        "    n2 --> [*]\n"
    )


def test_a_run_is_drawn_with_its_counts() -> None:
    report = engine.run(door(), actions(), {"n": 0})
    assert r"Entered: 3" in report.to_dot()
    assert 'state "open, completed, 3x" as n1' in report.to_mermaid()
    assert 'state "open, completed, 3x" as n1' in door().to_mermaid(report)
    assert r"Entered: 3" in door().to_dot(report)


def test_a_plain_graph_is_a_flowchart() -> None:
    graph = Graph(
        "g",
        [Node("a", "f"), Node('b"]', "f", dependencies=["a"]), Node("c", "f")],
        edges=[Edge("a", "c", "yes|no")],
    )
    assert graph.to_mermaid({"a": "failed"}) == (
        "flowchart TD\n"
        '    n0["a, failed"]\n'
        '    n1["b#34;#93;, pending"]\n'
        '    n2["c, pending"]\n'
        "    n0 --> n1\n"
        '    n0 -->|"yes#124;no"| n2\n'
        "    classDef failed fill:lightcoral\n"
        "    class n0 failed\n"
    )
    with pytest.raises(ConfigurationError, match="state"):
        graph.to_mermaid({"a": "odd"})
    with pytest.raises(ConfigurationError):
        graph.to_mermaid(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ['"]; click n0 href "x"', "%%{init: {}}%%", "<script>", "a\nend", "#quot;", "`x`"]
)
def test_no_text_ends_its_label(text: str) -> None:
    found = escape(text)
    assert not set(found) & set('"[]<>{}%`\n')
    assert "#quot;" not in found


FILE = """
from dagger_dsl.fsm import FSM, FSMReturn, Next

fsm = FSM("ticket")
seen = []


@fsm.state(initial=True)
def opened(n: int):
    return Next("worked", n + 1)


@fsm.state
def worked(n):
    import os
    if n == 3 and not os.path.exists("fixed"):
        raise ValueError("stuck")
    return Next("closed" if n > 3 else "opened", n)


@fsm.state(terminal=True)
def closed(n):
    return n


@fsm.add_state_hook
def watch(machine, left, entered, result):
    print(left, "->", entered)
"""


def test_the_command_line_runs_and_resumes_the_machine_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "ticket.py").write_text(FILE)

    def cli(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dagger_dsl", *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )

    url = f"sqlite:///{tmp_path}/runs.db"
    first = cli("run", "ticket.py", "--input", "n=0", "--db", url, "--run-id", "t")
    assert first.returncode == 1, first.stderr
    assert "stuck" in first.stdout + first.stderr
    (tmp_path / "fixed").touch()
    second = cli("resume", "t", "--actions", "ticket.py", "--db", url)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "opened -> worked" in second.stdout
    shown = cli("show", "t", "--db", url)
    assert shown.returncode == 0, shown.stderr
    assert "closed" in shown.stdout
    graph = cli("dot", "ticket.py")
    assert "digraph" in graph.stdout


def test_a_machine_pickles_and_copies() -> None:
    import copy
    import pickle

    assert pickle.loads(pickle.dumps(door().machine)) == door().machine
    assert copy.copy(Next("a", 1)) == Next("a", 1)
    assert FSMReturn("a", 1).next_state == "a"
    assert isinstance(FSM("x").registry, Registry)
