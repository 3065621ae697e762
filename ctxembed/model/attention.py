"""Scaled dot-product and multi-head attention, written out, with a fused path that computes the same.

Letters: B batch, T query tokens, S key tokens, D hidden width, H heads, K head width.
Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.errors import InvalidInputError
from ctxembed.model.fused import fused_self_attention


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """Return the raw scores Q Kᵀ, (..., T, S), of queries (..., T, K) and keys (..., S, K)."""
    return query @ key.transpose(-2, -1)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute softmax(Q Kᵀ / √K) V (equation 1) and return the weights beside the result.

    The scores of independent unit-variance vectors have variance K, which would drive the softmax
    into its flat ends where gradients vanish; dividing by √K keeps the variance at one.

    Args:
        query: (..., T, K).
        key: (..., S, K).
        value: (..., S, K).
        mask: Boolean, broadcastable to (..., T, S), true where a query may look. A query that may
            look nowhere gives NaN: callers always leave at least one key.
        dropout: Probability that a weight is dropped.

    Returns:
        The mixture of values (..., T, K), and the weights (..., T, S), each row summing to one.

    The worked example, THE=[1 0 1 0], CAT=[0 1 0 1], SAT=[1 1 1 1] with all projections the identity:

    >>> words = torch.tensor([[1., 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]])
    >>> attention_scores(words, words).tolist()
    [[2.0, 0.0, 2.0], [0.0, 2.0, 2.0], [2.0, 2.0, 4.0]]
    >>> mixed, weights = scaled_dot_product_attention(words, words, words)
    >>> [[round(w, 3) for w in row] for row in weights.tolist()]
    [[0.422, 0.155, 0.422], [0.155, 0.422, 0.422], [0.212, 0.212, 0.576]]
    """
    scores = attention_scores(query, key) * (1.0 / math.sqrt(query.size(-1)))  # (..., T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    if dropout > 0.0:
        weights = functional.dropout(weights, dropout)
    return weights @ value, weights


def split_heads(vectors: Tensor, num_heads: int) -> Tensor:
    """Cut vectors (B, T, D) into H heads of K = D / H columns each, (B, H, T, K)."""
    batch, tokens, _ = vectors.shape
    return vectors.view(batch, tokens, num_heads, -1).transpose(1, 2)  # (B, H, T, K)


def join_heads(mixed: Tensor) -> Tensor:
    """Lay the heads of (B, H, T, K) side by side again, (B, T, D)."""
    return mixed.transpose(1, 2).flatten(2)  # (B, T, D)


def padding_mask(lengths: Tensor, width: int) -> Tensor:
    """Return the boolean mask (B, 1, 1, T) that lets every query look at the first ``lengths[b]`` keys only.

    >>> padding_mask(torch.tensor([1, 3]), 3)[:, 0, 0].tolist()
    [[True, False, False], [True, True, True]]
    """
    return (torch.arange(width, device=lengths.device) < lengths[:, None])[:, None, None, :]


def causal_mask(width: int, *, device: torch.device | None = None) -> Tensor:
    """Return the boolean mask (T, T) that lets a query look at itself and at what stands before it.

    >>> causal_mask(3).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return torch.ones(width, width, dtype=torch.bool, device=device).tril()


def rotary_angles(length: int, width: int, *, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (T, K/2) of the rotary positions of Su et al. 2021, base 10,000."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)  # (K/2)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies  # (T, K/2)
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + K/2) of each vector (..., T, K) by the angle of its position; lengths are kept.

    The angles are cosine and sine, broadcastable to (..., T, K/2).
    """
    cosine, sine = (part.to(vectors.dtype) for part in angles)
    first, second = vectors.chunk(2, dim=-1)  # (..., T, K/2) each
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def select(hidden: Tensor, only: Tensor | None) -> Tensor:
    """Return the tokens ``only`` (M,), counted through the rows of (B, T, D), as (M, D); or all, as they are."""
    return hidden if only is None else hidden.flatten(0, 1).index_select(0, only)


class MultiHeadAttention(nn.Module):
    """H attentions side by side over learned projections W_Q, W_K, W_V, joined by W_O (section 3.2.2)."""

    def __init__(self, hidden_size: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise InvalidInputError(
                f"hidden_size = {hidden_size} is not a multiple of num_heads = {num_heads}: change one"
            )
        self.num_heads = num_heads
        self.head_width = hidden_size // num_heads
        self.dropout = dropout
        self.fused = True
        """Take the path with fewer passes over memory where it applies; false always computes what is written out."""
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden: Tensor,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        angles: tuple[Tensor, Tensor] | None = None,
        need_weights: bool = False,
        only: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Let every token gather from the tokens it may see.

        Args:
            hidden: (B, T, D), the tokens that ask.
            context: (B, S, D), the tokens that answer; None for self-attention.
            mask: Boolean, broadcastable to (B, H, T, S), true where a query may look.
            angles: Rotary positions, applied to queries and keys: cosine and sine, (T, K/2) each, or (B, 1, T, K/2).
            need_weights: Return the weights too, by the written-out path.
            only: int64 (M,), the only tokens to give, counted through the rows; None for all.

        Returns:
            (B, T, D), or (M, D) with ``only``, and the weights (B, H, T, S) or None.
        """
        dropout = self.dropout if self.training else 0.0
        fast = self.fused and not need_weights
        if fast and context is None and dropout == 0.0 and hidden.device.type == "cpu":
            joined = fused_self_attention(self._project(hidden), self.num_heads, mask=mask, angles=angles)
            return self.output(select(joined, only)), None
        source = hidden if context is None else context
        query = split_heads(self.query(hidden), self.num_heads)  # (B, H, T, K)
        key = split_heads(self.key(source), self.num_heads)  # (B, H, S, K)
        value = split_heads(self.value(source), self.num_heads)  # (B, H, S, K)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        weights = None
        if fast and hidden.device.type != "cpu":
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        else:
            mixed, weights = scaled_dot_product_attention(query, key, value, mask=mask, dropout=dropout)
        joined = join_heads(mixed)  # (B, T, D)
        return self.output(select(joined, only)), weights if need_weights else None

    def _project(self, hidden: Tensor) -> Tensor:
        """Compute queries, keys and values side by side, (B, T, 3 D), in one product."""
        maps = (self.query, self.key, self.value)
        weight, bias = (torch.cat(parts) for parts in zip(*((each.weight, each.bias) for each in maps), strict=True))
        return functional.linear(hidden, weight, bias)
