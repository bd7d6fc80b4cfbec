"""Processes that talk by messages, to be killed: a server that forks them, and what they do.

The test writes ``ROLE DATABASE LOG COUNT`` for each one and reads back its process id; ``wait``
reaps the last one that was killed. A log has a line for each call, or for each publication that was
acknowledged, written at once, so that it outlives a kill.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import dagger_dsl.pubsub.durable  # noqa: F401 - loaded once, here
from dagger_dsl import Registry
from dagger_dsl.pubsub import Message, PubSubExecutor, Reactive, pubsub_agent

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
