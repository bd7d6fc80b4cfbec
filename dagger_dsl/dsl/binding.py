"""From drafts to the IR: what a call or an arrow binds, and how a DAG becomes a `Graph`.

Loaded with the first DAG, not with the package: what it needs of the model takes longer to import
than a program that only defines actions should wait.

What an arrow binds, when ``a >> b`` is drawn:

1. A parameter of ``b`` that is still free and is called like a declared output of ``a``; where
   ``a`` declares none, like the node ``a``, its action, or ``result``. Of several sources in one
   list, all are tried by name before any is tried otherwise.
2. Else the one free parameter of ``b`` without a default whose annotation can take what ``a``
   returns. Several are an `AmbiguousConnection`.
3. Else nothing: ``b`` waits for ``a``.

An action that takes any input (``**kwargs``, an object with `execute`) gets the value under the
name of the output, or of the node. An arrow that leaves from a branch carries a value only where
the source is annotated to return a `Branch`.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from dagger_dsl.dsl.builder import DAG, InputHandle, NodeBuilder, NodeFunction
from dagger_dsl.dsl.decorators import Action
from dagger_dsl.dsl.operators import Nodes, Operand, Port, Source
from dagger_dsl.errors import (
    AmbiguousConnection,
    CodecError,
    ConfigurationError,
    EncodingError,
    Place,
    Problem,
    ValidationError,
    did_you_mean,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import (
    RESULT,
    Edge,
    Graph,
    GraphInput,
    Input,
    Node,
    Output,
    id_problem,
)
from dagger_dsl.model.policies import Trigger
from dagger_dsl.model.types import accepts_none, compatible, misfit, output_type, schema_of
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import ActionDef, convert_options, define, definition_of

__all__ = [
    "Recipe",
    "bind",
    "declared_input",
    "flow",
    "graph_config",
    "graph_name",
    "graph_tags",
    "local_recipe",
    "node_options",
    "recipe_of",
    "to_graph",
]

# --- what a DAG is given -------------------------------------------------------------------------


def graph_name(name: Any) -> str:
    """Return a DAG's name.

    Raises:
        ConfigurationError: It cannot be a graph's name.
    """
    if not isinstance(name, str) or not name or len(name) > 200 or "\0" in name:
        raise ConfigurationError(f"a DAG's name is a text of 1 to 200 characters, not {name!r}")
    return name


def graph_tags(tags: Any) -> tuple[str, ...]:
    """Return a DAG's tags.

    Raises:
        ConfigurationError: They are no list of words.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise ConfigurationError(f"tags are a list of words, not {tags!r}")
    return tuple(tags)


def graph_config(config: Any) -> DagConfig | None:
    """Return a DAG's configuration.

    Raises:
        ConfigurationError: It is neither a `DagConfig` nor a mapping of its fields.
    """
    if config is None or isinstance(config, DagConfig):
        return config
    if isinstance(config, Mapping):
        return DagConfig.from_dict(config)
    raise ConfigurationError(f"config is a DagConfig or a mapping of its fields, not {config!r}")


def declared_input(name: Any, kind: Any, default: Any, description: str) -> tuple[GraphInput, Any]:
    """Return what a graph says about a declared input, and its annotation.

    Args:
        name: The input's name.
        kind: Its type, None for any.
        default: Its default, ``...`` for none.
        description: For people.

    Raises:
        ConfigurationError: The name is no text, or the default is not of the type.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(f"an input's name is a text that is not empty, not {name!r}")
    annotation = Any if kind is None else kind
    schema = schema_of(annotation)
    literal = None
    if default is not ...:
        fault = misfit(default, annotation, f"the default of input {name!r}")
        if fault is not None:
            raise ConfigurationError(fault)
        literal = _literal(default, f"the default of input {name!r}")
    return (
        GraphInput(
            name,
            schema=Literal(schema) if schema else None,
            default=literal,
            required=literal is None,
            description=description,
        ),
        annotation,
    )


def _literal(value: Any, what: str) -> Literal:
    try:
        return Literal(value)
    except CodecError as error:
        raise EncodingError(f"{what}: {error}") from None


# --- recipes -------------------------------------------------------------------------------------

_EXTRA = {
    "id": lambda value, what: value,
    "instructions": lambda value, what: _text(value, what),
    "metadata": lambda value, what: _metadata(value, what),
    "map_over": lambda value, what: _text(value, what),
    "max_parallel": lambda value, what: _count(value, what),
    "branch": lambda value, what: _text(value, what),
    "enabled": lambda value, what: _flag(value, what),
}

_NODE_OPTIONS = frozenset(
    (
        *_EXTRA,
        "outputs",
        "timeout",
        "try_count",
        "retry",
        "max_retries",
        "retry_delay",
        "retry_backoff",
        "on_failure",
        "failure",
        "fallback",
        "cache_strategy",
        "trigger",
        "effects",
        "keep",
        "description",
    )
)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is a text that is not empty, not {value!r}")
    return value


def _metadata(value: Any, what: str) -> Literal:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} is a mapping, not {value!r}")
    return _literal(dict(value), what)


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{what} is a whole number of at least 1, not {value!r}")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is True or False, not {value!r}")
    return value


def node_options(definition: ActionDef, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what options of one node mean.

    Raises:
        ConfigurationError: One is unknown or has an impossible value.
    """
    what = f"action {definition.name!r}"
    found = convert_options(given, what, _NODE_OPTIONS, _EXTRA)
    retry = found.get("retry")
    if retry is not None and not retry.is_data:
        raise ConfigurationError(
            f"{what}: a node holds data only; give classes, predicates and tenacity objects to the "
            "action itself: @action(retry=...)"
        )
    if found.get("map_over") is not None and not definition.takes_any_input:
        name = found["map_over"]
        known = [param.name for param in definition.params]
        if name not in known:
            raise ConfigurationError(
                f"{what}: map_over names a parameter, not {name!r}{did_you_mean(name, known)}"
            )
    return found


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
        suffix: What follows a node's id in the reference to its value.
    """

    __slots__ = (
        "_template",
        "base",
        "definition",
        "docs",
        "graph_inputs",
        "handlers",
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
        self.outputs: tuple[str, ...] = options.get("outputs", definition.outputs)
        self.suffix = "." + (self.outputs[0] if len(self.outputs) == 1 else RESULT)
        self.docs = definition.input_docs
        self.plain = not self.open and not self.docs and self.required == self.names
        self.node_id: str | None = options.get("id")
        self.base = base if base is not None else _base_id(definition.name)
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
                        Place(node=str(node_id)),
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
            if name == self.definition.ctx_param:
                self._refuse(f"gets its {name!r} from the engine; leave it out")
            if name not in self.names:
                hint = did_you_mean(name, self.names)
                if name in _NODE_OPTIONS:
                    hint += (
                        f"; an option of the node goes into .with_options({name}=...), before the "
                        "call"
                    )
                self._refuse(f"has no parameter {name!r}{hint}")

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
        literal = value if isinstance(value, Literal) else _literal(value, what)
        fault = self.definition.value_fault(name, value)
        if fault is not None and self.options.get("map_over") != name:
            self._refuse(f"cannot take that: {fault}")
        return literal

    def graph_input(self, name: str) -> GraphInput:
        """Return what a graph says about the input that a free parameter becomes."""
        found = self.graph_inputs.get(name)
        if found is None:
            annotation = self.params[name].annotation
            schema = schema_of(annotation)
            optional = accepts_none(annotation)
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

    def template(self) -> tuple[Any, ...]:
        """Return the fields of a node, in the order of `Node`, from the sixth on."""
        if self._template is None:
            definition, given = self.definition, self.options
            fields: dict[str, Any] = {
                "timeout": definition.timeout,
                "try_count": definition.try_count,
                "on_failure": definition.on_failure,
                "failure": definition.failure,
                "retry": definition.retry if _is_data(definition) else None,
                "cache_strategy": definition.cache_strategy,
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
                effects=fields["effects"],
                branch=fields.get("branch"),
                keep=fields["keep"],
                enabled=fields.get("enabled", True),
                fallback=_handler_name(fields["fallback"]),
            )
            self._template = node._template()
        return self._template


def _is_data(definition: ActionDef) -> bool:
    return definition.retry is not None and definition.retry.is_data


def _handler_name(handler: str | ActionDef | None) -> str | None:
    return handler.name if isinstance(handler, ActionDef) else handler


def _base_id(name: str) -> str:
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
    base = node_id if node_id is not None else _base_id(definition.name)
    return Recipe(_local(definition, dag), {}, base)


# --- arguments -----------------------------------------------------------------------------------


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
        _check_input_type(source, recipe, name)
    if isinstance(source, Port) and source.label is not None:
        raise ConfigurationError(
            f"{source!r} is a way to go on, no value: draw {source!r} >> {recipe.base}"
        )
    return source if isinstance(source, NodeBuilder) else source.reference


def _check_input_type(source: InputHandle, recipe: Recipe, name: str) -> None:
    param = recipe.params.get(name)
    if param is None or compatible(source.annotation, param.annotation):
        return
    if recipe.options.get("map_over") == name:
        return
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


# --- arrows --------------------------------------------------------------------------------------


def flow(sources: Sequence[Source], target: NodeBuilder) -> None:
    """Draw arrows from *sources* to *target*, binding what can be bound; see the module.

    Raises:
        AmbiguousConnection: A value could go to several parameters.
        ConfigurationError: A source belongs to another DAG.
    """
    recipe = target._recipe
    later = []
    for source in sources:
        _check_home(source, target)
        if isinstance(source, Port) and source.label is not None:
            target._choose(source.node, source.label)
            if not _returns_branch(source.node):
                continue
        if not recipe.open and recipe.names <= target.inputs.keys():
            _order(source, target)
        elif not _bind_by_name(source, target):
            later.append(source)
    for source in later:
        if not _bind_free(source, target):
            _order(source, target)


def _check_home(source: Source, target: NodeBuilder) -> None:
    dag = source.node.dag if isinstance(source, Port) else getattr(source, "dag", None)
    if dag is not target.dag:
        raise ConfigurationError(
            f"{source!r} belongs to another DAG than {target!r}; an arrow stays in one"
        )


def _order(source: Source, target: NodeBuilder) -> None:
    """Make *target* wait for *source*; an input is there from the beginning."""
    if isinstance(source, NodeBuilder):
        target._wait_for(source)
    elif isinstance(source, Port) and source.label is None:
        target._wait_for(source.node)


def _returns_branch(node: NodeBuilder) -> bool:
    returns = node._recipe.returns()
    members = getattr(returns, "__args__", ()) or (returns,)
    return any(getattr(each, "__name__", "") == "Branch" for each in members)


def _names_of(source: Source) -> list[tuple[str, str]]:
    """Return the names that a source's values go by, best first, each with its reference."""
    if isinstance(source, InputHandle):
        return [(source.name, source.reference)]
    if isinstance(source, Port):
        if source.output is not None:
            return [(source.output, source.reference)]
        source = source.node
    assert isinstance(source, NodeBuilder)
    if source._recipe.outputs:
        return [(name, f"{source.id}.{name}") for name in source._recipe.outputs]
    own = dict.fromkeys((source.id, _base_id(source.action), RESULT))
    return [(name, source.reference) for name in own]


def _bind_by_name(source: Source, target: NodeBuilder) -> bool:
    recipe, bound = target._recipe, False
    several = isinstance(source, NodeBuilder) and len(source._recipe.outputs) > 1
    for name, reference in _names_of(source):
        if name in target.inputs or (name not in recipe.names and not recipe.open):
            continue
        if name not in recipe.names and not target.inputs and recipe.wants_all(name):
            continue  # the parameter that takes the whole mapping comes first, in `_bind_free`
        target.inputs[name] = reference
        bound = True
        if not several:
            break
    if bound:
        target.dag._changed()
    return bound


def _bind_free(source: Source, target: NodeBuilder) -> bool:
    recipe = target._recipe
    free = [name for name in recipe.order if name in recipe.required and name not in target.inputs]
    given = _type_of(source)
    fitting = [name for name in free if compatible(given, recipe.params[name].annotation)]
    if len(fitting) > 1:
        _refuse_ambiguous(source, target, fitting)
    if not fitting:
        return False
    target.inputs[fitting[0]] = _bound(source)
    target.dag._changed()
    return True


def _bound(source: Source) -> Any:
    return source if isinstance(source, NodeBuilder) else source.reference


def _type_of(source: Source) -> Any:
    if isinstance(source, InputHandle):
        return source.annotation
    output = None
    if isinstance(source, Port):
        if source.label is not None:
            return Any
        output, source = source.output, source.node
    assert isinstance(source, NodeBuilder)
    recipe = source._recipe
    if recipe.options.get("map_over") is not None:
        return list
    if output is None:
        output = recipe.outputs[0] if len(recipe.outputs) == 1 else RESULT
    if output == RESULT and RESULT not in recipe.outputs:
        return recipe.returns()
    return output_type(recipe.returns(), recipe.outputs, output)


def _refuse_ambiguous(source: Source, target: NodeBuilder, fitting: Sequence[str]) -> None:
    shown = source.name if isinstance(source, (NodeBuilder, InputHandle)) else repr(source)
    node = source.node if isinstance(source, Port) else source
    start = repr(node.id) if isinstance(node, NodeBuilder) else f"dag.inputs[{shown!r}]"
    extra = f", output={source.output!r}" if isinstance(source, Port) and source.output else ""
    choices = "".join(
        f"\n    dag.connect({start}, {target.id!r}, input={name!r}{extra})" for name in fitting
    )
    raise AmbiguousConnection(
        (
            Problem(
                f"{shown} >> {target.id}: the value could go to "
                f"{' or '.join(repr(name) for name in fitting)}. Write one of{choices}\n"
                f"    {_base_id(target.action)}({fitting[0]}=...), with the handle as argument\n"
                f"    dag.nodes[{target.id!r}].after(...), to wait without taking the value",
                Place(node=target.id),
                "ambiguous-connection",
            ),
        )
    )


def bind(source: Source, target: NodeBuilder, name: str) -> None:
    """Bind one parameter of *target* to *source*.

    Raises:
        ValidationError: There is no such parameter, or it has a value already.
        ConfigurationError: The source belongs to another DAG.
    """
    _check_home(source, target)
    recipe = target._recipe
    if isinstance(source, Port) and source.label is not None:
        target._choose(source.node, source.label)
    if name not in recipe.names and not recipe.open:
        recipe.refuse_inputs({name: None})
    wanted = _bound(source)
    known = target.inputs.get(name)
    if known is not None and _reference_of(known) != _reference_of(wanted):
        raise ValidationError(
            (
                Problem(
                    f"{name!r} of node {target.id!r} is bound to {_reference_of(known)} already",
                    Place(node=target.id),
                    "bound-twice",
                ),
            )
        )
    if isinstance(source, InputHandle):
        _check_input_type(source, recipe, name)
    target.inputs[name] = wanted
    target.dag._changed()


def _reference_of(bound: Any) -> str:
    if isinstance(bound, NodeBuilder):
        return bound.reference
    return bound if isinstance(bound, str) else repr(bound)


# --- compiling -----------------------------------------------------------------------------------


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
        return made

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
