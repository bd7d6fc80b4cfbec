"""What an arrow binds: which value goes to which parameter.

When ``a >> b`` is drawn:

1. A parameter of ``b`` that is still free and is called like a declared output of ``a``; where
   ``a`` declares none, like the node ``a``, its action, or ``result``. Of several sources in one
   list, all are tried by name before any is tried otherwise.
2. Else the one free parameter of ``b`` without a default whose annotation can take what ``a``
   returns. Several are an `AmbiguousConnection`.
3. Else nothing: ``b`` waits for ``a``.

An action that takes any input (``**kwargs``, an object with `execute`) gets the value under the
name of the output, or of the node. An arrow that leaves from a branch, or from an action that
`branch` made, carries a value only where the source is annotated to return a `Branch`. Into the
parameter that a node maps over goes what has items of its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagger_dsl.dsl.handles import InputHandle, NodeBuilder
from dagger_dsl.dsl.operators import Port, Source
from dagger_dsl.dsl.recipes import base_id, check_input_type
from dagger_dsl.errors import (
    AmbiguousConnection,
    ConfigurationError,
    Place,
    Problem,
    ValidationError,
)
from dagger_dsl.model.graph import (
    RESULT,
)
from dagger_dsl.model.types import output_type

__all__ = ["bind", "flow"]


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
        source = _labelled(source, target)
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


def _labelled(source: Source, target: NodeBuilder) -> Source:
    """Return where an arrow leaves from: from a node that chooses, by the label of its target."""
    if isinstance(source, NodeBuilder) and source._recipe.chooses:
        return Port(source, label=target.id)
    return source


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
    own = dict.fromkeys((source.id, base_id(source.action), RESULT))
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
    fitting = [name for name in free if recipe.fits(name, given)]
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
    if output is None:
        output = recipe.outputs[0] if len(recipe.outputs) == 1 else RESULT
    if recipe.map_over is not None or (output == RESULT and RESULT not in recipe.outputs):
        return recipe.value_type()
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
                f"    {base_id(target.action)}({fitting[0]}=...), with the handle as argument\n"
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
    source = _labelled(source, target)
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
        check_input_type(source, recipe, name)
    target.inputs[name] = wanted
    target.dag._changed()


def _reference_of(bound: Any) -> str:
    if isinstance(bound, NodeBuilder):
        return bound.reference
    return bound if isinstance(bound, str) else repr(bound)
