"""A job as a tree: what is part of what, what is left out, and nothing that obeys data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import rich
from rich.console import Console

from dagger_dsl import NewTaskSpec, Registry, TaskContext, TaskManager, task_agent
from dagger_dsl.agents import JobHandle
from dagger_dsl.views.job_tree import DEEPEST, job_lines, job_tree, placed

LONG = 60.0
HOSTILE = "\x1b[31m[bold]red[/bold]\x1b]0;title\x07"


@pytest.fixture
def manager() -> Iterator[TaskManager]:
    registry = Registry()

    @task_agent(registry=registry)
    def planner(ctx: TaskContext, parts: int, wrong: bool = False) -> list[Any]:
        if not ctx.is_rerun:
            ctx.block(
                on=[
                    ctx.add_task(
                        "worker",
                        {"wrong": wrong and not n},
                        description=f"part {n}",
                        task_id=f"p{n}",
                    )
                    for n in range(parts)
                ]
            )
        return ctx.dependency_outputs()

    @task_agent(registry=registry)
    def worker(wrong: bool) -> str:
        if wrong:
            raise ValueError("no such part")
        return "done"

    @task_agent(registry=registry)
    def careful(ctx: TaskContext) -> None:
        ctx.block(reason="may I?")

    with TaskManager(registry=registry) as made:
        yield made


def made(specs: list[NewTaskSpec]) -> TaskManager:
    """Return a manager whose job `j` has these tasks, none of which is run."""
    manager = TaskManager(registry=Registry(), concurrency=0)
    manager.add_tasks(specs, "j")
    return manager


def tree_of(job: JobHandle, width: int = 100) -> list[str]:
    """Return what a terminal shows of a job."""
    return printed(job, width)


def printed(what: Any, width: int = 100) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=True)
    console.print(what)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def ran(manager: TaskManager, job_id: str, *specs: NewTaskSpec) -> JobHandle:
    """Return a job that has ended."""
    job = manager.start_job(job_id, specs)
    job.result(LONG)
    return job


def test_a_tree_shows_parts_below_their_task_and_what_failed_with_what(
    manager: TaskManager,
) -> None:
    job = ran(
        manager,
        "plan",
        NewTaskSpec("planner", {"parts": 2, "wrong": True}, description="the whole", task_id="w"),
        NewTaskSpec(
            "worker", {"wrong": False}, description="after it", dependencies=["w"], task_id="a"
        ),
    )
    lines = tree_of(job)
    assert lines[0] == "✕ job plan failed: 4 tasks, 3 failed, 1 completed"
    starts = [
        "├── ✕ the whole · planner · w · ",
        "│   ├── ✕ part 0 · worker · p0 · ",
        "│   └── ✓ part 1 · worker · p1 · ",
        "└── ✕ after it · worker · a · after the whole — failed with the whole",
    ]
    assert [line[: len(start)] for line, start in zip(lines[1:], starts, strict=True)] == starts
    assert lines[1].endswith("— failed with part 0")
    assert lines[2].endswith("— ValueError: no such part")


def test_lines_say_the_same(manager: TaskManager) -> None:
    job = ran(manager, "plan", NewTaskSpec("planner", {"parts": 2, "wrong": True}, task_id="w"))
    lines = list(job_lines(job.tasks, job._row()))
    assert lines[0] == "job plan failed: 3 tasks, 2 failed, 1 completed"
    assert lines[1].startswith("  failed w (planner, ")
    assert lines[2] == "      failed with part 0"
    assert lines[3].startswith("    failed part 0 (worker, p0, ")
    assert lines[4] == "        ValueError: no such part"
    assert lines[5].startswith("    completed part 1 (worker, p1, ")
    assert len(lines) == 6
    assert list(job_lines(job.tasks, job._row(), 2))[-1] == "  and 1 more: 1 completed"


def test_a_tree_says_what_waits_for_a_person(manager: TaskManager) -> None:
    specs = [
        NewTaskSpec("careful", description="pay", task_id="p"),
        NewTaskSpec("worker", {"wrong": False}, dependencies=["p"], task_id="s"),
    ]
    job = manager.start_job("ask", specs)
    for _ in job.watch(0.01):
        if job.tasks[0].status == "blocked":
            break
    lines = tree_of(job)
    assert lines[0] == "▸ job ask running: 2 tasks, 1 blocked, 1 pending"
    assert lines[1].startswith("├── … pay · careful · p · ")
    assert lines[1].endswith("blocked — may I? — waits for a person")
    assert lines[2] == "└── ○ s · worker · pending — waits for pay"
    job.cancel("nobody is there")
    assert tree_of(job)[0] == "⊘ job ask cancelled: 2 tasks — nobody is there"
    assert tree_of(job)[2] == "└── ⊘ s · worker · after pay · cancelled — nobody is there"


def test_a_task_that_runs_without_its_needs_does_not_wait_for_those_that_failed() -> None:
    anyway = NewTaskSpec(
        "a", task_id="t", dependencies=["n", "m"], on_dependency_failure="run", description="do"
    )
    with made([NewTaskSpec("a", task_id="n"), NewTaskSpec("a", task_id="m"), anyway]) as manager:
        manager.update_task_status("n", "failed")
        job = manager.job("j")
        assert tree_of(job)[3] == "└── ○ do · a · t · pending — waits for m"


def test_a_tree_is_as_wide_as_the_terminal_and_obeys_no_data() -> None:
    specs = [
        NewTaskSpec(HOSTILE, task_id="t" + HOSTILE, description=HOSTILE),
        NewTaskSpec("a", task_id="u", dependencies=["t" + HOSTILE], description="long " * 30),
    ]
    with made(specs) as manager:
        job = manager.job("j")
        manager.update_task_status("t" + HOSTILE, "failed", cause=HOSTILE)
        for width in (30, 80):
            lines = tree_of(job, width)
            assert all(len(line) <= width for line in lines)
            text = "\n".join(lines)
            assert "\x1b" not in text
            assert "\x07" not in text
            assert "[bold]red[/bold]" in text, "it is no markup"
        assert tree_of(job, 300)[0].startswith("○ job j created: 2 tasks, 2 failed")
        assert not any("\x1b" in line for line in job_lines(job.tasks, job._row()))


def test_of_many_tasks_those_are_shown_that_failed_with_what_they_are_parts_of() -> None:
    specs = [NewTaskSpec("a", task_id=f"t{n}") for n in range(50)]
    specs.append(NewTaskSpec("a", task_id="bad", parent="t49"))
    with made(specs) as manager:
        manager.update_task_status("bad", "failed")
        assert [each.id for _, each in placed(manager.tasks("j"), 3)] == ["t0", "t1", "t49", "bad"]
        lines = printed(job_tree(manager.tasks("j"), limit=3))
        assert len(lines) == 6
        assert lines[-1] == "└── and 47 more: 47 pending"


def test_of_many_parts_those_that_failed_are_shown_first(manager: TaskManager) -> None:
    job = ran(manager, "many", NewTaskSpec("planner", {"parts": 300, "wrong": True}))
    lines = tree_of(job)
    assert len(lines) == 1 + 200 + 1
    assert "part 0 · worker" in lines[2]
    assert lines[-1] == "└── and 101 more: 101 completed"


def test_parts_of_parts_are_indented_up_to_a_depth() -> None:
    parents = [None, *(f"t{n}" for n in range(2_000))]
    specs = [NewTaskSpec("a", task_id=f"t{n}", parent=each) for n, each in enumerate(parents)]
    with made(specs) as manager:
        found = list(placed(manager.tasks("j")))
        assert [each.id for _, each in found] == [spec.task_id for spec in specs]
        assert max(level for level, _ in found) == DEEPEST
        lines = tree_of(manager.job("j"), 60)
        assert lines[-1] == "└── and 1,801 more: 1,801 pending"
        assert len(list(job_lines(manager.tasks("j"), None, None))) == 2_002


def test_what_is_part_of_itself_ends_too() -> None:
    with made([NewTaskSpec("a", task_id="t"), NewTaskSpec("a", task_id="u")]) as manager:
        one, two = manager.tasks("j")
        object.__setattr__(one, "parent", "u")  # as in a damaged database
        object.__setattr__(two, "parent", "t")
        assert printed(job_tree([one, two], limit=1)) == ["2 tasks", "└── and 2 more: 2 pending"]


def test_all_tasks_of_all_jobs_are_a_tree_too(manager: TaskManager) -> None:
    _ = ran(manager, "one", NewTaskSpec("worker", {"wrong": False}))
    tree = job_tree(manager.tasks("one"))
    assert str(tree.label) == "1 task"
    assert str(job_tree([]).label) == "no tasks"


def test_an_empty_job_has_no_tasks() -> None:
    with made([]) as manager:
        job = manager.job("j")
        assert tree_of(job) == ["○ job j created: no tasks"]
        assert list(job_lines(job.tasks, job._row())) == ["job j created: no tasks"]


def test_colours_in_a_notebook_are_for_light_and_dark(
    manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ran(manager, "j", NewTaskSpec("worker", {"wrong": True}))

    def styles() -> set[str]:
        label: Any = job_tree(job.tasks, job._row()).children[0].label
        return {str(span.style) for span in label.spans}

    assert "bold red" in styles()
    monkeypatch.setattr(rich.get_console(), "is_jupyter", True)
    assert "#d9434d" in styles()
    assert "bold red" not in styles()
