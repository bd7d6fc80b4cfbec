"""``jobs``, ``job``, ``task``: what people see of jobs, and what they decide."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, Registry, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import DecodingError
from dagger_dsl.model.tasks import NewTaskSpec, TaskStatus
from tests.cli.conftest import Cli

#: What would command a terminal, and how it is shown.
HOSTILE = "\x1b[31mred\x1b]0;title\x07"


@pytest.fixture
def job(folder: Path) -> Iterator[TaskManager]:
    """A job with a task in each of many states; nothing runs any more."""
    registry = Registry()

    @task_agent(registry=registry)
    def work(n: int) -> int:
        return 2 * n

    @task_agent(registry=registry)
    def fail() -> None:
        raise ValueError(f"no {HOSTILE}")

    @task_agent(registry=registry)
    def ask(ctx: TaskContext) -> None:
        ctx.block(reason="which one?")

    url = "sqlite:dagger_dsl.db"
    specs = [
        NewTaskSpec(
            "work", {"n": 4}, task_id="whole", description="Find out", task_type="objective"
        ),
        NewTaskSpec("work", {"n": 5}, task_id="part", parent="whole", description=HOSTILE),
        NewTaskSpec("fail", task_id="bad", parent="whole"),
        NewTaskSpec("work", {"n": 6}, task_id="after", dependencies=["bad"], parent="bad"),
        NewTaskSpec("ask", task_id="ask"),
        NewTaskSpec("work", {"n": 7}, task_id="later", dependencies=["ask"]),
    ]
    with TaskManager(registry=registry, database_url=url) as manager:
        made = manager.start_job("j", specs)
        deadline = time.monotonic() + 60
        while {TaskStatus.READY, TaskStatus.RUNNING} & {each.status for each in made.tasks}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as other:
        yield other


def status_of(manager: TaskManager, task_id: str) -> str:
    found = manager.get_task(task_id)
    assert found is not None
    return str(found.status)


def test_jobs_are_listed(cli: Cli, job: TaskManager) -> None:
    done = cli("jobs")
    assert done.code == 0, done.err
    heads, line = done.out.splitlines()[0].split(), done.out.splitlines()[-1].split()
    assert heads == ["job", "status", "unfinished", "failed", "created", "note"]
    assert line[:4] == ["j", "running", "2", "2"]
    (plain,) = json.loads(cli("jobs", "--status", "running", "--json").out)
    assert (plain["job_id"], plain["unfinished"], plain["failed"]) == ("j", 2, 2)
    assert cli("jobs", "--status", "completed").out == "no jobs\n"


def test_a_job_is_shown_as_a_tree_of_its_tasks(cli: Cli, job: TaskManager) -> None:
    done = cli("job", "show", "j")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "job j running: 6 tasks, 2 failed, 1 blocked, 1 pending, 2 completed"
    assert lines[1].startswith("  completed Find out (work, whole, ")
    assert lines[2].startswith("    completed red (work, part, ")
    assert lines[3].startswith("    failed bad (fail, ")
    assert lines[4] == "        ValueError: no red"
    assert lines[5] == "      failed after (work, after bad)"
    assert lines[6] == "          failed with bad"
    assert lines[7] == "  blocked ask (ask)"
    assert lines[8:10] == ["      which one?", "      waits for a person"]
    assert lines[10:12] == ["  pending later (work)", "      waits for ask"]
    assert "task ask waits for a person (question 1); let it go on, or not, by:" in lines
    assert "  dagger-dsl task answer ask VALUE --question 1" in lines
    assert "  dagger-dsl task retry ask" in lines
    assert "\x1b" not in done.out


def test_a_job_is_shown_to_programs(cli: Cli, job: TaskManager) -> None:
    plain = json.loads(cli("job", "show", "j", "--json").out)
    assert plain["status"] == "running"
    found = {each["task_id"]: each for each in plain["tasks"]}
    assert (found["part"]["output"], found["part"]["parent"]) == (10, "whole")
    assert found["later"]["dependencies"] == ["ask"]


def test_a_task_is_shown_with_its_history(cli: Cli, job: TaskManager) -> None:
    done = cli("task", "show", "part")
    assert done.code == 0, done.err
    assert "task part of job j: completed, agent work, 1 call" in done.out
    assert "input = {'n': 5}" in done.out
    assert "output = 10" in done.out
    assert "\x1b" not in done.out
    plain = json.loads(cli("task", "show", "part", "--json").out)
    assert [each["status"] for each in plain["history"]] == [
        "pending",
        "ready",
        "running",
        "completed",
    ]


def test_who_decides_need_not_know_the_types_of_values(cli: Cli, job: TaskManager) -> None:
    code = """
        import attrs
        from dagger_dsl import TaskManager
        from dagger_dsl.model.values import register_type

        @attrs.frozen
        class Order:
            number: int

        register_type(Order)
        with TaskManager(database_url="sqlite:dagger_dsl.db", concurrency=0) as manager:
            manager.add_task("j", "", "elsewhere", input=Order(7), task_id="order")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    shown = cli("task", "show", "order")
    assert (shown.code, "'$value': {'number': 7}" in shown.out) == (0, True)
    assert "(as it is stored: " in shown.out
    told = json.loads(cli("task", "show", "order", "--json").out)
    assert told["input"] == {"$type": "__main__:Order", "$value": {"number": 7}}
    assert "order" in cli("job", "show", "j").out
    assert cli("job", "show", "j", "--json").code == 0
    assert cli("job", "show", "j", "--html", "j.html").code == 0
    (order,) = [each for each in job.tasks("j") if each.id == "order"]
    assert "'number': 7" in repr(order)
    with pytest.raises(DecodingError, match="__main__:Order"):
        _ = order.input
    assert cli("task", "cancel", "order").code == 0
    assert job.history("order")[-1].status == "cancelled"
    assert "did you mean 'order'" in cli("task", "retry", "ordr").err


def test_people_decide_about_tasks(cli: Cli, job: TaskManager) -> None:
    assert cli("task", "accept", "whole").out == "task whole is accepted\n"
    assert cli("task", "reject", "part", "--reason", "no sources").code == 0
    assert cli("task", "retry", "bad").out == "task bad is tried again\n"
    assert cli("task", "cancel", "ask", "--json").code == 0
    states = [status_of(job, each) for each in ("whole", "part", "bad", "after", "ask", "later")]
    assert states == ["accepted", "rejected", "ready", "pending", "cancelled", "failed"]
    assert job.history("part")[-1].cause == "no sources"
    done = cli("task", "retry", "whole")
    assert done.code == 2
    assert "task 'whole' is accepted" in done.err


def test_a_task_is_cancelled_with_its_parts_or_alone(cli: Cli, job: TaskManager) -> None:
    specs = [
        NewTaskSpec("work", {"n": 1}, task_id="top"),
        NewTaskSpec("work", {"n": 2}, task_id="below", parent="top"),
        NewTaskSpec("work", {"n": 1}, task_id="other"),
        NewTaskSpec("work", {"n": 2}, task_id="stays", parent="other"),
    ]
    job.add_tasks(specs, "j")
    assert cli("task", "cancel", "top").out == "task top is cancelled with 1 part\n"
    assert cli("task", "cancel", "other", "--alone").out == "task other is cancelled\n"
    states = [status_of(job, spec.task_id or "") for spec in specs]
    assert states == ["cancelled", "cancelled", "cancelled", "ready"]
    plain = json.loads(cli("task", "cancel", "stays", "--json").out)
    assert (plain["status"], plain["parts"]) == ("cancelled", [])


def test_a_task_is_paused_and_resumed(cli: Cli, job: TaskManager) -> None:
    job.add_task("j", "", "work", input={"n": 1}, task_id="new")
    assert cli("task", "pause", "new", "--reason", "not now").out == "task new is paused\n"
    assert status_of(job, "new") == "paused"
    assert job.history("new")[-1].cause == "not now"
    assert cli("task", "resume", "new").out == "task new goes on\n"
    assert status_of(job, "new") == "ready"
    done = cli("task", "resume", "new")
    assert done.code == 2
    assert "task 'new' is not paused" in done.err


def test_what_a_person_says_is_found_by_the_agent(cli: Cli, job: TaskManager) -> None:
    _ = cli("task", "reject", "part", "--reason", "no sources")
    found = job.get_task("part")
    assert found is not None
    assert found.error == "no sources"
    _ = cli("task", "retry", "part")
    assert status_of(job, "part") == "ready"


def test_of_a_job_of_many_tasks_not_all_are_shown(cli: Cli, job: TaskManager) -> None:
    job.add_tasks([NewTaskSpec("work", {"n": n}) for n in range(300)], "many")
    done = cli("job", "show", "many")
    lines = done.out.splitlines()
    assert lines[201] == "  and 100 more: 100 pending"
    assert lines[-1] == "  dagger-dsl job show many --all"
    assert len(cli("job", "show", "many", "--all").out.splitlines()) == 301
    assert len(json.loads(cli("job", "show", "many", "--json").out)["tasks"]) == 300


def test_a_job_is_written_as_a_page(cli: Cli, job: TaskManager, folder: Path) -> None:
    assert cli("job", "show", "j", "--html", "j.html").out == "written: j.html\n"
    page = (folder / "j.html").read_text(encoding="utf-8")
    assert "Find out" in page
    assert "ValueError" in page
    plain = json.loads(cli("job", "show", "j", "--html", "j.html", "--json").out)
    assert plain == {"job_id": "j", "written": "j.html"}
    done = cli("job", "show", "j", "--html", "none/j.html")
    assert (done.code, done.out) == (2, "")


def test_of_many_questions_some_are_named(cli: Cli, job: TaskManager) -> None:
    ids = [f"q{n}" for n in range(5)]
    job.add_tasks([NewTaskSpec("work", {"n": 1}, task_id=each) for each in ids], "asks")
    for each in ids:
        job.update_task_status(each, "blocked")
    lines = cli("job", "show", "asks").out.splitlines()
    assert len([line for line in lines if line.startswith("  dagger-dsl task retry q")]) == 3
    assert lines[-1] == "2 more tasks wait for a person, too"


def test_a_job_is_cancelled(cli: Cli, job: TaskManager) -> None:
    assert cli("job", "cancel", "j", "--reason", "wrong question").out == "job j is cancelled\n"
    assert status_of(job, "later") == "cancelled"
    head = cli("job", "show", "j").out.splitlines()[0]
    assert head.startswith("job j cancelled: 6 tasks, ")
    assert head.endswith(" \N{EM DASH} wrong question")
    assert "nothing is left to cancel" in cli("job", "cancel", "j").out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["job", "show", "k"], "has no job 'k'; there are 'j'. This lists the jobs:"),
        (["task", "show", "laterr"], "has no task 'laterr'; did you mean 'later'?"),
        (["task", "retry", HOSTILE], "has no task "),
        (["task", "retyr", "a"], "did you mean 'retry'?"),
        (["jobs", "--db", "sqlite:other.db"], "there is no database at "),
    ],
)
def test_what_there_is_not_is_told(cli: Cli, job: TaskManager, given: list[str], said: str) -> None:
    done = cli(*given)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "\x1b" not in done.err


def test_a_task_that_asks_is_answered(cli: Cli, job: TaskManager) -> None:
    line = "  dagger-dsl task answer ask VALUE --question 1"
    assert line in cli("job", "show", "j").out.splitlines()
    done = cli("task", "answer", "ask", '{"which": [1, "b"]}', "--by", "ann")
    assert (done.code, done.out) == (0, "task ask has its answer\n")
    (answer,) = job.answers("ask")
    assert (answer.question, answer.value) == ("which one?", {"which": [1, "b"]})
    assert job.history("ask")[-1].cause == "answered by ann"
    assert "answered by ann" in cli("task", "show", "ask").out
    again = cli("task", "answer", "ask", "no JSON")
    assert again.code != 0
    assert "task 'ask' is ready and waits for no person" in again.err


def test_an_answer_on_the_command_line_names_its_question(cli: Cli, job: TaskManager) -> None:
    for meant in ("2", "which two?"):
        done = cli("task", "answer", "ask", "7", "--question", meant)
        assert done.code != 0
        assert "but 'which one?' (question 1)" in done.err
    assert cli("task", "answer", "ask", "7", "--question", "1").code == 0
    (answer,) = job.answers("ask")
    assert answer.value == 7


@pytest.mark.parametrize("way", ["task", "run"])
def test_a_question_of_a_run_is_answered_by_its_task_or_itself(
    cli: Cli, folder: Path, way: str
) -> None:
    registry, dag = Registry(), DAG("asks", registry=Registry())

    @dag.node
    def one(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("Ship it?", {"type": "integer"})

    @task_agent(registry=registry)
    def ships(ctx: TaskContext) -> Any:
        return ctx.run_dag(dag)

    url = "sqlite:dagger_dsl.db"
    with TaskManager(registry=registry, database_url=url) as manager:
        made = manager.start_job("j", [NewTaskSpec("ships", task_id="t")])
        deadline = time.monotonic() + 60
        while made.tasks[0].status is not TaskStatus.BLOCKED:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lines = cli("job", "show", "j").out.splitlines()
        head = "task t waits for a person: Ship it?; let it go on, or not, by:"
        assert lines[lines.index(head) + 1] == "  dagger-dsl task answer t VALUE"
        assert "'Ship it?'" in cli("task", "answer", "t", "soon").err
        if way == "task":
            assert cli("task", "answer", "t", "7", "--question", "Ship it?").code == 0
        else:
            done = cli("answer", "j:t:asks", "one", "7")
            assert done.out == (
                "run j:t:asks: node 'one' has its answer; task t, which waits for it, goes on with "
                "it\n"
            )
        assert str(made.result(60)) == "completed"
        assert made.tasks[0].output == 7
        shown = cli("job", "show", "j").out
        assert "answer" not in shown


def test_tasks_of_an_agent_that_no_worker_has_run_are_told(cli: Cli, job: TaskManager) -> None:
    job.add_task("j", "", "wrok", task_id="typo")
    job.add_task("j", "", "wrok", task_id="typo-2")
    lines = cli("job", "show", "j").out.splitlines()
    said = "no worker here knows agent 'wrok' so far, and 2 tasks of it are ready"
    assert f"{said}; did you mean 'work'?" in lines
    assert "  dagger-dsl worker --actions FILE" in lines
    assert not [line for line in lines if "knows agent 'work'" in line]
