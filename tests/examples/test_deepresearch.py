"""A research whose agents find out on their way what else has to be read, in Python's own texts."""

from __future__ import annotations

import importlib
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dagger_dsl import TaskManager
from dagger_dsl.agents import JobHandle, JobStatus, Task, TaskStatus
from tests.examples.agents import EXAMPLES, checked, imported, killed, outside

LONG = 60.0
#: Answered after some searching, and not at all.
FOUND = "What happens to the remaining tasks of a group when one raises an exception?"
LOST = "How does a zeppelin land?"


@pytest.fixture
def agents() -> Iterator[ModuleType]:
    with imported(EXAMPLES, "deepresearch.agents") as module:
        yield module


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a library is, which nobody changes."""
    path = tmp_path_factory.mktemp("library") / "library.db"
    with imported(EXAMPLES, "deepresearch.library") as module:
        known = set(sys.modules)
        assert module.build(path) >= 500
        # Sources are read, not imported: some of them do things.
        assert not {"antigravity", "this", "turtle"} & (set(sys.modules) - known)
    return path


def start(manager: TaskManager, agents: ModuleType, library: Path, question: str) -> JobHandle:
    """Let a question be answered."""
    config = {"library": str(library), "report": str(library.with_name("report.md"))}
    return manager.start_job("j", agents.plan(question), config=config)


def of_agent(job: JobHandle, agent: str) -> list[Task]:
    """Return the tasks of an agent."""
    return [task for task in job.tasks if task.agent == agent]


@pytest.mark.row("R5", "I18", "I20")
def test_it_asks_for_more_while_the_evidence_is_thin(agents: ModuleType, library: Path) -> None:
    with TaskManager(registry=agents) as manager:
        job = start(manager, agents, library, f"{FOUND} {LOST}")
        assert job.result(LONG) is JobStatus.COMPLETED
        found, lost = of_agent(job, "evaluator")
        for task, finding in ((found, found.output), (lost, lost.output)):
            # Called once, and once after each search: to wait is no failure.
            assert task.attempts == finding["rounds"] + 1
            assert task.retry_count == 0
            assert (
                len([each for each in of_agent(job, "searcher") if each.parent == task.id])
                == (finding["rounds"])
            )
        assert found.output["rounds"] > 1
        assert len(found.output["notes"]) >= agents.SOURCES
        assert lost.output["rounds"] == agents.ROUNDS
        assert "zeppelin" in lost.output["missing"]
        causes = [event.cause for event in manager.history(lost.id)]
        assert any("nothing on" in cause for cause in causes)


def test_what_was_read_is_not_read_again_for_a_question(agents: ModuleType, library: Path) -> None:
    with TaskManager(registry=agents) as manager:
        job = start(manager, agents, library, FOUND)
        assert job.result(LONG) is JobStatus.COMPLETED
        read = [task.input["section"] for task in of_agent(job, "reader")]
        assert len(read) == len(set(read)) > 4


@pytest.mark.row("R5")
def test_the_report_quotes_what_stands_in_its_sources(agents: ModuleType, library: Path) -> None:
    with TaskManager(registry=agents) as manager:
        job = start(manager, agents, library, f"{FOUND} {LOST}")
        assert job.result(LONG) is JobStatus.COMPLETED
        (writer,) = of_agent(job, "writer")
    report = Path(writer.output).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", report, re.MULTILINE) == [FOUND, LOST, "Sources"]
    sources = dict(re.findall(r"^(\d+)\. `(.*)`$", report, re.MULTILINE))
    quotes = re.findall(r"^- (.*) \[(\d+)\]$", report, re.MULTILINE)
    assert quotes
    texts = importlib.import_module("deepresearch.library")
    for quote, number in quotes:
        text = " ".join(texts.read(library, sources[number]).text.split())
        assert quote.removesuffix(" …") in text
    assert {number for _, number in quotes} == set(sources)


def test_a_question_that_asks_nothing_fails_its_job(agents: ModuleType, library: Path) -> None:
    with TaskManager(registry=agents) as manager:
        job = start(manager, agents, library, "What is it?")
        assert job.result(LONG) is JobStatus.FAILED
        assert "asks for nothing" in of_agent(job, "planner")[0].error


def test_what_counts_as_evidence(agents: ModuleType) -> None:
    def note(quote: str, *covers: str) -> dict[str, object]:
        return {"section": quote, "quote": quote, "covers": list(covers)}

    wanted = ["red", "green", "blue", "grey"]
    one, two, three = note("1", "red"), note("2", "red", "blue"), note("3", *wanted[:3])
    assert agents.weigh(wanted, [one, two, three, two]) == ([three, two], ["grey"])
    assert agents.weigh(wanted, []) == ([], wanted)
    assert agents.library.words("What waits for the others? It waits.") == ["waits", "others"]
    assert len({agents.library.stem(each) for each in ("waits", "waiting", "waited")}) == 1


VICTIM = """
import os, signal, sys, threading
from pathlib import Path
examples, out, question, moment = sys.argv[1:]
sys.path.insert(0, examples)
from deepresearch.__main__ import research
threading.Timer(float(moment), os.kill, (os.getpid(), signal.SIGKILL)).start()
research(question, Path(out), 0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


def ended(out: Path) -> dict[str, int]:
    """Return how often each task was called that has completed, by its id."""
    with TaskManager(database_url=f"sqlite:{out / 'jobs.db'}", concurrency=0) as manager:
        jobs = [job.id for job in manager._reads.jobs()]
        tasks = [task for job_id in jobs for task in manager.tasks(job_id)]
    return {task.id: task.attempts for task in tasks if task.status is TaskStatus.COMPLETED}


@pytest.mark.slow
@pytest.mark.row("I28", "R5")
@pytest.mark.parametrize("part", range(6))
def test_a_killed_research_comes_to_the_same_report(
    agents: ModuleType, library: Path, tmp_path: Path, part: int
) -> None:
    sys.modules.pop("deepresearch.__main__", None)
    main = importlib.import_module("deepresearch.__main__")
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(library, whole)
    question = f"{FOUND} {LOST}"
    assert main.research(question, whole)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(library, out)
    before: dict[str, int] = {}
    for _ in range(2):
        moment = 0.3 + (part + random.random()) * 0.15
        assert killed(tmp_path, VICTIM, EXAMPLES, out, question, moment)
        after = ended(out)
        assert before.items() <= after.items(), "nothing that had ended is called again"
        before = after
    assert main.research(question, out)
    assert before.items() <= ended(out).items()
    assert (out / "report.md").read_text() == (whole / "report.md").read_text()
    # The same question again: all of it is there.
    before = ended(out)
    assert main.research(question, out)
    assert ended(out) == before


@pytest.mark.slow
@pytest.mark.row("R5")
def test_it_runs_by_itself_twice(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("out", "__pycache__")
    folder = Path(
        shutil.copytree(EXAMPLES / "deepresearch", tmp_path / "deepresearch", ignore=ignored)
    )
    first = outside(tmp_path, sys.executable, "-m", "deepresearch")
    assert first.returncode == 0, first.stdout + first.stderr
    report = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert report in first.stdout
    again = outside(tmp_path, sys.executable, "-m", "deepresearch")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (folder / "out" / "report.md").read_text(encoding="utf-8") == report
    assert outside(tmp_path, sys.executable, "-m", "deepresearch", "And?").returncode == 1


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    names = ("library", "agents", "__main__")
    assert checked(EXAMPLES, *(f"deepresearch/{name}.py" for name in names)) == ""
