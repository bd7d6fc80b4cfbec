"""`Failure`: what a node failed with, in words, and the way to call it again.

The story of a failure (attempts, inputs, what else failed, how to go on) becomes a note of the
exception that is raised for it, so that everything that prints exceptions prints it. Frames of this
package are taken out of the traceback of the node's own error: they say nothing of what went wrong.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.engine import command_lines
from dagger_dsl.engine.attempts import attempt_of
from dagger_dsl.engine.bindings import bound_inputs
from dagger_dsl.engine.command_lines import secrets_of
from dagger_dsl.engine.error_info import ErrorInfo, hide_frames, is_ours
from dagger_dsl.engine.invoke import delivered, filling, inputs_of_call
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.state import COMPLETED
from dagger_dsl.errors import (
    ActionNotFound,
    DaggerError,
    NodeExecutionError,
    NotExecuted,
    did_you_mean,
    shown,
    visible,
)
from dagger_dsl.model.context import DEFAULT_KEY, NodeCtx
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.values import MISSING
from dagger_dsl.registry import ActionDef, as_registry, current_registry

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = [
    "Failure",
    "failure_in",
    "failures_in",
    "resume_line",
    "told",
]

#: Inputs, and other nodes that failed, that are listed by name.
_LISTED: Final = 10
_NAMED: Final = 3


class Failure:
    """What one invocation of a node failed with; `RunReport.failure` makes it.

    Attributes:
        node_id: The node; of a nested run with the nodes around it, ``inner.load``.
        path: The same part by part; items of lists and cycles of machines on the way as ``[3]``.
        key: Which of its invocations.
        node: How that stands.
        attempts: Calls that were made.
        allowed: Calls that its retry policy allows; None where that is not known any more, or no
            number.
        error: Class, text and traceback of what it raised.
        exception: The exception itself, where this process saw it.
        report: The report of the run that the node belongs to, a nested one perhaps.
    """

    def __init__(self, report: RunReport, found: NodeReport, above: tuple[str, ...] = ()) -> None:
        self.report = report
        self.node = found
        self.node_id = ".".join([*(each for each in above if each[0] != "["), found.node_id])
        item = () if found.key == DEFAULT_KEY or report.history is not None else (f"[{found.key}]",)
        self.path = (*above, found.node_id, *item)
        self.key = found.key
        self.attempts = found.attempts
        self.error: ErrorInfo | None = found.error
        self.exception = found.exception
        self._id = found.node_id

    def __repr__(self) -> str:
        key = "" if self.key == DEFAULT_KEY else f" [{self.key}]"
        return f"<Failure of node {shown(self.node_id)}{key}: {visible(str(self.error), 200)}>"

    def __str__(self) -> str:
        key = "" if self.key == DEFAULT_KEY else f" [{visible(self.key, 80)}]"
        why = "" if self.error is None else f": {visible(str(self.error), 500)}"
        return "\n".join([f"node {shown(self.node_id)}{key} failed{why}", *self.lines()])

    @property
    def allowed(self) -> int | None:
        """Calls that its retry policy allows, those of earlier processes included."""
        run: Run | None = self.report._run
        if run is None:
            return None
        return run.allowed(self._slot(run))

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What it was called with, by name: the values themselves, or those that were recorded.

        A body that changed an input in memory finds it changed.

        Raises:
            NotExecuted: An input is there no more: it was not stored, was freed, or was a stream.
            InputResolutionError: It failed because an input has no value.
        """
        return MappingProxyType(self._inputs())

    def earlier(self) -> list[AttemptReport]:
        """Return the attempts before the last one, the first one first."""
        return [
            each
            for each in self.report.attempts(self._id)
            if each.key == self.key and each.number < self.attempts
        ]

    def reproduce(self, registry: Any = None) -> Any:
        """Call the node's function once more, here and now, with the inputs it had.

        It is called in this thread, so that a debugger can step into it, without retries, time
        limit and hooks, and nothing is recorded. A `NodeCtx` has the same ids and keeps no
        checkpoints. A node whose body is a workflow reproduces the failure of the node in it.

        Args:
            registry: Where the action is looked up, for a report that was read from a store and
                knows of none; the registry in force by default.

        Returns:
            What the function returned. An async one is run to its end where no event loop is
            running; under one, as in a notebook, its coroutine is returned: ``await`` it. Of one
            that yields, the items as a list.

        Raises:
            Exception: What the function raises.
            NotExecuted: As `inputs`.
            ActionNotFound: Nobody knows the function.
        """
        run: Run | None = self.report._run
        call, inputs = self._caller(self._action(registry)), self._inputs()
        slot = None if run is None else self._slot(run)
        if run is not None and slot is not None and run.plan.batch(slot) > 1:
            name = run.plan.mapped[run.plan.parents[slot]].name
            answer = _each(call, [{**inputs, name: item} for item in inputs[name]])
        else:
            answer = call(inputs)
        if inspect.isgenerator(answer):
            return [*answer]
        if inspect.isasyncgen(answer):
            answer = _items(answer)
        return _waited(answer) if inspect.isawaitable(answer) else answer

    # --- in words ---------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield what there is to say of it beside its error, line by line."""
        which = "" if self.key == DEFAULT_KEY else f", item {self.key}"
        yield f"{attempt_of(self.attempts, self.allowed)}{which}"
        try:
            inputs = self.inputs
        except Exception as error:  # a stranger's loader, too
            yield f"inputs: not known any more ({visible(str(error), 300)})"
            return
        if not inputs:
            return
        yield "inputs:"
        for name, value in list(inputs.items())[:_LISTED]:
            yield f"  {visible(str(name), 100)} = {excerpt(value, 200)[0]}"
        if len(inputs) > _LISTED:
            yield f"  and {len(inputs) - _LISTED} more"

    def notebook_lines(self, error: NodeExecutionError) -> list[str]:
        """Return what a notebook prints of an error: no frame in it is one of this package's."""
        return _notebook_lines(error)

    # --- the call ---------------------------------------------------------------------------------

    def _caller(self, action: ActionDef) -> Callable[[dict[str, Any]], Any]:
        """Return a call of the action with inputs by name, and nothing around it."""
        run: Run | None = self.report._run

        def legacy(inputs: dict[str, Any]) -> Any:
            if run is None:
                raise NotExecuted(
                    f"action {action.name!r} works on the cache of its run, which is known in the "
                    "process that ran it"
                )
            from dagger_dsl.engine.legacy import LegacyCall

            return LegacyCall(run, self._slot(run), inputs, handler=False).arguments, {}, None

        fill = filling(action, self._ctx, lambda: Context() if run is None else run.context, legacy)
        fn = action.workflow.run if action.style == "workflow" else action.fn  # type: ignore[attr-defined]  # a `WorkflowDef`

        def call(inputs: dict[str, Any]) -> Any:
            action.check_inputs(inputs)
            positional, keywords, _ = fill(inputs)
            return fn(*positional, **keywords)

        return call

    def _slot(self, run: Run) -> int:
        """Return the slot of its invocation; a state of a machine has one for all cycles."""
        slot = run.slot_named(self._id, self.key) if run.plan.machine is None else None
        return run.plan.index[self._id] if slot is None else slot

    def _inputs(self) -> dict[str, Any]:
        run: Run | None = self.report._run
        if run is None:
            return self._recorded()
        slot = self._slot(run)
        values = delivered(run, slot, self._arguments(run, slot))
        return inputs_of_call(run, slot, run.plan.actions[slot], values)

    def _action(self, registry: Any) -> ActionDef:
        run: Run | None = self.report._run
        if run is not None:
            return run.plan.actions[self._slot(run)]
        name = self.report.graph.node(self._id).action
        found = (current_registry() if registry is None else as_registry(registry)).get(name)
        if found is None:
            raise ActionNotFound(
                f"action {name!r} is registered nowhere here; import its module, or give "
                "reproduce() the registry that has it"
            )
        return found

    @staticmethod
    def _arguments(run: Run, slot: int) -> tuple[Any, ...]:
        """Return what an invocation is called with; nothing of the run changes by that."""
        places, plan, values = run.board.bindings[slot], run.plan, run.board.values
        if plan.machine is not None or places is None:
            return run.board.arguments(slot)
        found = []
        for place in (places,) if isinstance(places, int) else places:
            value, source = values[place], plan.source_of(place)
            if value is UNSET and source is not None:
                if source in plan.iterators or plan.actions[source].yields is not None:
                    raise NotExecuted(
                        f"node {plan.ids[slot]!r}: it took the items of {plan.ids[source]!r}, a "
                        "stream that is read once and never stored"
                    )
                if run.state.status(source) == COMPLETED:
                    whole = run.value(source)
                    parts = dict(plan.split(source, whole))
                    value = whole if place == source else parts.get(place, UNSET)
            found.append(value)
        return tuple(found)

    def _recorded(self) -> dict[str, Any]:
        """Return the inputs in a run that this process only knows from its record."""
        graph = self.report.graph
        node = graph.node(self._id)
        if graph.machine is not None or node.subgraph is not None:
            raise NotExecuted(
                f"node {self._id!r}: what it was called with is known in the process that ran it, "
                "or that resumes its run"
            )
        inputs = {}
        for each in bound_inputs(self.report, self._id, self.key):
            if each.value is not MISSING:
                inputs[each.name] = each.value
            elif not each.defaults:
                raise NotExecuted(
                    f"node {self._id!r}: its input {each.name!r} is not on record: {each.missing}; "
                    "resume the run to have it"
                )
        return inputs

    def _ctx(self, inputs: Mapping[str, Any]) -> NodeCtx:
        report, run = self.report, self.report._run
        more = {} if run is None else {"cache": run.cache, "app_data": run.app_data}
        return NodeCtx(
            dag_name=report.dag_name,
            node_id=self._id,
            run_id=report.run_id,
            attempt=max(1, self.attempts),
            inputs=inputs,
            invocation_key=self.key,
            **more,
        )


def _each(call: Callable[[dict[str, Any]], Any], calls: list[dict[str, Any]]) -> Any:
    """Make the calls of a batch, one after the other; awaitable where they are."""
    first = call(calls[0])
    if not inspect.isawaitable(first):
        return [first, *map(call, calls[1:])]

    async def wait(first: Awaitable[Any]) -> list[Any]:
        return [await first, *[await call(given) for given in calls[1:]]]

    return wait(first)


async def _items(answer: AsyncGenerator[Any, Any]) -> list[Any]:
    return [each async for each in answer]


def _waited(answer: Awaitable[Any]) -> Any:
    import asyncio  # whoever made an awaitable has loaded it

    try:
        asyncio.get_running_loop()
    except RuntimeError:

        async def wait() -> Any:
            return await answer

        return asyncio.run(wait())
    return answer


# --- finding it -----------------------------------------------------------------------------------


def failures_in(
    report: RunReport, nested: Mapping[str, Any] | None = None, above: tuple[str, ...] = ()
) -> Iterator[Failure]:
    """Yield what failed in a run, where it happened rather than where it was passed on.

    Args:
        report: The run.
        nested: Its `RunReport.nested`, where it was read already.
        above: Where it is nested itself; see `Failure.path`.
    """
    nested = report.nested if nested is None else nested
    for node_id in report.nodes_in(NodeState.FAILED):
        yield from _failures_of(report, node_id, nested, above)


def _failures_of(
    report: RunReport, node_id: str, nested: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[Failure]:
    """Yield the failures of a node that has failed: of its items, of the runs inside of it."""
    whole, child = report.node_reports[node_id], nested.get(node_id)
    runs = child if isinstance(child, Mapping) else {DEFAULT_KEY: child} if child else {}
    calls = report.invocations(node_id)
    if report.graph.machine is not None or not calls:
        # The runs of a state are those of its cycles, of which the last one failed.
        calls = {next(reversed(list(runs)), DEFAULT_KEY): whole}
    failed = {key: call for key, call in calls.items() if call.state is NodeState.FAILED}
    for key, call in failed.items():
        item = () if key == DEFAULT_KEY else (f"[{key}]",)
        inside, here = runs.get(key), (*above, node_id, *item)
        found = False
        for each in () if inside is None else failures_in(inside, None, here):
            found = True
            yield each
        if not found:
            yield Failure(report, call, above)
    if not failed:  # the node itself, such as for a list that is none
        yield Failure(report, whole, above)


def failure_in(report: RunReport, node_id: str | None = None, key: str | None = None) -> Failure:
    """Return one failure; see `RunReport.failure`."""
    if node_id is None:
        node_id = getattr(report.exception, "node_id", None)
        if not isinstance(node_id, str):
            node_id = next(iter(report.nodes_in(NodeState.FAILED)), None)
        if node_id is None:
            raise NotExecuted(f"no node of run {report.run_id} has failed: it is {report.status}")
    # Whatever else is asked for, `node` says what ids there are.
    name, _, below = node_id.partition(".") if isinstance(node_id, str) else (node_id, "", "")
    report.graph.node(name)
    state = report.node_reports[name].state
    if state is not NodeState.FAILED:
        raise NotExecuted(f"node {name!r} has not failed in run {report.run_id}: it is {state}")
    nested = report.nested
    for each in _failures_of(report, name, nested):
        fits = each.node_id == node_id or each.node_id.startswith(f"{node_id}.")
        if fits and (key is None or key == each.key or f"[{key}]" in each.path):
            return each
    calls = report.invocations(name)
    if key is not None and key not in calls:
        raise NotExecuted(f"node {name!r} has no invocation {shown(key)}{did_you_mean(key, calls)}")
    if key is not None:
        raise NotExecuted(
            f"invocation {key} of node {name!r} has not failed: it is {calls[key].state}"
        )
    inside = nested.get(name)
    if isinstance(inside, Mapping):
        inside = next(iter(inside.values()), None)
    if below and inside is not None:
        inside.graph.node(below.partition(".")[0])
    raise NotExecuted(f"no run inside of node {name!r} has a failed node {shown(below)}")


# --- telling it -----------------------------------------------------------------------------------


def told(report: RunReport, error: BaseException) -> BaseException:
    """Return what a run failed with, with all that there is to say of it as a note.

    Args:
        report: The run.
        error: What is about to be raised.
    """
    if not isinstance(error, NodeExecutionError):
        return error
    try:
        failure = failure_in(report, error.node_id)
    except DaggerError:  # such as a limit that the run has passed
        return error
    fresh = error._failure is None
    error._failure = failure
    if error.__cause__ is not None:
        hide_frames(error.__cause__)
    if fresh:
        for line in _note(report, failure, error):
            error.add_note(line)
    return error


def _note(report: RunReport, failure: Failure, error: NodeExecutionError) -> Iterator[str]:
    if error.__cause__ is None and failure.error is not None and failure.error.traceback:
        yield visible(failure.error.traceback.rstrip())  # of an earlier process
    yield from (f"  {line}" for line in failure.lines())
    top = failure.node_id.partition(".")[0]
    others = [each for each in report.nodes_in(NodeState.FAILED) if each != top]
    if others:
        names = ", ".join(shown(each, 60) for each in others[:_NAMED])
        dots = ", ..." if len(others) > _NAMED else ""
        what = "node" if len(others) == 1 else "nodes"
        yield f"  and {len(others)} more {what} failed: {names}{dots}"
    way = resume_call(report)
    if way is not None:
        yield f"  resume it: {way}"
    yield "  call it again, in a debugger: error.reproduce(), or report.failure().reproduce()"


def resume_call(report: RunReport) -> str | None:
    """Return the command, or the call, that goes on with a recorded run; None without a record."""
    actions = _module_of(report)
    if actions is not None:
        return resume_line(report, actions)
    if resume_line(report) is None:
        return None
    from dagger_dsl.store.urls import shown_url

    where = shown_url(str(report.database_url))
    return f"DagExecutor(database_url={where!r}).resume({report.run_id!r})"


def resume_line(report: RunReport, actions: str = "MODULE_OR_FILE") -> str | None:
    """Return the command line that goes on with a recorded run; None without a record.

    Args:
        report: The run.
        actions: What has its actions.
    """
    url = report.database_url
    if url is None:
        return None
    from dagger_dsl.store.urls import is_memory_url  # who has a URL has loaded it

    if is_memory_url(url):
        return None
    return command_lines.resume_line(url, report.run_id, actions, secrets_of(report))


def _module_of(report: RunReport) -> str | None:
    """Return the one module, or file, that all actions of a run come from; None for several."""
    run: Run | None = report._run
    if run is None:
        return None
    modules = {run.plan.actions[slot].module for slot in run.plan.index.values()}
    if len(modules) != 1:
        return None
    (module,) = modules
    if module != "__main__":
        return module or None
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return path if isinstance(path, str) and path.endswith(".py") else None


def _notebook_lines(error: NodeExecutionError) -> list[str]:
    """Return what a notebook prints of a failure: no frame in it is one of this package's."""
    lines: list[str] = []
    if error.__cause__ is not None:
        text = "".join(traceback.format_exception(error.__cause__))
        lines += visible(text.rstrip(), 20_000).split("\n")
        lines.append("")
    stack = traceback.extract_tb(error.__traceback__)
    names = [each for each in stack if "IPython" not in each.filename]
    theirs = [each for each in names if not is_ours(each.filename)]
    if theirs:
        lines += ["It failed the run that was started here:"]
        lines += "".join(traceback.format_list(theirs[-1:])).rstrip().split("\n")
        lines.append("")
    lines.append(f"\x1b[1;31mNodeExecutionError:\x1b[0m {error}")
    lines += getattr(error, "__notes__", ())
    return lines
