"""Actions by name: what a function is to a graph, and where its name is looked up.

`define` turns a callable (or an object with `name` and `execute`) into an `ActionDef`, which says
how it is called and what was declared about it. A `Registry` holds definitions under their names;
there is one default instance, and ``with Registry():`` puts a fresh one in its place. Nothing here
runs an action, and nothing is ever imported by a name that comes from data.

How an action is called (`ActionDef.style`):

* ``function``: with its inputs by name, plus the `NodeCtx` if it has a parameter for it.
* ``mapping``: with the whole mapping of inputs as its one argument. That holds for a function
  whose only parameter (beside the context) either is called ``input`` or ``inputs`` and has no
  annotation or that of a mapping, or is none of the ``properties`` of an explicit
  ``input_schema``. A node that binds exactly this parameter's name calls it as a plain function.
* ``context``: ``execute(ctx)`` of an object with a `name`; it reads ``ctx.inputs``.
* ``legacy``: ``fn(executor, node, cache)``. A function is legacy when it has exactly three
  parameters and these are named ``executor``, ``node``, ``cache`` (leading underscores do not
  count) or are annotated ``DagExecutor`` (or ``ExecutorView``), ``Node``, ``Cache``.
* ``workflow``: it is a whole graph, which the engine runs; see `dagger_dsl.registry._workflow`.
"""

from dagger_dsl.registry._define import (
    bound_to,
    check_cache,
    check_options,
    convert_options,
    define,
    definition_of,
    is_async,
    is_method,
    redefine,
)
from dagger_dsl.registry._definition import ActionDef, Param, Style
from dagger_dsl.registry._options import CALL_OPTIONS
from dagger_dsl.registry._registry import (
    ActionRegistry,
    Registry,
    as_registry,
    current_registry,
    registry,
)

__all__ = [
    "CALL_OPTIONS",
    "ActionDef",
    "ActionRegistry",
    "Param",
    "Registry",
    "Style",
    "as_registry",
    "bound_to",
    "check_cache",
    "check_options",
    "convert_options",
    "current_registry",
    "define",
    "definition_of",
    "is_async",
    "is_method",
    "redefine",
    "registry",
]
