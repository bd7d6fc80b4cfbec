"""Steering a run from outside: one set of verbs, and the handle of a run in the background.

`Steered` has the verbs; whoever has the run says where their commands go. A `RunHandle` hands them
to the coordinator of this process, and, once its run stands still, to the database, as `RunControl`
of `dagger_dsl.engine.remote` does.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from dagger_dsl._doors import through
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.context import DEFAULT_KEY, NodeRef
from dagger_dsl.model.policies import seconds
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.values import MISSING, Secret

if TYPE_CHECKING:
    from types import FrameType

    from dagger_dsl.engine.coordinator import Coordinator
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.people import Question
    from dagger_dsl.engine.report import NodeReport, RunReport
    from dagger_dsl.model.commands import Command, NodeSpec
    from dagger_dsl.store.storage import Store

__all__ = ["CancelToken", "OpenQuestion", "RunHandle", "Steered", "Tie", "time_limit"]

logger = logging.getLogger("dagger_dsl.engine")

#: What a node is that a cancel of its run ends.
_OPEN = (NodeState.PENDING, NodeState.WAITING)


class CancelToken:
    """Cancels the runs it was given to. May be used from any thread, and more than once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._reason: str | None = None

    def cancel(self, reason: str | None = None) -> None:
        """Cancel; a second call changes nothing, the first reason stays.

        Args:
            reason: Kept with every node that is cancelled.
        """
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason or ""
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._reason is not None

    @property
    def reason(self) -> str:
        """What the canceller said, or an empty text."""
        return self._reason or ""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* on cancellation, at once if it has happened; return the way back out."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return lambda: self._unsubscribe(callback)
        callback()
        return lambda: None

    def _unsubscribe(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


# --- the verbs -----------------------------------------------------------------------------------


@attrs.frozen
class OpenQuestion:
    """What a node waits to hear from a person.

    Attributes:
        node_id: The node.
        key: Which of its invocations.
        prompt: What the person is asked.
        schema: JSON Schema of the answer; None takes anything.
        default: The answer that is taken when the time is over; `MISSING` is none.
        expires: When the time is over, in UTC; None is never.
    """

    node_id: str
    key: str
    prompt: str
    schema: Mapping[str, Any] | None = None
    default: Any = MISSING
    expires: dt.datetime | None = None

    @classmethod
    def of(cls, node: NodeRef, question: Question) -> OpenQuestion:
        """Return the question of a node as it is shown to people."""
        expires = question.expires
        return cls(
            node.node_id,
            node.invocation_key,
            question.prompt,
            question.schema,
            question.default,
            None if expires is None else dt.datetime.fromtimestamp(expires, dt.UTC),
        )


def _commands() -> Any:
    # Most runs are steered by nobody, and would wait for these classes to be made.
    from dagger_dsl.model import commands

    return commands


class Steered(ABC):
    """A run that takes commands. May be used from any thread.

    Every verb answers as `send` does: True when the command was applied, False when it stands and
    will be. A refusal is raised where the command comes from.

    Attributes:
        run_id: The run.
    """

    run_id: str

    @abstractmethod
    def send(self, command: Command, *, wait: bool = True, timeout: float | None = 10.0) -> bool:
        """Send a command to the run.

        Args:
            command: What is asked for.
            wait: Whether to wait until it was applied and recorded. Otherwise a refusal is logged.
            timeout: Seconds to wait at most; None waits for ever.

        Returns:
            True when it was applied. False when it stands: it was not waited for, or nobody
            executes the run now, and the next resume applies it before anything starts.

        Raises:
            NodeNotFound: There is no such node or branch.
            InvalidState: It does not fit what the node, or the run, is doing.
            ValidationError, InputError: What it brings does not fit the graph.
            LimitExceeded: The graph may grow no further, and the run stops for it.
            RunNotFound: The store has no such run.
            TimeoutError: It was not applied in time; the message says whether it still stands.
        """

    @property
    @abstractmethod
    def is_paused(self) -> bool:
        """Whether the run stands still, to be resumed, or will when what runs has ended."""

    @abstractmethod
    def questions(self) -> list[OpenQuestion]:
        """Return what waits for a person and has no answer yet."""

    @abstractmethod
    def paused_branches(self) -> dict[str, str]:
        """Return the branches that are paused, each with the reason."""

    def pause(self, reason: str | None = None) -> bool:
        """Let what runs end, start nothing more, and leave the run paused."""
        return self.send(_commands().PauseRun(reason))

    def resume(self) -> bool:
        """Take a `pause` back."""
        return self.send(_commands().ResumeRun())

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run; *reason* is kept with every node that is cancelled.

        What has ended is kept, and a resume goes on with the rest: a cancelled run is not lost.
        """
        return self.send(_commands().CancelRun(reason))

    def pause_branch(self, branch_id: str, reason: str | None = None) -> bool:
        """Start nothing more of a branch: a node with its descendants, or a label."""
        return self.send(_commands().PauseBranch(branch_id, reason))

    def resume_branch(self, branch_id: str) -> bool:
        """Let a paused branch go on."""
        return self.send(_commands().ResumeBranch(branch_id))

    def cancel_branch(self, branch_id: str, reason: str | None = None) -> bool:
        """Cancel what is reachable only through a branch."""
        return self.send(_commands().CancelBranch(branch_id, reason))

    def add_node(self, spec: NodeSpec) -> bool:
        """Add a node to the run; one that is there already, in all it says, is passed over."""
        return self.send(_commands().AddNode(spec))

    def add_nodes(self, specs: Iterable[NodeSpec]) -> bool:
        """Add several nodes, all or none; they may depend on each other."""
        return self.send(_commands().AddNodes(specs))

    def set_node_inputs(self, node_id: str, inputs: Mapping[str, Any]) -> bool:
        """Give inputs of a node that has not started new values; its other inputs stay."""
        return self.send(_commands().SetNodeInputs(node_id, inputs))

    def enable_nodes(self, ids: Iterable[str]) -> bool:
        """Enable nodes that have not started."""
        return self.send(_commands().SetNodesEnabled(ids, True))

    def disable_nodes(self, ids: Iterable[str]) -> bool:
        """Disable nodes that have not started: they are skipped."""
        return self.send(_commands().SetNodesEnabled(ids, False))

    def emit(
        self, name: str, payload: Any = None, *, channel: str | None = None, key: str = ""
    ) -> bool:
        """Show a `CustomEvent` to the hooks, and publish it on a channel where one is named.

        Args:
            name, payload, channel, key: As in `EmitEvent`.
        """
        return self.send(_commands().EmitEvent(name, payload, channel, key))

    def answer(
        self, node_id: str, value: Any, key: str = DEFAULT_KEY, by: str | None = None
    ) -> bool:
        """Answer a node that waits for a person.

        Args:
            node_id: The node.
            value: What becomes its result; checked against the schema it asked with.
            key: Which of its invocations.
            by: Who answers, for the record.

        Raises:
            InputValidationError: The answer does not fit the schema.
            InvalidState: The node does not wait, or has its answer already.
        """
        return self.send(_commands().Answer(node_id, value, key, by))

    submit_human_input = answer

    def approve(self, branch: str, by: str | None = None) -> bool:
        """Let what waits for an approval go on.

        A node that asks is answered True: one that asks for something else than yes or no refuses
        that, and one that asks without a schema takes it, whatever it asked. Any other branch that
        is paused goes on.

        Args:
            branch: The node, or the branch.
            by: Who approves: recorded with the answer; of a branch, shown to the hooks and
                recorded as a `CustomEvent` named ``approved``.

        Raises:
            InvalidState: The run stands still, and somebody has answered, approved or rejected
                before.
            InputValidationError: The question has a schema that True does not fit.
        """
        asked = [each for each in self.questions() if each.node_id == branch]
        if asked:
            answers = [self.answer(branch, True, each.key, by) for each in asked]
            return all(answers)
        done = self._decide(_commands().ResumeBranch(branch))
        if by is not None:
            done = self.emit("approved", {"branch": branch, "by": by}) and done
        return done

    def reject(self, branch: str, reason: str | None = None, by: str | None = None) -> bool:
        """Cancel a branch that waits for an approval; the reason says who rejected it.

        Raises:
            InvalidState: As `approve`.
        """
        whose = "rejected" if by is None else f"rejected by {by}"
        why = whose if reason is None else f"{reason} ({whose})"
        return self._decide(_commands().CancelBranch(branch, why))

    def _decide(self, command: Command) -> bool:
        """Send an approval or a rejection, of which the first one counts."""
        return self.send(command)


# --- a run of this process -----------------------------------------------------------------------


class Tie(NamedTuple):
    """What ties a handle to a run that goes on in the background.

    Attributes:
        coordinator: Decides what the run does.
        thread: Drives it: while somebody else's code has this thread, nothing is applied.
        token: Cancels it.
        recorded: Whether it can be found in a store after its end.
        store: That store, where it stays open; else one is opened by the run's URL.
        go_on: Given the run's secrets, begins a resume under the same handle.
    """

    coordinator: Coordinator
    thread: threading.Thread
    token: CancelToken
    recorded: bool
    store: Store | None
    go_on: Callable[[Mapping[str, Any]], object]


class _Ticket:
    """A command on its way to the coordinator.

    Args:
        command: What is asked for.
        settle: Called once, when `error` is known.
        stands_still: Whether the run stood still before it could be applied.

    Attributes:
        error: Why it was refused.
        missed: The run stood still before it could be applied.
        known: Set when `error` is known.
        left: Nobody waits for it.
    """

    __slots__ = ("_settle", "_stands_still", "command", "error", "known", "left", "missed")

    def __init__(
        self,
        command: Command,
        settle: Callable[[_Ticket], None],
        stands_still: Callable[[], bool],
    ) -> None:
        self.command = command
        self.error: Exception | None = None
        self.missed = False
        self.known = threading.Event()
        self.left = False
        self._settle = settle
        self._stands_still = stands_still

    def give(self, error: Exception | None) -> None:
        """Take what became of it; only the first call counts."""
        if not self.known.is_set():
            self.error = error
            self.missed = error is not None and self._stands_still()
            self._settle(self)


class RunHandle(Steered):
    """A run in the background, made by `start`. May be used from any thread; it can be awaited.

    As many commands as ``RunOptions.command_capacity`` wait to be applied; who sends more waits
    until there is room. Code in the thread that applies commands (a hook; a node of a sequential
    run, or one on the run's event loop) is not made to wait for itself: its command stands, it is
    applied when that thread is free, and a refusal is logged.

    When the run stands still and is recorded, commands go to its database, and `resume` goes on
    with it under this handle.

    Attributes:
        run_id: The run.
        dag_name: Its graph.
    """

    def __init__(self, run_id: str, dag_name: str) -> None:
        self.run_id = run_id
        self.dag_name = dag_name
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._resuming = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._tickets: set[_Ticket] = set()
        self._missed: list[Command] = []
        # Growths are counted by who asked for them, also in a process that goes on with the run.
        self._name = os.urandom(4).hex()
        self._serial = itertools.count(1)
        self._tie: Tie | None = None
        self._report: RunReport | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "running"
        return f"<RunHandle {self.run_id} of {self.dag_name!r}: {state}>"

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        if self._report is None and self._tie is None:  # nothing has run, and perhaps never will
            return {"text/plain": repr(self)}
        bundle: dict[str, str] = through("report_bundle")(self.report, repr(self), include, exclude)
        return bundle

    # --- how it stands ---------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the run has ended, or stands still."""
        return self._ended.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether the run stands still, to be resumed, or will when what runs has ended."""
        if self._report is not None:
            return self._report.status is RunStatus.PAUSED
        if self._tie is None or self._ended.is_set():
            return False
        return _is_held(self._tie.coordinator.run)

    @property
    def report(self) -> RunReport:
        """How the run stands at this moment, or how it ended; times of what runs are of now.

        Raises:
            InvalidState: It has not begun yet.
            DaggerError: The run could not be made at all, such as a `StoreError`.
        """
        if self._report is not None:
            return self._report
        if self._error is not None:
            raise self._error
        if self._tie is None:
            raise InvalidState(f"run {self.run_id} has not begun yet")
        from dagger_dsl.engine.reporting import report_of

        return report_of(self._tie.coordinator.run)

    def wait(self, timeout: float | dt.timedelta | None = None) -> bool:
        """Wait for the end, at most *timeout* seconds; return whether it came.

        Raises:
            InvalidState: A hook or a node of this very run asks, which cannot end before it does.
            ConfigurationError: *timeout* is no number of seconds.
        """
        limit = time_limit(timeout)
        if limit != 0:
            self._refuse_own_wait()
        return self._ended.wait(limit)

    def result(self, timeout: float | dt.timedelta | None = None) -> RunReport:
        """Wait for the end and return the report.

        Raises:
            TimeoutError: It did not come within *timeout* seconds; the run goes on.
            InvalidState, ConfigurationError: As `wait`.
            DaggerError: The run could not be made at all, such as a `StoreError`.
        """
        if not self.wait(timeout):
            raise TimeoutError(
                f"run {self.run_id} has not ended within {time_limit(timeout):g} s; it goes on"
            )
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def __await__(self) -> Generator[Any, None, RunReport]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> RunReport:
        import asyncio  # whoever awaits has loaded it

        self._refuse_own_wait()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(ended.set)

        with self._lock:
            waiting = not self._ended.is_set()
            if waiting:
                self._watchers.append(tell)
        if waiting:
            await ended.wait()
        return self.result(0)

    def _refuse_own_wait(self) -> None:
        """Refuse to wait for a run in code that the run waits for."""
        if self._tie is None or self._ended.is_set() or not (self._is_turning() or self._is_body()):
            return
        raise InvalidState(
            f"run {self.run_id} cannot end before this code returns, which is a hook or a node of "
            "it, so that waiting for the end would last for ever; use a hook for RunFinished, or "
            "wait where the run was started"
        )

    # --- steering --------------------------------------------------------------------------------

    def send(self, command: Command, *, wait: bool = True, timeout: float | None = 10.0) -> bool:
        """Send a command to the run; see `Steered.send`."""
        limit = time_limit(timeout)
        until = inf if limit is None else time.monotonic() + limit
        applied = self._apply(command, wait, until)
        if applied is not None:
            return applied
        with self._stored() as control:
            return control.send(command, wait=wait, timeout=_left(until))

    def _decide(self, command: Command) -> bool:
        tie = self._tie
        if tie is None or not (tie.recorded and self._ended.is_set()):
            return self.send(command)
        with self._stored() as control:
            return control._decide(command)

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run; `result` then gives a report of status ``cancelled``.

        It does not wait, so a signal handler may call it. A run that has ended stays as it is; one
        that stands still is cancelled, in its database too. A cancelled run that is recorded goes
        on with `resume`: its cancelled nodes are pending again then.

        Returns:
            True when the run is over: it is cancelled, or had ended before. False when it goes on
            until what runs just now has stopped; `wait` and `result` wait for that.
        """
        tie, report = self._tie, self._report
        if tie is None or self._error is not None:
            return True
        if report is None:
            tie.token.cancel(reason)
            return False
        if report.status is RunStatus.PAUSED:
            if tie.recorded:
                with self._stored() as control:
                    control.cancel(reason)
            self._report = _cancelled(report, reason or "cancelled")
        return True

    def resume(self) -> bool:
        """Take a `pause` back; when the run stands still, go on with it in the background.

        `wait`, `result` and ``await`` are about the new end then. A completed run stays as it is,
        and so does a paused branch: `resume_branch` lets it go on.

        Raises:
            InvalidState: It is recorded nowhere, so nothing of it can go on.
            RunOwned: Another process goes on with it.
        """
        with self._resuming:
            applied = self._apply(_commands().ResumeRun(), True, time.monotonic() + 10.0)
            if applied is not None:
                return applied
            tie, report = self._tie, self._report
            if report is not None and report.status is RunStatus.COMPLETED:
                return True
            if tie is None or not tie.recorded:
                raise self._gone()
            inputs = tie.coordinator.run.inputs
            tie.go_on({name: each for name, each in inputs.items() if isinstance(each, Secret)})
            return True

    def questions(self) -> list[OpenQuestion]:
        """Return what waits for a person and has no answer yet."""
        tie = self._tie
        if tie is None:
            return []
        if self._ended.is_set() and tie.recorded:
            with self._stored() as control:
                return control.questions()
        run = tie.coordinator.run
        asked = [
            each
            for each in list(run.asked.items())
            if each[0] in run.state.asking and each[1].job_id is None
        ]
        return [OpenQuestion.of(run.ref(slot), question) for slot, question in asked]

    def paused_branches(self) -> dict[str, str]:
        """Return the branches that are paused, each with the reason."""
        tie = self._tie
        if tie is None:
            return {}
        if self._ended.is_set() and tie.recorded:
            with self._stored() as control:
                return control.paused_branches()
        holds = list(tie.coordinator.run.state.holds.items())
        return {branch: held.reason for branch, held in holds}

    # --- commands on their way -------------------------------------------------------------------

    def _apply(self, command: Command, wait: bool, until: float) -> bool | None:
        """Have the coordinator apply a command; None when the run came to its end before.

        Returns:
            What `send` returns.
        """
        ticket = self._queue(command, until)
        if ticket is None:
            return None
        if not wait or self._is_turning():
            self._leave(ticket)
            return False
        if not ticket.known.wait(_left(until)) and self._leave(ticket):
            raise TimeoutError(
                f"run {self.run_id} did not apply the command in time; it stands, and is applied "
                "at the run's next turn"
            )
        if ticket.missed:
            self._ended.wait(_left(until))
            return None
        if ticket.error is not None:
            raise ticket.error
        return True

    def _queue(self, command: Command, until: float) -> _Ticket | None:
        """Hand a command to the coordinator as soon as there is room; None after the run's end."""
        from dagger_dsl.engine.steering import Origin

        with self._room:
            tie = self._tie
            while tie is not None and not self._ended.is_set():
                if len(self._tickets) < tie.coordinator.run.options.command_capacity:
                    break
                self._wait_for_room(until)
            else:
                return None
            run = tie.coordinator.run
            ticket = _Ticket(command, self._settle, lambda: run.status is RunStatus.PAUSED)
            self._tickets.add(ticket)
        number = f"handle {self._name} {next(self._serial)}"
        tie.coordinator.submit(command, Origin("the handle", None, 0, None, number), ticket.give)
        return ticket

    def _wait_for_room(self, until: float) -> None:
        full = (
            f"{len(self._tickets)} commands wait already for run {self.run_id}, which is its "
            "command_capacity"
        )
        if self._is_turning():
            raise InvalidState(
                f"{full}; none is applied before this thread is free. A hook may return commands, "
                "and an action NodeOutput.success(..., commands=[...])"
            )
        left = _left(until)
        if left == 0 or not self._room.wait(left):
            raise TimeoutError(f"{full}; this one was not sent")

    def _is_turning(self) -> bool:
        """Whether nothing is applied before this thread returns to where it was called from.

        It drives the run, or it is in a turn of the coordinator, or shows something to a hook.
        """
        tie = self._tie
        assert tie is not None
        if threading.current_thread() is tie.thread:
            return True
        busy = (tie.coordinator, tie.coordinator.watcher)
        owners = (frame.f_locals.get("self") for frame in _frames())
        return any(owner is each for owner in owners if owner is not None for each in busy)

    def _is_body(self) -> bool:
        """Whether a worker of the run has called what runs in this thread."""
        assert self._tie is not None
        own = self._tie.coordinator.run.board
        return any(frame.f_locals.get("board") is own for frame in _frames())

    def _settle(self, ticket: _Ticket) -> None:
        """Take note of what became of a command."""
        with self._room:
            self._tickets.discard(ticket)
            ticket.known.set()
            self._room.notify()
            left = ticket.left
        if left:
            self._unheard(ticket)

    def _leave(self, ticket: _Ticket) -> bool:
        """Wait for a command no longer; False when what became of it is known."""
        with self._room:
            if not ticket.known.is_set():
                ticket.left = True
                return True
        return False

    def _unheard(self, ticket: _Ticket) -> None:
        """See to what became of a command that nobody waits for."""
        if ticket.missed:
            self._missed.append(ticket.command)
        elif ticket.error is not None:
            logger.error(
                "a command of the handle was refused: %s",
                ticket.error,
                extra={"run_id": self.run_id},
            )

    # --- the run's end ---------------------------------------------------------------------------

    @contextmanager
    def _stored(self) -> Iterator[Steered]:
        """Give what steers the run through its database."""
        from dagger_dsl.engine.remote import RunControl
        from dagger_dsl.store.storage import Store

        tie = self._tie
        if tie is None or not tie.recorded:
            raise self._gone()
        registry = tie.coordinator.run.registry
        if tie.store is not None:
            yield RunControl(tie.store, self.run_id, registry)
            return
        url = tie.coordinator.run.options.database_url
        assert url is not None
        with Store(url) as store:
            yield RunControl(store, self.run_id, registry)

    def _gone(self) -> InvalidState:
        """Return the refusal of a run that has ended and is recorded nowhere."""
        status = "over" if self._report is None else self._report.status
        return InvalidState(
            f"run {self.run_id} is {status} and is recorded nowhere, so nothing of it can go on; "
            "give the run a database_url to steer and resume it after that"
        )

    def _begin(self, tie: Tie) -> None:
        with self._lock:
            self._tie, self._report, self._error = tie, None, None
            self._ended.clear()

    def _finish(self, report: RunReport | None, error: BaseException | None) -> None:
        with self._lock:
            self._report, self._error = report, error
            self._ended.set()
            watchers, self._watchers = self._watchers, []
            left = list(self._tickets)
        for tell in watchers:
            try:
                tell()
            except RuntimeError:  # the loop of whoever awaited is closed; nobody listens
                continue
        for ticket in left:  # only a run that broke off leaves any
            ticket.give(InvalidState(f"run {self.run_id} broke off before it took the command"))
        self._pass_on()

    def _pass_on(self) -> None:
        """Leave commands that nobody waits for, and that came too late, to the next resume."""
        missed, self._missed = self._missed, []
        for command in missed:
            try:
                self.send(command, wait=False)
            except Exception as error:
                logger.error(
                    "a command of the handle was refused: %s", error, extra={"run_id": self.run_id}
                )


def _frames() -> Iterator[FrameType]:
    """Yield the frames of this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def time_limit(timeout: float | dt.timedelta | None) -> float | None:
    """Return the seconds to wait at most, None for ever.

    Raises:
        ConfigurationError: It is no number of seconds.
    """
    if timeout is None or timeout == inf:
        return None
    return min(seconds(timeout, "timeout"), threading.TIMEOUT_MAX)


def _left(until: float) -> float | None:
    """Return the seconds until then, None for ever."""
    return None if until == inf else max(0.0, until - time.monotonic())


def _cancelled(report: RunReport, reason: str) -> RunReport:
    """Return the report of a run that stood still and was cancelled: what was open has ended."""
    states = {
        node_id: NodeState.CANCELLED if state in _OPEN else state
        for node_id, state in report.states().items()
    }

    def ended(found: NodeReport) -> NodeReport:
        if found.state not in _OPEN:
            return found
        return attrs.evolve(found, state=NodeState.CANCELLED, reason=reason)

    def invocations(node_id: str) -> Mapping[str, NodeReport]:
        return {key: ended(each) for key, each in report.invocations(node_id).items()}

    return attrs.evolve(
        report,
        status=RunStatus.CANCELLED,
        reason=reason,
        states=lambda: states,
        state=states.__getitem__,
        node=lambda node_id: ended(report.node_reports[node_id]),
        invocations=invocations,
    )


def _is_held(run: Run) -> bool:
    """Whether nothing more of a run starts, as it or its branches are paused."""
    state = run.state
    if state.paused or not state.holds:
        return state.paused
    held = frozenset[int]().union(*(branch.slots for branch in list(state.holds.values())))
    return not any(state.is_open(slot) for slot in run.plan.invocations() if slot not in held)
