"""`TaskLimits`: which ready tasks may not begin yet, because enough of their agent do already.

A claim asks it about one task after the other, inside of its transaction: all workers of a database
see the same running tasks and the same beginnings, and share one limit. SQLite lets one transaction
write at a time; on PostgreSQL two that claim at the same instant do not see each other, and may
begin so many tasks more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import sqlalchemy as sa

from dagger_dsl.model.rates import Rate
from dagger_dsl.store.schema import agent_starts, tasks
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = ["AgentLimit", "TaskLimits"]

_agent: Final = sa.bindparam("the_agent", type_=sa.Text())
_since: Final[sa.BindParameter[float]] = sa.bindparam("the_start", type_=sa.Double())

RUNNING: Final = Statement(
    sa.select(sa.func.count()).where(
        tasks.c.status == sa.literal_column("'running'"), tasks.c.agent_type == _agent
    )
)
STARTS: Final = Statement(sa.select(sa.func.count()).where(agent_starts.c.agent_type == _agent))
NTH_START: Final = Statement(
    sa.select(agent_starts.c.at)
    .where(agent_starts.c.agent_type == _agent)
    .order_by(agent_starts.c.at)
    .limit(sa.bindparam("the_limit", type_=sa.Integer()))
    .offset(sa.bindparam("the_first", type_=sa.Integer()))
)
INSERT_START: Final = Statement(
    sa.insert(agent_starts)
    .values(agent_type=_agent, at=sa.bindparam("the_moment", type_=sa.Double()))
    .inline()
)
# Those of a clock that was set back since would hold the agent up until it comes there again.
FORGET: Final = Statement(
    sa.delete(agent_starts).where(
        agent_starts.c.agent_type == _agent,
        sa.or_(
            agent_starts.c.at <= _since,
            agent_starts.c.at > sa.bindparam("the_end", type_=sa.Double()),
        ),
    )
)


@attrs.frozen
class AgentLimit:
    """What one agent's tasks keep to, over all workers of the database.

    Attributes:
        rate: How often they begin; None for as often as there are workers.
        max_running: How many run at the same time; None likewise.
    """

    rate: Rate | None = None
    max_running: int | None = None

    @property
    def is_one(self) -> bool:
        """Whether it limits anything."""
        return self.rate is not None or self.max_running is not None


class _Room:
    """What is left of an agent's limit, within one transaction."""

    def __init__(self, tx: Transaction, agent: str, limit: AgentLimit, now: float) -> None:
        self.places: int | None = None
        self.starts: int | None = None
        self.next_at: float | None = None
        if limit.max_running is not None:
            self.places = limit.max_running - (tx.scalar(RUNNING, (agent,)) or 0)
        if limit.rate is not None:
            rate = limit.rate
            values = {"the_agent": agent, "the_start": now - rate.per, "the_end": now + rate.per}
            tx.execute(FORGET, FORGET.in_order(values))
            began = int(tx.scalar(STARTS, (agent,)) or 0)
            self.starts = rate.count - began
            # Where the limit was a higher one before, more have begun than it lets begin now.
            first = tx.scalar(NTH_START, (agent, 1, max(0, -self.starts))) if began else now
            self.next_at = float(first) + rate.per


class TaskLimits:
    """Which tasks may begin, for the claims of one crew; one thread at a time asks.

    Args:
        limits: By agent; those that are not named have none.

    Attributes:
        next_at: Seconds since 1970 from which on one more task of an agent may begin whose rate
            held one back in the last exchange; None where none was.
    """

    def __init__(self, limits: Mapping[str, AgentLimit]) -> None:
        self.limit(limits)
        self._tx: Transaction | None = None
        self._rooms: dict[str, _Room] = {}
        self.next_at: float | None = None

    def limit(self, limits: Mapping[str, AgentLimit]) -> None:
        """Keep to other limits from now on."""
        self._limits = {name: each for name, each in limits.items() if each.is_one}

    def begin(self) -> None:
        """Forget what the last exchange, or the last attempt at this one, has found."""
        self._tx = None
        self._rooms = {}
        self.next_at = None

    def admits(self, tx: Transaction, number: int, agent: str, now: float) -> bool:
        """Return whether a ready task may begin; if so, it counts as begun.

        Args:
            tx: The transaction of the claim; what is counted is undone with it.
            number: The task.
            agent: Its agent.
            now: Seconds since 1970.
        """
        if tx is not self._tx:
            self.begin()
            self._tx = tx
        limit = self._limits.get(agent)
        if limit is None:
            return self.has_room(number, agent)
        room = self._rooms.get(agent)
        if room is None:
            room = self._rooms[agent] = _Room(tx, agent, limit, now)
        if room.places is not None and room.places <= 0:
            return False
        if room.starts is not None and room.starts <= 0:
            assert room.next_at is not None
            self.next_at = min(room.next_at, self.next_at or room.next_at)
            return False
        if not self.has_room(number, agent):
            return False
        if room.places is not None:
            room.places -= 1
        if room.starts is not None:
            room.starts -= 1
            tx.execute(INSERT_START, INSERT_START.in_order({"the_agent": agent, "the_moment": now}))
        return True

    def has_room(self, number: int, agent: str) -> bool:
        """Return whether this process has room for a task."""
        return True
