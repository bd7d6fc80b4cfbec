"""How far a run of another process has come, worked out from its record: its pulses."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.attempts import Another, attempt_of
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.notes import of_json
from dagger_dsl.engine.pulse import Doing, EndedNode, Pulse
from dagger_dsl.model.context import DEFAULT_KEY, call_name
from dagger_dsl.model.text import first_line
from dagger_dsl.views.stored_nodes import Opened

if TYPE_CHECKING:
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.news import Ended, News

__all__ = ["Course", "retries"]

#: So many nodes of a kind are told of; nobody reads more.
_ROWS: Final = 1000

#: States in which an invocation is over.
_OVER: Final = ("completed", "failed", "skipped", "cancelled")


@attrs.frozen
class _Next:
    """The attempt that follows one that failed.

    Attributes:
        seq: The place of the failure in the record.
        text: Which attempt it is, and what the last one failed with.
        due: When it begins, in seconds since 1970; None where that is not known.
    """

    seq: int
    text: str
    due: float | None


@attrs.define
class _Far:
    """How far a mapped node has come: how many of its calls ended, and how many failed."""

    since: float
    ended: int = 0
    failed: int = 0


class Course:
    """How far a run has come.

    One thread takes in what is new, another one asks how the run stands.

    Args:
        run_id: The run.
        graph: What it began with.
        news: How it stood at first.
    """

    def __init__(self, run_id: str, graph: Graph, news: News) -> None:
        self._run_id = run_id
        self._name = news.flow_name
        self._began = news.created_at or dt.datetime.now(dt.UTC)
        self._many = len(graph.nodes)
        # Slots are numbered as nodes are declared; later ones belong to invocations or to nodes
        # that were added, and which, the record does not say.
        self._machine = graph.machine is not None
        self._first = list(graph.nodes)
        self._over: set[str] = set()
        self._ends: dict[str, int] = {}  # of a machine: where the last cycle of a state stands
        self._begun: dict[str, float] = {}
        self._opened = Opened()
        self._maps: dict[str, _Far] = {}
        self._inside: Mapping[str, Pulse] = {}
        self._again: dict[tuple[str, str], _Next] = {}
        self._asking: dict[tuple[str, str], str] = {}
        self._prompts: dict[tuple[str, str], str] = {}
        self._failures: deque[Doing] = deque(maxlen=_ROWS)
        self._new: list[EndedNode] = []
        self._cycles = 0
        self._items = 0
        self._failed = 0
        self._status = news.status
        self._reason = ""
        self._lock = threading.Lock()

    def grow(self, graph: Graph) -> None:
        """Take the graph as it is now."""
        with self._lock:
            self._many = len(graph.nodes)

    def look_inside(self, inside: Mapping[str, Pulse]) -> None:
        """Take how the runs stand that are in it now, by node."""
        with self._lock:
            self._inside = inside

    # --- what has come ----------------------------------------------------------------------------

    def take_in(self, news: News) -> None:
        """Take what has come to the record."""
        with self._lock:
            self._status = news.status
            self._reason = str((news.error or {}).get("reason") or "")
            for entry in news.commands:
                self._opened.take(entry)
                if entry.key is not None and entry.key.startswith("asks "):
                    asked = _asked(entry.body)
                    if asked is not None:
                        self._prompts[asked[:2]] = asked[2]
            now = monotonic()
            for node_id in self._opened:
                if node_id not in self._over:
                    self._maps.setdefault(node_id, _Far(now))
            for each in news.attempts:
                self._attempt(each)
            for seq, slots in news.released:
                for slot in slots:
                    if 0 <= slot < len(self._first):
                        self._start(self._first[slot], seq, now)
            if news.status != "running":
                self._again.clear()

    def _start(self, node_id: str, seq: int, now: float) -> None:
        if node_id in self._over or self._ends.get(node_id, 0) > seq:
            return
        again = self._again.get((node_id, DEFAULT_KEY))
        if again is not None and again.seq > seq:  # that start is the one that failed
            return
        if again is not None:
            del self._again[node_id, DEFAULT_KEY]
            self._begun[node_id] = now
        self._begun.setdefault(node_id, now)

    def _attempt(self, each: Ended) -> None:
        name = (each.node_id, each.key)
        self._again.pop(name, None)
        self._asking.pop(name, None)
        if each.state == "waiting":
            self._asking[name] = self._prompts.get(name, "")
            return
        another = Another.of(each.meta) if each.state == "failed" else None
        if another is None:
            if each.state in _OVER:
                self._end(each)
            return
        text = f"{attempt_of(each.attempt + 1, another.allowed)}: {_what(each)}"
        ended = each.ended_at
        due = None if ended is None or another.delay is None else ended + another.delay
        self._again[name] = _Next(each.seq, text, due)

    def _end(self, each: Ended) -> None:
        failed = each.state == "failed"
        self._failed += failed
        if not (self._machine or each.key == DEFAULT_KEY):
            self._items += 1
            far = self._maps.get(each.node_id)
            if far is not None:
                far.ended += 1
                far.failed += failed
            return
        text = _what(each) if failed else ""
        if failed:
            self._failures.append(Doing(call_name(each.node_id, each.key), None, text))
        self._new.append(EndedNode(each.node_id, each.state, each.duration, text))
        self._begun.pop(each.node_id, None)
        if self._machine:
            self._cycles += 1
            self._ends[each.node_id] = each.seq
            return
        self._over.add(each.node_id)
        self._maps.pop(each.node_id, None)

    # --- how it stands ----------------------------------------------------------------------------

    def take(self, named: int = 0) -> Pulse:
        """Return how the run stands; see `Watch.take`."""
        with self._lock:
            goes_on = self._status == "running"
            done = self._cycles if self._machine else len(self._over)
            total = None if self._machine else max(self._many, done)
            calls = sum(map(self._opened.calls, self._opened))
            whole = None if total is None else total + max(calls, self._items)
            ended = done if self._machine else done + self._items
            running = tuple(islice(self._running(), _ROWS)) if goes_on else ()
            elapsed = (dt.datetime.now(dt.UTC) - self._began).total_seconds()
            return Pulse(
                name=self._name,
                run_id=self._run_id,
                status=self._status,
                reason=self._reason,
                elapsed=max(0.0, elapsed),
                done=done,
                total=total,
                fraction=None if whole is None else min(1.0, ended / max(1, whole)),
                calls=ended,
                failed=self._failed,
                running=running,
                waiting=tuple(islice(self._waiting(), _ROWS)) if goes_on else (),
                asking=tuple(
                    Doing(call_name(*name), None, prompt)
                    for name, prompt in islice(self._asking.items(), _ROWS)
                ),
                failures=tuple(self._failures),
                ended=self._ended(named),
                left=None if whole is None else whole - ended,
                mark=(self._status, ended, len(running), len(self._again), self._failed),
            )

    def _ended(self, named: int) -> tuple[EndedNode, ...]:
        """Return what has ended since the last look, of many only what failed and the newest."""
        new, self._new = self._new, []
        if not named:
            return ()
        if self._machine:
            return tuple(new[-named:])
        if self._many <= named:
            return tuple(new)
        failed = [each for each in new[:-1] if each.state == "failed"]
        return (*failed[-_ROWS:], *new[-1:])

    def _running(self) -> Iterator[Doing]:
        now = monotonic()
        for node_id, since in self._begun.items():
            name = (node_id, DEFAULT_KEY)
            if node_id not in self._maps and name not in self._again and name not in self._asking:
                yield Doing(node_id, now - since, *_far(self._inside.get(node_id)))
        for node_id, far in self._maps.items():
            text = f"{far.failed} failed" if far.failed else ""
            part = (far.ended, max(far.ended, self._opened.calls(node_id)))
            yield Doing(node_id, now - far.since, text, part)

    def _waiting(self) -> Iterator[Doing]:
        now = time()
        for name, again in self._again.items():
            left = None if again.due is None else max(0.0, again.due - now)
            # That a call of an invocation was begun again is not on record; it is when it is due.
            if left or name[1] == DEFAULT_KEY:
                yield Doing(call_name(*name), left, again.text)


def retries(news: News) -> Iterator[str]:
    """Yield a line for each attempt that failed and is tried again."""
    for each in news.attempts:
        another = Another.of(each.meta) if each.state == "failed" else None
        if another is not None:
            later = "" if another.delay is None else f" in {another.delay:.1f} s"
            number = attempt_of(each.attempt + 1, another.allowed)
            node = call_name(each.node_id, each.key)
            yield (
                f"attempt {each.attempt} of node {node!r} failed ({_what(each)}), "
                f"retrying{later} ({number})"
            )


def _far(inside: Pulse | None) -> tuple[str, tuple[int, int] | None]:
    """Return how far a run in a node has come, in words or in numbers."""
    if inside is None:
        return "", None
    if inside.total is None:
        return f"cycle {inside.done + 1}", None
    return "", (inside.done, inside.total)


def _asked(body: str) -> tuple[str, str, str] | None:
    """Return who asks what in an entry of the journal, where it can be read."""
    found: Any = of_json(body)
    asked = found.get("asks") if isinstance(found, dict) else None
    if not (isinstance(asked, dict) and {"node", "key", "prompt"} <= asked.keys()):
        return None
    return str(asked["node"]), str(asked["key"]), str(asked["prompt"])


def _what(each: Ended) -> str:
    return first_line(ErrorInfo(**each.error)) if each.error else each.state
