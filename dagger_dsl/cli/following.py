"""``logs`` and ``watch``: the record of a run, also while another process writes it.

Both only read. They look often while much happens and seldom while nothing does.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import (
    FAILED,
    OK,
    PAUSED,
    died,
    existing_store,
    load_run,
    no_run,
    resume_line,
)
from dagger_dsl.cli.running import CODES
from dagger_dsl.cli.screen import Progress, Screen
from dagger_dsl.cli.steering import tell_questions, waits_for, waits_inside
from dagger_dsl.engine.command_lines import declared_secrets, secrets_of
from dagger_dsl.errors import NodeNotFound, RunNotFound
from dagger_dsl.store.news import read_graph, read_news, read_requests
from dagger_dsl.views.plain import STYLES

if TYPE_CHECKING:
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.store.news import News, Request
    from dagger_dsl.store.storage import Store
    from dagger_dsl.views.journal import Entry

__all__ = ["logs", "watch"]

#: Seconds between two looks: the least, the most, and the growth while nothing happens.
_LEAST: Final = 0.1
_MOST: Final = 1.0
_GROWTH: Final = 1.5

#: A look may take such a part of the time.
_SHARE: Final = 0.1

#: Seconds without news after which it is looked whether the run's process lives.
_QUIET: Final = 2.0

#: Styles of entries that are no states, on a terminal.
_STYLES: Final = {
    "started": "dim",
    "retry": "yellow",
    "refused": "magenta",
    "command": "cyan",
    "question": "cyan",
    "answer": "cyan",
}

#: Entries that are read at once.
_PIECE: Final = 10_000


class _Follower:
    """Reads the news of one run again and again.

    Args:
        store: Where it is recorded.
        run_id: The run.
        database: How the command line names that.

    Attributes:
        left: Whether the process that executed the run died.
    """

    def __init__(self, store: Store, run_id: str, database: str) -> None:
        from dagger_dsl.engine.remote import RunControl

        self._store = store
        self._run_id = run_id
        self._database = database
        self.control: RunControl = RunControl(store, run_id)
        self.left = False

    def look(self, after: int = 0) -> News:
        """Return what is new, no more of it than can be told at once.

        Raises:
            RunNotFound: There is no such run (any more).
        """
        try:
            return read_news(self._store.database, self._run_id, after, _PIECE)
        except RunNotFound:
            raise no_run(self._store, self._run_id, self._database) from None

    def is_dead(self, news: News) -> bool:
        """Return whether the run's process died, and the last news are all there will be."""
        if news.status != "running" or news.more or self.control.is_executed:
            return False
        latest = self.look(news.last)  # it may have ended just before
        self.left = (latest.status, latest.last) == (news.status, news.last)
        return self.left

    def record(self) -> Iterator[News]:
        """Yield what is on record by now, piece by piece."""
        news = self.look()
        while news.more:
            yield news
            news = self.look(news.last)
        self.is_dead(news)
        yield news

    def __iter__(self) -> Iterator[News]:
        """Yield news until the run stands still; what is yielded last says how."""
        after, pause, heard = 0, _LEAST, monotonic()
        before: tuple[str, int] | None = None
        while True:
            begun = monotonic()
            news = self.look(after)
            now = monotonic()
            stand = (news.status, news.epoch)
            quiet = before is None or now - heard >= _QUIET
            if news.last != after or stand != before:
                pause, heard = _LEAST, now
            else:
                pause = min(pause * _GROWTH, _MOST)
            after, before = news.last, stand
            if quiet:
                heard = now
                self.is_dead(news)
            yield news
            if news.more:
                continue
            if news.status != "running" or self.left:
                return
            sleep(max(pause, min((now - begun) / _SHARE, _MOST)))


# --- logs ----------------------------------------------------------------------------------------


def logs(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the record of a run, one line an entry."""
    from dagger_dsl.views.journal import entries

    gc.enable()  # `main` turned it off for the time of loading; a long record makes much garbage
    run_id, database, node_id = arguments.run_id, arguments.db, arguments.node
    with existing_store(database, read_only=True) as store:
        follower = _Follower(store, run_id, database)
        news = follower.look()
        if node_id is not None:
            _refuse_unknown(store, run_id, node_id)
        printer = _Printer(screen, node_id, lines=arguments.follow)
        requests: Mapping[int, Request] = {}
        try:
            for news in follower if arguments.follow else follower.record():
                if news.commands:
                    requests = read_requests(store.database, run_id)
                printer.print(entries(news, requests))
        except KeyboardInterrupt:  # which is how following ends
            return 130
        printer.close()
        if not screen.as_json:
            screen.say(_stand(run_id, news, left=follower.left))
            if follower.left:
                secrets = declared_secrets(read_graph(store.database, run_id)[0])
                for line in died(run_id, database, secrets):
                    screen.say(line)
    return OK


def _refuse_unknown(store: Store, run_id: str, node_id: str) -> None:
    from dagger_dsl.engine.story import graph_now

    graph = graph_now(*read_graph(store.database, run_id))
    if node_id not in graph.nodes:
        raise NodeNotFound(node_id, tuple(graph.nodes))


class _Printer:
    """Prints entries as they come.

    Args:
        screen: Where.
        node_id: Only those of this node and its invocations; None for all.
        lines: Whether JSON is an object a line; else it is one list.
    """

    def __init__(self, screen: Screen, node_id: str | None, *, lines: bool) -> None:
        self._screen = screen
        self._node_id = node_id
        self._lines = lines
        self._day = ""
        self._width = 4
        self._printed = 0

    def print(self, found: Sequence[Entry]) -> None:
        """Print those that are asked for."""
        wanted = [each for each in found if self._is_wanted(each)]
        if self._screen.as_json:
            for each in wanted:
                self._object(each.to_plain())
            return
        # Names that are very long push their own text only.
        lengths = [len(each.node) for each in wanted if len(each.node) <= 30]
        self._width = max([self._width, *lengths])
        for each in wanted:
            day = "" if each.at is None else f"{each.at:%Y-%m-%d}"
            if day and day != self._day:
                self._day = day
                self._screen.result(f"{day} (UTC)")
            at = "" if each.at is None else f"{each.at:%H:%M:%S.%f}"[:-3]
            name = each.node or "run"
            line = f"{at:12}  {name:{self._width}}  {each.text}"
            self._screen.styled(line, _STYLES.get(each.kind) or STYLES.get(each.kind, ""))

    def close(self) -> None:
        """Print what ends the list."""
        if self._screen.as_json and not self._lines:
            sys.stdout.write("\n]\n" if self._printed else "[]\n")

    def _object(self, plain: Mapping[str, Any]) -> None:
        """Print an object; all that is no plain text in it is escaped as JSON does it."""
        text = json.dumps(plain, indent=None if self._lines else 2).replace("\x7f", "\\u007f")
        if self._lines:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        else:
            sys.stdout.write("," if self._printed else "[")
            sys.stdout.write("\n" + textwrap.indent(text, "  "))
        self._printed += 1

    def _is_wanted(self, entry: Entry) -> bool:
        wanted = self._node_id
        return wanted is None or entry.node == wanted or entry.node.startswith(f"{wanted}[")


def _stand(run_id: str, news: News, *, left: bool) -> str:
    reason = str((news.error or {}).get("reason") or (news.error or {}).get("message") or "")
    because = f": {reason}" if reason else ""
    what = "was left by a process that died" if left else f"is {news.status}{because}"
    return f"{news.flow_name}: run {run_id} {what}"


# --- watch ---------------------------------------------------------------------------------------


def watch(arguments: argparse.Namespace, screen: Screen) -> int:
    """Follow a run that another process executes, and end with its exit code."""
    from dagger_dsl.views.stored import stored_report

    gc.enable()
    run_id, database = arguments.run_id, arguments.db
    with existing_store(database, read_only=True) as store:
        follower = _Follower(store, run_id, database)
        first = follower.look()
        if first.status == "running" and not _has_died(follower, first):
            owner = "nobody" if first.owner is None else str(first.owner)
            screen.say(f"run {run_id} of {first.flow_name}, executed by {owner}")
            try:
                _show(follower, first, store, run_id, database, screen)
            except KeyboardInterrupt:
                goes_on = follower.control.is_executed
                how = "goes on; only the watching has ended" if goes_on else "was watched no longer"
                screen.say(f"run {run_id} {how}")
                return 130
        report = stored_report(load_run(store, run_id, database), database, store)
        screen.report(report)
        if report.orphaned:
            for line in died(run_id, database, secrets_of(report)):
                screen.say(line)
            return PAUSED
        if not screen.as_json and report.status != "completed":
            screen.failure(report)
            waits = report.status == "paused"
            for line in waits_for(follower.control, database) if waits else ():
                screen.say(line)
            for line in waits_inside(report, database) if waits else ():
                screen.say(line)
            screen.say("resume it by:")
            screen.say(f"  {resume_line(run_id, database, 'MODULE_OR_FILE', secrets_of(report))}")
        return CODES.get(report.status, FAILED)


def _has_died(follower: _Follower, first: News) -> bool:
    """Return whether nobody executes a run that is recorded as running."""
    return not follower.control.is_executed and follower.look(first.last).status == "running"


def _show(
    follower: _Follower, first: News, store: Store, run_id: str, database: str, screen: Screen
) -> None:
    """Show a run until it stands still."""
    from dagger_dsl.cli.course import Course, retries
    from dagger_dsl.cli.inside import Inside
    from dagger_dsl.engine.story import graph_now

    graph, _ = read_graph(store.database, run_id)
    course, inside = Course(run_id, graph, first), Inside(store.database, run_id)
    asked: set[tuple[str, str, str]] = set()
    with Progress(screen) as progress:
        progress.follow(course)
        try:
            for news in follower:
                if news.commands:
                    graph = graph_now(graph, news.commands)
                    course.grow(graph)
                course.take_in(news)
                if any(each.subgraph is not None for each in graph.nodes.values()):
                    course.look_inside(inside.look(keyed=graph.machine is not None))
                if progress.is_unread:  # such as `head`; the run does not need this command
                    raise BrokenPipeError
                for each in retries(news) if news.status == "running" else ():
                    screen.error(each)
                if any(each.state == "waiting" for each in news.attempts):
                    tell_questions(follower.control, asked, database, screen)
        finally:
            if progress.display is not None:
                progress.display.close()
        if progress.is_unread:
            raise BrokenPipeError
