"""Notices inside one process: who waits for what a commit of another thread brings.

They save time and nothing else: whoever waits looks at the database now and then all the same, as
what other processes commit comes without a notice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dagger_dsl.store.database import Database

__all__ = ["listen", "of_run", "of_tasks", "tell"]

_lock = threading.Lock()
_listeners: dict[str, tuple[Callable[[], None], ...]] = {}


def of_run(run_id: str) -> str:
    """Return the topic of what comes into the inbox of a run."""
    return f"run {run_id}"


def of_tasks(database: Database) -> str:
    """Return the topic of tasks that may be claimed."""
    return f"tasks {database.where}"


def listen(topic: str, wake: Callable[[], None]) -> Callable[[], None]:
    """Have *wake* called at each notice of a topic; return what ends that.

    Args:
        topic: As `of_run` and `of_tasks` make them.
        wake: Called in the thread that has committed; it returns at once.
    """
    with _lock:
        _listeners[topic] = (*_listeners.get(topic, ()), wake)

    def end() -> None:
        with _lock:
            left = tuple(each for each in _listeners.get(topic, ()) if each is not wake)
            if left:
                _listeners[topic] = left
            else:
                _listeners.pop(topic, None)

    return end


def tell(topic: str) -> None:
    """Wake those who listen to a topic."""
    for wake in _listeners.get(topic, ()):
        wake()
