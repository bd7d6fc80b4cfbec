"""What a node's function and a hook get to see, and what a node's function may answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final, overload

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.jobs import JobRequest
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.policies import whole_number
from dagger_dsl.model.protocols import CacheReader, CancelSignal
from dagger_dsl.model.sharing import check_progress
from dagger_dsl.model.values import MISSING, register_type

if TYPE_CHECKING:
    from datetime import timedelta

    from dagger_dsl.model.graph import Graph
    from dagger_dsl.model.stalls import StallAction
    from dagger_dsl.model.tasks import NewTaskSpec

__all__ = [
    "Branch",
    "EmptyCache",
    "Failed",
    "HookContext",
    "NodeCtx",
    "NodeOutcome",
    "NodeOutput",
    "NodeRef",
    "call_name",
    "labels_of",
    "no_label",
]

DEFAULT_KEY = "default"


class EmptyCache:
    """A cache in which nothing was ever written."""

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return *default*."""
        return default


def call_name(node_id: str, key: str) -> str:
    """Return what an invocation is called where people read it: ``load``, ``load[3]``."""
    return node_id if key == DEFAULT_KEY else f"{node_id}[{key}]"


@attrs.frozen
class NodeRef:
    """Which invocation of which node of which run."""

    run_id: str
    dag_name: str
    node_id: str
    invocation_key: str = DEFAULT_KEY

    def __str__(self) -> str:
        call = call_name(self.node_id, self.invocation_key)
        return f"{self.dag_name}/{call} of run {self.run_id}"


class _Success:
    """`success` is the documents' constructor on the class and their flag on an answer."""

    @overload
    def __get__(self, answer: None, kind: type[NodeOutput]) -> Callable[..., NodeOutput]: ...
    @overload
    def __get__(self, answer: NodeOutput, kind: type[NodeOutput]) -> bool: ...
    def __get__(
        self, answer: NodeOutput | None, kind: type[NodeOutput]
    ) -> Callable[..., NodeOutput] | bool:
        return _succeed if answer is None else answer.succeeded


def _succeed(outputs: Any = None, **more: Any) -> NodeOutput:
    """Return a successful answer; a mapping is always split into outputs by name."""
    return NodeOutput(outputs, True, **more)


@final
@attrs.frozen(init=False)
class NodeOutput:
    """What a node answers when a bare return value does not say enough.

    Attributes:
        outputs: The value, or a mapping of output names to values.
        success: On an answer, False for a failure the node chose (it is not retried); on the
            class, the constructor `NodeOutput.success(outputs)`.
        metadata: Free data kept with the node's run and shown to hooks.
        message: Why it failed.
        commands: Changes of the graph that the coordinator applies with this outcome.
    """

    outputs: Any
    succeeded: bool
    metadata: Mapping[str, Any]
    message: str
    commands: tuple[Any, ...]
    split: bool
    success: ClassVar[_Success]

    def __init__(
        self,
        outputs: Any = None,
        success: bool = True,
        metadata: Mapping[str, Any] | None = None,
        *,
        message: str = "",
        commands: Sequence[Any] = (),
        split: bool | None = None,
    ) -> None:
        self.__attrs_init__(
            outputs,
            success,
            MappingProxyType(dict(metadata or {})),
            message,
            tuple(commands),
            isinstance(outputs, Mapping) if split is None else split,
        )

    @classmethod
    def failure(cls, message: str = "", outputs: Any = None, **more: Any) -> NodeOutput:
        """Return a chosen failure: the node fails with *message* and is not retried."""
        return cls(outputs, False, message=message, **more)


NodeOutput.success = _Success()


def _label(_: Any, attribute: attrs.Attribute[Any], label: Any) -> None:
    if labels_of(label) is None or isinstance(label, Branch):
        raise ConfigurationError(
            "a Branch is labelled by True, False, a text or a list of texts, not "
            f"{shown(label)}; what flows goes second: Branch('label', value)"
        )


@final
@attrs.frozen
class Branch:
    """A label that chooses the way on, together with the value that flows along it.

    Attributes:
        label: A bool, a text, or a list of texts.
        value: What dependents on the chosen edges receive.

    Raises:
        ConfigurationError: The label is something else.
    """

    label: bool | str | Sequence[str] = attrs.field(validator=_label)
    value: Any = None


@register_type
@attrs.frozen
class Failed:
    """Stands in the list of a mapped node for an invocation that failed.

    Attributes:
        key: Which invocation: the place of its item in the list.
        type: Qualified name of the exception's class.
        message: Its text.
        attempts: Calls that were made.
    """

    key: str
    type: str
    message: str
    attempts: int = 1

    def __bool__(self) -> bool:
        """Be false, so that ``filter(None, values)`` leaves the failures out."""
        return False


def labels_of(result: Any) -> frozenset[str] | None:
    """Return the labels a source's result satisfies, or None when it is no label.

    A bool gives ``true`` or ``false``, a text itself, a list of texts all of them.
    """
    if isinstance(result, Branch):
        result = result.label
    if isinstance(result, bool):
        return frozenset(("true" if result else "false",))
    if isinstance(result, str):
        return frozenset((result,))
    if isinstance(result, (list, tuple)) and all(isinstance(each, str) for each in result):
        return frozenset(result)
    return None


def no_label(result: Any) -> str:
    """Return why a source of labelled edges cannot have this result."""
    return (
        "it has labelled edges, so its result is a bool, a text, a list of texts or "
        f"Branch(label, value), not {shown(result)}"
    )


@attrs.frozen
class NodeOutcome:
    """How a node ended, for hooks.

    Attributes:
        success: Whether it completed.
        outputs: Its outputs by name.
        skipped, cached: Whether it did not run, or its result was reused.
        recovered: Its failure handler or its fallback gave the value.
        error: What it raised, or its own failure message as an exception.
        metadata: What the node gave with its answer.
    """

    success: bool
    outputs: Mapping[str, Any] = attrs.field(factory=dict)
    skipped: bool = False
    cached: bool = False
    error: BaseException | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict)
    recovered: bool = False


def _read_only(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(given))


@attrs.frozen(eq=False)
class NodeCtx:
    """What a node's function may know. A parameter annotated `NodeCtx` (or named ``ctx``) gets it.

    It has no handle on the graph, the executor or the run's state: functions compute, hooks and
    commands steer.

    Attributes:
        dag_name, node_id, run_id: Where the call belongs.
        attempt: Number of this call, from 1; it rises over resumes.
        inputs: The bound inputs by name, read only.
        cache: Values of the run by namespace and key, read only.
        app_data: The object the run was given.
        invocation_key: Which invocation of the node this is.
        cancel: Tells a long body that it should end.
        depth: How many growths lie between the graph that the run began with and this node.
    """

    dag_name: str
    node_id: str
    run_id: str = ""
    attempt: int = 1
    inputs: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only)
    cache: CacheReader = attrs.field(factory=EmptyCache)
    app_data: Any = None
    invocation_key: str = DEFAULT_KEY
    cancel: CancelSignal | None = None
    depth: int = 0
    _spend: Callable[[int], int] | None = attrs.field(default=None, repr=False)
    _progress: Callable[[float, float, str], None] | None = attrs.field(default=None, repr=False)
    _keep: Callable[[Any], None] | None = attrs.field(default=None, repr=False)
    _kept: Callable[[], tuple[bool, Any]] | None = attrs.field(default=None, repr=False)

    def wait_for_human(
        self,
        prompt: str,
        schema: Any = None,
        default: Any = MISSING,
        timeout: float | timedelta | None = None,
    ) -> HumanRequest:
        """Return what lets the node wait for a person: ``return ctx.wait_for_human(...)``.

        The body ends with it. No worker is held, the run may stand still and its process end; the
        answer becomes the node's result, and nothing before the wait runs again.

        Args:
            prompt: What the person is asked.
            schema: JSON Schema of the answer, or a type that has one, such as ``bool``.
            default: The answer when nobody gives one in time; it fits the schema.
            timeout: Seconds (or timedelta) to wait; the configuration's ``human_wait_minutes`` by
                default.

        Raises:
            ConfigurationError: One of these cannot be one.
        """
        return HumanRequest(prompt, schema, default, timeout)

    def wait_for_job(
        self,
        tasks: NewTaskSpec | Sequence[NewTaskSpec] | None = None,
        job_id: str | None = None,
        *,
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
        heartbeat_interval: float | timedelta | None = None,
        stall_action: StallAction | str | None = None,
        max_tasks: int | None = None,
    ) -> JobRequest:
        """Return what lets the node wait for a job of tasks: ``return ctx.wait_for_job(...)``.

        The body ends with it, and the job starts with the commit that records this, in the run's
        database: for workers of this process (`TaskManager`) or others (``dagger-dsl worker``).
        The node holds no worker while it waits, and the run goes on until the job has ended. When
        the process dies, the job goes on, and a resume of the run waits for it again.

            return ctx.wait_for_job(NewTaskSpec("planner", {"question": question}))

        The node's result is that of the job: the output of its task, of the last one where tasks
        need each other. Tasks that are parts of others (``parent``) and tasks that another one
        needs do not count; where several are left it is a mapping of their outputs by task id, in
        the order in which they were added.

        A job that fails, or is cancelled, fails the node, and so does one that completes although
        all the tasks were cancelled whose outputs would be its result; of several outputs those of
        cancelled tasks are left out. Another attempt of the node, by its retry
        policy or by a resume of the run, goes on with the same job: tasks that failed or were
        cancelled are tried again, what completed stays. A node that is cancelled cancels the job
        that it has started; an interrupt (Ctrl-C) does not.

        Args:
            tasks: The tasks of a job that the node starts; its id is the node's
                `idempotency_key`. Their ids are names inside of the job, and end those that they
                have in the database: ``<job>/<task_id>``; without one they are numbered.
            job_id: A job that is there already, of the same database; it belongs to whoever has
                started it, and is not tried again or cancelled by the node.
            allowed_agents: The agents that the job may give tasks to; None for all.
            config: What to keep with the job, of JSON types.
            timeout: Seconds (or timedelta) until the job is cancelled.
            heartbeat_interval, stall_action, max_tasks: What the job keeps, as
                `TaskManager.start_job` takes them; by default its stalls are for whoever runs its
                tasks to decide on, and it may have 100,000 tasks.

        Raises:
            ConfigurationError: One of these cannot be one.
            CycleError: The tasks wait for each other.
        """
        return JobRequest(
            tasks,
            job_id,
            allowed_agents=allowed_agents,
            config=config,
            timeout=timeout,
            heartbeat_interval=heartbeat_interval,
            stall_action=stall_action,
            max_tasks=max_tasks,
        )

    def add_tokens(self, number: int) -> int:
        """Count what the node has used against the run's ``max_tokens``; return the run's total.

        Raises:
            TokenBudgetExceeded: It is more than the run may use; the run stops.
            ConfigurationError: *number* is no whole number of at least 0, or more than a count
                may be.
        """
        whole_number(number, "a number of tokens", least=0)
        return number if self._spend is None else self._spend(number)

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Report how far the node has come, as `Context.progress` does.

        Args:
            done: How many of its items are processed.
            total: How many there are.
            message: What it is at; the two numbers by default.

        Raises:
            ConfigurationError: A number is none, or below 0; *message* is no text.
        """
        check_progress(done, total, message)
        if self._progress is not None:
            self._progress(done, total, message)

    def checkpoint(self, value: Any) -> None:
        """Keep how far a long body has come, for the attempt after this one; see `checkpointed`.

        A run with a database has it recorded, at the run's level of durability, when this returns:
        at level ``sync`` a crash loses nothing of it. Each value takes the place of the one before.

            for page in range(ctx.checkpointed(0), pages):
                load(page)
                ctx.checkpoint(page + 1)

        A value of 32 KiB and more is a file, as results are; one that was replaced stays until
        `prune` removes it.

        Args:
            value: Anything that a node may return; a copy is kept.

        Raises:
            EncodingError: It has no stored form.
            TransferError: It cannot leave its worker process.
            InvalidState: This attempt is over: it ran out of time, or the run has ended. Or the
                body yields its items: another attempt has to yield them all again.
            StoreError: It cannot be recorded.
        """
        if self._keep is not None:
            self._keep(value)

    def checkpointed(self, default: Any = None) -> Any:
        """Return what an attempt of this very invocation has kept last, this one included.

        Args:
            default: What to return when there is none.
        """
        found, value = (False, None) if self._kept is None else self._kept()
        return value if found else default

    @property
    def idempotency_key(self) -> str:
        """A text that stays the same over retries, crashes and resumes of this invocation."""
        return f"{self.run_id}/{self.node_id}/{self.invocation_key}"

    @property
    def cancelled(self) -> bool:
        """Whether the run shall end; long bodies look at it now and then."""
        return self.cancel is not None and self.cancel.cancelled

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the run's and the node's id."""
        return logging.LoggerAdapter(
            logging.getLogger("dagger_dsl.node"),
            {"run_id": self.run_id, "dag_name": self.dag_name, "node_id": self.node_id},
        )


@attrs.frozen(eq=False)
class HookContext:
    """What a hook may know of the run it watches.

    Attributes:
        run_id, dag_name: The run.
        app_data: The object the run was given.
        cache: Values of the run, read only.
    """

    run_id: str
    dag_name: str
    app_data: Any = None
    cache: CacheReader = attrs.field(factory=EmptyCache)
    _graph: Graph | Callable[[], Graph] | None = attrs.field(default=None, repr=False)

    @property
    def graph(self) -> Graph | None:
        """The graph as it is now, with everything that was added so far."""
        return self._graph() if callable(self._graph) else self._graph

    @property
    def graph_view(self) -> Graph | None:
        """The documents' name of `graph`."""
        return self.graph
