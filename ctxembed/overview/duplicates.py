"""Groups of rows that nearly equal each other, by all inner products. Letters: N rows, D width."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.overview.blocks import VectorRows

BLOCK_ROWS = 2048
ROUNDING = 1e-6
"""Products of equal unit vectors may come out so much below 1."""


def near_duplicate_groups(
    vectors: VectorRows, *, threshold: float, on_progress: Callable[[int], None] | None = None
) -> list[NDArray[np.int64]]:
    """Group rows that are linked by a chain of near-duplicates.

    Every pair is compared, N * N * D operations in all: exact, and for a million rows the work of an hour. Two blocks
    of vectors are in memory at a time, and a link for each row.

    Args:
        vectors: float32 (N, D), L2-normalised, or rows of an index; zero vectors equal nothing.
        threshold: The least cosine of a link, above 0 and at most 1.
        on_progress: Called with the number of rows done since its last call.

    Returns:
        Groups of two rows or more, the largest first, of equals the one of the earliest row; rows ascending in each.

    >>> vectors = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    >>> [group.tolist() for group in near_duplicate_groups(vectors, threshold=0.99)]
    [[0, 2]]
    """
    check(0 < threshold <= 1, f"the threshold is {threshold}, need a cosine above 0 and at most 1, such as 0.95")
    links = np.empty((2, 0), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        found = [links]
        for other in range(start, len(vectors), BLOCK_ROWS):
            near = block @ vectors[other : other + BLOCK_ROWS].T >= threshold - ROUNDING
            first, second = np.nonzero(near)
            found.append(_spanning(first + start, second + other))
        joined = np.concatenate(found, axis=1)
        links = _spanning(joined[0], joined[1])
        if on_progress is not None:
            on_progress(len(block))
    labels = _components(links[0], links[1], len(vectors))
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), int(group[0])))


def _spanning(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep of many links those that hold the same rows together, (2, fewer than rows): memory stays bounded."""
    different = first != second
    if not different.any():
        return np.empty((2, 0), dtype=np.int64)
    rows, inverse = np.unique(np.concatenate([first[different], second[different]]), return_inverse=True)
    ends = inverse.reshape(2, -1)
    labels = _components(ends[0], ends[1], len(rows))
    _, leaders = np.unique(labels, return_index=True)
    return np.stack([rows[leaders[labels]], rows])


def _components(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), dtype=np.bool_), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
