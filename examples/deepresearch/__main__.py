"""Ask something about Python, and read what its own texts say to that.

Kill this with `kill -9` where you like, and start it again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import rich
from deepresearch import agents

from dagger_dsl import TaskManager

HERE = Path(__file__).parent
QUESTION = (
    "What happens to the remaining tasks of a group when one raises an exception? "
    "What may a finally clause do to a return value? "
    "How is a subprocess stopped when its timeout expires?"
)


def research(question: str, out: Path, seconds: float = 0.0) -> bool:
    """Answer a question, or go on with its answer, and say whether that came to an end.

    Args:
        question: What to find out, in sentences.
        out: A folder for ``jobs.db``, ``library.db``, ``report.md`` and ``research.dot``.
        seconds: How long each agent thinks before it begins.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The same question is the same job, whether it is new, was killed, or is answered already.
    job_id = f"research-{hashlib.sha256(question.encode()).hexdigest()[:8]}"
    config = {
        "library": str(out / "library.db"),
        "report": str(out / "report.md"),
        "seconds": seconds,
    }
    with TaskManager(registry=agents, database_url=f"sqlite:{out / 'jobs.db'}") as manager:
        if manager.tasks(job_id):
            job = manager.resume_job(job_id)
        else:
            job = manager.start_job(job_id, agents.plan(question), config=config)
        job.result()
        rich.print(job)
        (out / "research.dot").write_text(manager.get_dot_graph(job_id), encoding="utf-8")
        return job.success


def main() -> int:
    """Answer a question; return 0 when there is a report."""
    parser = argparse.ArgumentParser(prog="deepresearch", description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.0, help="of thought for each call")
    arguments = parser.parse_args()
    out = HERE / "out"
    if not research(arguments.question, out, arguments.seconds):
        return 1
    print((out / "report.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
