"""`executor.doctor`: each fault is found, told with its way out, and never raised."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dagger_dsl.dsl import DAG, action
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.executor import DagExecutor
from dagger_dsl.executor._doctor import Check, Diagnosis
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node
from dagger_dsl.registry import Registry


def start() -> int:
    return 1


def double(x: int) -> int:
    return 2 * x


def shout(text: str) -> str:
    return text.upper()


def boom() -> None:
    raise ValueError("no file")


ACTIONS = {"start": start, "double": double, "shout": shout, "boom": boom}


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[DagExecutor]:
    with DagExecutor(registry=ACTIONS, database_url=f"sqlite:{tmp_path / 'runs.db'}") as made:
        yield made


def found(diagnosis: Diagnosis, name: str) -> Check:
    """Return the only check of a name."""
    (check,) = [each for each in diagnosis.checks if each.name == name]
    return check


def names(checks: tuple[Check, ...]) -> list[str]:
    return [each.name for each in checks]


def sound() -> Graph:
    return Graph("flow", [Node("a", "start"), Node("b", "double", [Input("x", "a.result")])])


# Nothing wrong.


@pytest.mark.row("H13")
def test_a_sound_graph_passes_every_check(executor: DagExecutor) -> None:
    executor.load(sound())
    diagnosis = executor.doctor("flow")
    assert diagnosis.ok
    assert diagnosis.problems == diagnosis.warnings == ()
    assert names(diagnosis.checks) == [
        "loaded",
        "actions",
        "dependencies",
        "cycles",
        "inputs",
        "types",
        "lint",
        "parallel",
        "database",
        "newest run",
    ]
    executor.run("flow")
    assert found(executor.doctor("flow"), "newest run").found.endswith("completed")


def test_graphs_and_dags_need_not_be_loaded(executor: DagExecutor) -> None:
    assert executor.doctor(sound()).ok

    with Registry(), DAG("drawn") as dag:

        @action
        def one() -> int:
            return 1

        one()
    diagnosis = executor.doctor(dag)
    assert diagnosis.ok
    assert diagnosis.dag == "drawn"
    assert executor.list_dags() == []


def test_nothing_is_run_and_nothing_is_changed(executor: DagExecutor) -> None:
    executor.load(Graph("flow", [Node("a", "boom")]))
    assert executor.doctor("flow").ok
    assert executor.storage.list_runs() == []


# The graph.


@pytest.mark.row("H13")
def test_a_graph_that_is_not_loaded_is_found_out(executor: DagExecutor) -> None:
    executor.load(sound())
    diagnosis = executor.doctor("flwo")
    assert names(diagnosis.problems) == ["loaded"]
    assert found(diagnosis, "loaded").found == "DAG not found: 'flwo'; did you mean 'flow'?"
    assert names(diagnosis.checks) == ["loaded", "database", "newest run"]
    assert names(executor.doctor(object()).problems) == ["loaded"]  # type: ignore[arg-type]


@pytest.mark.row("H13")
def test_actions_that_are_not_registered_are_found_out(executor: DagExecutor) -> None:
    graph = Graph("flow", [Node("a", "strat"), Node("b", "start", failure="nobody")])
    diagnosis = executor.doctor(graph)
    assert names(diagnosis.problems) == ["actions", "actions"]
    first, second = diagnosis.problems
    assert first.found == "node 'a': action 'strat' is not registered; did you mean 'start'?"
    assert second.found.startswith("node 'b': the failure action 'nobody' is not registered")
    assert found(diagnosis, "lint").level == "ok"


@pytest.mark.row("H13")
def test_cycles_and_missing_dependencies_are_found_out(executor: DagExecutor) -> None:
    ring = [Node("a", "start", dependencies=["b"]), Node("b", "start", dependencies=["a"])]
    diagnosis = executor.doctor(Graph("flow", ring))
    assert names(diagnosis.problems) == ["cycles"]
    assert "a -> b -> a" in found(diagnosis, "cycles").found
    assert "lint" not in names(diagnosis.checks)
    lost = Graph("flow", [Node("a", "start"), Node("b", "start", dependencies=["aa"])])
    diagnosis = executor.doctor(lost)
    assert names(diagnosis.problems) == ["dependencies"]
    assert "did you mean 'a'" in found(diagnosis, "dependencies").found


@pytest.mark.row("H13")
def test_inputs_without_values_and_types_that_differ_are_found_out(executor: DagExecutor) -> None:
    graph = Graph("flow", [Node("a", "start"), Node("b", "double", dependencies=["a"])])
    diagnosis = executor.doctor(graph)
    assert names(diagnosis.problems) == ["inputs"]
    assert "'double' needs a value for 'x'" in found(diagnosis, "inputs").found
    mixed = Graph("flow", [Node("a", "start"), Node("b", "shout", [Input("text", "a.result")])])
    diagnosis = executor.doctor(mixed)
    assert names(diagnosis.problems) == ["types"]
    assert "no value is both" in found(diagnosis, "types").found


def test_what_a_run_has_to_be_given_is_said(executor: DagExecutor) -> None:
    nodes = [Node(f"n{name}", "double", [Input("x", f"inputs.{name}")]) for name in "abc"]
    given = [GraphInput("a"), GraphInput("b", default=3), GraphInput("c", required=False)]
    graph = Graph("flow", nodes, inputs=given)
    assert found(executor.doctor(graph), "inputs").found == "a run has to be given 'a'"
    undeclared = Graph("flow", nodes)
    assert found(executor.doctor(undeclared), "inputs").found == (
        "a run has to be given 'a', 'b', 'c'"
    )
    lenient = graph.replace(config=DagConfig(on_missing="null"))
    assert found(executor.doctor(lenient), "inputs").found == "a run needs none"


@pytest.mark.row("B49", "H13")
def test_warnings_of_lint_do_not_make_a_problem(executor: DagExecutor) -> None:
    nodes = [*sound().nodes.values(), Node("c", "double", [Input("x", "b.result")], (), ["a"])]
    diagnosis = executor.doctor(Graph("flow", nodes))
    assert diagnosis.ok
    assert [(each.name, each.found) for each in diagnosis.warnings] == [
        ("lint", "node 'c': waits for 'a' anyway, through 'b'; drop the dependency")
    ]
    ordered = Graph("flow", [Node("a", "start"), Node("b", "start", dependencies=["a"])])
    assert found(executor.doctor(ordered), "lint").found == "1 note: graph.lint() lists them"


def test_graphs_that_run_one_node_at_a_time_are_noticed(executor: DagExecutor) -> None:
    nodes = [Node("a", "start"), Node("b", "start")]
    off = Graph("flow", nodes, config=DagConfig(enable_parallel_execution=False))
    assert found(executor.doctor(off), "parallel").level == "warning"
    one = Graph("flow", nodes, config=DagConfig(max_parallel_nodes=1))
    assert "where 2 could run together" in found(executor.doctor(one), "parallel").found
    assert found(executor.doctor(Graph("flow", nodes)), "parallel").found == (
        "4 slots; at most 2 nodes can run together"
    )


def test_many_problems_are_cut(executor: DagExecutor) -> None:
    graph = Graph("flow", [Node(f"n{i}", "nothing") for i in range(50)])
    diagnosis = executor.doctor(graph)
    assert len(diagnosis.problems) == 21
    assert diagnosis.problems[-1].found == "and 30 more"


def test_a_dag_that_cannot_be_compiled_is_a_finding(executor: DagExecutor) -> None:
    class Draft:
        name = "draft"

        def compile(self) -> Graph:
            return Graph("draft", [Node("a", "start")], [Edge("a", "b")])

    diagnosis = executor.doctor(Draft())
    assert diagnosis.dag == "draft"
    assert names(diagnosis.problems) == ["loaded"]
    assert "'b', which is not in the graph" in diagnosis.problems[0].found


# The database and the newest run.


@pytest.mark.row("H13")
def test_a_database_that_cannot_be_opened_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at" * 50)
    executor = DagExecutor(registry=ACTIONS, database_url=f"sqlite:{tmp_path / 'notes.txt'}")
    diagnosis = executor.doctor(sound())
    executor.close()
    assert names(diagnosis.problems) == ["database"]
    assert "notes.txt" in found(diagnosis, "database").found
    assert "newest run" not in names(diagnosis.checks)


def test_a_full_disk_is_noticed(executor: DagExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagger_dsl.store.health._LOW", 1 << 80)
    check = found(executor.doctor(sound()), "database")
    assert check.level == "warning"
    assert "bytes left; free some space" in check.found


@pytest.mark.row("H13")
def test_a_run_that_failed_tells_why_and_how_to_go_on(executor: DagExecutor) -> None:
    executor.load(Graph("flow", [Node("a", "start"), Node("b", "boom", dependencies=["a"])]))
    report = executor.run("flow")
    (problem,) = executor.doctor("flow").problems
    assert problem.name == "newest run"
    assert f"run {report.run_id}" in problem.found
    assert "is failed: 'b' failed after 1 attempt" in problem.found
    assert problem.found.endswith("ValueError: no file")
    assert problem.way_out == (
        f"when that is mended, executor.resume({report.run_id!r}) goes on where it stands"
    )


@pytest.mark.row("H13")
def test_a_run_that_stands_still_tells_why(executor: DagExecutor) -> None:
    executor.load(Graph("flow", [Node("a", "boom", on_failure="pause")]))
    report = executor.run("flow")
    (problem,) = executor.doctor("flow").problems
    assert "is paused: 'a' failed" in problem.found
    assert f"resume({report.run_id!r})" in problem.way_out
    token = CancelToken()
    token.cancel("not today")
    executor.run("flow", cancel=token)
    (problem,) = executor.doctor("flow").problems
    assert problem.found.endswith("is cancelled: not today")


CRASH = """
    import os
    from dagger_dsl.executor import DagExecutor
    from dagger_dsl.model.graph import Graph, Node
    with DagExecutor(registry={"die": lambda: os._exit(9)}, database_url=%r) as executor:
        executor.run(Graph("flow", [Node("a", "die")]))
"""


@pytest.mark.row("H13")
def test_a_run_whose_owner_died_is_told_from_one_that_goes_on(
    executor: DagExecutor, tmp_path: Path
) -> None:
    seen: dict[str, Check] = {}
    executor.register_action(
        "look", lambda: seen.update(check=found(executor.doctor("alive"), "newest run"))
    )
    executor.load(Graph("alive", [Node("a", "look")]))
    report = executor.run("alive")
    assert report.success
    assert seen["check"].level == "ok"
    assert "is being executed by process" in seen["check"].found
    code = textwrap.dedent(CRASH) % f"sqlite:{tmp_path / 'runs.db'}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    executor.load(sound())
    (problem,) = executor.doctor("flow").problems
    assert "has not ended, and process" in problem.found
    assert "is dead" in problem.found
    assert problem.way_out.startswith("executor.resume(")


# For people.


def test_a_diagnosis_can_be_read(executor: DagExecutor) -> None:
    diagnosis = executor.doctor(Graph("flow", [Node("a", "\x1b[31mred")]))
    text = str(diagnosis)
    assert text.splitlines()[0] == "flow: 1 problem"
    assert "problem  actions" in text
    assert "\x1b" not in text
    console = Console(width=120)
    with console.capture() as shown:
        console.print(diagnosis)
    assert "problem" in shown.get()
    assert "\x1b[31mred" not in shown.get()
    assert str(executor.doctor(sound())).startswith("flow: no problems\n")


def test_actions_of_any_kind_are_looked_up(tmp_path: Path) -> None:
    known: Mapping[str, Any] = {"start": start}
    with Registry() as registry:
        registry.register(start)
        for given in (registry, known):
            with DagExecutor(registry=given) as executor:
                assert executor.doctor(Graph("flow", [Node("a", "start")])).ok
