"""From a draft to the IR: how a DAG becomes a `Graph`."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from dagger_dsl.dsl.builder import DAG
from dagger_dsl.dsl.handles import NodeBuilder
from dagger_dsl.dsl.recipes import Recipe
from dagger_dsl.model.graph import (
    Edge,
    Graph,
    GraphInput,
    Input,
    Node,
)
from dagger_dsl.model.values import Literal

__all__ = ["to_graph"]


def to_graph(dag: DAG) -> Graph:
    """Return the graph that a DAG has become."""
    # A graph is a tree of values: looking for cycles in it while it grows finds none, and takes
    # half of the time at 100,000 nodes.
    collecting = gc.isenabled()
    gc.disable()
    try:
        compiler = _Compiler(dag)
        nodes = compiler.nodes()
        return Graph(
            dag.name,
            nodes,
            compiler.edges,
            description=dag.description,
            config=dag.config,
            tags=dag.tags,
            author=dag.author,
            version=dag.version or compiler.version(),
            signature=dag.signature,
            instructions=dag.instructions,
            inputs=compiler.inputs,
        )
    finally:
        if collecting:
            gc.enable()


class _Compiler:
    """One compilation; `nodes` fills the rest as it goes."""

    def __init__(self, dag: DAG) -> None:
        self._dag = dag
        self._text: list[str] = []
        self._numbers: dict[Recipe, str] = {}
        self.edges: list[Edge] = []
        self.inputs = {name: handle.declared for name, handle in dag._inputs.items()}

    def nodes(self) -> list[Node]:
        """Return the nodes in declaration order."""
        made, node_of, text = [], Node._checked, self._text
        for draft in self._dag._nodes.values():
            recipe = draft._recipe
            text += (draft.id, self._numbers.get(recipe) or self._number(recipe))
            inputs, sources = self._takes(recipe, draft.inputs)
            if draft._after is not None:
                before = [each.id for each in draft._after]
                text += before
                sources[:0] = before
            if len(sources) > 1 and len(set(sources)) < len(sources):
                sources = list(dict.fromkeys(sources))
            if draft._labels is not None:
                self.edges += [Edge(each.id, draft.id, label) for each, label in draft._labels]
            made.append(node_of(draft.id, tuple(inputs), tuple(sources), recipe.template()))
        return self._with_handlers(made) if self._dag._error_handlers else made

    def _with_handlers(self, nodes: list[Node]) -> list[Node]:
        """Give nodes the failure handlers that were set for them by their ids."""
        handlers = self._dag._error_handlers
        self._text += (f"{node_id} {name}" for node_id, name in handlers.items())
        return [
            node.replace(failure=handlers[node.id]) if node.id in handlers else node
            for node in nodes
        ]

    def _number(self, recipe: Recipe) -> str:
        """Return what stands for a recipe in the text that is hashed."""
        number = self._numbers[recipe] = str(len(self._numbers))
        self._text.append(_stable(recipe.template()))
        return number

    def _takes(self, recipe: Recipe, given: Mapping[str, Any]) -> tuple[list[Input], list[str]]:
        """Return a node's inputs in the order of its parameters, and the nodes they refer to."""
        inputs: list[Input] = []
        sources: list[str] = []
        if not given and not recipe.required:
            return inputs, sources
        input_of, text, docs = Input._checked, self._text, recipe.docs
        if recipe.plain:
            # Most nodes of large graphs: nothing but values of other nodes, in a closed signature.
            for name in recipe.order:
                value = given.get(name)
                if type(value) is not NodeBuilder:
                    break
                reference = value.reference
                text.append(reference)
                sources.append(value.id)
                inputs.append(input_of(name, reference))
            else:
                return inputs, sources
            text.append("...")
            inputs.clear()
            sources.clear()
        names: Iterable[str] = recipe.order
        if recipe.open and given:
            # A mapping of inputs stands for the one parameter that would take it.
            whole = recipe.definition.style == "mapping"
            names = given if whole else dict.fromkeys((*recipe.order, *given))
            text += names
        for name in names:
            value = given.get(name)
            if type(value) is NodeBuilder:
                sources.append(value.id)
                reference = value.reference
            elif value is None:
                if name not in recipe.required:
                    continue
                self._declare(recipe, name)
                reference = f"inputs.{name}"
            elif isinstance(value, str):
                reference = value
                source = value.partition(".")[0]
                if source != "inputs":
                    sources.append(source)
            else:
                text.append(f"{name}={_stable(value)}")
                inputs.append(input_of(name, None, value, docs.get(name, "")))
                continue
            text.append(reference)
            if name not in recipe.required:
                text.append(name)
            inputs.append(input_of(name, reference, None, docs.get(name, "") if docs else ""))
        return inputs, sources

    def _declare(self, recipe: Recipe, name: str) -> None:
        """Make a free parameter an input of the graph; several nodes may share one."""
        wanted = recipe.graph_input(name)
        known = self.inputs.get(name)
        if known is None:
            self.inputs[name] = wanted
        elif known is not wanted and name not in self._dag._inputs:
            self.inputs[name] = GraphInput(
                name,
                schema=known.schema if known.schema == wanted.schema else None,
                default=None if wanted.required else known.default,
                required=known.required or wanted.required,
                description=known.description or wanted.description,
            )

    def version(self) -> str:
        """Return a hash of the content; equal for equal drafts, in any process."""
        rest = map(_stable, (self._dag.config, self.edges, list(self.inputs.values())))
        text = "\n".join((*self._text, *rest)).encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).hexdigest()[:16]


def _stable(value: Any) -> str:
    """Return a text that is the same for equal values of the IR, in every process."""
    if isinstance(value, Literal):
        return json.dumps(value.plain, sort_keys=True)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_stable, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"[{', '.join(sorted(map(_stable, value)))}]"
    if attrs.has(type(value)):
        return _stable([getattr(value, field.name) for field in attrs.fields(type(value))])
    return repr(value)
