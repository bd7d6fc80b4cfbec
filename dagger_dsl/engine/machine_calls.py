"""The calls of a machine's states: what they are given, and where their answer leads.

A worker makes such a call, takes the decision that comes of it and has the state hook look at it,
all before the outcome is delivered: what is refused then fails the invocation and is not recorded,
and where a hook leads elsewhere, that is recorded with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, get_origin

from dagger_dsl.engine.machine import END, MachineState, Move
from dagger_dsl.engine.plan import Plan
from dagger_dsl.engine.state import PENDING
from dagger_dsl.errors import (
    DaggerError,
    InputResolutionError,
    MissingInputError,
    TransitionError,
    UnknownInputError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.context import Branch, NodeOutput
from dagger_dsl.model.machine import FSMReturn, Next
from dagger_dsl.model.types import asks_for_secret
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.base import ANSWERS

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = [
    "bind_state",
    "check_machine_inputs",
    "deciding",
    "lost",
    "note_inputs",
    "settle",
    "state_inputs",
]

_RETURNS: Final = frozenset((FSMReturn, Next))
#: Styles of actions whose parameters are filled one by one.
_BY_NAME: Final = frozenset(("function", "workflow"))
_NOTHING: Final[Mapping[str, Any]] = {}
#: Values that are no mappings, so that nobody has to look closer.
_ATOMS: Final = frozenset((int, float, str, bool, type(None), list, tuple, bytes, set))


# --- what a state is given ------------------------------------------------------------------------


def note_inputs(plan: Plan) -> None:
    """Note which inputs of a run reach parameters whose annotations count for them."""
    machine = plan.machine
    first = plan.actions[machine.initial]
    for slot in plan.index.values():
        action = plan.actions[slot]
        for param in action.params:
            # What the other states take may have been converted by those before them.
            if action is first or asks_for_secret(action.hints().get(param.name)):
                plan.input_uses.setdefault(param.name, {})[action, param.name, 0] = None


def check_machine_inputs(plan: Plan, values: Mapping[str, Any], declared: list[str]) -> None:
    """Check the names of what a run of a machine is given.

    Args:
        plan: Whose inputs are meant.
        values: By name, defaults included.
        declared: What the graph declares.

    Raises:
        MissingInputError: The first state needs more; all that is missing is named.
        UnknownInputError: No state takes an input of that name.
    """
    slot = plan.machine.initial
    first, state = plan.actions[slot], plan.ids[slot]
    if first.style not in _BY_NAME:
        return
    fixed = {each.name for each in plan.node(slot).inputs}
    own = [each.name for each in first.params]
    required = [each.name for each in first.params if each.required and each.name not in fixed]
    taken = [name for name in own if name in values]
    if len(required) == 1 and values and not taken:
        return  # it gets all of them together
    known = dict.fromkeys([*declared, *own])
    for other in plan.index.values():
        known |= dict.fromkeys(each.name for each in plan.actions[other].params)
    for name in values:
        if name not in known and not first.takes_any_input:
            raise UnknownInputError(
                f"no state of {plan.graph.name!r} takes an input {shown(name)}"
                f"{did_you_mean(name, known)}"
            )
    missing = [name for name in required if name not in values]
    if missing:
        names = ", ".join(map(repr, missing))
        raise MissingInputError(
            f"the first state {state!r} of {plan.graph.name!r} needs "
            f"{'a value' if len(missing) == 1 else 'values'} for {names}; give them by keyword, "
            f"run({missing[0]}=...), or with inputs={{...}}"
        )


def _fixed(run: Run, slot: int) -> dict[str, Any]:
    """Return what the graph itself gives a state."""
    found = {}
    for given in run.plan.node(slot).inputs:
        if given.literal is not None:
            found[given.name] = given.literal.value
        else:
            found[given.name] = run.inputs.get(str(given.reference).partition(".")[2])
    return found


def _taking(run: Run, slot: int, action: ActionDef) -> Callable[[Any], dict[str, Any]]:
    """Return what makes the inputs of a state by name from the value of the one before it."""
    inputs, fixed = run.inputs, _fixed(run, slot)
    if action.style not in _BY_NAME:

        def take_all(previous: Any) -> dict[str, Any]:
            if isinstance(previous, Mapping):
                return {**fixed, **previous}
            name = action.params[0].name if len(action.params) == 1 else "value"
            return {**fixed, name: previous}

        return take_all
    wanted = [(each.name, each.required) for each in action.params if each.name not in fixed]
    takes_any, state = action.takes_any_input, run.plan.ids[slot]
    needed = [name for name, is_required in wanted if is_required]
    only = needed[0] if len(needed) == 1 else None
    if not needed and len(wanted) == 1:
        only = wanted[0][0]
    wants_whole = only is not None and _is_mapping(action.hints().get(only))

    def take(previous: Any) -> dict[str, Any]:
        given = _NOTHING
        if previous.__class__ is dict or (
            previous.__class__ not in _ATOMS and isinstance(previous, Mapping)
        ):
            given = previous
        found = dict(fixed)
        if only is not None and (only in inputs or not needed) and previous is not inputs:
            # What the state before has made of it, and not what the run began with.
            is_whole = wants_whole and only not in given if given is previous else True
            if is_whole and previous is not None:
                found[only] = previous
        left, parted = [], False
        for name, required in wanted:
            if name in found:
                continue
            if name in given:
                found[name] = given[name]
                parted = True
            elif name in inputs:
                found[name] = inputs[name]
            elif required:
                left.append(name)
        if left:
            # A value of which some parameter took a part is no whole any more.
            if len(left) > 1 or parted or (previous is inputs and not inputs):
                raise InputResolutionError(_unresolved(state, left, previous, previous is inputs))
            found[left[0]] = dict(inputs) if previous is inputs else previous
        elif takes_any:
            for name in given:
                if isinstance(name, str):
                    found.setdefault(name, given[name])
        return found

    return take


def _is_mapping(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _unresolved(state: Any, left: list[str], previous: Any, first: bool) -> str:
    names = ", ".join(map(repr, left))
    what = "the run's inputs" if first else "the value of the state before it"
    found = (
        f"has {list(previous)}" if isinstance(previous, Mapping) else f"is {shown(previous, 60)}"
    )
    return (
        f"state {state!r}: nothing fills its parameter{'s' if len(left) > 1 else ''} {names}: "
        f"{what} {found}; return a mapping with these names, give the run such inputs, or give "
        "the parameter a default"
    )


def state_inputs(run: Run, slot: int, previous: Any) -> dict[str, Any]:
    """Return a state's inputs by name, none where they cannot be made: for its stand-ins."""
    try:
        return _taking(run, slot, run.plan.actions[slot])(previous)
    except DaggerError:
        return {}


# --- where its answer leads -----------------------------------------------------------------------


def _condition(run: Run, action: ActionDef | None) -> Callable[[Any], bool] | None:
    if action is None:
        return None
    fn, param = action.fn, action.context_param
    count = len(action.params)

    def holds(value: Any) -> bool:
        given = (value,) if count else ()
        try:
            return bool(fn(*given, **({} if param is None else {param: run.context})))
        except Exception as error:
            raise TransitionError(f"the condition {action.name!r} failed: {error!r}") from error

    return holds


class _Decision:
    """Where the answers of one state lead.

    Args:
        run, slot: Which state.
    """

    def __init__(self, run: Run, slot: int) -> None:
        plan, machine = run.plan, run.plan.machine
        self.state = str(plan.ids[slot])
        self.ids = plan.ids
        self.states = plan.index
        self.is_terminal = slot in machine.terminal
        ways = machine.ways.get(slot, ())
        self.declared = bool(ways)
        self.allowed: dict[str, int] = (
            {str(plan.ids[target]): target for target, _ in ways} if ways else dict(plan.index)
        )
        self.conditions = [
            (target, holds) for target, way in ways if (holds := _condition(run, way)) is not None
        ]
        self.plain = list(dict.fromkeys(target for target, way in ways if way is None))

    def move(self, answer: Any) -> Move:
        """Return where an answer leads.

        Raises:
            TransitionError: Nowhere, or to no state.
        """
        if isinstance(answer, FSMReturn):
            if answer.stop:
                return Move(END, answer.value)
            if answer.next_state is not None:
                return Move(self.target(answer.next_state), answer.value)
            answer = answer.value
        if self.is_terminal:
            return Move(END, answer)
        for target, holds in self.conditions:
            if holds(answer):
                return Move(target, answer)
        if len(self.plain) == 1:
            return Move(self.plain[0], answer)
        raise TransitionError(self._lost(answer))

    def target(self, name: Any, who: str = "") -> int:
        """Return the slot of a state that was named as the next one.

        Raises:
            TransitionError: It is none, or not one that can follow.
        """
        found = self.allowed.get(name) if isinstance(name, str) else None
        said = who or f"state {self.state!r}"
        if self.is_terminal:
            raise TransitionError(
                f"{said} names {shown(name)} as the next state, and {self.state!r} is a terminal "
                "one; return the plain value, or do not mark it terminal"
            )
        if found is not None:
            return found
        if not isinstance(name, str):
            raise TransitionError(
                f"{said} names {shown(name)} as the next state, which is no text; the states are "
                f"{', '.join(map(repr, self.states))}"
            )
        if name in self.states:
            raise TransitionError(
                f"{said} goes to {name!r}, and the transitions declared for {self.state!r} lead "
                f"to {', '.join(map(repr, self.allowed))} only; declare this one too, or go there"
            )
        raise TransitionError(
            f"{said} names {shown(name)} as the next state, and there is none of that name"
            f"{did_you_mean(name, self.states)}"
        )

    def _lost(self, answer: Any) -> str:
        said = (
            f"state {self.state!r} returned {shown(answer, 60)}, which does not say what comes next"
        )
        if self.conditions and not self.plain:
            return f"{said}: none of its conditions holds; add a transition without a condition"
        names = ", ".join(map(repr, self.allowed))
        return (
            f"{said}; return Next('state', value) or FSMReturn(next_state=...) with one of "
            f"{names}, FSMReturn(value=..., stop=True) to end, or declare its one transition"
        )


def _hooked(run: Run, decision: _Decision, hook: ActionDef, move: Move) -> Any:
    """Call a state hook that is no coroutine function with a move; return its answer.

    Raises:
        TransitionError: It refuses, or fails.
    """
    try:
        return hook.fn(run.context, decision.state, decision.ids[move.target], move.value)
    except Exception as error:
        raise _hook_error(decision, move, error) from error


def _hook_error(decision: _Decision, move: Move, error: Exception) -> TransitionError:
    if isinstance(error, TransitionError):
        return error
    way = f"{decision.state!r} -> {decision.ids[move.target]!r}"
    return TransitionError(f"the state hook failed at {way}: {error!r}")


def _redirected(decision: _Decision, move: Move, answer: Any) -> Move:
    if answer is None:
        return move
    return Move(decision.target(answer, "a state hook"), move.value)


def lost(run: Run, slot: int, value: Any) -> str | None:
    """Return why a state cannot have this value, as it leads nowhere; None when it can."""
    try:
        _Decision(run, slot).move(value)
    except TransitionError as error:
        return str(error)
    return None


def settle(run: Run, slot: int, value: Any) -> Move:
    """Return where a value leads that did not come from a call of ours: a person's answer.

    Raises:
        TransitionError: Nowhere, or it would have to be awaited.
    """
    if isinstance(value, Move):
        return value
    decision, hook = _Decision(run, slot), run.plan.machine.hook
    move = decision.move(value)
    if hook is None or move.target < 0:
        return move
    if hook.is_async:
        raise TransitionError(
            f"state {decision.state!r} was answered by a person, and an async state hook cannot "
            "look at that; make the hook a plain function"
        )
    return _redirected(decision, move, _hooked(run, decision, hook, move))


# --- calls ----------------------------------------------------------------------------------------


def bind_state(run: Run, slot: int) -> Callable[..., Any]:
    """Return the call of one state; awaitable when its action is async."""
    from dagger_dsl.engine.invoke import calling

    action = run.plan.actions[slot]
    take = _taking(run, slot, action)
    around = run.lifecycle is not None and run.lifecycle.surrounds(str(run.plan.ids[slot]))
    plain = (
        action.style == "function"
        and action.ctx_param is None
        and action.context_param is None
        and action.input_schema is None
        and action.output_schema is None
        and run.outside is None
        and not around
    )
    if plain and not action.is_async and run.plan.machine.hook is None:
        return _quick(run, slot, action, take)
    if plain:
        fn = action.fn

        def call(previous: Any) -> Any:
            return fn(**take(previous))

        return deciding(run, slot, call, action.is_async)

    def prepare(values: tuple[Any, ...]) -> dict[str, Any]:
        inputs = take(values[0])
        action.check_inputs(inputs)
        return inputs

    def check(value: Any) -> None:
        action.check_output(value.value if isinstance(value, FSMReturn) else value)

    if action.style == "workflow" and not around:
        from dagger_dsl.engine.nested import nested_body

        body = nested_body(run, slot)

        async def awaited(*values: Any) -> Any:
            answer = body(prepare(values))
            # A run whose calls somebody else makes has ended already.
            return await answer if isawaitable(answer) else answer

        def plainly(*values: Any) -> Any:
            return body(prepare(values))

        return deciding(run, slot, awaited if action.is_async else plainly, action.is_async)
    call = calling(run, slot, action, prepare, check, around)
    return deciding(run, slot, call, action.is_async)


def _quick(
    run: Run, slot: int, action: ActionDef, take: Callable[[Any], dict[str, Any]]
) -> Callable[..., Any]:
    """Return the call of a plain function without a hook, as most states are."""
    fn, decision = action.fn, _Decision(run, slot)
    move, other = decision.move, _other
    allowed = {} if decision.is_terminal else decision.allowed
    only = decision.plain[0] if len(decision.plain) == 1 and not decision.conditions else None
    if decision.is_terminal:
        only = END
    names = [each.name for each in action.params]
    fixed = [each.name for each in run.plan.node(slot).inputs]
    # The one parameter that takes a whole value.
    whole = (
        len(names) == 1
        and not fixed
        and not action.takes_any_input
        and not action.params[0].keyword_only
    )
    nothing = not names and not action.takes_any_input

    def call(previous: Any) -> Any:
        if whole and previous.__class__ in _ATOMS and previous is not None:
            answer = fn(previous)
        elif nothing:
            answer = fn()
        else:
            answer = fn(**take(previous))
        kind = answer.__class__
        if kind in _RETURNS:
            if not answer.stop:
                try:
                    return Move(allowed[answer.next_state], answer.value)
                except (KeyError, TypeError):
                    pass
            return move(answer)
        if kind in ANSWERS:
            return other(answer, move)
        if only is not None and not isinstance(answer, FSMReturn):
            return Move(only, answer)
        return move(answer)

    return call


def _other(answer: Any, move: Callable[[Any], Move]) -> Any:
    """Return what an answer that is no plain value means with the decision in it."""
    if isinstance(answer, NodeOutput) and answer.succeeded:
        if answer.outputs.__class__ in ANSWERS:
            return answer  # a question to a person
        return NodeOutput(
            move(answer.outputs),
            True,
            answer.metadata,
            message=answer.message,
            commands=answer.commands,
            split=False,
        )
    if isinstance(answer, Branch):
        raise TransitionError(
            f"a state does not answer {shown(answer, 60)}; return Next('state', value)"
        )
    return answer


def deciding(
    run: Run, slot: int, call: Callable[..., Any], is_async: bool, *, stands_in: bool = False
) -> Callable[..., Any]:
    """Return a call that decides where its answer leads, and has the state hook look at it.

    Args:
        run, slot: Which state.
        call: What is called.
        is_async: Whether that has to be awaited.
        stands_in: Whether it is a failure handler, whose answer None changes nothing.
    """
    decision, hook = _Decision(run, slot), run.plan.machine.hook

    def moved(answer: Any) -> Any:
        if answer.__class__ in ANSWERS:
            if stands_in and isinstance(answer, NodeOutput) and answer.outputs is None:
                return answer
            return _other(answer, decision.move)
        return decision.move(answer)

    def looked_at(answer: Any) -> Move | None:
        """Return the move in an answer that the hook is to look at, None where there is none."""
        inner = answer.outputs if answer.__class__ is NodeOutput else answer
        return inner if inner.__class__ is Move and inner.target >= 0 else None

    if hook is None or not hook.is_async:

        def settled(answer: Any) -> Any:
            answer = moved(answer)
            move = None if hook is None else looked_at(answer)
            if hook is not None and move is not None:
                change = _redirected(decision, move, _hooked(run, decision, hook, move))
                move.target = change.target
            return answer

        if not is_async:
            return lambda *values: settled(call(*values))

        async def call_async(*values: Any) -> Any:
            return settled(await call(*values))

        return call_async

    from dagger_dsl.engine.lifecycle import drive, drive_async

    def place() -> tuple[Any, ...]:
        state = run.state
        assert isinstance(state, MachineState)
        return run.attempts.get(slot, 1), state.cycle, run.handling.get(slot)

    def steps(values: tuple[Any, ...]) -> Generator[Any, Any, Any]:
        """Yield what may have to be awaited, be sent what came of it, and return the answer."""
        here = place()
        answer = call(*values)
        answer = moved((yield answer) if is_async else answer)
        move = looked_at(answer)
        if move is None or place() != here or run.state.status(slot) != PENDING:
            return answer  # it ends here, or its thread was left behind and nobody takes it
        try:
            reply = yield hook.fn(
                run.context, decision.state, decision.ids[move.target], move.value
            )
        except Exception as error:
            raise _hook_error(decision, move, error) from error
        move.target = _redirected(decision, move, reply).target
        return answer

    if not is_async:
        return lambda *values: drive(steps(values), run.board)

    async def call_hooked(*values: Any) -> Any:
        return await drive_async(steps(values))

    return call_hooked
