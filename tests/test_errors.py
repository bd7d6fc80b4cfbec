"""Every error derives from `DaggerError`, survives pickling, and says what to do."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from typing import Any

import pytest

from dagger_dsl import errors
from dagger_dsl.errors import (
    ActionNotFound,
    CycleError,
    DaggerError,
    DagNotFound,
    ExecutionTimeout,
    NodeAlreadyExists,
    NodeExecutionError,
    NodeNotFound,
    Place,
    Problem,
    ValidationError,
    YamlError,
    cut,
    did_you_mean,
    shown,
    visible,
)

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, BaseException) and each.__module__ == errors.__name__
]

PROBLEM = Problem("found this, expected that", Place("a.yaml", 3, 5), "some-code")

#: Arguments of the classes that take more than a message.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "CycleError": (["a", "b", "a"],),
    "NodeAlreadyExists": ("fetch",),
    "DagNotFound": ("pipline", ["pipeline", "other"]),
    "NodeNotFound": ("fetsh", ["fetch", "load"]),
    "NodeExecutionError": ("fetch", 3, "ValueError: bad row"),
    "NodeTimeout": ("fetch", 1.5),
    "ExecutionTimeout": ("run_001", 300.0),
    "NodeCrashed": ("fetch", 3),
    "ProcessDied": ("fetch", -11),
    "MapError": ("fetch", "3", "ValueError: bad row"),
    "MaxCyclesExceeded": (3, ("idle", "busy", "idle")),
    "RunCancelled": ("run_001", "enough"),
    "RunPaused": ("run_001", "review"),
    "KeyTaken": ("run_001", "order-7"),
    "RunOwned": ("run_001", "host:4711"),
    "MissingExtra": ("rendering", "viz"),
    "CircuitBreakerOpenError": ("fetch", 5, 1_700_000_000.0, 1_700_000_060.0),
    "ResourceExhausted": ("node 'a'", 2, 1, "task 't'"),
    "ResourceTimeout": (2.5, 10),
}


def make(kind: type[DaggerError]) -> DaggerError:
    """Return an error of a class."""
    if kind.__name__ in ARGUMENTS:
        return kind(*ARGUMENTS[kind.__name__])
    return kind((PROBLEM,)) if issubclass(kind, ValidationError) else kind("what happened")


@pytest.mark.row("H4")
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_dagger_error(kind: type[BaseException]) -> None:
    assert issubclass(kind, DaggerError)
    assert kind.__name__ in errors.__all__
    assert kind.__doc__


def test_the_tree_is_public_as_a_whole() -> None:
    assert sorted(errors.__all__) == list(errors.__all__)
    public = {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))}
    assert {each.__name__ for each in CLASSES} | {"Place", "Problem"} == public


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles_with_its_data(kind: type[DaggerError], protocol: int) -> None:
    error = make(kind)
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_message_says_something(kind: type[DaggerError]) -> None:
    text = str(make(kind))
    assert text
    assert "(" not in text.split(" ")[0]  # not the repr of its arguments


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("CycleError", "remove one of these edges"),
        ("NodeAlreadyExists", "give the new one another id"),
        ("DagNotFound", "did you mean 'pipeline'?"),
        ("NodeNotFound", "did you mean 'fetch'?"),
        ("NodeTimeout", "raise timeout="),
        ("ExecutionTimeout", "finished nodes are kept"),
        ("NodeCrashed", "not started again"),
        ("RunPaused", "resume it by its id"),
        ("RunOwned", "stop that process first"),
        ("MissingExtra", "pip install 'dagger-dsl[viz]'"),
    ],
)
def test_messages_name_the_way_out(kind: str, way_out: str) -> None:
    assert way_out in str(make(getattr(errors, kind)))


@pytest.mark.row("H1")
def test_timeouts_are_caught_as_timeouts() -> None:
    for kind in (errors.ExecutionTimeout, errors.NodeTimeout):
        assert issubclass(kind, TimeoutError)
        assert issubclass(kind, asyncio.TimeoutError)
    error = ExecutionTimeout("r", 2.0)
    assert (error.run_id, error.seconds) == ("r", 2.0)


def test_errors_also_are_the_builtin_they_specialise() -> None:
    expected = {
        LookupError: [
            "DependencyNotFound",
            "ActionNotFound",
            "DagNotFound",
            "NodeNotFound",
            "MissingInputError",
            "InputResolutionError",
            "NotExecuted",
            "RunNotFound",
            "ArtifactNotFound",
            "SnapshotNotFound",
        ],
        ValueError: ["ConfigurationError", "RegistryError", "ValidationError", "InputError"],
        TypeError: ["TypeMismatch", "EncodingError"],
        IndexError: ["ResultNotFound"],
        ImportError: ["MissingExtra"],
    }
    for builtin, names in expected.items():
        for name in names:
            assert issubclass(getattr(errors, name), builtin), name


@pytest.mark.row("H2")
def test_validation_errors_list_every_problem() -> None:
    problems = [PROBLEM, Problem("another", Place(node="fetch"), "other")]
    error = ValidationError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == (
        "2 problems:\n  a.yaml:3:5: found this, expected that\n  node 'fetch': another"
    )
    assert isinstance(error, ValueError)
    assert str(YamlError([PROBLEM])) == "a.yaml:3:5: found this, expected that"
    assert ValidationError("just words").problems == (Problem("just words"),)


def test_a_cycle_is_printed_and_kept() -> None:
    error = CycleError(["a", "b", "a"])
    assert "a -> b -> a" in str(error)
    assert error.path == ("a", "b", "a")
    assert error.problems[0].code == "cycle"


def test_a_long_cycle_is_cut_in_its_message_only() -> None:
    path = [f"n{i}" for i in range(1000)] + ["n0"]
    error = CycleError(path)
    assert "..." in str(error)
    assert len(str(error)) < 400
    assert error.path == tuple(path)


@pytest.mark.row("A52")
def test_a_missing_dag_is_named_with_those_that_are_known() -> None:
    error = DagNotFound("nightly", ["billing", "export"])
    assert str(error) == "DAG not found: 'nightly'; known: 'billing', 'export'"
    assert "load a file or create_dag()" in str(DagNotFound("nightly"))


@pytest.mark.row("H3", "H5")
def test_a_users_error_is_chained_never_flattened() -> None:
    original = ZeroDivisionError("division by zero")
    error = NodeExecutionError("divide", 2, "ZeroDivisionError: division by zero")
    error.__cause__ = original
    assert error.__cause__ is original
    assert (error.node_id, error.attempts) == ("divide", 2)
    assert "2 attempts" in str(error)
    assert "1 attempt:" in str(NodeExecutionError("divide", 1, "x"))
    assert isinstance(error, errors.ExecutionError)


def test_ids_are_kept_beside_the_message() -> None:
    assert NodeAlreadyExists("a").node_id == "a"
    assert NodeNotFound("a", ["b"]).known == ("b",)
    assert isinstance(ActionNotFound([PROBLEM]), LookupError)


def test_places_say_where_in_the_shortest_way() -> None:
    assert str(Place("a.yaml", 3, 5)) == "a.yaml:3:5"
    assert str(Place("a.yaml", 3)) == "a.yaml:3"
    assert str(Place(line=2, column=1)) == "<text>:2:1"
    assert str(Place(node="n")) == "node 'n'"
    assert str(Place(path="$.nodes[2]")) == "$.nodes[2]"
    assert str(Place()) == "graph"


def test_places_and_problems_are_values() -> None:
    assert {Place("a", 1), Place("a", 1)} == {Place("a", 1)}
    assert Problem("x") == Problem("x")
    assert Problem("x") != Problem("x", severity="warning")
    assert len({PROBLEM, Problem("x")}) == 2
    assert repr(PROBLEM) == "Problem('a.yaml:3:5: found this, expected that')"
    assert pickle.loads(pickle.dumps(PROBLEM)) == PROBLEM


def test_suggestions() -> None:
    assert did_you_mean("fetsh", ["fetch", "load"]) == "; did you mean 'fetch'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: 'a', 'b'"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", map(str, range(12))).endswith("and 2 more")


class Rude:
    """An object that does not want to be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


@pytest.mark.parametrize("word", [5, None, [], Rude(), "\ud800", "x" * 100_000])
def test_messages_about_anything_can_be_read(word: Any) -> None:
    assert did_you_mean(word, ["load", 3, None]) == "; known: 'load'"
    for error in (NodeNotFound(word, ("load",)), DagNotFound(word, ("load",))):
        assert len(str(error)) < 300


def test_values_are_shortened_in_messages() -> None:
    assert shown("abc") == "'abc'"
    assert shown(Rude()) == "<Rude>"
    assert cut("x" * 10, 10) == "x" * 10
    for long in ("x" * 100_000, b"x" * 100_000, list(range(10_000))):
        assert len(shown(long)) <= 200
        assert "..." in shown(long)


def test_an_errors_text_cannot_steer_a_terminal() -> None:
    assert visible("a\tb\nc é") == "a\tb\nc é"
    assert visible("\x1b[31m\r\u202e\ud800") == "\\x1b[31m\\r\\u202e\\ud800"
    error = NodeExecutionError("fetch", 1, "\x1b[2J" + "x" * 100_000)
    assert "\\x1b[2J" in str(error)
    assert len(str(error)) < 2_100
    assert error.reason.startswith("\x1b")
