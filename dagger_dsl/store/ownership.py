"""Who owns a run: this process's name, what may be said of another owner, and the beat."""

from __future__ import annotations

import _thread
import datetime as dt
import functools
import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from typing import Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.store.database import Database
from dagger_dsl.store.forks import after_fork
from dagger_dsl.store.schema import flow_runs
from dagger_dsl.store.transactions import Statement, run_transaction

__all__ = ["Heart", "Owner", "this_owner"]

_logger = logging.getLogger("dagger_dsl.store")


@attrs.frozen
class Owner:
    """A process, told apart from every other one there ever was.

    Attributes:
        host, pid: For people.
        boot: The kernel's boot id: equal ones share locks, containers included.
        machine: The machine's id, to know a host again after a reboot.
        token: Drawn by the process.
    """

    host: str
    pid: int
    boot: str
    machine: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}"

    def shares_locks_with(self, other: Owner) -> bool:
        """Whether a free lock here proves that *other* is dead."""
        if self.boot and self.boot == other.boot:
            return True
        same_name = self.host == other.host
        return same_name and (self.machine == other.machine if self.machine else not other.boot)

    def to_text(self) -> str:
        """Return what the database keeps."""
        return orjson.dumps(attrs.asdict(self)).decode()

    @classmethod
    def of_text(cls, text: str) -> Owner:
        """Return the owner that a row names; what cannot be read is somebody on another host."""
        try:
            return cls(**orjson.loads(text))
        except (TypeError, ValueError):
            return cls("unknown", 0, "", "", text[:100])


def this_owner() -> Owner:
    """Return the name of this process."""
    return _owner(os.getpid())


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        boot=_first_line("/proc/sys/kernel/random/boot_id"),
        machine=_first_line("/etc/machine-id"),
        token=uuid.uuid4().hex,
    )


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""  # other systems have no such file; host and process id remain


_BEAT: Final = Statement(
    sa.update(flow_runs)
    .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
    .where(flow_runs.c.owner == sa.bindparam("the_owner", type_=sa.Text()))
    .values(
        beat=flow_runs.c.beat + sa.literal_column("1"),
        lease_expires_at=sa.bindparam("new_expiry", type_=flow_runs.c.lease_expires_at.type),
        owned_seconds=flow_runs.c.owned_seconds + sa.bindparam("more_seconds", type_=sa.Double()),
    )
)

_hearts: weakref.WeakSet[Heart] = weakref.WeakSet()
BEATS_PER_LEASE: Final = 3


class Heart:
    """Raises the beat of every run that this process owns in one database, from one thread.

    The thread starts with the first run of the store and ends with the store: it never touches an
    event loop, and a beat is one statement between two commits. Nobody waits for the thread to
    begin or to end, so a short run pays some microseconds for it.

    Args:
        database: Where.
        lease: Seconds without a beat after which another host may take a run over.
    """

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self.lease = lease
        self._start_over()
        _hearts.add(self)

    def _start_over(self) -> None:
        self._owned: dict[str, float] = {}  # until when the time is counted, by run
        self._resting: dict[str, float] = {}  # since when no time is counted, by run
        self._lock = threading.Lock()
        self._stop: threading.Lock | None = None  # held while a thread beats; releasing it ends it

    def add(self, run_id: str) -> None:
        """Beat for a run."""
        with self._lock:
            self._owned[run_id] = time.monotonic()
            if self._database.is_memory:
                return  # no other process can ever ask
            if self._stop is None:
                self._stop = threading.Lock()
                self._stop.acquire()
                _thread.start_new_thread(self._beat_on, (self._stop,))

    def remove(self, run_id: str) -> None:
        """Stop beating for a run."""
        with self._lock:
            self._owned.pop(run_id, None)
            self._resting.pop(run_id, None)

    def rest(self, run_id: str, resting: bool) -> None:
        """Count no time of a run from now on, or count it again; its lease is kept all the same."""
        with self._lock:
            now = time.monotonic()
            if resting and run_id in self._owned:  # it is not, once the store is closed
                self._resting.setdefault(run_id, now)
            elif run_id in self._resting:
                self._owned[run_id] += now - self._resting.pop(run_id)

    def _uncount(self, counted: Mapping[str, float]) -> None:
        with self._lock:
            for run_id in counted.keys() & self._owned.keys():
                self._owned[run_id] -= counted[run_id]

    def count(self, run_id: str) -> float:
        """Return for how many seconds a run was owned since this was last asked, but for rests."""
        with self._lock:
            now = self._resting.get(run_id) or time.monotonic()
            before = self._owned.get(run_id, now)
            if run_id in self._owned:
                self._owned[run_id] = now
        return now - before

    def stop(self) -> None:
        """End the thread, if there is one; a beat that is under way may still be made."""
        with self._lock:
            self._owned.clear()
            self._resting.clear()
            stop, self._stop = self._stop, None
        if stop is not None:
            stop.release()

    def expiry(self) -> dt.datetime:
        """Return the time of day, for people, until which a beat of now is good."""
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lease)

    def _beat_on(self, stop: threading.Lock) -> None:
        while not stop.acquire(timeout=self.lease / BEATS_PER_LEASE):
            with self._lock:
                owned = sorted(self._owned)
            if owned:
                self.beat(owned)

    def beat(self, owned: list[str]) -> None:
        """Raise the beats once; trouble is logged, as the next commit will meet it too."""
        counted: dict[str, float] = {}
        try:
            owner, expiry = this_owner().to_text(), self.expiry()
            counted = {each: self.count(each) for each in owned}
            named = [
                {
                    "new_expiry": expiry,
                    "more_seconds": more,
                    "the_run": each,
                    "the_owner": owner,
                }
                for each, more in counted.items()
            ]
            rows = [_BEAT.in_order(each) for each in named]
            run_transaction(self._database, lambda tx: tx.execute_many(_BEAT, rows))
        except Exception as error:
            self._uncount(counted)
            if self._stop is not None:  # else the store was closed meanwhile
                _logger.warning("could not renew the lease of %d runs: %s", len(owned), error)


def _in_child() -> None:
    for heart in list(_hearts):
        heart._start_over()


after_fork(_in_child)
