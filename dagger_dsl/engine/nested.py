"""Nested runs: what happens when a node whose body is a workflow is called.

The workflow runs as a run of its own, the child, driven by the same engine, with the runner, the
number of workers, the hooks, the app_data and the clock of the run around it, and recorded where
that is recorded. It has inputs, a configuration, a `Context` and slots of its own; what the
configuration around it says counts where its own says nothing, but for what is about one run's
life (`_OF_ONE_RUN`).

The call ends as the child does: with its value, with its failure, or suspended while the child
stands still. A child that is recorded is found again by its id, `<parent>/<node>` or
`<parent>/<node>/<key>`: another attempt of the node, and a resume of the run around it, go on with
it, unless it was given other inputs, which makes another one, `<parent>/<node>~2`.

A state of a state machine has a child for each cycle, with the number of the cycle as its key. Only
the newest of their reports are kept; see `Machine.kept_runs`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl._doors import through
from dagger_dsl.engine.outcomes import OutOfTime, Withdrawn
from dagger_dsl.engine.report import RunReport, result_of
from dagger_dsl.errors import NodeTimeout, RunExists
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.states import RunStatus
from dagger_dsl.model.values import to_plain
from dagger_dsl.runners.base import Suspended

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.launch import _Session

__all__ = ["Nursery", "nested_body", "newest_cycles", "same_inputs"]

#: Fields of a configuration that are about one run's life, and no matter of the runs in it.
_OF_ONE_RUN = ("timeout_seconds", "review_frequency", "keep_runs", "keep_days")


class _Child:
    """A nested run on its way.

    Attributes:
        session: How it is driven.
        key: That of its invocation.
        cause: What ends it in time: its own limit, that of its node, or that of the run around it.
        ended: How it came to its end, once it has.
    """

    __slots__ = ("cause", "ended", "key", "session")

    def __init__(self, session: _Session, key: str, cause: str) -> None:
        self.session = session
        self.key = key
        self.cause = cause
        self.ended: RunReport | None = None

    @property
    def report(self) -> RunReport:
        """How it stands."""
        return self.session.run.report() if self.ended is None else self.ended


class Nursery:
    """The nested runs of one run. Workers open and end them, the coordinator halts them.

    Args:
        run: The run around them.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._alive: dict[int, _Child] = {}
        self._halted: dict[int, str] = {}
        # By slot and key: the slot of a machine's state has one child after the other.
        self._reports: dict[tuple[int, str], RunReport] = {}
        machine = run.plan.graph.machine
        self._most = None if machine is None else machine.kept_runs
        self._dropped = False
        self._config = _without_life(run.config)
        self._options = attrs.evolve(
            run.options,
            run_id=None,
            idempotency_key=None,
            context=None,
            owner=None,
            progress=None,
            track_memory=False,
            start_at=None,
            stop_at=None,
            reuse=None,
            max_cycles=None,
            profile=False,
            cancel=None,
            timeout=None,
            config=None if run.options.config is None else _without_life(run.options.config),
        )
        # Nothing to await needs no event loop.
        self._plain_options = (
            attrs.evolve(self._options, runner="threads")
            if self._options.runner == "asyncio"
            else self._options
        )

    # --- calls -----------------------------------------------------------------------------------

    def open(self, slot: int, inputs: Mapping[str, Any]) -> _Child:
        """Begin the child of an invocation, or go on with the one that is recorded.

        Raises:
            Withdrawn: The invocation was asked to end before it began.
            ValidationError, InputError: The child cannot run with these inputs.
            StoreError: It cannot be recorded, or another process works on it.
        """
        definition = self._run.plan.actions[slot]
        if slot in self._halted:
            raise Withdrawn
        options = self._options if definition.is_async else self._plain_options
        session = self._session(slot, definition, inputs, options)
        child = _Child(session, _key(self._run, slot), self._limit(slot, session.run))
        with self._lock:
            self._alive[slot] = child
            halted = self._halted.get(slot)
        if halted is not None:
            session.run.token.cancel(halted)
        return child

    def _session(
        self, slot: int, definition: Any, inputs: Mapping[str, Any], options: RunOptions
    ) -> _Session:
        from dagger_dsl.engine.launch import nest, nest_again

        outer, workflow = self._run, definition.workflow
        for name in _names(outer, slot):
            try:
                return nest(
                    definition.graph, workflow.registry, inputs, options, self._config, outer, name
                )
            except RunExists:
                if outer.store is None:
                    raise
                stored = outer.store.load_run(name)
                if stored.parent_run_id != outer.run_id:
                    raise  # somebody's own run, which happens to have this id
                if same_inputs(stored.inputs, inputs):
                    new = {key: each for key, each in inputs.items() if key not in stored.inputs}
                    return nest_again(name, workflow.registry, new, options, outer)
        raise AssertionError("there is always another name")

    def _limit(self, slot: int, child: Run) -> str:
        """Set until when a child may run, and return what says so."""
        run, now = self._run, self._run.board.clock()
        node = run.plan.node(slot)
        limit = node.timeout if node.timeout is not None else run.plan.actions[slot].timeout
        own = child.config.timeout_seconds
        ends = {
            "own": inf if own is None else now + max(0.0, own - child.spent),
            "node": inf if limit is None else now + limit,
            "run": inf if run.deadline is None else run.deadline,
        }
        cause = min(ends, key=lambda name: ends[name])
        if cause != "own":
            child.cap = ends[cause]
        return cause

    def end(self, slot: int, child: _Child) -> None:
        """Note that a child has come to an end, whatever that is."""
        report = child.report
        with self._lock:
            self._alive.pop(slot, None)
            self._reports[slot, child.key] = report
            if self._most is not None and len(self._reports) > self._most:
                del self._reports[next(iter(self._reports))]
                self._dropped = True
        if report.status is RunStatus.TIMED_OUT:  # bodies that it left behind look at the token
            child.session.run.token.cancel(report.reason)
        # Its report stays; what drove it, which is most of it, need not.
        child.session.run.board.forget()

    def answer(self, slot: int, report: RunReport, child: _Child) -> Any:
        """Return the value of a child, or why there is none.

        Raises:
            Withdrawn: It ended because its node was asked to end.
            OutOfTime: It ended because the run around it has no time left.
            NodeTimeout: It ended because its node has no time left.
            Exception: What it failed with.
        """
        status = report.status
        if status is RunStatus.COMPLETED:
            workflow = getattr(self._run.plan.actions[slot], "workflow", None)
            read: Callable[[RunReport], Any] = getattr(workflow, "_result_of", result_of)
            return read(report)
        if status is RunStatus.PAUSED:
            why = f": {report.reason}" if report.reason else ""
            return Suspended(f"waits for run {report.run_id}, which is paused{why}")
        asked = slot in self._halted or self._run.token.cancelled
        if asked and status in (RunStatus.CANCELLED, RunStatus.TIMED_OUT):
            raise Withdrawn
        if status is RunStatus.TIMED_OUT and child.cause == "run":
            raise OutOfTime
        if status is RunStatus.TIMED_OUT and child.cause == "node":
            plan = self._run.plan
            limit = plan.node(slot).timeout or plan.actions[slot].timeout or 0.0
            raise NodeTimeout(str(plan.ids[slot]), limit)
        if status is RunStatus.FAILED:
            raise report.failed_with()  # the run around it tells how it came about
        report.raise_for_failure()
        raise AssertionError(f"run {report.run_id} is {status} and nothing was raised")

    def halt(self, slots: Collection[int], reason: str) -> None:
        """Cancel the children of invocations that are asked to end, begun or not."""
        plan, found = self._run.plan, []
        with self._lock:
            for slot in slots:
                if plan.actions[slot].style == "workflow":
                    self._halted[slot] = reason or "the run around it was stopped"
                    if slot in self._alive:
                        found.append((self._alive[slot], self._halted[slot]))
        for child, why in found:  # not under the lock: a child that ends wants it
            child.session.run.token.cancel(why)

    # --- what became of them ---------------------------------------------------------------------

    def run_of(self, slot: int) -> Run | None:
        """Return the child of an invocation that is on its way; None where there is none."""
        with self._lock:
            child = self._alive.get(slot)
        return None if child is None else child.session.run

    def reports(self) -> dict[str, Any]:
        """Return the reports of the children by node id; of a mapped node or a state, by key."""
        run = self._run
        with self._lock:
            live = dict(self._reports)
            live |= {(slot, child.key): child.report for slot, child in self._alive.items()}
        found: dict[str, Any] = {}
        if run.resumed and not self._dropped and run.store is not None:
            found = through("nested_reports")(
                run.store, run.run_id, run.options.database_url, self._most
            )
        for (slot, key), report in live.items():
            node_id = str(run.plan.ids[slot])
            if key == DEFAULT_KEY:
                found[node_id] = report
            else:
                found.setdefault(node_id, {})[key] = report
        if self._most is not None:
            found = newest_cycles(found, self._most)
        order = {node_id: place for place, node_id in enumerate(run.plan.index)}
        return dict(sorted(found.items(), key=lambda each: order.get(each[0], len(order))))


def nested_body(run: Run, slot: int) -> Callable[[dict[str, Any]], Any]:
    """Return what runs the workflow that is a node's body, given its inputs by name.

    What it returns is to be awaited when the workflow is async and nobody drives the run.
    """
    if run.nursery is None:
        run.nursery = Nursery(run)
    nursery, is_async = run.nursery, run.plan.actions[slot].is_async

    async def awaited(inputs: dict[str, Any]) -> Any:
        child = nursery.open(slot, inputs)
        try:
            child.ended = await child.session.execute_async()
        finally:
            nursery.end(slot, child)
        return nursery.answer(slot, child.ended, child)

    def body(inputs: dict[str, Any]) -> Any:
        if is_async and run.driver is None:
            return awaited(inputs)
        child = nursery.open(slot, inputs)
        try:
            child.ended = child.session.execute(run.driver)
        finally:
            nursery.end(slot, child)
        return nursery.answer(slot, child.ended, child)

    return body


def newest_cycles(found: Mapping[str, Mapping[str, Any]], most: int) -> dict[str, dict[str, Any]]:
    """Return the newest children of a machine, in the order of their cycles.

    Args:
        found: Children by state and cycle.
        most: How many are wanted, over all states.
    """
    cycles = sorted(
        (int(key), state, key)
        for state, inside in found.items()
        for key in inside
        if key.isdecimal()
    )
    kept: dict[str, dict[str, Any]] = {}
    for _, state, key in cycles[-most:]:
        kept.setdefault(state, {})[key] = found[state][key]
    return kept


def _key(run: Run, slot: int) -> str:
    """Return the key of the invocation that a slot now is."""
    if slot in run.plan.parents or run.plan.machine is not None:
        return run.plan.children.key(slot)
    return DEFAULT_KEY


def _without_life(config: DagConfig) -> DagConfig:
    if config.given.isdisjoint(_OF_ONE_RUN):
        return config
    kept = {name: value for name, value in config.changes().items() if name not in _OF_ONE_RUN}
    return DagConfig(**kept)


def _names(run: Run, slot: int) -> Iterator[str]:
    """Yield ids for the child of an invocation, the usual one first."""
    # Children are told apart by the slashes: the store reads node and key off the id again.
    node_id = str(run.plan.ids[slot])
    for sign, code in (("%", "%25"), ("/", "%2F"), ("~", "%7E")):
        if sign in node_id:
            node_id = node_id.replace(sign, code)
    base, key = f"{run.run_id}/{node_id}", _key(run, slot)
    if key != DEFAULT_KEY:
        base = f"{base}/{key}"
    yield base
    number = 1
    while True:
        number += 1
        yield f"{base}~{number}"


def same_inputs(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether a run that is recorded was given the same values; secrets never are."""
    return all(
        to_plain(stored[name], name) == to_plain(value, name)
        for name, value in given.items()
        if name in stored
    )
