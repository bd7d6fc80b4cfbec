"""Events that a run publishes: stored with the command, once, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry
from dagger_dsl.engine import resume
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import DaggerError, NodeExecutionError, StoreError
from dagger_dsl.model.commands import AddNode, EmitEvent, NodeSpec
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import CustomEvent
from dagger_dsl.model.messages import Message
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from dagger_dsl.store.transactions import Transaction
from tests.engine.helpers import url_of
from tests.engine.steered import Script

pytestmark = pytest.mark.row("J12")


def published(url: str) -> list[Message]:
    """Return all messages of a database, in order."""
    with Store(url) as store:
        rows = MessageRows(store.database, store._payloads)
        return [rows.message(each) for each in rows.after(0, 1_000)]


def emitting(*commands: Any, name: str = "flow", value: Any = 1) -> DAG:
    """Return a flow whose one node answers with commands."""
    dag = DAG(name, registry=Registry())

    @dag.node
    def say() -> NodeOutput:
        return NodeOutput.success(value, commands=list(commands))

    return dag


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio", "processes"])
def test_a_node_publishes_with_its_outcome(tmp_path: Path, runner: str, durability: str) -> None:
    url = url_of(tmp_path)
    dag = emitting(
        EmitEvent("first", {"n": 1}, "news", "eu"),
        EmitEvent("between"),
        EmitEvent("third", (2,), "news.late"),
    )
    if runner == "processes":
        pytest.importorskip("cloudpickle")
    dag.run(runner=runner, database_url=url, run_id="r", durability=durability)
    found = published(url)
    assert [(m.channel, m.key, m.payload, m.id) for m in found] == [
        ("news", "eu", {"n": 1}, "run:r:1"),
        ("news.late", "", (2,), "run:r:3"),
    ]
    assert {m.source for m in found} == {"run:flow"}
    assert all(m.timestamp > 0 for m in found)


def test_hooks_publish_and_are_shown_the_event_all_the_same(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    script = Script({"NodeCompleted say": [EmitEvent("done", "said", "ends")]})
    emitting().run(database_url=url, run_id="r", hooks=[script])
    assert [(m.channel, m.payload, m.id) for m in published(url)] == [("ends", "said", "run:r:1")]
    assert [each.payload for each in script.events if isinstance(each, CustomEvent)] == ["said"]


def test_a_handle_and_another_process_publish(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    dag = DAG("flow", registry=Registry())

    @dag.node
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("go on?")

    @dag.node
    def after(ask: Any) -> Any:
        return ask

    dag.connect("ask", "after")
    handle = dag.start(database_url=url, run_id="r")
    handle.result()
    with Store(url) as store:
        control = RunControl(store, "r")
        assert not control.emit("note", 1, channel="notes", key="k"), "it stands until a resume"
        assert not control.answer("ask", "yes")
    assert published(url) == []
    report = resume("r", dag.registry, RunOptions(database_url=url))
    assert report.value("after") == "yes"
    (message,) = published(url)
    assert (message.channel, message.key, message.payload) == ("notes", "k", 1)


def test_a_commit_that_is_rolled_back_publishes_nothing_and_a_resume_does_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(tmp_path)
    dag = emitting(EmitEvent("e", "text", "news"))
    append = MessageRows.append

    def append_and_fail(self: MessageRows, tx: Transaction, outgoing: Sequence[Any]) -> Any:
        append(self, tx, outgoing)
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MessageRows, "append", append_and_fail)
        with pytest.raises(StoreError, match="the disk is full"):
            dag.run(database_url=url, run_id="r")
    assert published(url) == []
    resume("r", dag.registry, RunOptions(database_url=url)).raise_for_failure()
    assert [(m.id, m.payload) for m in published(url)] == [("run:r:1", "text")]


def test_what_is_recorded_is_not_published_again_by_a_resume(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    dag = emitting(EmitEvent("e", 1, "news"))
    fails = [True]

    @dag.node
    def after(say: int) -> NodeOutput:
        if fails:
            raise ValueError("not today")
        return NodeOutput.success(say, commands=[EmitEvent("e", 2, "news")])

    dag.connect("say", "after")
    with pytest.raises(NodeExecutionError):
        dag.run(database_url=url, run_id="r")
    assert [m.payload for m in published(url)] == [1]
    fails.clear()
    resume("r", dag.registry, RunOptions(database_url=url)).raise_for_failure()
    resume("r", dag.registry, RunOptions(database_url=url)).raise_for_failure()
    assert [(m.id, m.payload) for m in published(url)] == [("run:r:1", 1), ("run:r:2", 2)]


def test_an_attempt_that_failed_has_published_nothing(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    dag = DAG("flow", registry=Registry())
    calls: list[int] = []

    @dag.node(max_retries=2)
    def flaky() -> NodeOutput:
        calls.append(1)
        answer = NodeOutput.success(1, commands=[EmitEvent("e", len(calls), "news")])
        if len(calls) < 2:
            raise ValueError("too soon")
        return answer

    dag.run(database_url=url, config={"retry_strategy": "immediate"})
    assert [m.payload for m in published(url)] == [2]


@pytest.mark.parametrize("url", [None, "sqlite::memory:"])
def test_a_run_whose_messages_nobody_could_find_refuses(url: str | None) -> None:
    dag = emitting(EmitEvent("e", 1, "news"))
    options: dict[str, Any] = {} if url is None else {"database_url": url}
    with pytest.raises(NodeExecutionError, match=r"'e' is to be published on channel 'news'.*data"):
        dag.run(**options)
    assert emitting(EmitEvent("e", 1)).run(**options) == 1, "an event alone needs no database"


@pytest.mark.parametrize(
    ("payload", "says"),
    [(object(), "has no stored form"), (b"x" * (16 * 1024 * 1024), "16,777,216 are allowed")],
)
def test_a_payload_that_cannot_be_stored_fails_the_node(
    tmp_path: Path, payload: Any, says: str
) -> None:
    url = url_of(tmp_path)
    with pytest.raises(DaggerError, match=says):
        emitting(EmitEvent("e", payload, "news")).run(database_url=url)
    assert published(url) == []


def test_a_refused_command_leaves_those_before_it_as_they_are_recorded(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    dag = emitting(
        EmitEvent("e", 1, "news"), AddNode(NodeSpec("nobody")), EmitEvent("e", 2, "news")
    )
    with pytest.raises(NodeExecutionError, match="nobody"):
        dag.run(database_url=url, run_id="r")
    with Store(url) as store:
        noted = store.query("SELECT body FROM run_log WHERE body LIKE '%\"emit\"%'")
    assert len(noted) == 1, "an applied command stays applied, and its message with it"
    assert [m.payload for m in published(url)] == [1]


def test_a_large_payload_goes_to_a_file(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    emitting(EmitEvent("e", "x" * 100_000, "news")).run(database_url=url)
    assert published(url)[0].payload == "x" * 100_000
    with Store(url) as store:
        (row,) = store.query("SELECT artifact_id FROM messages")
    assert row["artifact_id"]


def test_a_long_run_id_still_gives_an_id_that_a_message_can_have(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    emitting(EmitEvent("e", 1, "news")).run(database_url=url, run_id="r" * 200)
    (message,) = published(url)
    assert message.id.startswith("run:")
    assert len(message.id) <= 200


def test_a_message_of_that_id_is_left_alone_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = url_of(tmp_path)
    with Store(url) as store:
        rows = MessageRows(store.database, store._payloads)
        mine = rows.encoded(Message("else", "theirs", id="run:r:1"), named=True)
        rows.commit("w", [mine])
    with caplog.at_level(logging.ERROR, "dagger_dsl.engine"):
        assert emitting(EmitEvent("e", "ours", "news")).run(database_url=url, run_id="r") == 1
    assert [m.payload for m in published(url)] == ["theirs"]
    assert "'run:r:1' was published on channel 'else' with another content" in caplog.text
