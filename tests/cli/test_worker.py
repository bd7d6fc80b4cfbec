"""``worker``: processes that run the tasks of agents, and how they stop."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskStatus
from tests.cli.conftest import Cli, Done, finish, spawn

AGENTS_PY = """\
import time
from pathlib import Path

from dagger_dsl import Registry, task_agent

HERE = Path(__file__).parent
more = Registry()


def note(text):
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")


@task_agent
def double(n: int) -> int:
    note(f"double {n}")
    return 2 * n


@task_agent
def fail() -> None:
    raise ValueError("\\x1b[31mnot yet")


@task_agent
def held() -> str:
    note("held")
    while not (HERE / "works").exists():
        time.sleep(0.01)
    return "done"


@task_agent
class Needy:
    def __init__(self) -> None:
        raise OSError("no key")

    def execute(self) -> None: ...


@task_agent(registry=more)
async def quick() -> str:
    return "quick"
"""


@pytest.fixture
def manager(folder: Path) -> Iterator[TaskManager]:
    """What adds tasks, and runs none."""
    (folder / "agents.py").write_text(AGENTS_PY)
    with TaskManager(database_url="sqlite:dagger_dsl.db", concurrency=0) as made:
        yield made


def add(manager: TaskManager, *specs: NewTaskSpec) -> list[str]:
    ids = manager.add_tasks(specs, "j")
    assert not manager.start_job("j").is_finished
    return ids


def task_of(manager: TaskManager, task_id: str) -> Task:
    found = manager.get_task(task_id)
    assert found is not None
    return found


def wait_for(folder: Path, word: str) -> None:
    deadline = time.monotonic() + 60
    path = folder / "calls.txt"
    while not (path.exists() and word in path.read_text()):
        assert time.monotonic() < deadline, f"{word} was never called"
        time.sleep(0.01)


def test_it_runs_what_there_is_and_leaves(cli: Cli, manager: TaskManager) -> None:
    ids = add(
        manager,
        NewTaskSpec("double", {"n": 4}, task_id="a"),
        NewTaskSpec("fail", task_id="b", max_retries=1),
        NewTaskSpec("quick", task_id="c", dependencies=["a"]),
        NewTaskSpec("elsewhere", task_id="d"),
    )
    done = cli("worker", "--actions", "agents.py", "--drain", "--concurrency", "2", "-v")
    assert done.code == 0, done.err
    first, agents, *lines = done.out.splitlines()
    assert first.startswith("worker ")
    assert "2 at a time, on " in first
    assert agents == "agents: double, fail, held, Needy, quick"
    assert lines[-1] == "worker stopped: 2 completed, 1 failed, 1 to be tried again"
    assert "double a completed" in lines
    unknown = "no worker here knows agent 'elsewhere', and 1 task of it is ready; name what defines"
    assert len([line for line in lines if line.startswith(unknown)]) == 1
    assert "fail b failed, call 2: ValueError: not yet" in lines
    assert "\x1b" not in done.out
    assert [str(task_of(manager, each).status) for each in ids] == [
        "completed",
        "failed",
        "completed",
        "ready",
    ]


def test_it_runs_tasks_of_the_agents_that_it_is_given(cli: Cli, manager: TaskManager) -> None:
    one, other = add(manager, NewTaskSpec("double", {"n": 4}), NewTaskSpec("quick"))
    done = cli("worker", "--actions", "agents.py", "--agents", "quick, held", "--drain", "--json")
    assert done.code == 0, done.err
    plain = json.loads(done.out)
    assert plain["agents"] == ["quick", "held"]
    assert (plain["completed"], plain["failed"], plain["left_behind"]) == (1, 0, 0)
    assert task_of(manager, one).status is TaskStatus.READY
    assert task_of(manager, other).output == "quick"


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--agents", "dubble"], 2, "no agent 'dubble' is registered; did you mean 'double'?\n"),
        (["--agents", "nobody"], 2, "'quick'; name the module or the .py file that defines it"),
        (["--agents", ","], 2, "--agents names no agent"),
        (["--actions", "nothing.py"], 2, "there is no file nothing.py"),
        (["--concurrency", "0"], 2, "at least 1, not 0"),
        (["--lease", "0"], 2, "more than 0 seconds"),
        (["--heartbeat-interval", "0"], 2, "more than 0 seconds"),
        (["--stall-action", "stop"], 2, "notify_planning_agent"),
        (["--actions", "no_such_module"], 2, "no_such_module"),
        (["--grace", "never"], 2, "a number of 0 or more, not 'never'"),
        (["--db", "sqlite:other.db"], 2, "there is no database at "),
        (["--db", "sqlite::memory:"], 2, "not one in memory"),
        (["--db", "sqlite:agents.py"], 4, "agents.py"),
        (["--db", "sqlite:dagger_dsl.db?mode=ro"], 4, "error: "),
    ],
)
def test_what_cannot_work_is_told(
    cli: Cli, manager: TaskManager, given: list[str], code: int, said: str
) -> None:
    add(manager, NewTaskSpec("double", {"n": 4}))
    done = cli("worker", "--actions", "agents.py", "--drain", *given)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_code_that_cannot_be_imported_is_told_with_its_own_lines(
    cli: Cli, manager: TaskManager, folder: Path
) -> None:
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    done = cli("worker", "--actions", "agents.py", "--actions", "broken.py", "--drain")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"error: importing {folder / 'broken.py'} failed"
    assert done.err.count("  File ") == 1, "of its lines alone"
    assert "No module named 'nothing_of_this_name'" in done.err


def test_an_agent_that_cannot_be_made_fails_its_tasks_and_no_worker(
    cli: Cli, manager: TaskManager
) -> None:
    broken, fine = add(manager, NewTaskSpec("Needy"), NewTaskSpec("double", {"n": 4}))
    done = cli("worker", "--actions", "agents.py", "--drain")
    assert done.code == 0, done.err
    assert done.out.endswith("worker stopped: 1 completed, 1 failed\n")
    assert "agent 'Needy': Needy() failed: OSError: no key" in task_of(manager, broken).error
    assert task_of(manager, fine).output == 8


@pytest.mark.slow
def test_a_worker_may_be_told_what_it_does_about_stalls(folder: Path, manager: TaskManager) -> None:
    given = ["--heartbeat-interval", "0.05", "--stall-action", "terminate_job"]
    told = manager.start_job("told", [NewTaskSpec("elsewhere")])
    # As a node starts one that says nothing of stalls.
    manager._rows.start_job("silent", [NewTaskSpec("elsewhere")], create=True)
    process = spawn(folder, "worker", "--actions", "agents.py", *given)
    deadline = time.monotonic() + 60
    while not manager.job("silent").is_finished:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 143
    assert "stalled: nothing happened for 0.05 s" in manager.job("silent").error
    assert not told.is_finished, "it keeps what its manager has"


def test_without_agents_there_is_nothing_to_run(cli: Cli, manager: TaskManager) -> None:
    add(manager, NewTaskSpec("double", {"n": 4}))
    done = cli("worker", "--actions", "adding.py")
    assert done.code == 2
    assert "no agent is registered" in done.err
    assert "--actions" in done.err


# --- stopping -------------------------------------------------------------------------------------


def begun(folder: Path, *more: str) -> subprocess.Popen[str]:
    process = spawn(folder, "worker", "--actions", "agents.py", "--concurrency", "1", *more)
    wait_for(folder, "held")
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_what_runs_end_and_begins_nothing(
    folder: Path, manager: TaskManager, number: signal.Signals
) -> None:
    one, other = add(manager, NewTaskSpec("held"), NewTaskSpec("double", {"n": 1}))
    process = begun(folder)
    process.send_signal(number)
    time.sleep(0.5)
    (folder / "works").touch()
    done = finish(process)
    assert done.code == 128 + number
    assert "stopping" in done.err
    assert "worker stopped: 1 completed" in done.out
    assert task_of(manager, one).output == "done"
    assert task_of(manager, other).status is TaskStatus.READY


@pytest.mark.slow
def test_what_does_not_end_within_the_grace_time_is_given_back(
    folder: Path, manager: TaskManager
) -> None:
    again, once = add(manager, NewTaskSpec("held"), NewTaskSpec("held", effects="at_most_once"))
    process = spawn(folder, "worker", "--actions", "agents.py", "--grace", "0.2")
    wait_for(folder, "held\nheld")
    process.send_signal(signal.SIGTERM)
    done: Done = finish(process)
    assert done.code == 143
    assert "2 calls did not end within the grace time" in done.err
    assert (task_of(manager, again).status, task_of(manager, again).worker) == ("ready", "")
    assert task_of(manager, once).status is TaskStatus.BLOCKED
    assert "at most once" in task_of(manager, once).error


@pytest.mark.slow
def test_the_second_signal_leaves_at_once_and_others_take_over(
    folder: Path, manager: TaskManager
) -> None:
    (one,) = add(manager, NewTaskSpec("held"))
    process = begun(folder, "--grace", "600")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 143
    assert task_of(manager, one).status is TaskStatus.RUNNING
    (folder / "works").touch()
    # Nothing is left for `--drain` once the dead worker's task was taken over and has ended.
    done = finish(spawn(folder, "worker", "--actions", "agents.py", "--drain"))
    assert done.code == 0, done.err
    assert "its worker died; 1 of its tasks run again" in done.err
    assert task_of(manager, one).output == "done"


@pytest.mark.slow
def test_an_idle_worker_hardly_uses_the_processor(folder: Path, manager: TaskManager) -> None:
    (folder / "works").touch()
    add(manager, NewTaskSpec("held"))
    process = begun(folder)
    time.sleep(1.0)

    def spent() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before = spent()
    time.sleep(4.0)
    used = spent() - before
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 143
    assert used / 4.0 <= 0.02, f"{used / 4.0:.1%}"
