"""A background of word occurrences: every content word of a corpus, in its context, with its vector.

It is computed once for a model and a corpus and kept in the cache folder; another model, layer or
corpus has another key, so a stale one is never read. Where the cache cannot be written it is computed
each time. Letters: N queries, M occurrences, D width.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_directory, cache_directory, sha256_text
from ctxembed.text import word_form
from ctxembed.types import Document, UsageEncoder, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vectors import VectorFolder

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word that is used like another: its form, the cosine similarity in [-1, 1], and where it stands."""

    word: str
    similarity: float
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Background:
    """M occurrences of content words."""

    texts: list[str]
    places: NDArray[np.int64]
    """(M, 3): number of the text, first character, one past the last."""
    forms: list[str]
    """The lookup form of each of the M."""
    vectors: Vectors
    """float32 (M, D), L2-normalised."""

    def __len__(self) -> int:
        return len(self.forms)

    @classmethod
    def load(
        cls,
        documents: Iterable[Document],
        *,
        encoder: UsageEncoder,
        layer: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Background:
        """Read the background from the cache, or compute it and keep it there if the cache can be written.

        Args:
            documents: The corpus, restartable; it is read once for its key and again if it must be computed.
            encoder: What makes the vectors.
            layer: Where they are read; the encoder's choice by default.
            on_progress: Called with the number of documents done since its last call.
        """
        key = sha256_text(encoder.fingerprint, str(layer), *(document.text for document in documents))
        path = cache_directory() / "background" / key[:32]
        compute = functools.partial(
            embed_corpus, documents, encoder=encoder, unit="content-word", layer=layer, on_progress=on_progress
        )
        folder = _kept(path)
        if folder is None:
            folder = _keep(path, compute)
        if folder is not None:
            return cls.from_folder(folder)
        with tempfile.TemporaryDirectory() as temporary:
            background = cls.from_folder(compute(path=temporary))
            return replace(background, vectors=np.array(background.vectors))  # the file itself will be gone

    @classmethod
    def from_folder(cls, folder: VectorFolder) -> Background:
        """Take a folder of word vectors (``embed --unit content-word``)."""
        texts: dict[str, int] = {}
        places: list[tuple[int, int, int]] = []
        forms: list[str] = []
        for row in folder.rows():
            if row.start is None or row.end is None:
                raise InvalidInputError(f"row {row.id} stands for a whole text: a background needs --unit content-word")
            places.append((texts.setdefault(row.text, len(texts)), row.start, row.end))
            forms.append(word_form(row.text[row.start : row.end]))
        table = np.array(places, dtype=np.int64).reshape(-1, 3)
        return cls(list(texts), table, forms, folder.vectors())

    def nearest(self, vectors: Vectors, *, words: Sequence[str], k: int) -> list[list[Neighbour]]:
        """Find the words whose use is most like each of some uses.

        Args:
            vectors: float32 (N, D), L2-normalised.
            words: The word of each use, (N,): its own form is left out.
            k: Words wanted for each, at least 1.

        Returns:
            N lists of at most k words, best first, each at its nearest occurrence.
        """
        results = []
        for vector, word in zip(vectors, words, strict=True):
            similarities = self.vectors @ vector  # (M,)
            best: dict[str, Neighbour] = {}
            own = word_form(word)
            for number in np.argsort(-similarities, kind="stable"):
                form = self.forms[number]
                if form != own and form not in best:
                    text, start, end = self.places[number].tolist()
                    best[form] = Neighbour(form, float(similarities[number]), self.texts[text], start, end)
                    if len(best) == k:
                        break
            results.append(list(best.values()))
        return results


def _kept(path: Path) -> VectorFolder | None:
    """Open a folder of the cache; None if it is not there or not whole, which is only worth computing again."""
    try:
        return VectorFolder.open(path)
    except (ArtifactError, OSError):  # a missing file is an OSError too
        return None


def _keep(path: Path, compute: Callable[..., VectorFolder]) -> VectorFolder | None:
    """Compute a folder of the cache and open it, or the one of a faster process; None if it cannot be written."""
    try:
        with atomic_directory(path) as staging:
            compute(path=staging)
            if _kept(path) is not None:  # replacing it would take it from under whoever made it
                raise FileExistsError(f"{path} was made by another process meanwhile")
    except OSError as error:
        if (folder := _kept(path)) is None:
            _LOGGER.warning("the background is not kept, the cache cannot be written: %s", error)
        return folder
    return _kept(path)
