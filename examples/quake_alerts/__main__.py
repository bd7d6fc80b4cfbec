"""Ingest a week of seismic events, analyse them, alert a desk; goes on where it was killed."""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime
from pathlib import Path

from quake_alerts import agents
from quake_alerts.desk import Desk
from quake_alerts.history import History

from dagger_dsl import RetryPolicy
from dagger_dsl.pubsub import (
    PubSubAgentDef,
    PubSubConfig,
    PubSubExecutionReport,
    PubSubExecutor,
    StartWith,
)

HERE = Path(__file__).parent


def pipeline(folder: Path, history: History, desk: str, pace: float = 0.0) -> PubSubExecutor:
    """Return the bus: who is given what, and what is published where.

    Args:
        folder: Where its database is.
        history: What its agents remember.
        desk: Where alerts go to.
        pace: Seconds for each record.
    """
    history_agents = [
        PubSubAgentDef("analyse", agents.Analyse(history), ("quakes.earthquake",), ("alerts",)),
        PubSubAgentDef("tally", agents.Tally(history), ("quakes.*", "faults")),
    ]
    ingest = PubSubAgentDef(
        "ingest", agents.Ingest(pace), ("records",), ("quakes.*",), output_schema=agents.QUAKE
    )
    alert = PubSubAgentDef("alert", agents.Alert(desk), ("alerts",))
    return PubSubExecutor(
        [agents.read_catalogue, ingest, *history_agents, alert],
        config=PubSubConfig(
            strict=True,  # an agent publishes where it says, and nowhere else
            dead_letter_channel="faults",
            # What passes is worth another call; a record that is wrong stays so.
            retry=RetryPolicy(max_attempts=5, base_delay=0.05, retry_on=ConnectionError),
        ),
        database_url=f"sqlite:{folder / 'messages.db'}",
    )


def run(folder: Path, desk: str, pace: float = 0.0) -> tuple[PubSubExecutionReport, History]:
    """Run the pipeline, or go on with it, until nothing is left to do."""
    history = History(folder / "history.db")
    bus = pipeline(folder, history, desk, pace)
    # The id is published once: where this ran before, it goes on with what was left.
    return bus.run(StartWith("catalogues", "quakes.csv", id="quakes.csv")), history


def main() -> int:
    """Print what came of it; return 0 when each record is an event or is refused."""
    parser = argparse.ArgumentParser(prog="quake_alerts", description=__doc__)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds for each record")
    # Refused records are shown below.
    logging.getLogger("dagger_dsl.pubsub").setLevel(logging.CRITICAL)
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    with Desk(out / "desk.jsonl") as desk:
        report, history = run(out, desk.url, parser.parse_args().pace)
        kinds = history.kinds()
        refused = history.notes("refused")
        history.close()
        for name, stats in report.agents.items():
            counts = f"{stats.handled:5} handled {stats.retried:3} again {stats.dead:3} refused"
            print(f"{name:14} {counts}")
        print()
        for alert in desk.alerts:
            when = datetime.fromtimestamp(alert["time"], UTC)
            told = f"M {alert['magnitude']}  {alert['place']}"
            print(f"{when:%Y-%m-%d %H:%M}  {alert['kind']:6}  {told}")
        print()
    for about, error in refused:
        print(f"{about}: {error}")
    print(", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    return 0 if sum(kinds.values()) == len(catalogue()) else 1


def catalogue() -> list[str]:
    """Return the rows of the data, without its head."""
    return (agents.DATA / "quakes.csv").read_text(encoding="utf-8").splitlines()[1:]


if __name__ == "__main__":
    raise SystemExit(main())
