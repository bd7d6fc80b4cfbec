"""`Tracing`: OpenTelemetry spans of a run, one for the run and one for each attempt of a node.

The run's span is a child of the span that is current where the run begins; an attempt's is a child
of the run's, and is current while the body runs, so that spans which the body makes are its
children. In a worker process the body's own spans are not: the context does not cross.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import MissingExtra
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.jobs import WAITS
from dagger_dsl.model.states import RunStatus
from dagger_dsl.runners.base import ASYNC

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["Tracing"]


class Tracing:
    """Makes the spans of one run.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import context, trace
        except ImportError as error:
            raise MissingExtra("trace=True", "otel") from error
        self._trace, self._context = trace, context
        self._tracer = trace.get_tracer("dagger_dsl")
        self._span: Any = None
        self._open: set[Any] = set()
        self._lock = threading.Lock()

    def begin(self, run: Run) -> None:
        """Start the run's span, in the context of whoever runs it."""
        self._span = self._tracer.start_span(f"run {run.dag_name}", attributes=_attributes(run))

    def end(self, run: Run, error: BaseException | None) -> None:
        """End the run's span, and those of calls that were left behind."""
        with self._lock:
            left, self._open = self._open, set()
        for span in left:
            span.set_attribute("dagger_dsl.state", "left behind")
            self._fault(span, "the call was left behind; its outcome is ignored")
            span.end()
        state = str(run.status)
        self._span.set_attribute("dagger_dsl.state", state)
        found = error if error is not None else run.exception
        if found is not None:
            self._span.record_exception(found)
        if error is not None or run.status not in (RunStatus.COMPLETED, RunStatus.PAUSED):
            self._fault(self._span, run.reason or state)
        self._span.end()

    def around(self, run: Run, slot: int, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call* with a span around each time it is called."""
        if run.plan.kinds[slot] & ASYNC:

            async def traced_async(*values: Any) -> Any:
                with _Attempt(self, run, slot) as attempt:
                    return attempt.returned(await call(*values))

            return traced_async

        def traced(*values: Any) -> Any:
            with _Attempt(self, run, slot) as attempt:
                return attempt.returned(call(*values))

        return traced

    def _fault(self, span: Any, text: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, text))


class _Attempt:
    """The span of one attempt, current inside of a ``with`` block."""

    def __init__(self, tracing: Tracing, run: Run, slot: int) -> None:
        self._tracing = tracing
        trace = tracing._trace
        node_id = str(run.plan.ids[slot])
        attributes = {
            **_attributes(run),
            "dagger_dsl.node_id": node_id,
            "dagger_dsl.attempt": run.attempts.get(slot, 1),
        }
        if slot in run.plan.parents:
            attributes["dagger_dsl.key"] = run.plan.children.key(slot)
        self.span: Any = tracing._tracer.start_span(
            f"node {node_id}",
            context=trace.set_span_in_context(tracing._span),
            attributes=attributes,
        )
        self._state = "completed"

    def __enter__(self) -> _Attempt:
        tracing = self._tracing
        with tracing._lock:
            tracing._open.add(self.span)
        self._token = tracing._context.attach(tracing._trace.set_span_in_context(self.span))
        return self

    def returned(self, value: Any) -> Any:
        """Note what the body answered; return it."""
        if isinstance(value, NodeOutput) and not value.succeeded:
            self._state = "failed"
            self._tracing._fault(self.span, value.message or "the node answered failure")
        elif isinstance(value, WAITS):
            self._state = "waiting"
        return value

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        tracing = self._tracing
        tracing._context.detach(self._token)
        with tracing._lock:
            if self.span not in tracing._open:
                return  # the run has ended without it
            tracing._open.discard(self.span)
        if error is not None:
            # asyncio is loaded wherever one of its exceptions can occur.
            self._state = "cancelled" if kind.__name__ == "CancelledError" else "failed"
            self.span.record_exception(error)
            tracing._fault(self.span, f"{kind.__name__}: {error}")
        self.span.set_attribute("dagger_dsl.state", self._state)
        self.span.end()


def _attributes(run: Run) -> dict[str, Any]:
    return {"dagger_dsl.run_id": run.run_id, "dagger_dsl.dag_name": run.dag_name}
