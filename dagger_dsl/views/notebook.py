"""How graphs, runs and machines show themselves in notebooks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from dagger_dsl.errors import DaggerError
from dagger_dsl.views.mermaid import graph_to_mermaid, report_to_mermaid
from dagger_dsl.views.picture import Picture, picture_of_graph, picture_of_run
from dagger_dsl.views.svg import LaidOut, picture_to_svg

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.graph import Graph, HasStates

__all__ = ["graph_bundle", "graph_to_svg", "picture_bundle", "report_bundle", "report_to_svg"]


def graph_to_svg(graph: Graph, run: HasStates | Mapping[str, str] | None = None) -> str:
    """Return a graph as SVG.

    Args:
        graph: What to draw.
        run: A report, or states by node id, to colour it by.

    Raises:
        ConfigurationError: *run* is neither, or a state is none that there is.
    """
    return picture_to_svg(picture_of_graph(graph, run))


def report_to_svg(report: RunReport) -> str:
    """Return a run as SVG."""
    return picture_to_svg(picture_of_run(report))


def graph_bundle(
    graph: Callable[[], Graph],
    text: str,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """Return what a notebook shows of a graph, by MIME type; see `picture_bundle`.

    Args:
        graph: Returns it; what cannot be a graph yet says why instead.
        text: For front ends that show text.
        include, exclude: Which types are wanted, as IPython asks.
    """
    try:
        known = graph()
    except DaggerError as error:
        return {"text/plain": f"{text}\n{error}"}
    mermaid = partial(graph_to_mermaid, known)
    return picture_bundle(partial(picture_of_graph, known), text, include, exclude, mermaid)


def report_bundle(
    report: RunReport,
    text: str,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """Return what a notebook shows of a run, by MIME type; see `graph_bundle`."""
    mermaid = partial(report_to_mermaid, report)
    return picture_bundle(partial(picture_of_run, report), text, include, exclude, mermaid)


def picture_bundle(
    picture: Callable[[], Picture],
    text: str,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
    mermaid: Callable[[], str] | None = None,
) -> dict[str, str]:
    """Return the same thing by MIME type; its picture is laid out once, and only where it is shown.

    HTML has tooltips, which front ends drop that put an SVG into an image, and nested pictures.

    Args:
        picture: Returns it as a picture.
        text: For front ends that show text.
        include, exclude: Which types are wanted, as IPython asks.
        mermaid: Returns it as Mermaid.
    """
    found: list[LaidOut] = []

    def seen() -> LaidOut:
        if not found:
            found.append(LaidOut(picture()))
        return found[0]

    made: dict[str, Callable[[], str]] = {
        "text/plain": lambda: text,
        "image/svg+xml": lambda: seen().to_svg(),
        "text/html": lambda: seen().to_html(),
    }
    if mermaid is not None:
        made["text/vnd.mermaid"] = mermaid
    return {
        kind: make()
        for kind, make in made.items()
        if (not include or kind in include) and kind not in (exclude or ())
    }
