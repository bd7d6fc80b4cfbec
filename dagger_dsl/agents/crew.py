"""`Crew`: the workers of one process: threads that claim tasks, call agents, and hand in results.

The threads share one desk, and one event loop, on which async agents run: these hold no thread. Who
has ended a task goes to the desk, hands in what has ended meanwhile, its own and others', and takes
what may begin, for itself and for those who wait, in one commit; the others do not wait for it but
where they have nothing to do. Nothing polls while there is work; a crew without any looks at the
database now and then, as other processes may have added tasks.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from dagger_dsl.agents.admission import CrewLimits, crew_limits
from dagger_dsl.agents.calling import Calling
from dagger_dsl.agents.watch import Watch
from dagger_dsl.errors import StoreError
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store.notices import listen, of_tasks
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims
from dagger_dsl.store.task_steps import DIED, SILENT
from dagger_dsl.store.workers import Worker

if TYPE_CHECKING:
    from dagger_dsl.agents.definition import AgentDef
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.store.database import Database

__all__ = ["Crew"]

logger = logging.getLogger("dagger_dsl.agents")

#: Seconds between two looks at the database while there is nothing to do: at first, and at most.
_SOON: Final = 0.01
_LATER: Final = 0.25

#: Seconds between two tries while nothing can be recorded, at most.
_LATEST: Final = 5.0

#: Seconds between two looks for workers of this host that have died, at most.
_PATROL: Final = 0.5

#: Seconds that who stops waits for calls without a word.
_SILENT: Final = 0.25

#: Seconds that who stops waits for a commit that goes on.
_LEAVE: Final = 5.0

#: Seconds between two signs of life, at most: others may have a shorter lease.
_BEAT: Final = 5.0

#: An agent whose calls take less is quick, in seconds: as long as nothing has ended for this long,
#: and no task begins that may take longer, endings and claims are kept together for one commit.
_QUICK: Final = 0.001
_TOGETHER: Final = 0.005

#: Seconds after which others are given what waits for a call of this crew.
_TIDY: Final = 0.1

#: Tasks that are named to who waits for them.
_NAMED: Final = 3

#: Tasks that a crew holds beside those that it runs, at most.
_AHEAD: Final = 64


class Crew:
    """Threads that run the tasks of some agents.

    Args:
        manager: Whose.
        size: Tasks that run at a time.
        lease: Seconds without a sign of life after which others may take the tasks over.
        told: Called with the endings that were recorded, after each commit.

    Attributes:
        name: What the workers are called in the record; no other crew has it.
        trouble: Why nothing can be recorded now; None where it can.
    """

    def __init__(
        self,
        manager: TaskManager,
        size: int,
        lease: float,
        told: Callable[[list[Ending]], object] | None = None,
    ) -> None:
        self.trouble: Exception | None = None
        self._told = told
        self._manager = manager
        self._claims: TaskClaims = manager._claims
        self._database: Database = manager._store.database
        self._worker = Worker(self._database, lease)
        self.name = self._worker.name
        self._size = size
        self._desk = threading.Condition()
        self._ended: deque[Ending] = deque()
        self._claimed: deque[Claim] = deque()
        self._calls: set[Claim] = set()  # tasks whose agents are being called
        self._awaited = 0  # those of them on the event loop
        self._waiting = 0  # threads that have nothing to do
        self._working = 0  # threads that there are
        self._at_desk = False
        self._stopping = False
        self._over = False
        self._woken = False
        self._pause = _SOON
        self._due = -math.inf  # when to look for tasks whose time has come
        self._looked_at = -math.inf
        self._ended_at = 0.0  # the oldest of those that have ended
        self._paces: dict[str, float] = {}  # seconds of an agent's calls
        self._threads: list[threading.Thread] = []
        self._calling = Calling(manager, self._sent, self._returned)
        self._stop = threading.Event()
        self._patience = _LATER
        self._lost = 0
        self._deaf: Callable[[], object] = bool
        self._watch = Watch(manager, manager._jobs, self.name, lease / 3)
        self._known: dict[str, AgentDef] = {}
        self._limits: CrewLimits | None = None

    # --- from outside -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._worker.arrive()
        with self._desk:
            self._call_threads(1)
        self._begin("patrol", self._look_after)
        if not self._database.is_memory:
            self._deaf = listen(of_tasks(self._database), self.wake)

    def _call_threads(self, number: int) -> None:
        """Wake, or begin, threads; called with the desk's lock."""
        self._desk.notify(number)
        for _ in range(min(number - self._waiting, self._size - self._working)):
            self._working += 1
            self._begin(str(self._working), self._work)

    def _begin(self, what: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"dagger-worker-{what}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wake(self) -> None:
        """Say that there may be something to do."""
        with self._desk:
            self._woken = True
            self._pause = _SOON
            self._desk.notify()

    def stop(self, grace: float) -> int:
        """Begin nothing more; after *grace* seconds give back what has not ended.

        Args:
            grace: Seconds.

        Returns:
            How many calls were left behind, in threads that cannot be stopped.
        """
        self._deaf()
        with self._desk:
            self._stopping = True
            self._give_back()
            self._desk.notify_all()
        self._stop.set()
        try:
            self._wait_for_calls(grace)
        finally:  # an interrupt leaves at once, in order
            self._leave()
        return len(self._calls)

    def _wait_for_calls(self, grace: float) -> None:
        """Wait until the threads have ended; say so where that takes a while."""
        deadline = time.monotonic() + grace
        if grace > _SILENT and not self._join(time.monotonic() + _SILENT):
            with self._desk:
                calls = sorted(self._calls, key=lambda each: each.number)
            logger.warning("%s", _waits_for(calls, grace))
        self._join(deadline)

    def _join(self, deadline: float) -> bool:
        """Wait for the threads until a time; return whether all have ended."""
        for each in self._threads:
            if each is not threading.current_thread():
                each.join(max(0.0, deadline - time.monotonic()))
                if each.is_alive():
                    return False
        return True

    def _leave(self) -> None:
        """Record what has ended, give back what has not, and go."""
        with self._desk:
            self._over = True  # what ends from now on belongs to others
            self._desk.notify_all()
            self._desk.wait_for(lambda: not self._at_desk, _LEAVE)
            self._give_back()
            endings = list(self._ended)
            self._ended.clear()
        self._calling.interrupt_all()
        if endings:
            self._hand_in(endings)
        with contextlib.suppress(StoreError):
            self._claims.rescue(self.name, cause="its worker was stopped")
        if self._limits is not None:
            self._limits.close()
        self._calling.close()
        self._worker.leave()

    def cancel(self, task_id: str) -> None:
        """Interrupt the call of a task, where it can be: an async one, or one not begun.

        Only one whose claim is over: who cancels tells of it afterwards, and the task may have been
        tried again meanwhile, and be called here anew.
        """
        self._calling.note_cancel(task_id)  # first: its call may be about to begin
        with self._desk:
            waiting = [each for each in self._claimed if each.id == task_id]
        stale = {each for each in waiting if self._calling.is_over(each)}
        with self._desk:
            for each in [each for each in self._claimed if each in stale]:
                self._claimed.remove(each)
                self._ended.append(Ending(each, TaskStatus.READY, begun=False))
        for claim in self._calling.interruptible_calls():
            if claim.id == task_id and self._calling.is_over(claim):
                self._calling.interrupt(claim)

    def interruptible(
        self, claim: Claim, cancel: Callable[[], object]
    ) -> AbstractContextManager[None]:
        """Let `cancel` interrupt what the call of a task is waiting for."""
        return self._calling.interruptible(claim, cancel)

    # --- the desk ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            claim = self._next()
            if claim is None:
                return
            ending = self._call(claim)
            if ending is not None:
                self._let_go(claim)
                with self._desk:
                    self._end(ending)

    def _let_go(self, claim: Claim) -> None:
        """Give back the room of a task; not with the desk's lock, as others are told of it."""
        if self._limits is not None:
            self._limits.ended(claim)

    def _end(self, ending: Ending) -> None:
        """Keep what is to be handed in; called with the desk's lock."""
        self._calls.discard(ending.claim)
        if not self._ended:
            self._ended_at = time.monotonic()
        self._ended.append(ending)

    def _next(self) -> Claim | None:
        """Return what this thread does next, None when it may go home."""
        with self._desk:
            while True:
                if self._over or (self._stopping and not (self._ended or self._awaited)):
                    return None
                if self._claimed and not self._must_hand_in(self._claimed[0]):
                    claim = self._claimed.popleft()
                    self._calls.add(claim)
                    return claim
                if self._at_desk or not (self._ended or self._is_time()):
                    self._wait()
                    continue
                self._go_to_desk()

    def _must_hand_in(self, claim: Claim) -> bool:
        """Return whether what has ended is recorded before a task begins."""
        if not self._ended or self._at_desk:
            return False
        if self._holds(claim) >= _QUICK:
            return True
        return time.monotonic() - self._ended_at >= _TOGETHER

    def _holds(self, claim: Claim) -> float:
        """Return for how many seconds a task is likely to hold a thread."""
        pace = self._paces.get(claim.agent)
        if pace is not None:
            return pace
        return 0.0 if self._is_async(claim.agent) else _QUICK

    def _is_time(self) -> bool:
        if self._woken:
            self._woken = False
            return True
        return time.monotonic() >= self._looked_at + self._pause

    def _wait(self) -> None:
        left = self._pause
        if not self._at_desk:
            left += self._looked_at - time.monotonic()
        self._waiting += 1
        self._desk.wait(max(0.0, left))
        self._waiting -= 1

    def _go_to_desk(self) -> None:
        """Hand in and take, without the others; called with the desk's lock, which is lent out."""
        self._at_desk = True
        endings = [self._ended.popleft() for _ in range(len(self._ended))]
        wanted = 0 if self._stopping else self._size - len(self._calls) - len(self._claimed)
        self._desk.release()
        claims: list[Claim] = []
        try:
            claims = self._exchange(endings, wanted)
        finally:
            self._desk.acquire()
            self._at_desk = False
            self._looked_at = time.monotonic()
            self._claimed.extend(claims)
            self._pause = _SOON if claims or endings else min(_LATER, self._pause * 1.5)
            if self._stopping:
                self._give_back()
            if self._limits is not None and self._limits.next_at is not None and not claims:
                self._pause = min(_LATER, max(0.0, self._limits.next_at - self._claims.now()))
            # Calls that are over before another thread is awake need none.
            takes = sum(map(self._holds, self._claimed))
            self._call_threads(min(len(self._claimed), int(takes / _QUICK)))

    def _exchange(self, endings: list[Ending], wanted: int) -> list[Claim]:
        claims: list[Claim] = []
        limits: CrewLimits | None = None
        try:
            agents, limits = self._agents(), self._limits
            if limits is not None:
                for each in endings:
                    if not each.begun:
                        limits.ended(each.claim)
                limits.begin()
            self._look_at_times()
            if not endings and (wanted <= 0 or not self._claims.has_ready(agents)):
                return []  # who has nothing to do must not keep others from writing
            # What is limited is claimed only when it begins.
            quick = self._quick() if limits is None else {}
            ahead = int(_TOGETHER / max(quick.values())) if quick else 0
            claims, late, over = self._claims.exchange(
                self.name,
                endings,
                agents=agents,
                wanted=wanted,
                ahead=min(ahead, _AHEAD),
                quick=quick,
                limits=limits,
            )
            self.trouble = None
        except StoreError as error:
            # Trouble with storage is no result: it is handed in again.
            self._ended.extendleft(reversed(endings))
            self._trouble(error)
            return []
        except Exception as error:  # a fault of ours, which is not to hold everybody up
            self._trouble(error)
            self._hand_in(endings)
            return []
        finally:
            if limits is not None:
                limits.settle(claims, wanted)
        for each in endings:
            if each.due_at is not None:
                self._due = min(each.due_at, self._due)
        self._tell(endings, late, over)
        return claims

    def _hand_in(self, endings: Sequence[Ending]) -> None:
        """Hand in one ending after the other; what cannot be recorded fails its task alone."""
        for each in endings:
            try:
                _, late, over = self._claims.exchange(self.name, [each])
                self._tell([each], late, over)
            except StoreError as error:
                logger.warning("what task %r gave was not recorded: %s", each.claim.id, error)
                self._ended.append(each)  # who comes to the desk next hands it in
            except Exception as error:
                logger.exception("what task %r gave cannot be recorded", each.claim.id)
                text = f"what it gave cannot be recorded: {type(error).__name__}"
                with contextlib.suppress(Exception):  # it is rescued when this crew ends
                    self._claims.exchange(
                        self.name, [Ending(each.claim, TaskStatus.FAILED, error=text)]
                    )

    def _tell(self, endings: list[Ending], late: list[Ending], over: list[str]) -> None:
        for each in late:
            if each.begun:
                logger.warning(
                    "task %r ended after it was given to somebody else; its outcome is refused",
                    each.claim.id,
                )
        try:
            if self._told is not None and endings:
                self._told([each for each in endings if each not in late and each.begun])
            if over:
                self._manager._changed()
        except Exception:  # a closed pipe, perhaps; what was claimed must not be lost by it
            logger.exception("what has ended could not be told")

    def _agents(self) -> list[str]:
        """Return the agents that this crew has by now, whose limits it knows."""
        known = self._manager._roster.here()
        if known != self._known:
            self._known = known
            if self._limits is None:
                self._limits = crew_limits(known, self._manager.resources, self.wake)
                self._calling.limits = self._limits
            else:
                self._limits.learn(known)
        return list(known)

    def _quick(self) -> dict[str, float]:
        """Return the agents whose next call is likely to be over at once, and how long it takes."""
        return {
            name: pace
            for name, pace in tuple(self._paces.items())
            if pace < _QUICK and not self._is_async(name)
        }

    def _is_async(self, name: str) -> bool:
        caller = self._manager._roster.known_caller(name)
        return caller is not None and caller.is_async

    def _look_at_times(self) -> None:
        """Make those tasks ready whose time has come, other processes' among them."""
        now = self._claims.now()
        if now >= self._due:
            after = self._claims.wake()
            self._due = now + _LATER if after is None else min(after, now + _LATER)

    def _trouble(self, error: Exception) -> None:
        pause = _LATER if self.trouble is None else min(_LATEST, 2 * self._patience)
        self.trouble, self._patience = error, pause
        logger.warning(
            "the tasks cannot be recorded now, which is tried again in %g s: %s",
            pause,
            error,
            exc_info=not isinstance(error, StoreError),
        )
        if self._stop.wait(pause):
            time.sleep(_LATER)

    def _give_back(self) -> None:
        """Let others have what has not begun; called with the desk's lock."""
        while self._claimed:
            self._ended.append(Ending(self._claimed.popleft(), TaskStatus.READY, begun=False))

    def _tidy(self) -> None:
        """Hand in, and give back, what lies behind a call that takes longer than it used to."""
        with self._desk:
            held = self._ended or self._claimed
            if held and not self._at_desk and time.monotonic() - self._looked_at >= _TIDY:
                self._give_back()
                self._go_to_desk()

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, claim: Claim) -> Ending | None:
        """Call the agent of a task; see `Calling.run`."""
        begun = time.monotonic()
        try:
            return self._calling.run(claim)
        finally:
            took = time.monotonic() - begun
            before = self._paces.get(claim.agent, took)
            self._paces[claim.agent] = max(took, before + (took - before) / 5)

    def _sent(self) -> None:
        """Count a call that the event loop goes on with."""
        with self._desk:
            self._awaited += 1

    def _returned(self, claim: Claim, ending: Ending | None) -> None:
        """Take back a call that the event loop went on with."""
        self._let_go(claim)
        with self._desk:
            self._awaited -= 1
            if ending is None:
                self._calls.discard(claim)
            else:
                self._end(ending)
            self._desk.notify()

    # --- looking after ----------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Show that this crew lives, and take over what others leave when they die."""
        lease = self._worker.lease
        looked = beaten = time.monotonic()
        while not self._stop.wait(min(_TIDY, lease / 6)):
            try:
                self._tidy()
                self._calling.look()
                now = time.monotonic()
                if now - looked < min(_PATROL, lease / 6):
                    continue
                looked = now
                if now - beaten >= min(_BEAT, lease / 3):
                    beaten = now
                    self._beat()
                self._interrupt_lost()
                self._rescue()
                self._watch.look()
            except Exception as error:  # whatever it is, this thread has to live
                if self._stop.is_set():
                    return
                logger.warning("could not look after jobs and workers: %s", error)

    def _beat(self) -> None:
        calls = self._calls.copy()
        if not calls:
            return
        lost = len(calls & self._calls) - self._claims.beat(self.name, self._worker.lease)
        # Cancelled ones are lost, too, and may have been given to others since.
        taken = lost > max(0, self._lost) and sum(map(self._claims.was_taken, calls & self._calls))
        if taken:
            logger.warning(
                "tasks that run here were given to other workers, as this process gave no sign of "
                "life for %g s; what comes of %d calls is refused",
                self._worker.lease,
                taken,
            )
        self._lost = lost

    def _interrupt_lost(self) -> None:
        """Interrupt what can be of tasks that others have cancelled, or given to somebody else."""
        calls = self._calling.interruptible_calls()
        held = self._claims.held_by(self.name) if calls else set()
        for claim in calls:
            if (claim.number, claim.version) not in held:
                self._calling.interrupt(claim)

    def _rescue(self) -> None:
        for owner in self._worker.gone(self._claims.owners()):
            cause = DIED if self._worker.has_died(owner) else SILENT
            again = self._claims.rescue(owner, cause=cause)
            logger.warning("worker %s: %s; %d of its tasks run again", owner, cause, len(again))
            self.wake()


def _waits_for(calls: Sequence[Claim], grace: float) -> str:
    """Return in words what who stops waits for."""
    if not calls:
        return f"stopping waits up to {grace:g} s until what has ended is recorded"
    named = ", ".join(f"task {each.id!r} of agent {each.agent!r}" for each in calls[:_NAMED])
    more = f" and {len(calls) - _NAMED:,} more" if len(calls) > _NAMED else ""
    return (
        f"stopping waits up to {grace:g} s for {named}{more} to end, and gives back then what has "
        "not; Ctrl-C (again) leaves at once"
    )
