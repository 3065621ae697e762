"""What every part of a network was given and made, written down while it runs; nothing is computed a second way.

Letters: T query tokens, S key tokens, D hidden width, H heads, K head width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxembed.model.attention import (
    MultiHeadAttention,
    attention_scores,
    rotate,
    scaled_dot_product_attention,
    split_heads,
)

Array: TypeAlias = NDArray[np.floating[Any]]
"""float32 of a model, float64 of the worked example."""


@dataclass(frozen=True, slots=True)
class Record:
    """The first input and the output of each part of a network, by the part's name."""

    given: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AttentionSteps:
    """Attention of one text, step by step."""

    query: Array
    """(H, T, K), rotated where positions are rotary."""
    key: Array
    """(H, S, K), rotated where positions are rotary."""
    value: Array
    """(H, S, K)."""
    scores: Array
    """(H, T, S): Q Kᵀ."""
    scaled: Array
    """(H, T, S): Q Kᵀ / √K; -inf where a query may not look."""
    weights: Array
    """(H, T, S): softmax of each row, which sums to one."""
    mixed: Array
    """(H, T, K): the weighted sum of the values."""
    joined: Array
    """(T, D): the heads side by side."""
    output: Array
    """(T, D): what W_O makes of it."""


@contextlib.contextmanager
def recording(network: nn.Module) -> Iterator[Record]:
    """Write down what each part of a network is given and makes, until the block ends."""
    record = Record()

    def hook_of(name: str) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            record.given[name] = given[0]
            record.made[name] = made[0] if isinstance(made, tuple) else made

        return note

    handles = [part.register_forward_hook(hook_of(name)) for name, part in network.named_modules() if name]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def attention_steps(
    record: Record,
    name: str,
    attention: MultiHeadAttention,
    *,
    angles: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
) -> AttentionSteps:
    """Return the steps of an attention that has run on one text.

    Args:
        record: Of the run.
        name: Of the attention in the network.
        attention: Itself.
        angles: The rotary positions it was run with.
        mask: Boolean (T, S), the one it was run with.
    """
    heads = attention.num_heads
    query, key, value = (split_heads(record.made[f"{name}.{part}"], heads) for part in ("query", "key", "value"))
    if angles is not None:
        query, key = rotate(query, angles), rotate(key, angles)
    scores = attention_scores(query, key)  # (1, H, T, S)
    scaled = scores / math.sqrt(attention.head_width)
    if mask is not None:
        scaled = scaled.masked_fill(~mask, float("-inf"))
    mixed, weights = scaled_dot_product_attention(query, key, value, mask=mask)
    joined, output = record.given[f"{name}.output"], record.made[f"{name}.output"]
    return AttentionSteps(*map(array, (query, key, value, scores, scaled, weights, mixed, joined, output)))


def array(tensor: Tensor) -> Array:
    """Return the first row of a batch as numpy."""
    result: Array = tensor.detach()[0].cpu().numpy()
    return result


def identity_attention(width: int) -> MultiHeadAttention:
    """Return a float64 attention of one head with W_Q = W_K = W_V = W_O = I."""
    attention = MultiHeadAttention(width, 1).double().eval()
    for layer in (attention.query, attention.key, attention.value, attention.output):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return attention


def random_attention(width: int, num_heads: int, *, seed: int) -> MultiHeadAttention:
    """Return a float64 attention whose maps are drawn: normal with variance 1 / D, biases zero."""
    attention = MultiHeadAttention(width, num_heads).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for layer in (attention.query, attention.key, attention.value, attention.output):
        nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return attention


def run_attention(attention: MultiHeadAttention, hidden: Array) -> AttentionSteps:
    """Run an attention alone on the vectors (T, D) of one text."""
    attention.fused = False  # the path that is written out
    with torch.no_grad(), recording(attention) as record:
        attention(torch.from_numpy(hidden)[None])
    return attention_steps(Record(_named(record.given), _named(record.made)), "attention", attention)


def _named(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"attention.{name}": value for name, value in parts.items()}
