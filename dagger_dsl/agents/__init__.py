"""Task agents: what the tasks of a job are given to, by name, and who runs them."""

from dagger_dsl.agents.definition import AgentDef, task_agent

__all__ = ["AgentDef", "task_agent"]
