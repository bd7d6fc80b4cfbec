"""Doors: the closed table of functions that lower rooms reach in higher ones.

``graph.to_dot()`` is a method of the IR, but pictures are made two rooms above it. Such a method
calls `through` with the name of its door; the room behind it is imported on first use. Nothing but
this table names a higher room, and a test opens every door.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

__all__ = ["DOORS", "through"]

#: Where each door leads: ``module:function``.
DOORS: Final = {
    "graph_to_dot": "dagger_dsl.views.dot:graph_to_dot",
    "report_to_dot": "dagger_dsl.views.dot:report_to_dot",
    "graph_to_mermaid": "dagger_dsl.views.mermaid:graph_to_mermaid",
    "report_to_mermaid": "dagger_dsl.views.mermaid:report_to_mermaid",
    "graph_to_svg": "dagger_dsl.views.notebook:graph_to_svg",
    "report_to_svg": "dagger_dsl.views.notebook:report_to_svg",
    "report_to_html": "dagger_dsl.views.html:report_to_html",
    "graph_bundle": "dagger_dsl.views.notebook:graph_bundle",
    "report_bundle": "dagger_dsl.views.notebook:report_bundle",
    "job_to_dot": "dagger_dsl.views.jobs:job_to_dot",
    "job_to_svg": "dagger_dsl.views.jobs:job_to_svg",
    "job_tree": "dagger_dsl.views.job_tree:job_tree",
    "job_bundle": "dagger_dsl.views.jobs:job_bundle",
    "job_page": "dagger_dsl.views.job_page:job_page",
    "messages_to_dot": "dagger_dsl.views.messages:messages_to_dot",
    "messages_to_svg": "dagger_dsl.views.messages:messages_to_svg",
    "messages_bundle": "dagger_dsl.views.messages:messages_bundle",
    "channels_to_dot": "dagger_dsl.views.channels:channels_to_dot",
    "channels_to_svg": "dagger_dsl.views.channels:channels_to_svg",
    "channels_bundle": "dagger_dsl.views.channels:channels_bundle",
    "channels_table": "dagger_dsl.views.channel_tables:channels_table",
    "bus_page": "dagger_dsl.views.bus_page:bus_page",
    "bus_display": "dagger_dsl.views.live_bus:bus_display",
    "save_dot": "dagger_dsl.views.graphviz:save_dot",
    "render": "dagger_dsl.views.graphviz:render",
    "live_display": "dagger_dsl.views.live:live_display",
    "report_table": "dagger_dsl.views.tables:report_table",
    "nested_reports": "dagger_dsl.views.stored:nested_reports",
    "place_workflow": "dagger_dsl.dsl.nesting:place_workflow",
    "dump_yaml": "dagger_dsl.yamlio:dump_yaml",
    "load_yaml": "dagger_dsl.yamlio:load_yaml",
    "simulate": "dagger_dsl.engine.simulate:simulate",
}


@functools.cache
def through(door: str) -> Callable[..., Any]:
    """Return the function behind a door of `DOORS`."""
    module, _, name = DOORS[door].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
