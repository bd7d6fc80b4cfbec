"""``run`` and ``resume``: a run in the background, its progress, and signals that stop it."""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import (
    FAILED,
    OK,
    PAUSED,
    TIMED_OUT,
    existing_store,
    load_run,
    resume_line,
)
from dagger_dsl.cli.screen import Progress, Screen
from dagger_dsl.cli.sources import (
    input_names,
    load_actions,
    load_source,
    misread_inputs,
    missing_inputs,
    read_inputs,
)
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    MissingInputError,
    StoreError,
    UnknownInputError,
    did_you_mean,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.views.plain import report_to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.runs import StoredRun

__all__ = ["resume", "run"]

#: Exit codes by the status of a run.
CODES: Final = {
    "completed": OK,
    "failed": FAILED,
    "cancelled": FAILED,
    "paused": PAUSED,
    "timed_out": TIMED_OUT,
}

#: A live display hides the cursor.
_SHOW_CURSOR: Final = b"\x1b[?25h\n"

#: Seconds beyond the run's own grace time after which a stopped process leaves anyway.
BEYOND_GRACE: Final = 1.0


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run a workflow and wait for its end."""
    inputs = read_inputs(arguments.inputs)
    source = load_source(arguments.file, arguments.actions, told=screen.say)
    if not screen.quiet:
        screen.problems(source.problems)
    from dagger_dsl.executor import DagExecutor

    executor = DagExecutor(DagConfig.from_env(), source.registry, arguments.db)
    if arguments.dry_run:
        told = _inputs_told(source.graph, source.registry, arguments.inputs)
        with redirect_stdout(screen.people), told:
            report = executor.dry_run(source.graph, inputs)
        if screen.as_json:
            screen.json(report_to_plain(report))
        return OK
    with executor:
        progress = Progress(screen, len(source.graph.nodes))

        def start() -> RunHandle:
            with _inputs_told(source.graph, source.registry, arguments.inputs):
                handle = executor.start(
                    source.graph,
                    inputs,
                    run_id=arguments.run_id,
                    idempotency_key=arguments.idempotency_key,
                    **_options(arguments, progress),
                )
            where = executor.storage.database.where
            screen.say(f"run {handle.run_id} of {source.graph.name}, recorded in {where}")
            return handle

        grace = _grace(executor.config, source.graph)
        return _watch(start, progress, grace, arguments, source.actions, screen)


def resume(arguments: argparse.Namespace, screen: Screen) -> int:
    """Go on with a recorded run and wait for its end."""
    inputs = read_inputs(arguments.inputs)
    registry = load_actions(arguments.actions)
    from dagger_dsl import engine

    with existing_store(arguments.db) as store:
        stored = load_run(store, arguments.run_id, arguments.db)
        _refuse_recorded(stored, inputs)
        if stored.status == "completed":
            from dagger_dsl.views.stored import stored_report

            screen.say(f"run {stored.run_id} is completed; nothing is left to do")
            screen.report(stored_report(stored, arguments.db))
            return OK
        graph = stored.graph
        progress = Progress(screen, len(graph.nodes))
        options = RunOptions.of({"database_url": arguments.db, **_options(arguments, progress)})

        def start() -> RunHandle:
            with _inputs_told(graph, registry, arguments.inputs, stored.inputs):
                handle = engine.start_resume(arguments.run_id, registry, options, inputs, store)
            screen.say(f"run {handle.run_id} of {graph.name} goes on in {store.database.where}")
            return handle

        grace = _grace(DagConfig.from_env(), graph)
        return _watch(start, progress, grace, arguments, arguments.actions, screen)


def _refuse_recorded(stored: StoredRun, given: Mapping[str, Any]) -> None:
    """Refuse inputs that a run has, or that its graph does not know.

    Raises:
        ConfigurationError, UnknownInputError: One of them cannot be given.
    """
    known = input_names(stored.graph)
    for name in given:
        if name in stored.inputs:
            raise ConfigurationError(
                f"{name} was recorded with the run; only secrets can be given again"
            )
        if name not in known:
            raise UnknownInputError(
                f"graph {stored.flow_name!r} has no input {name!r}{did_you_mean(name, known)}"
            )


@contextmanager
def _inputs_told(
    graph: Graph, registry: Registry, given: Sequence[str], recorded: Iterable[str] = ()
) -> Iterator[None]:
    """Say in the words of the command line what is wrong with the inputs."""
    try:
        yield
    except MissingInputError as error:
        missing = missing_inputs(graph, {*read_inputs(given), *recorded})
        if not missing:
            raise
        values = "a value" if len(missing) == 1 else "values"
        options = " ".join(f"--input {name}=VALUE" for name in missing)
        raise MissingInputError(
            f"graph {graph.name!r} needs {values} for {', '.join(map(repr, missing))}; "
            f"add {options}"
        ) from error
    except InputValidationError as error:
        misread = [
            f"-i {name}={shlex.quote(json.dumps(text, ensure_ascii=False))}"
            for name, text in misread_inputs(graph, registry, given)
        ]
        if not misread:
            raise
        raise InputValidationError(f"{error}; write a text as {' '.join(misread)}") from error


def _grace(base: DagConfig, graph: Graph) -> float:
    return DagConfig.merge(base, graph.config).shutdown_grace


def _options(arguments: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    return {
        "runner": arguments.runner,
        "max_workers": arguments.workers,
        "timeout": arguments.timeout,
        "durability": arguments.durability,
        "progress": progress.update,
        "hooks": [progress] if progress.wants_starts else [],
    }


def _watch(
    start: Callable[[], RunHandle],
    progress: Progress,
    grace: float,
    arguments: argparse.Namespace,
    actions: str | None,
    screen: Screen,
) -> int:
    """Start a run, wait for its end with signals in mind, and show what became of it."""
    with progress, _Signals(screen) as signals:
        handle = start()
        gc.enable()  # `main` turned it off for the time of loading
        signals.guard(handle)
        while not handle.wait(0.5):
            if signals.overdue(grace + BEYOND_GRACE):
                screen.error("a node did not end within the grace time; leaving it behind")
                signals.leave()
    way_on = f"resume it by:\n  {resume_line(handle.run_id, arguments.db, actions)}"
    try:
        report = handle.result()
    except StoreError:
        screen.error(way_on)
        raise
    if report.status != "completed":
        screen.failure(report)
    screen.report(report)
    if report.status != "completed":
        screen.say(way_on)
    return signals.code or CODES[report.status]


class _Signals:
    """The first SIGINT or SIGTERM cancels the run, the second leaves the process at once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._handle: RunHandle | None = None
        self._number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code that the first signal asks for, 0 without one."""
        return 128 + self._number if self._number else 0

    def guard(self, handle: RunHandle) -> None:
        """Say which run to cancel; a signal that came before cancels it now."""
        self._handle = handle
        if self._number:
            handle.cancel(self._reason())

    def overdue(self, seconds: float) -> bool:
        """Return whether the run should have ended by now."""
        return bool(self._number) and time.monotonic() - self._since > seconds

    def leave(self) -> None:
        """End the process; what is recorded is whole at any moment.

        Nothing is flushed: whoever holds the lock of a stream may never give it back.
        """
        if self._screen.is_terminal:
            os.write(2, _SHOW_CURSOR)
        os._exit(self.code)

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _reason(self) -> str:
        return f"stopped by {signal.Signals(self._number).name}"

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._number:
            self._number = number
            self.leave()
        self._number, self._since = number, time.monotonic()
        # A signal can interrupt a write to the same stream; the descriptor is always free.
        os.write(2, b"\nstopping; what has ended is recorded (again to leave at once)\n")
        if self._handle is not None:
            self._handle.cancel(self._reason())
