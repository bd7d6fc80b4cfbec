"""The record of a run in words, entry by entry."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from rich.console import Console

from dagger_dsl.store.news import Ended, News, Request
from dagger_dsl.store.records import StoredCommand
from dagger_dsl.views.journal import entries
from dagger_dsl.views.tables import runs_table

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)


def ended(seq: int, node: str, state: str, begun: float | None = 0.0, **more: Any) -> Ended:
    """Return an attempt that began so many seconds after noon and took one second."""
    start = None if begun is None else NOW.timestamp() + begun
    took = None if begun is None else 1.0
    return Ended(
        seq=seq,
        node_id=node,
        key=more.get("key", "default"),
        attempt=more.get("attempt", 1 if begun is not None else 0),
        state=state,
        started_at=start,
        duration=took,
        error=more.get("error"),
        meta=more.get("meta", {}),
    )


def news(*record: Ended | StoredCommand) -> News:
    return News(
        status="running",
        epoch=1,
        owner=None,
        updated_at=NOW,
        error=None,
        attempts=tuple(each for each in record if isinstance(each, Ended)),
        commands=tuple(each for each in record if isinstance(each, StoredCommand)),
        released=(),
        last=9,
    )


def texts(*record: Ended | StoredCommand, requests: dict[int, Request] | None = None) -> list[str]:
    found = entries(news(*record), requests or {})
    return [f"{each.node or '-'} {each.text}" for each in found]


def test_starts_stand_where_they_happened_and_ends_as_they_were_recorded() -> None:
    told = texts(ended(1, "quick", "completed", 0.5), ended(2, "slow", "completed", 0.0))
    assert told == [
        "slow started",
        "quick started",
        "quick completed in 1.00 s",
        "slow completed in 1.00 s",
    ]


def test_what_has_no_time_stays_between_its_neighbours() -> None:
    told = texts(
        ended(1, "a", "completed", 0.0),
        ended(2, "b", "skipped", None, meta={"reason": "branch not taken at 'a'"}),
        ended(3, "c", "completed", 5.0),
    )
    assert told == [
        "a started",
        "a completed in 1.00 s",
        "b skipped: branch not taken at 'a'",
        "c started",
        "c completed in 1.00 s",
    ]


def test_a_clock_that_was_set_back_does_not_turn_the_record() -> None:
    told = texts(ended(1, "a", "completed", 100.0), ended(2, "b", "completed", 0.0))
    assert [each for each in told if "completed" in each] == [
        "a completed in 1.00 s",
        "b completed in 1.00 s",
    ]


COMMANDS: list[tuple[dict[str, Any], str]] = [
    ({"do": "pause", "branch_id": "b", "reason": "look"}, "pause branch b: look"),
    ({"do": "resume", "branch_id": "b"}, "resume branch b"),
    ({"do": "cancel", "branch_id": "b"}, "cancel branch b"),
    ({"do": "cancel_run", "reason": "enough"}, "cancel run: enough"),
    ({"do": "enable", "ids": ["a", "b"], "enabled": False}, "disable a, b"),
    ({"do": "inputs", "node_id": "a", "inputs": []}, "set inputs of a"),
    ({"do": "emit", "name": "checked"}, "emit event checked"),
    ({"do": "add", "specs": [{"id": "n", "action": "x"}, {"action": "y"}]}, "add n, y"),
    ({"do": "answer", "node_id": "a", "key": "3", "value": {"n": 1}}, "answer a[3] = {'n': 1}"),
    ({"do": "of_later"}, "of later"),
]


@pytest.mark.parametrize(("plain", "text"), COMMANDS)
def test_a_command_is_told_in_words_with_who_gave_it(plain: dict[str, Any], text: str) -> None:
    entry = StoredCommand(1, "inbox:7", json.dumps({"command": plain}))
    request = Request(7, json.dumps(plain), "anna", NOW)
    (told,) = entries(news(entry), {7: request})
    assert (told.text, told.at, told.kind) == (f"{text}, by anna", NOW, "command")
    (alone,) = entries(news(StoredCommand(1, None, json.dumps({"command": plain}))), {})
    assert (alone.text, alone.at) == (text, None)


def test_requests_of_nobody_in_particular_and_refusals() -> None:
    plain = {"do": "cancel", "branch_id": "b"}
    request = Request(7, json.dumps(plain), None, NOW)
    refused = json.dumps({"refused": {"type": "NodeNotFound", "message": "there is no\nbranch b"}})
    assert texts(StoredCommand(1, "inbox:7", "{}"), requests={7: request}) == [
        "- cancel branch b, by another process"
    ]
    assert texts(StoredCommand(1, "inbox:7", refused), requests={7: request}) == [
        "- refused: cancel branch b, by another process: there is no"
    ]


def test_ends_that_are_more_than_a_completion() -> None:
    error = {"type": "ValueError", "message": "\x1b[31mbad\nworse", "traceback": ""}
    told = texts(
        ended(1, "a", "failed", 0.0, error=error),
        ended(2, "b", "completed", 2.0, meta={"recovered": True}),
        ended(3, "c", "waiting", 4.0),
        ended(4, "c", "completed", 4.0, meta={"answered": {"by": None}}, attempt=1),
        ended(5, "d", "completed", 8.0, meta={"cache": {"hit": True, "reason": "known"}}),
        ended(6, "e", "cancelled", 9.0, key="k", meta={"reason": "enough"}),
        ended(7, "f", "failed", 11.0, attempt=2),
    )
    assert [each for each in told if "started" not in each] == [
        "a failed in 1.00 s: ValueError: bad",
        "b completed in 1.00 s, recovered by its failure handler",
        "c waits for an answer",
        "c completed: answered",
        "d completed without a call: known",
        "e[k] cancelled in 1.00 s: enough",
        "f failed in 1.00 s: no error was recorded",
    ]
    assert "f started (attempt 2)" in told


def test_notes_for_a_resume_alone_are_nothing_to_tell() -> None:
    bodies: tuple[Any, ...] = ({"tokens": 3}, {"hooks": True}, {"again": ["a"]}, {}, [], 7)
    for body in bodies:
        assert texts(StoredCommand(1, None, json.dumps(body))) == []


def test_ids_in_the_table_of_runs_stay_in_one_piece() -> None:
    run_id = "nightly-reconciliation-2026-11-26-183056"
    rows = [
        {"run_id": run_id, "dag": "reconcile", "status": "failed", "note": "word " * 20},
        {"run_id": "short", "dag": "d", "status": "completed"},
    ]
    console = Console(width=80, file=None)
    with console.capture() as captured:
        console.print(runs_table(rows))
    assert run_id in captured.get()
    assert max(map(len, captured.get().splitlines())) <= 80
    with console.capture() as captured:
        console.print(runs_table([{**rows[0], "run_id": "x" * 200}]))
    assert captured.get().count("x") == 200, "nothing of it is lost"


def test_a_retry_is_told_by_what_stands_beside_the_failure_before_the_next_attempt_ends() -> None:
    error = {"type": "ValueError", "message": "no", "traceback": ""}
    again = {"retry": {"delay": 2.0, "allowed": 4}}
    first = ended(1, "a", "failed", error=error, meta=again)
    second = ended(2, "a", "failed", 3.0, attempt=2, error=error)
    alone = [each.kind for each in entries(news(first), {})]
    together = [each.kind for each in entries(news(first, second), {})]
    assert alone == ["started", "retry"]
    assert together == ["started", "retry", "started", "failed"]
    assert texts(first)[-1] == "a failed in 1.00 s: ValueError: no; tried again after 2.00 s"


@pytest.mark.parametrize("beside", [7, None, [], "x", {"delay": "soon", "allowed": "many"}])
def test_what_no_version_of_ours_wrote_beside_a_failure_hides_nothing(beside: Any) -> None:
    error = {"type": "ValueError", "message": "no", "traceback": ""}
    (_, told) = texts(ended(1, "a", "failed", error=error, meta={"retry": beside}))
    assert told.startswith("a failed in 1.00 s: ValueError: no")
