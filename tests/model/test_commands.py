"""Commands: specs of nodes to add, chains of them, and the plain form of every command."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError, DaggerError, DecodingError, ValidationError
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Answer,
    CancelBranch,
    CancelRun,
    Chain,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
    PauseRun,
    Ref,
    ResumeBranch,
    ResumeRun,
    SetNodeInputs,
    SetNodesEnabled,
    command_from_plain,
    command_to_plain,
    ref,
)
from dagger_dsl.model.graph import Input, Node, Output
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
)
from tests.yamlio.graphs import (
    caches,
    counts,
    durations,
    ids,
    mapping,
    outputs,
    prose,
    retries,
    words,
)

# Plain forms.

#: Values that are equal to themselves and to what comes back.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | prose() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(words, inner, max_size=3)
    ),
    max_leaves=6,
)
references = st.builds(lambda source, output: ref(f"{source}.{output}"), ids, words)
# ``{"$ref": ...}`` is a reference itself, and has a test of its own.
literals = values.filter(lambda value: not (isinstance(value, dict) and set(value) == {"$ref"}))
given_inputs = st.dictionaries(words, literals | references, max_size=3)


@st.composite
def specs(draw: st.DrawFn) -> NodeSpec:
    """Return a spec of any kind."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "id": ids,
        "deps": st.lists(ids, max_size=3),
        "inputs": given_inputs,
        "timeout": durations,
        "try_count": counts,
        "trigger": st.sampled_from([*Trigger, "always", "ANY"]),
        "on_failure": st.sampled_from([*OnFailure, "halt"]),
        "retry": retries,
        "branch": words,
        "max_parallel": counts,
        "failure": words,
        "cache_strategy": caches,
        "effects": st.sampled_from([*Effects, "at_most_once"]),
        "description": prose(100),
        "outputs": outputs,
    }
    chosen = draw(st.fixed_dictionaries({}, optional=fields))
    if draw(st.booleans()):
        chosen |= draw(mapping)
    return NodeSpec(draw(words), **chosen)


names = words | ids
reasons = st.none() | words
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(AddNodes, st.lists(specs(), max_size=3), st.none() | words),
    st.builds(Answer, ids, values, names, reasons),
    st.builds(CancelRun, reasons),
    st.builds(PauseRun, reasons),
    st.just(ResumeRun()),
    st.builds(SetNodeInputs, ids, given_inputs, st.none() | words),
    st.builds(SetNodesEnabled, st.lists(ids, max_size=3), st.booleans()),
    st.builds(PauseBranch, names, reasons),
    st.builds(ResumeBranch, names),
    st.builds(CancelBranch, names, reasons),
    st.builds(EmitEvent, words, values),
    st.builds(
        EmitEvent, words, values, st.sampled_from(["a", "a.b"]), st.text("xyz é", max_size=9)
    ),
)


def there_and_back(command: Command) -> Command:
    plain = command_to_plain(command)
    return command_from_plain(json.loads(json.dumps(plain, allow_nan=False)))


@given(commands)
def test_every_command_comes_back_equal_through_json(command: Command) -> None:
    assert there_and_back(command) == command


@given(specs(), st.none() | words)
def test_one_node_to_add_is_several_of_one(spec: NodeSpec, dag_name: str | None) -> None:
    assert there_and_back(AddNode(spec, dag_name)) == AddNodes((spec,), dag_name)


@given(specs(), ids)
def test_a_spec_of_a_node_says_everything_that_the_node_says(spec: NodeSpec, node_id: str) -> None:
    node = spec.to_node(node_id)
    known = NodeSpec.of(node)
    assert known.to_node() == node
    (back,) = there_and_back(AddNodes([known])).specs  # type: ignore[union-attr]
    assert back == known


def test_every_field_of_a_spec_is_drawn_and_carried() -> None:
    everything = NodeSpec(
        "act",
        "n",
        ["a"],
        {"x": ref("b.result"), "xs": [1, 2]},
        timedelta(seconds=3),
        2,
        "always",
        "continue",
        RetryStrategy.IMMEDIATE,
        "main",
        map_over="xs",
        max_parallel=4,
        map_depth=2,
        map_errors="collect",
        failure="tidy",
        cache_strategy=CacheStrategy.ttl(60),
        effects="at_most_once",
        description="what it does",
        outputs=["rows"],
        map_batch=50,
    )
    for field in attrs.fields(NodeSpec):
        assert getattr(everything, field.name) != field.default, field.name
    assert everything.to_node() == Node(
        "n",
        "act",
        [Input("x", "b.result"), Input("xs", value=[1, 2])],
        [Output("rows")],
        ["a", "b"],
        timeout=3,
        try_count=2,
        on_failure="continue",
        failure="tidy",
        description="what it does",
        retry=RetryStrategy.IMMEDIATE,
        cache_strategy=CacheStrategy.ttl(60),
        trigger="done",
        map_over="xs",
        max_parallel=4,
        effects="at_most_once",
        branch="main",
        map_depth=2,
        map_errors="collect",
        map_batch=50,
    )
    assert there_and_back(AddNodes([everything])) == AddNodes([everything])


def test_what_a_spec_waits_for_is_what_it_says_and_not_what_its_inputs_imply() -> None:
    spec = NodeSpec("act", inputs={"x": ref("a.result")})
    assert there_and_back(AddNodes([spec])) == AddNodes([spec])
    assert spec.to_node().dependencies == ("a",)


def test_references_may_be_written_as_in_files_and_errors_travel_as_texts() -> None:
    spec = NodeSpec("act", inputs={"x": {"$ref": "a.result"}, "error": KeyError("gone")})
    assert spec.inputs == {"x": Ref("a.result"), "error": "KeyError: 'gone'"}
    change = SetNodeInputs("n", {"x": {"$ref": "inputs.y"}, "error": ValueError()})
    assert change.inputs == {"x": ref("inputs.y"), "error": "ValueError"}


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (None, "this is no command: None"),
        ({"do": "explode"}, "no command"),
        ({"do": "pause", "branch": "a"}, r"'pause' has no \['branch'\]"),
        ({"do": "pause"}, "'pause' is incomplete"),
        ({"do": "add", "specs": ["act"]}, "a node to be added is a mapping"),
        ({"do": "add", "specs": [{"id": "a"}]}, "needs the key 'action'"),
        ({"do": "add", "specs": [{"action": "act", "keep": True}]}, r"has no \['keep'\]"),
        ({"do": "add", "specs": [{"action": "act", "map_depth": 2}]}, "map_over"),
        ({"do": "inputs", "node_id": "a", "inputs": 5}, "must be a list"),
    ],
)
def test_what_is_no_plain_form_of_a_command_is_refused(plain: Any, says: str) -> None:
    with pytest.raises((DecodingError, ConfigurationError, ValidationError), match=says):
        command_from_plain(plain)
    with pytest.raises(ConfigurationError, match="a command is one of"):
        command_to_plain(plain)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda wrong: NodeSpec("f", timeout=wrong(0)), "timeout must be more than 0"),
        (lambda wrong: NodeSpec("f", trigger=wrong("never")), "trigger must be one of 'success'"),
        (lambda wrong: NodeSpec("f", on_failure=wrong("explode")), "on_failure must be one of"),
        (lambda wrong: NodeSpec("f", effects=wrong(3)), "effects must be one of"),
        (lambda wrong: NodeSpec("f", outputs=wrong("ab")), "a list of names, not 'ab'"),
        (lambda wrong: NodeSpec("f", outputs=wrong([3])), "a text that is not empty, not 3"),
        (lambda wrong: NodeSpec("f", inputs=wrong({"x": {"$ref": "a"}})), "a reference is written"),
        (lambda wrong: NodeSpec("f", map_depth=2).to_node(), "say how map_over is done"),
    ],
)
def test_a_spec_refuses_what_no_node_can_have(
    make: Callable[[Callable[[Any], Any]], object], says: str
) -> None:
    with pytest.raises(DaggerError, match=says):
        make(lambda wrong: wrong)


def test_functions_do_not_travel() -> None:
    for spec in (
        NodeSpec("act", cache_strategy=CacheStrategy.custom(str)),
        NodeSpec("act", retry=RetryPolicy(retry_on=ValueError)),
    ):
        with pytest.raises(DaggerError, match="data only"):
            command_to_plain(AddNodes([spec]))


# Chains.


@pytest.mark.row("G4")
def test_each_step_of_a_chain_waits_for_the_one_before() -> None:
    chain = Chain([NodeSpec("act") for _ in range(3)], after=["plan"])
    assert [(each.id, each.deps) for each in chain] == [
        ("step_0", ("plan",)),
        ("step_1", ("step_0",)),
        ("step_2", ("step_1",)),
    ]
    assert AddNodes(chain).specs == tuple(chain)
    assert Chain([]) == ()


@pytest.mark.row("G4")
def test_steps_keep_their_own_ids_and_dependencies() -> None:
    first, second = NodeSpec("act", "begin"), NodeSpec("act", deps=["begin", "other"])
    chain = Chain([first, second, NodeSpec("act")], prefix="do")
    assert [(each.id, each.deps) for each in chain] == [
        ("begin", ()),
        ("do_1", ("begin", "other")),
        ("do_2", ("do_1",)),
    ]
    assert (first.deps, second.id) == ((), None)


def test_a_chain_is_copied_and_pickled_as_it_is() -> None:
    chain = Chain([NodeSpec("act"), NodeSpec("act")], after=["plan"], prefix="s")
    for again in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain)), Chain(chain)):
        assert type(again) is Chain
        assert again == chain


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda wrong: Chain(wrong("ab")), "is a NodeSpec, not 'a'"),
        (lambda wrong: Chain(wrong(5)), "a list of NodeSpec, not 5"),
        (lambda wrong: Chain([], after=wrong("plan")), "a list of ids, not the text 'plan'"),
        (lambda wrong: Chain([], prefix=wrong("")), "a text that is not empty, not ''"),
        (lambda wrong: Chain([NodeSpec("f", "step_1"), NodeSpec("f")]), "two steps .* 'step_1'"),
    ],
)
def test_a_chain_refuses_what_is_none(
    make: Callable[[Callable[[Any], Any]], object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make(lambda wrong: wrong)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda wrong: CancelBranch(wrong(None)), "branch_id of a CancelBranch is a text .* None"),
        (lambda wrong: PauseBranch(wrong("")), "branch_id of a PauseBranch is .* not empty"),
        (lambda wrong: EmitEvent(wrong(3)), "name of an EmitEvent is a text"),
        (lambda wrong: Answer(wrong(3)), "node_id of an Answer is a text"),
        (lambda wrong: SetNodesEnabled(["a"], wrong("no")), "enabled .* True or False, not 'no'"),
        (lambda wrong: NodeSpec("f", branch=wrong(3)), "branch of a NodeSpec is a text or None"),
        (lambda wrong: NodeSpec("f", cache_strategy=wrong("x")), "cache_strategy is a CacheStr"),
        (lambda wrong: NodeSpec("f", try_count=wrong(0)), "try_count of .* at least 1 or None, no"),
        (
            lambda wrong: NodeSpec("f", try_count=wrong(10**30)),
            "at most 9,007,199,254,740,992 or None",
        ),
        (
            lambda wrong: NodeSpec("f", max_parallel=wrong(2**53 + 1)),
            "a NodeSpec's max_parallel .* at most",
        ),
        (
            lambda wrong: NodeSpec("f", map_depth=wrong(True)),
            "a NodeSpec's map_depth .* not True",
        ),
        (lambda wrong: NodeSpec("f", map_over=wrong(5)), "map_over of a NodeSpec is a text"),
        (lambda wrong: NodeSpec("f", map_errors=wrong(5)), "map_errors is .fail. or .collect."),
        (
            lambda wrong: NodeSpec("f", failure=wrong({5})),
            "failure of a NodeSpec is a text .* not .5",
        ),
        (lambda wrong: NodeSpec("f", retry=wrong(5)), "retry of a NodeSpec is a RetryPolicy or No"),
        (lambda wrong: NodeSpec("f", description=wrong(5)), "description is a text, not 5"),
        (lambda wrong: NodeSpec("f", description=wrong({5: 5})), "description is a text, not {5"),
        (lambda wrong: NodeSpec("f", outputs=[Output("r", wrong(5))]), "output 'r': description"),
        (
            lambda wrong: NodeSpec("f").with_retries(wrong(10**30)),
            "retries must be at most 9,007,199,254,740,991",
        ),
        (
            lambda wrong: NodeSpec("f", deps=wrong("a")),
            r"^deps is a list of ids, .*; write \['a'\]",
        ),
        (lambda wrong: NodeSpec("f", deps=wrong([5])), "^deps: an id is a text, not 5"),
        (lambda wrong: SetNodesEnabled(wrong("a")), "^ids is a list of ids, not the text 'a'"),
        (lambda wrong: Chain([], after=wrong("plan")), "^after is a list of ids"),
        (lambda wrong: NodeSpec.of(wrong(5)), "a spec is made of a Node, not 5"),
        (lambda wrong: NodeSpec(wrong(10**5000)), "names its action by a text"),
        (lambda wrong: EmitEvent("e", 1, wrong("a.*")), "channel of an EmitEvent: .* is a pattern"),
        (lambda wrong: EmitEvent("e", 1, wrong(5)), "channel of an EmitEvent: a channel's name is"),
        (
            lambda wrong: EmitEvent("e", 1, "a", wrong(5)),
            "key of an EmitEvent is a text of at most",
        ),
        (lambda wrong: EmitEvent("e", 1, "a", wrong("x" * 201)), "key of an EmitEvent is a text"),
        (lambda wrong: EmitEvent("e", 1, key=wrong("k")), "without channel= there is none"),
        (lambda wrong: EmitEvent(wrong(10**5000)), "name of an EmitEvent is a text"),
    ],
)
def test_a_command_refuses_a_field_of_another_type(
    make: Callable[[Callable[[Any], Any]], object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make(lambda wrong: wrong)
