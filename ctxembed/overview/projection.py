"""A map of vectors in the plane, and groups to colour it by. Letters: N rows, D width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxembed.types import Scalar, Vectors

OTHERS = "(others)"
NOTHING = "(none)"


class Projection(NamedTuple):
    """Points of a map, and how much of the differences between the vectors it shows."""

    points: NDArray[np.float64]
    """(N, 2)."""
    share: float
    """Of the variance, in [0, 1]."""


def project(vectors: Vectors) -> Projection:
    """Project vectors on the two directions of their largest variance (principal components; Pearson 1901).

    Args:
        vectors: float32 (N, D), any N.

    Returns:
        Points around the origin; of each axis the side is fixed by making the component's largest entry positive.
    """
    wide = vectors.astype(np.float64)
    centred = wide - wide.mean(axis=0, keepdims=True) if len(wide) else wide
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = directions[:, : -min(2, directions.shape[1]) - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = np.zeros((len(wide), 2))
    points[:, : axes.shape[1]] = centred @ axes
    total = float(variances.sum())
    return Projection(points, float(variances[-2:].sum()) / total if total > 0 else 0.0)


def name_groups(values: Sequence[Scalar], *, most: int = 8) -> list[str]:
    """Name the group of each value: itself, or a range where there are many numbers; rare ones are joined.

    Args:
        values: N values of one metadata column; None and empty ones stand for nothing.
        most: Groups at most, beside those of the joined and the missing.

    >>> name_groups(["a", "b", "a", None], most=1)
    ['a', '(others)', 'a', '(none)']
    >>> name_groups([1950, 1960, 1990, 2000], most=2)
    ['1950 to 1960', '1950 to 1960', '1990 to 2000', '1990 to 2000']
    """
    given = [value for value in values if value not in (None, "")]
    numbers = [_number(value) for value in given]
    if len(set(given)) > most and all(number is not None for number in numbers):
        known = np.array(numbers, dtype=np.float64)
        edges = np.quantile(known, np.linspace(0, 1, most + 1)[1:-1])
        ranges = np.searchsorted(edges, known, side="right")
        parts = {part: known[ranges == part] for part in np.unique(ranges).tolist()}
        labels = {part: f"{inside.min():g} to {inside.max():g}" for part, inside in parts.items()}
        names = iter([labels[part] for part in ranges.tolist()])
    else:
        common = {value for value, _ in Counter(map(str, given)).most_common(most)}
        names = iter([str(value) if str(value) in common else OTHERS for value in given])
    return [NOTHING if value in (None, "") else next(names) for value in values]


def _number(value: Scalar) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except ValueError:
        return None
    return number if np.isfinite(number) and not isinstance(value, bool) else None
