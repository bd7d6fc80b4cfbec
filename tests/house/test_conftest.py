"""The suite's own options: what they promise is checked like any other promise."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REQUIRED_ROWS, expand_rows
from tests.scale import SCALE_VARIABLE, count, product

ROOT = Path(__file__).parents[2]


def run_pytest(*options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest by itself, without what `PYTEST_ADDOPTS` tells the one that runs this test."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_expand_rows_keeps_order_and_single_rows() -> None:
    assert expand_rows("A1-A3 B7") == ["A1", "A2", "A3", "B7"]


def test_required_rows_are_distinct_and_leave_out_what_comes_later() -> None:
    rows = expand_rows(REQUIRED_ROWS)
    assert len(rows) == len(set(rows)) > 0
    assert "F1" not in rows


def test_a_malformed_row_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="'7A' is not a checklist row"):
        expand_rows("7A")


@pytest.mark.parametrize(("scale", "expected"), [("0.1", 200), ("1.0", 2000), ("0.0001", 5)])
def test_count_scales_but_keeps_the_least(
    monkeypatch: pytest.MonkeyPatch, scale: str, expected: int
) -> None:
    monkeypatch.setenv(SCALE_VARIABLE, scale)
    assert count(2_000, least=5) == expected


def test_a_product_is_whole_in_full_runs_and_has_every_value_in_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SCALE_VARIABLE, "1.0")
    assert product("ab", (1, 2, 3)) == [(a, n) for a in "ab" for n in (1, 2, 3)]
    monkeypatch.setenv(SCALE_VARIABLE, "0.1")
    assert product("ab", (1, 2, 3)) == [("a", 1), ("b", 2), ("a", 3)]


def test_global_random_is_seeded_per_test(request: pytest.FixtureRequest, seed: int) -> None:
    assert random.random() == random.Random(f"{seed} {request.node.nodeid}").random()


def test_rows_names_covering_tests_and_fails_while_some_are_missing(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n  row(*ids): rows\ntimeout = 60\n", encoding="utf-8"
    )
    (tmp_path / "test_one.py").write_text(
        "import pytest\n@pytest.mark.row('A7', 'Z99')\ndef test_seven(): assert False\n",
        encoding="utf-8",
    )
    options = ["-p", "tests.conftest", "--rows", "-n", "2", "--rootdir", str(tmp_path)]
    done = run_pytest(*options, "-c", str(tmp_path / "pytest.ini"), str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_one.py::test_seven" in done.stdout
    assert "Z99" in done.stdout
    required = len(expand_rows(REQUIRED_ROWS))
    assert f"1 of {required} required rows covered" in done.stdout
    assert "A7 " not in done.stdout.rpartition("uncovered:")[2]


def test_shares_are_disjoint_and_make_the_whole() -> None:
    def collected(*options: str) -> list[str]:
        done = run_pytest("--collect-only", "-q", "tests/retry", "tests/registry", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    first, second = collected("--share", "1/2"), collected("--share", "2/2")
    assert first
    assert second
    assert sorted(first + second) == sorted(collected())
    refused = run_pytest("--collect-only", "-q", "tests/retry", "--share", "3/2")
    assert "--share is K/N" in refused.stderr + refused.stdout
