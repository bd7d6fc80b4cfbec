#!/usr/bin/env bash
# Run the weather pipeline; results go to out/: the run's own database, the table and the report.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p out
dagger-dsl run pipeline.yaml \
    --actions actions.py \
    --input csv_path=data/weather.csv \
    --input database_path=out/weather.sqlite \
    --input report_path=out/report.md \
    --db sqlite:out/runs.db
echo "report: $PWD/out/report.md"
