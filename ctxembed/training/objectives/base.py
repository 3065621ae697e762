"""What an objective is: items to learn from, a batch made of some of them, and the loss of a model on that batch.

Letters: B rows of a batch, T tokens, D hidden width, N items in all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.pooling import pool_sentences
from ctxembed.training.batches import pad_rows


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to descend, and plain numbers to watch."""

    value: Tensor
    """Mean over ``count`` terms."""
    metrics: Mapping[str, float]
    """Means over the same terms."""
    count: int
    """How many terms were averaged: parts of one batch are weighed by it, in whatever process they are computed."""


class Batch(Protocol):
    """Tensors made of some items, with everything that chance decides already decided."""

    @property
    def num_tokens(self) -> int:
        """Real tokens the encoder sees, padding excluded."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        ...


__all__ = ["Batch", "Loss", "Objective", "encode_sentences", "item_generator", "pad_rows"]

B = TypeVar("B", bound=Batch)


class Objective(nn.Module, Generic[B]):
    """Maps a batch to the loss of a model; its own parameters (maps to a teacher's width, say) are trained beside.

    The model is handed over at every call and is not a part of the objective, so that several
    objectives can train one model.
    """

    kind: ClassVar[str]
    """The name in recipes, and of the main loss in metrics."""
    compares_rows: ClassVar[bool] = False
    """Whether the loss sets the rows of a batch against each other: such a batch is never cut up."""

    costs: NDArray[np.int64]
    """(N,): the tokens that each item puts through the encoder; batches are dealt by it."""
    settings: Mapping[str, Any]
    """All that decides what is learned (its config, hashes of its data), as JSON values: a resumed run must have the
    same."""

    @abstractmethod
    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> B:
        """Make a batch on the CPU.

        All chance but dropout is decided here, for each item from ``item_generator(seed, item)`` alone,
        so that it does not matter which items share a batch or a process.

        Args:
            items: Which items, (B,), each from 0 to N - 1.
            seed: Of this batch: differs from step to step.
        """

    @abstractmethod
    def forward(self, model: Checkpoint, batch: B) -> Loss:
        """Return the loss of a batch; the model may compute in bfloat16, losses are float32."""


def item_generator(seed: Sequence[int], item: int) -> np.random.Generator:
    """Return the one source of chance of an item in a batch."""
    return np.random.default_rng([*seed, int(item)])


def encode_sentences(model: Checkpoint, ids: Tensor, lengths: Tensor, *, piece_tokens: int | None = None) -> Tensor:
    """Encode rows and pool each to one vector, in pieces if memory is short.

    With ``piece_tokens`` a piece's activations are not kept but computed again in the backward pass:
    the memory of one piece, the gradient of the whole batch (as GradCache, Gao et al. 2021, section 3.2),
    for one more forward pass.

    Args:
        model: The model in training.
        ids: int64 (B, T).
        lengths: int64 (B,).
        piece_tokens: Tokens of a piece, padding included; None computes all rows at once.

    Returns:
        float32 (B, D), not normalised.
    """

    def encode(part_ids: Tensor, part_lengths: Tensor) -> Tensor:
        hidden = model.encoder(part_ids, part_lengths).last  # (B, T, D)
        return pool_sentences(hidden, part_lengths, how=model.pooling.sentence).float()

    if piece_tokens is None or ids.numel() <= piece_tokens or not torch.is_grad_enabled():
        return encode(ids, lengths)
    rows = max(1, piece_tokens // ids.size(1))
    starts = range(0, len(ids), rows)
    pieces = ((ids[start : start + rows], lengths[start : start + rows]) for start in starts)
    return torch.cat([recompute(encode, *piece, use_reentrant=False) for piece in pieces])
