"""Four agents between a catalogue of seismic events and a desk that wants to know of some."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from quake_alerts.desk import post
from quake_alerts.history import History

from dagger_dsl.pubsub import Message, MessageContext, pubsub_agent

DATA = Path(__file__).parent / "data"
#: What one network calls California, another one calls CA.
NAMES = {"CA": "California", "NV": "Nevada", "MX": "Mexico"}

#: What is known of an event once it is read; a record of which that cannot be said is refused.
QUAKE = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "time": {"type": "number"},
        "region": {"type": "string", "minLength": 1},
        "place": {"type": "string"},
        "magnitude": {"type": "number", "minimum": -2, "maximum": 10},
        "depth": {"type": "number", "minimum": -10, "maximum": 700},
        "rms": {"type": "number", "minimum": 0},
    },
    "required": ["id", "time", "region", "place", "magnitude", "depth", "rms"],
}

STRONG = 6.0
#: So many earthquakes of that magnitude, in one region and so many seconds, are a swarm.
SWARM, SWARM_MAGNITUDE, SWARM_SECONDS = 5, 4.0, 6 * 3600.0


def region_of(place: str) -> str:
    """Return the region of a place: what stands behind its last comma."""
    name = place.rpartition(", ")[2]
    return NAMES.get(name, name)


@pubsub_agent(subscribe="catalogues", publish="records")
def read_catalogue(name: str, bus: MessageContext) -> None:
    """Publish each row of a file; all of them, or none where this is killed."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            # An id is published once, also where the next catalogue has the event again. What has
            # one key stays in order: here the events of a region.
            _ = bus.publish("records", row, key=region_of(row["place"]), id=row["id"])


class Ingest:
    """Makes an event of a row of text. Each type of event has a channel of its own.

    Args:
        pace: Seconds to spend on each, for those who want to watch, or to kill it.
    """

    def __init__(self, pace: float = 0.0) -> None:
        self._pace = pace

    def handle_message(self, message: Message, bus: MessageContext) -> None:
        """Read a record; what is no number in it stays a text, which the schema refuses."""
        time.sleep(self._pace)
        row: Mapping[str, str] = message.payload
        region = region_of(row["place"])
        quake = {
            "id": row["id"],
            "time": datetime.fromisoformat(row["time"]).timestamp(),
            "region": region,
            "place": row["place"],
            **{name: number(row[name]) for name in ("magnitude", "depth", "rms")},
        }
        kind = row["type"].replace(" ", "_")
        _ = bus.publish(f"quakes.{kind}", quake, key=region)


def number(text: str) -> float | str:
    """Return the number that a text is, else the text."""
    try:
        return float(text)
    except ValueError:
        return text


class Analyse:
    """Looks for what is worth an alert: strong earthquakes, and swarms of them.

    What it has to remember is in its history, for the next process. It may be given an event twice;
    the history takes it once, and finds the same in it again.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def handle_message(self, message: Message, bus: MessageContext) -> None:
        """Add an earthquake to the history, and publish what that makes known."""
        quake = message.payload
        self._history.add(quake)
        found = []
        if quake["magnitude"] >= STRONG:
            found.append("strong")
        if quake["magnitude"] >= SWARM_MAGNITUDE:
            recent = self._history.count(
                quake["region"], quake["time"] - SWARM_SECONDS, quake["time"], SWARM_MAGNITUDE
            )
            if recent == SWARM:  # with the next one it is no news
                found.append("swarm")
        for kind in found:
            _ = bus.publish("alerts", {"kind": kind, **quake}, key=quake["region"])


class Alert:
    """Tells the desk. A desk that is busy is asked again, by the policy of the bus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def handle_message(self, message: Message, bus: MessageContext) -> None:
        """Post an alert, with a key by which the desk knows one that it has already."""
        post(self._url, bus.idempotency_key, message.payload)


class Tally:
    """Keeps how many events there were of each type, and which records were refused, and why."""

    def __init__(self, history: History) -> None:
        self._history = history

    def handle_message(self, message: Message) -> None:
        """Note an event, or the end of a message that an agent has given up."""
        told: dict[str, Any] = message.payload
        if message.channel == "faults":
            self._history.note(told["message_id"], "refused", told["error"])
        else:
            self._history.note(told["id"], message.channel.removeprefix("quakes."), "")
