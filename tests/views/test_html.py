"""A run as one page: it opens from disk, says what there is to say, and nothing can break it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import (
    DAG,
    FSM,
    CancelToken,
    DagConfig,
    FSMReturn,
    NodeCtx,
    RetryPolicy,
    RunOptions,
    Secret,
    Store,
    action,
    engine,
)
from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.report import ErrorInfo, NodeReport, RunReport
from dagger_dsl.errors import ConfigurationError, DaggerError
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.urls import shown_url
from dagger_dsl.views.page import attribute, text
from dagger_dsl.views.stored import stored_report
from tests.views.checks import contrast
from tests.views.pages import Checked, check
from tests.views.reports import make_report

INSIDE = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
HOSTILE = "<script>alert(1)</script>\"'&<b>\n\x1b[31m\x00 \u202eabc שלום \ud800 -->]]>"


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def ran(flow: Any, **options: Any) -> RunReport:
    """Return the report of a run, however it ends."""
    try:
        flow.run(**options)
    except DaggerError:
        pass
    report: RunReport = flow.report
    return report


def recorded(report: RunReport) -> RunReport:
    """Return what a database has of a run."""
    url = str(report.database_url)
    with Store(url) as store:
        found = stored_report(store.load_run(report.run_id), url, store)
        found.to_html()  # while the store is open
        return found


def page_of(report: RunReport) -> Checked:
    return check(report.to_html())


# --- runs of every kind ---------------------------------------------------------------------------


def line(fail: bool = False) -> DAG:
    def load(path: str) -> list[int]:
        return [1, 2, 3]

    def total(rows: list[int], factor: int) -> int:
        if fail:
            raise ValueError(f"cannot add {rows}")
        return sum(rows) * factor

    def show(value: int) -> str:
        return f"total {value}"

    with DAG("line", description="Adds what is in a file") as dag:
        rows = action(load)(path=dag.input("path", str))
        action(show)(
            action(total, retry=RetryPolicy(max_attempts=2, base_delay=0))(rows, factor=10)
        )
    return dag


def small(url: str | None) -> RunReport:
    return ran(line(), inputs={"path": "/data/x.csv"}, database_url=url)


def failed(url: str | None) -> RunReport:
    return ran(line(fail=True), inputs={"path": "/data/x.csv"}, database_url=url)


def mapped(url: str | None) -> RunReport:
    def half(x: int) -> float:
        if x == 3:
            raise ArithmeticError("three is odd")
        return x / 2

    with DAG("mapped") as dag:
        action(half).map([1, 2, 3, 4])
    return ran(dag, database_url=url)


def machine(url: str | None) -> RunReport:
    fsm = FSM("lamp")

    @fsm.state(initial=True)
    def off(n: int = 0) -> FSMReturn:
        return FSMReturn(next_state="on" if n < 3 else "broken", value=n + 1)

    @fsm.state
    def on(n: int) -> FSMReturn:
        return FSMReturn(next_state="off", value=n)

    @fsm.state(terminal=True)
    def broken(n: int) -> str:
        return f"after {n}"

    return ran(fsm, database_url=url)


def nested(url: str | None) -> RunReport:
    def check_(x: int) -> int:
        if x == 2:
            raise ValueError("two is even")
        return x

    with DAG("inner") as inner:
        action(check_, name="check").with_options(id="check")(x=inner.input("x", int))
    with DAG("outer") as outer:
        inner.map([1, 2, 3])
        inner(x=1)
    return ran(outer, database_url=url)


def paused(url: str | None) -> RunReport:
    def ask(ctx: NodeCtx) -> str:
        return ctx.wait_for_human("Ship <it>?")  # type: ignore[return-value]

    with DAG("ask") as dag:
        action(ask)()  # type: ignore[call-arg]
    return ran(dag, database_url=url)


def cancelled(url: str | None) -> RunReport:
    token = CancelToken()

    def stop() -> int:
        token.cancel("enough of it")
        return 1

    def after(x: int) -> int:
        return x

    with DAG("stops") as dag:
        action(after)(action(stop)())
    return ran(dag, database_url=url, cancel=token)


def timed_out(url: str | None) -> RunReport:
    never = threading.Event()

    def slow() -> None:
        never.wait(0.3)

    with DAG("slow") as dag:
        action(slow)()
    found = ran(dag, database_url=url, timeout=0.02, runner="threads")
    never.set()
    return found


KINDS: dict[str, Callable[[str | None], RunReport]] = {
    "completed": small,
    "failed": failed,
    "mapped": mapped,
    "machine": machine,
    "nested": nested,
    "paused": paused,
    "cancelled": cancelled,
    "timed_out": timed_out,
}


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_every_kind_have_a_page(kind: str, tmp_path: Path) -> None:
    report = KINDS[kind](f"sqlite:{tmp_path / 'runs.db'}")
    if kind in set(RunStatus):
        assert report.status == kind
    live, read = page_of(report), page_of(recorded(report))
    for page in (live, read):
        assert page.headings[0] == (1, report.dag_name)
        assert report.run_id in page.text
        assert str(report.status).replace("_", " ") in page.text
        for node_id in report.graph.nodes:
            assert node_id in page.text
        for title in ("Graph", "Nodes", "Configuration", "Environment"):
            assert (2, title) in page.headings


def test_a_page_tells_what_came_of_a_run() -> None:
    page = page_of(small(None))
    assert "Adds what is in a file" in page.text
    assert "3 completed" in page.text
    assert "'/data/x.csv'" in page.text
    assert "'total 60'" in page.text
    assert (3, "Critical path") in page.headings
    assert (3, "Slowest nodes") in page.headings
    assert (2, "What failed") not in page.headings
    assert "dagger-dsl resume" not in page.text


def test_a_failure_comes_first_with_all_that_is_needed_to_mend_it(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    report = failed(url)
    for each in (report, recorded(report)):
        page = page_of(each)
        assert page.headings[1] == (2, "What failed")
        told = page.text[page.text.index("cannot add") - 400 :]
        assert "failed in attempt 2" in told
        assert "ValueError: cannot add [1, 2, 3]" in told
        assert 'raise ValueError(f"cannot add {rows}")' in told
        assert "rows [1, 2, 3]" in re.sub(r"\s+", " ", told)
        assert "attempt 1" in told
        assert f"dagger-dsl resume {report.run_id} --actions MODULE_OR_FILE --db {url}" in told


def test_what_is_in_memory_only_cannot_be_resumed() -> None:
    told = page_of(failed(None)).text
    assert "dagger-dsl resume" not in told
    assert "in memory only" in told
    assert "in memory only" in page_of(failed("sqlite::memory:")).text


def test_an_item_of_a_list_that_failed_is_named_with_its_own_input() -> None:
    page = page_of(mapped(None))
    told = re.sub(r"\s+", " ", page.text)
    assert f"half {INSIDE} [2] failed" in told
    assert "ArithmeticError: three is odd" in told
    assert "Its inputs x 3" in told
    assert "4 invocations: 2 completed, 1 failed, 1 cancelled" in told or (
        "4 invocations: 3 completed, 1 failed" in told
    )


def test_a_failure_inside_a_nested_run_is_shown_where_it_happened() -> None:
    report = nested(None)
    told = re.sub(r"\s+", " ", page_of(report).text)
    assert f"inner {INSIDE} [1] {INSIDE} check failed" in told
    assert "two is even" in told
    assert told.count("ValueError: two is even") >= 2  # among the failures, and in its own run
    assert "Runs inside this run" in told


def test_a_machine_shows_its_way(tmp_path: Path) -> None:
    report = machine(f"sqlite:{tmp_path / 'runs.db'}")
    page = page_of(recorded(report))
    assert (2, "Cycles") in page.headings
    order = re.findall(r"\b(off|on|broken)\b", page.text[page.text.rindex("Cycle State") :])
    assert order[:8] == ["off", "on", "off", "on", "off", "on", "off", "broken"]
    told = page_of(machine(None)).text
    assert "a database" not in told
    assert re.search(r"off \d+ % 4 ", told[told.index("Slowest nodes") :])


def test_who_waits_for_a_person_says_for_what(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    report = paused(url)
    for each in (report, recorded(report)):
        told = page_of(each).text
        assert "How it goes on" in told
        assert "waits for a person: Ship <it>?" in told
        assert f"dagger-dsl answer {report.run_id} ask VALUE --db {url}" in told
        assert f"dagger-dsl resume {report.run_id}" in told
    assert "dagger-dsl answer" not in page_of(paused(None)).text


def test_a_run_that_goes_on_has_a_page_too() -> None:
    begun, go = threading.Event(), threading.Event()

    def first() -> int:
        return 1

    def wait(x: int) -> int:
        begun.set()
        go.wait(10)
        return x

    with DAG("long") as dag:
        action(wait)(action(first)())
    handle = dag.start()
    try:
        assert begun.wait(10)
        page = page_of(handle.report)
        assert "running" in page.text
        assert "As it was" in page.text
    finally:
        go.set()
        handle.result()


def test_what_was_not_called_says_so(tmp_path: Path) -> None:
    calls: list[int] = []

    def count() -> int:
        calls.append(1)
        if len(calls) == 1:
            return 1
        raise AssertionError("called again")

    def fail() -> int:
        if len(calls) == 1:
            calls.append(2)
            raise ValueError("once")
        return 2

    with DAG("twice") as dag:
        action(count)() >> action(fail)()
    url = f"sqlite:{tmp_path / 'runs.db'}"
    first = ran(dag, database_url=url)
    again = engine.resume(first.run_id, dag.registry, RunOptions(database_url=url))
    page = again.to_html()
    assert "restored" in check(page).text
    assert "bar kept" in page
    assert "taken from an earlier run or process" in page


def test_simulations_and_dry_runs_have_no_times_and_a_page() -> None:
    graph = Graph("plan", [Node("a", "f"), Node("b", "f", dependencies=["a"])])
    page = page_of(graph.simulate().report())  # type: ignore[attr-defined]
    assert (2, "Timeline") not in page.headings
    assert (2, "Nodes") in page.headings


def test_what_the_run_itself_failed_with_is_told() -> None:
    graph = Graph("g", [Node("a", "f")])
    report = make_report(
        graph, status=RunStatus.FAILED, exception=RuntimeError("no room <left>"), abandoned=("a",)
    )
    told = page_of(report).text
    assert "The run itself" in told
    assert "no room <left>" in told
    assert "was left behind" in told


# --- what sums up many calls ----------------------------------------------------------------------


def rows_of_table(page: Checked, caption: str) -> str:
    """Return the text of the part of a page that a table begins."""
    return page.text[page.text.index(caption) :]


def test_a_recorded_map_counts_its_items_and_not_itself(tmp_path: Path) -> None:
    def half(x: int) -> float:
        return x / 2

    with DAG("mapped") as dag:
        action(half).map(list(range(8)))
    report = ran(dag, database_url=f"sqlite:{tmp_path / 'runs.db'}")
    for each in (report, recorded(report)):
        told = page_of(each).text
        assert re.search(r"half\s+✓\s+completed\s+8\s", told[told.index("Attempts Start Time") :])
        assert "8 invocations: 8 completed" in told


@pytest.mark.parametrize("is_recorded", [False, True])
def test_items_that_failed_and_were_collected_are_told(is_recorded: bool, tmp_path: Path) -> None:
    def half(x: int) -> float:
        if x % 3 == 0:
            raise ValueError(f"{x} is a third")
        return x / 2

    with DAG("mapped") as dag:
        action(half).map(list(range(3_000)), on_error="collect")
    url = f"sqlite:{tmp_path / 'runs.db'}" if is_recorded else None
    report = ran(dag, **({} if url is None else {"database_url": url, "durability": "async"}))
    for each in [report, recorded(report)] if url else [report]:
        html = each.to_html()
        told = check(html).text
        assert "1,000 of 3,000 items failed" in told
        assert "3,000 invocations: 2,000 completed, 1,000 failed" in told
        bars = re.findall(r'<span class="bar [^>]*title="[\d,]+ calls: ([^"]*)"', html)
        counts = [many for bar in bars for many in re.findall(r"([\d,]+) failed", bar)]
        assert (
            sum(int(many.replace(",", "")) for many in counts) >= 900
        )  # what stands alone is not summed up
        assert "b-mixed" in html


def test_a_start_right_after_the_first_is_told() -> None:
    told = rows_of_table(page_of(small(None)), "Attempts Start Time")
    assert re.search(r"load\s+✓\s+completed\s+1\s+0\s", told)
    assert re.search(r"total\s+✓\s+completed\s+1\s+\+\d", told)


def test_a_nested_failure_says_first_what_went_wrong() -> None:
    def deep(x: int) -> int:
        raise RuntimeError("deep inside")

    with DAG("inner2") as inner2:
        action(deep)(x=1)
    with DAG("inner1") as inner1:
        inner2()
    with DAG("outer") as outer:
        inner1()
    report = ran(outer)
    whole = page_of(report)
    told = rows_of_table(whole, "Attempts Start Time")
    told = told[: told.index("Runs inside this run")]
    assert "RuntimeError: deep inside; in inner2.deep" in told
    assert "NodeExecutionError" not in whole.text  # neither in the picture


def test_of_a_long_machine_in_memory_the_page_says_which_cycles_it_knows() -> None:
    fsm = FSM("long", max_cycles=4_000)

    @fsm.state(initial=True)
    def go(n: int = 0) -> FSMReturn:
        return FSMReturn(next_state="go", value=n + 1) if n < 2_998 else FSMReturn("end", n)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n

    told = page_of(ran(fsm)).text
    assert "These are 1,002 of 3,000 cycles, the newest; only a database keeps all times." in told
    assert re.search(r"go\s+✓\s+completed\s+2,999\s+0\s+≥ ", told)
    assert "entered 2,999 times" in told


def test_a_page_of_very_many_items_makes_no_report_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(x: int) -> float:
        if x % 2:
            raise ValueError("odd")
        return x / 2

    with DAG("mapped") as dag:
        action(half).map(list(range(20_000)), on_error="collect")
    report = ran(dag)
    made: list[BaseException] = []

    def counted(error: BaseException) -> ErrorInfo:
        made.append(error)
        return error_info(error)

    monkeypatch.setattr("dagger_dsl.engine.reporting.error_info", counted)
    page_of(report)
    assert len(made) < 1_000


def test_many_items_that_failed_are_not_gone_through_for_each_of_them() -> None:
    def bad(x: int) -> int:
        raise ValueError(f"bad {x}")

    with DAG("mapped", config=DagConfig(on_failure="continue")) as dag:
        action(bad).map(list(range(8_000)))
    report = ran(dag, runner="threads")  # some have begun before the first of them has ended
    before = time.perf_counter()
    told = page_of(report).text
    assert time.perf_counter() - before < 15
    assert re.search(rf"8,000 invocations: {report.counts('bad')['failed']:,} failed", told)


# --- nothing of a run can become markup -----------------------------------------------------------


@pytest.mark.parametrize("bad", [HOSTILE, "n" * 200, "</title><script>", "'\" onload=x", "&amp;"])
def test_hostile_texts_are_text(bad: str) -> None:
    error = ErrorInfo(bad, bad, f"Traceback\n{bad}")
    node_id = bad.replace(".", "")[:200].replace("\x00", "").replace("\ud800", "")
    graph = Graph(node_id, [Node(node_id, "f"), Node("ok", "f", dependencies=[node_id])])
    report = make_report(
        graph,
        NodeReport(node_id, NodeState.FAILED, attempts=1, error=error, duration=0.1),
        NodeReport("ok", NodeState.SKIPPED, reason=bad),
        status=RunStatus.FAILED,
        run_id=bad,
        reason=bad,
        inputs={"x": bad, node_id: {bad: [bad]}},
    )
    page = page_of(report)
    visible = re.sub(r"[\x00-\x1f\ud800-\udfff\u202a-\u202e]|\[31m", "", bad)
    assert visible[:24] in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_values_are_text_and_secrets_stay_hidden() -> None:
    def echo(x: str, key: Secret) -> dict[str, Any]:
        return {x: [x], "key": key}

    with DAG("echo") as dag:
        action(echo)(x=HOSTILE, key=dag.input("key"))
    html = ran(dag, inputs={"key": Secret("hunter2")}).to_html()
    check(html)
    assert "hunter2" not in html
    assert "***" in html


def test_one_function_escapes_text_and_one_attributes() -> None:
    assert text("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"
    assert attribute("a\"b'<\n\t>") == '"a&quot;b&#x27;&lt;&#10; &gt;"'
    assert text("x" * 10, 5) == "xxxx…"
    assert text("a\nb") == "a b"
    assert text("a\nb", lines=True) == "a\nb"


def test_passwords_of_databases_are_not_shown() -> None:
    shown = shown_url("postgresql://me:hunter2@db.example/runs?sslpassword=hunter3&x=1")
    assert "hunter" not in shown
    assert shown.startswith("postgresql+psycopg://me:***@db.example/runs")
    assert shown_url("sqlite:runs.db") == "sqlite:runs.db"
    assert "hunter" not in shown_url("mysql://me:hunter2@db/runs")


def test_nothing_of_the_environment_of_the_process_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_KEY", "hunter2hunter2")
    html = small(None).to_html()
    assert "hunter2" not in html
    assert "API_KEY" not in html


# --- size -----------------------------------------------------------------------------------------


def wide(count: int, url: str | None = None) -> RunReport:
    def step(x: int) -> dict[str, Any]:
        if x % 100 == 99:
            raise RuntimeError(f"step {x} " + "x" * 2_000)
        return {"x": x, "text": "lorem ipsum " * 200, "rows": list(range(200))}

    each = action(step)
    with DAG("wide", config=DagConfig(on_failure="continue")) as dag:
        for number in range(count):
            each.with_options(id=f"step_{number}")(x=number)
    return ran(dag, database_url=url)


def test_a_thousand_nodes_are_a_page_of_less_than_three_megabytes() -> None:
    report = wide(1_000)
    before = time.perf_counter()
    html = report.to_html()
    assert time.perf_counter() - before < 10
    assert len(html.encode()) < 3_000_000
    page = check(html)
    for number in range(1_000):
        assert f"step_{number}" in page.text
    assert "…" in page.text


def test_of_ten_thousand_nodes_those_that_failed_come_first() -> None:
    html = wide(10_000).to_html()
    assert len(html.encode()) < 3_000_000
    page = check(html)
    assert "And 60 more, below." in page.text
    assert "9,000 more nodes that are not shown: 9,000 completed." in page.text
    table = page.text[page.text.index("Attempts Start Time") :]
    rows = re.findall(r"step_(\d+)", table)
    assert [int(each) % 100 for each in rows[:100]] == [99] * 100


def test_a_map_of_many_items_and_many_nested_runs_are_cut() -> None:
    def one(x: int) -> int:
        if x == 900:
            raise ValueError("nine hundred")
        return x

    with DAG("inner") as inner:
        action(one)(x=inner.input("x", int))
    with DAG("outer", config=DagConfig(on_failure="continue")) as outer:
        inner.map(list(range(1_000)), on_error="collect")
    html = ran(outer).to_html()
    assert len(html.encode()) < 3_000_000
    told = check(html).text
    assert "1,000 invocations" in told
    assert "and 800 more" in told.lower()
    assert "975 more runs that are not shown" in told
    assert "nine hundred" in told


def test_ends_of_long_tracebacks_are_kept() -> None:
    graph = Graph("g", [Node("a", "f")])
    lines = "\n".join(f"line {number}" for number in range(5_000))
    error = ErrorInfo("ValueError", "bad", f"{lines}\nthe end")
    report = make_report(graph, NodeReport("a", NodeState.FAILED, 1, error=error))
    told = page_of(report).text
    assert "line 0\n" in told
    assert "the end" in told
    assert "line 2500\n" not in told


# --- files and colours ----------------------------------------------------------------------------


def test_a_page_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    report = small(None)
    path = tmp_path / "run.html"
    html = report.to_html(path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == html.splitlines()[0]
    assert len(path.read_text(encoding="utf-8")) == len(html)
    report.to_html(str(path))
    with pytest.raises(ConfigurationError, match="cannot be written"):
        report.to_html(tmp_path / "nowhere" / "run.html")
    with pytest.raises(ConfigurationError, match="a page is written to a path"):
        report.to_html(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot be written"):
        report.to_html("a\0b")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(theme: str) -> None:
    style = small(None).to_html()
    blocks = re.findall(r"\.dagger-pic\{(--bg:[^}]*)\}", style.replace("\n", ""))
    colours = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", blocks[theme == "dark"]))
    for state in ("completed", "failed", "running", "waiting", "skipped", "cancelled", "pending"):
        assert contrast(colours["ink"], colours[f"{state}-box"]) >= 4.5
        if state != "pending":  # signs and bars
            assert contrast(colours[state], colours["bg"]) >= 3
    for words in ("ink", "soft"):
        assert contrast(colours[words], colours["bg"]) >= 4.5
    assert contrast(colours["ink"], colours["skipped-box"]) >= 4.5  # code
