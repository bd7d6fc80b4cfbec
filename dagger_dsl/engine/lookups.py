"""Results shared between runs: what is looked up before a node starts, and kept when it ends.

The key of a result is its action, the version of the action's code and a hash of its inputs. With
a database it lies in the table `memo`, written by the transaction of the result; in memory the
process keeps the newest ones; and a strategy may name a place of its own. Why something was found,
or was not, stands with the node's outcome.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.invoke import delivered
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.errors import ConfigurationError, DaggerError, EncodingError, StoreError
from dagger_dsl.model.backends import Shelf
from dagger_dsl.model.caching import (
    CacheDecision,
    CacheRequest,
    MemoInfo,
    Remembered,
    ResultMemory,
    batch_key,
    expiry,
    explain_miss,
    input_hash,
    is_fresh,
    memo_key,
)
from dagger_dsl.model.context import labels_of

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["MEMORY", "Found", "Lookup", "decision_of", "look_up"]

logger = logging.getLogger("dagger_dsl.engine")

#: The results that runs of this process share without a database.
MEMORY = ResultMemory()

#: How many earlier results a miss is compared with, to say why it was one.
_COMPARED = 20


@attrs.frozen
class Found:
    """The result of another run."""

    value: Any


class Lookup:
    """What one invocation was looked up by, and what came of it.

    Attributes:
        request: What was looked for.
        decision: Whether something was found, and why; once the invocation has ended, also why
            other runs will not find its result.
        shared: Whether other runs may find its result.
    """

    __slots__ = ("decision", "request", "shared")

    def __init__(self, request: CacheRequest, decision: CacheDecision) -> None:
        self.request = request
        self.decision = decision
        self.shared = True

    def settle(self, run: Run, slot: int, value: Any) -> None:
        """Note why other runs will not find a result, before it is recorded.

        Args:
            run, slot: Which invocation.
            value: The result.
        """
        if self.decision.hit or self.request.key is None:
            return
        why = _why_unshared(run, slot, value)
        if why is not None:
            self._keep_apart(why)

    def _keep_apart(self, why: str) -> None:
        if self.shared:
            self.shared = False
            reason = f"{self.decision.reason}; other runs will not find its result: {why}"
            self.decision = attrs.evolve(self.decision, reason=reason)

    def to_plain(self) -> dict[str, Any]:
        """Return what is recorded with the outcome; `decision_of` reads it."""
        plain = attrs.asdict(self.decision)
        made = self.decision.made_at
        plain["made_at"] = None if made is None else made.isoformat()
        return {name: value for name, value in plain.items() if value is not None}

    def keep(self, run: Run, slot: int, stored: tuple[str | None, str | None], value: Any) -> None:
        """Keep the result that the invocation came to, with the commit that records it.

        `settle` has been called.

        Args:
            run, slot: Which invocation.
            stored: What the journal's `encode` gave; None twice for what is not recorded by wish.
            value: The result.
        """
        request, journal = self.request, run.journal
        ref = run.ref(slot)
        if journal is not None and request.input_hash is not None:
            journal.note_inputs(ref.node_id, request.input_hash, ref.invocation_key)
        if self.decision.hit or request.key is None or request.input_hash is None:
            return
        if not self.shared:
            return
        now = dt.datetime.now(dt.UTC)
        place = _place(run, request)
        if place is not None and place is journal:
            if stored != (None, None):
                journal.remember(
                    request.key,
                    action=request.action,
                    version=request.version,
                    input_hash=request.input_hash,
                    node_id=ref.node_id,
                    inline=stored[0],
                    artifact_id=stored[1],
                    expires_at=expiry(request.strategy, now),
                    invocation_key=ref.invocation_key,
                    now=now,
                )
            return
        end = expiry(request.strategy, now)
        origin = (request.action, request.version, request.input_hash, run.run_id, ref.node_id)
        memo = Remembered(request.key, *origin, now, end)
        try:
            if isinstance(place, ResultMemory):
                place.remember(**attrs.asdict(memo, filter=_not_made), value=value, now=now)
            elif place is not None:
                place.remember(memo, value)
        except (EncodingError, ConfigurationError) as error:
            tags = run.tags(slot)
            logger.debug("the result of %s is not kept: %s", ref, error, extra=tags)
            self._keep_apart(str(error))


def _not_made(attribute: attrs.Attribute[Any], _: Any) -> bool:
    return attribute.name != "created_at"


def _why_unshared(run: Run, slot: int, value: Any) -> str | None:
    """Return why a result in the place of a call would not do all that the call did."""
    meta = run.meta.get(slot, {})
    if not run.plan.actions[slot].store:
        return "its action says store=False"
    if slot in run.asked:
        return "a person was asked"
    if meta.get("recovered"):
        return "a fallback or a failure handler gave it"
    if slot in run.unshared:
        return "commands came with it, and a result alone would not repeat them"
    if slot in run.plan.labelled and meta.get("labels") != sorted(labels_of(value) or ()):
        return "its label does not follow from its value"
    return None


def decision_of(plain: Mapping[str, Any]) -> CacheDecision:
    """Return the decision that was recorded with an outcome."""
    made = plain.get("made_at")
    return CacheDecision(
        hit=bool(plain.get("hit")),
        reason=str(plain.get("reason", "")),
        key=plain.get("key"),
        version=str(plain.get("version", "")),
        input_hash=plain.get("input_hash"),
        made_at=None if made is None else dt.datetime.fromisoformat(made),
        run_id=plain.get("run_id"),
    )


def look_up(run: Run, slot: int) -> Found | None:
    """Return the result of another run that an invocation may take, if there is one."""
    request = _request(run, slot)
    found = None
    place = _place(run, request)
    if request.key is not None:
        try:
            found = _recall(place, request)
        except StoreError:
            raise
        except ConfigurationError as error:  # a backend failed
            request = attrs.evolve(request, problem=str(error))
        except DaggerError as error:  # it was written by a process that knew other classes
            request = attrs.evolve(request, problem=f"a result is there, but {error}")
    if found is None:
        known = _known(place, request)
        reason = explain_miss(request, known)
        if not (request.problem or known) and isinstance(place, Shelf):
            reason = "its cache backend has no result for this code and these inputs"
        decision = CacheDecision(False, reason, request.key, request.version, request.input_hash)
        run.lookups[slot] = Lookup(request, decision)
        return None
    value, memo = found
    decision = CacheDecision(
        True,
        f"node {memo.node_id!r} had come to it with the same inputs and code",
        request.key,
        request.version,
        request.input_hash,
        memo.created_at,
        memo.run_id,
    )
    run.lookups[slot] = Lookup(request, decision)
    return Found(value)


def _request(run: Run, slot: int) -> CacheRequest:
    """Work out what an invocation is looked up by."""
    plan = run.plan
    action, strategy = plan.actions[slot], plan.cached[run.top(slot)]
    request = CacheRequest(
        action=action.name,
        node_id=str(plan.ids[slot]),
        strategy=strategy,
        version=action.code_version(),
    )
    if strategy.backend == "database" and run.journal is None:
        why = "its cache backend is 'database', and this run has none: give database_url="
        return attrs.evolve(request, problem=why)
    inputs = {
        name: value
        for name, value in delivered(run, slot, run.board.arguments(slot)).items()
        if value is not UNSET
    }
    params = [each.name for each in action.params]
    try:
        hashed = input_hash(inputs, strategy, params=params)
    except DaggerError as error:
        # A key's function that fails is a mistake; the rest may well be meant.
        is_fault = callable(strategy.key) and action.name not in run.warned
        if is_fault:
            run.warned.add(action.name)
        level = logging.WARNING if is_fault else logging.INFO
        text = "%s shares no results: %s"
        logger.log(level, text, run.ref(slot), error, extra=run.tags(slot))
        return attrs.evolve(request, problem=str(error))
    key = memo_key(action.name, request.version, hashed, strategy)
    if plan.batch(slot) > 1:  # a list of results, and not one
        place = plan.mapped[plan.parents[slot]].place
        key = batch_key(key, len(run.board.arguments(slot)[place]))
    return attrs.evolve(request, input_hash=hashed, key=key)


def _place(run: Run, request: CacheRequest) -> Any:
    """Return where a result is shared: the run's journal, a `ResultMemory` or a `Shelf`."""
    backend = request.strategy.backend
    if backend is None:
        return MEMORY if run.journal is None else run.journal
    if isinstance(backend, str):
        return MEMORY if backend == "memory" else run.journal
    return Shelf(backend)


def _recall(place: Any, request: CacheRequest) -> tuple[Any, MemoInfo] | None:
    found: tuple[Any, MemoInfo] | None = place.recall(request.key)
    if found is None or not is_fresh(found[1], request.strategy, dt.datetime.now(dt.UTC)):
        return None
    return found


def _known(place: Any, request: CacheRequest) -> Sequence[MemoInfo]:
    """Return the newest results that a miss can be compared with."""
    if isinstance(place, Shelf):
        return place.memos()
    if isinstance(place, ResultMemory):
        return place.memos(request.action)[:_COMPARED]
    found: Sequence[MemoInfo] = [] if place is None else place.memos(request.action, _COMPARED)
    return found
