"""What a DAG is told about the lives of its nodes: error handlers, and hooks around their calls.

The functions themselves are kept in the DAG's registry, under names that its file gives them again:
a run that is resumed in another process with that file has them, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.dsl.operators import Operand
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.lifecycle import NodeHooks, callback, is_awaited
from dagger_dsl.registry import define

if TYPE_CHECKING:
    from dagger_dsl.dsl.builder import DAG

__all__ = ["node_named", "set_error_handler", "set_hooks"]

_LONGEST = 200


def node_named(dag: DAG, node: str | Operand) -> str:
    """Return the id of the one node that is meant.

    Raises:
        NodeNotFound: The DAG has no such node.
        ConfigurationError: It is none, or several.
    """
    if not isinstance(node, Operand):
        return dag.nodes[node].id
    found = node._targets(dag)
    if len(found) != 1:
        raise ConfigurationError(f"one node is meant, and {node!r} is {len(found)}")
    (meant,) = found
    if meant.dag is not dag:
        raise ConfigurationError(f"{meant!r} belongs to another DAG than {dag.name!r}")
    return meant.id


def set_error_handler(dag: DAG, node: str | Operand, handler: Callable[..., Any] | None) -> None:
    """See `DAG.set_node_error_handler`."""
    node_id = node_named(dag, node)
    if handler is None:
        if dag._error_handlers.pop(node_id, None) is not None:
            dag._changed()
        return
    what = f"the error handler of node {node_id!r}"
    body: Callable[..., Any] = callback(handler, what, ("node", "inputs", "error"))

    # A failure handler is called by the names of its parameters, and these may have any.
    async def call_async(node: Any, inputs: Any, error: Any) -> Any:
        return await body(node, dict(inputs), error)

    def call(node: Any, inputs: Any, error: Any) -> Any:
        return body(node, dict(inputs), error)

    name = f"{dag.name}.{node_id}.on_error"
    if len(name) > _LONGEST:
        name = f"{name[:150]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}.on_error"
    definition = define(call_async if is_awaited(body) else call, name)
    dag.registry.register(attrs.evolve(definition, original=body), replace=True)
    dag._error_handlers[node_id] = name
    dag._changed()


def set_hooks(
    dag: DAG,
    node: str | Operand | None,
    pre_execute: Callable[..., Any] | None,
    post_execute: Callable[..., Any] | None,
    cleanup: Callable[..., Any] | None,
) -> None:
    """See `DAG.set_node_hooks` and `DAG.set_default_hooks`."""
    node_id = None if node is None else node_named(dag, node)
    hooks = NodeHooks(pre_execute=pre_execute, post_execute=post_execute, cleanup=cleanup)
    dag.registry.set_node_hooks(dag.name, node_id, hooks)
