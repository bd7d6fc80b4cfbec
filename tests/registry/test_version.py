"""The version of an action's code: which edits change it, and which do not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, action
from dagger_dsl.registry import bound_to, define, redefine
from dagger_dsl.registry._version import code_version

MODULE = "versioned_module"

IMPORTS = """
from dagger_dsl.registry import define
from dagger_dsl.registry._version import code_version
"""


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] == MODULE]:
        del sys.modules[name]


def module(source: str, name: str = MODULE) -> types.ModuleType:
    """Return a module with *source*, in the place of an earlier one of that name."""
    made = types.ModuleType(name)
    made.__package__ = name.rpartition(".")[0]
    sys.modules[name] = made
    parent = sys.modules.get(made.__package__)
    if parent is not None:
        setattr(parent, name.rpartition(".")[2], made)
    exec(compile(textwrap.dedent(source), f"/{name}.py", "exec", dont_inherit=True), vars(made))
    return made


def version_of(source: str) -> str:
    """Return the version of what *source* calls ``act``."""
    return code_version(define(module(source).act, "act"))


def differ(before: str, after: str) -> bool:
    return version_of(before) != version_of(after)


# --- one function ---------------------------------------------------------------------------------

PLAIN = """
def act(x, y=2):
    total = x + y
    return [each * 3 for each in range(total) if each]
"""


@pytest.mark.row("C23")
@pytest.mark.parametrize(
    "after",
    [
        "#  a comment\n\n\n" + PLAIN,
        """
def act(x, y=2):
    '''A docstring.'''
    # a comment
    total = (
        x
        + y
    )

    return [
        each * 3
        for each in range(total)
        if each  # not 0
    ]
""",
        """
import typing

def act(x: int, y: "int" = 2) -> typing.Any:
    '''Another docstring.

    It is longer.
    '''
    total = x + y; return [each * 3 for each in range(total) if each]
""",
    ],
    ids=["moved", "laid out anew", "annotated"],
)
def test_comments_docstrings_annotations_and_layout_do_not_count(after: str) -> None:
    assert not differ(PLAIN, after)


@pytest.mark.row("C23")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* 3", "* 4"),
        ("* 3", "* 3.0"),
        ("x + y", "x - y"),
        ("if each", "if not each"),
        ("y=2", "y=5"),
        ("y=2", "*, y=2"),
        ("(x, y=2)", "(x, y=2, *rest)"),
        ("range(total)", "list(total)"),
        ("[each * 3 for each in range(total) if each]", "{each * 3 for each in range(total)}"),
        ("    return", "    yield"),
        ("def act", "async def act"),
    ],
    ids=lambda value: str(value),
)
def test_constants_logic_and_defaults_count(old: str, new: str) -> None:
    assert old in PLAIN
    assert differ(PLAIN, PLAIN.replace(old, new))


BRANCHING = """
def act(x):
    try:
        first = int(x)
    except ValueError:
        return None
    second = float(x)
    while first:
        first -= 1
        if second > 2:
            continue
        if second < 0:
            break
        second += 1
    else:
        second = 0
    return first if second else None
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("continue", "break"),
        ("break", "continue"),
        ("second > 2", "second >= 2"),
        ("first if second else None", "None if second else first"),
        ("except ValueError", "except TypeError"),
    ],
)
def test_the_flow_counts(old: str, new: str) -> None:
    assert old in BRANCHING
    assert differ(BRANCHING, BRANCHING.replace(old, new))


def test_the_same_steps_with_and_without_a_try_around_them_differ() -> None:
    inside = "def act(x):\n try:\n  a(x)\n  b(x)\n except OSError:\n  c(x)\n"
    outside = "def act(x):\n a(x)\n try:\n  b(x)\n except OSError:\n  c(x)\n"
    assert differ(inside, outside)


def test_names_of_the_function_and_of_its_module_do_not_count() -> None:
    one = module(PLAIN, MODULE).act
    other = module(PLAIN.replace("def act", "def other"), f"{MODULE}_2").other
    assert code_version(define(one)) == code_version(define(other))


def test_constants_that_are_equal_but_not_the_same_count() -> None:
    values = ["1", "1.0", "True", "0.0", "-0.0", "'1'", "b'1'", "(1, 2)", "(1, 2.0)", "10**5000"]
    versions = [version_of(f"def act():\n    return {each}") for each in values]
    assert len(set(versions)) == len(values)


def test_sets_of_constants_have_no_order() -> None:
    letters = "{'a', 'b', 'c', 'd', 'e', 'f'}"
    source = f"def act(x):\n    return x in {letters}\nprint(code_version(define(act)))"
    found = {
        run_script(
            f"{IMPORTS}\n{source}",
            PYTHONHASHSEED=str(seed),
        )
        for seed in range(4)
    }
    assert len(found) == 1


def test_an_explicit_version_is_the_only_thing_that_counts() -> None:
    one = define(module(PLAIN).act, version="2024-01")
    other = define(module("def act(): pass").act, version="2024-01")
    assert code_version(one) == code_version(other) == one.code_version() == "2024-01"
    assert code_version(redefine(one, version="2")) == "2"


# --- what it refers to ----------------------------------------------------------------------------


COUNTING: dict[str, tuple[str, str, str]] = {
    "a helper": (
        """
        def helper(x): return x
        def act(x): return helper(x)
        """,
        "return x\n",
        "return -x\n",
    ),
    "a helper's helper": (
        """
        def deep(x): return x + 1
        def helper(x): return deep(x)
        def act(x): return helper(x)
        """,
        "+ 1",
        "+ 2",
    ),
    "a constant": (
        """
        RATE = 0.19
        def act(x): return x * RATE
        """,
        "0.19",
        "0.16",
    ),
    "a nested tuple": (
        """
        NAMES = ('a', ('b', 1))
        def act(): return NAMES
        """,
        "1)",
        "2)",
    ),
    "a set of constants": (
        """
        KINDS = frozenset({'a'})
        def act(x): return x in KINDS
        """,
        "'a'",
        "'b'",
    ),
    "a pattern": (
        """
        import re
        WORD = re.compile('a+')
        def act(x): return WORD.match(x)
        """,
        "a+",
        "b+",
    ),
    "a decimal number": (
        """
        import decimal
        RATE = decimal.Decimal('0.1')
        def act(x): return x * RATE
        """,
        "0.1",
        "0.2",
    ),
    "an itemgetter": (
        """
        import operator
        BY = operator.itemgetter('a')
        def act(x): return BY(x)
        """,
        "'a'",
        "'b'",
    ),
    "an enum member": (
        """
        import enum
        class Mode(enum.Enum):
            FAST = 1
            SLOW = 2
        MODE = Mode.FAST
        def act(): return MODE
        """,
        "MODE = Mode.FAST",
        "MODE = Mode.SLOW",
    ),
    "the value of an enum member": (
        """
        import enum
        class Mode(enum.Enum):
            FAST = 1
        def act(): return Mode.FAST.value
        """,
        "FAST = 1",
        "FAST = 3",
    ),
    "a frozen attrs class": (
        """
        import attrs
        @attrs.frozen
        class Settings:
            rate: float = 0
        SETTINGS = Settings(0.1)
        def act(x): return x * SETTINGS.rate
        """,
        "0.1",
        "0.2",
    ),
    "a frozen dataclass": (
        """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Settings:
            rate: float = 0.5
        SETTINGS = Settings(0.1)
        def act(x): return x * SETTINGS.rate
        """,
        "0.1",
        "0.2",
    ),
    "a default of a dataclass": (
        """
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: int = 1
        def act(): return Point()
        """,
        "x: int = 1",
        "x: int = 2",
    ),
    "a named tuple": (
        """
        import typing
        class Pair(typing.NamedTuple):
            a: int
            b: int
        PAIR = Pair(1, 2)
        def act(): return PAIR.b
        """,
        "(1, 2)",
        "(1, 3)",
    ),
    "a method": (
        """
        class Tool:
            def run(self, x): return self.part(x)
            def part(self, x): return x + 1
        def act(x): return Tool().run(x)
        """,
        "+ 1",
        "+ 2",
    ),
    "a method of a base class": (
        """
        class Base:
            def part(self, x): return x + 1
        class Tool(Base):
            pass
        def act(x): return Tool().part(x)
        """,
        "+ 1",
        "+ 2",
    ),
    "a property": (
        """
        class Tool:
            @staticmethod
            def one(x): return 1
            @classmethod
            def two(cls): return 2
            @property
            def three(self): return 3
        def act(x): return Tool
        """,
        "return 3",
        "return 4",
    ),
    "a cached property": (
        """
        import functools
        class Tool:
            @functools.cached_property
            def rate(self): return 3
        def act(x): return Tool().rate
        """,
        "return 3",
        "return 4",
    ),
    "a class attribute": (
        """
        class Tool:
            LIMIT = 3
        def act(x): return Tool.LIMIT
        """,
        "= 3",
        "= 4",
    ),
    "a table of handlers": (
        """
        def one(x): return 1
        HANDLERS = {'a': one}
        def act(x): return HANDLERS[x](x)
        """,
        "return 1",
        "return 2",
    ),
    "a cached helper": (
        """
        import functools
        @functools.lru_cache
        def helper(x): return x + 1
        def act(x): return helper(x)
        """,
        "+ 1",
        "+ 2",
    ),
    "a dispatched helper": (
        """
        import functools
        @functools.singledispatch
        def helper(x): return 0
        @helper.register
        def _(x: int): return 1
        def act(x): return helper(x)
        """,
        "return 1",
        "return 2",
    ),
    "a lambda": (
        """
        act = lambda x: [lambda y: y + 1 for _ in x]
        """,
        "+ 1",
        "+ 2",
    ),
    "an inner function": (
        """
        def act(x):
            def inner(y): return helper(y)
            return inner(x)
        def helper(y): return y + 1
        """,
        "+ 1",
        "+ 2",
    ),
    "an enclosing variable": (
        """
        def make(rate):
            def act(x): return x * rate
            return act
        act = make(2)
        """,
        "make(2)",
        "make(3)",
    ),
    "a function in an enclosing variable": (
        """
        def make(fn):
            def act(x): return fn(x)
            return act
        def helper(x): return x + 1
        act = make(helper)
        """,
        "+ 1",
        "+ 2",
    ),
    "a function as default": (
        """
        def act(x, by=lambda y: y + 1): return by(x)
        """,
        "+ 1",
        "+ 2",
    ),
    "containers as default": (
        """
        def act(x, *, columns=['a', {'b': 1}]): return x
        """,
        "1}",
        "2}",
    ),
    "a wrapped function": (
        """
        import functools
        def log(fn):
            @functools.wraps(fn)
            def call(*args):
                return fn(*args)
            return call
        @log
        def act(x): return x + 1
        """,
        "+ 1",
        "+ 2",
    ),
    "a function in a wrapper without functools.wraps": (
        """
        def log(fn):
            def call(*args, **kwargs):
                print("called")
                return fn(*args, **kwargs)
            return call
        @log
        def act(x): return x + 1
        """,
        "+ 1",
        "+ 2",
    ),
    "a wrapper without functools.wraps": (
        """
        def log(fn):
            def call(*args, **kwargs):
                print("called")
                return fn(*args, **kwargs)
            return call
        @log
        def act(x): return x + 1
        """,
        '"called"',
        '"asked"',
    ),
    "a function that a callable object holds": (
        """
        class Counted:
            def __init__(self, fn): self.fn, self.calls = fn, 0
            def __call__(self, *args, **kwargs):
                self.calls = self.calls + 2
                return self.fn(*args, **kwargs)
        @Counted
        def act(x): return x + 1
        """,
        "+ 1",
        "+ 3",
    ),
    "a callable object that holds a function": (
        """
        class Counted:
            def __init__(self, fn): self.fn, self.calls = fn, 0
            def __call__(self, *args, **kwargs):
                self.calls = self.calls + 2
                return self.fn(*args, **kwargs)
        @Counted
        def act(x): return x + 1
        """,
        "+ 2",
        "+ 3",
    ),
    "a wrapper": (
        """
        import functools
        def log(fn):
            @functools.wraps(fn)
            def call(*args):
                return fn(*args)
            return call
        @log
        def act(x): return x + 1
        """,
        "return fn(*args)",
        "return fn(*args, 1)",
    ),
    "an argument of a partial": (
        """
        import functools
        def helper(x, y): return x + y
        act = functools.partial(helper, y=1)
        """,
        "y=1",
        "y=2",
    ),
    "a list as argument of a partial": (
        """
        import functools
        def helper(x, y): return x + y
        act = functools.partial(helper, y=[1, 2])
        """,
        "[1, 2]",
        "[2, 1]",
    ),
    "the function of a partial": (
        """
        import functools
        def helper(x, y): return x + y
        act = functools.partial(helper, y=1)
        """,
        "x + y",
        "x - y",
    ),
    "the name of a native function": (
        """
        import math
        act = math.floor
        """,
        "floor",
        "ceil",
    ),
}


@pytest.mark.row("C23")
@pytest.mark.parametrize(("source", "old", "new"), COUNTING.values(), ids=COUNTING)
def test_what_the_function_leads_to_in_its_package_counts(source: str, old: str, new: str) -> None:
    assert source.count(old) == 1
    define_it = {"inputs": ["x"]} if "math" in source else {}

    def version(text: str) -> str:
        return code_version(define(module(text).act, "act", **define_it))

    assert version(source) != version(source.replace(old, new))
    assert version(source) == version("# moved\n\n" + textwrap.dedent(source))


SILENT: dict[str, tuple[str, str, str]] = {
    "a function that is not called": (
        """
        def other(x): return 1
        def act(x): return x
        """,
        "return 1",
        "return 2",
    ),
    "a list": (
        """
        CALLS = []
        def act(x): CALLS.append(x)
        """,
        "[]",
        "[1]",
    ),
    "a dict": (
        """
        SEEN = {}
        def act(x): SEEN[x] = 1
        """,
        "{}",
        "{2: 3}",
    ),
    "an object": (
        """
        LOCK = None
        def act(x): return LOCK
        """,
        "None",
        "object()",
    ),
    "a global it writes": (
        """
        COUNT = 0
        def act(x):
            global COUNT
            COUNT += 1
        """,
        "= 0",
        "= 7",
    ),
    "a global that a helper writes": (
        """
        COUNT = 0
        def bump():
            global COUNT
            COUNT += 1
        def act(x):
            bump()
            return COUNT
        """,
        "= 0",
        "= 7",
    ),
    "an enclosing variable it writes": (
        """
        def make(n):
            def act(x):
                nonlocal n
                n += 1
            return act
        act = make(0)
        """,
        "make(0)",
        "make(7)",
    ),
    "names of the interpreter's": (
        """
        __version__ = '1'
        def act(x): return __version__
        """,
        "'1'",
        "'2'",
    ),
}


@pytest.mark.parametrize(("source", "old", "new"), SILENT.values(), ids=SILENT)
def test_what_is_not_referred_to_and_what_is_state_does_not_count(
    source: str, old: str, new: str
) -> None:
    assert source.count(old) == 1
    assert not differ(source, source.replace(old, new))


class TestModules:
    """Helpers in other modules of the package, by every way to import them."""

    WAYS = (
        "import {m}.helpers\ndef act(x): return {m}.helpers.helper(x)",
        "import {m}.helpers as h\ndef act(x): return h.helper(x)",
        "from {m} import helpers\ndef act(x): return helpers.helper(x)",
        "from {m}.helpers import helper\ndef act(x): return helper(x)",
        "def act(x):\n  from {m}.helpers import helper\n  return helper(x)",
        "def act(x):\n  from .helpers import helper\n  return helper(x)",
        "def act(x):\n  from . import helpers\n  return helpers.helper(x)",
        "def act(x):\n  import {m}.helpers\n  return {m}.helpers.helper(x)",
        "def act(x):\n  import {m}.helpers as h\n  return h.helper(x)",
    )

    def version(self, way: str, helpers: str, other: str = MODULE) -> str:
        package = module("")
        vars(package)["__path__"] = []
        module("def stranger(x): return 1", "versioned_other")
        module(helpers, f"{MODULE}.helpers")
        found = module(way.replace("{m}", other), f"{MODULE}.actions")
        return code_version(define(found.act))

    @pytest.mark.parametrize("way", WAYS)
    def test_count(self, way: str) -> None:
        one, other = "def helper(x): return x + 1", "def helper(x): return x + 2"
        assert self.version(way, one) == self.version(way, f"OTHER = 1\n{one}")
        assert self.version(way, one) != self.version(way, other)
        constant = "RATE = 1\ndef helper(x): return x + RATE"
        assert self.version(way, constant) != self.version(way, constant.replace("1", "2"))

    def test_are_imported_to_look_into_them(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / MODULE
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "late.py").write_text("def helper(x): return x + 1")
        (package / "actions.py").write_text(
            "def act(x):\n    from .late import helper\n    from .missing import other\n"
            "    return helper(x)\n"
        )
        __import__(f"{MODULE}.actions")
        definition = define(sys.modules[f"{MODULE}.actions"].act)
        before = code_version(definition)
        assert f"{MODULE}.late" in sys.modules
        assert definition.fn is not None
        with pytest.raises(ModuleNotFoundError):
            definition.fn(1)
        assert code_version(definition) == before, "running it changes nothing"

    def test_that_load_names_on_first_use_are_asked_for_them(self) -> None:
        def version(number: int) -> str:
            package = module("")
            vars(package)["__path__"] = []
            module(f"def helper(x): return x + {number}", f"{MODULE}.helpers")
            module(
                "def __getattr__(name):\n  from versioned_module import helpers\n"
                "  value = globals()[name] = getattr(helpers, name)\n  return value",
                f"{MODULE}.lazy",
            )
            found = module(
                "from versioned_module import lazy\ndef act(x): return lazy.helper(x)",
                f"{MODULE}.actions",
            )
            return code_version(define(found.act))

        assert version(1) == version(1) != version(2)

    def test_of_other_packages_do_not_count(self) -> None:
        module("def helper(x): return x + 1\nRATE = 1", "versioned_other")
        source = (
            "import versioned_other\nfrom versioned_other import helper\n"
            "def act(x): return helper(x) * versioned_other.RATE"
        )
        before = version_of(source)
        module("def helper(x): return x + 2\nRATE = 2", "versioned_other")
        assert version_of(source) == before
        del sys.modules["versioned_other"]

    def test_wrappers_of_other_packages_lead_to_what_they_wrap(self) -> None:
        module(
            "import functools\ndef plain(fn):\n  def call(*args): return fn(*args)\n  return call\n"
            "def bare(fn):\n  return lambda *args, **kwargs: fn(*args, **kwargs)\n"
            "def wrapping(fn):\n  return functools.wraps(fn)(lambda *args: fn(*args))",
            "versioned_other",
        )
        for wrapper in ("plain", "bare", "wrapping"):
            source = (
                f"from versioned_other import {wrapper}\n@{wrapper}\ndef helper(x): return x + 1\n"
                "def act(x): return helper(x)"
            )
            assert differ(source, source.replace("+ 1", "+ 2"))
            wrapped = source.replace("def act(x): return helper(x)", "act = helper")
            if wrapper != "plain":
                assert differ(wrapped, wrapped.replace("+ 1", "+ 2"))
        del sys.modules["versioned_other"]


# --- objects --------------------------------------------------------------------------------------


class Plain:
    """An object with execute, and whatever attributes it is given."""

    name = "plain"

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def execute(self, ctx: Any) -> Any:
        return ctx

    def method(self, x: int) -> int:
        return x

    def __call__(self, x: int) -> int:
        return x


class Slotted:
    __slots__ = ("mode", "name")

    def __init__(self, mode: str) -> None:
        self.name = "slotted"
        self.mode = mode

    def execute(self, ctx: Any) -> Any:
        return self.mode


def one_way(x: int) -> int:
    return x + 1


def other_way(x: int) -> int:
    return x + 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mode": "a"}, {"mode": "b"}),
        ({"mode": "a"}, {"mode": "a", "rate": 1}),
        ({"columns": ["a", "b"]}, {"columns": ["b", "a"]}),
        ({"table": {"a": [1]}}, {"table": {"a": [2]}}),
        ({"by": one_way}, {"by": other_way}),
        ({"by": functools.partial(one_way, x=1)}, {"by": functools.partial(one_way, x=2)}),
        ({"part": Plain(rate=1)}, {"part": Plain(rate=2)}),
        ({"parts": [Plain(rate=1)]}, {"parts": [Plain(rate=2)]}),
    ],
    ids=lambda held: "-".join(held),
)
@pytest.mark.parametrize("kind", [lambda o: o, lambda o: o.method, lambda o: o.execute])
def test_what_an_object_holds_counts(
    kind: Callable[[Any], Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    def version(**given: Any) -> str:
        return code_version(define(kind(Plain(**given)), "act"))

    assert version(**one) == version(**one)
    assert version(**one) != version(**other)


def test_slots_count_and_the_order_of_keys_does_not() -> None:
    assert code_version(define(Slotted("a"))) == code_version(define(Slotted("a")))
    assert code_version(define(Slotted("a"))) != code_version(define(Slotted("b")))
    one, other = Plain(table={"a": 1, "b": 2}), Plain(table={"b": 2, "a": 1})
    assert code_version(define(one)) == code_version(define(other))


def test_what_an_object_makes_when_it_is_first_needed_does_not_count() -> None:
    before, after = Plain(client=None), Plain(client=threading.Lock(), extra=object())
    assert code_version(define(before)) == code_version(define(after))


def test_a_method_counts_with_its_instance() -> None:
    definition = define(Plain.method, "act")
    one, other = bound_to(definition, Plain(mode="a")), bound_to(definition, Plain(mode="b"))
    assert len({code_version(each) for each in (definition, one, other)}) == 3


def test_objects_that_hold_each_other_end() -> None:
    one, other = Plain(mode="a"), Plain()
    vars(one)["other"] = other
    vars(other)["one"] = one
    holding: list[Any] = []
    holding.append(holding)
    vars(one)["holding"] = holding
    assert code_version(define(one)) == code_version(define(one))


def test_objects_that_refuse_to_be_looked_at_do_not_count() -> None:
    source = """
    class Proxy:
        __slots__ = ()
        def __getattribute__(self, name):
            raise RuntimeError("working outside of a request")
    request = Proxy()
    def act(x): return request.user, x
    """
    assert not differ(source, source.replace("request.user, x", "request.user, x  # same"))
    assert differ(source, source.replace("request.user, x", "request.user, -x"))


# --- other actions --------------------------------------------------------------------------------


def test_an_action_that_is_called_as_a_function_counts() -> None:
    source = """
    from dagger_dsl import action
    @action
    def helper(x: int) -> int:
        return x + 1
    @action
    def act(x: int) -> int:
        return helper(x)
    """
    with Registry():
        one = version_of(source)
    with Registry():
        other = version_of(source.replace("+ 1", "+ 2"))
    with Registry():
        fixed = version_of(
            source.replace("@action\n    def helper", "@action(version='1')\n    def helper")
        )
    with Registry():
        edited = version_of(
            source.replace("+ 1", "+ 2").replace(
                "@action\n    def helper", "@action(version='1')\n    def helper"
            )
        )
    assert one != other
    assert fixed == edited != one


def test_the_options_of_an_action_do_not_count() -> None:
    with Registry():
        plain = action(one_way)
        timed = action(name="timed", timeout=5, tags=["a"])(one_way)
    assert plain.definition.code_version() == timed.definition.code_version()


def test_cycles_between_helpers_end() -> None:
    source = """
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    def act(n): return even(n)
    """
    assert not differ(source, f"{source}\n")
    assert differ(source, source.replace("n != 0", "n > 0"))


def test_a_thousand_helpers_in_a_chain_need_no_recursion() -> None:
    def chain(last: int) -> str:
        lines = [f"def f{n}(x): return f{n + 1}(x)" for n in range(1_000)]
        return "\n".join([*lines, f"def f1000(x): return {last}", "def act(x): return f0(x)"])

    limit = sys.getrecursionlimit()
    one, other = module(chain(1)).act, module(chain(2)).act
    sys.setrecursionlimit(250)
    try:
        assert code_version(define(one)) != code_version(define(other))
    finally:
        sys.setrecursionlimit(limit)


# --- when it is computed --------------------------------------------------------------------------


def run_script(text: str, *args: str, cwd: Path | None = None, **environment: str) -> str:
    """Return what a fresh interpreter prints."""
    root = Path(__file__).parents[2]
    paths = [str(root), *(filter(None, [str(cwd) if cwd else ""]))]
    done = subprocess.run(
        [sys.executable, *(args or ("-c", textwrap.dedent(text)))],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )
    return done.stdout.strip()


PACKAGE = """
import dataclasses
import enum
import attrs
from dagger_dsl.registry import define
from dagger_dsl.registry._version import code_version
from . import helpers

class Mode(enum.Enum):
    FAST = {"a", "b", "c"}

@attrs.frozen
class Settings:
    names: frozenset = frozenset({"x", "y", "z"})
    by: object = attrs.field(default=len, validator=attrs.validators.is_callable())

@dataclasses.dataclass(frozen=True, order=True)
class Pair:
    names: frozenset = frozenset({"x", "y", "z"})

KINDS = frozenset({"x", "y", "z"})
ALL = Settings(), Pair()

def act(x, mode=Mode.FAST):
    from .late import late
    return helpers.helper(x), late(x), mode, x in KINDS, ALL

if __name__ == "__main__":
    print(code_version(define(act)))
"""


@pytest.mark.row("C23")
def test_every_process_finds_the_same_version(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two" / "deeper"]
    found = set()
    for seed, folder in enumerate(folders):
        package = folder / "somewhere"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "helpers.py").write_text("def helper(x): return x in {'p', 'q', 'r'}")
        (package / "late.py").write_text("def late(x): return {'s', 't'}")
        (package / "actions.py").write_text("\n" * seed + PACKAGE)
        imported = "from somewhere import actions as a; print(a.code_version(a.define(a.act)))"
        hashing = {"PYTHONHASHSEED": str(seed + 1)}
        found.add(run_script("", "-m", "somewhere.actions", cwd=folder, **hashing))
        found.add(run_script(imported, cwd=folder, **hashing))
    assert len(found) == 1
    # Of another length: Python tells an edit within one second by the size alone.
    (folders[0] / "somewhere" / "late.py").write_text("def late(x): return {'s', 'other'}")
    found.add(run_script("", "-m", "somewhere.actions", cwd=folders[0]))
    assert len(found) == 2, "the package of a script that is run as its module counts too"


def test_a_script_is_a_package_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    text = (
        f"{IMPORTS}\ndef helper(x): return x + 1\ndef act(x): return helper(x)\n"
        "print(code_version(define(act)))"
    )
    script.write_text(text)
    before = run_script("", str(script))
    script.write_text(text.replace("+ 1", "+ 2"))
    assert run_script("", str(script)) != before


def test_text_given_to_exec_counts_like_any_other() -> None:
    def made(number: int) -> Any:
        names: dict[str, Any] = {}
        exec(f"def helper(x): return x + {number}\ndef act(x): return helper(x)", names)
        return names["act"]

    assert code_version(define(made(1))) == code_version(define(made(1)))
    assert code_version(define(made(1))) != code_version(define(made(2)))


def test_it_is_what_runs_and_not_what_the_file_says_by_now(tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    file.write_text("def act(x): return 1")
    names: dict[str, Any] = {"__name__": "edited"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    before = code_version(define(names["act"]))
    file.write_text("def act(x): return 2")
    assert code_version(define(names["act"])) == before


def test_it_is_kept_until_something_that_counted_is_replaced() -> None:
    found = module("RATE = 2\ndef helper(x): return x\ndef act(x): return helper(x) * RATE")
    definition = define(found.act)
    before = code_version(definition)
    assert code_version(definition) is before, "not computed again"

    # What a notebook does when a cell is run again.
    exec("def helper(x): return x + 1", vars(found))
    edited = code_version(definition)
    assert edited != before
    exec("def helper(x): return x", vars(found))
    assert code_version(definition) == before
    vars(found)["RATE"] = 3
    assert code_version(definition) not in (before, edited)


def test_an_object_that_is_configured_anew_has_another_version() -> None:
    made = Plain(mode="a", columns=["a"])
    definition = define(made)
    before = code_version(definition)
    assert code_version(definition) is before
    vars(made)["columns"].append("b")
    longer = code_version(definition)
    vars(made)["mode"] = "b"
    assert len({before, longer, code_version(definition)}) == 3


def test_neither_definitions_nor_graphs_load_what_reads_code() -> None:
    loaded = run_script(
        """
        import sys
        from dagger_dsl import DAG, action
        @action
        def act(x: int) -> int:
            return x
        with DAG("d") as dag:
            act(1)
        dag.compile()
        print("dagger_dsl.registry._version" in sys.modules)
        act.definition.code_version()
        print("dagger_dsl.registry._version" in sys.modules)
        """
    )
    assert loaded.split() == ["False", "True"]
