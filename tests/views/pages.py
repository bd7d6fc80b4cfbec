"""What every page has to be, whatever it shows: well formed, readable by all, and alone."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

__all__ = ["Checked", "check"]

_VOID = frozenset(("meta", "br", "hr", "img", "input", "link", "path", "rect", "circle"))
_ADDRESSES = ("href", "src", "srcset", "action", "formaction", "poster", "xlink:href", "background")


class Checked(HTMLParser):
    """A page that was read.

    Attributes:
        texts: All text outside of style, in order.
        headings: Level and text of each heading.
        ids: Every id.
        tags: Every element with its attributes.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        if self._open:
            self.wrong.append(f"never closed: {self._open}")

    @property
    def text(self) -> str:
        """Everything that can be read."""
        return " ".join(self.texts)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if len(found) != len(attributes):
            self.wrong.append(f"<{tag}> has an attribute twice")
        self.tags.append((tag, found))
        if tag not in _VOID:
            if tag == "summary" and self._open[-1:] != ["details"]:
                self.wrong.append("a summary outside of details")
            self._open.append(tag)
        if "id" in found:
            self.ids.append(str(found["id"]))
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.headings.append((int(tag[1]), ""))
        for name, value in found.items():
            if name.startswith("on"):
                self.wrong.append(f"<{tag}> has {name}")
            if name in _ADDRESSES and not str(value).startswith("#"):
                self.wrong.append(f"<{tag}> leads to {value!r}")
            if name == "style" and ("url" in str(value) or "expression" in str(value)):
                self.wrong.append(f"<{tag}> has the style {value!r}")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            if "url(" in data or "@import" in data:
                self.wrong.append("the style loads something")
            return
        inside = self._open[-1] if self._open else ""
        if inside in ("ul", "table", "tbody", "thead", "tr", "dl") and data.strip():
            self.wrong.append(f"{data!r} lies in <{inside}>")
        self.texts.append(data)
        if any(tag[0] == "h" and tag[1:].isdigit() for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)


def check(page: str) -> Checked:
    """Return a page that was read, after asking all that is asked of every page."""
    found = Checked(page)
    assert not found.wrong, found.wrong[:10]
    tags = [tag for tag, _ in found.tags]
    assert not {"script", "iframe", "object", "embed", "link", "form", "img", "base"} & set(tags)
    assert page.startswith("<!DOCTYPE html>")
    assert found.tags[0] == ("html", {"lang": "en"})
    assert page.partition("</head>")[0].count("<title>") == 1
    assert tags.count("h1") == tags.count("main") == 1
    policies = [each for tag, each in found.tags if each.get("http-equiv")]
    assert policies[0]["content"] is not None
    assert policies[0]["content"].startswith("default-src 'none'")
    assert len(set(found.ids)) == len(found.ids)
    targets = {str(each["href"])[1:] for _, each in found.tags if "href" in each}
    assert targets <= set(found.ids)
    levels = [level for level, _ in found.headings]
    assert levels[0] == 1
    for before, after in pairwise(levels):
        assert after <= before + 1, found.headings
    assert all(text.strip() for _, text in found.headings)
    for tag, each in found.tags:
        if tag == "th":
            assert each.get("scope") in ("col", "row")
        if each.get("role") in ("img", "group"):
            assert each.get("aria-label")
    assert tags.count("details") == tags.count("summary")
    assert tags.count("table") == tags.count("caption")
    return found
