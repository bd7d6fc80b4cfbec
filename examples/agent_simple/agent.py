"""An agent that builds its own graph, one step at a time.

A run begins with one node, `supervise`. It looks at what is known, decides what to measure next,
and answers with commands that add that tool and, behind it, its own next turn. When it can say why,
it adds `final_validation`, which counts again in another way. There is no hook, and no model: the
decisions are rules, so that a run always comes to the same end. A model's answer would take their
place in `decide`.

    where does it rain more, and why?    supervise -> rain -> supervise_2 -> wet_days -> ...
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import TypeAlias

from dagger_dsl import DAG, AddNodes, NodeCtx, NodeOutput, NodeSpec, action, ref

WET_MM, HEAVY_MM = 1.0, 20.0
SEASONS = {
    "year": range(1, 13),
    "spring": (3, 4, 5),
    "summer": (6, 7, 8),
    "autumn": (9, 10, 11),
    "winter": (12, 1, 2),
}

#: A number for each place.
Figures: TypeAlias = dict[str, float]


# --- the tools -----------------------------------------------------------------------------------


def read_rain(csv_path: str, season: str) -> dict[str, dict[str, float]]:
    """Return the rain of every day of a season by place and date, in millimetres."""
    if season not in SEASONS:
        raise ValueError(f"there is no season {season!r}; there are {', '.join(SEASONS)}")
    rain: dict[str, dict[str, float]] = {}
    with open(csv_path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["date"][5:7]) in SEASONS[season]:
                rain.setdefault(row["location"], {})[row["date"]] = float(row["precipitation"])
    return rain


def _years(days: Mapping[str, float]) -> int:
    return len({date[:4] for date in days})


@action
def rain(csv_path: str, season: str) -> Figures:
    """Measure the rain of an average year's season, in millimetres."""
    found = read_rain(csv_path, season)
    return {place: round(sum(days.values()) / _years(days), 1) for place, days in found.items()}


@action
def wet_days(csv_path: str, season: str) -> Figures:
    """Count the wet days of an average year's season."""
    found = read_rain(csv_path, season)
    return {
        place: sum(mm >= WET_MM for mm in days.values()) / _years(days)
        for place, days in found.items()
    }


@action
def rain_per_wet_day(csv_path: str, season: str) -> Figures:
    """Measure how much it rains on a wet day, in millimetres."""
    found = read_rain(csv_path, season)
    return {
        place: round(mean(mm for mm in days.values() if mm >= WET_MM), 2)
        for place, days in found.items()
    }


@action
def share_of_heavy_days(csv_path: str, season: str) -> Figures:
    """Measure which share of the rain falls on days of 20 mm and more."""
    found = read_rain(csv_path, season)
    return {
        place: round(sum(mm for mm in days.values() if mm >= HEAVY_MM) / sum(days.values()), 3)
        for place, days in found.items()
    }


# --- the supervisor ------------------------------------------------------------------------------


def decide(facts: Mapping[str, Figures]) -> tuple[str, str]:
    """Return the tool to use next, or ``answer``, and why.

    Args:
        facts: What each tool that was used has found.
    """
    if "rain" not in facts:
        return "rain", "first of all: where does it rain more?"
    wet, dry = sorted(facts["rain"], key=lambda place: -facts["rain"][place])
    more = facts["rain"][wet] / facts["rain"][dry]
    if "wet_days" not in facts:
        return "wet_days", f"{wet} gets {more:.2f} times the rain of {dry}: on more days?"
    days = facts["wet_days"][wet] / facts["wet_days"][dry]
    if days >= more:
        return "answer", f"{wet} gets more rain than {dry} because it has more wet days"
    if "rain_per_wet_day" not in facts:
        return "rain_per_wet_day", f"{days:.2f} times the wet days do not explain that: what does?"
    if "share_of_heavy_days" not in facts:
        return "share_of_heavy_days", "more falls on a wet day: does it come in heavy rain?"
    heavy = facts["share_of_heavy_days"]
    how = "in heavier rain" if heavy[wet] > heavy[dry] else "though not in heavier rain"
    return "answer", f"{wet} gets more rain than {dry} because more falls on a wet day, {how}"


@action
def supervise(
    ctx: NodeCtx,
    csv_path: str,
    report_path: str,
    season: str,
    seconds: float,
    known: Mapping[str, Figures] | None = None,
    tool: str | None = None,
    found: Figures | None = None,
) -> NodeOutput:
    """Take what the last tool found, and decide what comes next.

    Args:
        ctx: Where this turn stands.
        csv_path, season: What it is about.
        report_path: Where the answer goes.
        seconds: How long a decision takes; it stands for a model that has to be asked.
        known: What was found before the last tool.
        tool, found: The last tool, and what it found.
    """
    time.sleep(seconds)
    facts = {**(known or {}), **({tool: found} if tool and found else {})}
    chosen, why = decide(facts)
    about = {"csv_path": csv_path, "season": season}
    if chosen == "answer":
        answer = {"answer": why, "facts": facts, "report_path": report_path}
        specs = [NodeSpec("final_validation", deps=[ctx.node_id], inputs={**about, **answer})]
    else:
        turn = {"report_path": report_path, "seconds": seconds, "known": facts, "tool": chosen}
        found_next = {"found": ref(f"{chosen}.result")}
        specs = [
            NodeSpec(chosen, id=chosen, deps=[ctx.node_id], inputs=about),
            NodeSpec("supervise", inputs={**about, **turn, **found_next}),
        ]
    return NodeOutput.success({"next": chosen, "why": why}, commands=[AddNodes(specs)])


@action
def final_validation(
    csv_path: str, season: str, report_path: str, answer: str, facts: Mapping[str, Figures]
) -> NodeOutput:
    """Check the answer against the rows themselves, and write it down if it holds."""
    rain_of = read_rain(csv_path, season)
    dates = [set(days) for days in rain_of.values()]
    (wet, most), (dry, least) = sorted(facts["rain"].items(), key=lambda each: -each[1])
    gaps = [rain_of[wet][date] - rain_of[dry].get(date, 0.0) for date in rain_of[wet]]
    checks = {
        "both places have the same days": all(each == dates[0] for each in dates),
        "the difference is the same, counted day by day": (
            abs(sum(gaps) / _years(rain_of[wet]) - (most - least)) < 0.2
        ),
    }
    wrong = [check for check, holds in checks.items() if not holds]
    if wrong:
        return NodeOutput.failure(f"it is not true that {' and '.join(wrong)}: {answer}")
    lines = [f"# Rain in {season}", "", f"{answer}.", ""]
    lines += [f"- {tool}: {_listed(figures)}" for tool, figures in facts.items()]
    lines += ["", *(f"Checked: {check}." for check in checks)]
    path = Path(report_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, path)  # whoever reads it never sees half of it
    return NodeOutput.success(answer)


def _listed(figures: Figures) -> str:
    return ", ".join(f"{place} {figure:g}" for place, figure in sorted(figures.items()))


dag = DAG(
    supervise,  # what nothing fills is given to a run: csv_path, report_path, season, seconds
    name="rain_agent",
    description="Where does it rain more, and why? A supervisor measures until it can tell.",
    tags=["example", "agent"],
    config={"max_iterations": 8},  # a supervisor that never has enough is stopped here
)
