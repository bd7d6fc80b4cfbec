"""The bar of a run: what it draws, how often, and what it lets nobody smuggle in."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from dagger_dsl.views.progress import ProgressBar


def bar(title: str = "flow") -> tuple[ProgressBar, io.StringIO]:
    """Return a bar on a terminal of ours, and what is written to it."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    return ProgressBar(title, console), written


@pytest.mark.row("M10")
def test_a_bar_shows_the_title_the_fraction_and_the_node() -> None:
    progress, written = bar()
    progress("load", "running", 0.25)
    assert "25%" in written.getvalue()
    assert "load: running" in written.getvalue()
    progress("load", "completed", 1.0)
    progress.close()
    progress.close()
    assert "100%" in written.getvalue()
    assert "flow" in written.getvalue()


def test_quick_nodes_are_not_drawn_one_by_one() -> None:
    progress, written = bar()
    for k in range(2_000):
        progress(f"n{k}", "completed", k / 2_000)
    progress.close()
    assert written.getvalue().count("flow") < 500


def test_names_are_shown_as_they_are() -> None:
    progress, written = bar("[red]flow[/red] \x1b[31m")
    progress("[bold]n[/bold]", "\x1b]0;title\x07", 0.5)
    progress.close()
    text = written.getvalue()
    assert "[red]flow[/red]" in text
    assert "[bold]n[/bold]" in text
    assert "\x1b[31m" not in text
    assert "\x1b]0" not in text


def test_a_bar_that_was_never_called_writes_nothing_and_has_no_thread() -> None:
    before = threading.active_count()
    progress, written = bar()
    progress.close()
    assert written.getvalue() == ""
    progress("n", "running", 0.0)
    assert threading.active_count() == before
    progress.close()
