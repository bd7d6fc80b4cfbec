"""`Memory`: how much memory Python uses at most, from one moment on.

Measured by `tracemalloc`, as the size of the process knows no lower bound: what an earlier run has
taken from the system it rarely gives back. Libraries that tell tracemalloc of theirs, as numpy
does, are counted.
"""

from __future__ import annotations

import threading

__all__ = ["Memory"]

_lock = threading.Lock()
_open = 0  # how many measure now
_ours = False  # whether they have begun the tracing


class Memory:
    """Measures from when it is made until `close`; several may do so at the same time."""

    def __init__(self) -> None:
        import tracemalloc

        global _open, _ours
        with _lock:
            if not _open:
                _ours = not tracemalloc.is_tracing()
                if _ours:
                    tracemalloc.start()
                else:
                    tracemalloc.reset_peak()  # what was used before is not ours
            _open += 1
            self._before = tracemalloc.get_traced_memory()[0]

    def close(self) -> int:
        """Return how many bytes were used at most beyond what was used at the beginning.

        Of measurements that overlap, each sees the highest use since the first one began.
        """
        import tracemalloc

        global _open
        with _lock:
            peak = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else self._before
            _open -= 1
            if not _open and _ours:
                tracemalloc.stop()
        return max(1, peak - self._before)
