"""`Context` by itself: what it holds, and its form as a dict."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError, DecodingError, EncodingError
from dagger_dsl.model.sharing import Context

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=5)
    | st.dates()
    | st.decimals(allow_nan=False)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
_TABLES = st.dictionaries(st.text(), _VALUES, max_size=3)


@pytest.mark.row("M5", "H22")
@given(_TABLES, _TABLES, _TABLES)
def test_a_context_comes_back_from_its_dict_as_json_has_it(
    results: dict[str, Any], metadata: dict[str, Any], metrics: dict[str, Any]
) -> None:
    context = Context(results, metadata, metrics)
    plain = context.to_dict()
    assert set(plain) == {"results", "metadata", "metrics"}
    again = Context.from_dict(json.loads(json.dumps(plain, allow_nan=False)))
    assert again == context
    assert again.to_dict() == plain


@pytest.mark.row("M5")
def test_what_json_cannot_hold_is_tagged() -> None:
    context = Context(
        metadata={
            "when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            "pair": (1, 2),
            "set": {1},
            "path": Path("a") / "b",
            "price": Decimal("1.10"),
            "plain": {"a": [1, None, "x"]},
            "$type": "a key of the user's",
        }
    )
    plain = context.to_dict()
    assert plain["metadata"]["$type"] == "map"
    assert Context.from_dict(plain) == context
    del context.metadata["$type"]
    assert context.to_dict()["metadata"]["pair"] == {"$type": "tuple", "$value": [1, 2]}
    assert context.to_dict()["metadata"]["plain"] == {"a": [1, None, "x"]}


@pytest.mark.row("M5")
def test_a_value_without_a_stored_form_is_named() -> None:
    with pytest.raises(EncodingError, match=r"context\.metadata\['handle'\]"):
        Context(metadata={"handle": object()}).to_dict()
    with pytest.raises(EncodingError, match=r"context\.results\['load'\]"):
        Context(results={"load": print}).to_dict()


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], "a context is read from a mapping"),
        ("{}", "a context is read from a mapping"),
        ({"metdata": {}}, "did you mean 'metadata'"),
        ({"metadata": [1]}, "context.metadata is a mapping"),
        ({"results": None}, "context.results is a mapping"),
        ({"metadata": {"$type": "nobody:Knows", "$value": 1}}, "does not know the stored type"),
        ({"metadata": {"a": object()}}, "which JSON does not have"),
    ],
)
def test_what_is_no_dict_of_a_context_is_refused(plain: Any, message: str) -> None:
    with pytest.raises(DecodingError, match=message.replace(".", r"\.")):
        Context.from_dict(plain)


def test_a_dict_may_leave_out_what_is_empty() -> None:
    assert Context.from_dict({}) == Context()
    assert Context.from_dict({"metadata": {"a": 1}}) == Context(metadata={"a": 1})


@pytest.mark.row("M1")
@pytest.mark.parametrize("name", ["results", "metadata", "metrics"])
@pytest.mark.parametrize("given_", [[("a", 1)], "a", 3])
def test_a_context_is_made_of_mappings(name: str, given_: Any) -> None:
    fields: dict[str, Any] = {name: given_}
    with pytest.raises(ConfigurationError, match=f"a Context's {name} are a mapping"):
        Context(**fields)


def test_what_is_given_is_copied() -> None:
    metadata = {"a": 1}
    context = Context(metadata=metadata)
    context.metadata["b"] = 2
    assert metadata == {"a": 1}


@pytest.mark.row("M4")
def test_results_that_were_given_are_there_without_a_run() -> None:
    context = Context(results={"load": [1]})
    assert context.get("load") == [1]
    assert context.get("other", default={}) == {}
    assert context.get("other") is None
    assert list(context.results) == ["load"]
    context.results["more"] = 2  # nobody runs, so nobody is warned
    del context.results["load"]
    assert dict(context.results) == {"more": 2}
    assert object() not in context.results
    with pytest.raises(KeyError):
        del context.results["load"]
    with pytest.raises(ConfigurationError, match="a node's id, not 3"):
        context.results[3] = 1  # type: ignore[index]


def test_contexts_are_equal_by_what_they_hold() -> None:
    assert Context() == Context()
    assert Context(metadata={"a": 1}) != Context(metadata={"a": 2})
    assert Context(results={"a": 1}) != Context()
    assert Context(metrics={"a": 1}) != Context()
    assert Context() != {}
    with pytest.raises(TypeError, match="unhashable"):
        hash(Context())


def test_a_context_can_be_pickled() -> None:
    context = Context({"a": 1}, {"b": [2]}, {"c": 3})
    assert pickle.loads(pickle.dumps(context)) == context


@pytest.mark.row("M3")
def test_updates_of_threads_lose_nothing() -> None:
    context = Context(metadata={"count": 0})

    def count(metadata: dict[str, Any]) -> int:
        before: int = metadata["count"]
        metadata["count"] = before + 1
        return before

    seen: list[int] = []

    def work() -> None:
        for _ in range(1000):
            seen.append(context.update(count))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert context.metadata["count"] == 4000
    assert sorted(seen) == list(range(4000))


@pytest.mark.row("M11")
def test_progress_without_a_run_goes_to_the_metadata() -> None:
    context = Context()
    context.progress("load", 1, 4)
    assert context.metadata["progress"] == {
        "node": "load",
        "percent": 0.25,
        "items_processed": 1,
        "total_items": 4,
    }
    for done, total, percent in ((4, 4, 1.0), (0, 0, 1.0), (5, 4, 1.0), (0.5, 2.0, 0.25)):
        context.progress("load", done, total)
        assert context.metadata["progress"]["percent"] == percent


@pytest.mark.parametrize(
    ("done", "total"), [(-1, 2), (1, -2), ("1", 2), (None, 2), (float("nan"), 2), (1, 10**400)]
)
def test_progress_counts_from_nothing_upwards(done: Any, total: Any) -> None:
    context = Context()
    with pytest.raises(ConfigurationError, match="a number of at least 0"):
        context.progress("load", done, total)
    assert "progress" not in context.metadata


def test_what_is_the_engines_is_told_without_asking_what_users_made() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("nobody may ask")

    context = Context()
    context.note("run_id", "r")
    assert context.is_engines("run_id")
    context.metadata["run_id"] = Odd()
    assert not context.is_engines("run_id")
