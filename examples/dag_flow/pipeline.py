"""The pipeline of pipeline.yaml, written with arrows; both compile to the same graph.

An arrow hands over what the step on its right has a parameter for: `transform` returns `days` and
`rejected`, so `load` gets the one and `report` the other. Parameters that nothing fills are what a
run is given: `csv_path`, `database_path` and `report_path`.
"""

from __future__ import annotations

from actions import (
    clean_observations,
    explain_failure,
    find_spells,
    find_unusual_days,
    read_observations,
    store_days,
    summarise_months,
    write_report,
)

from dagger_dsl import DAG

extract = read_observations.with_options(
    id="extract", timeout=60, try_count=3, on_failure="stop", failure=explain_failure
)
transform = clean_observations.with_options(
    id="transform", timeout=60, try_count=1, on_failure="stop", failure=explain_failure
)
load = store_days.with_options(id="load", timeout=120, try_count=3, on_failure="stop")
climate = summarise_months.with_options(id="monthly_climate", timeout=60)
spells = find_spells.with_options(id="dry_and_wet_spells", timeout=60)
unusual = find_unusual_days.with_options(id="unusual_days", timeout=60)
report = write_report.with_options(id="report", timeout=60, try_count=2, on_failure="stop")

with DAG(
    "weather_report",
    description="Daily weather of two cities, cleaned, stored in SQLite, analysed and reported",
    author="The dagger_dsl authors",
    version="1.0.0",
    tags=["example", "etl", "weather"],
) as dag:
    extract >> transform >> load >> climate
    transform >> [spells, unusual]
    report << [load, transform, climate, spells, unusual]
