"""The reference: README's command makes it, without a warning, and no public name is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

import dagger_dsl

ROOT = Path(__file__).parents[2]

pytest.importorskip("pdoc", reason="makes the reference; part of the extra `test`")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages by the module that each is about, made as README says."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(
        r"^<!-- ci: reference -->\n```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    folder = tmp_path_factory.mktemp("reference")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euc", found[1]],
        cwd=folder,
        env={"PATH": programs, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing is warned of"
    made = folder / "reference"
    return {
        ".".join(path.relative_to(made).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in made.rglob("*.html")
    }


def texts(page: str) -> dict[str, str]:
    """Return what is said of each name on a page; the empty name is the module itself."""
    parts = re.split(r'<(?:section|div) id="([^"]+)"', page)
    found: dict[str, str] = {}
    for name, part in zip(["", *parts[1::2]], parts[::2], strict=True):
        text = re.search(r'<div class="docstring">(.*?)</div>', part, re.DOTALL)
        if text is not None:
            found[name] = text[1]
    return found


def test_every_public_name_stands_on_the_front_page_and_is_explained(
    pages: dict[str, str],
) -> None:
    said = texts(pages["dagger_dsl"])
    unsaid = [name for name in ("", *dagger_dsl.__all__) if not said.get(name)]
    assert unsaid == []
    assert set(re.findall(r'<section id="(\w+)"', pages["dagger_dsl"])) == set(dagger_dsl.__all__)


def test_rooms_that_the_front_page_names_have_pages_of_their_own(pages: dict[str, str]) -> None:
    for name in re.findall(r"`(dagger_dsl\.[\w.]+)`", dagger_dsl.__doc__ or ""):
        assert name in pages or any(page.startswith(f"{name}.") for page in pages), name
    front = pages["dagger_dsl"]
    for method in ("run", "run_async", "start"):
        assert f'engine/workflow.html#Workflow.{method}"' in front, "what a DAG inherits is linked"


def rendered(pages: dict[str, str]) -> Iterator[tuple[str, str]]:
    for page, text in pages.items():
        for name, said in texts(text).items():
            prose = re.sub(r"<(code|pre)\b.*?</\1>", "", said, flags=re.DOTALL)
            yield f"{page}: {name}", unescape(re.sub(r"<[^>]+>", "", prose))


def test_no_markup_is_left_in_the_prose(pages: dict[str, str]) -> None:
    told = list(rendered(pages))
    assert len(told) > 400
    wrong = r"`|\*\*\*|:(?:class|func|meth):|^Args:|\|---"
    assert [name for name, text in told if re.search(wrong, text, re.MULTILINE)] == []
