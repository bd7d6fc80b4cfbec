"""Pages that hold all they need: escaping, elements, and the style they share.

A page has no script and loads nothing; its policy (`POLICY`) has the browser refuse both, whatever
a name or a value should contain. All text from data goes through `text` or `attribute`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from dagger_dsl.model.text import printable
from dagger_dsl.views.states import GLYPHS
from dagger_dsl.views.svg import STYLE as PICTURE_STYLE

__all__ = [
    "GLYPHS",
    "POLICY",
    "attribute",
    "block",
    "code",
    "definitions",
    "fold",
    "name",
    "page",
    "section",
    "state",
    "table",
    "text",
]

#: What a page may do: show its own style and pictures that are inside of it.
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def text(value: object, limit: int | None = None, *, lines: bool = False) -> str:
    """Return text from data for between two tags; it cannot become markup.

    Args:
        value: A text, or anything with a `str`.
        limit: Characters at most, before escaping.
        lines: Whether line breaks and tabs stay.
    """
    shown = printable(value, lines=lines)
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return html.escape(shown, quote=False)


def attribute(value: object, limit: int | None = None) -> str:
    """Return text from data as the value of an attribute, with its quotes."""
    shown = printable(value, lines=True)
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return f'"{html.escape(shown, quote=True)}"'.replace("\n", "&#10;").replace("\t", " ")


def name(value: object, limit: int = 80) -> str:
    """Return a name from data; its direction of writing does not touch what stands beside it."""
    full = printable(value)
    title = f" title={attribute(full, 400)}" if len(full) > limit else ""
    return f"<bdi{title}>{text(full, limit)}</bdi>"


def code(value: object) -> str:
    """Return one line of code or data."""
    return f'<code dir="auto">{text(value)}</code>'


def block(value: object, label: str = "") -> str:
    """Return lines of code or data; they can be scrolled, with the keyboard, too."""
    about = f' role="group" aria-label={attribute(label)}' if label else ""
    return f'<pre tabindex="0"{about}><code>{text(value, lines=True)}</code></pre>'


def state(value: str, look: str = "") -> str:
    """Return the name of a state with its sign and colours; *look* is the state that has them."""
    shown = look or (value if value in GLYPHS else "pending")
    words = text(value.replace("_", " "))
    return (
        f'<span class="state s-{shown}"><span class="glyph" aria-hidden="true">'
        f"{GLYPHS[shown]}</span>{words}</span>"
    )


def section(anchor: str, title: str, body: str) -> str:
    """Return a part of the page.

    Args:
        anchor: Its id; not from data.
        title: Its heading; not from data.
        body: HTML.
    """
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>{body}</section>\n'


def fold(summary: str, body: str, *, style: str = "", opened: bool = False) -> str:
    """Return what can be opened and closed; *summary* and *body* are HTML."""
    kind = f' class="{style}"' if style else ""
    return f"<details{kind}{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, style: str = ""
) -> str:
    """Return a table; cells are HTML, and the first one of each row names the row.

    Args:
        heads: Titles of the columns; one that begins with ``>`` is of numbers.
        rows: The cells; one cell alone is as wide as the table.
        caption: What it shows, for those who do not see it.
        style: A class.
    """
    kinds = [' class="number"' if head.startswith(">") else "" for head in heads]
    top = "".join(
        f'<th scope="col"{kind}>{head.removeprefix(">")}</th>'
        for head, kind in zip(heads, kinds, strict=True)
    )
    body = []
    for first, *rest in rows:
        if not rest:
            body.append(f'<tr class="wide"><td colspan="{len(heads)}">{first}</td></tr>')
            continue
        cells = "".join(
            f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True)
        )
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label={attribute(caption)}>'
        f'<table class="{style}"><caption class="unseen">{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def definitions(pairs: Iterable[tuple[str, str]], style: str = "facts") -> str:
    """Return names with what they stand for; both are HTML."""
    inner = "".join(f"<div><dt>{term}</dt><dd>{told}</dd></div>" for term, told in pairs)
    return f'<dl class="{style}">{inner}</dl>'


def page(title: str, header: str, body: str, contents: Sequence[tuple[str, str]] = ()) -> str:
    """Return a whole page.

    Args:
        title: What the browser calls it; from data.
        header: HTML of what stands above all.
        body: HTML of the sections.
        contents: Anchors of sections with their titles.
    """
    links = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name in contents)
    contents_ = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title, 200)}</title>\n<style>{PICTURE_STYLE}\n{_STYLE}</style>\n</head>\n"
        f'<body class="dagger-pic">\n<header>\n{header}\n</header>\n{contents_}\n'
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )


_MONO: Final = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'

#: The colours are those of pictures, which `PICTURE_STYLE` gives to the whole body.
_STYLE: Final = (
    """
:root{color-scheme:light dark}
[data-theme=light]{color-scheme:light}
[data-theme=dark]{color-scheme:dark}
*{box-sizing:border-box}
body.dagger-pic{margin:0 auto;max-width:72rem;padding:2.25rem 1.5rem 4rem;background:var(--bg);
color:var(--ink);font-size:15px;line-height:1.5;-webkit-text-size-adjust:100%}
html{background:#fff}
@media (prefers-color-scheme:dark){html{background:#14181e}}
[data-theme=light]{background:#fff}
[data-theme=dark]{background:#14181e}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .6rem;font-weight:650;overflow-wrap:anywhere;
letter-spacing:-.01em}
h2{font-size:1.15rem;margin:2.6rem 0 .7rem;font-weight:650;scroll-margin-top:1rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem;font-weight:600}
h4,h5,h6{font-size:.95rem;margin:1rem 0 .4rem;font-weight:600}
p{margin:.4rem 0}
a{color:inherit;text-decoration-color:var(--line);text-underline-offset:.2em}
a:hover{text-decoration-color:currentColor}
:focus-visible{outline:2px solid var(--waiting);outline-offset:2px;border-radius:3px}
code,pre{font-family:MONO;font-size:.86em}
code{overflow-wrap:anywhere}
pre{margin:.3rem 0;padding:.65rem .8rem;background:var(--skipped-box);border-radius:6px;
overflow:auto;max-height:26rem;line-height:1.45}
pre code{font-size:1em;white-space:pre-wrap}
.note,.soft-text{color:var(--soft)}
.small{font-size:.82rem;font-weight:400}
.note{margin:-.35rem 0 .8rem}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}
.state{display:inline-flex;align-items:center;gap:.38em;white-space:nowrap;
padding:.02em .6em .02em .5em;border:1px solid var(--edge);border-radius:99px;
background:var(--box);font-size:.86em;line-height:1.5}
.glyph{font-weight:700;font-size:.95em}
header .state{font-size:.95rem;padding:.1em .8em .1em .65em;font-weight:600}
.under{display:flex;flex-wrap:wrap;gap:.4rem .9rem;align-items:center;margin:0}
.reason{margin:.8rem 0 0;max-width:52rem;overflow-wrap:anywhere}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.2rem;margin:1.4rem 0 0;
padding:.7rem 0 0;border-top:1px solid var(--faint)}
nav a{color:var(--soft);text-decoration:none}
nav a:hover{color:var(--ink);text-decoration:underline}
.facts{display:flex;flex-wrap:wrap;gap:.9rem 2.4rem;margin:1.3rem 0 0}
.facts dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.pairs{margin:.3rem 0;display:grid;gap:.3rem}
.pairs>div{display:grid;grid-template-columns:minmax(7rem,13rem) minmax(0,1fr);gap:1rem}
.pairs dt{color:var(--soft);overflow-wrap:anywhere}
.pairs dd{margin:0;min-width:0}
.picture{overflow:auto;max-height:52rem;border:1px solid var(--faint);border-radius:10px;
padding:.4rem;text-align:center}
.zoom{margin:0 0 .5rem}
.zoom[open]+.picture svg{max-width:none!important}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.34rem .9rem .34rem 0;border-top:1px solid
var(--faint)}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.82rem;white-space:nowrap}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:7rem}
td{overflow-wrap:anywhere}
.wide>td{border-top:0;padding:0 0 .5rem 1.2rem}
.config th{white-space:nowrap}
.config td:nth-child(2){min-width:14rem}
.number{text-align:right;white-space:nowrap}
td:last-child,th:last-child{padding-right:0}
details>summary{cursor:pointer}
summary:hover{text-decoration:underline;text-decoration-color:var(--line);
text-underline-offset:.2em}
.card{border:1px solid var(--faint);border-radius:10px;padding:.75rem 1rem;margin:.7rem 0}
.card.failed{border-left:4px solid var(--failed)}
.card>summary{overflow-wrap:anywhere}
.card h3{margin-top:.9rem;font-size:.86rem;color:var(--soft);font-weight:600}
.inner{margin:.5rem 0;padding-left:.9rem;border-left:2px solid var(--faint)}
.message{display:block;margin:.25rem 0 0 1.05rem;font-family:MONO;font-size:.86em}
.value .pairs>div{grid-template-columns:minmax(3.5rem,7rem) minmax(0,1fr)}
.value summary{list-style-position:outside;margin-left:1.05em}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:0 3rem}
.share{display:block;position:relative;height:6px;margin-top:.55em;border-radius:3px;
background:var(--line)}
.two td:nth-child(2){width:38%}
.gantt{position:relative;margin:.2rem 0;--who:13rem;--took:4.8rem}
.lane{display:grid;grid-template-columns:var(--who) minmax(0,1fr) var(--took);gap:.8rem;
align-items:center;height:23px}
.rules{position:absolute;top:23px;bottom:0;left:calc(var(--who) + .8rem);
right:calc(var(--took) + .8rem);border:solid var(--faint);border-width:0 1px}
.lane .who{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-size:.88rem}
.lane .took{color:var(--soft);font-size:.8rem;text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
.track{position:relative;height:100%}
.axis i{position:absolute;bottom:2px;font-style:normal;font-size:.76rem;color:var(--soft);
white-space:nowrap;transform:translateX(-50%)}
.axis i:first-child{transform:none}
.rule{position:absolute;top:0;bottom:0;width:0;border-left:1px solid var(--faint);opacity:.6}
.rule.gap{background:repeating-linear-gradient(135deg,transparent 0 3px,var(--faint) 3px 4px);
border:0}
.bar{position:absolute;top:5px;height:13px;min-width:3px;border-radius:3px;
background:var(--completed);box-shadow:0 0 0 1px var(--bg)}
.bar.b-wait{top:11px;height:0;border-top:2px dotted var(--line);background:none;border-radius:0;
box-shadow:none}
.bar.b-failed,.bar.b-timed_out{background:repeating-linear-gradient(135deg,var(--failed) 0 3px,
var(--failed-box) 3px 5px);border:1px solid var(--failed)}
.bar.b-running{background:var(--running-box);border:1px solid var(--running);border-right:3px dotted
var(--running);border-radius:3px 0 0 3px}
.bar.b-waiting{background:var(--waiting-box);border:1px dashed var(--waiting)}
.bar.b-cancelled{background:var(--cancelled-box);border:1px solid var(--cancelled)}
.bar.b-skipped,.bar.b-pending{background:var(--skipped-box);border:1px solid var(--skipped)}
.bar.b-mixed{background:linear-gradient(to top,var(--failed) 40%,var(--completed) 40%)}
.bar.kept{background:var(--completed-box);border:1px dashed var(--completed)}
.critical .who{font-weight:650}
.critical .bar{box-shadow:0 0 0 1px var(--bg),0 3px 0 0 var(--ink)}
.critical .bar.b-wait{box-shadow:none}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;margin:.5rem 0 0;padding:0;list-style:none;
color:var(--soft);font-size:.82rem}
.key .bar{position:relative;display:inline-block;top:2px;width:20px;margin-right:.45em}
.key .bar.b-wait{top:-3px}
.key .ink{box-shadow:0 0 0 1px var(--bg),0 3px 0 0 var(--ink)}
@media (max-width:44rem){body.dagger-pic{padding:1.2rem 1rem 3rem}
.gantt{--who:7rem;--took:4.2rem}
.axis i:not(:first-child):not(:last-child){display:none}
.wordy td:last-child{min-width:20rem}
th,td{padding-right:.55rem}tbody th{min-width:5rem}
.pairs>div{grid-template-columns:1fr;gap:0}.two{grid-template-columns:1fr}}
@media print{.scroll,pre,.picture{overflow:visible;max-height:none}nav{display:none}}
""".replace("MONO", _MONO).strip()
    + "".join(
        f".state.s-{each}{{border-color:var(--{each});background:var(--{each}-box)}}"
        f".s-{each}>.glyph{{color:var(--{'soft' if each == 'pending' else each})}}"
        for each in GLYPHS
    )
)
