"""Metrics on arrays: accuracy at a threshold, rank correlation, the quality of a ranking, and of nearest neighbours.

N is the number of items. Whatever gives every item the same score gets what guessing would get: ties
never help, because a threshold cannot part them and a ranking orders them without looking at the answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxembed.errors import InvalidInputError


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Find the threshold at which "score >= threshold" agrees with the labels most often.

    Only places between two different scores, below all and above all can be thresholds. Of several
    that are equally good the one in the middle of the widest gap is taken (of equal gaps the lowest),
    and below all or above all only when nothing between is as good. This is the classifier that
    Pilehvar and Camacho-Collados, "WiC" (NAACL 2019), set over cosines, here with an exact search.

    Args:
        scores: Similarities, finite, (N,), N at least 1.
        labels: What is true of each item, (N,), booleans or 0 and 1.

    Returns:
        The threshold, in the unit of the scores.

    Raises:
        InvalidInputError: If there is no item, lengths differ, or a score is not finite.

    >>> best_threshold([0.0, 0.25, 0.75, 1.0], [False, False, True, True])
    0.5
    >>> best_threshold([0.5, 0.5, 0.5], [True, True, False])
    0.5
    """
    values, truth = _scores_and_labels(scores, labels)
    order = np.argsort(values, kind="stable")
    values, truth = values[order], truth[order]
    # Cut i calls the items from i on (in rising order) true; there are N + 1 cuts.
    false_below = np.concatenate([[0], np.cumsum(~truth)])
    true_from = truth.sum() - np.concatenate([[0], np.cumsum(truth)])
    correct = false_below + true_from
    half_gaps = np.concatenate([[0.0], values[1:] / 2 - values[:-1] / 2, [0.0]])
    cuts = np.concatenate([[True], values[1:] > values[:-1], [True]])
    candidates = np.flatnonzero(cuts & (correct == correct[cuts].max()))
    cut = int(candidates[np.argmax(half_gaps[candidates])])
    if cut == 0:
        return float(values[0])
    if cut == len(values):
        return float(np.nextafter(values[-1], np.inf))
    below, above = float(values[cut - 1]), float(values[cut])
    middle = below / 2 + above / 2
    # Between neighbouring floats there is no middle; the upper one parts them as well.
    return middle if middle > below else above


def accuracy_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return the share of items for which "score >= threshold" agrees with the label.

    Args:
        scores: Similarities, finite, (N,), N at least 1.
        labels: What is true of each item, (N,), booleans or 0 and 1.
        threshold: In the unit of the scores.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        InvalidInputError: If there is no item, lengths differ, or a score is not finite.

    >>> accuracy_at([0.2, 0.7, 0.4], [False, True, True], 0.5)
    0.6666666666666666
    """
    values, truth = _scores_and_labels(scores, labels)
    return float(np.mean((values >= threshold) == truth))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Correlate two lists by the ranks of their values (Spearman 1904), equal values sharing their mean rank.

    Args:
        first: Finite values, (N,), N at least 1.
        second: Finite values, (N,), for the same items.

    Returns:
        The correlation, in [-1, 1]. Where one of the lists is constant a correlation is not defined;
        it says nothing about the other list, so this returns 0.0.

    Raises:
        InvalidInputError: If there is no item, lengths differ, or a value is not finite.

    >>> round(spearman([1, 2, 3, 4], [10, 20, 40, 30]), 3)
    0.8
    >>> spearman([1, 1, 1], [1, 2, 3])
    0.0
    """
    left, right = _finite(first), _finite(second)
    _same_length(left, right)
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(left, right).statistic)


def top_columns(scores: ArrayLike, *, depth: int) -> NDArray[np.intp]:
    """Return the places of the highest scores, highest first; of equal scores the earlier place comes first.

    A ranking of documents whose ties must be broken by document id passes the scores in the order of the ids.

    Args:
        scores: Finite values, (N,), N at least 1.
        depth: How many places to return, at least 1.

    Returns:
        Places in [0, N), shape (min(depth, N),).

    Raises:
        InvalidInputError: If there is no item, depth is below 1, or a score is not finite.

    >>> top_columns([0.2, 0.9, 0.2, 0.5], depth=3).tolist()
    [1, 3, 0]
    """
    values = _finite(scores)
    depth = min(_at_least_one("depth", depth), len(values))
    lowest = np.partition(values, len(values) - depth)[len(values) - depth]
    candidates = np.flatnonzero(values >= lowest)
    return candidates[np.argsort(-values[candidates], kind="stable")][:depth]


def ndcg_at_k(ranked_gains: ArrayLike, all_gains: ArrayLike, *, k: int) -> float:
    """Return the normalised discounted cumulative gain of the first k places of a ranking.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), in the form that trec_eval
    computes: the gain of a document is its judgement, divided by log2(place + 1) with places from 1.

    Args:
        ranked_gains: Judgements (0 or more) of the documents in the order of the ranking, best first.
        all_gains: Judgements of every judged document of the query, in any order.
        k: How many places count, at least 1.

    Returns:
        A share of what the ideal ranking reaches, in [0, 1]; 0.0 where no document is relevant.

    Raises:
        InvalidInputError: If k is below 1.

    >>> round(ndcg_at_k([0, 1, 0], [1], k=10), 4)
    0.6309
    """
    _at_least_one("k", k)
    ideal = _discounted_gain(np.sort(np.asarray(all_gains, dtype=np.float64))[::-1][:k])
    return _discounted_gain(np.asarray(ranked_gains, dtype=np.float64)[:k]) / ideal if ideal > 0 else 0.0


def recall_at_k(ranked_gains: ArrayLike, all_gains: ArrayLike, *, k: int) -> float:
    """Return the share of a query's relevant documents that stand in the first k places of a ranking.

    Args:
        ranked_gains: Judgements (0 or more) of the documents in the order of the ranking, best first.
        all_gains: Judgements of every judged document of the query, in any order.
        k: How many places count, at least 1.

    Returns:
        The recall, in [0, 1]; 0.0 where no document is relevant.

    Raises:
        InvalidInputError: If k is below 1.

    >>> recall_at_k([0, 2, 1], [1, 2, 1, 0], k=2)
    0.3333333333333333
    """
    _at_least_one("k", k)
    relevant = int(np.count_nonzero(np.asarray(all_gains) > 0))
    found = int(np.count_nonzero(np.asarray(ranked_gains)[:k] > 0))
    return found / relevant if relevant else 0.0


def average_precision(ranked_gains: ArrayLike, all_gains: ArrayLike) -> float:
    """Return the mean of the precision at the place of each relevant document (trec_eval's "map" for one query).

    Args:
        ranked_gains: Judgements (0 or more) of the documents in the order of the ranking, best first.
        all_gains: Judgements of every judged document of the query, in any order; those not ranked count as missed.

    Returns:
        The average precision, in [0, 1]; 0.0 where no document is relevant.

    >>> average_precision([1, 0, 2], [1, 2])
    0.8333333333333333
    """
    relevant = np.count_nonzero(np.asarray(all_gains) > 0)
    places = np.flatnonzero(np.asarray(ranked_gains) > 0) + 1
    return float(np.sum(np.arange(1, len(places) + 1) / places) / relevant) if relevant else 0.0


def nearest_agreement(similarities: ArrayLike, agrees: ArrayLike) -> NDArray[np.float64]:
    """Return for each row the share of its nearest columns that agree with it: 1 or 0 but for ties.

    What an equal chance among equally near neighbours would get on average, so that ties never help.

    Args:
        similarities: (N, M), M at least 1.
        agrees: Whether a column has what the row should have, (N, M) booleans.

    Returns:
        (N,), in [0, 1].

    >>> nearest_agreement([[0.9, 0.1], [0.5, 0.5]], [[True, False], [True, False]]).tolist()
    [1.0, 0.5]
    """
    values = np.asarray(similarities, dtype=np.float64)
    nearest = values == values.max(axis=1, keepdims=True)
    return np.asarray((nearest & np.asarray(agrees, dtype=np.bool_)).sum(axis=1) / nearest.sum(axis=1))


def _discounted_gain(gains: NDArray[np.float64]) -> float:
    return float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2))))


def _scores_and_labels(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, truth = _finite(scores), np.asarray(labels, dtype=np.bool_)
    _same_length(values, truth)
    return values, truth


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise InvalidInputError(f"values of shape {array.shape} cannot be measured: give one value for each item")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidInputError(
            f"value {place} is {array[place]}, need finite numbers: look at the vectors it came from"
        )
    return array


def _same_length(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise InvalidInputError(f"{first.shape} and {second.shape} values differ in number: give one of each per item")


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InvalidInputError(f"{name} is {value}, need at least 1: it counts the places of the ranking")
    return value
