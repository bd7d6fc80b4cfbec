"""`Outcomes`: what becomes of a call that has come back.

A value completes its node, an exception is tried again, handed to whatever stands in for the node,
or fails it, and everything else that a body can return means what it says.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from inspect import isawaitable, iscoroutinefunction
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from dagger_dsl.engine.attempts import Another
from dagger_dsl.engine.course import Course
from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.invoke import bind_fallback, bind_handler
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.records import Way
from dagger_dsl.engine.state import COMPLETED, PENDING, WAITING
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    EncodingError,
    ExecutionError,
    LimitExceeded,
    MapError,
    MaxCyclesExceeded,
    NodeExecutionError,
    NodeFailure,
    NodeTimeout,
    OutputError,
    StoreError,
    TransitionError,
    did_you_mean,
    shown,
    visible,
)
from dagger_dsl.model.context import Branch, NodeOutcome, NodeOutput, labels_of, no_label
from dagger_dsl.model.events import NodeCompleted, NodeFailed, NodeRetrying
from dagger_dsl.model.jobs import WAITS
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.registry import ActionDef
from dagger_dsl.retry import decide
from dagger_dsl.runners.base import (
    ANSWERS,
    Left,
    Overran,
    Reply,
    Suspended,
    Writing,
    Yielded,
    awaited,
)

__all__ = ["OutOfTime", "Outcomes", "Withdrawn"]

logger = logging.getLogger("dagger_dsl.engine")

#: What `RunOptions.error_strategy` means, and what ``error_handler`` may answer.
_STRATEGIES = {"fail_fast": OnFailure.STOP, "continue": OnFailure.CONTINUE}
_ANSWERS = {"stop": OnFailure.STOP, "continue": OnFailure.CONTINUE}


class Withdrawn(Exception):  # an outcome between rooms, never shown to users
    """A call was taken but not begun when the run was stopped."""


class OutOfTime(Exception):  # an outcome between rooms, never shown to users
    """A nested run ended because the run around it has no time left."""


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
        self._ways: dict[int, Way] = {}  # of a machine, by the state that comes next
        self._noted = 0  # entries of the context's errors before the handler was asked
        options = run.options
        #: What has failed for good and of which nobody has said what follows, by slot.
        self.undecided: dict[int, BaseException] = {}
        #: Whether `decide` is called at all.
        self.asks = options.error_handler is not None
        self._strategy = _STRATEGIES.get(options.error_strategy or "")
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
        rare = bool(run.handling or plan.parts or plan.labelled or plan.iterators or run.streams)
        easy: list[int] = []
        course = self._course
        # What is shared with other runs is kept for them, wherever this one is recorded.
        cycles = plan.machine is not None and not run.handling
        looks = rare or self._looks_at_each or bool(plan.cached) or course.freeing is not None
        looks = looks or bool(run.kept)
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
            elif cycles:
                self._complete_cycle(slot, self._board.values[slot])
            elif rare and self._is_rare(slot):
                state.complete(easy)
                easy = []
                answer = self._board.values[slot]
                if plan.machine is None or slot in run.handling:
                    self.answer(slot, answer, None)
                else:
                    self._complete_cycle(slot, answer)
            elif self._record(slot, self._board.values[slot]):
                easy.append(slot)
        if easy:
            state.complete(easy)
            if course.maps is not None:
                course.maps.ended(easy)

    def _is_rare(self, slot: int) -> bool:
        """Return whether a value has to be looked at, or settles more than a node's edges."""
        plan, run = self._plan, self._run
        return (
            slot in run.handling
            or slot in plan.parts
            or slot in plan.labelled
            or slot in run.streams
            or (slot in plan.iterators and _is_iterator(self._board.values[slot]))
        )

    def complete(self, slot: int, value: Any, label: Any, split: bool) -> None:
        """Record one completion with everything that can come with it: parts, labels, metadata."""
        plan, run = self._plan, self._run
        try:
            if _is_iterator(value):
                if self._feeds(slot, value):
                    return
                raise OutputError(self._unfinished(slot, value))
            if plan.mapped and plan.batch(slot) > 1:
                self._course.maps_now().check_batch(slot, value)
            if plan.machine is not None:
                value, label = self._moved(slot, value)
            parts = plan.split(slot, value, always=split)
            labels = None
            if slot in plan.labelled:
                labels = labels_of(value if label is None else label)
                if labels is None:
                    raise OutputError(f"node {plan.ids[slot]!r}: {no_label(value)}")
                run.meta.setdefault(slot, {})["labels"] = sorted(labels)
        except (OutputError, TransitionError) as error:
            self.fail(slot, error)
            return
        self._board.values[slot] = value
        if slot in run.streams:
            self._course.streams_now().finish(slot)
        if not self._record(slot, value):
            return
        for where, part in parts:
            self._board.values[where] = part
        self._state.complete_with(slot, labels)
        if self._course.maps is not None:
            self._course.maps.ended((slot,))

    def _complete_cycle(self, slot: int, move: Any) -> None:
        """Record the cycle of a state; `complete` does the same for answers of every kind."""
        values, target = self._board.values, move.target
        way = self._ways.get(target)
        if way is None:
            labels = [] if target < 0 else [str(self._plan.ids[target])]
            way = self._ways[target] = Way({"labels": labels})
        value = values[slot] = move.value
        if self._record(slot, value, way):
            values[slot] = move
            self._state.complete((slot,))

    def _moved(self, slot: int, answer: Any) -> tuple[Any, tuple[str, ...]]:
        """Return the value of a state, and as its label where the machine goes from there.

        Raises:
            TransitionError: Nowhere.
        """
        from dagger_dsl.engine.machine_calls import settle

        move = settle(self._run, slot, answer)
        return move.value, () if move.target < 0 else (str(self._plan.ids[move.target]),)

    def _record(self, slot: int, value: Any, way: Way | None = None) -> bool:
        """Put a completion into the next commit; False when its value has no stored form."""
        error = self._records.completed(slot, value, way)
        if error is not None:
            self.fail(slot, error)
            return False
        if self._run.kept:
            self._run.forget_checkpoint(slot)
        if self._course.freeing is not None:
            self._course.freeing.ended(slot)
        if self._course.tells:
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
            try:
                if not isinstance(answer, CoroutineType) and self._feeds(slot, answer):
                    return
                refused = OutputError(self._unfinished(slot, answer))
            except OutputError as error:
                refused = error
            if isinstance(answer, (CoroutineType, GeneratorType)):
                answer.close()
            self.raised(slot, refused, now)
        elif isinstance(answer, Yielded):
            self._course.maps_now().take(slot, answer, now)
        elif slot in self._course.dropped:  # whatever it is
            self._course.cancelled(slot)
        elif isinstance(answer, WAITS):
            self._course.desk.ask(slot, answer)
        elif isinstance(answer, Writing):
            self._insert(slot, answer, now)
        elif isinstance(answer, Suspended):
            self._course.desk.suspend(slot, answer.reason)
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
            elif isinstance(inner, WAITS):
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
                "return list(...) of it"
            )
            if slot not in self._plan.parents:
                advice += ", let one dependent take it, or let every dependent map over it"
        else:
            advice = (
                "a coroutine; write its function as 'async def', or give functools.wraps to the "
                "decorator around it"
            )
        return f"node {self._plan.ids[slot]!r} returned {advice}"

    def answer(self, slot: int, value: Any, label: Any, *, split: bool = False) -> None:
        """Take a value, from the node itself or from its failure handler."""
        handling = self._run.handling
        if slot not in handling or _is_iterator(value):  # of whose items nobody has seen any
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
        if slot in plan.parents and plan.batch(slot) > 1:
            error, final = self._course.maps_now().take_failures(slot, error)
            if final:
                self.fail(slot, error)
                return
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
        if slot in run.streams:
            slot = self._course.streams_now().broken(slot, error)
            node_id = str(plan.ids[slot])
        if isinstance(error, KeyboardInterrupt):
            self._course.interrupt = self._course.interrupt or error
            self._course.stop_asked = True
            if slot not in run.handling:
                self._state.cancel_running(slot, run.reason or "interrupted")
                return
        if slot in run.handling:
            self.fail(slot, error)
            return
        if isinstance(error, LimitExceeded) and not isinstance(error, MaxCyclesExceeded):
            # The limit on cycles is that of a machine inside, and no matter of the run around it.
            self.exceeded(slot, error)
            return
        trouble = run.trouble.pop(slot, None)
        if trouble is not None and _tells_of(error, trouble):
            raise trouble  # what a body let through that asked the database for something
        if isinstance(error, StoreError) and run.plan.actions[slot].style == "workflow":
            raise error  # trouble with storage is no result, of a nested run neither
        if isinstance(error, OutOfTime):
            self._course.time_out(now)
        halted = slot in self._course.victims or self._course.stop_asked
        ours = isinstance(error, (Left, OutOfTime, Withdrawn))
        if halted and (ours or _is_cancellation(error)):
            self._course.cancelled(slot)
            return
        run.errors[slot] = error
        attempt = run.attempts.get(slot, 1)
        first = run.first_start.setdefault(slot, self._board.started[slot])
        policy = run.policy(slot)
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
        info, total = error_info(error), run.allowed(slot)
        logger.warning(
            "node %r failed (%s), retrying in %s (attempt %d/%s)",
            node_id,
            visible(str(info), 120).replace("\n", " "),  # one line, whatever was raised
            f"{delay:.1f} s" if delay >= 0.1 else f"{delay * 1000:.0f} ms",
            attempt + 1,
            "?" if total is None else total,
            extra={**run.tags(slot), "attempt": attempt},
        )
        beside = to_json(Another(delay, total).to_plain())
        told = to_json(info.to_dict())
        self._records.push(slot, run.row(slot, "failed", error=told, meta=beside))
        if self._course.watcher is not None:
            self._course.events.append(NodeRetrying(self._run.ref(slot), error, attempt, delay))
        run.another(slot, info)
        self._state.wait(slot)
        if self._course.maps is not None:
            self._course.maps.ended((slot,))
        run.next_try[slot] = now + delay
        self._course.at(now + delay, lambda _now: self._wake(slot))

    def _wake(self, slot: int) -> None:
        """Let another attempt begin; one of a consumer begins with those whose items it takes."""
        if slot in self._run.streams:
            self._course.streams_now().again(slot)
        else:
            self._state.wake(slot)

    def exceeded(self, slot: int, error: LimitExceeded) -> None:
        """Fail a node that has passed a limit of its run; nobody stands in, and the run stops."""
        run = self._run
        run.errors[slot] = error
        run.blame(error)
        self._end_failed(slot, error)
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
                call = bind_fallback(run, slot, fallback)
                if plan.batch(slot) > 1:
                    call = plan.batch_call(plan.parents[slot], call, fallback.is_async)
            else:
                assert handler is not None
                call = bind_handler(run, slot, handler, original)
        except DaggerError as broken:
            original.add_note(f"what stands in for it cannot be called: {broken}")
            self.give_up(slot, original)
            return
        run.handling[slot] = original
        if fallback is not None:
            run.standing_in.add(slot)
        run.stand_in(slot, call, iscoroutinefunction(call))
        # It belongs to a call that has begun: nothing goes before it, no pause or stop holds it.
        self._course.flying += 1
        self._board.go.appendleft(slot)

    def give_up(self, slot: int, error: BaseException) -> None:
        """Record a final failure and do what is said to follow, or have `decide` ask about it."""
        if slot in self._course.dropped:
            self._course.cancelled(slot)
        elif self.asks and not self._course.stopping and slot not in self._plan.parents:
            self.undecided[slot] = error
        else:
            self._end_failed(slot, error)

    def decide(self) -> Generator[float, float, float]:
        """Ask the run's ``error_handler`` what follows the failures that have come to be.

        Returns:
            The clock. A run that is about to be stopped is stopped first.
        """
        course, undecided, clock = self._course, self.undecided, self._board.clock
        while undecided:
            if not course.stopping and course.ends_at(clock()):
                break
            slot = next(iter(undecided))
            error = undecided[slot]
            answer = None
            if not (course.stopping or slot in course.dropped or self._is_over(slot)):
                # Before anything is asked: workers take calls meanwhile.
                self._state.give_back(course.recall())
                reply = self._ask(slot, error)
                yield from course.desk.wait(reply)
                if course.ends_at(clock()) and isinstance(reply.error, TimeoutError):
                    break
                answer = self._answer_of(slot, reply)
            del undecided[slot]
            if slot in course.dropped:
                course.cancelled(slot)
            elif not self._is_over(slot):
                self._end_failed(slot, error, answer)
        return clock()

    def _is_over(self, slot: int) -> bool:
        """Return whether a failed invocation was ended by something else."""
        return self._state.status(slot) not in (PENDING, WAITING)

    def _ask(self, slot: int, error: BaseException) -> Reply:
        """Call the run's ``error_handler``; it may have to be waited for."""
        run, reply = self._run, Reply()
        handler = run.options.error_handler
        assert handler is not None
        metadata = run.context.metadata
        noted = metadata.get("errors")
        self._noted = len(noted) if isinstance(noted, list) else 0
        try:
            answer = handler(str(self._plan.ids[slot]), error, run.context)
        except Exception as broken:
            reply.give(None, broken)
        else:
            if isawaitable(answer):
                self._board.spawn(awaited(answer), reply)
            else:
                reply.give(answer)
        return reply

    def _answer_of(self, slot: int, reply: Reply) -> OnFailure:
        """Return what an ``error_handler`` has answered; the run ends when that makes no sense."""
        node_id = str(self._plan.ids[slot])
        if reply.error is None and isinstance(reply.value, str) and reply.value in _ANSWERS:
            return _ANSWERS[reply.value]
        broken: DaggerError
        if reply.error is None:
            broken = ConfigurationError(
                f"error_handler answers 'stop' or 'continue', and for node {node_id!r} it answered "
                f"{shown(reply.value)}{did_you_mean(reply.value, _ANSWERS)}"
            )
        elif isinstance(reply.error, Exception):
            broken = ExecutionError(
                f"error_handler failed when it was asked about node {node_id!r}: "
                f"{error_info(reply.error)}"
            )
            broken.__cause__ = reply.error
        else:
            raise reply.error
        logger.error("%s", broken, extra={"run_id": self._run.run_id, "node_id": node_id})
        self._run.blame(broken)
        self._course.abort(broken)
        return OnFailure.STOP

    def _end_failed(self, slot: int, error: BaseException, answer: OnFailure | None = None) -> None:
        """Record a final failure and do what is said to follow.

        Args:
            slot: What failed.
            error: With what.
            answer: What somebody who was asked has decided.
        """
        run, plan, state = self._run, self._plan, self._state
        parent = plan.parents.get(slot)
        if parent is not None:
            self._give_up_invocation(slot, parent, error)
            return
        node_id = str(plan.ids[slot])
        policy = answer
        if policy is None:
            own = plan.node(slot).on_failure or plan.actions[slot].on_failure
            policy = own or self._strategy or run.config.on_failure
        if policy is not OnFailure.CONTINUE or slot in plan.mapped:
            state.give_back(self._course.recall())  # first of all: workers take calls meanwhile
        made = run.attempts_made(slot)
        continued = policy is OnFailure.CONTINUE and policy in (answer, self._strategy)
        self._note_failure(slot, error, made)
        if continued:
            self._note_continued(node_id, error, made)
        if run.exception is None or (run.continued and not continued):
            run.blame(
                _execution_error(node_id, made, error, plan.actions[slot]), continued=continued
            )
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

    def _note_continued(self, node_id: str, error: BaseException, made: int) -> None:
        """Tell the nodes that share the run's context of a failure that it goes on after."""
        run, info, before = self._run, error_info(error), self._noted

        def note(metadata: dict[str, Any]) -> None:
            noted = metadata.setdefault("errors", [])
            if not isinstance(noted, list):
                return  # somebody keeps something else there
            said = (each.get("node") for each in noted[before:] if isinstance(each, Mapping))
            if self.asks and node_id in said:
                return
            noted.append(
                {
                    "node": node_id,
                    "error": info.message,
                    "type": info.type,
                    "attempts": made,
                    "timestamp": run.wall + self._board.clock(),
                }
            )

        run.context.update(note)

    def _note_failure(self, slot: int, error: BaseException, made: int) -> None:
        run = self._run
        told = to_json(error_info(error).to_dict())
        self._records.push(slot, run.row(slot, "failed", error=told))
        if self._course.freeing is not None:
            self._course.freeing.ended(slot)
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
        elif state.status(parent) == PENDING and parent not in self.undecided:
            failed = error
            if not (slot in plan.mapped and isinstance(error, MapError)):  # else it says all
                failed = MapError(
                    str(plan.ids[slot]), plan.children.key(slot), str(error_info(error))
                )
                failed.__cause__ = error
            run.errors[parent] = failed
            self.give_up(parent, failed)

    def _feeds(self, slot: int, iterator: Any) -> bool:
        """Return whether what a node returned is read by others; else nobody can have its value.

        Raises:
            OutputError: Somebody takes its items, and it cannot give them.
        """
        if self._plan.mapped and self._course.maps_now().read(slot, iterator):
            return True
        return self._course.streams_now().carry(slot, iterator)


def _is_iterator(value: Any) -> bool:
    return isinstance(value, (Iterator, AsyncIterator))


def _execution_error(
    node_id: str, made: int, error: BaseException, action: ActionDef
) -> NodeExecutionError:
    """Return what says that a node failed; of a nested run, which of its nodes did, and why."""
    if action.style == "workflow" and isinstance(error, NodeExecutionError):
        found = NodeExecutionError(f"{node_id}.{error.node_id}", error.attempts, error.reason)
        found.__cause__ = error.__cause__
    else:
        found = NodeExecutionError(node_id, made, str(error_info(error)))
        found.__cause__ = error
    return found


def _tells_of(error: BaseException, trouble: StoreError) -> bool:
    """Return whether an error, or what led to it, is that of the database.

    From a worker process comes a copy of it.
    """
    found = [error]
    for each in found:
        if type(each) is type(trouble) and str(each) == str(trouble):
            return True
        for before in (each.__cause__, each.__context__):
            if before is not None and before not in found:
                found.append(before)
    return False


def _is_cancellation(error: BaseException) -> bool:
    # asyncio is loaded wherever one of its exceptions can occur; it is not imported for this.
    return type(error).__name__ == "CancelledError"
