"""Search by meaning: an encoder, an index of vectors and the rows behind them, in one folder.

How the folder changes is the matter of ``index_changes``. While a build runs, its vectors lie in ``.building`` inside
the folder, so that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index_changes import build_folder, claim, normalised
from ctxembed.index_folder import IndexFolder
from ctxembed.index_kinds import IndexOptions
from ctxembed.index_manifest import BUILDING, IndexManifest
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

    def search(self, query: str, *, k: int = 10) -> list[Hit]:
        """Find the k rows nearest in meaning to a text; all of them, if there are fewer.

        Returns:
            Hits, best first, equal scores in the order of the build; the score is the cosine similarity. Which of
            several rows that tie for the last place are among them is up to FAISS.

        Raises:
            InvalidInputError: If the query is empty or means nothing to the model, k is below 1, there is no model,
                or the rows are words or tokens, which the vector of a whole text cannot be ranked against.
        """
        if not query.strip():
            raise InvalidInputError("the query is empty: give at least one word")
        if self.manifest.model is None:
            raise InvalidInputError(
                "the index cannot be searched by text, the model of its vectors is unknown: "
                "search with a vector of the same origin (search_vectors), or build it again with a model"
            )
        if self.manifest.unit != "sentence":
            raise InvalidInputError(
                f"the index cannot be searched by text, its vectors are of unit {self.manifest.unit!r}: "
                "search with the vector of a word (search_vectors), or set words side by side with `ctxembed compare`"
            )
        if self._encoder is None:
            raise InvalidInputError(
                f"the index was opened without a model: open it with {self.manifest.model.name}, which made it"
            )
        vectors = self._encoder.encode([query])
        if not vectors.any():
            raise InvalidInputError(f"the query {query!r} has no word that {self._encoder.name} knows: use other words")
        return self.search_vectors(vectors, k=k)[0]

    def search_vectors(self, vectors: NDArray[Any], *, k: int = 10) -> list[list[Hit]]:
        """Find the k rows nearest to each of several vectors.

        Args:
            vectors: Floats (N, D) of any length; a zero vector has score 0 with every row.
            k: Hits wanted for each, at least 1.

        Returns:
            N lists of hits, best first.

        Raises:
            InvalidInputError: On a wrong shape, width, value or k.
        """
        queries = normalised(checked_vectors(vectors, dimension=self.folder.dimension, name="the queries"))
        scores, ids = self.folder.search(queries, k)
        return [self._hits(*pair) for pair in zip(scores, ids, strict=True)]

    def close(self) -> None:
        """Release the files."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hits(self, scores: Vectors, ids: NDArray[np.int64]) -> list[Hit]:
        cosines = np.clip(scores, -1.0, 1.0)  # rounding can carry a product of unit vectors past 1
        rows = (stored.row for stored in self.folder.store.get(ids))
        return [
            Hit(row.id, float(score), row.text, row.metadata, row.start, row.end)
            for row, score in zip(rows, cosines, strict=True)
        ]


def check_encoder(folder: IndexFolder, encoder: TextEncoder) -> None:
    """Refuse a model that did not make an index; ArtifactError with both names."""
    path, manifest, model = folder.path, folder.manifest, folder.manifest.model
    if model is not None and encoder.fingerprint != model.fingerprint:
        raise ArtifactError(
            f"{path} was made with {model.name} ({model.fingerprint[:12]}), not with {encoder.name} "
            f"({encoder.fingerprint[:12]}): open it with the former, or build it again with the latter"
        )
    if encoder.dimension != manifest.dimension:
        raise ArtifactError(
            f"{path} holds vectors of width {manifest.dimension}, {encoder.name} gives {encoder.dimension}: "
            "open it with the model that made it"
        )
