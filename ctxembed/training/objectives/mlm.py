"""Masked-language modelling: predict hidden words from both sides of their context (Devlin et al. 2019, section 3.1).

Letters: B rows, T tokens, D hidden width, V vocabulary, M hidden positions, M' with padding.
"""

from __future__ import annotations

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
from ctxembed.model.fused import ROWS_STEP, tied_cross_entropy
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.batches import TokenRows, pad_rows
from ctxembed.training.objectives.base import Loss, Objective, item_generator


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

    def __post_init__(self) -> None:
        check(0 < self.mask_fraction < 1, f"mask_fraction = {self.mask_fraction}: must be between 0 and 1")
        check(
            min(self.keep_fraction, self.random_fraction) >= 0 and self.keep_fraction + self.random_fraction <= 1,
            "keep_fraction and random_fraction must not be negative nor sum to more than 1",
        )


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

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        parts = (self.ids, self.lengths, self.positions, self.targets)
        return type(self)(*(part.to(device) for part in parts))


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
        """Hide some tokens of each row."""
        rows = [self._store.row(item) for item in items.tolist()]
        pairs = [self._hide(row, item_generator(seed, item)) for row, item in zip(rows, items.tolist(), strict=True)]
        ids, lengths = pad_rows([changed for changed, _ in pairs], pad_id=self._pad_id)
        width = ids.size(1)
        positions = np.concatenate([number * width + chosen for number, (_, chosen) in enumerate(pairs)])
        targets = np.concatenate([row[chosen] for row, (_, chosen) in zip(rows, pairs, strict=True)])
        padded = np.pad(positions, (0, -len(positions) % ROWS_STEP))
        return MaskedBatch(ids, lengths, torch.from_numpy(padded), torch.from_numpy(targets.astype(np.int64)))

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        """Return the mean cross-entropy (nats) over hidden tokens, and the share guessed.

        Raises:
            InvalidInputError: If the model has no masked-word head.
        """
        if model.head is None:
            raise InvalidInputError(f"the model {model.name} has no masked-word head: start from one made by train mlm")
        hidden = model.encoder.at(batch.ids, batch.positions, batch.lengths)  # (M', D)
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
