"""One run's values: namespaces, typed reads, write-through, and how they are shown."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import pickle
import threading
from typing import Any

import attrs
import pytest

from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InputResolutionError,
    TypeMismatch,
    ValidationError,
)
from dagger_dsl.model.graph import Input, Node
from dagger_dsl.model.values import MISSING, Secret, register_type
from dagger_dsl.store.cache import (
    GLOBAL,
    HUMAN_INPUT,
    INPUTS,
    RESERVED_NAMESPACES,
    Cache,
    CacheConfig,
    EvictionPolicy,
    clear_node_cache,
    get_input,
    get_value_from_cache,
    has_value,
    insert_value,
    parse_input_from_name,
    serialize_cache_to_prettyjson,
)
from dagger_dsl.store.codec import decode, encode


@register_type
@dataclasses.dataclass
class Line:
    item: str
    count: int = 1


@register_type
@attrs.define
class Order:
    name: str
    lines: list[Line] = attrs.Factory(list)
    due: dt.date | None = None
    note: int | str = ""


@pytest.mark.row("C1")
def test_a_new_cache_is_empty() -> None:
    cache = Cache()
    assert cache.namespaces() == list(cache) == []
    assert len(cache) == 0
    assert cache  # an empty cache is still a cache
    assert repr(cache) == "<Cache empty>"


@pytest.mark.row("C2")
def test_initial_values_can_be_read_and_are_copied() -> None:
    initial = {"inputs": {"num1": 10.0}}
    cache = Cache(initial)
    initial["inputs"]["num1"] = 0.0
    assert cache.get("inputs", "num1") == 10.0
    with pytest.raises(ConfigurationError, match="the value of 'inputs' is of type int"):
        Cache({"inputs": 5})  # type: ignore[dict-item]


@pytest.mark.row("C3")
@pytest.mark.parametrize(
    "value",
    ["john", 30, True, 1.5, None, [1, 2], {"a": {"b": [1]}}, (1, 2), {1}, Line("tea"), b"x"],
    ids=repr,
)
def test_any_value_of_the_codec_survives_a_round_trip_through_what_is_told_of_writes(
    value: Any,
) -> None:
    database: dict[tuple[str, str], bytes] = {}
    cache = Cache(on_write=lambda ns, key, each: database.update({(ns, key): encode(each)}))
    insert_value(cache, "node1", "result", value)
    cache["node1"]["again"] = value
    assert decode(database["node1", "result"]) == decode(database["node1", "again"]) == value
    assert cache.get("node1", "result") is value  # in memory it is the live object


@pytest.mark.row("C9")
def test_the_method_writes_what_the_function_writes() -> None:
    one, other = Cache(), Cache()
    one.insert("inputs", "x", 1)
    insert_value(other, "inputs", "x", 1)
    assert one == other
    assert one != Cache()
    assert one != {"inputs": {"x": 1}}


class TestTypedReads:
    @pytest.mark.row("C4")
    @pytest.mark.parametrize(
        ("value", "type_"),
        [
            (1, int),
            (1, float),
            (True, bool),
            ("a", str),
            (None, None),
            ([1, 2], list[int]),
            ({"a": 1}, dict[str, int | None]),
            ((1, "a"), tuple[int, str]),
            (Line("tea"), Line),
            (1, Any),
        ],
        ids=str,
    )
    def test_of_a_fitting_value_give_that_very_value(self, value: Any, type_: Any) -> None:
        cache = Cache({"n": {"k": value}})
        assert get_input(cache, "n", "k", type_) is value
        assert get_input(cache, "n", "k") is value

    @pytest.mark.row("C4")
    @pytest.mark.parametrize(
        ("value", "type_", "message"),
        [
            ("a", int, "n.k must be int, not str 'a'"),
            (True, int, "n.k must be int, not bool True"),
            (1, bool, "n.k must be bool, not int 1"),
            (1.0, int, "n.k must be int, not float 1.0"),
            (True, float, "n.k must be float, not bool True"),
            ([1, "x"], list[int], "n.k[1] must be int, not str 'x'"),
            ({"a": [None]}, dict[str, list[int]], "n.k['a'][0] must be int, not NoneType None"),
            (Secret("hush"), str, "n.k must be str, not Secret Secret('***')"),
        ],
        ids=str,
    )
    def test_of_another_type_say_where_and_what(self, value: Any, type_: Any, message: str) -> None:
        with pytest.raises(TypeMismatch) as caught:
            get_input(Cache({"n": {"k": value}}), "n", "k", type_)
        assert str(caught.value) == message

    @pytest.mark.row("C4")
    def test_make_an_instance_out_of_a_dict(self) -> None:
        due = dt.date(2024, 1, 2)
        plain = {"name": "n", "lines": [{"item": "tea", "count": 2}], "due": due, "note": "x"}
        order = get_input(Cache({"inputs": {"order": plain}}), "inputs", "order", Order)
        assert order == Order("n", [Line("tea", 2)], due, "x")

    @pytest.mark.row("C4")
    @pytest.mark.parametrize(
        ("plain", "message"),
        [
            ({}, "required field missing @ inputs.order.name"),
            ({"name": 5}, "expected str @ inputs.order.name"),
            ({"name": "", "lines": [{"item": "", "count": True}]}, "order.lines[0].count"),
            ({"name": "", "due": "2024-01-02"}, "inputs.order.due"),
            ({"name": "", "nmae": ""}, "extra fields found (nmae) @ inputs.order"),
        ],
        ids=str,
    )
    def test_convert_nothing_else_on_the_way(self, plain: Any, message: str) -> None:
        with pytest.raises(TypeMismatch, match=r"^inputs\.order cannot become Order: ") as caught:
            get_input(Cache({"inputs": {"order": plain}}), "inputs", "order", Order)
        assert message in str(caught.value)

    @pytest.mark.row("C4")
    def test_of_a_missing_value_name_what_is_there(self) -> None:
        cache = Cache({"inputs": {"age": 1, "name": 2}, "node1": {"result": 3}})
        with pytest.raises(InputResolutionError, match=r"'inputs\.agee'; did you mean 'age'"):
            get_input(cache, "inputs", "agee")
        with pytest.raises(InputResolutionError, match="'node9' has no values yet; did you mean"):
            get_input(cache, "node9", "result")


@pytest.mark.row("C5")
def test_has_value_answers_for_unknown_nodes_and_sees_none_as_a_value() -> None:
    cache = Cache({"a": {"k": None}})
    assert has_value(cache, "a", "k")
    assert not has_value(cache, "a", "other")
    assert not has_value(cache, "nobody", "k")
    assert "nobody" not in cache  # asking made nothing


@pytest.mark.row("C6")
def test_clearing_a_node_takes_its_values_from_memory_and_database() -> None:
    told: list[Any] = []
    cache = Cache({"a": {"x": 1, "y": 2}, "b": {"x": 3}}, on_write=lambda *each: told.append(each))
    clear_node_cache(cache, "a")
    clear_node_cache(cache, "nobody")
    assert cache.to_dict() == {"b": {"x": 3}}
    assert told == [("a", "x", MISSING), ("a", "y", MISSING)]


@pytest.mark.row("C7")
def test_get_value_from_cache_is_get() -> None:
    cache = Cache({"node1": {"result": 5}})
    assert get_value_from_cache(cache, "node1", "result") == cache.get("node1", "result") == 5
    assert get_value_from_cache(cache, "node1", "other") is None
    assert get_value_from_cache(cache, "node1", "other", 7) == cache.get("no", "no", 7) == 7


class TestInputsByName:
    inputs = (
        Input("age", "inputs.age"),
        Input("total", reference="node1.sum.all"),
        Input("rate", value=0.5),
        Input("nothing", value=None),
    )

    @pytest.mark.row("C8")
    def test_follow_their_reference_or_give_their_literal(self) -> None:
        cache = Cache({"inputs": {"age": 30}, "node1": {"sum.all": [1]}})
        assert parse_input_from_name(cache, "age", self.inputs) == 30
        assert parse_input_from_name(cache, "age", self.inputs, int) == 30
        assert parse_input_from_name(cache, "total", self.inputs, list[int]) == [1]
        assert parse_input_from_name(cache, "rate", self.inputs, float) == 0.5
        assert parse_input_from_name(cache, "nothing", self.inputs) is None

    @pytest.mark.row("C8")
    def test_that_are_unknown_raise_and_name_the_known_ones(self) -> None:
        with pytest.raises(InputResolutionError, match="no input 'agee'; did you mean 'age'"):
            parse_input_from_name(Cache(), "agee", self.inputs)
        with pytest.raises(InputResolutionError, match="known: 'age', 'nothing', 'rate', 'total'"):
            parse_input_from_name(Cache(), "xyz", self.inputs)
        with pytest.raises(InputResolutionError, match="this node takes none"):
            parse_input_from_name(Cache(), "age", ())

    @pytest.mark.row("C8")
    def test_that_refer_to_nothing_or_do_not_fit_raise_with_their_name(self) -> None:
        with pytest.raises(InputResolutionError, match=r"^input 'age': there is no value 'inputs"):
            parse_input_from_name(Cache(), "age", self.inputs)
        with pytest.raises(TypeMismatch, match=r"^input 'age': inputs\.age must be int, not bool"):
            parse_input_from_name(Cache({"inputs": {"age": True}}), "age", self.inputs, int)
        with pytest.raises(TypeMismatch, match=r"^input 'rate' must be str, not float 0\.5"):
            parse_input_from_name(Cache(), "rate", self.inputs, str)


@pytest.mark.row("C10")
def test_reserved_namespaces_hold_values_that_no_node_can_overwrite() -> None:
    assert {INPUTS, GLOBAL, HUMAN_INPUT} == RESERVED_NAMESPACES
    cache = Cache()
    for namespace in RESERVED_NAMESPACES:
        insert_value(cache, namespace, "approval", "approved")
        with pytest.raises(ValidationError, match="is reserved for the cache"):
            Node(namespace, "act")
    assert set(cache) == {"inputs", "global", "human_input"}


@pytest.mark.row("C11")
def test_eight_threads_lose_none_of_their_writes() -> None:
    told: list[tuple[str, str, Any]] = []
    cache = Cache(on_write=lambda *each: told.append(each))
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for step in range(10_000):
            cache.insert(f"own{number}" if step % 2 else "shared", f"{number}-{step}", step)
            if step % 1000 == 0:
                cache.to_dict()
                list(cache["shared"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, cache.to_dict().values())) == len(told) == 80_000
    assert len(cache["shared"]) == 40_000
    assert all(cache.get(namespace, key) == value for namespace, key, value in told)


class TestNamespaces:
    def test_are_live_mappings(self) -> None:
        cache = Cache()
        node = cache["node1"]
        assert len(node) == 0
        assert "node1" not in cache
        node["a"] = 1
        node.update(b=2)
        assert dict(cache["node1"]) == {"a": 1, "b": 2}
        assert ("a" in node, "c" in node, node.get("c", 5)) == (True, False, 5)
        del node["a"]
        assert repr(node) == "<Namespace 'node1': 'b'>"
        assert repr(cache) == "<Cache node1: 1>"
        with pytest.raises(KeyError, match="a"):
            node["a"]
        with pytest.raises(KeyError, match="a"):
            del node["a"]

    def test_are_listed_in_the_order_of_their_first_write(self) -> None:
        cache = Cache()
        for namespace in ("b", "a", "b"):
            cache.insert(namespace, "k", 1)
        assert cache.namespaces() == ["b", "a"]

    @pytest.mark.parametrize(("namespace", "key"), [(1, "k"), ("n", 1), (None, "k"), ("n", b"k")])
    def test_have_texts_for_names(self, namespace: Any, key: Any) -> None:
        with pytest.raises(ConfigurationError, match="of the cache is a text"):
            Cache().insert(namespace, key, 1)


class TestWriteThrough:
    def test_happens_before_a_value_is_visible_and_a_refused_value_never_is(self) -> None:
        seen: list[Any] = []

        def write(namespace: str, key: str, value: Any) -> None:
            seen.append(cache.get(namespace, key, "none yet"))
            encode(value)

        cache = Cache({"a": {"k": "old"}}, on_write=write)
        cache.insert("a", "k", "new")
        assert seen == ["old"]
        with pytest.raises(EncodingError, match="is a Secret"):
            cache.insert("a", "k", Secret("x"))
        with pytest.raises(EncodingError):
            cache["new"]["k"] = object()
        assert cache.to_dict() == {"a": {"k": "new"}}

    def test_is_told_of_one_write_at_a_time_and_in_their_order(self) -> None:
        busy = threading.Lock()
        last: dict[str, int] = {}

        def write(namespace: str, key: str, value: int) -> None:
            assert busy.acquire(blocking=False)
            last[key] = value
            busy.release()

        cache = Cache(on_write=write)

        def work(number: int) -> None:
            for step in range(1_000):
                cache.insert("n", "k", number * 1_000 + step)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert last["k"] == cache.get("n", "k")

    def test_is_not_told_of_initial_values_nor_pickled_along(self) -> None:
        told: list[Any] = []
        cache = Cache({"a": {"k": 1}}, on_write=lambda *each: told.append(each))
        copy = pickle.loads(pickle.dumps(cache))
        copy.insert("a", "k", 2)
        assert told == []
        assert copy.get("a", "k") == 2
        assert cache.get("a", "k") == 1


class TestJson:
    @pytest.mark.row("C18")
    def test_is_valid_and_indented(self) -> None:
        cache = Cache({"inputs": {"name": "Zoë", "n": [1, None]}, "a": {"result": Line("tea")}})
        text = serialize_cache_to_prettyjson(cache)
        assert text == cache.to_json(indent=2)
        assert text.startswith('{\n  "inputs": {\n    "name": "Zoë",')
        assert json.loads(text) == {
            "inputs": {"name": "Zoë", "n": [1, None]},
            "a": {"result": {"$type": f"{__name__}:Line", "$value": {"item": "tea", "count": 1}}},
        }
        assert "\n" not in cache.to_json(indent=None)
        assert Cache().to_json() == "{}"

    @pytest.mark.row("C18")
    def test_shows_secrets_as_stars_wherever_they_are(self) -> None:
        cache = Cache({"inputs": {"token": Secret("hush"), "deep": [{"t": Secret("hush")}]}})
        assert json.loads(cache.to_json())["inputs"] == {"token": "***", "deep": [{"t": "***"}]}

    @pytest.mark.row("C18")
    def test_shows_large_values_as_the_artifacts_they_are_stored_as(self) -> None:
        large = "x" * (32 * 1024 - 2)  # 32 KiB with its quotes
        cache = Cache({"a": {"large": large, "inline": large[1:]}})
        shown = json.loads(cache.to_json())["a"]
        assert shown["inline"] == large[1:]
        assert shown["large"] == {
            "$artifact": hashlib.sha256(encode(large)).hexdigest(),
            "bytes": 32 * 1024,
        }

    @pytest.mark.row("C18")
    def test_shows_what_has_no_stored_form_too(self) -> None:
        class Odd:
            def __repr__(self) -> str:
                return "<odd>"

        cache = Cache(
            {"a": {"odd": Odd(), "nan": float("nan"), "bad": "\ud800", "many": [Odd()] * 9}}
        )
        cache.insert("a", "large", [Odd()] * 5_000)
        shown = json.loads(cache.to_json())["a"]
        assert shown["odd"] == {"$repr": "<odd>"}
        assert shown["nan"] == {"$type": "float", "$value": "nan"}
        assert shown["many"] == [{"$repr": "<odd>"}] * 9
        assert set(shown["large"]) == {"$omitted", "bytes"}
        cache.to_json().encode()


class Database:
    """What a store does for a cache: it is told of writes, and asked for what left memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], bytes] = {}
        self.asked: list[tuple[str, str]] = []

    def write(self, namespace: str, key: str, value: Any) -> None:
        if value is MISSING:
            del self.rows[namespace, key]
        else:
            self.rows[namespace, key] = encode(value)

    def read(self, namespace: str, key: str) -> Any:
        self.asked.append((namespace, key))
        data = self.rows.get((namespace, key))
        return MISSING if data is None else decode(data)

    def cache(self, config: CacheConfig | None = None, **given: Any) -> Cache:
        return Cache(None, config, on_write=self.write, read_back=self.read, **given)


class TestLimits:
    @pytest.mark.row("C38")
    def test_let_the_least_recently_used_of_10_001_leave_memory_but_not_the_database(self) -> None:
        database = Database()
        cache = database.cache(CacheConfig())
        for number in range(10_000):
            cache.insert("n", str(number), number)
        assert cache.get("n", "0") == 0
        cache.insert("n", "10000", 10_000)
        assert len(database.rows) == 10_001
        assert [cache.get("n", key) for key in ("0", "2", "9999", "10000")] == [0, 2, 9999, 10_000]
        assert database.asked == []
        assert cache.get("n", "1") == 1
        assert database.asked == [("n", "1")]
        assert cache.get("n", "1") == 1
        assert database.asked == [("n", "1")], "it is in memory again"

    @pytest.mark.row("C39")
    @pytest.mark.parametrize(
        ("policy", "left"),
        [
            (EvictionPolicy.LRU, {"a", "c", "d"}),
            (EvictionPolicy.FIFO, {"b", "c", "d"}),
            (EvictionPolicy.LFU, {"a", "c", "d"}),
        ],
    )
    def test_are_enforced_where_nobody_keeps_what_leaves(
        self, policy: EvictionPolicy, left: set[str]
    ) -> None:
        cache = Cache.with_config(CacheConfig(max_entries=3, eviction_policy=policy))
        for key in "abc":
            cache.insert("n", key, key)
        assert cache.get("n", "a") == "a"
        cache.insert("n", "d", "d")
        assert set(cache["n"]) == set(cache.keys_of("n")) == left
        assert cache.to_dict() == {"n": {key: key for key in cache.keys_of("n")}}
        (gone,) = set("abcd") - left
        assert cache.get("n", gone) is None
        assert not cache.has("n", gone)
        assert not cache.discard("n", gone)
        cache.insert("m", "x", 1)
        assert len(cache["n"]) == 2
        assert cache.namespaces() == ["n", "m"]

    @pytest.mark.row("C39")
    def test_count_memory_and_let_the_newest_value_stay(self) -> None:
        cache = Cache(config=CacheConfig(max_memory_mb=1))
        for key in "abcd":
            cache.insert("n", key, "x" * 300_000)
        assert cache.keys_of("n") == ["b", "c", "d"]
        cache.insert("m", "huge", "x" * 2**21)
        assert cache.namespaces() == ["m"]
        assert len(cache.get("m", "huge")) == 2**21

    def test_hold_for_initial_values_too(self) -> None:
        cache = Cache({"n": {"a": 1, "b": 2}, "m": {"c": 3}}, CacheConfig(max_entries=2))
        assert cache.to_dict() == {"n": {"b": 2}, "m": {"c": 3}}

    @pytest.mark.row("C38")
    def test_of_age_let_values_go_by_the_clock(self) -> None:
        now = [0.0]
        cache = Cache(config=CacheConfig(ttl=60), clock=lambda: now[0])
        cache.insert("n", "a", 1)
        cache.insert("m", "b", 2)
        now[0] = 59.0
        assert cache.get("n", "a") == 1
        cache.insert("m", "b", 3)
        now[0] = 60.0
        assert cache.get("n", "a", "gone") == "gone"
        assert "n" not in cache
        assert (len(cache), list(cache), cache.to_dict()) == (1, ["m"], {"m": {"b": 3}})
        assert repr(cache) == "<Cache m: 1>"
        now[0] = 119.0
        assert not cache["m"]

    def test_of_age_let_what_others_keep_come_back(self) -> None:
        now = [0.0]
        database = Database()
        cache = database.cache(CacheConfig(ttl=60), clock=lambda: now[0])
        cache.insert("n", "a", 1)
        database.rows["n", "a"] = encode(2)
        assert cache.get("n", "a") == 1
        now[0] = 60.0
        assert cache.get("n", "a") == 2, "another process wrote it"

    def test_leave_the_names_of_what_others_keep(self) -> None:
        database = Database()
        cache = database.cache(CacheConfig(max_entries=1))
        for key in "abc":
            cache.insert("n", key, key)
        assert cache.keys_of("n") == list(cache["n"]) == ["a", "b", "c"]
        assert repr(cache) == "<Cache n: 3>"
        assert database.asked == []
        assert cache.to_dict() == {"n": {key: key for key in "abc"}}
        assert dict(cache["n"]) == {key: key for key in "abc"}
        assert json.loads(cache.to_json())["n"] == {key: key for key in "abc"}
        assert pickle.loads(pickle.dumps(cache)).keys_of("n") == ["c"], "limits travel with it"

    def test_let_values_be_removed_that_are_not_in_memory(self) -> None:
        database = Database()
        cache = database.cache(CacheConfig(max_entries=1))
        for key in "abc":
            cache.insert("n", key, key)
        assert cache.discard("n", "a")
        assert cache.get("n", "a") is None
        clear_node_cache(cache, "n")
        assert database.rows == {}
        assert cache.namespaces() == []

    def test_tell_of_removals_where_nothing_is_read_back(self) -> None:
        database = Database()
        cache = Cache(None, CacheConfig(max_entries=1), on_write=database.write)
        cache.insert("n", "a", 1)
        cache.insert("n", "b", 2)
        assert cache.get("n", "a", "away") == "away"
        assert cache.to_dict() == {"n": {"b": 2}}
        cache.clear("n")
        assert database.rows == {}

    def test_refuse_what_is_no_configuration(self) -> None:
        with pytest.raises(ConfigurationError, match="config is a CacheConfig or None"):
            Cache(None, {"max_entries": 5})  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="config is a CacheConfig or None"):
            Cache.with_config("small")  # type: ignore[arg-type]

    @pytest.mark.row("C11", "C39")
    def test_hold_under_eight_threads_and_lose_no_write(self) -> None:
        database = Database()
        cache = database.cache(CacheConfig(max_entries=50))
        start = threading.Barrier(8)
        wrong: list[Any] = []

        def work(number: int) -> None:
            start.wait()
            for step in range(1_000):
                key = f"{number}-{step % 40}"
                cache.insert("n", key, step)
                if cache.get("n", key) != step:
                    wrong.append((key, step))
                cache.get("n", f"{(number + 1) % 8}-{step % 40}")
                if step % 250 == 0:
                    cache.to_dict()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(database.rows) == len(cache["n"]) == 320
        assert cache.to_dict()["n"] == {
            key: decode(data) for (_, key), data in database.rows.items()
        }
        assert {cache.get("n", f"{number}-39") for number in range(8)} == {999}


class TestReadingBack:
    def test_finds_what_only_others_know_and_keeps_it(self) -> None:
        database = Database()
        database.write("n", "a", [1])
        cache = database.cache()
        assert cache.get("n", "missing", "no") == "no"
        assert cache.keys_of("n") == []
        assert cache.get("n", "a") == [1]
        assert cache["n"]["a"] is cache.get("n", "a")
        assert cache.has("n", "a")
        assert database.asked == [("n", "missing"), ("n", "a")]
        assert cache.keys_of("n") == ["a"]
        assert parse_input_from_name(cache, "x", (Input("x", "n.a"),)) == [1]

    def test_removes_what_only_others_know(self) -> None:
        database = Database()
        database.write("n", "a", 1)
        assert database.cache().discard("n", "a")
        assert database.rows == {}
        assert not database.cache().discard("n", "a")

    @pytest.mark.parametrize("change", ["write", "removal"])
    def test_does_not_bring_back_what_changed_meanwhile(self, change: str) -> None:
        database = Database()
        database.write("n", "a", "old")

        def read(namespace: str, key: str) -> Any:
            found = database.read(namespace, key)
            if len(database.asked) == 1:  # another thread is faster
                cache.insert("n", "a", "new")
                if change == "removal":
                    cache.discard("n", "a")
            return found

        cache = Cache(on_write=database.write, read_back=read)
        assert cache.get("n", "a") == "old"
        assert cache.get("n", "a") == ("new" if change == "write" else None)

    def test_lets_errors_through(self) -> None:
        def read(namespace: str, key: str) -> Any:
            raise EncodingError("no")

        with pytest.raises(EncodingError, match="no"):
            Cache(read_back=read).get("n", "a")
