"""Registries: definitions under their names, the default one, and what else passes for one."""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from dagger_dsl.errors import (
    ActionNotFound,
    Place,
    Problem,
    RegistryError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.lifecycle import NodeHooks
from dagger_dsl.registry._define import define, definition_of, is_node_action, origin
from dagger_dsl.registry._definition import ActionDef
from dagger_dsl.registry._wrappers import seen_through

if TYPE_CHECKING:
    from dagger_dsl.registry._workflow import KeptWorkflow, Nestable, WorkflowDef

__all__ = ["ActionRegistry", "Registry", "as_registry", "current_registry", "registry"]


class Registry:
    """Actions by name, workflows, and plain tables for hooks and agents; for any thread.

    Args:
        parent: Where names are looked up that this registry does not have; it is never written.

    ``with Registry() as r:`` makes it the default of this context until the block ends.
    """

    def __init__(self, parent: Registry | None = None) -> None:
        self.parent = parent
        self._lock = threading.RLock()
        self._actions: dict[str, ActionDef] = {}
        self._workflows: dict[str, KeptWorkflow] = {}
        self._tables: dict[str, dict[str, Any]] = {
            "hook": {},
            "task agent": {},
            "pub/sub agent": {},
        }
        # By name of the graph, then by node; None stands for all of its nodes.
        self._node_hooks: dict[str, dict[str | None, NodeHooks]] = {}

    def register(
        self, action: Any, name: str | None = None, replace: bool = False, **options: Any
    ) -> ActionDef:
        """Add an action and return its definition.

        Args:
            action: What `define` takes.
            name: By default its own.
            replace: Whether it may take the place of a different action of this name.
            **options: Those of ``@action``.

        Raises:
            RegistryError: The name is taken by an action that was written elsewhere (one of the
                same module and qualified name is replaced, as running a notebook cell again
                needs), or the object is no action. Nothing is changed then.
            ConfigurationError: An option is unknown or has an impossible value.
        """
        definition = define(action, name, **options)
        with self._lock:
            before = self._actions.get(definition.name)
            if before is not None and not replace and not _same_origin(before, definition):
                raise RegistryError(
                    f"an action {definition.name!r} is registered already, from "
                    f"{before.module}.{before.qualname}; give another name=, or use "
                    "registry.register(..., replace=True)"
                )
            self._actions[definition.name] = definition
        return definition

    def register_fn(self, name: str, fn: Any, replace: bool = False) -> ActionDef:
        """Add a function under a name; the module says when its signature counts as legacy.

        Raises:
            RegistryError: As `register`.
        """
        return self.register(fn, name, replace)

    def own(self, name: str) -> ActionDef | None:
        """Return the action of this name if it was registered here and not in a parent."""
        return self._actions.get(name)

    def get(self, name: str) -> ActionDef | None:
        """Return the action of this name, or None."""
        found = self._actions.get(name)
        if found is None and self.parent is not None:
            return self.parent.get(name)
        return found

    def __getitem__(self, name: str) -> ActionDef:
        """Return the action of this name.

        Raises:
            ActionNotFound: There is none; the message suggests one.
        """
        found = self.get(name)
        if found is None:
            raise ActionNotFound(
                (
                    Problem(
                        f"no action {name!r} is registered"
                        f"{did_you_mean(str(name), self.list_actions())}",
                        Place(path="registry"),
                        "unknown-action",
                    ),
                )
            )
        return found

    def contains(self, name: str) -> bool:
        """Return whether there is an action of this name."""
        return self.get(name) is not None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.contains(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_actions())

    def __len__(self) -> int:
        return len(self.list_actions())

    def __bool__(self) -> bool:
        return True  # an empty registry is a registry

    def list_actions(self) -> list[str]:
        """Return all names, the parent's included, sorted."""
        with self._lock:
            names = set(self._actions)
        if self.parent is not None:
            names.update(self.parent.list_actions())
        return sorted(names)

    def unregister(self, name: str) -> None:
        """Take an action out; nothing happens when there is none."""
        with self._lock:
            self._actions.pop(name, None)

    def reset(self) -> None:
        """Forget everything that was registered here; the parent keeps its own."""
        with self._lock:
            self._actions.clear()
            self._workflows.clear()
            for table in self._tables.values():
                table.clear()
            self._node_hooks.clear()

    def __enter__(self) -> Registry:
        _current.set((self, _current.get()))
        return self

    def __exit__(self, *_: object) -> None:
        top = _current.get()
        assert top is not None
        _current.set(top[1])

    def __repr__(self) -> str:
        return f"<Registry: {len(self._actions)} actions>"

    # --- workflows -------------------------------------------------------------------------------

    def register_workflow(
        self, workflow: Nestable, name: str | None = None, replace: bool = False
    ) -> None:
        """Keep a workflow that nodes may have for their body, by its name.

        Args:
            workflow: A DAG, or anything else with a `name`, a `registry` and `compile()`. Nodes
                have it as it is when they run, and not as it was when it was registered.
            name: What nodes call it, its own name by default.
            replace: Whether it may take the place of another workflow of this name.

        Raises:
            RegistryError: It is no workflow, or the name is taken by another one.
        """
        held = getattr(workflow, "registry", None)
        if not callable(getattr(workflow, "compile", None)) or not isinstance(held, Registry):
            raise RegistryError(
                f"a workflow has a name, a registry and compile(), as a DAG has; not "
                f"{shown(workflow)}"
            )
        chosen = workflow.name if name is None else name
        from dagger_dsl.model.graph import title_problem

        fault = title_problem(chosen, "a workflow")
        if fault is not None:
            raise RegistryError(fault)
        from dagger_dsl.registry._workflow import KeptWorkflow  # most programs nest nothing

        with self._lock:
            known = self._workflows.get(chosen)
            if known is not None and known.workflow is workflow:
                return
            if known is not None and not replace:
                raise RegistryError(
                    f"another workflow {chosen!r} is registered already; give one of them another "
                    "name, or use registry.register_workflow(..., replace=True)"
                )
            self._workflows[chosen] = KeptWorkflow(workflow)

    def get_workflow(self, name: str) -> WorkflowDef | None:
        """Return a workflow as the body of a node, as it is now, or None.

        Raises:
            CycleError: It contains itself.
            ValidationError: It is nested too deeply, or cannot be compiled.
        """
        kept = self._workflows.get(name)
        if kept is not None:
            return kept.definition()
        return None if self.parent is None else self.parent.get_workflow(name)

    def list_workflows(self) -> list[str]:
        """Return the names of all workflows, the parent's included, sorted."""
        with self._lock:
            names = set(self._workflows)
        if self.parent is not None:
            names.update(self.parent.list_workflows())
        return sorted(names)

    @property
    def workflows(self) -> Mapping[str, Nestable]:
        """The workflows that were registered here, by name."""
        with self._lock:
            return {name: kept.workflow for name, kept in self._workflows.items()}

    # --- hooks and agents ------------------------------------------------------------------------

    def _add(self, table: str, name: str, thing: Any, replace: bool) -> None:
        if not isinstance(name, str) or not name:
            raise RegistryError(f"a {table}'s name is a text that is not empty, not {name!r}")
        with self._lock:
            things = self._tables[table]
            if name in things and not replace and not _same_origin(things[name], thing):
                raise RegistryError(
                    f"a {table} {name!r} is registered already; give it another name, or use the "
                    "registry's own method with replace=True"
                )
            things[name] = thing

    def register_hook(self, name: str, hook: Any, replace: bool = False) -> None:
        """Keep a hook under a name; ``@hook`` keeps a `HookDef`.

        Every run that looks its actions up here, or in a registry below this one, has the hook.

        Raises:
            RegistryError: The name is taken by a hook that was written elsewhere.
        """
        self._add("hook", name, hook, replace)

    def unregister_hook(self, name: str) -> None:
        """Take a hook out; nothing happens when there is none."""
        with self._lock:
            self._tables["hook"].pop(name, None)

    def all_hooks(self) -> dict[str, Any]:
        """Return the hooks by name as they were registered, the parent's first; own ones win."""
        found = {} if self.parent is None else self.parent.all_hooks()
        with self._lock:
            found.update(self._tables["hook"])
        return found

    def set_node_hooks(self, dag_name: str, node_id: str | None, hooks: NodeHooks) -> None:
        """Keep what is called around the calls of a graph's node, in the place of what was.

        Args:
            dag_name: The graph's name.
            node_id: The node, None for all.
            hooks: What is called; empty ones hide those of a parent.
        """
        with self._lock:
            self._node_hooks.setdefault(dag_name, {})[node_id] = hooks

    def node_hooks(self, dag_name: str) -> dict[str | None, NodeHooks]:
        """Return what `set_node_hooks` has kept for a graph; own ones win over the parent's."""
        found = {} if self.parent is None else self.parent.node_hooks(dag_name)
        with self._lock:
            found.update(self._node_hooks.get(dag_name, {}))
        return {node_id: hooks for node_id, hooks in found.items() if hooks}

    def bring_node_hooks(self, source: Registry, dag_name: str | None = None) -> None:
        """Take over what `set_node_hooks` has kept in another registry and not in its parents.

        Args:
            source: That registry.
            dag_name: Only for this graph.
        """
        for name in list(source._node_hooks) if dag_name is None else (dag_name,):
            for node_id, hooks in list(source._node_hooks.get(name, {}).items()):
                self.set_node_hooks(name, node_id, hooks)

    def register_task_agent(self, name: str, agent: Any, replace: bool = False) -> None:
        """Keep a task agent under a name; ``@task_agent`` keeps an `AgentDef`."""
        self._add("task agent", name, agent, replace)

    def register_pubsub_agent(self, name: str, agent: Any, replace: bool = False) -> None:
        """Keep a pub/sub agent under a name."""
        self._add("pub/sub agent", name, agent, replace)

    @property
    def hooks(self) -> Mapping[str, Any]:
        """Hooks that were registered here, by name."""
        return MappingProxyType(self._tables["hook"])

    @property
    def task_agents(self) -> Mapping[str, Any]:
        """Task agents by name, the parent's among them."""
        return self._all("task agent")

    @property
    def agents(self) -> Mapping[str, Any]:
        """The same as `task_agents`."""
        return self.task_agents

    @property
    def pubsub_agents(self) -> Mapping[str, Any]:
        """Pub/sub agents by name, the parent's among them."""
        return self._all("pub/sub agent")

    def _all(self, table: str) -> Mapping[str, Any]:
        own = MappingProxyType(self._tables[table])
        if self.parent is None:
            return own
        return MappingProxyType({**self.parent._all(table), **own})


def _same_origin(one: Any, other: Any) -> bool:
    """Whether both are of the same lines of code, which a notebook may have run again."""
    places = [
        (each.module, each.qualname)
        if isinstance(each, ActionDef)
        else origin(getattr(each, "written", getattr(each, "target", each)))
        for each in (one, other)
    ]
    return one is other or (bool(places[0][1]) and places[0] == places[1])


#: The documents' name.
ActionRegistry = Registry

#: The default instance.
registry = Registry()

# A linked stack: an immutable value needs no token, so blocks may nest in any task or thread.
_Stack: TypeAlias = "tuple[Registry, _Stack] | None"
_current: ContextVar[_Stack] = ContextVar("dagger_dsl_registry", default=None)


def current_registry() -> Registry:
    """Return the registry in force: that of the innermost ``with``, else the default instance."""
    top = _current.get()
    return registry if top is None else top[0]


def as_registry(source: Any) -> Registry:
    """Return the registry that *source* means.

    Args:
        source: A `Registry`; None for the one in force; a mapping of names to actions; or a
            module, of which count its registries and those of its DAGs, its DAGs as the bodies of
            nodes, its actions and objects with `execute`, and the public functions written in it.
            Names that a mapping or a module does not have are looked up in the registry in force.

    Raises:
        RegistryError: It is none of these, or something in a mapping is no action.
    """
    if source is None:
        return current_registry()
    if isinstance(source, Registry):
        return source
    if isinstance(source, Mapping):
        made = Registry(parent=current_registry())
        for name, action in source.items():
            made.register(action, name)
        return made
    if isinstance(source, types.ModuleType):
        return _from_module(source)
    raise RegistryError(
        f"a registry is a Registry, a mapping of names to actions, a module or None, not "
        f"{shown(source)}"
    )


def _from_module(module: types.ModuleType) -> Registry:
    parent = current_registry()
    made = Registry(parent=parent)
    for thing in list(vars(module).values()):
        if _is_workflow(thing):
            made.register_workflow(thing, replace=True)
    for name, thing in vars(module).items():
        if isinstance(thing, types.ModuleType):
            continue
        held = thing if isinstance(thing, Registry) else _held_registry(thing)
        if isinstance(held, Registry):  # of a DAG, too: it knows the actions of its own nodes
            if held is not parent:
                for each in list(held._actions.values()):
                    made.register(each, replace=True)
                for nested, workflow in held.workflows.items():  # what its DAG was built with
                    made.register_workflow(workflow, nested, replace=True)
                made.bring_node_hooks(held)
                if held is thing:  # hooks of a DAG's own registry are for its runs
                    for each_name, hook in list(held.hooks.items()):
                        made.register_hook(each_name, hook, replace=True)
        elif definition_of(thing) is not None and not isinstance(thing, type):
            made.register(thing, replace=True)
        elif not name.startswith("_") and _belongs(thing, module):
            try:
                made.register(thing, replace=True)
            except RegistryError:
                continue  # a helper that cannot be an action is not asked for by any node
    return made


def _is_workflow(thing: Any) -> bool:
    return (
        not isinstance(thing, type)
        and isinstance(_held_registry(thing), Registry)
        and callable(getattr(thing, "compile", None))
        and isinstance(getattr(thing, "name", None), str)
    )


def _held_registry(thing: Any) -> Any:
    return inspect.getattr_static(thing, "registry", None)


def _belongs(thing: Any, module: types.ModuleType) -> bool:
    if isinstance(thing, type):
        return False
    if is_node_action(thing):
        return isinstance(getattr(thing, "name", None), str)
    if not inspect.isfunction(thing):
        return False
    return getattr(seen_through(thing), "__module__", None) == module.__name__
