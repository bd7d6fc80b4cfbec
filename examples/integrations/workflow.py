"""A workflow over a database and an HTTP service, to be copied and changed.

Both sides fail in their own ways, so each action says which errors are worth another call. What is
wrong for good, an unknown city or a refused token, fails at once; what passes, a busy service or a
locked table, is tried again.

    list_places -> monthly_weather (a query for each place) ---.
               `-> find_station (a request for each place) -----> join_daylight -> store_climate

The database is that of ``WEATHER_DATABASE``, a URL of SQLAlchemy; the service's address and its
token are given to a run.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from functools import cache
from http import HTTPStatus
from math import acos, cos, pi, radians, tan
from typing import Any, TypedDict
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from dagger_dsl import DAG, ResourcePool, RetryPolicy, Secret, action

metadata = sa.MetaData()
days = sa.Table(
    "days",
    metadata,
    sa.Column("place", sa.String, primary_key=True),
    sa.Column("date", sa.Date, primary_key=True),
    sa.Column("temp_min", sa.Float, nullable=False),  # degrees Celsius
    sa.Column("temp_max", sa.Float, nullable=False),
    sa.Column("rain", sa.Float, nullable=False),  # millimetres
)
climate = sa.Table(
    "climate",
    metadata,
    sa.Column("place", sa.String, primary_key=True),
    sa.Column("month", sa.Integer, primary_key=True),
    sa.Column("station", sa.String, nullable=False),
    sa.Column("temp", sa.Float, nullable=False),
    sa.Column("rain", sa.Float, nullable=False),  # millimetres a day
    sa.Column("daylight", sa.Float, nullable=False),  # hours on the 15th
)


class Month(TypedDict):
    """The weather of a month of the year."""

    place: str
    month: int
    temp: float
    rain: float


class Station(TypedDict):
    """What the service knows of a station."""

    city: str
    name: str
    latitude: float


# --- the database ---------------------------------------------------------------------------------


@cache
def engine() -> sa.Engine:
    """Return the engine of the database; it connects when it is first asked to."""
    return sa.create_engine(os.environ["WEATHER_DATABASE"])


#: Each call of an action is lent a connection and gives it back, however it ends; a fifth call at
#: the same time waits for one.
connections = ResourcePool(lambda: engine().connect(), max_size=4, dispose=sa.Connection.close)

#: A locked table, a server that restarts: `OperationalError`. A wrong query is none, and fails.
TABLES_ARE_BUSY = RetryPolicy(3, base_delay=0.1, retry_on=OperationalError)


@action(uses={"conn": connections}, timeout=30, retry=TABLES_ARE_BUSY)
def list_places(conn: sa.Connection) -> list[str]:
    """List the places that there are days of."""
    with conn.begin():
        return list(conn.scalars(sa.select(days.c.place).distinct().order_by(days.c.place)))


@action(uses={"conn": connections}, timeout=30, retry=TABLES_ARE_BUSY)
def monthly_weather(conn: sa.Connection, place: str) -> list[Month]:
    """Ask for the mean temperature and the rain of each month of the year at a place."""
    month = sa.extract("month", days.c.date)
    query = (
        sa.select(
            month.label("month"),
            sa.func.avg((days.c.temp_min + days.c.temp_max) / 2).label("temp"),
            sa.func.avg(days.c.rain).label("rain"),
        )
        .where(days.c.place == place)  # a bound parameter: no text of anybody's becomes SQL
        .group_by(month)
        .order_by(month)
    )
    with conn.begin():
        return [
            Month(place=place, month=row.month, temp=round(row.temp, 1), rain=round(row.rain, 2))
            for row in conn.execute(query)
        ]


@action(uses={"conn": connections}, timeout=30, retry=TABLES_ARE_BUSY)
def store_climate(conn: sa.Connection, rows: list[dict[str, Any]]) -> int:
    """Replace the table `climate`, so that a second call changes nothing; return its rows."""
    with conn.begin():  # all or nothing
        conn.execute(sa.delete(climate))
        conn.execute(sa.insert(climate), rows)
        return conn.scalar(sa.select(sa.func.count()).select_from(climate)) or 0


# --- the service ----------------------------------------------------------------------------------


class ServiceUnavailable(Exception):
    """The service cannot answer now; it may do so later."""


class ServiceRefused(Exception):
    """The service will not answer this, however often it is asked."""


_PASSING = frozenset(
    (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    )
)


def get_json(url: str, token: Secret, seconds: float) -> Any:
    """Get a document.

    Args:
        url: Where it is.
        token: Who asks. Its text is seen here alone: it is never printed or stored.
        seconds: How long the line may be silent.

    Raises:
        ServiceUnavailable: There is no answer, or one that says that another time may be better.
        ServiceRefused: The answer is no.
    """
    headers = {"Authorization": f"Bearer {token.reveal()}", "Accept": "application/json"}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        error.close()
        kind = ServiceUnavailable if error.code in _PASSING else ServiceRefused
        raise kind(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:  # nobody listens, or the name is unknown
        raise ServiceUnavailable(f"{url} cannot be reached: {error.reason}") from error
    except OSError as error:  # the line broke, or was silent for too long
        raise ServiceUnavailable(f"{url} stopped answering: {error}") from error


@action(
    timeout=10,  # of one attempt, however it is spent
    retry=RetryPolicy(
        4, base_delay=0.2, max_delay=5, jitter=0.1, retry_on=(ServiceUnavailable, TimeoutError)
    ),
)
def find_station(place: str, service: str, token: Secret) -> Station:
    """Ask the service for the station of a place."""
    found = get_json(f"{service}/stations?{urlencode({'city': place})}", token, seconds=5)
    return Station(
        city=str(found["city"]), name=str(found["name"]), latitude=float(found["latitude"])
    )


# --- both -----------------------------------------------------------------------------------------


def hours_of_daylight(latitude: float, day_of_year: int) -> float:
    """Return how long the sun is up, in hours, from its declination; polar days have 24, or 0."""
    declination = -radians(23.44) * cos(2 * pi * (day_of_year + 10) / 365)
    turn = -tan(radians(latitude)) * tan(declination)
    return 24 / pi * acos(max(-1.0, min(1.0, turn)))


@action
def join_daylight(weather: list[list[Month]], stations: list[Station]) -> list[dict[str, Any]]:
    """Put the hours of daylight beside the weather of each month."""
    return [
        {
            **month,
            "station": station["name"],
            "daylight": round(
                hours_of_daylight(station["latitude"], round(30.42 * (month["month"] - 0.5))), 1
            ),
        }
        for months, station in zip(weather, stations, strict=True)
        for month in months
    ]


with DAG("climate", description="Weather from a database, daylight from a service") as dag:
    service = dag.input("service", str)
    token = dag.input("token", Secret)
    places = dag.add(list_places)  # as a call, a type checker would miss the connection
    weather = monthly_weather.map(places)
    stations = find_station.map(places, service=service, token=token)
    join_daylight(weather, stations) >> store_climate
