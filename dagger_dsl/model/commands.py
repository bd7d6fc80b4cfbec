"""Commands: changes that hooks, actions and people ask of a running graph. Values only.

`NodeSpec` describes a node to add; its inputs are literal values unless wrapped by `ref`. A `Chain`
is several, each of which waits for the one before. The plain form of a command is JSON: it travels
between processes and stands in a run's journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

import attrs

from dagger_dsl.errors import ConfigurationError, DecodingError, shown
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.document import node_from_plain, node_to_plain
from dagger_dsl.model.graph import Input, Node, Output, check_texts, split_reference
from dagger_dsl.model.mapped import batch_of, depth_of, parallel_of
from dagger_dsl.model.messages import LONGEST, channel_problem, is_short_text
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    Trigger,
    as_enum,
    attempts_from_retries,
    seconds,
    whole_number,
)
from dagger_dsl.model.values import from_plain, to_plain

__all__ = [
    "AddNode",
    "AddNodes",
    "Answer",
    "CancelBranch",
    "CancelRun",
    "Chain",
    "Command",
    "EmitEvent",
    "JobEnded",
    "NodeSpec",
    "PauseBranch",
    "PauseRun",
    "Ref",
    "ResumeBranch",
    "ResumeRun",
    "SetNodeInputs",
    "SetNodesEnabled",
    "command_from_plain",
    "command_to_plain",
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
    meant = _meant(value)
    return Input(name, meant.reference) if isinstance(meant, Ref) else Input(name, value=meant)


def _meant(value: Any) -> Any:
    """Return the `Ref` or the literal that a value stands for."""
    if isinstance(value, Mapping) and set(value) == {"$ref"}:
        return Ref(value["$ref"])
    if isinstance(value, BaseException):  # as a hook hands on what it was shown
        text = str(value)
        return f"{type(value).__name__}: {text}" if text else type(value).__name__
    return value


def with_inputs(node: Node, inputs: Mapping[str, Any]) -> Node:
    """Return a node with other values for some inputs, literals or references as in a spec."""
    fields = {each.name: each for each in node.inputs}
    fields |= {name: input_from(name, value) for name, value in inputs.items()}
    return node.replace(inputs=tuple(fields.values()))


def _mapping(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"inputs are a mapping of names to values, not {shown(given)}")
    for name in given:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"an input's name is a text that is not empty, not {shown(name)}"
            )
    return {name: _meant(value) for name, value in given.items()}


def _texts(given: Iterable[str], field: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigurationError(
            f"{field} is a list of ids, not the text {shown(given)}; write [{shown(given)}]"
        )
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"{field} is a list of ids, not {shown(given)}")
    found = tuple(given)
    for each in found:
        if not isinstance(each, str):
            raise ConfigurationError(f"{field}: an id is a text, not {shown(each)}")
    return found


def _deps(given: Iterable[str]) -> tuple[str, ...]:
    return _texts(given, "deps")


def _ids(given: Iterable[str]) -> tuple[str, ...]:
    return _texts(given, "ids")


def _map_errors(_: Any, __: Any, given: Any) -> None:
    if given not in (None, "fail", "collect"):
        raise ConfigurationError(f"map_errors is 'fail' or 'collect', not {shown(given)}")


def _action(_: Any, __: Any, given: Any) -> None:
    if not isinstance(given, str) or not given:
        raise ConfigurationError(
            f"a NodeSpec names its action by a text that is not empty, not {shown(given)}"
        )


def _own_id(_: Any, __: Any, given: Any) -> None:
    if given is not None and not isinstance(given, str):
        raise ConfigurationError(f"an id is a text, not {shown(given)}")


def _text(command: Any, field: Any, given: Any) -> None:
    if not isinstance(given, str) or not given:
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} is a text that is not empty, not {shown(given)}"
        )


def _text_or_none(command: Any, field: Any, given: Any) -> None:
    if given is not None and not isinstance(given, str):
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} is a text or None, not {shown(given)}"
        )


def _prose(command: Any, field: Any, given: Any) -> None:
    check_texts(_a(command), {field.name: given})


def _name_or_none(command: Any, field: Any, given: Any) -> None:
    if given is not None:
        _text(command, field, given)


def _count_or_none(command: Any, field: Any, given: Any) -> None:
    if given is not None:
        whole_number(given, f"the {field.name} of {_a(command)}", also=" or None")


def _parallel(given: Any) -> int | None:
    return None if given is None else parallel_of(given, "a NodeSpec's max_parallel")


def _depth(given: Any) -> int | None:
    return None if given is None else depth_of(given, "a NodeSpec's map_depth")


def _batch(given: Any) -> int | None:
    return None if given is None else batch_of(given, "a NodeSpec's map_batch")


def _policy_or_none(command: Any, field: Any, given: Any) -> None:
    if given is not None and not isinstance(given, RetryPolicy):
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} is a RetryPolicy or None, not {shown(given)}"
        )


def _channel_or_none(command: Any, field: Any, given: Any) -> None:
    fault = None if given is None else channel_problem(given)
    if fault is not None:
        raise ConfigurationError(f"the {field.name} of {_a(command)}: {fault}")


def _message_key(command: Any, field: Any, given: Any) -> None:
    if not is_short_text(given):
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} is a text of at most {LONGEST} characters without "
            f"NUL, not {shown(given, 60)}"
        )
    if given and command.channel is None:
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} orders messages, and without channel= there is none"
        )


def _flag(command: Any, field: Any, given: Any) -> None:
    if not isinstance(given, bool):
        raise ConfigurationError(
            f"the {field.name} of {_a(command)} is True or False, not {shown(given)}"
        )


def _a(command: Any) -> str:
    name = type(command).__name__
    return f"{'an' if name[0] in 'AE' else 'a'} {name}"


def _specs(given: Any) -> tuple[NodeSpec, ...]:
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"nodes to be added are a list of NodeSpec, not {shown(given)}")
    found = tuple(given)
    for each in found:
        _spec(None, None, each)
    return found


def _limit(given: float | timedelta | None) -> float | None:
    return None if given is None else seconds(given, "a NodeSpec's timeout", zero=False)


def _trigger(given: Any) -> Trigger | None:
    return None if given is None else as_enum(Trigger, given, "a NodeSpec's trigger")


def _on_failure(given: Any) -> OnFailure | None:
    return None if given is None else as_enum(OnFailure, given, "a NodeSpec's on_failure")


def _effects(given: Any) -> Effects | None:
    return None if given is None else as_enum(Effects, given, "a NodeSpec's effects")


def _strategy(_: Any, __: Any, given: Any) -> None:
    if given is not None and not isinstance(given, CacheStrategy):
        raise ConfigurationError(
            f"a NodeSpec's cache_strategy is a CacheStrategy or None, not {shown(given)}"
        )


def _outputs(given: Any) -> tuple[Output, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"a NodeSpec's outputs are a list of names, not {shown(given)}")
    found = tuple(each if isinstance(each, Output) else Output(each) for each in given)
    for each in found:
        if not isinstance(each.name, str) or not each.name:
            raise ConfigurationError(
                f"an output's name is a text that is not empty, not {shown(each.name)}"
            )
        check_texts(f"output {shown(each.name)}", {"description": each.description})
    return found


def _spec(_: Any, __: Any, given: Any) -> None:
    if not isinstance(given, NodeSpec):
        raise ConfigurationError(f"a node to be added is a NodeSpec, not {shown(given)}")


@attrs.frozen
class NodeSpec:
    """A node to be added; whatever is None is taken from the action and the run's configuration.

    Attributes:
        action: Name of a registered action.
        id: The node's id; by default the action's name when it is free, else ``action_2``...
        deps: Ids to wait for; ids of the same batch count.
        inputs: Literal values and `ref`s by name.
        timeout: Seconds (or timedelta) per attempt.
        try_count: Calls in all.
        map_over, max_parallel, map_depth, map_errors, map_batch: As for `Node`: the input whose
            items each get an invocation, and how that is done.
        trigger, on_failure, retry, branch, cache_strategy, effects, description: As for `Node`.
        failure: Name of the failure handler.
        outputs: Names (or `Output`s) instead of those that the action declares.

    Raises:
        ConfigurationError: A field has an impossible value.
    """

    action: str = attrs.field(validator=_action)
    id: str | None = attrs.field(default=None, validator=_own_id)
    deps: tuple[str, ...] = attrs.field(default=(), converter=_deps)
    inputs: Mapping[str, Any] = attrs.field(default=None, converter=_mapping)
    timeout: float | None = attrs.field(default=None, converter=_limit)
    try_count: int | None = attrs.field(default=None, validator=_count_or_none)
    trigger: Trigger | None = attrs.field(default=None, converter=_trigger)
    on_failure: OnFailure | None = attrs.field(default=None, converter=_on_failure)
    retry: RetryPolicy | None = attrs.field(default=None, validator=_policy_or_none)
    branch: str | None = attrs.field(default=None, validator=_text_or_none)
    map_over: str | None = attrs.field(default=None, validator=_name_or_none)
    max_parallel: int | None = attrs.field(default=None, converter=_parallel)
    map_depth: int | None = attrs.field(default=None, converter=_depth)
    map_errors: str | None = attrs.field(default=None, validator=_map_errors)
    failure: str | None = attrs.field(default=None, validator=_name_or_none)
    cache_strategy: CacheStrategy | None = attrs.field(default=None, validator=_strategy)
    effects: Effects | None = attrs.field(default=None, converter=_effects)
    description: str = attrs.field(default="", validator=_prose)
    outputs: tuple[Output, ...] = attrs.field(default=(), converter=_outputs)
    map_batch: int | None = attrs.field(default=None, converter=_batch)

    @classmethod
    def of(cls, node: Node) -> NodeSpec:
        """Return a spec that says everything a node says which came from a spec.

        Raises:
            ConfigurationError: It is no node.
        """
        if not isinstance(node, Node):
            raise ConfigurationError(f"a spec is made of a Node, not {shown(node)}")
        fields = {name: getattr(node, name) for name in _SHARED}
        return cls(node.action, node.id, node.dependencies, _given_to(node), **fields)

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
        return attrs.evolve(self, try_count=attempts_from_retries(retries, "retries"))

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
            **{
                **{name: getattr(self, name) for name in _SHARED},
                "trigger": self.trigger if self.trigger is not None else Trigger.SUCCESS,
            },
        )


#: What a `NodeSpec` and a `Node` call by one name and mean by one value.
_SHARED = tuple(
    field.name
    for field in attrs.fields(NodeSpec)
    if field.name not in ("action", "id", "deps", "inputs")
)


def _given_to(node: Node) -> dict[str, Any]:
    return {
        each.name: Ref(each.reference) if each.reference is not None else each.value
        for each in node.inputs
    }


class Chain(tuple[NodeSpec, ...]):
    """Specs of which each waits for the one before: ``AddNodes(Chain(steps, after=["plan"]))``.

    Args:
        specs: The steps, in order.
        after: Ids that the first one waits for.
        prefix: Steps without an id get ``<prefix>_0``, ``<prefix>_1``... by their place.

    Raises:
        ConfigurationError: A step is no `NodeSpec`, or two of them have one id.
    """

    __slots__ = ()

    def __new__(
        cls, specs: Iterable[NodeSpec], *, after: Iterable[str] = (), prefix: str = "step"
    ) -> Chain:
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(
                f"a chain's prefix is a text that is not empty, not {shown(prefix)}"
            )
        before = _texts(after, "after")
        steps: dict[str, NodeSpec] = {}
        for place, spec in enumerate(_specs(specs)):
            node_id = spec.id if spec.id is not None else f"{prefix}_{place}"
            if node_id in steps:
                raise ConfigurationError(
                    f"two steps of a chain have the id {node_id!r}; give one of them another id, "
                    "or the chain another prefix="
                )
            deps = tuple(dict.fromkeys((*spec.deps, *before)))
            steps[node_id] = attrs.evolve(spec, id=node_id, deps=deps)
            before = (node_id,)
        return super().__new__(cls, steps.values())


@attrs.frozen
class AddNode:
    """Add one node to the run."""

    spec: NodeSpec = attrs.field(validator=_spec)
    dag_name: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class AddNodes:
    """Add several nodes, all or none; they may depend on each other."""

    specs: tuple[NodeSpec, ...] = attrs.field(converter=_specs)
    dag_name: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class SetNodeInputs:
    """Replace inputs of a node that has not started."""

    node_id: str = attrs.field(validator=_text)
    inputs: Mapping[str, Any] = attrs.field(converter=_mapping)
    dag_name: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class SetNodesEnabled:
    """Enable or disable nodes that have not started; disabled ones are skipped."""

    ids: tuple[str, ...] = attrs.field(converter=_ids)
    enabled: bool = attrs.field(default=True, validator=_flag)


@attrs.frozen
class PauseBranch:
    """Start nothing more of a branch (a node with its descendants, or a label)."""

    branch_id: str = attrs.field(validator=_text)
    reason: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class ResumeBranch:
    """Let a paused branch go on."""

    branch_id: str = attrs.field(validator=_text)


@attrs.frozen
class CancelBranch:
    """Cancel what is reachable only through the branch."""

    branch_id: str = attrs.field(validator=_text)
    reason: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class EmitEvent:
    """Show a `CustomEvent` to the hooks, and publish it where a channel is named.

    The message is stored in the transaction that records the command, which for a command of a node
    is that of the node's outcome. So it is there once, whatever dies meanwhile, and never for an
    attempt that was not recorded. Its id is the run's with the number of the event, its source
    ``run:`` and the name of the graph. A run that is in memory refuses the command: nobody could be
    given the message.

    Attributes:
        name: What the event is called.
        payload: What it says.
        channel: Where it is published as well; None nowhere.
        key: Messages of one channel and key reach each subscriber in order; of a channel only.
    """

    name: str = attrs.field(validator=_text)
    payload: Any = None
    channel: str | None = attrs.field(default=None, validator=_channel_or_none)
    key: str = attrs.field(default="", validator=_message_key)


@attrs.frozen
class Answer:
    """Answer a node that waits for a person.

    Attributes:
        node_id: The node.
        value: What becomes its result; checked against the schema it asked with.
        key: Which of its invocations.
        by: Who answers, for the record.
    """

    node_id: str = attrs.field(validator=_text)
    value: Any = None
    key: str = attrs.field(default=DEFAULT_KEY, validator=_text)
    by: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class JobEnded:
    """Tell a node that the job it waits for has ended; the last transaction of the job does.

    Attributes:
        node_id: The node.
        job_id: The job; how it ended is read where it is recorded, and never taken from here.
        key: Which of the node's invocations.
    """

    node_id: str = attrs.field(validator=_text)
    job_id: str = attrs.field(validator=_text)
    key: str = attrs.field(default=DEFAULT_KEY, validator=_text)


@attrs.frozen
class PauseRun:
    """Let what runs end, start nothing more, and leave the run paused."""

    reason: str | None = attrs.field(default=None, validator=_text_or_none)


@attrs.frozen
class ResumeRun:
    """Take back a `PauseRun` that has not come to its end yet."""


@attrs.frozen
class CancelRun:
    """Cancel the run."""

    reason: str | None = attrs.field(default=None, validator=_text_or_none)


Command: TypeAlias = (
    AddNode
    | AddNodes
    | Answer
    | CancelRun
    | JobEnded
    | PauseRun
    | ResumeRun
    | SetNodeInputs
    | SetNodesEnabled
    | PauseBranch
    | ResumeBranch
    | CancelBranch
    | EmitEvent
)


# --- plain forms ----------------------------------------------------------------------------------

_KINDS: dict[str, type[Any]] = {
    "add": AddNodes,
    "answer": Answer,
    "cancel": CancelBranch,
    "cancel_run": CancelRun,
    "emit": EmitEvent,
    "enable": SetNodesEnabled,
    "inputs": SetNodeInputs,
    "job_ended": JobEnded,
    "pause": PauseBranch,
    "pause_run": PauseRun,
    "resume": ResumeBranch,
    "resume_run": ResumeRun,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
#: Fields that hold values of the codec, and not texts and numbers alone.
_VALUES = {"payload", "value"}


def command_to_plain(command: Command) -> dict[str, Any]:
    """Return a command as JSON types; `command_from_plain` gives an equal one back.

    A lone `AddNode` becomes an `AddNodes` of one.

    Raises:
        ConfigurationError: It is no command.
        EncodingError: A value in it has no stored form.
    """
    if isinstance(command, AddNode):
        command = AddNodes((command.spec,), command.dag_name)
    name = _NAMES.get(type(command))
    if name is None:
        raise ConfigurationError(
            f"a command is one of {', '.join(sorted(_KINDS))}, not {shown(command)}"
        )
    plain: dict[str, Any] = {"do": name}
    for field in attrs.fields(type(command)):
        value = getattr(command, field.name)
        if value is None or value == field.default:
            continue
        if field.name == "specs":
            value = [_spec_to_plain(each) for each in value]
        elif field.name == "inputs":
            value = _spec_to_plain(NodeSpec("_", inputs=value)).get("inputs", [])
        elif field.name in _VALUES:
            value = to_plain(value, field.name)
        elif isinstance(value, tuple):
            value = list(value)
        plain[field.name] = value
    return plain


def command_from_plain(plain: Any) -> Command:
    """Return the command whose plain form is *plain*.

    Raises:
        DecodingError, ConfigurationError, ValidationError: It is the form of none.
    """
    kind = _KINDS.get(plain.get("do", "")) if isinstance(plain, Mapping) else None
    if kind is None:
        raise DecodingError(f"this is no command: {shown(plain)}")
    fields = {name: value for name, value in plain.items() if name != "do"}
    known = {field.name for field in attrs.fields(kind)}
    if not fields.keys() <= known:
        raise DecodingError(f"a command {plain['do']!r} has no {sorted(fields.keys() - known)}")
    for name, value in fields.items():
        if name == "specs":
            fields[name] = [_spec_from_plain(each) for each in value]
        elif name == "inputs":
            fields[name] = _spec_from_plain({"action": "_", "inputs": value}).inputs
        elif name in _VALUES:
            fields[name] = from_plain(value, name)
    try:
        command: Command = kind(**fields)
    except TypeError as error:
        raise DecodingError(f"a command {plain['do']!r} is incomplete: {error}") from None
    return command


def _spec_to_plain(spec: NodeSpec) -> dict[str, Any]:
    plain = node_to_plain(spec.to_node("_"))
    if spec.id is None:
        del plain["id"]
    if spec.trigger is not None:
        plain["trigger"] = spec.trigger.value
    plain.pop("dependencies", None)  # a node's own are more: what its inputs refer to counts
    if spec.deps:
        plain["dependencies"] = list(spec.deps)
    return plain


#: The keys of a spec's plain form whose names are not those of its fields.
_OTHER_KEYS = {"on_failure": "onfailure"}
_SPEC_KEYS = {"action", "id", "dependencies", "inputs", *(_OTHER_KEYS.get(n, n) for n in _SHARED)}


def _spec_from_plain(plain: Any) -> NodeSpec:
    if not isinstance(plain, Mapping):
        raise DecodingError(f"a node to be added is a mapping, not {shown(plain)}")
    node = node_from_plain({"id": "_", **plain})
    if not plain.keys() <= _SPEC_KEYS:
        raise DecodingError(f"a node to be added has no {sorted(plain.keys() - _SPEC_KEYS)}")
    return attrs.evolve(
        NodeSpec.of(node),
        id=plain.get("id"),
        deps=plain.get("dependencies") or (),
        trigger=node.trigger if "trigger" in plain else None,
    )
