"""What ends a bus: nothing left to do, a count, a time, or somebody who says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagger_dsl.pubsub.config import WorkflowSpec
    from dagger_dsl.pubsub.home import Home
    from dagger_dsl.pubsub.life import BusLife

__all__ = ["wait_for_end"]


async def wait_for_end(bus: BusLife, home: Home, spec: WorkflowSpec) -> str:
    """Wait until something ends a bus, and return what.

    Args:
        bus: Which; counting what is handled is its own affair.
        home: Its home; this is called in its loop.
        spec: What it may end for.
    """
    deadline = None if spec.timeout is None else home.loop.time() + spec.timeout
    while True:
        if spec.idle is None:
            stopped = await home.until(lambda: bus._reason is not None, deadline)
            return bus._reason or "stopped" if stopped else "timeout"
        if not await home.until(bus._is_over, deadline):
            return "timeout"
        if bus._reason is None and spec.idle > 0:
            before = bus._activity()
            end = home.loop.time() + spec.idle
            is_late = deadline is not None and deadline < end
            if await home.until(lambda: bus._reason is not None, deadline if is_late else end):
                return bus._reason or "stopped"
            if is_late:
                return "timeout"
            if bus._activity() != before or not bus._is_over():
                continue
        return bus._reason or "idle"
