"""`@task_agent`: what it registers, where, and what it refuses."""

from __future__ import annotations

import types
from typing import Any

import pytest

from dagger_dsl import Registry, RetryPolicy, task_agent
from dagger_dsl.agents import AgentDef
from dagger_dsl.agents.calls import Caller
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.errors import ConfigurationError, InputValidationError, RegistryError
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
    assert (agent.given_input, agent.given_output) == (None, None)
    assert (agent.input_schema, agent.output_schema) == (None, {"type": "string"})


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


@pytest.mark.row("I1")
def test_annotations_make_the_schemas_that_are_not_given() -> None:
    registry = Registry()

    @task_agent(registry=registry)
    def several(topic: str, ctx: TaskContext, task_id: str, depth: int = 1) -> list[str]:
        return [topic] * depth

    @task_agent(registry=registry, output_schema={"type": "object"})
    class Whole:
        async def execute(self, input: dict[str, float], task_manager: Any) -> Any: ...

    @task_agent(registry=registry)
    def nothing(): ...  # type: ignore[no-untyped-def]  # on purpose

    @task_agent(registry=registry)
    def later(input: NotYetThere) -> NotYetThere: ...  # type: ignore[name-defined]  # noqa: F821  # on purpose

    schemas = {
        name: (agent.input_schema, agent.output_schema)
        for name, agent in registry.task_agents.items()
    }
    assert schemas == {
        "several": (
            {
                "type": "object",
                "properties": {"topic": {"type": "string"}, "depth": {"type": "integer"}},
                "required": ["topic"],
            },
            {"type": "array", "items": {"type": "string"}},
        ),
        "Whole": (
            {"type": "object", "additionalProperties": {"type": "number"}},
            {"type": "object"},
        ),
        "nothing": (None, None),
        "later": (None, None),
    }


@pytest.mark.row("I1")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"topic": 3}, r"agent 'several': input\['topic'\]"),
        ({"topic": "x", "depth": "deep"}, r"agent 'several': input\['depth'\]"),
        ({"depth": 1}, "the input has no 'topic'"),
        ("x", "takes 'topic', 'depth' of a mapping"),
        (None, "the input has no 'topic'"),
        ({"topic": "x", "dept": 1}, "unknown input 'dept'; did you mean 'depth'"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_by_its_field(value: Any, message: str) -> None:
    def several(topic: str, depth: int = 1) -> None: ...

    caller = Caller(AgentDef("several", several))
    caller.check_input({"topic": "x"})
    with pytest.raises(InputValidationError, match=message):
        caller.check_input(value)


@pytest.mark.row("I29")
def test_a_number_of_retries_is_a_policy() -> None:
    registry = Registry()
    task_agent(retry=2, registry=registry)(research)
    policy = registry.agents["research"].retry
    assert policy == RetryPolicy(max_attempts=3)
