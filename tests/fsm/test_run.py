"""Running a machine: where it goes, what its states are given, and what stays readable."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    InputError,
    MaxCyclesExceeded,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NodeTimeout,
    NotExecuted,
    ResultNotFound,
    RunCancelled,
    RunPaused,
    TransitionError,
    TransitionRejected,
    UnknownInputError,
    ValidationError,
)
from dagger_dsl.fsm import FSM, FSMContext, FSMReturn, Next
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.sharing import Context
from dagger_dsl.registry import Registry
from tests.engine.helpers import IMMEDIATE

MODES = ("sequential", "parallel", "async")


def machine(**options: Any) -> FSM:
    """Return an empty machine that knows nobody else's actions."""
    return FSM("orders", registry=Registry(), **options)


def order(**options: Any) -> FSM:
    """Return the machine of document 002's prose: an order on its way."""
    fsm = machine(**options)

    @fsm.state(initial=True)
    def pending(order_id: str, amount: float = 1.0) -> FSMReturn:
        return Next("processing", {"order_id": order_id, "amount": amount, "tries": 1})

    @fsm.state
    def processing(tries: int) -> FSMReturn:
        return Next("processed" if tries == 3 else "processing", {"tries": tries + 1})

    @fsm.state
    def processed(order_id: str) -> FSMReturn:
        return FSMReturn(next_state="completed", value=order_id)

    @fsm.state(terminal=True)
    def completed(receipt: str) -> str:
        return f"done: {receipt}"

    return fsm


def counter(last: int, **options: Any) -> FSM:
    """Return a machine that goes to and fro until *last*."""
    fsm = machine(**options)

    @fsm.state(initial=True)
    def tick(n: int) -> FSMReturn:
        return Next("tock", n + 1) if n < last else FSMReturn(value=n, stop=True)

    @fsm.state
    def tock(n: int) -> FSMReturn:
        return Next("tick", n + 1)

    return fsm


HISTORY = ["pending", "processing", "processing", "processing", "processed", "completed"]


@pytest.mark.row("L1", "L2", "L5", "L8", "L9")
@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_from_the_initial_state_to_a_terminal_one(mode: str) -> None:
    fsm = order()
    assert (fsm.current_state, fsm.state_history) == (None, [])
    assert fsm.run(order_id="ORD-123", amount=99.99, mode=mode) == "done: ORD-123"
    assert fsm.state_history == HISTORY
    assert fsm.is_terminated
    assert fsm.current_state == "completed"
    assert fsm.report.status == "completed"
    assert fsm.report.state_history == HISTORY
    assert fsm.report.outputs == {"completed": "done: ORD-123"}


@pytest.mark.row("L1")
def test_a_run_inside_a_running_loop_is_the_same() -> None:
    async def both() -> None:
        fsm = order()
        assert fsm.run(order_id="a") == "done: a"
        assert await fsm.run_async(order_id="b") == "done: b"
        assert await fsm.start({"order_id": "c"}) is not None
        assert fsm["completed"] == "done: c"

    asyncio.run(both())


@pytest.mark.row("L6", "L7")
def test_results_are_found_by_state_and_number() -> None:
    fsm = order()
    with pytest.raises(NotExecuted, match="run the machine first"):
        fsm["processing"]
    fsm.run({"order_id": "x"})
    assert fsm["processing"] == {"tries": 4}
    assert [fsm[f"processing.{n}"]["tries"] for n in range(3)] == [2, 3, 4]
    assert fsm.results("processing") == [{"tries": 2}, {"tries": 3}, {"tries": 4}]
    assert fsm.get_result("processing.7", None) is None
    with pytest.raises(ResultNotFound, match=r"has 3 results.*processing\.3"):
        fsm["processing.3"]
    with pytest.raises(NodeNotFound, match="did you mean 'processing'"):
        fsm["procesing.0"]
    for name in ("processing.x", "processing.-1", "processing."):
        with pytest.raises(ConfigurationError, match=r"state\.<number>"):
            fsm[name]
    assert dict(fsm.context.results)["processed"] == "x"


@pytest.mark.row("L3")
def test_a_context_carries_history_results_and_metadata() -> None:
    fsm = machine()
    seen: list[Any] = []

    @fsm.state(initial=True)
    def first(context: FSMContext) -> FSMReturn:
        context.metadata["who"] = "first"
        return Next("second", 1)

    @fsm.state(terminal=True)
    def second(x: int, context: FSMContext, ctx: NodeCtx) -> int:
        seen.append((context.state_history, context.current_state, context.cycle_count))
        seen.append((dict(context.results), context.metadata["who"], ctx.invocation_key))
        return x

    context = FSMContext(metadata={"user": 7})
    assert fsm.run(context=context) == 1
    assert seen == [(["first", "second"], "second", 2), ({"first": 1}, "first", "1")]
    assert context.state_history == ["first", "second"]
    assert context.is_terminated
    assert fsm.context is context
    assert context.metadata["user"] == 7
    assert context.metadata["who"] == "first"
    with pytest.raises(ConfigurationError, match="FSMContext"):
        fsm.run(context=Context())


@pytest.mark.row("L4")
@pytest.mark.parametrize("mode", MODES)
def test_one_cycle_too_many_is_an_error_with_the_history(mode: str) -> None:
    fsm = counter(10**6)
    with pytest.raises(MaxCyclesExceeded, match="max_cycles=50") as caught:
        fsm.run(n=0, max_cycles=50, mode=mode)
    assert caught.value.limit == 50
    assert caught.value.history == ("tick", "tock") * 25
    assert not fsm.is_terminated
    assert fsm.report.status == "failed"
    assert fsm["tock"] == 50
    assert counter(49).run(n=1, max_cycles=49) == 49
    with pytest.raises(MaxCyclesExceeded):
        counter(10**6, max_cycles=3).run(n=0)


def test_the_default_limit_is_a_thousand_cycles() -> None:
    fsm = counter(10**6)
    with pytest.raises(MaxCyclesExceeded):
        fsm.run(n=0)
    assert len(fsm.state_history) == 1000


@pytest.mark.row("L10")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("waits", [False, True])
def test_a_hook_is_called_once_per_transition(mode: str, waits: bool) -> None:
    fsm = order()
    calls: list[Any] = []

    def note(machine: FSM, left: str, entered: str, result: Any) -> None:
        assert machine is fsm
        assert machine.current_state == left
        calls.append((left, entered))

    async def note_async(machine: FSM, left: str, entered: str, result: Any) -> None:
        await asyncio.sleep(0)
        note(machine, left, entered, result)

    fsm.add_state_hook(note_async if waits else note)
    assert fsm.run(order_id="a", mode=mode) == "done: a"
    assert calls == list(itertools.pairwise(HISTORY))


@pytest.mark.row("L11")
@pytest.mark.parametrize("waits", [False, True])
def test_a_hook_redirects_and_refuses(waits: bool) -> None:
    fsm = order()
    verdict: dict[str, Any] = {"processing": "processed"}

    def steer(_fsm: FSM, left: str, entered: str, _result: Any) -> Any:
        if verdict.get(left) == "refuse":
            raise TransitionRejected(f"not from {left}")
        return verdict.get(left)

    async def steer_async(*args: Any) -> Any:
        return steer(*args)

    fsm.add_state_hook(steer_async if waits else steer)
    assert fsm.run(order_id="a") == "done: a"
    assert fsm.state_history == ["pending", "processing", "processed", "completed"]
    verdict["processed"] = "refuse"
    with pytest.raises(NodeExecutionError, match="not from processed") as caught:
        fsm.run(order_id="a")
    assert isinstance(caught.value.__cause__, TransitionRejected)
    assert fsm.current_state == "processed"
    assert not fsm.is_terminated
    assert fsm.report.states()["completed"] == "skipped"
    verdict["processed"] = "nowhere"
    with pytest.raises(NodeExecutionError, match="state hook names 'nowhere'"):
        fsm.run(order_id="a")


def test_a_hook_that_breaks_fails_the_state_and_is_not_retried() -> None:
    fsm = machine()
    calls: list[int] = []

    @fsm.state(initial=True, retry=3)
    def first() -> FSMReturn:
        calls.append(1)
        return Next("last")

    @fsm.state(terminal=True)
    def last() -> None: ...

    @fsm.add_state_hook
    def broken(*_: Any) -> None:
        raise KeyError("oh")

    with pytest.raises(
        NodeExecutionError, match=r"state hook failed at 'first' -> 'last': KeyError"
    ):
        fsm.run()
    assert calls == [1]


@pytest.mark.row("L12")
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Next("zzz"), "none of that name.*known: 'first', 'last', 'other'"),
        (Next("lasst"), "did you mean 'last'"),
        (Next("other"), "declared for 'first' lead to 'last' only"),
        (FSMReturn(next_state=5), "no text"),  # type: ignore[arg-type]
        (FSMReturn(next_state=["last"]), "no text"),  # type: ignore[arg-type]
        (Branch("last", 1), "return Next"),
    ],
)
def test_a_state_that_names_no_next_one_fails(answer: Any, message: str) -> None:
    fsm = machine()
    attempts: list[int] = []

    @fsm.state(initial=True, transitions=["last"], retry=5)
    def first() -> Any:
        attempts.append(1)
        return answer

    @fsm.state(terminal=True)
    def last() -> str:
        return "end"

    @fsm.state
    def other() -> None: ...

    with pytest.raises(NodeExecutionError, match=message) as caught:
        fsm.run()
    assert isinstance(caught.value.__cause__, TransitionError)
    assert attempts == [1]


@pytest.mark.row("L12")
def test_declared_targets_are_checked_before_the_run() -> None:
    fsm = machine()
    fsm.state(initial=True, transitions=["lasst"])(lambda_named("first"))
    fsm.state(terminal=True)(lambda_named("last"))
    with pytest.raises(ValidationError, match="'lasst' is not in the machine; did you mean 'last'"):
        fsm.run()
    assert fsm.report is None


def lambda_named(name: str, answer: Any = None) -> Callable[[], Any]:
    def fn() -> Any:
        return answer

    fn.__name__ = fn.__qualname__ = name
    return fn


def test_a_plain_value_takes_the_only_transition_or_the_one_that_holds() -> None:
    fsm = machine()

    @fsm.state(initial=True, transitions=["choose"])
    def first(n: int) -> int:
        return n

    @fsm.state
    def choose(n: int) -> int:
        return n

    @fsm.state(terminal=True)
    def small(n: int) -> str:
        return f"small {n}"

    @fsm.state(terminal=True)
    def large(n: int) -> str:
        return f"large {n}"

    def is_large(value: int, context: FSMContext) -> bool:
        assert context.current_state == "choose"
        return value > 9

    fsm.add_transition(choose, large, is_large)
    choose >> small
    assert (fsm.run(n=10), fsm.run(n=3)) == ("large 10", "small 3")
    assert [(each.source, each.target) for each in fsm.compile().edges] == [
        ("first", "choose"),
        ("choose", "large"),
        ("choose", "small"),
    ]


def test_a_plain_value_that_says_nothing_is_an_error_that_says_what_to_return() -> None:
    fsm = machine()
    fsm.state(initial=True)(lambda_named("first", 3))
    fsm.state(terminal=True)(lambda_named("last"))
    with pytest.raises(
        NodeExecutionError, match=r"returned 3, .*Next\('state', value\).*stop=True"
    ):
        fsm.run()
    fsm.add_transition("first", "last", lambda value: value > 5)
    with pytest.raises(NodeExecutionError, match="none of its conditions holds"):
        fsm.run()


@pytest.mark.row("L2")
def test_parameters_are_filled_by_name_then_from_the_inputs_then_by_default() -> None:
    fsm = machine()
    seen: dict[str, Any] = {}

    @fsm.state(initial=True)
    def first(data: dict[str, Any]) -> FSMReturn:
        seen["first"] = data
        return Next("second", {"x": 1, "y": 2})

    @fsm.state
    def second(x: int, z: int = 5, user: str = "nobody") -> FSMReturn:
        seen["second"] = (x, z, user)
        return Next("third", [1, 2])

    @fsm.state
    def third(items: list[int], user: str) -> FSMReturn:
        seen["third"] = (items, user)
        return Next("fourth", {"a": 1})

    @fsm.state(terminal=True)
    def fourth(**rest: Any) -> None:
        seen["fourth"] = rest

    fsm.run({"user": "u", "k": 2})
    assert seen == {
        "first": {"user": "u", "k": 2},
        "second": (1, 5, "u"),
        "third": ([1, 2], "u"),
        "fourth": {"a": 1},
    }


def test_a_state_that_changes_what_it_is_given_changes_no_input_of_the_run() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def first(data: dict[str, int]) -> FSMReturn:
        data["n"] += 1
        return Next("second", None)

    @fsm.state(terminal=True)
    def second(n: int) -> int:
        return n

    assert fsm.run({"n": 1}) == 1


def test_a_run_that_takes_too_long_is_timed_out_in_its_state() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    async def slow() -> FSMReturn:
        await asyncio.sleep(30)
        return FSMReturn(stop=True)

    with pytest.raises(ExecutionTimeout):
        fsm.run(timeout=0.05)
    assert fsm.report.states() == {"slow": "cancelled"}
    assert not fsm.is_terminated


def test_the_only_parameter_gets_a_value_that_is_no_mapping_even_with_a_default() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def grow(n: int = 0) -> FSMReturn:
        return FSMReturn("grow", n + 1, stop=n == 3)

    assert fsm.run() == 4


def test_what_a_state_makes_of_an_input_beats_what_the_run_was_given() -> None:
    assert counter(4).run(n=0) == 4
    fsm = machine()

    @fsm.state(initial=True)
    def grow(data: dict[str, int]) -> FSMReturn:
        return FSMReturn("grow", {**data, "n": data["n"] + 1}, stop=data["n"] == 3)

    assert fsm.run(data={"n": 0}) == {"n": 4}


@pytest.mark.row("L2")
def test_initial_data_that_nobody_takes_is_refused_with_a_suggestion() -> None:
    fsm = order()
    with pytest.raises(UnknownInputError, match="did you mean 'amount'"):
        fsm.run(order_id="x", amout=3)
    with pytest.raises(UnknownInputError, match="did you mean 'max_cycles'"):
        fsm.run(order_id="x", max_cycle=3)
    with pytest.raises(UnknownInputError, match="did you mean 'amount'"):
        fsm.run({"order_id": "x", "amout": 3})
    with pytest.raises(MissingInputError, match="needs a value for 'order_id'"):
        fsm.run()
    with pytest.raises(InputError, match="order_id"):
        fsm.run(order_id=5)
    with pytest.raises(ConfigurationError, match="'order_id' is given in inputs= and as a keyword"):
        fsm.run({"order_id": "x"}, order_id="y")
    for given in ([1], "x", 5):
        with pytest.raises((ConfigurationError, InputError), match="mapping"):
            fsm.run(given)  # type: ignore[arg-type]
    for wrong in (0, -1, 1.5, True, "3"):
        with pytest.raises(ConfigurationError, match="max_cycles"):
            fsm.run(order_id="x", max_cycles=wrong)
    assert fsm.report is None


def test_a_parameter_that_nothing_fills_fails_its_state_by_name() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def first() -> FSMReturn:
        return Next("second", {"a": 1})

    @fsm.state(terminal=True)
    def second(a: int, b: int) -> None: ...

    with pytest.raises(NodeExecutionError, match=r"state 'second'.*'b'.*\['a'\]"):
        fsm.run()


@pytest.mark.parametrize("mode", MODES)
def test_retries_belong_to_a_cycle_and_begin_again_with_the_next(mode: str) -> None:
    fsm = machine()
    calls: list[tuple[str, int]] = []

    @fsm.state(initial=True, attempts=2)
    def shaky(ctx: NodeCtx) -> FSMReturn:
        calls.append((ctx.invocation_key, ctx.attempt))
        if ctx.attempt == 1:
            raise ConnectionError("once more")
        return FSMReturn("shaky", int(ctx.invocation_key), stop=ctx.invocation_key == "2")

    assert fsm.run(mode=mode, config={"retry_strategy": IMMEDIATE}) == 2
    assert calls == [("0", 1), ("0", 2), ("1", 1), ("1", 2), ("2", 1), ("2", 2)]
    assert fsm.report.node_reports["shaky"].attempts == 2


@pytest.mark.parametrize("stand_in", ["failure", "fallback"])
def test_what_stands_in_for_a_state_says_where_to_go(stand_in: str) -> None:
    fsm = machine()

    def instead(n: int = 0) -> FSMReturn:
        return Next("last", "instead")

    options: Any = {stand_in: instead}

    @fsm.state(initial=True, **options)
    def first(n: int) -> FSMReturn:
        raise ValueError("no")

    @fsm.state(terminal=True)
    def last(x: str) -> str:
        return x

    assert fsm.run(n=1) == "instead"
    assert fsm.report.node_reports["first"].recovered


def test_a_timeout_of_a_state_is_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    fsm = machine()

    @fsm.state(initial=True, timeout=0.05)
    async def slow() -> FSMReturn:
        await asyncio.sleep(30)
        return FSMReturn(stop=True)

    with pytest.raises(NodeExecutionError) as caught:
        fsm.run()
    assert isinstance(caught.value.__cause__, NodeTimeout)
    with pytest.raises(NodeExecutionError):
        asyncio.run(fsm.run_async())


@pytest.mark.parametrize("mode", MODES)
def test_sync_and_async_states_mix(mode: str) -> None:
    fsm = machine()

    @fsm.state(initial=True)
    async def first(n: int) -> FSMReturn:
        await asyncio.sleep(0)
        return Next("second", n + 1)

    @fsm.state
    def second(n: int) -> FSMReturn:
        return Next("first", n + 1) if n < 5 else FSMReturn(value=n, stop=True)

    assert fsm.run(n=0, mode=mode) == 5
    assert asyncio.run(fsm.run_async(n=0)) == 5


def test_node_outputs_carry_moves_metadata_and_failures() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def first(go: bool) -> NodeOutput:
        if not go:
            return NodeOutput.failure("will not")
        return NodeOutput(Next("last", 4), metadata={"k": 1})

    @fsm.state(terminal=True)
    def last(x: int) -> int:
        return x

    assert fsm.run(go=True) == 4
    assert fsm.report.node_reports["first"].metadata == {"k": 1}
    with pytest.raises(NodeExecutionError, match="will not"):
        fsm.run(go=False)


def test_states_that_cannot_be_added_to_are_not() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def first() -> NodeOutput:
        return NodeOutput(FSMReturn(stop=True), commands=[AddNode(NodeSpec("orders.first"))])

    with pytest.raises(NodeExecutionError, match="states are fixed"):
        fsm.run()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_can_be_cancelled_between_cycles(mode: str) -> None:
    fsm = counter(10**9)
    handle = fsm.start(n=0, max_cycles=10**9, mode=mode)
    while len(fsm.context.state_history) < 10:
        time.sleep(0.001)
    handle.cancel("enough")
    report = handle.result()
    assert report.status == "cancelled"
    with pytest.raises(RunCancelled):
        report.raise_for_failure()
    assert not fsm.is_terminated


def test_a_failure_that_pauses_leaves_the_run_paused() -> None:
    fsm = machine()
    fsm.state(initial=True, on_failure="pause")(lambda_named("first", 3))
    fsm.state(terminal=True)(lambda_named("last"))
    with pytest.raises(RunPaused):
        fsm.run()
    assert fsm.report.states() == {"first": "failed", "last": "pending"}


@pytest.mark.parametrize("limit", [0, 1, 3, None])
def test_the_history_keeps_as_many_cycles_as_it_may(limit: int | None) -> None:
    fsm = counter(10, history_limit=limit)
    assert fsm.run(n=0) == 10
    whole = ["tick", "tock"] * 5 + ["tick"]
    assert fsm.state_history == (whole if limit is None else whole[len(whole) - limit :])
    assert fsm.context.cycle_count == 11
    assert (fsm["tick"], fsm["tock"]) == (10, 10)
    if limit == 3:
        assert fsm.results("tick") == [9, 10]
        assert fsm["tick.5"] == 10
        with pytest.raises(ResultNotFound, match="history_limit"):
            fsm["tick.0"]
    assert fsm.report.history.counts == ({"tick": 6, "tock": 5})


def test_a_state_defined_again_replaces_the_first() -> None:
    fsm = machine()

    def define(answer: int) -> None:
        @fsm.state(initial=True)
        def only() -> FSMReturn:
            return FSMReturn(value=answer, stop=True)

    define(1)
    assert fsm.run() == 1
    define(2)
    assert fsm.run() == 2
    assert list(fsm.states) == ["only"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda fsm: fsm.state(timeot=3)(lambda_named("a")), "did you mean 'timeout'"),
        (lambda fsm: fsm.state(initial=1), "True or False"),
        (lambda fsm: fsm.state(transitions="ab"), "list of states"),
        (lambda fsm: fsm.state(name="a.b")(lambda_named("a")), "no dot"),
        (lambda fsm: fsm.state(trigger="any"), "no option 'trigger'"),
        (lambda fsm: fsm.add_transition("a", 5), "named by a text"),
        (lambda fsm: fsm.add_transition("a", "b", 5), "condition"),
        (lambda fsm: fsm.add_state_hook("x"), "state hook"),
        (lambda fsm: fsm.compile(), "no states yet"),
        (lambda _: FSM("x", max_cycles=0), "max_cycles"),
        (lambda _: FSM("x", history_limit=-1), "history_limit"),
        (lambda _: FSM(""), "name"),
    ],
)
def test_mistakes_in_building_are_refused_where_they_are_made(
    build: Callable[[FSM], Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(machine())


def test_two_initial_states_are_refused() -> None:
    fsm = machine()
    fsm.state(initial=True)(lambda_named("a"))
    with pytest.raises(ConfigurationError, match="begins in 'a' already"):
        fsm.state(initial=True)(lambda_named("b"))
    fsm2 = machine()
    fsm2.state(lambda_named("a"))
    with pytest.raises(ConfigurationError, match="initial=True"):
        fsm2.run()


def test_a_state_stays_a_function() -> None:
    fsm = machine()

    @fsm.state(initial=True)
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(4) == 8
    assert double.__doc__ == "Twice."


def test_hooks_of_the_run_and_progress_see_every_cycle() -> None:
    fsm = counter(4)
    shares: list[float] = []
    events: list[Any] = []

    class Watch(EventHook):
        def handle(self, ctx: Any, event: Any) -> None:
            events.append(event)

    fsm.run(n=0, hooks=[Watch()], progress=lambda *args: shares.append(args[2]), max_cycles=10)
    done = [each for each in events if type(each).__name__ == "NodeCompleted"]
    assert [(each.node.node_id, each.node.invocation_key) for each in done] == [
        ("tick", "0"),
        ("tock", "1"),
        ("tick", "2"),
        ("tock", "3"),
        ("tick", "4"),
    ]
    assert [each.outcome.outputs["result"] for each in done] == [1, 2, 3, 4, 4]
    assert shares == sorted(shares)


def test_sync_states_of_a_threaded_run_do_not_block_an_async_hook_s_loop() -> None:
    fsm = machine()
    threads: list[str] = []

    @fsm.state(initial=True)
    def first() -> FSMReturn:
        threads.append(threading.current_thread().name)
        return Next("last")

    @fsm.state(terminal=True)
    def last() -> int:
        return 1

    @fsm.add_state_hook
    async def look(*_: Any) -> None:
        threads.append(threading.current_thread().name)

    async def main() -> int:
        return int(await fsm.run_async())

    assert asyncio.run(main()) == 1
    assert threads[0] != threads[1]


def test_a_machine_is_silent_about_what_is_in_order(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING, "dagger_dsl"):
        order().run(order_id="x", database_url=f"sqlite:///{tmp_path}/x.db")
    assert caplog.records == []


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_plain_wrapper_around_an_async_state_hook_is_awaited(runner: str) -> None:
    fsm = FSM("order", registry=Registry())
    seen: list[tuple[str, str]] = []

    @fsm.state(initial=True)
    def new() -> Next:
        return Next("done", 1)

    @fsm.state(terminal=True)
    def done(value: int) -> int:
        return value

    async def note(_fsm: FSM, left: str, entered: str, _result: Any) -> None:
        await asyncio.sleep(0)
        seen.append((left, entered))

    @functools.wraps(note)
    def logged(*given: Any) -> Any:
        return note(*given)

    fsm.add_state_hook(logged)
    assert fsm.run(runner=runner) == 1
    assert seen == [("new", "done")]
