"""`@dag.cached_node`: what counts of the inputs, for how long, and where results are shared."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CacheStrategy, Graph, action
from dagger_dsl.engine.lookups import MEMORY
from dagger_dsl.errors import ConfigurationError, EncodingError
from dagger_dsl.registry import Registry

RUNNERS = ["sequential", "threads", "asyncio"]

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    MEMORY.forget()
    with Registry() as fresh:
        yield fresh
    MEMORY.forget()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class Shelves:
    """A backend that is a dict, as the simplest ones are."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.limits: list[int | None] = []

    def get(self, key: str) -> Any:
        return self.kept.get(key)

    def set(self, key: str, entry: str, ttl: int | None) -> None:
        self.kept[key] = entry
        self.limits.append(ttl)


def counted(calls: list[Any], **options: Any) -> DAG:
    """Return a DAG of one cached node that notes its calls."""
    dag = DAG("cached")

    @dag.cached_node(**options)
    def calc(user_id: str, data_version: int, data: Any) -> list[Any]:
        calls.append((user_id, data_version))
        return [user_id, data_version, data]

    return dag


def values(user: str = "anna", version: int = 1, data: Any = 0) -> dict[str, Any]:
    return {"user_id": user, "data_version": version, "data": data}


# --- keys -----------------------------------------------------------------------------------------


@every_runner
@pytest.mark.row("K25")
def test_only_chosen_inputs_count(runner: str, url: str) -> None:
    calls: list[Any] = []
    dag = counted(calls, ttl=1800, cache_key=["user_id", "data_version"])
    for where in ({}, {"database_url": url}):
        calls.clear()
        assert dag.run(values(data=1), runner=runner, **where) == ["anna", 1, 1]
        assert dag.run(values(data=2), runner=runner, **where) == ["anna", 1, 1]
        assert dag.report.explain_cache("calc").hit
        assert dag.run(values(version=2), runner=runner, **where) == ["anna", 2, 0]
        assert calls == [("anna", 1), ("anna", 2)]


@pytest.mark.row("K25")
def test_a_function_makes_the_key(url: str) -> None:
    calls: list[Any] = []

    def key(inputs: Any) -> str:
        return f"{inputs['user_id'].lower()}"

    dag = counted(calls, ttl=60, cache_key=key)
    strategy = dag.registry["cached.calc"].cache_strategy
    assert strategy == CacheStrategy.custom(key, 60)
    for where in ({}, {"database_url": url}):
        dag.run(values("Anna"), **where)
        assert dag.run(values("ANNA", 7), **where) == ["Anna", 1, 0]
    assert calls == [("Anna", 1), ("Anna", 1)]


@pytest.mark.row("K24", "K25")
def test_what_cannot_be_a_key_is_refused_at_the_definition() -> None:
    dag = DAG("wrong")

    def calc(user_id: str) -> str:
        return user_id

    with pytest.raises(ConfigurationError, match=r"'user_ud'.*did you mean 'user_id'"):
        dag.cached_node(cache_key=["user_ud"])(calc)
    assert list(dag) == []
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"cache_key": "user_id"}, r"such as \['user_id'\]"),
        ({"cache_key": 3}, "a list of input names or a function"),
        ({"cache_key": [3]}, "a list of names, and 3 is none"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"backend": "memry"}, "did you mean 'memory'"),
        ({"backend": {}}, r"an object with get\(key\) and set"),
        ({"backend": Shelves}, r"an object with get\(key\)"),
        ({"backend": 3}, "'memory', 'database' or an object"),
        ({"cache_key": ["user_id"], "cache": True}, "cache_key= and cache= both say"),
        ({"backend": "memory", "cache": True}, "backend= and cache= both say"),
    ]
    for options, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            dag.cached_node(**options)

    class Waiting:
        async def get(self, key: str) -> None: ...
        async def set(self, key: str, entry: str, ttl: int | None) -> None: ...

    with pytest.raises(ConfigurationError, match="async methods"):
        dag.cached_node(backend=Waiting())  # type: ignore[arg-type]


@pytest.mark.row("K25")
def test_a_key_that_fails_only_costs_the_call() -> None:
    calls: list[Any] = []
    dag = counted(calls, cache_key=lambda inputs: inputs["nothing"])
    dag.run(values())
    dag.run(values())
    assert len(calls) == 2
    assert "the cache key's function raised KeyError" in dag.report.explain_cache("calc").reason


@pytest.mark.row("K24")
@pytest.mark.parametrize("data", [threading.Lock(), object(), lambda: 1])
def test_inputs_without_a_stored_form_are_not_shared_and_it_is_told(data: Any) -> None:
    calls: list[Any] = []
    dag = DAG("cached")

    @dag.cached_node()
    def calc(data: Any) -> int:
        calls.append(data)
        return len(calls)

    assert [dag.run({"data": data}) for _ in range(2)] == [1, 2]
    told = dag.report.explain_cache("calc")
    assert not told.hit
    assert "the input 'data'" in told.reason
    assert "inputs that count" in told.reason
    # Unhashable ones have a stored form, and are shared.
    assert [dag.run({"data": {"rows": [1]}}) for _ in range(2)] == [3, 3]
    assert dag.report.explain_cache("calc").hit


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.row("K24")
@pytest.mark.parametrize("backend", [None, "memory", "database", "shelves"])
def test_a_result_is_taken_until_it_is_too_old(backend: Any, url: str) -> None:
    calls: list[Any] = []
    limit = 0.4
    if backend == "shelves":
        backend = Shelves()
    dag = counted(calls, ttl=limit, backend=backend)
    begun = time.monotonic()
    for _ in range(2):
        dag.run(values(), database_url=url)
    if time.monotonic() - begun < limit / 2:  # else the machine was too slow to say
        assert len(calls) == 1
        assert dag.report.explain_cache("calc").hit
    time.sleep(limit + 0.05)
    before = len(calls)
    dag.run(values(), database_url=url)
    assert len(calls) == before + 1
    assert "expired" in dag.report.explain_cache("calc").reason


# --- backends -------------------------------------------------------------------------------------


@every_runner
@pytest.mark.row("K24")
def test_the_memory_of_the_process_serves_runs_with_and_without_a_database(
    runner: str, url: str
) -> None:
    calls: list[Any] = []
    dag = counted(calls, backend="memory")
    dag.run(values(), runner=runner, database_url=url)
    assert dag.run(values(), runner=runner) == ["anna", 1, 0]
    assert dag.run(values(), runner=runner, database_url=f"{url}-2") == ["anna", 1, 0]
    assert len(calls) == 1
    MEMORY.forget()
    dag.run(values(), runner=runner, database_url=url)
    assert len(calls) == 2


@pytest.mark.row("K24")
def test_the_database_alone_serves_its_runs(url: str) -> None:
    calls: list[Any] = []
    dag = counted(calls, backend="database")
    for _ in range(2):
        dag.run(values())
    assert len(calls) == 2
    assert "give database_url=" in dag.report.explain_cache("calc").reason
    for _ in range(2):
        dag.run(values(), database_url=url)
    assert len(calls) == 3


@every_runner
@pytest.mark.row("K24")
def test_an_object_keeps_results_for_everybody(runner: str, url: str) -> None:
    calls: list[Any] = []
    shelves = Shelves()
    dag = counted(calls, ttl=1.5, backend=shelves)
    dag.run(values(data=(1, 2)), runner=runner)
    first = dag.report
    assert "has no result for this code and these inputs" in first.explain_cache("calc").reason
    again = counted(calls, ttl=1.5, backend=shelves)
    assert again.run(values(data=(1, 2)), runner=runner, database_url=url) == ["anna", 1, (1, 2)]
    told = again.report.explain_cache("calc")
    assert (told.hit, told.run_id) == (True, first.run_id)
    assert len(calls) == 1
    assert shelves.limits == [2]  # whole seconds, for those who cannot count others
    (entry,) = shelves.kept.values()
    assert json.loads(entry)["action"] == "cached.calc"
    shelves.kept = {key: text.encode() for key, text in shelves.kept.items()}
    again.run(values(data=(1, 2)), runner=runner)
    assert len(calls) == 1


@pytest.mark.row("K24")
def test_a_backend_that_fails_only_costs_the_call(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Shelves):
        broken = ("get",)

        def get(self, key: str) -> Any:
            if "get" in self.broken:
                raise OSError("down")
            return super().get(key)

        def set(self, key: str, entry: str, ttl: int | None) -> None:
            if "set" in self.broken:
                raise OSError("full")
            super().set(key, entry, ttl)

    calls: list[Any] = []
    broken = Broken()
    dag = counted(calls, backend=broken)
    dag.run(values())
    assert "get raised OSError('down')" in dag.report.explain_cache("calc").reason
    assert "down" in caplog.text
    broken.broken = ("set",)
    broken.kept.clear()
    dag.run(values())
    assert "set raised OSError('full')" in dag.report.explain_cache("calc").reason
    assert len(calls) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "nonsense",
        b"\xff",
        3,
        '{"key":"k","action":3}',
        "[" * 5000,
        json.dumps(
            dict.fromkeys(("key", "action", "version", "input_hash", "run_id", "node_id"), "x")
            | {"created_at": "2020-01-01", "expires_at": None, "value": 1}
        ),
        json.dumps(
            dict.fromkeys(("key", "action", "version", "input_hash", "run_id", "node_id"), "x")
            | {
                "created_at": "2020-01-01T00:00:00+00:00",
                "expires_at": None,
                "value": {"$type": "no such type", "$value": 1},
            }
        ),
    ],
)
def test_what_a_backend_returns_is_checked(text: Any) -> None:
    calls: list[Any] = []
    shelves = Shelves()
    dag = counted(calls, backend=shelves)
    dag.run(values())
    shelves.kept = dict.fromkeys(shelves.kept, text)
    assert dag.run(values()) == ["anna", 1, 0]
    assert len(calls) == 2
    assert dag.report.explain_cache("calc").reason.startswith("a result is there, but ")


def test_a_backend_belongs_to_the_action(url: str) -> None:
    dag = counted([], backend="memory")
    graph = dag.compile()
    assert graph.nodes["calc"].cache_strategy is None
    assert Graph.from_yaml(graph.to_yaml()) == graph
    strategy = CacheStrategy.ttl(60, backend=Shelves())
    assert hash(strategy) == hash(strategy)
    assert strategy != CacheStrategy.ttl(60)
    assert not strategy.is_data
    with pytest.raises(ConfigurationError, match="backend, to the action itself"):
        action(lambda: 1, name="lone").with_options(cache=strategy)
    with pytest.raises((EncodingError, ConfigurationError)):
        graph.replace(
            nodes={"calc": graph.nodes["calc"].replace(cache_strategy=strategy)}
        ).to_yaml()


def test_a_custom_key_with_a_limit_is_written_and_read() -> None:
    dag = counted([], cache=CacheStrategy.custom("mine", 60))
    text = dag.compile().to_yaml()
    assert "custom: mine" in text
    assert Graph.from_yaml(text).nodes["calc"].cache_strategy == CacheStrategy.custom("mine", 60)


# --- caches below ---------------------------------------------------------------------------------


@every_runner
@pytest.mark.row("K26")
def test_a_function_under_lru_cache_is_a_node(runner: str) -> None:
    dag, calls = DAG("lru"), []

    @dag.node
    @functools.lru_cache(maxsize=100)
    def transform(data_tuple: tuple[tuple[str, int], ...]) -> dict[str, int]:
        calls.append(data_tuple)
        return dict(data_tuple)

    @dag.node
    def total(transform: dict[str, int]) -> int:
        return sum(transform.values())

    transform >> total
    inputs = {"data_tuple": (("a", 1), ("b", 2))}
    assert dag.run(inputs, runner=runner) == 3
    assert dag.run(inputs, runner=runner) == 3
    assert len(calls) == 1
    cached: Any = transform
    assert cached.cache_info().hits == 1
    assert list(dag.compile().inputs) == ["data_tuple"]


@pytest.mark.row("C19", "K24")
def test_trap_6_the_key_is_no_option_that_is_ignored() -> None:
    dag = DAG("trap")
    refused: Callable[..., Any] = dag.cached_node
    with pytest.raises(ConfigurationError, match="key_func"):
        refused(key_func=lambda inputs: "k")(lambda data: data)
