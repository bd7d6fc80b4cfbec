"""``logs`` and ``watch``: the record of a run, also while another process writes it.

Both only read. They look often while much happens and seldom while nothing does.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import threading
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

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
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.pulse import Doing, EndedNode, Pulse
from dagger_dsl.errors import NodeNotFound, RunNotFound
from dagger_dsl.model.context import call_name
from dagger_dsl.model.text import first_line
from dagger_dsl.store.news import read_news, read_requests
from dagger_dsl.views.plain import STYLES

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

#: Styles of entries that are no states, on a terminal.
_STYLES: Final = {
    "started": "dim",
    "retry": "yellow",
    "refused": "magenta",
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
            self._screen.styled(line, _STYLES.get(each.kind) or STYLES.get(each.kind, ""))

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
            for line in died(run_id, database):
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
            screen.say(f"  {resume_line(run_id, database, 'MODULE_OR_FILE')}")
        return CODES.get(report.status, FAILED)


def _show(follower: _Follower, stored: StoredRun, database: str, screen: Screen) -> None:
    """Show a run until it stands still."""
    from dagger_dsl.engine.story import graph_now

    graph = stored.graph
    course = _Course(stored)
    asked: set[tuple[str, str, str]] = set()
    with Progress(screen) as progress:
        progress.follow(course)
        try:
            for news in follower:
                if news.commands:
                    graph = graph_now(graph, news.commands)
                    course.grow(graph)
                course.take_in(news)
                if progress.is_unread:  # such as `head`; the run does not need this command
                    raise BrokenPipeError
                for each in course.failures(news):
                    screen.error(each)
                if any(each.state == "waiting" for each in news.attempts):
                    tell_questions(follower.control, asked, database, screen)
        finally:
            if progress.display is not None:
                progress.display.close()
        if progress.is_unread:
            raise BrokenPipeError


class _Course:
    """How far a run has come, worked out from its record: its pulses.

    One thread takes in what is new, another one asks how the run stands.

    Args:
        stored: The run as it stood at first.
    """

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored
        graph = stored.graph
        self._many = len(graph.nodes)
        # Slots are numbered as nodes are declared; later ones belong to invocations or to nodes
        # that were added, and which, the record does not say.
        self._machine = graph.machine
        self._first = list(graph.nodes) if graph.machine is None else []
        self._failed: dict[tuple[str, str], Ended] = {}
        self._over: set[str] = set()
        self._begun: dict[str, float] = {}
        self._new: list[EndedNode] = []
        self._cycles = 0
        self._lost = 0
        self._status = stored.status
        self._reason = ""
        self._lock = threading.Lock()

    def grow(self, graph: Graph) -> None:
        """Take the graph as it is now."""
        with self._lock:
            self._many = len(graph.nodes)

    def take_in(self, news: News) -> None:
        """Take what has come to the record."""
        with self._lock:
            self._status = news.status
            self._reason = str((news.error or {}).get("reason") or "")
            for slot in news.released:
                node_id = self._first[slot] if 0 <= slot < len(self._first) else None
                if node_id is not None and node_id not in self._over:
                    self._begun.setdefault(node_id, monotonic())
            for each in news.attempts:
                # Whether a failed attempt was the last one, the record does not say while the run
                # goes on; when the run has ended, all of them are.
                name = (each.node_id, each.key)
                self._failed.pop(name, None)
                if each.state == "failed":
                    self._failed[name] = each
                elif each.state in _OVER:
                    self._ended(each)
            if news.status != "running":
                for each in self._failed.values():
                    self._lost += each.key == "default" or self._machine is not None
                    self._ended(each)
                self._failed.clear()

    def take(self, named: int = 0) -> Pulse:
        """Return how the run stands."""
        with self._lock:
            now, machine = monotonic(), self._machine is not None
            done = self._cycles if machine else len(self._over)
            total = None if machine else max(self._many, done)
            ended, self._new = tuple(self._new), []
            failed = tuple(
                Doing(call_name(each.node_id, each.key), None, _what(each))
                for each in self._failed.values()
            )
            goes_on = self._status == "running"
            hidden = {*self._over, *(node_id for node_id, _ in self._failed)}
            running = [
                Doing(node_id, now - since)
                for node_id, since in self._begun.items()
                if node_id not in hidden
            ]
            begun = self._stored.created_at
            return Pulse(
                name=self._stored.flow_name,
                run_id=self._stored.run_id,
                status=self._status,
                reason=self._reason,
                elapsed=max(0.0, (dt.datetime.now(dt.UTC) - begun).total_seconds()),
                done=done,
                total=total,
                fraction=None if total is None else min(1.0, done / max(1, total)),
                calls=done,
                failed=self._lost,
                running=tuple(running),
                # Of one that goes on, the record does not say whether there is another attempt.
                waiting=failed if goes_on else (),
                asking=(),
                failures=() if goes_on else failed,
                ended=ended if named else (),
                left=None if total is None else total - done,
                mark=(self._status, done, len(running), len(self._failed)),
            )

    def failures(self, news: News) -> Iterator[str]:
        """Yield a line for each attempt that failed in a run that goes on."""
        for each in news.attempts if news.status == "running" else ():
            if each.state == "failed":
                yield f"attempt {each.attempt} of node {each.node_id!r} failed ({_what(each)})"

    def _ended(self, each: Ended) -> None:
        text = _what(each) if each.state == "failed" else ""
        passed = EndedNode(each.node_id, each.state, each.duration, text)
        if self._machine is not None:
            self._cycles += 1
            self._new.append(passed)
        elif each.key == "default":
            self._over.add(each.node_id)
            self._new.append(passed)


def _what(each: Ended) -> str:
    return first_line(ErrorInfo(**each.error)) if each.error else each.state
