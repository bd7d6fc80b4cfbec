"""What the command shows of nested runs, and how it goes on with them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dagger_dsl import DAG, FSM, FSMReturn, Registry, Store, action
from dagger_dsl.cli.inside import Inside
from dagger_dsl.engine.pulse import Pulse
from tests.cli.conftest import Cli, finish, spawn
from tests.cli.test_steering import wait_for

NESTED_PY = """
from dagger_dsl import DAG
from pipeline import ask, double, fickle, one, told

with DAG("inner") as inner:
    fickle(x=inner.input("x", int))
with DAG("outer") as outer:
    double(x=inner(x=one()))
with DAG("asks") as asks:
    told(answer=ask(x=asks.input("x", int)))
with DAG("around") as around:
    asks(x=1)
"""


HELD_PY = """
from dagger_dsl import DAG
from pipeline import double, held, one

with DAG("inner") as inner:
    double(held(one()))
with DAG("outer") as outer:
    inner()
"""


@pytest.fixture
def nested(folder: Path) -> Path:
    """A folder with workflows in workflows."""
    (folder / "nested.py").write_text(NESTED_PY)
    return folder


def test_show_has_the_nodes_of_nested_runs_below_their_node(cli: Cli, nested: Path) -> None:
    assert cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r").code == 1
    shown = cli("show", "r", "--db", "runs.db")
    lines = [line.split()[:2] for line in (shown.out + shown.err).splitlines()]
    assert ["inner", "failed"] in lines
    assert lines[lines.index(["inner", "failed"]) + 1] == ["fickle", "failed"]
    assert "\n  fickle" in shown.out + shown.err
    plain = json.loads(cli("show", "r", "--db", "runs.db", "--json").out)
    assert plain["nested"]["inner"]["run_id"] == "r/inner"
    assert plain["nested"]["inner"]["nodes"][0]["state"] == "failed"
    inside = cli("show", "r/inner", "--db", "runs.db", "--node", "fickle")
    assert "not yet" in inside.out


def test_runs_lists_nested_runs_only_when_asked(cli: Cli, nested: Path) -> None:
    cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r")
    listed = json.loads(cli("runs", "--db", "runs.db", "--json").out)
    assert [each["run_id"] for each in listed] == ["r"]
    inside = json.loads(cli("runs", "--db", "runs.db", "--json", "--parent", "r").out)
    assert [(each["run_id"], each["parent_run_id"]) for each in inside] == [("r/inner", "r")]


def test_resume_finds_the_workflows_of_a_file(cli: Cli, nested: Path) -> None:
    cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r")
    (nested / "works").touch()
    without = cli("resume", "r", "--db", "runs.db")
    assert without.code == 2
    done = cli("resume", "r", "--db", "runs.db", "--actions", "nested.py")
    assert done.code == 0, done.err
    assert (nested / "calls.txt").read_text().split() == ["one", "fickle", "fickle", "double"]


def test_an_answer_to_a_nested_run_lets_the_run_around_it_go_on(cli: Cli, nested: Path) -> None:
    paused = cli("run", "nested.py:around", "--db", "runs.db", "--run-id", "r")
    assert paused.code == 3  # paused
    assert "waits for run r/asks, which is paused" in paused.out + paused.err
    told = cli("show", "r", "--db", "runs.db")
    for each in (paused, told):  # both say how to go on
        assert "answer r/asks ask true" in each.out + each.err
    assert cli("answer", "r/asks", "ask", "true", "--db", "runs.db").code == 0
    done = cli("resume", "r", "--db", "runs.db", "--actions", "nested.py")
    assert done.code == 0, done.err
    assert "yes" in done.out + done.err


@pytest.mark.parametrize("name", ["inner", "a/b~c"])
def test_how_far_a_nested_run_has_come_is_read_from_its_record(tmp_path: Path, name: str) -> None:
    url, registry = f"sqlite:{tmp_path / 'runs.db'}", Registry()
    seen: list[dict[str, Pulse]] = []
    with Store(url) as store:
        inside = Inside(store.database, "r")

        def look(x: int) -> int:
            deadline = time.monotonic() + 20
            while not seen or not seen[-1] or not seen[-1][name].done:
                assert time.monotonic() < deadline
                seen.append(inside.look(keyed=False))
            return x

        with DAG("steps", registry=registry) as steps:
            first = action(lambda: 1, registry=registry, name="first")()
            action(look, registry=registry)(first)
        with DAG("outer", registry=registry) as outer:
            steps.with_options(id=name)()
        for run_id in ("r0", "r/"):  # neighbours by their names, and no more
            with DAG("other", registry=registry) as other:
                action(lambda: 1, registry=registry, name=f"of {run_id}")()
            other.run(database_url=url, run_id=run_id)
        outer.run(database_url=url, run_id="r")
        assert seen[-1].keys() == {name}
        assert (seen[-1][name].done, seen[-1][name].total) == (1, 2)
        assert inside.look(keyed=False) == {}, "it has ended"


def test_of_a_machine_the_run_in_the_newest_cycle_is_read(tmp_path: Path) -> None:
    url, registry = f"sqlite:{tmp_path / 'runs.db'}", Registry()
    seen: list[tuple[dict[str, Pulse], dict[str, Pulse]]] = []
    with Store(url) as store:
        inside = Inside(store.database, "r")

        def look() -> FSMReturn:
            seen.append((inside.look(keyed=True), inside.look(keyed=False)))
            return FSMReturn(next_state="turn") if len(seen) < 2 else FSMReturn(stop=True)

        with DAG("body", registry=registry) as body:
            action(look, registry=registry)()
        machine = FSM("turns", registry=registry)
        machine.state(initial=True, name="turn")(body)
        machine.run(database_url=url, run_id="r")
    assert [[*keyed] for keyed, _ in seen] == [["turn"], ["turn"]]
    assert [each for _, each in seen] == [{}, {}]


@pytest.mark.slow
def test_watch_says_how_far_a_nested_run_has_come(folder: Path) -> None:
    (folder / "nested.py").write_text(HELD_PY)
    running = spawn(folder, "run", "nested.py:outer", "--run-id", "r")
    wait_for(folder, "held")
    watching = spawn(folder, "watch", "r")
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(2)]
    assert lines[1] == "[0/1] inner: 1/3\n"
    (folder / "works").touch()
    assert finish(watching).code == 0
    assert finish(running).code == 0
