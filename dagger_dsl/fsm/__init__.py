"""Finite state machines, run by the same engine as graphs: durable, with retries and timeouts."""

from dagger_dsl.fsm.builder import FSM, StateFunction
from dagger_dsl.model.history import FSMContext
from dagger_dsl.model.machine import FSMReturn, Machine, Next, Transition

__all__ = ["FSM", "FSMContext", "FSMReturn", "Machine", "Next", "StateFunction", "Transition"]
