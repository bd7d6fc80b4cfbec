"""A job as a tree of its tasks: what is a part of what, where each stands, what it waits for.

One walk gives the rows; a terminal and a notebook get them as a tree of rich's, a pipe as lines.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.engine.words import count, duration
from dagger_dsl.model.tasks import OnDependencyFailure, Task, TaskStatus
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.colours import ON_PAGES
from dagger_dsl.views.jobs import look_of, lost_with, standing, status_of, took
from dagger_dsl.views.states import GLYPHS, LOOKS, STYLES

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["MOST", "job_lines", "job_tree", "notes_of", "placed"]

#: Tasks that are shown unless more are asked for, and how deep they are indented.
MOST: Final = 200
DEEPEST: Final = 10

#: Tasks that are named of those that one waits for.
_NAMED: Final = 3

#: Characters of a description, and of one that stands for another task.
_NAME, _SHORT = 80, 40

_DONE: Final = (TaskStatus.COMPLETED, TaskStatus.ACCEPTED)


def job_tree(tasks: Sequence[Task], job: StoredJob | None = None, limit: int | None = MOST) -> Tree:
    """Return the tasks of a job, or of all jobs, as a tree of rich's.

    Args:
        tasks: What to show, in the order in which they were added.
        job: The job that they are of.
        limit: Tasks at most, None for all; what failed, runs or waits is shown before the rest, and
            what that is a part of comes with it.
    """
    from rich.text import Text
    from rich.tree import Tree

    title = [Text(_headline(tasks, job), "bold")]
    if job is not None:
        title.insert(0, _sign(status_of(job)))
    tree = Tree(Text(" ").join(title), guide_style="dim")
    above = [tree]
    shown = set()
    for row in _rows(tasks, limit):
        shown.add(row.task.id)
        look = look_of(row.task.status)
        facts = list(row.facts)
        if row.task.status not in (TaskStatus.COMPLETED, TaskStatus.FAILED):  # their sign says it
            facts.append(str(row.task.status))
        label = Text.assemble(_sign(look), f" {row.name}")
        for each in facts:
            label.append(f" \N{MIDDLE DOT} {each}", "dim")
        for note in row.notes:
            label.append(" \N{EM DASH} ").append(note, _style(look))
        del above[row.level + 1 :]
        above.append(above[row.level].add(label))
    if len(shown) < len(tasks):
        tree.add(Text(_left(tasks, shown), "dim"))
    return tree


def job_lines(
    tasks: Sequence[Task], job: StoredJob | None = None, limit: int | None = MOST
) -> Iterator[str]:
    """Yield the same as lines of plain text; see `job_tree`."""
    yield _headline(tasks, job)
    shown = set()
    for row in _rows(tasks, limit):
        shown.add(row.task.id)
        margin = "  " * (row.level + 1)
        yield f"{margin}{row.task.status} {row.name} ({', '.join(row.facts)})"
        yield from (f"{margin}    {note}" for note in row.notes)
    if len(shown) < len(tasks):
        yield f"  {_left(tasks, shown)}"


def placed(tasks: Sequence[Task], limit: int | None = None) -> Iterator[tuple[int, Task]]:
    """Yield tasks with how deep each is below the first, parts behind what they are parts of.

    Args:
        tasks: What there is; one whose parent is not among them stands at the top.
        limit: As in `job_tree`.
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


def notes_of(task: Task, known: Mapping[str, Task]) -> Iterator[str]:
    """Yield why a task stands where it stands: its error, what it waits for.

    Args:
        task: The task.
        known: The tasks of its job, by id.
    """
    other = lost_with(task, known)
    if other is not None:
        yield f"{other.status} with {_name(other, _SHORT)}"
    elif task.status not in _DONE and task.error:
        yield first_line(task.error)
    waits = _waits(task, known)
    if waits:
        yield f"waits for {waits}"
    elif task.asks_person:
        yield "waits for a person"


# --- rows -----------------------------------------------------------------------------------------


@attrs.frozen
class _Row:
    """What is shown of one task; nothing in it commands a terminal."""

    level: int
    task: Task
    name: str
    facts: Sequence[str]
    notes: Sequence[str]


def _rows(tasks: Sequence[Task], limit: int | None) -> Iterator[_Row]:
    known = {each.id: each for each in tasks}
    for level, task in placed(tasks, limit):
        facts, notes = tuple(_facts(task, known)), tuple(notes_of(task, known))
        yield _Row(level, task, _name(task, _NAME), facts, notes)


def _name(task: Task, most: int) -> str:
    return first_line(task.description, most) or printable(task.id)


def _facts(task: Task, known: Mapping[str, Task]) -> Iterator[str]:
    yield printable(task.agent)
    if first_line(task.description):  # people decide about tasks by their ids
        yield printable(task.id)
    if task.attempts > 1:
        yield count(task.attempts, "call")
    time = took(task)
    if task.status is TaskStatus.RUNNING and task.started_at is not None:
        since = (dt.datetime.now(dt.UTC) - task.started_at).total_seconds()
        time = f"for {duration(max(0.0, since))}"
    if time:
        yield time
    if not _waits(task, known):
        needs = [each for each in _needs(task, known) if each.parent != task.id]
        if needs:
            yield f"after {_names(needs)}"


def _needs(task: Task, known: Mapping[str, Task]) -> list[Task]:
    return [known[each] for each in task.dependencies if each in known]


def _waits(task: Task, known: Mapping[str, Task]) -> str:
    """Return in words what else has to end before a task can be called."""
    if task.asks_person or task.is_finished or task.status is TaskStatus.RUNNING:
        return ""
    needs = _needs(task, known)
    anyway = task.on_dependency_failure is OnDependencyFailure.RUN
    enough = (*_DONE, TaskStatus.FAILED, TaskStatus.CANCELLED) if anyway else _DONE
    return _names([each for each in needs if each.status not in enough])


def _names(tasks: Sequence[Task]) -> str:
    named = ", ".join(_name(each, _SHORT) for each in tasks[:_NAMED])
    more = len(tasks) - _NAMED
    return f"{named} and {more:,} more" if more > 0 else named


def _kept(tasks: Sequence[Task], known: Mapping[str, Task], limit: int) -> set[str]:
    kept: set[str] = set()
    for task in sorted(tasks, key=lambda each: LOOKS[look_of(each.status)].rank)[:limit]:
        each: Task | None = task
        while each is not None and each.id not in kept:
            kept.add(each.id)
            each = known.get(each.parent or "")
    return kept


# --- what stands around them ----------------------------------------------------------------------


def _headline(tasks: Sequence[Task], job: StoredJob | None) -> str:
    told = standing(tasks, job)
    if job is None:
        return told
    why = f" \N{EM DASH} {first_line(job.error)}" if job.error else ""
    return f"job {printable(job.id)} {told}{why}"


def _left(tasks: Iterable[Task], shown: set[str]) -> str:
    counts = Counter(str(each.status) for each in tasks if each.id not in shown)
    parts = ", ".join(f"{many:,} {status}" for status, many in counts.items())
    return f"and {sum(counts.values()):,} more: {parts}"


def _style(look: str) -> str:
    from rich import get_console

    style = STYLES[look]
    if style and get_console().is_jupyter:  # light or dark, nobody knows
        return ON_PAGES.get(style.removeprefix("bold "), style)
    return style


def _sign(look: str) -> Text:
    from rich.text import Text

    return Text(GLYPHS[look], _style(look))
