"""Sharing results between runs: what a result is found by, why one was found or not, and a memory.

A recorded result may be used in place of a call when three things are as they were: the action, the
version of its code (`ActionDef.code_version`) and what counts of its inputs (`input_hash`). They
make its key (`memo_key`). `CacheDecision` and `explain_miss` say what came of looking for one.

Databases keep results in the store; `ResultMemory` keeps them for runs that have none.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, final

import attrs

from dagger_dsl.errors import ConfigurationError, EncodingError, did_you_mean, shown
from dagger_dsl.model._limits import CacheConfig, EvictionPolicy, Ledger, estimate_size
from dagger_dsl.model.policies import CacheStrategy
from dagger_dsl.model.values import Secret, from_plain, to_plain

__all__ = [
    "CacheConfig",
    "CacheDecision",
    "CacheRequest",
    "EvictionPolicy",
    "Ledger",
    "MemoInfo",
    "Remembered",
    "ResultMemory",
    "batch_key",
    "estimate_size",
    "expiry",
    "explain_miss",
    "input_hash",
    "is_fresh",
    "memo_key",
]


# --- keys -----------------------------------------------------------------------------------------


def input_hash(
    inputs: Mapping[str, Any],
    strategy: CacheStrategy = CacheStrategy.ALWAYS,
    *,
    params: Collection[str] = (),
) -> str:
    """Return a hash of what counts of a node's inputs.

    Equal hashes mean inputs that are equal as `Literal` says: 1, 1.0 and True differ, and the order
    of a dict's keys or of a set does not count. With a custom key, it is the key that is hashed.

    Args:
        inputs: Values by name.
        strategy: Which inputs count: its chosen ones, its key, or all.
        params: Names that the action takes and that the node may leave out; a chosen one of these
            that is not among the inputs counts as left out.

    Raises:
        EncodingError: An input that counts is a `Secret`, of which a hash could be guessed, or has
            no stored form. The message is a reason for people: such a node shares no results.
        ConfigurationError: A chosen input does not exist, or the key's function raised or returned
            no text.
    """
    if strategy.key is not None:
        return _digest("key", _custom_key(strategy.key, inputs))
    names = inputs.keys() if strategy.inputs is None else strategy.inputs
    plain = {}
    for name in names:
        if name in inputs:
            plain[name] = _plain_input(name, inputs[name])
        elif name not in params:
            known = {*inputs, *params}
            raise ConfigurationError(
                f"the cache strategy chooses the input {name!r}, which the node does not have"
                f"{did_you_mean(name, known)}"
            )
    return _digest("inputs", _canonical(plain))


def _custom_key(key: str | Callable[[Mapping[str, Any]], str], inputs: Mapping[str, Any]) -> str:
    if isinstance(key, str):
        return key
    try:
        found = key(dict(inputs))
    except Exception as error:  # the user's function
        raise ConfigurationError(f"the cache key's function raised {error!r}") from error
    if not isinstance(found, str) or not found:
        raise ConfigurationError(
            f"the cache key's function returned {shown(found)}; it has to return a text that is "
            "not empty"
        )
    return found


def _plain_input(name: str, value: Any) -> Any:
    if type(value) is Secret:
        raise EncodingError(
            f"the input {name!r} is a Secret, and a hash of it could be guessed; choose inputs "
            "that count without it, such as CacheStrategy.always(inputs=[...])"
        )
    try:
        return to_plain(value, f"the input {name!r}")
    except EncodingError as error:
        raise EncodingError(
            f"{error}; or choose inputs that count without it, such as "
            "CacheStrategy.always(inputs=[...])"
        ) from error


def _canonical(plain: Any) -> bytes:
    """Return the bytes of a plain form; equal values have equal ones."""
    import orjson  # runs that share no results never come here

    data = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
    if b'"$type":"map"' in data:
        # Keys that are no texts are written as a list of pairs, in the order of the dict.
        data = orjson.dumps(_in_order(plain), option=orjson.OPT_SORT_KEYS)
    return data


def _in_order(plain: Any) -> Any:
    if type(plain) is list:
        return [_in_order(each) for each in plain]
    if type(plain) is not dict:
        return plain
    found = {key: _in_order(each) for key, each in plain.items()}
    if found.get("$type") in ("map", "set", "frozenset"):
        found["$value"] = sorted(found["$value"], key=_canonical)
    return found


def memo_key(
    action_name: str, version: str, inputs_hash: str, strategy: CacheStrategy = CacheStrategy.ALWAYS
) -> str:
    """Return what a result is recorded and found by.

    Args:
        action_name: The action's name in the registry.
        version: The version of its code.
        inputs_hash: What `input_hash` gave for the same strategy.
        strategy: With a custom key that is a text, that text alone decides: equal ones share a
            record, whatever the action, its code and its inputs are.
    """
    if isinstance(strategy.key, str):
        return _digest("custom", strategy.key, length=64)
    return _digest("action", repr((action_name, version, inputs_hash)), length=64)


def batch_key(key: str, size: int) -> str:
    """Return what the results of *size* items together are found by, for the key of the inputs."""
    return _digest("batch", f"{size} {key}", length=64)


def _digest(kind: str, content: str | bytes, length: int = 32) -> str:
    """Return the first hexadecimal digits of a hash; what is of another kind has another one."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(kind.encode() + b"\0" + data).hexdigest()[:length]


# --- freshness ------------------------------------------------------------------------------------


class MemoInfo(Protocol):
    """What is known of a recorded result apart from its value; the store's `Memo` is one."""

    @property
    def key(self) -> str:
        """What it is found by."""
        ...

    @property
    def action(self) -> str:
        """Whose result it is."""
        ...

    @property
    def version(self) -> str:
        """The version of the code that made it."""
        ...

    @property
    def input_hash(self) -> str:
        """Of what inputs it is."""
        ...

    @property
    def run_id(self) -> str:
        """The run that made it."""
        ...

    @property
    def node_id(self) -> str:
        """The node that made it."""
        ...

    @property
    def created_at(self) -> dt.datetime:
        """When it was made, in UTC."""
        ...

    @property
    def expires_at(self) -> dt.datetime | None:
        """From when on it is not to be used any more, None for never."""
        ...


def expiry(strategy: CacheStrategy, made_at: dt.datetime) -> dt.datetime | None:
    """Return from when on a result made at *made_at* is too old, None for never."""
    if strategy.seconds is None:
        return None
    try:
        return made_at + dt.timedelta(seconds=strategy.seconds)
    except OverflowError:  # past the year 9999
        return None


def is_fresh(memo: MemoInfo, strategy: CacheStrategy, now: dt.datetime) -> bool:
    """Return whether a result may still be used, by its own expiry and by the strategy's."""
    end = _end(memo, strategy)
    return end is None or now < end


def _end(memo: MemoInfo, strategy: CacheStrategy) -> dt.datetime | None:
    ends = [memo.expires_at, expiry(strategy, memo.created_at)]
    return min((each for each in ends if each is not None), default=None)


# --- explanations ---------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CacheRequest:
    """What a node looked for.

    Attributes:
        action, node_id: Who.
        strategy: Its cache strategy.
        version: The version of its code.
        input_hash, key: What `input_hash` and `memo_key` gave; None where `problem` says why not.
        problem: Why it cannot share results; empty when it can.
    """

    action: str
    node_id: str
    strategy: CacheStrategy
    version: str
    input_hash: str | None = None
    key: str | None = None
    problem: str = ""


@attrs.frozen
class CacheDecision:
    """Whether a recorded result took the place of a call, and why; `str` gives one line.

    Attributes:
        hit: Whether it did.
        reason: Why, in a sentence.
        key: What was looked for; None where nothing could be.
        version: The version of the action's code; empty where nothing was looked for.
        input_hash: The hash of what counts of the inputs; None where there is none.
        made_at: When the result was made, for a hit.
        run_id: Which run made it, for a hit; that run may be gone.
    """

    hit: bool
    reason: str
    key: str | None
    version: str
    input_hash: str | None
    made_at: dt.datetime | None = None
    run_id: str | None = None

    def __str__(self) -> str:
        facts = [f"version {_short(self.version)}"] if self.version else []
        if self.input_hash is not None:
            facts.append(f"inputs {_short(self.input_hash)}")
        if self.run_id:
            facts.append(f"made by run {self.run_id}")
        if self.made_at is not None:
            facts.append(f"at {_when(self.made_at)}")
        told = f"{'hit' if self.hit else 'miss'}: {self.reason}"
        return f"{told} ({', '.join(facts)})" if facts else told


def explain_miss(
    wanted: CacheRequest, known: Sequence[MemoInfo], now: dt.datetime | None = None
) -> str:
    """Return why no recorded result could be used, in a sentence.

    Args:
        wanted: What was looked for.
        known: Results to compare with: the newest ones of the same action, or of the same node.
            Those of the same node are compared first.
        now: When it was looked for; the clock's time by default.
    """
    if wanted.strategy.kind == "never":
        return "its cache strategy is 'never'"
    if wanted.problem:
        return wanted.problem
    moment = dt.datetime.now(dt.UTC) if now is None else now
    newest = sorted(known, key=lambda memo: memo.created_at, reverse=True)
    same = next((memo for memo in newest if memo.key == wanted.key), None)
    if same is not None:
        return _why_not(same, wanted, moment)
    if isinstance(wanted.strategy.key, str):
        return f"no result was recorded with the key {shown(wanted.strategy.key)}"
    others = [memo for memo in newest if memo.action == wanted.action]
    if not others:
        return f"no result of action {wanted.action!r} was recorded yet"
    return _what_changed(
        wanted, [memo for memo in others if memo.node_id == wanted.node_id] or others
    )


def _why_not(memo: MemoInfo, wanted: CacheRequest, now: dt.datetime) -> str:
    end = _end(memo, wanted.strategy)
    if end is not None and end <= now:
        return f"the result of {_when(memo.created_at)} expired at {_when(end)}"
    return f"the result of {_when(memo.created_at)} was recorded after it was looked for"


def _what_changed(wanted: CacheRequest, others: Sequence[MemoInfo]) -> str:
    """Return what differs from the results that come nearest."""
    same_inputs = [memo for memo in others if memo.input_hash == wanted.input_hash]
    same_code = [memo for memo in others if memo.version == wanted.version]
    memo = (same_inputs or same_code or others)[0]
    code = f"version {_short(memo.version)} -> {_short(wanted.version)}"
    inputs = f"inputs {_short(memo.input_hash)} -> {_short(wanted.input_hash or '')}"
    since = f"since the result of {_when(memo.created_at)}"
    if memo.node_id != wanted.node_id:
        since += f" of node {memo.node_id!r}"
    if same_inputs:
        return f"the code changed {since}: {code}"
    what = "the key" if callable(wanted.strategy.key) else "the inputs"
    if same_code:
        return f"{what} changed {since}: {inputs}"
    return f"the code and {what} changed {since}: {code}, {inputs}"


def _short(version: str) -> str:
    """Return a hash cut to what tells it from others; what people wrote stays whole."""
    hexadecimal = len(version) in (32, 64) and set(version) <= set("0123456789abcdef")
    return version[:12] if hexadecimal else shown(version)


def _when(moment: dt.datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


# --- a memory -------------------------------------------------------------------------------------


@attrs.frozen
class Remembered:
    """What is known of a result in a `ResultMemory`, apart from its value.

    Attributes:
        key: What it is found by.
        action, version: Whose result it is.
        input_hash: Of what inputs.
        run_id, node_id: Where it was computed.
        created_at: When, in UTC.
        expires_at: From when on it is not found any more; None for never.
    """

    key: str
    action: str
    version: str
    input_hash: str
    run_id: str
    node_id: str
    created_at: dt.datetime
    expires_at: dt.datetime | None

    def expired(self, now: dt.datetime | None = None) -> bool:
        """Whether it is out of date; by the clock, unless *now* is given."""
        if self.expires_at is None:
            return False
        return self.expires_at <= (dt.datetime.now(dt.UTC) if now is None else now)


@final
class ResultMemory:
    """Results that runs of one process share without a database. Threads may share it, too.

    Values are kept in the codec's plain form, and everybody gets a fresh one: what a run does to
    its value, no other run sees. What expired stays known, for explanations, until there is no
    more room.

    Args:
        config: How much it keeps; `CacheConfig()` by default.
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        config = CacheConfig() if config is None else config
        self._lock = threading.Lock()
        self._ttl = config.ttl
        # What expired is kept on purpose, so the ledger is told of no time.
        self._ledger = Ledger(attrs.evolve(config, ttl=None))
        self._kept: dict[str, tuple[Remembered, Any]] = {}

    def remember(
        self,
        key: str,
        value: Any,
        *,
        action: str,
        version: str,
        input_hash: str,
        run_id: str,
        node_id: str,
        expires_at: dt.datetime | None = None,
        now: dt.datetime | None = None,
    ) -> None:
        """Keep a result; an older one of the same key goes.

        Args:
            key: What it is found by.
            value: Any value of the codec.
            action, version: Whose result it is.
            input_hash: Of what inputs.
            run_id, node_id: Where it was computed.
            expires_at: From when on it is not found any more; None for never.
            now: When it was made; the clock's time by default.

        Raises:
            EncodingError: It has no stored form. Nothing is kept.
        """
        plain = to_plain(value, f"the result of node {node_id!r}")
        made = dt.datetime.now(dt.UTC) if now is None else now
        if self._ttl is not None:
            latest = made + dt.timedelta(seconds=self._ttl)
            expires_at = latest if expires_at is None else min(expires_at, latest)
        memo = Remembered(key, action, version, input_hash, run_id, node_id, made, expires_at)
        size = estimate_size(plain) if self._ledger.counts_bytes else 0
        with self._lock:
            self._kept[key] = (memo, plain)
            for each in self._ledger.put(key, size):
                del self._kept[str(each)]

    def recall(self, key: str, now: dt.datetime | None = None) -> tuple[Any, Remembered] | None:
        """Return a fresh copy of a result and what is known of it, None for nothing fresh.

        Args:
            key: What it was remembered by.
            now: The time that counts; the clock's by default.
        """
        with self._lock:
            found = self._kept.get(key)
            if found is None or found[0].expired(now):
                return None
            self._ledger.use(key)
        memo, plain = found
        return from_plain(plain, f"the shared result {key!r}"), memo

    def memos(self, action: str | None = None, node_id: str | None = None) -> list[Remembered]:
        """Return what is known of the results, the newest first.

        Args:
            action: Only of this action.
            node_id: Only of nodes with this id.
        """
        with self._lock:
            found = [memo for memo, _ in self._kept.values()]
        found = [
            memo
            for memo in found
            if action in (None, memo.action) and node_id in (None, memo.node_id)
        ]
        return sorted(found, key=lambda memo: memo.created_at, reverse=True)

    def forget(self, action: str | None = None) -> int:
        """Remove the results of an action, or all; return how many there were."""
        with self._lock:
            gone = [key for key, (memo, _) in self._kept.items() if action in (None, memo.action)]
            for key in gone:
                del self._kept[key]
                self._ledger.drop(key)
        return len(gone)

    def __len__(self) -> int:
        return len(self._kept)

    def __bool__(self) -> bool:
        return True
