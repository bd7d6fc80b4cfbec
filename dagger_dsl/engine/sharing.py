"""`Sharing`: one run's ties to the `Context` that its nodes share; only runs that use one have it.

What nodes have written into the metadata is compared whenever something is committed, and only
what changed is recorded: of a list that grew at its end, what was added; of a dict, its changed
keys. `dagger_dsl.engine.noted` says when changes inside of large values are found.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.freeing import free
from dagger_dsl.engine.noted import ATOMS, Noted, apply, merge
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.state import COMPLETED, PENDING
from dagger_dsl.errors import EncodingError, NodeNotFound, shown
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.states import RunStatus
from dagger_dsl.model.values import from_plain, to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.machine import History

__all__ = ["Sharing", "replay"]

logger = logging.getLogger("dagger_dsl.engine")

#: Of metadata that other threads change all the time: how often it is read again.
_TRIES = 5

# Instead of a plain form: there is none, or another thread changes the value just now.
_UNSTORED, _CHANGING = object(), object()

# Stands for the value of what was recorded by another process.
_NOTHING = object()

_DELETED = "it was deleted from the results of the run's context"


class Sharing:
    """Ties one run to its context.

    Args:
        run: The run.
        context: What its nodes share.

    Attributes:
        context: It.
    """

    def __init__(self, run: Run, context: Context) -> None:
        self._run = run
        self.context = context
        self._recorded: dict[str, Noted] = {}
        self._deleted: set[str] = set()
        self._refused: set[str] = set()
        context.tie(self, run.run_id)
        self.take_back()
        if run.finished is not None:
            self.settle()

    @property
    def history(self) -> History | None:
        """Where the run of a state machine has been."""
        return self._run.history

    # --- results ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the ids of the nodes that have a result, in declaration order."""
        if self.history is not None:
            return self.history.entered()
        return [node_id for node_id in list(self._run.plan.index) if self.has(node_id)]

    def has(self, node_id: str) -> bool:
        """Return whether a node has a result; nothing is read for it.

        It has one as soon as its call has returned a value, though the coordinator may not have
        looked at that yet: in a sequential run, whatever ran before has its result.
        """
        run = self._run
        if self.history is not None:
            return node_id in self.history.entered()
        slot = run.plan.index.get(node_id)
        if slot is None:
            return False
        code = run.state.status(slot)
        if code == COMPLETED:
            return not run.is_gone(slot)
        if code != PENDING or slot in run.handling:
            return False
        value = run.board.values[slot]
        # What can be read once belongs to who takes it.
        return value is not UNSET and not isinstance(value, (Iterator, AsyncIterator))

    def value(self, node_id: str) -> Any:
        """Return a node's result.

        Raises:
            KeyError: It has none.
        """
        if self.history is not None:
            return self.history.latest(node_id)
        if not self.has(node_id):
            raise KeyError(node_id)
        return self._run.value(self._run.plan.index[node_id])

    def drop(self, node_id: str) -> None:
        """Free a node's result as soon as no node that may still run needs it."""
        run = self._run
        if self.history is not None:
            return  # its limit says how long the history of a machine keeps results
        slot = run.plan.index[node_id]
        if run.finished is None:
            run.ask_to_free(slot, _DELETED)
        if run.finished is not None:  # by now, perhaps
            free(run, slot, _DELETED)

    def is_open(self) -> bool:
        """Return whether the run goes on."""
        return self._run.finished is None

    def advance(self, node_id: str, fraction: float, status: str) -> None:
        """Tell whoever watches the run how far a node has come.

        Raises:
            NodeNotFound: The run has no such node.
        """
        index = self._run.plan.index
        if node_id not in index:
            raise NodeNotFound(node_id, tuple(index))
        self._run.tell_progress(index[node_id], fraction, status)

    # --- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Put into the context how the run ended and what it took."""
        run, context = self._run, self.context
        status = run.status
        context.note("execution_status", str(RunStatus.FAILED if status == "running" else status))
        end = run.finished if run.finished is not None else run.board.clock()
        metrics: dict[str, Any] = {
            "execution_time": end - run.began,
            "total_duration": end - run.began,
            "node_times": run.node_times(),
        }
        if run.peak is not None:
            metrics["memory_usage"] = {"peak_mb": run.peak / 1e6}
        else:
            context.metrics.pop("memory_usage", None)  # of an earlier run
        context.metrics.update(metrics)

    # --- the record ------------------------------------------------------------------------------

    def note(self, *, whole: bool = False) -> str | None:
        """Return what has changed since this was last asked, as the record keeps it, or None.

        Names that were set or deleted, items at the end of a list and keys of a dict are found each
        time. What changed inside of an object that is still the same is found at once in small
        values, in large ones a little later.

        Args:
            whole: Leave nothing for later: the run pauses, waits or ends.
        """
        context, before, clock = self.context, self._recorded, self._run.board.clock
        now: dict[str, Noted] = {}
        change: dict[str, Any] = {}
        longer: list[tuple[Noted, Any, Any]] = []
        for name, value in list(context.metadata.items()):
            if context.is_engines(name):
                continue
            old = before.get(name)
            began = clock()
            if old is not None and not (whole or old.is_due(began)):
                parts = old.added(value)
                if parts is not None:
                    plain = self._plain(name, parts) if parts else parts
                    if plain is not _UNSTORED and plain is not _CHANGING:
                        now[name] = old
                        if parts:
                            longer.append((old, parts, plain))
                            merge(change, name, {"more" if type(parts) is list else "keys": plain})
                        continue
            if old is not None and type(value) in ATOMS and value is old.whole:
                now[name] = old
                continue
            seen = value.copy() if type(value) in (list, dict) else None
            plain = self._plain(name, value if seen is None else seen)
            if plain is _CHANGING and old is not None:
                now[name] = old
            if plain is _UNSTORED or plain is _CHANGING:
                continue
            now[name] = noted = Noted.of(plain, value, seen, began, clock())
            merge(change, name, {"set": plain} if old is None else old.change(noted, plain))
        gone = [name for name in before if name not in now]
        if gone:
            change["gone"] = gone
        deleted = [name for name in list(context.results.deleted) if name not in self._deleted]
        if deleted:
            change["deleted"] = deleted
        note = to_json({"context": change}) if change else None
        self._recorded = now
        for old, parts, plain in longer:
            old.extend(parts, plain)
        self._deleted.update(deleted)
        return note

    def _plain(self, name: Any, value: Any) -> Any:
        """Return the plain form of a value of the metadata; with a word, that it has none."""
        try:
            if not isinstance(name, str):
                raise EncodingError("its name is no text")
            name.encode()
            for _ in range(_TRIES):
                try:
                    return to_plain(value, "it")
                except EncodingError as error:
                    if not isinstance(error.__cause__, RuntimeError):
                        raise
            return _CHANGING
        except (EncodingError, UnicodeEncodeError) as error:
            self._refuse(name, error)
            return _UNSTORED

    def _refuse(self, name: Any, error: Exception) -> None:
        key = name if isinstance(name, str) else repr(name)
        if key not in self._refused:
            self._refused.add(key)
            logger.warning(
                "context.metadata[%s] cannot be recorded and is left out: %s",
                shown(name),
                error,
                extra={"run_id": self._run.run_id},
            )

    def take_back(self) -> None:
        """Give the context what earlier processes recorded.

        Raises:
            DecodingError: A value is of a type that this process does not know.
        """
        noted = self._run.noted
        if noted is None:
            return
        found = {
            name: from_plain(plain, f"context.metadata[{name!r}]")
            for name, plain in noted["metadata"].items()
        }
        context = self.context
        context.update(lambda metadata: metadata.update(found))
        context.results.deleted |= dict.fromkeys(noted["deleted"])
        self._recorded = {
            name: Noted.of(plain, _NOTHING, None, 0.0, 0.0)
            for name, plain in noted["metadata"].items()
        }
        self._deleted = set(noted["deleted"])


def replay(run: Run, change: Mapping[str, Any]) -> None:
    """Take over what one note says of the metadata; it becomes values when somebody asks."""
    if run.noted is None:
        run.noted = {"metadata": {}, "deleted": []}
    apply(run.noted["metadata"], change)
    run.noted["deleted"] += change.get("deleted", ())
