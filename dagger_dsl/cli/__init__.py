"""The command ``dagger-dsl``.

`parser` knows the arguments and `examples` the lines that its help shows, `sources` loads files and
actions, `commands` calls the module that does the work, `screen` shows it; `completion` answers a
shell. Each is loaded when it is needed, so that ``--help`` costs nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: Arguments; those of this process by default.

    Raises:
        SystemExit: The arguments are wrong (2), or help was asked for (0).
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    collecting = gc.isenabled()
    # Loading makes many objects and hardly any garbage; looking for it costs a tenth of the time
    # until the first node starts. `running` looks for it
    # again from where a run begins.
    gc.disable()
    try:
        given = sys.argv[1:] if argv is None else argv
        if given and given[0] == "__complete":  # a shell asks, at each key
            from dagger_dsl.cli.completion import complete

            return complete(given[1:])
        from dagger_dsl.cli.parser import parse

        arguments = parse(given)
        from dagger_dsl.cli.commands import call

        return call(arguments)
    finally:
        (gc.enable if collecting else gc.disable)()
