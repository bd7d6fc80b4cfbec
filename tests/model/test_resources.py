"""`ResourceTracker`: what is granted, in which order, and what is never granted."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import ResourceTracker
from dagger_dsl.errors import ConfigurationError, ResourceExhausted
from dagger_dsl.model.resources import Ticket, as_tracker, held_here, holding


def ask(
    tracker: ResourceTracker, memory: int = 0, *inside: Ticket, told: list[Any] | None = None
) -> Ticket:
    """Ask for room for a call; when it gets it later, that is noted in *told*."""
    return tracker.ask(
        "a call", memory, lambda: told.append(memory) if told is not None else None, inside
    )


def granted(ticket: Ticket) -> bool:
    return ticket.granted


@pytest.mark.row("Q1")
def test_without_limits_everything_is_granted_at_once() -> None:
    tracker = ResourceTracker()
    assert tracker.memory_limit is None
    assert tracker.task_limit is None
    tickets = [ask(tracker, 10**12) for _ in range(1_000)]
    assert all(granted(ticket) for ticket in tickets)
    assert (tracker.tasks_in_use, tracker.memory_in_use) == (1_000, 10**15)
    for ticket in tickets:
        ticket.release()
    assert (tracker.tasks_in_use, tracker.memory_in_use, tracker.waiting) == (0, 0, 0)


@pytest.mark.row("Q3")
def test_the_101st_call_waits_until_one_ends() -> None:
    tracker = ResourceTracker()
    tracker.set_task_limit(100)
    told: list[int] = []
    tickets = [ask(tracker, told=told) for _ in range(101)]
    assert [granted(ticket) for ticket in tickets] == [True] * 100 + [False]
    assert (tracker.tasks_in_use, tracker.waiting) == (100, 1)
    tickets[7].release()
    assert granted(tickets[100])
    assert told == [0]
    assert (tracker.tasks_in_use, tracker.waiting) == (100, 0)


@pytest.mark.row("Q2")
def test_memory_is_granted_while_it_lasts() -> None:
    tracker = ResourceTracker()
    tracker.set_memory_limit(1_000_000_000)
    first, second = ask(tracker, 600_000_000), ask(tracker, 500_000_000)
    assert granted(first)
    assert not granted(second)
    first.release()
    assert granted(second)
    assert tracker.memory_in_use == 500_000_000


@pytest.mark.row("Q2")
def test_what_can_never_fit_is_refused_at_once() -> None:
    tracker = ResourceTracker(memory_limit=1_000)
    ticket = ask(tracker, 1_001)
    assert isinstance(ticket.refused, ResourceExhausted)
    assert "declares 1,001 bytes of memory, and the limit is 1,000" in str(ticket.refused)
    assert tracker.waiting == 0
    with pytest.raises(ResourceExhausted, match="set_memory_limit"):
        tracker.check("node 'x'", 1_001)
    tracker.check("node 'x'", 1_000)


def test_a_limit_that_falls_refuses_what_waits_and_leaves_what_runs() -> None:
    tracker = ResourceTracker(memory_limit=10)
    told: list[int] = []
    running = ask(tracker, 8)
    large, small = ask(tracker, 9, told=told), ask(tracker, 4, told=told)
    tracker.set_memory_limit(5)
    assert large.refused is not None
    assert told == [9]
    assert granted(running)
    assert not granted(small)
    running.release()
    assert granted(small)


def test_a_limit_that_rises_lets_those_in_who_wait() -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=1)
    first, second, third = ask(tracker, 5), ask(tracker, 5), ask(tracker, 5)
    assert [granted(each) for each in (first, second, third)] == [True, False, False]
    tracker.set_task_limit(3)
    assert [granted(each) for each in (first, second, third)] == [True, True, False]
    tracker.set_memory_limit(None)
    assert granted(third)


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    tracker = ResourceTracker(memory_limit=10)
    small = [ask(tracker, 2) for _ in range(5)]
    large = ask(tracker, 8)
    later = [ask(tracker, 2) for _ in range(5)]
    small.pop().release()
    assert not any(granted(each) for each in later), "what comes free is kept for who is first"
    for each in small[:3]:
        each.release()
    assert granted(large)
    assert not any(granted(each) for each in later)
    small[3].release()
    assert [granted(each) for each in later] == [True, False, False, False, False]


def test_what_is_left_over_goes_to_those_behind() -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=3)
    ask(tracker, 6)
    large, none, also = ask(tracker, 8), ask(tracker), ask(tracker)
    assert not granted(large)
    assert granted(none), "a place is kept for the large one, and another one is left"
    assert not granted(also)


def test_who_leaves_the_line_makes_room_for_others() -> None:
    tracker = ResourceTracker(memory_limit=10)
    ask(tracker, 5)
    large, small = ask(tracker, 9), ask(tracker, 5)
    assert not granted(small)
    large.release()
    assert granted(small)
    large.release()  # once more: nothing happens
    assert tracker.memory_in_use == 10


# --- calls inside of calls -----------------------------------------------------------------------


def test_a_call_lends_its_place_to_one_call_inside_of_it() -> None:
    tracker = ResourceTracker(task_limit=1)
    outer = ask(tracker)
    one, two = ask(tracker, 0, outer), ask(tracker, 0, outer)
    assert granted(one)
    assert not granted(two)
    assert tracker.tasks_in_use == 1
    one.release()
    assert granted(two)
    two.release()
    outer.release()
    assert tracker.tasks_in_use == 0


def test_a_call_that_declares_memory_pays_what_runs_inside_of_it() -> None:
    tracker = ResourceTracker(memory_limit=10)
    outer = ask(tracker, 8)
    one, two, three = ask(tracker, 5, outer), ask(tracker, 5, outer), ask(tracker, 9, outer)
    assert granted(one)
    assert not granted(two)
    assert three.refused is not None
    assert "inside of which it is called, declares 8" in str(three.refused)
    assert tracker.memory_in_use == 8
    one.release()
    assert granted(two)


def test_calls_inside_of_two_that_hold_all_places_go_before_those_who_wait_for_a_place() -> None:
    # The one in line waits for a place of those whose calls would wait behind it.
    tracker = ResourceTracker(memory_limit=10, task_limit=2)
    outer = [ask(tracker), ask(tracker)]
    large = ask(tracker, 10)
    inner = [ask(tracker, 6, each) for each in outer]
    assert [granted(each) for each in inner] == [True, False]
    inner[0].release()
    assert granted(inner[1])
    inner[1].release()
    outer[0].release()
    assert granted(large)


def test_what_a_call_holds_stays_until_what_runs_inside_has_ended_too() -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=1)
    outer = ask(tracker, 10)
    inner = ask(tracker, 4, outer)
    outer.release()
    assert (tracker.tasks_in_use, tracker.memory_in_use) == (1, 10)
    assert not granted(ask(tracker, 0, outer)), "it has ended: nothing more begins inside of it"
    inner.release()
    assert tracker.memory_in_use == 0
    assert tracker.tasks_in_use == 1


def test_code_inside_of_a_call_knows_what_it_holds() -> None:
    tracker = ResourceTracker()
    outer = ask(tracker)
    assert held_here() == ()
    with holding(outer), holding(None), holding(ask(tracker)):
        assert held_here()[0] is outer
        assert len(held_here()) == 2
    assert held_here() == ()


def test_another_trackers_calls_do_not_count_as_around() -> None:
    first, second = ResourceTracker(task_limit=1), ResourceTracker(task_limit=1)
    outer = ask(first)
    assert ask(second, 0, outer).granted
    assert second.tasks_in_use == 1


# --- laws ----------------------------------------------------------------------------------------


@given(st.data())
def test_whoever_waits_is_granted_in_the_end_and_limits_hold_all_the_time(
    data: st.DataObject,
) -> None:
    """Bodies end in any order, but not before what runs inside of them."""
    memory, places = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    tracker = ResourceTracker(memory_limit=memory, task_limit=places)
    open_: list[Ticket] = []
    inside: dict[int, list[Ticket]] = {}
    budget = data.draw(st.integers(1, 25))

    def check() -> None:
        assert 0 <= tracker.memory_in_use <= memory
        assert 0 <= tracker.tasks_in_use <= places
        running = [each for each in open_ if granted(each)]
        leaves = [each for each in running if not inside[id(each)]]
        assert leaves or not open_, "nothing goes on: all that run wait for what waits in line"

    while budget or open_:
        running = [each for each in open_ if granted(each)]
        leaves = [each for each in running if not inside[id(each)]]
        if budget and (not leaves or data.draw(st.booleans())):
            budget -= 1
            parents = [()] + [(each,) for each in running]
            chain = data.draw(st.sampled_from(parents))
            ticket = ask(tracker, data.draw(st.integers(0, memory)), *chain)
            if ticket.refused is not None:
                continue
            open_.append(ticket)
            inside[id(ticket)] = []
            for each in chain:
                inside[id(each)].append(ticket)
        else:
            ended = data.draw(st.sampled_from(leaves))
            ended.release()
            open_.remove(ended)
            for others in inside.values():
                if ended in others:
                    others.remove(ended)
        check()
    assert (tracker.tasks_in_use, tracker.memory_in_use, tracker.waiting) == (0, 0, 0)


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.row("Q1", "Q2", "Q3")
@pytest.mark.parametrize("value", [-1, 1.5, True, "1 GB", b"1", 2**70, [], float("nan")])
def test_a_limit_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="memory_limit counts bytes and must be"):
        ResourceTracker(memory_limit=value)
    with pytest.raises(ConfigurationError, match="task_limit must be"):
        ResourceTracker(task_limit=value)
    tracker = ResourceTracker(5, 6)
    with pytest.raises(ConfigurationError):
        tracker.set_memory_limit(value)
    with pytest.raises(ConfigurationError):
        tracker.set_task_limit(value)
    assert (tracker.memory_limit, tracker.task_limit) == (5, 6)


def test_no_calls_at_all_is_no_limit_of_calls() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        ResourceTracker(task_limit=0)


def test_a_tracker_stays_in_its_process() -> None:
    with pytest.raises(TypeError, match="cannot be sent to another one"):
        pickle.dumps(ResourceTracker())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_is_taken_in_a_process_that_was_forked() -> None:
    script = """
import os
from dagger_dsl.model.resources import ResourceTracker, held_here, holding
tracker = ResourceTracker(memory_limit=10, task_limit=1)
outer = tracker.ask("outer", 8, print)
with holding(outer), tracker._lock:
    child = os.fork()
    if not child:
        mine = tracker.ask("mine", 10, print, held_here())
        good = mine.granted and tracker.memory_in_use == 10
        outer.release()
        os._exit(0 if good and tracker.memory_in_use == 10 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (tracker.memory_in_use, tracker.tasks_in_use) == (8, 1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_tracker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="resources is a ResourceTracker"):
        as_tracker({"memory_limit": 1})


def test_it_shows_what_is_taken() -> None:
    tracker = ResourceTracker(task_limit=2)
    ask(tracker, 3)
    expected = "<ResourceTracker: 1 of 2 calls, 3 of any number of bytes, 0 waiting>"
    assert repr(tracker) == expected
