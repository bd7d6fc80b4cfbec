"""A recorded run that goes on: what was started and has not ended is running."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dagger_dsl import DAG, NodeCtx, NodeState, Registry, RetryPolicy, action
from dagger_dsl.engine.bindings import bound_inputs
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize("delay", [0.0, 0.001])
def test_what_is_running_is_shown_so_also_when_it_is_tried_again(
    tmp_path: Path, runner: str, delay: float
) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    begun, go_on = threading.Event(), threading.Event()

    with Registry():

        @action
        def first() -> int:
            return 1

        @action(retry=RetryPolicy(max_attempts=2, base_delay=delay))
        def second(x: int, ctx: NodeCtx) -> int:
            if ctx.attempt == 1:
                raise ValueError("not yet")
            begun.set()
            assert go_on.wait(60)
            return x

        @action
        def third(x: int) -> int:
            return x

        dag = DAG(first >> second >> third, name="three")
        handle = dag.start(database_url=url, run_id="r", runner=runner)
    try:
        assert begun.wait(60)
        with Store(f"{url}?mode=ro") as store:
            report = stored_report(store.load_run("r"), url, store)
        assert list(report.states().values()) == [
            NodeState.COMPLETED,
            NodeState.RUNNING,
            NodeState.PENDING,
        ]
        assert report.node_reports["second"].state is NodeState.RUNNING
        assert report.node_reports["second"].attempts == 1
        assert report.explain("third").startswith(
            "'third' has not started: it needs 'second', which is running"
        )
        assert [each.value for each in bound_inputs(report, "second")] == [1]
        (missing,) = bound_inputs(report, "third")
        assert missing.missing == "'second' is running"
    finally:
        go_on.set()
        handle.result()
    with Store(url) as store:
        report = stored_report(store.load_run("r"), url, store)
    assert set(report.states().values()) == {NodeState.COMPLETED}


def test_outputs_are_bound_by_their_names(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    with Registry():

        @action(outputs=["low", "high"])
        def bounds() -> dict[str, int]:
            return {"low": 1, "high": 9}

        @action
        def spread(low: int, high: int, scale: int = 1) -> int:
            return (high - low) * scale

        with DAG("bounds") as dag:
            found = bounds()
            spread(found["low"], found["high"], scale=dag.input("scale", int, default=2))
        dag.run(database_url=url, run_id="r")
    with Store(url) as store:
        report = stored_report(store.load_run("r"), url, store)
    bound = {each.name: (each.reference, each.value) for each in bound_inputs(report, "spread")}
    assert bound == {
        "low": ("bounds.low", 1),
        "high": ("bounds.high", 9),
        "scale": ("inputs.scale", 2),
    }
