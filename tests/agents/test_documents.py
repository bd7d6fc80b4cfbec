"""What the documents write: their arguments, their order, their names."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents import AgentDef
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.plugins import GROUP, load_agents
from dagger_dsl.agents.storage import TaskStorage
from dagger_dsl.errors import (
    AgentNotAllowed,
    AgentNotFound,
    ConfigurationError,
    InvalidState,
    JobNotFound,
    TaskExists,
    TaskNotFound,
)
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus, TaskType
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import TaskClaims
from dagger_dsl.testing import FakeClock
from tests.agents.helpers import LONG, Hands, registry_of, until
from tests.views.dot_grammar import parse


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where the database of a test is."""
    return None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"


@pytest.fixture
def hands(url: str | None) -> Iterator[Hands]:
    """A manager whose tasks a test claims by hand."""
    registry = registry_of(a=lambda input: input, b=lambda input: input)
    with Hands(FakeClock(1e6), registry=registry, database_url=url) as made:
        yield made


# --- adding


@pytest.mark.row("I10", "I15")
def test_a_task_is_added_by_twelve_arguments(hands: Hands) -> None:
    manager = hands.manager
    first = manager.add_objective("j", "Research advanced AI techniques", "a", {"topic": "ml"})
    task_id = manager.add_task_with_type(
        "j",
        "Write final report",
        "a",
        [first],
        {"format": "executive_summary"},
        first,
        "two pages",
        TaskType.STORY,
        60,
        2,
        "to be written",
        1,
    )
    task = manager.get_task_by_id(task_id)
    assert task is not None
    assert (task.job_id, task.description, task.agent) == ("j", "Write final report", "a")
    assert (task.dependencies, task.input) == ((first,), {"format": "executive_summary"})
    assert (task.parent, task.acceptance_criteria) == (first, "two pages")
    assert (task.task_type, task.timeout, task.max_retries) == (TaskType.STORY, 60.0, 2)
    assert (task.summary, task.retry_count) == ("to be written", 1)
    short = manager.get_task(manager.add_task_with_type("j", "", "a", [], None, None))
    assert short is not None
    assert (short.task_type, short.timeout, short.max_retries) == (TaskType.TASK, None, 0)
    assert manager.get_task("nowhere") is None
    with pytest.raises(ConfigurationError, match="retry_count"):
        manager.add_task_with_type("j", "", "a", retry_count=-1)


@pytest.mark.row("I21")
def test_a_task_is_created_of_its_spec(hands: Hands) -> None:
    manager = hands.manager
    task_id = manager.create_task(NewTaskSpec("a", 1, priority=3), "j")
    assert (hands.task(task_id).input, hands.task(task_id).priority) == (1, 3)
    with pytest.raises(ConfigurationError, match="needs the job_id"):
        manager.create_task(NewTaskSpec("a"))
    with pytest.raises(ConfigurationError, match="a task is a NewTaskSpec"):
        manager.create_task("a", "j")  # type: ignore[arg-type]  # on purpose


@pytest.mark.row("I18", "I19", "I21")
def test_an_agent_creates_a_task_in_its_own_job(url: str | None) -> None:
    registry = Registry()

    @task_agent(registry=registry)
    def system(task_id: str, task_manager: TaskManager, ctx: TaskContext) -> Any:
        if ctx.is_rerun:
            return ctx.dependency_outputs()
        new = task_manager.create_task(NewTaskSpec("giver"))
        task_manager.add_dependency(task_id, new)
        assert task_manager.update_task_status(task_id, TaskStatus.BLOCKED)
        return None

    @task_agent(registry=registry)
    def giver() -> str:
        return "given"

    with TaskManager(registry=registry, database_url=url) as manager:
        task_id = manager.add_task("j", "", "system")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        task = manager.get_task(task_id)
        assert task is not None
        assert (task.output, task.retry_count) == (["given"], 0)


@pytest.mark.row("I35")
def test_a_thousand_tasks_are_one_commit(tmp_path: Path) -> None:
    with Hands(
        FakeClock(1e6), registry=registry_of(a=lambda n: n), database_url=tmp_path / "t.db"
    ) as hands:
        manager = hands.manager
        commits: list[str] = []
        with manager._store.database.exclusive() as writer:
            writer.set_trace_callback(commits.append)
        ids = manager.add_tasks([NewTaskSpec("a", {"n": n}) for n in range(1_000)], "j")
        assert [each for each in commits if each.startswith("COMMIT")] == ["COMMIT"]
        tasks = manager.tasks("j")
        assert [each.id for each in tasks] == ids
        assert [each.input["n"] for each in tasks] == list(range(1_000))


# --- asking


@pytest.mark.row("I9", "I11")
def test_tasks_are_found_by_what_they_are(hands: Hands) -> None:
    manager = hands.manager
    top = manager.add_objective("j", "", "a", None)
    story = manager.add_task("j", "", "b", parent=top, task_type="story")
    parts = [
        manager.add_task("j", "", "a", parent=story, task_type=kind, dependencies=needs)
        for kind, needs in ((TaskType.TASK, [top]), ("subtask", []), ("subtask", [top, story]))
    ]
    _ = manager.start_job("j")

    def ids(**given: Any) -> list[str]:
        return [each.id for each in manager.tasks("j", **given)]

    assert ids() == [top, story, *parts]
    assert ids(task_type="objective") == [top]
    assert ids(task_type=TaskType.SUBTASK) == parts[1:]
    assert ids(agent="b") == [story]
    assert ids(status="ready") == [top, story, parts[1]]
    assert ids(status=TaskStatus.READY, agent="a", task_type="subtask") == [parts[1]]
    assert ids(agent="c") == []
    children = manager.children(story)
    assert [each.id for each in children] == parts
    assert [each.dependencies for each in children] == [(top,), (), (top, story)]
    assert [each.id for each in manager.children(top)] == [story]
    assert manager.children(parts[0]) == []
    with pytest.raises(TaskNotFound, match="'nowhere'"):
        manager.children("nowhere")
    for wrong in ({"status": "redy"}, {"task_type": 3}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            manager.tasks("j", **wrong)


@pytest.mark.row("I32", "N6")
def test_jobs_are_drawn_as_dot_with_their_parts_and_needs(hands: Hands) -> None:
    manager = hands.manager
    top = manager.add_objective("j", "Find out", "a", None)
    manager.add_task("j", 'Write "it" down', "b", parent=top, task_id="part")
    manager.add_task("j", "Print", "a", dependencies=["part"], task_id="last")
    manager.add_task("k", "Elsewhere", "a", task_id="other")
    _ = manager.start_job("j")
    dot = parse(manager.get_dot_graph("j"))
    arrows = {(source, target) for source, target, _ in dot.edges}
    assert arrows == {(top, "part"), ("part", "last")}
    assert set(dot.nodes) == {top, "part", "last"}
    assert set(parse(manager.get_dot_graph()).nodes) == {top, "part", "last", "other"}
    assert manager.job("j").to_dot() == manager.get_dot_graph("j")
    with pytest.raises(JobNotFound):
        manager.get_dot_graph("nowhere")


@pytest.mark.row("I22", "I25", "I27")
def test_tasks_are_put_got_and_moved_on(hands: Hands) -> None:
    storage = TaskStorage(hands.manager)
    task_id = storage.put(NewTaskSpec("a", 1, task_id="t", key="ada"), "j")
    hands.manager.add_task("j", "", "a", dependencies=["t"], task_id="after")
    _ = hands.manager.start_job("j")
    found = storage.get(task_id)
    assert found is not None
    assert (found.input, found.key, storage.get("nowhere")) == (1, "ada", None)
    with pytest.raises(TaskExists):
        storage.put(found)
    assert not storage.update_status("t", "blocked", "ready")
    with pytest.raises(InvalidState, match="ready and cannot become completed"):
        storage.update_status("t", "ready", "completed")
    assert storage.update_status("t", TaskStatus.READY, TaskStatus.RUNNING)
    assert not storage.update_status("t", TaskStatus.READY, TaskStatus.RUNNING)
    assert storage.update_status("t", "running", "completed")
    assert hands.states() == {"t": "completed", "after": "ready"}
    for wrong in (3, "a"):
        with pytest.raises(ConfigurationError, match="a NewTaskSpec or a Task"):
            storage.put(wrong)  # type: ignore[arg-type]  # on purpose


MOVER = """
import sys
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.storage import TaskStorage

with TaskManager(database_url=sys.argv[1], concurrency=0) as manager:
    storage = TaskStorage(manager)
    print(*(n for n in range(200) if storage.update_status(f"t{n}", "ready", "running")))
"""


@pytest.mark.row("I22", "I25")
def test_of_two_that_move_a_task_one_succeeds(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}?synchronous=NORMAL"
    with TaskManager(registry=registry_of(a=print), database_url=url, concurrency=0) as manager:
        manager.add_tasks([NewTaskSpec("a", task_id=f"t{n}") for n in range(200)], "j")
        _ = manager.start_job("j")
        movers = [
            subprocess.Popen([sys.executable, "-c", MOVER, url], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        moved = [each.communicate(timeout=120)[0].split() for each in movers]
        assert sorted(map(int, moved[0] + moved[1])) == list(range(200))
        assert {each.version for each in manager.tasks("j")} == {2}


@pytest.mark.row("I12", "I31")
def test_an_agent_that_is_not_allowed_gets_no_task(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "a")
    _ = manager.start_job("j", [], ["a"], {"why": "a test"})
    with pytest.raises(AgentNotAllowed, match="no task for agent 'b'"):
        manager.add_task("j", "", "b")
    assert hands.claim("b") == []
    job = manager._reads.job("j")
    assert job is not None
    assert (job.allowed_agents, job.config) == (("a",), {"why": "a test"})


@pytest.mark.row("I12")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": 3}, "config is a mapping"),
        ({"config": {"x": object()}}, "config is a mapping.*object"),
        ({"config": {1: 2}}, "config is a mapping"),
        ({"allowed_agents": "ab"}, "allowed_agents are a list of names, not 'ab'"),
        ({"allowed_agents": [3]}, "allowed_agents are a list of names"),
        ({"allowed_agents": 3}, "allowed_agents are a list of names"),
        ({"timeout": "soon"}, "timeout must be seconds"),
        ({"timeout": -1}, "timeout"),
        ({"tasks": ["a"]}, "a task is a NewTaskSpec"),
    ],
)
def test_what_no_job_can_have_is_refused(hands: Hands, given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _ = hands.manager.start_job("j", **given)


# --- workers


def test_a_job_is_made_given_tasks_and_started_in_one_commit(tmp_path: Path) -> None:
    with Hands(
        FakeClock(1e6), registry=registry_of(a=print), database_url=tmp_path / "t.db"
    ) as hands:
        commits: list[str] = []
        with hands.manager._store.database.exclusive() as writer:
            writer.set_trace_callback(commits.append)
        job = hands.manager.start_job("j", [NewTaskSpec("a"), NewTaskSpec("a")], config={"k": 1})
        assert [each for each in commits if each.startswith("COMMIT")] == ["COMMIT"]
        assert [each.status for each in job.tasks] == ["ready", "ready"]
        assert (job.status, job.config) == ("running", {"k": 1})


def test_jobs_are_listed_the_newest_first(hands: Hands) -> None:
    manager = hands.manager
    assert manager.jobs() == []
    for name in ("one", "two"):
        _ = manager.start_job(name, [NewTaskSpec("a", name)])
        hands.clock.advance(1.0)
    manager.cancel_job("one")
    assert [(each.id, each.status, each.unfinished) for each in manager.jobs()] == [
        ("two", JobStatus.RUNNING, 1),
        ("one", JobStatus.CANCELLED, 0),
    ]
    assert [each.id for each in manager.jobs("cancelled")] == ["one"]
    with pytest.raises(ConfigurationError, match="status must be one of 'created', 'running'"):
        manager.jobs("runing")


@pytest.mark.parametrize("wrong", ["a key", "a dependency", "an agent", "an unknown agent"])
def test_a_job_that_cannot_be_started_is_not_made(tmp_path: Path, wrong: str) -> None:
    registry = registry_of(a=print, b=print)
    with TaskManager(registry=registry, database_url=tmp_path / "t.db") as manager:
        specs = {
            "a key": [NewTaskSpec("a", task_id="t"), NewTaskSpec("a", task_id="t")],
            "a dependency": [NewTaskSpec("a"), NewTaskSpec("a", dependencies=["none"])],
            "an agent": [NewTaskSpec("a"), NewTaskSpec("b")],
            "an unknown agent": [NewTaskSpec("a"), NewTaskSpec("c")],
        }[wrong]
        error = {
            "a key": TaskExists,
            "a dependency": TaskNotFound,
            "an agent": AgentNotAllowed,
            "an unknown agent": AgentNotFound,
        }[wrong]
        with pytest.raises(error):
            _ = manager.start_job("j", specs, allowed_agents=["a"])
        with pytest.raises(JobNotFound):
            _ = manager.job("j")


@pytest.mark.row("I24")
def test_a_worker_that_gives_no_sign_of_life_loses_its_tasks(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    registry = registry_of(a=lambda input: f"second {input}")
    with TaskManager(registry=registry, database_url=url, lease=0.3) as manager:
        manager.add_task("j", "", "a", input="x", task_id="t")
        with Store(url) as store:
            elsewhere = TaskClaims(store.database, store._payloads)
            manager._rows.start_job("j")
            (claim,), _, _ = elsewhere.exchange("1-abc@another-host", agents=["a"], wanted=1)
            assert elsewhere.beat("1-abc@another-host", 60.0) == 1
            task = manager.get_task("t")
            assert task is not None
            assert task.worker == "1-abc@another-host"
            assert manager.resume_job("j").result(LONG) is JobStatus.COMPLETED
            from dagger_dsl.store.task_claims import Ending

            ending = Ending(claim, TaskStatus.COMPLETED, elsewhere.encoded("late", "result"))
            assert elsewhere.exchange("1-abc@another-host", [ending])[1] == [ending]
        task = manager.get_task("t")
        assert task is not None
        assert (task.output, task.attempts) == ("second x", 2)


WORKER = """
import os, sys, time
from dagger_dsl import Registry, RetryPolicy, task_agent
from dagger_dsl.agents.manager import TaskManager

registry = Registry()

@task_agent(registry=registry, retry=RetryPolicy(max_attempts=6, base_delay=0.05))
def step(input, ctx):
    with open(sys.argv[2], "a") as file:
        file.write(f"{input} {ctx.attempt}\\n")
    if input == 3 and ctx.attempt == 1:
        raise OSError("away")
    if input == 5 and sys.argv[3] == "dies":
        time.sleep(600)
    return [input, *ctx.dependency_outputs()]

with TaskManager(registry=registry, database_url=sys.argv[1], concurrency=2) as manager:
    if sys.argv[3] == "dies":
        last = ()
        for n in range(8):
            last = [manager.add_task("j", "", "step", input=n, dependencies=last, task_id=f"t{n}")]
        job = manager.start_job("j")
    else:
        job = manager.resume_job("j")
    print(job.result(), job.success)
"""


@pytest.mark.row("I28", "I29")
@pytest.mark.timeout(180)
def test_a_job_whose_process_was_killed_is_completed_by_the_next(tmp_path: Path) -> None:
    url, notes = f"sqlite:{tmp_path / 'research.db'}", tmp_path / "notes"
    given = [sys.executable, "-c", WORKER, url, str(notes)]
    with subprocess.Popen([*given, "dies"], stdout=subprocess.PIPE) as first:
        until(lambda: notes.exists() and "5 1" in notes.read_text())
        first.kill()
    second = subprocess.run([*given, "lives"], capture_output=True, text=True, timeout=120)
    assert second.stdout.split() == ["completed", "True"], second.stderr
    called = notes.read_text().splitlines()
    assert called == ["0 1", "1 1", "2 1", "3 1", "3 2", "4 1", "5 1", "5 2", "6 1", "7 1"]
    with TaskManager(database_url=url, concurrency=0) as manager:
        tasks = {each.id: each for each in manager.tasks("j")}
        assert tasks["t7"].output == [7, [6, [5, [4, [3, [2, [1, [0]]]]]]]]
        assert (tasks["t3"].retry_count, tasks["t5"].retry_count) == (1, 0)
        assert "its worker died" in [each.cause for each in manager.history("t5")]


@pytest.mark.row("I29")
def test_retries_are_counted_over_restarts(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    clock = FakeClock(1e6)
    for number in range(3):
        registry = registry_of(a=print)
        with Hands(clock, registry=registry, database_url=url) as hands:
            if number == 0:
                hands.manager.add_task("j", "", "a", task_id="t", max_retries=2)
            _ = hands.manager.resume_job("j")
            (claim,) = hands.claim("a")
            assert (claim.retries, claim.attempt, claim.spec) == (
                number,
                number + 1,
                {"max_retries": 2},
            )
            hands.end(claim, TaskStatus.PENDING, due_at=clock() + 5, retried=True)
            assert hands.claim("a") == []
            clock.advance(5.0)
            hands.manager._claims.wake()


# --- agents of installed packages


def given() -> str:
    """Give."""
    return "given"


class Points:
    """Entry points of packages that are not installed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
        points = [EntryPoint(name, value, GROUP) for name, value in values.items()]
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: points if group == GROUP else []
        )


@pytest.mark.row("I5")
def test_agents_of_installed_packages_are_registered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = types.ModuleType("package_with_agents")
    here.given = given  # type: ignore[attr-defined]  # a module of its own
    here.Kept = type("Kept", (), {"execute": lambda self, input: input})  # type: ignore[attr-defined]
    here.ready = AgentDef("other", given)  # type: ignore[attr-defined]
    here.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "package_with_agents", here)
    Points(
        monkeypatch,
        giver="package_with_agents:given",
        keeper="package_with_agents:Kept",
        ready="package_with_agents:ready",
        module="package_with_agents",
        taken="package_with_agents:given",
        wrong="package_with_agents:number",
        missing="package_that_is_not_there:x",
    )
    caplog.set_level(logging.WARNING)
    registry = registry_of(taken=len)
    assert load_agents(registry) == ["giver", "keeper", "ready"]
    assert load_agents(registry) == []
    assert sorted(registry.agents) == ["giver", "keeper", "ready", "taken"]
    assert registry.agents["taken"].target is len
    assert "'wrong' of package_with_agents:number cannot be loaded" in caplog.text
    assert "'missing' of package_that_is_not_there:x cannot be loaded" in caplog.text


@pytest.mark.row("I5")
def test_a_manager_has_the_agents_of_the_registry_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "package_with_agents", sys.modules[__name__])
    Points(monkeypatch, giver="package_with_agents:given")
    with Registry(), TaskManager() as manager:
        task_id = manager.add_task("j", "", "giver")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        task = manager.get_task(task_id)
        assert task is not None
        assert task.output == "given"
    with TaskManager(registry=Registry()) as manager:
        assert dict(manager.registry.agents) == {}, "who brings a registry says what is in it"
