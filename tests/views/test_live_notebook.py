"""A run in a notebook: one output that changes as the run goes, in a stub and in a real kernel."""

from __future__ import annotations

import re
import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dagger_dsl import DAG, Registry
from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.views import live_picture
from dagger_dsl.views.colours import ON_PAGES
from dagger_dsl.views.live import in_notebook, live_display
from tests.engine.helpers import RUNNERS, Workflow
from tests.views.checks import contrast

every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Notebook:
    """A front end of ours: the outputs of its cell, each with all that it has shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: list[list[dict[str, str]]] = []
        self.threads: set[int] = set()
        package, module = ModuleType("IPython"), ModuleType("IPython.display")
        vars(package).update(get_ipython=lambda: SimpleNamespace(kernel=1), display=module)
        vars(module)["display"] = self.display
        monkeypatch.setitem(sys.modules, "IPython", package)
        monkeypatch.setitem(sys.modules, "IPython.display", module)

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        shown = [bundle]
        self.outputs.append(shown)
        self.threads.add(threading.get_ident())

        def update(bundle: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(bundle)
            self.threads.add(threading.get_ident())

        return SimpleNamespace(update=update)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """Let this process be a kernel."""
    return Notebook(monkeypatch)


def until(true: Any) -> None:
    """Wait for something that is about to happen."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_kernel_is_a_notebook_and_a_terminal_shell_is_none(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_notebook()
    assert live_display(True).kind == "picture"
    vars(sys.modules["IPython"])["get_ipython"] = lambda: SimpleNamespace()
    assert not in_notebook()
    vars(sys.modules["IPython"])["get_ipython"] = lambda: None
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


@pytest.mark.row("M10")
@every_runner
def test_the_picture_changes_its_colours_as_the_run_goes(runner: str, notebook: Notebook) -> None:
    def second() -> None:
        until(lambda: notebook.outputs)

    flow = Workflow("flow").note("first").add("second", second).note("bad", OSError("x"))
    flow.run(runner, progress=True, max_workers=1)
    (shown,) = notebook.outputs
    assert all(set(bundle) == {"text/plain", "text/html"} for bundle in shown)
    assert all("<svg" in bundle["text/html"] for bundle in shown)
    assert "running" in shown[0]["text/plain"]
    assert "failed" in shown[-1]["text/plain"]
    assert "OSError: x" in shown[-1]["text/html"]
    assert shown[0]["text/html"] != shown[-1]["text/html"]


def test_a_picture_changes_only_when_a_state_does(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_picture.PictureFront, "delay", 0.01)
    monkeypatch.setattr(live_picture.PictureFront, "pause", 0.01)
    looked: list[None] = []
    draw = live_picture.PictureFront.draw

    def count(self: Any, pulse: Any) -> None:
        looked.append(None)
        draw(self, pulse)

    monkeypatch.setattr(live_picture.PictureFront, "draw", count)
    flow = Workflow().add("only", lambda: until(lambda: len(looked) >= 5))
    assert flow.run(progress="picture").success
    assert len(looked) >= 6
    assert len(notebook.outputs[0]) <= 3, "before, during and after the call"


def test_a_short_run_has_one_picture(notebook: Notebook) -> None:
    assert Workflow().note("a").run(progress=True).success
    ((bundle,),) = notebook.outputs
    assert "1/1 nodes, completed" in bundle["text/plain"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_with_no_room_in_a_picture_is_shown_in_words(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(live_picture, "MOST", 2)
    flow = Workflow("<flow>").note("a").note("b").add("c", lambda: until(lambda: notebook.outputs))
    flow.note("<d>", ValueError("<boom>") if fails else None)
    flow.run(progress=True)
    (shown,) = notebook.outputs
    assert all(bundle["text/html"].startswith("<pre") for bundle in shown)
    assert "&lt;flow&gt;" in shown[-1]["text/html"]
    assert "<flow>" not in shown[-1]["text/html"]
    assert ("&lt;boom&gt;" in shown[-1]["text/html"]) is fails
    colours = set(re.findall(r"color: (#\w{6})", "".join(each["text/html"] for each in shown)))
    for colour in colours:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#111111")) >= 3, colour
    assert colours & set(ON_PAGES.values())


def test_a_large_graph_that_ends_at_once_is_one_line(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_picture, "MOST", 0)
    assert Workflow("<f>").note("a").run(progress=True).success
    ((bundle,),) = notebook.outputs
    assert bundle["text/html"].startswith("<pre>&lt;f&gt;: 1/1 nodes, completed in")


def test_a_front_end_that_is_gone_loses_no_run(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("no front end")

    vars(sys.modules["IPython.display"])["display"] = gone
    assert Workflow().note("a").run(progress=True).success


CELL = """
import time
from dagger_dsl import DAG, DagExecutor

dag = DAG("cell")

@dag.node
def load() -> int:
    time.sleep(0.8)
    return 1

@dag.node
def bad(load: int) -> int:
    raise ValueError("boom")

dag.connect("load", "bad")
"""


LARGE = """
from dagger_dsl import action
from dagger_dsl.views.live_picture import PictureFront

PictureFront.delay = 60.0

@action
def one() -> int:
    return 1

with DAG("large") as large:
    for _ in range(400):
        one()
large.run(progress=True)
None
"""


@pytest.mark.row("M10", "R1")
def test_cells_of_a_real_kernel() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    ways = ["dag.run(progress=True)", "await dag.run_async(progress=True)"]
    ways += ["dag.start(progress=True).wait()", "DagExecutor().run(dag, progress=True).status"]
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(text) for text in (CELL, *ways, LARGE)]
    changes: list[str] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]  # untyped
        def process_message(self, message: Any, cell: Any, index: int) -> Any:
            if message["msg_type"] == "update_display_data":
                changes.append(cell["source"])
            return super().process_message(message, cell, index)

    Client(book, allow_errors=True, kernel_name="python3", timeout=120).execute()
    (line,) = book.cells.pop().outputs
    assert line.text.startswith("large: 400/400 nodes, completed in")
    for cell in book.cells[1:]:
        pictures = [each for each in cell.outputs if each.output_type == "display_data"]
        assert len(pictures) == 1, cell["source"]
        assert "<svg" in pictures[0].data["text/html"]
        assert "1 failed" in pictures[0].data["text/plain"]
        assert cell["source"] in changes, "it was shown while the run went on"
    (error,) = [each for each in book.cells[1].outputs if each.output_type == "error"]
    text = "\n".join(error.traceback)
    assert error.ename == NodeExecutionError.__name__
    assert 'raise ValueError("boom")' in text
    assert "load = 1" in text
    assert "dag.run(progress=True)" in text
    assert "dagger_dsl/" not in text, "no frame of ours"


@every_runner
def test_a_run_in_the_background_is_shown_by_the_cell_that_starts_it(
    runner: str, notebook: Notebook
) -> None:
    go = threading.Event()
    dag = DAG("flow", registry=Registry())

    @dag.node
    def a() -> bool:
        return go.wait(20)

    handle = dag.start(runner=runner, progress="picture")
    assert len(notebook.outputs) == 1
    assert notebook.threads == {threading.get_ident()}
    assert "0/1 nodes" in notebook.outputs[0][0]["text/plain"]
    go.set()
    assert handle.result(20).success
    (shown,) = notebook.outputs
    assert "1/1 nodes, completed" in shown[-1]["text/plain"]
