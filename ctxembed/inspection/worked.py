"""The worked example of the lesson, THE CAT SAT, and the experiment that shows why scores are divided by √d_k.

Letters: T tokens, K head width (d_k of the paper), D hidden width, S keys, N drawn queries.
Source: Vaswani et al. 2017, section 3.2.1 and its footnote 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctxembed.config import check
from ctxembed.inspection.recording import (
    Array,
    AttentionSteps,
    identity_attention,
    random_attention,
    run_attention,
)
from ctxembed.model.attention import attention_scores, scaled_dot_product_attention

WORDS = ("THE", "CAT", "SAT")
VECTORS: Array = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]])
"""(T, D): one row for each of WORDS."""
TWO_SCORES: Array = np.array([6.0, 4.0])
WIDTHS = (4, 64, 512)
DRAWN, KEYS = 512, 16


@dataclass(frozen=True, slots=True)
class Worked:
    """The example with W = I, and again with random W and two heads."""

    words: tuple[str, ...]
    vectors: Array
    """float64 (T, D)."""
    by_hand: AttentionSteps
    """One head, every W the identity."""
    two_weights: Array
    """The softmax of TWO_SCORES."""
    random: AttentionSteps
    """Random W, several heads."""


@dataclass(frozen=True, slots=True)
class ScalingRow:
    """What a head width does to the scores of random vectors, divided by √d_k or not."""

    d_k: int
    divided: bool
    variance: float
    """Of a score: d_k if it is not divided, one if it is."""
    largest_score: float
    """Mean over queries."""
    largest_weight: float
    """Mean over queries, of 16 keys: one is a softmax that has made up its mind."""
    gradient_before: float
    """Mean length of the gradient of a score in its query: what reaches W_Q for each unit of gradient at the score."""
    gradient_behind: float
    """Mean length of the gradient at a query's scores, of a random linear function of the weights."""


def worked_example(*, num_heads: int = 2, seed: int = 1) -> Worked:
    """Compute the worked example in float64, by the attention that serves.

    Raises:
        InvalidInputError: If the four columns cannot be split into so many heads.
    """
    width = VECTORS.shape[1]
    check(num_heads >= 1 and width % num_heads == 0, f"num_heads = {num_heads}: must divide the {width} columns")
    return Worked(
        words=WORDS,
        vectors=VECTORS,
        by_hand=run_attention(identity_attention(width), VECTORS),
        two_weights=softmax_of(TWO_SCORES),
        random=run_attention(random_attention(width, num_heads, seed=seed), VECTORS),
    )


def softmax_of(scores: Array) -> Array:
    """Return the weights that attention gives to some scores (S,), one head wide so that nothing is divided.

    >>> softmax_of(np.array([6.0, 4.0])).round(2).tolist()
    [0.88, 0.12]
    """
    query, key = torch.ones(1, 1, dtype=torch.float64), torch.from_numpy(scores)[:, None]  # (1, 1), (S, 1)
    _, weights = scaled_dot_product_attention(query, key, key)
    result: Array = weights[0].numpy()
    return result


def scaling_experiment(widths: Sequence[int] = WIDTHS, *, seed: int = 1) -> list[ScalingRow]:
    """Draw queries and keys of unit variance and measure scores, softmax and gradients, with and without √d_k.

    Args:
        widths: Head widths d_k to try.
        seed: Of the draw.

    Returns:
        Two rows for each width: not divided, then divided.
    """
    rows = []
    for width in widths:
        generator = torch.Generator().manual_seed(seed)
        query = torch.randn(DRAWN, 1, width, generator=generator, dtype=torch.float64)  # (N, 1, K)
        key = torch.randn(DRAWN, KEYS, width, generator=generator, dtype=torch.float64)  # (N, S, K)
        goal = torch.randn(DRAWN, 1, KEYS, generator=generator, dtype=torch.float64)  # (N, 1, S)
        rows += [_measure(query, key, goal, divided=divided) for divided in (False, True)]
    return rows


def _measure(query: Tensor, key: Tensor, goal: Tensor, *, divided: bool) -> ScalingRow:
    width = query.size(-1)
    query = query.clone().requires_grad_()
    scores = attention_scores(query, key) / (width**0.5 if divided else 1.0)  # (N, 1, S)
    (before,) = torch.autograd.grad(scores[..., 0].sum(), query, retain_graph=True)  # (N, 1, K)
    weights = scores.softmax(dim=-1)
    (behind,) = torch.autograd.grad((weights * goal).sum(), scores)  # (N, 1, S)
    return ScalingRow(
        d_k=width,
        divided=divided,
        variance=scores.var().item(),
        largest_score=scores.amax(dim=-1).mean().item(),
        largest_weight=weights.amax(dim=-1).mean().item(),
        gradient_before=before.norm(dim=-1).mean().item(),
        gradient_behind=behind.norm(dim=-1).mean().item(),
    )
