"""`DagConfig`: how a graph wants to be run; `RunOptions`: how one run is made.

The table of defaults is the class body of `DagConfig`; nothing else in the package repeats one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown
from dagger_dsl.model.policies import (
    DEFAULT_RETRY,
    HumanTimeoutAction,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    as_enum,
    seconds,
    whole_number,
)
from dagger_dsl.model.protocols import CancelSignal

if TYPE_CHECKING:
    from dagger_dsl.model.resources import ResourceTracker
    from dagger_dsl.model.sharing import Context

__all__ = ["DagConfig", "Durability", "RunOptions", "RunnerName", "as_config"]

Durability: TypeAlias = Literal["sync", "async", "exit"]
RunnerName: TypeAlias = Literal["sequential", "threads", "asyncio", "processes"]


@attrs.frozen(init=False, eq=False)
class DagConfig:
    """How a graph wants to be run. A graph's configuration beats the executor's, field by field.

    Every field may be given by keyword; the others keep the defaults below. Fields marked [*] are
    checked, stored and shown, and nothing in this version acts on them; see `not_acted_on`.

    Attributes:
        max_attempts: Calls of a node in all, the first included, where the node says nothing.
        on_failure: What a failed node does to its run.
        timeout_seconds: Limit of a whole run, None for none.
        max_parallel_nodes: Nodes that run at the same time; None means the number of CPUs.
        enable_parallel_execution: False runs one node at a time, in topological order.
        retry_strategy: The waits between attempts.
        human_wait_minutes: How long to wait for a person; None waits for ever.
        human_timeout_action: What happens when nobody answers in time: ``pause`` leaves the run as
            it is, ``autopilot`` goes on with the default of whoever asked.
        max_tokens: What the nodes of one run may use (``ctx.add_tokens``) before it is stopped.
        max_iterations: How often the graph of one run may grow, before it is stopped.
        max_growth_depth: How deep nodes added by added nodes may go, before the run is stopped.
        review_frequency: Pause for review after so many node completions.
        enable_incremental_cache [*]: Write changes of the cache, not the whole of it.
        cache_snapshot_interval: Where it is given: seconds after which the levels ``async`` and
            ``exit`` write what they have kept back; 0 for never. Level ``sync`` keeps nothing back.
        flush_interval: Seconds an outcome may wait for its commit before another node is
            launched (level ``sync``); 0 commits every outcome by itself.
        max_crashes: How often a node may take its process down before it counts as failed.
        shutdown_grace: Seconds that running nodes get to end when a run is stopped.
        keep_runs: Finished runs of a flow kept by retention; None keeps all.
        keep_days: Days that finished runs are kept; None keeps all.
        on_missing: ``error``, or ``null`` to give None for values that old files leave open.
    """

    max_attempts: int = 1
    on_failure: OnFailure = OnFailure.STOP
    timeout_seconds: float | None = None
    max_parallel_nodes: int | None = 4
    enable_parallel_execution: bool = True
    retry_strategy: RetryPolicy = DEFAULT_RETRY
    human_wait_minutes: float | None = None
    human_timeout_action: HumanTimeoutAction = HumanTimeoutAction.PAUSE
    max_tokens: int | None = None
    max_iterations: int | None = None
    max_growth_depth: int | None = None
    review_frequency: int | None = None
    enable_incremental_cache: bool = True
    cache_snapshot_interval: float = 60.0
    flush_interval: float = 0.005
    max_crashes: int = 3
    shutdown_grace: float = 10.0
    keep_runs: int | None = None
    keep_days: float | None = None
    on_missing: Literal["error", "null"] = "error"
    #: Names of the fields that were given; only these override in `merge`.
    given: frozenset[str] = frozenset()

    def __init__(self, **fields: Any) -> None:
        unknown = [name for name in fields if name not in _CHECKS]
        if unknown:
            raise ConfigurationError(
                f"DagConfig has no field {shown(unknown[0])}{did_you_mean(unknown[0], _CHECKS)}"
            )
        values = {name: _CHECKS[name](value, name) for name, value in fields.items()}
        self.__attrs_init__(**values, given=frozenset(fields))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DagConfig):
            return NotImplemented
        return attrs.astuple(self, recurse=False) == attrs.astuple(other, recurse=False)

    def __hash__(self) -> int:
        return hash(attrs.astuple(self, recurse=False))

    def changes(self) -> dict[str, Any]:
        """Return the fields that were given, in the order of the table."""
        return {
            field.name: getattr(self, field.name)
            for field in attrs.fields(DagConfig)
            if field.name in self.given
        }

    def not_acted_on(self) -> list[str]:
        """Return the fields that were given and that this version does not act on yet."""
        return [name for name in _LATER if name in self.given]

    def replace(self, **fields: Any) -> DagConfig:
        """Return this configuration with *fields* changed."""
        return DagConfig(**{**self.changes(), **fields})

    @staticmethod
    def merge(base: DagConfig | None, override: DagConfig | None) -> DagConfig:
        """Return *base* with the fields that *override* was given; the others keep *base*'s."""
        if override is None or not override.given:
            return base or _DEFAULTS  # frozen, so they can be shared
        if base is None or not base.given:
            return override
        return DagConfig(**{**base.changes(), **override.changes()})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DagConfig:
        """Return the configuration that a mapping of field names describes.

        Raises:
            ConfigurationError: A name is unknown or a value is wrong.
        """
        if not isinstance(fields, Mapping):
            raise ConfigurationError(f"a configuration is a mapping, not {type(fields).__name__}")
        return cls(**{str(name): value for name, value in fields.items()})

    @classmethod
    def from_env(
        cls, prefix: str = "DAGGER_DSL_", environ: Mapping[str, str] | None = None
    ) -> DagConfig:
        """Return the configuration that environment variables describe.

        Args:
            prefix: ``DAGGER_DSL_MAX_ATTEMPTS=3`` sets ``max_attempts``; other variables of this
                prefix are left alone.
            environ: The variables; `os.environ` by default.
        """
        source = os.environ if environ is None else environ
        fields: dict[str, Any] = {}
        for name in _CHECKS:
            text = source.get(prefix + name.upper())
            if text is not None:
                fields[name] = _from_text(text)
        return cls(**fields)

    @classmethod
    def production(cls) -> DagConfig:
        """Return document 004's settings: CPU count, 3 attempts, 1 h, 5/300/x2, Continue."""
        return cls(
            enable_parallel_execution=True,
            max_parallel_nodes=os.cpu_count() or 1,
            max_attempts=3,
            timeout_seconds=3600,
            retry_strategy=RetryStrategy.exponential(5, 300, 2.0),
            on_failure=OnFailure.CONTINUE,
        )

    @classmethod
    def for_io(cls, max_parallel_nodes: int = 50) -> DagConfig:
        """Return a configuration for nodes that mostly wait."""
        return cls(max_parallel_nodes=max_parallel_nodes)

    @classmethod
    def for_cpu(cls) -> DagConfig:
        """Return a configuration for nodes that compute: twice the number of CPUs."""
        return cls(max_parallel_nodes=2 * (os.cpu_count() or 1))


def _from_text(text: str) -> Any:
    lowered = text.strip().lower()
    if lowered in ("none", "null", ""):
        return None
    if lowered in ("true", "false", "yes", "no", "on", "off"):
        return lowered in ("true", "yes", "on")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _count(optional: bool) -> Any:
    def check(value: Any, name: str) -> int | None:
        if value is None and optional:
            return None
        return whole_number(value, name, also=" or None" if optional else "")

    return check


def _duration(optional: bool, zero: bool) -> Any:
    def check(value: Any, name: str) -> float | None:
        if value is None and optional:
            return None
        return seconds(value, name, zero=zero)

    return check


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {shown(value)}")
    return value


def _minutes(value: Any, name: str) -> float | None:
    return _lasting(value, name, "minutes", 60)


def _days(value: Any, name: str) -> float | None:
    return _lasting(value, name, "days", 86_400)


def _lasting(value: Any, name: str, unit: str, length: float) -> float | None:
    return None if value is None else seconds(value, name, zero=False, unit=unit, length=length)


def _retry(value: Any, name: str) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, str) and value.strip().lower() == "immediate":
        return RetryStrategy.IMMEDIATE
    raise ConfigurationError(
        f"{name} must be a RetryPolicy, such as RetryStrategy.exponential(), not {shown(value)}"
    )


def _missing(value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in ("error", "null"):
        raise ConfigurationError(f"{name} must be 'error' or 'null', not {shown(value)}")
    return str(value)


def _failure(value: Any, name: str) -> OnFailure:
    return as_enum(OnFailure, value, name)


def _human(value: Any, name: str) -> HumanTimeoutAction:
    return as_enum(HumanTimeoutAction, value, name)


_CHECKS: dict[str, Any] = {
    "max_attempts": _count(optional=False),
    "on_failure": _failure,
    "timeout_seconds": _duration(optional=True, zero=False),
    "max_parallel_nodes": _count(optional=True),
    "enable_parallel_execution": _flag,
    "retry_strategy": _retry,
    "human_wait_minutes": _minutes,
    "human_timeout_action": _human,
    "max_tokens": _count(optional=True),
    "max_iterations": _count(optional=True),
    "max_growth_depth": _count(optional=True),
    "review_frequency": _count(optional=True),
    "enable_incremental_cache": _flag,
    "cache_snapshot_interval": _duration(optional=False, zero=True),
    "flush_interval": _duration(optional=False, zero=True),
    "max_crashes": _count(optional=False),
    "shutdown_grace": _duration(optional=False, zero=True),
    "keep_runs": _count(optional=True),
    "keep_days": _days,
    "on_missing": _missing,
}

# Documented fields whose behaviour comes with later versions, marked [*] in `DagConfig`; a run that
# sets them is warned.
_LATER = ("enable_incremental_cache",)

_DEFAULTS = DagConfig()

#: More slots than any machine can use; each one costs memory.
_MOST_WORKERS = 10_000

_RUNNERS: dict[str, str] = {
    "sequential": "sequential",
    "sync": "sequential",
    "threads": "threads",
    "thread": "threads",
    "parallel": "threads",
    "asyncio": "asyncio",
    "async": "asyncio",
    "processes": "processes",
    "process": "processes",
}


def _runner(value: Any) -> str:
    if isinstance(value, str) and value in _RUNNERS:
        return _RUNNERS[value]
    raise ConfigurationError(
        "runner must be one of 'sequential', 'threads', 'asyncio', 'processes' (mode: 'sync', "
        f"'parallel', 'async'), not {shown(value)}{did_you_mean(value, _RUNNERS)}"
    )


def _durability(value: Any) -> str:
    if not isinstance(value, str) or value not in ("sync", "async", "exit"):
        raise ConfigurationError(
            f"durability must be 'sync', 'async' or 'exit', not {shown(value)}"
        )
    return str(value)


def _on_change(value: Any) -> str:
    if not isinstance(value, str) or value not in ("warn", "fail"):
        raise ConfigurationError(f"on_change must be 'warn' or 'fail', not {shown(value)}")
    return str(value)


def _text_or_none(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise ConfigurationError(
            f"{attribute.name} must be a text that is not empty, not {shown(value)}"
        )


def _workers(value: Any) -> int | None:
    checked: int | None = _count(optional=True)(value, "max_workers")
    if checked is not None and checked > _MOST_WORKERS:
        raise ConfigurationError(
            f"max_workers must be {_MOST_WORKERS} at most, not {shown(checked)}; "
            "nodes that wait cost least under runner='asyncio'"
        )
    return checked


def _capacity(value: Any) -> int:
    return whole_number(value, "a capacity")


def _url(value: Any) -> str | None:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigurationError(
            f"database_url is a text such as 'sqlite:///runs.db', or a path, not {shown(value)}"
        )
    return value


def _hooks(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"hooks is a list, such as hooks=[watch], not {shown(value)}")
    return tuple(value)


def _cancel(value: Any) -> Any:
    if value is not None and not (
        hasattr(value, "cancelled") and callable(getattr(value, "subscribe", None))
    ):
        raise ConfigurationError(
            f"cancel is a CancelToken, or has `cancelled` and `subscribe`, not {shown(value)}"
        )
    return value


def _context(value: Any) -> Context | None:
    if value is None:
        return None
    from dagger_dsl.model.sharing import Context  # most runs are given none

    if not isinstance(value, Context):
        raise ConfigurationError(f"context is a Context, such as Context(), not {shown(value)}")
    return value


#: Spellings of `RunOptions.error_strategy`.
_STRATEGIES = {"fail_fast": "fail_fast", "stop": "fail_fast", "continue": "continue"}


def _strategy(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in _STRATEGIES):
        return None if value is None else _STRATEGIES[value]
    raise ConfigurationError(
        f"error_strategy is 'fail_fast' or 'continue', not {shown(value)}"
        f"{did_you_mean(value, _STRATEGIES)}"
    )


def _error_handler(value: Any) -> Any:
    if value is None:
        return None
    from dagger_dsl.model.lifecycle import callback  # most runs are given none

    return callback(value, "error_handler", ("node_name", "error", "context"))


#: What `RunOptions.progress` may name.
DISPLAYS = ("bar", "picture", "lines")


def _progress(value: Any) -> Any:
    if value is False:
        return None
    known = value in DISPLAYS if isinstance(value, str) else value is None or value is True
    if known or callable(value) or (hasattr(value, "begin") and hasattr(value, "close")):
        return value
    raise ConfigurationError(
        "progress is a function of (node_id, status, fraction), True for the display that fits, or "
        f"the name of one, not {shown(value)}{did_you_mean(value, DISPLAYS)}"
    )


def _earlier_run(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value) or hasattr(value, "node_reports"):
        return value
    raise ConfigurationError(f"reuse is a run's report or its id, not {shown(value)}")


def _track_memory(value: Any) -> bool:
    return bool(_flag(value, "track_memory"))


def as_config(value: Any) -> DagConfig | None:
    """Return the configuration that a `DagConfig`, a mapping of its fields, or None stands for.

    Raises:
        ConfigurationError: It is none of these, or a field is wrong.
    """
    if value is None or isinstance(value, DagConfig):
        return value
    if isinstance(value, Mapping):
        return DagConfig.from_dict(value)
    raise ConfigurationError(
        f"config is a DagConfig or a mapping of its fields, not {shown(value)}"
    )


def _profile(value: Any) -> bool | tuple[str, ...]:
    if value is None or isinstance(value, bool):
        return bool(value)
    what = "profile is a list of node ids, such as profile=['load'], or True for all nodes"
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{what}, not {shown(value)}")
    names: tuple[Any, ...] = tuple(getattr(each, "id", each) for each in value)
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"{what}; {shown(name)} is no id")
    return names


def _trace(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"trace must be True or False, not {shown(value)}")
    return value


def _resources(value: Any) -> ResourceTracker | None:
    if value is None:
        return None
    from dagger_dsl.model.resources import as_tracker  # runs without a tracker do not load it

    return as_tracker(value)


def _timeout(value: Any) -> float | None:
    return None if value is None else seconds(value, "timeout", zero=False)


def _cycles(value: Any) -> int | None:
    return None if value is None else whole_number(value, "max_cycles", most=10**15)


@attrs.frozen(kw_only=True)
class RunOptions:
    """How one run is made.

    Attributes:
        runner: ``sequential``, ``threads``, ``asyncio`` or ``processes``; document 002's spellings
            (``sync``, ``parallel``, ``async``) are read as these.
        max_workers: Nodes that run at the same time, 10,000 at most; None takes the
            configuration's number.
        timeout: Limit of the whole run in seconds; None takes the configuration's.
        database_url: Where the run is recorded; None keeps it in memory and loads no store.
        durability: ``sync``, ``async`` or ``exit``; see the package's README.
        run_id: Name of the run; a new one is made when None.
        idempotency_key: A second start with this key returns the first run; needs a database.
        hooks: A list of observers, called in this order.
        app_data: Any object; actions and hooks get it as ``ctx.app_data``.
        context: The `Context` that nodes share; a new one is made when they ask for one.
        cancel: A token that ends the run when it is cancelled.
        progress: ``fn(node_id, status, fraction)``, called after each node that ended; with hooks
            that see starts also before each call, as ``running``, and whenever a node reports its
            own progress. The fraction is of the run and never falls. True shows how the run goes:
            in a notebook the picture of the run, which changes its colours; in a terminal a bar
            with what runs, waits and has failed; else lines, all three on stderr. ``picture``,
            ``bar`` and ``lines`` name one of these.
        event_capacity: Events that hooks are shown in one turn at most: what happens meanwhile
            waits as it is, so a slow hook costs time and not memory. Of events that hooks emit, a
            hundred times as many may wait; more end the run.
        command_capacity: Commands from outside that wait at most; who sends more waits.
        config: Overrides the graph's configuration field by field: a `DagConfig`, or a mapping of
            its fields.
        on_change: What a resume does when an action has another version than when the run was
            started: ``warn``, or ``fail`` to refuse. A partial run does the same when the graph or
            its inputs have changed since the run whose results it takes over.
        start_at: Only this node and those that wait for it run; what else they need is taken over
            from an earlier run.
        stop_at: Only this node and those that it waits for run; with `start_at`, those between.
        reuse: The earlier run of a run with `start_at`: its report, or its id in the database. None
            takes the newest run of the graph's name in the database.
        track_memory: Whether the context's metrics say how much memory Python used at most, above
            what it used at the start. It is measured by `tracemalloc`, which makes a run several
            times slower, and for the whole process.
        error_strategy: What the run does when a node has failed for good: ``fail_fast`` (also
            ``stop``) ends it, ``continue`` skips what depends on the node and goes on with the
            rest. It stands in for the configuration's ``on_failure``; a node or an action that
            says ``on_failure`` itself keeps to that. None leaves it to these.
        error_handler: ``fn(node_name, error, context)``, sync or async, called once for each node
            that has failed for good (after its retries, its fallback and its failure handler, and
            for a mapped node once as a whole), but not once the run is being cancelled, has passed
            a limit, or has ended a branch with the node. *error* is what the node raised, *context*
            the run's `Context`. Its answer, ``stop`` or ``continue``, counts before every
            ``on_failure``; any other one ends the run with a `ConfigurationError`, and what it
            raises with an `ExecutionError`. Nothing starts before it has answered.
        max_cycles: Cycles that a state machine may make, over all resumes; None takes the machine's
            own limit. It is recorded with the run.
        profile: Ids of the nodes whose calls are profiled, True for all; `RunReport.profile` has
            what was counted.
        trace: Make an OpenTelemetry span for the run and one for each attempt of a node; needs the
            extra ``otel``.
        resources: A `ResourceTracker`: each call waits until it has room for it, and a run with a
            node that declares more memory than its limit is refused with `ResourceExhausted`, or
            fails there where the node came later. None limits nothing, whatever actions declare.

    Failures that *error_strategy* or *error_handler* let the run go on after are in
    ``report.errors`` and in ``context.metadata["errors"]``, each as ``{"node", "error" (its text),
    "type", "attempts", "timestamp" (seconds since 1970)}``, unless the handler has put an entry of
    the same ``node`` there itself. The run is failed all the same.
    """

    runner: str = attrs.field(default="sequential", converter=_runner)
    max_workers: int | None = attrs.field(default=None, converter=_workers)
    timeout: float | None = attrs.field(default=None, converter=_timeout)
    database_url: str | None = attrs.field(default=None, converter=_url)
    durability: str = attrs.field(default="sync", converter=_durability)
    run_id: str | None = attrs.field(default=None, validator=_text_or_none)
    idempotency_key: str | None = attrs.field(default=None, validator=_text_or_none)
    hooks: Sequence[Any] = attrs.field(default=(), converter=_hooks)
    app_data: Any = None
    context: Context | None = attrs.field(default=None, converter=_context)
    cancel: CancelSignal | None = attrs.field(default=None, converter=_cancel)
    progress: Any = attrs.field(default=None, converter=_progress)
    event_capacity: int = attrs.field(default=100, converter=_capacity)
    command_capacity: int = attrs.field(default=100, converter=_capacity)
    config: DagConfig | None = attrs.field(default=None, converter=as_config)
    on_change: str = attrs.field(default="warn", converter=_on_change)
    start_at: str | None = attrs.field(default=None, validator=_text_or_none)
    stop_at: str | None = attrs.field(default=None, validator=_text_or_none)
    reuse: Any = attrs.field(default=None, converter=_earlier_run)
    track_memory: bool = attrs.field(default=False, converter=_track_memory)
    error_strategy: str | None = attrs.field(default=None, converter=_strategy)
    error_handler: Callable[[str, BaseException, Context], Any] | None = attrs.field(
        default=None, converter=_error_handler
    )
    max_cycles: int | None = attrs.field(default=None, converter=_cycles)
    profile: bool | Sequence[str] = attrs.field(default=False, converter=_profile)
    trace: bool = attrs.field(default=False, converter=_trace)
    resources: ResourceTracker | None = attrs.field(default=None, converter=_resources)
    #: Who is told of the run when it is made: its `take_run` is called with it.
    _owner: Any = attrs.field(default=None, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.reuse is not None and self.start_at is None:
            raise ConfigurationError(
                "reuse= names the run whose results a run with start_at= takes over; give start_at="
            )
        if self.partial and self.idempotency_key is not None:
            raise ConfigurationError(
                "idempotency_key stands for a graph and its inputs, and a partial run is only a "
                "part of that; give run_id= instead"
            )
        if self.error_strategy is not None and self.error_handler is not None:
            raise ConfigurationError(
                "error_strategy= and error_handler= both say what follows a failure; give one of "
                "them: a handler answers 'stop' or 'continue' itself"
            )

    @property
    def partial(self) -> bool:
        """Whether only a part of the graph runs."""
        return self.start_at is not None or self.stop_at is not None

    @classmethod
    def of(cls, options: Mapping[str, Any], owner: Any = None) -> RunOptions:
        """Return the options that keywords describe.

        Args:
            options: Their values by name.
            owner: Whose run it will be; its `take_run` is called with it.

        Raises:
            ConfigurationError: A name is unknown (with a suggestion) or a value is wrong.
        """
        names = [field.name for field in attrs.fields(cls) if not field.name.startswith("_")]
        for name in options:
            if name not in names:
                raise ConfigurationError(
                    f"there is no run option {shown(name)}{did_you_mean(name, names)}; "
                    "values for the graph go into inputs={...}"
                )
        return cls(**options, owner=owner)
