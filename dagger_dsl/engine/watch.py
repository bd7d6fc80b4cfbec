"""Observers of a run: hooks and the progress callback, called with the events of each turn.

Whatever an observer raises is logged and kept in the run's record; it never loses the run.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from dagger_dsl.engine.run import Run
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.events import (
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeSkipped,
    NodeStarted,
)

__all__ = ["Observers", "check_hooks"]

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
        if inspect.iscoroutinefunction(handle):
            raise ConfigurationError(f"async hooks are not supported yet: {hook!r}; use a function")


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

    def show(self, events: Sequence[Event]) -> None:
        """Show the events of one turn."""
        for event in events:
            for handle in self._handles:
                self._guarded(handle, self._ctx, event)
            if self._progress is not None:
                self._report(event)

    def _report(self, event: Event) -> None:
        if isinstance(event, NodeStarted):
            status = "running"
        elif isinstance(event, _ENDINGS):
            self._ended += 1
            status = {
                NodeCompleted: "completed",
                NodeFailed: "failed",
                NodeSkipped: "skipped",
                NodeCancelled: "cancelled",
            }[type(event)]
            if isinstance(event, NodeCompleted) and not event.outcome.success:
                status = "failed"
        else:
            return
        fraction = self._ended / max(1, self._run.plan.count)
        self._guarded(self._progress, event.node.node_id, status, fraction)

    def _guarded(self, function: Callable[..., Any] | None, *arguments: Any) -> None:
        if function is None:
            return
        try:
            answer = function(*arguments)
        except Exception as raised:
            logger.exception(
                "hook %r failed; the run goes on", function, extra={"run_id": self._run.run_id}
            )
            self._run.hook_errors.append(raised)
            return
        if answer:
            error = ConfigurationError(
                f"hook {function!r} returned {type(answer).__name__}; commands are not supported "
                "yet, a hook returns None"
            )
            logger.error("%s", error, extra={"run_id": self._run.run_id})
            self._run.hook_errors.append(error)
