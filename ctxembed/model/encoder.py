"""The Transformer encoder: a stack of self-attention and feed-forward layers, and the masked-word head.

Letters: B batch, T tokens, D hidden width, H heads, K head width, V vocabulary, M masked positions, K' kept tokens of
a row.
Source: Vaswani et al. 2017, section 3.1; Devlin et al. 2019 for the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import EncoderConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.attention import MultiHeadAttention, padding_mask, rotary_angles, select
from ctxembed.model.embeddings import TokenEmbedding
from ctxembed.model.layers import FeedForward, initialise


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What the encoder computed: each layer's token vectors and, if asked for, attention weights."""

    hidden_states: tuple[Tensor, ...]
    """(B, T, D) each: the embedding layer first, then every encoder layer."""
    attentions: tuple[Tensor, ...]
    """(B, H, T, T) each, or empty."""

    @property
    def last(self) -> Tensor:
        """Token vectors of the last layer, (B, T, D)."""
        return self.hidden_states[-1]


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Of each row the tokens that go through all layers."""

    places: Tensor
    """int64 (B, K'), all different within a row. Those beyond a row's own number are padding: any other tokens."""
    lengths: Tensor
    """int64 (B,), how many of them are meant, at least 1."""

    def to(self, device: torch.device) -> KeptTokens:
        """Return the same on a device."""
        return KeptTokens(self.places.to(device), self.lengths.to(device))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each inside a residual sum with layer normalisation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm == "pre"
        self.attention = MultiHeadAttention(config.hidden_size, config.num_heads, dropout=config.dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        *,
        mask: Tensor | None = None,
        angles: tuple[Tensor, Tensor] | None = None,
        need_weights: bool = False,
        only: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, D) to (B, T, D), or to (M, D) at ``only``, with the weights (B, H, T, T) if asked for."""
        normed = self.attention_norm(hidden) if self.norm_first else hidden
        mixed, weights = self.attention(normed, mask=mask, angles=angles, need_weights=need_weights, only=only)
        hidden = select(hidden, only) + self.dropout(mixed)
        if self.norm_first:
            return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden))), weights
        hidden = self.attention_norm(hidden)
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden))), weights


class TransformerEncoder(nn.Module):
    """Token ids in, contextual token vectors out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm == "pre" else None
        self.apply(initialise)

    def forward(
        self,
        token_ids: Tensor,
        lengths: Tensor | None = None,
        *,
        need_weights: bool = False,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            token_ids: int64 (B, T), T at least 1 and at most ``max_length``.
            lengths: (B,) real tokens of each row, at least 1; the rest is padding. None when no row is padded.
            need_weights: Return the attention weights too.
            num_layers: Stop after so many layers (their outputs are final: no later layer is run).

        Raises:
            InvalidInputError: If the rows are longer than ``max_length``.
        """
        hidden, mask, angles = self._begin(token_ids, lengths)
        states, attentions = [hidden], []
        for layer in self.layers[:num_layers]:
            hidden, weights = layer(hidden, mask=mask, angles=angles, need_weights=need_weights)
            states.append(hidden)
            if weights is not None:
                attentions.append(weights)
        if len(states) == len(self.layers) + 1:
            states[-1] = self._end(states[-1])
        return EncoderOutput(tuple(states), tuple(attentions))

    def at(
        self, token_ids: Tensor, positions: Tensor, lengths: Tensor | None = None, *, kept: KeptTokens | None = None
    ) -> Tensor:
        """Encode a batch for the sake of some of its tokens: no other one goes through the last feed-forward part.

        Args:
            token_ids: As in ``forward``.
            positions: int64 (M,), tokens counted through the rows.
            lengths: As in ``forward``.
            kept: Tokens that go through all layers; the others pass by all but the first and the last one (Hou et al.
                2022, "Token Dropping for Efficient BERT Pretraining"). None keeps all.

        Returns:
            What ``forward(...).last`` holds at the positions, (M, D), if all are kept.
        """
        hidden, mask, angles = self._begin(token_ids, lengths)
        if kept is None or len(self.layers) < 3:
            for layer in self.layers[:-1]:
                hidden, _ = layer(hidden, mask=mask, angles=angles)
        else:
            hidden, _ = self.layers[0](hidden, mask=mask, angles=angles)
            hidden = self._middle(hidden, kept, angles)
        hidden, _ = self.layers[-1](hidden, mask=mask, angles=angles, only=positions)
        return self._end(hidden)

    def _middle(self, hidden: Tensor, kept: KeptTokens, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """Let the kept ones of the tokens (B, T, D) go through the middle layers, among themselves; (B, T, D)."""
        rows, width = hidden.shape[:2]
        flat = (kept.places + width * torch.arange(rows, device=hidden.device)[:, None]).flatten()  # (B K')
        real = padding_mask(kept.lengths, kept.places.size(1))  # (B, 1, 1, K')
        mask = None if bool(real.all()) else real
        if angles is not None:
            angles = angles[0][kept.places][:, None], angles[1][kept.places][:, None]  # (B, 1, K', K/2) each
        tokens = hidden.flatten(0, 1)  # (B T, D)
        part = tokens.index_select(0, flat).view(rows, -1, hidden.size(2))  # (B, K', D)
        for layer in self.layers[1:-1]:
            part, _ = layer(part, mask=mask, angles=angles)
        real = real.flatten()
        return tokens.index_copy(0, flat[real], part.flatten(0, 1)[real]).view_as(hidden)

    def _begin(
        self, token_ids: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Return the embedding (B, T, D), and the mask and rotary angles that every layer needs."""
        if token_ids.size(1) > self.config.max_length:
            raise InvalidInputError(
                f"rows of {token_ids.size(1)} tokens, the limit is max_length = {self.config.max_length}: window them"
            )
        mask = None
        if lengths is not None and bool((lengths < token_ids.size(1)).any()):
            mask = padding_mask(lengths, token_ids.size(1))  # (B, 1, 1, T)
        angles = None
        if self.config.positions == "rotary":
            width = self.config.hidden_size // self.config.num_heads
            angles = rotary_angles(token_ids.size(1), width, device=token_ids.device)
        return self.embedding(token_ids), mask, angles

    def _end(self, hidden: Tensor) -> Tensor:
        return hidden if self.final_norm is None else self.final_norm(hidden)


class MaskedWordHead(nn.Module):
    """Scores for every vocabulary entry at a position; the last matrix is the embedding table itself (tied)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(initialise)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map vectors (M, D) and the embedding table (V, D) to logits (M, V)."""
        return functional.linear(self.transform(hidden), table, self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """Map vectors (M, D) to what is compared with the embedding table, (M, D)."""
        compared: Tensor = self.norm(functional.gelu(self.dense(hidden)))
        return compared
