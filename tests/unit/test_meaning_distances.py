from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import false_discovery_control, kstest

from ctxembed.errors import InvalidInputError
from ctxembed.meaning import distances
from ctxembed.meaning.distances import (
    adjusted_p_values,
    average_pairwise_distance,
    prototype_distance,
    sense_divergence,
    shift_test,
)


def unit(rng: np.random.Generator, number: int, width: int = 8, towards: float = 0.0) -> np.ndarray:
    """Random unit vectors around a common direction, moved along another by ``towards``."""
    vectors = rng.standard_normal((number, width)).astype(np.float32)
    vectors[:, 0] += 2
    vectors[:, 1] += towards
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return unit(rng, 30), unit(rng, 45, towards=1.0)


def test_measures_are_those_of_all_pairs(sides) -> None:
    old, new = sides
    result = shift_test(old, new, permutations=9)
    between = cdist(old, new, "cosine").mean()
    within = np.mean([cdist(x, x, "cosine").sum() / (len(x) * (len(x) - 1)) for x in sides])
    prototypes = cdist(old.mean(axis=0)[None], new.mean(axis=0)[None], "cosine")[0, 0]
    assert result.apd == pytest.approx(between, abs=1e-6)
    assert result.excess == pytest.approx(between - within, abs=1e-6)
    assert result.prt == pytest.approx(prototypes, abs=1e-6)
    assert average_pairwise_distance(old, new) == pytest.approx(between, abs=1e-6)
    assert prototype_distance(old, new) == pytest.approx(prototypes, abs=1e-6)


def test_divergence_is_that_of_scipy_squared() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        first, second = rng.integers(0, 9, size=(2, 4)) + np.array([1, 0, 0, 0])
        expected = jensenshannon(first, second, base=2) ** 2
        assert float(sense_divergence(first, second)) == pytest.approx(expected, abs=1e-9)


def test_divergence_of_given_senses_is_that_of_their_shares(sides) -> None:
    old, new = sides
    old_senses, new_senses = np.repeat([0, 1], [20, 10]), np.repeat([0, 2], [5, 40])
    result = shift_test(old, new, old_senses=old_senses, new_senses=new_senses, permutations=99)
    expected = jensenshannon([20, 10, 0], [5, 0, 40], base=2) ** 2
    assert result.jsd == pytest.approx(expected, abs=1e-9)
    assert result.p_jsd == 0.01


def test_p_value_is_that_of_permuting_the_pairs_themselves(sides) -> None:
    old, new = sides
    pool = np.concatenate([old, new])
    table = cdist(pool, pool, "cosine")
    rng = np.random.default_rng(0)

    def excess(order: np.ndarray) -> float:
        a, b = order[:30], order[30:]
        inside = [table[np.ix_(x, x)].sum() / (len(x) * (len(x) - 1)) for x in (a, b)]
        return float(table[np.ix_(a, b)].mean() - np.mean(inside))

    seen = excess(np.arange(75))
    slow = np.mean([excess(rng.permutation(75)) >= seen for _ in range(800)])
    fast = shift_test(old, new, permutations=2000).p
    assert 0 <= slow < 0.2
    assert fast == pytest.approx(slow, abs=0.03)


def test_p_values_are_uniform_where_nothing_shifted() -> None:
    """Sides of unequal size too: the larger one must not look shifted because it is larger."""
    rng = np.random.default_rng(11)
    tests = [
        shift_test(unit(rng, 40), unit(rng, n), permutations=199, seed=seed) for seed in range(150) for n in (15, 60)
    ]
    for values in ([t.p for t in tests], [t.p_prt for t in tests]):
        assert kstest(values, "uniform").pvalue > 0.01
        assert 0.02 < np.mean(np.array(values) <= 0.05) < 0.09
    assert abs(np.mean([t.excess for t in tests])) < 0.01


def test_p_value_of_senses_is_no_smaller_than_uniform_where_nothing_shifted() -> None:
    rng = np.random.default_rng(3)
    values = []
    for seed in range(200):
        old, new = unit(rng, 30, 4), unit(rng, 30, 4)
        senses = rng.integers(0, 3, size=60)
        values.append(
            shift_test(old, new, old_senses=senses[:30], new_senses=senses[30:], permutations=99, seed=seed).p_jsd
        )
    assert 0.005 < np.mean(np.array(values) <= 0.05) < 0.09


def test_planted_shift_has_a_small_p_and_lies_above_the_noise_floor() -> None:
    rng = np.random.default_rng(2)
    result = shift_test(unit(rng, 50), unit(rng, 50, towards=2.5), permutations=199)
    assert (result.p, result.p_prt) == (0.005, 0.005)
    assert result.excess > 0.1
    assert result.apd - result.noise == pytest.approx(result.excess, abs=0.01)
    assert result.low < result.apd < result.high


def test_interval_covers_the_true_distance_nearly_always() -> None:
    rng = np.random.default_rng(9)
    truth = average_pairwise_distance(unit(rng, 20000, 4), unit(rng, 20000, 4, towards=1.0))
    results = [shift_test(unit(rng, 60, 4), unit(rng, 60, 4, towards=1.0), permutations=200, seed=s) for s in range(80)]
    assert 0.85 <= np.mean([r.low <= truth <= r.high for r in results]) <= 1.0


def test_result_depends_on_the_seed_alone(sides, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shift_test(*sides, permutations=50, seed=4)
    assert shift_test(*sides, permutations=50, seed=4) == first
    monkeypatch.setattr(distances, "BLOCK", 100)
    blocks = shift_test(*sides, permutations=50, seed=4)
    assert blocks.p == first.p
    assert blocks.low == pytest.approx(first.low, abs=0.05)


def test_fewer_than_two_uses_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 old and 3 new uses, need at least two"):
        shift_test(np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32))


def test_adjusted_values_are_those_of_scipy_and_leave_out_what_was_not_tested() -> None:
    adjusted = adjusted_p_values([0.01, float("nan"), 0.04, 0.5])
    assert np.isnan(adjusted[1])
    assert adjusted[[0, 2, 3]].tolist() == false_discovery_control([0.01, 0.04, 0.5]).tolist()
    assert np.isnan(adjusted_p_values([float("nan")])).all()


def test_hundreds_of_permutations_of_thousands_of_uses_take_no_table_of_pairs() -> None:
    rng = np.random.default_rng(1)
    old, new = unit(rng, 5000, 128), unit(rng, 5000, 128, towards=0.1)
    started = time.process_time()
    shift_test(old, new, permutations=300)
    assert time.process_time() - started < 6  # about one second on one core; a table of pairs would take minutes
