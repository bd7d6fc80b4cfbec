"""`DagConfig` and `RunOptions`: one table of defaults, strict values, merging by given fields."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import attrs
import pytest

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.policies import (
    DEFAULT_RETRY,
    HumanTimeoutAction,
    OnFailure,
    RetryStrategy,
)

DEFAULTS = {
    "max_attempts": 1,
    "on_failure": OnFailure.STOP,
    "timeout_seconds": None,
    "max_parallel_nodes": 4,
    "enable_parallel_execution": True,
    "retry_strategy": DEFAULT_RETRY,
    "human_wait_minutes": None,
    "human_timeout_action": HumanTimeoutAction.PAUSE,
    "max_tokens": None,
    "max_iterations": None,
    "max_growth_depth": None,
    "review_frequency": None,
    "enable_incremental_cache": True,
    "cache_snapshot_interval": 60.0,
    "flush_interval": 0.005,
    "max_crashes": 3,
    "shutdown_grace": 10.0,
    "keep_runs": None,
    "keep_days": None,
    "on_missing": "error",
}


@pytest.mark.row("D2", "D4", "D5", "D12", "D14")
def test_every_field_has_its_documented_default() -> None:
    config = attrs.asdict(DagConfig(), recurse=False)
    assert config.pop("given") == frozenset()
    assert config == DEFAULTS


@pytest.mark.row("D1", "D14")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("max_attempts", None),
        ("on_failure", "explode"),
        ("timeout_seconds", 0),
        ("timeout_seconds", -1),
        ("timeout_seconds", float("nan")),
        ("timeout_seconds", float("inf")),
        ("timeout_seconds", "60"),
        ("timeout_seconds", 10**400),
        ("max_parallel_nodes", 0),
        ("max_parallel_nodes", 2.5),
        ("enable_parallel_execution", 1),
        ("retry_strategy", "sometimes"),
        ("flush_interval", -0.1),
        ("max_crashes", 0),
        ("human_wait_minutes", 0),
        ("on_missing", "maybe"),
        ("max_attempts", 10**30),
        ("max_tokens", 2**53 + 1),
    ],
)
def test_impossible_values_are_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        DagConfig(**{field: value})


def test_a_count_has_an_upper_bound_that_the_error_names() -> None:
    assert DagConfig(max_tokens=2**53).max_tokens == 2**53
    with pytest.raises(
        ConfigurationError, match="max_tokens must be at most 9,007,199,254,740,992 or None"
    ):
        DagConfig(max_tokens=2**53 + 1)
    with pytest.raises(ConfigurationError, match="a capacity must be a whole number of at least 1"):
        RunOptions(event_capacity=0)


@pytest.mark.parametrize(
    ("field", "unit", "day"), [("human_wait_minutes", "minutes", 1440), ("keep_days", "days", 1)]
)
def test_a_duration_is_told_and_read_in_the_unit_of_its_field(
    field: str, unit: str, day: float
) -> None:
    assert getattr(DagConfig(**{field: timedelta(days=1)}), field) == day
    with pytest.raises(ConfigurationError, match=f"{field} must be {unit} or a timedelta, not str"):
        DagConfig(**{field: "5"})
    with pytest.raises(ConfigurationError, match=f"{field} must be more than 0 finite {unit}"):
        DagConfig(**{field: 0})


@pytest.mark.row("D14")
def test_an_unknown_field_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="max_attempt'; did you mean 'max_attempts'"):
        DagConfig.from_dict({"max_attempt": 3})


@pytest.mark.row("D14")
def test_a_configuration_is_read_from_the_environment() -> None:
    environ = {
        "DAGGER_DSL_MAX_ATTEMPTS": "3",
        "DAGGER_DSL_ON_FAILURE": "continue",
        "DAGGER_DSL_TIMEOUT_SECONDS": "2.5",
        "DAGGER_DSL_MAX_PARALLEL_NODES": "none",
        "DAGGER_DSL_ENABLE_PARALLEL_EXECUTION": "false",
        "DAGGER_DSL_SOMETHING_ELSE": "left alone",
    }
    assert DagConfig.from_env(environ=environ).changes() == {
        "max_attempts": 3,
        "on_failure": OnFailure.CONTINUE,
        "timeout_seconds": 2.5,
        "max_parallel_nodes": None,
        "enable_parallel_execution": False,
    }


@pytest.mark.row("D14")
def test_replace_changes_one_field_and_leaves_the_original() -> None:
    config = DagConfig(max_attempts=2)
    assert config.replace(max_attempts=5).max_attempts == 5
    assert config.max_attempts == 2


@pytest.mark.row("D27", "A14")
def test_only_given_fields_override() -> None:
    base = DagConfig(max_attempts=3, on_failure=OnFailure.CONTINUE)
    merged = DagConfig.merge(base, DagConfig(on_failure=OnFailure.STOP))
    assert merged.max_attempts == 3
    assert merged.on_failure is OnFailure.STOP, "a default that is given overrides too"
    assert merged.timeout_seconds is None
    assert DagConfig.merge(None, None) == DagConfig()


@pytest.mark.row("D22")
def test_production_has_the_documented_values() -> None:
    config = DagConfig.production()
    assert config.enable_parallel_execution is True
    assert config.max_parallel_nodes == (os.cpu_count() or 1)
    assert config.max_attempts == 3
    assert config.timeout_seconds == 3600
    assert config.retry_strategy == RetryStrategy.exponential(5, 300, 2.0)
    assert config.on_failure is OnFailure.CONTINUE


@pytest.mark.row("D28", "D4")
def test_advice_on_parallelism_is_at_hand() -> None:
    assert DagConfig.for_io().max_parallel_nodes == 50
    assert DagConfig.for_io(20).max_parallel_nodes == 20
    assert DagConfig.for_cpu().max_parallel_nodes == 2 * (os.cpu_count() or 1)


def test_durations_are_seconds_or_timedeltas() -> None:
    assert DagConfig(timeout_seconds=timedelta(minutes=2)).timeout_seconds == 120.0
    assert DagConfig(human_wait_minutes=timedelta(minutes=30)).human_wait_minutes == 30.0


def test_equality_tells_a_given_default_from_one_left_out() -> None:
    assert DagConfig() == DagConfig()
    assert DagConfig(max_attempts=1) != DagConfig(), "it overrides in a merge"
    assert hash(DagConfig(max_attempts=2)) == hash(DagConfig(max_attempts=2))
    assert DagConfig() != "text"


@pytest.mark.parametrize(
    ("spelling", "runner"),
    [
        ("sequential", "sequential"),
        ("sync", "sequential"),
        ("parallel", "threads"),
        ("thread", "threads"),
        ("async", "asyncio"),
        ("process", "processes"),
    ],
)
def test_document_spellings_of_runners_are_read(spelling: str, runner: str) -> None:
    assert RunOptions(runner=spelling).runner == runner


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("runner", "turbo"),
        ("runner", 3),
        ("max_workers", 0),
        ("timeout", -1),
        ("durability", "maybe"),
        ("run_id", ""),
        ("run_id", 7),
        ("on_change", "ignore"),
    ],
)
def test_impossible_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        RunOptions.of({option: value})


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'timeout'"):
        RunOptions.of({"time_out": 3})


def test_the_fields_that_nothing_acts_on_are_told() -> None:
    assert DagConfig().not_acted_on() == []
    assert DagConfig(max_attempts=2).not_acted_on() == []
    odd = DagConfig(enable_incremental_cache=False, max_tokens=5).not_acted_on()
    assert odd == ["enable_incremental_cache"]
    for name in odd:
        assert f"{name} [*]:" in (DagConfig.__doc__ or "")


def test_a_runs_configuration_may_be_a_mapping() -> None:
    assert RunOptions.of({"config": {"max_attempts": 2}}).config == DagConfig(max_attempts=2)
    with pytest.raises(ConfigurationError, match="no field 'max_attemps'; did you mean"):
        RunOptions.of({"config": {"max_attemps": 2}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": 5}, "config is a DagConfig or a mapping"),
        ({"hooks": print}, "hooks is a list, such as"),
        ({"hooks": 5}, "hooks is a list"),
        ({"hooks": "watch"}, "hooks is a list"),
        ({"cancel": 5}, "`cancelled` and `subscribe`"),
        ({"progress": 5}, "progress is a function of"),
        ({"database_url": 5}, "database_url is a text"),
        ({"max_workers": 10_001}, "10000 at most"),
        ({"max_workers": 10**9}, "10000 at most"),
        ({"run_id": "x" * 100_000 + "\0"}, "run_id must be a text"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        RunOptions.of(options)
    assert len(str(caught.value)) < 500


def test_options_of_the_right_kind_are_taken() -> None:
    options = RunOptions.of({"max_workers": 10_000, "hooks": iter([print]), "progress": print})
    assert options.hooks == (print,)
