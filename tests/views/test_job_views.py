"""Jobs of tasks as pictures and DOT: what people see of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from dagger_dsl import NewTaskSpec, Registry, TaskContext, TaskManager, task_agent
from dagger_dsl.agents import JobHandle
from dagger_dsl.views.layout import Drawing, lay_out
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

    with TaskManager(registry=registry) as made:
        yield made


def ran(manager: TaskManager, job_id: str, *specs: NewTaskSpec) -> JobHandle:
    """Return a job that has ended."""
    job = manager.start_job(job_id, specs)
    job.result(LONG)
    return job


def test_words_of_tasks_are_no_markup_in_pictures(manager: TaskManager) -> None:
    evil = "[red]x[/] \x1b[31m<b>&"
    job = ran(manager, "evil", NewTaskSpec("worker", {"wrong": False}, description=evil))
    found = ElementTree.fromstring(job.to_svg())
    assert any("[red]x[/] <b>&" in (text.text or "") for text in found.iter(SVG + "text"))


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


def test_a_notebook_is_shown_the_picture_and_text(
    manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ran(manager, "j", NewTaskSpec("worker", {"wrong": False}))
    laid = []

    def counted(*given: Any) -> Drawing:
        laid.append(given)
        return lay_out(*given)

    monkeypatch.setattr("dagger_dsl.views.svg.lay_out", counted)
    bundle = job._repr_mimebundle_()
    assert len(laid) == 1, "what takes long is done once"
    assert bundle["text/plain"] == "job j: completed: 1 task"
    assert bundle["image/svg+xml"] == job.to_svg()
    assert "<svg" in bundle["text/html"]
    assert list(job._repr_mimebundle_(include={"text/plain"})) == ["text/plain"]
    assert "text/html" not in job._repr_mimebundle_(exclude={"text/html"})
