"""`Outcomes`: what becomes of a call that has come back.

A value completes its node, an exception is tried again, handed to whatever stands in for the node,
or fails it, and everything else that a body can return means what it says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from dagger_dsl.engine.course import Course
from dagger_dsl.engine.instance import error_info
from dagger_dsl.engine.invoke import bind_fallback, bind_handler
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.state import COMPLETED, PENDING
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import (
    DaggerError,
    EncodingError,
    LimitExceeded,
    MapError,
    NodeExecutionError,
    NodeFailure,
    NodeTimeout,
    OutputError,
    shown,
)
from dagger_dsl.model.context import Branch, NodeOutcome, NodeOutput, labels_of, no_label
from dagger_dsl.model.events import NodeCompleted, NodeFailed, NodeRetrying
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.retry import decide, effective_policy
from dagger_dsl.runners.base import ANSWERS, Overran, Writing, Yielded

__all__ = ["Outcomes", "Withdrawn"]

logger = logging.getLogger("dagger_dsl.engine")


class Withdrawn(Exception):  # an outcome between rooms, never shown to users
    """A call was taken but not begun when the run was stopped."""


class Outcomes:
    """Takes the outcomes of one run.

    Args:
        course: Where the run stands.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._run = run = course.run
        self._plan, self._state, self._board = course.plan, course.state, course.board
        self._journal, self._records = course.journal, course.records
        self._first_start: dict[int, float] = {}
        every = run.config.review_frequency
        self._reviews = every is not None
        # A value of a run in memory, which nobody is shown, needs nothing but its edges.
        self._looks_at_each = self._reviews or not (
            run.journal is None and self._course.watcher is None
        )
        self._completions = len(run.restored)
        self._reviewed = 0 if every is None else self._completions // every

    def completed(self, slots: list[int]) -> None:
        """Record calls that returned a plain value."""
        plan, run, state = self._plan, self._run, self._state
        # As a bool: the dict itself empties meanwhile.
        rare = bool(run.handling or plan.parts or plan.labelled)
        easy: list[int] = []
        course = self._course
        # What is shared with other runs is kept for them, wherever this one is recorded.
        looks = rare or self._looks_at_each or bool(plan.cached)
        if not (looks or course.left_behind or course.dropped):
            easy, slots = slots, []
        for slot in slots:
            if slot in course.left_behind:
                course.left_behind.discard(slot)
                course.flying += 1  # it was written off before
            elif course.dropped and slot in course.dropped:
                state.complete(easy)
                easy = []
                course.cancelled(slot)
            elif rare and (slot in run.handling or slot in plan.parts or slot in plan.labelled):
                state.complete(easy)
                easy = []
                self.answer(slot, self._board.values[slot], None)
            elif self._record(slot, self._board.values[slot]):
                easy.append(slot)
        state.complete(easy)
        if course.maps is not None:
            course.maps.ended(easy)

    def complete(self, slot: int, value: Any, label: Any, split: bool) -> None:
        """Record one completion with everything that can come with it: parts, labels, metadata."""
        plan, run = self._plan, self._run
        try:
            if isinstance(value, Iterator):
                raise OutputError(self._unfinished(slot, value))
            parts = plan.split(slot, value, always=split)
            labels = None
            if slot in plan.labelled:
                labels = labels_of(value if label is None else label)
                if labels is None:
                    raise OutputError(f"node {plan.ids[slot]!r}: {no_label(value)}")
                run.meta.setdefault(slot, {})["labels"] = sorted(labels)
        except OutputError as error:
            self.fail(slot, error)
            return
        self._board.values[slot] = value
        if not self._record(slot, value):
            return
        for where, part in parts:
            self._board.values[where] = part
        self._state.complete_with(slot, labels)
        if self._course.maps is not None:
            self._course.maps.ended((slot,))

    def _record(self, slot: int, value: Any) -> bool:
        """Put a completion into the next commit; False when its value has no stored form."""
        error = self._records.completed(slot, value)
        if error is not None:
            self.fail(slot, error)
            return False
        if self._course.watcher is not None:
            self._course.events += completions(self._run, (slot,))
        if self._reviews:
            self._review()
        return True

    def _review(self) -> None:
        """Count a completion, and stop for a review where one is due."""
        every = self._run.config.review_frequency
        self._completions += 1
        if every is not None and self._completions // every > self._reviewed:
            self._reviewed = self._completions // every
            if not (self._course.stopping or self._state.stopped):
                self._course.pause(f"review after {self._completions} completed nodes")

    def answered(self, slot: int, answer: Any, now: float) -> None:
        """Take an outcome that is not a plain value."""
        if slot in self._course.left_behind:
            self._course.left_behind.discard(slot)
            self._course.flying += 1
        elif isinstance(answer, BaseException):
            self.raised(slot, answer, now)
        elif isinstance(answer, (CoroutineType, AsyncGeneratorType, Iterator)):
            if not isinstance(answer, CoroutineType) and self._feeds(slot, answer):
                return
            if isinstance(answer, (CoroutineType, GeneratorType)):
                answer.close()
            self.raised(slot, OutputError(self._unfinished(slot, answer)), now)
        elif isinstance(answer, Yielded):
            self._course.maps_now().take(slot, answer, now)
        elif slot in self._course.dropped:  # whatever it is
            self._course.cancelled(slot)
        elif isinstance(answer, HumanRequest):
            self._course.desk.ask(slot, answer)
        elif isinstance(answer, Writing):
            self._insert(slot, answer, now)
        elif isinstance(answer, Branch):
            self.answer(slot, answer.value, answer.label)
        elif answer.commands and not self._course.desk.decided(slot, answer):
            return
        elif not answer.succeeded:
            self._note(slot, answer)
            self.fail(slot, NodeFailure(answer.message or "the node answered failure"))
        else:
            self._note(slot, answer)
            inner = answer.outputs
            if isinstance(inner, Branch):
                self.answer(slot, inner.value, inner.label)
            elif isinstance(inner, HumanRequest):
                self._course.desk.ask(slot, inner)
            else:
                self.answer(slot, inner, None, split=answer.split)

    def _insert(self, slot: int, writing: Writing, now: float) -> None:
        """Take an answer and, if it counts, what its call wrote into the run's cache."""
        run, journal, answer = self._run, self._journal, writing.answer
        stored = {}
        try:
            if journal is not None:
                stored = {
                    name: journal.encode(value, ".".join(name))
                    for name, value in writing.written.items()
                }
        except EncodingError as error:
            self.fail(slot, error)
            return
        # A failure handler that changes nothing may still have left something to read.
        counts = slot in run.handling and isinstance(answer, NodeOutput) and answer.outputs is None
        if answer.__class__ in ANSWERS:
            self.answered(slot, answer, now)
        else:
            self.answer(slot, answer, None)
        if counts or self._state.status(slot) == COMPLETED:
            run.inserted.update(writing.written)
            if journal is not None:
                journal.write_cache(stored)

    def _unfinished(self, slot: int, answer: object) -> str:
        if not isinstance(answer, CoroutineType):
            made = isinstance(answer, (GeneratorType, AsyncGeneratorType))
            advice = (
                f"{'a generator' if made else shown(answer, 60)}, which can be read only once; "
                "return list(...) of it, or let every dependent map over it"
            )
        else:
            advice = (
                "a coroutine; write its function as 'async def', or give functools.wraps to the "
                "decorator around it"
            )
        return f"node {self._plan.ids[slot]!r} returned {advice}"

    def answer(self, slot: int, value: Any, label: Any, *, split: bool = False) -> None:
        """Take a value, from the node itself or from its failure handler."""
        handling = self._run.handling
        if slot not in handling:
            self.complete(slot, value, label, split)
        elif value is None and label is None and slot not in self._run.standing_in:
            self._board.values[slot] = UNSET  # the handler changes nothing
            self.give_up(slot, handling.pop(slot))
        else:
            self._run.meta.setdefault(slot, {})["recovered"] = True
            self._run.unshared.add(slot)
            self.complete(slot, value, label, split)
            handling.pop(slot, None)
            self._run.standing_in.discard(slot)

    def _note(self, slot: int, answer: NodeOutput) -> None:
        if answer.metadata:
            self._run.meta.setdefault(slot, {})["metadata"] = dict(answer.metadata)

    def raised(self, slot: int, error: BaseException, now: float) -> None:
        """Decide what becomes of an attempt that raised: another one, or a failure."""
        run, plan = self._run, self._plan
        node_id = str(plan.ids[slot])
        if isinstance(error, Overran):
            error = NodeTimeout(node_id, error.seconds)
            if run.outside is not None:
                run.outside.kill((slot,), for_good=False)  # it may be reading a generator there
            if not run.can_end(slot):
                run.abandoned.append(slot)
                logger.warning(
                    "node %r overran its limit of %g s; its thread cannot be stopped and is left "
                    "behind, its result will be ignored",
                    node_id,
                    error.seconds,
                    extra=run.tags(slot),
                )
        self.clear_seats(slot)
        if isinstance(error, KeyboardInterrupt):
            self._course.interrupt = self._course.interrupt or error
            self._course.stop_asked = True
            if slot not in run.handling:
                self._state.cancel_running(slot, run.reason or "interrupted")
                return
        if slot in run.handling:
            self.fail(slot, error)
            return
        if isinstance(error, LimitExceeded):
            self.exceeded(slot, error)
            return
        halted = slot in self._course.victims or self._course.stop_asked
        if halted and (isinstance(error, Withdrawn) or _is_cancellation(error)):
            self._course.cancelled(slot)
            return
        run.errors[slot] = error
        attempt = run.attempts.get(slot, 1)
        first = self._first_start.setdefault(slot, self._board.started[slot])
        policy = effective_policy(plan.node(slot), plan.actions[slot], run.config)
        made = attempt - run.earlier.get(slot, 0)
        delay = None
        if not self._course.stopping and slot not in self._course.victims:
            try:
                delay = decide(policy, made, error, now - first)
            except Exception as broken:  # a user's predicate or tenacity object
                error.add_note(f"its retry policy failed: {broken!r}")
        if delay is None:
            self.fail(slot, error)
            return
        total = policy.max_attempts if policy.stop is None else "?"
        logger.warning(
            "node %r failed (%s), retrying in %.1f s (attempt %d/%s)",
            node_id,
            error_info(error),
            delay,
            made + 1,
            total,
            extra={**run.tags(slot), "attempt": attempt},
        )
        self._records.push(
            slot, run.row(slot, "failed", error=to_json(error_info(error).to_dict()))
        )
        if self._course.watcher is not None:
            self._course.events.append(NodeRetrying(self._run.ref(slot), error, attempt, delay))
        run.another(slot)
        self._state.wait(slot)
        if self._course.maps is not None:
            self._course.maps.ended((slot,))
        self._course.at(now + delay, lambda _now: self._state.wake(slot))

    def exceeded(self, slot: int, error: LimitExceeded) -> None:
        """Fail a node that has passed a limit of its run; nobody stands in, and the run stops."""
        run = self._run
        run.errors[slot] = error
        run.exception = run.exception or error
        self.give_up(slot, error)
        self._course.abort(error)

    def clear_seats(self, slot: int) -> None:
        """Note that a call has come back: whatever kills the process now, it was not this call."""
        flight = self._board.flight
        for seat, each in enumerate(flight):
            if each == slot:
                flight[seat] = -1

    def fail(self, slot: int, error: BaseException) -> None:
        """Call what stands in for a failed node, where there is something; else it has failed."""
        run, plan = self._run, self._plan
        self.clear_seats(slot)
        self._board.values[slot] = UNSET
        original = run.handling.pop(slot, None)
        fallback, handler = plan.fallbacks.get(slot), plan.handlers.get(slot)
        if original is None:
            run.errors[slot] = original = error
        elif slot in run.standing_in:
            run.standing_in.discard(slot)
            name = "" if fallback is None else f" {fallback.name!r}"
            fallback = None
            ref, tags = run.ref(slot), run.tags(slot)
            logger.error("the fallback%s of %s failed: %r", name, ref, error, extra=tags)
            original.add_note(f"its fallback{name} failed too: {error!r}")
        else:
            ref, tags = run.ref(slot), run.tags(slot)
            logger.error("the failure handler of %s failed: %r", ref, error, extra=tags)
            original.add_note(f"its failure handler failed too: {error!r}")
            fallback = handler = None
        run.meta.get(slot, {}).pop("recovered", None)
        over = self._course.stopping or slot in self._course.dropped
        if over or (fallback is None and handler is None):
            self.give_up(slot, original)
            return
        try:
            if fallback is not None:
                call, is_async = bind_fallback(run, slot, fallback), fallback.is_async
            else:
                assert handler is not None
                call, is_async = bind_handler(run, slot, handler, original), handler.is_async
        except DaggerError as broken:
            original.add_note(f"what stands in for it cannot be called: {broken}")
            self.give_up(slot, original)
            return
        run.handling[slot] = original
        if fallback is not None:
            run.standing_in.add(slot)
        run.stand_in(slot, call, is_async)
        # It belongs to a call that has begun: nothing goes before it, no pause or stop holds it.
        self._course.flying += 1
        self._board.go.appendleft(slot)

    def give_up(self, slot: int, error: BaseException) -> None:
        """Record a final failure and do what ``on_failure`` says."""
        run, plan, state = self._run, self._plan, self._state
        if slot in self._course.dropped:
            self._course.cancelled(slot)
            return
        parent = plan.parents.get(slot)
        if parent is not None:
            self._give_up_invocation(slot, parent, error)
            return
        node_id = str(plan.ids[slot])
        action = plan.actions[slot]
        policy = plan.node(slot).on_failure or action.on_failure or run.config.on_failure
        if policy is not OnFailure.CONTINUE or slot in plan.mapped:
            state.give_back(self._course.recall())  # first of all: workers take calls meanwhile
        made = run.attempts_made(slot)
        self._note_failure(slot, error, made)
        if run.exception is None:
            run.exception = NodeExecutionError(node_id, made, str(error_info(error)))
            run.exception.__cause__ = error
        first = not state.stopped
        state.fail(slot, policy)
        if policy is OnFailure.STOP and first:
            run.reason = run.reason or f"node {node_id!r} failed and the run stops"
            self._course.halt(state.taken() - state.spared)
            self._course.at(
                self._board.clock() + run.config.shutdown_grace, self._course.leave_behind
            )
        elif policy is OnFailure.PAUSE:
            run.reason = run.reason or f"node {node_id!r} failed"
        if self._course.maps is not None:
            self._course.maps.ended((slot,))

    def _note_failure(self, slot: int, error: BaseException, made: int) -> None:
        run = self._run
        told = to_json(error_info(error).to_dict())
        self._records.push(slot, run.row(slot, "failed", error=told))
        if self._course.watcher is not None:
            self._course.events.append(
                NodeCompleted(run.ref(slot), NodeOutcome(False, error=error))
                if isinstance(error, NodeFailure)
                else NodeFailed(run.ref(slot), error, made)
            )

    def _give_up_invocation(self, slot: int, parent: int, error: BaseException) -> None:
        """Record that an invocation of a mapped node failed; the node fails, or collects it."""
        run, plan, state = self._run, self._plan, self._state
        collected = self._course.maps_now().collects(parent)
        self._note_failure(slot, error, run.attempts_made(slot))
        state.fail_child(slot, collected)
        if collected:
            self._board.values[slot] = self._course.maps_now().failed_value(slot, error)
            self._course.maps_now().ended((slot,))
        elif state.status(parent) == PENDING:
            failed = error
            if not (slot in plan.mapped and isinstance(error, MapError)):  # else it says all
                failed = MapError(
                    str(plan.ids[slot]), plan.children.key(slot), str(error_info(error))
                )
                failed.__cause__ = error
            run.errors[parent] = failed
            self.give_up(parent, failed)

    def _feeds(self, slot: int, generator: Any) -> bool:
        """Return whether a generator that a node returned is read for nodes that map over it."""
        return bool(self._plan.mapped) and self._course.maps_now().read(slot, generator)


def _is_cancellation(error: BaseException) -> bool:
    # asyncio is loaded wherever one of its exceptions can occur; it is not imported for this.
    return type(error).__name__ == "CancelledError"
