"""Calls in worker threads that step the coordinator themselves.

A `Crew` holds the slots of a run as tokens: a worker needs one to make calls and gives it back when
it finds nothing to do. Workers are started when there is work for them and parked on a lock of
their own; waking one is the expensive part, so it happens only when more calls are released than
the worker at hand can take.

A thread cannot be stopped from outside. When a call overruns its limit its worker is abandoned:
the outcome is ignored and its slot goes to a fresh worker. All threads are
daemonic, so an abandoned one never keeps the process from ending.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from math import inf
from typing import Any

from dagger_dsl.runners.base import ASYNC, TIMED, Bell, Board, Overran, labour

__all__ = ["Crew", "ThreadRunner"]

logger = logging.getLogger("dagger_dsl.runners")

# How long a driver leaves those alone who step while it wants to (seconds).
_PATIENCE = 0.001


class _Worker:
    """A parked thread waits for its own lock; whoever releases it hands over a token."""

    __slots__ = ("lock", "seat")

    def __init__(self, seat: int) -> None:
        self.seat = seat
        self.lock = threading.Lock()
        self.lock.acquire()


class Crew:
    """Worker threads and the tokens they need.

    Attributes:
        tokens: One entry for each slot that nobody uses.
        over: The run has ended; workers leave.
        error: What broke a worker, if anything did: a fault of ours or a hook that leaves, never
            a body's.
        alarm: When the driver wakes by itself, so that a nearer deadline has to ring.
        hand_over: Gives a token to whoever runs an event loop.
        alone: There is such a loop and it makes all calls, plain ones too.
    """

    def __init__(self, board: Board, ring: Callable[[], None]) -> None:
        self.board = board
        self.tokens: list[None] = [None] * board.slots
        self.over = False
        self.error: BaseException | None = None
        self.alarm = inf
        self._ring = ring
        self._declined = False
        self._parked: list[_Worker] = []
        self._watch: dict[_Worker, tuple[float, int]] = {}
        self._context = contextvars.copy_context()
        self._seats = iter(range(board.slots))
        self._free_seats: list[int] = []
        self.hand_over: Callable[[], None] | None = None
        self.alone = False
        if board.announce is not None:
            board.announce = self._announcer(board.announce)
        board.between = self._between

    def _announcer(self, tell: Callable[[int, float], bool]) -> Callable[[int, float], bool]:
        stepping = self.board.lock

        def announce(slot: int, now: float) -> bool:
            with stepping:
                begins = not self.over and tell(slot, now)
            if self._declined:  # they took us for somebody who steps; we have a call to make
                self._ring()
            return begins

        return announce

    def _between(self, act: Callable[[], None]) -> None:
        with self.board.lock:
            if not self.over:
                act()
        if self._declined:
            self._ring()

    def step(self, now: float, *, driving: bool = False) -> bool:
        """Step the coordinator unless somebody else is at it; then spread what was released.

        Args:
            now: The clock.
            driving: The caller makes no calls itself.

        Returns:
            False when the run is over.
        """
        board, stepping = self.board, self.board.lock
        mine = 0 if driving else 1
        while not self.over:
            # Noted first: whoever holds the lock looks again after giving it back.
            self._declined = True
            if stepping.locked() and (driving or now < board.latest):
                break
            try:
                with stepping:  # an interrupt cannot fall between lock and block
                    self._declined = False
                    alive = board.step(now)
            except BaseException:
                self.finish()
                raise
            if not alive:
                self.finish()
                break
            if len(board.go) > mine:
                self.spread(len(board.go) - mine)
            if not driving and board.wake_at < self.alarm:  # the driver sets its alarm by it next
                self._ring()
            if board.listening:
                break
            if not board.odd and not self._declined and (board.go or not board.done):
                break
            now = board.clock()  # an outcome arrived while the others left the step to us
        return not self.over

    def set_alarm(self, nearest: float) -> float:
        """Return until when the driver can wait; a step that wants it earlier rings.

        Args:
            nearest: The next deadline of a call.
        """
        board = self.board
        wake_at = board.wake_at
        if board.lock.locked():  # what it says is being changed; asking at once again is a spin
            wake_at = max(wake_at, board.clock() + _PATIENCE)
        self.alarm = min(nearest, wake_at)
        return self.alarm

    def fail(self, error: BaseException) -> None:
        """End the run for a fault in a worker; the driver raises it."""
        if isinstance(error, Exception):  # else a hook wants to leave
            logger.error("a worker broke down", exc_info=error)
        self.error = self.error or error
        self.finish()

    def finish(self) -> None:
        """Send every worker home and wake the driver."""
        self.over = True
        self._ring()
        while True:
            try:
                worker = self._parked.pop()
            except IndexError:
                return
            worker.lock.release()

    def spread(self, calls: int) -> None:
        """Wake or start workers for *calls* released calls, as far as tokens go."""
        while calls > 0:
            try:
                self.tokens.pop()
            except IndexError:
                return
            calls -= 1
            self.wake()

    def wake(self) -> None:
        """Give the token in hand to the event loop, to a parked worker, or to a new one."""
        if self.hand_over is not None and (self.alone or self._next_is_async()):
            self.hand_over()
            return
        try:
            worker = self._parked.pop()
        except IndexError:
            if not self.over:  # the end of the run empties the list, too
                self._start()
        else:
            worker.lock.release()

    def _next_is_async(self) -> bool:
        try:
            return bool(self.board.kinds[self.board.go[0]] & ASYNC)
        except IndexError:  # somebody was faster; whoever gets the token gives it back
            return False

    def _is_over(self) -> bool:
        return self.over  # read anew: another thread may have set it between two looks

    def _start(self) -> None:
        worker = _Worker(self._take_seat())
        threading.Thread(
            target=self._context.copy().run,
            args=(self._work, worker),
            name="dagger-dsl-worker",
            daemon=True,
        ).start()

    def _take_seat(self) -> int:
        # An abandoned worker's seat goes to the one that takes its place.
        return self._free_seats.pop() if self._free_seats else next(self._seats)

    def _work(self, worker: _Worker) -> None:
        def idle() -> bool:
            return self._park(worker)

        def special(slot: int) -> bool:
            return self._special(worker, slot)

        try:
            labour(self.board, self.step, idle, special, worker.seat)
        except BaseException as error:
            self.fail(error)

    def _park(self, worker: _Worker) -> bool:
        """Give the token back and sleep until somebody hands one over."""
        if self.over:
            return False
        self._parked.append(worker)
        self.tokens.append(None)
        if self.board.go:  # released between our last look and now
            self.spread(len(self.board.go))
        if self._is_over():
            self.finish()
        worker.lock.acquire()
        return not self.over

    def _special(self, worker: _Worker, slot: int) -> bool:
        """Make a call that has a time limit, or hand an async one to the event loop."""
        board = self.board
        if board.kinds[slot] & ASYNC:
            board.go.appendleft(slot)
            return self._park(worker)
        if board.announce is not None and not board.announce(slot, board.clock()):
            return True
        board.flight[worker.seat] = slot
        deadline = board.clock() + board.limits[slot]
        self._watch[worker] = (deadline, slot)
        if deadline < self.alarm:
            self._ring()
        answer: Any
        board.started[slot] = board.clock()
        try:
            answer = board.calls[slot](*board.arguments(slot))
            failed = False
        except BaseException as error:
            answer = error
            failed = True
        if self._watch.pop(worker, None) is None:
            return False  # abandoned: somebody else has reported a timeout and has our token
        board.ended[slot] = board.clock()
        if failed:
            board.odd.append((slot, answer))
        else:
            board.settle(slot, answer)
        return True

    def expire(self, now: float) -> float:
        """Abandon the workers whose call has overrun; return the next deadline."""
        nearest = inf
        for worker, (deadline, slot) in self._watch.copy().items():  # others add and remove
            if deadline > now:
                nearest = min(nearest, deadline)
            elif self._watch.pop(worker, None) is not None:
                self._free_seats.append(worker.seat)
                self.board.ended[slot] = now
                self.board.odd.append((slot, Overran(self.board.limits[slot])))
                self.tokens.append(None)
        return nearest


class ThreadRunner:
    """Makes calls in up to ``board.slots`` daemonic threads; the caller keeps the timers."""

    def run(self, board: Board) -> None:
        """Block until the run is over."""
        bell = Bell()
        board.ring = bell.ring
        board.beyond = frozenset((ASYNC, ASYNC | TIMED))
        crew = Crew(board, bell.ring)
        clock = board.clock
        interrupted: KeyboardInterrupt | None = None
        try:
            while True:
                try:
                    crew.alarm = inf  # while we look, whoever sets a deadline rings
                    now = clock()
                    nearest = crew.expire(now)
                    if not crew.step(now, driving=True):
                        break
                    bell.wait(max(0.0, crew.set_alarm(nearest) - clock()))
                except KeyboardInterrupt as error:
                    if interrupted is not None:
                        raise
                    interrupted = error
                    board.interrupt()
        finally:
            crew.finish()
        if interrupted is not None:
            raise interrupted
        if crew.error is not None:
            raise crew.error
