"""Rankings as arrays: fusing several, choosing a varied few, folding near-duplicates, scoring by token vectors.

Letters: N items, M rankings, Q vectors of a query, T vectors of all items together, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.types import Vectors

Ids = NDArray[np.int64]

FUSION_CONSTANT = 60
"""The k of reciprocal-rank fusion, as its authors chose it."""


class Fused(NamedTuple):
    """Items of several rankings, best first; both arrays have shape (N,)."""

    ids: Ids
    scores: NDArray[np.float64]


class Alignment(NamedTuple):
    """What answers each vector of a query best; both arrays have shape (Q,)."""

    places: NDArray[np.int64]
    cosines: Vectors


def reciprocal_rank_fusion(rankings: Sequence[Ids], *, constant: int = FUSION_CONSTANT) -> Fused:
    """Join rankings by the places of their items alone (Cormack, Clarke and Büttcher 2009).

    An item scores the sum of 1 / (constant + place) over the rankings that hold it, places counted from 1, so scores
    of different kinds need no common scale.

    Args:
        rankings: M arrays of ids, best first, each id once in each; empty ones are allowed.
        constant: How little the first places count more than later ones, at least 0.

    Returns:
        Every id once; equal scores in the order of their ids.

    >>> fused = reciprocal_rank_fusion([np.array([7, 3]), np.array([3, 9])])
    >>> fused.ids.tolist(), fused.scores.round(4).tolist()
    ([3, 7, 9], [0.0325, 0.0164, 0.0161])
    """
    check(constant >= 0, f"constant is {constant}, need 0 or more")
    ids = np.concatenate([np.empty(0, np.int64), *rankings])
    gains = np.concatenate([np.empty(0), *(1.0 / (constant + 1 + np.arange(len(each))) for each in rankings)])
    unique, inverse = np.unique(ids, return_inverse=True)
    scores = np.bincount(inverse, weights=gains, minlength=len(unique)).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    return Fused(unique[order], scores[order])


def maximal_marginal_relevance(
    relevance: NDArray[np.float64], vectors: Vectors, *, k: int, diversity: float
) -> NDArray[np.int64]:
    """Choose items that are relevant and unlike each other (Carbonell and Goldstein 1998).

    Each step takes the item with the largest (1 - diversity) * relevance - diversity * (greatest cosine with an item
    taken before). The paper's lambda is 1 - diversity.

    Args:
        relevance: On a scale comparable to a cosine, (N,).
        vectors: float32 (N, D), L2-normalised.
        k: Items wanted; all where there are fewer.
        diversity: In [0, 1]; 0 gives the order of relevance.

    Returns:
        Places of the chosen items, (min(k, N),), in the order of choice; of equals the earlier place comes first.

    >>> vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    >>> maximal_marginal_relevance(np.array([0.9, 0.8, 0.5]), vectors, k=2, diversity=0.5).tolist()
    [0, 2]
    """
    check(0 <= diversity <= 1, f"diversity is {diversity}, need 0 (relevance alone) to 1 (variety alone)")
    check(k >= 1, f"k is {k}, need at least 1: ask for one hit or more")
    k = min(k, len(relevance))
    likest = np.zeros(len(relevance))  # nothing is taken yet: the first choice is the most relevant item
    chosen: list[int] = []
    for _ in range(k):
        marginal = (1 - diversity) * relevance - diversity * likest if chosen else relevance.astype(np.float64)
        marginal = np.array(marginal)
        marginal[chosen] = -np.inf
        best = int(np.argmax(marginal))
        cosines = vectors @ vectors[best]
        likest = np.maximum(likest, cosines) if chosen else cosines.astype(np.float64)
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def fold_near_duplicates(vectors: Vectors, *, threshold: float) -> NDArray[np.int64]:
    """Put every item to the first kept item that it nearly equals.

    Items are gone through in order: one whose cosine with an item kept before reaches the threshold is folded into
    the first such item, every other is kept. Zero vectors equal nothing.

    Args:
        vectors: float32 (N, D), L2-normalised, best first.
        threshold: A cosine, above 0 and at most 1.

    Returns:
        int64 (N,): the place of the item that each is folded into, its own for one that is kept.

    >>> fold_near_duplicates(np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32), threshold=0.99).tolist()
    [0, 1, 0]
    """
    check(0 < threshold <= 1, f"the threshold of near-duplicates is {threshold}, need a cosine above 0 and at most 1")
    near = vectors @ vectors.T >= threshold - 1e-6  # products of equal unit vectors may round to less than 1
    owners = np.arange(len(vectors))
    kept: list[int] = []
    for place in range(len(vectors)):
        found = np.flatnonzero(near[place, kept])
        if len(found):
            owners[place] = kept[int(found[0])]
        else:
            kept.append(place)
    return owners


def max_similarities(query: Vectors, items: Vectors, bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score items by late interaction, MaxSim (Khattab and Zaharia 2020, equation 3).

    Each vector of the query finds its best vector in an item; the score is the mean of these cosines. The paper's sum
    is Q times this, which is the same order.

    Args:
        query: float32 (Q, D), L2-normalised; zero rows, which stand for unknown words, are left out.
        items: float32 (T, D), the token vectors of all items, one after the other.
        bounds: int64 (N + 1,), item n has the vectors from ``bounds[n]`` to ``bounds[n + 1]``.

    Returns:
        (N,) in [-1, 1]; -1 for an item without vectors, 0 for every other item where the query has none.

    >>> items = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    >>> max_similarities(np.eye(2, dtype=np.float32), items, np.array([0, 2, 3])).tolist()
    [1.0, 0.5]
    """
    known = query[query.any(axis=1)]
    filled = np.flatnonzero(np.diff(bounds) > 0)
    scores = np.full(len(bounds) - 1, -1.0)
    if not len(known):
        scores[filled] = 0.0
    elif len(filled):
        # an empty item has the bound of the next one, so the bounds of filled items part all vectors
        best = np.maximum.reduceat(known @ items.T, bounds[filled], axis=1)
        scores[filled] = best.mean(axis=0, dtype=np.float64)
    return scores.clip(-1.0, 1.0)


def best_alignment(query: Vectors, item: Vectors) -> Alignment:
    """Find the vector of an item that answers each vector of a query best, by cosine.

    Args:
        query: float32 (Q, D), L2-normalised.
        item: float32 (T, D), L2-normalised, T at least 1.

    Returns:
        Places in [0, T) and cosines in [-1, 1]; of equals the first.

    >>> aligned = best_alignment(np.eye(2, dtype=np.float32), np.array([[0, 1], [1, 0]], dtype=np.float32))
    >>> aligned.places.tolist(), aligned.cosines.tolist()
    ([1, 0], [1.0, 1.0])
    """
    check(len(item) > 0, "the item has no vectors: nothing can answer")
    cosines = query @ item.T
    places = cosines.argmax(axis=1)
    return Alignment(places, np.take_along_axis(cosines, places[:, None], axis=1)[:, 0].clip(-1.0, 1.0))
