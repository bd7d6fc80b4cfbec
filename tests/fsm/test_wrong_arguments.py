"""What a state machine says of arguments that cannot be meant."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, DaggerError, NodeNotFound, ValidationError
from dagger_dsl.fsm import FSM, FSMContext, Machine, Transition
from dagger_dsl.model.graph import Graph
from dagger_dsl.registry import Registry


class Hostile:
    """Answers nothing that Python asks of it."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


LOOP: list[Any] = []
LOOP.append(LOOP)
NO_NAMES: tuple[Any, ...] = (None, 10**5000, b"a", [], LOOP, {}, {1}, Hostile(), [Hostile()])


@pytest.fixture(autouse=True)
def _own_registry() -> Any:
    with Registry():
        yield


def machine() -> FSM:
    fsm = FSM("m")

    @fsm.state(initial=True)
    def first() -> int:
        return 1

    @fsm.state(terminal=True)
    def last(value: int) -> int:
        return value + 1

    return fsm


def no_argument() -> bool:
    return True


def by_name_only(*, value: int) -> bool:
    return value > 0


def two(value: int, other: int) -> bool:
    return value > other


def context_first(context: FSMContext, value: int) -> bool:
    return value > 0


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: FSM(" "), "its name is white space alone: ' '"),
    (lambda: FSM("m", config=7), "^config is a DagConfig or a mapping"),  # type: ignore[arg-type]
    (lambda: machine().state(no_argument, name=" \n"), "state's name: it is white space alone"),
    (lambda: machine().add_transition("first", "last", no_argument), "called with .value."),
    (lambda: machine().add_transition("first", "last", lambda: True), "'first' -> 'last' is call"),
    (lambda: machine().add_transition("first", "last", by_name_only), "called with .value."),
    (lambda: machine().add_transition("first", "last", two), "called with .value."),
    (lambda: machine().add_transition("first", "last", context_first), "called with .value."),
    (lambda: Machine("a", transitions=[["a", "b"]]), "a transition is a Transition, not"),
    (lambda: Machine("a", transitions=LOOP), "a transition is a Transition, not"),
    (lambda: Machine("a", transitions=[Hostile()]), "a transition is a Transition, not <Hostile>"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[each[1] for each in REFUSED])
def test_what_cannot_be_meant_is_refused_where_it_is_given(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda each: type(each).__name__)
def test_what_is_no_text_names_no_state(name: Any) -> None:
    fsm = machine()
    for ask in (fsm.results, fsm.get_result, fsm.nodes.__getitem__):
        with pytest.raises(NodeNotFound, match=r"known: 'first', 'last'|did you mean"):
            ask(name)


@pytest.mark.parametrize(
    "run_id", [*NO_NAMES, "", "a\0b", "\ud800"], ids=lambda each: type(each).__name__
)
def test_what_is_no_text_names_no_run(run_id: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a run is named by its id, a text"):
        machine().resume(run_id, database_url=f"sqlite:{tmp_path / 'runs.db'}")


def test_a_large_name_of_a_run_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DaggerError, match="has no run 'xxx") as caught:
        machine().resume("x" * 1_000_000, database_url=f"sqlite:{tmp_path / 'runs.db'}")
    assert len(str(caught.value)) < 2_000


def takes_the_value(value: int) -> bool:
    return value == 1


def takes_both(value: int, context: FSMContext) -> bool:
    return value == 1 and context.metadata is not None


def takes_both_by_name(value: int, *, context: FSMContext) -> bool:
    return value == 1 and context.metadata is not None


def takes_the_context(context: FSMContext) -> bool:
    return context.metadata is not None


def takes_more_by_default(value: int, least: int = 1) -> bool:
    return value >= least


@pytest.mark.parametrize(
    "condition",
    [
        takes_the_value,
        takes_both,
        takes_both_by_name,
        takes_the_context,
        takes_more_by_default,
        lambda value: value == 1,
    ],
)
def test_a_condition_may_take_the_value_and_the_context(condition: Any) -> None:
    fsm = machine()
    fsm.add_transition("first", "last", condition)
    assert fsm.run() == 2


@pytest.mark.parametrize("named", [no_argument, two])
def test_a_named_condition_that_takes_no_value_is_found_by_validation(named: Any) -> None:
    fsm = machine()
    fsm.registry.register(named, "check")
    fsm.add_transition("first", "last", "check")
    said = "condition 'check' of 'first' -> 'last' is called with one value"
    with pytest.raises(ValidationError, match=said):
        fsm.validate()


def test_many_states_and_transitions_take_time_in_proportion() -> None:
    count = 20_000
    fsm = FSM("m")
    fsm.state(no_argument, name="only", initial=True)
    begun = time.monotonic()
    for number in range(count):
        fsm.add_transition("only", f"s{number}")
    drawn = [Transition(f"s{number}", f"s{number + 1}") for number in range(count)]
    leaving = Machine("s0", transitions=drawn).leaving()
    assert time.monotonic() - begun < 20.0
    assert len(leaving) == count
    assert leaving["s7"] == [Transition("s7", "s8")]


def test_machines_in_machines_are_looked_at_once_for_each_level() -> None:
    inner = FSM("m")

    @inner.state(initial=True, terminal=True)
    def only() -> int:
        return 2

    for level in range(22):
        outer = FSM(f"m{level}")
        outer.state(inner, name="inner", initial=True, terminal=True)
        inner = outer
    begun = time.monotonic()
    assert inner.run() == 2
    assert time.monotonic() - begun < 15.0  # each level took twice the time of the one inside


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"initial": None}, "a machine needs 'initial'"),
        ({"initial": "a", "transitions": [[None, "a"]]}, "a transition needs 'source'"),
        (
            {"initial": "a", "transitions": [{"source": "a", "target": None}]},
            "a transition needs 'target'",
        ),
    ],
)
def test_a_file_that_says_null_is_told_what_is_needed(plain: dict[str, Any], message: str) -> None:
    document = {"name": "m", "nodes": [{"id": "a", "action": "f"}], "machine": plain}
    with pytest.raises(DaggerError, match=message):
        Graph.from_yaml(json.dumps(document))
