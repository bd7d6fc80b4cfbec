"""Arguments of the command. Nothing heavy is imported here: ``--help`` has to be quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NoReturn

from dagger_dsl.cli.examples import epilog
from dagger_dsl.errors import did_you_mean

__all__ = ["DEFAULT_DB", "SHELLS", "build", "parse", "subparsers_of"]

#: Where runs are recorded when nothing else is said: a file in the working directory.
DEFAULT_DB = "sqlite:dagger_dsl.db"

_EPILOG = """\
exit codes:
  0    the run completed, or the command did what it was asked, as far as anybody read it
  1    the run failed, or was cancelled by one of its own; doctor found trouble;
       whoever executes the run did not take a command in time
  2    a wrong argument, file, graph or input, or a command that does not fit; nothing has run
  3    the run is paused, or its process died, and it waits to be resumed
  4    the database, its disk or the output is in trouble; the run can be resumed
  70   a fault in dagger-dsl itself; DAGGER_DSL_DEBUG=1 shows where
  124  the run passed its time limit
  130, 143  stopped by SIGINT or SIGTERM: what had ended is recorded, the run can be resumed;
            a second signal leaves at once

environment: DAGGER_DSL_MAX_ATTEMPTS=3 and the like set defaults of the configuration;
NO_COLOR=1 turns colours off, FORCE_COLOR=1 turns them on where the output is no terminal;
DAGGER_DSL_DEBUG=1 shows the traceback of whatever went wrong.
"""

#: Shells that `completion` knows.
SHELLS: Final = ("bash", "zsh", "fish")

#: The commands by what people come for, each with what it does.
_GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "write and run a workflow": {
        "init": "write a small project that runs",
        "validate": "say what is wrong with a workflow",
        "dot": "print a workflow or a run as DOT, or draw it",
        "run": "run a workflow",
        "resume": "go on with a recorded run",
        "recover": "go on with the runs whose process died",
    },
    "look at runs": {
        "runs": "list recorded runs",
        "show": "show a run, what it waits for, or one of its nodes",
        "explain": "say why a node is as it is, and what can be done",
        "logs": "print what happened in a run, in order",
        "watch": "follow a run that another process executes",
    },
    "steer a run": {
        "pause": "let what runs end, and start nothing more",
        "cancel": "cancel a run, or a branch of it",
        "answer": "answer a node that waits for a person",
        "approve": "let what waits for an approval go on",
        "reject": "cancel a branch that waits for an approval",
    },
    "run and steer the tasks of agents": {
        "worker": "run the tasks of agents that are in a database",
        "jobs": "list jobs",
        "job": "show a job with its tasks, or cancel it",
        "task": "show a task, answer it, try it again, cancel, pause, accept or reject it",
    },
    "look at messages and send them": {
        "channels": "say how channels and the agents that subscribe to them stand",
        "publish": "publish a message",
        "deadletters": "list messages that were given up, give them again, or forget them",
    },
    "look after it": {
        "db": "look after the database",
        "doctor": "print what this installation is made of, and its troubles",
        "completion": "print the completions of a shell",
    },
}
_WHAT: Final = {name: what for group in _GROUPS.values() for name, what in group.items()}

_DESCRIPTION = "Run workflows, written as YAML or Python, and look after their runs."

_STEERING = """\
A run that a process executes takes this within a second, wherever that process was started. One
that nobody executes is paused or cancelled at once; anything else it takes when it is resumed.
"""

_WORKER = """\
Any number of workers, on any number of hosts that share the database, divide the tasks among them.
The tasks of one that dies on this host are run by others within 2 s, those of one that is stopped
or on another host after its lease. All workers of a database should have the same lease.

exit codes:
  0    nothing was left to do (--drain)
  2    a wrong argument, no such agent, or code that cannot be imported
  4    the database is in trouble
  130, 143  stopped by SIGINT or SIGTERM: nothing new was begun, what ended within the grace time
            is recorded, and the rest was given back; a second signal leaves at once
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

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and leave."""
        self.exit(2, f"error: {message}\n  {self.prog} --help shows how it is called\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave; what the arguments hold must not command a terminal."""
        if message:
            from dagger_dsl.model.text import printable

            message = printable(message, lines=True)
        super().exit(status, message)


def subparsers_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of a command's own commands by name; nothing where it has none."""
    for each in parser._actions:
        if isinstance(each, argparse._SubParsersAction):
            found: Mapping[str, argparse.ArgumentParser] = each.choices
            return found
    return {}


def build() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = _Parser(
        prog="dagger-dsl",
        usage="dagger-dsl [--help] [--version] COMMAND ...",
        description=f"{_DESCRIPTION}\n\n{_overview()}",
        epilog=f"dagger-dsl COMMAND --help shows its options and examples.\n\n{_EPILOG}",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="dagger-dsl", help=argparse.SUPPRESS
    )
    for name, add in _ADD.items():
        add(_command(commands, name))
    return parser


def _overview() -> str:
    lines = []
    for title, commands in _GROUPS.items():
        lines += [f"{title}:", *(f"    {name:10}  {what}" for name, what in commands.items()), ""]
    return "\n".join(lines).rstrip()


def _command(commands: argparse._SubParsersAction[_Parser], name: str) -> _Parser:
    more = {"run": _EPILOG, "resume": _EPILOG, "recover": _EPILOG, "worker": _WORKER}.get(name, "")
    if name in _GROUPS["steer a run"]:
        more = _STEERING
    what = _WHAT[name]
    return commands.add_parser(
        name, description=f"{what[0].upper()}{what[1:]}.", epilog=epilog(name, more)
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; ``command`` and ``action`` say what to do."""
    parser = build()
    if argv and argv[0] == "help":  # as many other commands have it
        argv = [*argv[1:], "--help"]
    for text in argv:
        if not _is_text(text):
            parser.error(f"an argument is text in UTF-8, not {text!a}")
    _refuse_unknown(parser, argv)
    arguments = parser.parse_args(argv)
    if arguments.version:
        arguments.command = "version"
    elif arguments.command is None:
        if not argv:
            parser.print_help(sys.stderr)
            parser.exit(2)
        parser.error(f"a command is needed: {', '.join(subparsers_of(parser))}")
    return arguments


def _refuse_unknown(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse commands and options that there are not, and say which could be meant.

    An option's value never begins with ``--`` but behind a ``=``, so each such word is an option.
    """
    for place, word in enumerate(argv):
        below = subparsers_of(parser)
        if word == "--":
            return
        if word.startswith("--"):
            name = word.partition("=")[0]
            known = [each for each in parser._option_string_actions if each.startswith("--")]
            if name not in known and " " not in word:
                parser.error(f"there is no option {name!r}{did_you_mean(name, known)}")
        elif below and not word.startswith("-"):
            if word not in below:
                what = "command" if not place else f"command of {argv[place - 1]}"
                parser.error(f"there is no {what} {word!r}{did_you_mean(word, below)}")
            parser = below[word]


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
    parser.add_argument(
        "--node", metavar="ID", help="one node: its inputs, attempts, value and error"
    )
    parser.add_argument("--html", metavar="FILE", help="write the run as a page for a browser")
    _database(parser)
    _json(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("node", metavar="NODE")
    _database(parser)
    _json(parser)


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--node", metavar="ID", help="what happened to one node")
    parser.add_argument(
        "--follow", "-f", action="store_true", help="go on until the run stands still"
    )
    _database(parser)
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list; with --follow an object a line"
    )


def _watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    _database(parser)
    _json(parser)
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default=".",
        help="where; made when it is missing (default: this folder)",
    )
    _json(parser)


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def _pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--branch", metavar="B", help="only this branch: a node's id, or a label")
    _end_of_steering(parser, reason=True)


def _answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("value", metavar="VALUE", help="JSON, else a text")
    parser.add_argument("--key", default="default", help="which invocation of a mapped node")
    _by(parser)
    _database(parser)
    _json(parser)


def _approve(parser: argparse.ArgumentParser) -> None:
    _approval(parser, reason=False)


def _reject(parser: argparse.ArgumentParser) -> None:
    _approval(parser, reason=True)


def _approval(parser: argparse.ArgumentParser, *, reason: bool) -> None:
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("branch", metavar="BRANCH", help="a node's id, or a label")
    _by(parser)
    _end_of_steering(parser, reason=reason)


def _end_of_steering(parser: argparse.ArgumentParser, *, reason: bool) -> None:
    if reason:
        parser.add_argument("--reason", metavar="T", help="kept with what is paused or cancelled")
    _database(parser)
    _json(parser)


def _by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", metavar="NAME", help="who says so, for the record")


def _recover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dag", metavar="NAME", help="runs of one graph")
    parser.add_argument("--actions", metavar="MODULE_OR_FILE", required=True, help=_ACTIONS)
    _how(parser)


# --- tasks of agents


def _worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agents",
        action="append",
        default=[],
        metavar="A,B",
        help="the agents whose tasks are run (default: all that are defined)",
    )
    parser.add_argument(
        "--actions",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="a module or a .py file that defines agents; several may be given",
    )
    parser.add_argument(
        "--concurrency",
        type=_workers,
        metavar="N",
        help="tasks at the same time (default: the number of CPUs, at least 4)",
    )
    parser.add_argument(
        "--grace",
        type=_number,
        default=10.0,
        metavar="SECONDS",
        help="what runs may take to end after a signal (10)",
    )
    parser.add_argument(
        "--lease",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="time without a sign of life after which others take the tasks over (60)",
    )
    parser.add_argument(
        "--heartbeat-interval",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="time without a sign of life after which a job has stalled, of jobs that keep no such "
        "time themselves (30)",
    )
    parser.add_argument(
        "--stall-action",
        choices=("notify_planning_agent", "terminate_job"),
        default="notify_planning_agent",
        help="what is done then, of jobs that keep no such action themselves (default: "
        "notify_planning_agent)",
    )
    parser.add_argument(
        "--drain",
        action="store_true",
        help="leave as soon as no task of these agents is ready, runs, or waits for its next try",
    )
    _database(parser)
    _json(parser)
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--verbose", "-v", action="store_true", help="print how each call ended")
    told.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def _jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--status",
        choices=("created", "running", "completed", "failed", "cancelled"),
        help="jobs of one status",
    )
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="at most (20)")
    _database(parser)
    _json(parser)


def _job(parser: argparse.ArgumentParser) -> None:
    for name, each in _below(parser, "job", _OF_JOBS):
        each.add_argument("job_id", metavar="JOB")
        if name == "show":
            each.add_argument(
                "--all",
                action="store_true",
                help="every task; otherwise 200, first of all those that failed",
            )
            each.add_argument(
                "--html", metavar="FILE", help="write the job as a page for a browser"
            )
            _database(each)
            _json(each)
        else:
            _end_of_steering(each, reason=True)


def _task(parser: argparse.ArgumentParser) -> None:
    for name, each in _below(parser, "task", _OF_TASKS):
        each.add_argument("task_id", metavar="TASK")
        if name == "cancel":
            each.add_argument("--alone", action="store_true", help="not its parts, too")
        if name == "answer":
            each.add_argument("value", metavar="VALUE", help="JSON; what is none is a text")
            each.add_argument(
                "--question",
                metavar="N_OR_TEXT",
                help="which question this answers: its number in `job show`, or its text; refused "
                "where the task asks another one by now (default: what it asks)",
            )
            _by(each)
        _end_of_steering(each, reason=name not in ("show", "answer"))


_OF_JOBS: Final = {
    "show": "show a job: where each of its tasks stands, and what it waits for",
    "cancel": "cancel a job with all its tasks that have not ended",
}
_OF_TASKS: Final = {
    "show": "show a task: its input, output, error, and each change of its status",
    "answer": "answer a task that asks a person; it is called again with that",
    "retry": "let a task be called that failed, was cancelled or rejected, or waits for a person",
    "cancel": "cancel a task with its parts; those that need them fail",
    "pause": "let a task that has not begun wait until it is resumed",
    "resume": "let a paused task go on",
    "accept": "say that the result of a task is good",
    "reject": "say that the result of a task is not good; those that need it wait",
}


def _channels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", action="store_true", help="show how they stand until Ctrl-C, twice a second"
    )
    parser.add_argument(
        "--forget", metavar="AGENT", help="keep nothing any more for an agent that is gone"
    )
    _database(parser)
    _json(parser)


def _publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("channel", metavar="CHANNEL")
    parser.add_argument("payload", metavar="PAYLOAD", help="JSON; what is none is a text")
    parser.add_argument(
        "--key", default="", metavar="KEY", help="messages of one key reach each agent in order"
    )
    parser.add_argument(
        "--id", metavar="ID", help="a message whose id was published before is not published again"
    )
    _database(parser)
    _json(parser)


def _deadletters(parser: argparse.ArgumentParser) -> None:
    for name, each in _below(parser, "deadletters", _OF_LETTERS):
        each.add_argument("ids", nargs="*", metavar="MESSAGE", help="these only (default: all)")
        each.add_argument("--agent", metavar="AGENT", help="those of one agent")
        if name == "list":
            told = "at most (20; with --json all)"
            each.add_argument("--limit", type=_count, metavar="N", help=told)
        _database(each)
        _json(each)


_OF_LETTERS: Final = {
    "list": "list messages that agents were given as often as their policy allows",
    "replay": "give them again, as if for the first time",
    "discard": "forget them; nothing waits for them",
}


def _below(
    parser: argparse.ArgumentParser, command: str, actions: Mapping[str, str]
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Add the commands of a command, and yield each with its name."""
    below = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, what in actions.items():
        told = f"{what[0].upper()}{what[1:]}."
        more = epilog(f"{command} {name}")
        yield name, below.add_parser(name, help=what, description=told, epilog=more)


def _db(parser: argparse.ArgumentParser) -> None:
    for name, each in _below(parser, "db", _UPKEEP):
        if name == "prune":
            _prune(each)
        elif name == "backup":
            each.add_argument("path", metavar="PATH")
        _database(each)
        _json(each)


_UPKEEP: Final = {
    "stats": "print sizes and numbers of rows",
    "prune": "delete old runs, jobs and messages that are over, and what they left",
    "backup": "copy the database, also while runs go on",
    "vacuum": "give free space back to the disk",
}


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help="what ended so many days ago, and messages of then that all are done with",
    )
    parser.add_argument(
        "--keep-last", type=_whole, metavar="N", help="but keep the newest N runs of each graph"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--artifacts", action="store_true", help="read every artifact of the database and verify it"
    )
    _database(parser)
    _json(parser)


#: The parser of each command, in the order in which the help names them.
_ADD: Final[Mapping[str, Callable[[argparse.ArgumentParser], None]]] = {
    "init": _init,
    "validate": _validate,
    "dot": _dot,
    "run": _run,
    "resume": _resume,
    "recover": _recover,
    "runs": _runs,
    "show": _show,
    "explain": _explain,
    "logs": _logs,
    "watch": _watch,
    "pause": _pause,
    "cancel": _pause,
    "answer": _answer,
    "approve": _approve,
    "reject": _reject,
    "worker": _worker,
    "jobs": _jobs,
    "job": _job,
    "task": _task,
    "channels": _channels,
    "publish": _publish,
    "deadletters": _deadletters,
    "db": _db,
    "doctor": _doctor,
    "completion": _completion,
}


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
