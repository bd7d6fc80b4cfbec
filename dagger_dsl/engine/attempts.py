"""`AttemptReport`: one call of a node, for whoever wants to see more than the last one.

A run in memory keeps the attempts that others came after, the newest ones of each invocation. A
database has every attempt, so a resumed run and a recorded one know those of earlier processes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.words import duration
from dagger_dsl.errors import shown, visible
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.text import first_line

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.report import NodeReport
    from dagger_dsl.store.records import StoredNode

__all__ = [
    "KEPT",
    "NEXT",
    "Another",
    "AttemptReport",
    "attempt_of",
    "attempts_of_run",
    "last_attempt",
    "moment",
    "recorded_attempts",
    "waits_for_attempt",
]

#: How many attempts of an invocation a run keeps in memory, beside the last one.
KEPT: Final = 100

#: How the reason of a node begins that waits for its next attempt.
NEXT: Final = "waits for attempt "


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
    line = "" if error is None else visible(str(error), 300).strip().split("\n", 1)[0]
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
    """Return the attempts that are on record by node id, in the order in which they ended."""
    found: dict[str, list[AttemptReport]] = {}
    for row in rows:
        if row.started_at is None:  # an end without a call
            continue
        began, error = moment(row.started_at), row.error
        took = row.duration
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
    return found


def attempts_of_run(
    run: Run, report_of_slot: Callable[[int], NodeReport]
) -> Callable[[str], list[AttemptReport]]:
    """Return what gives the attempts of a run's node, as far as they are known here.

    Args:
        run: The run.
        report_of_slot: Returns how an invocation stands.
    """
    recorded: dict[str, list[AttemptReport]] = {}

    def attempts(node_id: str) -> list[AttemptReport]:
        if run.recorded and not recorded:
            recorded.update(recorded_attempts(run.recorded))
        plan = run.plan
        found = {(each.key, each.number): each for each in recorded.get(node_id, ())}
        slot = plan.index[node_id]
        below = [child for _, child in plan.children.below(slot) if child not in plan.mapped]
        for each in below or [slot]:
            key = plan.children.key(each)
            for number, start, end, error in tuple(run.tries.get(each, ())):
                # One without an error was taken back: another node had to be called again.
                state = NodeState.CANCELLED if error is None else NodeState.FAILED
                began, ended = moment(run.wall + start), moment(run.wall + end)
                found[key, number] = AttemptReport(
                    node_id, key, number, state, began, ended, end - start, error
                )
            last = last_attempt(report_of_slot(each))
            if last is not None:
                found.setdefault((last.key, last.number), last)
        return list(found.values())

    return attempts


def moment(epoch: float) -> dt.datetime:
    """Return a time of day of seconds since 1970."""
    return dt.datetime.fromtimestamp(epoch, tz=dt.UTC)
