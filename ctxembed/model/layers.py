"""What encoder and decoder share: the feed-forward part, and how weights are drawn.

Letters: B batch, T tokens, D hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import EncoderConfig


class FeedForward(nn.Module):
    """Two linear maps around a non-linearity, applied to each token alone (equation 2; gated: Shazeer 2020)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.kind = config.feed_forward
        gates = 1 if self.kind == "gelu" else 2
        self.inner = nn.Linear(config.hidden_size, gates * config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        inner = self.inner(hidden)  # (B, T, intermediate), twice that when gated
        outer: Tensor = self.outer(self.activate(inner))
        return outer

    def activate(self, inner: Tensor) -> Tensor:
        """Apply the non-linearity, (..., intermediate) or twice that when gated, to (..., intermediate)."""
        if self.kind == "gelu":
            return functional.gelu(inner)
        gate, value = inner.chunk(2, dim=-1)
        return (functional.gelu if self.kind == "geglu" else functional.silu)(gate) * value


def initialise(module: nn.Module) -> None:
    """Draw weights as BERT does: normal with standard deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
