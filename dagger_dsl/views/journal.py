"""The record of a run, entry by entry, in words: attempts, retries, skips, commands, questions.

What has no time of its own in the record (a skip, a hook's command) stands between its neighbours,
in the order in which it was recorded.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.attempts import Another, from_epoch
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.notes import of_json
from dagger_dsl.errors import cut
from dagger_dsl.model.context import DEFAULT_KEY, call_name
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.text import first_line
from dagger_dsl.store.records import StoredCommand
from dagger_dsl.views.plain import duration

if TYPE_CHECKING:
    from dagger_dsl.store.news import Ended, News, Request

__all__ = ["Entry", "entries"]

#: Characters of a value or a list of names.
_LONG: Final = 120

#: How `event_key` says which event a hook answered.
_HOOK: Final = re.compile(r"(?P<hook>.+?) \d+ (?P<event>(?:Node|Run|custom|Human)\w*)\b")


@attrs.frozen
class Entry:
    """One line of a run's record.

    Attributes:
        at: When it happened, UTC; None where that is not recorded.
        node: Which node, ``node[key]`` of an invocation; empty for the run as a whole.
        kind: ``started``, ``retry``, the state in which something ended, ``opened``, ``question``,
            ``answer``, ``command``, ``refused`` or ``unreadable``.
        text: What happened.
    """

    at: dt.datetime | None
    node: str
    kind: str
    text: str

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "at": None if self.at is None else self.at.isoformat(),
            "node": self.node or None,
            "kind": self.kind,
            "text": self.text,
        }


def entries(news: News, requests: Mapping[int, Request]) -> list[Entry]:
    """Return what came to a record as lines, oldest first.

    Args:
        news: What came.
        requests: What other processes asked of the run, by number.
    """
    record: list[Ended | StoredCommand] = sorted(
        [*news.attempts, *news.commands], key=lambda each: each.seq
    )
    begun = {
        (each.node_id, each.key, each.attempt): each.started_at
        for each in news.attempts
        if each.started_at is not None
    }
    places: list[tuple[float, int, int, Entry]] = []
    now = float("-inf")  # a clock that was set back must not turn the order of the record
    for each in record:
        for place, entry in enumerate(_told(each, requests, begun)):
            at = now if entry.at is None else entry.at.timestamp()
            if entry.kind != "started":  # which is recorded with its end, and goes where it belongs
                at = now = max(now, at)
            places.append((at, each.seq, place, entry))
    return [entry for *_, entry in sorted(places, key=lambda each: each[:3])]


def _told(
    each: Ended | StoredCommand,
    requests: Mapping[int, Request],
    begun: Mapping[tuple[str, str, int], float],
) -> list[Entry]:
    try:
        if isinstance(each, StoredCommand):
            return list(_of_command(each, requests))
        return list(_of_attempt(each, begun))
    except (LookupError, TypeError, ValueError, OverflowError):
        return [Entry(None, "", "unreadable", f"entry {each.seq}, which cannot be read")]


# --- attempts ------------------------------------------------------------------------------------


def _of_attempt(ended: Ended, begun: Mapping[tuple[str, str, int], float]) -> Iterator[Entry]:
    node, at = call_name(ended.node_id, ended.key), ended.ended_at
    reason = first_line(ended.meta.get("reason", ""))
    because = f": {reason}" if reason else ""
    if ended.started_at is None or at is None:
        yield Entry(None, node, ended.state, f"{ended.state}{because}")
        return
    number = f" (attempt {ended.attempt})" if ended.attempt > 1 else ""
    cache = ended.meta.get("cache")
    if isinstance(cache, Mapping) and cache.get("hit"):
        text = f"completed without a call: {first_line(cache.get('reason', 'cached'))}"
        yield Entry(from_epoch(at), node, "completed", text)
        return
    yield Entry(from_epoch(ended.started_at), node, "started", f"started{number}")
    answered = ended.meta.get("answered")
    if isinstance(answered, Mapping):
        by = f" by {first_line(answered['by'])}" if answered.get("by") else ""
        yield Entry(None, node, "answer", f"completed: answered{by}")
        return
    took = duration(ended.duration or 0.0)
    if ended.state == "waiting":
        yield Entry(from_epoch(at), node, "waiting", f"waits for an answer{because}")
        return
    if ended.state != "failed":
        how = ", recovered by its failure handler" if ended.meta.get("recovered") else ""
        yield Entry(from_epoch(at), node, ended.state, f"{ended.state} in {took}{how}{because}")
        return
    delay = None
    another = Another.of(ended.meta)
    if another is not None:
        delay = another.delay
    else:  # recorded by an earlier version, it shows in the attempt that came
        again = begun.get((ended.node_id, ended.key, ended.attempt + 1))
        delay = None if again is None else max(0.0, again - at)
    later = "" if delay is None else f"; tried again after {duration(delay)}"
    kind = "failed" if another is None and delay is None else "retry"
    yield Entry(from_epoch(at), node, kind, f"failed in {took}: {_error(ended.error)}{later}")


def _error(error: Mapping[str, Any] | None) -> str:
    return "no error was recorded" if error is None else first_line(ErrorInfo(**error))


# --- what is not an attempt ----------------------------------------------------------------------


def _of_command(entry: StoredCommand, requests: Mapping[int, Request]) -> Iterator[Entry]:
    body = of_json(entry.body)
    if not isinstance(body, Mapping):
        return
    number = (entry.key or "").removeprefix("inbox:")
    request = requests.get(int(number)) if number.isdigit() else None
    at = None if request is None else request.created_at
    plain = body.get("command")
    if plain is None and request is not None:  # such as an answer, which changes the node alone
        plain = of_json(request.body)
    if "asks" in body:
        asked = body["asks"]
        node = call_name(str(asked["node"]), str(asked["key"]))
        does = "asks" if asked.get("job") is None else "waits for"
        yield Entry(None, node, "question", f"{does}: {first_line(asked['prompt'])}")
    elif "open" in body:
        count = int(body["to"]) - int(body["from"])
        calls = "1 invocation" if count == 1 else f"{count} invocations"
        yield Entry(None, str(body["open"]), "opened", f"begins {calls}")
    elif "refused" in body:  # of a hook's commands it is not kept which
        what = "a command" if plain is None else _command(plain)
        why = first_line(body["refused"]["message"])
        text = f"refused: {what}{_who(entry.key, request)}: {why}"
        yield Entry(at, "", "refused", text)
    elif isinstance(plain, Mapping):
        yield Entry(at, "", "command", f"{_command(plain)}{_who(entry.key, request)}")


def _who(key: str | None, request: Request | None) -> str:
    if request is not None:
        return f", by {first_line(request.sender)}" if request.sender else ", by another process"
    hook = None if key is None else _HOOK.match(key)
    if hook is not None:
        return f", by hook {first_line(hook['hook'])} at {hook['event']}"
    return "" if key is None else f", by {first_line(key)}"


def _command(plain: Mapping[str, Any]) -> str:
    """Return a command in words; one of another version by its own."""
    do = str(plain.get("do"))
    reason = f": {first_line(plain['reason'])}" if plain.get("reason") else ""
    if do == "add":
        names = [str(each.get("id") or each.get("action")) for each in plain.get("specs", ())]
        return f"add {_list(names)}"
    if do == "answer":
        node = call_name(str(plain.get("node_id")), str(plain.get("key", DEFAULT_KEY)))
        return f"answer {node} = {excerpt(plain.get('value'), _LONG)[0]}"
    if do == "job_ended":
        node = call_name(str(plain.get("node_id")), str(plain.get("key", DEFAULT_KEY)))
        return f"tell {node} that job {first_line(plain.get('job_id', ''))} has ended"
    if do in ("cancel", "pause", "resume"):
        return f"{do} branch {first_line(plain.get('branch_id', ''))}{reason}"
    if do == "enable":
        verb = "enable" if plain.get("enabled", True) else "disable"
        return f"{verb} {_list(map(str, plain.get('ids', ())))}"
    if do == "inputs":
        return f"set inputs of {first_line(plain.get('node_id', ''))}"
    if do == "emit":
        where = f" on channel {first_line(plain['channel'])}" if plain.get("channel") else ""
        return f"emit event {first_line(plain.get('name', ''))}{where}"
    return f"{first_line(do.replace('_', ' '))}{reason}"


def _list(names: Iterable[str]) -> str:
    return cut(", ".join(first_line(each) for each in names), _LONG)
