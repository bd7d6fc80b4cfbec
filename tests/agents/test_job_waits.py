"""Nodes that wait for a job: how it begins with them, ends for them, and outlives processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, Registry, action, engine, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    InvalidState,
    JobFailed,
    NodeExecutionError,
    RunCancelled,
    RunPaused,
)
from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.model.commands import CancelBranch
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.job_settings import MAX_TASKS, JobSettings
from dagger_dsl.model.jobs import JobRequest
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.stalls import StallAction
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report
from tests.scale import count

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

AGAIN = RetryPolicy(max_attempts=2, base_delay=0.05)
RUNNERS = ["sequential", "threads", "asyncio"]
every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Agents:
    """Agents for these tests, and what they were called with.

    Attributes:
        registry: Where they are.
        calls: What `work` was called with.
        broken: What it fails for.
        gate: What `held` waits for.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        self.calls: list[Any] = []
        self.broken: set[Any] = set()
        self.gate = threading.Event()

        @task_agent(registry=self.registry)
        def work(n: Any) -> Any:
            self.calls.append(n)
            if n in self.broken:
                raise ValueError(f"{n} is not to be had")
            return [n]

        @task_agent(registry=self.registry)
        def held(n: Any) -> Any:
            self.calls.append(n)
            assert self.gate.wait(LONG)
            if n in self.broken:
                raise ValueError(f"{n} is not to be had")
            return [n]

        @task_agent(registry=self.registry)
        def plan(ctx: TaskContext, n: int) -> Any:
            if not ctx.is_rerun:
                ctx.block(on=[ctx.add_task("work", {"n": k}) for k in range(n)])
            return ctx.dependency_outputs()


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'bridge.db'}"


@pytest.fixture
def manager(agents: Agents, url: str) -> Iterator[TaskManager]:
    with TaskManager(registry=agents.registry, database_url=url, concurrency=2) as made:
        made.work()
        yield made
        agents.gate.set()


def waiting(*tasks: NewTaskSpec, name: str = "waits", **more: Any) -> DAG:
    """Return a DAG of a node that waits for a job, and one that gets what that gave."""
    dag = DAG(name)
    options = {key: more.pop(key) for key in ("retry",) if key in more}

    @dag.node(**options)
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(tasks or None, **more)

    @dag.node
    def after(ask: Any) -> Any:
        return {"got": ask}

    dag.connect("ask", "after")
    return dag


def spec(n: Any, agent: str = "work", **more: Any) -> NewTaskSpec:
    return NewTaskSpec(agent, {"n": n}, **more)


def go_on(dag: DAG, url: str) -> Any:
    """Resume the run `r` of a DAG and return what its last node gives."""
    report = engine.resume("r", dag.registry, RunOptions(database_url=url))
    report.raise_for_failure()
    return report.outputs["after"]


def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def jobs(url: str) -> list[dict[str, Any]]:
    with Store(url) as store:
        return list(store.query("SELECT job_id, status FROM jobs ORDER BY created_at"))


# --- results --------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("entry", ["run", "run_async", "in a loop"])
def test_the_output_of_a_job_becomes_the_result_of_the_node(
    runner: str, entry: str, manager: TaskManager, url: str
) -> None:
    dag = waiting(spec(3))
    options: dict[str, Any] = {"database_url": url, "runner": runner}

    async def wait() -> Any:
        return dag.run(**options) if entry == "in a loop" else await dag.run_async(**options)

    got = dag.run(**options) if entry == "run" else asyncio.run(wait())
    assert got == {"got": [3]}
    assert dag.report is not None
    (job,) = jobs(url)
    assert job == {"job_id": f"{dag.report.run_id}/ask/default", "status": "completed"}


def test_the_last_tasks_of_a_job_give_its_result(manager: TaskManager, url: str) -> None:
    one = waiting(
        spec(1, task_id="a"), spec(2, task_id="b"), spec(3, task_id="c", dependencies=["a", "b"])
    )
    assert one.run(database_url=url) == {"got": [3]}
    several = waiting(
        spec(1, task_id="a"), spec(2, dependencies=["a"]), spec(3, task_id="part", parent="a"),
        spec(4, task_id="z"), name="several",
    )  # fmt: skip
    assert several.run(database_url=url) == {"got": {"2": [2], "z": [4]}}


def test_what_a_task_adds_on_its_way_is_part_of_the_job(manager: TaskManager, url: str) -> None:
    assert waiting(spec(3, "plan")).run(database_url=url) == {"got": [[0], [1], [2]]}


def test_a_large_result_and_a_large_input_come_through(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    big = "x" * 100_000
    assert waiting(spec(big)).run(database_url=url) == {"got": [big]}


def test_each_item_of_a_mapped_node_has_a_job_of_its_own(manager: TaskManager, url: str) -> None:
    dag = DAG("mapped")

    @dag.node
    def items() -> list[int]:
        return [1, 2, 3]

    def each(n: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(NewTaskSpec("work", {"n": n}))

    with dag:
        action(each, registry=Registry()).map(dag.nodes["items"])
    assert dag.run(database_url=url, runner="threads") == [[1], [2], [3]]
    assert len(jobs(url)) == 3


def test_a_node_waits_for_a_job_that_is_there_already(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    job = manager.start_job("nightly", [NewTaskSpec("held", {"n": 7})])
    threading.Timer(0.05, agents.gate.set).start()
    assert waiting(job_id="nightly").run(database_url=url) == {"got": [7]}
    assert waiting(job_id="nightly", name="again").run(database_url=url) == {"got": [7]}
    assert job.success


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_job_begins_at_every_level_of_durability(
    durability: str, manager: TaskManager, url: str
) -> None:
    assert waiting(spec(1)).run(database_url=url, durability=durability) == {"got": [1]}


def test_a_worker_of_processes_can_wait_for_a_job(manager: TaskManager, url: str) -> None:
    from tests.agents import bridge_bodies

    assert bridge_bodies.dag.run(database_url=url, runner="processes") == [5]


def test_waiting_holds_no_worker_and_other_nodes_go_on(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = DAG("beside")

    @dag.node
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(spec(1, "held"))

    @dag.node
    def other() -> int:
        return 1

    @dag.node
    def opens(other: int) -> int:
        agents.gate.set()
        return 2

    dag.connect("other", "opens")
    found = dag.run(database_url=url, runner="threads", max_workers=1)
    assert found == {"ask": [1], "opens": 2}


def test_a_run_inside_a_run_waits_for_its_own_job(manager: TaskManager, url: str) -> None:
    inner = waiting(spec(6), name="inner")
    with DAG("outer") as outer:
        inner()
    assert outer.run(database_url=url, runner="threads") == {"got": [6]}


def test_a_state_of_a_machine_waits_for_a_job_in_each_of_its_cycles(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    machine = FSM("loops", registry=Registry(), max_cycles=9)
    got: list[Any] = []

    @machine.state(initial=True, transitions=["look"])
    def ask(n: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(spec(n))

    @machine.state
    def look(found: list[int]) -> FSMReturn:
        got.append(found)
        return FSMReturn("ask", len(got)) if len(got) < 3 else FSMReturn(stop=True)

    machine.run({"n": 0}, database_url=url)
    assert got == [[0], [1], [2]]
    assert [each["status"] for each in jobs(url)] == ["completed"] * 3


def test_a_database_of_another_kind_is_told_of_the_end_too(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    manager._store.database.through_core = True
    with Store(url) as store:
        store.database.through_core = True
        dag = waiting(spec(1), spec(2))
        report = engine.run(dag.compile(), dag.registry, None, RunOptions(), None, store)
    assert report.outputs["after"] == {"got": {"1": [1], "2": [2]}}


def test_a_job_keeps_what_its_node_says_of_stalls_and_growth(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    given: dict[str, Any] = {
        "heartbeat_interval": 7,
        "stall_action": StallAction.TERMINATE_JOB,
        "max_tasks": 3,
    }
    assert waiting(spec(1), **given).run(database_url=url) == {"got": [1]}
    assert waiting(spec(1)).run(database_url=url) == {"got": [1]}
    plain, told = (job.settings for job in manager.jobs())
    assert told == JobSettings(3, 7.0, "terminate_job")
    assert plain == JobSettings(MAX_TASKS), "who looks decides on its stalls"


def test_a_job_that_a_node_has_started_is_ended_when_it_stalls(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    tasks = [spec(1, "nobody")]  # whom no worker has
    dag = waiting(*tasks, heartbeat_interval=0.05, stall_action="terminate_job")
    with pytest.raises(NodeExecutionError, match=r"stalled: nothing happened for 0\.05 s"):
        dag.run(database_url=url)


# --- failures -------------------------------------------------------------------------------------


@every_runner
def test_a_failed_job_fails_the_node_and_names_its_tasks(
    runner: str, manager: TaskManager, url: str, agents: Agents
) -> None:
    agents.broken.add(2)
    dag = waiting(spec(1), spec(2, task_id="two"), spec(3, dependencies=["two"]))
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(database_url=url, runner=runner)
    assert isinstance(caught.value.__cause__, JobFailed)
    text = str(caught.value)
    assert "ask/default' has failed: task" in text
    assert "/two' of agent 'work': ValueError: 2 is not to be had; task" in text
    assert "a task that it needs was not completed" in text


def test_a_cancelled_job_fails_the_node(manager: TaskManager, url: str, agents: Agents) -> None:
    dag = waiting(spec(1, "held"))
    handle = dag.start(database_url=url)
    until(lambda: agents.calls)
    manager.cancel_job(f"{handle.run_id}/ask/default", "enough of it")
    with pytest.raises(NodeExecutionError, match=r"was cancelled \(enough of it\)"):
        handle.result(timeout=LONG).raise_for_failure()


def test_a_cancelled_task_fails_the_node_that_waits_for_its_output(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held", task_id="asks"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    manager.cancel_task("r/ask/default/asks", reason="nobody knows")
    agents.gate.set()
    with pytest.raises(NodeExecutionError, match=r"asks' was cancelled: nobody knows"):
        handle.result(timeout=LONG).raise_for_failure()
    assert jobs(url) == [{"job_id": "r/ask/default", "status": "cancelled"}]
    assert go_on(dag, url) == {"got": [1]}, "a resume tries it again"


def test_a_cancelled_last_task_fails_the_node_although_others_completed(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, task_id="one"), spec(2, "held", task_id="two", dependencies=["one"]))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: 2 in agents.calls)
    manager.cancel_task("r/ask/default/two", reason="nobody knows")
    agents.gate.set()
    text = r"gives no result: task '.*two' of agent 'held' was cancelled \(nobody knows\)"
    with pytest.raises(NodeExecutionError, match=text):
        handle.result(timeout=LONG).raise_for_failure()
    assert jobs(url) == [{"job_id": "r/ask/default", "status": "completed"}]
    assert go_on(dag, url) == {"got": [2]}, "a resume tries it again"
    assert agents.calls.count(1) == 1


def test_of_several_results_a_cancelled_one_is_left_out(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, task_id="one"), spec(2, "held", task_id="two"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: 2 in agents.calls)
    manager.cancel_task("r/ask/default/two")
    agents.gate.set()
    assert handle.result(timeout=LONG).outputs == {"after": {"got": {"one": [1]}}}


def test_another_attempt_goes_on_with_the_same_job(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    agents.broken.add(2)
    dag = waiting(spec(1), spec(2, task_id="two"), spec(3, dependencies=["two"]), retry=AGAIN)

    def mend() -> None:
        until(lambda: agents.calls.count(2) == 1)
        agents.broken.clear()

    thread = threading.Thread(target=mend)
    thread.start()
    assert dag.run(database_url=url) == {"got": {"1": [1], "3": [3]}}
    thread.join()
    assert agents.calls.count(1) == 1, "what completed is not called again"
    assert len(jobs(url)) == 1


def test_a_resume_tries_what_failed_of_the_job_again(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    agents.broken.add(2)
    dag = waiting(spec(1), spec(2))
    with pytest.raises(NodeExecutionError):
        dag.run(database_url=url, run_id="r")
    agents.broken.clear()
    assert go_on(dag, url) == {"got": {"1": [1], "2": [2]}}
    assert agents.calls.count(1) == 1
    assert jobs(url) == [{"job_id": "r/ask/default", "status": "completed"}]


def test_a_resume_gives_what_failed_all_its_retries_again(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    @task_agent(registry=agents.registry, retry=AGAIN)
    def fickle(n: int) -> list[int]:
        agents.calls.append(n)
        if len(agents.calls) < 4:
            raise ValueError("not yet")
        return [n]

    dag = waiting(spec(1, "fickle"))
    with pytest.raises(NodeExecutionError):
        dag.run(database_url=url, run_id="r")
    assert agents.calls == [1, 1]
    assert go_on(dag, url) == {"got": [1]}
    assert agents.calls == [1, 1, 1, 1]


@pytest.mark.parametrize("cut", ["cancelled", "twice", "died"])
def test_a_resume_leaves_to_a_person_what_may_be_called_once_and_was_cut_off(
    manager: TaskManager, url: str, agents: Agents, cut: str
) -> None:
    dag = waiting(spec(1, "held", effects="at_most_once", task_id="held"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    if cut == "died":
        (name,) = manager._claims.owners()
        manager._claims.rescue(name)
    job = manager.job("r/ask/default")
    for _ in range(1 + (cut == "twice")):
        handle.cancel("enough")
        handle.result(timeout=LONG)
        handle = engine.start_resume("r", dag.registry, RunOptions(database_url=url))
        until(job.questions)
    agents.gate.set()
    (task,) = job.questions()
    assert "at most once: decide by hand" in task.error
    assert agents.calls == [1]
    manager.retry(task.id)
    assert handle.result(timeout=LONG).outputs == {"after": {"got": [1]}}
    assert agents.calls == [1, 1]


def test_a_result_that_does_not_fit_fails_the_node(manager: TaskManager, url: str) -> None:
    dag = DAG("fits")

    @dag.node(output_schema={"type": "string"})
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(spec(1))

    with pytest.raises(NodeExecutionError, match="string"):
        dag.run(database_url=url)


@pytest.mark.parametrize("place", [None, "sqlite::memory:"])
def test_a_run_in_memory_cannot_wait_for_a_job(place: str | None) -> None:
    with pytest.raises(NodeExecutionError, match="give the run one that is not in memory"):
        waiting(spec(1)).run(database_url=place)


def test_a_job_that_is_not_there_fails_the_node(url: str) -> None:
    with pytest.raises(NodeExecutionError, match=r"is not in .*Run it with the database_url= that"):
        waiting(job_id="nightly").run(database_url=url)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "give one of the two"),
        (([],), {}, "at least one task"),
        (("work",), {}, "NewTaskSpec or a list"),
        ((["work"],), {}, "is a NewTaskSpec"),
        ((NewTaskSpec("a"), "j"), {}, "give one of the two"),
        ((None, 7), {}, "job_id is a text"),
        ((None, "j"), {"timeout": 3}, "for a job that the node starts"),
        ((None, "j"), {"max_tasks": 3}, "for a job that the node starts"),
        ((NewTaskSpec("a"),), {"max_tasks": 0}, "max_tasks"),
        ((NewTaskSpec("a"),), {"heartbeat_interval": 0}, "heartbeat_interval"),
        ((NewTaskSpec("a"),), {"stall_action": "terminate"}, "stall_action"),
        ((NewTaskSpec("a"),), {"timeout": 0}, "timeout"),
        ((NewTaskSpec("a"),), {"timeout": "soon"}, "timeout"),
        ((NewTaskSpec("a"),), {"allowed_agents": "a"}, "list of names"),
        ((NewTaskSpec("a"),), {"allowed_agents": ["b"]}, "not in allowed_agents: b"),
        ((NewTaskSpec("a"),), {"config": {"x": object()}}, "values of JSON"),
        ((NewTaskSpec("a"),), {"config": 3}, "is a mapping"),
        (([NewTaskSpec("a", task_id="x"), NewTaskSpec("a", task_id="x")],), {}, "two tasks"),
        (([NewTaskSpec("a", task_id="one"), NewTaskSpec("a", dependencies=["oen"])],), {}, "'one'"),
        ((NewTaskSpec("a", parent="x"),), {}, "none of them"),
    ],
)
def test_what_cannot_be_waited_for_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        JobRequest(*arguments, **options)


def test_tasks_that_wait_for_each_other_are_refused() -> None:
    tasks = [
        NewTaskSpec("a", task_id="x", dependencies=["y"]),
        NewTaskSpec("a", task_id="y", dependencies=["x"]),
    ]
    with pytest.raises(CycleError, match=r"x -> y -> x|y -> x -> y"):
        JobRequest(tasks)


# --- stopping -------------------------------------------------------------------------------------


def test_the_time_limit_of_a_run_counts_while_it_waits(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))
    handle = dag.start(database_url=url, timeout=0.3)
    assert handle.result(timeout=LONG).status == "timed_out"
    assert [each["status"] for each in jobs(url)] == ["cancelled"]


def test_a_cancelled_run_cancels_its_job_and_a_resume_tries_it_again(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    handle.cancel("enough")
    with pytest.raises(RunCancelled):
        handle.result(timeout=LONG).raise_for_failure()
    assert [each["status"] for each in jobs(url)] == ["cancelled"]
    agents.gate.set()
    assert go_on(dag, url) == {"got": [1]}


def test_a_cancelled_branch_cancels_its_job(manager: TaskManager, url: str, agents: Agents) -> None:
    handle = waiting(spec(1, "held")).start(database_url=url)
    until(lambda: agents.calls)
    handle.send(CancelBranch("ask", "not needed"))
    report = handle.result(timeout=LONG)
    assert report.states()["ask"] == "cancelled"
    assert [each["status"] for each in jobs(url)] == ["cancelled"]


def test_a_node_that_fails_beside_it_cancels_the_job(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))

    @dag.node
    def beside() -> None:
        until(lambda: agents.calls)
        raise ValueError("no")

    with pytest.raises(NodeExecutionError, match="beside"):
        dag.run(database_url=url, runner="threads")
    assert [each["status"] for each in jobs(url)] == ["cancelled"]


def test_a_cancelled_run_leaves_a_job_alone_that_is_not_its_own(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    job = manager.start_job("nightly", [spec(1, "held")])
    handle = waiting(job_id="nightly").start(database_url=url)
    until(lambda: handle.report.states().get("ask") == "waiting")
    handle.cancel("enough")
    handle.result(timeout=LONG)
    assert job.status is JobStatus.RUNNING
    agents.gate.set()
    assert job.result(LONG) is JobStatus.COMPLETED


def test_an_interrupt_leaves_the_job_to_the_resume(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))

    def interrupt() -> None:
        until(lambda: agents.calls)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        dag.run(database_url=url, run_id="r")
    thread.join()
    assert [each["status"] for each in jobs(url)] == ["running"]
    agents.gate.set()
    assert go_on(dag, url) == {"got": [1]}
    assert agents.calls == [1]


def test_a_paused_run_hears_of_the_end_when_it_is_resumed(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    handle.pause("later")
    assert handle.result(timeout=LONG).status == "paused"
    agents.gate.set()
    assert manager.job("r/ask/default").result(LONG) is JobStatus.COMPLETED
    with Store(url) as store:
        assert RunControl(store, "r").questions() == []
    assert go_on(dag, url) == {"got": [1]}
    assert agents.calls == [1]


def test_a_recorded_run_is_shown_waiting_for_its_job(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    handle = waiting(spec(1, "held")).start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    with Store(url) as store:
        report = stored_report(store.load_run("r"), url, store)
        assert report.states()["ask"] == "waiting"
        assert report.node_reports["ask"].reason == "waits for job 'r/ask/default'"
        page = report.to_html()
        assert "waits for job 'r/ask/default'" in page
        assert "This answers it" not in page
    agents.gate.set()
    assert handle.result(timeout=LONG).success


def test_a_person_answers_beside_the_end_of_a_job(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1, "held"))

    @dag.node
    def person(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("Ship it?", bool)

    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls and handle.questions())
    handle.pause("later")
    assert handle.result(timeout=LONG).status == "paused"
    agents.gate.set()
    assert manager.job("r/ask/default").result(LONG) is JobStatus.COMPLETED
    with Store(url) as store:
        control = RunControl(store, "r")
        assert [each.node_id for each in control.questions()] == ["person"]
        assert control.answer("person", True) is False, "it stands until the resume"
        assert control.questions() == []
    report = engine.resume("r", dag.registry, RunOptions(database_url=url))
    assert report.outputs == {"person": True, "after": {"got": [1]}}


def test_a_run_pauses_for_a_person_once_its_job_has_ended(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    dag = waiting(spec(1))

    @dag.node
    def person(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("Ship it?", bool)

    with pytest.raises(RunPaused, match="Ship it"):
        dag.run(database_url=url, run_id="r")
    assert dag.report is not None
    assert dag.report.outputs["after"] == {"got": [1]}


def test_a_run_that_nobody_executes_is_cancelled_with_its_job(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    handle = waiting(spec(1, "held")).start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    handle.pause("later")
    handle.result(timeout=LONG)
    with Store(url) as store:
        RunControl(store, "r").cancel("enough")
    assert [each["status"] for each in jobs(url)] == ["cancelled"]


def test_a_person_cannot_answer_for_a_job(manager: TaskManager, url: str, agents: Agents) -> None:
    handle = waiting(spec(1, "held")).start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    assert handle.questions() == []
    with pytest.raises(InvalidState, match="does not wait for a person"):
        handle.answer("ask", 3)
    with Store(url) as store, pytest.raises(InvalidState, match="does not wait for a person"):
        RunControl(store, "r").answer("ask", 3)
    assert handle.report.node_reports["ask"].reason == "waits for job 'r/ask/default'"
    agents.gate.set()
    assert handle.result(timeout=LONG).outputs["after"] == {"got": [1]}


@pytest.mark.parametrize("job_id", ["r/ask/default", "another"])
def test_who_says_that_a_job_has_ended_is_not_believed(
    job_id: str, manager: TaskManager, url: str, agents: Agents
) -> None:
    handle = waiting(spec(1, "held")).start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    with Store(url) as store:
        body = f'{{"do": "job_ended", "node_id": "ask", "job_id": "{job_id}"}}'
        number = store.send("r", body, None)
        until(lambda: store.outcome_of("r", number))
    assert handle.report.states()["ask"] == "waiting"
    agents.gate.set()
    assert handle.result(timeout=LONG).outputs["after"] == {"got": [1]}


def test_a_job_of_which_tasks_are_tried_again_is_waited_for_anew(
    manager: TaskManager, url: str, agents: Agents
) -> None:
    agents.broken.add(1)
    dag = waiting(spec(1, "held", task_id="one"))
    handle = dag.start(database_url=url, run_id="r")
    until(lambda: agents.calls)
    handle.pause("later")
    assert handle.result(timeout=LONG).status == "paused"
    agents.gate.set()
    assert manager.job("r/ask/default").result(LONG) is JobStatus.FAILED
    agents.broken.clear()
    agents.gate.clear()
    manager.update_task_status("r/ask/default/one", TaskStatus.READY)
    again = engine.start_resume("r", dag.registry, RunOptions(database_url=url))
    until(lambda: len(agents.calls) == 2)
    with Store(url) as store:
        until(lambda: list(store.query("SELECT * FROM job_waits")))
    agents.gate.set()
    assert again.result(timeout=LONG).outputs["after"] == {"got": [1]}


def test_nobody_waits_for_a_job_that_was_delivered(manager: TaskManager, url: str) -> None:
    waiting(spec(1)).run(database_url=url)
    with Store(url) as store:
        assert list(store.query("SELECT * FROM job_waits")) == []
        (request,) = store.query("SELECT sender FROM inbox")
    assert request["sender"].startswith("job ")


def test_the_end_is_noticed_at_once_in_one_process(manager: TaskManager, url: str) -> None:
    dag = waiting(spec(1))
    dag.run(database_url=url)
    fastest = LONG
    for _ in range(10):
        begun = time.perf_counter()
        dag.run(database_url=url)
        fastest = min(fastest, time.perf_counter() - begun)
    assert fastest < 0.1


# --- death ----------------------------------------------------------------------------------------

_SCRIPT = """
import sys
from tests.agents.bridge_bodies import resume, work
{"run": resume, "work": work}[sys.argv[1]](*sys.argv[2:])
"""


def _process(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, *arguments], stdout=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.row("M21")
def test_killed_runs_and_workers_lose_nothing_and_start_no_second_job(
    tmp_path: Path, rng: random.Random
) -> None:
    for k in range(count(60, least=3)):
        path = str(tmp_path / f"kill{k}.db")
        alive = {"run": _process("run", path), "work": _process("work", path)}
        try:
            for _ in range(rng.choice([1, 2, 3])):
                time.sleep(rng.uniform(0.2, 1.2))
                for name in rng.choice([["run"], ["work"], ["run", "work"]]):
                    alive[name].kill()
                    alive[name].wait()
                    alive[name].communicate()
                    alive[name] = _process(name, path)
            out, _ = alive["run"].communicate(timeout=LONG)
        finally:
            for each in alive.values():
                each.kill()
                each.wait()
                if each.stdout is not None:
                    each.stdout.close()
        assert out.decode().strip() == "[0, 1, 4, 9, 16, 25, 36, 49]", f"seed of round {k}"
        with Store(f"sqlite:{path}") as store:
            assert list(store.query("SELECT status FROM jobs")) == [{"status": "completed"}]
            (run,) = store.query("SELECT status FROM flow_runs")
            assert run == {"status": "completed"}
            (row,) = store.query(
                "SELECT count(*) AS n FROM node_runs WHERE node_id = 'ask' AND state = 'completed'"
            )
            assert row["n"] == 1
            assert list(store.query("SELECT * FROM job_waits")) == []
