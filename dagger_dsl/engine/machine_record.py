"""Recorded runs of state machines: from their rows back to the state in which they stood.

Each completed cycle is one row with the number of the cycle as its key; where it went is beside its
value, as a label. So nothing is decided again: the rows, in the order of their record, are the
history, and the last one says what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.machine import END, MachineState, Stored
from dagger_dsl.engine.state import NAMES, PENDING
from dagger_dsl.errors import InvalidState

if TYPE_CHECKING:
    from dagger_dsl.store.records import StoredNode

__all__ = ["Past", "place"]


@attrs.define
class Past:
    """What earlier processes recorded of a machine.

    Attributes:
        cycles: The completed cycles that count, in order.
        elsewhere: What a restored run has a slot for, but for the state that comes next: the last
            completed row of each.
    """

    cycles: list[StoredNode]
    elsewhere: dict[int, StoredNode]


def place(run: Run, attempts: Sequence[StoredNode]) -> Past:
    """Bring a machine to where its record ends, and note what its slots have to remember.

    Args:
        run: Freshly made.
        attempts: Its rows, in the order of the record.

    Raises:
        InvalidState: A row is of no state of the machine.
    """
    from dagger_dsl.engine.recorder import (  # which loads this module when it needs it
        is_stored,
        meta_of,
        restore_value,
        why_unstored,
    )

    state, index = run.state, run.plan.index
    assert isinstance(state, MachineState)
    cycles: list[StoredNode] = []
    open_: list[StoredNode] = []  # of the cycle that has not completed
    tried: dict[tuple[int, int], int] = {}
    for node in attempts:
        if node.node_id not in index:
            raise InvalidState(
                f"run {run.run_id} has a record of state {node.node_id!r}, which its machine has "
                "not; the database was changed from outside"
            )
        if node.started_at is None or not node.key.isdecimal():
            continue  # it ended without a call
        number, slot = int(node.key), index[node.node_id]
        tried[number, slot] = max(node.attempt, tried.get((number, slot), 0))
        if number > len(cycles):
            raise InvalidState(
                f"run {run.run_id} has a record of cycle {number}, none of cycle {len(cycles)}; "
                "the database was changed from outside"
            )
        if number < len(cycles):  # called again, as its value was not stored
            del cycles[number:]
            open_ = []
        if node.state == "completed":
            cycles.append(node)
            open_ = []
        else:
            open_.append(node)
    again = _unstored(cycles)
    if again is not None:
        cycles, open_ = cycles[:again], [cycles[again]]
    last = cycles[-1] if cycles else None
    state.resume(
        [index[node.node_id] for node in cycles],
        [
            Stored(node.value, None if is_stored(node) else why_unstored(run, index[node.node_id]))
            for node in cycles
        ],
        None if last is None else _target(run, last),
        {where: times for where, times in tried.items() if where[0] > len(cycles)},
    )
    elsewhere: dict[int, StoredNode] = {}
    for node in cycles:
        elsewhere[index[node.node_id]] = node
    here = state.current if state.left and not state.exceeded else None
    if here is not None:
        elsewhere.pop(here, None)
    if last is not None:
        run.board.values[run.plan.machine.carry] = last.value()
    for slot, node in elsewhere.items():
        restore_value(run, slot, node)
        run.attempts[slot] = node.attempt
        _date(run, slot, node)
        meta = meta_of(node)
        if meta:
            run.meta[slot] = meta
    for node in open_:
        slot = index[node.node_id]
        if slot != here:
            continue  # of a cycle that was called again and went elsewhere
        _date(run, slot, node)
        if node.error:
            run.stored_errors[slot] = ErrorInfo(**node.error)
        if node.state == "waiting":
            run.attempts[slot] = node.attempt
        else:
            run.tried(slot, tried[len(cycles), slot])
    return Past(cycles, elsewhere)


def _unstored(cycles: Sequence[StoredNode]) -> int | None:
    """Return the cycle to go back to when the last value was not stored; None when it was."""
    number = len(cycles)
    while number and (cycles[number - 1].meta or {}).get("stored", True) is False:
        number -= 1
    if number == len(cycles):
        return None
    if not (cycles[-1].meta or {}).get("labels"):
        return None  # it has ended the machine, and nobody takes its value
    return number


def _target(run: Run, node: StoredNode) -> int:
    labels = (node.meta or {}).get("labels")
    if not labels:
        return END
    name = labels[0]
    if name not in run.plan.index:
        raise InvalidState(
            f"run {run.run_id}: state {node.node_id!r} went on to {name!r}, which the machine "
            "has not; the database was changed from outside"
        )
    return run.plan.index[name]


def _date(run: Run, slot: int, node: StoredNode) -> None:
    if node.started_at is not None:
        run.before[slot] = (node.started_at, node.started_at + (node.duration or 0.0))


def shown_states(run: Run, nodes: Any) -> dict[int, str]:
    """Return how the states of a run that is only looked at ended, where that is on record.

    Args:
        run: Brought to where its record ends.
        nodes: The last row by node and key.
    """
    state = run.state
    assert isinstance(state, MachineState)
    found: dict[int, str] = {}
    for (node_id, key), node in nodes.items():
        slot = run.slot_named(node_id, key)
        if slot is None or state.status(slot) != PENDING:
            continue
        meta = node.meta or {}
        if "reason" in meta:
            state.reasons[slot] = str(meta["reason"])
        if node.state in NAMES and node.state not in ("pending", "waiting"):
            found[slot] = node.state
    return found
