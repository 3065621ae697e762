"""A word compared across contexts: how alike its uses are, in context and by static lookup. N uses, D width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ctxembed.calibration import Calibration
from ctxembed.errors import InvalidInputError
from ctxembed.meaning.occlusion import Influence, Swap
from ctxembed.meaning.sense_folder import NearSense
from ctxembed.meaning.usages import Background, Neighbour
from ctxembed.types import Usage, UsageEncoder, Vectors


@runtime_checkable
class WordNeighbours(Protocol):
    """Static vectors that know the words nearest to a word."""

    def __contains__(self, word: object) -> bool: ...

    def nearest(self, word: str, *, k: int = 10) -> list[tuple[str, float]]:
        """Return k words with their cosines, best first."""
        ...


@dataclass(frozen=True)
class Comparison:
    """N uses set against each other."""

    usages: tuple[Usage, ...]
    contextual: Vectors
    """float32 (N, N), cosine similarity in context, in [-1, 1]."""
    static: Vectors | None
    """float32 (N, N), cosine of the static vectors, NaN where a word is unknown. None if not asked for."""
    nearest: tuple[tuple[Neighbour, ...], ...]
    """For each use the background words used most like it; empty without a background."""
    vectors: Vectors
    """float32 (N, D), what the contextual similarities are made of."""
    static_vectors: Vectors | None = None
    """float32 (N, D'), what the static similarities are made of."""
    nearest_static: tuple[tuple[tuple[str, float], ...], ...] = ()
    """For each use the words nearest to its word by static lookup, with their cosines; empty without a background."""


@dataclass(frozen=True)
class LayerSimilarities:
    """What one layer makes of N uses."""

    layer: int
    similarities: Vectors
    """float32 (N, N), cosines in [-1, 1]; not on one scale with those of other layers."""
    calibration: Calibration | None = None
    """The layer's own scale, on which layers can be compared."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that was found out about some uses: what tables, JSON and the page are made from."""

    comparison: Comparison
    model: str
    """Name of the encoder."""
    static_model: str | None = None
    """Name of the static vectors."""
    background: str | None = None
    """Where the nearest words come from."""
    calibration: Calibration | None = None
    static_calibration: Calibration | None = None
    why: tuple[tuple[Influence, ...], ...] = ()
    """For each use its context words, most influential first; empty if that was not asked for."""
    swaps: tuple[Swap, ...] = ()
    layers: tuple[LayerSimilarities, ...] = ()
    senses: tuple[NearSense | None, ...] = ()
    """For each use the stored sense it is nearest to, None for a word without; empty if none were asked for."""


def compare_usages(
    usages: Sequence[Usage],
    *,
    encoder: UsageEncoder,
    static: UsageEncoder | None = None,
    background: Background | None = None,
    k: int = 5,
    layer: int | None = None,
) -> Comparison:
    """Compare uses of words, of one word or of several.

    Args:
        usages: At least one.
        encoder: Gives the vectors in context.
        static: Gives the vectors without context, for the matrix beside it.
        background: Where the nearest words come from.
        k: How many nearest words.
        layer: The encoder's layer; its own choice by default.

    Raises:
        InvalidInputError: Without any use, or for a use of which the encoder sees no token.
    """
    if not usages:
        raise InvalidInputError('there is nothing to compare: give a use such as "the [bank] of the river"')
    vectors = encoder.encode_usages(usages, layer=layer)
    for usage, vector in zip(usages, vectors, strict=True):
        if not vector.any():
            raise InvalidInputError(
                f"{encoder.name} sees nothing in {usage.word!r}: mark a word made of letters or digits"
            )
    words = [usage.word for usage in usages]
    nearest = background.nearest(vectors, words=words, k=k) if background is not None else []
    lookup = static if background is not None and isinstance(static, WordNeighbours) else None
    static_vectors = None if static is None else static.encode_usages(usages)
    return Comparison(
        usages=tuple(usages),
        contextual=similarities(vectors),
        static=None if static_vectors is None else similarities(static_vectors),
        nearest=tuple(map(tuple, nearest)),
        vectors=vectors,
        static_vectors=static_vectors,
        nearest_static=() if lookup is None else tuple(_lookup_nearest(lookup, word, k) for word in words),
    )


def layer_similarities(
    usages: Sequence[Usage], *, encoder: UsageEncoder, layers: Sequence[int]
) -> list[LayerSimilarities]:
    """Compare uses in each of several layers, 0 being the embedding, where no context has been seen yet."""
    return [LayerSimilarities(layer, similarities(encoder.encode_usages(usages, layer=layer))) for layer in layers]


def parting_layer(layers: Sequence[LayerSimilarities]) -> int | None:
    """Return the layer in which uses part, the first of equals; None without calibrated layers or for one use alone.

    Three or more uses part where the probabilities of their pairs differ most, two where theirs is the lowest.
    """
    best: tuple[float, int] | None = None
    for view in layers:
        places = pairs(len(view.similarities))
        if view.calibration is None or not places:
            return None
        chances = view.calibration.probability([view.similarities[place] for place in places])
        parted = float(np.ptp(chances)) if len(places) > 1 else -float(chances[0])
        if best is None or parted > best[0]:
            best = parted, view.layer
    return None if best is None else best[1]


def similarities(vectors: Vectors) -> Vectors:
    """Return the cosine similarities (N, N) of unit vectors (N, D); NaN for a zero vector, which stands for nothing.

    >>> similarities(np.array([[1, 0], [0.6, 0.8], [0, 0]], dtype=np.float32)).round(2).tolist()
    [[1.0, 0.6000000238418579, nan], [0.6000000238418579, 1.0, nan], [nan, nan, nan]]
    """
    products: Vectors = np.clip(vectors @ vectors.T, -1.0, 1.0).astype(np.float32)
    unknown = ~vectors.any(axis=1)
    products[unknown, :] = np.nan
    products[:, unknown] = np.nan
    return products


def letter(number: int) -> str:
    """Name uses A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def marked(usage: Usage) -> str:
    """Write a use with its word in brackets."""
    return f"{usage.text[: usage.start]}[{usage.word}]{usage.text[usage.end :]}"


def scale_note(found: Findings) -> str:
    """Say in a line what the scale rests on, and for two uses what it says."""
    scale, contextual = found.calibration, found.comparison.contextual
    if scale is None:
        return ""
    pair = ""
    if len(contextual) == 2 and scale.quantiles:
        percentile = float(scale.percentile(contextual[0, 1]))
        pair = f"more alike than {percentile:.2f} % of random pairs of uses in {found.background}; "
    if scale.threshold is None:
        return f"{pair}similarity tells nothing about the sense on {scale.fitted_on}: every pair has the base rate"
    return (
        f"{pair}the same sense is likelier than not from a similarity of {scale.threshold:.2f} on ({scale.fitted_on})"
    )


def pairs(number: int) -> list[tuple[int, int]]:
    """Return the pairs of so many uses, the first one's first."""
    return [(i, j) for i in range(number) for j in range(i + 1, number)]


def _lookup_nearest(static: WordNeighbours, word: str, k: int) -> tuple[tuple[str, float], ...]:
    return tuple(static.nearest(word, k=k)) if word in static else ()
