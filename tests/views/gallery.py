"""Some graphs, as they are drawn: snapshots that a person has looked at.

``python -m tests.views.gallery`` draws them anew into `FOLDER`, and a page of all of them, to be
looked at before they are committed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagger_dsl import Graph, Node
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.model.graph import Edge, Input
from dagger_dsl.model.machine import Machine, Transition
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.views.picture import Picture, picture_of_graph, picture_of_run
from dagger_dsl.views.svg import STYLE, picture_to_svg

__all__ = ["FOLDER", "HOSTILE", "graphs", "pictures", "report_of"]

FOLDER = Path(__file__).parent / "snapshots"

#: Ids that try to be something else than text.
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'so'",
    "two\nlines",
    "w" * 200,
    "\u05e9\u05dc\u05d5\u05dd \u202eolleh",
    "]]> --> {{x}}",
)

AT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def _chain(*ids: str, **fields: Any) -> list[Node]:
    found = []
    for before, node_id in zip((None, *ids), ids, strict=False):
        after = [] if before is None else [before]
        found.append(Node(node_id, f"do_{node_id}", dependencies=after, **fields))
    return found


def graphs() -> dict[str, Graph]:
    """Return the graphs by name."""
    checkout = Graph(
        "checkout",
        [
            Node("load", "load_order"),
            Node("is_valid", "is_valid", [Input("order", reference="load.result")]),
            Node("reserve", "reserve_stock", [Input("order", reference="load.result")]),
            Node("refuse", "refuse"),
            Node("charge", "charge_card", [Input("held", reference="reserve.result")]),
            Node("ship", "ship", dependencies=["charge"]),
            Node("mail", "send_mail", dependencies=["charge", "load"]),
        ],
        edges=[Edge("is_valid", "reserve", "true"), Edge("is_valid", "refuse", "false")],
    )
    machine = Graph(
        "order",
        [Node(name, name) for name in ("pending", "paid", "packed", "refused")],
        machine=Machine(
            "pending",
            ["packed", "refused"],
            [
                Transition("pending", "pending"),
                Transition("pending", "paid", "paid in full"),
                Transition("paid", "packed"),
                Transition("paid", "refused"),
                Transition("paid", "pending", "part of it"),
            ],
        ),
    )
    fan = [
        Node("start", "start"),
        *(Node(f"part_{k}", "part", dependencies=["start"]) for k in range(6)),
        Node("end", "end", dependencies=[f"part_{k}" for k in range(6)]),
    ]
    wide = [
        Node("start", "start"),
        *(Node(f"part_{k}", "part", dependencies=["start"]) for k in range(400)),
        Node("end", "end", dependencies=[f"part_{k}" for k in range(400)]),
    ]
    broad = [
        Node("start", "start"),
        *(
            Node(f"{step}_{k}", step, dependencies=[before.format(k)])
            for k in range(12)
            for step, before in (("fetch", "start"), ("parse", "fetch_{}"))
        ),
        Node("end", "end", dependencies=[f"parse_{k}" for k in range(12)]),
    ]
    ladder = [
        Node(
            f"{side}{k}",
            "step",
            dependencies=[f"a{k - 1}", f"b{k - 1}"] if k else [],
        )
        for k in range(4)
        for side in "ab"
    ]
    mapped = [
        Node("pages", "pages"),
        Node("fetch", "fetch", [Input("page", reference="pages.result")], map_over="page"),
        Node("merge", "merge", [Input("found", reference="fetch.result")]),
    ]
    found = [
        Graph("single", [Node("only", "only")]),
        Graph("chain", _chain("first", "second", "third", "fourth")),
        Graph("fan", fan),
        Graph("ladder", ladder),
        checkout,
        machine,
        Graph("mapped", mapped),
        Graph("hostile", _chain(*HOSTILE)),
        Graph("wide", wide),
        Graph("broad", broad),
        Graph("long", _chain(*(f"step_{k}" for k in range(20)))),
        Graph("apart", [*_chain("one", "two"), *_chain("three", "four"), Node("five", "five")]),
    ]
    return {graph.name: graph for graph in found}


def report_of(graph: Graph, status: RunStatus, nodes: Mapping[str, NodeReport]) -> RunReport:
    """Return a report as a run could have made it."""
    left = {node_id: NodeReport(node_id, NodeState.PENDING) for node_id in graph.nodes}
    known = left | dict(nodes)
    return RunReport(
        run_id="run_1",
        dag_name=graph.name,
        graph=graph,
        status=status,
        started_at=AT,
        finished_at=AT + dt.timedelta(seconds=4),
        duration=4.0,
        states=lambda: {node_id: each.state for node_id, each in known.items()},
        node=lambda node_id: known[node_id],
        value=lambda node_id: f"what {node_id} made",
    )


def _told(node_id: str, state: NodeState, start: float, took: float, **more: Any) -> NodeReport:
    begun = AT + dt.timedelta(seconds=start)
    ended = begun + dt.timedelta(seconds=took)
    return NodeReport(node_id, state, 1, begun, ended, took, **more)


def _failed_checkout() -> RunReport:
    error = ErrorInfo("payments.Declined", "card ending in 42: no funds", "Traceback ...")
    done = NodeState.COMPLETED
    told = [
        _told("load", done, 0.0, 0.25),
        _told("is_valid", done, 0.25, 0.001),
        _told("reserve", done, 0.3, 1.5, recovered=True),
        NodeReport("refuse", NodeState.SKIPPED, reason="is_valid was true"),
        NodeReport("charge", NodeState.FAILED, 3, AT, AT, 2.0, error),
        NodeReport("ship", NodeState.CANCELLED, reason="charge failed"),
        NodeReport("mail", NodeState.CANCELLED, reason="charge failed"),
    ]
    return report_of(graphs()["checkout"], RunStatus.FAILED, {each.node_id: each for each in told})


def pictures() -> Iterator[tuple[str, Picture]]:
    """Yield the pictures of the graphs, and of one run."""
    for name, graph in graphs().items():
        yield name, picture_of_graph(graph)
    yield "checkout_failed", picture_of_run(_failed_checkout())


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(exist_ok=True)
    page = [f"<!doctype html><meta charset=utf-8><title>gallery</title><style>{STYLE}</style>"]
    for theme in ("light", "dark"):
        page.append(f"<div data-theme={theme}>")
        for name, picture in pictures():
            svg = picture_to_svg(picture)
            (FOLDER / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")
            page.append(svg)
        page.append("</div>")
    for name, graph in graphs().items():
        if len(graph.nodes) > 100:
            continue  # nobody would look at it
        (FOLDER / f"{name}.dot").write_text(graph.to_dot(), encoding="utf-8")
    Path("gallery.html").write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
