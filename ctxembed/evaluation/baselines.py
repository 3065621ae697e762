"""Systems that know nothing of meaning, and one that knows only words: what a figure has to be set against.

A constant and a random scorer must come out at chance on every task; a length-only scorer shows how much of a data set
can be had by counting words. BM25 ranks documents by the words they share with a query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.runtime import sha256_text
from ctxembed.text import word_form, word_forms
from ctxembed.types import Usage, Vectors

Baseline: TypeAlias = Literal["constant", "random", "length"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
_RANDOM_WIDTH = 32


@dataclass(frozen=True, slots=True)
class BaselineEncoder:
    """A TextEncoder and a UsageEncoder whose vectors are all one, random, or say only how many words a text has."""

    name: Baseline
    seed: int = 1
    """Decides the vectors of "random"."""

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return _RANDOM_WIDTH if self.name == "random" else 2

    @property
    def fingerprint(self) -> str:
        """A sha256 over the name, and the seed where it matters."""
        return sha256_text("baseline", self.name, str(self.seed) if self.name == "random" else "")

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised; an empty text is a zero row."""
        return self._vectors(texts, has_words=[bool(text.strip()) for text in texts])

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised; the length is that of the whole text."""
        if self.name == "random":
            return self._vectors([f"{usage.start} {usage.end} {usage.text}" for usage in usages])
        return self._vectors([usage.text for usage in usages])

    def _vectors(self, texts: Sequence[str], *, has_words: Sequence[bool] | None = None) -> Vectors:
        if self.name == "random":
            vectors = np.array([self._direction(text) for text in texts], np.float32).reshape(-1, _RANDOM_WIDTH)
        else:
            # Lengths on a quarter of a circle: the cosine falls as lengths differ, by their ratio where they are large.
            numbers = np.array([len(text.split()) if self.name == "length" else 0 for text in texts], np.float64)
            angles = np.pi / 2 * numbers / (numbers + 20)
            vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        if has_words is not None:
            vectors[~np.asarray(has_words, dtype=np.bool_)] = 0
        return vectors

    def _direction(self, text: str) -> NDArray[np.float64]:
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        values = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(_RANDOM_WIDTH)
        return np.asarray(values / np.linalg.norm(values))


@dataclass(frozen=True, slots=True)
class BM25Baseline:
    """BM25 as the library bm25s computes it (Lucene's form, Robertson et al. 1994), over our own words.

    They are not stemmed, and those of the library's longer list of English stop words are left out.

    Apart from the search command's own keyword ranking, so that neither can hide a fault of the other.
    """

    k1: float = 1.5
    b: float = 0.75

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        return "bm25 (bm25s)"

    @property
    def fingerprint(self) -> str:
        """A sha256 over the parameters."""
        return sha256_text("bm25s lucene stopwords", str(self.k1), str(self.b))

    def scorer(self, documents: Sequence[str]) -> Callable[[str], NDArray[np.float64]]:
        """Index the documents.

        Args:
            documents: N texts, at least one.

        Returns:
            A function from a query to its score of each document, (N,); 0 where no word is shared.
        """
        import bm25s
        from bm25s.stopwords import STOPWORDS_EN_PLUS

        left_out, numbers = {word_form(word) for word in STOPWORDS_EN_PLUS}, dict[str, int]()
        forms = [[form for form in word_forms(text) if form not in left_out] for text in documents]
        ids = [[numbers.setdefault(form, len(numbers)) for form in each] for each in forms]
        if not numbers:
            return lambda query: np.zeros(len(documents))
        index: Any = bm25s.BM25(k1=self.k1, b=self.b, dtype="float64")
        index.index((ids, numbers), create_empty_token=False, show_progress=False)

        def score(query: str) -> NDArray[np.float64]:
            known = [numbers[form] for form in word_forms(query) if form in numbers]
            if not known:
                return np.zeros(len(documents))
            return np.asarray(index.get_scores_from_ids(known), dtype=np.float64)

        return score
