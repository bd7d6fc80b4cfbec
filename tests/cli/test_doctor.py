"""``doctor``: what an installation is made of, and what is wrong with it or its database."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from dagger_dsl.cli import doctor
from dagger_dsl.store import health
from dagger_dsl.store.storage import Store
from tests.cli.conftest import Cli, finish, spawn


def test_extras_that_are_missing_are_told_with_the_way_to_have_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_EXTRAS", {"processes": "json", "dask": "no_such_module"})
    facts = json.loads(cli("doctor", "--json").out)
    assert facts["extras"] == "processes"
    assert facts["not installed"] == "dask (pip install 'dagger-dsl[dask]')"
    assert facts["executable"] == sys.executable


def test_a_database_is_looked_into(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good")
    facts = json.loads(cli("doctor", "--json").out)
    assert facts["troubles"] == []
    assert facts["journal"].startswith("wal, synchronous=FULL, ")
    assert facts["writable"] == "yes"
    assert facts["owners"] == "0 runs executed"
    assert facts["disk"].endswith(" GB free")
    lines = cli("doctor").out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("writable: ")] == ["yes"]


def test_a_database_opened_read_only_is_no_trouble(cli: Cli) -> None:
    cli("run", "pipeline.py:good")
    done = cli("doctor", "--db", "sqlite:dagger_dsl.db?mode=ro", "--json")
    assert done.code == 0
    assert json.loads(done.out)["writable"] == "no, it was opened with mode=ro"


def test_a_database_that_is_locked_is_a_trouble(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good")
    locker = sqlite3.connect(folder / "dagger_dsl.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    try:
        done = cli("doctor", "--db", "sqlite:dagger_dsl.db?busy_timeout=50")
    finally:
        locker.rollback()
        locker.close()
    assert done.code == 1
    assert "trouble: " in done.err
    assert "locked" in done.err


@pytest.mark.slow
def test_runs_whose_process_died_are_a_trouble_with_a_way_on(cli: Cli, folder: Path) -> None:
    assert finish(spawn(folder, "run", "pipeline.py:dead", "--run-id", "r-dead")).code == 9
    done = cli("doctor")
    assert done.code == 1
    assert "1 run left by a process that died: r-dead" in done.err
    assert "dagger-dsl recover --actions MODULE_OR_FILE" in done.err
    assert "left without closing" in done.out
    assert "closed in order" in cli("doctor").out, "the doctor wrote, checked and closed it"


def test_runs_that_are_executed_are_none(cli: Cli, folder: Path) -> None:
    from dagger_dsl.model.graph import Graph, Node

    with Store("sqlite:dagger_dsl.db") as store:
        store.create_run(run_id="r", graph=Graph("g", [Node("a", "x")]), inputs={})
        facts = json.loads(cli("doctor", "--json").out)
    assert facts["troubles"] == []
    assert facts["owners"].startswith("1 run executed by process ")
    assert facts["last use"] == "in use"


def test_a_network_file_system_and_a_full_disk_are_troubles(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(folder).replace(" ", "\\040")
    mounts = folder / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {place} nfs4 rw 0 0\nother {place}x xfs rw\n")
    monkeypatch.setattr(health, "_MOUNTS", str(mounts))
    monkeypatch.setattr(health, "_LOW", 1 << 62)
    done = cli("doctor")
    assert done.code == 1
    assert "is on a network file system (nfs4)" in done.err
    assert "bytes left; free some space" in done.err
    monkeypatch.setattr(health, "_MOUNTS", str(folder / "nowhere"))
    assert "unknown file system" in cli("doctor").out


def test_a_folder_that_is_not_there_is_told(cli: Cli, folder: Path) -> None:
    done = cli("doctor", "--db", "sqlite:nowhere/x.db")
    assert done.code == 1
    assert f"{folder / 'nowhere'} is no folder; create it, or name another place" in done.err
    assert not (folder / "nowhere").exists()


def test_the_password_of_a_database_is_not_shown(cli: Cli) -> None:
    done = cli("doctor", "--db", "postgresql+psycopg://ada:hunter2@127.0.0.1:1/runs")
    assert "hunter2" not in done.out + done.err
    assert "127.0.0.1:1/runs" in done.out
