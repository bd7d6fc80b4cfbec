"""Going on with recorded runs, ruling by ruling, on a real SQLite file.

A death is played by copying the files of the database while a body runs: what a resume of the copy
finds is what a killed process would have left.
"""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl import DAG, engine
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    IdempotencyConflict,
    MissingInputError,
    NodeCrashed,
    NotExecuted,
    RunExists,
    RunNotFound,
    RunOwned,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import Branch, NodeCtx
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.values import Secret
from dagger_dsl.registry import Registry
from dagger_dsl.store.ownership import this_owner
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, RUNNERS, Answers, Workflow, boom, states, url_of


@attrs.frozen
class Order:
    """A user's own value."""

    number: int
    total: decimal.Decimal


class Deaths:
    """Keeps what is on the disk at chosen moments.

    Args:
        folder: A test's own folder.
    """

    def __init__(self, folder: Path) -> None:
        self.here = folder / "alive"
        self.here.mkdir()
        self.url = url_of(self.here)
        self.copies: list[str] = []

    def die(self) -> None:
        """Copy the database as it is now."""
        copy = self.here.parent / f"dead{len(self.copies)}"
        shutil.copytree(self.here, copy)
        self.copies.append(url_of(copy))

    def dying(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return *body* with a death in front of it."""

        def call() -> Any:
            self.die()
            return body()

        return call


@pytest.fixture
def deaths(tmp_path: Path) -> Deaths:
    """A place to die."""
    return Deaths(tmp_path)


# --- what stays and what runs again ---------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_completed_nodes_are_not_called_again_and_their_values_are_equal(
    runner: str, tmp_path: Path
) -> None:
    value = {
        "tuple": (1, 2.5, None),
        "set": {1, 2},
        "when": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
        "id": uuid.UUID(int=7),
        "bytes": b"\x00\xff",
        "big": 2**70,
        "nan": float("inf"),
        "text": "x" * 40_000,
    }
    flow = Workflow()
    seen: list[Any] = []
    broken = [True]

    def order() -> Order:
        flow.calls.append("order")
        return Order(1, decimal.Decimal("9.90"))

    def last(first: Any, second: Order) -> str:
        seen.append((first, second))
        if broken:
            raise ConnectionError
        return "done"

    flow.note("first", value).add("order", order)
    flow.add("last", last, take={"first": "first", "second": "order"})
    url = url_of(tmp_path)
    assert flow.run(runner, database_url=url, run_id="r").status == "failed"
    broken.clear()
    report = flow.resume("r", url, runner=runner)
    assert report.outputs == {"last": "done"}
    assert sorted(flow.calls) == ["first", "order"]
    assert seen[0] == seen[1]
    assert isinstance(seen[1][0]["tuple"], tuple)
    assert type(seen[1][1]) is Order
    assert report.value("first") == value
    assert report.node_reports["first"].restored
    assert not report.node_reports["last"].restored


def test_failed_cancelled_and_skipped_nodes_run_again_with_rising_attempts(tmp_path: Path) -> None:
    flow = Workflow().note("good")
    flow.note(
        "bad", Answers([OSError(), OSError(), OSError(), 5]), try_count=2, retry=IMMEDIATE,
        after=["good"],
    )  # fmt: skip
    flow.note("cancelled", after=["good"]).note("skipped", after=["bad"])
    flow.nodes[2] = flow.nodes[2].replace(dependencies=["good", "late"])
    flow.note("late", after=["good"])
    flow.nodes[-1] = flow.nodes[-1].replace(dependencies=["good"])
    url = url_of(tmp_path)
    first = flow.run(database_url=url, run_id="r")
    assert states(first) == {
        "good": "completed",
        "bad": "failed",
        "cancelled": "cancelled",
        "skipped": "skipped",
        "late": "completed",
    }
    assert first.node_reports["bad"].attempts == 2
    flow.calls.clear()
    report = flow.resume("r", url)
    assert report.success
    assert sorted(flow.calls) == ["bad", "bad", "cancelled", "skipped"]
    assert report.node_reports["bad"].attempts == 4
    assert report.node_reports["cancelled"].attempts == 1
    with Store(url) as store:
        rows = [(node.node_id, node.attempt, node.state) for node in store.load_run("r").attempts]
    assert [row for row in rows if row[0] == "bad"] == [
        ("bad", 1, "failed"),
        ("bad", 2, "failed"),
        ("bad", 3, "failed"),
        ("bad", 4, "completed"),
    ]
    assert not [row for row in rows if row[2] in ("cancelled", "skipped")]


def test_the_retry_budget_is_fresh_and_the_context_counts_on(tmp_path: Path) -> None:
    flow = Workflow()
    seen: list[int] = []

    def bad(ctx: NodeCtx) -> None:
        seen.append(ctx.attempt)
        raise ConnectionError

    flow.add("bad", bad, try_count=3, retry=IMMEDIATE)
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    assert flow.resume("r", url).node_reports["bad"].attempts == 6
    assert seen == [1, 2, 3, 4, 5, 6]


def test_recovered_and_branch_skipped_nodes_stay(tmp_path: Path) -> None:
    flow = Workflow()
    calls: list[str] = []

    def handler(error: Exception) -> str:
        calls.append("handler")
        return "saved"

    flow.handler("handler", handler)
    flow.add("bad", boom, failure="handler")
    flow.note("route", Branch("eu", 7), after=["bad"])
    flow.note("eu", Answers([OSError(), 1])).when("route", "eu", "eu")
    flow.note("us").when("route", "us", "us").note("below_us", after=["us"])
    flow.add("uses", lambda x, y: (x, y), take={"x": "bad", "y": "route"}, after=["eu"])
    url = url_of(tmp_path)
    assert flow.run(database_url=url, run_id="r").status == "failed"
    report = flow.resume("r", url)
    assert report.success
    assert calls == ["handler"]
    assert flow.calls == ["route", "eu", "eu"]
    assert report.value("uses") == ("saved", 7)
    assert report.node_reports["bad"].recovered
    found = states(report)
    assert (found["us"], found["below_us"]) == ("skipped", "skipped")
    assert report.node_reports["us"].reason == "branch not taken at 'route'"


def test_what_ran_because_of_a_failure_stays_when_the_failed_node_is_tried_again(
    tmp_path: Path,
) -> None:
    flow = Workflow().note("bad", Answers([OSError(), 1])).note("next", after=["bad"])
    flow.note("alarm", after=["bad"], trigger="failed").note("clean", after=["bad"], trigger="done")
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    report = flow.resume("r", url)
    assert report.success
    assert flow.calls == ["bad", "alarm", "clean", "bad", "next"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_paused_run_tries_the_failed_node_again_and_goes_on(runner: str, tmp_path: Path) -> None:
    flow = Workflow().note("a")
    flow.note("bad", Answers([OSError(), 1]), after=["a"], on_failure="pause")
    flow.note("z", after=["bad"])
    url = url_of(tmp_path)
    assert flow.run(runner, database_url=url, run_id="r").status == "paused"
    assert flow.resume("r", url, runner=runner).success
    assert flow.calls == ["a", "bad", "bad", "z"]


def test_a_cancelled_wait_for_a_retry_is_resumed_with_the_next_attempt(tmp_path: Path) -> None:
    from dagger_dsl.engine.control import CancelToken

    token = CancelToken()
    flow = Workflow().note("flaky", Answers([OSError(), 7]), try_count=2)

    def watch(_ctx: Any, event: Any) -> None:
        if type(event).__name__ == "NodeRetrying":
            token.cancel("enough")

    url = url_of(tmp_path)
    report = flow.run(database_url=url, run_id="r", hooks=[watch], cancel=token)
    assert states(report) == {"flaky": "cancelled"}
    assert report.node_reports["flaky"].attempts == 1
    report = flow.resume("r", url)
    assert report.value("flaky") == 7
    assert report.node_reports["flaky"].attempts == 2


def test_disabled_nodes_stay_out_of_a_resumed_run_too(tmp_path: Path) -> None:
    flow = Workflow().note("a").note("off", after=["a"], enabled=False)
    flow.note("bad", Answers([OSError(), 1]), after=["a"], on_failure="continue")
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    report = flow.resume("r", url)
    assert flow.calls == ["a", "bad", "bad"]
    assert states(report)["off"] == "skipped"


def test_a_completed_run_is_returned_as_it_is(tmp_path: Path) -> None:
    flow = Workflow().note("a", (1, 2)).note("off", after=["a"], enabled=False)
    flow.note("flaky", Answers([OSError(), 3]), try_count=2, retry=IMMEDIATE)
    url = url_of(tmp_path)
    first = flow.run(database_url=url, run_id="r")
    calls = len(flow.calls)
    again = flow.resume("r", url)
    assert len(flow.calls) == calls
    assert again.success
    assert again.run_id == "r"
    assert again.outputs == first.outputs
    assert states(again) == states(first)
    for node_id in states(first):
        one, two = first.node_reports[node_id], again.node_reports[node_id]
        assert (one.attempts, one.reason, one.state) == (two.attempts, two.reason, two.state)
        if one.started_at is not None:
            assert two.started_at is not None
            assert abs(one.started_at - two.started_at) < dt.timedelta(milliseconds=1)
            assert two.duration == pytest.approx(one.duration, abs=1e-5)
    assert again.inputs == first.inputs
    with Store(url) as store:
        assert store.load_run("r").epoch == 1  # nobody claimed it


def test_a_failed_run_that_is_only_looked_at_says_what_the_first_report_said(
    tmp_path: Path,
) -> None:
    flow = (
        Workflow()
        .note("bad", OSError("x"), try_count=3, retry=IMMEDIATE)
        .note("never", after=["bad"])
    )
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "k"}
    first = flow.run(**options)
    again = flow.run(**options)
    assert again.status == "failed"
    assert states(again) == states(first)
    assert again.node_reports["bad"].attempts == first.node_reports["bad"].attempts == 3
    assert again.node_reports["bad"].error == first.node_reports["bad"].error
    assert again.node_reports["never"].attempts == 0


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_after_a_death_only_what_was_running_is_called_again(runner: str, deaths: Deaths) -> None:
    flow = Workflow()
    flow.note("a", 1).note("b", 2, after=["a"])

    def dying() -> int:
        flow.calls.append("dying")
        deaths.die()
        return 3

    flow.add("dying", dying, after=["b"]).note("z", after=["dying"])
    assert flow.run(runner, database_url=deaths.url, run_id="r", max_workers=1).success
    flow.calls.clear()
    report = flow.resume("r", deaths.copies[0], runner=runner)
    assert report.success
    assert flow.calls == ["dying", "z"]
    assert report.outputs == {"z": None}


@pytest.mark.parametrize(("durability", "again"), [("sync", 1), ("exit", 3)])
def test_a_level_says_what_a_death_may_take(durability: str, again: int, deaths: Deaths) -> None:
    flow = Workflow().note("a").note("b", after=["a"])

    def dying() -> None:
        flow.calls.append("dying")
        deaths.die()

    flow.add("dying", dying, after=["b"])
    flow.run(database_url=deaths.url, run_id="r", durability=durability)
    flow.calls.clear()
    assert flow.resume("r", deaths.copies[0]).success
    assert len(flow.calls) == again


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_what_a_death_leaves_is_closed_under_causes(durability: str, deaths: Deaths) -> None:
    flow = Workflow()
    for k in range(40):
        flow.add(f"n{k}", deaths.dying(lambda: 0), after=[f"n{k - 1}"] if k else ())
    flow.run(database_url=deaths.url, run_id="r", durability=durability)
    for copy in deaths.copies[::8]:
        with Store(copy) as store:
            done = {name for name, _ in store.load_run("r").nodes}
        assert done == {f"n{k}" for k in range(len(done))}


def test_a_node_that_kills_its_process_is_not_started_for_ever(deaths: Deaths) -> None:
    flow = Workflow().note("a", 1)
    flow.add("killer", deaths.dying(lambda: 0), after=["a"]).note("free", after=["a"])
    flow.note("sad", after=["killer"], trigger="failed")
    flow.run(database_url=deaths.url, run_id="r")
    url = deaths.copies[0]
    for death in range(1, 3):
        deaths.here = Path(url.removeprefix("sqlite:")).parent
        assert flow.resume("r", url).success  # it does not die here, but its copy did
        url = deaths.copies[death]
    flow.calls.clear()
    report = flow.resume("r", url)
    error = report.node_reports["killer"].exception
    assert isinstance(error, NodeCrashed)
    assert error.crashes == 3
    assert report.status == "failed"
    assert flow.calls == ["sad"]
    assert len(deaths.copies) == 3


def test_an_interrupted_resume_loses_nothing(deaths: Deaths) -> None:
    flow = Workflow().note("a").note("bad", Answers([OSError(), 1]), after=["a"])
    flow.add("dying", deaths.dying(lambda: 5), after=["bad"])
    flow.run(database_url=deaths.url, run_id="r")
    assert flow.resume("r", deaths.url).success
    flow.calls.clear()
    report = flow.resume("r", deaths.copies[0])
    assert report.success
    assert flow.calls == []
    assert report.node_reports["bad"].attempts == 2


def test_keys_for_other_systems_stay_the_same(tmp_path: Path) -> None:
    seen: list[str] = []
    flow = Workflow()

    def bad(ctx: NodeCtx) -> None:
        seen.append(ctx.idempotency_key)
        raise OSError

    flow.add("bad", bad, try_count=2, retry=IMMEDIATE)
    flow.run(database_url=url_of(tmp_path), run_id="r")
    flow.resume("r", url_of(tmp_path))
    assert seen == ["r/bad/default"] * 4


# --- results that are not stored ------------------------------------------------------------------


class Handle:
    """A value without a stored form, such as an open connection."""


def unstored(flow: Workflow, node_id: str, answer: Any, take: str | None = None) -> None:
    """Add a node whose result is not recorded."""

    def body(given: Any = None) -> Any:
        flow.calls.append(node_id)
        return answer

    flow.registry.register(body, f"act_{node_id}", store=False)
    inputs = [] if take is None else [Input("given", f"{take}.result")]
    flow.nodes.append(Node(node_id, f"act_{node_id}", inputs))


def test_a_value_that_cannot_be_stored_fails_its_node_with_the_way_out(tmp_path: Path) -> None:
    flow = Workflow().note("n", Handle())
    report = flow.run(database_url=url_of(tmp_path))
    text = str(report.node_reports["n"].exception)
    assert "'n'" in text
    assert "Handle" in text
    assert "store=False" in text
    assert flow.run().success  # in memory nothing is encoded


def test_a_producer_is_called_again_when_a_pending_dependent_needs_it(tmp_path: Path) -> None:
    flow = Workflow()
    unstored(flow, "connect", Handle())
    unstored(flow, "session", Handle(), take="connect")
    unstored(flow, "unused", Handle())
    broken = [True]

    def query(session: Handle) -> str:
        assert type(session) is Handle
        if broken:
            raise OSError
        return "rows"

    flow.add("query", query, take={"session": "session"})
    url = url_of(tmp_path)
    assert flow.run(database_url=url, run_id="r").status == "failed"
    flow.calls.clear()
    broken.clear()
    report = flow.resume("r", url)
    assert report.value("query") == "rows"
    assert sorted(flow.calls) == ["connect", "session"]
    assert report.node_reports["session"].attempts == 2
    assert states(report)["unused"] == "completed"


def test_a_producer_is_left_alone_when_nobody_who_may_run_needs_it(tmp_path: Path) -> None:
    flow = Workflow()
    unstored(flow, "connect", Handle())
    flow.note("route", "no", after=["connect"])
    flow.add("query", lambda session: 1, take={"session": "connect"}).when("route", "yes", "query")
    flow.note("bad", Answers([OSError(), 1]), on_failure="continue")
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    flow.calls.clear()
    assert flow.resume("r", url).success
    assert flow.calls == ["bad"]


# --- secrets --------------------------------------------------------------------------------------


def test_a_secret_is_never_stored_and_given_again(tmp_path: Path) -> None:
    broken = [True]

    def login(password: Secret, user: str) -> str:
        if broken:
            raise OSError
        return f"{user}:{len(password.reveal())}"

    flow = Workflow().add("login", login, take={"password": "inputs.password", "user": "inputs.u"})
    url = url_of(tmp_path)
    given = {"password": Secret("hunter2hunter2"), "u": "ann"}
    report = flow.run(database_url=url, run_id="r", inputs=given)
    assert report.status == "failed"
    for file in tmp_path.iterdir():
        assert b"hunter2" not in file.read_bytes()
    broken.clear()
    with pytest.raises(MissingInputError, match="'password'"):
        flow.resume("r", url)
    report = flow.resume("r", url, inputs={"password": Secret("hunter2hunter2")})
    assert report.value("login") == "ann:14"
    assert "hunter2" not in repr(report)


# --- what a resume needs --------------------------------------------------------------------------


def test_a_resume_uses_the_stored_graph_and_inputs(tmp_path: Path) -> None:
    registry = Registry()
    broken = [True]

    def act(x: int) -> int:
        if broken:
            raise OSError
        return x + 1

    registry.register(act)
    url = url_of(tmp_path)
    old = Graph("flow", [Node("n", "act", [Input("x", "inputs.x")])])
    options = RunOptions(database_url=url, run_id="r")
    engine.run(old, registry, {"x": 41}, options)
    broken.clear()
    report = engine.resume("r", registry, RunOptions(database_url=url))
    assert report.outputs == {"n": 42}
    assert report.graph == old
    assert report.inputs == {"x": 41}


def test_an_action_that_is_missing_is_named_and_the_run_stays_resumable(tmp_path: Path) -> None:
    flow = Workflow().note("bad", Answers([OSError(), 1]))
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    with pytest.raises(ActionNotFound, match="bad"):
        engine.resume("r", Registry(), RunOptions(database_url=url))
    assert flow.resume("r", url).success


def test_an_unknown_run_and_a_missing_database_are_said(tmp_path: Path) -> None:
    flow = Workflow().note("a")
    flow.run(database_url=url_of(tmp_path), run_id="r")
    with pytest.raises(RunNotFound, match="'nope'"):
        flow.resume("nope", url_of(tmp_path))
    with pytest.raises(ConfigurationError, match="database_url"):
        engine.resume("r", flow.registry, RunOptions())


def test_a_changed_action_version_warns_or_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    broken = [True]

    def act() -> int:
        if broken:
            raise OSError
        return 1

    registry.register(act, version="1")
    graph = Graph("flow", [Node("n", "act")])
    url = url_of(tmp_path)
    engine.run(graph, registry, None, RunOptions(database_url=url, run_id="r"))
    broken.clear()
    registry.register(act, version="2", replace=True)
    with pytest.raises(ConfigurationError, match=r"'act' \(1 -> 2\)"):
        engine.resume("r", registry, RunOptions(database_url=url, on_change="fail"))
    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        assert engine.resume("r", registry, RunOptions(database_url=url)).success
    assert "'act' (1 -> 2)" in caplog.text


def test_a_run_is_not_resumed_while_its_owner_works_on_it(tmp_path: Path) -> None:
    flow = Workflow()
    url = url_of(tmp_path)
    seen: list[BaseException] = []

    def body() -> None:
        try:
            flow.resume("r", url)
        except RunOwned as error:
            seen.append(error)

    flow.add("n", body)
    assert flow.run(database_url=url, run_id="r").success
    assert "is being executed by" in str(seen[0])


def test_an_option_of_the_resume_beats_the_recorded_configuration(tmp_path: Path) -> None:
    flow = Workflow().note("bad", OSError())
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r", timeout=50)
    with Store(url) as store:
        config = store.load_run("r").config
    assert config is not None
    assert config.timeout_seconds == 50
    report = flow.resume(
        "r", url, timeout=70, config={"max_attempts": 2, "retry_strategy": IMMEDIATE}
    )
    assert report.node_reports["bad"].attempts == 3
    assert report._limit == 70


# --- starting -------------------------------------------------------------------------------------


def test_a_taken_run_id_is_refused(tmp_path: Path) -> None:
    flow = Workflow().note("a")
    flow.run(database_url=url_of(tmp_path), run_id="r")
    with pytest.raises(RunExists, match="'r'"):
        flow.run(database_url=url_of(tmp_path), run_id="r")
    assert flow.calls == ["a"]


@pytest.mark.parametrize("answer", [1, OSError("x")])
def test_one_idempotency_key_is_one_run_however_it_ended(answer: Any, tmp_path: Path) -> None:
    flow = Workflow().add("n", lambda x: x, take={"x": "inputs.x"}).note("m", answer)
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "k"}
    first = flow.run(inputs={"x": 1}, **options)
    second = flow.run(inputs={"x": 1}, **options)
    assert second.run_id == first.run_id
    assert second.status == first.status
    assert flow.calls == ["m"]
    with pytest.raises(IdempotencyConflict, match="'k'"):
        flow.run(inputs={"x": 2}, **options)


def test_a_key_whose_run_died_goes_on_with_it(deaths: Deaths) -> None:
    flow = Workflow().note("a").add("dying", deaths.dying(lambda: 1), after=["a"])
    options: dict[str, Any] = {"idempotency_key": "k"}
    first = flow.run(database_url=deaths.url, **options)
    report = flow.run(database_url=deaths.copies[0], **options)
    assert report.success
    assert report.run_id == first.run_id
    assert flow.calls == ["a"]


def test_a_key_whose_run_is_paused_returns_it_as_it_stands(tmp_path: Path) -> None:
    flow = Workflow().note("bad", Answers([OSError(), 1]), on_failure="pause")
    options: dict[str, Any] = {"database_url": url_of(tmp_path), "idempotency_key": "k"}
    first = flow.run(**options)
    assert first.status == "paused"
    again = flow.run(**options)
    assert (again.run_id, again.status) == (first.run_id, "paused"), "only resume goes on"


def test_a_configuration_without_stored_form_does_not_keep_a_run_from_being_recorded(
    tmp_path: Path,
) -> None:
    import tenacity

    from dagger_dsl.retry import as_policy

    policy = as_policy(tenacity.wait_none())
    flow = Workflow().note("flaky", Answers([OSError(), 1]))
    config = {"max_attempts": 2, "retry_strategy": policy}
    report = flow.run(database_url=url_of(tmp_path), run_id="r", config=config)
    assert report.success
    with Store(url_of(tmp_path)) as store:
        stored = store.load_run("r").config
    assert stored is not None
    assert stored.max_attempts == 2
    assert DagConfig().retry_strategy == stored.retry_strategy


@pytest.mark.parametrize("how", ["paused", "died"])
def test_the_limit_of_a_run_counts_the_time_it_was_owned(how: str, tmp_path: Path) -> None:
    """Not the time it waited to be resumed; a run that came to an end begins again."""
    flow = Workflow().add("a", lambda: time.sleep(0.3))
    flow.note("bad", Answers([ValueError("x"), None]), after=["a"], on_failure="pause")
    flow.add("slow", lambda: time.sleep(30), after=["bad"])
    url = url_of(tmp_path)
    assert flow.run(database_url=url, run_id="r", timeout=60).status == "paused"
    with Store(url) as store:
        assert 0.3 <= store.load_run("r").owned_seconds < 20
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE flow_runs SET owned_seconds = 59.5")
            if how == "died":
                update = "UPDATE flow_runs SET owner = ?, status = 'running'"
                connection.exec_driver_sql(update, (this_owner().to_text(),))
    began = time.perf_counter()
    report = flow.resume("r", url)
    assert report.status == "timed_out"
    assert time.perf_counter() - began < 20  # half a second was left
    with Store(url) as store:
        assert 60.0 <= store.load_run("r").owned_seconds < 80
        run, journal = store.claim_run("r")
        assert run.owned_seconds == 0
        journal.close()


def test_a_result_that_an_earlier_process_did_not_store_is_said_to_be_gone(tmp_path: Path) -> None:
    dag, url = DAG("lost", registry=Registry()), f"sqlite:///{tmp_path / 'runs.db'}"

    @dag.node(store=False)
    def source() -> int:
        return 5

    @dag.node
    def last(source: int) -> int:
        return source + 1

    dag.connect("source", "last")
    assert dag.run(database_url=url, run_id="r") == 6
    report = engine.resume("r", dag.registry, RunOptions(database_url=url))
    with pytest.raises(NotExecuted, match=r"'source'.*store=False"):
        report.value("source")
    assert report.value("source", None) is None
    assert dict(report.values) == {"last": 6}
