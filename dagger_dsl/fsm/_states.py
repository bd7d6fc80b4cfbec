"""What the states of an FSM are made of: functions, or whole workflows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import attrs

from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.graph import Node
from dagger_dsl.registry import CALL_OPTIONS, ActionDef, Registry, convert_options

if TYPE_CHECKING:
    from dagger_dsl.fsm.builder import FSM

__all__ = [
    "NOT_FOR_STATES",
    "State",
    "StateFunction",
    "blank_problem",
    "state_name",
    "workflow_options",
]

P = ParamSpec("P")
R = TypeVar("R")

#: Options of nodes that mean nothing for a state.
NOT_FOR_STATES = ("outputs", "trigger", "cache", "cache_strategy", "keep", "name")


class StateFunction(Generic[P, R]):
    """A function, or a workflow, that is a state: it stays callable; ``a >> b`` is a transition.

    Attributes:
        name: The state's name.
        fsm: The machine it belongs to.
    """

    def __init__(self, fsm: FSM, name: str, fn: Callable[P, R]) -> None:
        if isinstance(fn, Workflow):
            self.__name__ = fn.name
        else:
            functools.update_wrapper(self, fn)
        self.fsm = fsm
        self.name = name
        self._fn = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._fn(*args, **kwargs)

    def __rshift__(self, other: Any) -> Any:
        """Declare a transition to a state, or to each of a list; return the right side."""
        for each in other if isinstance(other, (list, tuple)) else (other,):
            if not isinstance(each, StateFunction):
                return NotImplemented
            self.fsm.add_transition(self, each)
        return other

    def __repr__(self) -> str:
        return f"<state {self.name!r} of {self.fsm.name!r}>"


@attrs.frozen
class State:
    """A state as it was declared.

    Attributes:
        body: The action, or the workflow.
        terminal: Whether the machine ends with it.
        transitions: The states that may come next.
        options: Of a workflow, what was said of the state: fields of a `Node`.
    """

    body: ActionDef | Workflow
    terminal: bool
    transitions: tuple[str, ...]
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def workflow(self) -> Workflow | None:
        """The workflow that it runs, None for a function."""
        return self.body if isinstance(self.body, Workflow) else None

    def action(self, registry: Registry) -> ActionDef:
        """Return what it calls, as it is now."""
        if not isinstance(self.body, Workflow):
            return self.body
        found = registry.get_workflow(self.body.name)
        assert found is not None
        return found

    def node(self, name: str) -> Node:
        """Return the node of the graph that it is."""
        if isinstance(self.body, Workflow):
            return Node(name, self.body.name, subgraph=self.body.name, **self.options)
        action, retry = self.body, self.body.retry
        return Node(
            name,
            action.name,
            timeout=action.timeout,
            try_count=action.try_count,
            on_failure=action.on_failure,
            failure=action.failure_name,
            fallback=action.fallback_name,
            retry=retry if retry is not None and retry.is_data else None,
            effects=action.effects,
            description=action.description,
        )


def workflow_options(options: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return what options of a state that is a workflow mean; handlers are registered.

    Raises:
        ConfigurationError: One means nothing for it, or has an impossible value.
    """
    found = convert_options(options, "a state that is a workflow", CALL_OPTIONS)
    retry = found.get("retry")
    if retry is not None and not retry.is_data:
        raise ConfigurationError(
            "a state that is a workflow: retry= holds data only; give classes, predicates and "
            "tenacity objects to the actions inside of it"
        )
    for role in ("failure", "fallback"):
        if isinstance(found.get(role), ActionDef):
            registry.register(found[role], replace=True)
            found[role] = found[role].name
    return found


def blank_problem(name: str, what: str) -> str | None:
    """Return why a name cannot be seen, None when it can.

    Graphs that were stored may have such names, so that `Graph` takes them.
    """
    return f"{what} is white space alone: {shown(name)}" if name.isspace() else None


def state_name(given: Any) -> str:
    """Return the name of a state that is given by it or by its function.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(given, StateFunction):
        return given.name
    if not isinstance(given, str) or not given:
        raise ConfigurationError(f"a state is named by a text or its function, not {shown(given)}")
    return given
