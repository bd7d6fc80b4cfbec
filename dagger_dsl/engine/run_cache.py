"""`RunCache`: a run's values as functions of the old form read them, by namespace and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.state import COMPLETED, FAILED
from dagger_dsl.model.graph import RESULT

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["RunCache"]


class RunCache:
    """A run's values by namespace and key, read only."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return an input (namespace ``inputs``), or an output of a completed node.

        A node that failed has an ``error``: its ``type``, ``message`` and ``traceback``. A node
        that declares no outputs has its whole value as ``result``.
        """
        run = self._run
        if (namespace, key) in run.inserted:
            return run.inserted[namespace, key]
        if namespace == "inputs":
            return run.inputs.get(key, default)
        return self._values(namespace).get(key, default)

    def _values(self, node_id: str) -> Mapping[str, Any]:
        run = self._run
        slot = run.plan.index.get(node_id)
        if slot is None:
            return {}
        status = run.state.status(slot)
        if status == COMPLETED:
            value = run.value(slot)
            found = run.plan.outputs_of(slot, value)
            return found if slot in run.plan.parts else {RESULT: value, **found}
        if slot in run.errors and (status == FAILED or slot in run.handling):
            info = error_info(run.errors[slot])
            return {
                "error": {
                    "type": info.type,
                    "message": info.message,
                    "traceback": info.traceback,
                }
            }
        return {}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return every value by namespace and key."""
        run = self._run
        found = {"inputs": dict(run.inputs)}
        found |= {
            node_id: dict(self._values(node_id))
            for node_id, slot in run.plan.index.items()
            if not run.is_gone(slot)
        }
        for (namespace, key), value in list(run.inserted.items()):
            found.setdefault(namespace, {})[key] = value
        return {namespace: values for namespace, values in found.items() if values}
