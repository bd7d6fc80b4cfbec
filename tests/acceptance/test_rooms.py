"""The paradigms are separate: whoever uses one of them does not load the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dagger_dsl

#: The rooms of each paradigm; what a later version adds is looked for as soon as it is there.
PARADIGMS = {
    "flows": ("dsl", "engine", "runners", "yamlio", "executor"),
    "tasks": ("agents",),
    "messages": ("pubsub",),
    "machines": ("fsm",),
}
#: What a paradigm shares with another one: a machine is run by the engine that runs flows, and its
#: front is the same small `Workflow`.
SHARED = {"machines": {"engine"}}
HOME = Path(dagger_dsl.__file__).parent


def rooms(paradigm: str) -> list[str]:
    """Return the rooms of a paradigm that exist."""
    return [room for room in PARADIGMS[paradigm] if (HOME / room / "__init__.py").exists()]


def loaded(*names: str) -> set[str]:
    """Return the rooms that a new process has loaded after importing some."""
    code = (
        "import json, sys\n"
        + "".join(f"import dagger_dsl.{name}\n" for name in names)
        + "print(json.dumps([n.split('.')[1] for n in sys.modules if n.startswith('dagger_dsl.')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    found: list[str] = json.loads(done.stdout)
    return set(found)


@pytest.mark.row("R2")
@pytest.mark.parametrize("paradigm", [each for each in PARADIGMS if rooms(each)])
def test_importing_one_paradigm_imports_no_other(paradigm: str) -> None:
    others = {room for each in PARADIGMS if each != paradigm for room in rooms(each)}
    assert loaded(*rooms(paradigm)) & others <= SHARED.get(paradigm, set())


@pytest.mark.row("R2")
def test_building_a_machine_loads_nothing_that_runs_it() -> None:
    code = (
        "import sys, dagger_dsl.fsm\n"
        "print(*[n for n in sys.modules if n.startswith('dagger_dsl.engine.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dagger_dsl.engine.workflow"]


@pytest.mark.row("R2")
def test_the_package_itself_imports_none() -> None:
    everything = {room for each in PARADIGMS for room in rooms(each)}
    assert loaded("errors") & everything == set()
