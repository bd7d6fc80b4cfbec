"""Messages and subscriptions in a database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

from dagger_dsl.errors import (
    DecodingError,
    EncodingError,
    IdempotencyConflict,
    MessageTooLarge,
    StoreDamaged,
    StoreFull,
)
from dagger_dsl.model.messages import Message
from dagger_dsl.model.values import Secret
from dagger_dsl.store import messages
from dagger_dsl.store.message_reads import MessageReads
from dagger_dsl.store.message_upkeep import (
    removable_messages,
    remove_messages,
    remove_some_messages,
)
from dagger_dsl.store.messages import Claimed, Delivered, MessageRows, Outgoing, Settlement
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction
from dagger_dsl.store.workers import Worker
from dagger_dsl.testing import FakeClock
from tests.store.helpers import Store, child, kill, line


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["driver", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "messages.db") as store:
        store.database.through_core = request.param == "core"
        yield store


@pytest.fixture
def rows(store: Store, clock: FakeClock) -> MessageRows:
    return MessageRows(store.database, store._payloads, clock, 100_000)


def message(number: int, channel: str = "c", **more: Any) -> Message:
    return Message(channel, number, id=f"m{number}", timestamp=float(number), **more)


def publish(rows: MessageRows, *messages: Message, named: bool = False) -> list[Any]:
    done = rows.commit("", [rows.encoded(each, named=named) for each in messages])
    assert done.lost == []
    return done.faults


def claim(rows: MessageRows, name: str = "agent", worker: str = "w") -> Claimed:
    claimed = rows.claim(name, ["c"], worker)
    assert claimed is not None
    return claimed


def done(number: int, attempt: int = 0) -> Delivered:
    return Delivered(number, "done", attempt)


def settle(
    rows: MessageRows,
    claimed: Claimed,
    position: int,
    *put: Delivered,
    drop: tuple[int, ...] = (),
    published: tuple[Outgoing, ...] = (),
    worker: str = "w",
) -> list[str]:
    calls = {done(position): published}
    settlement = Settlement("agent", claimed.epoch, position, put, drop, calls)
    return rows.commit(worker, [], [settlement]).lost


def payloads(rows: MessageRows, after: int = 0) -> list[Any]:
    return [rows.message(each).payload for each in rows.after(after, 1_000)]


def test_messages_come_back_as_they_were_in_the_order_of_publication(rows: MessageRows) -> None:
    sent = [
        message(1),
        Message("d.e", {"a": (1, 2)}, "key", "id", 2.5, "agent", "task", "m1"),
        Message("c", None, id="m3", timestamp=3.0),
    ]
    assert publish(rows, *sent) == [None, None, None]
    found = [rows.message(each) for each in rows.after(0, 10)]
    assert found == sent
    assert [each.number for each in found] == [1, 2, 3]
    assert [each.head.id for each in rows.after(1, 1)] == ["id"]
    assert rows.after(3, 10) == []
    first, gone = rows.one(1), rows.one(4)
    assert first is not None
    assert rows.message(first) == sent[0]
    assert gone is None


def test_the_messages_of_some_channels_are_found_between_those_of_others(rows: MessageRows) -> None:
    def scan(after: int, limit: int, *channels: str) -> tuple[list[int], int]:
        found, scanned = rows.scan(after, limit, channels or None)
        return [each.head.number for each in found], scanned

    assert scan(0, 10, "a") == scan(0, 10) == ([], 0)
    publish(rows, *(message(n, "abca"[n % 4]) for n in range(1, 21)))
    on_a = [n for n in range(1, 21) if n % 4 in (0, 3)]
    assert scan(0, 100, "a") == (on_a, 20)
    assert scan(0, 3, "a") == (on_a[:3], on_a[2]), "there may be more of it behind the last one"
    assert scan(0, 4, "b", "c") == ([1, 2, 5, 6], 6), "in the order of all"
    assert scan(19, 4, "b", "c") == ([], 20), "up to there are only others"
    assert scan(5, 100, "nothing") == ([], 20)
    assert scan(20, 100, "a") == ([], 20)
    assert scan(17, 2) == ([18, 19], 19)


def test_what_was_there_already_is_known(rows: MessageRows) -> None:
    def known() -> list[bool]:
        outgoing = [rows.encoded(message(1), named=True) for _ in range(2)]
        rows.commit("", outgoing)
        return [each.known for each in outgoing]

    assert known() == [False, True]
    assert known() == [True, True]


@pytest.mark.row("P12")
def test_messages_join_a_transaction_and_vanish_with_it(store: Store, rows: MessageRows) -> None:
    outgoing = [rows.encoded(message(n)) for n in (1, 2)]
    rows.place(outgoing)

    def work(tx: Transaction) -> None:
        assert rows.append(tx, outgoing) == [None, None]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_transaction(store.database, work)
    assert rows.after(0, 10) == []

    def again(tx: Transaction) -> None:
        rows.append(tx, outgoing)

    run_transaction(store.database, again)
    assert payloads(rows) == [1, 2]


def test_an_id_is_published_once(rows: MessageRows) -> None:
    assert publish(rows, message(1), named=True) == [None]
    assert publish(rows, message(1), message(2), message(2), named=True) == [None] * 3
    other = attrs.evolve(message(1), payload=7)
    found = publish(rows, other, message(3), attrs.evolve(message(2), channel="d"), named=True)
    assert isinstance(found[0], IdempotencyConflict)
    assert found[1] is None
    assert isinstance(found[2], IdempotencyConflict)
    assert payloads(rows) == [1, 2, 3]


def test_what_a_call_publishes_is_stored_whole_or_not_at_all(rows: MessageRows) -> None:
    claimed = claim(rows)
    publish(rows, message(1), message(2), message(3))
    outgoing = {
        done(1): [rows.encoded(message(10)), rows.encoded(message(11), named=True)],
        done(2, 4): [
            rows.encoded(message(20)),
            rows.encoded(attrs.evolve(message(11), payload="other"), named=True),
        ],
        done(3): [
            rows.encoded(message(30), named=True),
            rows.encoded(attrs.evolve(message(30), payload="other"), named=True),
        ],
    }
    settlement = Settlement("agent", claimed.epoch, 3, published=outgoing)
    written = rows.commit("w", [rows.encoded(message(4))], [settlement])
    assert (written.faults, written.lost) == ([None], [])
    assert [each.number for each in written.refused] == [2, 3]
    assert payloads(rows, 3) == [4, 10, 11]
    found = [(each.number, each.attempt) for each in rows.retries("agent")]
    assert found == [(2, 5), (3, 1)], "until it is settled otherwise"


def test_a_large_payload_goes_to_a_file_which_no_upkeep_removes(
    store: Store, rows: MessageRows
) -> None:
    text = "x" * 50_000
    publish(rows, Message("c", text, id="m1"))
    (stored,) = rows.after(0, 10)
    assert stored.artifact_id is not None
    store.prune()
    assert rows.message(stored).payload == text
    assert publish(rows, Message("c", text, id="m1"), named=True) == [None], "its hash says so"
    assert store.files is not None
    os.remove(store.files.path(stored.artifact_id))
    with pytest.raises(StoreDamaged):
        rows.message(stored)


def test_a_large_payload_has_its_file_though_an_earlier_commit_failed(
    store: Store, rows: MessageRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = Message("c", "x" * 50_000, id="m1"), message(2)
    outgoing = [rows.encoded(large), rows.encoded(small)]
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreFull("the disk is full")

        patch.setattr(MessageRows, "append", full)
        with pytest.raises(StoreFull):
            rows.commit("", outgoing)
    assert store.prune().files == 1, "no row names it, and nobody keeps it"
    rows.commit("", outgoing)
    assert payloads(rows) == [large.payload, 2]


def test_what_cannot_be_stored_is_refused(rows: MessageRows) -> None:
    with pytest.raises(MessageTooLarge, match="100,000 are allowed"):
        rows.encoded(Message("c", "x" * 100_000))
    with pytest.raises(EncodingError, match="payload of a message on channel 'c'"):
        rows.encoded(Message("c", [1, object()]))
    with pytest.raises(EncodingError):
        rows.encoded(Message("c", {"token": Secret("s")}))


def test_a_subscription_begins_with_what_is_published_from_then_on(rows: MessageRows) -> None:
    publish(rows, message(1), message(2))
    claimed = claim(rows)
    assert (claimed.epoch, claimed.position, claimed.rows) == (1, 2, {})
    publish(rows, message(3))
    assert payloads(rows, claimed.position) == [3]
    (found,) = rows.subscriptions()
    assert (found.name, found.patterns, found.position, found.owner) == ("agent", ("c",), 2, "w")
    assert (found.epoch, found.lag) == (1, 1)


def test_one_worker_has_a_subscription_until_it_gives_it_back_or_dies(rows: MessageRows) -> None:
    first = claim(rows)
    publish(rows, message(1), message(2))
    assert rows.claim("agent", ["c"], "v") is None
    assert rows.claim("agent", ["c"], "v", lambda owner, beats: owner != "w") is None
    assert settle(rows, first, 1) == []
    second = rows.claim("agent", ["c"], "v", lambda owner, beats: (owner, beats) == ("w", 1))
    assert second is not None
    assert (second.epoch, second.position, second.died) == (2, 1, True)
    rows.release(["agent"], "w")
    assert rows.claim("agent", ["c"], "w") is None, "only who has it gives it back"
    rows.release(["agent"], "v")
    third = claim(rows)
    assert (third.epoch, third.died) == (4, False)


def test_subscriptions_are_claimed_together_in_one_transaction(
    rows: MessageRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.claim("taken", ["c"], "v")
    rows.claim("left", ["c"], "v")
    rows.release(["left"], "v")
    publish(rows, message(1))
    transactions: list[object] = []

    def counted(*arguments: Any, **options: Any) -> None:
        transactions.append(arguments)
        run_transaction(*arguments, **options)

    monkeypatch.setattr(messages, "run_transaction", counted)
    claimed = rows.claim_all({name: ["c"] for name in ("taken", "left", "new", "newer")}, "w")
    assert {name: (each.epoch, each.position) for name, each in claimed.items()} == {
        "left": (3, 0),
        "new": (1, 1),
        "newer": (1, 1),
    }
    assert len(transactions) == 1
    assert rows.claim_all({"taken": ["c"]}, "w") == {}
    assert rows.claim_all({}, "w") == {}
    assert len(transactions) == 1


def test_two_that_claim_at_once_do_not_both_get_it(rows: MessageRows) -> None:
    claim(rows)
    other: list[Claimed | None] = []

    def is_dead(owner: str, beats: int) -> bool:
        if not other:
            other.append(None)
            other[0] = rows.claim("agent", ["c"], "quicker", lambda owner, beats: True)
        return True

    assert rows.claim("agent", ["c"], "slower", is_dead) is None
    assert other[0] is not None


@pytest.mark.row("P12")
def test_a_late_worker_records_nothing(rows: MessageRows) -> None:
    late = claim(rows)
    publish(rows, message(1))
    owner = rows.claim("agent", ["c"], "v", lambda owner, beats: True)
    assert owner is not None
    outgoing = rows.encoded(message(2))
    dead = Delivered(1, "dead", 1, None, "why", 1.0)
    assert settle(rows, late, 1, dead, published=(outgoing,)) == ["agent"]
    assert settle(rows, late, 1, dead, published=(outgoing,), worker="v") == ["agent"]
    assert payloads(rows) == [1]
    assert rows.dead_letters() == []
    assert rows.subscriptions()[0].position == 0
    assert settle(rows, owner, 1, dead, published=(outgoing,), worker="v") == []
    assert payloads(rows) == [1, 2]
    assert len(rows.dead_letters()) == 1


def test_what_a_position_does_not_say_comes_back_with_a_claim(rows: MessageRows) -> None:
    claimed = claim(rows)
    publish(rows, *map(message, range(1, 7)))
    settle(
        rows,
        claimed,
        1,
        Delivered(1, "retry", 2, 99.5, "ValueError: no", 9.0),
        Delivered(3, "done"),
        Delivered(4, "dead", 3, None, "why", 8.0),
    )
    rows.release(["agent"], "w")
    again = claim(rows)
    assert again.position == 1
    assert again.rows == {1: "retry", 3: "done", 4: "dead"}
    (so_far,) = rows.retries("agent")
    assert (so_far.number, so_far.attempt, so_far.due_at, so_far.deaths) == (1, 2, 99.5, 0)
    settle(rows, again, 4, drop=(1, 3))
    rows.release(["agent"], "w")
    assert claim(rows).rows == {}


def test_given_up_messages_can_be_replayed_and_forgotten(rows: MessageRows) -> None:
    claimed = claim(rows)
    publish(rows, *map(message, range(1, 5)))
    letters = [Delivered(n, "dead", 2, None, f"error {n}", 10.0 - n) for n in (1, 2, 3)]
    settle(rows, claimed, 4, *letters)
    found = rows.dead_letters("agent")
    assert [(each.message.payload, each.error, each.attempts, each.at) for each in found] == [
        (3, "error 3", 2, 7.0),
        (2, "error 2", 2, 8.0),
        (1, "error 1", 2, 9.0),
    ]
    assert rows.dead_letters("other") == []
    assert rows.given_up() == rows.given_up("agent") == {"m1", "m2", "m3"}
    assert rows.replay("other") == rows.discard("agent", {"m4"}) == 0
    assert rows.replay("agent", {"m1", "m4"}) == 1
    assert [each.number for each in rows.retries("agent")] == [1]
    assert rows.discard(ids={"m2"}) == 1
    assert [each.message.id for each in rows.dead_letters()] == ["m3"]


def test_who_gives_messages_again_or_forgets_them_reads_no_payload(
    rows: MessageRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claim(rows)
    publish(rows, *map(message, range(1, 5)))
    settle(rows, claimed, 4, *(Delivered(n, "dead", 1, None, "", 1.0) for n in range(1, 5)))
    asked: list[str] = []

    def spy(database: Any, statement: Statement, values: Any) -> Any:
        asked.append(statement.sql)
        return read(database, statement, values)

    monkeypatch.setattr("dagger_dsl.store.messages.read", spy)
    assert rows.given_up() == {"m1", "m2", "m3", "m4"}
    assert (rows.replay("agent", {"m2"}), rows.discard()) == (1, 3)
    assert asked
    assert not any("payload" in each for each in asked)


def test_what_came_of_a_message_is_found_in_order_and_by_index(
    store: Store, rows: MessageRows
) -> None:
    causes = {1: "", 2: "m1", 3: "m2", 4: "", 5: "m1", 6: "m4", 7: "m3", 8: "m9", 9: "m8"}
    publish(rows, *(message(n, cause=cause) for n, cause in causes.items()))
    reads = MessageReads(store.database, store._payloads)

    def tree(name: str, limit: int = 100) -> list[int]:
        found = reads.tree_of(name, limit)
        assert found is not None
        return [each.message.number for each in found]

    assert tree("m1") == tree("m7") == tree("m5") == [1, 2, 3, 5, 7]
    assert tree("m2", 3) == [1, 2, 3]
    assert tree("m6") == [4, 6]
    assert sorted(tree("m8")) == sorted(tree("m9")) == [8, 9], "ids given by hand may be odd"
    assert reads.tree_of("m10", 100) is None
    plan = store.query("EXPLAIN QUERY PLAN SELECT 1 FROM messages WHERE cause_id = 'm1'")
    assert "ix_messages_cause_id" in str(plan)


def test_a_forgotten_subscription_begins_anew(rows: MessageRows) -> None:
    claimed = claim(rows)
    publish(rows, message(1), message(2))
    settle(rows, claimed, 1, Delivered(1, "dead", 1, None, "", 1.0))
    rows.release(["agent"], "other", forget=True)
    assert len(rows.subscriptions()) == 1
    rows.release(["agent"], "w", forget=True)
    assert rows.subscriptions() == []
    assert rows.dead_letters() == []
    assert claim(rows).position == 2


def test_upkeep_removes_what_all_are_done_with_and_no_number_comes_twice(
    store: Store, rows: MessageRows
) -> None:
    freed: list[str] = []
    publish(rows, *map(message, range(1, 4)))
    one = claim(rows)
    publish(rows, *map(message, range(4, 11)))
    settle(rows, one, 8, Delivered(5, "dead", 1, None, "", 1.0))
    rows.claim("slow", ["c"], "w")
    assert remove_some_messages(store.database, 3.0, 0, freed.extend, 1) == (1, 1)
    assert remove_some_messages(store.database, 3.0, 1, freed.extend, 1) == (1, 2)
    assert remove_some_messages(store.database, 3.0, 2, freed.extend, 1) == (0, 3)
    assert removable_messages(store.database, 100.0) == (5, [])
    assert remove_messages(store.database, 100.0, freed.extend) == 5
    assert payloads(rows) == [5, 9, 10], "the given up one stays"
    settle(rows, one, 10)
    rows.discard()
    remove_messages(store.database, 100.0, freed.extend)
    assert payloads(rows) == [10], "the last one stays, for its number"
    publish(rows, message(11))
    assert [each.head.number for each in rows.after(0, 10)] == [10, 11]
    assert freed == []


def test_prune_removes_what_all_are_done_with_and_the_files_of_large_payloads(
    store: Store, rows: MessageRows
) -> None:
    large, other = "x" * 50_000, "y" * 50_000
    one = claim(rows)
    sent = [message(n) for n in range(1, 4)]
    sent += [attrs.evolve(message(n), payload=large) for n in (4, 5)]
    sent += [attrs.evolve(message(6), payload=other), message(7), message(8)]
    publish(rows, *sent)
    assert store.files is not None
    assert len(list(store.files.ids())) == 2

    def pruned(**options: Any) -> tuple[int, int, int]:
        found = [store.prune(dry_run=dry, **options) for dry in (True, False)]
        seen = [(each.messages, len(each.artifacts), each.files) for each in found]
        assert seen[0] == seen[1], "a dry run tells what would go"
        return seen[0]

    assert pruned(older_than=0.0) == (0, 0, 0), "they wait for an agent"
    settle(rows, one, 4, Delivered(2, "dead", 1, None, "", 1.0))
    assert pruned(keep_last=0) == (0, 0, 0), "that is said of runs and jobs"
    assert pruned(older_than=0.0) == (3, 0, 0), "another one has the same payload"
    settle(rows, one, 8, Delivered(7, "retry", 1, 9.0, "", 1.0))
    assert pruned(older_than=0.0) == (2, 2, 2)
    assert payloads(rows) == [2, 7, 8]
    assert list(store.files.ids()) == []


def test_a_subscription_that_nobody_has_is_forgotten(rows: MessageRows) -> None:
    claimed = claim(rows)
    publish(rows, message(1))
    settle(rows, claimed, 1, Delivered(1, "dead", 1, None, "", 1.0))
    assert rows.forget("nobody", lambda owner, beats: True) is None
    assert rows.forget("agent", lambda owner, beats: False) is False
    assert len(rows.subscriptions()) == len(rows.dead_letters()) == 1
    assert rows.forget("agent", lambda owner, beats: owner == "w") is True
    assert rows.subscriptions() == []
    assert rows.dead_letters() == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("payload = 'text'", StoreDamaged),
        ("payload = 7", StoreDamaged),
        ("payload = x'ff00'", DecodingError),
        ("payload = '{' ", StoreDamaged),
        ("payload = CAST('{' AS BLOB)", DecodingError),
        ("""payload = CAST('{"$type": "os.system", "$value": 1}' AS BLOB)""", DecodingError),
        (f"artifact_id = '{'a' * 64}'", StoreDamaged),
    ],
)
def test_a_row_that_was_tampered_with_is_refused(
    store: Store, rows: MessageRows, change: str, error: type[Exception]
) -> None:
    claimed = claim(rows)
    publish(rows, message(1))
    settle(rows, claimed, 1, Delivered(1, "dead", 1, None, "why", 1.0))
    with store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE messages SET {change}")
    (stored,) = rows.after(0, 10)
    with pytest.raises(error):
        rows.message(stored)
    (letter,) = rows.dead_letters()
    assert (letter.message.id, letter.message.payload, letter.error) == ("m1", None, "why")


def test_a_row_of_an_earlier_version_is_a_message(store: Store, rows: MessageRows) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("INSERT INTO messages (channel, payload) VALUES ('c', x'37')")
    (stored,) = rows.after(0, 10)
    found = rows.message(stored)
    assert (found.channel, found.payload, found.id, found.timestamp) == ("c", 7, "1", 0.0)


def test_the_schema_refuses_what_cannot_be(store: Store, rows: MessageRows) -> None:
    publish(rows, message(1))
    for statement in (
        "INSERT INTO deliveries (subscription, message_id, state) VALUES ('a', 1, 'lost')",
        "INSERT INTO messages (channel, payload, public_id) VALUES ('c', x'37', 'm1')",
        "INSERT INTO subscriptions (name) VALUES ('a')",
    ):
        with pytest.raises(sa.exc.IntegrityError), store.writing() as connection:
            connection.exec_driver_sql(statement)


def test_the_next_messages_are_found_by_their_number(store: Store, rows: MessageRows) -> None:
    publish(rows, *map(message, range(1, 50)))
    claim(rows)
    plans = [
        "SELECT * FROM messages WHERE message_id > 7 ORDER BY message_id LIMIT 5",
        "SELECT * FROM messages WHERE public_id = 'm1'",
        "SELECT * FROM deliveries WHERE subscription = 'a' AND state = 'retry'",
    ]
    for plan in plans:
        found = store.query(f"EXPLAIN QUERY PLAN {plan}")
        assert all("SEARCH" in str(each["detail"]) for each in found), (plan, found)


def test_the_death_of_a_worker_is_seen_on_its_host_at_once(tmp_path: Path) -> None:
    code = """
        from dagger_dsl.store.workers import Worker
        store = Store(sys.argv[1])
        store.init_database()
        worker = Worker(store.database, 60.0)
        worker.arrive()
        print(worker.name, flush=True)
        time.sleep(600)
    """
    process = child(code, tmp_path / "w.db")
    name = line(process)
    with Store(tmp_path / "w.db") as store:
        store.init_database()
        worker = Worker(store.database, 60.0)
        worker.arrive()
        assert list(worker.gone({name: 1, worker.name: 1})) == []
        kill(process)
        assert list(worker.gone({name: 1, worker.name: 1})) == [name]
        assert not worker.is_dead(worker.name, 0)
        worker.leave()


def test_a_worker_elsewhere_is_dead_after_a_lease_without_a_beat(
    store: Store, clock: FakeClock
) -> None:
    worker = Worker(store.database, 10.0, clock)

    def looks(beats: int, *waits: float) -> list[bool]:
        return [clock.advance(each) > 0 and worker.is_dead("w@elsewhere", beats) for each in waits]

    assert looks(1, 0.0, 4.0, 4.0) == [False, False, False]
    assert looks(2, 0.0, 4.0, 4.0, 1.9, 0.1) == [False, False, False, False, True]
    assert looks(3, 0.0, 4.0, 20.0, 4.0, 4.0) == [False] * 5, "who watches stood still itself"
    assert looks(3, 2.0) == [True]


def test_a_worker_that_is_stopped_is_dead_after_a_lease(tmp_path: Path, clock: FakeClock) -> None:
    with Store(tmp_path / "w.db") as store:
        store.init_database()
        stopped = Worker(store.database, 10.0)
        stopped.arrive()
        worker = Worker(store.database, 10.0, clock)
        assert not worker.is_dead(stopped.name, 7)
        clock.advance(4.0)
        assert not worker.is_dead(stopped.name, 7)
        clock.advance(4.0)
        assert not worker.is_dead(stopped.name, 7)
        clock.advance(2.0)
        assert worker.is_dead(stopped.name, 7)
        stopped.leave()


def test_a_beat_is_seen(rows: MessageRows) -> None:
    claim(rows)
    rows.beat("w")
    rows.beat("other")
    seen: list[tuple[str, int]] = []

    def is_dead(owner: str, beats: int) -> bool:
        seen.append((owner, beats))
        return False

    rows.claim("agent", ["c"], "v", is_dead)
    assert seen == [("w", 1)]


def test_a_process_that_dies_in_a_commit_leaves_nothing_of_it(tmp_path: Path) -> None:
    code = """
        from dagger_dsl.model.messages import Message
        from dagger_dsl.store.messages import Delivered, MessageRows, Settlement
        store = Store(sys.argv[1])
        store.init_database()
        rows = MessageRows(store.database, store._payloads)
        claimed = rows.claim("agent", ["c"], "w")
        rows.commit("w", [rows.encoded(Message("c", 1, id="m1"))])
        append = rows.append

        def die(tx, outgoing):
            found = append(tx, outgoing)
            if outgoing:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        rows.append = die
        more = {Delivered(1, "done"): [rows.encoded(Message("c", 2, id="m2"))]}
        rows.commit("w", [], [Settlement("agent", claimed.epoch, 1, published=more)])
    """
    process = child(code, tmp_path / "m.db")
    process.communicate()
    assert process.returncode == -9
    with Store(tmp_path / "m.db") as store:
        rows = MessageRows(store.database, store._payloads)
        assert payloads(rows) == [1]
        assert rows.subscriptions()[0].position == 0


def test_nothing_is_recorded_when_the_database_is_in_trouble(tmp_path: Path) -> None:
    with Store(f"sqlite:{tmp_path / 'm.db'}?busy_timeout=10") as store:
        rows = MessageRows(store.database, store._payloads)
        claimed = claim(rows)
        other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Exception, match=r"busy|locked|held"):
            settle(rows, claimed, 5, published=(rows.encoded(message(1)),))
        other.execute("ROLLBACK")
        other.close()
        assert payloads(rows) == []
        assert settle(rows, claimed, 5, published=(rows.encoded(message(1)),)) == []
