"""An agent with a plan: its tools, its planner, and the hooks that let the graph follow the plan.

A run begins with the node `plan`. Two hooks do the rest. `follow_plan` adds a step of the plan as
soon as everything that it needs is there; `recover` answers the failure of a tool with another
tool, and what needs the one's result goes on with the other's. Before anything is published, a
person is asked. There is no model: the planner looks for words in the task, so that a run always
comes to the same end; a model's answer would take its place in `make_plan`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import asin, cos, pi, radians, sin, sqrt
from pathlib import Path
from typing import Any, Required, TypedDict

from dagger_dsl import AddNode, AddNodes, NodeCtx, NodeOutput, NodeSpec, action, hook, ref
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.events import NodeCompleted, NodeFailed

EARTH_KM = 6371.0

#: (origin, destination, flights a year)
Route = tuple[str, str, int]
#: By code: name, latitude and longitude.
Airports = dict[str, tuple[str, float, float]]


# --- tools that read -----------------------------------------------------------------------------


@action
def read_routes(data: str) -> list[Route]:
    """Read which airport has flights to which."""
    with open(f"{data}/flights-airport.csv", encoding="utf-8", newline="") as file:
        return [
            (row["origin"], row["destination"], int(row["count"])) for row in csv.DictReader(file)
        ]


def _rows(data: str) -> Iterator[tuple[int, dict[str, str]]]:
    with open(f"{data}/airports.csv", encoding="utf-8", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)


@action
def read_airports(data: str) -> Airports:
    """Read the airports; a row that lacks something is an error."""
    found: Airports = {}
    for line, row in _rows(data):
        gaps = [name for name, cell in row.items() if cell in ("", "NA")]
        if gaps:
            raise ValueError(f"airports.csv, line {line}: {row['iata']} has no {gaps[0]}")
        found[row["iata"]] = row["name"], float(row["latitude"]), float(row["longitude"])
    return found


@action
def read_places(data: str, failed_node: str, error: str) -> Airports:
    """Read no more of the airports than their names and where they are."""
    print(f"{failed_node} failed: {error}; names and places alone are enough")
    return {
        row["iata"]: (row["name"], float(row["latitude"]), float(row["longitude"]))
        for _, row in _rows(data)
    }


# --- tools that count ----------------------------------------------------------------------------


@action
def rank_hubs(routes: list[Route], number: int) -> list[str]:
    """Find the airports with flights to the most others."""
    ways = Counter(origin for origin, _, _ in routes)
    return sorted(ways, key=lambda code: (-ways[code], code))[:number]


@action
def reach(hub: str, routes: list[Route]) -> dict[str, Any]:
    """Count how many airports can be reached from a hub with no change, one change, and so on."""
    ways: dict[str, set[str]] = {}
    for origin, destination, _ in routes:
        ways.setdefault(origin, set()).add(destination)
    seen, edge, counts = {hub}, {hub}, list[int]()
    while edge := {there for here in edge for there in ways.get(here, ())} - seen:
        seen |= edge
        counts.append(len(edge))
    return {"hub": hub, "airports": counts}


def kilometres(airports: Airports, one: str, other: str) -> float:
    """Return how far two airports are apart, along the surface."""
    (_, *here), (_, *there) = airports[one], airports[other]
    (lat, lon), (lat_2, lon_2) = map(radians, here), map(radians, there)
    chord = sin((lat_2 - lat) / 2) ** 2 + cos(lat) * cos(lat_2) * sin((lon_2 - lon) / 2) ** 2
    return 2 * EARTH_KM * asin(sqrt(chord))


@action
def farthest(hub: str, routes: list[Route], airports: Airports) -> dict[str, Any]:
    """Find the longest flight from a hub."""
    to = {destination for origin, destination, _ in routes if origin == hub}
    far = max(sorted(to), key=lambda code: kilometres(airports, hub, code))
    return {"hub": hub, "to": airports[far][0], "km": round(kilometres(airports, hub, far))}


@action
def one_way(routes: list[Route]) -> list[Route]:
    """Find the routes that no flight goes back on, the busiest first."""
    pairs = {(origin, destination) for origin, destination, _ in routes}
    lonely = [route for route in routes if (route[1], route[0]) not in pairs]
    return sorted(lonely, key=lambda route: (-route[2], route))


# --- the end of every plan -----------------------------------------------------------------------


@action
def validate(
    routes: list[Route],
    reach: list[dict[str, Any]] | None = None,
    farthest: list[dict[str, Any]] | None = None,
    one_way: list[Route] | None = None,
) -> NodeOutput:
    """Check what was found against the routes; a fault stops the plan before anybody is asked."""
    airports = {code for route in routes for code in route[:2]}
    pairs = {(origin, destination) for origin, destination, _ in routes}
    ways = Counter(origin for origin, _ in pairs)
    faults = []
    for each in reach or ():
        if each["airports"][0] != ways[each["hub"]] or sum(each["airports"]) >= len(airports):
            faults.append(f"{each['hub']} cannot reach {each['airports']} of {len(airports)}")
    for each in farthest or ():
        if not 0 < each["km"] <= EARTH_KM * pi:
            faults.append(f"from {each['hub']} to {each['to']} it cannot be {each['km']} km")
    for here, there, _ in one_way or ():
        if (there, here) in pairs:
            faults.append(f"{there} to {here} is the way back of {here} to {there}")
    if faults:
        return NodeOutput.failure("; ".join(faults))
    return NodeOutput.success(
        {"airports": len(airports), "reach": reach, "farthest": farthest, "one_way": one_way}
    )


@action
def review(ctx: NodeCtx, found: dict[str, Any]) -> Any:
    """Ask a person whether to publish; nothing of this node runs again for the answer."""
    parts = [name for name in ("reach", "farthest", "one_way") if found[name] is not None]
    return ctx.wait_for_human(
        f"Publish the sheet on {found['airports']} airports ({', '.join(parts)})?", bool
    )


@action
def publish(approved: bool, found: dict[str, Any], sheet: str) -> str:
    """Write the sheet, if a person agreed."""
    if not approved:
        return "not published"
    lines = [f"# Air routes between {found['airports']} airports", ""]
    lines += [
        f"- From {each['hub']} one reaches {_changes(each['airports'])}."
        for each in found["reach"] or ()
    ]
    lines += [
        f"- The longest flight from {each['hub']} is to {each['to']}, {each['km']:,} km."
        for each in found["farthest"] or ()
    ]
    if found["one_way"] is not None:
        busy = ", ".join(f"{here} to {there}" for here, there, _ in found["one_way"][:3])
        lines.append(f"- {len(found['one_way'])} routes have no way back, as {busy}.")
    path = Path(sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, path)  # whoever reads it never sees half of it
    return sheet


def _changes(counts: Sequence[int]) -> str:
    more = [f"{count} with {number}" for number, count in enumerate(counts[1:], start=1)]
    return ", ".join([f"{counts[0]} airports without a change", *more])


# --- the plan ------------------------------------------------------------------------------------


class Step(TypedDict, total=False):
    """One step of a plan.

    Attributes:
        id: Also the name of its tool.
        given: Values that the tool gets as they are.
        needs: Inputs of the tool, each with the step whose result it is.
        each: The input whose items get a call each.
    """

    id: Required[str]
    given: dict[str, Any]
    needs: dict[str, str]
    each: str


#: What finds an answer: a word of the task, and the steps.
_TOPICS: Mapping[str, list[Step]] = {
    "reach": [
        {"id": "reach", "needs": {"hub": "rank_hubs", "routes": "read_routes"}, "each": "hub"},
    ],
    "far": [
        {"id": "read_airports"},
        {
            "id": "farthest",
            "needs": {"hub": "rank_hubs", "routes": "read_routes", "airports": "read_airports"},
            "each": "hub",
        },
    ],
    "way back": [{"id": "one_way", "needs": {"routes": "read_routes"}}],
}


@action(outputs=["steps"])
def make_plan(task: str, data: str, sheet: str) -> list[Step]:
    """Turn a task into steps."""
    topics = [steps for word, steps in _TOPICS.items() if word in task.lower()]
    if not topics:
        raise ValueError(f"no tool answers {task!r}; ask for {', '.join(_TOPICS)}")
    found = {steps[-1]["id"]: steps[-1]["id"] for steps in topics}
    plan: list[Step] = [
        {"id": "read_routes"},
        {"id": "rank_hubs", "needs": {"routes": "read_routes"}, "given": {"number": 6}},
        *(step for steps in topics for step in steps),
        {"id": "validate", "needs": {"routes": "read_routes", **found}},
        {"id": "review", "needs": {"found": "validate"}},
        {
            "id": "publish",
            "needs": {"approved": "review", "found": "validate"},
            "given": {"sheet": sheet},
        },
    ]
    return [
        {**step, "given": {"data": data}} if step["id"].startswith("read_") else step
        for step in plan
    ]


@hook(on=NodeCompleted, dag="air_agent")
def follow_plan(ctx: HookContext, event: NodeCompleted) -> AddNodes | None:
    """Add the steps for which everything is there now."""
    steps: list[Step] = ctx.cache.get("plan", "steps", [])
    assert ctx.graph is not None
    new = []
    for step in steps:
        if step["id"] in ctx.graph.nodes:
            continue
        sources = {name: _delivered(ctx, need) for name, need in step.get("needs", {}).items()}
        if all(sources.values()):
            refs = {name: ref(f"{node_id}.result") for name, node_id in sources.items()}
            new.append(
                NodeSpec(
                    step["id"],
                    id=step["id"],
                    deps=() if refs else ("plan",),
                    inputs={**step.get("given", {}), **refs},
                    map_over=step.get("each"),
                    on_failure="continue",  # the other tools go on when one fails
                )
            )
    return AddNodes(new) if new else None


def _delivered(ctx: HookContext, step: str) -> str | None:
    """Return the node that has a step's result: its own, or the one that recovered it."""
    for node_id in (step, f"recover_{step}"):
        if ctx.cache.get(node_id, "result") is not None:
            return node_id
    return None


#: What to call when a tool has failed.
_REMEDIES = {"read_airports": "read_places"}


@hook(on=NodeFailed, dag="air_agent")
def recover(ctx: HookContext, event: NodeFailed) -> AddNode | None:
    """Try another tool with what the failed one was given."""
    assert ctx.graph is not None
    failed = ctx.graph.nodes[event.node.node_id]
    if failed.action not in _REMEDIES:
        return None
    given = {each.name: each.value for each in failed.inputs}
    remedy = NodeSpec(_REMEDIES[failed.action], id=f"recover_{failed.id}", deps=[failed.id])
    return AddNode(remedy.with_inputs(given))
