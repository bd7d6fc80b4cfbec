"""What stands for the world outside: a database file with weather in it, and an HTTP service.

Neither is part of the workflow; whoever copies it has these already.
"""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from datetime import date
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa
from integrations.workflow import days, metadata

EXAMPLES = Path(__file__).parents[1]
WEATHER = EXAMPLES / "dag_flow" / "data" / "weather.csv"
AIRPORTS = EXAMPLES / "agent_flow" / "data" / "airports.csv"

#: The stations of the service: they stand at airports.
STATIONS = {"Seattle": "SEA", "New York": "JFK"}


def make_database(url: str) -> None:
    """Make the tables anew and fill `days` with four years of two cities."""
    with WEATHER.open(encoding="utf-8", newline="") as file:
        rows = [
            {
                "place": row["location"],
                "date": date.fromisoformat(row["date"]),
                "temp_min": float(row["temp_min"]),
                "temp_max": float(row["temp_max"]),
                "rain": float(row["precipitation"]),
            }
            for row in csv.DictReader(file)
        ]
    engine = sa.create_engine(url)
    with engine.begin() as conn:
        metadata.drop_all(conn)
        metadata.create_all(conn)
        conn.execute(sa.insert(days), rows)
    engine.dispose()


class StationService:
    """A service on a free port of this machine, for a ``with`` block.

    ``GET /stations?city=Seattle`` answers with a station to who has the token. Like others of its
    kind it is busy at times: the first request for each city is answered with 503.

    Args:
        token: Who has it may ask.
        busy: How many requests for a city are answered with 503 before one is not.

    Attributes:
        requests: How often each city was asked for.
        busy: As given; it may change.
    """

    def __init__(self, token: str, busy: int = 1) -> None:
        self.requests: Counter[str] = Counter()
        self._token = token
        self.busy = busy
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StationService:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, authorization: str) -> tuple[HTTPStatus, dict[str, Any]]:
        """Return the status and the document that answer a request."""
        target = urlsplit(path)
        if not compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return HTTPStatus.UNAUTHORIZED, {"error": "who are you?"}
        city = parse_qs(target.query).get("city", [""])[0]
        with self._lock:
            self.requests[city] += 1
            asked = self.requests[city]
        if target.path != "/stations" or city not in STATIONS:
            return HTTPStatus.NOT_FOUND, {"error": f"there is no station in {city!r}"}
        if asked <= self.busy:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "come back later"}
        with AIRPORTS.open(encoding="utf-8", newline="") as file:
            rows = {row["iata"]: row for row in csv.DictReader(file)}
        row = rows[STATIONS[city]]
        document = {"city": city, "name": row["name"], "latitude": float(row["latitude"])}
        return HTTPStatus.OK, document

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = service.answer(self.path, self.headers.get("Authorization", ""))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass  # the report says what was asked how often

        return Handler
