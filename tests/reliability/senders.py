"""Processes and threads that send commands to a run, and what has become of these.

``python -m tests.reliability.senders URL RUN_ID SENDER NUMBER`` sends through the database and
prints the number of each request once it is recorded there.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Command,
    EmitEvent,
    NodeSpec,
    SetNodeInputs,
    SetNodesEnabled,
    command_to_plain,
    ref,
)
from dagger_dsl.store.storage import Store
from tests.reliability.lives import send

__all__ = ["applied", "commands_of", "inbox", "nodes_of", "sign"]


def commands_of(sender: int, number: int) -> Iterator[Command]:
    """Yield what one sender asks for: nodes, other inputs, other switches and events in turn.

    Its own are the nodes ``late<sender>`` and ``flag<sender>``.
    """
    for i in range(number):
        name = f"s{sender}_{i}"
        if i % 5 == 0:
            yield AddNode(NodeSpec("keep", id=name, inputs={"x": i}))
        elif i % 5 == 1:
            both = [
                NodeSpec("keep", id=name, inputs={"x": i}),
                NodeSpec("keep", id=f"{name}b", inputs={"x": ref(f"{name}.result")}),
            ]
            yield AddNodes(both)
        elif i % 5 == 2:
            yield SetNodeInputs(f"late{sender}", {"x": i})
        elif i % 5 == 3:
            yield SetNodesEnabled([f"flag{sender}"], i // 5 % 2 == 1)
        else:
            yield EmitEvent("note", {"sender": sender, "i": i})


def nodes_of(commands: Sequence[Command]) -> list[str]:
    """Return the ids of the nodes that commands add."""
    plain = [command_to_plain(each) for each in commands]
    return [spec["id"] for each in plain for spec in each.get("specs", ())]


def sign(plain: Mapping[str, Any]) -> tuple[int, str]:
    """Return who sent a command of `commands_of`, and what tells it from the others of his."""
    kind = plain["do"]
    if kind == "add":
        ids = [spec["id"] for spec in plain["specs"]]
        return int(ids[0][1:].partition("_")[0]), f"add {ids}"
    if kind == "inputs":
        return int(plain["node_id"][4:]), f"inputs {plain['inputs'][0]['value']}"
    if kind == "enable":
        return int(plain["ids"][0][4:]), f"enable {plain.get('enabled', True)}"
    return plain["payload"]["sender"], f"emit {plain['payload']['i']}"


def applied(path: Path, run_id: str) -> dict[int, list[str]]:
    """Return by sender what the journal says was applied, in order."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for (body,) in _ask(path, "SELECT body FROM run_log WHERE run_id = ? ORDER BY seq", run_id):
        entry = json.loads(body)
        plain = entry.get("command") if isinstance(entry, dict) else None
        if plain is not None and _is_a_senders(plain):
            sender, what = sign(plain)
            found[sender].append(what)
    return dict(found)


def _is_a_senders(plain: Mapping[str, Any]) -> bool:
    if plain["do"] == "add":
        return str(plain["specs"][0]["id"]).startswith("s")
    return plain["do"] in ("inputs", "enable", "emit")


def inbox(path: Path, run_id: str) -> tuple[list[int], list[int]]:
    """Return the numbers of all requests, and those that were taken, in order."""
    asked = _ask(path, "SELECT command_id FROM inbox WHERE run_id = ?", run_id)
    keys = _ask(
        path,
        "SELECT entry_key FROM run_log WHERE run_id = ? AND entry_key LIKE 'inbox:%' ORDER BY seq",
        run_id,
    )
    return [number for (number,) in asked], [int(key.partition(":")[2]) for (key,) in keys]


def _ask(path: Path, query: str, run_id: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, (run_id,)).fetchall()
    finally:
        connection.close()


def main() -> None:
    """Be the process."""
    url, run_id, sender, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with Store(url) as store:
        for command in commands_of(sender, number):
            print(send(store, run_id, command), flush=True)
            time.sleep(0.001)


if __name__ == "__main__":
    main()
