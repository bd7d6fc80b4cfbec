"""The typing examples are programs that run."""

from __future__ import annotations

import asyncio
import importlib
import importlib.resources
import sys
from types import ModuleType

import pytest

import dagger_dsl
from dagger_dsl.errors import DaggerError


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(request.path.parent)
    module = importlib.import_module("api")
    monkeypatch.delitem(sys.modules, "api")
    return module


@pytest.mark.row("R3")
def test_what_type_checkers_are_shown_is_what_runs(api: ModuleType) -> None:
    assert api.load("a", limit=3) == [3]
    assert api.build().validate().problems == ()
    assert list(api.by_nodes().nodes) == ["first", "then", "check", "either", "cached"]
    asyncio.run(api.mapper())
    assert api.own.list_actions() == [
        "big",
        "left",
        "load",
        "one",
        "plain",
        "report",
        "right",
        "route",
        "stacked",
        "summarise",
        "undecided",
        "untyped",
    ]


@pytest.mark.row("R3")
def test_what_type_checkers_refuse_is_refused_when_it_runs_too(api: ModuleType) -> None:
    with pytest.raises((DaggerError, TypeError, AttributeError)):
        api.wrong()


@pytest.mark.row("R3")
def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files(dagger_dsl).joinpath("py.typed").is_file()
