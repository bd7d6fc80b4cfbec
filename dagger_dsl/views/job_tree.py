"""A job as a rich tree: what is a part of what, where it stands, and what it waits for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich import get_console
from rich.text import Text
from rich.tree import Tree

from dagger_dsl.engine.words import count
from dagger_dsl.model.tasks import Task
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.colours import ON_PAGES
from dagger_dsl.views.jobs import fault_of, look_of, name_of, standing, status_of, took
from dagger_dsl.views.states import GLYPHS, STYLES, WORST

if TYPE_CHECKING:
    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["job_tree"]

#: Parts of one task that are shown.
_PARTS: Final = 30

#: Characters of the name of a task that another one waits for, and of what one failed with.
_NAME, _NOTE = 40, 120


def job_tree(tasks: Sequence[Task], job: StoredJob | None = None) -> Tree:
    """Return the tasks of a job, or of all jobs, as a tree.

    Of many parts of one task those are shown that did not complete, then the first ones.

    Args:
        tasks: What to show, in the order in which they were added.
        job: The job that they are of.
    """
    known = {each.id: each for each in tasks}
    parts: defaultdict[str | None, list[Task]] = defaultdict(list)
    for task in tasks:
        parts[task.parent if task.parent in known else None].append(task)
    tree = Tree(_title(tasks, job), guide_style="dim")
    open_ = [(tree, parts[None])]
    while open_:
        branch, inside = open_.pop()
        chosen = _chosen(inside)
        for task in chosen:
            node = branch.add(Text(" ").join(filter(None, _label(task, known))))
            if task.id in parts:
                open_.append((node, parts[task.id]))
        if len(chosen) < len(inside):
            branch.add(Text(_left(inside, chosen), "dim"))
    return tree


def _title(tasks: Sequence[Task], job: StoredJob | None) -> Text:
    told = standing(tasks, job)
    if job is None:
        return Text(told, "bold")
    why = Text(f"\N{EM DASH} {first_line(job.error)}") if job.error else None
    words = _sign(status_of(job)), Text(f"job {printable(job.id)}", "bold"), Text(told, "dim"), why
    return Text(" ").join(filter(None, words))


def _sign(look: str) -> Text:
    style = STYLES[look]
    if style and get_console().is_jupyter:  # light or dark, nobody knows
        style = ON_PAGES.get(style.removeprefix("bold "), style)
    return Text(GLYPHS[look], style)


def _label(task: Task, known: dict[str, Task]) -> Iterator[Text]:
    look = look_of(task.status)
    yield _sign(look)
    name = name_of(task)
    facts = [] if name == task.agent else [printable(task.agent)]
    # The sign says the common ones.
    if str(task.status) not in ("completed", "failed"):
        facts.append(str(task.status))
    if task.attempts > 1:
        facts.append(count(task.attempts, "call"))
    facts += filter(None, (took(task), _waits(task, known)))
    yield Text.assemble(name, *((f" \N{MIDDLE DOT} {each}", "dim") for each in facts))
    fault = fault_of(task, known)
    if fault:
        yield Text(f"\N{EM DASH} {first_line(fault, _NOTE)}")


def _waits(task: Task, known: dict[str, Task]) -> str:
    """Return what a task needs beside its own parts, which stand below it."""
    others = [
        known[each] for each in task.dependencies if each in known and known[each].parent != task.id
    ]
    if len(others) > 1:
        return f"after {count(len(others), 'task')}"
    return f"after {first_line(name_of(others[0]), _NAME)}" if others else ""


def _chosen(tasks: Sequence[Task]) -> Sequence[Task]:
    if len(tasks) <= _PARTS:
        return tasks
    rank = {look: number for number, look in enumerate(WORST)}
    worst = sorted(tasks, key=lambda each: rank[look_of(each.status)])[:_PARTS]
    kept = {each.id for each in worst}
    return [each for each in tasks if each.id in kept]


def _left(tasks: Iterable[Task], chosen: Sequence[Task]) -> str:
    kept = {each.id for each in chosen}
    counts = Counter(str(each.status) for each in tasks if each.id not in kept)
    parts = ", ".join(f"{many:,} {status}" for status, many in counts.items())
    return f"and {sum(counts.values()):,} more: {parts}"
