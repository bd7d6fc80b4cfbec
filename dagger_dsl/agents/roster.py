"""`Roster`: the agents that a `TaskManager` knows: how they are called, which of them it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from dagger_dsl.agents.admission import check_memory
from dagger_dsl.agents.calls import Caller
from dagger_dsl.agents.checks import agent_missing
from dagger_dsl.agents.definition import AgentDef
from dagger_dsl.errors import AgentAlreadyRegistered, ConfigurationError, did_you_mean, shown
from dagger_dsl.model.resources import ResourceTracker
from dagger_dsl.model.tasks import NewTaskSpec
from dagger_dsl.registry import Registry

__all__ = ["Roster", "TaskAgentRegistry"]

logger = logging.getLogger("dagger_dsl.agents")


class TaskAgentRegistry(Registry):
    """A registry of its own for the agents of a manager; see `Registry`."""

    def register(self, name: str, agent: Any) -> None:  # type: ignore[override]  # the documents' form
        """Register an agent: a function, a class or an object with ``execute``.

        Raises:
            AgentAlreadyRegistered: The name is taken.
            RegistryError: It cannot be one.
        """
        if name in self.task_agents:
            raise AgentAlreadyRegistered(
                f"there is an agent {shown(name)} already; give another name"
            )
        if not isinstance(agent, AgentDef):
            body = getattr(agent, "execute", agent) if not isinstance(agent, type) else agent
            agent = AgentDef(name=name, target=body)
        self.register_task_agent(name, agent)


class Roster:
    """The agents of a registry, as they are there now; threads may share it.

    Args:
        registry: Where they are looked up.
        chosen: The names of those whose tasks are run here; None for all.
        resources: What has to have room for their calls; None where nothing has to.
    """

    def __init__(
        self,
        registry: Registry,
        chosen: tuple[str, ...] | None,
        resources: ResourceTracker | None,
    ) -> None:
        self._registry = registry
        self._chosen = chosen
        self._resources = resources
        self._callers: dict[str, Caller] = {}
        self._told: set[str] = set()  # agents that nobody here knows, and a warning named

    @property
    def has_all(self) -> bool:
        """Whether tasks of all agents are run here."""
        return self._chosen is None

    def here(self) -> dict[str, AgentDef]:
        """Return the agents that this process runs tasks of, those registered just now as well."""
        known = self._registry.task_agents
        chosen = known if self._chosen is None else self._chosen
        return {name: known[name] for name in chosen if name in known}

    def caller(self, name: str) -> Caller:
        """Return what calls an agent; another one when the agent was registered again."""
        agent = self._registry.task_agents[name]
        caller = self._callers.get(name)
        if caller is None or caller.agent is not agent:
            caller = self._callers[name] = Caller(agent)
        return caller

    def known_caller(self, name: str) -> Caller | None:
        """Return what calls an agent, if it was called before."""
        return self._callers.get(name)

    def check(self) -> None:
        """Refuse to run what is no agent.

        Raises:
            AgentNotFound: One that was chosen is not registered.
            RegistryError, ConfigurationError: See `Caller`.
        """
        self.check_names(self._chosen or ())
        for name in self.here():
            self.caller(name)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse agents that are not registered.

        Raises:
            AgentNotFound: One of them is not.
        """
        known = self._registry.task_agents
        for name in names:
            if name not in known:
                raise agent_missing(name, list(known))

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those of some agents that are not registered, each once."""
        known = self._registry.task_agents
        return [each for each in dict.fromkeys(names) if each not in known]

    def check_chosen(self, names: Iterable[str]) -> None:
        """Refuse agents whose tasks are not run here, where nobody else can run them.

        Raises:
            AgentNotFound: One of them is not registered.
            ConfigurationError: One is, and is not among those that were chosen.
        """
        names = list(names)
        self.check_names(names)
        for name in names:
            if self._chosen is not None and name not in self._chosen:
                raise ConfigurationError(
                    f"this task manager runs no tasks of agent {shown(name)}, and nobody else sees "
                    f"those in its memory; add it to agents={list(self._chosen)!r}, or give a "
                    "database_url that other workers use, too"
                )

    def tell_unknown(self, names: Iterable[str], *, close_only: bool) -> None:
        """Warn of agents that are not registered, once each.

        Args:
            names: Which.
            close_only: Whether only those are told that are like a known name.
        """
        for each in names:
            hint = did_you_mean(each, self._registry.task_agents)
            is_close = "did you mean" in hint
            if each not in self._told and (is_close or not close_only):
                self._told.add(each)
                logger.warning(
                    "no agent %s is registered here%s; its tasks wait for a worker that knows it",
                    shown(each),
                    hint if is_close else "",
                )

    def check_specs(self, specs: Iterable[NewTaskSpec]) -> None:
        """Refuse tasks that their agents could never take, as far as these are known here.

        Raises:
            InputValidationError: An input does not fit its agent.
            ResourceExhausted: There can never be room for a call of the agent.
        """
        known = self._registry.task_agents
        callers: dict[str, Caller | None] = {}
        for spec in specs:
            if spec.agent not in callers:
                callers[spec.agent] = self.caller(spec.agent) if spec.agent in known else None
            caller = callers[spec.agent]
            if caller is not None:
                caller.check_input(spec.input)
        for each in filter(None, callers.values()):
            check_memory(self._resources, each.agent)
