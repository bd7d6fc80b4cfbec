"""Agents that installed packages bring: the entry points of group ``dagger_dsl.agents``.

A package lists them in its ``pyproject.toml``::

    [project.entry-points."dagger_dsl.agents"]
    summariser = "my_package.agents:summarise"
    all_of_them = "my_package.agents"

A function, a class with ``execute`` or an `AgentDef` gets the entry point's name. A module is only
imported, so that its own ``@task_agent`` register what it has.
"""

from __future__ import annotations

import logging
import types
from typing import Final

from dagger_dsl.agents.definition import AgentDef, task_agent
from dagger_dsl.errors import RegistryError
from dagger_dsl.registry import Registry, as_registry

__all__ = ["GROUP", "load_agents"]

logger = logging.getLogger("dagger_dsl.agents")

#: The group of entry points.
GROUP: Final = "dagger_dsl.agents"


def load_agents(registry: Registry | None = None) -> list[str]:
    """Register the agents that installed packages bring; return the names of those that are new.

    A name that is taken already stays what it is, so that a program's own agent wins. An entry
    point that cannot be loaded is logged and left out. `TaskManager` calls this for a registry that
    it was not given.

    Args:
        registry: Where to register; the one in force by default.
    """
    from importlib.metadata import entry_points  # most programs never ask

    target = as_registry(registry)
    before = set(target.task_agents)
    for point in entry_points(group=GROUP):
        if point.name in target.task_agents:
            continue
        try:
            with target:
                _register(point.name, point.load(), target)
        except Exception:  # whatever a foreign module does when it is imported
            logger.warning(
                "the agent %r of %s cannot be loaded and is left out",
                point.name,
                point.value,
                exc_info=True,
            )
    return [name for name in target.task_agents if name not in before]


def _register(name: str, found: object, registry: Registry) -> None:
    if isinstance(found, types.ModuleType):
        return
    if isinstance(found, AgentDef):
        registry.register_task_agent(name, found)
    elif callable(found):
        task_agent(name=name, registry=registry)(found)
    else:
        raise RegistryError(f"the entry point {name!r} is no agent: {found!r}")
