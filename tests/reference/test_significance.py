"""Bootstraps and paired tests against scipy, scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.significance import (
    FLIPS,
    Outcomes,
    _average_precisions,
    _rank_correlations,
    bootstrap,
    holm,
    interval,
    paired_test,
    units_of,
)

SEEDS = range(10)


def drawn(generator: np.random.Generator, num_items: int) -> np.ndarray:
    """Return how often each item is drawn in one resample."""
    return np.bincount(generator.integers(0, num_items, num_items), minlength=num_items).astype(float)


@pytest.mark.parametrize("seed", SEEDS)
def test_correlation_of_a_resample_equals_scipy_on_the_items_drawn(seed: int) -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(seed)
    values, gold = generator.integers(0, 9, size=30) / 9, generator.integers(0, 5, size=30).astype(float)
    counts = np.stack([drawn(generator, 30) for _ in range(4)])
    found = _rank_correlations(values, gold)(counts)
    for row, value in zip(counts.astype(int), found, strict=True):
        expected = spearmanr(np.repeat(values, row), np.repeat(gold, row)).statistic
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_of_a_resample_equals_sklearn_on_the_items_drawn(seed: int) -> None:
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(seed)
    values, gold = generator.integers(0, 9, size=30) / 9, (generator.random(30) < 0.5).astype(float)
    counts = np.stack([drawn(generator, 30) for _ in range(4)])
    found = _average_precisions(values, gold)(counts)
    for row, value in zip(counts.astype(int), found, strict=True):
        expected = average_precision_score(np.repeat(gold, row), np.repeat(values, row))
        assert value == pytest.approx(expected, abs=1e-9)


def test_interval_of_a_mean_equals_that_of_scipy() -> None:
    from scipy.stats import bootstrap as scipy_bootstrap

    values = np.random.default_rng(1).random(200)
    low, high = interval(bootstrap(Outcomes("mean", values), seed=1, resamples=20_000))
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_interval_of_a_correlation_equals_that_of_scipy() -> None:
    from scipy.stats import bootstrap as scipy_bootstrap
    from scipy.stats import spearmanr

    generator = np.random.default_rng(3)
    gold = generator.random(60)
    values = gold + generator.normal(0, 0.4, 60)
    low, high = interval(bootstrap(Outcomes("spearman", values, gold), seed=1, resamples=4000))
    theirs = scipy_bootstrap(
        (values, gold), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=2000,
        method="percentile", rng=2,
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_units_widen_the_interval_where_their_items_agree() -> None:
    generator = np.random.default_rng(1)
    units = np.repeat(np.arange(40), 10)
    values = np.repeat(generator.random(40) < 0.5, 10).astype(float)
    alone, together = (interval(bootstrap(Outcomes("mean", values, units=each), seed=1)) for each in (None, units))
    width = {name: high - low for name, (low, high) in (("alone", alone), ("together", together))}
    assert 2.5 < width["together"] / width["alone"] < 4  # the square root of ten
    by_unit = interval(bootstrap(Outcomes("mean", values[::10]), seed=1))
    assert together == pytest.approx(by_unit, abs=1e-9)


def test_equal_seeds_draw_equal_units_whatever_the_system() -> None:
    values = np.random.default_rng(1).random((2, 50))
    first, second = (bootstrap(Outcomes("mean", each), seed=4) for each in values)
    both = bootstrap(Outcomes("mean", values.sum(axis=0)), seed=4)
    np.testing.assert_allclose(first + second, both)


def test_resamples_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Outcomes("mean", np.random.default_rng(1).random(40))
    whole = bootstrap(outcomes, seed=2, resamples=100)
    monkeypatch.setattr("ctxembed.evaluation.significance._BLOCK", 400)
    np.testing.assert_allclose(bootstrap(outcomes, seed=2, resamples=100), whole)


def paired(first: Outcomes, second: Outcomes, difference: float) -> float:
    samples = bootstrap(first, seed=1), bootstrap(second, seed=1)
    return paired_test(first, second, samples, difference=difference, seed=1).p


@pytest.mark.parametrize(("better", "worse"), [(9, 1), (30, 15), (20, 20)])
def test_permutation_test_equals_the_exact_test_of_mcnemar(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    first = np.array([1.0] * better + [0.0] * worse + [1.0] * 50)
    second = np.array([0.0] * better + [1.0] * worse + [1.0] * 50)
    p = paired(Outcomes("mean", first), Outcomes("mean", second), (better - worse) / len(first))
    assert p == pytest.approx(binomtest(better, better + worse).pvalue, abs=0.01)


def test_permutation_test_by_unit_equals_scipy_on_the_sums_of_units() -> None:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(5)
    first, second = generator.random((2, 60))
    first += 0.08
    units = np.repeat(np.arange(12), 5)
    outcomes = [Outcomes("mean", each, units=units, unit="word") for each in (first, second)]
    sums = [np.bincount(units, each) for each in (first, second)]
    expected = permutation_test(
        sums, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    assert paired(outcomes[0], outcomes[1], float(np.mean(first - second))) == pytest.approx(expected, abs=0.02)


def test_permutation_test_of_a_correlation_equals_scipy_on_exchanged_ranks() -> None:
    from scipy.stats import pearsonr, permutation_test, rankdata

    generator = np.random.default_rng(4)
    gold, noise, more = generator.random((3, 10))
    first, second = np.round(gold + 0.3 * noise, 1), np.round(gold + more, 1)
    ranks = rankdata(gold)

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(pearsonr(one, ranks).statistic - pearsonr(other, ranks).statistic)

    expected = permutation_test(
        (rankdata(first), rankdata(second)), apart, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    found = paired(Outcomes("spearman", first, gold), Outcomes("spearman", second, gold), 0.0)
    assert 0.05 < expected < 0.9
    assert found == pytest.approx(expected, abs=0.02)


def test_exchange_moves_the_ranks_of_a_unit_together() -> None:
    generator = np.random.default_rng(4)
    gold, noise = generator.random((2, 40))
    pairs = [np.repeat(each, 3) for each in (gold, gold + noise, gold + noise[::-1])]
    units = np.repeat(np.arange(40), 3)
    first, second = (Outcomes("spearman", each, pairs[0], units=units, unit="word") for each in pairs[1:])
    alone = [Outcomes("spearman", each[::3], gold) for each in pairs[1:]]
    assert paired(first, second, 0.0) == pytest.approx(paired(alone[0], alone[1], 0.0), abs=1e-9)


def test_equal_systems_do_not_differ() -> None:
    generator = np.random.default_rng(1)
    values, gold = generator.random((2, 40))
    for outcomes in (Outcomes("mean", values), Outcomes("spearman", values, gold)):
        assert paired(outcomes, outcomes, 0.0) == 1.0


def test_systems_that_differ_on_every_item_differ() -> None:
    generator = np.random.default_rng(1)
    gold, noise = generator.random((2, 100))
    assert paired(Outcomes("mean", gold + 1), Outcomes("mean", gold), 1.0) == 1 / (1 + FLIPS)
    assert paired(Outcomes("spearman", gold, gold), Outcomes("spearman", noise, gold), 1.0) < 0.01


@pytest.mark.parametrize("statistic", ["mean", "spearman"])
def test_random_systems_differ_as_often_as_the_p_value_says(statistic: str) -> None:
    generator = np.random.default_rng(7)
    few = []
    for _ in range(60):
        first, second, gold = generator.random((3, 40))
        sides = [Outcomes(statistic, each, None if statistic == "mean" else gold) for each in (first, second)]
        few.append(paired(sides[0], sides[1], float(np.mean(first - second))) < 0.2)
    assert 0.05 <= np.mean(few) <= 0.37


def test_systems_of_other_items_are_not_compared() -> None:
    with pytest.raises(InvalidInputError, match="not measured on the same items"):
        paired(Outcomes("mean", np.ones(3)), Outcomes("mean", np.ones(4)), 0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(values)), key=lambda n: values[n])):
            if values[place] * (len(values) - rank) > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(holm(values)) if p <= level} == rejected


def test_units_are_named_only_where_there_are_enough_and_some_are_shared() -> None:
    assert units_of(["a", "b"] * 5, name="word") == (None, "row")
    assert units_of([str(n) for n in range(30)], name="word") == (None, "row")
    numbers, name = units_of([str(n // 2) for n in range(60)], name="word")
    assert numbers is not None
    assert (name, len(set(numbers.tolist()))) == ("word", 30)
