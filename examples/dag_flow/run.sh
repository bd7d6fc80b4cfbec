#!/usr/bin/env bash
# Run the weather pipeline twice, from YAML and from Python, and compare the two reports.
#
# Everything goes to out/: the runs' database, the table of days and the reports.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p out

dagger-dsl run pipeline.yaml \
    --actions actions.py \
    --input csv_path=data/weather.csv \
    --input database_path=out/weather.sqlite \
    --input report_path=out/report.md \
    --db sqlite:out/runs.db

dagger-dsl run pipeline.py:dag \
    --input csv_path=data/weather.csv \
    --input database_path=out/python/weather.sqlite \
    --input report_path=out/python/report.md \
    --db sqlite:out/runs.db --quiet
cmp out/report.md out/python/report.md
echo "both say: $PWD/out/report.md"
