"""`Desk`: takes in what hooks, nodes, people and other processes ask of a run.

Commands are applied one at a time, between two outcomes. What they did is noted in the journal,
those of hooks and of other processes under a key, so that each applies once however often it is
asked for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.course import Course
from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InputValidationError,
    InvalidState,
    JobNotFound,
    LimitExceeded,
    StoreError,
)
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.events import HumanInputRequested
from dagger_dsl.model.jobs import JobRequest
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.values import MISSING
from dagger_dsl.runners.base import Reply

if TYPE_CHECKING:
    from dagger_dsl.engine.jobs import JobDesk
    from dagger_dsl.engine.people import Question
    from dagger_dsl.engine.steering import Origin, Steering
    from dagger_dsl.engine.watch import Observers
    from dagger_dsl.model.commands import Command

__all__ = ["Desk"]

logger = logging.getLogger("dagger_dsl.engine")

# How often commands of other processes are looked for (seconds); the documents promise a second.
_LOOK = 0.4

# So many times the capacity for events may wait to be shown; more come only of hooks that answer
# events with more than they are shown.
_CROWD = 100


def _nothing(_error: Exception | None) -> None:
    """Hear what became of what nobody has asked for by name."""


class Desk:
    """Takes in commands of one run.

    Args:
        course: Where the run stands.

    Attributes:
        requests: What was asked for from outside and not taken yet.
        expiring: Questions that time alone can answer.
        jobs: The jobs that nodes wait for; None where none has.
        over: The run has ended; nothing is taken any more.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._run = course.run
        self._plan, self._state, self._board = course.plan, course.state, course.board
        self._journal, self._records = course.journal, course.records
        self._steering: Steering | None = None
        self._seen_request = course.run.seen_request
        self._looked = not course.run.resumed
        self._deciding: int | None = None  # whose answer's commands are being applied
        #: Without a command: somebody knows that there is something in the inbox.
        self.requests: deque[
            tuple[Command | None, Origin | None, Callable[[Exception | None], None]]
        ] = deque()
        self.expiring: set[int] = set()
        self.jobs: JobDesk | None = None
        self.over = False

    def submit(
        self, command: Command, origin: Origin, reply: Callable[[Exception | None], None]
    ) -> None:
        """Ask for a command from outside; safe from any thread.

        Args:
            command: What is asked for.
            origin: Who asks.
            reply: Called once, with None when it was applied and recorded, else with the reason.
        """
        self.requests.append((command, origin, reply))
        self._board.due = 0.0
        self._board.ring()
        if self.over:
            self.dismiss()

    def dismiss(self) -> None:
        """Refuse what was asked for after the end."""
        while True:
            try:
                _, _, reply = self.requests.popleft()
            except IndexError:
                return
            reply(
                InvalidState(f"run {self._run.run_id} is {self._run.status}; it takes no commands")
            )

    def show(self) -> Reply | None:
        """Show what happened, once it is recorded; return what to wait for, if anything."""
        course = self._course
        watcher = course.watcher
        assert watcher is not None
        if self._journal is not None:
            if not watcher.steers:
                if not self._board.go:
                    course.record_turn()
            elif self._records.waiting:
                self._records.commit_unshown()
        events, course.events = course.events, []
        course.crowd = 0
        return watcher.show(events)

    def listen(self, reply: Reply | None) -> Generator[float, float, None]:
        """Wait for the answers of hooks."""
        watcher = self._course.watcher
        assert watcher is not None
        late_from = inf
        while reply is not None:
            late_from = yield from self.wait(reply, late_from)
            reply = watcher.go_on()

    def wait(self, reply: Reply, late_from: float = inf) -> Generator[float, float, float]:
        """Wait for an answer; meanwhile nothing else is decided.

        Calls go on, and begin, until something that has ended waits too long for its record.

        Args:
            reply: The answer.
            late_from: When that is, where something has ended already.

        Returns:
            When it is now.
        """
        board, run = self._board, self._run
        until = inf
        board.listening = True
        board.due = 0.0  # whoever ends a call steps before the next one
        try:
            while not reply.done:
                now = yield min(until, run.deadline or inf)
                if self._journal is not None and (board.done or board.odd):
                    late_from = min(late_from, now + run.config.flush_interval)
                    if now >= late_from:
                        self._state.give_back(self._course.recall())
                if until == inf and self._course.ends_at(now):
                    until = now + run.config.shutdown_grace
                if now >= until and not reply.done:
                    reply.cancel()
                    reply.give(None, TimeoutError("there was no answer when the run ended"))
        finally:
            board.listening = False
        return late_from

    def heed(self) -> bool:
        """Apply what hooks have asked for; return whether that may have changed anything."""
        watcher = self._course.watcher
        assert watcher is not None
        if self._journal is not None and watcher.steers:
            self._records.owed = True
        if not watcher.owes:
            return False
        if self._stop_for(watcher):
            return True
        self._apply_all(watcher.take())
        self._stop_for(watcher)  # a hook may want that for a refused command, too
        return True

    def _stop_for(self, watcher: Observers) -> bool:
        """Stop the run for a hook that wants it; return whether there was one."""
        if watcher.broken is None or self._course.stopping:
            return False
        self._course.abort(watcher.broken)
        return True

    def _apply_all(self, asked: Sequence[tuple[Command, Origin]]) -> None:
        for k, (command, origin) in enumerate(asked):
            if self._course.stopping:
                self.refuse_late(asked[k:])
                return
            try:
                if self.steering.emits(command):
                    self._check_crowd()
                self.apply(command, origin)
            except LimitExceeded as error:
                self._refused(origin, error)
                self._records.acknowledges = False  # a resume with another limit asks again
                self._course.abort(error)
            except StoreError:
                raise
            except Exception as error:
                self._refused(origin, error)
                self._note_refusal(origin, error)

    def _note_refusal(self, origin: Origin, error: Exception) -> None:
        """Record that a command was refused, so that it is not applied at another time.

        Whoever asks from another process finds the reason in the journal.
        """
        if origin.key is not None:
            self._run.applied.add(origin.key)
            told = {"type": type(error).__name__, "message": str(error)}
            self._records.note(origin.key, {"refused": told})

    def _refused(self, origin: Origin, error: Exception) -> None:
        if self._course.watcher is not None:
            self._course.watcher.refused(origin.who, error)
        else:
            logger.error(
                "a command of %s was refused: %s",
                origin.who,
                error,
                extra={"run_id": self._run.run_id},
            )
            self._run.hook_errors.append(error)

    @property
    def steering(self) -> Steering:
        """What applies commands; made when the first one comes."""
        if self._steering is None:
            from dagger_dsl.engine.steering import Steering

            self._steering = Steering(self._run)
        return self._steering

    def apply(self, command: Command, origin: Origin) -> None:
        """Apply one command, all or nothing, and note it; one whose key is known is passed over.

        Raises:
            DaggerError: It cannot be applied; nothing was changed.
        """
        run, state = self._run, self._state
        if origin.key is not None and origin.key in run.applied:
            return
        steering = self.steering
        if steering.is_for_run(command):
            self._apply_to_run(command)
            note = None
        else:
            released = self._board.go or self._course.withdrawn
            if released and not steering.only_grows(command):
                state.give_back(self._course.recall())  # what nobody has taken has not started
            effect = steering.apply(command, origin)
            note = effect.note
            if effect.step is not None and self._journal is not None:
                self._journal.accompany(effect.step)
            self._course.events += effect.events if self._course.watcher is not None else ()
            # Who answers has ended, also when it asks for the end of its own branch.
            running = [slot for slot in effect.running if slot != self._deciding]
            self._course.drop(running, effect.reason)
            self._course.settle_paths()
        if origin.key is not None:
            run.applied.add(origin.key)
        if note is not None or origin.key is not None:
            self._records.note(origin.key, {} if note is None else {"command": note})
        if state.ended and self._deciding is None:
            self._course.record_ends()

    def _check_crowd(self) -> None:
        """Count one more event of a hook; refuse it where hooks emit more than they are shown."""
        course, capacity = self._course, self._run.options.event_capacity
        if course.crowd >= _CROWD * capacity:
            raise LimitExceeded(
                f"{course.crowd:,} events of hooks wait to be shown, {_CROWD} times the "
                f"event_capacity of {capacity}: hooks answer events with more events than they are "
                "shown; let them emit fewer, or give the run a larger event_capacity"
            )
        course.crowd += 1

    def _apply_to_run(self, command: Command) -> None:
        """Apply what is about the whole run, or answers one of its questions."""
        from dagger_dsl.model.commands import Answer, CancelRun, JobEnded, PauseRun

        run, state = self._run, self._state
        if isinstance(command, Answer):
            self._take_answer(command)
        elif isinstance(command, JobEnded):
            if self.jobs is not None:
                self.jobs.take_end(command, self._board.clock())
        elif isinstance(command, CancelRun):
            run.token.cancel(command.reason or "cancelled")  # bodies look at it, too
        elif isinstance(command, PauseRun):
            if not (self._course.stopping or state.paused):
                self._course.pause(command.reason or "paused")
        elif state.paused and not state.undecided:
            state.paused = False
            run.reason = ""

    def take_requests(self) -> None:
        """Apply what was asked for from outside, and say what became of it once it is recorded."""
        replies = []
        awaited = False  # by another process, which sees what is written
        left = len(self.requests)
        while left:
            left -= 1
            command, origin, reply = self.requests.popleft()
            if command is None or origin is None:
                left += self._fetch()
                continue
            awaited = awaited or origin.key is not None
            error: Exception | None = None
            try:
                self.apply(command, origin)
            except StoreError:
                raise
            except LimitExceeded as limit:
                error = limit
                self._course.abort(limit)
            except Exception as refused:
                error = refused
            if error is not None:
                self._note_refusal(origin, error)
            replies.append((reply, error))
        if self._records.waiting and self._journal is not None:
            self._records.commit_unshown()
            if awaited:
                self._journal.flush()
        for reply, error in replies:
            reply(error)

    def begin_looking(self, now: float) -> None:
        """Look for commands of other processes: of a run that goes on, at once."""
        interval = self._run.config.cache_snapshot_interval
        if interval and "cache_snapshot_interval" in self._run.config.given:
            self._course.at(now + interval, self._snapshot)
        if self._run.resumed:
            self._look(now)
        elif self._journal is not None and self._journal.shared:
            self._course.at(now + _LOOK, self._look)

    def _snapshot(self, now: float) -> None:
        """Write what a level that does not write at once has kept back."""
        assert self._journal is not None
        if self._records.waiting:
            self._records.commit_unshown()
        self._journal.flush()
        self._course.at(now + self._run.config.cache_snapshot_interval, self._snapshot)

    def _look(self, now: float) -> None:
        """Take the commands that other processes have sent, and look again in a while."""
        assert self._journal is not None
        self._look_now()
        if self._journal.shared:
            self._course.at(now + _LOOK, self._look)

    def _look_now(self) -> None:
        self._fetch()
        if self.requests:
            self.take_requests()

    def _look_soon(self) -> None:
        """Have the inbox read at the next turn; safe from any thread."""
        self.requests.append((None, None, _nothing))
        self._board.due = 0.0
        self._board.ring()

    def _fetch(self) -> int:
        """Take over what came into the inbox; return how many commands that were."""
        from dagger_dsl.engine.steering import is_for_now, requests_of

        assert self._journal is not None
        before = len(self.requests)
        first, self._looked = not self._looked, True
        for number, request in requests_of(
            self._journal.requests(self._seen_request), self._run.run_id
        ):
            self._seen_request = number
            if request is None:
                continue
            command, origin = request
            if first and is_for_now(command):
                # It was meant for the process before this one, and came after its end.
                self._records.note(origin.key, {})
            else:
                self.requests.append((command, origin, partial(self._tell_refusal, origin)))
        return len(self.requests) - before

    def _tell_refusal(self, origin: Origin, error: Exception | None) -> None:
        """Say that a command of another process was refused, which nobody may wait to hear."""
        if error is not None:
            self._refused(origin, error)

    def refuse_late(self, asked: Sequence[tuple[Command, Origin]]) -> None:
        """Refuse what hooks ask for when there is no run any more that it could change."""
        late: dict[str, list[Origin]] = {}
        for _, origin in asked:
            late.setdefault(origin.who, []).append(origin)
        for who, origins in late.items():
            what = "a command" if len(origins) == 1 else f"{len(origins):,} commands"
            text = f"the run is {self._run.status}, so {what} of {who} came late"
            self._refused(origins[0], InvalidState(text))

    def decided(self, slot: int, answer: NodeOutput) -> bool:
        """Apply the commands of a node's answer; False when one is refused and fails the node."""
        from dagger_dsl.engine.hooks import commands_of
        from dagger_dsl.engine.steering import Origin

        ref = self._run.ref(slot)
        who = f"node {ref.node_id!r}"
        depth = self._run.depths.get(ref.node_id, 0)
        # Another attempt is another answer, whose commands count anew.
        attempt = self._run.attempts.get(slot, 1)
        base = f"answer {self._answering(slot)} {attempt} {ref.invocation_key} {ref.node_id}"
        self._deciding = slot
        self._run.unshared.add(slot)
        try:
            for k, command in enumerate(commands_of(answer.commands, who)):
                self.apply(command, Origin(who, f"{k} {base}", depth, None, base))
        except LimitExceeded as error:
            self._course.outcomes.exceeded(slot, error)
            return False
        except StoreError:
            raise
        except Exception as error:
            self._course.outcomes.fail(slot, error)
            return False
        finally:
            self._deciding = None
        return True

    def _answering(self, slot: int) -> str:
        """Return who answers for a node: its body, its fallback or its failure handler."""
        if slot not in self._run.handling:
            return "body"
        return "fallback" if slot in self._run.standing_in else "handler"

    def ask(self, slot: int, request: HumanRequest | JobRequest) -> None:
        """Let an invocation wait for a person, or for a job; its body has ended."""
        from dagger_dsl.engine.people import question_note

        run, step = self._run, None
        try:
            if isinstance(request, JobRequest):
                question, step = self._jobs_now().begin(slot, request)
            else:
                question = self._asked(slot, request)
            note = None if self._journal is None else question_note(run, slot, question)
        except StoreError:
            raise
        except (InputValidationError, ConfigurationError, JobNotFound) as error:
            self._course.outcomes.fail(slot, error)
            return
        except Exception as error:  # whatever a stranger's values do, the others go on
            what = "start its job" if isinstance(request, JobRequest) else "ask a person"
            self._course.outcomes.fail(
                slot,
                EncodingError(f"node {self._plan.ids[slot]!r} cannot {what}: {error}"),
            )
            return
        if note is not None:
            run.notes.append(note)
        if slot in self._course.dropped:
            self._course.cancelled(slot)
            return
        self._course.outcomes.clear_seats(slot)
        self._records.push(slot, run.row(slot, "waiting"))
        run.asked[slot] = question
        run.unshared.add(slot)
        self._state.ask(slot)
        if self._course.maps is not None:
            self._course.maps.ended((slot,))  # nothing of it runs, whatever `max_parallel` says
        self._state.reasons[slot] = question.reason
        if step is not None:
            assert self._journal is not None
            self._journal.accompany(step)
            self.watch_job(slot)
            return
        self.set_alarm(slot, question)
        if self._course.watcher is not None:
            self._course.events.append(
                HumanInputRequested(run.ref(slot), question.prompt, question.schema)
            )

    def _asked(self, slot: int, request: HumanRequest) -> Question:
        """Return the question to a person, whose default is an answer that could be given."""
        from dagger_dsl.engine.people import ask, check_result

        question = ask(self._run, request)
        if question.default is not MISSING:
            check_result(self._run, slot, question, question.default)
        return question

    def _jobs_now(self) -> JobDesk:
        """Return what knows the jobs; made when a node waits for one."""
        if self.jobs is None:
            from dagger_dsl.engine.jobs import JobDesk

            self.jobs = JobDesk(self._course, self._look_soon, self._look_now)
        return self.jobs

    def watch_job(self, slot: int) -> None:
        """Look out for the end of the job that an invocation waits for."""
        self._jobs_now().watch(slot, self._board.clock())

    @property
    def awaits_job(self) -> bool:
        """Whether an invocation waits for a job, which goes on while nothing here does."""
        return self.jobs is not None and self.jobs.waits

    def suspend(self, slot: int, reason: str) -> None:
        """Let an invocation wait for its nested run, which stands still.

        Nothing of it is recorded: the nested run's own record says all, and a resume calls the
        invocation again, as if its call had not ended, which goes on with that run.
        """
        self._course.outcomes.clear_seats(slot)
        if slot in self._course.dropped:
            self._course.cancelled(slot)
            return
        self._state.ask(slot)
        self._state.reasons[slot] = reason
        if self._course.maps is not None:
            self._course.maps.ended((slot,))

    def set_alarm(self, slot: int, question: Any) -> None:
        """Let time answer a question that can be answered so."""
        self.expiring.discard(slot)  # of an earlier question
        if not question.answers_itself:
            return
        run = self._run

        def expire(_now: float) -> None:
            if run.asked[slot] is not question:
                return  # a person was faster, and the slot may ask again by now
            self.expiring.discard(slot)
            if self._state.answered(slot):
                run.meta.setdefault(slot, {})["answered"] = {"by": "autopilot"}
                self._course.outcomes.answer(slot, question.default, None)

        self.expiring.add(slot)
        self._course.at(question.expires - run.wall, expire)

    @property
    def is_asked(self) -> bool:
        """Whether hooks have asked for something that was not applied yet."""
        watcher = self._course.watcher
        return watcher is not None and watcher.asks

    @property
    def stands_by(self) -> bool:
        """Whether nothing goes on but the time of people."""
        state = self._state
        return bool(state.asking) and not (self._course.flying or state.waiting or self.awaits_job)

    def _take_answer(self, answer: Any) -> None:
        from dagger_dsl.engine.people import asked_slot, check_answer, check_result

        run = self._run
        slot = asked_slot(run, answer)
        question = run.asked[slot]
        check_answer(question, answer)
        check_result(run, slot, question, answer.value)
        self._state.answered(slot)
        if answer.by is not None:
            run.meta.setdefault(slot, {})["answered"] = {"by": answer.by}
        self._course.outcomes.answer(slot, answer.value, None)
