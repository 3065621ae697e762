"""Vectors of character n-grams, from which a word that was never seen gets a vector (Bojanowski et al. 2017).

Letters: B buckets that n-grams are hashed into, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check


@dataclass(frozen=True, slots=True)
class Subwords:
    """The vectors of hashed n-grams, as gensim's FastText and the fastText library number them."""

    vectors: NDArray[Any]
    """float16 or float32 (B, D)."""
    min_n: int
    """Shortest n-gram, in characters, word borders included."""
    max_n: int
    """Longest n-gram."""

    def __post_init__(self) -> None:
        check(self.vectors.ndim == 2 and len(self.vectors) > 0, "subword vectors need a shape (B, D)")
        check(1 <= self.min_n <= self.max_n, f"n-grams of {self.min_n} to {self.max_n} characters: need 1 or more")

    def vector(self, form: str) -> NDArray[np.float64] | None:
        """Return the mean vector of a word's n-grams, (D,); None for a word too short to have any."""
        from gensim.models.fasttext import ft_ngram_hashes

        buckets = ft_ngram_hashes(form, self.min_n, self.max_n, len(self.vectors))
        return np.asarray(self.vectors[buckets].astype(np.float64).mean(axis=0)) if len(buckets) else None
