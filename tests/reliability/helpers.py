"""Running victims: real processes, and children of a zygote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from tests.reliability.workloads import Spec

__all__ = [
    "COUNT",
    "FULL",
    "KILL",
    "ROOT",
    "RUNNERS",
    "TEAR",
    "Ending",
    "Zygote",
    "compile_shim",
    "popen",
]

ROOT = Path(__file__).parents[2]

RUNNERS = ("sequential", "threads", "asyncio")

#: Modes of the shim.
COUNT, KILL, TEAR, FULL = range(4)


def compile_shim(folder: Path) -> Path:
    """Compile the shim; without a C compiler the test that needs it fails."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None, "the kill tests need a C compiler: install gcc"
    target = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return target


def popen(module: str, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Any:
    """Start ``python -m module``, as a user does: with the bytecode of an earlier start."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**inherited, **(env or {})},
        text=True,
        **more,
    )


@attrs.frozen
class Ending:
    """How a victim ended.

    Attributes:
        status: Its exit code, or minus the signal that ended it.
        calls: A letter for each call that the shim counted; empty when it was killed.
        told: The run's status, or the error.
        process: Its id.
    """

    status: int
    calls: str
    told: str
    process: int


class Zygote:
    """Makes victims quickly; see `tests.reliability.zygote`.

    Args:
        shim: The compiled shim.
    """

    def __init__(self, shim: Path) -> None:
        self._process = popen(
            "tests.reliability.zygote",
            env={"LD_PRELOAD": str(shim)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, spec: Spec, folder: Path, nth: int = 0, mode: int = COUNT) -> Ending:
        """Let a victim run to its end, by itself or by the shim."""
        order = {"spec": attrs.asdict(spec), "folder": str(folder), "nth": nth, "mode": mode}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the zygote died"
        return Ending(**json.loads(line))

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
