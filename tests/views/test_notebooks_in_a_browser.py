"""Notebooks that were executed, as pages: as they are committed, and as a reader's own would be.

A committed notebook has its pictures as images, which is what code-hosting pages show. One that was
executed at hand has them as HTML, in one page, where they must not disturb it or each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.views.browser import launched, shown
from tests.views.checks import faint_texts, overlaps, text_boxes, violations

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "notebooks"
COMMITTED = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
#: Those of them that are executed here; the others take longer, and show nothing else.
EXECUTED = ("01_quickstart", "03_a_failed_run", "nested")

in_both_themes = pytest.mark.parametrize("theme", ["light", "dark"])

#: A run in a run, with names that are no markup.
NESTED = """
from dagger_dsl import DAG, action

@action
def check(x: int) -> int:
    return 10 // x

@action
def write(found: int) -> str:
    return f"{found} <b>bold</b>"

with DAG("inner <b>one</b>") as inner:
    write.with_options(id="<i>" + "w" * 190)(check(inner.input("x", int)))

with DAG("outer", config={"on_failure": "continue"}) as outer:
    inner(x=2)
    inner(x=0)

try:
    outer.run()
except Exception as error:
    print(type(error).__name__)
"""

#: How everything looks that is no part of a picture.
_LOOKS = """() => [...document.querySelectorAll('body *')]
    .filter(each => !each.closest('.dagger-pic, .highlight, script'))
    .map(each => {
        const style = getComputedStyle(each);
        return [each.localName, ...[...style].map(name => style.getPropertyValue(name))].join();
    })"""

#: Things of the page's own that have all the class names that pictures use.
_PLANT = """() => {
    const names = new Set();
    for (const each of document.querySelectorAll('.dagger-pic *')) {
        each.classList.forEach(name => names.add(name));
    }
    names.delete('dagger-pic');
    const kinds = [...names];
    document.body.insertAdjacentHTML('beforeend', kinds.map(name =>
        `<p class="${name}">text <b class="${kinds.join(' ')}">more</b></p>`
        + `<svg width="20" height="20"><g class="box ${name}"><rect class="frame ${name}"/>`
        + `<text class="${name}">text</text></g></svg>`).join(''));
    return kinds;
}"""

_PICTURES = """() => [...document.querySelectorAll(
    'svg.dagger-pic, img[src^="data:image/svg+xml"]')].map(each => {
        const box = each.getBoundingClientRect();
        return [each.localName, box.width, box.height, each.naturalWidth ?? box.width];
    })"""


def exported(notebook: Any, theme: str) -> str:
    """Return a notebook as a page that asks nobody for anything."""
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    exporter = nbconvert.HTMLExporter(
        theme=theme,
        require_js_url="",
        jquery_url="",
        mathjax_url="",
        mermaid_js_url="",
        mermaid_layout_elk_js_url="",
        jupyter_widgets_base_url="",
    )
    page: str = exporter.from_notebook_node(notebook)[0]
    return page


def executed(name: str, folder: Path) -> Any:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    if name == "nested":
        new = nbformat.v4
        cells = [new.new_code_cell(NESTED), *map(new.new_code_cell, ("outer.report", "outer"))]
        notebook = new.new_notebook(cells=cells)
    else:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    folder.mkdir()
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    return notebook


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return all pages by name and theme."""
    nbformat = pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp("notebooks")
    found: dict[str, Path] = {}
    notebooks = {name: nbformat.read(FOLDER / f"{name}.ipynb", 4) for name in COMMITTED}
    notebooks |= {f"{name}, executed": executed(name, folder / name) for name in EXECUTED}
    for name, notebook in notebooks.items():
        for theme in ("light", "dark"):
            path = found[f"{name}, {theme}"] = folder / f"{len(found)}.html"
            path.write_text(exported(notebook, theme), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser(pages: dict[str, Path]) -> Iterator[Any]:
    with launched() as found:
        yield found


def pictures_of(name: str) -> list[str]:
    """Return the pictures in a committed notebook."""
    nbformat = pytest.importorskip("nbformat")
    return [
        output.data["image/svg+xml"]
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
        for output in cell.get("outputs", ())
        if "image/svg+xml" in output.get("data", ())
    ]


@in_both_themes
@pytest.mark.parametrize("name", COMMITTED)
def test_committed_notebooks_are_quiet_pages_with_all_their_pictures(
    name: str, theme: str, browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages[f"{name}, {theme}"], dark=theme == "dark") as page:
        found = page.evaluate(_PICTURES)
        assert len(found) == len(pictures_of(name))
        for _, width, height, own in found:
            assert min(width, height, own) > 100
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@in_both_themes
def test_pictures_of_committed_notebooks_can_be_read(
    theme: str, browser: Any, tmp_path: Path
) -> None:
    drawn = [svg for name in COMMITTED for svg in pictures_of(name)]
    path = tmp_path / "pictures.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title>{"".join(drawn)}',
        encoding="utf-8",
    )
    with shown(browser, path, dark=theme == "dark") as page:
        boxes = text_boxes(page)
        assert len(boxes) == len(drawn) >= 5
        assert [pair for each in boxes for pair in overlaps(each)] == []
        assert faint_texts(page) == []
        told = page.evaluate(
            "() => [...document.querySelectorAll('g.box')].map("
            "box => box.querySelector('title').textContent.split('\\n')[0]"
            ".replace(/^task /, '') === box.dataset.id)"
        )
        assert told
        assert all(told)


@in_both_themes
@pytest.mark.parametrize("name", EXECUTED)
def test_pictures_in_the_page_of_an_executed_notebook_can_be_read(
    name: str, theme: str, browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages[f"{name}, executed, {theme}"], dark=theme == "dark") as page:
        page.evaluate("() => document.querySelectorAll('details').forEach(e => { e.open = true })")
        found = page.evaluate(_PICTURES)
        assert len(found) >= 2
        assert all(kind == "svg" and min(*size) > 50 for kind, *size in found)
        assert [pair for each in text_boxes(page) for pair in overlaps(each)] == []
        assert faint_texts(page) == []
        assert violations(page, only=".jp-OutputArea-output") == []  # tables, too
        sizes = page.evaluate(
            "() => [...document.querySelectorAll('.dagger-pic .name')].map("
            "each => getComputedStyle(each).fontSize)"
        )
        assert set(sizes) == {"13px"}


@in_both_themes
def test_a_page_that_says_that_it_is_dark_has_dark_pictures_whatever_the_system_prefers(
    theme: str, browser: Any, pages: dict[str, Path]
) -> None:
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}[theme]
    for dark in (False, True):
        with shown(browser, pages[f"01_quickstart, executed, {theme}"], dark=dark) as page:
            assert faint_texts(page) == []
            fills = page.evaluate(
                "() => [...document.querySelectorAll('.dagger-pic .bg')].map("
                "each => getComputedStyle(each).fill)"
            )
            assert set(fills) == {paper}


def test_tooltips_tell_inputs_results_and_errors(browser: Any, pages: dict[str, Path]) -> None:
    with shown(browser, pages["03_a_failed_run, executed, light"]) as page:
        failed, mended = page.evaluate(
            "() => [...document.querySelectorAll('.dagger-pic')].map(picture =>"
            " Object.fromEntries([...picture.querySelectorAll('g.box')].map("
            "box => [box.dataset.id, box.querySelector('title').textContent])))"
        )
        assert "order_id = 'ORD-7'  (inputs.order_id)" in failed["read_order"]
        assert "result: {'lamp': 2" in failed["read_order"]
        assert "ConnectionError: the warehouse does not answer" in failed["stock"]
        assert "result: 'all in stock'" in mended["stock"]
        # The browser shows what the pointer is on by the `<title>` that is nearest to it.
        box = page.locator("g.box[data-id=stock]").first
        box.hover()
        assert (
            box.evaluate("each => each.matches(':hover') && each.firstChild.localName") == "title"
        )


def test_pictures_change_nothing_of_the_page_and_have_no_ids_to_share(
    browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["nested, executed, light"]) as page:
        assert page.evaluate("() => document.querySelectorAll('.dagger-pic [id]').length") == 0
        assert {"box", "frame", "name", "soft"} <= set(page.evaluate(_PLANT))
        styles = "document.querySelectorAll('.dagger-pic style')"
        assert page.evaluate(f"() => {styles}.length") >= 2
        before = page.evaluate(_LOOKS)
        page.evaluate(f"() => {styles}.forEach(each => each.remove())")
        assert page.evaluate(_LOOKS) == before


def test_hostile_names_in_an_executed_notebook_are_text(
    browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["nested, executed, dark"], dark=True) as page:
        assert page.evaluate("() => document.querySelectorAll('.jp-OutputArea i, b').length") == 0
        folded = page.locator("details.dagger-inner > summary")
        assert folded.count() >= 2
        assert "inner <b>one</b>" in folded.first.inner_text()
        folded.first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details.dagger-inner svg").first.is_visible()
