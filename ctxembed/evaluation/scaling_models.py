"""The two encoder-decoders that `bench scaling` sets side by side, of one size and with one way to be trained.

Letters: B batch, S tokens that are read, U tokens that are written, D width, V vocabulary, M positions.
"""

from __future__ import annotations

import bisect
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ctxembed.config import NEW_ENCODER, DecoderConfig, EncoderConfig, from_mapping
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.model.fused import tied_cross_entropy
from ctxembed.model.recurrent import RecurrentConfig, RecurrentSeq2Seq
from ctxembed.training.objectives.denoise import DenoiseBatch


class TransformerSeq2Seq(nn.Module):
    """The Transformer encoder and decoder of this package; the decoder looks at every token that was read."""

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = TransformerEncoder(encoder)
        self.decoder = TransformerDecoder(encoder, decoder)

    @property
    def embedding(self) -> nn.Embedding:
        """The table that encoder, decoder and logits share."""
        return self.encoder.embedding.tokens

    @property
    def bias(self) -> Tensor:
        """Of the logits, (V,)."""
        return self.decoder.bias

    def forward(self, token_ids: Tensor, lengths: Tensor, target_ids: Tensor) -> Tensor:
        """Read rows (B, S) and write targets (B, U), each token given those before it: (B, U, D)."""
        memory = self.encoder(token_ids, lengths).last  # (B, S, D)
        return self.decode(target_ids, memory, lengths)

    def encode(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Read rows (B, S): (B, S, D)."""
        memory: Tensor = self.encoder(token_ids, lengths).last
        return memory

    def decode(self, target_ids: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Write targets (B, U) to a memory (B, S, D): (B, U, D)."""
        hidden: Tensor = self.decoder(
            target_ids, memory, embedding=self.encoder.embedding, memory_lengths=lengths
        ).hidden
        return hidden

    def write(self, token_ids: Tensor, lengths: Tensor, *, start: int, count: int) -> Tensor:
        """Write ``count`` tokens for each row, the most probable each time: int64 (B, count); nothing is cached."""
        memory = self.encode(token_ids, lengths)
        written = torch.full((len(token_ids), 1), start, device=token_ids.device)
        for _ in range(count):
            hidden = self.decode(written, memory, lengths)[:, -1]  # (B, D)
            logits = self.decoder.logits(hidden, self.embedding.weight)
            written = torch.cat((written, logits.argmax(dim=-1, keepdim=True)), dim=1)
        return written[:, 1:]


Seq2Seq: TypeAlias = TransformerSeq2Seq | RecurrentSeq2Seq


def make_pair(*, vocab_size: int, width: int, num_layers: int, max_length: int, seed: int) -> dict[str, Seq2Seq]:
    """Draw a Transformer and the recurrent model whose number of parameters comes nearest to it.

    Both have the same embedding table, so the parts beside it are matched: they differ by far less than 2 %.

    Args:
        vocab_size: V.
        width: D of both; heads are 32 wide.
        num_layers: Of the encoder and of the decoder.
        max_length: Longest row of the Transformer.
        seed: Of the weights.
    """
    shape = {"vocab_size": vocab_size, "hidden_size": width, "num_layers": num_layers, "max_length": max_length}
    shape |= {"num_heads": max(1, width // 32), "intermediate_size": 4 * width}
    torch.manual_seed(seed)
    transformer = TransformerSeq2Seq(
        from_mapping(EncoderConfig, {**NEW_ENCODER, **shape}), DecoderConfig(num_layers=num_layers)
    )
    wanted = num_parameters(transformer)

    def recurrent(size: int) -> RecurrentSeq2Seq:
        return RecurrentSeq2Seq(RecurrentConfig(vocab_size=vocab_size, embedding_size=width, hidden_size=size))

    with torch.device("meta"):  # shapes without numbers
        larger = bisect.bisect_left(range(1, 8 * width), wanted, key=lambda size: num_parameters(recurrent(size))) + 1
        nearest = min((larger - 1, larger), key=lambda size: abs(num_parameters(recurrent(max(1, size))) - wanted))
    return {"transformer": transformer, "recurrent": recurrent(max(1, nearest))}


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def denoising_loss(model: Seq2Seq, batch: DenoiseBatch) -> tuple[Tensor, int]:
    """Return the mean cross-entropy (nats) over all tokens to write, and their number."""
    given, wanted = batch.target_ids[:, :-1], batch.target_ids[:, 1:]  # (B, U): each token asks for the next
    hidden = model(batch.ids, batch.lengths, given)  # (B, U, D)
    real = torch.arange(given.size(1), device=given.device) < batch.target_lengths[:, None] - 1
    targets = wanted[real]  # (M,)
    loss, _ = tied_cross_entropy(hidden[real], model.embedding.weight, model.bias, targets)
    return loss, len(targets)


def sequential_steps(model: Seq2Seq, *, read: int, written: int) -> int:
    """Return how many steps of training must wait for the one before: layers, or tokens."""
    if isinstance(model, TransformerSeq2Seq):
        return len(model.encoder.layers) + len(model.decoder.layers)
    return read + written
