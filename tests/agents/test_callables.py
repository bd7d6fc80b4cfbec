"""What may be an agent is awaited where it has to be; what cannot be one is refused at once."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, action, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.definition import AgentDef
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.roster import TaskAgentRegistry
from dagger_dsl.errors import ConfigurationError, EncodingError, RegistryError
from dagger_dsl.model.tasks import JobStatus, TaskStatus
from dagger_dsl.model.values import Secret
from tests.agents.helpers import LONG, registry_of


async def doubled(input: int) -> int:
    await asyncio.sleep(0)
    return 2 * input


class Doubler:
    """An object that is called like an async function."""

    async def __call__(self, input: int) -> int:
        return await doubled(input)


class Lazy:
    """An object whose call returns something to be awaited."""

    def __call__(self, input: int) -> Any:
        return doubled(input)


def wrapped(input: int) -> Any:
    return doubled(input)


@pytest.mark.parametrize("limit", [None, LONG])
@pytest.mark.parametrize(
    "agent",
    [doubled, Doubler(), Lazy(), wrapped, functools.partial(doubled), action(doubled)],
    ids=["function", "object", "lazy", "wrapper", "partial", "action"],
)
def test_what_has_to_be_awaited_is(agent: Callable[..., Any], limit: float | None) -> None:
    registry = Registry()
    task_agent(name="a", registry=registry, timeout=limit)(agent)
    with TaskManager(registry=registry, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "a", input=21)
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        task = manager.get_task(task_id)
        assert task is not None
        assert task.output == 42


def test_what_a_wrapper_returns_is_awaited_within_the_time_limit() -> None:
    async def waits() -> None:
        await asyncio.sleep(LONG)

    registry = Registry()
    task_agent(name="a", registry=registry, timeout=0.05)(lambda: waits())
    with TaskManager(registry=registry, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "a")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        task = manager.get_task(task_id)
        assert task is not None
        assert "NodeTimeout: " in task.error
        assert "0.05 s" in task.error


def yields(input: int) -> Iterator[int]:
    yield input


async def yields_async(input: int) -> AsyncIterator[int]:
    yield input


class Yields:
    """An agent whose method yields."""

    def execute(self, input: int) -> Iterator[int]:
        yield input


class YieldsWhenCalled:
    """An object whose call yields."""

    def __call__(self, input: int) -> Iterator[int]:
        yield input


@pytest.mark.parametrize("agent", [yields, yields_async, Yields, YieldsWhenCalled()])
def test_an_agent_that_yields_is_refused_where_it_is_registered(agent: Any) -> None:
    registry = Registry()
    with pytest.raises(RegistryError, match="agent 'a' yields, and an agent returns one result"):
        task_agent(name="a", registry=registry)(agent)
    assert not registry.task_agents
    with pytest.raises(RegistryError, match="yields"):
        TaskAgentRegistry().register("a", agent)


@pytest.mark.parametrize("which", ["input_schema", "output_schema"])
def test_a_schema_that_is_none_is_refused_where_it_is_given(which: str) -> None:
    registry = Registry()
    given: dict[str, Any] = {which: {"type": "bogus"}}
    with pytest.raises(ConfigurationError, match=f"{which} of agent 'a' is no JSON Schema"):
        task_agent(name="a", registry=registry, **given)(yields_nothing)
    assert not registry.task_agents
    with pytest.raises(ConfigurationError, match="no JSON Schema"):
        AgentDef("a", yields_nothing, **given)


def yields_nothing(input: Any = None) -> None:
    return None


@pytest.mark.parametrize(
    ("value", "way_out"),
    [(object(), "return plain data, or use register_type"), (Secret("x"), "look it up when it")],
)
def test_what_no_task_can_keep_is_refused_with_a_way_out_that_there_is(
    value: Any, way_out: str, tmp_path: Path
) -> None:
    def publishes(ctx: TaskContext) -> None:
        ctx.publish("news", value)

    url = f"sqlite:{tmp_path / 'tasks.db'}"
    registry = registry_of(a=lambda input=None: value, publishes=publishes)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        told = []
        for refused in (
            lambda: manager.state("s").set("k", value),
            lambda: manager.add_task("k", "", "a", input=value),
        ):
            with pytest.raises(EncodingError, match=way_out) as error:
                refused()
            told.append(str(error.value))
        manager.add_task("j", "", "a")
        manager.add_task("j", "", "publishes")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        for task in manager.tasks("j"):
            assert task.status is TaskStatus.FAILED
            assert way_out in task.error
            told.append(task.error)
    for text in told:
        assert "store=False" not in text
        assert "resume(" not in text
