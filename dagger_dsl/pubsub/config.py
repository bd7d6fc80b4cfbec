"""`PubSubConfig`, and what a bus is asked to do: `StartWith`, `Reactive`."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown
from dagger_dsl.model.config import DISPLAYS
from dagger_dsl.model.messages import check_channel
from dagger_dsl.model.policies import RetryPolicy, seconds, whole_number
from dagger_dsl.retry import as_policy

__all__ = ["PubSubConfig", "Reactive", "StartWith", "WorkflowSpec"]

_Seconds = float | dt.timedelta


@attrs.frozen(init=False)
class PubSubConfig:
    """What holds for a whole bus.

    Args:
        capacity: How many messages wait for one agent, at most, in memory; who publishes more has
            to wait. Of a database so many are read ahead, and up to ten times as many where the
            others wait behind those of their key.
        publish_timeout: Seconds that a publication may wait for room; None for ever.
        max_waiting: How many publications may wait for room at a time.
        max_channels: How many channels a bus may have.
        max_message_bytes: How many bytes a stored message may take.
        max_ids: How many ids that were given by hand are remembered in memory, the newest ones;
            their payloads live as long. A message whose id is forgotten is published once more. A
            database forgets none as long as it keeps the message.
        max_publications: How many messages one call may publish, where they are held back until it
            has succeeded.
        strict: Whether agents may publish only on channels that they name.
        retry: A `RetryPolicy`, or a number of extra calls, for agents that have none; None calls
            them once.
        dead_letters: How many given-up messages are kept in memory, the newest ones.
        dead_letter_channel: Where it is published that an agent gives a message up, as a mapping
            with ``agent``, ``error``, ``attempts``, ``message_id``, ``channel``, ``key`` and
            ``payload``; None for nowhere. What fails there is not published again. In memory the
            agent waits for room there, as all who publish; where there is none in time, that is
            logged, and only `PubSubExecutor.dead_letters` tells of the message.
        max_deaths: How many processes may die while they handle a message, before it is given up.
        keep: Seconds that a database keeps messages which all are done with; None for ever.
        grace: Seconds that a bus waits, when it is closed, for what is left to do.
        lease: Seconds without a sign of life after which another host may take over the
            subscriptions of a process.
        trace: How many messages are remembered in memory, the newest ones, with what became of
            them, for `PubSubExecutor.message_tree`; their payloads live as long. 0 remembers none
            and costs nothing. A database is its own record.
        progress: Whether channels and agents are shown while the bus runs, as
            `RunOptions.progress` shows runs: True for the display that fits where the process is,
            or ``bar`` (a table), ``picture`` or ``lines``.

    Raises:
        ConfigurationError: A value cannot be.
    """

    capacity: int
    publish_timeout: float | None
    max_waiting: int
    max_channels: int
    max_message_bytes: int
    max_ids: int
    max_publications: int
    strict: bool
    retry: RetryPolicy
    dead_letters: int
    dead_letter_channel: str | None
    max_deaths: int
    keep: float | None
    grace: float
    lease: float
    trace: int
    progress: bool | str

    def __init__(
        self,
        *,
        capacity: int = 1_000,
        publish_timeout: _Seconds | None = 60.0,
        max_waiting: int = 10_000,
        max_channels: int = 10_000,
        max_message_bytes: int = 16 * 1024 * 1024,
        max_ids: int = 10_000,
        max_publications: int = 10_000,
        strict: bool = False,
        retry: Any = None,
        dead_letters: int = 1_000,
        dead_letter_channel: str | None = None,
        max_deaths: int = 3,
        keep: _Seconds | None = None,
        grace: _Seconds = 10.0,
        lease: _Seconds = 60.0,
        trace: int = 0,
        progress: bool | str = False,
    ) -> None:
        if not isinstance(strict, bool):
            raise ConfigurationError(f"strict is True or False, not {shown(strict)}")
        policy = RetryPolicy(max_attempts=1) if retry is None else as_policy(retry)
        self.__attrs_init__(
            whole_number(capacity, "capacity"),
            None if publish_timeout is None else seconds(publish_timeout, "publish_timeout"),
            whole_number(max_waiting, "max_waiting"),
            whole_number(max_channels, "max_channels"),
            whole_number(max_message_bytes, "max_message_bytes"),
            whole_number(max_ids, "max_ids"),
            whole_number(max_publications, "max_publications"),
            strict,
            policy,
            whole_number(dead_letters, "dead_letters"),
            None if dead_letter_channel is None else check_channel(dead_letter_channel),
            whole_number(max_deaths, "max_deaths"),
            None if keep is None else seconds(keep, "keep"),
            seconds(grace, "grace"),
            seconds(lease, "lease", zero=False),
            whole_number(trace, "trace", least=0),
            _display(progress),
        )


def _display(value: Any) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and value in DISPLAYS):
        return value
    raise ConfigurationError(
        "progress is True, False, or the name of a display, not "
        f"{shown(value)}{did_you_mean(value, DISPLAYS)}"
    )


def _limit(value: _Seconds | None, what: str) -> float | None:
    return None if value is None else seconds(value, what)


class WorkflowSpec:
    """What a bus is asked to do, and when it has done it.

    Attributes:
        idle: It ends when nothing has been left to do for so many seconds; None: not for that. What
            waits in a database for agents of other processes is not for this one to do.
        count: It ends when agents have handled so many messages; None: not for that.
        timeout: It ends after so many seconds; None: not for that.
    """

    idle: float | None
    count: int | None
    timeout: float | None


@attrs.frozen(init=False)
class StartWith(WorkflowSpec):
    """Publish one message, and go on until nothing is left to do for the agents of this process.

    Args:
        channel: Where.
        payload: What.
        key, id: As in `PubSubExecutor.publish`.
        idle: Seconds without anything to do; 0 ends with the last message.
        count: Messages that agents handle, at most.
        timeout: Seconds in all.

    Raises:
        ConfigurationError: A value cannot be.
    """

    channel: str
    payload: Any
    key: str
    id: str | None
    idle: float | None
    count: int | None
    timeout: float | None

    def __init__(
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str = "",
        id: str | None = None,  # the field's name
        idle: _Seconds | None = 0.0,
        count: int | None = None,
        timeout: _Seconds | None = None,
    ) -> None:
        self.__attrs_init__(
            check_channel(channel),
            payload,
            key,
            id,
            _limit(idle, "idle"),
            None if count is None else whole_number(count, "count"),
            _limit(timeout, "timeout"),
        )


@attrs.frozen(init=False)
class Reactive(WorkflowSpec):
    """Handle what others publish, until something ends it.

    Args:
        idle: Seconds without anything to do; None goes on for ever.
        count: Messages that agents handle, at most.
        timeout: Seconds in all.

    Raises:
        ConfigurationError: A value cannot be.
    """

    idle: float | None
    count: int | None
    timeout: float | None

    def __init__(
        self,
        *,
        idle: _Seconds | None = None,
        count: int | None = None,
        timeout: _Seconds | None = None,
    ) -> None:
        self.__attrs_init__(
            _limit(idle, "idle"),
            None if count is None else whole_number(count, "count"),
            _limit(timeout, "timeout"),
        )
