"""Wrappers without `functools.wraps`: whose signature an action has, and when that is not told."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any

import pytest

from dagger_dsl import DAG, Registry, action
from dagger_dsl.errors import RegistryError
from dagger_dsl.registry import as_registry, define
from dagger_dsl.registry._wrappers import seen_through

Fn = Callable[..., Any]

pytestmark = pytest.mark.row("O5")


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def other(a: int) -> int:
    return a


async def fetch(url: str, /) -> str:
    return url.upper()


def names(obj: Any) -> list[str]:
    return [param.name for param in define(obj).params]


def bare(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def renamed(fn: Fn) -> Fn:
    def wrapper(*a: Any, **kw: Any) -> Any:
        return fn(*a, **kw)

    return wrapper


def bracketed(fn: Fn, before: Fn = print, after: Fn = print) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before("before")
        try:
            return fn(*args, **kwargs)
        finally:
            after("after")

    return wrapper


def tried_twice(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except OSError:
            return fn(*args, **kwargs)

    return wrapper


def logged(fn: Fn, log: Fn = print) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        log(f"{fn.__name__} {args} {kwargs} {kwargs!r}", args, sorted(kwargs.items()))
        if "quiet" in kwargs or kwargs.get("a"):
            log(fn)
        answer = fn(*args, **kwargs)
        log(answer, *args)
        return answer

    return wrapper


def awaited(fn: Fn) -> Fn:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


class Breaker:
    """Counts the failures of what it decorates."""

    def __init__(self) -> None:
        self.failures = 0

    def __call__(self, func: Fn) -> Fn:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                result = func(*args, **kwargs)
                self.failures = 0
                return result
            except Exception:
                self.failures += 1
                raise

        return wrapper


class Holder:
    """Is what it decorates, and counts its calls."""

    def __init__(self, fn: Fn) -> None:
        self.fn = fn
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        answer = self.fn(*args, **kwargs)
        return answer


SEEN: dict[str, Callable[[Fn], Any]] = {
    "plain": bare,
    "other names": renamed,
    "around": bracketed,
    "two calls": tried_twice,
    "reading the arguments": logged,
    "a lambda": lambda fn: lambda *args, **kwargs: fn(*args, **kwargs),
    "by an object": lambda fn: Breaker()(fn),
    "an object": Holder,
    "an object around a wrapper": lambda fn: Holder(bare(fn)),
    "around a wrapper": lambda fn: bare(logged(fn)),
    "around a cache": lambda fn: bare(functools.lru_cache(fn)),
    "below a cache": lambda fn: functools.lru_cache(bare(fn)),
    "below functools.wraps": lambda fn: functools.wraps(bare(fn))(bare(fn)),
    "around an action": lambda fn: bare(action(fn)),
}


@pytest.mark.parametrize("wrap", SEEN.values(), ids=SEEN)
def test_an_action_has_the_signature_of_what_is_wrapped_and_calls_the_wrapper(
    wrap: Callable[[Fn], Any],
) -> None:
    with Registry():
        wrapped = wrap(add)
        definition = define(wrapped)
    assert definition.name == "add"
    assert [(each.name, each.required) for each in definition.params] == [("a", True), ("b", False)]
    assert definition.hints() == {"a": int, "b": int, "return": int}
    assert definition.doc == "Add two numbers."
    assert (definition.module, definition.qualname) == (add.__module__, "add")
    assert definition.fn is wrapped
    assert definition.fn(a=1) == 3


def test_the_wrapper_is_called_and_the_function_by_it() -> None:
    said: list[Any] = []
    holder = Holder(bracketed(add, said.append, said.append))
    dag = DAG("d")
    dag.add(holder, a=dag.input("a"), b=5)
    assert dag.run({"a": 1}) == 6
    assert (holder.calls, said) == (1, ["before", "after"])


def test_the_parameters_that_the_engine_fills_are_found() -> None:
    def look(a: int, ctx):  # type: ignore[no-untyped-def]
        return a, ctx.node_id

    dag = DAG("d")
    dag.node(bare(look))
    assert names(bare(look)) == ["a"]
    assert dag.run({"a": 1}) == (1, "look")


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize("wrap", [bare, awaited, Holder], ids=["plain", "async", "object"])
def test_a_wrapper_of_an_async_function_is_awaited(wrap: Callable[[Fn], Any], runner: str) -> None:
    definition = define(wrap(fetch))
    assert (definition.is_async, definition.name) == (True, "fetch")
    dag = DAG("d")
    dag.add(wrap(fetch), url="x")
    assert dag.run(runner=runner) == "X"
    assert asyncio.run(dag.run_async()) == "X"


def test_partials_and_methods_of_wrappers_keep_what_they_give() -> None:
    class Scaler:
        factor = 3

        @bare
        def scale(self, value: int, offset: int = 0) -> int:
            return value * self.factor + offset

    assert names(functools.partial(bare(add), 1)) == ["b"]
    assert define(functools.partial(bare(add), b=5)).fn(a=1) == 6
    bound = define(Scaler().scale)
    assert (bound.name, [each.name for each in bound.params]) == ("scale", ["value", "offset"])
    assert bound.fn(value=2) == 6
    assert bound.hints()["value"] is int


def test_a_name_that_a_decorator_gave_is_kept() -> None:
    def numbered(fn: Fn) -> Fn:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        wrapper.__name__ = f"{fn.__name__}_2"
        return wrapper

    assert define(numbered(add)).name == "add_2"
    assert define(numbered(add), "plus").name == "plus"


def test_two_functions_under_one_decorator_are_two_actions_and_a_cell_may_run_again() -> None:
    with Registry() as registry:
        for _ in range(2):
            action(bare(add))
            action(bare(other))
        assert sorted(registry) == ["add", "other"]


def test_a_module_has_the_functions_that_a_decorator_of_another_module_wraps() -> None:
    actions = ModuleType("wrapped_actions")
    source = "@bare\ndef fetch(url): return url\n\n@injecting\ndef untold(a, b): return a"
    vars(actions).update(bare=bare, injecting=injecting, add=add)
    exec(source, vars(actions))
    assert as_registry(actions).own("fetch") is not None
    assert [as_registry(actions).own(name) for name in ("bare", "wrapper", "untold", "add")] == (
        [None] * 4
    )


def test_actions_look_like_what_is_wrapped() -> None:
    with Registry():
        made = action(bare(add))
    assert (made.__name__, made.__doc__, made(1)) == ("add", "Add two numbers.", 3)
    assert inspect.signature(made) == inspect.signature(add)


def injecting(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["b"] = 1
        return fn(*args, **kwargs)

    return wrapper


def defaulting(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("b", 1)
        return fn(*args, **kwargs)

    return wrapper


def giving_away(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        defaults(kwargs)
        return fn(*args, **kwargs)

    def defaults(given: dict[str, Any]) -> None:
        given["b"] = 1

    return wrapper


def aliasing(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = kwargs
        given["b"] = 1
        return fn(*args, **kwargs)

    return wrapper


def merging(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs |= {"b": 1}
        return fn(*args, **kwargs)

    return wrapper


def shortening(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = args[1:]
        return fn(*args, **kwargs)

    return wrapper


def first_argument(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn("connection", *args, **kwargs)

    return wrapper


def one_more(fn: Fn, more: dict[str, int] | None = None) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs, **(more or {}))

    return wrapper


def twice_the_same(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, *args, **kwargs)

    return wrapper


def positional_only(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args)

    return wrapper


def swapping(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*kwargs, **dict(args))

    return wrapper


def handing_to_two(fn: Fn, instead: Fn = other) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except OSError:
            return instead(*args, **kwargs)

    return wrapper


def deferring(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return (lambda: fn(*args, **kwargs))()

    return wrapper


def submitting(fn: Fn, call: Fn = lambda fn, *args, **kwargs: fn(*args, **kwargs)) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call(fn, *args, **kwargs)

    return wrapper


def rebinding(fn: Any) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal fn
        answer = fn(*args, **kwargs)
        fn = other
        return answer

    return wrapper


def of_a_global(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return add(*args, **kwargs)

    return wrapper


def with_a_parameter(fn: Fn) -> Fn:
    def wrapper(*args: Any, verbose: bool = False, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def of_what_is_no_function(fn: Fn) -> Fn:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return named(*args, **kwargs)  # type: ignore[operator]

    named = "add"
    return wrapper


class Changing(Holder):
    """Replaces what it holds."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.fn(*args, **kwargs)
        self.fn = other
        return answer


UNTOLD = [
    injecting,
    defaulting,
    giving_away,
    aliasing,
    merging,
    shortening,
    first_argument,
    one_more,
    twice_the_same,
    positional_only,
    swapping,
    handing_to_two,
    deferring,
    submitting,
    rebinding,
    of_a_global,
    of_what_is_no_function,
    Changing,
]


@pytest.mark.parametrize("wrap", UNTOLD, ids=lambda wrap: wrap.__name__)
def test_where_it_cannot_be_told_what_gets_the_arguments_the_way_out_is_named(wrap: Any) -> None:
    wrapped = wrap(add)
    assert seen_through(wrapped) is wrapped
    with pytest.raises(RegistryError, match=r"functools\.wraps.*give name= and\s+inputs=\[") as why:
        define(wrapped, **({"name": "held"} if wrap is Changing else {}))
    assert "(*args, **kwargs)" in str(why.value)


def test_a_wrapper_with_parameters_of_its_own_is_what_it_says() -> None:
    assert names(with_a_parameter(add)) == ["verbose"]


def test_what_wraps_itself_is_not_followed_for_ever() -> None:
    def loop(*args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs)

    step: Fn = bare(loop)
    with pytest.raises(RegistryError, match=r"functools\.wraps"):
        define(loop)
    holder = Holder(add)
    holder.fn = holder
    with pytest.raises(RegistryError, match=r"functools\.wraps"):
        define(holder, "holder")


def test_what_has_nothing_to_be_seen_through_is_itself() -> None:
    method = Breaker().__call__
    for each in (add, Breaker, 3, None, print, functools.partial(add, 1), method, Breaker()):
        assert seen_through(each) is each
    assert isinstance(seen_through(MethodType(bare(add), 1)), MethodType)


def test_a_declared_signature_wins() -> None:
    wrapped = bare(add)
    wrapped.__signature__ = inspect.signature(other)  # type: ignore[attr-defined]
    assert names(wrapped) == ["a"]
