"""Hooks: what a run tells of itself, and what is answered with commands.

A hook is a function of ``(ctx, event)``, or an object with ``handle(ctx, event)`` such as an
`EventHook`. `HookDef` says which events of which runs it wants; `bind_hooks` turns the hooks of one
run into `BoundHook`s, in the order in which they are called. Nothing here runs a graph: a run calls
what is bound and applies the commands. Events show the run's own values, which are not to be
changed.

Ready made: `LoggingHook`, `TimingHook`, `MetricsHook`, `ReviewHook`, `PlannerHook`, and
`CompositeHook`, which makes several hooks one.
"""

from dagger_dsl.engine.hooks._binding import BoundHook, CompositeHook, at_once, bind_hooks
from dagger_dsl.engine.hooks._definition import (
    ON_CLASS,
    EventHook,
    HookAnswer,
    HookDef,
    HookOptions,
    check_class,
    commands_of,
    define_hook,
    hook_definition,
    hook_options,
)
from dagger_dsl.engine.hooks._library import (
    LoggingHook,
    MetricsHook,
    PlannerHook,
    ReviewHook,
    TimingHook,
)

__all__ = [
    "ON_CLASS",
    "BoundHook",
    "CompositeHook",
    "EventHook",
    "HookAnswer",
    "HookDef",
    "HookOptions",
    "LoggingHook",
    "MetricsHook",
    "PlannerHook",
    "ReviewHook",
    "TimingHook",
    "at_once",
    "bind_hooks",
    "check_class",
    "commands_of",
    "define_hook",
    "hook_definition",
    "hook_options",
]
