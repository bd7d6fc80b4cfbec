"""A real browser for the tests: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["launched", "opened", "shown"]

#: Without these Chromium looks for updates, which is a request to the network.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def launched() -> Iterator[Any]:
    """Start a browser and yield it; whoever asks is skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def shown(browser: Any, path: Path, *, dark: bool = False) -> Iterator[Any]:
    """Open a file in a browser; yield the page, and afterwards see that it was quiet.

    Args:
        browser: One that was launched.
        path: The file.
        dark: Whether the reader prefers dark pages.
    """
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_page(
        color_scheme="dark" if dark else "light", viewport={"width": 1280, "height": 900}
    )
    try:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
    finally:
        page.close()
    assert said == []
    # What is inside of the page is no request to anybody.
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


@contextmanager
def opened(path: Path, *, dark: bool = False) -> Iterator[Any]:
    """Open a file in a browser of its own; see `shown`."""
    with launched() as browser, shown(browser, path, dark=dark) as page:
        yield page
