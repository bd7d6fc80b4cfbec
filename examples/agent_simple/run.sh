#!/usr/bin/env bash
# Let the agent answer three times: about summer, about the year, and about summer with a kill -9 in
# the middle, from which the run goes on with the graph that it had grown.
#
# Everything goes to out/: the runs' database and the answers.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf out
mkdir out
export PYTHONUNBUFFERED=1

ask() { # RUN_ID SEASON SECONDS_OF_THOUGHT DAGGER-DSL-OPTIONS...
    local id=$1 season=$2 seconds=$3
    shift 3
    exec dagger-dsl run agent.py:dag --db sqlite:out/runs.db --run-id "$id" \
        --input csv_path=../dag_flow/data/weather.csv --input report_path="out/$id.md" \
        --input season="$season" --input seconds="$seconds" "$@"
}

(ask summer summer 0)
(ask year year 0 --quiet)

echo "once more, with a supervisor that thinks for half a second, and is killed at its third turn:"
ask killed summer 0.5 >out/killed.log 2>&1 &
until grep -q "wet_days: completed" out/killed.log || ! kill -0 $!; do sleep 0.05; done
kill -9 $!
wait $! 2>/dev/null || true
cat out/killed.log
dagger-dsl resume killed --actions agent.py --db sqlite:out/runs.db
cmp out/summer.md out/killed.md

cat out/summer.md out/year.md
