"""`PubSubExecutor`: agents, the channels between them, and the place where messages are kept.

There are two places. In memory a message reaches each agent at most once; buffers are bounded, and
who publishes waits for room. In a database it reaches each agent at least once, whoever is killed
meanwhile. Everything else is the same code for both.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
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
from dagger_dsl.pubsub.arguments import as_ids, as_spec, check_texts
from dagger_dsl.pubsub.calls import Caller
from dagger_dsl.pubsub.channels import Channel
from dagger_dsl.pubsub.config import (
    PubSubConfig,
    StartWith,
    WorkflowSpec,
)
from dagger_dsl.pubsub.definition import PubSubAgentDef, define_agent
from dagger_dsl.pubsub.ending import wait_for_end
from dagger_dsl.pubsub.home import Home
from dagger_dsl.pubsub.memory import MemoryPlace
from dagger_dsl.pubsub.report import AgentStats, ChannelStats, PubSubExecutionReport
from dagger_dsl.pubsub.schemas import Shape
from dagger_dsl.pubsub.subscription import Place, Subscription
from dagger_dsl.pubsub.waiting import Pending, Publication, running_loop
from dagger_dsl.registry import Registry, as_registry
from dagger_dsl.runners.loops import run_in_loop

if TYPE_CHECKING:
    from types import TracebackType

    from dagger_dsl.engine.workflow import Workflow
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.pubsub.context import MessageContext
    from dagger_dsl.pubsub.trigger import Trigger

__all__ = ["PubSubExecutor"]

logger = logging.getLogger("dagger_dsl.pubsub")


class PubSubExecutor:
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
        database_url: str | os.PathLike[str] | None = None,
    ) -> None:
        if config is not None and not isinstance(config, PubSubConfig):
            raise ConfigurationError(f"config is a PubSubConfig, not {shown(config)}")
        if isinstance(agents, (str, Mapping)):
            raise ConfigurationError(f"agents is a list of agents, not {shown(agents)}")
        self.config = config or PubSubConfig()
        self.registry = as_registry(registry)
        self.database_url = database_url
        self._callers: dict[str, Caller] = {}
        for each in self.registry.pubsub_agents.values() if agents is None else agents:
            self._admit(Caller(self._definition(each, None)), replace=False)
        self._declared: dict[str, tuple[Any, int | None]] = {}
        self._triggers: list[Trigger] = []
        self._clock: Callable[[], float] = time.time
        self._monotonic: Callable[[], float] = time.monotonic
        self._lock = threading.RLock()
        self._home: Home | None = None
        self._place: Place | None = None
        self._reset()

    def _reset(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._gone: dict[str, AgentStats] = {}
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)
        self._reason: str | None = None
        self._limit: int | None = None
        self._began = self._monotonic()
        self._undelivered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = "stopped" if self._place is None else "running"
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
        """
        caller = Caller(self._definition(agent, name))
        with self._lock:
            known = self._subscriptions.get(caller.name)
            self._admit(caller, replace=replace)
            if self._place is not None and self._reason is None:
                if known is not None:
                    self._take_out(known, forget=False)
                try:
                    self._put_in(caller)
                except BaseException:
                    del self._callers[caller.name]
                    raise
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
        self.register(made.agent)
        self._triggers.append(made)
        return made.name

    def unregister(self, name: str, *, forget: bool = False) -> None:
        """Take an agent out; a call of it that is going on ends as it would.

        Args:
            name: Which.
            forget: Whether a database keeps nothing for it from now on. Else what is published
                waits for it there until it is back. Memory keeps nothing anyway; what waited is
                counted as undelivered.

        Raises:
            AgentNotFound: There is none.
        """
        with self._lock:
            if name not in self._callers:
                raise AgentNotFound(
                    f"there is no agent {shown(name)} on this bus"
                    f"{did_you_mean(name, list(self._callers))}"
                )
            del self._callers[name]
            known = self._subscriptions.get(name)
            if known is not None:
                self._take_out(known, forget=forget)

    @property
    def agents(self) -> Mapping[str, AgentStats]:
        """What the agents have done so far, by name."""
        with self._lock:
            running = {name: each.stats for name, each in self._subscriptions.items()}
            return {name: running.get(name, AgentStats()) for name in self._callers}

    def _put_in(self, caller: Caller) -> None:
        place, home = self._place, self._home
        assert place is not None
        assert home is not None
        subscription = Subscription(self, caller, place, home)
        place.join(subscription)
        self._subscriptions[caller.name] = subscription
        for name in (*caller.subscribe, *(caller.publish or ())):
            if not is_pattern(name):
                self._channel(name)
        self._aim()
        home.begin(subscription.start)

    def _take_out(self, subscription: Subscription, *, forget: bool) -> None:
        place = self._place
        assert place is not None
        subscription.stop()
        del self._subscriptions[subscription.name]
        before = self._gone.get(subscription.name, AgentStats())
        self._gone[subscription.name] = before.plus(subscription.stats)
        self._aim()
        place.leave(subscription, forget=forget)
        self._lose(subscription)
        self._news()

    def _lose(self, subscription: Subscription) -> None:
        left = 0 if self.database_url is not None else subscription.core.waiting
        if left:
            self._undelivered += left
            logger.warning(
                "%d messages waited for agent %r in memory, and are not delivered",
                left,
                subscription.name,
            )

    def _aim(self) -> None:
        subscriptions = tuple(self._subscriptions.values())
        for channel in self._channels.values():
            channel.aim(subscriptions)

    def _all(self) -> list[Subscription]:
        return list(self._subscriptions.values())

    # --- channels ---------------------------------------------------------------------------------

    def channel(self, name: str, schema: Any = None, capacity: int | None = None) -> None:
        """Say what a channel takes; one that nobody says anything of is there once it is used.

        Args:
            name: Which.
            schema: What its payloads have to be: a JSON Schema or a type; None for anything.
            capacity: How many messages may wait for a subscriber when one is published here, as
                `PubSubConfig.capacity` by default.

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
            self._declared[name] = (schema, capacity)
            if self._place is not None:
                self._apply(self._channel(name))

    @property
    def channels(self) -> Mapping[str, ChannelStats]:
        """What has happened on each channel so far, by name."""
        with self._lock:
            return {name: each.stats for name, each in self._channels.items()}

    def _channel(self, name: str) -> Channel:
        check_channel(name)
        with self._lock:
            if name in self._channels:
                return self._channels[name]
            if len(self._channels) >= self.config.max_channels:
                raise LimitExceeded(
                    f"channel {name!r} would be one more than max_channels="
                    f"{self.config.max_channels}; use keys instead, or allow more in PubSubConfig"
                )
            made = Channel(name, self.config.capacity)
            self._apply(made)
            made.aim(tuple(self._subscriptions.values()))
            self._channels[name] = made
            return made

    def _apply(self, channel: Channel) -> None:
        schema, capacity = self._declared.get(channel.name, (None, None))
        if schema is not None:
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
            id: What no other message has; a message whose id was published before is not published
                again. One is made by default.
            task_id: The task that it is about.
            timeout: Seconds to wait, `PubSubConfig.publish_timeout` by default; 0 does not wait.
            wait: False does not block a thread either: `Publication.result` does, later.

        Returns:
            The message on its way.

        Raises:
            MessageValidationError: It does not fit the channel, or who is to get it.
            ChannelFull: There was no room in time.
            IdempotencyConflict: Its id was published with something else.
            EncodingError: A database has no form for the payload.
            InvalidState: The bus does not run.
        """
        message = payload if type(payload) is Message else None
        if message is not None:
            payload, key = message.payload, key or message.key
            task_id = task_id or message.task_id
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

        Args:
            agent: Of this agent only.
        """
        return self._open_place().dead_letters(agent)

    def replay(self, agent: str | None = None, ids: Iterable[str] | None = None) -> int:
        """Give messages again that were given up, as if for the first time.

        They come after what was handled meanwhile, so not in the order of their key.

        Args:
            agent: Of this agent only.
            ids: These messages only.

        Returns:
            How many.
        """
        return self._open_place().replay(agent, as_ids(ids))

    def discard(self, agent: str | None = None, ids: Iterable[str] | None = None) -> int:
        """Forget messages that were given up; return how many. The arguments are those of `replay`.

        They were delivered as often as they could be; nothing waits for them.
        """
        return self._open_place().discard(agent, as_ids(ids))

    def _open_place(self) -> Place:
        if self._place is None:
            raise InvalidState("the bus does not run; use `with PubSubExecutor(...) as bus:`")
        return self._place

    # --- life -------------------------------------------------------------------------------------

    def __enter__(self) -> PubSubExecutor:
        self._refuse_twice()
        Home.in_thread(self._open)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=error is None)

    async def __aenter__(self) -> PubSubExecutor:
        self._refuse_twice()
        self._open(Home(asyncio.get_running_loop()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._shut(self.config.grace, drain=error is None)

    def close(self, grace: float | None = None, *, drain: bool = True) -> None:
        """End a bus that ``with`` has opened; nothing happens where it does not run.

        Args:
            grace: Seconds that it may take, `PubSubConfig.grace` by default.
            drain: Whether what waits is handled first. What is left in memory is gone, and counted
                as undelivered; a database keeps it.
        """
        home = self._home
        if home is None or not home.is_own:
            return
        limit = self.config.grace if grace is None else seconds(grace, "grace")
        try:
            home.call(self._shut(limit, drain=drain))
        finally:
            home.leave()

    def stop(self, reason: str = "stopped") -> None:
        """Give agents nothing more; calls that are going on end as they would. From any thread."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        for each in self._all():
            each.stop()
        self._news()

    def _refuse_twice(self) -> None:
        with self._lock:
            if self._home is not None:
                raise InvalidState("the bus runs already; make another one, or wait for its end")

    def _open(self, home: Home) -> None:
        with self._lock:
            self._refuse_twice()
            self._reset()
            self._home = home
            place: Place | None = None
            try:
                place = self._make_place()
                place.open()
                self._place = place
                for name in self._declared:
                    self._channel(name)
                for caller in self._callers.values():
                    self._put_in(caller)
            except BaseException:
                for each in self._all():
                    each.stop()
                self._home = self._place = None
                if place is not None:
                    place.close()
                raise

    def _make_place(self) -> Place:
        if self.database_url is None:
            return MemoryPlace(self, self._monotonic)
        from dagger_dsl.pubsub.durable import DurablePlace  # who stays in memory loads no store

        return DurablePlace(self, self.database_url)

    async def _shut(self, grace: float, *, drain: bool) -> None:
        """End everything; in the loop of the bus."""
        place, home = self._place, self._home
        if place is None or home is None:
            return
        deadline = home.loop.time() + grace
        try:
            end = place.now() + grace  # what is due later is not waited for
            wanted = drain and self._reason is None
            if wanted and not await home.until(lambda: self._has_drained(end), deadline):
                logger.warning("the bus was closed with messages that are not handled yet")
        finally:
            self.stop("closed")
            if not await home.until(self._has_ended, deadline):
                for each in self._all():
                    each.cancel()
                await home.until(self._has_ended, home.loop.time() + 1.0)
            try:
                await home.loop.run_in_executor(None, place.close)
                for made in self._triggers:
                    await home.loop.run_in_executor(None, made.close)
            finally:
                for each in self._all():
                    self._lose(each)
                self._place = self._home = None

    def _has_drained(self, end: float) -> bool:
        return self._reason is not None or self._calm_until() > end

    def _has_ended(self) -> bool:
        return not any(each.drivers for each in self._all())

    def _is_over(self) -> bool:
        return self._reason is not None or self._calm_until() == math.inf

    def _calm_until(self) -> float:
        return -math.inf if self._place is None else self._place.calm_until()

    def _news(self) -> None:
        """Wake those who wait for something to be so; from any thread."""
        home = self._home
        if home is not None:
            home.news()

    def wait_idle(self, timeout: float | None = None) -> Pending[bool]:
        """Wait until all that was published is handled.

        In a thread without a running event loop this call blocks for that; in one with a running
        loop ``await`` waits.

        Args:
            timeout: Seconds; None for ever.

        Returns:
            Whether that is so, by `Pending.result` or ``await``; False where it took too long, or
            the bus was stopped.

        Raises:
            InvalidState: The bus does not run.
        """
        home = self._home
        if home is None or self._place is None:
            raise InvalidState("the bus does not run; use `with PubSubExecutor(...) as bus:`")
        limit = None if timeout is None else seconds(timeout, "timeout")
        pending = Pending[bool](loop=home.loop)

        async def watch() -> None:
            try:
                deadline = None if limit is None else home.loop.time() + limit
                await home.until(self._is_over, deadline)
                pending.succeed(self._calm_until() == math.inf)
            except BaseException as error:
                pending.fail(error)
                raise

        home.begin(lambda: self._watch(watch()))
        if running_loop() is None:
            pending.result()
        return pending

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- until something ends it ------------------------------------------------------------------

    def run(self, spec: WorkflowSpec | None = None) -> PubSubExecutionReport:
        """Run until something ends it, and return what was done; `run_async` for those who await.

        Args:
            spec: `StartWith`, or `Reactive` (by default), with what ends it.

        Raises:
            InvalidState: The bus runs already.
            Errors of `publish`: For the message of `StartWith`.
        """
        home = self._home
        if home is not None and home.is_own:
            try:
                return home.call(self._run(as_spec(spec)))
            finally:
                self._leave(home)
        if running_loop() is None:
            return run_in_loop(self.run_async(spec))
        done = Pending[PubSubExecutionReport]()

        def work() -> None:
            try:
                done.succeed(run_in_loop(self.run_async(spec)))
            except BaseException as error:
                done.fail(error)

        threading.Thread(target=work, name="dagger-pubsub-run", daemon=True).start()
        return done.result()

    async def run_async(self, spec: WorkflowSpec | None = None) -> PubSubExecutionReport:
        """Run until something ends it, with async agents in the loop of the caller; see `run`."""
        chosen = as_spec(spec)
        home = self._home
        if home is None:
            async with self:
                return await self._run(chosen)
        if home.loop is asyncio.get_running_loop():
            return await self._run(chosen)
        try:
            work = asyncio.run_coroutine_threadsafe(self._run(chosen), home.loop)
            return await asyncio.wrap_future(work)
        finally:
            await asyncio.to_thread(self._leave, home)

    def _leave(self, home: Home) -> None:
        """End the thread of a bus that `run` has ended inside of its block."""
        if self._home is not home:
            home.leave()

    async def _run(self, spec: WorkflowSpec) -> PubSubExecutionReport:
        home = self._home
        assert home is not None
        self._limit = spec.count
        try:
            if isinstance(spec, StartWith):
                await self.publish(spec.channel, spec.payload, key=spec.key, id=spec.id)
            self.stop(await wait_for_end(self, home, spec))
        except BaseException:
            self.stop("failed")
            raise
        await self._shut(self.config.grace, drain=False)
        return self._report()

    def _activity(self) -> tuple[int, int]:
        published = sum(each.published for each in list(self._channels.values()))
        return published, sum(each.handled + each.failed for each in self._all())

    def _count(self) -> None:
        """Look whether as many messages were handled as there shall be."""
        limit = self._limit
        if limit is not None and sum(each.handled for each in self._all()) >= limit:
            self.stop("count")

    def _report(self) -> PubSubExecutionReport:
        channels, running = self.channels, self.agents
        return PubSubExecutionReport(
            reason=self._reason or "stopped",
            duration=self._monotonic() - self._began,
            published=sum(each.published for each in channels.values()),
            agents={
                name: self._gone.get(name, AgentStats()).plus(running.get(name, AgentStats()))
                for name in {**self._gone, **running}
            },
            channels=channels,
            dead_letters=tuple(self._letters()),
            undelivered=self._undelivered,
        )

    def _letters(self) -> list[DeadLetter]:
        return [letter for each in self._all() for letter in each.letters]
