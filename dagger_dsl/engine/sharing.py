"""`Sharing`: one run's ties to the `Context` that its nodes share; only runs that use one have it.

What nodes have written into the metadata is compared by its plain form whenever something is
committed, so that changes inside of lists and dicts are found, too. Only what changed is recorded:
of a list that grew at its end, what was added.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from dagger_dsl.engine.freeing import free
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

#: A value as it was recorded: its JSON, and of a list how many items it has.
_Noted: TypeAlias = tuple[bytes, int]

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
        self._recorded: dict[str, _Noted] = {}
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
        there = code == PENDING and run.board.values[slot] is not UNSET
        return there and slot not in run.handling

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

    def note(self) -> str | None:
        """Return what has changed since this was last asked, as the record keeps it, or None."""
        import orjson  # only runs that are recorded come here

        context, before = self.context, self._recorded
        now: dict[str, _Noted] = {}
        change: dict[str, Any] = {}
        for name, value in list(context.metadata.items()):
            if context.is_engines(name):
                continue
            plain, old = self._plain(name, value), before.get(name)
            if plain is _CHANGING and old is not None:
                now[name] = old
            if plain is _UNSTORED or plain is _CHANGING:
                continue
            text = orjson.dumps(plain)
            now[name] = text, len(plain) if isinstance(plain, list) else 0
            if old is None or old[0] != text:
                if old is not None and old[1] and text.startswith(old[0][:-1] + b","):
                    change.setdefault("more", {})[name] = plain[old[1] :]
                else:
                    change.setdefault("set", {})[name] = plain
        gone = [name for name in before if name not in now]
        if gone:
            change["gone"] = gone
        deleted = [name for name in list(context.results.deleted) if name not in self._deleted]
        if deleted:
            change["deleted"] = deleted
        if not change:
            return None
        note = to_json({"context": change})
        self._recorded = now
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
        import orjson  # only runs that are recorded come here

        found = {
            name: from_plain(plain, f"context.metadata[{name!r}]")
            for name, plain in noted["metadata"].items()
        }
        context = self.context
        context.update(lambda metadata: metadata.update(found))
        context.results.deleted |= dict.fromkeys(noted["deleted"])
        self._recorded = {
            name: (orjson.dumps(plain), len(plain) if isinstance(plain, list) else 0)
            for name, plain in noted["metadata"].items()
        }
        self._deleted = set(noted["deleted"])


def replay(run: Run, change: Mapping[str, Any]) -> None:
    """Take over what one note says of the metadata; it becomes values when somebody asks."""
    if run.noted is None:
        run.noted = {"metadata": {}, "deleted": []}
    metadata = run.noted["metadata"]
    metadata.update(change.get("set", {}))
    for name, more in change.get("more", {}).items():
        metadata[name] = [*metadata[name], *more]
    for name in change.get("gone", ()):
        metadata.pop(name, None)
    run.noted["deleted"] += change.get("deleted", ())
