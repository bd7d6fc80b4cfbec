"""``explain`` and ``show``: one node of a run, why it is so, and what can be done."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_following import RETRYING
from tests.cli.test_steering import line_in

CACHED = """\
from dagger_dsl import DAG, action

@action(cache=True)
def costly(n: int = 2) -> int:
    return n * n

@action
def told(x: int) -> dict:
    return {"text": "x" * 50_000, "x": x}

@action
def split(told: dict) -> int:
    return told["x"]

with DAG("cached") as dag:
    split(told(costly()))
"""


@pytest.fixture
def retrying(cli: Cli, folder: Path) -> Path:
    """A run with a retry, a map and a branch."""
    (folder / "retrying.py").write_text(RETRYING)
    assert cli("run", "retrying.py", "--run-id", "r").code == 0
    return folder


# --- explain -------------------------------------------------------------------------------------


def test_a_branch_that_was_not_taken_is_explained_by_the_label(cli: Cli, retrying: Path) -> None:
    done = cli("explain", "r", "yes")
    assert done.code == 0
    assert done.out == "'yes' was skipped: it needs 'check', which chose 'false', not 'true'\n"


def test_what_was_skipped_for_a_failure_leads_to_it_and_to_the_way_on(cli: Cli) -> None:
    cli("run", "pipeline.py:paused", "--run-id", "r")
    done = cli("explain", "r", "double")
    assert "'double' has not started: it needs 'pausing'" in done.out
    assert "ValueError: not yet" in done.out
    assert line_in(done.out, "resume") == ["resume", "r", "--actions", "MODULE_OR_FILE"]
    failed = cli("explain", "r", "pausing", "--json")
    answer = json.loads(failed.out)
    assert (answer["node"], answer["state"], answer["cache"]) == ("pausing", "failed", None)
    assert answer["explanation"][0].startswith("'pausing' failed after 1 attempt")
    assert answer["ways_on"][-1] == "  dagger-dsl resume r --actions MODULE_OR_FILE"


@pytest.mark.row("E11")
def test_what_waits_behind_a_question_is_told_how_it_is_answered(cli: Cli) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    done = cli("explain", "r", "told")
    assert "'told' has not started: it needs 'ask', which waits" in done.out
    assert line_in(done.out, "answer") == ["answer", "r", "ask", "true"]


def test_a_result_of_another_run_is_explained(cli: Cli, folder: Path) -> None:
    (folder / "cached.py").write_text(CACHED)
    cli("run", "cached.py", "--run-id", "r1")
    cli("run", "cached.py", "--run-id", "r2")
    assert "cache: miss: " in cli("explain", "r1", "costly").out
    hit = cli("explain", "r2", "costly").out
    assert "cache: hit: " in hit
    assert "made by run r1" in hit
    assert json.loads(cli("explain", "r2", "costly", "--json").out)["cache"]["hit"] is True
    assert "cache" not in cli("explain", "r2", "told").out
    assert "costly  completed without a call" in cli("logs", "r2").out


def test_a_completed_node_needs_no_way_on(cli: Cli) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r")
    assert "dagger-dsl" not in cli("explain", "r", "one").out
    assert "dagger-dsl resume" in cli("explain", "r", "fickle").out


# --- show --node ---------------------------------------------------------------------------------


def test_a_node_is_shown_with_its_inputs_and_attempts(cli: Cli, retrying: Path) -> None:
    out = cli("show", "r", "--node", "flaky").out
    assert re.match(r"flaky: completed, 3 attempts, ", out)
    assert "inputs:\n  xs = [1, 2]  <- two.result\n" in out
    rows = re.findall(
        r"^  (\d)  (\w+) +\d\d:\d\d:\d\d\.\d{3}  [\d.]+ \S+ ?(.*)$", out, re.MULTILINE
    )
    assert [(number, state, error.strip()) for number, state, error in rows] == [
        ("1", "failed", "ValueError: not yet"),
        ("2", "failed", "ValueError: not yet"),
        ("3", "completed", ""),
    ]
    assert out.endswith("value: 3\n")
    plain = json.loads(cli("show", "r", "--node", "flaky", "--json").out)
    assert plain["inputs"] == [{"name": "xs", "reference": "two.result", "value": [1, 2]}]
    assert [each["state"] for each in plain["calls"]] == ["failed", "failed", "completed"]
    assert plain["value"] == 3


def test_a_mapped_node_is_shown_with_its_invocations(cli: Cli, retrying: Path) -> None:
    out = cli("show", "r", "--node", "double").out
    assert re.search(r"^  \[0\]  completed  1 attempt", out, re.MULTILINE)
    assert re.search(r"^  \[1\]  completed  1 attempt", out, re.MULTILINE)
    assert "value: [2, 4]" in out


def test_inputs_that_never_came_say_why(cli: Cli) -> None:
    cli("run", "pipeline.py:paused", "--run-id", "r")
    assert "  x not shown: 'pausing' is failed  <- pausing.result" in (
        cli("show", "r", "--node", "double").out
    )
    (given,) = json.loads(cli("show", "r", "--node", "double", "--json").out)["inputs"]
    assert given["missing"] == "'pausing' is failed"


def test_long_values_are_cut_for_people_only(cli: Cli, folder: Path) -> None:
    (folder / "cached.py").write_text(CACHED)
    cli("run", "cached.py", "--run-id", "r")
    out = cli("show", "r", "--node", "split").out
    (line,) = [each for each in out.splitlines() if each.startswith("  told = ")]
    assert len(line) < 400
    assert line.endswith("…  <- told.result")
    told = cli("show", "r", "--node", "told").out
    assert max(map(len, told.splitlines())) < 10_100
    plain = json.loads(cli("show", "r", "--node", "told", "--json").out)
    assert len(plain["value"]["text"]) == 50_000


def test_inputs_of_the_run_are_shown_where_they_are_bound(cli: Cli) -> None:
    done = cli("run", "sum.yaml", "--actions", "adding.py", "-i", "num1=1", "-i", "num2=2")
    run_id = re.findall(r"run (\S+) of sum", done.out)[0]
    out = cli("show", run_id, "--node", "add").out
    assert "  num1 = 1  <- inputs.num1\n  num2 = 2  <- inputs.num2\n" in out


# --- show --html ---------------------------------------------------------------------------------


def test_a_page_shows_a_run_and_not_a_node(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    done = cli("show", "r", "--node", "one", "--html", "x.html")
    assert done.code == 2
    assert "--html or --node, not both" in done.err


def test_a_run_is_written_as_a_page(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r")
    assert cli("show", "r", "--html", "run.html").code == 0
    page = (folder / "run.html").read_text()
    assert "fickle" in page
    assert page.lstrip().lower().startswith("<!doctype html")
    told = cli("show", "r", "--html", "again.html", "--json")
    assert json.loads(told.out) == {"run_id": "r", "written": "again.html"}


def test_a_page_that_cannot_be_written_is_refused(cli: Cli) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r")
    for path in ("nowhere/x.html", ""):
        done = cli("show", "r", "--html", path)
        assert done.code == 2
        assert "cannot be written: " in done.err


STOPPED = """\
from dagger_dsl import DAG, action

@action
def load() -> int:
    return 1

@action(attempts=3, retry_delay=30)
def flaky(load: int) -> int:
    raise ConnectionError("nobody answers")

@action
def broken(flaky_is_tried: int) -> int:
    raise ValueError("no")

with DAG("stopped") as dag:
    found = load()
    flaky(found)
    broken(found)
"""


def test_an_attempt_before_a_node_was_cancelled_is_not_forgotten(cli: Cli, folder: Path) -> None:
    (folder / "stopped.py").write_text(STOPPED)
    ran = cli("run", "stopped.py", "--run-id", "r", "--runner", "sequential")
    assert ran.code == 1
    for done in (ran, cli("show", "r")):
        assert re.search(r"^flaky +cancelled +1 +\d", done.out, re.M), done.out
    page = cli("show", "r", "--node", "flaky").out
    assert page.startswith("flaky: cancelled, 1 attempt, ")
    assert re.search(r"attempts:\n  1  failed .* ConnectionError: nobody answers\n", page)
    why = cli("explain", "r", "flaky").out
    assert why.startswith("'flaky' was cancelled after 1 attempt in ")
