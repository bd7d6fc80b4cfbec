"""Give the agent a task, answer what it asks, and leave its sheet and its graph in out/."""

from __future__ import annotations

import argparse
from pathlib import Path

import rich
from agent_flow import agent

from dagger_dsl import DagExecutor, RunReport, RunStatus

HERE = Path(__file__).parent
TASK = "What can be reached from the hubs, how far do flights go, and which have no way back?"


def run(task: str, out: Path, answer: bool = True) -> RunReport:
    """Run the agent to its end.

    Args:
        task: What it shall find out.
        out: A folder for ``runs.db``, ``sheet.md`` and ``agent.dot``.
        answer: What a person says when asked whether to publish.
    """
    out.mkdir(parents=True, exist_ok=True)
    given = {"task": task, "data": str(HERE / "data"), "sheet": str(out / "sheet.md")}
    with DagExecutor(registry=agent, database_url=f"sqlite:{out / 'runs.db'}") as executor:
        handle = executor.start(executor.load_yaml_file(HERE / "agent.yaml"), given)
        report = handle.result()
        while report.status is RunStatus.PAUSED:  # no thread waits; the process might end here
            for question in handle.questions():
                print(question.prompt, "yes" if answer else "no")
                handle.answer(question.node_id, answer, by="the example")
            handle.resume()
            report = handle.result()
    dot = report.graph.to_dot(report.states())  # without times: the same after every run
    (out / "agent.dot").write_text(dot, encoding="utf-8")
    return report


def main() -> int:
    """Run the agent; return 0 when it came to what was asked for."""
    parser = argparse.ArgumentParser(prog="agent_flow", description=__doc__)
    parser.add_argument("--task", default=TASK, help="default: %(default)s")
    parser.add_argument("--reject", action="store_true", help="do not publish the sheet")
    arguments = parser.parse_args()
    out = HERE / "out"
    report = run(arguments.task, out, not arguments.reject)
    rich.print(report)
    if report.states().get("publish") != "completed":
        return 1
    print((out / "sheet.md").read_text(encoding="utf-8") if not arguments.reject else "no sheet")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
