"""Topics: rows in groups of one direction, the words that set each apart, and the rows that stand for it.

Letters: N rows, D width, C topics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.overview.blocks import VectorRows
from ctxembed.text import is_content_word, word_forms
from ctxembed.types import Vectors

BLOCK_ROWS = 16_384
"""Vectors in memory at a time, beside the sample."""
ROWS_PER_TOPIC = 256
LEAST_SAMPLE = 10_000
"""Rows that centroids are learned from: so many, or as many for each topic; all rows where there are fewer."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Rows in groups, the largest group first."""

    labels: NDArray[np.int64]
    """(N,), the topic of each row from 0, -1 for a row without a vector."""
    centroids: Vectors
    """(C, D), L2-normalised."""
    cosines: Vectors
    """(N,), of each row with its centroid."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(C,), rows of each topic."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.centroids))

    def typical(self, topic: int, *, count: int) -> NDArray[np.int64]:
        """Return the rows of a topic that are nearest to its centroid, nearest first."""
        members = np.flatnonzero(self.labels == topic)
        return members[np.argsort(-self.cosines[members], kind="stable")[:count]]


def default_number(rows: int) -> int:
    """Return how many topics suit a number of rows: half its square root, 2 to 50.

    >>> default_number(1_000), default_number(10), default_number(10**6)
    (16, 2, 50)
    """
    return int(min(50, max(2, rows**0.5 / 2 + 0.5)))


def find_topics(vectors: VectorRows, *, count: int, seed: int = 1) -> Topics:
    """Group rows around centroids by k-means (Lloyd 1982; k-means++ starts, the best of four).

    Centroids are learned from a seeded sample, brought to unit length, and every row goes to the one of the largest
    cosine.

    Args:
        vectors: float32 (N, D), L2-normalised, or rows of an index, read in blocks; zero rows belong to no topic.
        count: Topics wanted; fewer are found where there are fewer different rows.
        seed: Of sample and starts.

    Raises:
        InvalidInputError: If no topic is asked for.
    """
    check(count >= 1, f"{count} topics are asked for, need at least 1")
    starts = range(0, len(vectors), BLOCK_ROWS)
    nonzero = [vectors[start : start + BLOCK_ROWS].any(axis=1) for start in starts]
    known = np.flatnonzero(np.concatenate([np.empty(0, dtype=np.bool_), *nonzero]))
    labels, cosines = np.full(len(vectors), -1, dtype=np.int64), np.zeros(len(vectors), dtype=np.float32)
    if not len(known):
        return Topics(labels, vectors[:0], cosines)
    size = max(LEAST_SAMPLE, ROWS_PER_TOPIC * count)
    sample = known if len(known) <= size else np.random.default_rng(seed).choice(known, size, replace=False)
    centroids = _unit(_centroids(vectors[np.sort(sample)], count, seed))
    for start in range(0, len(known), BLOCK_ROWS):
        rows = known[start : start + BLOCK_ROWS]
        products = vectors[rows] @ centroids.T
        labels[rows] = products.argmax(axis=1)
        cosines[rows] = products.max(axis=1)
    sizes = np.bincount(labels[known], minlength=len(centroids))
    order = [topic for topic in np.argsort(-sizes, kind="stable").tolist() if sizes[topic]]
    places = np.full(len(centroids) + 1, -1, dtype=np.int64)  # the last one is that of -1
    places[order] = np.arange(len(order))
    return Topics(places[labels], centroids[order], cosines.clip(-1.0, 1.0))


def distinctive_words(texts: Iterable[str], labels: Iterable[int], *, count: int, num_topics: int) -> list[list[str]]:
    """Find the words that occur more in one topic than elsewhere, by class-based TF-IDF (Grootendorst 2022).

    A word scores its share of the topic's words times log(1 + A / f), where A is the mean number of words of a topic
    and f how often the word occurs in all of them.

    Args:
        texts: N texts, gone through once.
        labels: The topic of each, -1 for none.
        count: Words wanted for each topic.
        num_topics: C.

    Returns:
        C lists of word forms, most distinctive first, of equals in the order of the alphabet; function words are
        left out.

    >>> distinctive_words(["a red boat", "the boat sank", "a loan"], [0, 0, 1], count=1, num_topics=2)
    [['boat'], ['loan']]
    """
    counts: list[Counter[str]] = [Counter() for _ in range(num_topics)]
    for text, label in zip(texts, labels, strict=True):
        if label >= 0:
            counts[label].update(filter(is_content_word, word_forms(text)))
    totals: Counter[str] = Counter()
    for each in counts:
        totals.update(each)
    mean = totals.total() / max(1, num_topics)
    found = []
    for each in counts:
        scores = {word: number / each.total() * np.log1p(mean / totals[word]) for word, number in each.items()}
        found.append(sorted(scores, key=lambda word: (-scores[word], word))[:count])
    return found


def _centroids(sample: Vectors, count: int, seed: int) -> Vectors:
    from sklearn.cluster import KMeans

    different = len(np.unique(sample.round(6), axis=0))
    model = KMeans(n_clusters=min(count, different), n_init=4, random_state=seed).fit(sample)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
