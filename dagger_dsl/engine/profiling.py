"""`Profiles`: what a profiler counted in the calls of some nodes of a run, and how it is shown.

Each call is profiled where it is made: in its worker thread, in its worker process, and for an
async function only while its own code runs, not while it waits and others have the loop. A call in
a thread that is being profiled already (by a run around it, or a tool of the user's) is not
profiled again, and is counted as missed.

The profiler is `cProfile`. From Python 3.12 on that one counts what all threads do, as if it were
one: where there are others, `_Tracer` takes its place, which keeps to its thread and costs more.
"""

from __future__ import annotations

import cProfile
import io
import operator
import pstats
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from dagger_dsl.errors import ConfigurationError, NotExecuted, did_you_mean
from dagger_dsl.runners.base import ASYNC

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["Profile", "Profiles"]

# File, line and name, as `pstats` names a function.
_Function: TypeAlias = tuple[str, int, str]
_Stat: TypeAlias = tuple[int, int, float, float, dict[_Function, tuple[int, int, float, float]]]

# Whether `cProfile` counts what other threads do, too.
_SHARED = sys.version_info >= (3, 12)


class Profile:
    """What a profiler counted in the calls of one node, all attempts and items together.

    Attributes:
        node_id: The node.
        calls: How many calls were profiled.
        missed: How many were not, because their thread was being profiled by somebody else.
        stats: The numbers, for everything that `pstats` can do with them.
    """

    def __init__(self, node_id: str, stats: pstats.Stats, calls: int, missed: int) -> None:
        self.node_id = node_id
        self.stats = stats
        self.calls = calls
        self.missed = missed

    def text(self, top: int = 10, sort: str = "cumulative") -> str:
        """Return the functions that took the most time as a table.

        Args:
            top: How many.
            sort: By what, as `pstats.Stats.sort_stats` names it.
        """
        stats: Any = self.stats
        before, stats.stream = stats.stream, io.StringIO()
        try:
            stats.sort_stats(sort).print_stats(top)
            table: str = stats.stream.getvalue()
        finally:
            stats.stream = before
        head = f"node {self.node_id!r}: {self.calls} call{'' if self.calls == 1 else 's'} profiled"
        missed = f", {self.missed} missed" if self.missed else ""
        return f"{head}{missed}\n{table}"

    def print(self, top: int = 10, sort: str = "cumulative") -> None:
        """Print `text`."""
        print(self.text(top, sort))

    def __str__(self) -> str:
        return self.text()


class _Counted:
    """What `pstats` takes for a profiler."""

    def __init__(self, stats: Any) -> None:
        self.stats = stats

    def create_stats(self) -> None:
        """Do nothing: `stats` is there."""


class Profiles:
    """The profiles of one run.

    Args:
        wanted: Ids of the nodes whose calls are profiled; True for all.
        known: The run's nodes.

    Raises:
        ConfigurationError: There is no such node.
    """

    def __init__(self, wanted: bool | Collection[str], known: Collection[str]) -> None:
        if not isinstance(wanted, bool):
            for name in wanted:
                if name not in known:
                    raise ConfigurationError(
                        f"profile names {name!r}, which is no node of this graph"
                        f"{did_you_mean(name, known)}"
                    )
        self._wanted = wanted
        self._found: dict[str, pstats.Stats] = {}
        self._calls: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, node_id: str) -> Profile:
        """Return the profile of a node.

        Raises:
            NotExecuted: None of its calls was profiled.
        """
        stats = self._found.get(node_id)
        if stats is None:
            why = f"profile=[{node_id!r}] asks for it"
            if self._missed.get(node_id):
                why = "another profiler was active during each of its calls"
            elif self._wants(node_id):
                why = "no call of it has ended"
            raise NotExecuted(f"node {node_id!r} was not profiled in this run: {why}")
        return Profile(node_id, stats, self._calls[node_id], self._missed.get(node_id, 0))

    def _wants(self, node_id: str) -> bool:
        return self._wanted if isinstance(self._wanted, bool) else node_id in self._wanted

    def around(self, run: Run, slot: int, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call*, profiled if its node's calls are to be."""
        node_id = str(run.plan.ids[slot])
        if not self._wants(node_id):
            return call
        if run.outside is not None and run.outside.profile(
            slot, lambda stats: self._add(node_id, stats)
        ):
            return call
        if run.plan.kinds[slot] & ASYNC:
            return lambda *values: _Stepwise(call(*values), self, node_id)

        def profiled(*values: Any) -> Any:
            with _Meter(self, node_id) as meter:
                return meter.run(call, *values)

        return profiled

    def _add(self, node_id: str, stats: Any) -> None:
        with self._lock:
            self._merge(node_id, stats)
            self._calls[node_id] = self._calls.get(node_id, 0) + 1

    def _merge(self, node_id: str, stats: Any) -> None:
        counted: Any = _Counted(stats)
        found = pstats.Stats(counted)
        known = self._found.get(node_id)
        self._found[node_id] = found if known is None else known.add(found)

    def _miss(self, node_id: str) -> None:
        with self._lock:
            self._missed[node_id] = self._missed.get(node_id, 0) + 1


class _Tracer:
    """Counts what this thread calls, and nothing of others.

    The standard library's `profile` would do, but it takes an error thrown into a coroutine that
    awaits another (any cancellation) for a fault of its own, and raises.

    Attributes:
        stats: `{function: (calls that are no recursion, calls, seconds inside without and with
            what was called, callers)}` as `pstats` reads it, with `{caller: the same four, but all
            calls first}`.
    """

    def __init__(self) -> None:
        self.stats: dict[_Function, _Stat] = {}
        # [function, when it began, seconds in what it called] of each call that goes on.
        self._stack: list[list[Any]] = []
        self._going_on: dict[_Function, int] = {}

    def runcall(self, function: Callable[..., Any], *values: Any) -> Any:
        """Call a function, counted."""
        sys.setprofile(self._on_event)
        try:
            return function(*values)
        finally:
            sys.setprofile(None)
            while self._stack:
                self._end(time.perf_counter())

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        now = time.perf_counter()
        if event == "call":
            code = frame.f_code
            self._begin((code.co_filename, code.co_firstlineno, code.co_name), now)
        elif event == "c_call":
            self._begin(("~", 0, argument.__name__), now)
        elif self._stack:  # a return, of this very function or of the call that began to count
            self._end(now)

    def _begin(self, function: _Function, now: float) -> None:
        self._going_on[function] = self._going_on.get(function, 0) + 1
        self._stack.append([function, now, 0.0])

    def _end(self, now: float) -> None:
        function, began, below = self._stack.pop()
        spent = now - began
        self._going_on[function] = others = self._going_on[function] - 1
        once = (0, 1, spent - below, 0.0) if others else (1, 1, spent - below, spent)
        *before, callers = self.stats.get(function, (0, 0, 0.0, 0.0, {}))
        self.stats[function] = (*_sum(before, once), callers)
        if self._stack:
            caller = self._stack[-1]
            caller[2] += spent
            first = (once[1], once[0], *once[2:])
            callers[caller[0]] = _sum(callers.get(caller[0], (0, 0, 0.0, 0.0)), first)


def _sum(one: Any, other: Any) -> Any:
    return tuple(map(operator.add, one, other))


class _Meter:
    """Profiles one call, which may come in pieces."""

    def __init__(self, profiles: Profiles, node_id: str) -> None:
        self._profiles = profiles
        self._node_id = node_id
        self._seen: list[Any] = []

    def run(self, function: Callable[..., Any], *values: Any) -> Any:
        """Call a function, profiled unless somebody else profiles this thread."""
        if sys.getprofile() is not None:
            return function(*values)
        if not _SHARED:
            return self._quickly(function, values)
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
        if monitoring.get_tool(monitoring.PROFILER_ID) is not None:
            return function(*values)
        if len(sys._current_frames()) == 1:  # `threading` does not know all threads
            return self._quickly(function, values)
        tracer = _Tracer()
        try:
            return tracer.runcall(function, *values)
        finally:
            self._seen.append(tracer.stats)

    def _quickly(self, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        profiler: Any = cProfile.Profile()
        try:
            return profiler.runcall(function, *values)
        finally:
            profiler.create_stats()
            self._seen.append(profiler.stats)

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._seen:
            self._profiles._miss(self._node_id)
            return
        *before, last = self._seen
        with self._profiles._lock:
            for stats in before:
                self._profiles._merge(self._node_id, stats)
        self._profiles._add(self._node_id, last)


class _Stepwise:
    """Awaits a coroutine and profiles it whenever it runs."""

    def __init__(self, coroutine: Any, profiles: Profiles, node_id: str) -> None:
        self._coroutine = coroutine
        self._profiles = profiles
        self._node_id = node_id

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        value: Any = None
        error: BaseException | None = None
        with _Meter(self._profiles, self._node_id) as meter:
            while True:
                try:
                    if error is None:
                        wish = meter.run(steps.send, value)
                    else:
                        wish = meter.run(steps.throw, error)
                except StopIteration as done:
                    return done.value
                try:
                    value, error = (yield wish), None
                except BaseException as raised:  # a cancellation is the coroutine's to see
                    value, error = None, raised
