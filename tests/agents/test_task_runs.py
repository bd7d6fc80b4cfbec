"""Tasks that run a DAG: one run a task, gone on with when the task is called again."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, NodeSpec, Registry, action, engine, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.runs import TaskRun
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import ConfigurationError, InputValidationError, InvalidState
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, Task, TaskStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Ending
from dagger_dsl.store.task_questions import Question
from dagger_dsl.store.task_steps import SILENT
from tests.scale import count

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

both = pytest.mark.parametrize("is_async", [False, True])


class Flow:
    """A DAG and an agent that runs it.

    Attributes:
        calls: Names of the nodes that were called.
        fails: Whether the second node does.
        gate: What the second node waits for, where it is to.
        handed: What came back into the agent.
    """

    def __init__(self, is_async: bool, *, gated: bool = False, **options: Any) -> None:
        self.registry = Registry()
        self.calls: list[str] = []
        self.fails = False
        self.gate = threading.Event()
        if not gated:
            self.gate.set()
        self.handed: list[Any] = []
        self.dag = dag = DAG("flow", registry=Registry())

        @dag.node
        def first(n: int) -> int:
            self.calls.append("first")
            return n + 1

        @dag.node
        def second(first: int, ctx: NodeCtx) -> int:
            self.calls.append("second")
            while not self.gate.wait(0.01):
                if ctx.cancelled:  # a value would count: the body had come to its end
                    raise RuntimeError("told to end")
            if self.fails:
                raise ValueError("not today")
            return first * 10

        dag.connect("first", "second")
        retry = options.pop("retry", None)

        def sync_agent(ctx: TaskContext, n: int) -> Any:
            self.handed.append(ctx.run_dag(self.dag, {"n": n}, **options))
            return self.handed[-1]

        async def async_agent(ctx: TaskContext, n: int) -> Any:
            self.handed.append(await ctx.run_dag_async(self.dag, {"n": n}, **options))
            return self.handed[-1]

        register = task_agent(name="flow", registry=self.registry, retry=retry)
        register(async_agent if is_async else sync_agent)

    def work(self, manager: TaskManager, n: int = 1) -> Task:
        """Have the agent called, and return its task when the job has ended."""
        manager.start_job("job", [NewTaskSpec("flow", {"n": n}, task_id="t")]).result(LONG)
        return found(manager)


def found(manager: TaskManager) -> Task:
    task = manager.get_task("t")
    assert task is not None
    return task


def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'tasks.db'}"


def managed(flow: Flow, url: str | None) -> TaskManager:
    return TaskManager(registry=flow.registry, database_url=url, concurrency=1)


def runs(url: str) -> list[dict[str, Any]]:
    with Store(url) as store:
        return list(store.query("SELECT run_id, status FROM flow_runs ORDER BY created_at"))


@both
@pytest.mark.parametrize("runner", [None, "sequential", "threads", "asyncio", "processes"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_task_runs_a_dag_where_it_is_recorded(
    is_async: bool, runner: str | None, place: str, url: str
) -> None:
    if runner == "processes":
        pytest.importorskip("cloudpickle")
    options: dict[str, Any] = {} if runner is None else {"runner": runner}
    flow = Flow(is_async, **options)
    if runner == "processes":
        flow.dag = plain()
    with managed(flow, None if place == "memory" else url) as manager:
        task = flow.work(manager)
        assert (task.status, task.output) == (TaskStatus.COMPLETED, 20)
        if place == "file":
            assert runs(url) == [{"run_id": "job:t:flow", "status": "completed"}]


def plain() -> DAG:
    """Return a DAG whose bodies can go to other processes."""
    from tests.agents.bridge_bodies import times

    return times


@both
def test_a_task_that_is_called_again_goes_on_with_its_run(is_async: bool, url: str) -> None:
    flow = Flow(is_async, retry=RetryPolicy(max_attempts=2, base_delay=0.2))
    flow.fails = True
    with managed(flow, url) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")])
        until(lambda: found(manager).status is TaskStatus.PENDING)
        flow.fails = False
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == 20
    assert flow.calls == ["first", "second", "second"]
    assert len(runs(url)) == 1


@both
def test_a_failed_run_fails_its_task_with_the_name_of_the_node(is_async: bool, url: str) -> None:
    flow = Flow(is_async)
    flow.fails = True
    with managed(flow, url) as manager:
        task = flow.work(manager)
    assert task.status is TaskStatus.FAILED
    assert "node 'second' failed after 1 attempt: ValueError: not today" in task.error


@both
def test_a_cancelled_task_cancels_its_run(is_async: bool, url: str) -> None:
    flow = Flow(is_async, gated=True)
    with managed(flow, url) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")])
        until(lambda: "second" in flow.calls)
        job.cancel()
        until(lambda: runs(url)[0]["status"] == "cancelled")
    assert flow.handed == []


@both
def test_a_task_that_another_process_cancels_cancels_its_run(is_async: bool, url: str) -> None:
    flow = Flow(is_async, gated=True)
    with managed(flow, url) as manager, managed(flow, url) as other:
        manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")]).to_dot()
        until(lambda: "second" in flow.calls)
        other.cancel_job("job")
        until(lambda: runs(url)[0]["status"] == "cancelled")
    assert flow.handed == []


@both
def test_a_worker_that_stops_gives_its_run_to_the_next_one(is_async: bool, url: str) -> None:
    flow = Flow(is_async, gated=True)
    manager = managed(flow, url)
    manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")]).to_dot()
    until(lambda: "second" in flow.calls)
    manager.close(grace=0.05)
    flow.gate.set()
    with managed(flow, url) as after:
        assert after.resume_job("job").result(LONG) is JobStatus.COMPLETED
        assert found(after).output == 20
    assert flow.calls.count("first") == 1
    assert len(runs(url)) == 1


@both
def test_a_run_that_waits_for_a_person_blocks_its_task(is_async: bool, url: str) -> None:
    registry, dag = Registry(), DAG("asks", registry=Registry())

    @dag.node
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("Ship it?", bool)

    def sync_agent(ctx: TaskContext) -> Any:
        return ctx.run_dag(dag)

    async def async_agent(ctx: TaskContext) -> Any:
        return await ctx.run_dag_async(dag)

    task_agent(name="flow", registry=registry)(async_agent if is_async else sync_agent)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        assert (
            found(manager).error == "run job:t:asks waits: node 'ask' waits for a person: Ship it?"
        )
        with Store(url) as store:
            RunControl(store, "job:t:asks").answer("ask", True)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output is True


def asking(*prompts: str) -> Registry:
    """Return a registry with an agent that runs a DAG whose nodes ask."""
    registry, dag = Registry(), DAG("asks", registry=Registry())

    @action(registry=dag.registry)
    def more() -> str:
        return "more"

    for number, prompt in enumerate(prompts):

        def ask(ctx: NodeCtx, prompt: str = prompt) -> Any:
            return ctx.wait_for_human(prompt, {"type": "integer"})

        dag.node(name=f"n{number}")(ask)
    task_agent(name="flow", registry=registry)(lambda ctx: ctx.run_dag(dag))
    return registry


@pytest.mark.parametrize("place", ["memory", "file"])
def test_an_answer_to_a_task_whose_run_asks_goes_to_the_run(place: str, url: str) -> None:
    at = None if place == "memory" else url
    with TaskManager(registry=asking("How many?"), database_url=at, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with pytest.raises(InputValidationError, match="asks 'How many\\?'"):
            manager.answer("t", "many")
        with pytest.raises(ConfigurationError, match="by is a text"):
            manager.answer("t", 7, by=7)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(InvalidState, match="does not ask 'Why\\?' now: node 'n0' asks"):
            manager.answer("t", 7, question="Why?")
        manager.answer("t", 7, by="ann", question="How many?")
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == 7
        assert "answered by ann" in [each.cause for each in manager.history("t")]
        assert manager.answers("t") == [], "the node was answered"


def test_of_several_questions_of_a_run_the_answer_names_one(url: str) -> None:
    registry = asking("How many?", "Which one?")
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with pytest.raises(InvalidState, match="asks more than one thing: node 'n0' asks 'How"):
            manager.answer("t", 7)
        manager.answer("t", 8, question="Which one?")
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        manager.answer("t", 7)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == {"n0": 7, "n1": 8}


def test_a_task_goes_on_when_its_run_is_answered_elsewhere(url: str) -> None:
    with TaskManager(registry=asking("How many?"), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with Store(url) as store:
            RunControl(store, "job:t:asks").answer("n0", 7, by="ann")
        with pytest.raises(InvalidState):  # it does not wait any more
            manager.answer("t", 8)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == 7
        assert "answered by ann" in [each.cause for each in manager.history("t")]


def test_a_task_goes_on_when_somebody_is_quicker_than_its_parking(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run waits already, and is answered before the task is recorded as waiting for that."""
    taken, calls = TaskRun._taken, list[int]()

    def answered_first(run: TaskRun, report: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            with Store(url) as store:
                RunControl(store, "job:t:asks").answer("n0", 7)
        return taken(run, report)

    monkeypatch.setattr(TaskRun, "_taken", answered_first)
    with TaskManager(registry=asking("How many?"), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == 7
        assert TaskStatus.BLOCKED not in [each.status for each in manager.history("t")]


def nested() -> Registry:
    """Return a registry with an agent that runs a DAG in a DAG, whose nodes ask."""
    registry = Registry()
    inner, outer = DAG("inner", registry=Registry()), DAG("outer", registry=Registry())

    @inner.node
    def deep(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("How deep?", {"type": "integer"})

    @outer.node
    def wide(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("How wide?", {"type": "integer"})

    outer.add(inner, id="inside")
    task_agent(name="flow", registry=registry)(lambda ctx: ctx.run_dag(outer))
    return registry


@pytest.mark.parametrize("by_task", [False, True])
def test_what_a_run_inside_of_a_tasks_run_asks_is_answered(by_task: bool, url: str) -> None:
    with TaskManager(registry=nested(), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with pytest.raises(InvalidState, match=r"more than one thing: .*wide.*deep"):
            manager.answer("t", 7)
        with Store(url) as store:
            _, control = RunControl(store, "job:t:outer").paused()
            (question,) = control.questions()
            if by_task:
                manager.answer("t", 3, question="How deep?")
            else:
                control.answer(question.node_id, 3)
            assert control.questions() == []
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        manager.answer("t", 4)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == {"wide": 4, "inside": 3}


def test_a_waiting_run_can_be_changed_before_it_goes_on(url: str) -> None:
    with TaskManager(registry=asking("How many?"), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with Store(url) as store:
            control = RunControl(store, "job:t:asks")
            control.add_node(NodeSpec("more", id="more"))
            assert found(manager).status is TaskStatus.BLOCKED
            control.answer("n0", 7)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).attempts == 2
        assert found(manager).output == {"n0": 7, "more": "more"}


def test_a_task_whose_run_is_cancelled_by_hand_fails(url: str) -> None:
    with TaskManager(registry=asking("How many?"), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        with Store(url) as store:
            RunControl(store, "job:t:asks").cancel("not any more")
        assert job.result(LONG) is JobStatus.FAILED
        assert found(manager).error == "its run job:t:asks is cancelled"
        assert found(manager).attempts == 1


def test_a_task_goes_on_when_somebody_else_has_ended_its_run(url: str) -> None:
    registry, dag = Registry(), DAG("waits", registry=Registry())
    ready: list[int] = []

    @dag.node(on_failure="pause")
    def step() -> int:
        if not ready:
            raise ValueError("not yet")
        return 7

    task_agent(name="flow", registry=registry)(lambda ctx: ctx.run_dag(dag))
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        until(lambda: found(manager).status is TaskStatus.BLOCKED)
        ready.append(1)
        report = engine.resume("job:t:waits", dag.registry, RunOptions(database_url=url))
        assert report.status == "completed"
        assert job.result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == 7


def test_what_may_be_called_once_waits_for_a_person_whoever_ends_its_run(url: str) -> None:
    registry, dag = asking("How many?"), DAG("asks", registry=Registry())
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t", effects="at_most_once")])
        store, claims = manager._store, manager._claims
        store.create_run(run_id="r", graph=dag.compile(), inputs={}).finish("paused")
        (claim,) = claims.exchange("w", agents=["flow"], wanted=1)[0]
        asked = Question("run r waits", run_id="r")
        parked = Ending(claim, TaskStatus.BLOCKED, error="run r waits", asks=True, question=asked)
        assert claims.exchange("w", [parked])[1] == []
        manager.retry("t")
        claims.exchange("w", agents=["flow"], wanted=1)
        claims.rescue("w")  # in the middle of what the run goes on with
        assert job.tasks[0].status is TaskStatus.BLOCKED
        _, journal = store.claim_run("r")
        journal.finish("completed")
        assert job.tasks[0].status is TaskStatus.BLOCKED
        assert "at most once: decide by hand" in job.tasks[0].error


def test_what_is_asked_of_other_runs_leaves_a_task_waiting(url: str) -> None:
    with TaskManager(registry=asking("How many?"), database_url=url, concurrency=2) as manager:
        specs = [NewTaskSpec("flow", task_id=each) for each in "tu"]
        job = manager.start_job("job", specs)
        until(lambda: all(each.status is TaskStatus.BLOCKED for each in job.tasks))
        with Store(url) as store:
            RunControl(store, "job:u:asks").answer("n0", 7)
        until(lambda: any(each.status is TaskStatus.COMPLETED for each in job.tasks))
        assert found(manager).status is TaskStatus.BLOCKED
        assert found(manager).attempts == 1
        manager.answer("t", 8)
        assert job.result(LONG) is JobStatus.COMPLETED


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_begins_while_its_task_is_cancelled_is_cancelled(
    late: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(True, gated=True)
    begins, goes_on, begin = threading.Event(), threading.Event(), TaskRun.begin

    def slowly(run: TaskRun) -> Any:
        begins.set()
        assert goes_on.wait(LONG)
        return begin(run)

    monkeypatch.setattr(TaskRun, "begin", slowly)
    with managed(flow, url) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")])
        assert begins.wait(LONG)
        job.cancel()
        if late:  # than the event loop has heard of it
            until(lambda: manager._crew is not None and not manager._crew._awaited)
        goes_on.set()
        until(lambda: [each["status"] for each in runs(url)] == ["cancelled"])
    assert flow.handed == []


def test_other_inputs_and_other_keys_make_other_runs(url: str) -> None:
    registry, dag = Registry(), DAG("adds", registry=Registry())
    calls: list[int] = []

    @dag.node
    def add(n: int) -> int:
        calls.append(n)
        return n + 1

    @task_agent(registry=registry)
    def several(ctx: TaskContext) -> Any:
        return [
            ctx.run_dag(dag, {"n": 1}),
            ctx.run_dag(dag, {"n": 1}),
            ctx.run_dag(dag, {"n": 2}),
            ctx.run_dag(dag, {"n": 1}, key="again"),
        ]

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        manager.start_job("job", [NewTaskSpec("several", task_id="t")]).result(LONG)
        assert found(manager).output == [2, 2, 3, 2]
    assert calls == [1, 2, 1]
    names = ["job:t:adds", "job:t:adds~2", "job:t:adds:again"]
    assert [each["run_id"] for each in runs(url)] == names


def one_node(body: Callable[..., Any], name: str = "step") -> DAG:
    dag = DAG(name, registry=Registry())
    dag.node(body)
    return dag


def test_another_graph_of_the_same_name_makes_another_run(url: str) -> None:
    def pay(n: int) -> str:
        return f"paid {n}"

    def refund(n: int) -> str:
        return f"refunded {n}"

    registry = Registry()

    @task_agent(registry=registry)
    def both_ways(ctx: TaskContext) -> Any:
        return [ctx.run_dag(one_node(each), {"n": 5}) for each in (pay, refund, pay)]

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        manager.start_job("job", [NewTaskSpec("both_ways", task_id="t")]).result(LONG)
        assert found(manager).output == ["paid 5", "refunded 5", "paid 5"]
    assert [each["run_id"] for each in runs(url)] == ["job:t:step", "job:t:step~2"]


@pytest.mark.parametrize("is_mended", [False, True], ids=["the body", "the graph"])
def test_a_mended_program_is_what_runs_when_the_task_is_tried_again(
    is_mended: bool, url: str
) -> None:
    called: list[str] = []

    def program(is_new: bool) -> Registry:
        registry, dag = Registry(), DAG("flow", registry=Registry())

        def first() -> int:
            called.append("first")
            return 1

        def second(first: int) -> int:
            called.append("second")
            if not is_new:
                raise ValueError("not today")
            return first + 1

        def other(first: int) -> int:
            called.append("other")
            return first + 10

        dag.node(first)
        last = other if is_new and is_mended else second
        dag.node(last)
        dag.connect("first", last.__name__)
        task_agent(name="flow", registry=registry)(lambda ctx: ctx.run_dag(dag))
        return registry

    with TaskManager(registry=program(False), database_url=url, concurrency=1) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", task_id="t")])
        assert job.result(LONG) is JobStatus.FAILED
    with TaskManager(registry=program(True), database_url=url, concurrency=1) as manager:
        manager.retry("t")
        assert manager.resume_job("job").result(LONG) is JobStatus.COMPLETED
        assert found(manager).output == (11 if is_mended else 2)
    again = ["first", "other"] if is_mended else ["second"]
    assert called == ["first", "second", *again], "what actions do is no part of a graph"


def test_a_task_that_is_cancelled_and_tried_again_at_once_was_not_silent(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Flow(False, gated=True)
    with managed(flow, url) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")])
        until(lambda: "second" in flow.calls)
        crew = manager._crew
        assert crew is not None
        manager._rows.set_status("t", TaskStatus.CANCELLED)  # its call has not heard of it yet
        manager._rows.retry("t", "again")
        crew._beat()
        assert "no sign of life" not in caplog.text
        flow.gate.set()
        assert job.result(LONG) is JobStatus.COMPLETED


def test_who_was_silent_for_too_long_is_told_what_others_took(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Flow(False, gated=True)
    with managed(flow, url) as manager:
        job = manager.start_job("job", [NewTaskSpec("flow", {"n": 1}, task_id="t")])
        until(lambda: "second" in flow.calls)
        crew = manager._crew
        assert crew is not None
        assert manager._claims.rescue(crew.name, cause=SILENT) == ["t"]
        crew._beat()
        assert "no sign of life for 60 s; what comes of 1 calls is refused" in caplog.text
        flow.gate.set()
        assert job.result(LONG) is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("dag", "options", "message"),
    [
        ("flow", {}, "a task runs a DAG or a state machine, not 'flow'"),
        (None, {"database_url": "sqlite:x.db"}, "database_url= is settled by the task"),
        (None, {"run_id": "mine"}, "run_id= is settled by the task"),
        (None, {"key": ""}, "key is a text that is not empty"),
        (None, {"key": 3}, "key is a text that is not empty"),
        (None, {"runner": "gevent"}, "gevent"),
        (None, {"colour": "red"}, "colour"),
        (None, {"durability": "often"}, "durability must be"),
    ],
)
@both
def test_what_cannot_be_run_fails_the_task(
    dag: Any, options: dict[str, Any], message: str, is_async: bool
) -> None:
    flow = Flow(is_async, **options)
    flow.dag = dag or flow.dag
    with managed(flow, None) as manager:
        task = flow.work(manager)
    assert task.status is TaskStatus.FAILED
    assert message in task.error
    assert flow.calls == []


def test_an_input_that_is_missing_fails_the_task() -> None:
    registry, dag = Registry(), DAG("adds", registry=Registry())

    @dag.node
    def add(n: int) -> int:
        return n + 1

    @task_agent(registry=registry)
    def flow(ctx: TaskContext) -> Any:
        return ctx.run_dag(dag)

    with TaskManager(registry=registry, concurrency=1) as manager:
        manager.start_job("job", [NewTaskSpec("flow", task_id="t")]).result(LONG)
        assert "needs a value for 'n'" in found(manager).error


def test_a_node_waits_for_a_job_whose_task_runs_a_dag(url: str) -> None:
    flow = Flow(False)
    outer = DAG("outer", registry=Registry())

    @outer.node
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_job(NewTaskSpec("flow", {"n": 4}))

    with managed(flow, url) as manager:
        manager.work()

        async def in_a_loop() -> Any:
            return await outer.run_async(database_url=url)

        assert asyncio.run(in_a_loop()) == 50


_SCRIPT = "import sys; from tests.agents.bridge_bodies import steps; steps(*sys.argv[1:])"


@pytest.mark.slow
def test_a_killed_worker_loses_no_node_of_its_runs(tmp_path: Path, rng: random.Random) -> None:
    for k in range(count(40, least=3)):
        path, log = tmp_path / f"kill{k}.db", tmp_path / f"kill{k}.log"
        kills = 0
        while True:
            process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(path), str(log)])
            try:
                process.wait(timeout=rng.uniform(0.4, 1.5) if kills < 2 else LONG)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        assert process.returncode == 0
        url = f"sqlite:{path}"
        assert {each["status"] for each in runs(url)} == {"completed"}
        assert len(runs(url)) == 3
        with Store(url) as store:
            rows = store.query(
                "SELECT run_id, node_id, count(*) AS n FROM node_runs WHERE state = 'completed' "
                "GROUP BY run_id, node_id"
            )
            assert sorted({(each["node_id"], each["n"]) for each in rows}) == [
                (f"step{each}", 1) for each in range(6)
            ]
        # One death repeats at most the body that was running in each of the tasks.
        assert len(log.read_text().split()) <= 18 + 3 * kills


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("dagger-dsl-job:")])
