"""What the tests of the Embedder share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ctxembed.config import PoolingConfig
from ctxembed.embedder import Embedder, OnLong
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.text import word_spans
from ctxembed.types import Usage, Vectors

TEXTS = [
    "The bank lent money to the old farmer.",
    "She sat on the bank of the river and read.",
    "bass",
    "A crane stood in the water near the bank, and the spring was cold!",
    "Farmers, bankers, riverbanks, the plants.",
]
WIDTH = 32 - 2  # tokens of one window
LONG = "the bank of the river and the old crane near the water, a spring of the plant. " * 6
CLOSE = {"atol": 1e-5, "rtol": 0}


def embedder_with(checkpoint: Checkpoint, *, on_long: OnLong = "window", **pooling: Any) -> Embedder:
    return Embedder(replace(checkpoint, pooling=PoolingConfig(**pooling)), dtype="float32", on_long=on_long)


def hidden_states(checkpoint: Checkpoint, ids: Sequence[int], *, layer: int = -1) -> Vectors:
    """One window through the encoder itself: (T, D), special tokens included."""
    tokenizer = checkpoint.tokenizer
    row = torch.tensor([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    with torch.inference_mode():
        return checkpoint.encoder(row).hidden_states[layer][0].numpy()


def unit(vector: Vectors) -> Vectors:
    return vector / np.linalg.norm(vector)


def usages_of(text: str) -> list[Usage]:
    return [Usage(text, span.start, span.end) for span in word_spans(text)]


def cosines(one: Vectors, other: Vectors) -> Vectors:
    return (one * other).sum(axis=1)
