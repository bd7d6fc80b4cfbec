"""The laws of design.md section 5 in runs that are steered while they go on.

The simulation of `test_state_laws` plays whole runs; here commands come from outside and from
hooks, at any moment: nodes are added, given other inputs, enabled and disabled, branches are held,
let go and cancelled, the run is paused and cancelled; some commands are repeated, some are wrong.
After every turn the engine is compared with the naive model. Beside the laws of that module:

4. Commands are applied one at a time, between two outcomes, all or nothing.
5. The commands that a hook returns for an event are applied before anything that the event makes
   ready is launched.
6. Adding nodes never makes a cycle, never changes what a started node saw.

What is recorded is lived through again by a resume, command by command.
"""

from __future__ import annotations

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.engine.simulation import WISHES, Features, play
from tests.scale import count

EXAMPLES = count(5_000)

FLAGS = (
    "triggers labels policies handlers retries soft disabled unstored outputs cancels limits kills "
    "stuck hooks wrong"
)

features = st.builds(
    Features,
    **dict.fromkeys(FLAGS.split(), st.sampled_from((False, True, True, True))),
    asks=st.one_of(
        st.sampled_from(sorted(WISHES)).map(lambda name: frozenset({name})),
        st.frozensets(st.sampled_from(sorted(WISHES)), min_size=2),
        st.just(frozenset(WISHES)),
        st.just(frozenset(WISHES)),
    ),
    commands=st.integers(1, 20),
    failures=st.sampled_from((0.0, 0.05, 0.2, 0.5)),
)


@pytest.mark.row("B24", "B25", "B26", "B27", "B28", "B29", "B37", "B42", "E20")
@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(
    size=st.integers(1, 25),
    seed=st.integers(0, 2**32 - 1),
    features=features,
    durable=st.booleans(),
)
def test_every_steered_run_keeps_the_laws(
    size: int, seed: int, features: Features, durable: bool
) -> None:
    note(f"play({size}, {seed}, {features}, durable={durable})")
    play(size, seed, features, durable=durable)
