"""Hostile and large files, through the command: each answered within 2 s and 300 MB.

Counted is a whole process: the interpreter's start, loading, validating, and for the valid ones
running and recording too. Seconds are those of the process alone, not of what runs beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks.measure import within

SECONDS, MEGABYTES = 2.0, 300.0
COMMAND = [sys.executable, "-m", "tests.acceptance.command"]
ROOT = Path(__file__).parents[2]


class Answer(NamedTuple):
    """What a process said and used."""

    code: int
    text: str
    seconds: float
    megabytes: float


def answer_of(folder: Path, *arguments: str) -> Answer:
    """Run the command in a fresh process."""
    log, peak = folder / "log.txt", folder / "peak.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*COMMAND, str(peak), *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Answer(
        process.returncode,
        log.read_text(encoding="utf-8"),
        used.ru_utime + used.ru_stime,
        int(peak.read_text(encoding="ascii")) / 1024,
    )


def within_limits(answer: Answer) -> None:
    assert answer.seconds <= SECONDS
    assert answer.megabytes <= MEGABYTES


def deep() -> str:
    return f"name: deep\nnodes: {'[' * 10_000}{']' * 10_000}\n"


def deep_blocks() -> str:
    lines = ["name: deep", "nodes:", "  - id: a", "    action: f", "    metadata:"]
    return "\n".join([*lines, *(f"{' ' * (6 + i)}k:" for i in range(1_000))])


def laughs() -> str:
    lines = ["name: lol", "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join([*lines, "nodes: [*a9]\n"])


@pytest.mark.parametrize("make", [deep, deep_blocks, laughs], ids=lambda make: make.__name__)
def test_a_hostile_file_is_refused_with_its_line(tmp_path: Path, make: object) -> None:
    assert callable(make)
    file = tmp_path / "hostile.yaml"
    file.write_text(make())
    answer = answer_of(tmp_path, "validate", str(file))
    assert answer.code == 2, answer.text
    assert f"{file}:" in answer.text
    assert "Traceback" not in answer.text
    within_limits(answer)


def chain() -> str:
    """2,000 nodes, one after the other, each adding one."""
    lines = ["name: chain", "nodes:", "  - {id: n0, action: first}"]
    for i in range(1, 2_000):
        lines += [f"  - id: n{i}", "    action: add_one", "    inputs:"]
        lines += ["      - name: x", f"        reference: n{i - 1}.result"]
    return "\n".join(lines)


def ladder() -> str:
    """40 layers of 10 nodes, each on all of the layer before: 3,900 edges, 10**39 ways through."""
    lines = ["name: ladder", "nodes:"]
    for layer in range(40):
        before = ", ".join(f"n{layer - 1}_{i}" for i in range(10)) if layer else ""
        for i in range(10):
            lines += [f"  - id: n{layer}_{i}", "    action: first", f"    dependencies: [{before}]"]
    return "\n".join(lines)


@pytest.mark.benchmark  # it counts the processor's seconds
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize(("make", "last"), [(chain, "n1999 = 2000"), (ladder, "n39_9 = 1")])
def test_a_large_file_is_loaded_validated_run_and_recorded(
    tmp_path: Path, make: object, last: str, runner: str
) -> None:
    assert callable(make)
    file = tmp_path / "large.yaml"
    file.write_text(make())
    (tmp_path / "actions.py").write_text(
        "def first():\n    return 1\n\ndef add_one(x):\n    return x + 1\n"
    )
    database = f"sqlite:{tmp_path}/runs.db?synchronous=NORMAL"  # measured is not the disk

    def trial() -> float:
        answer = answer_of(tmp_path, "run", str(file), "--db", database, "--runner", runner)
        assert answer.code == 0, answer.text
        assert last in answer.text
        assert answer.megabytes <= MEGABYTES
        return answer.seconds

    taken, allowed = within(trial, SECONDS)
    assert taken <= allowed
