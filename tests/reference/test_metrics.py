"""The metrics against scipy, scikit-learn and brute force, at a tolerance of 1e-9."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctxembed.evaluation.metrics import accuracy_at, best_threshold, ndcg_at_k, recall_at_k, spearman, top_columns

SEEDS = range(20)
TOLERANCE = 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_best_threshold_equals_an_exhaustive_search(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 12, size=25) / 12
    labels = generator.random(25) < scores
    places = np.unique(scores)
    candidates = [places[0] - 1, places[-1] + 1, *((places[1:] + places[:-1]) / 2)]
    best = max(np.mean((scores >= candidate) == labels) for candidate in candidates)
    assert accuracy_at(scores, labels, best_threshold(scores, labels)) == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_equals_sklearn(seed: int) -> None:
    from sklearn.metrics import accuracy_score

    generator = np.random.default_rng(seed)
    scores, labels = generator.random(40), generator.random(40) < 0.5
    expected = accuracy_score(labels, scores >= 0.4)
    assert accuracy_at(scores, labels, 0.4) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_with_ties_equals_pearson_of_mean_ranks(seed: int) -> None:
    from scipy.stats import pearsonr, rankdata

    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 8, size=(2, 30))
    expected = pearsonr(rankdata(first), rankdata(second)).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_ndcg_equals_sklearn(seed: int, k: int) -> None:
    from sklearn.metrics import ndcg_score

    generator = np.random.default_rng(seed)
    gains = generator.integers(0, 4, size=30).astype(float)
    scores = generator.permutation(30).astype(float)
    expected = ndcg_score([gains], [scores], k=k)
    assert ndcg_at_k(gains[top_columns(scores, depth=k)], gains, k=k) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_ndcg_denominator_is_the_best_of_all_orders(seed: int) -> None:
    gains = np.random.default_rng(seed).integers(0, 3, size=5)
    gains[0] = 1
    values = [ndcg_at_k(order, gains, k=3) for order in itertools.permutations(gains)]
    assert max(values) == pytest.approx(1.0, abs=TOLERANCE)
    assert min(values) >= 0


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("seed", SEEDS)
def test_recall_equals_sklearn_of_the_retrieved_set(seed: int, k: int) -> None:
    from sklearn.metrics import recall_score

    generator = np.random.default_rng(seed)
    gains = generator.integers(0, 3, size=30)
    gains[3] = 2
    ranking = top_columns(generator.random(30), depth=k)
    retrieved = np.isin(np.arange(30), ranking)
    expected = recall_score(gains > 0, retrieved)
    assert recall_at_k(gains[ranking], gains, k=k) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("depth", [1, 3, 10, 40])
@pytest.mark.parametrize("seed", SEEDS)
def test_top_columns_equals_a_sort_by_score_and_place(seed: int, depth: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 6, size=40) / 6
    expected = sorted(range(40), key=lambda place: (-scores[place], place))[:depth]
    assert top_columns(scores, depth=depth).tolist() == expected
