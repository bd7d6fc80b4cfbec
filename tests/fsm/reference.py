"""A machine that a child process runs and the test kills: a line is written per call."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from dagger_dsl.fsm import FSM, FSMReturn, Next
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.registry import Registry

LAST = 40
CALLS = Path(os.environ.get("FSM_CALLS", os.devnull))

fsm = FSM("walk", registry=Registry(), max_cycles=10_000)


def note(state: str, ctx: NodeCtx, n: int) -> None:
    """Write that a state was called, in one write."""
    with open(CALLS, "a") as calls:
        calls.write(f"{ctx.invocation_key} {state} {n}\n")


@fsm.state(initial=True)
def even(n: int, ctx: NodeCtx) -> FSMReturn:
    """Go to `odd`, or every fifth time to `rest`."""
    note("even", ctx, n)
    return Next("rest" if n % 5 == 0 else "odd", n + 1)


@fsm.state
async def odd(n: int, ctx: NodeCtx) -> FSMReturn:
    """Go to `even`."""
    note("odd", ctx, n)
    await asyncio.sleep(0.001)
    return Next("even", n + 1)


@fsm.state(transitions=["even"])
def rest(n: int, ctx: NodeCtx) -> FSMReturn | int:
    """Go to `even`, until it is enough."""
    note("rest", ctx, n)
    return FSMReturn(value=n, stop=True) if n >= LAST else n + 1


def path() -> list[tuple[str, int]]:
    """Return the states and the values they are given, as anybody would write it down."""
    found, state, n = [], "even", 0
    while True:
        found.append((state, n))
        if state == "even":
            state = "rest" if n % 5 == 0 else "odd"
        elif state == "rest" and n >= LAST:
            return found
        else:
            state = "even"
        n += 1


if __name__ == "__main__":
    url, mode, durability = sys.argv[1:4]
    if sys.argv[4] == "run":
        fsm.run(n=0, database_url=url, run_id="walk", mode=mode, durability=durability)
    else:
        fsm.resume("walk", database_url=url, mode=mode, durability=durability)
