"""The laws of design.md section 5 in runs that are steered while they go on.

The simulation of `test_state_laws` plays whole runs; here commands come from outside, from hooks
and with what nodes return, at any moment: nodes are added, given other inputs, enabled and
disabled, branches are held, let go and cancelled, the run is paused and cancelled; some commands
are repeated, some are wrong. After every turn the engine is compared with the naive model. Beside
the laws of that module:

4. Commands are applied one at a time, between two outcomes, all or nothing.
5. The commands that a hook returns for an event are applied before anything that the event makes
   ready is launched.
6. Adding nodes never makes a cycle, never changes what a started node saw.

What is recorded is lived through again by a resume, command by command.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dagger_dsl.engine.plan import compile_plan, extend_plan
from dagger_dsl.engine.state import RunState
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    NodeSpec,
    PauseBranch,
    PauseRun,
    SetNodeInputs,
    ref,
)
from dagger_dsl.model.context import Branch
from tests.engine.helpers import Answers, boom, states, url_of
from tests.engine.simulation import WISHES, Features, play
from tests.engine.steered import Script, Steered, everywhere, kept, reasons
from tests.scale import count

EXAMPLES = count(5_000)

FLAGS = (
    "triggers labels policies handlers retries soft disabled unstored outputs cancels limits kills "
    "stuck hooks answers wrong"
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


# --- what the laws have found, each by itself ----------------------------------------------------


def test_a_cancelled_node_that_waited_for_nothing_stays_cancelled_over_a_resume(
    tmp_path: Path,
) -> None:
    flow = Steered().note("bad", Answers([OSError("no"), 1])).note("left").note("below")
    flow.nodes[-1] = flow.nodes[-1].replace(dependencies=["left"])
    flow.run(hooks=[Script({"start": CancelBranch("left")})], **kept("file", tmp_path))
    again = flow.resume("r", url_of(tmp_path))
    assert again.success
    assert flow.calls == ["bad", "bad"]
    assert states(again) == {"bad": "completed", "left": "cancelled", "below": "cancelled"}


def test_what_cleans_up_behind_a_cancelled_branch_does_not_belong_to_it(tmp_path: Path) -> None:
    flow = Steered().note("top").note("left", after=["top"])
    clean = NodeSpec("note", "clean", ["left"], trigger="done")
    answers = {
        "NodeCompleted top": CancelBranch("left"),
        "NodeCancelled left": [AddNode(clean), PauseRun("first ask")],
    }
    report = flow.run(hooks=[Script(answers)], **kept("file", tmp_path))
    assert states(report)["clean"] == "pending"
    again = flow.resume("r", url_of(tmp_path))
    assert states(again) == {"top": "completed", "left": "cancelled", "clean": "completed"}


def test_slots_of_values_are_no_calls_that_could_be_cancelled() -> None:
    flow = Steered().note("a")
    plan = compile_plan(flow.graph(), flow.registry.get).own()
    state = RunState(plan)
    state.begin()
    for node_id in ("b", "c"):
        node = NodeSpec("note", node_id, ["a"], {"x": 1, "y": 2}).to_node()
        state.grow(extend_plan(plan, [node], flow.registry.get))
    assert None in plan.ids
    assert state.taken() == set()


@everywhere
def test_a_node_that_gets_a_source_which_has_failed_is_skipped_and_not_called(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().add("bad", boom, on_failure="continue").note("x", after=["late"])
    flow.note("late").note("after", after=["x"], trigger="done")
    hook = Script({"NodeFailed bad": SetNodeInputs("x", {"a": ref("bad.result")})})
    report = flow.run(runner, hooks=[hook], max_workers=1, **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert flow.calls == ["late", "after"]
    assert states(report)["x"] == "skipped"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_join_waits_for_all_its_sources_though_one_of_its_batch_ends_at_once(
    order: tuple[int, int],
) -> None:
    flow = Steered().note("top").note("slow", after=["top"])
    specs = [
        NodeSpec("note", "ends", (), trigger="failed"),
        NodeSpec("note", "join", ["ends", "slow"], trigger="done"),
    ]
    hook = Script({"NodeCompleted top": AddNodes([specs[place] for place in order])})
    report = flow.run(hooks=[hook])
    assert flow.calls == ["top", "slow", "join"]
    assert states(report)["ends"] == "skipped"


def test_what_is_added_before_its_source_is_held_with_it() -> None:
    flow = Steered().note("top").note("held", after=["top"])
    more = [NodeSpec("note", "deeper", ["inside"]), NodeSpec("note", "inside", ["held"])]
    hook = Script({"start": [PauseBranch("held", "wait"), AddNodes(more)]})
    report = flow.run(hooks=[hook])
    assert flow.calls == ["top"]
    assert reasons(report) == dict.fromkeys(["held", "inside", "deeper"], "paused: wait")


def test_what_gets_a_held_source_is_held_with_all_that_waits_for_it() -> None:
    flow = Steered().note("held").note("x").note("below", after=["x"])
    commands = [PauseBranch("held", "wait"), SetNodeInputs("x", {"a": ref("held.result")})]
    report = flow.run(hooks=[Script({"start": commands})])
    assert flow.calls == []
    assert reasons(report) == dict.fromkeys(["held", "x", "below"], "paused: wait")


def test_a_cancelled_branch_is_not_held_though_nothing_of_it_was_left() -> None:
    flow = Steered().note("a").note("b").note("join", after=["a", "b"])
    answers = {"NodeCompleted a": PauseBranch("a"), "NodeCompleted b": CancelBranch("a")}
    report = flow.run(hooks=[Script(answers)])
    assert report.success
    assert flow.calls == ["a", "b", "join"]


def test_a_join_may_refer_to_a_source_that_it_waits_for_by_a_label() -> None:
    flow = Steered().note("check", Branch("yes", 7)).note("other")
    flow.add("join", lambda x=0: x, trigger="none_failed", after=["other"])
    flow.when("check", "yes", "join")
    hook = Script({"start": SetNodeInputs("join", {"x": ref("check.result")})})
    report = flow.run(hooks=[hook])
    assert report.hook_errors == ()
    assert report.values["join"] == 7


def test_a_result_that_no_process_stored_is_refused_and_not_given_as_nothing(
    tmp_path: Path,
) -> None:
    flow = Steered().add("secret", lambda: 5).note("bad", Answers([OSError("no"), 1]))
    flow.registry.register(lambda: 5, flow.nodes[0].action, replace=True, store=False)
    flow.run(**kept("file", tmp_path))
    spec = NodeSpec("note", "late", inputs={"x": ref("secret.result")})
    again = flow.resume("r", url_of(tmp_path), hooks=[Script({"NodeCompleted bad": AddNode(spec)})])
    (refused,) = again.hook_errors
    assert isinstance(refused, InvalidState)
    assert "'secret.result'" in str(refused)
    assert "store=False" in str(refused)
    assert "late" not in states(again)
