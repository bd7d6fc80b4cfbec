"""Those who start the processes of `talkers`, kill them, and look at what they have left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from tests.reliability.helpers import popen

__all__ = ["LONG", "Talkers"]

#: Seconds that nothing here takes, however busy the machine is.
LONG = 500.0


class Talkers:
    """Processes that are started quickly, and killed."""

    def __init__(self, folder: Path, messages: int) -> None:
        self.database = f"sqlite:{folder / 'bus.db'}"
        self._folder = folder
        self._messages = messages
        self._alive: dict[str, int] = {}
        self._server = popen(
            "tests.reliability.talkers", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def _ask(self, line: str) -> str:
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        answer: str = self._server.stdout.readline().strip()
        assert answer, "the server died"
        return answer

    def start(self, role: str) -> None:
        order = f"{role} {self.database} {self._folder / role} {self._messages}"
        self._alive[role] = int(self._ask(order))

    def kill(self, role: str) -> None:
        process = self._alive.pop(role)
        os.kill(process, signal.SIGKILL)
        assert self._ask(f"wait {process}") == "gone"

    def log(self, role: str) -> list[list[str]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self._folder / role).read_text().split("\n")
            return [line.split() for line in lines[:-1]]
        return []

    def is_at(self, role: str, lines: int) -> bool:
        """Wait until a log has so many lines; return False when it does not grow any more."""
        seen, since = -1, time.monotonic()
        while (found := len(self.log(role))) < lines:
            if found > seen:
                seen, since = found, time.monotonic()
            if time.monotonic() - since > 20.0:
                return False
            time.sleep(0.002)
        return True

    def positions(self) -> dict[str, int]:
        with Store(self.database) as store:
            rows = MessageRows(store.database, store._payloads)
            return {each.name: each.position for each in rows.subscriptions()}

    def query(self, text: str) -> list[dict[str, object]]:
        with Store(self.database) as store:
            return store.query(text)

    def finish(self, roles: list[str]) -> None:
        """Wait until these subscribers are done with all that was published."""
        deadline = time.monotonic() + LONG
        while True:
            (row,) = self.query("SELECT max(message_id) AS n FROM messages WHERE channel = 'work'")
            last, positions = row["n"], self.positions()
            assert isinstance(last, int)
            there = all(positions.get(each, -1) >= last for each in roles)
            if there and not self.query("SELECT * FROM deliveries WHERE state = 'retry'"):
                return
            assert time.monotonic() < deadline, (last, positions)
            time.sleep(0.05)

    def close(self) -> None:
        for role in list(self._alive):
            self.kill(role)
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()
