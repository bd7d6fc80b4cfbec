"""Processes that talk by messages, to be killed: a server that forks them, and what they do.

The test writes ``ROLE DATABASE LOG COUNT`` for each one and reads back its process id; ``wait``
reaps the last one that was killed. A log has a line for each call, or for each publication that was
acknowledged, written at once, so that it outlives a kill.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import dagger_dsl.pubsub.durable  # noqa: F401 - loaded once, here
from dagger_dsl import DAG, Registry
from dagger_dsl.agents import task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.engine.once import start_once
from dagger_dsl.model.commands import EmitEvent
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.policies import RetryStrategy
from dagger_dsl.pubsub import Message, PubSubConfig, PubSubExecutor, Reactive, pubsub_agent
from dagger_dsl.store.storage import Store

__all__ = ["KEYS", "main"]

#: How many keys the messages have.
KEYS = 7


class Log:
    """A file that is appended to without a buffer."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def listen(name: str, database: str, log: Log, asynchronous: bool) -> None:
    """Be given all that is published on ``work``."""
    registry = Registry()

    def handle(message: Message) -> None:
        log.write(message.number, message.payload, message.key)

    async def handle_later(message: Message) -> None:
        handle(message)

    chosen: Any = handle_later if asynchronous else handle
    pubsub_agent(name=name, subscribe="work", registry=registry, concurrency=3)(chosen)
    PubSubExecutor(registry=registry, database_url=database).run(Reactive())


def pass_on(database: str, log: Log) -> None:
    """Publish two messages on ``out`` for each one on ``work``."""
    registry = Registry()

    @pubsub_agent(subscribe="work", registry=registry)
    async def pipe(message: Message, bus: Any) -> None:
        log.write(message.number, message.payload, message.key)
        for half in ("a", "b"):
            await bus.publish("out", f"{message.payload}{half}", key=message.key)

    PubSubExecutor(registry=registry, database_url=database).run(Reactive())


def trigger(database: str, log: Log) -> None:
    """Start a run of two nodes for each message on ``work``, and publish its answer on ``out``."""
    dag = DAG("orders", registry=Registry())

    @dag.node
    def first(n: int) -> int:
        log.write(n, "first")
        return n

    @dag.node
    def second(first: int) -> int:
        log.write(first, "second")
        return -first

    dag.connect("first", "second")
    # Whoever is killed in the middle of a message again and again must not have it given up.
    config = PubSubConfig(max_deaths=1_000)
    bus = PubSubExecutor([], config, registry=Registry(), database_url=database)
    bus.trigger(dag, "work", publish="out", concurrency=3)
    bus.run(Reactive())


def emit(database: str, log: Log, count: int) -> None:
    """Run flows of two nodes, each of which publishes an event on ``news`` with its outcome.

    Some calls of the first one fail, and are made again.
    """
    dag = DAG("teller", registry=Registry())

    @dag.node(retry=RetryStrategy.IMMEDIATE.with_attempts(2))
    def first(n: int, ctx: NodeCtx) -> NodeOutput:
        event = EmitEvent("first", [n, ctx.attempt], "news")
        log.write(n, "first", ctx.attempt)
        if n % 3 == 0 and ctx.attempt == 1:
            raise ValueError("not yet")
        return NodeOutput.success(n, commands=[event])

    @dag.node
    def second(first: int) -> NodeOutput:
        return NodeOutput.success(None, commands=[EmitEvent("second", first, "news")])

    dag.connect("first", "second")
    options = RunOptions(runner="threads", database_url=database)
    with Store(database) as store:
        for n in range(count):
            handle = start_once(f"r{n}", dag.compile(), dag.registry, {"n": n}, options, store)
            assert handle is not None
            handle.result().raise_for_failure()
            log.write(n, "over", 0)


def tell(database: str, log: Log) -> None:
    """Run tasks that publish two messages each on ``news``; some calls fail after that."""
    registry = Registry()

    @task_agent(name="tell", registry=registry, retry=RetryStrategy.IMMEDIATE.with_attempts(50))
    def agent(ctx: TaskContext, n: int) -> int:
        ctx.publish("news", [n, ctx.attempt, "a"])
        log.write(n, ctx.attempt)
        ctx.publish("news", [n, ctx.attempt, "b"])
        if n % 3 == 0 and ctx.attempt == 1:
            raise ValueError("not yet")
        return n

    with TaskManager(registry=registry, database_url=database, concurrency=3) as manager:
        manager.work()
        threading.Event().wait()


def publish(database: str, log: Log, first: int, last: int) -> None:
    """Publish numbers, some at a time, each under an id of its own."""
    with PubSubExecutor([], registry=Registry(), database_url=database) as bus:
        for numbers in _portions(first, last):
            sent = [
                (number, bus.publish("work", number, key=key, id=f"m{number}", wait=False))
                for number, key in ((each, f"k{each % KEYS}") for each in numbers)
            ]
            for number, each in sent:
                each.result()
                log.write(number)


def _portions(first: int, last: int) -> Iterator[range]:
    size = 1
    while first < last:
        yield range(first, min(first + size, last))
        first += size
        size = size % 20 + 1


def play(role: str, database: str, path: str, count: int) -> None:
    """Do what a role does."""
    log = Log(path)
    if role == "publisher":
        with open(path, encoding="utf-8") as lines:
            done = sum(1 for _ in lines)
        publish(database, log, done, count)
    elif role == "pipe":
        pass_on(database, log)
    elif role == "trigger":
        trigger(database, log)
    elif role == "emit":
        emit(database, log, count)
    elif role == "tell":
        tell(database, log)
    else:
        listen(role, database, log, role.endswith("async"))


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        words = line.split()
        if words[0] == "wait":
            os.waitpid(int(words[1]), 0)
            print("gone", flush=True)
            continue
        child = os.fork()
        if not child:
            role, database, log, count = words
            try:
                play(role, database, log, int(count))
            except BaseException:
                traceback.print_exc()  # else a test would only see that one of them is missing
            finally:
                os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
