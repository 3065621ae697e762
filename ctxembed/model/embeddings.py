"""From token ids to vectors that know their position. Letters: B batch, T tokens, D hidden width, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctxembed.config import EncoderConfig


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Return the fixed table (T, D) of Vaswani et al. 2017, section 3.5: sines in even columns, cosines in odd ones.

    >>> sinusoidal_positions(2, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (T, 1)
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)  # (D/2)
    table = torch.empty(length, width)
    table[:, 0::2] = (position * frequency).sin()
    table[:, 1::2] = (position * frequency).cos()[:, : width // 2]
    return table


class TokenEmbedding(nn.Module):
    """Sum of token vector, position vector and (for BERT checkpoints) segment vector, then layer norm and dropout."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_length, config.hidden_size) if config.positions == "learned" else None
        self.types = nn.Embedding(config.num_token_types, config.hidden_size) if config.num_token_types else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.sinusoids: Tensor | None
        self.register_buffer("sinusoids", None, persistent=False)
        if config.positions == "sinusoidal":
            self.register_buffer(
                "sinusoids", sinusoidal_positions(config.max_length, config.hidden_size), persistent=False
            )

    def forward(self, token_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map ids (B, T) to vectors (B, T, D); all tokens belong to segment 0.

        Texts laid end to end are ids (N,) with the position of each token in its text, (N,), and give (N, D).
        """
        hidden = self.tokens(token_ids)  # (B, T, D)
        places = slice(token_ids.size(-1)) if positions is None else positions
        if self.positions is not None:
            hidden = hidden + self.positions.weight[places]
        elif self.sinusoids is not None:  # waves of height 1 would drown what a token begins with (section 3.4)
            hidden = hidden * hidden.size(-1) ** 0.5 + self.sinusoids[places].to(hidden.dtype)
        if self.types is not None:
            hidden = hidden + self.types.weight[0]
        embedded: Tensor = self.dropout(self.norm(hidden))
        return embedded
