"""DOT is what document 003 prints, for every state, and no id can break out of its quotes."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import DAG, Registry
from dagger_dsl.engine.report import ErrorInfo, NodeReport
from dagger_dsl.errors import ConfigurationError, NodeExecutionError
from dagger_dsl.model.graph import Edge, Graph, Input, Node, Output, id_problem
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.views.dot import COLOURS, quote
from tests.views.dot_grammar import parse
from tests.views.reports import make_report

GOLDEN = Path(__file__).parent / "golden"

PIPELINE = Graph(
    "data_pipeline",
    [
        Node("extract_data", "extract_customers"),
        Node("transform_data", "clean", dependencies=["extract_data"]),
        Node("load_data", "load", dependencies=["transform_data"]),
    ],
)

HOSTILE = [
    'say "hi"',
    "back\\slash",
    "ends in \\",
    '\\"];evil [label="',
    "two\nlines",
    "carriage\rreturn",
    "\\n is not a newline",
    "\\N\\G\\L",
    "<b>bold</b>",
    "<table>",
    "&lt;script&gt;",
    "R&D; &#65;",
    "naïve ☃ 𝄞",
    "\x1b[31mred\x1b[0m",
    "\x07\x08\x7f\x85",
    "\u202egnp.exe",
    "-> a",
    "graph",
    "node",
    "{",
    "/* comment",
    "// comment",
    "# comment",
    "%s %d {0}",
    " ",
    "x" * 200,
]


def golden(name: str, text: str) -> None:
    """Compare with a golden file."""
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.row("N2")
def test_the_documents_own_example_is_printed_as_they_print_it() -> None:
    golden("completed.dot", PIPELINE.to_dot(dict.fromkeys(PIPELINE.nodes, "completed")))


@pytest.mark.row("N3")
@pytest.mark.parametrize("state", list(NodeState))
def test_every_state_has_its_colour(state: NodeState) -> None:
    golden(f"{state}.dot", PIPELINE.to_dot(dict.fromkeys(PIPELINE.nodes, state)))


def test_the_documents_colours() -> None:
    documented = {"lightgreen", "lightcoral", "lightgrey", "khaki", "lightblue", "white"}
    assert documented <= set(COLOURS.values())
    assert COLOURS["failed"] == "lightcoral"
    assert set(NodeState) <= set(COLOURS)


def test_nodes_that_a_run_says_nothing_of_are_pending() -> None:
    drawn = parse(PIPELINE.to_dot({"extract_data": "completed"}))
    assert drawn.nodes["load_data"] == {
        "fillcolor": "white",
        "label": "load_data\nStatus: Pending",
    }


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"one of .*completed.* not 'done'"):
        PIPELINE.to_dot({"load_data": "done"})


def test_without_a_run_nodes_show_their_action() -> None:
    golden("graph.dot", PIPELINE.to_dot())


@pytest.mark.row("N1")
def test_a_diamond_has_all_its_edges_once() -> None:
    graph = Graph(
        "diamond",
        [
            Node("a", "f"),
            Node("b", "f", [Input("x", "a.result")], dependencies=["a"]),
            Node("c", "f", [Input("x", "a.result")]),
            Node("d", "f", dependencies=["b", "c"]),
        ],
    )
    drawn = parse(graph.to_dot())
    assert drawn.name == "execution_tree"
    assert [(source, target) for source, target, _ in drawn.edges] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "d"),
        ("c", "d"),
    ]


def test_edges_show_their_labels() -> None:
    graph = Graph(
        "branches",
        [Node("check", "f"), Node("yes", "f"), Node("no", "f")],
        [Edge("check", "yes", "true"), Edge("check", "no", 'say "no"')],
    )
    assert [edge[2] for edge in parse(graph.to_dot()).edges] == [
        {"label": "true"},
        {"label": 'say "no"'},
    ]


@pytest.mark.row("A23")
def test_descriptions_are_shown_as_tooltips() -> None:
    node = Node(
        "clean",
        "f",
        [Input("raw", "inputs.rows", description='Rows as "they" came')],
        [Output("rows", "What is left"), Output("count")],
        description="Drop what\nis broken",
    )
    tooltip = parse(Graph("g", [node]).to_dot()).nodes["clean"]["tooltip"]
    assert tooltip == 'Drop what\nis broken\nraw: Rows as "they" came\n-> rows: What is left'


@pytest.mark.row("N7")
def test_a_run_shows_attempts_times_and_the_first_line_of_errors() -> None:
    error = ErrorInfo("ValueError", 'bad "row"\nand more')
    report = make_report(
        PIPELINE,
        NodeReport("extract_data", NodeState.COMPLETED, 1, duration=0.0123),
        NodeReport("transform_data", NodeState.FAILED, 3, duration=1.5, error=error),
        NodeReport("load_data", NodeState.SKIPPED, reason="upstream failed: transform_data"),
        status=RunStatus.FAILED,
    )
    golden("failed_run.dot", report.to_dot())
    drawn = parse(report.to_dot())
    assert drawn.nodes["transform_data"]["fillcolor"] == "lightcoral"
    assert drawn.nodes["transform_data"]["label"].endswith('ValueError: bad "row"')


@pytest.mark.row("N7")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_run_that_failed_can_be_debugged_by_its_picture(runner: str) -> None:
    dag = DAG("debugged", registry=Registry())

    @dag.node
    def load() -> list[str]:
        return ["3", "x"]

    @dag.node(attempts=2, retry_delay=0)
    def check(load: list[str]) -> int:
        raise LookupError(f'row "{load[1]}"\nis no number')

    @dag.node
    def save(check: int) -> None:
        raise AssertionError("not reached")

    load >> check >> save
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner)
    nodes = parse(dag.report.to_dot()).nodes
    colours = {node_id: node["fillcolor"] for node_id, node in nodes.items()}
    assert colours == {"load": "lightgreen", "check": "lightcoral", "save": "lightgrey"}
    lines = nodes["check"]["label"].split("\n")
    assert lines[:3] == ["check", "Status: Failed", "Attempts: 2"]
    assert lines[3].endswith(("s", "µs", "ms"))
    assert lines[4:] == ['LookupError: row "x"']
    assert re.fullmatch(r"load\nStatus: Completed\n[\d.]+ (µs|ms|s)", nodes["load"]["label"])


def test_a_run_says_what_was_recovered_and_restored() -> None:
    report = make_report(
        PIPELINE,
        NodeReport("extract_data", NodeState.COMPLETED, 1, restored=True),
        NodeReport("transform_data", NodeState.COMPLETED, 2, recovered=True, duration=61.0),
    )
    nodes = parse(report.to_dot()).nodes
    assert nodes["extract_data"]["label"] == "extract_data\nStatus: Completed (restored)"
    assert nodes["transform_data"]["label"] == (
        "transform_data\nStatus: Completed (recovered)\nAttempts: 2\n61.00 s"
    )


def test_long_texts_are_cut() -> None:
    node = Node("n", "f", description="d" * 100_000)
    report = make_report(
        Graph("g", [node]),
        NodeReport("n", NodeState.FAILED, 1, error=ErrorInfo("E", "m" * 100_000)),
    )
    assert len(report.to_dot()) < 3_000


# --- escaping ------------------------------------------------------------------------------------


def hostile_graph() -> Graph:
    """Return a chain of nodes with all the hostile ids."""
    ids = [text.replace(".", "·") for text in HOSTILE]
    nodes = [
        Node(each, each, dependencies=[before] if before else [], description=each)
        for before, each in zip([None, *ids], ids, strict=False)
    ]
    return Graph("hostile", nodes)


@pytest.mark.row("N4")
def test_hostile_ids_stay_in_their_quotes() -> None:
    graph = hostile_graph()
    drawn = parse(graph.to_dot())
    assert len(drawn.nodes) == len(graph.nodes)
    assert len(drawn.edges) == len(graph.nodes) - 1
    assert all(set(each) == {"fillcolor", "label", "tooltip"} for each in drawn.nodes.values())
    names = list(drawn.nodes)
    assert [edge[:2] for edge in drawn.edges] == list(itertools.pairwise(names))


@pytest.mark.row("N4")
@pytest.mark.parametrize("text", [each for each in HOSTILE if each.isprintable() or "\n" in each])
def test_a_label_shows_the_id_as_it_is(text: str) -> None:
    node_id = text.replace(".", "·")
    label = parse(Graph("g", [Node(node_id, node_id)]).to_dot()).nodes.popitem()[1]["label"]
    assert label == (node_id if len(node_id) < 80 else node_id[:79] + "\N{HORIZONTAL ELLIPSIS}")


@pytest.mark.row("N4")
def test_a_long_id_is_cut_in_its_label_and_whole_in_its_name_and_tooltip() -> None:
    long = Node("x" * 200, "y" * 200, description="why")
    graph = Graph("g", [long, Node("b", "b")], [Edge("x" * 200, "b", "z" * 200)])
    drawn = parse(graph.to_dot())
    assert max(map(len, drawn.nodes["x" * 200]["label"].split("\n"))) == 80
    assert drawn.nodes["x" * 200]["tooltip"] == "x" * 200 + "\nwhy"
    assert len(drawn.edges[0][2]["label"]) == 80


@pytest.mark.row("N4")
def test_nothing_in_dot_changes_the_direction_of_writing_or_commands_a_terminal() -> None:
    marks = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    bad = f"a{marks}\x1b[31m\x9b2J\x07b"
    nodes = [Node(bad, bad, description=bad), Node("ab", "f"), Node("a\u202eb", "f")]
    report = make_report(
        Graph(bad, nodes, [Edge(bad, "ab", bad)]),
        NodeReport(bad, NodeState.FAILED, 1, error=ErrorInfo(bad, bad)),
        run_id=bad,
    )
    for text in (report.graph.to_dot(), report.to_dot()):
        assert not set(text) & set(marks)
        assert all(sign >= " " or sign == "\n" for sign in text)
        assert not any("\x7f" <= sign <= "\x9f" for sign in text)
        assert len(parse(text).nodes) == 3  # told apart although they read alike


def test_control_characters_are_shown_by_their_pictures_and_nul_is_dropped() -> None:
    assert quote("a\0b\x1bc\x7f") == '"ab\u241bc\u2421"'


def test_ids_that_would_read_alike_are_told_apart() -> None:
    graph = Graph("g", [Node("a\x1b", "f"), Node("a\u241b", "f", dependencies=["a\x1b"])])
    drawn = parse(graph.to_dot())
    assert len(drawn.nodes) == 2
    assert [edge[:2] for edge in drawn.edges] == [tuple(drawn.nodes)]


IDS = st.text(min_size=1, max_size=30).filter(lambda text: id_problem(text) is None)


@pytest.mark.row("N4")
@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.text(max_size=20), st.text())
def test_any_text_gives_dot_that_says_the_same(ids: list[str], when: str, docs: str) -> None:
    nodes = [Node(each, "f", description=docs) for each in ids]
    edges = [Edge(ids[0], each, when) for each in ids[1:]]
    text = Graph("g", nodes, edges).to_dot(dict.fromkeys(ids, "failed"))
    drawn = parse(text)
    assert len(drawn.nodes) == len(ids)
    assert len(drawn.edges) == len(ids) - 1
    text.encode()
    for node_id, given_attributes in zip(ids, drawn.nodes.values(), strict=True):
        assert given_attributes["fillcolor"] == "lightcoral"
        assert given_attributes["label"].endswith("\nStatus: Failed")
        if node_id.isprintable() and "&" not in node_id:
            assert given_attributes["label"] == f"{node_id}\nStatus: Failed"


needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")


@needs_graphviz
@pytest.mark.row("N1", "N4")
def test_graphviz_draws_hostile_ids_as_they_are() -> None:
    done = subprocess.run(
        ["dot", "-Tsvg"], input=hostile_graph().to_dot().encode(), capture_output=True, check=True
    )
    assert done.stderr == b""
    svg = ElementTree.fromstring(done.stdout)  # control characters would not be XML
    assert len(svg.findall(".//{*}g[@class='node']")) == len(HOSTILE)
    assert len(svg.findall(".//{*}g[@class='edge']")) == len(HOSTILE) - 1
    texts = {each.text for each in svg.findall(".//{*}text")}
    assert {'say "hi"', "back\\slash", "<b>bold</b>", "&lt;script&gt;", "\\N\\G\\L"} <= texts
    links = [value for each in svg.iter() for key, value in each.attrib.items() if "href" in key]
    assert links == []
