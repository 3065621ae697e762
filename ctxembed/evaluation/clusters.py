"""How well clusters agree with classes: V-measure and the adjusted Rand index. N is the number of items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxembed.errors import InvalidInputError


def v_measure(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Return the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007).

    Args:
        classes: What each item is, (N,), N at least 1.
        clusters: Where each item was put, (N,); the names of the clusters mean nothing.

    Returns:
        In [0, 1]: 1 where clusters and classes are the same but for their names.

    Raises:
        InvalidInputError: If there is no item, or lengths differ.

    >>> v_measure([0, 0, 1, 1], [5, 5, 3, 3]), v_measure([0, 0, 1, 1], [5, 3, 5, 3])
    (1.0, 0.0)
    """
    table = _contingency(classes, clusters)
    shared = table / table.sum()
    of_class, of_cluster = shared.sum(axis=1), shared.sum(axis=0)
    entropies = _entropy(of_class), _entropy(of_cluster)
    information = entropies[0] + entropies[1] - _entropy(shared.ravel())
    homogeneity, completeness = (information / entropy if entropy > 0 else 1.0 for entropy in entropies)
    total = homogeneity + completeness
    return float(np.clip(2 * homogeneity * completeness / total, 0, 1)) if total > 0 else 0.0


def adjusted_rand(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985): the share of agreeing pairs, corrected for chance.

    Args:
        classes: What each item is, (N,), N at least 1.
        clusters: Where each item was put, (N,).

    Returns:
        1 for the same partition, 0 on average for a random one, at least -0.5.

    Raises:
        InvalidInputError: If there is no item, or lengths differ.

    >>> adjusted_rand([0, 0, 1, 1], [5, 5, 3, 3]), round(adjusted_rand([0, 0, 1, 1], [5, 3, 5, 3]), 6)
    (1.0, -0.5)
    """
    table = _contingency(classes, clusters)
    together = _num_pairs(table.ravel())
    in_class, in_cluster = _num_pairs(table.sum(axis=1)), _num_pairs(table.sum(axis=0))
    all_pairs = _num_pairs(table.sum(keepdims=True).ravel())
    expected = in_class * in_cluster / all_pairs if all_pairs else 0.0
    highest = (in_class + in_cluster) / 2
    return float((together - expected) / (highest - expected)) if highest != expected else 1.0


def _contingency(classes: ArrayLike, clusters: ArrayLike) -> NDArray[np.float64]:
    """Count the items of each class in each cluster."""
    first, second = np.asarray(classes), np.asarray(clusters)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise InvalidInputError(f"classes {first.shape} and clusters {second.shape}: need one of each for each item")
    rows, columns = (np.unique(each, return_inverse=True)[1] for each in (first, second))
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    return table


def _entropy(shares: NDArray[Any]) -> float:
    positive = shares[shares > 0]
    return float(-np.sum(positive * np.log(positive)))


def _num_pairs(counts: NDArray[Any]) -> float:
    return float(np.sum(counts * (counts - 1)) / 2)
