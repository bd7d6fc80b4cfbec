"""Importing the front door is cheap: no heavy library is loaded, and it takes at most 50 ms."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.measure import within

FRONT = "from dagger_dsl import DAG, action"

HEAVY = (
    "asyncio",
    "cattrs",
    "concurrent.futures",
    "graphlib",
    "jsonschema_rs",
    "orjson",
    "rich",
    "ruamel",
    "sqlalchemy",
    "sqlite3",
    "tenacity",
)


def loaded(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after *code*."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def heavy(code: str) -> list[str]:
    """Return the heavy libraries that *code* loads."""
    modules = loaded(code)
    return [
        each
        for each in HEAVY
        if each in modules or any(name.startswith(f"{each}.") for name in modules)
    ]


def test_the_front_door_loads_no_heavy_library() -> None:
    assert heavy(FRONT) == []


def test_building_and_compiling_loads_no_heavy_library() -> None:
    code = f"""{FRONT}
@action
def one() -> int:
    return 1
@action
def add(x: int, y: int = 2) -> int:
    return x + y
with DAG("d") as dag:
    one() >> add
dag.compile()
"""
    assert set(heavy(code)) <= {"graphlib"}


def test_values_and_errors_load_no_heavy_library() -> None:
    names = "Graph, Node, DagConfig, RetryPolicy, NodeOutput, DaggerError, Registry, RunOptions"
    assert heavy(f"from dagger_dsl import {names}") == []


def test_the_package_alone_loads_nothing_of_itself() -> None:
    assert {each for each in loaded("import dagger_dsl") if each.startswith("dagger_dsl.")} == set()


def test_the_command_line_loads_nothing_heavy_for_its_help() -> None:
    code = (
        "import contextlib, io\n"
        "from dagger_dsl.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    assert heavy(code) == []


@pytest.mark.benchmark
def test_the_front_door_costs_at_most_50_ms() -> None:
    resource = pytest.importorskip("resource")

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(usage.ru_utime + usage.ru_stime)

    def seconds(code: str) -> float:
        start = spent()
        subprocess.run([sys.executable, "-c", code], check=True)
        return spent() - start

    # Processor time, and the least of many rounds: other programs can only add to it.
    bare = min(seconds("pass") for _ in range(15))
    taken, allowed = within(lambda: seconds(FRONT) - bare, 0.050, turns=15)
    assert taken <= allowed
