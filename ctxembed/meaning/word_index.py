"""An index of word occurrences: each use of each chosen word is a row with its vector in its sentence.

It is an index folder as every other, whose rows are words: the text of a sentence stands there once. What is added here
is the building from a choice of words (``word_choice``), the search from a use, and the uses of a word.
Letters: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.changes import build_folder, normalised
from ctxembed.index.folder import IndexFolder, check_encoder
from ctxembed.index.generations import claim
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import BUILDING, IndexManifest
from ctxembed.index.updates import Additions, add_documents
from ctxembed.meaning.inflections import inflected_forms
from ctxembed.meaning.occurrences import Occurrence, known_uses
from ctxembed.meaning.word_choice import AddedWords, CountedWords, word_options
from ctxembed.runtime import existing
from ctxembed.store import OnDuplicate
from ctxembed.text import word_form
from ctxembed.types import Document, Hit, Usage, UsageEncoder, Vectors
from ctxembed.units import EmbedCounts, embed_corpus

UNITS = ("word", "content-word")
_PART_ROWS = 65_536


def build_word_index(
    documents: Iterable[Document],
    counted: CountedWords,
    *,
    encoder: UsageEncoder,
    path: str | Path,
    layer: int | None = None,
    options: IndexOptions | None = None,
    on_duplicate: OnDuplicate = "error",
    overwrite: bool = False,
    resume: bool = False,
    counts: EmbedCounts | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> IndexManifest:
    """Encode every chosen use and make an index of them.

    Args:
        documents: Sentences, the same that were counted.
        counted: Which words of them.
        encoder: What makes the vectors.
        path: The folder.
        layer: Where vectors are read; the encoder's choice by default.
        options: Which kind of index, and how good; compressed by default (``word_options``).
        on_duplicate: Refuse an id of a sentence that occurs twice, or keep its first.
        overwrite: Replace the index, or discard the unfinished build, that the folder holds.
        resume: Continue an unfinished build.
        counts: Told what was met.
        on_progress: Called with the number of sentences done since its last call.

    Raises:
        InvalidInputError: If the folder is taken, or an id occurs twice.
        ArtifactError: If the build to be resumed had another model, other words or other documents.
    """
    path = claim(path, overwrite=overwrite, resume=resume)
    folder = embed_corpus(
        documents,
        encoder=encoder,
        path=path / BUILDING,
        unit="word",
        layer=layer,
        resume=resume,
        counts=counts,
        selection=counted,
        on_progress=on_progress,
        part_rows=_PART_ROWS,
        dtype="float16",
    )
    return build_folder(
        folder.iter_parts(),
        path,
        folder.settings,
        dimension=folder.dimension,
        options=word_options(options or IndexOptions(), rows=len(folder)),
        on_duplicate=on_duplicate,
    )


class IndexedUses(NamedTuple):
    """Uses of a word in an index."""

    occurrences: list[Occurrence]
    vectors: Vectors
    """float32 (N, D), L2-normalised, none of them zero."""
    total: int
    """All uses that are in the index."""
    num_zero: int
    """Of those that were looked at, how many are left out: they have no vector."""


def add_sentences(path: str | Path, documents: Iterable[Document], *, encoder: UsageEncoder, **how: Any) -> Additions:
    """Add sentences to an index that ``build_word_index`` made: the words that its build would have chosen become rows.

    Args:
        path: The index.
        documents: Sentences, as those of the build; read once.
        encoder: The model that made it.
        how: More arguments of ``index.updates.add_documents``.

    Raises:
        InvalidInputError: If the index holds no chosen words, or they were chosen by frequency; else see
            ``add_documents``.
        ArtifactError: See ``add_documents``.
    """
    path = existing(path)
    record = IndexManifest.read(path).settings.get("words")
    if record is None:
        raise InvalidInputError(f"{path} holds no chosen words: add documents to it, or build it with --unit word")
    return add_documents(path, documents, encoder=encoder, selection=AddedWords.of(record), **how)


class WordIndex:
    """Searches an index of word occurrences."""

    def __init__(self, folder: IndexFolder, encoder: UsageEncoder | None) -> None:
        self.folder = folder
        self._encoder = encoder

    @classmethod
    def open(cls, path: str | Path, *, encoder: UsageEncoder | None = None) -> Self:
        """Open an index.

        Raises:
            MissingInputError: If there is none.
            InvalidInputError: If its rows are no words.
            ArtifactError: If it is damaged, or was made with another model.
        """
        folder = IndexFolder.open(path)
        try:
            _check_words(folder, encoder)
        except (InvalidInputError, ArtifactError):
            folder.close()
            raise
        return cls(folder, encoder)

    @property
    def layer(self) -> Any:
        """The layer that the vectors come from, a list of several; None for the encoder's own choice."""
        return self.folder.manifest.settings.get("layer")

    def encode(self, usage: Usage) -> Vectors:
        """Return the vector of a use, (D,), made as those of the index.

        Raises:
            InvalidInputError: If the index was opened without a model, or the model sees nothing in the word.
        """
        if self._encoder is None:
            raise InvalidInputError("the index was opened without a model: give the one that made it")
        vector: Vectors = self._encoder.encode_usages([usage], layer=self.layer)[0]
        check(bool(vector.any()), f"{self._encoder.name} sees nothing in {usage.word!r}: mark a word made of letters")
        return vector

    def search(
        self,
        vector: Vectors,
        *,
        k: int,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        where: str | None = None,
        skip: int = 0,
    ) -> list[Hit]:
        """Find the uses nearest to a vector.

        Args:
            vector: (D,), of a use (``encode``) or the centre of a sense.
            k: Uses wanted, at least 1.
            only: Lookup forms: no other words are found.
            without: Lookup forms that are not found.
            where: A condition on metadata.
            skip: Leave out so many of the best: the pages before.

        Returns:
            Hits, best first; the score is the cosine similarity.

        Raises:
            InvalidInputError: If k or the condition cannot be, or no form of ``only`` is in the index.
        """
        check(k >= 1, f"k is {k}, need at least 1: ask for one use or more")
        numbers = self._numbers(only, where)
        if numbers is not None and not len(numbers):
            return []
        total = len(self.folder) if numbers is None else len(numbers)
        wanted, excluded = skip + k, set(without)
        asked = min(total, wanted if not excluded else 4 * wanted + 64)
        while True:
            scores, ids = self.folder.search(normalised(vector[None, :]), asked, numbers=numbers)
            hits = self._hits(scores[0], ids[0])
            kept = [hit for hit in hits if not excluded or word_form(_word(hit)) not in excluded]
            if len(kept) >= wanted or len(ids[0]) < asked or asked >= total:
                return kept[skip:wanted]
            asked = min(total, asked * 4)

    def neighbours(
        self, vector: Vectors, *, k: int, without: Sequence[str] = (), where: str | None = None
    ) -> list[Hit]:
        """Find the k words that are used most like a vector, each at its nearest use, best first."""
        check(k >= 1, f"k is {k}, need at least 1: ask for one word or more")
        asked = 16 * k
        while True:
            hits = self.search(vector, k=asked, without=without, where=where)
            best: dict[str, Hit] = {}
            for hit in hits:
                best.setdefault(word_form(_word(hit)), hit)
            if len(best) >= k or len(hits) < asked:
                return list(best.values())[:k]
            asked *= 4

    def uses(self, word: str, *, inflections: bool = False, most: int | None = None, seed: int = 1) -> IndexedUses:
        """Return the uses of a word with their vectors.

        Args:
            word: A lookup form.
            inflections: Whether its inflected forms count as it.
            most: Take a sample of so many, by seed.
            seed: Decides the sample.

        Raises:
            InvalidInputError: If the word is not in the index.
        """
        numbers = self._numbers_of(inflected_forms(word) if inflections else [word])
        total = len(numbers)
        if most is not None and total > most:
            numbers = np.sort(np.random.default_rng(seed).permutation(numbers)[:most])
        rows = [stored.row for stored in self.folder.store.get(numbers)]
        occurrences = [
            Occurrence(row.id, Usage(row.text, row.start or 0, row.end or 0), word, "", row.metadata) for row in rows
        ]
        kept, vectors = known_uses(occurrences, normalised(self.folder.take(numbers)))
        return IndexedUses(kept, vectors, total, len(occurrences) - len(kept))

    def close(self) -> None:
        """Release the files."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _numbers(self, only: Sequence[str], where: str | None) -> NDArray[np.int64] | None:
        """Return the rows that may be found, ascending; None is all."""
        parts = [self._numbers_of(only)] if only else []
        if where:
            parts.append(self.folder.matching(where))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else np.intersect1d(parts[0], parts[1], assume_unique=True)

    def _numbers_of(self, forms: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of some words, ascending; at least one."""
        quoted = ", ".join("'" + form.replace("'", "''") + "'" for form in forms)
        numbers = self.folder.matching(f"word in ({quoted})")
        if not len(numbers):
            names = " or ".join(map(repr, forms))
            raise InvalidInputError(f"the word {names} is not in {self.folder.path}: words are matched in any case")
        return numbers

    def _hits(self, scores: Vectors, ids: NDArray[np.int64]) -> list[Hit]:
        rows = (stored.row for stored in self.folder.store.get(ids))
        return [
            Hit(row.id, float(min(max(score, -1.0), 1.0)), row.text, row.metadata, row.start, row.end)
            for row, score in zip(rows, scores, strict=True)
        ]


def _check_words(folder: IndexFolder, encoder: UsageEncoder | None) -> None:
    path, unit = folder.path, folder.manifest.unit
    check(unit in UNITS, f"{path} holds rows of unit {unit!r}, need words: `index build --unit word` makes them")
    if encoder is not None:
        check_encoder(folder, encoder)


def _word(hit: Hit) -> str:
    return hit.text[hit.start : hit.end]
