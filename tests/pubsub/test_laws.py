"""Laws of delivery and of positions, whatever happens in whatever order."""

from __future__ import annotations

import math
from collections import defaultdict, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dagger_dsl.model.messages import Message
from dagger_dsl.pubsub.delivery import Delivery, SharedDelivery
from dagger_dsl.pubsub.progress import Progress
from dagger_dsl.store.message_values import Delivered
from dagger_dsl.testing import FakeClock
from tests.scale import count


class Deliveries(RuleBasedStateMachine):
    """One agent that is given messages, several at a time, and fails on some."""

    concurrency = 1

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.core = self.make()
        self.numbers = iter(range(1, 1_000_000))
        self.lanes: dict[tuple[str, str], deque[Message]] = defaultdict(deque)
        self.running: list[Message] = []
        self.due: dict[int, float] = {}
        self.attempts: dict[int, int] = {}

    def make(self) -> Delivery:
        return Delivery(self.concurrency)

    @rule(channel=st.sampled_from("ab"), key=st.sampled_from(["", "k", "l"]))
    def arrive(self, channel: str, key: str) -> None:
        message = Message(channel, key=key, number=next(self.numbers))
        self.core.arrived.append(message)
        self.lanes[channel, key].append(message)

    @precondition(lambda self: not self.running)
    @rule(attempts=st.integers(0, 2), later=st.floats(0.0, 3.0))
    def restore(self, attempts: int, later: float) -> None:
        """Take over what another process has left, in a lane of its own."""
        number = next(self.numbers)
        message = Message("restored", key=str(number), number=number)
        self.core.restore(message, self.clock() + later, attempts)
        self.lanes["restored", str(number)].append(message)
        self.due[number] = self.clock() + later
        if attempts:
            self.attempts[number] = attempts

    def may_be_given(self) -> set[int]:
        busy = {(each.channel, each.key) for each in self.running}
        firsts = [lane[0] for name, lane in self.lanes.items() if lane and name not in busy]
        return {each.number for each in firsts if self.due.get(each.number, 0.0) <= self.clock()}

    @precondition(lambda self: len(self.running) < self.concurrency)
    @rule()
    def take(self) -> None:
        may = self.may_be_given()
        message = self.core.next(self.clock())
        if message is None:
            assert not may, "there was one"
            return
        assert message.number in may, "it is not the first of its lane, or too early"
        assert self.core.attempts(message) == self.attempts.get(message.number, 0)
        self.running.append(message)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        message = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.core.ended(message)
        assert self.lanes[message.channel, message.key].popleft() == message
        self.due.pop(message.number, None)
        self.attempts.pop(message.number, None)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), delay=st.floats(0.0, 3.0))
    def fail(self, data: st.DataObject, delay: float) -> None:
        message = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        calls = self.core.attempts(message) + 1
        self.core.failed(message, self.clock() + delay, calls)
        self.due[message.number] = self.clock() + delay
        self.attempts[message.number] = calls

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_lost(self) -> None:
        wanted = sum(map(len, self.lanes.values())) - len(self.running)
        assert self.core.waiting == wanted
        running = {each.number for each in self.running}
        waiting = [each.number for lane in self.lanes.values() for each in lane]
        assert [each.number for each in self.core.left()] == sorted(set(waiting) - running)
        if len(self.running) < self.concurrency and self.may_be_given():
            assert self.core.is_news(self.clock())
        if not self.running:
            if self.may_be_given():
                assert self.core.calm_until() <= self.clock()
            assert (self.core.calm_until() == math.inf) is not any(self.lanes.values())

    def teardown(self) -> None:
        """Everything comes, in the end."""
        self.clock.advance(10.0)
        while self.running or any(self.lanes.values()):
            if len(self.running) < self.concurrency:
                self.take()
            if self.running:
                message = self.running.pop()
                self.core.ended(message)
                self.lanes[message.channel, message.key].popleft()
        assert self.core.next(self.clock()) is None
        assert self.core.waiting == 0


class ManyDeliveries(Deliveries):
    concurrency = 3

    def make(self) -> Delivery:
        return SharedDelivery(self.concurrency)


LIMITS = settings(max_examples=count(500, least=50), stateful_step_count=40, deadline=None)
TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = LIMITS
TestManyDeliveries = ManyDeliveries.TestCase
TestManyDeliveries.settings = LIMITS


class Positions(RuleBasedStateMachine):
    """One subscription, the database's rows of it, and processes that die."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        self.mine: set[int] = set()
        self.position = 0
        self.rows: dict[int, tuple[str, int, float | None]] = {}
        self.over: dict[int, str] = {}
        self.begin()

    @rule()
    def begin(self) -> None:
        """Die, and begin again with what was written."""
        states = {number: row[0] for number, row in self.rows.items()}
        self.progress = Progress(self.position, states)
        # Of messages in hand: how many calls have failed.
        self.hand = {n: row[1] for n, row in self.rows.items() if row[0] == "retry"}
        self.settled: dict[int, Delivered] = {}
        for number in self.hand:
            self.progress.again(number)

    @rule(mine=st.lists(st.booleans(), min_size=1, max_size=4))
    def publish(self, mine: list[bool]) -> None:
        for each in mine:
            self.last += 1
            if each:
                self.mine.add(self.last)

    @rule(most=st.integers(1, 4))
    def fetch(self, most: int) -> None:
        first = self.progress.scanned
        found = range(first + 1, min(self.last, first + most) + 1)
        if not found:
            return
        wanted = [each for each in found if each in self.mine and each not in self.progress.skip]
        for each in wanted:
            assert each not in self.over, "what was acknowledged is never given again"
            assert each not in self.hand
        self.progress.take(wanted, found[-1])
        self.hand.update(dict.fromkeys(wanted, 0))

    @precondition(lambda self: self.hand)
    @rule(data=st.data(), state=st.sampled_from(["done", "done", "retry", "dead"]))
    def settle(self, data: st.DataObject, state: str) -> None:
        numbers = sorted(set(self.hand) - set(self.settled)) or sorted(self.hand)
        number = data.draw(st.sampled_from(numbers))
        known = self.settled.get(number)
        if known is not None and known.state != "retry":
            return
        calls = self.hand[number] + (state != "done")
        self.hand[number] = calls
        self.settled[number] = Delivered(number, state, calls)

    @rule(refuse=st.booleans())
    def commit(self, refuse: bool) -> None:
        step = self.progress.plan(list(self.settled.values()))
        assert step.position >= self.position, "no position goes back"
        self.position = step.position
        for number in step.drop:
            del self.rows[number]
        over = [n for n, row in self.rows.items() if row[0] == "done" and n <= step.position]
        assert step.drop_done or not over, "no row of what is done stays behind the position"
        for number in over:
            del self.rows[number]
        for each in step.put:
            self.rows[each.number] = (each.state, each.attempt, each.due_at)
        self.progress.wrote(step)
        for number, each in self.settled.items():
            if each.state == "done" and refuse:
                self.rows[number] = ("retry", 1, 0.0)
                self.progress.refused(number)
                continue
            if each.state != "retry":
                self.over[number] = each.state
                del self.hand[number]
        self.settled = {}
        if refuse:
            assert set(self.hand) >= set(self.progress.retries)

    @precondition(lambda self: any(row[0] == "dead" for row in self.rows.values()))
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        dead = sorted(n for n, row in self.rows.items() if row[0] == "dead")
        number = data.draw(st.sampled_from(dead))
        self.rows[number] = ("retry", 0, 0.0)
        del self.over[number]
        assert number not in self.progress.retries
        self.progress.again(number)
        self.hand[number] = 0

    @invariant()
    def every_message_is_settled_or_will_be_given(self) -> None:
        for number in self.mine:
            written = number <= self.position or number in self.rows
            if number in self.over:
                assert written
            elif number <= self.position:
                assert self.rows.get(number, ("",))[0] == "retry", "nobody would give it again"

    def teardown(self) -> None:
        """When all is settled, nothing is left but what was given up."""
        while self.progress.scanned < self.last:
            self.fetch(10)
        self.settled.update({number: Delivered(number, "done") for number in self.hand})
        self.commit(refuse=False)
        assert self.position == self.last
        assert {row[0] for row in self.rows.values()} <= {"dead"}
        assert all(n in self.mine for n in self.rows)


TestPositions = Positions.TestCase
TestPositions.settings = LIMITS
