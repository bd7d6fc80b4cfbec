"""Which function does what a subcommand says, and how its errors are told."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import shlex
import sys
import traceback
from typing import Any, Final

from dagger_dsl.cli.common import BROKEN, FAILED, OK, STORE, USAGE, forget, resume_line
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.sources import BrokenCode
from dagger_dsl.errors import (
    ActionNotFound,
    DaggerError,
    IdempotencyConflict,
    RunExists,
    RunNotFound,
    StoreError,
    ValidationError,
)
from dagger_dsl.views.plain import problem_to_plain

__all__ = ["call"]

#: Where each subcommand is done; a module is loaded when it is needed.
_DONE_IN: Final = {
    "run": "running",
    "resume": "running",
    "recover": "running",
    "pause": "steering",
    "cancel": "steering",
    "answer": "steering",
    "approve": "steering",
    "worker": "worker",
    "jobs": "jobs",
    "job": "jobs",
    "task": "jobs",
    "channels": "messages",
    "publish": "messages",
    "deadletters": "messages",
    "reject": "steering",
    "validate": "looking",
    "dot": "looking",
    "runs": "looking",
    "show": "looking",
    "explain": "looking",
    "logs": "following",
    "watch": "following",
    "init": "project",
    "completion": "upkeep",
    "db": "upkeep",
    "doctor": "upkeep",
    "version": "upkeep",
}

#: Store errors that say that the request was wrong, not the store.
_MISUSE: Final = (RunNotFound, RunExists, IdempotencyConflict)

#: What a write to a stream raises; the store's own errors are `StoreError`.
_OUTPUT: Final = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG)


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments say and return the exit code."""
    screen = Screen(
        as_json=getattr(arguments, "json", False), quiet=getattr(arguments, "quiet", False)
    )
    try:
        module = importlib.import_module(f"dagger_dsl.cli.{_DONE_IN[arguments.command]}")
        code: int = getattr(module, arguments.command)(arguments, screen)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:  # before a run has begun
        return 130
    except BrokenPipeError:  # whoever read our output has gone, such as `head`
        forget(sys.stdout)
        return OK
    except Exception as error:
        return _tell(error, arguments, screen)


def _tell(error: Exception, arguments: argparse.Namespace, screen: Screen) -> int:
    """Say what went wrong, whatever it is, and return the exit code; nothing is raised."""
    try:
        if os.environ.get("DAGGER_DSL_DEBUG"):
            screen.error("".join(traceback.format_exception(error)).rstrip())
        if isinstance(error, DaggerError):
            code = _explain(error, arguments, screen)
            sys.stdout.flush()
            return code
        if isinstance(error, ImportError):  # a package of an extra, such as a database driver
            line = f"{error}; install what it belongs to (dagger-dsl doctor lists the extras)"
            return _one_line(line, USAGE, screen)
        if isinstance(error, TimeoutError) and error.errno is None:
            # Whoever executes a run did not take a command; it is no trouble of the system's.
            return _one_line(str(error), FAILED, screen)
        if isinstance(error, OSError):
            return _one_line(_what_of(error), STORE, screen)
        what = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
        line = f"{what} (a fault in dagger-dsl; DAGGER_DSL_DEBUG=1 shows where)"
        return _one_line(line, BROKEN, screen)
    except OSError as trouble:  # writing about it failed too
        return _one_line(_what_of(trouble), STORE, screen)


def _what_of(error: OSError) -> str:
    if error.filename is None and error.errno in _OUTPUT:
        return f"standard output cannot be written: {error.strerror}"
    return str(error)


def _one_line(line: str, code: int, screen: Screen) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        forget(sys.stdout)
    try:
        screen.error(f"error: {line}")
    except OSError:
        forget(sys.stderr)
    return code


def _explain(error: DaggerError, arguments: argparse.Namespace, screen: Screen) -> int:
    code = STORE if isinstance(error, StoreError) and not isinstance(error, _MISUSE) else USAGE
    problems = error.problems if isinstance(error, ValidationError) else ()
    if screen.as_json:
        content: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
        if problems:
            content["problems"] = [problem_to_plain(each) for each in problems]
        screen.json({"error": content, "exit_code": code})
    if any(each.place.file for each in problems):
        screen.problems(problems)
    elif problems:  # of a graph that is in no file
        for each in problems:
            screen.error(f"error: {each.place}: {each.message}")
    elif isinstance(error, BrokenCode) and error.__cause__ is not None:
        screen.error("".join(traceback.format_exception(_without_ours(error.__cause__))).rstrip())
        screen.error(f"error: {error}")
    else:
        screen.error(f"error: {error}")
    if isinstance(error, ActionNotFound):
        screen.error(_where_actions_are(arguments))
    return code


def _without_ours(error: BaseException) -> BaseException:
    """Drop our own frames and those of the import machinery from the top of a traceback."""
    here = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith((here, "<frozen importlib"))
        or trace.tb_frame.f_code.co_filename.endswith("importlib/__init__.py")
    ):
        trace = trace.tb_next
    return error.with_traceback(trace)


def _where_actions_are(arguments: argparse.Namespace) -> str:
    if arguments.command == "resume":
        given = [each.partition("=")[0] for each in arguments.inputs or ()]
        where = arguments.actions or "MODULE_OR_FILE"
        line = resume_line(arguments.run_id, arguments.db, where, given)
        return f"name the module or the .py file that defines them:\n  {line}"
    if arguments.command in ("recover", "worker"):
        return "name the module or the .py file that defines them by --actions"
    line = shlex.join(["dagger-dsl", arguments.command, arguments.file])
    return f"name the module or the .py file that defines them:\n  {line} --actions MODULE_OR_FILE"
