"""Make a database, start a service, and run the workflow over both; all of it on this machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import rich
import sqlalchemy as sa
from integrations.local import StationService, make_database
from integrations.workflow import climate, connections, dag, engine
from rich.table import Table

from dagger_dsl import Secret

OUT = Path(__file__).parent / "out"


def main() -> int:
    """Run the workflow and print the table that it leaves."""
    OUT.mkdir(exist_ok=True)
    os.environ.setdefault("WEATHER_DATABASE", f"sqlite:///{OUT / 'weather.sqlite'}")
    os.environ["no_proxy"] = "127.0.0.1"  # the service is this process's own
    make_database(os.environ["WEATHER_DATABASE"])
    token = secrets.token_urlsafe()
    try:
        with StationService(token) as service:
            dag.run(
                {"service": service.url, "token": Secret(token)},
                runner="threads",
                timeout=60,
                database_url=f"sqlite:{OUT / 'runs.db'}",
            )
        rich.print(dag.report, climate_table())
    finally:
        connections.close()
        engine().dispose()
    return 0


def climate_table() -> Table:
    """Return what the workflow has stored, as a table."""
    table = Table("place", "month", "°C", "mm a day", "hours of daylight", title="climate")
    with engine().connect() as conn:
        for row in conn.execute(sa.select(climate).order_by(climate.c.place, climate.c.month)):
            table.add_row(
                row.place, str(row.month), f"{row.temp:.1f}", f"{row.rain:.1f}", f"{row.daylight}"
            )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
