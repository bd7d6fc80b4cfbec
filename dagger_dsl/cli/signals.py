"""`Signals`: the first SIGINT or SIGTERM stops what goes on, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dagger_dsl.cli.screen import Screen

__all__ = ["Signals"]

#: A live display hides the cursor.
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


class Signals:
    """The first signal asks for an end, the second leaves the process. Use it around the work.

    Args:
        screen: Where to say so.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._stop: Callable[[str], object] | None = None
        self._number = 0
        self._since = 0.0
        self._told = False
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code that the first signal asks for, 0 without one."""
        return 128 + self._number if self._number else 0

    def guard(self, stop: Callable[[str], object]) -> None:
        """Say what stops the work, given the reason; a signal that came before stops it now."""
        self._stop = stop
        if self._number:
            stop(self._reason())

    def tell(self) -> None:
        """Say once that the work is being stopped; a handler may interrupt a write."""
        if self._number and not self._told:
            self._told = True
            self._screen.error("stopping; what has ended is recorded (again to leave at once)")

    def overdue(self, seconds: float) -> bool:
        """Return whether the work should have ended by now."""
        return bool(self._number) and time.monotonic() - self._since > seconds

    def leave(self) -> None:
        """End the process; what is recorded is whole at any moment.

        Nothing is flushed: whoever holds the lock of a stream may never give it back.
        """
        if self._screen.is_terminal:
            os.write(2, _SHOW_CURSOR)
        os._exit(self.code)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _reason(self) -> str:
        return f"stopped by {signal.Signals(self._number).name}"

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._number:
            self._number = number
            self.leave()
        self._number, self._since = number, time.monotonic()
        if self._stop is not None:
            self._stop(self._reason())
