"""Run the documents' research job, and do what is left to people: answer, correct, accept."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import rich
from taskmanager_deepsearch import agents

from dagger_dsl import TaskManager
from dagger_dsl.agents import JobHandle, TaskStatus, TaskType

HERE = Path(__file__).parent
ALLOWED = ["research_agent", "data_gatherer", "report_writer", "publisher"]
#: The last one is misspelt, which nobody sees before it is looked for.
TOPICS = ["shelve", "advanced tempfile", "advanced jsn"]


def plan(manager: TaskManager, job_id: str, path: Path) -> None:
    """Add the tasks that the job begins with: what to find out, the report, and its publication."""
    objective = manager.add_objective(
        job_id, "What Python has for files and texts", "research_agent", {"topic": TOPICS[0]}
    )
    stories = [
        manager.add_task(
            job_id,
            f"Research {topic}",
            "research_agent",
            input={"topic": topic},
            parent=objective,
            task_type=TaskType.STORY,
        )
        for topic in TOPICS[1:]
    ]
    report = manager.add_task(
        job_id,
        "Write final report",
        "report_writer",
        dependencies=[objective, *stories],
        input={"format": "executive_summary"},
        acceptance_criteria="says something on json",
        on_dependency_failure="run",  # with what there is
    )
    manager.add_task(
        job_id,
        "Publish it",
        "publisher",
        dependencies=[report],
        input={"path": str(path)},
        effects="at_most_once",  # after a kill a person decides, and nobody else
    )


def run(manager: TaskManager, job_id: str, path: Path, answer: Callable[[str], str]) -> JobHandle:
    """Run the job, or go on with it; return it when nothing is left to do.

    Args:
        manager: Who runs it.
        job_id: What it is called.
        path: Where the report shall stand.
        answer: Asks a person.
    """
    if not manager.tasks(job_id):
        plan(manager, job_id, path)
    job = manager.start_job(job_id, allowed_agents=ALLOWED)
    for status in job.watch():
        print(f"  {status}: {sum(task.is_finished for task in job.tasks)} of {len(job.tasks)} done")
        for task in job.questions():
            said = answer(f"{task.description}: {task.error}")
            manager.update_task_status(task.id, "ready", old="blocked", cause=agents.SAID + said)
    return job


def main() -> int:
    """Run the job; return 0 when its report was accepted."""
    parser = argparse.ArgumentParser(prog="taskmanager_deepsearch", description=__doc__)
    parser.add_argument("--ask", action="store_true", help="answer yourself")
    arguments = parser.parse_args()
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    planned = iter(["more on advanced json", "yes"])

    def by_the_example(question: str) -> str:
        said = next(planned, "yes")
        print(f"{question} {said}")
        return said

    answer = (lambda question: input(f"{question} ")) if arguments.ask else by_the_example
    with TaskManager(registry=agents, database_url=f"sqlite:{out / 'research.db'}") as manager:
        job_id = new_id(manager)
        job = run(manager, job_id, out / "report.md", answer)
        rich.print(job)
        for task in job.tasks:
            if task.status is TaskStatus.FAILED:  # another one did what it was for
                manager.update_task_status(task.id, "cancelled", cause="the topic was misspelt")
            elif task.agent == "report_writer" and task.status is TaskStatus.COMPLETED:
                manager.update_task_status(task.id, "accepted", cause="json is in it")
                for event in manager.history(task.id):
                    print(f"{event.at:%H:%M:%S.%f} {event.status:9} {event.cause}")
        dot = manager.get_dot_graph(job_id)
        (out / "research_execution.dot").write_text(dot, encoding="utf-8")
        print((out / "report.md").read_text(encoding="utf-8"))
        print(f"job {job_id}: {job.status}")
        return 0 if job.success else 1


def new_id(manager: TaskManager) -> str:
    """Return the id of the job that was not finished, else a new one."""
    number = 1
    while (tasks := manager.tasks(f"research_job_{number:03}")) and all(
        task.is_finished for task in tasks
    ):
        number += 1
    return f"research_job_{number:03}"


if __name__ == "__main__":
    raise SystemExit(main())
