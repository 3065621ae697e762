"""Matrices as plain lines: a name, then the numbers with single spaces between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ctxembed.inspection.recording import Array

SHOWN_COLUMNS = 8


def echo_matrix(
    title: str, matrix: Array, rows: Sequence[str], columns: Sequence[str] | None = None, *, digits: int = 3
) -> None:
    """Print a matrix: whole numbers as such, of wide ones the first columns, which it says.

    Args:
        title: Above it.
        matrix: (R, C).
        rows: R names.
        columns: C names, or none.
        digits: Behind the point.
    """
    shown = matrix if columns is not None else matrix[:, :SHOWN_COLUMNS]
    cells = [[_cell(value, whole=_is_whole(matrix), digits=digits) for value in row] for row in shown.tolist()]
    heads = list(columns) if columns is not None else []
    widths = [max(map(len, column)) for column in zip(*cells, *([heads] if heads else []), strict=True)]
    left = max((len(name) for name in rows), default=0)
    rest = f" (the first {SHOWN_COLUMNS} of {matrix.shape[1]} columns)" if shown.shape[1] < matrix.shape[1] else ""
    click.echo(f"\n{title}{rest}")
    if heads:
        click.echo(f"  {'':{left}}  " + " ".join(f"{name:>{width}}" for name, width in zip(heads, widths, strict=True)))
    for name, row in zip(rows, cells, strict=True):
        click.echo(
            f"  {name:<{left}}  " + " ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True))
        )


def lists(matrix: Any, *, digits: int = 6) -> Any:
    """Return an array as nested lists for JSON; what is not finite is null."""
    import numpy as np

    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim == 0:
        return round(float(values), digits) if np.isfinite(values) else None
    return [lists(each, digits=digits) for each in values]


def _is_whole(matrix: Array) -> bool:
    return bool(((matrix == matrix.round()) & (abs(matrix) < 1e6)).all())


def _cell(value: float, *, whole: bool, digits: int) -> str:
    return f"{value:.0f}" if whole else f"{value:.{digits}f}"
