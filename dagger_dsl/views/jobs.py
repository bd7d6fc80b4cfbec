"""Jobs of tasks as pictures: what is a part of what, who waits for whom, and where each stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import count, duration
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.tasks import Task, TaskStatus
from dagger_dsl.model.text import first_line
from dagger_dsl.views.dot import picture_to_dot
from dagger_dsl.views.picture import Arrow, Picture, Shape

if TYPE_CHECKING:
    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["LOOKS", "job_bundle", "job_to_dot", "job_to_svg", "picture_of_tasks"]

#: The state of a node whose look a task's status has; the others have their own names.
LOOKS: Final[Mapping[TaskStatus, str]] = {
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

#: Characters of a value in a tooltip.
_VALUE: Final = 300


def picture_of_tasks(tasks: Sequence[Task], title: str, status: str | None = None) -> Picture:
    """Return the picture of tasks.

    Args:
        tasks: What to show.
        title: What to call it.
        status: The status of the job that they are of.
    """
    counts = Counter(str(each.status) for each in tasks)
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    return Picture(
        title,
        tuple(map(_shape, tasks)),
        tuple(_arrows(tasks)),
        told if status is None else f"{status}: {told or 'no tasks'}",
        _whole(status),
    )


def _whole(status: str | None) -> str | None:
    return "pending" if status == "created" else status


def _shape(task: Task) -> Shape:
    marks = []
    if task.attempts > 1:
        marks.append(count(task.attempts, "call"))
    return Shape(
        task.id,
        first_line(task.description, 80) or task.agent,
        detail=_detail(task),
        kind="group" if task.task_type in ("objective", "story") else "step",
        status=LOOKS[task.status],
        marks=tuple(marks),
        tooltip=tuple(_tooltip(task)),
        body=task.agent,
        values=partial(_values, task),
    )


def _detail(task: Task) -> str:
    if task.error and task.status in (TaskStatus.FAILED, TaskStatus.BLOCKED):
        return first_line(task.error)
    took = _took(task)
    own = "" if str(task.status) == LOOKS[task.status] else str(task.status)
    return ", ".join(filter(None, (own, took))) or task.agent


def _took(task: Task) -> str:
    if task.started_at is None or task.finished_at is None:
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
    yield f"input: {excerpt(task.input, _VALUE)[0]}"
    if task.status in (TaskStatus.COMPLETED, TaskStatus.ACCEPTED, TaskStatus.REJECTED):
        yield f"output: {excerpt(task.output, _VALUE)[0]}"
    if task.error:
        yield f"error: {first_line(task.error)}"


def _arrows(tasks: Sequence[Task]) -> Iterator[Arrow]:
    known = {each.id: each for each in tasks}
    for task in tasks:
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

    return picture_to_svg(_picture(tasks, job))


def job_bundle(tasks: Sequence[Task], job: StoredJob) -> dict[str, str]:
    """Return what a notebook shows of a job."""
    from dagger_dsl.views.svg import picture_to_html, picture_to_svg

    picture = _picture(tasks, job)
    return {
        "text/plain": f"{picture.title}: {picture.subtitle}",
        "image/svg+xml": picture_to_svg(picture),
        "text/html": picture_to_html(picture),
    }


def _picture(tasks: Sequence[Task], job: StoredJob | None) -> Picture:
    if job is None:
        return picture_of_tasks(tasks, "tasks")
    return picture_of_tasks(tasks, f"job {job.id}", str(job.status))
