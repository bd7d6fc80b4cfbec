"""What a call keeps of its work for the attempt after it: `NodeCtx.checkpoint`.

A checkpoint is the newest value of its invocation in the run's cache, so that it is recorded,
resumed, copied and pruned as those are. It is written when the body asks for it, between two turns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import EncodingError, InvalidState, StoreError, shown
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.values import MISSING

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.store.records import StoredRun

__all__ = ["KEY", "checkpoint", "restored"]

#: Under this key it stands in the namespace of its node; no output can have this name.
KEY = "$checkpoint"


def checkpoint(
    run: Run, slot: int, attempt: int, stands_in: bool, value: Any = MISSING
) -> tuple[bool, Any]:
    """Keep a value for the next attempt of an invocation, or return the one that was kept last.

    Args:
        run, slot: Which invocation.
        attempt: Which call of it asks; one that was left behind keeps nothing.
        stands_in: Whether that is the call of its failure handler or its fallback.
        value: What to keep; nothing is kept without one.

    Returns:
        Whether there is one, and a copy of it.

    Raises:
        EncodingError: The value has no stored form.
        InvalidState: The call is none of the run's any more, or yields its items: who takes them
            begins anew with each attempt, so that items would be lost.
        StoreError: It cannot be recorded.
    """
    ref = run.ref(slot)
    key = KEY if ref.invocation_key == DEFAULT_KEY else f"{KEY} {ref.invocation_key}"
    name = (ref.node_id, key)
    if value is MISSING:
        kept = run.inserted.get(name, MISSING)
        return (False, None) if kept is MISSING else (True, copy.deepcopy(kept))
    if run.plan.actions[slot].yields is not None and not stands_in:
        raise InvalidState(
            f"node {ref.node_id!r} yields its items, and has no checkpoints: another attempt has "
            "to yield them all again; let a step before it do the work that is to be kept"
        )
    if run.plan.batch(slot) > 1:
        raise InvalidState(
            f"node {ref.node_id!r} is called for a batch of items, which are tried again together, "
            "and has no checkpoints; map it without batch="
        )
    journal, path = run.journal, f"the checkpoint of node {ref.node_id!r}"
    encoded = None
    if journal is not None:
        with _trouble(run):
            encoded = journal.encode(value, path)
    try:
        kept = copy.deepcopy(value)
    except Exception as error:
        raise EncodingError(f"{path}: {shown(value, 60)} cannot be copied: {error}") from error
    written = False

    def write() -> None:
        nonlocal written
        if not run.is_calling(slot, attempt, stands_in=stands_in):
            return
        if journal is not None and encoded is not None:
            with _trouble(run):
                journal.keep({name: encoded})
        before = run.kept.get(slot)
        if before is not None and before != name:  # of an earlier cycle of a machine
            run.inserted.pop(before, None)
        run.kept[slot], run.inserted[name] = name, kept
        written = True

    run.board.between(write)
    if not written:
        raise InvalidState(
            f"{path} was not kept: attempt {attempt} is over, as the run has ended or gone on "
            "without it"
        )
    return True, value


@contextmanager
def _trouble(run: Run) -> Iterator[None]:
    """Note trouble of the database: it is none of the node's, whatever the body makes of it."""
    try:
        yield
    except StoreError as error:
        run.trouble = error
        raise
    run.trouble = None


def restored(stored: StoredRun) -> dict[tuple[str, str], Any]:
    """Return the recorded values of a run's cache, without checkpoints that have done their duty.

    A call that has completed is made again only for a value that was not stored: it begins anew.
    """
    found = dict(stored.cache)
    for name in list(found):
        node_id, key = name
        if key == KEY or key.startswith(f"{KEY} "):
            node = stored.nodes.get((node_id, key.removeprefix(KEY).strip() or DEFAULT_KEY))
            if node is not None and node.state == "completed":
                del found[name]
    return found
