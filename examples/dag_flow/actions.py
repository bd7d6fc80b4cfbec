"""The steps of the weather pipeline: ordinary functions over the standard library.

Each takes parameters named as the inputs of its node in pipeline.yaml and returns the outputs
declared there. Every step may be called again after a crash: what it writes replaces what an
earlier call left.
"""

from __future__ import annotations

import csv
import os
import sqlite3
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dagger_dsl import action

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
WET_MM = 1.0  # the usual limit: a day with less counts as dry


@action(outputs=["observations"])
def read_observations(csv_path: str) -> list[dict[str, str]]:
    """Read the rows of the CSV file as they are."""
    with open(csv_path, encoding="utf-8", newline="") as file:
        observations = list(csv.DictReader(file))
    if not observations:
        raise ValueError(f"{csv_path} holds no rows; expected one for each place and day")
    return observations


@action(outputs=["days", "rejected"])
def clean_observations(observations: list[dict[str, str]]) -> dict[str, Any]:
    """Turn text into numbers; leave out rows that cannot be true and say why."""
    days: list[dict[str, Any]] = []
    rejected: list[str] = []
    seen: set[tuple[str, str]] = set()
    for line, row in enumerate(observations, start=2):
        try:
            day = _parse(row)
        except (KeyError, ValueError) as error:
            rejected.append(f"line {line}: {error}")
            continue
        if (day["location"], day["date"]) in seen:
            rejected.append(f"line {line}: {day['location']} has {day['date']} twice")
            continue
        seen.add((day["location"], day["date"]))
        days.append(day)
    days.sort(key=lambda day: (day["location"], day["date"]))
    return {"days": days, "rejected": rejected}


def _parse(row: dict[str, str]) -> dict[str, Any]:
    low, high = float(row["temp_min"]), float(row["temp_max"])
    rain = float(row["precipitation"])
    if low > high:
        raise ValueError(f"lowest temperature {low} is above the highest, {high}")
    if rain < 0:
        raise ValueError(f"precipitation {rain} is negative")
    return {
        "location": row["location"],
        "date": date.fromisoformat(row["date"]).isoformat(),
        "temp_min": low,
        "temp_max": high,
        "temp_mean": round((low + high) / 2, 2),
        "precipitation": rain,
        "weather": row["weather"],
    }


@action(outputs=["database", "stored_rows"])
def store_days(days: list[dict[str, Any]], database_path: str) -> dict[str, Any]:
    """Replace the table `days` in one transaction, so that nobody ever sees half of it."""
    Path(database_path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(database_path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DROP TABLE IF EXISTS days")
        connection.execute(
            "CREATE TABLE days (location TEXT, date TEXT, temp_min REAL, temp_max REAL,"
            " temp_mean REAL, precipitation REAL, weather TEXT, PRIMARY KEY (location, date))"
        )
        connection.executemany(
            "INSERT INTO days VALUES (:location, :date, :temp_min, :temp_max,"
            " :temp_mean, :precipitation, :weather)",
            days,
        )
        connection.execute("COMMIT")
        (stored,) = connection.execute("SELECT COUNT(*) FROM days").fetchone()
    finally:
        connection.close()
    return {"database": database_path, "stored_rows": stored}


@action(outputs=["climate"])
def summarise_months(database: str) -> list[dict[str, Any]]:
    """Summarise each month of the year for each place, from the stored table."""
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "SELECT location, CAST(substr(date, 6, 2) AS INTEGER) AS month,"
            " AVG(temp_min), AVG(temp_max),"
            " SUM(precipitation) / COUNT(DISTINCT substr(date, 1, 4)), AVG(precipitation >= ?)"
            " FROM days GROUP BY location, month ORDER BY location, month",
            (WET_MM,),
        ).fetchall()
    finally:
        connection.close()
    names = ("location", "month", "temp_min", "temp_max", "rain_mm", "wet_share")
    return [
        {name: round(cell, 2) if isinstance(cell, float) else cell for name, cell in pairs}
        for pairs in (zip(names, row, strict=True) for row in rows)
    ]


@action(outputs=["spells"])
def find_spells(days: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Find the longest run of dry days and of wet days at each place."""
    longest: dict[tuple[str, str], dict[str, Any]] = {}
    current: dict[str, Any] = {}
    for day in days:
        kind = "wet" if day["precipitation"] >= WET_MM else "dry"
        if (day["location"], kind) != (current.get("location"), current.get("kind")):
            current = {"location": day["location"], "kind": kind, "start": day["date"], "days": 0}
        current["days"] += 1
        key = (day["location"], kind)
        if current["days"] > longest.get(key, {"days": 0})["days"]:
            longest[key] = dict(current)
    return [longest[key] for key in sorted(longest)]


@action(outputs=["unusual"])
def find_unusual_days(days: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Find the three days at each place that were furthest from what their month is like."""
    usual: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for day in days:
        usual[day["location"], day["date"][5:7]].append(day["temp_mean"])
    limits = {key: (mean(values), stdev(values)) for key, values in usual.items()}
    scored: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for day in days:
        middle, spread = limits[day["location"], day["date"][5:7]]
        deviation = round((day["temp_mean"] - middle) / spread, 2)
        kept = {name: day[name] for name in ("location", "date", "temp_mean")}
        scored[day["location"]].append(kept | {"usual": round(middle, 1), "deviation": deviation})
    return [
        day
        for place in sorted(scored)
        for day in sorted(scored[place], key=lambda day: (-abs(day["deviation"]), day["date"]))[:3]
    ]


@action(outputs=["report"])
def write_report(
    stored_rows: int,
    rejected: list[str],
    climate: list[dict[str, Any]],
    spells: list[dict[str, Any]],
    unusual: list[dict[str, Any]],
    report_path: str,
) -> str:
    """Write the report as Markdown and return its path."""
    lines = [
        "# Weather report",
        "",
        f"{stored_rows:,} days stored, {len(rejected)} rows rejected.",
        *(f"- {reason}" for reason in rejected),
        "",
        "## Months",
        "",
        "| place | month | low °C | high °C | rain mm | wet days |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['location']} | {MONTHS[row['month'] - 1]} | {row['temp_min']:.1f} "
        f"| {row['temp_max']:.1f} | {row['rain_mm']:.0f} | {row['wet_share']:.0%} |"
        for row in climate
    ]
    lines += ["", f"## Longest spells (wet: {WET_MM:g} mm or more)", ""]
    lines += [
        f"- {spell['location']}: {spell['days']} {spell['kind']} days from {spell['start']}"
        for spell in spells
    ]
    lines += ["", "## Days furthest from their month's mean temperature", ""]
    lines += [
        f"- {day['location']}, {day['date']}: {day['temp_mean']:.1f} °C, "
        f"{day['usual']:.1f} °C is usual ({day['deviation']:+.1f} standard deviations)"
        for day in unusual
    ]
    path = Path(report_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f"{path.suffix}.tmp")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return report_path


@action
def explain_failure(node_id: str, error: Exception) -> None:
    """Handle the failure of a step: say what it means; returning None lets the failure stand."""
    print(f"{node_id} failed, so there is no weather data to report on: {error}")
