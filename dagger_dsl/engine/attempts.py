"""`AttemptReport`: one call of a node, for whoever wants to see more than the last one.

A run in memory keeps the attempts that others came after, the newest ones of each invocation, and
the newest cycles of a machine. A database has every attempt, so a resumed run and a recorded one
know those of earlier processes.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import attrs

from dagger_dsl.engine.error_info import ErrorInfo, error_info, error_text
from dagger_dsl.engine.words import duration
from dagger_dsl.errors import DaggerError, shown, visible
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.text import first_line

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.report import NodeReport
    from dagger_dsl.store.records import StoredNode

__all__ = [
    "KEPT",
    "LAPS",
    "NEXT",
    "Another",
    "AttemptReport",
    "Calls",
    "Lap",
    "Try",
    "attempt_of",
    "attempts_of_run",
    "called_at",
    "from_epoch",
    "last_attempt",
    "recorded_attempts",
    "waits_for_attempt",
]


class Calls(Protocol):
    """What yields the attempts of a node."""

    def __call__(self, node_id: str, only: str | None = None, /) -> Iterator[AttemptReport]:
        """Yield those of all invocations, or of one by its key."""
        ...


#: How many attempts of an invocation a run keeps in memory, beside the last one.
KEPT: Final = 100

#: How the reason of a node begins that waits for its next attempt.
NEXT: Final = "waits for attempt "

#: How many cycles of a machine a run keeps the times of, beside the last one of each state.
LAPS: Final = 1_000

#: An attempt before the current one: number, start and end by the clock, and the error; without one
#: it was taken back.
Try: TypeAlias = "tuple[int, float, float, ErrorInfo | None]"

#: A cycle that a later one of its state came after: number, slot, start and end by the clock, and,
#: where there is more to say, its last attempt, those before it, and what a handler made good.
Lap: TypeAlias = (
    "tuple[int, int, float, float, tuple[int, tuple[Try, ...], BaseException | None] | None]"
)


@attrs.frozen
class AttemptReport:
    """One call of a node.

    Attributes:
        node_id: The node.
        key: Which invocation: of a mapped node its item, of a state the number of the cycle.
        number: Which call of the invocation, counted from 1 over all processes.
        state: How it ended: a `NodeState`; ``running`` while it has not.
        started_at, finished_at: Times of day (UTC); None where they are not known.
        duration: Seconds by the monotonic clock.
        error: What it failed with.
    """

    node_id: str
    key: str
    number: int
    state: NodeState
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    duration: float | None = None
    error: ErrorInfo | None = None

    def __repr__(self) -> str:
        key = "" if self.key == DEFAULT_KEY else f" [{visible(self.key, 80)}]"
        took = "" if self.duration is None else f" in {duration(self.duration)}"
        why = "" if self.error is None else f": {first_line(self.error)}"
        head = f"<AttemptReport {self.number} of {shown(self.node_id)}{key}"
        return f"{head}: {self.state}{took}{why}>"


def attempt_of(number: int, allowed: int | None) -> str:
    """Return in words which call of a node it is; *allowed* is None where that has no number."""
    return f"attempt {number}" if allowed is None else f"attempt {number} of {allowed}"


@attrs.frozen
class Another:
    """That another attempt follows one that failed; it is recorded beside the failure.

    Attributes:
        delay: Seconds between the two; None where that is not known.
        allowed: Calls that the retry policy allows in all; None where that has no number.
    """

    delay: float | None
    allowed: int | None

    def to_plain(self) -> dict[str, Any]:
        """Return it as it stands in the record."""
        return {"retry": {"delay": self.delay, "allowed": self.allowed}}

    @classmethod
    def of(cls, meta: Mapping[str, Any] | None) -> Another | None:
        """Return what stands beside a failure; None where it was the last one."""
        found = None if meta is None else meta.get("retry")
        if not isinstance(found, Mapping):
            return None
        delay, allowed = found.get("delay"), found.get("allowed")
        return cls(
            float(delay) if isinstance(delay, (int, float)) else None,
            allowed if isinstance(allowed, int) else None,
        )


def waits_for_attempt(number: int, allowed: int | None, error: object) -> str:
    """Return in words what a node waits for whose attempt failed.

    Args:
        number: The next attempt.
        allowed: Of how many, see `attempt_of`.
        error: What the last one failed with; None where that is not known.
    """
    line = "" if error is None else first_line(error, 300)
    which = attempt_of(number, allowed).removeprefix("attempt ")
    return f"{NEXT}{which}{': ' if line else ''}{line}"


def last_attempt(report: NodeReport) -> AttemptReport | None:
    """Return the last call of an invocation; None where none has begun."""
    if report.started_at is None or not report.attempts:
        return None
    state = report.state
    if state is NodeState.PENDING or report.recovered:  # it is called once more, or stood in for
        state = NodeState.FAILED
    return AttemptReport(
        report.node_id,
        report.key,
        report.attempts,
        state,
        report.started_at,
        report.finished_at,
        report.duration,
        report.error,
    )


def recorded_attempts(rows: Iterable[StoredNode]) -> dict[str, list[AttemptReport]]:
    """Return the attempts that are on record by node id, in the order in which they ended.

    Nobody calls a mapped node as a whole: its own row, which sums up its items, is none of them.
    """
    found: dict[str, list[AttemptReport]] = {}
    keyed: set[str] = set()
    for row in rows:
        if row.started_at is None:  # an end without a call
            continue
        began, error = from_epoch(row.started_at), row.error
        took = row.duration
        if row.key != DEFAULT_KEY:
            keyed.add(row.node_id)
        found.setdefault(row.node_id, []).append(
            AttemptReport(
                row.node_id,
                row.key,
                row.attempt,
                NodeState(row.state),
                began,
                None if took is None else began + dt.timedelta(seconds=took),
                took,
                None if error is None else ErrorInfo(**error),
            )
        )
    for node_id in keyed:
        found[node_id] = [each for each in found[node_id] if each.key != DEFAULT_KEY]
    return found


def attempts_of_run(run: Run, *, brief: bool = False) -> Calls:
    """Return what yields the attempts of a run's node, as far as they are known here.

    It is given the node, and the key of an invocation or None for all.

    Args:
        run: The run.
        brief: Whether errors come without their tracebacks, which take long to write down.
    """
    told = error_text if brief else error_info

    @functools.cache
    def recorded() -> dict[str, list[AttemptReport]]:
        history, laps = run.history, run.laps
        left_out = history is not None and history.cycles > len(laps or ()) + len(run.plan.index)
        return recorded_attempts(_rows(run) if left_out else run.recorded)

    def attempts(node_id: str, only: str | None = None, /) -> Iterator[AttemptReport]:
        here = _calls_here(run, node_id, only, told)
        before = recorded().get(node_id)
        if not before:
            yield from here
            return
        found = {(each.key, each.number): each for each in before if only in (None, each.key)}
        for each in here:
            found.setdefault((each.key, each.number), each)
        yield from found.values()

    return attempts


def _calls_here(
    run: Run, node_id: str, only: str | None, told: Callable[[BaseException], ErrorInfo]
) -> Iterator[AttemptReport]:
    """Yield the attempts that this process has made and still knows."""
    plan = run.plan
    slot = plan.index[node_id]
    if only is not None and plan.machine is None:
        here = run.slot_named(node_id, only)
        if here is not None and here not in plan.mapped:
            yield from _calls_of_slot(run, node_id, only, here, told)
        return
    for number, where, start, end, more in list(run.laps or ()):
        if where == slot and start and only in (None, str(number)):
            yield from _lap(run, node_id, str(number), start, end, more, told)
    some = False
    for key, child in plan.children.below(slot):
        if child not in plan.mapped:
            some = True
            yield from _calls_of_slot(run, node_id, key, child, told)
    key = plan.children.key(slot)
    if not some and only in (None, key):
        yield from _calls_of_slot(run, node_id, key, slot, told)


def _lap(
    run: Run,
    node_id: str,
    key: str,
    start: float,
    end: float,
    more: tuple[int, tuple[Try, ...], BaseException | None] | None,
    told: Callable[[BaseException], ErrorInfo],
) -> Iterator[AttemptReport]:
    last, tries, mended = (1, (), None) if more is None else more
    for each in tries:
        yield _try(run, node_id, key, each)
    state = NodeState.COMPLETED if mended is None else NodeState.FAILED
    error = None if mended is None else told(mended)
    yield _attempt(run, node_id, key, last, state, start, end, error)


def _calls_of_slot(
    run: Run,
    node_id: str,
    key: str,
    slot: int,
    told: Callable[[BaseException], ErrorInfo],
) -> Iterator[AttemptReport]:
    """Yield the attempts of one invocation, the last one last."""
    for each in tuple(run.tries.get(slot, ())):
        yield _try(run, node_id, key, each)
    meta = run.meta.get(slot, {})
    number = 0 if run.is_cached(slot) or "reused" in meta else run.attempts_made(slot)
    began, ended = called_at(run, slot)
    if began is None or not number:
        return
    state, recovered = run.states_of(slot), bool(meta.get("recovered"))
    error = None
    if state is NodeState.FAILED or recovered:
        raised = run.errors.get(slot)
        error = run.stored_errors.get(slot) if raised is None else told(raised)
    if state is NodeState.PENDING or recovered:  # it is called once more, or stood in for
        state = NodeState.FAILED
    yield AttemptReport(
        node_id,
        key,
        number,
        state,
        from_epoch(began),
        None if ended is None else from_epoch(ended),
        None if ended is None else ended - began,
        error,
    )


def _try(run: Run, node_id: str, key: str, each: Try) -> AttemptReport:
    number, start, end, error = each
    state = NodeState.CANCELLED if error is None else NodeState.FAILED
    return _attempt(run, node_id, key, number, state, start, end, error)


def _attempt(
    run: Run,
    node_id: str,
    key: str,
    number: int,
    state: NodeState,
    start: float,
    end: float,
    error: ErrorInfo | None,
) -> AttemptReport:
    began, ended = from_epoch(run.wall + start), from_epoch(run.wall + end)
    return AttemptReport(node_id, key, number, state, began, ended, end - start, error)


def called_at(run: Run, slot: int) -> tuple[float | None, float | None]:
    """Return when the last call of an invocation began and ended, in seconds since 1970.

    None where there was none, or where it has not ended.
    """
    start, end = run.board.started[slot], run.board.ended[slot]
    earlier = None
    if start == 0.0:
        earlier = run.before.get(slot)
        if earlier is None:
            return None, None
    # A thread that was left behind may still come back; the report does not change any more.
    late = run.finished is not None and slot not in run.before and end > run.finished
    start, end = (run.wall + start, run.wall + end) if earlier is None else earlier
    return start, None if end < start or late else end


def _rows(run: Run) -> Sequence[StoredNode]:
    """Return what is on record of a run; what cannot be read is what is not known."""
    from dagger_dsl.store.urls import is_memory_url

    store, url = run.store, run.options.database_url
    if store is None or url is None:
        return run.recorded
    try:
        if not store.database.is_closed:
            return store.load_run(run.run_id).attempts
        if is_memory_url(url):
            return run.recorded
        from dagger_dsl.store.storage import Store

        with Store(url) as again:
            return again.load_run(run.run_id).attempts
    except DaggerError:  # it was moved, or is damaged: whoever resumes the run is told
        return run.recorded


def from_epoch(epoch: float) -> dt.datetime:
    """Return a time of day of seconds since 1970."""
    return dt.datetime.fromtimestamp(epoch, tz=dt.UTC)
