"""What a call keeps of its work for the attempt after it: `NodeCtx.checkpoint`.

A checkpoint is the newest value of its invocation in the run's cache, so that it is recorded,
resumed, copied and pruned as those are. It is written when the body asks for it, between two turns.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import EncodingError, InvalidState, StoreError, shown
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.values import MISSING

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.store.records import StoredRun

__all__ = ["KEY", "keep", "kept", "restored"]

#: Under this key it stands in the namespace of its node; no output can have this name.
KEY = "$checkpoint"


def kept(run: Run, slot: int) -> tuple[bool, Any]:
    """Return whether an invocation has a checkpoint, and a copy of it."""
    name = _name(run, slot)
    value = run.inserted.get(name, MISSING)
    if value is MISSING:
        return False, None
    run.kept.setdefault(slot, name)  # an earlier process may have made it
    return True, copy.deepcopy(value)


def keep(run: Run, slot: int, attempt: int, stands_in: bool, value: Any) -> None:
    """Keep a value for the next attempt of an invocation.

    Args:
        run, slot: Which invocation.
        attempt: Which call of it asks; one that was left behind keeps nothing.
        stands_in: Whether that is the call of its failure handler or its fallback.
        value: What to keep.

    Raises:
        EncodingError: The value has no stored form.
        InvalidState: The call is none of the run's any more, or its node can have no checkpoints.
        StoreError: It cannot be recorded.
    """
    name = _name(run, slot)
    if not stands_in:
        _refuse(run, slot, name[0])
    path = f"the checkpoint of node {name[0]!r}"
    try:
        encoded = None if run.journal is None else run.journal.encode(value, path)
    except StoreError as error:
        run.trouble[slot] = error
        raise
    try:
        copied = copy.deepcopy(value)
    except Exception as error:
        raise EncodingError(f"{path}: {shown(value, 60)} cannot be copied: {error}") from error
    written = False

    def write() -> None:
        nonlocal written
        written = run.is_calling(slot, attempt, stands_in=stands_in)
        if written:
            _write(run, slot, name, encoded, copied)

    run.board.between(write)
    if not written:
        raise InvalidState(
            f"{path} was not kept: attempt {attempt} is over, as the run has ended or gone on "
            "without it"
        )


def _name(run: Run, slot: int) -> tuple[str, str]:
    ref = run.ref(slot)
    key = KEY if ref.invocation_key == DEFAULT_KEY else f"{KEY} {ref.invocation_key}"
    return ref.node_id, key


def _refuse(run: Run, slot: int, node_id: str) -> None:
    """Refuse a checkpoint whose next attempt could not go on from it."""
    if run.plan.actions[slot].yields is not None:
        raise InvalidState(
            f"node {node_id!r} yields its items, and has no checkpoints: another attempt has to "
            "yield them all again; let a step before it do the work that is to be kept"
        )
    if run.plan.batch(slot) > 1:
        raise InvalidState(
            f"node {node_id!r} is called for a batch of items, which are tried again together, and "
            "has no checkpoints; map it without batch="
        )


def _write(
    run: Run,
    slot: int,
    name: tuple[str, str],
    encoded: tuple[str | None, str | None] | None,
    value: Any,
) -> None:
    """Record a checkpoint, and let it take the place of the one before."""
    if run.journal is not None and encoded is not None:
        try:
            run.journal.keep({name: encoded})
        except StoreError as error:
            run.trouble[slot] = error
            raise
    before = run.kept.get(slot)
    if before is not None and before != name:  # of an earlier cycle of a machine
        run.inserted.pop(before, None)
    run.kept[slot], run.inserted[name] = name, value
    run.trouble.pop(slot, None)


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
