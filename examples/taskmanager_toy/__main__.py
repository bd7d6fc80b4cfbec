"""Let the calculator do each operation, divide by zero, and be of use to who evaluates formulas."""

from __future__ import annotations

import rich
from taskmanager_toy import agents

from dagger_dsl import NewTaskSpec, TaskManager

OPERATIONS = [(6, "add", 3), (6, "sub", 3), (6, "mul", 3), (6, "div", 3), (6, "div", 0)]
FORMULAS = ["(3 + 4) * 5 - 6 / 2", "8 / (6 - 2 * 3)"]


def run(manager: TaskManager) -> dict[str, float | str]:
    """Return what came of each operation and formula: a number, or an error."""
    found: dict[str, float | str] = {}
    job = manager.start_job(
        "operations",
        [
            NewTaskSpec("calculator", {"a": a, "b": b, "op": op}, description=f"{a} {op} {b}")
            for a, op, b in OPERATIONS
        ],
    )
    job.result(timeout=60)
    for task in job.tasks:
        found[task.description] = task.error or task.output["result"]
    for number, formula in enumerate(FORMULAS, start=1):
        job = manager.start_job(
            f"formula {number}",
            [NewTaskSpec("evaluate", {"formula": formula}, description=formula)],
        )
        job.result(timeout=60)
        rich.print(job)
        found[formula] = job.tasks[0].error or job.tasks[0].output
    return found


def main() -> int:
    """Print what comes of each task; return 0 when it is what arithmetic says."""
    with TaskManager(registry=agents) as manager:  # no database: the memory of this process
        found = run(manager)
    for what, value in found.items():
        print(f"{what} = {value:g}" if isinstance(value, float | int) else f"{what}: {value}")
    return 0 if found[FORMULAS[0]] == 32 else 1


if __name__ == "__main__":
    raise SystemExit(main())
