"""Calls of functions in the documents' old form, ``fn(executor, node, cache)``.

Such a function reads its inputs from a cache and writes its outputs there. Its cache is one call's
view of the run: what it inserts becomes visible, and is recorded, together with the result of the
call; what a call that raised had inserted is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.graph import RESULT, Graph
from dagger_dsl.model.values import MISSING
from dagger_dsl.runners.base import Writing
from dagger_dsl.store.cache import Cache

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["ExecutorView", "LegacyCall"]


@attrs.frozen(eq=False)
class ExecutorView:
    """What a function of the old form gets as its executor: the run it belongs to, read only.

    Attributes:
        run_id, dag_name: The run.
        graph: What is run.
        config: How it is run.
        app_data: The object the run was given.
    """

    run_id: str
    dag_name: str
    graph: Graph
    config: DagConfig
    app_data: Any = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a node's function gets a read-only view of its executor, which has no {name!r}"
        )


class _CallCache(Cache):
    """A call's own values before those of its run."""

    __slots__ = ("_run",)

    def __init__(self, run: Run, own: Mapping[str, Mapping[str, Any]], on_write: Any) -> None:
        super().__init__(own, on_write=on_write)
        self._run = run

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default* when it was never written."""
        found = super().get(namespace, key, MISSING)
        return self._run.cache.get(namespace, key, default) if found is MISSING else found

    def namespaces(self) -> list[str]:
        """Return the namespaces that hold values."""
        return list(self.to_dict())

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return a copy of the mappings."""
        found = self._run.cache.to_dict()
        for namespace, values in super().to_dict().items():
            found.setdefault(namespace, {}).update(values)
        return found

    def __contains__(self, namespace: object) -> bool:
        return namespace in self.to_dict()


class LegacyCall:
    """One call: its arguments, and what its answer means.

    Args:
        run: Where it belongs.
        slot: Which node.
        inputs: What the node is called with; found in the cache under the node's id.
        handler: Whether it handles the node's failure.
    """

    def __init__(self, run: Run, slot: int, inputs: Mapping[str, Any], *, handler: bool) -> None:
        self._run = run
        self._slot = slot
        self._handler = handler
        self._node = run.plan.node(slot)
        self._written: dict[tuple[str, str], Any] = {}
        self._cache = _CallCache(run, {self._node.id: inputs}, self._note)

    def _note(self, namespace: str, key: str, value: Any) -> None:
        if value is MISSING:
            self._written.pop((namespace, key), None)
        else:
            self._written[namespace, key] = value

    @property
    def arguments(self) -> tuple[ExecutorView, Any, Cache]:
        """``(executor, node, cache)``."""
        run = self._run
        view = ExecutorView(run.run_id, run.dag_name, run.plan.current, run.config, run.app_data)
        return view, self._node, self._cache

    def result(self, answer: Any) -> Any:
        """Return what the node gives: what the function returned, and over it what it inserted.

        A failure handler recovers its node by returning a value, not by inserting one.
        """
        node_id = self._node.id
        own = {key: value for (where, key), value in self._written.items() if where == node_id}
        elsewhere = dict(self._written)
        if not self._handler or answer is not None:
            if answer is None and not self._node.outputs and own.keys() == {RESULT}:
                answer = own[RESULT]  # the one output of a node that declares none
            else:
                answer = _merged(answer, own)
            elsewhere = {each: value for each, value in elsewhere.items() if each[0] != node_id}
        # They travel with the answer: those of a call that was left behind are nobody's.
        return Writing(answer, elsewhere) if elsewhere else answer


def _merged(answer: Any, own: Mapping[str, Any]) -> Any:
    if not own:
        return answer
    if isinstance(answer, NodeOutput):
        if not answer.succeeded:
            return answer
        outputs = _merged(answer.outputs, own)
        return NodeOutput(outputs, metadata=answer.metadata, commands=answer.commands)
    if answer is None:
        return dict(own)
    return {**(answer if isinstance(answer, Mapping) else {RESULT: answer}), **own}
