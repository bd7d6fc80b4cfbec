"""Recipes: what is the same for all nodes that an action places, and how arguments are read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dagger_dsl.dsl.builder import DAG
from dagger_dsl.dsl.choosing import Choice
from dagger_dsl.dsl.decorators import Action
from dagger_dsl.dsl.handles import InputHandle, NodeBuilder, NodeFunction
from dagger_dsl.dsl.operators import Nodes, Operand, Port
from dagger_dsl.dsl.settings import NODE_OPTIONS, literal_of
from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import (
    ConfigurationError,
    Place,
    Problem,
    ValidationError,
    cut,
    did_you_mean,
    shown,
)
from dagger_dsl.model.graph import (
    RESULT,
    GraphInput,
    Node,
    Output,
    id_problem,
)
from dagger_dsl.model.mapped import collected_type, mapped_fault, mapped_misfit, nested
from dagger_dsl.model.policies import CacheStrategy, RetryPolicy, Trigger
from dagger_dsl.model.types import accepts_none, schema_of
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import ActionDef, define, definition_of

__all__ = ["Recipe", "base_id", "check_input_type", "local_recipe", "recipe_of"]


class Recipe:
    """What is the same for every node that an action places with the same options.

    Everything that can be known before a node is placed is worked out here, once.

    Attributes:
        definition: The action.
        options: What was said about its nodes.
        base: The id of the first node; the second gets ``_2``.
        node_id: The id of the only node, where one was given.
        order: Names of the parameters.
        names: The same, to look up.
        open: Whether inputs of other names are taken.
        outputs: Declared output names.
        map_over: The input that is mapped over, or None.
        chooses: Whether it returns the ids of the nodes that go on.
        suffix: What follows a node's id in the reference to its value.
        is_workflow: Whether the body is a graph.
    """

    __slots__ = (
        "_template",
        "base",
        "chooses",
        "definition",
        "docs",
        "graph_inputs",
        "handlers",
        "is_workflow",
        "map_over",
        "names",
        "node_id",
        "open",
        "options",
        "order",
        "outputs",
        "params",
        "plain",
        "positional",
        "required",
        "suffix",
    )

    def __init__(
        self, definition: ActionDef, options: Mapping[str, Any], base: str | None = None
    ) -> None:
        self.definition = definition
        self.options = options
        self.params = {param.name: param for param in definition.params}
        self.order = tuple(self.params)
        self.names = frozenset(self.order)
        self.required = frozenset(name for name in self.order if self.params[name].required)
        self.positional = tuple(name for name in self.order if not self.params[name].keyword_only)
        self.open = definition.takes_any_input
        self.is_workflow = definition.style == "workflow"
        self.outputs: tuple[str, ...] = options.get("outputs", definition.outputs)
        self.map_over: str | None = options.get("map_over")
        self.chooses = isinstance(definition, Choice)
        self.suffix = "." + (self.outputs[0] if len(self.outputs) == 1 else RESULT)
        self.docs = definition.input_docs
        self.plain = not self.open and not self.docs and self.required == self.names
        self.node_id: str | None = options.get("id")
        self.base = base if base is not None else base_id(definition.name)
        for each in (self.base, self.node_id):
            if each is not None:
                self.check_id(each)
        self.handlers = [
            each
            for each in (
                definition.failure,
                definition.fallback,
                options.get("failure"),
                options.get("fallback"),
            )
            if isinstance(each, ActionDef)
        ]
        self.graph_inputs: dict[str, GraphInput] = {}
        self._template: tuple[Any, ...] | None = None

    def check_id(self, node_id: Any) -> None:
        """Refuse an id that no node can have.

        Raises:
            ValidationError: It is one.
        """
        fault = id_problem(node_id)
        if fault is not None:
            raise ValidationError(
                (
                    Problem(
                        f"{fault}: give another one, action.with_options(id=...)",
                        Place(node=cut(str(node_id))),
                        "bad-id",
                    ),
                )
            )

    def same_function(self, other: Recipe) -> bool:
        """Return whether both run the same code with the same captured values."""
        one, two = self.definition, other.definition
        if one is two or one.original == two.original:
            return True
        return _code_of(one.original) == _code_of(two.original) is not None

    def by_name(self, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return positional and named arguments of a call by name.

        Raises:
            ValidationError: There are too many, or one is given twice.
        """
        if len(args) > len(self.positional):
            self._refuse(
                f"takes {len(self.positional)} arguments by position "
                f"({', '.join(self.positional) or 'none'}), not {len(args)}"
            )
        found = dict(zip(self.positional, args, strict=False))
        for name in inputs:
            if name in found:
                self._refuse(f"is given {name!r} by position and by name")
        return {**found, **inputs}

    def refuse_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Report inputs that have no parameter.

        Raises:
            ValidationError: Always.
        """
        for name in inputs:
            if name in (self.definition.ctx_param, self.definition.context_param):
                self._refuse(f"gets its {name!r} from the engine; leave it out")
            if name not in self.names:
                hint = did_you_mean(name, self.names)
                if name in NODE_OPTIONS:
                    hint += (
                        f"; an option of the node goes into .with_options({name}=...), before the "
                        "call"
                    )
                self._refuse(f"has no parameter {shown(name)}{hint}")

    def _refuse(self, message: str) -> None:
        raise ValidationError(
            (
                Problem(
                    f"action {self.definition.name!r} {message}",
                    Place(node=self.base),
                    "unknown-input",
                ),
            )
        )

    def check_output(self, name: str, node_id: str | None = None) -> None:
        """Refuse an output that the action does not declare.

        Raises:
            ValidationError: It has none of this name; the message suggests one.
        """
        known = self.outputs or (RESULT,)
        if name in known or name == RESULT:
            return
        hint = (
            did_you_mean(name, known)
            if self.outputs
            else (
                "; it declares none, so its whole value is 'result': declare some with "
                "@action(outputs=[...])"
            )
        )
        raise ValidationError(
            (
                Problem(
                    f"action {self.definition.name!r} has no output {name!r}{hint}",
                    Place(node=node_id if node_id is not None else self.base),
                    "unknown-output",
                ),
            )
        )

    def wants_all(self, name: str) -> bool:
        """Return whether a value called *name* is the whole mapping rather than a part of it."""
        schema = self.definition.input_schema or {}
        return self.definition.style == "mapping" and name not in schema.get("properties", {})

    def argument(self, dag: DAG, name: str, value: Any) -> Any:
        """Return what one argument of a call binds: a handle, a reference or a literal.

        Raises:
            ConfigurationError: A handle belongs to another DAG, or is hidden inside a container.
            EncodingError: A literal is no value of the codec.
        """
        if isinstance(value, Workflow):
            value = value._as_action()
        if isinstance(value, Operand):
            return _operand_argument(self, dag, name, value)
        what = f"action {self.definition.name!r}: {name!r}"
        hidden = _hidden_handle(value)
        if hidden is not None:
            raise ConfigurationError(
                f"{what} has {hidden!r} inside a {type(value).__name__}; a handle is a whole "
                "argument: give each a parameter of its own, or collect them in an action that "
                "returns the container"
            )
        levels = self.levels(name)
        if isinstance(value, Literal):
            literal, value = value, value.value
        else:
            value = nested(value, levels)
            literal = literal_of(value, what)
        fault = mapped_misfit(value, self.definition.hints().get(name, Any), levels, name)
        if fault is not None:
            self._refuse(f"cannot take that: {fault}")
        return literal

    def levels(self, name: str) -> int:
        """Return how many levels of lists are mapped over in an input, 0 for none."""
        return (self.options.get("map_depth") or 1) if name == self.map_over else 0

    def fits(self, name: str, offered: Any) -> bool:
        """Return whether a parameter can take a value of an annotation, item by item if mapped."""
        return mapped_fault(offered, self.params[name].annotation, self.levels(name)) is None

    def graph_input(self, name: str) -> GraphInput:
        """Return what a graph says about the input that a free parameter becomes."""
        found = self.graph_inputs.get(name)
        if found is None:
            annotation, levels = self.params[name].annotation, self.levels(name)
            schema = schema_of(collected_type(annotation, levels, False))
            optional = not levels and accepts_none(annotation)
            found = self.graph_inputs[name] = GraphInput(
                name,
                schema=Literal(schema) if schema else None,
                default=Literal(None) if optional else None,
                required=not optional,
                description=self.docs.get(name, ""),
            )
        return found

    def returns(self) -> Any:
        """Return the annotation of what the action returns."""
        return self.definition.hints().get("return", Any)

    def value_type(self) -> Any:
        """Return the annotation of a node's whole value: of a mapped one, the list."""
        if self.map_over is None:
            return self.returns()
        collects = self.options.get("map_errors") == "collect"
        return collected_type(self.returns(), self.levels(self.map_over), collects)

    def template(self) -> tuple[Any, ...]:
        """Return the fields of a node, in the order of `Node`, from the sixth on."""
        if self._template is None:
            definition, given = self.definition, self.options
            fields: dict[str, Any] = {
                "timeout": definition.timeout,
                "try_count": definition.try_count,
                "on_failure": definition.on_failure,
                "failure": definition.failure,
                "retry": _data(definition.retry),
                "cache_strategy": _data(definition.cache_strategy),
                "trigger": definition.trigger,
                "effects": definition.effects,
                "keep": definition.keep,
                "fallback": definition.fallback,
                "description": definition.description,
                **given,
            }
            docs = definition.output_docs
            node = Node(
                self.base,
                definition.name,
                outputs=[Output(name, docs.get(name, "")) for name in self.outputs],
                timeout=fields["timeout"],
                try_count=fields["try_count"],
                on_failure=fields["on_failure"],
                failure=_handler_name(fields["failure"]),
                description=fields["description"],
                instructions=fields.get("instructions", ""),
                retry=fields["retry"],
                cache_strategy=fields["cache_strategy"],
                trigger=fields["trigger"] or Trigger.SUCCESS,
                metadata=fields.get("metadata"),
                map_over=fields.get("map_over"),
                max_parallel=fields.get("max_parallel"),
                map_depth=fields.get("map_depth"),
                map_errors=fields.get("map_errors"),
                map_batch=fields.get("map_batch"),
                effects=fields["effects"],
                branch=fields.get("branch"),
                keep=fields["keep"],
                enabled=fields.get("enabled", True),
                fallback=_handler_name(fields["fallback"]),
                subgraph=definition.name if self.is_workflow else None,
            )
            self._template = node._template()
        return self._template


def _data(policy: RetryPolicy | CacheStrategy | None) -> RetryPolicy | CacheStrategy | None:
    """Return a policy that a graph may carry; one with functions in it stays with the action."""
    return policy if policy is not None and policy.is_data else None


def _handler_name(handler: str | ActionDef | None) -> str | None:
    return handler.name if isinstance(handler, ActionDef) else handler


def base_id(name: str) -> str:
    """Return the id of the first node of an action: its name, or what follows the last dot."""
    return name.rpartition(".")[2] or name.replace(".", "_")


def _code_of(function: Any) -> tuple[Any, ...] | None:
    """Return what decides a plain function's behaviour, None for anything else."""
    if not inspect.isfunction(function):
        return None
    cells = function.__closure__ or ()
    try:
        captured = tuple(id(cell.cell_contents) for cell in cells)
    except ValueError:  # a cell that is still empty
        return None
    return (function.__code__, function.__defaults__, captured)


def recipe_of(action: Any, dag: DAG) -> Recipe:
    """Return the recipe of whatever ``dag.add`` takes.

    An action, a definition, a name that the DAG's registry knows, or a function: one that is
    registered under its own name means that action, any other belongs to the DAG alone.

    Raises:
        RegistryError: It is no action.
        ActionNotFound: No action has that name.
    """
    if isinstance(action, Action):
        return action._recipe()
    if isinstance(action, Workflow):
        return recipe_of(action._as_action(), dag)
    if isinstance(action, NodeFunction):
        return action.node._recipe
    if isinstance(action, str):
        definition = dag.registry[action]
    else:
        definition = define(action)
        if definition_of(action) is None:
            registered = dag.registry.get(definition.name)
            if registered is not None and registered.original == action:
                definition = registered
            else:
                definition = _local(definition, dag)
    for known in dag._by_action.get(definition.name, ()):
        if known.definition.original == definition.original and not known.options:
            return known
    return Recipe(definition, {})


def _local(definition: ActionDef, dag: DAG) -> ActionDef:
    return define(definition, f"{dag.name}.{definition.name}")


def local_recipe(fn: Any, dag: DAG, options: Mapping[str, Any], node_id: str | None) -> Recipe:
    """Return the recipe of a function that belongs to one DAG, as ``<dag>.<function>``.

    Raises:
        RegistryError, ConfigurationError: As `define`.
    """
    fields = {name: value for name, value in options.items() if name not in ("name", "registry")}
    definition = define(fn, options.get("name"), **fields)
    base = node_id if node_id is not None else base_id(definition.name)
    return Recipe(_local(definition, dag), {}, base)


def _operand_argument(recipe: Recipe, dag: DAG, name: str, value: Operand) -> Any:
    home = value._home()
    if home is not None and home is not dag:
        raise ConfigurationError(
            f"action {recipe.definition.name!r}: {value!r} belongs to another DAG than {dag.name!r}"
        )
    sources = value._sources(dag)
    if len(sources) != 1:
        raise ConfigurationError(
            f"action {recipe.definition.name!r}: {name!r} takes one value, not {len(sources)} nodes"
        )
    (source,) = sources
    if isinstance(source, InputHandle):
        check_input_type(source, recipe, name)
    if isinstance(source, Port) and source.label is not None:
        raise ConfigurationError(
            f"{source!r} is a way to go on, no value: draw {source!r} >> {recipe.base}"
        )
    return source if isinstance(source, NodeBuilder) else source.reference


def check_input_type(source: InputHandle, recipe: Recipe, name: str) -> None:
    """Refuse a declared input for a parameter that can take no value of its type.

    Raises:
        ValidationError: It is one.
    """
    if name not in recipe.params or recipe.fits(name, source.annotation):
        return
    if recipe.levels(name):
        recipe._refuse(f"cannot map over {source!r} as {name!r}: it has no items that fit")
    recipe._refuse(f"cannot take {source!r} as {name!r}: their types have no value in common")


def _hidden_handle(value: Any) -> Operand | None:
    """Return a handle inside of a container, None where there is none."""
    waiting, looked = [value], 0
    while waiting and looked < 10_000:
        each = waiting.pop()
        looked += 1
        if isinstance(each, Operand) and not isinstance(each, Nodes):
            return each
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple, set, frozenset)):
            waiting += each
    return None
