"""Commands: changes that hooks, actions and people ask of a running graph. Values only.

`NodeSpec` describes a node to add; its inputs are literal values unless wrapped by `ref`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.graph import Input, Node, split_reference
from dagger_dsl.model.policies import OnFailure, RetryPolicy, Trigger

__all__ = [
    "AddNode",
    "AddNodes",
    "CancelBranch",
    "Command",
    "EmitEvent",
    "NodeSpec",
    "PauseBranch",
    "Ref",
    "ResumeBranch",
    "SetNodeInputs",
    "SetNodesEnabled",
    "ref",
]


@attrs.frozen
class Ref:
    """A reference where a literal value would otherwise be meant."""

    reference: str = attrs.field(validator=lambda _i, _a, value: split_reference(value) and None)


def ref(reference: str) -> Ref:
    """Return a reference such as ``"fetch.result"`` or ``"inputs.url"`` for a `NodeSpec`.

    Raises:
        ConfigurationError: It is not of that form.
    """
    return Ref(reference)


def input_from(name: str, value: Any) -> Input:
    """Return the `Input` that *value* means: a `Ref` or ``{"$ref": "a.b"}``, else a literal."""
    if isinstance(value, Ref):
        return Input(name, value.reference)
    if isinstance(value, Mapping) and set(value) == {"$ref"}:
        return Input(name, value["$ref"])
    return Input(name, value=value)


def _mapping(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"inputs are a mapping of names to values, not {given!r}")
    for name in given:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"an input's name is a text that is not empty, not {name!r}")
    return dict(given)


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigurationError(f"deps are a list of ids, not the text {given!r}")
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"ids are given as a list of texts, not {given!r}")
    found = tuple(given)
    for each in found:
        if not isinstance(each, str):
            raise ConfigurationError(f"an id is a text, not {each!r}")
    return found


def _action(_: Any, __: Any, given: Any) -> None:
    if not isinstance(given, str) or not given:
        raise ConfigurationError(
            f"a NodeSpec names its action by a text that is not empty, not {given!r}"
        )


def _own_id(_: Any, __: Any, given: Any) -> None:
    if given is not None and not isinstance(given, str):
        raise ConfigurationError(f"an id is a text, not {given!r}")


def _specs(given: Any) -> tuple[NodeSpec, ...]:
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"nodes to be added are a list of NodeSpec, not {given!r}")
    found = tuple(given)
    for each in found:
        _spec(None, None, each)
    return found


def _spec(_: Any, __: Any, given: Any) -> None:
    if not isinstance(given, NodeSpec):
        raise ConfigurationError(f"a node to be added is a NodeSpec, not {given!r}")


@attrs.frozen
class NodeSpec:
    """A node to be added; whatever is None is taken from the action and the run's configuration.

    Attributes:
        action: Name of a registered action.
        id: The node's id; by default the action's name when it is free, else ``action_2``...
        deps: Ids to wait for; ids of the same batch count.
        inputs: Literal values and `ref`s by name.
        timeout: Seconds per attempt.
        try_count: Calls in all.
    """

    action: str = attrs.field(validator=_action)
    id: str | None = attrs.field(default=None, validator=_own_id)
    deps: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    inputs: Mapping[str, Any] = attrs.field(default=None, converter=_mapping)
    timeout: float | None = None
    try_count: int | None = None
    trigger: Trigger | str | None = None
    on_failure: OnFailure | str | None = None
    retry: RetryPolicy | None = None
    branch: str | None = None

    def with_id(self, node_id: str) -> NodeSpec:
        """Return this spec with another id."""
        return attrs.evolve(self, id=node_id)

    def with_deps(self, deps: Iterable[str]) -> NodeSpec:
        """Return this spec with other dependencies."""
        return attrs.evolve(self, deps=deps)

    def with_inputs(self, inputs: Mapping[str, Any]) -> NodeSpec:
        """Return this spec with other inputs."""
        return attrs.evolve(self, inputs=inputs)

    def with_timeout(self, timeout: float) -> NodeSpec:
        """Return this spec with another limit per attempt, in seconds."""
        return attrs.evolve(self, timeout=timeout)

    def with_retries(self, retries: int) -> NodeSpec:
        """Return this spec with *retries* extra calls after the first."""
        if type(retries) is not int or retries < 0:
            raise ConfigurationError(f"retries are a whole number of at least 0, not {retries!r}")
        return attrs.evolve(self, try_count=retries + 1)

    def with_trigger(self, trigger: Trigger | str) -> NodeSpec:
        """Return this spec with another trigger rule."""
        return attrs.evolve(self, trigger=trigger)

    def to_node(self, node_id: str | None = None) -> Node:
        """Return the node this spec describes.

        Args:
            node_id: Used when the spec has no id of its own.

        Raises:
            ConfigurationError, ValidationError: A field cannot be a node's.
        """
        chosen = self.id if self.id is not None else node_id
        return Node(
            id=chosen if chosen is not None else self.action,
            action=self.action,
            inputs=[input_from(name, value) for name, value in self.inputs.items()],
            dependencies=self.deps,
            timeout=self.timeout,
            try_count=self.try_count,
            trigger=self.trigger if self.trigger is not None else Trigger.SUCCESS,
            on_failure=self.on_failure,
            retry=self.retry,
            branch=self.branch,
        )


@attrs.frozen
class AddNode:
    """Add one node to the run."""

    spec: NodeSpec = attrs.field(validator=_spec)
    dag_name: str | None = None


@attrs.frozen
class AddNodes:
    """Add several nodes, all or none; they may depend on each other."""

    specs: tuple[NodeSpec, ...] = attrs.field(converter=_specs)
    dag_name: str | None = None


@attrs.frozen
class SetNodeInputs:
    """Replace inputs of a node that has not started."""

    node_id: str
    inputs: Mapping[str, Any] = attrs.field(converter=_mapping)
    dag_name: str | None = None


@attrs.frozen
class SetNodesEnabled:
    """Enable or disable nodes that have not started; disabled ones are skipped."""

    ids: tuple[str, ...] = attrs.field(converter=_texts)
    enabled: bool = True


@attrs.frozen
class PauseBranch:
    """Start nothing more of a branch (a node with its descendants, or a label)."""

    branch_id: str
    reason: str | None = None


@attrs.frozen
class ResumeBranch:
    """Let a paused branch go on."""

    branch_id: str


@attrs.frozen
class CancelBranch:
    """Cancel what is reachable only through the branch."""

    branch_id: str
    reason: str | None = None


@attrs.frozen
class EmitEvent:
    """Show a `CustomEvent` to the hooks."""

    name: str
    payload: Any = None


Command: TypeAlias = (
    AddNode
    | AddNodes
    | SetNodeInputs
    | SetNodesEnabled
    | PauseBranch
    | ResumeBranch
    | CancelBranch
    | EmitEvent
)
