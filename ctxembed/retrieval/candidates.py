"""From a query to candidates: rows by vector, by words or by both, under a condition on their metadata.

Letters: N candidates of a query, best first; Q queries; D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.filters import Filter
from ctxembed.index import Ids, Neighbours
from ctxembed.index.folder import IndexFolder
from ctxembed.retrieval.options import LIST_DEPTH, Mode
from ctxembed.retrieval.ranking import reciprocal_rank_fusion
from ctxembed.types import Vectors

OVERFETCH = 4
"""Rows looked at for each one wanted, before all rows that satisfy a condition are listed."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for: a text, a vector, or both."""

    text: str | None
    """None: only the vector is known."""
    vector: Vectors | None
    """float32 (D,), L2-normalised; None: only the text is known."""
    exclude: int | None = None
    """The number of the row that the query was taken from, which is no hit."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that may become hits, best first; every array has shape (N,), NaN stands for unknown."""

    numbers: Ids
    scores: NDArray[np.float64]
    cosines: NDArray[np.float64]
    bm25: NDArray[np.float64]
    late: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return some of them, in the order given."""
        return type(self)(
            self.numbers[places], self.scores[places], self.cosines[places], self.bm25[places], self.late[places]
        )

    def ranked_anew(self, late: NDArray[np.float64], *, mode: Mode) -> Self:
        """Return them in the order of late interaction, which takes the place of the whole vector.

        By meaning alone that is the order; where words count too, its ranks are fused with those of BM25.
        """
        order = np.argsort(-late, kind="stable")
        scores = late
        if mode != "dense":
            by_words = np.argsort(-np.nan_to_num(self.bm25, nan=-1.0), kind="stable")
            fused = reciprocal_rank_fusion([order, by_words[: np.count_nonzero(~np.isnan(self.bm25))]])
            order, scores = fused.ids, np.empty(len(late))
            scores[order] = fused.scores
        return replace(self, scores=scores, late=late).take(order)


def nearest(folder: IndexFolder, vectors: Vectors, *, k: int, where: Filter | None) -> list[Neighbours]:
    """Find the k rows nearest to each of several vectors among those that satisfy a condition.

    Where few rows satisfy it, these are searched alone. Otherwise the neighbours of all rows are looked at first, and
    only if too few of them satisfy it, all rows that do are listed; so a condition never costs a hit.

    Args:
        folder: The rows and their vectors.
        vectors: float32 (Q, D), L2-normalised.
        k: Neighbours wanted; fewer where fewer rows satisfy the condition.
        where: The condition; None for all rows.

    Returns:
        Q pairs of scores and ids, each of shape (at most k,).
    """
    numbers = None if where is None else folder.few_matching(where.text)
    if where is not None and numbers is None:
        found = folder.search(vectors, OVERFETCH * (k + 10))
        passing = folder.passing(found.ids, where)
        if (passing.sum(axis=1) >= k).all():
            rows = zip(*found, passing, strict=True)
            return [Neighbours(scores[passes][:k], ids[passes][:k]) for scores, ids, passes in rows]
        numbers = folder.matching(where.text)
    return [Neighbours(*pair) for pair in zip(*folder.search(vectors, k, numbers=numbers), strict=True)]


def best_by_words(folder: IndexFolder, query: str, *, k: int, where: Filter | None) -> list[tuple[int, float]]:
    """Find the k rows that answer a query's words best among those that satisfy a condition, in the same manner.

    Returns:
        Numbers and BM25, best first; fewer than k where fewer rows satisfy the condition and have a word.
    """
    numbers = None if where is None else folder.few_matching(where.text)
    if where is not None and numbers is None:
        few = OVERFETCH * (k + 10)
        for wide in (few, 16 * few):
            found = folder.store.search_text(query, k=wide)
            passing = folder.passing(np.array([number for number, _ in found], dtype=np.int64), where)
            if passing.sum() >= k or len(found) < wide:
                return list(compress(found, passing.tolist()))[:k]
        numbers = folder.matching(where.text)
    return folder.store.search_text(query, k=k, among=numbers)


def find_candidates(
    folder: IndexFolder,
    queries: Sequence[Query],
    *,
    mode: Mode,
    depth: int,
    where: Filter | None,
) -> list[Candidates]:
    """Find the best rows for each query.

    Args:
        folder: The rows and their vectors.
        queries: Each with a vector for dense search, a text for lexical search, both for hybrid.
        mode: What is compared.
        depth: Rows wanted for each query.
        where: A condition on rows.

    Returns:
        ``depth`` candidates or more for each query, fewer only where there are no more; of hybrid search all rows of
        both rankings, since the order is not that of the cosines and a threshold may leave the last ones. The row that
        a query excludes is not among them.
    """
    long = depth + any(query.exclude is not None for query in queries)
    if mode == "hybrid":  # rows that are good in one ranking and fair in the other must be in both
        long = max(long, LIST_DEPTH)
    dense = lexical = None
    if mode != "lexical":
        vectors = np.stack([query.vector for query in queries if query.vector is not None])
        dense = nearest(folder, vectors, k=long, where=where)
    if mode != "dense":
        lexical = [best_by_words(folder, query.text or "", k=long, where=where) for query in queries]
    found = []
    for number, query in enumerate(queries):
        by_vector = None if dense is None or (not np.any(query.vector) and mode == "hybrid") else dense[number]
        candidates = _join(folder, query, by_vector, None if lexical is None else lexical[number])
        found.append(candidates.take(candidates.numbers != (-1 if query.exclude is None else query.exclude)))
    return found


def _join(
    folder: IndexFolder, query: Query, dense: Neighbours | None, lexical: Sequence[tuple[int, float]] | None
) -> Candidates:
    """Return the candidates of one query, their ranks fused where there are two rankings."""
    if lexical is None:
        scores, ids = dense or Neighbours(np.empty(0, np.float32), np.empty(0, np.int64))
        cosines = scores.astype(np.float64).clip(-1.0, 1.0)  # rounding can carry a product of unit vectors past 1
        return Candidates(ids, cosines, cosines, _unknown(ids), _unknown(ids))
    numbers = np.array([number for number, _ in lexical], dtype=np.int64)
    bm25 = np.array([score for _, score in lexical], dtype=np.float64)
    if query.vector is None:
        return Candidates(numbers, bm25, _unknown(numbers), bm25, _unknown(numbers))
    fused = reciprocal_rank_fusion([*([dense.ids] if dense else []), numbers])
    by_number = dict(zip(numbers.tolist(), bm25.tolist(), strict=True))
    known = np.array([by_number.get(number, np.nan) for number in fused.ids.tolist()], dtype=np.float64)
    cosines = (folder.take(fused.ids) @ query.vector).astype(np.float64).clip(-1.0, 1.0)
    return Candidates(fused.ids, fused.scores, cosines, known, _unknown(fused.ids))


def _unknown(numbers: Ids) -> NDArray[np.float64]:
    return np.full(len(numbers), np.nan)
