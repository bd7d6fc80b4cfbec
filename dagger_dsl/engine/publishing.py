"""What a run publishes: an `EmitEvent` with a channel becomes a message in the run's database.

The message is stored in the transaction that records the command, so it is there if, and only if,
the command is. Its id says which of the run's events it is, so that a transaction that is tried
again stores it once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.messages import Message, derived_id

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.model.commands import EmitEvent
    from dagger_dsl.store.transactions import Transaction

__all__ = ["publication"]

logger = logging.getLogger("dagger_dsl.engine")


def publication(run: Run, command: EmitEvent, number: int) -> Callable[[Transaction], None]:
    """Return the step that stores an event's message with the commit that records the event.

    Args:
        run: Whose event it is.
        command: With a channel.
        number: Which event of the run it is.

    Raises:
        ConfigurationError: The run is not recorded where a subscriber could find the message.
        EncodingError, MessageTooLarge: The payload cannot be stored.
    """
    from dagger_dsl.store.messages import MessageRows  # runs that publish nothing do not load it

    store = run.store
    if run.journal is None or not run.journal.shared or store is None:
        raise ConfigurationError(
            f"event {command.name!r} is to be published on channel {command.channel!r}, and "
            "subscribers find it in the run's database; give the run one that is not in memory, "
            "such as database_url='sqlite:runs.db', or leave the channel out"
        )
    rows = MessageRows(store.database, store._payloads)
    assert command.channel is not None
    message = Message(
        command.channel,
        command.payload,
        command.key,
        derived_id("run", run.run_id, number),
        time.time(),
        f"run:{run.dag_name}",
    )
    outgoing = rows.encoded(message, named=True)
    rows.place((outgoing,))

    def store_it(tx: Transaction) -> None:
        (fault,) = rows.append(tx, (outgoing,))
        if fault is not None:  # somebody has published under this run's name
            logger.error("%s", fault, extra={"run_id": run.run_id, "dag_name": run.dag_name})

    return store_it
