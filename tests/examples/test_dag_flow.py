"""The weather pipeline: YAML and Python are one graph, and every runner gives one report."""

from __future__ import annotations

import importlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from dagger_dsl import DagExecutor, Graph, Registry, load_yaml, load_yaml_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "dag_flow"
RUNNERS = ["sequential", "threads", "asyncio"]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Import the example's two modules by the names they use, into a registry of their own."""
    monkeypatch.syspath_prepend(EXAMPLE)
    names = ("actions", "pipeline")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with Registry():
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def graph() -> Graph:
    return load_yaml_file(EXAMPLE / "pipeline.yaml")


def inputs_under(folder: Path) -> dict[str, str]:
    """Return what a run is given; what it writes goes to *folder*."""
    return {
        "csv_path": str(EXAMPLE / "data" / "weather.csv"),
        "database_path": str(folder / "weather.sqlite"),
        "report_path": str(folder / "report.md"),
    }


@pytest.mark.row("O6")
def test_yaml_and_python_compile_to_equal_graphs(
    modules: dict[str, ModuleType], graph: Graph
) -> None:
    built = modules["pipeline"].dag.compile()
    assert built == graph
    assert hash(built) == hash(graph)
    assert load_yaml(built.to_yaml()) == graph


def test_the_analyses_stand_side_by_side(graph: Graph) -> None:
    assert graph.levels() == [
        ["extract"],
        ["transform"],
        ["load", "dry_and_wet_spells", "unusual_days"],
        ["monthly_climate"],
        ["report"],
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report that plain calls of the same functions write, without any workflow."""
    folder = tmp_path_factory.mktemp("by_hand")
    given = inputs_under(folder)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from actions import *\n"
        "from actions import clean_observations as clean, summarise_months as months\n"
        "made = clean(read_observations(sys.argv[2]))\n"
        "stored = store_days(made['days'], sys.argv[3])\n"
        "write_report(stored['stored_rows'], made['rejected'], months(stored['database']),\n"
        "    find_spells(made['days']), find_unusual_days(made['days']), sys.argv[4])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(EXAMPLE), *given.values()], check=True)
    return Path(given["report_path"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("door", ["yaml", "python"])
def test_both_doors_and_every_runner_give_the_report_of_plain_calls(
    modules: dict[str, ModuleType],
    graph: Graph,
    tmp_path: Path,
    expected: str,
    door: str,
    runner: str,
) -> None:
    given = inputs_under(tmp_path)
    with DagExecutor(registry=modules["actions"], database_url=f"sqlite:{tmp_path}/runs.db") as ex:
        report = ex.run(graph if door == "yaml" else modules["pipeline"].dag, given, runner=runner)
    report.raise_for_failure()
    assert report.outputs == {"report": given["report_path"]}
    assert Path(given["report_path"]).read_text(encoding="utf-8") == expected
    connection = sqlite3.connect(given["database_path"])
    ((rows, places),) = connection.execute("SELECT COUNT(*), COUNT(DISTINCT location) FROM days")
    connection.close()
    assert (rows, places) == (2922, 2)


def test_the_results_of_every_step_are_in_the_database(
    modules: dict[str, ModuleType], graph: Graph, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path}/runs.db"
    with DagExecutor(registry=modules["actions"], database_url=url) as executor:
        first = executor.run(graph, inputs_under(tmp_path))
        first.raise_for_failure()
    with DagExecutor(registry=modules["actions"], database_url=url) as executor:
        again = executor.resume(first.run_id)
        assert dict(again.values) == dict(first.values)
        assert all(each.restored for each in again.node_reports.values())


def test_bad_rows_are_rejected_and_named_in_the_report(
    modules: dict[str, ModuleType], graph: Graph, tmp_path: Path
) -> None:
    csv_path = tmp_path / "weather.csv"
    lines = (EXAMPLE / "data" / "weather.csv").read_text(encoding="utf-8").splitlines()
    cells = lines[1].split(",")
    header = lines[0].split(",")
    cells[header.index("temp_max")], cells[header.index("temp_min")] = "-40", "40"
    csv_path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:], lines[2]]) + "\n")
    given = {**inputs_under(tmp_path), "csv_path": str(csv_path)}
    with DagExecutor(registry=modules["actions"]) as executor:
        executor.run(graph, given).raise_for_failure()
    text = Path(given["report_path"]).read_text(encoding="utf-8")
    assert "2,921 days stored, 2 rows rejected." in text
    assert "line 2: lowest temperature 40.0 is above the highest, -40.0" in text
    assert "twice" in text


def test_a_missing_file_fails_the_run_and_the_handler_says_what_it_means(
    modules: dict[str, ModuleType],
    graph: Graph,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {**inputs_under(tmp_path), "csv_path": str(tmp_path / "nowhere.csv")}
    hurried = graph.replace(
        nodes={**graph.nodes, "extract": graph.nodes["extract"].replace(try_count=1)}
    )
    with DagExecutor(registry=modules["actions"]) as executor:
        report = executor.run(hurried, given)
    assert not report.success
    assert report.error is not None
    assert "FileNotFoundError" in str(report.error)
    assert "extract failed, so there is no weather data" in capsys.readouterr().out
    assert not Path(given["report_path"]).exists()


def test_the_picture_shows_this_graph(graph: Graph) -> None:
    svg = ElementTree.fromstring((EXAMPLE / "pipeline.svg").read_text(encoding="utf-8"))
    boxes = [each for each in svg.iter() if each.get("data-id") is not None]
    assert [box.get("data-id") for box in boxes] == list(graph.nodes)
    assert sum(each.get("class") == "arrow" for each in svg.iter()) == len(graph.edges)
    assert all("s-completed" in box.get("class", "") for box in boxes)


def test_readme_quotes_the_pipeline() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    arrows = (EXAMPLE / "pipeline.py").read_text(encoding="utf-8").split(") as dag:\n")[1]
    assert f'with DAG("weather_report") as dag:\n{arrows}```' in readme


def test_run_sh_leaves_results_in_sqlite_and_a_readable_report(tmp_path: Path) -> None:
    folder = tmp_path / "dag_flow"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("out", "__pycache__"))
    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "dagger-dsl"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom dagger_dsl.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "run.sh"],
        cwd=folder,
        env={"PATH": f"{commands}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs.db" in done.stdout
    assert "[7/7] report: completed" in done.stdout
    text = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Weather report\n\n2,922 days stored, 0 rows rejected.\n")
    connection = sqlite3.connect(folder / "out" / "runs.db")
    runs = connection.execute("SELECT flow_name, status FROM flow_runs").fetchall()
    connection.close()
    assert runs == [("weather_report", "completed")] * 2


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_examples_are_typed_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--config-file", "", "--follow-imports", "silent"),
            *("--cache-dir", str(tmp_path / "cache")),
            *("actions.py", "pipeline.py"),
        ],
        cwd=EXAMPLE,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
