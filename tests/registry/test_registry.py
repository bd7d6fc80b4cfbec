"""Registries: names, replacing, defaults, overlays and what else passes for one."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from dagger_dsl import registry as registry_room
from dagger_dsl.errors import ActionNotFound, RegistryError
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.registry import ActionRegistry, Registry, as_registry, current_registry


def add(a: int, b: int) -> int:
    return a + b


def subtract(a: int, b: int) -> int:
    return a - b


class Echo:
    name = "echo"

    async def execute(self, ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success(ctx.inputs)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.mark.row("B12", "B13", "B14")
def test_actions_are_found_by_name_and_listed_in_order(registry: Registry) -> None:
    assert ActionRegistry is Registry
    registry.register(subtract)
    registry.register(Echo())
    registry.register(add, name="plus")
    assert registry.list_actions() == ["echo", "plus", "subtract"]
    assert list(registry) == registry.list_actions()
    assert len(registry) == 3
    assert "plus" in registry
    assert registry.contains("echo")
    assert "add" not in registry
    assert 3 not in registry
    found = registry.get("plus")
    assert found is not None
    assert found.fn is add
    assert registry.get("add") is None


@pytest.mark.row("A55")
def test_register_fn_registers_under_the_given_name(registry: Registry) -> None:
    registry.register_fn("my_action", add)
    assert "my_action" in registry.list_actions()
    assert registry["my_action"].style == "function"


@pytest.mark.row("A54")
def test_register_fn_detects_the_legacy_signature(registry: Registry) -> None:
    def simple_action(executor: Any, node: Any, cache: Any) -> None: ...

    registry.register_fn("simple_action", simple_action)
    assert registry["simple_action"].style == "legacy"


def test_a_missing_name_is_an_error_that_suggests_one(registry: Registry) -> None:
    registry.register(subtract)
    with pytest.raises(ActionNotFound, match=r"no action 'substract' .* did you mean 'subtract'"):
        registry["substract"]
    with pytest.raises(LookupError):
        registry["substract"]


@pytest.mark.row("B12")
def test_a_name_from_elsewhere_is_not_taken_over_unless_asked(registry: Registry) -> None:
    registry.register(add, name="calculate")
    with pytest.raises(RegistryError, match=r"'calculate' is registered already, from .*\.add"):
        registry.register(subtract, name="calculate")
    assert registry["calculate"].fn is add
    registry.register(subtract, name="calculate", replace=True)
    assert registry["calculate"].fn is subtract


@pytest.mark.row("O2")
def test_running_a_definition_again_replaces_silently(registry: Registry) -> None:
    def cell(version: int) -> Callable[[], int]:
        def step() -> int:
            return version

        return step

    registry.register(cell(1))
    registry.register(cell(2))
    assert registry["step"].fn() == 2
    assert registry["step"].qualname == (
        "test_running_a_definition_again_replaces_silently.cell.step"
    )


def test_a_failed_registration_changes_nothing(registry: Registry) -> None:
    registry.register(add)
    before = {name: registry[name] for name in registry}
    for bad in (42, lambda x: x, object()):
        with pytest.raises(RegistryError):
            registry.register(bad)
    with pytest.raises(ValueError, match="no option 'timout'"):
        registry.register(subtract, timout=3)
    assert {name: registry[name] for name in registry} == before


@pytest.mark.row("O2")
def test_a_with_block_isolates_registrations() -> None:
    outside = current_registry()
    with Registry() as outer:
        assert current_registry() is outer
        with Registry() as inner:
            assert current_registry() is inner
            inner.register(add)
        assert current_registry() is outer
        assert "add" not in outer
    assert current_registry() is outside
    assert registry_room.registry.get("add") is None


def test_the_default_belongs_to_its_context() -> None:
    with Registry() as here:
        seen: list[Registry] = []
        thread = threading.Thread(target=lambda: seen.append(current_registry()))
        thread.start()
        thread.join()
        copied = copy_context().run(current_registry)
        assert copied is here
    assert seen[0] is not here


def test_an_overlay_looks_below_and_never_writes_there(registry: Registry) -> None:
    registry.register(add)
    overlay = Registry(parent=registry)
    overlay.register(subtract)
    assert overlay["add"].fn is add
    assert overlay.own("add") is None
    assert overlay.list_actions() == ["add", "subtract"]
    assert "subtract" not in registry
    overlay.register(subtract, name="add")  # shadows; nothing of the overlay's own is replaced
    assert overlay["add"].fn is subtract
    assert registry["add"].fn is add
    overlay.reset()
    assert overlay.list_actions() == ["add"]


def test_reset_and_unregister_forget(registry: Registry) -> None:
    registry.register(add)
    registry.register(subtract)
    registry.unregister("add")
    registry.unregister("add")
    assert registry.list_actions() == ["subtract"]
    registry.register_hook("h", object())
    registry.reset()
    assert registry.list_actions() == []
    assert not registry.hooks
    assert bool(registry)


def test_hooks_and_agents_have_tables_of_their_own(registry: Registry) -> None:
    for register, table in (
        (registry.register_hook, "hooks"),
        (registry.register_task_agent, "task_agents"),
        (registry.register_pubsub_agent, "pubsub_agents"),
    ):
        thing = object()
        register("x", thing)
        assert getattr(registry, table)["x"] is thing
        with pytest.raises(RegistryError, match="registered already"):
            register("x", object())
        register("x", "other", replace=True)
        assert dict(getattr(registry, table)) == {"x": "other"}
        with pytest.raises(RegistryError, match="name"):
            register("", thing)
    assert registry.list_actions() == []


def test_registering_from_many_threads_loses_nothing(registry: Registry) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        for i in range(50):
            registry.register(add, name=f"add_{number}_{i}")
            registry.list_actions()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry) == 400


def test_of_threads_that_race_for_a_name_one_wins(registry: Registry) -> None:
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def work(fn: Callable[[int, int], int]) -> None:
        barrier.wait()
        try:
            registry.register(fn, name="same")
        except RegistryError:
            outcomes.append("refused")
        else:
            outcomes.append("won")

    threads = [threading.Thread(target=work, args=(fn,)) for fn in (add, subtract)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "won"]


def test_none_a_mapping_and_a_registry_pass_for_a_registry(registry: Registry) -> None:
    registry.register(add)
    assert as_registry(None) is registry
    other = Registry()
    assert as_registry(other) is other
    made = as_registry({"minus": subtract, "echo": Echo()})
    assert made["minus"].fn is subtract
    assert made["echo"].style == "context"
    assert made["add"].fn is add  # what is not in the mapping is looked up in the default
    with pytest.raises(RegistryError, match="is no action"):
        as_registry({"bad": 3})
    with pytest.raises(RegistryError, match="a registry is"):
        as_registry(42)


def test_a_module_passes_for_a_registry(registry: Registry) -> None:
    module = types.ModuleType("flow_actions")
    source = (
        "import os\n"
        "from os.path import join\n"
        "from dagger_dsl.registry import Registry, define\n"
        "def simple_action(executor, node, cache): ...\n"
        "def load(path): ...\n"
        "def _private(x): ...\n"
        "def wrapper(*args, **kwargs): ...\n"
        "class Action:\n"
        "    name = 'object'\n"
        "    def execute(self, ctx): ...\n"
        "instance = Action()\n"
        "declared = define(lambda x: x, 'declared')\n"
        "own = Registry()\n"
        "own.register(lambda x: x, 'from_own')\n"
    )
    exec(source, module.__dict__)
    found = as_registry(module)
    assert found.list_actions() == ["declared", "from_own", "load", "object", "simple_action"]
    assert found["simple_action"].style == "legacy"


def test_a_module_brings_the_actions_of_its_dags(registry: Registry) -> None:
    module = types.ModuleType("flow")
    source = "from dagger_dsl import DAG\ndag = DAG('flow')\n@dag.node\ndef load(): ...\n"
    exec(source, module.__dict__)
    assert as_registry(module).list_actions() == ["flow.load"]


def test_reference_names_of_a_module_that_is_run_twice_are_replaced(registry: Registry) -> None:
    source = "def load(path):\n    return 1\n"
    for _ in range(2):
        space: dict[str, Any] = {"__name__": "cells"}
        exec(source, space)
        registry.register(space["load"])
    assert registry["load"].module == "cells"
