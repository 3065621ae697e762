"""What an approximate index finds of the true nearest rows, and how hard it has to look: measured, then chosen.

The queries are rows that were held out of the training sample; a row never counts as found by itself. Settings are
chosen on one half of them, what is reported was measured on the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ctxembed.index.files import Places
from ctxembed.index.searcher import Searcher
from ctxembed.types import Vectors

NEAREST = 10
"""Recall is the share of this many true nearest rows that are found."""
MAX_QUERIES = 800
TIMED_QUERIES = 100
CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
"""Of `k_factor`: how many candidates for each result are ranked again."""
LEAST_EF = 16
_SAME = 1e-5
"""Scores that differ by less are a tie: either row is as good."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on a finished index."""

    recall: float
    """The mean over ``queries`` of the share of the ten nearest rows that were found."""
    queries: int
    latency_ms: float
    """Of one query alone, the median."""


@dataclass(frozen=True)
class Truth:
    """Queries with the score of their tenth best row, by comparing every vector."""

    queries: Vectors
    places: Places
    threshold: Vectors
    nearest: int

    def half(self, which: int) -> Truth:
        """Return every second query, from the first (0) or the second (1) on."""
        return Truth(self.queries[which::2], self.places[which::2], self.threshold[which::2], self.nearest)


def held_out(rows: int, *, seed: int) -> Places:
    """Draw the rows that recall is measured on: a tenth at most, ascending; none of a single row."""
    count = min(MAX_QUERIES, max(min(rows, 2), rows // 10)) if rows > 1 else 0
    return np.sort(np.random.default_rng(seed).choice(rows, size=count, replace=False)).astype(np.int64)


def training_sample(rows: int, size: int, without: Places, *, seed: int) -> Places:
    """Draw the rows to learn from, ascending: others than ``without``, unless there are too few."""
    free = np.setdiff1d(np.arange(rows), without, assume_unique=True)
    if len(free) < size:
        free = np.arange(rows)
    return np.sort(np.random.default_rng(seed + 1).choice(free, size=min(size, len(free)), replace=False))


def true_neighbours(searcher: Searcher, places: Places) -> Truth:
    """Compare every vector with some rows of the index."""
    queries = searcher.exact.take(places)
    nearest = min(NEAREST, len(searcher.exact) - 1)
    scores, _ = searcher.exact.index.search(queries, nearest + 1)
    return Truth(queries, places, np.sort(scores, axis=1)[:, 0], nearest)


def recall(searcher: Searcher, truth: Truth) -> Vectors:
    """Return for each query the share of its nearest rows that a search finds, in [0, 1]."""
    scores, places = searcher.search(truth.queries, truth.nearest + 1)
    good = (scores >= truth.threshold[:, None] - _SAME) & (places != truth.places[:, None])
    return np.asarray(np.minimum(good.sum(axis=1), truth.nearest) / truth.nearest, dtype=np.float32)


def tune(searcher: Searcher, truth: Truth, min_recall: float) -> None:
    """Set the searcher to the least effort that reaches a recall, or to the most there is."""

    def reached() -> bool:
        shares = recall(searcher, truth)
        doubt = float(shares.std()) / len(shares) ** 0.5
        return float(shares.mean()) - 2 * doubt >= min(min_recall, 1 - 1e-6) or float(shares.mean()) == 1.0

    effort = searcher.effort
    if searcher.refined:
        if effort is not None:
            searcher.set(**{effort[0]: min(effort[1], 256)})
        for factor in CANDIDATES:
            searcher.set(k_factor=factor)
            if reached():
                break
    if effort is not None:
        name, most = effort
        least = 1 if name == "nprobe" else LEAST_EF
        _smallest(lambda value: searcher.set(**{name: value}), reached, least=least, most=most)


def _smallest(choose: Callable[[int], None], reached: Callable[[], bool], *, least: int, most: int) -> None:
    """Choose the smallest value, to an eighth, that reaches the aim; doubled until it does, then halved back."""
    value = min(most, least)
    failed = value - 1
    choose(value)
    while not reached():
        if value >= most:
            return
        failed, value = value, min(most, 2 * value)
        choose(value)
    while value - failed > max(1, value // 8):
        middle = (value + failed) // 2
        choose(middle)
        if reached():
            value = middle
        else:
            failed = middle
    choose(value)


def measure(searcher: Searcher, truth: Truth) -> Measured:
    """Measure recall and the time of single queries."""
    seconds = []
    for query in truth.queries[:TIMED_QUERIES]:
        begun = time.perf_counter()
        searcher.search(query[None, :], truth.nearest)
        seconds.append(time.perf_counter() - begun)
    return Measured(
        recall=round(float(recall(searcher, truth).mean()), 4),
        queries=len(truth.queries),
        latency_ms=round(float(np.median(seconds)) * 1000, 3),
    )
