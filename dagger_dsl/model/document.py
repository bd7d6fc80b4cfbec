"""The plain form of a graph: JSON types under the source documents' own keys, there and back.

`graph_to_plain` and `read_graph` are one strict pair that the YAML loader and the run store share.
Reading reports everything that is wrong at once, each problem with its path (``$.nodes[2].retry``)
and, where the caller can tell, its file, line and column. This module knows no file format.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

from dagger_dsl.errors import EncodingError, Problem, ValidationError
from dagger_dsl.model._reading import MAX_PROBLEMS, Locate, PlainPath, Reader, path_text
from dagger_dsl.model._scalars import RETRY_FIELDS
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Graph, GraphInput, Input, Node
from dagger_dsl.model.machine import DEFAULT_MAX_CYCLES, Machine
from dagger_dsl.model.policies import CacheStrategy, RetryPolicy, Trigger

__all__ = [
    "MAX_PROBLEMS",
    "Locate",
    "PlainPath",
    "graph_from_plain",
    "graph_to_plain",
    "node_from_plain",
    "node_to_plain",
    "path_text",
    "read_graph",
]

# --- Graph to plain ------------------------------------------------------------------------------


def graph_to_plain(graph: Graph) -> dict[str, Any]:
    """Return *graph* as JSON types under the documents' keys; what has its default is left out.

    Parts of literals are shared with the graph, so the result is to be read, not changed.

    Raises:
        EncodingError: The configuration's retry strategy holds Python objects.
    """
    plain: dict[str, Any] = {"name": graph.name}
    for key in ("description", "author", "version", "signature"):
        text = getattr(graph, key)
        if text:
            plain[key] = text
    if graph.tags:
        plain["tags"] = sorted(graph.tags)
    if graph.instructions:
        plain["instructions"] = graph.instructions
    if graph.config is not None:
        plain["config"] = _config_to_plain(graph.config)
    if graph.inputs:
        plain["inputs"] = [_graph_input_to_plain(each) for each in graph.inputs.values()]
    if graph.machine is not None:
        plain["machine"] = _machine_to_plain(graph.machine)
    plain["nodes"] = [node_to_plain(node) for node in graph.nodes.values()]
    if graph.labelled:
        plain["edges"] = [
            {"source": edge.source, "target": edge.target, "when": edge.when}
            for edge in graph.labelled
        ]
    return plain


def _machine_to_plain(machine: Machine) -> dict[str, Any]:
    plain: dict[str, Any] = {"initial": machine.initial}
    if machine.terminal:
        plain["terminal"] = list(machine.terminal)
    if machine.max_cycles != DEFAULT_MAX_CYCLES:
        plain["max_cycles"] = machine.max_cycles
    if machine.history_limit is not None:
        plain["history_limit"] = machine.history_limit
    if machine.hook is not None:
        plain["hook"] = machine.hook
    if machine.transitions:
        plain["transitions"] = [
            {"source": each.source, "target": each.target}
            | ({} if each.condition is None else {"condition": each.condition})
            for each in machine.transitions
        ]
    return plain


def node_to_plain(node: Node) -> dict[str, Any]:
    """Return one node as `graph_to_plain` writes it."""
    plain: dict[str, Any] = {"id": node.id, "action": node.action}
    if node.dependencies:
        plain["dependencies"] = list(node.dependencies)
    if node.inputs:
        plain["inputs"] = [_input_to_plain(each) for each in node.inputs]
    if node.outputs:
        plain["outputs"] = [
            {"name": out.name, "description": out.description}
            if out.description
            else {"name": out.name}
            for out in node.outputs
        ]
    if node.failure is not None:
        plain["failure"] = node.failure
    if node.on_failure is not None:
        plain["onfailure"] = node.on_failure.value
    if node.timeout is not None:
        plain["timeout"] = _number(node.timeout)
    if node.try_count is not None:
        plain["try_count"] = node.try_count
    if node.retry is not None:
        plain["retry"] = _retry_to_plain(node.retry)
    if node.cache_strategy is not None:
        plain["cache_strategy"] = _cache_to_plain(node.cache_strategy)
    if node.trigger is not Trigger.SUCCESS:
        plain["trigger"] = node.trigger.value
    if node.metadata_literal is not None:
        plain["metadata"] = node.metadata_literal.plain
    if node.map_over is not None:
        plain["map_over"] = node.map_over
    if node.max_parallel is not None:
        plain["max_parallel"] = node.max_parallel
    if node.map_depth is not None:
        plain["map_depth"] = node.map_depth
    if node.map_errors is not None:
        plain["map_errors"] = node.map_errors
    if node.map_batch is not None:
        plain["map_batch"] = node.map_batch
    if node.effects is not None:
        plain["effects"] = node.effects.value
    if node.branch is not None:
        plain["branch"] = node.branch
    if node.keep is not None:
        plain["keep"] = node.keep
    if not node.enabled:
        plain["enabled"] = False
    if node.fallback is not None:
        plain["fallback"] = node.fallback
    if node.subgraph is not None:
        plain["subgraph"] = node.subgraph
    if node.description:
        plain["description"] = node.description
    if node.instructions:
        plain["instructions"] = node.instructions
    return plain


def _number(value: float) -> float:
    """Return a whole number of seconds as an int: people write ``30``, not ``30.0``."""
    return int(value) if value.is_integer() and value < 2**53 else value


def _input_to_plain(given: Input) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": given.name}
    if given.description:
        plain["description"] = given.description
    if given.literal is None:
        plain["reference"] = given.reference
        return plain
    value = given.literal.plain
    if type(value) is dict and len(value) == 1 and "$ref" in value:
        # A literal that looks like a reference; the codec's tag for mappings keeps it one.
        value = {"$type": "map", "$value": [["$ref", value["$ref"]]]}
    plain["value"] = value
    return plain


def _graph_input_to_plain(given: GraphInput) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": given.name}
    if given.description:
        plain["description"] = given.description
    if given.schema is not None:
        plain["schema"] = given.schema.plain
    if given.default is not None:
        plain["default"] = given.default.plain
    if given.required is not (given.default is None):
        plain["required"] = given.required
    return plain


def _cache_to_plain(strategy: CacheStrategy) -> Any:
    if not strategy.is_data:
        raise EncodingError(
            "a cache strategy with a function or a backend has no stored form; give it to the "
            "action: @action(cache=CacheStrategy.custom(...))"
        )
    chosen = {} if strategy.inputs is None else {"inputs": list(strategy.inputs)}
    if strategy.kind == "ttl" and strategy.seconds is not None:
        return {"ttl": _number(strategy.seconds), **chosen}
    if strategy.kind == "custom":
        limit = {} if strategy.seconds is None else {"ttl": _number(strategy.seconds)}
        return {"custom": strategy.key, **limit}
    return {strategy.kind: True, **chosen} if chosen else strategy.kind


_PLAIN_RETRY: Final = RetryPolicy()


def _retry_to_plain(policy: RetryPolicy) -> dict[str, Any]:
    if not policy.is_data:
        raise EncodingError(
            "a retry policy with classes, predicates or tenacity objects has no stored form; "
            "give it to the action: @action(retry=...)"
        )
    plain: dict[str, Any] = {}
    for key in RETRY_FIELDS:
        value = getattr(policy, key)
        if value != getattr(_PLAIN_RETRY, key):
            plain[key] = _config_value(value)
    return plain


def _config_to_plain(config: DagConfig) -> dict[str, Any]:
    return {key: _config_value(value) for key, value in config.changes().items()}


def _config_value(value: Any) -> Any:
    if isinstance(value, RetryPolicy):
        return _retry_to_plain(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, str) else value  # a StrEnum becomes its text


# --- Plain to graph ------------------------------------------------------------------------------


def graph_from_plain(plain: Any) -> Graph:
    """Return the graph whose plain form is *plain*; unknown keys are refused.

    Whether dependencies exist is left to `Graph.validate`: a store gives back what it was given.

    Raises:
        ValidationError: Something is wrong; every problem is listed with its path.
    """
    graph, problems = read_graph(plain, links=False)
    for problem in problems:
        if problem.code == "deprecated":
            warnings.warn(str(problem), DeprecationWarning, stacklevel=2)
    if graph is None:
        raise ValidationError([each for each in problems if each.severity == "error"])
    return graph


def node_from_plain(plain: Any) -> Node:
    """Return the node whose plain form is *plain*; unknown keys are refused.

    Raises:
        ValidationError: Something is wrong; every problem is listed with its path.
    """
    reader = Reader(None, strict=True)
    node = reader.node(plain, ())
    if node is None or reader.errors:
        raise ValidationError(reader.finish())
    return node


def read_graph(
    plain: Any, *, locate: Locate | None = None, strict: bool = True, links: bool = True
) -> tuple[Graph | None, list[Problem]]:
    """Read a graph from its plain form and report everything that is wrong with it.

    Args:
        plain: What a parser made of a document, or `graph_to_plain` of a graph.
        locate: Where the value (or the key) at a path is; None gives the path alone.
        strict: Whether an unknown key is an error; otherwise it is a warning and is left out.
        links: Whether dependencies and references must lead to nodes and declared outputs.

    Returns:
        The graph, or None where there is an error, and all problems, warnings among them.
    """
    reader = Reader(locate, strict)
    graph = reader.graph(plain, links)
    return (None if reader.errors else graph), reader.finish()
