"""Options and fixtures for every test: checklist rows, scale of large counts, random seed.

* `pytest --rows` runs nothing; it prints which checklist rows have a test, by the marker
  `@pytest.mark.row("A7", "A8")`, and exits with 1 while a required row has none.
* `--scale 0.1` (default) and `--full` (1.0) set the size of large counts; tests use the `scale`
  fixture or `tests.scale.count`.
* `--share K/N` runs the K-th of N shares of the test files, the same ones each time.
* `--seed N` fixes every random choice; the header names the seed of each run.
"""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from rich.console import Console
from rich.table import Table

from tests.scale import DEFAULT_SCALE, SCALE_VARIABLE, count

# The acceptance list of the core, of hooks, growth and control, of what document 002 promises, of
# what people look at, and of task agents: every one of these rows has a test.
REQUIRED_ROWS = """
    A1-A56 B1-B49 C1-C43 D1-D28 E1-E27 G1-G16 H1-H25 I1-I35 J1-J12 K1-K34 L1-L13 M1-M25 N1-N8
    O1-O6 P1-P16 Q1-Q8 R1-R10
"""

#: How much longer tests may take with their whole counts: slow ones, and all others.
SLOW_TIMEOUT_FACTOR = 10
WHOLE_TIMEOUT_FACTOR = 4

_ROW = re.compile(r"([A-Z])(\d+)")


def expand_rows(text: str) -> list[str]:
    """Return the row names of a list such as `A1-A3 B7`, in its order."""
    rows = []
    for part in text.split():
        first, _, last = part.partition("-")
        letter, start = _row_key(first)
        end = _row_key(last)[1] if last else start
        rows += [f"{letter}{number}" for number in range(start, end + 1)]
    return rows


def _row_key(row: str) -> tuple[str, int]:
    match = _ROW.fullmatch(row)
    if match is None:
        raise pytest.UsageError(f"{row!r} is not a checklist row such as 'A7'")
    return match[1], int(match[2])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of this suite."""
    group = parser.getgroup("dagger_dsl")
    group.addoption(
        "--rows", action="store_true", help="print the covered checklist rows and run nothing"
    )
    group.addoption("--scale", type=float, help=f"factor on large counts (default {DEFAULT_SCALE})")
    group.addoption("--full", action="store_true", help="the whole counts: --scale 1.0")
    group.addoption("--share", help="K/N: only the test files that fall into the K-th of N shares")
    group.addoption("--seed", type=int, help="seed of every random choice (default: a new one)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep `--rows` in one process, whatever `-n` says: workers would collect but not report."""
    if config.option.rows and hasattr(config.option, "numprocesses"):
        config.option.numprocesses = None
        config.option.dist = "no"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Settle scale and seed before hypothesis reads its own and before tests are imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts in the background so, and whatever a test starts inherits it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    option = config.option
    if option.scale is None:
        option.scale = 1.0 if option.full else DEFAULT_SCALE
    if not option.scale > 0:
        raise pytest.UsageError(f"--scale must be above 0, not {option.scale}")
    if option.share:
        number, _, total = option.share.partition("/")
        if not (number.isdecimal() and total.isdecimal() and 0 < int(number) <= int(total)):
            raise pytest.UsageError(f"--share is K/N, such as 1/2, not {option.share!r}")
    os.environ[SCALE_VARIABLE] = repr(option.scale)
    if option.seed is None:
        # xdist hands the options to its workers, so they get this seed and draw none.
        option.seed = random.SystemRandom().randrange(2**32)
    if config.getoption("--hypothesis-seed") is None:
        option.hypothesis_seed = str(option.seed)
    hypothesis.settings.register_profile(
        "scaled", deadline=None, print_blob=True, max_examples=count(1_000)
    )
    hypothesis.settings.load_profile("scaled")


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat this very run."""
    return f"dagger_dsl: repeat with --seed {config.option.seed} --scale {config.option.scale:g}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave other shares' files alone: to import a file costs more than most of its tests."""
    if not config.option.share or not collection_path.name.startswith("test_"):
        return None
    number, total = map(int, config.option.share.split("/"))
    path = collection_path.relative_to(config.rootpath).as_posix()
    return zlib.crc32(path.encode()) % total != number - 1 or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give slow tests longer where they do whole counts."""
    if config.option.scale < 1 or not config.getini("timeout"):
        return
    limit = float(config.getini("timeout"))
    for item in items:
        if not item.get_closest_marker("timeout"):
            factor = (
                SLOW_TIMEOUT_FACTOR if item.get_closest_marker("slow") else WHOLE_TIMEOUT_FACTOR
            )
            item.add_marker(pytest.mark.timeout(limit * factor))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what stands until the end out of the garbage collector's sight.

    Twelve thousand tests are half a second to look through, and hundreds of tests collect.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Under `--rows`, report instead of running; collection errors stay pytest's to report."""
    if not session.config.option.rows or session.testsfailed:
        return None
    covered = _tests_by_row(session.items)
    required = expand_rows(REQUIRED_ROWS)
    session.config.stash[_UNCOVERED] = [row for row in required if row not in covered]
    _print_rows(covered, required)
    return True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn uncovered rows into the exit status."""
    if session.config.option.rows and not session.testsfailed:
        uncovered = session.config.stash.get(_UNCOVERED, [])
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if uncovered else pytest.ExitCode.OK


_UNCOVERED = pytest.StashKey[list[str]]()


def _tests_by_row(items: list[pytest.Item]) -> dict[str, list[str]]:
    """Return `{row: names of its tests}`; the cases of a parametrised test count as one."""
    tests: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for item in items:
        for marker in item.iter_markers("row"):
            if not marker.args or not all(isinstance(row, str) for row in marker.args):
                raise pytest.UsageError(f"{item.nodeid}: row() takes names such as 'A7'")
            for row in marker.args:
                _row_key(row)
                tests[row][item.nodeid.partition("[")[0]] = None
    return {row: list(names) for row, names in tests.items()}


def _print_rows(covered: dict[str, list[str]], required: list[str]) -> None:
    table = Table(title="Checklist rows and their tests")
    table.add_column("row", no_wrap=True)
    table.add_column("tests", overflow="fold")
    for row in [*required, *sorted(set(covered) - set(required), key=_row_key)]:
        table.add_row(row, "\n".join(covered.get(row, ["[red]none[/red]"])))
    uncovered = [row for row in required if row not in covered]
    console = Console()
    console.print()
    console.print(table)
    console.print(f"{len(required) - len(uncovered)} of {len(required)} required rows covered")
    if uncovered:
        console.print(f"uncovered: {' '.join(uncovered)}")


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> float:
    """The factor on large counts: 1.0 with `--full`."""
    return float(pytestconfig.option.scale)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run, as the header prints it."""
    return int(pytestconfig.option.seed)


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> random.Random:
    """A generator of the test's own, so that its draws do not depend on what ran before it."""
    return random.Random(f"{seed} {request.node.nodeid}")


@pytest.fixture(autouse=True)
def _seed_global_random(request: pytest.FixtureRequest, seed: int) -> Iterator[None]:
    """Seed the module-level generator too: libraries, tenacity's jitter among them, draw there."""
    state = random.getstate()
    random.seed(f"{seed} {request.node.nodeid}")
    yield
    random.setstate(state)
