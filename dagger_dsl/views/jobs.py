"""Jobs of tasks as pictures: what is a part of what, who waits for whom, and where each stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import count, duration
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.stored_values import for_people
from dagger_dsl.model.tasks import Task, TaskStatus
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.store.task_steps import LOST
from dagger_dsl.views.dot import picture_to_dot
from dagger_dsl.views.grouping import alike
from dagger_dsl.views.picture import LINE, Arrow, Picture, Shape
from dagger_dsl.views.states import WORST

if TYPE_CHECKING:
    from dagger_dsl.store.task_reads import StoredJob

__all__ = [
    "fault_of",
    "job_bundle",
    "job_to_dot",
    "job_to_svg",
    "look_of",
    "lost_with",
    "name_of",
    "picture_of_tasks",
    "standing",
    "status_of",
    "took",
]

#: The state of a node whose look a task's status has; the others have their own names.
_LOOKS: Final[Mapping[TaskStatus, str]] = {
    TaskStatus.PENDING: "pending",
    TaskStatus.READY: "pending",
    TaskStatus.RUNNING: "running",
    TaskStatus.BLOCKED: "waiting",
    TaskStatus.PAUSED: "paused",
    TaskStatus.COMPLETED: "completed",
    TaskStatus.ACCEPTED: "completed",
    TaskStatus.REJECTED: "failed",
    TaskStatus.FAILED: "failed",
    TaskStatus.CANCELLED: "cancelled",
}

#: In a picture of more tasks than this, those that are alike are one.
_MANY: Final = 24

#: Characters of a value in a tooltip.
_VALUE: Final = 300


def picture_of_tasks(tasks: Sequence[Task], title: str, job: StoredJob | None = None) -> Picture:
    """Return the picture of tasks.

    Args:
        tasks: What to show.
        title: What to call it.
        job: The job that they are of.
    """
    known = {each.id: each for each in tasks}
    told = standing(tasks, job)
    if job is not None and job.error:
        told += f" ({first_line(job.error)})"
    return Picture(
        title,
        tuple(_shape(each, known) for each in tasks),
        tuple(_arrows(known)),
        told,
        None if job is None else status_of(job),
    )


def standing(tasks: Sequence[Task], job: StoredJob | None = None) -> str:
    """Return how a job stands: its status, and of how many tasks how many are in each."""
    counts = Counter(str(each.status) for each in tasks)
    ranks = [str(status) for status in sorted(_LOOKS, key=lambda each: WORST.index(_LOOKS[each]))]
    told = count(len(tasks), "task") if tasks else "no tasks"
    if len(counts) > 1 or (job is not None and counts and str(job.status) not in counts):
        parts = ", ".join(f"{counts[each]:,} {each}" for each in ranks if each in counts)
        told = f"{told}, {parts}"
    return told if job is None else f"{job.status}: {told}"


def status_of(job: StoredJob) -> str:
    """Return the state of a run whose look a job has."""
    return "pending" if job.status == "created" else str(job.status)


def look_of(status: TaskStatus) -> str:
    """Return the state of a node whose look tasks of a status have."""
    return _LOOKS[status]


def name_of(task: Task) -> str:
    """Return what a task is called where people look: what it is about, else who does it."""
    return first_line(task.description, LINE) or printable(task.agent)


def fault_of(task: Task, known: Mapping[str, Task]) -> str:
    """Return why a task failed or is blocked; of one that failed with others, these.

    Args:
        task: The task.
        known: The tasks of its job, by id.
    """
    if task.status not in (TaskStatus.FAILED, TaskStatus.BLOCKED):
        return ""
    other = lost_with(task, known)
    if other is not None:
        return f"{other.status} with {name_of(other)}"
    return first_line(task.error)


def lost_with(task: Task, known: Mapping[str, Task]) -> Task | None:
    """Return the task that one failed with, or is blocked by; None where it has its own reason."""
    if task.error == LOST:
        for each in task.dependencies:
            if each in known and known[each].status in (TaskStatus.FAILED, TaskStatus.CANCELLED):
                return known[each]
    return None


def _shape(task: Task, known: Mapping[str, Task]) -> Shape:
    marks = []
    if task.attempts > 1:
        marks.append(count(task.attempts, "call"))
    return Shape(
        task.id,
        name_of(task),
        detail=_detail(task, known),
        kind="group" if task.task_type in ("objective", "story") else "step",
        status=look_of(task.status),
        marks=tuple(marks),
        tooltip=tuple(_tooltip(task)),
        body=task.agent,
        values=partial(_values, task),
    )


def _detail(task: Task, known: Mapping[str, Task]) -> str:
    fault = fault_of(task, known)
    if fault:
        return fault
    agent = "" if name_of(task) == task.agent else task.agent
    own = "" if str(task.status) == look_of(task.status) else str(task.status)
    return " \N{MIDDLE DOT} ".join(filter(None, (agent, own, took(task))))


def took(task: Task) -> str:
    """Return how long the last call of a task took that has ended."""
    if not task.is_finished or task.started_at is None or task.finished_at is None:
        return ""
    return duration(max(0.0, (task.finished_at - task.started_at).total_seconds()))


def _tooltip(task: Task) -> Iterator[str]:
    yield f"task {task.id}"
    yield f"agent {task.agent}, {task.status}"
    if task.priority:
        yield f"priority {task.priority}"
    if task.acceptance_criteria:
        yield f"accepted when: {first_line(task.acceptance_criteria)}"
    if task.summary:
        yield first_line(task.summary)


def _values(task: Task) -> Iterable[str]:
    yield f"input: {excerpt(for_people(task, 'input').value, _VALUE)[0]}"
    if task.status in (TaskStatus.COMPLETED, TaskStatus.ACCEPTED, TaskStatus.REJECTED):
        yield f"output: {excerpt(for_people(task, 'output').value, _VALUE)[0]}"
    if task.error:
        yield f"error: {first_line(task.error)}"


def _arrows(known: Mapping[str, Task]) -> Iterator[Arrow]:
    for task in known.values():
        if (
            task.parent in known
            and task.parent is not None
            and task.id not in (known[task.parent].dependencies)
        ):
            yield Arrow(task.parent, task.id, "part")
        for need in task.dependencies:
            if need in known:
                yield Arrow(need, task.id, idle=not known[need].is_finished)


def job_to_dot(tasks: Sequence[Task], job: StoredJob | None) -> str:
    """Return a job, or all tasks there are, as DOT."""
    return picture_to_dot(_picture(tasks, job))


def job_to_svg(tasks: Sequence[Task], job: StoredJob | None) -> str:
    """Return a job, or all tasks there are, as SVG."""
    from dagger_dsl.views.svg import picture_to_svg

    return picture_to_svg(_drawn(tasks, job))


def job_bundle(
    tasks: Sequence[Task],
    job: StoredJob,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """Return what a notebook shows of a job, by MIME type; see `picture_bundle`."""
    from dagger_dsl.views.notebook import picture_bundle

    text = f"job {printable(job.id)}: {standing(tasks, job)}"
    return picture_bundle(partial(_drawn, tasks, job), text, include, exclude)


def _drawn(tasks: Sequence[Task], job: StoredJob | None) -> Picture:
    """Return what people look at: of many tasks, those that are alike are one."""
    return alike(_picture(tasks, job), _MANY, "task")


def _picture(tasks: Sequence[Task], job: StoredJob | None) -> Picture:
    if job is None:
        return picture_of_tasks(tasks, "tasks")
    return picture_of_tasks(tasks, f"job {job.id}", job)
