"""`FSMContext`: what the states of one run of a machine share, and where the run has been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dagger_dsl.model.sharing import Context

__all__ = ["FSMContext", "StateHistory"]


class StateHistory(Protocol):
    """Where the run of a machine has been."""

    @property
    def names(self) -> list[str]:
        """The states it was in, first to last, the current one included."""
        ...

    @property
    def current(self) -> str | None:
        """The state it is in, or ended in; None before the first."""
        ...

    @property
    def cycles(self) -> int:
        """How many cycles have begun."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many cycles each state that was entered has had."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether it ended by itself: in a terminal state, or with ``stop=True``."""
        ...

    def results(self, state: str) -> list[Any]:
        """Return the results of one state that are still in memory, oldest first.

        Raises:
            NotExecuted: An earlier process had one of them and did not store it.
        """
        ...

    def kept(self, state: str) -> int:
        """Return how many results `results` has of a state; none is read for it."""
        ...

    def result(self, state: str, place: int) -> Any:
        """Return one result of those that `results` has.

        Raises:
            NotExecuted: An earlier process had it and did not store it.
        """
        ...

    def dropped(self, state: str) -> int:
        """Return how many older results of a state ``history_limit`` has let go."""
        ...

    def latest(self, state: str) -> Any:
        """Return the newest result of a state.

        Raises:
            KeyError: It has none.
            NotExecuted: An earlier process had it and did not store it.
        """
        ...


class FSMContext(Context):
    """What the states of one run share beside the values that flow from state to state.

    A parameter annotated `FSMContext` (or named ``context`` without an annotation) gets it. It
    belongs to one run at a time: a new run that is given it starts its history anew and keeps its
    metadata.

    Attributes:
        results: The newest result of each state that has one, by name.
        metadata, metrics: See `Context`.
    """

    @property
    def history(self) -> StateHistory | None:
        """Where the run has been; None before there was one."""
        found: StateHistory | None = getattr(self.results.source, "history", None)
        return found

    @property
    def state_history(self) -> list[str]:
        """The states that the run was in, first to last, the current one included."""
        return [] if self.history is None else self.history.names

    @property
    def current_state(self) -> str | None:
        """The state that the run is in, or ended in; None before there was one."""
        return None if self.history is None else self.history.current

    @property
    def cycle_count(self) -> int:
        """How many cycles have begun, over all states."""
        return 0 if self.history is None else self.history.cycles

    @property
    def is_terminated(self) -> bool:
        """Whether the run ended by itself: in a terminal state, or with ``stop=True``."""
        return self.history is not None and self.history.is_terminated

    def results_of(self, state: str) -> Sequence[Any]:
        """Return the results of one state that are still in memory, oldest first.

        Raises:
            NotExecuted: An earlier process had one of them and did not store it.
        """
        return [] if self.history is None else self.history.results(state)
