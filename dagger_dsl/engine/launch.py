"""Starting runs: checks what enters, chooses a runner, and lets it drive the coordinator.

`run`, `run_async` and `start` differ only in who waits: the calling thread, the caller's event loop
or a background thread.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dagger_dsl._doors import through
from dagger_dsl.engine.control import CancelToken, RunHandle, Tie
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.inputs import bind_inputs
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.plan import Plan, compile_plan
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.watch import Observers
from dagger_dsl.errors import ConfigurationError, InputError, shown
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Graph, text_problem
from dagger_dsl.model.ids import new_id
from dagger_dsl.model.lifecycle import is_awaited
from dagger_dsl.registry import ActionDef, as_registry
from dagger_dsl.runners.sequential import SequentialRunner
from dagger_dsl.runners.threads import ThreadRunner

if TYPE_CHECKING:
    from dagger_dsl.engine.hooks import BoundHook
    from dagger_dsl.engine.lifecycle import Lifecycle
    from dagger_dsl.engine.memory import Memory
    from dagger_dsl.engine.partial import Part
    from dagger_dsl.engine.recorder import Recorder
    from dagger_dsl.model.commands import Command
    from dagger_dsl.runners.base import Runner
    from dagger_dsl.store.records import StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["Lookup", "resume", "run", "run_async", "start", "start_resume"]


logger = logging.getLogger("dagger_dsl.engine")


class Lookup(Protocol):
    """Where action names are looked up; a `Registry` is one."""

    def get(self, name: str, /) -> ActionDef | None:
        """Return the action of this name, or None."""
        ...


def run(
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any] | None = None,
    options: RunOptions | None = None,
    base_config: DagConfig | None = None,
    store: Store | None = None,
) -> RunReport:
    """Run *graph* and wait for its end in the calling thread.

    Args:
        graph: What to run; it is validated first.
        registry: Where its actions are looked up.
        inputs: Values of the graph's inputs by name.
        options: How to run it.
        base_config: The configuration that the graph's own overrides, field by field.
        store: An open store to record in, instead of one for ``options.database_url``.

    Returns:
        The report, whatever became of the nodes.

    Raises:
        ValidationError, InputError, ConfigurationError: Nothing has run.
        StoreError: The run cannot be recorded; it stays resumable.
        KeyboardInterrupt: Raised again after what had ended was recorded.
    """
    return _prepare(graph, registry, inputs, options or RunOptions(), base_config, store).execute()


def play(
    graph: Graph | str,
    registry: Lookup,
    inputs: Mapping[str, Any] | None,
    options: RunOptions,
    *,
    clock: Callable[[], float],
    runner: Runner,
    commands: Sequence[Command] = (),
    refused: Callable[[Exception], None] = lambda _error: None,
) -> RunReport:
    """Run *graph*, or go on with the run of that id, by a clock and a runner of the caller's.

    For `dagger_dsl.testing`; everything else is as in `run` and `resume`.

    Args:
        clock: Seconds.
        runner: Makes the calls.
        commands: Applied first; what cannot be is passed over.
        refused: Called with why a command was passed over.
    """

    def reply(error: Exception | None) -> None:
        if error is not None:
            refused(error)

    if isinstance(graph, str):
        session = _prepare_resume(graph, registry, options, inputs, None, clock=clock)
    else:
        session = _prepare(graph, registry, inputs, options, None, None, clock)
    if commands:
        from dagger_dsl.engine.steering import Origin  # runs without commands do not load it

        for command in commands:
            session.coordinator.submit(command, Origin("the test"), reply)
    return session.execute(runner)


async def run_async(
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any] | None = None,
    options: RunOptions | None = None,
    base_config: DagConfig | None = None,
    store: Store | None = None,
) -> RunReport:
    """Run *graph* on the caller's event loop; see `run`.

    Raises:
        asyncio.CancelledError: The awaiting task was cancelled; the run was cancelled with it.
    """
    session = _prepare(graph, registry, inputs, options or RunOptions(), base_config, store)
    return await session.execute_async()


def start(
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any] | None = None,
    options: RunOptions | None = None,
    base_config: DagConfig | None = None,
    store: Store | None = None,
) -> RunHandle:
    """Start *graph* in one background thread and return its handle at once; see `run`.

    What is wrong with the graph, its inputs or the options is raised here; a `StoreError` later on
    is raised by the handle's `result`.
    """
    return _prepare(
        graph, registry, inputs, options or RunOptions(), base_config, store
    ).background()


def resume(
    run_id: str,
    registry: Lookup,
    options: RunOptions,
    inputs: Mapping[str, Any] | None = None,
    store: Store | None = None,
) -> RunReport:
    """Go on with a recorded run where it stands, with the graph that was stored with it.

    Completed nodes are not called again; failed and cancelled ones, and those skipped because of
    them, get another chance. A completed run is returned as it is.

    Args:
        run_id: The run, in the store that ``options.database_url`` names.
        registry: Where its actions are looked up.
        options: How to run it; `run_id` and `idempotency_key` are not used.
        inputs: Secrets, which are never stored and have to be given again.
        store: An open store that has the run.

    Raises:
        RunNotFound: The store has no such run.
        RunOwned: A live process records into it; the message names it.
        ActionNotFound: An action of the stored graph is not in *registry*.
    """
    return _prepare_resume(run_id, registry, _whole(options), inputs, store).execute()


def start_resume(
    run_id: str,
    registry: Lookup,
    options: RunOptions,
    inputs: Mapping[str, Any] | None = None,
    store: Store | None = None,
) -> RunHandle:
    """Go on with a recorded run in a background thread; see `resume`. The handle can be awaited."""
    return _prepare_resume(run_id, registry, _whole(options), inputs, store).background()


# --- plans ---------------------------------------------------------------------------------------


def plan_for(graph: Graph, registry: Lookup) -> Plan:
    """Return the plan of a valid graph; the same one as long as its actions stay the same.

    Raises:
        ValidationError: The graph cannot run.
    """
    plan: Plan | None = graph.compiled
    if (
        plan is None
        or any(registry.get(name) is not action for name, action in plan.looked_up.items())
        or (plan.workflows and _workflows_changed(plan, registry))
    ):
        graph.validate(registry)
        plan = compile_plan(graph, registry.get, getattr(registry, "get_workflow", _no_workflow))
        object.__setattr__(graph, "compiled", plan)  # frozen: no part of the value changes
    return plan


def _workflows_changed(plan: Plan, registry: Lookup) -> bool:
    lookup = getattr(registry, "get_workflow", _no_workflow)
    return any(lookup(name) is not known for name, known in plan.workflows.items())


def _no_workflow(_name: str) -> None:
    return None


# --- nested runs ---------------------------------------------------------------------------------


def nest(
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any],
    options: RunOptions,
    base_config: DagConfig,
    outer: Run,
    run_id: str,
) -> _Session:
    """Prepare a run inside of another one, recorded where that is; see `engine.nested`.

    Raises:
        RunExists: It is recorded already.
    """
    return _prepare(
        graph,
        registry,
        inputs,
        options,
        base_config,
        outer.store,
        outer.board.clock,
        outer=outer,
        run_id=run_id,
    )


def nest_again(
    run_id: str, registry: Lookup, secrets: Mapping[str, Any], options: RunOptions, outer: Run
) -> _Session:
    """Claim a recorded run inside of another one; what is completed stays as it is."""
    return _prepare_resume(
        run_id,
        registry,
        options,
        secrets,
        outer.store,
        clock=outer.board.clock,
        outer=outer,
    )


# --- one run -------------------------------------------------------------------------------------


class _Session:
    """A prepared run, and the three ways to drive it.

    Args:
        run: What is run.
        recorder: Where it is recorded, None in memory.
        hooks: Bound hooks, in order.
        ended: The report of a run that has nothing left to do.
        display: Shows how it goes; its `begin` and `close` raise nothing.
    """

    def __init__(
        self,
        run: Run,
        recorder: Recorder | None = None,
        hooks: Sequence[BoundHook] = (),
        *,
        ended: RunReport | None = None,
        display: Any = None,
    ) -> None:
        options = run.options
        self.run = run
        self.recorder = recorder
        self.ended = ended
        self._display = display
        self._shown = False
        self._memory: Memory | None = None
        observers = None
        told = logger.isEnabledFor(logging.DEBUG)
        progress = options.progress if display is None else None
        if hooks or progress is not None or told:
            observers = Observers(run, hooks, progress, told)
        self.needs_loop = observers is not None and observers.needs_loop
        around = run.lifecycle
        machine = run.plan.machine
        # A sync body waits for an async hook around it, and not where the loop itself would wait.
        self._apart = (around is not None and around.awaits) or (
            machine is not None and machine.hook is not None and machine.hook.is_async
        )
        if around is not None:
            self.needs_loop = self.needs_loop or around.awaits
            if observers is not None and around.phased:
                around.tell = observers.phase
        if options.error_handler is not None and is_awaited(options.error_handler):
            self.needs_loop = True
        self.coordinator = Coordinator(run, observers)
        run.board.step = self.coordinator.step
        run.board.interrupt = self.coordinator.stop

    def runner(self) -> Runner:
        """Return the runner for this run when a plain thread waits for it.

        A sequential run with a time limit needs a second thread, and one with something to await
        an event loop; both are the other runners with one slot.
        """
        run = self.run
        sequential = run.options.runner == "sequential"
        limited = self._is_limited()
        if run.plan.needs_loop or self.needs_loop or run.options.runner == "asyncio":
            from dagger_dsl.runners.aio import LoopRunner

            return LoopRunner(inline=sequential and not limited)
        if sequential and not limited:
            return SequentialRunner()
        return ThreadRunner()

    def _is_limited(self) -> bool:
        """Return whether sync bodies have to run beside the thread that waits for them."""
        return self.run.is_limited or self._apart

    def execute(self, runner: Runner | None = None) -> RunReport:
        """Run in the calling thread, by the runner that fits the graph unless one is given."""
        if self.ended is not None:
            return self.ended
        self.run.driver = runner
        try:
            with self:
                (self.runner() if runner is None else runner).run(self.run.board)
            return self.conclude()
        finally:
            if self.run.sharing is not None:
                self.run.sharing.settle()

    async def execute_async(self) -> RunReport:
        """Run on the caller's event loop."""
        if self.ended is not None:
            return self.ended
        import asyncio  # loaded already, as this is being awaited

        from dagger_dsl.runners.aio import AsyncRunner

        run = self.run
        inline = run.options.runner == "sequential" and not self._is_limited()
        try:
            with self:
                try:
                    await AsyncRunner(inline=inline).run(run.board)
                finally:
                    if run.outside is not None:  # its processes' last moments are not the loop's
                        await asyncio.to_thread(run.outside.close)
                if self._display is not None:  # nor is the last drawing
                    await asyncio.to_thread(self._display.close)
            return self.conclude()
        finally:
            if run.sharing is not None:
                run.sharing.settle()

    def background(self, handle: RunHandle | None = None) -> RunHandle:
        """Run in a thread of its own.

        Args:
            handle: The one of the same run, when that goes on.
        """
        run, recorder = self.run, self.recorder
        token = run.token
        found = RunHandle(run.run_id, run.dag_name) if handle is None else handle
        store = None if recorder is None or recorder._own else recorder.store
        lost = recorder is None or (store is None and recorder.store.database.is_memory)
        self.coordinator.steerable = True

        def work() -> None:
            try:
                report = self.execute()
            except BaseException as error:
                found._finish(None, error)
            else:
                found._finish(report, None)

        def go_on(secrets: Mapping[str, Any]) -> RunHandle:
            session = _prepare_resume(run.run_id, run.registry, run.options, secrets, store)
            return session.background(found)

        thread = threading.Thread(
            target=contextvars.copy_context().run,  # bodies see what the caller sees
            args=(work,),
            name=f"dagger-dsl-{run.run_id}",
            daemon=True,
        )
        found._begin(Tie(self.coordinator, thread, token, not lost, store, go_on))
        if self._display is not None:
            self._begin_display()
        thread.start()
        return found

    def __enter__(self) -> _Session:
        run = self.run
        run.began = run.board.clock()
        if run.config.timeout_seconds is not None:
            run.deadline = run.began + max(0.0, run.config.timeout_seconds - run.spent)
        if run.cap is not None:
            run.deadline = run.cap
        if run.tracing is not None:
            run.tracing.begin(run)
        outer = run.options.cancel
        self._unsubscribe = [run.token.subscribe(self.coordinator.stop)]
        if outer is not None:
            self._unsubscribe.append(outer.subscribe(lambda: run.token.cancel(outer.reason)))
        if run.outer is not None:  # at once: whoever would halt it may be waiting for it
            around = run.outer.token
            self._unsubscribe.append(around.subscribe(lambda: run.token.cancel(around.reason)))
        if run.options.track_memory:
            from dagger_dsl.engine.memory import Memory

            self._memory = Memory()
        if self._display is not None and not self._shown:
            self._display.begin(run)
        return self

    def _begin_display(self) -> None:
        """Show a run in the background from here on: a cell may be over before the run begins."""
        self._shown = True
        self.run.began = self.run.board.clock()
        self._display.begin(self.run)
        show = getattr(self._display, "show_now", None)
        if show is not None:
            show()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._let_go(error)
        finally:
            if self._display is not None:
                self._close_display(self._display, error)

    def _close_display(self, display: Any, error: BaseException | None) -> None:
        """Show how the run ended; who does not wait for that still has it recorded."""
        try:
            display.close()
        except BaseException as interrupt:
            if error is None:  # nobody comes to `conclude`
                self._break_off(interrupt)
            raise

    def _let_go(self, error: BaseException | None) -> None:
        self.coordinator.let_go()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        if self._memory is not None:
            self.run.peak = self._memory.close()
        if self.run.annex is not None:
            self.run.annex.close()
        if self.run.outside is not None:
            self.run.outside.close()
        if self.run.tracing is not None:
            self.run.tracing.end(self.run, error or self.coordinator.error)
        if error is not None:  # the waiting thread was interrupted
            self._break_off(error)

    def conclude(self) -> RunReport:
        """Record how the run ended and return its report."""
        error = self.coordinator.error
        if error is not None and not isinstance(error, Exception):
            # It fell into a turn that another thread took.
            self._break_off(error)
            raise error
        if error is not None:
            if self.recorder is not None:
                self.recorder.abandon(error)
            raise error
        self._record_end()
        if self.coordinator.interrupt is not None:
            raise self.coordinator.interrupt
        return self.run.report()

    def _break_off(self, error: BaseException) -> None:
        """Record what has ended; trouble with that must not hide the interrupt."""
        try:
            self.coordinator.close()
            self._record_end()
        except Exception as trouble:
            error.add_note(f"not everything that had ended could be recorded: {trouble!r}")
            if self.recorder is not None:
                self.recorder.abandon(error)

    def _record_end(self) -> None:
        if self.recorder is not None:
            self.recorder.finish(self.run)


def _prepare(
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any] | None,
    options: RunOptions,
    base_config: DagConfig | None,
    store: Store | None,
    clock: Callable[[], float] = time.perf_counter,
    outer: Run | None = None,
    run_id: str | None = None,
) -> _Session:
    display = _display(options)
    hooks = _bound(options.hooks, registry, graph.name)
    config = _configured(DagConfig.merge(base_config, graph.config), options)
    graph = _limited(graph, options)
    plan = plan_for(graph, registry)
    values = {} if options.partial else bind_inputs(plan, inputs, config.on_missing)
    if run_id is None:
        run_id = options.run_id or new_id()
    apart = _apart(plan, options, outer)  # refused here, before anything is recorded
    if options.resources is not None and not options.partial:
        from dagger_dsl.engine.admission import check_memory  # others do not load it

        check_memory(plan, options.resources, None if outer is None else outer.holdings)
    _warn_of_ignored(config, graph.name)
    around = _lifecycle(registry, graph.name, hooks)
    if options.database_url is None and store is None:
        part = _part(plan, options, None)
        if part is not None:
            values = part.bind(inputs, options, config.on_missing)
        run = _run(
            plan, run_id, registry, values, options, config, None, clock, outer, around, **apart
        )
        if part is not None:
            part.begin(run)
        return _Session(run, None, _with_cleanup(hooks, run), display=display)
    from dagger_dsl.engine.recorder import Recorder  # an in-memory run imports no store

    recorder = Recorder.for_options(options, store, run_id)
    with _released_on_error(recorder):
        part = _part(plan, options, recorder.store)
        if part is not None:
            values = part.bind(inputs, options, config.on_missing)
        notes = () if part is None else part.notes
        parent = None if outer is None else outer.run_id
        existing = recorder.create(graph, values, config, options, notes, parent)
        if existing is None:
            more = (recorder, clock, outer, around)
            run = _run(plan, run_id, registry, values, options, config, *more, **apart)
            if part is not None:
                part.begin(run)
            hooks = _with_cleanup(hooks, run)
            recorder.begin(run, hooked=bool(hooks))
            return _Session(run, recorder, hooks, display=display)
        recorder.close()
    return _prepare_resume(
        existing, registry, options, inputs, store, as_recorded=True, clock=clock
    )


def _prepare_resume(
    run_id: str,
    registry: Lookup,
    options: RunOptions,
    inputs: Mapping[str, Any] | None,
    store: Store | None,
    *,
    as_recorded: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    outer: Run | None = None,
) -> _Session:
    """Claim a recorded run.

    Args:
        as_recorded: Whether a run that failed or stands still is returned as it is, too.
    """
    if not isinstance(run_id, str) or not run_id or "\0" in run_id or text_problem(run_id):
        raise ConfigurationError(f"a run is named by its id, a text, not by {shown(run_id)}")
    if options.database_url is None and store is None:
        raise ConfigurationError("resuming needs the database_url under which the run is recorded")
    from dagger_dsl.engine.recorder import Recorder

    display = _display(options)
    recorder = Recorder.for_options(options, store, run_id)
    with _released_on_error(recorder):
        stored = recorder.load()
        ended = stored.status == "completed" or (as_recorded and stored.status in _AT_REST)
        if not ended:
            stored = recorder.claim(options.durability)
        config = _configured(stored.config, options)
        graph = stored.graph
        hooks = _bound(options.hooks, registry, graph.name)
        plan = plan_for(graph, registry)
        given = _with_secrets(stored.inputs, inputs if not as_recorded else None)
        part = None if ended else _recorded_part(plan, stored)
        needed = None if part is None else part.inputs
        values = given if ended else bind_inputs(plan, given, config.on_missing, needed)
        around = _lifecycle(registry, graph.name, hooks)
        apart = {} if ended else _apart(plan, options, outer)
        more = (recorder, clock, outer, around)
        run = _run(plan, run_id, registry, values, options, config, *more, **apart)
        if ended:
            return _Session(run, recorder, ended=recorder.show(run))
        hooks = _with_cleanup(hooks, run)
        recorder.restore(run, options.on_change, hooked=bool(hooks), part=part)
        recorder.seats(run)
        return _Session(run, recorder, hooks, display=display)


def _part(plan: Plan, options: RunOptions, store: Store | None) -> Part | None:
    """Return the part of the graph that runs; None for all of it."""
    if not options.partial:
        return None
    from dagger_dsl.engine.partial import Part  # few runs are partial

    return Part.of(plan, options, store)


def _recorded_part(plan: Plan, stored: StoredRun) -> Part | None:
    """Return the part of the graph that a recorded run was made for; None for all of it."""
    if not stored.commands:
        return None
    from dagger_dsl.engine.partial import Part

    return Part.recorded(plan, stored)


def _whole(options: RunOptions) -> RunOptions:
    if options.partial:
        raise ConfigurationError(
            "start_at= and stop_at= belong to a new run; a resume goes on with what its run was "
            "made for"
        )
    return options


def _display(options: RunOptions) -> Any:
    """Return what shows how a run goes; None where nothing does, or a function is told of it.

    Raises:
        ConfigurationError: What is asked for cannot be had here.
    """
    progress = options.progress
    if progress is None or hasattr(progress, "begin"):
        return progress
    return None if callable(progress) else through("live_display")(progress)


def _bound(given: Sequence[Any], registry: Lookup, dag_name: str) -> tuple[BoundHook, ...]:
    """Return the hooks of a run: those of its registry, and those it is given."""
    registered = getattr(registry, "all_hooks", None)
    if not given and (registered is None or not registered()):
        return ()
    from dagger_dsl.engine.hooks import bind_hooks  # runs without hooks do not load it

    return bind_hooks(given, as_registry(registry), dag_name)


def _lifecycle(registry: Lookup, dag_name: str, hooks: Sequence[BoundHook]) -> Lifecycle | None:
    """Return what surrounds the calls of a run's nodes, None when nothing does."""
    phased = any(each.on_phase is not None for each in hooks)
    known = getattr(registry, "node_hooks", None)
    found = {} if known is None else known(dag_name)
    if not (found or phased):
        return None
    from dagger_dsl.engine.lifecycle import Lifecycle

    return Lifecycle(found, phased)


def _with_cleanup(hooks: tuple[BoundHook, ...], run: Run) -> tuple[BoundHook, ...]:
    return hooks if run.lifecycle is None else (*hooks, *run.lifecycle.observers(run))


_AT_REST = ("completed", "failed", "cancelled", "timed_out", "paused")


@contextmanager
def _released_on_error(recorder: Recorder) -> Iterator[None]:
    try:
        yield
    except BaseException:
        recorder.close()
        raise


def _run(
    plan: Plan,
    run_id: str,
    registry: Lookup,
    values: Mapping[str, Any],
    options: RunOptions,
    config: DagConfig,
    recorder: Recorder | None,
    clock: Callable[[], float],
    outer: Run | None,
    lifecycle: Lifecycle | None,
    **apart: Any,
) -> Run:
    return Run(
        plan=plan,
        run_id=run_id,
        options=options,
        config=config,
        inputs=values,
        token=CancelToken(),
        registry=registry,
        slots=_slots(options, config),
        clock=clock,
        journal=None if recorder is None else recorder.journal,
        store=None if recorder is None else recorder.store,
        outer=outer,
        lifecycle=lifecycle,
        **apart,
    )


def _limited(graph: Graph, options: RunOptions) -> Graph:
    """Return a state machine with the limit that a new run asks for, as it is to be recorded."""
    machine, most = graph.machine, options.max_cycles
    if most is None or (machine is not None and machine.max_cycles == most):
        return graph
    if machine is None:
        raise ConfigurationError(
            f"max_cycles limits the cycles of a state machine, and {graph.name!r} is none; a DAG "
            "that grows is limited by the configuration's max_iterations"
        )
    return graph.replace(machine=attrs.evolve(machine, max_cycles=most))


def _apart(plan: Plan, options: RunOptions, outer: Run | None) -> dict[str, Any]:
    """Return what has a run's calls made in another way than the plan has them; most often nothing.

    Raises:
        ConfigurationError: It cannot be had for this plan.
        MissingExtra: It needs an optional package.
    """
    apart: dict[str, Any] = {}
    if options.profile:
        from dagger_dsl.engine.profiling import Profiles  # others do not load it

        apart["profiles"] = Profiles(options.profile, plan.index)
    if options.trace:
        from dagger_dsl.engine.tracing import Tracing

        apart["tracing"] = Tracing()
    if options.resources is not None:
        from dagger_dsl.engine.admission import Holdings

        apart["holdings"] = Holdings(options.resources, None if outer is None else outer.holdings)
    if options.runner == "processes":
        if os.name != "posix":
            raise ConfigurationError(
                "runner='processes' needs a POSIX system, such as Linux; use runner='threads'"
            )
        from dagger_dsl.engine.outside import Outside

        apart["outside"] = Outside(plan, options.app_data, None if outer is None else outer.outside)
    return apart


def _with_secrets(stored: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the recorded inputs with what was not stored of them.

    Raises:
        InputError: A recorded input is given another value, or what is given is no mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"inputs are a mapping of names to values, not {type(given).__name__}")
    for name, value in (given or {}).items():
        if name in stored and stored[name] != value:
            raise InputError(
                f"input {name!r} was recorded with the run and cannot change; only secrets, which "
                "are never stored, are given to a resume. Start a new run for other inputs"
            )
    return {**(given or {}), **stored}


def _warn_of_ignored(config: DagConfig, name: str) -> None:
    ignored = config.not_acted_on()
    if ignored:
        logger.warning(
            "the configuration of %r sets %s, which this version does not act on",
            name,
            ", ".join(ignored),
        )


def _configured(config: DagConfig | None, options: RunOptions) -> DagConfig:
    config = DagConfig.merge(config, options.config)
    if options.timeout is not None:
        config = config.replace(timeout_seconds=options.timeout)
    return config


def _slots(options: RunOptions, config: DagConfig) -> int:
    if options.runner == "sequential" or not config.enable_parallel_execution:
        return 1
    if options.max_workers is not None:
        return options.max_workers
    return config.max_parallel_nodes or os.cpu_count() or 1
