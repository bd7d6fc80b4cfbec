"""The laws of design.md section 5, on random graphs, interleavings, failures and deaths.

`RunState` and `Coordinator` are driven without threads by `tests.engine.simulation` and compared,
after every turn, with the naive model in `tests.engine.reference`:

1. A node starts only when its trigger rule is satisfied by recorded outcomes.
2. A node is never running twice at once.
3. Every node ends in exactly one state, or is left pending by a paused run.
7. What becomes ready starts first in, first out, ties by declaration.

Beside them: nothing hangs, counts add up, what is on the disk is a causally closed prefix, and a
resumed run gives every node the inputs it would have had. Laws 4 to 6 are about commands: they are
in `test_command_laws`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.engine.simulation import Features, play
from tests.scale import count

EXAMPLES = count(2_000)

flags = st.builds(
    Features,
    **{
        name: st.sampled_from((True, True, True, False))
        for name in (
            "triggers",
            "labels",
            "policies",
            "handlers",
            "retries",
            "soft",
            "disabled",
            "unstored",
            "outputs",
            "cancels",
            "limits",
            "kills",
            "stuck",
        )
    },
    failures=st.sampled_from((0.0, 0.05, 0.2, 0.5)),
)


@pytest.mark.row("A5")
@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    features=flags,
    durable=st.booleans(),
)
def test_every_run_keeps_the_laws(size: int, seed: int, features: Features, durable: bool) -> None:
    note(f"play({size}, {seed}, {features}, durable={durable})")
    play(size, seed, features, durable=durable)
