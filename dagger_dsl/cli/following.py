"""``logs`` and ``watch``: the record of a run, also while another process writes it.

Both only read. They look often while much happens and seldom while nothing does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from dagger_dsl.cli.common import (
    FAILED,
    OK,
    PAUSED,
    existing_store,
    load_run,
    no_run,
    resume_line,
)
from dagger_dsl.cli.running import CODES
from dagger_dsl.cli.screen import Progress, Screen
from dagger_dsl.cli.steering import tell_questions, waits_for, waits_inside
from dagger_dsl.errors import NodeNotFound, RunNotFound
from dagger_dsl.store.news import read_news, read_requests
from dagger_dsl.views.clean import first_line

if TYPE_CHECKING:
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.news import Ended, News
    from dagger_dsl.store.records import StoredRun
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

#: Styles of entries, on a terminal.
_STYLES: Final = {
    "started": "dim",
    "skipped": "dim",
    "failed": "bold red",
    "retry": "yellow",
    "refused": "magenta",
    "cancelled": "magenta",
    "command": "cyan",
    "question": "cyan",
    "answer": "cyan",
}

#: States in which an invocation is over.
_OVER: Final = ("completed", "failed", "skipped", "cancelled")


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
        """Return what is new.

        Raises:
            RunNotFound: There is no such run (any more).
        """
        try:
            return read_news(self._store.database, self._run_id, after)
        except RunNotFound:
            raise no_run(self._store, self._run_id, self._database) from None

    def __iter__(self) -> Iterator[News]:
        """Yield news until the run stands still; what is yielded last says how."""
        after, pause, heard = 0, _LEAST, monotonic()
        before: tuple[str, int] | None = None
        while True:
            begun = monotonic()
            news = self.look(after)
            now = monotonic()
            stand = (news.status, news.epoch)
            if news.last != after or stand != before:
                pause, heard = _LEAST, now
            else:
                pause = min(pause * _GROWTH, _MOST)
            after, before = news.last, stand
            if news.status == "running" and now - heard >= _QUIET:
                heard = now
                if not self.control.is_executed:
                    latest = self.look(after)  # it may have ended just before
                    self.left = (latest.status, latest.last) == (news.status, after)
            yield news
            if news.status != "running" or self.left:
                return
            sleep(max(pause, min((now - begun) / _SHARE, _MOST)))


# --- logs ----------------------------------------------------------------------------------------


def logs(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the record of a run, one line an entry."""
    from dagger_dsl.views.journal import entries

    run_id, database, node_id = arguments.run_id, arguments.db, arguments.node
    with existing_store(database, read_only=True) as store:
        stored = load_run(store, run_id, database)
        if node_id is not None:
            _refuse_unknown(stored, node_id)
        follower = _Follower(store, run_id, database)
        printer = _Printer(screen, node_id, lines=arguments.follow)
        try:
            for news in follower if arguments.follow else [follower.look()]:
                requests = read_requests(store.database, run_id) if news.commands else {}
                printer.print(entries(news, requests))
        except KeyboardInterrupt:  # which is how following ends
            return 130
        if not screen.as_json:
            screen.say(_stand(stored, news, left=follower.left))
        elif not arguments.follow:
            screen.json([each.to_plain() for each in printer.chosen])
    return OK


def _refuse_unknown(stored: StoredRun, node_id: str) -> None:
    from dagger_dsl.engine.story import graph_now

    graph = graph_now(stored.graph, stored.commands)
    if node_id not in graph.nodes:
        raise NodeNotFound(node_id, tuple(graph.nodes))


class _Printer:
    """Prints entries as they come.

    Args:
        screen: Where.
        node_id: Only those of this node and its invocations; None for all.
        lines: Whether JSON is printed at once, an object a line.

    Attributes:
        chosen: What was taken, for JSON that is printed at the end.
    """

    def __init__(self, screen: Screen, node_id: str | None, *, lines: bool) -> None:
        self._screen = screen
        self._node_id = node_id
        self._lines = lines
        self._day = ""
        self._width = 4
        self.chosen: list[Entry] = []

    def print(self, found: Sequence[Entry]) -> None:
        """Print those that are asked for."""
        wanted = [each for each in found if self._is_wanted(each)]
        if self._screen.as_json:
            if self._lines:
                for each in wanted:
                    self._screen.result(json.dumps(each.to_plain(), ensure_ascii=False))
            else:
                self.chosen += wanted
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
            self._screen.styled(line, _STYLES.get(each.kind, ""))

    def _is_wanted(self, entry: Entry) -> bool:
        wanted = self._node_id
        return wanted is None or entry.node == wanted or entry.node.startswith(f"{wanted}[")


def _stand(stored: StoredRun, news: News, *, left: bool) -> str:
    reason = str((news.error or {}).get("reason") or (news.error or {}).get("message") or "")
    because = f": {reason}" if reason else ""
    what = "was left by a process that died" if left else f"is {news.status}{because}"
    return f"{stored.flow_name}: run {stored.run_id} {what}"


# --- watch ---------------------------------------------------------------------------------------


def watch(arguments: argparse.Namespace, screen: Screen) -> int:
    """Follow a run that another process executes, and end with its exit code."""
    from dagger_dsl.views.stored import stored_report

    run_id, database = arguments.run_id, arguments.db
    with existing_store(database, read_only=True) as store:
        stored = load_run(store, run_id, database)
        follower = _Follower(store, run_id, database)
        if stored.status == "running":
            owner = "nobody" if stored.owner is None else str(stored.owner)
            screen.say(f"run {run_id} of {stored.flow_name}, executed by {owner}")
            try:
                _show(follower, stored, database, screen)
            except KeyboardInterrupt:
                screen.say(f"run {run_id} goes on; only the watching has ended")
                return 130
            stored = load_run(store, run_id, database)
        report = stored_report(stored, database, store)
        screen.report(report)
        if follower.left:
            screen.say("the process that executed the run has died; go on with it by:")
            screen.say(f"  {resume_line(run_id, database, 'MODULE_OR_FILE')}")
            return PAUSED
        if not screen.as_json and report.status != "completed":
            screen.failure(report)
            waits = report.status == "paused"
            for line in waits_for(follower.control, database) if waits else ():
                screen.say(line)
            for line in waits_inside(report, database) if waits else ():
                screen.say(line)
            screen.say("resume it by:")
            screen.say(f"  {resume_line(run_id, database, 'MODULE_OR_FILE')}")
        return CODES.get(report.status, FAILED)


def _show(follower: _Follower, stored: StoredRun, database: str, screen: Screen) -> None:
    """Show a run until it stands still."""
    graph, commands = stored.graph, list[object]()
    course = _Course(graph)
    asked: set[tuple[str, str, str]] = set()
    with Progress(screen, graph) as progress:
        for news in follower:
            if any('"add"' in each.body for each in news.commands):
                course.grow(_grown(stored, commands, news))
            commands += news.commands
            for step in course.steps(news):
                progress.update(*step)
            if progress.is_unread:  # such as `head`; the run does not need this command
                raise BrokenPipeError
            for each in course.failures(news):
                screen.error(each)
            if any(each.state == "waiting" for each in news.attempts):
                tell_questions(follower.control, asked, database, screen)


def _grown(stored: StoredRun, commands: Sequence[object], news: News) -> Graph:
    from dagger_dsl.engine.story import graph_now

    return graph_now(stored.graph, [*commands, *news.commands])  # type: ignore[list-item]


class _Course:
    """How far a run has come, worked out from its record.

    Args:
        graph: What it began with.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Slots are numbered as nodes are declared; later ones belong to invocations or to nodes
        # that were added, and which, the record does not say.
        self._machine = graph.machine
        self._first = list(graph.nodes) if graph.machine is None else []
        self._failed: dict[tuple[str, str], Ended] = {}
        self._over: set[str] = set()
        self._begun: set[str] = set()
        self._cycles = 0

    def grow(self, graph: Graph) -> None:
        """Take the graph as it is now."""
        self._graph = graph

    def steps(self, news: News) -> Iterator[tuple[str, str, float]]:
        """Yield what a progress callback is told of the news."""
        for slot in news.released:
            node_id = self._first[slot] if 0 <= slot < len(self._first) else None
            if node_id is not None and node_id not in self._over and node_id not in self._begun:
                self._begun.add(node_id)
                yield node_id, "running", self._fraction()
        for each in news.attempts:
            # Whether a failed attempt was the last one, the record does not say while the run goes
            # on; when the run has ended, all of them are.
            name = (each.node_id, each.key)
            self._failed.pop(name, None)
            if each.state == "failed":
                self._failed[name] = each
            elif each.state in _OVER:
                yield self._ended(each)
        if news.status != "running":
            for each in self._failed.values():
                yield self._ended(each)
            self._failed.clear()

    def failures(self, news: News) -> Iterator[str]:
        """Yield a line for each attempt that failed in a run that goes on."""
        for each in news.attempts if news.status == "running" else ():
            if each.state == "failed":
                error = each.error or {}
                what = first_line(f"{error.get('type')}: {error.get('message')}")
                yield f"attempt {each.attempt} of node {each.node_id!r} failed ({what})"

    def _ended(self, each: Ended) -> tuple[str, str, float]:
        if self._machine is not None:
            self._cycles += 1
            return each.node_id, each.state, min(self._cycles / self._machine.max_cycles, 1.0)
        if each.key == "default":
            self._over.add(each.node_id)
        return each.node_id, each.state, self._fraction()

    def _fraction(self) -> float:
        return min(1.0, len(self._over) / max(1, len(self._graph.nodes)))
