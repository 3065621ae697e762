"""Denoising (TSDAE, Wang et al. 2021): delete most words of a sentence, encode the rest to one vector, rebuild it all.

The decoder sees nothing but that vector, so whatever it is to write has to be in there: this is what
teaches sentence vectors without any labels, and what ``ctxembed reconstruct`` makes visible. Departures
from the paper: whole words are deleted instead of tokens, the model pools in its own way, of a vector
only the direction is used, and encoder and decoder share the embedding but not their layers.

Letters: B rows of a batch, T tokens of a row with deletions, U of a whole row, D hidden width, V vocabulary,
M target tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.config import check, to_mapping
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.decoder import sentence_memory
from ctxembed.model.fused import tied_cross_entropy
from ctxembed.tokenizer import SubwordTokenizer, TokenIds
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.base import Loss, Objective, encode_sentences, item_generator, pad_rows


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """How much of a sentence is taken away before it is encoded."""

    delete_fraction: float = 0.6
    """Chance of each word to be deleted; 0.6 was best in the paper."""

    def __post_init__(self) -> None:
        fraction = self.delete_fraction
        check(0 <= fraction < 1, f"delete_fraction = {fraction}: must be in [0, 1), 0 leaves sentences whole")


@dataclass(frozen=True, slots=True)
class DenoiseBatch:
    """Sentences with words deleted, and the same sentences whole."""

    ids: Tensor
    """int64 (B, T), what is left of each row, padded."""
    lengths: Tensor
    """int64 (B,)."""
    target_ids: Tensor
    """int64 (B, U), the whole rows, padded."""
    target_lengths: Tensor
    """int64 (B,)."""

    @property
    def num_tokens(self) -> int:
        """Real tokens the encoder sees, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> DenoiseBatch:
        """Return the batch with its tensors on a device."""
        return DenoiseBatch(
            self.ids.to(device), self.lengths.to(device), self.target_ids.to(device), self.target_lengths.to(device)
        )


class Denoising(Objective[DenoiseBatch]):
    """Rebuild whole sentences from the one vector of what deletion left of them; the model needs a decoder."""

    kind: ClassVar[str] = "denoise"

    def __init__(self, rows: TokenRows, tokenizer: SubwordTokenizer, *, config: DenoiseConfig | None = None) -> None:
        """Take sentences to learn from.

        Args:
            rows: N sentences, a special token first and last in each.
            tokenizer: That made them.
            config: How much is deleted.

        Raises:
            InvalidInputError: If there are no rows.
        """
        super().__init__()
        check(len(rows) > 0, "no rows to learn from: give at least one sentence")
        self.config = config or DenoiseConfig()
        self.rows = rows
        self.pad_id = tokenizer.pad_id
        self.word_starts = tokenizer.word_starts()
        self.costs = rows.lengths  # as the decoder sees them; the encoder mostly sees less
        self.settings = {**to_mapping(self.config), "rows": len(rows), "rows_sha256": rows.sha256}

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> DenoiseBatch:
        """Delete words of some rows.

        Args:
            items: Which rows, (B,).
            seed: Of this batch.
        """
        whole = [self.rows.row(item) for item in items.tolist()]
        left = [
            delete_words(
                row, self.word_starts, fraction=self.config.delete_fraction, generator=item_generator(seed, item)
            )
            for item, row in zip(items.tolist(), whole, strict=True)
        ]
        return DenoiseBatch(*pad_rows(left, pad_id=self.pad_id), *pad_rows(whole, pad_id=self.pad_id))

    def forward(self, model: Checkpoint, batch: DenoiseBatch) -> Loss:
        """Return the mean cross-entropy (nats) over all tokens to write, each given the vector and those before it.

        Raises:
            InvalidInputError: If the model has no decoder.
        """
        if model.decoder is None:
            raise InvalidInputError(f"the model {model.name} has no decoder: give it one, denoising trains it")
        embedding = model.encoder.embedding
        table = embedding.tokens.weight  # (V, D)
        vectors = encode_sentences(model, batch.ids, batch.lengths)  # (B, D)
        memory = sentence_memory(vectors).to(table.dtype)  # (B, 1, D)
        given, wanted = batch.target_ids[:, :-1], batch.target_ids[:, 1:]  # (B, U - 1): each token asks for the next
        hidden = model.decoder(given, memory, embedding=embedding).hidden  # (B, U - 1, D)
        position = torch.arange(given.size(1), device=given.device)
        real = position < batch.target_lengths[:, None] - 1  # (B, U - 1)
        targets = wanted[real]  # (M,)
        bias = model.decoder.bias.to(table.dtype)
        loss, hits = tied_cross_entropy(hidden[real].to(table.dtype), table, bias, targets)
        return Loss(loss, {"denoise": loss.item(), "denoise_accuracy": hits.float().mean().item()}, len(targets))


def delete_words(
    row: TokenIds, word_starts: NDArray[np.bool_], *, fraction: float, generator: np.random.Generator
) -> TokenIds:
    """Delete each word of a row with the same chance, all of its tokens together; one word always stays.

    Args:
        row: int32 (T,), a special token first and last; they stay.
        word_starts: bool (V,), which tokens begin a word.
        fraction: The chance, in [0, 1).
        generator: The only source of chance.

    Returns:
        int32, at most T long; a row without words comes back as it is.

    >>> row = np.array([2, 5, 6, 7, 6, 6, 3], dtype=np.int32)  # token 6 continues a word
    >>> delete_words(row, np.arange(8) != 6, fraction=0.5, generator=np.random.default_rng(3)).tolist()
    [2, 5, 6, 3]
    """
    begins = word_starts[row[1:-1]]
    if not len(begins):
        return row
    begins[0] = True  # a row may start in the middle of a word
    word = np.cumsum(begins) - 1  # (T - 2,): the number of each token's word
    stays = generator.random(word[-1] + 1) >= fraction  # one for each word
    if not stays.any():
        stays[generator.integers(len(stays))] = True
    return row[np.concatenate(([True], stays[word], [True]))]
