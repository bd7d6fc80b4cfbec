"""Hooks ready made. One object may watch several runs at once, under every runner."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import reprlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from dagger_dsl.engine.hooks._definition import EventHook
from dagger_dsl.errors import ConfigurationError, shown, visible
from dagger_dsl.model.commands import AddNodes, NodeSpec, PauseBranch
from dagger_dsl.model.context import DEFAULT_KEY, HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
)
from dagger_dsl.model.graph import check_texts

__all__ = ["LoggingHook", "MetricsHook", "PlannerHook", "ReviewHook", "TimingHook"]


# --- logging -------------------------------------------------------------------------------------

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 4, 20, 20, 20
_short.maxstring = _short.maxother = 200

#: A record refuses data under these names.
_TAKEN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class LoggingHook(EventHook):
    """Writes one record for every event, its fields as the record's ``extra``.

    Every record has ``event`` (the class's name), ``run_id`` and ``dag_name``; one of a node has
    ``node_id``, and whatever the event says: ``attempt``, ``delay``, ``error``, ``reason``,
    ``outputs``, ``success``... A `CustomEvent` has ``event_name``, ``payload`` and ``sequence``.
    Numbers and flags are what they are, everything else is a text: values as a short ``repr``,
    without anything that a terminal would obey.

    Args:
        logger: By default ``dagger_dsl.events``.
        level: Of every record.

    Raises:
        ConfigurationError: *logger* cannot log, or *level* is no number.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        if not isinstance(level, int) or isinstance(level, bool):
            raise ConfigurationError(
                f"LoggingHook: a level is a number such as logging.INFO, not {shown(level)}"
            )
        if logger is not None and not callable(getattr(logger, "isEnabledFor", None)):
            raise ConfigurationError(
                "LoggingHook: logger is a logging.Logger, such as logging.getLogger('runs'), not "
                f"{shown(logger)}"
            )
        self.logger = logging.getLogger("dagger_dsl.events") if logger is None else logger
        self.level = level

    def on_start(self, ctx: HookContext) -> None:
        """Log that the run begins or goes on."""
        self._log(ctx, "RunStarted", {})

    def handle(self, ctx: HookContext, event: Event) -> None:
        """Log the event."""
        if self.logger.isEnabledFor(self.level):
            self._log(ctx, event.__class__.__name__, _fields(event))

    def on_complete(self, ctx: HookContext, success: bool) -> None:
        """Log how the run ended."""
        self._log(ctx, "RunFinished", {"success": success})

    def _log(self, ctx: HookContext, name: str, fields: Mapping[str, Any]) -> None:
        run = {"run_id": _plain(ctx.run_id), "dag_name": _plain(ctx.dag_name)}
        said = " ".join(f"{key}={value}" for key, value in {**fields, **run}.items())
        self.logger.log(self.level, "%s %s", name, said, extra={"event": name, **run, **fields})


def _fields(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in attrs.fields(event.__class__):
        name, value = field.name, getattr(event, field.name)
        if isinstance(value, NodeRef):
            found["node_id"] = _plain(value.node_id)
            if value.invocation_key != DEFAULT_KEY:
                found["invocation_key"] = _plain(value.invocation_key)
        elif isinstance(value, NodeOutcome):
            found |= _outcome(value)
        elif name not in ("run_id", "dag_name"):
            found[f"event_{name}" if name in _TAKEN else name] = _plain(value)
    return found


def _outcome(outcome: NodeOutcome) -> dict[str, Any]:
    found = {"success": outcome.success, "cached": outcome.cached}
    if outcome.error is not None:
        return {**found, "error": _plain(outcome.error)}
    return {**found, "outputs": _plain(dict(outcome.outputs))}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dt.datetime):
        return value.isoformat()
    text = value
    if not isinstance(value, str):
        try:
            text = _short.repr(value)
        except Exception:  # reprlib goes by the names of classes, and a stranger's may be `array`
            text = shown(value)
    return visible(text, 500).replace("\n", "\\n").replace("\t", "\\t")


# --- measuring -----------------------------------------------------------------------------------


class TimingHook(EventHook):
    """Measures how long nodes take, from the event of their start to that of their end.

    Args:
        clock: Seconds, by a clock that never goes back.

    Attributes:
        total: Seconds of the run that ended last; 0 before one has.

    Raises:
        ConfigurationError: *clock* cannot be called.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        _check_function("TimingHook: clock", clock)
        self.total = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[str, float] = {}
        self._starts: dict[NodeRef, float] = {}
        self._times: dict[str, float] = {}

    @property
    def node_times(self) -> dict[str, float]:
        """Seconds of the last attempt by node id; ``id[key]`` for the calls of a mapped node."""
        with self._lock:
            return dict(self._times)

    def on_start(self, ctx: HookContext) -> None:
        """Note when the run begins."""
        with self._lock:
            self._runs[ctx.run_id] = self._clock()

    def handle(self, ctx: HookContext, event: Event) -> None:
        """Note when an attempt begins, and how long it took."""
        now = self._clock()
        if isinstance(event, NodeStarted):
            with self._lock:
                self._starts[event.node] = now
        elif isinstance(event, (NodeCompleted, NodeFailed, NodeRetrying, NodeCancelled)):
            self._ended(event.node, now)

    def _ended(self, node: NodeRef, now: float) -> None:
        key = "" if node.invocation_key == DEFAULT_KEY else f"[{node.invocation_key}]"
        with self._lock:
            began = self._starts.pop(node, None)
            if began is not None:
                self._times[f"{node.node_id}{key}"] = now - began

    def on_complete(self, ctx: HookContext, success: bool) -> None:
        """Note how long the run took."""
        now = self._clock()
        with self._lock:
            began = self._runs.pop(ctx.run_id, None)
            if began is not None:
                self.total = now - began
            for node in [each for each in self._starts if each.run_id == ctx.run_id]:
                del self._starts[node]


class MetricsHook(EventHook):
    """Counts what happens in the runs that it watches.

    Attributes:
        nodes_started: Nodes of which a call began, further attempts not counted.
        nodes_completed, nodes_failed, nodes_skipped, nodes_cancelled: How nodes ended; a failure
            that a node chose counts as failed.
        nodes_retried: Attempts that failed and were followed by another one.
        runs_started, runs_finished: Runs that began or went on, and that ended or were paused.
    """

    nodes_started: int
    nodes_completed: int
    nodes_failed: int
    nodes_skipped: int
    nodes_cancelled: int
    nodes_retried: int
    runs_started: int
    runs_finished: int

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: set[NodeRef] = set()
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        with self._lock:
            for name in _COUNTS:
                setattr(self, name, 0)

    def snapshot(self) -> dict[str, int]:
        """Return all counts by name, as they are at one moment."""
        with self._lock:
            return {name: getattr(self, name) for name in _COUNTS}

    def on_start(self, ctx: HookContext) -> None:
        """Count the run."""
        with self._lock:
            self.runs_started += 1

    def handle(self, ctx: HookContext, event: Event) -> None:
        """Count the event."""
        with self._lock:
            name = self._counted(event)
            if name is not None:
                setattr(self, name, getattr(self, name) + 1)

    def on_complete(self, ctx: HookContext, success: bool) -> None:
        """Count the run's end."""
        with self._lock:
            self.runs_finished += 1
            self._begun = {each for each in self._begun if each.run_id != ctx.run_id}

    def _counted(self, event: Event) -> str | None:
        if isinstance(event, NodeStarted):
            known = event.node in self._begun
            self._begun.add(event.node)
            return None if known else "nodes_started"
        if isinstance(event, NodeRetrying):
            return "nodes_retried"
        if not isinstance(event, (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled)):
            return None
        self._begun.discard(event.node)
        if isinstance(event, NodeCompleted):
            return "nodes_completed" if event.outcome.success else "nodes_failed"
        if isinstance(event, NodeFailed):
            return "nodes_failed"
        return "nodes_skipped" if isinstance(event, NodeSkipped) else "nodes_cancelled"


_COUNTS = tuple(MetricsHook.__annotations__)


# --- steering ------------------------------------------------------------------------------------


def _needs_review(outputs: Mapping[str, Any]) -> Any:
    return outputs.get("needs_review")


class ReviewHook(EventHook):
    """Pauses what comes after a node whose outputs ask for a human's review.

    The node itself has completed; its descendants do not start before the branch is resumed.

    Args:
        when: Given the node's outputs by name, says whether to pause; by default when the output
            ``needs_review`` is true.
        reason: Shown to whoever reviews.
        branch: What to pause instead of the node's own descendants: a node's id, or a label.

    Raises:
        ConfigurationError: *when* cannot be called, *reason* or *branch* is no text.
    """

    def __init__(
        self,
        when: Callable[[Mapping[str, Any]], Any] = _needs_review,
        reason: str = "Human review required",
        branch: str | None = None,
    ) -> None:
        _check_function("ReviewHook: when", when)
        check_texts("ReviewHook", {"reason": reason, "branch": "" if branch is None else branch})
        if branch == "":
            raise ConfigurationError(
                "ReviewHook: branch is a node's id or a label, or None for what comes after the "
                "node, not ''"
            )
        self._when = when
        self.reason = reason
        self.branch = branch

    def handle(self, ctx: HookContext, event: Event) -> PauseBranch | None:
        """Pause after a completion that asks for it."""
        if not isinstance(event, NodeCompleted):
            return None
        outcome = event.outcome
        if not outcome.success or not self._when(outcome.outputs):
            return None
        return PauseBranch(event.node.node_id if self.branch is None else self.branch, self.reason)


class PlannerHook(EventHook):
    """Lets the graph grow by what its nodes found out.

    Args:
        plan: Called with the id and the outputs by name of every node that completed; returns a
            `NodeSpec`, an iterable of them, or None. They are added together or not at all; one
            without dependencies waits for the node that completed.

    Raises:
        ConfigurationError: *plan* cannot be called.
    """

    def __init__(
        self, plan: Callable[[str, Mapping[str, Any]], NodeSpec | Iterable[NodeSpec] | None]
    ) -> None:
        _check_function("PlannerHook: plan", plan)
        self._plan = plan

    def handle(self, ctx: HookContext, event: Event) -> AddNodes | None:
        """Ask for a plan after each completion."""
        if not isinstance(event, NodeCompleted) or not event.outcome.success:
            return None
        node_id = event.node.node_id
        planned = self._plan(node_id, event.outcome.outputs)
        specs = AddNodes((planned,) if isinstance(planned, NodeSpec) else planned or ()).specs
        if not specs:
            return None
        return AddNodes(each if each.deps else each.with_deps([node_id]) for each in specs)


def _check_function(what: str, given: Any) -> None:
    if not callable(given):
        raise ConfigurationError(f"{what} is a function, not {shown(given)}")
    if inspect.iscoroutinefunction(given):
        raise ConfigurationError(
            f"{what} is a plain function; what has to be awaited belongs into an action or into a "
            "hook of your own"
        )
