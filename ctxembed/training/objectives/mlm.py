"""Masked-language modelling: predict hidden words from both sides of their context (Devlin et al. 2019, section 3.1).

Letters: B rows, T tokens, D hidden width, V vocabulary, M hidden positions, M' with padding, K' kept tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.config import check, to_mapping
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import KeptTokens
from ctxembed.model.fused import ROWS_STEP, tied_cross_entropy
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.batches import TokenRows, pad_rows
from ctxembed.training.objectives.base import Loss, Objective, item_generator

KEPT_STEP = 4
"""Of a row so many tokens are kept, or twice as many, and so on: few shapes to prepare kernels for."""


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are hidden and what stands in their place (Devlin et al. 2019, section 3.1)."""

    mask_fraction: float = 0.2
    """Share of ordinary tokens to predict; 0.15 in the paper, more teaches more a step (Wettig et al. 2023)."""
    keep_fraction: float = 0.1
    """Share of those that stay as they are."""
    random_fraction: float = 0.1
    """Share of those that become a random token; the rest becomes the mask token."""
    whole_words: bool = False
    """Hide all pieces of a word or none, so that no piece gives its word away."""
    drop_fraction: float = 0.0
    """Share of a row's tokens that pass by all layers but the first and the last in training, hidden ones never (Hou et
    al. 2022, "Token Dropping for Efficient BERT Pretraining"; there by how hard they are to guess, here by chance)."""

    def __post_init__(self) -> None:
        check(0 < self.mask_fraction < 1, f"mask_fraction = {self.mask_fraction}: must be between 0 and 1")
        check(
            min(self.keep_fraction, self.random_fraction) >= 0 and self.keep_fraction + self.random_fraction <= 1,
            "keep_fraction and random_fraction must not be negative nor sum to more than 1",
        )
        check(0 <= self.drop_fraction < 1, f"drop_fraction = {self.drop_fraction}: must be at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Rows with some tokens hidden."""

    ids: Tensor
    """int64 (B, T), as the encoder sees them."""
    lengths: Tensor
    """int64 (B,)."""
    positions: Tensor
    """int64 (M',), what to predict, counted through the rows: never special tokens or padding, at least one in a row
    with an ordinary token. M' is M rounded up to a multiple of ROWS_STEP; what is beyond M means nothing."""
    targets: Tensor
    """int64 (M,), what was there."""
    kept: KeptTokens | None
    """Which tokens go through all layers, the hidden ones among them; None for all."""

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        kept = self.kept.to(device) if self.kept else None
        positions, targets = self.positions.to(device), self.targets.to(device)
        return type(self)(self.ids.to(device), self.lengths.to(device), positions, targets, kept)


class MaskedLanguageModelling(Objective[MaskedBatch]):
    """Predict hidden tokens; scores are computed at hidden positions only."""

    kind = "mlm"

    def __init__(self, store: TokenRows, tokenizer: SubwordTokenizer, *, config: MaskingConfig | None = None) -> None:
        """Take the rows as items.

        Args:
            store: Rows with special tokens first and last.
            tokenizer: Gives the mask token, the range of random tokens, and where words start.
            config: How many are hidden, and what stands in their place.
        """
        super().__init__()
        self.config = config or MaskingConfig()
        self.costs = store.lengths
        self.settings = {**to_mapping(self.config), "rows_sha256": store.sha256}
        self._store = store
        self._mask_id, self._pad_id, self._vocab_size = tokenizer.mask_id, tokenizer.pad_id, len(tokenizer)
        self._word_starts = tokenizer.word_starts() if self.config.whole_words else None

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        """Hide some tokens of each row, and choose some that are dropped on the way."""
        rows = [self._store.row(item) for item in items.tolist()]
        chances = [item_generator(seed, item) for item in items.tolist()]
        pairs = [self._hide(row, chance) for row, chance in zip(rows, chances, strict=True)]
        ids, lengths = pad_rows([changed for changed, _ in pairs], pad_id=self._pad_id)
        width = ids.size(1)
        positions = np.concatenate([number * width + chosen for number, (_, chosen) in enumerate(pairs)])
        targets = np.concatenate([row[chosen] for row, (_, chosen) in zip(rows, pairs, strict=True)])
        padded = np.pad(positions, (0, -len(positions) % ROWS_STEP))
        kept = None
        if self.config.drop_fraction > 0:
            orders = [
                self._order(len(row), chosen, chance)
                for row, (_, chosen), chance in zip(rows, pairs, chances, strict=True)
            ]
            kept = _first_of(orders, width)
        return MaskedBatch(ids, lengths, torch.from_numpy(padded), torch.from_numpy(targets.astype(np.int64)), kept)

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        """Return the mean cross-entropy (nats) over hidden tokens, and the share guessed.

        Raises:
            InvalidInputError: If the model has no masked-word head.
        """
        if model.head is None:
            raise InvalidInputError(f"the model {model.name} has no masked-word head: start from one made by train mlm")
        kept = batch.kept if self.training else None
        hidden = model.encoder.at(batch.ids, batch.positions, batch.lengths, kept=kept)  # (M', D)
        if not len(batch.targets):
            return Loss(hidden.sum() * 0.0, {}, 0)
        vectors = model.head.transform(hidden)  # (M', D)
        table = model.encoder.embedding.tokens.weight  # (V, D)
        loss, hits = tied_cross_entropy(vectors, table, model.head.bias, batch.targets)
        return Loss(loss, {"mlm": loss.item(), "mlm_accuracy": hits.float().mean().item()}, len(batch.targets))

    def _hide(self, row: NDArray[np.int32], chance: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the row with tokens hidden, and which positions are to be predicted."""
        ordinary = row[1:-1]
        if not len(ordinary):
            return row, np.zeros(0, dtype=np.int64)
        if self._word_starts is None:
            unit = np.arange(len(ordinary))
        else:
            unit = np.cumsum(self._word_starts[ordinary])
            unit -= unit[0]
        draws = chance.random(unit[-1] + 1)
        chosen = 1 + np.flatnonzero((draws < max(self.config.mask_fraction, draws.min() + 1e-12))[unit])
        fate = chance.random(len(chosen))
        random_ids = chance.integers(0, self._vocab_size, len(chosen))
        changed = row.copy()
        changed[chosen[fate >= self.config.keep_fraction]] = self._mask_id
        swapped = fate >= 1 - self.config.random_fraction
        changed[chosen[swapped]] = random_ids[swapped]
        return changed, chosen

    def _order(
        self, length: int, hidden: NDArray[np.int64], chance: np.random.Generator
    ) -> tuple[NDArray[np.int64], int]:
        """Return the places of a row (T,), first those that are kept, as they stand, and how many are kept."""
        draws = chance.random(length)
        draws[hidden] = -1.0
        order = np.argsort(draws)
        least = max(len(hidden), (1 - self.config.drop_fraction) * length)
        num_kept = min(length, math.ceil(least / KEPT_STEP) * KEPT_STEP)
        order[:num_kept].sort()
        return order, num_kept


def _first_of(orders: Sequence[tuple[NDArray[np.int64], int]], width: int) -> KeptTokens:
    """Put the first places of each row side by side, as many as are kept in the row that keeps most."""
    lengths = np.array([num_kept for _, num_kept in orders])
    most = -(-int(lengths.max()) // KEPT_STEP) * KEPT_STEP  # within the width, a multiple of it
    places = np.stack([np.append(order, np.arange(len(order), width))[:most] for order, _ in orders])
    return KeptTokens(torch.from_numpy(places), torch.from_numpy(lengths))
