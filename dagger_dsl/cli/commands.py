"""Which function does what a subcommand says, and how its errors are told."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import traceback
from typing import Any, Final

from dagger_dsl.cli.common import FAILED, STORE, USAGE, resume_line
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
    "validate": "looking",
    "dot": "looking",
    "runs": "looking",
    "show": "looking",
    "db": "upkeep",
    "doctor": "upkeep",
    "version": "upkeep",
}

#: Store errors that say that the request was wrong, not the store.
_MISUSE: Final = (RunNotFound, RunExists, IdempotencyConflict)


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments say and return the exit code."""
    screen = Screen(
        as_json=getattr(arguments, "json", False), quiet=getattr(arguments, "quiet", False)
    )
    module = importlib.import_module(f"dagger_dsl.cli.{_DONE_IN[arguments.command]}")
    try:
        code: int = getattr(module, arguments.command)(arguments, screen)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:  # before a run has begun
        return 130
    except BrokenPipeError:  # whoever read our output has gone, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except DaggerError as error:
        return _explain(error, arguments, screen)


def _explain(error: DaggerError, arguments: argparse.Namespace, screen: Screen) -> int:
    code = STORE if isinstance(error, StoreError) and not isinstance(error, _MISUSE) else USAGE
    problems = error.problems if isinstance(error, ValidationError) else ()
    if screen.as_json:
        content: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
        if problems:
            content["problems"] = [problem_to_plain(each) for each in problems]
        screen.json({"error": content, "exit_code": code})
    if problems:
        screen.problems(problems)
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
        line = resume_line(arguments.run_id, arguments.db, arguments.actions or "MODULE_OR_FILE")
        return f"name the module or the .py file that defines them:\n  {line}"
    line = shlex.join(["dagger-dsl", arguments.command, arguments.file])
    return f"name the module or the .py file that defines them:\n  {line} --actions MODULE_OR_FILE"
