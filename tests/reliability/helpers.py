"""Running victims: real processes, children of a zygote, and what is left after them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.reliability.victim import Call, Spec, read_log, sources_of
from tests.reliability.victim import _answer as answer_of

__all__ = [
    "COUNT",
    "FULL",
    "KILL",
    "ROOT",
    "TEAR",
    "Ending",
    "Zygote",
    "check_end",
    "check_record",
    "compile_shim",
    "expected",
    "look",
    "popen",
]

ROOT = Path(__file__).parents[2]

#: Modes of the shim.
COUNT, KILL, TEAR, FULL = range(4)


def compile_shim(folder: Path) -> Path:
    """Compile the shim; without a C compiler the test that needs it fails."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None, "the kill tests need a C compiler: install gcc"
    target = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return target


def popen(module: str, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Any:
    """Start ``python -m module``, as a user does: with the bytecode of an earlier start."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**inherited, **(env or {})},
        text=True,
        **more,
    )


@attrs.frozen
class Ending:
    """How a victim ended.

    Attributes:
        status: Its exit code, or minus the signal that ended it.
        calls: A letter for each call that the shim counted; empty when it was killed.
        told: The run's status, or the error.
        process: Its id.
    """

    status: int
    calls: str
    told: str
    process: int


class Zygote:
    """Makes victims quickly; see `tests.reliability.zygote`.

    Args:
        shim: The compiled shim.
    """

    def __init__(self, shim: Path) -> None:
        self._process = popen(
            "tests.reliability.zygote",
            env={"LD_PRELOAD": str(shim)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, spec: Spec, folder: Path, nth: int = 0, mode: int = COUNT) -> Ending:
        """Let a victim run to its end, by itself or by the shim."""
        order = {"spec": attrs.asdict(spec), "folder": str(folder), "nth": nth, "mode": mode}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the zygote died"
        return Ending(**json.loads(line))

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def expected(spec: Spec) -> list[Any]:
    """Return every node's value in a run that nothing disturbed."""
    values: list[Any] = []
    for k, sources in enumerate(sources_of(spec)):
        values.append(answer_of(spec, k, tuple(values[each] for each in sources)))
    return values


@attrs.frozen
class Record:
    """What a database holds of a run.

    Attributes:
        status: The run's, None when it is not there.
        completed: Numbers of the completed nodes, in the order of their record.
    """

    status: str | None
    completed: list[int]


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
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "flow_runs" not in tables:
            return Record(None, [])
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        status = connection.execute(
            "SELECT status FROM flow_runs WHERE run_id = ?", (run_id,)
        ).fetchone()
        rows = connection.execute(
            "SELECT node_id FROM node_runs WHERE run_id = ? AND state = 'completed' ORDER BY seq",
            (run_id,),
        ).fetchall()
    finally:
        connection.close()
    return Record(None if status is None else status[0], [int(name[1:]) for (name,) in rows])


def check_record(spec: Spec, record: Record, calls: Sequence[Call]) -> None:
    """Check what a killed process left: a causally closed prefix of what it really did."""
    done = set(record.completed)
    assert len(done) == len(record.completed), "a node has two results"
    sources = sources_of(spec)
    for place, k in enumerate(record.completed):
        assert set(sources[k]) <= set(record.completed[:place]), f"n{k} without its sources"
    assert done <= {call.node for call in calls if call.ended is not None}


def check_end(spec: Spec, database: Path, side: Path) -> None:
    """Check a run that came to its end after any number of deaths."""
    record = look(database, side, spec.run_id)
    assert record.status == "completed"
    assert sorted(record.completed) == list(range(spec.nodes))
    from dagger_dsl.store.storage import Store

    with Store(spec.url) as store:
        nodes = store.load_run(spec.run_id).nodes
        values = [nodes[f"n{k}", "default"].value() for k in range(spec.nodes)]
    assert values == expected(spec)
    left = {each.name.removeprefix(database.name) for each in database.parent.iterdir()}
    assert left <= {"", "-lock", "-artifacts"}, left


def calls_of(spec: Spec) -> list[Call]:
    """Return the calls that a spec's victims have logged."""
    return read_log(spec.log)
