"""One call at a time, in the caller's thread; no thread and no event loop is made."""

from __future__ import annotations

import contextvars

from dagger_dsl.runners.base import ASYNC, TIMED, Bell, Board, labour

__all__ = ["SequentialRunner"]

_BEYOND = frozenset((ASYNC, TIMED, ASYNC | TIMED))


class SequentialRunner:
    """Makes every call in the thread that called `run`.

    It serves boards of plain functions without time limits; a limit needs a second thread, and an
    async function an event loop, so those boards go to the other runners with one slot.
    """

    def run(self, board: Board) -> None:
        """Block until the run is over."""
        bell = Bell()
        board.ring = bell.ring
        board.beyond = _BEYOND
        clock = board.clock

        def idle() -> bool:
            bell.wait(max(0.0, board.wake_at - clock()))
            return True

        def special(_slot: int) -> bool:
            raise AssertionError("a sequential board holds plain calls only")

        # The bodies' changes of context variables stay inside the run.
        contextvars.copy_context().run(labour, board, board.step, idle, special)
