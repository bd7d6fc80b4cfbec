"""DOT into files and pictures. Pictures are drawn by Graphviz's program `dot`, when it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from dagger_dsl.errors import ConfigurationError, VisualizationUnavailable
from dagger_dsl.views.clean import first_line

__all__ = ["FORMATS", "render", "save_dot"]

#: What `render` can write, by file ending.
FORMATS: Final = ("svg", "png", "pdf", "dot", "json")

#: Seconds that a drawing may take; layouts of many thousand nodes need for ever.
LIMIT: Final = 120.0


def save_dot(text: str, path: str | os.PathLike[str]) -> Path:
    """Write DOT text to a file and return its path."""
    target = Path(path)
    target.write_text(text, encoding="utf-8", newline="\n")
    return target


def render(text: str, path: str | os.PathLike[str], format: str | None = None) -> Path:
    """Draw DOT text with Graphviz and return the picture's path.

    Args:
        text: The DOT.
        path: The file to write.
        format: One of `FORMATS`; by default the path's ending.

    Raises:
        ConfigurationError: The format is none of them.
        VisualizationUnavailable: Graphviz is not installed, or could not draw this.
    """
    target = Path(path)
    kind = (format or target.suffix.removeprefix(".")).lower()
    if kind not in FORMATS:
        raise ConfigurationError(
            f"a picture's format is one of {', '.join(FORMATS)}, not {kind!r}; "
            "give format=, or a path with such an ending"
        )
    target.write_bytes(_draw(text, kind))
    return target


def _draw(text: str, kind: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise VisualizationUnavailable(
            "drawing needs Graphviz, and its program 'dot' is not on the PATH; install it "
            "(apt install graphviz, brew install graphviz), or use save_dot(), which needs nothing"
        )
    try:
        done = subprocess.run(
            [program, f"-T{kind}"],
            input=text.encode(),
            capture_output=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VisualizationUnavailable(
            f"Graphviz did not finish within {LIMIT:g} s; draw a smaller graph, or use save_dot()"
        ) from None
    except OSError as error:
        raise VisualizationUnavailable(
            f"Graphviz ({program}) cannot be started: {error}"
        ) from error
    if done.returncode:
        said = first_line(done.stderr.decode(errors="replace"))
        raise VisualizationUnavailable(f"Graphviz could not draw this graph: {said}")
    return done.stdout
