"""`CrewLimits`: what holds tasks back that a crew's threads could run: limits of agents, and room.

Room is asked for while tasks are claimed, so that nothing is claimed that would then wait here
while another process could run it. What there is no room for leaves one request of its agent in
line; once that is granted the crew comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dagger_dsl.model.resources import ResourceTracker, Ticket, holding
from dagger_dsl.store.task_limits import AgentLimit, TaskLimits

if TYPE_CHECKING:
    from dagger_dsl.agents.definition import AgentDef
    from dagger_dsl.store.task_claims import Claim

__all__ = ["CrewLimits", "check_memory", "crew_limits"]


class CrewLimits(TaskLimits):
    """The limits of one crew. Its desk asks, one thread at a time; calls end in any thread.

    Args:
        agents: Those whose tasks it runs, by name.
        tracker: What has to have room for their calls; None where nothing has to.
        wake: Called, from any thread, when there may be something to do.
    """

    def __init__(
        self,
        agents: Mapping[str, AgentDef],
        tracker: ResourceTracker | None,
        wake: Callable[[], None],
    ) -> None:
        super().__init__({})
        self.learn(agents)
        self._tracker = tracker
        self._wake = wake
        # By claim, not by task: one that is tried again may be called while its last call goes on.
        self._held: dict[Claim, Ticket] = {}
        self._taken: dict[int, Ticket] = {}  # of this exchange, by the number of the task
        self._in_line: dict[str, Ticket] = {}  # by agent
        self._missed: set[str] = set()  # agents that this exchange has no room for
        self._closed = False

    def learn(self, agents: Mapping[str, AgentDef]) -> None:
        """Take the limits of agents, some of which may be new, or have been registered again."""
        self.limit({name: AgentLimit(each.rate, each.max_running) for name, each in agents.items()})
        self._memory = {name: each.memory for name, each in agents.items()}

    def begin(self) -> None:
        super().begin()
        self._missed = set()
        while self._taken:
            self._taken.popitem()[1].release()

    def has_room(self, number: int, agent: str) -> bool:
        if self._tracker is None:
            return True
        if agent in self._missed or self._closed:
            return False
        ticket = self._in_line.pop(agent, None)
        if ticket is None:
            ticket = self._tracker.ask(_what(agent), self._memory[agent], self._wake)
        if ticket.granted:
            self._taken[number] = ticket
            return True
        if ticket.refused is not None:
            return True  # it is called, to fail; see `check`
        self._in_line[agent] = ticket
        self._missed.add(agent)
        return False

    def settle(self, claims: Sequence[Claim], wanted: int) -> None:
        """Keep the room that was used in an exchange, and let go of the rest.

        Args:
            claims: What came of it.
            wanted: How many tasks there might have been.
        """
        for claim in claims:
            ticket = self._taken.pop(claim.number, None)
            if ticket is not None:
                self._held[claim] = ticket
        while self._taken:
            self._taken.popitem()[1].release()
        for agent in list(self._in_line):
            # Nobody here would run it, or there is no task for it any more.
            if len(claims) >= wanted or agent not in self._missed:
                self._in_line.pop(agent).release()
        if self._closed:  # meanwhile
            self.close()

    def check(self, agent: str) -> None:
        """Refuse a call for which there can never be room.

        Raises:
            ResourceExhausted: It declares too much.
        """
        if self._tracker is not None:
            self._tracker.check(_what(agent), self._memory[agent])

    def inside(self, claim: Claim) -> AbstractContextManager[None]:
        """Let a ``with`` block be inside of the call of a task."""
        return holding(self._held.get(claim))

    def ended(self, claim: Claim) -> None:
        """Give back what the call of a task has taken."""
        ticket = self._held.pop(claim, None)
        if ticket is not None:
            ticket.release()

    def close(self) -> None:
        """Give everything back: the crew is stopped."""
        self._closed = True
        for tickets in (self._in_line, self._held):
            while tickets:
                tickets.popitem()[1].release()


def crew_limits(
    agents: Mapping[str, AgentDef], tracker: ResourceTracker | None, wake: Callable[[], None]
) -> CrewLimits | None:
    """Return the limits of a crew; None where there are none."""
    limited = any(each.rate is not None or each.max_running is not None for each in agents.values())
    return CrewLimits(agents, tracker, wake) if limited or tracker is not None else None


def check_memory(tracker: ResourceTracker | None, agent: AgentDef) -> None:
    """Refuse a task of an agent for whose calls there can never be room.

    Raises:
        ResourceExhausted: They declare too much.
    """
    if tracker is not None:
        tracker.check(_what(agent.name), agent.memory)


def _what(agent: str) -> str:
    return f"a task of agent {agent!r}"
