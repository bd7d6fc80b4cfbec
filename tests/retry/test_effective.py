"""The policy in force: the node's word, then the action's, then the configuration's."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity

from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Node
from dagger_dsl.model.policies import DEFAULT_RETRY, RetryPolicy, RetryStrategy
from dagger_dsl.registry import ActionDef, define
from dagger_dsl.retry import decide, effective_policy


def plain() -> None: ...


def action(**options: Any) -> ActionDef:
    return define(plain, **options)


NODE = Node("n", "plain")


@pytest.mark.row("D1")
def test_one_attempt_with_the_default_waits_where_nobody_says_anything() -> None:
    policy = effective_policy(NODE, action())
    assert policy == DEFAULT_RETRY.with_attempts(1)
    assert effective_policy(NODE, None) == policy


def test_the_configuration_gives_the_number_and_the_waits() -> None:
    config = DagConfig(max_attempts=4, retry_strategy=RetryStrategy.linear(5))
    assert effective_policy(NODE, action(), config) == RetryStrategy.linear(5).with_attempts(4)


def test_a_strategy_with_a_number_of_its_own_stands_where_max_attempts_was_not_given() -> None:
    three = DagConfig(retry_strategy=RetryPolicy(3))
    assert effective_policy(NODE, action(), three).max_attempts == 3
    both = DagConfig(max_attempts=2, retry_strategy=RetryPolicy(3))
    assert effective_policy(NODE, action(), both).max_attempts == 2


@pytest.mark.row("A7")
def test_the_nodes_try_count_wins_over_everything() -> None:
    node = Node("n", "plain", try_count=2, retry=RetryPolicy(7, base_delay=1))
    config = DagConfig(max_attempts=9)
    policy = effective_policy(node, action(attempts=5), config)
    assert policy == RetryPolicy(2, base_delay=1)


def test_the_nodes_retry_wins_over_the_action() -> None:
    node = Node("n", "plain", retry=RetryPolicy(7, base_delay=1))
    assert effective_policy(node, action(attempts=5)) == RetryPolicy(7, base_delay=1)
    waits_only = Node("n", "plain", retry=RetryPolicy(base_delay=1))
    assert effective_policy(waits_only, action(attempts=5)) == RetryPolicy(5, base_delay=1)


def test_the_action_wins_over_the_configuration() -> None:
    config = DagConfig(max_attempts=9, retry_strategy=RetryStrategy.linear(5))
    assert effective_policy(NODE, action(retry=2), config) == RetryStrategy.linear(5).with_attempts(
        3
    )
    slow = RetryPolicy(4, base_delay=30)
    assert effective_policy(NODE, action(retry=slow), config) == slow
    waits_only = RetryPolicy(base_delay=30)
    assert effective_policy(NODE, action(retry=waits_only), config) == waits_only.with_attempts(9)


def test_a_stop_object_decides_in_the_place_of_its_policys_number() -> None:
    stop = tenacity.stop_after_delay(10)
    held = action(retry=RetryPolicy(stop=stop))
    policy = effective_policy(NODE, held, DagConfig(max_attempts=2))
    assert policy.stop is stop
    assert decide(policy, 50, OSError(), elapsed=1) is not None
    counted = effective_policy(Node("n", "plain", try_count=2), held)
    assert counted.stop is None
    assert decide(counted, 2, OSError()) is None
    by_config = DagConfig(retry_strategy=RetryPolicy(stop=stop))
    assert effective_policy(NODE, action(), by_config).stop is stop
