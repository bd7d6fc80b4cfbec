"""Jobs of tasks as trees, pictures and DOT: what people see of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from dagger_dsl import NewTaskSpec, Registry, TaskContext, TaskManager, task_agent
from dagger_dsl.agents import JobHandle
from dagger_dsl.views.job_tree import job_tree
from tests.views.dot_grammar import parse

SVG = "{http://www.w3.org/2000/svg}"
LONG = 60.0


@pytest.fixture
def manager() -> Iterator[TaskManager]:
    registry = Registry()

    @task_agent(registry=registry)
    def planner(ctx: TaskContext, parts: int, wrong: bool = False) -> list[Any]:
        if not ctx.is_rerun:
            ctx.block(
                on=[
                    ctx.add_task("worker", {"wrong": wrong and not n}, description=f"part {n}")
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


def tree_of(job: JobHandle, width: int = 100) -> list[str]:
    """Return what a terminal shows of a job."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    console.print(job)
    text = console.file
    assert isinstance(text, io.StringIO)
    return [line.rstrip() for line in text.getvalue().splitlines()]


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
        NewTaskSpec("worker", {"wrong": False}, description="after it", dependencies=["w"]),
    )
    lines = tree_of(job)
    assert lines[0] == "✕ job plan failed: 4 tasks, 3 failed, 1 completed"
    starts = [
        "├── ✕ the whole · planner · ",
        "│   ├── ✕ part 0 · worker · ",
        "│   └── ✓ part 1 · worker · ",
        "└── ✕ after it · worker · after the whole — failed with the whole",
    ]
    assert [line[: len(start)] for line, start in zip(lines[1:], starts, strict=True)] == starts
    assert lines[1].endswith("— failed with part 0")
    assert lines[2].endswith("— ValueError: no such part")


def test_a_tree_says_what_waits_for_a_person(manager: TaskManager) -> None:
    job = manager.start_job("ask", [NewTaskSpec("careful", description="pay")])
    for _ in job.watch(0.01):
        if job.tasks[0].status == "blocked":
            break
    assert tree_of(job) == [
        "▸ job ask running: 1 task, 1 blocked",
        "└── … pay · careful · blocked — may I?",
    ]
    job.cancel("nobody is there")
    assert tree_of(job)[0] == "⊘ job ask cancelled: 1 task — nobody is there"


def test_of_many_parts_those_that_failed_are_shown_first(manager: TaskManager) -> None:
    job = ran(manager, "many", NewTaskSpec("planner", {"parts": 200, "wrong": True}))
    lines = tree_of(job)
    assert len(lines) == 1 + 1 + 30 + 1
    assert "part 0 · worker" in lines[2]
    assert lines[-1].endswith("└── and 170 more: 170 completed")


def test_words_of_tasks_are_no_markup_and_no_commands(manager: TaskManager) -> None:
    evil = "[red]x[/] \x1b[31m<b>&"
    job = ran(manager, "evil", NewTaskSpec("worker", {"wrong": False}, description=evil))
    assert "[red]x[/] <b>&" in tree_of(job)[1]
    found = ElementTree.fromstring(job.to_svg())
    assert any("[red]x[/] <b>&" in (text.text or "") for text in found.iter(SVG + "text"))


def test_all_tasks_of_all_jobs_are_a_tree_too(manager: TaskManager) -> None:
    _ = ran(manager, "one", NewTaskSpec("worker", {"wrong": False}))
    tree = job_tree(manager.tasks("one"))
    assert str(tree.label) == "1 task"
    assert str(job_tree([]).label) == "no tasks"


@pytest.mark.row("I32", "N6")
def test_dot_has_parts_and_needs_and_where_each_stands(manager: TaskManager) -> None:
    job = ran(
        manager,
        "plan",
        NewTaskSpec("worker", {"wrong": False}, description="first", task_id="f"),
        NewTaskSpec("planner", {"parts": 1}, description="plan", dependencies=["f"], task_id="p"),
        NewTaskSpec("worker", {"wrong": False}, description="side", parent="p", task_id="s"),
    )
    drawn = parse(manager.get_dot_graph("plan"))
    (part,) = [each.id for each in job.tasks if each.description == "part 0"]
    assert sorted(drawn.nodes) == sorted(["f", "p", "s", part])
    assert drawn.nodes["f"]["fillcolor"] == "lightgreen"
    assert "plan" in drawn.nodes["p"]["label"]
    # What is waited for is no second time drawn as a part.
    assert {(*ends, label.get("label")) for *ends, label in drawn.edges} == {
        ("f", "p", None),
        (part, "p", None),
        ("p", "s", "part"),
    }
    _ = ran(manager, "other", NewTaskSpec("worker", {"wrong": True}, task_id="o"))
    assert set(parse(manager.get_dot_graph()).nodes) == {"f", "p", "s", part, "o"}


@pytest.mark.row("N6")
def test_a_picture_of_many_tasks_shows_those_that_are_alike_as_one(manager: TaskManager) -> None:
    few = ran(manager, "few", NewTaskSpec("planner", {"parts": 5}))
    assert len(list(boxes(few))) == 6
    many = ran(manager, "many", NewTaskSpec("planner", {"parts": 50, "wrong": True}))
    assert len(list(boxes(many))) == 3  # the plan, what failed, and all others
    svg = many.to_svg()
    assert "49 \N{MULTIPLICATION SIGN} worker" in svg
    assert "51 tasks, 2 failed, 49 completed in 3 boxes" in svg
    assert len(parse(many.to_dot()).nodes) == 51


def boxes(job: JobHandle) -> Iterator[str]:
    """Yield the ids of what a picture shows."""
    for box in ElementTree.fromstring(job.to_svg()).iter(SVG + "g"):
        if box.get("data-id"):
            yield str(box.get("data-id"))


def test_a_notebook_is_shown_the_picture_and_text(manager: TaskManager) -> None:
    job = ran(manager, "j", NewTaskSpec("worker", {"wrong": False}))
    bundle = job._repr_mimebundle_()
    assert bundle["text/plain"] == "job j: completed: 1 task"
    assert bundle["image/svg+xml"].startswith("<svg")
    assert "<svg" in bundle["text/html"]
