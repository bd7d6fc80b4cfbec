"""Every exception the package raises, under one `DaggerError`.

```
DaggerError
├── ConfigurationError (ValueError)      an option or a policy has an impossible value
│   └── OperandError (TypeError)         `a >> "b"`: one side of an arrow is no action or handle
├── RegistryError (ValueError)           a name is taken, or an object cannot be registered
├── ValidationError (ValueError)         a graph or a file is wrong; `.problems` lists everything
│   ├── CycleError                       `.path` is the cycle
│   ├── DependencyNotFound (LookupError)
│   ├── ActionNotFound (LookupError)
│   ├── NodeAlreadyExists
│   ├── AmbiguousConnection              `>>` has several meanings; the message lists them
│   └── YamlError                        `.problems` carry file, line and column
├── DagNotFound, NodeNotFound (LookupError)
├── InputError (ValueError)              what enters a run or a node is missing or wrong
│   ├── MissingInputError (LookupError)
│   ├── UnknownInputError
│   ├── InputValidationError
│   ├── InputResolutionError (LookupError)
│   ├── MessageValidationError           a message does not fit its channel, or who is to get it
│   │   └── MessageTooLarge
│   └── TypeMismatch (TypeError)
├── OutputError (ValueError)             what a node returned breaks its declaration
│   └── UndeclaredPublication            an agent publishes on a channel that it did not name
├── ChannelFull (TimeoutError)           nobody took enough messages off a channel in time
├── MessageNotFound (LookupError)
├── ExecutionError                       a run or a node did not succeed
│   ├── NodeExecutionError               `.node_id`, `.attempts`; `__cause__` is the user's error
│   ├── NodeTimeout, ExecutionTimeout (TimeoutError)
│   ├── NodeCrashed                      a node's body killed its process too often
│   ├── ProcessDied                      the worker process of a call ended in the middle of it
│   ├── NodeFailure                      a node answered `NodeOutput.failure(...)`
│   ├── MapError                         an invocation of a mapped node failed
│   ├── LimitExceeded                    a limit that keeps a run from going on for ever
│   │   ├── GrowthLimitExceeded, MaxIterationsExceeded, TokenBudgetExceeded
│   │   └── MaxCyclesExceeded            `.history` is where a machine has been
│   ├── TransitionError                  a state machine cannot go where it is told to
│   │   └── TransitionRejected           what a state hook raises to refuse a transition
│   ├── StalledError                     nothing can go on; a fault of ours
│   ├── RunCancelled, RunPaused
│   └── NotExecuted (LookupError)
│       └── ResultNotFound (IndexError)  a state of a machine has no result of this number
├── CircuitBreakerOpenError              a `CircuitBreaker` refuses calls for a while
├── ResourceTimeout (TimeoutError)       no resource of a `ResourcePool` came free in time
├── ResourceExhausted                    a `ResourceTracker` can never have room for a call
├── InvalidState                         the call does not fit what the object is doing
│   └── ConcurrentUpdateError            a task was changed since it was read
├── JobNotFound, TaskNotFound, AgentNotFound (LookupError)
├── JobExists, TaskExists, AgentAlreadyRegistered
├── AgentNotAllowed                      a job does not let an agent have tasks
├── CodecError (ValueError)
│   ├── EncodingError (TypeError), DecodingError
│   └── TransferError (TypeError)        what cannot go to a worker process, or come back
├── StoreError                           storage trouble; never a node's result
│   ├── StoreFull, StoreBusy, StoreReadOnly, StoreDamaged, StoreVersionError
│   ├── RunNotFound, ArtifactNotFound, SnapshotNotFound (LookupError)
│   ├── RunExists, RunOwned, RunFenced, IdempotencyConflict
├── VisualizationUnavailable
└── MissingExtra (ImportError)           an optional dependency is not installed
```

Messages say what was found, what was expected and what to do. The data behind a message is in
attributes; every class takes its data as constructor arguments and can be pickled.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "ActionNotFound",
    "AgentAlreadyRegistered",
    "AgentNotAllowed",
    "AgentNotFound",
    "AmbiguousConnection",
    "ArtifactNotFound",
    "ChannelFull",
    "CircuitBreakerOpenError",
    "CodecError",
    "ConcurrentUpdateError",
    "ConfigurationError",
    "CycleError",
    "DagNotFound",
    "DaggerError",
    "DecodingError",
    "DependencyNotFound",
    "EncodingError",
    "ExecutionError",
    "ExecutionTimeout",
    "GrowthLimitExceeded",
    "IdempotencyConflict",
    "InputError",
    "InputResolutionError",
    "InputValidationError",
    "InvalidState",
    "JobExists",
    "JobFailed",
    "JobNotFound",
    "KeyTaken",
    "LimitExceeded",
    "MapError",
    "MaxCyclesExceeded",
    "MaxIterationsExceeded",
    "MessageNotFound",
    "MessageTooLarge",
    "MessageValidationError",
    "MissingExtra",
    "MissingInputError",
    "NodeAlreadyExists",
    "NodeCrashed",
    "NodeExecutionError",
    "NodeFailure",
    "NodeNotFound",
    "NodeTimeout",
    "NotExecuted",
    "OperandError",
    "OutputError",
    "Place",
    "Problem",
    "ProcessDied",
    "RegistryError",
    "ResourceExhausted",
    "ResourceTimeout",
    "ResultNotFound",
    "RunCancelled",
    "RunExists",
    "RunFenced",
    "RunNotFound",
    "RunOwned",
    "RunPaused",
    "SnapshotNotFound",
    "StalledError",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreVersionError",
    "TaskExists",
    "TaskNotFound",
    "TokenBudgetExceeded",
    "TransferError",
    "TransitionError",
    "TransitionRejected",
    "TypeMismatch",
    "UndeclaredPublication",
    "UnknownInputError",
    "ValidationError",
    "VisualizationUnavailable",
    "YamlError",
    "cut",
    "did_you_mean",
    "shown",
    "visible",
]


_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def cut(text: str, limit: int = 200) -> str:
    """Return *text*, with its middle left out where it is longer than *limit* characters."""
    if len(text) <= limit:
        return text
    tail = limit // 5
    return f"{text[: limit - tail - 3]}...{text[-tail:]}"


def shown(value: Any, limit: int = 200) -> str:
    """Return the `repr` of a value for a message: cut where it is long, and never an error."""
    if isinstance(value, str) and len(value) > 2 * limit:
        value = value[:limit] + value[-limit:]  # what is cut anyway is not worth escaping
    try:
        return cut(repr(value), limit)
    except (Exception, SystemExit):  # a stranger's __repr__
        return f"<{type(value).__name__}>"


def visible(text: str, limit: int = 2_000) -> str:
    """Return a stranger's text for a message: cut, control characters written as escapes.

    Line breaks and tabs stay; what would colour, clear or reorder a terminal does not.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), cut(text, limit))


def storable(text: str) -> str:
    """Return a stranger's text as every database keeps it: as it is, unless a character cannot be.

    Lone surrogates, as of file names that are no UTF-8, and NUL are written as escapes.
    """
    kept = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    return kept.replace("\0", "\\x00") if "\0" in kept else kept


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """Return ``"; did you mean 'x'?"`` or ``"; known: 'a', 'b'"``, or nothing when there is none.

    Args:
        word: What was written; anything, as this is called where something is wrong already.
        known: What could have been meant; at most ten of them are listed.
    """
    names = sorted(name for name in known if isinstance(name, str))
    written = word if isinstance(word, str) and len(word) <= 1_000 else ""
    close = difflib.get_close_matches(written, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {shown(close[0])}?"
    if not names:
        return ""
    listed = ", ".join(shown(name, 80) for name in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"; known: {listed}{more}"


class Place:
    """Where a problem is: a file position, a path inside the document, or a node.

    Args:
        file: Path or name of the text, None when there is none.
        line: Line, counted from 1.
        column: Column, counted from 1.
        path: Path inside the document, such as ``$.nodes[2].retry``.
        node: Id of the node concerned.
    """

    __slots__ = ("column", "file", "line", "node", "path")

    def __init__(
        self,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        path: str | None = None,
        node: str | None = None,
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.node = node

    def _key(self) -> tuple[Any, ...]:
        return (self.file, self.line, self.column, self.path, self.node)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Place) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def __str__(self) -> str:
        if self.line is not None:
            head = f"{self.file or '<text>'}:{self.line}"
            return f"{head}:{self.column}" if self.column is not None else head
        if self.node is not None:
            return f"node {shown(self.node)}"
        return self.path or self.file or "graph"


class Problem:
    """One thing that is wrong with a graph or a file.

    Args:
        message: What was found, what was expected, what to do.
        place: Where.
        code: A short stable name, such as ``unknown-action``.
        severity: ``error`` refuses the graph; ``warning`` is reported only.
    """

    __slots__ = ("code", "message", "place", "severity")

    def __init__(
        self,
        message: str,
        place: Place | None = None,
        code: str = "invalid",
        severity: str = "error",
    ) -> None:
        self.message = message
        self.place = place if place is not None else Place()
        self.code = code
        self.severity = severity

    def _key(self) -> tuple[Any, ...]:
        return (self.message, self.place, self.code, self.severity)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Problem) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Problem({str(self)!r})"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class DaggerError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(DaggerError, ValueError):
    """An option or a policy has a value that cannot work."""


class OperandError(ConfigurationError, TypeError):
    """One side of an arrow is neither an action nor a handle; the message says what to write."""


class RegistryError(DaggerError, ValueError):
    """A name is taken, or an object cannot be registered."""


class ValidationError(DaggerError, ValueError):
    """A graph, or a file that describes one, is wrong; nothing has run.

    Attributes:
        problems: Everything that was found, in document order.
    """

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = (Problem(problems),)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) == 1:
            return lines[0]
        return f"{len(lines)} problems:\n" + "\n".join(f"  {line}" for line in lines)


class CycleError(ValidationError):
    """Nodes wait for each other in a circle.

    Attributes:
        path: The ids along the cycle; the first one is repeated at the end.
    """

    def __init__(self, path: Sequence[str], problems: Sequence[Problem] = ()) -> None:
        self.path = tuple(path)
        super().__init__(problems or (cycle_problem(self.path),))
        self.args = (self.path, self.problems)


def task_cycle(path: Sequence[str]) -> CycleError:
    """Return what to raise for tasks that wait for each other, or are parts of each other."""
    circle = " -> ".join(path if len(path) <= 20 else [*path[:10], "...", *path[-9:]])
    what = (
        f"these tasks need, or are parts of, each other: {cut(circle, 2_000)}; leave one of these "
        "dependencies out"
    )
    return CycleError(path, (Problem(what, Place(), "cycle"),))


def cycle_problem(path: Sequence[str], place: Place | None = None) -> Problem:
    """Return the problem that describes the cycle *path* (first id repeated at the end)."""
    circle = " -> ".join(path if len(path) <= 20 else [*path[:10], "...", *path[-9:]])
    return Problem(
        f"these nodes wait for each other: {cut(circle, 2_000)}; remove one of these edges",
        place or Place(node=path[0] if path else None),
        "cycle",
    )


class DependencyNotFound(ValidationError, LookupError):
    """A node names a dependency that the graph does not have."""


class ActionNotFound(ValidationError, LookupError):
    """A node names an action that no registry knows."""


class NodeAlreadyExists(ValidationError):
    """The graph has a different node of this id already.

    Attributes:
        node_id: The id in question.
    """

    def __init__(self, node_id: str, problems: Sequence[Problem] = ()) -> None:
        self.node_id = node_id
        super().__init__(
            problems
            or (
                Problem(
                    f"a node {shown(node_id)} exists already; give the new one another id",
                    Place(node=node_id),
                    "duplicate-node",
                ),
            )
        )
        self.args = (node_id, self.problems)


class AmbiguousConnection(ValidationError):
    """A connection could mean several things; the message lists the choices."""


class YamlError(ValidationError):
    """A YAML text cannot be read as a workflow; every problem carries its line and column."""


class DagNotFound(DaggerError, LookupError):
    """No graph of this name is loaded.

    Attributes:
        name: What was asked for.
        known: The names that are loaded.
    """

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        return f"DAG not found: {shown(self.name)}{did_you_mean(self.name, self.known)}" + (
            "" if self.known else "; load a file or create_dag() first"
        )


class NodeNotFound(DaggerError, KeyError):
    """The graph has no node of this id.

    Attributes:
        node_id: What was asked for.
        known: The ids the graph has.
    """

    def __init__(self, node_id: str, known: Sequence[str] = ()) -> None:
        self.node_id = node_id
        self.known = tuple(known)
        super().__init__(node_id, self.known)

    def __str__(self) -> str:
        return f"node not found: {shown(self.node_id)}{did_you_mean(self.node_id, self.known)}"


class InputError(DaggerError, ValueError):
    """What enters a run or a node is missing or wrong."""


class MissingInputError(InputError, LookupError):
    """A run was started without a value that its graph needs."""


class UnknownInputError(InputError):
    """A run was given an input that its graph does not have."""


class InputValidationError(InputError):
    """A value does not fit the schema or annotation of the parameter it is meant for."""


class InputResolutionError(InputError, LookupError):
    """A reference points at nothing when the node is about to start."""


class TypeMismatch(InputError, TypeError):
    """A stored value is not of the type that was asked for."""


class OutputError(DaggerError, ValueError):
    """What a node returned does not fit its declared outputs or its output schema."""


class ExecutionError(DaggerError):
    """A run or a node did not succeed."""


class NodeExecutionError(ExecutionError):
    """A node failed for good; ``__cause__`` is the error its function raised.

    Attributes:
        node_id: The node.
        attempts: How many times it was called.

    Where it is raised for a report, its notes tell of the attempt, the inputs and the way to go on.
    """

    __slots__ = ("_failure",)  # no part of what is pickled

    def __init__(self, node_id: str, attempts: int = 1, reason: str = "") -> None:
        self.node_id = node_id
        self.attempts = attempts
        self.reason = reason
        self._failure: Any = None
        super().__init__(node_id, attempts, reason)

    @property
    def failure(self) -> Any:
        """The `Failure` of the node: its inputs, and the way to call it again.

        Raises:
            InvalidState: The error was not raised for a report of this process.
        """
        if getattr(self, "_failure", None) is None:
            raise InvalidState(
                f"what node {shown(self.node_id)} failed with is told by the report of its run: "
                f"report.failure({shown(self.node_id)})"
            )
        return self._failure

    @property
    def inputs(self) -> Any:
        """What the node was called with, by name; see `Failure.inputs`."""
        return self.failure.inputs

    def reproduce(self) -> Any:
        """Call the node's function again, here and now; see `Failure.reproduce`."""
        return self.failure.reproduce()

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints."""
        if getattr(self, "_failure", None) is None:
            return "".join(traceback.format_exception(self)).split("\n")
        lines: list[str] = self._failure.notebook_lines(self)
        return lines

    def __str__(self) -> str:
        calls = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        reason = visible(self.reason) or "no reason given"
        return f"node {shown(self.node_id)} failed after {calls}: {reason}"


class NodeTimeout(ExecutionError, TimeoutError):
    """One attempt of a node, or one call for a task or a message, ran longer than its limit.

    Attributes:
        node_id: The node, the task, or the agent that was given the message.
        seconds: The limit.
        kind: ``node``, ``task`` or ``agent``.
    """

    def __init__(self, node_id: str, seconds: float, kind: str = "node") -> None:
        self.node_id = node_id
        self.seconds = seconds
        self.kind = kind
        super().__init__(node_id, seconds, kind)

    def __str__(self) -> str:
        return (
            f"{self.kind} {shown(self.node_id)} ran longer than its timeout of {self.seconds:g} s; "
            "raise timeout=, or make the work smaller"
        )


class ExecutionTimeout(ExecutionError, TimeoutError):
    """A run took longer than ``timeout_seconds``.

    Attributes:
        run_id: The run.
        seconds: The limit.
    """

    def __init__(self, run_id: str, seconds: float) -> None:
        self.run_id = run_id
        self.seconds = seconds
        super().__init__(run_id, seconds)

    def __str__(self) -> str:
        return f"run {self.run_id} passed its limit of {self.seconds:g} s; finished nodes are kept"


class NodeCrashed(ExecutionError):
    """The process died while this node's body ran, as often as ``max_crashes`` allows.

    Attributes:
        node_id: The node.
        crashes: How many times.
    """

    def __init__(self, node_id: str, crashes: int) -> None:
        self.node_id = node_id
        self.crashes = crashes
        super().__init__(node_id, crashes)

    def __str__(self) -> str:
        return (
            f"the process died {self.crashes} times while node {shown(self.node_id)} ran; "
            "it is not started again. When its cause is mended, resume with a higher limit: "
            "resume(run_id, config={'max_crashes': 9}), or DAGGER_DSL_MAX_CRASHES=9 before the "
            "command"
        )


class ProcessDied(ExecutionError):
    """The worker process of a call ended in the middle of it; the run goes on with a fresh one.

    Attributes:
        node_id: The node.
        code: The exit code, negative where a signal ended the process, as `subprocess` has it.
    """

    def __init__(self, node_id: str, code: int) -> None:
        self.node_id = node_id
        self.code = code
        super().__init__(node_id, code)

    def __str__(self) -> str:
        if self.code >= 0:
            how = f"exited with code {self.code}"
            why = "its body must return or raise, and not leave"
        else:
            how = f"was killed by {_signal_name(-self.code)}"
            why = "its body, or a library that it calls, crashed"
            if self.code == -9:
                why = "the system does that when memory runs out"
        return f"the worker process of node {shown(self.node_id)} {how}: {why}"


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class LimitExceeded(ExecutionError):
    """A run passed one of the limits that keep it from going on for ever; it stops."""


class GrowthLimitExceeded(LimitExceeded):
    """A node would have been added by nodes that were added, deeper than ``max_growth_depth``."""


class MaxIterationsExceeded(LimitExceeded):
    """A run's graph would have grown more often than ``max_iterations``."""


class TokenBudgetExceeded(LimitExceeded):
    """The nodes of a run have used more than ``max_tokens``."""


class MaxCyclesExceeded(LimitExceeded):
    """A state machine would have made more cycles than ``max_cycles``; resume goes on with more.

    Attributes:
        limit: The limit.
        history: The states it was in, first to last.
    """

    def __init__(self, limit: int, history: Iterable[str]) -> None:
        self.limit = limit
        self.history = tuple(history)
        super().__init__(limit, self.history)

    def __str__(self) -> str:
        shown_last = " -> ".join(self.history[-8:])
        more = "... -> " if len(self.history) > 8 else ""
        return (
            f"the machine has not ended after max_cycles={self.limit} cycles ({more}{shown_last}); "
            "let a state end it, or allow more with run(max_cycles=...); a run that is recorded "
            "goes on by resume(..., max_cycles=...)"
        )


class TransitionError(ExecutionError):
    """A state machine cannot go where it is told to, or is not told where; it is not retried."""


class TransitionRejected(TransitionError):
    """What a state hook raises to refuse a transition: the state that was to be left has failed."""


class StalledError(ExecutionError):
    """Nothing of a run can go on, and nothing says why; a fault of the engine."""


class MapError(ExecutionError):
    """An invocation of a mapped node failed, or there is nothing to map over.

    Attributes:
        node_id: The node.
        key: The invocation, empty where there was none.
    """

    def __init__(self, node_id: str, key: str, text: str) -> None:
        self.node_id = node_id
        self.key = key
        self.text = text
        super().__init__(node_id, key, text)

    def __str__(self) -> str:
        where = f"invocation {self.key} of node" if self.key else "node"
        return f"{where} {self.node_id!r}: {self.text}"


class NodeFailure(ExecutionError):
    """A node answered ``NodeOutput.failure(message)``: a failure it chose, never retried."""


class RunCancelled(ExecutionError):
    """A run was cancelled; finished nodes are kept.

    Attributes:
        run_id: The run.
        reason: What the canceller said.
    """

    def __init__(self, run_id: str, reason: str = "") -> None:
        self.run_id = run_id
        self.reason = reason
        super().__init__(run_id, reason)

    def __str__(self) -> str:
        return f"run {self.run_id} was cancelled" + (
            f": {visible(self.reason)}" if self.reason else ""
        )


class RunPaused(ExecutionError):
    """A run stands still and waits to be resumed.

    Attributes:
        run_id: The run.
        reason: Why.
    """

    def __init__(self, run_id: str, reason: str = "") -> None:
        self.run_id = run_id
        self.reason = reason
        super().__init__(run_id, reason)

    def __str__(self) -> str:
        why = f" ({visible(self.reason)})" if self.reason else ""
        return f"run {self.run_id} is paused{why}; resume it by its id"


class NotExecuted(ExecutionError, LookupError):
    """A result was asked for that no run has produced yet."""


class ResultNotFound(NotExecuted, IndexError):
    """A state of a machine has no result of this number: it has fewer, or let this one go."""


class CircuitBreakerOpenError(DaggerError):
    """A call was not made, because too many before it have failed.

    Attributes:
        function: What was called.
        failures: How many failed in a row.
        since: When calls began to be refused, in seconds since 1970.
        until: From when on one is let through again.
    """

    def __init__(self, function: str, failures: int, since: float, until: float) -> None:
        self.function = function
        self.failures = failures
        self.since = since
        self.until = until
        super().__init__(function, failures, since, until)

    def __str__(self) -> str:
        return (
            f"{shown(self.function)} is not called: {self.failures} calls in a row have failed, "
            f"and its circuit breaker is open since {_time_of_day(self.since)}, until "
            f"{_time_of_day(self.until)} UTC"
        )


def _time_of_day(moment: float) -> str:
    import datetime as dt  # who reads no such message pays nothing

    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


class ResourceTimeout(DaggerError, TimeoutError):
    """No resource of a pool came free in time.

    Attributes:
        seconds: How long was waited.
        max_size: How many resources the pool lends at most.
    """

    def __init__(self, seconds: float, max_size: int) -> None:
        self.seconds = seconds
        self.max_size = max_size
        super().__init__(seconds, max_size)

    def __str__(self) -> str:
        return (
            f"no resource of the pool came free within {self.seconds:g} s: all {self.max_size} are "
            "lent; wait longer, give the pool a larger max_size, or hold each for a shorter time"
        )


class ResourceExhausted(DaggerError):
    """A call declares more memory than there can ever be room for.

    Attributes:
        what: The call.
        memory: Bytes that it declares.
        limit: Bytes that there are at most.
        inside: The call that it is made inside of, which declares them; empty where they are the
            limit of the tracker.
    """

    def __init__(self, what: str, memory: int, limit: int, inside: str = "") -> None:
        self.what = what
        self.memory = memory
        self.limit = limit
        self.inside = inside
        super().__init__(what, memory, limit, inside)

    def __str__(self) -> str:
        head = f"{self.what} declares {self.memory:,} bytes of memory, and "
        if self.inside:
            return (
                f"{head}{self.inside}, inside of which it is called, declares {self.limit:,}: what "
                "runs inside of a call is paid out of that; declare more there, or less here"
            )
        return (
            f"{head}the limit is {self.limit:,}: it would wait for ever; raise the limit by "
            "ResourceTracker.set_memory_limit, or declare less"
        )


class InvalidState(DaggerError):
    """The call does not fit what the object is doing now."""


class CodecError(DaggerError, ValueError):
    """A value cannot be turned into stored bytes, or back."""


class EncodingError(CodecError, TypeError):
    """A value has no stored form; the message names its place, its type and the way out.

    Attributes:
        outside_runs: The same where the value is no result of a node, and the way out another one;
            empty where it is the same.
    """

    def __init__(self, message: str, outside_runs: str = "") -> None:
        super().__init__(message)
        self.outside_runs = outside_runs


class TransferError(CodecError, TypeError):
    """A function or a value cannot go to a worker process, or not come back from it."""


class DecodingError(CodecError):
    """Stored bytes are not a value this process knows how to rebuild."""


class StoreError(DaggerError):
    """Storage trouble. It is never a node's result; the run stays resumable.

    Attributes:
        where: The database, or the artifact folder, that has the trouble; empty where the error is
            an answer of a store that works, such as that there is no such run.
    """

    where: str = ""


class StoreFull(StoreError):
    """The disk or the database is full."""


class StoreBusy(StoreError):
    """Another process held the database longer than the busy timeout."""


class StoreReadOnly(StoreError):
    """The database cannot be written."""


class StoreDamaged(StoreError):
    """The database or an artifact is not what was written."""


class StoreVersionError(StoreError):
    """The file is not a dagger_dsl database, or a newer version wrote it."""


class RunNotFound(StoreError, LookupError):
    """The store has no run of this id."""


class JobNotFound(DaggerError, LookupError):
    """There is no job of this id."""


class JobExists(DaggerError):
    """There is a job of this id already."""


class JobFailed(DaggerError):
    """A job that a node waited for has failed, or was cancelled."""


class TaskNotFound(DaggerError, LookupError):
    """There is no task of this id."""


class TaskExists(DaggerError):
    """There is a task of this id already."""


class AgentNotFound(DaggerError, LookupError):
    """No agent of this name is registered."""


class AgentAlreadyRegistered(DaggerError):
    """There is an agent of this name already."""


class AgentNotAllowed(DaggerError):
    """A job does not let this agent have tasks."""


class MessageValidationError(InputError):
    """A message is refused: it does not fit its channel, or an agent that would be given it."""


class MessageTooLarge(MessageValidationError):
    """A message takes more bytes than are allowed."""


class UndeclaredPublication(OutputError):
    """An agent publishes on a channel that it does not name among its publications."""


class ChannelFull(DaggerError, TimeoutError):
    """A message was not published, because those before it were not taken in time."""


class MessageNotFound(DaggerError, LookupError):
    """There is no such message among those that agents have given up."""


class ConcurrentUpdateError(InvalidState):
    """A task was changed by somebody else since it was read; read it again."""


class ArtifactNotFound(StoreError, LookupError):
    """The store has no artifact of this id."""


class SnapshotNotFound(StoreError, LookupError):
    """The store has no snapshot of this id, or none of this graph."""


class RunExists(StoreError):
    """A run of this id is in the store already."""


class KeyTaken(RunExists):
    """An idempotency key has a run already, of the same graph and inputs.

    Attributes:
        run_id: That run.
        key: The key.
    """

    def __init__(self, run_id: str, key: str) -> None:
        self.run_id = run_id
        self.key = key
        super().__init__(run_id, key)

    def __str__(self) -> str:
        return f"idempotency key {self.key!r} belongs to run {self.run_id}, which is the same run"


class RunOwned(StoreError):
    """Another live process records into this run.

    Attributes:
        run_id: The run.
        owner: Host and process that own it.
    """

    def __init__(self, run_id: str, owner: str) -> None:
        self.run_id = run_id
        self.owner = owner
        super().__init__(run_id, owner)

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is being executed by {self.owner}; "
            "wait until it ends, or stop that process first"
        )


class RunFenced(StoreError):
    """This process lost its claim on the run: another one has taken it over."""


class IdempotencyConflict(StoreError):
    """An idempotency key was used again with another graph or other inputs."""


class VisualizationUnavailable(DaggerError):
    """A picture needs a program that is not installed."""


class MissingExtra(DaggerError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        feature: What was asked for.
        extra: The extra that brings it, as in ``pip install dagger-dsl[extra]``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(feature, extra)

    def __str__(self) -> str:
        return f"{self.feature} needs an optional package: pip install 'dagger-dsl[{self.extra}]'"
