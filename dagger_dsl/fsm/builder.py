"""`FSM`: state machines built of decorated functions.

An FSM is a draft, as a DAG is; `FSM.compile` turns it into a `Graph` with a `Machine`, and the one
engine runs that. States, conditions and hooks are registered as ``<fsm>.<function>``, so that a run
can be resumed by whoever has the FSM's registry.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import attrs

from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import (
    ConfigurationError,
    NodeNotFound,
    NotExecuted,
    ResultNotFound,
    UnknownInputError,
    did_you_mean,
    shown,
)
from dagger_dsl.fsm._states import (
    NOT_FOR_STATES,
    State,
    StateFunction,
    blank_problem,
    state_name,
    workflow_options,
)
from dagger_dsl.model.config import DagConfig, RunOptions, as_config
from dagger_dsl.model.graph import Graph, Node, check_texts, id_problem, title_problem, words
from dagger_dsl.model.history import FSMContext
from dagger_dsl.model.lifecycle import callback, is_awaited
from dagger_dsl.model.machine import DEFAULT_MAX_CYCLES, Machine, Transition
from dagger_dsl.registry import ActionDef, Registry, as_registry, define

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.history import StateHistory

__all__ = ["FSM", "StateFunction"]

P = ParamSpec("P")
R = TypeVar("R")


class FSM(Workflow):
    """A finite state machine that is being built, and the way to run it.

    A run begins in the initial state. What a state returns decides where it goes: ``Next("paid",
    order)`` or ``FSMReturn(next_state="paid", value=order)`` name the next state; a plain value
    takes the transition whose condition holds for it, or the only one without a condition; in a
    terminal state, or with ``FSMReturn(stop=True)``, it ends the machine.

    A state's parameters are filled by their names: from the previous state's value when that is a
    mapping with that key, else from the inputs of the run, else by their default. One required
    parameter that is left over gets the whole value; so does the only required one, whatever it is
    called, when the value is no mapping (or it is annotated as one).

    Args:
        name: What it is called.
        max_cycles: Calls of states that one run may make.
        history_limit: How many cycles, the newest, a run keeps in memory with their results; None
            keeps all.
        registry: Where names of actions are looked up; the one in force by default. The machine's
            own functions are known to it anyway.
        description, author, version: For people.
        tags: Words to find it by.
        config: How it wants to be run: a `DagConfig` or a mapping of its fields.

    Raises:
        ConfigurationError: One of these cannot work.
    """

    def __init__(
        self,
        name: str = "fsm",
        *,
        max_cycles: int = DEFAULT_MAX_CYCLES,
        history_limit: int | None = None,
        registry: Any = None,
        description: str = "",
        author: str = "",
        version: str = "",
        tags: Iterable[str] = (),
        config: DagConfig | Mapping[str, Any] | None = None,
    ) -> None:
        fault = title_problem(name, "a state machine") or blank_problem(name, "its name")
        if fault is not None:
            raise ConfigurationError(fault)
        self.name = name
        texts = {"description": description, "author": author, "version": version}
        check_texts(f"FSM {name!r}", texts)
        self._texts = texts
        self.tags = words(tags)
        self.config = as_config(config)
        # Checked here rather than with the first run.
        Machine("x", max_cycles=max_cycles, history_limit=history_limit)
        self.max_cycles = max_cycles
        self.history_limit = history_limit
        #: Where the states, conditions and hooks are looked up: its own first.
        self.registry = Registry(parent=as_registry(registry))
        self._states: dict[str, State] = {}
        self._initial: str | None = None
        self._drawn: dict[Transition, None] = {}  # in order
        self._hooks: list[Callable[..., Any]] = []
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        many = len(self._states)
        return f"<FSM {self.name!r}: {many} {'state' if many == 1 else 'states'}>"

    # --- building --------------------------------------------------------------------------------

    @overload
    def state(
        self,
        fn: Workflow,
        /,
        *,
        name: str | None = ...,
        initial: bool = ...,
        terminal: bool = ...,
        transitions: Iterable[str | StateFunction[..., Any]] = ...,
        **options: Any,
    ) -> StateFunction[..., Any]: ...
    @overload
    def state(
        self,
        fn: Callable[P, R],
        /,
        *,
        name: str | None = ...,
        initial: bool = ...,
        terminal: bool = ...,
        transitions: Iterable[str | StateFunction[..., Any]] = ...,
        **options: Any,
    ) -> StateFunction[P, R]: ...
    @overload
    def state(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = ...,
        initial: bool = ...,
        terminal: bool = ...,
        transitions: Iterable[str | StateFunction[..., Any]] = ...,
        **options: Any,
    ) -> Callable[[Callable[P, R]], StateFunction[P, R]]: ...
    def state(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        initial: bool = False,
        terminal: bool = False,
        transitions: Iterable[Any] = (),
        **options: Any,
    ) -> Any:
        """Make a function a state: ``@fsm.state``, ``@fsm.state(initial=True, timeout=3)``.

        Defining a state again, as a notebook does when its cell runs again, replaces it.

        A state may also be a workflow, a DAG or another machine: ``fsm.state(dag, name="work",
        transitions=["done"])``. Each time it is entered it is a run of its own, with the id
        ``<run>/<state>/<cycle>``, that is resumed with the machine. Its inputs are filled as the
        parameters of a state are. Its value takes the declared transitions, unless it is an
        `FSMReturn` or a `Next`.

        Args:
            fn: The function, sync or async, or the workflow.
            name: The state's name; the function's or the workflow's by default.
            initial: A run begins here.
            terminal: The machine ends with this state.
            transitions: The states that may come next; none leaves it to what the state answers.
            **options: Those of ``@action``: timeout, retry, attempts, on_failure, failure,
                fallback, effects, store, input_schema, output_schema... Of a workflow these are
                timeout (of the whole run), retry, attempts, on_failure, failure, fallback, effects
                and description.

        Raises:
            ConfigurationError: An option is unknown, or has an impossible value.
            ValidationError: The name cannot be one.
            RegistryError: Another state is another workflow of that workflow's name.
            CycleError: The workflow is this machine.
        """
        for flag, value in (("initial", initial), ("terminal", terminal)):
            if not isinstance(value, bool):
                raise ConfigurationError(f"@fsm.state: {flag} is True or False, not {shown(value)}")
        for option in NOT_FOR_STATES:
            if option in options:
                raise ConfigurationError(f"@fsm.state: a state has no option {option!r}")
        if isinstance(transitions, (str, bytes)) or not isinstance(transitions, Iterable):
            raise ConfigurationError(
                f"@fsm.state: transitions are a list of states, not {shown(transitions)}"
            )
        ways = tuple(state_name(each) for each in transitions)

        def decorate(function: Callable[..., Any]) -> StateFunction[..., Any]:
            is_workflow = isinstance(function, Workflow)
            definition = None if is_workflow else define(function, **options)
            if definition is not None and definition.style == "workflow":
                raise ConfigurationError(
                    "@fsm.state: give the workflow itself, and its options beside it: "
                    f"fsm.state({definition.name}, timeout=3)"
                )
            named = function if definition is None else definition
            given = named.name if name is None else name  # type: ignore[union-attr]
            fault = id_problem(given) or blank_problem(given, "it")
            if fault is not None:
                raise ConfigurationError(f"FSM {self.name!r}: a state's name: {fault}")
            if initial and self._initial not in (None, given):
                raise ConfigurationError(
                    f"FSM {self.name!r} begins in {self._initial!r} already, so {given!r} cannot "
                    "be its initial state, too"
                )
            if definition is None:
                made = self._take_in(function, given, terminal, ways, options)
            else:
                action = self._register(definition, given)
                for each in (action.failure, action.fallback):
                    if isinstance(each, ActionDef):
                        self.registry.register(each, replace=True)
                made = State(action, terminal, ways)
            if initial:
                self._initial = given
            elif self._initial == given:
                self._initial = None
            self._states[given] = made
            self._graph = None
            return StateFunction(self, given, function)

        return decorate if fn is None else decorate(fn)

    def _take_in(
        self,
        workflow: Any,
        name: str,
        terminal: bool,
        ways: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> State:
        if workflow is self:
            from dagger_dsl.registry._workflow import nested_in_itself

            raise nested_in_itself([self.name, self.name])
        made = State(workflow, terminal, ways, workflow_options(options, self.registry))
        others = [each.workflow for state, each in self._states.items() if state != name]
        taken = any(each is not None and each.name == workflow.name for each in others)
        self.registry.register_workflow(workflow, replace=not taken)
        return made

    def _register(self, definition: ActionDef, name: str) -> ActionDef:
        made = define(definition, f"{self.name}.{name}")
        self.registry.register(made)
        return made

    def add_transition(
        self,
        source: str | StateFunction[..., Any],
        target: str | StateFunction[..., Any],
        condition: Callable[..., Any] | str | None = None,
    ) -> None:
        """Declare that one state may follow another; a state with declared ones goes no other way.

        Args:
            source, target: States, by their name or their function.
            condition: Called with the plain value that *source* returned (and with the context,
                where it has a parameter for it); the first transition whose condition holds is
                taken, in the order in which they were added, else the only one without a condition.
                Not asked where a state names the next one. A name is looked up in the registry.

        Raises:
            ConfigurationError: One of them cannot be one.
        """
        ends = state_name(source), state_name(target)
        name: str | None = None
        if isinstance(condition, str):
            name = condition
        elif condition is not None:
            if not callable(condition):
                raise ConfigurationError(
                    f"a condition is a function of the value, or an action's name, not "
                    f"{shown(condition)}"
                )
            # A lambda has no name of its own; a new one for the same way takes its place.
            nameless = getattr(condition, "__name__", "<lambda>") == "<lambda>"
            definition = define(condition, f"{ends[0]}-{ends[1]}" if nameless else None)
            _check_condition(condition, definition, ends)
            name = self._register(definition, definition.name).name
        made = Transition(*ends, name)
        self._drawn.setdefault(made)
        self._graph = None

    def add_state_hook(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Have a function called with each transition: ``hook(fsm, from_state, to_state, result)``.

        It is called once per transition, after the state has been called and before its result is
        recorded, sync or async, in the order in which hooks were added. None keeps the transition,
        the name of a state redirects it, and `TransitionRejected` refuses it: the state that was to
        be left fails then. Also a decorator.

        Raises:
            ConfigurationError: It cannot be called so.
        """
        callback(hook, "a state hook", ("fsm", "from_state", "to_state", "result"))
        if hook not in self._hooks:
            self._hooks.append(hook)
        self._graph = None
        return hook

    def _hook_action(self) -> str | None:
        """Register what calls the state hooks and return its name; None where there are none."""
        if not self._hooks:
            return None
        hooks = tuple(self._hooks)

        def on_transition(context: Any, left: str, entered: str, result: Any) -> str | None:
            chosen = None
            for hook in hooks:
                answer = hook(self, left, entered, result)
                if answer is not None:
                    chosen = entered = answer
            return chosen

        async def on_transition_async(
            context: Any, left: str, entered: str, result: Any
        ) -> str | None:
            chosen = None
            for hook in hooks:
                answer = hook(self, left, entered, result)
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer is not None:
                    chosen = entered = answer
            return chosen

        waits = any(map(is_awaited, hooks))
        made = define(on_transition_async if waits else on_transition, f"{self.name}.on_transition")
        self.registry.register(made, replace=True)
        return made.name

    def register_all(self) -> None:
        """Have the function that calls the state hooks in the registry, too."""
        self._hook_action()

    @property
    def states(self) -> Mapping[str, Node]:
        """The states by name, in declaration order."""
        return self.compile().nodes

    @property
    def nodes(self) -> Mapping[str, Any]:
        """The states by name; an unknown one lists those that there are."""
        return _States(self.states)

    def compile(self) -> Graph:
        """Return the graph as it is built so far.

        Raises:
            ConfigurationError: No state is marked ``initial=True``.
        """
        if self._graph is None:
            if self._initial is None:
                what = "has no states yet" if not self._states else "does not say where it begins"
                raise ConfigurationError(
                    f"FSM {self.name!r} {what}; mark one state: @fsm.state(initial=True)"
                )
            drawn = [
                Transition(name, target)
                for name, each in self._states.items()
                for target in each.transitions
            ]
            self._graph = Graph(
                self.name,
                [each.node(name) for name, each in self._states.items()],
                config=self.config,
                tags=self.tags,
                machine=Machine(
                    self._initial,
                    [name for name, each in self._states.items() if each.terminal],
                    [*drawn, *self._drawn],
                    self.max_cycles,
                    self.history_limit,
                    self._hook_action(),
                ),
                description=self._texts["description"],
                author=self._texts["author"],
                version=self._texts["version"],
            )
        return self._graph

    def validate(self) -> Any:
        """Look for everything that is wrong before anything runs; see `Graph.validate`."""
        return self.compile().validate(self.registry)

    # --- running ---------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the machine and return the value of its last state.

        Args:
            inputs: What the run is given, by name.
            **options: Those of `RunOptions` (see `Workflow.run`), among them max_cycles, context
                and mode. Any other keyword is initial data, when the initial state takes it.

        Raises:
            MaxCyclesExceeded: It has not ended after max_cycles cycles; it can be resumed.
            NodeExecutionError: A state failed and nothing handled it; a `TransitionError` is its
                cause where it did not say where to go.
            ValidationError, InputError, ConfigurationError: Nothing has run.
            RunPaused, RunCancelled, ExecutionTimeout: The run did not end by itself.
        """
        given, settings = self._sorted(inputs, options)
        return super().run(given, **settings)

    async def run_async(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the machine on the running event loop; see `run`."""
        given, settings = self._sorted(inputs, options)
        return await super().run_async(given, **settings)

    def start(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> RunHandle:
        """Start a run in the background and return its `RunHandle`; see `run`."""
        given, settings = self._sorted(inputs, options)
        return super().start(given, **settings)

    def resume(self, run_id: str, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Go on with a recorded run in the state where it stands, and return its last value.

        Args:
            run_id: The run.
            inputs: Secrets, which are never stored.
            **options: Those of `RunOptions`; ``database_url`` says where the run is recorded, and
                ``max_cycles`` may allow more cycles than before.

        Raises:
            RunNotFound, RunOwned: It is not there, or a live process has it.
        """
        from dagger_dsl import engine

        _check_context(options)
        chosen = self._run_options(options)
        self.register_all()
        report = self.report = engine.resume(run_id, self.registry, chosen, inputs)
        return self._answer(report, chosen)

    def _sorted(
        self,
        inputs: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
    ) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
        """Return the inputs and the options of a run that keywords are.

        Raises:
            UnknownInputError: A keyword is neither an option nor taken by the initial state.
        """
        found = {name: value for name, value in keywords.items() if name in _RUN_OPTIONS}
        data = {name: value for name, value in keywords.items() if name not in _RUN_OPTIONS}
        if data:
            self._check_data(data)
            if inputs is not None and not isinstance(inputs, Mapping):
                raise ConfigurationError(
                    f"inputs are a mapping of names to values, not {shown(inputs)}"
                )
            twice = [name for name in data if name in (inputs or {})]
            if twice:
                raise ConfigurationError(f"{twice[0]!r} is given in inputs= and as a keyword")
            inputs = {**(inputs or {}), **data}
        _check_context(found)
        return inputs, found

    def _check_data(self, data: Mapping[str, Any]) -> None:
        initial = self.compile().machine
        assert initial is not None
        action = self._states[initial.initial].action(self.registry)
        names = [each.name for each in action.params]
        for name in data:
            if name not in names and not action.takes_any_input:
                hint = did_you_mean(name, [*names, *_RUN_OPTIONS])
                raise UnknownInputError(
                    f"{shown(name)} is no run option, and the initial state "
                    f"{initial.initial!r} of {self.name!r} has no such parameter{hint}"
                )

    def _result_of(self, report: RunReport) -> Any:
        return super()._result_of(report) if report.sinks else None

    # --- what the last run came to ---------------------------------------------------------------

    @property
    def context(self) -> FSMContext:
        """What the states of the last run shared, also while it goes on.

        Raises:
            NotExecuted: There was no run.
        """
        found: FSMContext = super().context  # type: ignore[assignment]  # a machine's runs have it
        return found

    @property
    def _history(self) -> StateHistory | None:
        found: StateHistory | None = None if self._run is None else self._run.history
        return found

    @property
    def state_history(self) -> list[str]:
        """The states that the last run was in, first to last."""
        return [] if self._history is None else self._history.names

    @property
    def current_state(self) -> str | None:
        """The state that the last run is in, or ended in; None before the first run."""
        return None if self._history is None else self._history.current

    @property
    def is_terminated(self) -> bool:
        """Whether the last run ended by itself: in a terminal state, or with ``stop=True``."""
        return self._history is not None and self._history.is_terminated

    def results(self, state: str) -> list[Any]:
        """Return the results of one state in the last run, oldest first.

        Raises:
            NodeNotFound: There is no such state.
            NotExecuted: An earlier process had one of them and did not store it (``store=False``).
        """
        self._check_state(state)
        return [] if self._history is None else self._history.results(state)

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, str) or state not in self._states:
            raise NodeNotFound(state, tuple(self._states))

    def get_result(self, node_id: str, default: Any = ...) -> Any:
        """Return a state's newest result in the last run, or one of its results by its number.

        Args:
            node_id: A state, or a state and a number, counted from 0: ``"processing.0"``.
            default: Returned when there is none; without it that is an error.

        Raises:
            NotExecuted: The last run has not completed the state, or an earlier process had the
                result and did not store it (``store=False``).
            ResultNotFound: It has fewer results than that, or let this one go.
            NodeNotFound: There is no such state.
        """
        state, dot, number = (
            node_id.partition(".") if isinstance(node_id, str) else (node_id, "", "")
        )
        self._check_state(state)
        history = self._history
        if dot:
            return self._numbered(state, number, default)
        try:
            if history is not None:
                return history.latest(state)
        except KeyError:
            pass
        except NotExecuted:
            if default is ...:
                raise
        if default is not ...:
            return default
        why = "run the machine first" if history is None else "it has not completed in the last run"
        raise NotExecuted(f"state {state!r} has no result: {why}")

    def _numbered(self, state: str, number: str, default: Any) -> Any:
        if not number.isdecimal() or len(number) > 18:
            raise ConfigurationError(
                f"a result is named 'state' or 'state.<number>', not {shown(f'{state}.{number}')}"
            )
        history = self._history
        kept = 0 if history is None else history.kept(state)
        dropped = 0 if history is None else history.dropped(state)
        place = int(number) - dropped
        if history is not None and 0 <= place < kept:
            try:
                return history.result(state, place)
            except NotExecuted:
                if default is ...:
                    raise
                return default
        if default is not ...:
            return default
        total = kept + dropped
        if 0 <= int(number) < dropped:
            raise ResultNotFound(
                f"result {number} of state {state!r} was let go: history_limit keeps the newest "
                f"{self.history_limit} cycles; {kept} of its {total} results are left"
            )
        raise ResultNotFound(
            f"state {state!r} has {total} result{'' if total == 1 else 's'}, counted from 0, so "
            f"there is no {state}.{number}"
        )


class _States(dict[str, Node]):
    """The states of a machine; an unknown one lists those that there are."""

    def __getitem__(self, name: str) -> Node:
        found = self.get(name) if isinstance(name, str) else None
        if found is None:
            raise NodeNotFound(name, tuple(self))
        return found


def _check_condition(condition: Any, definition: ActionDef, ends: tuple[str, str]) -> None:
    """Refuse a condition that cannot be called with a value, and with the context by its name.

    Raises:
        ConfigurationError: It is one.
    """
    name = definition.context_param
    if name is not None:
        if not definition.params:
            return  # it looks at the context alone
        condition = functools.partial(condition, **{name: None})
    callback(condition, f"the condition of {ends[0]!r} -> {ends[1]!r}", ("value",))


# Keywords of `run` that are no initial data.
_RUN_OPTIONS = frozenset(
    ("mode", *(each.name for each in attrs.fields(RunOptions) if not each.name.startswith("_")))
)


def _check_context(options: Mapping[str, Any]) -> None:
    context = options.get("context")
    if context is not None and not isinstance(context, FSMContext):
        raise ConfigurationError(
            f"the context of a state machine is an FSMContext, not {shown(context)}"
        )
