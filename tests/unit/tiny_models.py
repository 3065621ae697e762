"""A tiny encoder whose every layer changes every vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

WIDTH = 16


def checkpoint(tokenizer: SubwordTokenizer, *, dropout: float = 0.0, **pooling: Any) -> Checkpoint:
    """Two layers in training mode, with weights far enough from zero."""
    shape = EncoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        max_length=16,
        dropout=dropout,
    )
    torch.manual_seed(1)
    encoder = TransformerEncoder(shape)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return Checkpoint(name="tiny", encoder=encoder.train(), tokenizer=tokenizer, pooling=PoolingConfig(**pooling))
