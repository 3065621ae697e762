"""Figures on words for papers: a map of the uses and the shares of senses, as png, svg or pdf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctxembed.errors import InvalidInputError
from ctxembed.meaning.clusters import without_forms
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.meaning.senses import WordSenses
from ctxembed.meaning.shift import WordUses
from ctxembed.overview.projection import project
from ctxembed.report.charts import COLOURS
from ctxembed.report.meaning import sense_shares, some_of
from ctxembed.runtime import atomic_path
from ctxembed.text import word_form
from ctxembed.types import Vectors

KINDS = (".png", ".svg", ".pdf")
_MARKERS = "osD^vP*X"
_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
MAP_USES = 1500


def sense_figure(results: Sequence[WordSenses], path: Path, *, seed: int = 1) -> None:
    """Draw, for each word, the map of its uses by sense and the share of each sense.

    Raises:
        InvalidInputError: If the file name ends in no kind of figure.
    """
    figure, axes = _begin(path, rows=len(results), columns=2)
    for (left, right), result in zip(axes, results, strict=True):
        _map(left, result.occurrences, result.vectors, result.ids(), title=f"{result.word}: uses by sense", seed=seed)
        shares = np.array([[sense.share] for sense in result.senses])
        _bars(right, shares, [s.id for s in result.senses], ["all uses"])
    _save(figure, path)


def shift_figure(uses: Sequence[WordUses], groups: Sequence[str], path: Path, *, seed: int = 1) -> None:
    """Draw, for each word, the map of its uses by sense and by period, and the shares of senses in each period.

    Raises:
        InvalidInputError: If the file name ends in no kind of figure, or no word was measured.
    """
    if not uses:
        raise InvalidInputError(f"no word had enough uses to be measured, so there is nothing to draw in {path}")
    figure, axes = _begin(path, rows=len(uses), columns=3)
    for row, word in zip(axes, uses, strict=True):
        names = [word.names[label] for label in word.clusters.labels.tolist()]
        _map(row[0], word.occurrences, word.vectors, names, title=f"{word.word}: uses by sense", seed=seed)
        periods = [each.group for each in word.occurrences]
        _map(
            row[1],
            word.occurrences,
            word.vectors,
            periods,
            title=f"{word.word}: uses by period",
            seed=seed,
            order=groups,
        )
        present = [name for name in groups if word.counts.get(name)]
        _bars(row[2], sense_shares(word, present), list(word.names), present)
    _save(figure, path)


def check_kind(path: Path) -> Path:
    """Return a path that ends in a kind of figure.

    Raises:
        InvalidInputError: If it does not.
    """
    if path.suffix.lower() not in KINDS:
        raise InvalidInputError(
            f"{path} ends in {path.suffix or 'nothing'!r}, need one of {', '.join(KINDS)}: rename it"
        )
    return path


def _begin(path: Path, *, rows: int, columns: int) -> tuple[Any, Any]:
    check_kind(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _map(
    axis: Any,
    occurrences: Sequence[Occurrence],
    vectors: Vectors,
    names: Sequence[str],
    *,
    title: str,
    seed: int,
    order: Sequence[str] | None = None,
) -> None:
    some = some_of(len(occurrences), MAP_USES, seed=seed)
    places = project(without_forms(vectors, [word_form(each.usage.word) for each in occurrences])).points[some]
    shown = np.array([names[n] for n in some])
    for number, name in enumerate(order or sorted(set(names))):
        members = places[shown == name]
        if len(members):
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
            axis.scatter(*members.T, s=14, c=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    axis.set(title=title, xlabel="first principal direction", ylabel="second principal direction")
    axis.legend(fontsize="small", frameon=False)


def _bars(axis: Any, shares: Any, names: Sequence[str], groups: Sequence[str]) -> None:
    """Draw shares (senses, groups) as stacked bars, each sense with its own colour and hatching."""
    bottom = np.zeros(len(groups))
    for number, (name, row) in enumerate(zip(names, np.nan_to_num(shares), strict=True)):
        axis.bar(
            range(len(groups)),
            row,
            bottom=bottom,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
        )
        bottom += row
    axis.set_xticks(range(len(groups)), groups, rotation=45 if len(groups) > 3 else 0)
    axis.set(title="share of senses", ylabel="share of uses", ylim=(0, 1))
    axis.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _save(figure: Any, path: Path) -> None:
    """Write a figure without what differs from run to run: its time, and random names for the parts of an svg."""
    import matplotlib as mpl

    kind = path.suffix.lower().lstrip(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with atomic_path(path) as temporary, mpl.rc_context({"svg.hashsalt": "ctxembed"}):
        figure.savefig(temporary, format=kind, dpi=200, metadata=undated)
