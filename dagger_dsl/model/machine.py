"""`Machine`: what makes a graph a state machine, and what its states answer.

The nodes of such a graph are states. None waits for another one: after each call one state is
chosen to come next, so the transitions, which may form cycles, stand here and not among the
dependencies of the nodes. Like the rest of the IR it is data: conditions and hooks are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.policies import whole_number

__all__ = ["DEFAULT_MAX_CYCLES", "FSMReturn", "Machine", "Next", "Transition"]

#: Cycles of a run where nothing else is said.
DEFAULT_MAX_CYCLES = 1000

#: Reports of nested runs that a run keeps; each is some kilobytes.
_MOST_RUNS = 100

#: More calls than any run makes, and than the keys of invocations have room for.
_MOST_CYCLES = 10**15


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is a name, a text that is not empty, not {shown(value)}")
    return value


@attrs.frozen
class Transition:
    """A way from one state to the next.

    Attributes:
        source: The state it leaves.
        target: The state it leads to.
        condition: Name of an action that says whether a plain value takes this way: it is called
            with the value, and with the context where it asks for one. None always does.

    Raises:
        ConfigurationError: One of them is no name.
    """

    source: str = attrs.field()
    target: str = attrs.field()
    condition: str | None = attrs.field(default=None)

    @source.validator
    @target.validator
    @condition.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None or attribute.name != "condition":
            _name(value, f"a transition's {attribute.name}")


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"terminal is a list of states, not {shown(value)}")
    return tuple(dict.fromkeys(_name(each, "a terminal state") for each in value))


def _transitions(value: Any) -> tuple[Transition, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"transitions are a list of Transition, not {shown(value)}")
    found = tuple(value)
    for each in found:
        if not isinstance(each, Transition):
            raise ConfigurationError(f"a transition is a Transition, not {shown(each)}")
    return tuple(dict.fromkeys(found))


def _initial(value: Any) -> str:
    return _name(value, "the initial state")


def _hook(value: Any) -> str | None:
    return None if value is None else _name(value, "a machine's hook")


def _limit(value: Any) -> int:
    return whole_number(value, "max_cycles", most=_MOST_CYCLES)


def _history(value: Any) -> int | None:
    return None if value is None else whole_number(value, "history_limit", least=0)


@attrs.frozen
class Machine:
    """What makes a graph a state machine; see `Graph.machine`.

    Attributes:
        initial: The state that a run begins in.
        terminal: States whose call ends the run.
        transitions: The ways from state to state. A state that has any goes no other way; one that
            has none goes where its answer says.
        max_cycles: Calls of states that one run may make.
        history_limit: How many cycles, the newest, are kept in memory with their results; None
            keeps all. A database keeps all in any case.
        hook: Name of an action that is called with every transition: with the context, the state
            that is left, the next one and the value. It answers None, or the name of another
            next state.

    Raises:
        ConfigurationError: One of them cannot be one.
    """

    initial: str = attrs.field(converter=_initial)
    terminal: tuple[str, ...] = attrs.field(default=(), converter=_names)
    transitions: tuple[Transition, ...] = attrs.field(default=(), converter=_transitions)
    max_cycles: int = attrs.field(default=DEFAULT_MAX_CYCLES, converter=_limit)
    history_limit: int | None = attrs.field(default=None, converter=_history)
    hook: str | None = attrs.field(default=None, converter=_hook)

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that it calls beside its states: its conditions, its hook."""
        names = (*(each.condition for each in self.transitions), self.hook)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def kept_runs(self) -> int:
        """How many runs nested in its states, the newest, a report has: 100, or `history_limit`.

        At least the newest one. A database keeps all: they are the runs whose ``parent`` is the
        machine's.
        """
        limit = _MOST_RUNS if self.history_limit is None else self.history_limit
        return max(1, min(limit, _MOST_RUNS))

    def leaving(self) -> dict[str, list[Transition]]:
        """Return the transitions by the state they leave, in the order they were declared in."""
        found: dict[str, list[Transition]] = {}
        for each in self.transitions:
            found.setdefault(each.source, []).append(each)
        return found


@attrs.define
class FSMReturn:
    """What a state answers when a bare value does not say enough.

    Attributes:
        next_state: Name of the state that comes next. None leaves it to the declared transitions.
        value: The state's result, from which the next one takes its parameters.
        stop: End the machine with this state, whether it is a terminal one or not.
    """

    next_state: str | None = None
    value: Any = None
    stop: bool = False


class Next(FSMReturn):
    """An `FSMReturn` that names the next state, in short: ``return Next("paid", order)``."""

    __slots__ = ()

    def __init__(self, state: str, value: Any = None) -> None:
        super().__init__(state, value)
