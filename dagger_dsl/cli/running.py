"""``run``, ``resume``, ``recover``: a run in the background, its progress, signals that stop it."""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import (
    FAILED,
    OK,
    PAUSED,
    STORE,
    TIMED_OUT,
    USAGE,
    existing_store,
    forget,
    load_run,
    resume_line,
)
from dagger_dsl.cli.screen import Progress, Screen
from dagger_dsl.cli.signals import Signals
from dagger_dsl.cli.sources import (
    input_names,
    load_actions,
    load_source,
    misread_inputs,
    missing_inputs,
    read_inputs,
)
from dagger_dsl.cli.steering import tell_questions, waits_for, waits_for_plain, waits_inside
from dagger_dsl.engine.command_lines import secrets_of
from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    InputValidationError,
    MissingInputError,
    RunOwned,
    StoreError,
    UnknownInputError,
    did_you_mean,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.views.plain import report_to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.runs import StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["CODES", "recover", "resume", "run"]

#: Exit codes by the status of a run.
CODES: Final = {
    "completed": OK,
    "failed": FAILED,
    "cancelled": FAILED,
    "paused": PAUSED,
    "timed_out": TIMED_OUT,
}

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
        progress = Progress(screen)

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
            with suppress(BrokenPipeError):  # the run goes on, whoever has gone
                screen.say(f"run {handle.run_id} of {source.graph.name}, recorded in {where}")
            return handle

        grace = _grace(executor.config, source.graph)
        code, handle = _watch(start, progress, grace, arguments, source.actions, screen)
        _tell(handle, arguments, source.actions, screen)
        return code


def resume(arguments: argparse.Namespace, screen: Screen) -> int:
    """Go on with a recorded run, or with a branch of one that is executed, and wait for its end."""
    inputs = read_inputs(arguments.inputs)
    load_actions(arguments.actions)  # broken code is told before anything about a database
    with existing_store(arguments.db) as store:
        stored = load_run(store, arguments.run_id, arguments.db)
        if arguments.branch is not None and _let_go(store, arguments, screen):
            return OK
        _refuse_recorded(stored, inputs)
        if stored.status == "completed":
            from dagger_dsl.views.stored import stored_report

            screen.say(f"run {stored.run_id} is completed; nothing is left to do")
            screen.report(stored_report(stored, arguments.db, store))
            return OK
        code, handle = _go_on(store, stored, inputs, arguments, screen)
        _tell(handle, arguments, arguments.actions, screen)
        return code


def _let_go(store: Store, arguments: argparse.Namespace, screen: Screen) -> bool:
    """Let a branch go on; False when nobody executes the run, so that it has to be resumed."""
    from dagger_dsl.engine.remote import RunControl

    run = RunControl(store, arguments.run_id)
    if not run.resume_branch(arguments.branch):
        return False
    if screen.as_json:
        screen.json({"run_id": run.run_id, "applied": True, "status": str(run.status)})
    else:
        screen.result(f"run {run.run_id}: branch {arguments.branch!r} goes on")
    return True


def recover(arguments: argparse.Namespace, screen: Screen) -> int:
    """Go on with all runs whose process died, one after the other, the oldest first."""
    load_actions(arguments.actions)
    codes, reports = [], []
    with existing_store(arguments.db) as store:
        for orphan in reversed(store.orphans(arguments.dag)):
            try:
                stored = load_run(store, orphan.run_id, arguments.db)
                code, handle = _go_on(store, stored, {}, arguments, screen)
            except RunOwned as error:
                screen.say(f"left alone: {error}")
                continue
            except DaggerError as error:
                screen.error(f"error: run {orphan.run_id}: {error}")
                codes.append(STORE if isinstance(error, StoreError) else USAGE)
                continue
            codes.append(code)
            if screen.as_json:
                reports.append(_plain(handle))
            else:
                _tell(handle, arguments, arguments.actions, screen)
            if code > TIMED_OUT:  # a signal
                break
    if screen.as_json:
        screen.json(reports)
    elif not codes:
        screen.say("no run was left by a process that died")
    return next((code for code in codes if code != OK), OK)


def _go_on(
    store: Store,
    stored: StoredRun,
    inputs: Mapping[str, Any],
    arguments: argparse.Namespace,
    screen: Screen,
) -> tuple[int, RunHandle]:
    """Resume a run and wait for its end; return the exit code and the handle."""
    from dagger_dsl import engine

    graph = stored.graph
    registry = load_actions(arguments.actions, graph.name)
    progress = Progress(screen)
    options = RunOptions.of({"database_url": arguments.db, **_options(arguments, progress)})
    given = getattr(arguments, "inputs", ())

    def start() -> RunHandle:
        with _inputs_told(graph, registry, given, stored.inputs):
            handle = engine.start_resume(stored.run_id, registry, options, inputs, store)
        with suppress(BrokenPipeError):
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
        "progress": progress.display,
    }


def _watch(
    start: Callable[[], RunHandle],
    progress: Progress,
    grace: float,
    arguments: argparse.Namespace,
    actions: str | None,
    screen: Screen,
) -> tuple[int, RunHandle]:
    """Start a run, wait for its end with signals in mind; return the exit code and the handle."""
    with progress, Signals(screen) as signals:
        handle = start()
        gc.enable()  # `main` turned it off for the time of loading
        signals.guard(handle.cancel)
        known: set[tuple[str, str, str]] = set()
        while not handle.wait(0.2):
            with suppress(BrokenPipeError):
                signals.tell()
                tell_questions(handle, known, arguments.db, screen)
            if signals.overdue(grace + BEYOND_GRACE):
                screen.error("a node did not end within the grace time; leaving it behind")
                signals.leave()
        with suppress(BrokenPipeError):
            signals.tell()
    try:
        report = handle.result()
    except StoreError:
        screen.error(_way_on(handle, arguments, actions))
        raise
    if report.status != "completed":
        screen.failure(report)
    return signals.code or CODES[report.status], handle


def _tell(
    handle: RunHandle, arguments: argparse.Namespace, actions: str | None, screen: Screen
) -> None:
    """Show how a run ended, what it waits for, and how to go on with it.

    Who reads it may have gone, such as `head`; the exit code stays that of the run.
    """
    try:
        _show_end(handle, arguments, actions, screen)
    except BrokenPipeError:
        forget(sys.stdout)


def _show_end(
    handle: RunHandle, arguments: argparse.Namespace, actions: str | None, screen: Screen
) -> None:
    report = handle.result()
    screen.report(report, more=_waiting(handle, report))
    if report.status == "paused":
        for line in waits_for(handle, arguments.db):
            screen.say(line)
        for line in waits_inside(report, arguments.db):
            screen.say(line)
    if report.status != "completed":
        screen.say(_way_on(handle, arguments, actions))


def _plain(handle: RunHandle) -> dict[str, Any]:
    report = handle.result()
    return {**report_to_plain(report), **_waiting(handle, report)}


def _waiting(handle: RunHandle, report: RunReport) -> dict[str, Any]:
    return waits_for_plain(handle) if report.status == "paused" else {}


def _way_on(handle: RunHandle, arguments: argparse.Namespace, actions: str | None) -> str:
    secrets: list[str] = []
    with suppress(DaggerError):  # where the database is in trouble, there may be no report
        secrets = secrets_of(handle.report)
    return f"resume it by:\n  {resume_line(handle.run_id, arguments.db, actions, secrets)}"
