"""What the tests of the agents share: importing them, killing them, and reading what is left."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from dagger_dsl import Registry, Store

__all__ = [
    "EXAMPLES",
    "ROOT",
    "RUNNERS",
    "checked",
    "completed",
    "imported",
    "killed",
    "outside",
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: Shared by all that are checked; a cold one takes ten seconds.
_CACHE = ROOT / ".mypy_cache" / "examples"
RUNNERS = ["sequential", "threads", "asyncio"]


@contextmanager
def imported(folder: Path, name: str = "agent") -> Iterator[ModuleType]:
    """Import a module of an example by the name it uses, into a registry of its own."""
    sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        with Registry():
            yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)


def outside(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run something in a folder, with the command `dagger-dsl` on its path."""
    commands = folder / ".bin"
    commands.mkdir(exist_ok=True)
    command = commands / "dagger-dsl"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom dagger_dsl.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return subprocess.run(
        words,
        cwd=folder,
        env={"PATH": f"{commands}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def killed(folder: Path, script: str, *arguments: object) -> bool:
    """Run Python in a process that kills itself; return whether it came to that."""
    done = outside(folder, sys.executable, "-c", script, *map(str, arguments))
    assert done.returncode in (0, -9), done.stdout + done.stderr
    return done.returncode == -9


def completed(url: str, run_id: str) -> dict[str, int]:
    """Return the calls that were made of each node of a run that has completed."""
    with Store(url) as store:
        rows = store.query(
            "SELECT node_id, invocation_key, max(attempt) AS calls FROM node_runs WHERE run_id = ?"
            " GROUP BY node_id, invocation_key HAVING max(state = 'completed')",
            (run_id,),
        )
    return {f"{row['node_id']} {row['invocation_key']}": row["calls"] for row in rows}


def checked(folder: Path, *names: str) -> str:
    """Return what mypy has to say of modules of an example; nothing is right."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--no-error-summary",
                "--explicit-package-bases",
            ),
            *("--config-file", "", "--follow-imports", "silent", "--cache-dir", str(_CACHE)),
            *names,
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
