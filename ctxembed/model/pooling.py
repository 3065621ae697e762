"""From token vectors to one vector for a text, a word, or any stretch. Letters: B batch, T tokens, D width, N items."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxembed.config import Pooling


def pool_sentences(hidden: Tensor, lengths: Tensor | None, *, how: Pooling = "mean") -> Tensor:
    """Reduce the tokens of each row to one vector.

    Args:
        hidden: (B, T, D).
        lengths: (B,) real tokens of each row, at least 1; None when no row is padded.
        how: mean over the real tokens, the first token, or the largest value in each column.

    Returns:
        float32 (B, D), not normalised.

    Padding never counts, whatever stands there:

    >>> hidden = torch.tensor([[[-4.0], [-2.0], [9.0]]])
    >>> [pool_sentences(hidden, torch.tensor([2]), how=how).item() for how in ("mean", "cls", "max")]
    [-3.0, -4.0, -2.0]
    """
    if how == "cls":
        return hidden[:, 0].float()
    if lengths is None:
        return hidden.float().mean(dim=1) if how == "mean" else hidden.amax(dim=1).float()
    real = (torch.arange(hidden.size(1), device=hidden.device) < lengths[:, None])[..., None]  # (B, T, 1)
    if how == "max":
        return hidden.masked_fill(~real, float("-inf")).amax(dim=1).float()
    return hidden.float().masked_fill(~real, 0.0).sum(dim=1) / lengths[:, None]


def pool_spans(hidden: Tensor, rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Average the tokens ``starts[n]`` to ``ends[n]`` (exclusive) of row ``rows[n]``.

    Args:
        hidden: (B, T, D).
        rows: int64 (N,).
        starts: int64 (N,).
        ends: int64 (N,), greater than ``starts``.

    Returns:
        float32 (N, D), not normalised; N = 0 gives (0, D).

    >>> hidden = torch.arange(6.0).reshape(1, 6, 1)
    >>> pool_spans(hidden, torch.tensor([0, 0]), torch.tensor([1, 4]), torch.tensor([4, 5])).flatten().tolist()
    [2.0, 4.0]
    """
    sizes = ends - starts  # (N,)
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=hidden.device), sizes)  # (tokens,)
    first = torch.cumsum(sizes, 0) - sizes
    offset = torch.arange(len(owner), device=hidden.device) - first[owner]
    gathered = hidden[rows[owner], starts[owner] + offset].float()  # (tokens, D)
    total = torch.zeros(len(sizes), hidden.size(-1), device=hidden.device)
    return total.index_add(0, owner, gathered) / sizes[:, None]
