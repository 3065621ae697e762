"""The calibrated scale: its curve against scikit-learn, percentiles against counting, reliability against both."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxembed.calibration import (
    Calibration,
    expected_calibration_error,
    random_similarities,
    reliability,
)
from ctxembed.errors import InvalidInputError


def drawn(
    number: int = 400, *, slope: float = 9.0, middle: float = 0.6
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    generator = np.random.default_rng(3)
    similarity = generator.uniform(0.2, 0.9, 400)
    return similarity, generator.random(400) < 1 / (1 + np.exp(-9 * (similarity - 0.6)))


def test_curve_equals_a_logistic_regression_on_the_softened_targets() -> None:
    from sklearn.linear_model import LogisticRegression

    similarity, same = drawn()
    positives, negatives = same.sum(), (~same).sum()
    targets = np.where(same, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    model.fit(np.tile(similarity, 2)[:, None], np.repeat([1, 0], len(same)), sample_weight=np.r_[targets, 1 - targets])
    found = Calibration.fit(similarity, same)
    assert (found.slope, found.intercept) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-4)
    np.testing.assert_allclose(found.probability(similarity), model.predict_proba(similarity[:, None])[:, 1], atol=1e-5)


def test_narrow_similarities_are_fitted_as_well_as_wide_ones() -> None:
    similarity, same = drawn()
    wide, narrow = Calibration.fit(similarity, same), Calibration.fit(0.99 + similarity / 1000, same)
    np.testing.assert_allclose(narrow.probability(0.99 + similarity / 1000), wide.probability(similarity), atol=1e-5)


def test_pairs_that_a_threshold_parts_have_a_finite_curve() -> None:
    found = Calibration.fit([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [False] * 3 + [True] * 3)
    assert found.threshold == pytest.approx(0.5, abs=1e-6)
    assert 0.7 < found.probability(0.9) < 1


@pytest.mark.parametrize("similarities", [[1.0, 1.0, 1.0, 1.0], [0.9, 0.8, 0.1, 0.2]], ids=["constant", "falling"])
def test_similarity_that_tells_nothing_gives_everybody_the_base_rate(similarities: list[float]) -> None:
    found = Calibration.fit(similarities, [False, False, True, True])
    assert found.slope == 0
    np.testing.assert_allclose(found.probability([0.0, 0.5, 1.0]), 0.5)
    assert found.threshold is None
    with pytest.raises(InvalidInputError, match="similarity tells nothing"):
        found.at_probability(0.7)


def test_threshold_is_where_both_answers_are_equally_likely() -> None:
    found = Calibration.fit(*drawn())
    assert found.threshold is not None
    assert float(found.probability(found.threshold)) == pytest.approx(0.5)
    assert float(found.probability(found.at_probability(0.8))) == pytest.approx(0.8)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_percentile_rises_with_similarity_and_stays_in_its_range(background: list[float], asked: list[float]) -> None:
    found = Calibration.of_background(background).percentile(sorted(asked))
    assert ((found >= 0) & (found <= 100)).all()
    assert (np.diff(found) >= 0).all()


def test_percentile_equals_counting() -> None:
    background = np.random.default_rng(1).normal(0.2, 0.1, 5000)
    found = Calibration.of_background(background)
    for similarity in (0.0, 0.15, 0.31, 0.44):
        assert float(found.percentile(similarity)) == pytest.approx(100 * np.mean(background < similarity), abs=0.05)
    assert float(found.percentile(found.at_percentile(97.3))) == pytest.approx(97.3)


def test_nan_stays_nan_and_shape_stays() -> None:
    found = Calibration.fit(*drawn(), background=[0.1, 0.2])
    asked = np.array([[0.1, np.nan], [0.9, 0.2]])
    for answer in (found.probability(asked), found.percentile(asked)):
        assert np.isnan(answer).tolist() == [[False, True], [False, False]]


def test_record_is_json_and_reads_back() -> None:
    found = Calibration.fit(*drawn(), background=[0.1, 0.2, 0.4], fitted_on="mine")
    assert Calibration.from_record(json.loads(json.dumps(found.record()))) == found
    with pytest.raises(InvalidInputError, match="this is no calibration"):
        Calibration.from_record({"slope": 1})


def test_what_was_not_given_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="needs Calibration.fit"):
        Calibration.of_background([0.1]).probability(0.5)
    with pytest.raises(InvalidInputError, match="a percentile needs background"):
        Calibration.fit(*drawn()).percentile(0.5)
    with pytest.raises(InvalidInputError, match="2 of 2 pairs have the same sense"):
        Calibration.fit([0.1, 0.2], [True, True])
    with pytest.raises(InvalidInputError, match="need one label for each"):
        Calibration.fit([0.1, 0.2], [True])


def test_reliability_equals_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    generator = np.random.default_rng(5)
    probability, same = generator.random(300), generator.random(300) < 0.4
    bins = reliability(probability, same, num_bins=7)
    observed, predicted = calibration_curve(same, probability, n_bins=7)
    np.testing.assert_allclose([each.observed for each in bins], observed)
    np.testing.assert_allclose([each.predicted for each in bins], predicted)
    assert sum(each.pairs for each in bins) == 300
    shares = np.array([each.pairs for each in bins]) / 300
    assert expected_calibration_error(bins) == pytest.approx(float(shares @ np.abs(observed - predicted)))


def test_probability_of_one_is_in_the_last_bin() -> None:
    (only,) = reliability([1.0, 0.95], [True, False])
    assert (only.low, only.high, only.pairs) == (0.9, 1.0, 2)


def test_random_pairs_are_of_different_rows_that_have_vectors() -> None:
    vectors = np.eye(5, 4, dtype=np.float32)  # the last row is zero
    found = random_similarities(vectors, num_pairs=5000)
    assert len(found) == 5000
    assert (found == 0).all()  # no row with itself, which would be 1
    assert len(random_similarities(vectors[3:], num_pairs=10)) == 0


def test_random_pairs_have_the_mean_of_all_pairs() -> None:
    vectors = np.random.default_rng(2).normal(0.3, 1, (50, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    products = vectors @ vectors.T
    exact = (products.sum() - np.trace(products)) / (50 * 49)
    assert random_similarities(vectors, seed=4).mean() == pytest.approx(exact, abs=0.005)
    assert (random_similarities(vectors, num_pairs=9) == random_similarities(vectors, num_pairs=9)).all()
