"""Keys of shared results, why one was found or not, limits of memory, and a memory for results."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import pathlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError, EncodingError, ValidationError
from dagger_dsl.model.caching import (
    CacheConfig,
    CacheDecision,
    CacheRequest,
    EvictionPolicy,
    Ledger,
    Remembered,
    ResultMemory,
    estimate_size,
    expiry,
    explain_miss,
    input_hash,
    is_fresh,
    memo_key,
)
from dagger_dsl.model.document import _cache_to_plain, graph_from_plain, graph_to_plain
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.policies import CacheStrategy
from dagger_dsl.model.values import Literal, Secret, register_type
from dagger_dsl.registry import define, redefine

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def later(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


@register_type
@attrs.frozen
class Point:
    x: int
    y: int = 0


# --- strategies -----------------------------------------------------------------------------------


class TestStrategies:
    @pytest.mark.row("C19", "C20", "C21", "C22")
    def test_have_the_documents_names(self) -> None:
        assert CacheStrategy.always() == CacheStrategy.ALWAYS
        assert CacheStrategy.NEVER.kind == "never"
        assert CacheStrategy.ttl(dt.timedelta(minutes=5)).seconds == 300.0
        assert CacheStrategy.custom("report").key == "report"

    def test_choose_inputs_in_no_order(self) -> None:
        one = CacheStrategy.ttl(60, inputs=["user_id", "day", "day"])
        assert one == CacheStrategy.ttl(60, inputs=("day", "user_id"))
        assert one.inputs == ("day", "user_id")
        assert CacheStrategy.always(inputs=[]).inputs == ()
        assert len({one, CacheStrategy.ttl(60)}) == 2

    def test_with_a_function_are_no_data(self) -> None:
        strategy = CacheStrategy.custom(lambda inputs: str(inputs["a"]))
        assert not strategy.is_data
        assert CacheStrategy.custom("a").is_data
        assert CacheStrategy.always(inputs=["a"]).is_data
        with pytest.raises(EncodingError, match=r"give it to the action: @action\(cache="):
            _cache_to_plain(strategy)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: CacheStrategy("sometimes"), "'always', 'never', 'ttl' or 'custom'"),
            (lambda: CacheStrategy("ttl"), "seconds= and the kind 'ttl' go together"),
            (lambda: CacheStrategy("always", seconds=5.0), "go together"),
            (lambda: CacheStrategy("custom"), "key= and the kind 'custom' go together"),
            (lambda: CacheStrategy("always", key="a"), "go together"),
            (lambda: CacheStrategy("custom", key="a", inputs=("b",)), "says what counts"),
            (lambda: CacheStrategy.custom(""), "not empty, or a function"),
            (lambda: CacheStrategy.custom(5), "not empty, or a function"),  # type: ignore[arg-type]
            (lambda: CacheStrategy.ttl(0), "more than 0"),
            (lambda: CacheStrategy.always(inputs="user_id"), "list of names"),
            (lambda: CacheStrategy.always(inputs=[1]), "1 is none"),  # type: ignore[list-item]
        ],
    )
    def test_that_say_nothing_sensible_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            make()

    @pytest.mark.parametrize(
        ("strategy", "plain"),
        [
            (CacheStrategy.ALWAYS, "always"),
            (CacheStrategy.NEVER, "never"),
            (CacheStrategy.ttl(300), {"ttl": 300}),
            (CacheStrategy.custom("a"), {"custom": "a"}),
            (CacheStrategy.ttl(1.5, inputs=["a", "b"]), {"ttl": 1.5, "inputs": ["a", "b"]}),
            (CacheStrategy.always(inputs=["a"]), {"always": True, "inputs": ["a"]}),
            (CacheStrategy.always(inputs=[]), {"always": True, "inputs": []}),
        ],
    )
    def test_survive_the_plain_form_and_yaml(self, strategy: CacheStrategy, plain: Any) -> None:
        graph = Graph("g", [Node("n", "act", cache_strategy=strategy)])
        assert graph_to_plain(graph)["nodes"][0]["cache_strategy"] == plain
        assert graph_from_plain(graph_to_plain(graph)) == graph
        assert Graph.from_yaml(graph.to_yaml()) == graph

    @pytest.mark.parametrize(
        "plain",
        [
            {"inputs": ["a"]},
            {"ttl": 5, "always": True},
            {"always": False},
            {"always": 1},
            {"ttl": 5, "inputs": "a"},
            {"ttl": 5, "inputs": [1]},
            {"ttl": 5, "inputs": [""]},
            {"custom": "a", "inputs": ["a"]},
            {1: 2},
        ],
    )
    def test_written_wrong_are_refused_with_their_place(self, plain: Any) -> None:
        document = {"name": "g", "nodes": [{"id": "n", "action": "a", "cache_strategy": plain}]}
        with pytest.raises(ValidationError) as caught:
            graph_from_plain(document)
        assert [each.place.path for each in caught.value.problems] == ["$.nodes[0].cache_strategy"]

    def test_of_an_action_choose_among_what_it_takes(self) -> None:
        def act(user_id: int, day: str) -> int:
            return user_id

        def open_to_all(**inputs: int) -> int:
            return 0

        chosen = CacheStrategy.always(inputs=["user_id"])
        assert define(act, cache=chosen).cache_strategy == chosen
        assert define(open_to_all, cache=chosen).cache_strategy == chosen
        wrong = CacheStrategy.always(inputs=["userid"])
        with pytest.raises(ConfigurationError, match=r"'userid', which the action.*mean 'user_id'"):
            define(act, cache=wrong)
        with pytest.raises(ConfigurationError, match="does not take"):
            redefine(define(act), cache=wrong)


# --- keys -----------------------------------------------------------------------------------------


class TestInputHash:
    @pytest.mark.row("C23")
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": {"x": 1, "y": [2]}}, {"a": {"y": [2], "x": 1}}),
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
            ({"a": {"q", "r", "s"}}, {"a": {"s", "r", "q"}}),
            ({"a": {1: "x", 2: "y"}}, {"a": {2: "y", 1: "x"}}),
            ({"a": [{(1, 2): {3: 4, 5: 6}}]}, {"a": [{(1, 2): {5: 6, 3: 4}}]}),
            ({"a": float("nan")}, {"a": float("nan")}),
            ({"a": Point(1, 2)}, {"a": Point(1, 2)}),
            ({"a": decimal.Decimal("1.0")}, {"a": decimal.Decimal("1.0")}),
            ({}, {}),
        ],
    )
    def test_of_equal_inputs_is_equal(self, one: Mapping[str, Any], other: Any) -> None:
        assert input_hash(one) == input_hash(other)
        assert len(input_hash(one)) == 32

    @pytest.mark.row("C23")
    def test_of_different_inputs_differs(self) -> None:
        values = [
            1,
            1.0,
            True,
            "1",
            b"1",
            None,
            0.0,
            -0.0,
            2**70,
            [1],
            (1,),
            {1},
            frozenset({1}),
            {"1": 1},
            {1: 1},
            {"$type": "map"},
            '"$type":"map"',
            "\ud800",
            Point(1),
            Point(1, 1),
            decimal.Decimal("1"),
            decimal.Decimal("1.0"),
            dt.date(2024, 1, 1),
            dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
            uuid.UUID(int=1),
            pathlib.Path("1"),
        ]
        assert len({input_hash({"a": value}) for value in values}) == len(values)
        assert input_hash({"a": 1}) != input_hash({"b": 1}) != input_hash({"b": 1, "c": None})

    plain = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            | st.dictionaries(st.integers() | st.booleans(), inner, max_size=3)
        ),
        max_leaves=6,
    )

    @given(plain, plain)
    def test_is_equal_just_where_literals_are(self, one: Any, other: Any) -> None:
        equal = Literal(one) == Literal(other)
        assert (input_hash({"a": one}) == input_hash({"a": other})) is equal
        assert input_hash({"a": one}) == input_hash({"a": Literal(one).value})

    def test_is_the_same_in_every_process(self) -> None:
        code = (
            "from dagger_dsl.model.caching import input_hash\n"
            "print(input_hash({'a': {'x', 'y', 'z'}, 'b': {1: {'p': frozenset('qrs')}}}))"
        )
        root = pathlib.Path(__file__).parents[2]
        found = {
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(root)},
            ).stdout
            for seed in (1, 2, 3)
        }
        assert len(found) == 1

    def test_of_a_secret_is_refused_because_it_could_be_guessed(self) -> None:
        with pytest.raises(EncodingError, match=r"input 'token' is a Secret.*guessed.*inputs="):
            input_hash({"a": 1, "token": Secret("hunter2")})
        with pytest.raises(EncodingError, match=r"input 'deep'\['t'\]\[0\] is a Secret"):
            input_hash({"deep": {"t": [Secret("hunter2")]}})

    def test_of_what_has_no_stored_form_is_refused_with_its_name(self) -> None:
        with pytest.raises(EncodingError, match=r"input 'client'.*object.*choose inputs"):
            input_hash({"client": object()})

    @pytest.mark.row("K25")
    def test_counts_chosen_inputs_only(self) -> None:
        chosen = CacheStrategy.ttl(60, inputs=["user_id", "data_version"])
        inputs = {"user_id": 1, "data_version": "v1", "log": True}
        before = input_hash(inputs, chosen)
        assert input_hash({**inputs, "log": False}, chosen) == before
        assert input_hash({**inputs, "log": Secret("x")}, chosen) == before
        assert input_hash({**inputs, "user_id": 2}, chosen) != before
        assert input_hash(inputs, CacheStrategy.always(inputs=["user_id"])) != before

    def test_refuses_a_chosen_input_that_does_not_exist(self) -> None:
        chosen = CacheStrategy.always(inputs=["user_id"])
        with pytest.raises(ConfigurationError, match=r"chooses the input 'user_id'.*mean 'userid'"):
            input_hash({"userid": 1}, chosen)
        left_out = input_hash({}, chosen, params=["user_id"])
        assert left_out != input_hash({"user_id": None}, chosen)

    @pytest.mark.row("C22")
    def test_of_a_custom_key_is_that_of_the_key(self) -> None:
        text = CacheStrategy.custom("k")
        assert input_hash({"a": 1}, text) == input_hash({"b": Secret("x")}, text)
        assert input_hash({}, text) != input_hash({}, CacheStrategy.custom("l"))
        by_user = CacheStrategy.custom(lambda inputs: f"user {inputs['id']}")
        one = input_hash({"id": 1, "client": object()}, by_user)
        assert one == input_hash({"id": 1, "client": None}, by_user)
        assert one != input_hash({"id": 2}, by_user)

    @pytest.mark.row("C22")
    @pytest.mark.parametrize(
        ("key", "message"),
        [
            (lambda inputs: inputs["no"], "function raised KeyError"),
            (lambda inputs: 5, "returned 5"),
            (lambda inputs: "", "returned ''"),
        ],
    )
    def test_of_a_key_function_that_gives_no_key_is_refused(self, key: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            input_hash({"a": 1}, CacheStrategy.custom(key))

    def test_key_functions_cannot_change_the_inputs(self) -> None:
        inputs = {"a": 1}
        input_hash(inputs, CacheStrategy.custom(lambda given: str(given.pop("a"))))  # type: ignore[attr-defined]
        assert inputs == {"a": 1}


class TestMemoKey:
    @pytest.mark.row("C23")
    def test_follows_action_version_and_inputs(self) -> None:
        keys = {
            memo_key("act", "v1", "h1"),
            memo_key("act2", "v1", "h1"),
            memo_key("act", "v2", "h1"),
            memo_key("act", "v1", "h2"),
            memo_key("act', 'v1", "", "h1"),
        }
        assert len(keys) == 5
        assert memo_key("act", "v1", "h1") in keys
        assert all(len(key) == 64 for key in keys)

    @pytest.mark.row("C21")
    def test_does_not_follow_how_long_results_are_good(self) -> None:
        assert memo_key("a", "1", "h", CacheStrategy.ttl(5)) == memo_key("a", "1", "h")
        assert memo_key("a", "1", "h", CacheStrategy.ttl(9)) == memo_key("a", "1", "h")

    @pytest.mark.row("C22")
    def test_of_a_text_is_shared_by_all_that_have_it(self) -> None:
        strategy = CacheStrategy.custom("k")
        assert memo_key("a", "1", "h", strategy) == memo_key("b", "2", "i", strategy)
        assert memo_key("a", "1", "h", strategy) != memo_key(
            "a", "1", "h", CacheStrategy.custom("l")
        )

    @pytest.mark.row("C22")
    def test_of_a_function_is_shared_within_the_action(self) -> None:
        strategy = CacheStrategy.custom(lambda inputs: "same")
        one, other = (input_hash({"a": each}, strategy) for each in (1, 2))
        assert memo_key("a", "1", one, strategy) == memo_key("a", "1", other, strategy)
        assert memo_key("a", "1", one, strategy) != memo_key("b", "1", one, strategy)
        assert memo_key("a", "1", one, strategy) != memo_key("a", "2", one, strategy)


# --- why ------------------------------------------------------------------------------------------

OLD, NEW = "a" * 32, "b" * 32


def memo(**fields: Any) -> Remembered:
    given: dict[str, Any] = {
        "action": "act",
        "version": OLD,
        "input_hash": "c" * 32,
        "run_id": "run-1",
        "node_id": "n",
        "created_at": NOON,
        "expires_at": None,
        **fields,
    }
    key = memo_key(given["action"], given["version"], given["input_hash"])
    return Remembered(**{"key": key, **given})


def wanted(**fields: Any) -> CacheRequest:
    given: dict[str, Any] = {
        "action": "act",
        "node_id": "n",
        "strategy": CacheStrategy.ALWAYS,
        "version": OLD,
        "input_hash": "c" * 32,
        **fields,
    }
    key = memo_key(given["action"], given["version"], given["input_hash"], given["strategy"])
    return CacheRequest(**{"key": key, **given})


class TestFreshness:
    @pytest.mark.row("C21")
    def test_ends_when_the_first_of_both_limits_is_reached(self) -> None:
        minute = CacheStrategy.ttl(60)
        assert expiry(minute, NOON) == later(60)
        assert expiry(CacheStrategy.ALWAYS, NOON) is None
        assert is_fresh(memo(), minute, later(59))
        assert not is_fresh(memo(), minute, later(60))
        assert not is_fresh(memo(expires_at=later(30)), minute, later(30))
        assert is_fresh(memo(), CacheStrategy.ALWAYS, later(10**9))
        assert is_fresh(memo(), CacheStrategy.ttl(10**12), later(10**9))


class TestExplanations:
    @pytest.mark.parametrize(
        ("request_", "known", "reason"),
        [
            (wanted(strategy=CacheStrategy.NEVER), [memo()], "its cache strategy is 'never'"),
            (wanted(problem="no form", key=None), [memo()], "no form"),
            (wanted(), [], "no result of action 'act' was recorded yet"),
            (wanted(), [memo(action="b")], "no result of action 'act' was recorded yet"),
            (
                wanted(),
                [memo(expires_at=later(60))],
                f"the result of {NOON} expired at 2024-05-01 12:01:00+00:00",
            ),
            (
                wanted(strategy=CacheStrategy.ttl(30)),
                [memo()],
                f"the result of {NOON} expired at 2024-05-01 12:00:30+00:00",
            ),
            (
                wanted(),
                [memo(created_at=later(7200))],
                "the result of 2024-05-01 14:00:00+00:00 was recorded after it was looked for",
            ),
            (
                wanted(version=NEW),
                [memo()],
                (
                    f"the code changed since the result of {NOON}: "
                    "version aaaaaaaaaaaa -> bbbbbbbbbbbb"
                ),
            ),
            (
                wanted(version="1.3"),
                [memo(version="1.2")],
                f"the code changed since the result of {NOON}: version '1.2' -> '1.3'",
            ),
            (
                wanted(input_hash="d" * 32),
                [memo()],
                (
                    f"the inputs changed since the result of {NOON}: "
                    "inputs cccccccccccc -> dddddddddddd"
                ),
            ),
            (
                wanted(input_hash="d" * 32, strategy=CacheStrategy.custom(lambda inputs: "k")),
                [memo()],
                (
                    f"the key changed since the result of {NOON}: "
                    "inputs cccccccccccc -> dddddddddddd"
                ),
            ),
            (
                wanted(input_hash="d" * 32, version=NEW),
                [memo()],
                (
                    f"the code and the inputs changed since the result of {NOON}: "
                    "version aaaaaaaaaaaa -> bbbbbbbbbbbb, inputs cccccccccccc -> dddddddddddd"
                ),
            ),
            (
                wanted(input_hash="d" * 32),
                [memo(node_id="m")],
                (
                    f"the inputs changed since the result of {NOON} of node 'm': "
                    "inputs cccccccccccc -> dddddddddddd"
                ),
            ),
            (
                wanted(strategy=CacheStrategy.custom("daily")),
                [memo()],
                "no result was recorded with the key 'daily'",
            ),
        ],
    )
    @pytest.mark.row("C23")
    def test_say_why_nothing_was_found(
        self, request_: CacheRequest, known: list[Remembered], reason: str
    ) -> None:
        assert explain_miss(request_, known, later(3600)) == reason

    def test_compare_with_what_comes_nearest(self) -> None:
        unlike = memo(version="x", input_hash="y", created_at=later(50))
        same_inputs = memo(version="1", created_at=later(10))
        older = memo(version="0")
        found = explain_miss(wanted(version="2"), [unlike, older, same_inputs], later(60))
        assert found.startswith("the code changed since the result of 2024-05-01 12:00:10")
        assert found.endswith("version '1' -> '2'")

    def test_prefer_results_of_the_same_node(self) -> None:
        other = memo(node_id="m", input_hash="e", created_at=later(50))
        found = explain_miss(wanted(input_hash="d"), [other, memo()], later(60))
        assert "of node" not in found

    def test_go_by_the_clock_without_a_time(self) -> None:
        assert "expired" in explain_miss(wanted(), [memo(expires_at=later(1))])

    def test_print_as_one_line(self) -> None:
        miss = CacheDecision(False, "no result was recorded yet", "k", OLD, None)
        assert str(miss) == "miss: no result was recorded yet (version aaaaaaaaaaaa)"
        hit = CacheDecision(True, "same code, same inputs", "k", "1.2", NEW, NOON, "run-1")
        assert str(hit) == (
            "hit: same code, same inputs (version '1.2', inputs bbbbbbbbbbbb, made by run run-1, "
            "at 2024-05-01 12:00:00+00:00)"
        )


# --- limits ---------------------------------------------------------------------------------------


class TestConfig:
    @pytest.mark.row("C38")
    def test_has_the_documented_defaults(self) -> None:
        config = CacheConfig()
        assert config == CacheConfig(
            max_entries=10_000,
            max_memory_mb=256,
            eviction_policy=EvictionPolicy.LRU,
            ttl=None,
        )
        assert CacheConfig(eviction_policy="LFU").eviction_policy is EvictionPolicy.LFU
        assert CacheConfig(ttl=dt.timedelta(minutes=1)).ttl == 60.0
        unlimited = CacheConfig(max_entries=None, max_memory_mb=None)
        assert (unlimited.max_entries, unlimited.max_memory_mb) == (None, None)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"max_entries": 0}, "max_entries"),
            ({"max_entries": True}, "max_entries"),
            ({"max_entries": 1.5}, "max_entries"),
            ({"max_memory_mb": 0}, "max_memory_mb"),
            ({"max_memory_mb": float("inf")}, "max_memory_mb"),
            ({"max_memory_mb": "256"}, "max_memory_mb"),
            ({"eviction_policy": "random"}, "'lru', 'fifo', 'lfu'"),
            ({"ttl": 0}, "ttl"),
            ({"ttl": "1h"}, "ttl"),
        ],
    )
    def test_refuses_impossible_limits(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            CacheConfig(**fields)


def evicted(policy: EvictionPolicy, steps: str, most: int = 3) -> str:
    """Return what goes, in order: an upper-case letter is a write, a lower-case one a read."""
    ledger = Ledger(CacheConfig(max_entries=most, eviction_policy=policy))
    gone: list[Any] = []
    for step in steps:
        if step.isupper():
            gone += ledger.put(step, 0)
        else:
            ledger.use(step.upper())
    return "".join(gone)


class TestLedger:
    @pytest.mark.row("C38")
    @pytest.mark.parametrize(
        ("policy", "steps", "gone"),
        [
            (EvictionPolicy.LRU, "ABCD", "A"),
            (EvictionPolicy.LRU, "ABCaD", "B"),
            (EvictionPolicy.LRU, "ABCAD", "B"),
            (EvictionPolicy.LRU, "ABCabDE", "CA"),
            (EvictionPolicy.FIFO, "ABCaaD", "A"),
            (EvictionPolicy.FIFO, "ABCAD", "B"),
            (EvictionPolicy.LFU, "ABCaabD", "C"),
            (EvictionPolicy.LFU, "ABCaabcD", "B"),
            (EvictionPolicy.LFU, "ABCD", "A"),
            (EvictionPolicy.LFU, "ABCabcDE", "AD"),
            (EvictionPolicy.LFU, "ABCAAabbcccD", "B"),
        ],
    )
    def test_names_what_goes_first(self, policy: EvictionPolicy, steps: str, gone: str) -> None:
        assert evicted(policy, steps) == gone

    def test_counts_bytes_and_lets_what_was_written_last_stay(self) -> None:
        ledger = Ledger(CacheConfig(max_entries=None, max_memory_mb=1))
        assert ledger.put("a", 600_000) == []
        assert ledger.put("b", 500_000) == ["a"]
        assert ledger.put("b", 400_000) == []
        assert ledger.put("c", 600_000) == []
        assert ledger.put("huge", 2**21) == ["b", "c"]
        assert ledger.put("d", 1) == ["huge"]
        ledger.drop("d")
        ledger.drop("d")
        assert ledger.put("e", 2**20) == []

    def test_forgets_what_was_written_too_long_ago(self) -> None:
        now = [0.0]
        ledger = Ledger(CacheConfig(ttl=10), clock=lambda: now[0])
        ledger.put("a", 0)
        now[0] = 5.0
        ledger.put("b", 0)
        ledger.put("c", 0)
        now[0] = 9.0
        assert ledger.expire() == []
        ledger.put("b", 0)
        now[0] = 15.0
        assert ledger.expire() == ["a", "c"]
        assert Ledger(CacheConfig()).expire() == []

    @given(
        st.sampled_from(EvictionPolicy),
        st.integers(1, 4),
        st.lists(st.tuples(st.sampled_from("pud"), st.sampled_from("abcdefg"))),
    )
    def test_keeps_its_limit_whatever_happens(
        self, policy: EvictionPolicy, most: int, steps: list[tuple[str, str]]
    ) -> None:
        ledger = Ledger(CacheConfig(max_entries=most, eviction_policy=policy))
        held: set[str] = set()
        for step, key in steps:
            if step == "p":
                gone = ledger.put(key, 1)
                held.add(key)
                assert key not in gone
                assert held.issuperset(map(str, gone))
                held.difference_update(map(str, gone))
            elif step == "u" and key in held:
                ledger.use(key)
            elif step == "d":
                ledger.drop(key)
                held.discard(key)
            assert len(held) <= most


class TestEstimates:
    @pytest.mark.parametrize(
        ("value", "least", "most"),
        [
            (None, 8, 64),
            ("x" * 1000, 1000, 1100),
            (b"x" * 10**6, 10**6, 10**6 + 100),
            (list(range(10**6)), 30 * 10**6, 50 * 10**6),
            ([f"{n:100}" for n in range(1000)], 100_000, 200_000),
            ({str(n): float(n) for n in range(10_000)}, 600_000, 1_800_000),
            ([[float(n)] * 10 for n in range(1000)], 100_000, 300_000),
            (memoryview(b"x" * 5000), 5000, 5000),
            (Point(1, 2), 16, 500),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_are_about_right_for_plain_data(self, value: Any, least: int, most: int) -> None:
        assert least <= estimate_size(value) <= most

    def test_count_what_is_shared_once_and_end_in_cycles(self) -> None:
        shared = "x" * 10_000
        assert estimate_size([shared, shared, shared]) < 11_000
        loop: list[Any] = []
        loop.append(loop)
        assert estimate_size(loop) < 200

    def test_look_at_a_bounded_number_of_parts(self) -> None:
        looked = [0]

        class Part:
            def __sizeof__(self) -> int:
                looked[0] += 1
                return 50

        nested: Any = [[[Part() for _ in range(40)] for _ in range(40)] for _ in range(40)]
        estimate = estimate_size(nested)
        assert looked[0] < 20_000
        assert 40**3 * 25 < estimate < 40**3 * 200

    def test_survive_objects_that_refuse_to_be_measured(self) -> None:
        class Odd:
            def __sizeof__(self) -> int:
                raise RuntimeError("no")

            def __getattribute__(self, name: str) -> Any:
                raise RuntimeError("no")

        assert estimate_size([Odd()]) > 0


# --- a memory for results -------------------------------------------------------------------------


def keep(memory: ResultMemory, key: str, value: Any, **fields: Any) -> None:
    given: dict[str, Any] = {
        "action": "act",
        "version": "1",
        "input_hash": "h",
        "run_id": "r",
        "node_id": "n",
        "now": NOON,
        **fields,
    }
    memory.remember(key, value, **given)


class TestResultMemory:
    def test_gives_back_a_fresh_value_and_where_it_is_from(self) -> None:
        memory = ResultMemory()
        value = {"a": [1, Point(2)], "b": {3}}
        keep(memory, "k", value, run_id="run-7")
        value["a"] = "changed"
        first = memory.recall("k", NOON)
        second = memory.recall("k", NOON)
        assert first is not None
        assert second is not None
        assert first[0] == {"a": [1, Point(2)], "b": {3}}
        assert first[0] is not second[0]
        assert first[0]["a"] is not second[0]["a"]
        known = first[1]
        assert (known.key, known.action, known.version, known.input_hash) == ("k", "act", "1", "h")
        assert (known.run_id, known.node_id) == ("run-7", "n")
        assert (known.created_at, known.expires_at) == (NOON, None)
        assert memory.recall("other") is None

    def test_keeps_none_too(self) -> None:
        memory = ResultMemory()
        keep(memory, "k", None)
        found = memory.recall("k")
        assert found is not None
        assert found[0] is None

    @pytest.mark.parametrize("value", [object(), [Secret("x")], lambda: None])
    def test_refuses_what_would_have_to_be_shared_itself(self, value: Any) -> None:
        memory = ResultMemory()
        with pytest.raises(EncodingError, match="the result of node 'n'"):
            keep(memory, "k", value)
        assert len(memory) == 0
        assert memory, "an empty memory is still a memory"

    @pytest.mark.row("C21")
    def test_does_not_find_what_expired_but_knows_of_it(self) -> None:
        memory = ResultMemory()
        keep(memory, "k", 1, expires_at=later(60))
        assert memory.recall("k", later(59)) is not None
        assert memory.recall("k", later(60)) is None
        assert memory.recall("k") is None
        assert [each.expired(later(60)) for each in memory.memos()] == [True]
        keep(memory, "k", 2, now=later(61), expires_at=later(120))
        found = memory.recall("k", later(62))
        assert found is not None
        assert found[0] == 2

    def test_of_limited_age_cuts_what_is_to_stay_longer(self) -> None:
        memory = ResultMemory(CacheConfig(ttl=30))
        keep(memory, "a", 1)
        keep(memory, "b", 1, expires_at=later(60))
        keep(memory, "c", 1, expires_at=later(10))
        assert {each.key: each.expires_at for each in memory.memos()} == {
            "a": later(30),
            "b": later(30),
            "c": later(10),
        }

    @pytest.mark.row("C38")
    def test_keeps_to_its_limits(self) -> None:
        memory = ResultMemory(CacheConfig(max_entries=2))
        keep(memory, "a", 1)
        keep(memory, "b", 2)
        assert memory.recall("a") is not None
        keep(memory, "c", 3)
        assert memory.recall("b") is None
        assert memory.recall("a") is not None
        small = ResultMemory(CacheConfig(max_memory_mb=1))
        for number in range(10):
            keep(small, str(number), "x" * 300_000)
        assert len(small) == 3

    def test_lists_what_it_knows_the_newest_first(self) -> None:
        memory = ResultMemory()
        keep(memory, "a", 1, node_id="x", now=later(1))
        keep(memory, "b", 1, node_id="y", now=later(2))
        keep(memory, "c", 1, action="other", node_id="x", now=later(3))
        assert [each.key for each in memory.memos()] == ["c", "b", "a"]
        assert [each.key for each in memory.memos("act")] == ["b", "a"]
        assert [each.key for each in memory.memos(node_id="x")] == ["c", "a"]
        assert [each.key for each in memory.memos("act", "x")] == ["a"]

    def test_forgets_an_action_or_all(self) -> None:
        memory = ResultMemory(CacheConfig(max_entries=3))
        for key, action in (("a", "x"), ("b", "y"), ("c", "x")):
            keep(memory, key, 1, action=action)
        assert memory.forget("x") == 2
        assert [each.key for each in memory.memos()] == ["b"]
        for key in "def":
            keep(memory, key, 1)
        assert len(memory) == 3
        assert memory.forget() == 3
        assert len(memory) == 0

    def test_serves_threads_at_the_same_time(self) -> None:
        memory = ResultMemory(CacheConfig(max_entries=50))
        faults: list[Any] = []

        def work(number: int) -> None:
            for step in range(500):
                key = str((number * 7 + step) % 80)
                keep(memory, key, [key])
                found = memory.recall(key)
                if found is not None and found[0] != [key]:
                    faults.append(found)
                if step % 100 == 0:
                    memory.memos()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert len(memory) == 50
