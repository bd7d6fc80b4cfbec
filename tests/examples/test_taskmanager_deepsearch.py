"""The documents' research job: who needs more, a busy source, a person, and one publication."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dagger_dsl import NewTaskSpec, TaskManager
from dagger_dsl.agents import JobHandle, JobStatus, Task, TaskStatus, TaskType
from dagger_dsl.errors import AgentNotAllowed
from tests.examples.agents import EXAMPLES, checked, imported, killed, outside
from tests.views.dot_grammar import parse

LONG = 60.0


@pytest.fixture
def agents() -> Iterator[ModuleType]:
    with imported(EXAMPLES, "taskmanager_deepsearch.agents") as module:
        yield module


@pytest.fixture
def main(agents: ModuleType) -> ModuleType:
    sys.modules.pop("taskmanager_deepsearch.__main__", None)
    return importlib.import_module("taskmanager_deepsearch.__main__")


@pytest.fixture(params=["memory", "file"])
def manager(
    request: pytest.FixtureRequest, agents: ModuleType, tmp_path: Path
) -> Iterator[TaskManager]:
    url = None if request.param == "memory" else f"sqlite:{tmp_path / 'research.db'}"
    with TaskManager(registry=agents, database_url=url) as made:
        yield made


def of_agent(job: JobHandle, agent: str) -> list[Task]:
    """Return the tasks of an agent."""
    return [task for task in job.tasks if task.agent == agent]


@pytest.mark.row("I34", "I16", "I17", "I18", "I19", "I20")
def test_a_research_adds_tasks_for_data_and_runs_again(manager: TaskManager) -> None:
    spec = NewTaskSpec("research_agent", {"topic": "advanced tempfile"}, task_id="r")
    job = manager.start_job("j", [spec])
    assert job.result(LONG) is JobStatus.COMPLETED
    (task,) = of_agent(job, "research_agent")
    gathered = of_agent(job, "data_gatherer")
    assert [each.parent for each in gathered] == ["r", "r"]
    assert task.dependencies == tuple(each.id for each in gathered)
    assert (task.attempts, task.retry_count) == (2, 0), "to wait is no failure and no retry"
    for each in gathered:
        assert each.output["data"] in task.output["report"]
    tree = ast.parse(Path(tempfile.__file__).read_bytes())
    classes = [
        each.name
        for each in tree.body
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_")
    ]
    assert f"{len(classes)} classes ({', '.join(classes[:3])}" in task.output["report"]


@pytest.mark.row("I34")
def test_a_simple_topic_needs_nobody_else(manager: TaskManager) -> None:
    job = manager.start_job("j", [NewTaskSpec("research_agent", {"topic": "shelve"})])
    assert job.result(LONG) is JobStatus.COMPLETED
    assert [task.attempts for task in job.tasks] == [1]
    assert job.tasks[0].output["report"].startswith("Basic report on shelve: Manage shelves")


@pytest.mark.row("I29", "I4")
def test_a_busy_source_is_asked_again_and_nobody_else_meanwhile(manager: TaskManager) -> None:
    specs = [
        NewTaskSpec("data_gatherer", {"module": "json", "what": what}, key="json")
        for what in ("classes", "functions")
    ]
    job = manager.start_job("j", specs)
    assert job.result(LONG) is JobStatus.COMPLETED
    assert sum(task.retry_count for task in job.tasks) == 1
    assert sum(task.attempts for task in job.tasks) == 3


@pytest.mark.row("I9", "I11", "I14", "I34", "R5")
def test_the_job_of_the_documents_with_a_person_in_it(
    manager: TaskManager, main: ModuleType, tmp_path: Path
) -> None:
    asked: list[str] = []
    answers = iter(["more on advanced json", "yes"])

    def answer(question: str) -> str:
        asked.append(question)
        return next(answers)

    path = tmp_path / "report.md"
    job = main.run(manager, "j", path, answer)
    assert asked == [
        "Write final report: 2 findings: is that enough?",
        "Write final report: 3 findings: is that enough?",
    ]
    report = path.read_text(encoding="utf-8")
    for topic in ("shelve", "tempfile", "json"):
        assert f"report on {topic}: " in report
    assert job.status is JobStatus.FAILED, "a topic was misspelt"
    (failed,) = [task for task in job.tasks if task.status is TaskStatus.FAILED]
    assert (failed.task_type, failed.error) == (
        TaskType.STORY,
        "LookupError: there is no module 'jsn' in the standard library",
    )
    (objective,) = [task for task in job.tasks if task.task_type is TaskType.OBJECTIVE]
    assert failed.parent == objective.id
    (publication,) = of_agent(job, "publisher")
    assert publication.attempts == 1
    # What cannot be done is given up, and the job is what is left.
    manager.update_task_status(failed.id, "cancelled")
    assert job.success
    drawn = parse(manager.get_dot_graph("j"))
    assert len(drawn.nodes) == len(job.tasks) == 10


@pytest.mark.row("I12", "I31")
def test_no_other_agent_has_tasks_of_the_job(main: ModuleType, tmp_path: Path) -> None:
    with TaskManager(registry=main.agents, concurrency=0) as manager:
        main.plan(manager, "j", tmp_path / "report.md")
        _ = manager.start_job("j", allowed_agents=main.ALLOWED)
        with pytest.raises(AgentNotAllowed):
            manager.add_task("j", "", "somebody")


VICTIM = """
import os, signal, sys
from pathlib import Path
examples, folder = sys.argv[1:]
sys.path.insert(0, examples)
from dagger_dsl import TaskManager
from taskmanager_deepsearch import agents
from taskmanager_deepsearch.__main__ import run

def die(question):
    os.kill(os.getpid(), signal.SIGKILL)

with TaskManager(registry=agents, database_url=f"sqlite:{folder}/research.db") as manager:
    run(manager, "j", Path(folder, "report.md"), die)
"""


@pytest.mark.slow
@pytest.mark.row("I28", "R5")
def test_a_question_outlives_the_process_that_asked_it(main: ModuleType, tmp_path: Path) -> None:
    assert killed(tmp_path, VICTIM, EXAMPLES, tmp_path)
    url = f"sqlite:{tmp_path / 'research.db'}"
    with TaskManager(registry=main.agents, database_url=url) as manager:
        before = {task.id: task.attempts for task in manager.tasks("j") if task.output}
        job = main.run(manager, "j", tmp_path / "report.md", lambda question: "yes")
        assert before.items() <= {task.id: task.attempts for task in job.tasks}.items()
        assert of_agent(job, "publisher")[0].status is TaskStatus.COMPLETED
    assert "tempfile" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.row("R5")
def test_it_runs_by_itself_twice(tmp_path: Path) -> None:
    name = "taskmanager_deepsearch"
    ignored = shutil.ignore_patterns("out", "__pycache__")
    folder = Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored))
    for number in (1, 2):
        done = outside(tmp_path, sys.executable, "-m", name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"job research_job_00{number}: completed" in done.stdout
        assert "Write final report: 2 findings: is that enough? more on" in done.stdout
    assert parse((folder / "out" / "research_execution.dot").read_text(encoding="utf-8")).nodes


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    names = ("agents", "__main__")
    assert checked(EXAMPLES, *(f"taskmanager_deepsearch/{name}.py" for name in names)) == ""
