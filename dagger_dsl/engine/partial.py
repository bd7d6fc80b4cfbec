"""Partial runs: a part of a graph runs, on the results that an earlier run of it has recorded.

A run is made partial before it begins: what stays outside of the part is either taken over, as a
resume takes over what it finds, or ends as skipped. Then it is a run like any other.

The rules:

* A result is taken over when it does not depend on anything that runs now, and its node has the
  same action as before.
* What was skipped before counts as skipped again. What failed or was cancelled counts as that for
  `failed`, `done`, `any` and `none_failed` nodes, and is missing for all others.
* A node whose items went to its consumer one by one is called again with it: the two are one unit.
* Where a graph or its inputs have changed above the part, the part runs on what there was, with a
  warning; ``on_change="fail"`` refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.inputs import bind_inputs
from dagger_dsl.engine.notes import of_json, to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.records import is_code
from dagger_dsl.engine.state import COMPLETED, NAMES, SKIPPED, LeftOut
from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InvalidState,
    MissingInputError,
    NodeNotFound,
    OutputError,
    shown,
)
from dagger_dsl.model.context import DEFAULT_KEY, labels_of
from dagger_dsl.model.policies import Trigger
from dagger_dsl.model.streaming import Stream, takers_of
from dagger_dsl.model.values import to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.plan import Plan
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.config import RunOptions
    from dagger_dsl.model.graph import Graph, Node
    from dagger_dsl.model.protocols import Command, Row
    from dagger_dsl.store.runs import StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["LEFT_OUT", "Part", "Past", "PastNode"]

logger = logging.getLogger("dagger_dsl.engine")

#: Why nodes outside of the part are skipped.
LEFT_OUT = "not part of this partial run"

#: How the reasons of nodes begin that were skipped because of a decision, and not of a failure.
_DECIDED = ("branch not taken", "disabled", "trigger 'failed'")

#: Keys of the notes in a partial run's record: which part it is, and what was left out of it.
_PART, _TAKEN = "part", "left out"


@attrs.frozen
class PastNode:
    """What an earlier run knows of one node.

    Attributes:
        state: How it ended.
        reason: Why it was skipped or cancelled.
        value: Gives its value; None where there is none.
        meta: What was recorded beside the value.
        started: When its last attempt began, in seconds since 1970.
        duration: Seconds of that.
        freed: Why its value is there no more, for people.
        streamed: It gave its items to its consumer one by one, and has no value of its own.
    """

    state: str
    reason: str = ""
    value: Callable[[], Any] | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict)
    started: float = 0.0
    duration: float = 0.0
    freed: str = ""
    streamed: bool = False


@attrs.frozen
class Past:
    """What an earlier run has recorded.

    Attributes:
        run_id: It.
        graph: Its graph as it was at the end.
        inputs: What it was given.
        nodes: By id.
        winners: By id of an `any` node, the source that it took.
        inserted: What functions of the old form wrote, by namespace and key.
    """

    run_id: str
    graph: Graph
    inputs: Mapping[str, Any]
    nodes: Mapping[str, PastNode]
    winners: Mapping[str, str]
    inserted: Mapping[tuple[str, str], Any]

    @classmethod
    def of_run(cls, run: Run) -> Past:
        """Return what a run of this process has come to."""
        plan, board = run.plan, run.board
        nodes, winners = {}, {}
        for node_id, slot in plan.index.items():
            code = run.state.status(slot)
            meta = run.meta.get(slot, {})
            start, end = run.before.get(slot, (0.0, 0.0))
            if board.started[slot]:
                start, end = run.wall + board.started[slot], run.wall + board.ended[slot]
            unstored = meta.get("stored") is False
            held = board.values[slot]
            streamed = held.__class__ is Stream or bool(meta.get("streamed"))
            value = None
            if code == COMPLETED and not streamed and not (slot in run.loaders and unstored):
                # Not the run's own way to it: a chain of partial runs would keep all of them.
                value = run.loaders.get(slot)
                if value is None and held is not UNSET:
                    value = partial(_itself, held)
            nodes[node_id] = PastNode(
                NAMES[code],
                run.state.reasons.get(slot, ""),
                value,
                meta,
                start,
                end - start,
                run.freed.get(slot, ""),
                streamed,
            )
            join = plan.joins.get(slot)
            if join is not None and join.rule is Trigger.ANY:
                for source in run.bound.get(slot, ()):
                    winners[node_id] = str(plan.ids[source])
        inputs = dict(run.inputs)
        return cls(run.run_id, plan.current, inputs, nodes, winners, dict(run.inserted))

    @classmethod
    def of_record(cls, stored: StoredRun) -> Past:
        """Return what is recorded of a run; no action of its graph need be known."""
        from dagger_dsl.engine.recorder import meta_of
        from dagger_dsl.engine.story import graph_now

        nodes = {}
        for (node_id, key), node in stored.nodes.items():
            if key != DEFAULT_KEY:
                continue
            meta = meta_of(node)
            value = node.value if node.state == "completed" and node.has_value else None
            reason = str(meta.get("reason", ""))
            times = node.started_at or 0.0, node.duration or 0.0
            streamed = bool(meta.get("streamed"))
            nodes[node_id] = PastNode(node.state, reason, value, meta, *times, streamed=streamed)
        winners = {
            each.key.removeprefix("any:"): str(of_json(each.body))
            for each in stored.commands
            if each.key is not None and each.key.startswith("any:")
        }
        graph = graph_now(stored.graph, stored.commands)
        return cls(stored.run_id, graph, stored.inputs, nodes, winners, stored.cache)


class Part:
    """The part of a graph that runs.

    Args:
        plan: The graph's.
        start_at, stop_at: Where it begins and ends; None for no limit there.

    Raises:
        NodeNotFound: The graph has no such node.
        ConfigurationError: Nothing lies between them.

    Attributes:
        chosen: The slots that run.
    """

    def __init__(self, plan: Plan, start_at: str | None, stop_at: str | None) -> None:
        for node_id in (start_at, stop_at):
            if node_id is not None and node_id not in plan.index:
                raise NodeNotFound(node_id, tuple(plan.index))
        self._plan = plan
        self._start, self._stop = start_at, stop_at
        self.chosen = set(plan.index.values())
        if start_at is not None:
            self.chosen &= _walk([plan.index[start_at]], plan.targets)
        if stop_at is not None:
            self.chosen &= _walk([plan.index[stop_at]], plan.sources)
        if not self.chosen:
            assert start_at is not None
            assert stop_at is not None
            back = plan.index[start_at] in _walk([plan.index[stop_at]], plan.targets)
            turn = f"; there is one from {stop_at!r} to {start_at!r}" if back else ""
            raise ConfigurationError(
                f"graph {plan.graph.name!r} has no path from {start_at!r} to {stop_at!r}{turn}"
            )
        self._refuse_half_streams()
        self.past: Past | None = None
        self._where = "it has not been run"
        self._kept: list[int] = []
        self._left: dict[int, LeftOut] = {}

    @classmethod
    def of(cls, plan: Plan, options: RunOptions, store: Store | None) -> Part | None:
        """Return the part that the options name, with the past that it builds on.

        Args:
            plan: The graph's.
            options: Of the run.
            store: Where the run is recorded, None in memory.

        Raises:
            RunNotFound: The database has no such run.
        """
        if not options.partial:
            return None
        if plan.machine is not None:
            raise ConfigurationError(
                f"{plan.graph.name!r} is a state machine, which has no parts that could run alone: "
                "it goes from state to state. Leave out start_at= and stop_at=; resume() goes on "
                "in the state in which a recorded run stands"
            )
        part = cls(plan, options.start_at, options.stop_at)
        if options.start_at is not None:
            part._find_past(options.reuse, store)
        return part

    @classmethod
    def recorded(cls, plan: Plan, stored: StoredRun) -> Part | None:
        """Return the part that a recorded run was made for; None for a whole run."""
        first = next(iter(stored.commands), None)
        if first is None or first.key != _PART:
            return None
        body = of_json(first.body)
        part = cls(plan, body["start_at"], body["stop_at"])
        taken = next((each.body for each in stored.commands if each.key == _TAKEN), None)
        if taken is None:
            raise InvalidState(
                f"run {stored.run_id} was to run a part of its graph, and its process died before "
                "anything ran; start that part again"
            )
        part._left = {
            plan.index[node_id]: LeftOut(reason, state)
            for node_id, (reason, state) in of_json(taken)["without"].items()
        }
        return part

    @property
    def notes(self) -> list[Command]:
        """What is recorded with the run's making."""
        return [(_PART, to_json({"start_at": self._start, "stop_at": self._stop}))]

    @property
    def left_out(self) -> Mapping[int, LeftOut]:
        """What is no part of the run, nor taken over."""
        return self._left

    @property
    def inputs(self) -> set[str]:
        """The names of the graph's inputs that the part needs."""
        found: set[str] = set()
        for slot in self.chosen:
            found.update(_inputs_of(self._plan.node(slot)))
        return found

    def _refuse_half_streams(self) -> None:
        """Refuse a part that has a node whose items only a node outside of it takes.

        Raises:
            ConfigurationError: It has one.
        """
        for slot in self.chosen:
            consumer = _consumer(self._plan, slot)
            if consumer is not None and consumer not in self.chosen:
                name, taker = self._plan.ids[slot], self._plan.ids[consumer]
                raise ConfigurationError(
                    f"graph {self._plan.graph.name!r} cannot run until {self._stop!r}: {name!r} "
                    f"yields its items to {taker!r} one by one and comes to nothing without it. "
                    f"Run until {taker!r}, or return list(...)"
                )

    def _find_past(self, reuse: RunReport | str | None, store: Store | None) -> None:
        run = getattr(reuse, "_run", None)
        if run is not None:
            self.past = Past.of_run(run)
        elif store is not None:
            _know_classes(self._plan)
            name = self._plan.graph.name
            run_id = reuse if isinstance(reuse, str) or reuse is None else reuse.run_id
            if run_id is None:
                newest = store.list_runs(name, limit=1)
                run_id = newest[0].run_id if newest else None
                self._where = f"{store.database.where} has no run of it"
            if run_id is not None:
                self.past = Past.of_record(store.load_run(run_id))
        elif isinstance(reuse, str):
            raise ConfigurationError(
                f"run {shown(reuse)} is looked up in a database: give database_url=, "
                "or reuse=report"
            )

    # --- before the run ---------------------------------------------------------------------------

    def bind(self, given: Mapping[str, Any] | None, options: RunOptions, missing: str) -> Any:
        """Return the run's inputs: those of the past where nothing else is given.

        Args:
            given: Values by name.
            options: Of the run.
            missing: The configuration's ``on_missing``.

        Raises:
            InputError: As for any run.
            MissingInputError: A value that the part needs was not recorded; nothing has run.
            ConfigurationError: Something has changed, and ``on_change`` says ``fail``.
        """
        self._decide()
        values = given
        if self.past is not None and (given is None or isinstance(given, Mapping)):
            known = {*self._plan.inputs, *self._plan.graph.inputs}
            kept = {name: each for name, each in self.past.inputs.items() if name in known}
            values = {**kept, **(given or {})}
            self._compare(given or {}, options.on_change)
        return bind_inputs(self._plan, values, missing, self.inputs)

    def _decide(self) -> None:
        """Settle what is taken over and what is left out.

        Raises:
            MissingInputError: The part needs something that is not there.
        """
        plan, past = self._plan, self.past
        stale = _walk(self.chosen, plan.targets)
        self.chosen |= self._whole_streams()
        needed: dict[int, list[int]] = {}  # who needs what is outside
        for slot in sorted(self.chosen):
            for source in plan.sources(slot):
                if source not in self.chosen:
                    needed.setdefault(source, []).append(slot)
        broken = set() if past is None else _broken(plan, past.nodes)
        kept: list[tuple[float, int]] = []
        for node_id, slot in plan.index.items():
            if slot in self.chosen:
                continue
            before = None if past is None else past.nodes.get(node_id)
            node = None if past is None else past.graph.nodes.get(node_id)
            same = node is not None and node.action == plan.node(slot).action
            if before is None or slot in stale or not same:
                self._left[slot] = LeftOut(LEFT_OUT)
            elif before.value is not None:
                if slot in needed or not _differs(plan.node(slot), node):
                    kept.append((before.started + before.duration, slot))
                else:
                    self._left[slot] = LeftOut(LEFT_OUT)
            elif before.state == "skipped" and not before.reason.startswith(LEFT_OUT):
                self._left[slot] = LeftOut(before.reason, SKIPPED)
            elif before.state in ("failed", "cancelled"):
                reason = f"{LEFT_OUT}; it was {before.state} in run {past and past.run_id}"
                self._left[slot] = LeftOut(reason, NAMES.index(before.state))
            else:
                self._left[slot] = LeftOut(LEFT_OUT)
        self._kept = [slot for _, slot in sorted(kept)]
        self._refuse_missing(needed, broken)

    def _whole_streams(self) -> set[int]:
        """Return what else is called: nodes whose items go to nodes of the part."""
        plan, nodes = self._plan, {} if self.past is None else self.past.nodes

        def streams(slot: int) -> Iterator[int]:
            for source in plan.sources(slot):
                before = nodes.get(str(plan.ids[source]))
                if before is not None and before.value is not None:
                    continue
                streamed = before is not None and before.streamed
                if streamed or _consumer(plan, source) == slot:
                    yield source

        return _walk(self.chosen, streams)

    def _refuse_missing(self, needed: Mapping[int, list[int]], broken: Collection[int]) -> None:
        """Refuse a part that needs something that is not there.

        Args:
            needed: By source outside of the part, who needs it.
            broken: What failed, was cancelled, or was skipped because of that.
        """
        plan = self._plan
        lost = []
        for source, users in needed.items():
            left = self._left.get(source)
            if left is None or (left.state == SKIPPED and source not in broken):
                continue
            if left.state is not None:  # joins can make something of how it ended
                users = [slot for slot in users if slot not in plan.joins]
            if users:
                lost.append((source, users[0]))
        if not lost:
            return
        source, user = lost[0]
        name, node = str(plan.ids[source]), plan.node(user)
        takes = [
            repr(each.name)
            for each in node.inputs
            if each.reference is not None and each.reference.partition(".")[0] == name
        ]
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        what = f"for its input {takes[0]}" if takes else "to have ended before it"
        raise MissingInputError(
            f"graph {plan.graph.name!r} cannot run from {self._start!r}: node {node.id!r} needs "
            f"{name!r}{more} {what}, and {self._why_missing(source)}. Start at {name!r}, or name a "
            "run that has it: run_id="
        )

    def _why_missing(self, source: int) -> str:
        plan, past, name = self._plan, self.past, str(self._plan.ids[source])
        if past is None:
            return self._where
        before, node = past.nodes.get(name), past.graph.nodes.get(name)
        run = f"run {past.run_id}"
        if node is None:
            return f"{run} had no such node"
        if node.action != plan.node(source).action:
            return f"in {run} it was a node of another action, {node.action!r}"
        if before is None:
            return f"{run} has no result of it"
        if before.freed:
            return f"in {run} {before.freed}"
        if before.state == "completed":
            return f"{run} did not store its result (store=False)"
        if before.reason:
            return f"in {run} it was {before.state}: {before.reason}"
        return f"in {run} it is {before.state}"

    def _compare(self, given: Mapping[str, Any], on_change: str) -> None:
        """Tell where the past is not what this graph and its inputs would give."""
        plan, past = self._plan, self.past
        assert past is not None
        above = _walk(self.chosen, plan.sources) - self.chosen
        told = []
        used: set[str] = set()
        for slot in sorted(above):
            node = plan.node(slot)
            used.update(_inputs_of(node))
            if _differs(node, past.graph.nodes.get(node.id)):
                told.append(f"node {node.id!r}")
        for name, value in given.items():
            if name in used and name in past.inputs and _unequal(past.inputs[name], value):
                told.append(f"input {name!r}")
        if not told:
            return
        text = (
            f"since run {past.run_id} there is a change in {', '.join(told[:5])}"
            f"{f' and {len(told) - 5} more' if len(told) > 5 else ''}; the results of that run are "
            "taken over as they are"
        )
        if on_change == "fail":
            raise ConfigurationError(f"{text}. Give on_change='warn' to accept that")
        logger.warning("graph %r: %s", plan.graph.name, text)

    # --- the run ----------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Give a run that is freshly made what is taken over; with a database, record it."""
        past, plan = self.past, self._plan
        labels: dict[int, Collection[str] | None] = {}
        rows: list[Row] = []
        for slot in self._kept:
            assert past is not None
            before = past.nodes[str(plan.ids[slot])]
            assert before.value is not None
            beside = {
                name: each
                for name, each in before.meta.items()
                if name in ("labels", "metadata", "recovered", "reused")
            }
            beside.setdefault("reused", past.run_id)
            if slot in plan.labelled:
                chosen = beside.get("labels")
                found = frozenset(chosen) if chosen is not None else labels_of(before.value())
                labels[slot] = found
                beside["labels"] = sorted(found or ())
            if run.journal is not None:
                rows.append(self._row(run, slot, before, beside))
            run.meta[slot] = beside
            run.before[slot] = (before.started, before.started + before.duration)
            run.restored.add(slot)
            run.loaders[slot] = before.value
        winners = self._winners(run)
        if past is not None:
            own = {str(plan.ids[slot]) for slot in self.chosen}
            run.inserted.update(
                {name: value for name, value in past.inserted.items() if name[0] not in own}
            )
        if run.journal is not None:
            self._record(run, rows, winners)
        run.bound |= {slot: frozenset((source,)) for slot, source in winners.items()}
        run.state.restore(self._kept, labels, winners, left_out=self._left)
        needed = {source for slot in self.chosen for source in plan.sources(slot)}
        for slot in sorted(needed & run.restored):
            try:
                run.load(slot)
            except OutputError as error:
                raise MissingInputError(
                    f"what run {past and past.run_id} recorded is not what the graph has become: "
                    f"{error}"
                ) from error

    def _winners(self, run: Run) -> dict[int, int]:
        """Return the source that each `any` node of the part takes, where that is taken over."""
        if self.past is None:
            return {}
        index, joins = self._plan.index, self._plan.joins
        found = {
            index[name]: index[source]
            for name, source in self.past.winners.items()
            if name in index and source in index
        }
        return {
            slot: source
            for slot, source in found.items()
            if slot in joins
            and joins[slot].rule is Trigger.ANY
            and slot in self.chosen
            and source in run.restored
            and source in self._plan.sources(slot)
        }

    def _row(self, run: Run, slot: int, before: PastNode, meta: Mapping[str, Any]) -> Row:
        """Return the row of a result that is taken over.

        Raises:
            EncodingError: It has no stored form.
        """
        assert run.journal is not None
        assert before.value is not None
        plan = self._plan
        stored = plan.actions[slot].store
        beside = dict(meta)
        inline = artifact = None
        try:
            if stored:
                value = before.value()
                try:
                    inline, artifact = run.journal.encode(value)
                except EncodingError:
                    if not is_code(value, slot in plan.mapped):
                        raise
                    stored = False
            if not stored:
                beside["stored"] = False
            if "metadata" in beside:
                beside["metadata"] = to_plain(beside["metadata"], "metadata")
        except EncodingError as error:
            raise EncodingError(f"node {plan.ids[slot]!r}: {error}") from error
        return (
            str(plan.ids[slot]),
            DEFAULT_KEY,
            1,
            "completed",
            inline,
            artifact,
            before.started,
            before.duration * 1000.0,
            None,
            to_json(beside),
        )

    def _record(self, run: Run, rows: list[Row], winners: Mapping[int, int]) -> None:
        journal, ids = run.journal, self._plan.ids
        assert journal is not None
        stored = {
            name: journal.encode(value, ".".join(name)) for name, value in run.inserted.items()
        }
        if stored:
            journal.write_cache(stored)
        left = {str(ids[slot]): list(each) for slot, each in self._left.items()}
        notes: list[Command] = [(_TAKEN, to_json({"without": left}))]
        notes += [(f"any:{ids[slot]}", to_json(ids[source])) for slot, source in winners.items()]
        journal.commit(rows, commands=notes)


def _walk(roots: Iterable[int], onward: Callable[[int], Iterable[int]]) -> set[int]:
    """Return slots and everything that is reached from them."""
    found = set(roots)
    work = list(found)
    while work:
        for each in onward(work.pop()):
            if each not in found:
                found.add(each)
                work.append(each)
    return found


def _broken(plan: Plan, nodes: Mapping[str, PastNode]) -> set[int]:
    """Return what failed, was cancelled, or was skipped because of that: not by a decision."""

    def state(slot: int) -> str:
        before = nodes.get(str(plan.ids[slot]))
        return "" if before is None else before.state

    def onward(slot: int) -> list[int]:
        return [
            target
            for target in plan.targets(slot)
            if state(target) == "skipped"
            and not nodes[str(plan.ids[target])].reason.startswith(_DECIDED)
        ]

    ended = [slot for slot in plan.index.values() if state(slot) in ("failed", "cancelled")]
    return _walk(ended, onward)


def _itself(value: Any) -> Any:
    return value


def _consumer(plan: Plan, slot: int) -> int | None:
    """Return the node to which a node's items go one by one, for all one can see."""
    if plan.actions[slot].yields is None or plan.node(slot).map_over is not None:
        return None
    targets = [plan.node(target) for target in dict.fromkeys(plan.targets(slot))]
    takers = takers_of(str(plan.ids[slot]), targets)
    if not takers or any(each.node.map_over == each.name for each in takers):
        return None
    return int(plan.index[takers[0].node.id])


def _inputs_of(node: Node) -> list[str]:
    """Return the names of the graph's inputs that a node takes."""
    references = (each.reference or "" for each in node.inputs)
    return [each.removeprefix("inputs.") for each in references if each.startswith("inputs.")]


def _differs(now: Node, before: Node | None) -> bool:
    """Return whether a node would come to another result than before, for all one can see."""
    if now is before:
        return False
    return before is None or _meaning(now) != _meaning(before)


def _meaning(node: Node) -> tuple[Any, ...]:
    waits = frozenset(node.dependencies)
    mapped = node.map_over, node.map_depth, node.map_errors  # a batch size changes no result
    return node.action, node.inputs, waits, node.outputs, node.trigger, node.enabled, mapped


def _unequal(before: Any, now: Any) -> bool:
    if before is now:
        return False
    try:
        return bool(to_plain(before) != to_plain(now))
    except EncodingError:  # who could tell; a secret, most often
        return False


def _know_classes(plan: Plan) -> None:
    from dagger_dsl.engine.recorder import know_classes

    know_classes(plan)
