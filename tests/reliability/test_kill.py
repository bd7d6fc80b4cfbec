"""SIGKILL at any moment: nothing recorded is lost, called again or changed."""

from __future__ import annotations

import itertools
import random
import signal
import statistics
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.benchmarks.measure import within
from tests.reliability.evidence import Deaths
from tests.reliability.helpers import COUNT, KILL, RUNNERS, TEAR, Zygote
from tests.reliability.lives import Life, live, live_in, moments, new_spec, run_and_kill
from tests.reliability.workloads import Spec
from tests.scale import count, product

GROWING = ("one by one", "in batches", "in answers")
KINDS = ("layers", *GROWING, "mapped", "maps added", "people", "careful")

#: From the command to the first new node, in seconds; what a quiet machine needs.
RESUME_WITHIN = 0.5


# --- random moments -------------------------------------------------------------------------------


def _killed_often(deaths: Deaths, rng: random.Random, kills: int) -> list[Life]:
    """Complete a run whose processes are killed so often, spread over its calls; print how."""
    calls = len(deaths.work.called)

    def next_life() -> Life:
        if deaths.deaths >= kills:
            return run_and_kill(deaths.spec, rng, None)
        return run_and_kill(deaths.spec, rng, rng.randrange(0, 2 + 2 * calls // (kills + 1)))

    lives = live(deaths, next_life)
    latencies = [life.latency for life in lives[1:] if life.latency is not None]
    after = "no resume had anything left to call"
    if latencies:
        after = (
            f"resumed to the first new node in {statistics.median(latencies):.3f} s (median), "
            f"{min(latencies):.3f} s at best"
        )
    print(
        f"{deaths.spec.kind}, {deaths.spec.runner}, seed {deaths.spec.seed}: {deaths.deaths} kills,"
        f" {len(lives) - deaths.deaths} ends; {after}"
    )
    return lives


@pytest.mark.slow
@pytest.mark.row("C12", "C13", "E18")
@pytest.mark.parametrize(
    ("calls", "flush"),
    product(
        [*((runner, False) for runner in RUNNERS), ("sequential", True), ("threads", True)],
        (0.0, 0.005),
    ),
)
def test_a_run_of_200_nodes_survives_kills_at_random_moments(
    tmp_path: Path, calls: tuple[str, bool], flush: float, rng: random.Random
) -> None:
    runner, mixed = calls
    kills = count(20, least=2)
    spec, database = new_spec(
        tmp_path,
        runner=runner,
        mixed=mixed,
        nodes=200,
        layers=20,
        seed=rng.randrange(1 << 30),
        work=0.002,
        flush=flush,
        large=25,
        max_crashes=kills + 1,  # it is us who kill, no node does
    )
    _killed_often(Deaths(spec, database, tmp_path / "side"), rng, kills)


#: Kills of one run, where there are many.
KILLS = 20


def _survives(
    folder: Path, kind: str, runner: str, kills: int, rng: random.Random, **fields: object
) -> None:
    """Kill as many processes, in as many runs of a kind as that takes."""
    killed = 0
    for number in itertools.count():
        spec, database = new_spec(
            folder / f"run{number}",
            kind=kind,
            runner=runner,
            seed=rng.randrange(1 << 30),
            large=25,
            max_crashes=KILLS + 1,
            mixed=number % 2 == 1,
            **fields,
        )
        deaths = Deaths(spec, database, folder / "side")
        _killed_often(deaths, rng, min(KILLS, kills - killed))
        killed += deaths.deaths
        if killed >= kills:
            break
    print(f"{killed} kills in {number + 1} runs")


@pytest.mark.slow
@pytest.mark.row("E18", "G1", "G7")
@pytest.mark.parametrize(("runner", "kind"), product(RUNNERS, GROWING))
def test_a_run_that_grows_by_200_nodes_survives_kills_at_random_moments(
    tmp_path: Path, runner: str, kind: str, rng: random.Random
) -> None:
    _survives(tmp_path, kind, runner, count(100), rng, nodes=220, work=0.002)


@pytest.mark.slow
@pytest.mark.row("G14", "E18")
@pytest.mark.parametrize(("runner", "kind"), product(RUNNERS, ("mapped", "maps added")))
def test_mapped_nodes_survive_kills_at_random_moments(
    tmp_path: Path, runner: str, kind: str, rng: random.Random
) -> None:
    _survives(tmp_path, kind, runner, count(40), rng, nodes=160, work=0.002)


@pytest.mark.slow
@pytest.mark.row("E10", "E11", "E14", "E18")
@pytest.mark.parametrize("runner", RUNNERS)
def test_answers_and_paused_branches_survive_kills_at_random_moments(
    tmp_path: Path, runner: str, rng: random.Random
) -> None:
    size = {"nodes": count(80, least=40), "layers": count(8, least=4)}
    _survives(tmp_path, "people", runner, count(40), rng, **size, work=0.002)


def _resume_times(tmp_path: Path) -> tuple[list[float], list[float]]:
    """Return what resumes took until their first new node: on the clock, and of the processor."""
    spec, database = new_spec(tmp_path, nodes=200, layers=20, work=0.002, max_crashes=100)
    deaths = Deaths(spec, database, tmp_path / "side")
    rng = random.Random(1)
    waited: list[float] = []
    spent: list[float] = []
    for _ in range(8):
        life = run_and_kill(spec, rng, 5)
        assert life.code == -signal.SIGKILL
        resumed = bool(deaths.done)
        _, calls = deaths.after()
        if life.latency is not None and resumed:
            waited.append(life.latency)
            spent.append(calls[0].spent)
    print(
        f"first new node after {statistics.median(waited):.3f} s (median; {min(waited):.3f} at "
        f"best), {statistics.median(spent):.3f} s of the processor ({min(spent):.3f})"
    )
    return waited, spent


def test_resume_needs_half_a_second_of_the_processor(tmp_path: Path) -> None:
    _, spent = _resume_times(tmp_path)
    assert min(spent) <= RESUME_WITHIN


@pytest.mark.benchmark
def test_resume_reaches_its_first_new_node_in_half_a_second(tmp_path: Path) -> None:
    """From the start of the process."""
    taken, allowed = within(
        lambda: min(_resume_times(Path(mkdtemp(dir=tmp_path)))[0]), RESUME_WITHIN
    )
    assert taken <= allowed


# --- every write ----------------------------------------------------------------------------------

#: Nodes of the small runs, by kind.
SMALL = {"layers": 20, "mapped": 16, "maps added": 16, "people": 10, "careful": 12}


@pytest.mark.slow
@pytest.mark.row("C12", "C13", "P12")
@pytest.mark.parametrize(
    ("kind", "runner", "synchronous"),
    [("layers", runner, "NORMAL") for runner in RUNNERS]
    + [(kind, runner, "NORMAL") for kind, runner in product(KINDS[1:], RUNNERS)]
    + [(kind, runner, "FULL") for kind, runner in product(("layers", "in batches"), RUNNERS)],
)
def test_a_run_survives_a_kill_at_every_write(
    tmp_path: Path, zygote: Zygote, runner: str, kind: str, synchronous: str, rng: random.Random
) -> None:
    """At every one of the first process; after a pause there are others."""

    def spec_in(folder: Path) -> Deaths:
        spec, database = new_spec(
            folder,
            runner=runner,
            kind=kind,
            nodes=SMALL.get(kind, 12),
            options=f"?synchronous={synchronous}",
        )
        return Deaths(spec, database, tmp_path / "side")

    whole = spec_in(tmp_path / "whole")
    folder = whole.database.parent
    first = zygote.run(whole.spec, folder, mode=COUNT)
    assert first.status == 0
    lives = iter([Life(0, first.told, None)])
    live(whole, lambda: next(lives, None) or live_in(zygote, whole.spec, folder))
    assert {"w", "s", "r", "u"} <= set(first.calls)
    killed = 0
    share = 1.0 if (kind, synchronous) == ("layers", "NORMAL") else 0.2
    for nth, mode in moments(first.calls, rng, share):
        deaths = spec_in(tmp_path / f"at{nth}_{mode}")
        died = _lives_on(zygote, deaths, nth, mode)
        # Threads, and generators, do not always write the same number of times.
        assert died or runner != "sequential" or whole.work.streams, nth
        killed += died
    print(f"{kind}, {runner}, {synchronous}: {killed} kills among {len(first.calls)} calls")


def _lives_on(zygote: Zygote, deaths: Deaths, nth: int, mode: int) -> bool:
    """Let a run die at one call and complete afterwards; return whether it died."""
    folder = deaths.database.parent
    first = live_in(zygote, deaths.spec, folder, nth, mode)
    lives = iter([first])
    try:
        live(deaths, lambda: next(lives, None) or live_in(zygote, deaths.spec, folder))
    except AssertionError as error:
        error.add_note(f"killed at call {nth}, mode {mode}, in {folder}")
        raise
    return first.code == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runner", "durability"),
    [(kind, runner, "sync") for kind, runner in product(KINDS, RUNNERS)]
    + product(("in batches", "careful"), RUNNERS, ("async", "exit")),
)
def test_a_resume_survives_kills_too(
    tmp_path: Path, zygote: Zygote, runner: str, kind: str, durability: str, rng: random.Random
) -> None:
    """Die after die: each process comes a few writes further, or not at all."""
    kills, runs = 0, count(40 if kind == "layers" else 10)
    for attempt in range(runs):
        spec, database = new_spec(
            tmp_path / f"run{attempt}",
            runner=runner,
            kind=kind,
            nodes=SMALL.get(kind, 12),
            options="?synchronous=NORMAL",
            durability=durability,
            max_crashes=1000,
        )

        deaths = Deaths(spec, database, tmp_path / "side")

        def next_life(
            spec: Spec = spec, folder: Path = database.parent, deaths: Deaths = deaths
        ) -> Life:
            reach = 150 + 20 * deaths.deaths  # else a resume of many writes hardly ever ends
            return live_in(zygote, spec, folder, rng.randrange(1, reach), rng.choice((KILL, TEAR)))

        live(deaths, next_life)
        kills += deaths.deaths
    print(f"{kind}, {runner}, {durability}: {kills} kills in {runs} runs")
