"""The chain of calls that the end of a run hung on.

It is found backwards: from the call that ended last to what it waited for, and so on to the
beginning of the run. A call begins when the last of its inputs is there and a worker is free for
it. Where it began later than its inputs were there, and a call ended just before on a run that was
fully occupied, it waited for that call's worker; this is how tools for traces of programs find
critical paths, too: an edge for each dependency and one for each hand-over of a resource.

Times are seconds since 1970 throughout.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.views.timeline import Lane

__all__ = ["Spans", "Step", "critical_path", "steps_of_run"]

#: Seconds: how exactly times of day can be told apart; floats of them have 22 bits for a second.
EXACT: Final = 1e-6

#: Seconds: how much earlier than its end a call of a record, or of another process, may seem to
#: have been followed: clocks are read in turn.
SLACK: Final = 0.001

#: Seconds that a free worker may take to go on: a commit to disk lies between, perhaps.
HANDOVER: Final = 0.05

#: The same for another attempt, which may have waited for its time as well.
AT_ONCE: Final = 0.005


@attrs.frozen(eq=False)
class Spans:
    """When the calls of one node began and ended, in order of start.

    Attributes:
        starts, ends: Of each call.
        before: By the place of a call that was another attempt, the place of the one before it.
    """

    starts: array[float]
    ends: array[float]
    before: Mapping[int, int] = attrs.field(factory=dict)


@attrs.frozen
class Step:
    """One node of the chain, with as many of its calls as follow each other there.

    Attributes:
        node_id: The node.
        why: What the first of the calls waited for: ``result`` of the step before, its ``worker``,
            or the ``run``.
        waited: Seconds from the end of the step before, or the beginning of the run, in which
            nothing of the chain went on.
        seconds: From then until its end, or until the next step began; waits between attempts
            included.
        calls: How many calls those are.
    """

    node_id: str
    why: str
    waited: float
    seconds: float
    calls: int = 1


def steps_of_run(report: RunReport, lanes: Collection[Lane]) -> list[Step]:
    """Return the critical path of a run; of a state machine, whose every cycle counts, nothing."""
    if report.graph.machine is not None or not lanes:
        return []
    spans = {lane.node_id: lane.spans for lane in lanes if lane.spans is not None}
    began = None if report.started_at is None else report.started_at.timestamp()
    # A record does not say how many workers there were.
    workers = None if report._run is None else report.workers
    return critical_path(spans, report.graph.dependencies_of, workers, began)


def critical_path(
    spans: Mapping[str, Spans],
    dependencies: Callable[[str], Collection[str]],
    workers: int | None = None,
    began: float | None = None,
) -> list[Step]:
    """Return the chain of calls that a run's end hung on, first to last.

    Of a dependency that was not called, such as one that was skipped, its own count.

    Args:
        spans: The calls of each node that was called.
        dependencies: Returns what a node depends on.
        workers: How many calls could be made at the same time; by default as many as ever were.
        began: When the run began; by default with the first call. Calls that were made before it,
            by earlier processes, are none of its steps.
    """
    calls = _Calls(spans, dependencies, workers, began)
    return calls.steps()


class _Calls:
    """The calls of a run, numbered, with what each of them waited for."""

    def __init__(
        self,
        spans: Mapping[str, Spans],
        dependencies: Callable[[str], Collection[str]],
        workers: int | None,
        began: float | None,
    ) -> None:
        self._spans = spans
        self._dependencies = dependencies
        self._called: dict[str, list[str]] = {}
        self._names = list(spans)
        self._first: dict[str, int] = {}
        self._starts, self._ends = array("d"), array("d")
        for name, each in spans.items():
            self._first[name] = len(self._starts)
            self._starts.extend(each.starts)
            self._ends.extend(each.ends)
        self._firsts = [*self._first.values()]
        self._by_end = sorted(range(len(self._ends)), key=self._ends.__getitem__)
        self._all_ends = array("d", (self._ends[each] for each in self._by_end))
        self._all_starts = array("d", sorted(self._starts))
        self._of: dict[str, tuple[list[int], list[float]]] = {}
        self._workers = workers if workers is not None else self._most()
        self._began = began if began is not None else min(self._all_starts, default=0.0)

    def steps(self) -> list[Step]:
        """Return the chain, calls of one node that follow each other taken together."""
        found: list[Step] = []
        name, why = "", ""
        waited = seconds = 0.0
        many = 0
        for call, reason, since, until in self._chain():
            here, start = self._name(call), self._starts[call]
            if many and here != name:
                found.append(Step(name, why, waited, seconds, many))
                waited = seconds = 0.0
                many = 0
            name, why = here, reason
            seconds += waited + max(start, min(self._ends[call], until)) - start
            waited = max(0.0, start - since)
            many += 1
        if many:
            found.append(Step(name, why, waited, seconds, many))
        return found[::-1]

    def _chain(self) -> Iterator[tuple[int, str, float, float]]:
        """Yield calls, last to first, with what explains them.

        That is why each began when it did, since when nothing of the chain had gone on by then, and
        when the next one began.
        """
        self._seen: set[int] = set()
        if not self._by_end or self._all_ends[-1] < self._began:
            return
        here, until = self._by_end[-1], self._all_ends[-1]
        while True:
            self._seen.add(here)
            before, why = self._waited_for(here)
            start = self._starts[here]
            if before is None or before in self._seen or self._is_old(before):
                yield here, "run", self._began, until
                return
            yield here, why, min(self._ends[before], start), until
            here, until = before, start

    def _is_old(self, call: int) -> bool:
        return self._ends[call] < self._began - SLACK

    def _waited_for(self, call: int) -> tuple[int | None, str]:
        """Return the call that another one waited for, None for the run itself, and for what."""
        name, start = self._name(call), self._starts[call]
        first = self._first[name]
        tried = self._spans[name].before.get(call - first)
        if tried is not None:
            # How long the policy waits is not known: only what is followed at once counts.
            source: int | None = first + tried
            freed = self._freed(call, start, self._ends[first + tried], AT_ONCE)
        else:
            source = self._source(name, start)
            ready = self._began if source is None else min(self._ends[source], start)
            freed = self._freed(call, start, ready, HANDOVER)
        return (source, "result") if freed is None else (freed, "worker")

    def _source(self, name: str, start: float) -> int | None:
        """Return the call of a dependency that ended last before a time."""
        in_time: list[int] = []
        others: list[int] = []
        for each in self._called_before(name):
            order, ends = self._ended(each)
            place = bisect_right(ends, start + EXACT) - 1
            if place < 0:
                place = bisect_right(ends, start + SLACK) - 1
            (in_time if place >= 0 else others).append(order[max(place, 0)])
        if in_time:
            return max(in_time, key=lambda each: (self._ends[each], self._starts[each]))
        # One that went on longer was a stream.
        begun = [each for each in others if self._starts[each] <= start]
        return max(begun, key=lambda each: self._starts[each], default=None)

    def _freed(self, call: int, start: float, ready: float, within: float) -> int | None:
        """Return the call whose worker another one took that was ready before that was free."""
        place = bisect_right(self._all_ends, start + EXACT) - 1
        # Of calls as short as times are exact, the next one may seem to have begun no later.
        earlier = (self._by_end[each] for each in range(place, -1, -1))
        found = next(
            (each for each in earlier if each not in self._seen and self._starts[each] <= start),
            None,
        )
        if found is None:
            return None
        end = self._ends[found]
        if end <= ready + EXACT:
            return None
        if self._name(found) == self._name(call):  # a map goes through its items
            return found
        # What ran just before it ended, itself included.
        running = bisect_left(self._all_starts, end) - bisect_left(self._all_ends, end)
        return found if start - end <= within and max(running, 1) >= self._workers else None

    # --- what is looked up --------------------------------------------------------------------

    def _name(self, call: int) -> str:
        return self._names[bisect_right(self._firsts, call) - 1]

    def _ended(self, name: str) -> tuple[list[int], list[float]]:
        """Return the calls of a node in the order of their ends, and the ends."""
        found = self._of.get(name)
        if found is None:
            first = self._first[name]
            many = len(self._spans[name].ends)
            order = sorted(range(first, first + many), key=self._ends.__getitem__)
            found = self._of[name] = (order, [self._ends[each] for each in order])
        return found

    def _called_before(self, name: str) -> list[str]:
        """Return the dependencies of a node that were called, or theirs."""
        found = self._called.get(name)
        if found is not None:
            return found
        found = self._called[name] = []
        todo, seen = [*self._dependencies(name)], {name}
        while todo:
            each = todo.pop()
            if each in seen:
                continue
            seen.add(each)
            if each in self._first:
                found.append(each)
            else:
                todo += self._dependencies(each)
        return found

    def _most(self) -> int:
        """Return how many calls went on at the same time, at most."""
        most = ended = 0
        for begun, start in enumerate(self._all_starts, start=1):
            while self._all_ends[ended] <= start and ended < begun - 1:
                ended += 1
            most = max(most, begun - ended)
        return most
