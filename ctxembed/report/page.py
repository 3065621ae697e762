"""One self-contained offline page: it opens from a file, asks nothing of any network and reads without script.

Parts are made by the functions here and in ``charts``, each of which returns escaped markup; ``render_page`` puts them
into one document. Its content security policy forbids every request: a page cannot tell anybody that it was read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ctxembed.runtime import atomic_path

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --line: #ccc; --mark: #ffe08a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --faint: #a0a0a0; --line: #444; --mark: #6b5200; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; font: 1rem/1.55 system-ui, sans-serif; }
body { color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1.05rem; }
p { max-width: 46rem; }
.note, figcaption, caption { color: var(--faint); font-size: .9rem; text-align: left; }
figure { margin: 1rem 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
table { display: block; overflow-x: auto; border-collapse: collapse; margin: 1rem 0; }
table { font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
mark { background: var(--mark); color: inherit; padding: 0 .1em; border-radius: .15em; }
code { font-family: ui-monospace, monospace; }
summary { cursor: pointer; }
:focus-visible { outline: 3px solid #4b8bf5; outline-offset: 2px; }
@media print { body { max-width: none; } details { break-inside: avoid; } }
"""

_DOCUMENT = Markup(
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
    "<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n{script}</body>\n</html>\n"
)


def render_page(title: str, parts: Sequence[Markup], *, data: Any = None, style: str = "", script: str = "") -> str:
    """Put parts into one HTML document.

    Args:
        title: Plain text, the page's name and its first heading.
        parts: Markup in reading order.
        data: What the script shows, anything that JSON can write; the script finds it in the constant ``DATA``.
        style: CSS behind the shared one.
        script: JavaScript, run when the document has been read. Neither it nor ``style`` is escaped.

    Returns:
        The document, for ``write_page``.

    >>> "<h1>a &lt; b</h1>" in render_page("a < b", [paragraph("nothing else")])
    True
    """
    scripts = Markup("")
    if script:  # "</script>" inside a string would end the element: < is written as its JSON escape
        literal = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
        scripts = Markup(f'<script>\n"use strict";\nconst DATA = {literal};\n{script}\n</script>\n')
    return str(
        _DOCUMENT.format(
            title=title,
            style=Markup(STYLE + style),
            body=Markup("\n").join(parts),
            script=scripts,
        )
    )


def write_page(path: Path, page: str) -> None:
    """Write a document whole or not at all.

    Raises:
        DiskFullError: If there is no room.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def section(heading: str, *parts: Markup, note: str = "") -> Markup:
    """Return a section with a heading, an optional note in small print, and its parts."""
    small = paragraph(note, small=True) if note else Markup("")
    return Markup("<section>\n<h2>{}</h2>\n{}{}\n</section>").format(heading, small, Markup("\n").join(parts))


def paragraph(text: str, *, small: bool = False) -> Markup:
    """Return a paragraph of plain text."""
    return Markup('<p class="note">{}</p>' if small else "<p>{}</p>").format(text)


def details(summary: str, *parts: Markup) -> Markup:
    """Return parts that are folded away until the summary is chosen."""
    return Markup("<details>\n<summary>{}</summary>\n{}\n</details>").format(summary, Markup("\n").join(parts))


def table(rows: Sequence[Mapping[str, Any]], *, caption: str = "", digits: int = 3) -> Markup:
    """Return rows as a table; the first row names the columns, numbers stand to the right.

    Args:
        rows: Equal keys in every row; no rows give a sentence that says so. Markup in a cell stays as it is.
        caption: Plain text above the table.
        digits: Behind the point of a float.
    """
    if not rows:
        return paragraph("Nothing to show.", small=True)
    heads = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_number_class(value), name) for name, value in rows[0].items()
    )
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(_number_class(v), _cell(v, digits)) for v in row.values())
        )
        for row in rows
    )
    return Markup("<table>\n<caption>{}</caption>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>").format(
        caption, heads, body
    )


def marked_text(text: str, spans: Sequence[tuple[int, int]]) -> Markup:
    """Return a text with character ranges highlighted.

    Args:
        text: Plain text.
        spans: Start and end of each range, in order and apart from each other.

    >>> str(marked_text("the bank & co", [(4, 8)]))
    'the <mark>bank</mark> &amp; co'
    """
    pieces, position = [], 0
    for start, end in spans:
        pieces += [escape(text[position:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        position = end
    return Markup("").join([*pieces, escape(text[position:])])


def _cell(value: Any, digits: int) -> Markup:
    if isinstance(value, float):
        return escape(f"{value:.{digits}f}")
    return escape("" if value is None else value)


def _number_class(value: Any) -> Markup:
    return Markup(' class="number"') if isinstance(value, int | float) and not isinstance(value, bool) else Markup("")
