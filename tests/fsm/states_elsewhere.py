"""A machine whose states tell in which process they ran; worker processes import it by name."""

from __future__ import annotations

import os
import time
from typing import Any

from dagger_dsl.fsm import FSM, FSMReturn, Next
from dagger_dsl.registry import Registry


def machine(**options: Any) -> FSM:
    """Return a machine of three states; options are those of the first."""
    fsm = FSM("elsewhere", registry=Registry())

    @fsm.state(initial=True, **options)
    def first(rounds: int = 2, seen: list[int] | None = None) -> FSMReturn:
        if rounds < 0:
            time.sleep(60)
        here = [*(seen or []), os.getpid()]
        return Next("first" if rounds else "last", {"rounds": rounds - 1, "seen": here})

    @fsm.state(terminal=True)
    def last(seen: list[int]) -> list[int]:
        return [*seen, os.getpid()]

    return fsm
