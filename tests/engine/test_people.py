"""Nodes that wait for people: questions, answers, time that answers, and reviews of the run."""

from __future__ import annotations

import asyncio
import enum
import pickle
import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InputValidationError,
    InvalidState,
    NodeNotFound,
    RunPaused,
)
from dagger_dsl.model.commands import AddNode, Answer, CancelBranch, NodeSpec
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import HumanInputRequested
from dagger_dsl.model.graph import Node
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.registry import define
from dagger_dsl.store.storage import Store
from tests.engine.helpers import Answers, Clocked, boom, states, url_of
from tests.engine.steered import Script, Steered, every_runner, everywhere, kept, send


def asking(
    *question: Any, name: str = "ask", after: tuple[str, ...] = (), **details: Any
) -> Steered:
    """Return a flow of a node before, one that asks, and one that gets the answer."""
    flow = Steered().note("before", 1)

    def ask(ctx: NodeCtx) -> Any:
        flow.calls.append(name)
        return ctx.wait_for_human(*(question or ("Ship it?",)), **details)

    def got(value: Any) -> Any:
        flow.calls.append("after")
        return value

    return flow.add(name, ask, after=("before", *after)).add("after", got, take={"value": name})


def executions(folder: Path) -> dict[str, int]:
    """Return how many rows of each node the database has."""
    with Store(url_of(folder)) as store:
        rows = store.query("SELECT node_id, count(*) AS n FROM node_runs GROUP BY node_id")
    return {each["node_id"]: each["n"] for each in rows}


# --- asking and answering ------------------------------------------------------------------------


@pytest.mark.row("E11", "H15")
@everywhere
def test_a_question_leaves_the_run_paused_and_no_worker_held(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = asking("Ship it?", bool).note("aside", after=["before"])
    hook = Script()
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.status == "paused"
    assert report.reason == "node 'ask' waits for a person: Ship it?"
    assert states(report) == {
        "before": "completed",
        "ask": "waiting",
        "after": "pending",
        "aside": "completed",
    }
    (event,) = hook.of(HumanInputRequested)
    assert (event.node.node_id, event.prompt) == ("ask", "Ship it?")
    assert event.schema["type"] == "boolean"
    assert hook.told[-1] == "end False"
    with pytest.raises(RunPaused, match="Ship it"):
        report.raise_for_failure()


@pytest.mark.row("E11")
@everywhere
def test_an_answer_becomes_the_result_of_the_node(runner: str, place: str, tmp_path: Path) -> None:
    flow = asking("Which one?", {"type": "integer"})
    hook = Script({"HumanInputRequested ask": Answer("ask", 7, by="ann")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert report.outputs == {"after": 7}
    assert flow.calls == ["before", "ask", "after"]
    assert hook.told.count("NodeCompleted ask") == 1


@pytest.mark.row("E11", "E10")
@every_runner
def test_nothing_before_the_question_runs_twice_over_a_resume(runner: str, tmp_path: Path) -> None:
    flow, url = asking("Ship it?", bool), url_of(tmp_path)
    flow.run(runner, **kept("file", tmp_path))
    still = flow.resume("r", url, runner=runner)
    assert still.status == "paused"
    assert still.reason == "node 'ask' waits for a person: Ship it?"
    assert states(still)["ask"] == "waiting"
    send(url, "r", [Answer("ask", True)])
    report = flow.resume("r", url, runner=runner)
    assert report.outputs == {"after": True}
    assert flow.calls == ["before", "ask", "after"]
    assert executions(tmp_path) == {"before": 1, "ask": 1, "after": 1}
    assert report.node_reports["ask"].attempts == 1


@pytest.mark.row("E11")
@everywhere
def test_an_answer_that_does_not_fit_changes_nothing(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = asking("Which one?", {"type": "integer", "minimum": 1})
    answers = [Answer("ask", "seven"), Answer("ask", 0), Answer("ask", None)]
    hook = Script({"HumanInputRequested ask": answers})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert [type(each) for each in report.hook_errors] == [InputValidationError] * 3
    assert "Which one?" in str(report.hook_errors[0])
    assert states(report)["ask"] == "waiting"
    assert flow.calls == ["before", "ask"]
    if place == "file":
        send(url_of(tmp_path), "r", [Answer("ask", 0), Answer("ask", 1), Answer("ask", 2)])
        again = flow.resume("r", url_of(tmp_path))
        assert again.outputs == {"after": 1}, "the first one that fits counts, and once"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer("nobody", 1), NodeNotFound),
        (Answer("before", 1), InvalidState),
        (Answer("after", 1), InvalidState),
        (Answer("ask", 1, key="3"), InvalidState),
    ],
)
def test_an_answer_to_nobody_s_question_is_refused(answer: Answer, error: type[Exception]) -> None:
    hook = Script({"HumanInputRequested ask": answer})
    report = asking().run(hooks=[hook])
    assert [type(each) for each in report.hook_errors] == [error]
    assert states(report)["ask"] == "waiting"


def test_a_second_answer_is_refused() -> None:
    hook = Script({"HumanInputRequested ask": [Answer("ask", 1), Answer("ask", 2)]})
    report = asking().run(hooks=[hook])
    assert report.outputs == {"after": 1}
    assert [type(each) for each in report.hook_errors] == [InvalidState]


@pytest.mark.row("E13")
@pytest.mark.parametrize(("answer", "ran"), [(True, "on_true"), (False, "on_false")])
@everywhere
def test_a_yes_or_no_chooses_the_way_on(
    runner: str, place: str, answer: bool, ran: str, tmp_path: Path
) -> None:
    flow = Steered()
    flow.add("ask", lambda ctx: ctx.wait_for_human("Go?", bool)).note("on_true").note("on_false")
    flow.when("ask", "true", "on_true").when("ask", "false", "on_false")
    if place == "memory":
        hook = Script({"HumanInputRequested ask": Answer("ask", answer)})
        report = flow.run(runner, hooks=[hook])
    else:
        flow.run(runner, **kept(place, tmp_path))
        send(url_of(tmp_path), "r", [Answer("ask", answer)])
        report = flow.resume("r", url_of(tmp_path), runner=runner)
    assert report.success
    assert flow.calls == [ran]


@every_runner
def test_async_nodes_and_answers_with_metadata_may_ask(runner: str, tmp_path: Path) -> None:
    async def ask(ctx: NodeCtx) -> Any:
        await asyncio.sleep(0)
        more = AddNode(NodeSpec("note", id="meanwhile"))
        question = ctx.wait_for_human("How many?", int)
        return NodeOutput.success(question, metadata={"cost": 3}, commands=[more])

    flow = Steered()
    flow.add("ask", ask)
    report = flow.run(runner, **kept("file", tmp_path))
    assert states(report) == {"ask": "waiting", "meanwhile": "completed"}
    send(url_of(tmp_path), "r", [Answer("ask", 4)])
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("ask") == 4


@pytest.mark.row("E11")
def test_an_answer_is_split_as_any_other_result() -> None:
    flow = Steered()
    flow.add("ask", lambda ctx: ctx.wait_for_human("Who?"), outputs=["name", "age"])
    flow.add("use", lambda name, age: f"{name} {age}", take={"name": "ask.name", "age": "ask.age"})
    hook = Script({"HumanInputRequested ask": Answer("ask", {"name": "Ann", "age": 9})})
    assert flow.run(hooks=[hook]).outputs == {"use": "Ann 9"}
    wrong = flow.run(hooks=[Script({"HumanInputRequested ask": Answer("ask", {"name": "Ann"})})])
    (refused,) = wrong.hook_errors
    assert isinstance(refused, InputValidationError)
    assert "declares the outputs ['name', 'age']" in str(refused)
    assert states(wrong)["ask"] == "waiting", "the person can say it better"


def text(ctx: NodeCtx) -> str:
    """Ask for a text, without a word about it in the question."""
    return ctx.wait_for_human("Name?")  # type: ignore[return-value]


def when(ctx: NodeCtx) -> datetime:
    """Ask for a value that JSON has no form for."""
    return ctx.wait_for_human("When?")  # type: ignore[return-value]


def both(ctx: NodeCtx) -> tuple[int, int]:
    """Ask for what JSON writes as a list."""
    return ctx.wait_for_human("Where?")  # type: ignore[return-value]


def told(ctx: NodeCtx) -> str:
    """Ask for what the annotation does not say."""
    return ctx.wait_for_human("Number?", int)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("body", "answer", "fault"),
    [
        (text, "Ann", None),
        (text, 5, "answer must be str, not int 5"),
        (when, "2026-01-01", None),
        (both, [1, 2], None),
        (both, (1, 2), None),
        (both, [1, "2"], "answer must be tuple"),
        (told, 5, None),
    ],
)
@everywhere
def test_an_answer_fits_what_the_node_says_it_returns(
    runner: str,
    place: str,
    body: Callable[[NodeCtx], Any],
    answer: Any,
    fault: str | None,
    tmp_path: Path,
) -> None:
    hook = Script({"HumanInputRequested ask": Answer("ask", answer)})
    flow = Steered().add("ask", body)
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert (report.status == "completed") is (fault is None)
    if fault is not None:
        (refused,) = report.hook_errors
        assert fault in str(refused)
        assert states(report)["ask"] == "waiting"


@everywhere
def test_a_default_that_the_node_could_not_take_fails_it_at_once(
    runner: str, place: str, tmp_path: Path
) -> None:
    def ask(ctx: NodeCtx) -> str:
        return ctx.wait_for_human("Name?", default=5, timeout=60)  # type: ignore[return-value]

    report = Steered().add("ask", ask).run(runner, **kept(place, tmp_path))
    error = report.node_reports["ask"].exception
    assert isinstance(error, InputValidationError)
    assert "answer must be str, not int 5" in str(error)


@everywhere
def test_an_output_schema_is_for_what_the_person_says(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered()
    flow.registry.register(
        define(lambda ctx: ctx.wait_for_human("?"), "ask", output_schema={"type": "integer"})
    )
    flow.nodes.append(Node("ask", "ask"))
    hook = Script({"HumanInputRequested ask": [Answer("ask", "two"), Answer("ask", 2)]})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    (refused,) = report.hook_errors
    assert isinstance(refused, InputValidationError)
    assert "'ask': result: \"two\" is not of type" in str(refused)
    assert report.outputs == {"ask": 2}


@every_runner
def test_an_answer_that_cannot_be_recorded_is_refused(runner: str, tmp_path: Path) -> None:
    hook = Script({"HumanInputRequested ask": [Answer("ask", object()), Answer("ask", 1)]})
    report = asking().run(runner, hooks=[hook], **kept("file", tmp_path))
    assert [type(each) for each in report.hook_errors] == [EncodingError]
    assert report.outputs == {"after": 1}


def test_an_answer_chooses_one_of_labelled_edges() -> None:
    flow = Steered()
    flow.add("ask", lambda ctx: ctx.wait_for_human("Which way?")).note("left")
    flow.when("ask", "left", "left")
    hook = Script({"HumanInputRequested ask": [Answer("ask", 5), Answer("ask", "left")]})
    report = flow.run(hooks=[hook])
    (refused,) = report.hook_errors
    assert "labelled edges, so its result is a bool, a text" in str(refused)
    assert flow.calls == ["left"]


@everywhere
def test_a_question_that_cannot_be_asked_fails_its_node_and_no_other(
    runner: str, place: str, tmp_path: Path
) -> None:
    def ask(ctx: NodeCtx) -> Any:
        question = ctx.wait_for_human("Which?", {"enum": [1]})
        assert isinstance(question.schema, dict)
        question.schema["enum"] = [10**30, object()]  # behind the back of every check
        return question

    flow = Steered().note("aside").add("ask", ask)
    report = flow.run(runner, config={"on_failure": "continue"}, **kept(place, tmp_path))
    if place == "file":
        assert states(report) == {"aside": "completed", "ask": "failed"}
        assert "cannot ask a person" in str(report.node_reports["ask"].exception)
        again = flow.resume("r", url_of(tmp_path), runner=runner)
        assert states(again)["aside"] == "completed"
        assert flow.calls == ["aside"]


def around() -> dict[str, Any]:
    """Return a schema that contains itself."""
    found: dict[str, Any] = {"type": "array"}
    found["items"] = found
    return found


class Plain:
    """A class that says nothing about JSON."""


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"enum": [10**30]}, r"\$.enum\[0\] is 10+, a number of more than 64 bits"),
        ({"enum": [object()]}, r"\$.enum\[0\] is <object .*, which is not JSON"),
        ({"enum": [float("nan")]}, "is nan, which JSON has no number for"),
        ({5: 5}, r"\$ has the key 5, no text"),
        ({"properties": {5: {}}}, r"\$.properties has the key 5"),
        (around(), "nested deeper than 100 levels, contains itself"),
        ({"enum": list(range(100_001))}, "more than 100,000 values"),
        ({"type": "zz"}, "the answer's schema is no JSON Schema"),
        ({"$ref": "#/nope"}, "the answer's schema is no JSON Schema"),
        ({"$ref": "https://example.com/x"}, "the answer's schema is no JSON Schema"),
        ({"pattern": "("}, "the answer's schema is no JSON Schema"),
        ({"title": "\ud800"}, "the answer's schema is no JSON Schema"),
        (object(), "or a type that has one, such as bool, not <object"),
        (Plain, "such as bool, not <class .*Plain"),
        (Plain | None, "such as bool, not .*Plain"),
        ("integer", "such as bool, not 'integer'"),
        ([int], "such as bool, not .<class 'int'>"),
    ],
)
@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_schema_that_nobody_could_read_fails_the_node_at_once(
    place: str, schema: Any, says: str, tmp_path: Path
) -> None:
    flow = Steered().add("ask", lambda ctx: ctx.wait_for_human("?", schema))
    report = flow.run(**kept(place, tmp_path))
    error = report.node_reports["ask"].exception
    assert isinstance(error, ConfigurationError)
    assert re.search(says, str(error))


class Colour(enum.Enum):
    """What a paint may be."""

    RED = "red"


@pytest.mark.parametrize(
    ("schema", "default", "fits"),
    [
        (int, 5, True),
        (int, "five", False),
        (int, None, False),
        ({"type": "integer", "minimum": 1}, 0, False),
        (Colour, "red", True),
        (Colour, Colour.RED, True),
        (Colour, "blue", False),
        (tuple[int, int], (1, 2), True),
        (tuple[int, int], [1, 2], True),
        (int | None, None, True),
        (Any, object, True),
        (None, object, True),
    ],
)
def test_a_default_fits_what_is_asked(schema: Any, default: Any, fits: bool) -> None:
    if fits:
        assert HumanRequest("?", schema, default).default is default
    else:
        with pytest.raises(ConfigurationError, match="the default answer"):
            HumanRequest("?", schema, default)


def test_a_question_keeps_a_schema_of_its_own() -> None:
    written: dict[str, Any] = {"enum": (Colour.RED, 1)}
    request = HumanRequest("?", written)
    written["enum"] = ()
    assert request.schema == {"enum": ["red", 1]}
    assert pickle.loads(pickle.dumps(request)) == request


def test_a_later_attempt_may_ask(tmp_path: Path) -> None:
    flow = Steered()
    failed: list[int] = []

    def ask(ctx: NodeCtx) -> Any:
        failed.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("busy")
        return ctx.wait_for_human("And now?")

    flow.add("ask", ask, try_count=2, retry=None)
    config = {"retry_strategy": "immediate"}
    flow.run(config=config, **kept("file", tmp_path))
    send(url_of(tmp_path), "r", [Answer("ask", "yes")])
    report = flow.resume("r", url_of(tmp_path))
    assert report.value("ask") == "yes"
    assert failed == [1, 2]
    assert report.node_reports["ask"].attempts == 2


@every_runner
def test_each_invocation_of_a_mapped_node_asks_for_itself(runner: str, tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(ctx: NodeCtx, name: str) -> Any:
        asked.append(name)
        return name if name == "b" else ctx.wait_for_human(f"Is {name} well?", bool)

    flow = Steered()
    flow.add("ask", ask, give={"name": ["a", "b", "c"]}, map_over="name")
    hook = Script({"HumanInputRequested ask[0]": Answer("ask", True, key="0")})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.status == "paused"
    send(url_of(tmp_path), "r", [Answer("ask", False, key="2")])
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("ask") == [True, "b", False]
    assert sorted(asked) == ["a", "b", "c"]


@pytest.mark.row("H8")
@every_runner
def test_a_failure_handler_may_ask_a_person(runner: str) -> None:
    flow = Steered().act("help", lambda ctx, error: ctx.wait_for_human(f"{error}: what now?"))
    flow.add("bad", boom, failure="help")
    flow.add("use", lambda value: value, take={"value": "bad"})
    hook = Script({"HumanInputRequested bad": Answer("bad", "go on")})
    report = flow.run(runner, hooks=[hook])
    assert report.outputs == {"use": "go on"}
    assert report.node_reports["bad"].recovered


# --- ends ----------------------------------------------------------------------------------------


@every_runner
def test_a_question_of_a_run_that_stops_is_not_asked_any_more(runner: str, tmp_path: Path) -> None:
    flow = asking().note("bad", Answers([OSError("no"), 1]), after=["before"])
    report = flow.run(runner, max_workers=1, **kept("file", tmp_path))
    assert states(report) == {
        "before": "completed",
        "ask": "cancelled",
        "after": "cancelled",
        "bad": "failed",
    }
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert states(again)["bad"] == "completed"
    assert states(again)["ask"] == "waiting"


@every_runner
def test_a_question_of_a_cancelled_branch_is_not_asked_any_more(
    runner: str, tmp_path: Path
) -> None:
    flow = asking()
    hook = Script(
        {"HumanInputRequested ask": [CancelBranch("ask", "nobody cares"), Answer("ask", 1)]}
    )
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.success
    assert states(report) == {"before": "completed", "ask": "cancelled", "after": "cancelled"}
    assert [type(each) for each in report.hook_errors] == [InvalidState]


def test_two_questions_are_answered_one_by_one(tmp_path: Path) -> None:
    flow, url = Steered(), url_of(tmp_path)
    for name in ("one", "two"):
        flow.add(name, lambda ctx: ctx.wait_for_human("?"))
    flow.note("both", after=["one", "two"])
    flow.run(**kept("file", tmp_path))
    send(url, "r", [Answer("two", 2)])
    half = flow.resume("r", url)
    assert states(half) == {"one": "waiting", "two": "completed", "both": "pending"}
    send(url, "r", [Answer("one", 1)])
    assert flow.resume("r", url).success
    assert flow.calls == ["both"]


@pytest.mark.parametrize(
    "details",
    [
        {"prompt": ""},
        {"prompt": "?", "timeout": -1},
        {"prompt": "?", "schema": 5},
    ],
)
def test_what_is_no_question_fails_the_node(details: dict[str, Any]) -> None:
    flow = Steered()
    flow.add("ask", lambda ctx: ctx.wait_for_human(**details))
    report = flow.run()
    assert isinstance(report.node_reports["ask"].exception, ConfigurationError)


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.row("D7", "D8")
def test_autopilot_takes_the_default_when_the_time_is_over() -> None:
    config = DagConfig(human_wait_minutes=30, human_timeout_action="autopilot")
    clocked = Clocked(asking("Ship it?", bool, True), config, hooks=[hook := Script()])
    report = clocked.run()
    assert report.outputs == {"after": True}
    assert sum(clocked.waits) == pytest.approx(1800, abs=1e-3)
    assert hook.told.count("NodeCompleted ask") == 1


@pytest.mark.row("D7", "D8")
def test_autopilot_without_a_default_waits_for_the_person() -> None:
    config = DagConfig(human_wait_minutes=30, human_timeout_action="autopilot")
    report = Clocked(asking("Ship it?", bool), config).run()
    assert report.status == "paused"
    assert states(report)["ask"] == "waiting"


@pytest.mark.row("D7", "D8")
@pytest.mark.parametrize("action", [{}, {"human_timeout_action": "pause"}])
def test_pause_leaves_the_question_open_whatever_the_time(action: dict[str, str]) -> None:
    config = DagConfig(human_wait_minutes=30, **action)
    clocked = Clocked(asking("Ship it?", bool, True), config)
    report = clocked.run()
    assert report.status == "paused", "nobody decides for a person silently"
    assert clocked.waits == []


@pytest.mark.row("D7")
def test_a_body_that_names_time_and_answer_decides_itself() -> None:
    clocked = Clocked(asking("Ship it?", default="later", timeout=90))
    assert clocked.run().outputs == {"after": "later"}
    assert sum(clocked.waits) == pytest.approx(90, abs=1e-3)
    paused = Clocked(
        asking("Ship it?", default="later", timeout=90), DagConfig(human_timeout_action="pause")
    )
    assert paused.run().status == "paused"


@pytest.mark.row("D7")
def test_the_time_of_the_body_beats_that_of_the_configuration() -> None:
    config = DagConfig(human_wait_minutes=30, human_timeout_action="autopilot")
    clocked = Clocked(asking(default=1, timeout=5), config)
    assert clocked.run().success
    assert sum(clocked.waits) == pytest.approx(5, abs=1e-3)


@pytest.mark.row("D7")
def test_a_person_who_is_faster_than_the_time_counts() -> None:
    hook = Script({"HumanInputRequested ask": Answer("ask", "mine")})
    clocked = Clocked(asking(default="later", timeout=90), hooks=[hook])
    assert clocked.run().outputs == {"after": "mine"}
    assert sum(clocked.waits) < 1


@pytest.mark.slow
@pytest.mark.row("D7", "D8")
@every_runner
def test_time_goes_on_while_no_process_does(runner: str, tmp_path: Path) -> None:
    """What died while it waited takes the default as soon as it goes on."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()

    def die(_ctx: Any, _event: Any) -> None:
        shutil.copytree(alive, dead)

    flow = asking(default="later", timeout=3.0)
    flow.run(runner, hooks=[Script({"HumanInputRequested ask": die})], **kept("file", alive))
    flow.calls.clear()
    began = time.monotonic()
    report = flow.resume("r", url_of(dead), runner=runner)
    assert report.outputs == {"after": "later"}
    assert time.monotonic() - began < 2.8
    assert flow.calls == ["after"]


@pytest.mark.row("D3", "D7")
@pytest.mark.row("E11")
@every_runner
def test_who_waits_for_the_time_to_be_over_can_be_answered_from_elsewhere(
    runner: str, tmp_path: Path
) -> None:
    flow = asking("Ship it?", bool, default=False, timeout=60)
    options = RunOptions(runner=runner, database_url=url_of(tmp_path), run_id="r")
    handle = engine.start(flow.graph(), flow.registry, {}, options)
    try:
        deadline = time.monotonic() + 20
        with Store(url_of(tmp_path)) as store:
            control = RunControl(store, "r")
            while not control.questions():
                assert time.monotonic() < deadline, "the question is not on record"
                time.sleep(0.01)
            control.answer("ask", True, by="somebody")
    finally:
        if not handle.wait(20):
            handle.cancel()
    assert handle.result().value("after") is True


def test_the_limit_of_a_run_does_not_count_the_waiting_for_people() -> None:
    config = DagConfig(timeout_seconds=10)
    clocked = Clocked(asking(default="later", timeout=3600), config)
    report = clocked.run()
    assert report.status == "completed"
    assert report.outputs == {"after": "later"}


@pytest.mark.parametrize("how", ["asks", "fails"])
def test_a_question_or_a_failure_is_on_record_before_the_next_call_begins(
    how: str, tmp_path: Path
) -> None:
    """With no time to wait for others, as an answer is."""
    found: list[dict[str, str]] = []

    def first(ctx: NodeCtx) -> Any:
        if how == "fails":
            raise ValueError("no")
        return ctx.wait_for_human("Ship it?")

    def second() -> None:
        with Store(url_of(tmp_path)) as store:
            rows = store.query("SELECT node_id, state FROM node_runs")
        found.append({each["node_id"]: each["state"] for each in rows})

    flow = Steered().add("first", first, on_failure="continue").add("second", second)
    flow.run("sequential", **kept("file", tmp_path), config={"flush_interval": 0})
    assert found == [{"first": "waiting" if how == "asks" else "failed"}]


@every_runner
@pytest.mark.parametrize("limited", [False, True])
def test_the_record_of_what_a_limit_has_used_up_leaves_out_the_waiting(
    runner: str, limited: bool, tmp_path: Path
) -> None:
    """Whoever takes over a run that died while it waited has its time left."""
    flow = asking(default="later", timeout=1.0)
    config = {"timeout_seconds": 10} if limited else {}
    options = RunOptions(runner=runner, run_id="r", config=config)
    with Store(url_of(tmp_path), lease=0.15) as store:
        report = engine.run(flow.graph(), flow.registry, options=options, store=store)
        assert report.outputs == {"after": "later"}
        assert report.duration > 1.0
        assert 0.0 < store.load_run("r").owned_seconds < 0.9


# --- reviews -------------------------------------------------------------------------------------


@pytest.mark.row("D11")
@every_runner
def test_a_run_is_reviewed_after_n_and_2n_completions(runner: str, tmp_path: Path) -> None:
    flow, url = Steered().note("n0"), url_of(tmp_path)
    for k in range(1, 5):
        flow.note(f"n{k}", after=[f"n{k - 1}"])
    config = {"review_frequency": 2}
    first = flow.run(runner, config=config, **kept("file", tmp_path))
    assert (first.status, first.reason) == ("paused", "review after 2 completed nodes")
    assert flow.calls == ["n0", "n1"]
    second = flow.resume("r", url, runner=runner)
    assert (second.status, second.reason) == ("paused", "review after 4 completed nodes")
    assert flow.calls == ["n0", "n1", "n2", "n3"]
    last = flow.resume("r", url, runner=runner)
    assert last.success
    assert flow.calls == [f"n{k}" for k in range(5)]


@pytest.mark.row("D11")
@every_runner
def test_a_run_that_is_done_needs_no_review(runner: str) -> None:
    flow = Steered().note("a").note("b", after=["a"])
    report = flow.run(runner, config={"review_frequency": 2})
    assert report.success
    assert report.reason == ""


@pytest.mark.row("D11")
def test_a_review_lets_running_nodes_end() -> None:
    flow = Steered()
    for k in range(4):
        flow.add(f"n{k}", lambda: time.sleep(0.02))
    flow.note("last", after=["n0", "n1", "n2", "n3"])
    report = flow.run("threads", max_workers=4, config={"review_frequency": 2})
    assert report.status == "paused"
    assert states(report)["last"] == "pending"
    assert report.completed_nodes == 4
