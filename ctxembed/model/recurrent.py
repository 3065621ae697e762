"""What came before the Transformer: a recurrent encoder-decoder with attention, to be measured beside it.

A bidirectional GRU reads the row, a GRU writes one token at a time, and before each it looks at all that was read by
additive attention. Each step waits for the one before it: that is what the Transformer did away with.

Letters: B batch, S tokens that are read, U tokens that are written, D width of token vectors, G width of a GRU's state,
V vocabulary, M positions.
Source: Bahdanau, Cho and Bengio 2015, appendix A.2. Departures: the last matrix is the embedding table itself (tied),
and token vectors and readout are layer-normalised, all as in the Transformer that it is set beside; this readout stands
in place of maxout (a tanh there saturates, with a tied table, before anything but frequencies is learned).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ctxembed.config import check
from ctxembed.model.layers import initialise


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """The shape of a recurrent encoder-decoder."""

    vocab_size: int
    """Rows V of the embedding table."""
    embedding_size: int
    """Width D of a token's vector."""
    hidden_size: int
    """Width G of each GRU's state; the two directions of the encoder have one each."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(value >= 1, f"{name} = {value}: must be at least 1")


class AdditiveAttention(nn.Module):
    """Scores by a small network in place of a product: e = vᵀ tanh(W s + U h)."""

    def __init__(self, state_size: int, memory_size: int, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(state_size, width, bias=False)
        self.memory = nn.Linear(memory_size, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, state: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Look at a memory.

        Args:
            state: (B, G), what asks.
            memory: (B, S, 2 G).
            keys: (B, S, width), ``self.memory(memory)``: the same for every state that asks.
            mask: Boolean (B, S), true where the memory is no padding; None when none is.

        Returns:
            The mixture of the memory (B, 2 G), and the weights (B, S), each row summing to one.
        """
        scores = self.score(torch.tanh(self.state(state)[:, None] + keys))[..., 0]  # (B, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=-1)
        return (weights[:, None] @ memory)[:, 0], weights


class RecurrentSeq2Seq(nn.Module):
    """Token ids in, next-token vectors out, by recurrence."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        width, state = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.encoder = nn.GRU(width, state, batch_first=True, bidirectional=True)
        self.first_state = nn.Linear(state, state)
        self.attention = AdditiveAttention(state, 2 * state, state)
        self.decoder = nn.GRUCell(width + 2 * state, state)
        self.readout = nn.Sequential(nn.Linear(width + 3 * state, width), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialise(self.embedding)  # the rest is drawn as torch does it, wider: a small start slows recurrence down

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the normalised vectors (..., D) of tokens (...)."""
        vectors: Tensor = self.embedding_norm(self.embedding(token_ids))
        return vectors

    def encode(self, token_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read rows in both directions.

        Args:
            token_ids: int64 (B, S).
            lengths: int64 (B,), at least 1.

        Returns:
            The memory (B, S, 2 G), zero where the row is padding, and the decoder's first state (B, G).
        """
        packed = pack_padded_sequence(self.embed(token_ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)  # last: (2, B, G)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=token_ids.size(1))  # (B, S, 2 G)
        return memory, torch.tanh(self.first_state(last[1]))  # the backward direction ends at the first token

    def forward(self, token_ids: Tensor, lengths: Tensor, target_ids: Tensor) -> Tensor:
        """Read rows and write targets, each token given those before it.

        Args:
            token_ids: int64 (B, S).
            lengths: int64 (B,).
            target_ids: int64 (B, U).

        Returns:
            (B, U, D): what stands at a position is compared with the embedding table to find the next token.
        """
        memory, state = self.encode(token_ids, lengths)
        keys = self.attention.memory(memory)  # (B, S, G)
        mask = torch.arange(token_ids.size(1), device=lengths.device) < lengths[:, None]  # (B, S)
        outputs = []
        for token in self.embed(target_ids).unbind(dim=1):  # (B, D)
            output, state = self.step(token, state, memory, keys, mask)
            outputs.append(output)
        return torch.stack(outputs, dim=1)  # (B, U, D)

    def step(
        self, token: Tensor, state: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Write one token: token vectors (B, D) and states (B, G) to outputs (B, D) and the next states (B, G)."""
        context, _ = self.attention(state, memory, keys, mask)  # (B, 2 G)
        state = self.decoder(torch.cat((token, context), dim=-1), state)
        output: Tensor = self.readout(torch.cat((token, context, state), dim=-1))
        return output, state

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every vocabulary entry as the next token: vectors (M, D) to (M, V)."""
        return functional.linear(hidden, self.embedding.weight, self.bias)

    def write(self, token_ids: Tensor, lengths: Tensor, *, start: int, count: int) -> Tensor:
        """Write ``count`` tokens for each row, the most probable each time: int64 (B, count)."""
        memory, state = self.encode(token_ids, lengths)
        keys = self.attention.memory(memory)
        mask = torch.arange(token_ids.size(1), device=lengths.device) < lengths[:, None]
        token, written = torch.full((len(token_ids),), start, device=token_ids.device), []
        for _ in range(count):
            output, state = self.step(self.embed(token), state, memory, keys, mask)
            token = self.logits(output).argmax(dim=-1)
            written.append(token)
        return torch.stack(written, dim=1)
