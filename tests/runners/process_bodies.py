"""What the tests of worker processes have called there; they report by files and by values."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagger_dsl import CircuitBreaker, action
from dagger_dsl.model.commands import AddNodes, NodeSpec
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.sharing import Context


def pid(_: Any = None) -> int:
    return os.getpid()


def pid_for(x: Any) -> int:
    return os.getpid()


@action
def decorated(x: int) -> list[int]:
    return [x, os.getpid()]


def upper(text: str, /) -> str:
    return text.upper()


@action
def lower(text: str, /) -> str:
    return text.lower()


def keyword_only(*, a: int, b: int = 2) -> int:
    return a * 10 + b


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def moved(self, by: int) -> Point:
        return Point(self.x + by)


class Shift:
    """An action as an object."""

    name = "shift"

    def __init__(self, by: int) -> None:
        self.by = by

    def execute(self, ctx: NodeCtx) -> int:
        return int(ctx.inputs["x"]) + self.by


def stuck(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)


def stuck_with_child(path: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    child.wait()


def deaf(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stuck(path)


def second_time_lucky(path: str) -> int:
    with Path(path).open("a") as file:
        file.write("x")
    if Path(path).stat().st_size == 1:
        time.sleep(60)
    return Path(path).stat().st_size


def leave(code: int) -> None:
    os._exit(code)


def crash(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def dies_once(path: str) -> int:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(3)
    return os.getpid()


def until_cancelled(ctx: NodeCtx, path: str) -> str:
    Path(path).write_text("began")
    while not ctx.cancelled:
        time.sleep(0.005)
    assert ctx.cancel is not None
    return f"ended by itself: {ctx.cancel.reason}"


def looks_around(ctx: NodeCtx, x: int) -> dict[str, Any]:
    ctx.logger.warning("seen from %s", ctx.node_id)
    return {
        "attempt": ctx.attempt,
        "inputs": dict(ctx.inputs),
        "one": ctx.cache.get("one", "result"),
        "nothing": ctx.cache.get("nobody", "result", "default"),
        "app": ctx.app_data,
        "tokens": ctx.add_tokens(5),
        "key": ctx.idempotency_key,
        "cancelled": ctx.cancelled,
    }


def uses_app_data(ctx: NodeCtx) -> Any:
    return ctx.app_data.acquire()


def ignores_app_data(ctx: NodeCtx) -> str:
    return ctx.node_id


def spends(ctx: NodeCtx, number: int) -> int:
    return ctx.add_tokens(number)


def reads_context(context: Context) -> list[Any]:
    return [context.metadata["user"], context.get("one"), context.get("nobody", 0)]


def writes_context(context: Context) -> None:
    context.metadata["user"] = "another"


def updates_context(context: Context) -> None:
    context.update(lambda metadata: metadata.clear())


def logs(level: int) -> None:
    logging.getLogger("tests.somewhere").log(level, "at %d", level)
    try:
        raise ValueError("with a traceback")
    except ValueError:
        logging.getLogger("tests.somewhere").exception("trouble")


class Awkward(Exception):
    """Cannot be made of its args."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Careful(ValueError):
    def __init__(self, lock: Any) -> None:
        super().__init__("has a lock")
        self.lock = lock


def raises_awkward() -> None:
    raise Awkward(3, reason="no")


def raises_with_lock() -> None:
    raise Careful(threading.Lock())


def raises_chain() -> None:
    try:
        inner()
    except KeyError as error:
        new = RuntimeError("outer")
        new.add_note("a note")
        raise new from error


def inner() -> None:
    raise KeyError("inner")


def raises_group() -> None:
    errors: list[Exception] = []
    for act in (inner, raises_chain):
        try:
            act()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)


def lock() -> Any:
    return threading.Lock()


def takes(value: Any) -> str:
    return type(value).__name__


def chosen_failure() -> NodeOutput:
    return NodeOutput.failure("not today")


def answers() -> NodeOutput:
    return NodeOutput.success({"a": 1, "b": 2}, metadata={"where": "there"})


def branches() -> Branch:
    return Branch("left", 7)


def asks(ctx: NodeCtx) -> HumanRequest:
    return ctx.wait_for_human("well?", schema=bool)


def counts(n: int) -> Iterator[list[int]]:
    for k in range(n):
        yield [k, os.getpid()]


def sums(items: Any) -> int:
    return sum(items)


def takes_two(items: Any) -> list[int]:
    found = [next(items), next(items)]
    if hasattr(items, "close"):
        items.close()
    return found


def breaks_off(n: int) -> Iterator[int]:
    yield from range(n)
    raise ConnectionError("the source is gone")


def cleans_up(path: str) -> Iterator[int]:
    try:
        yield from range(10_000_000)
    finally:
        Path(path).write_text("closed")


def first(pair: list[int]) -> int:
    return pair[0]


def fails_at(item: int, at: int) -> int:
    if item == at:
        raise ValueError(item)
    return item


def doubled(value: bytes) -> bytes:
    return value + value


def recovers(error: Exception) -> list[Any]:
    return [str(error), os.getpid()]


def instead(x: int) -> list[int]:
    return [x, os.getpid()]


def burns(until: int) -> int:
    total = 0
    for k in range(until):
        total += k * k % 7
    return total


def enters(folder: str, name: str, limit: int) -> int:
    """Wait until so many calls are inside at once; return how many there were, a moment later."""
    mine, full = Path(folder) / name, Path(folder) / "full"
    mine.touch()
    deadline = time.monotonic() + 20
    while not full.exists() and time.monotonic() < deadline:
        if len(list(Path(folder).glob("n*"))) >= limit:
            full.touch()
        time.sleep(0.001)
    time.sleep(0.01)
    inside = len(list(Path(folder).glob("n*")))
    mine.unlink()
    return inside


def grows() -> NodeOutput:
    return NodeOutput.success(1, commands=[AddNodes([NodeSpec("late", "later")])])


def burns_in_parts(parts: int) -> int:
    total = 0
    for _ in range(parts):
        total += burns(20_000)
    return total


def fails_at_first(ctx: NodeCtx) -> int:
    if ctx.attempt < 3:
        raise ConnectionError
    return ctx.attempt


def _make_many() -> list[Any]:
    names: dict[str, Any] = {}
    for k in range(20):
        exec(f"def many_{k}(): return sum(range(2000))", names)
    return [names[f"many_{k}"] for k in range(20)]


def calls_many() -> int:
    return sum(each() for each in _make_many())


def naps(seconds: float) -> float:
    """Sleep, and return how long that took."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


breaker = CircuitBreaker(failure_threshold=2)


@breaker
def guarded() -> None:
    raise ValueError("no")


class Guarded:
    @CircuitBreaker()
    def pid(self) -> int:
        return os.getpid()
