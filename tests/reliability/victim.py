"""A process that records a run and can be killed at any moment.

``python -m tests.reliability.victim '{"...": ...}'`` starts a run, or goes on with it where it is
recorded already. Every call writes a line at its begin and its end to a log that no crash of the
process can take back: the kernel has the line when `os.write` returns.
"""

from __future__ import annotations

import os
import sys
import time

import attrs

from dagger_dsl import engine
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import RunNotFound
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.store.storage import Store
from tests.reliability.workloads import Spec, work_of

__all__ = ["Call", "read_log", "read_shown", "run"]


def run(spec: Spec) -> RunReport:
    """Run the workload, or go on with its run where it is recorded already."""
    file = os.open(spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    me = os.getpid()

    def note(what: str, name: str) -> None:
        now, spent = time.monotonic(), time.process_time()
        os.write(file, f"{what} {name} {me} {now:.6f} {spent:.6f}\n".encode())

    graph, registry, hooks = work_of(spec).build(note)
    options = RunOptions(
        runner=spec.runner,
        max_workers=spec.slots,
        run_id=spec.run_id,
        durability=spec.durability,
        database_url=spec.url,
        config=DagConfig(flush_interval=spec.flush, max_crashes=spec.max_crashes),
        hooks=hooks,
    )
    try:
        with Store(spec.url, lease=spec.lease) as store:
            if _is_recorded(store, spec.run_id):
                return engine.resume(spec.run_id, registry, options, store=store)
            return engine.run(graph, registry, None, options, store=store)
    finally:
        os.close(file)


def _is_recorded(store: Store, run_id: str) -> bool:
    try:
        store.load_run(run_id)
    except RunNotFound:
        return False
    return True


@attrs.frozen
class Call:
    """One call of a body, as the log has it.

    Attributes:
        name: The invocation.
        process: Who made it.
        began, ended: Monotonic seconds; *ended* is None when the process died before.
        spent: Processor seconds of the process until the call began.
    """

    name: str
    process: int
    began: float
    ended: float | None
    spent: float


def read_log(path: str) -> list[Call]:
    """Return the calls in the order in which they began."""
    began: list[tuple[str, int, float, float]] = []
    ended: dict[tuple[str, int], float] = {}
    for what, name, process, when, spent in _lines(path):
        if what == "begin":
            began.append((name, int(process), float(when), float(spent)))
        elif what == "end":
            ended[name, int(process)] = float(when)
    return [
        Call(name, process, when, ended.get((name, process)), spent)
        for name, process, when, spent in began
    ]


def read_shown(path: str) -> list[str]:
    """Return the invocations whose completion a hook was shown, in order."""
    return [name for what, name, *_ in _lines(path) if what == "shown"]


def _lines(path: str) -> list[list[str]]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as log:
        text = log.read()  # at once: reading on after half a line would take the rest for another
    return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]


def main() -> None:
    """Be the process."""
    report = run(Spec.of_text(sys.argv[1]))
    print(report.status, flush=True)


if __name__ == "__main__":
    main()
