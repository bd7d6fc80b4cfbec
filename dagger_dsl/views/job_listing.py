"""A job as a tree of its tasks: what is a part of what, where each stands, what it waits for."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import count, duration
from dagger_dsl.model.tasks import UNFINISHED, Task, TaskStatus
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.jobs import look_of
from dagger_dsl.views.states import GLYPHS, STYLES

if TYPE_CHECKING:
    from rich.tree import Tree

    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["headline", "job_lines", "job_tree", "notes_of", "placed"]

#: Tasks that are shown unless more are asked for, and how deep they are indented.
MOST: Final = 200
DEEPEST: Final = 10

#: Ids that are named of those that a task waits for.
_NAMED: Final = 3

#: What is shown where not all fit: the lower, the sooner.
_RANK: Final[Mapping[TaskStatus, int]] = {
    TaskStatus.FAILED: 0,
    TaskStatus.BLOCKED: 1,
    TaskStatus.RUNNING: 2,
    TaskStatus.COMPLETED: 5,
    TaskStatus.ACCEPTED: 5,
    TaskStatus.PENDING: 4,
}


def job_tree(tasks: Sequence[Task], job: StoredJob, limit: int | None = MOST) -> Tree:
    """Return a job as a tree of rich's; nothing in it commands a terminal.

    Args:
        tasks: Its tasks, in the order in which they were added.
        job: The job.
        limit: Tasks at most, None for all; what failed or waits is shown before the rest.
    """
    from rich.text import Text
    from rich.tree import Tree

    style = STYLES.get(str(job.status), "")
    tree = Tree(Text.assemble((headline(tasks, job), style)), highlight=False)
    known = {each.id: each for each in tasks}
    above: list[Tree] = [tree]
    shown = 0
    for level, task in placed(tasks, limit):
        shown += 1
        look = look_of(task.status)
        label = Text.assemble(
            (f"{GLYPHS[look]} {task.status}", STYLES[look]),
            f" {_name(task)} ",
            (_about(task), "dim"),
        )
        for line in notes_of(task, known):
            label.append(f"\n{line}", "red" if task.status is TaskStatus.FAILED else "cyan")
        del above[level + 1 :]
        above.append(above[level].add(label))
    if shown < len(tasks):
        tree.add(Text(_left(len(tasks) - shown), "dim"))
    return tree


def job_lines(tasks: Sequence[Task], job: StoredJob, limit: int | None = MOST) -> Iterator[str]:
    """Yield the same as lines of plain text."""
    yield headline(tasks, job)
    known = {each.id: each for each in tasks}
    shown = 0
    for level, task in placed(tasks, limit):
        shown += 1
        margin = "  " * (level + 1)
        yield f"{margin}{task.status} {_name(task)} {_about(task)}"
        yield from (f"{margin}    {line}" for line in notes_of(task, known))
    if shown < len(tasks):
        yield _left(len(tasks) - shown)


def headline(tasks: Sequence[Task], job: StoredJob) -> str:
    """Return how a job stands, in one line."""
    counts = Counter(str(each.status) for each in tasks)
    told = ", ".join(f"{counts[each]:,} {each}" for each in map(str, TaskStatus) if counts[each])
    why = f" ({first_line(job.error)})" if job.error else ""
    return f"job {printable(job.id)} {job.status}{why}: {told or 'no tasks'}"


def placed(tasks: Sequence[Task], limit: int | None = None) -> Iterator[tuple[int, Task]]:
    """Yield tasks with how deep each is below the first, parts behind what they are parts of.

    Args:
        tasks: What there is; one whose parent is not among them stands at the top.
        limit: Tasks at most, as in `job_tree`; what they are parts of comes with them.
    """
    known = {each.id: each for each in tasks}
    kept = set(known) if limit is None else _kept(tasks, known, limit)
    parts: defaultdict[str | None, list[Task]] = defaultdict(list)
    for task in tasks:
        if task.id in kept:
            parts[task.parent if task.parent in known else None].append(task)
    left = [(0, each) for each in reversed(parts[None])]
    while left:
        level, task = left.pop()
        yield level, task
        deeper = min(level + 1, DEEPEST)
        left += [(deeper, each) for each in reversed(parts.pop(task.id, []))]


def _kept(tasks: Sequence[Task], known: Mapping[str, Task], limit: int) -> set[str]:
    kept: set[str] = set()
    for task in sorted(tasks, key=lambda each: _RANK.get(each.status, 3))[:limit]:
        each: Task | None = task
        while each is not None and each.id not in kept:
            kept.add(each.id)
            each = known.get(each.parent or "")
    return kept


def _name(task: Task) -> str:
    return first_line(task.description, 80) or printable(task.id)


def _about(task: Task) -> str:
    """Return agent, id, calls and time."""
    words = [printable(task.agent)]
    if task.description:
        words.append(printable(task.id))
    if task.attempts > 1:
        words.append(count(task.attempts, "call"))
    took = _took(task)
    if took:
        words.append(took)
    return f"({', '.join(words)})"


def _took(task: Task) -> str:
    if task.started_at is None:
        return ""
    if task.status is TaskStatus.RUNNING:
        since = (dt.datetime.now(dt.UTC) - task.started_at).total_seconds()
        return f"for {duration(max(0.0, since))}"
    if task.finished_at is None:
        return ""
    return duration(max(0.0, (task.finished_at - task.started_at).total_seconds()))


def notes_of(task: Task, known: Mapping[str, Task]) -> Iterator[str]:
    """Yield why a task stands where it stands: its error, what it waits for.

    Args:
        task: The task.
        known: The tasks of its job, by id.
    """
    if task.status not in (TaskStatus.COMPLETED, TaskStatus.ACCEPTED) and task.error:
        yield first_line(task.error)
    if task.status not in UNFINISHED or task.status is TaskStatus.RUNNING:
        return
    needs = [each for each in task.dependencies if each not in known or _open(known[each])]
    if needs:
        more = f" and {len(needs) - _NAMED} more" if len(needs) > _NAMED else ""
        yield f"waits for {', '.join(map(printable, needs[:_NAMED]))}{more}"
    elif task.status is TaskStatus.BLOCKED:
        yield "waits for a person"


def _open(task: Task) -> bool:
    return task.status not in (TaskStatus.COMPLETED, TaskStatus.ACCEPTED)


def _left(number: int) -> str:
    return f"and {number:,} more {'task' if number == 1 else 'tasks'}"
