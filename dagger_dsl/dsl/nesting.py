"""Workflows as nodes: what a workflow is where a graph is built around it.

It is an action whose body is its graph. Calling it in a ``with DAG`` block, arrows, `map`,
`with_options` and ``dag.add`` do what they do with any action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.dsl.decorators import Action

if TYPE_CHECKING:
    from dagger_dsl.dsl.builder import DAG
    from dagger_dsl.dsl.recipes import Recipe
    from dagger_dsl.engine.workflow import Workflow
    from dagger_dsl.registry._workflow import WorkflowDef

__all__ = ["place_workflow", "take_in"]


class WorkflowAction(Action[..., Any]):
    """A workflow where an action is wanted; the same one as long as the workflow stays as it is."""

    definition: WorkflowDef

    def __init__(self, definition: WorkflowDef, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(definition, options)
        self.__name__ = definition.name

    def with_options(self, **options: Any) -> WorkflowAction:
        """Return this workflow with options for the nodes that it places; see `Action`."""
        from dagger_dsl.dsl.settings import node_options

        fields = node_options(self.definition, options)
        return WorkflowAction(self.definition, {**self._options, **fields})

    def __repr__(self) -> str:
        return f"<workflow {self.definition.name!r} as an action>"


def place_workflow(workflow: Workflow) -> WorkflowAction:
    """Return what a workflow is where an action is wanted.

    Raises:
        CycleError: It contains itself.
    """
    from dagger_dsl.registry._workflow import KeptWorkflow

    kept, known = workflow.__dict__.get("_placed_as") or (KeptWorkflow(workflow), None)
    definition = kept.definition()
    # Its own graph may stay the same while a workflow inside changes what it takes.
    if known is None or known.definition is not definition:
        known = WorkflowAction(definition)
        workflow.__dict__["_placed_as"] = kept, known
    placed: WorkflowAction = known
    return placed


def take_in(recipe: Recipe, dag: DAG) -> None:
    """Let a DAG know a workflow that it has for a node.

    Raises:
        CycleError: The workflow is the DAG, or has it inside.
        RegistryError: The DAG has another workflow of this name.
    """
    from dagger_dsl.registry._workflow import contains, nested_in_itself

    definition: Any = recipe.definition
    path = contains(definition, dag)
    if path is not None:
        raise nested_in_itself([dag.name, *path])
    dag.registry.register_workflow(definition.workflow)
