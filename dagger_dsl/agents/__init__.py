"""Task agents: what the tasks of a job are given to, by name, and who runs them."""

from dagger_dsl.agents.definition import AgentDef, task_agent
from dagger_dsl.model.rates import Rate

__all__ = ["AgentDef", "Rate", "task_agent"]
