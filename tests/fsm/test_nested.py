"""States that are workflows: values, ways on, children by cycle, resuming, memory, pictures."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, action
from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    InputResolutionError,
    MaxCyclesExceeded,
    MissingInputError,
    NodeExecutionError,
    RegistryError,
    RunPaused,
    TransitionError,
    UnknownInputError,
    ValidationError,
)
from dagger_dsl.executor import DagExecutor
from dagger_dsl.fsm import FSM, FSMReturn, Next
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import play
from dagger_dsl.views.plain import report_to_plain, rows_of
from dagger_dsl.views.stored import stored_report
from dagger_dsl.yamlio import load_yaml
from tests.engine.helpers import IMMEDIATE
from tests.runners.helpers import RUNNERS, eventually
from tests.scale import count

Calls = list[str]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'runs.db'}"


def everywhere(machine: Any, **options: Any) -> Iterator[Callable[[], Any]]:
    """Yield every way to run a workflow: each runner, also where a loop is running."""
    for runner in RUNNERS:

        def here(runner: str = runner) -> Any:
            return machine.run(runner=runner, **options)

        async def inside(runner: str = runner) -> Any:
            return machine.run(runner=runner, **options)

        async def awaited(runner: str = runner) -> Any:
            return await machine.run_async(runner=runner, **options)

        yield here
        yield lambda way=inside: asyncio.run(way())  # type: ignore[misc]
        yield lambda way=awaited: asyncio.run(way())  # type: ignore[misc]


def same(n: int) -> int:
    return n


def work_of(body: Callable[..., Any], name: str = "work") -> DAG:
    """Return a workflow that calls *body* with its input `n`."""
    with DAG(name) as dag:
        action(body, name=f"{name}_step")(n=dag.input("n", int))
    return dag


def machine_of(work: Any, most: int = 3, **options: Any) -> FSM:
    """Return a machine that goes through *work* until its value is *most*."""
    fsm = FSM("machine", **options)

    @fsm.state(initial=True)
    def start(n: int) -> int:
        return n

    state = fsm.state(work, name="work")

    @fsm.state(terminal=True)
    def done(n: int) -> int:
        return 100 * n

    start >> state
    fsm.add_transition(state, state, lambda n: n < most)
    state >> done
    return fsm


# --- values and ways ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_workflow_is_a_state_however_the_machine_runs(
    is_async: bool, recorded: bool, url: str
) -> None:
    def step(n: int) -> int:
        return n + 1

    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    machine = machine_of(work_of(later if is_async else step))
    options: dict[str, Any] = {"database_url": url} if recorded else {}
    for run in everywhere(machine, inputs={"n": 0}, **options):
        assert run() == 300
        report = machine.report
        assert report.state_history == ["start", "work", "work", "work", "done"]
        assert list(report.nested) == ["work"]
        children = report.nested["work"]
        assert {key: each.run_id for key, each in children.items()} == {
            key: f"{report.run_id}/work/{key}" for key in ("1", "2", "3")
        }
        assert [each.value("work_step") for each in children.values()] == [1, 2, 3]
        assert machine.results("work") == [1, 2, 3]
        assert machine["work.1"] == 2


def test_the_value_of_a_workflow_may_say_where_to_go(calls: Calls) -> None:
    def step(n: int) -> Any:
        if n < 2:
            return Next("work", n + 1)
        return FSMReturn(value=n, stop=True)

    fsm = FSM("machine")
    fsm.state(work_of(step), name="work", initial=True)
    for run in everywhere(fsm, inputs={"n": 0}):
        assert run() == 2
        assert fsm.state_history == ["work"] * 3


def test_inputs_of_a_workflow_are_filled_as_those_of_a_state() -> None:
    with DAG("work") as work:
        action(lambda total, rate, extra: total * rate + extra, name="sum")(
            total=work.input("total", int),
            rate=work.input("rate", int),
            extra=work.input("extra", int, default=1),
        )
    fsm = FSM("machine")

    @fsm.state(initial=True, transitions=["work"])
    def start(order: int) -> dict[str, int]:
        return {"total": order}

    fsm.state(work, name="work", terminal=True)
    assert fsm.run({"order": 5, "rate": 3}) == 16
    with pytest.raises(NodeExecutionError) as told:
        fsm.run({"order": 5})
    assert isinstance(told.value.__cause__, InputResolutionError)
    assert "'rate'" in str(told.value)


def test_an_initial_workflow_says_what_the_machine_needs() -> None:
    with DAG("work") as work:
        action(lambda a, b: a + b, name="add")(a=work.input("a", int), b=work.input("b", int))
    fsm = FSM("machine")
    fsm.state(work, initial=True, terminal=True)
    assert list(fsm.states) == ["work"]
    assert fsm.run(a=1, b=2) == 3
    with pytest.raises(MissingInputError, match="'b'"):
        fsm.run(a=1)
    with pytest.raises(UnknownInputError, match="'c' is no run option"):
        fsm.run(a=1, b=2, c=3)


def test_a_value_that_leads_nowhere_fails_the_state() -> None:
    fsm = FSM("machine")
    fsm.state(work_of(lambda n: n), name="work", initial=True)
    with pytest.raises(NodeExecutionError) as told:
        fsm.run(n=1)
    assert isinstance(told.value.__cause__, TransitionError)
    assert "'work' returned 1" in str(told.value)


def test_a_machine_in_a_machine() -> None:
    inner = machine_of(work_of(lambda n: n + 1))
    inner.name = "inner"
    outer = machine_of(inner, most=400)
    for run in everywhere(outer, inputs={"n": 0}):
        assert run() == 100 * 30_100 or outer.state_history
    report = outer.report
    first = report.nested["work"]["1"]
    assert first.state_history == ["start", "work", "work", "work", "done"]
    assert first.nested["work"]["3"].value("work_step") == 3


def test_state_hooks_see_the_value_of_a_workflow() -> None:
    machine = machine_of(work_of(lambda n: n + 1))
    told: list[tuple[str, str, Any]] = []

    @machine.add_state_hook
    def hook(_fsm: FSM, left: str, entered: str, result: Any) -> str | None:
        told.append((left, entered, result))
        return "done" if result == 2 else None

    assert machine.run(n=0) == 200
    assert told == [("start", "work", 0), ("work", "work", 1), ("work", "work", 2)]
    told.clear()

    async def later(_fsm: FSM, left: str, entered: str, result: Any) -> None:
        told.append((left, entered, result))

    machine.add_state_hook(later)
    for run in everywhere(machine, inputs={"n": 0}):
        assert run() == 200


# --- what goes wrong ------------------------------------------------------------------------------


def test_what_cannot_be_a_state_is_refused(calls: Calls) -> None:
    work = work_of(lambda n: n)
    fsm = FSM("machine")
    fsm.state(work, name="work", initial=True, terminal=True)
    with pytest.raises(RegistryError, match="another workflow 'work'"):
        fsm.state(work_of(lambda n: n), name="other")
    fsm.state(work_of(lambda n: 7), name="work", initial=True, terminal=True)
    assert fsm.run(n=1) == 7  # as a cell that runs again
    with pytest.raises(CycleError, match="machine -> machine"):
        fsm.state(fsm, name="again")
    with pytest.raises(ConfigurationError, match="store"):
        fsm.state(work, store=False)
    with pytest.raises(ConfigurationError, match="no option 'cache'"):
        fsm.state(work, cache=True)
    with pytest.raises(ConfigurationError, match=r"fsm\.state\(work, timeout=3\)"):
        fsm.state(work.with_options(timeout=3))


def test_a_machine_inside_of_itself_is_refused() -> None:
    fsm = FSM("machine")
    work = DAG("work")
    fsm.state(same, name="start", initial=True, transitions=["work"])
    state = fsm.state(work, terminal=True)
    assert (state.name, repr(state)) == ("work", "<state 'work' of 'machine'>")
    with work, pytest.raises(CycleError, match="work -> machine -> work"):
        fsm(n=1)
    other = FSM("other")
    other.state(same, name="start", initial=True, transitions=["later"])
    with DAG("later") as later:
        other(n=1)
    other.state(later, terminal=True)
    with pytest.raises(CycleError, match="other"):
        other.run(n=1)


def test_what_is_wrong_inside_is_told_before_anything_runs(calls: Calls) -> None:
    work = work_of(lambda n: calls.append("work"))
    fsm = FSM("machine")
    fsm.state(work, name="work", initial=True, terminal=True, fallback="nobody")
    with pytest.raises(ValidationError, match="'nobody'"):
        fsm.run(n=1)
    inner = FSM("broken")
    inner.state(same, name="start", initial=True, transitions=["nowhere"])
    other = FSM("other")
    other.state(inner, initial=True, terminal=True)
    with pytest.raises(ValidationError, match=r"in workflow 'broken'.*'nowhere'"):
        other.run(n=1)
    assert calls == []


def test_a_failure_inside_names_the_state_and_the_node() -> None:
    machine = machine_of(work_of(lambda n: 1 // n))
    for run in everywhere(machine, inputs={"n": 0}):
        with pytest.raises(NodeExecutionError, match=r"'work\.work_step' failed"):
            run()
        assert machine.state_history == ["start", "work"]
        assert machine.report.nested["work"]["1"].status == "failed"
        assert "'work_step' failed" in machine.report.explain("work")


def test_retries_handlers_and_limits_of_a_state_count_for_its_run(calls: Calls) -> None:
    def fickle(n: int) -> int:
        calls.append("call")
        if len(calls) < 3:
            raise ZeroDivisionError
        return n

    fsm = FSM("machine")
    fsm.state(work_of(fickle), initial=True, terminal=True, retry=IMMEDIATE, attempts=3)
    assert fsm.run(n=5) == 5
    assert len(calls) == 3

    def slow(n: int, ctx: NodeCtx) -> int:
        eventually(lambda: ctx.cancelled, "it is stopped")
        return n

    late = FSM("late")

    def plan_b(n: int) -> Next:
        return Next("end", -n)

    late.state(work_of(slow, "slow"), initial=True, timeout=0.05, fallback=plan_b)

    @late.state(terminal=True)
    def end(n: int) -> int:
        return n

    for run in everywhere(late, inputs={"n": 5}):
        assert run() == -5
        assert late.report.nested["slow"]["0"].status == "timed_out"


# --- recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_resume_goes_on_in_the_middle_of_a_child(calls: Calls, url: str, runner: str) -> None:
    trouble = [2]

    def first(n: int) -> int:
        calls.append(f"first{n}")
        return n

    def second(n: int) -> int:
        calls.append(f"second{n}")
        if n in trouble:
            raise ZeroDivisionError
        return n + 1

    with DAG("work") as work:
        action(second)(n=action(first)(n=work.input("n", int)))
    machine = machine_of(work)
    with pytest.raises(NodeExecutionError):
        machine.run({"n": 1}, database_url=url, run_id="r", runner=runner)
    trouble.clear()
    assert machine.resume("r", database_url=url, runner=runner) == 300
    assert calls == ["first1", "second1", "first2", "second2", "second2"]
    assert machine.state_history == ["start", "work", "work", "done"]
    assert list(machine.report.nested["work"]) == ["1", "2"]
    assert machine.report.nested["work"]["2"].node_reports["first"].restored
    with Store(url) as store:
        assert store.load_run("r/work/2").parent_run_id == "r"
        assert {each.run_id for each in store.list_runs(parent="r")} == {"r/work/1", "r/work/2"}


def test_a_question_inside_pauses_the_machine(url: str) -> None:
    def ask(n: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", {"type": "integer"})

    machine = machine_of(work_of(ask))
    for run in everywhere(machine, inputs={"n": 0}):
        with pytest.raises(RunPaused, match="how many"):
            run()
    assert play(machine, {"n": 0}, answers={"work_step": 4}).outputs == {"done": 400}
    with DagExecutor(database_url=url) as executor:
        executor.load(machine)
        assert executor.run("machine", {"n": 0}, run_id="r").status == "paused"
        executor.submit_human_input("r/work/1", "work_step", 4)
        assert executor.resume("r").outputs == {"done": 400}


@pytest.mark.parametrize("is_async", [False, True])
def test_playing_drives_what_is_inside(is_async: bool) -> None:
    async def later(n: int) -> int:
        return n + 1

    machine = machine_of(work_of(later if is_async else lambda n: n + 1))
    assert play(machine, {"n": 0}).outputs == {"done": 300}


CRASH = """
import sys, time
from pathlib import Path
from dagger_dsl import DAG, action
from dagger_dsl.fsm import FSM

HERE = Path(__file__).parent

def note(text):
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")

@action
def first(n: int) -> int:
    note(f"first{n}")
    return n

@action
def second(n: int) -> int:
    note(f"second{n}")
    if not (HERE / f"go{n}").exists():
        (HERE / f"there{n}").touch()
        time.sleep(600)
    return n + 1

with DAG("work") as work:
    second(first(work.input("n", int)))

machine = FSM("machine")
state = machine.state(work, name="work", initial=True)
machine.add_transition(state, state, lambda n: n < 3)

@machine.state(terminal=True)
def done(n: int) -> int:
    note("done")
    return n

state >> done

with DAG("outer") as outer:
    first.with_options(id="after")(machine(n=outer.input("n", int)))

if __name__ == "__main__":
    outer.run({"n": 0}, database_url=sys.argv[1], run_id="r", runner=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_kill_loses_only_the_call_in_the_child_of_the_machine_in_the_dag(
    tmp_path: Path, runner: str
) -> None:
    module = tmp_path / "flows.py"
    module.write_text(CRASH)
    url = f"sqlite:{tmp_path / 'runs.db'}"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    resume = ["-m", "dagger_dsl", "resume", "r", "--actions", str(module), "--db", url]
    expected: list[str] = []
    for number in range(3):
        command = resume if number else [str(module), url, runner]
        process = subprocess.Popen([sys.executable, *command], env=env, stderr=subprocess.DEVNULL)
        eventually((tmp_path / f"there{number}").exists, "the innermost body runs")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (tmp_path / f"go{number}").touch()
        expected += [f"first{number}", *[f"second{number}"] * 2]
    done = subprocess.run(
        [sys.executable, *resume], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls.txt").read_text().split() == [*expected, "done", "first3"]
    with Store(url) as store:
        assert store.load_run("r").nodes["after", "default"].value() == 3
        assert store.load_run("r/machine/work/2").status == "completed"
        assert store.orphans() == []


# --- many cycles ----------------------------------------------------------------------------------


def counting(most: int, **options: Any) -> FSM:
    fsm = FSM("machine", max_cycles=most + 2, **options)
    state = fsm.state(work_of(lambda n: n + 1), name="work", initial=True)

    @fsm.state(terminal=True)
    def done(n: int) -> int:
        return n

    fsm.add_transition(state, state, lambda n: n < most)
    state >> done
    return fsm


@pytest.mark.parametrize(("limit", "kept"), [(None, 100), (7, 7), (0, 1), (500, 100)])
def test_only_the_newest_children_are_kept(limit: int | None, kept: int, url: str) -> None:
    fsm = counting(130, history_limit=limit)
    newest = [str(number) for number in range(130 - kept, 130)]
    assert fsm.run(n=0) == 130
    assert list(fsm.report.nested["work"]) == newest
    if limit == 7:
        fsm.run(n=0, database_url=url, run_id="r")
        assert list(fsm.report.nested["work"]) == newest
        with Store(url) as store:
            report = stored_report(store.load_run("r"), url, store)
            assert list(report.nested["work"]) == newest
            assert len(store.list_runs(parent="r", limit=None)) == 130
        assert fsm.resume("r", database_url=url) == 130
        assert list(fsm.report.nested["work"]) == newest


@pytest.mark.slow
def test_many_cycles_hold_no_more_than_few() -> None:
    def held(cycles: int) -> int:
        fsm = counting(cycles, history_limit=10)
        gc.collect()
        tracemalloc.start()
        try:
            assert fsm.run(n=0) == cycles
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    held(50)
    assert held(count(10_000)) < 2 * held(200) + 100_000


# --- what is shown --------------------------------------------------------------------------------


def test_tables_and_plain_data_have_the_children_by_cycle() -> None:
    machine = machine_of(work_of(lambda n: n + 1))
    machine.run(n=1)
    plain = report_to_plain(machine.report)
    assert list(plain["nested"]["work"]) == ["1", "2"]
    rows = [
        (level, name, str(each.state))
        for level, name, each in rows_of(machine.report, machine.report.graph.nodes)
    ]
    assert rows == [
        (0, "start", "completed"),
        (0, "work", "completed"),
        (1, "[1]", "completed"),
        (2, "work_step", "completed"),
        (1, "[2]", "completed"),
        (2, "work_step", "completed"),
        (0, "done", "completed"),
    ]


def test_pictures_tell_workflows_from_functions() -> None:
    machine = machine_of(work_of(lambda n: n + 1))
    assert "shape=component" in machine.to_dot()
    drawn = machine.to_mermaid()
    assert '    state "work" as n1 {\n        state "work" as n1_run\n    }\n' in drawn
    with DAG("outer") as outer:
        machine(n=1)
    assert 'n0[["machine"]]' in outer.compile().to_mermaid()


def test_yaml_goes_around_with_a_subgraph(registry: Registry) -> None:
    machine = machine_of(work_of(lambda n: n + 1))
    text = machine.to_yaml()
    assert "subgraph: work" in text
    assert load_yaml(text) == machine.compile()
    with DagExecutor(registry=machine.registry) as executor:
        executor.load_yaml_string(text)
        report = executor.run("machine", {"n": 0})
        assert report.outputs == {"done": 300}
        assert list(report.nested["work"]) == ["1", "2", "3"]


LOADED = """
name: work
nodes:
  - {id: add, action: add, inputs: [{name: "n", reference: inputs.n}]}
---
name: machine
machine:
  initial: work
  terminal: [done]
  transitions:
    - {source: work, target: work, condition: is_small}
    - [work, done]
nodes:
  - {id: work, subgraph: work}
  - {id: done, action: finish}
---
name: outer
nodes:
  - {id: inner, subgraph: machine, inputs: [{name: "n", reference: inputs.n}]}
"""


def test_loaded_graphs_are_states_and_machines_are_nodes() -> None:
    action(lambda n: n + 1, name="add")
    action(lambda n: n < 3, name="is_small")
    action(lambda n: 100 * n, name="finish")
    with DagExecutor() as executor:
        for text in LOADED.split("---"):
            executor.load_yaml_string(text)
        for runner in RUNNERS:
            report = executor.run("outer", {"n": 0}, runner=runner)
            assert report.outputs == {"inner": 300}
            assert list(report.nested["inner"].nested["work"]) == ["0", "1", "2"]


def test_too_many_cycles_inside_fail_the_state() -> None:
    inner = machine_of(work_of(lambda n: n), max_cycles=5)
    inner.name = "inner"
    outer = machine_of(inner)
    with pytest.raises(NodeExecutionError, match="5 cycles") as told:
        outer.run(n=0)
    assert isinstance(told.value.__cause__, MaxCyclesExceeded)
