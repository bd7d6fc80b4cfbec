"""What contexts, metrics, options and registries say of arguments that cannot be meant."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CacheStrategy, Context, Registry, RunOptions, action
from dagger_dsl.errors import ConfigurationError, DaggerError, NodeNotFound, RegistryError
from dagger_dsl.model.lifecycle import callback
from dagger_dsl.model.metrics import MetricsCollector


class Hostile:
    """Answers nothing that Python asks of it."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __call__(self, *args: Any) -> None: ...


HOSTILE: Any = Hostile()
WRONG: Any = 7
NO_ARGUMENT: Any = lambda: 1  # noqa: E731
NO_NAMES: list[Any] = [[], {}, HOSTILE, 7, None]


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with Registry():
        yield


def cached(cache_key: Any) -> DAG:
    dag = DAG("d")

    @dag.cached_node(cache_key=cache_key)
    def load() -> int:
        return 1

    return dag


REFUSED: list[tuple[Callable[[], Any], type[DaggerError], str]] = [
    (lambda: Context().update(WRONG), ConfigurationError, "Context.update is given is a function"),
    (lambda: Context().update(NO_ARGUMENT), ConfigurationError, r"called with \(metadata\)"),
    (lambda: Context().progress("n", 1, 2, WRONG), ConfigurationError, "message is a text, not 7"),
    (lambda: Context().progress("n", 1, 2, HOSTILE), ConfigurationError, "not <Hostile>"),
    (lambda: MetricsCollector(WRONG), ConfigurationError, "clock is a function, not 7"),
    (lambda: MetricsCollector().get_summary([]), ConfigurationError, "name is a text"),  # type: ignore[arg-type]
    (lambda: RunOptions(durability=HOSTILE), ConfigurationError, "not <Hostile>"),
    (lambda: RunOptions(on_change=HOSTILE), ConfigurationError, "not <Hostile>"),
    (lambda: RunOptions(config={"on_missing": HOSTILE}), ConfigurationError, "not <Hostile>"),
    (lambda: Registry().register_workflow(HOSTILE), RegistryError, "not <Hostile>"),
    (lambda: Registry().register_workflow(DAG("d"), HOSTILE), RegistryError, "not <Hostile>"),
    (lambda: Registry().register_workflow(DAG("d"), "a\0b"), RegistryError, "1 to 200 characters"),
    (lambda: DAG("d", registry=HOSTILE), RegistryError, "not <Hostile>"),
    (lambda: DAG("d").set_node_hooks(HOSTILE), NodeNotFound, "<Hostile>"),
    (lambda: DAG("d").compile().node(HOSTILE), NodeNotFound, "<Hostile>"),
    (lambda: cached("x" * 1_000_000), ConfigurationError, "cache_key is a list of input names"),
    (
        lambda: DAG("d").run(start_at="n", reuse="x" * 1_000_000),
        DaggerError,
        r"looked up in a database",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_cannot_be_meant_is_refused_in_few_words(
    make: Callable[[], Any], error: type[DaggerError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert len(str(caught.value)) < 2_000


def test_what_is_no_text_names_no_result() -> None:
    context = Context({"a": 1})
    for name in NO_NAMES:
        assert context.get(name, "none") == "none"
        with pytest.raises(KeyError):
            context.results[name]
    assert "<" in repr(Context(metadata={"x": HOSTILE}))


def test_an_object_whose_signature_cannot_be_read_is_called_as_it_is() -> None:
    assert callback(HOSTILE, "a hook", ("node",)) is HOSTILE


@pytest.mark.parametrize(
    ("values", "mean"), [((10**5000, 1), math.inf), ((-(10**5000), 1), -math.inf)]
)
def test_measures_beyond_a_float_are_infinite(values: tuple[int, int], mean: float) -> None:
    collector = MetricsCollector()
    for value in values:
        collector.record("size", value)
    found = collector.get_summary("size")
    assert (found["mean"], found["stdev"]) == (mean, math.inf)
    assert (found["min"], found["max"]) == (min(values), max(values))


def fails(inputs: Any) -> str:
    raise ValueError("no key")


@pytest.mark.parametrize(
    ("key", "why"), [(fails, "raised ValueError"), (lambda inputs: 7, "returned 7"), (HOSTILE, "")]
)
def test_a_cache_key_that_gives_no_text_is_warned_of_once_for_each_action(
    key: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    @action(cache=None)
    def items() -> list[int]:
        return [1, 2, 3]

    dag = DAG("d")

    @dag.cached_node(cache_key=key)
    def one() -> int:
        return 1

    @dag.cached_node(cache_key=key)
    def other() -> int:
        return 2

    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        dag.run()
    told = [each.getMessage() for each in caplog.records if "shares no results" in each.message]
    assert len(told) == 2
    assert "/one of run" in told[0]
    assert why in told[0]


def test_a_cache_key_of_a_mapped_action_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:

    @action(cache=CacheStrategy.custom(fails))
    def double(x: int) -> int:
        return 2 * x

    with DAG("d") as dag:
        double.map([1, 2, 3])
    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        assert dag.run() == [2, 4, 6]
    assert len([each for each in caplog.records if "shares no results" in each.message]) == 1


@pytest.mark.parametrize(
    ("give", "advice"),
    [
        (lambda context: context.results, r"return dict\(context.results\)"),
        (lambda context: context, r"return context.to_dict\(\)"),
    ],
)
def test_what_belongs_to_the_run_says_what_to_return_instead(
    give: Callable[[Context], Any], advice: str, tmp_path: Path
) -> None:
    dag = DAG("d")

    @dag.node
    def last(context: Context) -> Any:
        return give(context)

    with pytest.raises(DaggerError, match=advice):
        dag.run(database_url=f"sqlite:{tmp_path / 'runs.db'}")
