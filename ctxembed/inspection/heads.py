"""What attention weights show, in words: who looks at whom, how widely, and how a word leaves its static vector.

Weights are not importance: they say where a head reads from, not what the reading changed. Values may be near zero
where weights are large, and other weights can give the same output (Jain and Wallace 2019; Wiegreffe and Pinter 2019).

Letters: T tokens, U units, H heads, L layers, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctxembed.inspection.recording import Array
from ctxembed.inspection.trace import Trace, Unit
from ctxembed.model.pooling import pool_spans
from ctxembed.text import word_form

LOOKS = ("itself", "previous", "next", "same word", "delimiter", "elsewhere")
"""Where a word's attention can go: every unit is exactly one of these to every other."""
CAUTION = (
    "Weights say where a head reads from, not what the reading changed: a value may be near zero where its weight is "
    "large, the residual path goes round every layer, and other weights can give the same output (Jain and Wallace "
    "2019). To see which words decide a meaning, take them away: ctxembed compare --why."
)
BROAD = 0.1
"""A head that gives no place so much more than an even spread would looks broadly."""


@dataclass(frozen=True, slots=True)
class HeadProfile:
    """One head on one sentence."""

    layer: int
    """From 1."""
    head: int
    """From 1."""
    entropy: float
    """Mean over the words' rows, in nats: 0 looks at one token, log T at all alike."""
    evenness: float
    """The entropy as a share of log T, from 0 to 1."""
    shares: tuple[float, ...]
    """The mean share of a word's attention that goes to each of LOOKS; they sum to one."""
    looks_at: str
    """The one of LOOKS that gets most beyond an even spread over tokens, or ``broadly``."""


def by_words(weights: Array, units: Sequence[Unit]) -> Array:
    """Make attention between tokens attention between units.

    What goes to a split word is added up, what comes from one is averaged (Clark et al. 2019, section 4.1), so that
    rows still sum to one.

    Args:
        weights: (..., T, T).
        units: U that cover all tokens.

    Returns:
        (..., U, U).

    >>> units = [Unit("a", 0, 1, "word"), Unit("bc", 1, 3, "word")]
    >>> by_words(np.array([[0.2, 0.3, 0.5], [0.4, 0.6, 0.0], [0.0, 0.5, 0.5]]), units).round(3).tolist()
    [[0.2, 0.8], [0.2, 0.8]]
    """
    starts = [unit.first for unit in units]
    sums = np.add.reduceat(weights, starts, axis=-1)  # (..., T, U)
    sizes = np.array([unit.end - unit.first for unit in units])
    means: Array = np.add.reduceat(sums, starts, axis=-2) / sizes[:, None]  # (..., U, U)
    return means


def rollout(attentions: Sequence[Array]) -> Array:
    """Follow attention through the layers: the product of each layer's mean over heads, half of it the residual path.

    Abnar and Zuidema 2020, section 3. It knows nothing of values, norms and feed-forward parts.

    Args:
        attentions: (H, T, T) for each layer, the first one first; at least one.

    Returns:
        (T, T): how much of each token's last vector comes from each input token, rows summing to one.

    >>> rollout([np.array([[[0.0, 1.0], [0.0, 1.0]]])]).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    identity: Array = np.eye(attentions[0].shape[-1])
    result = identity
    for weights in attentions:
        result = (0.5 * weights.mean(axis=0) + 0.5 * identity) @ result
    return result


def entropies(weights: Array) -> Array:
    """Return the entropy of each row, in nats: (..., T, S) to (..., T).

    >>> entropies(np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])).round(4).tolist()
    [0.6931, 0.0]
    """
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    result: Array = -(weights * logs).sum(axis=-1) + 0.0
    return result


def head_profiles(trace: Trace) -> list[HeadProfile]:
    """Say of every head of every layer how widely its words look, and where."""
    units = trace.units
    words = [number for number, unit in enumerate(units) if unit.kind == "word"] or list(range(len(units)))
    tokens = np.concatenate([np.arange(units[number].first, units[number].end) for number in words])
    groups = _groups(units, words)
    sizes = np.array([unit.end - unit.first for unit in units]) / len(trace.tokens)
    even = np.array([np.where(groups == look, sizes, 0).sum(axis=1).mean() for look in range(len(LOOKS))])
    profiles = []
    for layer, steps in enumerate(trace.layers, start=1):
        entropy = entropies(steps.attention.weights[:, tokens]).mean(axis=-1)  # (H,)
        weights = by_words(steps.attention.weights, units)[:, words]  # (H, words, U)
        for head in range(trace.num_heads):
            shares = [np.where(groups == look, weights[head], 0).sum(axis=1).mean() for look in range(len(LOOKS))]
            excess = np.array(shares) - even
            looks_at = LOOKS[int(excess.argmax())] if excess.max() >= BROAD else "broadly"
            evenness = entropy[head] / np.log(len(trace.tokens))
            profiles.append(
                HeadProfile(layer, head + 1, float(entropy[head]), float(evenness), tuple(map(float, shares)), looks_at)
            )
    return profiles


def _groups(units: Sequence[Unit], asking: Sequence[int]) -> NDArray[np.int64]:
    """Return which of LOOKS each unit is to each unit that asks, (asking, U)."""
    words = [number for number, unit in enumerate(units) if unit.kind == "word"]
    forms = [word_form(unit.text) if unit.kind == "word" else None for unit in units]
    groups = np.full((len(asking), len(units)), LOOKS.index("elsewhere"))
    for row, own in enumerate(asking):
        for there, form in enumerate(forms):
            if form is None:
                groups[row, there] = LOOKS.index("delimiter")
            elif form == forms[own]:
                groups[row, there] = LOOKS.index("same word")
        near = {"previous": [n for n in words if n < own][-1:], "next": [n for n in words if n > own][:1]}
        for name, places in near.items():
            for there in places:
                if forms[there] != forms[own]:
                    groups[row, there] = LOOKS.index(name)
        groups[row, own] = LOOKS.index("itself")
    return groups


def layer_vectors(trace: Trace, unit: int) -> Array:
    """Return the vector of a unit in every layer, (L + 1, D): the mean of its tokens, as embedding does it."""
    rows, first, end = torch.tensor([0]), trace.units[unit].first, trace.units[unit].end
    pooled = [
        pool_spans(torch.from_numpy(states)[None], rows, torch.tensor([first]), torch.tensor([end]))
        for states in trace.hidden_states
    ]
    result: Array = torch.cat(pooled).numpy()
    return result


def cosines(first: Array, second: Array) -> Array:
    """Return the cosine of each pair of rows, (N, D) and (N, D) to (N,)."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    result: Array = (first * second).sum(axis=-1) / lengths
    return result


def leaving_the_static(vectors: Array) -> Array:
    """Return the cosine of a word's vector in each layer, (L + 1, D), with that in the embedding layer."""
    return cosines(vectors, np.broadcast_to(vectors[:1], vectors.shape))
