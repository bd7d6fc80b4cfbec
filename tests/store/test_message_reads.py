"""What people are told of messages, while others go on with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.model.messages import Message
from dagger_dsl.store.message_reads import MessageReads
from dagger_dsl.store.message_upkeep import remove_messages
from dagger_dsl.store.messages import Delivered, MessageRows, Settlement
from dagger_dsl.store.transactions import Statement, read
from tests.store.helpers import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "messages.db") as store:
        store.init_database()
        yield store


@pytest.fixture
def rows(store: Store) -> MessageRows:
    return MessageRows(store.database, store._payloads)


@pytest.fixture
def reads(store: Store) -> MessageReads:
    return MessageReads(store.database, store._payloads)


def publish(rows: MessageRows, numbers: range, channel: str = "c", **more: Any) -> None:
    messages = [Message(channel, n, id=f"m{n}", timestamp=float(n), **more) for n in numbers]
    rows.commit("", [rows.encoded(each) for each in messages])


def test_what_was_removed_counts_no_more_behind_an_old_dead_letter(
    store: Store, rows: MessageRows, reads: MessageReads
) -> None:
    claimed = rows.claim("agent", ["c"], "w")
    assert claimed is not None
    publish(rows, range(1, 21))
    assert reads.flow().channels["c"].published == 20
    dead = Delivered(1, "dead", 1, None, "no", 1.0)
    rows.commit("w", [], [Settlement("agent", claimed.epoch, 20, [dead])])
    assert remove_messages(store.database, 1e9, len) == 18
    assert reads.flow().channels["c"].published == 2
    publish(rows, range(21, 24))
    assert reads.flow().channels["c"].published == 5
    assert reads.flow().channels["c"].last_at == 23.0


def test_a_look_reads_nothing_of_channels_that_an_agent_is_not_given(
    store: Store, rows: MessageRows, reads: MessageReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.claim("agent", ["c", "d.*"], "w")
    publish(rows, range(1, 300), "other")
    publish(rows, range(300, 310))
    publish(rows, range(310, 312), source="agent")
    publish(rows, range(312, 315), "d.e")
    assert reads.flow().agents["agent"].waiting == 13
    plans: list[str] = []

    def explain(database: Any, statement: Statement, values: Any) -> Any:
        with database.reading() as connection:
            found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.sql}", tuple(values))
            plans.extend(str(row[-1]) for row in found if "messages" in str(row[-1]))
        return read(database, statement, values)

    monkeypatch.setattr("dagger_dsl.store.message_reads.read", explain)
    assert reads.flow().agents["agent"].waiting == 13
    on_channel = "ix_messages_channel (channel=? AND message_id>?)"
    assert sum(on_channel in each for each in plans) == 2, plans
    # That so many are there is counted by the pages of an index, of which no row is read.
    assert all("SEARCH" in each or "COVERING" in each for each in plans), plans


def test_an_agent_of_many_channels_is_told_as_one_of_few(
    rows: MessageRows, reads: MessageReads
) -> None:
    rows.claim("agent", ["**"], "w")
    for number in range(30):
        publish(rows, range(2 * number, 2 * number + 2), f"c{number}")
    flow = reads.flow()
    assert flow.agents["agent"].waiting == 60
    assert {each.waiting for each in flow.channels.values()} == {2}


def test_a_message_that_is_asked_for_is_in_its_tree_however_small_that_is(
    rows: MessageRows, reads: MessageReads
) -> None:
    publish(rows, range(1, 2))
    for number in range(2, 60):
        publish(rows, range(number, number + 1), cause=f"m{number - 1}")
    for number in range(60, 100):
        publish(rows, range(number, number + 1), cause="m1")

    def tree(name: str, limit: int) -> list[int]:
        found = reads.tree_of(name, limit)
        assert found is not None
        return [each.message.number for each in found]

    assert tree("m50", 20) == list(range(31, 51)), "its next causes, where not all have room"
    assert tree("m4", 6) == [1, 2, 3, 4, 5, 6]
    assert tree("m99", 4) == [1, 2, 3, 99]
    assert tree("m99", 1) == [99]
    assert tree("m30", 200) == list(range(1, 100))


def test_where_a_message_comes_from_is_read_at_once(
    rows: MessageRows, reads: MessageReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(rows, range(1, 2))
    for number in range(2, 200):
        publish(rows, range(number, number + 1), cause=f"m{number - 1}")
    asked: list[Statement] = []

    def spy(database: Any, statement: Statement, values: Any) -> Any:
        asked.append(statement)
        return read(database, statement, values)

    monkeypatch.setattr("dagger_dsl.store.message_reads.read", spy)
    assert list(reads._way("m199", 1_000)) == list(range(199, 0, -1))
    assert len(asked) <= 3
