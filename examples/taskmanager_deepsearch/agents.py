"""The documents' research agents, each with something that a manager of tasks has to deal with.

`research_agent` finds out on its way that it needs more, adds a task for `data_gatherer`, and runs
again with what that found. `data_gatherer` reads a source that is busy now and then.
`report_writer` shows a person its draft, and has more looked into where the person wants that.
`publisher` may be called once and no more. What they look into is real: the modules of the standard
library, read from their sources and not imported.
"""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagger_dsl import TaskContext, TaskManager, task_agent
from dagger_dsl.agents import TaskStatus
from dagger_dsl.model.policies import RetryPolicy

STDLIB = Path(sysconfig.get_path("stdlib"))


class Busy(Exception):
    """A source answers later."""


def _source(module: str) -> ast.Module:
    """Return what stands in a module, or in the package of that name."""
    place = STDLIB.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return ast.parse(path.read_bytes())
    raise LookupError(f"there is no module {module!r} in the standard library")


@task_agent(
    description="Conducts research and requests additional data as needed",
    input_schema={
        "type": "object",
        "properties": {"topic": {"type": "string"}},
        "required": ["topic"],
    },
    output_schema={"type": "object", "properties": {"report": {"type": "string"}}},
)
async def research_agent(
    input: dict[str, Any], task_id: str, job_id: str, task_manager: TaskManager
) -> dict[str, str]:
    """Say what a module is; of an advanced topic also what is in it, which others find out.

    It is written as the documents write it, with the four arguments and with an error that says
    "needs_more_info"; the other agents take a context.
    """
    *advanced, module = input["topic"].split()
    paragraph = (ast.get_docstring(_source(module)) or "nothing").split("\n\n")[0]
    says = textwrap.shorten(paragraph, 90, placeholder=" …")
    if not advanced:
        return {"report": f"Basic report on {module}: {says}"}
    task = task_manager.get_task(task_id)
    assert task is not None
    if task.dependencies:  # it was called before
        data = [each["data"] for each in task_manager.get_dependency_outputs(task_id)]
        return {"report": f"Comprehensive report on {module}: {says} It has {' and '.join(data)}."}
    for what in ("classes", "functions"):
        data_task = task_manager.add_task(
            job_id,
            f"Gather the {what} of {module}",
            "data_gatherer",
            input={"module": module, "what": what},
            parent=task_id,
            priority=task.priority + 1,  # who has begun shall end
            key=module,  # nobody else asks the same source meanwhile
        )
        task_manager.add_dependency(task_id, data_task)
    task_manager.update_task_status(task_id, TaskStatus.BLOCKED)
    raise RuntimeError("needs_more_info")


@task_agent(
    name="data_gatherer",
    retry=RetryPolicy(max_attempts=2, base_delay=0.05, retry_on=[Busy]),
    timeout=10,
)
class DataGatherer:
    """Reads sources; it keeps count of the calls, for a source is busy at the first of three."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def execute(self, module: str, what: str) -> dict[str, str]:
        """Count the public classes or functions of a module, and name some."""
        self.calls[module] += 1
        if self.calls[module] % 3 == 1:
            raise Busy(f"the source of {module} is busy")
        names = list(_names(_source(module), what))
        some = f" ({', '.join(names[:3])} …)" if names else ""
        return {"data": f"{len(names)} {what}{some}"}


def _names(tree: ast.Module, what: str) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kind = "classes" if isinstance(node, ast.ClassDef) else "functions"
        if kind == what and not node.name.startswith("_"):
            yield node.name


#: What a person's answer begins with, in the history of a task; see `answers_of`.
SAID = "said: "


def answers_of(ctx: TaskContext) -> list[str]:
    """Return what was said to a task while it waited."""
    causes = [event.cause for event in ctx.manager.history(ctx.task_id)]
    return [each.removeprefix(SAID) for each in causes if each.startswith(SAID)]


@task_agent
def report_writer(format: str, ctx: TaskContext) -> dict[str, str]:
    """Write what was found, and show it to a person, until that is content."""
    said = answers_of(ctx)
    topics = {task.input["topic"] for task in ctx.job.tasks if task.agent == "research_agent"}
    wanted = [each.removeprefix("more on ") for each in said if each.startswith("more on ")]
    if missing := [topic for topic in wanted if topic not in topics]:
        ctx.block(
            on=[
                ctx.add_task("research_agent", {"topic": topic}, description=f"Research {topic}")
                for topic in missing
            ]
        )
    found = [each["report"] for each in ctx.dependency_outputs() if each is not None]
    if "yes" not in said:
        ctx.block(reason=f"{len(found)} findings: is that enough?")
    return {"report": "\n".join([f"# Report ({format})", "", *(f"- {each}" for each in found), ""])}


@task_agent
def publisher(path: str, ctx: TaskContext) -> str:
    """Put the report where others read it; who does so twice may have sent it twice."""
    (found,) = ctx.dependency_outputs()
    Path(path).write_text(found["report"], encoding="utf-8")
    return path
