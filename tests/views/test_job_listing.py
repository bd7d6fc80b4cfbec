"""A job as a tree: what is part of what, what is left out, and nothing that obeys data."""

from __future__ import annotations

import io

from rich.console import Console

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec
from dagger_dsl.views.job_listing import DEEPEST, job_tree, placed

HOSTILE = "\x1b[31m[bold]red[/bold]\x1b]0;title\x07"


def made(specs: list[NewTaskSpec]) -> TaskManager:
    """Return a manager whose job `j` has these tasks, none of which is run."""
    manager = TaskManager(registry=Registry(), concurrency=0)
    manager.add_tasks(specs, "j")
    return manager


def shown(manager: TaskManager, width: int, limit: int | None = 200) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    job = manager.job("j")
    console.print(job_tree(job.tasks, job._row(), limit))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_handle_is_printed_as_a_tree_as_wide_as_the_terminal() -> None:
    specs = [
        NewTaskSpec("a", task_id="t", description=HOSTILE),
        NewTaskSpec("a", task_id="u", parent="t", dependencies=["t"], description="long " * 30),
    ]
    with made(specs) as manager:
        for width in (30, 80):
            text = shown(manager, width)
            assert all(len(line) <= width for line in text.splitlines())
            assert "[bold]red[/bold]" in text, "it is no markup"
            assert "\x1b]" not in text
            assert "waits for t" in text
        console = Console(file=io.StringIO(), width=80)
        console.print(manager.job("j"))
        assert "job j created: 2 tasks, 2 pending" in console.file.getvalue()  # type: ignore[attr-defined]


def test_of_many_tasks_those_are_shown_that_failed_with_what_they_are_parts_of() -> None:
    specs = [NewTaskSpec("a", task_id=f"t{n}") for n in range(50)]
    specs.append(NewTaskSpec("a", task_id="bad", parent="t49"))
    with made(specs) as manager:
        manager.update_task_status("bad", "failed")
        text = shown(manager, 80, limit=3)
        assert "and 47 more tasks" in text
        assert [each.id for _, each in placed(manager.tasks("j"), 3)] == ["t0", "t1", "t49", "bad"]


def test_parts_of_parts_are_indented_up_to_a_depth() -> None:
    parents = [None, *(f"t{n}" for n in range(2_000))]
    specs = [NewTaskSpec("a", task_id=f"t{n}", parent=each) for n, each in enumerate(parents)]
    with made(specs) as manager:
        found = list(placed(manager.tasks("j")))
        assert [each.id for _, each in found] == [spec.task_id for spec in specs]
        assert max(level for level, _ in found) == DEEPEST
        assert "and 1,801 more tasks" in shown(manager, 60)


def test_an_empty_job_has_no_tasks() -> None:
    registry = Registry()
    task_agent(name="a", registry=registry)(lambda: None)
    with TaskManager(registry=registry, concurrency=0) as manager:
        manager._make("j")
        assert "job j created: no tasks" in shown(manager, 80)
