"""Metrics: thresholds, chance for a constant scorer, ties, bounds, refused input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.metrics import accuracy_at, best_threshold, ndcg_at_k, recall_at_k, spearman, top_columns

cosines = st.floats(-1, 1)
labelled = st.lists(st.tuples(cosines, st.booleans()), min_size=1, max_size=30)


def test_best_threshold_separates_separable_scores() -> None:
    assert best_threshold([0.75, 0.0, 1.0, 0.25], [True, False, True, False]) == 0.5


def test_best_threshold_takes_the_widest_gap_among_equal_accuracies() -> None:
    # Both 0.15 and 0.65 get four of five right; the second gap is wider.
    assert best_threshold([0.1, 0.2, 0.3, 1.0], [False, True, False, True]) == pytest.approx(0.65)


def test_best_threshold_takes_the_lower_of_equal_gaps() -> None:
    assert best_threshold([0.0, 0.25, 0.5, 0.75], [False, True, False, True]) == 0.125


@pytest.mark.parametrize(("labels", "accuracy"), [([1, 1, 0], 2 / 3), ([0, 0, 0, 1], 3 / 4), ([1, 0], 1 / 2)])
def test_constant_scores_reach_the_majority_share(labels: list[int], accuracy: float) -> None:
    scores = [0.3] * len(labels)
    assert accuracy_at(scores, labels, best_threshold(scores, labels)) == pytest.approx(accuracy)


def test_threshold_lies_above_everything_where_nothing_is_true() -> None:
    threshold = best_threshold([0.2, 0.9], [False, False])
    assert threshold > 0.9
    assert accuracy_at([0.2, 0.9], [False, False], threshold) == 1.0


def test_threshold_parts_neighbouring_floats() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    threshold = best_threshold([low, high], [False, True])
    assert accuracy_at([low, high], [False, True], threshold) == 1.0


@given(labelled)
def test_best_accuracy_is_never_below_the_majority_share(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = zip(*pairs, strict=True)
    share = sum(labels) / len(labels)
    assert accuracy_at(scores, labels, best_threshold(scores, labels)) >= max(share, 1 - share) - 1e-12


@given(labelled, st.randoms(use_true_random=False))
def test_best_threshold_does_not_depend_on_the_order(pairs: list[tuple[float, bool]], generator: object) -> None:
    shuffled = list(pairs)
    generator.shuffle(shuffled)  # type: ignore[attr-defined]
    assert best_threshold(*zip(*pairs, strict=True)) == best_threshold(*zip(*shuffled, strict=True))


def test_threshold_itself_counts_as_true() -> None:
    assert accuracy_at([0.5], [True], 0.5) == 1.0


@pytest.mark.parametrize("constant", [([0.4] * 4, [1, 2, 3, 4]), ([1, 2, 3, 4], [0.4] * 4), ([1], [2])])
def test_spearman_of_a_constant_is_zero(constant: tuple[list[float], list[float]]) -> None:
    assert spearman(*constant) == 0.0


def test_spearman_is_one_for_any_rising_relation() -> None:
    assert spearman([0.1, 0.2, 0.7], [1, 50, 51]) == pytest.approx(1.0)
    assert spearman([0.1, 0.2, 0.7], [3, 2, 1]) == pytest.approx(-1.0)


def test_top_columns_breaks_ties_by_place() -> None:
    assert top_columns([0.5, 0.9, 0.5, 0.9, 0.1], depth=4).tolist() == [1, 3, 0, 2]


def test_top_columns_of_a_constant_keeps_the_given_order() -> None:
    assert top_columns([0.5] * 6, depth=3).tolist() == [0, 1, 2]


def test_top_columns_returns_all_when_depth_is_larger() -> None:
    assert top_columns([0.1, 0.2], depth=9).tolist() == [1, 0]


def test_constant_ranking_gets_chance_in_the_mean_over_relevant_sets() -> None:
    # With one relevant document anywhere with equal probability, recall@k of a fixed order is k / N.
    recalls = []
    for place in range(20):
        gains = np.eye(20)[place]
        recalls.append(recall_at_k(gains[top_columns([0.7] * 20, depth=20)], gains, k=5))
    assert np.mean(recalls) == pytest.approx(5 / 20)


def test_ndcg_is_one_for_the_ideal_ranking() -> None:
    assert ndcg_at_k([2, 1, 1, 0], [0, 1, 2, 1], k=10) == pytest.approx(1.0)


def test_ndcg_counts_only_the_first_places() -> None:
    assert ndcg_at_k([0, 0, 1], [1], k=2) == 0.0


def test_ndcg_uses_linear_gains() -> None:
    # (1 + 3 / log2 3) / (3 + 1 / log2 3); exponential gains would give another number.
    assert ndcg_at_k([1, 3], [3, 1], k=2) == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))


@pytest.mark.parametrize("metric", [ndcg_at_k, recall_at_k])
def test_ranking_metrics_are_zero_without_relevant_documents(metric: object) -> None:
    assert metric([0, 0], [0], k=3) == 0.0  # type: ignore[operator]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_ranking_metrics_stay_between_zero_and_one(gains: list[int], k: int) -> None:
    assert 0 <= ndcg_at_k(gains, gains, k=k) <= 1 + 1e-12
    assert 0 <= recall_at_k(gains, gains, k=k) <= 1


def test_recall_does_not_weigh_judgements() -> None:
    assert recall_at_k([3, 0], [3, 1], k=2) == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InvalidInputError, match=r"value 1 is (nan|inf), need finite numbers"):
        best_threshold([0.1, value], [True, False])


def test_no_scores_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(0,\) cannot be measured"):
        accuracy_at([], [], 0.5)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\(2,\) and \(3,\) values differ in number"):
        spearman([1, 2], [1, 2, 3])


def test_depth_below_one_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="depth is 0, need at least 1"):
        top_columns([0.1], depth=0)


@pytest.mark.parametrize("metric", [ndcg_at_k, recall_at_k])
def test_k_below_one_is_refused(metric: object) -> None:
    with pytest.raises(InvalidInputError, match="k is 0, need at least 1"):
        metric([1], [1], k=0)  # type: ignore[operator]
