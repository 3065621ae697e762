"""Positions as pictures: the three kinds, how alike places are, and a sentence that has lost its order."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from ctxembed.inspection.positions import PositionReport
from ctxembed.inspection.recording import Array
from ctxembed.report.charts import heatmap, lines
from ctxembed.report.page import details, paragraph, render_page, section, table, write_page

COLUMNS = 12
"""Columns of a table that are drawn."""


def write_positions_page(path: Path, report: PositionReport) -> None:
    """Write a page about positions alone.

    Raises:
        DiskFullError: If there is no room.
    """
    write_page(path, render_page(f"Where a token stands: {report.model}", positions_sections(report)))


def positions_sections(report: PositionReport) -> list[Markup]:
    """Return the sections about positions."""
    tables, shuffled = report.tables, report.shuffled
    pictures = [
        _table(
            tables.sinusoidal, "Sinusoidal (Vaswani et al. 2017): sines and cosines of lower and lower pitch, added."
        ),
        _table(tables.rotary, "Rotary (Su et al. 2021): the angle in radians by which each pair of columns is turned."),
    ]
    if tables.learned is not None:
        pictures.append(_table(tables.learned, f"Learned: the table of {report.model}, added."))
    kinds = {
        kind: [(float(n), float(value)) for n, value in enumerate(values)]
        for kind, values in tables.by_distance.items()
    }
    rows = [
        {"token": token, "with positions": float(usual), "without": float(blind)}
        for token, usual, blind in zip(
            shuffled.tokens, shuffled.with_positions, shuffled.without_positions, strict=True
        )
    ]
    order = " ".join(shuffled.tokens[place] for place in shuffled.order)
    return [
        section(
            "Positions",
            paragraph(
                "Attention alone sees a set: Q Kᵀ does not change when tokens change places. What tells places apart "
                f"is added to the vectors, or turns Q and K. {report.model} has {report.kind} positions."
            ),
            lines(
                kinds,
                x_label="distance of two places",
                y_label="cosine",
                caption="How alike two places are: near ones more than distant ones, by and large.",
            ),
            details("the tables themselves", *pictures),
        ),
        section(
            "Without positions",
            paragraph(f"The same tokens in another order: {order}"),
            table(rows, caption="cosine of each token's last vector in both orders", digits=6),
            paragraph(
                f"Without positions no number differs by more than {shuffled.largest_difference:.1e}: the order of the "
                "words is lost."
            ),
        ),
    ]


def _table(matrix: Array, caption: str) -> Markup:
    shown = matrix[:, :COLUMNS]
    part = f" The first {COLUMNS} of {matrix.shape[1]} columns." if matrix.shape[1] > COLUMNS else ""
    return heatmap(
        shown,
        rows=[f"place {n}" for n in range(len(shown))],
        columns=[str(n + 1) for n in range(shown.shape[1])],
        caption=caption + part,
    )
