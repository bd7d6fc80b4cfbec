"""`pulse_of`: how a run stands at this moment, read by another thread while it goes on.

Displays look a few times a second; the run does nothing for them. What is read are tables that the
coordinator and the workers keep anyway, so two readings of one pulse may be a moment apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs

from dagger_dsl.engine.attempts import attempt_of
from dagger_dsl.engine.error_info import error_text
from dagger_dsl.engine.state import COMPLETED, FAILED, NAMES, PENDING, WAITING
from dagger_dsl.errors import visible
from dagger_dsl.model.context import DEFAULT_KEY, call_name
from dagger_dsl.model.text import first_line

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["Doing", "EndedNode", "Pulse", "Pulses", "TableChanged", "Watch"]

T = TypeVar("T")

#: So many nodes are told of that wait for another attempt, and that failed; nobody reads more.
_ROWS: Final = 1000

#: Of so many that failed it is told with what.
_TOLD: Final = 20

#: How often a table is read that changes while it is read, before it is taken for empty.
_TRIES: Final = 20


class TableChanged(Exception):  # between two rooms, never shown to users
    """A table of the run changed each time that it was read; the next look finds it whole."""


@attrs.frozen
class Doing:
    """Something that goes on.

    Attributes:
        name: The node, with the key of its invocation.
        seconds: How long it has run, or until its next attempt; None where neither is known.
        text: What else there is to say.
        part: Of what has parts, how many have ended and how many there are.
    """

    name: str
    seconds: float | None = None
    text: str = ""
    part: tuple[int, int] | None = None


@attrs.frozen
class EndedNode:
    """Something that has ended since the last look.

    Attributes:
        name: The node.
        state: How it ended.
        seconds: How long its last call took; None where there was none.
        text: What it failed with.
    """

    name: str
    state: str
    seconds: float | None = None
    text: str = ""


@attrs.frozen
class Pulse:
    """How a run stands.

    Attributes:
        name: What runs.
        run_id: The run.
        status: Its `RunStatus`.
        reason: Why it is paused or cancelled.
        elapsed: Seconds since it began.
        done: Nodes that have ended; of a state machine, cycles.
        total: Nodes there are; None for a state machine.
        fraction: How much of it is done, the items of mapped nodes counted; None for a machine.
        calls: Invocations, or cycles, that have ended, for a rate.
        failed: How many nodes failed.
        running: What is being called, and mapped nodes with how far they have come.
        waiting: What waits for another attempt.
        asking: What waits for a person.
        failures: What failed for good: the error's first line.
        ended: Nodes that have ended since the last look, as far as they were asked for, the first
            one first.
        left: Invocations that have not ended; None for a machine.
        mark: Changes when a state does.
    """

    name: str
    run_id: str
    status: str
    reason: str
    elapsed: float
    done: int
    total: int | None
    fraction: float | None
    calls: int
    failed: int
    running: tuple[Doing, ...]
    waiting: tuple[Doing, ...]
    asking: tuple[Doing, ...]
    failures: tuple[Doing, ...]
    ended: tuple[EndedNode, ...]
    left: int | None
    mark: Any


class Pulses(Protocol):
    """What knows how something stands; asked by one thread at a time."""

    def take(self, named: int = 0) -> Pulse:
        """Return how it stands now; see `Watch.take`."""


class Watch:
    """Takes the pulse of one run again and again; used by one thread at a time.

    Args:
        run: The run, about to begin.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told: dict[int, tuple[float, float, str]] = {}
        run.watch_progress = self._note
        self._codes = run.state.statuses()
        self._cycle = self._cycles()
        self._calls_before = self._calls()

    def take(self, named: int = 0) -> Pulse:
        """Return how the run stands now.

        Args:
            named: Of a run with no more nodes than so many, all that have ended since the last look
                are named; of a larger one those that failed, and one of those that ended last. Of
                a state machine, so many of the last cycles. 0 names none.
        """
        run = self._run
        state, now = run.state, run.board.clock()
        end = now if run.finished is None else run.finished
        before, codes = self._codes, state.statuses()
        self._codes = codes
        over = run.finished is not None
        machine = run.plan.machine is not None
        flying = () if over else self._flying(codes)
        calls = self._calls()
        done = self._cycles() if machine else self._count(codes)
        whole = max(1, state.expected - run.silent)
        return Pulse(
            name=run.dag_name,
            run_id=run.run_id,
            status=str(run.status),
            reason=run.reason,
            elapsed=max(0.0, end - run.began),
            done=done,
            total=None if machine else len(run.plan.index),
            fraction=None if machine else min(1.0, (calls + self._partly(flying)) / whole),
            calls=calls - self._calls_before,
            failed=codes.count(FAILED),
            running=() if over else tuple(self._running(codes, flying, now)),
            waiting=() if over else tuple(islice(self._waiting(codes, now), _ROWS)),
            asking=tuple(self._asking()),
            failures=tuple(islice(self._failures(codes), _ROWS)),
            ended=tuple(self._ended(before, codes, named)) if named else (),
            left=None if machine else max(0, state.left),
            mark=(codes, flying, done, len(run.attempts), over),
        )

    def _note(self, node_id: str, key: str, fraction: float, text: str) -> None:
        """Take how far a node says that it has come; from any thread."""
        slot = self._run.slot_named(node_id, key)
        if slot is not None:
            self._told[slot] = (self._run.board.started[slot], fraction, text)

    def _own(self, slot: int) -> tuple[float, str] | None:
        """Return how far the node has come in this very call, by its own word."""
        told = self._told.get(slot)
        if told is None or told[0] != self._run.board.started[slot]:
            return None
        return told[1:]

    # --- counting ---------------------------------------------------------------------------------

    def _cycles(self) -> int:
        state: Any = self._run.state
        if self._run.plan.machine is None:
            return 0
        return int(state.cycle) + (state.exceeded or not state.left)

    def _calls(self) -> int:
        """Return how many invocations have ended."""
        state = self._run.state
        if self._run.plan.machine is not None:
            return self._cycles()
        return max(0, state.expected - self._run.silent - state.left)

    def _count(self, codes: bytes) -> int:
        """Return how many nodes have ended."""
        plan = self._run.plan
        if plan.machine is not None:
            return 0
        if not plan.keyed:  # what is no node is pending for ever
            return len(codes) - codes.count(PENDING) - codes.count(WAITING)
        slots = _copied(plan.index.values)
        return sum(codes[slot] >= COMPLETED for slot in slots if slot < len(codes))

    # --- what goes on -----------------------------------------------------------------------------

    def _flying(self, codes: bytes) -> tuple[int, ...]:
        """Return what is being called."""
        board = self._run.board
        slots = dict.fromkeys(_copied(lambda: board.flight))
        return tuple(
            slot
            for slot in slots
            if 0 <= slot < len(codes)
            and codes[slot] == PENDING
            and board.started[slot] > board.ended[slot]
        )

    def _partly(self, flying: tuple[int, ...]) -> float:
        """Return how much is done of what is being called."""
        return sum(own[0] for slot in flying if (own := self._own(slot)) is not None)

    def _running(self, codes: bytes, flying: tuple[int, ...], now: float) -> Iterable[Doing]:
        run = self._run
        began = run.board.started
        plan, maps = run.plan, self._maps(codes)
        busy = dict.fromkeys(maps, 0)
        for slot in flying:
            top = run.top(slot)
            if top in busy:
                busy[top] += 1
            else:
                text, part = self._inside(slot)
                own = self._own(slot)
                if own is not None:
                    text = f"{int(own[0] * 100)}%  {visible(own[1], 200)}"
                yield Doing(str(plan.ids[slot]), now - began[slot], text, part)
        for slot, (ended, failed, total) in maps.items():
            told = [f"{failed} failed"] if failed else []
            if busy[slot] > 1:
                told.append(f"{busy[slot]} at a time")
            since = began[slot] if began[slot] else run.began
            yield Doing(str(plan.ids[slot]), now - since, ", ".join(told), (ended, total))

    def _maps(self, codes: bytes) -> dict[int, tuple[int, int, int]]:
        """Return how far the mapped nodes have come that have begun and not ended."""
        plan, found = self._run.plan, {}
        for slot in _copied(lambda: plan.mapped):
            if slot in plan.parents or slot >= len(codes) or codes[slot] >= COMPLETED:
                continue
            ended = failed = total = 0
            for items in _copied(lambda slot=slot: plan.children.ranges(slot)):  # type: ignore[misc]
                part = codes[items.start : items.stop]
                total += len(items)
                ended += len(part) - part.count(PENDING) - part.count(WAITING)
                failed += part.count(FAILED)
            if total:
                found[slot] = (ended, failed, total)
        return found

    def _inside(self, slot: int) -> tuple[str, tuple[int, int] | None]:
        """Return how far the run inside of a node has come."""
        nursery = self._run.nursery
        child = None if nursery is None else nursery.run_of(slot)
        if child is None:
            return "", None
        if child.plan.machine is not None:
            return f"cycle {child.state.cycle + 1}", None  # type: ignore[attr-defined]
        codes, slots = child.state.statuses(), _copied(child.plan.index.values)
        ended = sum(slot < len(codes) and codes[slot] >= COMPLETED for slot in slots)
        return "", (ended, len(slots))

    def _waiting(self, codes: bytes, now: float) -> Iterable[Doing]:
        run = self._run
        for slot, when in _copied(run.next_try.items):
            if slot >= len(codes) or codes[slot] != WAITING or slot in run.state.asking:
                continue
            attempt = attempt_of(run.attempts.get(slot, 1), run.allowed(slot))
            text = f"{attempt}{self._error(slot)}"
            yield Doing(self._name(slot), max(0.0, when - now), text)

    def _asking(self) -> Iterable[Doing]:
        run = self._run
        for slot in sorted(_copied(lambda: run.state.asking)):
            question = run.asked.get(slot)
            yield Doing(self._name(slot), None, "" if question is None else question.prompt)

    def _failures(self, codes: bytes) -> Iterable[Doing]:
        run = self._run
        if FAILED not in codes:
            return
        told = 0
        for slot in _copied(lambda: run.errors):
            if slot < len(codes) and codes[slot] == FAILED and slot not in run.plan.parents:
                told += 1  # a stranger's `str` may take its time
                text = self._error(slot).removeprefix(": ") if told <= _TOLD else ""
                yield Doing(self._name(slot), None, text)

    def _error(self, slot: int) -> str:
        error = self._run.errors.get(slot)
        return "" if error is None else f": {first_line(error_text(error), 300)}"

    def _name(self, slot: int) -> str:
        plan = self._run.plan
        key = plan.children.key(slot) if slot in plan.parents else DEFAULT_KEY
        return call_name(str(plan.ids[slot]), key)

    # --- what has ended ---------------------------------------------------------------------------

    def _ended(self, before: bytes, codes: bytes, named: int) -> Iterable[EndedNode]:
        """Yield what has ended since the last look, in the order in which it did."""
        run, plan = self._run, self._run.plan
        if plan.machine is not None:
            yield from self._ended_cycles(named)
            return
        if before == codes:
            return
        board = run.board
        before += bytes(len(codes) - len(before))
        slots = [
            slot
            for slot in self._suspects(codes, named)
            if codes[slot] != before[slot] and codes[slot] >= COMPLETED
        ]
        # What was not called ended because of something that was.
        for slot in sorted(slots, key=lambda slot: board.ended[slot] or math.inf):
            start, end = board.started[slot], board.ended[slot]
            took = end - start if start and end >= start else None
            error = "" if codes[slot] != FAILED else self._error(slot).removeprefix(": ")
            yield EndedNode(self._name(slot), NAMES[codes[slot]], took, error)

    def _suspects(self, codes: bytes, named: int) -> list[int]:
        """Return the nodes that are worth a look whether they have ended."""
        run, plan = self._run, self._run.plan
        if len(plan.index) <= named:
            return [slot for slot in _copied(plan.index.values) if slot < len(codes)]
        ended = run.board.ended
        last = [
            slot
            for slot in dict.fromkeys(_copied(lambda: run.board.flight))
            if 0 <= slot < len(codes) and codes[slot] >= COMPLETED and codes[slot] != FAILED
        ]
        found = sorted(last, key=lambda slot: ended[slot])[-1:]
        if FAILED in codes:
            errors = _copied(lambda: run.errors)
            found += [slot for slot in errors if slot < len(codes) and codes[slot] == FAILED]
        return [slot for slot in found if slot not in plan.parents]

    def _ended_cycles(self, named: int) -> Iterable[EndedNode]:
        state: Any = self._run.state
        before, self._cycle = self._cycle, self._cycles()
        new = min(named, self._cycle - before)
        if new <= 0:
            return
        for slot in _copied(lambda: _last(state.seen, new)):
            yield EndedNode(str(self._run.plan.ids[slot]), "completed")


def _last(seen: Any, number: int) -> list[int]:
    return seen[-number:] if isinstance(seen, list) else list(seen)[-number:]


def _copied(table: Callable[[], Iterable[T]]) -> list[T]:
    """Return what a table holds that another thread changes."""
    for _ in range(_TRIES):
        try:
            return list(table())
        except (RuntimeError, IndexError):  # it changed while it was read
            continue
    raise TableChanged
