"""`python -m tests.acceptance.command PEAK ...` is `dagger-dsl ...`, wherever the package is.

At its end it writes to the file PEAK how many kilobytes the process held at most. The kernel's own
figure for a child that has ended counts its parent too, between fork and exec.
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

from dagger_dsl.cli import main


def write_peak(path: str) -> None:
    """Write the peak of this process to a file."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            Path(path).write_text(value.split()[0], encoding="ascii")


if __name__ == "__main__":
    atexit.register(write_peak, sys.argv[1])
    sys.exit(main(sys.argv[2:]))
