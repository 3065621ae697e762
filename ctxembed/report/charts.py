"""Pictures as inline SVG: sharp at any size, readable without colour, with a text for every mark.

Colours are those of Okabe and Ito (2008), which differ for every kind of colour vision; each group has its own shape
beside its colour, so that a page printed in black and white says the same. Hovering or focusing a mark shows its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a00", "#888888"]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 380, 64, 48, 16
_SHAPES = (
    '<circle r="5"{}>{}</circle>',
    '<rect x="-4.5" y="-4.5" width="9" height="9"{}>{}</rect>',
    '<path d="M0-6 6 5H-6Z"{}>{}</path>',
    '<path d="M0-6 6 0 0 6-6 0Z"{}>{}</path>',
    '<path d="M-6-5H6L0 6Z"{}>{}</path>',
    '<path d="M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"{}>{}</path>',
)
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")


def heatmap(
    matrix: NDArray[Any], *, rows: Sequence[str], columns: Sequence[str], caption: str, digits: int = 2, cell: int = 46
) -> Markup:
    """Draw a matrix with its numbers written in the cells.

    Args:
        matrix: Any range, (R, C); the darkest cell has the largest magnitude, negative cells are orange, NaN is a dash.
        rows: R names.
        columns: C names.
        caption: Plain text below.
        digits: Behind the point.
        cell: Side of a cell, pixels.
    """
    values = np.asarray(matrix, dtype=np.float64)
    left = 12 + 7 * max((len(name) for name in rows), default=0)
    scale = float(np.nan_to_num(np.abs(values)).max()) if values.size else 1.0
    marks = [_text(left + (c + 0.5) * cell, 14, name, "middle") for c, name in enumerate(columns)]
    for r, name in enumerate(rows):
        y = 22 + r * cell * 0.7
        marks.append(_text(left - 6, y + cell * 0.35 + 4, name, "end"))
        for c, column in enumerate(columns):
            known = not np.isnan(values[r, c])
            strength = abs(values[r, c]) / scale if scale and known else 0.0
            colour = COLOURS[0] if values[r, c] >= 0 else COLOURS[1]
            marks.append(
                Markup(
                    '<g><title>{}, {}: {}</title><rect x="{}" y="{}" width="{}" height="{}" fill="{}" '
                    'fill-opacity="{:.3f}" stroke="currentColor" stroke-opacity=".15"/>{}</g>'
                ).format(
                    name,
                    column,
                    f"{values[r, c]:.{digits + 2}f}" if known else "unknown",
                    left + c * cell,
                    y,
                    cell,
                    cell * 0.7,
                    colour,
                    0.75 * strength,
                    _text(left + (c + 0.5) * cell, y + cell * 0.35 + 4, _shown(values[r, c], digits), "middle"),
                )
            )
    return _figure(marks, caption, width=left + cell * len(columns) + 8, height=int(30 + cell * 0.7 * len(rows)))


def scatter(points: NDArray[Any], *, texts: Sequence[str], groups: Sequence[str] | None = None, caption: str) -> Markup:
    """Draw points in the plane, each with a text shown when it is hovered over or focused.

    Args:
        points: Any range, (N, 2).
        texts: N texts.
        groups: N names of groups, each drawn in a colour and a shape of its own.
        caption: Plain text below.
    """
    places = _placed(np.asarray(points, dtype=np.float64).reshape(-1, 2))
    names = list(dict.fromkeys(groups)) if groups is not None else []
    marks = [
        _point(x, y, names.index(groups[n]) if groups is not None else 0, texts[n]) for n, (x, y) in enumerate(places)
    ]
    return _figure(marks, caption, legend=names)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, caption: str) -> Markup:
    """Draw named series of (x, y) points, joined in the order given."""
    points = np.array([pair for pairs in series.values() for pair in pairs], dtype=np.float64).reshape(-1, 2)
    extent = _extent(points[:, 0]), _extent(points[:, 1])
    marks = _axes(*extent, x_label, y_label)
    for number, (name, pairs) in enumerate(series.items()):
        places = [(_scaled(x, extent[0], LEFT, WIDTH - 12), _height(y, extent[1])) for x, y in pairs]
        marks.append(
            Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>').format(
                " ".join(f"{x:.1f},{y:.1f}" for x, y in places), _colour(number), _DASHES[number % len(_DASHES)]
            )
        )
        marks += [_point(*places[n], number, f"{name}: {x:g}, {y:.4g}") for n, (x, y) in enumerate(pairs)]
    return _figure(marks, caption, legend=list(series) if len(series) > 1 else [])


def bars(
    values: Mapping[str, float], *, caption: str, intervals: Mapping[str, tuple[float, float]] | None = None
) -> Markup:
    """Draw named values as horizontal bars from zero, with an interval (low, high) for those that have one."""
    left = 16 + 7 * max((len(name) for name in values), default=0)
    numbers = [*values.values(), 0.0, *(end for pair in (intervals or {}).values() for end in pair)]
    extent = (min(numbers), max(numbers) or 1.0)
    zero, marks = _scaled(0.0, extent, left, WIDTH - 64), []
    for row, (name, value) in enumerate(values.items()):
        y, end = 10 + row * 26, _scaled(value, extent, left, WIDTH - 64)
        marks += [
            _text(left - 8, y + 14, name, "end"),
            Markup(
                '<rect x="{:.1f}" y="{}" width="{:.1f}" height="18" fill="{}"><title>{}: {:.4g}</title></rect>'
            ).format(min(zero, end), y, abs(end - zero), COLOURS[0], name, value),
            _text(WIDTH - 56, y + 14, f"{value:.3f}", "start"),
        ]
        if intervals and name in intervals:
            low, high = (_scaled(bound, extent, left, WIDTH - 64) for bound in intervals[name])
            marks.append(
                Markup(
                    '<path d="M{:.1f} {}H{:.1f}M{:.1f} {}v8M{:.1f} {}v8" stroke="currentColor" stroke-width="1.5"/>'
                ).format(low, y + 9, high, low, y + 5, high, y + 5)
            )
    return _figure(marks, caption, height=20 + 26 * len(values))


def tree(links: NDArray[Any], *, names: Sequence[str], groups: Sequence[str], caption: str) -> Markup:
    """Draw a dendrogram, leaves down the left side; joins stand at the distance at which they were made.

    Args:
        links: As scipy's ``linkage`` returns them, (N - 1, 4).
        names: N names of leaves, shown beside them.
        groups: N names of groups, each with its own mark.
        caption: Plain text below.
    """
    kinds, leaves = list(dict.fromkeys(groups)), len(names)
    left, right, step = 16 + 6.2 * max((len(name) for name in names), default=0), 320.0, 18
    children = {leaves + n: (int(a), int(b)) for n, (a, b) in enumerate(links[:, :2])}
    order: list[int] = []
    waiting = [leaves + len(links) - 1 if len(links) else 0]
    while waiting:
        node = waiting.pop()
        if node < leaves:
            order.append(node)
        else:
            waiting += reversed(children[node])
    top = float(links[:, 2].max()) if len(links) and links[:, 2].max() > 0 else 1.0
    places = {leaf: (left, 14.0 + step * row) for row, leaf in enumerate(order)}
    marks = []
    for node, (a, b) in children.items():
        x = left + 14 + (right - 14) * float(links[node - leaves, 2]) / top
        (xa, ya), (xb, yb) = places[a], places[b]
        places[node] = x, (ya + yb) / 2
        marks.append(
            Markup('<path d="M{:.1f} {:.1f}H{:.1f}V{:.1f}H{:.1f}" fill="none" stroke="currentColor"/>').format(
                xa, ya, x, yb, xb
            )
        )
    for leaf in order:
        x, y = places[leaf]
        marks += [
            _text(x - 12, y + 4, names[leaf], "end"),
            _point(x, y, kinds.index(groups[leaf]), f"{groups[leaf]}: {names[leaf]}"),
        ]
    return _figure(marks, caption, width=int(left + right + 24), height=20 + step * leaves, legend=kinds)


def weighted_text(
    text: str,
    weights: Sequence[tuple[int, int, float]],
    *,
    caption: str,
    mark: tuple[int, int] | None = None,
) -> Markup:
    """Return a text whose words are shaded by weight; the weight itself is the tooltip of each word.

    Args:
        text: Plain text.
        weights: Start, end and weight of each word, in order and apart; the shade is relative to the largest magnitude.
        caption: Plain text below.
        mark: Start and end of one more word, the one in question, which is underlined.
    """
    top = max((abs(weight) for _, _, weight in weights), default=0.0) or 1.0
    pieces: list[Markup] = []
    position = 0
    for start, end, weight in sorted([*weights, *([] if mark is None else [(*mark, 0.0)])]):
        pieces.append(escape(text[position:start]))
        if (start, end) == mark:
            pieces.append(Markup("<b><u>{}</u></b>").format(text[start:end]))
        else:
            colour = "0,114,178" if weight >= 0 else "213,94,0"
            pieces.append(
                Markup('<span tabindex="0" title="{:.4f}" style="background:rgba({},{:.3f})">{}</span>').format(
                    weight, colour, 0.6 * abs(weight) / top, text[start:end]
                )
            )
        position = end
    body = Markup("").join([*pieces, escape(text[position:])])
    return Markup("<figure><p>{}</p><figcaption>{}</figcaption></figure>").format(body, caption)


def _figure(
    marks: Sequence[Markup], caption: str, *, width: int = WIDTH, height: int = HEIGHT, legend: Sequence[str] = ()
) -> Markup:
    keys = [
        Markup('<g transform="translate({} {})">{}</g>').format(
            LEFT + 8, height + 14 + 20 * n, _point(0, 0, n, name) + _text(14, 4, name, "start")
        )
        for n, name in enumerate(legend)
    ]
    full = height + (20 * len(legend) + 10 if legend else 0)
    return Markup(
        '<figure><svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>'
        "<figcaption>{2}</figcaption></figure>"
    ).format(width, full, caption, Markup("").join([*marks, *keys]))


def _point(x: float, y: float, group: int, text: str) -> Markup:
    style = Markup(' fill="{}" fill-opacity=".85"').format(_colour(group))
    shape = Markup(_SHAPES[group % len(_SHAPES)]).format(style, Markup("<title>{}</title>").format(text))
    return Markup('<g transform="translate({:.1f} {:.1f})" tabindex="0">{}</g>').format(x, y, shape)


def _axes(across: tuple[float, float], up: tuple[float, float], x_label: str, y_label: str) -> list[Markup]:
    marks = [
        Markup('<path d="M{} {}V{}H{}" fill="none" stroke="currentColor" stroke-opacity=".5"/>').format(
            LEFT, TOP, HEIGHT - BOTTOM, WIDTH - 12
        ),
        _text((LEFT + WIDTH) / 2, HEIGHT - 8, x_label, "middle"),
        Markup('<text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (HEIGHT - BOTTOM) / 2, y_label
        ),
    ]
    marks += [
        _text(_scaled(value, across, LEFT, WIDTH - 12), HEIGHT - BOTTOM + 16, f"{value:.4g}", "middle")
        for value in np.linspace(*across, 5)
    ]
    marks += [_text(LEFT - 6, _height(value, up) + 4, f"{value:.3g}", "end") for value in np.linspace(*up, 5)]
    return marks


def _placed(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    if not len(points):
        return []
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([WIDTH - 32, HEIGHT - 32])
    unit = float(((high - low) / room).max()) or 1.0  # one scale for both: distances are what a map shows
    places = np.array([WIDTH, HEIGHT]) / 2 + (points - (low + high) / 2) / unit * [1, -1]
    return [(x, y) for x, y in places.tolist()]


def _extent(values: NDArray[np.float64]) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scaled(value: float, extent: tuple[float, float], start: float, end: float) -> float:
    return start + (value - extent[0]) / ((extent[1] - extent[0]) or 1.0) * (end - start)


def _height(value: float, extent: tuple[float, float]) -> float:
    return _scaled(value, extent, HEIGHT - BOTTOM, TOP)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _shown(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _colour(group: int) -> str:
    return COLOURS[group % len(COLOURS)]
