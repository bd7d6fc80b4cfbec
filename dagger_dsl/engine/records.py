"""`Records`: what a run has to record next, and the commits that do it.

The coordinator says what happened and when to commit; this module makes rows of it. A run in memory
has no journal, and of all of this nothing but the checks that a stored value would need.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.notes import to_json
from dagger_dsl.errors import EncodingError
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.protocols import Row
from dagger_dsl.model.streaming import Stream
from dagger_dsl.model.values import to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["Records", "Way", "is_code"]

logger = logging.getLogger("dagger_dsl.engine")


# Texts of labels that are kept; a node may make new ones each time.
_LABELS = 1000


class Way:
    """Where a state machine goes from a state, as it stands beside the state's value.

    Attributes:
        meta: By name.
        text: The same as the record has it.
    """

    __slots__ = ("meta", "text")

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.meta = meta
        self.text = to_json(meta)


class Records:
    """What the next commit of a run will hold.

    Args:
        run: The run.

    Attributes:
        rows: Outcomes, in order of arrival.
        replacing: Outcomes of attempts that are recorded as waiting.
        commands: Commands were applied since the last commit.
        oldest: When the first of them ended; ``-inf`` when they must not wait any longer.
        acknowledges: That hooks were shown events is recorded at all; False when they were, and
            what they asked for has to be asked again.
        owed: Hooks were shown events that the journal does not know of yet.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._journal = run.journal
        self._flush = run.config.flush_interval
        self.rows: list[Row] = []
        self.replacing: list[Row] = []
        self.oldest = inf
        self.owed = False
        self.acknowledges = True
        self.commands = False
        self._tokens = run.tokens
        self._labels: dict[tuple[str, ...], str] = {}
        self._narrates = logger.isEnabledFor(logging.DEBUG)

    @property
    def waiting(self) -> bool:
        """Whether there is something to commit."""
        return bool(self.rows or self.replacing or self._run.notes)

    @property
    def held(self) -> bool:
        """Whether outcomes wait for a commit, so that nobody may be shown them."""
        return bool(self.rows or self.replacing)

    def completed(self, slot: int, value: Any, way: Way | None = None) -> EncodingError | None:
        """Take a completion; return why its value has no stored form, if it has none.

        Args:
            slot: What completed.
            value: Its value.
            way: What stands beside it: where a state machine goes from there.
        """
        run, journal, plan = self._run, self._journal, self._run.plan
        lookup = run.lookups.get(slot)
        if lookup is not None:
            lookup.settle(run, slot, value)
        if journal is None:
            if lookup is not None:
                lookup.keep(run, slot, (None, None), value)
            return None
        meta: Mapping[str, Any] | None = run.meta.get(slot)
        text = None
        if way is not None:
            if meta is None:
                meta, text = way.meta, way.text
            else:
                meta = {**meta, **way.meta}
        if lookup is not None:
            meta, text = {**(meta or {}), "cache": lookup.to_plain()}, None
        inline = artifact = None
        streamed = value.__class__ is Stream
        stored = plan.actions[slot].store and not streamed
        try:
            if stored:
                try:
                    inline, artifact = journal.encode(value)
                except EncodingError:
                    if not is_code(value, slot in plan.mapped):
                        raise
                    stored = False
            if meta and text is None and "metadata" in meta:
                meta = {**meta, "metadata": to_plain(meta["metadata"], "metadata")}
        except EncodingError as error:
            return EncodingError(f"node {plan.ids[slot]!r}: {error}")
        if not stored:
            why = {"stored": False, "streamed": True} if streamed else {"stored": False}
            meta, text = {**(meta or {}), **why}, None
            run.meta.setdefault(slot, {}).update(why)
        elif slot in plan.fleeting:
            path = f"the value of {plan.ids[slot]!r}"
            run.rereads[slot] = partial(journal.decode, inline, artifact, path)
        board = run.board
        start, end = board.started[slot], board.ended[slot]
        self._date(start, end)
        if text is None and meta is not None:
            text = self._told(meta)
        row: Row = (
            plan.ids[slot],  # type: ignore[assignment]  # invocations have an id
            plan.children.key(slot) if plan.keyed else DEFAULT_KEY,
            run.attempts.get(slot, 1),
            "completed",
            inline,
            artifact,
            run.wall + start,
            (end - start) * 1000.0,
            None,
            text,
        )
        if slot in run.asked:
            self.replacing.append(row)
        else:
            self.rows.append(row)
        if lookup is not None:
            lookup.keep(run, slot, (inline, artifact), value)
        return None

    def _told(self, meta: Mapping[str, Any]) -> str:
        """Return what stands beside a value; labels alone are written once and come again."""
        labels = meta.get("labels")
        if labels is None or len(meta) > 1:
            return to_json(meta)
        key = tuple(labels)
        text = self._labels.get(key)
        if text is None:
            text = self._labels[key] = to_json(meta)
            if len(self._labels) > _LABELS:
                self._labels.clear()
        return text

    def push(self, slot: int, row: Row) -> None:
        """Take the end of an invocation that did not complete, or of one attempt."""
        if self._journal is None:
            return
        board = self._run.board
        end = board.ended[slot] or board.clock()
        self._date(board.started[slot] or end, end)  # what never started took no time
        if slot in self._run.asked and row[3] != "waiting":
            self.replacing.append(row)
        else:
            self.rows.append(row)

    def _date(self, start: float, end: float) -> None:
        """Settle until when what comes now can wait."""
        if not (self.rows or self.replacing):
            self.oldest = end
        if end - start >= self._flush:
            self.oldest = -inf  # what took long does not wait behind the next long call

    def note(self, key: str | None, body: Mapping[str, Any]) -> None:
        """Take what a resume needs beside outcomes."""
        if self._journal is not None:
            self._run.notes.append((key, to_json(body)))
            self.commands = self.commands or "command" in body

    def note_context(self, *, whole: bool = True) -> None:
        """Take what has changed of what the nodes share, wholly or what is found quickly."""
        run = self._run
        if run.sharing is not None and self._journal is not None:
            note = run.sharing.note(whole=whole)
            if note is not None:
                run.notes.append((None, note))

    def commit(self, released: Sequence[int] | None, *, last: bool = False) -> None:
        """Record everything in one transaction.

        Args:
            released: What is started by it.
            last: Only the end of the run follows, at once.

        Raises:
            StoreError: It cannot be recorded; nothing of it is.
        """
        journal, run = self._journal, self._run
        assert journal is not None
        if run.tokens != self._tokens:
            self._tokens = run.tokens
            run.notes.append((None, to_json({"tokens": run.tokens})))
        if run.sharing is not None:
            state = run.state
            self.note_context(
                whole=last or (not released and (state.paused or bool(state.waiting)))
            )
        if self.owed or self.replacing:
            journal.commit(
                self.rows,
                released,
                commands=run.notes or None,
                last=last,
                ack=self.owed and self.acknowledges,
                replacing=self.replacing,
            )
        else:
            journal.commit(self.rows, released, commands=run.notes or None, last=last)
        if self._narrates:
            logger.debug(
                "committed %d rows, released %d calls",
                len(self.rows),
                len(released or ()),
                extra={"run_id": run.run_id, "dag_name": run.dag_name},
            )
        # After the commit: an interrupt in between repeats it, it loses nothing.
        self.rows = []
        self.replacing = []
        run.notes = []
        self.owed = False
        self.commands = False
        self.oldest = inf

    def commit_unshown(self, *, last: bool = False) -> None:
        """Record what hooks are about to be shown; that they were is recorded with what follows."""
        owed, self.owed = self.owed, False
        self.commit(None, last=last)
        self.owed = owed


def is_code(value: Any, mapped: bool) -> bool:
    """Return whether a value without a stored form is a callable, or a mapped node's list of some.

    What loads something when it is called is of use to later nodes, and to nobody who reads a
    record: its producer makes it again.
    """
    if mapped and isinstance(value, list):
        return any(is_code(each, mapped) for each in value)
    return callable(value)
