"""``init``: a small project that runs: a pipeline, its test, and the lines that try it."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dagger_dsl.cli.common import OK
from dagger_dsl.cli.screen import Screen
from dagger_dsl.errors import ConfigurationError, visible

__all__ = ["FILES", "init"]

_PIPELINE: Final = '''\
"""Three steps: readings are fetched, cleaned and summed up.

    dagger-dsl run pipeline.py -i count=8
"""

from dagger_dsl import DAG, NodeCtx, RetryPolicy, action


@action(retry=RetryPolicy(max_attempts=3, base_delay=0.5))
def fetch(count: int, ctx: NodeCtx) -> list[float]:
    """Return readings. The first attempt fails, as networks do now and then."""
    if ctx.attempt == 1:
        raise ConnectionError("the sensor did not answer")
    return [20.0 + n % 5 for n in range(count)] + [-999.0]


@action
def clean(readings: list[float]) -> list[float]:
    """Leave out what the sensor writes when it has no reading."""
    return [each for each in readings if each > -273.15]


@action
def summarise(readings: list[float]) -> dict[str, float]:
    """Return the number of the readings, their mean and the highest one."""
    return {
        "count": len(readings),
        "mean": sum(readings) / len(readings),
        "highest": max(readings),
    }


with DAG("readings") as dag:
    count = dag.input("count", int, default=5, description="how many readings to fetch")
    summarise(clean(fetch(count)))
'''

_TEST: Final = '''\
"""Steps are functions, so they are called; a whole run takes no time, retries included."""

from dagger_dsl.testing import play
from pipeline import clean, dag


def test_what_is_no_reading_is_left_out() -> None:
    assert clean([21.5, -999.0]) == [21.5]


def test_the_sensor_is_asked_again() -> None:
    report = play(dag, {"count": 8})
    assert report.success
    assert report.node_reports["fetch"].attempts == 2
    assert report.value("summarise")["count"] == 8
'''

_README: Final = """\
# readings

A workflow of three steps in [pipeline.py](pipeline.py), and its test.

```sh
dagger-dsl run pipeline.py -i count=8 --run-id r1   # fetch fails once and is tried again
dagger-dsl logs r1                                  # what happened, in order
python -m pytest                                    # no waiting: the clock is the test's
```

Runs are recorded in `dagger_dsl.db`. One that was interrupted goes on where it was:

```sh
dagger-dsl resume r1 --actions pipeline.py
```
"""

_IGNORED: Final = """\
__pycache__/
.pytest_cache/
.venv/
# what runs have recorded
dagger_dsl.db*
"""

#: What is written, by name.
FILES: Final[Mapping[str, str]] = {
    "pipeline.py": _PIPELINE,
    "test_pipeline.py": _TEST,
    "README.md": _README,
    ".gitignore": _IGNORED,
}


def init(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write a small project into a folder in which none of its files is yet."""
    if not arguments.folder:  # of a shell's variable that is not set, say
        raise ConfigurationError("the folder has an empty name; name one, or '.' for this one")
    folder = Path(arguments.folder)
    try:
        _refuse(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            # Exclusively: a file that came just now is not overwritten either.
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        path = visible(str(error.filename or folder), 200)
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror or error}; name another folder"
        ) from error
    paths = [str(folder / name) for name in FILES]
    if screen.as_json:
        screen.json({"folder": str(folder), "written": paths})
        return OK
    for path in paths:
        screen.result(f"written: {path}")
    screen.result("next:")
    if arguments.folder != os.curdir:
        screen.result(f"  cd {shlex.quote(arguments.folder)}")
    screen.result("  dagger-dsl run pipeline.py -i count=8 --run-id r1")
    screen.result("  dagger-dsl logs r1")
    screen.result("  python -m pytest")
    return OK


def _refuse(folder: Path) -> None:
    """Refuse a folder that is none, or has one of the files.

    Raises:
        ConfigurationError: Nothing was written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder; name one, or a new one")
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if there:
        raise ConfigurationError(
            f"{', '.join(str(folder / name) for name in there)} "
            f"{'is' if len(there) == 1 else 'are'} there already and not overwritten; "
            "name another folder: dagger-dsl init FOLDER"
        )
