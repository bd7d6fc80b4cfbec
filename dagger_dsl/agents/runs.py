"""Runs of workflows that belong to a task: begun once, gone on with when the task is called again.

The run is recorded where the task is, under an id that the task gives it. So a task whose worker
died finds it there, with everything that it had recorded, instead of beginning another one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.signals import Blocked
from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    RunOwned,
    RunPaused,
    StoreError,
    shown,
)
from dagger_dsl.store.task_questions import Question
from dagger_dsl.store.task_runs import newest_request

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.store.storage import Store

__all__ = ["TaskRun", "answer_run"]

#: Options that the task settles: where the run is recorded, and what it is called.
_SETTLED: Final = ("database_url", "run_id", "idempotency_key")

#: Questions of a run that are named.
_NAMED: Final = 3

#: Seconds between two looks at whether the task still is this worker's: at first, and at most.
_SOON: Final = 0.05
_LATER: Final = 1.0


class TaskRun:
    """One run of a workflow for one call of a task.

    Args:
        ctx: The call.
        workflow: A `DAG`, or a state machine.
        inputs, options: As `DAG.run` takes them.
        key: Tells this run from others of the same workflow and task.
        runner: The runner where the options name none.

    Raises:
        ConfigurationError: One of these cannot be, or is for the task to settle.
    """

    def __init__(
        self,
        ctx: TaskContext,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None,
        key: str | None,
        options: Mapping[str, Any],
        runner: str,
    ) -> None:
        if not isinstance(workflow, Workflow):
            raise ConfigurationError(
                f"a task runs a DAG or a state machine, not {shown(workflow)}; what a `with DAG` "
                "block or FSM() has made is one"
            )
        if key is not None and (not isinstance(key, str) or not key or "\0" in key):
            raise ConfigurationError(
                f"key is a text that is not empty and has no NUL, not {shown(key)}"
            )
        for name in _SETTLED:
            if name in options:
                raise ConfigurationError(
                    f"{name}= is settled by the task, in whose database its runs are recorded; "
                    "call run() of the workflow itself for a run of its own"
                )
        self._ctx = ctx
        self._workflow = workflow
        self._left = False  # by who waited for its beginning
        self._seen = 0
        self._inputs = dict(inputs or {})
        self._settings = workflow._options_within(options, runner)
        name = f"{ctx.idempotency_key}:{workflow.compile().name}"
        self._base = name if key is None else f"{name}:{key}"

    # --- beginning --------------------------------------------------------------------------------

    def begin(self) -> RunHandle:
        """Begin the run, or go on with it.

        Raises:
            ValidationError, InputError: The workflow cannot run with these inputs.
            StoreError: It cannot be recorded.
        """
        pause = _SOON
        self._seen = newest_request(self._ctx.manager._store.database)
        while True:
            try:
                return self._begin()
            except RunOwned:  # by a worker that had the task before, and has not noticed yet
                if self._left or self._ctx.is_cancelled:
                    raise
                time.sleep(pause)
                pause = min(_LATER, 1.5 * pause)

    def _begin(self) -> RunHandle:
        from dagger_dsl.engine.once import start_once

        workflow, store = self._workflow, self._ctx.manager._store
        graph, registry = workflow.compile(), workflow.registry
        with workflow._outside():
            for name in self._names():
                handle = start_once(name, graph, registry, self._inputs, self._settings, store)
                if handle is not None:
                    return handle
        raise AssertionError("there is always another name")

    def _names(self) -> Iterator[str]:
        """Yield ids for the run: another one for other inputs, or another graph of the name."""
        yield self._base
        for number in itertools.count(2):
            yield f"{self._base}~{number}"

    # --- waiting ----------------------------------------------------------------------------------

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Let what keeps the run from being recorded say that it is of the task's database.

        What bodies of the run raise comes as that of their nodes, whatever it is.
        """
        try:
            yield
        except StoreError as error:
            error.where = error.where or self._ctx.manager._store.database.where
            raise

    def wait(self) -> Any:
        """Run it, and return what it gives, in the thread of a sync agent."""
        with self._own():
            return self._wait()

    async def wait_async(self) -> Any:
        """Run it, and return what it gives, on the loop of an async agent."""
        with self._own():
            return await self._wait_async()

    def _wait(self) -> Any:
        handle = self.begin()
        pause = _SOON
        crew = self._ctx.manager._crew
        stoppable = (
            nullcontext()
            if crew is None
            else crew.interruptible(self._ctx._claim, lambda: self._cancel(handle))
        )
        with stoppable:
            try:
                while not handle.wait(pause):
                    pause = min(_LATER, 1.5 * pause)
                    if self._ctx.is_cancelled:
                        self._cancel(handle)
            except BaseException:
                self._cancel(handle)
                raise
        return self._taken(handle.result())

    async def _wait_async(self) -> Any:
        handle = await self._begun()
        ended, pause = asyncio.ensure_future(handle), _SOON
        try:
            while not (await asyncio.wait({ended}, timeout=pause))[0]:
                pause = min(_LATER, 1.5 * pause)
                if await asyncio.to_thread(lambda: self._ctx.is_cancelled):
                    self._cancel(handle)
        except BaseException:
            self._cancel(handle)
            ended.cancel()
            raise
        return self._taken(ended.result())

    async def _begun(self) -> RunHandle:
        """Begin in a thread; a run that begins although nobody waits any more is cancelled there.

        The thread hands over first and then looks whether it was left, and who leaves does it the
        other way round: so one of the two sees the other.
        """
        handed: list[RunHandle] = []

        def begin() -> RunHandle:
            handed.append(self.begin())
            if self._left:
                self._cancel(handed[0])
            return handed[0]

        try:
            return await asyncio.to_thread(begin)
        except BaseException:
            self._left = True
            for handle in handed:
                self._cancel(handle)
            raise

    @staticmethod
    def _cancel(handle: RunHandle) -> None:
        handle.cancel("its task was cancelled, or given to another worker")

    def _taken(self, report: RunReport) -> Any:
        try:
            return self._workflow._answer(report, self._settings)
        except RunPaused as paused:
            # Whoever decides there lets the task go on, too; until then it holds no worker.
            why = f"run {paused.run_id} waits: {paused.reason}"
            asked = Question(why, run_id=paused.run_id, seen=self._seen)
            raise Blocked((), why, asked) from None


def answer_run(
    store: Store, task_id: str, asked: Question, meant: str | int | None, value: Any, by: str
) -> None:
    """Answer the node of a task's run, or of a run in that, which waits for a person.

    The task goes on with that.

    Args:
        store: Where both are recorded.
        task_id: The task.
        asked: What it waits for: a run.
        meant: What the node asks; None where only one does.
        value: The answer.
        by: Who gives it; empty where that is not known.

    Raises:
        InvalidState: No node asks that, or several may be meant; or the node has its answer.
        InputValidationError: The answer does not fit what was asked.
    """
    from dagger_dsl.engine.remote import RunControl

    run = RunControl(store, str(asked.run_id))
    open_ = [(inner, each) for inner in run.paused() for each in inner.questions()]
    found = [(inner, each) for inner, each in open_ if meant is None or each.prompt == meant]
    if len(found) == 1:
        inner, question = found[0]
        inner.answer(question.node_id, value, question.key, by or None)
        return
    if not open_:
        raise InvalidState(
            f"task {task_id!r} asks nothing (any more), it waits for its run {run.run_id}: "
            f"{asked.text}; retry() lets it go on with that, cancel_task() ends it"
        )
    asks = ", ".join(f"node {each.node_id!r} asks {each.prompt!r}" for _, each in open_[:_NAMED])
    more = f" and {len(open_) - _NAMED:,} more" if len(open_) > _NAMED else ""
    what = f"does not ask {shown(meant)} now" if not found else "asks more than one thing"
    raise InvalidState(
        f"the run {run.run_id} of task {task_id!r} {what}: {asks}{more}; name one by the text "
        "that it asks, or answer the node of the run"
    )
