"""The documents' calculator, and formulas as trees of tasks that nobody has drawn beforehand."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dagger_dsl import NewTaskSpec, TaskManager
from dagger_dsl.agents import JobStatus, TaskStatus
from dagger_dsl.errors import InputValidationError
from tests.examples.agents import EXAMPLES, checked, imported, outside

EXAMPLE = EXAMPLES / "taskmanager_toy"
LONG = 60.0


@pytest.fixture
def agents() -> Iterator[ModuleType]:
    with imported(EXAMPLE, "agents") as module:
        yield module


@pytest.mark.row("I33")
@pytest.mark.parametrize(("op", "result"), [("add", 9), ("sub", 3), ("mul", 18), ("div", 2)])
def test_the_calculator_knows_four_operations(agents: ModuleType, op: str, result: float) -> None:
    with TaskManager(registry=agents) as manager:
        job = manager.start_job("j", [NewTaskSpec("calculator", {"a": 6, "b": 3, "op": op})])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == {"result": result}


@pytest.mark.row("I33", "I3")
def test_a_division_by_zero_fails_its_task_and_who_needs_it(agents: ModuleType) -> None:
    with TaskManager(registry=agents) as manager:
        job = manager.start_job("j", [NewTaskSpec("evaluate", {"formula": "8 / (6 - 2 * 3)"})])
        assert job.result(LONG) is JobStatus.FAILED
        failed = [task for task in job.tasks if task.status is TaskStatus.FAILED]
        assert [task.agent for task in failed] == ["evaluate", "calculator"]
        assert failed[1].error == "ZeroDivisionError: Division by zero"


@pytest.mark.row("I1")
def test_what_is_no_operation_is_refused_when_it_is_added(agents: ModuleType) -> None:
    with (
        TaskManager(registry=agents) as manager,
        pytest.raises(InputValidationError, match=r"input\['op'\]"),
    ):
        manager.add_task("j", "", "calculator", input={"a": 1, "b": 2, "op": "pow"})


@pytest.mark.row("I18", "I19")
@pytest.mark.parametrize(
    ("formula", "value", "tasks"), [("7", 7, 1), ("1 + 2", 3, 4), ("(3 + 4) * 5 - 6 / 2", 32, 13)]
)
def test_a_formula_has_as_many_tasks_as_it_needs(
    agents: ModuleType, formula: str, value: float, tasks: int
) -> None:
    with TaskManager(registry=agents) as manager:
        job = manager.start_job("j", [NewTaskSpec("evaluate", {"formula": formula})])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == value
        assert len(job.tasks) == tasks


@pytest.mark.parametrize("formula", ["2 ** 3", "open('x')", "x"])
def test_what_is_no_formula_is_calculated_by_nobody(agents: ModuleType, formula: str) -> None:
    with TaskManager(registry=agents) as manager:
        job = manager.start_job("j", [NewTaskSpec("evaluate", {"formula": formula})])
        assert job.result(LONG) is JobStatus.FAILED
        assert "is no formula" in job.tasks[0].error


@pytest.mark.slow
@pytest.mark.row("I33")
def test_it_runs_by_itself(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "taskmanager_toy")
    done = outside(tmp_path, sys.executable, "-m", "taskmanager_toy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 div 0: ZeroDivisionError: Division by zero" in done.stdout
    assert "(3 + 4) * 5 - 6 / 2 = 32" in done.stdout


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    assert (
        checked(EXAMPLES, *(f"taskmanager_toy/{name}.py" for name in ("agents", "__main__"))) == ""
    )
