"""`RunReport` and `NodeReport`: how a run and its nodes ended. They are read, never written.

A report keeps the lists that the run filled and makes a `NodeReport` when one is asked for, so
that a run of 100,000 nodes does not pay for objects nobody looks at.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl._doors import through
from dagger_dsl.engine.attempts import AttemptReport, Calls, last_attempt
from dagger_dsl.engine.error_info import ErrorInfo, error_info
from dagger_dsl.engine.words import count, duration, standing
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    NodeNotFound,
    NotExecuted,
    RunCancelled,
    RunPaused,
    did_you_mean,
    shown,
    visible,
)
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.policies import as_enum
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import first_line
from dagger_dsl.model.values import MISSING

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from rich.table import Table

    from dagger_dsl.engine.failure import Failure
    from dagger_dsl.engine.profiling import Profile, Profiles
    from dagger_dsl.model.caching import CacheDecision
    from dagger_dsl.model.config import DagConfig
    from dagger_dsl.model.history import StateHistory
    from dagger_dsl.model.sharing import Context

__all__ = ["AttemptReport", "ErrorInfo", "NodeReport", "RunReport", "result_of"]


#: Nodes that the text of a report names, and which ones beside those that failed.
_TOLD: Final = 10
_UNUSUAL: Final = (NodeState.CANCELLED, NodeState.SKIPPED, NodeState.RUNNING, NodeState.WAITING)


@attrs.frozen
class NodeReport:
    """How one node ended.

    Attributes:
        node_id: The node.
        key: Which invocation, of a mapped node.
        state: A `NodeState`.
        attempts: Calls that were made, earlier processes included; 0 when there was none.
        started_at, finished_at: Times of day of the last attempt (UTC), for people.
        duration: Seconds the last attempt took, by the monotonic clock.
        error: What it failed with.
        exception: The exception itself, where this process saw it.
        reason: Why it was skipped or cancelled.
        recovered: Its failure handler gave the value.
        restored: The result was taken from the store, nothing was called.
        metadata: What the node gave with its answer.
        cache: Whether a result of another run took the place of a call, and why; None for a node
            that shares no results.
        reused: The run that made the result, where a partial run took it over; it is `restored`.
        note: What a table says of its calls; only those who make tables give it.
    """

    node_id: str
    state: NodeState
    attempts: int = 0
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    duration: float | None = None
    error: ErrorInfo | None = None
    exception: BaseException | None = attrs.field(default=None, eq=False, repr=False)
    reason: str = ""
    recovered: bool = False
    restored: bool = False
    metadata: Mapping[str, Any] = attrs.field(factory=dict)
    cache: CacheDecision | None = None
    key: str = DEFAULT_KEY
    reused: str | None = None
    note: str = attrs.field(default="", eq=False, repr=False)

    @property
    def cached(self) -> bool:
        """Whether a result of another run took the place of a call."""
        return self.cache is not None and self.cache.hit

    def __repr__(self) -> str:
        key = "" if self.key == DEFAULT_KEY else f" [{visible(self.key, 80)}]"
        tried = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        took = "" if self.duration is None else f" in {duration(self.duration)}"
        why = self.reason if self.error is None else str(self.error)
        told = f": {first_line(why)}" if why else ""
        return f"<NodeReport {shown(self.node_id)}{key}: {self.state}{tried}{took}{told}>"


class _Lazy(Mapping[str, Any]):
    """A read-only mapping over node ids that makes its values when they are asked for."""

    def __init__(self, ids: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        self._ids = ids
        self._make = make

    def __getitem__(self, node_id: str) -> Any:
        if not isinstance(node_id, str) or node_id not in self._ids:
            raise NodeNotFound(node_id, tuple(self._ids))
        return self._make(node_id)

    def get(self, node_id: str, default: Any = None) -> Any:
        """Return one value, or *default* for an id that is not there."""
        return self._make(node_id) if node_id in self._ids else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._ids


@attrs.frozen(eq=False, kw_only=True)
class RunReport:
    """How a run ended.

    Attributes:
        run_id: The run.
        dag_name: Its graph's name.
        graph: The graph as it was at the end.
        status: A `RunStatus`.
        inputs: What the run was given.
        started_at, finished_at: Times of day (UTC).
        duration: Seconds, by the monotonic clock; so far, while it goes on.
        reason: Why it was cancelled or paused.
        abandoned: Ids of nodes whose thread could not be stopped and was left behind.
        hook_errors: What hooks raised; it never ends a run.
        database_url: Where it is recorded; None in memory.
        workers: How many nodes could run at the same time.
        continued: Whether the run failed, and nothing but failures that ``error_strategy=`` or
            ``error_handler=`` let it go on after; `Workflow.run` does not raise for these.
        config: What it ran with; None where nothing ran.
        history: Where a state machine has been; None for other graphs.
        orphaned: Whether it is recorded as running and the process that executed it has died:
            `finished_at` is when that last recorded something, and a resume goes on.
    """

    run_id: str
    dag_name: str
    graph: Graph = attrs.field(repr=False)
    status: RunStatus
    inputs: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    duration: float = 0.0
    reason: str = ""
    abandoned: tuple[str, ...] = ()
    hook_errors: tuple[Exception, ...] = ()
    database_url: str | None = None
    workers: int = 1
    continued: bool = attrs.field(default=False, repr=False)
    exception: BaseException | None = attrs.field(default=None, repr=False)
    _limit: float | None = attrs.field(default=None, repr=False)
    _states: Callable[[], Mapping[str, NodeState]] = attrs.field(repr=False)
    _node: Callable[[str], NodeReport] = attrs.field(repr=False)
    _invocations: Callable[[str], Mapping[str, NodeReport]] = attrs.field(
        default=lambda _node_id: {}, repr=False
    )
    _value: Callable[[str], Any] = attrs.field(repr=False)
    #: The ids of nodes whose values were freed.
    _gone: Callable[[], Collection[str]] = attrs.field(default=tuple, repr=False)
    _context: Callable[[], Context] = attrs.field(default=lambda: _no_context(), repr=False)
    #: What `outputs` asks for, so that it need not look at every node.
    _state: Callable[[str], NodeState] | None = attrs.field(default=None, repr=False)
    _sinks: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    #: The `Run` it tells of, for partial runs that build on it.
    _run: Any = attrs.field(default=None, repr=False)
    _nested: Callable[[], Mapping[str, Any]] | None = attrs.field(default=None, repr=False)
    _profiles: Profiles | None = attrs.field(default=None, repr=False)
    history: StateHistory | None = attrs.field(default=None, repr=False)
    config: DagConfig | None = attrs.field(default=None, repr=False)
    _attempts: Callable[[str], Iterable[AttemptReport]] | None = attrs.field(
        default=None, repr=False
    )
    #: Without a report for each of many invocations.
    _counts: Callable[[str], dict[str, int]] | None = attrs.field(default=None, repr=False)
    orphaned: bool = attrs.field(default=False, repr=False)
    #: What a run failed with that no node failed with, where only the record knows of it.
    _error: ErrorInfo | None = attrs.field(default=None, repr=False)
    #: As `_attempts`, without tracebacks.
    _calls: Calls | None = attrs.field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<RunReport {self.run_id} of {self.dag_name!r}: {self.status}>"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        """Yield how the run ended, and what did not complete."""
        name, run_id = visible(self.dag_name, 200), visible(self.run_id, 200)
        yield f"{name}: run {run_id} {standing(self)}"
        states = self.states()
        found = Counter(map(str, states.values()))
        yield ", ".join(
            [
                count(len(states), "node"),
                *(f"{many:,} {state}" for state, many in found.items() if many != len(states)),
            ]
        ) + (f", all {next(iter(found))}" if len(found) == 1 else "")
        if self.reason:
            yield first_line(self.reason)
        error = self.error
        if error is not None and not self.nodes_in(NodeState.FAILED):
            yield first_line(error)
        told = [*self.nodes_in(NodeState.FAILED)]
        told += [each for each in states if each not in told and states[each] in _UNUSUAL]
        for node_id in told[:_TOLD]:
            report = self._node(node_id)
            why = report.reason if report.error is None else str(report.error)
            more = f": {first_line(why)}" if why else ""
            yield f"  {visible(node_id, 80)} {report.state}{more}"
        if len(told) > _TOLD:
            yield f"  and {len(told) - _TOLD:,} more"

    @property
    def context(self) -> Context:
        """The `Context` of the run: the one it was given, or one that is made when asked for."""
        return self._context()

    @property
    def success(self) -> bool:
        """Whether every node ended without an unrecovered failure, and the run came to its end."""
        return self.status is RunStatus.COMPLETED

    @property
    def error(self) -> ErrorInfo | None:
        """The first unhandled failure, of a node or of the run itself, or None."""
        if self._error is not None:
            return self._error
        exception = self.exception
        if exception is not None and not hasattr(exception, "node_id"):
            return error_info(exception)
        failed = self.nodes_in(NodeState.FAILED)
        if exception is None and not failed:
            return None
        first = getattr(exception, "node_id", failed[0] if failed else None)
        if isinstance(first, str):  # 'inner.node' is a node of a nested run
            first = first.partition(".")[0]
        known = isinstance(first, str) and first in self.graph.nodes
        return self.node_reports[str(first)].error if known else None

    @property
    def errors(self) -> dict[str, ErrorInfo]:
        """What the failed nodes failed with by id, in declaration order."""
        reports = self.node_reports
        found = {node_id: reports[node_id].error for node_id in self.nodes_in(NodeState.FAILED)}
        return {node_id: error for node_id, error in found.items() if error is not None}

    @property
    def failures(self) -> list[Failure]:
        """A `Failure` for each call that failed for good, in declaration order.

        Of a mapped node they are those of its items, of a nested run those of its own nodes.
        """
        from dagger_dsl.engine.failure import failures_in

        return [*failures_in(self)]

    def failure(self, node_id: str | None = None, key: str | None = None) -> Failure:
        """Return what a node failed with: its inputs, and the way to call it again.

            report.failure("load").reproduce()

        Args:
            node_id: The node; of a nested run with the nodes around it, ``inner.load``. By default
                the first failure that nothing handled.
            key: Which invocation of a mapped node, as in `invocations`; by default the first one
                that failed.

        Raises:
            NotExecuted: It has not failed, or has no such invocation.
            NodeNotFound: The graph has no such node.
        """
        from dagger_dsl.engine.failure import failure_in

        return failure_in(self, node_id, key)

    def states(self) -> Mapping[str, NodeState]:
        """Return the state of every node by id, in declaration order."""
        return self._states()

    def nodes_in(self, state: NodeState | str) -> list[str]:
        """Return the ids of the nodes in one state, in declaration order.

        Raises:
            ConfigurationError: There is no such state.
        """
        wanted = as_enum(NodeState, state, "a node's state")
        return [node_id for node_id, each in self._states().items() if each == wanted]

    @property
    def completed_nodes(self) -> int:
        """How many nodes completed."""
        return len(self.nodes_in(NodeState.COMPLETED))

    @property
    def failed_nodes(self) -> int:
        """How many nodes failed."""
        return len(self.nodes_in(NodeState.FAILED))

    @property
    def skipped_nodes(self) -> int:
        """How many nodes were skipped."""
        return len(self.nodes_in(NodeState.SKIPPED))

    @property
    def cancelled_nodes(self) -> int:
        """How many nodes were cancelled."""
        return len(self.nodes_in(NodeState.CANCELLED))

    @property
    def pending_nodes(self) -> int:
        """How many nodes wait for the run to be resumed."""
        return sum(
            state in (NodeState.PENDING, NodeState.WAITING) for state in self._states().values()
        )

    @property
    def node_reports(self) -> Mapping[str, NodeReport]:
        """A `NodeReport` by node id, in declaration order."""
        return _Lazy(self.graph.nodes, self._node)

    def invocations(self, node_id: str) -> Mapping[str, NodeReport]:
        """Return a `NodeReport` for each invocation of a mapped node, by key, in order of items.

        A node that is not mapped, or has not begun, has none.

        Raises:
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        return self._invocations(node_id)

    def counts(self, node_id: str) -> dict[str, int]:
        """Return how many invocations of a mapped node are in each state, by its name.

        Raises:
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        if self._counts is not None:
            return self._counts(node_id)
        return dict(Counter(str(each.state) for each in self._invocations(node_id).values()))

    def attempts(self, node_id: str) -> list[AttemptReport]:
        """Return every call of a node that is known, in the order in which they began.

        Of a mapped node they are the calls of its invocations, of a machine's state those of its
        cycles, each by its `AttemptReport.key`. Of a run in memory the newest 100 attempts of an
        invocation and the newest 1,000 cycles of a machine are known (``history_limit`` of them
        when that is less), and the last one of each state; a database has all of them.

        Raises:
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        return sorted(self._each_attempt(node_id), key=_begin)

    def calls(self, node_id: str, key: str | None = None) -> Iterator[AttemptReport]:
        """Return what `attempts` has, in any order, errors without tracebacks; nothing is kept.

        It is for nodes that have very many, such as one that is mapped over 100,000 items.

        Args:
            node_id: The node.
            key: Only the calls of this invocation.

        Raises:
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        if self._calls is not None:
            return self._calls(node_id, key)
        return (each for each in self._each_attempt(node_id) if key in (None, each.key))

    def _each_attempt(self, node_id: str) -> Iterable[AttemptReport]:
        if self._attempts is not None:
            return self._attempts(node_id)
        last = last_attempt(self._node(node_id))
        return () if last is None else (last,)

    @property
    def nested(self) -> Mapping[str, Any]:
        """The runs of nodes that are workflows: a `RunReport` by node id.

        Of a mapped node there is a mapping of reports by key instead, as in `invocations`; of a
        state of a machine one by the number of the cycle, as text, where only the newest cycles
        are: 100 over all states, or `history_limit` when that is less. A database keeps all, as
        runs whose parent is this one. Nodes that have not begun have none. Nothing of it is kept in
        the report: runs that an earlier process made are read from the store each time.
        """
        return {} if self._nested is None else self._nested()

    @property
    def node_times(self) -> dict[str, float]:
        """Seconds by node id, for the nodes that were called."""
        reports = self.node_reports
        return {
            node_id: each.duration
            for node_id in reports
            if (each := reports[node_id]).duration is not None
        }

    @property
    def values(self) -> Mapping[str, Any]:
        """The result of every completed node by id, without those that were freed."""
        gone = self._gone()
        done = dict.fromkeys(
            each for each in self.nodes_in(NodeState.COMPLETED) if each not in gone
        )
        return _Lazy(done, self._value)

    @property
    def sinks(self) -> tuple[str, ...]:
        """Ids of the nodes that no other one waits for, in declaration order."""
        return self.graph.sinks() if self._sinks is None else self._sinks

    @property
    def outputs(self) -> dict[str, Any]:
        """The results of the completed sinks by id, in declaration order."""
        gone = self._gone()
        return {
            node_id: self._value(node_id)
            for node_id in self.sinks
            if self._state_of(node_id) is NodeState.COMPLETED and node_id not in gone
        }

    def _state_of(self, node_id: str) -> NodeState | None:
        if self._state is None or node_id not in self.graph.nodes:
            return self._states().get(node_id)
        return self._state(node_id)

    @property
    def state_history(self) -> list[str]:
        """The states that a state machine was in, first to last; none for other graphs."""
        return [] if self.history is None else self.history.names

    def value(self, node_id: str, default: Any = MISSING) -> Any:
        """Return the result of one node.

        Raises:
            NotExecuted: It did not complete, or its value was freed and is not stored, and no
                *default* was given.
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        state = self._state_of(node_id)
        if state is NodeState.COMPLETED and (default is MISSING or node_id not in self._gone()):
            return self._value(node_id)
        if default is not MISSING:
            return default
        raise NotExecuted(f"node {node_id!r} has no result: it is {state} in run {self.run_id}")

    def profile(self, node_id: str) -> Profile:
        """Return what a profiler counted in a node's calls: ``report.profile("load").print()``.

        The run is asked for it by ``profile=["load"]``, or ``profile=True`` for all nodes.

        Raises:
            NotExecuted: No call of the node was profiled.
            NodeNotFound: The graph has no such node.
        """
        self.graph.node(node_id)
        if self._profiles is None:
            raise NotExecuted(
                f"node {node_id!r} was not profiled in run {self.run_id}: "
                f"profile=[{node_id!r}] asks for it"
            )
        return self._profiles.of(node_id)

    def explain(self, node_id: str) -> str:
        """Return why a node stands where it stands, for people.

        For a node that did not run: what it needs and did not get, and so on back to the cause.
        Otherwise: its attempts, its error, and where each of its inputs comes from, with the node
        that wrote it or "never written".

        Raises:
            NodeNotFound: The graph has no such node.
        """
        from dagger_dsl.engine.explain import explain

        self.graph.node(node_id)
        return explain(self, node_id)

    def to_dot(self) -> str:
        """Return the run as DOT: states, attempts, times and the first line of each error."""
        text: str = through("report_to_dot")(self)
        return text

    def to_mermaid(self) -> str:
        """Return the run as Mermaid: states, and how often each state of a machine was entered."""
        text: str = through("report_to_mermaid")(self)
        return text

    def to_svg(self) -> str:
        """Return the run as SVG: states, times, errors. Nothing has to be installed for it."""
        text: str = through("report_to_svg")(self)
        return text

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the run as a page that holds all it needs: it opens from disk in any browser.

        It shows the graph, a timeline with every attempt, what took longest, what failed and why,
        inputs and results (shortened), the configuration and where the page was made.

        Args:
            path: Where to write it, too; the folder has to be there.

        Raises:
            ConfigurationError: There can be no such file.
        """
        page: str = through("report_to_html")(self, path)
        return page

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        bundle: dict[str, str] = through("report_bundle")(self, repr(self), include, exclude)
        return bundle

    def save_dot(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dot` to a file and return its path."""
        written: Path = through("save_dot")(self.to_dot(), path)
        return written

    def render(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Draw the run with Graphviz and return the picture's path; see `Graph.render`."""
        drawn: Path = through("render")(self.to_dot(), path, format)
        return drawn

    def to_table(self, limit: int | None = None) -> Table:
        """Return the nodes as a rich table: state, attempts, duration and what there is to say.

        Args:
            limit: Rows at most; what went wrong is shown first.

        Raises:
            ConfigurationError: *limit* is no number of rows.
        """
        table: Table = through("report_table")(self, limit)
        return table

    def __rich__(self) -> Table:
        return self.to_table(limit=100)

    def explain_cache(self, node_id: str, key: str | None = None) -> CacheDecision:
        """Return whether a node took the result of another run, and why or why not.

        Args:
            node_id: The node.
            key: Which invocation of a mapped node, as in `invocations`. Without one they are
                counted: it is a hit when each of them is.

        Raises:
            NodeNotFound: The graph has no such node.
            ConfigurationError: The node has no such invocation.
        """
        calls = self.invocations(node_id)
        if key is not None:
            if not isinstance(key, str) or key not in calls:
                raise ConfigurationError(
                    f"node {node_id!r} has no invocation {shown(key)}{did_you_mean(key, calls)}"
                )
            return _cache_decision(calls[key])
        report = self.node_reports[node_id]
        if report.cache is None and calls:
            return _cache_summary(calls)
        return _cache_decision(report)

    def raise_for_failure(self) -> RunReport:
        """Return this report when the run succeeded.

        Raises:
            NodeExecutionError: The first unhandled failure; its cause is the user's own error.
            ExecutionTimeout, RunCancelled, RunPaused: What became of the run otherwise.
        """
        if self.status is RunStatus.COMPLETED:
            return self
        if self.status is RunStatus.TIMED_OUT:
            raise ExecutionTimeout(self.run_id, self._limit or 0.0)
        if self.status is RunStatus.CANCELLED:
            raise RunCancelled(self.run_id, self.reason)
        if self.status is RunStatus.PAUSED:
            raise RunPaused(self.run_id, self.reason)
        from dagger_dsl.engine.failure import told  # runs that succeed do not load it

        raise told(self, self.failed_with())

    def failed_with(self) -> BaseException:
        """Return what a failed run failed with, as it is."""
        if self.exception is not None:
            return self.exception
        from dagger_dsl.errors import ExecutionError, NodeExecutionError

        for node_id in self.nodes_in(NodeState.FAILED):
            report = self.node_reports[node_id]
            return NodeExecutionError(node_id, report.attempts, str(report.error or ""))
        return ExecutionError(f"run {self.run_id} is {self.status}")


def result_of(report: RunReport) -> Any:
    """Return the value of a run: that of its one sink, else a mapping of the sinks' values.

    Raises:
        NotExecuted: The one sink completed, and its value is there no more: an earlier process had
            it and did not store it, or it was freed.
    """
    outputs, sinks = report.outputs, report.sinks
    if len(sinks) == 1 and outputs.keys() <= set(sinks):
        if not outputs and report.states().get(sinks[0]) is NodeState.COMPLETED:
            return report.value(sinks[0])  # which says why it is gone
        return outputs.get(sinks[0])
    return dict(outputs)


def _begin(attempt: AttemptReport) -> tuple[float, int]:
    began = attempt.started_at
    return (0.0 if began is None else began.timestamp()), attempt.number


def _no_context() -> Context:
    from dagger_dsl.model.sharing import Context

    return Context()


def _cache_decision(report: NodeReport) -> CacheDecision:
    """Return what became of the results of other runs, for one call."""
    if report.cache is not None:
        return report.cache
    from dagger_dsl.model.caching import CacheDecision

    if report.state is NodeState.COMPLETED and report.attempts:
        reason = (
            "it was not looked up: its cache strategy is 'never' (@action(cache=...) lets it "
            "share its results), or a person answered it"
        )
    else:
        reason = f"it was not looked up: the node is {report.state}"
    return CacheDecision(False, reason, None, "", None)


def _cache_summary(calls: Mapping[str, NodeReport]) -> CacheDecision:
    """Return the same for the invocations of a mapped node together."""
    from dagger_dsl.model.caching import CacheDecision

    missed = {key: each for key, each in calls.items() if not each.cached}
    hits = len(calls) - len(missed)
    reason = f"{hits} of {len(calls)} invocations took the results of other runs"
    if missed:
        first, report = next(iter(missed.items()))
        reason += f"; invocation {first} did not: {_cache_decision(report).reason}"
    return CacheDecision(not missed, reason, None, "", None)
