"""Task agents: what the tasks of a job are given to, by name, and who runs them.

`task_agent` makes a function or a class an agent; `TaskManager` keeps jobs and runs their tasks.
All else is loaded on first use, for whoever only writes agents needs no database.
"""

from typing import TYPE_CHECKING

from dagger_dsl.agents.definition import AgentDef, task_agent
from dagger_dsl.model.rates import Rate

__all__ = [
    "AgentDef",
    "Blocked",
    "JobHandle",
    "JobStatus",
    "NeedsMoreInfo",
    "NewTaskSpec",
    "OnDependencyFailure",
    "Rate",
    "SharedState",
    "StallAction",
    "Task",
    "TaskAgentRegistry",
    "TaskContext",
    "TaskEvent",
    "TaskManager",
    "TaskStatus",
    "TaskStorage",
    "TaskType",
    "load_agents",
    "task_agent",
]

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext
    from dagger_dsl.agents.job import JobHandle
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.agents.plugins import load_agents
    from dagger_dsl.agents.roster import TaskAgentRegistry
    from dagger_dsl.agents.signals import Blocked, NeedsMoreInfo
    from dagger_dsl.agents.state import SharedState
    from dagger_dsl.agents.storage import TaskStorage
    from dagger_dsl.model.stalls import StallAction
    from dagger_dsl.model.tasks import (
        JobStatus,
        NewTaskSpec,
        OnDependencyFailure,
        Task,
        TaskEvent,
        TaskStatus,
        TaskType,
    )
else:
    _ROOMS = {
        "agents.context": "TaskContext",
        "agents.job": "JobHandle",
        "agents.manager": "TaskManager",
        "agents.plugins": "load_agents",
        "agents.roster": "TaskAgentRegistry",
        "agents.signals": "Blocked NeedsMoreInfo",
        "agents.state": "SharedState",
        "agents.storage": "TaskStorage",
        "model.stalls": "StallAction",
        "model.tasks": "JobStatus NewTaskSpec OnDependencyFailure Task TaskEvent TaskStatus "
        "TaskType",
    }
    _ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

    def __getattr__(name):
        """Load a name on first use (PEP 562)."""
        import importlib

        if name not in _ROOM_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"dagger_dsl.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *_ROOM_OF} - {"TYPE_CHECKING"})
