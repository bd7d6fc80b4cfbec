"""DOT into files and pictures. Pictures are drawn by Graphviz's program `dot`, when it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, VisualizationUnavailable, shown
from dagger_dsl.model.text import first_line

__all__ = ["FORMATS", "render", "save_dot", "write_file"]

#: What `render` can write, by file ending.
FORMATS: Final = ("svg", "png", "pdf", "dot", "json")

#: Seconds that a drawing may take; layouts of many thousand nodes need for ever.
LIMIT: Final = 120.0


def save_dot(text: str, path: str | os.PathLike[str]) -> Path:
    """Write DOT text to a file and return its path.

    Raises:
        ConfigurationError: There can be no such file.
    """
    return _write(_path(path), text.encode("utf-8"))


def render(text: str, path: str | os.PathLike[str], format: str | None = None) -> Path:
    """Draw DOT text with Graphviz and return the picture's path.

    Args:
        text: The DOT.
        path: The file to write.
        format: One of `FORMATS`; by default the path's ending.

    Raises:
        ConfigurationError: The format is none of them, or there can be no such file.
        VisualizationUnavailable: Graphviz is not installed, or could not draw this.
    """
    target = _path(path)
    kind = target.suffix.removeprefix(".") if format is None else format
    if not isinstance(kind, str) or kind.lower() not in FORMATS:
        raise ConfigurationError(
            f"a picture's format is one of {', '.join(FORMATS)}, not {shown(kind)}; "
            "give format=, or a path with such an ending"
        )
    return _write(target, _draw(text, kind.lower()))


def write_file(path: str | os.PathLike[str], data: bytes, what: str) -> Path:
    """Write a file and return its path.

    Args:
        path: Where.
        data: What is in it.
        what: What to call it in messages.

    Raises:
        ConfigurationError: There can be no such file.
    """
    return _write(_path(path, what), data)


def _path(path: Any, what: str = "a picture") -> Path:
    try:
        return Path(path)
    except TypeError:
        raise ConfigurationError(
            f"{what} is written to a path, a text or os.PathLike, not {shown(path)}"
        ) from None


def _write(target: Path, data: bytes) -> Path:
    try:
        target.write_bytes(data)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        way = ""  # anything else is no matter of the name
        if isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):
            way = "; name a file in a folder that is there"
        elif isinstance(error, IsADirectoryError):
            way = "; name a file in it"
        raise ConfigurationError(f"{shown(str(target))} cannot be written: {why}{way}") from error
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
