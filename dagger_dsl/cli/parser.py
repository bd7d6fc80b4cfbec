"""Arguments of the command. This module imports argparse alone: ``--help`` has to be quick."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

__all__ = ["DEFAULT_DB", "parse"]

#: Where runs are recorded when nothing else is said: a file in the working directory.
DEFAULT_DB = "sqlite:dagger_dsl.db"

_EPILOG = """\
exit codes:
  0    the run completed, or the command did what it was asked
  1    the run failed, or was cancelled by one of its own; doctor found trouble;
       whoever executes the run did not take a command in time
  2    a wrong argument, file, graph or input, or a command that does not fit; nothing has run
  3    the run is paused and waits to be resumed
  4    the database, its disk or the output is in trouble; the run can be resumed
  70   a fault in dagger-dsl itself; DAGGER_DSL_DEBUG=1 shows where
  124  the run passed its time limit
  130, 143  stopped by SIGINT or SIGTERM: what had ended is recorded, the run can be resumed;
            a second signal leaves at once

environment: DAGGER_DSL_MAX_ATTEMPTS=3 and the like set defaults of the configuration;
NO_COLOR=1 turns colours off; DAGGER_DSL_DEBUG=1 shows the traceback of whatever went wrong.
"""

_STEERING = """\
A run that a process executes takes this within a second, wherever that process was started. One
that nobody executes is paused or cancelled at once; anything else it takes when it is resumed.
"""

#: What sizes of thread pools and ages of runs can be meant in earnest.
_MOST_WORKERS = 10_000
_MOST_DAYS = 365_000

_FILE = "a YAML file, or pipeline.py:dag (a DAG or Graph in a Python file)"
_ACTIONS = (
    "a module or a .py file whose functions are the actions; for a YAML file, actions.py beside it "
    "is taken when it is there"
)


class _Parser(argparse.ArgumentParser):
    """A parser whose subcommands keep the layout of their texts."""

    def __init__(self, *args: object, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)  # type: ignore[arg-type]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; ``command`` and ``action`` say what to do."""
    parser = _Parser(
        prog="dagger-dsl",
        description="Run workflows, written as YAML or Python, and look after their runs.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _run(commands.add_parser("run", help="run a workflow", epilog=_EPILOG))
    _resume(commands.add_parser("resume", help="go on with a recorded run", epilog=_EPILOG))
    _validate(commands.add_parser("validate", help="say what is wrong with a workflow"))
    _dot(commands.add_parser("dot", help="print a workflow as DOT, or draw it"))
    _runs(commands.add_parser("runs", help="list recorded runs"))
    _show(commands.add_parser("show", help="show one recorded run, and what it waits for"))
    _steering(commands)
    _recover(
        commands.add_parser(
            "recover", help="go on with the runs whose process died", epilog=_EPILOG
        )
    )
    _db(commands.add_parser("db", help="look after the database"))
    doctor = commands.add_parser("doctor", help="print what this installation is made of")
    doctor.add_argument(
        "--artifacts", action="store_true", help="read every artifact of the database and verify it"
    )
    _database(doctor)
    _json(doctor)
    for text in argv:
        if not _is_text(text):
            parser.error(f"an argument is text in UTF-8, not {text!a}")
    arguments = parser.parse_args(argv)
    if arguments.version:
        arguments.command = "version"
    elif arguments.command is None:
        parser.error(f"a command is needed: {', '.join(commands.choices)}")
    return arguments


def _is_text(text: str) -> bool:
    """Whether an argument can be stored and printed; bytes that are no UTF-8 are surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db",
        metavar="URL",
        default=DEFAULT_DB,
        help="the database, such as sqlite:state.db (default: %(default)s)",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def _running(parser: argparse.ArgumentParser, given: str) -> None:
    parser.add_argument("--actions", metavar="MODULE_OR_FILE", help=_ACTIONS)
    _inputs(parser, given)
    _how(parser)


def _inputs(parser: argparse.ArgumentParser, given: str) -> None:
    parser.add_argument(
        "--input",
        "-i",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="inputs",
        help=given,
    )


def _how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runner", choices=("threads", "sequential", "asyncio", "processes"), default="threads"
    )
    parser.add_argument("--workers", type=_workers, metavar="N", help="nodes at the same time")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="limit of the run")
    parser.add_argument("--durability", choices=("sync", "async", "exit"), default="sync")
    _database(parser)
    _json(parser)
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=_FILE)
    _running(
        parser, "a value of the graph's input: JSON, else a text; NAME=@file.json reads a file"
    )
    parser.add_argument("--run-id", metavar="ID", help="name of the run; a new one by default")
    parser.add_argument(
        "--idempotency-key", metavar="KEY", help="a second run with this key returns the first"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="validate and print the plan; call nothing"
    )


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument(
        "--branch",
        metavar="B",
        help="let this paused branch go on: at once when a process executes the run, which is all "
        "then; else with the resume",
    )
    _running(parser, "a secret, which was not recorded and has to be given again")


def _validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=_FILE)
    parser.add_argument("--actions", metavar="MODULE_OR_FILE", help=_ACTIONS)
    parser.add_argument(
        "--strict", action="store_true", help="keys that nobody knows are errors, not warnings"
    )
    _json(parser)


def _dot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE_OR_RUN_ID", help=f"{_FILE}; or a recorded run")
    parser.add_argument(
        "--output", "-o", metavar="PATH", help="write to a file; .svg, .png and .pdf are drawn"
    )
    _database(parser)


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dag", metavar="NAME", help="runs of one graph")
    parser.add_argument(
        "--status",
        choices=("running", "paused", "completed", "failed", "cancelled", "timed_out"),
        help="runs of one status",
    )
    parser.add_argument("--parent", metavar="RUN_ID", help="the runs nested in one; else none is")
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="at most (20)")
    _database(parser)
    _json(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--node", metavar="ID", help="one node: its value, its error, its attempts")
    _database(parser)
    _json(parser)


def _steering(commands: argparse._SubParsersAction[_Parser]) -> None:
    pause = _steered(commands, "pause", "let what runs end, and start nothing more")
    cancel = _steered(commands, "cancel", "cancel a run, or a branch of it")
    for each in (pause, cancel):
        each.add_argument("--branch", metavar="B", help="only this branch: a node's id, or a label")
    answer = _steered(commands, "answer", "answer a node that waits for a person")
    answer.add_argument("node", metavar="NODE")
    answer.add_argument("value", metavar="VALUE", help="JSON, else a text")
    answer.add_argument("--key", default="default", help="which invocation of a mapped node")
    approve = _steered(commands, "approve", "let what waits for an approval go on")
    reject = _steered(commands, "reject", "cancel a branch that waits for an approval")
    for each in (approve, reject):
        each.add_argument("branch", metavar="BRANCH", help="a node's id, or a label")
    for each in (pause, cancel, reject):
        each.add_argument("--reason", metavar="T", help="kept with what is paused or cancelled")
    for each in (answer, approve, reject):
        each.add_argument("--by", metavar="NAME", help="who says so, for the record")
    for each in (pause, cancel, answer, approve, reject):
        _database(each)
        _json(each)


def _steered(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    parser = commands.add_parser(name, help=text, description=f"{text}.", epilog=_STEERING)
    parser.add_argument("run_id", metavar="RUN_ID")
    return parser


def _recover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dag", metavar="NAME", help="runs of one graph")
    parser.add_argument("--actions", metavar="MODULE_OR_FILE", required=True, help=_ACTIONS)
    _how(parser)


def _db(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    stats = actions.add_parser("stats", help="print sizes and numbers of rows")
    prune = actions.add_parser("prune", help="delete old runs that have ended, and what they left")
    prune.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="runs that ended so many days ago"
    )
    prune.add_argument(
        "--keep-last", type=_whole, metavar="N", help="but keep the newest N runs of each graph"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    backup = actions.add_parser("backup", help="copy the database, also while runs go on")
    backup.add_argument("path", metavar="PATH")
    vacuum = actions.add_parser("vacuum", help="give free space back to the disk")
    for each in (stats, prune, backup, vacuum):
        _database(each)
        _json(each)


def _count(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return number


def _workers(text: str) -> int:
    number = _count(text)
    if number > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"at most {_MOST_WORKERS}, not {text}")
    return number


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"a whole number, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    number = _number(text)
    if number == 0:
        raise argparse.ArgumentTypeError("more than 0 seconds")
    return number


def _days(text: str) -> float:
    number = _number(text)
    if number > _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"at most {_MOST_DAYS} days, not {text}")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of 0 or more, not {text!r}")
    return number
