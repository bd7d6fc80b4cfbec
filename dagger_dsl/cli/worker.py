"""``worker``: a process that runs the tasks of agents, until it is told to stop."""

from __future__ import annotations

import argparse
import gc
import inspect
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import OK, existing_store
from dagger_dsl.cli.screen import LogLines, Screen
from dagger_dsl.cli.signals import Signals
from dagger_dsl.cli.sources import load_actions, load_module
from dagger_dsl.engine.words import count
from dagger_dsl.errors import (
    AgentNotFound,
    ConfigurationError,
    StoreDamaged,
    StoreError,
    did_you_mean,
    shown,
)

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.task_claims import Ending

__all__ = ["worker"]

#: Seconds between two looks at signals and, where it is to leave then, at what is left.
_LOOK: Final = 0.2

#: Seconds between two looks for tasks of agents that are unknown here.
_LOOK_FOR_OTHERS: Final = 30.0

#: What the endings of calls are called here.
_WORDS: Final = {
    "completed": "completed",
    "failed": "failed",
    "pending": "to be tried again",
    "blocked": "waiting",
    "ready": "given back",
}


def worker(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run tasks until a signal, or until nothing is left to do."""
    registry = _load(arguments.actions)
    agents = _agents(arguments.agents, registry)
    with existing_store(arguments.db) as store:  # which makes an older one new
        if store.database.is_memory:
            raise ConfigurationError(
                "a worker needs a database that others see, too, not one in memory; name a file "
                "by --db"
            )
        where = store.database.where
    from dagger_dsl.agents.manager import TaskManager

    manager = TaskManager(
        registry=registry,
        database_url=arguments.db,
        concurrency=arguments.concurrency,
        agents=agents,
        lease=arguments.lease,
        heartbeat_interval=arguments.heartbeat_interval,
        stall_action=arguments.stall_action,
    )
    tally = _Tally(screen, loud=arguments.verbose)
    with Signals(screen) as signals, LogLines(screen):
        left = 0
        try:
            manager._claims.exchange("")  # one that cannot be written is told now
            manager.work(tally.take)
            gc.enable()  # `main` turned it off for the time of loading
            name = manager._crew.name if manager._crew is not None else ""
            with suppress(BrokenPipeError):  # it works on, whoever has gone
                screen.say(f"worker {name}, {manager._size} at a time, on {where}")
                screen.say(f"agents: {', '.join(agents)}")
            _wait(manager, agents, signals, screen, drain=arguments.drain)
            signals.tell()
        finally:
            left = manager.close(arguments.grace)
        _tell(name, agents, tally, left, signals.code, screen)
        if left:
            sys.stdout.flush()
            signals.leave()
        return signals.code or OK


def _wait(
    manager: TaskManager, agents: Sequence[str], signals: Signals, screen: Screen, *, drain: bool
) -> None:
    """Wait for a signal or, if that is wanted, until no task is left that could be called."""
    told, looked = set[str](), -math.inf
    while not signals.code:
        now = time.monotonic()
        if now - looked >= _LOOK_FOR_OTHERS:
            looked = now
            _tell_unknown(manager, told, screen)
        crew = manager._crew
        if crew is not None and isinstance(crew.trouble, StoreDamaged):
            raise crew.trouble  # no patience mends it
        if drain and not _has_left(manager, agents):
            _tell_unknown(manager, told, screen)
            return
        time.sleep(_LOOK)


def _has_left(manager: TaskManager, agents: Sequence[str]) -> bool:
    """Whether there may be a task that could be called."""
    try:
        return manager._claims.has_left(agents)
    except StoreDamaged:
        raise
    except StoreError:  # whoever takes tasks meets it as well, and waits
        return True


def _tell_unknown(manager: TaskManager, told: set[str], screen: Screen) -> None:
    """Say, once a name, for which agents tasks are ready that no module here defines."""
    known = manager.registry.task_agents
    try:
        ready = manager._reads.ready_agents()
    except StoreError:
        return  # whoever takes tasks meets it as well, and says so
    for name, many in ready.items():
        if name in known or name in told:
            continue
        told.add(name)
        hint = did_you_mean(name, known)
        with suppress(BrokenPipeError):
            screen.say(
                f"no worker here knows agent {shown(name)}, and {count(many, 'task')} of it "
                f"{'is' if many == 1 else 'are'} ready{hint if 'did you mean' in hint else ''}; "
                "name what defines it by --actions"
            )


# --- agents ---------------------------------------------------------------------------------------


def _load(places: Sequence[str]) -> Registry:
    """Return a registry with the actions and the agents of some modules or .py files.

    Agents count that are in the registry in force, and those of registries that a module has.
    """
    from dagger_dsl.cli.sources import take
    from dagger_dsl.registry import Registry, as_registry

    found = Registry(parent=as_registry(None))
    held: dict[int, Registry] = {}
    for place in places:
        take(found, load_actions(place))
        for thing in vars(load_module(place)).values():
            each = thing if isinstance(thing, Registry) else _registry_of(thing)
            if isinstance(each, Registry):
                held[id(each)] = each
    for each in (as_registry(None), *held.values()):
        for name, agent in each.task_agents.items():
            if found.task_agents.get(name) is not agent:
                found.register_task_agent(name, agent)
    return found


def _registry_of(thing: Any) -> Any:
    """Return the registry of a task manager or the like; no property is called for it."""
    return None if isinstance(thing, type) else inspect.getattr_static(thing, "registry", None)


def _agents(given: Sequence[str], registry: Registry) -> list[str]:
    """Return the names of the agents whose tasks are run.

    Raises:
        AgentNotFound: One of them is not registered, or none is.
    """
    known = list(registry.task_agents)
    names = [name.strip() for text in given for name in text.split(",")]
    wanted = list(dict.fromkeys(filter(None, names)))
    if given and not wanted:
        raise ConfigurationError("--agents names no agent; leave it out for all there are")
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            way = "name the module or the .py file that defines it by --actions"
            more = "" if hint.endswith("?") else f"; {way}"
            raise AgentNotFound(f"no agent {name!r} is registered{hint}{more}")
    if not known:
        raise AgentNotFound(
            "no agent is registered; name the module or the .py file that defines some with "
            "@task_agent by --actions"
        )
    return wanted or known


# --- what has ended -------------------------------------------------------------------------------


class _Tally:
    """Counts what has ended, and says so where that is wanted; the worker's threads call it."""

    def __init__(self, screen: Screen, *, loud: bool) -> None:
        self._screen = screen
        self._loud = loud
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def take(self, endings: Sequence[Ending]) -> None:
        """Count what was recorded by one commit."""
        with self._lock:
            self.counts.update(_WORDS[each.status] for each in endings)
            if self._loud:
                with suppress(BrokenPipeError):
                    for each in endings:
                        self._screen.say(_line(each))

    def told(self) -> str:
        """Return the counts for people."""
        counts = [f"{self.counts[word]:,} {word}" for word in _WORDS.values() if self.counts[word]]
        return ", ".join(counts) or "no calls"


def _line(ending: Ending) -> str:
    claim, word = ending.claim, _WORDS[ending.status]
    why = f": {ending.error}" if ending.error else ""
    again = f", call {claim.attempt}" if claim.attempt > 1 else ""
    return f"{claim.agent} {claim.id} {word}{again}{why}".replace("\n", " ")


def _tell(
    name: str, agents: Sequence[str], tally: _Tally, left: int, code: int, screen: Screen
) -> None:
    with suppress(BrokenPipeError):
        if left:
            screen.error(
                f"{count(left, 'call')} did not end within the grace time; others may take what "
                "is left behind"
            )
        screen.say(f"worker stopped: {tally.told()}")
        if screen.as_json:
            counts = {word: tally.counts[word] for word in _WORDS.values()}
            screen.json(
                {
                    "worker": name,
                    "agents": list(agents),
                    **{word.replace(" ", "_"): number for word, number in counts.items()},
                    "left_behind": left,
                    "exit_code": code,
                }
            )
