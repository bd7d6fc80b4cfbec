"""README's guides for those who come from elsewhere: every snippet runs, and every name exists."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dagger_dsl import (
    DAG,
    CacheStrategy,
    DagExecutor,
    DaggerError,
    Graph,
    Registry,
    RunOptions,
    Trigger,
    action,
    branch,
    load_yaml_file,
)
from dagger_dsl.cli.parser import build, subparsers_of
from dagger_dsl.dsl.settings import NODE_OPTIONS
from dagger_dsl.errors import MaxCyclesExceeded
from dagger_dsl.registry._options import CALL_OPTIONS

ROOT = Path(__file__).parents[2]
GUIDES = ["From fast-dag", "From dagger and its YAML", "From Airflow", "From Prefect"]


class Snippet(NamedTuple):
    """A fenced block of a guide."""

    guide: str
    mark: str
    language: str
    text: str


def guides() -> dict[str, str]:
    """Return the text of each guide by its title."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = re.search(r"^## Coming from elsewhere$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert chapter is not None
    parts = re.split(r"^### (.*)$", chapter[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def snippets() -> Iterator[Snippet]:
    """Yield every fenced block of the guides, with the mark above it or none."""
    fence = r"(?:^<!-- ([^\n]*) -->\n)?^```([^\n]*)\n(.*?)^```$"
    for guide, text in guides().items():
        for mark, language, block in re.findall(fence, text, flags=re.MULTILINE | re.DOTALL):
            yield Snippet(guide, mark, language, block)


SNIPPETS = list(snippets())
SCRIPTS = [each for each in SNIPPETS if each.mark == "runnable"]


def outside(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder; warnings are errors."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.row("R9")
def test_there_is_a_guide_from_each_place_and_no_snippet_that_nothing_runs() -> None:
    assert list(guides()) == GUIDES
    assert {each.guide for each in SNIPPETS} == set(GUIDES)
    for each in SNIPPETS:
        assert each.mark == "runnable" or each.mark.startswith(("file: ", "ci: tour")), each


@pytest.mark.row("R9")
@pytest.mark.parametrize("snippet", SCRIPTS, ids=lambda each: each.guide)
def test_python_runs_as_it_stands_there(snippet: Snippet, tmp_path: Path) -> None:
    assert snippet.text.count("assert ") >= 2, "it says what comes out"
    (tmp_path / "snippet.py").write_text(snippet.text, encoding="utf-8")
    done = outside(tmp_path, "snippet.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files that the guides show."""
    for each in SNIPPETS:
        if each.mark.startswith("file: "):
            (tmp_path / each.mark.removeprefix("file: ")).write_text(each.text, encoding="utf-8")
    return tmp_path


@pytest.mark.row("R9")
def test_yaml_is_loaded_as_it_is_and_nothing_of_it_is_lost(files: Path) -> None:
    graph = load_yaml_file(files / "data_pipeline.yaml")
    graph.validate()
    assert Graph.from_yaml(graph.to_yaml()) == graph
    extract, transform, load = graph.nodes.values()
    assert (extract.try_count, extract.timeout, load.on_failure) == (3, 300, "stop")
    assert [edge.source for edge in graph.edges] == ["extract_data", "transform_data"]
    assert transform.inputs[0].reference == "extract_data.raw_data"


@pytest.mark.row("R9")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_yaml_runs_with_old_and_new_functions_beside_each_other(files: Path, runner: str) -> None:
    code: dict[str, Any] = {"__name__": "data_actions"}
    exec((files / "data_actions.py").read_text(encoding="utf-8"), code)
    names = ("extract_customers", "clean_and_transform", "load_to_warehouse")
    with DagExecutor(registry={name: code[name] for name in names}) as executor:
        graph = executor.load_yaml_file(files / "data_pipeline.yaml")
        given = {"database_url": "crm", "target_table": "customers"}
        report = executor.run(graph, given, runner=runner)
    assert report.value("transform_data") == ["CRM/ADA", "CRM/BOB"]
    assert report.outputs == {"load_data": 2}


@pytest.mark.row("R9")
def test_the_commands_of_the_guides_do_what_they_say(files: Path) -> None:
    (script,) = (each.text for each in SNIPPETS if each.mark == "ci: tour")
    said = ""
    for line in script.replace("\\\n", " ").splitlines() * 2:  # a reader may do it again
        program, *words = shlex.split(line)
        assert program == "dagger-dsl"
        done = outside(files, "-m", "dagger_dsl", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    assert said.count("load_data = 2") == 2


# --- the tables -----------------------------------------------------------------------------------


def ours() -> Iterator[tuple[str, str]]:
    """Yield each piece of code in the right column of a table, with its guide."""
    for guide, text in guides().items():
        for row in re.findall(r"^\| .* \|$", text, flags=re.MULTILINE):
            for code in re.findall(r"`([^`]+)`", row.rstrip(" |").rpartition(" | ")[2]):
                yield guide, code


def keywords() -> set[str]:
    """Return the names of all options that the public calls take."""
    with Registry():
        step = action(lambda x: x, name="step")
    calls: list[Callable[..., Any]] = [
        *(DAG, DAG.run, DAG.input, DAG.connect, DAG.cached_node, step.map),
        *(action, branch, RunOptions, CacheStrategy.ttl),
    ]
    found = {name for call in calls for name in inspect.signature(call).parameters}
    return found | NODE_OPTIONS | {*CALL_OPTIONS, "attempts", "cache", "outputs"}


@pytest.mark.row("R9")
def test_every_option_of_the_tables_is_one_that_there_is() -> None:
    known = keywords() | {"y"}  # a parameter of the step that is mapped
    asked = {
        (guide, name)
        for guide, code in ours()
        for name in re.findall(r"(?:(?<=[(, ])|^)(\w+)=(?!=)", code)
        if code not in ELSEWHERE
    }
    assert len(asked) > 20
    assert [each for each in sorted(asked) if each[1] not in known] == []


@pytest.mark.row("R9")
def test_every_decorator_attribute_and_command_of_the_tables_is_one_that_there_is() -> None:
    dag, step = DAG("dag"), action(lambda: True, name="step", registry=Registry())
    places = [dag, step, dag.add(step)]
    commands = subparsers_of(build())
    missing = []
    for guide, code in ours():
        for name in re.findall(r"(?:^@?dag|^task|^)\.(\w+)", code):
            if code not in ELSEWHERE and not any(hasattr(each, name) for each in places):
                missing.append((guide, code, name))
        if code.startswith("dagger-dsl ") and code.split()[1] not in commands:
            missing.append((guide, code, code.split()[1]))
    assert missing == []
    table = " ".join(code for guide, code in ours() if guide == "From Airflow")
    assert {each.value for each in Trigger} <= set(table.split()), "the table says: no others"
    assert issubclass(MaxCyclesExceeded, DaggerError)


#: What stands in the right column and is not ours.
ELSEWHERE = {"wait_for=[a]", "functools.wraps", ".out.x"}
