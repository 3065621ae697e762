"""A word compared across contexts: how alike its uses are, in context and by static lookup. N uses, D width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxembed.errors import InvalidInputError
from ctxembed.meaning.usages import Background, Neighbour
from ctxembed.types import Usage, UsageEncoder, Vectors


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
    nearest = background.nearest(vectors, words=[u.word for u in usages], k=k) if background is not None else []
    return Comparison(
        usages=tuple(usages),
        contextual=similarities(vectors),
        static=None if static is None else similarities(static.encode_usages(usages)),
        nearest=tuple(map(tuple, nearest)),
    )


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
