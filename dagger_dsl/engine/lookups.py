"""Results shared between runs: what is looked up before a node starts, and kept when it ends.

The key of a result is its action, the version of the action's code and a hash of its inputs. With
a database it lies in the table `memo`, written by the transaction of the result; in memory the
process keeps the newest ones.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dagger_dsl.engine.invoke import delivered
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.errors import DaggerError, EncodingError
from dagger_dsl.model.caching import ResultMemory, input_hash, memo_key
from dagger_dsl.model.protocols import Journal

if TYPE_CHECKING:
    from dagger_dsl.engine.run import Run

__all__ = ["MEMORY", "Found", "Lookup", "look_up"]

logger = logging.getLogger("dagger_dsl.engine")

#: The results that runs of this process without a database share.
MEMORY = ResultMemory()


class Found(NamedTuple):
    """A result of another run."""

    value: Any
    note: Mapping[str, Any]


class Lookup:
    """What one invocation was looked up by, and why nothing was found.

    Attributes:
        key: What its result is kept under; None when it cannot be shared.
        action, version, input_hash: What the key is made of.
        seconds: How long its result is good for, None for ever.
        reason: Why it cannot be shared.
    """

    __slots__ = ("action", "input_hash", "key", "reason", "seconds", "version")

    def __init__(self, action: str, version: str) -> None:
        self.action = action
        self.version = version
        self.key: str | None = None
        self.input_hash = ""
        self.seconds: float | None = None
        self.reason = ""

    def remember(
        self,
        journal: Journal | None,
        run: Run,
        slot: int,
        inline: str | None,
        artifact: str | None,
        value: Any = None,
    ) -> None:
        """Keep the result that the invocation came to, with the commit that records it."""
        if self.key is None or "cached" in run.meta.get(slot, {}):
            return
        expires = None
        if self.seconds is not None:
            expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.seconds)
        known = {
            "action": self.action,
            "version": self.version,
            "input_hash": self.input_hash,
            "node_id": str(run.plan.ids[slot]),
            "expires_at": expires,
        }
        if journal is not None:
            if inline is None and artifact is None:
                return  # not recorded by wish
            journal.remember(self.key, inline=inline, artifact_id=artifact, **known)
            return
        try:
            MEMORY.remember(self.key, value, run_id=run.run_id, **known)
        except EncodingError as error:
            logger.debug("the result of %s is not kept: %s", run.ref(slot), error)


def look_up(run: Run, slot: int) -> Found | None:
    """Return the result of another run that an invocation may take, if there is one."""
    plan = run.plan
    top = slot
    while top in plan.parents:
        top = plan.parents[top]
    action, strategy = plan.actions[slot], plan.cached[top]
    lookup = run.lookups[slot] = Lookup(action.name, action.code_version())
    inputs = {
        name: value
        for name, value in delivered(run, slot, run.board.arguments(slot)).items()
        if value is not UNSET
    }
    try:
        lookup.input_hash = input_hash(inputs, strategy)
        lookup.key = memo_key(action.name, lookup.version, lookup.input_hash, strategy, inputs)
    except DaggerError as error:
        lookup.reason = str(error)
        logger.debug("%s cannot share its result: %s", run.ref(slot), error)
        return None
    lookup.seconds = strategy.seconds
    found = MEMORY.recall(lookup.key) if run.journal is None else run.journal.recall(lookup.key)
    if found is None:
        return None
    value, memo = found
    note = {"run_id": memo.run_id, "node_id": memo.node_id, "at": memo.created_at.isoformat()}
    return Found(value, note)
