"""The yardstick itself: shapes are what they say, and the hand-written loops do all the work."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.benchmarks import by_hand, jobs, machines, ours
from tests.benchmarks.bodies import SYNC
from tests.benchmarks.measure import Trial
from tests.benchmarks.shapes import SHAPES, Shape

ROOT = Path(__file__).parents[2]
DURABLE = [by_hand.commit_per_node, by_hand.commit_per_ready_set, by_hand.batch_writer]


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param](50)


def test_nodes_come_after_what_they_depend_on(shape: Shape) -> None:
    assert all(dep < i for i, deps in enumerate(shape.deps) for dep in deps)
    assert len(shape.ids) == len(set(shape.ids)) == len(shape.deps)


def test_layers_have_ten_levels_and_three_distinct_dependencies() -> None:
    shape = SHAPES["layers"](50)
    sorter = TopologicalSorter(dict(enumerate(shape.deps)))
    sorter.prepare()
    levels = 0
    while sorter.is_active():
        sorter.done(*sorter.get_ready())
        levels += 1
    assert levels == 10
    assert all(len(set(deps)) == 3 for deps in shape.deps[5:])


def test_loops_in_memory_take_time(shape: Shape) -> None:
    assert by_hand.graphlib_loop(shape)() > 0
    assert by_hand.graphlib_pool(shape)() > 0
    assert by_hand.asyncio_tasks(shape)() > 0
    assert by_hand.asyncio_tasks(shape, sync_functions=True)() > 0


@pytest.mark.parametrize("loop", DURABLE, ids=lambda loop: loop.__name__)
def test_durable_loops_store_every_node_of_every_run(
    tmp_path: Path, shape: Shape, loop: Callable[[Shape, Path, str], Trial]
) -> None:
    trial = loop(shape, tmp_path, "NORMAL")
    trial()
    trial()
    (file,) = tmp_path.glob("*.db")
    connection = sqlite3.connect(file)
    ((rows, runs),) = connection.execute(
        "SELECT COUNT(*), COUNT(DISTINCT run) FROM results WHERE node <> 'warm_up'"
    )
    connection.close()
    assert (rows, runs) == (2 * len(shape.ids), 2)


@pytest.mark.parametrize("runner", ["sequential", "threads"])
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_our_runs_store_every_node_too(
    tmp_path: Path, shape: Shape, runner: str, durability: str
) -> None:
    trial = ours.with_database(shape, tmp_path, runner, durability, "NORMAL")
    trial()
    trial()
    (file,) = tmp_path.glob("*.db")
    connection = sqlite3.connect(file)
    ((rows, runs),) = connection.execute(
        "SELECT COUNT(*), COUNT(DISTINCT run_id) FROM node_runs JOIN flow_runs USING (run_id)"
        " WHERE state = 'completed' AND flow_name <> 'warm_up'"
    )
    connection.close()
    assert (rows, runs) == (2 * len(shape.ids), 2)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_hook_brings_a_graph_to_its_size(batch: int) -> None:
    dag = ours.build_seed()
    dag.run(runner="sequential", hooks=[ours.Growing(50, batch)])
    assert dag.report is not None
    assert dag.report.completed_nodes == 50


def test_a_mapped_node_has_as_many_invocations_as_the_fan_has_nodes() -> None:
    dag = ours.build_map(50)
    assert dag.run(runner="sequential") == 1
    assert dag.report is not None
    assert len(dag.report.invocations("one")) == 50
    assert ours.map_in_memory(50, "threads")() > 0


def test_mapped_nodes_are_stored_too(tmp_path: Path) -> None:
    ours.map_on_file(50, tmp_path, "NORMAL", runner="sequential")()
    (file,) = tmp_path.glob("*.db")
    connection = sqlite3.connect(file)
    query = "SELECT COUNT(*) FROM node_runs WHERE node_id = 'one' AND state = 'completed'"
    ((rows,),) = connection.execute(query)
    connection.close()
    assert rows == 51


@pytest.mark.parametrize("display", ["lines", "bar", None])
def test_a_display_that_is_measured_is_not_read(
    shape: Shape, display: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ours.shown(shape, display)() > 0
    assert capfd.readouterr() == ("", "")


def test_both_sides_call_the_same_functions(shape: Shape) -> None:
    dag = ours.build(shape)
    graph = dag.compile()
    assert {dag.registry[node.action].original for node in graph.nodes.values()} <= set(SYNC)
    place = {node_id: i for i, node_id in enumerate(graph.nodes)}
    arrows = [(place[edge.source], place[edge.target]) for edge in graph.edges]
    assert sorted(arrows) == sorted((dep, i) for i, deps in enumerate(shape.deps) for dep in deps)


def test_a_machine_makes_as_many_steps_as_the_bare_calls(tmp_path: Path) -> None:
    fsm = machines.build(50)
    fsm.run()
    assert fsm.context.cycle_count == 50
    assert machines.bare(50)() > 0
    assert machines.in_memory(50, "threads")() > 0
    machines.in_database(50, tmp_path, "sync", "NORMAL")()
    (file,) = tmp_path.glob("*.db")
    connection = sqlite3.connect(file)
    query = "SELECT COUNT(*) FROM node_runs WHERE node_id IN ('tick', 'tock')"
    ((rows,),) = connection.execute(query)
    connection.close()
    assert rows == 50


def test_all_tasks_of_a_trial_are_recorded(tmp_path: Path) -> None:
    trials = [
        jobs.in_threads(40, tmp_path, "NORMAL"),
        jobs.in_processes(40, tmp_path, "NORMAL", workers=2),
        jobs.queue_by_hand(40, tmp_path, "NORMAL"),
    ]
    assert all(trial() > 0 for trial in trials)
    done = []
    for file in sorted(tmp_path.glob("*.db")):
        connection = sqlite3.connect(file)
        table = "queue" if file.name.startswith("hand") else "tasks"
        query = f"SELECT COUNT(*) FROM {table} WHERE status IN ('done', 'completed')"
        done += connection.execute(query).fetchone()
        connection.close()
    assert sorted(done) == [40, 41, 42]
    assert jobs.enqueued(40, tmp_path, "NORMAL")() > 0
    assert jobs.claims(5, tmp_path, 10)() > 0


@pytest.mark.row("R7")
def test_the_command_that_readme_gives_measures_and_prints_a_table() -> None:
    speed = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Speed")[2]
    found = re.search(r"`(python -m tests\.benchmarks)`", speed)
    assert found is not None
    words = [
        sys.executable,
        *shlex.split(found[1])[1:],
        "--n",
        "30",
        "--only",
        "sequential, one hook",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Cost of a node (us), medians of interleaved runs" in done.stdout
    for shape in SHAPES:
        assert re.search(rf"sequential, one hook +│ {shape} +│ +30 │ +\d", done.stdout), shape


def test_the_command_refuses_graphs_too_small_for_its_shapes() -> None:
    words = [sys.executable, "-m", "tests.benchmarks", "--n", "10"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "at least 30 nodes, not 10" in done.stderr
