"""How words count in the mean of a sentence: smooth inverse frequency and the common component (Arora et al. 2017).

Letters: V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMOOTHING = 1e-3
"""The paper's a: words rarer than this count nearly fully, more frequent ones less."""
SENTENCE_WORDS = 10
"""Words of the sentence whose common component is estimated."""


def inverse_frequency(counts: ArrayLike, *, smoothing: float = SMOOTHING) -> NDArray[np.float64]:
    """Return a / (a + p) for each word, p being its share of all occurrences.

    Args:
        counts: (V,), occurrences.
        smoothing: a, above 0.

    Returns:
        (V,), in (0, 1].

    >>> inverse_frequency([999, 1]).round(3).tolist()
    [0.001, 0.5]
    """
    occurrences = np.asarray(counts, dtype=np.float64)
    return np.asarray(smoothing / (smoothing + occurrences / max(occurrences.sum(), 1.0)))


def common_component(
    vectors: NDArray[Any], counts: ArrayLike, weights: ArrayLike, *, length: int = SENTENCE_WORDS
) -> NDArray[np.float64]:
    """Return the direction that sentence vectors have most in common.

    Arora et al. take the first singular vector of the sentences at hand, which makes a sentence's vector depend on
    those embedded with it. Here it is that of all sentences of ``length`` words drawn by their frequency, whose second
    moment is known without drawing any: (E[w w'] + (length - 1) E[w] E[w]') / length for weighted word vectors w.

    Args:
        vectors: (V, D).
        counts: (V,), occurrences.
        weights: (V,), what each word counts in a sentence.
        length: Words of a sentence.

    Returns:
        A unit vector (D,); its sign means nothing.
    """
    share = np.asarray(counts, dtype=np.float64)
    share = share / share.sum()
    factors = np.asarray(weights, dtype=np.float64)
    width = vectors.shape[1]
    mean, moment = np.zeros(width), np.zeros((width, width))
    for start in range(0, len(vectors), 16_384):  # a folder's vectors stay on disk
        rows = slice(start, start + 16_384)
        block = vectors[rows].astype(np.float64) * factors[rows, None]
        mean += share[rows] @ block
        moment += (block * share[rows, None]).T @ block
    return np.asarray(np.linalg.eigh((moment + (length - 1) * np.outer(mean, mean)) / length)[1][:, -1])
