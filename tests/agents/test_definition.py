"""`@task_agent`: what it registers, where, and what it refuses."""

from __future__ import annotations

import types
from typing import Any

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents import AgentDef
from dagger_dsl.errors import ConfigurationError, RegistryError
from dagger_dsl.registry import current_registry

SCHEMA = {"type": "object", "required": ["topic"]}


def research(input: Any, ctx: Any) -> str:
    """Find out about a topic.

    At length.
    """
    return f"all about {input}"


@pytest.mark.row("O3")
def test_it_registers_a_function_and_leaves_it_as_it_is() -> None:
    with Registry() as registry:
        made = task_agent(research)
    assert made is research
    assert research("x", None) == "all about x"
    agent = registry.task_agents["research"]
    assert isinstance(agent, AgentDef)
    assert (agent.name, agent.target) == ("research", research)
    assert agent.description == "Find out about a topic."
    assert (agent.input_schema, agent.output_schema) == (None, None)


@pytest.mark.row("O3")
def test_with_options_and_with_a_class() -> None:
    registry = Registry()

    @task_agent(
        name="counter",
        description="Counts.",
        input_schema=SCHEMA,
        output_schema='{"type": "integer"}',
        registry=registry,
    )
    class Counting:
        def __init__(self) -> None:
            self.number = 0

        def execute(self, input: Any, ctx: Any) -> int:
            self.number += 1
            return self.number

    assert Counting().execute(None, None) == 1
    agent = registry.task_agents["counter"]
    assert agent.target is Counting
    assert agent.description == "Counts."
    assert agent.input_schema == SCHEMA
    assert agent.output_schema == {"type": "integer"}


@pytest.mark.row("O3")
def test_registrations_stay_in_their_registry() -> None:
    outside = dict(current_registry().task_agents)
    with Registry() as one:
        task_agent(research)
    with Registry() as other:
        pass
    assert list(one.task_agents) == ["research"]
    assert not other.task_agents
    assert dict(current_registry().task_agents) == outside


def cell(text: str) -> types.FunctionType:
    """Run a notebook cell that defines `f` and return it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def f(input, ctx):\n    return {text!r}\n", names)
    made: types.FunctionType = names["f"]
    return made


@pytest.mark.row("O3")
def test_a_cell_that_runs_again_replaces_its_agent_and_nobody_elses() -> None:
    registry = Registry()
    first, second = cell("one"), cell("two")
    task_agent(registry=registry)(first)
    task_agent(registry=registry)(second)
    assert registry.task_agents["f"].target is second
    with pytest.raises(RegistryError, match="'f' is registered already; give it another name"):
        task_agent(name="f", registry=registry)(research)
    assert registry.task_agents["f"].target is second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descripton": "x"}, "no option 'descripton'.*'description'"),
        ({"outputs": ["x"]}, "no option 'outputs'"),
        ({"input_schema": "{"}, "input_schema is not JSON"),
        ({"output_schema": 3}, "output_schema is a JSON Schema"),
        ({"description": 3}, "description is a text"),
    ],
)
def test_a_bad_option_is_refused_where_it_is_written(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        task_agent(**options)


@pytest.mark.parametrize("target", [3, "name", type("Empty", (), {})])
def test_what_cannot_be_an_agent_is_refused(target: Any) -> None:
    with pytest.raises(RegistryError, match="a function or a class with a method 'execute'"):
        task_agent(registry=Registry())(target)
