"""The worked example beside numpy, written out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ctxembed.errors import InvalidInputError
from ctxembed.inspection.recording import Array, random_attention
from ctxembed.inspection.worked import WIDTHS, scaling_experiment, softmax_of, worked_example

X = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])  # THE, CAT, SAT


def softmax(rows: Array) -> Array:
    powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def test_identity_steps_equal_numpy_by_hand() -> None:
    steps = worked_example().by_hand
    for matrix in (steps.query, steps.key, steps.value):
        np.testing.assert_array_equal(matrix, X[None])
    raw = np.array([[2.0, 0.0, 2.0], [0.0, 2.0, 2.0], [2.0, 2.0, 4.0]])
    np.testing.assert_array_equal(steps.scores[0], raw)
    np.testing.assert_array_equal(steps.scaled[0], raw / 2)
    np.testing.assert_allclose(steps.weights[0], softmax(raw / 2), atol=1e-15)
    np.testing.assert_allclose(steps.mixed[0], softmax(raw / 2) @ X, atol=1e-15)
    np.testing.assert_allclose(steps.output, softmax(raw / 2) @ X, atol=1e-15)
    assert steps.weights.dtype == np.float64


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_random_heads_equal_numpy_by_hand(num_heads: int) -> None:
    steps = worked_example(num_heads=num_heads, seed=3).random
    attention = random_attention(4, num_heads, seed=3)
    maps = [attention.query, attention.key, attention.value, attention.output]
    w_query, w_key, w_value, w_output = (each.weight.detach().numpy().T for each in maps)
    width, joined = 4 // num_heads, []
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        query, key, value = X @ w_query[:, own], X @ w_key[:, own], X @ w_value[:, own]
        weights = softmax(query @ key.T / np.sqrt(width))
        joined.append(weights @ value)
        np.testing.assert_allclose(steps.query[head], query, atol=1e-14)
        np.testing.assert_allclose(steps.scores[head], query @ key.T, atol=1e-14)
        np.testing.assert_allclose(steps.weights[head], weights, atol=1e-14)
        np.testing.assert_allclose(steps.mixed[head], weights @ value, atol=1e-14)
    np.testing.assert_allclose(steps.joined, np.hstack(joined), atol=1e-14)
    np.testing.assert_allclose(steps.output, np.hstack(joined) @ w_output, atol=1e-14)


def test_softmax_of_six_and_four_equals_the_notes() -> None:
    np.testing.assert_allclose(softmax_of(np.array([6.0, 4.0])), [0.88, 0.12], atol=0.005)
    np.testing.assert_allclose(softmax_of(np.array([6.0, 4.0])), softmax(np.array([6.0, 4.0])), atol=1e-15)


def test_heads_that_do_not_divide_the_columns_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="num_heads = 3: must divide the 4 columns"):
        worked_example(num_heads=3)


def test_variance_of_a_score_grows_with_d_k_unless_divided() -> None:
    rows = scaling_experiment()
    assert [(row.d_k, row.divided) for row in rows] == [(width, done) for width in WIDTHS for done in (False, True)]
    for row in rows:
        assert row.variance == pytest.approx(1 if row.divided else row.d_k, rel=0.1)


def test_undivided_scores_saturate_the_softmax_and_its_gradient_vanishes() -> None:
    raw = [row for row in scaling_experiment() if not row.divided]
    divided = [row for row in scaling_experiment() if row.divided]
    for small, large in itertools.pairwise(raw):
        assert large.largest_weight > small.largest_weight + 0.05
        assert large.gradient_before > 2 * small.gradient_before
        assert large.gradient_behind < 0.7 * small.gradient_behind
    assert np.ptp([row.largest_weight for row in divided]) < 0.05
    assert np.ptp([row.gradient_behind for row in divided]) < 0.05


def test_gradients_equal_their_closed_forms() -> None:
    """A score's gradient in its query is the key; the softmax passes diag(w) - w wᵀ."""
    generator = torch.Generator().manual_seed(1)
    query, key, goal = (
        torch.randn(512, rows, width, generator=generator, dtype=torch.float64).numpy()
        for rows, width in ((1, 4), (16, 4), (1, 16))
    )
    weights = softmax(query @ key.transpose(0, 2, 1))[:, 0]
    passed = weights * (goal[:, 0] - (weights * goal[:, 0]).sum(axis=1, keepdims=True))
    row = scaling_experiment([4], seed=1)[0]
    assert row.gradient_before == pytest.approx(np.linalg.norm(key[:, 0], axis=1).mean(), abs=1e-12)
    assert row.gradient_behind == pytest.approx(np.linalg.norm(passed, axis=1).mean(), abs=1e-12)
