"""Observers of a run: hooks and the progress callback, called with the events of each turn.

Whatever an observer raises is logged and kept in the run's record; it never loses the run.
"""

from __future__ import annotations

import datetime as dt
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dagger_dsl.engine.run import Run
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.context import HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeSkipped,
    NodeStarted,
)

__all__ = ["Observers", "check_hooks", "completions"]

logger = logging.getLogger("dagger_dsl.hooks")

_ENDINGS = (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled)


def check_hooks(hooks: Sequence[Any]) -> None:
    """Refuse what cannot be called as a hook.

    Raises:
        ConfigurationError: One has no ``handle`` and is no function, or is async.
    """
    for hook in hooks:
        handle = getattr(hook, "handle", hook)
        if not callable(handle):
            raise ConfigurationError(
                f"a hook is a function of (ctx, event) or has handle(ctx, event), not {hook!r}"
            )
        if inspect.isclass(hook):
            raise ConfigurationError(f"a hook is an object, not its class; give {hook.__name__}()")
        for each in (handle, *(getattr(hook, name, None) for name in ("on_start", "on_complete"))):
            if inspect.iscoroutinefunction(each):
                raise ConfigurationError(
                    f"async hooks are not supported yet: {each!r}; use plain functions"
                )


class _Started(NodeStarted):
    """A `NodeStarted` whose fields are made when a hook reads them; most hooks read few."""

    __slots__ = ("_of",)
    _of: tuple[Run, int, int, float]

    @property  # type: ignore[misc]  # read-only, and for everybody who asks what it stands for
    def __class__(self) -> type:
        return NodeStarted

    def __reduce__(self) -> Any:
        return NodeStarted, (self.node, self.attempt, self.at)

    @property
    def node(self) -> NodeRef:
        return self._of[0].ref(self._of[1])

    @property
    def attempt(self) -> int:
        return self._of[2]

    @property
    def at(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._of[0].wall + self._of[3], dt.UTC)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeStarted):
            return NotImplemented
        return (self.node, self.attempt) == (other.node, other.attempt)

    def __hash__(self) -> int:
        return hash((self.node, self.attempt))


class _Completed(NodeCompleted):
    """A `NodeCompleted` whose fields are made when a hook reads them."""

    __slots__ = ("_of",)
    _of: tuple[Run, int]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return NodeCompleted

    def __reduce__(self) -> Any:
        return NodeCompleted, (self.node, self.outcome)

    @property
    def node(self) -> NodeRef:
        return self._of[0].ref(self._of[1])

    @property
    def outcome(self) -> NodeOutcome:
        run, slot = self._of
        outputs = run.plan.outputs_of(slot, run.value(slot))
        return NodeOutcome(True, outputs, metadata=run.meta.get(slot, {}).get("metadata", {}))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeCompleted):
            return NotImplemented
        return (self.node, self.outcome) == (other.node, other.outcome)

    def __hash__(self) -> int:
        return hash(self.node)


_new = object.__new__
# Frozen classes refuse assignment; their slots' own setters are the quick way in.
_set_started: Callable[[_Started, Any], None] = _Started._of.__set__  # type: ignore[attr-defined]
_set_completed: Callable[[_Completed, Any], None] = _Completed._of.__set__  # type: ignore[attr-defined]


def completions(run: Run, slots: Iterable[int]) -> list[Event]:
    """Return the events of plain completions."""
    events: list[Event] = []
    for slot in slots:
        event = _new(_Completed)
        _set_completed(event, (run, slot))
        events.append(event)
    return events


class Observers:
    """Shows events to hooks, in their order, and the fraction done to a progress callback.

    Args:
        run: What is watched.
        hooks: Functions of ``(ctx, event)``, or objects with ``handle`` and, if they like,
            ``on_start(ctx)`` and ``on_complete(ctx, success)``.
        progress: ``fn(node_id, status, fraction)``.
    """

    def __init__(
        self, run: Run, hooks: Sequence[Any], progress: Callable[[str, str, float], Any] | None
    ) -> None:
        self._run = run
        self._hooks = tuple(hooks)
        self._attempts = run.attempts
        self._handles = [getattr(hook, "handle", hook) for hook in self._hooks]
        self._progress = progress
        self._ended = len(run.restored)
        self._ctx = HookContext(
            run_id=run.run_id,
            dag_name=run.dag_name,
            app_data=run.app_data,
            cache=run.cache,
            graph=run.plan.graph,
        )
        self.wants_starts = any(getattr(hook, "wants_starts", True) for hook in self._hooks)

    def begin(self) -> None:
        """Tell the hooks that the run begins, before any node."""
        for hook in self._hooks:
            self._guarded(getattr(hook, "on_start", None), self._ctx)

    def finish(self, success: bool) -> None:
        """Tell the hooks how the run ended."""
        for hook in self._hooks:
            self._guarded(getattr(hook, "on_complete", None), self._ctx, success)

    def start(self, slot: int, now: float) -> None:
        """Show that an attempt begins; *now* is the run's clock."""
        event = _new(_Started)
        _set_started(event, (self._run, slot, self._attempts.get(slot, 1), now))
        self.show((event,))

    def show(self, events: Sequence[Event]) -> None:
        """Show the events of one turn."""
        ctx, progress = self._ctx, self._progress
        for event in events:
            for handle in self._handles:
                try:
                    answer = handle(ctx, event)
                except Exception as error:
                    self._failed(handle, error)
                else:
                    if answer:
                        self._refuse(handle, answer)
            if progress is not None:
                self._report(event)

    def _report(self, event: Event) -> None:
        if isinstance(event, NodeStarted):
            status = "running"
        elif isinstance(event, _ENDINGS):
            self._ended += 1
            if isinstance(event, NodeCompleted):
                status = "completed" if event.outcome.success else "failed"
            elif isinstance(event, NodeFailed):
                status = "failed"
            else:
                status = "skipped" if isinstance(event, NodeSkipped) else "cancelled"
        else:
            return
        fraction = self._ended / max(1, self._run.plan.count)
        self._guarded(self._progress, event.node.node_id, status, fraction)

    def _guarded(self, function: Callable[..., Any] | None, *arguments: Any) -> None:
        if function is None:
            return
        try:
            answer = function(*arguments)
        except Exception as error:
            self._failed(function, error)
        else:
            if answer:
                self._refuse(function, answer)

    def _failed(self, function: Any, error: Exception) -> None:
        logger.error(
            "hook %r failed; the run goes on",
            function,
            exc_info=error,
            extra={"run_id": self._run.run_id},
        )
        self._run.hook_errors.append(error)

    def _refuse(self, function: Any, answer: Any) -> None:
        self._failed(
            function,
            ConfigurationError(
                f"hook {function!r} returned {type(answer).__name__}; commands are not supported "
                "yet, a hook returns None"
            ),
        )
