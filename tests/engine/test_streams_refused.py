"""Streams that cannot be: what is said of them before a run, or by it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, Registry
from dagger_dsl.errors import OutputError, ValidationError
from dagger_dsl.model.context import Branch
from dagger_dsl.model.policies import CacheStrategy
from tests.engine.helpers import states
from tests.engine.steered import Steered, every_runner


def numbers() -> Iterator[int]:
    """Yield a number."""
    yield 1


async def flowing() -> AsyncIterator[int]:
    """Yield a number."""
    yield 1


def opened() -> Iterator[int]:
    """Return an iterator."""
    return iter([1])


def anything(xs: Any) -> Any:
    """Take anything."""
    return xs


def refused(flow: Steered) -> str:
    """Return why a flow is refused before it runs."""
    with pytest.raises(ValidationError) as caught:
        flow.graph().validate(flow.registry)
    return str(caught.value)


def fed(source: Callable[..., Any], body: Callable[..., Any], **fields: Any) -> Steered:
    """Return a flow of a source and a consumer."""
    return Steered().add("source", source).add("one", body, take={"xs": "source"}, **fields)


@pytest.mark.parametrize("source", [numbers, flowing, opened])
def test_a_second_consumer_is_refused(source: Callable[..., Any]) -> None:
    async def body(xs: Any) -> None: ...

    text = refused(fed(source, body).add("two", body, take={"xs": "source"}))
    assert "node 'source': it yields its items one by one, and 'one' and 'two' take them" in text
    assert "return list(...)" in text


def test_one_consumer_takes_a_stream_once() -> None:
    flow = Steered().add("source", numbers)
    flow.add("one", lambda xs, ys: 1, take={"xs": "source", "ys": "source"})
    assert "'one' with two inputs take them" in refused(flow)


def test_a_stream_that_is_mapped_over_is_a_list_for_everybody() -> None:
    flow = fed(numbers, lambda xs: xs + 1, map_over="xs")
    flow.add("two", anything, take={"xs": "source"})
    assert flow.run().outputs == {"one": [2], "two": [1]}


@pytest.mark.parametrize(
    ("source", "body", "fits"),
    [
        (numbers, lambda xs: 1, True),
        (flowing, anything, False),
    ],
)
def test_an_async_stream_needs_an_async_consumer(
    source: Callable[..., Any], body: Callable[..., Any], fits: bool
) -> None:
    flow = fed(source, body)
    if fits:
        flow.graph().validate(flow.registry)
    else:
        assert "is a plain function; make it 'async def'" in refused(flow)


def _takes(kind: Any, *, is_async: bool = False) -> Callable[..., Any]:
    if is_async:

        async def body_async(xs: Any) -> None: ...

        body_async.__annotations__["xs"] = kind
        return body_async

    def body(xs: Any) -> None: ...

    body.__annotations__["xs"] = kind
    return body


@pytest.mark.parametrize(
    ("source", "kind", "is_async", "fault"),
    [
        (numbers, Iterator[int], False, None),
        (numbers, Iterable[int], False, None),
        (numbers, Iterator[int] | list[int], False, None),
        (numbers, Iterator[float], False, None),
        (numbers, object, False, None),
        (numbers, Iterator[int], True, None),
        (numbers, AsyncIterator[int], True, None),
        (flowing, AsyncIterator[int], True, None),
        (opened, Iterator[int], False, None),
        (numbers, Iterator[str], False, "the items of source.result are int; no item is both"),
        (opened, Iterator[str], False, "the items of source.result are int; no item is both"),
        (flowing, AsyncIterator[str], True, "the items of source.result are int"),
        (numbers, AsyncIterator[str], True, "the items of source.result are int"),
        (numbers, list[int], False, "annotate it as Iterator[...], or return a list"),
        (numbers, dict[str, int], False, "annotate it as Iterator[...], or return a list"),
        (numbers, AsyncIterator[int], False, "annotate it as Iterator[...]"),
        (flowing, Iterator[int], True, "annotate it as AsyncIterator[...]"),
    ],
)
def test_annotations_of_streams_are_compared(
    source: Callable[..., Any], kind: Any, is_async: bool, fault: str | None
) -> None:
    flow = fed(source, _takes(kind, is_async=is_async))
    if fault is None:
        flow.graph().validate(flow.registry)
    else:
        assert fault in refused(flow)


@pytest.mark.parametrize(
    ("of_source", "of_consumer", "words"),
    [
        ({"timeout": 3.0}, {}, "it has a time limit (3 s), and its items are made while"),
        ({"effects": "at_most_once"}, {}, "it is to be started at most once"),
        ({"cache_strategy": CacheStrategy.ALWAYS}, {}, "a stream is never stored"),
        ({}, {"trigger": "done"}, "its trigger is 'done'"),
        ({}, {"trigger": "any"}, "its trigger is 'any'"),
        ({}, {"cache_strategy": CacheStrategy.ALWAYS}, "of which a stream has no hash"),
        ({}, {"fallback": "anything"}, "its fallback 'anything' takes them too"),
    ],
)
def test_what_makes_no_sense_with_a_stream_is_refused(
    of_source: dict[str, Any], of_consumer: dict[str, Any], words: str
) -> None:
    flow = Steered().add("source", numbers, **of_source)
    flow.add("one", lambda xs=None: xs, take={"xs": "source"}, **of_consumer)
    flow.handler("anything", anything)
    assert words in refused(flow)


@pytest.mark.parametrize("limit", ["timeout", "outputs", "output_schema", "cache", "effects"])
def test_what_an_action_says_counts_as_well(limit: str) -> None:
    options: dict[str, Any] = {
        "timeout": 2,
        "outputs": ["a", "b"],
        "output_schema": {"type": "array"},
        "cache": True,
        "effects": "at_most_once",
    }
    dag = DAG("refused", registry=Registry())
    dag.node(**{limit: options[limit]})(numbers)
    dag.node()(anything)
    dag.connect("numbers", "anything", input="xs", output="a" if limit == "outputs" else None)
    with pytest.raises(ValidationError, match=r"node 'numbers': it (has|declares|is to)"):
        dag.validate()


def test_a_schema_of_the_inputs_cannot_be_one_of_a_stream() -> None:
    dag = DAG("refused", registry=Registry())
    dag.node(numbers)
    dag.node(input_schema={"type": "object", "properties": {"xs": {}}})(anything)
    dag.connect("numbers", "anything", input="xs")
    with pytest.raises(ValidationError, match="its input_schema is checked against all"):
        dag.validate()


def test_a_stream_is_no_label() -> None:
    flow = fed(numbers, anything).note("two")
    flow.when("source", "left", "two")
    assert "which is no label" in refused(flow)


def test_a_mapped_node_takes_no_stream_beside_its_items() -> None:
    flow = Steered().add("source", numbers).note("items", [1, 2])
    flow.add("many", lambda x, xs: x, take={"x": "items", "xs": "source"}, map_over="x")
    assert "each of its invocations would need them all" in refused(flow)


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        (
            lambda: fed(lambda: numbers(), anything, map_over=None).add(
                "two", anything, take={"xs": "source"}
            ),
            "a stream has one consumer",
        ),
        (lambda: fed(lambda: flowing(), anything), "make it 'async def'"),
        (lambda: fed(lambda: numbers(), lambda xs=None: 1, trigger="done"), "its trigger is"),
        (
            lambda: (
                Steered()
                .add("source", lambda: numbers(), timeout=5)
                .add("one", anything, take={"xs": "source"})
            ),
            "it has a time limit",
        ),
        (
            lambda: fed(lambda: numbers(), anything).note("two").when("source", "a", "two"),
            "which is no label",
        ),
    ],
)
@every_runner
def test_what_only_the_run_sees_fails_the_source(
    runner: str, flow: Callable[[], Steered], words: str
) -> None:
    """A function that says nothing of what it returns is found out when it does."""
    report = flow().run(runner)
    assert states(report)["source"] == "failed"
    exception = report.node_reports["source"].exception
    assert isinstance(exception, OutputError)
    assert words in str(exception)


@every_runner
def test_a_generator_that_nobody_takes_says_what_to_do(runner: str) -> None:
    report = Steered().add("source", numbers).run(runner)
    assert "let one dependent take it" in str(report.node_reports["source"].exception)


@every_runner
def test_a_branch_of_a_stream_is_refused(runner: str) -> None:
    flow = fed(lambda: Branch("left", numbers()), anything)
    flow.note("two").when("source", "left", "two")
    exception = flow.run(runner).node_reports["source"].exception
    assert isinstance(exception, OutputError)
    assert "no label" in str(exception)
