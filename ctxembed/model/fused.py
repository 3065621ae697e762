"""The attention and the loss of the training loop in fewer passes over memory, with their gradients written out.

``attention.py`` has the same mathematics to be read; tests hold the two equal. On a CPU most of a
training step is not arithmetic but copies, casts and elementwise passes, and these two places have most of them.

Letters: B batch, T tokens, D hidden width, H heads, K head width, V vocabulary, M rows to predict.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOSS_ROWS, ROWS_STEP = 512, 64
"""Rows whose scores over the vocabulary exist at one time. They come in multiples of the second number: kernels must be
prepared for each number that is met."""


def fused_self_attention(
    projected: Tensor, num_heads: int, *, mask: Tensor | None = None, angles: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Compute multi-head softmax(Q Kᵀ / √K) V from the joint projection (Vaswani et al. 2017, equation 1).

    Args:
        projected: (B, T, 3 D): queries, keys and values side by side.
        num_heads: H; D is a multiple of it.
        mask: Boolean, broadcastable to (B, H, T, T), true where a query may look.
        angles: Rotary positions, cosine and sine: (T, K/2) each, or (B, 1, T, K/2) where rows have their own.

    Returns:
        (B, T, D), heads joined.
    """
    width = projected.size(-1) // (3 * num_heads)
    scale = projected.new_tensor([1 / math.sqrt(width), 1.0])  # of Q and of K
    turns = None if angles is None else _turns(angles, scale)
    bias = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=projected.dtype).masked_fill_(~mask, float("-inf"))
    with torch.autocast(projected.device.type, enabled=False):
        mixed: Tensor = _SelfAttention.apply(projected, num_heads, bias, turns, scale)  # type: ignore[no-untyped-call]
    return mixed


def _turns(angles: tuple[Tensor, Tensor], scale: Tensor) -> Tensor:
    """Write scaling and rotation of Q and K down.

    Where all rows have the same positions, as one matrix for each position, from the right: a product with it is
    done in half the time of the elementwise passes that it stands for.

    Returns:
        (2, T, K, K); or cosine and sine, (2, 2, B, 1, T, K/2), where rows have positions of their own.
    """
    if angles[0].ndim > 2:
        return torch.stack([table.to(scale.dtype) * scale[:, None, None, None, None] for table in angles])
    length, half = angles[0].shape
    cosine, sine = (table.to(scale.dtype) * scale[:, None, None] for table in angles)  # (2, T, K/2) each
    turns = scale.new_zeros(2, length, 2 * half, 2 * half)
    for quarter, value in (((0, 0), cosine), ((1, 0), -sine), ((0, 1), sine), ((1, 1), cosine)):
        rows, columns = (slice(place * half, (place + 1) * half) for place in quarter)
        turns[:, :, rows, columns].diagonal(dim1=-2, dim2=-1).copy_(value)
    return turns


class _SelfAttention(torch.autograd.Function):
    """Scales and rotates while the heads are laid out: few copies, and nothing kept that the gradient does not need."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, heads: int, bias: Tensor | None, turns: Tensor | None, scale: Tensor
    ) -> Tensor:
        batch, length, width = projected.shape
        parts = projected.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, H, T, K)
        laid_out = projected.new_empty(2, batch, heads, length, parts.size(-1))
        _lay_out(parts[:2], turns, scale, laid_out)
        query, key = laid_out.flatten(1, 2)  # (B H, T, K) each
        value = parts[2].reshape(batch * heads, length, -1)
        scores = torch.bmm(query, key.transpose(1, 2))  # (B H, T, T)
        if bias is not None:
            scores.view(batch, heads, length, length).add_(bias)
        weights = scores.softmax(dim=-1)
        mixed = torch.bmm(weights, value)  # (B H, T, K)
        ctx.save_for_backward(query, key, value, weights, scale, turns)
        ctx.shape = batch, length, heads, width // (3 * heads)
        return mixed.view(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, -1)  # (B, T, D)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, scale, turns = ctx.saved_tensors
        batch, length, heads, width = ctx.shape
        gradient = gradient.view(batch, length, heads, width).transpose(1, 2).reshape(-1, length, width)
        of_weights = torch.bmm(gradient, value.transpose(1, 2))  # (B H, T, T)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_pair = torch.stack((torch.bmm(of_scores, key), torch.bmm(of_scores.transpose(1, 2), query)))
        result = gradient.new_empty(batch, length, 3, heads, width)
        parts = result.permute(2, 0, 3, 1, 4)  # (3, B, H, T, K)
        back = None if turns is None else _turned_back(turns)
        _lay_out(of_pair.view(2, batch, heads, length, width), back, scale, parts[:2])
        parts[2].copy_(torch.bmm(weights.transpose(1, 2), gradient).view(batch, heads, length, width))
        return result.view(batch, length, -1), None, None, None, None


def _turned_back(turns: Tensor) -> Tensor:
    """Return the transpose of what turns do: the same scale, the other way round."""
    return turns.transpose(-2, -1) if turns.ndim == 4 else torch.stack((turns[0], -turns[1]))


def _lay_out(source: Tensor, turns: Tensor | None, scale: Tensor, target: Tensor) -> None:
    """Write queries and keys (2, B, H, T, K), scaled and, with turns, rotated, to where they are needed."""
    if turns is None:
        torch.mul(source, scale[:, None, None, None, None], out=target)
        return
    if turns.ndim > 4:
        cosine, sine = turns  # (2, B, 1, T, K/2) each
        (first, second), (to_first, to_second) = source.chunk(2, dim=-1), target.chunk(2, dim=-1)
        torch.mul(first, cosine, out=to_first).addcmul_(second, sine, value=-1)
        torch.mul(second, cosine, out=to_second).addcmul_(first, sine)
        return
    pair, batch, heads, length, width = source.shape
    by_position = source.permute(0, 3, 1, 2, 4).reshape(pair * length, batch * heads, width)
    turned = torch.bmm(by_position, turns.reshape(pair * length, width, width))
    target.copy_(turned.view(pair, length, batch, heads, width).permute(0, 2, 3, 1, 4))


def tied_cross_entropy(hidden: Tensor, table: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean of -log softmax(hidden tableᵀ + bias) at the targets, a few rows of scores at a time.

    The gradient is taken while the scores are there, so that (M, V) numbers never exist together.

    Args:
        hidden: (M', D), M' at least M; the rows beyond M are padding, which keeps the number of shapes small that
            kernels must be prepared for.
        table: (V, D), the embedding table.
        bias: (V,).
        targets: int64 (M,), M at least 1.

    Returns:
        The mean loss in nats, a scalar, and whether each target scored highest, boolean (M,).
    """
    hidden = functional.pad(hidden, (0, 0, 0, -len(hidden) % ROWS_STEP))
    with torch.autocast(hidden.device.type, enabled=False):
        loss, hits = _TiedCrossEntropy.apply(hidden, table, bias, targets)  # type: ignore[no-untyped-call]
    return loss, hits


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        training = any(ctx.needs_input_grad)
        of_hidden = torch.empty_like(hidden) if training else None
        of_table, of_bias = (
            table.new_zeros(table.shape, dtype=torch.float32),
            bias.new_zeros(bias.shape, dtype=torch.float32),
        )
        losses, hits = [], []
        for start in range(0, len(hidden), LOSS_ROWS):
            rows, goal = hidden[start : start + LOSS_ROWS], targets[start : start + LOSS_ROWS, None]
            chances = functional.linear(rows, table, bias).softmax(dim=-1)  # (rows, V)
            real = chances[: len(goal)]
            of_goal = real.gather(1, goal)
            losses.append(of_goal.float().clamp_min(1e-30).log().neg_().sum())
            hits.append(of_goal[:, 0] >= real.amax(dim=1))
            if of_hidden is not None:
                real.scatter_add_(1, goal, torch.full_like(of_goal, -1.0))  # the gradient of the scores
                chances[len(goal) :] = 0.0
                torch.mm(chances, table, out=of_hidden[start : start + LOSS_ROWS])
                of_table += chances.T @ rows
                of_bias += (chances.new_ones(1, len(chances)) @ chances)[0]
        if of_hidden is not None:
            ctx.save_for_backward(of_hidden, of_table, of_bias)
            ctx.count = len(targets)
        result = torch.stack(losses).sum() / len(targets), torch.cat(hits)
        ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_table, of_bias = ctx.saved_tensors
        scale = gradient / ctx.count
        kind = of_hidden.dtype
        return of_hidden * scale.to(kind), (of_table * scale).to(kind), (of_bias * scale).to(kind), None
