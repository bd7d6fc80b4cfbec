"""What dead processes have left, and whether it is what was promised."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from dagger_dsl.store.storage import Store
from tests.reliability.victim import Call, read_log, read_shown
from tests.reliability.workloads import Spec, Work, name_of, work_of

__all__ = ["Deaths", "Record", "calls_of", "check_end", "check_record", "look"]


@attrs.frozen
class Record:
    """What a database holds of a run.

    Attributes:
        status: The run's, None when it is not there.
        completed: The completed invocations, in the order of their record.
        waiting: Those that wait for a person.
        others: Those with another state, each with it.
        added: The nodes that commands have added, in order.
    """

    status: str | None
    completed: list[str]
    waiting: frozenset[str] = frozenset()
    others: tuple[tuple[str, str], ...] = ()
    added: tuple[str, ...] = ()


def look(database: Path, side: Path, run_id: str = "run") -> Record:
    """Read a copy of a database, so that looking changes nothing about its recovery."""
    shutil.rmtree(side, ignore_errors=True)
    side.mkdir()
    for suffix in ("", "-wal"):
        found = database.with_name(database.name + suffix)
        if found.exists():
            shutil.copy(found, side / found.name)
    copy = side / database.name
    if not copy.exists():
        return Record(None, [])
    connection = sqlite3.connect(copy)
    try:
        return _read(connection, run_id)
    finally:
        connection.close()


def _read(connection: sqlite3.Connection, run_id: str) -> Record:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "flow_runs" not in tables:
        return Record(None, [])
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def ask(query: str) -> list[Any]:
        return connection.execute(f"{query} WHERE run_id = ?", (run_id,)).fetchall()

    status = ask("SELECT status FROM flow_runs")
    rows = ask("SELECT seq, node_id, invocation_key, state FROM node_runs")
    states = [(name_of(node, key), state) for _, node, key, state in sorted(rows)]
    commands = [json.loads(body).get("command", {}) for (body,) in ask(_BODIES)]
    specs = [spec for each in commands for spec in each.get("specs", ())]
    return Record(
        status[0][0] if status else None,
        [name for name, state in states if state == "completed"],
        frozenset(name for name, state in states if state == "waiting"),
        tuple(each for each in states if each[1] not in ("completed", "waiting")),
        tuple(spec["id"] for spec in specs),
    )


_BODIES = "SELECT body FROM (SELECT * FROM run_log WHERE kind = 'command' ORDER BY seq)"


def calls_of(spec: Spec) -> list[Call]:
    """Return the calls that a spec's victims have logged."""
    return read_log(spec.log)


def check_record(work: Work, record: Record, calls: Sequence[Call]) -> None:
    """Check what a killed process left: a causally closed prefix of what it really did."""
    done = set(record.completed)
    assert len(done) == len(record.completed), "a node has two results"
    assert not record.others, "what died has not failed"
    assert len(set(record.added)) == len(record.added), "a node was added twice"
    seen: set[str] = set()
    for name in record.completed:
        assert set(work.sources[name]) <= seen, f"{name} without its sources"
        seen.add(name)
    over = {call.name for call in calls if call.ended is not None}
    assert ((done | record.waiting) & work.called) - work.once <= over
    often = [name for name, n in Counter(c.name for c in calls).items() if n > 1]
    assert work.once.isdisjoint(often), f"called more than once: {often}"
    if work.spec.durability == "sync":
        begun = {call.name for call in calls}
        assert begun & work.added <= set(record.added), "called before it was recorded as added"


def check_end(spec: Spec, database: Path, side: Path, *, alone: bool = True) -> None:
    """Check a run that came to its end after any number of deaths.

    Args:
        spec, database, side: As for `Deaths`.
        alone: Whether no other process has the database open, which would keep files.
    """
    work, record = work_of(spec), look(database, side, spec.run_id)
    assert record.status == "completed"
    check_record(work, record, calls_of(spec))
    assert set(record.completed) == set(work.sources)
    assert set(record.added) == work.added
    with Store(spec.url) as store:
        found = store.load_run(spec.run_id).nodes
        values = {name_of(*place): node.value() for place, node in found.items()}
    assert values == work.values
    if work.added and (shown := read_shown(spec.log)):
        assert set(shown) == set(work.sources), "completions that no hook was shown"
    if not alone:
        return
    left = {each.name.removeprefix(database.name) for each in database.parent.iterdir()}
    assert left <= {"", "-lock", "-artifacts"}, left


@attrs.define(slots=False)
class Deaths:
    """Checks each death of a run's processes, and all of them in the end.

    Args:
        spec: The run.
        database: Its file.
        side: Where copies are looked at.
        alone: Whether no other process has the database open.

    Attributes:
        done: The invocations whose body never has to be called again.
        deaths: How many processes have died.
    """

    spec: Spec
    database: Path
    side: Path
    alone: bool = True
    done: frozenset[str] = frozenset()
    seen: int = 0
    deaths: int = 0

    @cached_property
    def work(self) -> Work:
        """What it runs."""
        return work_of(self.spec)

    def after(self, *, died: bool = True) -> tuple[Record, list[Call]]:
        """Check what a process has left, that has died or let go; return record and its calls."""
        self.deaths += died
        calls = calls_of(self.spec)
        record = look(self.database, self.side, self.spec.run_id)
        check_record(self.work, record, calls)
        mine = self._fresh(calls)
        before = record.waiting | set(record.completed)
        assert self.done <= before, "recorded results are gone"
        lost = [call for call in mine if call.name not in before | self.work.streams]
        if self._is_exact:
            assert len(lost) <= (self.spec.at_once if died else 0), lost
        self.seen = len(calls)
        self.done = before
        return record, mine

    def end(self) -> None:
        """Check the run after its last process has completed it."""
        calls = calls_of(self.spec)
        self._fresh(calls)
        if self._is_exact:
            once = [call for call in calls if call.name not in self.work.streams]
            expected = len(self.work.called - self.work.streams)
            assert len(once) <= expected + self.deaths * self.spec.at_once
        check_end(self.spec, self.database, self.side, alone=self.alone)

    @property
    def _is_exact(self) -> bool:
        """Whether one death repeats the bodies that run, and nothing more."""
        return self.spec.durability == "sync" and self.spec.flush == 0

    def _fresh(self, calls: list[Call]) -> list[Call]:
        """Return the calls since the last look, which never are of something that is done."""
        mine = calls[self.seen :]
        again = {call.name for call in mine} & self.done
        assert not again, f"called again although recorded: {sorted(again)}"
        twice = [key for key, n in Counter((c.name, c.process) for c in mine).items() if n > 1]
        assert not twice, f"called twice by one process: {twice}"
        return mine
