"""The agent follows its plan, gets over a tool that fails, and asks before it publishes."""

from __future__ import annotations

import csv
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dagger_dsl import DagExecutor, Graph, RunReport, load_yaml_file
from dagger_dsl.errors import GrowthLimitExceeded, MaxIterationsExceeded
from dagger_dsl.model.commands import AddNode
from dagger_dsl.model.context import NodeRef
from dagger_dsl.model.events import NodeFailed
from dagger_dsl.testing import make_ctx, make_hook_ctx, run_action, run_hook
from tests.examples.agents import (
    EXAMPLES,
    RUNNERS,
    checked,
    completed,
    imported,
    killed,
    outside,
)

EXAMPLE = EXAMPLES / "agent_flow"
TASK = "What can be reached from the hubs, how far do flights go, and which have no way back?"
TOOLS = ["read_routes", "rank_hubs", "reach", "read_airports", "farthest", "one_way"]
END = ["validate", "review", "publish"]


@pytest.fixture
def agent() -> Iterator[ModuleType]:
    with imported(EXAMPLE) as module:
        yield module


@pytest.fixture
def graph() -> Graph:
    return load_yaml_file(EXAMPLE / "agent.yaml")


def inputs(folder: Path, task: str = TASK) -> dict[str, str]:
    return {"task": task, "data": str(EXAMPLE / "data"), "sheet": str(folder / "sheet.md")}


def finish(executor: DagExecutor, run_id: str, answer: bool = True, **options: Any) -> RunReport:
    """Go on with a run to its end, and answer what it asks on the way."""
    report = executor.resume(run_id, **options)
    for question in executor.control(run_id).questions() if report.status == "paused" else ():
        executor.submit_human_input(run_id, question.node_id, answer)
        report = executor.resume(run_id, **options)
    return report


def ask(agent: ModuleType, graph: Graph, folder: Path, **options: Any) -> RunReport:
    """Run the agent to its end."""
    given = inputs(folder, options.pop("task", TASK))
    answer = options.pop("answer", True)
    with DagExecutor(registry=agent, database_url=f"sqlite:{folder}/runs.db") as executor:
        executor.run(graph, given, run_id="r", **options)
        return finish(executor, "r", answer)


def by_hand(agent: ModuleType, folder: Path) -> str:
    """Return the sheet that plain calls of the tools give, without any workflow."""
    data = str(EXAMPLE / "data")
    routes = agent.read_routes(data)
    airports = agent.read_places(data, "nothing", "nothing")
    hubs = agent.rank_hubs(routes, 6)
    answer = agent.validate(
        routes,
        [agent.reach(hub, routes) for hub in hubs],
        [agent.farthest(hub, routes, airports) for hub in hubs],
        agent.one_way(routes),
    )
    path = folder / "by_hand.md"
    agent.publish(True, answer.outputs, str(path))
    return path.read_text(encoding="utf-8")


@pytest.mark.row("G5", "G13", "B46", "B47", "R5")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_graph_follows_the_plan_past_a_failure_to_the_sheet(
    agent: ModuleType, graph: Graph, tmp_path: Path, runner: str
) -> None:
    report = ask(agent, graph, tmp_path, runner=runner)
    assert list(graph.nodes) == ["plan"]
    assert set(report.graph.nodes) == {"plan", *TOOLS, "recover_read_airports", *END}
    assert report.nodes_in("failed") == ["read_airports"]
    assert "CLD has no city" in str(report.node_reports["read_airports"].error)
    assert report.graph.nodes["farthest"].dependencies == (
        "rank_hubs",
        "read_routes",
        "recover_read_airports",
    )
    assert report.value("publish") == str(tmp_path / "sheet.md")
    assert (tmp_path / "sheet.md").read_text(encoding="utf-8") == by_hand(agent, tmp_path)


@pytest.mark.row("G14")
def test_a_tool_is_called_for_each_hub_that_was_found(
    agent: ModuleType, graph: Graph, tmp_path: Path
) -> None:
    report = ask(agent, graph, tmp_path, task="what can be reached?")
    assert set(report.graph.nodes) == {"plan", "read_routes", "rank_hubs", "reach", *END}
    assert [each["hub"] for each in report.value("reach")] == report.value("rank_hubs")
    calls = [key for key in completed(f"sqlite:{tmp_path}/runs.db", "r") if "reach" in key]
    assert sorted(calls) == [*(f"reach {hub}" for hub in range(6)), "reach default"]


def test_nothing_is_published_without_a_yes(
    agent: ModuleType, graph: Graph, tmp_path: Path
) -> None:
    report = ask(agent, graph, tmp_path, answer=False)
    assert report.value("publish") == "not published"
    assert not (tmp_path / "sheet.md").exists()


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ({"max_iterations": 2}, MaxIterationsExceeded),
        ({"max_growth_depth": 2}, GrowthLimitExceeded),
    ],
)
def test_a_plan_that_grows_too_far_is_stopped(
    agent: ModuleType, graph: Graph, tmp_path: Path, limit: dict[str, int], error: type[Exception]
) -> None:
    with DagExecutor(registry=agent) as executor:
        report = executor.run(graph, inputs(tmp_path, "what can be reached?"), config=limit)
    assert report.status == "failed"
    with pytest.raises(error):
        report.raise_for_failure()


# --- the tools and hooks by themselves -----------------------------------------------------------


def test_the_tools_find_what_a_plain_loop_finds(agent: ModuleType) -> None:
    with open(EXAMPLE / "data" / "flights-airport.csv", encoding="utf-8", newline="") as file:
        rows = [(row["origin"], row["destination"]) for row in csv.DictReader(file)]
    routes = agent.read_routes(str(EXAMPLE / "data"))
    assert len(routes) == len(rows) == 5366
    direct = {there for here, there in rows if here == "ATL"}
    assert agent.rank_hubs(routes, 1) == ["ATL"]
    assert agent.reach("ATL", routes)["airports"][0] == len(direct) == 173
    one_change = {there for here, there in rows if here in direct} - direct - {"ATL"}
    assert agent.reach("ATL", routes)["airports"][1] == len(one_change)
    lonely = [route for route in rows if route[::-1] not in rows]
    assert sorted((here, there) for here, there, _ in agent.one_way(routes)) == sorted(lonely)
    places = {"SEA": ("Seattle", 47.449, -122.309), "JFK": ("New York", 40.64, -73.779)}
    assert agent.kilometres(places, "SEA", "JFK") == pytest.approx(3890, abs=10)


def test_what_does_not_fit_the_routes_is_not_published(agent: ModuleType) -> None:
    routes = [("A", "B", 1), ("B", "A", 1), ("B", "C", 1)]
    wrong = {
        "reach": [{"hub": "A", "airports": [2, 1]}],
        "farthest": [{"hub": "A", "to": "B", "km": 30_000}],
        "one_way": [("A", "B", 1)],
    }
    answer = run_action(agent.validate, {"routes": routes, **wrong})
    assert not answer.success
    assert answer.message.count(";") == 2
    right = {"reach": [{"hub": "A", "airports": [1, 1]}], "one_way": [("B", "C", 1)]}
    assert run_action(agent.validate, {"routes": routes, **right}).success


def test_the_review_asks_and_does_nothing_else(agent: ModuleType) -> None:
    found = {"airports": 3, "reach": [], "farthest": None, "one_way": []}
    request = agent.review(make_ctx(), found)
    assert request.prompt == "Publish the sheet on 3 airports (reach, one_way)?"
    assert request.schema == {"type": "boolean"}


def test_only_a_tool_with_a_remedy_is_recovered(agent: ModuleType, graph: Graph) -> None:
    ctx = make_hook_ctx(dag_name="air_agent", graph=graph)
    failed = NodeFailed(NodeRef("r", "air_agent", "plan"), ValueError("no"))
    assert run_hook(agent.recover, failed, ctx=ctx) == ()
    reader = graph.nodes["plan"].replace(id="read_airports", action="read_airports")
    ctx = make_hook_ctx(dag_name="air_agent", graph=graph.replace(nodes=[reader]))
    failed = NodeFailed(NodeRef("r", "air_agent", "read_airports"), ValueError("no"))
    (command,) = run_hook(agent.recover, failed, ctx=ctx)
    assert isinstance(command, AddNode)
    assert (command.spec.action, command.spec.deps) == ("read_places", ("read_airports",))


# --- kills, the script and the command line ------------------------------------------------------


VICTIM = """
import os, signal, sys, threading, time
folder, example, moment = sys.argv[1:]
sys.path.insert(0, example)
import agent
from dagger_dsl import DagExecutor, load_yaml_file
given = {"task": "reach, far, way back", "data": f"{example}/data", "sheet": f"{folder}/sheet.md"}
slow = lambda ctx, event: time.sleep(0.01)  # so that there is a moment between any two others
with DagExecutor(registry=agent, database_url=f"sqlite:{folder}/runs.db") as executor:
    graph = load_yaml_file(f"{example}/agent.yaml")
    handle = executor.start(graph, given, run_id="r", hooks=[slow])
    threading.Timer(float(moment), os.kill, (os.getpid(), signal.SIGKILL)).start()
    handle.result()
    for question in handle.questions():
        handle.answer(question.node_id, True)
    handle.resume()
    handle.result()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_killed_run_comes_to_the_same_sheet(
    agent: ModuleType, graph: Graph, tmp_path: Path, part: int
) -> None:
    moment = (part + random.random()) * 0.1
    assert killed(tmp_path, VICTIM, tmp_path, EXAMPLE, moment)
    url = f"sqlite:{tmp_path}/runs.db"
    before = completed(url, "r")
    with DagExecutor(registry=agent, database_url=url) as executor:
        report = finish(executor, "r")
    assert report.nodes_in("failed") == ["read_airports"]
    assert set(report.graph.nodes) == {"plan", *TOOLS, "recover_read_airports", *END}
    assert before.items() <= completed(url, "r").items(), "nothing that had ended is called again"
    assert (tmp_path / "sheet.md").read_text(encoding="utf-8") == by_hand(agent, tmp_path)


@pytest.mark.slow
def test_the_script_leaves_the_sheet_and_the_graph(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    done = outside(tmp_path, sys.executable, "-m", "agent_flow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Publish the sheet on 305 airports (reach, farthest, one_way)? yes" in done.stdout
    assert (folder / "out" / "sheet.md").read_text(encoding="utf-8") in done.stdout
    dot = (folder / "out" / "agent.dot").read_text(encoding="utf-8")
    assert all(f'"{name}" [' in dot for name in ["plan", *TOOLS, "recover_read_airports", *END])
    assert outside(tmp_path, sys.executable, "-m", "agent_flow", "--task", "sing").returncode == 1


@pytest.mark.slow
def test_the_command_line_of_the_readme_answers_from_another_process(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    block = readme.split("```sh\ncd agent_flow")[1].split("```")[0]
    start, rest = block.split("dagger-dsl approve")
    first = outside(folder, "bash", "-c", f"true {start}")
    assert first.returncode == 3, first.stdout + first.stderr
    assert not (folder / "out" / "cli.md").exists()
    done = outside(folder, "bash", "-euc", f"dagger-dsl approve{rest}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "out" / "cli.md").exists()


def copied(folder: Path) -> Path:
    """Copy the example and return the copy."""
    ignored = shutil.ignore_patterns("out", "__pycache__")
    return Path(shutil.copytree(EXAMPLE, folder / "agent_flow", ignore=ignored))


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    assert checked(EXAMPLES, "agent_flow/agent.py", "agent_flow/__main__.py") == ""
