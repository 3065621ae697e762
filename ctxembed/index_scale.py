"""The scale of an index's own similarities: how alike random pairs of its rows are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ctxembed.calibration import Calibration, random_similarities
from ctxembed.types import Vectors

SAMPLED_ROWS = 20_000
SEED = 1


def similarity_scale(numbers: NDArray[np.int64], take: Callable[[NDArray[np.int64]], Vectors]) -> Calibration | None:
    """Draw pairs of rows at random.

    Args:
        numbers: int64 (N,), the rows.
        take: Gives vectors of rows by number, float32 (n, D), L2-normalised.

    Returns:
        Quantiles of the cosines of pairs from a seeded sample; None where fewer than two rows have a vector.
    """
    if len(numbers) > SAMPLED_ROWS:
        numbers = np.sort(np.random.default_rng(SEED).choice(numbers, SAMPLED_ROWS, replace=False))
    drawn = random_similarities(take(numbers), seed=SEED).clip(-1.0, 1.0).round(6)
    return Calibration.of_background(drawn) if len(drawn) else None
