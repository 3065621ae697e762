"""The Transformer decoder: masked self-attention, encoder-decoder attention and feed-forward, layer upon layer.

It reads its row from left to right and a memory as a whole, and says of every position which token comes next.

Letters: B batch, T tokens of the row, S vectors of the memory, D hidden width, H heads, V vocabulary, M positions.
Source: Vaswani et al. 2017, section 3.1; the one-vector memory as in TSDAE (Wang et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import DecoderConfig, EncoderConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.attention import MultiHeadAttention, causal_mask, padding_mask, rotary_angles
from ctxembed.model.embeddings import TokenEmbedding
from ctxembed.model.layers import FeedForward, initialise


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """What the decoder computed: token vectors and, if asked for, both kinds of attention weights of every layer."""

    hidden: Tensor
    """(B, T, D): what stands at a position knows the tokens up to it, and the memory."""
    self_attentions: tuple[Tensor, ...]
    """(B, H, T, T) each, zero above the diagonal; or empty."""
    memory_attentions: tuple[Tensor, ...]
    """(B, H, T, S) each; or empty."""


class DecoderLayer(nn.Module):
    """Look back, look at the memory, then feed-forward: each inside a residual sum with layer normalisation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_heads
        self.norm_first = config.norm == "pre"
        self.self_attention = MultiHeadAttention(size, heads, dropout=config.dropout)
        self.self_attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.memory_attention = MultiHeadAttention(size, heads, dropout=config.dropout)
        self.memory_attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        memory: Tensor,
        *,
        mask: Tensor,
        memory_mask: Tensor | None = None,
        angles: tuple[Tensor, Tensor] | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Map (B, T, D) to (B, T, D), with the weights (B, H, T, T) and (B, H, T, S) if asked for.

        Args:
            hidden: (B, T, D).
            memory: (B, S, D).
            mask: Boolean, broadcastable to (B, H, T, T): true where a token may look back, ``causal_mask``.
            memory_mask: Boolean, broadcastable to (B, H, T, S): true where the memory is no padding.
            angles: Rotary positions; the memory has none.
            need_weights: Return the weights too.
        """
        normed = self._before(hidden, self.self_attention_norm)
        mixed, back = self.self_attention(normed, mask=mask, angles=angles, need_weights=need_weights)
        hidden = self._after(hidden + self.dropout(mixed), self.self_attention_norm)

        normed = self._before(hidden, self.memory_attention_norm)
        mixed, across = self.memory_attention(normed, context=memory, mask=memory_mask, need_weights=need_weights)
        hidden = self._after(hidden + self.dropout(mixed), self.memory_attention_norm)

        mixed = self.feed_forward(self._before(hidden, self.feed_forward_norm))
        return self._after(hidden + self.dropout(mixed), self.feed_forward_norm), back, across

    def _before(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        return norm(hidden) if self.norm_first else hidden

    def _after(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        return hidden if self.norm_first else norm(hidden)


class TransformerDecoder(nn.Module):
    """Token ids and a memory in, next-token vectors out; token vectors and logits are tied to the encoder's table."""

    def __init__(self, encoder: EncoderConfig, config: DecoderConfig) -> None:
        """Draw new weights.

        Args:
            encoder: The shape of the encoder whose embedding it will be called with.
            config: What is its own.
        """
        super().__init__()
        self.config = config
        self.shape = replace(
            encoder,
            num_layers=config.num_layers,
            intermediate_size=config.intermediate_size or encoder.intermediate_size,
            dropout=encoder.dropout if config.dropout is None else config.dropout,
        )
        self.layers = nn.ModuleList(DecoderLayer(self.shape) for _ in range(config.num_layers))
        self.final_norm = (
            nn.LayerNorm(encoder.hidden_size, eps=encoder.layer_norm_eps) if encoder.norm == "pre" else None
        )
        self.bias = nn.Parameter(torch.zeros(encoder.vocab_size))
        self.apply(initialise)

    def forward(
        self,
        token_ids: Tensor,
        memory: Tensor,
        *,
        embedding: TokenEmbedding,
        memory_lengths: Tensor | None = None,
        need_weights: bool = False,
    ) -> DecoderOutput:
        """Read rows from left to right.

        Rows that are padded at the end need no lengths: a token never looks at what comes after it.

        Args:
            token_ids: int64 (B, T), T at least 1 and at most ``max_length``.
            memory: (B, S, D), S at least 1.
            embedding: The encoder's: token vectors, and positions if they are a table.
            memory_lengths: (B,) real vectors of each memory, at least 1; None when none is padded.
            need_weights: Return the attention weights too.

        Raises:
            InvalidInputError: If the rows are longer than ``max_length``.
        """
        width = token_ids.size(1)
        if width > self.shape.max_length:
            raise InvalidInputError(f"rows of {width} tokens, the limit is max_length = {self.shape.max_length}")
        mask = causal_mask(width, device=token_ids.device)  # (T, T)
        memory_mask = None if memory_lengths is None else padding_mask(memory_lengths, memory.size(1))  # (B, 1, 1, S)
        angles = None
        if self.shape.positions == "rotary":
            angles = rotary_angles(width, self.shape.hidden_size // self.shape.num_heads, device=token_ids.device)
        hidden = embedding(token_ids)  # (B, T, D)
        weights: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            hidden, back, across = layer(
                hidden, memory, mask=mask, memory_mask=memory_mask, angles=angles, need_weights=need_weights
            )
            if need_weights:
                weights.append((back, across))
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        return DecoderOutput(hidden, tuple(back for back, _ in weights), tuple(across for _, across in weights))

    def logits(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Score every vocabulary entry as the next token: vectors (M, D) and embedding table (V, D) to (M, V)."""
        return functional.linear(hidden, table, self.bias)


def sentence_memory(vectors: Tensor) -> Tensor:
    """Make a memory of one vector out of each sentence vector: its direction, at a length where columns are near one.

    Only the direction counts, so that a decoder can be given the unit vectors that users have. With
    one vector to look at, all weights of the encoder-decoder attention are one.

    Args:
        vectors: (B, D); a zero vector stays zero.

    Returns:
        (B, 1, D).

    >>> sentence_memory(torch.tensor([[3.0, 0.0, 4.0, 0.0]])).tolist()
    [[[1.2000000476837158, 0.0, 1.600000023841858, 0.0]]]
    """
    return functional.normalize(vectors, dim=-1)[:, None] * math.sqrt(vectors.size(-1))
