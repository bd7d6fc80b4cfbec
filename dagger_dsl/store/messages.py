"""`MessageRows`: messages in a database, and how far each subscription is.

A message is one row, whoever is given it. A subscription is a position in the order of all messages
and a few exceptions to it, so that what was handled is recorded by one number a commit, with the
messages that were published meanwhile in the same transaction.

One worker at a time gives a subscription its messages. Each of its writes names the epoch of its
claim, so that one which comes too late, after another worker took over, changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import orjson

from dagger_dsl.errors import (
    DaggerError,
    DecodingError,
    IdempotencyConflict,
    MessageTooLarge,
    StoreDamaged,
    shown,
)
from dagger_dsl.model.messages import DeadLetter, Message, error_text
from dagger_dsl.store import message_statements as sql
from dagger_dsl.store.artifact_rows import files_kept
from dagger_dsl.store.batches import INSERT_ARTIFACT, file_row
from dagger_dsl.store.codec import advice_outside_runs, encode
from dagger_dsl.store.database import Database
from dagger_dsl.store.message_values import (
    RETRY,
    Claimed,
    Committed,
    Delivered,
    Outgoing,
    Settlement,
    Stored,
    StoredPlace,
    id_of,
    row_of,
    stored,
)
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

__all__ = [
    "Claimed",
    "Committed",
    "Delivered",
    "MessageRows",
    "Outgoing",
    "Settlement",
    "Stored",
    "StoredPlace",
]


class MessageRows:
    """The messages and subscriptions of one database.

    Args:
        database, payloads: What the store is made of.
        clock: Seconds since 1970; when a message is given again outlives processes, so it is told
            by the time of day.
        max_bytes: How many bytes a payload's encoding may take.
    """

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        clock: Callable[[], float] = time.time,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._max_bytes = max_bytes
        self.now = clock

    # --- publishing -------------------------------------------------------------------------------

    def encoded(self, message: Message, *, named: bool = False) -> Outgoing:
        """Return a message as it can be stored.

        Args:
            message: Which.
            named: Whether its id may be there already.

        Raises:
            EncodingError: Its payload has no stored form.
            MessageTooLarge: It takes too many bytes.
        """
        what = f"the payload of a message on channel {message.channel!r}"
        with advice_outside_runs():
            data = encode(message.payload, what)
        if len(data) > self._max_bytes:
            raise MessageTooLarge(
                f"{what} takes {len(data):,} bytes, and {self._max_bytes:,} are allowed; store it "
                "elsewhere and publish where it is, or raise max_message_bytes"
            )
        return Outgoing(message, data, named)

    def place(self, outgoing: Iterable[Outgoing]) -> None:
        """Write the files of large payloads; before each try of the transaction that names them.

        Anew each time: a file that no row names may be removed once `files_kept` ends.

        Raises:
            StoreError: One cannot be written.
        """
        for each in outgoing:
            text, each.artifact_id, each.size = self._payloads.place(each.data)
            each.inline = b"" if text is None else each.data

    def append(self, tx: Transaction, outgoing: Sequence[Outgoing]) -> list[DaggerError | None]:
        """Store messages inside of a transaction, with whatever else it does.

        Args:
            tx: The transaction.
            outgoing: The messages, in order, placed.

        Returns:
            For each, None where it is stored, or was stored before, as `Outgoing.known` says; else
            the error: its id belongs to another message.
        """
        if outgoing:
            self._lock(tx)
        found: list[DaggerError | None] = []
        rows: list[Sequence[Any]] = []
        files: list[Sequence[Any]] = []
        for each in outgoing:
            if each.named:
                if rows:  # one of these may have the id
                    self._insert(tx, rows)
                    rows = []
                known = tx.rows(sql.BY_PUBLIC_ID, (each.message.id,))
                each.known = bool(known)  # anew each time, as a transaction may be tried again
                if known:
                    found.append(_conflict(each, known[0]))
                    continue
            if each.artifact_id is not None:
                files.append(file_row(each.artifact_id, each.size))
            rows.append(row_of(each))
            found.append(None)
        if files:
            tx.execute_many(INSERT_ARTIFACT(self._database.dialect), files)
        if rows:
            self._insert(tx, rows)
        return found

    def _lock(self, tx: Transaction) -> None:
        """Let nobody else publish until this transaction ends, as on SQLite nobody does."""
        if self._database.dialect == "postgresql":
            tx.rows(sql.LOCK, ())

    def _insert(self, tx: Transaction, rows: Sequence[Sequence[Any]]) -> None:
        tx.execute_many(sql.INSERT_MESSAGE, rows)

    def commit(
        self,
        worker: str,
        outgoing: Sequence[Outgoing] = (),
        settlements: Sequence[Settlement] = (),
    ) -> Committed:
        """Store messages, and what became of others, in one transaction.

        Args:
            worker: Who settles.
            outgoing: Messages from outside.
            settlements: What became of messages, each with what was published meanwhile.

        Raises:
            StoreError: Nothing is recorded.
        """
        done = Committed()
        held = [call for each in settlements for call in each.published.values()]
        everything = [*outgoing, *(each for call in held for each in call)]

        def write(tx: Transaction) -> None:
            nonlocal done
            done = Committed(self.append(tx, outgoing))
            for each in settlements:
                self._settle(tx, worker, each, done)

        def run() -> None:
            self.place(everything)
            size = sum(len(each.inline or b"") for each in everything)
            pages = 3 + len(settlements) + size // 1_000 + len(everything) // 4
            run_transaction(self._database, write, pages=pages)

        if any(len(each.data) >= self._large for each in everything):
            with files_kept(self._database):
                run()
        else:
            run()
        return done

    @property
    def _large(self) -> float:
        return float(self._payloads._threshold)

    def _settle(
        self, tx: Transaction, worker: str, settlement: Settlement, done: Committed
    ) -> None:
        name = settlement.name
        values = {
            "the_name": name,
            "the_worker": worker,
            "the_epoch": settlement.epoch,
            "new_position": settlement.position,
        }
        if not tx.execute(sql.ADVANCE, sql.ADVANCE.in_order(values)):
            done.lost.append(name)
            return
        put = list(settlement.put)
        ready: list[Outgoing] = []
        if settlement.published:
            self._lock(tx)  # nobody has an id that was free when it was looked for
        for delivered, call in settlement.published.items():
            named = [each for each in call if each.named]
            if named:
                self._store(tx, ready)
                ready = []
                fault = self._fault(tx, named)
                if fault is not None:  # all that a call publishes, or nothing
                    done.refused[delivered] = fault
                    # Given again, should nobody come to record that it is given up.
                    text, now, attempt = error_text(fault), self.now(), delivered.attempt + 1
                    put.append(Delivered(delivered.number, RETRY, attempt, now, text, now))
                    continue
            ready.extend(call)
        self._store(tx, ready)
        for number in settlement.drop:
            tx.execute(sql.DROP_DELIVERY, (name, number))
        if settlement.drop_done:
            tx.execute(sql.DROP_PASSED, (name, settlement.position))
        if put:
            tx.execute_many(
                sql.PUT_DELIVERY(self._database.dialect),
                [
                    (
                        name,
                        each.number,
                        each.state,
                        each.attempt,
                        each.due_at,
                        each.error,
                        each.at,
                        each.deaths,
                    )
                    for each in put
                ],
            )

    def _store(self, tx: Transaction, outgoing: Sequence[Outgoing]) -> None:
        """Store what nothing speaks against.

        Raises:
            IdempotencyConflict: Something does after all; so nothing of the transaction holds.
        """
        for fault in self.append(tx, outgoing):
            if fault is not None:
                raise fault

    @staticmethod
    def _fault(tx: Transaction, named: Sequence[Outgoing]) -> DaggerError | None:
        """Return why messages cannot be stored whose ids were given by hand."""
        known = {each.message.id: row_of(each) for each in reversed(named)}
        for each in named:
            first = known[each.message.id]
            rows = tx.rows(sql.BY_PUBLIC_ID, (each.message.id,)) or [(*first[:3], first[5])]
            fault = _conflict(each, rows[0])
            if fault is not None:
                return fault
        return None

    # --- subscriptions ----------------------------------------------------------------------------

    def claim(
        self,
        name: str,
        patterns: Sequence[str],
        worker: str,
        is_dead: Callable[[str, int], bool] = lambda owner, beats: False,
    ) -> Claimed | None:
        """Give a subscription to a worker, and make it where there is none.

        A new one is given what is published from now on.

        Args:
            name: Which.
            patterns: Whose messages it is given, for people.
            worker: Who.
            is_dead: Whether a worker, given with its beats, is dead.

        Returns:
            None where another worker has it that is not dead.
        """
        return self.claim_all({name: patterns}, worker, is_dead).get(name)

    def claim_all(
        self,
        wanted: Mapping[str, Sequence[str]],
        worker: str,
        is_dead: Callable[[str, int], bool] = lambda owner, beats: False,
    ) -> dict[str, Claimed]:
        """Give subscriptions to a worker in one transaction, each as `claim` does.

        Args:
            wanted: Their names, each with its patterns.
            worker, is_dead: As there.

        Returns:
            Those that it has now, by name.
        """
        free: dict[str, tuple[str | None, int | None]] = {}
        for name in wanted:
            rows = read(self._database, sql.SUBSCRIPTION, (name,))
            _, owner, epoch, beats = rows[0] if rows else (0, None, None, 0)
            if owner is None or is_dead(str(owner), int(beats)):
                free[name] = owner, epoch
        claimed: dict[str, Claimed] = {}

        def take(tx: Transaction) -> None:
            claimed.clear()
            for name, (owner, epoch) in free.items():
                text = orjson.dumps(list(wanted[name])).decode()
                taken = self._take(tx, name, text, worker, owner, epoch)
                if taken is not None:
                    claimed[name] = taken

        if free:
            run_transaction(self._database, take, pages=8 + len(free))
        return claimed

    def _take(
        self,
        tx: Transaction,
        name: str,
        patterns: str,
        worker: str,
        owner: str | None,
        epoch: int | None,
    ) -> Claimed | None:
        """Claim a subscription unless somebody else was quicker; one without an epoch is made."""
        if epoch is None:
            last = tx.scalar(sql.LAST, ()) or 0
            insert = sql.INSERT_SUBSCRIPTION(self._database.dialect)
            made = tx.execute(insert, (name, patterns, last, worker, 1))
            return Claimed(1, last, {}) if made else None
        values = {
            "the_name": name,
            "the_epoch": epoch,
            "the_worker": worker,
            "new_patterns": patterns,
        }
        if not tx.execute(sql.CLAIM, sql.CLAIM.in_order(values)):
            return None
        position = int(tx.rows(sql.SUBSCRIPTION, (name,))[0][0])
        found = tx.rows(sql.DELIVERIES, (name, position))
        kept = {int(number): str(state) for number, state in found}
        return Claimed(epoch + 1, position, kept, owner is not None)

    def release(self, names: Sequence[str], worker: str, *, forget: bool = False) -> None:
        """Let others claim subscriptions of a worker, or remove them altogether."""

        def let_go(tx: Transaction) -> None:
            for name in names:
                had = tx.execute(sql.RELEASE, (name, worker))
                if had and forget:
                    tx.execute(sql.FORGET, (name,))
                    tx.execute(sql.FORGET_DELIVERIES, (name,))

        run_transaction(self._database, let_go)

    def forget(self, name: str, is_dead: Callable[[str, int], bool]) -> bool | None:
        """Remove a subscription that no living worker has.

        Args:
            name: Which.
            is_dead: Whether a worker, given with its beats, is dead.

        Returns:
            None where there is none, False where a worker has it.
        """
        rows = read(self._database, sql.SUBSCRIPTION, (name,))
        if not rows:
            return None
        _, owner, epoch, beats = rows[0]
        if owner is not None and not is_dead(str(owner), int(beats)):
            return False
        is_gone = False

        def remove(tx: Transaction) -> None:
            nonlocal is_gone
            is_gone = bool(tx.execute(sql.FORGET_FREE, sql.FORGET_FREE.in_order(values)))
            if is_gone:
                tx.execute(sql.FORGET_DELIVERIES, (name,))

        values = {"the_name": name, "the_epoch": epoch}
        run_transaction(self._database, remove)
        return is_gone  # else somebody has claimed it meanwhile

    def beat(self, worker: str) -> None:
        """Show that a worker lives."""
        run_transaction(self._database, lambda tx: _ignore(tx.execute(sql.BEAT, (worker,))))

    def subscriptions(self) -> list[StoredPlace]:
        """Return all subscriptions, by name."""
        last = read(self._database, sql.LAST, ())[0][0] or 0
        return [
            StoredPlace(
                str(name),
                tuple(orjson.loads(patterns)),
                int(position),
                str(owner or ""),
                int(epoch),
                max(0, last - position),
            )
            for name, patterns, position, owner, epoch in read(
                self._database, sql.SUBSCRIPTIONS, ()
            )
        ]

    # --- reading ----------------------------------------------------------------------------------

    def after(self, number: int, limit: int) -> list[Stored]:
        """Return the messages of all channels after one, in order, so many at most."""
        return [stored(row) for row in read(self._database, sql.AFTER, (number, limit, 0))]

    def scan(
        self, number: int, limit: int, channels: Sequence[str] | None
    ) -> tuple[list[Stored], int]:
        """Return the first messages after one, and up to where there are no others.

        Args:
            number: The one.
            limit: Messages at most.
            channels: Of these only; None for all channels.
        """
        if channels is None:
            found = self.after(number, limit)
            return found, found[-1].head.number if found else number
        # Before the messages are read: what comes meanwhile is beyond this.
        last = int(read(self._database, sql.LAST, ())[0][0] or 0)
        if last <= number:
            return [], number
        if len(channels) > 1:
            last = self._reach(number, last, limit, channels)
        rows = [
            row
            for each in channels
            for row in read(self._database, sql.ON, (each, number, last, limit, 0))
        ]
        found = sorted(map(stored, rows), key=lambda each: each.head.number)
        return found, found[-1].head.number if len(found) == limit else last

    def _reach(self, number: int, last: int, limit: int, channels: Sequence[str]) -> int:
        """Return up to where there are so many messages on some channels, at most *last*.

        The index alone tells it; read at once, each channel would have as many payloads read as all
        of them together may have.
        """
        numbers: list[int] = []
        for each in channels:
            rows = read(self._database, sql.NUMBERS_ON, (each, number, last, limit, 0))
            numbers = sorted([*numbers, *(row[0] for row in rows)])[:limit]
            if len(numbers) == limit:
                last = numbers[-1]
        return last

    def one(self, number: int) -> Stored | None:
        """Return a message; None where it was removed."""
        rows = read(self._database, sql.ONE, (number,))
        return stored(rows[0]) if rows else None

    def retries(self, name: str) -> list[Delivered]:
        """Return what became so far of the messages that a subscription is given again."""
        return [
            Delivered(int(number), RETRY, int(attempt), float(due or 0.0), deaths=int(deaths))
            for number, attempt, due, deaths in read(self._database, sql.RETRIES, (name,))
        ]

    def message(self, row: Stored) -> Message:
        """Return a message with its payload.

        Raises:
            DecodingError: This process does not know a type in it.
            StoreDamaged: It is not what was written.
        """
        payload = self._payload(row)
        return attrs.evolve(row.head, payload=payload)

    def _payload(self, row: Stored) -> Any:
        if row.artifact_id is None and not isinstance(row.inline, (bytes, memoryview)):
            raise StoreDamaged(
                f"the payload of message {row.head.number} is {shown(row.inline)}, and no "
                "bytes; restore a backup"
            )
        try:
            text = bytes(row.inline).decode() if row.artifact_id is None else None
        except UnicodeDecodeError as error:
            raise DecodingError(
                f"the payload of message {row.head.number} is no text: {error}"
            ) from error
        return self._payloads.decode(
            text, row.artifact_id, f"the payload of message {row.head.number}"
        )

    # --- what was given up ------------------------------------------------------------------------

    def dead_letters(self, agent: str | None = None) -> list[DeadLetter]:
        """Return the messages that subscriptions have given up, the oldest first."""
        found = []
        for row in self._dead(sql.DEAD, agent):
            each = stored(row[4:])
            try:
                message = self.message(each)
            except (DecodingError, StoreDamaged):  # what it failed with says so
                message = each.head
            found.append(DeadLetter(message, str(row[0]), str(row[1] or ""), row[2], row[3]))
        return found

    def given_up(self, agent: str | None = None) -> set[str]:
        """Return the ids of the messages that subscriptions have given up."""
        return {id_of(*row[1:]) for row in self._dead(sql.DEAD_IDS, agent)}

    def _dead(self, statement: Statement, agent: str | None) -> list[Sequence[Any]]:
        values = {"any_name": int(agent is None), "the_name": agent or ""}
        return list(read(self._database, statement, statement.in_order(values)))

    def replay(self, agent: str | None = None, ids: set[str] | None = None) -> int:
        """Let messages be given again that were given up; return how many.

        Args:
            agent: Of this subscription only.
            ids: These messages only.
        """
        return self._change(sql.REPLAY, agent, ids)

    def discard(self, agent: str | None = None, ids: set[str] | None = None) -> int:
        """Forget that messages were given up; return how many."""
        return self._change(sql.DISCARD, agent, ids)

    def _change(self, statement: Statement, agent: str | None, ids: set[str] | None) -> int:
        wanted = [
            row[:2]
            for row in self._dead(sql.DEAD_IDS, agent)
            if ids is None or id_of(*row[1:]) in ids
        ]
        count = 0

        def change(tx: Transaction) -> None:
            nonlocal count
            count = sum(tx.execute(statement, each) for each in wanted)

        if wanted:
            run_transaction(self._database, change, pages=2 + len(wanted))
        return count


def _ignore(_: object) -> None:
    """Take a result that says nothing here."""


def _conflict(outgoing: Outgoing, known: Sequence[Any]) -> DaggerError | None:
    message = outgoing.message
    channel, key, payload, artifact_id = known
    same = (channel, key, artifact_id) == (message.channel, message.key, outgoing.artifact_id)
    if same and (artifact_id is not None or bytes(payload) == outgoing.inline):
        return None
    return IdempotencyConflict(
        f"message {message.id!r} was published on channel {channel!r} with another content, and is "
        f"not published again on {message.channel!r}; give it an id of its own"
    )
