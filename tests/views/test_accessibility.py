"""Pages and pictures for everybody: axe's rules in a browser, and the keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry
from dagger_dsl.model.states import NodeState
from dagger_dsl.views.picture import Picture, Shape
from dagger_dsl.views.states import STATES
from dagger_dsl.views.svg import picture_to_html
from tests.views.browser import launched, shown
from tests.views.checks import faint_texts, violations
from tests.views.reports import hostile
from tests.views.test_html import KINDS, wide

pytestmark = pytest.mark.slow

in_both_themes = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])

_OPEN = "() => document.querySelectorAll('details').forEach(each => { each.open = true; })"

#: What has the focus, and the ring around it.
_FOCUS = """() => {
    const at = document.activeElement;
    const style = getComputedStyle(at);
    return [at.tagName.toLowerCase(), at.getAttribute('aria-label') || at.textContent,
            style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return pages of runs of every kind, and pictures as notebooks show them."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for kind, make in KINDS.items():
        with Registry():
            report = make(f"sqlite:{folder / kind}.db")
            found[kind] = folder / f"{kind}.html"
            report.to_html(found[kind])
            bundle = report._repr_mimebundle_()
            for shape in ("text/html", "image/svg+xml"):
                name = f"{kind}, as {shape}"
                found[name] = folder / f"{kind}-{shape[:4]}.html"
                found[name].write_text(_around(bundle[shape]), encoding="utf-8")
    with Registry():
        found["thousand"] = folder / "thousand.html"
        wide(1_000).to_html(found["thousand"])
    states = [Shape(state, state, detail="a detail", status=state) for state in STATES]
    drawn = [Picture("states", tuple(states), subtitle=state, status=state) for state in STATES]
    found["states"] = folder / "states.html"
    found["states"].write_text(_around("".join(map(picture_to_html, drawn))), encoding="utf-8")
    found["hostile"] = folder / "hostile.html"
    hostile("http://127.0.0.1:9").to_html(found["hostile"])
    return found


def _around(body: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A picture</title>'
        f"<meta name=color-scheme content='light dark'></head><body><main><h1>A picture</h1>{body}"
        "</main></body></html>"
    )


@pytest.fixture(scope="module")
def browser(pages: dict[str, Path]) -> Iterator[Any]:
    """One browser for all tests; it is started after the runs, which it would get a loop."""
    with launched() as found:
        yield found


@in_both_themes
@pytest.mark.parametrize("kind", [*KINDS, "hostile"])
def test_axe_finds_nothing_on_the_page_of_a_run(
    kind: str, dark: bool, browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages[kind], dark=dark) as page:
        page.evaluate(_OPEN)
        assert violations(page) == []
        assert faint_texts(page) == []


@in_both_themes
@pytest.mark.parametrize("kind", ["failed", "machine", "nested"])
def test_axe_finds_nothing_in_pictures_as_notebooks_show_them(
    kind: str, dark: bool, browser: Any, pages: dict[str, Path]
) -> None:
    for shape in ("text/html",) if dark else ("text/html", "image/svg+xml"):
        with shown(browser, pages[f"{kind}, as {shape}"], dark=dark) as page:
            page.evaluate(_OPEN)
            assert violations(page) == []
            assert faint_texts(page) == []


def test_axe_finds_nothing_on_the_page_of_a_thousand_nodes(
    browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["thousand"]) as page:
        page.evaluate(_OPEN)
        # Rows have the colours of those of smaller pages, and each is slow to look at.
        assert violations(page, without=["color-contrast"]) == []
        assert faint_texts(page) == []


@in_both_themes
def test_text_stands_out_in_the_colours_of_every_state(
    dark: bool, browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["states"], dark=dark) as page:
        assert faint_texts(page) == []


def test_axe_would_find_something(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    """The tests above can fail."""
    html = pages["failed"].read_text(encoding="utf-8")
    for good, bad in (
        ('role="img" aria-label=', 'role="img" data-label='),
        ('<html lang="en">', "<html>"),
        ("--soft:#5b6675", "--soft:#aaaaaa"),
    ):
        assert good in html
        html = html.replace(good, bad)
    planted = tmp_path / "planted.html"
    planted.write_text(html, encoding="utf-8")
    with shown(browser, planted) as page:
        rules = {line.partition(":")[0] for line in violations(page)}
        assert {"svg-img-alt", "html-has-lang", "color-contrast"} <= rules
        assert "skipped" in dict(faint_texts(page))


@in_both_themes
def test_the_keyboard_reaches_all_that_can_be_used_in_order(
    dark: bool, browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["nested"], dark=dark) as page:
        wanted = page.evaluate(
            "() => [...document.querySelectorAll('a, summary, [tabindex]')]"
            ".filter(each => each.checkVisibility()).map(each => each.tagName.toLowerCase())"
        )
        found = []
        for _ in wanted:
            page.keyboard.press("Tab")
            tag, name, line, thick = page.evaluate(_FOCUS)
            assert name.strip()
            assert (line, thick >= 2) == ("solid", True), (tag, name)
            found.append(tag)
        assert found == wanted
        assert {"a", "summary", "pre", "div"} <= set(found)


def test_details_are_opened_and_closed_by_the_keyboard(
    browser: Any, pages: dict[str, Path]
) -> None:
    with shown(browser, pages["nested"]) as page:
        page.locator("details:not([open]) > summary").first.focus()
        seen = []
        for key in ("Enter", "Enter", "Space", "Space"):
            page.keyboard.press(key)
            seen.append(page.evaluate("() => document.activeElement.parentElement.open"))
        assert seen == [True, False, True, False]


@pytest.mark.parametrize("kind", ["failed", "mapped", "nested", "paused"])
def test_what_tooltips_tell_of_a_run_can_be_read_without_a_pointer(
    kind: str, browser: Any, pages: dict[str, Path]
) -> None:
    """A keyboard reaches no tooltip, so states, errors and results stand in the page, too."""
    with shown(browser, pages[kind]) as page:
        page.evaluate(_OPEN)
        told = page.evaluate(
            "() => [...document.querySelector('svg').querySelectorAll('g.box')].map("
            "box => [box.dataset.id, box.querySelector('title').textContent])"
        )
        rows = page.evaluate(
            "() => Object.fromEntries([...document.querySelectorAll("
            "'[aria-labelledby=nodes] tbody tr:has(> th)')].map("
            "row => [row.cells[0].textContent, row.innerText]))"
        )
        everything = page.locator("main").inner_text()
        assert told
        for node_id, tooltip in told:
            lines = tooltip.splitlines()
            at = next(number for number, line in enumerate(lines) if line in set(NodeState))
            row = " ".join(rows[node_id].split())
            assert lines[at] in row
            if lines[at] in ("failed", "skipped", "cancelled", "waiting"):
                assert " ".join(lines[at + 1].split()) in row
            for line in lines[at:]:
                if line.startswith("result: "):
                    assert line.removeprefix("result: ") in everything
