"""A tiny model, five pairs of token rows, and the loss of their vectors written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.model.checkpoint import Checkpoint
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.contrastive import (
    Contrastive,
    ContrastiveConfig,
    PairBatch,
    TextBatch,
)
from ctxembed.training.pairs import PairCounts, PairRows

if TYPE_CHECKING:
    pass

PAD = 0
Pair = tuple[list[int], list[int], list[list[int]]]

# Pairs 0 and 2 have the same positive, 0 and 3 the same anchor; the positive of 4 is the anchor of 1, and a hard
# negative of 1 is the positive of 0.
PAIRS: list[Pair] = [
    ([9, 10], [30, 31, 32], []),
    ([11, 12, 13], [33, 34], [[50, 51], [30, 31, 32]]),
    ([14], [30, 31, 32], [[52, 53, 54, 55]]),
    ([9, 10], [35, 36], []),
    ([15, 16], [11, 12, 13], [[56]]),
]


def rows_of(lists: list[list[int]]) -> TokenRows:
    return TokenRows.from_lists([np.array(row, dtype=np.int32) for row in lists])


def pair_rows(pairs: list[Pair]) -> PairRows:
    return PairRows(
        anchors=rows_of([anchor for anchor, _, _ in pairs]),
        positives=rows_of([positive for _, positive, _ in pairs]),
        negatives=rows_of([row for _, _, negatives in pairs for row in negatives]),
        negative_starts=np.cumsum([0, *(len(negatives) for _, _, negatives in pairs)], dtype=np.int64),
        counts=PairCounts(pairs=len(pairs)),
    )


def objective(pairs: list[Pair] = PAIRS, **changes: Any) -> Contrastive:
    return Contrastive(pair_rows(pairs), pad_id=PAD, config=ContrastiveConfig(**changes))


def whole_batch(contrastive: Contrastive) -> PairBatch:
    return contrastive.prepare(np.arange(len(contrastive.pairs)), seed=[1, 0])


def gradients(model: Checkpoint) -> list[Tensor]:
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for parameter in model.encoder.parameters()
    ]


def rows_in(batch: TextBatch) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(batch.ids, batch.lengths, strict=True)]


def cosine(one: NDArray[Any], two: NDArray[Any]) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def nce_by_hand(
    anchor: NDArray[Any], own: NDArray[Any], negatives: list[NDArray[Any]], temperature: float
) -> tuple[float, bool]:
    """The loss of one anchor, written out in double precision."""
    right = math.exp(cosine(anchor, own) / temperature)
    wrong = [math.exp(cosine(anchor, negative) / temperature) for negative in negatives]
    return -math.log(right / (right + sum(wrong))), right > max(wrong, default=0.0)
