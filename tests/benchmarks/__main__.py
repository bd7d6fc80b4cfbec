"""One command, one table: what a node costs here and in loops written by hand.

    python -m tests.benchmarks [--n 1000] [--only TEXT] [--best] [--check]

Ratios decide; microseconds are for scale. Every ratio is taken from trials interleaved in this
run. Databases are files; both sides open theirs and write a row before the clock starts and close
it afterwards, except in the rows that say so. `--check` exits with 1 when a row is over its bound.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from tests.benchmarks import by_hand, jobs, machines, messages, ours
from tests.benchmarks.measure import MOST, Trial, interleaved
from tests.benchmarks.shapes import SHAPES, Shape

ROOT = Path(__file__).parents[2]
SIZES = (1_000, 100_000)
ITEMS = 10_000
CLAIMS = 300
LEAST = 30
Make = Callable[[], Trial]
Pick = Callable[[list[float]], float]


@attrs.frozen(kw_only=True)
class Bound:
    """What a row may cost at most; every limit that is given holds.

    Args:
        ratio: Ours over the hand-written loop.
        us: Microseconds a node.
        at: What the hand-written loop cost on the machine that the microseconds are from; on a
            slower one they are as many more.
    """

    ratio: float | None = None
    us: float | None = None
    at: float | None = None

    def holds(self, row: Row) -> bool | None:
        """Return whether the row is within the bound; None where nothing was bounded."""
        if row.ours is None or (self.ratio is None and self.us is None):
            return None
        ratio_fits = self.ratio is None or (row.ratio is not None and row.ratio <= self.ratio)
        if self.us is None:
            return ratio_fits
        slower = max(1.0, row.hand / self.at) if row.hand and self.at else 1.0
        return ratio_fits and row.ours <= self.us * slower

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:g}x"
        us = "" if self.us is None else f"{self.us:g} us"
        us += "" if self.at is None else f" at {self.at:g}"
        return ", ".join(filter(None, (ratio, us)))


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table; costs in microseconds a node, None where not measured."""

    path: str
    n: int
    shape: str
    ours: float | None
    hand: float | None
    bound: Bound = Bound()

    @property
    def ratio(self) -> float | None:
        """Ours over by hand."""
        return None if self.ours is None or not self.hand else self.ours / self.hand


@attrs.frozen(kw_only=True)
class Case:
    """A path and a shape to measure.

    Args:
        over: Pairs of trials whose difference counts: what `async` durability adds to a run in
            memory, for example.
        repeats: Measured rounds at least.
    """

    path: str
    shape: Shape
    n: int
    ours: Make | None
    hand: Make | None
    over: tuple[Make, Make] | None = None
    bound: Bound = Bound()
    repeats: int = 5

    def measure(self, pick: Pick) -> Row:
        """Run the trials in turns and return the picked cost per node."""
        makes: dict[str, Make | None] = {"ours": self.ours, "hand": self.hand}
        if self.over is not None:
            makes |= {"ours base": self.over[0], "hand base": self.over[1]}
        trials = {name: make() for name, make in makes.items() if make is not None}
        seconds = interleaved(trials, self.repeats, pick)

        def cost(name: str) -> float | None:
            if name not in seconds:
                return None
            taken = seconds[name] - seconds.get(f"{name} base", 0.0)
            return taken / len(self.shape.ids) * 1e6

        return Row(
            path=self.path,
            n=self.n,
            shape=self.shape.name,
            ours=cost("ours"),
            hand=cost("hand"),
            bound=self.bound,
        )


def memory_cases(shape: Shape, n: int) -> Iterator[Case]:
    """Yield what runs without a database."""
    chained = shape.name == "chain"
    loop = partial(by_hand.graphlib_loop, shape)
    pool = partial(by_hand.graphlib_pool, shape, 4)
    tasks = partial(by_hand.asyncio_tasks, shape)
    mine = partial(ours.run, shape)
    for path, run, hand, bound in (
        ("sequential", partial(mine, "sequential"), loop, Bound(ratio=0.7)),
        ("sequential, one hook", partial(mine, "sequential", hook="given"), loop, Bound(ratio=1.0)),
        (
            "sequential, hook on one event",
            partial(mine, "sequential", hook="registered"),
            loop,
            Bound(ratio=1.0),
        ),
        (
            "threads, 4 slots",
            partial(mine, "threads", max_workers=4),
            pool,
            Bound(ratio=0.5, us=6 if chained else None),
        ),
        (
            "asyncio, async functions",
            partial(mine, "asyncio", functions="async"),
            tasks,
            Bound(ratio=1.5),
        ),
        (
            "asyncio, sync functions",
            partial(mine, "asyncio"),
            partial(tasks, sync_functions=True),
            Bound(ratio=0.75),
        ),
    ):
        yield Case(path=path, shape=shape, n=n, ours=run, hand=hand, bound=bound)


def shown_cases() -> Iterator[Case]:
    """Yield what a live display costs; `hand` is the same run without one."""
    shape = SHAPES["chain"](ITEMS)
    for kind in ("lines", "bar"):
        yield Case(
            path=f"shown live, {kind}",
            shape=shape,
            n=ITEMS,
            ours=partial(ours.shown, shape, kind),
            hand=partial(ours.shown, shape, None),
            bound=Bound(ratio=1.02),
            repeats=MOST,
        )


def durable_cases(shape: Shape, n: int, folder: Path) -> Iterator[Case]:
    """Yield what runs on a file database."""
    chained, large = shape.name == "chain", n > SIZES[0]
    for level in ("FULL", "NORMAL"):
        case = partial(Case, shape=shape, n=n, repeats=_durable_repeats(chained, large, level))
        mine = partial(ours.with_database, shape, folder, synchronous=level)
        ready_set = partial(by_hand.commit_per_ready_set, shape, folder, level)
        one, four = _durable_bounds(shape.name, level)
        yield case(
            path=f"sync {level}, sequential",
            ours=partial(mine, "sequential", "sync"),
            hand=ready_set,
            bound=one,
        )
        yield case(
            path=f"sync {level}, threads",
            ours=partial(mine, "threads", "sync", max_workers=4),
            hand=ready_set,
            bound=four,
        )
        yield case(
            path=f"async {level}, over memory",
            ours=partial(mine, "sequential", "async"),
            hand=partial(by_hand.batch_writer, shape, folder, level),
            over=(partial(ours.run, shape, "sequential"), partial(by_hand.graphlib_loop, shape)),
            bound=Bound(us=6, at=2.5),
        )
        if not large:
            yield case(
                path=f"by hand: commit a node, {level}",
                ours=None,
                hand=partial(by_hand.commit_per_node, shape, folder, level),
            )
            yield case(
                path=f"sync {level}, opening too",
                ours=partial(mine, "sequential", "sync", open_too=True),
                hand=partial(ready_set, open_too=True),
            )


def map_cases(folder: Path) -> Iterator[Case]:
    """Yield what an item of a mapped node costs; `hand` is a plain node of ours, not a loop."""
    shape = SHAPES["fan"](ITEMS)
    case = partial(Case, shape=shape, n=ITEMS, bound=Bound(ratio=2))
    for runner, workers in (("sequential", 1), ("threads", 4), ("asyncio", 4)):
        options: dict[str, Any] = {"runner": runner, "max_workers": workers}
        yield case(
            path=f"map over nodes, {runner}",
            ours=partial(ours.map_in_memory, ITEMS, **options),
            hand=partial(ours.run, shape, **options),
        )
        for level in ("FULL", "NORMAL"):
            yield case(
                path=f"map over nodes, sync {level}, {runner}",
                ours=partial(ours.map_on_file, ITEMS, folder, level, **options),
                hand=partial(
                    ours.with_database,
                    shape,
                    folder,
                    durability="sync",
                    synchronous=level,
                    **options,
                ),
            )


def growing_cases(n: int) -> Iterator[Case]:
    """Yield what a node costs that a hook adds."""
    for batch, shape in ((1, SHAPES["chain"](n)), (100, SHAPES["fan"](n - 2))):
        for runner in ("sequential", "threads", "asyncio"):
            yield Case(
                path=f"added by a hook, {batch} at a time, {runner}",
                shape=shape,
                n=n,
                ours=partial(ours.grow, n, batch, runner),
                hand=None,
            )


def machine_cases(n: int, folder: Path) -> Iterator[Case]:
    """Yield what a step of a state machine costs over the bare calls of its states."""
    shape = SHAPES["chain"](n)
    bare = partial(machines.bare, n)
    case = partial(Case, shape=shape, n=n)
    for runner in ("sequential", "threads", "asyncio"):
        yield case(
            path=f"machine, {runner}, over bare calls",
            ours=partial(machines.in_memory, n, runner),
            hand=partial(by_hand.graphlib_loop, shape),
            over=(bare, bare),
            bound=Bound(us=2, at=1.8) if runner == "sequential" else Bound(),
        )
    for durability, level, bound in (
        ("async", "FULL", Bound(us=12, at=20)),
        ("sync", "NORMAL", Bound(us=40, at=20)),
        ("sync", "FULL", Bound(ratio=1.3)),
    ):
        hand = "NORMAL" if durability == "async" else level
        yield case(
            path=f"machine, {durability} {level}",
            ours=partial(machines.in_database, n, folder, durability, level),
            hand=partial(by_hand.commit_per_node, shape, folder, hand),
            bound=bound,
            repeats=_durable_repeats(True, n > SIZES[0], hand),
        )


def job_cases(n: int, folder: Path) -> Iterator[Case]:
    """Yield what a task costs, from adding it to its recorded result."""
    shape = SHAPES["fan"](n)
    case = partial(Case, shape=shape, n=n, repeats=5)
    for level, us in (("NORMAL", 100), ("FULL", 300)):
        hand = partial(jobs.queue_by_hand, n, folder, level)
        yield case(
            path=f"tasks {level}, one worker",
            ours=partial(jobs.in_threads, n, folder, level),
            hand=hand,
            bound=Bound(us=us),
        )
        yield case(
            path=f"tasks {level}, four processes",
            ours=partial(jobs.in_processes, n, folder, level),
            hand=hand,
            bound=Bound(us=150) if level == "NORMAL" else Bound(),
        )
    yield case(
        path="tasks added in one batch",
        ours=partial(jobs.enqueued, n, folder, "NORMAL"),
        hand=None,
        bound=Bound(us=20),
    )
    yield Case(
        path="tasks claimed, 100,000 wait",
        shape=SHAPES["fan"](CLAIMS),
        n=CLAIMS,
        ours=partial(jobs.claims, CLAIMS, folder, SIZES[1]),
        hand=partial(jobs.claims, CLAIMS, folder, CLAIMS),
        bound=Bound(ratio=1.5),
        repeats=3,
    )


def message_cases(n: int, folder: Path) -> Iterator[Case]:
    """Yield what a message costs: to several agents in memory, and to one with a database."""
    case = partial(Case, shape=SHAPES["fan"](n), n=n)
    yield case(
        path=f"messages to {messages.SUBSCRIBERS} agents",
        ours=partial(messages.in_memory, n),
        hand=partial(messages.queues, n),
        bound=Bound(ratio=1.5),
    )
    yield case(
        path="messages FULL, one agent",
        ours=partial(messages.durable, n, folder, "FULL"),
        hand=partial(messages.table, n, folder, "FULL"),
        bound=Bound(us=60, at=4),
    )


def _durable_repeats(chained: bool, large: bool, level: str) -> int:
    # A chain of 100,000 synced commits takes half a minute; one repetition shows its scale.
    if large:
        return 1 if chained and level == "FULL" else 3
    return 11 if chained and level == "FULL" else 5


def _durable_bounds(shape: str, level: str) -> tuple[Bound, Bound]:
    """Return the bounds of `sync` runs: sequential, and with four threads."""
    if level == "FULL":
        if shape == "chain":
            return Bound(ratio=1.3), Bound(ratio=1.3)
        return Bound(ratio=2), Bound(us=20, at={"fan": 3.0, "layers": 6.0}[shape])
    if shape == "chain":
        return Bound(us=30, at=17), Bound(us=35, at=17)
    at = {"fan": 2.0, "layers": 3.0}[shape]
    return Bound(us=8, at=at), Bound(us=15, at=at)


def build_cases(shape: Shape, n: int) -> Iterator[Case]:
    """Yield what happens before a run; the bounds are for 100,000 nodes: 2.5 s and 1.2 s."""
    for path, part, us in (
        ("build, compile, validate", "all", 25.0),
        ("compile, validate", "compile", 12.0),
    ):
        yield Case(
            path=path,
            shape=shape,
            n=n,
            ours=partial(ours.build_compile_validate, shape, part),
            hand=None,
            bound=Bound(us=us) if n >= SIZES[1] else Bound(),
        )


def growth_rows(rows: list[Row]) -> Iterator[Row]:
    """Yield how much dearer a node is in the largest graphs than in the smallest.

    `ours` and `hand` hold growth factors here, not microseconds.
    """
    by_key = {(row.path, row.shape, row.n): row for row in rows}
    for small in rows:
        large = by_key.get((small.path, small.shape, SIZES[1]))
        if small.n != SIZES[0] or large is None or not _in_memory(small.path):
            continue
        threads = small.path.startswith("threads")
        yield Row(
            path=f"growth: {small.path}",
            n=large.n,
            shape=small.shape,
            ours=large.ours / small.ours if large.ours and small.ours else None,
            hand=large.hand / small.hand if large.hand and small.hand else None,
            bound=Bound(ratio=1.5) if threads else Bound(us=2.5),
        )


def _in_memory(path: str) -> bool:
    return path.startswith(("sequential", "threads", "asyncio"))


def import_rows(pick: Pick) -> tuple[Row, list[str]]:
    """Measure the import in fresh interpreters; costs are milliseconds."""
    trials = {"bare": ours.bare_import("pass"), "import": ours.bare_import(ours.IMPORT)}
    seconds = interleaved(trials, 11, pick)
    over = (seconds["import"] - seconds["bare"]) * 1e3
    row = Row(path="import over bare (ms)", n=1, shape="-", ours=over, hand=None)
    return attrs.evolve(row, bound=Bound(us=50)), ours.forbidden_imports()


def cases(sizes: list[int], folder: Path) -> Iterator[Case]:
    """Yield every case in the order of the table."""
    for n in sizes:
        for make in SHAPES.values():
            shape = make(n)
            yield from memory_cases(shape, n)
            yield from durable_cases(shape, n, folder)
            yield from build_cases(shape, n)
        if n <= ITEMS:
            yield from growing_cases(n)
        yield from machine_cases(n, folder)
    yield from map_cases(folder)
    yield from job_cases(ITEMS, folder)
    yield from message_cases(ITEMS, folder)
    yield from shown_cases()


def print_table(rows: list[Row], console: Console, what: str) -> None:
    """Print the rows, microseconds a node unless a row says otherwise."""
    table = Table(
        title=f"Cost of a node (us), {what} of interleaved runs",
        caption="Both sides open their database and write a row before the clock starts; "
        "'opening too' counts that. '6 us at 2.5': where the loop by hand costs 2.5 us. "
        "'map over nodes': an item of a mapped node; by hand is a plain node of ours. "
        "'tasks claimed': by hand is ours, too, where few wait. "
        f"'messages to {messages.SUBSCRIBERS} agents': by hand is a queue for each. "
        "'shown live': by hand is the same run without a display.",
    )
    for name in ("path", "shape"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "ours", "by hand", "ratio", "bound", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        verdict = {None: "", True: "[green]OK[/green]", False: "[red]OVER[/red]"}
        table.add_row(
            row.path,
            row.shape,
            f"{row.n:,}",
            _number(row.ours),
            _number(row.hand),
            _number(row.ratio),
            _bound_text(row),
            verdict[row.bound.holds(row)],
        )
    console.print(table)


def _bound_text(row: Row) -> str:
    text = str(row.bound)
    if row.path.startswith("growth"):
        return text.replace(" us", "x alone")
    return text.replace("us", "ms") if row.path.startswith("import") else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _size(text: str) -> int:
    """Return a number of nodes: ten layers of at least three, or there are no layers to draw."""
    if not text.isdecimal() or int(text) < LEAST:
        raise argparse.ArgumentTypeError(f"a graph has at least {LEAST} nodes, not {text}")
    return int(text)


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--n", type=_size, action="append", help="a size (default: 1,000 and 100,000)"
    )
    parser.add_argument("--only", default="", help="measure the paths that contain this text")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a row is over")
    parser.add_argument(
        "--best",
        action="store_true",
        help="the fastest round instead of the median: nearer to the truth on a busy machine",
    )
    options = parser.parse_args()
    pick: Pick = min if options.best else median
    # A dozen columns must not be folded because the output is a log.
    console = Console(width=max(110, shutil.get_terminal_size().columns))
    console.print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.machine()}"
    )
    progress = Console(stderr=True, style="dim")
    rows: list[Row] = []
    # Beside the checkout and not in /tmp, which may be memory where syncing costs nothing.
    with tempfile.TemporaryDirectory(prefix=".venv-bench-", dir=ROOT) as folder:
        for case in cases(options.n or list(SIZES), Path(folder)):
            if options.only in case.path:
                row = case.measure(pick)
                rows.append(row)
                progress.print(f"{row.path}, {row.shape}, {row.n:,}: done")
    rows += growth_rows(rows)
    loaded: list[str] = []
    if options.only in "import":
        row, loaded = import_rows(pick)
        rows.append(row)
    print_table(rows, console, "fastest" if options.best else "medians")
    if loaded:
        console.print(f"[red]OVER[/red]: importing dagger_dsl loads {', '.join(loaded)}")
    over = bool(loaded) or any(row.bound.holds(row) is False for row in rows)
    return 1 if options.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
