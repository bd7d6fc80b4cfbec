"""`MessageTree` and `ChannelMap`: what people are shown of a bus, as it stood when they asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl._doors import through
from dagger_dsl.errors import MessageNotFound, shown
from dagger_dsl.model.message_flow import AgentFlow, BusFlow, ChannelFlow, MessageCourse
from dagger_dsl.model.messages import DeadLetter, is_pattern
from dagger_dsl.pubsub.letters import kept
from dagger_dsl.pubsub.report import AgentStats

if TYPE_CHECKING:
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.trace import Trace
    from dagger_dsl.store.message_reads import MessageReads

__all__ = [
    "ChannelMap",
    "MessageTree",
    "channel_map",
    "dead_letters",
    "message_tree",
    "report_views",
    "watch_flow",
]

#: Messages in the tree of a report.
_MOST: Final = 1_000


@attrs.frozen(eq=False)
class MessageTree:
    """Messages, and which of them came of which: the execution tree of a bus.

    Attributes:
        courses: The messages with what became of each, in the order in which they were published.
        title: What they are.
        note: Why there may be none; empty where nothing is to be said.
    """

    courses: tuple[MessageCourse, ...]
    title: str = "messages"
    note: str = ""

    def to_dot(self) -> str:
        """Return it as DOT, a box a message."""
        return str(through("messages_to_dot")(self))

    def to_svg(self) -> str:
        """Return it as SVG; of many messages, those that went the same way are one box."""
        return str(through("messages_to_svg")(self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        found: dict[str, str] = through("messages_bundle")(self, include, exclude)
        return found

    def __len__(self) -> int:
        return len(self.courses)

    def __repr__(self) -> str:
        return f"<MessageTree of {len(self.courses)} messages>"


@attrs.frozen(eq=False)
class ChannelMap:
    """Who publishes on which channel, and who is given its messages.

    Attributes:
        flow: How channels and agents stand.
        title: What it is of.
    """

    flow: BusFlow
    title: str = "bus"

    @property
    def channels(self) -> Mapping[str, ChannelFlow]:
        """The channels, by name."""
        return self.flow.channels

    @property
    def agents(self) -> Mapping[str, AgentFlow]:
        """The agents, by name."""
        return self.flow.agents

    def to_dot(self) -> str:
        """Return it as DOT."""
        return str(through("channels_to_dot")(self))

    def to_svg(self) -> str:
        """Return it as SVG; of many channels, those of the same agents are one box."""
        return str(through("channels_to_svg")(self))

    def to_table(self) -> Any:
        """Return it as tables of rich's, such as ``rich.print`` shows."""
        return through("channels_table")(self.flow)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        found: dict[str, str] = through("channels_bundle")(self, include, exclude)
        return found

    def __repr__(self) -> str:
        return f"<ChannelMap of {len(self.channels)} channels, {len(self.agents)} agents>"


def message_tree(bus: PubSubExecutor, message_id: str | None, limit: int) -> MessageTree:
    """Return the messages of a bus; see `PubSubExecutor.message_tree`."""
    title = "messages" if message_id is None else f"message {message_id}"
    if bus.database_url is not None:
        with _reads(bus) as reads:
            if reads is None:
                return MessageTree((), title, "there is no database yet")
            if message_id is None:
                return MessageTree(tuple(reads.newest(limit)), title)
            found = reads.tree_of(message_id, limit)
            if found is None:
                raise MessageNotFound(f"{reads.where} has no message {shown(message_id)}")
            return MessageTree(tuple(found), title)
    return _traced(bus._trace, message_id, limit)


def dead_letters(bus: PubSubExecutor, agent: str | None) -> list[DeadLetter]:
    """Return what agents have given up; see `PubSubExecutor.dead_letters`."""
    if bus.database_url is None:
        return kept(bus, agent)
    place = bus._place
    if place is not None:
        return place.dead_letters(agent)
    with _reads(bus) as reads:
        return [] if reads is None else reads.dead_letters(agent)


def report_views(bus: PubSubExecutor) -> dict[str, Any]:
    """Return what makes the tree and the map of a report.

    A database is asked when somebody looks; of memory, which the next run forgets, the map is made
    now.
    """
    if bus.database_url is not None:
        return {
            "tree": partial(message_tree, bus, None, _MOST),
            "map": partial(channel_map, bus),
        }
    found = channel_map(bus)
    return {"tree": partial(_traced, bus._trace, None, _MOST), "map": lambda: found}


def _traced(trace: Trace | None, message_id: str | None, limit: int) -> MessageTree:
    title = "messages" if message_id is None else f"message {message_id}"
    if trace is None:
        note = "memory keeps no messages; PubSubConfig(trace=1_000) keeps the newest 1,000"
        return MessageTree((), title, note)
    courses = trace.courses()
    if message_id is not None:
        courses = _branch(courses, message_id, limit)
        if not courses:
            raise MessageNotFound(
                f"the trace has no message {shown(message_id)}; it keeps the newest {trace.most:,}"
            )
        return MessageTree(tuple(courses), title)
    return MessageTree(tuple(courses[max(0, len(courses) - limit) :]), title)


def _branch(courses: Sequence[MessageCourse], message_id: str, limit: int) -> list[MessageCourse]:
    """Return what a message comes from, and what came of that, so many at most.

    The way to the message comes first, as in a database.
    """
    known = {each.message.id: each for each in courses}
    way, name = set[str](), message_id
    while name in known and name not in way and len(way) < limit:
        way.add(name)
        name = known[name].message.cause
    found, names, room = [], set(way), limit - len(way)
    for each in courses:
        if each.message.id not in way:
            if not room or each.message.cause not in names:
                continue
            room -= 1
        names.add(each.message.id)
        found.append(each)
    return found


def channel_map(bus: PubSubExecutor) -> ChannelMap:
    """Return the channels and agents of a bus; see `PubSubExecutor.channel_map`."""
    if bus.database_url is None:
        return ChannelMap(_in_memory(bus))
    with _reads(bus) as reads:
        flow = BusFlow({}, {}, durable=True) if reads is None else reads.flow()
        return ChannelMap(with_own(bus, flow))


def watch_flow(bus: PubSubExecutor) -> Callable[[], BusFlow]:
    """Return what tells how a running bus stands; a database is asked only for what is new."""
    if bus.database_url is None:
        return partial(_in_memory, bus)
    found: list[MessageReads] = []

    def look() -> BusFlow:
        store = getattr(bus._place, "store", None)
        if store is None:  # it has ended
            return channel_map(bus).flow
        if not found:
            from dagger_dsl.store.message_reads import MessageReads

            found.append(MessageReads(store.database, store._payloads))
        return with_own(bus, found[0].flow())

    return look


@contextmanager
def _reads(bus: PubSubExecutor) -> Iterator[MessageReads | None]:
    """Yield what reads the database of a bus, through the bus's own store while it runs.

    None where there is no such file yet; to look makes none.
    """
    from dagger_dsl.store.message_reads import MessageReads
    from dagger_dsl.store.storage import Store

    place = bus._place
    store = getattr(place, "store", None)
    if store is not None:
        yield MessageReads(store.database, store._payloads)
        return
    assert bus.database_url is not None
    own = Store(bus.database_url)
    path = own.database.path
    if path is not None and not os.path.exists(path):
        yield None
        return
    with own:
        yield MessageReads(own.database, own._payloads)


def _in_memory(bus: PubSubExecutor) -> BusFlow:
    waiting: dict[str, int] = {}
    dead: dict[str, int] = {}
    agents, gone = {}, bus._gone
    for name, caller in list(bus._callers.items()):
        subscription = bus._subscriptions.get(name)
        stats = gone.get(name, AgentStats())
        if subscription is not None:
            stats = stats.plus(subscription.stats)
            for message in subscription.core.left() if stats.waiting else ():
                waiting[message.channel] = waiting.get(message.channel, 0) + 1
            for letter in tuple(subscription.letters):
                channel = letter.message.channel
                dead[channel] = dead.get(channel, 0) + 1
        agents[name] = AgentFlow(
            name,
            caller.subscribe,
            tuple(caller.publish or ()),
            waiting=stats.waiting,
            retrying=0 if subscription is None else len(subscription.core.timers),
            dead=stats.dead,
            handled=stats.handled,
            failed=stats.failed,
        )
    with bus._lock:
        known = list(bus._channels.values())
    channels = {
        each.name: ChannelFlow(
            each.name,
            each.published,
            waiting.get(each.name, 0),
            dead.get(each.name, 0),
            len(each.waiting),
        )
        for each in known
    }
    _add_named(channels, agents.values())
    return BusFlow(channels, agents, {} if bus._trace is None else bus._trace.pairs())


def with_own(bus: PubSubExecutor, flow: BusFlow) -> BusFlow:
    """Return what a database says, and what this process knows of its own agents besides."""
    agents = dict(flow.agents)
    for name, caller in list(bus._callers.items()):
        known = agents.get(name) or AgentFlow(name, caller.subscribe)
        subscription = bus._subscriptions.get(name)
        stats = None if subscription is None else subscription.stats
        said = tuple(dict.fromkeys((*(caller.publish or ()), *known.publish)))
        agents[name] = attrs.evolve(
            known,
            subscribe=caller.subscribe,
            publish=said,
            handled=None if stats is None else stats.handled,
            failed=None if stats is None else stats.failed,
        )
    channels = dict(flow.channels)
    _add_named(channels, agents.values())
    return attrs.evolve(flow, channels=channels, agents=agents)


def _add_named(channels: dict[str, ChannelFlow], agents: Any) -> None:
    for each in agents:
        for name in (*each.subscribe, *each.publish):
            if not is_pattern(name):
                channels.setdefault(name, ChannelFlow(name))
