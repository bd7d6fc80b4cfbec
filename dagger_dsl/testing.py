"""Helpers for tests of workflows: a clock to turn by hand, contexts, fresh registries, one call.

`play` runs a whole graph under such a clock: retries, time limits and the waiting for people take
no time, and the order of everything is always the same.

Nothing here needs a test framework, an executor or a database: an action or a hook is called as a
run would call it, and gives back what it returned.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, get_args

import attrs

from dagger_dsl.engine.hooks import at_once, bind_hooks, hook_definition
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    MissingInputError,
    UnknownInputError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.commands import Answer, Command
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import HookContext, NodeCtx, NodeOutput
from dagger_dsl.model.events import Event, HumanInputRequested, RunStarted
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.protocols import CacheReader, CancelSignal
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.values import MISSING, to_shown
from dagger_dsl.registry import ActionDef, Registry, as_registry, current_registry, define
from dagger_dsl.runners.base import Board, Overran, labour

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = [
    "FakeClock",
    "fresh_registry",
    "make_ctx",
    "make_hook_ctx",
    "mutation_checked",
    "play",
    "run_action",
    "run_hook",
    "unchanged",
]


class FakeClock:
    """A monotonic clock that stands still until it is told to go on. Threads may share it.

    Call it for the time, in seconds; `sleep` does not wait, it moves the clock.

    Args:
        start: The first reading.

    Attributes:
        sleeps: What `sleep` was called with, in order.

    Raises:
        ConfigurationError: *start* is no finite number.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        if not _is_number(start) or not isfinite(start):
            raise ConfigurationError(
                f"FakeClock: start is a number of seconds, such as 1000.0, not {shown(start)}"
            )
        self._now = float(start)
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move the clock on and return the new time.

        Raises:
            ConfigurationError: *seconds* is negative (a monotonic clock never goes back), or no
                number.
        """
        if not _is_number(seconds) or not seconds >= 0:
            raise ConfigurationError(
                f"a monotonic clock goes forward only, by 0 or more seconds, not by "
                f"{shown(seconds)}"
            )
        with self._lock:
            self._now += seconds
            return self._now

    def sleep(self, seconds: float) -> None:
        """Move the clock on instead of waiting."""
        self.advance(seconds)
        self.sleeps.append(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Move the clock on instead of waiting, for code that awaits its sleep."""
        self.sleep(seconds)

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:g}>"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Values:
    """Values by namespace and key, read only."""

    def __init__(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._values = values

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default*."""
        return self._values.get(namespace, {}).get(key, default)


def make_ctx(
    inputs: Mapping[str, Any] | None = None,
    *,
    node_id: str = "node",
    dag_name: str = "dag",
    run_id: str = "run_test",
    attempt: int = 1,
    cache: CacheReader | Mapping[str, Mapping[str, Any]] | None = None,
    app_data: Any = None,
    cancel: CancelSignal | None = None,
    checkpointed: Any = MISSING,
) -> NodeCtx:
    """Return the context that an action gets in a run.

    Args:
        inputs: The bound inputs by name.
        node_id, dag_name, run_id, attempt: Where the call belongs.
        cache: Values by namespace and key, as a mapping of mappings or anything with ``get``.
        app_data: The object the run was given.
        cancel: A `CancelToken`, to test what a body does when its run is cancelled.
        checkpointed: What an earlier attempt has kept with `NodeCtx.checkpoint`.

    Raises:
        ConfigurationError: *inputs* are no mapping, or *cache* has no values to give.
    """
    newest = [checkpointed]

    def keep(value: Any) -> None:
        newest[0] = copy.deepcopy(value)

    return NodeCtx(
        dag_name=dag_name,
        node_id=node_id,
        run_id=run_id,
        attempt=attempt,
        inputs=_mapping(inputs, "make_ctx: inputs"),
        cache=_reader(cache),
        app_data=app_data,
        cancel=cancel,
        keep=keep,
        kept=lambda: (newest[0] is not MISSING, copy.deepcopy(newest[0])),
    )


def make_hook_ctx(
    *,
    run_id: str = "run_test",
    dag_name: str = "dag",
    app_data: Any = None,
    cache: CacheReader | Mapping[str, Mapping[str, Any]] | None = None,
    graph: Graph | None = None,
) -> HookContext:
    """Return the context that a hook gets in a run.

    Args:
        run_id, dag_name: The run.
        app_data: The object the run was given.
        cache: Values by namespace and key, as a mapping of mappings or anything with ``get``.
        graph: The graph as it is at that moment.

    Raises:
        ConfigurationError: *cache* has no values to give, or *graph* is none.
    """
    if graph is not None and not isinstance(graph, Graph):
        raise ConfigurationError(f"make_hook_ctx: graph is a Graph, not {shown(graph)}")
    return HookContext(run_id, dag_name, app_data, _reader(cache), graph)


def _reader(cache: CacheReader | Mapping[str, Mapping[str, Any]] | None) -> CacheReader:
    values = {} if cache is None else cache
    if isinstance(values, Mapping):
        return _Values(values)
    if not callable(getattr(values, "get", None)):
        raise ConfigurationError(
            "cache is a mapping of namespaces to mappings, such as {'inputs': {'x': 1}}, or has "
            f"get(namespace, key, default), not {shown(values)}"
        )
    return values


def _mapping(given: Mapping[str, Any] | None, what: str) -> Mapping[str, Any]:
    """Return what was given by name, empty for None.

    Raises:
        ConfigurationError: It is no mapping of names.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return given
    raise ConfigurationError(
        f"{what} are a mapping of names to values, such as {{'x': 1}}, not {shown(given)}"
    )


@contextmanager
def fresh_registry(*actions: Any) -> Iterator[Registry]:
    """Give the block a registry of its own, in force inside it, with *actions* in it.

    What is registered inside is forgotten afterwards; nothing registered outside is visible.
    """
    with Registry() as registry:
        for each in actions:
            registry.register(each)
        yield registry


def run_action(
    action: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    ctx: NodeCtx | None = None,
    check_mutation: bool = True,
) -> Any:
    """Call an action once, as a run would, and return what it returned.

    Its explicit schemas and the annotations of its parameters are checked, an async action is
    awaited, and a function of the documents' old form ``fn(executor, node, cache)`` gets a node and
    a cache and gives back what it inserted. There are no retries and no timeouts: what it raises
    is raised.

    Args:
        action: A decorated or plain function, an object with ``execute``, or a definition.
        inputs: Values by parameter.
        ctx: What it gets where it asks for a `NodeCtx`; by default one with *inputs*.
        check_mutation: Whether changing an input is a fault.

    Raises:
        InputValidationError, OutputError: A value does not fit.
        UnknownInputError, MissingInputError: The action has no such parameter, or needs another.
        ConfigurationError: *inputs* are no mapping, or *ctx* is no `NodeCtx`.
        AssertionError: The action changed one of its inputs.
    """
    definition = define(action)
    if ctx is not None and not isinstance(ctx, NodeCtx):
        raise ConfigurationError(
            f"run_action: ctx is a NodeCtx, as make_ctx() gives one, not {shown(ctx)}"
        )
    named = ctx.inputs if inputs is None and ctx is not None else inputs
    given = dict(_mapping(named, "run_action: inputs"))
    _check_names(definition, given)
    definition.check_inputs(given)
    for name, value in given.items():
        definition.check_value(name, value)
    context = ctx if ctx is not None else make_ctx(given, node_id=definition.name)
    with unchanged(given, f"action {definition.name!r}") if check_mutation else _nothing():
        result = _called(definition, given, context)
    definition.check_output(result.outputs if isinstance(result, NodeOutput) else result)
    return result


def _check_names(definition: ActionDef, given: Mapping[str, Any]) -> None:
    """Refuse inputs that a function could not be called with.

    Raises:
        UnknownInputError, MissingInputError: There is no such parameter, or one has no value.
    """
    if definition.whole_mapping(given) is not None:
        return
    known = [each.name for each in definition.params]
    for name in given:
        if name not in known and not definition.takes_any_input:
            raise UnknownInputError(
                f"action {definition.name!r} takes no input {name!r}{did_you_mean(name, known)}"
            )
    missing = [each.name for each in definition.params if each.required and each.name not in given]
    if missing:
        raise MissingInputError(
            f"action {definition.name!r} needs values for {', '.join(map(repr, missing))}; give "
            f"them by name: run_action(..., {{{missing[0]!r}: ...}})"
        )


class _Player:
    """Makes every call in the thread that plays; waiting moves the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def run(self, board: Board) -> None:
        """Block until the run is over."""
        clock = self._clock

        def idle() -> bool:
            if board.wake_at == inf:
                raise AssertionError("the run waits for something that never comes")
            clock.sleep(max(0.0, board.wake_at - clock()))
            return True

        def special(slot: int) -> bool:
            if board.announce is not None and not board.announce(slot, clock()):
                return True
            board.started[slot] = begun = clock()
            try:
                answer = _result(board.calls[slot](*board.arguments(slot)))
            except BaseException as error:
                answer = error
            board.ended[slot] = clock()
            limit = board.limits.get(slot)
            if limit is not None and clock() - begun > limit:
                answer = Overran(limit)
            if isinstance(answer, BaseException):
                board.odd.append((slot, answer))
            else:
                board.settle(slot, answer)
            return True

        board.ring = lambda: None
        labour(board, board.step, idle, special)


def play(
    dag: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    clock: FakeClock | None = None,
    answers: Mapping[str, Any] | None = None,
    registry: Any = None,
    **options: Any,
) -> RunReport:
    """Run a graph under a clock of the test's, without waiting, and return its report.

    One call at a time is made, in the thread that plays. What waits (for the next attempt, for the
    end of a question's time) moves the clock; a body takes the time that it moves it by itself, and
    fails with `NodeTimeout` where that is more than its limit.

    Args:
        dag: A DAG or a Graph; or the id of a recorded run, to go on with it.
        inputs: Values of its inputs by name.
        clock: The clock; `FakeClock.sleeps` says how long was waited. A new one by default.
        answers: What nodes that wait for a person are answered, by node, also in nested runs. The
            others stay without an answer. A run that still waits because an answer was refused says
            so in its ``reason``.
        registry: Where the actions of a Graph, or of a recorded run, are looked up; the registry in
            force by default.
        **options: Those of `RunOptions`: database_url, hooks, config...

    Raises:
        ValidationError, InputError, ConfigurationError: Nothing has run.
        NodeNotFound: *answers* name a node that is not in the graph, not even at the end.
        AssertionError: The run waits for something that never comes.
    """
    from dagger_dsl.engine import launch  # tests of single actions need no engine

    source = _playable(dag)
    given = dict(_mapping(answers, "play: answers"))
    if clock is not None and not isinstance(clock, FakeClock):
        raise ConfigurationError(f"play: clock is a FakeClock, not {shown(clock)}")
    hands = FakeClock() if clock is None else clock
    refused: list[Exception] = []

    def reply(_ctx: HookContext, event: Any) -> Answer | None:
        if isinstance(event, HumanInputRequested) and event.node.node_id in given:
            node = event.node
            return Answer(node.node_id, given[node.node_id], node.invocation_key)
        return None

    chosen = RunOptions.of(options)
    if given:
        chosen = attrs.evolve(chosen, hooks=[*chosen.hooks, reply])
    report = launch.play(
        source,
        as_registry(getattr(dag, "registry", None) if registry is None else registry),
        inputs,
        chosen,
        clock=hands,
        runner=_Player(hands),
        # A question that an earlier process asked is not asked again.
        commands=[Answer(*each) for each in given.items()] if isinstance(source, str) else (),
        refused=refused.append,
    )
    for node_id in given:
        if not _is_inside(report, node_id):
            report.graph.node(node_id)
    return _with_refusals(report, given, (*report.hook_errors, *refused))


def _is_inside(report: RunReport, node_id: str) -> bool:
    """Return whether a nested run has a node of this id."""
    todo = list(report.nested.values())
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            todo += each.values()
        elif node_id in each.graph.nodes:
            return True
        else:
            todo += each.nested.values()
    return False


def _playable(dag: Any) -> Graph | str:
    """Return the graph to be played, or the id of a recorded run."""
    if isinstance(dag, (Graph, str)):
        return dag
    compiled = getattr(dag, "compile", None)
    found = compiled() if callable(compiled) and not isinstance(dag, type) else None
    if isinstance(found, Graph):
        return found
    raise ConfigurationError(
        f"play takes a DAG, a Graph or the id of a recorded run, not {shown(dag)}"
    )


def _with_refusals(
    report: RunReport, given: Mapping[str, Any], errors: Iterable[Exception]
) -> RunReport:
    """Return the report, which says why it waits for what was answered."""
    told = next((each for each in errors if isinstance(each, InputValidationError)), None)
    waits = any(report.states().get(each) is NodeState.WAITING for each in given)
    if told is None or not waits:
        return report
    return attrs.evolve(report, reason=f"{report.reason}; the answer was refused: {told}")


def _called(definition: ActionDef, given: dict[str, Any], ctx: NodeCtx) -> Any:
    if definition.style == "legacy":
        return _called_legacy(definition, given, ctx)
    if definition.style == "context":
        return _result(definition.fn(attrs.evolve(ctx, inputs=given)))
    keywords = definition.arguments(given)
    if definition.ctx_param is not None:
        keywords[definition.ctx_param] = attrs.evolve(ctx, inputs=given)
    if definition.context_param is not None:
        keywords[definition.context_param] = Context()
    return _result(definition.fn(**keywords))


def _called_legacy(definition: ActionDef, given: dict[str, Any], ctx: NodeCtx) -> Any:
    from dagger_dsl.store.cache import Cache  # the documents' cache, with all of its functions

    node = Node(ctx.node_id, definition.name, [Input(n, value=v) for n, v in given.items()])
    inserted: dict[str, Any] = {}

    def note(namespace: str, key: str, value: Any) -> None:
        if namespace == node.id:
            inserted[key] = value

    cache = Cache({"inputs": given, node.id: given}, on_write=note)
    result = _result(definition.fn(None, node, cache))
    return inserted if inserted and result is None else result


def _result(answer: Any) -> Any:
    if not inspect.isawaitable(answer):
        return answer
    import asyncio

    async def wait() -> Any:
        return await answer

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    results: list[Callable[[], Any]] = []

    def work() -> None:
        try:
            value = asyncio.run(wait())
        except BaseException as error:
            failed = error

            def fail() -> Any:
                raise failed

            results.append(fail)
        else:
            results.append(lambda: value)

    thread = threading.Thread(target=work, name="dagger-dsl-run-action")
    thread.start()
    thread.join()
    return results[0]()


def run_hook(
    hook: Any,
    event: Event | None = None,
    *,
    ctx: HookContext | None = None,
    run_id: str | None = None,
    dag_name: str | None = None,
    app_data: Any = None,
    cache: CacheReader | Mapping[str, Mapping[str, Any]] | None = None,
    graph: Graph | None = None,
) -> tuple[Command, ...]:
    """Show an event to a hook once, as a run would, and return the commands that it answers.

    A hook whose filters leave the event out is not called, an async one is awaited, and
    `RunStarted` and `RunFinished` go to ``on_start`` and ``on_complete`` of an object. Nothing is
    caught: what the hook raises is raised.

    Args:
        hook: Anything that ``hooks=[...]`` of a run takes.
        event: What happened; by default that the run begins.
        ctx: What the hook gets; by default a `make_hook_ctx` of the arguments that follow.
        run_id, dag_name: The run; by default that of the event.
        app_data, cache, graph: What the context has beside it.

    Raises:
        ConfigurationError: It is no hook, *event* or *ctx* is none, or what the hook answers are no
            commands.
    """
    if event is not None and not isinstance(event, get_args(Event)):
        raise ConfigurationError(
            "run_hook: event is one of dagger_dsl.model.events, such as RunStarted('run', 'dag'), "
            f"not {shown(event)}"
        )
    if ctx is not None and not isinstance(ctx, HookContext):
        raise ConfigurationError(
            f"run_hook: ctx is a HookContext, as make_hook_ctx() gives one, not {shown(ctx)}"
        )
    given = {
        "run_id": run_id,
        "dag_name": dag_name,
        "app_data": app_data,
        "cache": cache,
        "graph": graph,
    }
    context = _hook_ctx(event, ctx, {k: value for k, value in given.items() if value is not None})
    happened = RunStarted(context.run_id, context.dag_name) if event is None else event
    definition = hook_definition(hook, current_registry())
    bound = bind_hooks([definition], Registry(), context.dag_name)
    if not bound:
        return ()
    (only,) = bound
    reaction = only.reaction(happened)
    asked = only.ask(context, happened)
    answer: tuple[Command, ...] = _result(asked) if reaction and reaction[1] else at_once(asked)
    return answer


def _hook_ctx(
    event: Event | None, ctx: HookContext | None, given: Mapping[str, Any]
) -> HookContext:
    if ctx is not None:
        if given:
            raise ConfigurationError(
                f"run_hook takes ctx= or what one is made of ({', '.join(given)}), not both"
            )
        return ctx
    run = getattr(event, "node", event)
    known = {name: getattr(run, name) for name in ("run_id", "dag_name") if hasattr(run, name)}
    return make_hook_ctx(**{**known, **given})


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def unchanged(values: Mapping[str, Any], who: str = "the block") -> Iterator[None]:
    """Check that nothing inside *values* is changed by the block.

    Values are compared by their stored form; of objects that have none, by their ``repr``.

    Args:
        values: The values by name.
        who: What to call the block in the message.

    Raises:
        AssertionError: Something was changed; the message names it.
        ConfigurationError: *values* are no mapping.
    """
    values = _mapping(values, "unchanged: values")
    before = {name: _picture(value) for name, value in values.items()}
    yield
    for name, picture in before.items():
        if _picture(values[name]) != picture:
            raise AssertionError(
                f"{who} changed its input {name!r}; other nodes see the same object, and a "
                "resumed run the unchanged one: work on a copy"
            )


def _picture(value: Any) -> str:
    return json.dumps(to_shown(value), sort_keys=True)


def mutation_checked(registry: Any = None) -> Registry:
    """Return a registry whose actions fail when they change an input; for the run of a whole graph.

    Args:
        registry: A registry, mapping or module; the registry in force by default.
    """
    source = as_registry(registry)
    made = Registry()
    for name in source.list_actions():
        definition = source[name]
        made.register(attrs.evolve(definition, fn=_watched(definition)), name)
    made.bring_node_hooks(source)
    return made


def _watched(definition: ActionDef) -> Callable[..., Any]:
    fn = definition.fn
    who = f"action {definition.name!r}"

    def seen(args: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        names = (each.name for each in definition.params)
        values = dict(zip(names, args, strict=False)) | keywords
        found: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, NodeCtx):
                found.update(value.inputs)
            else:
                found[name] = value
        return found

    if definition.style == "legacy":
        return fn  # it gets the cache in order to change it
    if definition.is_async:

        @functools.wraps(fn)
        async def call_async(*args: Any, **keywords: Any) -> Any:
            with unchanged(seen(args, keywords), who):
                return await fn(*args, **keywords)

        return call_async

    @functools.wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        with unchanged(seen(args, keywords), who):
            return fn(*args, **keywords)

    return call
