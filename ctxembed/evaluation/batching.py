"""Texts of like length in padded batches, as most libraries compute them.

Letters: N texts, B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.types import Vectors

BATCH = 32
"""Texts of a batch."""

Encode: TypeAlias = Callable[[Sequence[str]], Vectors]
Ids: TypeAlias = NDArray[np.int64]
Batches: TypeAlias = list[tuple[Ids, Ids]]
"""Token ids and mask of each, (B, T) both."""
TokenIds: TypeAlias = Callable[[Sequence[str]], list[list[int]]]
"""Texts to their token ids, special tokens included, already cut to what the model reads."""


def batched(token_ids: TokenIds, run: Callable[[Batches], list[Vectors]]) -> Encode:
    """Return an ``encode`` that sorts texts by length and pads each batch to its longest.

    Args:
        token_ids: Makes the ids of texts.
        run: Batches, longest texts first, to the vectors (B, D) of each.
    """

    def encode(texts: Sequence[str]) -> Vectors:
        ids = token_ids(texts)
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]), reverse=True)
        chosen = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        found = np.concatenate(run([padded([ids[number] for number in members]) for members in chosen]))
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors

    return encode


def padded(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return ids and mask, (B, T) each, T the longest row; what is padded is 0 in both.

    >>> padded([[7, 8], [9]])[0].tolist(), padded([[7, 8], [9]])[1].tolist()
    ([[7, 8], [9, 0]], [[1, 1], [1, 0]])
    """
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return ids, mask
