"""Pictures as SVG: light and dark, readable by themselves, with nothing to load.

One element holds all it needs: its style, its tooltips, its arrows. Text from data is escaped and
is text only: there is no script, no address and no foreign element, so a name cannot become markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import attrs

from dagger_dsl.model.text import printable
from dagger_dsl.views.blocks import arranged
from dagger_dsl.views.grouping import grouped
from dagger_dsl.views.layout import Box, Line, Point, lay_out
from dagger_dsl.views.picture import Arrow, Picture, Shape
from dagger_dsl.views.states import STATES

__all__ = ["STYLE", "Drawn", "LaidOut", "drawn", "picture_to_html", "picture_to_svg", "width_of"]

#: Widest text of a box, in pixels; the whole of it is in the tooltip. A second line that says two
#: things, such as an error and how often it was tried, has more.
WIDEST: Final = 210.0
WIDER: Final = 240.0

#: Sizes of the two lines of a box, and of labels on arrows.
LARGE: Final = 13.0
SMALL: Final = 11.0

#: Bold letters are as wide as plain ones of this size.
BOLD: Final = LARGE * 1.08

PAD: Final = 12.0
STRIPE: Final = 4.0
MARGIN: Final = 16.0

#: Text of 11 px in a picture that is shrunk to fit is at least of 9 px; taller ones are scrolled.
LEAST: Final = 0.82
TALLEST: Final = 760.0

#: A picture that takes no more fits wherever people read notebooks.
NARROW: Final = 560.0

#: A block of many shapes: widest, around them, and between them; a chain has arrows there.
BROADEST: Final = 760.0
INSET: Final = 12.0
GAP: Final = 10.0
STEP: Final = 26.0
HEAD: Final = 44.0

# The colours of states; `states` has their names.
_LIGHT: Final = """
--bg:#ffffff;--ink:#1c2430;--soft:#5b6675;--line:#8a94a3;--faint:#c9d0d9;--box:#ffffff;--edge:#aab3c0;
--completed:#1a7f4b;--completed-box:#ebf7f0;--failed:#c62f3b;--failed-box:#fdecee;
--running:#9a6200;--running-box:#fff6e0;--waiting:#1f6fb5;--waiting-box:#e9f3fc;
--paused:#1f6fb5;--paused-box:#e9f3fc;--skipped:#77818e;--skipped-box:#f1f3f5;
--cancelled:#8a4ba0;--cancelled-box:#f6edf9;--timed_out:#c62f3b;--timed_out-box:#fdecee;
--pending:#aab3c0;--pending-box:#ffffff"""
_DARK: Final = """
--bg:#14181e;--ink:#e8ecf1;--soft:#a3adba;--line:#7d8896;--faint:#3a434f;--box:#1d232b;--edge:#566170;
--completed:#4cc38a;--completed-box:#16291f;--failed:#ff7b84;--failed-box:#33191c;
--running:#f0b84a;--running-box:#2f2512;--waiting:#6db5f2;--waiting-box:#14263a;
--paused:#6db5f2;--paused-box:#14263a;--skipped:#8b95a2;--skipped-box:#22272e;
--cancelled:#c792dc;--cancelled-box:#2a1d31;--timed_out:#ff7b84;--timed_out-box:#33191c;
--pending:#566170;--pending-box:#1d232b"""
# Where a page says which of the two it is: JupyterLab, VS Code, and pages of our own.
_SAYS_DARK: Final = (
    "[data-jp-theme-light=false] .dagger-pic,.vscode-dark .dagger-pic,[data-theme=dark] .dagger-pic"
)
_SAYS_LIGHT: Final = _SAYS_DARK.replace("=false]", "=true]").replace("dark", "light")

_FONTS: Final = 'system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif'

#: What pictures need of a page; each picture that stands alone has it inside.
STYLE: Final = (
    f"""
.dagger-pic{{{_LIGHT};font-family:{_FONTS}}}
@media (prefers-color-scheme:dark){{.dagger-pic{{{_DARK}}}}}
{_SAYS_LIGHT}{{{_LIGHT}}}
{_SAYS_DARK}{{{_DARK}}}
.dagger-pic .bg{{fill:var(--bg)}}
.dagger-pic text{{fill:var(--ink);font-size:{LARGE:g}px;white-space:pre}}
.dagger-pic .soft{{fill:var(--soft);font-size:{SMALL:g}px}}
.dagger-pic .name{{font-weight:600}}
.dagger-pic .title{{font-weight:600;font-size:15px}}
.dagger-pic .frame{{fill:var(--box);stroke:var(--edge);stroke-width:1.2}}
.dagger-pic .stripe{{stroke:none;fill:var(--edge)}}
.dagger-pic .box:hover .frame{{stroke-width:2.2}}
.dagger-pic .way{{fill:none;stroke:var(--line);stroke-width:1.4}}
.dagger-pic .head{{fill:var(--line)}}
.dagger-pic .idle .way{{stroke:var(--faint);stroke-dasharray:4 3}}
.dagger-pic .idle .head{{fill:var(--faint)}}
.dagger-pic .tag{{fill:var(--bg);stroke:var(--faint);stroke-width:1}}
.dagger-pic .dot{{fill:var(--ink)}}
.dagger-pic .shelf{{fill:var(--bg);stroke:var(--faint);stroke-width:1.2}}
""".replace("\n", "")
    + "".join(
        f".dagger-pic .s-{name} .frame{{fill:var(--{name}-box);stroke:var(--{name})}}"
        f".dagger-pic .s-{name} .stripe,.dagger-pic .f-{name}{{fill:var(--{name})}}"
        for name in STATES
    )
    # As text, the colours of the two that are quiet would be too faint.
    + "".join(
        f".dagger-pic .t-{name}{{fill:var(--{name})}}"
        for name in STATES
        if name not in ("skipped", "pending")
    )
)


@attrs.frozen
class Drawn:
    """A picture as SVG.

    Attributes:
        text: The element.
        width, height: Its size in pixels.
    """

    text: str
    width: float
    height: float


def drawn(picture: Picture, *, style: bool = True, scrolls: bool = False) -> Drawn:
    """Return a picture as one SVG element, and how large it is; see `picture_to_svg`.

    Args:
        picture: What to draw.
        style: Whether its style is inside.
        scrolls: Whether what is around it can be scrolled: then its text stays large enough to be
            read where there is less room.
    """
    return LaidOut(picture).drawn(style=style, scrolls=scrolls)


def picture_to_svg(picture: Picture, *, style: bool = True) -> str:
    """Return a picture as one SVG element; of many shapes, groups are shown.

    Args:
        picture: What to draw.
        style: Whether its style is inside; a page that has `STYLE` needs it only once.
    """
    return LaidOut(picture).to_svg(style=style)


def picture_to_html(picture: Picture, *, style: bool = True) -> str:
    """Return a picture as HTML: the SVG, and below it what is inside of its shapes, folded.

    What is larger than its place can be scrolled.

    Args:
        picture: What to draw.
        style: As in `picture_to_svg`.
    """
    return LaidOut(picture).to_html(style=style)


class LaidOut:
    """A picture whose shapes have their places: for who wants it in more than one form.

    Args:
        picture: What to draw.
    """

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._drawing = _Drawing(arranged(grouped(picture)))

    def drawn(self, *, style: bool = True, scrolls: bool = False) -> Drawn:
        """Return it as `drawn` does."""
        return self._drawing.drawn(style, scrolls)

    def to_svg(self, *, style: bool = True) -> str:
        """Return it as `picture_to_svg` does."""
        return self.drawn(style=style).text

    def to_html(self, *, style: bool = True) -> str:
        """Return it as `picture_to_html` does."""
        picture = self._picture
        parts = [_scrolling(self.drawn(style=style, scrolls=True), picture.title)]
        for shape in picture.shapes:
            make = picture.inner.get(shape.id)
            if make is not None:
                inner = make()
                about = f"{shape.label}: {inner.title}"
                if inner.subtitle:
                    about += f", {inner.subtitle}"
                summary = f"<summary>{escape(printable(about))}</summary>"
                below = picture_to_html(inner, style=False)
                parts.append(f'<details class="dagger-inner">{summary}{below}</details>')
        return "".join(parts)


def _scrolling(found: Drawn, title: str) -> str:
    """Return a picture in a place where what does not fit can be scrolled, by the keyboard, too."""
    reached = ""
    if found.width * LEAST > NARROW or found.height > TALLEST:
        about = quoteattr(printable(f"Picture of {title}, which can be scrolled"))
        reached = f' tabindex="0" role="group" aria-label={about}'
    style = f"overflow:auto;max-height:{TALLEST + 20:g}px"  # a bar takes some room
    return f'<div class="dagger-scroll" style="{style}"{reached}>{found.text}</div>'


class _Drawing:
    """A picture with the sizes of its boxes and their places."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._numbers = {shape.id: number for number, shape in enumerate(picture.shapes)}
        self._faces = [_face(shape, picture.inner) for shape in picture.shapes]
        lines = [
            Line(
                self._numbers[arrow.source],
                self._numbers[arrow.target],
                _label_size(arrow.label) if arrow.label else None,
            )
            for arrow in picture.arrows
        ]
        self._drawing = lay_out([Box(face.width, face.height) for face in self._faces], lines)

    def drawn(self, style: bool, scrolls: bool) -> Drawn:
        drawing, picture = self._drawing, self._picture
        title = _cut(picture.title, 15.0, max(drawing.width, WIDEST))
        room = max(drawing.width, width_of(title, 15.0))
        # A description may be wider than a small picture, but not without end.
        subtitle = _cut(picture.subtitle, SMALL, max(room, 2 * WIDEST))
        room = max(room, width_of(subtitle, SMALL))
        width, height = room + 2 * MARGIN, drawing.height + 2 * MARGIN + HEAD
        left, top = MARGIN + (room - drawing.width) / 2, MARGIN + HEAD
        about = f"{picture.title}: {picture.subtitle}" if picture.subtitle else picture.title
        size = f'width="{_n(width)}" height="{_n(height)}"'
        # Pages make it as narrow as they are, but not so small that nothing can be read.
        least = f"min-width:{_n(width * LEAST)}px;" if scrolls else ""
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dagger-pic" role="img" '
            f"aria-label={quoteattr(printable(about))} "
            f'viewBox="0 0 {_n(width)} {_n(height)}" {size} '
            f'style="max-width:100%;{least}height:auto">'
        )
        parts = [opening]
        if style:
            parts.append(f"<style>{STYLE}</style>")
        parts.append(f'<rect class="bg" width="{_n(width)}" height="{_n(height)}" rx="8"/>')
        parts.append(_text(MARGIN, MARGIN + 14, title, "title"))
        if picture.subtitle:
            tone = f" t-{picture.status}" if picture.status in STATES else ""
            parts.append(_text(MARGIN, MARGIN + 31, subtitle, f"soft{tone}"))
        parts.append(f'<g transform="translate({_n(left)} {_n(top)})">')
        for arrow, way, turned in zip(
            picture.arrows,
            drawing.ways,
            (number in drawing.turned for number in range(len(picture.arrows))),
            strict=True,
        ):
            parts.append(_arrow(arrow, way, turned))
        for arrow, place in zip(picture.arrows, drawing.labels, strict=True):
            if place is not None:
                parts.append(_tag(arrow.label, place))
        for face, place in zip(self._faces, drawing.places, strict=True):
            parts.append(face.drawn(place))
        parts.append("</g></svg>")
        return Drawn("".join(parts), width, height)


# --- boxes ----------------------------------------------------------------------------------------


class _Face:
    """What one box shows, and how much room that takes."""

    width: float
    height: float

    def __init__(self, shape: Shape, opens: bool) -> None:
        self.shape = shape
        self.label = _cut(shape.label, BOLD, WIDEST)
        marks, detail = " · ".join(shape.marks), shape.detail
        if marks:  # they are short, and no long error pushes them out
            room = WIDER - width_of(f" · {marks}", SMALL)
            detail = _cut(detail, SMALL, max(room, WIDEST / 2))
        second = " · ".join(each for each in (detail, marks) if each)
        self.second = _cut(second, SMALL, WIDER if marks else WIDEST)
        self.opens = opens
        if shape.kind == "start":
            self.width = self.height = 14.0
            return
        inner = max(
            width_of(self.label, BOLD) + (18.0 if opens else 0.0),
            width_of(self.second, SMALL),
            44.0,
        )
        slant = 10.0 if shape.kind == "choice" else 0.0
        self.width = inner + 2 * PAD + STRIPE + 2 * slant
        self.height = 44.0 if self.second else 32.0

    def drawn(self, place: Point) -> str:
        """Return the box around its place."""
        shape, (x, y) = self.shape, place
        if shape.kind == "start":
            return f'<circle class="dot" cx="{_n(x)}" cy="{_n(y)}" r="6"/>'
        left, top = x - self.width / 2, y - self.height / 2
        state = f" s-{shape.status}" if shape.status in STATES else ""
        parts = [f'<g class="box k-{shape.kind}{state}" data-id={quoteattr(printable(shape.id))}>']
        tooltip = "\n".join(printable(line) for line in (*shape.tooltip, *shape.values()))
        if tooltip:
            parts.append(f"<title>{escape(tooltip)}</title>")
        parts.append(self._frame(left, top))
        inner = left + PAD + STRIPE + (10.0 if shape.kind == "choice" else 0.0)
        base = top + (18.5 if self.second else 20.5)
        parts.append(_text(inner, base, self.label, "name"))
        if self.opens:
            parts.append(_text(left + self.width - PAD - 10, base, "▾", "soft"))
        if self.second:
            parts.append(_text(inner, top + 34.5, self.second, "soft"))
        if shape.counts:
            parts.append(_bar(shape.counts, left, top + self.height - 4, self.width))
        parts.append("</g>")
        return "".join(parts)

    def _frame(self, left: float, top: float) -> str:
        width, height, kind = self.width, self.height, self.shape.kind
        if kind == "choice":
            slant = 10.0
            right, bottom, middle = left + width, top + height, top + height / 2
            return (
                f'<path class="frame" d="M{_n(left + slant)} {_n(top)}H{_n(right - slant)}'
                f"L{_n(right)} {_n(middle)}L{_n(right - slant)} {_n(bottom)}"
                f'H{_n(left + slant)}L{_n(left)} {_n(middle)}Z"/>'
            )
        parts = []
        if kind in ("map", "group"):  # there are more behind it
            parts.append(_rect(left + 4, top + 4, width, height, "frame behind"))
        parts.append(_rect(left, top, width, height, "frame"))
        if kind == "flow" or self.shape.double:
            parts.append(_rect(left + 3, top + 3, width - 6, height - 6, "frame", radius=4.5))
        parts.append(
            f'<path class="stripe" d="M{_n(left + 7)} {_n(top)}h-1a6 6 0 0 0 -6 6'
            f'v{_n(height - 12)}a6 6 0 0 0 6 6h1z"/>'
        )
        return "".join(parts)


class _Block:
    """Shapes that stand in lines in a frame of their own."""

    width: float
    height: float

    def __init__(self, shape: Shape, inner: Container[str], *, inset: float = INSET) -> None:
        self.shape = shape
        self._chain = shape.kind == "chain"
        self._faces = [_face(each, inner, inset=0.0) for each in shape.members]
        self._inset = inset
        lanes = [face for face in self._faces if isinstance(face, _Block)]
        if lanes:  # one below the other
            cell = max(lane._cell for lane in lanes)
            for lane in lanes:
                lane._fit(cell)
        self._across = STEP if self._chain or lanes else GAP
        self._down = STEP if self._chain else GAP
        self._line = max(face.height for face in self._faces)
        self._fit(max(face.width for face in self._faces))

    def _fit(self, cell: float) -> None:
        """Choose how many stand in a line, each so wide, and take the room for them."""
        self._cell, many = cell, len(self._faces)
        most = max(1, int((BROADEST + self._across) / (cell + self._across)))
        lines = -(-many // most)
        self._columns = -(-many // lines)
        self.width = self._columns * (cell + self._across) - self._across + 2 * self._inset
        self.height = lines * (self._line + self._down) - self._down + 2 * self._inset

    def drawn(self, place: Point) -> str:
        """Return the block around its place."""
        left, top = place[0] - self.width / 2, place[1] - self.height / 2
        parts = ['<g class="block">']
        if self._inset:
            title = escape("\n".join(map(printable, self.shape.tooltip)))
            frame = _rect(left, top, self.width, self.height, "shelf", radius=10.0)
            parts.append(f"<g><title>{title}</title>{frame}</g>")
        middles = [self._middle(number, left, top) for number in range(len(self._faces))]
        if self._chain:
            for number, ways in enumerate(pairwise(zip(self._faces, middles, strict=True)), 1):
                idle = self.shape.members[number].id in self.shape.unreached
                parts.append(self._step(*ways, "arrow idle" if idle else "arrow"))
        for face, middle in zip(self._faces, middles, strict=True):
            if isinstance(face, _Face):
                face.width = self._cell  # as wide as the others
            parts.append(face.drawn(middle))
        parts.append("</g>")
        return "".join(parts)

    def _middle(self, number: int, left: float, top: float) -> Point:
        line, column = divmod(number, self._columns)
        x = left + self._inset + column * (self._cell + self._across) + self._cell / 2
        return x, top + self._inset + line * (self._line + self._down) + self._line / 2

    def _step(
        self, source: tuple[_Face | _Block, Point], target: tuple[_Face | _Block, Point], style: str
    ) -> str:
        """Return the arrow from one member to the next: to its right, or in the next line."""
        (one, (x1, y1)), (other, (x2, y2)) = source, target
        if y1 == y2:
            end = x2 - self._cell / 2
            way = f"M{_n(x1 + self._cell / 2)} {_n(y1)}H{_n(end - 7)}"
            return _line(style, way, f"M{_n(end)} {_n(y1)}l-8 -3.8v7.6z")
        low, high = y1 + one.height / 2, y2 - other.height / 2
        way = f"M{_n(x1)} {_n(low)}V{_n((low + high) / 2 - 2)}H{_n(x2)}V{_n(high - 7)}"
        return _line(style, way, f"M{_n(x2)} {_n(high)}l-3.8 -8h7.6z")


def _face(shape: Shape, inner: Container[str], *, inset: float = INSET) -> _Face | _Block:
    if shape.members:
        return _Block(shape, inner, inset=inset)
    return _Face(shape, shape.id in inner)


def _rect(
    left: float, top: float, width: float, height: float, style: str, radius: float = 7.0
) -> str:
    return (
        f'<rect class="{style}" x="{_n(left)}" y="{_n(top)}" width="{_n(width)}" '
        f'height="{_n(height)}" rx="{_n(radius)}"/>'
    )


def _bar(counts: Mapping[str, int], left: float, top: float, width: float) -> str:
    """Return a bar with as much of each colour as there are of its state."""
    total = sum(counts.values())
    parts, x = [], left + 8
    for state in STATES:
        if counts.get(state):
            part = (width - 16) * counts[state] / total
            parts.append(
                f'<path class="f-{state}" d="M{_n(x)} {_n(top)}h{_n(part)}v3h-{_n(part)}z"/>'
            )
            x += part
    return "".join(parts)


# --- arrows ---------------------------------------------------------------------------------------


def _arrow(arrow: Arrow, way: Sequence[Point], turned: bool) -> str:
    style = "arrow idle" if arrow.idle else "arrow"
    if arrow.source == arrow.target:
        (x, y), (far, _), (_, back) = way
        bend = f"{_n(far)} {_n(y - 6)} {_n(far)} {_n(back + 6)}"
        curve = f"M{_n(x)} {_n(y)}C{bend} {_n(x + 6)} {_n(back)}"
        return _line(style, curve, f"M{_n(x)} {_n(back)}l8 -3.6v7.2z")
    down = -1.0 if turned else 1.0
    *before, (x, y) = way
    end = (x, y - 7 * down)  # the line ends where its head begins
    points = [*before, end]
    path = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        if abs(x1 - x2) < 0.05:
            path.append(f"V{_n(y2)}")
        else:
            half = (y1 + y2) / 2
            path.append(f"C{_n(x1)} {_n(half)} {_n(x2)} {_n(half)} {_n(x2)} {_n(y2)}")
    head = f"M{_n(x)} {_n(y)}l-3.8 {_n(-8 * down)}h7.6z"
    return _line(style, "".join(path), head)


def _line(style: str, way: str, head: str) -> str:
    return f'<g class="{style}"><path class="way" d="{way}"/><path class="head" d="{head}"/></g>'


def _label_size(label: str) -> tuple[float, float]:
    return width_of(_cut(label, SMALL, WIDEST), SMALL) + 12, 18.0


def _tag(label: str, place: Point) -> str:
    """Return what stands on an arrow."""
    (width, height), (x, y) = _label_size(label), place
    return _rect(x - width / 2, y - height / 2, width, height, "tag", radius=9.0) + (
        f'<text class="soft" text-anchor="middle" x="{_n(x)}" y="{_n(y + 3.8)}">'
        f"{escape(printable(_cut(label, SMALL, WIDEST)))}</text>"
    )


# --- text -----------------------------------------------------------------------------------------

# Widths of DejaVu Sans, the widest of the fonts that are asked for, in parts of the size: the
# plain ones, or the bold ones beside `BOLD` where those are wider.
_WIDTHS: Final = {
    sign: width
    for width, signs in (
        (0.42, "ijlIft.,:;'|!()[]/\\ -"),
        (0.46, "r"),
        (0.5, '`"'),
        (0.8, "DGHNOQUHV"),
        (0.84, "<>=+~^#_\N{MULTIPLICATION SIGN}\u00ac\u00b1\u00f7"),
        (1.03, "mwMW@%&\u00a9\u00ae\u00bc\u00bd\u00be\u00c6\u00e6\u0153\u0427\u2014\u2026"),
        (1.06, "\u0436\u043c\u0444\u0448\u0449\u044b\u044e\u0459\u045a\u0424\u041c\u042b\u0152"),
        (1.24, "\u0416\u0428\u0429\u042e\u0409\u040a"),
    )
    for sign in signs
}


def width_of(text: str, size: float) -> float:
    """Return how wide a text is at most, in pixels; fonts differ, so a little more than it is."""
    return sum(map(_width, text)) * size


def _width(sign: str) -> float:
    known = _WIDTHS.get(sign)
    if known is not None:
        return known
    if sign < "\u0080":
        return 0.72 if sign.isupper() else 0.645
    if unicodedata.combining(sign) or sign == "\u200d":
        return 0.0
    base = unicodedata.normalize("NFD", sign)[0]
    if base != sign:
        return _width(base)
    kind = unicodedata.category(sign)
    if unicodedata.east_asian_width(sign) in "WF":
        return 1.4 if kind == "So" else 1.05
    if sign < "\u0530":
        return 0.84 if sign.isupper() else 0.75
    return 0.85 if kind[0] in "LMN" else 1.45 if kind[0] == "S" else 1.03


def _cut(text: str, size: float, most: float) -> str:
    text = re.sub(r"\s+", " ", printable(text)).strip()
    if width_of(text, size) <= most:
        return text
    while text and width_of(text + "…", size) > most:
        text = text[:-1] if len(text) < 400 else text[:300]
    return text.rstrip() + "…"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}">{escape(printable(text))}</text>'


def _n(number: float) -> str:
    """Return a number as short as a picture needs it."""
    text = f"{number:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"
