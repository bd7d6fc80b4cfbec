"""What can be an agent, what its options mean, and what is refused on every way in."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    AgentNotFound,
    ConfigurationError,
    InvalidState,
    MessageValidationError,
    RegistryError,
)
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubAgent,
    PubSubAgentDef,
    PubSubConfig,
    PubSubExecutor,
    Reactive,
    StartWith,
    WorkflowSpec,
    pubsub_agent,
    subscriber,
)
from dagger_dsl.registry import registry as default


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.row("J6", "J7")
def test_the_decorator_registers_and_changes_nothing(registry: Registry) -> None:
    def handle(message: Message) -> int:
        """Say something.

        More of it.
        """
        return 7

    decorated = pubsub_agent(
        name="agent",
        subscribe=["a", "b.*"],
        publish="c",
        retry=2,
        concurrency=3,
        registry=registry,
    )(handle)
    assert decorated is handle
    assert handle(Message("a")) == 7
    agent = registry.pubsub_agents["agent"]
    assert isinstance(agent, PubSubAgentDef)
    assert (agent.subscribe, agent.publish) == (("a", "b.*"), ("c",))
    assert (agent.description, agent.concurrency) == ("Say something.", 3)
    assert agent.retry == RetryPolicy(max_attempts=3)
    assert "agent" not in default.pubsub_agents


@pytest.mark.row("J2")
def test_a_subscriber_is_an_agent_of_the_channels_that_it_names(registry: Registry) -> None:
    @subscriber("orders", "bills.*", retry=1, registry=registry)
    def count(payload: int) -> int:
        return payload

    agent = registry.pubsub_agents["count"]
    assert (agent.target, agent.subscribe) == (count, ("orders", "bills.*"))
    assert agent.retry == RetryPolicy(max_attempts=2)


def test_a_subscriber_names_its_channels_once(registry: Registry) -> None:
    for wrong in ((), (7,), (print,), ("",)):
        with pytest.raises(ConfigurationError, match="channel"):
            subscriber(*wrong, registry=registry)(print)
    with pytest.raises(ConfigurationError, match="without subscribe="):
        subscriber("a", subscribe="b", registry=registry)
    assert registry.pubsub_agents == {}


def test_it_works_without_parentheses_and_in_the_registry_in_force() -> None:
    with Registry() as registry:

        @pubsub_agent
        class Agent:
            def subscriptions(self) -> list[str]:
                return ["a"]

            def publications(self) -> list[str]:
                return []

            def handle_message(self, message: Message, bus: Any) -> None: ...

        assert isinstance(Agent(), PubSubAgent)
        assert list(registry.pubsub_agents) == ["Agent"]
        assert list(PubSubExecutor().agents) == ["Agent"]


def test_both_spellings_of_the_options(registry: Registry) -> None:
    @pubsub_agent(subscribes="a", publishes=["b"], registry=registry)
    def agent(message: Message) -> None: ...

    found = registry.pubsub_agents["agent"]
    assert (found.subscribe, found.publish) == (("a",), ("b",))
    with pytest.raises(ConfigurationError, match="another spelling of 'subscribe'"):
        pubsub_agent(subscribe="a", subscribes="b", registry=registry)


def nothing(message: Message) -> None: ...


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"subscribe": 7}, "subscribe is a list of channels"),
        ({"subscribe": ["a..b"]}, "empty parts"),
        ({"subscribe": [["a"]]}, "is a text, not"),
        ({"subscribe": ["a*"]}, "whole parts"),
        ({"subscribe": "a", "publish": [None]}, "is a text, not None"),
        ({"subscribe": "a", "input_schema": 7}, "input_schema is a JSON Schema"),
        ({"subscribe": "a", "input_schema": {"type": "nonsense"}}, "is no JSON Schema"),
        ({"subscribe": "a", "input_schema": "{"}, "is not JSON"),
        ({"subscribe": "a", "input_schema": "[]"}, r"and not \[\]"),
        ({"subscribe": "a", "input_schema": "true"}, "and not True"),
        ({"subscribe": "a", "output_schema": {"$ref": "http://x/y"}}, "schemas are not fetched"),
        ({"subscribe": "a", "concurrency": 0}, "concurrency"),
        ({"subscribe": "a", "concurrency": True}, "concurrency"),
        ({"subscribe": "a", "retry": "often"}, "retry must be"),
        ({"subscribe": "a", "retry": -1}, "retry"),
        ({"subscribe": "a", "description": 7}, "description is a text"),
        ({"subscrib": "a"}, "did you mean 'subscribe'"),
        ({"subscribe": "a", "timeout": 0}, "timeout"),
    ],
)
def test_impossible_options_are_refused(
    registry: Registry, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        pubsub_agent(registry=registry, **options)(nothing)
    assert not registry.pubsub_agents


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        (nothing, {}, "nothing says which messages"),
        (7, {"subscribe": "a"}, "is a function, or a class"),
        (object, {"subscribe": "a"}, "is a function, or a class"),
        (nothing, {"subscribe": "a", "name": ""}, "name is a text"),
        (nothing, {"subscribe": "a", "name": 7}, "name is a text"),
        (nothing, {"subscribe": "a", "name": "x" * 201}, "name is a text"),
    ],
)
def test_what_cannot_be_an_agent_is_refused(
    registry: Registry, target: Any, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(RegistryError, match=error):
        pubsub_agent(registry=registry, **options)(target)
    assert not registry.pubsub_agents


def three(message: Message, bus: MessageContext, more: int) -> None: ...
def keyword(message: Message, *, needed: int) -> None: ...
def two(one: int, other: int) -> None: ...
def backwards(bus: MessageContext, payload: int) -> None: ...
def optional(message: Message, *rest: Any, more: int = 7, **others: Any) -> None: ...


def yields(message: Message) -> Iterator[int]:
    yield 1


async def yields_later(message: Message) -> AsyncIterator[int]:
    yield 1


class NeedsArguments:
    def __init__(self, wanted: int) -> None: ...

    def handle_message(self, message: Message) -> None: ...


class SaysNothing:
    def subscriptions(self) -> list[str]:
        return []

    def handle_message(self, message: Message) -> None: ...


class SaysNonsense(SaysNothing):
    def subscriptions(self) -> Any:
        return 7


class SaysLater(SaysNothing):
    async def subscriptions(self) -> Any:  # type: ignore[override]
        return ["a"]


class SaysNoChannel(SaysNothing):
    def subscriptions(self) -> list[str]:
        return ["a", "b..c"]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(
    ("target", "error"),
    [
        (three, r"takes \(message, bus, more\)"),
        (keyword, "nothing fills its parameter 'needed'"),
        (two, "nothing fills its parameter 'other'"),
        (backwards, r"takes \(bus, payload\)"),
        (yields, "yields; an agent returns"),
        (yields_later, "yields; an agent returns"),
        (NeedsArguments, "cannot be made without arguments"),
        (SaysNothing, "subscribes to no channel"),
        (SaysNonsense, r"subscriptions\(\) returns a list"),
        (SaysLater, r"subscriptions\(\) returns a list"),
        (SaysNoChannel, r"subscriptions\(\): .*empty parts"),
        (print, "nothing says which messages"),
    ],
)
def test_what_a_bus_cannot_call_is_refused(registry: Registry, target: Any, error: str) -> None:
    agent: Any = target
    if not hasattr(target, "subscriptions") and target is not print:
        agent = PubSubAgentDef("agent", target, ("a",))
    with pytest.raises((RegistryError, ConfigurationError), match=error):
        PubSubExecutor([agent], registry=registry)


def test_optional_parameters_keep_their_defaults(registry: Registry) -> None:
    pubsub_agent(subscribe="a", registry=registry)(optional)
    assert PubSubExecutor(registry=registry).run(StartWith("a")).success


class Named:
    """An agent whose parameters have names of their own."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def subscriptions(self) -> list[str]:
        return ["a"]

    def handle_message(self, msg, context) -> None:  # type: ignore[no-untyped-def]
        self.seen += [msg, context]


def test_a_method_is_given_the_message_and_the_context_whatever_their_names(
    registry: Registry,
) -> None:
    agent = Named()
    assert PubSubExecutor([agent], registry=registry).run(StartWith("a", 5)).success
    message, context = agent.seen
    assert isinstance(message, Message)
    assert isinstance(context, MessageContext)
    assert message.payload == 5


def test_a_method_that_wants_something_else_is_refused(registry: Registry) -> None:
    class Wants(Named):
        def handle_message(self, order: dict[str, int]) -> None: ...  # type: ignore[override]

    with pytest.raises(RegistryError, match=r"'order' of its method .* is given the Message"):
        PubSubExecutor([Wants()], registry=registry)


def test_a_partial_is_called_with_what_it_leaves_open(registry: Registry) -> None:
    seen: list[int] = []

    def priced(payload: int, rate: int) -> None:
        seen.append(payload * rate)

    pubsub_agent(subscribe="a", name="g", registry=registry)(functools.partial(priced, rate=3))
    bus = PubSubExecutor(registry=registry)
    assert bus.run(StartWith("a", 5)).success
    assert seen == [15]
    with bus, pytest.raises(MessageValidationError, match="'payload' of agent 'g'"):
        bus.publish("a", "no number").result()


def test_a_wrapper_that_hides_its_parameters_is_refused(registry: Registry) -> None:
    def inner(payload: int) -> None: ...

    def bare(*args: Any, **kw: Any) -> None:
        inner(*args, **kw)

    with pytest.raises(RegistryError, match=r"takes \*args, .*functools.wraps"):
        PubSubExecutor([PubSubAgentDef("bare", bare, ("a",))], registry=registry)
    kept = functools.wraps(inner)(bare)
    bus = PubSubExecutor([PubSubAgentDef("kept", kept, ("a",))], registry=registry)
    assert bus.run(StartWith("a", 5)).success


def test_the_code_of_a_class_that_fails_is_told_with_the_agents_name(registry: Registry) -> None:
    class Fails(Named):
        def subscriptions(self) -> list[str]:
            raise OSError("no settings")

    with pytest.raises(RegistryError, match=r"'Fails': subscriptions\(\) failed: .*no settings"):
        PubSubExecutor([Fails()], registry=registry)


def test_an_agent_of_another_registry_is_told_of_that(registry: Registry) -> None:
    pubsub_agent(subscribe="a", registry=Registry())(nothing)
    with pytest.raises(RegistryError, match=r"PubSubExecutor\(registry="):
        PubSubExecutor([nothing], registry=registry)


def test_what_is_no_list_of_agents_and_nothing_to_run_is_refused(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="agents is a list of agents, not 5"):
        PubSubExecutor(5, registry=registry)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="runs a StartWith or a Reactive"):
        PubSubExecutor([], registry=registry).run(WorkflowSpec())


def test_an_object_that_can_be_called(registry: Registry) -> None:
    class Handler:
        seen: list[Any]

        async def __call__(self, payload: int) -> None:
            self.seen = [payload]

    handler = Handler()
    agent = PubSubAgentDef("handler", handler, ("a",))
    assert PubSubExecutor([agent], registry=registry).run(StartWith("a", 5)).success
    assert handler.seen == [5]


def test_a_function_that_returns_something_to_be_awaited_is_told(registry: Registry) -> None:
    async def later() -> int:
        return 7

    @pubsub_agent(subscribe="a", publish="b", registry=registry)
    def agent(message: Message) -> Any:
        return later()

    (letter,) = PubSubExecutor(registry=registry).run(StartWith("a")).dead_letters
    assert "write it as `async def`" in letter.error


def test_what_an_agent_fails_with_cannot_command_a_terminal(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    @pubsub_agent(subscribe="a", registry=registry)
    async def agent(payload: str) -> None:
        raise ValueError(payload)

    PubSubExecutor(registry=registry).run(StartWith("a", "\x1b[2Jgone", id="\x1b[2J"))
    assert "\x1b" not in "".join(each.getMessage() for each in caplog.records)


def test_agents_are_named_given_or_defined(registry: Registry) -> None:
    pubsub_agent(name="one", subscribe="a", registry=registry)(nothing)
    bus = PubSubExecutor(["one"], registry=registry)
    assert list(bus.agents) == ["one"]
    assert bus.register(nothing, "two") == "two"
    assert list(bus.agents) == ["one", "two"]
    with pytest.raises(AgentAlreadyRegistered, match="'one'"):
        bus.register(nothing)
    with pytest.raises(AgentNotFound, match="did you mean 'one'"):
        PubSubExecutor(["on"], registry=registry)
    with pytest.raises(AgentAlreadyRegistered):
        PubSubExecutor(["one", nothing], registry=registry)
    assert list(PubSubExecutor([], registry=registry).agents) == []
    for wrong in ("one", {"one": nothing}):
        with pytest.raises(ConfigurationError, match="agents is a list"):
            PubSubExecutor(wrong, registry=registry)


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 0},
        {"capacity": "many"},
        {"publish_timeout": -1},
        {"publish_timeout": "soon"},
        {"max_waiting": 0},
        {"max_channels": 0},
        {"max_message_bytes": 0},
        {"max_publications": 0},
        {"max_ids": 0},
        {"strict": 1},
        {"retry": "often"},
        {"dead_letters": 0},
        {"max_deaths": 0},
        {"keep": -1},
        {"grace": -1},
        {"lease": 0},
    ],
)
def test_an_impossible_config_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        PubSubConfig(**options)


def test_a_channel_of_letters_is_a_channel() -> None:
    for wrong in ("a.*", "", 7):
        with pytest.raises(ConfigurationError, match="channel"):
            PubSubConfig(dead_letter_channel=wrong)  # type: ignore[arg-type]


def test_a_config_is_what_it_says() -> None:
    config = PubSubConfig()
    assert (config.capacity, config.publish_timeout, config.strict) == (1_000, 60.0, False)
    assert config.retry == RetryPolicy(max_attempts=1)
    assert PubSubConfig(publish_timeout=None).publish_timeout is None
    with pytest.raises(ConfigurationError, match="config is a PubSubConfig"):
        PubSubExecutor(config={"strict": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: StartWith("a.*"),
        lambda: StartWith(""),
        lambda: StartWith("a", idle=-1),
        lambda: StartWith("a", count=0),
        lambda: Reactive(timeout="soon"),  # type: ignore[arg-type]
        lambda: Reactive(count=1.5),  # type: ignore[arg-type]
        lambda: PubSubExecutor([]).run("a"),  # type: ignore[arg-type]
    ],
)
def test_an_impossible_spec_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.fixture
def bus(registry: Registry) -> Iterator[PubSubExecutor]:
    pubsub_agent(subscribe="**", registry=registry)(nothing)
    with PubSubExecutor(registry=registry) as bus:
        yield bus


@pytest.mark.parametrize(
    ("channel", "options"),
    [
        ("a.*", {}),
        ("", {}),
        ("a..b", {}),
        ("x" * 201, {}),
        ("a\0", {}),
        (None, {}),
        (7, {}),
        (["a"], {}),
        ("a\ud800", {}),
        ("a", {"key": "\udfff"}),
        ("a", {"key": None}),
        ("a", {"key": 7}),
        ("a", {"key": "x" * 201}),
        ("a", {"key": "\0"}),
        ("a", {"id": ""}),
        ("a", {"id": 7}),
        ("a", {"id": "x" * 201}),
        ("a", {"task_id": 7}),
        ("a", {"timeout": "soon"}),
        ("a", {"timeout": -1}),
    ],
)
def test_impossible_messages_are_refused(
    bus: PubSubExecutor, channel: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        bus.publish(channel, 1, **options).result()
    assert all(each.published == 0 for each in bus.channels.values())


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a.*"},
        {"name": None},
        {"name": "a", "schema": 7},
        {"name": "a", "schema": {"type": 7}},
        {"name": "a", "capacity": 0},
    ],
)
def test_impossible_channels_are_refused(bus: PubSubExecutor, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        bus.channel(**options)
    assert bus.channels == {}


@pytest.mark.parametrize("ids", [7, [7], [None]])
def test_impossible_ids_are_refused(bus: PubSubExecutor, ids: Any) -> None:
    for change in (bus.replay, bus.discard):
        with pytest.raises(ConfigurationError, match="id"):
            change(ids=ids)


def test_a_bus_that_does_not_run_says_so(registry: Registry) -> None:
    bus = PubSubExecutor([], registry=registry)
    for ask in (bus.replay, bus.discard, bus.wait_idle):
        with pytest.raises(InvalidState, match="does not run"):
            ask()
    bus.close()
    bus.stop()


def test_an_error_that_cannot_be_shown_is_kept_all_the_same(registry: Registry) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    @pubsub_agent(subscribe="a", registry=registry)
    def mute(message: Message) -> None:
        raise Mute

    @pubsub_agent(subscribe="a", registry=registry)
    async def loud(message: Message) -> None:
        raise ValueError("x" * 1_000_000)

    report = PubSubExecutor(registry=registry).run(StartWith("a"))
    errors = {each.agent: each.error for each in report.dead_letters}
    assert errors["mute"] == "Mute"
    assert len(errors["loud"]) < 11_000
