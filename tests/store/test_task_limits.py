"""What holds ready tasks back: how often those of an agent begin, and how many of them run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagger_dsl.model.rates import Rate
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Claim
from dagger_dsl.store.task_limits import AgentLimit, TaskLimits
from dagger_dsl.store.transactions import Transaction, run_transaction
from tests.store.test_tasks import Desk


@pytest.fixture(params=["memory", "file"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"
    with Store(url) as store:
        store.init_database()
        yield Desk(store)


def claim(
    desk: Desk,
    limits: TaskLimits,
    wanted: int = 100,
    worker: str = "w",
    agents: tuple[str, ...] = ("a",),
) -> list[Claim]:
    return desk.claims.exchange(worker, agents=agents, wanted=wanted, limits=limits)[0]


def numbered(count: int, prefix: str = "t") -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


@pytest.mark.row("Q4")
def test_no_more_begin_within_a_time_than_the_rate_says(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(10, per=1.0))})
    desk.add(*numbered(25))
    assert [each.id for each in claim(desk, limits)] == numbered(25)[:10]
    assert limits.next_at == desk.now + 1.0
    desk.now += 0.5
    assert claim(desk, limits) == []
    assert limits.next_at == desk.now + 0.5
    desk.now += 0.5
    assert len(claim(desk, limits)) == 10
    desk.now += 1.0
    assert len(claim(desk, limits)) == 5
    assert limits.next_at is None


def test_workers_with_limits_of_their_own_share_one_rate(desk: Desk) -> None:
    limits = [TaskLimits({"a": AgentLimit(rate=Rate(10, per=1.0))}) for _ in range(4)]
    desk.add(*numbered(40))
    begun = [
        len(claim(desk, each, wanted=4, worker=f"w{n}"))
        for n, each in enumerate([*limits, *limits])
    ]
    assert begun == [4, 4, 2, 0, 0, 0, 0, 0]
    assert limits[3].next_at == desk.now + 1.0


def test_other_agents_go_on_while_one_is_held_back(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(1, per=60.0))})
    desk.add(*numbered(5), priority=10)
    for each in numbered(3, "o"):
        desk.add(each, agent="b")
    assert [each.id for each in claim(desk, limits, agents=("a", "b"))] == [
        "t000",
        *numbered(3, "o"),
    ]


def test_no_more_run_at_the_same_time_than_may(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(max_running=2)})
    others = TaskLimits({"a": AgentLimit(max_running=2)})
    desk.add(*numbered(5))
    first, second = claim(desk, limits)
    assert claim(desk, others, worker="other") == []
    assert limits.next_at is None, "no time makes room, only an end does"
    desk.end(first)
    assert [each.id for each in claim(desk, others, worker="other")] == ["t002"]
    desk.end(second, TaskStatus.FAILED, error="no")
    assert [each.id for each in claim(desk, limits)] == ["t003"]


def test_what_a_dead_worker_ran_counts_until_it_is_rescued(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(max_running=1)})
    desk.add(*numbered(2))
    assert len(claim(desk, limits, worker="dies")) == 1
    assert claim(desk, limits) == []
    desk.claims.rescue("dies")
    assert [each.id for each in claim(desk, limits)] == ["t000"]


def test_a_key_and_limits_hold_together(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(max_running=3)})
    desk.add("k1", "k2", key="customer")
    desk.add(*numbered(3))
    assert [each.id for each in claim(desk, limits)] == ["k1", "t000", "t001"]


def test_a_rate_counts_calls_that_are_made_again(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(2, per=10.0))})
    desk.add("t")
    for _ in range(2):
        (held,) = claim(desk, limits)
        desk.end(held, TaskStatus.PENDING, due_at=desk.now, retried=True)
        desk.claims.wake()
    assert claim(desk, limits) == []
    desk.now += 10.0
    assert len(claim(desk, limits)) == 1


def test_a_rate_that_falls_counts_what_began_before(desk: Desk) -> None:
    desk.add(*numbered(12))
    assert len(claim(desk, TaskLimits({"a": AgentLimit(rate=Rate(5, per=10.0))}))) == 5
    desk.now += 1.0
    slower = TaskLimits({"a": AgentLimit(rate=Rate(2, per=10.0))})
    assert claim(desk, slower) == []
    assert slower.next_at == desk.now + 9.0
    desk.now += 9.0
    assert len(claim(desk, slower)) == 2


def test_a_clock_that_is_set_back_holds_nothing_up_for_longer_than_once(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(1, per=10.0))})
    desk.add(*numbered(3))
    assert len(claim(desk, limits)) == 1
    desk.now -= 86_400.0
    assert len(claim(desk, limits)) == 1
    assert claim(desk, limits) == []
    desk.now += 10.0
    assert len(claim(desk, limits)) == 1


def test_a_transaction_that_fails_counts_nothing(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(1, per=10.0), max_running=1)})
    desk.add("t")

    def broken(tx: Transaction) -> None:
        assert limits.admits(tx, 1, "a", desk.now)
        assert not limits.admits(tx, 2, "a", desk.now)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_transaction(desk.claims._database, broken)
    assert len(claim(desk, limits)) == 1


def test_little_is_kept_of_what_began(desk: Desk) -> None:
    limits = TaskLimits({"a": AgentLimit(rate=Rate(3, per=1.0))})
    desk.add(*numbered(30))
    for _ in range(10):
        assert len(claim(desk, limits)) == 3
        desk.now += 1.0
    with desk.claims._database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM agent_starts").scalar() == 3


def test_workers_without_limits_leave_no_trace(desk: Desk) -> None:
    desk.add("t")
    assert TaskLimits({"a": AgentLimit()})._limits == {}
    assert len(claim(desk, TaskLimits({"b": AgentLimit(max_running=1)}))) == 1
    with desk.claims._database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM agent_starts").scalar() == 0


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_workers_do_no_window_has_too_many_beginnings(data: st.DataObject) -> None:
    """Any number of claims, ends and waits: the law of the rate and of those that run holds."""
    rate = Rate(data.draw(st.integers(1, 4)), per=data.draw(st.sampled_from([1.0, 2.5, 10.0])))
    most = data.draw(st.integers(1, 4))
    with Store("sqlite::memory:") as store:
        store.init_database()
        desk = Desk(store)
        desk.add(*numbered(40))
        workers = [TaskLimits({"a": AgentLimit(rate, most)}) for _ in range(3)]
        began: list[float] = []
        running: list[Claim] = []
        for _ in range(30):
            what = data.draw(st.sampled_from(["claim", "claim", "end", "wait"]))
            if what == "claim":
                limits = data.draw(st.sampled_from(workers))
                claims = claim(desk, limits, wanted=data.draw(st.integers(1, 6)))
                running += claims
                began += [desk.now] * len(claims)
                if limits.next_at is not None:
                    assert desk.now < limits.next_at <= desk.now + rate.per
            elif what == "end" and running:
                desk.end(running.pop(data.draw(st.integers(0, len(running) - 1))))
            else:
                desk.now += data.draw(st.sampled_from([0.1, 0.7, 1.0, 5.0]))
            assert len(running) <= most
        for start in began:
            assert sum(start <= each < start + rate.per for each in began) <= rate.count


def test_a_lower_rate_waits_until_enough_of_those_that_began_are_forgotten(desk: Desk) -> None:
    desk.add(*numbered(9))
    for _ in range(4):
        assert len(claim(desk, TaskLimits({"a": AgentLimit(rate=Rate(4, per=10.0))}), 1)) == 1
        desk.now += 1
    lower = TaskLimits({"a": AgentLimit(rate=Rate(2, per=10.0))})
    first = desk.now - 4
    assert claim(desk, lower) == []
    assert lower.next_at == first + 2 + 10
    desk.now = lower.next_at
    assert len(claim(desk, lower)) == 1
