"""The search command's own rankings as systems of `bench retrieval`: by words, by both, re-ranked."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.fulltext import query_words
from ctxembed.retrieval.options import Mode
from ctxembed.runtime import sha256_text
from ctxembed.search import SemanticSearch
from ctxembed.types import Document, Encoder

RERANKED = 50


@dataclass(frozen=True, slots=True)
class SearchSystem:
    """Ranks documents as `ctxembed search` does; a Ranker."""

    encoder: Encoder
    mode: Mode = "hybrid"
    rerank: int = 0

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        maker = "" if self.mode == "lexical" and not self.rerank else f" {self.encoder.name}"
        return f"{self.mode}{maker}{f', {self.rerank} re-ranked' if self.rerank else ''}"

    @property
    def fingerprint(self) -> str:
        """A sha256 over the model and the way to search."""
        return sha256_text("search", self.encoder.fingerprint, self.mode, str(self.rerank))

    def scorer(self, documents: Sequence[str]) -> Callable[[str], NDArray[np.float64]]:
        """Index the documents in a temporary folder, which lives as long as the function that is returned.

        Args:
            documents: N texts, at least one.

        Returns:
            A function from a query to scores (N,) in the order of the search command: 1 / (1 + place), and for the
            rows that were ranked anew 1 more; 0 for a document that is not found.
        """
        folder = Path(tempfile.mkdtemp(prefix="ctxembed-bench-"))
        rows = (Document(str(number), text) for number, text in enumerate(documents))
        search = SemanticSearch.build(rows, encoder=self.encoder, path=folder / "index")

        def score(query: str) -> NDArray[np.float64]:
            scores = np.zeros(len(documents))
            if not query_words(query):
                return scores
            places = self._places(search, query, k=len(documents), rerank=0)
            scores[places] = 1 / (1.0 + np.arange(len(places)))
            if self.rerank:
                places = self._places(search, query, k=self.rerank, rerank=self.rerank)
                scores[places] = 1 + 1 / (1.0 + np.arange(len(places)))
            return scores

        weakref.finalize(score, _discard, search, folder)
        return score

    def _places(self, search: SemanticSearch, query: str, *, k: int, rerank: int) -> list[int]:
        return [int(hit.id) for hit in search.search(query, k=k, mode=self.mode, rerank=rerank)]


def search_system(text: str, encoder: Encoder) -> SearchSystem:
    """Read what ``--against`` calls a way to search: ``search:lexical``, ``search:hybrid``, ``search:hybrid+rerank``.

    Raises:
        InvalidInputError: If there is no such way.
    """
    mode, plus, extra = text.removeprefix("search:").partition("+")
    if mode not in ("dense", "lexical", "hybrid") or extra != ("rerank" if plus else ""):
        raise InvalidInputError(
            f"{text!r} is no way to search: write search:dense, search:lexical or search:hybrid, with +rerank if wanted"
        )
    return SearchSystem(encoder, mode, RERANKED if plus else 0)  # type: ignore[arg-type]


def _discard(search: SemanticSearch, folder: Path) -> None:
    search.close()
    shutil.rmtree(folder, ignore_errors=True)
