"""`@hook`: what it registers, what it gives back and what it refuses."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, assert_type

import pytest

from dagger_dsl import Registry
from dagger_dsl.dsl.hooks import Hook, hook
from dagger_dsl.engine.hooks import EventHook, HookDef, LoggingHook, ReviewHook, TimingHook
from dagger_dsl.engine.hooks import bind_hooks as bind
from dagger_dsl.errors import ConfigurationError, RegistryError
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCompleted,
    NodeFailed,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.registry import as_registry, current_registry
from dagger_dsl.testing import make_hook_ctx


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def watch(ctx: HookContext, event: Event) -> str:
    """Say which run this is.

    At length.
    """
    return ctx.run_id


# --- functions -----------------------------------------------------------------------------------


@pytest.mark.row("B15", "B48")
def test_a_function_stays_a_function(registry: Registry) -> None:
    made = hook(watch)
    assert_type(made(make_hook_ctx(), RunStarted("r", "d")), str)
    assert made(make_hook_ctx(run_id="r7"), RunStarted("r", "d")) == "r7"
    assert (made.__name__, made.__doc__, made.__module__) == ("watch", watch.__doc__, __name__)
    assert list(inspect.signature(made).parameters) == ["ctx", "event"]
    assert repr(made) == "<Hook 'watch'>"
    assert registry.hooks["watch"] is made.definition
    assert made.definition.target is watch


@pytest.mark.row("B15")
def test_with_options_and_on_an_async_function(registry: Registry) -> None:
    @hook(
        on=(NodeCompleted, NodeFailed),
        nodes=["extract_*", "load"],
        dag="sales_*",
        name="steer",
        order=-1,
        on_error="stop",
    )
    async def steering(ctx: HookContext, event: Event) -> None: ...

    assert inspect.iscoroutinefunction(steering.definition.target)
    definition = registry.hooks["steer"]
    assert definition.on == (NodeCompleted, NodeFailed)
    assert definition.nodes == ("extract_*", "load")
    assert definition.dag == ("sales_*",)
    assert (definition.order, definition.on_error) == (-1, "stop")
    assert list(registry.hooks) == ["steer"]
    (bound,) = bind([], registry, "sales_eu")
    assert (bound.name, bound.is_async, bound.on_error) == ("steer", True, "stop")
    assert bind([], registry, "Sales_eu") == ()


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        (NodeStarted, (NodeStarted,)),
        ([NodeStarted, CustomEvent], (NodeStarted, CustomEvent)),
        (NodeCompleted | NodeFailed, (NodeCompleted, NodeFailed)),
        ((RunStarted, NodeCompleted | RunStarted), (RunStarted, NodeCompleted)),
        (None, None),
    ],
)
def test_events_are_chosen_by_their_classes(
    registry: Registry, given: Any, kinds: tuple[type, ...] | None
) -> None:
    assert hook(watch, on=given).definition.on == kinds


def test_all_events_in_one_word(registry: Registry) -> None:
    on = hook(watch, on=Event).definition.on
    assert on is not None
    assert {RunStarted, RunFinished, NodeStarted, CustomEvent} < set(on)


def test_a_hook_made_again_keeps_the_options_that_are_not_given(registry: Registry) -> None:
    first = hook(on=NodeFailed, order=3)(watch)
    second = hook(first, name="other", order=4)
    assert second.definition.target is watch
    assert (second.definition.on, second.definition.order) == ((NodeFailed,), 4)
    assert (first.definition.name, first.definition.order) == ("watch", 3)
    assert list(registry.hooks) == ["watch", "other"]


def test_attributes_are_those_of_the_function(registry: Registry) -> None:
    @functools.lru_cache
    def cached(ctx: Any, event: Any) -> None: ...

    made: Any = hook(cached)
    made.cache_clear()
    with pytest.raises(AttributeError):
        made.nothing


# --- objects and classes -------------------------------------------------------------------------


class Counting(EventHook):
    """Counts events."""

    def __init__(self, start: int = 0) -> None:
        self.number = start

    def handle(self, ctx: HookContext, event: Event) -> None:
        self.number += 1


@pytest.mark.row("B15")
def test_an_object_is_registered_under_the_name_of_its_class(registry: Registry) -> None:
    timing = TimingHook()
    made = hook(timing, on=NodeCompleted)
    assert_type(made, Hook[..., Any])
    assert registry.hooks["TimingHook"].target is timing
    made.handle(make_hook_ctx(), RunStarted("r", "d"))  # type: ignore[attr-defined]
    (bound,) = bind([made, timing], registry, "d")
    assert bound.handle == timing.handle


@pytest.mark.row("B15")
def test_a_class_stays_a_class_and_every_run_makes_its_own_object(registry: Registry) -> None:
    made = hook(on=NodeFailed)(Counting)
    assert_type(made, type[Counting])
    try:
        assert made is Counting
        (one,), (other,) = bind([], registry, "d"), bind([], registry, "d")
        first, second = (_object_of(each.handle) for each in (one, other))
        assert type(first) is type(second) is Counting
        assert first is not second
        assert one.name == other.name == "Counting"
        given = Counting(5)
        (bound,) = bind([given], registry, "d")
        assert _object_of(bound.handle) is given
        assert bound.wants is not None
        assert not bound.wants(CustomEvent("r", "x"))
        two = bind([given, Counting(6)], registry, "d")
        assert [each.name for each in two] == ["Counting", "Counting#2"]
    finally:
        del Counting.__dagger_hook__  # type: ignore[attr-defined]


def _object_of(method: Any) -> Any:
    return method.__self__


def test_options_of_a_class_go_with_its_objects_but_not_to_subclasses(registry: Registry) -> None:
    @hook(on=NodeFailed, register=False)
    class Needing(EventHook):
        def __init__(self, where: str) -> None: ...
        def handle(self, ctx: Any, event: Any) -> None: ...

    class Below(Needing): ...

    assert dict(registry.hooks) == {}
    assert bind([Needing("here")], registry, "d")[0].wants is not None
    assert bind([Below("here")], registry, "d")[0].wants is None
    with pytest.raises(ConfigurationError, match=r"Needing\(\), which needs arguments.*hooks="):
        bind([Needing], registry, "d")


def test_a_class_that_needs_arguments_is_not_registered(registry: Registry) -> None:
    class Needing(EventHook):
        def __init__(self, where: str) -> None: ...
        def handle(self, ctx: Any, event: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"register one object, hook\(Needing\(...\)\)"):
        hook(Needing)
    assert dict(registry.hooks) == {}


def test_two_objects_of_a_class_need_two_names(registry: Registry) -> None:
    first, second = ReviewHook(bool), ReviewHook(bool)
    hook(first)
    hook(first)  # a cell that runs again
    with pytest.raises(RegistryError, match="'ReviewHook' is registered already"):
        hook(second)
    hook(second, name="second")
    hook(ReviewHook(), name="second")  # a cell that makes its object again
    with pytest.raises(RegistryError, match="'second' is registered already"):
        hook(LoggingHook(), name="second")
    assert list(registry.hooks) == ["ReviewHook", "second"]


# --- registries ----------------------------------------------------------------------------------


def test_registrations_stay_in_their_registry() -> None:
    outside = dict(current_registry().hooks)
    own = Registry()
    with Registry() as one:
        hook(watch)
        hook(watch, name="elsewhere", registry=own)
        hook(watch, name="nowhere", register=False)
    assert list(one.hooks) == ["watch"]
    assert list(own.hooks) == ["elsewhere"]
    assert dict(current_registry().hooks) == outside


def cell(value: int) -> Callable[..., Any]:
    """Run a notebook cell that defines `f` and return it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def f(ctx, event):\n    return {value}\n", names)
    made: types.FunctionType = names["f"]
    return made


@pytest.mark.row("O2")
def test_a_cell_that_runs_again_replaces_its_hook_and_nobody_elses(registry: Registry) -> None:
    hook(cell(1))
    hook(watch)
    second = cell(2)
    hook(second)
    assert [each.target for each in registry.hooks.values()] == [second, watch]
    with pytest.raises(RegistryError, match="'f' is registered already; give it another name"):
        hook(watch, name="f")
    assert registry.hooks["f"].target is second


def test_parents_hooks_come_first_and_own_ones_win() -> None:
    parent = Registry()
    child = Registry(parent)
    for name, place in (("a", parent), ("b", parent), ("c", child)):
        hook(watch, name=name, registry=place)
    own = hook(cell(1), name="a", registry=child)
    assert list(child.all_hooks()) == ["a", "b", "c"]
    assert child.all_hooks()["a"] is own.definition
    assert list(parent.all_hooks()) == ["a", "b"]
    child.unregister_hook("a")
    child.unregister_hook("nobody")
    assert child.all_hooks()["a"].target is watch
    child.reset()
    assert list(child.all_hooks()) == ["a", "b"]


def test_a_module_brings_the_hooks_of_its_registries(registry: Registry) -> None:
    module = types.ModuleType("steps")
    module.own = Registry()  # type: ignore[attr-defined]
    hook(watch, registry=module.own)
    hook(watch, name="outside")
    assert list(as_registry(module).all_hooks()) == ["outside", "watch"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ordr": 1}, "no option 'ordr'.*'order'"),
        ({"event": NodeFailed}, "no option 'event'"),
        ({"on": "NodeFailed"}, "on= takes classes of events.*did you mean 'NodeFailed'"),
        ({"on": int}, "on= takes classes of events, such as on=NodeCompleted, not <class 'int'>"),
        ({"on": ()}, "on= names no event"),
        ({"nodes": 3}, r"nodes= is a pattern such as 'extract_\*', or a list of them, not 3"),
        ({"nodes": []}, "nodes= is a pattern"),
        ({"dag": ["a", ""]}, "dag= is a pattern"),
        ({"order": 1.5}, "order= is a whole number, not 1.5"),
        ({"order": True}, "order= is a whole number, not True"),
        ({"on_error": "raise"}, "on_error= is 'continue' or 'stop', not 'raise'"),
        ({"name": ""}, "name is a text that is not empty"),
        ({"on": RunStarted, "nodes": "a"}, "nodes= limits events of nodes, and on= asks for none"),
    ],
)
def test_a_bad_option_is_refused_where_it_is_written(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        hook(**options)


class Silent(EventHook):
    def on_start(self, ctx: HookContext) -> None: ...


class Method:
    def watch(self, ctx: Any, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (3, {}, r"a hook is a function of \(ctx, event\) or has handle\(ctx, event\), not 3"),
        (int, {}, r"has handle\(ctx, event\), not int"),
        (lambda ctx, event: None, {}, "give the lambda a name="),
        (lambda event: None, {"name": "x"}, r"'x': <lambda> is called with \(ctx, event\)"),
        (Method.watch, {}, r"is called with \(ctx, event\), .*given bound to its object"),
        (watch, {"register": "no"}, "register= is True or False, not 'no'"),
        (Silent(), {"on": NodeFailed}, r"choose what handle\(ctx, event\) gets, which it lacks"),
        (Silent, {"nodes": "a"}, r"choose what handle\(ctx, event\) gets, which it lacks"),
        (Silent(), {"on": RunFinished}, "on=RunFinished is told to on_complete, which it lacks"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(
    registry: Registry, target: Any, options: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        hook(target, **options)
    assert dict(registry.hooks) == {}


def test_what_is_allowed_although_it_is_unusual(registry: Registry) -> None:
    hook(lambda ctx, event: None, name="nameless")
    hook(Method().watch)
    hook(Silent(), on=RunStarted)
    hook(functools.partial(lambda extra, ctx, event: extra, 3), name="partial")
    assert list(registry.hooks) == ["nameless", "watch", "Silent", "partial"]
    assert all(isinstance(each, HookDef) for each in registry.hooks.values())
