"""`Outside`: calls of a run that worker processes make.

Only the user's function crosses: inputs are bound and checked, and answers looked at, where the run
is. Async functions are awaited there too, on the run's loop, and functions of the documents' old
form are called there, as they work on the run's own cache. So are those that a pool lends something
to, which another process could not use, those that a circuit breaker guards, which counts here, and
nested runs, whose own calls cross.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import ConfigurationError, MissingExtra, TransferError
from dagger_dsl.model.breaker import is_guarded
from dagger_dsl.model.values import MISSING
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.processes import Errand, Processes

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.plan import Plan

__all__ = ["Outside"]


class Outside:
    """What of one run is called in worker processes.

    Args:
        plan: The run's; every function of it is looked at.
        app_data: What the run was given.
        outer: The same of the run that this one is nested in; its worker processes serve both.

    Raises:
        ConfigurationError: A function cannot be sent, or an optional package is needed for it.
    """

    def __init__(self, plan: Plan, app_data: Any, outer: Outside | None = None) -> None:
        answers: dict[str, Callable[..., Any]] = {
            "cache": self._cached,
            "values": lambda: self._run.cache.to_dict(),
            "cancelled": lambda: (self._run.token.cancelled, self._run.token.reason),
            "result": self._result,
            "result_names": lambda: list(self._run.context.results),
        }
        around: Processes | None = None if outer is None else outer._processes
        self._processes: Processes = Processes(answers, app_data, around)
        self._run: Run
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # functions whose identity is a key
        self._profiles: dict[int, Callable[[Any], None]] = {}
        self._crossing: set[int] = set()
        self.close = self._processes.close
        self.kill = self._processes.kill
        for slot in plan.invocations():
            for action in (plan.actions[slot], plan.handlers.get(slot), plan.fallbacks.get(slot)):
                if action is not None:
                    self._check(str(plan.ids[slot]), action)

    def tie(self, run: Run) -> None:
        """Make calls for this run from now on."""
        self._run = run

    def _check(self, node_id: str, action: ActionDef) -> None:
        try:
            self._number(action)
        except (TransferError, MissingExtra) as error:
            raise _refusal(node_id, action, error) from error

    def _number(self, action: ActionDef) -> int | None:
        """Return the number of an action's function, None where it is called here."""
        fn = action.fn
        known = self._numbers.get(id(fn))
        if known is not None or not _crosses(action):
            return known
        self._kept.append(fn)
        number = self._numbers[id(fn)] = self._processes.add(fn)
        return number

    def makes(self, slot: int) -> bool:
        """Return whether an invocation is called in a worker process, which can be killed."""
        return slot in self._crossing

    def profile(self, slot: int, take: Callable[[Any], None]) -> bool:
        """Have the calls of an invocation profiled where they are made; False if that is here."""
        if slot in self._crossing:
            self._profiles[slot] = take
        return slot in self._crossing

    def stand_for(
        self, slot: int, action: ActionDef, *, limited: bool = True
    ) -> Callable[..., Any]:
        """Return what is called in the place of an action's function.

        Args:
            slot: Where the call belongs.
            action: The action, which may be what stands in for the node's own.
            limited: Whether the node's time limit holds for the call.
        """
        try:
            number = self._number(action)
        except (TransferError, MissingExtra) as error:  # of a node that came while the run went on
            return _failing(_refusal(str(self._run.plan.ids[slot]), action, error), error)
        if number is None:
            self._crossing.discard(slot)
            return action.fn
        self._crossing.add(slot)
        run, processes, profiles = self._run, self._processes, self._profiles
        board, node_id = run.board, str(run.plan.ids[slot])
        names = [each.name for each in action.params]

        def begins() -> None:
            board.started[slot] = board.clock()  # what it takes to start a process is no part of it

        def call(*args: Any, **kwargs: Any) -> Any:
            errand = Errand(
                slot,
                node_id,
                number,
                board.limits.get(slot) if limited else None,
                begins,
                profiles.get(slot) if limited else None,
            )
            return processes.call(errand, args, kwargs, names)

        return call

    def plain(self, slot: int) -> Callable[..., Any]:
        """Return the call of an invocation that needs nothing but its values."""
        plan = self._run.plan
        action, call = plan.actions[slot], plan.calls[slot]
        away = self.stand_for(slot, action)
        if away is action.fn or call is action.fn:
            return call if away is action.fn else away
        names = plan.names[slot]
        return lambda *values: away(**dict(zip(names, values, strict=True)))

    def _cached(self, namespace: str, key: str) -> tuple[bool, Any]:
        value = self._run.cache.get(namespace, key, MISSING)
        return (False, None) if value is MISSING else (True, value)

    def _result(self, node_id: str) -> tuple[bool, Any]:
        value = self._run.context.get(node_id, MISSING)
        return (False, None) if value is MISSING else (True, value)


def _refusal(node_id: str, action: ActionDef, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"node {node_id!r}: the function of action {action.name!r} cannot go to a worker process: "
        f"{error}; or run with runner='threads'"
    )


def _failing(error: Exception, cause: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error from cause

    return call


def _crosses(action: ActionDef) -> bool:
    here = action.is_async or action.style in ("legacy", "workflow") or bool(action.uses)
    return not (here or inspect.isasyncgenfunction(action.fn) or is_guarded(action.fn))
