"""Search by meaning: an encoder, an index of vectors and the rows behind them, in one folder.

How the folder changes is the matter of ``index.changes``. While a build runs, its vectors lie in ``.building`` inside
the folder, so that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.fulltext import query_words
from ctxembed.index import Ids
from ctxembed.index.changes import build_folder, normalised
from ctxembed.index.folder import IndexFolder, check_encoder
from ctxembed.index.generations import claim
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import BUILDING, IndexManifest
from ctxembed.retrieval.candidates import Query
from ctxembed.retrieval.engine import Retriever
from ctxembed.retrieval.late_interaction import usage_encoder
from ctxembed.retrieval.options import SearchOptions
from ctxembed.store import OnDuplicate
from ctxembed.types import Document, Hit, TextEncoder, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vectors import Row, checked_vectors

PART_ROWS = 16_384
"""Rows of an interrupted build that are lost at most, beside the batch in progress."""


class SemanticSearch:
    """Finds the rows whose vectors are nearest to a query's."""

    def __init__(self, folder: IndexFolder, *, encoder: TextEncoder | None) -> None:
        self.folder = folder
        """Rows and vectors, one generation of them."""
        self._encoder = encoder

    @property
    def manifest(self) -> IndexManifest:
        """What the index holds, and who made it."""
        return self.folder.manifest

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        encoder: TextEncoder,
        path: str | Path,
        on_duplicate: OnDuplicate = "error",
        overwrite: bool = False,
        resume: bool = False,
        batch_size: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        options: IndexOptions | None = None,
    ) -> Self:
        """Embed documents and make an index of them.

        Args:
            documents: One row each; a document with an empty text is kept with a zero vector and counted.
            encoder: What turns texts into vectors.
            path: The folder of the index; made if needed.
            on_duplicate: Refuse an id that occurs twice, or keep its first row and count the others.
            overwrite: Replace the index, or discard the unfinished build, that the folder holds.
            resume: Continue the unfinished build that the folder holds, from the same documents; an index beside it
                is replaced when the build is done.
            batch_size: Documents encoded at a time.
            on_progress: Called with the number of documents done since its last call; with those of the
                interrupted build first.
            options: Which kind of index, and how good.

        Raises:
            InvalidInputError: If the folder is taken, an id occurs twice, or a document cannot be stored.
            ArtifactError: If the build to be resumed had another model or other documents.
        """
        path = claim(path, overwrite=overwrite, resume=resume)
        folder = embed_corpus(
            documents,
            encoder=encoder,
            path=path / BUILDING,
            resume=resume,
            batch_size=batch_size,
            on_progress=on_progress,
            part_rows=PART_ROWS,
        )
        build_folder(
            folder.iter_parts(),
            path,
            folder.settings,
            dimension=folder.dimension,
            options=options or IndexOptions(),
            on_duplicate=on_duplicate,
        )
        return cls.open(path, encoder=encoder)

    @classmethod
    def build_from_vectors(
        cls,
        parts: Iterable[tuple[Sequence[Row], NDArray[Any]]],
        *,
        settings: Mapping[str, Any],
        dimension: int,
        path: str | Path,
        on_duplicate: OnDuplicate = "error",
        overwrite: bool = False,
        options: IndexOptions | None = None,
    ) -> Self:
        """Make an index of vectors that are there already.

        Args:
            parts: Rows with their vectors, floats (N, D) of any length: they are normalised, a zero vector stays zero.
            settings: Those of a VectorFolder (``model``, ``fingerprint``, ``unit`` are read), or empty: origin unknown.
            dimension: The width D of every vector.
            path: The folder of the index; made if needed.
            on_duplicate: Refuse an id that occurs twice, or keep its first row and count the others.
            overwrite: Replace the index, or discard the unfinished build, that the folder holds.
            options: Which kind of index, and how good.

        Raises:
            InvalidInputError: If the folder is taken, an id occurs twice, or a vector or row cannot be stored.
        """
        path = claim(path, overwrite=overwrite, resume=False)
        build_folder(
            parts,
            path,
            settings,
            dimension=dimension,
            options=options or IndexOptions(),
            on_duplicate=on_duplicate,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, *, encoder: TextEncoder | None = None, verify: bool = False) -> Self:
        """Open an index.

        Args:
            path: The folder.
            encoder: The model that made it, needed to search by text.
            verify: Compare the sha256 of every file; without it, only of small ones, and the sizes of all.

        Raises:
            MissingInputError: If there is no index.
            ArtifactError: If it is damaged, or was made with another model.
        """
        folder = IndexFolder.open(path, verify=verify)
        try:
            if encoder is not None:
                check_encoder(folder, encoder)
        except ArtifactError:
            folder.close()
            raise
        return cls(folder, encoder=encoder)

    def __len__(self) -> int:
        return self.manifest.rows

    def numbers(self) -> Ids:
        """Return the number of every row, int64 (N,), in the order of the index."""
        return self.folder.numbers()

    def vectors(self, numbers: Ids) -> Vectors:
        """Return the vectors of rows, float32 (N, D), L2-normalised, in the order given."""
        return self.folder.take(numbers)

    def rows(self, numbers: Ids) -> list[Row]:
        """Return rows by number, in the order given."""
        return [stored.row for stored in self.folder.store.get(numbers)]

    def search(self, query: str, *, k: int = 10, **options: Any) -> list[Hit]:
        """Find the rows that answer a text best; all of them, if there are fewer than k.

        Args:
            query: The text.
            k: Hits wanted, at least 1.
            options: Fields of ``SearchOptions``: ``mode="hybrid"``, ``where="year >= 1990"``, ``rerank=50`` and so on.

        Returns:
            Hits, best first, equal scores in the order of the build; the score is the cosine similarity, unless the
            options ask for another ranking. Which of several rows that tie for the last place are among them is up
            to FAISS.

        Raises:
            InvalidInputError: If the query is empty or means nothing to the model, an option cannot be used, there is
                no model, or the rows are words or tokens, which a whole text cannot be ranked against.
        """
        return self.search_many([query], k=k, **options)[0]

    def search_many(self, queries: Sequence[str], *, k: int = 10, **options: Any) -> list[list[Hit]]:
        """Find the rows that answer each of several texts best, faster than one after the other.

        Args:
            queries: N texts.
            k: See ``search``.
            options: See ``search``.

        Returns:
            N lists of hits.

        Raises:
            InvalidInputError: See ``search``.
        """
        settings = SearchOptions(k=k, **options)
        for query in queries:
            if not query.strip():
                raise InvalidInputError("the query is empty: give at least one word")
        self._check_searched_by_text(settings)
        vectors = self._query_vectors(queries, settings) if settings.needs_vector else None
        if settings.mode == "lexical":
            for query in queries:
                if not query_words(query):
                    raise InvalidInputError(f"the query {query!r} has no word to look for: use letters or digits")
        found = [Query(text, None if vectors is None else vectors[n]) for n, text in enumerate(queries)]
        return self._run(found, settings)

    def search_like(self, id: str, *, k: int = 10, **options: Any) -> list[Hit]:  # noqa: A002
        """Find the rows most like a row of the index, which is not among the hits.

        Its vector is taken from the index, so that no model is needed unless hits are re-ranked or explained.

        Args:
            id: That of the row.
            k: See ``search``.
            options: See ``search``.

        Raises:
            InvalidInputError: If there is no such row, or it has no vector; else see ``search``.
        """
        settings = SearchOptions(k=k, **options)
        if settings.needs_words or settings.needs_usages:
            self._check_searched_by_text(settings)
        stored = self.folder.store.by_id(id)
        [vector] = self.folder.take(np.array([stored.number], dtype=np.int64))
        if settings.mode == "dense" and not vector.any():
            raise InvalidInputError(f"the row {id!r} has no vector (no word that the model knows): choose another")
        return self._run([Query(stored.row.text, vector, exclude=stored.number)], settings)[0]

    def search_vectors(self, vectors: NDArray[Any], *, k: int = 10, **options: Any) -> list[list[Hit]]:
        """Find the k rows nearest to each of several vectors.

        Args:
            vectors: Floats (N, D) of any length; a zero vector has score 0 with every row.
            k: Hits wanted for each, at least 1.
            options: See ``search``; those that need the text of a query cannot be used.

        Returns:
            N lists of hits, best first.

        Raises:
            InvalidInputError: On a wrong shape, width, value or k.
        """
        settings = SearchOptions(k=k, **options)
        if settings.needs_words or settings.needs_usages:
            raise InvalidInputError("vectors have no words: lexical search, rerank and explain need the query's text")
        queries = normalised(checked_vectors(vectors, dimension=self.folder.dimension, name="the queries"))
        return self._run([Query(None, vector) for vector in queries], settings)

    def _run(self, queries: Sequence[Query], settings: SearchOptions) -> list[list[Hit]]:
        usages = None
        if settings.needs_usages:
            usages = usage_encoder(self._need_encoder())
        return Retriever(self.folder, self.manifest.similarities).run(queries, settings, encoder=usages)

    def _check_searched_by_text(self, settings: SearchOptions) -> None:
        if self.manifest.unit != "sentence":
            raise InvalidInputError(
                f"the index cannot be searched by text, its vectors are of unit {self.manifest.unit!r}: "
                "search with the vector of a word (search_vectors) or like a row (search_like), or set words side by "
                "side with `ctxembed compare`"
            )
        if settings.needs_vector or settings.needs_usages:
            self._need_encoder()

    def _need_encoder(self) -> TextEncoder:
        if self.manifest.model is None:
            raise InvalidInputError(
                "the index cannot be searched by text, the model of its vectors is unknown: "
                "search with a vector of the same origin (search_vectors), by words (mode lexical), or build it again "
                "with a model"
            )
        if self._encoder is None:
            raise InvalidInputError(
                f"the index was opened without a model: open it with {self.manifest.model.name}, which made it"
            )
        return self._encoder

    def _query_vectors(self, queries: Sequence[str], settings: SearchOptions) -> Vectors:
        encoder = self._need_encoder()
        vectors = encoder.encode(list(queries))
        for query, vector in zip(queries, vectors, strict=True):
            if not vector.any() and not (settings.needs_words and query_words(query)):
                raise InvalidInputError(f"the query {query!r} has no word that {encoder.name} knows: use other words")
        return vectors

    def close(self) -> None:
        """Release the files."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
