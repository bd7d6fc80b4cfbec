"""`PubSubExecutor`: agents, the channels between them, and the place where messages are kept.

There are two places. In memory a message reaches each agent at most once; buffers are bounded, and
who publishes waits for room. In a database it reaches each agent at least once, whoever is killed
meanwhile. Everything else is the same code for both.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    AgentNotFound,
    ConfigurationError,
    InvalidState,
    LimitExceeded,
    did_you_mean,
    shown,
)
from dagger_dsl.model.messages import (
    DeadLetter,
    Message,
    check_channel,
    is_pattern,
)
from dagger_dsl.model.policies import seconds, whole_number
from dagger_dsl.model.values import allow_hints
from dagger_dsl.pubsub.arguments import as_ids, check_agent, check_texts, contents
from dagger_dsl.pubsub.calls import Caller
from dagger_dsl.pubsub.channels import Channel
from dagger_dsl.pubsub.config import (
    PubSubConfig,
    StartWith,
)
from dagger_dsl.pubsub.definition import PubSubAgentDef, define_agent
from dagger_dsl.pubsub.letters import check_given_up
from dagger_dsl.pubsub.life import BusLife
from dagger_dsl.pubsub.memory import MemoryPlace
from dagger_dsl.pubsub.report import AgentStats, ChannelStats, PubSubExecutionReport
from dagger_dsl.pubsub.schemas import Shape
from dagger_dsl.pubsub.seen import (
    ChannelMap,
    MessageTree,
    channel_map,
    dead_letters,
    message_tree,
    report_views,
    watch_flow,
)
from dagger_dsl.pubsub.subscription import Place, Subscription
from dagger_dsl.pubsub.trace import Trace, TracedPlace
from dagger_dsl.pubsub.waiting import Publication, running_loop
from dagger_dsl.registry import Registry, as_registry

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagger_dsl.engine.workflow import Workflow
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.model.message_flow import BusFlow
    from dagger_dsl.pubsub.context import MessageContext
    from dagger_dsl.pubsub.trigger import Trigger

__all__ = ["PubSubExecutor"]

logger = logging.getLogger("dagger_dsl.pubsub")


class PubSubExecutor(BusLife):
    """Agents that talk to each other by messages on channels.

    As a context manager, with ``with`` or ``async with``, it runs in the background until the block
    ends; what is left to do is done first. `run` and `run_async` run it until something ends it.

    Args:
        agents: Names of registered agents, functions and classes decorated with ``@pubsub_agent``,
            objects with ``handle_message``, or definitions; None for all that are registered.
        config: What holds for all of it.
        registry: Where names are looked up; the one in force by default.
        database_url: Where messages are kept; None for this process's memory.

    Raises:
        ConfigurationError: An argument cannot be.
        AgentNotFound: No agent of a name is registered.
        RegistryError: Something cannot be an agent.
    """

    def __init__(
        self,
        agents: Iterable[Any] | None = None,
        config: PubSubConfig | None = None,
        *,
        registry: Registry | None = None,
        database_url: str | os.PathLike[str] | sa.URL | None = None,
    ) -> None:
        if config is not None and not isinstance(config, PubSubConfig):
            raise ConfigurationError(f"config is a PubSubConfig, not {shown(config)}")
        listed = agents is None or isinstance(agents, Iterable)
        if not listed or isinstance(agents, (str, Mapping)):
            raise ConfigurationError(f"agents is a list of agents, not {shown(agents)}")
        self.registry = as_registry(registry)
        self.database_url = database_url
        self._callers: dict[str, Caller] = {}
        self._declared: dict[str, tuple[Any, int | None]] = {}
        self._triggers: dict[str, Trigger] = {}
        super().__init__(config or PubSubConfig())
        #: What was given up in memory; it outlives the place, so that it can be read and replayed.
        self._given_up: deque[DeadLetter] = deque(maxlen=self.config.dead_letters)
        for each in self.registry.pubsub_agents.values() if agents is None else agents:
            self._admit(Caller(self._definition(each, None)), replace=False)

    def _reset(self) -> None:
        super()._reset()
        self._channels: dict[str, Channel] = {}
        # Of agents that were taken out and have come to their end.
        self._done: dict[str, AgentStats] = {}
        self._done_letters: deque[DeadLetter] = deque(maxlen=self.config.dead_letters)
        self._undelivered = 0
        traced = self.database_url is None and self.config.trace
        self._trace = Trace(self.config.trace) if traced else None

    def __repr__(self) -> str:
        home = self._home
        state = "stopped" if home is None or home.is_closed else "running"
        return f"<PubSubExecutor: {len(self._callers)} agents, {state}>"

    # --- agents -----------------------------------------------------------------------------------

    def _definition(self, agent: Any, name: str | None) -> PubSubAgentDef:
        known = self.registry.pubsub_agents
        if isinstance(agent, str):
            if agent not in known:
                raise AgentNotFound(
                    f"no pub/sub agent {agent!r} is registered{did_you_mean(agent, list(known))}; "
                    "import its module, or decorate it with @pubsub_agent"
                )
            agent = known[agent]
        elif not isinstance(agent, PubSubAgentDef):
            found = next((each for each in known.values() if each.target is agent), None)
            agent = found or define_agent(agent, {})
        definition: PubSubAgentDef = agent
        return definition if name is None else attrs.evolve(definition, name=name)

    def _admit(self, caller: Caller, *, replace: bool) -> None:
        if caller.name in self._callers and not replace:
            raise AgentAlreadyRegistered(
                f"there is an agent {shown(caller.name)} on this bus already; give another name=, "
                "or use register(..., replace=True)"
            )
        self._callers[caller.name] = caller

    def register(self, agent: Any, name: str | None = None, *, replace: bool = False) -> str:
        """Add an agent, before the bus runs or while it does, and return its name.

        Args:
            agent: What the constructor takes.
            name: Its name here, its own by default.
            replace: Whether it may take the place of another one. In a database it goes on where
                that one was; in memory what waited for that one is gone, and counted as
                undelivered.

        Raises:
            AgentAlreadyRegistered: The name is taken.
            AgentNotFound, RegistryError, ConfigurationError: As the constructor.
            LimitExceeded: It names more channels than there may be.
            StoreError: The database cannot say whether another process has it.
        """
        caller = Caller(self._definition(agent, name))
        with self._lock:
            before = self._callers.get(caller.name)
            self._admit(caller, replace=replace)
            if self._place is not None and self._reason is None:
                try:
                    self._put_in(caller)
                except BaseException:
                    if before is None:
                        del self._callers[caller.name]
                    else:
                        self._callers[caller.name] = before
                    raise
            self._retire(caller.name)
        return caller.name

    def trigger(
        self,
        dag: Workflow | Graph,
        channel: str | Iterable[str],
        *,
        name: str | None = None,
        publish: str | None = None,
        inputs: Callable[[Any], Mapping[str, Any]] | None = None,
        retry: Any = None,
        concurrency: int = 1,
        **options: Any,
    ) -> str:
        """Start a run of a workflow for each message of a channel, and return the trigger's name.

        A trigger is an agent: its runs are recorded in the database of the bus, and a message is
        handled when its run has completed. The run is called ``<name>:<id of the message>``, so one
        message has one run: given again, after a failed run or the death of the process, it goes on
        with that, where what completed is not called again. A run that fails, is cancelled or
        pauses fails the delivery, which is tried again by *retry* and becomes a dead letter after
        that; once somebody has seen to the run, `replay` goes on with it.

        A bus in memory gives a message at most once; its runs are in memory, too, where another try
        is another run, unless there is a ``database_url`` among the options.

            bus.trigger(order_flow, "orders.*", publish="invoices", retry=2)

        Args:
            dag: A `DAG`, a state machine, or a `Graph` of actions of the registry. Later changes of
                it do not count.
            channel: A channel or a pattern, or several.
            name: The trigger's name, that of the workflow by default.
            publish: Where the run's value is published, with the key of the message, in the
                transaction that records that this is handled; None for nowhere. It waits for the
                run, so with a *concurrency* of 1 answers come in order, with more in the order of
                each key.
            inputs: Makes the inputs of a payload. By default a mapping with the name of an input
                gives the inputs by name; anything else is the value of the one input, or of the one
                that has to be given. What does not fit is refused by `publish`; published by a
                process without the trigger it is a dead letter.
            retry: A `RetryPolicy`, or a number of extra deliveries; what the bus says by default.
            concurrency: How many runs go on at a time, those of one channel and key never.
            **options: Those of `RunOptions` for each run; the runner is ``sequential`` by default.

        Raises:
            ConfigurationError: An argument cannot be.
            ValidationError: The workflow cannot run.
            AgentAlreadyRegistered: The name is taken.
        """
        from dagger_dsl.pubsub.trigger import Trigger  # most buses start no runs

        made = Trigger(
            dag,
            channel,
            registry=self.registry,
            bus_store=lambda: None if self._place is None else self._place.store,
            name=name,
            publish=publish,
            inputs=inputs,
            retry=retry,
            concurrency=concurrency,
            options=options,
        )
        with self._lock:
            self.register(made.agent)
            self._triggers[made.name] = made
        return made.name

    def unregister(self, name: str, *, forget: bool = False) -> None:
        """Take an agent out; a call of it that is going on ends as it would.

        Args:
            name: Which.
            forget: Whether a database keeps nothing for it from now on. Else what is published
                waits for it there until it is back, and is kept as long. An agent that is on no bus
                any more can be forgotten, too. Memory keeps nothing anyway; what waited is counted
                as undelivered.

        Raises:
            AgentNotFound: There is none.
            InvalidState: It is to be forgotten, and another process has it; or the bus does not
                run, and so has not opened the database.
            ConfigurationError: *name* is no text.
        """
        check_agent(name)
        with self._lock:
            place = self._place
            if forget and self.database_url is not None and place is None:
                raise InvalidState(
                    f"the bus does not run, and agent {shown(name)} is forgotten in the database "
                    "that a running one has open; call unregister(forget=True) while it runs"
                )
            if name not in self._callers:
                gone = place.forget(name) if forget and place is not None else None
                if gone is None:
                    raise AgentNotFound(
                        f"there is no agent {shown(name)} on this bus"
                        f"{did_you_mean(name, list(self._callers))}"
                    )
                if not gone:
                    raise _elsewhere(name)
                return
            known = self._subscriptions.get(name)
            if known is not None and forget and place is not None and not place.is_here(known):
                raise _elsewhere(name)
            del self._callers[name]
            if known is not None:
                self._take_out(known, forget=forget)
            self._retire(name)

    @property
    def agents(self) -> Mapping[str, AgentStats]:
        """What the agents have done so far, by name."""
        with self._lock:
            running = {name: each.stats for name, each in self._subscriptions.items()}
            return {name: running.get(name, AgentStats()) for name in self._callers}

    def _put_in(self, *callers: Caller) -> None:
        place, home = self._place, self._home
        assert place is not None
        assert home is not None
        for caller in callers:  # all first: else each new channel would ask the agents before it
            self._open_channels(caller)
        subscriptions = [Subscription(self, each, place, home) for each in callers]
        place.join(*subscriptions)
        for each in subscriptions:
            known = self._subscriptions.get(each.name)
            if known is not None:  # it goes on until nothing can fail any more
                self._take_out(known, forget=False)
            self._subscriptions[each.name] = each
            for channel in self._channels_for(each.caller):
                channel.join(each)
            home.begin(each.start)

    def _retire(self, name: str) -> None:
        """Let go of the trigger that an agent was which is taken out."""
        made = self._triggers.pop(name, None)
        if made is not None:
            made.retire()

    def _take_out(self, subscription: Subscription, *, forget: bool) -> None:
        place = self._place
        assert place is not None
        subscription.stop()
        ended = [each for each in self._parting if not each.drivers]
        for each in ended:
            self._done[each.name] = self._done.get(each.name, AgentStats()).plus(each.stats)
            self._done_letters.extend(each.letters)
        left = [each for each in self._parting if each not in ended]
        self._parting = [*left, subscription]
        del self._subscriptions[subscription.name]
        for channel in self._channels_for(subscription.caller):
            channel.leave(subscription)
        place.leave(subscription, forget=forget)
        self._lose(subscription, subscription.core.waiting, 0)
        self._news()

    def _lose(self, subscription: Subscription, waiting: int, unended: int) -> None:
        if self.database_url is not None:  # which keeps both
            return
        self._undelivered += waiting + unended
        if waiting:
            logger.warning(
                "%d messages waited for agent %r in memory, and are not delivered",
                waiting,
                subscription.name,
            )
        if unended:
            logger.warning(
                "%d messages count as undelivered, as the calls of agent %r did not end in time",
                unended,
                subscription.name,
            )

    def _open_channels(self, caller: Caller) -> None:
        """Let the channels be there that an agent names; all of them, or none."""
        names = _named_by(caller)
        self._check_room(names)
        for name in names:
            self._channel(name)

    def _channels_for(self, caller: Caller) -> Sequence[Channel]:
        """Return all channels of which an agent may be given messages."""
        if any(map(is_pattern, caller.subscribe)):
            return list(self._channels.values())
        return [self._channels[name] for name in caller.subscribe]

    # --- channels ---------------------------------------------------------------------------------

    def channel(self, name: str, schema: Any = None, capacity: int | None = None) -> None:
        """Say what a channel takes; one that nobody says anything of is there once it is used.

        What was said of it before holds, also when the bus is opened again, until something else is
        said.

        Args:
            name: Which.
            schema: What its payloads have to be: a JSON Schema or a type, ``{}`` for anything; None
                leaves what was said, at first nothing.
            capacity: How many messages may wait for a subscriber when one is published here; None
                leaves what was said, at first `PubSubConfig.capacity`.

        Raises:
            ConfigurationError: A value cannot be.
            LimitExceeded: There are as many channels as there may be.
        """
        check_channel(name)
        if schema is not None:
            Shape(schema, f"the schema of channel {name!r}")
        if capacity is not None:
            whole_number(capacity, "capacity")
        with self._lock:
            said = self._declared.get(name, (None, None))
            self._declared[name] = (
                said[0] if schema is None else schema,
                said[1] if capacity is None else capacity,
            )
            if self._place is not None:
                self._apply(self._channel(name))
                self._place.made_room()

    @property
    def channels(self) -> Mapping[str, ChannelStats]:
        """What has happened on each channel so far, by name; those that agents name are there."""
        with self._lock:
            if self._channels:
                return {name: each.stats for name, each in self._channels.items()}
            callers = self._callers.values()
            named = {*self._declared, *(name for each in callers for name in _named_by(each))}
            return {
                name: ChannelStats(0, tuple(each.name for each in callers if each.gets(name)), 0)
                for name in sorted(named)
            }

    @property
    def report(self) -> PubSubExecutionReport:
        """What was done since the bus was opened last, as `run` returns it."""
        return self._report()

    def _channel(self, name: str) -> Channel:
        check_channel(name)
        with self._lock:
            if name in self._channels:
                return self._channels[name]
            self._check_room((name,))
            made = Channel(name, self.config.capacity)
            self._apply(made)
            made.join(*self._subscriptions.values())
            self._channels[name] = made
            return made

    def _check_room(self, names: Iterable[str]) -> None:
        """Refuse channels beyond the limit."""
        most = self.config.max_channels
        new = [each for each in names if each not in self._channels]
        if len(self._channels) + len(new) > most:
            raise LimitExceeded(
                f"channel {new[most - len(self._channels)]!r} would be one more than max_channels="
                f"{most}; use keys instead, or allow more in PubSubConfig"
            )

    def _apply(self, channel: Channel) -> None:
        schema, capacity = self._declared.get(channel.name, (None, None))
        if schema is not None:
            if self.database_url is not None:  # a type that it names can be stored
                allow_hints({"schema": schema})
            channel.shape = Shape(schema, f"the schema of channel {channel.name!r}")
        channel.capacity = self.config.capacity if capacity is None else capacity

    # --- publishing -------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str = "",
        id: str | None = None,  # the field's name
        task_id: str = "",
        timeout: float | None = None,
        wait: bool = True,
    ) -> Publication:
        """Publish a message.

        In memory it is published when all agents that are given it have room; in a database when it
        is committed. In a thread without a running event loop this call blocks for that. In one
        with a running loop it returns at once, and ``await`` waits.

        Args:
            channel: Where; it is there from now on.
            payload: What. A `Message` stands for its payload, key and task.
            key: Messages of one channel and key reach each agent in order.
            id: What no other message has; a message whose id was published before, with the same
                content, is not published again, as long as the database has that message, or memory
                remembers its id (`PubSubConfig.max_ids`). One is made by default.
            task_id: The task that it is about.
            timeout: Seconds to wait, `PubSubConfig.publish_timeout` by default; 0 does not wait for
                room in memory, and without an end for the commit of a database.
            wait: False does not block a thread either: `Publication.result` does, later.

        Returns:
            The message on its way.

        Raises:
            MessageValidationError: It does not fit the channel, or who is to get it.
            ChannelFull: There was no room in time.
            IdempotencyConflict: Its id was published with something else: to the codec, so that 1
                is neither 1.0 nor True, and the order of a mapping counts.
            EncodingError: A database has no form for the payload.
            InvalidState: The bus does not run; or the message was taken back, as its commit had not
                begun in time.
            TimeoutError: Its commit did not end in time, and may yet; with the same *id* it can be
                published again safely.
        """
        if type(payload) is Message:
            payload, key, task_id = contents(payload, key, task_id)
        return self._submit(channel, payload, key, id, "", task_id, "", timeout, None, wait)

    def _submit(
        self,
        channel: str,
        payload: Any,
        key: str,
        id: str | None,  # the field's name
        source: str,
        task_id: str,
        cause: str,
        timeout: float | None,
        ctx: MessageContext | None,
        wait: bool,
    ) -> Publication:
        """Publish as an agent, or as nobody; in a thread without a loop wait where *wait* says."""
        place, home = self._place, self._home
        if place is None or home is None:
            raise InvalidState(
                "the bus does not run; publish inside of `with PubSubExecutor(...) as bus:`"
            )
        if home.is_closed:
            self._open_place()
        if self._reason is not None and ctx is None:
            raise InvalidState(f"the bus is {self._reason} and takes no more messages")
        route = self._channels.get(channel) if channel.__class__ is str else None
        if route is None:
            route = self._channel(channel)
        if route.shape is not None or route._checks:
            route.check(payload, source)
        if key or id is not None or task_id or key.__class__ is not str:
            check_texts(key=key, id=id, task_id=task_id)
        limit = self.config.publish_timeout if timeout is None else seconds(timeout, "timeout")
        number = next(self._numbers)
        message = Message(
            route.name,
            payload,
            key,
            f"{self._prefix}-{number}" if id is None else id,
            self._clock(),
            source,
            task_id,
            cause,
            number if self.database_url is None else 0,
        )
        publication = Publication(message, id is not None, limit, place.withdraw, home.loop)
        place.submit(route, publication, ctx, wait=limit != 0)
        if publication.is_refused or (wait and running_loop() is None):
            publication.result()
        return publication

    # --- what was given up ------------------------------------------------------------------------

    def dead_letters(self, agent: str | None = None) -> list[DeadLetter]:
        """Return the messages that agents were given as often as their policy allows, in order.

        A database tells of those of all processes, memory of those of this bus, the newest ones,
        whether it runs or not.

        Args:
            agent: Of this agent only.

        Raises:
            ConfigurationError: *agent* is no text.
        """
        if agent is not None:
            check_agent(agent)
        return dead_letters(self, agent)

    def replay(self, agent: str | None = None, ids: Iterable[str] | None = None) -> int:
        """Give messages again that were given up, as if for the first time.

        They come after what was handled meanwhile, so not in the order of their key. Memory gives
        those that were given up while the bus ran before, too, to agents that are there.

        Args:
            agent: Of this agent only.
            ids: These messages only.

        Returns:
            How many.

        Raises:
            InvalidState: The bus does not run.
            AgentNotFound: There is no such agent.
            MessageNotFound: One of *ids* is no message that was given up; nothing is changed.
            ConfigurationError: *agent* is no text, or *ids* are none.
        """
        if agent is not None:
            check_agent(agent)
        place, wanted = self._open_place(), as_ids(ids)
        check_given_up(place, agent, wanted)
        return place.replay(agent, wanted)

    def discard(self, agent: str | None = None, ids: Iterable[str] | None = None) -> int:
        """Forget messages that were given up; return how many.

        They were delivered as often as they could be; nothing waits for them. The arguments and the
        errors are those of `replay`.
        """
        if agent is not None:
            check_agent(agent)
        place, wanted = self._open_place(), as_ids(ids)
        check_given_up(place, agent, wanted)
        return place.discard(agent, wanted)

    # --- what people see of it --------------------------------------------------------------------

    def message_tree(self, message_id: str | None = None, limit: int = 1_000) -> MessageTree:
        """Return messages, which of them came of which, and what became of each with each agent.

        A database tells of the messages that it keeps, whoever published and handled them, and
        whether this bus runs or not. Memory tells of those of the last time that the bus ran, as
        many as `PubSubConfig.trace` says.

        Args:
            message_id: Only the tree that this message is in; None for the newest messages.
            limit: How many messages, at most.

        Raises:
            MessageNotFound: There is no such message.
            ConfigurationError: *limit* is no number of messages.
        """
        if message_id is not None:
            check_texts(id=message_id)
        return message_tree(self, message_id, whole_number(limit, "limit"))

    def channel_map(self) -> ChannelMap:
        """Return who publishes on which channel and is given its messages, and how each stands.

        Of a database it tells of all agents, in whatever process they are.
        """
        return channel_map(self)

    def get_dot_graph(self, message_id: str | None = None) -> str:
        """Return the execution tree of the messages as DOT; see `message_tree`."""
        return self.message_tree(message_id).to_dot()

    def _watch_flow(self) -> Callable[[], BusFlow]:
        """Return what tells again and again how channels and agents stand."""
        return watch_flow(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.channel_map()._repr_mimebundle_(include, exclude)

    # --- what its life is made of -----------------------------------------------------------------

    def _make_place(self) -> Place:
        if self._trace is not None:
            return TracedPlace(self, self._trace)
        if self.database_url is None:
            return MemoryPlace(self, self._monotonic)
        from dagger_dsl.pubsub.durable import DurablePlace  # who stays in memory loads no store

        return DurablePlace(self, self.database_url)

    def _fill(self) -> None:
        for name in self._declared:
            self._channel(name)
        if self._callers:  # one that only looks has none
            self._put_in(*self._callers.values())

    def _release(self, place: Place) -> None:
        try:
            place.close()
        finally:
            for made in list(self._triggers.values()):
                made.close()

    def _start_with(self, spec: StartWith) -> Publication:
        return self.publish(spec.channel, spec.payload, key=spec.key, id=spec.id)

    def _published(self) -> int:
        return sum(each.published for each in list(self._channels.values()))

    @property
    def _gone(self) -> Mapping[str, AgentStats]:
        """What those have done that were taken out."""
        found = dict(self._done)
        for each in self._parting:
            found[each.name] = found.get(each.name, AgentStats()).plus(each.stats)
        return found

    def _report(self) -> PubSubExecutionReport:
        channels, running, gone = self.channels, self.agents, self._gone
        return PubSubExecutionReport(
            reason=self._reason or "stopped",
            duration=self._monotonic() - self._began,
            published=self._published(),
            agents={
                name: gone.get(name, AgentStats()).plus(running.get(name, AgentStats()))
                for name in {**gone, **running}
            },
            channels=channels,
            dead_letters=tuple(self._letters()),
            undelivered=self._undelivered,
            **report_views(self),
        )

    def _letters(self) -> list[DeadLetter]:
        left = [letter for each in (*self._parting, *self._all()) for letter in list(each.letters)]
        return [*self._done_letters, *left]


def _named_by(caller: Caller) -> list[str]:
    """Return the channels that an agent names, but for patterns."""
    named = (*caller.subscribe, *(caller.publish or ()))
    return [each for each in dict.fromkeys(named) if not is_pattern(each)]


def _elsewhere(name: str) -> InvalidState:
    return InvalidState(
        f"agent {shown(name)} runs in another process, which would lose its messages; call "
        "unregister(forget=True) there, or once that process has ended"
    )
