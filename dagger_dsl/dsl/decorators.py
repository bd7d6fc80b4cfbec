"""`action` and `branch`: a function becomes something a graph can call, and stays a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Never,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from dagger_dsl.dsl.operators import Ends, Source, active

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Literal, TypedDict, Unpack

    from dagger_dsl.dsl.builder import DAG
    from dagger_dsl.dsl.handles import NodeBuilder
    from dagger_dsl.dsl.recipes import Recipe
    from dagger_dsl.model.graph import Output
    from dagger_dsl.model.policies import (
        CacheStrategy,
        Effects,
        OnFailure,
        RetryPolicy,
        Trigger,
    )
    from dagger_dsl.model.pools import ResourcePool
    from dagger_dsl.registry import ActionDef, Registry

    class ActionOptions(TypedDict, total=False):
        """The options of ``@action``; each one left out is decided by the configuration."""

        name: str | None
        inputs: Sequence[str] | Mapping[str, str] | None
        outputs: Sequence[str | Output] | Mapping[str, str] | None
        input_schema: Mapping[str, Any] | str | None
        output_schema: Mapping[str, Any] | str | None
        timeout: float | timedelta | None
        attempts: int | None
        try_count: int | None
        retry: Any  # a count, a RetryPolicy, or any tenacity object
        max_retries: int | None
        retry_delay: float | timedelta | None
        retry_backoff: float | None
        on_failure: OnFailure | Literal["stop", "continue", "pause"] | None
        failure: Any  # a name, or anything that is an action
        on_error: Any
        fallback: Any
        cache: CacheStrategy | bool | float | timedelta | None
        trigger: Trigger | Literal["success", "any", "none_failed", "failed", "done"] | None
        store: bool | None
        keep: bool | None
        uses: ResourcePool[Any] | Mapping[str, ResourcePool[Any]] | None
        memory: int | None
        effects: Effects | Literal["at_least_once", "at_most_once"] | None
        version: str | None
        tags: Sequence[str] | None
        description: str | None
        registry: Registry | None

    class NodeOptions(TypedDict, total=False):
        """The options of one node, which win over those of its action."""

        id: str | None
        outputs: Sequence[str | Output] | Mapping[str, str] | None
        timeout: float | timedelta | None
        attempts: int | None
        try_count: int | None
        retry: int | RetryPolicy | None
        max_retries: int | None
        retry_delay: float | timedelta | None
        retry_backoff: float | None
        on_failure: OnFailure | Literal["stop", "continue", "pause"] | None
        failure: Any
        on_error: Any
        fallback: Any
        cache: CacheStrategy | bool | float | timedelta | None
        trigger: Trigger | Literal["success", "any", "none_failed", "failed", "done"] | None
        effects: Effects | Literal["at_least_once", "at_most_once"] | None
        keep: bool | None
        description: str | None
        instructions: str | None
        metadata: Mapping[str, Any] | None
        map_over: str | None
        max_parallel: int | None
        map_depth: int | None
        map_errors: Literal["fail", "collect"] | None
        map_batch: int | None
        branch: str | None
        enabled: bool | None


__all__ = ["Action", "action", "branch"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)  # so that any kind of coroutine counts as one
S = TypeVar("S")
T = TypeVar("T")


class Action(Ends, Generic[P, R_co]):
    """A function that graphs can call.

    Outside a ``with DAG`` block, calling it calls the function. Inside one, calling it places a
    node and returns the node's handle; arguments may be handles (their values flow), outputs
    (``split.out.left``), inputs of the DAG, or plain values. Parameters left out become inputs of
    the graph unless they have a default.

    Type checkers see the function's own signature, inside a block too.

    Attributes:
        definition: What the registry knows of it.
    """

    definition: ActionDef
    __name__: str

    def __init__(
        self, definition: ActionDef, options: Mapping[str, Any] | None = None, method: bool = False
    ) -> None:
        self.definition = definition
        self._options = options or {}
        self._method = method
        self._function: Callable[P, R_co] = (
            definition.fn if definition.uses else definition.original
        )
        self._made: Recipe | None = None
        self._mapped: dict[Any, Recipe] = {}
        functools.update_wrapper(self, definition.face, updated=())

    @property
    def name(self) -> str:
        """The action's name in the registry."""
        return self.definition.name

    @property
    def input_schema(self) -> Mapping[str, Any]:
        """JSON Schema of the inputs: the explicit one, else one read off the annotations."""
        return self.definition.shown_input_schema()

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """JSON Schema of the result: the explicit one, else one read off the annotation."""
        return self.definition.shown_output_schema()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, or inside a ``with DAG`` block place a node and return its handle."""
        top = active.get()
        if top is None:
            return self._function(*args, **kwargs)
        return cast(R_co, top[0]._place(self._made or self._recipe(), args, kwargs))

    # Where nothing is known of the result, it is not known whether it is to be awaited.
    @overload
    def map(
        self: Action[Q, Never],
        items: Any = ...,
        /,
        *,
        max_parallel: int | None = ...,
        depth: int = ...,
        on_error: Literal["fail", "collect"] = ...,
        id: str | None = ...,
        over: str | None = ...,
        batch_size: int | None = ...,
        max_workers: int | None = ...,
        **inputs: Any,
    ) -> Any: ...
    @overload
    def map(
        self: Action[Q, Coroutine[Any, Any, T]],
        items: Any = ...,
        /,
        *,
        max_parallel: int | None = ...,
        depth: Literal[1] = ...,
        on_error: Literal["fail"] = ...,
        id: str | None = ...,
        over: str | None = ...,
        batch_size: int | None = ...,
        max_workers: int | None = ...,
        **inputs: Any,
    ) -> Coroutine[Any, Any, list[T]]: ...
    @overload
    def map(
        self,
        items: Any = ...,
        /,
        *,
        max_parallel: int | None = ...,
        depth: Literal[1] = ...,
        on_error: Literal["fail"] = ...,
        id: str | None = ...,
        over: str | None = ...,
        batch_size: int | None = ...,
        max_workers: int | None = ...,
        **inputs: Any,
    ) -> list[R_co]: ...
    @overload
    def map(
        self,
        items: Any = ...,
        /,
        *,
        max_parallel: int | None = ...,
        depth: int = ...,
        on_error: Literal["fail", "collect"] = ...,
        id: str | None = ...,
        over: str | None = ...,
        batch_size: int | None = ...,
        max_workers: int | None = ...,
        **inputs: Any,
    ) -> Any: ...
    def map(
        self,
        items: Any = None,
        /,
        *,
        max_parallel: int | None = None,
        depth: int = 1,
        on_error: str = "fail",
        id: str | None = None,
        over: str | None = None,
        batch_size: int | None = None,
        max_workers: int | None = None,
        **inputs: Any,
    ) -> Any:
        """Call the function for each item of a list: ``square.map(numbers)``.

        Inside a ``with DAG`` block this places one node, which has an invocation for each item of a
        list that need not be known before the run; its value is the list of their results, in
        order. Each invocation is retried, timed and recorded by itself. ``b.map(a.map(xs))`` starts
        an item's ``b`` when its ``a`` has ended, and items of a generator are begun while it still
        yields.

        Outside of a block it calls the function, one item after the other or in `max_parallel`
        threads, and returns the list; of an async function it returns what gives the list when
        awaited, and the calls run together.

        Args:
            items: What has the items: a list, a handle, an output (``split.out.rows``) or an input
                of the DAG. They go into the parameter that `over` names, else into the first one
                that is not given by name.
            max_parallel: Invocations at the same time, those that wait for another attempt or a
                person not counted; by default as many as the run has room for. Outside of a block,
                threads, or async calls at the same time.
            depth: Levels of lists; with 2, ``items`` is a list of lists, and so is the value.
            on_error: ``fail`` lets a failed invocation fail the node; ``collect`` puts a `Failed`
                value in its place. Outside of a block, ``fail`` lets the exception through.
            id: The node's id; nothing outside of a block.
            over: The parameter that takes the items. Without `items` it says which of the inputs
                that are given by name is mapped; a single one is.
            batch_size: Items that one invocation is given: it calls the function for each, one
                after the other, so that many quick items make few rows and commits. The batch is
                what is retried, timed, recorded and counted by `max_parallel`; its calls answer
                values only. With ``collect``, each item that fails in the last attempt of its batch
                gives a `Failed` value, and the results of the others stay. The list is as without.
            max_workers: Another word for `max_parallel`.
            **inputs: What all invocations are given alike. A parameter with the name of an argument
                above is bound by the longer way: ``with_options(map_over=...)``.

        Raises:
            ConfigurationError: It is not clear what is mapped over, that has no items, or an
                argument has an impossible value.
            ValidationError: Inside a block: as for any call.
        """
        from dagger_dsl.dsl.mapping import (  # who maps nothing pays nothing
            MapCall,
            mapped_input,
            one_limit,
        )

        what = f"{self.name}.map"
        name, given = mapped_input(self.definition, items, over, inputs)
        most = one_limit(what, max_parallel, max_workers)
        call = MapCall.of(what, name, depth, on_error, most, batch_size)
        top = active.get()
        if top is None:
            return call.run(self.definition, given)
        recipe = self._mapped.get(call)
        if recipe is None:
            from dagger_dsl.dsl.recipes import Recipe

            options = call.options(self._options, self.definition.outputs)
            recipe = self._mapped[call] = Recipe(self.definition, options)
        return top[0]._place(recipe, (), given, id)

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Action[P, R_co]: ...
    @overload
    def __get__(
        self: Action[Concatenate[S, Q], R_co], instance: S, owner: Any = None
    ) -> Action[Q, R_co]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return the action of one instance, for a method; the node's name is the method's."""
        if instance is None or not self._method:
            return self
        from dagger_dsl.registry import bound_to

        return Action(bound_to(self.definition, instance), self._options)

    def with_options(self, **options: Unpack[NodeOptions]) -> Action[P, R_co]:
        """Return this action with options for the nodes that it places.

        Args:
            **options: ``id`` of the one node it stands for then; timeout, attempts, retry,
                on_failure, failure, fallback, cache, trigger, effects, keep, outputs, description,
                instructions, metadata, map_over, max_parallel, map_depth, map_errors, map_batch
                (see `map`), branch, enabled.

        Raises:
            ConfigurationError: An option is unknown or has an impossible value.
        """
        from dagger_dsl.dsl.settings import node_options

        fields = node_options(self.definition, options)
        return Action(self.definition, {**self._options, **fields}, self._method)

    def _recipe(self) -> Recipe:
        if self._made is None:
            from dagger_dsl.dsl.recipes import Recipe

            self._made = Recipe(self.definition, self._options)
        return self._made

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return (self._node(dag),)

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        return (self._node(dag),)

    def _node(self, dag: DAG) -> NodeBuilder:
        return dag._node_of(self._recipe())

    def _check_output(self, name: str) -> None:
        self._recipe().check_output(name)

    def __reduce__(self) -> str:
        """Pickle by name, as functions are."""
        return str(getattr(self, "__qualname__", self.name))

    if not TYPE_CHECKING:  # type checkers would take any misspelt name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Return what the function itself has, such as ``cache_clear`` of an `lru_cache`."""
            if name == "_function" or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(name)
            return getattr(self._function, name)

    def __repr__(self) -> str:
        return f"<Action {self.definition.name!r}>"


@overload
def action(fn: Callable[P, R], /, **options: Unpack[ActionOptions]) -> Action[P, R]: ...
@overload
def action(
    fn: None = None, /, **options: Unpack[ActionOptions]
) -> Callable[[Callable[P, R]], Action[P, R]]: ...
def action(fn: Any = None, /, **options: Any) -> Any:
    """Make a function an action, and register it.

    Works with and without parentheses, on functions, async functions and methods (a method is not
    registered: it needs its instance first), on top of other decorators, and as a plain call on
    partials, builtins and callable objects. A decorator without `functools.wraps` is seen through
    where its code tells that one function gets its very ``*args, **kwargs``.

    A generator (or any function that returns an iterator) feeds the one node that takes its value,
    item by item while it runs: that node's parameter is the iterator, ``chunks: Iterator[dict]``,
    or an async one. Nothing of it is stored, and both are one unit: they are timed by the consumer,
    begin anew together when either fails, under the retry policy of the one that raised, and the
    generator is closed when the consumer ends. Nodes that map over a generator get an item each.

    A resource that ``uses`` lends is given back when the call ends, however it ends, and the wait
    for it is part of the call's time limit. A function that is left behind in its thread by a limit
    holds it until it returns.

    Args:
        fn: The function.
        **options: ``name`` in the registry (the function's own); ``inputs`` and ``outputs`` (names,
            or names with descriptions); ``input_schema`` and ``output_schema`` (JSON Schemas,
            enforced on every call); ``timeout`` (seconds or timedelta, per attempt); ``attempts``
            or ``try_count`` (calls in all); ``retry`` (extra calls, a RetryPolicy or a tenacity
            object), ``max_retries``, ``retry_delay``, ``retry_backoff``; ``on_failure``;
            ``failure`` or ``on_error`` (the handler); ``fallback``; ``cache``; ``trigger``;
            ``store``; ``keep`` (False frees the value after the last node that depends on it);
            ``uses`` (pools by the parameter that is lent a resource for each call, such as
            ``uses={"conn": pool}``; a pool alone fills the parameter ``resource``, or the only
            one); ``memory`` (the bytes that a call takes, as you declare them: where its run has a
            `ResourceTracker` the call waits until there is room; nobody measures what it takes);
            ``effects``; ``version``; ``tags``; ``description``; ``registry`` (where to
            register; the one in force by default).

    Raises:
        ConfigurationError: An option is unknown or has an impossible value.
        RegistryError: The name is taken, or the signature cannot be read.
    """
    if fn is None:
        # Bad options are reported on the line of the decorator, before there is a function.
        from dagger_dsl.registry import check_options

        check_options(options)
        return lambda fn: _make(fn, options)
    return _make(fn, options)


@overload
def branch(fn: Callable[P, R], /, **options: Unpack[ActionOptions]) -> Action[P, R]: ...
@overload
def branch(
    fn: None = None, /, **options: Unpack[ActionOptions]
) -> Callable[[Callable[P, R]], Action[P, R]]: ...
def branch(fn: Any = None, /, **options: Any) -> Any:
    """Make a function that chooses the way on an action, and register it.

    It returns the id of the node that goes on, or a list of ids; the other nodes that its arrows
    lead to are skipped. The arrows need no labels: ``route >> [ship, refuse]`` labels each with the
    id of its target. What the function returns is the choice, so no value flows along the arrows
    unless it returns ``Branch(id, value)`` and is annotated so. Annotated as ``Literal["ship",
    "refuse"]`` it is checked, before anything runs, that it never answers another id than that of
    an arrow's target.

    A node that waits by `after`, or takes the result as an argument, waits for the answer and is no
    part of the choice.

    Args:
        fn: The function.
        **options: Those of `action`.

    Raises:
        ConfigurationError, RegistryError: As `action`.
    """
    if fn is None:
        from dagger_dsl.registry import check_options

        check_options(options)
        return lambda fn: _make(fn, options, chooses=True)
    return _make(fn, options, chooses=True)


def _make(fn: Any, options: Mapping[str, Any], chooses: bool = False) -> Action[Any, Any]:
    from dagger_dsl.registry import as_registry, define, is_method

    fields = {key: value for key, value in options.items() if key not in ("name", "registry")}
    definition = define(fn, options.get("name"), **fields)
    if chooses:
        from dagger_dsl.dsl.choosing import as_choice

        definition = as_choice(definition)
    if is_method(fn):
        return Action(definition, method=True)
    as_registry(options.get("registry")).register(definition)
    return Action(definition)
