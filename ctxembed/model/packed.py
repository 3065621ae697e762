"""Attention within each of many texts that lie end to end in a block.

Letters: R rows of the block (its tokens and filling), T tokens of a text, H heads, K head width, C texts of a group, M
columns of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

GROUP_TOKENS, MOST_SCORES = 1024, 2**20
"""Tokens and attention scores computed together: more scores would leave the processor's caches."""
LENGTHS, COLUMNS = 8, 32
"""Texts of a group are filled up to a multiple of the first; their scores have a multiple of the second as columns, for
softmax takes what is left over number by number."""

Mix = Callable[[Tensor], Tensor]
"""From queries, keys and values (R, 3, H, K) to mixed values (R, H, K)."""


def attention_over(lengths: Sequence[int], *, heads: int, width: int, kind: torch.dtype, device: torch.device) -> Mix:
    """Return what lets the tokens of each text attend to each other: softmax(Q Kᵀ / √K) V, text by text.

    In bfloat16 on a CPU two batched products take about two thirds of the time of the fused kernel. Their kernels must
    be prepared for each shape that is met, which takes a megabyte and more, so that texts are brought to few lengths.

    Args:
        lengths: T of each text; texts of one length should follow each other.
        heads: H.
        width: K.
        kind: Number format of what comes in.
        device: Where it lies.
    """
    if device.type != "cpu" or kind != torch.bfloat16:
        return lambda parts: _by_runs(parts, list(runs_of(lengths)))
    groups = list(groups_of(lengths, heads=heads))
    return lambda parts: _by_groups(parts, groups, scale=width**-0.5)


def runs_of(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield first token, number of texts and their length for each run of texts of one length.

    >>> list(runs_of([3, 3, 2]))
    [(0, 2, 3), (6, 1, 2)]
    """
    start = 0
    for length, group in groupby(lengths):
        number = len(list(group))
        yield start, number, length
        start += number * length


def _by_runs(parts: Tensor, runs: Sequence[tuple[int, int, int]]) -> Tensor:
    mixed = parts.new_zeros(parts.size(0), *parts.shape[2:])
    for start, number, length in runs:
        end = start + number * length
        texts = parts[start:end].view(number, length, *parts.shape[1:]).permute(2, 0, 3, 1, 4)  # (3, texts, H, T, K)
        result = functional.scaled_dot_product_attention(*texts).transpose(1, 2)  # (texts, T, H, K)
        mixed[start:end].view(result.shape).copy_(result)
    return mixed


class Group(NamedTuple):
    """Texts that follow each other, all filled up to one length T; a power of two of them, filled up as well."""

    start: int
    """The first row of the first."""
    rows: Tensor
    """int64 (C T,), the row of each token; filling repeats a token of the same text."""
    real: Tensor
    """int64 (tokens,), which of these are no filling."""
    bias: Tensor
    """bfloat16 (C, 1, M), minus infinity in columns that are no token of the text, else 0."""


def groups_of(lengths: Sequence[int], *, heads: int) -> Iterator[Group]:
    """Yield all texts in groups, by their lengths and the number of heads."""
    start = 0
    for length, same in groupby(lengths, key=lambda length: -(-length // LENGTHS) * LENGTHS):
        members = list(same)
        together = max(1, min(GROUP_TOKENS // length, MOST_SCORES // (heads * length * length)))
        together = 1 << (together.bit_length() - 1)
        for first in range(0, len(members), together):
            some = members[first : first + together]
            yield _group(some, length=length, start=start)
            start += sum(some)


def _group(lengths: list[int], *, length: int, start: int) -> Group:
    filling = (1 << (len(lengths) - 1).bit_length()) - len(lengths)  # the last text, again and again
    sizes = torch.tensor(lengths + lengths[-1:] * filling)
    begins = start + (sizes.cumsum(0) - sizes).clamp(max=sum(lengths[:-1]))  # (C,)
    places = torch.arange(-(-length // COLUMNS) * COLUMNS)
    own = places < sizes[:, None]  # (C, M)
    bias = torch.zeros(own.shape, dtype=torch.bfloat16).masked_fill_(~own, -torch.inf)
    own = own[:, :length]
    rows = begins[:, None] + places[:length].where(own, 0)
    return Group(start, rows.flatten(), own[: len(lengths)].flatten().nonzero()[:, 0], bias[:, None])


def _by_groups(parts: Tensor, groups: Sequence[Group], *, scale: float) -> Tensor:
    rows, _, heads, width = parts.shape
    mixed = parts.new_zeros(rows, heads, width)
    for group in groups:
        texts, _, columns = group.bias.shape
        filled = parts.view(rows, -1).index_select(0, group.rows).view(-1, 3, heads, width)  # (C T, 3, H, K)
        query, key, value = filled.permute(1, 2, 0, 3).reshape(3, heads * texts, -1, width)  # (H C, T, K) each
        length = query.size(1)
        scores = group.bias.expand(heads, texts, length, columns).clone(memory_format=torch.contiguous_format)
        scores = scores.view(heads * texts, length, columns)
        scores[..., :length].baddbmm_(query, key.transpose(1, 2), alpha=scale)
        result = torch.bmm(scores.softmax(dim=-1)[..., :length], value)  # (H C, T, K)
        by_token = result.view(heads, texts * length, width).transpose(0, 1).contiguous()  # (C T, H, K)
        torch.index_select(by_token, 0, group.real, out=mixed[group.start : group.start + len(group.real)])
    return mixed
