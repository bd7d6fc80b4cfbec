"""What stands for the world outside: a desk that takes alerts over HTTP, and is busy at times."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any


def post(url: str, key: str, alert: dict[str, Any]) -> None:
    """Post an alert.

    Raises:
        ConnectionError: The desk is busy or not there, which may pass.
        urllib.error.HTTPError: It says no, which stays so.
    """
    body = json.dumps(alert).encode()
    request = urllib.request.Request(url, body, {"Idempotency-Key": key})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        raise ConnectionError("the desk is busy") from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"the desk does not answer: {error.reason}") from error


class Desk:
    """A desk on a free port of this machine, for a ``with`` block. Each first call finds it busy.

    Args:
        path: The file with what it was told, a line each; what stands there it knows already.

    Attributes:
        calls: How often it was called.
    """

    def __init__(self, path: Path) -> None:
        self.calls = 0
        self._path = path
        self._lock = threading.Lock()
        self._called: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """What it was told, in the order of the events' time."""
        alerts = [alert for _, alert in self._lines()]
        return sorted(alerts, key=lambda alert: (alert["time"], alert["kind"]))

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        if not self._path.exists():
            return []
        with self._path.open(encoding="utf-8") as file:
            return [tuple(json.loads(line)) for line in file]

    def take(self, key: str, alert: dict[str, Any]) -> HTTPStatus:
        """Take an alert, once for each key; or be busy."""
        with self._lock:
            self.calls += 1
            if key not in self._called:
                self._called.add(key)
                return HTTPStatus.SERVICE_UNAVAILABLE
            if key not in dict(self._lines()):
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{json.dumps([key, alert])}\n")
            return HTTPStatus.NO_CONTENT

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                alert = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(desk.take(self.headers["Idempotency-Key"], alert))
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> Desk:
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
