from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxembed.config import Pooling
from ctxembed.model.pooling import pool_sentences, pool_spans

WAYS = st.sampled_from(["mean", "cls", "max"])
TOLERANCE = 1e-5


@st.composite
def hidden_states(draw: st.DrawFn) -> NDArray[np.float32]:
    """Token vectors (B, T, D), all negative now and then, so that a zero in the padding would win a maximum."""
    shape = [draw(st.integers(1, most)) for most in (4, 6, 5)]
    values = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal(shape, dtype=np.float32)
    return -np.abs(values) if draw(st.booleans()) else values


@st.composite
def padded_batches(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[int]]:
    hidden = draw(hidden_states())
    return hidden, [draw(st.integers(1, hidden.shape[1])) for _ in range(len(hidden))]


@st.composite
def marked_batches(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[tuple[int, int, int]]]:
    hidden = draw(hidden_states())
    spans = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, hidden.shape[1] - 1))
        spans.append((draw(st.integers(0, len(hidden) - 1)), start, draw(st.integers(start + 1, hidden.shape[1]))))
    return hidden, spans


def reduced(tokens: NDArray[np.float32], how: Pooling) -> NDArray[np.float64]:
    """One row (T, D) without padding, one token at a time."""
    if how == "cls":
        return tokens[0].astype(np.float64)
    result = tokens[0].astype(np.float64)
    for token in tokens[1:]:
        result = np.maximum(result, token) if how == "max" else result + token
    return result / len(tokens) if how == "mean" else result


def span_means(hidden: NDArray[np.float32], spans: list[tuple[int, int, int]]) -> NDArray[np.float64]:
    means = np.zeros((len(spans), hidden.shape[2]))
    for number, (row, start, end) in enumerate(spans):
        for token in range(start, end):
            means[number] += hidden[row, token] / (end - start)
    return means


@settings(deadline=None)
@given(padded_batches(), WAYS)
def test_padded_rows_are_pooled_over_their_real_tokens(
    batch: tuple[NDArray[np.float32], list[int]], how: Pooling
) -> None:
    hidden, lengths = batch
    expected = [reduced(row[:length], how) for row, length in zip(hidden, lengths, strict=True)]
    pooled = pool_sentences(torch.from_numpy(hidden), torch.tensor(lengths), how=how)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled.numpy(), expected, atol=TOLERANCE)


@settings(deadline=None)
@given(hidden_states(), WAYS)
def test_rows_without_padding_are_pooled_whole(hidden: NDArray[np.float32], how: Pooling) -> None:
    pooled = pool_sentences(torch.from_numpy(hidden), None, how=how)
    np.testing.assert_allclose(pooled.numpy(), [reduced(row, how) for row in hidden], atol=TOLERANCE)


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
@pytest.mark.parametrize("padding", [0.0, 1e30, float("inf"), float("nan")])
def test_padding_never_counts_whatever_stands_there(padding: float, how: Pooling) -> None:
    hidden = torch.tensor([[[-4.0], [-2.0], [padding]]])
    expected = {"mean": -3.0, "cls": -4.0, "max": -2.0}[how]
    assert pool_sentences(hidden, torch.tensor([2]), how=how).tolist() == [[expected]]


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 3])])
def test_half_precision_gives_float32(how: Pooling, lengths: torch.Tensor | None) -> None:
    assert pool_sentences(torch.ones(2, 3, 4, dtype=torch.bfloat16), lengths, how=how).dtype == torch.float32


def test_mean_is_taken_in_float32() -> None:
    hidden = torch.full((1, 1000, 1), 1.0, dtype=torch.bfloat16)  # bfloat16 sums of ones stop at 256
    assert pool_sentences(hidden, None).item() == 1.0


@settings(deadline=None)
@given(marked_batches())
def test_spans_are_averaged_over_their_tokens(batch: tuple[NDArray[np.float32], list[tuple[int, int, int]]]) -> None:
    hidden, spans = batch
    where = torch.tensor(spans, dtype=torch.int64).reshape(-1, 3).T
    pooled = pool_spans(torch.from_numpy(hidden), *where)
    assert pooled.shape == (len(spans), hidden.shape[2])
    np.testing.assert_allclose(pooled.numpy(), span_means(hidden, spans), atol=TOLERANCE)


def test_no_span_gives_no_row() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    pooled = pool_spans(torch.ones(2, 3, 4), empty, empty, empty)
    assert pooled.shape == (0, 4)


def test_gradient_of_a_span_reaches_its_tokens_only() -> None:
    hidden = torch.zeros(1, 5, 1, requires_grad=True)
    pool_spans(hidden, torch.tensor([0]), torch.tensor([1]), torch.tensor([3])).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [0, 0.5, 0.5, 0, 0]
