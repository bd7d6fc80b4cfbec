"""`Trigger`: each message of a channel starts one run of a workflow.

It is an agent like any other, so that acknowledgement, retries, dead letters and order are those of
messages. Its run is called by the trigger's name and the message's id: a message that is given
again, after a failure or a death, finds its run and goes on with that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.engine.inputs import bind_inputs
from dagger_dsl.engine.launch import plan_for
from dagger_dsl.engine.once import start_once
from dagger_dsl.engine.report import result_of
from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    IdempotencyConflict,
    InputValidationError,
    RunOwned,
    shown,
)
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.messages import Message, check_channel, check_patterns, error_text
from dagger_dsl.model.policies import whole_number
from dagger_dsl.pubsub.definition import PubSubAgentDef
from dagger_dsl.pubsub.schemas import Shape
from dagger_dsl.retry import as_policy

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.pubsub.context import MessageContext
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.storage import Store

__all__ = ["Trigger"]

#: Options that the message settles.
_SETTLED: Final = ("run_id", "idempotency_key")

#: Seconds between two looks whether somebody else still executes a run: at first, and at most.
_SOON: Final = 0.05
_LATER: Final = 1.0

#: Seconds that a run whose bus ends is waited for; a bus waits a second for its agents.
_LEAVE: Final = 0.8


class Trigger:
    """Starts runs of one workflow; the arguments are those of `PubSubExecutor.trigger`.

    Args:
        workflow: A `DAG`, a state machine or a `Graph`.
        registry: Where the actions of a `Graph` are looked up.
        bus_store: Returns the database that the bus has opened, None in memory.

    Attributes:
        agent: The agent that it is on the bus.

    Raises:
        ConfigurationError: An argument cannot be.
        ValidationError: The workflow cannot run.
    """

    def __init__(
        self,
        workflow: Workflow | Graph,
        channel: Any,
        *,
        registry: Registry,
        bus_store: Callable[[], Store | None],
        name: str | None,
        publish: str | None,
        inputs: Callable[[Any], Mapping[str, Any]] | None,
        retry: Any,
        concurrency: int,
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(workflow, (Workflow, Graph)):
            raise ConfigurationError(
                f"trigger() starts runs of a DAG, a state machine or a Graph, not {shown(workflow)}"
            )
        if inputs is not None and not callable(inputs):
            raise ConfigurationError(
                f"inputs is a function of a payload that returns a mapping, not {shown(inputs)}"
            )
        for each in _SETTLED:
            if each in options:
                raise ConfigurationError(
                    f"{each}= is settled by the message: the run's id is made of the trigger's "
                    "name and the message's id"
                )
        self._workflow = workflow if isinstance(workflow, Workflow) else None
        self._graph = workflow.compile() if isinstance(workflow, Workflow) else workflow
        self._registry = workflow.registry if isinstance(workflow, Workflow) else registry
        self._options = _options(self._workflow, options)
        self._mapper = inputs
        self._bus_store = bus_store
        self._own_store: Store | None = None
        self._opening = threading.Lock()
        self._calls = 0
        self._retired = False
        self._answers = None if publish is None else check_channel(publish)
        plan_for(self._graph, self._registry)
        self.name = _name(self._graph.name if name is None else name)
        self.agent = PubSubAgentDef(
            self.name,
            self.handle,
            check_patterns(channel, "channel"),
            () if self._answers is None else (self._answers,),
            f"starts {self._graph.name}",
            InputsShape(self),
            None,
            None if retry is None else as_policy(retry),
            whole_number(concurrency, "concurrency", most=10_000),
        )

    def __repr__(self) -> str:
        return f"<Trigger {self.name!r} of {self._graph.name!r}>"

    # --- what a run is given ----------------------------------------------------------------------

    def inputs_of(self, payload: Any) -> dict[str, Any]:
        """Return what a run is given for a payload.

        Raises:
            InputError: The workflow does not take it.
        """
        plan = plan_for(self._graph, self._registry)
        given = self._given(payload, self._names())
        configs = (self._options.config, self._graph.config)
        said = (each for each in configs if each is not None and "on_missing" in each.given)
        config = next(said, None)
        bind_inputs(plan, given, "error" if config is None else config.on_missing)
        return given

    def _names(self) -> dict[str, bool]:
        """Return the inputs, each with whether there must be a value for it."""
        plan = plan_for(self._graph, self._registry)
        declared = self._graph.inputs
        found = dict.fromkeys(plan.inputs, True)
        for name, each in declared.items():
            found[name] = each.required and each.default is None
        return found

    def _given(self, payload: Any, names: Mapping[str, bool]) -> dict[str, Any]:
        if self._mapper is not None:
            return self._mapped(payload)
        if isinstance(payload, Mapping) and (not payload or payload.keys() & names.keys()):
            return dict(payload)
        if payload is None and not any(names.values()):
            return {}
        needed = [name for name, is_needed in names.items() if is_needed]
        one = list(names) if len(names) == 1 else needed
        if len(one) == 1:
            return {one[0]: payload}
        if isinstance(payload, Mapping):  # a wrong name is told
            return dict(payload)
        raise InputValidationError(
            f"graph {self._graph.name!r}: a payload is a mapping of its inputs "
            f"({', '.join(names) or 'there is none'}), not {shown(payload, 60)}; publish one, or "
            "give trigger() a function inputs= that makes one"
        )

    def _mapped(self, payload: Any) -> dict[str, Any]:
        assert self._mapper is not None
        try:
            given = self._mapper(payload)
        except Exception as error:
            raise InputValidationError(
                f"the inputs= of trigger {self.name!r} failed on a payload: {error_text(error)}"
            ) from error
        if not isinstance(given, Mapping):
            raise InputValidationError(
                f"the inputs= of trigger {self.name!r} returns a mapping of names to values, not "
                f"{shown(given, 60)}"
            )
        return dict(given)

    # --- one message ------------------------------------------------------------------------------

    async def handle(self, message: Message, bus: MessageContext) -> None:
        """Run the workflow for a message, or go on with its run, and publish what it gives.

        Raises:
            NodeExecutionError, RunPaused, RunCancelled, ExecutionTimeout: It gives nothing.
            InputError: It does not take the payload.
            IdempotencyConflict: The run of that id is of something else.
        """
        with self._opening:
            self._calls += 1
        try:
            await self._handle(message, bus)
        finally:
            with self._opening:
                self._calls -= 1
            self._close_unused()

    async def _handle(self, message: Message, bus: MessageContext) -> None:
        handle = await self._begun(message)
        ended = asyncio.ensure_future(handle)
        try:
            report = await asyncio.shield(ended)
        except asyncio.CancelledError:
            handle.cancel("its bus ends; the message is given again")
            await asyncio.wait({ended}, timeout=_LEAVE)
            ended.cancel()
            raise
        value = self._value(report)
        if self._answers is not None:
            await bus.publish(self._answers, value, key=message.key)

    async def _begun(self, message: Message) -> RunHandle:
        pause = _SOON
        while True:
            begin = asyncio.ensure_future(asyncio.to_thread(self._begin, message))
            try:
                return await asyncio.shield(begin)
            except RunOwned:  # by a process that is dying, or by a person that resumes it
                await asyncio.sleep(pause)
                pause = min(_LATER, 1.5 * pause)
            except asyncio.CancelledError:
                begin.add_done_callback(_cancel_late)
                raise

    def _begin(self, message: Message) -> RunHandle:
        given = self.inputs_of(message.payload)
        run_id = f"{self.name}:{message.id}"
        store = self._store()
        # A message that is given again after the program was changed is no other message: its run
        # goes on as it began.
        arguments = (run_id, self._graph, self._registry, given, self._options, store)
        if self._workflow is None:
            handle = start_once(*arguments, any_graph=True)
        else:
            with self._workflow._outside():
                handle = start_once(*arguments, any_graph=True)
        if handle is None:
            raise IdempotencyConflict(
                f"run {run_id!r} is there, of another workflow or with other inputs than those of "
                f"message {message.id!r}; give the message an id of its own, or the trigger "
                "another name="
            )
        return handle

    def _value(self, report: RunReport) -> Any:
        if self._workflow is not None:
            return self._workflow._answer(report, self._options)
        if not report.continued:
            report.raise_for_failure()
        return result_of(report)

    # --- where runs are recorded ------------------------------------------------------------------

    def _store(self) -> Store | None:
        url = self._options.database_url
        if url is None:
            return self._bus_store()
        with self._opening:
            if self._own_store is None:
                from dagger_dsl.store.storage import Store  # who stays in memory loads no store

                self._own_store = Store(url)
            return self._own_store

    def retire(self) -> None:
        """Close the database of the runs once no call goes on, as no other one follows."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and not self._calls:
            self.close()

    def close(self) -> None:
        """Close the database of the runs where it is not that of the bus."""
        with self._opening:
            store, self._own_store = self._own_store, None
        if store is not None:
            store.close()


class InputsShape(Shape):
    """What a payload has to be so that a workflow takes it.

    Args:
        trigger: Whose.
    """

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger

    def __repr__(self) -> str:
        return f"<InputsShape of {self._trigger.name!r}>"

    def fault(self, value: Any, what: str = "payload") -> str:
        """Return why the workflow does not take a payload; empty where it does."""
        try:
            self._trigger.inputs_of(value)
        except DaggerError as error:
            return str(error)
        return ""


def _cancel_late(begin: asyncio.Future[RunHandle]) -> None:
    """Cancel a run that began although its bus had ended."""
    if not begin.cancelled() and begin.exception() is None:
        begin.result().cancel("its bus ends; the message is given again")


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 100 or ":" in name or "\0" in name:
        raise ConfigurationError(
            "the name of a trigger is a text of 1 to 100 characters without a colon, which stands "
            f"between it and a message's id in the ids of its runs; not {shown(name, 60)}; give "
            "name="
        )
    return name


def _options(workflow: Workflow | None, options: Mapping[str, Any]) -> RunOptions:
    if workflow is not None:
        return workflow._options_within(options, "sequential")
    return RunOptions.of({"runner": "sequential", **options})
