"""A process that runs tasks of limited agents, and notes when each call began and ended."""

from __future__ import annotations

import os
import sys
import time

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.manager import TaskManager


def main(url: str, notes: str, rate: str, most: str) -> None:
    """Work until the job has ended."""
    with Registry() as registry:

        def note(what: str) -> None:
            line = f"{what} {time.monotonic()} {time.time()}\n".encode()
            descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)
            os.close(descriptor)

        @task_agent(rate=rate or None, max_running=int(most) if most else None)
        def limited(input: int) -> int:
            note("begin")
            time.sleep(0.005)
            note("end")
            return input

        with TaskManager(registry=registry, database_url=url, concurrency=3) as manager:
            manager.resume_job("j").result(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
