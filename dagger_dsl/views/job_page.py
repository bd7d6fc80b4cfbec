"""A job as one HTML page: what came of its tasks, when and why, and what they waited for."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.engine.words import duration
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.stored_values import for_people
from dagger_dsl.model.tasks import JobStatus, Task, TaskEvent, TaskStatus, TaskType
from dagger_dsl.model.text import first_line
from dagger_dsl.views.gantt import chosen, gantt
from dagger_dsl.views.graphviz import write_file
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.jobs import look_of, picture_of_tasks
from dagger_dsl.views.page import block, code, definitions, fold, name, page, state, text
from dagger_dsl.views.sheet import FAILURES, SAID, Sheet, folded_table, framed, message
from dagger_dsl.views.surroundings import time_element
from dagger_dsl.views.timeline import Bar, Lane

if TYPE_CHECKING:
    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["job_page"]

#: Lanes of the timeline that are seen at once, and entries of the history.
LANES: Final = 60
EVENTS: Final = 1_000

#: Results that are shown at length.
RESULTS: Final = 50

_DONE: Final = (TaskStatus.COMPLETED, TaskStatus.ACCEPTED, TaskStatus.REJECTED)
_OVER: Final = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)

#: How a call ended, by what its task became.
_CALLS: Final[Mapping[TaskStatus, str]] = {
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.PENDING: "failed",  # and is to be called again
    TaskStatus.BLOCKED: "waiting",
    TaskStatus.READY: "cancelled",
    TaskStatus.CANCELLED: "cancelled",
}
_WAITS: Final[Mapping[TaskStatus, str]] = {
    TaskStatus.PENDING: "waits for tasks, or for its next call",
    TaskStatus.READY: "waits for a worker",
    TaskStatus.BLOCKED: "is blocked",
    TaskStatus.PAUSED: "is paused",
}
_WORDS: Final = {
    "b-wait": "waits: for tasks, a worker, a person or its next call",
    "b-waiting": "a call that found out what else it needs",
    "b-cancelled": "cancelled, or given back",
}


def job_page(
    tasks: Sequence[Task],
    job: StoredJob,
    history: Sequence[TaskEvent],
    path: str | os.PathLike[str] | None = None,
) -> str:
    """Return a job as a page that holds all it needs.

    Args:
        tasks: Its tasks, in the order in which they were added.
        job: The job.
        history: Each change of their status, in order.
        path: Where to write it, too; the folder has to be there.

    Raises:
        ConfigurationError: There can be no such file.
    """
    found = _JobPage(tasks, job, history).text()
    if path is not None:
        write_file(path, found.encode("utf-8"), "a page")
    return found


@attrs.frozen
class _Course:
    """When a task was called, and when it waited.

    Attributes:
        bars: Its calls and its waits, in order.
        called, waited: Seconds of each.
    """

    bars: tuple[Bar, ...]
    called: float
    waited: float


class _JobPage(Sheet):
    """The page of one job."""

    def __init__(self, tasks: Sequence[Task], job: StoredJob, history: Sequence[TaskEvent]) -> None:
        super().__init__()
        self.tasks, self.job, self.history = tasks, job, history
        events: dict[str, list[TaskEvent]] = {each.id: [] for each in tasks}
        for each in history:
            if each.task_id in events:  # one may have been added since the tasks were read
                events[each.task_id].append(each)
        self.is_over = job.status in _OVER
        now = job.updated_at if self.is_over else dt.datetime.now(tz=dt.UTC)
        self.courses = {
            task_id: _course(found, now.timestamp()) for task_id, found in events.items()
        }
        self.names = {each.id: _name(each) for each in tasks}

    def text(self) -> str:
        parts = [
            self.part("failures", "What failed", self.failures()),
            self.part("next", "What waits", self.waiting()),
            self.part("graph", "Graph", self.picture()),
            self.part("timeline", "Timeline", self.timeline()),
            self.part("tasks", "Tasks", self.table()),
            self.part("results", "Results", self.results()),
            self.part("history", "History", self.changes()),
            self.part("configuration", "Configuration", self.configuration()),
        ]
        title = f"job {self.job.id} {self.job.status}"
        return page(title, self.header(), "".join(parts), self.contents)

    def header(self) -> str:
        """Return what the page is about."""
        job = self.job
        counts = Counter(str(each.status) for each in self.tasks)
        facts = [
            (text(status), f"{number:,} {'task' if number == 1 else 'tasks'}")
            for status, number in counts.items()
        ]
        facts.append(("Made", time_element(job.created_at)))
        if self.is_over:
            took = (job.updated_at - job.created_at).total_seconds()
            facts.append(("Ended", time_element(job.updated_at)))
            facts.append(("Duration", text(duration(max(0.0, took)))))
        else:
            facts.append(("As it was", time_element(dt.datetime.now(tz=dt.UTC))))
        aim = next((each for each in self.tasks if each.task_type is TaskType.OBJECTIVE), None)
        told = job.error or ("" if aim is None else aim.description)
        reason = f'<p class="reason">{text(told, 1_000)}</p>' if told else ""
        look = "pending" if job.status is JobStatus.CREATED else ""
        return (
            f"<h1>{name(job.id, 200)}</h1>\n"
            f'<p class="under">{state(str(job.status), look)}<span class="soft-text">job of '
            f"{len(self.tasks):,} {'task' if len(self.tasks) == 1 else 'tasks'}</span></p>"
            f"{reason}{definitions(facts)}"
        )

    def failures(self) -> str:
        """Return the tasks that failed, each with all there is to know to mend it."""
        failed = [each for each in self.tasks if each.status is TaskStatus.FAILED]
        # What was never called failed because of another one.
        failed.sort(key=lambda each: not each.attempts)
        cards: list[str] = []
        for task in failed[:FAILURES]:
            calls = f"in call {task.attempts}" if task.attempts > 1 else ""
            summary = f"<strong>{name(self.names[task.id])}</strong>"
            if calls:
                summary += f' <span class="soft-text">failed {calls}</span>'
            summary += message(task.error or "no error was recorded")
            body = ""
            if "\n" in task.error.strip() or len(task.error) > SAID:
                body = block(self.room.lines(task.error, 4_000), label="Error")
            cards.append(
                fold(summary, body + self.about(task), style="card failed", opened=len(cards) < 3)
            )
        if len(failed) > FAILURES:
            cards.append(f'<p class="note">And {len(failed) - FAILURES:,} more, below.</p>')
        return "".join(cards)

    def waiting(self) -> str:
        """Return the tasks that somebody has to do something about."""
        found = [
            each for each in self.tasks if each.status in (TaskStatus.BLOCKED, TaskStatus.PAUSED)
        ]
        pairs = [
            (name(self.names[each.id]), text(each.error or str(each.status), 600))
            for each in found[:50]
        ]
        more = f'<p class="note">And {len(found) - 50:,} more.</p>' if len(found) > 50 else ""
        return definitions(pairs, style="pairs") + more if pairs else ""

    def picture(self) -> str:
        """Return the graph of the tasks."""
        if not self.tasks:
            return ""
        if len(self.tasks) > MOST:
            told = f"{len(self.tasks):,} tasks, too many for a picture; the table shows them."
            return f'<p class="soft-text">{told}</p>'
        job = self.job
        return framed(picture_of_tasks(self.tasks, f"job {job.id}", job), f"Graph of job {job.id}")

    def timeline(self) -> str:
        """Return when tasks were called, and when they waited."""
        lanes = [
            Lane(
                self.names[task.id],
                look_of(task.status),
                course.bars,
                course.called,
                course.called,
                calls=sum(bar.state != "wait" for bar in course.bars),
            )
            for task in self.tasks
            for course in (self.courses[task.id],)
            if any(bar.state != "wait" for bar in course.bars)
        ]
        if not lanes:
            return ""
        shown = chosen(lanes, LANES)
        about = f"Timeline of {len(shown)} tasks; the table of tasks has the same times and calls"
        found = gantt(shown, about=about, words=_WORDS)
        if len(lanes) > len(shown):
            found += (
                f'<p class="soft-text">These are {len(shown)} of {len(lanes):,} tasks that were '
                "called: the ones that failed, and the longest.</p>"
            )
        return found

    def table(self) -> str:
        """Return the table of tasks."""
        most = self.room.rows
        rows = [self._row(each) for each in islice(self.tasks, most)]
        left = self.tasks[most:]
        counts = Counter(str(each.status) for each in left)
        told = ", ".join(f"{number:,} {status}" for status, number in counts.items())
        return folded_table(
            ["Task", "Status", "Agent", ">Calls", ">Waited", ">Time", "Input and output"],
            rows,
            f"Tasks of job {self.job.id}",
            f"{len(left):,} more tasks that are not shown: {told}" if left else "",
            style="wordy",
        )

    def _row(self, task: Task) -> list[str]:
        course = self.courses[task.id]
        return [
            name(self.names[task.id]),
            state(str(task.status), look_of(task.status)),
            name(task.agent),
            f"{task.attempts:,}" if task.attempts else "",
            text(duration(course.waited) if course.waited >= 0.0005 else ""),
            text(duration(course.called) if task.attempts else ""),
            self._values(task),
        ]

    def _values(self, task: Task) -> str:
        room = self.room
        if room.read <= 0 or room.characters <= 0:
            return ""
        room.read -= 1
        told, _ = excerpt(for_people(task, "output" if task.status in _DONE else "input").value, 70)
        return fold(code(told), self.about(task), style="value")

    def about(self, task: Task) -> str:
        """Return what there is to know of a task."""
        return definitions(self._about(task), style="pairs")

    def _about(self, task: Task) -> Iterator[tuple[str, str]]:
        room = self.room
        yield "task", code(task.id)
        yield "input", room.value(for_people(task, "input").value, 1_200)
        if task.status in _DONE:
            yield "output", room.value(for_people(task, "output").value, 1_200)
        if task.error and task.status is not TaskStatus.FAILED:
            yield "why", text(task.error, 600)
        if task.description:
            yield "description", text(task.description, 600)
        if task.acceptance_criteria:
            yield "accepted when", text(task.acceptance_criteria, 600)
        if task.summary:
            yield "summary", text(task.summary, 600)
        if task.parent is not None:
            yield "part of", name(self.names.get(task.parent, task.parent))
        if task.dependencies:
            needs = ", ".join(name(self.names.get(each, each)) for each in task.dependencies[:20])
            more = len(task.dependencies) - 20
            yield "needs", needs + (f" and {more:,} more" if more > 0 else "")
        if task.priority:
            yield "priority", f"{task.priority}"
        if task.worker:
            yield "worker", code(task.worker)

    def results(self) -> str:
        """Return the outputs of the tasks that are no parts of others and that no other needs."""
        needed = {need for each in self.tasks for need in each.dependencies}
        found = [
            each
            for each in self.tasks
            if each.parent is None and each.id not in needed and each.status in _DONE
        ]
        pairs = [
            (name(self.names[each.id]), self.room.value(for_people(each, "output").value, 6_000))
            for each in found[:RESULTS]
        ]
        if len(found) > RESULTS:
            pairs.append(("…", "and more"))
        return definitions(pairs, style="pairs") if pairs else ""

    def changes(self) -> str:
        """Return the newest changes of what tasks stood at, the last one below."""
        shown = self.history[-EVENTS:]
        left = len(self.history) - len(shown)
        first = self.history[0].at if self.history else None
        rows = [
            [
                text(_since(each.at, first)),
                name(self.names.get(each.task_id, each.task_id)),
                state(str(each.status), look_of(each.status)),
                f"{each.attempt:,}" if each.attempt else "",
                text(first_line(each.cause, 200)),
                text(each.worker, 40),
            ]
            for each in shown
        ]
        heads = ["When", "Task", "Became", ">Call", "Why", "Worker"]
        note = f"{left:,} earlier changes are not shown" if left else ""
        return folded_table(heads, rows, "History", note, opened=20, style="wordy")

    def configuration(self) -> str:
        """Return what the job was started with."""
        job = self.job
        pairs = [
            (name(str(key)), self.room.value(value, 1_200))
            for key, value in list(job.config.items())[:100]
        ]
        if job.allowed_agents is not None:
            pairs.append(("allowed agents", ", ".join(map(name, job.allowed_agents[:100]))))
        if job.deadline is not None:
            pairs.append(
                ("deadline", time_element(dt.datetime.fromtimestamp(job.deadline, dt.UTC)))
            )
        return definitions(pairs, style="pairs") if pairs else ""


def _name(task: Task) -> str:
    return first_line(task.description, 80) or task.id


def _since(at: dt.datetime, first: dt.datetime | None) -> str:
    seconds = 0.0 if first is None else (at - first).total_seconds()
    return f"+{duration(seconds)}" if seconds > 0 else "0"


def _course(events: Sequence[TaskEvent], now: float) -> _Course:
    """Return when a task was called and when it waited, from the changes of its status."""
    bars, called, waited = [], 0.0, 0.0
    for k, each in enumerate(events):
        after = events[k + 1] if k + 1 < len(events) else None
        start = each.at.timestamp()
        end = max(start, now if after is None else after.at.timestamp())
        if each.status is TaskStatus.RUNNING:
            called += end - start
            bars.append(_call(each, after, start, end))
        elif each.status in _WAITS:
            waited += end - start
            why = f": {first_line(each.cause, 160)}" if each.cause else ""
            told = f"{_WAITS[each.status]} for {duration(end - start)}{why}"
            if end > start:
                bars.append(Bar(start, end, "wait", told))
    return _Course(tuple(bars), called, waited)


def _call(begun: TaskEvent, ended: TaskEvent | None, start: float, end: float) -> Bar:
    if ended is None:
        return Bar(start, end, "running", f"call {begun.attempt}: running", open=True)
    how = _CALLS.get(ended.status, "completed")
    told = f"call {begun.attempt}: {ended.status} in {duration(end - start)}"
    if ended.cause:
        told += f": {first_line(ended.cause, 160)}"
    return Bar(start, end, how, told)
