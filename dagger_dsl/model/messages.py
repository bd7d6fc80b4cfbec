"""Messages, channels and patterns as values.

A channel is a name, made of parts between dots: ``orders``, ``orders.eu``. A pattern is one with
``*`` for any one part, or ``**`` for one part or more: ``orders.*``, ``**``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from dagger_dsl.errors import ConfigurationError, shown, storable

__all__ = [
    "LONGEST",
    "DeadLetter",
    "Message",
    "channel_problem",
    "check_channel",
    "check_patterns",
    "derived_id",
    "error_text",
    "is_pattern",
    "is_short_text",
    "matches",
]

#: Characters that a channel's name, a key or an id has at most.
LONGEST: Final = 200

#: Characters of an error's message that are kept at most.
_MOST: Final = 10_000


@attrs.frozen
class Message:
    """One message; nobody can change it.

    Its payload is passed on as it is where nothing is stored, so agents should not change that
    either.

    Attributes:
        channel: Where it was published.
        payload: What it says.
        key: Messages of one channel and key reach each agent in order; empty for those that have no
            other one.
        id: No other message has it.
        timestamp: When it was published, in seconds since 1970.
        source: The agent that published it; empty where it came from outside.
        task_id: The task that it is about, where there is one.
        cause: The id of the message during which it was published; empty where there was none.
        number: Its place in the order of all messages.
    """

    channel: str
    payload: Any = None
    key: str = ""
    id: str = ""
    timestamp: float = 0.0
    source: str = ""
    task_id: str = ""
    cause: str = ""
    number: int = attrs.field(default=0, eq=False, repr=False)

    @property
    def published_at(self) -> dt.datetime:
        """When it was published, UTC."""
        return dt.datetime.fromtimestamp(self.timestamp, dt.UTC)


@attrs.frozen(eq=False)
class DeadLetter:
    """A message that an agent was given as often as its policy allows, and failed on.

    Attributes:
        message: Which.
        agent: Who failed.
        error: What the last call failed with.
        attempts: How often it was called.
        at: When it gave up, in seconds since 1970.
    """

    message: Message
    agent: str
    error: str
    attempts: int
    at: float


def error_text(error: BaseException) -> str:
    """Return what is kept of an error: its class and its message, cut where that is very long.

    It is `storable`: one that no database takes would keep all others from being recorded.
    """
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # an error that cannot even say what it is
        text = ""
    return storable(f"{name}: {text[:_MOST]}" if text else name)


def derived_id(kind: str, *parts: object) -> str:
    """Return the id of a message that some work publishes, the same whenever it is made.

    Args:
        kind: What kind of work, which tells it from ids of other kinds.
        parts: Which work, and which of its messages; where that is too long, their hash is taken.
    """
    text = ":".join((kind, *map(str, parts)))
    return text if is_short_text(text) else f"{kind}:{hashlib.sha256(text.encode()).hexdigest()}"


def is_short_text(value: Any) -> bool:
    """Whether something can be a name, a key or an id, wherever it is kept."""
    if not isinstance(value, str) or len(value) > LONGEST or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no database takes
        return False
    return True


def channel_problem(name: Any, *, pattern: bool = False) -> str | None:
    """Return what is wrong with the name of a channel, or with a pattern; None where it is one."""
    what = "a pattern of channels" if pattern else "a channel's name"
    if not isinstance(name, str):
        return f"{what} is a text, not {shown(name)}"
    if not name or not is_short_text(name):
        return f"{what} has 1 to {LONGEST} characters, not NUL, unlike {shown(name, 60)}"
    for part in name.split("."):
        if not part:
            return f"{what} has no empty parts between dots, unlike {shown(name)}"
        if "*" in part and not (pattern and part in ("*", "**")):
            if pattern:
                return f"in a pattern, * and ** stand for whole parts, unlike in {shown(name)}"
            return f"a message is published on one channel, and {shown(name)} is a pattern"
    return None


def check_channel(name: Any) -> str:
    """Return the name of a channel.

    Raises:
        ConfigurationError: It is none.
    """
    fault = channel_problem(name)
    if fault is not None:
        raise ConfigurationError(fault)
    return str(name)


def check_patterns(value: Any, what: str) -> tuple[str, ...]:
    """Return names and patterns of channels, each once.

    Args:
        value: One, or several.
        what: The option's name, for the error.

    Raises:
        ConfigurationError: One is none.
    """
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, dict)):
        raise ConfigurationError(f"{what} is a list of channels, not {shown(value)}")
    names = tuple(value)
    for name in names:
        fault = channel_problem(name, pattern=True)
        if fault is not None:
            raise ConfigurationError(f"{what}: {fault}")
    return tuple(dict.fromkeys(names))


def is_pattern(name: str) -> bool:
    """Whether a name stands for several channels."""
    return "*" in name


def matches(pattern: str, channel: str) -> bool:
    """Whether a channel is one of those that a pattern stands for."""
    if "*" not in pattern:
        return pattern == channel
    if not channel.startswith(pattern[: pattern.index("*")]):  # most are none, and soon seen
        return False
    return _fits(pattern.split("."), channel.split("."))


def _fits(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    # `open` holds each place in the pattern that can be reached with the parts read so far, so that
    # no pattern, however many stars it has, takes more than parts x places steps.
    open_: set[int] = {0}
    for part in parts:
        further: set[int] = set()
        for place in open_:
            if place < len(pattern) and pattern[place] in ("*", "**", part):
                further.add(place + 1)
            if place and pattern[place - 1] == "**":
                further.add(place)
        open_ = further
    return len(pattern) in open_
